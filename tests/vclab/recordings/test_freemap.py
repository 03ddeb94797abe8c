"""Free blocks at one moment, beside a zone that is kept frame by frame."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.vclab.recordings.small import quick
from vclab.recordings import Operation
from vclab.recordings.freemap import (
    Contradictions,
    ZoneEvents,
    block_frames,
    blocks_by_zone,
    contradictions,
    free_blocks,
    free_frames,
    free_map,
    rewind,
)
from vclab.recordings.occupancy import FlagRuns
from vclab.recordings.procfiles import BuddyInfo, ZoneInfo

FRAMES = 4096
BUDDY = 1 << 10
ZONES = [ZoneInfo(0, "DMA", 1, 1023, 1023, 1023, {}), ZoneInfo(0, "Normal", 1024, 8192, 3072, 3072, {})]


def maximal(free: np.ndarray, borders: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """Return the largest aligned blocks, found frame by frame."""
    blocks = []
    frame = 0
    while frame < len(free):
        if not free[frame]:
            frame += 1
            continue
        order = 0
        while order < 10:
            size = 2 << order
            if frame % size or frame + size > len(free) or not free[frame : frame + size].all():
                break
            if any(frame < border < frame + size for border in borders):
                break
            order += 1
        blocks.append((frame, order))
        frame += 1 << order
    return blocks


class Machine:
    """Frames whose blocks are taken and freed while their flags are read, a piece at a time."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.free = np.zeros(FRAMES, bool)
        for _ in range(rng.randint(0, 30)):
            start = rng.randrange(1, FRAMES)
            self.free[start : start + rng.choice([1, 7, 64, 700])] = rng.random() < 0.7
        self.rows: list[tuple[int, int, int]] = []

    def step(self) -> None:
        order = self.rng.choice([0, 0, 0, 1, 3, 9])
        frame = self.rng.randrange(FRAMES >> order) << order
        block = self.free[frame : frame + (1 << order)]
        if block.all():
            self.rows.append((self.rng.choice([Operation.REMOVE, Operation.CLAIM]), order, frame))
        elif not block.any():
            self.rows.append((self.rng.choice([Operation.FREE, Operation.DRAIN]), order, frame))
        else:
            return
        block ^= True

    def events(self) -> ZoneEvents:
        columns = np.array(self.rows, np.int64).reshape(-1, 3)
        return ZoneEvents(columns[:, 0].astype(np.uint8), columns[:, 1].astype(np.int16), columns[:, 2])

    def read(self) -> tuple[np.ndarray, int, int]:
        """Read the flags while the machine works: return what was read, and the rows that it took."""
        first = len(self.rows)
        seen = np.zeros(FRAMES, bool)
        for start in range(0, FRAMES, 256):
            for _ in range(self.rng.randint(0, 12)):
                self.step()
            seen[start : start + 256] = self.free[start : start + 256]
        return seen, first, len(self.rows)


def runs(free: np.ndarray) -> FlagRuns:
    starts = np.flatnonzero(np.diff(free.astype(int), prepend=-1))
    return FlagRuns(starts, np.where(free[starts], BUDDY, 1 << 5).astype(np.uint64), len(free))


def buddyinfo(free: np.ndarray) -> BuddyInfo:
    blocks = free_blocks(free, [zone.start_pfn for zone in ZONES])
    return BuddyInfo(("DMA", "Normal"), blocks_by_zone(blocks, ZONES))


@quick
@given(st.integers(0, 2**32))
def test_rewinding_gives_the_frames_before_the_reading_began(seed: int) -> None:
    machine = Machine(random.Random(seed))
    for _ in range(20):
        machine.step()
    before = machine.free.copy()
    seen, first, end = machine.read()
    changed = int((seen != before).sum())
    assert rewind(seen, machine.events(), first, end) == changed
    assert (seen == before).all()


@quick
@given(st.integers(0, 2**32))
def test_the_moment_of_the_count_is_found_among_several(seed: int) -> None:
    machine = Machine(random.Random(seed))
    moments = []
    for _ in range(4):
        moments.append((len(machine.rows), machine.free.copy()))
        machine.step()
    counted_row, counted = machine.rng.choice(moments)
    seen, first, end = machine.read()
    found = free_map(runs(seen), machine.events(), range(first + 1), end, ZONES, buddyinfo(counted))
    assert found.distance == 0
    assert found.counted.tolist() == found.buddyinfo.tolist() == buddyinfo(counted).counts.tolist()
    if found.row == counted_row:
        assert list(zip(found.blocks.frames, found.blocks.orders, strict=True)) == maximal(counted, (1, 1024))


def test_a_count_that_no_moment_has_comes_with_its_distance() -> None:
    machine = Machine(random.Random(1))
    end = len(machine.rows)
    real = buddyinfo(machine.free)
    wrong = BuddyInfo(real.zone_names, real.counts + np.eye(2, 11, dtype=np.int64))
    found = free_map(runs(machine.free), machine.events(), range(end, end + 1), end, ZONES, wrong)
    assert found.distance == 2


@quick
@given(st.integers(0, 2**32), st.booleans())
def test_blocks_are_the_largest_aligned_ones(seed: int, border: bool) -> None:
    free = Machine(random.Random(seed)).free
    borders = (1537,) if border else ()
    blocks = free_blocks(free, borders)
    assert list(zip(blocks.frames.tolist(), blocks.orders.tolist(), strict=True)) == maximal(free, borders)


def test_flags_tell_what_is_free() -> None:
    flags = FlagRuns(np.array([0, 3, 5]), np.array([0, BUDDY | 1 << 5, 1 << 10], np.uint64), 7)
    assert free_frames(flags).tolist() == [False] * 3 + [True] * 4


@quick
@given(st.integers(0, 2**32), st.integers(0, 3))
def test_events_that_a_trace_lacks_are_found_where_they_show(seed: int, lacking: int) -> None:
    """Beside a walk over the events, frame by frame."""
    machine = Machine(random.Random(seed))
    before = machine.free.copy()
    for _ in range(200):
        machine.step()
    rows = machine.rows
    if not lacking:
        found = contradictions(before, machine.free, machine.events(), 0, len(rows))
        assert found == Contradictions(0, 0, 0)
    for _ in range(min(lacking, len(rows))):
        del rows[machine.rng.randrange(len(rows))]
    free = before.copy()
    removals = frees = 0
    for operation, order, frame in rows:
        for one in range(frame, frame + (1 << order)):
            freed = operation in (Operation.FREE, Operation.DRAIN)
            removals += free[one] and freed
            frees += not free[one] and not freed
            free[one] = freed
    found = contradictions(before, machine.free, machine.events(), 0, len(rows))
    assert found == Contradictions(removals, frees, int((free != machine.free).sum()))


@quick
@given(st.integers(0, 2**32))
def test_blocks_hold_the_frames_that_they_were_made_of(seed: int) -> None:
    free = Machine(random.Random(seed)).free
    assert (block_frames(free_blocks(free), len(free)) == free).all()
