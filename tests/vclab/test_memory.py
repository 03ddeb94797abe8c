"""Zones by absolute frame numbers."""

from __future__ import annotations

import numpy as np
import pytest

from vckernels import buddy as kernels
from vckernels.causes import Cause
from vclab.errors import ConfigurationError, InvalidFree
from vclab.memory import Memory, Migratetype, Zone

FIRST = 1 << 20


@pytest.fixture
def zone() -> Zone:
    """A zone of 16 MiB whose frames do not begin at 0."""
    return Zone("Normal", FIRST, 4096)


# Zones


def test_frame_numbers_are_absolute(zone: Zone) -> None:
    frame = zone.allocate(4, Migratetype.MOVABLE)
    assert frame == FIRST
    frames = zone.allocate_all(0, Migratetype.MOVABLE, 3)
    assert frames is not None
    assert frames.tolist() == [FIRST + 16, FIRST + 17, FIRST + 18]
    assert zone.free_frames == 4096 - 19
    blocks, orders = zone.blocks()
    assert (blocks[0], orders[0]) == (FIRST + 19, 0)
    assert int((1 << orders.astype(np.int64)).sum()) == zone.free_frames
    assert (np.diff(blocks) > 0).all()
    zone.free(frames, 0)
    zone.free(frame, 4)
    assert zone.free_blocks.tolist() == [0] * 10 + [4]
    assert zone.audit() == 0


def test_a_new_zone_hands_out_its_lowest_block_first(zone: Zone) -> None:
    assert [zone.allocate(10, Migratetype.MOVABLE) for _ in range(5)] == [*range(FIRST, FIRST + 4096, 1024), -1]
    assert zone.managed == 4096
    assert zone.free_frames == 0


@pytest.mark.parametrize(
    ("frame", "order", "reason"),
    [
        (FIRST, 3, "another order"),
        (FIRST + 1, 0, "no allocated block"),
        (FIRST + 64, 0, "no allocated block"),
        (FIRST - 1, 0, "outside the zone"),
        (FIRST + 4096, 0, "outside the zone"),
        (0, 4, "outside the zone"),
        (FIRST, -1, "outside the zone"),
        (FIRST, 11, "outside the zone"),
    ],
)
def test_invalid_frees_are_refused_by_name(zone: Zone, frame: int, order: int, reason: str) -> None:
    zone.allocate(4, Migratetype.MOVABLE)
    before = [array.copy() for array in zone.buddy]
    with pytest.raises(InvalidFree, match=f"frame {frame} with order {order} in zone Normal: .*{reason}"):
        zone.free(frame, order)
    for old, new in zip(before, zone.buddy, strict=True):
        np.testing.assert_array_equal(old, new)


def test_of_several_frees_the_good_ones_are_done_and_the_first_bad_one_is_named(zone: Zone) -> None:
    frames = zone.allocate_all(0, Migratetype.MOVABLE, 4)
    assert frames is not None
    first = int(frames[0])
    with pytest.raises(InvalidFree, match=f"frame {first} "):
        zone.free([first + 1, first, first, first + 3], 0)
    assert zone.free_frames == 4096 - 1
    assert zone.audit() == 0


def test_a_bulk_allocation_is_all_or_nothing(zone: Zone) -> None:
    assert zone.allocate_all(9, Migratetype.MOVABLE, 9) is None
    assert zone.free_blocks.tolist() == [0] * 10 + [4]
    assert zone.allocate_all(9, Migratetype.MOVABLE, 8) is not None
    assert zone.allocate_all(0, Migratetype.UNMOVABLE, 1) is None
    none = zone.allocate_all(0, Migratetype.UNMOVABLE, 0)
    assert none is not None
    assert len(none) == 0


@pytest.mark.parametrize("migratetype", [-1, 3, 4, 5, 100])
@pytest.mark.parametrize("order", [0, 11, -1])
def test_requests_without_sense_get_nothing(zone: Zone, migratetype: int, order: int) -> None:
    assert zone.allocate(order, migratetype) == -1
    assert zone.allocate_all(order, migratetype, 2) is None
    assert zone.free_frames == 4096


@pytest.mark.parametrize(("first", "frames"), [(0, 0), (0, -1024), (0, 1000), (512, 1024), (0, 512)])
def test_zones_are_made_of_whole_largest_blocks(first: int, frames: int) -> None:
    with pytest.raises(ConfigurationError, match="4 MiB"):
        Zone("Normal", first, frames)


def test_a_copied_zone_is_independent(zone: Zone) -> None:
    frame = zone.allocate(3, Migratetype.MOVABLE)
    twin = zone.copy()
    twin.free(frame, 3)
    twin.allocate(10, Migratetype.UNMOVABLE)
    assert zone.free_frames == 4096 - 8
    zone.free(frame, 3)
    assert zone.free_blocks.tolist() == [0] * 10 + [4]
    assert (twin.name, twin.first_frame, twin.frames) == (zone.name, zone.first_frame, zone.frames)


def test_an_adopted_state_may_have_holes() -> None:
    state = kernels.new_buddy(2048)
    kernels.free_at_boot(state, np.array([1024], np.int64), np.array([10], np.int8), True)
    zone = Zone("Normal", 0, 2048, state)
    assert (zone.managed, zone.free_frames) == (1024, 1024)
    memory = Memory([zone])
    zone.allocate(8, Migratetype.MOVABLE)
    assert memory.free_share == 0.75


def test_memory_sums_over_its_zones() -> None:
    memory = Memory([Zone("DMA32", 0, 1024), Zone("Normal", 1024, 3072)])
    assert (memory.first_frame, memory.frames) == (0, 4096)
    assert memory.zone.name == "Normal"
    memory.zone.allocate(9, Migratetype.MOVABLE)
    memory.zones[0].allocate(10, Migratetype.MOVABLE)
    info = memory.buddyinfo()
    assert info.dtype == np.int64
    assert info.tolist() == [[0] * 11, [0] * 9 + [1, 2]]
    assert memory.free_share == (4096 - 1024 - 512) / 4096
    assert memory.counters[Cause.ALLOCATION] == 2
    twin = memory.copy()
    twin.zone.allocate(10, Migratetype.MOVABLE)
    assert memory.buddyinfo().tolist() == info.tolist()
