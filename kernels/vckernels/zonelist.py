"""The full path of a request: the zones that may serve it in turn, watermarks, per-CPU lists, free lists, reserves.

``get_page`` stops where the kernel would enter its slow path (reclaim, compaction, failure): that is somebody else's.
Frames are numbered here as the machine does. Rules: Linux 6.18 ``mm/page_alloc.c``: ``get_page_from_freelist``,
``rmqueue``, ``rmqueue_buddy``, ``alloc_flags_nofragment``; of 2.6.24: ``get_page_from_freelist``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.allocflags import WMARK_MASK, AllocFlag
from vckernels.buddy import ALLOCATED, Migratetype, allocated_order, take_smallest
from vckernels.causes import Cause, Status
from vckernels.claim import MODE_NORMAL, allocate
from vckernels.freeing import free_through_lists
from vckernels.highatomic import reserve_pageblock
from vckernels.jit import kernel, unsigned
from vckernels.pcplist import (
    COSTLY_ORDER,
    claims_tried,
    drain_all,
    has_lists,
    pop,
    pop_listed,
    put_at_once,
)
from vckernels.pcplist_2_6_24 import (
    HOT,
    drain_all_single,
    pop_listed_single,
    pop_single,
    put_single_at_once,
)
from vckernels.rules import Fallback, Option, PerCpuRule
from vckernels.watermark import (
    Limit,
    ZoneIndex,
    boost_watermark,
    has_block,
    watermark_fast,
    wmark_frames,
    zone_watermark_ok_2_6_24,
)
from vckernels.zone import Zone, count_free

TYPE_SHIFT, ZONE_SHIFT, FLAGS_SHIFT, CPU_SHIFT, SLOT_SHIFT = 4, 6, 8, 21, 31
"""A request's bits: order 0 to 3, migratetype, highest zone, allocation flags, CPU and slot from these on."""
FLAGS_MASK = (1 << (CPU_SHIFT - FLAGS_SHIFT)) - 1
CPU_MASK = (1 << (SLOT_SHIFT - CPU_SHIFT)) - 1


class Zonelist(NamedTuple):
    """A machine's zones; one that it has not holds no frame and manages none, but has the rules of the others."""

    dma: Zone
    dma32: Zone
    normal: Zone


@kernel
def take_past_lists(zone: Zone, order: int, migratetype: int, flags: int) -> int:
    """Allocate from the zone's free lists, reserved ones included if flags allow; return the frame or -1.

    Rule: ``rmqueue_buddy``.
    """
    buddy = zone.buddy
    frame = np.int64(-1)
    claims = claims_tried(zone)
    if flags & AllocFlag.HIGHATOMIC:
        frame = take_smallest(buddy, order, Migratetype.HIGHATOMIC)
    if frame < 0:
        frame, _ = allocate(buddy, order, migratetype, flags, MODE_NORMAL)
        # Whether the request has failed is not for one zone to say.
        buddy.counters[Cause.ALLOCATION_FAILURE] -= frame < 0
        if frame < 0 and flags & (AllocFlag.OOM | AllocFlag.NON_BLOCK):
            frame = take_smallest(buddy, order, Migratetype.HIGHATOMIC)
    if frame >= 0:
        buddy.state[unsigned(frame)] = ALLOCATED + 16 * migratetype + order
        zone.limits[Limit.FREE] -= 1 << order
    boost_watermark(zone.limits, claims_tried(zone) - claims)
    return frame


@kernel(inline=True)
def keeps_watermark(zone: Zone, order: int, highest_zone: int, flags: int) -> bool:
    """Return whether a request may be served by a zone; note if the zone is below its high watermark."""
    limits = zone.limits
    free = limits[Limit.FREE]
    mark = wmark_frames(limits, flags & WMARK_MASK)
    if zone.buddy.options[Option.HALVING_WATERMARKS]:
        if flags & AllocFlag.NO_WATERMARKS:
            return True
        return zone_watermark_ok_2_6_24(zone.buddy, limits, order, mark, highest_zone, flags, free)
    if limits[Limit.BELOW_HIGH] == 0:
        high = wmark_frames(limits, np.int64(AllocFlag.WMARK_HIGH))
        if watermark_fast(zone.buddy, limits, order, high, highest_zone, flags, free):
            return True
        limits[Limit.BELOW_HIGH] = 1
    if watermark_fast(zone.buddy, limits, order, mark, highest_zone, flags, free):
        return True
    return flags & AllocFlag.NO_WATERMARKS != 0


