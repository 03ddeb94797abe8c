"""Zones by absolute frame numbers, and the two fragmentation indices against recorded kernels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vckernels import buddy as kernels
from vckernels.causes import Cause
from vclab.errors import ConfigurationError, InvalidFree
from vclab.memory import Memory, Migratetype, Zone, empty_zone, fragmentation_index, unusable_free_index

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "linux-6.18-maps"
ORDERS = 11
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


# Indices


def read_table(path: Path, number: type) -> dict[str, list[float]]:
    """Return the columns of each zone's line of a /proc or debugfs file."""
    lines = re.findall(r"^Node 0, zone\s+(\S+)\s+(.*)$", path.read_text(encoding="ascii"), re.MULTILINE)
    assert lines
    return {zone: [number(word) for word in words.split()] for zone, words in lines}


needs_recording = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="recorded buddyinfo and extfrag files are not shipped; they lie in ../shared/data"
)


@needs_recording
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "index"), [("extfrag_index", fragmentation_index), ("unusable_index", unusable_free_index)]
)
def test_indices_equal_the_kernels_in_all_three_digits(number: int, kind: str, index: object) -> None:
    """Linux 6.18's debugfs files beside the buddyinfo of the same moment."""
    counts = read_table(RECORDED / f"frag_{number}_buddyinfo.txt", int)
    recorded = read_table(RECORDED / f"frag_{number}_{kind}.txt", float)
    assert counts.keys() == recorded.keys()
    for zone, row in recorded.items():
        assert len(row) == ORDERS
        assert [index(counts[zone], order) for order in range(ORDERS)] == row  # type: ignore[operator]


def test_fragmentation_index_by_hand() -> None:
    """0 would be lack of memory and 1 fragmentation; -1 where the request would succeed."""
    assert fragmentation_index([0] * 11, 3) == 0.0
    assert fragmentation_index([5, 0, 0, 1] + [0] * 7, 3) == -1.0
    assert fragmentation_index([1] + [0] * 10, 10) == pytest.approx(0.0, abs=0.001)
    # 1000 single frames for order 3: 1 - (1 + 1000 / 8) / 1000, in integers: 1000 - (1000 + 125000) / 1000.
    assert fragmentation_index([1000] + [0] * 10, 3) == 0.874
    assert fragmentation_index([0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0], 10) == 0.25


def test_unusable_free_index_by_hand() -> None:
    assert unusable_free_index([0] * 11, 0) == 1.0
    assert unusable_free_index([7] + [0] * 10, 0) == 0.0
    assert unusable_free_index([7] + [0] * 10, 1) == 1.0
    # Of 3 + 2 * 8 + 1024 frames, 19 are too small for order 4: 18.2 thousandths, cut off.
    assert unusable_free_index([3, 0, 0, 2] + [0] * 6 + [1], 4) == 0.018


@given(
    counts=st.lists(st.integers(0, 10**6), min_size=ORDERS, max_size=ORDERS),
    order=st.integers(0, 10),
)
def test_indices_keep_to_their_definitions(counts: list[int], order: int) -> None:
    """Each is its formula over fractions, cut to thousandths, and never leaves its range."""
    frames = sum(count << high for high, count in enumerate(counts))
    usable = sum(count << high for high, count in enumerate(counts[order:], start=order))
    unusable = unusable_free_index(counts, order)
    assert 0.0 <= unusable <= 1.0
    if frames:
        assert 0 <= (1 - usable / frames) - unusable < 0.0010001
    index = fragmentation_index(counts, order)
    assert index == -1.0 or 0.0 <= index <= 1.0
    if usable:
        assert index == -1.0
    elif frames:
        exact = 1 - (1 + frames / (1 << order)) / sum(counts)
        # Two divisions lose at most a thousandth together.
        assert abs(index - max(exact, 0)) <= 0.0020001


def test_indices_take_what_a_zone_gives() -> None:
    zone = empty_zone(2048)
    assert unusable_free_index(zone.free_blocks, 10) == 0.0
    zone.allocate(0, Migratetype.MOVABLE)
    assert unusable_free_index(zone.free_blocks, 10) == 0.499
    assert fragmentation_index(zone.free_blocks, 10) == -1.0


def test_an_order_that_does_not_exist_has_no_index() -> None:
    for index in (fragmentation_index, unusable_free_index):
        for order in (-1, 11):
            with pytest.raises(ConfigurationError, match="orders are 0 to 10"):
                index(np.zeros(11, np.int64), order)
