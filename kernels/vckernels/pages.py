"""What is known of each page beside the allocator's state, and reclaim's lists (LRU) of the pages that may be moved.

A page is an allocated block of any order (a folio) whose first frame carries flags and the id of its owner; its frames
belong to consecutive ids. Pages lie on one of five lists by kind and activity, newest at the head, linked by the arrays
that free lists use: a frame is free, or on one of these lists, or on none. What is on a list may be reclaimed and
moved; what is not is pinned, being kernel memory or held by who took it off. Rules: Linux 6.18, ``mm/swap.c`` and
``include/linux/mm_inline.h``. Before 2.6.28 a zone had two lists, active and inactive, for pages of both kinds.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import LISTS, Buddy, allocated_order
from vckernels.causes import Cause, Status
from vckernels.framelist import push_head, push_tail, unlink
from vckernels.jit import kernel, unsigned

ANONYMOUS = 1
"""Flag: the page's backing is swap; without it, a file."""
ACTIVE = 2
"""Flag: the page belongs on an active list (``PG_active``)."""
REFERENCED = 4
"""Flag: one use was noticed since the page came to its list (``PG_referenced``)."""
ACCESSED = 8
"""Flag: a program has used the page, which no CPU has noted in its entries; cleared when looked at."""
DIRTY = 16
"""Flag: the page differs from its backing."""
UNEVICTABLE = 32
"""Flag: locked into memory; it may be moved, never reclaimed (``PG_unevictable``)."""
ON_LRU = 64
"""Flag: the page is on a list (``PG_lru``)."""
WORKINGSET = 128
"""Flag: the page has been active, and missing it again would be thrashing (``PG_workingset``)."""
PAGE_FLAGS = ANONYMOUS | ACTIVE | REFERENCED | ACCESSED | DIRTY | UNEVICTABLE | WORKINGSET
"""The flags that a page may be added with."""


class Lru(IntEnum):
    """Reclaim's lists; list k of a zone is extra list k of its :class:`~vckernels.buddy.Buddy`."""

    INACTIVE_ANONYMOUS = 0
    ACTIVE_ANONYMOUS = 1
    INACTIVE_FILE = 2
    ACTIVE_FILE = 3
    UNEVICTABLE = 4


LRU_LISTS = len(Lru)
ANONYMOUS_FRAMES = LRU_LISTS
"""Index into the lists' lengths: frames of anonymous pages on any list."""


class Pages(NamedTuple):
    """The pages of one zone, 5 bytes a frame, and who frees them.

    Attributes
    ----------
    flags : uint8[frames]
        Flags of the page that begins at a frame; 0 at all others.
    owner : int32[frames]
        Id of the first frame's owner, where a page begins; frame ``first + i`` belongs to id ``owner + i``.
    lengths : int64[LRU_LISTS + 1]
        Frames, not pages, on each list; then those of anonymous pages on all of them.
    options : int64[1]
        ``[0]``: 1 if anonymous, file and unevictable pages have lists of their own (Linux since 2.6.28); with 0 all
        are on the two lists of file pages.
    limits : int64[LIMITS]
        Those of the zone, or none where no CPU keeps lists.
    per_cpu : int64[cpus, n]
        What CPUs keep of the zone (:attr:`vckernels.zone.Zone.per_cpu`), through which pages are freed; without CPUs
        they go to the free lists at once.
    cpu : int64[1]
        The CPU at work.
    """

    flags: npt.NDArray[np.uint8]
    owner: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]
    options: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    per_cpu: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int64]


def new_pages(frames: int, split_lists: bool = True) -> Pages:
    """Return a zone's page data without any page.

    Parameters
    ----------
    frames : int
        Size of the zone in frames.
    split_lists : bool
        Lists of their own for anonymous, file and unevictable pages.
    """
    return Pages(
        flags=np.zeros(frames, np.uint8),
        owner=np.zeros(frames, np.int32),
        lengths=np.zeros(LRU_LISTS + 1, np.int64),
        options=np.array([split_lists], np.int64),
        limits=np.zeros(0, np.int64),
        per_cpu=np.zeros((0, 0), np.int64),
        cpu=np.zeros(1, np.int64),
    )


@kernel(inline=True)
def flags_of(pages: Pages, frame: int) -> int:
    """Return a page's flags, widened."""
    return np.int64(pages.flags[unsigned(frame)])


@kernel(inline=True)
def list_of(pages: Pages, flags: int) -> int:
    """Return the list on which a page with these flags belongs. Rule: ``folio_lru_list``."""
    if pages.options[0] == 0:
        return Lru.INACTIVE_FILE + (flags & ACTIVE) // ACTIVE
    if flags & UNEVICTABLE:
        return np.int64(Lru.UNEVICTABLE)
    return (0 if flags & ANONYMOUS else 2) + (flags & ACTIVE) // ACTIVE


