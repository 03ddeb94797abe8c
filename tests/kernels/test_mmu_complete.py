"""The complete MMU, with paging-structure caches, data caches and prefetchers: against the plain one and by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.campaigns import mmu as campaign
from tests.campaigns.mmu import CLEAN_LEAF, KERNEL_START_5, READ_ONLY_LEAF, UNUSED_TABLE
from tests.campaigns.tlb import GIB, KERNEL_START
from tests.kernels.machines import PIECE, CompleteMachine, Geometry, Neighbour
from tests.oracles.mmu import BY_HISTORY, NO_NEIGHBOUR, PAIR, PlainLevel, PlainStructure
from tests.oracles.tlb import PlainArray
from vckernels import entry

LINE = 64
LARGE_PAGE = 2 << 20
ONE_ENTRY = [PlainArray(1, 1, 1, (1, 2, 3))]
"""A TLB in which every access to another page than the last walks."""
LARGE_TLB = [PlainArray(1, 1, 64, (1, 2, 3))]
TWO_LEVELS = [PlainArray(1, 1, 4, (1, 2, 3)), PlainArray(2, 8, 8, (1, 2, 3))]


def machine_of(geometry: Geometry, page_level: int, addresses: Sequence[int]) -> CompleteMachine:
    """Return a machine with one page of a size at each address, in frames that follow one another from 4 GiB on."""
    machine = CompleteMachine(geometry)
    size = 1 << 9 * (page_level - 1)
    for number, address in enumerate(addresses):
        machine.map(address, page_level, [(1 << 20) + number * size])
    return machine


def walk_in_turn(geometry: Geometry, page_level: int, addresses: Sequence[int], rounds: int) -> dict[str, int]:
    """Return the events of loading one word of each page in turn, so many times over."""
    machine = machine_of(geometry, page_level, addresses)
    machine.access(np.tile(np.arange(len(addresses)), rounds) * PIECE, bases=addresses)
    counts = machine.check()
    assert (
        sum(counts[f"WALK_{level}"] for level in ("LEVEL_1", "LEVEL_2", "LEVEL_3", "MEMORY"))
        == (counts["WALK_REFERENCE"])
    )
    return counts


def test_two_percent_of_the_campaign_agrees() -> None:
    """9 geometries like real CPUs' and 8 random ones; the rest is ``python -m tests.campaigns.mmu``."""
    results = campaign.run(0.02, seed=1)
    assert len(results) == len(campaign.GEOMETRIES) + campaign.RANDOM_GEOMETRIES
    for result in results:
        assert result.agrees, str(result)
    happened = {name for result in results for name, count in result.counts.items() if count}
    assert happened == set(results[0].counts)


# Walks: words loaded, by hand


@pytest.mark.parametrize(
    ("entries", "references", "hits"),
    [(0, 512, 0), (32, 258, 127), (64, 194, 127)],
    ids=["off", "32 directory entries", "64 directory entries"],
)
def test_four_levels_with_small_pages(entries: int, references: int, hits: int) -> None:
    """64 pages in turn, twice, each in its own 2 MiB region of one GiB.

    Without paging-structure caches each of 128 walks loads 4 words: 512.
    The first walk finds nothing: 4 words. Every other begins at least below the pointer-table word: 127 hits.
    With 32 directory entries, 64 in turn never hit under LRU: 127 walks load the directory entry and the leaf:
    4 + 127 * 2 = 258. With 64, the first round costs 4 + 63 * 2 = 130 and the second only leaves: 130 + 64 = 194.
    """
    structures = [PlainStructure(1, entries, (2,)), PlainStructure(1, 4, (3,)), PlainStructure(1, 4, (4,))]
    geometry = Geometry(ONE_ENTRY, structures if entries else [])
    pages = [KERNEL_START + number * LARGE_PAGE + (number << 12) for number in range(64)]
    counts = walk_in_turn(geometry, 1, pages, rounds=2)
    assert counts["WALK"] == 128
    assert counts["WALK_REFERENCE"] == references
    assert counts["WALK_CACHE_HIT"] == hits


@pytest.mark.parametrize(("cached", "references", "hits"), [(False, 96, 0), (True, 34, 31)], ids=["off", "on"])
def test_large_pages(cached: bool, references: int, hits: int) -> None:
    """16 pages of 2M in one GiB, in turn, twice.

    Without caches 32 walks load 3 words each: 96. With them the leaf is loaded each time, as a large leaf enters no
    paging-structure cache, and it alone once the pointer-table word is cached: 3 + 31 = 34.
    """
    structures = [PlainStructure(1, 32, (2,)), PlainStructure(1, 4, (3,)), PlainStructure(1, 4, (4,))]
    pages = [KERNEL_START + number * LARGE_PAGE for number in range(16)]
    counts = walk_in_turn(Geometry(ONE_ENTRY, structures if cached else []), 2, pages, rounds=2)
    assert counts["WALK_REFERENCE"] == references
    assert counts["WALK_CACHE_HIT"] == hits


