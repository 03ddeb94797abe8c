"""Prices: by hand from the presets, sums, bounds, and counts that any preset can price again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import vclab
from vckernels.causes import COUNTERS, Cause
from vclab import GFP_KERNEL, Gfp, System, presets
from vclab.ledger import (
    ACCESS_CAUSES,
    DATA_CAUSES,
    DEVICE_CAUSES,
    OPERATION_CAUSES,
    AccessCost,
    Ledger,
    no_counts,
    price_access,
    price_devices,
    price_operations,
    price_overlapped,
    served_latencies,
    walk_cycles,
)
from vclab.presets import CpuPreset, LinuxPreset

CPUS = presets.cpu_names()
LEVELS = ("LEVEL_1", "LEVEL_2", "LEVEL_3", "MEMORY")


def random_counts(*shape: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return events, int64[*shape, COUNTERS]."""
    return np.random.default_rng(seed).integers(0, 1000, (*shape, COUNTERS))


def counts_of(**events: int) -> npt.NDArray[np.int64]:
    """Return events by the names of their causes."""
    counts = no_counts()
    for name, count in events.items():
        counts[Cause[name]] = count
    return counts


def latency(cpu: CpuPreset, level: str) -> float:
    """Return the cycles of a load that a level serves; a third level that a CPU lacks serves none."""
    if level == "MEMORY":
        return cpu.memory.latency.value
    number = LEVELS.index(level)
    return cpu.data_cache[number].latency.value if number < len(cpu.data_cache) else 0.0


def priced_by_hand(counts: npt.NDArray[np.int64], cpu: CpuPreset) -> dict[str, float]:
    """Return the serial cycles of one vector of events by cause."""
    events = {cause.name: int(counts[cause]) for cause in Cause}
    loads = {
        kind: sum(events[f"{kind}_{level}"] * latency(cpu, level) for level in LEVELS) for kind in ("ARRAY", "WALK")
    }
    second = cpu.latency.second_level_tlb_hit.value
    return {
        "first-level data": events["DATA_LEVEL_1"] * latency(cpu, "LEVEL_1"),
        "second-level data": events["DATA_LEVEL_2"] * latency(cpu, "LEVEL_2"),
        "third-level data": events["DATA_LEVEL_3"] * latency(cpu, "LEVEL_3"),
        "memory": events["DATA_MEMORY"] * latency(cpu, "MEMORY"),
        "fill conflict": events["FILL_CONFLICT"] * cpu.latency.first_level_fill_conflict.value,
        "page array load": loads["ARRAY"],
        "second-level TLB hit": events["SECOND_LEVEL_TLB_HIT"] * second,
        "page walk": events["WALK"] * (second + cpu.walk.start.value) + loads["WALK"],
        "accessed and dirty update": (events["ACCESSED_UPDATE"] + events["DIRTY_UPDATE"])
        * cpu.latency.accessed_dirty_update.value,
    }


# Accesses


@pytest.mark.parametrize("name", CPUS)
def test_a_vector_of_counts_costs_what_each_costs_by_hand(name: str) -> None:
    cpu = presets.cpu(name)
    counts = random_counts(3, 4)
    prices = price_access(counts, cpu)
    assert prices.shape == (3, 4, len(ACCESS_CAUSES))
    assert prices.dtype == np.float64
    for place in np.ndindex(3, 4):
        expected = priced_by_hand(counts[place], cpu)
        assert tuple(expected) == ACCESS_CAUSES
        assert prices[place] == pytest.approx(list(expected.values()))
        assert price_access(counts[place], cpu) == pytest.approx(prices[place])
        assert price_overlapped(counts, cpu)[place] == price_overlapped(counts[place], cpu)


def test_the_price_of_one_load_of_each_kind_on_zen_3() -> None:
    """4, 12, 46 and 285 cycles; a hit in the second-level TLB adds 7, a fill conflict 3, a walk 17.8 and its loads."""
    cpu = presets.cpu("zen3")
    assert served_latencies(cpu).tolist() == [4, 12, 46, 285]
    for name, cycles in {
        "DATA_LEVEL_1": 4,
        "DATA_LEVEL_2": 12,
        "DATA_LEVEL_3": 46,
        "DATA_MEMORY": 285,
        "ARRAY_LEVEL_2": 12,
        "FILL_CONFLICT": 3,
        "SECOND_LEVEL_TLB_HIT": 7,
        "WALK": 17.8,
        "WALK_LEVEL_2": 12,
        "WALK_MEMORY": 285,
        "ACCESSED_UPDATE": 20,
        "DIRTY_UPDATE": 20,
    }.items():
        assert price_access(counts_of(**{name: 1}), cpu).sum() == pytest.approx(cycles), name


