"""Exact LRU TLBs in plain Python, and an MMU made of one and a dict of pages; written from no kernel.

Rules: a level is made of arrays; an array has sets of ways and names the page sizes it holds. A page of a size
may lie in the sets of all arrays of the level that hold this size, counted through them in order: set = page
number mod their sum, or, where the arrays say a hash shift, (number XOR (number >> shift)) mod their sum. Sizes
that share a set compete in it, and so do page-directory entries that name a table where an array holds them.
A miss fills every level that missed; a level's recency is touched only by what reaches it. A dropped entry
leaves a free place, taken before any victim.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

DIRECTORY = 4
"""Stands beside the leaf levels 1 to 3 for a page-directory entry that names a table; its number is address >> 21."""


class PlainArray(NamedTuple):
    """An array of one level: number of sets, ways, and leaf levels (1: 4K, 2: 2M, 3: 1G) it holds."""

    level: int
    sets: int
    ways: int
    page_levels: tuple[int, ...]
    hash_shift: int = 0
    directories: bool = False


class PlainSet:
    """One set: entries from the least to the most recently used."""

    def __init__(self, ways: int) -> None:
        self.ways = ways
        self.entries: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def touch(self, key: tuple[int, int]) -> bool:
        """Return whether an entry is here, making it the most recently used."""
        if key not in self.entries:
            return False
        self.entries.move_to_end(key)
        return True

    def add(self, key: tuple[int, int], value: Any = None) -> None:
        """Put an entry in, in the place of the least recently used one if all ways are taken."""
        if len(self.entries) == self.ways:
            self.entries.popitem(last=False)
        self.entries[key] = value


class PlainTlb:
    """All levels; ``homes[level][leaf level]`` lists the sets that serve pages of a size."""

    def __init__(self, levels: int, arrays: Iterable[PlainArray]) -> None:
        self.levels = levels
        self.homes: list[dict[int, list[PlainSet]]] = [{1: [], 2: [], 3: [], DIRECTORY: []} for _ in range(levels)]
        self.hash_shifts: list[dict[int, int]] = [{} for _ in range(levels)]
        for array in arrays:
            sets = [PlainSet(array.ways) for _ in range(array.sets)]
            for page_level in (*array.page_levels, DIRECTORY) if array.directories else array.page_levels:
                self.homes[array.level - 1][page_level] += sets
                self.hash_shifts[array.level - 1][page_level] = array.hash_shift

    def home(self, level: int, page: int, page_level: int) -> PlainSet | None:
        """Return the set of a page in a level (counted from 0), None where the level does not hold its size."""
        sets = self.homes[level][page_level]
        if not sets:
            return None
        hash_shift = self.hash_shifts[level][page_level]
        return sets[(page ^ page >> hash_shift if hash_shift else page) % len(sets)]

    def lookup(self, level: int, page: int, page_level: int) -> bool:
        """Return whether a level holds a page, which becomes its set's most recently used."""
        home = self.home(level, page, page_level)
        return home is not None and home.touch((page, page_level))

    def fill(self, level: int, page: int, page_level: int) -> None:
        """Put a page into a level that lacks it."""
        home = self.home(level, page, page_level)
        if home is not None:
            home.add((page, page_level))

    def translate(self, page: int, page_level: int = 1) -> int:
        """Return how many levels missed, all of which hold the page afterwards."""
        missed = 0
        while missed < self.levels and not self.lookup(missed, page, page_level):
            missed += 1
        for level in range(missed):
            self.fill(level, page, page_level)
        return missed

    def misses(self, pages: Iterable[int]) -> list[int]:
        """Return the misses of each level for a sequence of 4K pages."""
        missed = Counter(map(self.translate, pages))
        return [sum(missed[count] for count in missed if count > level) for level in range(self.levels)]

    def invalidate(self, page: int, page_level: int) -> int:
        """Drop a page from all levels; return how many held it."""
        dropped = 0
        for level in range(self.levels):
            home = self.home(level, page, page_level)
            if home is not None and (page, page_level) in home.entries:
                del home.entries[page, page_level]
                dropped += 1
        return dropped

    def flush(self) -> None:
        """Empty all levels."""
        for level in self.homes:
            for sets in level.values():
                for one in sets:
                    one.entries.clear()


