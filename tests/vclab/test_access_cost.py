"""The study access-cost: a grid of paired cells, huge vmalloc, claims, figures; and the split direct map below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from vckernels.causes import Cause
from vckernels.pagetable import walk_many
from vclab import presets, results, studies
from vclab.errors import ConfigurationError
from vclab.mmu import tlb_entries
from vclab.presets.prices import Prices
from vclab.report import rewrite, save_and_write
from vclab.studies import access_cost
from vclab.studies.access_cost.claims import (
    NEGLIGIBLE,
    colouring,
    fewer_times,
    huge_table,
    judged_work,
    measured_hashes,
    misses,
    overlapped,
    reached_share,
    rows_where,
    serial,
    sweep,
    time_saved,
)
from vclab.studies.access_cost.grid import Machine, Parameters, grid, machines, rows
from vclab.studies.access_cost.huge import relative_to_lookups, work_shares
from vclab.studies.access_cost.measure import first_level_counts
from vclab.studies.cells import is_colouring
from vclab.system import System

SMALL = {
    "memory": "512MiB",
    "cpus": ["zen3", "k8"],
    "orders": [2, 9, 11],
    "live_pages": [1, 4],
    "most_bytes": "16MiB",
    "sweep_live_pages": [1, 64],
    "patterns": ["chase", "uniform", "sequential"],
    "splits": [0.0, 1.0],
    "accesses": 2500,
    "hash_orders": [9, 10, 14],
    "lookups": 4000,
    "hash_requests": 4,
    "own_shares": [0.3],
    "time_shares": [0.5, 0.9],
    "other_pages": 64,
    "unusable": 0.8,
    "seeds": 2,
}


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return Parameters.model_validate(SMALL)


@pytest.fixture(scope="module")
def dataset(parameters: Parameters) -> xr.Dataset:
    steps: list[float] = []
    parts = [
        access_cost.run_point(parameters, point, lambda share, _: steps.append(share))
        for point in access_cost.points(parameters)
    ]
    assert steps[0] == 0
    assert steps[-1] == 1
    assert all(share < 1 for share in steps[: len(steps) // 2 - 1])
    return access_cost.combine(parameters, parts)


# The split direct map


def leaf_levels(system: System) -> np.ndarray:
    """Return the leaf level of every frame of the direct map."""
    frames = np.arange(system.memory.frames, dtype=np.int64)
    addresses = np.uint64(system.direct_map.start) + (frames.astype(np.uint64) << np.uint64(12))
    found, faults = np.empty(len(frames), np.int64), np.empty(len(frames), np.int8)
    levels = np.empty(len(frames), np.int8)
    walk_many(system.page_tables.state, addresses, False, False, False, False, found, levels, faults)
    assert not faults.any()
    np.testing.assert_array_equal(found, frames)
    return levels


@pytest.mark.parametrize(("split", "broken"), [(0.0, 0), (0.05, 3), (0.25, 16), (0.5, 32), (1.0, 64)])
def test_split_share_is_exact(split: float, broken: int) -> None:
    system = System(memory="128MiB", direct_map_split=split, seed=3)
    levels = leaf_levels(system).reshape(64, 512)
    assert (levels == levels[:, :1]).all()
    assert int((levels[:, 0] == 1).sum()) == broken == system.direct_map.split_pages


def test_split_is_chosen_by_the_seed_and_kept_by_copies() -> None:
    chosen = [leaf_levels(System(memory="128MiB", direct_map_split=0.25, seed=seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()
    system = System(memory="128MiB", direct_map_split=0.25, seed=1)
    np.testing.assert_array_equal(leaf_levels(system.copy()), chosen[0])


def test_broken_gigabyte_pages_become_2m_pages() -> None:
    assert set(leaf_levels(System(memory="2GiB", direct_map="1G", direct_map_split=0.5)).tolist()) == {2, 3}


@pytest.mark.parametrize(
    ("direct_map", "split"), [("2M", -0.1), ("2M", 1.5), ("2M", float("nan")), ("4K", 0.5), ("1G", 2)]
)
def test_shares_that_do_not_exist_are_refused(direct_map: str, split: float) -> None:
    with pytest.raises(ConfigurationError, match="direct map"):
        System(memory="16MiB", direct_map=direct_map, direct_map_split=split)


# The grid


def test_points_that_a_cpu_lacks_are_left_out_and_named(parameters: Parameters, dataset: xr.Dataset) -> None:
    found, missing = machines(parameters)
    assert Machine("zen3", "1G") in found
    assert Machine("k8", "1G") not in found
    assert missing == ["cpu k8 has no 1G pages"]
    assert dataset.attrs["missing_points"] == "cpu k8 has no 1G pages"
    assert "cpu k8 has no 1G pages" in dataset.attrs["left_out"]
    assert any("cpu k8 has no 1G pages" in line for line in access_cost.summary(dataset))


def test_grid_departs_from_the_baseline_in_one_factor_at_a_time(parameters: Parameters) -> None:
    table = grid(parameters)
    assert len(table) == len(set(table))
    base = Machine("zen3", "2M")
    found, _ = machines(parameters)
    assert found[0] == base
    for row in table:
        other = row.machine
        changed = [other.split != 0, other.background, row.control != "full", not row.prefetch]
        assert sum([*changed, (other.cpu, other.direct_map) != ("zen3", "2M")]) <= 1
        if other != base:
            assert row.order == parameters.sweep_order
            assert row.pattern in parameters.sweep_patterns
    assert max((4096 << row.order) * row.live_pages for row in table) <= 16 << 20
    assert sum(len(rows(parameters, machine)) for machine in found) == len(table)


def test_defaults_cover_every_axis() -> None:
    table = grid(Parameters())
    assert {row.machine.cpu for row in table} == {"zen3", "skylake-sp", "ice-lake", "k8", "core2"}
    assert {row.machine.split for row in table} == {0.0, 0.05, 0.25, 1.0}
    assert {row.machine.direct_map for row in table} == {"2M", "1G", "4K"}
    assert len({row.pattern for row in table}) == 6
    assert max(row.order for row in table) == 14
    assert machines(Parameters())[1] == ["cpu k8 has no 1G pages", "cpu core2 has no 1G pages"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cpus": ["zen3", "zen9"]}, "cpu preset 'zen9' does not exist"),
        ({"cpu": "k8", "direct_map": "1G"}, "cpu k8 has no 1G pages"),
        ({"splits": [0.5, 0.1]}, "splits must ascend"),
        ({"splits": [1.5]}, "splits.0"),
        ({"patterns": ["chase"]}, "sweep_patterns must be among patterns"),
        ({"orders": [15]}, "orders.0"),
        ({"hash_orders": [8]}, "hash_orders.0"),
        ({"time_shares": [1.0]}, "time_shares.0"),
        ({"recording": "nope"}, "no recording 'nope'"),
        ({"most_bytes": "many"}, "most_bytes"),
    ],
)
def test_bad_parameters_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        studies.parameters("access-cost", settings)
    assert message in str(caught.value)


# The cells


def test_every_access_is_accounted_for(dataset: xr.Dataset) -> None:
    events = dataset["events"]
    loads = events.sel(event=["data_access", "page_array_access"]).sum("event")
    answers = events.sel(event=["first_level_tlb_hit", "second_level_tlb_hit", "walk"]).sum("event")
    xr.testing.assert_equal(loads, answers)
    accesses = events.sel(event="data_access")
    assert (accesses == accesses.isel(cell=0)).all()


def test_frames_and_offsets_are_those_that_are_compared(dataset: xr.Dataset) -> None:
    chase = sweep(dataset, "chase")
    neutral = sweep(dataset, "chase", control="colour-neutral")
    k8 = sweep(dataset, "chase", cpu="k8")
    for name in ("offsets_digest", "frames_digest"):
        np.testing.assert_array_equal(chase[name].values, neutral[name].values)
    np.testing.assert_array_equal(chase["offsets_digest"].values, k8["offsets_digest"].values)
    placements = dataset["frames_digest"]
    assert (placements.isel(placement=0).values != placements.isel(placement=1).values).all()
    # Each seed ages anew; contiguous blocks, which may be whatever is left, can be the same ones.
    assert (placements.isel(seed=0, placement=1).values != placements.isel(seed=1, placement=1).values).all()


def test_above_order_10_contiguous_frames_are_counterfactual(dataset: xr.Dataset) -> None:
    huge = dataset.isel(row=np.flatnonzero(dataset["order"].values == 11))
    assert huge.sizes["row"] > 0
    assert (huge["counterfactual"] == huge["live_pages"]).all()
    assert (dataset["counterfactual"] <= dataset["live_pages"]).all()


def test_a_whole_4k_map_and_a_wholly_broken_one_cost_the_same_translations(dataset: xr.Dataset) -> None:
    """A 2M map broken everywhere is a 4K map, but for which frames its tables take."""
    broken = sweep(dataset, "chase", split=1.0)["events"].sel(cell="i", phase="steady")
    small = sweep(dataset, "chase", direct_map="4K")["events"].sel(cell="i", phase="steady")
    whole = sweep(dataset, "chase")["events"].sel(cell="i", phase="steady")
    hits = ["first_level_tlb_hit", "second_level_tlb_hit", "walk"]
    slow = ["second_level_tlb_hit", "walk"]
    np.testing.assert_array_equal(broken.sel(event=hits).isel(row=0), small.sel(event=hits).isel(row=0))
    assert (broken.sel(event=slow).sum(["event", "row"]) > whole.sel(event=slow).sum(["event", "row"])).all()


def test_repriced_equals_priced(dataset: xr.Dataset) -> None:
    again = access_cost.priced(dataset.drop_vars(["cycles", "overlapped_cycles", "nanoseconds", "huge_cycles"]))
    for name in ("cycles", "overlapped_cycles", "nanoseconds", "huge_cycles", "first_level_cycles"):
        np.testing.assert_array_equal(again[name].values, dataset[name].values)
    zen3 = presets.cpu("zen3")
    faster = zen3.model_copy(update={"clock": presets.cpu("core2").clock})
    other = access_cost.priced(dataset, {"zen3": faster})
    np.testing.assert_array_equal(other["cycles"].values, dataset["cycles"].values)
    ratio = (other["nanoseconds"] / dataset["nanoseconds"]).where(dataset["nanoseconds"] > 0)
    own = ratio.isel(row=np.flatnonzero(dataset["cpu"].values == "zen3"))
    np.testing.assert_allclose(own.max(), zen3.clock.gigahertz.value / faster.clock.gigahertz.value)
    assert float(ratio.isel(row=np.flatnonzero(dataset["cpu"].values == "k8")).max()) == 1.0


def test_costs_are_what_the_ledger_says(dataset: xr.Dataset) -> None:
    """A cold chase of one page of order 2 pays four walks behind 4K entries, and one or two behind the direct map."""
    cold = rows_where(dataset, pattern="chase", order=2, live_pages=1)["events"].sel(phase="cold", event="walk")
    assert (cold.sel(cell=["ii", "iii"]) == 4).all()
    assert (cold.sel(cell="i") == 1).all()
    assert (overlapped(dataset, "iii") <= serial(dataset, "iii") + 1e-9).all()
    assert (dataset["first_level_cycles"] <= dataset["cycles"].sum("cause") + 1e-9).all()


def test_first_level_price_moves_data_and_nothing_else() -> None:
    counts = np.arange(len(Cause), dtype=np.int64)
    moved = first_level_counts(counts)
    data = range(Cause.DATA_LEVEL_1, Cause.DATA_MEMORY + 1)
    assert moved[Cause.DATA_LEVEL_1] == sum(counts[cause] for cause in data)
    for cause in Cause:
        if cause not in data and cause != Cause.FILL_CONFLICT:
            assert moved[cause] == counts[cause]
    assert moved[Cause.DATA_MEMORY] == moved[Cause.FILL_CONFLICT] == 0
    np.testing.assert_array_equal(counts, np.arange(len(Cause)))


def test_work_beside_takes_translations_away(dataset: xr.Dataset) -> None:
    slow = ["second_level_tlb_hit", "walk"]
    alone = sweep(dataset, "uniform")["events"].sel(cell="iii", phase="steady", event=slow).sum("event")
    beside = sweep(dataset, "uniform", background="half")["events"].sel(cell="iii", phase="steady", event=slow)
    assert (beside.sum("event").values > alone.values).all()
    assert tlb_entries(presets.cpu("zen3"), "4K")[-1] == 2048


# Huge vmalloc


def test_2m_entries_never_miss_more(dataset: xr.Dataset) -> None:
    walks = misses(dataset)
    assert (walks.sel(entries="2M", drop=True) <= walks.sel(entries="4K", drop=True)).all()
    assert measured_hashes(dataset)
    measured = dataset["huge_measured"] > 0
    assert (fewer_times(dataset).where(measured, 2) > 1).all()
    lookups = dataset["huge_events"].sel(who="lookups", event="data_access")
    for entries in ("4K", "2M"):
        assert (lookups.sel(entries=entries).where(measured, 4000) == 4000).all()


def test_other_work_is_the_same_behind_both_and_takes_its_share(dataset: xr.Dataset) -> None:
    other = dataset["huge_events"].sel(who="other work", event="data_access")
    np.testing.assert_array_equal(other.sel(entries="4K").values, other.sel(entries="2M").values)
    reached = reached_share(dataset)
    for name, reading, share in work_shares(Parameters.model_validate(SMALL)):
        goal = relative_to_lookups(reading, share)
        at = reached.sel(work=name).values
        np.testing.assert_allclose(at[~np.isnan(at)], goal / (1 + goal), atol=0.01)
    assert judged_work(dataset) == "90% of all"


def test_time_saved_shrinks_with_other_work(dataset: xr.Dataset) -> None:
    order = measured_hashes(dataset)[-1]
    for bound in ("serial", "overlapped"):
        saved = time_saved(dataset, bound).sel(hash_order=order).mean("seed")
        assert float(saved.sel(work="none")) >= float(saved.sel(work="90% of all"))
    table = huge_table(dataset)
    assert len(table) == 4 * len(measured_hashes(dataset))
    assert all(row["misses with 2M"] <= row["misses with 4K"] for row in table)


def test_a_hash_without_2m_blocks_is_reported_and_not_measured(dataset: xr.Dataset) -> None:
    """512 MiB with 30 % free and four fifths of that unusable hold no 32 blocks of 2 MiB."""
    assert (dataset["huge_share"].sel(hash_order=14) == 0).all()
    assert (dataset["huge_measured"].sel(hash_order=14) == 0).all()
    assert np.isnan(fewer_times(dataset).sel(hash_order=14)).all()
    assert 14 not in measured_hashes(dataset)
    share = dataset["huge_share"]
    assert ((share > 0) == (dataset["huge_measured"] > 0)).all()


# Claims, figures, the whole


def test_claims_are_judged_by_their_threshold(dataset: xr.Dataset, parameters: Parameters) -> None:
    found = access_cost.claims(dataset)
    assert len(found) == 3 * len(parameters.patterns) + 1
    for claim in found:
        assert claim.threshold
        assert claim.left_out
        # Two seeds are too few for a verdict.
        assert claim.verdict == "undecided"
        assert claim.low is not None
        assert claim.high is not None
        assert claim.value is not None
        assert claim.low - 1e-9 <= claim.value <= claim.high + 1e-9
    assert "times" in found[-1].measure
    assert "serial" in found[-1].measure
    several = dataset.isel(seed=[0, 1, 0, 1, 0, 1])
    verdicts = {claim.sentence.partition(" Over")[0]: claim.verdict for claim in access_cost.claims(several)}
    assert verdicts["Mapping size: 4K entries cost more than the 2M direct map (chase)."] == "holds"
    assert "nothing is decided" in access_cost.summary(dataset)[-1]


def test_colouring_is_named_where_the_gap_shrinks_by_more_than_half(dataset: xr.Dataset) -> None:
    assert is_colouring(10.0, 4.9, NEGLIGIBLE)
    assert not is_colouring(10.0, 5.1, NEGLIGIBLE)
    assert not is_colouring(1.9, 0.0, NEGLIGIBLE)
    assert is_colouring(-10.0, 1.0, NEGLIGIBLE)
    full, neutral = colouring(dataset, "chase")
    claim = next(claim for claim in access_cost.claims(dataset) if claim.sentence.startswith("Placement"))
    widest = int(abs(full).argmax())
    assert ("reported as colouring" in claim.measure) == is_colouring(full[widest], neutral[widest], NEGLIGIBLE)


def test_claim_without_2m_blocks_is_not_measured(dataset: xr.Dataset) -> None:
    without = dataset.copy(deep=True)
    without["huge_measured"][:] = 0
    claim = access_cost.claims(without)[-1]
    assert claim.value is None
    assert claim.verdict == "not measured yet"
    assert any("nothing to compare" in line for line in access_cost.summary(without))


def test_results_survive_a_file_and_make_a_report(dataset: xr.Dataset, tmp_path: Path) -> None:
    results.save(dataset, tmp_path)
    loaded, found = rewrite(tmp_path)
    assert len(found) == len(access_cost.claims(dataset))
    np.testing.assert_array_equal(loaded["events"].values, dataset["events"].values)
    page = (tmp_path / "report.html").read_text()
    for stem in ("cost-by-pattern", "cost-by-cpu", "cost-by-direct-map", "gap-by-control", "huge-vmalloc"):
        assert (tmp_path / f"{stem}.png").stat().st_size > 1000
        assert stem in page


def test_results_are_kept_whatever_happens_to_the_report(dataset: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        save_and_write(dataset.drop_vars("overlapped_cycles"), tmp_path)
    kept = results.load(tmp_path)
    np.testing.assert_array_equal(kept["events"].values, dataset["events"].values)
    assert not (tmp_path / "report.html").exists()


def test_same_seed_same_numbers(dataset: xr.Dataset, parameters: Parameters) -> None:
    again = access_cost.run_point(parameters, 2, lambda *_: None)
    np.testing.assert_array_equal(again["events"], dataset["events"].sel(seed=2))
    np.testing.assert_array_equal(again["huge_events"], dataset["huge_events"].sel(seed=2))


def test_repricing_at_the_same_prices_changes_nothing(dataset: xr.Dataset) -> None:
    again = studies.find("access-cost").reprice(dataset, Prices())
    for name in dataset.data_vars:
        np.testing.assert_array_equal(again[name].values, dataset[name].values, err_msg=str(name))
