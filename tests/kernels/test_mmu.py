"""The fused access loop against a plain TLB before a dict of pages: every event, by cause, to the last count."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.campaigns import tlb as campaign
from tests.campaigns.tlb import GIB, KERNEL_START
from tests.kernels.machines import PIECE, Machine
from tests.oracles.tlb import PlainArray
from vckernels import datacache, entry, mmu, pagetable, tlb, walkcache
from vckernels.causes import COUNTERS, Cause

ZEN3 = [PlainArray(1, 1, 64, (1, 2, 3)), PlainArray(2, 128, 16, (1, 2)), PlainArray(2, 1, 64, (3,))]
ICE_LAKE = [
    PlainArray(1, 16, 4, (1,)),
    PlainArray(1, 8, 4, (2,)),
    PlainArray(1, 1, 8, (3,)),
    PlainArray(2, 128, 8, (1, 2)),
    PlainArray(2, 128, 8, (1, 3)),
]
TINY = [PlainArray(1, 1, 4, (1, 2, 3)), PlainArray(2, 2, 4, (1, 2))]
VMALLOC_START = 0xFFFF_C900_0000_0000
VMALLOC_START_5 = 0xFFA0_0000_0000_0000
REACH = mmu.REGIONS << 21
"""Addresses this far apart share a slot of the region table."""


def caches() -> tuple[walkcache.WalkCache, datacache.DataCache]:
    """Return no paging-structure caches and small data caches."""
    return walkcache.new_walk_cache([]), datacache.new_data_cache([datacache.Level(64, 8)] * 2)


def offsets_of(count: int, pieces: int, seed: int = 1) -> np.ndarray:
    """Return random byte offsets in so many 4 KiB pieces."""
    return np.random.default_rng(seed).integers(0, pieces * PIECE, count)


@pytest.mark.parametrize("arrays", [ZEN3, ICE_LAKE, TINY], ids=["zen3", "ice-lake", "tiny"])
@pytest.mark.parametrize("write", [False, True])
def test_mixes_of_page_sizes(arrays: list[PlainArray], write: bool) -> None:
    machine = campaign.mixed_machine(arrays)
    for seed in range(4):
        machine.access(offsets_of(3000, len(machine.bases), seed), write)
    counts = machine.check()
    assert counts["DATA_ACCESS"] == 12_000
    assert counts["TLB_FAULT"] == counts["PAGE_ARRAY_ACCESS"] == 0
    assert counts["SECOND_LEVEL_TLB_HIT"] > 0


@pytest.mark.parametrize(("page_level", "words"), [(1, 4), (2, 3), (3, 2)])
@pytest.mark.parametrize("table_levels", [4, 5])
def test_a_walk_loads_one_word_a_level_down_to_the_leaf(page_level: int, words: int, table_levels: int) -> None:
    start = VMALLOC_START if table_levels == 4 else VMALLOC_START_5
    machine = Machine(TINY, table_levels)
    machine.map(start, page_level, 1, pieces=False)
    machine.access(np.array([0, 1, 4095, 0]), bases=[start])
    counts = machine.check()
    assert counts["WALK"] == 1
    assert counts["WALK_REFERENCE"] == words + (table_levels == 5)
    assert counts["FIRST_LEVEL_TLB_HIT"] == 3


def test_a_large_page_is_one_entry_whatever_part_of_it_is_accessed() -> None:
    machine = Machine(TINY)
    machine.map(KERNEL_START, 2, 1, pieces=False)
    machine.map(KERNEL_START + GIB, 3, 1, pieces=False)
    machine.access(offsets_of(1000, 1 << 9), bases=[KERNEL_START], piece=1 << 21)
    machine.access(offsets_of(1000, 1 << 18), bases=[KERNEL_START + GIB], piece=1 << 30)
    counts = machine.check()
    assert counts["WALK"] == 2
    assert counts["FIRST_LEVEL_TLB_HIT"] == 1998


def test_pieces_laid_end_to_end_are_found_through_their_bases() -> None:
    """Offset o lies in piece o >> shift, wherever that piece is."""
    machine = Machine(TINY)
    machine.map(VMALLOC_START, 1, 64, pieces=False)
    bases = [VMALLOC_START + (page << 12) for page in (40, 8, 0, 56)]
    machine.access(np.arange(0, 4 * (8 << 12), 1000), bases=bases, piece=8 << 12)
    counts = machine.check()
    assert counts["WALK"] == 32
    walked = {page for page in range(64) if machine.tables.words[machine.tables.control[1] - 1, page]}
    assert walked == set(range(64))


# Open-coded pages


@pytest.mark.parametrize("page_level", [1, 2])
def test_open_coded_accesses_load_the_page_array_first(page_level: int) -> None:
    """Arrays of 8 bytes a page in the direct map; each access is preceded by the load of its page's word."""
    machine = Machine(ICE_LAKE)
    machine.map(KERNEL_START, page_level, 600 if page_level == 1 else 2, pieces=False)
    # 40 pieces of 16 frames, each described by an array of 128 bytes; arrays lie in three frames.
    frames = np.random.default_rng(4).integers(10, 600, 640).tolist()
    bases = [KERNEL_START + (frame << 12) for frame in frames]
    arrays = [KERNEL_START + ((number % 3) << 12) + 128 * number % 4096 for number in range(40)]
    machine.access(offsets_of(5000, 640), bases=bases, arrays=arrays, array_piece=16 << 12)
    counts = machine.check()
    assert counts["DATA_ACCESS"] == counts["PAGE_ARRAY_ACCESS"] == 5000
    assert counts["TLB_FAULT"] == 0


