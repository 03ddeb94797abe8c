"""Replay recorded per-CPU page lists one step ahead: which page does an allocation get from its CPU's list?

Rules, Linux 6.18 ``mm/page_alloc.c``: a CPU keeps a list of blocks for each small order and migratetype
(``order_to_pindex``). An allocation pops the head (``__rmqueue_pcplist``). An empty list is refilled from the zone,
each block put at the tail (``rmqueue_bulk``; at least two blocks at a time, ``nr_pcp_alloc``). A free pushes at the
head of its pageblock's list (``free_frozen_page_commit``). Draining takes from the tails (``free_pcppages_bulk``).
While a CPU migrates pages for compaction, what it frees goes back to compaction and to no list (``compaction_free``).

What the trace does not show is inferred from it, and each such step is counted.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import PAGEBLOCK_FRAMES, PAGEBLOCK_ORDER, Migratetype
from vckernels.framelist import push_head, push_tail, unlink
from vckernels.jit import kernel
from vckernels.replay import ZONE_DRAIN, ZONE_FALLBACK, ZONE_REMOVAL, Stream

PAGE_ALLOCATION, PAGE_FREE = 0, 1
"""Operations of the API-level stream: mm_page_alloc, mm_page_free. They stand among the zone's removals, drains and
fallbacks; the zone's own frees do not."""
MIGRATION_BEGIN, MIGRATION_END, COMPACTION_END = 8, 11, 7
"""A CPU begins to migrate pages for compaction (mm_compaction_isolate_migratepages), and ends (_migratepages, _end)."""

LARGEST_SMALL_ORDER = 3
"""Orders up to this one have per-CPU lists (``PAGE_ALLOC_COSTLY_ORDER``), and that of a pageblock
(``pcp_allowed_order``)."""
SMALL_TYPES = 3
LISTS_PER_CPU = (LARGEST_SMALL_ORDER + 1) * SMALL_TYPES + 2

NO_LIST, TAKEN_AT_ONCE = -1, -2


class CpuLists(NamedTuple):
    """The per-CPU lists of one zone, and what is known of the zone.

    Attributes
    ----------
    next, prev : int32[frames + cpus * LISTS_PER_CPU]
        Links of blocks' first frames, and those of sentinels (:mod:`vckernels.framelist`).
    list_number : int16[frames]
        The list that a block is on, or ``NO_LIST``.
    pageblock : int8[ceil(frames / 512)]
        Migratetype of each pageblock, as far as events have told.
    filling : int16[cpus]
        The list that a CPU is refilling while its removals follow each other, ``NO_LIST``, or ``TAKEN_AT_ONCE`` after a
        removal straight for an allocation.
    migrating : int8[cpus]
        1 while a CPU migrates pages for compaction.
    """

    next: npt.NDArray[np.int32]
    prev: npt.NDArray[np.int32]
    list_number: npt.NDArray[np.int16]
    pageblock: npt.NDArray[np.int8]
    filling: npt.NDArray[np.int16]
    migrating: npt.NDArray[np.int8]


def new_lists(frames: int, cpus: int, pageblock: npt.NDArray[np.int8]) -> CpuLists:
    """Return empty lists of a zone; ``pageblock`` (int8[ceil(frames / 512)]) is kept and mutated by replays."""
    links = np.arange(frames + cpus * LISTS_PER_CPU, dtype=np.int32)
    return CpuLists(
        next=links,
        prev=links.copy(),
        list_number=np.full(frames, NO_LIST, np.int16),
        pageblock=pageblock,
        filling=np.full(cpus, NO_LIST, np.int16),
        migrating=np.zeros(cpus, np.int8),
    )


