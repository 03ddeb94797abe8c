"""Per-CPU lists of free pages (``pcp``) by Linux 6.18's rules: most requests never see the zone.

A CPU has a list for each order 0 to 3 and migratetype, and two for order 9. Requests take a list's head; an empty list
is filled from the zone in bulk, at its tail. Freed blocks go to a head; once the CPU holds too much, it gives a batch
back, list by list from the one just used, each from its tail. Both batches grow while nothing but allocations, or
nothing but frees, happens, and so does what a CPU may hold. Rules: ``mm/page_alloc.c``: ``rmqueue_pcplist``,
``nr_pcp_alloc``, ``rmqueue_bulk``, ``free_frozen_page_commit``, ``nr_pcp_high``, ``nr_pcp_free``,
``free_pcppages_bulk``, ``decay_pcp_high``, ``drain_pages_zone``.
"""

from __future__ import annotations

import numpy as np

from vckernels.buddy import (
    ALLOCATED,
    INSIDE,
    PAGEBLOCK_ORDER,
    PER_CPU,
    Migratetype,
    allocated_order,
    give_back,
    merge_and_insert,
)
from vckernels.capture import completes, take_over
from vckernels.causes import Cause, Status
from vckernels.claim import MODE_NORMAL, allocate
from vckernels.framelist import push_head, push_tail, unlink
from vckernels.jit import kernel, unsigned
from vckernels.watermark import Limit, ZoneIndex, boost_watermark, wmark_frames, zone_watermark_ok
from vckernels.zone import LISTS_PER_CPU, PerCpu, Zone, per_cpu_sentinel

COSTLY_ORDER = 3
"""The largest order with lists of its own for each migratetype (``PAGE_ALLOC_COSTLY_ORDER``)."""
LOW_ORDER_LISTS = 12
BATCH_SCALE_MAX = 5
"""Batches grow by as many bits at most (``CONFIG_PCP_BATCH_SCALE_MAX``)."""


@kernel(inline=True)
def has_lists(order: int) -> bool:
    """Return whether per-CPU lists hold blocks of an order. Rule: ``pcp_allowed_order``."""
    return order <= COSTLY_ORDER or order == PAGEBLOCK_ORDER


@kernel(inline=True)
def list_number(order: int, migratetype: int) -> int:
    """Return which of a CPU's lists holds blocks of an order and type. Rule: ``order_to_pindex``."""
    if order > COSTLY_ORDER:
        return LOW_ORDER_LISTS + (1 if migratetype == Migratetype.MOVABLE else 0)
    return 3 * order + migratetype


@kernel(inline=True)
def list_order(number: int) -> int:
    """Return the order of the blocks on one of a CPU's lists. Rule: ``pindex_to_order``."""
    return PAGEBLOCK_ORDER if number >= LOW_ORDER_LISTS else number // 3


@kernel(inline=True)
def _clamped_high(zone: Zone, cpu: int) -> int:
    """Return what a CPU may hold, brought within its bounds. Mutates ``HIGH``."""
    high = min(max(zone.per_cpu[cpu, PerCpu.HIGH], zone.limits[Limit.HIGH_MIN]), zone.limits[Limit.HIGH_MAX])
    zone.per_cpu[cpu, PerCpu.HIGH] = high
    return high


@kernel
def refill_blocks(zone: Zone, cpu: int, order: int) -> int:
    """Return how many blocks a refill asks for. Rule: ``nr_pcp_alloc``. Mutates ``HIGH`` and ``ALLOC_FACTOR``."""
    limits = zone.limits
    own = zone.per_cpu[cpu]
    least = limits[Limit.BATCH]
    high = _clamped_high(zone, cpu)
    if high < least:
        return 1
    batch = least if order > 0 else least << own[PerCpu.ALLOC_FACTOR]
    if limits[Limit.HIGH_MIN] != limits[Limit.HIGH_MAX] and limits[Limit.BELOW_HIGH] == 0:
        high = min(high + batch, limits[Limit.HIGH_MAX])
        own[PerCpu.HIGH] = high
    if order == 0:
        most = max(high - own[PerCpu.COUNT] - least, least)
        if batch <= most and own[PerCpu.ALLOC_FACTOR] < BATCH_SCALE_MAX:
            own[PerCpu.ALLOC_FACTOR] += 1
        batch = min(batch, most)
    if batch > 1:
        batch = max(batch >> order, 2)
    return batch


