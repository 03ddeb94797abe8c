"""CPUs that share locks, cache lines and interrupts, on one event queue in cycles.

Every CPU repeats a program of steps; one without a program is idle. The queue holds one coming event for each CPU: the
end of its step or the interrupt that it takes before. The earliest is next, ties by CPU number, so that a run has one
outcome. The rules:

- A lock is held for the cycles between its two steps. Who finds it taken spins, with interrupts as they were; it goes
  to who has spun longest of those that are not in a handler at that moment. Its word is a line that has to come over.
- A line is used by one CPU at a time, for as long as it takes to come from its last user: nothing or little from
  itself, more from another core of the socket or from another socket. A device that all share is such a line.
- ``INTERRUPT`` asks all other CPUs and waits for their answers. A request arrives after the cycles of sending and a
  delay from a list, and is taken when its target next has interrupts on and is at work, spinning, waiting or idle; a
  line that is on its way is waited for first. Handlers run with interrupts off, one request after another.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

NEVER = 1 << 62
NOBODY = -1


class Step(IntEnum):
    """What a CPU does next; the first column of :attr:`EventQueue.steps`."""

    WORK = 0
    """Compute for so many cycles; an interrupt puts the rest off."""
    TOUCH = 1
    """Use a line."""
    LOCK = 2
    """Take a lock, spinning until it is free; lock ``i`` has its word in line ``i``."""
    UNLOCK = 3
    INTERRUPT = 4
    """Send requests to all other CPUs, for so many cycles, and wait for all answers."""
    INTERRUPTS_OFF = 5
    INTERRUPTS_ON = 6
    ANSWER = 7
    """In a handler: tell the CPU that asked."""


class Mode(IntEnum):
    """What a CPU is at, beneath its handler."""

    RUN = 0
    SPIN = 1
    WAIT = 2
    IDLE = 3


class Use(IntEnum):
    """What cycles went into; index into the last axis of :attr:`EventQueue.spent`."""

    WORK = 0
    LINE = 1
    """Using lines, lock words included, outside of handlers."""
    SPIN = 2
    SEND = 3
    WAIT = 4
    """For answers to an interrupt."""
    HANDLER = 5
    IDLE = 6


class Field(IntEnum):
    """Index into the last axis of :attr:`EventQueue.cpus`."""

    MODE = 0
    STEP = 1
    """Of the program."""
    DUE = 2
    """When the step, or the handler's step, ends; ``NEVER`` while it depends on others."""
    REST = 3
    """Cycles of work that an interrupt put off."""
    TICKET = 4
    """Order in which spinning CPUs came."""
    UNANSWERED = 5
    """Answers still to come; -1 before the requests were sent."""
    IS_OFF = 6
    """Interrupts are off."""
    HANDLING = 7
    """CPU whose request is handled, ``NOBODY`` outside of handlers."""
    HANDLER_STEP = 8
    SINCE = 9
    """Up to when cycles were charged."""
    ROUNDS = 10
    """Runs through the program."""
    LAST_ROUND = 11
    """When the last of them ended."""


class Place(IntEnum):
    """Index into :attr:`EventQueue.places`."""

    NOW = 0
    REQUESTS = 1
    """Interrupt requests sent so far."""
    TICKETS = 2
    EVENTS = 3


class EventQueue(NamedTuple):
    """CPUs, what they share, and what comes next.

    Attributes
    ----------
    steps : int64[steps, 2]
        :class:`Step` and its argument: cycles, or number of a lock or line.
    programs : int64[cpus, 2]
        First step of each CPU's program and the one past its last.
    handlers : int64[2, 2]
        The same of the interrupt handler of a busy CPU, and of an idle one.
    sockets : int64[cpus]
    line_cycles : int64[lines, 3]
        For a CPU that was its last user; from another one on the same socket; from another socket or nobody.
    delays : int64[n]
        Cycles that the first, second ... request needs to arrive, taken over and over.
    owners, line_free : int64[lines]
        Last user, and when its use ends.
    holders : int64[locks]
    next : int64[cpus]
        The queue: when each CPU's coming event is.
    requests : int64[cpus, cpus]
        When the request of a CPU (second axis) arrives at another (first axis).
    cpus : int64[cpus, len(Field)]
    spent : int64[cpus, len(Use)]
        Cycles.
    places : int64[len(Place)]
    """

    steps: npt.NDArray[np.int64]
    programs: npt.NDArray[np.int64]
    handlers: npt.NDArray[np.int64]
    sockets: npt.NDArray[np.int64]
    line_cycles: npt.NDArray[np.int64]
    delays: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    line_free: npt.NDArray[np.int64]
    holders: npt.NDArray[np.int64]
    next: npt.NDArray[np.int64]
    requests: npt.NDArray[np.int64]
    cpus: npt.NDArray[np.int64]
    spent: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


