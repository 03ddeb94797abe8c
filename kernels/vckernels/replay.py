"""What replays of a recorded zone share: its events, what is counted, and what they ask of the free lists.

*Following* (:mod:`vckernels.replayfollow`), the model says which block it would hand out, the recorded choice is
compared and then fed back. *Running free* (:mod:`vckernels.replayfree`), the model picks every block itself; recorded
frame numbers serve only as names of what is freed.

In both, allocated frames are ``INSIDE`` and no more: the kernel frees parts of what it allocated whole, so the
recorded orders of frees need not be those of allocations.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import (
    ORDERS,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    Buddy,
    merge_and_insert,
)
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
    """Removals whose frames were free in the model, those after a claim below a pageblock not among them."""
    REMOVALS_SKIPPED = 1
    """Removals and fallbacks of frames that were taken already, or some of them: freed without an event. In no other
    count."""
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
    FREES_AGAIN = 10
    """Frees of frames that were free in the model already: they had been taken without an event, and are taken now."""
    CLAIMS = 11
    """Fallbacks: claims of pageblocks, and steals."""
    CLAIMS_RIGHT = 12
    """Of those, with the kind of fallback, the block's order and its migratetype foreseen."""
    RESYNCHRONISATIONS = 13
    """Times the recorded choice, not the model's, was carried out."""
    AFTER_CLAIM = 14
    """Removals for which a smaller fallback block took its pageblock along. Which one is taken from the trace."""
    FREES_SPLIT = 15
    """Free running: frees done frame by frame, since the model's frames lie apart."""
    FAILED = 16
    """Free running: allocations that the model could not serve."""
    CLAIMS_EMPTY = 17
    """Fallbacks for which the model's own lists are empty too."""
    CLAIMS_EMPTY_RIGHT = 18
    CLAIMS_FRAME_RIGHT = 19
    """Fallbacks with the very block foreseen, or the pageblock of a smaller one."""
    AFTER_CLAIM_RIGHT = 20
    """Removals after a claim with the frame foreseen, once the pageblock is known."""
    CAPTURES = 21
    """Blocks that compaction caught as their last part was freed."""
    WALKS = 22
    """Walks of compaction's free scanner that took something."""
    WALKS_RIGHT = 23
    """Of those, in which the model takes and looks at as many frames."""
    WALKS_STRIDING = 24
    """Of those, with a stride above 1."""
    WALKED_FRAMES = 25
    """Frames that walks took in the model."""
    WALKS_IDLE = 26
    """Walks that took nothing."""
    WALKS_IDLE_RIGHT = 27
    """Of those, in which the model takes nothing either."""
    FAST_ISOLATED = 28
    """Frames that fast searches took: which ones is in no event, so the model keeps them until they are freed."""
    FREES_TO_COMPACTION = 29
    """Frees of unused targets by a CPU that migrates pages: they go back to compaction."""
    CLAIMS_EMPTY_SMALL = 30
    """Of ``CLAIMS_EMPTY``, those of blocks smaller than a pageblock."""
    CLAIMS_EMPTY_SMALL_RIGHT = 31
    CLAIMS_EMPTY_LARGE = 32
    """The others."""
    CLAIMS_EMPTY_LARGE_ORDER = 33
    """Of those, with the kind of fallback and the block's order foreseen, whatever its migratetype."""
    SET_ASIDE = 34
    """Blocks moved off lists that an event proves to be empty."""
    RETYPED = 35
    """Times an event named another type of a pageblock than the model had."""


COUNTS = len(Count)


@kernel(inline=True)
def free_block_around(buddy: Buddy, frame: int, order: int) -> int:
    """Return the order of the free block that holds a block whole, or -1."""
    for high in range(order, ORDERS):
        if buddy.state[frame & ~((1 << high) - 1)] == high:
            return high
    return -1


@kernel(inline=True)
def free_block(buddy: Buddy, frame: int, order: int) -> None:
    """Put a block that is nobody's on the free lists, larger ones than a pageblock in parts (``split_large_buddy``)."""
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
