"""Compaction of one zone: pages move from its start to free blocks near its end, until a request can be served.

A run is begun for a direct request, for kcompactd, or for a whole zone, and then advanced until it is finished. It
pauses where its log of moves is full; who has emptied the log advances it again. Rules: Linux 6.18,
``mm/compaction.c``: ``compact_zone``, ``__compact_finished``, ``compaction_suitable``, ``try_to_compact_pages``,
``kcompactd_do_work``.

Where CPUs keep lists, what is freed lies on those of the CPU at work until the scanner leaves a range of the request's
order, when they are drained; elsewhere it merges at once. Nobody contends for locks.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vckernels.allocflags import WMARK_MASK
from vckernels.buddy import (
    ORDERS,
    PAGEBLOCK_FRAMES,
    TYPES,
    Buddy,
    Migratetype,
    free_frames,
    usable_frames,
)
from vckernels.causes import Cause
from vckernels.claim import fallback_type, may_claim
from vckernels.compactcontrol import (
    CAPTURE_NONE,
    CAPTURE_OFF,
    COSTLY_ORDER,
    WHOLE_ZONE_ORDER,
    Compaction,
    CompactMode,
    RunField,
    ZoneField,
    clear_hints,
    defer,
    is_deferred,
    is_restarting,
    pageblock_start,
    release_held,
    reset_deferral,
    reset_positions,
    scanners_met,
)
from vckernels.freeing import drain_at_work, drain_everywhere
from vckernels.jit import kernel, unsigned
from vckernels.migratescan import isolate_migrate, put_sources_back
from vckernels.migration import BATCH, NO_TARGET, begin_capture, end_capture, migrate, note_capture
from vckernels.movelog import Moves, has_room
from vckernels.pages import Pages
from vckernels.watermark import Limit, zone_watermark_ok

EXTFRAG_THRESHOLD = 500
"""Fragmentation index up to which a failure is put down to want of memory (``sysctl_extfrag_threshold``)."""
PROACTIVE_ORDER = 9
"""Order by which proactive work judges fragmentation (``COMPACTION_HPAGE_ORDER``)."""


class CompactResult(IntEnum):
    """Outcome of a run (``enum compact_result``, as the tracepoints number it)."""

    NOT_SUITABLE_ZONE = 0
    SKIPPED = 1
    """There is too little free memory to move pages to."""
    DEFERRED = 2
    NO_SUITABLE_PAGE = 3
    CONTINUE = 4
    """The run is not finished; advance it again once the log is empty."""
    COMPLETE = 5
    """The whole zone was gone through without success."""
    PARTIAL_SKIPPED = 6
    """The rest of the zone was."""
    CONTENDED = 7
    """The run gave up early."""
    SUCCESS = 8


class CompactPriority(IntEnum):
    """How hard a direct request tries (``enum compact_priority``)."""

    SYNC_FULL = 0
    SYNC_LIGHT = 1
    ASYNC = 2


# Whether to compact


@kernel
def fragmentation_index(buddy: Buddy, order: int) -> int:
    """Return why a request fails in thousandths: 0 for want of memory, 1000 for fragmentation, -1000 if it does not.

    Rule: ``__fragmentation_index`` in ``mm/vmstat.c``.
    """
    blocks = 0
    for low in range(ORDERS):
        for migratetype in range(TYPES):
            blocks += buddy.free_blocks[unsigned(low), unsigned(migratetype)]
    if blocks == 0:
        return 0
    if usable_frames(buddy, order) > 0:
        return -1000
    return 1000 - (1000 + free_frames(buddy) * 1000 // (1 << order)) // blocks


@kernel
def fragmentation_score(buddy: Buddy) -> int:
    """Return the percentage of free frames in blocks too small for a huge page (``extfrag_for_order``)."""
    free = free_frames(buddy)
    if free == 0:
        return 0
    return (free - usable_frames(buddy, PROACTIVE_ORDER)) * 100 // free


@kernel
def has_targets(buddy: Buddy, limits: npt.NDArray[np.int64], order: int, highest_zone: int, free: int) -> bool:
    """Return whether as many frames as said are enough for compaction: the watermark and twice the request.

    The low watermark for requests above order 3, else the min one. Rule: ``__compaction_suitable``.
    """
    mark = limits[Limit.LOW] if order > COSTLY_ORDER else limits[Limit.MIN]
    mark += limits[Limit.BOOST] + (2 << order)
    return zone_watermark_ok(buddy, limits, 0, mark, highest_zone, 0, free)


@kernel
def is_suitable(buddy: Buddy, limits: npt.NDArray[np.int64], order: int, highest_zone: int) -> bool:
    """Return whether compaction is worth a try: enough is free, and failures above order 3 come of fragmentation.

    Rule: ``compaction_suitable``.
    """
    if not has_targets(buddy, limits, order, highest_zone, free_frames(buddy)):
        return False
    if order > COSTLY_ORDER:
        index = fragmentation_index(buddy, order)
        return index < 0 or index > EXTFRAG_THRESHOLD
    return True


@kernel
def judge_request(buddy: Buddy, limits: npt.NDArray[np.int64], order: int, highest_zone: int, flags: int) -> int:
    """Return ``SUCCESS`` if the request can be served as it is, ``SKIPPED`` or ``CONTINUE`` if it is worth a run.

    Rule: ``compaction_suit_allocation_order``.
    """
    mark = limits[unsigned(flags & WMARK_MASK)] + limits[Limit.BOOST]
    if zone_watermark_ok(buddy, limits, order, mark, highest_zone, flags, free_frames(buddy)):
        return np.int64(CompactResult.SUCCESS)
    if not is_suitable(buddy, limits, order, highest_zone):
        return np.int64(CompactResult.SKIPPED)
    return np.int64(CompactResult.CONTINUE)


@kernel(inline=True)
def proactive_low(proactiveness: int) -> int:
    """Return the score at which proactive work ends; it begins above 10 more (``fragmentation_score_wmark``)."""
    return max(100 - proactiveness, 5)


@kernel
def wants_proactive(buddy: Buddy, proactiveness: int, present: int, kswapd_runs: bool) -> bool:
    """Return whether proactive work is to begin. Rule: ``should_proactive_compact_node``, of a node of one zone.

    ``present`` is the number of frames of the node, by which the zone's score is weighted.
    """
    if proactiveness == 0 or kswapd_runs:
        return False
    score = fragmentation_score(buddy) * len(buddy.state) // (present + 1)
    return score > min(proactive_low(proactiveness) + 10, 100)


# A run


@kernel
def _begin(buddy: Buddy, pages: Pages, compaction: Compaction, order: int, mode: int) -> None:
    """Set the scanners where a run with the other fields set begins. Rule: first half of ``compact_zone``."""
    run = compaction.run
    zone = compaction.zone
    run[RunField.ORDER] = order
    run[RunField.MODE] = mode
    run[RunField.SEARCH_ORDER] = order
    run[RunField.FAST_START] = -1
    run[RunField.FAST_FAILURES] = 0
    run[RunField.FINISH_PAGEBLOCK] = 0
    run[RunField.LAST_MIGRATED] = -1
    run[RunField.FREE_HELD] = 0
    run[RunField.MIGRATE_HELD] = 0
    run[RunField.PAGES_HELD] = 0
    if is_restarting(compaction, order):
        clear_hints(buddy, pages, compaction)
    last = pageblock_start(len(buddy.state) - 1)
    if run[RunField.WHOLE_ZONE]:
        run[RunField.MIGRATE_AT] = 0
        run[RunField.FREE_AT] = last
    else:
        mode_field = ZoneField.CACHED_MIGRATE_ASYNC if mode == CompactMode.ASYNC else ZoneField.CACHED_MIGRATE_SYNC
        run[RunField.MIGRATE_AT] = zone[mode_field]
        run[RunField.FREE_AT] = zone[ZoneField.CACHED_FREE]
        if run[RunField.FREE_AT] < 0 or run[RunField.FREE_AT] >= len(buddy.state):
            run[RunField.FREE_AT] = last
            zone[ZoneField.CACHED_FREE] = last
        if run[RunField.MIGRATE_AT] < 0 or run[RunField.MIGRATE_AT] >= len(buddy.state):
            run[RunField.MIGRATE_AT] = 0
            zone[ZoneField.CACHED_MIGRATE_ASYNC] = 0
            zone[ZoneField.CACHED_MIGRATE_SYNC] = 0
        if run[RunField.MIGRATE_AT] <= zone[ZoneField.INIT_MIGRATE]:
            run[RunField.WHOLE_ZONE] = 1
    equal = zone[ZoneField.CACHED_MIGRATE_ASYNC] == zone[ZoneField.CACHED_MIGRATE_SYNC]
    run[RunField.KEEP_EQUAL] = mode == CompactMode.ASYNC and equal


@kernel
def begin_direct(
    buddy: Buddy,
    pages: Pages,
    limits: npt.NDArray[np.int64],
    compaction: Compaction,
    order: int,
    migratetype: int,
    priority: int,
    files: bool,
    highest_zone: int,
    flags: int,
) -> int:
    """Begin a run for a request that compacts itself; return ``CONTINUE``, or why there is none.

    Rule: ``try_to_compact_pages`` and ``compact_zone_order`` for one zone.

    Parameters
    ----------
    buddy, pages, compaction : Buddy, Pages, Compaction
        Mutated.
    limits : int64[LIMITS]
        Read.
    order, migratetype : int
        The request.
    priority : int
        A :class:`CompactPriority`.
    files : bool
        Whether the request may enter file systems.
    highest_zone, flags : int
        As :func:`~vckernels.watermark.zone_watermark_ok` takes them.
    """
    run = compaction.run
    full = priority == CompactPriority.SYNC_FULL
    if not full and is_deferred(buddy, compaction, order):
        return np.int64(CompactResult.DEFERRED)
    verdict = judge_request(buddy, limits, order, highest_zone, flags)
    run[RunField.CAPTURED] = CAPTURE_NONE
    if verdict != CompactResult.CONTINUE:
        return verdict
    run[RunField.MIGRATETYPE] = migratetype
    run[RunField.DIRECT] = 1
    run[RunField.PROACTIVE] = 0
    run[RunField.IGNORE_HINTS] = full
    run[RunField.ANY_TARGET] = full
    run[RunField.WHOLE_ZONE] = full
    run[RunField.FILES] = files
    run[RunField.ALLOC_FLAGS] = flags
    run[RunField.HIGHEST_ZONE] = highest_zone
    mode = CompactMode.ASYNC if priority == CompactPriority.ASYNC else CompactMode.SYNC_LIGHT
    _begin(buddy, pages, compaction, order, np.int64(mode))
    return np.int64(CompactResult.CONTINUE)


@kernel
def end_direct(compaction: Compaction, order: int, priority: int, result: int) -> int:
    """Draw the consequences of a direct run's result for later ones; return the result, ``SUCCESS`` if it captured."""
    run = compaction.run
    if run[RunField.CAPTURED] >= 0:
        result = np.int64(CompactResult.SUCCESS)
    if result == CompactResult.SUCCESS:
        reset_deferral(compaction, order, False)
    elif priority != CompactPriority.ASYNC:
        if result == CompactResult.COMPLETE or result == CompactResult.PARTIAL_SKIPPED:
            defer(compaction, order)
    return result