Steps = list[tuple[int, int]]


def _check(program: Steps, locks: int, lines: int, is_handler: bool) -> None:
    """Raise ``ValueError`` for a program that would never end in time, or hold a lock from one round to the next."""
    held: list[int] = []
    if program and not any(step == Step.WORK and cycles > 0 for step, cycles in program):
        raise ValueError("a program without a cycle of work would run for ever at one moment")
    for step, argument in program:
        limit = {Step.TOUCH: lines, Step.LOCK: locks, Step.UNLOCK: locks}.get(Step(step), NEVER)
        if not 0 <= argument < limit:
            raise ValueError(f"step {Step(step).name} has no argument {argument}")
        if is_handler and step not in (Step.WORK, Step.TOUCH, Step.ANSWER):
            raise ValueError(f"a handler cannot have the step {Step(step).name}")
        if step == Step.LOCK:
            if argument in held:
                raise ValueError(f"lock {argument} is taken twice")
            held.append(argument)
        elif step == Step.UNLOCK:
            held.remove(argument)
    if held:
        raise ValueError(f"locks {held} are not given back")
    if sum(step == Step.ANSWER for step, _ in program) != is_handler:
        raise ValueError("a handler answers once, a program never")


def new_event_queue(
    programs: list[Steps],
    handlers: tuple[Steps, Steps],
    line_cycles: npt.ArrayLike,
    locks: int = 0,
    sockets: npt.ArrayLike | None = None,
    delays: npt.ArrayLike = (0,),
) -> EventQueue:
    """Return CPUs at the beginning of their programs, at time 0.

    Parameters
    ----------
    programs : list of lists of (Step, argument)
        One for each CPU; an empty one leaves it idle.
    handlers : tuple of two such lists
        Interrupt handler of a busy CPU, and of an idle one.
    line_cycles : int64[lines, 3]
        As in :class:`EventQueue`.
    locks : int
        Locks; the first lines are their words.
    sockets : int64[cpus], optional
        Socket of each CPU; without it they are all on one.
    delays : int64[n]
        As in :class:`EventQueue`.

    Raises
    ------
    ValueError
        If a program has no work, a step no such argument, or a lock is not given back; and the like.
    """
    count = len(programs)
    costs = np.ascontiguousarray(line_cycles, np.int64).reshape(-1, 3)
    waits = np.ascontiguousarray(delays, np.int64)
    if locks > len(costs) or (costs < 0).any() or not len(waits) or (waits < 0).any():
        raise ValueError("each lock needs a line, and cycles are 0 or more")
    steps: Steps = []
    spans = []
    for number, program in enumerate([*programs, *handlers]):
        _check(program, locks, len(costs), number >= count)
        spans.append((len(steps), len(steps) + len(program)))
        steps += program
    queue = EventQueue(
        steps=np.array(steps, np.int64).reshape(-1, 2),
        programs=np.array(spans[:count], np.int64).reshape(-1, 2),
        handlers=np.array(spans[count:], np.int64),
        sockets=np.zeros(count, np.int64) if sockets is None else np.ascontiguousarray(sockets, np.int64),
        line_cycles=costs,
        delays=waits,
        owners=np.full(len(costs), NOBODY, np.int64),
        line_free=np.zeros(len(costs), np.int64),
        holders=np.full(locks, NOBODY, np.int64),
        next=np.full(count, NEVER, np.int64),
        requests=np.full((count, count), NEVER, np.int64),
        cpus=np.zeros((count, len(Field)), np.int64),
        spent=np.zeros((count, len(Use)), np.int64),
        places=np.zeros(len(Place), np.int64),
    )
    queue.cpus[:, Field.HANDLING] = NOBODY
    queue.cpus[:, Field.UNANSWERED] = -1
    _begin_all(queue)
    return queue


@kernel(inline=True)
def _refresh(queue: EventQueue, cpu: int) -> None:
    """Find a CPU's coming event anew."""
    own = queue.cpus[cpu]
    soonest = own[Field.DUE]
    if own[Field.HANDLING] == NOBODY and own[Field.IS_OFF] == 0:
        at_work = own[Field.MODE] != Mode.RUN or queue.steps[own[Field.STEP], 0] == Step.WORK
        if at_work:
            arrival = np.int64(NEVER)
            for sender in range(len(queue.next)):
                arrival = min(arrival, queue.requests[cpu, sender])
            if arrival < NEVER:
                soonest = min(soonest, max(arrival, queue.places[Place.NOW]))
    queue.next[cpu] = soonest


