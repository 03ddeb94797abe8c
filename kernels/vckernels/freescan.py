"""Compaction's free scanner: from the zone's end down it takes free blocks as targets for pages that are moved.

First a fast search looks at a few blocks at the tails of the movable lists and turns each list round so that the next
search sees others; only if it finds nothing are pageblocks walked frame by frame. Rules: Linux 6.18:
``isolate_freepages``, ``isolate_freepages_block`` and ``fast_isolate_freepages`` in ``mm/compaction.c``,
``__isolate_free_page`` in ``mm/page_alloc.c``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import (
    ALLOCATED,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    TYPES,
    Buddy,
    Migratetype,
    free_frames,
    remove,
)
from vckernels.causes import Cause
from vckernels.claim import move_free_blocks
from vckernels.compactcontrol import (
    CLUSTER,
    Compaction,
    CompactMode,
    RunField,
    ZoneField,
    has_blocks,
    hints_allow,
    hold_first,
    hold_last,
    pageblock_end,
    pageblock_start,
    scan_limit,
    take_held,
)
from vckernels.framelist import push_tail, unlink
from vckernels.jit import kernel, unsigned
from vckernels.watermark import Limit, ZoneIndex, zone_watermark_ok

_BEYOND = 1 << 62
"""A frame number that no zone has."""


@kernel
def isolate_block(buddy: Buddy, limits: npt.NDArray[np.int64], compaction: Compaction, frame: int, order: int) -> bool:
    """Take a free block off its list and hold it, if the min watermark allows; return whether it was taken.

    Half a pageblock or more makes its pageblock movable. Rule: ``__isolate_free_page``.
    """
    if buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)] != Migratetype.ISOLATE:
        mark = limits[Limit.MIN] + (1 << order)
        if not zone_watermark_ok(buddy, limits, 0, mark, np.int64(ZoneIndex.DMA), 0, free_frames(buddy)):
            return False
    remove(buddy, frame, order)
    hold_last(buddy, compaction, frame, order)
    if order >= PAGEBLOCK_ORDER - 1:
        for part in range(frame, frame + (1 << order), PAGEBLOCK_FRAMES):
            start = pageblock_start(part)
            whole = start + PAGEBLOCK_FRAMES <= len(buddy.state)
            if whole and buddy.pageblock[unsigned(part >> PAGEBLOCK_ORDER)] < Migratetype.HIGHATOMIC:
                move_free_blocks(buddy, start, np.int64(Migratetype.MOVABLE))
    buddy.counters[Cause.ISOLATED_FREE] += 1 << order
    return True


@kernel
def isolate_in_pageblock(
    buddy: Buddy, limits: npt.NDArray[np.int64], compaction: Compaction, start: int, end: int, stride: int
) -> int:
    """Hold free blocks between two frames of one pageblock until there are enough; return where the walk stopped.

    Rule: ``isolate_freepages_block``, not strict.

    Parameters
    ----------
    buddy, compaction : Buddy, Compaction
        Mutated.
    limits : int64[LIMITS]
        Read.
    start, end : int
        First frame, and the one behind the last.
    stride : int
        Frames from one look to the next where nothing free is met.
    """
    run = compaction.run
    scanned = 0
    frame = start
    while frame < end:
        scanned += 1
        state = np.int64(buddy.state[unsigned(frame)])
        if state >= ALLOCATED:
            # The rest of an allocated block is passed over and counted at once.
            rest = (1 << (state & 15)) - 1
            if frame + rest < end:
                frame += rest
                scanned += rest
        elif state >= 0:
            if not isolate_block(buddy, limits, compaction, frame, state):
                break
            scanned += (1 << state) - 1
            if run[RunField.MIGRATE_HELD] <= run[RunField.FREE_HELD]:
                frame += 1 << state
                break
            frame += (1 << state) - 1
        frame += stride
    buddy.counters[Cause.FREE_SCANNED] += scanned
    return min(frame, end)


@kernel(inline=True)
def is_target(buddy: Buddy, compaction: Compaction, frame: int) -> bool:
    """Return whether pages may move to the pageblock that begins at a frame. Rule: ``suitable_migration_target``."""
    run = compaction.run
    state = np.int64(buddy.state[unsigned(frame)])
    least = run[RunField.ORDER] if run[RunField.ORDER] > 0 else PAGEBLOCK_ORDER
    if least <= state < ALLOCATED:
        return False
    if run[RunField.ANY_TARGET]:
        return True
    return buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)] == Migratetype.MOVABLE


@kernel(inline=True)
def rotate_to_head(buddy: Buddy, order: int, frame: int) -> None:
    """Turn the movable list of an order round until a block on it is its head. Rule: ``move_freelist_head``."""
    sentinel = len(buddy.state) + order * TYPES + Migratetype.MOVABLE
    # The list is a ring: it is its sentinel that moves.
    if buddy.next[unsigned(sentinel)] != frame:
        unlink(buddy.next, buddy.prev, sentinel)
        push_tail(buddy.next, buddy.prev, frame, sentinel)


@kernel(inline=True)
def _next_search_order(compaction: Compaction, order: int) -> int:
    """Return the order to search next, downwards and round, or -1 after the last. Rule: ``next_search_order``."""
    run = compaction.run
    order -= 1
    if order < 0:
        order = run[RunField.ORDER] - 1
    if order == run[RunField.SEARCH_ORDER]:
        run[RunField.SEARCH_ORDER] -= 1
        if run[RunField.SEARCH_ORDER] < 0:
            run[RunField.SEARCH_ORDER] = run[RunField.ORDER] - 1
        return -1
    return order


@kernel
def isolate_around(buddy: Buddy, limits: npt.NDArray[np.int64], compaction: Compaction, frame: int) -> None:
    """Hold more of the pageblock in which a fast search found something. Rule: ``fast_isolate_around``."""
    run = compaction.run
    if run[RunField.FREE_HELD] >= run[RunField.MIGRATE_HELD]:
        return
    if run[RunField.DIRECT] and run[RunField.MODE] == CompactMode.ASYNC:
        return
    end = min(pageblock_end(frame), len(buddy.state))
    if isolate_in_pageblock(buddy, limits, compaction, pageblock_start(frame), end, 1) == end:
        compaction.skip[unsigned(frame >> PAGEBLOCK_ORDER)] = 1


@kernel
def fast_isolate(buddy: Buddy, limits: npt.NDArray[np.int64], compaction: Compaction) -> None:
    """Look for targets at the tails of the movable lists, order after order. Rule: ``fast_isolate_freepages``.

    A block in the top quarter between the scanners is taken at once; one in the top half if no better is met. Mutates
    lists, held blocks, ``FREE_AT`` where nothing was found at the zone's end, ``CACHED_FREE`` and the search's order.
    """
    run = compaction.run
    zone = compaction.zone
    if run[RunField.ORDER] <= 0:
        return
    limit = max(1, scan_limit(compaction) >> 1)
    at_start = run[RunField.FREE_AT] >= zone[ZoneField.INIT_FREE]
    if at_start:
        limit = PAGEBLOCK_FRAMES >> 1
    distance = run[RunField.FREE_AT] - run[RunField.MIGRATE_AT]
    preferred = pageblock_start(run[RunField.FREE_AT] - (distance >> 2))
    least = pageblock_start(run[RunField.FREE_AT] - (distance >> 1))
    if distance < 0:
        # The scanners have passed each other; the kernel's unsigned arithmetic makes both bounds huge.
        preferred = _BEYOND
        least = _BEYOND
    run[RunField.SEARCH_ORDER] = min(run[RunField.ORDER] - 1, run[RunField.SEARCH_ORDER])

    chosen = -1
    highest = -1
    scanned = 0
    order = run[RunField.SEARCH_ORDER]
    while chosen < 0 and order >= 0:
        if not has_blocks(buddy, order):
            order = _next_search_order(compaction, order)
            continue
        looked_at = 0
        candidate = -1
        turned = -1
        frame = np.int64(buddy.prev[unsigned(len(buddy.state) + order * TYPES + Migratetype.MOVABLE)])
        while frame < len(buddy.state):
            looked_at += 1
            scanned += 1
            if frame >= highest:
                highest = pageblock_start(frame)
            if frame >= preferred:
                run[RunField.FAST_FAILURES] = 0
                run[RunField.SEARCH_ORDER] = order
                chosen = frame
                turned = frame
                break
            if frame >= least and frame > candidate:
                candidate = frame
                limit >>= 1
            if looked_at >= limit:
                turned = frame
                break
            frame = np.int64(buddy.prev[unsigned(frame)])
        if chosen < 0 and candidate >= 0:
            chosen = candidate
            turned = candidate
        if turned >= 0:
            rotate_to_head(buddy, order, turned)
        if chosen >= 0:
            if isolate_block(buddy, limits, compaction, chosen, order):
                scanned += (1 << order) - 1
            else:
                order = run[RunField.SEARCH_ORDER] + 1
                chosen = -1
        if run[RunField.FREE_HELD] >= run[RunField.MIGRATE_HELD]:
            break
        if looked_at >= limit:
            limit = max(1, limit >> 1)
        order = _next_search_order(compaction, order)

    if chosen < 0:
        run[RunField.FAST_FAILURES] += 1
        if at_start:
            if highest >= least:
                chosen = highest
                run[RunField.FREE_AT] = highest
            elif run[RunField.DIRECT] and 0 <= least < len(buddy.state):
                if is_target(buddy, compaction, least):
                    chosen = least
                run[RunField.FREE_AT] = least
    if highest >= 0 and highest >= zone[ZoneField.CACHED_FREE]:
        zone[ZoneField.CACHED_FREE] = highest - PAGEBLOCK_FRAMES
    buddy.counters[Cause.FREE_SCANNED] += scanned
    if chosen >= 0:
        isolate_around(buddy, limits, compaction, chosen)


@kernel
def isolate_free(buddy: Buddy, limits: npt.NDArray[np.int64], compaction: Compaction) -> None:
    """Hold free blocks for the pages that wait, until they suffice or the scanners meet. Rule: ``isolate_freepages``.

    Mutates lists, held blocks, skip hints, ``FREE_AT`` and ``CACHED_FREE``.
    """
    run = compaction.run
    fast_isolate(buddy, limits, compaction)
    if run[RunField.FREE_HELD] > 0:
        return
    at = run[RunField.FREE_AT]
    start = pageblock_start(at)
    end = min(start + PAGEBLOCK_FRAMES, len(buddy.state))
    lowest = pageblock_end(run[RunField.MIGRATE_AT])
    stride = CLUSTER if run[RunField.MODE] == CompactMode.ASYNC else 1
    while start >= lowest:
        if is_target(buddy, compaction, start) and hints_allow(compaction, start):
            before = run[RunField.FREE_HELD]
            at = isolate_in_pageblock(buddy, limits, compaction, at, end, stride)
            if at == end:
                compaction.skip[unsigned(start >> PAGEBLOCK_ORDER)] = 1
                if start - PAGEBLOCK_FRAMES < compaction.zone[ZoneField.CACHED_FREE]:
                    compaction.zone[ZoneField.CACHED_FREE] = start - PAGEBLOCK_FRAMES
            if run[RunField.FREE_HELD] >= run[RunField.MIGRATE_HELD]:
                if at >= end:
                    at = start - PAGEBLOCK_FRAMES
                break
            if at < end:
                break
            stride = 1 if run[RunField.FREE_HELD] > before else min(CLUSTER, stride << 1)
        end = start
        start -= PAGEBLOCK_FRAMES
        at = start
    run[RunField.FREE_AT] = at


@kernel
def take_target(buddy: Buddy, limits: npt.NDArray[np.int64], compaction: Compaction, order: int) -> int:
    """Return a held block of an order to move a page to, or -1: larger ones are split, upper halves held first.

    Scans once if nothing held is large enough. Rule: ``compaction_alloc``.
    """
    for attempt in range(2):
        for high in range(order, len(compaction.first)):
            frame = take_held(buddy, compaction, high)
            if frame >= 0:
                for half in range(high - 1, order - 1, -1):
                    hold_first(buddy, compaction, frame + (1 << half), half)
                compaction.run[RunField.MIGRATE_HELD] -= 1 << order
                return frame
        if attempt == 0:
            isolate_free(buddy, limits, compaction)
    return -1
