"""Streams of byte offsets into a page or a working set: int64, deterministic by seed.

Randomness is a hash of seed and counter, not a NumPy generator: the same on any machine and under any version, and
any part of a stream can be made without what precedes it. A stream knows only how many bytes there are; several pages
are laid end to end by whoever accesses them.
"""

from __future__ import annotations

import decimal
import hashlib

import numpy as np
import numpy.typing as npt

from vckernels import streams as kernels
from vckernels.streams import BUCKET_BYTES, GUIDES, LINE_BYTES, MAX_ELEMENTS, NODE_BYTES, WHOLE, Draw
from vclab.errors import ConfigurationError
from vclab.units import PAGE_BYTES

MAX_EXPONENT = 64
MAX_LOAD = 64


def _check(nbytes: int, count: int, stride: int = 1, seed: int = 0) -> None:
    if nbytes < 1 or count < 0 or not 1 <= stride <= nbytes:
        raise ConfigurationError(
            f"a stream of {count} offsets in {nbytes} bytes with stride {stride} does not exist; "
            "bytes and stride must be at least 1, the stride no larger than the bytes, the count at least 0"
        )
    if not 0 <= seed < 1 << 63:
        raise ConfigurationError(f"seed {seed} of a stream does not exist; seeds are 0 to 2**63 - 1")


