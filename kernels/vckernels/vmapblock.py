"""Small mappings from blocks of addresses that each CPU has for itself (``vm_map_ram``).

A CPU takes up to 64 pages from the first of its blocks that has as many left, always behind what was taken before; if
none has, it makes a block. What is given back is dirty until its whole block is, which then waits for a purge like any
range that was freed lazily; so no address is used twice without a flush between. A purge takes along blocks of which
nothing is in use and too little is left to wait for. (``mm/vmalloc.c`` of 6.12: ``vb_alloc``, ``new_vmap_block``,
``vb_free``, ``purge_fragmented_block``; 2.6.28 looks for room with a bitmap, and finds the same place.)

Blocks are ranges of :class:`vckernels.vmap.Areas`, numbered by their nodes there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import lazyareas, vmap
from vckernels.causes import Cause, Status
from vckernels.jit import kernel
from vckernels.lazyareas import LazyAreas, State
from vckernels.vmap import NONE, Areas

BLOCK_PAGES = 1024
"""With up to 2048 CPUs (``VMAP_BBMAP_BITS``)."""
MOST_PAGES = 64
"""Of one mapping (``VMAP_MAX_ALLOC``)."""
PURGE_BELOW = BLOCK_PAGES // 4
"""Pages left at or above which a block without anything in use is kept (``VMAP_PURGE_THRESHOLD``)."""


class Blocks(NamedTuple):
    """Blocks, and each CPU's list of those with pages left.

    Attributes
    ----------
    left, dirty : int16[capacity]
        Pages never taken, and pages given back, by the block's node.
    cpu : int16[capacity]
        Whose block it is.
    following, preceding : int32[capacity + cpus]
        Links of the CPUs' lists; that of CPU ``c`` has its sentinel at ``capacity + c``.
    """

    left: npt.NDArray[np.int16]
    dirty: npt.NDArray[np.int16]
    cpu: npt.NDArray[np.int16]
    following: npt.NDArray[np.int32]
    preceding: npt.NDArray[np.int32]


def new_blocks(capacity: int, cpus: int) -> Blocks:
    """Return no blocks yet, for areas of a capacity."""
    links = np.arange(capacity + cpus, dtype=np.int32)
    return Blocks(
        left=np.zeros(capacity, np.int16),
        dirty=np.zeros(capacity, np.int16),
        cpu=np.zeros(capacity, np.int16),
        following=links,
        preceding=links.copy(),
    )


def grown(blocks: Blocks, capacity: int) -> Blocks:
    """Return the same with room for more ranges."""
    old = len(blocks.left)
    more = new_blocks(capacity, len(blocks.following) - old)
    for array, new in zip(blocks[:3], more[:3], strict=True):
        new[:old] = array
    for array, new in zip(blocks[3:], more[3:], strict=True):
        # Sentinels move behind the new blocks.
        moved = np.where(array >= old, array + capacity - old, array)
        new[:old] = moved[:old]
        new[capacity:] = moved[old:]
    return more


@kernel(inline=True)
def _append(blocks: Blocks, cpu: int, block: int) -> None:
    sentinel = len(blocks.left) + cpu
    last = np.int64(blocks.preceding[sentinel])
    blocks.following[last] = block
    blocks.preceding[block] = last
    blocks.following[block] = sentinel
    blocks.preceding[sentinel] = block


@kernel(inline=True)
def _unlink(blocks: Blocks, block: int) -> None:
    before = np.int64(blocks.preceding[block])
    after = np.int64(blocks.following[block])
    blocks.following[before] = after
    blocks.preceding[after] = before
    blocks.following[block] = block
    blocks.preceding[block] = block


@kernel(inline=True)
def _rounded(pages: int) -> int:
    """Return the power of two of pages that a mapping takes."""
    size = 1
    while size < pages:
        size *= 2
    return size


@kernel
def take(areas: Areas, lazy: LazyAreas, blocks: Blocks, pages: int, cpu: int) -> int:
    """Take addresses for a small mapping.

    Parameters
    ----------
    areas, lazy, blocks
        Mutated.
    pages : int
        1 to ``MOST_PAGES``; rounded up to a power of two.
    cpu : int

    Returns
    -------
    int
        First page, or minus a status with nothing changed but steps counted: ``OUT_OF_RANGE`` for other numbers of
        pages, or what reserving a block answers.
    """
    if pages < 1 or pages > MOST_PAGES:
        return -np.int64(Status.OUT_OF_RANGE)
    size = _rounded(pages)
    sentinel = len(blocks.left) + cpu
    block = np.int64(blocks.following[sentinel])
    while block != sentinel and blocks.left[block] < size:
        areas.counters[Cause.BLOCK_STEP] += 1
        block = np.int64(blocks.following[block])
    if block == sentinel:
        start = lazyareas.reserve(areas, lazy, BLOCK_PAGES, BLOCK_PAGES, cpu)
        if start < 0:
            return start
        block = lazyareas.find(areas, lazy, start)
        lazy.state[block] = State.BLOCK
        blocks.left[block] = BLOCK_PAGES
        blocks.dirty[block] = 0
        blocks.cpu[block] = cpu
        _append(blocks, cpu, block)
        areas.counters[Cause.BLOCK_NEW] += 1
    page = areas.start[block] + BLOCK_PAGES - blocks.left[block]
    blocks.left[block] -= size
    if blocks.left[block] == 0:
        _unlink(blocks, block)
    areas.counters[Cause.BLOCK_TAKE] += 1
    return page


@kernel(inline=True)
def _retire(areas: Areas, lazy: LazyAreas, blocks: Blocks, block: int) -> None:
    """Let a block of which nothing is in use wait for a purge."""
    if blocks.left[block] > 0:
        _unlink(blocks, block)
    blocks.left[block] = 0
    lazy.state[block] = State.BUSY
    lazyareas.retire(areas, lazy, areas.start[block])


@kernel
def give(areas: Areas, lazy: LazyAreas, blocks: Blocks, page: int, pages: int) -> int:
    """Give back the addresses of a small mapping, whose entries are cleared; return a status.

    ``OUT_OF_RANGE``, with nothing changed, if no block holds them or they were never taken. What was given back before
    is not told from what is in use: that is left to the page tables, which do not have it mapped.
    """
    block = vmap.find(areas, page)
    if block == NONE or lazy.state[block] != State.BLOCK or pages < 1 or pages > MOST_PAGES:
        return np.int64(Status.OUT_OF_RANGE)
    size = _rounded(pages)
    taken = BLOCK_PAGES - np.int64(blocks.left[block])
    if page + size > areas.start[block] + taken or blocks.dirty[block] + size > taken:
        return np.int64(Status.OUT_OF_RANGE)
    blocks.dirty[block] += size
    areas.counters[Cause.BLOCK_GIVE] += 1
    if blocks.dirty[block] == BLOCK_PAGES:
        _retire(areas, lazy, blocks, block)
    return np.int64(Status.OK)


@kernel
def retire_unused(areas: Areas, lazy: LazyAreas, blocks: Blocks, whole: bool) -> int:
    """Let blocks wait for the coming purge of which nothing is in use; return how many.

    Those with ``PURGE_BELOW`` pages left or more are kept, unless ``whole``.
    """
    count = 0
    cpus = len(blocks.following) - len(blocks.left)
    for cpu in range(cpus):
        sentinel = len(blocks.left) + cpu
        block = np.int64(blocks.following[sentinel])
        while block != sentinel:
            following = np.int64(blocks.following[block])
            unused = blocks.left[block] + blocks.dirty[block] == BLOCK_PAGES
            if unused and blocks.dirty[block] > 0 and (whole or blocks.left[block] < PURGE_BELOW):
                _retire(areas, lazy, blocks, block)
                count += 1
            block = following
    return count
