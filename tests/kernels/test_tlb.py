"""The TLB kernel against plain LRU, entry by entry, and against closed forms."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.campaigns import tlb as campaign
from tests.kernels.machines import new_plain_tlb, new_tlb
from tests.oracles.tlb import DIRECTORY, PlainArray, PlainTlb
from vckernels import tlb
from vckernels.tlb import Field, Tlb

SMALL_PAGES = (1,)
EVERY_SIZE = (1, 2, 3)


def misses(arrays: list[PlainArray], pages: npt.NDArray[np.int64]) -> list[int]:
    """Return each level's misses for 4K pages from an empty TLB, the same by both models."""
    kernel = new_tlb(arrays)
    counts = np.zeros(kernel.geometry.shape[0], np.int64)
    tlb.count_misses(kernel, pages, counts)
    assert counts.tolist() == new_plain_tlb(arrays).misses(pages.tolist())
    return [int(count) for count in counts]


class Pair:
    """One TLB twice; calls go to both.

    Attributes
    ----------
    values : dict of (int, int)
        What the latest walk for each (page, leaf level) found: a number that no other walk found.
    """

    def __init__(self, arrays: list[PlainArray]) -> None:
        self.kernel = new_tlb(arrays)
        self.plain = new_plain_tlb(arrays)
        self.values: dict[tuple[int, int], int] = {}
        self.walks = 0

    def translate(self, page: int, page_level: int, flags: int = 0) -> int:
        """Look a page up level by level and fill what missed; return how many levels missed."""
        missed = 0
        entry = tlb.EMPTY
        while missed < self.plain.levels and entry == tlb.EMPTY:
            found = tlb.find(self.kernel, missed, page, page_level - 1)
            entry = tlb.lookup(self.kernel, missed, page, page_level - 1)
            assert entry == found
            missed += entry == tlb.EMPTY
        if missed == self.plain.levels:
            self.walks += 1
            self.values[page, page_level] = self.walks << tlb.FRAME_SHIFT | flags
        else:
            assert self.kernel.values[entry] == self.values[page, page_level]
        for level in range(missed):
            tlb.fill(self.kernel, level, page, page_level - 1, self.values[page, page_level])
        assert missed == self.plain.translate(page, page_level)
        return missed

    def invalidate(self, page: int, page_level: int) -> int:
        """Drop a page; return how many levels held it."""
        dropped = int(tlb.invalidate(self.kernel, page, page_level - 1))
        assert dropped == self.plain.invalidate(page, page_level)
        return dropped

    def flush(self) -> None:
        """Drop all."""
        tlb.flush(self.kernel)
        self.plain.flush()

    def drop(self, keep_global: bool) -> None:
        """Drop page-directory entries and, if ``keep_global``, all pages whose value is not global."""
        (tlb.drop_local if keep_global else tlb.drop_directories)(self.kernel)
        for level in self.plain.homes:
            for one in {id(one): one for sets in level.values() for one in sets}.values():
                for key in list(one.entries):
                    if key[1] == DIRECTORY or (keep_global and not self.values[key] & tlb.GLOBAL):
                        del one.entries[key]

    def check(self) -> None:
        """Compare what each level holds and in which order of use, and audit the kernel's hash chains and rings."""
        assert contents(self.kernel) == [
            sorted({key for sets in level.values() for one in sets for key in one.entries})
            for level in self.plain.homes
        ]
        for entry in np.flatnonzero(self.kernel.keys != tlb.EMPTY).tolist():
            assert self.kernel.values[entry] == self.values[key_of(self.kernel, entry)]
        for level in range(self.plain.levels):
            for page_level, homes in self.plain.homes[level].items():
                fields = self.kernel.geometry[level, page_level - 1]
                assert fields[Field.SETS] == len(homes)
                for number, home in enumerate(homes):
                    entries = ring(self.kernel, int(fields[Field.FIRST_SET]) + number)
                    held = [key_of(self.kernel, one) for one in entries if self.kernel.keys[one] != tlb.EMPTY]
                    assert held == list(home.entries)[::-1]
        audit(self.kernel)


