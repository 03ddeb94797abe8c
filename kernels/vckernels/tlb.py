"""Set-associative TLBs with exact LRU, for 4K, 2M and 1G pages in one run.

A level may be made of several arrays. For each page size it is told which sets serve it; sizes that share sets
compete for them. Instead of searching the ways, a level finds its entry through a hash of page and size and
keeps each set in order of use on a linked list: constant work a lookup, whatever the number of ways.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

SIZES = 3
"""Page sizes, by the level of their leaf less one: 4K, 2M, 1G."""
EMPTY = -1


class Field(IntEnum):
    """Index into the last axis of :attr:`Tlb.geometry`."""

    FIRST_SET = 0
    SETS = 1
    """0: this level does not hold pages of this size."""
    MASK = 2
    """``SETS - 1`` where that is a power of two, else -1: divide."""
    FIRST_BUCKET = 3
    BUCKET_SHIFT = 4


class Tlb(NamedTuple):
    """All levels of one TLB; entries, sets and buckets are numbered through all of them.

    Attributes
    ----------
    keys : int64[entries]
        ``page << 2 | size`` of each entry, ``EMPTY`` where there is none.
    buckets : int32[buckets]
        First entry of each hash bucket, ``EMPTY`` where there is none.
    chain : int32[entries]
        Next entry in the same bucket.
    newer, older : int32[entries + sets]
        Neighbours in order of use; set ``s`` has its sentinel at ``entries + s``, whose ``older`` is the most
        recently used entry and whose ``newer`` is the next victim.
    geometry : int64[levels, SIZES, len(Field)]
    """

    keys: npt.NDArray[np.int64]
    buckets: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int32]
    newer: npt.NDArray[np.int32]
    older: npt.NDArray[np.int32]
    geometry: npt.NDArray[np.int64]


class Array(NamedTuple):
    """One array of a TLB level: its ways and sets, and the page sizes it may hold (leaf levels 1 to 3)."""

    level: int
    sets: int
    ways: int
    page_levels: tuple[int, ...]


def new_tlb(levels: int, arrays: list[Array]) -> Tlb:
    """Return an empty TLB.

    A page size that several arrays of one level hold is spread over their sets as over one array: set = page
    number mod the sum of their sets. Such arrays must follow one another.
    """
    geometry = np.zeros((levels, SIZES, len(Field)), np.int64)
    set_ways: list[int] = []
    buckets = 0
    for level in range(levels):
        entries = 0
        for array in arrays:
            if array.level != level + 1:
                continue
            for page_level in array.page_levels:
                fields = geometry[level, page_level - 1]
                if fields[Field.SETS] and fields[Field.FIRST_SET] + fields[Field.SETS] != len(set_ways):
                    raise ValueError("arrays that share a page size must follow one another")
                if not fields[Field.SETS]:
                    fields[Field.FIRST_SET] = len(set_ways)
                fields[Field.SETS] += array.sets
            set_ways += [array.ways] * array.sets
            entries += array.sets * array.ways
        # Eight buckets an entry: few lookups meet a stranger, so their branches are foreseen.
        bits = max(1, int(8 * entries - 1).bit_length())
        for fields in geometry[level]:
            sets = int(fields[Field.SETS])
            fields[Field.MASK] = sets - 1 if sets & (sets - 1) == 0 else -1
            fields[Field.FIRST_BUCKET] = buckets
            fields[Field.BUCKET_SHIFT] = 64 - bits
        buckets += 1 << bits
    entries = sum(set_ways)
    tlb = Tlb(
        keys=np.full(entries, EMPTY, np.int64),
        buckets=np.full(buckets, EMPTY, np.int32),
        chain=np.full(entries, EMPTY, np.int32),
        newer=np.zeros(entries + len(set_ways), np.int32),
        older=np.zeros(entries + len(set_ways), np.int32),
        geometry=geometry,
    )
    first = 0
    for number, ways in enumerate(set_ways):
        ring = np.array([entries + number, *range(first, first + ways)])
        tlb.older[ring] = np.roll(ring, -1)
        tlb.newer[ring] = np.roll(ring, 1)
        first += ways
    return tlb


@kernel(inline=True)
def _bucket(fields: npt.NDArray[np.int64], key: int) -> int:
    # Fibonacci hashing: the upper bits of the product depend on all bits of the key.
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return fields[Field.FIRST_BUCKET] + np.int64(mixed >> np.uint64(fields[Field.BUCKET_SHIFT]))


@kernel(inline=True)
def _sentinel(tlb: Tlb, fields: npt.NDArray[np.int64], page: int) -> int:
    mask = fields[Field.MASK]
    within = page & mask if mask >= 0 else page % fields[Field.SETS]
    return len(tlb.keys) + fields[Field.FIRST_SET] + within


@kernel(inline=True)
def _unlink_from_bucket(tlb: Tlb, bucket: int, entry: int) -> None:
    at = np.int64(tlb.buckets[unsigned(bucket)])
    if at == entry:
        tlb.buckets[unsigned(bucket)] = tlb.chain[unsigned(entry)]
        return
    while tlb.chain[unsigned(at)] != entry:
        at = np.int64(tlb.chain[unsigned(at)])
    tlb.chain[unsigned(at)] = tlb.chain[unsigned(entry)]


@kernel(inline=True)
def _unlink_from_set(tlb: Tlb, entry: int) -> None:
    newer = np.int64(tlb.newer[unsigned(entry)])
    older = np.int64(tlb.older[unsigned(entry)])
    tlb.older[unsigned(newer)] = older
    tlb.newer[unsigned(older)] = newer


@kernel(inline=True)
def _make_newest(tlb: Tlb, sentinel: int, entry: int) -> None:
    if tlb.newer[unsigned(entry)] == sentinel:
        return
    _unlink_from_set(tlb, entry)
    first = np.int64(tlb.older[unsigned(sentinel)])
    tlb.older[unsigned(entry)] = first
    tlb.newer[unsigned(first)] = entry
    tlb.older[unsigned(sentinel)] = entry
    tlb.newer[unsigned(entry)] = sentinel


@kernel(inline=True)
def lookup(tlb: Tlb, level: int, page: int, size: int) -> bool:
    """Return whether a level holds a page, making it the most recently used of its set if so.

    ``level`` counts from 0; ``size`` is the leaf's level less one; ``page`` is the address over the page size.
    """
    fields = tlb.geometry[level, size]
    if fields[Field.SETS] == 0:
        return False
    key = page << 2 | size
    entry = np.int64(tlb.buckets[_bucket(fields, key)])
    while entry != EMPTY:
        if tlb.keys[unsigned(entry)] == key:
            _make_newest(tlb, _sentinel(tlb, fields, page), entry)
            return True
        entry = np.int64(tlb.chain[unsigned(entry)])
    return False


@kernel(inline=True)
def fill(tlb: Tlb, level: int, page: int, size: int) -> None:
    """Put a page that the level does not hold in the place of its set's least recently used entry."""
    fields = tlb.geometry[level, size]
    if fields[Field.SETS] == 0:
        return
    sentinel = _sentinel(tlb, fields, page)
    entry = np.int64(tlb.newer[unsigned(sentinel)])
    old = tlb.keys[unsigned(entry)]
    if old != EMPTY:
        # Every size of a level shares its buckets, so these fields serve the old key too.
        _unlink_from_bucket(tlb, _bucket(fields, old), entry)
    key = page << 2 | size
    bucket = _bucket(fields, key)
    tlb.keys[unsigned(entry)] = key
    tlb.chain[unsigned(entry)] = tlb.buckets[unsigned(bucket)]
    tlb.buckets[unsigned(bucket)] = entry
    _make_newest(tlb, sentinel, entry)


