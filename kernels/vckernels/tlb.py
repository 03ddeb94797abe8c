"""Set-associative TLBs with exact LRU, for 4K, 2M and 1G pages in one run.

A level may be made of several arrays. For each page size it is told which sets serve it; sizes that share sets
compete for them. Instead of searching the ways, a level finds its entry through a hash of page and size and
keeps each set in order of use on a linked list: constant work a lookup, whatever the number of ways.

An entry holds a translation: the frame that its page begins with, and whether it is known dirty and global.
Where a second level holds page-directory entries too (AMD Zen), they are pages of a fourth kind.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

SIZES = 4
"""Kinds of pages, by the level of their leaf less one: 4K, 2M, 1G; and the region of a page-directory entry."""
DIRECTORY = 3
"""A page-directory entry that names a table: its region is as large as a 2M page."""
EMPTY = -1

DIRTY = 1
"""Flag of a value: the page is known to be dirty, so stores need not tell the page table."""
GLOBAL = 2
"""Flag of a value: the entry outlives a change of the address space."""
FRAME_SHIFT = 2
"""A value is a frame number above its flags."""


class Field(IntEnum):
    """Index into the last axis of :attr:`Tlb.geometry`."""

    FIRST_SET = 0
    SETS = 1
    """0: this level does not hold pages of this size."""
    MASK = 2
    """``SETS - 1`` where that is a power of two, else -1: divide."""
    FIRST_BUCKET = 3
    BUCKET_SHIFT = 4
    HASH_SHIFT = 5
    """The set index is hashed: the page number is XORed with itself shifted so far; 63 leaves it as it is."""


class Tlb(NamedTuple):
    """All levels of one TLB; entries, sets and buckets are numbered through all of them.

    Attributes
    ----------
    keys : int64[entries]
        ``page << 2 | size`` of each entry, ``EMPTY`` where there is none.
    values : int64[entries]
        ``frame << FRAME_SHIFT``, with ``DIRTY`` and ``GLOBAL``.
    buckets : int32[buckets]
        First entry of each hash bucket, ``EMPTY`` where there is none.
    chain : int32[entries]
        Next entry in the same bucket.
    newer, older : int32[entries + sets]
        Neighbours in order of use; set ``s`` has its sentinel at ``entries + s``, whose ``older`` is the most
        recently used entry and whose ``newer`` is the next victim.
    geometry : int64[levels, SIZES, len(Field)]
    first_entry : int64[levels + 1]
        Where each level's entries begin, and where the last one's end.
    """

    keys: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    buckets: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int32]
    newer: npt.NDArray[np.int32]
    older: npt.NDArray[np.int32]
    geometry: npt.NDArray[np.int64]
    first_entry: npt.NDArray[np.int64]


class Array(NamedTuple):
    """One array of a TLB level: its ways and sets, and what it may hold.

    Attributes
    ----------
    level, sets, ways : int
    page_levels : tuple of int
        Page sizes by the level of their leaf, 1 to 3.
    hash_shift : int
        Set = (page XOR page >> ``hash_shift``) mod sets; 0: no hash.
    directories : bool
        Page-directory entries that name a table are held as well.
    """

    level: int
    sets: int
    ways: int
    page_levels: tuple[int, ...]
    hash_shift: int = 0
    directories: bool = False

    @property
    def kinds(self) -> tuple[int, ...]:
        """Kinds of pages held, as indices into :attr:`Tlb.geometry`."""
        return (*(level - 1 for level in self.page_levels), *([DIRECTORY] if self.directories else []))


def new_tlb(levels: int, arrays: list[Array]) -> Tlb:
    """Return an empty TLB.

    A page size that several arrays of one level hold is spread over their sets as over one array: set = page
    number mod the sum of their sets. Such arrays must follow one another.
    """
    geometry = np.zeros((levels, SIZES, len(Field)), np.int64)
    first_entry = np.zeros(levels + 1, np.int64)
    set_ways: list[int] = []
    buckets = 0
    for level in range(levels):
        entries = 0
        for array in arrays:
            if array.level != level + 1:
                continue
            for kind in array.kinds:
                fields = geometry[level, kind]
                if fields[Field.SETS] and fields[Field.FIRST_SET] + fields[Field.SETS] != len(set_ways):
                    raise ValueError("arrays that share a page size must follow one another")
                if not fields[Field.SETS]:
                    fields[Field.FIRST_SET] = len(set_ways)
                fields[Field.SETS] += array.sets
                fields[Field.HASH_SHIFT] = array.hash_shift or 63
            set_ways += [array.ways] * array.sets
            entries += array.sets * array.ways
        first_entry[level + 1] = first_entry[level] + entries
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
        values=np.zeros(entries, np.int64),
        buckets=np.full(buckets, EMPTY, np.int32),
        chain=np.full(entries, EMPTY, np.int32),
        newer=np.zeros(entries + len(set_ways), np.int32),
        older=np.zeros(entries + len(set_ways), np.int32),
        geometry=geometry,
        first_entry=first_entry,
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
    number = page ^ (page >> fields[Field.HASH_SHIFT])
    within = number & mask if mask >= 0 else number % fields[Field.SETS]
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
def find(tlb: Tlb, level: int, page: int, size: int) -> int:
    """Return the entry that holds a page at a level, ``EMPTY`` if none does; order of use stays as it is."""
    fields = tlb.geometry[level, size]
    if fields[Field.SETS] == 0:
        return EMPTY
    key = page << 2 | size
    entry = np.int64(tlb.buckets[unsigned(_bucket(fields, key))])
    while entry != EMPTY and tlb.keys[unsigned(entry)] != key:
        entry = np.int64(tlb.chain[unsigned(entry)])
    return entry


@kernel(inline=True)
def lookup(tlb: Tlb, level: int, page: int, size: int) -> int:
    """Return the entry that holds a page, now the most recently used of its set, or ``EMPTY``.

    ``level`` counts from 0; ``size`` is the leaf's level less one, or ``DIRECTORY``; ``page`` is the address over the
    page size.
    """
    entry = find(tlb, level, page, size)
    if entry != EMPTY:
        _make_newest(tlb, _sentinel(tlb, tlb.geometry[level, size], page), entry)
    return entry


@kernel(inline=True)
def fill(tlb: Tlb, level: int, page: int, size: int, value: int) -> None:
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
    tlb.values[unsigned(entry)] = value
    tlb.chain[unsigned(entry)] = tlb.buckets[unsigned(bucket)]
    tlb.buckets[unsigned(bucket)] = entry
    _make_newest(tlb, sentinel, entry)


@kernel
def flush(tlb: Tlb) -> None:
    """Empty all levels."""
    tlb.keys[:] = EMPTY
    tlb.buckets[:] = EMPTY


@kernel(inline=True)
def _drop(tlb: Tlb, level: int, entry: int) -> None:
    """Forget one entry of a level, leaving its place the next victim of its set."""
    key = tlb.keys[unsigned(entry)]
    fields = tlb.geometry[level, key & 3]
    _unlink_from_bucket(tlb, _bucket(fields, key), entry)
    tlb.keys[unsigned(entry)] = EMPTY
    sentinel = _sentinel(tlb, fields, key >> 2)
    _unlink_from_set(tlb, entry)
    last = np.int64(tlb.newer[unsigned(sentinel)])
    tlb.newer[unsigned(sentinel)] = entry
    tlb.older[unsigned(entry)] = sentinel
    tlb.newer[unsigned(entry)] = last
    tlb.older[unsigned(last)] = entry


@kernel
def invalidate(tlb: Tlb, page: int, size: int) -> int:
    """Drop one page from every level; return how many levels held it."""
    dropped = 0
    for level in range(tlb.geometry.shape[0]):
        entry = find(tlb, level, page, size)
        if entry != EMPTY:
            _drop(tlb, level, entry)
            dropped += 1
    return dropped


@kernel
def drop_directories(tlb: Tlb) -> None:
    """Drop every page-directory entry, as an invalidation of any page does."""
    for level in range(tlb.geometry.shape[0]):
        if tlb.geometry[level, DIRECTORY, Field.SETS] == 0:
            continue
        for entry in range(tlb.first_entry[level], tlb.first_entry[level + 1]):
            key = tlb.keys[unsigned(entry)]
            if key != EMPTY and key & 3 == DIRECTORY:
                _drop(tlb, level, entry)


@kernel
def drop_local(tlb: Tlb) -> None:
    """Drop every entry that is not global, page-directory entries included, as a change of the address space does."""
    for level in range(tlb.geometry.shape[0]):
        for entry in range(tlb.first_entry[level], tlb.first_entry[level + 1]):
            key = tlb.keys[unsigned(entry)]
            if key != EMPTY and (key & 3 == DIRECTORY or tlb.values[unsigned(entry)] & GLOBAL == 0):
                _drop(tlb, level, entry)


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
        while missed < levels and lookup(tlb, missed, page, 0) == EMPTY:
            misses[missed] += 1
            missed += 1
        for level in range(missed):
            fill(tlb, level, page, 0, 0)
