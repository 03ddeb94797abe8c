"""Capture: who compacts for a block takes it over at the moment when a free makes it whole.

Rule: Linux 6.18 ``mm/page_alloc.c``: ``compaction_capture``.
"""

from __future__ import annotations

import numpy as np

from vckernels.buddy import ALLOCATED, INSIDE, MAX_ORDER, PAGEBLOCK_ORDER, Buddy, Migratetype, is_free, remove
from vckernels.causes import Cause
from vckernels.jit import kernel, unsigned


@kernel
def completes(buddy: Buddy, frame: int, order: int, wanted: int, migratetype: int) -> bool:
    """Return whether freeing a block makes a block of an order that a request of a type may take over.

    It is asked at each union of buddies, below the largest order.
    """
    if order > wanted or wanted >= MAX_ORDER:
        return False
    block_type = np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])
    if block_type == Migratetype.ISOLATE:
        return False
    if wanted < PAGEBLOCK_ORDER and block_type == Migratetype.MOVABLE and migratetype != Migratetype.MOVABLE:
        return False
    for low in range(order, wanted):
        if not is_free(buddy, (frame & ~((1 << low) - 1)) ^ (1 << low), low):
            return False
    return True


@kernel
def take_over(buddy: Buddy, frame: int, order: int, wanted: int, migratetype: int) -> int:
    """Allocate the block that a block, no longer anybody's, completes; return its first frame. Mutates the zone."""
    buddy.state[unsigned(frame)] = INSIDE
    for low in range(order, wanted):
        other = (frame & ~((1 << low) - 1)) ^ (1 << low)
        remove(buddy, other, low)
    first = frame & ~((1 << wanted) - 1)
    buddy.state[unsigned(first)] = ALLOCATED + 16 * migratetype + wanted
    buddy.counters[Cause.MERGE] += wanted - order
    buddy.counters[Cause.ALLOCATION] += 1
    buddy.counters[Cause.CAPTURE] += 1
    return first
