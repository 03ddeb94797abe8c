"""The vmalloc area: address ranges with guard pages, first fit at the lowest address, aligned if asked.

Ranges in use are kept in one search tree by address. Each node also knows the gap below it and the largest
gap of its subtree, so the lowest gap that fits is found in logarithmic time (Linux ``mm/vmalloc.c`` does the
same over its free ranges since 5.2). The tree is a treap: a hash of the node number stands for the random
priority, which keeps runs reproducible. Addresses are page numbers from the start of the area, int64.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.causes import COUNTERS, Cause, Status
from vckernels.jit import kernel

NONE = -1


class Place(IntEnum):
    """Index into :attr:`Areas.places`."""

    ROOT = 0
    USED = 1
    """Nodes ever handed out."""
    SPARE = 2
    """First node of the list of nodes given back, linked through ``left``."""
    IN_USE = 3
    """Ranges reserved now."""


class Areas(NamedTuple):
    """Reserved ranges, and one node past the end of the area that carries the last gap.

    Attributes
    ----------
    left, right, parent : int32[capacity]
        Tree links, ``NONE`` where there is none.
    start, pages : int64[capacity]
        First page and length of each range, guard pages included.
    gap, largest : int64[capacity]
        Free pages just below the range; the largest gap in the node's subtree.
    places : int64[len(Place)]
    counters : int64[COUNTERS]
    """

    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    pages: npt.NDArray[np.int64]
    gap: npt.NDArray[np.int64]
    largest: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]


def new_areas(total_pages: int, capacity: int = 1024) -> Areas:
    """Return an empty area of ``total_pages`` with room for ``capacity - 1`` ranges."""
    areas = Areas(
        left=np.full(capacity, NONE, np.int32),
        right=np.full(capacity, NONE, np.int32),
        parent=np.full(capacity, NONE, np.int32),
        start=np.zeros(capacity, np.int64),
        pages=np.zeros(capacity, np.int64),
        gap=np.zeros(capacity, np.int64),
        largest=np.zeros(capacity, np.int64),
        places=np.array([0, 1, NONE, 0], np.int64),
        counters=np.zeros(COUNTERS, np.int64),
    )
    areas.start[0] = areas.gap[0] = areas.largest[0] = total_pages
    return areas


def grown(areas: Areas, capacity: int) -> Areas:
    """Return the same ranges with room for more."""
    more = {
        name: np.concatenate([old, np.full(capacity - len(old), NONE, old.dtype)])
        for name, old in areas._asdict().items()
        if name not in ("places", "counters")
    }
    return areas._replace(**more)


@kernel(inline=True)
def _priority(node: int) -> np.uint64:
    mixed = np.uint64(node + 1) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


@kernel(inline=True)
def _refresh(areas: Areas, node: int) -> bool:
    """Recompute a node's largest gap from its children; return whether it changed."""
    largest = areas.gap[node]
    for child in (np.int64(areas.left[node]), np.int64(areas.right[node])):
        if child != NONE and areas.largest[child] > largest:
            largest = areas.largest[child]
    changed = largest != areas.largest[node]
    areas.largest[node] = largest
    return changed


@kernel(inline=True)
def _refresh_upwards(areas: Areas, node: int) -> None:
    while node != NONE and _refresh(areas, node):
        node = np.int64(areas.parent[node])


@kernel(inline=True)
def _replace_child(areas: Areas, parent: int, old: int, new: int) -> None:
    if parent == NONE:
        areas.places[Place.ROOT] = new
    elif areas.left[parent] == old:
        areas.left[parent] = new
    else:
        areas.right[parent] = new
    if new != NONE:
        areas.parent[new] = parent