@pytest.mark.parametrize(
    ("structures", "references"),
    [
        ([], 100),
        ([PlainStructure(1, 2, (5,))], 82),
        ([PlainStructure(1, 2, (5,)), PlainStructure(1, 1, (4,))], 82),
        ([PlainStructure(1, 2, (5,)), PlainStructure(1, 2, (4,))], 64),
        ([PlainStructure(1, 8, (2, 3, 4, 5))], 28),
    ],
    ids=["off", "PML5E", "one PML4E", "PML5E and PML4E", "all in one array"],
)
def test_five_levels(structures: list[PlainStructure], references: int) -> None:
    """Two pages 256 TiB apart in turn, ten times: nothing below the root is shared, 20 walks.

    Off: 20 * 5 = 100. Two PML5 entries: the first two walks load 5 words, 18 begin at level 4: 10 + 18 * 4 = 82. One
    PML4 entry for two pages in turn never hits: 82 again. Two: 10 + 18 * 3 = 64. All words that name a table in one
    array of 8: the first two walks insert 4 each, 18 load only the leaf: 10 + 18 = 28.
    """
    pages = [KERNEL_START_5, KERNEL_START_5 + (1 << 48)]
    counts = walk_in_turn(Geometry(ONE_ENTRY, structures, table_levels=5), 1, pages, rounds=10)
    assert counts["WALK_REFERENCE"] == references
    assert counts["WALK_CACHE_HIT"] == (18 if structures else 0)


@pytest.mark.parametrize(
    ("ways", "directories", "references"),
    [(2, False, 22), (2, True, 13), (1, True, 22)],
    ids=["pointer-table words only", "directory entries in the second-level TLB", "no room beside the page"],
)
def test_directory_entries_in_the_second_level_tlb(ways: int, directories: bool, references: int) -> None:
    """Ten pages of one 2 MiB region, one after the other; a second-level TLB of one set.

    The first walk loads 4 words. Where only pointer-table words are cached, 9 more load directory entry and leaf:
    4 + 18 = 22. With two ways the set holds the region's directory entry, made most recent by each walk, and the last
    page: 4 + 9 = 13. With one way the page's own entry pushes the directory entry out each time: 22.
    """
    arrays = [PlainArray(1, 1, 1, (1,)), PlainArray(2, 1, ways, (1, 2), 0, directories)]
    pages = [KERNEL_START + (number << 12) for number in range(10)]
    counts = walk_in_turn(Geometry(arrays, [PlainStructure(1, 4, (3, 4))]), 1, pages, rounds=1)
    assert counts["WALK"] == 10
    assert counts["WALK_REFERENCE"] == references
    assert counts["WALK_CACHE_HIT"] == 9


@pytest.mark.parametrize(
    ("regions", "references", "hits"), [(20, 62, 98), (30, 122, 118)], ids=["fits", "one too many"]
)
def test_physically_tagged_walk_cache(regions: int, references: int, hits: int) -> None:
    """24 words of any level, found by their physical address; one page in each of some 2 MiB regions, in turn, twice.

    The first walk loads 4 words and caches 3. Those after it hit root and pointer-table word and load directory entry
    and leaf. 20 regions: 4 + 19 * 2 in the first round; then all three hit and the leaf is loaded: + 20 = 62 words, 19
    * 2 + 20 * 3 = 98 hits. 30 regions need 32 entries: the two upper words stay, as each walk uses them, and 30
    directory entries in turn for 22 places never hit: 4 + 59 * 2 = 122 words, 59 * 2 = 118 hits.
    """
    geometry = Geometry(ONE_ENTRY, [PlainStructure(1, 24, (2, 3, 4))], physical_tags=True)
    pages = [KERNEL_START + number * LARGE_PAGE for number in range(regions)]
    counts = walk_in_turn(geometry, 1, pages, rounds=2)
    assert counts["WALK_REFERENCE"] == references
    assert counts["WALK_CACHE_HIT"] == hits


def test_a_large_leaf_is_in_no_physically_tagged_cache() -> None:
    """4 pages of 2M, twice: 3 words, then 7 times the leaf after two hits."""
    geometry = Geometry(ONE_ENTRY, [PlainStructure(1, 24, (2, 3, 4))], physical_tags=True)
    counts = walk_in_turn(geometry, 2, [KERNEL_START + number * LARGE_PAGE for number in range(4)], rounds=2)
    assert counts["WALK_REFERENCE"] == 3 + 7
    assert counts["WALK_CACHE_HIT"] == 14


def test_page_table_words_lie_in_cache_lines_of_eight() -> None:
    """16 neighbouring pages: their leaves lie in 2 lines, the words above in 3; all else are first-level hits."""
    counts = walk_in_turn(Geometry(LARGE_TLB), 1, [KERNEL_START + (number << 12) for number in range(16)], rounds=1)
    assert counts["WALK_REFERENCE"] == 64
    assert counts["WALK_MEMORY"] == 5
    assert counts["WALK_LEVEL_1"] == 59


def test_invalidating_one_page_forgets_all_paging_structure_entries() -> None:
    """INVLPG of a page elsewhere: the next walk of another page loads all four words again."""
    structures = [PlainStructure(1, 32, (2,)), PlainStructure(1, 4, (3,)), PlainStructure(1, 4, (4,))]
    for arrays in (ONE_ENTRY, [PlainArray(1, 1, 1, (1,)), PlainArray(2, 1, 64, (1, 2), 0, True)]):
        pages = [KERNEL_START + (number << 12) for number in range(4)]
        directories = arrays[-1].directories
        machine = machine_of(Geometry(arrays, structures[directories:]), 1, pages)
        machine.access([0, PIECE], bases=pages)
        assert machine.check()["WALK_REFERENCE"] == 5
        machine.invalidate(pages[3], 1, 1)
        machine.access([2 * PIECE], bases=pages)
        assert machine.check()["WALK_REFERENCE"] == 9
        machine.flush()
        machine.access([3 * PIECE], bases=pages)
        assert machine.check()["WALK_REFERENCE"] == 13


