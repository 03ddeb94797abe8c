"""What an allocation may do: which watermark it must keep, and how far it may dip below.

Bits are those of Linux 6.18 (``mm/internal.h``: ``ALLOC_...``). Releases of 2007 had fewer; where a flag of theirs has
an heir, it goes by the heir's name (``ALLOC_HIGH`` is ``MIN_RESERVE``, ``ALLOC_HARDER`` is ``NON_BLOCK``).
"""

from __future__ import annotations

from enum import IntEnum


class AllocFlag(IntEnum):
    """Bits of an allocation's flags; the lowest two name a watermark."""

    WMARK_MIN = 0
    WMARK_LOW = 1
    WMARK_HIGH = 2
    NO_WATERMARKS = 0x4
    """Check no watermark at all: an allocation made in order to free memory (``PF_MEMALLOC``)."""
    OOM = 0x8
    """The caller is being killed for want of memory."""
    NON_BLOCK = 0x10
    """The caller cannot wait."""
    MIN_RESERVE = 0x20
    """``__GFP_HIGH``: half of the min watermark may be used."""
    NOFRAGMENT = 0x100
    """Take no fallback block smaller than a pageblock."""
    HIGHATOMIC = 0x200
    """Blocks reserved for atomic requests of high orders may be used."""
    KSWAPD = 0x800
    """kswapd may be woken."""
    COLD = 0x1000
    """Until 2.6.24: the frame need not be in any cache (``__GFP_COLD``); later releases have no such lists."""


WMARK_MASK = 0x3
RESERVES = AllocFlag.OOM | AllocFlag.NON_BLOCK | AllocFlag.MIN_RESERVE | AllocFlag.HIGHATOMIC
"""Flags whose holders may use frames reserved for atomic requests when a watermark counts them."""
NOFRAGMENT = int(AllocFlag.NOFRAGMENT)
