"""Miss counts for any geometry by the public function, what it refuses, and MMUs built from presets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.mmu import NO_NEIGHBOUR, CompleteMmu, PlainLevel, PlainStructure
from tests.oracles.pagetable import Rules
from tests.oracles.tlb import PlainArray, PlainTlb
from vckernels.causes import Cause
from vckernels.mmu import Control
from vclab import GFP_KERNEL, ConfigurationError, MmuOptions, System, TlbLevel, presets, streams, tlb_misses
from vclab.mmu import DATA_CACHES, Mmu


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


# As presets say


PAGE_LEVELS = {"4K": 1, "2M": 2, "1G": 3}
ENTRY_LEVELS = {"PDE": 2, "PDPTE": 3, "PML4E": 4, "PML5E": 5}


def plain_mmu(system: System, options: MmuOptions) -> CompleteMmu:
    """Return the plain MMU of a system's CPU over a copy of its page tables."""
    cpu = system.cpu
    arrays = [
        PlainArray(
            array.level,
            array.entries.value // array.ways.value,
            array.ways.value,
            tuple(PAGE_LEVELS[size] for size in array.page_sizes.value),
            array.hash_shift.value if array.hash_shift else 0,
            array.holds_directories is not None and array.holds_directories.value,
        )
        for array in cpu.tlb
    ]
    structures = [
        PlainStructure(
            cache.entries.value // cache.ways.value,
            cache.ways.value,
            tuple(ENTRY_LEVELS[name] for name in cache.holds.value),
        )
        for cache in cpu.walk_cache
    ]
    levels = [
        PlainLevel(
            cache.nbytes.value // 64 // cache.ways.value,
            cache.ways.value,
            cache.hash_bits.value if cache.hash_bits else 0,
            cache.fill.value == "victim",
            cache.hash_shift.value if cache.hash_shift else 0,
        )
        for cache in cpu.data_cache
    ]
    tables = system.page_tables
    plain = CompleteMmu(
        PlainTlb(max(array.level for array in arrays), arrays),
        structures,
        cpu.walk.tag.value == "physical",
        levels,
        Rules(tables.levels, cpu.paging.physical_bits.value, "1G" in cpu.paging.page_sizes.value),
        tables.root >> 12,
    )
    plain.set_memory(dict(zip(tables.frames().tolist(), tables.words().tolist(), strict=True)))
    plain.mode = options.data_caches
    plain.free_translation = options.free_translation
    plain.stream_lines = cpu.prefetch.stream_lines.value if options.prefetch else 0
    plain.next_page = cpu.prefetch.next_page.value and options.prefetch
    plain.adjacent = cpu.prefetch.adjacent_line.value if options.prefetch else NO_NEIGHBOUR
    plain.neutral_base = math.lcm(*(level.sets for level in levels)) << 40
    return plain


@pytest.mark.parametrize(
    "options",
    [
        MmuOptions(),
        MmuOptions(prefetch=False),
        MmuOptions(data_caches="colour-neutral"),
        MmuOptions(data_caches="first-level"),
        MmuOptions(free_translation=True),
    ],
    ids=["full", "no prefetching", "colour-neutral", "first-level", "free translation"],
)
@pytest.mark.parametrize("name", presets.cpu_names())
def test_a_preset_and_its_options_make_the_mmu_that_they_describe(name: str, options: MmuOptions) -> None:
    """All events of several patterns over 6 MiB are those of the plain MMU, built from the preset by hand."""
    system = System(cpu=name, memory="64MiB", policy="vmalloc", mmu=options)
    pages = [system.alloc_pages(9, GFP_KERNEL) for _ in range(3)]
    plain = plain_mmu(system, options)
    nbytes = 3 * pages[0].nbytes
    bases = [page.address for page in pages]
    patterns = (
        streams.chase(nbytes, 4000, seed=1),
        streams.sequential(nbytes, 3000),
        streams.uniform(nbytes, 3000, seed=2),
        streams.zipf(nbytes, 2000, seed=3),
    )
    for number, offsets in enumerate(patterns):
        system.mmu.flush()
        plain.flush()
        system.access(pages, offsets, write=number % 2 == 1)
        plain.access(bases, pages[0].nbytes, offsets.tolist(), number % 2 == 1)
    arrays = [page.array_address for page in pages]
    open_coded = [system.direct_map.address(int(frame)) for page in pages for frame in page.frames]
    system.access_at(
        np.array(open_coded, np.uint64),
        4096,
        patterns[2],
        arrays=np.array(arrays, np.uint64),
        array_nbytes=pages[0].nbytes,
    )
    plain.access(open_coded, 4096, patterns[2].tolist(), False, arrays, pages[0].nbytes)
    assert system.mmu.counters[Cause.TLB_FLUSH] == len(patterns)
    system.mmu.counters[Cause.TLB_FLUSH] = 0
    counted = {cause.name: int(count) for cause, count in zip(Cause, system.mmu.counters, strict=True) if count}
    assert counted == {event: count for event, count in plain.events.items() if count}
    happened = {cause.name for cause in Cause if system.mmu.counters[cause]}
    assert ("PREFETCH_LINE" in happened) == (options.prefetch and options.data_caches != "first-level")
    assert ("WALK" in happened) != options.free_translation
    if options.prefetch and not options.free_translation and options.data_caches != "first-level":
        assert ("PREFETCH_WALK" in happened) == system.cpu.prefetch.next_page.value