def test_a_repeated_page_is_looked_up_again_after_its_array() -> None:
    """With a first level of one entry, array and data evict each other at every access."""
    machine = Machine([PlainArray(1, 1, 1, (1,))])
    machine.map(KERNEL_START, 1, 2)
    machine.access(np.zeros(10, np.int64), bases=[KERNEL_START], arrays=[KERNEL_START + 4096], array_piece=4096)
    assert machine.check()["WALK"] == 20


def test_one_array_may_describe_several_pieces_and_word_places_follow_pages() -> None:
    """The word of page p of an array's piece lies 8 p bytes in: 512 pages to one 4 KiB page of words."""
    machine = Machine([PlainArray(1, 1, 64, (1,))])
    machine.map(VMALLOC_START, 1, 1024)
    machine.map(KERNEL_START, 1, 2, pieces=False)
    offsets = np.arange(0, 1024 * PIECE, PIECE)
    machine.access(offsets, arrays=[KERNEL_START], array_piece=1024 * PIECE)
    counts = machine.check()
    # Two pages of words, each walked once, and every data page once.
    assert counts["WALK"] == 1026
    assert counts["FIRST_LEVEL_TLB_HIT"] == 1022


# What is not mapped, and writes


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (VMALLOC_START + (7 << 12), 4),
        (VMALLOC_START + (1 << 21), 3),
        (VMALLOC_START + (1 << 30), 2),
        (0x1000, 1),
        (0x0FFF_C900_0000_0000, 0),
        (1 << 63, 0),
        (1 << 47, 0),
    ],
    ids=["leaf", "page table", "directory", "root", "sign cut off", "no sign extension", "first hole"],
)
@pytest.mark.parametrize("neighbour_seen", [True, False])
def test_an_unmapped_address_costs_a_walk_each_time(address: int, words: int, neighbour_seen: bool) -> None:
    """It counts the words that the walk loads before it fails, and is never put into a TLB."""
    machine = Machine(TINY)
    machine.map(VMALLOC_START, 1, 4)
    if neighbour_seen:
        machine.access(np.arange(4) * PIECE)
    before = machine.check()
    machine.access(np.array([0, 0, 8, 0]), bases=[address])
    counts = machine.check()
    assert counts["TLB_FAULT"] == counts["WALK"] - before["WALK"] == 4
    assert counts["WALK_REFERENCE"] - before["WALK_REFERENCE"] == 4 * words
    assert counts["FIRST_LEVEL_TLB_HIT"] == before["FIRST_LEVEL_TLB_HIT"]


