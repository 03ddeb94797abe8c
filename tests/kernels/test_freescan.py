"""The free scanner against plain Python, and each of its rules by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.compactedzones import CompactedPair, full, random_zone
from tests.oracles.compaction import PlainLimits
from vckernels import compactcontrol
from vckernels.buddy import Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import CompactMode

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = Migratetype


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_a_scan_takes_the_same_blocks(seed: int) -> None:
    """Targets of all orders taken one after another, some held again, until there are none."""
    rng = random.Random(seed)
    pair = random_zone(rng)
    pair.check_compaction()
    for _ in range(rng.choice([1, 3, 40])):
        order = rng.choice((0, 0, 0, 1, 3))
        frame = pair.take_target(order)
        if frame < 0:
            break
        if rng.random() < 0.2:
            pair.hold_again(frame, order)
        else:
            # What moves there is allocated from then on.
            pair.buddy.state[frame] = 32 + 16 + order
            pair.plain.allocated[frame] = order, MOVABLE
        if pair.run("migrate_held") <= 0:
            pair.set_run(migrate_held=rng.choice([5, 32]))
            pair.set_run(migrate_at=min(pair.run("migrate_at") + 256, pair.plain.frames - 1))
    pair.check_compaction()
    pair.release_held()
    pair.check_compaction()


@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 32))
def test_hints_are_cleared_the_same(seed: int) -> None:
    rng = random.Random(seed)
    pair = random_zone(rng)
    for block in range(len(pair.compaction.skip)):
        if rng.random() < 0.6:
            pair.set_hint(block)
    pair.clear_hints()
    pair.check_compaction()
    pair.set_zone(flush_hints=1)
    pair.clear_hints()
    pair.check_compaction()
    assert pair.zone("flush_hints") == 0


# The walk


@pytest.mark.parametrize(("stride", "scanned", "taken"), [(1, 512, 8), (2, 256, 4), (8, 64, 1), (32, 16, 1)])
def test_a_walk_looks_at_every_strideth_frame(stride: int, scanned: int, taken: int) -> None:
    """Pages of one frame are passed one stride at a time; every free block that is met is taken."""
    pair = full(1024)
    for frame in (512, 515, 518, 521, 524, 527, 530, 533):
        pair.release(frame)
    pair.set_run(migrate_held=100, order=4)
    assert pair.isolate_in_pageblock(512, 1024, stride) == 1024
    assert pair.buddy.counters[Cause.FREE_SCANNED] == scanned
    assert pair.buddy.counters[Cause.ISOLATED_FREE] == taken
    pair.check_compaction()


def test_large_blocks_count_by_their_frames_and_are_passed_at_once() -> None:
    pair = CompactedPair(512, limits=PlainLimits(min=-10))
    pair.take_at(0, 8, UNMOVABLE)
    pair.take_at(256, 3, MOVABLE)
    pair.set_run(migrate_held=1 << 20, order=9)
    assert pair.isolate_in_pageblock(0, 512, 1) == 512
    assert pair.buddy.counters[Cause.FREE_SCANNED] == 512
    assert [pair.held_blocks(order) for order in (3, 4, 5, 6, 7)] == [[264], [272], [288], [320], [384]]
    pair.check_compaction()


def test_a_walk_ends_when_enough_is_held() -> None:
    pair = full(512)
    for frame in (100, 101, 200, 300):
        pair.release(frame)
    pair.set_run(migrate_held=2, order=4)
    assert pair.isolate_in_pageblock(0, 512, 1) == 102
    assert pair.held_blocks(1) == [100]
    assert pair.buddy.counters[Cause.FREE_SCANNED] == 102


def test_the_min_watermark_ends_a_walk() -> None:
    """A block is taken only while more than the mark and the block itself are free."""
    pair = full(512, limits=PlainLimits(min=3, boost=100))
    for frame in (10, 20, 30, 40, 50, 60):
        pair.release(frame)
    pair.set_run(migrate_held=32, order=4)
    # 6 and 5 free frames exceed 3 + 1; 4 do not. A boost does not count.
    assert pair.isolate_in_pageblock(0, 512, 1) == 30
    assert pair.held_blocks(0) == [10, 20]
    assert pair.release_held() == 20
    pair.check_compaction()


@pytest.mark.parametrize(("used", "order", "retyped"), [(128, 7, False), (0, 8, True), (None, 9, True)])
def test_half_a_pageblock_makes_its_pageblock_movable(used: int | None, order: int, retyped: bool) -> None:
    """The rest of its free blocks go to the movable lists too."""
    pair = CompactedPair(1024, {0: RECLAIMABLE})
    if used is not None:
        pair.take_at(used, 0, UNMOVABLE)
    pair.set_run(migrate_held=1, order=10)
    pair.isolate_in_pageblock(256 if order == 8 else 0, 512, 1)
    assert len(pair.held_blocks(order)) == 1
    assert pair.plain.types[0] == (MOVABLE if retyped else RECLAIMABLE)
    pair.check_compaction()


# The fast search


def singles(frames: list[int], zone_frames: int = 4096) -> CompactedPair:
    """Return a zone of full pageblocks in which single frames are free, the first one given at the list's tail."""
    pair = full(zone_frames)
    for frame in frames:
        pair.release(frame)
    assert pair.blocks(0) == frames[::-1]
    last = zone_frames - 512
    pair.set_run(order=9, direct=1, mode=CompactMode.SYNC_LIGHT, migrate_held=1, free_at=last, search_order=0)
    pair.set_zone(init_free=zone_frames, cached_free=last)
    return pair


