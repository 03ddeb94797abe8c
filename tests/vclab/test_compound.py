"""Pages above 4 MiB, 2M entries for virtual pages, and page arrays that are mapped themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.vclab.machines import check_memory, check_page, everything, free_blocks, observable, walked
from vckernels import vmap
from vckernels.causes import Cause
from vckernels.pagetable import walk_many
from vclab import GFP_KERNEL, GFP_VFALLBACK, CompoundPage, ConfigurationError, InvalidFree, OutOfMemory, System
from vclab.compound import MAX_REQUEST_ORDER

MIB = 1 << 20
FLAGGED = GFP_KERNEL | GFP_VFALLBACK


def machine(memory: str = "64MiB", policy: str = "huge-vmalloc", array_kmalloc: bool = False, **kind: Any) -> System:
    """Return a machine whose rule set makes page arrays by kmalloc or maps long ones; it uses freed addresses again."""
    system = System(memory=memory, policy=policy, levels=4, unmap="range", **kind)
    rule = system.linux.page_array_kmalloc.model_copy(update={"value": array_kmalloc})
    system.linux = system.compound.linux = system.linux.model_copy(update={"page_array_kmalloc": rule})
    return system


def leaf_levels(system: System, page: CompoundPage) -> set[int]:
    """Return the levels of the leaves that map a page, having checked where they lead."""
    addresses = np.uint64(page.address) + (np.arange(len(page.frames)) << 12).astype(np.uint64)
    frames = np.empty(len(addresses), np.int64)
    levels, faults = np.empty((2, len(addresses)), np.int8)
    walk_many(system.page_tables.state, addresses, True, False, False, False, frames, levels, faults)
    assert frames.tolist() == page.frames.tolist()
    return set(levels.tolist())


# Sizes


@pytest.mark.parametrize("order", [11, 12, 13, 14])
def test_above_order_ten_nothing_is_physical(order: int) -> None:
    for policy, flags in (("physical", FLAGGED), ("early-fallback", GFP_KERNEL), ("always-virtual", GFP_KERNEL)):
        system = machine("256MiB", policy)
        before = everything(system)
        with pytest.raises(OutOfMemory, match="no block is larger than order 10") as refusal:
            system.alloc_pages(order, flags)
        assert ("GFP_VFALLBACK would" in str(refusal.value)) == (policy != "physical")
        assert everything(system) == before


@pytest.mark.parametrize("order", [11, 12, 13, 14])
@pytest.mark.parametrize("policy", ["early-fallback", "always-virtual", "vmalloc", "huge-vmalloc"])
def test_virtual_pages_go_on_to_64_mebibytes(policy: str, order: int) -> None:
    system = machine("128MiB", policy)
    page = system.alloc_pages(order, FLAGGED)
    assert page.is_virtual
    assert page.nbytes == 4096 << order
    check_page(system, page, page.frames.tolist(), np.random.default_rng(order))
    assert leaf_levels(system, page) == {page.mapping_level} == {2 if policy == "huge-vmalloc" else 1}
    check_memory(system)
    cost = system.access(page, np.arange(0, page.nbytes, 1 << 16))
    assert cost.accesses == page.nbytes >> 16
    system.free_pages(page)
    assert (system.page_tables.translate([page.address, page.address + page.nbytes - 1]) == -1).all()
    check_memory(system)


def test_orders_end_at_fourteen() -> None:
    assert MAX_REQUEST_ORDER == 14
    with pytest.raises(ConfigurationError, match="orders are 0 to 14"):
        machine().alloc_pages(15, FLAGGED)


def test_more_than_the_machine_has_is_refused_with_nothing_changed() -> None:
    for policy in ("vmalloc", "huge-vmalloc"):
        system = machine("64MiB", policy)
        before = observable(system)
        with pytest.raises(OutOfMemory, match="frames are free"):
            system.alloc_pages(14, GFP_KERNEL)
        assert observable(system) == before
        check_memory(system)


# 2M entries


@pytest.mark.parametrize(("order", "level"), [(0, 1), (8, 1), (9, 2), (10, 2), (13, 2)])
def test_two_mebibytes_and_more_are_mapped_by_large_entries(order: int, level: int) -> None:
    system = machine()
    small = system.alloc_pages(0, GFP_KERNEL)
    page = system.alloc_pages(order, GFP_KERNEL)
    assert page.mapping_level == level
    assert leaf_levels(system, page) == {level}
    assert [small.address, page.address + page.nbytes] == sorted([small.address, page.address + page.nbytes])
    if level == 2:
        assert page.address % (2 * MIB) == 0
        assert (page.frames[::512] % 512 == 0).all()
        assert (page.run_lengths >= 512).all()
    # The guard page behind it is not mapped, and belongs to nobody else.
    assert system.page_tables.translate([page.address + page.nbytes]).tolist() == [-1]
    after = system.alloc_pages(9, GFP_KERNEL)
    assert after.address >= page.address + page.nbytes + 4096
    assert walked(system, [page.address + page.nbytes - 1]) == [int(page.frames[-1]) * 4096 + 4095]


def test_a_missing_block_makes_all_of_the_page_small() -> None:
    """One 2 MiB block is to be had and two are asked for: all frames are single ones then, at any page's address."""
    system = machine("32MiB")
    zone = system.memory.zone
    taken = zone.allocate_all(0, 1, zone.free_frames)
    assert taken is not None
    whole, broken = (taken >= 6656) & (taken < 7680), (taken >= 4096) & (taken < 6144) & (taken % 512 != 0)
    zone.free(taken[whole | broken], 0)
    assert zone.free_blocks[9:].tolist() == [2, 0]
    small = system.alloc_pages(0, GFP_KERNEL)
    # An unmovable frame among movable memory comes from the largest block.
    assert zone.free_blocks[9:].tolist() == [1, 0]
    before = system.memory.counters
    page = system.alloc_pages(10, GFP_KERNEL)
    counts = system.memory.counters - before
    assert page.mapping_level == 1
    assert leaf_levels(system, page) == {1}
    # After the one-page range with its guard page and the array's of two pages with its own.
    assert page.address == small.address + (2 + 3) * 4096
    # The block that was found came back frame by frame, with the first array's two frames and that array's array.
    assert counts[Cause.FREE] == 512 + 2 + 1
    assert not system.memory.zone.free_blocks[9:].any()
    for one in system.pages:
        system.free_pages(one)
    check_memory_with(system, len(taken) - np.count_nonzero(whole | broken))