@kernel
def begin_background(
    buddy: Buddy,
    pages: Pages,
    limits: npt.NDArray[np.int64],
    compaction: Compaction,
    order: int,
    highest_zone: int,
    flags: int,
) -> int:
    """Begin kcompactd's run for an order that somebody wanted; return as :func:`begin_direct` does.

    Rule: ``kcompactd_do_work`` for one zone.
    """
    run = compaction.run
    if is_deferred(buddy, compaction, order):
        return np.int64(CompactResult.DEFERRED)
    verdict = judge_request(buddy, limits, order, highest_zone, flags)
    if verdict != CompactResult.CONTINUE:
        return verdict
    run[RunField.MIGRATETYPE] = Migratetype.UNMOVABLE
    run[RunField.DIRECT] = 0
    run[RunField.PROACTIVE] = 0
    run[RunField.IGNORE_HINTS] = 0
    run[RunField.ANY_TARGET] = 0
    run[RunField.WHOLE_ZONE] = 0
    run[RunField.FILES] = 1
    run[RunField.CAPTURED] = CAPTURE_OFF
    run[RunField.ALLOC_FLAGS] = flags
    run[RunField.HIGHEST_ZONE] = highest_zone
    _begin(buddy, pages, compaction, order, np.int64(CompactMode.SYNC_LIGHT))
    return np.int64(CompactResult.CONTINUE)


