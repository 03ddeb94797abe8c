"""Conservation: each frame is in exactly one state, and whatever lists or counts frames agrees with that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import PAGEBLOCK_FRAMES, PER_CPU, Migratetype
from vckernels.claim import audit
from vckernels.jit import kernel
from vckernels.pages import Pages, audit_pages
from vckernels.pcplist import list_number
from vckernels.rules import Option, PerCpuRule
from vckernels.watermark import Limit
from vckernels.zone import LISTS_PER_CPU, PerCpu, Zone, per_cpu_sentinel

WRONG_PER_CPU = 6
"""Answer of :func:`audit_zone`: per-CPU lists and the states of frames disagree, or a count is wrong."""
WRONG_LRU = 7
"""Answer of :func:`audit_zone`: reclaim's lists hold what is not allocated, or a count is wrong."""
WRONG_RESERVE = 8
"""Answer of :func:`audit_zone`: another number of pageblocks is reserved for atomic requests than the zone counts."""


@kernel
def _frames_on_lists(zone: Zone, cpu: int) -> int:
    """Return the frames on a CPU's lists, or -1 if one of them is broken or holds a block of another list."""
    buddy = zone.buddy
    two = buddy.options[Option.PER_CPU] == PerCpuRule.HOT_AND_COLD
    total = 0
    for number in range(LISTS_PER_CPU):
        sentinel = per_cpu_sentinel(buddy, cpu, number)
        before = sentinel
        node = np.int64(buddy.next[sentinel])
        frames = 0
        while node != sentinel:
            if node >= len(buddy.state) or buddy.prev[node] != before or buddy.state[node] > PER_CPU:
                return -1
            kind = PER_CPU - np.int64(buddy.state[node])
            if two and (number > 1 or kind > 3):
                return -1
            if not two and list_number(kind >> 2, kind & 3) != number:
                return -1
            frames += 1 if two else 1 << (kind >> 2)
            if frames > len(buddy.state):
                return -1
            before = node
            node = np.int64(buddy.next[node])
        if buddy.prev[sentinel] != before:
            return -1
        if two and number == 1 and frames != zone.per_cpu[cpu, PerCpu.COLD_COUNT]:
            return -1
        total += 0 if two and number == 1 else frames
    if total != zone.per_cpu[cpu, PerCpu.COUNT]:
        return -1
    return total + (zone.per_cpu[cpu, PerCpu.COLD_COUNT] if two else 0)


@kernel
def audit_zone(zone: Zone, pages: Pages, lengths: npt.NDArray[np.int64]) -> int:
    """Return 0 if every frame is in exactly one state and all lists and counts agree, else the number of a check.

    Parameters
    ----------
    zone : Zone
        Read.
    pages : Pages
        Read; without frames, nothing is on reclaim's lists.
    lengths : int64[ORDERS, TYPES]
        Overwritten with the lengths of the free lists.

    Returns
    -------
    int
        1 to 5 as :func:`vckernels.claim.audit`, or one of this module's numbers.
    """
    failed = audit(zone.buddy, lengths)
    if failed:
        return failed
    buddy = zone.buddy
    listed = 0
    for cpu in range(len(zone.per_cpu)):
        frames = _frames_on_lists(zone, cpu)
        if frames < 0:
            return WRONG_PER_CPU
        listed += frames
    two = buddy.options[Option.PER_CPU] == PerCpuRule.HOT_AND_COLD
    held = 0
    for frame in range(len(buddy.state)):
        state = np.int64(buddy.state[frame])
        if state <= PER_CPU:
            held += 1 if two else 1 << ((PER_CPU - state) >> 2)
    if held != listed:
        return WRONG_PER_CPU
    if buddy.options[Option.LISTS_FOLLOW_PAGEBLOCKS]:
        reserved = 0
        for block in range(len(buddy.pageblock)):
            reserved += buddy.pageblock[block] == Migratetype.HIGHATOMIC
        if reserved * PAGEBLOCK_FRAMES != zone.limits[Limit.HIGHATOMIC_RESERVED]:
            return WRONG_RESERVE
    if len(pages.flags) > 0 and audit_pages(buddy, pages) != 0:
        return WRONG_LRU
    return 0
