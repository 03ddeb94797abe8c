"""The buddy kernel against plain Python: placement, merging, refusals, and whole random histories."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.kernels.zones import Pair, random_step
from vckernels import buddy as kernels
from vckernels import claim
from vckernels.buddy import ALLOCATED, HOLE, MAX_ORDER, PAGEBLOCK_FRAMES, Migratetype
from vckernels.causes import Cause, Status

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = Migratetype


class Histories(RuleBasedStateMachine):
    """Anything a caller may do, right or wrong, to a zone of any size and any mix of pageblock types."""

    release = "6.18"

    @initialize(
        frames=st.sampled_from([700, 1024, 1536, 2048, 2348, 4096, 5121]) | st.integers(1, 3000),
        kinds=st.lists(st.sampled_from([MOVABLE, MOVABLE, MOVABLE, UNMOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE])),
        tail_rule=st.booleans(),
        boot_to_tail=st.booleans(),
        hole=st.none() | st.tuples(st.integers(0, 3000), st.integers(1, 100)),
    )
    def boot(
        self, frames: int, kinds: list[int], tail_rule: bool, boot_to_tail: bool, hole: tuple[int, int] | None
    ) -> None:
        start, size = hole or (0, 0)
        holes = range(min(start, frames), min(start + size, frames)) if hole else range(0)
        blocks = -(-frames // PAGEBLOCK_FRAMES)
        types = {block: int(kind) for block, kind in enumerate(kinds[:blocks])}
        self.pair = Pair(frames, types, tail_rule, holes, boot_to_tail, self.release)

    orders = st.integers(0, MAX_ORDER) | st.integers(0, 3)
    kinds = st.sampled_from([0, 1, 2])

    @rule(order=orders, kind=kinds, flags=st.sampled_from([0, claim.NOFRAGMENT]), mode=st.sampled_from([0, 1, 2]))
    def allocate(self, order: int, kind: int, flags: int, mode: int) -> None:
        self.pair.allocate(order, kind, flags, mode)

    @rule(order=orders, kind=kinds, count=st.integers(0, 200))
    def allocate_all_or_none(self, order: int, kind: int, count: int) -> None:
        self.pair.allocate_all(order, kind, count)

    @rule(requests=st.lists(st.tuples(st.integers(-2, 12), st.integers(-1, 4)), max_size=30))
    def allocate_many(self, requests: list[tuple[int, int]]) -> None:
        self.pair.allocate_many([order for order, _ in requests], [kind for _, kind in requests])

    @rule(seed=st.integers(0, 1 << 32), count=st.integers(1, 150), fullness=st.sampled_from([0.3, 0.7, 0.95]))
    def live_for_a_while(self, seed: int, count: int, fullness: float) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            random_step(self.pair, rng, fullness)

    @precondition(lambda self: self.pair.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.pair.live), min_size=1, max_size=20))
        orders = [self.pair.plain.allocated[frame][0] for frame in chosen]
        # A frame drawn twice is a double free.
        statuses = self.pair.free(chosen, orders)
        assert statuses.count("OK") == len(set(chosen))

    @rule(frame=st.integers(-5000, 10_000), order=st.integers(-3, 14))
    def free_anything(self, frame: int, order: int) -> None:
        self.pair.free([frame], [order])

    @precondition(lambda self: self.pair.live)
    @rule(data=st.data(), order=st.integers(-1, 11), inside=st.integers(1, 1023))
    def free_wrongly(self, data: st.DataObject, order: int, inside: int) -> None:
        frame = data.draw(st.sampled_from(self.pair.live))
        held = self.pair.plain.allocated[frame][0]
        if order != held:
            assert self.pair.free([frame], [order]) == ["WRONG_ORDER" if 0 <= order <= 10 else "OUT_OF_RANGE"]
        if 1 << held > 1:
            assert self.pair.free([frame + inside % ((1 << held) - 1) + 1], [0]) == ["NOT_ALLOCATED"]

    @rule(frame=st.integers(-1, 6000), order=st.integers(-1, 11), kind=kinds, aligned=st.booleans())
    def take_at(self, frame: int, order: int, kind: int, aligned: bool) -> None:
        if aligned and order >= 0:
            frame -= frame % (1 << order)
        self.pair.take_at(frame, order, kind)

    @rule(block=st.integers(0, 10), kind=st.integers(0, 4))
    def retype(self, block: int, kind: int) -> None:
        start = block * PAGEBLOCK_FRAMES
        pair_start = start & ~1023
        whole = start + PAGEBLOCK_FRAMES <= self.pair.plain.frames
        if whole and self.pair.plain.free.get(pair_start) != MAX_ORDER:
            self.pair.retype(block, kind)

    @invariant()
    def same(self) -> None:
        self.pair.check()

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        for frame in self.pair.live:
            self.pair.free_live(frame)
        self.pair.check()
        assert self.pair.live == []


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestHistories = Histories.TestCase


class Histories2624(Histories):
    """The same under the rules of 2.6.24, reserved and isolated pageblocks among the others."""

    release = "2.6.24"


Histories2624.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
TestHistories2624 = Histories2624.TestCase


@pytest.mark.parametrize("seed", range(12))
def test_a_long_history_is_the_same(seed: int) -> None:
    """Kernel and plain zone agree through thousands of allocations and frees at changing pressure."""
    rng = random.Random(seed)
    frames = rng.choice([2048, 4096, 3 * 512, 2900, 4608 + 77])
    blocks = -(-frames // PAGEBLOCK_FRAMES)
    pair = Pair(frames, {block: rng.choice((0, 1, 1, 2)) for block in range(blocks)}, tail_rule=seed % 3 != 0)
    for number in range(1500):
        random_step(pair, rng, fullness=(0.95, 0.6, 0.3)[number // 100 % 3])
        if number % 10 == 0:
            pair.check()
    assert pair.events(Cause.CLAIM_BLOCK) + pair.events(Cause.STEAL) > 0
    for frame in rng.sample(pair.live, len(pair.live)):
        pair.free_live(frame)
    pair.check()
    assert [order for order in pair.plain.free.values() if order < 9 and frames % 512 == 0] == []


def test_run_trace_is_the_same_as_single_calls() -> None:
    rng = random.Random(7)
    pair = Pair(4096, {0: 0, 1: 2})
    slots = np.full(300, -1, np.int64)
    slot_orders = np.zeros(300, np.int8)
    held: dict[int, tuple[int, int]] = {}
    requests, kinds, served = [], [], 0
    for _ in range(4000):
        slot = rng.randrange(300)
        kinds.append(rng.choice((0, 1, 2)))
        if slot in held or rng.random() < 0.1:
            requests.append(~slot)
            if slot in held:
                served += 1
                assert pair.plain.give_back(*held.pop(slot)) == "OK"
        else:
            order = min(int(rng.expovariate(0.6)), MAX_ORDER)
            requests.append(slot * 16 + order)
            frame, _ = pair.plain.allocate(order, kinds[-1])
            if frame >= 0:
                served += 1
                held[slot] = frame, order
    answer = claim.run_trace(pair.kernel, np.array(requests), np.array(kinds, np.int8), slots, slot_orders)
    assert answer == served
    assert {s: (int(slots[s]), int(slot_orders[s])) for s in np.flatnonzero(slots >= 0).tolist()} == held
    assert pair.events(Cause.ALLOCATION_FAILURE) > 0
    pair.check()


# Placement


def test_upper_halves_go_to_list_heads() -> None:
    pair = Pair(2048)
    assert pair.take(3, MOVABLE) == 0
    for order in range(3, MAX_ORDER):
        assert pair.blocks(order, MOVABLE) == [1 << order]
    # A second split of order 10 leaves its upper halves before the older ones.
    assert pair.take(MAX_ORDER - 1, MOVABLE) == 512
    assert pair.take(MAX_ORDER - 1, MOVABLE) == 1024
    assert pair.blocks(9, MOVABLE) == [1536]
    pair.check()


@pytest.mark.parametrize("order", range(MAX_ORDER))
@pytest.mark.parametrize("rule_on", [True, False])
def test_what_may_merge_soon_goes_to_the_tail_up_to_order_8(order: int, rule_on: bool) -> None:
    """A freed block whose parent's buddy is free goes to the tail, but not from order 9 up, or with the rule off."""
    pair = Pair(4096, tail_rule=rule_on)
    size = 1 << order
    # Two blocks to compare with, in different pairs, and a third whose parent's buddy is free.
    assert pair.take_at(2048, order, MOVABLE) == "OK"
    assert pair.take_at(2048 + size, order, MOVABLE) == "OK"
    assert pair.take_at(0, order, MOVABLE) == "OK"
    assert pair.take_at(size, order, MOVABLE) == "OK"
    if order < 9:
        assert pair.plain.free[2 * size] == order + 1
    pair.free_live(2048)
    pair.free_live(0)
    expected_at_tail = rule_on and order <= 8
    # Frame 2048 came first: with its parent's buddy free too, it went to the tail before frame 0 did.
    assert pair.blocks(order, MOVABLE) == ([2048, 0] if expected_at_tail else [0, 2048])
    pair.check()


