"""Pages on reclaim's lists in plain Python: a page is an object, a list a deque with its newest page on the left.

Rules: Linux 6.18, ``mm/swap.c``: ``folio_add_lru``, ``lru_activate``, ``lru_deactivate``, ``folio_mark_accessed``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.oracles.buddy import PlainBuddy

LISTS = ("inactive anonymous", "active anonymous", "inactive file", "active file", "unevictable")


@dataclass
class PlainPage:
    """One page, an allocated block."""

    owner: int
    anonymous: bool = False
    active: bool = False
    referenced: bool = False
    accessed: bool = False
    dirty: bool = False
    locked: bool = False
    workingset: bool = False
    listed: bool = False


class PlainPages:
    """The pages of one plain zone.

    Attributes
    ----------
    pages : dict of int to PlainPage
        By first frame: those on lists, and those held.
    free_block : callable
        Frees a block of an order, cold or not.
    lists : dict of str to deque of int
        First frames, newest on the left.
    """

    def __init__(self, zone: PlainBuddy, split_lists: bool = True) -> None:
        self.zone = zone
        self.split_lists = split_lists
        self.pages: dict[int, PlainPage] = {}
        self.lists = {name: deque[int]() for name in LISTS}
        self.events: Counter[str] = Counter()
        self.free_block: Callable[[int, int, bool], str] = lambda frame, order, cold: zone.give_back(frame, order)

    def size(self, frame: int) -> int:
        """Return a page's frames."""
        return 1 << self.zone.allocated[frame][0]

    def list_of(self, page: PlainPage) -> str:
        """Return the name of the list on which a page belongs."""
        if self.split_lists and page.locked:
            return "unevictable"
        kind = "anonymous" if self.split_lists and page.anonymous else "file"
        return f"{'active' if page.active else 'inactive'} {kind}"

    def put(self, frame: int, tail: bool = False) -> None:
        """Put a page on its list."""
        page = self.pages[frame]
        page.listed = True
        place = self.lists[self.list_of(page)]
        place.append(frame) if tail else place.appendleft(frame)

    def hold(self, frame: int) -> PlainPage:
        """Take a page off its list."""
        page = self.pages[frame]
        page.listed = False
        self.lists[self.list_of(page)].remove(frame)
        return page

    def is_listed(self, frame: int) -> bool:
        """Return whether a page on a list begins at a frame."""
        return frame in self.pages and self.pages[frame].listed

    def length(self, name: str) -> int:
        """Return the frames on a list."""
        return sum(self.size(frame) for frame in self.lists[name])

    def add(self, frame: int, page: PlainPage) -> str:
        """Make an allocated block a page."""
        if frame not in self.zone.allocated:
            return "NOT_ALLOCATED"
        if self.is_listed(frame):
            return "ON_LIST"
        self.pages[frame] = page
        self.put(frame)
        return "OK"

    def release(self, frame: int, cold: bool = False) -> str:
        """Free a page."""
        if frame not in self.zone.allocated:
            return "NOT_ALLOCATED"
        if self.is_listed(frame):
            self.hold(frame)
        self.pages.pop(frame, None)
        return self.free_block(frame, self.zone.allocated[frame][0], cold)

    def activate(self, frame: int) -> str:
        """Make a page active."""
        if not self.is_listed(frame):
            return "NOT_ON_LIST"
        if not self.pages[frame].active and not self.pages[frame].locked:
            self.hold(frame).active = True
            self.put(frame)
            self.events["PAGE_ACTIVATION"] += self.size(frame)
        return "OK"

    def deactivate(self, frame: int) -> str:
        """Make a page inactive and forget its use."""
        if not self.is_listed(frame):
            return "NOT_ON_LIST"
        if self.pages[frame].active and not self.pages[frame].locked:
            page = self.hold(frame)
            page.active = page.referenced = False
            self.put(frame)
            self.events["PAGE_DEACTIVATION"] += self.size(frame)
        return "OK"

    def lock(self, frame: int, locked: bool) -> str:
        """Lock a page into memory, or unlock it."""
        if not self.is_listed(frame):
            return "NOT_ON_LIST"
        if self.pages[frame].locked != locked:
            page = self.hold(frame)
            page.locked = locked
            page.active = page.active and not locked
            self.put(frame)
        return "OK"

    def mark_used(self, frame: int) -> str:
        """Notice a use; the second one activates."""
        if not self.is_listed(frame):
            return "NOT_ON_LIST"
        page = self.pages[frame]
        if not page.referenced:
            page.referenced = True
        elif not page.active and not page.locked:
            self.activate(frame)
            page.referenced = False
        return "OK"

    def split_held(self, frame: int) -> None:
        """Make a held page pages of one frame each."""
        order, kind = self.zone.allocated.pop(frame)
        page = self.pages.pop(frame)
        for i in range(1 << order):
            self.zone.allocated[frame + i] = 0, kind
            self.pages[frame + i] = replace(page, owner=page.owner + i)
        self.events["PAGE_SPLIT"] += 1
