"""Whole runs of compaction in plain Python: pages move, requests capture, runs end. Rules as in the scanners' model."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.oracles.buddy import FALLBACKS, ISOLATE, LARGEST, MOVABLE
from tests.oracles.compaction import BLOCK, PlainCompaction, Run
from tests.oracles.zone import PlainZone

ASYNC, SYNC_LIGHT, SYNC = range(3)
SYNC_FULL_PRIORITY, SYNC_LIGHT_PRIORITY, ASYNC_PRIORITY = range(3)


@dataclass
class PlainRun(PlainCompaction):
    """Compaction of a plain zone, run by run.

    Attributes
    ----------
    log : list of (int, int, int, int)
        Old frame, new frame, owner and order of every page moved.
    captured : int or None
        What the last direct request captured.
    cpus : PlainZone or None
        What CPUs keep of the zone, where they keep anything; ``cpu`` is the one at work.
    """

    log: list[tuple[int, int, int, int]] = field(default_factory=list)
    captured: int | None = None
    capturing: bool = False
    cpus: PlainZone | None = None
    cpu: int = 0

    # Judging

    def blocks_of(self, order: int) -> int:
        """Return how many free blocks of an order there are."""
        return sum(len(self.zone.lists[order, kind]) for kind in range(5))

    def usable(self, order: int) -> int:
        """Return the free frames in blocks of at least an order."""
        return sum(self.blocks_of(high) << high for high in range(order, LARGEST + 1))

    def index(self, order: int) -> int:
        """Return the fragmentation index in thousandths."""
        blocks = len(self.zone.free)
        if not blocks:
            return 0
        if self.usable(order):
            return -1000
        return 1000 - (1000 + self.free_count * 1000 // 2**order) // blocks

    def score(self) -> int:
        """Return the percentage of free frames that a huge page cannot use."""
        return (self.free_count - self.usable(9)) * 100 // self.free_count if self.free_count else 0

    def judge(self, order: int) -> str:
        """Return what a request that keeps the min watermark has to expect."""
        limits = self.limits
        large = any(self.zone.lists[high, kind] for high in range(order, LARGEST + 1) for kind in range(3))
        if large and self.keeps(limits.min + limits.boost + (1 << order) - 1):
            return "SUCCESS"
        mark = (limits.low if order > 3 else limits.min) + limits.boost + 2 * (1 << order)
        if not self.keeps(mark) or (order > 3 and 0 <= self.index(order) <= 500):
            return "SKIPPED"
        return "CONTINUE"

    # Moving

    def keep_lists(self, cpus: PlainZone) -> None:
        """Let what is freed go through the lists of the CPU at work."""
        self.cpus = cpus
        cpus.capture = self.capture
        self.pages.free_block = lambda frame, order, cold: cpus.give_back(cpus.cpus[self.cpu], frame, order, cold)

    def capture(self, frame: int, order: int) -> bool:
        """Let the request have what a block, about to be free and nobody's, completes; return whether it has."""
        wanted = self.run.order
        kind = self.zone.type_of(frame)
        may = self.capturing and self.captured is None and order <= wanted < LARGEST and kind != ISOLATE
        if wanted < 9 and kind == MOVABLE and self.run.migratetype != MOVABLE:
            may = False
        buddies = [(frame >> low ^ 1) << low for low in range(order, wanted)]
        if not may or any(self.zone.free.get(buddy) != order + i for i, buddy in enumerate(buddies)):
            return False
        for buddy in buddies:
            self.zone.unlink(buddy)
        self.captured = frame - frame % (1 << wanted)
        self.zone.allocated[self.captured] = wanted, self.run.migratetype
        for name, count in (("MERGE", wanted - order), ("ALLOCATION", 1)):
            self.zone.events[name] += count
        self.events["CAPTURE"] += 1
        return True

    def give_or_capture(self, frame: int) -> None:
        """Free a block, or let the request have what it completes."""
        order = self.zone.allocated[frame][0]
        if self.cpus is not None:
            assert self.pages.free_block(frame, order, False) == "OK"
            return
        block = self.zone.allocated.pop(frame)
        if self.capture(frame, order):
            self.zone.events["FREE"] += 1
            return
        self.zone.allocated[frame] = block
        assert self.zone.give_back(frame, order) == "OK"

    def release(self) -> int:
        """Give held blocks back; return the highest."""
        if self.cpus is None:
            return super().release()
        highest = max((frame for blocks in self.held.values() for frame in blocks), default=-1)
        for order in sorted(self.held):
            while self.held[order]:
                frame = self.held[order].popleft()
                self.zone.allocated[frame] = order, MOVABLE
                assert self.pages.free_block(frame, order, False) == "OK"
        self.run.free_held = 0
        return highest

    def move(self, pairs: list[tuple[int, int]]) -> None:
        """Move pages from old to new frames."""
        for old, new in pairs:
            order, kind = self.zone.allocated[old]
            self.zone.allocated[new] = order, kind
            page = self.pages.pages.pop(old)
            self.pages.pages[new] = page
            self.pages.put(new)
            self.log.append((old, new, page.owner, order))
            self.events["PAGE_MIGRATED"] += 1 << order
            self.give_or_capture(old)
        self.events["MIGRATION_BATCH"] += bool(pairs)

    def migrate(self) -> tuple[bool, bool]:
        """Move what waits; return whether something is left, and whether targets ran out."""
        waiting = self.sources[::-1]
        pairs: list[tuple[int, int]] = []
        pieces: list[int] = []
        exhausted = False
        while waiting:
            order = self.zone.allocated[waiting[0]][0]
            target = self.target(order)
            if target < 0 and order == 0:
                exhausted = True
                break
            source = waiting.pop(0)
            if target < 0:
                self.pages.split_held(source)
                pieces += [*range(source + 1, source + (1 << order)), source]
            else:
                pairs.append((source, target))
        self.move(pairs)
        if not exhausted:
            pairs = []
            while pieces:
                target = self.target(0)
                if target < 0:
                    break
                pairs.append((pieces.pop(0), target))
            self.move(pairs)
        self.sources[:] = (waiting + pieces)[::-1]
        self.run.pages_held, self.run.migrate_held = len(self.sources), 0
        return bool(self.sources), exhausted

    # Runs

    def begin(self, order: int, mode: int, **fields: int) -> None:
        """Begin a run."""
        memory = self.zone_memory
        self.run = run = Run(order=order, mode=mode, search_order=order, **fields)
        last = (self.zone.frames - 1) // BLOCK * BLOCK
        if order >= memory.order_failed and memory.defer_shift == 6 and memory.considered >= 64:
            self.clear_hints()
        if run.whole_zone:
            run.migrate_at, run.free_at = 0, last
        else:
            run.migrate_at = memory.cached_migrate_async if mode == ASYNC else memory.cached_migrate_sync
            run.free_at = memory.cached_free
            if not 0 <= run.free_at < self.zone.frames:
                run.free_at = memory.cached_free = last
            if not 0 <= run.migrate_at < self.zone.frames:
                run.migrate_at = memory.cached_migrate_async = memory.cached_migrate_sync = 0
            run.whole_zone = int(run.migrate_at <= memory.init_migrate)
        self.last_migrated = -1
        self.keep_equal = mode == ASYNC and memory.cached_migrate_async == memory.cached_migrate_sync

    def direct(self, order: int, kind: int, priority: int, files: bool) -> str:
        """Compact for a request."""
        full = priority == SYNC_FULL_PRIORITY
        if not full and self.is_deferred(order):
            return "DEFERRED"
        result = self.judge(order)
        self.captured, self.capturing = None, True
        if result == "CONTINUE":
            mode = ASYNC if priority == ASYNC_PRIORITY else SYNC_LIGHT
            hard = int(full)
            self.begin(
                order,
                mode,
                migratetype=kind,
                direct=1,
                files=int(files),
                ignore_hints=hard,
                any_target=hard,
                whole_zone=hard,
            )
            result = self.go_on()
        self.capturing = False
        if self.captured is not None:
            result = "SUCCESS"
        if result == "SUCCESS":
            self.reset_deferral(order, False)
        elif priority != ASYNC_PRIORITY and result in ("COMPLETE", "PARTIAL_SKIPPED"):
            self.defer(order)
        return result

    def background(self, order: int) -> str:
        """Compact as kcompactd."""
        if self.is_deferred(order):
            return "DEFERRED"
        result = self.judge(order)
        if result != "CONTINUE":
            return result
        self.capturing = False
        self.begin(order, SYNC_LIGHT, migratetype=0)
        result = self.go_on()
        if result == "SUCCESS":
            self.reset_deferral(order, False)
        elif result in ("COMPLETE", "PARTIAL_SKIPPED"):
            for cpu in [] if self.cpus is None else self.cpus.cpus:
                self.cpus.drain_all(cpu)
            self.defer(order)
        return result

    def whole(self, proactiveness: int) -> str:
        """Compact all of the zone, or until it is good enough."""
        self.capturing = False
        self.enough = max(100 - proactiveness, 5)
        mode = SYNC_LIGHT if proactiveness else SYNC
        self.begin(-1, mode, migratetype=0, proactive=int(proactiveness > 0), ignore_hints=1, whole_zone=1)
        return self.go_on()

    def met(self) -> bool:
        """Return whether the scanners have met."""
        return self.run.free_at // BLOCK <= self.run.migrate_at // BLOCK

    def verdict(self) -> str | None:
        """Return a run's result if it is finished."""
        run, memory = self.run, self.zone_memory
        if self.met():
            memory.cached_migrate_async = memory.cached_migrate_sync = 0
            memory.cached_free = (self.zone.frames - 1) // BLOCK * BLOCK
            if run.direct:
                memory.flush_hints = 1
            return "COMPLETE" if run.whole_zone else "PARTIAL_SKIPPED"
        if run.proactive:
            return None if self.score() > self.enough else "SUCCESS"
        if run.order < 0 or run.migrate_at % BLOCK:
            return None
        for order in range(run.order, LARGEST + 1):
            kinds = [run.migratetype]
            if order >= 4 or run.migratetype != MOVABLE:
                kinds += FALLBACKS[run.migratetype]
            if any(self.zone.lists[order, kind] for kind in kinds):
                return "SUCCESS"
        return None

    def go_on(self) -> str:
        """Run to the end."""
        run, memory = self.run, self.zone_memory
        result: str | None = None
        while result is None:
            result = self.verdict()
            if result is None:
                run.finish_pageblock = int(
                    self.last_migrated >= 0 and self.last_migrated // BLOCK == run.migrate_at // BLOCK
                )
                result = self.one_round()
        highest = self.release()
        if highest >= 0:
            memory.cached_free = max(memory.cached_free, highest // BLOCK * BLOCK)
        return result

    def one_round(self) -> str | None:
        """Take a cluster and move it; return the result if that ends the run."""
        run, memory = self.run, self.zone_memory
        found = self.scan_migrate()
        rescanned = False
        while found:
            self.keep_equal = False
            self.last_migrated = (run.migrate_at - 1) // BLOCK * BLOCK
            left, exhausted = self.migrate()
            if left:
                self.events["MIGRATION_FAILURE"] += self.put_back()
                if exhausted and not self.met():
                    return "CONTENDED"
                again = run.migrate_at % BLOCK and not run.ignore_hints and run.mode != SYNC
                if again and not run.finish_pageblock and not rescanned:
                    rescanned = True
                    run.finish_pageblock = 1
                    if run.order == 9:
                        self.last_migrated = -1
                    found = self.scan_migrate()
                    continue
            break
        if not found and self.keep_equal:
            memory.cached_migrate_sync = memory.cached_migrate_async
        if found and self.captured is not None and self.capturing:
            return "SUCCESS"
        if run.order > 0 and 0 <= self.last_migrated < run.migrate_at // (1 << run.order) * (1 << run.order):
            if self.cpus is not None:
                self.cpus.drain_all(self.cpus.cpus[self.cpu])
            self.last_migrated = -1
        return None
