"""The zone allocators of Linux 2.6.23 and 2.6.24 in plain Python, written from the rules and from no kernel.

They differ from today's (:mod:`tests.oracles.buddy`) in that a block stays on the list it was put on, whatever its
pageblock's type becomes, in that everything freed goes to a list's head, and in what serves a request whose own lists
are empty.
"""

from __future__ import annotations

from tests.oracles.buddy import FALLBACKS, LARGEST, NORMAL, PAGEBLOCK, RECLAIMABLE, UNMOVABLE, PlainBuddy

RESERVE = 3


class PlainBuddy2624(PlainBuddy):
    """One zone under 2.6.24.

    Attributes
    ----------
    kept_on : dict of int to int
        The type of the list that each free block is on.
    types_have_lists : bool
        Whether there is anything to fall back to.
    """

    types_have_lists = True

    def __init__(self, frames: int, migratetype: int, _tail_rule: bool = False) -> None:
        super().__init__(frames, migratetype, False)
        self.kept_on: dict[int, int] = {}

    def insert(self, frame: int, order: int, kind: int, tail: bool = False) -> None:
        """Put a block on a list."""
        super().insert(frame, order, kind, tail)
        self.kept_on[frame] = kind

    def list_of(self, frame: int) -> int:
        """Return the type of the list that a free block was put on last."""
        return self.kept_on[frame]

    def allocate(self, order: int, kind: int, no_fragment: bool = False, mode: int = NORMAL) -> tuple[int, int]:
        """Serve one request from its own lists, then from others', then from the reserve; there are no modes."""
        del no_fragment  # A flag of later releases.
        frame = self.smallest(order, kind) if mode == NORMAL else None
        if frame is None:
            frame = self.from_others(order, kind)
        if frame is None:
            self.events["ALLOCATION_FAILURE"] += 1
            return -1, NORMAL if self.types_have_lists else mode
        return frame, NORMAL

    def from_others(self, order: int, kind: int) -> int | None:
        """Take the largest block of another type; of the types that have one, the first in the table."""
        found = [(high, other) for high in range(LARGEST, order - 1, -1) for other in FALLBACKS[kind]]
        for high, other in found:
            if not self.lists[high, other]:
                continue
            frame = self.lists[high, other][0]
            rest = other
            if high >= 4 or kind == RECLAIMABLE:
                rest = kind
                self.take_pageblock(frame >> PAGEBLOCK, high, kind)
            else:
                self.events["STEAL"] += 1
            self.unlink(frame)
            self.hand_out(frame, high, rest, order, kind)
            return frame
        frame_kept = self.smallest(order, RESERVE)
        if frame_kept is not None:
            self.allocated[frame_kept] = order, kind
            self.events["RESERVE_BLOCK"] += 1
        return frame_kept

    def take_pageblock(self, block: int, high: int, kind: int) -> None:
        """Move a pageblock's free blocks to the heads of other lists, and retype it if they are half of it."""
        inside = range(block << PAGEBLOCK, (block + 1) << PAGEBLOCK)
        moved = 0
        if inside.stop <= self.frames:
            for frame in [at for at in inside if at in self.free]:
                order = self.unlink(frame)
                self.insert(frame, order, kind)
                moved += 1 << order
        self.events["CLAIM_MOVED_FRAMES"] += moved
        if moved < len(inside) // 2:
            self.events["CLAIM_REFUSED"] += 1
            return
        self.types[block] = kind
        self.events["CLAIM_BLOCK" if high >= PAGEBLOCK else "CLAIM_PAGEBLOCK"] += 1

    def give_back(self, frame: int, order: int) -> str:
        """Free a block, in one piece whatever its size."""
        if not 0 <= frame < self.frames or not 0 <= order <= LARGEST:
            return "OUT_OF_RANGE"
        if frame not in self.allocated:
            return "NOT_ALLOCATED"
        if self.allocated[frame][0] != order:
            return "WRONG_ORDER"
        del self.allocated[frame]
        self.events["FREE"] += 1
        self.merge(frame, order)
        return "OK"

    def merge(self, frame: int, order: int) -> None:
        """Merge a block with every free buddy; it goes to the head of the list of the freed frames' pageblock."""
        kind = self.type_of(frame)
        while order < LARGEST and self.free.get(frame ^ (1 << order)) == order:
            buddy = frame ^ (1 << order)
            self.unlink(buddy)
            frame = min(frame, buddy)
            order += 1
            self.events["MERGE"] += 1
        self.insert(frame, order, kind)


class PlainBuddy2623(PlainBuddy2624):
    """One zone under 2.6.23: whatever is asked for, one list an order serves it."""

    types_have_lists = False

    def allocate(self, order: int, kind: int, no_fragment: bool = False, mode: int = NORMAL) -> tuple[int, int]:
        """Serve one request, and remember what it was for."""
        frame, mode = super().allocate(order, UNMOVABLE, no_fragment, mode)
        if frame >= 0:
            self.allocated[frame] = order, kind
        return frame, mode

    def from_others(self, order: int, kind: int) -> int | None:
        """There is nothing else."""
        del order, kind
