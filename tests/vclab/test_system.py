"""The machine as its users see it: what the design promises, word for word, and what no sequence of calls may break."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from tests.vclab.machines import check_memory, check_page, everything, free_blocks, observable
from vclab import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK, ConfigurationError, Gfp, InvalidFree, OutOfMemory, System

FLAGGED = GFP_KERNEL | GFP_VFALLBACK
POLICIES = ("physical", "early-fallback", "always-virtual", "vmalloc")


def exhaust(system: System, order: int) -> list[vclab.CompoundPage]:
    """Take every block of an order that there is."""
    pages = []
    while True:
        try:
            pages.append(system.alloc_pages(order, GFP_KERNEL))
        except OutOfMemory:
            return pages


# As the design writes it


def test_the_public_surface_works_as_written() -> None:
    """The design's example, with a smaller memory and fewer accesses."""
    system = vclab.System(
        cpu="zen3", linux="6.18", memory="256MiB", cpus=2, policy="early-fallback", levels=4, direct_map="2M", seed=1
    )
    system.fragment(order=9, unusable=0.95, free=0.30)
    assert system.unusable_free_index(9) == pytest.approx(0.95, abs=0.011)
    assert system.memory.free_share == pytest.approx(0.30, abs=0.011)
    page = system.alloc_pages(9, GFP_KERNEL | GFP_VFALLBACK)
    assert (page.order, page.nbytes) == (9, 2 << 20)
    assert isinstance(page.address, int)
    assert page.address >> 47 == (1 << 17) - 1
    assert page.frames.dtype == np.int64
    assert page.frames.shape == (512,)
    assert page.overhead_bytes == (512 * 8 + 96 + 72 + 512 * 8 if page.is_virtual else 0)
    assert system.page_address(page) == page.address
    assert system.virt_to_page(page.address + 5) is page
    offsets = vclab.streams.uniform(page.nbytes, 100_000, seed=2)
    assert offsets.dtype == np.int64
    cost = system.access(page, offsets, write=False)
    assert (cost.accesses, type(cost.accesses)) == (100_000, int)
    assert isinstance(cost.cycles, float)
    assert isinstance(cost.overlapped_cycles, float)
    assert cost.tlb_hits.dtype == np.int64
    assert cost.tlb_hits.shape == (2,)
    assert cost.tlb_hits.sum() + cost.walks == cost.accesses
    assert isinstance(cost.walks, int)
    assert isinstance(cost.walk_references, int)
    assert sum(cost.by_cause.values()) == cost.cycles
    assert all(isinstance(name, str) and isinstance(cycles, float) for name, cycles in cost.by_cause.items())
    system.mmu.flush()
    twin = system.copy()
    system.free_pages(page)
    assert twin.buddyinfo().dtype == np.int64
    assert twin.buddyinfo().shape == (1, 11)
    assert isinstance(system.fragmentation_index(9), float)
    assert system.ledger.events["data access"] == 100_000
    assert isinstance(system.page_tables.root, int)
    frames, words = system.page_tables.frames(), system.page_tables.words()
    assert frames.dtype == np.int64
    assert frames[0] << 12 == system.page_tables.root
    assert words.dtype == np.uint64
    assert words.shape == (len(frames), 512)
    assert system.page_tables.translate(np.array([0], np.uint64)).tolist() == [-1]


@pytest.mark.parametrize("name", sorted(set(vclab.__all__) | {"streams", "presets", "recordings"}))
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(vclab, name) is not None
    assert name in dir(vclab)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        vclab.nothing  # noqa: B018


# Policies


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("flags", [GFP_KERNEL, FLAGGED, GFP_ATOMIC, GFP_KERNEL | Gfp.MOVABLE])
@pytest.mark.parametrize("order", [0, 1, 9, 10])
@pytest.mark.parametrize("flag_all", [False, True])
def test_which_requests_are_virtual_when_memory_is_plenty(policy: str, flags: int, order: int, flag_all: bool) -> None:
    system = System(memory="16MiB", policy=policy, flag_all=flag_all)
    page = system.alloc_pages(order, flags)
    flagged = flag_all or flags == FLAGGED
    expected = policy == "vmalloc" or (policy == "always-virtual" and flagged and order >= 1)
    assert page.is_virtual == expected
    check_page(system, page, page.frames.tolist(), np.random.default_rng(1))
    check_memory(system)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("flags", [GFP_KERNEL, FLAGGED])