def test_no_address_range_for_large_entries_makes_the_page_small() -> None:
    system = machine()
    system.vmalloc_area.areas = vmap.new_areas(900)
    small = system.alloc_pages(0, GFP_KERNEL)
    before = system.memory.counters
    page = system.alloc_pages(9, GFP_KERNEL)
    assert (small.mapping_level, page.mapping_level) == (1, 1)
    assert leaf_levels(system, page) == {1}
    # The block of the first try was split at once and came back frame by frame, with the page of its array.
    assert (system.memory.counters - before)[Cause.FREE] == 512 + 1
    check_memory(system)


def test_large_pages_come_back_frame_by_frame_and_merge() -> None:
    system = machine()
    keep = system.alloc_pages(10, GFP_KERNEL)
    blocks = free_blocks(system)
    tables = system.page_tables.count
    page = system.alloc_pages(10, GFP_KERNEL)
    assert system.page_tables.count == tables
    before = system.memory.counters
    system.free_pages(page)
    freed = (system.memory.counters - before)[Cause.FREE]
    # With the two frames of its array; other structures share frames with those of the page before.
    assert freed == 1024 + 2
    assert free_blocks(system) == blocks
    with pytest.raises(InvalidFree, match="already"):
        system.free_pages(page)
    assert leaf_levels(system, keep) == {2}
    check_memory(system)


