"""Virtual memory of the kernel: page tables and the direct map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import entry, pagetable
from vckernels.causes import Status
from vckernels.pagetable import Control
from vclab.errors import ConfigurationError, OutOfMemory
from vclab.gfp import GFP_KERNEL
from vclab.memory import Memory
from vclab.presets import AddressSpace
from vclab.state import copied
from vclab.units import PAGE_BYTES, PAGE_SHIFT


class TableChange(NamedTuple):
    """What mapping a range did to the tree of tables."""

    added: int
    """Tables put into the tree, in frames newly taken."""
    removed: int
    """Empty tables that stood in the place of larger leaves; their frames were given back."""


class PageTables:
    """A tree of x86-64 page tables in frames of the machine.

    Parameters
    ----------
    memory : Memory
        Where frames for tables come from: order 0, unmovable.
    levels : int
        4 or 5.
    physical_bits : int
        MAXPHYADDR of the CPU.
    gigabyte_pages : bool
        Whether the CPU has 1G pages.
    global_pages : bool
        Kernel pages are global; with page-table isolation they are not (``arch/x86/mm/init.c``).

    Attributes
    ----------
    removed : int
        Tables removed so far. Whenever it grows, every CPU must forget all translations and upper-level words (Linux
        flushes there: ``arch/x86/mm/pgtable.c``, ``pmd_free_pte_page``).
    """

    def __init__(
        self, memory: Memory, levels: int, physical_bits: int, gigabyte_pages: bool, global_pages: bool = True
    ) -> None:
        self.memory = memory
        self.leaf_flags = entry.KERNEL_LEAF if global_pages else entry.KERNEL_LEAF & ~entry.GLOBAL
        self.removed = 0
        root = memory.allocate(0, GFP_KERNEL)
        if root < 0:
            raise OutOfMemory("no frame is free for the top page table; give the machine more memory")
        self.state = pagetable.new_page_tables(
            root, memory.first_frame, memory.frames, levels, physical_bits, gigabyte_pages
        )

    @property
    def levels(self) -> int:
        """Levels of the tree: 4 or 5."""
        return int(self.state.control[Control.LEVELS])

    @property
    def count(self) -> int:
        """Number of tables, root included."""
        return int(self.state.control[Control.TABLES])

    @property
    def root(self) -> int:
        """Physical address of the top table: a CR3 value."""
        return int(self.state.frames[0]) << PAGE_SHIFT

    def frames(self) -> npt.NDArray[np.int64]:
        """Return the frame of every table, root first, int64[n]."""
        return self.state.frames[: self.count].copy()

    def words(self) -> npt.NDArray[np.uint64]:
        """Return the content of every table, uint64[n, 512]; row i lies in frame ``frames()[i]``."""
        return self.state.words[: self.count].copy()

    def translate(self, addresses: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the physical address of each virtual one, int64[n], -1 where nothing is mapped.

        Raises
        ------
        ConfigurationError
            If something is no unsigned 64-bit number.
        """
        try:
            virtual = np.atleast_1d(np.asarray(addresses, np.uint64))
        except (OverflowError, TypeError, ValueError) as error:
            raise ConfigurationError("addresses to translate must be whole numbers from 0 to 2**64 - 1") from error
        physical = np.empty(len(virtual), np.int64)
        pagetable.translate_many(self.state, virtual, physical)
        return physical

    def map(
        self,
        address: int,
        first_frames: npt.NDArray[np.int64],
        level: int,
        flags: np.uint64 | None = None,
        table_flags: int = GFP_KERNEL,
    ) -> TableChange | None:
        """Map leaves of a level, one for each first frame.

        Parameters
        ----------
        address : int
            First virtual address, a multiple of the leaf's size.
        first_frames : int64[n]
            First 4 KiB frame of each leaf.
        level : int
            1 for 4K leaves, 2 for 2M, 3 for 1G. Empty tables where larger leaves go are removed first.
        flags : uint64
            Leaf flags in the format of a 4K leaf; those of kernel data without it.
        table_flags : int
            How frames for tables are asked for (:func:`vclab.gfp.table_flags`).

        Returns
        -------
        TableChange or None
            Tables added and removed; None, and nothing changed, if there is no memory for a table.

        Raises
        ------
        ConfigurationError
            If part of the range is mapped, or it does not exist.
        """
        needed = int(pagetable.survey(self.state, np.uint64(address), len(first_frames), level))
        if needed < 0:
            why = Status(-needed).name.lower().replace("_", " ")
            raise ConfigurationError(f"cannot map {len(first_frames)} pages at {address:#x}: {why}")
        new = np.empty(0, np.int64)
        if needed:
            taken = self.memory.allocate_all(0, table_flags, needed)
            if taken is None:
                return None
            new = taken
        capacity = len(self.state.frames)
        if self.count + needed > capacity:
            self.state = pagetable.grown(self.state, max(2 * capacity, self.count + needed))
        empty = int(pagetable.survey_empty_tables(self.state, np.uint64(address), len(first_frames), level))
        if empty:
            old = np.empty(empty, np.int64)
            pagetable.remove_empty_tables(self.state, np.uint64(address), len(first_frames), level, old)
            self.memory.free(old, 0)
            self.removed += empty
        if flags is None:
            flags = self.leaf_flags
        # A program's pages are reached through tables that let it pass.
        upper = entry.KERNEL_TABLE | (flags & entry.USER)
        pagetable.map_range(self.state, np.uint64(address), first_frames, level, flags, upper, new)
        return TableChange(needed, empty)

    def unmap(self, address: int, count: int, level: int = 1) -> npt.NDArray[np.int64]:
        """Clear leaves of a level and return the first frame of each, int64[count]; tables stay.

        Raises
        ------
        ConfigurationError
            If part of the range is not mapped by leaves of that level; nothing is changed then.
        """
        frames = np.empty(max(count, 0), np.int64)
        if pagetable.unmap_range(self.state, np.uint64(address), count, level, frames) != Status.OK:
            raise ConfigurationError(
                f"cannot unmap {count} pages at {address:#x}: part of them is not mapped by leaves of level {level}"
            )
        return frames

    def undo(self, address: int, count: int, level: int, added: int) -> None:
        """Take back what mapping a range just did: clear its leaves and remove the tables that it added.

        Nothing else was mapped since, and no CPU used the range; so nobody has to forget anything.
        """
        self.unmap(address, count, level)
        if added:
            frames = np.empty(added, np.int64)
            pagetable.remove_newest_tables(self.state, np.uint64(address), count, level, self.count - added, frames)
            self.memory.free(frames[::-1], 0)

    def copy(self, memory: Memory) -> PageTables:
        """Return an independent tree with the same words, for a copy of the memory it lies in."""
        twin = object.__new__(PageTables)
        twin.memory = memory
        twin.removed = self.removed
        twin.leaf_flags = self.leaf_flags
        twin.state = copied(self.state)
        return twin


