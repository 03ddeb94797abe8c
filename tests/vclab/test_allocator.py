"""Machines under three releases' allocators: zones, watermarks, per-CPU lists, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from vckernels import zonelist
from vckernels.allocflags import AllocFlag
from vckernels.causes import Cause, Status
from vckernels.watermark import Limit, ZoneIndex
from vclab import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK, Gfp, System, presets, watermarks, watermarks_2_6
from vclab.allocator import ALLOCATORS, FullMemory, machine_limits, zone_spans
from vclab.errors import ConfigurationError, ConservationError, InvalidFree, OutOfMemory

RELEASES = presets.linux_names()


def machine(linux: str = "6.18", memory: str = "64MiB", allocator: str = "full", **settings: object) -> System:
    """Return a machine whose CPU every release knows."""
    return System(cpu="k8", linux=linux, memory=memory, allocator=allocator, **settings)


def full(system: System) -> FullMemory:
    assert isinstance(system.memory, FullMemory)
    return system.memory


# Which zones, with which limits


def test_zones_are_cut_at_16_mib_and_4_gib() -> None:
    assert zone_spans(1 << 12) == [("DMA", 0, 4096)]
    assert zone_spans(1 << 14) == [("DMA", 0, 4096), ("DMA32", 4096, 12288)]
    assert zone_spans(3 << 20) == [("DMA", 0, 4096), ("DMA32", 4096, 1044480), ("Normal", 1 << 20, 2 << 20)]


def test_limits_are_those_of_the_formulas() -> None:
    sizes = {"DMA": 4096, "DMA32": 1044480, "Normal": 2 << 20}
    zones = [watermarks.ZoneSize(name, frames, frames) for name, frames in sizes.items()]
    for got, one in zip(machine_limits(presets.linux("6.18"), sizes, 4), watermarks.zone_limits(zones, 4), strict=True):
        assert got[: Limit.PROMO + 1].tolist() == list(one.watermarks)
        assert [got[Limit.BATCH], got[Limit.HIGH_MIN], got[Limit.HIGH_MAX]] == list(one.per_cpu)
        assert got[Limit.RESERVE_NORMAL] == one.lowmem_reserve.get("Normal", 0)
        assert (got[Limit.BOOST_MOST], got[Limit.HIGHATOMIC_MOST]) == (one.boost_limit, one.highatomic_limit)
    for got, old in zip(
        machine_limits(presets.linux("2.6.24"), sizes, 4), watermarks_2_6.zone_limits(sizes), strict=True
    ):
        assert [got[Limit.MIN], got[Limit.LOW], got[Limit.HIGH]] == list(old.marks)
        assert (got[Limit.BATCH], got[Limit.HIGH_MAX], got[Limit.HIGH_MIN]) == (*old.hot, old.cold.high)
        assert got[Limit.RESERVE_NORMAL] == old.lowmem_reserve.get("Normal", 0)
        assert got[Limit.BOOST_MOST] == got[Limit.HIGHATOMIC_MOST] == 0


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"allocator 'slab' does not exist; there are free-lists, full"):
        machine(allocator="slab")
    with pytest.raises(ConfigurationError, match="without its per-CPU lists"):
        System(memory="recorded", allocator="full")
    with pytest.raises(ConfigurationError, match=r"one zone under Linux 6\.18"):
        System(memory="recorded", linux="2.6.24")
    with pytest.raises(ConfigurationError, match="2000 CPUs"):
        FullMemory.boot(presets.linux("6.18"), 1024, 2000)
    with pytest.raises(ConfigurationError, match=r"linux 2\.6\.24 has no 5-level paging; presets that have it: 6\.18"):
        System(cpu="ice-lake", linux="2.6.24", levels=5)
    # Unasked, it is as many levels as both have.
    assert System(cpu="ice-lake", linux="2.6.24", memory="16MiB").page_tables.levels == 4


# Whole machines


@pytest.mark.parametrize("linux", RELEASES)
@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("policy", ["early-fallback", "vmalloc", "physical"])
def test_a_machine_of_each_release_allocates_and_gives_back(linux: str, allocator: str, policy: str) -> None:
    system = machine(linux, "32MiB", allocator, policy=policy, cpus=2)
    system.audit()
    free = system.memory.free_frames + (full(system).per_cpu_frames.sum() if allocator == "full" else 0)
    tables = system.page_tables.count
    pages = [system.alloc_pages(order, GFP_VFALLBACK) for order in (0, 1, 3, 4, 9)]
    system.audit()
    twin = system.copy()
    for page in pages:
        system.free_pages(page)
    system.audit()
    twin.audit()
    assert len(twin.pages) == 5
    if allocator == "full":
        full(system).drain()
        assert not full(system).per_cpu_frames.any()
    kept = system.page_tables.count - tables + len(system.compound.objects.frames())
    assert system.memory.free_frames + kept == free
    system.audit()


@pytest.mark.parametrize("linux", RELEASES)
def test_an_exhausted_machine_keeps_its_reserves_and_fails_clean(linux: str) -> None:
    system = machine(linux, "16MiB", policy="physical")
    zone = system.memory.zone
    least = zone.limits()[Limit.MIN]
    assert least > 0
    failed = 0
    for _ in range(5000):
        try:
            system.alloc_pages(0, GFP_KERNEL)
        except OutOfMemory:
            failed += 1
    assert failed > 100
    assert zone.free_frames == least
    assert not full(system).per_cpu_frames.any()
    # Who cannot wait may dip below.
    page = system.alloc_pages(0, GFP_ATOMIC)
    system.audit()
    system.free_pages(page)
    for page in system.pages:
        system.free_pages(page)
    system.audit()


def test_before_it_fails_a_request_gets_what_lies_on_per_cpu_lists() -> None:
    memory = FullMemory.boot(presets.linux("6.18"), 4096, 3)
    frames = memory.allocate_all(0, GFP_KERNEL, 3000)
    assert frames is not None
    for cpu in range(3):
        memory.cpu = cpu
        memory.free(frames[cpu * 200 : cpu * 200 + 200], 0)
    held = int(memory.per_cpu_frames.sum())
    assert held >= 10
    beyond = memory.free_frames - int(memory.zone.limits()[Limit.MIN])
    drains = memory.counters[Cause.PER_CPU_DRAIN]
    assert memory.allocate_all(0, GFP_KERNEL, beyond + held // 2) is not None
    assert memory.counters[Cause.PER_CPU_DRAIN] > drains
    while memory.allocate(0, GFP_KERNEL) >= 0:
        pass
    assert memory.counters[Cause.ALLOCATION_FAILURE] == 1
    # One that cannot wait dips below.
    assert memory.allocate(0, GFP_ATOMIC) >= 0


def test_requests_go_where_their_flags_allow() -> None:
    system = machine(memory="64MiB")
    assert system.memory.allocate(3, GFP_KERNEL) >= 4096
    assert system.memory.allocate(3, GFP_KERNEL | Gfp.DMA32) >= 4096
    low = system.memory.allocate(3, GFP_KERNEL | Gfp.DMA)
    assert 0 <= low < 4096
    system.memory.free(low, 3)
    assert system.memory.buddyinfo().shape == (2, 11)
    assert [zone.name for zone in system.memory.zones] == ["DMA", "DMA32"]
    assert system.procfs("zoneinfo").count("Node 0, zone") == 2
    system.audit()


def test_wrong_frees_are_refused_and_change_nothing_after() -> None:
    memory = FullMemory.boot(presets.linux("6.18"), 16384, 1)
    frames = memory.allocate_all(2, GFP_KERNEL, 4)
    assert frames is not None
    for wrong, order in (([int(frames[0]) + 1], 0), ([int(frames[0])], 3), ([1 << 30], 0), ([-1], 2)):
        with pytest.raises(InvalidFree, match="no such block is allocated"):
            memory.free(wrong, order)
    with pytest.raises(InvalidFree):
        memory.free([frames[0], frames[0], frames[1]], 2)
    # What came before the second mention was freed.
    memory.free(frames[1:], 2)
    with pytest.raises(InvalidFree):
        memory.free(frames[:1], 2)


def test_blocks_of_pages_are_split_in_any_zone() -> None:
    memory = FullMemory.boot(presets.linux("6.18"), 16384, 1)
    for flags in (GFP_KERNEL, GFP_KERNEL | Gfp.DMA):
        frame = memory.allocate(3, flags)
        memory.split(frame, 3, flags)
        memory.free(np.arange(frame, frame + 8), 0)
    memory.drain()
    assert memory.free_frames == 16384


def test_atomic_requests_of_high_orders_reserve_pageblocks_which_others_get_in_the_end() -> None:
    memory = FullMemory.boot(presets.linux("6.18"), 1 << 17, 1)
    assert memory.zone.limits()[Limit.HIGHATOMIC_MOST] > 0
    # Only a request that the low watermark of no zone serves has the flag.
    while memory.allocate(0, GFP_KERNEL | Gfp.DMA) >= 0:
        pass
    taken = memory.allocate_all(0, GFP_KERNEL, memory.zone.free_frames - int(memory.zone.limits()[Limit.LOW]))
    assert taken is not None
    assert memory.allocate(4, GFP_ATOMIC) >= 0
    assert memory.zone.limits()[Limit.HIGHATOMIC_RESERVED] == 512
    while memory.allocate(0, GFP_KERNEL) >= 0:
        pass
    assert memory.zone.limits()[Limit.HIGHATOMIC_RESERVED] == 0
    assert memory.counters[Cause.HIGHATOMIC_RELEASE] == 1


def test_batches_by_slot_are_the_callers_too() -> None:
    memory = FullMemory.boot(presets.linux("6.18"), 1 << 16, 2)
    slots = np.full(1000, -1, np.int64)
    requests = zonelist.allocation_requests(np.arange(1000), 0, np.arange(1000) % 3, ZoneIndex.NORMAL, 1, 1)
    assert memory.run(requests, slots) == (1000, Status.OK)
    assert len(set(slots.tolist())) == 1000
    assert memory.run(zonelist.free_requests(np.arange(1000), 1), slots) == (1000, Status.OK)
    assert memory.per_cpu_frames[1].tolist() == [0, memory.per_cpu_frames.sum()]
    # A batch stops where the low watermark would be broken.
    requests = zonelist.allocation_requests(np.zeros(1 << 17, np.int64), 0, 0, 2, AllocFlag.WMARK_LOW)
    number, status = memory.run(requests, slots)
    assert status == Status.NO_MEMORY
    assert 0 < number < 1 << 16


def test_2_6_24_keeps_pageblocks_for_the_min_watermark() -> None:
    system = machine("2.6.24", "256MiB")
    for zone in system.memory.zones:
        wanted = watermarks_2_6.reserve_blocks(int(zone.limits()[Limit.MIN]))
        assert (zone.buddy.pageblock == 3).sum() == wanted > 0
    assert "nr_free_pages" in system.procfs("zoneinfo")


def test_ageing_and_per_cpu_lists_get_along() -> None:
    system = machine(memory="128MiB")
    pages = [system.alloc_pages(0, GFP_KERNEL) for _ in range(300)]
    for page in pages[::2]:
        system.free_pages(page)
    system.age(2000)
    system.audit()
    for page in pages[1::2]:
        system.free_pages(page)
    full(system).drain()
    system.audit()


# What an audit finds


def test_an_audit_names_the_owner_and_the_zone() -> None:
    system = machine(memory="32MiB", policy="physical")
    page = system.alloc_pages(3, GFP_KERNEL)
    frame = int(page.frames[0])
    system.memory.free(frame, 3)
    with pytest.raises(ConservationError, match=rf"page at {page.address:#x}: no block of order 3 .* {frame}"):
        system.audit()
    assert system.memory.allocate(3, GFP_KERNEL) == frame
    system.audit()
    zone = system.memory.zones[1]
    zone.buddy.free_blocks[0, 0] += 1
    with pytest.raises(ConservationError, match="zone DMA32 is at odds with itself: a free list"):
        system.audit()
    zone.buddy.free_blocks[0, 0] -= 1
    zone.limits()[Limit.HIGHATOMIC_RESERVED] = 512
    with pytest.raises(ConservationError, match="pageblocks is reserved"):
        system.audit()


def test_an_audit_of_free_lists_alone() -> None:
    system = machine(memory="32MiB", allocator="free-lists", policy="vmalloc")
    page = system.alloc_pages(4, GFP_KERNEL)
    system.populate()
    system.audit()
    twice = page.frames.copy()
    twice[1] = twice[0]
    page.frames = twice
    with pytest.raises(ConservationError, match=f"frame {twice[0]} has two owners"):
        system.audit()
    assert vclab.errors.ConservationError is ConservationError
