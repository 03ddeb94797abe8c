"""Reclaim's lists are scanned: inactive pages are freed, written, spared or made active; active ones become inactive.

A page is spared once if it was used since it was looked at last, by its flags or by what CPUs have noted in its entries
(:mod:`vckernels.referenced`), and active if that is so twice. Dirty pages are
written back; the write is taken to be done before their list is scanned again, when they lie at its end, clean. So
nothing waits for a device here; what is written and read again is counted. No page is executable. Freed pages go to the
lists of the CPU that reclaims (:mod:`vckernels.freeing`). Rules: Linux 6.18, ``mm/vmscan.c``: ``shrink_inactive_list``,
``shrink_active_list``, ``shrink_folio_list``, ``folio_check_references``, ``isolate_lru_folios``.
"""

from __future__ import annotations

import numpy as np

from vckernels.buddy import Buddy
from vckernels.causes import Cause
from vckernels.freeing import release_page
from vckernels.jit import kernel, unsigned
from vckernels.movelog import EVICTED, STALE, Moves, log_move
from vckernels.pages import (
    ACCESSED,
    ACTIVE,
    ANONYMOUS,
    DIRTY,
    REFERENCED,
    UNEVICTABLE,
    WORKINGSET,
    Lru,
    Pages,
    flags_of,
    hold_page,
    oldest_page,
    page_frames,
    put_page,
)
from vckernels.referenced import Entries, take_accessed, take_dirty
from vckernels.workingset import Reclaim, ReclaimField, leave_shadow, note_cost


@kernel(inline=True)
def is_file(chosen: int) -> bool:
    """Return whether a list holds pages of files."""
    return chosen >= Lru.INACTIVE_FILE


@kernel
def hold_oldest(buddy: Buddy, pages: Pages, reclaim: Reclaim, chosen: int, frames: int) -> tuple[int, int]:
    """Take pages from a list's tail until they have as many frames; return how many pages, and their frames.

    Oldest first in ``held``. Rule: ``isolate_lru_folios``.
    """
    count = 0
    taken = 0
    while taken < frames:
        page = oldest_page(buddy, chosen)
        if page < 0:
            break
        taken += page_frames(buddy, page)
        hold_page(buddy, pages, page)
        reclaim.held[unsigned(count)] = page
        count += 1
    buddy.counters[Cause.RECLAIM_SCANNED] += taken
    reclaim.fields[ReclaimField.SCANNED] += taken
    return count, taken


@kernel
def shrink_active(buddy: Buddy, pages: Pages, reclaim: Reclaim, entries: Entries, chosen: int, frames: int) -> None:
    """Make pages at the tail of an active list inactive; the newest stays the newest. Rule: ``shrink_active_list``."""
    scanned = reclaim.fields[ReclaimField.SCANNED]
    count, taken = hold_oldest(buddy, pages, reclaim, chosen, frames)
    # Only what is scanned of inactive lists counts towards kswapd's goal.
    reclaim.fields[ReclaimField.SCANNED] = scanned
    for i in range(count):
        page = reclaim.held[unsigned(i)]
        # It is looked at, whatever that shows: only code of programs would stay active for it.
        take_accessed(entries, pages, page, page_frames(buddy, page))
        pages.flags[unsigned(page)] = flags_of(pages, page) & ~(ACCESSED | ACTIVE) | WORKINGSET
        put_page(buddy, pages, page, False)
    buddy.counters[Cause.PAGE_DEACTIVATION] += taken


@kernel(inline=True)
def detach(buddy: Buddy, pages: Pages, reclaim: Reclaim, moves: Moves, page: int) -> None:
    """Let a page that is on no list be nobody's any more, to be freed then (``__remove_mapping``).

    Its owner's mapping goes by the log.
    """
    flags = flags_of(pages, page)
    size = page_frames(buddy, page)
    owner = np.int64(pages.owner[unsigned(page)])
    leave_shadow(reclaim, owner, size, flags)
    if flags & ANONYMOUS:
        reclaim.fields[ReclaimField.SWAP_FREE] -= size
    log_move(buddy, pages, moves, page, np.int64(EVICTED))
    buddy.counters[Cause.PAGE_RECLAIMED] += size


@kernel(inline=True)
def _swap_has_room(reclaim: Reclaim, flags: int, size: int) -> bool:
    """Return whether a page may leave memory: files always, anonymous pages if swap has room."""
    return flags & ANONYMOUS == 0 or reclaim.fields[ReclaimField.SWAP_FREE] >= size


