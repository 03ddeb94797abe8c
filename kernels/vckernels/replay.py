"""Replay a recorded zone: follow it one step ahead, or run free beside it.

*Following*, the model says which block it would hand out, the recorded choice is compared and then fed back.
*Running free*, the model picks every block itself; recorded frame numbers serve only as names of what is freed.

In both, allocated frames are ``INSIDE`` and no more: the kernel frees parts of what it allocated whole, so the
recorded orders of frees need not be those of allocations.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import (
    INSIDE,
    ORDERS,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    Buddy,
    Migratetype,
    first_block,
    merge_and_insert,
    take_at,
)
from vckernels.claim import MODE_NORMAL, allocate, move_free_blocks
from vckernels.jit import kernel

ZONE_FREE, ZONE_REMOVAL, ZONE_DRAIN, ZONE_FALLBACK = 1, 3, 4, 5
"""Operations of a recorded zone stream: free, mm_page_alloc_zone_locked, pcpu drain, mm_page_alloc_extfrag."""

UNKNOWN_TYPE = -1
"""A pageblock that no event named a migratetype for."""


class Stream(NamedTuple):
    """Events of one zone, in order; all of length n. Frames count from the zone's first."""

    operation: npt.NDArray[np.uint8]
    order: npt.NDArray[np.uint8]
    migratetype: npt.NDArray[np.int8]
    cpu: npt.NDArray[np.uint8]
    frame: npt.NDArray[np.int64]
    extra: npt.NDArray[np.uint16]


class Count(IntEnum):
    """Index into the int64 array of what a replay counted."""

    REMOVALS = 0
    """Removals whose frames were free in the model."""
    REMOVALS_SKIPPED = 1
    """Removals of frames that were already taken: they were freed without an event. In no other count."""
    FRAME_RIGHT = 2
    ORDER_RIGHT = 3
    """Removals for which the order of the block that was split was foreseen."""
    KNOWN = 4
    """Removals from a block that the trace itself put on its list."""
    KNOWN_RIGHT = 5
    LEARNED = 6
    """Removals from a block of the first snapshot whose pageblock's type, not movable, came from a later event."""
    LEARNED_RIGHT = 7
    TYPE_MISMATCH = 8
    """Removals from a pageblock of another type than requested."""
    FREES = 9
    FREES_SKIPPED = 10
    """Frees of frames that were free in the model already."""
    CLAIMS = 11
    """Fallback events that retyped a pageblock or more."""
    CLAIMS_RIGHT = 12
    """Of those, with the frame foreseen."""
    RESYNCHRONISATIONS = 13
    """Times the recorded choice, not the model's, was carried out."""
    AFTER_CLAIM = 14
    """Removals for which a smaller fallback block took its pageblock along. Which one is known from the recorded frame
    alone, so they are foreseen by nobody and in no other count."""
    FREES_SPLIT = 15
    """Free running: frees done frame by frame, since the model's frames lie apart."""
    FAILED = 16
    """Free running: allocations that the model could not serve."""


COUNTS = len(Count)


@kernel(inline=True)
def _free_block_around(buddy: Buddy, frame: int, order: int) -> int:
    """Return the order of the free block that holds a block whole, or -1."""
    for high in range(order, ORDERS):
        if buddy.state[frame & ~((1 << high) - 1)] == high:
            return high
    return -1


@kernel(inline=True)
def _any_free(buddy: Buddy, frame: int, order: int) -> bool:
    if _free_block_around(buddy, frame, order) >= 0:
        return True
    for inside in range(frame, frame + (1 << order)):
        if buddy.state[inside] >= 0:
            return True
    return False


@kernel(inline=True)
def _predict(buddy: Buddy, order: int, migratetype: int) -> tuple[int, int]:
    """Return the frame that the type's own lists would give and the order split for it, or (-1, -1)."""
    for high in range(order, ORDERS):
        frame = first_block(buddy, high, migratetype)
        if frame >= 0:
            return frame, high
    return -1, -1


