"""Ageing: lifetimes from a censored recording, and goals that are met."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vckernels import ageing as kernels
from vckernels.replay import Stream
from vclab import GFP_KERNEL, System, ageing
from vclab.errors import ConfigurationError, FragmentationNotReached
from vclab.memory import empty_zone, unusable_free_index


def survival(lifetimes: list[int], ended: list[bool], tick: int) -> float:
    """Plain product-limit estimate of the share that lives longer than ``tick``."""
    share = 1.0
    for moment in sorted({life for life, end in zip(lifetimes, ended, strict=True) if end and life <= tick}):
        at_risk = sum(life >= moment for life in lifetimes)
        deaths = sum(life == moment and end for life, end in zip(lifetimes, ended, strict=True))
        share *= 1 - deaths / at_risk
    return share


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=60))
def test_kaplan_meier_equals_the_product_limit(pairs: list[tuple[int, bool]]) -> None:
    lifetimes = [life for life, _ in pairs]
    ended = [end for _, end in pairs]
    steps = 50
    quantiles = ageing.kaplan_meier(np.array(lifetimes), np.array(ended, bool), steps)
    for step, tick in enumerate(quantiles):
        probability = (step + 0.5) / steps
        if tick == kernels.OUTLIVED:
            assert 1 - survival(lifetimes, ended, 31) < probability + 1e-9
        else:
            assert 1 - survival(lifetimes, ended, int(tick)) >= probability - 1e-9
            if tick > 0:
                assert 1 - survival(lifetimes, ended, int(tick) - 1) < probability + 1e-9


def test_lifetimes_are_measured_and_censored() -> None:
    # Allocate frame 4 (order 2) at 1, frame 0 at 2, free 4..7 at 5, free frame 9 (old) at 6; the end is 10.
    stream = Stream(
        operation=np.array([3, 3, 4, 1], np.uint8),
        order=np.array([2, 0, 2, 0], np.uint8),
        migratetype=np.array([1, 0, 1, -1], np.int8),
        cpu=np.zeros(4, np.uint8),
        frame=np.array([4, 0, 4, 9], np.int64),
        extra=np.zeros(4, np.uint16),
    )
    lifetimes = np.empty(4, np.int32)
    ended = np.empty(4, np.int8)
    first_deaths = np.empty(16, np.int32)
    times = np.array([1, 2, 5, 6], np.int32)
    count = kernels.measure_lifetimes(stream, times, 10, np.empty(16, np.int32), lifetimes, ended, first_deaths)
    assert count == 2
    assert lifetimes.tolist() == [4, 8, -1, -1]
    assert ended.tolist() == [1, 0, 0, 0]
    assert np.flatnonzero(first_deaths >= 0).tolist() == [9]
    assert first_deaths[9] == 6


def test_recorded_law_says_how_much_is_censored() -> None:
    law = ageing.learn("compile")
    assert 0.75 < law.censored < 0.85
    assert len(law.quantiles) == len(law.orders) + 11
    movable = [kind for kind in range(len(law.orders)) if (law.orders[kind], law.migratetypes[kind]) == (0, 1)]
    assert len(movable) == 1
    # A censored lifetime is no death: far fewer die within the recording than were freed at all.
    assert 0.2 < (law.quantiles[movable[0]] >= 0).mean() < 0.4


@pytest.mark.parametrize(("order", "unusable", "free"), [(9, 0.95, 0.30), (4, 0.5, 0.4)])
def test_goal_is_met_and_memory_stays_whole(order: int, unusable: float, free: float) -> None:
    zone = empty_zone(1 << 17)
    grown = ageing.Ageing(zone, ageing.learn("compile"), np.random.default_rng(3))
    grown.reach(ageing.Goal(order, unusable, free, zone.managed))
    assert abs(unusable_free_index(zone.free_blocks, order) - unusable) <= 0.011
    assert abs(zone.free_frames / zone.managed - free) <= 0.01
    assert zone.audit() == 0
    assert grown.summary["arrivals"] > zone.frames / 2


def test_same_seed_same_memory() -> None:
    zones = [empty_zone(1 << 15) for _ in range(2)]
    for zone in zones:
        ageing.Ageing(zone, ageing.learn("compile"), np.random.default_rng(5)).reach(ageing.Goal(5, 0.6, 0.4, 1 << 15))
    np.testing.assert_array_equal(zones[0].buddy.state, zones[1].buddy.state)


def test_a_goal_out_of_reach_says_how_near_it_came() -> None:
    zone = empty_zone(1 << 13)
    aged = ageing.Ageing(zone, ageing.learn("compile"), np.random.default_rng(1), tail="never")
    with pytest.raises(FragmentationNotReached) as caught:
        aged.reach(ageing.Goal(10, 0.5, 0.95, zone.managed))
    assert 0 <= caught.value.best <= 1
    assert 0 <= caught.value.free <= 1
    assert zone.audit() == 0


def test_unknown_tail_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="never, hour, day"):
        ageing.Ageing(empty_zone(1024), ageing.learn("compile"), np.random.default_rng(1), tail="week")


def test_age_makes_the_operations_asked_for_and_leaves_memory_whole() -> None:
    system = System(memory="64MiB", seed=3)
    held = system.alloc_pages(3, GFP_KERNEL)
    done = system.age(50_000, tail="day")
    operations = done["arrivals"] + done["deaths"]
    # Whole ticks pass, each with a few arrivals and what dies in it.
    assert 50_000 <= operations <= 51_000
    assert 0.25 <= system.memory.free_share <= 0.75
    assert system.memory.zone.audit() == 0
    assert system.pages == [held]
    system.free_pages(held)
    again = System(memory="64MiB", seed=3)
    again.alloc_pages(3, GFP_KERNEL)
    assert again.age(50_000, tail="day") == done


def test_age_says_when_time_ends_first() -> None:
    with pytest.raises(ConfigurationError, match="of 100,000,000 operations"):
        System(memory="64MiB").age(100_000_000, tail="never")
    with pytest.raises(ConfigurationError, match="cannot age by -1 operations"):
        System(memory="64MiB").age(-1)


def test_the_error_comes_out_of_a_worker_process_whole() -> None:
    again = pickle.loads(pickle.dumps(FragmentationNotReached("order 9 never had so much", 0.96, 0.15)))
    assert (str(again), again.best, again.free) == ("order 9 never had so much", 0.96, 0.15)
