"""Searching the vmalloc area range by range from its lowest address, as Linux did for most of its life.

2.6.24 keeps all ranges in one list (``mm/vmalloc.c``: ``__get_vm_area_node``, ``__remove_vm_area``); 2.6.28 keeps them
in a tree, and walks it from the lowest range on (``alloc_vmap_area``), lazily freed ones included. Both find the place
that :func:`vckernels.vmap.reserve` finds, in as many steps as there are ranges below it. This is linear in the number
of ranges because the mechanism is.
"""

from __future__ import annotations

import numpy as np

from vckernels.causes import Cause, Status
from vckernels.jit import kernel
from vckernels.vmap import NONE, Areas, aligned_start, insert_below, lowest, refusal, successor


@kernel
def reserve_node(areas: Areas, pages: int, alignment: int) -> int:
    """Reserve the lowest pages that fit, looking at one range after another; return the range's node.

    Parameters
    ----------
    areas : Areas
        Mutated. Each range passed is one ``AREA_STEP``, the one that the new range goes before included.
    pages, alignment : int
        As in :func:`vckernels.vmap.reserve`, and so are the statuses returned where nothing is reserved.
    """
    refused = refusal(areas, pages)
    if refused < 0:
        return refused
    above = lowest(areas)
    while True:
        areas.counters[Cause.AREA_STEP] += 1
        if areas.gap[above] >= pages and aligned_start(areas, above, alignment) + pages <= areas.start[above]:
            return insert_below(areas, above, pages, alignment)
        above = successor(areas, above)
        if above == NONE:
            return -np.int64(Status.NO_SPACE)


@kernel
def find(areas: Areas, page: int) -> int:
    """Return the node of the range that holds a page, or ``NONE``, looking at one range after another."""
    node = lowest(areas)
    while node != 0:
        areas.counters[Cause.AREA_STEP] += 1
        if page < areas.start[node]:
            return NONE
        if page < areas.start[node] + areas.pages[node]:
            return node
        node = successor(areas, node)
    return NONE
