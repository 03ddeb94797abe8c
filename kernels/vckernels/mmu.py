"""A CPU's way from virtual addresses to events: TLB levels, then a page walk, counted by cause.

The loop is fused: it makes an address from an offset, translates it and counts, so that no array of addresses
is ever built. Page sizes come from the page tables themselves, through a small table of regions that have been
seen (a region of 2 MiB never holds more than one page size).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.causes import COUNTERS, Cause
from vckernels.entry import PAGE_SHIFT
from vckernels.jit import kernel, unsigned
from vckernels.pagetable import PageTables, walk
from vckernels.tlb import Field, Tlb, fill, flush, invalidate, lookup

REGIONS = 1 << 14
REGION_PAGES_SHIFT = 9
NO_REGION = -1
UNMAPPED = 3
"""Stands for a page size where nothing is mapped."""


class Mmu(NamedTuple):
    """One CPU's translation state.

    Attributes
    ----------
    tlb : Tlb
    regions : int64[REGIONS]
        ``region << 2 | size`` of 2 MiB regions seen, found by the region's low bits; ``NO_REGION`` if none.
    counters : int64[COUNTERS]
    """

    tlb: Tlb
    regions: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]


class Target(NamedTuple):
    """What a stream's offsets mean.

    Offset ``o`` lies at ``bases[o >> shift] + (o & ((1 << shift) - 1))``. Where ``arrays`` is not empty, the page
    is open-coded: each access is preceded by the load of its word in a page array,
    ``arrays[o >> array_shift] + 8 * (page within)``.

    Attributes
    ----------
    bases : uint64[n]
    shift : int
    arrays : uint64[m]
    array_shift : int
    """

    bases: npt.NDArray[np.uint64]
    shift: int
    arrays: npt.NDArray[np.uint64]
    array_shift: int


def new_mmu(tlb: Tlb) -> Mmu:
    """Return a CPU that has translated nothing yet; its TLB has one or two levels, as there are counters for two."""
    if tlb.geometry.shape[0] > Cause.WALK - Cause.FIRST_LEVEL_TLB_HIT:
        raise ValueError("hits of a third TLB level have no counter")
    return Mmu(tlb, np.full(REGIONS, NO_REGION, np.int64), np.zeros(COUNTERS, np.int64))


@kernel(inline=True)
def _page_size(mmu: Mmu, tables: PageTables, page: int) -> int:
    """Return the size (0: 4K, 1: 2M, 2: 1G, ``UNMAPPED``) of the page around a 4K page number."""
    region = page >> REGION_PAGES_SHIFT
    slot = region & (REGIONS - 1)
    seen = mmu.regions[unsigned(slot)]
    if seen >> 2 == region:
        return seen & 3
    _, level, _, fault = walk(tables, np.uint64(page << 12), False, False, False, False)
    if fault != 0:
        return UNMAPPED
    mmu.regions[unsigned(slot)] = region << 2 | (level - 1)
    return level - 1


@kernel(inline=True)
def _touch(mmu: Mmu, tables: PageTables, page: int, write: bool) -> bool:
    """Translate one access to a 4K page number (the upper 52 bits of an address) and count how.

    Returns whether the first level now holds the page. What no table maps costs a walk too.
    """
    tlb = mmu.tlb
    counters = mmu.counters
    size = _page_size(mmu, tables, page)
    number = page >> (9 * size)
    levels = tlb.geometry.shape[0]
    # No level holds what is not mapped; the walk finds that out.
    missed = levels if size == UNMAPPED else 0
    while missed < levels and not lookup(tlb, missed, number, size):
        missed += 1
    if missed == levels:
        _, _, references, fault = walk(tables, np.uint64(page << 12), write, False, False, True)
        counters[Cause.WALK] += 1
        counters[Cause.WALK_REFERENCE] += references
        if fault != 0:
            counters[Cause.TLB_FAULT] += 1
            return False
    else:
        counters[unsigned(Cause.FIRST_LEVEL_TLB_HIT + missed)] += 1
    for level in range(missed):
        fill(tlb, level, number, size)
    return tlb.geometry[0, size, Field.SETS] != 0


@kernel
def access(mmu: Mmu, tables: PageTables, target: Target, offsets: npt.NDArray[np.int64], write: bool) -> None:
    """Access each offset in turn.

    Parameters
    ----------
    mmu : Mmu
        Mutated: TLB state and counters.
    tables : PageTables
        Walks set accessed and dirty bits. A store that hits an entry sets none: kernel leaves are born dirty.
    target : Target
        Read.
    offsets : int64[n]
        Byte offsets, 0 or more, inside the target.
    write : bool
        Stores rather than loads (page-array words are always loaded).
    """
    within = (np.int64(1) << target.shift) - 1
    array_within = (np.int64(1) << target.array_shift) - 1
    open_coded = len(target.arrays) > 0
    page_bits = (np.int64(1) << 52) - 1
    last = np.int64(-1)
    repeated = 0
    for i in range(len(offsets)):
        offset = offsets[i]
        if open_coded:
            place = (
                np.int64(target.arrays[unsigned(offset >> target.array_shift)]) + ((offset & array_within) >> 12) * 8
            )
            _touch(mmu, tables, (place >> 12) & page_bits, False)
            last = -1
        address = np.int64(target.bases[unsigned(offset >> target.shift)]) + (offset & within)
        page = (address >> 12) & page_bits
        if page == last:
            # The page just used is the first level's most recent entry: a hit that changes nothing.
            repeated += 1
            continue
        last = page if _touch(mmu, tables, page, write) else -1
    mmu.counters[Cause.FIRST_LEVEL_TLB_HIT] += repeated
    mmu.counters[Cause.DATA_ACCESS] += len(offsets)
    if open_coded:
        mmu.counters[Cause.PAGE_ARRAY_ACCESS] += len(offsets)


@kernel
def flush_all(mmu: Mmu) -> None:
    """Forget every translation."""
    flush(mmu.tlb)
    mmu.regions[:] = NO_REGION


@kernel
def invalidate_range(mmu: Mmu, address: np.uint64, count: int, level: int) -> int:
    """Drop ``count`` pages of a leaf level from an address on; return how many entries were dropped."""
    dropped = 0
    page = np.int64(address >> PAGE_SHIFT)
    step = np.int64(1) << (9 * (level - 1))
    for i in range(count):
        at = page + i * step
        dropped += invalidate(mmu.tlb, at >> (9 * (level - 1)), level - 1)
        for region in range(at >> REGION_PAGES_SHIFT, ((at + step - 1) >> REGION_PAGES_SHIFT) + 1):
            slot = region & (REGIONS - 1)
            if mmu.regions[unsigned(slot)] >> 2 == region:
                mmu.regions[unsigned(slot)] = NO_REGION
    return dropped
