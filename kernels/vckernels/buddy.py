"""The buddy allocator of one zone, with the list placement of Linux 6.18 or of 2.6.23 and 2.6.24.

Free blocks of order 0..10 lie on one doubly linked list per order and migratetype. A block is split by
putting the upper half at the head of the next lower list; a freed block merges with its free buddies, and
what results goes to the tail when its parent's buddy is free (it may soon merge again), else to the head.
Rules: Linux 6.18 ``mm/page_alloc.c``: ``expand``, ``__free_one_page``, ``buddy_merge_likely``,
``split_large_buddy``. The list a free block lies on is always its pageblock's migratetype.

What was otherwise in 2007 is a matter of :class:`~vckernels.rules.Option`: everything went to the head, and blocks
stayed on the list that they were put on, whatever became of their pageblock's type (``mm/page_alloc.c`` of 2.6.24).

Frames are numbered from the zone's first frame, which is aligned to the largest order.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.causes import COUNTERS, Cause, Status
from vckernels.framelist import push_head, push_tail, unlink
from vckernels.jit import kernel, unsigned
from vckernels.rules import Option, new_options

MAX_ORDER = 10
ORDERS = MAX_ORDER + 1
PAGEBLOCK_ORDER = 9
PAGEBLOCK_FRAMES = 1 << PAGEBLOCK_ORDER


class Migratetype(IntEnum):
    """Mobility of a pageblock, numbered as in Linux since 3.x (``include/linux/mmzone.h``)."""

    UNMOVABLE = 0
    MOVABLE = 1
    RECLAIMABLE = 2
    HIGHATOMIC = 3
    """Reserved for atomic requests of high orders; in 2.6.24 for want of anything else (``MIGRATE_RESERVE``)."""
    ISOLATE = 4


TYPES = len(Migratetype)
LISTS = ORDERS * TYPES

INSIDE = -1
"""State of a frame that is not the first of any block."""
HOLE = -2
"""State of a frame that does not exist or never was the allocator's."""
ISOLATED = -3
"""State of a free frame that compaction has taken off its list and not used yet."""
PER_CPU = -16
"""The first frame of a block on a per-CPU list holds ``PER_CPU - 4 * order - migratetype``."""
ALLOCATED = 32
"""An allocated block's first frame holds ``ALLOCATED + 16 * migratetype + order``; a free one's, its order."""


class Buddy(NamedTuple):
    """One zone: 9 bytes a frame (10 where lists do not follow pageblocks), and one a pageblock.

    Lists are circular; list ``order * TYPES + migratetype`` has its sentinel at index ``frames + list``. More lists of
    the same frames, as per-CPU lists, have theirs behind.

    Attributes
    ----------
    next, prev : int32[frames + LISTS + lists]
        Neighbours on the list that a frame is on, and those of sentinels (:mod:`vckernels.framelist`).
    state : int8[frames]
        What starts at each frame: a free block's order, ``ALLOCATED + ...``, ``INSIDE`` or ``HOLE``.
    pageblock : int8[ceil(frames / 512)]
        Migratetype of each pageblock.
    free_blocks : int64[ORDERS, TYPES]
        Length of each list.
    counters : int64[COUNTERS]
        Events by :class:`~vckernels.causes.Cause`.
    options : int64[OPTIONS]
        Rules by :class:`~vckernels.rules.Option`.
    list_types : int8[frames] or int8[0]
        Migratetype of the list that each free block's first frame is on; empty where it is its pageblock's.
    """

    next: npt.NDArray[np.int32]
    prev: npt.NDArray[np.int32]
    state: npt.NDArray[np.int8]
    pageblock: npt.NDArray[np.int8]
    free_blocks: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]
    options: npt.NDArray[np.int64]
    list_types: npt.NDArray[np.int8]