@pytest.mark.parametrize("table_levels", [4, 5])
def test_a_fault_leaves_the_words_on_its_way_cached(table_levels: int) -> None:
    """A hole in a page table that has other pages: all its words are loaded once, then the empty leaf alone."""
    start = KERNEL_START if table_levels == 4 else KERNEL_START_5
    geometry = Geometry(LARGE_TLB, [PlainStructure(1, 8, (2, 3, 4, 5))], table_levels=table_levels)
    machine = machine_of(geometry, 1, [start])
    machine.access([PIECE, PIECE, PIECE], bases=[start], piece=LARGE_PAGE)
    counts = machine.check()
    assert counts["TLB_FAULT"] == counts["WALK"] == 3
    assert counts["WALK_REFERENCE"] == table_levels + 2
    assert counts["WALK_CACHE_HIT"] == 2
    assert sum(counts[name] for name in counts if name.startswith("DATA_") and name != "DATA_ACCESS") == 0


@pytest.mark.parametrize("table_levels", [4, 5])
@pytest.mark.parametrize("physical_tags", [False, True])
def test_an_address_that_is_not_canonical_loads_no_word(table_levels: int, physical_tags: bool) -> None:
    """Its lower bits are those of a mapped page, which must not pass for it; a general-protection fault each time."""
    start = KERNEL_START if table_levels == 4 else KERNEL_START_5
    structures = [PlainStructure(1, 8, tuple(range(2, table_levels + 1)))]
    machine = machine_of(Geometry(TWO_LEVELS, structures, physical_tags, table_levels=table_levels), 1, [start])
    machine.access([0, 8], bases=[start])
    before = machine.check()
    for address in (start & (1 << 60) - 1, start & (1 << 9 * table_levels + 12) - 1, 1 << 63):
        machine.access([0, 8], bases=[address])
    counts = machine.check()
    assert counts["TLB_FAULT"] == counts["WALK"] - before["WALK"] == 6
    assert counts["WALK_REFERENCE"] == before["WALK_REFERENCE"] == table_levels
    assert counts["WALK_CACHE_HIT"] == 0


# Accessed and dirty bits


def test_the_first_store_after_a_load_loads_the_leaf_again() -> None:
    """A clean page: the load's walk sets 4 accessed bits, the store that hits the dirty one, later ones none."""
    machine = CompleteMachine(Geometry(TWO_LEVELS))
    machine.map(KERNEL_START, 1, [77], leaf_flags=CLEAN_LEAF, table_flags=UNUSED_TABLE)
    machine.access([0], bases=[KERNEL_START])
    counts = machine.check()
    assert (counts["ACCESSED_UPDATE"], counts["DIRTY_UPDATE"], counts["WALK_REFERENCE"]) == (4, 0, 4)
    machine.access([0, 8, 16], write=True, bases=[KERNEL_START])
    counts = machine.check()
    assert (counts["ACCESSED_UPDATE"], counts["DIRTY_UPDATE"], counts["WALK_REFERENCE"]) == (4, 1, 5)
    assert counts["WALK"] == 1
    assert counts["FIRST_LEVEL_TLB_HIT"] == 3


def test_a_store_walk_sets_both_bits_with_no_further_load() -> None:
    machine = CompleteMachine(Geometry(TWO_LEVELS))
    machine.map(KERNEL_START, 2, [512, 1024], leaf_flags=CLEAN_LEAF, table_flags=UNUSED_TABLE)
    machine.access([0, LARGE_PAGE, 0], write=True, bases=[KERNEL_START], piece=2 * LARGE_PAGE)
    counts = machine.check()
    assert (counts["ACCESSED_UPDATE"], counts["DIRTY_UPDATE"], counts["WALK_REFERENCE"]) == (4, 2, 6)


def test_what_is_known_dirty_in_the_second_level_stays_so_after_eviction_from_the_first() -> None:
    """Load, store, push out of the first level's four ways, store again: one update."""
    pages = [KERNEL_START + (number << 12) for number in range(6)]
    machine = CompleteMachine(Geometry(TWO_LEVELS))
    machine.map(KERNEL_START, 1, range(100, 106), leaf_flags=CLEAN_LEAF)
    machine.access([0], bases=pages)
    machine.access([0], write=True, bases=pages)
    machine.access(np.arange(1, 6) * PIECE, bases=pages)
    machine.access([0], write=True, bases=pages)
    counts = machine.check()
    assert counts["SECOND_LEVEL_TLB_HIT"] == 1
    assert counts["DIRTY_UPDATE"] == 1


# Second-level index hash


def test_a_hashed_index_spreads_a_stride_of_all_sets() -> None:
    """Pages 128 apart share one of 128 sets of 4 ways; hashed by 7 bits they lie in sets of their own."""
    pages = [KERNEL_START + (number << 19) for number in range(32)]
    walks = []
    for hash_shift in (0, 7):
        arrays = [PlainArray(1, 1, 1, (1,)), PlainArray(2, 128, 4, (1, 2), hash_shift)]
        walks.append(walk_in_turn(Geometry(arrays), 1, pages, rounds=3)["WALK"])
    assert walks == [96, 32]


# Data caches


def data_counts(machine: CompleteMachine) -> list[int]:
    """Return the data accesses served by each level, memory last."""
    counts = machine.check()
    return [counts[f"DATA_{level}"] for level in ("LEVEL_1", "LEVEL_2", "LEVEL_3", "MEMORY")]


