"""Which migratetype serves a request: claiming whole pageblocks, stealing, and what neither may do."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.zones import Pair, random_step
from vckernels import buddy as kernels
from vckernels import claim
from vckernels.buddy import INSIDE, MAX_ORDER, ORDERS, PAGEBLOCK_FRAMES, TYPES, Migratetype
from vckernels.causes import Cause
from vckernels.claim import MODE_CLAIM, MODE_NORMAL, MODE_STEAL, NOFRAGMENT

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = Migratetype
REQUESTS = (UNMOVABLE, MOVABLE, RECLAIMABLE)
FALLBACKS = {
    UNMOVABLE: (RECLAIMABLE, MOVABLE),
    MOVABLE: (RECLAIMABLE, UNMOVABLE),
    RECLAIMABLE: (UNMOVABLE, MOVABLE),
}


def prepared(
    free: int, movable: int, block_type: int, other_use: int = UNMOVABLE, free_order: int = 0, frames: int = 1024
) -> Pair:
    """Return a zone whose first pageblock has ``free`` free and ``movable`` movable frames, the second none free.

    What is left of the first pageblock is allocated for ``other_use``. Free frames come in blocks of one order, every
    second one from the pageblock's end down, so that none merge while they are at most half.
    """
    size = 1 << free_order
    starts = list(range(PAGEBLOCK_FRAMES - size, -1, -size))
    starts = (starts[::2] + starts[1::2])[: free // size]
    freed = {frame for start in starts for frame in range(start, start + size)}
    assert len(freed) == free
    used = [frame for frame in range(PAGEBLOCK_FRAMES) if frame not in freed]
    uses = dict.fromkeys(range(frames), MOVABLE) | dict.fromkeys(used[movable:], other_use)
    pair = Pair(frames)
    for frame, use in uses.items():
        assert pair.take_at(frame, 0, use) == "OK"
    pair.kernel.pageblock[0] = pair.plain.types[0] = block_type
    for start in starts:
        pair.free(list(range(start, start + size)), [0] * size)
    pair.check()
    return pair


# Claiming a pageblock or more


@pytest.mark.parametrize("requested", REQUESTS)
@pytest.mark.parametrize("order", [0, 3, 8, 9, 10])
def test_blocks_of_a_pageblock_or_more_change_type_whole(requested: int, order: int) -> None:
    """The largest fallback block is taken, all its pageblocks are retyped, the rest goes to the new type's lists."""
    for fallback in FALLBACKS[requested]:
        pair = Pair(2048, dict.fromkeys(range(4), int(fallback)))
        assert pair.allocate(order, requested) == (0, MODE_NORMAL)
        assert pair.types() == [requested, requested, fallback, fallback]
        assert pair.events(Cause.CLAIM_BLOCK) == 1
        assert pair.events(Cause.STEAL) == 0
        for below in range(order, MAX_ORDER):
            assert pair.blocks(below, requested) == [1 << below]
        assert pair.blocks(MAX_ORDER, fallback) == [1024]
        pair.check()


def test_a_claimed_order_9_block_retypes_its_own_pageblock_only() -> None:
    pair = Pair(1024, {0: UNMOVABLE, 1: UNMOVABLE})
    assert pair.take(9, UNMOVABLE) == 0
    assert pair.allocate(2, MOVABLE) == (512, MODE_NORMAL)
    assert pair.types() == [UNMOVABLE, MOVABLE]
    pair.check()


@pytest.mark.parametrize("requested", REQUESTS)
def test_fallback_types_are_tried_in_the_tables_order_at_each_size(requested: int) -> None:
    first, second = FALLBACKS[requested]
    pair = Pair(2048, {0: second, 1: second, 2: first, 3: first})
    assert pair.take(0, requested) == 1024
    assert pair.types() == [second, second, requested, requested]
    # A larger block of the second choice goes before a smaller one of the first.
    pair = Pair(1536, {0: second, 1: second, 2: first})
    assert pair.take(0, requested) == 0
    assert pair.types() == [requested, requested, first]
    pair.check()


