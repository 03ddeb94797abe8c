"""Compaction against plain Python run by run, what it must keep, and its rules by hand."""

from __future__ import annotations

import random
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.compactedzones import CompactedPair, full
from tests.oracles.compaction import PlainLimits
from tests.oracles.pages import PlainPage
from vckernels import compaction as kernels
from vckernels import movelog, pcplist
from vckernels.buddy import PAGEBLOCK_FRAMES, Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import CAPTURE_OFF, ZoneField
from vckernels.compaction import CompactPriority
from vckernels.zone import Zone

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = Migratetype


def fragmented(rng: random.Random, frames: int, limits: PlainLimits | None = None, cpus: int = 0) -> CompactedPair:
    """Return a zone in which pages and kernel blocks of all sizes lie scattered."""
    kinds = {block: rng.choice((0, 1, 1, 1, 1, 2, 3)) for block in range(-(-frames // PAGEBLOCK_FRAMES))}
    pair = CompactedPair(frames, kinds, limits, cpus=cpus)
    largest = rng.choice([0, 0, 4, 9])
    pair.populate(rng, rng.choice([0.7, 0.95, 1.0]), rng.choice([0.3, 0.6, 0.8]), largest, rng.choice([0.0, 0.02, 0.2]))
    return pair


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32), cpus=st.sampled_from([0, 0, 2]))
def test_runs_of_all_kinds_are_the_same(seed: int, cpus: int) -> None:
    """Direct at each priority, in background, proactive and on demand, with allocations and frees between.

    On CPUs that keep lists of what is freed too.
    """
    rng = random.Random(seed)
    frames = rng.choice([1024, 2048, 2048 + 300, 4096])
    limits = PlainLimits(min=rng.choice([0, 20]), low=rng.choice([20, 60]), boost=rng.choice([0, 0, 30]))
    pair = fragmented(rng, frames, limits, cpus)
    owners = sorted(page.owner for page in pair.plain_pages.pages.values())
    for _ in range(rng.choice([1, 3, 12])):
        pair.work_on(rng.randrange(2))
        kind = rng.random()
        if kind < 0.7:
            order = rng.choice((1, 2, 3, 4, 5, 9, 9, 10))
            pair.direct(order, rng.choice((0, 1, 1, 2)), rng.choice(list(CompactPriority)), rng.random() < 0.8)
        elif kind < 0.85:
            pair.background(rng.choice((2, 4, 9)))
        else:
            pair.whole(rng.choice([0, 20, 100]))
        pair.check_run()
        if rng.random() < 0.5:
            order = rng.choice((0, 3, 9))
            pair.allocate(order, rng.choice((0, 1)))
        elif pair.plain_pages.pages:
            gone = rng.choice(list(pair.plain_pages.pages))
            size = pair.plain_pages.size(gone)
            for i in range(size):
                if pair.plain_pages.pages[gone].owner + i in owners:
                    owners.remove(pair.plain_pages.pages[gone].owner + i)
            pair.release(gone)
        pair.check()


@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 32))
def test_nothing_is_lost_and_owners_can_follow(seed: int) -> None:
    """Applying the log to a reverse map gives every frame's owner; kernel blocks stay; pages keep what they are."""
    rng = random.Random(seed)
    pair = fragmented(rng, 2048)
    pages = pair.plain_pages.pages
    # Owners' ids that do not overlap, so that each frame has one.
    for number, (frame, page) in enumerate(pages.items()):
        page.owner = number * 512
        pair.pages.owner[frame] = page.owner
    before = {page.owner + i: frame + i for frame, page in pages.items() for i in range(pair.plain_pages.size(frame))}
    kinds = {page.owner: astuple(page)[1:] for page in pages.values()}
    kernel_blocks = {frame: block for frame, block in pair.plain.allocated.items() if frame not in pages}
    free = pair.plain_compaction.free_count
    pair.whole()
    where = dict(before)
    for old, new, owner, order in pair.log:
        for i in range(1 << order):
            assert where[owner + i] == old + i
            where[owner + i] = new + i
    pages = pair.plain_pages.pages
    after = {page.owner + i: frame + i for frame, page in pages.items() for i in range(pair.plain_pages.size(frame))}
    assert where == after
    assert {frame: block for frame, block in pair.plain.allocated.items() if frame not in pages} == kernel_blocks
    assert pair.plain_compaction.free_count == free
    for page in pages.values():
        first = max(owner for owner in kinds if owner <= page.owner)
        assert astuple(page)[1:] == kinds[first]


