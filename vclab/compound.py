"""Compound pages, physically contiguous or virtually, and the policies that choose between them.

The mechanism of the RFC: a request of order *n* that finds no block of 2**n frames is served with 2**n single
frames behind one range of the vmalloc area. Lameter 2007, "Virtual Compound Page Support"; 6.18's ``kvmalloc``
decides like ``early-fallback``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vclab.errors import ConfigurationError, InvalidFree, OutOfMemory
from vclab.gfp import Gfp, migratetype
from vclab.mapping import DirectMap, PageTables, VmallocArea
from vclab.memory import Memory
from vclab.presets import LinuxPreset
from vclab.structures import SmallObjects, kmalloc_size
from vclab.units import PAGE_BYTES, PAGE_SHIFT, format_bytes

MAX_REQUEST_ORDER = 10


@dataclass(frozen=True)
class Policy:
    """What happens when pages are asked for.

    Attributes
    ----------
    name, summary : str
    physical : bool
        A physically contiguous block is tried first.
    virtual : bool
        A virtually contiguous page may stand in.
    needs_flag : bool
        Only where the request carries ``GFP_VFALLBACK``.
    """

    name: str
    summary: str
    physical: bool
    virtual: bool
    needs_flag: bool


POLICIES = {
    policy.name: policy
    for policy in (
        Policy(
            "physical",
            "physically contiguous or fail; GFP_VFALLBACK is ignored",
            physical=True,
            virtual=False,
            needs_flag=False,
        ),
        Policy(
            "early-fallback",
            "one fast try, no reclaim, then virtual (RFC V3, kvmalloc of 6.18)",
            physical=True,
            virtual=True,
            needs_flag=True,
        ),
        Policy(
            "always-virtual",
            "flagged requests of order 1 and more are virtual (CONFIG_VFALLBACK_ALWAYS)",
            physical=False,
            virtual=True,
            needs_flag=True,
        ),
        Policy(
            "vmalloc",
            "always virtual, as callers of 2007 did it",
            physical=False,
            virtual=True,
            needs_flag=False,
        ),
    )
}


def find_policy(name: str) -> Policy:
    """Return a policy by name; ``ConfigurationError`` lists what exists if it does not."""
    if name not in POLICIES:
        raise ConfigurationError(f"policy {name!r} does not exist; there are {', '.join(POLICIES)}")
    return POLICIES[name]


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
    overhead_bytes : int
        Attributed: area descriptors, page array and entries, by size (0 for a physical page).
    marginal_frames : int
        Frames newly taken from the allocator for this page beyond its own: tables, control structures.
    array_address : int
        Physical address of the page array, -1 for a physical page.
    """

    order: int
    address: int
    frames: npt.NDArray[np.int64]
    is_virtual: bool
    overhead_bytes: int = 0
    marginal_frames: int = 0
    array_address: int = -1
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

    def __repr__(self) -> str:
        kind = "virtual" if self.is_virtual else "physical"
        state = ", freed" if self.freed else ""
        return f"<CompoundPage order {self.order} ({format_bytes(self.nbytes)}), {kind} at {self.address:#x}{state}>"

    def _repr_html_(self) -> str:
        rows = {
            "order": f"{self.order} ({format_bytes(self.nbytes)})",
            "kind": "virtually contiguous (vmalloc area)" if self.is_virtual else "physically contiguous (direct map)",
            "address": f"{self.address:#018x}",
            "frames": f"{len(self.frames)} in {len(self.run_lengths)} runs, first {int(self.frames[0])}",
            "overhead": f"{self.overhead_bytes} bytes attributed, {self.marginal_frames} frames newly taken",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table><caption>Compound page</caption>{cells}</table>"


class CompoundAllocator:
    """Serves requests for compound pages under one policy.

    Parameters
    ----------
    memory, tables, direct_map, vmalloc_area
        The machine; mutated by requests.
    linux : LinuxPreset
        Sizes of control structures.
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
        self.pages: dict[int, CompoundPage] = {}

    def allocate(self, order: int, flags: int) -> CompoundPage:
        """Serve one request.

        Raises
        ------
        OutOfMemory
            If the policy cannot serve it; nothing is changed then.
        """
        if not isinstance(order, int | np.integer) or not 0 <= order <= MAX_REQUEST_ORDER:
            raise ConfigurationError(f"order {order} of a request does not exist; orders are 0 to {MAX_REQUEST_ORDER}")
        order = int(order)
        flagged = self.flag_all or bool(int(flags) & Gfp.VFALLBACK)
        may_be_virtual = self.policy.virtual and (flagged or not self.policy.needs_flag)
        if self.policy.needs_flag and order == 0:
            may_be_virtual = False
        page = None
        if self.policy.physical or (not may_be_virtual and self.policy.needs_flag):
            page = self._physical(order, migratetype(flags))
        if page is None and may_be_virtual:
            page = self._virtual(order, migratetype(flags))
        if page is None:
            hint = "" if flagged or not self.policy.needs_flag else "; GFP_VFALLBACK would let a virtual page stand in"
            raise OutOfMemory(
                f"no page of order {order} under policy {self.policy.name}: "
                f"{self.memory.zone.free_frames} frames are free, in blocks by order "
                f"{self.memory.zone.free_blocks.tolist()}{hint}"
            )
        page.frames.flags.writeable = False
        self.pages[page.address] = page
        return page

    def _physical(self, order: int, mobility: int) -> CompoundPage | None:
        frame = self.memory.zone.allocate(order, mobility)
        if frame < 0:
            return None
        return CompoundPage(order, self.direct_map.address(frame), np.arange(frame, frame + (1 << order)), False)

    def _virtual(self, order: int, mobility: int) -> CompoundPage | None:
        """Page array, frames one by one, area, entries: in the RFC's order; any shortage unwinds all.

        The array is a kmalloc under every rule set, as in the RFC (6.18's vmalloc maps arrays above a page virtually).
        """
        count = 1 << order
        array_bytes = count * self.linux.page_array_entry_bytes.value
        sizes = (
            kmalloc_size(array_bytes),
            kmalloc_size(self.linux.vm_struct_allocated_bytes.value),
            self.linux.vmap_area_bytes.value,
        )
        structures: list[tuple[int, int]] = []
        taken = 0
        frames = None
        mapped = None
        for size in sizes:
            got = self.objects.allocate(size)
            if got is None:
                break
            structures.append((got[0], size))
            taken += got[1]
        else:
            frames = self.memory.zone.allocate_all(0, mobility, count)
            if frames is not None:
                mapped = self.vmalloc_area.map(frames)
        if frames is None or mapped is None:
            if frames is not None:
                self.memory.zone.free(frames[::-1], 0)
            for address, size in reversed(structures):
                self.objects.free(address, size)
            return None
        address, tables = mapped
        entries = count * self.linux.table_entry_bytes.value
        return CompoundPage(
            order,
            address,
            frames,
            True,
            overhead_bytes=sum(sizes[1:]) + array_bytes + entries,
            marginal_frames=taken + tables,
            array_address=structures[0][0],
            structures=tuple(structures),
        )

    def free(self, page: CompoundPage) -> None:
        """Give a page back: its frames, area, page array and descriptors. Tables of the area stay.

        Raises
        ------
        InvalidFree
            If the page was freed already or belongs to another system.
        """
        if self.pages.get(page.address) is not page:
            reason = "it was freed already" if page.freed else "it belongs to another system"
            raise InvalidFree(f"cannot free {page!r}: {reason}")
        if page.is_virtual:
            self.memory.zone.free(self.vmalloc_area.unmap(page.address), 0)
            for address, size in page.structures:
                self.objects.free(address, size)
        else:
            self.memory.zone.free(page.frames[:1], page.order)
        del self.pages[page.address]
        page.freed = True

    def page_at(self, address: int) -> CompoundPage | None:
        """Return the page that holds a virtual address of either kind, None where none does."""
        if address in self.vmalloc_area:
            start = self.vmalloc_area.range_start(address)
            return None if start is None else self.pages.get(start)
        first = (address - self.direct_map.start) >> PAGE_SHIFT
        for order in range(MAX_REQUEST_ORDER + 1):
            page = self.pages.get(self.direct_map.address(first >> order << order))
            if page is not None and page.address <= address < page.address + page.nbytes:
                return page
        return None

    def copy(self, memory: Memory, tables: PageTables, area: VmallocArea, policy: Policy) -> CompoundAllocator:
        """Return an independent allocator with the same pages live, for copies of its parts."""
        twin = CompoundAllocator(memory, tables, self.direct_map, area, self.linux, policy, self.flag_all)
        twin.objects = self.objects.copy(memory)
        for address, page in self.pages.items():
            fields = {name: getattr(page, name) for name in page.__dataclass_fields__}
            twin.pages[address] = CompoundPage(**fields)
        return twin
