"""Virtual memory of the kernel: page tables, the direct map and the vmalloc area."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels import entry, pagetable, vmap
from vckernels.causes import Status
from vckernels.pagetable import Control
from vclab.errors import ConfigurationError, OutOfMemory
from vclab.memory import Memory, Migratetype
from vclab.presets import AddressSpace
from vclab.state import copied
from vclab.units import PAGE_BYTES, PAGE_SHIFT


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
    """

    def __init__(self, memory: Memory, levels: int, physical_bits: int, gigabyte_pages: bool) -> None:
        self.memory = memory
        root = memory.zone.allocate(0, Migratetype.UNMOVABLE)
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

    def map(self, address: int, first_frames: npt.NDArray[np.int64], level: int) -> int | None:
        """Map leaves of a level, one for each first frame; return the number of new tables.

        None, and nothing changed, if there is no memory for a table.
        """
        needed = int(pagetable.survey(self.state, np.uint64(address), len(first_frames), level))
        if needed < 0:
            why = Status(-needed).name.lower().replace("_", " ")
            raise ConfigurationError(f"cannot map {len(first_frames)} pages at {address:#x}: {why}")
        new = np.empty(0, np.int64)
        if needed:
            taken = self.memory.zone.allocate_all(0, Migratetype.UNMOVABLE, needed)
            if taken is None:
                return None
            new = taken
        capacity = len(self.state.frames)
        if self.count + needed > capacity:
            self.state = pagetable.grown(self.state, max(2 * capacity, self.count + needed))
        pagetable.map_range(
            self.state, np.uint64(address), first_frames, level, entry.KERNEL_LEAF, entry.KERNEL_TABLE, new
        )
        return needed

    def unmap(self, address: int, count: int) -> npt.NDArray[np.int64]:
        """Clear 4K leaves and return the frames that they mapped; tables stay.

        Raises
        ------
        ConfigurationError
            If part of the range is not mapped; nothing is changed then.
        """
        frames = np.empty(count, np.int64)
        if pagetable.unmap_range(self.state, np.uint64(address), count, 1, frames) != Status.OK:
            raise ConfigurationError(f"cannot unmap {count} pages at {address:#x}: part of them is not mapped")
        return frames

    def copy(self, memory: Memory) -> PageTables:
        """Return an independent tree with the same words, for a copy of the memory it lies in."""
        twin = object.__new__(PageTables)
        twin.memory = memory
        twin.state = copied(self.state)
        return twin


def _leaf_frames(level: int) -> int:
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
    """

    def __init__(self, tables: PageTables, layout: AddressSpace, level: int) -> None:
        self.start = layout.direct_map_start.value
        self.level = level
        at = tables.memory.first_frame
        end = at + tables.memory.frames
        while at < end:
            # The largest pages that start and end here, as many as there are up to a place for larger ones.
            leaf = max(
                size for size in range(1, level + 1) if at % _leaf_frames(size) == 0 and at + _leaf_frames(size) <= end
            )
            size = _leaf_frames(leaf)
            stop = end if leaf == level else min(end, at - at % _leaf_frames(leaf + 1) + _leaf_frames(leaf + 1))
            frames = np.arange(at, at + (stop - at) // size * size, size, dtype=np.int64)
            if tables.map(self.start + (at << PAGE_SHIFT), frames, leaf) is None:
                raise OutOfMemory("no frame is free for the direct map's page tables; give the machine more memory")
            at += len(frames) * size

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

    def map(self, frames: npt.NDArray[np.int64]) -> tuple[int, int] | None:
        """Map frames one after another at the lowest address that fits (``vmap``).

        Returns
        -------
        address, tables : tuple of int
            Where the range starts and how many tables it added; None, and nothing changed, if address space
            or memory for a table is short.
        """
        if not len(frames):
            raise ConfigurationError("cannot map a range of no frames; pass at least one")
        length = len(frames) + self.guard_pages
        page = int(vmap.reserve(self.areas, length))
        if page == -Status.NO_CAPACITY:
            self.areas = vmap.grown(self.areas, 2 * len(self.areas.start))
            page = int(vmap.reserve(self.areas, length))
        if page < 0:
            return None
        address = self.start + (page << PAGE_SHIFT)
        tables = self.tables.map(address, frames, 1)
        if tables is None:
            vmap.release(self.areas, page)
            return None
        self.retained_tables += tables
        return address, tables

    def unmap(self, address: int) -> npt.NDArray[np.int64]:
        """Clear a range's entries, give its addresses back and return its frames, int64[n] (``vunmap``).

        Raises
        ------
        ConfigurationError
            If no range starts at the address.
        """
        page = (address - self.start) >> PAGE_SHIFT
        node = int(vmap.find(self.areas, page))
        if node < 0 or address % PAGE_BYTES or int(self.areas.start[node]) != page:
            raise ConfigurationError(f"no vmalloc range starts at {address:#x}; pass what mapping returned")
        frames = self.tables.unmap(address, int(self.areas.pages[node]) - self.guard_pages)
        vmap.release(self.areas, page)
        return frames

    def range_start(self, address: int) -> int | None:
        """Return the first address of the range that holds an address, None where none does."""
        page = (address - self.start) >> PAGE_SHIFT
        node = int(vmap.find(self.areas, page)) if 0 <= page < self.pages else -1
        if node < 0 or page >= int(self.areas.start[node] + self.areas.pages[node]) - self.guard_pages:
            return None
        return self.start + (int(self.areas.start[node]) << PAGE_SHIFT)

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
