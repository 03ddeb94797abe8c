"""The study break-even: the arithmetic by hand and by its properties, what is counted, and that claims follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from vckernels.causes import Cause
from vclab import presets, run, studies
from vclab.errors import ConfigurationError
from vclab.ledger import price_operations
from vclab.presets.prices import Prices
from vclab.results import interval
from vclab.studies import break_even as study
from vclab.studies.break_even.balance import Outcome, break_even, lifetime
from vclab.studies.break_even.claims import format_accesses
from vclab.studies.break_even.measure import Parameters
from vclab.studies.break_even.requests import ACCOUNTS, exhaust
from vclab.studies.demand import all_counts, crowd
from vclab.system import System

SMALL = {
    "memory": "512MiB",
    "cpus": ["zen3", "core2"],
    "orders": [2, 8],
    "patterns": ["chase", "uniform"],
    "live_pages": [1, 8],
    "accesses": 2000,
    "requests": 12,
    "seeds": 2,
}


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return run.run_study("break-even", Parameters.model_validate(SMALL), 1, lambda *_: None)


# Arithmetic

costs = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-3)
pairs = st.lists(st.tuples(costs, costs), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("extra", "gain", "outcome", "accesses"),
    [
        ([90.0, 110.0, 100.0], [2.0, 2.0, 2.0], Outcome.AFTER, 50.0),
        ([90.0, 110.0, 100.0], [-1.0, 1.0, 0.5], Outcome.OPEN, np.nan),
        ([90.0, 110.0, 100.0], [0.0, 0.0, 0.0], Outcome.NEVER, np.inf),
        ([0.0, 0.0, 0.0], [2.0, 2.0, 2.0], Outcome.AT_ONCE, 0.0),
        ([-9.0, -11.0, -10.0], [2.0, 2.0, 2.0], Outcome.AT_ONCE, 0.0),
        ([-9.0, -11.0, -10.0], [-2.0, -2.0, -2.0], Outcome.UNTIL, 5.0),
        ([-1.0, 3.0, 1.0], [2.0, 2.0, 2.0], Outcome.OPEN, np.nan),
        ([-3.0, 1.0, -1.0], [2.0, 2.0, 2.0], Outcome.OPEN, np.nan),
        ([-3.0, 1.0, -1.0], [-2.0, -2.0, -2.0], Outcome.OPEN, np.nan),
        ([90.0, 110.0, 100.0], [-2.0, -2.0, -2.0], Outcome.NEVER, np.inf),
        ([0.0, 0.0, 0.0], [-2.0, -2.0, -2.0], Outcome.NEVER, np.inf),
        ([-9.0, -11.0, -10.0], [0.0, 0.0, 0.0], Outcome.AT_ONCE, 0.0),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], Outcome.EQUAL, np.nan),
        ([np.nan, np.nan], [1.0, 1.0], Outcome.NOT_NEEDED, np.nan),
        ([np.nan, 100.0], [1.0, 4.0], Outcome.AFTER, 25.0),
    ],
)
def test_who_wins_by_hand(extra: list[float], gain: list[float], outcome: Outcome, accesses: float) -> None:
    found = break_even(extra, gain)
    assert found.outcome is outcome
    np.testing.assert_allclose(found.accesses, accesses)


@given(pairs)
def test_both_ways_cost_the_same_at_the_number_and_the_right_one_wins_around_it(
    values: list[tuple[float, float]],
) -> None:
    extra, gain = np.array(values).T
    found = break_even(extra, gain)
    if found.outcome not in (Outcome.AFTER, Outcome.UNTIL):
        return
    more, saved = extra.mean(), gain.mean()
    assert found.accesses > 0
    assert lifetime(more, 0.0, found.accesses) == pytest.approx(lifetime(0.0, saved, found.accesses))
    later = found.accesses * 2
    wins = lifetime(more, 0.0, later) < lifetime(0.0, saved, later)
    assert wins == (found.outcome is Outcome.AFTER)
    if len(values) > 1:
        assert found.low <= found.accesses * (1 + 1e-9)
        assert found.high >= found.accesses * (1 - 1e-9)


@given(pairs, st.floats(0.1, 10))
def test_units_and_order_do_not_matter(values: list[tuple[float, float]], unit: float) -> None:
    extra, gain = np.array(values).T
    found, again = break_even(extra, gain), break_even(unit * extra[::-1], unit * gain[::-1])
    if np.isfinite(found.low) and found.high < 1e9:
        assert again.outcome is found.outcome
        np.testing.assert_allclose(again[1:], found[1:], rtol=1e-5)


def test_the_number_is_exact_where_only_the_price_varies() -> None:
    """With one gain for all, the interval is Student's of the price over that gain."""
    extra = np.array([90.0, 110.0, 100.0, 105.0, 96.0])
    found = break_even(extra, np.full(5, 4.0))
    np.testing.assert_allclose((found.accesses, found.low, found.high), np.array(interval(extra)) / 4)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0.5, "0.5"), (12, "12"), (999, "999"), (1234, "1.2k"), (58_200, "58k"), (999_900, "1M"), (3.3e9, "3.3G")],
)
def test_numbers_of_accesses_are_short(count: float, text: str) -> None:
    assert format_accesses(count) == text