@kernel(inline=True)
def _free(buddy: Buddy, frame: int, order: int) -> None:
    if order <= PAGEBLOCK_ORDER:
        merge_and_insert(buddy, frame, order)
    else:
        for part in range(frame, frame + (1 << order), PAGEBLOCK_FRAMES):
            merge_and_insert(buddy, part, PAGEBLOCK_ORDER)


@kernel
def learn_types(stream: Stream, pageblock: npt.NDArray[np.int8]) -> None:
    """Write each pageblock's type as the first event in it names it, ``UNKNOWN_TYPE`` where none does.

    A removal names the type of the list it was on, a drain that of the per-CPU list, which was the
    pageblock's; removals by fallback name the type claimed, not the one before, and do not count.
    """
    pageblock[:] = UNKNOWN_TYPE
    for i in range(len(stream.frame)):
        block = stream.frame[i] >> PAGEBLOCK_ORDER
        if pageblock[block] != UNKNOWN_TYPE or stream.migratetype[i] < 0:
            continue
        if stream.operation[i] == ZONE_DRAIN:
            pageblock[block] = stream.migratetype[i]
        elif stream.operation[i] == ZONE_REMOVAL:
            followed = i + 1 < len(stream.frame) and stream.operation[i + 1] == ZONE_FALLBACK
            if not (followed and stream.frame[i + 1] == stream.frame[i]):
                pageblock[block] = stream.migratetype[i]
        elif stream.operation[i] == ZONE_FALLBACK:
            pageblock[block] = (np.int64(stream.extra[i]) >> 4) & 15


@kernel
def follow(
    buddy: Buddy,
    stream: Stream,
    first_known: npt.NDArray[np.int8],
    counts: npt.NDArray[np.int64],
) -> None:
    """Foresee each removal, compare it with the recorded one, carry out the recorded one.

    Parameters
    ----------
    buddy : Buddy
        The zone as first snapped; mutated to its state after the stream.
    stream : Stream
        Read.
    first_known : int8[frames]
        Mutated. 0 at first frames of blocks whose place on their list is unknown since the snapshot gives none;
        all else 1.
    counts : int64[COUNTS]
        Added to.
    """
    total = len(stream.frame)
    for i in range(total):
        operation = stream.operation[i]
        frame = stream.frame[i]
        order = np.int64(stream.order[i])
        migratetype = np.int64(stream.migratetype[i])
        if operation == ZONE_REMOVAL:
            high = _free_block_around(buddy, frame, order)
            if high < 0:
                counts[Count.REMOVALS_SKIPPED] += 1
                continue
            if i + 1 < total and stream.operation[i + 1] == ZONE_FALLBACK and stream.frame[i + 1] == frame:
                extra = np.int64(stream.extra[i + 1])
                if extra & 15 < PAGEBLOCK_ORDER and extra >> 8 and high < PAGEBLOCK_ORDER:
                    counts[Count.AFTER_CLAIM] += 1
                    move_free_blocks(buddy, frame & ~(PAGEBLOCK_FRAMES - 1), migratetype)
                    take_at(buddy, frame, order, migratetype)
                    buddy.state[frame] = INSIDE
                    continue
            foreseen, foreseen_order = _predict(buddy, order, migratetype)
            first = frame & ~((1 << high) - 1)
            right = foreseen == frame
            counts[Count.REMOVALS] += 1
            counts[Count.FRAME_RIGHT] += right
            counts[Count.ORDER_RIGHT] += foreseen_order == high
            counts[Count.RESYNCHRONISATIONS] += not right
            block_type = np.int64(buddy.pageblock[frame >> PAGEBLOCK_ORDER])
            counts[Count.TYPE_MISMATCH] += block_type != migratetype
            if first_known[first]:
                counts[Count.KNOWN] += 1
                counts[Count.KNOWN_RIGHT] += right
            elif block_type != Migratetype.MOVABLE:
                counts[Count.LEARNED] += 1
                counts[Count.LEARNED_RIGHT] += right
            first_known[first] = 1
            take_at(buddy, frame, order, migratetype)
            buddy.state[frame] = INSIDE
        elif operation == ZONE_FALLBACK:
            extra = np.int64(stream.extra[i])
            fallback_order = extra & 15
            if fallback_order < PAGEBLOCK_ORDER:
                continue
            high = _free_block_around(buddy, frame, fallback_order)
            if high < 0 or frame & ((1 << fallback_order) - 1):
                counts[Count.REMOVALS_SKIPPED] += 1
                continue
            counts[Count.CLAIMS] += 1
            right = first_block(buddy, fallback_order, (extra >> 4) & 15) == frame
            counts[Count.CLAIMS_RIGHT] += right
            counts[Count.RESYNCHRONISATIONS] += not right
            first = frame & ~((1 << high) - 1)
            first_known[first] = 1
            take_at(buddy, frame, fallback_order, migratetype)
            for part in range(frame, frame + (1 << fallback_order), PAGEBLOCK_FRAMES):
                buddy.pageblock[part >> PAGEBLOCK_ORDER] = migratetype
            _split_taken(buddy, frame, fallback_order, order)
        elif operation == ZONE_FREE or operation == ZONE_DRAIN:
            if _any_free(buddy, frame, order):
                counts[Count.FREES_SKIPPED] += 1
                continue
            counts[Count.FREES] += 1
            _free(buddy, frame, order)
            merged = _free_block_around(buddy, frame, order)
            for level in range(order, merged):
                first_known[((frame >> level) ^ 1) << level] = 1
            first_known[frame & ~((1 << merged) - 1)] = 1


