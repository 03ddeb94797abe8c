"""Freeing: through what stands before a zone's free lists, for whoever frees: requests, programs, reclaim, compaction.

Reclaim and compaction know a zone's buddy allocator and its pages; what CPUs keep of the zone, and which of them is at
work, they find in :class:`~vckernels.pages.Pages`. Rules: Linux 6.18: ``mm/page_alloc.c``: ``__free_frozen_pages``,
``free_unref_folios``, ``drain_pages_zone``; ``mm/swap.c``: ``__folio_put``. Of 2.6.24: ``free_hot_cold_page``;
``mm/swap.c``: ``release_pages``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy, allocated_order, give_back
from vckernels.causes import Status
from vckernels.jit import kernel, unsigned
from vckernels.pages import ON_LRU, Pages, flags_of, hold_page
from vckernels.pcplist import drain_all, free_block, free_past_lists
from vckernels.pcplist_2_6_24 import free_single
from vckernels.rules import Option, PerCpuRule
from vckernels.zone import Zone, count_free

VECTOR = 14
"""Pages that 2.6.24 gathers to free them together (``PAGEVEC_SIZE``)."""


@kernel(inline=True)
def free_through_lists(zone: Zone, cpu: int, frame: int, order: int, cold: bool) -> int:
    """Free a block through the lists that its release has; return a status. ``cold``: nobody has it in a cache."""
    per_cpu = zone.buddy.options[Option.PER_CPU]
    if per_cpu == PerCpuRule.MANY_ORDERS:
        return free_block(zone, cpu, frame, order)
    if per_cpu == PerCpuRule.HOT_AND_COLD:
        return free_single(zone, cpu, frame, order, cold)
    return free_past_lists(zone, cpu, frame, order)


@kernel
def free_at_work(buddy: Buddy, pages: Pages, frame: int, order: int, cold: bool) -> int:
    """Free an allocated block as the CPU at work does; return a status. Mutates the zone, and what the CPU keeps."""
    if len(pages.per_cpu) == 0:
        return give_back(buddy, frame, order)
    zone = Zone(buddy, pages.limits, pages.per_cpu)
    count_free(zone)
    return free_through_lists(zone, pages.cpu[0], frame, order, cold)


@kernel
def release_page(buddy: Buddy, pages: Pages, frame: int, cold: bool) -> int:
    """Free a page, on a list or held, whatever its order; return a status. Rule: ``__page_cache_release``."""
    order = allocated_order(buddy, frame)
    if order < 0:
        return np.int64(Status.NOT_ALLOCATED)
    if flags_of(pages, frame) & ON_LRU:
        hold_page(buddy, pages, frame)
    pages.flags[unsigned(frame)] = 0
    return np.int64(free_at_work(buddy, pages, frame, order, cold))


@kernel
def release_pages(buddy: Buddy, pages: Pages, frames: npt.NDArray[np.int64]) -> int:
    """Free pages of somebody who ends; return how many were freed before one was refused.

    One after another (:func:`release_page`); where all pages are on the same lists, 14 at a time
    (:func:`release_vector`).

    Parameters
    ----------
    buddy, pages : Buddy, Pages
        Mutated.
    frames : int64[n]
        First frames of pages.
    """
    freed = 0
    step = 1 if pages.options[0] else VECTOR
    while freed < len(frames):
        count = min(step, len(frames) - freed)
        done = release_vector(buddy, pages, frames, freed, count, False)
        freed += done
        if done < count:
            break
    return freed


@kernel
def release_vector(
    buddy: Buddy, pages: Pages, frames: npt.NDArray[np.int64], start: int, count: int, cold: bool
) -> int:
    """Free ``count`` pages of an array, the last one first; return how many were freed before one was refused.

    Each goes to the CPU's list on its own, which gives back as soon as it is full. Rule: ``__pagevec_free`` of 2.6.24.
    """
    for i in range(count):
        if release_page(buddy, pages, frames[unsigned(start + count - 1 - i)], cold) != Status.OK:
            return i
    return count


@kernel
def drain_at_work(buddy: Buddy, pages: Pages) -> None:
    """Give back all that the CPU at work keeps of the zone (``drain_local_pages``; there is none before 2.6.35)."""
    if len(pages.per_cpu) > 0:
        zone = Zone(buddy, pages.limits, pages.per_cpu)
        count_free(zone)
        drain_all(zone, pages.cpu[0])


@kernel
def drain_everywhere(buddy: Buddy, pages: Pages) -> None:
    """Give back all that any CPU keeps of the zone (``drain_all_pages``)."""
    zone = Zone(buddy, pages.limits, pages.per_cpu)
    for cpu in range(len(pages.per_cpu)):
        count_free(zone)
        drain_all(zone, cpu)
