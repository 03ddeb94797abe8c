"""A zone with pages twice, kernel and plain, compared to the last flag."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np

from tests.kernels.zones import whole_blocks
from tests.oracles.buddy import PlainBuddy
from tests.oracles.pages import LISTS, PlainPage, PlainPages
from vckernels import buddy as kernels
from vckernels import claim, freeing, pages
from vckernels.buddy import INSIDE, MAX_ORDER, ORDERS, TYPES
from vckernels.causes import Cause, Status

FLAGS = {
    "anonymous": pages.ANONYMOUS,
    "active": pages.ACTIVE,
    "referenced": pages.REFERENCED,
    "accessed": pages.ACCESSED,
    "dirty": pages.DIRTY,
    "locked": pages.UNEVICTABLE,
    "workingset": pages.WORKINGSET,
    "listed": pages.ON_LRU,
}


def word_of(page: PlainPage) -> int:
    """Return a plain page's flags as the kernel keeps them."""
    return sum(bit for name, bit in FLAGS.items() if getattr(page, name))


class PagedPair:
    """One zone with pages, twice; every call goes to both."""

    def __init__(
        self, frames: int, types: dict[int, int] | None = None, split_lists: bool = True, extra_lists: int = 0
    ) -> None:
        self.buddy = kernels.new_buddy(frames, lists=pages.LRU_LISTS + extra_lists)
        self.pages = pages.new_pages(frames, split_lists)
        self.plain = PlainBuddy(frames)
        self.plain_pages = PlainPages(self.plain, split_lists)
        for block, kind in (types or {}).items():
            self.buddy.pageblock[block] = self.plain.types[block] = kind
        # Blocks of a pageblock at most, so that each has one type; they merge when their buddies are freed.
        for frame, order in whole_blocks(frames):
            for part in range(frame, frame + (1 << order), 1 << min(order, 9)):
                one = np.array([part], np.int64), np.array([min(order, 9)], np.int8)
                assert kernels.free_at_boot(self.buddy, *one, True) == Status.OK
                self.plain.insert(part, min(order, 9), self.plain.type_of(part), tail=True)

    # Doing the same to both

    def allocate(self, order: int, migratetype: int) -> int:
        """Serve one request in both; return the frame or -1."""
        frame, _ = claim.allocate(self.buddy, order, migratetype, 0, claim.MODE_NORMAL)
        assert frame == self.plain.allocate(order, migratetype)[0]
        return int(frame)

    def take_at(self, frame: int, order: int, migratetype: int) -> None:
        """Allocate one named block in both, which must be free."""
        assert kernels.take_at(self.buddy, frame, order, migratetype) == Status.OK
        assert self.plain.take_at(frame, order, migratetype) == "OK"

    def same(self, status: int, expected: str) -> str:
        """Return the name of a status that must be the plain one's."""
        assert Status(status).name == expected
        return expected

    def add(self, frame: int, page: PlainPage) -> str:
        """Make an allocated block a page in both."""
        status = pages.add_page(self.buddy, self.pages, frame, page.owner, word_of(page))
        return self.same(status, self.plain_pages.add(frame, page))

    def release(self, frame: int) -> str:
        """Free a page or block in both."""
        return self.same(freeing.release_page(self.buddy, self.pages, frame, False), self.plain_pages.release(frame))

    def activate(self, frame: int) -> str:
        """Activate a page in both."""
        return self.same(pages.activate_page(self.buddy, self.pages, frame), self.plain_pages.activate(frame))

    def deactivate(self, frame: int) -> str:
        """Deactivate a page in both."""
        return self.same(pages.deactivate_page(self.buddy, self.pages, frame), self.plain_pages.deactivate(frame))

    def lock(self, frame: int, locked: bool) -> str:
        """Lock or unlock a page in both."""
        return self.same(pages.lock_page(self.buddy, self.pages, frame, locked), self.plain_pages.lock(frame, locked))

    def mark_used(self, frame: int) -> str:
        """Mark a page as used in both."""
        return self.same(pages.mark_used(self.buddy, self.pages, frame), self.plain_pages.mark_used(frame))

    def touch(self, frames: Iterable[int], write: bool) -> None:
        """Touch pages through their page-table entries in both."""
        touched = list(frames)
        pages.touch_pages(self.pages, np.array(touched, np.int64), write)
        for frame in touched:
            page = self.plain_pages.pages[frame]
            page.accessed = True
            page.dirty = page.dirty or write

    def hold(self, frame: int) -> None:
        """Take a listed page off its list in both."""
        pages.hold_page(self.buddy, self.pages, frame)
        self.plain_pages.hold(frame)

    def put(self, frame: int, tail: bool) -> None:
        """Put a held page back in both."""
        pages.put_page(self.buddy, self.pages, frame, tail)
        self.plain_pages.put(frame, tail)

    def split_held(self, frame: int) -> None:
        """Split a held page in both."""
        pages.split_held_page(self.buddy, self.pages, frame)
        self.plain_pages.split_held(frame)

    def new_page(self, order: int, page: PlainPage, migratetype: int = 1) -> int:
        """Allocate a page in both; return its frame or -1."""
        frame = self.allocate(order, migratetype)
        if frame >= 0:
            assert self.add(frame, page) == "OK"
        return frame

    def populate(self, rng: random.Random, fullness: float, kept: float, largest: int = 3, pinned: float = 0.1) -> None:
        """Fill the zone in part with pages and kernel blocks, then free some at random.

        Parameters
        ----------
        rng : Random
        fullness : float
            Share of frames to allocate.
        kept : float
            Chance of each block to stay.
        largest : int
            Highest order.
        pinned : float
            Share of kernel blocks among all.
        """
        goal = int(fullness * self.plain.frames)
        made, used = [], 0
        while used < goal:
            order = min(int(rng.expovariate(1.2)), largest)
            if rng.random() < pinned:
                frame = self.allocate(order, rng.choice((0, 2)))
            else:
                frame = self.new_page(order, random_page(rng))
            if frame < 0:
                break
            made.append(frame)
            used += 1 << order
        for frame in made:
            if rng.random() > kept:
                assert self.release(frame) == "OK"

    # Comparing

    def blocks(self, order: int, migratetype: int = 1) -> list[int]:
        """Return one of the plain zone's free lists, head first."""
        return list(self.plain.lists[order, migratetype])

    @property
    def listed(self) -> list[int]:
        """First frames of pages on lists."""
        return [frame for frame, page in self.plain_pages.pages.items() if page.listed]

    @property
    def held(self) -> list[int]:
        """First frames of pages on no list."""
        return [frame for frame, page in self.plain_pages.pages.items() if not page.listed]

    def read_lru(self, chosen: int) -> list[int]:
        """Return the first frames on one of the kernel's lists, newest first."""
        frames = np.full(len(self.buddy.state), -7, np.int64)
        return [int(frame) for frame in frames[: pages.read_lru(self.buddy, chosen, frames)]]

    def check(self, isolated: Iterable[int] = ()) -> None:
        """Compare lists of free blocks and of pages, flags, owners, types; audit both.

        Parameters
        ----------
        isolated : iterable of int
            First frames of blocks that compaction holds; while there are any, free buddies need not be merged.
        """
        held = set(isolated)
        for order in range(ORDERS):
            for kind in range(TYPES):
                blocks = np.empty(self.buddy.free_blocks[order, kind], np.int64)
                kernels.read_list(self.buddy, order, kind, blocks)
                assert blocks.tolist() == list(self.plain.lists[order, kind]), (order, kind)
        assert self.buddy.pageblock.tolist() == self.plain.types
        states = np.full(len(self.buddy.state), INSIDE)
        states[list(self.plain.free)] = list(self.plain.free.values())
        for frame, (order, kind) in self.plain.allocated.items():
            states[frame] = 32 + 16 * kind + order
        np.testing.assert_array_equal(np.where(self.buddy.state >= 0, self.buddy.state, INSIDE), states)
        if not held:
            assert claim.audit(self.buddy, np.zeros((ORDERS, TYPES), np.int64)) == 0
        for number, name in enumerate(LISTS):
            assert self.read_lru(number) == list(self.plain_pages.lists[name]), name
            assert self.pages.lengths[number] == self.plain_pages.length(name), name
        flags = np.zeros(len(self.buddy.state), np.int64)
        for frame, page in self.plain_pages.pages.items():
            flags[frame] = word_of(page)
            assert self.pages.owner[frame] == page.owner
        np.testing.assert_array_equal(self.pages.flags, flags)
        assert pages.audit_pages(self.buddy, self.pages) == 0
        for name in ("SPLIT", "MERGE", "FREE"):
            assert self.buddy.counters[Cause[name]] == self.plain.events[name], name
        for name, count in self.plain_pages.events.items():
            assert self.buddy.counters[Cause[name]] == count, name


def random_page(rng: random.Random, owner: int | None = None) -> PlainPage:
    """Return a page of a random kind and history."""
    return PlainPage(
        owner=rng.randrange(1 << 30) if owner is None else owner,
        anonymous=rng.random() < 0.5,
        active=rng.random() < 0.4,
        referenced=rng.random() < 0.3,
        accessed=rng.random() < 0.3,
        dirty=rng.random() < 0.3,
        locked=rng.random() < 0.05,
        workingset=rng.random() < 0.1,
    )


def random_order(rng: random.Random, largest: int = MAX_ORDER) -> int:
    """Return an order, low ones more often."""
    return min(int(rng.expovariate(0.9)), largest)
