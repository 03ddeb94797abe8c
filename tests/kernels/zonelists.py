"""A machine's zones twice, kernel and plain, side by side: every call goes to both, and they are compared."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set

import numpy as np

from tests.kernels.compactedzones import read_extra_list
from tests.kernels.zones import Pair
from tests.oracles.zone import PlainZone, PlainZonelist, list_number
from vckernels import audit, highatomic, pages, pcplist, pcplist_2_6_24, watermark, zonelist
from vckernels import zone as zones
from vckernels.allocflags import AllocFlag
from vckernels.buddy import MAX_ORDER, ORDERS, PER_CPU, TYPES
from vckernels.causes import Cause, Status
from vckernels.rules import Option, PerCpuRule
from vckernels.watermark import Limit
from vckernels.zone import LISTS_PER_CPU, PerCpu
from vckernels.zonelist import Zonelist

EVENTS = (
    Cause.PER_CPU_ALLOCATION,
    Cause.PER_CPU_FREE,
    Cause.PER_CPU_REFILL,
    Cause.PER_CPU_DRAIN,
    Cause.WATERMARK_MISS,
    Cause.HIGHATOMIC_RESERVE,
    Cause.HIGHATOMIC_RELEASE,
)
NAMES = ("dma", "dma32", "normal", "movable")
RULES = {"none": PerCpuRule.NONE, "many": PerCpuRule.MANY_ORDERS, "two": PerCpuRule.HOT_AND_COLD}
NO_PAGES = pages.new_pages(0)


Request = tuple[int, int, int, Set[str], str, str, int]
"""Slot, order (-1: empty the slot), migratetype, flags, mark, highest zone, CPU."""


def flag_bits(flags: Set[str], mark: str) -> int:
    """Return allocation flags by the names of their bits and of their mark."""
    return sum(int(AllocFlag[flag]) for flag in flags) | int(AllocFlag[f"WMARK_{mark.upper()}"])


def encode(request: Request) -> int:
    """Return a request as the kernel reads it."""
    slot, order, kind, flags, mark, highest, cpu = request
    if order < 0:
        return int(zonelist.free_requests(slot, cpu))
    bits = flag_bits(flags, mark)
    return int(zonelist.allocation_requests(slot, order, kind, NAMES.index(highest), bits, cpu))


class ZonePair:
    """One zone with its per-CPU lists twice.

    Parameters
    ----------
    frames : int
    limits : mapping
        As :func:`vckernels.watermark.new_limits` takes them.
    cpus : int
    release : str
        "6.18", "2.6.24" or "2.6.23".
    types : dict, optional
        Migratetypes of pageblocks that are not movable.
    per_cpu : str, optional
        "none": no per-CPU lists whatever the release.
    """

    def __init__(
        self,
        frames: int,
        limits: Mapping[str, int],
        cpus: int = 1,
        release: str = "6.18",
        types: dict[int, int] | None = None,
        per_cpu: str | None = None,
    ) -> None:
        extra = zones.FIRST_PER_CPU_LIST + cpus * LISTS_PER_CPU
        self.pair = Pair(frames, types, release=release, lists=extra)
        rule = per_cpu or ("many" if release == "6.18" else "two")
        self.pair.kernel.options[Option.PER_CPU] = RULES[rule]
        reserved = 512 * self.pair.plain.types.count(3) if release == "6.18" else 0
        if release != "6.18":
            batch = limits["batch"]
            limits = {**limits, "boost_most": 0, "high_min": 2 * batch, "high_max": 6 * batch}
        given = {"managed": frames, "highatomic_reserved": reserved, **limits}
        fresh = zones.new_zone(frames, watermark.new_limits(**given), cpus)
        self.kernel = zones.Zone(self.pair.kernel, fresh.limits, fresh.per_cpu)
        zones.count_free(self.kernel)
        self.plain = PlainZone(self.pair.plain, dict(given), cpus, rule)

    def blocks(self, cpu: int, order: int, kind: int) -> list[int]:
        """Return one per-CPU list, head first, the same in both."""
        chosen = self.plain.cpus[cpu].lists[list_number(order, kind)]
        assert self.read(cpu, list_number(order, kind)) == list(chosen)
        return list(chosen)

    def read(self, cpu: int, number: int) -> list[int]:
        """Return a kernel list, head first."""
        buddy = self.kernel.buddy
        return read_extra_list(buddy, zones.per_cpu_sentinel(buddy, cpu, number))

    def events(self, cause: Cause) -> int:
        """Return how often something happened since boot, the same in both."""
        return self.pair.events(cause)

    def drain(self, cpu: int) -> int:
        """Give back all that a CPU holds."""
        kernel = pcplist_2_6_24.drain_all_single if self.plain.rule == "two" else pcplist.drain_all
        given = kernel(self.kernel, cpu)
        assert given == self.plain.drain_all(self.plain.cpus[cpu])
        return int(given)

    def drain_from(self, cpu: int, frames: int, number: int) -> int:
        """Give some frames back, beginning with one list."""
        given = pcplist.drain(self.kernel, cpu, frames, number)
        assert given == self.plain.drain(self.plain.cpus[cpu], frames, number)
        return int(given)

    def decay(self, cpu: int) -> int:
        """Let a CPU hold less."""
        given = pcplist.decay_high(self.kernel, cpu)
        assert given == self.plain.decay(self.plain.cpus[cpu])
        return int(given)

    def reserve(self, frame: int) -> bool:
        """Reserve the pageblock around an allocated block."""
        order = self.pair.plain.allocated[frame][0]
        done = highatomic.reserve_pageblock(self.kernel, frame, order)
        assert done == self.plain.reserve(frame, order)
        return bool(done)

    def release(self, kind: int, force: bool) -> bool:
        """Give a reserved pageblock to a type."""
        done = highatomic.release_pageblock(self.kernel, kind, force)
        assert done == self.plain.release(kind, force)
        return bool(done)

    def keep_reserve(self) -> int:
        """Keep pageblocks for the min watermark, as in 2.6.24."""
        kept = highatomic.keep_reserve(self.kernel)
        assert kept == self.plain.keep_reserve()
        return int(kept)

    def set_limit(self, name: str, value: int) -> None:
        """Set a limit in both."""
        self.kernel.limits[Limit[name.upper()]] = self.plain.limits[name] = value

    def check(self) -> None:
        """Compare everything, and audit the kernel's zone."""
        plain, state = self.plain, self.kernel.buddy.state
        self.pair.check()
        for number, cpu in enumerate(plain.cpus):
            assert [self.read(number, which) for which in range(LISTS_PER_CPU)] == [list(held) for held in cpu.lists]
            own = self.kernel.per_cpu[number]
            assert own[PerCpu.COUNT] == cpu.count
            assert own[PerCpu.COLD_COUNT] == cpu.cold_count
            if plain.rule == "many":
                assert own[PerCpu.HIGH] == cpu.high
                assert own[PerCpu.ALLOC_FACTOR] == cpu.alloc_factor
                assert own[PerCpu.FREE_COUNT] == cpu.free_count
                assert own[PerCpu.PREVIOUS_WAS_HIGH_ORDER] == cpu.previous_was_high_order
        held = {frame: PER_CPU - 4 * order - min(kind, 3) for frame, (order, kind) in plain.held.items()}
        assert {int(frame): int(state[frame]) for frame in np.flatnonzero(state <= PER_CPU)} == held
        for limit in Limit:
            if limit != Limit.FREE:
                assert self.kernel.limits[limit] == plain.limits[limit.name.lower()], limit.name
        assert self.kernel.limits[Limit.FREE] == plain.free
        for cause in EVENTS:
            self.events(cause)
        assert audit.audit_zone(self.kernel, NO_PAGES, np.zeros((ORDERS, TYPES), np.int64)) == 0