@kernel
def end_background(buddy: Buddy, pages: Pages, compaction: Compaction, order: int, result: int) -> None:
    """Draw the consequences of kcompactd's result: after a failure all CPUs give back what they keep."""
    if result == CompactResult.SUCCESS:
        reset_deferral(compaction, order, False)
    elif result == CompactResult.COMPLETE or result == CompactResult.PARTIAL_SKIPPED:
        drain_everywhere(buddy, pages)
        defer(compaction, order)


@kernel
def begin_whole_zone(buddy: Buddy, pages: Pages, compaction: Compaction, proactiveness: int) -> None:
    """Begin a run for no request. Rule: ``compact_node``.

    Parameters
    ----------
    buddy, pages, compaction : Buddy, Pages, Compaction
        Mutated.
    proactiveness : int
        1 to 100: proactive work, until the zone's score is low enough. 0: the administrator wants all that can be done.
    """
    run = compaction.run
    run[RunField.MIGRATETYPE] = Migratetype.UNMOVABLE
    run[RunField.DIRECT] = 0
    run[RunField.PROACTIVE] = proactiveness > 0
    run[RunField.PROACTIVENESS] = proactiveness
    run[RunField.KSWAPD_RUNS] = 0
    run[RunField.IGNORE_HINTS] = 1
    run[RunField.ANY_TARGET] = 0
    run[RunField.WHOLE_ZONE] = 1
    run[RunField.FILES] = 1
    run[RunField.CAPTURED] = CAPTURE_OFF
    mode = CompactMode.SYNC_LIGHT if proactiveness > 0 else CompactMode.SYNC
    _begin(buddy, pages, compaction, np.int64(WHOLE_ZONE_ORDER), np.int64(mode))


