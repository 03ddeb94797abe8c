"""Allocation flags: who asks, and what may be done for it.

Bits are those of Linux 6.18 (``include/linux/gfp_types.h``) where it has them; ``VFALLBACK`` is the RFC's.
"""

from __future__ import annotations

from enum import IntFlag
from functools import cache

from vclab.errors import ConfigurationError


class Gfp(IntFlag):
    """Flags of a request for pages."""

    NONE = 0
    DMA = 1 << 0
    """Below 16 MiB."""
    DMA32 = 1 << 2
    """Below 4 GiB."""
    MOVABLE = 1 << 3
    RECLAIMABLE = 1 << 4
    HIGH = 1 << 5
    IO = 1 << 6
    FS = 1 << 7
    ZERO = 1 << 8
    DIRECT_RECLAIM = 1 << 10
    KSWAPD_RECLAIM = 1 << 11
    NOWARN = 1 << 13
    RETRY_MAYFAIL = 1 << 14
    NOFAIL = 1 << 15
    NORETRY = 1 << 16
    NOMEMALLOC = 1 << 19
    VFALLBACK = 1 << 31
    """A virtually contiguous page may stand in (RFC: ``__GFP_VFALLBACK``)."""


GFP_KERNEL = Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM | Gfp.IO | Gfp.FS
GFP_ATOMIC = Gfp.HIGH | Gfp.KSWAPD_RECLAIM
GFP_VFALLBACK = GFP_KERNEL | Gfp.VFALLBACK


@cache
def migratetype(flags: int) -> int:
    """Return the migratetype that flags ask for: 0 unmovable, 1 movable, 2 reclaimable (``gfp_migratetype``).

    Raises
    ------
    ConfigurationError
        If they ask for both movable and reclaimable, which Linux warns of and no list serves.
    """
    both = int(Gfp.MOVABLE | Gfp.RECLAIMABLE)
    if int(flags) & both == both:
        raise ConfigurationError(f"flags {int(flags):#x} are both movable and reclaimable; pass one of the two")
    return (int(flags) & both) >> 3


def highest_zone(flags: int) -> str:
    """Return the highest zone that may serve a request: "DMA", "DMA32" or "Normal" (``gfp_zone``)."""
    if int(flags) & Gfp.DMA:
        return "DMA"
    return "DMA32" if int(flags) & Gfp.DMA32 else "Normal"
