"""Streams: where their offsets lie, in which order, and that a seed decides."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import streams as oracle
from vclab import streams
from vclab.errors import ConfigurationError

Stream = Callable[..., npt.NDArray[np.int64]]
STREAMS: dict[str, Stream] = {
    "uniform": lambda nbytes, count, _, seed: streams.uniform(nbytes, count, seed=seed),
    "sequential": lambda nbytes, count, stride, _: streams.sequential(nbytes, count, stride=stride),
    "strided": lambda nbytes, count, stride, _: streams.strided(nbytes, count, stride),
    "chase": lambda nbytes, count, stride, seed: streams.chase(nbytes, count, seed=seed, stride=stride),
    "zipf": lambda nbytes, count, stride, seed: streams.zipf(nbytes, count, seed=seed, stride=stride),
    "hash_table": lambda nbytes, count, _, seed: streams.hash_table(nbytes, count, seed=seed),
    "bucket heads": lambda nbytes, count, _, seed: streams.hash_table(nbytes, count, seed=seed, chains=False),
}


def each(*names: str) -> pytest.MarkDecorator:
    """Run a test with some streams; each takes bytes, count, stride and seed."""
    return pytest.mark.parametrize("stream", [STREAMS[name] for name in names], ids=names)


every_stream = each(*STREAMS)


@every_stream
@given(
    # The least that a hash table takes is a bucket of 8 bytes and a node of 64, each at its place.
    nbytes=st.integers(1, 1 << 44).map(lambda nbytes: nbytes + 127),
    count=st.integers(0, 300),
    part=st.integers(1, 1000),
    seed=st.integers(0, 1 << 40),
)
def test_offsets_are_int64_inside_what_is_accessed(
    stream: Stream, nbytes: int, count: int, part: int, seed: int
) -> None:
    # Chase and zipf hold all of their elements, so these are few here.
    stride = max(1, nbytes // part)
    offsets = stream(nbytes, count, stride, seed)
    assert offsets.dtype == np.int64
    assert offsets.shape == (count,)
    assert ((offsets >= 0) & (offsets < nbytes)).all()
    np.testing.assert_array_equal(offsets, stream(nbytes, count, stride, seed))
    np.testing.assert_array_equal(offsets[: count // 3], stream(nbytes, count // 3, stride, seed))


@each("uniform", "sequential", "strided", "chase", "zipf")
@given(nbytes=st.integers(1, 200), count=st.integers(0, 50), stride=st.integers(1, 200))
def test_little_memory_is_enough_for_what_needs_no_buckets(
    stream: Stream, nbytes: int, count: int, stride: int
) -> None:
    offsets = stream(nbytes, count, min(stride, nbytes), 1)
    assert offsets.shape == (count,)
    assert ((offsets >= 0) & (offsets < nbytes)).all()


@every_stream
@pytest.mark.parametrize(("nbytes", "count", "stride"), [(0, 1, 1), (-4096, 1, 1), (4096, -1, 64)])
def test_streams_that_do_not_exist_are_refused(stream: Stream, nbytes: int, count: int, stride: int) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        stream(nbytes, count, stride, 0)


@pytest.mark.parametrize("stride", [0, -64, 4097])
@each("sequential", "strided", "chase", "zipf")
def test_strides_that_do_not_exist_are_refused(stream: Stream, stride: int) -> None:
    with pytest.raises(ConfigurationError, match="stride"):
        stream(4096, 10, stride, 0)


@pytest.mark.parametrize("seed", [-1, 1 << 63])
@each("uniform", "chase", "zipf", "hash_table", "bucket heads")
def test_seeds_that_do_not_exist_are_refused(stream: Stream, seed: int) -> None:
    with pytest.raises(ConfigurationError, match="seed"):
        stream(1 << 20, 10, 4096, seed)


@each("chase", "zipf")
def test_more_elements_than_can_be_ordered_are_refused(stream: Stream) -> None:
    with pytest.raises(ConfigurationError, match="larger stride"):
        stream(1 << 42, 1, 64, 0)


@each("uniform", "chase", "zipf", "hash_table", "bucket heads")
def test_another_seed_is_another_stream(stream: Stream) -> None:
    first, second = (stream(1 << 30, 1000, 4096, seed) for seed in (1, 2))
    assert (first == second).mean() < 0.1


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (lambda: streams.uniform(1 << 42, 10_000, seed=7), "2b5dd06b4c0e91a9"),
        (lambda: streams.chase(1 << 24, 10_000, seed=7), "a470cc3720ddbd72"),
        (lambda: streams.zipf(1 << 24, 10_000, seed=7), "e68fe9bdcd0243eb"),
        (lambda: streams.zipf(1 << 24, 10_000, seed=7, exponent=1.37, stride=1000), "55a79a756d407a89"),
        (lambda: streams.hash_table(1 << 24, 10_000, seed=7), "702a42d68f2985e2"),
        (lambda: streams.hash_table(1 << 24, 10_000, seed=7, load=5.5, bucket_share=0.1), "07de07f9526590e9"),
        (lambda: streams.hash_table(1 << 24, 10_000, seed=7, chains=False), "23d9b412fad5511e"),
    ],
    ids=["uniform", "chase", "zipf", "zipf 1.37", "hash_table", "hash_table 5.5", "bucket heads"],
)
def test_a_seed_gives_the_same_offsets_on_every_machine(
    stream: Callable[[], npt.NDArray[np.int64]], expected: str
) -> None:
    """Digests on record: what differs from them is another stream, and results under it are other results."""
    assert streams.digest(stream()) == expected


def test_a_digest_is_that_of_the_offsets_alone() -> None:
    offsets = streams.uniform(1 << 20, 1000, seed=1)
    found = streams.digest(offsets)
    assert len(found) == 16 and int(found, 16) >= 0
    assert streams.digest(offsets.astype(">i8")) == found
    assert streams.digest(np.repeat(offsets, 2)[::2]) == found
    assert streams.digest(offsets[:-1]) != found
    assert streams.digest(offsets[::-1]) != found
    assert (
        streams.digest(np.array([1, 256], np.int64))
        == hashlib.blake2b(b"\1" + bytes(7) + b"\0\1" + bytes(6), digest_size=8).hexdigest()
    )


# Streams are fixed by their seeds, so a test of chance either always holds or never: 1e-4 leaves room for a bad seed.
RARE = 1e-4


@pytest.mark.parametrize(("nbytes", "cells"), [(64, 64), (1000, 1000), (3 << 40, 96)])
def test_uniform_offsets_reach_every_part_about_as_often(nbytes: int, cells: int) -> None:
    offsets = streams.uniform(nbytes, 200_000, seed=9)
    times = np.bincount(offsets // (nbytes // cells), minlength=cells)
    assert scipy.stats.chisquare(times).pvalue > RARE
    # What follows an offset does not depend on it, and neither do the last bits on the place.
    pairs = np.bincount(offsets[:-1] * 8 // nbytes * 8 + offsets[1:] * 8 // nbytes, minlength=64)
    assert scipy.stats.chisquare(pairs).pvalue > RARE
    assert scipy.stats.chisquare(np.bincount(offsets % 8, minlength=8)).pvalue > RARE


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


def test_cycles_are_random() -> None:
    """Of five elements, each of the 120 orders about as often."""
    orders = [tuple((streams.chase(5 * 64, 5, seed=seed, stride=64) // 64).tolist()) for seed in range(6000)]
    times = [orders.count(order) for order in itertools.permutations(range(5))]
    assert scipy.stats.chisquare(times).pvalue > RARE


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.99, 1.0, 2.5])
def test_zipf_ranks_follow_the_power_law(exponent: float) -> None:
    """Which element has which rank comes from the plain oracle, how often it is drawn from the stream."""
    elements, count = 200, 200_000
    offsets = streams.zipf(elements * 4096, count, seed=5, exponent=exponent)
    ranks = np.array(oracle.permutation(elements, 5))
    times = np.zeros(elements)
    times[ranks] = np.bincount(offsets // 4096, minlength=elements)
    expected = np.arange(1, elements + 1.0) ** -exponent
    expected *= count / expected.sum()
    # The rare ranks together, as the test wants at least some five of each.
    common = expected >= 5
    times = np.append(times[common], times[~common].sum())[: common.sum() + (~common).any()]
    expected = np.append(expected[common], expected[~common].sum())[: len(times)]
    assert scipy.stats.chisquare(times, expected).pvalue > RARE


def test_zipf_reads_all_lines_of_a_popular_element() -> None:
    offsets = streams.zipf(1 << 24, 300_000, seed=2)
    elements, times = np.unique(offsets // 4096, return_counts=True)
    popular = offsets[offsets // 4096 == elements[times.argmax()]]
    assert (offsets % 64 == 0).all()
    assert scipy.stats.chisquare(np.bincount(popular % 4096 // 64, minlength=64)).pvalue > RARE


def test_zipf_ranks_are_scattered() -> None:
    """Popular elements are not neighbours: the upper half of draws comes from all parts of the memory."""
    offsets = streams.zipf(1 << 26, 400_000, seed=3)
    times = np.bincount(offsets >> 12, minlength=1 << 14)
    popular = np.sort(np.argsort(-times)[:512])
    assert scipy.stats.chisquare(np.bincount(popular >> 10, minlength=16)).pvalue > RARE


@pytest.mark.parametrize("exponent", [-0.1, 64.1, float("nan"), float("inf")])
def test_exponents_that_do_not_exist_are_refused(exponent: float) -> None:
    with pytest.raises(ConfigurationError, match="exponent"):
        streams.zipf(1 << 20, 1, exponent=exponent)


def lookups(offsets: npt.NDArray[np.int64], node_start: int) -> list[tuple[int, ...]]:
    """Return what each lookup reads, the last one (which may be cut) left out."""
    starts = np.flatnonzero(offsets < node_start)
    return [tuple(reads.tolist()) for reads in np.split(offsets, starts)[1:-1]]


@pytest.mark.parametrize("load", [0.5, 1.0, 4.0])
def test_a_bucket_has_the_same_chain_at_each_lookup(load: float) -> None:
    """What is read is always the beginning of one chain; lengths are Poisson, positions equally likely."""
    buckets = 2000
    nbytes = round(buckets * (8 + 64 * load))
    found = lookups(streams.hash_table(nbytes, 400_000, seed=6, load=load), buckets * 8)
    chains: dict[int, tuple[int, ...]] = {}
    for head, *nodes in found:
        assert head % 8 == 0
        chain = chains.setdefault(head, tuple(nodes))
        assert chain[: len(nodes)] == tuple(nodes[: len(chain)])
        chains[head] = max(chain, tuple(nodes), key=len)
    assert len(chains) == buckets
    lengths = np.bincount([len(chain) for chain in chains.values()])
    most = int(load + 2 * load**0.5)
    expected = buckets * scipy.stats.poisson.pmf(np.arange(most + 1), load)
    expected = np.append(expected, buckets - expected.sum())
    assert scipy.stats.chisquare(np.append(lengths[: most + 1], lengths[most + 1 :].sum()), expected).pvalue > RARE
    places = np.array([node for chain in chains.values() for node in chain])
    assert ((places - buckets * 8) % 64 == 0).all() and places.max() + 64 <= nbytes
    assert scipy.stats.chisquare(np.histogram(places, 16, (buckets * 8, nbytes))[0]).pvalue > RARE
    ends = [len(nodes) for head, *nodes in found if len(chains[head]) == 3]
    assert scipy.stats.chisquare(np.bincount(ends, minlength=4)[1:]).pvalue > RARE


def test_heads_alone_are_those_of_the_whole_lookups() -> None:
    whole = streams.hash_table(1 << 20, 10_000, seed=3, bucket_share=0.25)
    heads = [reads[0] for reads in lookups(whole, 1 << 18)]
    assert streams.hash_table(1 << 18, len(heads), seed=3, chains=False).tolist() == heads
    assert streams.hash_table(1 << 18, len(heads), seed=3, bucket_share=1.0, load=0).tolist() == heads


def test_buckets_take_what_nodes_leave() -> None:
    """By default 8 bytes of 8 + 64 * load; a share says otherwise; nodes begin at a line."""
    for load, buckets in ((0.0, 1 << 17), (1.0, (1 << 20) // 72), (3.0, (1 << 20) // 200)):
        offsets = streams.hash_table(1 << 20, 300_000, load=load)
        nodes = offsets[offsets >= buckets * 8]
        assert offsets[offsets < buckets * 8].max() > 0.999 * buckets * 8 - 8
        assert (load == 0) == (len(nodes) == 0)
        assert (nodes % 64 == 0).all()
    offsets = streams.hash_table(1 << 20, 300_000, bucket_share=0.75)
    assert (offsets < 0.75 * (1 << 20)).mean() == pytest.approx(1 / (1 + (2 - np.exp(-1)) / 2), abs=0.01)


@pytest.mark.parametrize(
    "settings",
    [{"load": -1.0}, {"load": 65.0}, {"load": float("nan")}, {"bucket_share": 0.0}, {"bucket_share": 1.5}],
)
def test_hash_tables_that_do_not_exist_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        streams.hash_table(1 << 20, 1, **settings)


@pytest.mark.parametrize(
    ("nbytes", "settings"),
    [(7, {"chains": False}), (71, {}), (1 << 20, {"bucket_share": 1.0}), (1 << 20, {"bucket_share": 1e-9})],
)
def test_hash_tables_without_room_are_refused(nbytes: int, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="room"):
        streams.hash_table(nbytes, 1, **settings)
