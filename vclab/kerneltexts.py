"""What the model's machine would say of itself in ``/proc`` and debugfs, in the format of its own release.

Only what the model has is there: of the counters, free frames, page tables and, in the releases that give them by zone,
the lengths of reclaim's lists. Watermarks, reserves and the bounds of per-CPU lists are the machine's own; those of one
that keeps none follow from its zones' sizes as in its kernel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import HOLE, ORDERS, PAGEBLOCK_FRAMES, PAGEBLOCK_ORDER, Migratetype
from vckernels.pages import Lru
from vckernels.watermark import ZONES, Limit
from vckernels.workingset import FIRST_PRIORITY, ReclaimField
from vckernels.zone import PerCpu
from vclab.allocator import ZONE_STARTS, machine_limits
from vclab.compound import CompoundAllocator
from vclab.errors import ConfigurationError
from vclab.fragmentation import fragmentation_thousandths, unusable_thousandths
from vclab.mapping import PageTables
from vclab.memory import Memory, Zone
from vclab.movable import MovablePages
from vclab.presets import LinuxPreset
from vclab.recordings.procfiles import BuddyInfo, PageTypeInfo
from vclab.recordings.proctext import (
    COUNTED_MOST,
    buddyinfo_text,
    index_text,
    pagetypeinfo_text,
    vmallocinfo_text,
    zoneinfo_text,
)
from vclab.recordings.proctext_2_6 import PLANNED, zoneinfo_text_2_6
from vclab.recordings.vmallocinfo import VmallocRange
from vclab.recordings.zonetext import PerCpuLists, ZoneText
from vclab.vmalloc_area import VmallocArea
from vclab.watermarks import stat_threshold

NAMES = ("buddyinfo", "pagetypeinfo", "zoneinfo", "vmallocinfo", "extfrag_index", "unusable_index")
#: The kernel's names of migratetypes and their numbers here, by a preset's word.
_TYPES = {
    "unmovable": ("Unmovable", Migratetype.UNMOVABLE),
    "movable": ("Movable", Migratetype.MOVABLE),
    "reclaimable": ("Reclaimable", Migratetype.RECLAIMABLE),
    "highatomic": ("HighAtomic", Migratetype.HIGHATOMIC),
    "reserve": ("Reserve", Migratetype.HIGHATOMIC),
    "isolate": ("Isolate", Migratetype.ISOLATE),
}


def is_modern(linux: LinuxPreset) -> bool:
    """Return whether a release prints as today's do: with compaction came the indices, before it ``vmallocinfo``."""
    return linux.allocator.slow_path.value == "compaction"


def text_names(linux: LinuxPreset) -> tuple[str, ...]:
    """Return which of :data:`NAMES` a release has."""
    if is_modern(linux):
        return NAMES
    return (
        ("buddyinfo", "pagetypeinfo", "zoneinfo") if linux.allocator.migratetypes.value else ("buddyinfo", "zoneinfo")
    )


def kernel_text(
    name: str,
    linux: LinuxPreset,
    memory: Memory,
    tables: PageTables,
    area: VmallocArea,
    compound: CompoundAllocator,
    movable: MovablePages | None,
    cpus: int,
) -> str:
    """Return one of the kernel's texts about a machine.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    linux : LinuxPreset
        The release.
    memory, tables, area, compound, movable
        The machine.
    cpus : int
        Its CPUs, of which each has lists of its own.

    Raises
    ------
    ConfigurationError
        If the release has no such text.
    """
    if name not in text_names(linux):
        raise ConfigurationError(
            f"there is no text {name!r} of Linux {linux.name}; there are {', '.join(text_names(linux))}"
        )
    if name == "buddyinfo":
        return buddyinfo_text(buddyinfo(memory))
    if name == "pagetypeinfo":
        return pagetypeinfo_text(pagetypeinfo(linux, memory))
    if name == "zoneinfo":
        if is_modern(linux):
            return zoneinfo_text(zoneinfo(linux, memory, tables.count, cpus))
        return zoneinfo_text_2_6(zoneinfo_2_6(linux, memory, tables.frames(), movable, cpus))
    if name == "vmallocinfo":
        return vmallocinfo_text(vmallocinfo(area, compound))
    index, width = (fragmentation_thousandths, 2) if name == "extfrag_index" else (unusable_thousandths, 1)
    table = buddyinfo(memory)
    values = np.array([[index(row, order) for order in range(ORDERS)] for row in table.counts], np.int64)
    return index_text(table.zone_names, values, width)


