"""Streams of byte offsets: what a program asks of its memory, in the order in which it asks.

Every random word is a hash of a key and a counter: splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014), whose n-th output needs none before it. So a kernel can begin a stream anywhere, and
what a seed gives depends on no library. A word becomes a number below a bound by the upper half of their product:
each number's probability is off by less than 2**-64, a relative error below bound / 2**64.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

LINE_BYTES = 64
BUCKET_BYTES = 8
"""A bucket's head is one pointer."""
NODE_BYTES = 64
WHOLE = 1 << 31
"""The share of one element in :func:`zipf_table`: a threshold is a part of it."""
MAX_ELEMENTS = 1 << 30
"""Most elements of a table: up to here no sum of shares or weights leaves int64."""

_BLOCK = 1024
_ONE = np.uint64(1)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFF_FFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
GUIDES = 4096
_GUIDE_SHIFT = np.uint64(52)
_AHEAD = 3


class Draw(IntEnum):
    """What random words are for; each has a sequence of its own under one seed."""

    OFFSET = 0
    ORDER = 1
    """The random order of a stream's elements."""
    LINE = 2
    RANK = 3
    BUCKET = 4
    CHAIN = 5
    POSITION = 6


def _powers() -> npt.NDArray[np.uint64]:
    """Return 2**(62 - b / 256**(place + 1)) for each place (4) and byte b (256) of a 32-bit fraction."""
    one = 1 << 128
    root, roots = one >> 1, []
    for _ in range(32):
        # Square roots of one half: exact integers, where a library's power would differ between machines.
        root = math.isqrt(root << 128)
        roots.append(root)
    powers = np.empty((4, 256), np.uint64)
    for place in range(4):
        for byte in range(256):
            power = one
            for bit in range(8):
                if byte >> (7 - bit) & 1:
                    power = power * roots[8 * place + bit] >> 128
            powers[place, byte] = power >> 66
    return powers


_POWERS = _powers()


@kernel(inline=True)
def _mix(word: np.uint64) -> np.uint64:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@kernel(inline=True)
def _word(key: np.uint64, index: np.uint64) -> np.uint64:
    """Return output ``index`` of the splitmix64 generator whose state is ``key``."""
    return _mix(key + (index + _ONE) * _GOLDEN)


@kernel(inline=True)
def _key(seed: int, draw: int) -> np.uint64:
    return _word(_mix(np.uint64(seed)), np.uint64(draw))


