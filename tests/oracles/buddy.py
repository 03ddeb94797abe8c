"""Linux 6.18's zone allocator in plain Python, written from the rules and from no kernel.

Free blocks lie in one deque per order and migratetype, head on the left. Rules: ``mm/page_alloc.c`` of 6.18, as
written down beside the recordings: ``__rmqueue`` and what it calls, ``__free_one_page``, ``split_large_buddy``.
"""

from __future__ import annotations

from collections import Counter, deque

LARGEST = 10
PAGEBLOCK = 9
UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = range(5)
TYPES = 5
#: What a type falls back to, in order.
FALLBACKS = {
    UNMOVABLE: (RECLAIMABLE, MOVABLE),
    MOVABLE: (RECLAIMABLE, UNMOVABLE),
    RECLAIMABLE: (UNMOVABLE, MOVABLE),
}
MERGEABLE = (UNMOVABLE, MOVABLE, RECLAIMABLE)
NORMAL, CLAIM, STEAL = range(3)


class PlainBuddy:
    """One zone of ``frames`` frames, at first all holes.

    Attributes
    ----------
    free : dict of int to int
        Order of the free block that starts at a frame.
    allocated : dict of int to (int, int)
        Order and migratetype of the allocated block that starts at a frame.
    lists : dict of (int, int) to deque of int
        First frames of free blocks by order and migratetype, head first.
    types : list of int
        Migratetype of each pageblock.
    events : Counter of str
    """

    def __init__(self, frames: int, migratetype: int = MOVABLE, tail_rule: bool = True) -> None:
        self.frames = frames
        self.tail_rule = tail_rule
        self.free: dict[int, int] = {}
        self.allocated: dict[int, tuple[int, int]] = {}
        self.lists = {(order, kind): deque[int]() for order in range(LARGEST + 1) for kind in range(TYPES)}
        self.types = [migratetype] * -(-frames // (1 << PAGEBLOCK))
        self.events: Counter[str] = Counter()

    def type_of(self, frame: int) -> int:
        """Return the migratetype of the pageblock around a frame."""
        return self.types[frame >> PAGEBLOCK]

    def list_of(self, frame: int) -> int:
        """Return the type of the list that a free block is on: its pageblock's."""
        return self.type_of(frame)

    def insert(self, frame: int, order: int, kind: int, tail: bool = False) -> None:
        """Put a block on a list."""
        self.free[frame] = order
        if tail:
            self.lists[order, kind].append(frame)
        else:
            self.lists[order, kind].appendleft(frame)

    def unlink(self, frame: int) -> int:
        """Take a free block off its list; return its order."""
        order = self.free.pop(frame)
        self.lists[order, self.list_of(frame)].remove(frame)
        return order

    # Allocation

    def take_head(self, high: int, kind: int, order: int, requested: int) -> int:
        """Split the head block of a list: upper halves to the heads of lower lists, the low end is handed out."""
        frame = self.lists[high, kind][0]
        self.unlink(frame)
        self.hand_out(frame, high, kind, order, requested)
        return frame

    def hand_out(self, frame: int, high: int, kind: int, order: int, requested: int) -> None:
        """Halve an unlinked block down to an order and mark its low end as allocated."""
        while high > order:
            high -= 1
            self.insert(frame + (1 << high), high, kind)
            self.events["SPLIT"] += 1
        self.allocated[frame] = order, requested
        self.events["ALLOCATION"] += 1

    def smallest(self, order: int, kind: int) -> int | None:
        """Allocate from one type's own lists."""
        for high in range(order, LARGEST + 1):
            if self.lists[high, kind]:
                return self.take_head(high, kind, order, kind)
        return None

    def fallback(self, high: int, kind: int) -> int | None:
        """Return the first type to fall back to that has a block of an order."""
        return next((other for other in FALLBACKS[kind] if self.lists[high, other]), None)

    def claim(self, order: int, kind: int, no_fragment: bool) -> int | None:
        """Allocate by taking whole pageblocks over, largest block first."""
        lowest = max(order, PAGEBLOCK) if no_fragment else order
        for high in range(LARGEST, lowest - 1, -1):
            if high < 4 and kind == MOVABLE:
                return None
            other = self.fallback(high, kind)
            if other is None:
                continue
            if high >= PAGEBLOCK:
                frame = self.lists[high, other][0]
                self.unlink(frame)
                for block in range(frame >> PAGEBLOCK, frame + (1 << high) >> PAGEBLOCK):
                    self.types[block] = kind
                self.events["CLAIM_BLOCK"] += 1
                self.hand_out(frame, high, kind, order, kind)
                return frame
            if self.claim_pageblock(self.lists[high, other][0] >> PAGEBLOCK, kind, other):
                return self.smallest(order, kind)
        return None

    def claim_pageblock(self, block: int, kind: int, other: int) -> bool:
        """Take a pageblock over if half of it is free or alike."""
        inside = range(block << PAGEBLOCK, (block + 1) << PAGEBLOCK)
        if inside.stop > self.frames:
            return False
        free = sum(1 << self.free[frame] for frame in inside if frame in self.free)
        used = [self.allocated[frame] for frame in inside if frame in self.allocated]
        movable = sum(1 << order for order, requested in used if requested == MOVABLE)
        alike = 0
        if kind == MOVABLE:
            alike = movable
        elif other == MOVABLE:
            alike = len(inside) - free - movable
        if free + alike < len(inside) // 2:
            self.events["CLAIM_REFUSED"] += 1
            return False
        self.events["CLAIM_PAGEBLOCK"] += 1
        self.events["CLAIM_MOVED_FRAMES"] += self.retype(block, kind)
        return True

    def retype(self, block: int, kind: int) -> int:
        """Give a pageblock another type, its free blocks going to list tails by address; return their frames."""
        inside = range(block << PAGEBLOCK, (block + 1) << PAGEBLOCK)
        moved = [frame for frame in inside if frame in self.free]
        for frame in moved:
            self.insert(frame, self.unlink(frame), kind, tail=True)
        self.types[block] = kind
        return sum(1 << self.free[frame] for frame in moved)

    def steal(self, order: int, kind: int) -> int | None:
        """Allocate the smallest block of another type, whose pageblock and remainder keep their type."""
        for high in range(order, LARGEST + 1):
            other = self.fallback(high, kind)
            if other is not None:
                self.events["STEAL"] += 1
                return self.take_head(high, other, order, kind)
        return None

    def allocate(self, order: int, kind: int, no_fragment: bool = False, mode: int = NORMAL) -> tuple[int, int]:
        """Serve one request; return (frame or -1, mode to go on with)."""
        frame = self.smallest(order, kind) if mode == NORMAL else None
        if frame is None and mode != STEAL:
            frame = self.claim(order, kind, no_fragment)
        if frame is not None:
            return frame, NORMAL
        if not no_fragment:
            frame = self.steal(order, kind)
            if frame is not None:
                return frame, STEAL
        self.events["ALLOCATION_FAILURE"] += 1
        return -1, mode

    def allocate_all(self, order: int, kind: int, count: int) -> list[int] | None:
        """Allocate blocks one by one, keeping the mode; all or none."""
        frames: list[int] = []
        mode = NORMAL
        while len(frames) < count:
            frame, mode = self.allocate(order, kind, mode=mode)
            if frame < 0:
                for taken in reversed(frames):
                    self.give_back(taken, order)
                return None
            frames.append(frame)
        return frames

    def take_at(self, frame: int, order: int, requested: int) -> str:
        """Allocate one named block out of the free one around it; what is left goes to list heads, largest first."""
        if frame < 0 or not 0 <= order <= LARGEST or frame % (1 << order) or frame + (1 << order) > self.frames:
            return "OUT_OF_RANGE"
        for high in range(order, LARGEST + 1):
            first = frame - frame % (1 << high)
            if self.free.get(first) == high:
                break
        else:
            return "NOT_FREE"
        kind = self.list_of(first)
        self.unlink(first)
        while high > order:
            high -= 1
            middle = first + (1 << high)
            self.insert(middle if frame < middle else first, high, kind)
            first = first if frame < middle else middle
            self.events["SPLIT"] += 1
        self.allocated[frame] = order, requested
        self.events["ALLOCATION"] += 1
        return "OK"

    # Freeing

    def give_back(self, frame: int, order: int) -> str:
        """Free a block; return the name of a status, with nothing changed unless it is OK."""
        if not 0 <= frame < self.frames or not 0 <= order <= LARGEST:
            return "OUT_OF_RANGE"
        if frame not in self.allocated:
            return "NOT_ALLOCATED"
        if self.allocated[frame][0] != order:
            return "WRONG_ORDER"
        del self.allocated[frame]
        self.events["FREE"] += 1
        step = 1 << min(order, PAGEBLOCK)
        for part in range(frame, frame + (1 << order), step):
            self.merge(part, min(order, PAGEBLOCK))
        return "OK"

    def may_merge(self, frame: int, buddy: int, order: int) -> bool:
        """Return whether a block of an order merges with its buddy."""
        if self.free.get(buddy) != order:
            return False
        kinds = {self.type_of(frame), self.type_of(buddy)}
        return order < PAGEBLOCK or len(kinds) == 1 or kinds <= set(MERGEABLE)

    def merge(self, frame: int, order: int) -> None:
        """Merge a block with its free buddies and put it on the list of its own pageblock's type."""
        kind = self.type_of(frame)
        while order < LARGEST and self.may_merge(frame, frame ^ (1 << order), order):
            buddy = frame ^ (1 << order)
            self.unlink(buddy)
            if order >= PAGEBLOCK:
                self.types[buddy >> PAGEBLOCK] = kind
            frame = min(frame, buddy)
            order += 1
            self.events["MERGE"] += 1
        parent = frame - frame % (1 << (order + 1))
        likely = order <= 8 and self.free.get(parent ^ (1 << (order + 1))) == order + 1
        self.insert(frame, order, kind, tail=self.tail_rule and likely)
