"""Pageblocks kept back: for atomic requests of high orders today, for want of anything else in 2.6.24.

Rules: Linux 6.18 ``mm/page_alloc.c``: ``reserve_highatomic_pageblock``, ``unreserve_highatomic_pageblock``; Linux
2.6.24: ``setup_zone_migrate_reserve``.
"""

from __future__ import annotations

import numpy as np

from vckernels.buddy import (
    ORDERS,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    Migratetype,
    first_block,
    insert_tail,
    remove,
)
from vckernels.causes import Cause
from vckernels.claim import move_free_blocks
from vckernels.fallback_2_6_24 import move_free_blocks_to_heads
from vckernels.jit import kernel
from vckernels.rules import Fallback, Option
from vckernels.watermark import Limit
from vckernels.zone import Zone


@kernel
def reserve_pageblock(zone: Zone, frame: int, order: int) -> bool:
    """Reserve the pageblocks around a block just allocated to an atomic request; return whether any were.

    Not if as much as the limit allows is reserved, if the pageblock is kept back already or isolated, or if the zone's
    end cuts it.
    """
    buddy = zone.buddy
    if zone.limits[Limit.HIGHATOMIC_RESERVED] >= zone.limits[Limit.HIGHATOMIC_MOST]:
        return False
    start = frame & ~(PAGEBLOCK_FRAMES - 1)
    if buddy.pageblock[start >> PAGEBLOCK_ORDER] >= Migratetype.HIGHATOMIC:
        return False
    if start + PAGEBLOCK_FRAMES > len(buddy.state):
        return False
    if order < PAGEBLOCK_ORDER:
        move_free_blocks(buddy, start, Migratetype.HIGHATOMIC)
    frames = max(PAGEBLOCK_FRAMES, 1 << order)
    for part in range(start, start + frames, PAGEBLOCK_FRAMES):
        buddy.pageblock[part >> PAGEBLOCK_ORDER] = Migratetype.HIGHATOMIC
    zone.limits[Limit.HIGHATOMIC_RESERVED] += frames
    buddy.counters[Cause.HIGHATOMIC_RESERVE] += frames >> PAGEBLOCK_ORDER
    return True


@kernel
def release_pageblock(zone: Zone, migratetype: int, force: bool) -> bool:
    """Give the pageblocks of the smallest reserved free block to a type; return whether there was one.

    Without ``force`` the last pageblock stays.
    """
    buddy = zone.buddy
    limits = zone.limits
    if not force and limits[Limit.HIGHATOMIC_RESERVED] <= PAGEBLOCK_FRAMES:
        return False
    for order in range(ORDERS):
        frame = first_block(buddy, order, Migratetype.HIGHATOMIC)
        if frame < 0:
            continue
        frames = max(PAGEBLOCK_FRAMES, 1 << order)
        limits[Limit.HIGHATOMIC_RESERVED] -= min(frames, limits[Limit.HIGHATOMIC_RESERVED])
        buddy.counters[Cause.HIGHATOMIC_RELEASE] += frames >> PAGEBLOCK_ORDER
        if order < PAGEBLOCK_ORDER:
            move_free_blocks(buddy, frame & ~(PAGEBLOCK_FRAMES - 1), migratetype)
            return True
        remove(buddy, frame, order)
        for part in range(frame, frame + frames, PAGEBLOCK_FRAMES):
            buddy.pageblock[part >> PAGEBLOCK_ORDER] = migratetype
        insert_tail(buddy, frame, order, migratetype)
        return True
    return False


@kernel
def keep_reserve(zone: Zone) -> int:
    """Keep back as many pageblocks as hold the min watermark, from the zone's start; return how many.

    Movable ones become reserved, and reserved ones that are too many movable again. Rule of Linux 2.6.24, where it runs
    whenever watermarks are set; under other rules nothing happens.
    """
    buddy = zone.buddy
    if buddy.options[Option.FALLBACK] != Fallback.MOVE_LARGEST:
        return 0
    left = (zone.limits[Limit.MIN] + PAGEBLOCK_FRAMES - 1) >> PAGEBLOCK_ORDER
    kept = 0
    for block in range(len(buddy.pageblock)):
        start = block << PAGEBLOCK_ORDER
        migratetype = np.int64(buddy.pageblock[block])
        if left > 0 and migratetype == Migratetype.HIGHATOMIC:
            left -= 1
            kept += 1
        elif left > 0 and migratetype == Migratetype.MOVABLE:
            buddy.pageblock[block] = Migratetype.HIGHATOMIC
            move_free_blocks_to_heads(buddy, start, Migratetype.HIGHATOMIC)
            left -= 1
            kept += 1
        elif migratetype == Migratetype.HIGHATOMIC:
            buddy.pageblock[block] = Migratetype.MOVABLE
            move_free_blocks_to_heads(buddy, start, Migratetype.MOVABLE)
    return kept