def test_which_requests_fall_back_when_no_block_is_large_enough(policy: str, flags: int) -> None:
    """Every second order-3 block is free: order 4 can be served virtually only."""
    system = System(memory="16MiB", policy="physical", direct_map="4K")
    pages = exhaust(system, 3)
    for page in pages[::2]:
        system.free_pages(page)
    system = system.copy(policy)
    assert system.fragmentation_index(4) == pytest.approx(0.5, abs=0.002)
    assert system.unusable_free_index(4) == 1.0
    before = observable(system)
    served_virtually = {
        "physical": False,
        "early-fallback": flags == FLAGGED,
        "always-virtual": flags == FLAGGED,
        "vmalloc": True,
    }
    if served_virtually[policy]:
        page = system.alloc_pages(4, flags)
        assert page.is_virtual
        assert len(page.run_lengths) >= 2
        assert page.run_lengths.sum() == 16
    else:
        with pytest.raises(OutOfMemory, match="order 4"):
            system.alloc_pages(4, flags)
        assert observable(system) == before
    check_memory(system)


def test_a_failure_of_an_unflagged_request_names_the_flag() -> None:
    system = System(memory="16MiB", policy="early-fallback")
    exhausted = system.copy("physical")
    while exhausted.memory.zone.free_frames >= 1024:
        exhausted.alloc_pages(10 if exhausted.buddyinfo()[0, 10] else 9, GFP_KERNEL)
    system = exhausted.copy("early-fallback")
    with pytest.raises(OutOfMemory, match="GFP_VFALLBACK"):
        system.alloc_pages(10, GFP_KERNEL)


@pytest.mark.parametrize("policy", ["vmalloc", "early-fallback", "always-virtual"])
@pytest.mark.parametrize("order", [1, 9, 10])
def test_a_virtual_request_that_fails_changes_nothing_wherever_memory_ends(policy: str, order: int) -> None:
    """With 0, 1, 2 ... free frames it is the page array, a descriptor, a frame or a table that cannot be had."""
    full = System(memory="16MiB", policy="physical")
    pages = {int(page.frames[0]): page for page in exhaust(full, 0)}
    # Scattered frames, so that no block of the order is free.
    spare = iter([frame for frame in sorted(pages) if frame % 2 == 0])
    size = 1 << order
    outcomes = []
    for free in range(size + 12):
        if free < 12 or free > size - 4:
            system = full.copy(policy)
            assert system.memory.zone.free_frames == free
            before = observable(system)
            try:
                page = system.alloc_pages(order, FLAGGED)
            except OutOfMemory:
                assert observable(system) == before
                outcomes.append(False)
            else:
                assert page.is_virtual
                assert page.marginal_frames + size == free - system.memory.zone.free_frames
                outcomes.append(True)
            check_memory(system)
        full.free_pages(pages[next(spare)])
    # Beside its own frames a page takes its array, frames for two descriptors, and three tables; at order 10 the
    # array of two pages is mapped below it, which takes an array of its own, and the entries fill three tables.
    assert outcomes == sorted(outcomes)
    marginal = max(1, size * 8 >> 12) + 2 + 3 + (order == 10) * (1 + 2)
    assert outcomes.count(True) == 12 - marginal


