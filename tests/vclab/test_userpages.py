"""Movable pages keep their addresses: leaves follow them, and CPUs learn what to forget."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from vclab import ConfigurationError
from vclab.gfp import GFP_KERNEL, Gfp
from vclab.userpages import MOST_PAGES, UserRegion

MOVABLE = GFP_KERNEL | Gfp.MOVABLE


@pytest.fixture
def system() -> vclab.System:
    return vclab.System(memory="64MiB", levels=4)


def test_pages_are_reached_where_they_are_and_where_they_go(system: vclab.System) -> None:
    region = UserRegion(system.page_tables)
    frames = system.memory.allocate_all(2, MOVABLE, 3)
    assert frames is not None
    owners = region.map(frames, 2)
    assert owners is not None
    assert owners.tolist() == [0, 4, 8]
    address = region.address(5)
    assert system.page_tables.translate([address])[0] >> 12 == frames[1] + 1

    system.access_at(np.array([address], np.uint64), 4096, np.zeros(1, np.int64))
    target = system.memory.allocate(2, MOVABLE)
    leaves = region.moved(owners[1:2], np.array([2], np.int8), np.array([target]))
    assert leaves.addresses.tolist() == [region.address(4)]
    assert leaves.pages.tolist() == [4]
    for part in range(4):
        assert system.page_tables.translate([region.address(4 + part)])[0] >> 12 == target + part
    # A CPU that has not been told goes on to the old place; one that has does not.
    stale = system.access_at(np.array([address], np.uint64), 4096, np.zeros(1, np.int64))
    assert stale.walks == 0
    system.mmu.invalidate(int(leaves.addresses[0]), int(leaves.pages[0]), 1)
    fresh = system.access_at(np.array([address], np.uint64), 4096, np.zeros(1, np.int64))
    assert fresh.walks == 1

    gone = region.reclaimed(owners[1:2], np.array([2], np.int8))
    assert gone.pages.tolist() == [4]
    assert system.page_tables.translate([address])[0] == -1
    with pytest.raises(ConfigurationError, match="lost its mapping"):
        region.moved(owners[:2], np.array([2, 2], np.int8), frames[:2])
    assert system.page_tables.translate([region.address(0)])[0] >> 12 == frames[0]


def test_large_pages_begin_at_multiples_of_their_size(system: vclab.System) -> None:
    region = UserRegion(system.page_tables)
    single = system.memory.allocate_all(0, MOVABLE, 3)
    large = system.memory.allocate_all(3, MOVABLE, 2)
    assert single is not None
    assert large is not None
    first, second = region.map(single, 0), region.map(large, 3)
    assert first is not None
    assert second is not None
    assert (first.tolist(), second.tolist(), region.used) == ([0, 1, 2], [8, 16], 24)


def test_numbers_and_memory_end(system: vclab.System) -> None:
    region = UserRegion(system.page_tables)
    region.used = MOST_PAGES - 1
    with pytest.raises(ConfigurationError, match="cannot be numbered"):
        region.map(np.arange(2), 0)
    region.used = 0
    page = system.memory.allocate_all(0, MOVABLE, 1)
    assert page is not None
    while system.memory.allocate(0, MOVABLE) >= 0:
        pass
    assert region.map(page, 0) is None
    assert region.used == 0


def test_a_copy_changes_nothing_of_the_first(system: vclab.System) -> None:
    region = UserRegion(system.page_tables)
    frames = system.memory.allocate_all(0, MOVABLE, 2)
    assert frames is not None
    owners = region.map(frames, 0)
    assert owners is not None
    other = system.copy()
    twin = region.copy(other.page_tables)
    twin.reclaimed(owners, np.zeros(2, np.int8))
    assert other.page_tables.translate([region.address(1)])[0] == -1
    assert system.page_tables.translate([region.address(1)])[0] >> 12 == frames[1]
    assert twin.used == region.used


def test_no_pages_take_no_numbers(system: vclab.System) -> None:
    region = UserRegion(system.page_tables)
    single = system.memory.allocate_all(0, MOVABLE, 3)
    assert single is not None
    region.map(single, 0)
    for order in (0, 3, 10):
        none = region.map(np.empty(0, np.int64), order)
        assert none is not None
        assert none.tolist() == []
        assert region.used == 3
