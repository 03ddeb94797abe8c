"""What mapping and unmapping four pages cost in 2008, before and after vmap was rewritten, on an event queue.

Nick Piggin's loop on two quad-core Opterons: 1 to 8 threads map four pages, touch them and unmap them, nanoseconds for
each round of a thread. Before (``eager``): a list of areas under one lock, and each unmap makes every CPU flush, with
the lock held (``mm/vmalloc.c`` of 2.6.24 to 2.6.27: ``remove_vm_area`` calls ``unmap_vm_area`` under ``vmlist_lock``).
After (``blocks``, 2.6.28): blocks of 4 MiB of addresses for each CPU, and one flush for 128 MiB of them.

Two numbers are fitted, on the eager rounds of 1 and of 8 threads: the work of mapping, touching and unmapping itself,
which both have, and what a flush of all entries costs a CPU, with the misses that follow. The rest comes from a
multiprocessor preset; its estimates were made with the table in view, so :func:`effects` shows how far each carries the
predictions. What makes the eager column what it is:

- All sections and flushes are under one lock, so more threads do not get more done.
- With one thread the other CPUs are halted. Each wakes up, and catches up with the time, by a read of the platform's
  timer that serves one CPU after another (``irq_enter`` of a kernel without ticks). More threads, fewer of those.
- From two threads on, lock, list, entries and the request itself have to come from another CPU each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from vckernels import eventqueue
from vckernels.eventqueue import EventQueue, Field, Place, Step, Steps
from vclab.presets import MultiprocessorPreset, Ranged, multiprocessor

#: Nanoseconds a round by number of threads. Nick Piggin, vmap rewrite (commit db64fe02258f), as quoted on linux-mm.
MEASURED = {
    "eager": {1: 14_700.0, 2: 33_600.0, 4: 49_500.0, 8: 70_631.0},
    "blocks": {1: 2_900.0, 2: 3_000.0, 4: 2_800.0, 8: 2_900.0},
}
#: Cells that the two free numbers are fitted on.
FITTED = (("eager", 1), ("eager", 8))
PAGES = 4
#: 2.6.28, mm/vmalloc.c: VMAP_BBMAP_BITS with up to 2048 CPUs, and lazy_max_pages for each bit of the number of CPUs.
BLOCK_PAGES = 1024
LAZY_PAGES = (32 << 20) >> 12
#: A lock that another CPU spins on changes hands in three ways of its line: the release has to take it from the CPU
#: that looks at it, that one has to read it, and then to take it. A line that is read and then written takes two.
LOCK_WAYS, DATA_WAYS = 1.5, 1.0
#: The descriptor of a request is written without a look before.
REQUEST_WAYS = 0.5

_LOCK, _AREA, _NEIGHBOUR, _ENTRIES, _REQUEST, _TIMER = range(6)
_LINE_WAYS = (LOCK_WAYS, DATA_WAYS, DATA_WAYS, DATA_WAYS, REQUEST_WAYS)


@dataclass(frozen=True)
class Free:
    """The two numbers that are fitted, in nanoseconds."""

    work: float
    """Map, touch and unmap four pages, beside what the regimes do differently."""
    flush: float
    """Empty a CPU's TLB, and the misses that follow."""


class Prices(NamedTuple):
    """Everything that a run needs, in nanoseconds but for the clock."""

    machine: MultiprocessorPreset
    values: Mapping[str, float]
    """Ranged numbers of the preset by path."""

    def cycles(self, nanoseconds: float) -> int:
        """Return whole cycles."""
        return round(nanoseconds * self.values["gigahertz"])


def prices(machine: MultiprocessorPreset, **changes: float) -> Prices:
    """Return a preset's numbers, some of them changed."""
    return Prices(machine, {path: number.value for path, number in _ranged(machine)} | changes)


def _ranged(machine: MultiprocessorPreset) -> Iterator[tuple[str, Ranged]]:
    """Yield path and number of everything that has a range."""
    yield "gigahertz", machine.gigahertz
    for part in (machine.line, machine.interrupt, machine.vmap):
        for field in type(part).model_fields if part is not None else ():
            number = getattr(part, field)
            if number is not None:
                yield field.removesuffix("_ns"), number


