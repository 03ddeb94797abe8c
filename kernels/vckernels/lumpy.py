"""Reclaim as it was in Linux 2.6.23 and 2.6.24: two lists for all pages, and lumps of frames for high orders.

For an order above 0 every page taken from a list's end takes along what it can of its neighbours: the aligned block of
that order around it. Above order 3 active neighbours come too, nobody's use spares a page, and a request waits for what
it had to write. Rules: ``mm/vmscan.c`` of 2.6.24: ``isolate_lru_pages``, ``shrink_page_list``,
``shrink_inactive_list``, ``shrink_active_list``, ``shrink_zone``, ``try_to_free_pages``, ``balance_pgdat``; 2.6.23 has
the same.

Freed pages are gathered in vectors of fourteen. Of each they go one by one, the last one first, to the cold list of the
CPU that reclaims, where there is one (``__pagevec_release_nonlru``, ``__pagevec_free``).

Anonymous pages are mapped, those of files are not (they are read and written by system calls). Pages have one frame, as
all on the lists had then. Caches of kernel objects are none of it. Waiting for devices is counted and takes no time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy, free_frames
from vckernels.causes import Cause
from vckernels.compactcontrol import COSTLY_ORDER
from vckernels.freeing import VECTOR, release_vector
from vckernels.jit import kernel, unsigned
from vckernels.movelog import STALE, Moves, has_room, log_move
from vckernels.pages import (
    ACCESSED,
    ACTIVE,
    ANONYMOUS,
    ANONYMOUS_FRAMES,
    DIRTY,
    ON_LRU,
    REFERENCED,
    UNEVICTABLE,
    Lru,
    Pages,
    flags_of,
    hold_page,
    oldest_page,
    put_page,
)
from vckernels.referenced import Entries, take_accessed, take_dirty
from vckernels.shrink import detach
from vckernels.watermark import Limit, zone_watermark_ok_2_6_24
from vckernels.workingset import FIRST_PRIORITY, SWAP_CLUSTER, Reclaim, ReclaimField

INACTIVE = int(Lru.INACTIVE_FILE)
ACTIVE_LIST = int(Lru.ACTIVE_FILE)
PAUSED = -1
"""Answer of :func:`advance_lumpy`: the log is full; advance again once it is empty."""
LUMP_PAGES = 1024 + SWAP_CLUSTER
"""Pages that are taken at once at most."""
LUMP_ENTRIES = 3 * LUMP_PAGES
"""Entries of the log for a turn of both lists: all active pages looked at, all inactive ones so and evicted."""


@kernel
def hold_lumps(buddy: Buddy, pages: Pages, reclaim: Reclaim, chosen: int, frames: int, both: bool) -> tuple[int, int]:
    """Take pages from a list's end and, for an order, their neighbours; return how many, and frames scanned.

    Rule: ``isolate_lru_pages``.

    Parameters
    ----------
    buddy, pages, reclaim : Buddy, Pages, Reclaim
        Mutated; ``held`` has the pages in the order in which they were taken.
    chosen : int
        The list.
    frames : int
        How many frames to scan.
    both : bool
        Take neighbours whether active or not; else those like the page at the end.
    """
    order = reclaim.fields[ReclaimField.ORDER]
    active = ACTIVE if chosen == ACTIVE_LIST else 0
    count = 0
    scanned = 0
    while scanned < frames:
        page = oldest_page(buddy, chosen)
        if page < 0:
            break
        hold_page(buddy, pages, page)
        reclaim.held[unsigned(count)] = page
        count += 1
        scanned += 1
        if order == 0:
            continue
        start = page & ~((1 << order) - 1)
        for frame in range(start, min(start + (1 << order), len(buddy.state))):
            flags = flags_of(pages, frame)
            if flags & ON_LRU == 0 or not (both or flags & ACTIVE == active):
                continue
            hold_page(buddy, pages, frame)
            reclaim.held[unsigned(count)] = frame
            count += 1
            scanned += 1
    buddy.counters[Cause.RECLAIM_SCANNED] += scanned
    reclaim.fields[ReclaimField.SCANNED_IN_VAIN] += scanned
    return count, scanned


@kernel(inline=True)
def _forget_use(buddy: Buddy, pages: Pages, entries: Entries, moves: Moves, page: int) -> bool:
    """Return whether a page was used since it was looked at last, and clear that (``page_referenced``).

    CPUs forget the translation of what they had accessed, so that the next access is noted: x86 flushed it until Linux
    3.15 (``ptep_clear_flush_young``). So a page without an accessed bit is in no TLB.
    """
    flags = flags_of(pages, page)
    pages.flags[unsigned(page)] = flags & ~(ACCESSED | REFERENCED)
    noted = take_accessed(entries, pages, page, np.int64(1))
    if noted:
        log_move(buddy, pages, moves, page, np.int64(STALE))
    if flags & ANONYMOUS:
        buddy.counters[Cause.UNMAP_BATCH] += noted or flags & ACCESSED != 0
    return noted or flags & (ACCESSED | REFERENCED) != 0


@kernel
def _write(buddy: Buddy, pages: Pages, page: int) -> None:
    """Write a dirty page. Mutates its flags and counters."""
    flags = flags_of(pages, page)
    pages.flags[unsigned(page)] = flags & ~DIRTY
    if flags & ANONYMOUS:
        buddy.counters[Cause.SWAP_OUT] += 1
    else:
        buddy.counters[Cause.WRITE_BACK] += 1


@kernel
def _free_held(
    buddy: Buddy, pages: Pages, reclaim: Reclaim, entries: Entries, moves: Moves, count: int
) -> tuple[int, int]:
    """Free what can be freed of the held pages; return how many are left in ``held``, and how many were freed.

    Entries of pages that were written are negative, ``~page``; when looked at again, they are clean.
    Rule: ``shrink_page_list``.

    Parameters
    ----------
    buddy, pages, reclaim : Buddy, Pages, Reclaim
        Mutated.
    entries : Entries
        Mutated: bits of the pages.
    moves : Moves
        Written.
    count : int
        Entries of ``held``.
    """
    fields = reclaim.fields
    spares = fields[ReclaimField.ORDER] <= COSTLY_ORDER
    left = 0
    freed = 0
    # What is to be freed waits behind all that can be held.
    gathered = 0
    for i in range(count):
        page = reclaim.held[unsigned(i)]
        unmapped = page < 0
        page = ~page if unmapped else page
        fields[ReclaimField.SCANNED] += 1
        anonymous = flags_of(pages, page) & ANONYMOUS != 0
        fields[ReclaimField.SCANNED] += anonymous
        used = _forget_use(buddy, pages, entries, moves, page)
        flags = flags_of(pages, page)
        full = anonymous and fields[ReclaimField.SWAP_FREE] < 1
        if (spares and used and anonymous) or full or flags & UNEVICTABLE:
            pages.flags[unsigned(page)] = flags | ACTIVE
            buddy.counters[Cause.PAGE_ACTIVATION] += 1
        else:
            # Every page that is unmapped CPUs forget at once (ptep_clear_flush).
            buddy.counters[Cause.UNMAP_BATCH] += anonymous and not unmapped
            if take_dirty(entries, pages, page, np.int64(1)):
                flags |= DIRTY
                pages.flags[unsigned(page)] = flags
            if flags & DIRTY == 0:
                detach(buddy, pages, reclaim, moves, page)
                reclaim.held[unsigned(LUMP_PAGES + gathered)] = page
                gathered += 1
                if gathered == VECTOR:
                    release_vector(buddy, pages, reclaim.held, LUMP_PAGES, gathered, True)
                    gathered = 0
                freed += 1
                continue
            if not (spares and used) and fields[ReclaimField.MAY_WRITE]:
                _write(buddy, pages, page)
                page = ~page
        reclaim.held[unsigned(left)] = page
        left += 1
    release_vector(buddy, pages, reclaim.held, LUMP_PAGES, gathered, True)
    return left, freed


@kernel
def _deactivate_held(buddy: Buddy, pages: Pages, reclaim: Reclaim, count: int) -> None:
    """Make all held pages inactive. Rule: ``clear_active_flags``."""
    for i in range(count):
        page = reclaim.held[unsigned(i)]
        page = ~page if page < 0 else page
        flags = flags_of(pages, page)
        if flags & ACTIVE:
            pages.flags[unsigned(page)] = flags & ~ACTIVE
            buddy.counters[Cause.PAGE_DEACTIVATION] += 1


@kernel
def shrink_inactive_2_6_24(buddy: Buddy, pages: Pages, reclaim: Reclaim, entries: Entries, moves: Moves) -> int:
    """Scan 32 frames at the end of the inactive list, more with neighbours; return the frames freed.

    What was written lies at the list's end afterwards, clean; the rest goes back to the heads of the lists.
    Rule: ``shrink_inactive_list``.

    Parameters
    ----------
    buddy, pages, reclaim : Buddy, Pages, Reclaim
        Mutated.
    entries : Entries
        Mutated: bits of the pages that are looked at.
    moves : Moves
        Written; it has room for ``2 * LUMP_PAGES``.
    """
    fields = reclaim.fields
    costly = fields[ReclaimField.ORDER] > COSTLY_ORDER
    frees = buddy.counters[Cause.FREE]
    count, _ = hold_lumps(buddy, pages, reclaim, INACTIVE, SWAP_CLUSTER, costly)
    _deactivate_held(buddy, pages, reclaim, count)
    left, freed = _free_held(buddy, pages, reclaim, entries, moves, count)
    if freed < count and costly and fields[ReclaimField.KSWAPD] == 0:
        buddy.counters[Cause.CONGESTION_WAIT] += 1
        _deactivate_held(buddy, pages, reclaim, left)
        left, more = _free_held(buddy, pages, reclaim, entries, moves, left)
        freed += more
    for i in range(left):
        page = reclaim.held[unsigned(i)]
        written = page < 0
        put_page(buddy, pages, ~page if written else page, written)
    if buddy.counters[Cause.FREE] != frees:
        # Only what comes to the free lists counts, not what a CPU keeps (free_pages_bulk, free_one_page).
        fields[ReclaimField.SCANNED_IN_VAIN] = 0
        fields[ReclaimField.UNRECLAIMABLE] = 0
    return freed


@kernel
def wants_mapped(pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim) -> bool:
    """Return whether mapped pages become inactive too, rather than page cache alone.

    Rule: ``shrink_active_list``: half the share of mapped memory, the distress of reclaim, swappiness, and how much
    longer the active list is, together 100 or more.
    """
    fields = reclaim.fields
    active = pages.lengths[ACTIVE_LIST]
    inactive = pages.lengths[INACTIVE]
    if fields[ReclaimField.SCANNED_IN_VAIN] >= 3 * (active + inactive):
        return True
    mapped = pages.lengths[ANONYMOUS_FRAMES] * 100 // max(limits[Limit.MANAGED], 1)
    distress = 100 >> min(fields[ReclaimField.PREVIOUS_PRIORITY], fields[ReclaimField.PRIORITY])
    swappiness = fields[ReclaimField.SWAPPINESS]
    imbalance = active // (inactive + 1) * (swappiness + 1) // 100 * mapped // 100
    return mapped // 2 + distress + swappiness + imbalance >= 100


@kernel
def shrink_active_2_6_24(
    buddy: Buddy,
    pages: Pages,
    limits: npt.NDArray[np.int64],
    reclaim: Reclaim,
    entries: Entries,
    moves: Moves,
    frames: int,
) -> None:
    """Make pages at the end of the active list inactive, mapped ones if need be. Rule: ``shrink_active_list``.

    Mutates lists, flags, counters, the run's fields, and entries of the pages whose use matters.
    """
    mapped_too = wants_mapped(pages, limits, reclaim)
    no_swap = reclaim.fields[ReclaimField.SWAP_TOTAL] == 0
    count, _ = hold_lumps(buddy, pages, reclaim, ACTIVE_LIST, frames, False)
    for i in range(count):
        page = reclaim.held[unsigned(i)]
        anonymous = flags_of(pages, page) & ANONYMOUS != 0
        stays = anonymous and (not mapped_too or no_swap or _forget_use(buddy, pages, entries, moves, page))
        if not stays:
            pages.flags[unsigned(page)] = flags_of(pages, page) & ~ACTIVE
            buddy.counters[Cause.PAGE_DEACTIVATION] += 1
        put_page(buddy, pages, page, False)


@kernel
def _plan(pages: Pages, reclaim: Reclaim) -> None:
    """Plan a pass over both lists: what has come together over the passes, if it is 32 frames (``shrink_zone``).

    Mutates ``left`` and fields.
    """
    fields = reclaim.fields
    priority = fields[ReclaimField.PRIORITY]
    fields[ReclaimField.PREVIOUS_PRIORITY] = min(fields[ReclaimField.PREVIOUS_PRIORITY], priority)
    fields[ReclaimField.PLANNED_ACTIVE] += (pages.lengths[ACTIVE_LIST] >> priority) + 1
    fields[ReclaimField.PLANNED_INACTIVE] += (pages.lengths[INACTIVE] >> priority) + 1
    reclaim.left[ACTIVE_LIST] = 0
    reclaim.left[INACTIVE] = 0
    if fields[ReclaimField.PLANNED_ACTIVE] >= SWAP_CLUSTER:
        reclaim.left[ACTIVE_LIST] = fields[ReclaimField.PLANNED_ACTIVE]
        fields[ReclaimField.PLANNED_ACTIVE] = 0
    if fields[ReclaimField.PLANNED_INACTIVE] >= SWAP_CLUSTER:
        reclaim.left[INACTIVE] = fields[ReclaimField.PLANNED_INACTIVE]
        fields[ReclaimField.PLANNED_INACTIVE] = 0
    fields[ReclaimField.SCANNING] = 1


@kernel
def _scan(
    buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim, entries: Entries, moves: Moves
) -> bool:
    """Go on with a pass; return whether it is finished, or else the log is full. Rule: ``shrink_zone``."""
    fields = reclaim.fields
    left = reclaim.left
    while left[ACTIVE_LIST] > 0 or left[INACTIVE] > 0:
        if not has_room(moves, LUMP_ENTRIES):
            return False
        if left[ACTIVE_LIST] > 0:
            frames = min(left[ACTIVE_LIST], SWAP_CLUSTER)
            left[ACTIVE_LIST] -= frames
            shrink_active_2_6_24(buddy, pages, limits, reclaim, entries, moves, frames)
        if left[INACTIVE] > 0:
            left[INACTIVE] -= min(left[INACTIVE], SWAP_CLUSTER)
            fields[ReclaimField.RECLAIMED] += shrink_inactive_2_6_24(buddy, pages, reclaim, entries, moves)
    fields[ReclaimField.SCANNING] = 0
    return True


@kernel
def begin_lumpy(buddy: Buddy, reclaim: Reclaim, order: int, highest_zone: int, kswapd: bool) -> None:
    """Begin a request's own reclaim (``try_to_free_pages``) or kswapd's (``balance_pgdat``).

    Mutates ``fields``, counters.
    """
    fields = reclaim.fields
    for i in range(ReclaimField.ORDER, len(fields)):
        fields[i] = 0
    fields[ReclaimField.ORDER] = order
    fields[ReclaimField.HIGHEST_ZONE] = highest_zone
    fields[ReclaimField.KSWAPD] = kswapd
    fields[ReclaimField.PRIORITY] = FIRST_PRIORITY
    fields[ReclaimField.MAY_SWAP] = 1
    fields[ReclaimField.MAY_WRITE] = 1
    if kswapd:
        buddy.counters[Cause.KSWAPD_RUN] += 1
    else:
        buddy.counters[Cause.DIRECT_RECLAIM] += 1


@kernel
def _keeps(buddy: Buddy, limits: npt.NDArray[np.int64], reclaim: Reclaim, mark: int) -> bool:
    """Return whether the run's order keeps a watermark."""
    order = reclaim.fields[ReclaimField.ORDER]
    return zone_watermark_ok_2_6_24(buddy, limits, order, mark, 0, 0, free_frames(buddy))