@pytest.mark.parametrize("name", presets.cpu_names())
@pytest.mark.parametrize("frames", [1, 1 << 14, (1 << 21) + 512])
def test_colour_neutral_lines_begin_above_all_lines_of_the_machine(name: str, frames: int) -> None:
    """At a line that falls into the first set of each cache, hashed or not, as line 0 does."""
    cpu = presets.cpu(name)
    base = int(Mmu(cpu, frames).state.control[Control.NEUTRAL_BASE])
    assert base >= frames * 64
    for cache in cpu.data_cache:
        assert base % (cache.sets << (cache.hash_bits.value if cache.hash_bits else 0)) == 0


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="physical, colour-neutral, first-level"):
        MmuOptions(data_caches="none")
    assert set(DATA_CACHES) == {"physical", "colour-neutral", "first-level"}


# State


def lines_served(system: System, offsets: list[int]) -> list[int]:
    """Return data accesses by who served them."""
    return system.access(system.pages, offsets).counts[Cause.DATA_LEVEL_1 : Cause.DATA_MEMORY + 1].tolist()


def test_cached_lines_can_be_put_back() -> None:
    system = System(memory="16MiB", policy="physical", mmu=MmuOptions(prefetch=False))
    system.alloc_pages(4, GFP_KERNEL)
    offsets = list(range(0, 4096, 64))
    assert lines_served(system, offsets) == [0, 0, 0, 64]
    kept = system.mmu.cached_lines()
    assert lines_served(system, [offset + 4096 for offset in offsets] * 2) == [64, 0, 0, 64]
    system.mmu.empty_caches()
    assert lines_served(system, offsets) == [0, 0, 0, 64]
    for _ in range(2):
        system.mmu.set_cached_lines(kept)
        assert lines_served(system, offsets) == [64, 0, 0, 0]
        assert lines_served(system, [offset + 4096 for offset in offsets]) == [0, 0, 0, 64]


def test_clearing_leaves_the_last_lines_in_the_caches() -> None:
    """8 pages of 4 KiB fill the 32 KiB first level of Zen 3; of 16 the last 8 are there, the others in the second."""
    halves = [list(range(start, start + (8 << 12), 64)) for start in (8 << 12, 0)]
    for mode in ("physical", "colour-neutral"):
        options = MmuOptions(data_caches=mode, free_translation=True, prefetch=False)
        system = System(memory="16MiB", policy="physical", mmu=options)
        page = system.alloc_pages(4, GFP_KERNEL)
        system.mmu.leave_cleared(page.frames)
        assert system.mmu.counters.tolist() == [0] * len(system.mmu.counters)
        assert [lines_served(system, half) for half in halves] == [[512, 0, 0, 0], [0, 512, 0, 0]]


def test_a_copy_goes_on_by_itself() -> None:
    system = System(memory="16MiB", policy="vmalloc")
    page = system.alloc_pages(4, GFP_KERNEL)
    offsets = streams.uniform(page.nbytes, 2000, seed=1)
    system.access(page, offsets)
    twin = system.mmu.copy()
    before = [np.asarray(part).tobytes() for part in (twin.counters, twin.state.tlb.keys, twin.state.data_cache.tags)]
    system.access(page, offsets[::-1], write=True)
    system.mmu.flush()
    system.mmu.empty_caches()
    after = [np.asarray(part).tobytes() for part in (twin.counters, twin.state.tlb.keys, twin.state.data_cache.tags)]
    assert after == before
