"""The full path of a request against plain Python: whole random histories, and rules by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.kernels.zonelists import (
    PLENTY,
    Machine,
    ZonePair,
    one_zone,
    random_batch,
    random_request,
    small_limits,
)
from vckernels import zonelist
from vckernels.allocflags import AllocFlag
from vckernels.buddy import Migratetype
from vckernels.causes import Cause, Status
from vckernels.watermark import Limit, ZoneIndex

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = Migratetype


class FullPath(RuleBasedStateMachine):
    """All that there is, mixed, in up to three zones and for up to three CPUs."""

    release = "6.18"

    @initialize(
        seed=st.integers(0, 1 << 32),
        sizes=st.sampled_from([(0, 0, 3), (0, 0, 2), (0, 2, 0), (0, 2, 2), (1, 2, 2), (1, 0, 0)]),
        cpus=st.integers(1, 3),
        lists=st.sampled_from([None, None, None, "none"]),
    )
    def boot(self, seed: int, sizes: tuple[int, int, int], cpus: int, lists: str | None) -> None:
        self.rng = random.Random(seed)
        self.cpus = cpus
        zones = []
        for blocks in sizes:
            frames = 1024 * blocks
            kinds = {block: self.rng.choice((0, 1, 1, 2, 3, 4)) for block in range(2 * blocks)}
            types = {} if self.release == "2.6.23" else kinds
            limits = small_limits(self.rng, frames)
            zones.append(ZonePair(frames, limits, cpus, self.release, types, lists) if blocks else None)
        self.machine = Machine(*zones, self.release)

    @rule(count=st.integers(1, 80))
    def requests(self, count: int) -> None:
        for _ in range(count):
            random_request(self.machine, self.rng, self.cpus)

    @rule(order=st.sampled_from([0, 0, 1, 3]), count=st.integers(1, 120), kind=st.sampled_from([0, 1, 2]))
    def allocate_much(self, order: int, count: int, kind: int) -> None:
        cpu = self.rng.randrange(self.cpus)
        for _ in range(count):
            self.machine.get(order, kind, set(), "min", "normal", cpu)

    @precondition(lambda self: self.machine.live)
    @rule(count=st.integers(1, 120))
    def free_much(self, count: int) -> None:
        cpu = self.rng.randrange(self.cpus)
        live = self.machine.live
        for frame, order in self.rng.sample(live, min(count, len(live))):
            self.machine.put(frame, order, cpu)

    @rule(count=st.integers(1, 300), slots=st.sampled_from([3, 50]))
    def batch(self, count: int, slots: int) -> None:
        """What is served in one call is what single calls would have done, up to where it stops."""
        self.machine.run(random_batch(self.rng, self.cpus, slots, count), [-1] * slots)

    @rule(frame=st.integers(-3, 6000), order=st.integers(-1, 12))
    def free_anything(self, frame: int, order: int) -> None:
        self.machine.put(frame, order)

    @rule()
    def drain(self) -> None:
        self.machine.drain(self.rng.randrange(self.cpus))

    @rule()
    def a_second_goes_by(self) -> None:
        for zone in self.machine.populated:
            if zone.plain.rule == "many":
                zone.decay(self.rng.randrange(self.cpus))

    @rule(active=st.booleans(), name=st.sampled_from(["reclaim_active", "boost", "below_high"]))
    def reclaim_says(self, active: bool, name: str) -> None:
        for zone in self.machine.populated:
            if name == "boost":
                zone.set_limit(name, 0)
            elif zone.plain.rule == "many":
                zone.set_limit(name, int(active))

    @rule(force=st.booleans(), kind=st.sampled_from([0, 1, 2]))
    def reserves(self, force: bool, kind: int) -> None:
        for zone in self.machine.populated:
            if self.release == "6.18" and not zone.release(kind, force) and zone.plain.buddy.allocated:
                zone.reserve(self.rng.choice(list(zone.plain.buddy.allocated)))
            elif self.release == "2.6.24":
                zone.set_limit("min", self.rng.choice((0, 300, 700)))
                zone.keep_reserve()

    @invariant()
    def same(self) -> None:
        if hasattr(self, "machine"):
            self.machine.check()

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        for frame, order in self.machine.live:
            self.machine.put(frame, order)
        for cpu in range(self.cpus):
            self.machine.drain(cpu)
        self.machine.check()
        assert all(not zone.plain.held for zone in self.machine.populated)


class FullPath2624(FullPath):
    """The same in 2.6.24."""

    release = "2.6.24"


class FullPath2623(FullPath):
    """The same in 2.6.23."""

    release = "2.6.23"


FullPath.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
FullPath2624.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
FullPath2623.TestCase.settings = settings(max_examples=8, stateful_step_count=20)
TestFullPath = FullPath.TestCase
TestFullPath2624 = FullPath2624.TestCase
TestFullPath2623 = FullPath2623.TestCase


@pytest.mark.parametrize("release", ["6.18", "2.6.24"])
def test_long_histories_meet_every_rule(release: str) -> None:
    """Kernel and plain machine agree, and the histories are worth something: whatever there is happens in them."""
    modern = release == "6.18"
    causes = [Cause.PER_CPU_REFILL, Cause.PER_CPU_DRAIN, Cause.WATERMARK_MISS, Cause.CLAIM_REFUSED, Cause.STEAL]
    causes += [Cause.HIGHATOMIC_RESERVE, Cause.CLAIM_PAGEBLOCK] if modern else [Cause.RESERVE_BLOCK]
    totals = dict.fromkeys(causes, 0)
    for seed in range(8):
        rng = random.Random(seed)
        zones = [
            ZonePair(1024 * blocks, small_limits(rng, 1024 * blocks), 2, release, {block: block % 4})
            for block, blocks in enumerate((1, 2, 2))
        ]
        for zone in zones if not modern else []:
            zone.keep_reserve()
        machine = Machine(*zones, release)
        for turn in range(24):
            for _ in range(rng.choice((5, 40))):
                random_request(machine, rng, 2)
            kind = rng.choice((0, 1, 1, 2))
            while turn % 8 == 3 and machine.get(rng.choice((0, 0, 3)), kind, {"NO_WATERMARKS"}, "min") >= 0:
                pass
            machine.run(random_batch(rng, 2, 40, 60), [-1] * 40)
            machine.check()
        for zone in zones:
            for cause in causes:
                totals[cause] += zone.events(cause)
    assert all(totals.values()), totals


# Zones in turn


def three_zones(release: str = "6.18", **limits: int) -> Machine:
    """Return a machine with all three zones and plenty in each."""
    sizes = (1024, 2048, 2048)
    machine = Machine(*(ZonePair(frames, PLENTY | limits, 1, release) for frames in sizes), release)
    machine.populated[2].set_limit("reserve_normal", 0)
    return machine


@pytest.mark.parametrize("release", ["6.18", "2.6.24", "2.6.23"])
def test_zones_are_tried_from_the_highest_that_may_serve(release: str) -> None:
    machine = three_zones(release)
    kind = 0 if release == "2.6.23" else MOVABLE
    first = {highest: machine.get(5, kind, highest=highest) for highest in ("movable", "normal", "dma32", "dma")}
    assert [3072 <= first["movable"], 3072 <= first["normal"], 1024 <= first["dma32"] < 3072] == [True] * 3
    assert first["dma"] == 0
    for frame in first.values():
        assert machine.put(frame, 5) == "OK"
    machine.check()


def test_a_zone_below_its_mark_passes_requests_on_and_lower_zones_keep_a_reserve() -> None:
    machine = three_zones(reserve_normal=300)
    frames = []
    while (frame := machine.get(0, MOVABLE)) >= 3072:
        frames.append(frame)
    normal = machine.populated[2]
    # What the CPU's lists hold is not free to the zone.
    assert normal.kernel.limits[Limit.FREE] <= 10
    assert frame < 3072
    while (frame := machine.get(0, MOVABLE)) >= 0:
        frames.append(frame)
    assert machine.populated[1].plain.free <= 310
    assert machine.populated[0].plain.free <= 310
    # Whoever may use the lower zone alone still gets from it.
    assert machine.get(0, MOVABLE, highest="dma32") >= 1024
    assert machine.get(0, MOVABLE, {"NO_WATERMARKS"}) >= 0
    machine.check()


def test_requests_fragment_a_lower_zone_rather_than_a_pageblock_of_the_normal_one() -> None:
    """First every zone is asked for whole pageblocks; the normal zone's foreign fragments come last."""
    machine = three_zones()
    normal = machine.populated[2]
    while machine.get(3, MOVABLE, {"NO_WATERMARKS"}, "min") >= 3072:
        pass
    normal.pair.free_live(next(iter(normal.pair.plain.allocated)))
    machine.check()
    assert machine.get(0, UNMOVABLE, {"NO_WATERMARKS"}, "min") < 3072
    assert normal.events(Cause.STEAL) == normal.events(Cause.CLAIM_PAGEBLOCK) == 0
    # In a machine without those, the second round takes them.
    alone, zone = one_zone(2048)
    while alone.get(3, MOVABLE, {"NO_WATERMARKS"}, "min") >= 0:
        pass
    zone.pair.free_live(next(iter(zone.pair.plain.allocated)))
    alone.check()
    assert alone.get(0, UNMOVABLE, {"NO_WATERMARKS"}, "min") >= 0
    assert zone.events(Cause.STEAL) > 0
    zone.check()


