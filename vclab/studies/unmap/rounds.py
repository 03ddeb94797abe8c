"""One flush of all CPUs, and many CPUs that free at once, on the event queue."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vckernels import eventqueue
from vckernels.eventqueue import EventQueue, Field, Place, Step, Steps, Use
from vclab.presets import LinuxPreset, MultiprocessorPreset

_LOCK, _AREA, _NEIGHBOUR = range(3)
#: A lock changes hands in three ways of its line, a line that is read and then written in two: see vclab.vmapcost.
_LINE_WAYS = (1.5, 1.0, 1.0)
#: Frees of each CPU that are simulated, or purges where there are some.
ROUNDS = 20


class Flush(NamedTuple):
    """Cycles of one flush of everything on all CPUs; a round of interrupts, or a broadcast."""

    local: float
    """By the CPU that flushes, for itself or for all."""
    waiting: float
    """By that CPU, for the others: sending and waiting."""
    others: float
    """By all other CPUs together: their handlers."""


class Costs(NamedTuple):
    """What a flush needs, in cycles."""

    machine: MultiprocessorPreset
    flush: float
    """Of everything, by one CPU."""
    broadcast: float
    """One INVLPGB and the wait for it."""

    @classmethod
    def of(cls, machine: MultiprocessorPreset, linux: LinuxPreset, bound: str = "value") -> Costs:
        """Return the costs by the presets, at one end of the Linux preset's ranges if asked."""

        def price(name: str) -> float:
            return float(getattr(getattr(linux.costs, name), bound))

        cycles = machine.gigahertz.value
        return cls(machine, price("flush_full_cycles"), cycles * (price("broadcast_ns") + price("broadcast_wait_ns")))

    def cycles(self, nanoseconds: float) -> int:
        """Return whole cycles."""
        return round(nanoseconds * self.machine.gigahertz.value)


def _queue(costs: Costs, programs: list[Steps]) -> EventQueue:
    """Return CPUs with their programs, half of them on each socket, where there are several."""
    machine = costs.machine
    interrupt = machine.interrupt
    handler: Steps = [
        (Step.WORK, costs.cycles(interrupt.entry_ns.value)),
        (Step.WORK, round(costs.flush)),
        (Step.ANSWER, 0),
        (Step.WORK, costs.cycles(interrupt.exit_ns.value)),
    ]
    near, far = machine.line.near_ns.value, machine.line.far_ns.value
    return eventqueue.new_event_queue(
        programs,
        (handler, handler),
        [(0, costs.cycles(ways * near), costs.cycles(ways * far)) for ways in _LINE_WAYS],
        locks=1,
        sockets=np.arange(len(programs)) * machine.sockets.value // max(len(programs), machine.sockets.value),
        delays=[costs.cycles(interrupt.delay_ns.value)],
    )


def _flush_steps(costs: Costs, cpus: int, mechanism: str) -> Steps:
    """Return what the CPU does that makes all of them flush everything."""
    if mechanism == "invlpgb":
        return [(Step.WORK, round(costs.broadcast))]
    interrupt = costs.machine.interrupt
    each = 0.0 if interrupt.target_ns is None else interrupt.target_ns.value
    send = costs.cycles(interrupt.send_ns.value + each * (cpus - 1))
    return [(Step.INTERRUPT, send), (Step.WORK, round(costs.flush))]


def one_flush(costs: Costs, cpus: int, mechanism: str) -> Flush:
    """Return the cycles of a flush of everything on so many CPUs, the others at work of their own."""
    if mechanism == "invlpgb":
        return Flush(costs.broadcast, 0.0, 0.0)
    apart = 100_000
    program: Steps = [(Step.WORK, apart), *_flush_steps(costs, cpus, mechanism)]
    queue = _queue(costs, [program] + [[(Step.WORK, apart)] for _ in range(cpus - 1)])
    while queue.cpus[0, Field.ROUNDS] < ROUNDS:
        eventqueue.run(queue, int(queue.places[Place.NOW]) + apart)
    # Requests that were answered all: up to the end of the last whole round.
    rounds = int(queue.cpus[0, Field.ROUNDS])
    waiting = float(queue.spent[0, Use.SEND] + queue.spent[0, Use.WAIT]) / rounds
    return Flush(costs.flush, waiting, float(queue.spent[1:, Use.HANDLER].sum()) / rounds)


def all_free(costs: Costs, cpus: int, mechanism: str, work: float, locked: float, frees: float) -> float:
    """Return the cycles from one free of a CPU to its next where all CPUs free all the time.

    Parameters
    ----------
    costs : Costs
    cpus : int
    mechanism : str
        "ipi" or "invlpgb".
    work, locked : float
        Cycles of a free outside of the lock over the areas, and under it; the flush beside them.
    frees : float
        Frees of the CPU for each of its flushes. 1 or less: each free flushes, with the lock held, as 2.6.24 does.
    """
    area: Steps = [(Step.LOCK, _LOCK), (Step.TOUCH, _AREA), (Step.TOUCH, _NEIGHBOUR)]
    flush = _flush_steps(costs, cpus, mechanism)
    if frees <= 1:
        program: Steps = [(Step.WORK, max(1, round(work))), *area, (Step.WORK, round(locked)), *flush]
        program.append((Step.UNLOCK, _LOCK))
        done = 1.0
    else:
        # Nodes of their own keep the CPUs apart; purges are made under one lock.
        program = [(Step.WORK, round((work + locked) * frees)), *area, *flush, (Step.UNLOCK, _LOCK)]
        done = frees
    queue = _queue(costs, [list(program) for _ in range(cpus)])
    step = sum(argument for what, argument in program if what in (Step.WORK, Step.INTERRUPT)) * cpus
    while queue.cpus[:, Field.ROUNDS].sum() < ROUNDS * cpus:
        eventqueue.run(queue, int(queue.places[Place.NOW]) + step)
    rate = float((queue.cpus[:, Field.ROUNDS] / np.maximum(queue.cpus[:, Field.LAST_ROUND], 1)).sum())
    return cpus / rate / done