def level_of_entries(kernel: Tlb) -> list[range]:
    """Return the entries that belong to each level."""
    rings = [ring(kernel, number) for number in range(len(kernel.newer) - len(kernel.keys))]
    ranges = []
    first = 0
    for level in range(kernel.geometry.shape[0]):
        last_set = max(int(fields[Field.FIRST_SET] + fields[Field.SETS]) for fields in kernel.geometry[level])
        end = sum(map(len, rings[:last_set])) if last_set else first
        ranges.append(range(first, end))
        first = end
    assert kernel.first_entry.tolist() == [0, *(entries.stop for entries in ranges)]
    return ranges


def ring(kernel: Tlb, number: int) -> list[int]:
    """Return a set's entries from the most to the least recently used, having gone round both ways."""
    sentinel = len(kernel.keys) + number
    older = [int(kernel.older[sentinel])]
    while older[-1] != sentinel:
        assert kernel.newer[kernel.older[older[-1]]] == older[-1]
        older.append(int(kernel.older[older[-1]]))
        assert len(older) <= len(kernel.keys) + 1
    return older[:-1]


def key_of(kernel: Tlb, entry: int) -> tuple[int, int]:
    """Return (page, leaf level) of an entry."""
    return int(kernel.keys[entry]) >> 2, (int(kernel.keys[entry]) & 3) + 1


def contents(kernel: Tlb) -> list[list[tuple[int, int]]]:
    """Return (page, leaf level) of all entries, sorted, for each level."""
    return [
        sorted(key_of(kernel, entry) for entry in entries if kernel.keys[entry] >= 0)
        for entries in level_of_entries(kernel)
    ]


def audit(kernel: Tlb) -> None:
    """Check that every entry is in one ring and, if used, in exactly one bucket's chain."""
    rings = [ring(kernel, number) for number in range(len(kernel.newer) - len(kernel.keys))]
    assert sorted(entry for one in rings for entry in one) == list(range(len(kernel.keys)))
    chained = []
    for first in kernel.buckets[kernel.buckets >= 0].tolist():
        entry = first
        while entry >= 0:
            chained.append(entry)
            entry = int(kernel.chain[entry])
            assert len(chained) <= len(kernel.keys)
    assert sorted(chained) == np.flatnonzero(kernel.keys >= 0).tolist()


# Streams of one page size


def test_two_percent_of_the_campaign_agrees() -> None:
    """24 random geometries and 8 with several page sizes; the rest is ``python -m tests.campaigns.tlb``."""
    results = campaign.run(0.02, seed=1)
    assert len(results) == campaign.GEOMETRIES + campaign.MIXED_GEOMETRIES
    for result in results:
        assert result.agrees, str(result)
    arrays = [campaign.random_geometry(random.Random(1000 + number)) for number in range(campaign.GEOMETRIES)]
    assert {len(levels) for levels in arrays} == {1, 2, 3}
    sets = {array.sets for levels in arrays for array in levels}
    assert 1 in sets
    assert any(count & (count - 1) for count in sets)


geometries = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 12)) | st.tuples(st.just(1), st.integers(1, 40)),
    min_size=1,
    max_size=3,
).map(lambda levels: [PlainArray(number, *one, SMALL_PAGES) for number, one in enumerate(levels, start=1)])


@settings(max_examples=150)
@given(arrays=geometries, pages=st.lists(st.integers(0, 60) | st.integers(0, (1 << 52) - 1), max_size=300))
def test_any_geometry_and_any_pages(arrays: list[PlainArray], pages: list[int]) -> None:
    misses(arrays, np.array(pages, np.int64))


def test_counting_goes_on_from_the_state_it_left() -> None:
    arrays = [PlainArray(1, 3, 2, SMALL_PAGES), PlainArray(2, 1, 11, SMALL_PAGES)]
    pages = np.random.default_rng(5).integers(0, 40, 5000)
    whole = misses(arrays, pages)
    kernel = new_tlb(arrays)
    counts = np.zeros(2, np.int64)
    for part in np.array_split(pages, 77):
        tlb.count_misses(kernel, part, counts)
    assert counts.tolist() == whole


def test_a_repeat_at_the_edge_of_two_calls_is_a_hit() -> None:
    kernel = new_tlb([PlainArray(1, 1, 4, SMALL_PAGES)])
    counts = np.zeros(1, np.int64)
    for _ in range(3):
        tlb.count_misses(kernel, np.array([9, 9], np.int64), counts)
    assert counts.tolist() == [1]


