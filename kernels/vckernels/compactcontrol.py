"""What compaction remembers of a zone, and what one run of it is about.

A zone keeps where the two scanners restart, which pageblocks are not worth a look (skip hints), and how long to put
compaction off after failures. A run has a request, the scanners' positions and the blocks that it holds: free ones by
order, linked through the allocator's ``next``, and pages that it took off reclaim's lists. Rules: Linux 6.18,
``mm/compaction.c``; names of fields there are given in brackets.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import (
    ALLOCATED,
    ISOLATED,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    TYPES,
    Buddy,
    Migratetype,
    merge_and_insert,
)
from vckernels.causes import Cause
from vckernels.freeing import free_at_work
from vckernels.jit import kernel, unsigned
from vckernels.pages import ON_LRU, Pages, flags_of

COSTLY_ORDER = 3
"""Requests above this order are refused rather than retried at any price (``PAGE_ALLOC_COSTLY_ORDER``)."""
CLUSTER = 32
"""Frames that are isolated at once (``COMPACT_CLUSTER_MAX``)."""
MAX_DEFER_SHIFT = 6
"""Compaction is put off 2**6 times at most in a row (``COMPACT_MAX_DEFER_SHIFT``)."""
WHOLE_ZONE_ORDER = -1
"""Order of a run that compacts for no request: proactive, or asked for by the administrator."""


CAPTURE_NONE = -1
CAPTURE_OFF = -2


class CompactMode(IntEnum):
    """How much a run may wait (``enum migrate_mode``)."""

    ASYNC = 0
    SYNC_LIGHT = 1
    SYNC = 2


class ZoneField(IntEnum):
    """Index into what a zone remembers, int64[ZONE_FIELDS]; frames are counted from the zone's first."""

    CACHED_FREE = 0
    """Where the free scanner restarts; -1: not known yet [``compact_cached_free_pfn``]."""
    CACHED_MIGRATE_ASYNC = 1
    """Where the migrate scanner restarts in asynchronous mode [``compact_cached_migrate_pfn[0]``]."""
    CACHED_MIGRATE_SYNC = 2
    """The same in the other modes."""
    INIT_FREE = 3
    """Where the free scanner began after hints were cleared [``compact_init_free_pfn``]."""
    INIT_MIGRATE = 4
    """Where the migrate scanner began then; -1 before that ever happened [``compact_init_migrate_pfn``]."""
    CONSIDERED = 5
    """How often compaction was put off since the last failure [``compact_considered``]."""
    DEFER_SHIFT = 6
    """Log2 of how often it is put off [``compact_defer_shift``]."""
    ORDER_FAILED = 7
    """Lowest order that it is put off for [``compact_order_failed``]."""
    FLUSH_HINTS = 8
    """1 if skip hints are to be cleared at the next chance [``compact_blockskip_flush``]."""


class RunField(IntEnum):
    """Index into what a run is about, int64[RUN_FIELDS]."""

    ORDER = 0
    """Order of the request, ``WHOLE_ZONE_ORDER`` without one."""
    MIGRATETYPE = 1
    MODE = 2
    """A :class:`CompactMode`."""
    DIRECT = 3
    """1 if the requester compacts itself, 0 for background work [``direct_compaction``]."""
    PROACTIVE = 4
    IGNORE_HINTS = 5
    """1: look at pageblocks whatever their skip hint says."""
    ANY_TARGET = 6
    """1: pages may move to pageblocks of any type [``ignore_block_suitable``]."""
    WHOLE_ZONE = 7
    """1: the scanners began at the zone's ends."""
    FILES = 8
    """1: pages of files may be moved; the request may enter file systems [``__GFP_FS``]."""
    MIGRATE_AT = 9
    """The migrate scanner's position [``migrate_pfn``]."""
    FREE_AT = 10
    """The free scanner's position [``free_pfn``]."""
    FAST_START = 11
    """Lowest frame found by the fast search for sources; -1: none, -2: used up [``fast_start_pfn``]."""
    FAST_FAILURES = 12
    """Fast searches in a row that found nothing [``fast_search_fail``]."""
    SEARCH_ORDER = 13
    """Order at which the fast search for targets begins."""
    FINISH_PAGEBLOCK = 14
    """1: take all of the pageblock, not 32 frames at a time."""
    FREE_HELD = 15
    """Free frames held as targets [``nr_freepages``]."""
    MIGRATE_HELD = 16
    """Frames of pages waiting for a target [``nr_migratepages``]."""
    PAGES_HELD = 17
    """How many pages wait."""
    CAPTURED = 18
    """First frame of the block that the request has captured, ``CAPTURE_NONE``, or ``CAPTURE_OFF``."""
    LAST_MIGRATED = 19
    """Start of the pageblock that pages were taken from last, -1: none [``last_migrated_pfn``]."""
    KEEP_EQUAL = 20
    """1 while both migrate positions of the zone are to be the same [``update_cached``]."""
    ALLOC_FLAGS = 21
    """What the request may do (:class:`~vckernels.allocflags.AllocFlag`)."""
    HIGHEST_ZONE = 22
    """The highest zone that it may use."""
    PROACTIVENESS = 23
    """How much fragmentation proactive work puts up with, 100 less this in percent."""
    KSWAPD_RUNS = 24
    """1 while kswapd is at work, for which proactive work makes way."""


