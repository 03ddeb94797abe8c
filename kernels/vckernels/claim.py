"""Which migratetype serves a request: own lists, then claiming, then stealing, by Linux 6.18's rules.

Releases whose rules are others are told by the zone's options and served from :mod:`vckernels.fallback_2_6_24`.

``__rmqueue`` tries the request's own lists; then claims the largest fallback block it may, retyping whole
pageblocks (``__rmqueue_claim``, ``try_to_claim_block``, ``should_try_claim_block``); then steals the smallest
fallback block that fits and leaves its pageblock's type alone (``__rmqueue_steal``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.allocflags import NOFRAGMENT
from vckernels.buddy import (
    ALLOCATED,
    INSIDE,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    PER_CPU,
    TYPES,
    Buddy,
    Migratetype,
    first_block,
    give_back,
    insert_tail,
    list_type,
    remove,
    take,
    take_smallest,
)
from vckernels.causes import Cause, Status
from vckernels.fallback_2_6_24 import take_from_others
from vckernels.jit import kernel, unsigned
from vckernels.rules import Fallback, Option

#: Row = requested migratetype, columns = the types it falls back to, in order (``fallbacks`` in page_alloc.c).
FALLBACKS = np.array(
    [
        [Migratetype.RECLAIMABLE, Migratetype.MOVABLE],
        [Migratetype.RECLAIMABLE, Migratetype.UNMOVABLE],
        [Migratetype.UNMOVABLE, Migratetype.MOVABLE],
    ],
    np.int64,
)

MODE_NORMAL, MODE_CLAIM, MODE_STEAL = 0, 1, 2
"""Where ``__rmqueue`` starts; kept from page to page during one per-CPU refill."""


@kernel(inline=True)
def may_claim(order: int, migratetype: int) -> bool:
    """Return whether a fallback block of this order is worth claiming. Rule: ``should_try_claim_block``."""
    return order >= PAGEBLOCK_ORDER // 2 or migratetype != Migratetype.MOVABLE


@kernel(inline=True)
def fallback_type(buddy: Buddy, order: int, migratetype: int) -> int:
    """Return the first fallback type with a block of this order, or -1. Rule: ``find_suitable_fallback``."""
    for i in range(FALLBACKS.shape[1]):
        fallback = FALLBACKS[migratetype, i]
        if buddy.free_blocks[order, fallback] > 0:
            return fallback
    return -1


@kernel
def _count_pageblock(buddy: Buddy, start: int) -> tuple[int, int]:
    """Return the free frames of a pageblock and the frames allocated as movable."""
    free = 0
    movable = 0
    frame = start
    while frame < start + PAGEBLOCK_FRAMES:
        state = np.int64(buddy.state[frame])
        if state < 0:
            frame += 1
        elif state < ALLOCATED:
            free += 1 << state
            frame += 1 << state
        else:
            order = state & 15
            if (state - ALLOCATED) >> 4 == Migratetype.MOVABLE:
                movable += 1 << order
            frame += 1 << order
    return free, movable


@kernel
def move_free_blocks(buddy: Buddy, start: int, migratetype: int) -> int:
    """Move a pageblock's free blocks to the tails of another type's lists and retype it; return the frames."""
    moved = 0
    frame = start
    while frame < start + PAGEBLOCK_FRAMES:
        state = np.int64(buddy.state[frame])
        if state < 0:
            frame += 1
        elif state < ALLOCATED:
            remove(buddy, frame, state)
            insert_tail(buddy, frame, state, migratetype)
            moved += 1 << state
            frame += 1 << state
        else:
            frame += 1 << (state & 15)
    buddy.pageblock[start >> PAGEBLOCK_ORDER] = migratetype
    return moved


@kernel
def claim_block(buddy: Buddy, high: int, order: int, migratetype: int, fallback: int) -> int:
    """Try to claim the head block of a fallback list; return the allocated frame or -1.

    A block of a pageblock or more changes type whole. A smaller one takes its pageblock along when at least
    half of it is free or alike. Rule: ``try_to_claim_block``.
    """
    frame = first_block(buddy, high, fallback)
    if high >= PAGEBLOCK_ORDER:
        remove(buddy, frame, high)
        for part in range(frame, frame + (1 << high), PAGEBLOCK_FRAMES):
            buddy.pageblock[part >> PAGEBLOCK_ORDER] = migratetype
        buddy.counters[Cause.CLAIM_BLOCK] += 1
        # The block is put back on the new type's list for an instant so that one function splits all blocks.
        insert_tail(buddy, frame, high, migratetype)
        return take(buddy, frame, high, order, migratetype, migratetype)
    start = frame & ~(PAGEBLOCK_FRAMES - 1)
    if start + PAGEBLOCK_FRAMES > len(buddy.state):
        return -1
    free, movable = _count_pageblock(buddy, start)
    alike = 0
    if migratetype == Migratetype.MOVABLE:
        alike = movable
    elif fallback == Migratetype.MOVABLE:
        alike = PAGEBLOCK_FRAMES - free - movable
    if free + alike < PAGEBLOCK_FRAMES // 2:
        buddy.counters[Cause.CLAIM_REFUSED] += 1
        return -1
    buddy.counters[Cause.CLAIM_PAGEBLOCK] += 1
    buddy.counters[Cause.CLAIM_MOVED_FRAMES] += move_free_blocks(buddy, start, migratetype)
    return take_smallest(buddy, order, migratetype)


@kernel
def claim(buddy: Buddy, order: int, migratetype: int, flags: int) -> int:
    """Allocate by claiming, largest fallback block first; return the frame or -1. Rule: ``__rmqueue_claim``."""
    lowest = order
    if flags & NOFRAGMENT and order < PAGEBLOCK_ORDER:
        lowest = PAGEBLOCK_ORDER
    for high in range(MAX_ORDER, lowest - 1, -1):
        if not may_claim(high, migratetype):
            break
        fallback = fallback_type(buddy, high, migratetype)
        if fallback >= 0:
            frame = claim_block(buddy, high, order, migratetype, fallback)
            if frame >= 0:
                return frame
    return -1


@kernel
def steal(buddy: Buddy, order: int, migratetype: int) -> int:
    """Allocate the smallest fallback block that fits, leaving types alone. Rule: ``__rmqueue_steal``."""
    for high in range(order, ORDERS):
        fallback = fallback_type(buddy, high, migratetype)
        if fallback >= 0:
            frame = first_block(buddy, high, fallback)
            buddy.counters[Cause.STEAL] += 1
            return take(buddy, frame, high, order, fallback, migratetype)
    return -1


@kernel(inline=True)
def allocate(buddy: Buddy, order: int, migratetype: int, flags: int, mode: int) -> tuple[int, int]:
    """Allocate one block; return its first frame and the mode to go on with. Rule: ``__rmqueue``.

    Parameters
    ----------
    buddy : Buddy
        Mutated, unless the frame returned is -1: no block could serve the request.
    order, migratetype : int
        The request. Types above 2 have no fallbacks: only their own lists serve them. To a release without migratetypes
        the type is nothing but what an allocated block was asked for.
    flags : int
        ``NOFRAGMENT`` or 0.
    mode : int
        Where to start. A request, or a refill of many pages, begins with ``MODE_NORMAL``.
    """
    asked = migratetype
    if not buddy.options[Option.GROUPED]:
        migratetype = np.int64(Migratetype.UNMOVABLE)
    if mode == MODE_NORMAL or migratetype >= len(FALLBACKS):
        frame = take_smallest(buddy, order, migratetype)
        if frame >= 0:
            if asked != migratetype:
                # The lists know no types; what becomes of the block depends on what it was asked for.
                buddy.state[unsigned(frame)] = ALLOCATED + 16 * asked + order
            return frame, MODE_NORMAL
    frame = np.int64(-1)
    if migratetype < len(FALLBACKS):
        rule = buddy.options[Option.FALLBACK]
        if rule == Fallback.CLAIM_OR_STEAL:
            if mode <= MODE_CLAIM:
                frame = claim(buddy, order, migratetype, flags)
                mode = MODE_NORMAL if frame >= 0 else mode
            if frame < 0 and not flags & NOFRAGMENT:
                frame = steal(buddy, order, migratetype)
                mode = MODE_STEAL if frame >= 0 else mode
        elif rule == Fallback.MOVE_LARGEST:
            frame = take_from_others(buddy, order, migratetype)
            mode = MODE_NORMAL
    buddy.counters[Cause.ALLOCATION_FAILURE] += frame < 0
    return frame, mode


@kernel
def allocate_many(
    buddy: Buddy,
    orders: npt.NDArray[np.int8],
    migratetypes: npt.NDArray[np.int8],
    frames: npt.NDArray[np.int64],
) -> int:
    """Allocate one block for each request, each on its own; return how many succeeded.

    Parameters
    ----------
    buddy : Buddy
        Mutated.
    orders, migratetypes : int8[n]
        Read.
    frames : int64[n]
        Written: first frames, -1 where there was no block (or the request has no sense).
    """
    served = 0
    for i in range(len(orders)):
        order = np.int64(orders[i])
        migratetype = np.int64(migratetypes[i])
        frames[i] = -1
        if 0 <= order <= MAX_ORDER and 0 <= migratetype < len(FALLBACKS):
            frames[i], _ = allocate(buddy, order, migratetype, 0, MODE_NORMAL)
            served += frames[i] >= 0
    return served


@kernel
def allocate_one(buddy: Buddy, order: int, migratetype: int) -> int:
    """Allocate one block; return its first frame, or -1 where there is none (or the request has no sense)."""
    if order < 0 or order > MAX_ORDER or migratetype < 0 or migratetype >= len(FALLBACKS):
        return -1
    frame, _ = allocate(buddy, order, migratetype, 0, MODE_NORMAL)
    return frame


@kernel
def allocate_all(buddy: Buddy, order: int, migratetype: int, frames: npt.NDArray[np.int64]) -> int:
    """Fill ``frames`` (int64[n], written) with blocks of one order, or allocate none; return a status.

    The blocks come one by one, the mode kept from one to the next as in a bulk allocation.
    """
    if order < 0 or order > MAX_ORDER or migratetype < 0 or migratetype >= len(FALLBACKS):
        return Status.OUT_OF_RANGE
    mode = MODE_NORMAL
    for i in range(len(frames)):
        frames[i], mode = allocate(buddy, order, migratetype, 0, mode)
        if frames[i] < 0:
            for j in range(i - 1, -1, -1):
                give_back(buddy, frames[j], order)
            return Status.NO_MEMORY
    return Status.OK


@kernel
def free_one(buddy: Buddy, frame: int, order: int) -> int:
    """Free one block; return a status."""
    return give_back(buddy, frame, order)


@kernel
def free_many(
    buddy: Buddy, frames: npt.NDArray[np.int64], orders: npt.NDArray[np.int8], statuses: npt.NDArray[np.int8]
) -> int:
    """Free blocks in order; write each one's status (int8[n]); return how many were freed."""
    freed = 0
    for i in range(len(frames)):
        status = give_back(buddy, frames[i], np.int64(orders[i]))
        statuses[i] = status
        freed += status == Status.OK
    return freed


