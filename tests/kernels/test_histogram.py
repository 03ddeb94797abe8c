"""Free frames of each 2 MiB, beside a plain count."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.zones import Pair, random_step
from tests.oracles.placement import PlainPlacement
from vckernels import histogram
from vckernels.buddy import ISOLATED, PER_CPU, Migratetype


@settings(max_examples=30)
@given(
    st.sampled_from([(1024, range(0)), (1536, range(0)), (2560, range(300, 911)), (1111, range(388))]),
    st.integers(0, 2**32),
)
def test_equals_a_plain_count(shape: tuple[int, range], seed: int) -> None:
    frames, holes = shape
    pair = Pair(frames, holes=holes)
    rng = random.Random(seed)
    counts = np.full(len(pair.plain.types), 9999, np.uint16)
    for _ in range(4):
        for _ in range(rng.randrange(40)):
            random_step(pair, rng)
        histogram.count_free_frames(pair.kernel, counts)
        assert counts.tolist() == PlainPlacement(pair.plain, "SMALLEST_BLOCK").free_in()


def test_frames_on_per_cpu_lists_and_isolated_ones_are_not_free() -> None:
    pair = Pair(1024)
    frame = pair.take(2, Migratetype.MOVABLE)
    counts = np.empty(2, np.uint16)
    for state in (PER_CPU - 4 * 2 - Migratetype.MOVABLE, ISOLATED):
        pair.kernel.state[frame] = state
        histogram.count_free_frames(pair.kernel, counts)
        assert counts.tolist() == [508, 512]