class PlainMmu:
    """A TLB before a dict of pages; addresses are 64 bits unsigned.

    Attributes
    ----------
    leaves : dict of (int, int)
        Writable or not, by (leaf level, address over page size).
    tables : set of (int, int)
        (Level, address over the bytes that a table of the level maps) of every table but the root.
    events : Counter of str
    """

    def __init__(self, tlb: PlainTlb, table_levels: int = 4) -> None:
        self.tlb = tlb
        self.table_levels = table_levels
        self.leaves: dict[tuple[int, int], bool] = {}
        self.tables: set[tuple[int, int]] = set()
        self.events: Counter[str] = Counter()

    def map(self, address: int, page_level: int, count: int, writable: bool = True) -> None:
        """Map pages of a size from an address on."""
        for number in range(count):
            here = address + (number << shift(page_level))
            self.leaves[page_level, here >> shift(page_level)] = writable
            for level in range(page_level, self.table_levels):
                self.tables.add((level, here >> shift(level + 1)))

    def unmap(self, address: int, page_level: int, count: int) -> None:
        """Clear leaves; tables stay."""
        for number in range(count):
            del self.leaves[page_level, (address >> shift(page_level)) + number]

    def page_level(self, address: int) -> int | None:
        """Return the leaf level of the page at an address."""
        return next((level for level in (1, 2, 3) if (level, address >> shift(level)) in self.leaves), None)

    def walk(self, address: int, write: bool) -> tuple[int, bool]:
        """Return the table words that a walk loads and whether it finds a page for the access."""
        top = address >> (shift(self.table_levels + 1) - 1)
        if top not in (0, (1 << (65 - shift(self.table_levels + 1))) - 1):
            return 0, False
        level = self.table_levels
        words = 1
        while (level, address >> shift(level)) not in self.leaves:
            if (level - 1, address >> shift(level)) not in self.tables:
                return words, False
            level -= 1
            words += 1
        return words, self.leaves[level, address >> shift(level)] or not write

    def touch(self, address: int, write: bool) -> None:
        """Translate one access."""
        page_level = self.page_level(address)
        missed = 0
        if page_level is None:
            missed = self.tlb.levels
        else:
            page = address >> shift(page_level)
            while missed < self.tlb.levels and not self.tlb.lookup(missed, page, page_level):
                missed += 1
        if missed < self.tlb.levels:
            self.events[("FIRST_LEVEL_TLB_HIT", "SECOND_LEVEL_TLB_HIT")[missed]] += 1
        else:
            words, found = self.walk(address, write)
            self.events["WALK"] += 1
            self.events["WALK_REFERENCE"] += words
            if not found:
                self.events["TLB_FAULT"] += 1
                return
        for level in range(missed):
            self.tlb.fill(level, page, page_level)

    def access(
        self,
        bases: Sequence[int],
        piece: int,
        offsets: Iterable[int],
        write: bool = False,
        arrays: Sequence[int] = (),
        array_piece: int = 0,
    ) -> None:
        """Access offsets of equal pieces; with page arrays each access is preceded by the load of its page's word."""
        for offset in offsets:
            if arrays:
                self.events["PAGE_ARRAY_ACCESS"] += 1
                word = arrays[offset // array_piece] + offset % array_piece // 4096 * 8
                self.touch(word, write=False)
            self.events["DATA_ACCESS"] += 1
            self.touch(bases[offset // piece] + offset % piece, write)


def shift(level: int) -> int:
    """Return the address bits below a table of a level: 12, 21, 30, 39, 48."""
    return 3 + 9 * level