def test_a_short_log_pauses_a_run_and_changes_nothing() -> None:
    rng = random.Random(3)
    pair = CompactedPair(8192)
    pair.populate(rng, 0.9, 0.4, 0, 0.0)
    pair.moves = movelog.new_moves(0)
    assert len(pair.moves.old) == 1024
    assert pair.whole() == "COMPLETE"
    assert len(pair.log) > 1024
    pair.check_run()


# What compaction is for


@pytest.mark.parametrize("priority", list(CompactPriority))
def test_every_second_frame_free_becomes_a_huge_page(priority: int) -> None:
    pair = full(4096)
    for frame in range(0, 4096, 2):
        pair.release(frame)
    assert pair.plain.lists[1, MOVABLE] == pair.plain.lists[9, MOVABLE]
    assert pair.direct(9, MOVABLE, priority) == "SUCCESS"
    captured = pair.plain_compaction.captured
    assert captured is not None
    assert pair.plain.allocated[captured] == (9, MOVABLE)
    assert pair.buddy.counters[Cause.CAPTURE] == 1
    # Half of a pageblock's pages had to move, and not many more.
    assert 256 <= pair.buddy.counters[Cause.PAGE_MIGRATED] <= 512
    # 32 frames first; coming back to the same pageblock, the rest of it at once.
    assert pair.buddy.counters[Cause.MIGRATION_BATCH] == 2
    pair.check_run()


@pytest.mark.parametrize("cpu", [0, 1])
def test_what_moved_lies_on_the_cpus_lists_until_the_scanner_has_left(cpu: int) -> None:
    """Then they are drained, and the last frame of a pageblock to come back makes it the request's."""
    pair = CompactedPair(4096, cpus=2)
    for frame in range(4096):
        pair.take_at(frame, 0, MOVABLE)
        pair.add(frame, PlainPage(frame))
    pair.work_on(1 - cpu)
    for frame in range(0, 4096, 2):
        pair.release(frame)
    assert pair.cpus is not None
    for one in pair.cpus.cpus:
        pair.cpus.drain_all(one)
    for number in range(2):
        pcplist.drain_all(Zone(pair.buddy, pair.limits, pair.pages.per_cpu), number)
    pair.check()
    pair.work_on(cpu)
    freed, drained = (int(pair.buddy.counters[cause]) for cause in (Cause.PER_CPU_FREE, Cause.PER_CPU_DRAIN))
    assert pair.direct(9, MOVABLE, CompactPriority.SYNC_LIGHT) == "SUCCESS"
    assert pair.buddy.counters[Cause.CAPTURE] == 1
    moved = int(pair.buddy.counters[Cause.PAGE_MIGRATED])
    assert pair.buddy.counters[Cause.PER_CPU_FREE] - freed >= moved >= 256
    assert pair.buddy.counters[Cause.PER_CPU_DRAIN] > drained
    assert [one.count > 0 for one in pair.cpus.cpus] == [number == cpu for number in range(2)]
    pair.check_run()


