"""The study fragmentation: what its numbers are made of, and that its rows follow from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from vclab import presets, run, studies
from vclab.errors import ConfigurationError
from vclab.ledger import price_operations
from vclab.presets.prices import Prices
from vclab.studies import fragmentation
from vclab.studies.demand import all_counts, exists, label
from vclab.studies.fragmentation.claims import FAST, INSISTS, cpu_time, mean_ratio, served
from vclab.studies.fragmentation.measure import COUNTED, SAMPLED, Parameters, latencies, points

SMALL = {
    "memory": "256MiB",
    "unusable": [0.1, 0.97],
    "orders": [3, 6, 8],
    "requests": 60,
    "spare_marks": 2.0,
    "full_marks": 1.3,
    "ways": ["physical", "late-fallback, insist", "early-fallback-6.12", "early-fallback", "vmalloc", "min-order"],
    "rule_sets": ["6.18"],
    "seeds": 2,
    "seed": 2,
}
#: Insisting alone, by three seeds in a row, on machines with room for a dozen blocks of order 9.
INSISTING = {
    "memory": "512MiB",
    "unusable": [0.97],
    "orders": [3, 5, 7, 9],
    "requests": 30,
    "spare_marks": 2.0,
    "pressures": ["full"],
    "ways": ["physical"],
    "seeds": 3,
}
LINUX, CPU = presets.linux("6.18"), presets.cpu("zen3")


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return Parameters.model_validate(SMALL)


@pytest.fixture(scope="module")
def dataset(parameters: Parameters) -> xr.Dataset:
    return run.run_study("fragmentation", parameters, 1, lambda *_: None)


@pytest.fixture(scope="module")
def insisting() -> xr.Dataset:
    return run.run_study("fragmentation", Parameters.model_validate(INSISTING), 1, lambda *_: None)


def test_every_request_has_one_answer(dataset: xr.Dataset, parameters: Parameters) -> None:
    asked = dataset["outcome"].sum("answer")
    frames = (256 << 20) >> 12
    for order in parameters.orders:
        # 5 % of memory, and 60 requests at most.
        assert set(np.unique(asked.sel(order=order))) == {min(60, frames // 20 >> order)}
    assert (served(dataset, ["virtual"]).sel(way="vmalloc") == 1).all()
    assert (served(dataset, ["virtual"]).sel(way=["physical", "min-order"]) == 0).all()
    assert (served(dataset, ["smaller"]).drop_sel(way="min-order") == 0).all()
    assert (served(dataset, ["failed"]).sel(way=["late-fallback, insist", "early-fallback", "vmalloc"]) == 0).all()


def test_machines_are_as_asked(dataset: xr.Dataset) -> None:
    free = dataset["free_share"]
    np.testing.assert_allclose(free.sel(pressure="spare"), 2 / 1.3 * free.sel(pressure="full"), rtol=1e-3)
    assert (dataset["unusable_index"].sel(unusable=0.97) > 0.9).all()
    assert (dataset["unusable_index"].sel(unusable=0.1) < 0.25).all()
    movable = dataset["movable_share"]
    assert (movable.sel(pinned=0.02) < movable.sel(pinned=0.0)).all()


def test_pinned_pages_defeat_compaction_where_blocks_are_large(dataset: xr.Dataset) -> None:
    share = served(dataset, ["physical"]).sel(way="physical", unusable=0.97, pressure="full").mean(["seed", "linux"])
    free, pinned = share.sel(pinned=0.0), share.sel(pinned=0.02)
    assert (pinned <= free).all()
    assert float(pinned.sel(order=8)) < 0.5 * float(free.sel(order=8))
    assert float(pinned.sel(order=3)) == 1


def test_compaction_serves_every_request_where_all_pages_can_be_moved(insisting: xr.Dataset) -> None:
    assert (insisting["unusable_index"] > 0.95).all()
    assert (insisting["outcome"].sel(pinned=0.0, answer="physical").sum("way") == [30, 30, 30, 12]).all()
    assert (served(insisting, ["physical"]).sel(pinned=0.0) == 1).all()
    assert (insisting["own"].sel(pinned=0.0, order=9, event="page_migrated") > 0).all()


def test_pinned_pages_defeat_compaction_the_more_the_larger_the_block(insisting: xr.Dataset) -> None:
    """With two pages in a hundred pinned every second block of order 5 has one, every block of order 9 ten."""
    share = served(insisting, ["physical"]).sel(pinned=0.02)
    assert (share.sel(order=3) == 1).all()
    assert (share.diff("order") <= 0).all()
    assert (share.sel(order=9) < 0.2).all()


def test_times_are_counts_times_prices(dataset: xr.Dataset) -> None:
    place = {
        "seed": 2,
        "linux": "6.18",
        "unusable": 0.97,
        "pressure": "full",
        "pinned": 0.0,
        "way": INSISTS,
        "order": 6,
    }
    at = dataset.sel(place)
    asked = int(at["outcome"].sum())
    for name, counted in (("own_ns", "own"), ("background_ns", "background"), ("free_ns", "frees")):
        expected = price_operations(all_counts(at[counted].values), LINUX, CPU) / asked
        np.testing.assert_allclose(at[name].sel(bound="value"), expected)
    others = price_operations(all_counts(at["programs"].values), LINUX, CPU).sum()
    others -= price_operations(all_counts(at["anyway"].values), LINUX, CPU).sum()
    assert float(at["others_ns"].sel(bound="value").sum()) == pytest.approx(others / asked)
    # Single requests add up to all of them.
    single = latencies(at["samples"].values, LINUX, CPU)
    assert np.isfinite(single).sum() == asked
    assert np.nanmean(single) == pytest.approx(float(at["own_ns"].sel(bound="value").sum()), rel=1e-6)
    assert float(at["latency_ns"].sel(statistic="p99")) == pytest.approx(np.nanquantile(single, 0.99))


def test_what_is_sampled_is_all_that_requests_pay_for(dataset: xr.Dataset) -> None:
    sampled = [cause.name.lower() for cause in SAMPLED]
    rest = dataset["own"].drop_sel(event=sampled).sum([name for name in dataset["own"].dims if name != "event"])
    counts = all_counts(np.array([int(rest.sel(event=e)) if e not in sampled else 0 for e in dataset["event"].values]))
    assert price_operations(counts, LINUX, CPU).sum() == 0


def test_insisting_costs_more_where_memory_is_fragmented_and_nothing_where_it_is_not(dataset: xr.Dataset) -> None:
    cost = cpu_time(dataset.sel(linux="6.18", pinned=0.0, order=[6, 8]))
    ratio = cost.sel(way=INSISTS) / cost.sel(way=FAST)
    assert (ratio.sel(unusable=0.97, pressure="full") > 2).all()
    np.testing.assert_allclose(ratio.sel(unusable=0.1, pressure="spare"), 1, rtol=0.01)


def test_claims_summary_and_figures(dataset: xr.Dataset, tmp_path: Path) -> None:
    rows = fragmentation.claims(dataset)
    assert len(rows) == 8
    assert {row.verdict for row in rows} == {"undecided"}
    several = dataset.isel(seed=[0, 1, 0, 1, 0, 1])
    rows = fragmentation.claims(several)
    assert [row.verdict for row in rows[:2]] == ["holds", "holds"]
    assert all(row.threshold and row.left_out for row in rows)
    assert "nothing is decided" in fragmentation.summary(dataset)[-1]
    assert len(fragmentation.summary(several)) == 2
    stems = [draw()[0] for draw in studies.figures("fragmentation", dataset, tmp_path)]
    assert stems == ["served-by-order", "latency-by-order", "causes", "crossover"]
    assert all((tmp_path / f"{stem}.svg").stat().st_size for stem in stems)


def test_fewer_ways_bring_fewer_rows(dataset: xr.Dataset, tmp_path: Path) -> None:
    only = dataset.sel(way=["vmalloc", "physical"])
    assert [row.sentence.split()[0] for row in fragmentation.claims(only)] == ["May"] * 3
    assert len([draw() for draw in studies.figures("fragmentation", only, tmp_path)]) == 3
    assert fragmentation.claims(dataset.sel(way=["vmalloc"])) == []


def test_a_machine_that_was_not_to_be_had_is_left_out(dataset: xr.Dataset) -> None:
    missing = dataset.copy(deep=True)
    missing["outcome"][{"seed": 0, "unusable": 1}] = 0
    missing = fragmentation.reprice(missing, Prices())
    assert np.isnan(missing["own_ns"].isel(seed=0, unusable=1)).all()
    rows = fragmentation.claims(missing)
    assert rows[0].value is not None
    assert rows[0].low is None
    assert "1 of 2 machines" in rows[0].measure
    assert rows[1].low is not None
    assert "machines were" not in rows[1].measure


def test_a_fragmentation_that_no_machine_reached_is_said_and_drawn_without(dataset: xr.Dataset, tmp_path: Path) -> None:
    missing = dataset.copy(deep=True)
    missing["outcome"][{"unusable": 1}] = 0
    missing = fragmentation.reprice(missing, Prices())
    assert any("aged to 97%" in line for line in fragmentation.summary(missing))
    assert not any("nan" in line for line in fragmentation.summary(missing))
    assert all("97%" not in row.measure for row in fragmentation.claims(missing))
    assert len([draw() for draw in studies.figures("fragmentation", missing, tmp_path)]) == 4


def test_same_seed_same_numbers(dataset: xr.Dataset, parameters: Parameters) -> None:
    point = points(parameters)[1]
    again = fragmentation.run_point(parameters, point, lambda *_: None)
    at = dataset.sel(seed=point.seed, linux=point.linux, unusable=point.unusable)
    for name in (*COUNTED, "outcome", "samples"):
        np.testing.assert_array_equal(again[name], at[name])


def test_repricing(dataset: xr.Dataset) -> None:
    again = studies.find("fragmentation").reprice(dataset, Prices())
    for name in dataset.data_vars:
        np.testing.assert_array_equal(again[name].values, dataset[name].values, err_msg=str(name))
    dearer = studies.find("fragmentation").reprice(
        dataset, Prices({"linux.costs.migrate_page_ns": 6600.0, "linux.devices.refault_ns": 160000.0})
    )
    assert float(dearer["own_ns"].sum()) > float(dataset["own_ns"].sum())
    waits = [one["device_ns"].sel(bound="value", device_cause="refault") for one in (dearer, dataset)]
    np.testing.assert_allclose(waits[0], 2 * waits[1])


def test_other_rules_have_rows_and_figures_of_their_own(tmp_path: Path) -> None:
    fewer = {"orders": [3, 7], "requests": 8, "seeds": 1, "unusable": [0.9], "pressures": ["full"]}
    ways = ["physical", "late-fallback", "vmalloc", "huge-vmalloc"]
    settings = {**SMALL, **fewer, "ways": ways, "rule_sets": ["6.18", "2.6.24"]}
    parameters = Parameters.model_validate(settings)
    dataset = run.run_study("fragmentation", parameters, 1, lambda *_: None)
    assert dataset["linux"].values.tolist() == ["6.18", "2.6.24"]
    assert (dataset["own"].sel(linux="2.6.24", event=["page_migrated", "compact_stall"]) == 0).all()
    rows = fragmentation.claims(dataset)
    assert "2.6.24" in rows[-1].sentence
    assert rows[-1].value is not None
    stems = [draw()[0] for draw in studies.figures("fragmentation", dataset, tmp_path)]
    assert stems[-2:] == ["served-by-order-2.6.24", "latency-by-order-2.6.24"]
    # Entries of 2 MiB came to vmalloc long after.
    asked = dataset["outcome"].sel(way="huge-vmalloc").sum("answer")
    assert (asked.sel(linux="6.18") > 0).all()
    assert (asked.sel(linux="2.6.24") == 0).all()


def test_only_where_kvmalloc_exists_late_fallback_is_a_counterfactual() -> None:
    old = presets.linux("2.6.24")
    assert label(INSISTS, LINUX) == f"{INSISTS} (counterfactual)"
    assert label(INSISTS, old) == INSISTS
    assert label(FAST, LINUX) == FAST
    assert exists("huge-vmalloc", LINUX)
    assert not exists("huge-vmalloc", old)


def test_ratios_are_averaged_by_their_logarithms() -> None:
    ratios = xr.DataArray([[0.5, 2.0], [4.0, np.nan], [np.nan, np.nan]], dims=("order", "seed"))
    np.testing.assert_allclose(mean_ratio(ratios, "seed"), [1.0, 4.0, np.nan])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": 1}, "nonsense of study fragmentation: does not exist; there are cpu"),
        ({"orders": [11]}, "orders.0"),
        ({"unusable": [0.9, 0.1]}, "unusable must ascend"),
        ({"ways": ["begging"]}, "no way 'begging' to ask; there are physical"),
        ({"pressures": ["full", "full"]}, "pressures must name each once"),
        ({"rule_sets": ["3.0"]}, "3.0"),
    ],
)
def test_bad_parameters_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        studies.parameters("fragmentation", settings)
    assert message in str(caught.value)