@kernel
def check_finished(buddy: Buddy, compaction: Compaction) -> int:
    """Return whether a run is finished: ``CONTINUE``, or its result. Rule: ``__compact_finished``.

    Mutates the positions of the zone where the scanners have met.
    """
    run = compaction.run
    if scanners_met(compaction):
        reset_positions(buddy, compaction)
        if run[RunField.DIRECT]:
            compaction.zone[ZoneField.FLUSH_HINTS] = 1
        if run[RunField.WHOLE_ZONE]:
            return np.int64(CompactResult.COMPLETE)
        return np.int64(CompactResult.PARTIAL_SKIPPED)
    if run[RunField.PROACTIVE]:
        if run[RunField.KSWAPD_RUNS]:
            return np.int64(CompactResult.PARTIAL_SKIPPED)
        if fragmentation_score(buddy) > proactive_low(run[RunField.PROACTIVENESS]):
            return np.int64(CompactResult.CONTINUE)
        return np.int64(CompactResult.SUCCESS)
    if run[RunField.ORDER] == WHOLE_ZONE_ORDER or run[RunField.MIGRATE_AT] & (PAGEBLOCK_FRAMES - 1):
        return np.int64(CompactResult.CONTINUE)
    migratetype = run[RunField.MIGRATETYPE]
    for order in range(run[RunField.ORDER], ORDERS):
        if buddy.free_blocks[unsigned(order), unsigned(migratetype)] > 0:
            return np.int64(CompactResult.SUCCESS)
        if may_claim(order, migratetype) and fallback_type(buddy, order, migratetype) >= 0:
            return np.int64(CompactResult.SUCCESS)
    return np.int64(CompactResult.CONTINUE)


