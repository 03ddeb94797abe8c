"""Ranges of the vmalloc area that are freed lazily: unmapped at once, given back when all CPUs have flushed.

A freed range waits until more pages wait than a limit. Then one flush covers all of them, from the lowest to the
highest, and they are given back together. Since 6.9 there are several nodes, one for each CPU up to 128. A CPU's node
keeps what it freed, and pools of ready ranges by their exact length, 1 to 256 pages: an allocation looks there first
and needs no search. Each purge gives back a quarter of every pool and then puts what it purges into the pools.
(``mm/vmalloc.c``: ``node_alloc``, ``free_vmap_area_noflush``, ``decay_va_pool_node``, ``purge_vmap_node``,
``__purge_vmap_area_lazy``.)
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import areawalk, vmap
from vckernels.causes import Cause
from vckernels.jit import kernel
from vckernels.vmap import NONE, Areas

POOLS = 256
"""Lengths of ranges, in pages, guard pages included, that a node has a pool for."""


class State(IntEnum):
    """What a range is; the area's own nodes that are no range are 0 too."""

    BUSY = 0
    LAZY = 1
    """Freed, waiting for a purge."""
    POOLED = 2
    """Flushed, ready to be handed out again."""
    BLOCK = 3
    """In use, in small parts (:mod:`vckernels.vmapblock`)."""


class Place(IntEnum):
    """Index into :attr:`LazyAreas.places`."""

    WAITING = 0
    """Pages of the ranges that wait for a purge."""
    LIMIT = 1
    """More pages than this do not wait."""
    WALKS = 2
    """The area is searched range by range."""


class LazyAreas(NamedTuple):
    """States of ranges, and the nodes' lists of them.

    Attributes
    ----------
    state : int8[capacity]
        :class:`State` of each range, by its node in :class:`vckernels.vmap.Areas`.
    home : int16[capacity]
        The vmap node of the CPU that reserved it.
    link : int32[capacity]
        Next range of the list or pool that it is in, ``NONE`` at its end.
    waiting : int32[nodes]
        First of each node's freed ranges, the latest.
    first, last, length : int32[nodes, POOLS or 0]
        Pools by length less one: their ends, ``NONE`` if empty, and how many ranges they hold. 0: there are no pools.
    places : int64[len(Place)]
    """

    state: npt.NDArray[np.int8]
    home: npt.NDArray[np.int16]
    link: npt.NDArray[np.int32]
    waiting: npt.NDArray[np.int32]
    first: npt.NDArray[np.int32]
    last: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]
    places: npt.NDArray[np.int64]


def new_lazy_areas(capacity: int, limit: int, nodes: int = 1, walks: bool = False) -> LazyAreas:
    """Return nothing freed yet.

    Parameters
    ----------
    capacity : int
        That of the areas.
    limit : int
        Pages that may wait.
    nodes : int
        vmap nodes. A single one has no pools (``vmap_init_nodes``, ``node_alloc``).
    walks : bool
        The area is searched range by range, as in 2.6.28.
    """
    pools = (nodes, POOLS if nodes > 1 else 0)
    return LazyAreas(
        state=np.zeros(capacity, np.int8),
        home=np.zeros(capacity, np.int16),
        link=np.full(capacity, NONE, np.int32),
        waiting=np.full(nodes, NONE, np.int32),
        first=np.full(pools, NONE, np.int32),
        last=np.full(pools, NONE, np.int32),
        length=np.zeros(pools, np.int32),
        places=np.array([0, limit, walks], np.int64),
    )


def grown(lazy: LazyAreas, capacity: int) -> LazyAreas:
    """Return the same with room for more ranges."""
    more = capacity - len(lazy.state)
    return lazy._replace(
        state=np.concatenate([lazy.state, np.zeros(more, np.int8)]),
        home=np.concatenate([lazy.home, np.zeros(more, np.int16)]),
        link=np.concatenate([lazy.link, np.full(more, NONE, np.int32)]),
    )


@kernel(inline=True)
def _take_from_pool(areas: Areas, lazy: LazyAreas, home: int, pages: int, alignment: int) -> int:
    """Take the first range of a pool; one that is not aligned goes to its end instead. Return its node or ``NONE``."""
    pool = pages - 1
    if pool >= lazy.first.shape[1] or lazy.first[home, pool] == NONE:
        return NONE
    node = np.int64(lazy.first[home, pool])
    lazy.first[home, pool] = lazy.link[node]
    if lazy.link[node] == NONE:
        lazy.last[home, pool] = NONE
    lazy.link[node] = NONE
    if areas.start[node] & (alignment - 1) == 0:
        lazy.length[home, pool] -= 1
        return node
    if lazy.last[home, pool] == NONE:
        lazy.first[home, pool] = node
    else:
        lazy.link[np.int64(lazy.last[home, pool])] = node
    lazy.last[home, pool] = node
    return NONE


@kernel
def reserve(areas: Areas, lazy: LazyAreas, pages: int, alignment: int, cpu: int) -> int:
    """Reserve pages for a CPU: a ready range of its node's pool, or the lowest pages that are free.

    Parameters
    ----------
    areas, lazy
        Mutated.
    pages, alignment : int
        As in :func:`vckernels.vmap.reserve`.
    cpu : int

    Returns
    -------
    int
        First page, or minus a status with nothing changed but the steps counted and the order within a pool.
    """
    home = cpu % len(lazy.waiting)
    node = np.int64(NONE)
    if pages > 0:
        node = _take_from_pool(areas, lazy, home, pages, alignment)
    if node != NONE:
        areas.counters[Cause.AREA_POOL_HIT] += 1
    elif lazy.places[Place.WALKS] != 0:
        node = areawalk.reserve_node(areas, pages, alignment)
    else:
        node = vmap.reserve_node(areas, pages, alignment)
    if node < 0:
        return node
    lazy.state[node] = State.BUSY
    lazy.home[node] = home
    return areas.start[node]


