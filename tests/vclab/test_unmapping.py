"""When CPUs forget what was unmapped: no regime ever leaves a translation that another range could meet."""

from __future__ import annotations

import numpy as np
import pytest

from vckernels import lazyareas, vmap
from vckernels.causes import Cause
from vclab import GFP_KERNEL, ConfigurationError, System
from vclab.shootdown import MECHANISMS
from vclab.units import PAGE_BYTES, PAGE_SHIFT
from vclab.vmalloc_area import UNMAPPINGS, lazy_max_pages

ADDRESS_MASK = (1 << 64) - 1


def machine(unmap: str, flush: str = "ipi", cpus: int = 2, area_pages: int | None = None) -> System:
    """Return a small machine of virtual pages, whose lazy limit is small too."""
    system = System(memory="64MiB", policy="vmalloc", cpus=cpus, unmap=unmap, flush=flush)
    area = system.vmalloc_area
    if area_pages is not None:
        area.areas = vmap.new_areas(area_pages, len(area.areas.start))
    if area.lazy is not None:
        area.lazy.places[lazyareas.Place.LIMIT] = 40
    return system


def held(system: System, cpu: int) -> dict[int, int]:
    """Return the 4K pages of the vmalloc area that a CPU's TLB holds: address and frame."""
    tlb = system.mmus[cpu].state.tlb
    found = {}
    for key, value in zip(tlb.keys.tolist(), tlb.values.tolist(), strict=True):
        address = (key >> 2 << PAGE_SHIFT) & ADDRESS_MASK
        if key >= 0 and key & 3 == 0:
            address |= ADDRESS_MASK << 48 & ADDRESS_MASK if address >> 47 & 1 else 0
            if address in system.vmalloc_area:
                found[address] = value >> 2
    return found


def waiting(system: System) -> set[int]:
    """Return the addresses of pages that wait for a purge."""
    area = system.vmalloc_area
    found: set[int] = set()
    if area.lazy is not None:
        # What was given back of a block waits for the rest of it.
        waits = (area.lazy.state == lazyareas.State.LAZY) | (area.lazy.state == lazyareas.State.BLOCK)
        for node in np.flatnonzero(waits).tolist():
            start, pages = int(area.areas.start[node]), int(area.areas.pages[node])
            found |= {area.start + (page << PAGE_SHIFT) for page in range(start, start + pages)}
    return found


def check(system: System) -> int:
    """Assert that what a TLB holds is mapped so or waits; return how many of the latter there are."""
    stale = 0
    lazy = waiting(system)
    for cpu in range(len(system.mmus)):
        for address, frame in held(system, cpu).items():
            mapped = int(system.page_tables.translate([address])[0]) >> PAGE_SHIFT
            if mapped != frame:
                assert address in lazy, hex(address)
                stale += 1
    return stale


@pytest.mark.parametrize("flush", MECHANISMS)
@pytest.mark.parametrize("unmap", UNMAPPINGS)
def test_a_translation_outlives_its_page_only_while_its_addresses_wait(unmap: str, flush: str) -> None:
    system = machine(unmap, flush)
    rng = np.random.default_rng(5)
    live, stale, reused = [], 0, 0
    seen: set[int] = set()
    for _ in range(80):
        if live and rng.random() < 0.5:
            system.free_pages(live.pop(int(rng.integers(len(live)))))
        else:
            page = system.alloc_pages(int(rng.integers(4)), GFP_KERNEL)
            reused += page.address in seen
            seen.add(page.address)
            live.append(page)
            for cpu in range(2):
                system.access(page, np.arange(0, page.nbytes, PAGE_BYTES), cpu=cpu)
        stale += check(system)
    assert reused > 5
    assert (stale > 0) == UNMAPPINGS[unmap].is_lazy
    system.purge_vmalloc_area()
    assert check(system) == 0
    assert system.vmalloc_area.waiting_pages == 0
    while live:
        system.free_pages(live.pop())
    system.purge_vmalloc_area()
    assert system.vmalloc_area.ranges == 0
    counts = system.ledger.counts
    assert (counts[Cause.INTERRUPT] > 0) == (flush == "ipi")
    assert (counts[Cause.BROADCAST] > 0) == (flush == "invlpgb")


@pytest.mark.parametrize("unmap", UNMAPPINGS)
def test_rounds_of_interrupts(unmap: str) -> None:
    """One for each range that is unmapped, or one for each purge."""
    system = machine(unmap)
    for _ in range(30):
        system.free_pages(system.alloc_pages(2, GFP_KERNEL))
    counts = system.ledger.counts
    if not UNMAPPINGS[unmap].is_lazy:
        assert counts[Cause.INTERRUPT] == 30
        assert counts[Cause.AREA_RELEASE] == counts[Cause.AREA_RESERVE] == 30
        assert (counts[Cause.TLB_FLUSH] == 2 * 30) == (unmap == "eager")
    else:
        # Four pages and a guard page each: nine wait for more than 40 pages.
        assert counts[Cause.AREA_PURGE] == counts[Cause.INTERRUPT] == 3
        assert counts[Cause.AREA_LAZY_FREE] == 30
        assert system.vmalloc_area.waiting_pages == 3 * 5
    assert (counts[Cause.AREA_POOL_HIT] > 0) == UNMAPPINGS[unmap].has_nodes