def test_what_has_a_price_has_it_once() -> None:
    """Each event is priced under one cause at most, and those that only say how others came about under none."""
    cpu = presets.cpu("zen3")
    for cause in Cause:
        prices = price_access(counts_of(**{cause.name: 1}), cpu)
        priced = cause in (Cause.SECOND_LEVEL_TLB_HIT, Cause.WALK) or (
            Cause.ACCESSED_UPDATE <= cause <= Cause.FILL_CONFLICT
        )
        assert np.count_nonzero(prices) == int(priced), cause.name


def test_data_causes_are_those_of_data() -> None:
    cpu = presets.cpu("zen3")
    data = dict.fromkeys(("DATA_LEVEL_1", "DATA_LEVEL_2", "DATA_LEVEL_3", "DATA_MEMORY", "FILL_CONFLICT"), 1)
    prices = dict(zip(ACCESS_CAUSES, price_access(counts_of(**data), cpu).tolist(), strict=True))
    assert {name for name, cycles in prices.items() if cycles} == set(DATA_CAUSES)


@pytest.mark.parametrize("name", CPUS)
def test_causes_of_an_access_add_up(name: str) -> None:
    system = System(cpu=name, memory="32MiB", policy="vmalloc")
    page = system.alloc_pages(10, GFP_KERNEL)
    cost = system.access(page, vclab.streams.uniform(page.nbytes, 5000, seed=1), write=True)
    assert sum(cost.by_cause.values()) == cost.cycles
    assert cost.by_cause == pytest.approx(priced_by_hand(cost.counts, system.cpu))
    assert 0 < cost.overlapped_cycles <= cost.cycles
    assert cost.cycles_per_access == cost.cycles / 5000
    assert cost.nanoseconds == cost.cycles / system.cpu.clock.gigahertz.value


# Overlapped


@pytest.mark.parametrize("name", CPUS)
def test_overlapped_is_the_largest_of_its_bounds(name: str) -> None:
    """Hits in the first level are bound by issue, misses by those outstanding, walks by walkers."""
    cpu = presets.cpu(name)
    overlap = cpu.overlap
    hits = counts_of(DATA_ACCESS=6000, PAGE_ARRAY_ACCESS=600, DATA_LEVEL_1=6000, ARRAY_LEVEL_1=600)
    issue = 6600 / overlap.loads_per_cycle.value
    assert price_overlapped(hits, cpu) == pytest.approx(issue)
    # First-level data costs nothing beyond its issue; the rest is divided by the misses that can be outstanding.
    misses = counts_of(DATA_ACCESS=6000, DATA_LEVEL_1=1000, DATA_LEVEL_2=2000, DATA_MEMORY=3000, ARRAY_MEMORY=50)
    latencies = served_latencies(cpu)
    waiting = (2000 * latencies[1] + 3050 * latencies[3]) / overlap.miss_parallelism.value
    assert waiting > 6000 / overlap.loads_per_cycle.value
    assert price_overlapped(misses, cpu) == pytest.approx(waiting)
    walks = counts_of(
        DATA_ACCESS=600, DATA_LEVEL_1=600, WALK=600, WALK_REFERENCE=1200, WALK_LEVEL_1=600, WALK_MEMORY=600
    )
    busy = 600 * (cpu.walk.start.value + latencies[0] + latencies[3]) / overlap.walkers.value
    assert walk_cycles(walks, cpu) == pytest.approx(busy * overlap.walkers.value)
    assert price_overlapped(walks, cpu) == pytest.approx(busy)
    # All at once: the largest, not their sum.
    together = price_overlapped(np.stack([hits, misses, walks, hits + misses + walks]), cpu)
    assert together[3] == pytest.approx(max(13_200 / overlap.loads_per_cycle.value, waiting, busy))
    assert together[:3] == pytest.approx([issue, waiting, busy])


