"""The event queue beside the plain one, and what can be said by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.eventqueue import PlainQueue
from vckernels import eventqueue as kernels
from vckernels.eventqueue import EventQueue, Field, Place, Step, Steps, Use

USES = {"work": Use.WORK, "line": Use.LINE, "spin": Use.SPIN, "send": Use.SEND, "wait": Use.WAIT}
USES |= {"handler": Use.HANDLER, "idle": Use.IDLE}
LINES, LOCKS = 4, 2
QUIET: tuple[Steps, Steps] = ([(Step.WORK, 1), (Step.ANSWER, 0)], [(Step.WORK, 1), (Step.ANSWER, 0)])
FREE = [(0, 0, 0)] * LINES


def named(program: Steps) -> list[tuple[str, int]]:
    """Return a program as the plain queue reads it."""
    return [(Step(step).name, argument) for step, argument in program]


def rounds(queue: EventQueue) -> list[int]:
    """Return how often each CPU has run through its program."""
    return queue.cpus[:, Field.ROUNDS].tolist()


cycles = st.integers(0, 30)
simple = st.one_of(
    st.tuples(st.just(Step.WORK), cycles),
    st.tuples(st.just(Step.TOUCH), st.integers(0, LINES - 1)),
)


@st.composite
def sections(draw: st.DrawFn) -> Steps:
    """Steps, perhaps under a lock, a second one inside it, or with interrupts off; requests only where they are on."""
    inner = draw(st.lists(simple, max_size=3))
    kind = draw(st.sampled_from(["plain", "lock", "both", "off", "request", "request in a lock"]))
    lock = draw(st.integers(0, LOCKS - 1))
    request = (Step.INTERRUPT, draw(cycles))
    if kind == "lock":
        return [(Step.LOCK, lock), *inner, (Step.UNLOCK, lock)]
    if kind == "both":
        return [(Step.LOCK, 0), *inner, (Step.LOCK, 1), *inner, (Step.UNLOCK, 1), (Step.UNLOCK, 0)]
    if kind == "off":
        return [(Step.INTERRUPTS_OFF, 0), *inner, (Step.INTERRUPTS_ON, 0)]
    if kind == "request":
        return [*inner, request]
    if kind == "request in a lock":
        return [(Step.LOCK, lock), *inner, request, (Step.UNLOCK, lock)]
    return inner


programs = st.lists(sections(), max_size=4).map(
    lambda parts: [step for part in parts for step in part] + [(Step.WORK, 1 + len(parts))] if parts else []
)
handlers = st.tuples(st.lists(simple, max_size=2), st.lists(simple, max_size=2)).map(
    lambda ends: [(Step.WORK, 1), *ends[0], (Step.ANSWER, 0), *ends[1]]
)
costs = st.tuples(cycles, cycles, cycles)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(programs, min_size=1, max_size=5),
    st.tuples(handlers, handlers),
    st.lists(costs, min_size=LINES, max_size=LINES),
    st.lists(st.integers(0, 1), min_size=5, max_size=5),
    st.lists(cycles, min_size=1, max_size=5),
    st.lists(st.integers(0, 700), min_size=1, max_size=3),
)
def test_equals_the_plain_queue(
    work: list[Steps],
    answers: tuple[Steps, Steps],
    lines: list[tuple[int, int, int]],
    sockets: list[int],
    delays: list[int],
    stretches: list[int],
) -> None:
    sockets = sockets[: len(work)]
    queue = kernels.new_event_queue(work, answers, lines, LOCKS, sockets, delays)
    busy, idle = answers
    plain = PlainQueue([named(program) for program in work], (named(busy), named(idle)), lines, sockets, delays)
    now = 0
    for stretch in stretches:
        now += stretch
        kernels.run(queue, now)
        plain.run(now)
        assert queue.places[Place.NOW] == plain.now
        assert queue.places[Place.REQUESTS] == plain.sent
        assert rounds(queue) == [cpu.rounds for cpu in plain.cpus]
        assert queue.cpus[:, Field.LAST_ROUND].tolist() == [cpu.last_round for cpu in plain.cpus]
        for cpu, spent in zip(plain.cpus, queue.spent, strict=True):
            assert {name: int(spent[use]) for name, use in USES.items()} == {name: cpu.spent[name] for name in USES}
        assert queue.spent.sum(axis=1).tolist() == [now] * len(work)


def test_work_alone_is_repeated() -> None:
    queue = kernels.new_event_queue([[(Step.WORK, 10)], [(Step.WORK, 7)], []], QUIET, FREE)
    kernels.run(queue, 70)
    assert rounds(queue) == [7, 10, 0]
    assert queue.spent[:, Use.IDLE].tolist() == [0, 0, 70]


def test_a_lock_lets_one_in_at_a_time() -> None:
    program = [(Step.WORK, 1), (Step.LOCK, 0), (Step.WORK, 10), (Step.UNLOCK, 0)]
    queue = kernels.new_event_queue([program] * 4, QUIET, FREE, locks=1)
    kernels.run(queue, 4001)
    assert rounds(queue) == [100] * 4
    assert queue.spent[:, Use.SPIN].min() > 2000
    crossing = kernels.new_event_queue([program] * 2, QUIET, [(0, 3, 5)], locks=1, sockets=[0, 1])
    kernels.run(crossing, 1 + 15 * 100)
    assert sum(rounds(crossing)) == 100


def test_a_line_comes_from_its_last_user() -> None:
    program = [(Step.WORK, 100), (Step.TOUCH, 0)]
    for sockets, expected in (([0, 0], 103), ([0, 1], 105)):
        queue = kernels.new_event_queue([program] * 2, QUIET, [(1, 3, 5)], sockets=sockets)
        kernels.run(queue, expected * 50 + 10)
        assert rounds(queue) == [50, 50]
    alone = kernels.new_event_queue([program], QUIET, [(1, 3, 5)])
    kernels.run(alone, 105 + 9 * 101)
    assert rounds(alone) == [10]


def test_all_answers_are_waited_for() -> None:
    handler: Steps = [(Step.WORK, 20), (Step.ANSWER, 0), (Step.WORK, 4)]
    slow: Steps = [(Step.WORK, 50), (Step.TOUCH, 0), (Step.ANSWER, 0)]
    asks: Steps = [(Step.WORK, 100), (Step.INTERRUPT, 10)]
    one = kernels.new_event_queue([asks, [(Step.WORK, 10)]], (handler, slow), [(0, 0, 7)], delays=[3])
    kernels.run(one, 133 * 10)
    assert rounds(one)[0] == 10
    assert one.spent[1, Use.HANDLER] == 9 * 24 + 20
    # Idle CPUs answer one after another where they all need one device.
    many = kernels.new_event_queue([asks, [], [], []], (handler, slow), [(7, 7, 7)], delays=[3])
    kernels.run(many, (110 + 3 + 50 + 3 * 7) * 10)
    assert rounds(many)[0] == 10
    alone = kernels.new_event_queue([asks], (handler, slow), FREE)
    kernels.run(alone, 1000)
    assert rounds(alone) == [10]


def test_who_has_interrupts_off_answers_later() -> None:
    handler: Steps = [(Step.WORK, 1), (Step.ANSWER, 0)]
    asks: Steps = [(Step.WORK, 10), (Step.INTERRUPT, 0)]
    deaf: Steps = [(Step.INTERRUPTS_OFF, 0), (Step.WORK, 99), (Step.INTERRUPTS_ON, 0), (Step.WORK, 1)]
    queue = kernels.new_event_queue([asks, deaf], (handler, handler), FREE)
    kernels.run(queue, 1000)
    # Each round of interrupts waits for the one cycle of the other's hundred in which it listens.
    assert abs(rounds(queue)[0] - 10) <= 1
    assert queue.spent[0, Use.WAIT] > 800


def test_a_deadlock_ends_in_time() -> None:
    first: Steps = [(Step.WORK, 1), (Step.LOCK, 0), (Step.WORK, 5), (Step.INTERRUPT, 0), (Step.UNLOCK, 0)]
    deaf: Steps = [(Step.WORK, 2), (Step.INTERRUPTS_OFF, 0), (Step.LOCK, 0), (Step.UNLOCK, 0), (Step.INTERRUPTS_ON, 0)]
    queue = kernels.new_event_queue([first, deaf], QUIET, FREE, locks=1)
    kernels.run(queue, 10**9)
    assert rounds(queue) == [0, 0]
    assert queue.spent[1, Use.SPIN] > 10**9 - 10


@pytest.mark.parametrize(
    "program",
    [
        [(Step.LOCK, 0), (Step.UNLOCK, 0)],
        [(Step.WORK, 1), (Step.LOCK, 0)],
        [(Step.WORK, 1), (Step.LOCK, 1), (Step.UNLOCK, 1)],
        [(Step.WORK, 1), (Step.TOUCH, LINES)],
        [(Step.WORK, -1), (Step.WORK, 1)],
        [(Step.WORK, 1), (Step.ANSWER, 0)],
        [(Step.WORK, 1), (Step.LOCK, 0), (Step.LOCK, 0), (Step.UNLOCK, 0), (Step.UNLOCK, 0)],
    ],
)
def test_a_program_that_cannot_be_is_refused(program: Steps) -> None:
    with pytest.raises(ValueError):
        kernels.new_event_queue([program], QUIET, FREE, locks=1)


def test_a_run_in_parts_is_the_same_run() -> None:
    rng = np.random.default_rng(3)
    program: Steps = [(Step.WORK, 40), (Step.LOCK, 0), (Step.WORK, 9), (Step.INTERRUPT, 3), (Step.UNLOCK, 0)]
    states = []
    for parts in (1, 50):
        queue = kernels.new_event_queue([program] * 3 + [[]], QUIET, FREE, 1, delays=[5, 9, 2])
        ends = np.sort(rng.integers(0, 20_000, parts - 1)).tolist()
        for end in [*ends, 20_000]:
            kernels.run(queue, end)
        states.append(queue)
    for one, other in zip(*states, strict=True):
        assert (one == other).all()
