"""Reclaim against plain Python run by run, and its rules by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.reclaimedzones import OWNERS, ReclaimedPair, used_page
from tests.oracles.compaction import PlainLimits
from tests.oracles.pages import PlainPage
from vckernels import movelog, scanplan, workingset
from vckernels.causes import Cause
from vckernels.pages import Lru
from vckernels.workingset import ReclaimField


def filled(rng: random.Random, frames: int = 4096, cpus: int = 0, mapped: bool = False) -> ReclaimedPair:
    """Return a zone nearly full of pages of many kinds."""
    limits = PlainLimits(min=rng.choice([0, 30]), low=60, high=rng.choice([80, 300]), boost=rng.choice([0, 0, 512]))
    swap = rng.choice([0, 50, 100_000])
    pair = ReclaimedPair(frames, None, limits, swap, rng.choice([0, 60, 60, 100, 200]), cpus=cpus, mapped=mapped)
    owner = 0
    largest = rng.choice([0, 0, 4])
    while owner < OWNERS - 16:
        order = min(int(rng.expovariate(1.5)), largest)
        if pair.fault(order, used_page(rng, owner)) < 0:
            break
        owner += 1 << order
    for _ in range(rng.choice([0, 200])):
        if pair.listed:
            frame = rng.choice(pair.listed)
            pair.release(frame)
    return pair


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32), cpus=st.sampled_from([0, 0, 2]), mapped=st.booleans())
def test_runs_are_the_same(seed: int, cpus: int, mapped: bool) -> None:
    """Requests' own reclaim and kswapd, of all orders, with uses, writes and refaults between.

    On CPUs that keep lists of what is freed too, and with pages whose entries have accessed and dirty bits.
    """
    rng = random.Random(seed)
    pair = filled(rng, rng.choice([1024, 4096]), cpus, mapped)
    pair.check_reclaim()
    for _ in range(rng.choice([1, 4, 12])):
        pair.work_on(rng.randrange(2))
        if rng.random() < 0.6:
            pair.reclaim_direct(rng.choice((0, 0, 2, 4, 6, 9)))
        else:
            if rng.random() < 0.2:
                pair.limits[4] = pair.plain_reclaim.limits.boost = 200
            pair.kswapd(rng.choice((0, 0, 3, 9)))
        pair.check_reclaim()
        gone = [owner for owner in pair.plain_reclaim.shadows if rng.random() < 0.3]
        for owner in gone[:100]:
            page = used_page(rng, owner)
            if pair.fault(0, page) < 0:
                break
        listed = pair.listed
        pair.touch([frame for frame in listed if rng.random() < 0.2], rng.random() < 0.3)
        for write in (False, True):
            pair.access([owner for owner in pair.plain_reclaim.entries or () if rng.random() < 0.1], write)
        for frame in rng.sample(listed, min(20, len(listed))):
            pair.mark_used(frame)
        pair.check_reclaim()


def test_a_short_log_pauses_a_run_and_changes_nothing() -> None:
    pair = ReclaimedPair(4096, limits=PlainLimits(high=3000))
    for owner in range(4000):
        pair.fault(0, PlainPage(owner))
    pair.moves = movelog.new_moves(0)
    pair.kswapd(0)
    assert len(pair.log) > 1024
    pair.check_reclaim()


# What is taken


def few(pages: list[PlainPage], swap: int = 0, frames: int = 4096) -> ReclaimedPair:
    """Return a zone with these pages, the first one the oldest, at frames 0, 1, ..."""
    pair = ReclaimedPair(frames, swap=swap)
    for frame, page in enumerate(pages):
        assert pair.fault(0, page) == frame
    return pair


def test_clean_unused_pages_go_oldest_first() -> None:
    pair = few([PlainPage(owner) for owner in range(100)])
    # At priority 12, 11, ... nothing of 100 frames is scanned; 1, 3, 6, 12, 25 from priority 6 on.
    assert pair.reclaim_direct(0) == 1 + 3 + 6 + 11 + 19
    assert [owner for _, _, owner, _ in pair.log] == list(range(40))
    assert all(new == movelog.EVICTED for _, new, _, _ in pair.log)
    pair.check_reclaim()


def test_a_page_used_once_is_spared_once_used_again_it_is_active() -> None:
    pair = few([PlainPage(0, accessed=True), PlainPage(1, accessed=True, referenced=True)])
    for owner in range(2, 200):
        pair.fault(0, PlainPage(owner))
    pair.reclaim_direct(0)
    assert pair.plain_pages.pages[0].referenced
    assert not pair.plain_pages.pages[0].active
    assert pair.plain_pages.pages[1].active
    assert pair.read_lru(Lru.ACTIVE_FILE) == [1]
    pair.check_reclaim()


def test_a_marked_page_that_was_not_used_since_goes_if_it_is_clean() -> None:
    pair = few([PlainPage(owner, referenced=True) for owner in range(100)])
    assert pair.reclaim_direct(0) == 40
    assert pair.buddy.counters[Cause.PAGE_ACTIVATION] == 0


def test_dirty_pages_are_written_and_go_next_time() -> None:
    pair = few([PlainPage(owner, dirty=owner % 2 == 0) for owner in range(64)])
    pair.reclaim_direct(0)
    written = int(pair.buddy.counters[Cause.WRITE_BACK])
    assert written > 0
    # Written ones lie at the list's end, and went before younger clean ones.
    assert {0, 2, 4} <= {owner for _, _, owner, _ in pair.log}
    assert pair.buddy.counters[Cause.SWAP_OUT] == 0
    pair.check_reclaim()


@pytest.mark.parametrize(("swap", "gone"), [(0, 0), (10, 10), (1000, 40)])
def test_anonymous_pages_go_to_swap_while_it_has_room(swap: int, gone: int) -> None:
    pair = few([PlainPage(owner, anonymous=True, dirty=True) for owner in range(100)], swap=swap)
    frames = pair.reclaim_direct(0)
    assert (32 <= frames <= gone) if swap == 1000 else frames == gone
    assert pair.reclaim.fields[ReclaimField.SWAP_FREE] == swap - frames
    assert pair.buddy.counters[Cause.SWAP_OUT] >= frames
    pair.check_reclaim()


def test_locked_pages_are_never_looked_at() -> None:
    pair = few([PlainPage(owner, locked=True) for owner in range(100)])
    assert pair.reclaim_direct(0) == 0
    assert pair.buddy.counters[Cause.RECLAIM_SCANNED] == 0


def test_active_pages_become_inactive_when_there_are_more_of_them() -> None:
    pair = few([PlainPage(owner, active=True) for owner in range(600)])
    pair.reclaim_direct(0)
    assert pair.buddy.counters[Cause.PAGE_DEACTIVATION] > 0
    assert all(pair.plain_pages.pages[frame].workingset for frame in pair.read_lru(Lru.INACTIVE_FILE))
    pair.check_reclaim()


def test_plenty_of_inactive_file_pages_spares_anonymous_ones() -> None:
    pages = [PlainPage(owner, anonymous=owner % 2 == 0) for owner in range(4000)]
    pair = few(pages, swap=10_000)
    # Priority 12 looks at 4000 >> 12 = 0 frames of either, and 0 is not plenty; one is from priority 10 on.
    pair.reclaim_direct(0)
    kinds = {owner % 2 for _, _, owner, _ in pair.log}
    assert kinds == {1}
    pair.check_reclaim()


@pytest.mark.parametrize(("swappiness", "anonymous_share"), [(0, 0.0), (100, 0.5), (200, 1.0)])
def test_swappiness_divides_what_is_scanned(swappiness: int, anonymous_share: float) -> None:
    """Where the cache cannot be trimmed alone: its inactive list is short."""
    pair = ReclaimedPair(16384, swap=100_000, swappiness=swappiness)
    for owner in range(12_000):
        anonymous = owner % 2 == 0
        pair.fault(0, PlainPage(owner, anonymous=anonymous, active=not anonymous and owner % 4 == 1))
    for owner in range(12_000, 12_500):
        pair.fault(0, PlainPage(owner, active=True))
    pair.reclaim.fields[ReclaimField.MAY_SWAP] = 1
    pair.reclaim.fields[ReclaimField.PRIORITY] = 4
    scanplan.prepare(pair.buddy, pair.pages, pair.limits, pair.reclaim)
    scanplan.count_scans(pair.pages, pair.reclaim)
    scans = pair.reclaim.targets
    lengths = pair.pages.lengths >> 4
    assert scans[Lru.INACTIVE_ANONYMOUS] == int(lengths[Lru.INACTIVE_ANONYMOUS] * anonymous_share)
    assert scans[Lru.INACTIVE_FILE] == int(lengths[Lru.INACTIVE_FILE] * (1 - anonymous_share))


# Refaults


def test_a_refault_soon_after_is_active_a_first_use_is_not() -> None:
    pair = few([PlainPage(owner) for owner in range(100)] + [PlainPage(1000 + i, active=True) for i in range(60)])
    pair.reclaim_direct(0)
    evicted = [owner for _, _, owner, _ in pair.log]
    last, first = PlainPage(evicted[-1]), PlainPage(999)
    pair.fault(0, last)
    pair.fault(0, first)
    assert last.active
    assert not first.active
    assert pair.buddy.counters[Cause.REFAULT] == pair.buddy.counters[Cause.WORKINGSET_REFAULT] == 1
    pair.check_reclaim()


def test_a_refault_long_after_is_inactive() -> None:
    """More pages were evicted since than the active ones would have made room for."""
    pair = few([PlainPage(owner) for owner in range(100)])
    pair.reclaim_direct(0)
    page = PlainPage(0)
    pair.fault(0, page)
    assert not page.active
    assert pair.buddy.counters[Cause.REFAULT] == 1
    assert pair.buddy.counters[Cause.WORKINGSET_REFAULT] == 0
    pair.check_reclaim()


def test_a_page_of_the_working_set_is_one_again_and_its_kind_dearer() -> None:
    pair = few(
        [PlainPage(owner, workingset=True) for owner in range(100)]
        + [PlainPage(200 + i, active=True) for i in range(90)]
    )
    pair.reclaim_direct(0)
    page = PlainPage(pair.log[-1][2])
    pair.fault(0, page)
    assert page.workingset
    pair.check_reclaim()


def test_an_owner_that_is_no_more_gives_its_swap_back() -> None:
    pair = few([PlainPage(owner, anonymous=True) for owner in range(100)], swap=1000)
    frames = pair.reclaim_direct(0)
    assert pair.reclaim.fields[ReclaimField.SWAP_FREE] == 1000 - frames
    workingset.forget(pair.reclaim, 0)
    workingset.forget(pair.reclaim, 99)
    assert pair.reclaim.fields[ReclaimField.SWAP_FREE] == 1000 - frames + 1


# When it ends


def test_a_request_is_content_with_32_frames() -> None:
    pair = few([PlainPage(owner) for owner in range(4000)])
    frames = pair.reclaim_direct(0)
    assert 32 <= frames < 64
    assert pair.buddy.counters[Cause.DIRECT_RECLAIM] == 1


def test_a_high_order_is_reclaimed_for_until_compaction_can_begin() -> None:
    """Order 8 needs 512 frames above the low watermark, and a list of inactive pages long enough."""
    pair = ReclaimedPair(4096, limits=PlainLimits(min=10, low=20, high=30))
    for owner in range(4096):
        pair.fault(0, PlainPage(owner))
    order = list(pair.listed)
    random.Random(5).shuffle(order)
    for frame in order:
        pair.hold(frame)
        pair.put(frame, False)
    frames = pair.reclaim_direct(8)
    free = pair.plain_compaction.free_count
    assert 20 + 512 < free < 20 + 512 + 128
    assert frames == free
    # Now it is compaction's turn: reclaim does not touch a page. The high watermark counts for that.
    assert pair.reclaim_direct(8) >= 1
    pair.check_reclaim()


def test_kswapd_frees_up_to_the_high_watermark() -> None:
    pair = ReclaimedPair(4096, limits=PlainLimits(min=100, low=150, high=200))
    for owner in range(4000):
        pair.fault(0, PlainPage(owner))
    pair.kswapd(0)
    assert 200 < pair.plain_compaction.free_count <= 200 + 32 * 8
    free = pair.plain_compaction.free_count
    pair.kswapd(0)
    assert pair.plain_compaction.free_count == free
    pair.check_reclaim()


def test_a_boost_is_reclaimed_for_without_swap_and_taken_away() -> None:
    pair = ReclaimedPair(16384, limits=PlainLimits(min=10, low=20, high=30, boost=512), swap=10_000)
    for owner in range(12_000):
        pair.fault(0, PlainPage(owner, anonymous=owner % 2 == 0))
    pair.kswapd(0)
    assert pair.plain_reclaim.limits.boost == 0
    assert {owner % 2 for _, _, owner, _ in pair.log} == {1}
    pair.check_reclaim()


def test_kswapd_that_can_free_nothing_counts_its_failures() -> None:
    pair = ReclaimedPair(1024, limits=PlainLimits(min=10, low=20, high=1000))
    for owner in range(1000):
        pair.fault(0, PlainPage(owner, anonymous=True))
    for number in range(1, 4):
        pair.kswapd(0)
        assert pair.plain_reclaim.kswapd_failures == number
    pair.check_reclaim()