@kernel(inline=True)
def _pop_single_for(zone: Zone, cpu: int, migratetype: int, flags: int) -> int:
    """Allocate a frame from a CPU's two lists, which know no types where free lists know none; return it or -1."""
    if zone.buddy.options[Option.GROUPED]:
        return pop_single(zone, cpu, migratetype, flags)
    frame = pop_single(zone, cpu, np.int64(Migratetype.UNMOVABLE), flags)
    if frame >= 0:
        zone.buddy.state[unsigned(frame)] = ALLOCATED + 16 * migratetype
    return frame


@kernel
def take_from_zone(zone: Zone, cpu: int, order: int, migratetype: int, highest_zone: int, flags: int) -> int:
    """Allocate from one zone if that keeps its watermark; return the machine's frame, or -1. Rule: ``rmqueue``."""
    if zone.limits[Limit.MANAGED] == 0:
        return -1
    if not keeps_watermark(zone, order, highest_zone, flags):
        zone.buddy.counters[Cause.WATERMARK_MISS] += 1
        return -1
    per_cpu = zone.buddy.options[Option.PER_CPU]
    frame = np.int64(-1)
    if zone.buddy.options[Option.HALVING_WATERMARKS]:
        if order == 0 and per_cpu == PerCpuRule.HOT_AND_COLD:
            frame = _pop_single_for(zone, cpu, migratetype, flags)
        else:
            frame = take_past_lists(zone, order, migratetype, 0)
    else:
        if per_cpu == PerCpuRule.MANY_ORDERS and has_lists(order):
            frame = pop(zone, cpu, order, migratetype, flags)
        if frame < 0:
            frame = take_past_lists(zone, order, migratetype, flags)
        if frame >= 0 and flags & AllocFlag.HIGHATOMIC:
            reserve_pageblock(zone, frame, order)
    return frame if frame < 0 else frame + zone.limits[Limit.FIRST_FRAME]


@kernel
def get_page(zones: Zonelist, cpu: int, order: int, migratetype: int, highest_zone: int, flags: int) -> int:
    """Allocate one block as far as that needs no slow path; return its first frame or -1.

    Parameters
    ----------
    zones : Zonelist
        Mutated. Its limits know how many frames are free (:func:`count_zones`).
    cpu : int
        Whose lists serve the request.
    order, migratetype : int
        0 to 10; ``UNMOVABLE``, ``MOVABLE`` or ``RECLAIMABLE``.
    highest_zone : int
        The highest :class:`~vckernels.watermark.ZoneIndex` that may serve it; lower ones are tried after.
    flags : int
        Bits of :class:`~vckernels.allocflags.AllocFlag`. Requests for the normal zone first try to fragment no
        pageblock in any zone, by the rules that know of this (``alloc_flags_nofragment``).
    """
    options = zones.normal.buddy.options
    prefers_normal = highest_zone >= ZoneIndex.NORMAL and zones.normal.limits[Limit.MANAGED] > 0
    if prefers_normal and options[Option.FALLBACK] == Fallback.CLAIM_OR_STEAL:
        flags |= AllocFlag.NOFRAGMENT
    while True:
        frame = np.int64(-1)
        if highest_zone >= ZoneIndex.NORMAL:
            frame = take_from_zone(zones.normal, cpu, order, migratetype, highest_zone, flags)
        if frame < 0 and highest_zone >= ZoneIndex.DMA32:
            frame = take_from_zone(zones.dma32, cpu, order, migratetype, highest_zone, flags)
        if frame < 0:
            frame = take_from_zone(zones.dma, cpu, order, migratetype, highest_zone, flags)
        if frame >= 0 or not flags & AllocFlag.NOFRAGMENT:
            return frame
        flags &= ~np.int64(AllocFlag.NOFRAGMENT)


