"""Per-CPU lists of Linux 2.6.23 and 2.6.24: a hot and a cold one of single frames, whatever their migratetype.

A request searches its list for a frame of its type; without one the list is filled at its head, in the order in which
frames come. Freed frames go to the head, and once the list is at its limit (``HIGH_MAX`` for the hot one, six batches;
``HIGH_MIN`` for the cold one, two), a batch of the tail goes back. Rules:
``mm/page_alloc.c``: ``buffered_rmqueue``, ``rmqueue_bulk``, ``free_hot_cold_page``, ``free_pages_bulk``,
``setup_pageset``.
"""

from __future__ import annotations

import numpy as np

from vckernels.allocflags import AllocFlag
from vckernels.buddy import ALLOCATED, INSIDE, PAGEBLOCK_ORDER, PER_CPU, Buddy, Migratetype, merge_and_insert
from vckernels.causes import Cause, Status
from vckernels.claim import MODE_NORMAL, allocate
from vckernels.framelist import push_head, unlink
from vckernels.jit import kernel, unsigned
from vckernels.pcplist import free_past_lists
from vckernels.watermark import Limit
from vckernels.zone import PerCpu, Zone, per_cpu_sentinel

HOT, COLD = 0, 1
"""Numbers of the two lists."""


@kernel(inline=True)
def _count_column(number: int) -> int:
    return PerCpu.COLD_COUNT if number == COLD else PerCpu.COUNT


@kernel(inline=True)
def _batch(zone: Zone, number: int) -> int:
    """Return how many frames go to or from a list at once: half as many for the cold one."""
    return max(zone.limits[Limit.BATCH] >> number, 1)


@kernel(inline=True)
def _high(zone: Zone, number: int) -> int:
    """Return at how many frames a list gives a batch back."""
    return zone.limits[Limit.HIGH_MIN] if number == COLD else zone.limits[Limit.HIGH_MAX]


@kernel
def refill_single(zone: Zone, cpu: int, number: int, migratetype: int) -> int:
    """Fill a list's head with a batch in the order in which frames come; return how many came."""
    buddy = zone.buddy
    # Each frame goes behind the one before, the first behind the list's sentinel.
    before = per_cpu_sentinel(buddy, cpu, number)
    frames = 0
    while frames < _batch(zone, number):
        frame, _ = allocate(buddy, 0, migratetype, 0, MODE_NORMAL)
        if frame < 0:
            buddy.counters[Cause.ALLOCATION_FAILURE] -= 1  # No request has failed yet.
            break
        push_head(buddy.next, buddy.prev, before, frame)
        buddy.state[unsigned(frame)] = PER_CPU - migratetype
        before = frame
        frames += 1
    zone.per_cpu[cpu, _count_column(number)] += frames
    zone.limits[Limit.FREE] -= frames
    buddy.counters[Cause.PER_CPU_REFILL] += 1
    return frames


@kernel(inline=True)
def pop_listed_single(zone: Zone, cpu: int, number: int, migratetype: int) -> int:
    """Allocate the first frame of a type on a list; return it, or -1 with nothing changed if there is none."""
    buddy = zone.buddy
    sentinel = per_cpu_sentinel(buddy, cpu, number)
    frame = np.int64(buddy.next[unsigned(sentinel)])
    while frame != sentinel and PER_CPU - np.int64(buddy.state[unsigned(frame)]) != migratetype:
        frame = np.int64(buddy.next[unsigned(frame)])
    if frame == sentinel:
        return -1
    return _hand_out(zone, cpu, number, frame, migratetype)


@kernel(inline=True)
def _hand_out(zone: Zone, cpu: int, number: int, frame: int, migratetype: int) -> int:
    """Take a frame off a list and call it allocated; return it."""
    unlink(zone.buddy.next, zone.buddy.prev, frame)
    zone.buddy.state[unsigned(frame)] = ALLOCATED + 16 * migratetype
    zone.per_cpu[unsigned(cpu), unsigned(_count_column(number))] -= 1
    zone.buddy.counters[Cause.PER_CPU_ALLOCATION] += 1
    return frame


