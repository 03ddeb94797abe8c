"""Virtual memory of the kernel: page tables, the direct map and the vmalloc area."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import entry, pagetable, vmap
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
        self, address: int, first_frames: npt.NDArray[np.int64], level: int, flags: np.uint64 | None = None
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
            taken = self.memory.allocate_all(0, GFP_KERNEL, needed)
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
        table_flags = entry.KERNEL_TABLE | (flags & entry.USER)
        pagetable.map_range(self.state, np.uint64(address), first_frames, level, flags, table_flags, new)
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


class VmallocArea:
    """Virtually contiguous ranges of scattered frames, each followed by guard pages.

    Parameters
    ----------
    tables : PageTables
        Mutated by map and unmap.
    layout : AddressSpace
        Where the area lies.
    guard_pages : int
        Pages after each range that are never mapped.

    Attributes
    ----------
    retained_tables : int
        Tables that ranges added and that are in the tree still, whether anything is mapped by them or not.
    """

    def __init__(self, tables: PageTables, layout: AddressSpace, guard_pages: int) -> None:
        self.tables = tables
        self.start = layout.vmalloc_start.value
        self.pages = layout.vmalloc_bytes.value >> PAGE_SHIFT
        self.guard_pages = guard_pages
        self.areas = vmap.new_areas(self.pages)
        self.retained_tables = 0

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.start + (self.pages << PAGE_SHIFT)

    def map(self, frames: npt.NDArray[np.int64], level: int = 1) -> tuple[int, TableChange] | None:
        """Map frames one after another at the lowest address that fits (``vmap``).

        Parameters
        ----------
        frames : int64[n]
            First frame of each leaf.
        level : int
            1 for 4K leaves, 2 for 2M; the range then starts at a multiple of 2 MiB. Its guard pages follow it.

        Returns
        -------
        address, change : tuple of int and TableChange
            Where the range starts and what became of the tables; None, and nothing changed, if address space
            or memory for a table is short.
        """
        if not len(frames):
            raise ConfigurationError("cannot map a range of no frames; pass at least one")
        size = leaf_frames(level)
        length = len(frames) * size + self.guard_pages
        page = int(vmap.reserve(self.areas, length, size))
        if page == -Status.NO_CAPACITY:
            self.areas = vmap.grown(self.areas, 2 * len(self.areas.start))
            page = int(vmap.reserve(self.areas, length, size))
        if page < 0:
            return None
        address = self.start + (page << PAGE_SHIFT)
        change = self.tables.map(address, frames, level)
        if change is None:
            vmap.release(self.areas, page)
            return None
        self.retained_tables += change.added - change.removed
        return address, change

    def unmap(self, address: int, level: int = 1) -> npt.NDArray[np.int64]:
        """Clear a range's entries, give its addresses back and return its leaves' first frames, int64[n] (``vunmap``).

        Raises
        ------
        ConfigurationError
            If no range mapped by leaves of that level starts at the address.
        """
        page, pages = self._range_at(address)
        frames = self.tables.unmap(address, pages // leaf_frames(level), level)
        vmap.release(self.areas, page)
        return frames

    def undo(self, address: int, added: int, level: int = 1) -> None:
        """Take back what mapping the latest range did, with the tables that it added (it removed none)."""
        page, pages = self._range_at(address)
        self.tables.undo(address, pages // leaf_frames(level), level, added)
        self.retained_tables -= added
        vmap.release(self.areas, page)

    def _range_at(self, address: int) -> tuple[int, int]:
        """Return first page and mapped pages of the range that starts at an address."""
        page = (address - self.start) >> PAGE_SHIFT
        node = int(vmap.find(self.areas, page))
        if node < 0 or address % PAGE_BYTES or int(self.areas.start[node]) != page:
            raise ConfigurationError(f"no vmalloc range starts at {address:#x}; pass what mapping returned")
        return page, int(self.areas.pages[node]) - self.guard_pages

    def range_start(self, address: int) -> int | None:
        """Return the first address of the range that holds an address, None where none does."""
        page = (address - self.start) >> PAGE_SHIFT
        node = int(vmap.find(self.areas, page)) if 0 <= page < self.pages else -1
        if node < 0 or page >= int(self.areas.start[node] + self.areas.pages[node]) - self.guard_pages:
            return None
        return self.start + (int(self.areas.start[node]) << PAGE_SHIFT)

    def spans(self) -> list[tuple[int, int, int]]:
        """Return address, bytes with guard pages, and mapped pages of each range, ascending."""
        starts, pages = np.empty((2, self.ranges), np.int64)
        vmap.list_ranges(self.areas, starts, pages)
        return [
            (self.start + (start << PAGE_SHIFT), length << PAGE_SHIFT, length - self.guard_pages)
            for start, length in zip(starts.tolist(), pages.tolist(), strict=True)
        ]

    @property
    def ranges(self) -> int:
        """Number of ranges in use."""
        return int(self.areas.places[vmap.Place.IN_USE])

    def copy(self, tables: PageTables) -> VmallocArea:
        """Return an independent area with the same ranges, for a copy of its tables."""
        twin = object.__new__(VmallocArea)
        twin.__dict__.update(self.__dict__)
        twin.tables = tables
        twin.areas = copied(self.areas)
        return twin
