"""Pages move: from where compaction took them to the free blocks that it holds, and their old frames become free.

All targets of a batch are found first; then all pages are unmapped, other CPUs flush once, and the pages are copied
one after another. A page of several frames for which there is no block is split and its frames move each on its
own. A direct request may capture a block at the moment when it becomes free as a whole (:mod:`vckernels.capture`).
Rules: Linux 6.18, ``mm/migrate.c``: ``migrate_pages``, ``migrate_pages_batch``, ``migrate_folio_done``.

Who is mapped where is not known here: what moved is written to a log, by which the owners' mappings follow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy, give_back
from vckernels.capture import completes, take_over
from vckernels.causes import Cause
from vckernels.compactcontrol import CAPTURE_NONE, Compaction, RunField
from vckernels.freeing import free_at_work
from vckernels.freescan import take_target
from vckernels.jit import kernel, unsigned
from vckernels.movelog import Moves, log_move
from vckernels.pages import Pages, put_page, split_held_page
from vckernels.zone import PerCpu

NO_TARGET = -1
"""Answer of :func:`migrate`: the search for targets found none; pages were left where they were."""
BATCH = 512
"""Frames that one batch has at most (``NR_MAX_BATCHED_MIGRATION``)."""


@kernel
def begin_capture(pages: Pages, compaction: Compaction) -> None:
    """Let what the CPU at work gives back from its lists be captured too, if the run's request may capture.

    Mutates the CPU's row. Rule: ``compact_zone_order``.
    """
    run = compaction.run
    if len(pages.per_cpu) > 0 and run[RunField.CAPTURED] == CAPTURE_NONE:
        own = pages.per_cpu[pages.cpu[0]]
        own[PerCpu.CAPTURE_ORDER] = run[RunField.ORDER]
        own[PerCpu.CAPTURE_TYPE] = run[RunField.MIGRATETYPE]
        own[PerCpu.CAPTURED] = 0


@kernel
def note_capture(pages: Pages, compaction: Compaction) -> None:
    """Note what the CPU at work has captured. Mutates ``CAPTURED`` of the run."""
    if len(pages.per_cpu) > 0:
        own = pages.per_cpu[pages.cpu[0]]
        if own[PerCpu.CAPTURE_ORDER] > 0 and own[PerCpu.CAPTURED] > 0:
            compaction.run[RunField.CAPTURED] = own[PerCpu.CAPTURED] - 1


@kernel
def end_capture(pages: Pages, compaction: Compaction) -> None:
    """Let nothing be captured any more. Mutates the CPU's row, and ``CAPTURED`` of the run."""
    note_capture(pages, compaction)
    if len(pages.per_cpu) > 0:
        pages.per_cpu[pages.cpu[0], PerCpu.CAPTURE_ORDER] = 0


@kernel
def free_or_capture(buddy: Buddy, pages: Pages, compaction: Compaction, frame: int, order: int) -> None:
    """Free an allocated block, or let the run's request have the block that it completes. Mutates ``CAPTURED``.

    Where CPUs keep lists, it goes to those of the CPU at work, and is part of a whole once they are drained.
    """
    if len(pages.per_cpu) > 0:
        free_at_work(buddy, pages, frame, order, False)
        note_capture(pages, compaction)
        return
    run = compaction.run
    wanted, migratetype = run[RunField.ORDER], run[RunField.MIGRATETYPE]
    if run[RunField.CAPTURED] == CAPTURE_NONE and completes(buddy, frame, order, wanted, migratetype):
        run[RunField.CAPTURED] = take_over(buddy, frame, order, wanted, migratetype)
        buddy.counters[Cause.FREE] += 1
    else:
        give_back(buddy, frame, order)


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
    free_or_capture(buddy, pages, compaction, old, order)


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