def buddyinfo(memory: Memory) -> BuddyInfo:
    """Return free blocks by zone and order."""
    return BuddyInfo(tuple(zone.name for zone in memory.zones), memory.buddyinfo())


def pagetypeinfo(linux: LinuxPreset, memory: Memory) -> PageTypeInfo:
    """Return free blocks by zone, migratetype and order, and pageblocks, by the types of a release.

    Blocks are counted as far as today's kernel counts them; 2.6.24 counts all. Today's names one type more, that of
    pageblocks which are being emptied.
    """
    words = [*linux.allocator.migratetypes.value, *(["isolate"] if is_modern(linux) else [])]
    numbers = [int(_TYPES[word][1]) for word in words]
    blocks = np.array([zone.buddy.free_blocks.T[numbers] for zone in memory.zones], np.int64)
    most = COUNTED_MOST if is_modern(linux) else np.iinfo(np.int64).max
    return PageTypeInfo(
        zone_names=tuple(zone.name for zone in memory.zones),
        type_names=tuple(_TYPES[word][0] for word in words),
        counts=np.minimum(blocks, most),
        capped=(blocks >= most).astype(np.uint8),
        pageblocks=np.array([_pageblocks(zone)[numbers] for zone in memory.zones], np.int64),
        pageblock_order=PAGEBLOCK_ORDER,
    )


def _pageblocks(zone: Zone) -> npt.NDArray[np.int64]:
    """Return the pageblocks of each type, int64[TYPES]; those of holes alone do not exist."""
    starts = np.arange(0, zone.frames, PAGEBLOCK_FRAMES)
    exist = np.maximum.reduceat((zone.buddy.state != HOLE).astype(np.int8), starts) > 0
    return np.bincount(zone.buddy.pageblock[exist], minlength=len(Migratetype)).astype(np.int64)


def zone_limits(linux: LinuxPreset, memory: Memory, cpus: int) -> list[npt.NDArray[np.int64]]:
    """Return each zone's limits, int64[LIMITS]: its own, else those that its release derives from the zones' sizes."""
    sizes = {name: 0 for name, _ in ZONE_STARTS} | {zone.name: zone.managed for zone in memory.zones}
    derived = dict(zip(sizes, machine_limits(linux, sizes, cpus), strict=True))
    return [derived[zone.name] if zone.own_limits is None else zone.own_limits for zone in memory.zones]


