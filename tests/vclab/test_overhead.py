"""The study overhead: memory of both eras, rounding, times, and flushes as differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.vclab.machines import check_memory
from vckernels.causes import Cause
from vclab import GFP_VFALLBACK, System, presets, run, studies
from vclab.errors import ConfigurationError
from vclab.ledger import price_operations
from vclab.presets.prices import Prices
from vclab.studies import flush as flushes
from vclab.studies import overhead
from vclab.studies.overhead.claims import memory_shares, taken_per_byte
from vclab.studies.overhead.measure import POLICIES, Parameters, _boot, priced, rounded_pages
from vclab.vmalloc_area import lazy_max_pages

SMALL = {
    "memory": "128MiB",
    "orders": [0, 1, 3, 6, 9, 10, 11],
    "requests": 6,
    "seeds": 2,
    "fragment_order": 7,
    "unusable": 0.9,
    "working_share": 0.25,
}


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return Parameters.model_validate(SMALL)


@pytest.fixture(scope="module")
def dataset(parameters: Parameters) -> xr.Dataset:
    return run.run_study("overhead", parameters, 1, lambda *_: None)


def descriptors(era: str) -> int:
    return {"2.6.24": 64, "6.18": 168}[era]


# Eras


def test_eras_differ_in_sizes_and_in_the_page_array() -> None:
    today = presets.linux("6.18")
    then = today.with_structures("2.6.24")
    assert today.with_structures("6.18") is today
    assert (then.vm_struct_allocated_bytes.value, then.vmap_area_bytes.value) == (64, 0)
    assert then.page_array_kmalloc.value
    assert not today.page_array_kmalloc.value
    assert then.costs == today.costs
    with pytest.raises(ConfigurationError, match=r"no structures of '2\.4'; it has 6\.18, 2\.6\.24"):
        today.with_structures("2.4")


def test_a_system_takes_a_preset_as_it_is() -> None:
    linux = presets.linux("6.18")
    sizes = linux.vm_struct_allocated_bytes.model_copy(update={"value": 128})
    system = System(
        linux=linux.model_copy(update={"vm_struct_allocated_bytes": sizes}), memory="64MiB", policy="vmalloc"
    )
    assert system.alloc_pages(2, GFP_VFALLBACK).overhead_bytes == 128 + 72 + 16 * 4


def test_nothing_is_taken_for_a_structure_that_an_era_lacks(parameters: Parameters) -> None:
    system = _boot(parameters, "2.6.24", 1)
    free = system.memory.zone.free_frames
    twin = system.copy(policy="vmalloc")
    page = twin.alloc_pages(1, GFP_VFALLBACK)
    check_memory(twin)
    # A frame for 16-byte arrays, one for 64-byte descriptors, and the tables.
    assert page.marginal_frames == 2 + twin.vmalloc_area.retained_tables
    again = twin.copy()
    for machine in (twin, again):
        machine.free_pages(machine.compound.pages[page.address])
        check_memory(machine)
        assert free - machine.memory.zone.free_frames == machine.vmalloc_area.retained_tables


# Memory


@pytest.mark.parametrize("era", ["2.6.24", "6.18"])
def test_attributed_bytes_follow_the_formula(dataset: xr.Dataset, era: str) -> None:
    at = dataset.sel(era=era, policy="vmalloc")
    for order in dataset["order"].values.tolist():
        each = descriptors(era) + 16 * 2**order
        if era == "6.18" and order > 9:
            # The array has a range of its own: its descriptors, an entry and a word of an inner array for each page.
            each += descriptors(era) + 16 * (2**order * 8 // 4096)
        assert (at["attributed_bytes"].sel(order=order) == each * at["served"].sel(order=order)).all()


def test_shares_of_today_are_those_known(dataset: xr.Dataset) -> None:
    shares = 100 * memory_shares(dataset)["attributed"].sel(era="6.18", policy="vmalloc", state="fresh").mean("seed")
    known = {0: 4.5, 1: 2.4, 3: 0.90, 6: 0.45, 9: 0.40}
    for order, share in known.items():
        assert float(shares.sel(order=order)) == pytest.approx(share, abs=0.05)


def test_physical_pages_take_nothing(dataset: xr.Dataset) -> None:
    at = dataset.sel(policy="physical")
    for name in ("attributed_bytes", "marginal_frames", "retained_frames", "first_marginal_frames"):
        assert (at[name] == 0).all()
    assert (at["served"].sel(order=11) == 0).all()
    assert (at["served"].sel(order=10, state="fresh") > 0).all()
    # On an aged machine something had to be refused.
    assert (at["served"] < at["requested"]).sel(state="aged", order=10).all()


def test_what_is_retained_are_tables(dataset: xr.Dataset) -> None:
    # Under huge-vmalloc some are taken and given back, where a request fell back to 4K after all.
    tables = dataset["work"].sel(event="table_page", policy=["physical", "vmalloc"]).sum("step").drop_vars("event")
    xr.testing.assert_equal(dataset["retained_frames"].sel(policy=["physical", "vmalloc"]), tables)
    assert (dataset["marginal_frames"] >= dataset["retained_frames"]).all()


def test_the_first_page_pays_for_tables_and_slabs(dataset: xr.Dataset) -> None:
    at = dataset.sel(policy="vmalloc", order=3)
    # Three new tables, and a slab for each size of structure: array, vm_struct, and today vmap_area.
    assert (at["first_marginal_frames"].sel(era="6.18") == 6).all()
    # The array of 64 bytes and the descriptor of 64 bytes share a slab.
    assert (at["first_marginal_frames"].sel(era="2.6.24") == 4).all()


def test_huge_mappings_exist_today_only(dataset: xr.Dataset) -> None:
    huge = dataset.sel(policy="huge-vmalloc")
    assert (huge["requested"].sel(era="2.6.24") == 0).all()
    assert (huge["in_large_entries"].sel(order=[0, 1, 3, 6]) == 0).all()
    fresh = huge.sel(era="6.18", state="fresh", order=9)
    assert (fresh["in_large_entries"] == fresh["served"]).all()
    assert (fresh["served"] > 0).all()
    # One entry instead of 512.
    assert (fresh["attributed_bytes"] == fresh["served"] * (168 + 8 * 512 + 8)).all()


def test_every_frame_is_prepared_and_cleared_once(dataset: xr.Dataset) -> None:
    frames = dataset["served"] * 2 ** dataset["order"]
    for event in ("struct_page", "page_cleared"):
        counted = dataset["work"].sel(event=event)
        assert (counted.sel(step="allocate") == frames).all()
        assert (counted.sel(step="free") == 0).all()


# Rounding


def test_rounding_of_requests() -> None:
    assert rounded_pages([1, 2, 3, 5, 10, 16, 640], "compound page").tolist() == [1, 2, 4, 8, 16, 16, 1024]
    assert rounded_pages([1, 5, 640], "vmalloc").tolist() == [1, 5, 640]
    assert rounded_pages([1, 511, 512, 513, 640], "huge-vmalloc").tolist() == [1, 511, 512, 1024, 1024]


def test_a_quarter_more_takes_sixty_percent_more(dataset: xr.Dataset) -> None:
    taken = taken_per_byte(dataset).sel(order=3, fraction=1.25)
    assert float(taken.sel(rounding="compound page")) == pytest.approx(1.6)
    assert float(taken.sel(rounding="vmalloc")) == pytest.approx(1 + (168 + 16 * 8) / (8 * 4096))
    assert (taken_per_byte(dataset).sel(fraction=1.0, rounding="compound page") == 1).all()


# Time


def test_times_are_counts_times_prices(dataset: xr.Dataset) -> None:
    linux, cpu = presets.linux("6.18"), presets.cpu("zen3")
    at = {"seed": 1, "era": "6.18", "state": "aged", "policy": "vmalloc", "order": 3}
    for step in ("allocate", "free"):
        counts = dataset["work"].sel({**at, "step": step})
        for bound in ("value", "low", "high"):
            priced_now = dataset["nanoseconds"].sel({**at, "step": step, "bound": bound})
            np.testing.assert_allclose(priced_now, price_operations(counts.values, linux, cpu, bound))
    total = dataset["nanoseconds"].sum("operation_cause")
    assert (total.sel(bound="low") <= total.sel(bound="value")).all()
    assert (total.sel(bound="value") <= total.sel(bound="high")).all()
    zeroing = dataset["nanoseconds"].sel(operation_cause="zeroing", bound="value", step="allocate")
    frames = dataset["served"] * 2 ** dataset["order"]
    np.testing.assert_allclose(zeroing, frames * linux.costs.zero_page_ns.value)


# Flushes


def test_pages_that_wait_for_a_purge() -> None:
    assert [lazy_max_pages(cpus) for cpus in (1, 2, 8, 64, 256)] == [8192, 16384, 32768, 57344, 73728]
    system = System(memory="64MiB", policy="huge-vmalloc")
    assert flushes.lazy_pages(system.alloc_pages(3, GFP_VFALLBACK), 1) == 8 + 1
    assert flushes.lazy_pages(system.alloc_pages(9, GFP_VFALLBACK), 1) == 512 + 1
    # The page array of 2048 words lies in four pages behind a range of its own.
    assert flushes.lazy_pages(system.alloc_pages(11, GFP_VFALLBACK), 1) == 2048 + 1 + 4 + 1


def test_flush_shares_by_hand(dataset: xr.Dataset) -> None:
    linux, cpu = presets.linux("6.18"), presets.cpu("zen3")
    costs = linux.costs
    call, page, full = (
        costs.flush_call_cycles.value,
        costs.flush_page_cycles.value,
        costs.flush_full_cycles.value,
    )
    interrupt = costs.interrupt_ns.value * cpu.clock.gigahertz.value
    cycles = dataset["flush_cycles"].isel(seed=0)
    ranged = cycles.sel(regime="range at each free", order=3)
    assert float(ranged.sel(share="local")) == pytest.approx(call + 8 * page)
    assert float(ranged.sel(share="ipi")) == pytest.approx(interrupt + 8 * page)
    for order in (0, 3, 9):
        everything = cycles.sel(regime="everything at each free", order=order)
        assert float(everything.sel(share="local")) == pytest.approx(full)
        assert float(everything.sel(share="ipi")) == pytest.approx(interrupt + full)
        lazy = cycles.sel(regime="lazy purge", order=order)
        np.testing.assert_allclose(lazy, everything * (2**order + 1) / 16384)
    # A range above the ceiling of 33 pages is a flush of everything.
    long = cycles.sel(order=6)
    np.testing.assert_allclose(long.sel(regime="range at each free"), long.sel(regime="everything at each free"))


def test_refill_is_what_the_same_accesses_cost_more(dataset: xr.Dataset) -> None:
    access = dataset["flush_access"]
    accesses = access.sel(event="data_access")
    assert (accesses == accesses.isel(flush=0, order=0)).all()
    walks = access.sel(event="walk")
    # The working set of 512 pages fits the second level: nothing is walked for unless everything was flushed.
    assert (walks.sel(flush="none") == 0).all()
    assert (walks.sel(flush="everything") == 512).all()
    refill = dataset["flush_cycles"].sel(regime="everything at each free", share=["refill-self", "refill-others"])
    assert (refill > 0).all()
    short = dataset["flush_cycles"].sel(regime="range at each free", share="refill-self", order=[0, 1, 3])
    assert (abs(short) < 0.05 * refill.sel(share="refill-self").sel(order=[0, 1, 3])).all()


def test_a_broadcast_interrupts_nobody(dataset: xr.Dataset) -> None:
    again = priced(dataset, presets.cpu("zen3"), presets.linux("6.18"), "invlpgb")["flush_cycles"]
    assert (again.sel(share="ipi") == 0).all()
    for share in ("local", "refill-self", "refill-others"):
        xr.testing.assert_allclose(again.sel(share=share), dataset["flush_cycles"].sel(share=share))


def test_orders_without_memory_cost_nothing() -> None:
    system = System(memory="16MiB", cpus=2, seed=1, unmap="range")
    counted = flushes.measure_flush(system, [1, 13], 0.01, 1)
    assert counted["waiting_pages"].values.tolist() == [3, 0]
    assert (counted["flush_work"].isel(order=1) == 0).all()
    assert (counted["flush_work"].isel(order=0, cpu=0, flush=1, event=Cause.FLUSH_CALL) == 1).all()


# Study


def test_claims_summary_and_figures(dataset: xr.Dataset, tmp_path: Path) -> None:
    claims = overhead.claims(dataset)
    assert len(claims) == 8
    exact = [claim for claim in claims if claim.low is None]
    assert [claim.verdict for claim in exact] == ["holds", "holds", "does not hold"]
    assert {claim.verdict for claim in claims if claim.low is not None} == {"undecided"}
    assert all(claim.threshold and claim.left_out for claim in claims)
    several = dataset.isel(seed=[0, 1, 0, 1, 0, 1])
    verdicts = [claim.verdict for claim in overhead.claims(several)]
    # Frames, time and the flush of 2.6.24 count; spread over a lazy purge the flush does not.
    assert verdicts[2:] == ["holds", "holds", "does not hold", "holds", "holds", "does not hold"]
    assert "nothing is decided" in overhead.summary(dataset)[-1]
    stems = [draw()[0] for draw in studies.figures("overhead", dataset, tmp_path)]
    assert stems == ["memory-by-order", "rounding", "time-to-allocate", "time-to-free", "flushes"]
    assert all((tmp_path / f"{stem}.svg").stat().st_size for stem in stems)


def test_same_seed_same_numbers(dataset: xr.Dataset, parameters: Parameters) -> None:
    again = overhead.run_point(parameters, 2, lambda *_: None)
    for name in ("work", "marginal_frames", "flush_access"):
        np.testing.assert_array_equal(again[name], dataset[name].sel(seed=2))
    assert dataset["policy"].values.tolist() == list(POLICIES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": 1}, "nonsense of study overhead: does not exist; there are cpu"),
        ({"orders": [15]}, "orders.0"),
        ({"cpus": 1}, "cpus of study overhead"),
        ({"eras": ["2.4"]}, "no structures of '2.4'; it has 6.18, 2.6.24"),
        ({"eras": ["6.18", "6.18"]}, "eras must differ"),
        ({"flush": "none"}, "flush of study overhead"),
    ],
)
def test_bad_parameters_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        studies.parameters("overhead", settings)
    assert message in str(caught.value)


def test_repricing_at_the_same_prices_changes_nothing(dataset: xr.Dataset) -> None:
    again = studies.find("overhead").reprice(dataset, Prices())
    for name in dataset.data_vars:
        np.testing.assert_array_equal(again[name].values, dataset[name].values, err_msg=str(name))
