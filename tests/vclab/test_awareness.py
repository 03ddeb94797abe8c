"""The study awareness: struct pages, the loads of each operation, counts and prices, claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.vclab.machines import check_memory
from vckernels.causes import Cause
from vclab import GFP_VFALLBACK, System, presets, run, studies
from vclab.errors import ConfigurationError, OutOfMemory
from vclab.presets.prices import Prices
from vclab.studies import awareness
from vclab.studies.awareness import loads
from vclab.studies.awareness.measure import ARITHMETIC, INSTRUCTIONS, Parameters, _Pages, measure, priced
from vclab.units import PAGE_BYTES, PAGE_SHIFT
from vclab.vmemmap import frames_with_vmemmap

SMALL = {
    "memory": "128MiB",
    "orders": [1, 4],
    "live_pages": [1, 4],
    "operations": 300,
    "seeds": 2,
    "fragment_order": 7,
    "unusable": 0.9,
}
MACHINES = [("zen3", 4), ("ice-lake", 5)]


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return Parameters.model_validate(SMALL)


@pytest.fixture(scope="module")
def dataset(parameters: Parameters) -> xr.Dataset:
    return run.run_study("awareness", parameters, 1, lambda *_: None)


def virtual_system(cpu: str = "zen3", levels: int = 4, memory: str = "64MiB") -> System:
    return System(cpu=cpu, levels=levels, memory=memory, policy="vmalloc", seed=1)


# Struct pages


@pytest.mark.parametrize(("cpu", "levels"), MACHINES)
def test_every_frame_has_a_struct_page_above_the_machine(cpu: str, levels: int) -> None:
    system = System(cpu=cpu, levels=levels, memory="256MiB")
    frames = np.array([0, 1, 63, 64, system.memory.frames - 1])
    addresses = system.vmemmap.addresses(frames)
    start = {4: 0xFFFFEA0000000000, 5: 0xFFD4000000000000}[levels]
    assert addresses.tolist() == [start + 64 * frame for frame in frames.tolist()]
    physical = system.page_tables.translate(addresses)
    # 256 MiB are two leaves of 2 MiB, the first of which begins just above the machine.
    assert (physical == (system.memory.frames << PAGE_SHIFT) + 64 * frames).all()
    assert frames_with_vmemmap(system.memory) == system.memory.frames + 2 * 512
    check_memory(system)


def test_struct_pages_of_a_machine_that_does_not_begin_at_zero() -> None:
    system = System(memory="recorded")
    first, count = system.memory.first_frame, system.memory.frames
    physical = system.page_tables.translate(system.vmemmap.addresses([first, first + count - 1])) >> PAGE_SHIFT
    assert first + count <= physical[0] < physical[1] < frames_with_vmemmap(system.memory)
    assert frames_with_vmemmap(system.memory) % 512 == 0


def test_copies_have_the_struct_pages_that_their_tables_map() -> None:
    system = System(memory="64MiB")
    before = system.page_tables.count
    late = system.copy()
    mapped = system.vmemmap
    assert system.page_tables.count == before + mapped.tables
    assert system.vmemmap is mapped
    early = system.copy()
    assert early.vmemmap is mapped
    assert early.page_tables.count == system.page_tables.count
    assert late.page_tables.count == before
    assert late.vmemmap.addresses([5]) == mapped.addresses([5])
    for machine in (system, early, late):
        assert (machine.page_tables.translate(machine.vmemmap.addresses([5])) >= 0).all()
        check_memory(machine)


def test_lines_of_struct_pages_are_no_lines_of_the_machine() -> None:
    system = System(memory="64MiB")
    end = frames_with_vmemmap(system.memory) << PAGE_SHIFT
    last = int(system.page_tables.translate(system.vmemmap.addresses([system.memory.frames - 1]))[0])
    assert system.memory.frames << PAGE_SHIFT <= last < end
    assert system.mmu.state.control[4] * 64 >= end


# Loads


@pytest.mark.parametrize(("cpu", "levels"), MACHINES)
def test_a_software_walk_loads_one_word_of_each_level(cpu: str, levels: int) -> None:
    system = virtual_system(cpu, levels)
    page = system.alloc_pages(3, GFP_VFALLBACK)
    members = np.arange(8)
    addresses = np.uint64(page.address) + (members << PAGE_SHIFT).astype(np.uint64)
    walked, frames = loads.software_walk(system, addresses)
    assert walked.shape == (8, levels)
    assert frames.tolist() == page.frames.tolist()
    rows = dict(zip(system.page_tables.frames().tolist(), system.page_tables.words().tolist(), strict=True))
    for member in range(8):
        frame = system.page_tables.root >> PAGE_SHIFT
        for step, level in enumerate(range(levels, 0, -1)):
            index = (page.address + member * PAGE_BYTES) >> (12 + 9 * (level - 1)) & 511
            assert int(walked[member, step]) == system.direct_map.address(frame) + 8 * index
            frame = (rows[frame][index] & 0x000F_FFFF_FFFF_F000) >> 12
        assert frame == page.frames[member]


def test_a_tail_needs_the_line_of_its_head_too() -> None:
    system = virtual_system()
    page = system.alloc_pages(2, GFP_VFALLBACK)
    found = loads.struct_page(system, page.frames, np.full(4, page.frames[0]))
    assert (found[0, 0], found[0, 1]) == (system.vmemmap.addresses([page.frames[0]])[0] + np.uint64(8), loads.NONE)
    for member in range(1, 4):
        own, head = (system.vmemmap.addresses([page.frames[at]])[0] for at in (member, 0))
        assert found[member].tolist() == [int(own) + loads.HEAD, int(head) + loads.FLAGS]
        assert found[member, 0] >> np.uint64(6) != found[member, 1] >> np.uint64(6)


def test_the_address_of_a_virtual_page_lies_in_the_line_of_its_flags() -> None:
    pages = _Pages(virtual_system(), 2, 3, True, np.random.default_rng(1))
    every, first = pages.loads("page_address", True)
    assert every.shape == first.shape == (3, 2)
    assert (every[:, 0] >> np.uint64(6) == every[:, 1] >> np.uint64(6)).all()
    assert (every[:, 1] - every[:, 0] == loads.PRIVATE).all()
    assert pages.loads("page_address", False)[0].size == 0


@pytest.mark.parametrize(("cpu", "levels"), MACHINES)
def test_a_search_loads_every_word_up_to_the_frame(cpu: str, levels: int) -> None:
    system = virtual_system(cpu, levels)
    pages = [system.alloc_pages(1, GFP_VFALLBACK) for _ in range(3)]
    # Each range has two pages and a guard page, the first one starts the area: first words of all upper tables.
    for number, page in enumerate(pages):
        for member in range(2):
            words = loads.scan(system, int(page.frames[member]))
            assert len(words) == levels - 1 + 3 * number + member + 1
            assert (np.diff(words[levels - 1 :].astype(np.int64)) == 8).all()
    # A frame that is not mapped there: all words of the area's entries and of the tables below them.
    top = {4: 64, 5: 50}[levels]
    assert len(loads.scan(system, 1 << 30)) == top + 512 * (levels - 1)


# Counts and prices


def test_each_operation_loads_what_it_should(dataset: xr.Dataset, parameters: Parameters) -> None:
    accesses = dataset["events"].sel(event="data_access")
    done = dataset["performed"]
    assert (accesses.sel(operation="page_address", kind="no fallback") == 0).all()
    for kind, words in (("physical", 1), ("virtual", 2)):
        of_kind = accesses.sel(operation="page_address", kind=kind)
        assert (of_kind == words * done.sel(operation="page_address", kind=kind)).all()
    levels = 4
    for operation in ("virt_to_page", "free"):
        more = accesses.sel(operation=operation, kind="virtual") - accesses.sel(operation=operation, kind="physical")
        assert (more == levels * done.sel(operation=operation, kind="virtual")).all()
    # A steady pass goes over every member once: of 2**order, all but the head load two words.
    for order in parameters.orders:
        steady = {"operation": "virt_to_page", "phase": "steady", "kind": "physical", "order": order}
        assert (accesses.sel(steady) * 2**order == done.sel(steady) * (2 * 2**order - 1)).all()
    assert (accesses.sel(operation="free", kind="physical") == done.sel(operation="free", kind="physical")).all()


def test_performed_operations(dataset: xr.Dataset, parameters: Parameters) -> None:
    for live in parameters.live_pages:
        at = dataset["performed"].sel(live_pages=live)
        assert (at.sel(phase="cold") == live).all()
        assert (at.sel(phase="steady") >= parameters.operations).all()
    assert (dataset["freed"].sel(kind="virtual") == dataset["live_pages"]).all()


def test_a_small_working_set_costs_first_level_hits() -> None:
    system = System(memory="128MiB", cpus=2, seed=1)
    cycles = priced(measure(system, 3, 4, 1, 100), system.cpu, system.linux)["cycles"].sel(phase="steady")
    total = cycles.sum("cause").sel(operation="page_address")
    hit = system.cpu.data_cache[0].latency.value
    assert float(total.sel(kind="no fallback")) == ARITHMETIC
    assert float(total.sel(kind="physical")) == 1 + ARITHMETIC + hit
    assert float(total.sel(kind="virtual")) == 1 + 2 * hit
    found = cycles.sum("cause").sel(operation="virt_to_page")
    assert float(found.sel(kind="physical") - found.sel(kind="no fallback")) == 1
    assert float(found.sel(kind="virtual")) >= float(found.sel(kind="physical")) + 4 * (hit + ARITHMETIC)


def test_a_lazy_machine_pays_the_flush_of_each_free_too() -> None:
    """As study fallback measures this, on its own machine; a guard page more is flushed."""
    of = {}
    for unmap in ("range", "lazy"):
        system = System(memory="128MiB", cpus=2, seed=1, unmap=unmap)
        counted = measure(system, 2, 3, 1, 50)
        work = counted["work"].sel(kind="virtual", event=["flush_call", "interrupt", "tlb_invalidation"])
        of[unmap] = work.values.tolist()
    assert of == {"range": [3, 3, 2 * 3 * 4], "lazy": [3, 3, 2 * 3 * 5]}


def test_freeing_is_priced_by_what_it_counts() -> None:
    system = System(memory="128MiB", cpus=2, seed=1, unmap="range")
    counted = measure(system, 2, 3, 1, 50)
    work = dict(zip(counted["event"].values.tolist(), counted["work"].sel(kind="virtual").values.tolist(), strict=True))
    # Four frames each, and the structures' frames with the last of them.
    assert work["free"] >= 12
    assert (work["area_release"], work["entry_write"], work["flush_call"], work["interrupt"]) == (3, 12, 3, 3)
    assert work["tlb_invalidation"] == 2 * 12
    cost = priced(counted, system.cpu, system.linux)
    free = cost["cycles"].sel(operation="free", kind="virtual", phase="steady")
    costs, gigahertz = system.linux.costs, system.cpu.clock.gigahertz.value
    assert float(free.sel(cause="interrupt")) == pytest.approx(costs.interrupt_ns.value * gigahertz)
    assert float(free.sel(cause="area release")) == pytest.approx(costs.area_release_ns.value * gigahertz)
    flush = costs.flush_call_cycles.value + 2 * 4 * costs.flush_page_cycles.value
    assert float(free.sel(cause="flush")) == pytest.approx(flush)
    lookups = cost["cycles"].sel(operation=["page_address", "virt_to_page"], cause=["interrupt", "flush"])
    assert (lookups == 0).all()
    low, high = (cost[f"cycles_{bound}"].sel(operation="free") for bound in ("low", "high"))
    middle = cost["cycles"].sel(operation="free").sum("cause")
    assert ((low <= middle) & (middle <= high)).all()
    assert (low < high).all()


def test_measuring_changes_nothing() -> None:
    system = System(memory="64MiB", seed=1)
    before = system.buddyinfo().tolist(), system.ledger.counts.tolist(), system.page_tables.count
    measure(system, 1, 2, 1, 10)
    assert (system.buddyinfo().tolist(), system.ledger.counts.tolist(), system.page_tables.count) == before
    with pytest.raises(OutOfMemory, match="no 5 more blocks of order 10"):
        measure(system, 10, 20, 1, 10)


def test_five_levels_load_five_words() -> None:
    system = System(cpu="ice-lake", levels=5, memory="64MiB", seed=1)
    accesses = measure(system, 0, 2, 1, 10)["events"].sel(event="data_access", operation="free")
    difference = accesses.sel(kind="virtual") - accesses.sel(kind="physical")
    performed = measure(system, 0, 2, 1, 10)["performed"].sel(operation="free", kind="virtual")
    assert (difference == 5 * performed).all()


def test_a_machine_without_whole_blocks_frees_counterfactual_ones(dataset: xr.Dataset) -> None:
    freed = dataset["freed"].sel(kind="physical")
    assert ((freed >= 1) & (freed <= dataset["live_pages"])).all()
    assert (dataset["work"].sel(kind="physical", event="free") == freed).all()


# Study


def test_results_can_be_priced_again(dataset: xr.Dataset) -> None:
    linux = presets.linux("6.18")
    xr.testing.assert_allclose(priced(dataset, presets.cpu("zen3"), linux)["cycles"], dataset["cycles"])
    assert not priced(dataset, presets.cpu("k8"), linux)["cycles"].equals(dataset["cycles"])
    assert dataset["cycles"].dims == ("seed", "order", "live_pages", "operation", "kind", "phase", "cause")
    assert (dataset["cycles"].sel(cause=INSTRUCTIONS) > 0).all()


def test_claims_summary_and_figures(dataset: xr.Dataset, tmp_path: Path) -> None:
    claims = awareness.claims(dataset)
    assert len(claims) == 7
    assert {claim.verdict for claim in claims} == {"undecided"}
    for claim in claims:
        assert claim.threshold
        assert claim.left_out
        assert claim.value is not None
    several = dataset.isel(seed=[0, 1, 0, 1, 0, 1])
    verdicts = [claim.verdict for claim in awareness.claims(several)]
    # A load where there was none; a walk; a free of many frames.
    assert (verdicts[0], verdicts[3], verdicts[5]) == ("holds", "holds", "holds")
    assert "nothing is decided" in awareness.summary(dataset)[-1]
    stems = [draw()[0] for draw in studies.figures("awareness", dataset, tmp_path)]
    assert stems == ["cost-against-live-bytes", "lookups-by-cause", "free-by-cause"]
    assert all((tmp_path / f"{stem}.svg").stat().st_size for stem in stems)


def test_same_seed_same_numbers(dataset: xr.Dataset, parameters: Parameters) -> None:
    again = awareness.run_point(parameters, 2, lambda *_: None)
    for name in ("events", "work", "scan_events"):
        np.testing.assert_array_equal(again[name], dataset[name].sel(seed=2))
    assert Cause[str(dataset["event"].values[3]).upper()] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": 1}, "nonsense of study awareness: does not exist; there are cpu"),
        ({"orders": [11]}, "orders.0"),
        ({"live_pages": [4, 1]}, "live_pages must ascend"),
        ({"levels": 5}, "presets that have it: ice-lake"),
        ({"recording": "nope"}, "no recording 'nope'"),
    ],
)
def test_bad_parameters_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        studies.parameters("awareness", settings)
    assert message in str(caught.value)


def test_repricing_at_the_same_prices_changes_nothing(dataset: xr.Dataset) -> None:
    again = studies.find("awareness").reprice(dataset, Prices())
    for name in dataset.data_vars:
        np.testing.assert_array_equal(again[name].values, dataset[name].values, err_msg=str(name))
