"""Compaction's migrate scanner: from the zone's start up it takes pages off reclaim's lists, to be moved away.

A fast search may choose a pageblock that has free blocks already; otherwise pageblocks are taken in order. A cluster of
32 frames is isolated at once. Direct asynchronous work gives up an aligned range of the request's order as soon as one
page in it cannot be moved. Rules: Linux 6.18, ``mm/compaction.c``: ``isolate_migratepages``,
``isolate_migratepages_block``, ``fast_find_migrateblock``.
"""

from __future__ import annotations

import numpy as np

from vckernels.buddy import ALLOCATED, PAGEBLOCK_FRAMES, PAGEBLOCK_ORDER, TYPES, Buddy, Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import (
    CLUSTER,
    COSTLY_ORDER,
    WHOLE_ZONE_ORDER,
    Compaction,
    CompactMode,
    RunField,
    ZoneField,
    has_blocks,
    hints_allow,
    is_full_pageblock,
    pageblock_end,
    pageblock_start,
    scan_limit,
)
from vckernels.framelist import push_head, unlink
from vckernels.jit import kernel, unsigned
from vckernels.pages import ANONYMOUS, ON_LRU, Pages, flags_of, hold_page, put_page

FAST_START_UNKNOWN = -1
FAST_START_USED = -2


@kernel(inline=True)
def _remember(compaction: Compaction, frame: int) -> None:
    """Let later runs restart behind the pageblock around a frame. Rule: ``update_cached_migrate``."""
    zone = compaction.zone
    behind = pageblock_end(frame)
    zone[ZoneField.CACHED_MIGRATE_ASYNC] = max(zone[ZoneField.CACHED_MIGRATE_ASYNC], behind)
    if compaction.run[RunField.MODE] != CompactMode.ASYNC:
        zone[ZoneField.CACHED_MIGRATE_SYNC] = max(zone[ZoneField.CACHED_MIGRATE_SYNC], behind)


@kernel
def put_sources_back(buddy: Buddy, pages: Pages, compaction: Compaction) -> int:
    """Put pages that wait at the heads of their lists, the last one taken first; return their frames.

    Rule: ``putback_movable_pages``.
    """
    frames = 0
    for i in range(compaction.run[RunField.PAGES_HELD] - 1, -1, -1):
        source = compaction.sources[unsigned(i)]
        frames += 1 << (np.int64(buddy.state[unsigned(source)]) & 15)
        put_page(buddy, pages, source, False)
    compaction.run[RunField.PAGES_HELD] = 0
    compaction.run[RunField.MIGRATE_HELD] = 0
    return frames


@kernel(inline=True)
def _is_movable(buddy: Buddy, pages: Pages, compaction: Compaction, frame: int) -> bool:
    """Return whether the allocated block that begins at a frame is a page that this run may move."""
    order = np.int64(buddy.state[unsigned(frame)]) & 15
    wanted = compaction.run[RunField.ORDER]
    if order >= PAGEBLOCK_ORDER or (order > 0 and wanted != WHOLE_ZONE_ORDER and order >= wanted):
        return False
    flags = flags_of(pages, frame)
    if flags & ON_LRU == 0:
        return False
    return flags & ANONYMOUS != 0 or compaction.run[RunField.FILES] != 0