def _protection(limits: npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(limits[Limit.RESERVE_DMA : Limit.RESERVE_DMA + ZONES].tolist())


def zoneinfo(linux: LinuxPreset, memory: Memory, page_tables: int, cpus: int) -> list[ZoneText]:
    """Return each zone with its watermarks, reserves and per-CPU lists, as today's kernel prints them.

    Parameters
    ----------
    linux : LinuxPreset
    memory : Memory
    page_tables : int
        Frames that hold page tables.
    cpus : int
    """
    texts: list[ZoneText] = []
    for zone, limits in zip(memory.zones, zone_limits(linux, memory, cpus), strict=True):
        blocks = zone.free_blocks
        whole = sum(int(blocks[order]) << order for order in range(PAGEBLOCK_ORDER, ORDERS))
        boost = int(limits[Limit.BOOST])
        marks = {name: int(limits[Limit[name.upper()]]) + boost for name in ("min", "low", "high", "promo")}
        texts.append(
            ZoneText(
                node=0,
                name=zone.name,
                node_counters={"nr_page_table_pages": page_tables} if not texts else {},
                sizes={
                    "free": zone.free_frames,
                    "boost": boost,
                    **marks,
                    "spanned": zone.frames,
                    "present": zone.managed,
                    "managed": zone.managed,
                    "cma": 0,
                },
                protection=_protection(limits),
                counters={"nr_free_pages": zone.free_frames, "nr_free_pages_blocks": whole},
                per_cpu=tuple(_per_cpu(zone, limits, cpu, cpus) for cpu in range(cpus)),
                rest={"node_unreclaimable": 0, "start_pfn": zone.first_frame},
            )
        )
    return texts


def _held(zone: Zone, cpu: int, column: PerCpu) -> int:
    """Return what a CPU keeps of a zone, by column of its row; 0 where CPUs keep nothing."""
    return int(zone.per_cpu[cpu, column]) if cpu < len(zone.per_cpu) else 0


def _per_cpu(zone: Zone, limits: npt.NDArray[np.int64], cpu: int, cpus: int) -> PerCpuLists:
    sizes = {name: int(limits[Limit[name.upper()]]) for name in ("batch", "high_min", "high_max")}
    high = max(_held(zone, cpu, PerCpu.HIGH), sizes["high_min"])
    values = {"count": _held(zone, cpu, PerCpu.COUNT), "high": high, **sizes}
    return PerCpuLists(cpu, values, threshold=stat_threshold(zone.managed, cpus))


def zoneinfo_2_6(
    linux: LinuxPreset, memory: Memory, tables: npt.NDArray[np.int64], movable: MovablePages | None, cpus: int
) -> list[ZoneText]:
    """Return each zone as Linux 2.6.23 and 2.6.24 print it.

    Parameters
    ----------
    linux : LinuxPreset
    memory : Memory
    tables : int64[n]
        Frames that hold page tables, as the machine numbers them.
    movable : MovablePages or None
        Whose zone has lists of pages, and reclaim.
    cpus : int
    """
    texts = []
    for zone, limits in zip(memory.zones, zone_limits(linux, memory, cpus), strict=True):
        own = movable if movable is not None and movable.zone is zone else None
        fields = None if own is None else own.reclaim_state.fields
        lists = (0, 0) if own is None else (own.pages.lengths[Lru.INACTIVE_FILE], own.pages.lengths[Lru.ACTIVE_FILE])
        seen = (ReclaimField.SCANNED_IN_VAIN, ReclaimField.PLANNED_ACTIVE, ReclaimField.PLANNED_INACTIVE)
        scanned, active, inactive = (0 if fields is None else int(fields[name]) for name in seen)
        inside = (tables >= zone.first_frame) & (tables < zone.first_frame + zone.frames)
        texts.append(
            ZoneText(
                node=0,
                name=zone.name,
                sizes={
                    "free": zone.free_frames,
                    **{name: int(limits[Limit[name.upper()]]) for name in ("min", "low", "high")},
                    "scanned": scanned,
                    "spanned": zone.frames,
                    "present": zone.managed,
                },
                counters={
                    "nr_free_pages": zone.free_frames,
                    "nr_inactive": int(lists[0]),
                    "nr_active": int(lists[1]),
                    "nr_page_table_pages": int(np.count_nonzero(inside)),
                },
                protection=_protection(limits),
                per_cpu=tuple(lists for cpu in range(cpus) for lists in _hot_and_cold(zone, limits, cpu, cpus)),
                rest={
                    "all_unreclaimable": 0 if fields is None else int(fields[ReclaimField.UNRECLAIMABLE]),
                    "prev_priority": (
                        FIRST_PRIORITY if fields is None else int(fields[ReclaimField.PREVIOUS_PRIORITY])
                    ),
                    "start_pfn": zone.first_frame,
                    **dict(zip(PLANNED, (active, inactive), strict=True)),
                },
            )
        )
    return texts


def _hot_and_cold(zone: Zone, limits: npt.NDArray[np.int64], cpu: int, cpus: int) -> tuple[PerCpuLists, PerCpuLists]:
    """Return a CPU's two lists; what it keeps of counters to itself stands behind the second."""
    batch = int(limits[Limit.BATCH])
    hot = {"count": _held(zone, cpu, PerCpu.COUNT), "high": int(limits[Limit.HIGH_MAX]), "batch": batch}
    cold = {
        "count": _held(zone, cpu, PerCpu.COLD_COUNT),
        "high": int(limits[Limit.HIGH_MIN]),
        "batch": max(batch >> 1, 1),
    }
    threshold = stat_threshold(zone.managed, cpus)
    return PerCpuLists(cpu, hot, 0), PerCpuLists(cpu, cold, 1, threshold if cpus > 1 else None)


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