@kernel(inline=True)
def _take_at_once(zone: Zone, cpu: int, order: int, migratetype: int, highest_zone: int, flags: int) -> int:
    """Do what :func:`get_page` would where a per-CPU list has a block and no watermark is near; else return -1."""
    limits = zone.limits
    options = zone.buddy.options
    if flags & (AllocFlag.HIGHATOMIC | AllocFlag.COLD) or limits[Limit.BELOW_HIGH] + limits[Limit.HIGHATOMIC_RESERVED]:
        return -1
    # One mark for all: what keeps the high one keeps the others, whatever flags allow.
    mark = wmark_frames(limits, np.int64(AllocFlag.WMARK_HIGH))
    if limits[Limit.FREE] - (1 << order) < mark + limits[unsigned(Limit.RESERVE_DMA + highest_zone)]:
        return -1
    frame = np.int64(-1)
    if options[Option.PER_CPU] == PerCpuRule.MANY_ORDERS:
        if order == 0 or (order <= COSTLY_ORDER and has_block(zone.buddy, order, 0)):
            frame = pop_listed(zone, cpu, order, migratetype)
    elif order == 0:
        frame = pop_listed_single(zone, cpu, HOT, migratetype if options[Option.GROUPED] else np.int64(0))
        if frame >= 0:
            zone.buddy.state[unsigned(frame)] = ALLOCATED + 16 * migratetype
    return frame if frame < 0 else frame + limits[Limit.FIRST_FRAME]


@kernel(inline=True)
def _put_at_once(zone: Zone, cpu: int, frame: int) -> bool:
    """Do what :func:`put_page` would for a single frame where a per-CPU list has room; return whether it was done."""
    if zone.buddy.options[Option.PER_CPU] == PerCpuRule.MANY_ORDERS:
        return put_at_once(zone, cpu, frame - zone.limits[Limit.FIRST_FRAME])
    return put_single_at_once(zone, cpu, frame - zone.limits[Limit.FIRST_FRAME])


@kernel
def put_in_zone(zone: Zone, cpu: int, frame: int, order: int, cold: bool) -> int:
    """Free a block of a zone, by the machine's frame, through what stands before its free lists; return a status."""
    return free_through_lists(zone, cpu, frame - zone.limits[Limit.FIRST_FRAME], order, cold)


@kernel(inline=True)
def _is_in(zone: Zone, frame: int) -> bool:
    """Return whether a machine's frame is the zone's or above."""
    return zone.limits[Limit.MANAGED] > 0 and frame >= zone.limits[Limit.FIRST_FRAME]


@kernel
def put_page(zones: Zonelist, cpu: int, frame: int, order: int, cold: bool) -> int:
    """Free a block by the machine's number of its first frame; return a status. Rule: ``__free_pages``."""
    if _is_in(zones.normal, frame):
        return put_in_zone(zones.normal, cpu, frame, order, cold)
    if _is_in(zones.dma32, frame):
        return put_in_zone(zones.dma32, cpu, frame, order, cold)
    if _is_in(zones.dma, frame):
        return put_in_zone(zones.dma, cpu, frame, order, cold)
    return Status.OUT_OF_RANGE


@kernel
def order_at(zones: Zonelist, frame: int) -> int:
    """Return the order of the allocated block that starts at the machine's frame, -1 if none does."""
    if _is_in(zones.normal, frame):
        return allocated_order(zones.normal.buddy, frame - zones.normal.limits[Limit.FIRST_FRAME])
    if _is_in(zones.dma32, frame):
        return allocated_order(zones.dma32.buddy, frame - zones.dma32.limits[Limit.FIRST_FRAME])
    return allocated_order(zones.dma.buddy, frame - zones.dma.limits[Limit.FIRST_FRAME])


@kernel
def count_zones(zones: Zonelist) -> None:
    """Count every zone's free frames into its limits; whoever changes free lists otherwise calls this after."""
    count_free(zones.normal)
    count_free(zones.dma32)
    count_free(zones.dma)


