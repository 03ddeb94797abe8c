"""The vmalloc area against a plain first fit: addresses, refusals, lists and the cost of the search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.oracles.vmap import PlainAreas
from vckernels import vmap
from vckernels.causes import Cause, Status
from vckernels.vmap import NONE, Areas, Place


def listed(areas: Areas) -> list[tuple[int, int]]:
    in_use = int(areas.places[Place.IN_USE])
    starts, pages = np.full((2, in_use), -1, np.int64)
    assert vmap.list_ranges(areas, starts, pages) == in_use
    return list(zip(starts.tolist(), pages.tolist(), strict=True))


def state(areas: Areas) -> dict[str, list[int]]:
    """Return everything but the counters."""
    return {name: array.tolist() for name, array in areas._asdict().items() if name != "counters"}


def in_order(areas: Areas) -> list[int]:
    """Return the nodes by address; assert that links and largest gaps are those of the subtrees."""
    nodes: list[int] = []

    def visit(node: int, parent: int) -> int:
        if node == NONE:
            return 0
        assert areas.parent[node] == parent
        below = visit(int(areas.left[node]), node)
        nodes.append(node)
        largest = max(below, int(areas.gap[node]), visit(int(areas.right[node]), node))
        assert areas.largest[node] == largest
        return largest

    visit(int(areas.places[Place.ROOT]), NONE)
    return nodes


class AreaMachine(RuleBasedStateMachine):
    """Drive the kernel and the plain model through the same calls."""

    @initialize(total=st.integers(1, 60), capacity=st.integers(1, 6))
    def start(self, total: int, capacity: int) -> None:
        self.areas = vmap.new_areas(total, capacity)
        self.model = PlainAreas(total, capacity - 1)
        self.reserved = self.released = 0

    @rule(pages=st.integers(1, 20), alignment=st.sampled_from([1, 1, 2, 4, 8, 16, 64]))
    def reserve(self, pages: int, alignment: int) -> None:
        before = state(self.areas)
        answer = vmap.reserve(self.areas, pages, alignment)
        assert answer == self.model.reserve(pages, alignment)
        assert answer < 0 or answer % alignment == 0
        if answer < 0:
            assert state(self.areas) == before
        self.reserved += answer >= 0

    @rule(data=st.data())
    def release_a_range(self, data: st.DataObject) -> None:
        if self.model.ranges:
            start, pages = data.draw(st.sampled_from(self.model.ranges))
            assert vmap.release(self.areas, start) == self.model.release(start) == pages
            self.released += 1

    @rule(start=st.integers(-2, 70))
    def release_any(self, start: int) -> None:
        before = state(self.areas)
        expected = self.model.release(start)
        assert vmap.release(self.areas, start) == expected
        if expected < 0:
            assert state(self.areas) == before
        self.released += expected >= 0

    @rule(page=st.integers(-2, 70))
    def find(self, page: int) -> None:
        node = vmap.find(self.areas, page)
        found = None if node == NONE else (int(self.areas.start[node]), int(self.areas.pages[node]))
        assert found == self.model.find(page)

    @rule(more=st.integers(1, 4))
    def grow(self, more: int) -> None:
        before = listed(self.areas)
        self.areas = vmap.grown(self.areas, len(self.areas.start) + more)
        self.model.capacity += more
        assert listed(self.areas) == before

    @invariant()
    def same_ranges(self) -> None:
        assert listed(self.areas) == self.model.ranges
        assert self.areas.counters[Cause.AREA_RESERVE] == self.reserved
        assert self.areas.counters[Cause.AREA_RELEASE] == self.released
        nodes = in_order(self.areas)
        assert nodes[-1] == 0
        assert [int(self.areas.start[node]) for node in nodes[:-1]] == [start for start, _ in self.model.ranges]
        gaps = [int(self.areas.start[node] - self.areas.gap[node]) for node in nodes]
        assert gaps == [0, *(start + pages for start, pages in self.model.ranges)]


AreaMachine.TestCase.settings = settings(
    deadline=None,
    max_examples=80,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAreaMachine = AreaMachine.TestCase


def test_a_full_area_answers_minus_one_and_changes_nothing() -> None:
    areas = vmap.new_areas(10, 16)
    assert [vmap.reserve(areas, 4), vmap.reserve(areas, 6)] == [0, 4]
    before, counters = state(areas), areas.counters.copy()
    assert vmap.reserve(areas, 1) == -Status.NO_SPACE
    assert state(areas) == before
    assert areas.counters.tolist() == counters.tolist()
    assert vmap.release(areas, 0) == 4
    assert [vmap.reserve(areas, 5), vmap.reserve(areas, 4)] == [-Status.NO_SPACE, 0]


def test_no_room_for_a_range_answers_minus_two_and_changes_nothing() -> None:
    areas = vmap.new_areas(10, 3)
    assert [vmap.reserve(areas, 1), vmap.reserve(areas, 2)] == [0, 1]
    before = state(areas)
    assert vmap.reserve(areas, 1) == -Status.NO_CAPACITY
    assert vmap.reserve(areas, 8) == -Status.NO_SPACE
    assert state(areas) == before
    areas = vmap.grown(areas, 4)
    assert vmap.reserve(areas, 1) == 3


def test_the_whole_area_can_be_taken_and_given_back() -> None:
    areas = vmap.new_areas(1 << 35, 8)
    assert vmap.reserve(areas, 1 << 35) == 0
    assert vmap.release(areas, 1) == -1
    assert vmap.find(areas, (1 << 35) - 1) != NONE
    assert vmap.find(areas, 1 << 35) == NONE
    assert vmap.release(areas, 0) == 1 << 35
    assert listed(areas) == []


def churned(live: int, seed: int) -> tuple[Areas, int, float]:
    """Return an area of ``live`` ranges with holes, and its steps per reserve and per release after that."""
    rng = np.random.default_rng(seed)
    areas = vmap.new_areas(16 * live, live + 1)
    sizes = rng.integers(1, 9, 3 * live).tolist()
    starts = [int(vmap.reserve(areas, sizes[i])) for i in range(live)]
    victims = rng.permutation(live)[: live // 2].tolist()
    for victim in victims:
        assert vmap.release(areas, starts[victim]) > 0
    before = int(areas.counters[Cause.AREA_STEP])
    for i in range(live // 2):
        assert vmap.reserve(areas, sizes[live + i]) >= 0
    steps = (int(areas.counters[Cause.AREA_STEP]) - before) / (live // 2)
    return areas, int(areas.places[Place.IN_USE]), steps


def test_the_search_is_logarithmic() -> None:
    steps = {}
    for live in (1_000, 10_000, 100_000):
        _, in_use, steps[live] = churned(live, seed=3)
        assert in_use == live
    assert steps[100_000] < 60
    assert steps[1_000] > 1
    # Ten times the ranges cost a few steps more, not ten times the steps.
    assert steps[10_000] - steps[1_000] < 15
    assert steps[100_000] - steps[10_000] < 15


def test_ascending_order_does_not_make_a_list_of_the_tree() -> None:
    areas = vmap.new_areas(1 << 20, 50_001)
    for _ in range(50_000):
        assert vmap.reserve(areas, 2) >= 0
    before = int(areas.counters[Cause.AREA_STEP])
    for page in range(0, 100_000, 10):
        assert vmap.find(areas, page) != NONE
    assert (int(areas.counters[Cause.AREA_STEP]) - before) / 10_000 < 60


@pytest.mark.parametrize("seed", [1, 2])
def test_large_churn_against_first_fit(seed: int) -> None:
    """Many ranges at once, where the state machine's areas are too small to have a deep tree."""
    rng = np.random.default_rng(seed)
    areas, model = vmap.new_areas(3_000, 512), PlainAreas(3_000, 511)
    for _ in range(4_000):
        if rng.random() < 0.55 or not model.ranges:
            pages, alignment = int(rng.integers(1, 30)), 1 << int(rng.integers(6))
            assert vmap.reserve(areas, pages, alignment) == model.reserve(pages, alignment)
        else:
            start, pages = model.ranges[int(rng.integers(len(model.ranges)))]
            assert vmap.release(areas, start) == model.release(start) == pages
    assert listed(areas) == model.ranges
    assert len(in_order(areas)) == len(model.ranges) + 1