def test_accesses_walk_one_level_less_and_are_forgotten() -> None:
    system = machine(cpus=2)
    page = system.alloc_pages(10, GFP_KERNEL)
    offsets = np.arange(0, page.nbytes, 4096)
    assert [system.access(page, offsets, cpu=cpu).walks for cpu in (0, 1, 0)] == [2, 2, 0]
    system.free_pages(page)
    again = system.alloc_pages(10, GFP_KERNEL)
    assert again.address == page.address
    assert [system.access(again, offsets, cpu=cpu).walks for cpu in (0, 1)] == [2, 2]


def test_an_empty_table_makes_way_for_a_large_entry() -> None:
    """Its frame is free again, and every CPU forgets what it cached on the way to it."""
    system = machine(cpus=2)
    small = [system.alloc_pages(8, GFP_KERNEL) for _ in range(4)]
    for page in small:
        for cpu in (0, 1):
            system.access(page, [0, 4096, 8192], cpu=cpu)
        system.free_pages(page)
    retained = system.vmalloc_area.retained_tables
    assert retained == 5
    table_frames = system.page_tables.frames().tolist()
    other = system.alloc_pages(0, GFP_KERNEL)
    assert system.access(other, [0, 8]).walks == 1
    free = system.memory.zone.free_frames
    page = system.alloc_pages(10, GFP_KERNEL)
    assert system.page_tables.removed == 2
    assert system.vmalloc_area.retained_tables == retained - 2
    assert page.address == other.address + 2 * MIB
    assert page.marginal_frames + 1024 == free - system.memory.zone.free_frames
    frames = system.page_tables.frames().tolist()
    assert set(frames) < set(table_frames)
    assert frames[: system.boot_tables] == table_frames[: system.boot_tables]
    assert leaf_levels(system, page) == {2}
    assert walked(system, [page.address, page.address + page.nbytes, other.address, small[3].address]) == [
        int(page.frames[0]) << 12,
        -1,
        int(other.frames[0]) << 12,
        int(page.frames[(small[3].address - page.address) >> 12]) << 12,
    ]
    assert system.access(other, [0, 8]).walks == 1
    check_memory(system)
    twin = system.copy()
    system.free_pages(page)
    assert leaf_levels(twin, twin.virt_to_page(page.address)) == {2}
    # Small pages put a table there again, and large ones take it away again.
    again = [system.alloc_pages(8, GFP_KERNEL) for _ in range(4)]
    check_memory(system)
    for one in again:
        system.free_pages(one)
    assert system.alloc_pages(10, GFP_KERNEL).address == page.address
    assert system.page_tables.removed == 4
    check_memory(system)


# Page arrays


@pytest.mark.parametrize("policy", ["vmalloc", "huge-vmalloc"])
@pytest.mark.parametrize("order", [9, 10, 12, 14])
def test_what_a_page_takes_beyond_its_frames(policy: str, order: int) -> None:
    """Attributed bytes by size, marginal frames as the allocator sees them; both with arrays of either kind."""
    for kmalloc in (True, False):
        system = machine("128MiB", policy, kmalloc)
        free = system.memory.zone.free_frames
        page = system.alloc_pages(order, GFP_KERNEL)
        array = 8 << order
        entries = (8 << order) >> (9 * (page.mapping_level - 1))
        mapped = not kmalloc and array > 4096
        pages = array >> 12 if mapped else 0
        assert page.array_pages == pages
        assert page.overhead_bytes == array + entries + 96 + 72 + mapped * (96 + 72 + 16 * pages)
        assert page.marginal_frames + (1 << order) == free - system.memory.zone.free_frames
        assert (page.array_address in system.vmalloc_area) == mapped
        held = set(system.compound.objects.frames().tolist())
        physical = system.page_tables.translate(page.array_address + np.arange(0, array, 4096, dtype=np.uint64))
        if mapped:
            assert set((physical >> 12).tolist()) <= held
            # Behind the array lies a guard page.
            assert system.page_tables.translate([page.array_address + array]).tolist() == [-1]
        else:
            assert (np.diff(physical) == 4096).all()
            assert page.array_address - system.direct_map.start == physical[0]
        check_memory(system)
        system.free_pages(page)
        retained = system.vmalloc_area.retained_tables
        assert system.memory.zone.free_frames == free - retained
        assert system.vmalloc_area.ranges == system.compound.objects.frames_held == 0
        assert not system.compound.mapped_arrays
        check_memory(system)


