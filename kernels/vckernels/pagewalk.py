"""Page walks as a CPU does them: begun where paging-structure caches allow, loading words through the data caches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels import entry
from vckernels.causes import Cause
from vckernels.entry import Fault
from vckernels.jit import kernel, unsigned
from vckernels.linequeue import Kind, push
from vckernels.pagetable import (
    ALL_PERMISSIONS,
    PageTables,
    is_canonical,
    narrowed,
    permission_fault,
    row_at,
    used,
    word_fault,
)
from vckernels.pagetable import Control as PagingControl
from vckernels.tlb import DIRECTORY, DIRTY, EMPTY, FRAME_SHIFT, GLOBAL, Field, Tlb, fill, find, lookup
from vckernels.walkcache import LOWEST, WalkCache, find_word, keep_word

PERMISSION_BITS = 3


@kernel(inline=True)
def walk_through_caches(
    tlb: Tlb,
    cache: WalkCache,
    tables: PageTables,
    queue: npt.NDArray[np.int64],
    counters: npt.NDArray[np.int64],
    page: int,
    write: bool,
    prefetch: bool,
) -> tuple[int, int]:
    """Walk the tables as the hardware does; return the TLB value (-1 on a fault) and the leaf's level.

    Parameters
    ----------
    tlb : Tlb
        Where it holds page-directory entries, they are looked up and filled.
    cache : WalkCache
        Mutated: words that name tables are looked up and filled.
    tables : PageTables
        Accessed and dirty bits are set.
    queue : int64[]
        The words loaded are put there, to go through the data caches.
    counters : int64[COUNTERS]
    page : int
        4K page number: the upper 52 bits of the address.
    write : bool
        For a store.
    prefetch : bool
        For the next-page prefetcher, whose references are counted apart.
    """
    address = np.uint64(page << 12)
    level = tables.control[PagingControl.LEVELS]
    if not is_canonical(address, level):
        return -1, 0
    permissions = np.int64(ALL_PERMISSIONS)
    frame = tables.frames[0]
    row = np.int64(0)
    directories = tlb.geometry.shape[0] > 1 and tlb.geometry[1, DIRECTORY, Field.SETS] != 0
    physical = cache.physical[0] != 0
    if not physical:
        for held in range(LOWEST, level + 1):
            tag = page >> (9 * (held - 1))
            value = np.int64(EMPTY)
            if held == LOWEST and directories:
                at = lookup(tlb, 1, tag, DIRECTORY)
                if at != EMPTY:
                    value = tlb.values[unsigned(at)]
            else:
                value = find_word(cache, tag, held)
            if value != EMPTY:
                counters[Cause.WALK_CACHE_HIT] += 1
                frame = value >> PERMISSION_BITS
                row = row_at(tables, frame)
                permissions = value & ALL_PERMISSIONS
                level = held - 1
                break
    while True:
        index = entry.table_index(address, level)
        tag = frame << 9 | index
        if physical and level >= LOWEST:
            value = find_word(cache, tag, LOWEST)
            if value != EMPTY:
                counters[Cause.WALK_CACHE_HIT] += 1
                frame = value >> PERMISSION_BITS
                row = row_at(tables, frame)
                permissions &= value
                level -= 1
                continue
        # A frame that holds no table reads as zeros: memory that nobody wrote.
        word = tables.words[unsigned(row), unsigned(index)] if row >= 0 else entry.ZERO
        if prefetch:
            counters[Cause.PREFETCH_REFERENCE] += 1
            push(queue, tag >> 3, Kind.PREFETCH_WALK)
        else:
            counters[Cause.WALK_REFERENCE] += 1
            push(queue, tag >> 3, Kind.WALK)
        if word_fault(tables, word, level) != Fault.NONE:
            return -1, level
        permissions = narrowed(permissions, word, tables.control[PagingControl.NO_EXECUTE] != 0)
        if entry.is_leaf(word, level):
            break
        if word & entry.ACCESSED == entry.ZERO:
            tables.words[unsigned(row), unsigned(index)] = word | entry.ACCESSED
            counters[Cause.ACCESSED_UPDATE] += 1
        frame = entry.frame_of(word)
        row = row_at(tables, frame)
        if physical:
            own = narrowed(np.int64(ALL_PERMISSIONS), word, tables.control[PagingControl.NO_EXECUTE] != 0)
            keep_word(cache, tag, LOWEST, frame << PERMISSION_BITS | own)
        elif level == LOWEST and directories:
            fill(tlb, 1, page >> 9, DIRECTORY, frame << PERMISSION_BITS | permissions)
        else:
            keep_word(cache, page >> (9 * (level - 1)), level, frame << PERMISSION_BITS | permissions)
        level -= 1
    if permission_fault(tables, permissions, write, False, False) != Fault.NONE:
        return -1, level
    wanted = used(word, write)
    if wanted != word:
        tables.words[unsigned(row), unsigned(index)] = wanted
        if word & entry.ACCESSED == entry.ZERO:
            counters[Cause.ACCESSED_UPDATE] += 1
        if write and word & entry.DIRTY == entry.ZERO:
            counters[Cause.DIRTY_UPDATE] += 1
    value = entry.leaf_frame(wanted, level) << FRAME_SHIFT
    if wanted & entry.DIRTY != entry.ZERO:
        value |= DIRTY
    if wanted & entry.GLOBAL != entry.ZERO:
        value |= GLOBAL
    return value, level


@kernel
def set_dirty(
    tlb: Tlb,
    tables: PageTables,
    queue: npt.NDArray[np.int64],
    counters: npt.NDArray[np.int64],
    page: int,
    size: int,
) -> bool:
    """Set the dirty bit of a page whose TLB entry a store has hit; return whether the store is allowed.

    The leaf word is loaded once, like a walk's; the entries of every level learn of it.
    """
    address = np.uint64(page << 12)
    row = np.int64(0)
    permissions = np.int64(ALL_PERMISSIONS)
    level = tables.control[PagingControl.LEVELS]
    while True:
        index = entry.table_index(address, level)
        word = tables.words[unsigned(row), unsigned(index)]
        permissions = narrowed(permissions, word, False)
        if level == size + 1:
            break
        row = row_at(tables, entry.frame_of(word))
        level -= 1
    counters[Cause.WALK_REFERENCE] += 1
    push(queue, (tables.frames[row] << 9 | index) >> 3, Kind.WALK)
    if permission_fault(tables, permissions, True, False, False) != Fault.NONE:
        return False
    tables.words[unsigned(row), unsigned(index)] = used(word, True)
    counters[Cause.DIRTY_UPDATE] += 1
    for at in range(tlb.geometry.shape[0]):
        held = find(tlb, at, page >> (9 * size), size)
        if held != EMPTY:
            tlb.values[unsigned(held)] |= DIRTY
    return True
