"""Compound pages, physically contiguous or virtually, and the policies that choose between them.

The mechanism of the RFC: a request of order *n* that finds no block of 2**n frames is served with 2**n single
frames behind one range of the vmalloc area. Lameter 2007, "Virtual Compound Page Support"; 6.18's ``kvmalloc``
decides like ``early-fallback``. Above the largest block of the buddy allocator, order 10, no page is physically
contiguous and only virtual ones are left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import MAX_ORDER
from vclab.errors import ConfigurationError, InvalidFree, OutOfMemory
from vclab.gfp import Gfp, migratetype, structure_flags, table_flags
from vclab.mapping import DirectMap, PageTables, TableChange, leaf_frames
from vclab.memory import Memory
from vclab.policies import HUGE_ORDER, Attempt, Backing, Policy
from vclab.presets import LinuxPreset
from vclab.structures import SmallObjects, kmalloc_size
from vclab.units import PAGE_BYTES, PAGE_SHIFT, format_bytes
from vclab.vmalloc_area import VmallocArea

#: 64 MiB.
MAX_REQUEST_ORDER = 14


@dataclass(eq=False)
class CompoundPage:
    """2**order pages at consecutive virtual addresses.

    Attributes
    ----------
    order : int
    address : int
        First virtual address, canonical, unsigned 64 bits.
    frames : ndarray
        int64[2**order], frame numbers in address order.
    is_virtual : bool
        Mapped in the vmalloc area; otherwise one block in the direct map.
    mapping_level : int
        Level of the leaves of its range in the vmalloc area: 1 for 4K, 2 for 2M; 0 for a physical page.
    overhead_bytes : int
        Attributed: area descriptors, page array and entries, by size (0 for a physical page).
    marginal_frames : int
        Frames newly taken from the allocator for this page beyond its own: tables, control structures; less those of
        empty tables that made way for its leaves.
    array_address : int
        Virtual address of the page array, one word for each 4K page: in the direct map, or in the vmalloc area if the
        array is mapped itself. -1 for a physical page.
    array_pages : int
        Pages of the array's own range in the vmalloc area, 0 where it is one block.
    """

    order: int
    address: int
    frames: npt.NDArray[np.int64]
    is_virtual: bool
    mapping_level: int = 0
    overhead_bytes: int = 0
    marginal_frames: int = 0
    array_address: int = -1
    array_pages: int = 0
    structures: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    freed: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return PAGE_BYTES << self.order

    @property
    def run_lengths(self) -> npt.NDArray[np.int64]:
        """Lengths of the runs of physically consecutive frames, in address order."""
        breaks = np.flatnonzero(np.diff(self.frames) != 1) + 1
        return np.diff(np.concatenate([[0], breaks, [len(self.frames)]]))

    @property
    def mappings(self) -> tuple[tuple[int, int, int], ...]:
        """Address, number of leaves and their level of each range in the vmalloc area: its own, its array's."""
        if not self.is_virtual:
            return ()
        own = (self.address, len(self.frames) // leaf_frames(self.mapping_level), self.mapping_level)
        return (own, (self.array_address, self.array_pages, 1)) if self.array_pages else (own,)

    def __repr__(self) -> str:
        kind = "virtual" if self.is_virtual else "physical"
        state = ", freed" if self.freed else ""
        return f"<CompoundPage order {self.order} ({format_bytes(self.nbytes)}), {kind} at {self.address:#x}{state}>"

    def _repr_html_(self) -> str:
        rows = {
            "order": f"{self.order} ({format_bytes(self.nbytes)})",
            "kind": f"virtually contiguous (vmalloc area, {'2M' if self.mapping_level == 2 else '4K'} entries)"
            if self.is_virtual
            else "physically contiguous (direct map)",
            "address": f"{self.address:#018x}",
            "frames": f"{len(self.frames)} in {len(self.run_lengths)} runs, first {int(self.frames[0])}",
            "overhead": f"{self.overhead_bytes} bytes attributed, {self.marginal_frames} frames newly taken",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table><caption>Compound page</caption>{cells}</table>"


class _Objects(NamedTuple):
    """Control structures taken for one page."""

    places: tuple[tuple[int, int], ...]
    """Physical address and size of each."""
    taken: int
    """Frames newly taken for them."""


class _PageArray(NamedTuple):
    """The array of a virtual page's frames, one word each."""

    address: int
    """Virtual."""
    pages: int
    """Pages of its range in the vmalloc area, 0 where it is one block."""
    objects: _Objects
    tables: int
    """Tables that its range added."""
    overhead_bytes: int


class CompoundAllocator:
    """Serves requests for compound pages under one policy.

    Parameters
    ----------
    memory, tables, direct_map, vmalloc_area
        The machine; mutated by requests.
    linux : LinuxPreset
        Sizes of control structures, and whether long page arrays are mapped themselves.
    policy : Policy
    flag_all : bool
        Treat every request as if it carried ``GFP_VFALLBACK``.
    """

    def __init__(
        self,
        memory: Memory,
        tables: PageTables,
        direct_map: DirectMap,
        vmalloc_area: VmallocArea,
        linux: LinuxPreset,
        policy: Policy,
        flag_all: bool = False,
    ) -> None:
        self.memory = memory
        self.tables = tables
        self.direct_map = direct_map
        self.vmalloc_area = vmalloc_area
        self.linux = linux
        self.policy = policy
        self.flag_all = flag_all
        self.objects = SmallObjects(memory)
        sizes = (kmalloc_size(linux.vm_struct_allocated_bytes.value), linux.vmap_area_bytes.value)
        #: Bytes of each structure that describes an area; releases before the vmap rewrite have one of them only.
        self._descriptor_sizes = tuple(size for size in sizes if size)
        self.pages: dict[int, CompoundPage] = {}
        self.mapped_arrays: set[int] = set()

    def allocate(self, order: int, flags: int, min_order: int = 0) -> CompoundPage:
        """Serve one request.

        Raises
        ------
        OutOfMemory
            If the policy cannot serve it; nothing is changed then.
        """
        if not isinstance(order, int | np.integer) or not 0 <= order <= MAX_REQUEST_ORDER:
            raise ConfigurationError(f"order {order} of a request does not exist; orders are 0 to {MAX_REQUEST_ORDER}")
        if not 0 <= min_order <= order:
            raise ConfigurationError(f"least order {min_order} of a request does not exist; it is 0 to {order}")
        # Refuses flags that no list serves before anything is taken.
        migratetype(flags)
        wanted = int(flags) | (int(Gfp.VFALLBACK) if self.flag_all else 0)
        attempts = self.policy.attempts(int(order), wanted, int(min_order))
        page = None
        for attempt in attempts:
            page = self._try(attempt, wanted)
            if page is not None:
                break
        if page is None:
            why = self._why(attempts, Gfp(wanted))
            raise OutOfMemory(f"no page of order {order} under policy {self.policy.name}: {why}")
        page.frames.flags.writeable = False
        self.pages[page.address] = page
        return page

    def _try(self, attempt: Attempt, wanted: int) -> CompoundPage | None:
        """Make one attempt at a request with flags ``wanted``, which its control structures follow."""
        if attempt.backing is Backing.BLOCK:
            return self._physical(attempt.order, attempt.flags)
        if attempt.backing is Backing.HUGE:
            return self._virtual(attempt, wanted, 2)
        return self._virtual(attempt, wanted, 1)

    def _why(self, attempts: tuple[Attempt, ...], flags: Gfp) -> str:
        """Return what stands in the way of a request that failed, and what would help."""
        blocks = self.memory.buddyinfo().sum(axis=0)
        parts = [f"{self.memory.free_frames} frames are free, in blocks by order {blocks.tolist()}"]
        only_blocks = all(attempt.backing is Backing.BLOCK for attempt in attempts)
        if only_blocks and min(attempt.order for attempt in attempts) > MAX_ORDER:
            parts = [
                f"no block is larger than order {MAX_ORDER} ({format_bytes(PAGE_BYTES << MAX_ORDER)}), "
                "so nothing above it can be physically contiguous"
            ]
        if only_blocks and not flags & Gfp.VFALLBACK and self.policy.heeds_flag:
            parts.append("GFP_VFALLBACK would let a virtual page stand in")
        return "; ".join(parts)

    def _physical(self, order: int, flags: Gfp) -> CompoundPage | None:
        if order > MAX_ORDER:
            return None
        frame = self.memory.allocate(order, flags)
        if frame < 0:
            return None
        return CompoundPage(order, self.direct_map.address(frame), np.arange(frame, frame + (1 << order)), False)

    def _virtual(self, attempt: Attempt, wanted: int, level: int) -> CompoundPage | None:
        """Page array, descriptors, frames, area and entries: in the RFC's order; any shortage unwinds all.

        The leaves of level 1 are single frames; those of level 2 are 2 MiB blocks, a multiple of which the page is.
        """
        order, count = attempt.order, 1 << attempt.order
        array = self._page_array(count * self.linux.page_array_entry_bytes.value, wanted)
        if array is None:
            return None
        descriptors = self._objects(self._descriptor_sizes, wanted)
        frames = None if descriptors is None else self._frames(count, attempt.flags, level)
        mapped = None if frames is None else self._map(frames[:: leaf_frames(level)], level, wanted)
        if descriptors is None or frames is None or mapped is None:
            if frames is not None:
                self.memory.free(frames[::-1], 0)
            if descriptors is not None:
                self._give_back(descriptors)
            self._undo_page_array(array)
            return None
        address, tables = mapped
        entries = count // leaf_frames(level) * self.linux.table_entry_bytes.value
        page = CompoundPage(
            order,
            address,
            frames,
            True,
            mapping_level=level,
            overhead_bytes=sum(self._descriptor_sizes) + array.overhead_bytes + entries,
            marginal_frames=descriptors.taken + array.objects.taken + array.tables + tables.added - tables.removed,
            array_address=array.address,
            array_pages=array.pages,
            structures=array.objects.places + descriptors.places,
        )
        if array.pages:
            self.mapped_arrays.add(array.address)
        return page

    def _map(self, first_frames: npt.NDArray[np.int64], level: int, wanted: int) -> tuple[int, TableChange] | None:
        """Map leaves for a request with flags ``wanted``."""
        return self.vmalloc_area.map(first_frames, level, table_flags=table_flags(wanted))

    def _objects(self, sizes: tuple[int, ...], wanted: int) -> _Objects | None:
        """Take an object of each size, or none."""
        places: list[tuple[int, int]] = []
        taken = 0
        for size in sizes:
            got = self.objects.allocate(size, structure_flags(wanted))
            if got is None:
                self._give_back(_Objects(tuple(places), taken))
                return None
            places.append((got[0], size))
            taken += got[1]
        return _Objects(tuple(places), taken)

    def _give_back(self, objects: _Objects) -> None:
        for address, size in reversed(objects.places):
            self.objects.free(address, size)

    def _frames(self, count: int, flags: Gfp, level: int) -> npt.NDArray[np.int64] | None:
        """Take frames for a virtual page, one by one or in blocks of a leaf each; all are single pages afterwards.

        Blocks are split as soon as they are taken (Linux ``mm/vmalloc.c``: ``vm_area_alloc_pages`` and ``split_page``),
        so freeing gives back single frames, which merge again; so it does when a later block is not to be had.
        """
        if level == 1:
            return self.memory.allocate_all(0, flags, count)
        size = leaf_frames(level)
        frames = np.empty(count, np.int64)
        for done in range(0, count, size):
            first = self.memory.allocate(HUGE_ORDER, flags)
            if first < 0:
                self.memory.free(frames[:done], 0)
                return None
            frames[done : done + size] = np.arange(first, first + size)
            self.memory.split(first, HUGE_ORDER, flags)
        return frames

    def _page_array(self, nbytes: int, wanted: int) -> _PageArray | None:
        """Make the array of a page's frames: one kmalloc, or single frames behind a range of their own.

        The RFC's is always a kmalloc, which can fail like any large request. Linux's ``vmalloc`` maps what is longer
        than a page (``mm/vmalloc.c``: ``__vmalloc_area_node``); the array of that range's frames is short, a kmalloc.
        """
        if nbytes <= PAGE_BYTES or self.linux.page_array_kmalloc.value:
            block = self._objects((kmalloc_size(nbytes),), wanted)
            return (
                None if block is None else _PageArray(self.direct_map.start + block.places[0][0], 0, block, 0, nbytes)
            )
        count = -(-nbytes // PAGE_BYTES)
        inner_bytes = count * self.linux.page_array_entry_bytes.value
        inner = self._objects((kmalloc_size(inner_bytes), *self._descriptor_sizes), wanted)
        if inner is None:
            return None
        pages = self.objects.allocate_pages(count, structure_flags(wanted))
        if pages is None:
            self._give_back(inner)
            return None
        objects = _Objects(inner.places + tuple((page, PAGE_BYTES) for page in pages), inner.taken + count)
        mapped = self._map(np.array(pages, np.int64) >> PAGE_SHIFT, 1, wanted)
        if mapped is None:
            self._give_back(objects)
            return None
        entries = count * self.linux.table_entry_bytes.value
        overhead = nbytes + inner_bytes + sum(self._descriptor_sizes) + entries
        return _PageArray(mapped[0], count, objects, mapped[1].added, overhead)

    def _undo_page_array(self, array: _PageArray) -> None:
        """Give back the array of a page that could not be made, tables included."""
        if array.pages:
            self.vmalloc_area.undo(array.address, array.tables)
        self._give_back(array.objects)

    def free(self, page: CompoundPage) -> None:
        """Give a page back: its frames one by one, area, page array and descriptors. Tables of the area stay.

        Raises
        ------
        InvalidFree
            If the page was freed already or belongs to another system.
        """
        if self.pages.get(page.address) is not page:
            reason = "it was freed already" if page.freed else "it belongs to another system"
            raise InvalidFree(f"cannot free {page!r}: {reason}")
        if page.is_virtual:
            first_frames = self.vmalloc_area.unmap(page.address, page.mapping_level)
            inside = np.arange(leaf_frames(page.mapping_level))
            self.memory.free((first_frames[:, None] + inside).ravel(), 0)
            if page.array_pages:
                self.vmalloc_area.unmap(page.array_address)
                self.mapped_arrays.remove(page.array_address)
            for address, size in page.structures:
                self.objects.free(address, size)
        else:
            self.memory.free(page.frames[:1], page.order)
        del self.pages[page.address]
        page.freed = True

    def owns(self, address: int) -> bool:
        """Return whether a range of a live page, or of its mapped page array, starts at an address."""
        return address in self.pages or address in self.mapped_arrays

    def page_at(self, address: int) -> CompoundPage | None:
        """Return the page that holds a virtual address of either kind, None where none does."""
        if address in self.vmalloc_area:
            start = self.vmalloc_area.range_start(address)
            return None if start is None else self.pages.get(start)
        first = (address - self.direct_map.start) >> PAGE_SHIFT
        for order in range(MAX_ORDER + 1):
            page = self.pages.get(self.direct_map.address(first >> order << order))
            if page is not None and page.address <= address < page.address + page.nbytes:
                return page
        return None

    def copy(self, memory: Memory, tables: PageTables, area: VmallocArea, policy: Policy) -> CompoundAllocator:
        """Return an independent allocator with the same pages live, for copies of its parts."""
        twin = CompoundAllocator(memory, tables, self.direct_map, area, self.linux, policy, self.flag_all)
        twin.objects = self.objects.copy(memory)
        twin.mapped_arrays = set(self.mapped_arrays)
        for address, page in self.pages.items():
            fields = {name: getattr(page, name) for name in page.__dataclass_fields__}
            twin.pages[address] = CompoundPage(**fields)
        return twin