def test_a_block_goes_to_the_head_when_its_parents_buddy_is_not_free() -> None:
    pair = Pair(1024)
    taken = pair.allocate_all(0, MOVABLE, 16)
    assert taken == list(range(16))
    pair.free([0, 8, 4], [0, 0, 0])
    assert pair.blocks(0, MOVABLE) == [4, 8, 0]
    # 10 and 11 become a block of order 1 while 8 and 9 are no such block.
    pair.free([10, 11], [0, 0])
    assert pair.blocks(1, MOVABLE) == [10]
    # The parent's buddy counts for what results from merging: 8 to 11, and 12 to 15 are taken.
    pair.free([9], [0])
    assert pair.blocks(2, MOVABLE) == [8]
    pair.check()


@pytest.mark.parametrize("frames", [1024, 2048])
def test_the_largest_blocks_are_freed_a_pageblock_at_a_time(frames: int) -> None:
    """Each half takes its own pageblock's type, and the merged block the second one's (``split_large_buddy``)."""
    pair = Pair(frames)
    assert pair.take(MAX_ORDER, MOVABLE) == 0
    # Its two pageblocks get different types meanwhile, as a claim of parts would do it.
    pair.kernel.pageblock[:2] = pair.plain.types[:2] = [UNMOVABLE, RECLAIMABLE]
    pair.free_live(0)
    assert pair.blocks(MAX_ORDER, RECLAIMABLE) == [0]
    assert pair.types()[:2] == [RECLAIMABLE, RECLAIMABLE]
    assert pair.events(Cause.MERGE) == 1
    assert pair.events(Cause.FREE) == 1
    pair.check()


