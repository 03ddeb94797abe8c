"""Lazily freed ranges and the search range by range, beside plain ones."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.oracles.lazyareas import PlainLazyAreas
from tests.oracles.vmap import PlainAreas
from vckernels import areawalk, lazyareas, vmap
from vckernels.causes import Cause, Status
from vckernels.lazyareas import POOLS, LazyAreas, Place, State
from vckernels.vmap import NONE, Areas


def chain(lazy: LazyAreas, node: int) -> list[int]:
    """Return the nodes of a list."""
    nodes = []
    while node != NONE:
        nodes.append(node)
        node = int(lazy.link[node])
    return nodes


def starts(areas: Areas, nodes: list[int]) -> list[int]:
    """Return the first pages of nodes."""
    return [int(areas.start[node]) for node in nodes]


class LazyMachine(RuleBasedStateMachine):
    """Drive the kernel and the plain model through the same calls."""

    @initialize(
        total=st.sampled_from([60, 700]),
        capacity=st.integers(2, 12),
        nodes=st.integers(1, 3),
        limit=st.integers(0, 40),
        walks=st.booleans(),
    )
    def start(self, total: int, capacity: int, nodes: int, limit: int, walks: bool) -> None:
        self.areas = vmap.new_areas(total, capacity)
        self.lazy = lazyareas.new_lazy_areas(capacity, limit, nodes, walks)
        self.model = PlainLazyAreas(total, capacity - 1, limit, nodes)

    @rule(
        pages=st.sampled_from([1, 2, 2, 3, 5, 256, 257]), alignment=st.sampled_from([1, 1, 2, 8]), cpu=st.integers(0, 4)
    )
    def reserve(self, pages: int, alignment: int, cpu: int) -> None:
        answer = lazyareas.reserve(self.areas, self.lazy, pages, alignment, cpu)
        assert answer == self.model.reserve(pages, alignment, cpu)

    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        if self.model.busy:
            start = data.draw(st.sampled_from(sorted(self.model.busy)))
            assert lazyareas.retire(self.areas, self.lazy, start) == self.model.retire(start)
            if self.lazy.places[Place.WAITING] > self.lazy.places[Place.LIMIT]:
                self.purge(False)

    @rule(start=st.integers(-1, 70))
    def retire_any(self, start: int) -> None:
        assert lazyareas.retire(self.areas, self.lazy, start) == self.model.retire(start)

    @rule(page=st.integers(-1, 70))
    def find(self, page: int) -> None:
        node = lazyareas.find(self.areas, self.lazy, page)
        found = None if node == NONE else (int(self.areas.start[node]), int(self.areas.pages[node]))
        assert found == self.model.find(page)
        walked = areawalk.find(self.areas, page)
        assert walked == vmap.find(self.areas, page)

    @rule(whole=st.sampled_from([False, False, True]))
    def purge(self, whole: bool) -> None:
        ends = np.full(2, -5, np.int64)
        count = lazyareas.bounds(self.areas, self.lazy, ends)
        expected = self.model.bounds()
        assert ends.tolist() == ([-5, -5] if expected is None else list(expected))
        assert lazyareas.purge(self.areas, self.lazy, whole) == self.model.purge(whole) == count

    @rule(more=st.integers(1, 4))
    def grow(self, more: int) -> None:
        capacity = len(self.areas.start) + more
        self.areas = vmap.grown(self.areas, capacity)
        self.lazy = lazyareas.grown(self.lazy, capacity)
        self.model.areas.capacity += more

    @invariant()
    def same(self) -> None:
        in_use = int(self.areas.places[vmap.Place.IN_USE])
        first, pages = np.full((2, in_use), -1, np.int64)
        vmap.list_ranges(self.areas, first, pages)
        assert list(zip(first.tolist(), pages.tolist(), strict=True)) == self.model.areas.ranges
        assert self.lazy.places[Place.WAITING] == self.model.waiting
        assert self.areas.counters[Cause.AREA_POOL_HIT] == self.model.pool_hits
        for home in range(self.model.nodes):
            waiting = chain(self.lazy, int(self.lazy.waiting[home]))
            assert starts(self.areas, waiting) == self.model.lazy[home][::-1]
            assert all(self.lazy.state[node] == State.LAZY for node in waiting)
            for pool in range(self.lazy.first.shape[1]):
                ready = chain(self.lazy, int(self.lazy.first[home, pool]))
                assert starts(self.areas, ready) == self.model.pools[home].get(pool + 1, [])
                assert self.lazy.length[home, pool] == len(ready)
                assert self.lazy.last[home, pool] == (ready[-1] if ready else NONE)
                assert all(self.lazy.state[node] == State.POOLED for node in ready)


LazyMachine.TestCase.settings = settings(
    deadline=None, max_examples=30, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)
TestLazyMachine = LazyMachine.TestCase


def test_a_walk_finds_the_same_place_in_as_many_steps_as_ranges_lie_below() -> None:
    rng = np.random.default_rng(4)
    areas, model = vmap.new_areas(2_000, 400), PlainAreas(2_000, 399)
    for _ in range(1_500):
        steps = int(areas.counters[Cause.AREA_STEP])
        if rng.random() < 0.55 or not model.ranges:
            pages, alignment = int(rng.integers(1, 20)), 1 << int(rng.integers(4))
            before = list(model.ranges)
            expected = model.reserve(pages, alignment)
            node = int(areawalk.reserve_node(areas, pages, alignment))
            assert (int(areas.start[node]) if node >= 0 else node) == expected
            if expected >= 0:
                below = sum(start < expected for start, _ in before)
                assert areas.counters[Cause.AREA_STEP] - steps == below + 1
        else:
            place = int(rng.integers(len(model.ranges)))
            start, pages = model.ranges[place]
            node = areawalk.find(areas, start)
            assert areas.counters[Cause.AREA_STEP] - steps == place + 1
            assert vmap.release_node(areas, node) == pages == model.release(start)
    assert areawalk.reserve_node(areas, 0, 1) == -Status.NO_SPACE


def test_a_pool_serves_what_was_purged_without_a_search() -> None:
    areas = vmap.new_areas(10_000, 500)
    lazy = lazyareas.new_lazy_areas(500, 100, nodes=2)
    taken = [int(lazyareas.reserve(areas, lazy, 5, 1, 0)) for _ in range(40)]
    for start in taken:
        lazyareas.retire(areas, lazy, start)
    assert lazy.places[Place.WAITING] == 200
    assert lazyareas.purge(areas, lazy, False) == 40
    steps = int(areas.counters[Cause.AREA_STEP])
    # Put to the beginning by ascending address, so the highest comes first; the other CPU's node has none.
    assert [int(lazyareas.reserve(areas, lazy, 5, 1, 0)) for _ in range(40)] == taken[::-1]
    assert areas.counters[Cause.AREA_STEP] == steps
    assert lazyareas.reserve(areas, lazy, 5, 1, 1) == 200
    assert areas.counters[Cause.AREA_POOL_HIT] == 40


def test_pools_shrink_by_a_quarter_at_each_purge() -> None:
    areas = vmap.new_areas(10_000, 500)
    lazy = lazyareas.new_lazy_areas(500, 0, nodes=2)
    for start in [int(lazyareas.reserve(areas, lazy, 3, 1, 1)) for _ in range(64)]:
        lazyareas.retire(areas, lazy, start)
    sizes = []
    for _ in range(5):
        lazyareas.purge(areas, lazy, False)
        sizes.append(int(lazy.length[1, 2]))
    assert sizes == [64, 48, 36, 27, 21]
    assert areas.places[vmap.Place.IN_USE] == 21
    lazyareas.purge(areas, lazy, True)
    assert areas.places[vmap.Place.IN_USE] == 0
    assert POOLS == lazy.length.shape[1]