def new_buddy(
    frames: int,
    migratetype: int = Migratetype.MOVABLE,
    merge_likely_to_tail: bool = True,
    lists: int = 0,
    options: npt.NDArray[np.int64] | None = None,
) -> Buddy:
    """Return a zone of holes: nothing is free until blocks are added with :func:`free_at_boot`.

    Parameters
    ----------
    frames : int
        Size of the zone in frames of 4 KiB, at most 2**31 - 64.
    migratetype : int
        Type of every pageblock at first; Linux boots with all movable.
    merge_likely_to_tail : bool
        The tail placement rule of Linux 6.18's options, for ablation.
    lists : int
        How many lists of frames there are beside the free lists.
    options : int64[OPTIONS], optional
        Other rules than Linux 6.18's, copied.
    """
    options = new_options(merge_likely_to_tail) if options is None else options.copy()
    own_types = frames if options[Option.GROUPED] and not options[Option.LISTS_FOLLOW_PAGEBLOCKS] else 0
    links = np.arange(frames + LISTS + lists, dtype=np.int32)
    return Buddy(
        next=links,
        prev=links.copy(),
        state=np.full(frames, HOLE, np.int8),
        pageblock=np.full((frames + PAGEBLOCK_FRAMES - 1) // PAGEBLOCK_FRAMES, migratetype, np.int8),
        free_blocks=np.zeros((ORDERS, TYPES), np.int64),
        counters=np.zeros(COUNTERS, np.int64),
        options=options,
        list_types=np.zeros(own_types, np.int8),
    )


@kernel(inline=True)
def list_type(buddy: Buddy, frame: int) -> int:
    """Return the migratetype of the list that a free block's first frame is on."""
    if len(buddy.list_types) > 0:
        return np.int64(buddy.list_types[unsigned(frame)])
    return np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])


@kernel(inline=True)
def _count_in(buddy: Buddy, frame: int, order: int, migratetype: int) -> None:
    """Note that a block starts at a frame and lies on a list. Mutates state, list length and type."""
    buddy.state[unsigned(frame)] = order
    buddy.free_blocks[unsigned(order), unsigned(migratetype)] += 1
    if len(buddy.list_types) > 0:
        buddy.list_types[unsigned(frame)] = migratetype


@kernel(inline=True)
def insert_head(buddy: Buddy, frame: int, order: int, migratetype: int) -> None:
    """Put a block at the head of its list. Mutates links, state and list length."""
    push_head(buddy.next, buddy.prev, len(buddy.state) + order * TYPES + migratetype, frame)
    _count_in(buddy, frame, order, migratetype)


@kernel(inline=True)
def insert_tail(buddy: Buddy, frame: int, order: int, migratetype: int) -> None:
    """Put a block at the tail of its list. Mutates links, state and list length."""
    push_tail(buddy.next, buddy.prev, len(buddy.state) + order * TYPES + migratetype, frame)
    _count_in(buddy, frame, order, migratetype)


@kernel(inline=True)
def remove(buddy: Buddy, frame: int, order: int) -> None:
    """Take a free block off its list. Mutates links, state and list length."""
    unlink(buddy.next, buddy.prev, frame)
    buddy.state[unsigned(frame)] = INSIDE
    buddy.free_blocks[unsigned(order), unsigned(list_type(buddy, frame))] -= 1


@kernel(inline=True)
def first_block(buddy: Buddy, order: int, migratetype: int) -> int:
    """Return the first frame of a list's head block, or -1 where the list is empty."""
    frame = np.int64(buddy.next[unsigned(len(buddy.state) + order * TYPES + migratetype)])
    return frame if frame < len(buddy.state) else -1


@kernel(inline=True)
def expand(buddy: Buddy, frame: int, high: int, low: int, migratetype: int) -> None:
    """Halve a removed block from order ``high`` down to ``low``, upper halves going to list heads."""
    for order in range(high - 1, low - 1, -1):
        insert_head(buddy, frame + (1 << order), order, migratetype)
    buddy.counters[Cause.SPLIT] += high - low


@kernel(inline=True)
def take(buddy: Buddy, frame: int, high: int, low: int, rest_type: int, requested_type: int) -> int:
    """Take a block off its list, keep its low end of order ``low``, give the rest back; return its frame."""
    remove(buddy, frame, high)
    expand(buddy, frame, high, low, rest_type)
    buddy.state[unsigned(frame)] = ALLOCATED + 16 * requested_type + low
    buddy.counters[Cause.ALLOCATION] += 1
    return frame


@kernel(inline=True)
def take_smallest(buddy: Buddy, order: int, migratetype: int) -> int:
    """Allocate from the lists of one migratetype: the head of the lowest order that has a block.

    Rule: ``__rmqueue_smallest``. Returns the first frame, or -1 with nothing changed.
    """
    for high in range(order, ORDERS):
        frame = first_block(buddy, high, migratetype)
        if frame >= 0:
            return take(buddy, frame, high, order, migratetype, migratetype)
    return -1