def test_marginal_frames_and_attributed_bytes_of_virtual_pages() -> None:
    """The first page pays for tables and frames of structures, the second shares them."""
    system = System(memory="16MiB", policy="vmalloc", levels=4)
    first = system.alloc_pages(3, GFP_KERNEL)
    second = system.alloc_pages(3, GFP_KERNEL)
    # Three tables below the root, a frame of 64-byte arrays, one of 96-byte and one of 72-byte descriptors.
    assert (first.marginal_frames, second.marginal_frames) == (6, 0)
    assert first.overhead_bytes == second.overhead_bytes == 8 * 8 + 96 + 72 + 8 * 8
    assert first.array_address >> 12 == second.array_address >> 12
    assert second.array_address - first.array_address == 64
    # A guard page lies between them.
    assert second.address - first.address == 9 * 4096
    assert system.page_tables.translate([first.address + first.nbytes]).tolist() == [-1]


# Finding pages by address


@pytest.mark.parametrize("policy", ["physical", "vmalloc"])
def test_addresses_outside_pages_belong_to_none(policy: str) -> None:
    system = System(memory="16MiB", policy=policy)
    page = system.alloc_pages(2, GFP_KERNEL)
    freed = system.alloc_pages(4, GFP_KERNEL)
    system.free_pages(freed)
    unknown = [page.address - 1, page.address + page.nbytes, freed.address, 0, -1, 1 << 70, 1 << 63, (1 << 64) - 1]
    for address in unknown:
        for find in (system.virt_to_page, system.vmalloc_to_page):
            with pytest.raises(ConfigurationError, match="no live page"):
                find(address)
    assert system.virt_to_page(page.address) is page


def test_ranges_of_vmap_are_mapped_but_no_pages() -> None:
    system = System(memory="16MiB", policy="physical")
    pages = [system.alloc_pages(0, GFP_KERNEL) for _ in range(5)]
    frames = [int(page.frames[0]) for page in pages]
    address = system.vmap(frames[::-1])
    expected = [frame << 12 for frame in frames[::-1]]
    assert system.page_tables.translate([address + (number << 12) for number in range(5)]).tolist() == expected
    with pytest.raises(ConfigurationError, match="no live page"):
        system.virt_to_page(address)
    cost = system.access_at(np.array([address], np.uint64), 4096, [0, 8])
    assert cost.walks == 1
    system.vunmap(address)
    assert system.page_tables.translate([address]).tolist() == [-1]
    assert system.vmalloc_area.ranges == 0
    assert [system.virt_to_page(page.address) for page in pages] == pages


@pytest.mark.parametrize("frames", [[], [-1], [4096], [0, 1 << 40]])
def test_vmap_refuses_frames_that_do_not_exist(frames: list[int]) -> None:
    system = System(memory="16MiB")
    before = everything(system)
    with pytest.raises(ConfigurationError):
        system.vmap(frames)
    assert everything(system) == before


def test_vunmap_takes_back_only_what_vmap_made() -> None:
    system = System(memory="16MiB", policy="vmalloc")
    page = system.alloc_pages(2, GFP_KERNEL)
    address = system.vmap([3, 4])
    for wrong in (page.address, address + 4096, address + 1, address - 4096, 0):
        with pytest.raises(ConfigurationError):
            system.vunmap(wrong)
    system.vunmap(address)
    with pytest.raises(ConfigurationError):
        system.vunmap(address)
    system.free_pages(page)
    assert system.vmalloc_area.ranges == 0


# Freeing


@pytest.mark.parametrize("policy", ["physical", "vmalloc"])
def test_a_page_is_freed_once_and_by_its_own_system(policy: str) -> None:
    system = System(memory="16MiB", policy=policy)
    page = system.alloc_pages(3, GFP_KERNEL)
    twin = system.copy()
    with pytest.raises(InvalidFree, match="another system"):
        twin.free_pages(page)
    system.free_pages(page)
    before = everything(system)
    with pytest.raises(InvalidFree, match="already"):
        system.free_pages(page)
    assert everything(system) == before
    twin.free_pages(twin.virt_to_page(page.address))
    assert free_blocks(twin) == free_blocks(system)