@kernel
def isolate_sources(buddy: Buddy, pages: Pages, compaction: Compaction, start: int, end: int) -> None:
    """Take pages of part of a pageblock off their lists. Rule: ``isolate_migratepages_block``.

    Parameters
    ----------
    buddy, pages : Buddy, Pages
        Mutated: reclaim's lists.
    compaction : Compaction
        Mutated: sources, ``MIGRATE_AT``, skip hint, where later runs restart.
    start, end : int
        First frame, and the one behind the last.
    """
    run = compaction.run
    order = run[RunField.ORDER]
    one_range = run[RunField.DIRECT] != 0 and run[RunField.MODE] == CompactMode.ASYNC and order >= 0
    range_end = (start & ~((1 << max(order, 0)) - 1)) + (1 << max(order, 0))
    # Only whoever begins with a pageblock's first frame minds its hint and sets it.
    minds_hint = False
    hint_set = False
    scanned = 0
    isolated = 0
    frame = start
    while frame < end:
        if one_range and frame >= range_end:
            if isolated > 0:
                break
            range_end = (frame & ~((1 << order) - 1)) + (1 << order)
        scanned += 1
        if not minds_hint and frame & (PAGEBLOCK_FRAMES - 1) == 0:
            if not hints_allow(compaction, frame):
                frame = end
                break
            minds_hint = True
        state = np.int64(buddy.state[unsigned(frame)])
        size = 1 << (state & 15) if state >= 0 else 1
        if 0 <= state < ALLOCATED:
            frame += size
            scanned += size - 1
            continue
        if state >= ALLOCATED and _is_movable(buddy, pages, compaction, frame):
            if minds_hint and not hint_set and run[RunField.IGNORE_HINTS] == 0:
                compaction.skip[unsigned(frame >> PAGEBLOCK_ORDER)] = 1
            hint_set = hint_set or minds_hint
            hold_page(buddy, pages, frame)
            compaction.sources[unsigned(run[RunField.PAGES_HELD])] = frame
            run[RunField.PAGES_HELD] += 1
            run[RunField.MIGRATE_HELD] += size
            isolated += size
            scanned += size - 1
            frame += size
            if run[RunField.MIGRATE_HELD] >= CLUSTER and run[RunField.FINISH_PAGEBLOCK] == 0:
                break
            continue
        if state >= ALLOCATED and _is_passed_whole(compaction, state & 15):
            scanned += size - 1
            frame += size - 1
        if one_range:
            if isolated > 0:
                put_sources_back(buddy, pages, compaction)
                isolated = 0
            if frame < range_end:
                frame = range_end - 1
                range_end += 1 << order
        frame += 1
    frame = min(frame, end)
    if frame == end and (isolated == 0 or run[RunField.FINISH_PAGEBLOCK] != 0):
        if minds_hint and not hint_set:
            compaction.skip[unsigned(start >> PAGEBLOCK_ORDER)] = 1
        _remember(compaction, frame)
    buddy.counters[Cause.MIGRATE_SCANNED] += scanned
    buddy.counters[Cause.ISOLATED_SOURCE] += isolated
    run[RunField.MIGRATE_AT] = frame


@kernel(inline=True)
def _is_passed_whole(compaction: Compaction, order: int) -> bool:
    """Return whether a block is passed over at once, being as large as what is wanted or a pageblock.

    Rule: ``skip_isolation_on_order``. Others that cannot be moved are passed frame by frame.
    """
    wanted = compaction.run[RunField.ORDER]
    return order >= PAGEBLOCK_ORDER or (wanted != WHOLE_ZONE_ORDER and order >= wanted)


@kernel(inline=True)
def rotate_to_tail(buddy: Buddy, order: int, frame: int) -> None:
    """Turn the movable list of an order round until a block on it is its tail. Rule: ``move_freelist_tail``."""
    sentinel = len(buddy.state) + order * TYPES + Migratetype.MOVABLE
    if buddy.prev[unsigned(sentinel)] != frame:
        unlink(buddy.next, buddy.prev, sentinel)
        push_head(buddy.next, buddy.prev, frame, sentinel)


@kernel(inline=True)
def _restart(compaction: Compaction) -> int:
    """Go back, once, to the lowest frame that fast searches found; return the position (``reinit_migrate_pfn``)."""
    run = compaction.run
    if run[RunField.FAST_START] >= 0:
        run[RunField.MIGRATE_AT] = run[RunField.FAST_START]
        run[RunField.FAST_START] = FAST_START_USED
    return run[RunField.MIGRATE_AT]