@kernel(inline=True)
def claims_tried(zone: Zone) -> int:
    """Return how often a request has tried to claim a pageblock, each of which boosts the watermarks."""
    return zone.buddy.counters[Cause.CLAIM_PAGEBLOCK] + zone.buddy.counters[Cause.CLAIM_REFUSED]


@kernel
def refill(zone: Zone, cpu: int, order: int, migratetype: int, flags: int) -> int:
    """Fill a per-CPU list's tail from the free lists; return how many blocks came. Rule: ``rmqueue_bulk``."""
    buddy = zone.buddy
    wanted = refill_blocks(zone, cpu, order)
    sentinel = per_cpu_sentinel(buddy, cpu, list_number(order, migratetype))
    claims = claims_tried(zone)
    mode = MODE_NORMAL
    blocks = 0
    while blocks < wanted:
        frame, mode = allocate(buddy, order, migratetype, flags, mode)
        if frame < 0:
            buddy.counters[Cause.ALLOCATION_FAILURE] -= 1  # No request has failed yet.
            break
        push_tail(buddy.next, buddy.prev, sentinel, frame)
        buddy.state[unsigned(frame)] = PER_CPU - 4 * order - migratetype
        blocks += 1
    zone.per_cpu[cpu, PerCpu.COUNT] += blocks << order
    zone.limits[Limit.FREE] -= blocks << order
    buddy.counters[Cause.PER_CPU_REFILL] += 1
    boost_watermark(zone.limits, claims_tried(zone) - claims)
    return blocks


@kernel(inline=True)
def pop_listed(zone: Zone, cpu: int, order: int, migratetype: int) -> int:
    """Allocate the head of a per-CPU list; return the frame, or -1 with nothing changed if the list is empty."""
    buddy = zone.buddy
    sentinel = per_cpu_sentinel(buddy, cpu, list_number(order, migratetype))
    frame = np.int64(buddy.next[unsigned(sentinel)])
    if frame == sentinel:
        return -1
    unlink(buddy.next, buddy.prev, frame)
    buddy.state[unsigned(frame)] = ALLOCATED + 16 * migratetype + order
    zone.per_cpu[unsigned(cpu), unsigned(PerCpu.FREE_COUNT)] >>= 1
    zone.per_cpu[unsigned(cpu), unsigned(PerCpu.COUNT)] -= 1 << order
    buddy.counters[Cause.PER_CPU_ALLOCATION] += 1
    return frame


@kernel(inline=True)
def pop(zone: Zone, cpu: int, order: int, migratetype: int, flags: int) -> int:
    """Allocate the head of a per-CPU list, filled first if it is empty; return the frame, or -1 if it stays empty.

    Rule: ``rmqueue_pcplist``. The order is one that has lists; the type one of the three that requests have.
    """
    frame = pop_listed(zone, cpu, order, migratetype)
    if frame < 0:
        if refill(zone, cpu, order, migratetype, flags) > 0:
            return pop_listed(zone, cpu, order, migratetype)
        zone.per_cpu[unsigned(cpu), unsigned(PerCpu.FREE_COUNT)] >>= 1
    return frame


@kernel(inline=True)
def _captures(zone: Zone, cpu: int, frame: int, order: int) -> bool:
    """Let whoever compacts on the CPU take over the block that a block, about to be freed, completes; or do nothing."""
    own = zone.per_cpu[unsigned(cpu)]
    wanted = own[PerCpu.CAPTURE_ORDER]
    if wanted == 0 or own[PerCpu.CAPTURED] > 0:
        return False
    if not completes(zone.buddy, frame, order, wanted, own[PerCpu.CAPTURE_TYPE]):
        return False
    own[PerCpu.CAPTURED] = 1 + take_over(zone.buddy, frame, order, wanted, own[PerCpu.CAPTURE_TYPE])
    zone.limits[Limit.FREE] -= 1 << wanted
    return True


@kernel
def drain(zone: Zone, cpu: int, frames: int, number: int) -> int:
    """Give frames of a CPU's lists back, beginning with list ``number``; return how many it were.

    Lists are emptied in turn, each from its tail, until at least ``frames`` are gone or none are left.
    Rule: ``free_pcppages_bulk``.
    """
    buddy = zone.buddy
    left = min(frames, zone.per_cpu[cpu, PerCpu.COUNT])
    given = 0
    blocks = 0
    while left > given:
        sentinel = per_cpu_sentinel(buddy, cpu, number)
        order = list_order(number)
        frame = np.int64(buddy.prev[unsigned(sentinel)])
        while left > given and frame != sentinel:
            unlink(buddy.next, buddy.prev, frame)
            buddy.state[unsigned(frame)] = INSIDE
            if not _captures(zone, cpu, frame, order):
                merge_and_insert(buddy, frame, order)
            given += 1 << order
            blocks += 1
            frame = np.int64(buddy.prev[unsigned(sentinel)])
        number = (number + 1) % LISTS_PER_CPU
    zone.per_cpu[cpu, PerCpu.COUNT] -= given
    zone.limits[Limit.FREE] += given
    buddy.counters[Cause.FREE] += blocks
    buddy.counters[Cause.PER_CPU_DRAIN] += given > 0
    return given


