"""The study fallback: paired cells, policies on one trace, claims."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from vckernels.causes import Cause
from vclab import presets, studies
from vclab.errors import ConfigurationError, ConservationError
from vclab.presets.prices import Prices
from vclab.studies import fallback
from vclab.studies.fallback import measure
from vclab.studies.fallback.measure import Parameters, Point
from vclab.system import System

SMALL = {
    "memory": "128MiB",
    "orders": [1, 4, 9],
    "live_pages": [1, 4],
    "accesses": 3000,
    "requests": 24,
    "seeds": 2,
    "fragment_order": 7,
    "unusable": 0.9,
}


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return Parameters.model_validate(SMALL)


@pytest.fixture(scope="module")
def dataset(parameters: Parameters) -> xr.Dataset:
    steps: list[float] = []
    parts = [
        fallback.run_point(parameters, point, lambda share, _: steps.append(share))
        for point in fallback.points(parameters)
    ]
    assert steps[0] == 0
    assert steps[-1] == 1
    return fallback.combine(parameters, parts)


def test_every_access_is_accounted_for(dataset: xr.Dataset) -> None:
    events = dataset["events"]
    loads = events.sel(event=["data_access", "page_array_access"]).sum("event")
    answers = events.sel(event=["first_level_tlb_hit", "second_level_tlb_hit", "walk"]).sum("event")
    xr.testing.assert_equal(loads, answers)


def test_cells_meet_the_same_accesses(dataset: xr.Dataset) -> None:
    accesses = dataset["events"].sel(event="data_access")
    assert (accesses == accesses.isel(cell=0)).all()
    arrays = dataset["events"].sel(event="page_array_access")
    assert (arrays.sel(cell="iv") == accesses.sel(cell="iv")).all()
    assert (arrays.sel(cell=["i", "ii", "iii"]) == 0).all()
    # Each working set has offsets of its own, the same in all cells and seeds of one pattern differ.
    digests = dataset["offsets_digest"].values
    assert len(np.unique(digests[:, 0, 0])) == digests[:, 0, 0].size


def test_cold_pass_of_a_chase_touches_each_page_once(dataset: xr.Dataset, parameters: Parameters) -> None:
    cold = dataset["events"].sel(phase="cold", pattern="chase", event="data_access")
    for order in parameters.orders:
        for live in parameters.live_pages:
            assert (cold.sel(order=order, live_pages=live) == live << order).all()
    walks = dataset["events"].sel(phase="cold", pattern="chase", cell="iii", event="walk")
    assert (walks == cold.sel(cell="iii")).all()


def test_every_load_is_served_by_somebody(dataset: xr.Dataset) -> None:
    for loads, kind in (("data_access", "data"), ("page_array_access", "array"), ("walk_reference", "walk")):
        served = [f"{kind}_level_{level}" for level in (1, 2, 3)] + [f"{kind}_memory"]
        for prefix, dim in (("", "event"), ("control_", "event"), ("lifetime_", "event")):
            events = dataset[f"{prefix}events"]
            found = events.sel({dim: served}).sum(dim)
            xr.testing.assert_equal(found, events.sel({dim: loads}, drop=True))


def test_paging_structure_caches_leave_one_word_of_a_walk_to_load(dataset: xr.Dataset) -> None:
    steady = dataset["events"].sel(phase="steady")
    walks, references = (steady.sel(event=name, cell=["ii", "iii"]).sum() for name in ("walk", "walk_reference"))
    assert walks <= references < 1.1 * walks


def test_digests_prove_the_pairs(dataset: xr.Dataset) -> None:
    frames = dataset["frames_digest"]
    assert (frames.sel(cell="i") == frames.sel(cell="ii")).all()
    assert (frames.sel(cell="iii") == frames.sel(cell="iv")).all()
    assert (frames.sel(cell="i") != frames.sel(cell="iii")).all()


def test_colour_neutral_caches_see_no_placement(dataset: xr.Dataset) -> None:
    """Cells ii and iii differ by their frames alone; what is left of them are the frames of page tables."""
    control = dataset["control_events"].sel(control="colour-neutral")
    data = [f"data_level_{level}" for level in (1, 2, 3)] + ["data_memory"]
    ii, iii = (control.sel(control_cell=cell, event=data) for cell in ("ii", "iii"))
    difference = abs(ii - iii).sum("event") / ii.sum("event")
    assert float(difference.max()) < 0.01


def test_other_work_costs_the_stream_translations(dataset: xr.Dataset) -> None:
    order = int(dataset["control_order"].max())
    steady = dataset.sel(phase="steady", control_order=order, live_pages=1)
    busy = steady["control_events"].sel(control="other work", control_cell="iii")
    alone = steady["events"].sel(order=order, pattern="chase", cell="iii")
    first = (each.sel(event="first_level_tlb_hit") / each.sel(event="data_access") for each in (busy, alone))
    beside, undisturbed = (float(value.mean()) for value in first)
    assert beside <= undisturbed
    assert float(busy.sel(event="data_access").mean()) == float(alone.sel(event="data_access").mean())


def test_a_life_is_counted_from_the_first_touch(dataset: xr.Dataset) -> None:
    events = dataset["lifetime_events"]
    accesses = events.sel(event="data_access")
    assert (accesses == dataset["lifetime"]).all()
    assert events["lifetime_order"].values.tolist() == [1, 4, 9]
    assert measure.ends_and_middle(range(1, 11)) == [1, 6, 10]
    assert measure.ends_and_middle([3]) == [3]
    # The first access to a fresh page finds no translation.
    assert (events.sel(lifetime=1, event="walk") == 1).all()
    assert (dataset["lifetime_cycles"].diff("lifetime") >= 0).all()


def test_policies_answer_every_request(dataset: xr.Dataset, parameters: Parameters) -> None:
    outcome = dataset["outcome"]
    assert (outcome.sum("answer") == parameters.requests).all()
    assert (outcome.sel(policy="physical", answer="virtual") == 0).all()
    assert (outcome.sel(policy=["always-virtual", "vmalloc", "huge-vmalloc"], answer="physical") == 0).all()
    physical = outcome.sel(policy="physical", answer="physical")
    assert (outcome.sel(policy="early-fallback", answer="physical") <= physical).all()
    # On an aged machine some request of order 9 has to be refused, or there is nothing to measure.
    assert (outcome.sel(policy="physical", answer="failed", order=9) > 0).all()


def test_memory_comes_back_but_for_table_pages(dataset: xr.Dataset) -> None:
    work = dataset["work"].sum("step").drop_sel(policy="huge-vmalloc")
    tables = work.sel(operation="table_page", drop=True)
    xr.testing.assert_equal(dataset["retained_frames"].drop_sel(policy="huge-vmalloc"), tables)
    # What remains allocated are the tables, each a block of order 0.
    assert (work.sel(operation="allocation") - work.sel(operation="free") == tables).all()
    # Large entries remove the empty tables in their way, and their blocks come back frame by frame.
    assert (dataset["retained_frames"].sel(policy="huge-vmalloc") >= 0).all()


def test_work_is_done_when_it_is_due(dataset: xr.Dataset) -> None:
    work = dataset["work"]
    steady = work.sel(policy="physical")  # the others give back what they took where something is short
    assert (steady.sel(step="allocate", operation=["free", "flush_call", "area_release"]) == 0).all()
    assert (work.sel(step="free", operation=["area_reserve", "table_page", "struct_page"]) == 0).all()
    served = dataset["outcome"].sel(answer=["physical", "virtual"]).sum("answer")
    prepared = work.sel(step="allocate", operation="struct_page", drop=True)
    xr.testing.assert_equal(prepared, (served * 2 ** dataset["order"]).transpose(*prepared.dims))


def test_overhead_is_counted_byte_by_byte(dataset: xr.Dataset) -> None:
    linux = presets.linux("6.18")
    each = linux.vm_struct_allocated_bytes.value + linux.vmap_area_bytes.value
    for order in dataset["order"].values:
        virtual = dataset["outcome"].sel(policy="vmalloc", answer="virtual", order=order)
        expected = virtual * (each + 16 * 2 ** int(order))
        assert (dataset["attributed_bytes"].sel(policy="vmalloc", order=order) == expected).all()
    assert (dataset["attributed_bytes"].sel(policy="physical") == 0).all()


def test_pricing_follows_the_preset(dataset: xr.Dataset) -> None:
    cpu, linux = presets.cpu("zen3"), presets.linux("6.18")
    events = dataset["events"]
    latencies = [cache.latency.value for cache in cpu.data_cache] + [cpu.memory.latency.value]
    hit = cpu.latency.second_level_tlb_hit.value
    serial = hit * events.sel(event=["second_level_tlb_hit", "walk"]).sum("event")
    serial = serial + cpu.walk.start.value * events.sel(event="walk")
    serial = serial + cpu.latency.first_level_fill_conflict.value * events.sel(event="fill_conflict")
    for kind in ("data", "array", "walk"):
        for name, cycles in zip(("level_1", "level_2", "level_3", "memory"), latencies, strict=True):
            serial = serial + cycles * events.sel(event=f"{kind}_{name}")
    updates = events.sel(event=["accessed_update", "dirty_update"]).sum("event")
    serial = serial + cpu.latency.accessed_dirty_update.value * updates
    np.testing.assert_allclose(dataset["cycles"].sum("cause"), serial)
    again = measure.priced(dataset, presets.cpu("k8"), linux)
    assert not again["cycles"].equals(dataset["cycles"])
    xr.testing.assert_equal(again["events"], dataset["events"])


def test_repricing_at_the_same_prices_changes_nothing(dataset: xr.Dataset) -> None:
    xr.testing.assert_equal(fallback.reprice(dataset, Prices()), dataset)
    dearer = fallback.reprice(dataset, Prices({"cpu.memory.latency": 1000.0, "linux.costs.split_ns": 50.0}))
    memory = {"cause": "memory"}
    np.testing.assert_allclose(dearer["cycles"].loc[memory], dataset["cycles"].loc[memory] * 1000 / 285)
    xr.testing.assert_equal(dearer["events"], dataset["events"])
    assert (dearer["operation_ns"] >= dataset["operation_ns"]).all()


def test_prices_have_a_range(dataset: xr.Dataset) -> None:
    low, value, high = (dataset["operation_ns"].sel(bound=bound) for bound in ("low", "value", "high"))
    assert (low <= value).all()
    assert (value <= high).all()
    assert float(high.sum()) > float(low.sum())


def test_frame_states_are_kept_for_one_seed(dataset: xr.Dataset) -> None:
    states = dataset["frame_state"]
    assert states.sizes == {"moment": 2, "frame": 128 * 256}
    free_before, free_after = (float((states.sel(moment=m) <= 10).mean()) for m in ("before", "after"))
    assert free_before > 0.99
    assert free_after == pytest.approx(0.30, abs=0.011)


def test_claims_cover_the_rfc_and_judge_by_their_threshold(dataset: xr.Dataset) -> None:
    claims = fallback.claims(dataset)
    measured = [claim for claim in claims if claim.value is not None]
    assert len(claims) == 12
    assert len(measured) == 9
    exact = [claim for claim in measured if claim.low is None]
    assert [claim.sentence[:40] for claim in exact] == ["Virtual mappings have more memory overhe"]
    assert exact[0].verdict == "holds"
    for claim in measured:
        assert claim.threshold
        assert claim.left_out
        if claim not in exact:
            assert claim.low is not None
            assert claim.high is not None
            assert claim.low <= claim.value <= claim.high
            # Two seeds are too few for a verdict.
            assert claim.verdict == "undecided"
    assert all(claim.verdict == "not measured yet" for claim in claims if claim.value is None)
    assert fallback.summary(dataset)


def test_verdicts_need_five_seeds(dataset: xr.Dataset) -> None:
    several = dataset.isel(seed=[0, 1, 0, 1, 0, 1])
    verdicts = {claim.sentence[:20]: claim.verdict for claim in fallback.claims(several)}
    assert verdicts["“Reliability” as lon"] in ("holds", "does not hold")
    assert verdicts["Virtual mappings are"] == "holds"
    one = fallback.claims(dataset.isel(seed=[0]))
    assert {claim.verdict for claim in one} == {"undecided", "holds", "not measured yet"}
    assert all(claim.low is None for claim in one)
    assert "nothing is decided" in fallback.summary(dataset)[-1]


def test_standing_in_is_measured_only_where_something_failed(dataset: xr.Dataset) -> None:
    unfailing = dataset.copy(deep=True)
    unfailing["outcome"].loc[{"policy": "physical", "answer": "failed"}] = 0
    claim = fallback.claims(unfailing)[0]
    assert claim.verdict == "not measured yet"
    half = dataset.copy(deep=True)
    failed = half["outcome"].sel(policy="physical", answer="failed").sum("order")
    half["outcome"].loc[{"policy": "early-fallback", "answer": "failed"}] = 0
    half["outcome"].loc[{"policy": "early-fallback", "answer": "failed", "order": 9}] = failed
    assert fallback.claims(half)[0].value == pytest.approx(0.0)


def test_walks_are_judged_only_where_there_are_any(dataset: xr.Dataset) -> None:
    still = dataset.copy(deep=True)
    still["events"].loc[{"event": "walk"}] = 0
    claim = next(claim for claim in fallback.claims(still) if "larger TLB entries" in claim.sentence)
    assert claim.verdict == "not measured yet"
    assert claim.value is None


def test_provenance_is_complete(dataset: xr.Dataset) -> None:
    assert dataset.attrs["study"] == "fallback"
    assert len(dataset.attrs["recording_digest"]) == 64
    assert dataset["cycles"].attrs["units"] == "cycles"
    assert Parameters.model_validate_json(dataset.attrs["parameters"]).seeds == 2


def test_same_seed_same_numbers(dataset: xr.Dataset, parameters: Parameters) -> None:
    again = fallback.run_point(parameters, Point(2), lambda *_: None)
    np.testing.assert_array_equal(again["events"], dataset["events"].sel(seed=2))
    np.testing.assert_array_equal(again["work"], dataset["work"].sel(seed=2))


def test_a_seed_in_parts_is_the_same_seed(dataset: xr.Dataset, parameters: Parameters) -> None:
    """One seed and two processes: each takes some of the orders."""
    one = parameters.model_copy(update={"seeds": 1})
    divided = fallback.points(one, 2)
    assert divided == [Point(1, 0, 2), Point(1, 1, 2)]
    assert fallback.points(parameters, 2) == [Point(1), Point(2)]
    parts = [fallback.run_point(one, point, lambda *_: None) for point in divided]
    joined = fallback.combine(one, parts)
    whole = dataset.isel(seed=[0])
    for name in whole.data_vars:
        xr.testing.assert_equal(joined[name].transpose(*whole[name].dims), whole[name])


def test_only_slabs_interrupts_and_defragmentation_wait(dataset: xr.Dataset) -> None:
    waiting = [claim.sentence for claim in fallback.claims(dataset) if claim.value is None]
    assert [sentence.split()[0] for sentence in waiting] == ["Stage", "SLUB", "May"]
    assert Cause.TLB_FAULT not in measure.EVENTS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": 1}, "nonsense of study fallback: does not exist; there are cpu"),
        ({"seeds": 0}, "seeds of study fallback"),
        ({"cpu": "zen9"}, "cpu preset 'zen9' does not exist"),
        ({"levels": 5}, "presets that have it: ice-lake"),
        ({"memory": "5K"}, "cannot be modelled"),
        ({"orders": [11]}, "orders.0"),
        ({"recording": "nope"}, "no recording 'nope'"),
        ({"orders": [3, 3]}, "orders must ascend, each value once"),
        ({"live_pages": [4, 1]}, "live_pages must ascend"),
        ({"orders": [2, 5], "control_orders": [3]}, "control_orders must be among orders"),
    ],
)
def test_bad_parameters_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        studies.parameters("fallback", settings)
    assert message in str(caught.value)


def test_unknown_study_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there are fallback"):
        studies.find("nothing")


def test_an_audit_can_be_asked_for(parameters: Parameters) -> None:
    system = System(memory="16MiB", levels=4)
    asked = parameters.model_copy(update={"audit": True})
    asked.audited(system)
    system.memory.zone.buddy.state[1001] = 3
    parameters.audited(system)
    with pytest.raises(ConservationError):
        asked.audited(system)