@kernel
def find_pageblock(buddy: Buddy, compaction: Compaction) -> int:
    """Return where to isolate next: the start of a pageblock with free blocks in the first part, or the position.

    Only requests above order 3, direct ones for movable memory only. Mutates the movable lists, ``FAST_START``,
    ``FAST_FAILURES`` and, where nothing is found, ``MIGRATE_AT``. Rule: ``fast_find_migrateblock``.
    """
    run = compaction.run
    at = run[RunField.MIGRATE_AT]
    if run[RunField.IGNORE_HINTS] or run[RunField.FINISH_PAGEBLOCK] or at & (PAGEBLOCK_FRAMES - 1):
        return at
    if run[RunField.ORDER] <= COSTLY_ORDER:
        return at
    if run[RunField.DIRECT] and run[RunField.MIGRATETYPE] != Migratetype.MOVABLE:
        return at
    limit = scan_limit(compaction)
    distance = (run[RunField.FREE_AT] - at) >> 1
    if at != 0:
        distance >>= 2
    below = pageblock_start(at + distance)
    found = -1
    scanned = 0
    for order in range(run[RunField.ORDER] - 1, COSTLY_ORDER - 1, -1):
        if found >= 0 or scanned >= limit:
            break
        if not has_blocks(buddy, order):
            continue
        frame = np.int64(buddy.next[unsigned(len(buddy.state) + order * TYPES + Migratetype.MOVABLE)])
        while frame < len(buddy.state):
            scanned += 1
            if scanned > limit:
                rotate_to_tail(buddy, order, frame)
                break
            if frame < below and compaction.skip[unsigned(frame >> PAGEBLOCK_ORDER)] == 0:
                rotate_to_tail(buddy, order, frame)
                if run[RunField.FAST_START] == FAST_START_UNKNOWN or frame < run[RunField.FAST_START]:
                    run[RunField.FAST_START] = frame
                found = pageblock_start(frame)
                run[RunField.FAST_FAILURES] = 0
                break
            frame = np.int64(buddy.next[unsigned(frame)])
    buddy.counters[Cause.MIGRATE_SCANNED] += scanned
    if found < 0:
        run[RunField.FAST_FAILURES] += 1
        return _restart(compaction)
    return found


@kernel(inline=True)
def is_source(buddy: Buddy, compaction: Compaction, frame: int) -> bool:
    """Return whether pages may be moved out of the pageblock that begins at a frame.

    Rule: ``suitable_migration_source``. Direct asynchronous work keeps to pageblocks of the request's type.
    """
    run = compaction.run
    if is_full_pageblock(buddy, frame):
        return False
    if run[RunField.MODE] != CompactMode.ASYNC or run[RunField.DIRECT] == 0:
        return True
    return buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)] == run[RunField.MIGRATETYPE]


@kernel
def isolate_migrate(buddy: Buddy, pages: Pages, compaction: Compaction) -> bool:
    """Take pages of the first pageblock that is worth it; return whether any wait to be moved now.

    Never goes beyond the free scanner. Mutates as :func:`find_pageblock` and :func:`isolate_sources`.
    Rule: ``isolate_migratepages``.
    """
    run = compaction.run
    at = find_pageblock(buddy, compaction)
    found_fast = at != run[RunField.MIGRATE_AT] and run[RunField.FAST_FAILURES] == 0
    end = pageblock_end(at)
    while end <= run[RunField.FREE_AT]:
        begins = at & (PAGEBLOCK_FRAMES - 1) == 0
        if not begins or found_fast or hints_allow(compaction, at):
            if is_source(buddy, compaction, pageblock_start(at)):
                isolate_sources(buddy, pages, compaction, at, end)
                break
            _remember(compaction, end)
        found_fast = False
        at = end
        run[RunField.MIGRATE_AT] = at
        end += PAGEBLOCK_FRAMES
    return run[RunField.MIGRATE_HELD] > 0