@kernel(inline=True)
def _rotate_up(areas: Areas, node: int) -> None:
    """Put a node in its parent's place and the parent below it, keeping the order of addresses."""
    parent = np.int64(areas.parent[node])
    _replace_child(areas, np.int64(areas.parent[parent]), parent, node)
    if areas.left[parent] == node:
        inner = np.int64(areas.right[node])
        areas.right[node] = parent
        areas.left[parent] = inner
    else:
        inner = np.int64(areas.left[node])
        areas.left[node] = parent
        areas.right[parent] = inner
    if inner != NONE:
        areas.parent[inner] = parent
    areas.parent[parent] = node
    _refresh(areas, parent)
    _refresh(areas, node)


@kernel(inline=True)
def lowest(areas: Areas) -> int:
    """Return the node of the range at the lowest address; the node past the end where there is none."""
    node = areas.places[Place.ROOT]
    while areas.left[node] != NONE:
        node = np.int64(areas.left[node])
    return node


@kernel(inline=True)
def successor(areas: Areas, node: int) -> int:
    """Return the node of the next range by address; ``NONE`` after the node past the end."""
    if areas.right[node] != NONE:
        node = np.int64(areas.right[node])
        while areas.left[node] != NONE:
            node = np.int64(areas.left[node])
        return node
    above = np.int64(areas.parent[node])
    while above != NONE and areas.right[above] == node:
        node = above
        above = np.int64(areas.parent[node])
    return above


@kernel
def find(areas: Areas, page: int) -> int:
    """Return the node of the range that holds a page, or ``NONE``."""
    node = areas.places[Place.ROOT]
    while node != NONE:
        areas.counters[Cause.AREA_STEP] += 1
        if page < areas.start[node]:
            node = np.int64(areas.left[node])
        elif page >= areas.start[node] + areas.pages[node]:
            node = np.int64(areas.right[node])
        else:
            return node
    return NONE


@kernel(inline=True)
def aligned_start(areas: Areas, node: int, alignment: int) -> int:
    """Return the first multiple of a power of two in the gap below a node, or past it."""
    return (areas.start[node] - areas.gap[node] + alignment - 1) & -alignment


@kernel(inline=True)
def _lowest_fit(areas: Areas, pages: int, alignment: int) -> int:
    """Return the leftmost node whose gap holds ``pages`` from a multiple of ``alignment`` on, or ``NONE``."""
    above = areas.places[Place.ROOT]
    entered = True
    while True:
        areas.counters[Cause.AREA_STEP] += 1
        below = np.int64(areas.left[above])
        if entered and below != NONE and areas.largest[below] >= pages:
            above = below
            continue
        if areas.gap[above] >= pages and aligned_start(areas, above, alignment) + pages <= areas.start[above]:
            return above
        beyond = np.int64(areas.right[above])
        if beyond != NONE and areas.largest[beyond] >= pages:
            above = beyond
            entered = True
            continue
        # Long gaps without room at a multiple led here: the next node by address, its left side being done.
        while areas.parent[above] != NONE and areas.right[np.int64(areas.parent[above])] == above:
            above = np.int64(areas.parent[above])
        above = np.int64(areas.parent[above])
        if above == NONE:
            return NONE
        entered = False


@kernel
def insert_below(areas: Areas, above: int, pages: int, alignment: int) -> int:
    """Reserve a range in the gap below a node that holds it at a multiple; return its node.

    Mutates ``areas``, which have a node to spare.
    """
    node = areas.places[Place.SPARE]
    if node != NONE:
        areas.places[Place.SPARE] = np.int64(areas.left[node])
    else:
        node = areas.places[Place.USED]
        areas.places[Place.USED] = node + 1
    start = aligned_start(areas, above, alignment)
    skipped = start - (areas.start[above] - areas.gap[above])
    areas.start[node] = start
    areas.pages[node] = pages
    areas.gap[node] = skipped
    areas.largest[node] = skipped
    areas.left[node] = NONE
    areas.right[node] = NONE
    areas.gap[above] -= skipped + pages
    if areas.left[above] == NONE:
        areas.left[above] = node
        areas.parent[node] = above
    else:
        last = np.int64(areas.left[above])
        while areas.right[last] != NONE:
            last = np.int64(areas.right[last])
        areas.right[last] = node
        areas.parent[node] = last
    # The new gap changes what lies between the node and the one above it; that one's own gap changed too.
    if skipped > 0:
        _refresh_upwards(areas, np.int64(areas.parent[node]))
    _refresh_upwards(areas, above)
    while areas.parent[node] != NONE and _priority(np.int64(areas.parent[node])) < _priority(node):
        _rotate_up(areas, node)
    areas.places[Place.IN_USE] += 1
    areas.counters[Cause.AREA_RESERVE] += 1
    return node