@kernel
def drain_all(zone: Zone, cpu: int) -> int:
    """Give back all that a CPU holds, in batches; return the frames. Rule: ``drain_pages_zone``."""
    given = 0
    while zone.per_cpu[cpu, PerCpu.COUNT] > 0:
        given += drain(zone, cpu, zone.limits[Limit.BATCH] << BATCH_SCALE_MAX, 0)
    return given


@kernel
def decay_high(zone: Zone, cpu: int) -> int:
    """Let a CPU hold an eighth less and give back what is above; return the frames. Rule: ``decay_pcp_high``.

    The kernel does so about once a second.
    """
    own = zone.per_cpu[cpu]
    batch = zone.limits[Limit.BATCH] << BATCH_SCALE_MAX
    if own[PerCpu.HIGH] > zone.limits[Limit.HIGH_MIN]:
        lower = max(own[PerCpu.COUNT] - batch, own[PerCpu.HIGH] - (own[PerCpu.HIGH] >> 3))
        own[PerCpu.HIGH] = max(lower, zone.limits[Limit.HIGH_MIN])
    above = own[PerCpu.COUNT] - own[PerCpu.HIGH]
    return drain(zone, cpu, above, 0) if above > 0 else 0


@kernel
def high_after_free(zone: Zone, cpu: int, free_high: bool) -> int:
    """Return how much a CPU may hold from now on; what it may hold in general tunes itself. Rule: ``nr_pcp_high``."""
    limits = zone.limits
    own = zone.per_cpu[cpu]
    batch = limits[Limit.BATCH]
    least = limits[Limit.HIGH_MIN]
    high = _clamped_high(zone, cpu)
    if high == 0:
        return 0
    if free_high:
        own[PerCpu.HIGH] = max(high - (batch << BATCH_SCALE_MAX), least)
        return 0
    if limits[Limit.RECLAIM_ACTIVE] > 0:
        own[PerCpu.HIGH] = max(high - max(own[PerCpu.FREE_COUNT], batch), least)
        return min(batch << 2, own[PerCpu.HIGH])
    if least == limits[Limit.HIGH_MAX]:
        return high
    if limits[Limit.BELOW_HIGH] > 0:
        own[PerCpu.HIGH] = max(high - max(own[PerCpu.FREE_COUNT], batch), least)
        return max(own[PerCpu.COUNT], least)
    if own[PerCpu.COUNT] >= high:
        needed = own[PerCpu.FREE_COUNT] + batch
        if own[PerCpu.HIGH] < needed:
            own[PerCpu.HIGH] = min(max(needed, least), limits[Limit.HIGH_MAX])
    return high


@kernel
def give_batch_back(zone: Zone, cpu: int, number: int, high: int, free_high: bool) -> None:
    """Give back what a free makes too much, and see whether the zone is above its high watermark again.

    Rules: ``nr_pcp_free``, ``free_frozen_page_commit``.
    """
    own = zone.per_cpu[cpu]
    batch = zone.limits[Limit.BATCH]
    if free_high:
        frames = min(own[PerCpu.COUNT], batch << BATCH_SCALE_MAX)
    elif high < batch:
        frames = np.int64(1)
    elif own[PerCpu.FREE_COUNT] >= high - batch:
        frames = high - batch
    else:
        frames = max(own[PerCpu.FREE_COUNT], batch)
    drain(zone, cpu, frames, number)
    if zone.limits[Limit.BELOW_HIGH] > 0:
        mark = wmark_frames(zone.limits, np.int64(2))
        free = zone.limits[Limit.FREE]
        if zone_watermark_ok(zone.buddy, zone.limits, 0, mark, ZoneIndex.MOVABLE, 0, free):
            zone.limits[Limit.BELOW_HIGH] = 0