def _handlers(price: Prices, free: Free) -> tuple[Steps, Steps]:
    """Return what a busy and an idle CPU do when asked to flush.

    2.6.27, ``generic_smp_call_function_interrupt``: the request is read, and each CPU takes itself off it at the end.
    """
    values, cycles = price.values, price.cycles
    taken = (Step.TOUCH, _REQUEST)
    flush: Steps = [taken, (Step.WORK, cycles(free.flush)), taken, (Step.ANSWER, 0)]
    leave: Steps = [(Step.WORK, cycles(values["exit"]))]
    busy: Steps = [(Step.WORK, cycles(values["entry"])), *flush, *leave]
    wake: Steps = [(Step.WORK, cycles(values["entry"] + values["wake"])), (Step.TOUCH, _TIMER)]
    # On its way back to sleep the tick is stopped again, at a time that has to be read.
    return busy, [*wake, *flush, (Step.TOUCH, _TIMER), *leave]


def _flush_all(price: Prices, free: Free) -> Steps:
    """Return what the CPU does that makes all flush: itself after the others (``on_each_cpu``)."""
    request: Steps = [
        (Step.TOUCH, _REQUEST),
        (Step.INTERRUPT, price.cycles(price.values["send"])),
        (Step.TOUCH, _REQUEST),
    ]
    return [*request, (Step.WORK, price.cycles(free.flush))]


def _eager(price: Prices, free: Free) -> Steps:
    values, cycles = price.values, price.cycles
    unmap = free.work * values["unmap_share"]
    areas: Steps = [(Step.TOUCH, _AREA), (Step.TOUCH, _NEIGHBOUR), (Step.WORK, cycles(values["list"]))]
    return [
        (Step.LOCK, _LOCK),
        *areas,
        (Step.UNLOCK, _LOCK),
        (Step.TOUCH, _ENTRIES),
        (Step.WORK, cycles(free.work - unmap)),
        (Step.LOCK, _LOCK),
        *areas,
        (Step.TOUCH, _ENTRIES),
        (Step.WORK, cycles(unmap)),
        *_flush_all(price, free),
        (Step.UNLOCK, _LOCK),
    ]