@kernel(inline=True)
def is_free(buddy: Buddy, frame: int, order: int) -> bool:
    """Return whether a free block of exactly this order starts at a frame (0 or more) and lies inside the zone."""
    return frame + (1 << order) <= len(buddy.state) and buddy.state[unsigned(frame)] == order


@kernel(inline=True)
def merge_and_insert(buddy: Buddy, frame: int, order: int) -> None:
    """Merge a block (on no list) with its free buddies and put it on its list. Rule: ``__free_one_page``."""
    migratetype = np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])
    follow = buddy.options[Option.LISTS_FOLLOW_PAGEBLOCKS] != 0
    merges = 0
    while order < MAX_ORDER:
        other = frame ^ (1 << order)
        if not is_free(buddy, other, order):
            break
        if follow and order >= PAGEBLOCK_ORDER:
            other_type = np.int64(buddy.pageblock[unsigned(other >> PAGEBLOCK_ORDER)])
            if other_type != migratetype and (
                migratetype >= Migratetype.HIGHATOMIC or other_type >= Migratetype.HIGHATOMIC
            ):
                break
        remove(buddy, other, order)
        if follow and order >= PAGEBLOCK_ORDER:
            buddy.pageblock[unsigned(other >> PAGEBLOCK_ORDER)] = migratetype
        buddy.state[unsigned(frame)] = INSIDE
        frame &= other
        order += 1
        merges += 1
    buddy.counters[Cause.MERGE] += merges
    parent_buddy = (frame & ~(1 << order)) ^ (1 << (order + 1))
    if buddy.options[Option.MERGE_LIKELY_TO_TAIL] and order < MAX_ORDER - 1 and is_free(buddy, parent_buddy, order + 1):
        insert_tail(buddy, frame, order, migratetype)
    else:
        insert_head(buddy, frame, order, migratetype)


@kernel(inline=True)
def allocated_order(buddy: Buddy, frame: int) -> int:
    """Return the order of the allocated block that starts at a frame, or -1 if none does."""
    if frame < 0 or frame >= len(buddy.state) or buddy.state[unsigned(frame)] < ALLOCATED:
        return -1
    return np.int64(buddy.state[unsigned(frame)]) & 15


@kernel(inline=True)
def give_back(buddy: Buddy, frame: int, order: int) -> int:
    """Free an allocated block and return a :class:`~vckernels.causes.Status`.

    Refused and without effect: a frame outside the zone, a block that is not allocated (a double free), an
    order that is not the block's. Where lists follow pageblocks, larger blocks are freed a pageblock at a time, as
    ``split_large_buddy`` does.
    """
    if frame < 0 or frame >= len(buddy.state) or order < 0 or order > MAX_ORDER:
        return Status.OUT_OF_RANGE
    state = np.int64(buddy.state[unsigned(frame)])
    if state < ALLOCATED:
        return Status.NOT_ALLOCATED
    if state & 15 != order:
        return Status.WRONG_ORDER
    buddy.counters[Cause.FREE] += 1
    if order <= PAGEBLOCK_ORDER or not buddy.options[Option.LISTS_FOLLOW_PAGEBLOCKS]:
        merge_and_insert(buddy, frame, order)
    else:
        buddy.state[unsigned(frame)] = INSIDE
        for part in range(frame, frame + (1 << order), PAGEBLOCK_FRAMES):
            merge_and_insert(buddy, part, PAGEBLOCK_ORDER)
    return Status.OK


@kernel(inline=True)
def fits(buddy: Buddy, frame: int, order: int) -> bool:
    """Return whether a block of this order may start at a frame: it exists, is aligned and lies inside the zone."""
    if order < 0 or order > MAX_ORDER or frame < 0:
        return False
    return frame & ((1 << order) - 1) == 0 and frame <= len(buddy.state) - (1 << order)