def _permutation(nbytes: int, stride: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the numbers of all elements of ``stride`` bytes in random order, int64[elements]."""
    elements = nbytes // stride
    if elements > MAX_ELEMENTS:
        raise ConfigurationError(
            f"{elements} elements of {stride} bytes in {nbytes} bytes are too many to be put in random order; "
            f"with a larger stride there would be at most {MAX_ELEMENTS}"
        )
    order = np.empty(elements, np.int64)
    kernels.permutation(order, seed)
    return order


def uniform(nbytes: int, count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return independent offsets, each byte equally likely.

    Parameters
    ----------
    nbytes : int
        Size of what is accessed.
    count : int
        Number of offsets.
    seed : int
        Same seed, same offsets; not negative.

    Raises
    ------
    ConfigurationError
        Where such a stream does not exist.
    """
    _check(nbytes, count, seed=seed)
    offsets = np.empty(count, np.int64)
    kernels.uniform(offsets, 0, nbytes, 1, seed, int(Draw.OFFSET))
    return offsets


def sequential(nbytes: int, count: int, stride: int = LINE_BYTES) -> npt.NDArray[np.int64]:
    """Return offsets 0, stride, 2 * stride ... that begin anew at the end."""
    _check(nbytes, count, stride)
    offsets = np.empty(count, np.int64)
    kernels.sequential(offsets, 0, nbytes, stride)
    return offsets


def strided(nbytes: int, count: int, stride: int) -> npt.NDArray[np.int64]:
    """Return offsets a stride apart that wrap around, each lap starting one line further on."""
    _check(nbytes, count, stride)
    offsets = np.empty(count, np.int64)
    kernels.strided(offsets, 0, nbytes, stride)
    return offsets


def chase(nbytes: int, count: int, seed: int = 0, stride: int = PAGE_BYTES) -> npt.NDArray[np.int64]:
    """Return the offsets of a pointer chase: one random cycle through one element in every ``stride`` bytes.

    Each element lies at a random line of its stride, the same at each visit, so that translation is exercised
    without every page using the same cache set. Bytes behind the last whole stride are not visited.

    Parameters
    ----------
    nbytes : int
        Size of what is accessed.
    count : int
        Number of offsets.
    seed : int
        Same seed, same offsets; not negative.
    stride : int
        Bytes for each element.

    Raises
    ------
    ConfigurationError
        Where such a stream does not exist.
    """
    _check(nbytes, count, stride, seed)
    cycle = _permutation(nbytes, stride, seed)
    kernels.visits(cycle, stride, max(1, stride // LINE_BYTES), seed)
    offsets = np.empty(count, np.int64)
    kernels.laps(offsets, 0, cycle)
    return offsets


def zipf(
    nbytes: int, count: int, seed: int = 0, exponent: float = 0.99, stride: int = PAGE_BYTES
) -> npt.NDArray[np.int64]:
    """Return offsets of which few elements get most: rank k is drawn with probability proportional to k**-exponent.

    Ranks are scattered over the memory by a random permutation. The line within the element is drawn anew for each
    access: a popular page is read all over, so its translation is reused more than any of its lines. Bytes behind
    the last whole element are not visited.

    Parameters
    ----------
    nbytes : int
        Size of what is accessed.
    count : int
        Number of offsets.
    seed : int
        Same seed, same offsets; not negative.
    exponent : float
        0 (all alike) to 64. The default is the skew of YCSB's requests (Cooper et al., SoCC 2010, and its source:
        ``ZipfianGenerator.ZIPFIAN_CONSTANT``).
    stride : int
        Bytes of an element.

    Raises
    ------
    ConfigurationError
        Where such a stream does not exist.

    Notes
    -----
    Each probability is right to within 3 parts in 2**31 of 1 / elements, and ``(exponent + 1) * 2**-28`` of itself.
    """
    _check(nbytes, count, stride, seed)
    if not 0 <= exponent <= MAX_EXPONENT:
        raise ConfigurationError(f"Zipf exponent {exponent} is not in a stream's range, 0 to {MAX_EXPONENT}")
    table = _permutation(nbytes, stride, seed)
    shares = np.empty_like(table)
    high, low = kernels.zipf_weights(table, round(exponent * 2**32), shares)
    total = (int(high) << 32) + int(low)
    kernels.zipf_table(shares, np.uint64((len(table) * WHOLE << 64) // total), table)
    offsets = np.empty(count, np.int64)
    kernels.zipf(offsets, 0, table, stride, max(1, stride // LINE_BYTES), seed)
    return offsets


def _chain_lengths(load: float) -> npt.NDArray[np.int64]:
    """Return 2**63 times the probability of at most 0, 1 ... nodes where ``load`` is the mean, as long as below 1."""
    lengths = []
    # Decimal's exponential is rounded correctly, the same on every machine.
    with decimal.localcontext(decimal.Context(prec=60)):
        mean = decimal.Decimal(float(load))
        term = (-mean).exp()
        reached = term
        while (threshold := int(reached * 2**63)) < 2**63 - 1:
            lengths.append(threshold)
            term = term * mean / len(lengths)
            reached += term
    return np.array(lengths, np.int64)


def hash_table(
    nbytes: int,
    count: int,
    seed: int = 0,
    bucket_share: float | None = None,
    load: float = 1.0,
    chains: bool = True,
) -> npt.NDArray[np.int64]:
    """Return what lookups in a chained hash table read, one after the other.

    A lookup reads the 8-byte head of a bucket, each equally likely, in the first part of the memory, then the 64-byte
    nodes of that bucket's chain in the rest, up to the one that is looked for, which is any of the chain's with equal
    probability. An empty chain ends at its head. How many nodes a bucket has (Poisson, as when keys are spread at
    random) and where they lie is the same at each lookup; places are drawn independently, so two nodes may share one.
    The last lookup is cut at ``count`` offsets.

    Parameters
    ----------
    nbytes : int
        Size of what is accessed.
    count : int
        Number of offsets, not of lookups.
    seed : int
        Same seed, same offsets; not negative.
    bucket_share : float, optional
        Part of the bytes that holds heads, above 0 and at most 1. By default what leaves 64 bytes for each node:
        1 / (1 + 8 * load).
    load : float
        Mean nodes in a bucket, 0 to 64.
    chains : bool
        False reads heads only, in all of the bytes: where the bucket array alone is the large allocation, as Linux's
        dentry hash (``fs/dcache.c``, ``alloc_large_system_hash``) is.

    Raises
    ------
    ConfigurationError
        Where such a stream does not exist, or heads or nodes find no room.
    """
    _check(nbytes, count, seed=seed)
    if not 0 <= load <= MAX_LOAD or not (bucket_share is None or 0 < bucket_share <= 1):
        raise ConfigurationError(
            f"a hash table of load {load} with bucket share {bucket_share} does not exist; "
            f"the load is 0 to {MAX_LOAD}, the share above 0 and at most 1"
        )
    share = 1.0 if not chains else 1 / (1 + 8 * load) if bucket_share is None else bucket_share
    buckets = int(nbytes * share) // BUCKET_BYTES
    node_start = -(-buckets * BUCKET_BYTES // NODE_BYTES) * NODE_BYTES
    nodes = max(0, (nbytes - node_start) // NODE_BYTES)
    if buckets < 1 or (chains and load > 0 and nodes < 1):
        raise ConfigurationError(
            f"{buckets} buckets and {nodes} nodes of a hash table fit into {nbytes} bytes; "
            "there must be room for one of each"
        )
    offsets = np.empty(count, np.int64)
    if chains:
        lengths = _chain_lengths(load)
        shortest = np.searchsorted(lengths, np.arange(GUIDES) * (2**63 // GUIDES), "right").astype(np.int64)
        kernels.lookups(offsets, 0, buckets, node_start, nodes, lengths, shortest, seed)
    else:
        kernels.uniform(offsets, 0, buckets, BUCKET_BYTES, seed, int(Draw.BUCKET))
    return offsets


def digest(offsets: npt.NDArray[np.int64]) -> str:
    """Return 16 hexadecimal digits that stand for a stream (BLAKE2b of its little-endian int64 words).

    Two cells that are compared show by it that they met the same accesses.
    """
    return hashlib.blake2b(np.ascontiguousarray(offsets, "<i8").tobytes(), digest_size=8).hexdigest()
