"""Kernels of streams against plain Python: every offset, from anywhere in a stream."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import streams as oracle
from vckernels import streams
from vckernels.streams import GUIDES, WHOLE, Draw

seeds = st.integers(0, 2**63 - 1)
counts = st.integers(0, 200)
firsts = st.integers(0, 300)


def part(stream: Iterator[int], first: int, count: int) -> list[int]:
    """Return offsets ``first`` to ``first + count - 1``."""
    return list(itertools.islice(stream, first, first + count))


def empty(count: int) -> npt.NDArray[np.int64]:
    """Return room for offsets, filled with what no stream holds."""
    return np.full(count, -1, np.int64)


def guides(lengths: list[int]) -> npt.NDArray[np.int64]:
    """Return how many lengths are reached at each guide, counted one by one."""
    return np.array([sum(each <= i * (2**63 // GUIDES) for each in lengths) for i in range(GUIDES)], np.int64)


def test_the_words_are_those_of_splitmix64() -> None:
    """The outputs that its authors' and Vigna's implementations give for the state 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [oracle.splitmix64(1234567, index) for index in range(5)] == expected


@given(nbytes=st.integers(1, 2**56), unit=st.sampled_from([1, 8, 64]), first=firsts, count=counts, seed=seeds)
@pytest.mark.parametrize("draw", [Draw.OFFSET, Draw.BUCKET])
def test_uniform(draw: Draw, nbytes: int, unit: int, first: int, count: int, seed: int) -> None:
    offsets = empty(count)
    streams.uniform(offsets, first, nbytes, unit, seed, int(draw))
    assert offsets.tolist() == part(oracle.uniform(nbytes, seed, unit, draw), first, count)


@given(nbytes=st.integers(1, 2**44), steps=st.integers(1, 80), first=firsts, count=counts)
@pytest.mark.parametrize("name", ["sequential", "strided"])
def test_laps_of_a_stride(name: str, nbytes: int, steps: int, first: int, count: int) -> None:
    stride = max(1, nbytes // steps)
    offsets = empty(count)
    getattr(streams, name)(offsets, first, nbytes, stride)
    assert offsets.tolist() == part(getattr(oracle, name)(nbytes, stride), first, count)


@given(elements=st.integers(1, 80), stride=st.integers(1, 2**36), first=firsts, count=counts, seed=seeds)
def test_chase(elements: int, stride: int, first: int, count: int, seed: int) -> None:
    cycle = empty(elements)
    streams.permutation(cycle, seed)
    assert cycle.tolist() == oracle.permutation(elements, seed)
    streams.visits(cycle, stride, max(1, stride // 64), seed)
    offsets = empty(count)
    streams.laps(offsets, first, cycle)
    assert offsets.tolist() == part(oracle.chase(elements * stride, stride, seed), first, count)


def table(ranks: npt.NDArray[np.int64], exponent: int) -> npt.NDArray[np.int64]:
    """Return the alias table of some ranks."""
    weights, found = empty(len(ranks)), empty(len(ranks))
    high, low = streams.zipf_weights(ranks, exponent, weights)
    total = (int(high) << 32) + int(low)
    assert total == sum(weights.tolist())
    streams.zipf_table(weights, np.uint64((len(ranks) * WHOLE << 64) // total), found)
    return found


exponents = st.one_of(st.floats(0, 4), st.floats(0, 64), st.sampled_from([0.0, 0.5, 0.99, 1.0, 2.0, 64.0]))


@given(elements=st.integers(1, 60), exponent=exponents, seed=seeds)
def test_alias_tables_give_each_element_its_share_to_the_last_part(elements: int, exponent: float, seed: int) -> None:
    ranks = oracle.permutation(elements, seed)
    scaled = round(exponent * 2**32)
    found = [divmod(entry, 2**32) for entry in table(np.array(ranks, np.int64), scaled).tolist()]
    shares = oracle.zipf_shares(ranks, scaled)
    assert sum(shares) == elements * WHOLE
    assert found == oracle.alias_table(shares)
    given_to = [0] * elements
    for column, (threshold, other) in enumerate(found):
        assert 0 <= threshold < WHOLE
        given_to[column] += threshold
        given_to[other] += WHOLE - threshold
    assert given_to == shares


@given(
    elements=st.integers(1, 60), lines=st.integers(1, 2**20), exponent=exponents, first=firsts, count=counts, seed=seeds
)
def test_zipf(elements: int, lines: int, exponent: float, first: int, count: int, seed: int) -> None:
    stride = 64 * lines
    ranks = empty(elements)
    streams.permutation(ranks, seed)
    offsets = empty(count)
    streams.zipf(offsets, first, table(ranks, round(exponent * 2**32)), stride, lines, seed)
    assert offsets.tolist() == part(oracle.zipf(elements * stride, stride, exponent, seed), first, count)


def test_zipf_over_more_offsets_than_a_block() -> None:
    """Whole blocks and the rest of one, from the beginning or later."""
    ranks = empty(50)
    streams.permutation(ranks, 3)
    columns = table(ranks, round(0.99 * 2**32))
    expected = part(oracle.zipf(50 * 4096, 4096, 0.99, 3), 0, 2500)
    for first in (0, 7, 1024):
        offsets = empty(2500 - first)
        streams.zipf(offsets, first, columns, 4096, 64, 3)
        assert offsets.tolist() == expected[first:]


@given(rank=st.integers(1, streams.MAX_ELEMENTS), exponent=st.floats(0, 64))
def test_weights_are_powers(rank: int, exponent: float) -> None:
    """Both against plain Python exactly, and against floating point within what the kernel's docstring says."""
    weights, scaled = empty(1), round(exponent * 2**32)
    high, low = streams.zipf_weights(np.array([rank - 1], np.int64), scaled, weights)
    assert weights[0] == (int(high) << 32) + int(low) == oracle.weight(rank, scaled)
    expected = 2.0**62 * rank**-exponent
    assert abs(int(weights[0]) - expected) <= (exponent + 1) * 2**-29 * expected + 1
    assert 0 <= math.log2(rank) - oracle.logarithm(rank) / 2**32 < 4 / 2**32


tables = st.fixed_dictionaries(
    {
        "buckets": st.one_of(st.integers(1, 50), st.integers(1, 2**40)),
        "node_start": st.integers(0, 2**44),
        "nodes": st.one_of(st.integers(1, 50), st.integers(1, 2**40)),
    }
)


@given(memory=tables, load=st.one_of(st.floats(0, 3), st.floats(0, 64)), first=firsts, count=counts, seed=seeds)
def test_lookups(memory: dict[str, int], load: float, first: int, count: int, seed: int) -> None:
    lengths = oracle.chain_lengths(load)
    offsets = empty(count)
    begun = streams.lookups(
        offsets,
        first,
        memory["buckets"],
        memory["node_start"],
        memory["nodes"],
        np.array(lengths, np.int64),
        guides(lengths),
        seed,
    )
    expected: list[int] = []
    reads = itertools.islice(oracle.lookups(**memory, lengths=lengths, seed=seed), first, None)
    lookups = 0
    while len(expected) < count:
        expected += next(reads)
        lookups += 1
    assert offsets.tolist() == expected[:count]
    assert begun == lookups