@kernel
def write_page(buddy: Buddy, pages: Pages, page: int, flags: int, size: int) -> None:
    """Write a dirty page that is on no list and put it, clean, at the end of its inactive list.

    Mutates flags, lists, counters. Rule: ``pageout``, and ``folio_rotate_reclaimable`` once it is written.
    """
    pages.flags[unsigned(page)] = flags & ~(DIRTY | ACTIVE)
    put_page(buddy, pages, page, True)
    if flags & ANONYMOUS:
        buddy.counters[Cause.SWAP_OUT] += size
    else:
        buddy.counters[Cause.WRITE_BACK] += size


@kernel
def shrink_inactive(
    buddy: Buddy, pages: Pages, reclaim: Reclaim, entries: Entries, moves: Moves, chosen: int, frames: int
) -> int:
    """Scan pages at the tail of an inactive list; return the frames reclaimed. Rule: ``shrink_inactive_list``.

    Parameters
    ----------
    buddy, pages, reclaim : Buddy, Pages, Reclaim
        Mutated.
    entries : Entries
        Mutated: bits of the pages that are looked at.
    moves : Moves
        Written: evicted pages, and what was unmapped in vain; it has room for as many entries.
    chosen : int
        The list.
    frames : int
        How many frames to scan; a large page at the end may exceed it.
    """
    fields = reclaim.fields
    count, taken = hold_oldest(buddy, pages, reclaim, chosen, frames)
    reclaimed = 0
    written = 0
    # CPUs forget all that was unmapped at the end (try_to_unmap_flush), and what may be written to before it is written
    # back (try_to_unmap_flush_dirty).
    unmapped = False
    for i in range(count):
        page = reclaim.held[unsigned(i)]
        flags = flags_of(pages, page)
        size = page_frames(buddy, page)
        spared = flags & ~(ACCESSED | REFERENCED)
        if take_accessed(entries, pages, page, size) or flags & ACCESSED:
            spared |= REFERENCED
            if flags & REFERENCED:
                spared |= ACTIVE
        elif flags & UNEVICTABLE or not _swap_has_room(reclaim, flags, size):
            spared |= ACTIVE
        else:
            if take_dirty(entries, pages, page, size):
                spared |= DIRTY
            unmapped = True
            if spared & DIRTY == 0:
                pages.flags[unsigned(page)] = spared
                # The kernel gathers what it frees and frees it together, in the same order, which comes to the same.
                detach(buddy, pages, reclaim, moves, page)
                release_page(buddy, pages, page, False)
                reclaimed += size
                continue
            if entries.noted:
                log_move(buddy, pages, moves, page, np.int64(STALE))
            if fields[ReclaimField.MAY_WRITE] or flags & ANONYMOUS == 0:
                write_page(buddy, pages, page, spared, size)
                if flags & ANONYMOUS:
                    written += size
                    buddy.counters[Cause.UNMAP_BATCH] += 1
                    unmapped = False
                continue
        pages.flags[unsigned(page)] = spared
        put_page(buddy, pages, page, False)
        if spared & ACTIVE:
            buddy.counters[Cause.PAGE_ACTIVATION] += size
            fields[ReclaimField.CLOCK] += size
    buddy.counters[Cause.UNMAP_BATCH] += unmapped
    note_cost(pages, reclaim, is_file(chosen), written, taken - reclaimed)
    fields[ReclaimField.RECLAIMED] += reclaimed
    return reclaimed


@kernel
def _square_root(value: int) -> int:
    """Return the integer square root, of small values."""
    root = 0
    while (root + 1) * (root + 1) <= value:
        root += 1
    return root


@kernel
def inactive_is_low(pages: Pages, chosen: int) -> bool:
    """Return whether an inactive list is too short for its active one, the ratio growing with memory.

    Rule: ``inactive_is_low``: one to the root of ten times the GiB.
    """
    inactive = pages.lengths[unsigned(chosen)]
    active = pages.lengths[unsigned(chosen + 1)]
    ratio = _square_root(10 * ((inactive + active) >> 18))
    return inactive * max(ratio, 1) < active


@kernel
def age_anonymous(buddy: Buddy, pages: Pages, reclaim: Reclaim, entries: Entries) -> None:
    """Make a few anonymous pages inactive if there is swap and few are. Rule: end of ``shrink_lruvec``."""
    if reclaim.fields[ReclaimField.SWAP_TOTAL] > 0 and inactive_is_low(pages, np.int64(Lru.INACTIVE_ANONYMOUS)):
        shrink_active(buddy, pages, reclaim, entries, np.int64(Lru.ACTIVE_ANONYMOUS), 32)