@kernel
def run_trace(
    buddy: Buddy,
    requests: npt.NDArray[np.int64],
    migratetypes: npt.NDArray[np.int8],
    slots: npt.NDArray[np.int64],
    slot_orders: npt.NDArray[np.int8],
) -> int:
    """Replay a trace of allocations and frees by slot; return how many requests were served.

    Parameters
    ----------
    buddy : Buddy
        Mutated.
    requests : int64[n]
        ``slot * 16 + order`` allocates into a slot, a negative ``~slot`` frees it (nothing if it is empty).
    migratetypes : int8[n]
        Migratetype of each allocation.
    slots : int64[m]
        Mutated: frame held by each slot, -1 where empty.
    slot_orders : int8[m]
        Mutated: order held by each slot.
    """
    served = 0
    for i in range(len(requests)):
        request = requests[i]
        if request >= 0:
            slot = request >> 4
            order = request & 15
            frame, _ = allocate(buddy, order, np.int64(migratetypes[i]), 0, MODE_NORMAL)
            slots[unsigned(slot)] = frame
            slot_orders[unsigned(slot)] = order
            served += frame >= 0
        else:
            slot = ~request
            if slots[unsigned(slot)] >= 0:
                give_back(buddy, slots[unsigned(slot)], np.int64(slot_orders[unsigned(slot)]))
                slots[unsigned(slot)] = -1
                served += 1
    return served


