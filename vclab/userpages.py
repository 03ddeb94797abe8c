"""Pages of programs and files: one region of addresses whose page numbers are the owners of movable pages.

What compaction moves keeps its address, and its leaves follow; what reclaim takes loses them. A number is given once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import entry, remap
from vckernels.causes import Status
from vckernels.referenced import Entries
from vclab.errors import ConfigurationError
from vclab.mapping import PageTables
from vclab.units import PAGE_SHIFT

REGION_START = 1 << 44
"""Far from where programs lie: 16 TiB."""
UNUSED_LEAF = entry.USER_LEAF & ~(entry.ACCESSED | entry.DIRTY)
"""How a page is mapped: its flags say whether it was used or written before, its leaf what CPUs have noted since."""
MOST_PAGES = 1 << 31
"""Owners are numbered in 31 bits."""


class Leaves(NamedTuple):
    """Ranges of 4 KiB leaves that every CPU must forget: addresses, uint64[n], and their sizes, int64[n] pages."""

    addresses: npt.NDArray[np.uint64]
    pages: npt.NDArray[np.int64]


class UserRegion:
    """The region and what is mapped in it.

    Parameters
    ----------
    tables : PageTables
        Mutated by every method.
    """

    def __init__(self, tables: PageTables) -> None:
        self.tables = tables
        self.used = 0
        """Pages numbered so far."""

    def address(self, owner: int) -> int:
        """Return the virtual address of the page with a number."""
        return REGION_START + (owner << PAGE_SHIFT)

    def map(self, frames: npt.NDArray[np.int64], order: int) -> npt.NDArray[np.int64] | None:
        """Map blocks of 2**order frames one after another; return the number of each one's first page, int64[n].

        None, and nothing changed, if there is no memory for a page table.

        Raises
        ------
        ConfigurationError
            If all numbers are given away.
        """
        if not len(frames):
            return np.empty(0, np.int64)
        size = 1 << order
        # A block of many pages begins at a multiple of its size, as a program's large pages do.
        first = -(-self.used // size) * size
        if first + len(frames) * size > MOST_PAGES:
            raise ConfigurationError(f"more than {MOST_PAGES} movable pages cannot be numbered; map fewer")
        every = (frames[:, None] + np.arange(size)).ravel()
        if self.tables.map(self.address(first), every, 1, UNUSED_LEAF) is None:
            return None
        self.used = first + len(every)
        return first + size * np.arange(len(frames), dtype=np.int64)

    def moved(
        self, owners: npt.NDArray[np.int64], orders: npt.NDArray[np.int8], frames: npt.NDArray[np.int64]
    ) -> Leaves:
        """Let the leaves of moved pages name their new frames; return what CPUs must forget.

        Raises
        ------
        ConfigurationError
            If one of the pages is not mapped; nothing is changed then.
        """
        status = remap.follow_moves(self.tables.state, np.uint64(REGION_START), owners, orders, frames)
        return self._forget(owners, orders, status)

    def reclaimed(self, owners: npt.NDArray[np.int64], orders: npt.NDArray[np.int8]) -> Leaves:
        """Clear the leaves of pages that are gone; return what CPUs must forget.

        Raises
        ------
        ConfigurationError
            If one of the pages is not mapped; nothing is changed then.
        """
        status = remap.clear_leaves(self.tables.state, np.uint64(REGION_START), owners, orders)
        return self._forget(owners, orders, status)

    def stale(self, owners: npt.NDArray[np.int64], orders: npt.NDArray[np.int8]) -> Leaves:
        """Return what CPUs must forget of pages that stay mapped where they are."""
        return self._forget(owners, orders, Status.OK)

    def entries(self, noted: bool) -> Entries:
        """Return the leaves as reclaim looks at them, until the tables grow; ``noted``: CPUs may have set bits."""
        return Entries(self.tables.state, np.uint64(REGION_START), noted)

    def _forget(self, owners: npt.NDArray[np.int64], orders: npt.NDArray[np.int8], status: int) -> Leaves:
        if status != Status.OK:
            raise ConfigurationError("a movable page has lost its mapping; move and reclaim only what is mapped")
        addresses = np.uint64(REGION_START) + (owners.astype(np.uint64) << np.uint64(PAGE_SHIFT))
        return Leaves(addresses, np.int64(1) << orders.astype(np.int64))

    def copy(self, tables: PageTables) -> UserRegion:
        """Return the same region over a copy of the tables."""
        twin = UserRegion(tables)
        twin.used = self.used
        return twin
