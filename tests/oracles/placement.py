"""Single frames under three rules of placement in plain Python: the rules of the choice over the plain allocator."""

from __future__ import annotations

from tests.oracles.buddy import LARGEST, MOVABLE, PlainBuddy

PAGEBLOCK_FRAMES = 512


class PlainPlacement:
    """One zone of which single movable frames are asked.

    Parameters
    ----------
    plain : PlainBuddy
        With movable pageblocks only.
    placement : str
        ``SMALLEST_BLOCK``, ``LOWEST_ADDRESS`` or ``LARGEST_BLOCK``.
    """

    def __init__(self, plain: PlainBuddy, placement: str) -> None:
        self.plain = plain
        self.placement = placement

    def get(self) -> int:
        """Allocate a frame; -1 if none is free."""
        orders = [order for order in range(LARGEST + 1) if self.plain.lists[order, MOVABLE]]
        if not orders:
            self.plain.events["ALLOCATION_FAILURE"] += 1
            return -1
        if self.placement == "LOWEST_ADDRESS":
            frame = min(self.plain.free)
        else:
            order = min(orders) if self.placement == "SMALLEST_BLOCK" else max(orders)
            frame = self.plain.lists[order, MOVABLE][0]
        self.plain.hand_out(frame, self.plain.unlink(frame), MOVABLE, 0, MOVABLE)
        return frame

    def put(self, frame: int) -> str:
        """Free a frame; return the name of the status."""
        return self.plain.give_back(frame, 0)

    def free_in(self) -> list[int]:
        """Return the free frames of each 2 MiB."""
        counts = [0] * len(self.plain.types)
        for first, order in self.plain.free.items():
            for frame in range(first, first + (1 << order)):
                counts[frame // PAGEBLOCK_FRAMES] += 1
        return counts
