"""Reclaim of 2.6.24 against plain Python run by run, and its rules by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.reclaimedzones import OWNERS, ReclaimedPair, used_page
from tests.oracles.compaction import PlainLimits
from tests.oracles.lumpy import PlainLumpy
from tests.oracles.pages import PlainPage
from vckernels import freeing, lumpy
from vckernels.causes import Cause
from vckernels.pages import Lru
from vckernels.watermark import ZoneIndex
from vckernels.workingset import ReclaimField


class LumpyPair(ReclaimedPair):
    """One zone of 2007, twice: pages of one frame on two lists."""

    def __init__(
        self,
        frames: int,
        limits: PlainLimits | None = None,
        swap: int = 0,
        swappiness: int = 60,
        cpus: int = 0,
        mapped: bool = False,
    ) -> None:
        super().__init__(frames, None, limits, swap, swappiness, split_lists=False, cpus=cpus, mapped=mapped)
        self.plain_reclaim = self.plain_lumpy = PlainLumpy(self.plain_compaction, swap, swappiness, managed=frames)
        self._map_plainly()

    def run(self, order: int, kswapd: bool) -> int:
        """Run kswapd's or a request's own reclaim in both."""
        lumpy.begin_lumpy(self.buddy, self.reclaim, order, ZoneIndex.NORMAL, kswapd)
        while True:
            state = (self.buddy, self.pages, self.limits, self.reclaim, self.entries, self.moves)
            answer = lumpy.advance_lumpy(*state)
            self.empty_log()
            if answer != lumpy.PAUSED:
                break
        expected = self.plain_lumpy.kswapd(order) if kswapd else self.plain_lumpy.direct(order)
        assert answer == expected
        return int(answer)

    def check_lumpy(self) -> None:
        """Compare all that both remember."""
        plain = self.plain_lumpy
        expected = {
            ReclaimField.PLANNED_ACTIVE: plain.planned_active,
            ReclaimField.PLANNED_INACTIVE: plain.planned_inactive,
            ReclaimField.PREVIOUS_PRIORITY: plain.previous_priority,
            ReclaimField.SCANNED_IN_VAIN: plain.in_vain,
            ReclaimField.UNRECLAIMABLE: int(plain.unreclaimable),
        }
        assert {name: int(self.reclaim.fields[name]) for name in expected} == expected
        self.check_reclaim()


def filled(rng: random.Random, frames: int, cpus: int = 0, mapped: bool = False) -> LumpyPair:
    """Return a zone nearly full of pages of both kinds, kernel blocks between them."""
    high = rng.choice([20, 100])
    swap = rng.choice([0, 30, 100_000])
    pair = LumpyPair(frames, PlainLimits(high=high), swap, rng.choice([0, 60, 100]), cpus, mapped)
    owner = 0
    while owner < OWNERS:
        if rng.random() < 0.05:
            if pair.allocate(rng.choice((0, 0, 2)), 0) < 0:
                break
        elif pair.fault(0, used_page(rng, owner)) < 0:
            break
        owner += 1
    for frame in rng.sample(pair.listed, len(pair.listed)):
        pair.hold(frame)
        pair.put(frame, False)
    return pair


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32), cpus=st.sampled_from([0, 0, 2]), mapped=st.booleans())
def test_runs_are_the_same(seed: int, cpus: int, mapped: bool) -> None:
    rng = random.Random(seed)
    pair = filled(rng, rng.choice([1024, 2048]), cpus, mapped)
    pair.check_lumpy()
    for _ in range(rng.choice([1, 3, 10])):
        pair.work_on(rng.randrange(2))
        pair.run(rng.choice((0, 0, 1, 3, 4, 6, 10)), rng.random() < 0.3)
        pair.check_lumpy()
        for owner in [owner for owner in pair.plain_reclaim.shadows if rng.random() < 0.4][:300]:
            if pair.fault(0, used_page(rng, owner)) < 0:
                break
        listed = pair.listed
        pair.touch([frame for frame in listed if rng.random() < 0.3], rng.random() < 0.4)
        for write in (False, True):
            pair.access([owner for owner in pair.plain_reclaim.entries or () if rng.random() < 0.15], write)
        pair.check_lumpy()


def cache(frames: int, **page: bool) -> LumpyPair:
    """Return a zone full of pages alike, the oldest at frame 0."""
    pair = LumpyPair(frames, swap=100_000)
    for frame in range(frames):
        pair.take_at(frame, 0, 1)
        pair.add(frame, PlainPage(frame, **page))
    return pair


def test_a_lump_is_the_aligned_block_around_the_oldest_page() -> None:
    """Order 3: eight frames around each of them; order 0 takes the oldest alone."""
    pair = cache(2048)
    # The oldest pages are every 64th, in the middle of their blocks.
    for frame in range(64 * 20 + 5, 0, -64):
        pair.hold(frame)
        pair.put(frame, True)
    assert pair.run(3, False) == 1
    lumps = sorted({old // 8 for old, *_ in pair.log})
    assert len(pair.log) == 8 * len(lumps)
    assert lumps == [(64 * i + 5) // 8 for i in range(len(lumps))]
    # All of them merge.
    assert len(pair.blocks(3)) == len(lumps)
    pair.check_lumpy()


def test_active_neighbours_come_along_above_order_3_only() -> None:
    """Every second page is active; the lump's own kind is that of the page at the list's end."""
    for both, taken in ((False, [0, 2, 4, 6]), (True, [0, *range(1, 8)])):
        pair = cache(256)
        for frame in range(1, 256, 2):
            pair.activate(frame)
        pair.reclaim.fields[ReclaimField.ORDER] = 3
        count, scanned = lumpy.hold_lumps(pair.buddy, pair.pages, pair.reclaim, lumpy.INACTIVE, 1, both)
        assert count == scanned == len(taken)
        assert pair.reclaim.held[:count].tolist() == taken


@pytest.mark.parametrize(("order", "spared"), [(0, True), (3, True), (4, False), (10, False)])
def test_use_spares_anonymous_pages_up_to_order_3(order: int, spared: bool) -> None:
    pair = cache(1024, anonymous=True, accessed=True)
    before = len(pair.log)
    pair.run(order, False)
    first = pair.buddy.counters[Cause.PAGE_ACTIVATION]
    assert (first > 0) == spared
    if not spared:
        assert len(pair.log) > before
    pair.check_lumpy()


def test_above_order_3_a_request_waits_for_what_it_writes_kswapd_does_not() -> None:
    for kswapd, waits in ((False, True), (True, False)):
        pair = LumpyPair(1024, PlainLimits(high=20))
        for frame in range(1024):
            pair.take_at(frame, 0, 1)
            pair.add(frame, PlainPage(frame, dirty=True))
        pair.run(4, kswapd)
        assert pair.buddy.counters[Cause.WRITE_BACK] > 0
        assert (pair.buddy.counters[Cause.CONGESTION_WAIT] > 0) >= waits
        pair.check_lumpy()


def test_mapped_pages_become_inactive_only_in_distress() -> None:
    """Swappiness 60 and half of 50 % mapped are 85: 15 more come with priority 2."""
    pair = LumpyPair(2048, swap=100_000)
    for frame in range(2048):
        pair.take_at(frame, 0, 1)
        pair.add(frame, PlainPage(frame, anonymous=frame % 2 == 0, active=True))
    fields = pair.reclaim.fields
    for priority, wanted in ((12, False), (3, False), (2, True), (0, True)):
        fields[ReclaimField.PRIORITY] = priority
        # With lists of about the same length.
        pair.pages.lengths[Lru.INACTIVE_FILE] += 2048
        assert lumpy.wants_mapped(pair.pages, pair.limits, pair.reclaim) == wanted
        pair.pages.lengths[Lru.INACTIVE_FILE] -= 2048
    # An active list two thousand times as long as the other one counts more than all of that.
    fields[ReclaimField.PRIORITY] = 12
    assert lumpy.wants_mapped(pair.pages, pair.limits, pair.reclaim)


def test_small_plans_come_together_over_the_passes() -> None:
    pair = cache(100)
    pair.run(0, False)
    # 101 frames at most are planned; none is scanned before 32 have come together.
    assert pair.buddy.counters[Cause.RECLAIM_SCANNED] > 0
    assert pair.plain_lumpy.planned_active == 13 or pair.plain_lumpy.planned_active < 32
    pair.check_lumpy()


def test_kswapd_gives_a_zone_up_after_scanning_it_six_times() -> None:
    pair = LumpyPair(512, PlainLimits(high=100))
    for frame in range(512):
        pair.take_at(frame, 0, 1)
        pair.add(frame, PlainPage(frame, anonymous=True))
    assert pair.run(0, True) == 0
    assert pair.plain_lumpy.unreclaimable
    # A request finds no progress then.
    assert pair.run(0, False) == 0
    pair.check_lumpy()


def test_kswapd_balances_for_the_order_wanted() -> None:
    """Order 6: blocks enough must come together, not just frames."""
    rng = random.Random(7)
    pair = LumpyPair(4096, PlainLimits(high=64), swap=100_000)
    for frame in range(4096):
        pair.take_at(frame, 0, 1)
        pair.add(frame, PlainPage(frame))
    for frame in rng.sample(range(4096), 4096):
        pair.hold(frame)
        pair.put(frame, False)
    pair.run(6, True)
    assert any(pair.blocks(order) for order in range(6, 11))
    freed = np.array([old for old, *_ in pair.log])
    # In lumps, most of what was freed lies in whole blocks.
    whole = [block for block in range(64) if np.count_nonzero(freed // 64 == block) == 64]
    assert 64 * len(whole) >= 0.9 * len(freed)
    pair.check_lumpy()


@pytest.mark.parametrize("cpus", [0, 2])
def test_what_ends_goes_in_vectors_of_fourteen_each_from_the_last_to_the_first(cpus: int) -> None:
    pair = LumpyPair(256, cpus=cpus)
    frames = [pair.fault(0, PlainPage(owner)) for owner in range(100)]
    random.Random(1).shuffle(frames)
    ended = frames[:40]
    freed = freeing.release_pages(pair.buddy, pair.pages, np.array(ended))
    assert freed == 40
    for start in range(0, 40, 14):
        for frame in reversed(ended[start : start + 14]):
            assert pair.plain_pages.release(frame) == "OK"
    pair.check_lumpy()
    # A frame named twice ends that, in the vector that has it.
    again = np.array([frames[50], frames[51], frames[50], *frames[60:80]])
    assert freeing.release_pages(pair.buddy, pair.pages, again) < len(again)
