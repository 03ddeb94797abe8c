"""Small mappings from per-CPU blocks beside plain ones."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.oracles.lazyareas import PlainLazyAreas
from tests.oracles.vmapblock import PlainBlocks
from vckernels import lazyareas, vmap, vmapblock
from vckernels.causes import Cause, Status
from vckernels.lazyareas import Place
from vckernels.vmapblock import BLOCK_PAGES, Blocks


def listed(blocks: Blocks, cpu: int) -> list[int]:
    """Return a CPU's blocks with pages left, oldest first."""
    sentinel = len(blocks.left) + cpu
    found = []
    node = int(blocks.following[sentinel])
    while node != sentinel:
        assert blocks.following[blocks.preceding[node]] == node
        found.append(node)
        node = int(blocks.following[node])
    return found


class BlockMachine(RuleBasedStateMachine):
    """Drive the kernel and the plain model through the same calls."""

    @initialize(capacity=st.integers(2, 9), nodes=st.integers(1, 2))
    def start(self, capacity: int, nodes: int) -> None:
        total = 6 * BLOCK_PAGES + 100
        self.areas = vmap.new_areas(total, capacity)
        self.lazy = lazyareas.new_lazy_areas(capacity, 3000, nodes)
        self.blocks = vmapblock.new_blocks(capacity, 2)
        self.plain = PlainLazyAreas(total, capacity - 1, 3000, nodes)
        self.model = PlainBlocks(self.plain, 2)
        self.live: list[tuple[int, int]] = []

    @rule(pages=st.sampled_from([1, 3, 16, 33, 64, 64, 65, 0]), cpu=st.integers(0, 1), times=st.integers(1, 20))
    def take(self, pages: int, cpu: int, times: int) -> None:
        for _ in range(times):
            page = vmapblock.take(self.areas, self.lazy, self.blocks, pages, cpu)
            assert page == self.model.take(pages, cpu)
            if page >= 0:
                self.live.append((int(page), pages))

    @rule(data=st.data(), times=st.integers(1, 20))
    def give(self, data: st.DataObject, times: int) -> None:
        for _ in range(min(times, len(self.live))):
            page, pages = self.live.pop(data.draw(st.integers(0, min(3, len(self.live) - 1))))
            assert vmapblock.give(self.areas, self.lazy, self.blocks, page, pages) == Status.OK
            assert self.model.give(page, pages) == 0

    @rule()
    def give_all(self) -> None:
        for page, pages in self.live:
            assert vmapblock.give(self.areas, self.lazy, self.blocks, page, pages) == self.model.give(page, pages) == 0
        self.live.clear()

    @rule(page=st.integers(-1, 6 * BLOCK_PAGES), pages=st.integers(-1, 70))
    def give_what_was_not_taken(self, page: int, pages: int) -> None:
        every = [block for blocks in self.model.open for block in blocks] + self.model.full
        if not any(block.start <= page < block.start + block.out for block in every):
            assert vmapblock.give(self.areas, self.lazy, self.blocks, page, pages) == Status.OUT_OF_RANGE
            assert self.model.give(page, pages) == 4

    @rule(pages=st.sampled_from([3, 100]), cpu=st.integers(0, 1))
    def reserve_beside(self, pages: int, cpu: int) -> None:
        answer = lazyareas.reserve(self.areas, self.lazy, pages, 1, cpu)
        assert answer == self.plain.reserve(pages, 1, cpu)

    @rule(whole=st.booleans())
    def purge(self, whole: bool) -> None:
        retired = vmapblock.retire_unused(self.areas, self.lazy, self.blocks, whole)
        assert retired == self.model.retire_unused(whole)
        assert lazyareas.purge(self.areas, self.lazy, whole) == self.plain.purge(whole)

    @rule(more=st.integers(1, 3))
    def grow(self, more: int) -> None:
        capacity = len(self.areas.start) + more
        self.areas = vmap.grown(self.areas, capacity)
        self.lazy = lazyareas.grown(self.lazy, capacity)
        self.blocks = vmapblock.grown(self.blocks, capacity)
        self.plain.areas.capacity += more

    @invariant()
    def same(self) -> None:
        assert self.lazy.places[Place.WAITING] == self.plain.waiting
        for cpu in range(2):
            nodes = listed(self.blocks, cpu)
            blocks = self.model.open[cpu]
            assert [int(self.areas.start[node]) for node in nodes] == [block.start for block in blocks]
            assert [BLOCK_PAGES - int(self.blocks.left[node]) for node in nodes] == [block.out for block in blocks]
            assert [int(self.blocks.dirty[node]) for node in nodes] == [block.back for block in blocks]


BlockMachine.TestCase.settings = settings(
    deadline=None, max_examples=30, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow]
)
TestBlockMachine = BlockMachine.TestCase


def test_a_block_serves_256_mappings_of_four_pages_and_then_waits() -> None:
    """The loop of 2008: one search of the area, and 1024 pages that wait, for 256 rounds."""
    areas = vmap.new_areas(1 << 20, 64)
    lazy = lazyareas.new_lazy_areas(64, 1 << 15)
    blocks = vmapblock.new_blocks(64, 1)
    for number in range(3 * 256):
        page = vmapblock.take(areas, lazy, blocks, 4, 0)
        assert page == 4 * number
        assert vmapblock.give(areas, lazy, blocks, page, 4) == Status.OK
    assert areas.counters[Cause.AREA_RESERVE] == areas.counters[Cause.BLOCK_NEW] == 3
    assert areas.counters[Cause.BLOCK_TAKE] == areas.counters[Cause.BLOCK_GIVE] == 768
    assert lazy.places[Place.WAITING] == 3 * BLOCK_PAGES
    assert lazyareas.purge(areas, lazy, False) == 3
    assert vmapblock.take(areas, lazy, blocks, 4, 0) == 0