class Machine:
    """Up to three zones twice; those that are None it has not."""

    def __init__(self, dma: ZonePair | None, dma32: ZonePair | None, normal: ZonePair | None, release: str) -> None:
        self.zones = (dma, dma32, normal)
        self.release = release
        some = self.populated[0]
        cpus, options = len(some.plain.cpus), some.kernel.buddy.options
        kernels, starts, first = [], [], 0
        for zone in self.zones:
            starts.append(first)
            if zone is None:
                kernels.append(zones.new_zone(0, watermark.new_limits(), cpus, options))
                continue
            zone.set_limit("first_frame", first)
            kernels.append(zone.kernel)
            first += zone.pair.plain.frames
        self.kernel = Zonelist(*kernels)
        self.plain = PlainZonelist([zone and zone.plain for zone in self.zones], starts, release)

    @property
    def populated(self) -> list[ZonePair]:
        """The zones there are."""
        return [zone for zone in self.zones if zone is not None]

    @property
    def live(self) -> list[tuple[int, int]]:
        """Frame, as the machine counts, and order of every allocated block."""
        return [
            (frame + start, order)
            for zone, start in zip(self.zones, self.plain.starts, strict=True)
            if zone is not None
            for frame, (order, _) in zone.pair.plain.allocated.items()
        ]

    def get(
        self,
        order: int,
        kind: int,
        flags: Set[str] = frozenset(),
        mark: str = "low",
        highest: str = "normal",
        cpu: int = 0,
    ) -> int:
        """Serve a request in both; return the frame or -1."""
        bits = flag_bits(flags, mark)
        got = int(zonelist.get_page(self.kernel, cpu, order, kind, NAMES.index(highest), bits))
        assert got == self.plain.get(cpu, order, kind, highest, mark, flags)
        return got

    def put(self, frame: int, order: int, cpu: int = 0, cold: bool = False) -> str:
        """Free a block in both, right or wrong; return the status' name."""
        status = Status(int(zonelist.put_page(self.kernel, cpu, frame, order, cold))).name
        assert status == self.plain.put(cpu, frame, order, cold)
        return status

    def run(self, wanted: Sequence[Request], slots: list[int]) -> int:
        """Serve a batch by slots in both, as far as it goes; return how many were served. Mutates ``slots``."""
        requests = np.array([encode(request) for request in wanted], np.int64)
        held = np.array(slots, np.int64)
        served, status = zonelist.run_requests(self.kernel, requests, held, 0)
        for number, (slot, order, kind, flags, mark, highest, cpu) in enumerate(wanted):
            if order >= 0:
                frame = self.plain.get(cpu, order, kind, highest, mark, flags)
                if frame < 0:
                    assert (served, status) == (number, Status.NO_MEMORY)
                    break
                slots[slot] = frame
            elif slots[slot] >= 0:
                assert self.plain.put(cpu, slots[slot], dict(self.live)[slots[slot]]) == "OK"
                slots[slot] = -1
        else:
            assert (served, status) == (len(wanted), Status.OK)
        assert held.tolist() == slots
        return int(served)

    def drain(self, cpu: int) -> int:
        """Give back all that a CPU holds of all zones."""
        given = int(zonelist.drain_cpu(self.kernel, cpu))
        assert given == sum(zone.plain.drain_all(zone.plain.cpus[cpu]) for zone in self.populated)
        return given

    def check(self) -> None:
        """Compare and audit every zone."""
        zonelist.count_zones(self.kernel)
        for zone in self.populated:
            zone.check()