class ListCount(IntEnum):
    """Index into the int64 array of what a replay of per-CPU lists counted."""

    ALLOCATIONS = 0
    """Allocations of an order that has lists, ``DIRECT`` ones not among them."""
    RIGHT = 1
    """Allocations of the block at the head of the model's list."""
    KNOWN = 2
    """Allocations of a block that the model has on some list."""
    KNOWN_RIGHT = 3
    SKIPPED = 4
    """Blocks above the one allocated, dropped: taken without an event, as by ``alloc_pages_bulk``."""
    OTHER_LIST = 5
    """Allocations of a block that the model has on another list."""
    DIRECT = 6
    """Allocations straight from the zone, the list being locked by someone else: in no other count."""
    REFILLS = 7
    FLUSHED = 8
    """Blocks dropped as a refill began: the real list is empty then."""
    REFILLED = 9
    """Blocks that refills put on lists: what the zone gave is taken from the trace."""
    FREES = 10
    """Frees to a list."""
    FREES_TO_COMPACTION = 11
    """Frees by a CPU that migrates pages."""
    FREED_TWICE = 12
    """Frees of a block that the model has on a list: taken without an event."""
    REMOVED_TWICE = 13
    """Blocks from the zone that the model has on a list: freed past the list."""
    DRAINS = 14
    """Drains of a block that the model has on a list."""
    DRAINS_FROM_TAIL = 15
    DRAINS_UNKNOWN = 16
    """Drains of a block that the model has on no list: there since before the trace, or taken for one that is not."""


LIST_COUNTS = len(ListCount)


@kernel(inline=True)
def has_list(order: int) -> bool:
    """Return whether blocks of an order have per-CPU lists. Rule: ``pcp_allowed_order``."""
    return order <= LARGEST_SMALL_ORDER or order == PAGEBLOCK_ORDER


@kernel(inline=True)
def list_of(cpu: int, order: int, migratetype: int) -> int:
    """Return a list's number: large blocks have two lists, movable and not. Rule: ``order_to_pindex``."""
    if order == PAGEBLOCK_ORDER:
        return cpu * LISTS_PER_CPU + LISTS_PER_CPU - 2 + (migratetype == Migratetype.MOVABLE)
    return cpu * LISTS_PER_CPU + order * SMALL_TYPES + migratetype


@kernel(inline=True)
def _next_of_cpu(stream: Stream, row: int) -> int:
    """Return the next row of the same CPU, or the number of rows."""
    after = row + 1
    while after < len(stream.cpu) and stream.cpu[after] != stream.cpu[row]:
        after += 1
    return after


@kernel(inline=True)
def _taken_at_once(stream: Stream, row: int) -> bool:
    """Return whether the CPU allocates what it just removed before it does anything else.

    Then it was no refill: those take two blocks or more.
    """
    after = _next_of_cpu(stream, row)
    return (
        after < len(stream.frame)
        and stream.operation[after] == PAGE_ALLOCATION
        and stream.frame[after] == stream.frame[row]
    )


@kernel(inline=True)
def _take(lists: CpuLists, frame: int) -> None:
    unlink(lists.next, lists.prev, frame)
    lists.list_number[frame] = NO_LIST


@kernel(inline=True)
def _allocate(lists: CpuLists, frame: int, number: int, counts: npt.NDArray[np.int64]) -> None:
    """Compare a list's head with the block allocated, which then leaves the lists, and whatever lies above it."""
    sentinel = len(lists.list_number) + number
    right = lists.next[sentinel] == frame
    counts[ListCount.ALLOCATIONS] += 1
    counts[ListCount.RIGHT] += right
    if lists.list_number[frame] == NO_LIST:
        return
    counts[ListCount.KNOWN] += 1
    counts[ListCount.KNOWN_RIGHT] += right
    if lists.list_number[frame] != number:
        counts[ListCount.OTHER_LIST] += 1
    else:
        while lists.next[sentinel] != frame:
            _take(lists, np.int64(lists.next[sentinel]))
            counts[ListCount.SKIPPED] += 1
    _take(lists, frame)


@kernel(inline=True)
def _free(lists: CpuLists, frame: int, order: int, cpu: int, counts: npt.NDArray[np.int64]) -> None:
    """Push a block at the head of its list, if it has one."""
    block_type = np.int64(lists.pageblock[frame >> PAGEBLOCK_ORDER])
    if not has_list(order) or block_type >= Migratetype.ISOLATE:
        return
    if lists.list_number[frame] != NO_LIST:
        counts[ListCount.FREED_TWICE] += 1
        _take(lists, frame)
    number = list_of(cpu, order, Migratetype.MOVABLE if block_type >= SMALL_TYPES else block_type)
    push_head(lists.next, lists.prev, len(lists.list_number) + number, frame)
    lists.list_number[frame] = number
    counts[ListCount.FREES] += 1