def test_a_forbidden_write_faults_each_time_and_a_read_does_not() -> None:
    machine = Machine(TINY)
    machine.map(VMALLOC_START, 1, 1, writable=False)
    machine.access(np.zeros(3, np.int64), write=True)
    assert machine.check()["TLB_FAULT"] == 3
    machine.access(np.zeros(3, np.int64), write=False)
    counts = machine.check()
    assert counts["TLB_FAULT"] == 3
    assert counts["FIRST_LEVEL_TLB_HIT"] == 2


@pytest.mark.parametrize("write", [False, True])
def test_walks_set_accessed_bits_and_for_writes_dirty_ones(write: bool) -> None:
    """Of the pages accessed and of no other; page-array words are loaded, whatever the access."""
    tables = pagetable.new_page_tables(0, 0, 64, 4, 46, True)
    needed = pagetable.survey(tables, np.uint64(VMALLOC_START), 8, 1)
    clean = entry.KERNEL_LEAF & ~entry.ACCESSED & ~entry.DIRTY
    table_flags = entry.KERNEL_TABLE & ~entry.ACCESSED
    new = np.arange(1, 1 + needed, dtype=np.int64)
    frames = np.arange(8, dtype=np.int64)
    pagetable.map_range(tables, np.uint64(VMALLOC_START), frames, 1, clean, table_flags, new)
    unit = mmu.new_mmu(tlb.new_tlb(1, [tlb.Array(1, 1, 8, (1,))]), *caches())
    bases = np.array([VMALLOC_START], np.uint64)
    arrays = np.array([VMALLOC_START + (7 << 12)], np.uint64)
    offsets = np.array([2, 5], np.int64) * PIECE
    mmu.access(unit, tables, mmu.Target(bases, 15, arrays, 15), offsets, write, mmu.nothing_beside())
    leaves = tables.words[needed]
    accessed = [page for page in range(8) if leaves[page] & entry.ACCESSED]
    dirty = [page for page in range(8) if leaves[page] & entry.DIRTY]
    assert accessed == [2, 5, 7]
    assert dirty == ([2, 5] if write else [])
    assert all(tables.words[row].max() & entry.ACCESSED for row in range(needed))
    # Three table-naming words and three leaves; what is set is counted.
    assert unit.counters[Cause.ACCESSED_UPDATE] == needed + 3
    assert unit.counters[Cause.DIRTY_UPDATE] == (2 if write else 0)


# The table of regions


def test_regions_that_share_a_slot_do_not_pass_for_each_other() -> None:
    """Pages of three sizes, a region table's reach apart, accessed in turn."""
    machine = Machine(ZEN3)
    starts = [KERNEL_START + number * REACH for number in range(6)]
    for number, start in enumerate(starts):
        page_level = 1 + number % 3
        machine.map(start, page_level, 512 if page_level == 1 else 1, pieces=False)
    rng = np.random.default_rng(6)
    bases = [start + int(page) * PIECE for page in rng.integers(0, 512, 30) for start in starts]
    slots = {(base >> 21) & (mmu.REGIONS - 1) for base in bases}
    assert len(slots) == 1
    machine.access(offsets_of(20_000, len(bases)), bases=bases)
    assert machine.check()["TLB_FAULT"] == 0


def test_more_regions_than_slots() -> None:
    """40,000 2M pages take turns in the table's 16,384 slots, together with 4K pages."""
    machine = Machine(ZEN3)
    machine.map(KERNEL_START, 2, 40_000, pieces=False)
    machine.map(VMALLOC_START, 1, 1024, pieces=False)
    bases = [KERNEL_START + (page << 21) for page in range(40_000)] + [VMALLOC_START + (p << 12) for p in range(1024)]
    machine.access(offsets_of(60_000, len(bases)), bases=bases)
    counts = machine.check()
    assert counts["TLB_FAULT"] == 0
    assert counts["WALK"] > mmu.REGIONS