def test_freed_pages_are_forgotten_by_every_cpu() -> None:
    """The next page at the same address is walked anew on all CPUs that knew the old one."""
    system = System(memory="16MiB", policy="vmalloc", cpus=2, unmap="range")
    page = system.alloc_pages(2, GFP_KERNEL)
    offsets = np.arange(0, page.nbytes, 4096)
    assert [system.access(page, offsets, cpu=cpu).walks for cpu in (0, 1, 0, 1)] == [4, 4, 0, 0]
    system.free_pages(page)
    again = system.alloc_pages(2, GFP_KERNEL)
    assert again.address == page.address
    assert [system.access(again, offsets, cpu=cpu).walks for cpu in (0, 1)] == [4, 4]


@pytest.mark.parametrize("policy", POLICIES)
def test_everything_freed_is_the_boot_state_again(policy: str) -> None:
    system = System(memory="16MiB", policy=policy)
    boot = free_blocks(system)
    pages = [system.alloc_pages(order, FLAGGED) for order in (0, 3, 1, 8, 2, 0)]
    for page in pages:
        system.free_pages(page)
    assert system.pages == []
    assert system.vmalloc_area.ranges == system.compound.objects.frames_held == 0
    if system.vmalloc_area.retained_tables == 0:
        assert policy in ("physical", "early-fallback")
        assert free_blocks(system) == boot
    check_memory(system)


# Copies and reproducibility


@pytest.mark.parametrize("policy", ["early-fallback", "vmalloc"])
def test_copies_are_independent(policy: str) -> None:
    """Whatever is done to a copy, or to a copy's original, the other one stays as it is."""
    original = System(memory="16MiB", policy=policy, cpus=2)
    page = original.alloc_pages(4, FLAGGED)
    original.access(page, vclab.streams.uniform(page.nbytes, 500))
    twin = original.copy()
    assert everything(twin) == everything(original)
    for one, other in ((twin, original), (original, twin)):
        before = everything(other)
        mine = one.virt_to_page(page.address)
        assert (mine is page) == (one is original)
        one.access(mine, vclab.streams.uniform(page.nbytes, 500, seed=5), write=True, cpu=1)
        one.free_pages(mine)
        for order in (0, 3, 9):
            one.alloc_pages(order, FLAGGED)
        one.vmap([1, 2, 3])
        one.mmu.flush()
        assert everything(other) == before
        check_memory(other, mapped=int(other is twin))


def test_a_copy_may_have_another_policy() -> None:
    system = System(memory="16MiB", policy="physical")
    twin = system.copy("vmalloc")
    assert twin.alloc_pages(2, GFP_KERNEL).is_virtual
    assert not system.alloc_pages(2, GFP_KERNEL).is_virtual
    with pytest.raises(ConfigurationError, match=r"physical, late-fallback, .*, vmalloc, .*early-fallback"):
        system.copy("hope")


def scenario(seed: int) -> dict[str, object]:
    """Return everything about a machine that was aged, allocated from and accessed."""
    system = System(memory="64MiB", policy="early-fallback", seed=seed)
    summary = system.fragment(9, 1.0, free=0.4)
    cost = None
    for order in (9, 4, 9, 0):
        page = system.alloc_pages(order, FLAGGED)
        cost = system.access(page, vclab.streams.uniform(page.nbytes, 2000, seed=seed))
    assert cost is not None
    return everything(system) | {"summary": summary, "cost": cost.by_cause}


def test_the_same_seed_gives_the_same_numbers() -> None:
    first = scenario(3)
    assert scenario(3) == first
    assert scenario(4)["buddyinfo"] != first["buddyinfo"]


def test_ageing_leaves_what_the_system_holds() -> None:
    """Tables, live pages and control structures survive, and still translate."""
    system = System(memory="64MiB", policy="vmalloc", seed=2)
    pages = [system.alloc_pages(order, GFP_KERNEL) for order in (0, 3, 7)]
    frames = [page.frames.tolist() for page in pages]
    system.fragment(9, 1.0, free=0.4)
    assert system.memory.zone.audit() == 0
    rng = np.random.default_rng(1)
    for page, expected in zip(pages, frames, strict=True):
        check_page(system, page, expected, rng)
        system.free_pages(page)
    assert system.memory.zone.audit() == 0


