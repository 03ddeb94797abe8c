"""A hierarchy of data caches, indexed by physical address, that data accesses and page walks share.

Each set is a ring of tags in order of use. Its head moves back by one for every line that comes in, onto the oldest,
so a miss writes one tag; only a hit moves those that were used since. A level is filled when it misses, or (a victim
cache) with what the level above evicts: then a line that is found moves up and leaves it. Exact LRU; no
back-invalidation, no write-back traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned
from vckernels.vector import equal_of_eight, fetch_ahead

LINE_SHIFT = 6
"""Lines of 64 bytes."""
NO_LINE = -1
MOST_LEVELS = 3
MOST_WAYS = 255


class Level(NamedTuple):
    """One level of the hierarchy.

    Attributes
    ----------
    sets, ways : int
    hash_bits : int
        So many of the address bits just above the set's number are XORed into it; sets are a power of two then.
    victim : bool
        Filled with what the level above evicts rather than on its own misses.
    hash_shift : int
        Lowest bit of the set's number that the address bits are XORed with.
    """

    sets: int
    ways: int
    hash_bits: int = 0
    victim: bool = False
    hash_shift: int = 0


class Rings(NamedTuple):
    """Where a level's sets lie and how a line finds its own: plain numbers, which stay in registers.

    Attributes
    ----------
    first_tag, first_set : int
        Where its tags and heads begin.
    sets, ways : int
    shift : int
        Logarithm of the number of sets where that is a power of two, else -1: divide.
    hash_mask, hash_shift : int
        Bits of the tag that are XORed into the set's number, and how far up.
    victim : int
        1: filled with what the level above evicts.
    """

    first_tag: int
    first_set: int
    sets: int
    ways: int
    shift: int
    hash_mask: int
    hash_shift: int
    victim: int


class DataCache(NamedTuple):
    """All levels.

    Attributes
    ----------
    tags : int32[lines]
        Line number over the number of sets, ``NO_LINE`` where empty; a set's ways lie side by side.
    heads : uint8[sets]
        Way of each set's most recently used tag; older ones follow it, round the ring.
    levels : int
        1 to 3; what lies above that is not used.
    first, second, third : Rings
    """

    tags: npt.NDArray[np.int32]
    heads: npt.NDArray[np.uint8]
    levels: int
    first: Rings
    second: Rings
    third: Rings


def new_data_cache(levels: list[Level]) -> DataCache:
    """Return empty caches of one to three levels, the first of them filled on its misses."""
    if not 1 <= len(levels) <= MOST_LEVELS or levels[0].victim:
        raise ValueError("data caches have one to three levels, and the first is no victim cache")
    rings = []
    tags = 0
    sets = 0
    for level in levels:
        is_power = level.sets & (level.sets - 1) == 0
        if not 1 <= level.ways <= MOST_WAYS:
            raise ValueError(f"a set of {level.ways} ways cannot be kept; ways are 1 to {MOST_WAYS}")
        if level.hash_bits and (not is_power or 1 << level.hash_bits + level.hash_shift > level.sets):
            raise ValueError(
                f"{level.hash_bits} bits cannot be hashed into {level.sets} sets from bit {level.hash_shift} on"
            )
        rings.append(
            Rings(
                tags,
                sets,
                level.sets,
                level.ways,
                level.sets.bit_length() - 1 if is_power else -1,
                (1 << level.hash_bits) - 1,
                level.hash_shift,
                int(level.victim),
            )
        )
        tags += level.sets * level.ways
        sets += level.sets
    unused = [Rings(0, 0, 1, 1, 0, 0, 0, 0)] * (MOST_LEVELS - len(levels))
    return DataCache(_empty_tags(tags), np.zeros(sets, np.uint8), len(levels), *rings, *unused)


def _empty_tags(count: int) -> npt.NDArray[np.int32]:
    """Return int32[count] of ``NO_LINE`` that begins with a line of this machine's caches: 16 ways then are one."""
    room = np.full(count + 15, NO_LINE, np.int32)
    start = -(room.ctypes.data // 4) % 16
    return room[start : start + count]


@kernel(inline=True)
def _locate(rings: Rings, line: int) -> tuple[int, int]:
    """Return the set and the tag of a line at a level."""
    if rings.shift >= 0:
        tag = line >> rings.shift
        return (line ^ ((tag & rings.hash_mask) << rings.hash_shift)) & (rings.sets - 1), tag
    tag = line // rings.sets
    return line - tag * rings.sets, tag


@kernel(inline=True)
def _search(tags: npt.NDArray[np.int32], first: int, ways: int, tag: int) -> int:
    """Return the way of a tag in the set that begins at ``first``, or ``ways``."""
    way = np.int64(0)
    if ways >= 8:
        while way < ways:
            # The last eight may take in some of those before, which do not hold it.
            way = min(way, ways - 8)
            found = equal_of_eight(tags, unsigned(first + way), tag)
            if found < 8:
                return way + found
            way += 8
        return ways
    while way < ways and tags[unsigned(first + way)] != tag:
        way += 1
    return way


@kernel(inline=True)
def _bring_in(cache: DataCache, rings: Rings, place: int, tag: int) -> int:
    """Put a tag that a set does not hold in the place of its oldest; return the line that leaves, or ``NO_LINE``."""
    number = unsigned(rings.first_set + place)
    head = np.int64(cache.heads[number])
    head = head - 1 if head > 0 else rings.ways - 1
    cache.heads[number] = head
    at = unsigned(rings.first_tag + place * rings.ways + head)
    oldest = np.int64(cache.tags[at])
    cache.tags[at] = tag
    if oldest == NO_LINE:
        return np.int64(NO_LINE)
    return oldest * rings.sets + (place ^ ((oldest & rings.hash_mask) << rings.hash_shift))


@kernel(inline=True)
def _enter(cache: DataCache, rings: Rings, line: int) -> tuple[bool, int]:
    """Look a line up in a level that its misses fill; return whether it was there, and the line that it drove out."""
    place, tag = _locate(rings, line)
    first = rings.first_tag + place * rings.ways
    way = _search(cache.tags, first, rings.ways, tag)
    if way == rings.ways:
        return False, _bring_in(cache, rings, place, tag)
    head = np.int64(cache.heads[unsigned(rings.first_set + place)])
    while way != head:
        # Those used since its last use move one step on.
        newer = way - 1 if way > 0 else rings.ways - 1
        cache.tags[unsigned(first + way)] = cache.tags[unsigned(first + newer)]
        way = newer
    cache.tags[unsigned(first + head)] = tag
    return True, np.int64(NO_LINE)


@kernel(inline=True)
def _leave(cache: DataCache, rings: Rings, line: int) -> bool:
    """Take a line out of a victim cache, closing the gap behind it; return whether it was there."""
    place, tag = _locate(rings, line)
    first = rings.first_tag + place * rings.ways
    way = _search(cache.tags, first, rings.ways, tag)
    if way == rings.ways:
        return False
    number = unsigned(rings.first_set + place)
    head = np.int64(cache.heads[number])
    newer = way - head if way >= head else way - head + rings.ways
    if 2 * newer < rings.ways:
        # Fewer are newer: they step on, and the head with them; its old place becomes the oldest.
        while way != head:
            previous = way - 1 if way > 0 else rings.ways - 1
            cache.tags[unsigned(first + way)] = cache.tags[unsigned(first + previous)]
            way = previous
        cache.heads[number] = head + 1 if head < rings.ways - 1 else 0
    else:
        oldest = head - 1 if head > 0 else rings.ways - 1
        while way != oldest:
            older = way + 1 if way < rings.ways - 1 else np.int64(0)
            cache.tags[unsigned(first + way)] = cache.tags[unsigned(first + older)]
            way = older
    cache.tags[unsigned(first + way)] = NO_LINE
    return True


@kernel(inline=True)
def _receive(cache: DataCache, rings: Rings, line: int, may_hold: bool) -> int:
    """Put a line that the level above evicted into a victim cache; return what that evicts.

    Only what was fetched ahead, past the first level, can be in a victim cache and above it at once.
    """
    if may_hold:
        _, evicted = _enter(cache, rings, line)
        return evicted
    place, tag = _locate(rings, line)
    return _bring_in(cache, rings, place, tag)


@kernel(inline=True)
def load_line(cache: DataCache, line: int, start: int) -> int:
    """Load a line from a level on (0: the first), bringing it in; return the level that held it, from 0.

    The number of levels stands for memory. The level started from, 0 or 1, is filled even if it is a victim cache.
    """
    evicted = np.int64(NO_LINE)
    if start == 0:
        found, evicted = _enter(cache, cache.first, line)
        if found:
            return 0
    served = np.int64(cache.levels)
    if cache.levels > 1:
        if start == 1 or cache.second.victim == 0:
            found, evicted = _enter(cache, cache.second, line)
            if found:
                return 1
        else:
            if _leave(cache, cache.second, line):
                served = np.int64(1)
            if evicted != NO_LINE:
                evicted = _receive(cache, cache.second, evicted, True)
    if cache.levels > 2:
        if cache.third.victim != 0:
            if served != 1 and _leave(cache, cache.third, line):
                served = np.int64(2)
            if evicted != NO_LINE:
                _receive(cache, cache.third, evicted, cache.second.victim != 0)
        elif served != 1:
            found, _ = _enter(cache, cache.third, line)
            if found:
                served = np.int64(2)
    return served


@kernel(inline=True)
def await_line(cache: DataCache, line: int) -> None:
    """Ask this machine for the last level's set of a line that is looked up soon."""
    rings = cache.third if cache.levels > 2 else cache.second
    place, _ = _locate(rings, line)
    fetch_ahead(cache.tags, rings.first_tag + place * rings.ways)


@kernel(inline=True)
def first_level_set(cache: DataCache, line: int) -> int:
    """Return the set of the first level that a line belongs to."""
    place, _ = _locate(cache.first, line)
    return place


@kernel
def empty(cache: DataCache) -> None:
    """Forget every line."""
    cache.tags[:] = NO_LINE
    cache.heads[:] = 0