def test_a_block_in_the_top_quarter_is_taken_and_its_list_turned() -> None:
    """From the tail: 100 and 200 are too low, 3000 will do; what was not looked at comes to the tail."""
    pair = singles([100, 200, 3000, 3500, 300])
    pair.fast_isolate()
    assert pair.held_blocks(0) == [3000]
    assert pair.blocks(0) == [200, 100, 300, 3500]
    assert pair.buddy.counters[Cause.FREE_SCANNED] == 3
    pair.check_compaction()


def test_the_best_in_the_top_half_will_do() -> None:
    """2000 and 2100 lie in the top half, not in the top quarter; each shortens the search by half: 16, 8, 4."""
    pair = singles([10, 2000, 2100, 20, 3000])
    pair.fast_isolate()
    assert pair.held_blocks(0) == [2100]
    assert pair.blocks(0) == [2000, 10, 3000, 20]
    assert pair.buddy.counters[Cause.FREE_SCANNED] == 4
    pair.check_compaction()


def test_a_search_that_finds_nothing_turns_the_list_and_is_shorter_next_time() -> None:
    pair = singles(list(range(0, 80, 2)))
    pair.fast_isolate()
    assert pair.held_blocks(0) == []
    assert pair.run("fast_failures") == 1
    # 16 were looked at from the tail; the last of them is the head now.
    assert pair.blocks(0)[0] == 30
    assert pair.buddy.counters[Cause.FREE_SCANNED] == 16
    pair.fast_isolate()
    assert pair.buddy.counters[Cause.FREE_SCANNED] == 16 + 8
    assert pair.blocks(0)[0] == 30 + 16
    pair.check_compaction()


def test_background_work_takes_more_of_the_pageblock_direct_asynchronous_work_does_not() -> None:
    for mode, taken in ((CompactMode.ASYNC, 1), (CompactMode.SYNC_LIGHT, 3)):
        pair = singles([3000, 3010, 3020, 5])
        pair.set_run(migrate_held=3, mode=mode)
        pair.fast_isolate()
        assert pair.run("free_held") == taken
        pair.check_compaction()


# Pageblocks


def test_a_full_pageblock_gets_a_hint_and_the_next_one_below_is_scanned() -> None:
    pair = full(2048)
    for frame in (600, 1030, 1040):
        pair.release(frame)
    pair.set_run(order=-1, mode=CompactMode.SYNC, migrate_held=3, free_at=1536, direct=1)
    pair.set_zone(cached_free=1536)
    pair.isolate_free()
    # 1536 to 2047 has nothing, 1024 to 1535 has two, and 512 to 1023 one: enough.
    assert pair.held_blocks(0) == [1030, 1040, 600]
    assert sorted(pair.plain_compaction.skip) == [2, 3]
    assert pair.run("free_at") == 601
    assert pair.zone("cached_free") == 512
    pair.check_compaction()


@pytest.mark.parametrize(("kind", "any_target", "taken"), [(0, 0, 0), (0, 1, 2), (1, 0, 2), (2, 0, 0), (3, 0, 0)])
def test_pages_move_to_movable_pageblocks_unless_any_will_do(kind: int, any_target: int, taken: int) -> None:
    pair = full(1024, {1: kind})
    pair.release(600)
    pair.release(700)
    pair.set_run(order=-1, mode=CompactMode.SYNC, migrate_held=5, free_at=512, any_target=any_target)
    pair.isolate_free()
    assert pair.run("free_held") == taken
    pair.check_compaction()


def test_what_would_serve_the_request_is_left_whole() -> None:
    pair = CompactedPair(1536)
    pair.set_run(order=9, mode=CompactMode.SYNC, migrate_held=5, free_at=1024, search_order=0)
    pair.isolate_free()
    assert pair.run("free_held") == 0
    assert pair.run("free_at") == 0
    pair.set_run(order=10, free_at=1024, search_order=0)
    pair.isolate_free()
    assert pair.run("free_held") == 512
    pair.check_compaction()


def test_a_hint_keeps_a_pageblock_from_being_scanned() -> None:
    for ignored, taken in ((0, 0), (1, 1)):
        pair = full(1024)
        pair.release(600)
        pair.set_hint(1)
        pair.set_run(order=-1, mode=CompactMode.SYNC, migrate_held=5, free_at=512, ignore_hints=ignored)
        pair.isolate_free()
        assert pair.run("free_held") == taken


# Putting off


def test_compaction_is_put_off_twice_as_long_after_each_failure() -> None:
    pair = CompactedPair(512)
    state, plain = pair.compaction, pair.plain_compaction
    lengths = []
    assert not compactcontrol.is_deferred(pair.buddy, state, 4)
    assert not plain.is_deferred(4)
    for _ in range(8):
        compactcontrol.defer(state, 4)
        plain.defer(4)
        length = 0
        while compactcontrol.is_deferred(pair.buddy, state, 4):
            assert plain.is_deferred(4)
            length += 1
        assert not plain.is_deferred(4)
        lengths.append(length)
    assert lengths == [1, 3, 7, 15, 31, 63, 63, 63]
    assert compactcontrol.is_restarting(state, 4)
    pair.check_compaction()


def test_success_lets_compaction_go_on_for_what_it_served() -> None:
    pair = CompactedPair(512)
    state, plain = pair.compaction, pair.plain_compaction
    for order, served in ((5, False), (3, True)):
        compactcontrol.defer(state, 4)
        plain.defer(4)
        compactcontrol.reset_deferral(state, order, served)
        plain.reset_deferral(order, served)
        pair.check_compaction()
        for tried in range(1, 8):
            assert compactcontrol.is_deferred(pair.buddy, state, tried) == plain.is_deferred(tried)
            pair.check_compaction()
