"""The vmalloc area: virtually contiguous ranges of scattered frames, and when freed ones may be used again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vckernels import areawalk, lazyareas, vmap, vmapblock
from vckernels.causes import Status
from vckernels.lazyareas import State
from vclab.errors import ConfigurationError
from vclab.gfp import GFP_KERNEL
from vclab.mapping import PageTables, TableChange, leaf_frames
from vclab.presets import AddressSpace
from vclab.state import copied
from vclab.units import PAGE_BYTES, PAGE_SHIFT

#: Linux 6.12, mm/vmalloc.c, lazy_max_pages (since 2.6.28): bytes for each bit of the number of CPUs.
LAZY_BYTES = 32 << 20
#: Linux 6.12, mm/vmalloc.c, vmap_init_nodes: one for each CPU, up to so many.
MAX_NODES = 128


@dataclass(frozen=True)
class Unmapping:
    """What happens to addresses when a range is unmapped.

    Attributes
    ----------
    name, summary : str
    flushes_all : bool
        Each unmapping makes every CPU forget everything; otherwise the range, page by page if it is short.
    is_lazy : bool
        Ranges wait until there are many, for one flush.
    walks : bool
        The area is searched range by range.
    has_nodes : bool
        Each CPU has a node with pools of ready ranges.
    """

    name: str
    summary: str
    flushes_all: bool = False
    is_lazy: bool = False
    walks: bool = False
    has_nodes: bool = False


UNMAPPINGS = {
    regime.name: regime
    for regime in (
        Unmapping("range", "each unmapping flushes its range on all CPUs, everything if it is long"),
        Unmapping(
            "eager", "each unmapping flushes everything on all CPUs; one list (2.6.24)", flushes_all=True, walks=True
        ),
        Unmapping(
            "2.6.28",
            "one flush when many pages wait; its tree is walked from the lowest range",
            is_lazy=True,
            walks=True,
        ),
        Unmapping("lazy", "one flush when many pages wait; nodes with pools (6.9)", is_lazy=True, has_nodes=True),
    )
}


def find_unmapping(name: str) -> Unmapping:
    """Return a regime by name; ``ConfigurationError`` lists what exists if it does not."""
    if name not in UNMAPPINGS:
        raise ConfigurationError(f"unmap={name!r} does not exist; there are {', '.join(UNMAPPINGS)}")
    return UNMAPPINGS[name]


def lazy_max_pages(cpus: int) -> int:
    """Return the pages that may wait for one purge."""
    return cpus.bit_length() * (LAZY_BYTES >> PAGE_SHIFT)


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
    unmapping : Unmapping, optional
        When freed ranges are used again; without it at once.
    cpus : int
        CPUs of the machine: they decide how much waits, and how many nodes there are.

    Attributes
    ----------
    retained_tables : int
        Tables that ranges added and that are in the tree still, whether anything is mapped by them or not.
    lazy : LazyAreas or None
        The ranges that wait or are ready, if any do.
    purged : list of (int, int)
        Address and pages of each stretch that was purged: no CPU may use a translation of it any more, and whoever has
        the CPUs takes it off this list and lets them flush.
    """

    def __init__(
        self,
        tables: PageTables,
        layout: AddressSpace,
        guard_pages: int,
        unmapping: Unmapping = UNMAPPINGS["range"],
        cpus: int = 1,
    ) -> None:
        self.tables = tables
        self.start = layout.vmalloc_start.value
        self.pages = layout.vmalloc_bytes.value >> PAGE_SHIFT
        self.guard_pages = guard_pages
        self.areas = vmap.new_areas(self.pages)
        self.unmapping = unmapping
        self.lazy: lazyareas.LazyAreas | None = None
        self.blocks = vmapblock.new_blocks(0, cpus)
        if unmapping.is_lazy:
            nodes = min(cpus, MAX_NODES) if unmapping.has_nodes else 1
            self.lazy = lazyareas.new_lazy_areas(len(self.areas.start), lazy_max_pages(cpus), nodes, unmapping.walks)
            self.blocks = vmapblock.new_blocks(len(self.areas.start), cpus)
        self.retained_tables = 0
        self.purged: list[tuple[int, int]] = []

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.start + (self.pages << PAGE_SHIFT)

    def _reserve(self, pages: int, alignment: int, cpu: int) -> int:
        """Reserve addresses; return the first page, below 0 where there are none."""
        if self.lazy is not None:
            return int(lazyareas.reserve(self.areas, self.lazy, pages, alignment, cpu))
        if self.unmapping.walks:
            node = int(areawalk.reserve_node(self.areas, pages, alignment))
            return node if node < 0 else int(self.areas.start[node])
        return int(vmap.reserve(self.areas, pages, alignment))

    def _find(self, page: int) -> int:
        """Return the node of the range in use that holds a page, below 0 where none does."""
        if self.lazy is not None:
            return int(lazyareas.find(self.areas, self.lazy, page))
        return int(areawalk.find(self.areas, page) if self.unmapping.walks else vmap.find(self.areas, page))

    def _grow(self) -> None:
        self.areas = vmap.grown(self.areas, 2 * len(self.areas.start))
        if self.lazy is not None:
            self.lazy = lazyareas.grown(self.lazy, len(self.areas.start))
            self.blocks = vmapblock.grown(self.blocks, len(self.areas.start))

    def purge(self, whole: bool = False) -> None:
        """Give back all ranges that wait; what they covered is on :attr:`purged` then.

        Parameters
        ----------
        whole : bool
            What is ready in pools is given back as well, because address space is short.
        """
        if self.lazy is None:
            return
        vmapblock.retire_unused(self.areas, self.lazy, self.blocks, whole)
        ends = np.zeros(2, np.int64)
        if lazyareas.bounds(self.areas, self.lazy, ends):
            self.purged.append((self.start + (int(ends[0]) << PAGE_SHIFT), int(ends[1] - ends[0])))
        lazyareas.purge(self.areas, self.lazy, whole)

    def _retire(self, page: int) -> None:
        """Free a range's addresses: at once, or to wait for a purge, which is made if it is due."""
        if self.lazy is None:
            vmap.release_node(self.areas, self._find(page))
            return
        lazyareas.retire(self.areas, self.lazy, page)
        self._purge_if_due()

    def _purge_if_due(self) -> None:
        if self.lazy is None:
            return
        places = self.lazy.places
        if places[lazyareas.Place.WAITING] > places[lazyareas.Place.LIMIT]:
            self.purge()

    def map(
        self, frames: npt.NDArray[np.int64], level: int = 1, cpu: int = 0, table_flags: int = GFP_KERNEL
    ) -> tuple[int, TableChange] | None:
        """Map frames one after another at the lowest address that fits (``vmap``).

        Parameters
        ----------
        frames : int64[n]
            First frame of each leaf.
        level : int
            1 for 4K leaves, 2 for 2M; the range then starts at a multiple of 2 MiB. Its guard pages follow it.
        cpu : int
            Whose node is asked, where there are any.
        table_flags : int
            How frames for tables are asked for (:func:`vclab.gfp.table_flags`).

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
        page = self._reserve(length, size, cpu)
        if page == -Status.NO_SPACE and self.lazy is not None:
            # Linux 6.12, alloc_vmap_area: when nothing fits, all that waits or is ready is given back, once.
            self.purge(whole=True)
            page = self._reserve(length, size, cpu)
        if page == -Status.NO_CAPACITY:
            self._grow()
            page = self._reserve(length, size, cpu)
        if page < 0:
            return None
        address = self.start + (page << PAGE_SHIFT)
        change = self.tables.map(address, frames, level, table_flags=table_flags)
        if change is None:
            # Nothing was mapped, so nobody has to flush; Linux lets it wait all the same.
            self._release_now(page)
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
        self._retire(page)
        return frames

    def map_in_block(self, frames: npt.NDArray[np.int64], cpu: int) -> tuple[int, TableChange] | None:
        """Map up to 64 frames one after another in a block of a CPU (``vm_map_ram``).

        Returns
        -------
        address, change : tuple of int and TableChange
            None, and nothing mapped, if address space or memory for a table is short.

        Raises
        ------
        ConfigurationError
            If the regime is not lazy, since blocks are given back lazily, or there are too many frames.
        """
        if self.lazy is None or not 1 <= len(frames) <= vmapblock.MOST_PAGES:
            raise ConfigurationError(
                f"cannot map {len(frames)} frames in a block under unmap={self.unmapping.name!r}; blocks take 1 to "
                f"{vmapblock.MOST_PAGES} under a lazy regime, and map takes any number"
            )
        page = int(vmapblock.take(self.areas, self.lazy, self.blocks, len(frames), cpu))
        if page == -Status.NO_SPACE:
            self.purge(whole=True)
            page = int(vmapblock.take(self.areas, self.lazy, self.blocks, len(frames), cpu))
        if page == -Status.NO_CAPACITY:
            self._grow()
            page = int(vmapblock.take(self.areas, self.lazy, self.blocks, len(frames), cpu))
        if page < 0:
            return None
        address = self.start + (page << PAGE_SHIFT)
        change = self.tables.map(address, frames, 1)
        if change is None:
            vmapblock.give(self.areas, self.lazy, self.blocks, page, len(frames))
            return None
        self.retained_tables += change.added - change.removed
        return address, change

    def unmap_in_block(self, address: int, count: int) -> npt.NDArray[np.int64]:
        """Clear what :meth:`map_in_block` mapped and return the frames (``vm_unmap_ram``).

        Raises
        ------
        ConfigurationError
            If no so many pages are mapped there in a block.
        """
        page = (address - self.start) >> PAGE_SHIFT
        node = int(vmap.find(self.areas, page)) if 0 <= page < self.pages else -1
        if self.lazy is None or node < 0 or self.lazy.state[node] != State.BLOCK or address % PAGE_BYTES:
            raise ConfigurationError(f"no block holds {address:#x}; pass what mapping in a block returned")
        frames = self.tables.unmap(address, count)
        vmapblock.give(self.areas, self.lazy, self.blocks, page, count)
        self._purge_if_due()
        return frames

    def undo(self, address: int, added: int, level: int = 1) -> None:
        """Take back what mapping the latest range did, with the tables that it added (it removed none)."""
        page, pages = self._range_at(address)
        self.tables.undo(address, pages // leaf_frames(level), level, added)
        self.retained_tables -= added
        self._release_now(page)

    def _release_now(self, page: int) -> None:
        """Give back a range that no CPU can have used."""
        vmap.release_node(self.areas, self._find(page))

    def _range_at(self, address: int) -> tuple[int, int]:
        """Return first page and mapped pages of the range that starts at an address."""
        page = (address - self.start) >> PAGE_SHIFT
        node = self._find(page)
        if node < 0 or address % PAGE_BYTES or int(self.areas.start[node]) != page:
            raise ConfigurationError(f"no vmalloc range starts at {address:#x}; pass what mapping returned")
        return page, int(self.areas.pages[node]) - self.guard_pages

    def range_start(self, address: int) -> int | None:
        """Return the first address of the range that holds an address, None where none does."""
        page = (address - self.start) >> PAGE_SHIFT
        node = self._find(page) if 0 <= page < self.pages else -1
        if node < 0 or page >= int(self.areas.start[node] + self.areas.pages[node]) - self.guard_pages:
            return None
        return self.start + (int(self.areas.start[node]) << PAGE_SHIFT)

    def spans(self) -> list[tuple[int, int, int]]:
        """Return address, bytes with guard pages, and mapped pages of each range in use, ascending."""
        reserved = int(self.areas.places[vmap.Place.IN_USE])
        starts, pages = np.empty((2, reserved), np.int64)
        vmap.list_ranges(self.areas, starts, pages)
        return [
            (self.start + (start << PAGE_SHIFT), length << PAGE_SHIFT, length - self.guard_pages)
            for start, length in zip(starts.tolist(), pages.tolist(), strict=True)
            if self.lazy is None or lazyareas.find(self.areas, self.lazy, start) >= 0
        ]

    @property
    def ranges(self) -> int:
        """Number of ranges in use, blocks for small mappings left out."""
        reserved = int(self.areas.places[vmap.Place.IN_USE])
        return reserved if self.lazy is None else reserved - int(np.count_nonzero(self.lazy.state != State.BUSY))

    @property
    def waiting_pages(self) -> int:
        """Pages of ranges that wait for a purge, guard pages included."""
        return 0 if self.lazy is None else int(self.lazy.places[lazyareas.Place.WAITING])

    def copy(self, tables: PageTables) -> VmallocArea:
        """Return an independent area with the same ranges, for a copy of its tables."""
        twin = object.__new__(VmallocArea)
        twin.__dict__.update(self.__dict__)
        twin.tables = tables
        twin.areas = copied(self.areas)
        twin.lazy = None if self.lazy is None else copied(self.lazy)
        twin.blocks = copied(self.blocks)
        twin.purged = list(self.purged)
        return twin
