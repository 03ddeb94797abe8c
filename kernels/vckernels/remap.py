"""Leaves that follow pages: what was moved is reached in its new place, what was reclaimed is reached no more.

Each page has one mapping, of 4 KiB leaves, at the address that its owner's number says: number ``n`` is the ``n``-th
page of a region. That is the reverse map, so nothing is searched. Rules: Linux 6.18 ``mm/migrate.c``
(``try_to_migrate``, ``remove_migration_ptes``) and ``mm/rmap.c`` (``try_to_unmap``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels import entry
from vckernels.causes import Cause, Status
from vckernels.jit import kernel
from vckernels.pagetable import PageTables, leaf_word


@kernel(inline=True)
def _all_mapped(
    tables: PageTables, start: np.uint64, owners: npt.NDArray[np.int64], orders: npt.NDArray[np.int8]
) -> bool:
    for i in range(len(owners)):
        for part in range(1 << np.int64(orders[i])):
            row, _ = leaf_word(tables, start + (np.uint64(owners[i] + part) << entry.PAGE_SHIFT))
            if row < 0:
                return False
    return True


@kernel
def follow_moves(
    tables: PageTables,
    start: np.uint64,
    owners: npt.NDArray[np.int64],
    orders: npt.NDArray[np.int8],
    frames: npt.NDArray[np.int64],
) -> int:
    """Let the leaves of moved pages name their new frames; return a status.

    Parameters
    ----------
    tables : PageTables
        Mutated, unless a leaf is missing. Flags stay, accessed and dirty bits too; two words are written for each leaf,
        the first of which tells faults to wait.
    start : uint64
        Address of the region's first page.
    owners : int64[n]
        Number of each moved page's first leaf.
    orders : int8[n]
        A page has 2**order leaves.
    frames : int64[n]
        First frame of each page's new place.
    """
    if not _all_mapped(tables, start, owners, orders):
        return np.int64(Status.NOT_MAPPED)
    written = 0
    for i in range(len(owners)):
        size = 1 << np.int64(orders[i])
        for part in range(size):
            row, index = leaf_word(tables, start + (np.uint64(owners[i] + part) << entry.PAGE_SHIFT))
            kept = tables.words[row, index] & ~entry.ADDRESS_BITS
            tables.words[row, index] = kept | (np.uint64(frames[i] + part) << entry.PAGE_SHIFT)
        written += 2 * size
    tables.counters[Cause.ENTRY_WRITE] += written
    return np.int64(Status.OK)


@kernel
def clear_leaves(
    tables: PageTables, start: np.uint64, owners: npt.NDArray[np.int64], orders: npt.NDArray[np.int8]
) -> int:
    """Clear the leaves of pages that were reclaimed, keeping tables; return a status.

    ``tables`` is mutated, unless a leaf is missing; the other parameters are those of :func:`follow_moves`.
    """
    if not _all_mapped(tables, start, owners, orders):
        return np.int64(Status.NOT_MAPPED)
    written = 0
    for i in range(len(owners)):
        size = 1 << np.int64(orders[i])
        for part in range(size):
            row, index = leaf_word(tables, start + (np.uint64(owners[i] + part) << entry.PAGE_SHIFT))
            tables.words[row, index] = entry.ZERO
        written += size
    tables.counters[Cause.ENTRY_WRITE] += written
    return np.int64(Status.OK)
