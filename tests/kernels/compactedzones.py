"""A zone that is compacted, kernel and plain, compared to the last hint."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np

from tests.kernels.pagedzones import PagedPair
from tests.oracles.compaction import PlainLimits
from tests.oracles.compactrun import PlainRun
from tests.oracles.pages import PlainPage
from tests.oracles.zone import PlainZone
from vckernels import compactcontrol, freescan, migratescan, movelog
from vckernels import compaction as kernels
from vckernels import zone as zones
from vckernels.allocflags import AllocFlag
from vckernels.buddy import ISOLATED, ORDERS, PER_CPU, Buddy, Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import RunField, ZoneField
from vckernels.compaction import CompactResult
from vckernels.rules import Option, PerCpuRule
from vckernels.watermark import Limit, ZoneIndex, new_limits
from vckernels.zone import LISTS_PER_CPU, PerCpu


class CompactedPair(PagedPair):
    """One zone with pages and compaction, twice."""

    def __init__(
        self,
        frames: int,
        types: dict[int, int] | None = None,
        limits: PlainLimits | None = None,
        split_lists: bool = True,
        cpus: int = 0,
    ) -> None:
        super().__init__(frames, types, split_lists, extra_lists=cpus * LISTS_PER_CPU)
        marks = limits or PlainLimits()
        self.compaction = compactcontrol.new_compaction(frames)
        self.moves = movelog.new_moves()
        self.log: list[tuple[int, int, int, int]] = []
        self.plain_compaction = PlainRun(self.plain_pages, marks)
        self.limits = new_limits(
            min=marks.min,
            low=marks.low,
            high=marks.high,
            boost=marks.boost,
            highatomic_reserved=marks.reserved,
            managed=frames,
        )
        self.cpus: PlainZone | None = None
        if cpus:
            self._keep_lists(cpus, "many" if split_lists else "two")

    def _keep_lists(self, cpus: int, rule: str) -> None:
        """Let CPUs keep lists of what is freed, few enough frames for batches to go back now and then."""
        given = {"batch": 15, "high_min": 30, "high_max": 90}
        for name, value in given.items():
            self.limits[Limit[name.upper()]] = value
        self.cpus = PlainZone(self.plain, given, cpus, rule)
        self.plain_compaction.keep_lists(self.cpus)
        self.buddy.options[Option.PER_CPU] = PerCpuRule.MANY_ORDERS if rule == "many" else PerCpuRule.HOT_AND_COLD
        fresh = zones.new_zone(0, self.limits, cpus)
        self.pages = self.pages._replace(limits=self.limits, per_cpu=fresh.per_cpu)

    def work_on(self, cpu: int) -> None:
        """Let another CPU be at work, where CPUs matter."""
        if self.cpus is not None:
            self.pages.cpu[0] = self.plain_compaction.cpu = cpu % len(self.cpus.cpus)

    def set_run(self, **values: int) -> None:
        """Set fields of the run in both, by lower-case name."""
        for name, value in values.items():
            self.compaction.run[RunField[name.upper()]] = value
            setattr(self.plain_compaction.run, name, value)

    def set_zone(self, **values: int) -> None:
        """Set what the zone remembers, in both, by lower-case name."""
        for name, value in values.items():
            self.compaction.zone[ZoneField[name.upper()]] = value
            setattr(self.plain_compaction.zone_memory, name, value)

    def set_hint(self, block: int) -> None:
        """Set a pageblock's skip hint in both."""
        self.compaction.skip[block] = 1
        self.plain_compaction.skip.add(block)

    def run(self, name: str) -> int:
        """Return a field of the run, the same in both."""
        value = int(self.compaction.run[RunField[name.upper()]])
        assert value == getattr(self.plain_compaction.run, name), name
        return value

    def zone(self, name: str) -> int:
        """Return what the zone remembers, the same in both."""
        value = int(self.compaction.zone[ZoneField[name.upper()]])
        assert value == getattr(self.plain_compaction.zone_memory, name), name
        return value

    def held_blocks(self, order: int) -> list[int]:
        """Return the held free blocks of an order, first one first, the same in both."""
        blocks = []
        frame = int(self.compaction.first[order])
        while frame >= 0:
            assert self.buddy.state[frame] == ISOLATED
            blocks.append(frame)
            frame = int(self.buddy.next[frame])
        assert (blocks[-1] if blocks else -1) == self.compaction.last[order]
        assert blocks == list(self.plain_compaction.held[order]), order
        return blocks

    # Doing the same to both

    def fast_isolate(self) -> None:
        """Run the fast search for targets."""
        freescan.fast_isolate(self.buddy, self.limits, self.compaction)
        self.plain_compaction.fast_free()

    def isolate_free(self) -> None:
        """Run the free scanner."""
        freescan.isolate_free(self.buddy, self.limits, self.compaction)
        self.plain_compaction.scan_free()

    def isolate_in_pageblock(self, start: int, end: int, stride: int) -> int:
        """Walk part of a pageblock."""
        at = freescan.isolate_in_pageblock(self.buddy, self.limits, self.compaction, start, end, stride)
        assert at == self.plain_compaction.walk(start, end, stride)
        return int(at)

    def take_target(self, order: int) -> int:
        """Take a target, which stays isolated."""
        frame = freescan.take_target(self.buddy, self.limits, self.compaction, order)
        assert frame == self.plain_compaction.target(order)
        return int(frame)

    def hold_again(self, frame: int, order: int) -> None:
        """Hold a target that was not needed."""
        compactcontrol.hold_first(self.buddy, self.compaction, frame, order)
        self.plain_compaction.held[order].appendleft(frame)
        self.plain_compaction.run.free_held += 1 << order

    def release_held(self) -> int:
        """Give held blocks back."""
        highest = compactcontrol.release_held(self.buddy, self.pages, self.compaction)
        assert highest == self.plain_compaction.release()
        return int(highest)

    def isolate_sources(self, start: int, end: int) -> None:
        """Take pages of part of a pageblock off their lists."""
        migratescan.isolate_sources(self.buddy, self.pages, self.compaction, start, end)
        self.plain_compaction.scan_pageblock(start, end)

    def isolate_migrate(self) -> bool:
        """Run the migrate scanner."""
        found = migratescan.isolate_migrate(self.buddy, self.pages, self.compaction)
        assert found == self.plain_compaction.scan_migrate()
        return bool(found)

    def find_pageblock(self) -> int:
        """Run the fast search for sources."""
        at = migratescan.find_pageblock(self.buddy, self.compaction)
        assert at == self.plain_compaction.fast_source()
        return int(at)

    def put_sources_back(self) -> int:
        """Put waiting pages back."""
        frames = migratescan.put_sources_back(self.buddy, self.pages, self.compaction)
        assert frames == self.plain_compaction.put_back()
        return int(frames)

    @property
    def sources(self) -> list[int]:
        """First frames of waiting pages, the last taken last, the same in both."""
        waiting = self.compaction.sources[: self.run("pages_held")].tolist()
        assert waiting == self.plain_compaction.sources
        return [int(frame) for frame in waiting]

    def clear_hints(self) -> None:
        """Clear skip hints."""
        compactcontrol.clear_hints(self.buddy, self.pages, self.compaction)
        self.plain_compaction.clear_hints()

    # Whole runs

    def finish(self) -> str:
        """Advance the kernel's run to its end, emptying the log of moves as often as it is full."""
        while True:
            result = kernels.advance(self.buddy, self.pages, self.limits, self.compaction, self.moves)
            used = int(self.moves.used[0])
            columns = (self.moves.old, self.moves.new, self.moves.owners, self.moves.orders)
            self.log += list(zip(*(column[:used].tolist() for column in columns), strict=True))
            self.moves.used[0] = 0
            if result != CompactResult.CONTINUE:
                return CompactResult(result).name

    def direct(self, order: int, migratetype: int, priority: int, files: bool = True) -> str:
        """Compact for a request; return the result's name."""
        state = (self.buddy, self.pages, self.limits, self.compaction)
        zone = ZoneIndex.NORMAL
        result = kernels.begin_direct(*state, order, migratetype, priority, files, zone, AllocFlag.WMARK_MIN)
        name = CompactResult(result).name
        if result == CompactResult.CONTINUE:
            name = self.finish()
        if name != "DEFERRED":
            result = kernels.end_direct(self.compaction, order, priority, CompactResult[name])
            name = CompactResult(result).name
        assert name == self.plain_compaction.direct(order, migratetype, priority, files)
        if name != "DEFERRED":
            captured = int(self.compaction.run[RunField.CAPTURED])
            assert (None if captured < 0 else captured) == self.plain_compaction.captured
        return name

    def background(self, order: int) -> str:
        """Compact as kcompactd; return the result's name."""
        state = (self.buddy, self.pages, self.limits, self.compaction)
        result = kernels.begin_background(*state, order, ZoneIndex.NORMAL, AllocFlag.WMARK_MIN)
        name = CompactResult(result).name
        if result == CompactResult.CONTINUE:
            name = self.finish()
            kernels.end_background(self.buddy, self.pages, self.compaction, order, CompactResult[name])
        assert name == self.plain_compaction.background(order)
        return name

    def whole(self, proactiveness: int = 0) -> str:
        """Compact the whole zone; return the result's name."""
        kernels.begin_whole_zone(self.buddy, self.pages, self.compaction, proactiveness)
        name = self.finish()
        assert name == self.plain_compaction.whole(proactiveness)
        return name

    # Comparing

    def check(self, isolated: Iterable[int] = ()) -> None:
        """Compare the zone and what CPUs keep of it."""
        super().check(isolated)
        if self.cpus is None:
            return
        state = self.buddy.state
        for number, cpu in enumerate(self.cpus.cpus):
            for which, blocks in enumerate(cpu.lists):
                assert read_extra_list(self.buddy, zones.per_cpu_sentinel(self.buddy, number, which)) == list(blocks)
            own = self.pages.per_cpu[number]
            assert own[PerCpu.COUNT] == cpu.count
            assert own[PerCpu.COLD_COUNT] == cpu.cold_count
            assert own[PerCpu.CAPTURE_ORDER] == 0
            if self.cpus.rule == "many":
                assert (own[PerCpu.HIGH], own[PerCpu.FREE_COUNT]) == (cpu.high, cpu.free_count)
        held = {frame: PER_CPU - 4 * order - min(kind, 3) for frame, (order, kind) in self.cpus.held.items()}
        assert {int(frame): int(state[frame]) for frame in np.flatnonzero(state <= PER_CPU)} == held
        for cause in (Cause.PER_CPU_FREE, Cause.PER_CPU_DRAIN):
            assert self.buddy.counters[cause] == self.plain.events[cause.name], cause.name

    def check_run(self) -> None:
        """Compare what runs leave behind, and the zone: nothing is held."""
        assert self.log == self.plain_compaction.log
        assert (self.compaction.first == -1).all()
        assert not self.plain_compaction.sources
        for field in ZoneField:
            self.zone(field.name.lower())
        for name in ("migrate_at", "free_at", "fast_start", "fast_failures", "search_order"):
            self.run(name)
        assert set(np.flatnonzero(self.compaction.skip).tolist()) == self.plain_compaction.skip
        self.check()

    def check_compaction(self) -> None:
        """Compare everything that compaction has, and the zone."""
        held = [frame for order in range(ORDERS) for frame in self.held_blocks(order)]
        assert len(self.sources) == self.run("pages_held")
        for field in RunField:
            if hasattr(self.plain_compaction.run, field.name.lower()):
                self.run(field.name.lower())
        for field in ZoneField:
            self.zone(field.name.lower())
        assert set(np.flatnonzero(self.compaction.skip).tolist()) == self.plain_compaction.skip
        self.check(held)