@pytest.mark.parametrize("lonely", [HIGHATOMIC, ISOLATE])
@pytest.mark.parametrize("other", [UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE])
@pytest.mark.parametrize("lonely_first", [True, False])
def test_reserved_and_isolated_pageblocks_merge_with_their_like_only(
    lonely: int, other: int, lonely_first: bool
) -> None:
    pair = Pair(1024)
    pair.take(MAX_ORDER, MOVABLE)
    types = [lonely, other] if lonely_first else [other, lonely]
    pair.kernel.pageblock[:] = pair.plain.types[:] = types
    pair.free_live(0)
    if lonely == other:
        assert pair.blocks(MAX_ORDER, lonely) == [0]
    else:
        assert pair.blocks(9, types[0]) == [0]
        assert pair.blocks(9, types[1]) == [512]
        assert pair.events(Cause.MERGE) == 0
    assert pair.types() == types
    pair.check()


@pytest.mark.parametrize("last", [0, 512])
def test_merging_across_pageblocks_gives_the_union_the_freed_ones_type(last: int) -> None:
    pair = Pair(1024)
    assert pair.allocate_all(9, MOVABLE, 2) == [0, 512]
    pair.kernel.pageblock[:] = pair.plain.types[:] = [UNMOVABLE, RECLAIMABLE]
    pair.free_live(512 - last)
    pair.free_live(last)
    kind = UNMOVABLE if last == 0 else RECLAIMABLE
    assert pair.types() == [kind, kind]
    assert pair.blocks(MAX_ORDER, kind) == [0]
    pair.check()


def test_a_block_is_freed_to_its_pageblocks_type_not_the_requests() -> None:
    pair = Pair(1024, {0: MOVABLE, 1: MOVABLE})
    pair.allocate_all(0, MOVABLE, 1024)
    pair.kernel.pageblock[1] = pair.plain.types[1] = UNMOVABLE
    pair.free_live(700)
    assert pair.blocks(0, UNMOVABLE) == [700]
    pair.check()


# Refusals


def test_refused_frees_change_nothing() -> None:
    pair = Pair(1500)
    frame = pair.take(4, MOVABLE)
    before = [array.copy() for array in pair.kernel]
    wrong = [
        (frame, 3, "WRONG_ORDER"),
        (frame, 5, "WRONG_ORDER"),
        (frame + 1, 0, "NOT_ALLOCATED"),
        (frame + 16, 4, "NOT_ALLOCATED"),
        (-1, 0, "OUT_OF_RANGE"),
        (1500, 0, "OUT_OF_RANGE"),
        (1 << 40, 0, "OUT_OF_RANGE"),
        (-(1 << 40), 4, "OUT_OF_RANGE"),
        (frame, 11, "OUT_OF_RANGE"),
        (frame, -1, "OUT_OF_RANGE"),
    ]
    statuses = pair.free([frame for frame, _, _ in wrong], [order for _, order, _ in wrong])
    assert statuses == [status for _, _, status in wrong]
    for old, new in zip(before, pair.kernel, strict=True):
        np.testing.assert_array_equal(old, new)
    assert pair.free([frame, frame], [4, 4]) == ["OK", "NOT_ALLOCATED"]
    pair.check()


