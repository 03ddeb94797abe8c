"""Accesses as users see them: offsets in any form, costs that add up, walks through the tables that are there."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from tests.vclab.machines import everything, walked
from vckernels.causes import Cause
from vclab import GFP_KERNEL, ConfigurationError, System
from vclab.ledger import served_latencies


def test_offsets_may_be_an_array_a_list_or_any_iterable_of_arrays() -> None:
    system = System(memory="16MiB", policy="vmalloc")
    page = system.alloc_pages(4, GFP_KERNEL)
    offsets = vclab.streams.uniform(page.nbytes, 999, seed=1)
    forms = [offsets, offsets.tolist(), np.array_split(offsets, 7), (part for part in np.array_split(offsets, 4))]
    costs = []
    for form in forms:
        system.mmu.flush()
        system.mmu.empty_caches()
        costs.append(system.access(page, form))
    assert len({cost.counts.tobytes() for cost in costs}) == 1
    assert costs[0].accesses == 999
    assert system.access(page, []).cycles == 0.0
    assert system.access(page, iter([])).accesses == 0
    assert system.access(page, offsets.astype(np.uint32)).accesses == 999


def test_accesses_to_several_pages_go_to_each_in_turn() -> None:
    system = System(memory="16MiB", policy="vmalloc")
    pages = [system.alloc_pages(1, GFP_KERNEL) for _ in range(3)]
    cost = system.access(pages, np.arange(6) * 4096)
    assert cost.walks == 6
    assert [system.access(page, [0, 4096]).walks for page in pages] == [0, 0, 0]
    other = system.alloc_pages(2, GFP_KERNEL)
    with pytest.raises(ConfigurationError, match="several orders"):
        system.access([pages[0], other], [0])


@pytest.mark.parametrize(
    "offsets",
    [[-1], [4096 << 2], [0, 1 << 40], [0.0], [float("nan")], np.array([1 << 63], np.uint64), ["0"], [True]],
)
def test_offsets_outside_are_refused(offsets: list[float]) -> None:
    system = System(memory="16MiB", policy="vmalloc")
    page = system.alloc_pages(2, GFP_KERNEL)
    before = everything(system)
    with pytest.raises(ConfigurationError, match="offset"):
        system.access(page, offsets)
    assert everything(system) == before


def test_only_live_pages_of_this_system_are_accessed() -> None:
    system = System(memory="16MiB")
    page = system.alloc_pages(2, GFP_KERNEL)
    twin = system.copy()
    with pytest.raises(ConfigurationError, match="live page"):
        twin.access(page, [0])
    system.free_pages(page)
    with pytest.raises(ConfigurationError, match="live page"):
        system.access(page, [0])


@pytest.mark.parametrize("cpu", [-1, 2])
def test_only_cpus_that_exist_access(cpu: int) -> None:
    system = System(memory="16MiB", cpus=2)
    page = system.alloc_pages(0, GFP_KERNEL)
    with pytest.raises(ConfigurationError, match="CPU"):
        system.access(page, [0], cpu=cpu)


def test_open_coded_accesses_and_their_refusals() -> None:
    """Page-array loads are counted and priced, and hits and walks add up to both kinds of access."""
    system = System(memory="16MiB", policy="physical")
    frames = [system.alloc_pages(0, GFP_KERNEL) for _ in range(8)]
    array = np.array([system.alloc_pages(0, GFP_KERNEL).address], np.uint64)
    bases = np.array([page.address for page in frames], np.uint64)
    offsets = vclab.streams.uniform(8 * 4096, 500)
    cost = system.access_at(bases, 4096, offsets, arrays=array, array_nbytes=8 * 4096)
    assert cost.accesses == 500
    assert cost.tlb_hits.sum() + cost.walks == 1000
    # One line holds all eight words of the array; whoever served a load is counted, and priced by it.
    served = cost.counts[Cause.ARRAY_LEVEL_1 : Cause.ARRAY_MEMORY + 1]
    assert served.sum() == 500
    assert served[-1] == 1
    assert cost.by_cause["page array load"] == served @ served_latencies(system.cpu)
    data = ("first-level data", "second-level data", "third-level data", "memory")
    served = cost.counts[Cause.DATA_LEVEL_1 : Cause.DATA_MEMORY + 1]
    assert served.sum() == 500
    assert [cost.by_cause[name] for name in data] == (served * served_latencies(system.cpu)).tolist()
    for wrong in ({"nbytes": 3000}, {"nbytes": 0}, {"nbytes": 4096, "arrays": array, "array_nbytes": 4096}):
        with pytest.raises(ConfigurationError, match="pieces"):
            system.access_at(bases, offsets=[0], **({"nbytes": 4096} | wrong))


@pytest.mark.parametrize(
    ("cpu", "levels", "direct_map", "policy", "words"),
    [
        ("zen3", 4, "4K", "physical", 4),
        ("zen3", 4, "2M", "physical", 3),
        ("zen3", 4, "2M", "vmalloc", 4),
        ("ice-lake", 5, "2M", "physical", 4),
        ("ice-lake", 5, "4K", "vmalloc", 5),
        ("ice-lake", 4, "2M", "vmalloc", 4),
        ("k8", 4, "2M", "physical", 3),
        ("core2", 4, "2M", "vmalloc", 4),
        ("skylake-sp", 4, "4K", "physical", 4),
    ],
)
def test_walks_go_through_the_tables_that_are_there(
    cpu: str, levels: int, direct_map: str, policy: str, words: int
) -> None:
    """A walk loads one word a level; ``physical`` is a mapping with the direct map's entries, no free pass.

    With what the paging-structure caches hold after the first, the others of a 2 MiB region load the leaf alone.
    """
    system = System(cpu=cpu, memory="16MiB", policy=policy, levels=levels, direct_map=direct_map)
    page = system.alloc_pages(6, GFP_KERNEL)
    cost = system.access(page, np.arange(0, page.nbytes, 4096), write=True)
    large = policy == "physical" and direct_map == "2M"
    assert page.address >> 21 == (page.address + page.nbytes - 1) >> 21
    assert cost.walks == (1 if large else 64)
    assert cost.walk_references == words + cost.walks - 1
    assert cost.tlb_hits.sum() + cost.walks == cost.accesses == 64
    for offset in range(0, page.nbytes, 4 * 4096):
        system.mmu.flush()
        alone = system.access(page, [offset])
        assert (alone.walks, alone.walk_references) == (1, words)
        assert alone.counts[Cause.WALK_LEVEL_1 : Cause.WALK_MEMORY + 1].sum() == words


def test_a_gigabyte_direct_map_of_a_gigabyte_machine() -> None:
    """Whole gigabytes get 1G leaves, the rest the next smaller size."""
    system = System(memory="1GiB", direct_map="1G")
    assert system.page_tables.count == 2
    page = system.alloc_pages(10, GFP_KERNEL)
    assert system.access(page, np.arange(0, page.nbytes, 4096)).walks == 1
    rest = System(memory="1028MiB", direct_map="1G")
    assert rest.page_tables.count == 3
    addresses = rest.direct_map.start + np.arange(0, 1028 << 20, 1 << 20, dtype=np.uint64)
    assert rest.page_tables.translate(addresses).tolist() == list(range(0, 1028 << 20, 1 << 20))


@pytest.mark.parametrize(("cpu", "levels"), [("zen3", 4), ("ice-lake", 4), ("ice-lake", 5), ("k8", 4)])
@pytest.mark.parametrize("direct_map", ["4K", "2M"])
def test_whoever_walks_the_words_sees_the_same(cpu: str, levels: int, direct_map: str) -> None:
    system = System(cpu=cpu, memory="16MiB", policy="vmalloc", levels=levels, direct_map=direct_map)
    pages = [system.alloc_pages(order, GFP_KERNEL) for order in (0, 5, 9, 2)]
    system.free_pages(pages[1])
    rng = np.random.default_rng(2)
    direct = [system.direct_map.start + offset for offset in rng.integers(0, 16 << 20, 200).tolist()]
    area = [system.vmalloc_area.start + offset for offset in rng.integers(0, 4 << 20, 200).tolist()]
    elsewhere = [0, 4096, (1 << 47) - 1, 1 << 63, (1 << 64) - 1, system.direct_map.start + (16 << 20)]
    addresses = np.array([*direct, *area, *elsewhere], np.uint64)
    translated = system.page_tables.translate(addresses).tolist()
    assert translated == walked(system, addresses)
    assert translated[:200] == [address - system.direct_map.start for address in direct]
    assert translated[400:] == [-1] * 6