def test_a_mapped_array_is_no_page_and_no_range_of_vmap() -> None:
    system = machine(policy="vmalloc")
    page = system.alloc_pages(10, GFP_KERNEL)
    before = observable(system)
    for find in (system.virt_to_page, system.vmalloc_to_page):
        with pytest.raises(ConfigurationError, match="no live page"):
            find(page.array_address)
    for address in (page.array_address, page.address):
        with pytest.raises(ConfigurationError, match="not made by vmap"):
            system.vunmap(address)
    assert observable(system) == before
    twin = system.copy()
    system.free_pages(page)
    with pytest.raises(ConfigurationError, match="not made by vmap"):
        twin.vunmap(page.array_address)
    twin.free_pages(twin.virt_to_page(page.address))
    assert free_blocks(twin) == free_blocks(system)


def test_an_array_in_one_block_fails_where_memory_is_in_pieces() -> None:
    """The RFC's array of order 10 needs two frames side by side; the mapped one needs none."""
    outcomes = []
    for kmalloc in (True, False):
        system = machine("32MiB", "vmalloc", kmalloc)
        zone = system.memory.zone
        taken = zone.allocate_all(0, 0, zone.free_frames)
        assert taken is not None
        zone.free(np.sort(taken)[::2], 0)
        before = observable(system)
        try:
            page = system.alloc_pages(10, GFP_KERNEL)
        except OutOfMemory:
            assert observable(system) == before
            outcomes.append(0)
        else:
            outcomes.append(page.array_pages)
        check_memory_with(system, len(taken) - len(taken[::2]))
    assert outcomes == [0, 2]


def check_memory_with(system: System, others: int) -> None:
    """Check that pages, structures, tables and frames taken by hand are all that is not free."""
    assert system.memory.zone.audit() == 0
    held = system.compound.objects.frames_held + system.page_tables.count
    held += sum(len(page.frames) for page in system.pages)
    assert system.memory.zone.free_frames + held + others == system.memory.frames


# Running out


@pytest.mark.parametrize("kmalloc", [True, False])
@pytest.mark.parametrize(("policy", "order"), [("vmalloc", 10), ("vmalloc", 11), ("huge-vmalloc", 10)])
def test_running_out_at_any_step_changes_nothing(policy: str, order: int, kmalloc: bool) -> None:
    """With ever more single frames beside whole blocks, requests fail at every step in turn, then succeed."""
    full = machine("32MiB", policy, kmalloc)
    zone = full.memory.zone
    blocks = [zone.allocate(9, 1) for _ in range((1 << order) // 512)]
    singles = zone.allocate_all(0, 1, zone.free_frames)
    assert singles is not None
    # Frames side by side in pairs, so that an array in one block can be had; none merges with another.
    pairs = np.sort(singles[(singles % 4 == 0) & np.isin(singles + 1, singles)])[10:34]
    for block in blocks:
        zone.free(block, 9)
    outcomes = []
    for spare in range(len(pairs)):
        system = full.copy()
        freed = np.concatenate([pairs[:spare], pairs[:spare] + 1])
        system.memory.zone.free(freed, 0)
        before, free = observable(system), system.memory.zone.free_frames
        try:
            page = system.alloc_pages(order, GFP_KERNEL)
        except OutOfMemory:
            assert observable(system) == before
            outcomes.append(False)
        else:
            outcomes.append(True)
            assert page.marginal_frames + (1 << order) == free - system.memory.zone.free_frames
            assert leaf_levels(system, page) == {page.mapping_level}
            system.free_pages(page)
            assert system.memory.zone.free_frames == free - system.vmalloc_area.retained_tables
        assert system.compound.objects.frames_held == system.vmalloc_area.ranges == 0
        check_memory_with(system, len(singles) - len(freed))
    assert outcomes == sorted(outcomes)
    assert 3 <= outcomes.count(False) < 20
