"""What requests do when memory is short: against plain Python over random answers, and the meaning of their flags."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import slowpath as oracle
from vckernels import slowpath
from vckernels.allocflags import AllocFlag
from vckernels.causes import COUNTERS, Cause
from vckernels.compaction import CompactPriority, CompactResult
from vckernels.slowpath import CAPTURED, GfpBit, SlowAction, SlowField
from vckernels.slowpath_2_6_24 import begin_slow_2_6_24, next_step_2_6_24
from vclab.gfp import Gfp

KERNEL = {"DIRECT_RECLAIM", "KSWAPD_RECLAIM", "IO", "FS"}
ATOMIC = {"HIGH", "KSWAPD_RECLAIM"}
UNMOVABLE, MOVABLE = 0, 1
COUNTED = ("SLOW_PATH", "SLOW_PATH_RETRY", "COMPACT_STALL", "COMPACT_SUCCESS", "COMPACT_FAIL", "OOM_KILL")
ENDS = (SlowAction.SERVED, SlowAction.SERVED_BY_COMPACTION, SlowAction.FAILED, SlowAction.ABANDONED)
Answers = Callable[[str, object], int]


def bits(gfp: Iterable[str]) -> int:
    """Return flags as a number."""
    return sum(GfpBit[name] for name in gfp)


def flag_names(flags: int) -> frozenset[str]:
    """Return allocation flags by name; the min watermark has none."""
    names = {flag.name for flag in AllocFlag if flag.value & ~3 and flags & flag}
    return frozenset(names | ({"WMARK_LOW", "WMARK_HIGH"} & {AllocFlag(flags & 3).name}))


class Both:
    """One request in the kernel and in plain Python, answered alike."""

    def __init__(
        self, order: int, kind: int, gfp: Iterable[str], fallback: bool = False, old: bool = False, most: int = 64
    ) -> None:
        self.slow = slowpath.new_slow(most)
        self.counters = np.zeros(COUNTERS, np.int64)
        self.events: Counter[str] = Counter()
        self.old = old
        chosen = set(gfp)
        if old:
            self.action = begin_slow_2_6_24(self.slow, self.counters, order, bits(chosen), fallback)
            self.plain = oracle.of_2007(order, chosen, fallback, self.events, most)
        else:
            self.action = slowpath.begin_slow(self.slow, self.counters, order, kind, bits(chosen), fallback)
            self.plain = oracle.today(order, kind == MOVABLE, chosen, fallback, self.events, most)

    def run(self, answers: Answers) -> tuple[str, list[str]]:
        """Go to the end; return how it ends, and the steps."""
        steps: list[str] = []
        answer: int | None = None
        while True:
            try:
                name, argument = self.plain.send(answer)  # type: ignore[arg-type]
            except StopIteration as stop:
                assert SlowAction(self.action).name == stop.value
                break
            assert SlowAction(self.action).name == name, steps
            if name == "TAKE":
                assert flag_names(int(self.slow[SlowField.TAKE_FLAGS])) == argument
            elif name == "COMPACT":
                assert self.slow[SlowField.RUN_PRIORITY] == argument
            steps.append(name)
            answer = answers(name, argument)
            step = next_step_2_6_24 if self.old else slowpath.next_step
            self.action = step(self.slow, self.counters, answer)
        assert {name: int(self.counters[Cause[name]]) for name in COUNTED} == {n: self.events[n] for n in COUNTED}
        return SlowAction(self.action).name, steps


def never(name: str, argument: object) -> int:
    """Answer as a machine would on which nothing helps."""
    del argument
    return int(CompactResult.COMPLETE) if name == "COMPACT" else 0


def with_progress(name: str, argument: object) -> int:
    """Answer as a machine would that reclaims, in vain."""
    return 32 if name == "RECLAIM" else never(name, argument)


@settings(max_examples=400)
@given(
    seed=st.integers(0, 1 << 32),
    order=st.integers(0, 10),
    kind=st.integers(0, 2),
    gfp=st.sets(st.sampled_from([bit.name for bit in GfpBit])),
    normal=st.booleans(),
    fallback=st.booleans(),
    old=st.booleans(),
)
def test_steps_are_the_same(
    seed: int, order: int, kind: int, gfp: set[str], normal: bool, fallback: bool, old: bool
) -> None:
    rng = random.Random(seed)
    luck = rng.choice([0.0, 0.02, 0.2])
    works = rng.choice([0.2, 0.9, 1.0])

    def answers(name: str, argument: object) -> int:
        del argument
        if name == "COMPACT":
            return rng.choice([1, 1, 2, 5, 6, 8, 8]) + (CAPTURED if rng.random() < luck else 0)
        if name == "TAKE":
            return int(rng.random() < luck)
        if name == "RECLAIM":
            return rng.choice([0, 1, 40]) if rng.random() < works else 0
        return int(rng.random() < (0.1 if name == "RELEASE_RESERVE" else works))

    Both(order, kind, gfp | (KERNEL if normal else set()), fallback, old, rng.choice([3, 64])).run(answers)


def test_flags_are_numbered_as_the_labs() -> None:
    for bit in GfpBit:
        if bit.name in Gfp.__members__:
            assert Gfp[bit.name] == bit


# What flags mean under 6.18


def test_an_atomic_request_wakes_kswapd_dips_into_the_reserve_and_fails() -> None:
    both = Both(2, UNMOVABLE, ATOMIC)
    assert both.run(never) == ("FAILED", ["WAKE_KSWAPD", "TAKE", "WAKE_KSWAPD", "TAKE"])
    flags = flag_names(slowpath.alloc_flags(2, bits(ATOMIC)))
    assert flags == {"MIN_RESERVE", "KSWAPD", "NON_BLOCK", "HIGHATOMIC"}
    # A single frame needs no reserved block; without atomic reserve flags there is none either.
    assert flag_names(slowpath.alloc_flags(0, bits(ATOMIC))) == {"MIN_RESERVE", "KSWAPD", "NON_BLOCK"}
    assert flag_names(slowpath.alloc_flags(2, bits({"HIGH", "NOMEMALLOC"}))) == {"MIN_RESERVE"}


@pytest.mark.parametrize(
    ("order", "kind", "early"), [(0, UNMOVABLE, False), (1, UNMOVABLE, True), (3, MOVABLE, False), (4, MOVABLE, True)]
)
def test_costly_or_not_movable_requests_compact_first(order: int, kind: int, early: bool) -> None:
    both = Both(order, kind, KERNEL | {"NORETRY"})
    _, steps = both.run(never)
    assert steps[:3] == ["WAKE_KSWAPD", "TAKE", "COMPACT" if early else "WAKE_KSWAPD"]


def test_noretry_means_one_round() -> None:
    ending, steps = Both(2, MOVABLE, KERNEL | {"NORETRY"}).run(with_progress)
    assert ending == "FAILED"
    assert steps.count("RECLAIM") == 1
    assert "KILL" not in steps


@pytest.mark.parametrize("result", [CompactResult.SKIPPED, CompactResult.DEFERRED])
def test_costly_noretry_fails_at_once_where_compaction_is_hopeless(result: int) -> None:
    def answers(name: str, argument: object) -> int:
        return int(result) if name == "COMPACT" else never(name, argument)

    ending, steps = Both(9, MOVABLE, KERNEL | {"NORETRY"}).run(answers)
    assert ending == "FAILED"
    # One that was put off counts as tried, so that the lists are looked at again.
    assert steps == ["WAKE_KSWAPD", "TAKE", "COMPACT"] + ["TAKE"] * (result == CompactResult.DEFERRED)


def test_costly_noretry_compacts_without_waiting_otherwise() -> None:
    priorities: list[object] = []

    def answers(name: str, argument: object) -> int:
        if name == "COMPACT":
            priorities.append(argument)
        return with_progress(name, argument)

    ending, steps = Both(9, MOVABLE, KERNEL | {"NORETRY"}).run(answers)
    assert ending == "FAILED"
    assert steps.count("RECLAIM") == 1
    assert priorities == [CompactPriority.ASYNC, CompactPriority.ASYNC]


def test_a_plain_costly_request_fails_after_one_round() -> None:
    ending, steps = Both(5, UNMOVABLE, KERNEL).run(with_progress)
    assert ending == "FAILED"
    assert steps.count("RECLAIM") == 1
    assert "JUDGE_RECLAIM" not in steps


def test_retry_mayfail_goes_on_while_reclaim_could_help_at_most_16_rounds() -> None:
    def answers(name: str, argument: object) -> int:
        return 1 if name == "JUDGE_RECLAIM" else with_progress(name, argument)

    both = Both(5, UNMOVABLE, KERNEL | {"RETRY_MAYFAIL"})
    ending, steps = both.run(answers)
    assert ending == "FAILED"
    assert "KILL" not in steps
    # For a costly order no round counts as progress; 16 more follow the first.
    assert steps.count("RECLAIM") == 17
    assert both.counters[Cause.SLOW_PATH_RETRY] == 17


def test_a_small_request_does_not_fail_while_somebody_can_be_killed() -> None:
    """Order 0 without progress: killing gives memory, and the request is served."""
    killed = 0

    def answers(name: str, argument: object) -> int:
        nonlocal killed
        if name == "KILL":
            killed += 1
            return 1
        if name == "TAKE":
            return int(killed == 3)
        return never(name, argument)

    ending, steps = Both(0, UNMOVABLE, KERNEL).run(answers)
    assert ending == "SERVED"
    assert killed == 3
    # Before each it looks whether the high watermark could be kept.
    assert steps.count("RECLAIM") == 3


@pytest.mark.parametrize(("flags", "fallback"), [({"RETRY_MAYFAIL"}, False), (set(), True)])
def test_nobody_is_killed_for_who_may_fail(flags: set[str], fallback: bool) -> None:
    ending, steps = Both(1, MOVABLE, KERNEL | flags, fallback).run(never)
    assert ending == "FAILED"
    assert "KILL" not in steps


def test_nofail_goes_on_for_ever() -> None:
    both = Both(0, UNMOVABLE, KERNEL | {"NOFAIL", "NORETRY"}, most=20)
    ending, steps = both.run(never)
    assert ending == "ABANDONED"
    assert steps.count("RECLAIM") == 20


def test_compaction_gets_more_insistent_up_to_full_for_small_orders_only() -> None:
    for order, last in ((2, CompactPriority.SYNC_FULL), (6, CompactPriority.SYNC_LIGHT)):
        priorities: list[object] = []

        def answers(name: str, argument: object, seen: list[object] = priorities) -> int:
            if name == "COMPACT":
                seen.append(argument)
            return with_progress(name, argument)

        Both(order, MOVABLE, KERNEL | {"RETRY_MAYFAIL"}).run(answers)
        assert priorities[-1] == last


def test_what_compaction_frees_or_captures_serves_the_request() -> None:
    def captures(name: str, argument: object) -> int:
        return CompactResult.SUCCESS + CAPTURED if name == "COMPACT" else never(name, argument)

    both = Both(9, MOVABLE, KERNEL)
    assert both.run(captures) == ("SERVED_BY_COMPACTION", ["WAKE_KSWAPD", "TAKE", "COMPACT"])
    takes = 0

    def frees(name: str, argument: object) -> int:
        del argument
        nonlocal takes
        takes += name == "TAKE"
        return int(takes == 2) if name == "TAKE" else int(CompactResult.SUCCESS)

    both = Both(9, MOVABLE, KERNEL)
    assert both.run(frees) == ("SERVED_BY_COMPACTION", ["WAKE_KSWAPD", "TAKE", "COMPACT", "TAKE"])
    assert both.counters[Cause.COMPACT_SUCCESS] == both.counters[Cause.COMPACT_STALL] == 1


def test_without_io_there_is_no_compaction() -> None:
    _, steps = Both(9, MOVABLE, {"DIRECT_RECLAIM", "KSWAPD_RECLAIM"}).run(with_progress)
    assert "COMPACT" not in steps


# 2.6.24


def test_an_atomic_request_of_2007_fails_at_once() -> None:
    both = Both(3, UNMOVABLE, ATOMIC, old=True)
    assert both.run(never) == ("FAILED", ["WAKE_KSWAPD", "TAKE"])
    assert flag_names(int(both.slow[SlowField.FLAGS])) == {"MIN_RESERVE", "NON_BLOCK"}


def test_a_large_request_of_2007_fails_after_one_round_and_a_small_one_goes_on() -> None:
    ending, steps = Both(4, UNMOVABLE, KERNEL, old=True).run(with_progress)
    assert ending == "FAILED"
    assert steps == ["WAKE_KSWAPD", "TAKE", "RECLAIM", "DRAIN", "TAKE"]
    ending, steps = Both(3, UNMOVABLE, KERNEL, old=True, most=5).run(with_progress)
    assert ending == "ABANDONED"
    assert steps.count("RECLAIM") == steps.count("WAIT") == 5
    ending, steps = Both(8, UNMOVABLE, KERNEL | {"RETRY_MAYFAIL"}, old=True, most=5).run(with_progress)
    assert ending == "ABANDONED"


@pytest.mark.parametrize(("order", "kills"), [(0, True), (3, True), (4, False), (10, False)])
def test_in_2007_somebody_was_killed_for_orders_up_to_3_only(order: int, kills: bool) -> None:
    _, steps = Both(order, UNMOVABLE, KERNEL, old=True).run(never)
    assert ("KILL" in steps) == kills


def test_a_late_fallback_of_2007_stands_in_before_anybody_is_killed() -> None:
    """Up to order 3 after a round without progress, above after one failed round, atomic at once."""
    assert Both(3, UNMOVABLE, KERNEL, True, True).run(never)[1] == ["WAKE_KSWAPD", "TAKE", "RECLAIM", "DRAIN"]
    large = Both(4, UNMOVABLE, KERNEL | {"RETRY_MAYFAIL"}, True, True).run(with_progress)
    assert large == ("FAILED", ["WAKE_KSWAPD", "TAKE", "RECLAIM", "DRAIN", "TAKE"])
    assert Both(4, UNMOVABLE, ATOMIC, True, True).run(never) == ("FAILED", ["WAKE_KSWAPD", "TAKE"])
    small = Both(3, UNMOVABLE, KERNEL, True, True, most=7).run(with_progress)
    assert small[0] == "ABANDONED"