@kernel(inline=True)
def pop_single(zone: Zone, cpu: int, migratetype: int, flags: int) -> int:
    """Allocate one frame from a CPU's list, the cold one if flags say so; return it, -1 if the zone has none.

    Where a list holds frames of other types only and cannot be filled, the first of those is taken. In a zone without
    migratetypes the type is ``UNMOVABLE``.
    """
    number = COLD if flags & AllocFlag.COLD else HOT
    frame = pop_listed_single(zone, cpu, number, migratetype)
    if frame < 0:
        refill_single(zone, cpu, number, migratetype)
        sentinel = per_cpu_sentinel(zone.buddy, cpu, number)
        first = np.int64(zone.buddy.next[unsigned(sentinel)])
        if first != sentinel:
            frame = _hand_out(zone, cpu, number, first, migratetype)
    return frame


@kernel
def drain_single(zone: Zone, cpu: int, number: int, frames: int) -> int:
    """Give the last frames of a list back, or all there are; return how many it were."""
    buddy = zone.buddy
    sentinel = per_cpu_sentinel(buddy, cpu, number)
    given = 0
    while given < frames and np.int64(buddy.prev[unsigned(sentinel)]) != sentinel:
        frame = np.int64(buddy.prev[unsigned(sentinel)])
        unlink(buddy.next, buddy.prev, frame)
        buddy.state[unsigned(frame)] = INSIDE
        merge_and_insert(buddy, frame, 0)
        given += 1
    zone.per_cpu[cpu, _count_column(number)] -= given
    zone.limits[Limit.FREE] += given
    buddy.counters[Cause.FREE] += given
    buddy.counters[Cause.PER_CPU_DRAIN] += given > 0
    return given


@kernel
def drain_all_single(zone: Zone, cpu: int) -> int:
    """Give back all that a CPU holds; return the frames. Rule: ``__drain_pages``."""
    hot = drain_single(zone, cpu, HOT, zone.per_cpu[cpu, PerCpu.COUNT])
    return hot + drain_single(zone, cpu, COLD, zone.per_cpu[cpu, PerCpu.COLD_COUNT])


@kernel(inline=True)
def is_allocated_single(buddy: Buddy, frame: int) -> bool:
    """Return whether a frame of the zone is an allocated block of one frame."""
    state = np.int64(buddy.state[unsigned(frame)])
    return state >= ALLOCATED and state & 15 == 0


@kernel(inline=True)
def put_on_single(zone: Zone, cpu: int, number: int, frame: int) -> None:
    """Put a freed frame on the head of a list, whatever that makes the list hold."""
    buddy = zone.buddy
    push_head(buddy.next, buddy.prev, per_cpu_sentinel(buddy, cpu, number), frame)
    # Reserved or isolated: either is a type that no request has.
    migratetype = np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])
    buddy.state[unsigned(frame)] = PER_CPU - min(migratetype, np.int64(Migratetype.HIGHATOMIC))
    zone.per_cpu[unsigned(cpu), unsigned(_count_column(number))] += 1
    buddy.counters[Cause.PER_CPU_FREE] += 1


@kernel(inline=True)
def put_single_at_once(zone: Zone, cpu: int, frame: int) -> bool:
    """Put a frame on the hot list if it is allocated as one and nothing else follows; return whether it was."""
    if frame < 0 or frame >= len(zone.buddy.state) or not is_allocated_single(zone.buddy, frame):
        return False
    if zone.per_cpu[unsigned(cpu), unsigned(PerCpu.COUNT)] + 1 >= _high(zone, HOT):
        return False
    put_on_single(zone, cpu, HOT, frame)
    return True


@kernel(inline=True)
def free_single(zone: Zone, cpu: int, frame: int, order: int, cold: bool) -> int:
    """Free a block, a single frame through one of the CPU's lists; return a status.

    Refused and without effect: what is not an allocated block of this order.
    """
    buddy = zone.buddy
    if frame < 0 or frame >= len(buddy.state):
        return Status.OUT_OF_RANGE
    if order != 0 or not is_allocated_single(buddy, frame):
        return free_past_lists(zone, cpu, frame, order)
    number = COLD if cold else HOT
    put_on_single(zone, cpu, number, frame)
    column = unsigned(_count_column(number))
    if zone.per_cpu[unsigned(cpu), column] >= _high(zone, number):
        drain_single(zone, cpu, number, _batch(zone, number))
    return Status.OK