# Measured


def test_callers_before_leave_no_block_that_a_quick_try_gets() -> None:
    system = System(memory="256MiB", seed=1)
    crowd(system, 9, 0.95, 2.0)
    before = system.memory.zone.free_frames
    taken = exhaust(system, 6)
    assert taken > 0
    assert system.memory.zone.free_frames == before - 64 * taken
    assert system.memory.zone.free_blocks[6:].sum() == 0
    assert system.memory.zone.free_frames > system.memory.low_watermark
    system.audit()


def test_both_sides_serve_the_same_requests(dataset: xr.Dataset) -> None:
    answers = dataset["answers"]
    assert (answers.sum("answer") == SMALL["requests"]).all()
    assert (answers.sel(side="insisting", answer="virtual") == 0).all()
    np.testing.assert_array_equal(answers.sel(side="falling back", answer="virtual"), dataset["needed"])
    assert (dataset["needed"].sel(order=8) > 0).all()
    assert (dataset["unserved"] <= dataset["needed"]).all()
    work = dataset["work"]
    needed, everything = (work.sel(over=over) for over in ("needed fallback", "all requests"))
    assert (needed <= everything).all()
    # A quick try reclaims and compacts nothing itself; insisting does both.
    quick = everything.sel(side="falling back", part="allocation", order=8)
    assert (quick.sel(operation="compact_stall") == 0).all()
    assert (everything.sel(side="insisting", part="allocation", order=8, operation="compact_stall") > 0).all()


def test_costs_are_counts_times_prices(dataset: xr.Dataset) -> None:
    at = {"seed": 1, "order": 8, "over": "all requests", "side": "falling back"}
    counts = all_counts(dataset["work"].sel(at).values)
    linux, cpu = presets.linux("6.18"), presets.cpu("core2")
    parts = price_operations(counts, linux, cpu).sum(-1) / SMALL["requests"]
    cost = dataset["cost_ns"].sel(at).sel(cpu="core2")
    assert cost.dims == ("account",)
    wait = linux.devices.refault_ns.value / SMALL["requests"]
    refaults, reclaimed = counts[:, Cause.REFAULT].sum(), counts[:, Cause.PAGE_RECLAIMED].sum()
    expected = [parts[:2].sum(), parts.sum(), parts.sum() + wait * refaults, parts.sum() + wait * reclaimed]
    np.testing.assert_allclose(cost.sel(account=list(ACCOUNTS)), expected)


def test_numbers_follow_from_costs(dataset: xr.Dataset) -> None:
    at = {"order": 8, "cpu": "zen3"}
    extra = dataset["cost_ns"].sel(at).sel(over="all requests", account="caller")
    more = extra.sel(side="insisting") - extra.sel(side="falling back")
    access = dataset["access_ns"].sel(at).sel(phase="steady", bound="serial", pattern="uniform").isel(live_pages=-1)
    gain = (access.sel(kind="virtual") - access.sel(kind="physical")) * dataset["needed"].sel(order=8) / 12
    found = dataset.sel(at).sel(over="all requests", account="caller", bound="serial", pattern="uniform")
    expected = break_even(more.values, gain.values)
    assert str(found["outcome"].isel(live_pages=-1).values) == expected.outcome
    np.testing.assert_allclose(found["break_even"].isel(live_pages=-1), expected.accesses)
    chase = dataset["access_ns"].sel(pattern="chase")
    np.testing.assert_array_equal(chase.sel(bound="serial"), chase.sel(bound="overlapped"))