@kernel(inline=True)
def _high(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return the upper 64 bits of a product."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF)


@kernel
def uniform(offsets: npt.NDArray[np.int64], first: int, number: int, unit: int, seed: int, draw: int) -> None:
    """Write independent multiples of ``unit`` below ``number * unit``, each equally likely.

    Parameters
    ----------
    offsets : int64[n]
        Written.
    first : int
        Which offset of the stream is the first one written.
    number : int
        How many different offsets there are.
    unit : int
        Bytes from each to the next.
    seed : int
        Not negative.
    draw : int
        One of :class:`Draw`.
    """
    key = _key(seed, draw)
    bound = np.uint64(number)
    begin = np.uint64(first)
    for i in range(len(offsets)):
        offsets[unsigned(i)] = np.int64(_high(_word(key, begin + np.uint64(i)), bound)) * unit


@kernel
def sequential(offsets: npt.NDArray[np.int64], first: int, nbytes: int, stride: int) -> None:
    """Write 0, stride, 2 * stride ... below ``nbytes``, over and over, from offset ``first`` of the stream on."""
    steps = (nbytes + stride - 1) // stride
    offset = first % steps * stride
    for i in range(len(offsets)):
        offsets[unsigned(i)] = offset
        offset += stride
        if offset >= nbytes:
            offset = 0


@kernel
def strided(offsets: npt.NDArray[np.int64], first: int, nbytes: int, stride: int) -> None:
    """Write offsets a stride apart modulo ``nbytes``, each lap a line further on, from offset ``first`` on."""
    steps = (nbytes + stride - 1) // stride
    forward = LINE_BYTES % nbytes
    start = first // steps * LINE_BYTES % nbytes
    step = first % steps * stride
    for i in range(len(offsets)):
        offset = start + step
        offsets[unsigned(i)] = offset if offset < nbytes else offset - nbytes
        step += stride
        if step >= nbytes:
            step = 0
            start += forward
            if start >= nbytes:
                start -= nbytes


@kernel
def permutation(order: npt.NDArray[np.int64], seed: int) -> None:
    """Write 0 to n - 1 in random order (int64[n]): Fisher and Yates's shuffle, begun with nothing."""
    key = _key(seed, Draw.ORDER)
    for i in range(len(order)):
        j = np.int64(_high(_word(key, np.uint64(i)), np.uint64(i + 1)))
        order[unsigned(i)] = order[unsigned(j)]
        order[unsigned(j)] = i


@kernel
def visits(order: npt.NDArray[np.int64], stride: int, lines: int, seed: int) -> None:
    """Turn element numbers (int64[n], mutated) into the offset of one random line of each element's stride."""
    key = _key(seed, Draw.LINE)
    for i in range(len(order)):
        element = order[unsigned(i)]
        line = np.int64(_high(_word(key, np.uint64(element)), np.uint64(lines)))
        order[unsigned(i)] = element * stride + line * LINE_BYTES


@kernel
def laps(offsets: npt.NDArray[np.int64], first: int, cycle: npt.NDArray[np.int64]) -> None:
    """Write a cycle (int64[m], not empty) over and over, from offset ``first`` of the stream on."""
    place = first % len(cycle)
    for i in range(len(offsets)):
        offsets[unsigned(i)] = cycle[unsigned(place)]
        place += 1
        if place == len(cycle):
            place = 0


@kernel(inline=True)
def _logarithm(number: np.uint64) -> np.uint64:
    """Return the binary logarithm of 1 to 2**31, times 2**32 and rounded down; the error is below 4."""
    whole = np.uint64(0)
    while number >> whole > _ONE:
        whole += _ONE
    mantissa = number << (np.uint64(31) - whole)
    logarithm = whole
    for _ in range(32):
        # Squaring doubles the logarithm: its next bit is whether the square reaches 2.
        square = mantissa * mantissa
        bit = square >> np.uint64(63)
        mantissa = square >> (np.uint64(31) + bit)
        logarithm = (logarithm << _ONE) | bit
    return logarithm


@kernel(inline=True)
def _weight(rank: np.uint64, exponent: np.uint64) -> np.uint64:
    """Return 2**62 * rank**-exponent, ``exponent`` given times 2**32."""
    logarithm = _logarithm(rank)
    fraction = logarithm & _LOW
    power = (logarithm >> _HALF) * exponent + fraction * (exponent >> _HALF)
    power += (fraction * (exponent & _LOW)) >> _HALF
    whole = power >> _HALF
    if whole > np.uint64(62):
        return np.uint64(0)
    weight = np.uint64(1) << np.uint64(62)
    for place in range(4):
        byte = (power >> np.uint64(24 - 8 * place)) & np.uint64(255)
        weight = _high(weight << _ONE, _POWERS[place, byte] << _ONE)
    return weight >> whole


@kernel
def zipf_weights(
    ranks: npt.NDArray[np.int64], exponent: int, weights: npt.NDArray[np.int64]
) -> tuple[np.int64, np.int64]:
    """Write what each element is worth; return the sum of it as (high, low), worth ``high * 2**32 + low``.

    All of it is integer arithmetic, so that the weights are the same on every machine; they are right to within
    ``(exponent + 1) * 2**-29`` of themselves, and 1.

    Parameters
    ----------
    ranks : int64[n]
        Rank of each element, from 0; at most :data:`MAX_ELEMENTS`.
    exponent : int
        The exponent times 2**32, at most 2**38.
    weights : int64[n]
        Written: 2**62 * (rank + 1)**-exponent.
    """
    high = np.int64(0)
    low = np.int64(0)
    for element in range(len(ranks)):
        weight = _weight(np.uint64(ranks[unsigned(element)] + 1), np.uint64(exponent))
        weights[unsigned(element)] = np.int64(weight)
        high += np.int64(weight >> _HALF)
        low += np.int64(weight & _LOW)
    return high, low


@kernel
def zipf_table(shares: npt.NDArray[np.int64], factor: np.uint64, table: npt.NDArray[np.int64]) -> None:
    """Build the alias table (Walker, 1977; built as in Vose, 1991) from which :func:`zipf` draws.

    Parameters
    ----------
    shares : int64[n]
        Weights from :func:`zipf_weights`; overwritten.
    factor : uint64
        ``n * WHOLE * 2**64`` over the sum of the weights, rounded down.
    table : int64[n]
        Written: of each column (an element's own) the threshold out of :data:`WHOLE`, times 2**32, plus the other
        element, to which the rest of the column belongs. The parts of each element, in whole columns, come within
        3 / WHOLE of n times its probability.
    """
    number = len(shares)
    rest = number * WHOLE
    for element in range(number):
        shares[unsigned(element)] = np.int64(_high(np.uint64(shares[unsigned(element)]), factor))
        rest -= shares[unsigned(element)]
    # What rounding down left over: as much for each, and one more for the first.
    each = rest // number
    further = rest % number
    for element in range(number):
        shares[unsigned(element)] += each + np.int64(element < further)
        table[unsigned(element)] = element
    large = 0
    for small in range(number):
        column = small
        # Integers add up exactly: while one column is short of a whole, another has more.
        while shares[unsigned(column)] < WHOLE:
            while shares[unsigned(large)] <= WHOLE:
                large += 1
            share = shares[unsigned(column)]
            table[unsigned(column)] = share << 32 | large
            shares[unsigned(large)] -= WHOLE - share
            shares[unsigned(column)] = WHOLE
            # The giver may have become short itself, behind where this pass has been.
            if large < small:
                column = large


@kernel
def zipf(
    offsets: npt.NDArray[np.int64], first: int, table: npt.NDArray[np.int64], stride: int, lines: int, seed: int
) -> None:
    """Write offsets whose elements are drawn from an alias table, each at a line of its own chance.

    Parameters
    ----------
    offsets : int64[n]
        Written.
    first : int
        Which offset of the stream is the first one written.
    table : int64[elements]
        From :func:`zipf_table`.
    stride : int
        Bytes of an element.
    lines : int
        Lines of an element to choose from.
    seed : int
        Not negative.
    """
    key = _key(seed, Draw.RANK)
    line_key = _key(seed, Draw.LINE)
    number = np.uint64(len(table))
    bound = np.uint64(lines)
    begin = np.uint64(first)
    # In blocks and without a branch on what is loaded, so that many loads from a large table are on their way at once.
    for block in range(0, len(offsets), _BLOCK):
        stop = min(block + _BLOCK, len(offsets))
        for i in range(block, stop):
            word = _word(key, begin + np.uint64(i))
            # The upper half of the product is the column, the lower half how far into it.
            product = (word >> _HALF) * number + (((word & _LOW) * number) >> _HALF)
            offsets[unsigned(i)] = np.int64(product)
        for i in range(block, stop):
            product = offsets[unsigned(i)]
            column = product >> 32
            entry = table[unsigned(column)]
            other = entry & 0xFFFF_FFFF
            # All ones where the column's own element is drawn: the difference is negative.
            own = (((product & 0xFFFF_FFFF) >> 1) - (entry >> 32)) >> 63
            offsets[unsigned(i)] = (other ^ ((other ^ column) & own)) * stride
        for i in range(block, stop):
            line = np.int64(_high(_word(line_key, begin + np.uint64(i)), bound))
            offsets[unsigned(i)] += line * LINE_BYTES


@kernel(inline=True)
def _node(chain: np.uint64, position: int, node_start: int, nodes: int) -> int:
    return node_start + np.int64(_high(_word(chain, np.uint64(position)), np.uint64(nodes))) * NODE_BYTES


@kernel
def lookups(
    offsets: npt.NDArray[np.int64],
    first: int,
    buckets: int,
    node_start: int,
    nodes: int,
    lengths: npt.NDArray[np.int64],
    shortest: npt.NDArray[np.int64],
    seed: int,
) -> int:
    """Write what lookups in a hash table read: a bucket's head, then its chain up to the node looked for.

    Parameters
    ----------
    offsets : int64[n]
        Written; the last lookup is cut where they end.
    first : int
        Which lookup of the stream is the first.
    buckets : int
        Heads of :data:`BUCKET_BYTES` each, from offset 0; equally likely.
    node_start : int
        Offset of the first node.
    nodes : int
        Places of :data:`NODE_BYTES` each; at least 1 if any chain has a node.
    lengths : int64[m]
        2**63 times the probability that a chain has at most 0, 1 ... m - 1 nodes, ascending; none has more than m.
    shortest : int64[GUIDES]
        How many of ``lengths`` are at most i * 2**63 / GUIDES, for each i: where the search begins.
    seed : int
        Not negative.

    Returns
    -------
    int
        Lookups begun.
    """
    bucket_key = _key(seed, Draw.BUCKET)
    chain_key = _key(seed, Draw.CHAIN)
    position_key = _key(seed, Draw.POSITION)
    filled = 0
    lookup = first
    while filled < len(offsets):
        bucket = _high(_word(bucket_key, np.uint64(lookup)), np.uint64(buckets))
        offsets[unsigned(filled)] = np.int64(bucket) * BUCKET_BYTES
        filled += 1
        # A chain is a sequence of random words of its own, the same whenever its bucket is looked at.
        chain = _word(chain_key, bucket)
        length = shortest[chain >> _GUIDE_SHIFT]
        while length < len(lengths) and np.int64(chain >> _ONE) >= lengths[unsigned(length)]:
            length += 1
        # Without a branch: a chain of no nodes has its first position, 0, and none is read.
        position = np.int64(_high(_word(position_key, np.uint64(lookup)), np.uint64(length)))
        reads = min(position + min(length, 1), len(offsets) - filled)
        done = 0
        if filled + _AHEAD <= len(offsets):
            # Chains are short: writing some nodes always, and the next head over them, costs less than guessing wrong.
            for ahead in range(_AHEAD):
                offsets[unsigned(filled + ahead)] = _node(chain, ahead, node_start, nodes)
            done = _AHEAD
        for following in range(done, reads):
            offsets[unsigned(filled + following)] = _node(chain, following, node_start, nodes)
        filled += reads
        lookup += 1
    return lookup - first
