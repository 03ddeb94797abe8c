"""The study unmap: what a free costs by its parts, how it grows with the CPUs, and what is exact in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from vclab import presets, run, studies, vmapcost
from vclab.errors import ConfigurationError
from vclab.ledger import price_operations
from vclab.presets.prices import Prices
from vclab.studies import unmap
from vclab.studies.unmap.measure import PARTS, REGIMES, Parameters, frees_per_flush, middle_order
from vclab.studies.unmap.rounds import Costs, all_free, one_flush

SMALL = {
    "memory": "128MiB",
    "orders": [0, 2, 9],
    "cpu_counts": [1, 2, 16],
    "areas": 12,
    "seeds": 2,
    "fragment_order": 7,
    "unusable": 0.9,
    "working_share": 0.25,
}
COSTS = Costs.of(presets.multiprocessor("epyc-2021"), presets.linux("6.18"))


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return Parameters.model_validate(SMALL)


@pytest.fixture(scope="module")
def dataset(parameters: Parameters) -> xr.Dataset:
    return run.run_study("unmap", parameters, 1, lambda *_: None)


# Rounds


def test_one_flush_by_hand() -> None:
    """One other CPU: sending, the way, entry, its flush; then it returns, which nobody waits for."""
    machine = COSTS.machine
    interrupt = machine.interrupt
    cycles = machine.gigahertz.value
    assert interrupt.target_ns is not None
    flush = one_flush(COSTS, 2, "ipi")
    sent = interrupt.send_ns.value + interrupt.target_ns.value + interrupt.delay_ns.value
    assert flush.waiting == pytest.approx((sent + interrupt.entry_ns.value) * cycles + COSTS.flush, abs=3)
    handler = (interrupt.entry_ns.value + interrupt.exit_ns.value) * cycles + COSTS.flush
    assert flush.others == pytest.approx(handler, rel=0.01)
    assert flush.local == COSTS.flush
    assert one_flush(COSTS, 1, "ipi") == (COSTS.flush, 0, 0)
    assert one_flush(COSTS, 9, "ipi").others == pytest.approx(8 * flush.others, rel=0.01)
    assert one_flush(COSTS, 9, "invlpgb") == (COSTS.broadcast, 0, 0)


def test_under_one_lock_more_cpus_take_as_much_longer() -> None:
    alone = all_free(COSTS, 1, "invlpgb", 100, 5000, 1)
    many = all_free(COSTS, 16, "invlpgb", 100, 5000, 1)
    assert many > 16 * (alone - 100 - 1)
    # Spread over thousands of frees the flushes do not meet each other.
    assert all_free(COSTS, 16, "ipi", 3000, 1000, 5000) < 1.02 * 4000


# Measured


def test_parts_are_counts_times_prices(dataset: xr.Dataset, parameters: Parameters) -> None:
    linux, cpu = presets.linux("6.18"), presets.cpu("zen3")
    cycles = cpu.clock.gigahertz.value
    for regime in REGIMES:
        at = {"seed": 1, "regime": regime, "order": 2}
        work = price_operations(dataset["work"].sel(at).values, linux, cpu) / float(dataset["freed"].sel(at))
        causes = dict(zip(dataset["operation_cause"].values.tolist(), work.tolist(), strict=True))
        own = sum(time for cause, time in causes.items() if cause not in ("flush", "interrupt"))
        parts = dataset["free_cycles"].sel(at).sel(bound="value", mechanism="ipi", part="unmapping")
        np.testing.assert_allclose(parts, own * cycles)
        assert float(dataset["free_nanoseconds"].sel(at).sum()) == pytest.approx(own)
    assert parameters.mechanisms == ["ipi", "invlpgb"]
    assert dataset["part"].values.tolist() == list(PARTS)


def test_every_eager_free_flushes_and_lazy_ones_wait(dataset: xr.Dataset) -> None:
    events = dataset["work"]
    eager, lazy = events.sel(regime="eager"), events.sel(regime="lazy")
    for machine, event, each in ((eager, "interrupt", 1), (eager, "tlb_flush", 2), (lazy, "area_lazy_free", 1)):
        regime = str(machine["regime"].values)
        assert (machine.sel(event=event) == each * dataset["freed"].sel(regime=regime)).all(), event
    # One purge at the end gives back what the frees left.
    assert (lazy.sel(event="interrupt") == 1).all()
    late = events.sel(regime="2.6.28")
    assert (late.sel(event="area_release") == late.sel(event="area_lazy_free")).all()
    # The list is walked, the tree is not.
    assert (eager.sel(event="area_step") > lazy.sel(event="area_step")).all()


def test_how_many_frees_share_a_flush(dataset: xr.Dataset) -> None:
    assert (dataset["frees_per_flush"].sel(regime="eager") == 1).all()
    shared = frees_per_flush(dataset, 16).isel(regime=REGIMES.index("lazy"), seed=0)
    # fls(16) times 8192 pages, over the pages of an area and its guard.
    np.testing.assert_allclose(shared, 5 * 8192 / np.array([2, 5, 513]))
    np.testing.assert_allclose(dataset["frees_per_flush"].sel(cpus=16, regime="2.6.28").isel(seed=0), shared)


def test_refills_and_interrupts_grow_with_the_other_cpus(dataset: xr.Dataset) -> None:
    parts = dataset["free_cycles"].sel(regime="eager", mechanism="ipi", bound="value", order=2).isel(seed=0)
    others = parts.sel(part="refill-others")
    assert float(others.sel(cpus=1)) == float(parts.sel(part="ipi", cpus=1)) == 0
    assert float(others.sel(cpus=16)) == pytest.approx(15 * float(others.sel(cpus=2)))
    assert float(parts.sel(part="refill-self").min()) > 0
    assert (parts.sel(part="ipi").diff("cpus") > 0).all()
    lazy = dataset["free_cycles"].sel(regime="lazy", mechanism="ipi", bound="value", order=2).isel(seed=0)
    np.testing.assert_allclose(lazy.sel(part="refill-others", cpus=16), others.sel(cpus=16) / (5 * 8192 / 5))
    broadcast = dataset["free_cycles"].sel(regime="eager", mechanism="invlpgb", bound="value", part="ipi")
    assert (broadcast == 0).all()


def test_prices_at_the_ends_of_their_ranges_enclose_the_rest(dataset: xr.Dataset) -> None:
    total = dataset["free_cycles"].sum("part")
    assert (total.sel(bound="low") < total.sel(bound="value")).all()
    assert (total.sel(bound="value") < total.sel(bound="high")).all()


# Study


def test_claims_summary_and_figures(dataset: xr.Dataset, tmp_path: Path) -> None:
    rows = unmap.claims(dataset)
    assert len(rows) == 8
    exact = [row.verdict for row in rows if row.low is None]
    assert exact == ["holds", "holds", "holds"]
    assert {row.verdict for row in rows if row.low is not None} == {"undecided"}
    assert all(row.threshold and row.left_out for row in rows)
    several = dataset.isel(seed=[0, 1, 0, 1, 0, 1])
    verdicts = [row.verdict for row in unmap.claims(several)]
    assert verdicts[0] == "holds"
    assert verdicts[4] == "holds"
    assert "nothing is decided" in unmap.summary(dataset)[-1]
    assert len(unmap.summary(several)) == 3
    stems = [draw()[0] for draw in studies.figures("unmap", dataset, tmp_path)]
    assert stems == ["cost-against-cpus", "parts-of-a-free", "all-free-at-once", "table-of-2008"]
    assert all((tmp_path / f"{stem}.svg").stat().st_size for stem in stems)


def test_the_table_of_2008_tells_fitted_and_predicted_apart(dataset: xr.Dataset) -> None:
    fitted = dataset["vmap_fitted"].stack(cell=("vmap", "threads"))
    assert [cell for cell, one in zip(fitted["cell"].values, fitted.values, strict=True) if one] == list(
        vmapcost.FITTED
    )
    row = unmap.claims(dataset)[-2]
    assert row.measure.count("fitted") == 4
    assert row.measure.count("%") == 6


def test_a_cpu_without_broadcasts_is_measured_without(dataset: xr.Dataset) -> None:
    parameters = Parameters.model_validate({**SMALL, "cpu": "skylake-sp", "seeds": 1})
    assert parameters.mechanisms == ["ipi"]
    only = dataset.sel(mechanism=["ipi"])
    assert len(unmap.claims(only)) == len(unmap.claims(dataset)) - 1


def test_same_seed_same_numbers(dataset: xr.Dataset, parameters: Parameters) -> None:
    again = unmap.run_point(parameters, 2, lambda *_: None)
    for name in ("work", "freed", "flush_access"):
        np.testing.assert_array_equal(again[name], dataset[name].sel(seed=2))


def test_repricing_at_the_same_prices_changes_nothing(dataset: xr.Dataset) -> None:
    again = studies.find("unmap").reprice(dataset, Prices())
    for name in dataset.data_vars:
        np.testing.assert_array_equal(again[name].values, dataset[name].values, err_msg=str(name))
    dearer = studies.find("unmap").reprice(dataset, Prices({"linux.costs.entry_write_ns": 15.0}))
    assert (dearer["free_cycles"] >= dataset["free_cycles"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": 1}, "nonsense of study unmap: does not exist; there are cpu"),
        ({"orders": [15]}, "orders.0"),
        ({"cpu_counts": [0]}, "cpu_counts.0"),
        ({"cpu_counts": [4, 2]}, "cpu_counts must ascend"),
        ({"multiprocessor": "cray"}, "multiprocessor preset 'cray' does not exist; there are epyc-2021"),
    ],
)
def test_bad_parameters_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        studies.parameters("unmap", settings)
    assert message in str(caught.value)
    assert middle_order([0, 2, 9]) == 2
