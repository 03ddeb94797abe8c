"""A recorded zone followed one step ahead, in plain Python and from the rules alone.

A row is (operation, order, migratetype, cpu, frame, extra): operation 1 free, 3 removal, 4 drain, 5 fallback (extra:
order | type << 4 | change << 8). A step of compaction is (row, step, cpu, start, end, scanned, taken).
"""

from __future__ import annotations

from collections import Counter

from tests.oracles.buddy import FALLBACKS, HIGHATOMIC, ISOLATE, LARGEST, MOVABLE, PAGEBLOCK, PlainBuddy

Row = tuple[int, int, int, int, int, int]
Step = tuple[int, int, int, int, int, int, int]
BLOCK = 1 << PAGEBLOCK


class PlainFollowing(PlainBuddy):
    """A zone of blocks whose places are unknown at first; ``seen`` counts by the names of the kernel's counts."""

    def __init__(
        self, frames: int, blocks: list[tuple[int, int]], types: list[int], compound: dict[int, int], tail: bool
    ):
        super().__init__(frames, tail_rule=tail)
        self.types = list(types)
        for frame, order in blocks:
            self.insert(frame, order, self.type_of(frame))
        self.unknown = {frame for frame, _ in blocks}
        self.compound = dict(compound)
        self.isolated: set[int] = set()
        self.ranges: dict[int, tuple[int, int]] = {}
        self.migrating: set[int] = set()
        self.captured: dict[int, int] = {}
        self.named: set[int] = set()
        self.seen: Counter[str] = Counter()

    def unlink(self, frame: int) -> int:
        """Whatever leaves a list is in a known place the next time."""
        self.unknown.discard(frame)
        return super().unlink(frame)

    # What is free

    def around(self, frame: int, order: int) -> tuple[int, int] | None:
        """Return first frame and order of the free block that holds a block whole."""
        for high in range(order, LARGEST + 1):
            first = frame - frame % (1 << high)
            if self.free.get(first) == high:
                return first, high
        return None

    def take(self, frame: int, order: int) -> None:
        """Take a block that is free, for nobody."""
        assert self.take_at(frame, order, 0) == "OK"
        del self.allocated[frame]

    def take_parts(self, frame: int, order: int) -> bool:
        """Take what is free of a block."""
        if self.around(frame, order):
            self.take(frame, order)
            return True
        parts = [inside for inside in range(frame, frame + (1 << order)) if inside in self.free]
        for part in parts:
            self.take(part, self.free[part])
        return bool(parts)

    def own(self, order: int, kind: int) -> tuple[int, int] | None:
        """Return order and frame of the block that a type's own lists would split."""
        for high in range(order, LARGEST + 1):
            if self.lists[high, kind]:
                return high, self.lists[high, kind][0]
        return None

    def plan(self, order: int, kind: int) -> tuple[str, int, int]:
        """Return how a request would be served: kind of service, order and migratetype of the block."""
        own = self.own(order, kind)
        if own:
            return "own", own[0], kind
        if kind in FALLBACKS:
            for high in range(LARGEST, order - 1, -1):
                if high < 4 and kind == MOVABLE:
                    break
                other = self.fallback(high, kind)
                if other is not None:
                    return "claim", high, other
            for high in range(order, LARGEST + 1):
                other = self.fallback(high, kind)
                if other is not None:
                    return "steal", high, other
        return "nothing", -1, -1

    # Events

    def follow(self, rows: list[Row], steps: list[Step]) -> None:
        """Follow all."""
        pending = list(steps)
        explained = False
        for place, (operation, order, kind, cpu, frame, extra) in enumerate(rows):
            while pending and pending[0][0] <= place:
                self.compact(*pending.pop(0)[1:])
            if operation == 3:
                then = rows[place + 1] if place + 1 < len(rows) else (0, 0, 0, 0, -1, 0)
                explained = then[0] == 5 and then[4] == frame and order <= then[5] & 15 < PAGEBLOCK
                if explained:
                    self.removal_after_claim(frame, order, kind, then[5])
                else:
                    self.removal(frame, order, kind)
            elif operation == 5 and explained:
                explained = False
            elif operation == 5 and extra & 15 >= PAGEBLOCK and not extra >> 8:
                self.captured[cpu] = frame - frame % BLOCK
            elif operation == 5:
                self.fall_back(frame, order, kind, extra)
            elif operation == 1 and cpu in self.migrating and frame in self.isolated:
                self.seen["FREES_TO_COMPACTION"] += 1
            elif operation in (1, 4):
                if operation == 4:
                    self.learn(frame, kind)
                self.free_recorded(frame, order, cpu)
        for step in pending:
            self.compact(*step[1:])

    def removal(self, frame: int, order: int, kind: int) -> None:
        """Compare a removal with what the own lists would give."""
        around = self.around(frame, order)
        if not around:
            self.seen["REMOVALS_SKIPPED"] += 1
            self.take_parts(frame, order)
            return
        own = self.own(order, kind)
        right = own is not None and own[1] == frame
        self.seen["REMOVALS"] += 1
        self.seen["FRAME_RIGHT"] += right
        self.seen["ORDER_RIGHT"] += own is not None and own[0] == around[1]
        self.seen["RESYNCHRONISATIONS"] += not right
        self.seen["TYPE_MISMATCH"] += self.type_of(frame) != kind
        if around[0] not in self.unknown:
            self.seen["KNOWN"] += 1
            self.seen["KNOWN_RIGHT"] += right
        elif self.type_of(frame) != MOVABLE:
            self.seen["LEARNED"] += 1
            self.seen["LEARNED_RIGHT"] += right
        self.learn(frame, kind)
        self.prove([(high, kind) for high in range(order, around[1])])
        self.take(frame, order)

    # Types

    def correct(self, frame: int, kind: int) -> None:
        """Give a pageblock, or the pair that is one free block, another type; where its blocks lie is unknown."""
        start, size = frame - frame % BLOCK, BLOCK
        if self.free.get(start - start % (2 * BLOCK)) == LARGEST:
            start, size = start - start % (2 * BLOCK), 2 * BLOCK
        free = [inside for inside in range(start, start + size) if inside in self.free]
        orders = [self.unlink(inside) for inside in free]
        for block in range(start // BLOCK, (start + size) // BLOCK):
            self.types[block] = kind
        for inside, order in zip(free, orders, strict=True):
            self.insert(inside, order, kind, tail=True)
        self.unknown |= set(free)

    def learn(self, frame: int, kind: int) -> None:
        """Hear a pageblock's type."""
        self.named.add(frame // BLOCK)
        if self.type_of(frame) != kind:
            self.seen["RETYPED"] += 1
            self.correct(frame, kind)

    def prove(self, empty: list[tuple[int, int]]) -> None:
        """Move off lists that are proven empty what can be of another type."""
        for order, kind in empty:
            while kind in FALLBACKS and self.lists[order, kind]:
                head = self.lists[order, kind][0]
                if order < PAGEBLOCK and head // BLOCK in self.named:
                    break
                self.seen["SET_ASIDE"] += 1
                self.correct(head, MOVABLE if order >= PAGEBLOCK and kind != MOVABLE else ISOLATE)

    def proven_by_fallback(self, order: int, kind: int, extra: int) -> list[tuple[int, int]]:
        """Return the lists that are empty where a request of a kind falls back so."""
        high, chosen = extra & 15, extra >> 4 & 15
        empty = [(o, kind) for o in range(order, LARGEST + 1)]
        others = FALLBACKS.get(kind, ())
        for other in others:
            # Claims are tried from the top, and are granted from a pageblock on; steals from the bottom.
            sooner = range(max(high + 1, PAGEBLOCK), LARGEST + 1) if extra >> 8 else range(order, high)
            empty += [(o, other) for o in sooner]
        for other in others:
            if other == chosen:
                break
            empty.append((high, other))
        return empty

    def judge(self, frame: int, order: int, kind: int, extra: int) -> None:
        """Compare a fallback with the plan."""
        service, high, other = self.plan(order, kind)
        right = (service, high, other) == ("claim" if extra >> 8 else "steal", extra & 15, extra >> 4 & 15)
        self.seen["CLAIMS"] += 1
        self.seen["CLAIMS_RIGHT"] += right
        if service != "own":
            self.seen["CLAIMS_EMPTY"] += 1
            self.seen["CLAIMS_EMPTY_RIGHT"] += right
            if extra & 15 < PAGEBLOCK:
                self.seen["CLAIMS_EMPTY_SMALL"] += 1
                self.seen["CLAIMS_EMPTY_SMALL_RIGHT"] += right
            else:
                self.seen["CLAIMS_EMPTY_LARGE"] += 1
                alike = (service, high) == ("claim" if extra >> 8 else "steal", extra & 15)
                self.seen["CLAIMS_EMPTY_LARGE_ORDER"] += alike
        same = False
        if right:
            head = self.lists[high, other][0]
            same = head // BLOCK == frame // BLOCK if service == "claim" and high < PAGEBLOCK else head == frame
        self.seen["CLAIMS_FRAME_RIGHT"] += same
        self.seen["RESYNCHRONISATIONS"] += not same

    def removal_after_claim(self, frame: int, order: int, kind: int, extra: int) -> None:
        """Retype the pageblock first, then compare."""
        around = self.around(frame, order)
        if not around:
            self.seen["REMOVALS_SKIPPED"] += 1
            self.take_parts(frame, order)
            return
        self.judge(frame, order, kind, extra)
        self.prove(self.proven_by_fallback(order, kind, extra))
        if around[1] >= PAGEBLOCK:
            self.take(frame, order)
            self.retype(frame // BLOCK, kind)
            return
        self.retype(frame // BLOCK, kind)
        own = self.own(order, kind)
        right = own is not None and own[1] == frame
        self.seen["AFTER_CLAIM"] += 1
        self.seen["AFTER_CLAIM_RIGHT"] += right
        self.seen["RESYNCHRONISATIONS"] += not right
        self.take(frame, order)

    def fall_back(self, frame: int, order: int, kind: int, extra: int) -> None:
        """Take the recorded block, give its rest back on the new type or, stolen, on the old one."""
        high = extra & 15
        if order > high or frame % (1 << high) or not self.around(frame, high):
            self.seen["REMOVALS_SKIPPED"] += 1
            self.take_parts(frame, order)
            return
        self.judge(frame, order, kind, extra)
        self.learn(frame, extra >> 4 & 15)
        self.prove(self.proven_by_fallback(order, kind, extra))
        self.take(frame, high)
        if extra >> 8 and high < PAGEBLOCK:
            self.retype(frame // BLOCK, kind)
        elif extra >> 8:
            for block in range(frame // BLOCK, (frame + (1 << high)) // BLOCK):
                self.types[block] = kind
        self.hand_out(frame, high, self.type_of(frame), order, kind)
        del self.allocated[frame]

    def free_recorded(self, frame: int, order: int, cpu: int) -> None:
        """Free a block, first taking what was thought free of it."""
        self.seen["FREES"] += 1
        self.seen["FREES_AGAIN"] += self.take_parts(frame, order)
        for inside in range(frame, frame + (1 << order)):
            self.isolated.discard(inside)
            self.compound.pop(inside, None)
        part = min(order, PAGEBLOCK)
        for start in range(frame, frame + (1 << order), 1 << part):
            self.merge(start, part)
        caught = self.captured.get(cpu)
        if caught is not None and caught // BLOCK == frame // BLOCK:
            del self.captured[cpu]
            if self.around(caught, PAGEBLOCK):
                self.seen["CAPTURES"] += 1
                self.take(caught, PAGEBLOCK)

    # Compaction

    def look(self, start: int, end: int, stride: int) -> tuple[int, list[int]]:
        """Return how many frames a walk looks at, and the free blocks that it meets."""
        scanned, met = 0, []
        while start < end:
            size = 1
            if start in self.free:
                met.append(start)
                size = 1 << self.free[start]
            elif start + (1 << self.compound.get(start, 0)) <= end:
                size = 1 << self.compound.get(start, 0)
            scanned += size
            start += size - 1 + stride
        return scanned, met

    def compact(self, step: int, cpu: int, start: int, end: int, scanned: int, taken: int) -> None:
        """Follow one step of compaction."""
        if step == 8:
            self.migrating.add(cpu)
        elif step in (11, 7):
            self.migrating.discard(cpu)
            if step == 7 and cpu in self.ranges:
                low, high = self.ranges.pop(cpu)
                self.isolated -= set(range(low, high))
        elif step == 10:
            self.seen["FAST_ISOLATED"] += taken
        elif step == 9:
            self.walk(cpu, start, end, scanned, taken)

    def walk(self, cpu: int, start: int, end: int, scanned: int, taken: int) -> None:
        """Find the stride of a walk, and take what it took."""
        strides = [1] if scanned >= end - start else [32, 16, 8, 4, 2]
        fitting = []
        for stride in strides:
            looked, met = self.look(start, end, stride)
            if (looked, sum(1 << self.free[frame] for frame in met)) == (scanned, taken):
                fitting.append(stride)
        name = "WALKS" if taken else "WALKS_IDLE"
        self.seen[name] += 1
        self.seen[f"{name}_RIGHT"] += bool(fitting)
        if not taken:
            return
        stride = fitting[0] if fitting else 1
        self.seen["WALKS_STRIDING"] += stride > 1
        before = sum(1 << order for order in self.free.values())
        for frame in self.look(start, end, stride)[1]:
            self.isolate(frame)
        self.seen["WALKED_FRAMES"] += before - sum(1 << order for order in self.free.values())
        low, high = self.ranges.get(cpu, (start, end))
        self.ranges[cpu] = min(low, start), max(high, end)

    def isolate(self, frame: int) -> None:
        """Take a free block for compaction; half a pageblock makes the whole movable."""
        order = self.unlink(frame)
        self.isolated |= set(range(frame, frame + (1 << order)))
        if order >= PAGEBLOCK - 1:
            for block in range(frame // BLOCK, (frame + (1 << order) - 1) // BLOCK + 1):
                if self.types[block] < HIGHATOMIC:
                    self.retype(block, MOVABLE)
