"""The direct map covers all memory with the largest pages that fit, wherever it begins and ends."""

from __future__ import annotations

import numpy as np
import pytest

from vckernels.pagetable import walk_many
from vclab import presets
from vclab.errors import ConfigurationError, OutOfMemory
from vclab.mapping import DirectMap, PageTables
from vclab.memory import Memory, Zone

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
