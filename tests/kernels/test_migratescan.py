"""The migrate scanner against plain Python, and each of its rules by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.compactedzones import CompactedPair, full, random_zone
from tests.oracles.pages import PlainPage
from vckernels.buddy import Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import CompactMode

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = Migratetype


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_a_scan_takes_the_same_pages(seed: int) -> None:
    """Cluster after cluster; what was taken is put back, or freed as if it had moved away."""
    rng = random.Random(seed)
    pair = random_zone(rng)
    pair.set_run(migrate_held=0, files=int(rng.random() < 0.8), fast_start=rng.choice([-1, -1, -2, 700]))
    for _ in range(rng.choice([1, 4, 30])):
        pair.set_run(finish_pageblock=int(rng.random() < 0.2))
        found = pair.isolate_migrate()
        if rng.random() < 0.5:
            sources = pair.sources
            pair.put_sources_back()
            if rng.random() < 0.5:
                for frame in sources:
                    pair.release(frame)
        else:
            pair.put_sources_back()
        if not found and pair.run("migrate_at") // 512 >= pair.run("free_at") // 512:
            break
    pair.check_compaction()


# Clusters and ranges


def test_32_frames_are_taken_at_once_and_the_hint_is_set() -> None:
    pair = full(1536)
    pair.set_run(order=4, mode=CompactMode.SYNC_LIGHT, free_at=1024)
    assert pair.isolate_migrate()
    assert pair.sources == list(range(32))
    assert pair.run("migrate_at") == 32
    assert pair.plain_compaction.skip == {0}
    pair.put_sources_back()
    # Put back, they are the newest of their list, the first one taken the newest of all.
    assert pair.read_lru(2)[:32] == list(range(32))
    # In the middle of a pageblock the hint is not minded.
    assert pair.isolate_migrate()
    assert pair.sources == list(range(32, 64))
    pair.put_sources_back()
    pair.check_compaction()


def test_a_pageblock_to_be_finished_is_taken_whole() -> None:
    pair = full(1536)
    pair.set_run(order=4, mode=CompactMode.SYNC_LIGHT, free_at=1024, finish_pageblock=1)
    assert pair.isolate_migrate()
    assert len(pair.sources) == 512
    # The pageblock behind the next one is where later runs restart, as in the kernel.
    assert pair.zone("cached_migrate_sync") == 1024
    pair.put_sources_back()
    pair.check_compaction()


def test_direct_asynchronous_work_gives_up_a_range_with_an_obstacle() -> None:
    """Ranges of 16 frames: the first has a kernel page at its end, the second is good, and migrated at once."""
    pair = full(1024)
    pair.hold(15)
    pair.set_run(order=4, mode=CompactMode.ASYNC, direct=1, free_at=512)
    assert pair.isolate_migrate()
    assert pair.sources == list(range(16, 32))
    assert pair.run("migrate_at") == 32
    # What was taken of the first range is back on its list, newest.
    assert pair.read_lru(2)[:15] == list(range(15))
    pair.put_sources_back()
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 32
    assert pair.buddy.counters[Cause.ISOLATED_SOURCE] == 16


def test_an_obstacle_early_in_a_range_saves_looking_at_the_rest() -> None:
    pair = full(1024)
    pair.hold(2)
    pair.set_run(order=4, mode=CompactMode.ASYNC, direct=1, free_at=512)
    pair.isolate_migrate()
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 3 + 16
    pair.put_sources_back()


# What may be moved


@pytest.mark.parametrize(("order", "wanted", "taken"), [(2, 3, True), (3, 3, False), (4, 3, False), (8, -1, True)])
def test_pages_as_large_as_what_is_wanted_stay(order: int, wanted: int, taken: bool) -> None:
    pair = CompactedPair(1536)
    pair.take_at(0, order, MOVABLE)
    pair.add(0, PlainPage(7))
    pair.set_run(order=wanted, mode=CompactMode.SYNC, free_at=1024)
    assert pair.isolate_migrate() == taken
    assert pair.run("migrate_held") == (1 << order if taken else 0)
    # 32 frames are enough for once.
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == (256 if order == 8 else 512)
    pair.put_sources_back()
    pair.check_compaction()


def test_a_page_of_a_pageblock_keeps_its_pageblocks_from_being_scanned() -> None:
    pair = CompactedPair(1536)
    pair.take_at(0, 9, MOVABLE)
    pair.add(0, PlainPage(7))
    pair.take_at(512, 0, MOVABLE)
    pair.add(512, PlainPage(9))
    pair.set_run(order=-1, mode=CompactMode.SYNC, free_at=1024)
    assert pair.isolate_migrate()
    assert pair.sources == [512]
    pair.put_sources_back()
    pair.check_compaction()


def test_without_file_systems_only_anonymous_pages_move() -> None:
    pair = CompactedPair(1536)
    for frame in range(8):
        pair.take_at(frame, 0, MOVABLE)
        pair.add(frame, PlainPage(frame, anonymous=frame % 2 == 1, locked=frame == 3, dirty=frame == 5))
    pair.set_run(order=4, mode=CompactMode.SYNC, free_at=1024, files=0)
    assert pair.isolate_migrate()
    assert pair.sources == [1, 3, 5, 7]
    pair.put_sources_back()
    pair.check_compaction()


@pytest.mark.parametrize(
    ("mode", "direct", "wanted", "kinds", "found"),
    [
        (CompactMode.ASYNC, 1, MOVABLE, (0, 2, 1), 1024),
        (CompactMode.ASYNC, 1, UNMOVABLE, (1, 0, 1), 512),
        (CompactMode.ASYNC, 0, UNMOVABLE, (1, 0, 1), 0),
        (CompactMode.SYNC_LIGHT, 1, UNMOVABLE, (1, 0, 1), 0),
    ],
)
def test_direct_asynchronous_work_keeps_to_pageblocks_of_its_type(
    mode: int, direct: int, wanted: int, kinds: tuple[int, ...], found: int
) -> None:
    pair = full(2048, dict(enumerate(kinds)))
    pair.set_run(order=2, mode=mode, direct=direct, migratetype=int(wanted), free_at=1536)
    assert pair.isolate_migrate()
    assert pair.sources[0] == found
    pair.put_sources_back()
    pair.check_compaction()


def test_pageblocks_with_hints_are_passed_over_unless_hints_are_ignored() -> None:
    for ignored, found in ((0, 512), (1, 0)):
        pair = full(1536)
        pair.set_hint(0)
        pair.set_run(order=2, mode=CompactMode.SYNC, free_at=1024, ignore_hints=ignored)
        assert pair.isolate_migrate()
        assert pair.sources[0] == found
        pair.put_sources_back()


def test_the_migrate_scanner_does_not_enter_the_free_scanners_pageblock() -> None:
    pair = full(1024)
    pair.set_run(order=2, mode=CompactMode.SYNC, free_at=511)
    assert not pair.isolate_migrate()
    assert pair.run("migrate_at") == 0
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 0


# The fast search


def holed(frames: list[int]) -> CompactedPair:
    """Return a zone of 16 full pageblocks with free blocks of order 3, the first one given at the list's tail."""
    pair = full(8192)
    for start in frames:
        for frame in range(start, start + 8):
            pair.release(frame)
    assert pair.blocks(3) == frames[::-1]
    pair.set_run(order=9, mode=CompactMode.SYNC_LIGHT, direct=1, free_at=7680)
    return pair