# Refusals


@pytest.mark.parametrize(
    ("arguments", "listing"),
    [
        ({"cpu": "z80"}, "there are core2, .*ice-lake, .*k8, .*skylake-sp, .*zen3"),
        ({"cpu": "../cpu/zen3"}, "there are core2, .*ice-lake, .*k8, .*skylake-sp, .*zen3"),
        ({"linux": "2.4"}, "there are .*6.18"),
        ({"policy": "hope"}, "there are physical, late-fallback, early-fallback"),
        ({"levels": 5}, "presets that have it: .*ice-lake"),
        ({"levels": 3}, "presets that have it: none"),
        ({"cpu": "k8", "direct_map": "1G"}, "presets that have them: .*ice-lake.*skylake-sp.*zen3"),
        ({"cpu": "core2", "direct_map": "1G"}, "presets that have them: .*ice-lake.*skylake-sp.*zen3"),
        ({"cpu": "skylake-sp", "levels": 5}, "presets that have it: .*ice-lake"),
        ({"direct_map": "3M"}, "4K, 2M, 1G"),
        ({"memory": "3MiB"}, "multiple of 4MiB"),
        ({"memory": "6MiB"}, "multiple of 4MiB"),
        ({"memory": 0}, "multiple of 4MiB"),
        ({"memory": "8TiB"}, "to 4 TiB"),
        ({"memory": "much"}, "'2GiB'"),
        ({"memory": -4096}, "'2GiB'"),
        ({"memory": None}, "'2GiB'"),
        ({"cpus": 0}, "1 or more"),
        ({"cpus": -1}, "1 or more"),
    ],
)
def test_machines_that_do_not_exist_are_refused_with_what_does(arguments: dict[str, object], listing: str) -> None:
    with pytest.raises(ConfigurationError, match=listing):
        System(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [-1, 15, 100])
def test_requests_that_do_not_exist_are_refused(order: int) -> None:
    system = System(memory="16MiB")
    with pytest.raises(ConfigurationError, match="0 to 14"):
        system.alloc_pages(order, GFP_KERNEL)


def test_a_request_is_not_both_movable_and_reclaimable() -> None:
    system = System(memory="16MiB", policy="vmalloc")
    before = everything(system)
    with pytest.raises(ConfigurationError, match="movable and reclaimable"):
        system.alloc_pages(1, Gfp.MOVABLE | Gfp.RECLAIMABLE)
    assert everything(system) == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"order": 11, "unusable": 0.5},
        {"order": -1, "unusable": 0.5},
        {"order": 9, "unusable": 1.5},
        {"order": 9, "unusable": -0.1},
        {"order": 9, "unusable": float("nan")},
        {"order": 9, "unusable": 0.5, "free": 0.0},
        {"order": 9, "unusable": 0.5, "free": 1.0},
        {"order": 9, "unusable": 0.5, "tail": "week"},
    ],
)
def test_goals_that_do_not_exist_are_refused(arguments: dict[str, float]) -> None:
    system = System(memory="16MiB")
    before = everything(system)
    with pytest.raises(ConfigurationError):
        system.fragment(**arguments)  # type: ignore[arg-type]
    assert everything(system) == before


# How it shows itself


@pytest.mark.parametrize("policy", ["physical", "vmalloc"])
def test_representations(policy: str) -> None:
    system = System(memory="16MiB", policy=policy)
    page = system.alloc_pages(2, GFP_KERNEL)
    cost = system.access(page, [0, 4096])
    assert repr(system).startswith(f"<System zen3, Linux 6.18, 16 MiB, {policy}, ")
    assert ("virtual" in repr(page)) == (policy == "vmalloc")
    assert "2 accesses" in repr(cost)
    assert "data access" in repr(system.ledger)
    for shown in (system, page, cost, system.ledger):
        assert shown._repr_html_().count("<tr>") >= 2
    system.free_pages(page)
    assert repr(page).endswith("freed>")