@kernel
def _end(buddy: Buddy, pages: Pages, compaction: Compaction) -> None:
    """Give held blocks back and let the free scanner restart no lower than the highest of them."""
    highest = release_held(buddy, pages, compaction)
    if highest >= 0:
        zone = compaction.zone
        zone[ZoneField.CACHED_FREE] = max(zone[ZoneField.CACHED_FREE], pageblock_start(highest))


@kernel
def _go_on(buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], compaction: Compaction, moves: Moves) -> int:
    """Go on with a run (:func:`advance`). Rule: second half of ``compact_zone``."""
    run = compaction.run
    zone = compaction.zone
    while True:
        result = check_finished(buddy, compaction)
        if result != CompactResult.CONTINUE:
            break
        if not has_room(moves, 2 * BATCH):
            return np.int64(CompactResult.CONTINUE)
        last = run[RunField.LAST_MIGRATED]
        again = last >= 0 and pageblock_start(last) == pageblock_start(run[RunField.MIGRATE_AT])
        run[RunField.FINISH_PAGEBLOCK] = again
        found = isolate_migrate(buddy, pages, compaction)
        while found:
            run[RunField.KEEP_EQUAL] = 0
            run[RunField.LAST_MIGRATED] = pageblock_start(run[RunField.MIGRATE_AT] - 1)
            left = migrate(buddy, pages, limits, compaction, moves)
            if left == 0:
                break
            buddy.counters[Cause.MIGRATION_FAILURE] += put_sources_back(buddy, pages, compaction)
            if left == NO_TARGET and not scanners_met(compaction):
                _end(buddy, pages, compaction)
                return np.int64(CompactResult.CONTENDED)
            # The rest of a pageblock in which something failed is taken at once, so that it gets a hint.
            inside = run[RunField.MIGRATE_AT] & (PAGEBLOCK_FRAMES - 1) != 0
            if not inside or run[RunField.IGNORE_HINTS] or run[RunField.FINISH_PAGEBLOCK]:
                break
            if run[RunField.MODE] == CompactMode.SYNC:
                break
            run[RunField.FINISH_PAGEBLOCK] = 1
            if run[RunField.ORDER] == PROACTIVE_ORDER:
                run[RunField.LAST_MIGRATED] = -1
            found = isolate_migrate(buddy, pages, compaction)
        if not found and run[RunField.KEEP_EQUAL]:
            zone[ZoneField.CACHED_MIGRATE_SYNC] = zone[ZoneField.CACHED_MIGRATE_ASYNC]
        if found and run[RunField.CAPTURED] >= 0:
            result = np.int64(CompactResult.SUCCESS)
            break
        order = run[RunField.ORDER]
        if order > 0 and run[RunField.LAST_MIGRATED] >= 0:
            if run[RunField.LAST_MIGRATED] < run[RunField.MIGRATE_AT] & ~((1 << order) - 1):
                drain_at_work(buddy, pages)
                note_capture(pages, compaction)
                run[RunField.LAST_MIGRATED] = -1
    _end(buddy, pages, compaction)
    return result


@kernel
def advance(buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], compaction: Compaction, moves: Moves) -> int:
    """Go on with a run until it is finished or the log is full; return a :class:`CompactResult`.

    Nothing is held once it is finished; free blocks may be while it pauses.

    Parameters
    ----------
    buddy, pages, compaction : Buddy, Pages, Compaction
        Mutated.
    limits : int64[LIMITS]
        Read.
    moves : Moves
        Written.
    """
    begin_capture(pages, compaction)
    result = _go_on(buddy, pages, limits, compaction, moves)
    end_capture(pages, compaction)
    return result
