"""The paired design: four ways to one working set differ in what their definition says, and in nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from tests.vclab.machines import everything, free_frames
from vckernels.causes import Cause
from vclab import GFP_KERNEL, MmuOptions, OutOfMemory, System, streams
from vclab.studies.cells import (
    CELLS,
    EVENT_NAMES,
    EVENTS,
    INDEPENDENT_WARM_UP,
    PHASES,
    Cells,
    all_counts,
    coalescible,
    digest,
    offsets_for,
)
from vclab.units import PAGE_BYTES, PAGE_SHIFT

COUNT = 20_000
SETS = [(1, 4), (4, 16), (9, 4)]
"""Order and number of pages of a working set."""
PATTERNS: dict[str, Callable[[int], npt.NDArray[np.int64]]] = {
    "uniform": lambda nbytes: streams.uniform(nbytes, COUNT, seed=2),
    "chase": lambda nbytes: streams.chase(nbytes, COUNT, seed=2),
    "zipf": lambda nbytes: streams.zipf(nbytes, COUNT, seed=2),
    "hash table": lambda nbytes: streams.hash_table(nbytes, COUNT, seed=2),
    "sequential": lambda nbytes: streams.sequential(nbytes, COUNT),
    "strided": lambda nbytes: streams.strided(nbytes, COUNT, PAGE_BYTES),
}
DATA = {"data_level_1", "data_level_2", "data_level_3", "data_memory"}
ARRAY = {"page_array_access", "array_level_1", "array_level_2", "array_level_3", "array_memory"}
TRANSLATION = {name for name in EVENT_NAMES if "tlb" in name or "walk" in name or "update" in name}


@pytest.fixture(scope="module")
def aged() -> System:
    """Return a machine that has no block of order 9 free and few of order 7."""
    system = System(memory="128MiB", seed=3)
    system.fragment(7, 0.9)
    return system


@pytest.fixture(scope="module", params=SETS, ids=lambda one: f"{one[1]} of order {one[0]}")
def cells(request: pytest.FixtureRequest, aged: System) -> Cells:
    order, count = request.param
    return Cells(aged, order, count, np.random.default_rng(1))


def live(cells: Cells) -> int:
    """Return how many pages the working set has."""
    return len(cells.pages)


def counts(cells: Cells, pattern: str, write: bool = False) -> dict[str, dict[str, int]]:
    """Return the events of a pattern in each cell, each begun in the same way."""
    offsets = PATTERNS[pattern](live(cells) * cells.nbytes)
    found = {}
    for cell in CELLS:
        cells.prepare(cell, live(cells))
        found[cell] = dict(zip(EVENT_NAMES, cells.access(cell, live(cells), offsets, write).tolist(), strict=True))
    return found


def differing(one: dict[str, int], other: dict[str, int]) -> set[str]:
    """Return the names of the events that two cells count differently."""
    return {name for name in EVENT_NAMES if one[name] != other[name]}


def without(events: dict[str, int], names: set[str]) -> dict[str, int]:
    """Return all other events."""
    return {name: count for name, count in events.items() if name not in names}


def data_sum(events: dict[str, int]) -> int:
    """Return the data accesses that some level served."""
    return sum(events[name] for name in DATA)


# Frames and mappings


def test_cells_have_the_frames_that_the_design_gives_them(cells: Cells) -> None:
    """i and ii the same contiguous ones, iii and iv the same scattered ones; as the page tables say, not the cells."""
    frames = {}
    for cell, bases, nbytes in (
        ("i", cells.direct, cells.nbytes),
        ("ii", cells.remapped, cells.nbytes),
        ("iii", cells.virtual, cells.nbytes),
        ("iv", cells.open_coded, PAGE_BYTES),
    ):
        addresses = (bases[:, None] + np.arange(0, nbytes, PAGE_BYTES, dtype=np.uint64)).ravel()
        physical = cells.system(cell).page_tables.translate(addresses)
        frames[cell] = (physical >> PAGE_SHIFT).tolist()
        assert (physical % PAGE_BYTES == 0).all()
        assert frames[cell] == cells.frames(cell).tolist()
        assert len(set(frames[cell])) == live(cells) * cells.nbytes // PAGE_BYTES
    assert frames["i"] == frames["ii"]
    assert frames["iii"] == frames["iv"]
    assert frames["iii"] != frames["i"]
    pages = np.array(frames["i"]).reshape(live(cells), -1)
    assert (np.diff(pages, axis=1) == 1).all()
    assert (pages[:, 0] % pages.shape[1] == 0).all()


def test_cells_are_reached_through_the_mappings_that_the_design_gives_them(cells: Cells) -> None:
    area, start = cells.contiguous.vmalloc_area, cells.contiguous.direct_map.start
    for bases in (cells.direct, cells.open_coded):
        assert ((bases >= start) & (bases < start + (128 << 20))).all()
    for bases in (cells.remapped, cells.virtual):
        assert all(address in area for address in bases.tolist())
    assert all(page.is_virtual for page in cells.pages)
    # The array of each page, in the machine of cells iii and iv, holds one word for each of its frames.
    arrays = cells.scattered.page_tables.translate(cells.arrays)
    assert (arrays >= 0).all()
    assert len(set(arrays.tolist())) == live(cells)


def test_counterfactual_blocks_stand_for_those_that_physical_could_not_win(aged: System, cells: Cells) -> None:
    order = int(cells.nbytes // PAGE_BYTES).bit_length() - 1
    free = aged.copy(policy="physical")
    won = 0
    try:
        while won < live(cells):
            free.alloc_pages(order, GFP_KERNEL)
            won += 1
    except OutOfMemory:
        pass
    assert cells.counterfactual == live(cells) - won
    assert (cells.counterfactual > 0) == (order == 9)
    held = ~free_frames(cells.contiguous)
    assert held[cells.frames("i")[: won << order]].all()


def test_the_machine_that_was_aged_stays_as_it_is(aged: System) -> None:
    before = everything(aged)
    cells = Cells(aged, 4, 3, np.random.default_rng(0))
    cells.access("iii", 3, streams.uniform(3 * cells.nbytes, 500))
    assert everything(aged) == before


def test_more_blocks_than_there_are_cannot_be_counterfactual(aged: System) -> None:
    with pytest.raises(OutOfMemory, match="order 10"):
        Cells(aged, 10, 40, np.random.default_rng(0))


# One difference at a time


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("write", [False, True])
def test_with_free_translation_mapping_makes_no_difference_and_placement_only_who_serves(
    cells: Cells, pattern: str, write: bool
) -> None:
    cells.set_options(MmuOptions(free_translation=True, prefetch=False))
    found = counts(cells, pattern, write)
    assert found["ii"] == found["i"]
    assert differing(found["iii"], found["i"]) <= DATA
    assert data_sum(found["iii"]) == data_sum(found["i"]) == COUNT
    # A first level of 64 sets of lines is indexed inside the page: frames make no difference there.
    assert found["iii"]["data_level_1"] == found["i"]["data_level_1"]
    assert not any(found[cell][name] for cell in CELLS for name in TRANSLATION)
    assert differing(found["iv"], found["iii"]) <= DATA | ARRAY | {"fill_conflict"}
    assert sum(found["iv"][name] for name in ARRAY - {"page_array_access"}) == COUNT


@pytest.mark.parametrize("pattern", PATTERNS)
def test_prefetching_depends_on_frames_only_through_what_it_fetches(cells: Cells, pattern: str) -> None:
    cells.set_options(MmuOptions(free_translation=True))
    found = counts(cells, pattern)
    assert found["ii"] == found["i"]
    assert differing(found["iii"], found["i"]) <= DATA | {"prefetch_line"}
    assert data_sum(found["iii"]) == COUNT


def test_placement_makes_a_difference_that_colour_neutral_caches_take_away(aged: System) -> None:
    """The controls control something: 8 MiB of scattered frames conflict elsewhere than contiguous ones."""
    cells = Cells(aged, 4, 128, np.random.default_rng(1))
    differences = {}
    for mode in ("physical", "colour-neutral"):
        cells.set_options(MmuOptions(free_translation=True, data_caches=mode))
        found = counts(cells, "uniform")
        differences[mode] = abs(found["iii"]["data_level_2"] - found["i"]["data_level_2"])
    assert differences["physical"] > 0
    assert differences["colour-neutral"] == 0


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prefetch", [False, True])
def test_colour_neutral_and_free_translation_leave_no_difference(cells: Cells, pattern: str, prefetch: bool) -> None:
    """Cell iv differs by its page-array loads alone: their number, and the lines that they take from data."""
    cells.set_options(MmuOptions(free_translation=True, data_caches="colour-neutral", prefetch=prefetch))
    found = counts(cells, pattern)
    assert found["i"] == found["ii"] == found["iii"]
    assert not any(found["i"][name] for name in ARRAY)
    assert found["iv"]["page_array_access"] == COUNT
    assert sum(found["iv"][name] for name in ARRAY - {"page_array_access"}) == COUNT
    assert data_sum(found["iv"]) == data_sum(found["i"]) == COUNT
    # Under LRU, further lines in a set never let data hit the first level that missed it without them.
    assert found["iv"]["data_level_1"] <= found["i"]["data_level_1"]
    affected = ARRAY | DATA | {"fill_conflict"} | ({"prefetch_line"} if prefetch else set())
    assert differing(found["iv"], found["i"]) <= affected
    # One array word for each page, so no more lines from memory than arrays have.
    assert found["iv"]["array_memory"] <= live(cells) * -(-cells.nbytes // PAGE_BYTES * 8 // 64)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_at_first_level_cost_page_array_loads_are_all_that_is_left(cells: Cells, pattern: str) -> None:
    """Data is in no cache then, so the array cannot take lines from it."""
    cells.set_options(MmuOptions(free_translation=True, data_caches="first-level"))
    found = counts(cells, pattern)
    assert found["i"] == found["ii"] == found["iii"]
    assert without(found["iv"], ARRAY) == without(found["i"], ARRAY)
    assert found["i"] == dict.fromkeys(EVENT_NAMES, 0) | {"data_access": COUNT, "data_level_1": COUNT}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("write", [False, True])
def test_at_first_level_cost_every_data_access_is_a_first_level_hit(cells: Cells, pattern: str, write: bool) -> None:
    """Translation is what it was: the same in ii and iii, which differ in frames only."""
    cells.set_options(MmuOptions())
    full = counts(cells, pattern, write)
    cells.set_options(MmuOptions(data_caches="first-level"))
    found = counts(cells, pattern, write)
    served = {"walk_level_1", "walk_level_2", "walk_level_3", "walk_memory"}
    for cell in CELLS:
        assert found[cell]["data_level_1"] == data_sum(found[cell]) == COUNT
        assert found[cell]["fill_conflict"] == found[cell]["prefetch_line"] == 0
        assert sum(found[cell][name] for name in served) == found[cell]["walk_reference"]
        # Zen 3 has no next-page prefetcher, so data has no part in translation.
        for name in TRANSLATION - served:
            assert found[cell][name] == full[cell][name]
    for name in TRANSLATION - served:
        assert found["ii"][name] == found["iii"][name]
    assert found["ii"]["walk"] > found["i"]["walk"]
    hits = ("first_level_tlb_hit", "second_level_tlb_hit", "walk")
    for cell in CELLS:
        assert sum(found[cell][name] for name in hits) == COUNT * (2 if cell == "iv" else 1)


# Measuring


def test_cells_are_measured_apart(cells: Cells) -> None:
    """Whatever was measured before, in whatever order, a cell begins from the same state."""
    cells.set_options(MmuOptions())
    pages = live(cells) * cells.nbytes // PAGE_BYTES
    offsets = offsets_for([streams.chase], live(cells) * cells.nbytes, 500, seed=4)
    assert len(offsets.cold) == pages
    assert [len(stream) for stream in offsets.streams] == [pages + 500]
    first = {cell: cells.measure(cell, live(cells), offsets) for cell in CELLS}
    for cell in ("iii", "i", "iv", "ii", "i", "iii"):
        again = cells.measure(cell, live(cells), offsets)
        assert again.shape == (len(PHASES), len(EVENTS))
        assert again.tolist() == first[cell].tolist()
    for cell in CELLS:
        accesses = first[cell][:, EVENTS.index(Cause.DATA_ACCESS)].tolist()
        assert accesses == [pages, 500]
    # A cold chase touches each page once, and walks for each that has an entry of its own.
    walk = EVENTS.index(Cause.WALK)
    assert first["ii"][0, walk] == first["iii"][0, walk] == pages


def test_patterns_share_the_first_touch_and_the_first_goes_on_as_if_it_were_alone(cells: Cells) -> None:
    cells.set_options(MmuOptions())
    nbytes = live(cells) * cells.nbytes
    alone = offsets_for([streams.chase], nbytes, 300, seed=2)
    both = offsets_for([streams.chase, streams.uniform], nbytes, 300, seed=2)
    assert both.digests[0] == alone.digests[0] != both.digests[1]
    for cell in CELLS:
        measured = cells.measure(cell, live(cells), both)
        assert measured[:2].tolist() == cells.measure(cell, live(cells), alone).tolist()
        assert measured[2, EVENTS.index(Cause.DATA_ACCESS)] == 300


def test_warm_ups_are_a_whole_pass_but_of_independent_accesses() -> None:
    pages = 4 * INDEPENDENT_WARM_UP
    chase, uniform, sequential = offsets_for(
        [streams.chase, streams.uniform, lambda nbytes, count, seed: streams.sequential(nbytes, count)],
        pages * PAGE_BYTES,
        100,
        seed=3,
    ).streams
    assert [len(chase), len(uniform), len(sequential)] == [pages + 100, INDEPENDENT_WARM_UP + 100, pages + 100]
    cold = offsets_for([streams.chase], pages * PAGE_BYTES, 100, seed=3).cold
    np.testing.assert_array_equal(chase[:pages], cold)
    assert len(offsets_for([streams.uniform], 3 * PAGE_BYTES, 100, seed=3).streams[0]) == 3 + 100


def test_what_results_keep_is_all_that_an_access_counts(cells: Cells) -> None:
    """From the kept events the counters of the access come back, zeros elsewhere."""
    cells.set_options(MmuOptions())
    offsets = PATTERNS["uniform"](live(cells) * cells.nbytes)
    system = cells.system("iii")
    cells.prepare("iii", live(cells))
    before = system.mmu.counters.copy()
    kept = cells.access("iii", live(cells), offsets)
    assert all_counts(kept).tolist() == (system.mmu.counters - before).tolist()
    assert all_counts(np.stack([kept, 2 * kept])).tolist() == [
        all_counts(kept).tolist(),
        (2 * all_counts(kept)).tolist(),
    ]


def test_digests_tell_arrays_apart() -> None:
    numbers = np.arange(100)
    assert digest(numbers) == digest(numbers.copy())
    assert len({digest(numbers), digest(numbers[::-1]), digest(numbers[:-1])}) == 3


def test_coalescible_groups_are_aligned_runs_of_four(aged: System) -> None:
    fresh = System(memory="16MiB", policy="physical")
    whole = [fresh.alloc_pages(4, GFP_KERNEL)]
    assert coalescible(whole) == 1.0
    assert coalescible([fresh.alloc_pages(1, GFP_KERNEL)]) == 0.0
    pages = [aged.copy(policy="vmalloc").alloc_pages(9, GFP_KERNEL)]
    by_hand = [
        all(frame == group[0] + number for number, frame in enumerate(group)) and group[0] % 4 == 0
        for group in pages[0].frames.reshape(-1, 4).tolist()
    ]
    assert coalescible(pages) == sum(by_hand) / len(by_hand)
    assert 0 < coalescible(pages) < 1
