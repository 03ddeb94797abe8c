"""Pages move: from where compaction took them to the free blocks that it holds, and their old frames become free.

All targets of a batch are found first; then all pages are unmapped, other CPUs flush once, and the pages are copied
one after another. A page of several frames for which there is no block is split and its frames move each on its
own. A direct request may capture a block at the moment when it becomes free as a whole. Rules: Linux 6.18,
``mm/migrate.c``: ``migrate_pages``, ``migrate_pages_batch``; ``mm/page_alloc.c``: ``compaction_capture``.

Who is mapped where is not known here: what moved is written to a log, by which the owners' mappings follow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import (
    ALLOCATED,
    INSIDE,
    MAX_ORDER,
    PAGEBLOCK_ORDER,
    Buddy,
    Migratetype,
    give_back,
    is_free,
    remove,
)
from vckernels.causes import Cause
from vckernels.compactcontrol import CAPTURE_NONE, Compaction, RunField
from vckernels.freescan import take_target
from vckernels.jit import kernel, unsigned
from vckernels.movelog import Moves, log_move
from vckernels.pages import Pages, put_page, split_held_page

NO_TARGET = -1
"""Answer of :func:`migrate`: the search for targets found none; pages were left where they were."""
BATCH = 512
"""Frames that one batch has at most (``NR_MAX_BATCHED_MIGRATION``)."""


@kernel
def _captures(buddy: Buddy, compaction: Compaction, frame: int, order: int) -> bool:
    """Return whether freeing a block makes a block that the request may take over at once.

    Rule: ``compaction_capture``: it is asked at each union of buddies, below the largest order.
    """
    run = compaction.run
    wanted = run[RunField.ORDER]
    if run[RunField.CAPTURED] != CAPTURE_NONE or order > wanted or wanted >= MAX_ORDER:
        return False
    block_type = np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])
    if block_type == Migratetype.ISOLATE:
        return False
    movable = block_type == Migratetype.MOVABLE
    if wanted < PAGEBLOCK_ORDER and movable and run[RunField.MIGRATETYPE] != Migratetype.MOVABLE:
        return False
    for low in range(order, wanted):
        if not is_free(buddy, (frame & ~((1 << low) - 1)) ^ (1 << low), low):
            return False
    return True


@kernel
def free_or_capture(buddy: Buddy, compaction: Compaction, frame: int, order: int) -> None:
    """Free an allocated block, or let the run's request have the block that it completes. Mutates ``CAPTURED``."""
    if not _captures(buddy, compaction, frame, order):
        give_back(buddy, frame, order)
        return
    run = compaction.run
    wanted = run[RunField.ORDER]
    buddy.state[unsigned(frame)] = INSIDE
    for low in range(order, wanted):
        other = (frame & ~((1 << low) - 1)) ^ (1 << low)
        remove(buddy, other, low)
    first = frame & ~((1 << wanted) - 1)
    buddy.state[unsigned(first)] = ALLOCATED + 16 * run[RunField.MIGRATETYPE] + wanted
    run[RunField.CAPTURED] = first
    buddy.counters[Cause.FREE] += 1
    buddy.counters[Cause.MERGE] += wanted - order
    buddy.counters[Cause.ALLOCATION] += 1
    buddy.counters[Cause.CAPTURE] += 1


@kernel
def _move(buddy: Buddy, pages: Pages, compaction: Compaction, moves: Moves, old: int, new: int) -> None:
    """Move one held page to an isolated block: state, flags and owner go along; its old frames become free."""
    state = np.int64(buddy.state[unsigned(old)])
    order = state & 15
    log_move(buddy, pages, moves, old, new)
    buddy.state[unsigned(new)] = state
    pages.flags[unsigned(new)] = pages.flags[unsigned(old)]
    pages.flags[unsigned(old)] = 0
    pages.owner[unsigned(new)] = pages.owner[unsigned(old)]
    put_page(buddy, pages, new, False)
    buddy.counters[Cause.PAGE_MIGRATED] += 1 << order
    free_or_capture(buddy, compaction, old, order)


@kernel
def _move_batch(buddy: Buddy, pages: Pages, compaction: Compaction, moves: Moves, count: int) -> None:
    """Move the first ``count`` pairs of old and new frames in ``targets``, flushing translations once."""
    for i in range(count):
        _move(buddy, pages, compaction, moves, compaction.targets[2 * i], compaction.targets[2 * i + 1])
    buddy.counters[Cause.MIGRATION_BATCH] += count > 0


@kernel
def migrate(buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], compaction: Compaction, moves: Moves) -> int:
    """Move the pages that wait; return how many could not be moved, or ``NO_TARGET``.

    Parameters
    ----------
    buddy, pages, compaction : Buddy, Pages, Compaction
        Mutated. ``sources`` holds what could not be moved afterwards, in the order in which it is to be put back, from
        its end.
    limits : int64[LIMITS]
        Read.
    moves : Moves
        Written; it has room for two batches.
    """
    run = compaction.run
    waiting = run[RunField.PAGES_HELD]
    # Split pages gather where sources were that have been served: behind those still to be looked at.
    split = 0
    pairs = 0
    next_source = waiting - 1
    out_of_targets = False
    while next_source >= 0:
        source = compaction.sources[unsigned(next_source)]
        order = np.int64(buddy.state[unsigned(source)]) & 15
        target = take_target(buddy, limits, compaction, order)
        if target < 0 and order == 0:
            out_of_targets = True
            break
        next_source -= 1
        if target >= 0:
            compaction.targets[2 * pairs] = source
            compaction.targets[2 * pairs + 1] = target
            pairs += 1
        else:
            split_held_page(buddy, pages, source)
            for i in range(1, 1 << order):
                compaction.pieces[split] = source + i
                split += 1
            compaction.pieces[split] = source
            split += 1
    _move_batch(buddy, pages, compaction, moves, pairs)
    left = next_source + 1
    # Pieces are tried once, after the rest.
    tried = 0
    if not out_of_targets and split > 0:
        pairs = 0
        while tried < split:
            target = take_target(buddy, limits, compaction, 0)
            if target < 0:
                break
            compaction.targets[2 * pairs] = compaction.pieces[tried]
            compaction.targets[2 * pairs + 1] = target
            pairs += 1
            tried += 1
        _move_batch(buddy, pages, compaction, moves, pairs)
    # What is left goes back from the array's end: pages first, then pieces.
    pieces = split - tried
    for i in range(left - 1, -1, -1):
        compaction.sources[unsigned(i + pieces)] = compaction.sources[unsigned(i)]
    for i in range(pieces):
        compaction.sources[unsigned(pieces - 1 - i)] = compaction.pieces[unsigned(tried + i)]
    run[RunField.PAGES_HELD] = left + pieces
    run[RunField.MIGRATE_HELD] = 0
    return NO_TARGET if out_of_targets else left + pieces