def test_blocks_can_only_be_placed_where_they_fit() -> None:
    zone = kernels.new_buddy(1500)
    before = [array.copy() for array in zone]
    bad = [(-4, 2), (2, 2), (1496, 3), (1500, 0), (1024, 9), (0, 11), (0, -1), (1 << 50, 0)]
    for frame, order in bad:
        frames, orders = np.array([0, frame], np.int64), np.array([0, order], np.int8)
        assert kernels.free_at_boot(zone, frames, orders, False) == Status.OUT_OF_RANGE
        assert kernels.adopt(zone, frames, orders, np.ones(2, np.int8)) == Status.OUT_OF_RANGE
    for old, new in zip(before, zone, strict=True):
        np.testing.assert_array_equal(old, new)


def test_adopted_blocks_can_be_freed() -> None:
    """Blocks declared as allocated lie between holes, and merge with each other only."""
    pair = Pair(64, holes=range(16, 32))
    assert pair.kernel.state[16:32].tolist() == [HOLE] * 16
    frames, orders = np.array([16, 20, 24], np.int64), np.array([2, 1, 0], np.int8)
    assert kernels.adopt(pair.kernel, frames, orders, np.array([0, 1, 2], np.int8)) == Status.OK
    assert pair.kernel.state[[16, 20, 24]].tolist() == [ALLOCATED + 2, ALLOCATED + 17, ALLOCATED + 32]
    pair.plain.allocated.update({16: (2, 0), 20: (1, 1), 24: (0, 2)})
    pair.check()
    assert pair.free([16, 24, 20, 16], [2, 0, 1, 2]) == ["OK", "OK", "OK", "NOT_ALLOCATED"]
    assert pair.events(Cause.MERGE) == 0
    pair.check()


def test_taking_a_named_block_splits_around_it() -> None:
    pair = Pair(1024)
    assert pair.take_at(5 << 3, 3, RECLAIMABLE) == "OK"
    assert [pair.blocks(order, MOVABLE) for order in range(3, 10)] == [[32], [48], [0], [64], [128], [256], [512]]
    assert pair.kernel.state[40] == ALLOCATED + 16 * RECLAIMABLE + 3
    assert pair.take_at(40, 3, MOVABLE) == "NOT_FREE"
    assert pair.take_at(32, 4, MOVABLE) == "NOT_FREE"
    assert pair.take_at(33, 1, MOVABLE) == "OUT_OF_RANGE"
    assert pair.take_at(1024, 0, MOVABLE) == "OUT_OF_RANGE"
    pair.check()


# Size and work


@pytest.mark.parametrize("frames", [1 << 16, (1 << 19) - 100, 1 << 20])
def test_a_frame_takes_at_most_10_bytes(frames: int) -> None:
    zone = kernels.new_buddy(frames)
    assert sum(array.nbytes for array in zone) <= 10 * frames


@pytest.mark.parametrize("frames", [1 << 11, 1 << 15])
def test_an_operation_halves_or_merges_at_most_ten_times_whatever_the_size(frames: int) -> None:
    """Each halving and each merge is two list operations of constant work; their number does not grow with memory.

    Order 0 out of a zone of largest blocks, and back: ten of each, the most there are.
    """
    pair = Pair(frames)
    frame = pair.take(0, MOVABLE)
    assert pair.events(Cause.SPLIT) == MAX_ORDER
    pair.free_live(frame)
    assert pair.events(Cause.MERGE) == MAX_ORDER
    rng = random.Random(1)
    for _ in range(600):
        before = pair.kernel.counters.copy()
        random_step(pair, rng)
        grown = pair.kernel.counters - before
        assert grown[Cause.SPLIT] <= MAX_ORDER
        assert grown[Cause.MERGE] <= MAX_ORDER
        # Only a claim moves more blocks than that, and never more than one pageblock's.
        assert grown[Cause.CLAIM_MOVED_FRAMES] <= PAGEBLOCK_FRAMES
    pair.check()


def test_counting_functions_agree_with_the_lists() -> None:
    pair = Pair(3000)
    rng = random.Random(3)
    for _ in range(300):
        random_step(pair, rng)
    free = pair.plain.free.values()
    assert kernels.free_frames(pair.kernel) == sum(1 << order for order in free)
    for wanted in range(MAX_ORDER + 1):
        expected = sum(1 << order for order in free if order >= wanted)
        assert kernels.usable_frames(pair.kernel, wanted) == expected
    states = np.empty(3000, np.uint8)
    kernels.describe_frames(pair.kernel, states)
    expected_states = np.full(3000, 255, np.uint8)
    for frame, order in pair.plain.free.items():
        expected_states[frame : frame + (1 << order)] = order
    for frame, (order, kind) in pair.plain.allocated.items():
        expected_states[frame : frame + (1 << order)] = 16 + kind
    np.testing.assert_array_equal(states, expected_states)
    for frame in pair.live[:5]:
        assert kernels.allocated_order(pair.kernel, frame) == pair.plain.allocated[frame][0]
    assert kernels.allocated_order(pair.kernel, -1) == -1
    assert kernels.allocated_order(pair.kernel, 3000) == -1
