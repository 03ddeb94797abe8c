"""Linux 2.6.24's fallback and 2.6.23's want of one, by hand and against plain Python."""

from __future__ import annotations

import random

import pytest

from tests.kernels.zones import Pair, random_step
from vckernels.buddy import MAX_ORDER, Migratetype
from vckernels.causes import Cause

UNMOVABLE, MOVABLE, RECLAIMABLE, RESERVE, ISOLATE = Migratetype


def zone(types: list[int], *used: tuple[int, int]) -> Pair:
    """Return a zone of so many pageblocks; ``used`` are (first frame, frames) allocated one by one as movable."""
    pair = Pair(512 * len(types), dict(enumerate(types)), release="2.6.24")
    for start, frames in used:
        for frame in range(start, start + frames):
            assert pair.take_at(frame, 0, MOVABLE) == "OK"
    # Pageblocks that were free as one block had one type until now.
    for block, kind in enumerate(types):
        pair.kernel.pageblock[block] = pair.plain.types[block] = kind
    return pair


def test_a_first_request_takes_the_largest_block_and_only_its_first_pageblock_changes_type() -> None:
    """1023 frames lie on unmovable lists then, half of them in a pageblock that is still movable."""
    pair = zone([MOVABLE, MOVABLE])
    assert pair.take(0, UNMOVABLE) == 0
    assert pair.types() == [UNMOVABLE, MOVABLE]
    assert pair.blocks(9, UNMOVABLE) == [512]
    assert pair.blocks(0, UNMOVABLE) == [1]
    assert (pair.events(Cause.CLAIM_BLOCK), pair.events(Cause.CLAIM_MOVED_FRAMES)) == (1, 1024)
    # An unmovable request takes its frames there, and freed they go to the movable list.
    assert pair.take(9, UNMOVABLE) == 512
    pair.free_live(512)
    assert pair.blocks(9, MOVABLE) == [512]
    pair.check()


def test_freed_blocks_go_to_the_head_of_the_freed_pageblocks_list() -> None:
    pair = zone([UNMOVABLE, MOVABLE], (0, 1024))
    for frame in (1, 3, 1023):
        pair.free_live(frame)
    assert (pair.blocks(0, UNMOVABLE), pair.blocks(0, MOVABLE)) == ([3, 1], [1023])
    pair.free([*range(0, 512, 2), *range(5, 512, 2)], [0] * 510)
    assert pair.blocks(9, UNMOVABLE) == [0]
    # Two pageblocks merge whatever their types; the one freed last decides.
    pair.free(list(range(512, 1023)), [0] * 511)
    assert pair.blocks(MAX_ORDER, MOVABLE) == [0]
    assert pair.types() == [UNMOVABLE, MOVABLE]
    pair.check()


@pytest.mark.parametrize("free", [16, 240, 256, 496])
@pytest.mark.parametrize("requested", [UNMOVABLE, RECLAIMABLE])
def test_from_order_4_on_blocks_move_and_with_half_of_it_the_pageblock(free: int, requested: int) -> None:
    """Alike frames count for nothing; what moved stays moved though the pageblock keeps its type."""
    pair = zone([MOVABLE], (0, 512))
    for start in range(0, free, 16):
        pair.free(list(range(start, start + 16)), [0] * 16)
    pair.take(0, requested)
    assert pair.types() == [requested if free >= 256 else MOVABLE]
    assert pair.events(Cause.CLAIM_MOVED_FRAMES) == free
    assert sum(len(pair.blocks(order, MOVABLE)) for order in range(11)) == 0
    assert sum(len(pair.blocks(order, requested)) << order for order in range(11)) == free - 1
    assert (pair.events(Cause.CLAIM_PAGEBLOCK), pair.events(Cause.CLAIM_REFUSED)) == (free >= 256, free < 256)
    pair.check()


@pytest.mark.parametrize("requested", [UNMOVABLE, RECLAIMABLE])
def test_below_order_4_only_reclaimable_requests_move_blocks(requested: int) -> None:
    """Others split the one block, and the rest stays on its list."""
    pair = zone([MOVABLE], (0, 512))
    for start in range(0, 512, 16):
        pair.free(list(range(start, start + 8)), [0] * 8)
    frame = pair.take(0, requested)
    assert frame == 496
    moved = requested == RECLAIMABLE
    assert pair.types() == [RECLAIMABLE if moved else MOVABLE]
    assert len(pair.blocks(3, MOVABLE)) == (0 if moved else 31)
    assert len(pair.blocks(2, requested if moved else MOVABLE)) == 1
    assert pair.events(Cause.STEAL) == (not moved)
    pair.check()