@pytest.mark.parametrize("name", CPUS)
def test_overlapped_is_never_more_than_serial(name: str) -> None:
    """Of events that can be: each access is served by someone."""
    cpu = presets.cpu(name)
    counts = random_counts(200, seed=3)
    data = slice(Cause.DATA_LEVEL_1, Cause.DATA_MEMORY + 1)
    array = slice(Cause.ARRAY_LEVEL_1, Cause.ARRAY_MEMORY + 1)
    if len(cpu.data_cache) < 3:
        counts[:, [Cause.DATA_LEVEL_3, Cause.ARRAY_LEVEL_3, Cause.WALK_LEVEL_3]] = 0
    counts[:, Cause.DATA_ACCESS] = counts[:, data].sum(axis=1)
    counts[:, Cause.PAGE_ARRAY_ACCESS] = counts[:, array].sum(axis=1)
    assert (price_overlapped(counts, cpu) <= price_access(counts, cpu).sum(axis=-1)).all()


# Operations


def operations_by_hand(counts: npt.NDArray[np.int64], linux: LinuxPreset, cpu: CpuPreset) -> dict[str, float]:
    """Return the nanoseconds of one vector of events by cause."""
    events = {cause.name: int(counts[cause]) for cause in Cause}
    costs = linux.costs
    cycles = (
        costs.flush_call_cycles.value * events["FLUSH_CALL"]
        + costs.flush_page_cycles.value * events["TLB_INVALIDATION"]
        + costs.flush_full_cycles.value * events["TLB_FLUSH"]
    )
    further = max(events["AREA_STEP"] - events["AREA_RESERVE"], 0)
    return {
        "block allocation": costs.allocation_ns.value * events["ALLOCATION"]
        + costs.per_cpu_allocation_ns.value * events["PER_CPU_ALLOCATION"],
        "block free": costs.free_ns.value * events["FREE"] + costs.per_cpu_free_ns.value * events["PER_CPU_FREE"],
        "split": costs.split_ns.value * events["SPLIT"],
        "merge": costs.merge_ns.value * events["MERGE"],
        "area reservation": costs.area_reserve_ns.value * events["AREA_RESERVE"]
        + costs.area_pool_ns.value * events["AREA_POOL_HIT"]
        + costs.block_part_ns.value * events["BLOCK_TAKE"],
        "area search": costs.area_search_step_ns.value * further,
        "area release": costs.area_release_ns.value * events["AREA_RELEASE"]
        + costs.area_lazy_ns.value * events["AREA_LAZY_FREE"]
        + costs.block_part_ns.value * events["BLOCK_GIVE"],
        "entry write": costs.entry_write_ns.value * events["ENTRY_WRITE"],
        "table page": costs.table_page_ns.value * events["TABLE_PAGE"],
        "struct page": costs.struct_page_ns.value * events["STRUCT_PAGE"],
        "zeroing": costs.zero_page_ns.value * events["PAGE_CLEARED"],
        "copying": costs.copy_page_ns.value * events["PAGE_COPIED"],
        "flush": cycles / cpu.clock.gigahertz.value
        + costs.broadcast_ns.value * events["BROADCAST"]
        + costs.broadcast_wait_ns.value * events["BROADCAST_WAIT"],
        "interrupt": costs.interrupt_ns.value * events["INTERRUPT"],
        "compaction scan": costs.compact_scan_ns.value * (events["MIGRATE_SCANNED"] + events["FREE_SCANNED"]),
        "migration": costs.migrate_page_ns.value * events["PAGE_MIGRATED"],
        "reclaim scan": costs.reclaim_scan_ns.value * events["RECLAIM_SCANNED"],
        "reclaim": costs.reclaim_page_ns.value * events["PAGE_RECLAIMED"],
    }


@pytest.mark.parametrize("name", CPUS)
def test_operations_cost_what_the_linux_preset_says(name: str) -> None:
    cpu, linux = presets.cpu(name), presets.linux("6.18")
    counts = random_counts(2, 5, seed=1)
    prices = price_operations(counts, linux, cpu)
    assert prices.shape == (2, 5, len(OPERATION_CAUSES))
    for place in np.ndindex(2, 5):
        expected = operations_by_hand(counts[place], linux, cpu)
        assert tuple(expected) == OPERATION_CAUSES
        assert prices[place] == pytest.approx(list(expected.values()))


def test_a_price_lies_in_its_range_for_every_cause() -> None:
    cpu, linux = presets.cpu("zen3"), presets.linux("6.18")
    counts = random_counts(50, seed=2)
    # More steps than reservations, so that searching has a price.
    counts[:, Cause.AREA_STEP] += 1000
    low, value, high = (price_operations(counts, linux, cpu, bound) for bound in ("low", "value", "high"))
    assert (low <= value).all()
    assert (value <= high).all()
    assert (low.sum(axis=0) < high.sum(axis=0)).all()
    assert (price_operations(counts, linux, cpu) == value).all()


