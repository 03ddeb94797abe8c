"""Compaction of one zone in plain Python: the two scanners over dictionaries and deques.

Rules: Linux 6.18, ``mm/compaction.c``, as read there, and ``mm/page_alloc.c``: ``__isolate_free_page``. Frames are
counted from the zone's first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tests.oracles.buddy import HIGHATOMIC, ISOLATE, LARGEST, MOVABLE, PlainBuddy
from tests.oracles.pages import PlainPages

BLOCK = 512
NOWHERE = 10**15


@dataclass
class PlainLimits:
    """The watermarks that compaction reads, in frames."""

    min: int = 0
    low: int = 0
    high: int = 0
    boost: int = 0
    reserved: int = 0


@dataclass
class ZoneMemory:
    """What is kept from run to run; names as in the kernel module."""

    cached_free: int = -1
    cached_migrate_async: int = -1
    cached_migrate_sync: int = -1
    init_free: int = -1
    init_migrate: int = -1
    considered: int = 0
    defer_shift: int = 0
    order_failed: int = 0
    flush_hints: int = 0


@dataclass
class Run:
    """What one run is about."""

    order: int = 0
    migratetype: int = MOVABLE
    mode: int = 0
    direct: int = 0
    proactive: int = 0
    ignore_hints: int = 0
    any_target: int = 0
    whole_zone: int = 0
    files: int = 1
    migrate_at: int = 0
    free_at: int = 0
    fast_start: int = -1
    fast_failures: int = 0
    search_order: int = 0
    finish_pageblock: int = 0
    free_held: int = 0
    migrate_held: int = 0
    pages_held: int = 0


@dataclass
class PlainCompaction:
    """Compaction of a plain zone.

    Attributes
    ----------
    held : dict of int to deque of int
        Held free blocks by order.
    sources : list of int
        First frames of pages that wait for a target, the last taken last.
    skip : set of int
        Pageblocks with a skip hint.
    """

    pages: PlainPages
    limits: PlainLimits
    zone_memory: ZoneMemory = field(default_factory=ZoneMemory)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        self.zone: PlainBuddy = self.pages.zone
        self.events = self.pages.events
        self.held = {order: deque[int]() for order in range(LARGEST + 1)}
        self.sources: list[int] = []
        self.skip: set[int] = set()

    # The zone

    @property
    def free_count(self) -> int:
        """Free frames on lists."""
        return sum(1 << order for order in self.zone.free.values())

    def keeps(self, mark: int) -> bool:
        """Return whether more frames than a mark are free, those for atomic requests not counted."""
        kept = sum(len(self.zone.lists[order, HIGHATOMIC]) << order for order in range(LARGEST + 1))
        return self.free_count - (kept if self.limits.reserved else 0) > mark

    def block_end(self, frame: int) -> int:
        """Return the end of a frame's pageblock inside the zone."""
        return min(frame - frame % BLOCK + BLOCK, self.zone.frames)

    def owner_block(self, frame: int) -> int | None:
        """Return the first frame of the allocated block around a frame."""
        for order in range(LARGEST + 1):
            first = frame - frame % (1 << order)
            if first in self.zone.allocated and self.zone.allocated[first][0] >= order:
                return first
        return None

    # Taking free blocks

    def isolate(self, frame: int, order: int) -> bool:
        """Take one free block off its list."""
        kind = self.zone.type_of(frame)
        if kind != ISOLATE and not self.keeps(self.limits.min + (1 << order)):
            return False
        self.zone.unlink(frame)
        self.held[order].append(frame)
        self.run.free_held += 1 << order
        if order >= 8:
            for block in range(frame // BLOCK, -(-(frame + (1 << order)) // BLOCK)):
                if (block + 1) * BLOCK <= self.zone.frames and self.zone.types[block] < HIGHATOMIC:
                    self.zone.retype(block, MOVABLE)
        self.events["ISOLATED_FREE"] += 1 << order
        return True

    def walk(self, start: int, end: int, stride: int) -> int:
        """Take free blocks of a part of a pageblock; return where the walk ended."""
        at = start
        while at < end:
            step = stride
            if at in self.zone.allocated:
                size = 1 << self.zone.allocated[at][0]
                if at + size <= end:
                    step += size - 1
                    self.events["FREE_SCANNED"] += size - 1
                self.events["FREE_SCANNED"] += 1
            elif at in self.zone.free:
                order = self.zone.free[at]
                self.events["FREE_SCANNED"] += 1
                if not self.isolate(at, order):
                    break
                self.events["FREE_SCANNED"] += (1 << order) - 1
                if self.run.free_held >= self.run.migrate_held:
                    at += 1 << order
                    break
                step += (1 << order) - 1
            else:
                self.events["FREE_SCANNED"] += 1
            at += step
        return min(at, end)

    def is_target(self, start: int) -> bool:
        """Return whether a pageblock may receive pages."""
        wanted = self.run.order if self.run.order > 0 else 9
        if self.zone.free.get(start, -1) >= wanted:
            return False
        return bool(self.run.any_target) or self.zone.type_of(start) == MOVABLE

    def next_order(self, order: int) -> int:
        """Return the next order of a fast search, round from the highest; -1 at the end."""
        order = order - 1 if order > 0 else self.run.order - 1
        if order != self.run.search_order:
            return order
        self.run.search_order = (self.run.search_order - 1) % self.run.order
        return -1

    def fast_free(self) -> None:
        """Search list tails for targets."""
        run, memory = self.run, self.zone_memory
        if run.order <= 0:
            return
        limit = max(1, ((32 >> min(63, run.fast_failures)) + 1) // 2)
        at_start = run.free_at >= memory.init_free
        if at_start:
            limit = 256
        distance = run.free_at - run.migrate_at
        good = (run.free_at - distance // 4) // BLOCK * BLOCK if distance >= 0 else NOWHERE
        fair = (run.free_at - distance // 2) // BLOCK * BLOCK if distance >= 0 else NOWHERE
        run.search_order = min(run.search_order, run.order - 1)
        order, found, highest, scanned = run.search_order, None, -1, 0
        while order >= 0 and found is None:
            if not any(self.zone.lists[order, kind] for kind in range(5)):
                order = self.next_order(order)
                continue
            blocks = self.zone.lists[order, MOVABLE]
            best, turn, looked = None, None, 0
            for frame in reversed(list(blocks)):
                looked += 1
                highest = max(highest, frame // BLOCK * BLOCK)
                if frame >= good:
                    run.fast_failures, run.search_order = 0, order
                    found = turn = frame
                    break
                if frame >= fair and (best is None or frame > best):
                    best = frame
                    limit //= 2
                if looked >= limit:
                    turn = frame
                    break
            scanned += looked
            if found is None and best is not None:
                found = turn = best
            if turn is not None:
                blocks.rotate(-blocks.index(turn))
            if found is not None:
                if self.isolate(found, order):
                    scanned += (1 << order) - 1
                else:
                    found, order = None, run.search_order + 1
            if run.free_held >= run.migrate_held:
                break
            if looked >= limit:
                limit = max(1, limit // 2)
            order = self.next_order(order)
        if found is None:
            run.fast_failures += 1
            if at_start and highest >= fair:
                found = run.free_at = highest
            elif at_start and run.direct and fair < self.zone.frames:
                found = fair if self.is_target(fair) else None
                run.free_at = fair
        if highest >= 0 and highest >= memory.cached_free:
            memory.cached_free = highest - BLOCK
        self.events["FREE_SCANNED"] += scanned
        if found is None or run.free_held >= run.migrate_held or (run.direct and run.mode == 0):
            return
        end = self.block_end(found)
        if self.walk(found // BLOCK * BLOCK, end, 1) == end:
            self.skip.add(found // BLOCK)

    def scan_free(self) -> None:
        """Take targets for the pages that wait."""
        run, memory = self.run, self.zone_memory
        self.fast_free()
        if run.free_held:
            return
        lowest = run.migrate_at // BLOCK + 1
        stride = 32 if run.mode == 0 else 1
        at = run.free_at
        for block in range(at // BLOCK, lowest - 1, -1):
            start, end = block * BLOCK, self.block_end(block * BLOCK)
            if not self.is_target(start) or (block in self.skip and not run.ignore_hints):
                at = start - BLOCK
                continue
            before = run.free_held
            at = self.walk(at, end, stride)
            if at == end:
                self.skip.add(block)
                memory.cached_free = min(memory.cached_free, start - BLOCK)
            if run.free_held >= run.migrate_held or at < end:
                at = at if at < end else start - BLOCK
                break
            stride = 1 if run.free_held > before else min(32, stride * 2)
            at = start - BLOCK
        run.free_at = at

    def target(self, order: int) -> int:
        """Return a block to move a page to, or -1."""
        for scan_first in (False, True):
            if scan_first:
                self.scan_free()
            high = next((o for o in range(order, LARGEST + 1) if self.held[o]), None)
            if high is None:
                continue
            frame = self.held[high].popleft()
            for half in range(high - 1, order - 1, -1):
                self.held[half].appendleft(frame + (1 << half))
            self.run.free_held -= 1 << order
            self.run.migrate_held -= 1 << order
            return frame
        return -1

    def release(self) -> int:
        """Give held blocks back; return the highest."""
        highest = max((frame for blocks in self.held.values() for frame in blocks), default=-1)
        for order, blocks in self.held.items():
            while blocks:
                frame = blocks.popleft()
                for part in range(frame, frame + (1 << order), BLOCK):
                    self.zone.merge(part, min(order, 9))
        self.run.free_held = 0
        return highest

    # Taking pages

    def remember(self, frame: int) -> None:
        """Let later runs begin behind a frame's pageblock."""
        behind = (frame // BLOCK + 1) * BLOCK
        memory = self.zone_memory
        memory.cached_migrate_async = max(memory.cached_migrate_async, behind)
        if self.run.mode > 0:
            memory.cached_migrate_sync = max(memory.cached_migrate_sync, behind)

    def put_back(self) -> int:
        """Put waiting pages at list heads, the last one taken first; return their frames."""
        frames = sum(self.pages.size(frame) for frame in self.sources)
        for frame in reversed(self.sources):
            self.pages.put(frame)
        self.sources.clear()
        self.run.pages_held = self.run.migrate_held = 0
        return frames

    def what_is_at(self, frame: int) -> tuple[str, int]:
        """Return whether a frame begins something free, a page to move, what is passed whole, or none of them."""
        if frame in self.zone.free:
            return "free", 1 << self.zone.free[frame]
        if frame not in self.zone.allocated:
            return "stuck", 1
        order = self.zone.allocated[frame][0]
        if order >= 9 or 0 <= self.run.order <= order:
            return ("stuck", 1 << order) if order else self.movable_or_stuck(frame)
        return self.movable_or_stuck(frame)

    def movable_or_stuck(self, frame: int) -> tuple[str, int]:
        """Return whether a page small enough may be moved."""
        if self.pages.is_listed(frame) and (self.run.files or self.pages.pages[frame].anonymous):
            return "page", self.pages.size(frame)
        return "stuck", 1

    def scan_pageblock(self, start: int, end: int) -> None:
        """Take pages off their lists between two frames."""
        run = self.run
        picky = run.direct and run.mode == 0 and run.order >= 0
        size = 1 << max(run.order, 0)
        range_end = (start // size + 1) * size
        at, taken, block = start, 0, start // BLOCK
        first = start % BLOCK == 0
        hinted = first and block in self.skip and not run.ignore_hints
        if hinted:
            self.events["MIGRATE_SCANNED"] += 1
            at = end
        marked = False
        while at < end:
            if picky and at >= range_end:
                if taken:
                    break
                range_end = (at // size + 1) * size
            kind, frames = self.what_is_at(at)
            self.events["MIGRATE_SCANNED"] += frames
            if kind == "page":
                if first and not run.ignore_hints:
                    self.skip.add(block)
                marked = True
                self.pages.hold(at)
                self.sources.append(at)
                run.pages_held += 1
                run.migrate_held += frames
                taken += frames
                at += frames
                if run.migrate_held >= 32 and not run.finish_pageblock:
                    break
                continue
            at += frames
            if kind == "stuck" and picky:
                if taken:
                    self.put_back()
                    taken = 0
                # The rest of the range is given up; a block that reached beyond it has done so already.
                if at - 1 < range_end:
                    at = range_end
                    range_end += size
        at = min(at, end)
        if at == end and (not taken or run.finish_pageblock):
            if first and not hinted and not marked:
                self.skip.add(block)
            self.remember(at)
        self.events["ISOLATED_SOURCE"] += taken
        run.migrate_at = at

    def fast_source(self) -> int:
        """Return where to take pages from next."""
        run = self.run
        at = run.migrate_at
        if run.ignore_hints or run.finish_pageblock or at % BLOCK or run.order <= 3:
            return at
        if run.direct and run.migratetype != MOVABLE:
            return at
        limit = (32 >> min(63, run.fast_failures)) + 1
        distance = (run.free_at - at) // 2
        below = (at + (distance if at == 0 else distance // 4)) // BLOCK * BLOCK
        scanned, found = 0, None
        for order in range(run.order - 1, 2, -1):
            blocks = self.zone.lists[order, MOVABLE]
            if found is not None or scanned >= limit:
                break
            for frame in list(blocks):
                scanned += 1
                useful = frame < below and frame // BLOCK not in self.skip
                if scanned > limit or useful:
                    blocks.rotate(-blocks.index(frame) - 1)
                    found = frame if scanned <= limit else None
                    break
        self.events["MIGRATE_SCANNED"] += scanned
        if found is not None:
            if run.fast_start == -1 or found < run.fast_start:
                run.fast_start = found
            run.fast_failures = 0
            return found // BLOCK * BLOCK
        run.fast_failures += 1
        if run.fast_start >= 0:
            run.migrate_at, run.fast_start = run.fast_start, -2
        return run.migrate_at

    def is_source(self, block: int) -> bool:
        """Return whether pages may leave a pageblock."""
        owner = self.owner_block(block * BLOCK)
        if owner is not None and self.zone.allocated[owner][0] >= 9:
            return False
        return bool(self.run.mode or not self.run.direct) or self.zone.types[block] == self.run.migratetype

    def scan_migrate(self) -> bool:
        """Take pages of the first pageblock worth it."""
        run = self.run
        at = self.fast_source()
        sure = at != run.migrate_at and run.fast_failures == 0
        while (at // BLOCK + 1) * BLOCK <= run.free_at:
            end = (at // BLOCK + 1) * BLOCK
            if at % BLOCK or sure or at // BLOCK not in self.skip or run.ignore_hints:
                if self.is_source(at // BLOCK):
                    self.scan_pageblock(at, end)
                    break
                self.remember(end)
            sure = False
            at = run.migrate_at = end
        return run.migrate_held > 0

    # Hints and deferral

    def may_begin(self, frame: int, source: bool, target: bool) -> bool:
        """Return whether a scanner may begin in a frame's pageblock, clearing its hint."""
        block = frame // BLOCK
        owner = self.owner_block(frame)
        if owner is not None and self.zone.allocated[owner][0] >= 9:
            return False
        if source and target and block not in self.skip:
            return True
        if target and not source and self.zone.types[block] != MOVABLE:
            return False
        for sample in range(block * BLOCK, self.block_end(frame), 8):
            first = self.owner_block(sample)
            used = first is not None and self.pages.is_listed(first)
            if (source and used) or (target and sample in self.zone.free):
                self.skip.discard(block)
                return True
        return False

    def clear_hints(self) -> None:
        """Clear hints after a run through the zone."""
        memory = self.zone_memory
        if not memory.flush_hints:
            return
        memory.flush_hints = 0
        low, high = 0, self.zone.frames - 1
        source, target = None, None
        while low < high:
            if self.may_begin(low, True, source is not None) and source is None and low < self.zone.frames - 1:
                source = low
                memory.init_migrate = memory.cached_migrate_async = memory.cached_migrate_sync = low
            if self.may_begin(high, target is not None, True) and target is None and high > 0:
                target = high
                memory.init_free = memory.cached_free = high
            low, high = low + BLOCK, high - BLOCK
        if (self.zone.frames - 1 if source is None else source) >= (target or 0):
            memory.cached_migrate_async = memory.cached_migrate_sync = low
            memory.cached_free = high

    def defer(self, order: int) -> None:
        """Put compaction off."""
        memory = self.zone_memory
        memory.considered, memory.defer_shift = 0, min(6, memory.defer_shift + 1)
        memory.order_failed = min(memory.order_failed, order)

    def is_deferred(self, order: int) -> bool:
        """Return whether it is put off this time."""
        memory = self.zone_memory
        if order < memory.order_failed:
            return False
        memory.considered = min(memory.considered + 1, 2**memory.defer_shift)
        if memory.considered == 2**memory.defer_shift:
            return False
        self.events["COMPACT_DEFERRED"] += 1
        return True

    def reset_deferral(self, order: int, served: bool) -> None:
        """Notice a success."""
        memory = self.zone_memory
        if served:
            memory.considered = memory.defer_shift = 0
        memory.order_failed = max(memory.order_failed, order + 1)
