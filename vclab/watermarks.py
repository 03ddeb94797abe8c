"""What Linux 6.x derives from the sizes of zones: watermarks, reserves and the sizes of per-CPU page lists.

All are integers, computed as the kernel computes them, from managed frames of 4 KiB. Linux 6.18 ``mm/page_alloc.c``
and ``mm/khugepaged.c``; the functions are named below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import NamedTuple

from vclab.errors import ConfigurationError

FRAME_KBYTES = 4
#: Migratetypes that have per-CPU lists (``MIGRATE_PCPTYPES``).
PER_CPU_TYPES = 3
#: Zones of movable memory only: their minimum is not a share of min_free_kbytes.
MOVABLE = "Movable"
#: Frames per 128 MiB, as a shift; counters of a zone are kept the more coarsely the more of these it has.
_THRESHOLD_SHIFT = 15


class ZoneSize(NamedTuple):
    """Size of one zone.

    Attributes
    ----------
    name : str
        ``DMA``, ``DMA32``, ``Normal``, ``Movable`` or ``Device``.
    managed : int
        Frames that the page allocator manages.
    present : int
        Frames that exist.
    node : int
        NUMA node.
    """

    name: str
    managed: int
    present: int = 0
    node: int = 0


def _reserve_ratios() -> Mapping[str, int]:
    return {"DMA": 256, "DMA32": 256, "Normal": 32, MOVABLE: 0}


@dataclass(frozen=True)
class Settings:
    """Switches of ``/proc/sys/vm`` and of transparent huge pages, at the kernel's defaults.

    Attributes
    ----------
    min_free_kbytes : int or None
        KiB; None: as the kernel chooses at boot.
    watermark_scale_factor, watermark_boost_factor : int
        Ten-thousandths of a zone, and of its high watermark.
    lowmem_reserve_ratio : mapping
        By zone: of the frames above it, one in so many is kept back in this zone; 0: none.
    percpu_pagelist_high_fraction : int
        Per-CPU lists hold at most one in so many frames of a zone; 0: sized by themselves.
    transparent_huge_pages : bool
        khugepaged runs, and raises min_free_kbytes.
    pageblock_frames : int
        Frames of a pageblock.
    """

    min_free_kbytes: int | None = None
    watermark_scale_factor: int = 10
    watermark_boost_factor: int = 15000
    lowmem_reserve_ratio: Mapping[str, int] = field(default_factory=_reserve_ratios)
    percpu_pagelist_high_fraction: int = 0
    transparent_huge_pages: bool = True
    pageblock_frames: int = 512


class Watermarks(NamedTuple):
    """Watermarks of one zone in frames, without a boost."""

    min: int
    low: int
    high: int
    promo: int

    def boosted(self, boost: int) -> Watermarks:
        """Return them with a boost on each, as zoneinfo prints them (``wmark_pages``)."""
        return Watermarks(*(mark + boost for mark in self))


class PerCpuSizes(NamedTuple):
    """Sizes of one CPU's lists of a zone, in frames; the limit tunes itself between ``high_min`` and ``high_max``."""

    batch: int
    high_min: int
    high_max: int


class ZoneLimits(NamedTuple):
    """Everything that follows from the sizes.

    Attributes
    ----------
    zone : ZoneSize
    watermarks : Watermarks
    lowmem_reserve : dict
        By name of a zone of the node: frames of this zone kept back from a request that the other could have served.
    per_cpu : PerCpuSizes
    boost_step, boost_limit : int
        A claim of a pageblock raises the watermarks by the step, up to the limit; both 0 where none happens.
    highatomic_limit : int
        No further pageblock is reserved for atomic requests once as many frames are.
    stat_threshold : int
        A CPU keeps changes of a counter to itself up to so many.
    """

    zone: ZoneSize
    watermarks: Watermarks
    lowmem_reserve: dict[str, int]
    per_cpu: PerCpuSizes
    boost_step: int
    boost_limit: int
    highatomic_limit: int
    stat_threshold: int


def boot_min_free_kbytes(lowmem_kbytes: int) -> int:
    """Return min_free_kbytes as chosen at boot: 4 times the root of low memory in KiB, from 128 to 262144.

    ``calculate_min_free_kbytes``.
    """
    return min(max(isqrt(lowmem_kbytes * 16), 128), 262144)