@kernel(inline=True)
def _charge(queue: EventQueue, cpu: int) -> None:
    """Charge a CPU's cycles since the last time to what it was at."""
    own = queue.cpus[cpu]
    now = queue.places[Place.NOW]
    use = np.int64(Use.WORK)
    if own[Field.HANDLING] != NOBODY:
        use = np.int64(Use.HANDLER)
    elif own[Field.MODE] == Mode.SPIN:
        use = np.int64(Use.SPIN)
    elif own[Field.MODE] == Mode.WAIT:
        use = np.int64(Use.WAIT)
    elif own[Field.MODE] == Mode.IDLE:
        use = np.int64(Use.IDLE)
    else:
        step = queue.steps[own[Field.STEP], 0]
        if step == Step.TOUCH or step == Step.LOCK:
            use = np.int64(Use.LINE)
        elif step == Step.INTERRUPT:
            use = np.int64(Use.SEND)
    queue.spent[cpu, use] += now - own[Field.SINCE]
    own[Field.SINCE] = now


@kernel(inline=True)
def _use_line(queue: EventQueue, cpu: int, line: int) -> int:
    """Let a CPU use a line as soon as it is free; return when the use ends."""
    owner = queue.owners[line]
    distance = 2
    if owner == cpu:
        distance = 0
    elif owner != NOBODY and queue.sockets[owner] == queue.sockets[cpu]:
        distance = 1
    end = max(queue.places[Place.NOW], queue.line_free[line]) + queue.line_cycles[line, distance]
    queue.line_free[line] = end
    queue.owners[line] = cpu
    return end


@kernel(inline=True)
def _take_lock(queue: EventQueue, cpu: int, lock: int) -> None:
    queue.holders[lock] = cpu
    queue.cpus[cpu, Field.MODE] = Mode.RUN
    queue.cpus[cpu, Field.DUE] = _use_line(queue, cpu, lock)


@kernel(inline=True)
def _hand_over(queue: EventQueue, lock: int) -> None:
    """Free a lock, and give it to who has spun longest of those that look at it now."""
    queue.holders[lock] = NOBODY
    chosen = np.int64(NOBODY)
    for cpu in range(len(queue.next)):
        own = queue.cpus[cpu]
        if own[Field.MODE] != Mode.SPIN or own[Field.HANDLING] != NOBODY or queue.steps[own[Field.STEP], 1] != lock:
            continue
        if chosen == NOBODY or own[Field.TICKET] < queue.cpus[chosen, Field.TICKET]:
            chosen = np.int64(cpu)
    if chosen != NOBODY:
        _charge(queue, chosen)
        _take_lock(queue, chosen, lock)
        _refresh(queue, chosen)


@kernel
def _begin_step(queue: EventQueue, cpu: int) -> None:
    """Begin a CPU's step of its program."""
    own = queue.cpus[cpu]
    now = queue.places[Place.NOW]
    step = queue.steps[own[Field.STEP], 0]
    argument = queue.steps[own[Field.STEP], 1]
    own[Field.MODE] = Mode.RUN
    own[Field.DUE] = now
    if step == Step.WORK:
        own[Field.DUE] = now + argument
    elif step == Step.TOUCH:
        own[Field.DUE] = _use_line(queue, cpu, argument)
    elif step == Step.LOCK:
        if queue.holders[argument] == NOBODY:
            _take_lock(queue, cpu, argument)
        else:
            own[Field.MODE] = Mode.SPIN
            own[Field.DUE] = NEVER
            own[Field.TICKET] = queue.places[Place.TICKETS]
            queue.places[Place.TICKETS] += 1
    elif step == Step.UNLOCK:
        _hand_over(queue, argument)
    elif step == Step.INTERRUPT:
        own[Field.UNANSWERED] = 0
        if len(queue.next) > 1:
            own[Field.UNANSWERED] = -1
            own[Field.DUE] = now + argument
    else:
        own[Field.IS_OFF] = step == Step.INTERRUPTS_OFF


@kernel
def _begin_all(queue: EventQueue) -> None:
    for cpu in range(len(queue.next)):
        queue.cpus[cpu, Field.STEP] = queue.programs[cpu, 0]
        if queue.programs[cpu, 0] == queue.programs[cpu, 1]:
            queue.cpus[cpu, Field.MODE] = Mode.IDLE
            queue.cpus[cpu, Field.DUE] = NEVER
        else:
            _begin_step(queue, cpu)
        _refresh(queue, cpu)


@kernel(inline=True)
def _send(queue: EventQueue, cpu: int) -> None:
    """Send a CPU's requests to all others, and let it wait."""
    own = queue.cpus[cpu]
    own[Field.MODE] = Mode.WAIT
    own[Field.DUE] = NEVER
    own[Field.UNANSWERED] = len(queue.next) - 1
    for target in range(len(queue.next)):
        if target != cpu:
            sent = queue.places[Place.REQUESTS]
            queue.places[Place.REQUESTS] += 1
            delay = queue.delays[unsigned(sent % len(queue.delays))]
            queue.requests[target, cpu] = queue.places[Place.NOW] + delay
            _refresh(queue, target)