def test_a_range_that_fits_nowhere_makes_what_waits_be_given_back() -> None:
    system = machine("lazy", area_pages=30)
    pages = [system.alloc_pages(2, GFP_KERNEL) for _ in range(6)]
    for page in pages:
        system.access(page, [0])
        system.free_pages(page)
    assert system.vmalloc_area.waiting_pages == 30
    large = system.alloc_pages(4, GFP_KERNEL)
    assert large.address == pages[0].address
    assert system.vmalloc_area.waiting_pages == 0
    assert check(system) == 0
    assert system.ledger.counts[Cause.INTERRUPT] == 1


@pytest.mark.parametrize("unmap", ["2.6.28", "lazy"])
def test_small_mappings_in_blocks(unmap: str) -> None:
    system = machine(unmap)
    frames = system.alloc_pages(3, GFP_KERNEL).frames
    limit = 1500
    assert system.vmalloc_area.lazy is not None
    system.vmalloc_area.lazy.places[lazyareas.Place.LIMIT] = limit
    stale = 0
    for number in range(3 * 256):
        cpu = number % 2
        address = system.vm_map_ram(frames[:4], cpu)
        expected = [int(frame) << PAGE_SHIFT for frame in frames[:4]]
        pages = np.array([address + PAGE_BYTES * page for page in range(4)], np.uint64)
        assert system.page_tables.translate(pages).tolist() == expected
        system.access_at(np.array([address], np.uint64), 4 * PAGE_BYTES, np.arange(4) * PAGE_BYTES, cpu=cpu)
        system.vm_unmap_ram(address, 4)
        assert (system.page_tables.translate(pages) == -1).all()
        if number % 64 == 0:
            stale += check(system)
    assert stale > 0
    counts = system.ledger.counts
    assert (counts[Cause.BLOCK_TAKE], counts[Cause.BLOCK_GIVE]) == (768, 768)
    # Two blocks of 1024 pages are more than may wait: one purge; the other CPU's second block is half full.
    assert counts[Cause.INTERRUPT] == counts[Cause.AREA_PURGE] == 1
    system.vmalloc_area.purge(whole=True)
    system.purge_vmalloc_area()
    assert check(system) == 0
    assert system.vmalloc_area.ranges == 1


def test_what_is_no_small_mapping_is_refused() -> None:
    system = machine("lazy")
    page = system.alloc_pages(2, GFP_KERNEL)
    address = system.vm_map_ram(page.frames)
    for what, arguments in (
        (system.vm_map_ram, (np.zeros(65, np.int64),)),
        (system.vm_map_ram, (page.frames, 2)),
        (system.vm_map_ram, ([-1],)),
        (system.vm_unmap_ram, (page.address, 4)),
        (system.vm_unmap_ram, (address, 5)),
        (system.vm_unmap_ram, (address + 1, 4)),
        (system.vunmap, (address,)),
        (machine("range").vm_map_ram, (page.frames,)),
    ):
        with pytest.raises(ConfigurationError):
            what(*arguments)
    assert system.vmalloc_area.ranges == 1
    system.vm_unmap_ram(address, 4)
    with pytest.raises(ConfigurationError):
        system.vm_unmap_ram(address, 4)


def test_how_much_waits_grows_with_the_number_of_cpus() -> None:
    """Linux: fls(n) times 32 MiB."""
    assert [lazy_max_pages(cpus) * PAGE_BYTES >> 20 for cpus in (1, 2, 8, 64, 256)] == [32, 64, 128, 224, 288]
    area = System(memory="64MiB", cpus=8, unmap="lazy").vmalloc_area
    assert area.lazy is not None
    assert area.lazy.places[lazyareas.Place.LIMIT] == lazy_max_pages(8)
    assert len(area.lazy.waiting) == 8


def test_a_copy_waits_for_itself() -> None:
    system = machine("lazy")
    system.free_pages(system.alloc_pages(2, GFP_KERNEL))
    twin = system.copy()
    twin.purge_vmalloc_area()
    assert (system.vmalloc_area.waiting_pages, twin.vmalloc_area.waiting_pages) == (5, 0)


def test_ranges_that_wait_are_no_ranges_in_use() -> None:
    system = machine("lazy")
    page = system.alloc_pages(2, GFP_KERNEL)
    kept = system.alloc_pages(1, GFP_KERNEL)
    system.free_pages(page)
    assert system.vmalloc_area.ranges == 1
    assert [address for address, _, _ in system.vmalloc_area.spans()] == [kept.address]
    with pytest.raises(ConfigurationError):
        system.virt_to_page(page.address)
    with pytest.raises(ConfigurationError):
        system.vunmap(page.address)


@pytest.mark.parametrize(("linux", "regime"), [("2.6.23", "eager"), ("2.6.24", "eager"), ("6.18", "lazy")])
def test_the_regime_is_the_rule_sets_own_unless_another_is_chosen(linux: str, regime: str) -> None:
    assert System(memory="64MiB", cpu="k8", linux=linux).vmalloc_area.unmapping.name == regime
    assert System(memory="64MiB", cpu="k8", linux=linux, unmap="range").vmalloc_area.unmapping.name == "range"


def test_a_regime_or_mechanism_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"there are range, eager, 2\.6\.28, lazy"):
        System(memory="64MiB", unmap="late")
    with pytest.raises(ConfigurationError, match="flush='mail' does not exist; there are ipi, invlpgb"):
        System(memory="64MiB", flush="mail")
    with pytest.raises(ConfigurationError, match="cpu skylake-sp has no INVLPGB; presets that have it: zen3"):
        System(memory="64MiB", cpu="skylake-sp", flush="invlpgb")