def test_an_aligned_range_leaves_a_gap_below_that_is_used_again() -> None:
    areas = vmap.new_areas(4096, 8)
    assert vmap.reserve(areas, 3) == 0
    assert vmap.reserve(areas, 513, 512) == 512
    assert vmap.reserve(areas, 513, 512) == 1536
    assert vmap.reserve(areas, 509) == 3
    assert vmap.reserve(areas, 511) == 1025
    assert listed(areas) == [(0, 3), (3, 509), (512, 513), (1025, 511), (1536, 513)]
    assert vmap.release(areas, 512) == 513
    # 513 pages are free again, from a multiple on; nothing else between multiples is.
    assert vmap.reserve(areas, 1025, 512) == 2560
    assert vmap.reserve(areas, 513, 512) == 512


def test_a_long_gap_without_a_multiple_does_not_serve() -> None:
    areas = vmap.new_areas(1025, 4)
    assert vmap.reserve(areas, 1) == 0
    before = state(areas)
    assert vmap.reserve(areas, 600, 512) == -Status.NO_SPACE
    assert state(areas) == before
    assert vmap.reserve(areas, 513, 512) == 512


def test_the_lowest_place_is_found_past_gaps_that_are_long_enough() -> None:
    """Gaps of 15 pages, each just after a multiple of 16, hold no 12 pages from a multiple on."""
    areas, model = vmap.new_areas(1 << 14, 1024), PlainAreas(1 << 14, 1023)
    for pages in [1, 15] * 256:
        assert vmap.reserve(areas, pages) == model.reserve(pages)
    for start in range(1, 4096, 16):
        assert vmap.release(areas, start) == model.release(start) == 15
    before = int(areas.counters[Cause.AREA_STEP])
    assert vmap.reserve(areas, 12, 16) == model.reserve(12, 16) == 4096
    # Each of the 255 gaps between ranges is looked at, which is what finding the lowest place costs here.
    assert 255 <= int(areas.counters[Cause.AREA_STEP]) - before < 1024
    assert vmap.release(areas, 3200) == model.release(3200) == 1
    assert vmap.reserve(areas, 12, 16) == model.reserve(12, 16) == 3200
    assert len(in_order(areas)) == len(model.ranges) + 1