def test_recency_of_a_level_is_touched_only_by_what_reaches_it() -> None:
    """Page 0 stays in the first level, so the second level forgets it first."""
    arrays = [PlainArray(1, 1, 2, SMALL_PAGES), PlainArray(2, 1, 3, SMALL_PAGES)]
    pair = Pair(arrays)
    assert [pair.translate(page, 1) for page in (0, 1, 0, 2, 0, 3, 0, 4, 0)] == [2, 2, 0, 2, 0, 2, 0, 2, 0]
    # Level 2 saw 0, 1, 2, 3, 4 once each: 0 and 1 are gone from it, though level 1 holds 0.
    assert contents(pair.kernel) == [[(0, 1), (4, 1)], [(2, 1), (3, 1), (4, 1)]]
    pair.check()


# Several page sizes


@pytest.mark.parametrize("seed", range(24))
def test_mixed_sizes_with_invalidations_and_flushes(seed: int) -> None:
    """Random arrays, shared and separate; after each of many calls both hold the same entries in the same order.

    A third of the seeds hash the set's number, a third hold page-directory entries, beside pages or alone.
    """
    rng = random.Random(seed)
    sharing = campaign.SHARING[seed % len(campaign.SHARING)]
    arrays = [PlainArray(1, rng.randint(1, 4), rng.randint(1, 4), sizes) for sizes in sharing]
    for level in range(2, rng.randint(1, 3) + 1):
        shift = rng.randint(1, 4) if seed % 3 == 1 else 0
        first = len(arrays)
        arrays += [
            PlainArray(level, rng.randint(1, 7), rng.randint(1, 6), sizes, shift)
            for sizes in rng.choice(campaign.SHARING)
        ]
        if seed % 3 == 2:
            arrays[first] = arrays[first]._replace(directories=True)
    directories = any(array.directories for array in arrays)
    pair = Pair(arrays)
    for step in range(500):
        page_level = rng.choice((1, 1, 1, 2, 2, 3, *([DIRECTORY] * 2 if directories else [])))
        page = rng.randrange(rng.choice((8, 40)))
        action = rng.random()
        if action < 0.88:
            pair.translate(page, page_level, rng.randrange(4))
        elif action < 0.975:
            pair.invalidate(page, page_level)
        elif action < 0.99:
            pair.drop(keep_global=rng.random() < 0.5)
        else:
            pair.flush()
        if step % 5 == 0:
            pair.check()
    pair.check()


def test_shared_arrays_let_sizes_compete_and_separate_ones_do_not() -> None:
    shared = Pair([PlainArray(1, 1, 4, EVERY_SIZE)])
    separate = Pair([PlainArray(1, 1, 4, (size,)) for size in EVERY_SIZE])
    for pair in (shared, separate):
        for page in range(4):
            assert pair.translate(page, 1) == 1
        assert pair.translate(0, 2) == 1
        assert pair.translate(0, 3) == 1
    # Pages 0 and 1 gave way to one page of each larger size. The same number means another page at another size.
    assert [shared.translate(page, 1) for page in (2, 3, 0)] == [0, 0, 1]
    assert [separate.translate(page, 1) for page in range(4)] == [0, 0, 0, 0]
    assert [separate.translate(0, size) for size in EVERY_SIZE] == [0, 0, 0]


def test_a_size_in_two_arrays_is_spread_over_their_sets() -> None:
    """Set = page number mod the sum of the sets; the arrays' ways may differ. Ice Lake's second level is such."""
    pair = Pair([PlainArray(1, 2, 1, (1, 2)), PlainArray(1, 3, 2, (1, 3))])
    # Pages of one residue mod 5 share a set: 0 and 1 in the first array (one way), 2 to 4 in the second (two ways).
    for residue, ways in ((0, 1), (1, 1), (2, 2), (3, 2), (4, 2)):
        for multiple in range(ways):
            assert pair.translate(residue + 5 * multiple, 1) == 1
        for multiple in range(ways):
            assert pair.translate(residue + 5 * multiple, 1) == 0
        assert pair.translate(residue + 5 * ways, 1) == 1
        assert pair.translate(residue, 1) == 1
    # 2M pages have the first array's two sets to themselves as sets, 1G pages the second's three.
    assert [pair.translate(page, 2) for page in (0, 1, 0, 2, 0)] == [1, 1, 0, 1, 1]
    assert [pair.translate(page, 3) for page in (0, 1, 2, 3, 4, 5, 0)] == [1, 1, 1, 1, 1, 1, 0]
    pair.check()


