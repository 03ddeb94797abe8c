"""Watermarks: how much of a zone must stay free, by two generations of rules.

Linux 6.18 (``mm/page_alloc.c``: ``__zone_watermark_ok``, ``zone_watermark_fast``, ``boost_watermark``) counts free
frames, and for higher orders asks that one block be there. Linux 2.6.23 and 2.6.24 (``zone_watermark_ok``) discount
blocks that are too small order by order while the mark halves.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vckernels.allocflags import RESERVES, WMARK_MASK, AllocFlag
from vckernels.buddy import ORDERS, PAGEBLOCK_FRAMES, Buddy, Migratetype
from vckernels.jit import kernel, unsigned


class ZoneIndex(IntEnum):
    """The zones, lowest first: the highest that a request may use, and the column of what others keep from it."""

    DMA = 0
    DMA32 = 1
    NORMAL = 2
    MOVABLE = 3


ZONES = len(ZoneIndex)


class Limit(IntEnum):
    """Index into a zone's limits, int64[LIMITS]; frames unless said otherwise."""

    MIN = 0
    """The three watermarks stand at the numbers of ``WMARK_MIN``, ``WMARK_LOW`` and ``WMARK_HIGH``."""
    LOW = 1
    HIGH = 2
    PROMO = 3
    BOOST = 4
    """Added to every watermark since requests fell back to pageblocks of other types; kswapd takes it away."""
    BOOST_MOST = 5
    """What ``BOOST`` never exceeds, a pageblock at least; 0: nothing is boosted."""
    MANAGED = 6
    RESERVE_DMA = 7
    """``lowmem_reserve``: kept from requests whose highest zone is this, and the next, by :class:`ZoneIndex`."""
    RESERVE_DMA32 = 8
    RESERVE_NORMAL = 9
    RESERVE_MOVABLE = 10
    HIGHATOMIC_RESERVED = 11
    """Frames of the pageblocks reserved for atomic requests (``nr_reserved_highatomic``)."""
    HIGHATOMIC_MOST = 12
    """No further pageblock is reserved once as many frames are."""
    BATCH = 13
    """Frames moved at once between a per-CPU list and the zone, at least."""
    HIGH_MIN = 14
    """Bounds of what a CPU's lists may hold; with two lists, what the cold and the hot one may."""
    HIGH_MAX = 15
    BELOW_HIGH = 16
    """1 while the zone was last seen below its high watermark (``ZONE_BELOW_HIGH``)."""
    BOOSTED = 17
    """1 if ``BOOST`` grew and kswapd does not know yet (``ZONE_BOOSTED_WATERMARK``)."""
    RECLAIM_ACTIVE = 18
    """1 while kswapd may be scanning the zone (``ZONE_RECLAIM_ACTIVE``): per-CPU lists are kept short."""
    FREE = 19
    """Free frames, kept by :mod:`vckernels.zonelist` and what it calls, and counted anew at each of its entries."""
    FREE_HIGH_BATCH = 20
    """1 on CPUs whose caches hold more than three batches: freed blocks of orders 1 to 3 are let gather
    (``PCPF_FREE_HIGH_BATCH``)."""
    FIRST_FRAME = 21
    """The machine's number of the zone's first frame."""


LIMITS = len(Limit)


def new_limits(**values: int) -> npt.NDArray[np.int64]:
    """Return a zone's limits by lower-case name of :class:`Limit`, int64[LIMITS]; 0 where none is named."""
    limits = np.zeros(LIMITS, np.int64)
    for name, value in values.items():
        limits[Limit[name.upper()]] = value
    return limits


@kernel(inline=True)
def wmark_frames(limits: npt.NDArray[np.int64], mark: int) -> int:
    """Return a watermark (0 min, 1 low, 2 high) with what it is boosted by. Rule: ``wmark_pages``."""
    return limits[unsigned(mark)] + limits[Limit.BOOST]


@kernel
def free_highatomic(buddy: Buddy) -> int:
    """Return how many free frames are reserved for atomic requests (``nr_free_highatomic``)."""
    total = 0
    for order in range(ORDERS):
        total += buddy.free_blocks[unsigned(order), unsigned(Migratetype.HIGHATOMIC)] << order
    return total


@kernel(inline=True)
def _unusable(buddy: Buddy, limits: npt.NDArray[np.int64], order: int, flags: int) -> int:
    """Return the free frames that do not count for a request: all but one of its own, and reserved ones."""
    frames = (1 << order) - 1
    if not flags & RESERVES and limits[Limit.HIGHATOMIC_RESERVED] > 0:
        frames += free_highatomic(buddy)
    return frames


