"""Streams of offsets in plain Python: integers without end, one offset at a time."""

from __future__ import annotations

import decimal
import itertools
import math
from collections.abc import Iterator

LINE = 64
WHOLE = 2**31
OFFSET, ORDER, LINES, RANK, BUCKET, CHAIN, POSITION = range(7)


def splitmix64(state: int, index: int) -> int:
    """Return output ``index`` (from 0) of the generator that starts from a state."""
    word = (state + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def key(seed: int, draw: int) -> int:
    """Return the state of the generator of one kind of draw under a seed."""
    # The finaliser alone is output 0 of the state that one step turns into the seed.
    return splitmix64(splitmix64(seed - 0x9E3779B97F4A7C15, 0), draw)


def below(word: int, bound: int) -> int:
    """Return a word's part of ``bound``."""
    return word * bound >> 64


def uniform(nbytes: int, seed: int, unit: int = 1, draw: int = OFFSET) -> Iterator[int]:
    """Yield offsets without end, as every function here but those that say otherwise."""
    for index in itertools.count():
        yield below(splitmix64(key(seed, draw), index), nbytes) * unit


def sequential(nbytes: int, stride: int) -> Iterator[int]:
    """Yield the multiples of a stride below ``nbytes``, over and over."""
    while True:
        yield from range(0, nbytes, stride)


def strided(nbytes: int, stride: int) -> Iterator[int]:
    """Yield the same, each lap a line further on."""
    for lap in itertools.count():
        for offset in range(0, nbytes, stride):
            yield (offset + lap * LINE) % nbytes


def permutation(number: int, seed: int) -> list[int]:
    """Return 0 to ``number - 1`` in random order."""
    order: list[int] = []
    for index in range(number):
        place = below(splitmix64(key(seed, ORDER), index), index + 1)
        order.append(index)
        order[place], order[index] = order[index], order[place]
    return order


def chase(nbytes: int, stride: int, seed: int) -> Iterator[int]:
    """Yield the visits of a random cycle."""
    lines = max(1, stride // LINE)
    for element in itertools.cycle(permutation(nbytes // stride, seed)):
        yield element * stride + below(splitmix64(key(seed, LINES), element), lines) * LINE


def logarithm(number: int) -> int:
    """Return 2**32 times the binary logarithm, from squares cut to 32 bits."""
    whole = number.bit_length() - 1
    mantissa, result = number << 31 - whole, whole
    for _ in range(32):
        square = mantissa**2
        result = 2 * result + (square >= 2**63)
        mantissa = square >> (32 if square >= 2**63 else 31)
    return result


def root_power(place: int, byte: int) -> int:
    """Return 2**(62 - byte / 256**(place + 1)), rounded down, by the binary digits of the exponent."""
    power, root = 2**128, 2**127
    roots = [root := math.isqrt(root << 128) for _ in range(32)]
    for bit in range(8):
        if byte & 128 >> bit:
            power = power * roots[8 * place + bit] >> 128
    return power >> 66


def weight(rank: int, exponent: int) -> int:
    """Return 2**62 * rank**-exponent, where ``exponent`` is 2**32 times what it means."""
    power = logarithm(rank) * exponent >> 32
    result = 2**62
    for place in range(4):
        result = result * root_power(place, power >> 24 - 8 * place & 255) >> 62
    return result >> (power >> 32)


def zipf_shares(ranks: list[int], exponent: int) -> list[int]:
    """Return each element's parts of ``len(ranks) * WHOLE``; they sum to that."""
    number = len(ranks)
    weights = [weight(rank + 1, exponent) for rank in ranks]
    factor = (number * WHOLE << 64) // sum(weights)
    shares = [each * factor >> 64 for each in weights]
    each, further = divmod(number * WHOLE - sum(shares), number)
    return [share + each + (element < further) for element, share in enumerate(shares)]


def alias_table(shares: list[int]) -> list[tuple[int, int]]:
    """Return (threshold, other element) of each column: the first short one takes from the first in excess."""
    shares = shares.copy()
    table = [(0, element) for element in range(len(shares))]
    waiting = [element for element, share in enumerate(shares) if share < WHOLE]
    while waiting:
        column = waiting.pop(0)
        giver = next(element for element, share in enumerate(shares) if share > WHOLE)
        table[column] = (shares[column], giver)
        shares[giver] -= WHOLE - shares[column]
        shares[column] = WHOLE
        if shares[giver] < WHOLE:
            waiting = sorted([*waiting, giver])
    return table


def zipf(nbytes: int, stride: int, exponent: float, seed: int) -> Iterator[int]:
    """Yield offsets whose elements' ranks follow a power law."""
    number, lines = nbytes // stride, max(1, stride // LINE)
    table = alias_table(zipf_shares(permutation(number, seed), round(exponent * 2**32)))
    for index in itertools.count():
        column, inside = divmod(splitmix64(key(seed, RANK), index) * number >> 32, 2**32)
        threshold, other = table[column]
        element = column if inside // 2 < threshold else other
        yield element * stride + below(splitmix64(key(seed, LINES), index), lines) * LINE


def chain_lengths(load: float) -> list[int]:
    """Return 2**63 times the probability of at most 0, 1 ... nodes, while below 2**63 - 1."""
    lengths: list[int] = []
    with decimal.localcontext(decimal.Context(prec=90)):
        mean = decimal.Decimal(load)
        terms = (mean**k * (-mean).exp() / math.factorial(k) if k else (-mean).exp() for k in itertools.count())
        for reached in itertools.accumulate(terms):
            if int(reached * 2**63) >= 2**63 - 1:
                return lengths
            lengths.append(int(reached * 2**63))
    raise AssertionError


def chain(bucket: int, node_start: int, nodes: int, lengths: list[int], seed: int) -> list[int]:
    """Return the offsets of all nodes of a bucket, first to last."""
    own = splitmix64(key(seed, CHAIN), bucket)
    length = sum(own >> 1 >= reached for reached in lengths)
    return [node_start + 64 * below(splitmix64(own, position), nodes) for position in range(length)]


def lookups(buckets: int, node_start: int, nodes: int, lengths: list[int], seed: int) -> Iterator[list[int]]:
    """Yield what each lookup reads."""
    for lookup in itertools.count():
        bucket = below(splitmix64(key(seed, BUCKET), lookup), buckets)
        whole = chain(bucket, node_start, nodes, lengths, seed)
        reads = 1 + below(splitmix64(key(seed, POSITION), lookup), len(whole))
        yield [8 * bucket, *whole[:reads]]