def test_accesses_operations_and_devices_price_different_events() -> None:
    cpu, linux = presets.cpu("zen3"), presets.linux("6.18")
    for cause in Cause:
        counts = counts_of(**{cause.name: 1})
        prices = price_access(counts, cpu), price_operations(counts, linux, cpu), price_devices(counts, linux)
        assert sum(one.any() for one in prices) <= 1, cause.name


def test_devices_take_what_the_linux_preset_says_and_no_cycles() -> None:
    cpu, linux = presets.cpu("zen3"), presets.linux("6.18")
    counts = counts_of(REFAULT=3, WRITE_BACK=4, SWAP_OUT=5, CONGESTION_WAIT=2)
    devices = linux.devices
    expected = [3 * devices.refault_ns.value, 9 * devices.write_back_ns.value, 2 * devices.congestion_wait_ns.value]
    assert price_devices(counts, linux).tolist() == expected
    assert (price_devices(counts, linux, "low") <= expected).all()
    assert (price_devices(counts, linux, "high") >= expected).all()
    ledger = Ledger(counts, cpu, linux)
    assert tuple(ledger.device_ns) == DEVICE_CAUSES
    assert list(ledger.device_ns.values()) == expected
    assert ledger.cycles == 0


# Whole machines


def worked() -> System:
    """Return a machine that did something of everything."""
    system = System(memory="32MiB", policy="vmalloc", cpus=2)
    pages = [system.alloc_pages(order, GFP_KERNEL | Gfp.ZERO) for order in (0, 4, 9)]
    for page in pages:
        system.access(page, vclab.streams.uniform(page.nbytes, 1000, seed=1), write=True, cpu=page.order % 2)
    for page in pages[1:]:
        system.free_pages(page)
    system.purge_vmalloc_area()
    return system


def test_causes_of_a_machine_add_up() -> None:
    ledger = worked().ledger
    assert tuple(ledger.by_cause) == (*ACCESS_CAUSES, *OPERATION_CAUSES)
    assert sum(ledger.by_cause.values()) == ledger.cycles
    expected = priced_by_hand(ledger.counts, ledger.cpu)
    nanoseconds = operations_by_hand(ledger.counts, ledger.linux, ledger.cpu)
    expected |= {name: time * ledger.cpu.clock.gigahertz.value for name, time in nanoseconds.items()}
    assert ledger.by_cause == pytest.approx(expected)
    for name in ("zeroing", "struct page", "area reservation", "entry write", "flush", "interrupt", "page walk"):
        assert ledger.by_cause[name] > 0, name
    assert ledger.events["page cleared"] == ledger.events["struct page"] == 1 + 16 + 512


def test_another_preset_prices_the_same_counts_anew() -> None:
    ledger = worked().ledger
    before = ledger.counts.copy()
    cycles = {}
    for name in CPUS:
        again = Ledger(ledger.counts, presets.cpu(name), ledger.linux)
        cycles[name] = again.cycles
        assert again.events == ledger.events
    assert cycles["zen3"] == ledger.cycles
    assert len(set(cycles.values())) == len(CPUS)
    costs = {name: AccessCost(before, presets.cpu(name), 2) for name in CPUS}
    for one in costs.values():
        assert (one.counts == before).all()
        assert (one.accesses, one.walks, one.walk_references) == (
            3000,
            before[Cause.WALK],
            before[Cause.WALK_REFERENCE],
        )
        assert one.tlb_hits.tolist() == before[[Cause.FIRST_LEVEL_TLB_HIT, Cause.SECOND_LEVEL_TLB_HIT]].tolist()
    assert len({cost.cycles for cost in costs.values()}) == len(CPUS)
    assert len({cost.overlapped_cycles for cost in costs.values()}) == len(CPUS)
    assert (ledger.counts == before).all()


def test_nothing_costs_nothing() -> None:
    cost = AccessCost(no_counts(), presets.cpu("zen3"), 2)
    assert cost.cycles == cost.overlapped_cycles == cost.cycles_per_access == cost.nanoseconds == 0
    assert Ledger(no_counts(), presets.cpu("zen3"), presets.linux("6.18")).events == {}