@pytest.mark.parametrize("old", [1, 2, 3])
@pytest.mark.parametrize("new", [1, 2, 3])
def test_a_range_may_come_back_with_another_page_size(old: int, new: int) -> None:
    """After invalidation no region's size is remembered, nor any entry of the old size."""
    machine = Machine(TINY)
    places = np.array([0, 5 << 12, 3 << 21, (7 << 21) + 1])
    counts_of = {1: 4096, 2: 8, 3: 1}
    machine.map(KERNEL_START, old, counts_of[old], pieces=False)
    machine.access(places, bases=[KERNEL_START], piece=1 << 24)
    held = len({offset >> (3 + 9 * old) for offset in places.tolist()})
    dropped = machine.unmap(KERNEL_START, old, counts_of[old])
    # Two sets of four ways hold all of it in both levels; 1G pages are in the first only.
    assert dropped == (held if old == 3 else 2 * held)
    machine.access(places, bases=[KERNEL_START], piece=1 << 24)
    assert machine.check()["TLB_FAULT"] == 4
    clear_tables(machine)
    machine.map(KERNEL_START, new, counts_of[new], pieces=False)
    machine.access(np.tile(places, 3), bases=[KERNEL_START], piece=1 << 24)
    assert machine.check()["TLB_FAULT"] == 4


def clear_tables(machine: Machine) -> None:
    """Drop all tables but the root, as the kernels never do, so that a larger page can take their place."""
    machine.tables.words[:] = 0
    machine.tables.row_of[1:] = -1
    machine.tables.control[pagetable.Control.TABLES] = 1
    machine.plain.tables.clear()
    machine.plain.leaves.clear()


def test_a_page_that_comes_back_elsewhere_is_walked_again() -> None:
    machine = Machine(TINY)
    machine.map(VMALLOC_START, 1, 4)
    machine.access(np.array([0, PIECE, 2 * PIECE]))
    assert machine.unmap(VMALLOC_START + PIECE, 1, 1) == 2
    machine.map(VMALLOC_START + PIECE, 1, 1, pieces=False)
    machine.access(np.array([0, PIECE, 2 * PIECE]))
    counts = machine.check()
    assert counts["WALK"] == 4
    assert counts["FIRST_LEVEL_TLB_HIT"] == 2


def test_invalidating_a_range_drops_exactly_its_pages() -> None:
    machine = Machine(ZEN3)
    machine.map(VMALLOC_START, 1, 40)
    machine.access(np.arange(40) * PIECE)
    assert machine.invalidate(VMALLOC_START + (10 << 12), 1, 20) == 40
    assert machine.invalidate(VMALLOC_START + (10 << 12), 1, 20) == 0
    machine.access(np.arange(40) * PIECE)
    assert machine.check()["WALK"] == 60


def test_a_flush_forgets_entries_and_regions() -> None:
    machine = Machine(ZEN3)
    machine.map(KERNEL_START, 2, 3, pieces=False)
    machine.access(np.arange(3) << 21, bases=[KERNEL_START], piece=1 << 23)
    assert (machine.mmu.regions != mmu.NO_REGION).sum() == 3
    machine.flush()
    assert (machine.mmu.regions == mmu.NO_REGION).all()
    machine.access(np.arange(3) << 21, bases=[KERNEL_START], piece=1 << 23)
    assert machine.check()["WALK"] == 6


def test_a_first_level_without_a_size_never_hits_it() -> None:
    """Not even when a page is used twice in a row; the second level hits then, or the walk finds it again."""
    machine = Machine([PlainArray(1, 1, 4, (1,)), PlainArray(2, 1, 4, (1, 2))])
    machine.map(KERNEL_START, 2, 1, pieces=False)
    machine.map(KERNEL_START + GIB, 3, 1, pieces=False)
    machine.access(np.array([0, 8, 0]), bases=[KERNEL_START])
    machine.access(np.array([0, 8, 0]), bases=[KERNEL_START + GIB])
    counts = machine.check()
    assert counts["FIRST_LEVEL_TLB_HIT"] == 0
    assert counts["SECOND_LEVEL_TLB_HIT"] == 2
    assert counts["WALK"] == 4