ZONE_FIELDS = len(ZoneField)
RUN_FIELDS = len(RunField)


class Compaction(NamedTuple):
    """Compaction of one zone: one byte a pageblock.

    Attributes
    ----------
    skip : uint8[ceil(frames / 512)]
        Skip hint of each pageblock.
    zone : int64[ZONE_FIELDS]
        By :class:`ZoneField`.
    run : int64[RUN_FIELDS]
        By :class:`RunField`.
    first, last : int64[ORDERS]
        Ends of each list of held free blocks, -1 where empty. Nothing is held between runs.
    sources : int64[512]
        First frames of the pages that wait for a target, as many as ``run[PAGES_HELD]``; the last is served first.
    targets : int64[1024]
        Scratch: pairs of old and new frames of a batch.
    pieces : int64[1024]
        Scratch: frames of pages that were split.
    """

    skip: npt.NDArray[np.uint8]
    zone: npt.NDArray[np.int64]
    run: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int64]


def new_compaction(frames: int) -> Compaction:
    """Return compaction's state for a zone that was never compacted."""
    zone = np.zeros(ZONE_FIELDS, np.int64)
    zone[[ZoneField.CACHED_FREE, ZoneField.CACHED_MIGRATE_ASYNC, ZoneField.CACHED_MIGRATE_SYNC]] = -1
    zone[[ZoneField.INIT_FREE, ZoneField.INIT_MIGRATE]] = -1
    run = np.zeros(RUN_FIELDS, np.int64)
    run[RunField.MIGRATETYPE] = Migratetype.MOVABLE
    run[RunField.FILES] = 1
    run[RunField.FAST_START] = -1
    run[RunField.CAPTURED] = CAPTURE_OFF
    run[RunField.LAST_MIGRATED] = -1
    return Compaction(
        skip=np.zeros((frames + PAGEBLOCK_FRAMES - 1) // PAGEBLOCK_FRAMES, np.uint8),
        zone=zone,
        run=run,
        first=np.full(ORDERS, -1, np.int64),
        last=np.full(ORDERS, -1, np.int64),
        sources=np.zeros(PAGEBLOCK_FRAMES, np.int64),
        targets=np.zeros(2 * PAGEBLOCK_FRAMES, np.int64),
        pieces=np.zeros(2 * PAGEBLOCK_FRAMES, np.int64),
    )


@kernel(inline=True)
def pageblock_start(frame: int) -> int:
    """Return the first frame of the pageblock around a frame."""
    return frame & ~(PAGEBLOCK_FRAMES - 1)


@kernel(inline=True)
def pageblock_end(frame: int) -> int:
    """Return the first frame behind the pageblock around a frame."""
    return (frame & ~(PAGEBLOCK_FRAMES - 1)) + PAGEBLOCK_FRAMES


@kernel(inline=True)
def scan_limit(compaction: Compaction) -> int:
    """Return how many free blocks a fast search looks at: fewer after failures. Rule: ``freelist_scan_limit``."""
    return (CLUSTER >> min(63, compaction.run[RunField.FAST_FAILURES])) + 1


@kernel(inline=True)
def hints_allow(compaction: Compaction, frame: int) -> bool:
    """Return whether the pageblock around a frame is worth a look. Rule: ``isolation_suitable``."""
    return compaction.run[RunField.IGNORE_HINTS] != 0 or compaction.skip[unsigned(frame >> PAGEBLOCK_ORDER)] == 0


@kernel(inline=True)
def scanners_met(compaction: Compaction) -> bool:
    """Return whether the free scanner is in the migrate scanner's pageblock or below (``compact_scanners_met``)."""
    free_block = compaction.run[RunField.FREE_AT] >> PAGEBLOCK_ORDER
    return free_block <= compaction.run[RunField.MIGRATE_AT] >> PAGEBLOCK_ORDER


@kernel(inline=True)
def has_blocks(buddy: Buddy, order: int) -> bool:
    """Return whether any list of an order has a block."""
    for migratetype in range(TYPES):
        if buddy.free_blocks[unsigned(order), unsigned(migratetype)] > 0:
            return True
    return False


# Held free blocks


@kernel(inline=True)
def hold_last(buddy: Buddy, compaction: Compaction, frame: int, order: int) -> None:
    """Put a block that is on no list at the end of the held ones. Mutates state, links, ends and the frames held."""
    buddy.state[unsigned(frame)] = ISOLATED
    buddy.next[unsigned(frame)] = -1
    last = compaction.last[unsigned(order)]
    if last < 0:
        compaction.first[unsigned(order)] = frame
    else:
        buddy.next[unsigned(last)] = frame
    compaction.last[unsigned(order)] = frame
    compaction.run[RunField.FREE_HELD] += 1 << order


@kernel(inline=True)
def hold_first(buddy: Buddy, compaction: Compaction, frame: int, order: int) -> None:
    """Put a block that is on no list before the held ones of its order; mutates as :func:`hold_last`."""
    buddy.state[unsigned(frame)] = ISOLATED
    buddy.next[unsigned(frame)] = compaction.first[unsigned(order)]
    if compaction.first[unsigned(order)] < 0:
        compaction.last[unsigned(order)] = frame
    compaction.first[unsigned(order)] = frame
    compaction.run[RunField.FREE_HELD] += 1 << order


@kernel(inline=True)
def take_held(buddy: Buddy, compaction: Compaction, order: int) -> int:
    """Take the first held block of exactly an order; return its frame, or -1. Its state stays ``ISOLATED``."""
    frame = compaction.first[unsigned(order)]
    if frame >= 0:
        compaction.first[unsigned(order)] = np.int64(buddy.next[unsigned(frame)])
        if compaction.first[unsigned(order)] < 0:
            compaction.last[unsigned(order)] = -1
        compaction.run[RunField.FREE_HELD] -= 1 << order
    return frame


@kernel
def release_held(buddy: Buddy, pages: Pages, compaction: Compaction) -> int:
    """Give all held free blocks back; return the highest first frame among them, or -1.

    Low orders first, to the lists of the CPU at work where it keeps any. Rule: ``release_free_list``.
    """
    highest = -1
    for order in range(ORDERS):
        frame = take_held(buddy, compaction, order)
        while frame >= 0:
            highest = max(highest, frame)
            if len(pages.per_cpu) > 0:
                buddy.state[unsigned(frame)] = ALLOCATED + 16 * Migratetype.MOVABLE + order
                free_at_work(buddy, pages, frame, order, False)
            elif order <= PAGEBLOCK_ORDER:
                merge_and_insert(buddy, frame, order)
            else:
                for part in range(frame, frame + (1 << order), PAGEBLOCK_FRAMES):
                    merge_and_insert(buddy, part, PAGEBLOCK_ORDER)
            frame = take_held(buddy, compaction, order)
    return highest


# Positions and skip hints


@kernel(inline=True)
def reset_positions(buddy: Buddy, compaction: Compaction) -> None:
    """Let both scanners restart at the zone's ends. Rule: ``reset_cached_positions``."""
    compaction.zone[ZoneField.CACHED_MIGRATE_ASYNC] = 0
    compaction.zone[ZoneField.CACHED_MIGRATE_SYNC] = 0
    compaction.zone[ZoneField.CACHED_FREE] = pageblock_start(len(buddy.state) - 1)


@kernel
def first_of_block(buddy: Buddy, frame: int) -> int:
    """Return the first frame of the allocated block around a frame, or -1 if it lies in none."""
    for order in range(ORDERS):
        first = frame & ~((1 << order) - 1)
        state = np.int64(buddy.state[unsigned(first)])
        if state >= ALLOCATED and state & 15 >= order:
            return first
    return -1


@kernel(inline=True)
def is_full_pageblock(buddy: Buddy, frame: int) -> bool:
    """Return whether the frame lies in an allocated block of a pageblock or more (``pageblock_skip_persistent``)."""
    for order in range(PAGEBLOCK_ORDER, MAX_ORDER + 1):
        state = np.int64(buddy.state[unsigned(frame & ~((1 << order) - 1))])
        if state >= ALLOCATED and state & 15 >= order:
            return True
    return False


@kernel
def _clear_hint(
    buddy: Buddy, pages: Pages, compaction: Compaction, frame: int, as_source: bool, as_target: bool
) -> bool:
    """Clear a pageblock's hint if every eighth frame shows use for it; return whether a scanner may begin there.

    Rule: ``__reset_isolation_pfn``.
    """
    block = frame >> PAGEBLOCK_ORDER
    if is_full_pageblock(buddy, frame):
        return False
    if as_source and as_target and compaction.skip[unsigned(block)] == 0:
        return True
    if not as_source and as_target and buddy.pageblock[unsigned(block)] != Migratetype.MOVABLE:
        return False
    end = min(pageblock_end(frame), len(buddy.state))
    for sample in range(pageblock_start(frame), end, 1 << COSTLY_ORDER):
        first = first_of_block(buddy, sample)
        in_use = first >= 0 and flags_of(pages, first) & ON_LRU != 0
        state = np.int64(buddy.state[unsigned(sample)])
        if (as_source and in_use) or (as_target and 0 <= state < ALLOCATED):
            compaction.skip[unsigned(block)] = 0
            return True
    return False


@kernel
def clear_hints(buddy: Buddy, pages: Pages, compaction: Compaction) -> None:
    """Clear skip hints if a run has gone through the zone since, and set where the scanners begin.

    Called when compaction restarts after having been put off, and when kswapd goes to sleep.
    Rule: ``__reset_isolation_suitable``.
    """
    zone = compaction.zone
    if zone[ZoneField.FLUSH_HINTS] == 0:
        return
    zone[ZoneField.FLUSH_HINTS] = 0
    low, high = 0, len(buddy.state) - 1
    source, target = high, low
    source_found = False
    target_found = False
    while low < high:
        if _clear_hint(buddy, pages, compaction, low, True, source_found) and low < source:
            source_found = True
            source = low
            zone[ZoneField.INIT_MIGRATE] = source
            zone[ZoneField.CACHED_MIGRATE_ASYNC] = source
            zone[ZoneField.CACHED_MIGRATE_SYNC] = source
        if _clear_hint(buddy, pages, compaction, high, target_found, True) and high > target:
            target_found = True
            target = high
            zone[ZoneField.INIT_FREE] = target
            zone[ZoneField.CACHED_FREE] = target
        low += PAGEBLOCK_FRAMES
        high -= PAGEBLOCK_FRAMES
    if source >= target:
        zone[ZoneField.CACHED_MIGRATE_ASYNC] = low
        zone[ZoneField.CACHED_MIGRATE_SYNC] = low
        zone[ZoneField.CACHED_FREE] = high


# Putting compaction off


@kernel(inline=True)
def defer(compaction: Compaction, order: int) -> None:
    """Put compaction off after a failure, twice as long as before. Rule: ``defer_compaction``."""
    zone = compaction.zone
    zone[ZoneField.CONSIDERED] = 0
    zone[ZoneField.DEFER_SHIFT] = min(zone[ZoneField.DEFER_SHIFT] + 1, MAX_DEFER_SHIFT)
    zone[ZoneField.ORDER_FAILED] = min(zone[ZoneField.ORDER_FAILED], order)


@kernel(inline=True)
def is_deferred(buddy: Buddy, compaction: Compaction, order: int) -> bool:
    """Return whether compaction is put off this time, counting that it was considered (``compaction_deferred``)."""
    zone = compaction.zone
    if order < zone[ZoneField.ORDER_FAILED]:
        return False
    most = 1 << zone[ZoneField.DEFER_SHIFT]
    zone[ZoneField.CONSIDERED] = min(zone[ZoneField.CONSIDERED] + 1, most)
    if zone[ZoneField.CONSIDERED] >= most:
        return False
    buddy.counters[Cause.COMPACT_DEFERRED] += 1
    return True


@kernel(inline=True)
def reset_deferral(compaction: Compaction, order: int, served: bool) -> None:
    """Notice that compaction succeeded, and whether the request was served since. Rule: ``compaction_defer_reset``."""
    zone = compaction.zone
    if served:
        zone[ZoneField.CONSIDERED] = 0
        zone[ZoneField.DEFER_SHIFT] = 0
    zone[ZoneField.ORDER_FAILED] = max(zone[ZoneField.ORDER_FAILED], order + 1)


@kernel(inline=True)
def is_restarting(compaction: Compaction, order: int) -> bool:
    """Return whether compaction is tried again after it was put off longest. Rule: ``compaction_restarting``."""
    zone = compaction.zone
    if order < zone[ZoneField.ORDER_FAILED]:
        return False
    return zone[ZoneField.DEFER_SHIFT] == MAX_DEFER_SHIFT and zone[ZoneField.CONSIDERED] >= 1 << MAX_DEFER_SHIFT
