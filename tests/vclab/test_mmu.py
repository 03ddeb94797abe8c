"""Miss counts for any geometry by the public function, what it refuses, and MMUs built from presets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.tlb import PlainArray, PlainTlb
from vclab import ConfigurationError, TlbLevel, presets, tlb_misses
from vclab.mmu import Mmu


def plain_misses(pages: list[int], levels: list[TlbLevel]) -> list[int]:
    """Return the plain model's misses."""
    arrays = [PlainArray(n, level.entries // level.ways, level.ways, (1,)) for n, level in enumerate(levels, start=1)]
    return PlainTlb(len(levels), arrays).misses(pages)


def test_the_documented_example() -> None:
    misses = tlb_misses([0, 1, 2, 0], [TlbLevel(entries=2, ways=2), TlbLevel(entries=4, ways=4)])
    assert misses.dtype == np.int64
    assert misses.tolist() == [4, 3]


@given(
    pages=st.lists(st.integers(0, 40) | st.integers(0, (1 << 52) - 1), max_size=200),
    levels=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=3),
)
def test_counts_are_those_of_plain_lru(pages: list[int], levels: list[tuple[int, int]]) -> None:
    geometry = [TlbLevel(entries=sets * ways, ways=ways) for sets, ways in levels]
    expected = plain_misses(pages, geometry)
    assert tlb_misses(pages, geometry).tolist() == expected
    # A miss of a level reached it, so a lower level never misses more often.
    assert expected == sorted(expected, reverse=True)
    assert len(set(pages)) <= expected[0] <= len(pages)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_page_numbers_of_any_whole_type_and_shape(dtype: type) -> None:
    pages = (np.arange(100) % 30).astype(dtype)
    levels = [TlbLevel(16, 4), TlbLevel(32, 2)]
    expected = plain_misses(pages.tolist(), levels)
    for form in (pages, pages.tolist(), pages.reshape(10, 10), np.repeat(pages, 2)[::2]):
        assert tlb_misses(form, levels).tolist() == expected


def test_no_pages_miss_nothing() -> None:
    assert tlb_misses([], [TlbLevel(4, 4), TlbLevel(8, 2)]).tolist() == [0, 0]


def test_a_call_starts_empty() -> None:
    for _ in range(2):
        assert tlb_misses([1, 1, 2], [TlbLevel(4, 4)]).tolist() == [2]


@pytest.mark.parametrize("pages", [[-1], [1 << 52], [0, 1 << 60], [0.5], ["7"], [True], np.array([1 << 63], np.uint64)])
def test_what_is_no_page_number_is_refused(pages: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="whole numbers from 0"):
        tlb_misses(pages, [TlbLevel(4, 4)])


def test_a_tlb_has_levels() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        tlb_misses([1], [])


@pytest.mark.parametrize(("entries", "ways"), [(64, 5), (0, 1), (4, 0), (-4, 2), (4, -2), (3, 4), (-4, -4)])
def test_levels_have_whole_sets(entries: int, ways: int) -> None:
    with pytest.raises(ConfigurationError, match="multiple of ways"):
        TlbLevel(entries, ways)


def test_levels_are_values() -> None:
    assert TlbLevel(64, 4) == TlbLevel(entries=64, ways=4)
    with pytest.raises(AttributeError):
        TlbLevel(64, 4).ways = 2  # type: ignore[misc]


@pytest.mark.parametrize("name", presets.cpu_names())
def test_reach_is_the_sum_of_the_arrays_entries(name: str) -> None:
    cpu = presets.cpu(name)
    mmu = Mmu(cpu, frames=1 << 16)
    for number, size in enumerate(("4K", "2M", "1G")):
        expected = [0] * mmu.levels
        for array in cpu.tlb:
            if size in array.page_sizes.value:
                expected[array.level - 1] += array.entries.value << (12 + 9 * number)
        assert mmu.reach(size) == expected
    with pytest.raises(ConfigurationError, match="4K, 2M, 1G"):
        mmu.reach("8K")


def test_the_reach_of_zen_3() -> None:
    """64 entries for all sizes; then 2048 for 4K and 2M, and 64 for 1G."""
    mmu = Mmu(presets.cpu("zen3"), frames=1 << 16)
    assert mmu.reach() == [64 << 12, 2048 << 12]
    assert mmu.reach("2M") == [64 << 21, 2048 << 21]
    assert mmu.reach("1G") == [64 << 30, 64 << 30]