@kernel
def has_block(buddy: Buddy, order: int, flags: int) -> bool:
    """Return whether a free block is large enough, of a type that requests have, or reserved if flags allow those."""
    for high in range(order, ORDERS):
        for migratetype in range(Migratetype.HIGHATOMIC):
            if buddy.free_blocks[unsigned(high), unsigned(migratetype)] > 0:
                return True
        if flags & (AllocFlag.HIGHATOMIC | AllocFlag.OOM):
            if buddy.free_blocks[unsigned(high), unsigned(Migratetype.HIGHATOMIC)] > 0:
                return True
    return False


@kernel
def zone_watermark_ok(
    buddy: Buddy, limits: npt.NDArray[np.int64], order: int, mark: int, highest_zone: int, flags: int, free: int
) -> bool:
    """Return whether a request keeps a watermark. Rule: Linux 6.18's ``__zone_watermark_ok``.

    Parameters
    ----------
    buddy : Buddy
        Read: its lists' lengths.
    limits : int64[LIMITS]
        Read.
    order : int
        The request's.
    mark : int
        Frames that are to stay free, boost included.
    highest_zone : int
        The highest zone that the request may use: lower ones keep a reserve from it.
    flags : int
        Bits of :class:`~vckernels.allocflags.AllocFlag`.
    free : int
        Free frames of the zone.
    """
    least = mark
    if flags & AllocFlag.MIN_RESERVE:
        least -= least // 2
        if flags & AllocFlag.NON_BLOCK:
            least -= least // 4
    if flags & AllocFlag.OOM:
        least -= least // 2
    reserve = limits[unsigned(Limit.RESERVE_DMA + highest_zone)]
    if free - _unusable(buddy, limits, order, flags) <= least + reserve:
        return False
    return order == 0 or has_block(buddy, order, flags)


@kernel(inline=True)
def watermark_fast(
    buddy: Buddy, limits: npt.NDArray[np.int64], order: int, mark: int, highest_zone: int, flags: int, free: int
) -> bool:
    """Return whether a request keeps a watermark; parameters as in :func:`zone_watermark_ok`.

    Requests for one frame with ``MIN_RESERVE`` whose flags name the min watermark may ignore what that is boosted by.
    Rule: Linux 6.18's ``zone_watermark_fast``.
    """
    if order == 0:
        reserve = limits[unsigned(Limit.RESERVE_DMA + highest_zone)]
        # What does not count is at most all that is free, so that this differs from the full check's sum below 0 only.
        if max(free - _unusable(buddy, limits, 0, flags), 0) > mark + reserve:
            return True
    if zone_watermark_ok(buddy, limits, order, mark, highest_zone, flags, free):
        return True
    names_min = flags & WMARK_MASK == AllocFlag.WMARK_MIN
    if order == 0 and flags & AllocFlag.MIN_RESERVE and limits[Limit.BOOST] > 0 and names_min:
        return zone_watermark_ok(buddy, limits, 0, limits[Limit.MIN], highest_zone, flags, free)
    return False


@kernel
def zone_watermark_fast(
    buddy: Buddy, limits: npt.NDArray[np.int64], order: int, highest_zone: int, flags: int, free: int
) -> bool:
    """Return whether a request keeps the watermark that its flags name, as :func:`watermark_fast` checks it."""
    return watermark_fast(buddy, limits, order, wmark_frames(limits, flags & WMARK_MASK), highest_zone, flags, free)


@kernel
def zone_watermark_ok_2_6_24(
    buddy: Buddy, limits: npt.NDArray[np.int64], order: int, mark: int, highest_zone: int, flags: int, free: int
) -> bool:
    """Return whether a request keeps a watermark. Rule: ``zone_watermark_ok`` of Linux 2.6.23 and 2.6.24.

    For each order below the request's, its blocks cease to count and half as much must stay free. Parameters as in
    :func:`zone_watermark_ok`; reserved frames count like others.
    """
    least = mark
    left = free - (1 << order) + 1
    if flags & AllocFlag.MIN_RESERVE:
        least -= least // 2
    if flags & AllocFlag.NON_BLOCK:
        least -= least // 4
    if left <= least + limits[unsigned(Limit.RESERVE_DMA + highest_zone)]:
        return False
    for low in range(order):
        for migratetype in range(buddy.free_blocks.shape[1]):
            left -= buddy.free_blocks[unsigned(low), unsigned(migratetype)] << low
        least >>= 1
        if left <= least:
            return False
    return True


@kernel
def boost_watermark(limits: npt.NDArray[np.int64], claims: int) -> bool:
    """Boost the watermarks by a pageblock for each try to claim one; return whether there is any boost.

    Rule: ``boost_watermark``. Mutates ``BOOST`` and ``BOOSTED``.
    """
    if limits[Limit.BOOST_MOST] == 0 or claims == 0:
        return False
    boosted = limits[Limit.BOOST] + claims * PAGEBLOCK_FRAMES
    limits[Limit.BOOST] = min(boosted, limits[Limit.BOOST_MOST])
    limits[Limit.BOOSTED] = 1
    return True
