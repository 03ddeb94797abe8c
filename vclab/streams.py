"""Streams of byte offsets into a page or a working set: int64, deterministic by seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vclab.errors import ConfigurationError
from vclab.units import PAGE_BYTES

LINE_BYTES = 64


def _check(nbytes: int, count: int, stride: int = 1) -> None:
    if nbytes < 1 or count < 0 or not 1 <= stride <= nbytes:
        raise ConfigurationError(
            f"a stream of {count} offsets in {nbytes} bytes with stride {stride} does not exist; "
            "bytes and stride must be at least 1, the stride no larger than the bytes, the count at least 0"
        )


def uniform(nbytes: int, count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return independent offsets, each byte equally likely.

    Parameters
    ----------
    nbytes : int
        Size of what is accessed.
    count : int
        Number of offsets.
    seed : int
        Same seed, same offsets.
    """
    _check(nbytes, count)
    return np.random.default_rng(seed).integers(0, nbytes, count, dtype=np.int64)


def sequential(nbytes: int, count: int, stride: int = LINE_BYTES) -> npt.NDArray[np.int64]:
    """Return offsets 0, stride, 2 * stride ... that begin anew at the end."""
    _check(nbytes, count, stride)
    return np.arange(count, dtype=np.int64) % -(-nbytes // stride) * stride


def strided(nbytes: int, count: int, stride: int) -> npt.NDArray[np.int64]:
    """Return offsets a stride apart that wrap around, each lap starting one line further on."""
    _check(nbytes, count, stride)
    steps = -(-nbytes // stride)
    position = np.arange(count, dtype=np.int64)
    return (position % steps * stride + position // steps * LINE_BYTES) % nbytes


def chase(nbytes: int, count: int, seed: int = 0, stride: int = PAGE_BYTES) -> npt.NDArray[np.int64]:
    """Return the offsets of a pointer chase: one random cycle through one element in every ``stride`` bytes.

    Each element lies at a random line of its stride, the same at each visit, so that translation is exercised
    without every page using the same cache set.
    """
    _check(nbytes, count, stride)
    rng = np.random.default_rng(seed)
    elements = max(1, nbytes // stride)
    cycle = rng.permutation(elements)
    lines = rng.integers(0, max(1, stride // LINE_BYTES), elements) * LINE_BYTES
    visits = cycle * stride + lines[cycle]
    return np.resize(visits, count) if count > elements else visits[:count]