def cyclic(levels: Sequence[PlainLevel], lines: Sequence[int], rounds: int, *, warm: bool = True) -> list[int]:
    """Return who served lines of one 2M page in turn, after a round that is not counted if ``warm``.

    Translation is free, so that no page-table word disturbs the caches.
    """
    machine = machine_of(Geometry(LARGE_TLB, levels=levels), 2, [KERNEL_START])
    machine.set(free_translation=True)
    offsets = np.array(lines) * LINE
    machine.access(offsets, bases=[KERNEL_START], piece=LARGE_PAGE)
    first = data_counts(machine)
    machine.access(np.tile(offsets, rounds), bases=[KERNEL_START], piece=LARGE_PAGE)
    return [after - warm * before for after, before in zip(data_counts(machine), first, strict=True)]


@pytest.mark.parametrize("ways", [1, 2, 7, 8, 16])
def test_one_line_more_than_ways_never_hits(ways: int) -> None:
    """Lines 16 apart share a set of 16; LRU has always just evicted the one that comes next."""
    levels = [PlainLevel(16, ways), PlainLevel(64, 32)]
    assert cyclic(levels, range(0, 16 * ways, 16), 5) == [5 * ways, 0, 0, 0]
    assert cyclic(levels, range(0, 16 * (ways + 1), 16), 5) == [0, 5 * (ways + 1), 0, 0]


@pytest.mark.parametrize(("sets", "ways"), [(16, 4), (11, 3), (1, 40), (7, 16)])
def test_a_working_set_of_exactly_the_cache_always_hits(sets: int, ways: int) -> None:
    """Also with sets that are no power of two; one line more and every line of its set misses."""
    levels = [PlainLevel(sets, ways), PlainLevel(100, 16), PlainLevel(1000, 9)]
    assert cyclic(levels, range(sets * ways), 4) == [4 * sets * ways, 0, 0, 0]
    assert cyclic(levels, range(sets * ways + 1), 4) == [4 * (sets - 1) * ways, 4 * (ways + 1), 0, 0]


def test_the_third_level_serves_what_the_second_cannot_hold() -> None:
    """20 lines of one set each: 4 + 8 ways above, 20 below."""
    levels = [PlainLevel(8, 4), PlainLevel(8, 8), PlainLevel(8, 20)]
    assert cyclic(levels, range(0, 160, 8), 3) == [0, 0, 60, 0]
    assert cyclic(levels, range(0, 168, 8), 3) == [0, 0, 0, 63]


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 16), (8, 4)])
def test_a_victim_cache_holds_what_the_first_level_lacks(first: int, second: int) -> None:
    """Exclusive: lines of both levels together need no memory, where a fill-on-miss level has but its own."""
    together = range(0, 16 * (first + second), 16)
    exclusive = [PlainLevel(16, first), PlainLevel(16, second, 0, True)]
    assert cyclic(exclusive, together, 5) == [0, 5 * len(together), 0, 0]
    assert cyclic(exclusive, range(0, 16 * (first + second + 1), 16), 5)[3] == 5 * (first + second + 1)
    filled = [PlainLevel(16, first), PlainLevel(16, second)]
    assert cyclic(filled, together, 5)[3] == 5 * len(together)


def test_two_victim_levels_hold_all_three_together() -> None:
    """64 + 128 + 256 lines, spread evenly over the sets of each; with 64 more none is left when its turn comes."""
    levels = [PlainLevel(16, 4), PlainLevel(32, 4, 0, True), PlainLevel(64, 4, 0, True)]
    assert cyclic(levels, range(448), 6) == [0, 0, 6 * 448, 0]
    assert cyclic(levels, range(512), 6) == [0, 0, 0, 6 * 512]


def test_a_victim_cache_passes_on_what_it_evicts_even_when_it_had_the_line() -> None:
    """One line above; two sets of one way; four lines below.

    0, 1 and 3 come from memory and leave 0 and 1 in the two sets. 0 is taken from its set; 3 comes down into the other
    and drives 1 out, which the third level serves.
    """
    levels = [PlainLevel(1, 1), PlainLevel(2, 1, 0, True), PlainLevel(1, 4, 0, True)]
    assert cyclic(levels, [0, 1, 3, 0, 1], 0, warm=False) == [0, 1, 1, 3]


def test_an_index_hash_spreads_a_stride_of_all_sets() -> None:
    """Lines 16 apart in 16 sets of one way: in one set without a hash, in 16 with 4 bits of the line above."""
    assert cyclic([PlainLevel(16, 1), PlainLevel(1024, 1)], range(0, 256, 16), 2) == [0, 32, 0, 0]
    assert cyclic([PlainLevel(16, 1, 4), PlainLevel(1024, 1)], range(0, 256, 16), 2) == [32, 0, 0, 0]
    assert cyclic([PlainLevel(16, 1, 1), PlainLevel(1024, 1)], range(0, 256, 16), 2) == [0, 32, 0, 0]
    assert cyclic([PlainLevel(16, 8, 1), PlainLevel(1024, 1)], range(0, 256, 16), 2) == [32, 0, 0, 0]


def test_a_miss_into_the_set_just_filled_is_a_conflict_unless_the_tlb_missed() -> None:
    """Three lines of a set with one way, then others; the very first access has no miss before it."""
    machine = machine_of(Geometry(TWO_LEVELS, levels=[PlainLevel(16, 1), PlainLevel(64, 8)]), 2, [KERNEL_START])
    machine.access(np.array([5]) * LINE, bases=[KERNEL_START], piece=LARGE_PAGE)
    lines = [21, 5, 5, 37, 38, 54, 6, 7]
    # 21 and 5 miss in set 5; 5 hits; 37 follows a hit; 38 is another set; 54 and 6 are conflicts; 7 is another set.
    machine.access(np.array(lines) * LINE, bases=[KERNEL_START], piece=LARGE_PAGE)
    assert machine.check()["FILL_CONFLICT"] == 4
    # Each access to another page walks: there is no first-level TLB hit.
    pages = [KERNEL_START + (number << 12) for number in range(8)]
    machine = machine_of(Geometry(ONE_ENTRY, levels=[PlainLevel(16, 1), PlainLevel(64, 8)]), 1, pages)
    machine.access(np.arange(8) * PIECE, bases=pages)
    assert machine.check()["FILL_CONFLICT"] == 0


