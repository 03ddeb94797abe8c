"""Recorded walks of compaction's free scanner, done again over the model's free blocks.

A walk is recorded as a range, the frames that it looked at and the frames that it took, but not which ones. Rules,
Linux 6.18: ``isolate_freepages_block`` in ``mm/compaction.c`` looks at one frame, takes the free block that begins
there or passes over the compound page that does, counting all of their frames as looked at, and goes on by a stride.
``isolate_freepages`` doubles the stride from one pageblock to the next, up to 32, until something is found.
``__isolate_free_page`` in ``mm/page_alloc.c`` makes the pageblock of half a pageblock or more movable.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import ISOLATED, PAGEBLOCK_FRAMES, PAGEBLOCK_ORDER, Buddy, Migratetype, remove
from vckernels.claim import move_free_blocks
from vckernels.jit import kernel

COMPACTION_BEGIN, COMPACTION_END, ISOLATE_USED, ISOLATE_FREE, ISOLATE_FREE_FAST, MIGRATE = 6, 7, 8, 9, 10, 11
"""Steps of compaction, by the events that tell of them."""

LONGEST_STRIDE = 32
"""``COMPACT_CLUSTER_MAX``."""


class CompactionEvents(NamedTuple):
    """Steps of compaction among a zone's events, in order; all of length n. Frames count from the zone's first.

    ``row`` is how many of the zone's events came before. What ``start``, ``end``, ``scanned`` and ``taken`` say is told
    where recordings are read; here they matter for walks alone.
    """

    row: npt.NDArray[np.int64]
    step: npt.NDArray[np.uint8]
    cpu: npt.NDArray[np.uint8]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    scanned: npt.NDArray[np.int64]
    taken: npt.NDArray[np.int64]


@kernel(inline=True)
def _step(buddy: Buddy, compound: npt.NDArray[np.int8], frame: int, end: int) -> tuple[int, int]:
    """Return how many frames a walk passes over at a frame, itself included, and how many of those it takes."""
    order = np.int64(buddy.state[frame])
    if order >= 0:
        return 1 << order, 1 << order
    size = 1 << np.int64(compound[frame])
    return size if frame + size <= end else 1, 0


@kernel
def walk(buddy: Buddy, compound: npt.NDArray[np.int8], start: int, end: int, stride: int) -> tuple[int, int]:
    """Return how many frames a walk from ``start`` to ``end`` (excluded) would look at, and how many take."""
    scanned = 0
    taken = 0
    frame = start
    while frame < end:
        size, held = _step(buddy, compound, frame, end)
        scanned += size
        taken += held
        frame += size - 1 + stride
    return scanned, taken


@kernel
def stride_of(buddy: Buddy, compound: npt.NDArray[np.int8], start: int, end: int, scanned: int, taken: int) -> int:
    """Return the stride with which a walk looks at and takes as many frames as recorded, or 0.

    A walk that looked at every frame has a stride of 1; of the others the longest that fits is meant, since they only
    grow while nothing is found.
    """
    if scanned >= end - start:
        seen, held = walk(buddy, compound, start, end, 1)
        return 1 if seen == scanned and held == taken else 0
    stride = LONGEST_STRIDE
    while stride > 1:
        seen, held = walk(buddy, compound, start, end, stride)
        if seen == scanned and held == taken:
            return stride
        stride >>= 1
    return 0


@kernel
def take_walk(
    buddy: Buddy, compound: npt.NDArray[np.int8], start: int, end: int, stride: int, first_known: npt.NDArray[np.int8]
) -> int:
    """Take every free block that a walk meets off its list and mark it as isolated; return the frames.

    Parameters
    ----------
    buddy : Buddy
        Mutated.
    compound : int8[frames]
        Order of the compound page in use that begins at each frame, 0 where none is known to.
    start, end, stride : int
        The walk; ``end`` is not part of it.
    first_known : int8[frames]
        Mutated: 1 at each block that leaves its list or moves to another, its place being known from then on.
    """
    total = 0
    frame = start
    while frame < end:
        size, taken = _step(buddy, compound, frame, end)
        if taken:
            order = np.int64(buddy.state[frame])
            remove(buddy, frame, order)
            buddy.state[frame : frame + size] = ISOLATED
            first_known[frame] = 1
            if order >= PAGEBLOCK_ORDER - 1:
                for part in range(frame & ~(PAGEBLOCK_FRAMES - 1), frame + size, PAGEBLOCK_FRAMES):
                    if buddy.pageblock[part >> PAGEBLOCK_ORDER] < Migratetype.HIGHATOMIC:
                        first_known[part : part + PAGEBLOCK_FRAMES] = 1
                        move_free_blocks(buddy, part, np.int64(Migratetype.MOVABLE))
            total += taken
        frame += size - 1 + stride
    return total