@kernel
def audit(buddy: Buddy, lengths: npt.NDArray[np.int64]) -> int:
    """Return 0 if every frame is in exactly one state and every list is whole, else the number of a check.

    1: a block overlaps another or leaves the zone; 2: a block is not aligned; 3: a free block lies on another list
    than its pageblocks'; 4: a list's length or links are wrong; 5: two free buddies were not merged. ``lengths``
    (int64[ORDERS, TYPES]) is overwritten with the number of free blocks found in the zone.
    """
    lengths[:] = 0
    follow = buddy.options[Option.LISTS_FOLLOW_PAGEBLOCKS] != 0
    frame = 0
    total = len(buddy.state)
    while frame < total:
        state = np.int64(buddy.state[frame])
        if PER_CPU < state < 0:
            if state == INSIDE:
                return 1
            frame += 1
            continue
        order = (PER_CPU - state) >> 2 if state < 0 else state & 15
        if frame & ((1 << order) - 1):
            return 2
        if frame + (1 << order) > total:
            return 1
        for inside in range(frame + 1, frame + (1 << order)):
            if buddy.state[inside] != INSIDE:
                return 1
        if 0 <= state < ALLOCATED:
            migratetype = list_type(buddy, frame)
            lengths[order, migratetype] += 1
            if follow and order > PAGEBLOCK_ORDER and buddy.pageblock[(frame >> PAGEBLOCK_ORDER) + 1] != migratetype:
                return 3
            other = frame ^ (1 << order)
            if order < PAGEBLOCK_ORDER and other < total and buddy.state[other] == order:
                return 5
        frame += 1 << order
    for order in range(ORDERS):
        for migratetype in range(TYPES):
            sentinel = total + order * TYPES + migratetype
            length = 0
            before = sentinel
            node = np.int64(buddy.next[sentinel])
            while node != sentinel:
                if node >= total or buddy.state[node] != order or buddy.prev[node] != before:
                    return 4
                if list_type(buddy, node) != migratetype:
                    return 3
                before = node
                node = np.int64(buddy.next[node])
                length += 1
                if length > lengths[order, migratetype]:
                    return 4
            if length != lengths[order, migratetype] or length != buddy.free_blocks[order, migratetype]:
                return 4
    return 0