def test_a_pageblock_with_free_blocks_in_the_first_half_is_chosen_and_the_list_turned() -> None:
    pair = holed([96, 2104, 6000, 7000])
    pair.set_hint(4)
    # From the head: 7000 and 6000 are too high, 2104 has a hint, 96 it is.
    assert pair.find_pageblock() == 0
    assert pair.run("fast_start") == 96
    assert pair.blocks(3) == [7000, 6000, 2104, 96]
    pair = holed([96, 2104, 6000, 7000])
    assert pair.find_pageblock() == 2048
    assert pair.blocks(3) == [96, 7000, 6000, 2104]
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 3
    pair.check_compaction()


def test_later_the_first_eighth_has_to_do() -> None:
    pair = holed([1032, 2104])
    pair.set_run(migrate_at=512)
    # (7680 - 512) / 8 = 896 frames from 512 on, down to a pageblock's start: below 1024.
    assert pair.find_pageblock() == 512
    assert pair.run("fast_failures") == 1


def test_after_33_looks_the_list_is_turned_and_the_search_ends() -> None:
    pair = holed([4096 + 16 * i for i in range(40)])
    assert pair.find_pageblock() == 0
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 34
    assert pair.blocks(3)[-1] == 4096 + 16 * (39 - 33)
    # A failure more: 17 looks.
    assert pair.find_pageblock() == 0
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 34 + 18
    pair.check_compaction()


def test_the_first_failure_goes_back_to_the_lowest_frame_found() -> None:
    pair = holed([1040])
    assert pair.find_pageblock() == 1024
    pair.set_hint(2)
    pair.set_run(migrate_at=1536)
    assert pair.find_pageblock() == 1040
    assert pair.run("migrate_at") == 1040
    assert pair.run("fast_start") == -2
    pair.set_run(migrate_at=2048)
    assert pair.find_pageblock() == 2048


@pytest.mark.parametrize(
    "values",
    [{"order": 3}, {"migratetype": 0}, {"ignore_hints": 1}, {"finish_pageblock": 1}, {"migrate_at": 5}, {"order": -1}],
)
def test_some_runs_go_on_where_they_are(values: dict[str, int]) -> None:
    pair = holed([1040])
    pair.set_run(**values)
    assert pair.find_pageblock() == values.get("migrate_at", 0)
    assert pair.buddy.counters[Cause.MIGRATE_SCANNED] == 0