@kernel(inline=True)
def page_frames(buddy: Buddy, frame: int) -> int:
    """Return how many frames the allocated block that begins at a frame has."""
    return 1 << (np.int64(buddy.state[unsigned(frame)]) & 15)


@kernel(inline=True)
def put_page(buddy: Buddy, pages: Pages, frame: int, at_tail: bool) -> None:
    """Put a page that is on no list where its flags say. Mutates links, flags and list length."""
    flags = flags_of(pages, frame)
    chosen = list_of(pages, flags)
    sentinel = len(buddy.state) + LISTS + chosen
    if at_tail:
        push_tail(buddy.next, buddy.prev, sentinel, frame)
    else:
        push_head(buddy.next, buddy.prev, sentinel, frame)
    pages.flags[unsigned(frame)] = flags | ON_LRU
    size = page_frames(buddy, frame)
    pages.lengths[unsigned(chosen)] += size
    if flags & ANONYMOUS:
        pages.lengths[ANONYMOUS_FRAMES] += size


@kernel(inline=True)
def hold_page(buddy: Buddy, pages: Pages, frame: int) -> None:
    """Take a page off its list, so that it stays where it is until it is put back. Mutates links, flags and length."""
    flags = flags_of(pages, frame)
    unlink(buddy.next, buddy.prev, frame)
    pages.flags[unsigned(frame)] = flags & ~ON_LRU
    size = page_frames(buddy, frame)
    pages.lengths[unsigned(list_of(pages, flags))] -= size
    if flags & ANONYMOUS:
        pages.lengths[ANONYMOUS_FRAMES] -= size


@kernel(inline=True)
def oldest_page(buddy: Buddy, chosen: int) -> int:
    """Return the page at the tail of a list, or -1 where it is empty."""
    frame = np.int64(buddy.prev[unsigned(len(buddy.state) + LISTS + chosen)])
    return frame if frame < len(buddy.state) else -1


@kernel(inline=True)
def is_on_lru(buddy: Buddy, pages: Pages, frame: int) -> bool:
    """Return whether a page that begins at a frame (any number) is on a list."""
    return 0 <= frame < len(buddy.state) and flags_of(pages, frame) & ON_LRU != 0


@kernel
def add_page(buddy: Buddy, pages: Pages, frame: int, owner: int, flags: int) -> int:
    """Make an allocated block a page: give it an owner and put it at the head of its list; return a status.

    Parameters
    ----------
    buddy, pages : Buddy, Pages
        Mutated: links, flags, owner, list length.
    frame : int
        First frame of an allocated block that is no page yet.
    owner : int
        Id of its first frame, 0 or more.
    flags : int
        Any of ``PAGE_FLAGS``.
    """
    if allocated_order(buddy, frame) < 0:
        return Status.NOT_ALLOCATED
    if flags & ~PAGE_FLAGS or owner < 0 or owner + page_frames(buddy, frame) > 1 << 31:
        return Status.OUT_OF_RANGE
    if flags_of(pages, frame) & ON_LRU:
        return Status.ON_LIST
    pages.owner[unsigned(frame)] = owner
    pages.flags[unsigned(frame)] = flags
    put_page(buddy, pages, frame, False)
    return Status.OK


@kernel
def add_pages(
    buddy: Buddy,
    pages: Pages,
    frames: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    flags: npt.NDArray[np.uint8],
) -> int:
    """Make allocated blocks pages one after another (:func:`add_page`); return how many were before one refused."""
    for i in range(len(frames)):
        if add_page(buddy, pages, frames[i], owners[i], np.int64(flags[i])) != Status.OK:
            return i
    return len(frames)


@kernel
def activate_page(buddy: Buddy, pages: Pages, frame: int) -> int:
    """Move an inactive page to the head of its active list; return a status. Rule: ``lru_activate``."""
    if not is_on_lru(buddy, pages, frame):
        return Status.NOT_ON_LIST
    if flags_of(pages, frame) & (ACTIVE | UNEVICTABLE) == 0:
        hold_page(buddy, pages, frame)
        pages.flags[unsigned(frame)] |= ACTIVE
        put_page(buddy, pages, frame, False)
        buddy.counters[Cause.PAGE_ACTIVATION] += page_frames(buddy, frame)
    return Status.OK


@kernel
def deactivate_page(buddy: Buddy, pages: Pages, frame: int) -> int:
    """Move an active page, its use forgotten, to the head of its inactive list; return a status.

    Rule: ``lru_deactivate``.
    """
    if not is_on_lru(buddy, pages, frame):
        return Status.NOT_ON_LIST
    if flags_of(pages, frame) & (ACTIVE | UNEVICTABLE) == ACTIVE:
        hold_page(buddy, pages, frame)
        pages.flags[unsigned(frame)] &= ~(ACTIVE | REFERENCED) & 255
        put_page(buddy, pages, frame, False)
        buddy.counters[Cause.PAGE_DEACTIVATION] += page_frames(buddy, frame)
    return Status.OK


