"""The direct map covers all memory with the largest pages that fit; ranges of the vmalloc area with 4K and 2M ones."""

from __future__ import annotations

import numpy as np
import pytest

from vckernels import entry
from vckernels.pagetable import walk_many
from vclab import presets
from vclab.errors import ConfigurationError, OutOfMemory
from vclab.mapping import DirectMap, PageTables, TableChange
from vclab.memory import Memory, Zone
from vclab.vmalloc_area import VmallocArea

LAYOUT = presets.linux("6.18").address_space[0]


@pytest.mark.parametrize(
    ("first", "frames", "level", "levels_met"),
    [
        (0, 4096, 2, {2}),
        (0, 4096, 1, {1}),
        (0, 262144 + 1024, 3, {2, 3}),
        (1024, 524288, 3, {2, 3}),
        (261120, 2 * 262144 + 3072, 3, {2, 3}),
    ],
)
def test_direct_map(first: int, frames: int, level: int, levels_met: set[int]) -> None:
    tables = PageTables(Memory([Zone("Normal", first, frames)]), 4, 48, True)
    direct = DirectMap(tables, LAYOUT, level)
    asked = np.unique(np.append(np.arange(first, first + frames, 509), [first, first + frames - 1]))
    addresses = np.array([direct.address(int(frame)) for frame in asked], np.uint64)
    np.testing.assert_array_equal(tables.translate(addresses), asked << 12)
    found = np.empty(len(asked), np.int64)
    leaves = np.empty(len(asked), np.int8)
    faults = np.empty(len(asked), np.int8)
    walk_many(tables.state, addresses, True, False, False, False, found, leaves, faults)
    assert set(leaves.tolist()) == levels_met
    outside = [direct.address(first) - 1, direct.address(first + frames)]
    assert tables.translate(np.array(outside, np.uint64)).tolist() == [-1, -1]


def test_direct_map_without_memory_for_tables_says_so() -> None:
    memory = Memory([Zone("Normal", 0, 1024)])
    tables = PageTables(memory, 4, 48, True)
    while memory.zone.allocate(0, 0) >= 0:
        pass
    with pytest.raises(OutOfMemory, match="direct map"):
        DirectMap(tables, LAYOUT, 2)


@pytest.mark.parametrize("addresses", [[-1], [1 << 64], ["here"]])
def test_what_is_no_address_is_refused(addresses: list[object]) -> None:
    tables = PageTables(Memory([Zone("Normal", 0, 1024)]), 4, 48, True)
    with pytest.raises(ConfigurationError, match="whole numbers"):
        tables.translate(addresses)


def new_area(frames: int = 8192) -> VmallocArea:
    return VmallocArea(PageTables(Memory([Zone("Normal", 0, frames)]), 4, 48, True), LAYOUT, guard_pages=1)


def test_ranges_of_large_leaves_are_aligned_and_share_the_area() -> None:
    area = new_area()
    small = area.map(np.array([7, 9]))
    large = area.map(np.array([1024, 512]), level=2)
    other = area.map(np.array([3]))
    # Three tables for the first; the leaves of the second go into one of them.
    assert small == (area.start, TableChange(3, 0))
    assert large == (area.start + (2 << 20), TableChange(0, 0))
    assert other == (area.start + 3 * 4096, TableChange(0, 0))
    assert area.ranges == area.retained_tables == 3
    inside = [large[0], large[0] + (2 << 20) - 1, large[0] + (2 << 20), large[0] + (4 << 20)]
    assert area.tables.translate(inside).tolist() == [1024 << 12, (1536 << 12) - 1, 512 << 12, -1]
    assert area.range_start(inside[2]) == large[0]
    assert area.range_start(inside[3]) is None
    with pytest.raises(ConfigurationError, match="level 1"):
        area.unmap(large[0])
    with pytest.raises(ConfigurationError, match="level 2"):
        area.unmap(small[0], level=2)
    with pytest.raises(ConfigurationError, match="no vmalloc range starts"):
        area.unmap(large[0] + (2 << 20), level=2)
    assert area.ranges == 3
    assert area.unmap(large[0], level=2).tolist() == [1024, 512]
    assert area.tables.translate(inside).tolist() == [-1] * 4
    assert area.unmap(small[0]).tolist() == [7, 9]


def test_what_a_large_leaf_displaced_is_free_again() -> None:
    area = new_area()
    tables, zone = area.tables, area.tables.memory.zone
    wide = area.map(np.arange(1500))
    assert wide is not None
    assert wide[1] == TableChange(5, 0)
    area.unmap(wide[0])
    free = zone.free_frames
    before = tables.copy(tables.memory)
    large = area.map(np.array([512, 2048]), level=2)
    assert large == (area.start, TableChange(0, 2))
    assert (tables.removed, before.removed, area.retained_tables) == (2, 0, 3)
    assert tables.count == before.count - 2 == 4
    assert zone.free_frames == free + 2
    assert len(tables.frames()) == len(tables.words()) == 4
    assert set(tables.frames().tolist()) < set(before.frames().tolist())
    assert before.translate([large[0]]).tolist() == [-1]


@pytest.mark.parametrize("level", [1, 2])
def test_undoing_a_range_gives_back_its_tables(level: int) -> None:
    area = new_area()
    if level == 2:
        # Something in the way of nothing: tables of the levels above are there already.
        assert area.map(np.array([1])) is not None
    zone = area.tables.memory.zone
    free, words, ranges = zone.free_frames, area.tables.words(), area.ranges
    mapped = area.map(np.arange(600) * 512, level)
    assert mapped is not None
    assert mapped[1].added == (4 if level == 1 else 1)
    area.undo(mapped[0], mapped[1].added, level)
    assert zone.free_frames == free
    assert area.ranges == ranges
    assert area.retained_tables == (3 if level == 2 else 0)
    np.testing.assert_array_equal(area.tables.words(), words)
    assert area.tables.translate([mapped[0]]).tolist() == [-1]
    assert zone.audit() == 0


def test_no_memory_for_tables_changes_nothing() -> None:
    area = new_area(1024)
    zone = area.tables.memory.zone
    taken = zone.allocate_all(0, 0, zone.free_frames)
    assert taken is not None
    for spare in (0, 1, 2):
        words = area.tables.words()
        for level in (1, 2):
            if spare < 4 - level:
                assert area.map(np.array([0]), level) is None
        assert area.ranges == area.retained_tables == 0
        assert zone.free_frames == spare
        np.testing.assert_array_equal(area.tables.words(), words)
        zone.free(taken[2 * spare], 0)
    assert area.map(np.array([0])) is not None


def test_leaves_carry_the_flags_asked_for() -> None:
    tables = PageTables(Memory([Zone("Normal", 0, 1024)]), 4, 48, True)
    assert tables.map(1 << 21, np.array([5]), 1, entry.PRESENT | entry.USER) == TableChange(3, 0)
    assert tables.map(1 << 22, np.array([512]), 2, entry.PRESENT | entry.PAT) == TableChange(0, 0)
    assert tables.map(1 << 23, np.array([6]), 1) == TableChange(1, 0)
    words = tables.words()
    assert words[3, 0] == 5 << 12 | 0b101
    assert words[2, 2] == 512 << 12 | 1 << 12 | 1 << 7 | 1
    assert words[4, 0] == (np.uint64(6 << 12) | entry.KERNEL_LEAF)
    with pytest.raises(ConfigurationError, match="already mapped"):
        tables.map(1 << 21, np.array([0]), 2)