# Study


def test_claims_summary_and_figures(dataset: xr.Dataset, tmp_path: Path) -> None:
    rows = study.claims(dataset)
    assert len(rows) == 6
    assert {row.verdict for row in rows} <= {"undecided", "not measured yet"}
    several = dataset.isel(seed=[0, 1, 0, 1, 0, 1])
    assert any(row.verdict in ("holds", "does not hold") for row in study.claims(several))
    assert "nothing is decided" in study.summary(dataset)[-1]
    stems = [draw()[0] for draw in studies.figures("break-even", dataset, tmp_path)]
    assert stems == ["map-serial", "map-overlapped", "lifetimes", "parts-of-the-price", "working-sets"]
    assert all((tmp_path / f"{stem}.svg").stat().st_size for stem in stems)


def test_same_seed_same_numbers(dataset: xr.Dataset) -> None:
    again = study.run_point(Parameters.model_validate(SMALL), 2, lambda *_: None)
    for name in ("work", "answers", "events"):
        np.testing.assert_array_equal(again[name], dataset[name].sel(seed=2))


def test_repricing_at_the_same_prices_changes_nothing(dataset: xr.Dataset) -> None:
    again = study.reprice(dataset, Prices())
    for name in dataset.data_vars:
        np.testing.assert_array_equal(again[name].values, dataset[name].values, err_msg=str(name))
    slow = study.reprice(dataset, Prices({"linux.devices.refault_ns": 8e6}))
    without, waiting = (slow["cost_ns"].sel(account=name) for name in ("all CPUs", "all read again"))
    np.testing.assert_array_equal(without, dataset["cost_ns"].sel(account="all CPUs"))
    assert (waiting.fillna(0) >= dataset["cost_ns"].sel(account="all read again").fillna(0)).all()


def test_other_rules_insist_by_reclaim_alone_and_other_cpus_forget_what_it_took() -> None:
    fewer = {"memory": "256MiB", "cpu": "k8", "cpus": ["k8"], "orders": [8], "live_pages": [1], "accesses": 200}
    settings = {**SMALL, **fewer, "linux": "2.6.24", "requests": 6, "seeds": 1}
    dataset = run.run_study("break-even", Parameters.model_validate(settings), 1, lambda *_: None)
    work = dataset["work"].sel(over="all requests").isel(seed=0, order=0)
    assert (work.sel(operation=["compact_stall", "page_migrated"]) == 0).all()
    assert int(work.sel(side="insisting", part="allocation", operation="page_reclaimed")) > 0
    allocation = work.sel(side="insisting", part="allocation")
    assert int(allocation.sel(operation="interrupt")) > 0
    # Two CPUs forget each page that is unmapped, on its own.
    assert int(allocation.sel(operation="tlb_invalidation")) == 2 * int(allocation.sel(operation="interrupt"))
    assert int(allocation.sel(operation="tlb_flush")) == 0
    # RFC V3's one try reclaims too, so that nothing may have to fall back.
    assert (dataset["unserved"] <= dataset["needed"]).all()
    assert dataset.attrs["missing_points"] == ""


def test_a_cpu_without_the_direct_map_is_left_out_and_said_so() -> None:
    parameters = Parameters.model_validate({**SMALL, "direct_map": "1G", "cpus": ["zen3", "k8"]})
    found, missing = parameters.measured_cpus
    assert found == ["zen3"]
    assert len(missing) == 1
    assert "k8" in missing[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": 1}, "nonsense of study break-even: does not exist; there are cpu"),
        ({"orders": [0]}, "orders.0"),
        ({"orders": [4, 2]}, "orders must ascend"),
        ({"cpus": ["cray"]}, "CPU preset 'cray' does not exist"),
        ({"linux": "3.0"}, "'3.0' does not exist"),
        ({"patterns": ["chase", "chase"]}, "patterns must be named once each"),
    ],
)
def test_bad_parameters_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        studies.parameters("break-even", settings)
    assert message.lower() in str(caught.value).lower()