@kernel(inline=True)
def refusal(areas: Areas, pages: int) -> int:
    """Return minus the status that refuses a range before any search, 0 if none does."""
    if pages < 1 or areas.largest[areas.places[Place.ROOT]] < pages:
        return -np.int64(Status.NO_SPACE)
    if areas.places[Place.SPARE] == NONE and areas.places[Place.USED] == len(areas.start):
        return -np.int64(Status.NO_CAPACITY)
    return 0


@kernel(inline=True)
def reserve_node(areas: Areas, pages: int, alignment: int) -> int:
    """Do as :func:`reserve` does; return the range's node."""
    refused = refusal(areas, pages)
    if refused < 0:
        return refused
    above = _lowest_fit(areas, pages, alignment)
    if above == NONE:
        return -np.int64(Status.NO_SPACE)
    return insert_below(areas, above, pages, alignment)


@kernel
def reserve(areas: Areas, pages: int, alignment: int = 1) -> int:
    """Reserve the lowest ``pages`` pages that are free and start at a multiple; return the first of them.

    Parameters
    ----------
    areas : Areas
        Mutated.
    pages : int
    alignment : int
        Pages, a power of two. Above 1 every gap of at least ``pages`` below the range is visited, since a gap's length
        does not tell what fits at a multiple; Linux prunes by ``pages + alignment - 1`` and may pass over a lower place
        (``mm/vmalloc.c``: ``find_vmap_lowest_match``).

    Returns
    -------
    int
        First page, or minus a status with nothing changed but the steps counted: ``NO_CAPACITY`` where all nodes are
        in use and some gap is long enough, ``NO_SPACE`` where nothing fits (or ``pages`` is below 1).
    """
    node = reserve_node(areas, pages, alignment)
    return node if node < 0 else areas.start[node]


@kernel
def release_node(areas: Areas, node: int) -> int:
    """Give back the range of a node; return its length in pages."""
    pages = areas.pages[node]
    above = successor(areas, node)
    while areas.left[node] != NONE or areas.right[node] != NONE:
        left = np.int64(areas.left[node])
        right = np.int64(areas.right[node])
        if right == NONE or (left != NONE and _priority(left) > _priority(right)):
            _rotate_up(areas, left)
        else:
            _rotate_up(areas, right)
    parent = np.int64(areas.parent[node])
    _replace_child(areas, parent, node, NONE)
    _refresh_upwards(areas, parent)
    areas.gap[above] += pages + areas.gap[node]
    _refresh_upwards(areas, above)
    areas.left[node] = areas.places[Place.SPARE]
    areas.places[Place.SPARE] = node
    areas.places[Place.IN_USE] -= 1
    areas.counters[Cause.AREA_RELEASE] += 1
    return pages


@kernel
def release(areas: Areas, start: int) -> int:
    """Give back the range that starts at a page; return its length in pages, or -1 if none starts there."""
    node = find(areas, start)
    if node == NONE or areas.start[node] != start:
        return -1
    return release_node(areas, node)


@kernel
def list_ranges(areas: Areas, starts: npt.NDArray[np.int64], pages: npt.NDArray[np.int64]) -> int:
    """Write all reserved ranges by ascending address into int64[in use] each; return how many there are."""
    node = lowest(areas)
    count = 0
    while node != 0:
        starts[count] = areas.start[node]
        pages[count] = areas.pages[node]
        count += 1
        node = successor(areas, node)
    return count