@kernel
def flush(tlb: Tlb) -> None:
    """Empty all levels."""
    tlb.keys[:] = EMPTY
    tlb.buckets[:] = EMPTY


@kernel
def invalidate(tlb: Tlb, page: int, size: int) -> int:
    """Drop one page from every level, leaving its place the next victim; return how many levels held it."""
    dropped = 0
    key = page << 2 | size
    for level in range(tlb.geometry.shape[0]):
        fields = tlb.geometry[level, size]
        if fields[Field.SETS] == 0:
            continue
        bucket = _bucket(fields, key)
        entry = np.int64(tlb.buckets[unsigned(bucket)])
        while entry != EMPTY and tlb.keys[unsigned(entry)] != key:
            entry = np.int64(tlb.chain[unsigned(entry)])
        if entry == EMPTY:
            continue
        _unlink_from_bucket(tlb, bucket, entry)
        tlb.keys[unsigned(entry)] = EMPTY
        sentinel = _sentinel(tlb, fields, page)
        _unlink_from_set(tlb, entry)
        last = np.int64(tlb.newer[unsigned(sentinel)])
        tlb.newer[unsigned(sentinel)] = entry
        tlb.older[unsigned(entry)] = sentinel
        tlb.newer[unsigned(entry)] = last
        tlb.older[unsigned(last)] = entry
        dropped += 1
    return dropped


@kernel
def count_misses(tlb: Tlb, pages: npt.NDArray[np.int64], misses: npt.NDArray[np.int64]) -> None:
    """Look up 4K pages in order, filling what missed; add each level's misses to int64[levels]."""
    levels = tlb.geometry.shape[0]
    last = np.int64(-1)
    for i in range(len(pages)):
        page = pages[i]
        if page == last:
            continue
        last = page
        missed = 0
        while missed < levels and not lookup(tlb, missed, page, 0):
            misses[missed] += 1
            missed += 1
        for level in range(missed):
            fill(tlb, level, page, 0)