@kernel
def lock_page(buddy: Buddy, pages: Pages, frame: int, locked: bool) -> int:
    """Make a page unevictable or evictable again, moving it to that list's head; return a status.

    Rule: ``__mlock_folio``, ``__munlock_folio``. Where lists are not split, it stays on the list that it is on.
    """
    if not is_on_lru(buddy, pages, frame):
        return Status.NOT_ON_LIST
    if (flags_of(pages, frame) & UNEVICTABLE != 0) != locked:
        hold_page(buddy, pages, frame)
        if locked:
            pages.flags[unsigned(frame)] = flags_of(pages, frame) & ~ACTIVE | UNEVICTABLE
        else:
            pages.flags[unsigned(frame)] = flags_of(pages, frame) & ~UNEVICTABLE
        put_page(buddy, pages, frame, False)
    return Status.OK


@kernel
def mark_used(buddy: Buddy, pages: Pages, frame: int) -> int:
    """Notice a use without a page-table entry, as a read of a cached file; return a status.

    The second one activates the page. Rule: ``folio_mark_accessed``.
    """
    if not is_on_lru(buddy, pages, frame):
        return Status.NOT_ON_LIST
    flags = flags_of(pages, frame)
    if flags & REFERENCED == 0:
        pages.flags[unsigned(frame)] = flags | REFERENCED
    elif flags & (ACTIVE | UNEVICTABLE) == 0:
        activate_page(buddy, pages, frame)
        pages.flags[unsigned(frame)] &= ~REFERENCED & 255
    return Status.OK


@kernel
def touch_pages(pages: Pages, frames: npt.NDArray[np.int64], write: bool) -> None:
    """Set what says that pages were used through a page-table entry, without the entry: accessed, and dirty on a write.

    Parameters
    ----------
    pages : Pages
        Mutated: flags.
    frames : int64[n]
        First frames of pages, on a list or held.
    write : bool
        Stores rather than loads.
    """
    mark = ACCESSED | DIRTY if write else ACCESSED
    for i in range(len(frames)):
        pages.flags[frames[i]] |= mark


@kernel
def split_held_page(buddy: Buddy, pages: Pages, frame: int) -> None:
    """Turn a page that is on no list into pages of order 0, each with its own owner's id. Rule: ``split_folio``."""
    state = np.int64(buddy.state[unsigned(frame)])
    for i in range(1 << (state & 15)):
        buddy.state[unsigned(frame + i)] = state & ~15
        pages.flags[unsigned(frame + i)] = pages.flags[unsigned(frame)]
        pages.owner[unsigned(frame + i)] = np.int64(pages.owner[unsigned(frame)]) + i
    buddy.counters[Cause.PAGE_SPLIT] += 1


@kernel
def read_lru(buddy: Buddy, chosen: int, frames: npt.NDArray[np.int64]) -> int:
    """Write the first frames of a list's pages, head first, as many as fit; return how many were written."""
    count = 0
    node = np.int64(buddy.next[len(buddy.state) + LISTS + chosen])
    while node < len(buddy.state) and count < len(frames):
        frames[count] = node
        node = np.int64(buddy.next[unsigned(node)])
        count += 1
    return count


@kernel
def audit_pages(buddy: Buddy, pages: Pages) -> int:
    """Return 0 if pages, lists and the allocator agree, else the number of a check.

    1: flags where no allocated block begins; 2: a list holds what is no page of it, or its links are wrong; 3: a
    list's length is wrong; 4: a page said to be on a list is on none.
    """
    on_lists = 0
    anonymous = 0
    for frame in range(len(buddy.state)):
        if pages.flags[frame] != 0 and allocated_order(buddy, frame) < 0:
            return 1
        on_lists += flags_of(pages, frame) & ON_LRU != 0
    found = 0
    for chosen in range(LRU_LISTS):
        length = 0
        before = len(buddy.state) + LISTS + chosen
        node = np.int64(buddy.next[before])
        while node < len(buddy.state):
            flags = flags_of(pages, node)
            if buddy.prev[node] != before or flags & ON_LRU == 0 or list_of(pages, flags) != chosen:
                return 2
            length += page_frames(buddy, node)
            if flags & ANONYMOUS:
                anonymous += page_frames(buddy, node)
            found += 1
            if found > on_lists:
                return 2
            before = node
            node = np.int64(buddy.next[node])
        if node != len(buddy.state) + LISTS + chosen:
            return 2
        if length != pages.lengths[chosen]:
            return 3
    if anonymous != pages.lengths[ANONYMOUS_FRAMES]:
        return 3
    return 4 if found != on_lists else 0