# Reserves and boosts


def test_an_atomic_request_of_a_high_order_reserves_its_pageblock() -> None:
    machine, zone = one_zone(highatomic_most=512)
    atomic = {"MIN_RESERVE", "NON_BLOCK", "HIGHATOMIC"}
    frame = machine.get(2, UNMOVABLE, atomic, "min")
    assert zone.pair.types()[frame >> 9] == HIGHATOMIC
    assert zone.kernel.limits[Limit.HIGHATOMIC_RESERVED] == 512
    # As much as is allowed: the next reserves nothing, and others' requests never see the block.
    assert machine.get(5, UNMOVABLE, atomic, "min") >> 9 == frame >> 9
    assert all(machine.get(5, kind) >> 9 != frame >> 9 for kind in (0, 1, 2) for _ in range(20))
    # Freed, a block of a reserved pageblock lies on the movable list, from which anyone takes it.
    assert machine.put(frame, 2) == "OK"
    assert machine.get(2, MOVABLE) == frame
    machine.check()


def test_reserved_pageblocks_go_back_the_last_one_only_by_force() -> None:
    machine, zone = one_zone(highatomic_most=2048)
    for frame in (machine.get(4, MOVABLE), machine.get(10, MOVABLE)):
        assert zone.reserve(frame)
        assert not zone.reserve(frame)
    assert zone.kernel.limits[Limit.HIGHATOMIC_RESERVED] == 512 + 1024
    assert zone.release(RECLAIMABLE, force=False)
    assert zone.kernel.limits[Limit.HIGHATOMIC_RESERVED] == 1024
    assert zone.pair.types().count(RECLAIMABLE) == 1
    # Nothing of the other is free.
    assert not zone.release(RECLAIMABLE, force=True)
    for frame, order in machine.live:
        machine.put(frame, order)
    assert zone.release(MOVABLE, force=False)
    assert not zone.release(MOVABLE, force=True)
    machine.check()