@pytest.mark.parametrize("kept", [HIGHATOMIC, ISOLATE])
@pytest.mark.parametrize("requested", REQUESTS)
def test_reserved_and_isolated_blocks_serve_nobody(kept: int, requested: int) -> None:
    pair = Pair(1024, {0: kept, 1: kept})
    for order in (0, 9, 10):
        for mode in (MODE_NORMAL, MODE_CLAIM, MODE_STEAL):
            assert pair.allocate(order, requested, 0, mode) == (-1, mode)
    assert pair.types() == [kept, kept]
    assert pair.events(Cause.ALLOCATION_FAILURE) == 9
    pair.check()


# Claiming less than a pageblock: half must be free or alike


def block_state(pair: Pair) -> tuple[int, int, int]:
    return pair.types()[0], pair.events(Cause.CLAIM_PAGEBLOCK), pair.events(Cause.CLAIM_REFUSED)


@pytest.mark.parametrize("free", [16, 128, 240])
@pytest.mark.parametrize("enough", [True, False])
@pytest.mark.parametrize("block_type", [UNMOVABLE, RECLAIMABLE])
def test_a_movable_request_counts_free_and_movable_frames(free: int, enough: bool, block_type: int) -> None:
    """256 of 512 are enough, 255 are not; what is neither counts for nothing."""
    pair = prepared(free, 256 - free - (not enough), block_type, other_use=RECLAIMABLE, free_order=4)
    frame, mode = pair.allocate(4, MOVABLE)
    if enough:
        # Of the moved blocks, which went to list tails by address, the lowest is the head.
        assert (frame, mode) == (PAGEBLOCK_FRAMES - 2 * free + 16, MODE_NORMAL)
        assert block_state(pair) == (MOVABLE, 1, 0)
        assert pair.events(Cause.CLAIM_MOVED_FRAMES) == free
        assert pair.events(Cause.STEAL) == 0
    else:
        assert mode == MODE_STEAL
        assert block_state(pair) == (block_type, 0, 1)
        assert pair.events(Cause.STEAL) == 1
    pair.check()


@pytest.mark.parametrize("requested", [UNMOVABLE, RECLAIMABLE])
@pytest.mark.parametrize("free", [1, 16, 200, 255])
@pytest.mark.parametrize("enough", [True, False])
def test_in_a_movable_pageblock_what_is_not_movable_is_alike(requested: int, free: int, enough: bool) -> None:
    """Unmovable and reclaimable frames count alike, for either request: 512 - free - movable."""
    alike = 256 - free - (not enough)
    pair = prepared(free, PAGEBLOCK_FRAMES - free - alike, MOVABLE, other_use=RECLAIMABLE)
    frame, mode = pair.allocate(0, requested)
    assert frame >= 0
    if enough:
        assert mode == MODE_NORMAL
        assert block_state(pair) == (requested, 1, 0)
        assert pair.events(Cause.CLAIM_MOVED_FRAMES) == free
    else:
        assert mode == MODE_STEAL
        assert pair.types()[0] == MOVABLE
        assert pair.events(Cause.CLAIM_PAGEBLOCK) == 0
        assert pair.events(Cause.CLAIM_REFUSED) > 0
    pair.check()


@pytest.mark.parametrize("requested", [UNMOVABLE, RECLAIMABLE])
@pytest.mark.parametrize("enough", [True, False])
def test_between_unmovable_and_reclaimable_only_free_frames_count(requested: int, enough: bool) -> None:
    """256 free frames claim the pageblock, 255 do not, though every other frame is of the requested type."""
    other = RECLAIMABLE if requested == UNMOVABLE else UNMOVABLE
    pair = prepared(256 - (not enough), 0, other, other_use=requested)
    _, mode = pair.allocate(0, requested)
    expected = (requested, 1, 0) if enough else (other, 0, 1)
    assert block_state(pair) == expected
    assert mode == (MODE_NORMAL if enough else MODE_STEAL)
    pair.check()