@kernel(inline=True)
def _refill(lists: CpuLists, frame: int, number: int, first: bool, counts: npt.NDArray[np.int64]) -> None:
    """Put a block from the zone at the tail of a list, which is empty as the first one comes."""
    sentinel = len(lists.list_number) + number
    if first:
        counts[ListCount.REFILLS] += 1
        while lists.next[sentinel] != sentinel:
            _take(lists, np.int64(lists.next[sentinel]))
            counts[ListCount.FLUSHED] += 1
    push_tail(lists.next, lists.prev, sentinel, frame)
    lists.list_number[frame] = number
    counts[ListCount.REFILLED] += 1


@kernel(inline=True)
def _drain(lists: CpuLists, frame: int, counts: npt.NDArray[np.int64]) -> None:
    """Take a block that goes back to the zone off its list, wherever on it it is."""
    number = np.int64(lists.list_number[frame])
    if number == NO_LIST:
        counts[ListCount.DRAINS_UNKNOWN] += 1
        return
    counts[ListCount.DRAINS] += 1
    counts[ListCount.DRAINS_FROM_TAIL] += lists.next[frame] == len(lists.list_number) + number
    _take(lists, frame)


@kernel
def follow_lists(stream: Stream, lists: CpuLists, counts: npt.NDArray[np.int64]) -> None:
    """Foresee each allocation from a per-CPU list, compare it with the recorded one, carry out the recorded one.

    Parameters
    ----------
    stream : Stream
        Read: the API's rows; the zone's, without its frees and without fallbacks that explain the removal just before
        them; and the marks of migration. Frames lie in the zone.
    lists : CpuLists
        Mutated.
    counts : int64[LIST_COUNTS]
        Added to.
    """
    for row in range(len(stream.frame)):
        operation = stream.operation[row]
        cpu = np.int64(stream.cpu[row])
        order = np.int64(stream.order[row])
        frame = stream.frame[row]
        migratetype = np.int64(stream.migratetype[row])
        if operation == MIGRATION_BEGIN:
            lists.migrating[cpu] = 1
        elif operation == MIGRATION_END or operation == COMPACTION_END:
            lists.migrating[cpu] = 0
        elif operation == ZONE_DRAIN:
            lists.pageblock[frame >> PAGEBLOCK_ORDER] = migratetype
            _drain(lists, frame, counts)
        elif operation == PAGE_FREE:
            lists.filling[cpu] = NO_LIST
            if lists.migrating[cpu]:
                counts[ListCount.FREES_TO_COMPACTION] += 1
            else:
                _free(lists, frame, order, cpu, counts)
        elif operation == PAGE_ALLOCATION:
            taken_at_once = lists.filling[cpu] == TAKEN_AT_ONCE
            lists.filling[cpu] = NO_LIST
            if not has_list(order):
                continue
            if taken_at_once:
                counts[ListCount.DIRECT] += 1
            else:
                _allocate(lists, frame, list_of(cpu, order, migratetype), counts)
        else:
            size = order
            if operation == ZONE_FALLBACK:
                size = np.int64(stream.extra[row]) & 15
                if size >= PAGEBLOCK_ORDER and not np.int64(stream.extra[row]) >> 8:
                    # A whole pageblock keeps its type only when compaction captures it: it goes to no list.
                    continue
            if operation == ZONE_REMOVAL or np.int64(stream.extra[row]) >> 8:
                # Aligned, so that no block leaves the zone whatever a recording says.
                first = frame & ~((1 << size) - 1)
                for part in range(first, first + (1 << size), PAGEBLOCK_FRAMES):
                    lists.pageblock[part >> PAGEBLOCK_ORDER] = migratetype
            if not has_list(order) or migratetype >= SMALL_TYPES:
                lists.filling[cpu] = NO_LIST
                continue
            if lists.list_number[frame] != NO_LIST:
                counts[ListCount.REMOVED_TWICE] += 1
                _take(lists, frame)
            number = list_of(cpu, order, migratetype)
            first = lists.filling[cpu] != number
            if first and _taken_at_once(stream, row):
                lists.filling[cpu] = TAKEN_AT_ONCE
            else:
                lists.filling[cpu] = number
                _refill(lists, frame, number, first, counts)