def test_three_levels_have_no_counters() -> None:
    three = tlb.new_tlb(3, [tlb.Array(level, 1, 4, (1,)) for level in (1, 2, 3)])
    with pytest.raises(ValueError, match="third"):
        mmu.new_mmu(three, *caches())


def test_nothing_else_is_counted() -> None:
    machine = Machine(TINY)
    machine.map(VMALLOC_START, 1, 4)
    machine.access(offsets_of(100, 4))
    first = Cause.DATA_ACCESS
    assert machine.mmu.counters[:first].tolist() == [0] * first
    assert len(machine.mmu.counters) == COUNTERS


# Whole histories


class Histories(RuleBasedStateMachine):
    """Pages of all sizes come and go while streams run over them."""

    @initialize(seed=st.integers(0, 1 << 20), table_levels=st.sampled_from([4, 5]))
    def boot(self, seed: int, table_levels: int) -> None:
        self.machine = Machine(campaign.random_mixed_geometry(random.Random(seed)), table_levels)
        # Slots of 1 GiB, some of which share slots of the region table; which page size each holds, 0 for none.
        start = KERNEL_START if table_levels == 4 else 0xFF11_0000_0000_0000
        self.slots = [start + GIB * number for number in (0, 1, 2, 32, 33, 64)]
        self.sizes = [0] * len(self.slots)
        self.used = [0] * len(self.slots)

    def bases(self) -> list[int]:
        return [
            slot + (page << 12) + (large << 21) for slot in self.slots for page in (0, 1, 5, 511) for large in (0, 1, 3)
        ]

    @rule(slot=st.integers(0, 5), page_level=st.integers(1, 3))
    def map(self, slot: int, page_level: int) -> None:
        # Tables stay, so a slot that held small pages does not become one of larger ones.
        if self.sizes[slot] == 0 and (self.used[slot] == 0 or page_level <= self.used[slot]):
            count = {1: 1024, 2: 4, 3: 1}[page_level]
            self.machine.map(self.slots[slot], page_level, count, pieces=False)
            self.sizes[slot] = self.used[slot] = page_level

    @precondition(lambda self: any(self.sizes))
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from([slot for slot, size in enumerate(self.sizes) if size]))
        size = self.sizes[slot]
        self.machine.unmap(self.slots[slot], size, {1: 1024, 2: 4, 3: 1}[size])
        self.sizes[slot] = 0

    @rule(offsets=st.lists(st.integers(0, 72 * PIECE - 1), max_size=60), write=st.booleans(), laps=st.integers(1, 4))
    def access(self, offsets: list[int], write: bool, laps: int) -> None:
        self.machine.access(np.tile(np.array(offsets, np.int64), laps), write, self.bases())

    @rule(
        offsets=st.lists(st.integers(0, 72 * PIECE - 1), max_size=40), arrays=st.lists(st.integers(0, 71), min_size=9)
    )
    def access_open_coded(self, offsets: list[int], arrays: list[int]) -> None:
        bases = self.bases()
        places = [bases[number] + 64 for number in arrays]
        self.machine.access(np.array(offsets, np.int64), bases=bases, arrays=places, array_piece=8 * PIECE)

    @rule(slot=st.integers(0, 5), page_level=st.integers(1, 3), count=st.integers(0, 600))
    def invalidate(self, slot: int, page_level: int, count: int) -> None:
        self.machine.invalidate(self.slots[slot], page_level, count)

    @rule()
    def flush(self) -> None:
        self.machine.flush()

    @invariant()
    def same(self) -> None:
        self.machine.check()


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestHistories = Histories.TestCase
