"""Recorded per-CPU page lists in plain Python: one deque a list, head on the left, written from the rules alone.

A row is (operation, order, migratetype, cpu, frame, extra). Operations: 0 page allocation, 1 page free, 3 removal from
the zone, 4 drain, 5 fallback (extra: order | type << 4 | change << 8), 8 a migration begins, 11 and 7 it ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque

Row = tuple[int, int, int, int, int, int]


def name_of(cpu: int, order: int, kind: int) -> tuple[int, int, int]:
    """Return what tells lists apart: large blocks only by whether they are movable."""
    return (cpu, order, kind) if order < 9 else (cpu, 9, int(kind == 1))


class PlainLists:
    """Lists of all CPUs; ``events`` counts by the names of the kernel's counts."""

    def __init__(self, types: list[int]) -> None:
        self.lists: dict[tuple[int, int, int], deque[int]] = defaultdict(deque)
        self.types = types
        self.events: Counter[str] = Counter()
        self.filling: dict[int, object] = {}
        self.migrating: set[int] = set()

    def holder(self, frame: int) -> deque[int] | None:
        """Return the list that a block is on."""
        return next((blocks for blocks in self.lists.values() if frame in blocks), None)

    def follow(self, rows: list[Row]) -> None:
        """Follow all rows."""
        for place, (operation, order, kind, cpu, frame, extra) in enumerate(rows):
            small = order in (0, 1, 2, 3, 9)
            if operation == 8:
                self.migrating.add(cpu)
            elif operation in (7, 11):
                self.migrating.discard(cpu)
            elif operation == 4:
                self.types[frame // 512] = kind
                self.drain(frame)
            elif operation == 1:
                self.filling[cpu] = None
                if cpu in self.migrating:
                    self.events["FREES_TO_COMPACTION"] += 1
                elif small and self.types[frame // 512] != 4:
                    self.free(frame, order, cpu)
            elif operation == 0:
                at_once = self.filling.get(cpu) == "at once"
                self.filling[cpu] = None
                if small and at_once:
                    self.events["DIRECT"] += 1
                elif small:
                    self.allocate(frame, self.lists[name_of(cpu, order, kind)])
            elif operation == 3 or (extra & 15) < 9 or extra >> 8:
                self.from_zone(rows, place)

    def drain(self, frame: int) -> None:
        """Take a block off its list for the zone."""
        blocks = self.holder(frame)
        if blocks is None:
            self.events["DRAINS_UNKNOWN"] += 1
            return
        self.events["DRAINS"] += 1
        self.events["DRAINS_FROM_TAIL"] += blocks[-1] == frame
        blocks.remove(frame)

    def free(self, frame: int, order: int, cpu: int) -> None:
        """Push a block."""
        blocks = self.holder(frame)
        if blocks is not None:
            self.events["FREED_TWICE"] += 1
            blocks.remove(frame)
        kind = self.types[frame // 512]
        self.lists[name_of(cpu, order, 1 if kind == 3 else kind)].appendleft(frame)
        self.events["FREES"] += 1

    def allocate(self, frame: int, blocks: deque[int]) -> None:
        """Compare the head, then let the recorded block go."""
        right = bool(blocks) and blocks[0] == frame
        self.events["ALLOCATIONS"] += 1
        self.events["RIGHT"] += right
        holder = self.holder(frame)
        if holder is None:
            return
        self.events["KNOWN"] += 1
        self.events["KNOWN_RIGHT"] += right
        if holder is blocks:
            while blocks[0] != frame:
                blocks.popleft()
                self.events["SKIPPED"] += 1
        else:
            self.events["OTHER_LIST"] += 1
        holder.remove(frame)

    def from_zone(self, rows: list[Row], place: int) -> None:
        """Put what the zone gives on the list that is being filled."""
        operation, order, kind, cpu, frame, extra = rows[place]
        if operation == 3 or extra >> 8:
            size = 1 << (order if operation == 3 else extra & 15)
            for inside in range(frame - frame % size, frame - frame % size + size):
                self.types[inside // 512] = kind
        if order not in (0, 1, 2, 3, 9) or kind > 2:
            self.filling[cpu] = None
            return
        holder = self.holder(frame)
        if holder is not None:
            self.events["REMOVED_TWICE"] += 1
            holder.remove(frame)
        name = name_of(cpu, order, kind)
        blocks = self.lists[name]
        if self.filling.get(cpu) != name:
            then = next((row for row in rows[place + 1 :] if row[3] == cpu), None)
            if then is not None and then[0] == 0 and then[4] == frame:
                self.filling[cpu] = "at once"
                return
            self.filling[cpu] = name
            self.events["REFILLS"] += 1
            self.events["FLUSHED"] += len(blocks)
            blocks.clear()
        blocks.append(frame)
        self.events["REFILLED"] += 1