def test_frames_that_are_nobodys_count_as_unmovable() -> None:
    """A hole is neither free nor movable, so a movable pageblock full of holes is alike to kernel requests."""
    pair = Pair(1024, holes=range(256))
    pair.allocate_all(0, MOVABLE, 768)
    pair.free_live(300)
    assert pair.allocate(0, UNMOVABLE) == (300, MODE_NORMAL)
    assert block_state(pair) == (UNMOVABLE, 1, 0)
    pair.check()


def test_moved_blocks_go_to_list_tails_by_address() -> None:
    pair = prepared(257, 0, RECLAIMABLE)
    # An unmovable pageblock with one free frame, too small for the request: the head of its list stays the head.
    pair.kernel.pageblock[1] = pair.plain.types[1] = UNMOVABLE
    pair.free_live(1000)
    assert pair.blocks(0, UNMOVABLE) == [1000]
    assert pair.allocate(1, UNMOVABLE)[1] == MODE_NORMAL
    zeros = pair.blocks(0, UNMOVABLE)
    assert zeros[0] == 1000
    assert zeros[1:] == sorted(zeros[1:])
    assert len(zeros) > 200
    assert pair.types() == [UNMOVABLE, UNMOVABLE]
    pair.check()


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_movable_requests_claim_nothing_below_order_4(order: int) -> None:
    """They steal instead, though half the pageblock is free; from order 4 up they claim."""
    pair = prepared(256, 0, UNMOVABLE, free_order=3)
    assert pair.allocate(order, MOVABLE)[1] == MODE_STEAL
    assert block_state(pair) == (UNMOVABLE, 0, 0)
    pair.check()
    pair = prepared(256, 0, UNMOVABLE, free_order=4)
    assert pair.allocate(order, MOVABLE)[1] == MODE_NORMAL
    assert block_state(pair) == (MOVABLE, 1, 0)
    pair.check()


@pytest.mark.parametrize("requested", [UNMOVABLE, RECLAIMABLE])
def test_kernel_requests_claim_at_any_order(requested: int) -> None:
    pair = prepared(256, 0, MOVABLE)
    assert pair.allocate(0, requested)[1] == MODE_NORMAL
    assert block_state(pair) == (requested, 1, 0)
    pair.check()


def test_a_refused_pageblock_is_asked_once_per_order() -> None:
    """After a refusal the next smaller order is tried, whose head may lie in another pageblock."""
    pair = Pair(1536, {0: UNMOVABLE, 1: UNMOVABLE, 2: UNMOVABLE})
    for frame in range(1536):
        pair.take_at(frame, 0, UNMOVABLE)
    # Order 5 lies in a pageblock with 32 free frames, order 4 in one with 32 + 16 * 14: enough.
    pair.free(list(range(32)), [0] * 32)
    for start in range(512, 1024, 32):
        pair.free(list(range(start, start + 16)), [0] * 16)
    frame, mode = pair.allocate(4, MOVABLE)
    assert 512 <= frame < 1024
    assert mode == MODE_NORMAL
    assert pair.types() == [UNMOVABLE, MOVABLE, UNMOVABLE]
    assert pair.events(Cause.CLAIM_REFUSED) == 1
    pair.check()


def test_a_pageblock_cut_by_the_zones_end_is_stolen_from_but_never_claimed() -> None:
    """As ``prep_move_freepages_block`` refuses it. It is no refusal for want of free frames."""
    pair = Pair(512 + 300, {0: MOVABLE, 1: MOVABLE})
    assert pair.allocate_all(0, MOVABLE, 812) is not None
    pair.free([512 + i for i in range(0, 300, 2)], [0] * 150)
    assert pair.allocate(0, UNMOVABLE)[1] == MODE_STEAL
    assert pair.types() == [MOVABLE, MOVABLE]
    assert pair.events(Cause.CLAIM_REFUSED) == pair.events(Cause.CLAIM_PAGEBLOCK) == 0
    pair.check()


# Stealing


