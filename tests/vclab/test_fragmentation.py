"""The fragmentation indices against recorded kernels, by hand and by their definitions; histograms of free frames."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclab import System, memory
from vclab.errors import ConfigurationError
from vclab.fragmentation import (
    extfrag_for_order,
    fragmentation_index,
    fragmentation_thousandths,
    unusable_free_index,
    unusable_thousandths,
    write_histograms,
)
from vclab.gfp import GFP_KERNEL

RECORDED = Path(__file__).parents[3] / "shared" / "data"
ORDERS = 11


def read_table(path: Path, number: type) -> dict[str, list[float]]:
    """Return the columns of each zone's line of a /proc or debugfs file."""
    lines = re.findall(r"^Node 0, zone\s+(\S+)\s+(.*)$", path.read_text(encoding="ascii"), re.MULTILINE)
    assert lines
    return {zone: [number(word) for word in words.split()] for zone, words in lines}


@pytest.mark.skipif(not RECORDED.is_dir(), reason="recorded extfrag files are not shipped; they lie in ../shared/data")
@pytest.mark.parametrize("moment", ["compile/live", "maps/frag_1", "maps/frag_2", "maps/frag_3"])
@pytest.mark.parametrize(
    ("kind", "index"), [("extfrag_index", fragmentation_index), ("unusable_index", unusable_free_index)]
)
def test_indices_equal_the_kernels_in_all_three_digits(moment: str, kind: str, index: object) -> None:
    """Linux 6.18's debugfs files beside the buddyinfo of the same moment."""
    counts = read_table(RECORDED / f"linux-6.18-{moment}_buddyinfo.txt", int)
    recorded = read_table(RECORDED / f"linux-6.18-{moment}_{kind}.txt", float)
    assert counts.keys() == recorded.keys()
    for zone, row in recorded.items():
        assert len(row) == ORDERS
        assert [index(counts[zone], order) for order in range(ORDERS)] == row  # type: ignore[operator]


def test_indices_of_a_recorded_machine() -> None:
    """Zone Normal of a fragmented Linux 6.18, and its debugfs files."""
    blocks = [18144, 11605, 3700, 1147, 2333, 4834, 4257, 2383, 711, 0, 1367]
    unusable = [0.0, 0.007, 0.017, 0.023, 0.027, 0.042, 0.106, 0.219, 0.345, 0.420, 0.420]
    assert [unusable_free_index(blocks, order) for order in range(ORDERS)] == unusable
    assert [fragmentation_index(blocks, order) for order in range(ORDERS)] == [-1.0] * ORDERS
    assert [extfrag_for_order(blocks, order) for order in range(ORDERS)] == [0, 0, 1, 2, 2, 4, 10, 21, 34, 42, 42]


def test_fragmentation_index_by_hand() -> None:
    """0 would be lack of memory and 1 fragmentation; -1 where the request would succeed."""
    assert fragmentation_index([0] * 11, 3) == 0.0
    assert fragmentation_index([5, 0, 0, 1] + [0] * 7, 3) == -1.0
    assert fragmentation_index([1] + [0] * 10, 10) == 0.0
    # 1000 single frames for order 3: 1 - (1 + 1000 / 8) / 1000, in integers: 1000 - (1000 + 125000) / 1000.
    assert fragmentation_index([1000] + [0] * 10, 3) == 0.874
    assert fragmentation_index([0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0], 10) == 0.25
    # One block half as large as asked for: 1000 - (1000 + 500) / 1.
    assert fragmentation_thousandths([0, 1] + [0] * 9, 2) == -500


def test_shares_of_unusable_frames_by_hand() -> None:
    assert unusable_free_index([0] * 11, 0) == 1.0
    assert unusable_free_index([7] + [0] * 10, 0) == 0.0
    assert unusable_free_index([7] + [0] * 10, 1) == 1.0
    # Of 3 + 2 * 8 + 1024 frames, 19 are too small for order 4: 18.2 thousandths, cut off.
    assert unusable_free_index([3, 0, 0, 2] + [0] * 6 + [1], 4) == 0.018
    assert extfrag_for_order([3, 0, 0, 2] + [0] * 6 + [1], 4) == 1
    assert extfrag_for_order([0] * 11, 0) == 0
    assert extfrag_for_order([7] + [0] * 10, 1) == 100


@given(counts=st.lists(st.integers(0, 10**6), min_size=10, max_size=13), order=st.integers(0, 9))
def test_indices_keep_to_their_definitions(counts: list[int], order: int) -> None:
    """Each is its formula over fractions, cut off as the kernel's integers are."""
    frames = sum(count << high for high, count in enumerate(counts))
    usable = sum(count << high for high, count in enumerate(counts[order:], start=order))
    if frames:
        share = 1 - Fraction(usable, frames)
        assert unusable_thousandths(counts, order) == int(1000 * share)
        assert extfrag_for_order(counts, order) == int(100 * share)
    index = fragmentation_thousandths(counts, order)
    assert index == -1000 or -500 <= index <= 1000
    assert (index == -1000) == (usable > 0)
    if frames and not usable:
        exact = 1000 - (1000 + Fraction(1000 * frames, 1 << order)) / sum(counts)
        # Two divisions, both cut off.
        assert exact <= index < exact + 2


@pytest.mark.parametrize("order", [-1, 11])
def test_orders_that_do_not_exist_are_refused(order: int) -> None:
    for index in (fragmentation_index, unusable_free_index, extfrag_for_order):
        with pytest.raises(ConfigurationError, match=f"order {order} does not exist; orders are 0 to 10"):
            index([1] * ORDERS, order)


def test_a_system_says_how_fragmented_it_is(tmp_path: Path) -> None:
    system = System(memory="32MiB")
    boot = system.free_histogram()
    assert boot.dtype == np.uint16 and boot.shape == (16,)
    page = system.alloc_pages(3, GFP_KERNEL)
    free = system.free_histogram()
    assert (boot.astype(int) - free).sum() == 8
    assert int(free.sum()) == system.memory.zone.free_frames
    blocks = system.memory.zone.free_blocks
    for order in range(ORDERS):
        assert system.extfrag_for_order(order) == extfrag_for_order(blocks, order)
    system.free_pages(page)
    assert (system.free_histogram() == boot).all()
    write_histograms(tmp_path / "free.u16", free)
    assert (np.fromfile(tmp_path / "free.u16", "<u2") == free).all()


def test_memory_still_names_the_indices() -> None:
    assert memory.fragmentation_index is fragmentation_index
    assert memory.unusable_free_index is unusable_free_index