@kernel
def _has_nothing(reclaim: Reclaim) -> bool:
    """Return whether the zone is given up, which only the first priority looks past."""
    fields = reclaim.fields
    return fields[ReclaimField.UNRECLAIMABLE] != 0 and fields[ReclaimField.PRIORITY] != FIRST_PRIORITY


@kernel
def _note_congestion(buddy: Buddy, reclaim: Reclaim, scanned: int) -> None:
    """Count a wait for devices, which follows each pass once priorities get urgent (``congestion_wait``)."""
    if scanned > 0 and reclaim.fields[ReclaimField.PRIORITY] < FIRST_PRIORITY - 2:
        buddy.counters[Cause.CONGESTION_WAIT] += 1


@kernel
def _advance_request(
    buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim, entries: Entries, moves: Moves
) -> int:
    """Go on with a request's own reclaim: 1 if there was progress, else 0, or ``PAUSED``."""
    fields = reclaim.fields
    while fields[ReclaimField.PRIORITY] >= 0:
        if fields[ReclaimField.SCANNING] == 0:
            fields[ReclaimField.SCANNED] = 0
            fields[ReclaimField.PROGRESS] = not _has_nothing(reclaim)
            if fields[ReclaimField.PROGRESS]:
                _plan(pages, reclaim)
        if fields[ReclaimField.SCANNING] and not _scan(buddy, pages, limits, reclaim, entries, moves):
            return PAUSED
        if fields[ReclaimField.RECLAIMED] >= SWAP_CLUSTER:
            fields[ReclaimField.PREVIOUS_PRIORITY] = fields[ReclaimField.PRIORITY]
            return 1
        _note_congestion(buddy, reclaim, fields[ReclaimField.SCANNED])
        fields[ReclaimField.PRIORITY] -= 1
    fields[ReclaimField.PREVIOUS_PRIORITY] = 0
    return fields[ReclaimField.PROGRESS]