def test_a_level_without_a_size_never_holds_it() -> None:
    pair = Pair([PlainArray(1, 1, 2, EVERY_SIZE), PlainArray(2, 4, 4, (1, 2))])
    assert [pair.translate(page, 3) for page in (0, 1, 0, 2, 1)] == [2, 2, 0, 2, 2]
    assert contents(pair.kernel)[1] == []
    assert pair.invalidate(1, 3) == 1
    pair.check()


def test_a_hashed_set_number() -> None:
    """Set = (page XOR page >> 2) mod 4: pages 0, 5, 10 and 15 share a set, pages 0, 4, 8 and 12 do not."""
    plain, hashed = (Pair([PlainArray(1, 4, 1, SMALL_PAGES, shift)]) for shift in (0, 2))
    for pages, conflicts in (((0, 4, 8, 12), (True, False)), ((0, 5, 10, 15), (False, True))):
        for pair, conflict in zip((plain, hashed), conflicts, strict=True):
            pair.flush()
            for page in pages:
                assert pair.translate(page, 1) == 1
            assert [pair.translate(page, 1) for page in pages] == [int(conflict)] * 4
            pair.check()


def test_page_directory_entries_compete_with_pages_and_are_no_2m_pages() -> None:
    pair = Pair([PlainArray(1, 1, 1, SMALL_PAGES), PlainArray(2, 1, 2, (1, 2), directories=True)])
    assert [pair.translate(7, size) for size in (2, DIRECTORY, 2, DIRECTORY)] == [2, 2, 1, 1]
    assert pair.translate(7, 1) == 2
    # The 2M page was the least recently used of the second level's two.
    assert contents(pair.kernel) == [[(7, 1)], [(7, 1), (7, DIRECTORY)]]
    pair.drop(keep_global=False)
    assert contents(pair.kernel) == [[(7, 1)], [(7, 1)]]
    pair.check()


def test_a_change_of_the_address_space_keeps_what_is_global() -> None:
    pair = Pair([PlainArray(1, 1, 4, EVERY_SIZE), PlainArray(2, 1, 8, EVERY_SIZE, directories=True)])
    for page in range(4):
        pair.translate(page, 1 + page % 3, tlb.GLOBAL * (page % 2) | tlb.DIRTY * (page // 2))
    pair.translate(9, DIRECTORY, tlb.GLOBAL)
    pair.drop(keep_global=True)
    assert contents(pair.kernel) == [[(1, 2), (3, 1)]] * 2
    pair.check()
    # The places that were left are filled before what stayed is driven out.
    for page in (10, 11):
        assert pair.translate(page, 1) == 2
    assert [pair.translate(page, size) for page, size in ((1, 2), (3, 1), (10, 1), (11, 1))] == [0, 0, 0, 0]
    pair.check()


def test_arrays_of_one_size_must_lie_side_by_side() -> None:
    arrays = [tlb.Array(1, 2, 1, (1, 3)), tlb.Array(1, 2, 1, (1, 2)), tlb.Array(1, 2, 1, (2, 3))]
    with pytest.raises(ValueError, match="follow one another"):
        tlb.new_tlb(1, arrays)


# Invalidating


def test_a_dropped_page_leaves_a_place_that_is_filled_first() -> None:
    pair = Pair([PlainArray(1, 1, 3, SMALL_PAGES), PlainArray(2, 1, 8, SMALL_PAGES)])
    for page in (0, 1, 2):
        pair.translate(page, 1)
    assert pair.invalidate(1, 1) == 2
    assert pair.invalidate(1, 1) == 0
    assert pair.invalidate(7, 1) == 0
    assert pair.translate(3, 1) == 2
    # 3 took 1's place; 0 and 2 are still there.
    assert [pair.translate(page, 1) for page in (0, 2, 3, 1)] == [0, 0, 0, 2]
    pair.check()


def test_a_flush_empties_all_levels() -> None:
    pair = Pair([PlainArray(1, 2, 2, EVERY_SIZE), PlainArray(2, 3, 5, (1, 2))])
    pages = [(page, size) for page in range(4) for size in EVERY_SIZE]
    for page, size in pages:
        pair.translate(page, size)
    pair.flush()
    assert contents(pair.kernel) == [[], []]
    assert [pair.translate(page, size) for page, size in pages] == [2] * len(pages)
    pair.check()


# Closed forms (uniform: independent reference model; cyclic: the cliff of LRU)


def hits_of(sets: int, ways: int, pages: npt.NDArray[np.int64], warm: int) -> float:
    """Return the hit rate of one level after ``warm`` accesses."""
    kernel = new_tlb([PlainArray(1, sets, ways, SMALL_PAGES)])
    counts = np.zeros(1, np.int64)
    tlb.count_misses(kernel, pages[:warm], counts)
    counts[:] = 0
    tlb.count_misses(kernel, pages[warm:], counts)
    return 1 - int(counts[0]) / (len(pages) - warm)


def pages_in_set(pages: int, sets: int) -> npt.NDArray[np.int64]:
    """Return how many of pages 0 to ``pages`` - 1 fall into each set."""
    return np.bincount(np.arange(pages) % sets, minlength=sets)


UNIFORM = [(96, 1, 64), (4096, 256, 8), (2112, 128, 16), (1000, 37, 5), (100, 7, 13), (64, 1, 64)]


@pytest.mark.parametrize(("pages", "sets", "ways"), UNIFORM)
def test_uniform_accesses_hit_as_often_as_ways_cover_pages(pages: int, sets: int, ways: int) -> None:
    """hit = sum over sets of min(pages in the set, ways) / pages."""
    expected = np.minimum(pages_in_set(pages, sets), ways).sum() / pages
    stream = np.random.default_rng(11).integers(0, pages, 600_000)
    measured = hits_of(sets, ways, stream, warm=100_000)
    # Five standard deviations of independent hits; LRU's are less than independent, hence the addend.
    assert measured == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 500_000) + 0.001)