def _blocks(price: Prices, free: Free) -> Steps:
    """Return a thread's rounds from one purge that it makes to the next one.

    Places of a block are searched from its beginning and never given out twice (``bitmap_find_free_region``), so the
    n-th allocation looks at n of them. Freed blocks wait, of all threads together, for one flush; each thread makes its
    share of those, so there are as many blocks of its own from one to the next.
    """
    values, cycles = price.values, price.cycles
    program: Steps = []
    for _ in range(LAZY_PAGES * price.machine.cpus.bit_length() // BLOCK_PAGES):
        area: Steps = [(Step.TOUCH, _AREA), (Step.TOUCH, _NEIGHBOUR), (Step.WORK, cycles(values["new_block"]))]
        program += [(Step.LOCK, _LOCK), *area, (Step.UNLOCK, _LOCK)]
        for place in range(BLOCK_PAGES // PAGES):
            search = values["bitmap_position"] * (place + 1)
            program.append((Step.WORK, cycles(free.work + values["block"] + search)))
    return [*program, *_flush_all(price, free)]


def simulate(regime: str, threads: int, free: Free, price: Prices, rounds: int = 100) -> float:
    """Return nanoseconds for a round of each thread.

    Parameters
    ----------
    regime : str
        "eager" or "blocks".
    threads : int
        Spread over the sockets in turn, as Linux places them.
    free : Free
    price : Prices
    rounds : int
        Rounds of a thread, after a tenth as many to begin with; with blocks, from one purge to the next instead.
    """
    machine = price.machine
    cpus = machine.cpus
    values = price.values
    program = _eager(price, free) if regime == "eager" else _blocks(price, free)
    each = 1 if regime == "eager" else sum(step == Step.LOCK for step, _ in program) * BLOCK_PAGES // PAGES
    programs: list[Steps] = [[] for _ in range(cpus)]
    for thread in range(threads):
        socket, core = thread % machine.sockets.value, thread // machine.sockets.value
        programs[socket * machine.cores.value + core] = program
    lines = [(0, price.cycles(ways * values["near"]), price.cycles(ways * values["far"])) for ways in _LINE_WAYS]
    lines.append((price.cycles(values["timer"]),) * 3)
    queue = eventqueue.new_event_queue(
        programs,
        _handlers(price, free),
        lines,
        locks=1,
        sockets=np.arange(cpus) // machine.cores.value,
        delays=[price.cycles(values["delay"])],
    )
    wanted = rounds if regime == "eager" else 1
    _run_rounds(queue, threads, rounds // 10 if regime == "eager" else 0)
    first, start = queue.cpus[:, Field.ROUNDS].copy(), queue.cpus[:, Field.LAST_ROUND].copy()
    _run_rounds(queue, threads, wanted)
    done = queue.cpus[:, Field.ROUNDS] - first
    took = queue.cpus[:, Field.LAST_ROUND] - start
    # A thread that others kept from the lock all the time has done nothing, in no time.
    rate = float((done / np.maximum(took, 1)).sum()) * each
    return threads / rate / values["gigahertz"]


def _run_rounds(queue: EventQueue, threads: int, rounds: int) -> None:
    """Run until the threads have done so many rounds more each, in the mean."""
    goal = queue.cpus[:, Field.ROUNDS].sum() + rounds * threads
    step = int(queue.steps[queue.steps[:, 0] == Step.WORK, 1].sum()) * threads
    while queue.cpus[:, Field.ROUNDS].sum() < goal:
        eventqueue.run(queue, int(queue.places[Place.NOW]) + step)


def fit(price: Prices) -> Free:
    """Return the two free numbers with which the eager rounds of 1 and 8 threads take what was measured."""
    unit = 2_000.0

    def misfit(numbers: npt.NDArray[np.float64]) -> list[float]:
        free = Free(*(unit * numbers).tolist())
        return [simulate(*cell, free, price) / MEASURED[cell[0]][cell[1]] - 1 for cell in FITTED]

    found = least_squares(misfit, np.ones(2), bounds=(0.02, 10), diff_step=0.02, xtol=1e-4, ftol=1e-8, gtol=1e-10)
    return Free(*(unit * found.x).tolist())


class Cell(NamedTuple):
    """One measured number and the model's."""

    regime: str
    threads: int
    measured: float
    model: float
    is_fitted: bool

    @property
    def error(self) -> float:
        """Relative error of the model."""
        return self.model / self.measured - 1


def cells(free: Free, price: Prices) -> list[Cell]:
    """Return every number of the table, measured and modelled, in nanoseconds."""
    return [
        Cell(regime, threads, measured, simulate(regime, threads, free, price), (regime, threads) in FITTED)
        for regime, column in MEASURED.items()
        for threads, measured in column.items()
    ]


@cache
def published(name: str = "opteron-2008") -> tuple[Free, tuple[Cell, ...]]:
    """Return the fitted numbers and the table for a preset as it is."""
    price = prices(multiprocessor(name))
    free = fit(price)
    return free, tuple(cells(free, price))


class Effect(NamedTuple):
    """What one end of an unfitted number's range does to the predictions, the fit being made anew."""

    path: str
    end: str
    value: float
    free: Free
    misfit: float
    """Largest relative error of a cell that was fitted: not 0 where no fit exists."""
    worst: float
    """Largest relative error of a predicted cell, with its sign."""


def effects(machine: MultiprocessorPreset) -> list[Effect]:
    """Return the effect of both ends of every range."""
    found = []
    for path, number in _ranged(machine):
        for end, value in (("low", number.low), ("high", number.high)):
            price = prices(machine, **{path: value})
            free = fit(price)
            table = cells(free, price)
            misfit = max(abs(cell.error) for cell in table if cell.is_fitted)
            worst = max((cell.error for cell in table if not cell.is_fitted), key=abs)
            found.append(Effect(path, end, value, free, misfit, worst))
    return found
