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
RECLAIM_MASK = GFP_KERNEL | Gfp.HIGH | Gfp.NOWARN | Gfp.RETRY_MAYFAIL | Gfp.NOFAIL | Gfp.NORETRY | Gfp.NOMEMALLOC
"""What of a request's flags says how memory is found for it, not where or what for (``GFP_RECLAIM_MASK``)."""


@cache
def structure_flags(flags: int) -> Gfp:
    """Return the flags with which a request for a virtual page asks for its page array and descriptors.

    The request's own, as far as they say how memory is found. Rules: Linux ``mm/vmalloc.c``: ``__vmalloc_area_node``
    (``nested_gfp``), ``__get_vm_area_node``, ``alloc_vmap_area``, all with ``GFP_RECLAIM_MASK``; 2.6.24 does the same
    (``__get_vm_area_node``).
    """
    return Gfp(int(flags)) & RECLAIM_MASK


@cache
def table_flags(flags: int) -> Gfp:
    """Return the flags with which a request for a virtual page asks for page tables.

    Linux asks for tables as ``GFP_KERNEL``, whoever maps (``GFP_PGTABLE_KERNEL``), less file systems or all devices
    where the request forbids them (``__vmalloc_area_node``: ``memalloc_nofs_save``, ``memalloc_noio_save``; releases
    without those scopes have nothing here that would tell the difference). That would sleep under a request that may
    not, so Linux up to 6.18 has no atomic vmalloc at all, and the RFC, which does map in interrupts (V2, patch 16),
    says nothing of tables. Here whoever may not wait asks for them as for its own frames: nothing is reclaimed, and
    what its flags let it take of the reserve is all that it gets. Later releases go further, to the last free frame
    (``memalloc_apply_gfp_scope``: ``memalloc_noreclaim_save``).
    """
    wanted = Gfp(int(flags))
    if not wanted & Gfp.DIRECT_RECLAIM:
        return wanted & RECLAIM_MASK
    if not wanted & Gfp.IO:
        return GFP_KERNEL if wanted & Gfp.FS else GFP_KERNEL & ~(Gfp.IO | Gfp.FS)
    return GFP_KERNEL if wanted & Gfp.FS else GFP_KERNEL & ~Gfp.FS


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
