"""What Linux 2.6.23 and 2.6.24 derive from the sizes of zones: watermarks, reserves, per-CPU lists.

Sizes are in present frames of 4 KiB; those releases knew no managed ones. Linux 2.6.24 ``mm/page_alloc.c``. There is no
high memory here: a 64-bit kernel has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import NamedTuple

from vclab.errors import ConfigurationError

FRAME_KBYTES = 4
PAGEBLOCK_FRAMES = 512
#: One frame in so many of those above a zone is kept back in it (``sysctl_lowmem_reserve_ratio``).
RESERVE_RATIOS = {"DMA": 256, "DMA32": 256, "Normal": 32}


class Marks(NamedTuple):
    """``pages_min``, ``pages_low`` and ``pages_high`` of a zone, in frames."""

    min: int
    low: int
    high: int


class PerCpuList(NamedTuple):
    """One of the two lists of order 0 that a CPU has of a zone, in frames."""

    batch: int
    high: int


class ZoneLimits2_6(NamedTuple):  # noqa: N801
    """Everything that follows from the sizes.

    Attributes
    ----------
    name : str
        The zone's.
    marks : Marks
    lowmem_reserve : dict
        By name of a zone: frames of this zone kept back from a request that the other could have served.
    reserve_blocks : int
        Pageblocks of the type MIGRATE_RESERVE, taken last of all (2.6.24; 2.6.23 has none).
    hot, cold : PerCpuList
    """

    name: str
    marks: Marks
    lowmem_reserve: dict[str, int]
    reserve_blocks: int
    hot: PerCpuList
    cold: PerCpuList


def min_free_kbytes(present: int) -> int:
    """Return min_free_kbytes of so many frames: from 128 to 65536 (``init_per_zone_pages_min``)."""
    return min(max(isqrt(present * FRAME_KBYTES * 16), 128), 65536)


def zone_marks(present: int, min_frames: int, machine_present: int) -> Marks:
    """Return a zone's marks: its share of the minimum, a quarter and a half more (``setup_per_zone_pages_min``)."""
    share = min_frames * present // machine_present
    return Marks(share, share + (share >> 2), share + (share >> 1))


def reserve_blocks(pages_min: int, pageblock_frames: int = PAGEBLOCK_FRAMES) -> int:
    """Return how many pageblocks are MIGRATE_RESERVE: what holds ``pages_min`` (``setup_zone_migrate_reserve``)."""
    return -(-pages_min // pageblock_frames)


def hot_and_cold(present: int, fraction: int = 0) -> tuple[PerCpuList, PerCpuList]:
    """Return the sizes of a CPU's two lists.

    ``zone_batchsize``, ``setup_pageset`` and ``setup_pagelist_highmark``.

    Parameters
    ----------
    present : int
        Frames of the zone.
    fraction : int
        percpu_pagelist_fraction: the hot list holds at most one in so many frames; 0: sized by itself.
    """
    wanted = max(min(present // 1024, 128) // 4, 1)
    batch = (1 << (wanted + wanted // 2).bit_length() - 1) - 1
    hot, cold = PerCpuList(max(1, batch), 6 * batch), PerCpuList(max(1, batch // 2), 2 * batch)
    if fraction:
        high = present // fraction
        hot = PerCpuList(min(max(1, high // 4), 96), high)
    return hot, cold


def lowmem_reserves(present: Mapping[str, int], ratios: Mapping[str, int] | None = None) -> list[dict[str, int]]:
    """Return what each zone keeps back from requests for each other (``setup_per_zone_lowmem_reserve``)."""
    ratios = RESERVE_RATIOS if ratios is None else ratios
    names = list(present)
    rows = []
    for number, name in enumerate(names):
        row = dict.fromkeys(names[: number + 1], 0)
        above = 0
        for upper in names[number + 1 :]:
            above += present[upper]
            # A ratio below 1 counts as 1.
            row[upper] = above // max(ratios.get(name, 1), 1)
        rows.append(row)
    return rows


def zone_limits(present: Mapping[str, int], kbytes: int | None = None, fraction: int = 0) -> list[ZoneLimits2_6]:
    """Return what follows from the sizes of the zones of a machine with one node.

    Parameters
    ----------
    present : mapping
        Frames by zone, lowest zone first.
    kbytes : int, optional
        min_free_kbytes; without it, as the kernel chooses.
    fraction : int
        percpu_pagelist_fraction, 0 for none.

    Raises
    ------
    ConfigurationError
        If the machine has no frame or a setting is negative.
    """
    machine = sum(present.values())
    if machine < 1 or min(present.values()) < 0 or fraction < 0 or (kbytes or 0) < 0:
        raise ConfigurationError("a machine without frames, or a negative setting, has no watermarks; use 0 or more")
    min_frames = (min_free_kbytes(machine) if kbytes is None else kbytes) // FRAME_KBYTES
    limits = []
    for (name, frames), reserve in zip(present.items(), lowmem_reserves(present), strict=True):
        marks = zone_marks(frames, min_frames, machine)
        hot, cold = hot_and_cold(frames, fraction)
        limits.append(ZoneLimits2_6(name, marks, reserve, reserve_blocks(marks.min), hot, cold))
    return limits