@kernel(inline=True)
def put_on_list(zone: Zone, cpu: int, frame: int, order: int, migratetype: int) -> None:
    """Put a freed block on the head of a list of a type below ``HIGHATOMIC``, whatever that makes the CPU hold."""
    buddy = zone.buddy
    own = zone.per_cpu[unsigned(cpu)]
    push_head(buddy.next, buddy.prev, per_cpu_sentinel(buddy, cpu, list_number(order, migratetype)), frame)
    buddy.state[unsigned(frame)] = PER_CPU - 4 * order - migratetype
    buddy.counters[Cause.PER_CPU_FREE] += 1
    own[PerCpu.ALLOC_FACTOR] >>= 1
    own[PerCpu.COUNT] += 1 << order
    if own[PerCpu.FREE_COUNT] < zone.limits[Limit.BATCH] << BATCH_SCALE_MAX:
        own[PerCpu.FREE_COUNT] += 1 << order


@kernel(inline=True)
def put_at_once(zone: Zone, cpu: int, frame: int) -> bool:
    """Put a single frame on a CPU's list if it is allocated as such and nothing else follows; return whether it was.

    Nothing follows where the CPU may hold one more, the zone has frames enough, and the pageblock's type has lists.
    """
    buddy = zone.buddy
    own = zone.per_cpu[unsigned(cpu)]
    limits = zone.limits
    if frame < 0 or frame >= len(buddy.state):
        return False
    migratetype = np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])
    state = np.int64(buddy.state[unsigned(frame)])
    if state < ALLOCATED or state & 15 != 0 or migratetype >= Migratetype.HIGHATOMIC:
        return False
    high = own[PerCpu.HIGH]
    if own[PerCpu.COUNT] + 1 >= high or high < limits[Limit.HIGH_MIN] or high > limits[Limit.HIGH_MAX]:
        return False
    if limits[Limit.RECLAIM_ACTIVE] + limits[Limit.BELOW_HIGH] > 0:
        return False
    own[PerCpu.PREVIOUS_WAS_HIGH_ORDER] = 0
    put_on_list(zone, cpu, frame, np.int64(0), migratetype)
    return True


@kernel
def push(zone: Zone, cpu: int, frame: int, order: int, migratetype: int) -> None:
    """Put a freed block on the head of a list of a type below ``HIGHATOMIC``; give a batch back if it is too much.

    Rule: ``free_frozen_page_commit``.
    """
    own = zone.per_cpu[cpu]
    limits = zone.limits
    batch = limits[Limit.BATCH]
    free_high = False
    if 0 < order <= COSTLY_ORDER:
        free_high = own[PerCpu.FREE_COUNT] >= batch + limits[Limit.HIGH_MIN] // 2
        free_high = free_high and own[PerCpu.PREVIOUS_WAS_HIGH_ORDER] > 0
        many = limits[Limit.FREE_HIGH_BATCH] == 0 or own[PerCpu.COUNT] + (1 << order) >= batch
        free_high = free_high and many
    own[PerCpu.PREVIOUS_WAS_HIGH_ORDER] = 1 if 0 < order <= COSTLY_ORDER else 0
    put_on_list(zone, cpu, frame, order, migratetype)
    high = high_after_free(zone, cpu, free_high)
    if own[PerCpu.COUNT] >= high:
        give_batch_back(zone, cpu, list_number(order, migratetype), high, free_high)


@kernel(inline=True)
def free_block(zone: Zone, cpu: int, frame: int, order: int) -> int:
    """Free a block through the CPU's lists, or past them; return a status. Rule: ``__free_frozen_pages``.

    Refused and without effect, as :func:`vckernels.buddy.give_back` does: what is not an allocated block of this order.
    """
    buddy = zone.buddy
    if frame < 0 or frame >= len(buddy.state) or order < 0:
        return Status.OUT_OF_RANGE
    state = np.int64(buddy.state[unsigned(frame)])
    migratetype = np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])
    if not has_lists(order) or state < ALLOCATED or state & 15 != order or migratetype == Migratetype.ISOLATE:
        return free_past_lists(zone, cpu, frame, order)
    push(zone, cpu, frame, order, Migratetype.MOVABLE if migratetype == Migratetype.HIGHATOMIC else migratetype)
    return Status.OK


@kernel
def free_past_lists(zone: Zone, cpu: int, frame: int, order: int) -> int:
    """Free a block straight to the zone's free lists; return a status."""
    if len(zone.per_cpu) > 0 and allocated_order(zone.buddy, frame) == order and _captures(zone, cpu, frame, order):
        zone.buddy.counters[Cause.FREE] += 1
        zone.limits[Limit.FREE] += 1 << order
        return np.int64(Status.OK)
    status = np.int64(give_back(zone.buddy, frame, order))
    if status == Status.OK:
        zone.limits[Limit.FREE] += 1 << order
    return status