@kernel
def find(areas: Areas, lazy: LazyAreas, page: int) -> int:
    """Return the node of the range in use that holds a page, or ``NONE``."""
    node = vmap.find(areas, page)
    return node if node == NONE or lazy.state[node] == State.BUSY else np.int64(NONE)


@kernel
def retire(areas: Areas, lazy: LazyAreas, start: int) -> int:
    """Let the range in use that starts at a page wait for a purge; return its pages, or -1 if none does.

    Where more pages wait than the limit afterwards, a purge is due.
    """
    node = find(areas, lazy, start)
    if node == NONE or areas.start[node] != start:
        return -1
    home = np.int64(lazy.home[node])
    lazy.state[node] = State.LAZY
    lazy.link[node] = lazy.waiting[home]
    lazy.waiting[home] = node
    lazy.places[Place.WAITING] += areas.pages[node]
    areas.counters[Cause.AREA_LAZY_FREE] += 1
    return areas.pages[node]


@kernel
def bounds(areas: Areas, lazy: LazyAreas, ends: npt.NDArray[np.int64]) -> int:
    """Write the lowest page that waits for a flush, and the one past the highest, into int64[2]; return the ranges."""
    count = 0
    for home in range(len(lazy.waiting)):
        node = np.int64(lazy.waiting[home])
        while node != NONE:
            end = areas.start[node] + areas.pages[node]
            ends[0] = areas.start[node] if count == 0 else min(ends[0], areas.start[node])
            ends[1] = end if count == 0 else max(ends[1], end)
            count += 1
            node = np.int64(lazy.link[node])
    return count


@kernel(inline=True)
def _give_back(areas: Areas, lazy: LazyAreas, node: int) -> None:
    lazy.state[node] = State.BUSY
    lazy.link[node] = NONE
    vmap.release_node(areas, node)


@kernel
def _decay(areas: Areas, lazy: LazyAreas, home: int, whole: bool) -> None:
    """Give back the first quarter of each of a node's pools, or all that they hold."""
    for pool in range(lazy.first.shape[1]):
        leaving = np.int64(lazy.length[home, pool])
        if not whole:
            leaving >>= 2
        lazy.length[home, pool] -= leaving
        for _ in range(leaving):
            node = np.int64(lazy.first[home, pool])
            lazy.first[home, pool] = lazy.link[node]
            _give_back(areas, lazy, node)
        if lazy.first[home, pool] == NONE:
            lazy.last[home, pool] = NONE


@kernel(inline=True)
def _split(lazy: LazyAreas, node: int, count: int) -> int:
    """Cut a list after ``count`` ranges; return the first of the rest."""
    for _ in range(count - 1):
        if node == NONE:
            return NONE
        node = np.int64(lazy.link[node])
    if node == NONE:
        return NONE
    rest = np.int64(lazy.link[node])
    lazy.link[node] = NONE
    return rest


@kernel
def _sort(areas: Areas, lazy: LazyAreas, head: int) -> int:
    """Sort a list by address, merging runs of 1, 2, 4 ... ranges; return its first."""
    width = 1
    while True:
        rest = head
        head = np.int64(NONE)
        tail = np.int64(NONE)
        merges = 0
        while rest != NONE:
            left = rest
            right = _split(lazy, left, width)
            rest = _split(lazy, right, width) if right != NONE else np.int64(NONE)
            merges += 1
            while left != NONE or right != NONE:
                from_left = right == NONE or (left != NONE and areas.start[left] < areas.start[right])
                node = left if from_left else right
                if from_left:
                    left = np.int64(lazy.link[left])
                else:
                    right = np.int64(lazy.link[right])
                lazy.link[node] = NONE
                if tail == NONE:
                    head = node
                else:
                    lazy.link[tail] = node
                tail = node
        if merges <= 1:
            return head
        width *= 2


@kernel(inline=True)
def _put_into_pool(areas: Areas, lazy: LazyAreas, home: int, node: int) -> bool:
    """Make a range the first of its pool; return whether there is one for its length."""
    pool = areas.pages[node] - 1
    if pool >= lazy.first.shape[1]:
        return False
    lazy.state[node] = State.POOLED
    lazy.link[node] = lazy.first[home, pool]
    lazy.first[home, pool] = node
    if lazy.last[home, pool] == NONE:
        lazy.last[home, pool] = node
    lazy.length[home, pool] += 1
    return True


@kernel
def purge(areas: Areas, lazy: LazyAreas, whole: bool) -> int:
    """Give back all ranges that wait, the CPUs having flushed; return how many.

    Parameters
    ----------
    areas, lazy
        Mutated.
    whole : bool
        Empty the pools and put nothing into them, because address space is short.
    """
    count = 0
    for home in range(len(lazy.waiting)):
        _decay(areas, lazy, home, whole)
    for home in range(len(lazy.waiting)):
        node = _sort(areas, lazy, np.int64(lazy.waiting[home]))
        lazy.waiting[home] = NONE
        while node != NONE:
            following = np.int64(lazy.link[node])
            lazy.link[node] = NONE
            if whole or not _put_into_pool(areas, lazy, home, node):
                _give_back(areas, lazy, node)
            count += 1
            node = following
    lazy.places[Place.WAITING] = 0
    areas.counters[Cause.AREA_PURGE] += 1
    return count
