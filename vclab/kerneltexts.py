"""What the model's machine would say of itself in ``/proc`` and debugfs, in Linux 6.18's own format.

Only what the model has is there: of the counters, free frames and page tables. Watermarks, reserves and the bounds of
per-CPU lists follow from the zones' sizes as in the kernel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import HOLE, LISTS, ORDERS, PAGEBLOCK_FRAMES, PAGEBLOCK_ORDER, PER_CPU
from vclab.compound import CompoundAllocator
from vclab.errors import ConfigurationError
from vclab.fragmentation import fragmentation_thousandths, unusable_thousandths
from vclab.mapping import PageTables
from vclab.memory import Memory, Zone
from vclab.recordings.procfiles import BuddyInfo, PageTypeInfo
from vclab.recordings.proctext import (
    COUNTED_MOST,
    buddyinfo_text,
    index_text,
    pagetypeinfo_text,
    vmallocinfo_text,
    zoneinfo_text,
)
from vclab.recordings.vmallocinfo import VmallocRange
from vclab.recordings.zonetext import PerCpuLists, ZoneText
from vclab.vmalloc_area import VmallocArea
from vclab.watermarks import ZoneLimits, ZoneSize, zone_limits

NAMES = ("buddyinfo", "pagetypeinfo", "zoneinfo", "vmallocinfo", "extfrag_index", "unusable_index")
#: The kernel's names of migratetypes, by number.
TYPE_NAMES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate")


def kernel_text(
    name: str, memory: Memory, tables: PageTables, area: VmallocArea, compound: CompoundAllocator, cpus: int
) -> str:
    """Return one of the kernel's texts about a machine.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    memory, tables, area, compound
        The machine.
    cpus : int
        Its CPUs, of which each has lists of its own.

    Raises
    ------
    ConfigurationError
        If there is no such text.
    """
    if name == "buddyinfo":
        return buddyinfo_text(buddyinfo(memory))
    if name == "pagetypeinfo":
        return pagetypeinfo_text(pagetypeinfo(memory))
    if name == "zoneinfo":
        return zoneinfo_text(zoneinfo(memory, tables.count, cpus))
    if name == "vmallocinfo":
        return vmallocinfo_text(vmallocinfo(area, compound))
    if name in ("extfrag_index", "unusable_index"):
        index, width = (fragmentation_thousandths, 2) if name == "extfrag_index" else (unusable_thousandths, 1)
        table = buddyinfo(memory)
        values = np.array([[index(row, order) for order in range(ORDERS)] for row in table.counts], np.int64)
        return index_text(table.zone_names, values, width)
    raise ConfigurationError(f"there is no text {name!r} of the kernel; there are {', '.join(NAMES)}")


def buddyinfo(memory: Memory) -> BuddyInfo:
    """Return free blocks by zone and order."""
    return BuddyInfo(tuple(zone.name for zone in memory.zones), memory.buddyinfo())


def pagetypeinfo(memory: Memory) -> PageTypeInfo:
    """Return free blocks by zone, migratetype and order, as far as the kernel counts, and pageblocks."""
    blocks = np.array([zone.buddy.free_blocks.T for zone in memory.zones], np.int64)
    return PageTypeInfo(
        zone_names=tuple(zone.name for zone in memory.zones),
        type_names=TYPE_NAMES,
        counts=np.minimum(blocks, COUNTED_MOST),
        capped=(blocks >= COUNTED_MOST).astype(np.uint8),
        pageblocks=np.array([_pageblocks(zone) for zone in memory.zones], np.int64),
        pageblock_order=PAGEBLOCK_ORDER,
    )


def _pageblocks(zone: Zone) -> npt.NDArray[np.int64]:
    """Return the pageblocks of each type, int64[types]; those of holes alone do not exist."""
    starts = np.arange(0, zone.frames, PAGEBLOCK_FRAMES)
    exist = np.maximum.reduceat((zone.buddy.state != HOLE).astype(np.int8), starts) > 0
    return np.bincount(zone.buddy.pageblock[exist], minlength=len(TYPE_NAMES)).astype(np.int64)


def zoneinfo(memory: Memory, page_tables: int, cpus: int) -> list[ZoneText]:
    """Return each zone with its watermarks, reserves and per-CPU lists.

    Parameters
    ----------
    memory : Memory
    page_tables : int
        Frames that hold page tables.
    cpus : int
    """
    sizes = [ZoneSize(zone.name, zone.managed, zone.managed) for zone in memory.zones]
    texts: list[ZoneText] = []
    for zone, limits in zip(memory.zones, zone_limits(sizes, cpus), strict=True):
        blocks = zone.free_blocks
        whole = sum(int(blocks[order]) << order for order in range(PAGEBLOCK_ORDER, ORDERS))
        texts.append(
            ZoneText(
                node=0,
                name=zone.name,
                node_counters={"nr_page_table_pages": page_tables} if not texts else {},
                sizes={
                    "free": zone.free_frames,
                    "boost": 0,
                    **limits.watermarks._asdict(),
                    "spanned": zone.frames,
                    "present": zone.managed,
                    "managed": zone.managed,
                    "cma": 0,
                },
                protection=tuple(limits.lowmem_reserve.values()),
                counters={"nr_free_pages": zone.free_frames, "nr_free_pages_blocks": whole},
                per_cpu=tuple(_per_cpu(zone, limits, cpu) for cpu in range(cpus)),
                rest={"node_unreclaimable": 0, "start_pfn": zone.first_frame},
            )
        )
    return texts


def _per_cpu(zone: Zone, limits: ZoneLimits, cpu: int) -> PerCpuLists:
    frames = per_cpu_frames(zone, cpu)
    sizes = limits.per_cpu
    values = {"count": frames, "high": max(sizes.high_min, frames), **sizes._asdict()}
    return PerCpuLists(cpu, values, threshold=limits.stat_threshold)


#: Lists of frames before those of CPUs, and lists of a CPU: orders 0 to 3 of three types, and two of order 9.
_LISTS_BEFORE, _LISTS_OF_CPU = 5, 14


def per_cpu_frames(zone: Zone, cpu: int) -> int:
    """Return how many frames lie on a CPU's lists of a zone; 0 where the zone has no such lists."""
    buddy = zone.buddy
    total = 0
    for number in range(_LISTS_BEFORE + cpu * _LISTS_OF_CPU, _LISTS_BEFORE + (cpu + 1) * _LISTS_OF_CPU):
        sentinel = zone.frames + LISTS + number
        frame = int(buddy.next[sentinel]) if sentinel < len(buddy.next) else sentinel
        while frame != sentinel:
            total += 1 << ((PER_CPU - int(buddy.state[frame])) >> 2)
            frame = int(buddy.next[frame])
    return total


def vmallocinfo(area: VmallocArea, compound: CompoundAllocator) -> list[VmallocRange]:
    """Return the ranges of the vmalloc area, ascending: virtual pages, their page arrays, and what ``vmap`` made.

    Callers are the model's, so none is named.
    """
    ranges = []
    for address, nbytes, pages in area.spans():
        page = compound.pages.get(address)
        if page is None and address not in compound.mapped_arrays:
            ranges.append(VmallocRange(address, address + nbytes, nbytes, kinds=("vmap",)))
            continue
        virtual_array = page is not None and page.array_pages > 0
        ranges.append(
            VmallocRange(
                start=address,
                end=address + nbytes,
                nbytes=nbytes,
                pages=pages,
                kinds=("vmalloc",),
                page_array_virtual=virtual_array,
                nodes={0: pages},
            )
        )
    return ranges