def test_one_kernel_page_in_each_pageblock_defeats_it_and_it_is_put_off() -> None:
    pair = full(4096)
    for frame in range(0, 4096, 2):
        pair.release(frame)
    for frame in range(1, 4096, 512):
        pair.release(frame)
        pair.take_at(frame, 0, UNMOVABLE)
    assert pair.direct(9, MOVABLE, CompactPriority.SYNC_LIGHT) == "PARTIAL_SKIPPED"
    assert pair.zone("defer_shift") == 1
    assert pair.direct(9, MOVABLE, CompactPriority.SYNC_LIGHT) == "DEFERRED"
    # At full priority nothing is put off.
    assert pair.direct(9, MOVABLE, CompactPriority.SYNC_FULL) == "COMPLETE"
    pair.check_run()


def test_an_unmovable_request_captures_no_small_block_of_a_movable_pageblock() -> None:
    for kind, captures in ((MOVABLE, 1), (UNMOVABLE, 0)):
        pair = full(4096)
        for frame in range(0, 4096, 2):
            pair.release(frame)
        pair.direct(4, int(kind), CompactPriority.SYNC_LIGHT)
        assert pair.buddy.counters[Cause.CAPTURE] == captures
        pair.check_run()


def test_a_large_page_moves_whole_if_there_is_a_block_and_in_pieces_if_not() -> None:
    for room, splits in ((True, 0), (False, 1)):
        pair = CompactedPair(1536, limits=PlainLimits(min=-10))
        pair.take_at(0, 3, MOVABLE)
        pair.add(0, PlainPage(100, anonymous=True))
        for frame in range(512, 1536):
            pair.take_at(frame, 0, MOVABLE)
            pair.add(frame, PlainPage(1000 + frame, locked=True))
        # Not movable, so that only the page at 0 can go: eight frames together, or eight apart.
        for frame in range(512, 1536):
            pair.hold(frame)
        for i in range(8):
            pair.release(1024 + (i if room else 2 * i))
        for frame in range(8, 512):
            if frame in pair.plain.free:
                pair.take_at(frame, pair.plain.free[frame], UNMOVABLE)
        pair.whole()
        assert pair.buddy.counters[Cause.PAGE_SPLIT] == splits
        assert pair.buddy.counters[Cause.PAGE_MIGRATED] == 8
        owners = [(owner, order) for _, _, owner, order in pair.log]
        assert owners == ([(100, 3)] if room else [(100 + i, 0) for i in (*range(1, 8), 0)])
        pair.check_run()


# Whether it begins


@pytest.mark.parametrize(
    ("free", "order", "low", "result"),
    [
        (200, 4, 0, "CONTINUE"),
        (33, 4, 0, "CONTINUE"),
        (32, 4, 0, "SKIPPED"),
        (200, 4, 168, "SKIPPED"),
        (9, 2, 168, "CONTINUE"),
    ],
)
def test_twice_the_request_must_be_free_above_a_watermark(free: int, order: int, low: int, result: str) -> None:
    """The low one above order 3, else the min one."""
    pair = full(2048, limits=PlainLimits(min=0, low=low))
    for frame in range(0, 2 * free, 2):
        pair.release(frame)
    flags = (0, 2, 0)
    verdict = kernels.judge_request(pair.buddy, pair.limits, order, flags[1], 0)
    assert kernels.CompactResult(verdict).name == result == pair.plain_compaction.judge(order)


def test_a_request_that_can_be_served_needs_no_run() -> None:
    pair = CompactedPair(2048)
    assert pair.direct(9, MOVABLE, CompactPriority.ASYNC) == "SUCCESS"
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 0


def test_above_order_3_a_low_fragmentation_index_means_that_memory_is_wanting() -> None:
    """Order 6 with 32 blocks of 8 frames each: 1000 - (1000 + 256000 / 64) / 32 = 843; with 2 of 32 it is -500."""
    pair = full(2048)
    for start in range(0, 1024, 64):
        for frame in range(start, start + 32):
            pair.release(frame)
    # 16 blocks of 32 frames: 1000 - (1000 + 512000 / 64) // 16 = 438.
    assert kernels.fragmentation_index(pair.buddy, 6) == pair.plain_compaction.index(6) == 438
    assert pair.direct(6, MOVABLE, CompactPriority.SYNC_LIGHT) == "SKIPPED"
    assert pair.direct(10, MOVABLE, CompactPriority.SYNC_LIGHT) == "SKIPPED"
    assert kernels.fragmentation_index(pair.buddy, 5) == -1000
    pair.check_run()