def test_a_steal_takes_the_smallest_block_and_leaves_the_type() -> None:
    pair = prepared(96, 100, UNMOVABLE, free_order=3)
    smallest = pair.blocks(3, UNMOVABLE)
    assert pair.allocate(1, MOVABLE) == (smallest[0], MODE_STEAL)
    # The remainder stays on the old type's lists.
    assert pair.blocks(2, UNMOVABLE) == [smallest[0] + 4]
    assert pair.blocks(1, UNMOVABLE) == [smallest[0] + 2]
    assert pair.types()[0] == UNMOVABLE
    assert pair.kernel.state[smallest[0]] == 32 + 16 * MOVABLE + 1
    # Freed, it goes back to its pageblock's type.
    pair.free_live(smallest[0])
    assert pair.blocks(3, UNMOVABLE) == smallest
    pair.check()


def test_a_steal_prefers_a_small_block_of_the_second_fallback_type() -> None:
    """Sizes go up before types go on: order 0 of the last choice before order 1 of the first."""
    pair = Pair(1024, {0: UNMOVABLE, 1: UNMOVABLE})
    for frame in range(1024):
        pair.take_at(frame, 0, UNMOVABLE)
    pair.kernel.pageblock[1] = pair.plain.types[1] = RECLAIMABLE
    pair.free([512, 513, 7], [0, 0, 0])
    assert pair.allocate(0, MOVABLE) == (7, MODE_STEAL)
    assert pair.allocate(0, MOVABLE) == (512, MODE_STEAL)
    pair.check()


# NOFRAGMENT and modes


@pytest.mark.parametrize("requested", REQUESTS)
@pytest.mark.parametrize("order", [0, 4, 8])
def test_nofragment_takes_whole_pageblocks_or_nothing(requested: int, order: int) -> None:
    fallback = FALLBACKS[requested][0]
    pair = Pair(1536, dict.fromkeys(range(3), int(fallback)))
    assert pair.take(MAX_ORDER, fallback) == 0
    assert pair.allocate(order, requested, NOFRAGMENT) == (1024, MODE_NORMAL)
    assert pair.types()[2] == requested
    # Now the other way: only smaller blocks of a foreign type are left.
    other = next(kind for kind in REQUESTS if kind != requested)
    before = pair.kernel.free_blocks.copy()
    assert pair.allocate(order, other, NOFRAGMENT) == (-1, MODE_NORMAL)
    np.testing.assert_array_equal(pair.kernel.free_blocks, before)
    assert pair.events(Cause.STEAL) == 0
    assert pair.events(Cause.ALLOCATION_FAILURE) == 1
    # Own lists serve it as ever.
    assert pair.take(order, requested) > 0
    pair.check()


def test_nofragment_still_claims_for_large_requests() -> None:
    for order in (9, 10):
        pair = Pair(1024, {0: MOVABLE, 1: MOVABLE})
        assert pair.allocate(order, UNMOVABLE, NOFRAGMENT) == (0, MODE_NORMAL)
        pair.check()


def test_a_mode_skips_what_failed_before() -> None:
    """``claim`` does not look at own lists, ``steal`` neither claims; a success by claiming starts over."""
    pair = Pair(2048, {0: MOVABLE, 1: MOVABLE, 2: UNMOVABLE, 3: UNMOVABLE})
    assert pair.allocate(0, MOVABLE, 0, MODE_NORMAL) == (0, MODE_NORMAL)
    frame, mode = pair.allocate(0, MOVABLE, 0, MODE_STEAL)
    assert (frame, mode) == (1024, MODE_STEAL)
    assert pair.types() == [MOVABLE, MOVABLE, UNMOVABLE, UNMOVABLE]
    assert pair.blocks(0, UNMOVABLE) == [1025]
    assert pair.allocate(0, MOVABLE, 0, MODE_CLAIM) == (1536, MODE_NORMAL)
    assert pair.types() == [MOVABLE, MOVABLE, UNMOVABLE, MOVABLE]
    pair.check()


def test_a_bulk_allocation_keeps_stealing() -> None:
    """Once a refill has stolen, it goes on so, though single requests would claim a pageblock meanwhile."""
    pair = prepared(256, 0, UNMOVABLE, free_order=3)
    frames = pair.allocate_all(0, MOVABLE, 100)
    assert frames is not None
    assert pair.events(Cause.STEAL) == 100
    assert pair.events(Cause.CLAIM_PAGEBLOCK) == 0
    pair.check()
    # Each request on its own: the own lists come first again, and here too it steals, from the start.
    pair.allocate_many([0, 0, 0], [MOVABLE] * 3)
    assert pair.events(Cause.STEAL) == 103
    pair.check()