@kernel(inline=True)
def take_at(buddy: Buddy, frame: int, order: int, migratetype: int) -> int:
    """Allocate exactly this block, splitting the free block around it, and return a status.

    Halves go to list heads in the order in which splitting meets them, largest first, as they would had the
    free block been chosen by the allocator. Used to follow a recording and to place recorded blocks.
    """
    if not fits(buddy, frame, order):
        return Status.OUT_OF_RANGE
    for high in range(order, ORDERS):
        first = frame & ~((1 << high) - 1)
        if buddy.state[unsigned(first)] == high:
            old_type = list_type(buddy, first)
            remove(buddy, first, high)
            for half in range(high - 1, order - 1, -1):
                upper = first + (1 << half)
                if frame < upper:
                    insert_head(buddy, upper, half, old_type)
                else:
                    insert_head(buddy, first, half, old_type)
                    first = upper
            buddy.counters[Cause.SPLIT] += high - order
            buddy.state[unsigned(frame)] = ALLOCATED + 16 * migratetype + order
            buddy.counters[Cause.ALLOCATION] += 1
            return Status.OK
    return Status.NOT_FREE


@kernel
def free_at_boot(buddy: Buddy, frames: npt.NDArray[np.int64], orders: npt.NDArray[np.int8], to_tail: bool) -> int:
    """Put blocks of holes on the free lists as they are, without merging; return a status.

    Parameters
    ----------
    buddy : Buddy
        Mutated.
    frames : int64[n]
        First frames, each a multiple of its block's size; the pageblocks of one block have one type. On each list
        the last block given ends at the head, or at the tail with ``to_tail``.
    orders : int8[n]
    """
    for i in range(len(frames)):
        if not fits(buddy, frames[i], np.int64(orders[i])):
            return Status.OUT_OF_RANGE
    for i in range(len(frames)):
        frame = frames[i]
        order = np.int64(orders[i])
        buddy.state[frame : frame + (1 << order)] = INSIDE
        migratetype = np.int64(buddy.pageblock[unsigned(frame >> PAGEBLOCK_ORDER)])
        if to_tail:
            insert_tail(buddy, frame, order, migratetype)
        else:
            insert_head(buddy, frame, order, migratetype)
    return Status.OK


@kernel
def adopt(
    buddy: Buddy, frames: npt.NDArray[np.int64], orders: npt.NDArray[np.int8], migratetypes: npt.NDArray[np.int8]
) -> int:
    """Declare blocks of holes as allocated, so that they can be freed later; return a status."""
    for i in range(len(frames)):
        if not fits(buddy, frames[i], np.int64(orders[i])):
            return Status.OUT_OF_RANGE
    for i in range(len(frames)):
        order = np.int64(orders[i])
        buddy.state[frames[i] : frames[i] + (1 << order)] = INSIDE
        buddy.state[unsigned(frames[i])] = ALLOCATED + 16 * np.int64(migratetypes[i]) + order
    return Status.OK


@kernel
def read_list(buddy: Buddy, order: int, migratetype: int, blocks: npt.NDArray[np.int64]) -> None:
    """Write the first frames of one list's blocks, head first, into int64[free_blocks[order, migratetype]]."""
    frame = np.int64(buddy.next[unsigned(len(buddy.state) + order * TYPES + migratetype)])
    for i in range(len(blocks)):
        blocks[i] = frame
        frame = np.int64(buddy.next[unsigned(frame)])


@kernel
def free_frames(buddy: Buddy) -> int:
    """Return how many frames are free."""
    total = 0
    for order in range(ORDERS):
        for migratetype in range(TYPES):
            total += buddy.free_blocks[unsigned(order), unsigned(migratetype)] << order
    return total


@kernel
def usable_frames(buddy: Buddy, order: int) -> int:
    """Return how many frames lie in free blocks of at least an order."""
    total = 0
    for high in range(order, ORDERS):
        for migratetype in range(TYPES):
            total += buddy.free_blocks[high, migratetype] << high
    return total


@kernel
def describe_frames(buddy: Buddy, states: npt.NDArray[np.uint8]) -> None:
    """Write each frame's state into uint8[frames]: 0-10 free in a block of that order, 16 + migratetype allocated.

    255 stands for a hole.
    """
    frame = 0
    while frame < len(buddy.state):
        state = np.int64(buddy.state[unsigned(frame)])
        if state < 0:
            states[frame] = 255
            frame += 1
            continue
        order = state & 15
        states[frame : frame + (1 << order)] = state if state < ALLOCATED else 16 + ((state - ALLOCATED) >> 4)
        frame += 1 << order