def test_page_arrays_are_counted_apart() -> None:
    """512 words a page array's page: 8 a line; the array's page is one TLB entry and 64 lines."""
    pages = [KERNEL_START + (number << 12) for number in range(65)]
    machine = machine_of(
        Geometry([PlainArray(1, 1, 128, (1,))], levels=[PlainLevel(64, 16), PlainLevel(512, 8)]), 1, pages
    )
    machine.access(np.arange(64) * PIECE, bases=pages[:64], arrays=[pages[64]], array_piece=64 * PIECE)
    counts = machine.check()
    assert counts["PAGE_ARRAY_ACCESS"] == 64
    assert counts["ARRAY_MEMORY"] == 8
    assert counts["ARRAY_LEVEL_1"] == 56
    assert counts["WALK"] == 65


# Modes


def test_colour_neutral_data_ignores_where_frames_lie() -> None:
    """Frames all of one colour of a cache with 1024 sets: 16 pages conflict by frame and do not by place."""
    levels = [PlainLevel(64, 1), PlainLevel(1024, 1)]
    pages = [KERNEL_START + (number << 12) for number in range(16)]
    served = {}
    for mode in ("physical", "colour-neutral"):
        machine = CompleteMachine(Geometry([PlainArray(1, 1, 16, (1,))], levels=levels))
        machine.map(KERNEL_START, 1, np.arange(16) * 16 + (1 << 20))
        machine.set(mode, free_translation=True)
        machine.access(np.tile(np.arange(16), 5) * PIECE, bases=pages)
        served[mode] = data_counts(machine)
    assert served["physical"] == [0, 0, 0, 80]
    assert served["colour-neutral"] == [0, 64, 0, 16]


def test_first_level_data_leaves_the_caches_to_walks() -> None:
    machine = machine_of(Geometry(ONE_ENTRY), 1, [KERNEL_START, KERNEL_START + PIECE])
    machine.set("first-level")
    machine.access(np.tile([0, PIECE], 50), bases=[KERNEL_START, KERNEL_START + PIECE])
    counts = machine.check()
    assert counts["DATA_LEVEL_1"] == 100
    assert counts["WALK_REFERENCE"] == 400
    assert counts["WALK_MEMORY"] == 4
    assert counts["FILL_CONFLICT"] == 0


def test_an_access_at_first_level_cost_is_no_miss_to_conflict_with() -> None:
    """A miss, then one at first-level cost, then a miss in the same set of one way."""
    machine = machine_of(Geometry(LARGE_TLB, levels=[PlainLevel(16, 1), PlainLevel(64, 8)]), 2, [KERNEL_START])
    for mode in ("physical", "first-level", "physical"):
        machine.set(mode)
        line = 5 if mode == "first-level" else 16 + machine.check()["DATA_ACCESS"] * 16
        machine.access([line * LINE], bases=[KERNEL_START], piece=LARGE_PAGE)
    assert machine.check()["FILL_CONFLICT"] == 0


def test_free_translation_counts_data_only_and_leaves_the_tables_as_they_are() -> None:
    machine = CompleteMachine(Geometry(TWO_LEVELS))
    machine.map(KERNEL_START, 1, range(50, 60), leaf_flags=CLEAN_LEAF, table_flags=UNUSED_TABLE)
    before = machine.kernel_memory()
    machine.set(free_translation=True, stream_lines=4, next_page=True)
    pages = [KERNEL_START + (number << 12) for number in range(10)]
    machine.access(np.arange(0, 10 * PIECE, LINE), write=True, bases=pages)
    counts = machine.check()
    assert machine.kernel_memory() == before
    names = ("TLB", "WALK", "UPDATE", "REFERENCE")
    assert all(count == 0 for name, count in counts.items() if any(part in name for part in names))
    assert counts["DATA_ACCESS"] == 640
    assert counts["PREFETCH_LINE"] > 0


# Prefetchers


@pytest.mark.parametrize(("lines", "memory", "second"), [(0, 64, 0), (1, 3, 61), (4, 3, 61), (63, 3, 61)])
@pytest.mark.parametrize("step", [1, -1])
def test_a_stream_is_fetched_ahead_from_its_third_line_on(lines: int, memory: int, second: int, step: int) -> None:
    """The second line gives a direction, the third confirms it: 3 of 64 come from memory, the others need not."""
    machine = machine_of(Geometry(LARGE_TLB), 1, [KERNEL_START])
    machine.set(stream_lines=lines)
    machine.access(np.arange(64)[::step] * LINE, bases=[KERNEL_START])
    assert data_counts(machine) == [0, second, 0, memory]
    assert machine.check()["PREFETCH_LINE"] == second


def test_a_stream_ends_with_its_frame() -> None:
    """Of the 8 lines ahead of line 60 only 3 lie in the frame; in the next frame all begins anew."""
    machine = machine_of(Geometry(LARGE_TLB), 1, [KERNEL_START, KERNEL_START + PIECE])
    machine.set(stream_lines=8)
    machine.access(np.array([58, 59, 60, 64, 65]) * LINE, bases=[KERNEL_START, KERNEL_START + PIECE])
    assert data_counts(machine) == [0, 0, 0, 5]
    assert machine.check()["PREFETCH_LINE"] == 3