@kernel(inline=True)
def _end_step(queue: EventQueue, cpu: int) -> None:
    """Go on in a CPU's program."""
    own = queue.cpus[cpu]
    if queue.steps[own[Field.STEP], 0] == Step.INTERRUPT and own[Field.UNANSWERED] < 0:
        _send(queue, cpu)
        return
    own[Field.UNANSWERED] = -1
    own[Field.STEP] += 1
    if own[Field.STEP] == queue.programs[cpu, 1]:
        own[Field.STEP] = queue.programs[cpu, 0]
        own[Field.ROUNDS] += 1
        own[Field.LAST_ROUND] = queue.places[Place.NOW]
    _begin_step(queue, cpu)


@kernel(inline=True)
def _answer(queue: EventQueue, sender: int) -> None:
    """Take one answer; with the last, the CPU that asked goes on, unless it is in a handler itself."""
    asked = queue.cpus[sender]
    asked[Field.UNANSWERED] -= 1
    if asked[Field.UNANSWERED] == 0 and asked[Field.HANDLING] == NOBODY:
        _charge(queue, sender)
        asked[Field.MODE] = Mode.RUN
        asked[Field.DUE] = queue.places[Place.NOW]
        _refresh(queue, sender)


@kernel(inline=True)
def _begin_handler_step(queue: EventQueue, cpu: int) -> None:
    own = queue.cpus[cpu]
    step = queue.steps[own[Field.HANDLER_STEP], 0]
    argument = queue.steps[own[Field.HANDLER_STEP], 1]
    own[Field.DUE] = queue.places[Place.NOW]
    if step == Step.WORK:
        own[Field.DUE] += argument
    elif step == Step.TOUCH:
        own[Field.DUE] = _use_line(queue, cpu, argument)
    else:
        _answer(queue, own[Field.HANDLING])


@kernel(inline=True)
def _enter_handler(queue: EventQueue, cpu: int) -> None:
    """Take the request that arrived first."""
    own = queue.cpus[cpu]
    first = 0
    for sender in range(1, len(queue.next)):
        if queue.requests[cpu, sender] < queue.requests[cpu, first]:
            first = sender
    queue.requests[cpu, first] = NEVER
    own[Field.REST] = own[Field.DUE] - queue.places[Place.NOW]
    own[Field.HANDLING] = first
    own[Field.HANDLER_STEP] = queue.handlers[np.int64(own[Field.MODE] == Mode.IDLE), 0]
    _begin_handler_step(queue, cpu)


@kernel(inline=True)
def _end_handler_step(queue: EventQueue, cpu: int) -> None:
    """Go on in a handler, or return from it to what it interrupted."""
    own = queue.cpus[cpu]
    own[Field.HANDLER_STEP] += 1
    if own[Field.HANDLER_STEP] < queue.handlers[np.int64(own[Field.MODE] == Mode.IDLE), 1]:
        _begin_handler_step(queue, cpu)
        return
    own[Field.HANDLING] = NOBODY
    own[Field.DUE] = NEVER
    if own[Field.MODE] == Mode.RUN:
        own[Field.DUE] = queue.places[Place.NOW] + own[Field.REST]
    elif own[Field.MODE] == Mode.SPIN:
        lock = queue.steps[own[Field.STEP], 1]
        if queue.holders[lock] == NOBODY:
            _take_lock(queue, cpu, lock)
    elif own[Field.MODE] == Mode.WAIT and own[Field.UNANSWERED] == 0:
        own[Field.MODE] = Mode.RUN
        own[Field.DUE] = queue.places[Place.NOW]


@kernel
def run(queue: EventQueue, until: int) -> None:
    """Let all CPUs run up to a moment, the events at that moment included.

    Parameters
    ----------
    queue : EventQueue
        Mutated. It goes on from where it stands; ``places[NOW]`` is ``until`` afterwards, and cycles are charged up to
        then. If no event is left (all wait for each other), time passes all the same.
    until : int
        Cycles, not before now.
    """
    while True:
        cpu = 0
        for other in range(1, len(queue.next)):
            if queue.next[unsigned(other)] < queue.next[unsigned(cpu)]:
                cpu = other
        if queue.next[cpu] > until:
            break
        queue.places[Place.NOW] = queue.next[cpu]
        queue.places[Place.EVENTS] += 1
        _charge(queue, cpu)
        own = queue.cpus[cpu]
        if own[Field.HANDLING] != NOBODY:
            _end_handler_step(queue, cpu)
        elif own[Field.DUE] == queue.places[Place.NOW]:
            # A step that ends just as a request arrives ends first.
            _end_step(queue, cpu)
        else:
            _enter_handler(queue, cpu)
        _refresh(queue, cpu)
    queue.places[Place.NOW] = until
    for cpu in range(len(queue.next)):
        _charge(queue, cpu)
