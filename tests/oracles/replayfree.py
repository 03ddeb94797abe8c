"""A recorded zone whose every block the model chooses, in plain Python."""

from __future__ import annotations

from collections import Counter

from tests.oracles.buddy import PAGEBLOCK, PlainBuddy
from tests.oracles.replayfollow import Row


class PlainFreeRun:
    """Requests of a recording in a zone of the model's own.

    ``mine`` says which frame stands for each recorded one that is allocated; ``seen`` counts by the kernel's names.
    """

    def __init__(self, zone: PlainBuddy, allocated: set[int]) -> None:
        self.zone = zone
        self.mine = {frame: frame for frame in allocated}
        self.seen: Counter[str] = Counter()

    def run(self, rows: list[Row]) -> None:
        """Serve all requests, free what is freed."""
        for operation, order, kind, _, frame, extra in rows:
            names = range(frame, frame + (1 << order))
            if operation == 3 or (operation == 5 and extra & 15 >= PAGEBLOCK):
                self.serve(frame, order, kind)
            elif operation in (1, 4):
                self.free(names, order)
                for name in names:
                    self.mine.pop(name, None)

    def serve(self, frame: int, order: int, kind: int) -> None:
        """Serve one request by the model's choice."""
        if frame in self.mine:
            self.seen["REMOVALS_SKIPPED"] += 1
            return
        chosen, _ = self.zone.allocate(order, kind)
        if chosen < 0:
            self.seen["FAILED"] += 1
            return
        del self.zone.allocated[chosen]
        self.seen["REMOVALS"] += 1
        self.seen["FRAME_RIGHT"] += chosen == frame
        self.mine |= {frame + part: chosen + part for part in range(1 << order)}

    def free(self, names: range, order: int) -> None:
        """Free as one block if the model's frames are one, else frame by frame."""
        held = [self.mine.get(name) for name in names]
        first = held[0]
        if first is not None and first % (1 << order) == 0 and held == list(range(first, first + (1 << order))):
            self.seen["FREES"] += 1
            part = min(order, PAGEBLOCK)
            for start in range(first, first + (1 << order), 1 << part):
                self.zone.merge(start, part)
            return
        self.seen["FREES_SPLIT"] += 1
        for frame in held:
            if frame is not None:
                self.zone.merge(frame, 0)