def test_32_streams_run_side_by_side_and_a_33rd_pushes_one_out() -> None:
    """Slots go by frame mod 32: 32 neighbours interleave without harm; frames 32 apart take each other's slot."""
    pages = [KERNEL_START + (number << 12) for number in range(33)]
    levels = [PlainLevel(64, 8), PlainLevel(1024, 16)]
    machine = machine_of(Geometry([PlainArray(1, 1, 64, (1,))], levels=levels), 1, pages)
    machine.set(stream_lines=2)
    machine.access((np.arange(6)[:, None] * LINE + np.arange(32) * PIECE).ravel(), bases=pages)
    # Lines 3 to 5 of each frame are fetched after line 2, then one more after each.
    assert machine.check()["PREFETCH_LINE"] == 32 * (2 + 3)
    machine = machine_of(Geometry([PlainArray(1, 1, 64, (1,))], levels=levels), 1, pages)
    machine.set(stream_lines=2)
    machine.access((np.arange(6)[:, None] * LINE + np.array([0, 32]) * PIECE).ravel(), bases=pages)
    assert machine.check()["PREFETCH_LINE"] == 0


def test_a_missed_line_brings_the_other_one_of_its_pair() -> None:
    """Lines 0 to 5 in turn: each even one comes from memory and the odd one after it with it, from either side."""
    machine = machine_of(Geometry(LARGE_TLB), 1, [KERNEL_START])
    machine.set(adjacent=PAIR)
    machine.access(np.array([0, 1, 2, 3, 5, 4]) * LINE, bases=[KERNEL_START])
    assert data_counts(machine) == [0, 3, 0, 3]
    assert machine.check()["PREFETCH_LINE"] == 3


@pytest.mark.parametrize(
    ("lines", "fetched"),
    [
        ([4, 5], [4]),
        ([5, 4], [5]),
        ([4, 6, 5], [6]),
        ([4, 6], []),
        ([62, 63], [62]),
        ([64, 63], []),
    ],
    ids=["previous", "next", "next before previous", "every other line", "last of the page", "first of the next"],
)
def test_a_missed_line_brings_the_neighbour_that_was_missed_before(lines: list[int], fetched: list[int]) -> None:
    """Caches of one line forget all else, so that what is fetched is found where it is put: in the second level."""
    bases = [KERNEL_START, KERNEL_START + PIECE]
    machine = machine_of(Geometry(LARGE_TLB, levels=[PlainLevel(1, 1), PlainLevel(1, 1)]), 1, bases)
    machine.set(adjacent=BY_HISTORY)
    machine.access(np.array(lines) * LINE, bases=bases)
    machine.access(np.array(fetched, int) * LINE, bases=bases)
    assert data_counts(machine) == [0, len(fetched), 0, len(lines)]
    machine.check()


@pytest.mark.parametrize(("apart", "fetched"), [(1023, 1), (1024, 0)])
def test_a_page_takes_the_place_in_the_history_of_one_1024_frames_away(apart: int, fetched: int) -> None:
    """Line 0, a line of the other page, line 1: its neighbour is fetched if the history still knows of line 0."""
    bases = [KERNEL_START, KERNEL_START + PIECE]
    machine = CompleteMachine(Geometry(LARGE_TLB, levels=[PlainLevel(1, 1), PlainLevel(1, 1)]))
    for base, frame in zip(bases, (1 << 14, (1 << 14) + apart), strict=True):
        machine.map(base, 1, [frame])
    machine.set(adjacent=BY_HISTORY)
    machine.access(np.array([0, 65, 1]) * LINE, bases=bases)
    assert machine.check()["PREFETCH_LINE"] == fetched


@pytest.mark.parametrize("next_page", [False, True])
def test_a_stream_that_leaves_its_page_has_the_next_translated(next_page: bool) -> None:
    """Eight pages from end to end: 8 walks, of which the prefetcher does 7 ahead of time.

    With a paging-structure cache of all levels each of the 7 loads the leaf alone. The last page's end asks for a page
    that is not mapped: a walk in vain, whose empty leaf word is loaded too.
    """
    pages = [KERNEL_START + (number << 12) for number in range(8)]
    machine = machine_of(Geometry(TWO_LEVELS, [PlainStructure(1, 8, (2, 3, 4))]), 1, pages)
    machine.set(next_page=next_page)
    machine.access(np.arange(0, 8 * PIECE, LINE), bases=pages)
    counts = machine.check()
    assert counts["WALK"] == (1 if next_page else 8)
    assert counts["PREFETCH_WALK"] == counts["PREFETCH_REFERENCE"] == (8 if next_page else 0)
    assert counts["WALK_REFERENCE"] == (4 if next_page else 11)
    assert counts["TLB_FAULT"] == 0


def test_the_next_page_is_not_walked_for_if_any_level_holds_it() -> None:
    """Backwards to a page's first line, with the page before in the second level only: no walk and no further hit."""
    pages = [KERNEL_START + (number << 12) for number in range(12)]
    machine = machine_of(Geometry(TWO_LEVELS), 1, pages)
    machine.access(np.arange(12) * PIECE, bases=pages)
    before = machine.check()
    machine.set(next_page=True)
    machine.access(np.arange(PIECE + 3 * LINE, PIECE - LINE, -LINE), bases=pages)
    counts = machine.check()
    assert counts["PREFETCH_WALK"] == 0
    assert counts["WALK"] == before["WALK"] == 12
    assert counts["SECOND_LEVEL_TLB_HIT"] - before["SECOND_LEVEL_TLB_HIT"] == 1