PLENTY = {"min": 8, "low": 10, "high": 12, "batch": 7, "high_min": 20, "high_max": 200}


def one_zone(frames: int = 4096, release: str = "6.18", cpus: int = 1, **limits: int) -> tuple[Machine, ZonePair]:
    """Return a machine of one normal zone with plenty of everything, and that zone."""
    zone = ZonePair(frames, PLENTY | limits, cpus, release)
    return Machine(None, None, zone, release), zone


def small_limits(rng: random.Random, frames: int) -> dict[str, int]:
    """Return limits of a zone where all of them matter soon."""
    least = rng.choice([0, frames // 64, frames // 16])
    low = least + rng.choice([1, frames // 64])
    high_min = rng.choice([0, 4, 20, 64])
    return {
        "min": least,
        "low": low,
        "high": low + rng.choice([1, frames // 32]),
        "boost_most": rng.choice([0, 512, 1024]),
        "reserve_normal": rng.choice([0, 0, 40]),
        "reserve_dma32": rng.choice([0, 7]),
        "highatomic_most": rng.choice([0, 512, 1024]),
        "batch": rng.choice([1, 4, 7, 31]),
        "high_min": high_min,
        "high_max": high_min + rng.choice([0, 30, 400]),
        "free_high_batch": rng.choice([0, 1]),
    }


FLAG_SETS: tuple[frozenset[str], ...] = (
    frozenset(),
    frozenset(),
    frozenset(),
    frozenset({"KSWAPD"}),
    frozenset({"MIN_RESERVE"}),
    frozenset({"MIN_RESERVE", "NON_BLOCK"}),
    frozenset({"NO_WATERMARKS"}),
    frozenset({"OOM"}),
    frozenset({"COLD"}),
)


def random_allocation(rng: random.Random, cpus: int, slot: int = 0) -> Request:
    """Return a request for a block of any kind."""
    order = rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 5, 9, MAX_ORDER))
    flags = set(rng.choice(FLAG_SETS))
    if order > 0 and {"MIN_RESERVE", "NON_BLOCK"} <= flags:
        flags.add("HIGHATOMIC")
    return (
        slot,
        order,
        rng.choice((0, 1, 1, 2)),
        flags,
        rng.choice(("min", "low", "low", "high")),
        rng.choice(("normal", "normal", "movable", "dma32", "dma")),
        rng.randrange(cpus),
    )


def random_request(machine: Machine, rng: random.Random, cpus: int) -> None:
    """Allocate something, or free something that is allocated."""
    live = machine.live
    if live and rng.random() < 0.46:
        frame, order = rng.choice(live)
        machine.put(frame, order, rng.randrange(cpus), rng.random() < 0.2)
    else:
        _, *request = random_allocation(rng, cpus)
        machine.get(*request)


def random_batch(rng: random.Random, cpus: int, slots: int, count: int) -> list[Request]:
    """Return requests by slots, mostly plain ones for single frames; slots may be emptied twice."""
    held = [False] * slots
    batch: list[Request] = []
    for _ in range(count):
        slot = rng.randrange(slots)
        if held[slot] or rng.random() < 0.05:
            batch.append((slot, -1, 0, frozenset(), "low", "normal", rng.randrange(cpus)))
        elif rng.random() < 0.2:
            batch.append(random_allocation(rng, cpus, slot))
        else:
            batch.append((slot, 0, rng.choice((0, 1, 1, 2)), frozenset(), "low", "normal", rng.randrange(cpus)))
        held[slot] = batch[-1][1] >= 0
    return batch
