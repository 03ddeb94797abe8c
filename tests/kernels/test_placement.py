"""Single frames under three rules of placement, beside the plain rules."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.zones import Pair
from tests.oracles.placement import PlainPlacement
from vckernels import placement as kernels
from vckernels.causes import Status
from vckernels.placement import FrameSet, Placement

PLACEMENTS = list(Placement)


def members(frames: FrameSet, size: int) -> list[int]:
    """Return a set's members, read from its lowest level."""
    words = frames.words[: -(-size // 64)]
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


class PlacedPair(Pair):
    """A kernel zone and a plain one whose single frames are placed by the same rule."""

    def __init__(self, frames: int, placement: Placement, holes: range = range(0)) -> None:
        super().__init__(frames, holes=holes)
        self.placement = placement
        self.placed = kernels.new_placed_zone(self.kernel)
        self.rule = PlainPlacement(self.plain, placement.name)

    def get(self, count: int) -> list[int]:
        """Ask both for frames one by one; return those that there were."""
        frames = np.full(count, -7, np.int32)
        served = kernels.get_frames(self.placed, self.placement, frames)
        expected = []
        while len(expected) < count and (frame := self.rule.get()) >= 0:
            expected.append(frame)
        assert served == len(expected)
        assert frames[:served].tolist() == expected
        return expected

    def put(self, frames: list[int]) -> int:
        """Free frames in both up to the first that is refused; return how many were freed."""
        freed = kernels.put_frames(self.placed, self.placement, np.array(frames, np.int32))
        statuses = []
        for frame in frames:
            statuses.append(self.rule.put(frame))
            if statuses[-1] != "OK":
                break
        assert freed == statuses.count("OK")
        return int(freed)

    def check(self) -> None:
        """Compare allocators, counts of each 2 MiB and, where it is kept, the set of free frames."""
        super().check()
        assert self.placed.free_in.tolist() == self.rule.free_in()
        if self.placement == Placement.LOWEST_ADDRESS:
            free = [frame + part for frame, order in self.plain.free.items() for part in range(1 << order)]
            assert members(self.placed.free, self.plain.frames) == sorted(free)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(PLACEMENTS),
    st.sampled_from([(1024, range(0)), (1536, range(0)), (2560, range(300, 911)), (2048, range(388))]),
    st.integers(0, 2**32),
)
def test_equals_the_plain_rules(placement: Placement, shape: tuple[int, range], seed: int) -> None:
    frames, holes = shape
    pair = PlacedPair(frames, placement, holes)
    rng = random.Random(seed)
    for _ in range(12):
        if pair.live and rng.random() < 0.5:
            count = rng.randrange(len(pair.live)) + 1
            assert pair.put(rng.sample(pair.live, count)) == count
        else:
            pair.get(rng.randrange(1, frames // 3))
    pair.check()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_hands_out_every_frame_once_and_no_more(placement: Placement) -> None:
    pair = PlacedPair(1536, placement)
    assert sorted(pair.get(2000)) == list(range(1536))
    pair.check()
    assert pair.put(list(range(1536))) == 1536
    pair.check()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_refuses_what_is_not_allocated(placement: Placement) -> None:
    pair = PlacedPair(1024, placement)
    frames = pair.get(3)
    assert pair.put([frames[0], frames[0], frames[1]]) == 1
    assert pair.put([-1]) == pair.put([1024]) == 0
    pair.check()


def test_lowest_address_is_the_lowest_free_frame_whatever_block_it_begins() -> None:
    pair = PlacedPair(4096, Placement.LOWEST_ADDRESS)
    assert pair.get(3000) == list(range(3000))
    assert pair.put([2999, 700, 20]) == 3
    assert pair.get(5) == [20, 700, 2999, 3000, 3001]


def test_largest_block_takes_one_frame_of_every_largest_block_first() -> None:
    pair = PlacedPair(4096, Placement.LARGEST_BLOCK)
    assert sorted(pair.get(4)) == [0, 1024, 2048, 3072]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 64, 65, 4096, 4097, 300_000]), st.integers(0, 2**32))
def test_frame_set_gives_its_least_member(size: int, seed: int) -> None:
    rng = random.Random(seed)
    kernel, plain = kernels.new_frame_set(size), set()
    assert kernels.lowest_frame(kernel) == -1
    for _ in range(200):
        frame = rng.randrange(size)
        if rng.random() < 0.5:
            kernels.add_frame(kernel, frame)
            plain.add(frame)
        else:
            frame = rng.choice(sorted(plain)) if plain and rng.random() < 0.8 else frame
            kernels.discard_frame(kernel, frame)
            plain.discard(frame)
        assert kernels.lowest_frame(kernel) == min(plain, default=-1)
    assert members(kernel, size) == sorted(plain)


def test_shuffle_moves_a_sample_to_the_end_and_keeps_every_frame() -> None:
    counts = np.zeros(10, np.int64)
    for seed in range(2000):
        frames = np.arange(10, dtype=np.int32)
        kernels.shuffle_tail(frames, 3, np.random.default_rng(seed))
        assert sorted(frames.tolist()) == list(range(10))
        counts[frames[-3:]] += 1
    # Each is drawn with probability 3/10: 600 of 2000, within 4.4 standard deviations.
    assert np.abs(counts - 600).max() <= 90


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_round_replaces_frames_and_holds_as_many(placement: Placement) -> None:
    zone = kernels.new_placed_zone(Pair(4096).kernel)
    held = np.empty(2000, np.int32)
    assert kernels.get_frames(zone, placement, held) == 2000
    before = set(held.tolist())
    rng = np.random.default_rng(1)
    assert kernels.replace_frames(zone, placement, held, 200, rng) == Status.OK
    assert len(set(held.tolist())) == 2000
    assert set(held[:1800].tolist()) <= before
    assert int(zone.free_in.sum()) == 4096 - 2000
    held[-1] = held[-2]
    assert kernels.replace_frames(zone, placement, held, 2000, rng) == Status.NOT_ALLOCATED