@kernel
def _begin_kswapd_priority(buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim) -> bool:
    """Plan a pass of kswapd; return False if the zone is balanced or given up."""
    fields = reclaim.fields
    if _has_nothing(reclaim) or _keeps(buddy, limits, reclaim, limits[Limit.HIGH]):
        return False
    fields[ReclaimField.SCANNED] = 0
    if not _keeps(buddy, limits, reclaim, 8 * limits[Limit.HIGH]):
        _plan(pages, reclaim)
    return True


@kernel
def _advance_kswapd(
    buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim, entries: Entries, moves: Moves
) -> int:
    """Go on with kswapd's run: the frames it freed, or ``PAUSED``.

    It begins anew with the first priority until the zone is balanced or given up.
    """
    fields = reclaim.fields
    while True:
        if fields[ReclaimField.SCANNING] == 0:
            if not _begin_kswapd_priority(buddy, pages, limits, reclaim):
                first = fields[ReclaimField.PRIORITY] == FIRST_PRIORITY
                fields[ReclaimField.PREVIOUS_PRIORITY] = fields[ReclaimField.PRIORITY] + (not first)
                return fields[ReclaimField.RECLAIMED]
        if fields[ReclaimField.SCANNING] and not _scan(buddy, pages, limits, reclaim, entries, moves):
            return PAUSED
        lists = pages.lengths[ACTIVE_LIST] + pages.lengths[INACTIVE]
        fields[ReclaimField.TOTAL_SCANNED] += fields[ReclaimField.SCANNED]
        if fields[ReclaimField.SCANNED_IN_VAIN] >= 6 * lists:
            fields[ReclaimField.UNRECLAIMABLE] = 1
        _note_congestion(buddy, reclaim, fields[ReclaimField.TOTAL_SCANNED])
        enough = fields[ReclaimField.RECLAIMED] - fields[ReclaimField.PASS_BEGAN] >= SWAP_CLUSTER
        if enough or fields[ReclaimField.PRIORITY] == 0:
            fields[ReclaimField.PREVIOUS_PRIORITY] = fields[ReclaimField.PRIORITY]
            fields[ReclaimField.PRIORITY] = FIRST_PRIORITY
            fields[ReclaimField.TOTAL_SCANNED] = 0
            fields[ReclaimField.PASS_BEGAN] = fields[ReclaimField.RECLAIMED]
        else:
            fields[ReclaimField.PRIORITY] -= 1


@kernel
def advance_lumpy(
    buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim, entries: Entries, moves: Moves
) -> int:
    """Go on with a run until it is finished or the log is full.

    Returns ``PAUSED``; or 1 if a request's own reclaim made progress and 0 if not; or the frames that kswapd freed.

    Parameters
    ----------
    buddy, pages, reclaim : Buddy, Pages, Reclaim
        Mutated.
    limits : int64[LIMITS]
        Read.
    entries : Entries
        Of the pages; mutated: bits of those that are looked at.
    moves : Moves
        Written.
    """
    if reclaim.fields[ReclaimField.KSWAPD]:
        return _advance_kswapd(buddy, pages, limits, reclaim, entries, moves)
    return _advance_request(buddy, pages, limits, reclaim, entries, moves)