def test_what_the_next_page_pushed_out_is_no_hit_any_more() -> None:
    """A TLB of one entry: at the page's end the next page takes it, so the same page again is walked for again."""
    pages = [KERNEL_START, KERNEL_START + PIECE]
    machine = machine_of(Geometry(ONE_ENTRY), 1, pages)
    machine.set(next_page=True)
    machine.access(np.array([61, 62, 63, 63]) * LINE, bases=pages)
    counts = machine.check()
    assert counts["PREFETCH_WALK"] == 1
    assert counts["WALK"] == counts["FIRST_LEVEL_TLB_HIT"] == 2


def test_a_line_fetched_ahead_of_the_first_level_has_one_place_in_a_victim_cache() -> None:
    """Four ways above two; the stream 1, 2, 3 fetches 4 and 5, though 5 is above already.

    10 then drives 5 down, where it is: nothing has to go, and 4 is still there.
    """
    levels = [PlainLevel(1, 4), PlainLevel(1, 2, 0, True)]
    machine = machine_of(Geometry(LARGE_TLB, levels=levels), 1, [KERNEL_START])
    machine.set(free_translation=True, stream_lines=2)
    machine.access(np.array([5, 1, 2, 3, 10, 4]) * LINE, bases=[KERNEL_START])
    assert data_counts(machine) == [0, 1, 0, 5]


def test_free_translation_has_no_next_page() -> None:
    machine = machine_of(Geometry(LARGE_TLB), 1, [KERNEL_START, KERNEL_START + PIECE])
    machine.set(free_translation=True, next_page=True)
    machine.access(np.arange(64) * LINE, bases=[KERNEL_START])
    assert machine.check()["PREFETCH_WALK"] == 0
    machine.set(next_page=True)
    machine.access([PIECE], bases=[KERNEL_START, KERNEL_START + PIECE])
    assert machine.check()["WALK"] == 1


@pytest.mark.parametrize("region_seen", [False, True])
def test_an_unmapped_next_page_is_walked_for_in_vain_each_time(region_seen: bool) -> None:
    """The last page of a 2 MiB region, without anything behind it, or with a page further on that is in use."""
    pages = [KERNEL_START + LARGE_PAGE - PIECE, KERNEL_START + LARGE_PAGE + 9 * PIECE]
    machine = machine_of(Geometry(LARGE_TLB), 1, pages[: 1 + region_seen])
    machine.access(np.arange(1 + region_seen) * PIECE, bases=pages)
    machine.set(next_page=True)
    machine.access(np.arange(64) * LINE, bases=pages)
    counts = machine.check()
    assert counts["PREFETCH_WALK"] == 1
    # The directory entry behind is empty, or names a table whose first word is.
    assert counts["PREFETCH_REFERENCE"] == 3 + region_seen
    assert counts["TLB_FAULT"] == 0


# Other work


def test_other_work_shares_the_tlb_and_is_counted_apart() -> None:
    """One page in turn with one of four others after each two accesses, before a TLB of one entry."""
    pages = [KERNEL_START + (number << 12) for number in range(5)]
    machine = machine_of(Geometry(ONE_ENTRY), 1, pages)
    neighbour = Neighbour(pages[1:], [number * PIECE for number in range(4)], gap=2)
    machine.access([0] * 12, bases=pages, beside=neighbour)
    machine.access([0] * 2, bases=pages, beside=neighbour)
    counts = machine.check()
    # Six loads of other work lie between seven pairs, each of which walks once.
    assert counts["BACKGROUND_ACCESS"] == 6
    assert counts["DATA_ACCESS"] == 14
    assert counts["WALK"] == counts["FIRST_LEVEL_TLB_HIT"] == 7
    others = neighbour.check()
    assert others["DATA_ACCESS"] == others["WALK"] == 6
    assert others["WALK_REFERENCE"] == 24


# What cannot be built


def test_directory_entries_lie_in_no_first_level() -> None:
    with pytest.raises(ValueError, match="second"):
        CompleteMachine(Geometry([PlainArray(1, 1, 4, (1,), 0, True)]))


def test_a_leaf_enters_no_paging_structure_cache() -> None:
    with pytest.raises(ValueError, match="name no tables"):
        CompleteMachine(Geometry(ONE_ENTRY, [PlainStructure(1, 4, (1, 2))]))


def test_a_physically_tagged_cache_is_one_array() -> None:
    with pytest.raises(ValueError, match="one structure"):
        CompleteMachine(
            Geometry(ONE_ENTRY, [PlainStructure(1, 4, (2,)), PlainStructure(1, 4, (3,))], physical_tags=True)
        )


def test_a_first_level_cache_is_filled_by_its_misses() -> None:
    with pytest.raises(ValueError, match="first"):
        CompleteMachine(Geometry(ONE_ENTRY, levels=[PlainLevel(8, 2, 0, True), PlainLevel(8, 8)]))


@pytest.mark.parametrize(("sets", "hash_bits", "hash_shift"), [(12, 2, 0), (4, 3, 0), (16, 3, 2)])
def test_an_index_hash_needs_sets_of_a_power_of_two_that_it_does_not_exceed(
    sets: int, hash_bits: int, hash_shift: int
) -> None:
    with pytest.raises(ValueError, match="hashed"):
        CompleteMachine(
            Geometry(ONE_ENTRY, levels=[PlainLevel(sets, 2, hash_bits, False, hash_shift), PlainLevel(8, 8)])
        )


