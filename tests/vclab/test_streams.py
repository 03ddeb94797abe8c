"""Streams: where their offsets lie, in which order, and that a seed decides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclab import streams
from vclab.errors import ConfigurationError

Stream = Callable[..., npt.NDArray[np.int64]]
STREAMS: list[Stream] = [
    lambda nbytes, count, _, seed: streams.uniform(nbytes, count, seed=seed),
    lambda nbytes, count, stride, _: streams.sequential(nbytes, count, stride=stride),
    lambda nbytes, count, stride, _: streams.strided(nbytes, count, stride),
    lambda nbytes, count, stride, seed: streams.chase(nbytes, count, seed=seed, stride=stride),
]
every_stream = pytest.mark.parametrize("stream", STREAMS, ids=["uniform", "sequential", "strided", "chase"])


@every_stream
@given(
    nbytes=st.integers(1, 1 << 44), count=st.integers(0, 300), part=st.integers(1, 1000), seed=st.integers(0, 1 << 40)
)
def test_offsets_are_int64_inside_what_is_accessed(
    stream: Stream, nbytes: int, count: int, part: int, seed: int
) -> None:
    # A chase holds its whole cycle, so its elements are few here.
    stride = max(1, nbytes // part)
    offsets = stream(nbytes, count, stride, seed)
    assert offsets.dtype == np.int64
    assert offsets.shape == (count,)
    assert ((offsets >= 0) & (offsets < nbytes)).all()
    np.testing.assert_array_equal(offsets, stream(nbytes, count, stride, seed))


@every_stream
@pytest.mark.parametrize(("nbytes", "count", "stride"), [(0, 1, 1), (-4096, 1, 1), (4096, -1, 64)])
def test_streams_that_do_not_exist_are_refused(stream: Stream, nbytes: int, count: int, stride: int) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        stream(nbytes, count, stride, 0)


@pytest.mark.parametrize("stride", [0, -64, 4097])
@pytest.mark.parametrize("stream", STREAMS[1:], ids=["sequential", "strided", "chase"])
def test_strides_that_do_not_exist_are_refused(stream: Stream, stride: int) -> None:
    with pytest.raises(ConfigurationError, match="stride"):
        stream(4096, 10, stride, 0)


def test_uniform_offsets_reach_every_byte_about_as_often() -> None:
    offsets = streams.uniform(64, 64_000, seed=9)
    times = np.bincount(offsets, minlength=64)
    # 63 degrees of freedom: chi squared is below 120 but for one stream in 20,000; this one is fixed by its seed.
    assert ((times - 1000) ** 2 / 1000).sum() < 120
    assert not np.array_equal(offsets, streams.uniform(64, 64_000, seed=10))


def test_sequential_offsets_begin_anew_at_the_end() -> None:
    assert streams.sequential(256, 6).tolist() == [0, 64, 128, 192, 0, 64]
    assert streams.sequential(250, 5, stride=100).tolist() == [0, 100, 200, 0, 100]
    assert streams.sequential(64, 3, stride=64).tolist() == [0, 0, 0]


def test_strided_laps_begin_one_line_further_on() -> None:
    assert streams.strided(512, 6, 256).tolist() == [0, 256, 64, 320, 128, 384]
    # The lap that would leave the end wraps around.
    assert streams.strided(256, 5, 256).tolist() == [0, 64, 128, 192, 0]


@pytest.mark.parametrize(
    ("nbytes", "stride"), [(1 << 20, 4096), (1 << 16, 64), (10_000, 700), (4096, 4096), (5000, 4096)]
)
def test_a_chase_is_one_cycle_through_all_elements(nbytes: int, stride: int) -> None:
    """Every element once before any comes again, in the same order each lap, at one line of its stride."""
    elements = nbytes // stride
    offsets = streams.chase(nbytes, 3 * elements + 1, seed=4, stride=stride)
    laps = offsets[:-1].reshape(3, elements)
    assert (laps == laps[0]).all()
    assert offsets[-1] == offsets[0]
    assert sorted((laps[0] // stride).tolist()) == list(range(elements))
    assert (laps[0] % stride % 64 == 0).all()
    if elements > 100:
        lines = laps[0] % stride // 64
        assert stride == 64 or len(np.unique(lines)) > 8
        assert not np.array_equal(laps[0], streams.chase(nbytes, elements, seed=5, stride=stride))


def test_a_short_chase_is_the_beginning_of_a_long_one() -> None:
    long = streams.chase(1 << 20, 1000, seed=4)
    assert streams.chase(1 << 20, 17, seed=4).tolist() == long[:17].tolist()