CYCLIC = [
    (66, 1, 64),
    (64, 1, 64),
    (65, 1, 64),
    (2112, 128, 16),
    (2176, 128, 16),
    (2048, 128, 16),
    (50, 7, 7),
    (99, 10, 9),
]


@pytest.mark.parametrize(("pages", "sets", "ways"), CYCLIC)
def test_a_repeated_cycle_hits_only_in_sets_that_hold_all_of_it(pages: int, sets: int, ways: int) -> None:
    """hit = pages in sets with no more pages than ways / pages, exactly, whatever the order of the cycle."""
    per_set = pages_in_set(pages, sets)
    fitting = int(per_set[per_set <= ways].sum())
    cycle = np.random.default_rng(3).permutation(pages)
    laps = 20
    kernel = new_tlb([PlainArray(1, sets, ways, SMALL_PAGES)])
    counts = np.zeros(1, np.int64)
    tlb.count_misses(kernel, cycle, counts)
    assert counts.tolist() == [pages]
    counts[:] = 0
    tlb.count_misses(kernel, np.tile(cycle, laps), counts)
    assert counts.tolist() == [laps * (pages - fitting)]


@pytest.mark.parametrize(("pages", "ways", "exponent"), [(4096, 64, 0.8), (4096, 64, 1.0), (20_000, 2048, 1.0)])
def test_zipf_accesses_hit_as_che_says(pages: int, ways: int, exponent: float) -> None:
    """Che 2002: hit = sum of p (1 - exp(-p T)), where sum of (1 - exp(-p T)) = ways; fully associative LRU."""
    weights = np.arange(1, pages + 1) ** -exponent
    probabilities = weights / weights.sum()
    low, high = 1.0, 1e9
    for _ in range(100):
        middle = np.sqrt(low * high)
        held = -np.expm1(-probabilities * middle).sum()
        low, high = (middle, high) if held < ways else (low, middle)
    expected = (probabilities * -np.expm1(-probabilities * low)).sum()
    stream = np.random.default_rng(8).choice(pages, 400_000, p=probabilities)
    assert hits_of(1, ways, stream, warm=100_000) == pytest.approx(expected, abs=0.004)


def test_the_oracle_itself_keeps_to_a_textbook_example() -> None:
    """The reference string of the textbooks with three frames under LRU: ten faults of twelve."""
    plain = PlainTlb(1, [PlainArray(1, 1, 3, SMALL_PAGES)])
    assert plain.misses([1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5]) == [10]