def recommended_min_free_kbytes(populated: int, lowmem_frames: int, pageblock_frames: int = 512) -> int:
    """Return what khugepaged raises min_free_kbytes to.

    Two pageblocks a zone, and one for each pair of migratetypes in each zone, but at most a twentieth of low memory:
    ``set_recommended_min_free_kbytes``.

    Parameters
    ----------
    populated : int
        Zones that hold frames, those of movable memory apart.
    lowmem_frames : int
        Managed frames of them above their high watermarks.
    pageblock_frames : int
    """
    blocks = populated * (2 + PER_CPU_TYPES * PER_CPU_TYPES)
    return min(blocks * pageblock_frames, lowmem_frames // 20) * FRAME_KBYTES


def zone_watermarks(zone: ZoneSize, min_frames: int, lowmem_frames: int, scale_factor: int = 10) -> Watermarks:
    """Return a zone's watermarks.

    ``__setup_per_zone_wmarks``: each zone has its share of the minimum; from one mark to the next it is a quarter of
    that share, or a part of the zone where that is more.

    Parameters
    ----------
    zone : ZoneSize
    min_frames : int
        min_free_kbytes, in frames.
    lowmem_frames : int
        Managed frames of all zones but movable ones.
    scale_factor : int
        watermark_scale_factor, in ten-thousandths of a zone.
    """
    share = min_frames * zone.managed // lowmem_frames if lowmem_frames else 0
    least = min(max(zone.managed // 1024, 32), 128) if zone.name == MOVABLE else share
    step = max(share >> 2, zone.managed * scale_factor // 10000)
    return Watermarks(least, least + step, least + 2 * step, least + 3 * step)


def batch_size(managed: int) -> int:
    """Return how many frames a per-CPU list exchanges with its zone at a time (``zone_batchsize``), at least 1."""
    batch = max(min(managed >> 10, 256) // 4, 1)
    return max(1, (1 << (batch + batch // 2).bit_length() - 1) - 1)


def per_cpu_sizes(managed: int, low: int, cpus: int, high_fraction: int = 0) -> PerCpuSizes:
    """Return the sizes of one CPU's lists of a zone.

    ``zone_set_pageset_high_and_batch`` and ``zone_highsize``.

    Parameters
    ----------
    managed, low : int
        Frames of the zone, and its low watermark.
    cpus : int
        CPUs of its node; all of the machine if the node has none.
    high_fraction : int
        percpu_pagelist_high_fraction.
    """
    batch = batch_size(managed)
    smallest = managed // high_fraction if high_fraction else low
    largest = managed // (high_fraction or 8)
    return PerCpuSizes(batch, max(smallest // cpus, 4 * batch), max(largest // cpus, 4 * batch))


def lowmem_reserves(zones: Sequence[ZoneSize], ratios: Mapping[str, int]) -> list[dict[str, int]]:
    """Return what each zone of one node keeps back from requests for each other (``setup_per_zone_lowmem_reserve``).

    Parameters
    ----------
    zones : sequence of ZoneSize
        All zones of a node, lowest first, empty ones too.
    ratios : mapping
        As in :class:`Settings`; a zone that is not there keeps nothing.
    """
    rows = []
    for number, zone in enumerate(zones):
        ratio = ratios.get(zone.name, 0) if zone.managed else 0
        row = {lower.name: 0 for lower in zones[: number + 1]}
        above = 0
        for upper in zones[number + 1 :]:
            above += upper.managed
            row[upper.name] = above // ratio if ratio else 0
        rows.append(row)
    return rows


def boost_limits(managed: int, high: int, boost_factor: int = 15000, pageblock_frames: int = 512) -> tuple[int, int]:
    """Return by how much a claim raises a zone's watermarks, and to which boost at most (``boost_watermark``)."""
    limit = high * boost_factor // 10000
    if not limit or managed < 4 * pageblock_frames:
        return 0, 0
    return pageblock_frames, max(limit, pageblock_frames)


def highatomic_limit(managed: int, pageblock_frames: int = 512) -> int:
    """Return when no more is reserved for atomic requests: a hundredth of the zone, in whole pageblocks, 0 if less.

    ``reserve_highatomic_pageblock``: the last block may still be taken as long as fewer frames are reserved.
    """
    share = managed // 100
    return -(-share // pageblock_frames) * pageblock_frames if share >= pageblock_frames else 0


def stat_threshold(managed: int, cpus: int) -> int:
    """Return how far a CPU's counters of a zone may drift (``mm/vmstat.c``: ``calculate_normal_threshold``)."""
    return min(125, 2 * cpus.bit_length() * (1 + (managed >> _THRESHOLD_SHIFT).bit_length()))


def min_free_kbytes(zones: Sequence[ZoneSize], settings: Settings | None = None) -> int:
    """Return min_free_kbytes of a machine with these zones that has settled after boot.

    Parameters
    ----------
    zones : sequence of ZoneSize
    settings : Settings, optional
        One that sets it has its way, unless khugepaged wants more.
    """
    settings = settings or Settings()
    low = [zone for zone in zones if zone.name not in (MOVABLE, "Device")]
    frames = sum(zone.managed for zone in low)
    kbytes = settings.min_free_kbytes
    if kbytes is None:
        # At boot no zone has a watermark yet.
        kbytes = boot_min_free_kbytes(frames * FRAME_KBYTES)
    if not settings.transparent_huge_pages:
        return kbytes
    marks = [zone_watermarks(z, kbytes // FRAME_KBYTES, frames, settings.watermark_scale_factor) for z in low]
    above = sum(max(zone.managed - mark.high, 0) for zone, mark in zip(low, marks, strict=True))
    populated = sum(zone.present > 0 or zone.managed > 0 for zone in low)
    return max(kbytes, recommended_min_free_kbytes(populated, above, settings.pageblock_frames))


def zone_limits(
    zones: Sequence[ZoneSize], cpus: int | Mapping[int, int] = 1, settings: Settings | None = None
) -> list[ZoneLimits]:
    """Return what follows from the sizes of all zones of a machine.

    Parameters
    ----------
    zones : sequence of ZoneSize
        Node by node, each node's lowest zone first; empty zones may be left out.
    cpus : int or mapping
        CPUs of each node, by node, or of the only one.
    settings : Settings, optional

    Raises
    ------
    ConfigurationError
        If there is no CPU or no frame, or a setting is negative.
    """
    settings = settings or Settings()
    of_node = {0: cpus} if isinstance(cpus, int) else cpus
    machine_cpus = sum(of_node.values())
    numbers = [settings.min_free_kbytes or 0, settings.watermark_scale_factor, settings.watermark_boost_factor]
    numbers += [settings.percpu_pagelist_high_fraction, *settings.lowmem_reserve_ratio.values()]
    if machine_cpus < 1 or min(numbers) < 0 or settings.pageblock_frames < 1:
        raise ConfigurationError("a setting of the zones' limits is negative, or no CPU; use 0 or more, and one CPU")
    lowmem = sum(zone.managed for zone in zones if zone.name != MOVABLE)
    min_frames = min_free_kbytes(zones, settings) // FRAME_KBYTES
    limits = []
    for node in dict.fromkeys(zone.node for zone in zones):
        own = [zone for zone in zones if zone.node == node]
        near = of_node.get(node, 0) or machine_cpus
        for zone, reserve in zip(own, lowmem_reserves(own, settings.lowmem_reserve_ratio), strict=True):
            marks = zone_watermarks(zone, min_frames, lowmem, settings.watermark_scale_factor)
            step, limit = boost_limits(
                zone.managed, marks.high, settings.watermark_boost_factor, settings.pageblock_frames
            )
            limits.append(
                ZoneLimits(
                    zone=zone,
                    watermarks=marks,
                    lowmem_reserve=reserve,
                    per_cpu=per_cpu_sizes(zone.managed, marks.low, near, settings.percpu_pagelist_high_fraction),
                    boost_step=step,
                    boost_limit=limit,
                    highatomic_limit=highatomic_limit(zone.managed, settings.pageblock_frames),
                    stat_threshold=stat_threshold(zone.managed, machine_cpus),
                )
            )
    return limits