@pytest.mark.parametrize("proactiveness", [20, 60, 100])
def test_proactive_work_ends_when_the_zone_is_good_enough(proactiveness: int) -> None:
    pair = full(8192)
    for frame in range(0, 8192, 2):
        pair.release(frame)
    assert kernels.fragmentation_score(pair.buddy) == 100
    assert kernels.wants_proactive(pair.buddy, proactiveness, 8192, False)
    assert not kernels.wants_proactive(pair.buddy, proactiveness, 8192, True)
    assert not kernels.wants_proactive(pair.buddy, 0, 8192, False)
    # Of a node ten times as large the zone's score counts a tenth.
    assert kernels.wants_proactive(pair.buddy, proactiveness, 81920, False) == (max(100 - proactiveness, 5) + 10 < 9)
    result = pair.whole(proactiveness)
    score = kernels.fragmentation_score(pair.buddy)
    assert (result == "SUCCESS") == (score <= max(100 - proactiveness, 5))
    assert not kernels.wants_proactive(pair.buddy, proactiveness, 8192, False) or result == "COMPLETE"
    pair.check_run()


def test_proactive_work_makes_way_for_kswapd() -> None:
    pair = full(2048)
    kernels.begin_whole_zone(pair.buddy, pair.pages, pair.compaction, 20)
    pair.compaction.run[kernels.RunField.KSWAPD_RUNS] = 1
    assert pair.finish() == "PARTIAL_SKIPPED"


def test_background_work_captures_nothing() -> None:
    pair = full(4096)
    for frame in range(0, 4096, 2):
        pair.release(frame)
    assert pair.background(9) == "SUCCESS"
    assert pair.compaction.run[kernels.RunField.CAPTURED] == CAPTURE_OFF
    assert pair.buddy.counters[Cause.CAPTURE] == 0
    assert len(pair.blocks(9)) == 1
    pair.check_run()


def test_hints_are_cleared_when_compaction_restarts() -> None:
    """After 2**6 times put off; a direct run through the zone has asked for it."""
    pair = full(4096)
    # Every eighth frame is looked at for use: those are pages, and free ones too in the upper half.
    for frame in [*range(1, 2048, 2), *range(2048, 4096, 2)]:
        pair.release(frame)
    for block in range(8):
        pair.set_hint(block)
    pair.set_zone(order_failed=9, defer_shift=6, considered=63, flush_hints=1)
    assert pair.direct(9, MOVABLE, CompactPriority.SYNC_LIGHT) == "SUCCESS"
    assert pair.compaction.zone[ZoneField.FLUSH_HINTS] == 0
    assert pair.compaction.zone[ZoneField.INIT_MIGRATE] == 0
    pair.check_run()


def test_work_of_a_run_grows_with_the_zone_and_not_faster() -> None:
    """Frames looked at: one pass of each scanner, and what is rescanned, a pageblock at most once."""
    looked_at = []
    for frames in (4096, 16384):
        pair = full(frames)
        for frame in range(0, frames, 2):
            pair.release(frame)
        kernels.begin_whole_zone(pair.buddy, pair.pages, pair.compaction, 0)
        pair.finish()
        looked_at.append(int(pair.buddy.counters[[Cause.MIGRATE_SCANNED, Cause.FREE_SCANNED]].sum()))
        assert looked_at[-1] <= 2 * frames
        np.testing.assert_array_equal(pair.pages.lengths[:5].sum(), frames // 2)
    assert looked_at[1] <= 4.5 * looked_at[0]