# Whole histories


RUNS = st.lists(
    st.tuples(st.integers(0, 47), st.integers(0, 63), st.sampled_from([0, 1, -1, 2, 64]), st.integers(1, 12)),
    max_size=12,
)
"""Piece, line in it, step in lines, length."""


class Histories(RuleBasedStateMachine):
    """Pages of all sizes come and go, settings change, and streams run over it all."""

    @initialize(seed=st.integers(0, 1 << 20), scale=st.sampled_from([1, 2, 8]))
    def boot(self, seed: int, scale: int) -> None:
        geometry = campaign.random_geometry(random.Random(seed), scale)
        self.machine = CompleteMachine(geometry, seed)
        # Slots of 1 GiB under several tables of each level; which page size each holds, 0 for none.
        four = geometry.table_levels == 4
        start = KERNEL_START if four else KERNEL_START_5
        far = [(1 << 39), (3 << 39)] if four else [(1 << 48), (1 << 48) + (1 << 39)]
        self.slots = [start + place for place in (0, GIB, 33 * GIB, *far)]
        self.sizes = [0] * len(self.slots)
        self.used = [0] * len(self.slots)
        pages = (0, 1, 2, 3, 8, 9, 511, 512, 1023)
        self.bases = [slot + (page << 12) for slot in self.slots for page in pages] + [start + (2 << 39)] * 2
        self.bases.append(start & (1 << 60) - 1)

    def offsets(self, runs: list[tuple[int, int, int, int]]) -> list[int]:
        total = len(self.bases) * PIECE
        return [
            (piece * PIECE + (line + step * number) * LINE) % total
            for piece, line, step, length in runs
            for number in range(length)
        ]

    @rule(
        slot=st.integers(0, 4),
        page_level=st.integers(1, 3),
        flags=st.sampled_from([entry.KERNEL_LEAF, CLEAN_LEAF, CLEAN_LEAF, READ_ONLY_LEAF]),
        used=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def map(self, slot: int, page_level: int, flags: np.uint64, used: bool, seed: int) -> None:
        # Tables stay, so a slot that held small pages does not become one of larger ones.
        if self.sizes[slot] == 0 and (self.used[slot] == 0 or page_level <= self.used[slot]):
            count = {1: 1024, 2: 4, 3: 1}[page_level]
            size = 1 << 9 * (page_level - 1)
            frames = np.random.default_rng(seed).integers(0, (1 << 20) // size, count) * size
            table_flags = entry.KERNEL_TABLE if used else UNUSED_TABLE
            self.machine.map(self.slots[slot], page_level, frames, leaf_flags=flags, table_flags=table_flags)
            self.sizes[slot] = self.used[slot] = page_level

    @precondition(lambda self: any(self.sizes))
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from([slot for slot, size in enumerate(self.sizes) if size]))
        size = self.sizes[slot]
        self.machine.unmap(self.slots[slot], size, {1: 1024, 2: 4, 3: 1}[size])
        self.sizes[slot] = 0

    @rule(
        mode=st.sampled_from(["physical", "colour-neutral", "first-level"]),
        free_translation=st.sampled_from([False, False, False, True]),
        stream_lines=st.sampled_from([0, 1, 3, 64]),
        next_page=st.booleans(),
        adjacent=st.sampled_from([NO_NEIGHBOUR, PAIR, BY_HISTORY]),
    )
    def change(self, mode: str, free_translation: bool, stream_lines: int, next_page: bool, adjacent: str) -> None:
        self.machine.set(
            mode,
            free_translation=free_translation,
            stream_lines=stream_lines,
            next_page=next_page,
            adjacent=adjacent,
        )

    @precondition(lambda self: any(self.sizes))
    @rule(runs=RUNS, write=st.booleans(), laps=st.integers(1, 3))
    def access(self, runs: list[tuple[int, int, int, int]], write: bool, laps: int) -> None:
        self.machine.access(self.offsets(runs) * laps, write, bases=self.bases)

    @precondition(lambda self: any(self.sizes))
    @rule(runs=RUNS, write=st.booleans(), others=RUNS.filter(len), gap=st.integers(1, 5))
    def access_beside_other_work(
        self,
        runs: list[tuple[int, int, int, int]],
        write: bool,
        others: list[tuple[int, int, int, int]],
        gap: int,
    ) -> None:
        neighbour = Neighbour(self.bases, self.offsets(others), gap)
        self.machine.access(self.offsets(runs), write, bases=self.bases, beside=neighbour)
        neighbour.check()

    @precondition(lambda self: any(self.sizes))
    @rule(runs=RUNS, write=st.booleans(), arrays=st.lists(st.integers(0, 47), min_size=6, max_size=6))
    def access_open_coded(self, runs: list[tuple[int, int, int, int]], write: bool, arrays: list[int]) -> None:
        places = [self.bases[number] + 960 for number in arrays]
        self.machine.access(self.offsets(runs), write, bases=self.bases, arrays=places, array_piece=8 * PIECE)

    @rule(slot=st.integers(0, 4), page_level=st.integers(1, 3), count=st.integers(0, 600))
    def invalidate(self, slot: int, page_level: int, count: int) -> None:
        self.machine.invalidate(self.slots[slot], page_level, count)

    @rule()
    def flush(self) -> None:
        self.machine.flush()

    @invariant()
    def same(self) -> None:
        self.machine.check()


Histories.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestHistories = Histories.TestCase
