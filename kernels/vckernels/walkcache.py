"""Paging-structure caches: words of page tables above the leaf, kept beside the TLB so that walks start lower.

Intel's are tagged by virtual address (Intel SDM volume 3A, 4.10.3): an entry of level *k* gives at once the table
below it. AMD's K8 and K10 tag one small array by the physical address of the word, so a walk still goes level by level
but loads nothing for words that are held (Barr, Cox, Rixner, ISCA 2010, call the two kinds translation and page-table
caches). Both are the TLB's own associative arrays with other keys: the entry level less two takes the place of the
page size, the frame of the table below that of the page.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned
from vckernels.tlb import EMPTY, Array, Tlb, fill, flush, lookup, new_tlb

LOWEST = 2
"""Level of a page-directory entry, the lowest word that names a table."""
HIGHEST = 5


class Structure(NamedTuple):
    """One array: its sets and ways, and the levels of the words it holds (2 PDE, 3 PDPTE, 4 PML4E, 5 PML5E)."""

    sets: int
    ways: int
    entry_levels: tuple[int, ...]


class WalkCache(NamedTuple):
    """All paging-structure caches of one CPU, apart from entries that the TLB holds.

    Attributes
    ----------
    entries : Tlb
        One level; a word of level ``k`` is a page of kind ``k - LOWEST``.
    physical : int64[1]
        1: tagged by the physical address of the word, all levels in one array.
    """

    entries: Tlb
    physical: npt.NDArray[np.int64]


def new_walk_cache(structures: list[Structure], physical: bool = False) -> WalkCache:
    """Return empty paging-structure caches.

    Parameters
    ----------
    structures : list of Structure
        With none, every walk starts at the root.
    physical : bool
        Tags are physical addresses; there is one structure then, and its levels say nothing.
    """
    if physical:
        if len(structures) != 1:
            raise ValueError("a physically tagged walk cache is one structure")
        arrays = [Array(1, structures[0].sets, structures[0].ways, (1,))]
    else:
        for structure in structures:
            if not all(LOWEST <= level <= HIGHEST for level in structure.entry_levels):
                raise ValueError(f"words of levels {structure.entry_levels} name no tables; use {LOWEST} to {HIGHEST}")
        # What a level of a TLB calls a page of kind k is a word of level k + LOWEST here; kind 3 is a "directory".
        arrays = [
            Array(
                1,
                structure.sets,
                structure.ways,
                tuple(level - 1 for level in structure.entry_levels if level < HIGHEST),
                directories=HIGHEST in structure.entry_levels,
            )
            for structure in structures
        ]
    return WalkCache(new_tlb(1, arrays), np.array([physical], np.int64))


@kernel(inline=True)
def find_word(cache: WalkCache, tag: int, level: int) -> int:
    """Return the value kept for a word, now the most recently used of its set, or ``EMPTY``.

    ``tag`` is the address over what one word of ``level`` maps; with physical tags the word's address over 8, and
    ``level`` is ``LOWEST``.
    """
    entry = lookup(cache.entries, 0, tag, level - LOWEST)
    return cache.entries.values[unsigned(entry)] if entry != EMPTY else np.int64(EMPTY)


@kernel(inline=True)
def keep_word(cache: WalkCache, tag: int, level: int, value: int) -> None:
    """Keep a word that is not held, if any array holds its level."""
    fill(cache.entries, 0, tag, level - LOWEST, value)


@kernel
def flush_walk_cache(cache: WalkCache) -> None:
    """Forget all words."""
    flush(cache.entries)