def test_moved_blocks_go_to_list_heads_by_address() -> None:
    """So the highest comes first; today they would go to the tail."""
    pair = zone([MOVABLE, UNMOVABLE], (0, 1024))
    pair.free_live(600)
    pair.free([16 * block + frame for block in (2, 5, 9) for frame in range(16)], [0] * 48)
    assert pair.take(1, UNMOVABLE) == 144
    assert pair.blocks(4, UNMOVABLE) == [80, 32]
    assert pair.blocks(0, UNMOVABLE) == [600]
    pair.check()


def test_a_larger_block_goes_before_the_tables_order() -> None:
    pair = zone([RECLAIMABLE, MOVABLE, MOVABLE, MOVABLE], (0, 512))
    pair.free(list(range(256)), [0] * 256)
    assert pair.take(0, UNMOVABLE) == 1024
    assert pair.types() == [RECLAIMABLE, MOVABLE, UNMOVABLE, MOVABLE]
    pair.check()


def test_the_reserve_serves_when_all_else_is_gone_and_keeps_its_type() -> None:
    pair = zone([RESERVE, MOVABLE], (512, 512))
    frame = pair.take(0, MOVABLE)
    assert frame == 0
    assert pair.kernel.state[0] == 32 + 16 * MOVABLE
    assert pair.types() == [RESERVE, MOVABLE]
    assert pair.events(Cause.RESERVE_BLOCK) == 1
    pair.free_live(700)
    assert pair.take(0, UNMOVABLE) == 700
    pair.free_live(0)
    assert pair.blocks(9, RESERVE) == [0]
    pair.check()


def test_isolated_blocks_serve_nobody() -> None:
    pair = zone([ISOLATE])
    for requested in (UNMOVABLE, MOVABLE, RECLAIMABLE):
        assert pair.allocate(0, requested) == (-1, 0)
    assert pair.events(Cause.ALLOCATION_FAILURE) == 3
    pair.check()


def test_2_6_23_has_one_list_an_order_for_everybody() -> None:
    pair = Pair(2048, release="2.6.23")
    frames = [pair.take(order, kind) for order, kind in ((0, MOVABLE), (0, UNMOVABLE), (3, RECLAIMABLE), (9, MOVABLE))]
    assert frames == [0, 1, 8, 512]
    assert pair.types() == [0] * 4
    # A block keeps what it was asked for.
    assert pair.kernel.state[0] == 32 + 16 * MOVABLE
    assert len(pair.kernel.list_types) == 0
    assert pair.allocate(10, UNMOVABLE) == (1024, 0)
    assert pair.allocate(10, UNMOVABLE) == (-1, 0)
    pair.free_live(1024)
    pair.free_live(1)
    pair.free_live(0)
    # What was freed last comes first, also if it will soon merge.
    assert pair.blocks(3, UNMOVABLE) == [0]
    assert pair.events(Cause.MERGE) == 3
    pair.check()


@pytest.mark.parametrize("release", ["2.6.24", "2.6.23"])
@pytest.mark.parametrize("seed", range(5))
def test_a_long_history_is_the_same(release: str, seed: int) -> None:
    rng = random.Random(seed)
    frames = rng.choice([2048, 4096, 2900, 4608 + 77])
    kinds = [] if release == "2.6.23" else [rng.choice((0, 1, 1, 2, 3)) for _ in range(frames >> 9)]
    pair = Pair(frames, dict(enumerate(kinds)), release=release)
    for number in range(1200):
        random_step(pair, rng, fullness=(0.97, 0.6, 0.3)[number // 200 % 3])
        if number % 12 == 0:
            pair.check()
    for frame in rng.sample(pair.live, len(pair.live)):
        pair.free_live(frame)
    pair.check()


def test_crowded_zones_meet_every_rule() -> None:
    causes = (Cause.CLAIM_BLOCK, Cause.CLAIM_PAGEBLOCK, Cause.CLAIM_REFUSED, Cause.STEAL, Cause.RESERVE_BLOCK)
    totals = dict.fromkeys(causes, 0)
    for seed in range(6):
        rng = random.Random(seed)
        pair = Pair(2048, {0: 3, 1: 3, 2: 0, 3: 1}, release="2.6.24")
        while pair.allocate(rng.choice((0, 0, 1, 3)), rng.choice((0, 1, 1, 2)))[0] >= 0:
            pass
        pair.check()
        for _ in range(600):
            random_step(pair, rng, 0.97)
        pair.check()
        for cause in causes:
            totals[cause] += pair.events(cause)
    assert all(count >= 10 for count in totals.values()), totals