@kernel(inline=True)
def _split_taken(buddy: Buddy, frame: int, high: int, order: int) -> None:
    """Give a taken block's upper halves back until its low end has the order wanted."""
    buddy.state[frame] = INSIDE
    for part in range(high - 1, order - 1, -1):
        merge_and_insert(buddy, frame + (1 << part), part)


@kernel
def run_free(
    buddy: Buddy,
    stream: Stream,
    taken: npt.NDArray[np.int8],
    model_frame: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
) -> None:
    """Let the model choose every block; recorded frames only name what a free gives back.

    Parameters
    ----------
    buddy : Buddy
        The zone as first snapped; mutated.
    stream : Stream
        Read.
    taken : int8[frames]
        Mutated. 1 where the recorded frame is allocated.
    model_frame : int32[frames]
        Mutated. The model's frame that stands for each recorded one: at first itself.
    counts : int64[COUNTS]
        Added to.
    """
    for i in range(len(stream.frame)):
        operation = stream.operation[i]
        frame = stream.frame[i]
        order = np.int64(stream.order[i])
        size = 1 << order
        if operation == ZONE_REMOVAL or operation == ZONE_FALLBACK:
            if operation == ZONE_FALLBACK and np.int64(stream.extra[i]) & 15 < PAGEBLOCK_ORDER:
                continue
            if taken[frame]:
                counts[Count.REMOVALS_SKIPPED] += 1
                continue
            migratetype = np.int64(stream.migratetype[i])
            chosen, _ = allocate(buddy, order, migratetype, 0, MODE_NORMAL)
            if chosen < 0:
                counts[Count.FAILED] += 1
                continue
            buddy.state[chosen] = INSIDE
            counts[Count.REMOVALS] += 1
            counts[Count.FRAME_RIGHT] += chosen == frame
            for j in range(size):
                taken[frame + j] = 1
                model_frame[frame + j] = chosen + j
        elif operation == ZONE_FREE or operation == ZONE_DRAIN:
            whole = True
            first = np.int64(model_frame[frame])
            for j in range(size):
                whole = whole and taken[frame + j] and model_frame[frame + j] == first + j
            if whole and first & (size - 1) == 0:
                _free(buddy, first, order)
                counts[Count.FREES] += 1
            else:
                counts[Count.FREES_SPLIT] += 1
                for j in range(size):
                    if taken[frame + j]:
                        merge_and_insert(buddy, np.int64(model_frame[frame + j]), 0)
            for j in range(size):
                taken[frame + j] = 0