@kernel
def drain_cpu(zones: Zonelist, cpu: int) -> int:
    """Give back all that a CPU holds of every zone; return the frames."""
    count_zones(zones)
    if zones.normal.buddy.options[Option.PER_CPU] == PerCpuRule.HOT_AND_COLD:
        low = drain_all_single(zones.dma, cpu) + drain_all_single(zones.dma32, cpu)
        return low + drain_all_single(zones.normal, cpu)
    return drain_all(zones.dma, cpu) + drain_all(zones.dma32, cpu) + drain_all(zones.normal, cpu)


def allocation_requests(
    slots: npt.ArrayLike,
    orders: npt.ArrayLike = 0,
    migratetypes: npt.ArrayLike = 0,
    highest_zones: npt.ArrayLike = ZoneIndex.NORMAL,
    flags: npt.ArrayLike = AllocFlag.WMARK_LOW,
    cpus: npt.ArrayLike = 0,
) -> npt.NDArray[np.int64]:
    """Return requests for :func:`run_requests` that fill slots, int64[n]; arguments are broadcast."""
    parts = (
        np.left_shift(np.asarray(part, np.int64), shift)
        for part, shift in (
            (orders, 0),
            (migratetypes, TYPE_SHIFT),
            (highest_zones, ZONE_SHIFT),
            (flags, FLAGS_SHIFT),
            (cpus, CPU_SHIFT),
        )
    )
    return np.asarray(sum(parts, np.left_shift(np.asarray(slots, np.int64), SLOT_SHIFT)), np.int64)


def free_requests(slots: npt.ArrayLike, cpus: npt.ArrayLike = 0) -> npt.NDArray[np.int64]:
    """Return requests for :func:`run_requests` that empty slots, int64[n]."""
    return ~allocation_requests(slots, 0, 0, 0, 0, cpus)


@kernel
def run_requests(
    zones: Zonelist, requests: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], start: int
) -> tuple[int, int]:
    """Serve requests from number ``start`` on, until one needs a slow path; return where that is, and a status.

    Parameters
    ----------
    zones : Zonelist
        Mutated.
    requests : int64[n]
        As :func:`allocation_requests` and :func:`free_requests` make them. Emptying an empty slot does nothing.
    slots : int64[m]
        Mutated: the machine's first frame that each slot holds, -1 where it is empty.
    start : int
        Number of the first request to serve.

    Returns
    -------
    tuple of int
        Number of the request that was not served, n if all were; and ``OK``, ``NO_MEMORY`` where the caller may reclaim
        and go on, or why a block could not be freed.
    """
    count_zones(zones)
    normal = zones.normal
    usual = normal.limits[Limit.MANAGED] > 0 and normal.buddy.options[Option.PER_CPU] != PerCpuRule.NONE
    for number in range(start, len(requests)):
        request = requests[unsigned(number)]
        if request >= 0:
            order = request & 15
            migratetype = (request >> TYPE_SHIFT) & 3
            highest_zone = (request >> ZONE_SHIFT) & 3
            flags = (request >> FLAGS_SHIFT) & FLAGS_MASK
            cpu = (request >> CPU_SHIFT) & CPU_MASK
            frame = np.int64(-1)
            if usual and highest_zone >= ZoneIndex.NORMAL:
                frame = _take_at_once(normal, cpu, order, migratetype, highest_zone, flags)
            if frame < 0:
                frame = get_page(zones, cpu, order, migratetype, highest_zone, flags)
                if frame < 0:
                    return number, np.int64(Status.NO_MEMORY)
            slots[unsigned(request >> SLOT_SHIFT)] = frame
        else:
            request = ~request
            slot = request >> SLOT_SHIFT
            frame = slots[unsigned(slot)]
            if frame < 0:
                continue
            cpu = (request >> CPU_SHIFT) & CPU_MASK
            if usual and _put_at_once(normal, cpu, frame):
                slots[unsigned(slot)] = -1
                continue
            status = put_page(zones, cpu, frame, order_at(zones, frame), False)
            if status != Status.OK:
                return number, np.int64(status)
            slots[unsigned(slot)] = -1
    return len(requests), np.int64(Status.OK)