def test_in_2_6_24_pageblocks_from_the_zones_start_hold_the_min_watermark() -> None:
    zone = ZonePair(4096, PLENTY | {"min": 700}, release="2.6.24", types={0: 0})
    assert zone.keep_reserve() == 2
    assert zone.pair.types()[:5] == [0, 0, 3, 3, 1]
    # A block of two pageblocks moves whole, with the first of them.
    assert zone.pair.blocks(10, HIGHATOMIC) == [1024]
    zone.set_limit("min", 512)
    assert zone.keep_reserve() == 1
    assert zone.pair.types()[:5] == [0, 0, 3, 1, 1]
    assert zone.pair.blocks(10, HIGHATOMIC) == [1024]
    zone.check()


def test_claims_boost_the_watermarks_of_their_zone() -> None:
    machine, zone = one_zone(2048, boost_most=700, batch=1, high_min=0, high_max=0)
    while machine.get(4, MOVABLE, {"NO_WATERMARKS"}, "min") >= 0:
        pass
    blocks = [frame for frame in zone.pair.plain.allocated if frame % 64 == 0]
    for frame in blocks:
        assert machine.put(frame, 4) == "OK"
    boosts = []
    while machine.get(4, UNMOVABLE, {"NO_WATERMARKS"}, "min") >= 0 and len(boosts) < 3:
        boosts.append(int(zone.kernel.limits[Limit.BOOST]))
    assert boosts == [512, 700, 700]
    assert zone.kernel.limits[Limit.BOOSTED] == 1
    # Boosted, every mark is out of reach.
    assert machine.get(4, MOVABLE) == -1
    machine.check()


# Batches


def test_a_batch_stops_where_a_slow_path_would_begin_and_goes_on_from_there() -> None:
    machine, zone = one_zone(1024, min=300, low=600, high=700)
    batch = [(slot, 0, 1, frozenset(), "low", "normal", 0) for slot in range(900)]
    slots = [-1] * 900
    served = machine.run(batch, slots)
    # The last refill took more than there was above the mark.
    assert 400 < served < 700
    assert zone.kernel.limits[Limit.FREE] <= 600
    assert served == 1024 - zone.kernel.limits[Limit.FREE] - zone.plain.cpus[0].count
    # A mark below, some more are served.
    rest = [(slot, 0, 1, frozenset(), "min", "normal", 0) for slot in range(served, 900)]
    more = machine.run(rest, slots)
    assert 0 < more < len(rest)
    assert zone.kernel.limits[Limit.FREE] <= 300
    machine.check()


def test_a_batch_stops_at_a_block_that_is_not_allocated() -> None:
    machine, _ = one_zone()
    requests = zonelist.free_requests([0, 1])
    for frame, status in ((7, Status.OUT_OF_RANGE), (9000, Status.OUT_OF_RANGE)):
        slots = np.array([-1, frame], np.int64)
        assert zonelist.run_requests(machine.kernel, requests, slots, 0) == (1, status)
        assert slots.tolist() == [-1, frame]
    machine.check()


def test_requests_are_one_word_each() -> None:
    flags = AllocFlag.COLD | AllocFlag.KSWAPD | AllocFlag.WMARK_HIGH
    word = zonelist.allocation_requests([(1 << 31) - 1], 10, 2, ZoneIndex.MOVABLE, flags, 1023)
    assert word.tolist() == [10 | 2 << 4 | 3 << 6 | flags << 8 | 1023 << 21 | ((1 << 31) - 1) << 31]
    assert (zonelist.free_requests(np.arange(3), 5) < 0).all()