def read_extra_list(buddy: Buddy, sentinel: int) -> list[int]:
    """Return the first frames of the blocks on a list beside the free ones, head first."""
    found = []
    node = int(buddy.next[sentinel])
    while node != sentinel:
        found.append(node)
        node = int(buddy.next[node])
    return found


def full(frames: int, types: dict[int, int] | None = None, limits: PlainLimits | None = None) -> CompactedPair:
    """Return a zone whose every frame is a page of its own; without limits the last free block may be taken too."""
    pair = CompactedPair(frames, types, limits or PlainLimits(min=-10))
    for frame in range(frames):
        pair.take_at(frame, 0, Migratetype.MOVABLE)
        pair.add(frame, PlainPage(frame))
    return pair


def random_zone(rng: random.Random) -> CompactedPair:
    """Return a fragmented zone of random size, types, watermark, hints and run."""
    frames = rng.choice([1024, 1536, 2048, 2048 + 300, 4096])
    blocks = -(-frames // 512)
    kinds = {block: rng.choice((0, 1, 1, 1, 2, 3, 4)) for block in range(blocks)}
    pair = CompactedPair(frames, kinds, PlainLimits(min=rng.choice([0, 0, 10, frames // 4]), reserved=rng.randrange(2)))
    pair.populate(rng, rng.choice([0.5, 0.95, 1.0]), rng.choice([0.1, 0.5, 0.8]), largest=rng.choice([0, 3, 9]))
    for block in range(blocks):
        if rng.random() < 0.2:
            pair.set_hint(block)
    last = (frames - 1) // 512 * 512
    pair.set_run(
        order=rng.choice([-1, 1, 3, 4, 9, 10]),
        migratetype=rng.choice((0, 1, 2)),
        mode=rng.randrange(3),
        direct=rng.randrange(2),
        ignore_hints=int(rng.random() < 0.2),
        any_target=int(rng.random() < 0.2),
        migrate_at=rng.choice([0, 0, 512, 300]),
        free_at=rng.choice([last, last, last - 512, last - 200]),
        fast_failures=rng.choice([0, 0, 1, 4, 70]),
        search_order=rng.randrange(11),
        migrate_held=rng.choice([1, 8, 32, 200]),
    )
    if rng.random() < 0.5:
        pair.set_zone(init_free=last, cached_free=rng.choice([last, 0, 512]), init_migrate=0)
    return pair