@pytest.mark.parametrize("count", [0, 1, 64, 65])
def test_all_or_none(count: int) -> None:
    """A bulk request that memory cannot serve gives everything back."""
    pair = Pair(1024)
    pair.allocate_all(4, MOVABLE, 0)
    before = pair.kernel.free_blocks.sum(axis=1)
    frames = pair.allocate_all(4, UNMOVABLE, count)
    assert (frames is None) == (count > 64)
    if frames is None:
        np.testing.assert_array_equal(pair.kernel.free_blocks.sum(axis=1), before)
        assert pair.live == []
    pair.check()


# The audit itself


def damaged(pair: Pair) -> dict[str, int]:
    """Return what the audit says to one zone in different states of damage."""
    answers = {}

    def audit(name: str, array: str, place: object, value: int) -> None:
        zone = kernels.Buddy(*(one.copy() for one in pair.kernel))
        getattr(zone, array)[place] = value
        answers[name] = int(claim.audit(zone, np.zeros((ORDERS, TYPES), np.int64)))

    first = pair.live[0]
    free = pair.blocks(4, MOVABLE)[0]
    audit("nothing", "state", first, int(pair.kernel.state[first]))
    audit("a block inside another", "state", free + 1, 0)
    audit("a frame nobody's", "state", first, INSIDE)
    audit("a block past the end", "state", 1008, 32 + 5)
    audit("a block not aligned", "state", first, 32 + 16 + 1)
    audit("a free block of another order", "state", free, 3)
    audit("another list than the pageblock's", "pageblock", 0, RECLAIMABLE)
    audit("a list too long", "free_blocks", (4, int(MOVABLE)), 9)
    audit("a broken link", "prev", free, 3)
    audit("a link past a block", "next", free, int(pair.kernel.next[pair.kernel.next[free]]))
    return answers


def test_the_audit_finds_each_kind_of_damage() -> None:
    pair = Pair(1024)
    for frame in (3, 32, 64, 1016):
        pair.take_at(frame, 0 if frame == 3 else 3, MOVABLE)
    answers = damaged(pair)
    assert answers.pop("nothing") == 0
    assert all(answers.values()), answers
    # Buddies that lie free side by side were not merged.
    zone = kernels.new_buddy(64)
    kernels.free_at_boot(zone, np.array([0, 32], np.int64), np.array([5, 5], np.int8), True)
    assert claim.audit(zone, np.zeros((ORDERS, TYPES), np.int64)) == 5


# Everything at once


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 32),
    frames=st.sampled_from([512, 1024, 1536, 2048, 2500]),
    kinds=st.lists(st.sampled_from([0, 1, 2, 2, 3, 4]), min_size=5, max_size=5),
    fullness=st.sampled_from([0.5, 0.9, 0.99]),
)
def test_small_crowded_zones(seed: int, frames: int, kinds: list[int], fullness: float) -> None:
    """Where fallbacks are the rule: few pageblocks, mixed types, little free."""
    rng = random.Random(seed)
    pair = Pair(frames, dict(enumerate(kinds[: -(-frames // 512)])))
    for _ in range(250):
        random_step(pair, rng, fullness)
        pair.check()


def test_crowded_zones_meet_every_rule() -> None:
    """The random histories are worth something only if all kinds of fallback occur in them."""
    totals = dict.fromkeys(
        (Cause.CLAIM_BLOCK, Cause.CLAIM_PAGEBLOCK, Cause.CLAIM_REFUSED, Cause.STEAL, Cause.ALLOCATION_FAILURE), 0
    )
    for seed in range(15):
        rng = random.Random(seed)
        pair = Pair(2048, {block: block % 3 for block in range(4)})
        for _ in range(800):
            random_step(pair, rng, 0.97)
        pair.check()
        for cause in totals:
            totals[cause] += pair.events(cause)
    assert all(count >= 20 for count in totals.values()), totals
