"""What serves a request whose own lists are empty, by Linux 2.6.24's rules: ``__rmqueue_fallback``.

The largest block of another type is taken, whatever the request's size. If it is of order 4 or more, or the request is
reclaimable, all free blocks of its pageblock move to the lists of the request's type, and the pageblock with them if
they were half of it. What is kept in reserve is touched when all else is gone.
"""

from __future__ import annotations

import numpy as np

from vckernels.buddy import (
    ALLOCATED,
    MAX_ORDER,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    Buddy,
    Migratetype,
    first_block,
    insert_head,
    remove,
    take,
    take_smallest,
)
from vckernels.causes import Cause
from vckernels.jit import kernel, unsigned

#: Row = requested migratetype, columns = the types it falls back to, in order (``fallbacks`` of 2.6.24).
FALLBACKS = np.array(
    [
        [Migratetype.RECLAIMABLE, Migratetype.MOVABLE],
        [Migratetype.RECLAIMABLE, Migratetype.UNMOVABLE],
        [Migratetype.UNMOVABLE, Migratetype.MOVABLE],
    ],
    np.int64,
)


@kernel
def move_free_blocks_to_heads(buddy: Buddy, start: int, migratetype: int) -> int:
    """Move the free blocks that begin in a pageblock to the heads of other lists; return their frames.

    The pageblock keeps its type. One cut by the zone's end stays as it is. Rule: ``move_freepages_block``.
    """
    if start + PAGEBLOCK_FRAMES > len(buddy.state):
        return 0
    moved = 0
    frame = start
    while frame < start + PAGEBLOCK_FRAMES:
        state = np.int64(buddy.state[unsigned(frame)])
        if state < 0:
            frame += 1
        elif state < ALLOCATED:
            remove(buddy, frame, state)
            insert_head(buddy, frame, state, migratetype)
            moved += 1 << state
            frame += 1 << state
        else:
            frame += 1 << (state & 15)
    return moved


@kernel
def take_from_others(buddy: Buddy, order: int, migratetype: int) -> int:
    """Allocate the low end of the largest block of another type, by the table's order; return the frame or -1.

    Parameters
    ----------
    buddy : Buddy
        Mutated, unless the frame returned is -1.
    order, migratetype : int
        The request: ``UNMOVABLE``, ``MOVABLE`` or ``RECLAIMABLE``.
    """
    for high in range(MAX_ORDER, order - 1, -1):
        for choice in range(FALLBACKS.shape[1]):
            other = FALLBACKS[migratetype, choice]
            frame = first_block(buddy, high, other)
            if frame < 0:
                continue
            rest_type = other
            if high >= PAGEBLOCK_ORDER // 2 or migratetype == Migratetype.RECLAIMABLE:
                moved = move_free_blocks_to_heads(buddy, frame & ~(PAGEBLOCK_FRAMES - 1), migratetype)
                buddy.counters[Cause.CLAIM_MOVED_FRAMES] += moved
                if moved >= PAGEBLOCK_FRAMES // 2:
                    buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)] = migratetype
                    if high >= PAGEBLOCK_ORDER:
                        buddy.counters[Cause.CLAIM_BLOCK] += 1
                    else:
                        buddy.counters[Cause.CLAIM_PAGEBLOCK] += 1
                else:
                    buddy.counters[Cause.CLAIM_REFUSED] += 1
                rest_type = np.int64(migratetype)
            else:
                buddy.counters[Cause.STEAL] += 1
            return take(buddy, frame, high, order, rest_type, migratetype)
    frame = take_smallest(buddy, order, Migratetype.HIGHATOMIC)
    if frame >= 0:
        buddy.state[unsigned(frame)] = ALLOCATED + 16 * migratetype + order
        buddy.counters[Cause.RESERVE_BLOCK] += 1
    return frame