def leaf_frames(level: int) -> int:
    """Return how many frames a leaf of a level maps: 1, 512 or 262144."""
    return 1 << (9 * (level - 1))


class DirectMap:
    """The linear mapping of all memory that the kernel reaches physical pages through.

    Parameters
    ----------
    tables : PageTables
        Mutated: one leaf for each page of the machine.
    layout : AddressSpace
        Where the map starts.
    level : int
        Leaf level: 1 for 4K, 2 for 2M, 3 for 1G. What is left over at either end gets smaller pages.
    split : float
        Share of the pages of that level, 0 to 1, that are broken into pages of the level below, as changes of the
        attributes of single pages break them (``arch/x86/mm/pat/set_memory.c``: ``split_large_page``).
    rng : Generator, optional
        Chooses those.

    Raises
    ------
    ConfigurationError
        If the share lies outside, or pages of 4K are to be broken.
    OutOfMemory
        If there is no memory for tables.
    """

    def __init__(
        self,
        tables: PageTables,
        layout: AddressSpace,
        level: int,
        split: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        if not 0 <= split <= 1 or (split and level == 1):
            raise ConfigurationError(
                f"a share of {split} of a direct map of {PAGE_BYTES * leaf_frames(level)}-byte pages cannot be broken "
                "into smaller ones; the share is 0 to 1, and 0 for 4K pages"
            )
        self.start = layout.direct_map_start.value
        self.level = level
        self.split_pages = 0
        at = tables.memory.first_frame
        end = at + tables.memory.frames
        while at < end:
            # The largest pages that start and end here, as many as there are up to a place for larger ones.
            leaf = max(
                size for size in range(1, level + 1) if at % leaf_frames(size) == 0 and at + leaf_frames(size) <= end
            )
            size = leaf_frames(leaf)
            stop = end if leaf == level else min(end, at - at % leaf_frames(leaf + 1) + leaf_frames(leaf + 1))
            frames = np.arange(at, at + (stop - at) // size * size, size, dtype=np.int64)
            broken = np.zeros(len(frames), np.bool_)
            if leaf == level and split:
                # All pages of the map's own level are one such run.
                self.split_pages = round(split * len(frames))
                broken[(rng or np.random.default_rng(0)).permutation(len(frames))[: self.split_pages]] = True
            for run in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(broken)) + 1):
                self._map(tables, frames[run], leaf, bool(broken[run[0]]))
            at += len(frames) * size

    def _map(self, tables: PageTables, frames: npt.NDArray[np.int64], leaf: int, broken: bool) -> None:
        """Map consecutive pages of a level, or the pages of the level below that they are broken into."""
        if broken:
            leaf -= 1
            parts = np.arange(leaf_frames(leaf + 1) // leaf_frames(leaf), dtype=np.int64) * leaf_frames(leaf)
            frames = (frames[:, None] + parts).ravel()
        if tables.map(self.address(int(frames[0])), frames, leaf) is None:
            raise OutOfMemory("no frame is free for the direct map's page tables; give the machine more memory")

    def address(self, frame: int) -> int:
        """Return the virtual address of a frame."""
        return self.start + (frame << PAGE_SHIFT)
