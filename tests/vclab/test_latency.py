"""The pointer chase against the steps that were measured on a CPU, and what it refuses."""

from __future__ import annotations

import pytest

from vckernels.causes import Cause
from vclab import AccessCost, ConfigurationError, chase, presets
from vclab.latency import STEADY, chase_costs

KIB = 1024
PAGE = 4096
#: Which frames a chase gets is chance, in the model as in the measurement.
SEEDS = range(9)
#: Cycles of one load by footprint, measured on an EPYC Milan VM (Zen 3), 2026-11, 4K pages: the best of eight runs,
#: each with pages of its own.
SHUFFLED = {512: 11.0, 768: 11.0, 1024: 11.5, 1536: 12.6, 2048: 15.6, 3072: 18.9, 4096: 19.9}
SAME = {
    64: 15.0,
    128: 15.0,
    256: 15.0,
    288: 20.0,
    512: 20.0,
    1024: 20.0,
    1536: 20.0,
    2048: 20.0,
    3072: 26.2,
    4096: 35.8,
}
EVERY_LINE = {
    64: 12.0,
    128: 12.0,
    256: 12.1,
    384: 15.6,
    512: 23.2,
    768: 34.3,
    1024: 42.9,
    1536: 47.4,
    2048: 48.8,
    3072: 50.7,
    4096: 51.8,
}
MEASURED = [
    *(("shuffled", PAGE, kibibytes, cycles) for kibibytes, cycles in SHUFFLED.items()),
    *(("same", PAGE, kibibytes, cycles) for kibibytes, cycles in SAME.items()),
    *(("same", 64, kibibytes, cycles) for kibibytes, cycles in EVERY_LINE.items()),
]
RUNS = 8


def middle(footprint: int, stride: int = PAGE, offsets: str = "same") -> float:
    """Return the cycles of a load on Zen 3, the median over the draws of frames."""
    return chase("zen3", footprint, stride, offsets=offsets)


def best(footprint: int, stride: int, offsets: str) -> float:
    """Return the cycles of a load on Zen 3, the best of as many draws of frames as there were runs."""
    costs = chase_costs("zen3", footprint, stride, "4K", offsets, 1, placements=RUNS)
    return min(cost.cycles_per_access for cost in costs)


def chase_cost(cpu: str, footprint: int, stride: int, page_size: str, offsets: str, seed: int) -> AccessCost:
    """Return what a single draw of frames costs."""
    return chase_costs(cpu, footprint, stride, page_size, offsets, seed, placements=1)[0]


@pytest.mark.parametrize(("offsets", "stride", "kibibytes", "measured"), MEASURED)
def test_the_curve_of_zen_3_is_the_measured_one_within_a_tenth(
    offsets: str, stride: int, kibibytes: int, measured: float
) -> None:
    assert best(kibibytes * KIB, stride, offsets) == pytest.approx(measured, rel=0.1)


#: The median over eight runs of the best stretch of each, which no other work disturbed.
@pytest.mark.parametrize(("kibibytes", "measured"), [(384, 17.4), (512, 25.0), (768, 39.3), (1024, 44.8)])
def test_sets_that_lines_overfill_keep_some_of_them(kibibytes: int, measured: float) -> None:
    """All lines of 0.75 to 2 times the second-level cache: exact LRU alone would hit nothing there.

    The neighbours that the adjacent-line prefetcher brings are what is hit; without a history it brings none.
    """
    assert middle(kibibytes * KIB, 64) == pytest.approx(measured, rel=0.1)


def test_the_first_level_ends_after_64_pages() -> None:
    """Measured: 62 pages 4.0 cycles, 66 pages 11.0."""
    assert middle(62 * PAGE, offsets="shuffled") == pytest.approx(4.0, abs=0.2)
    step = middle(66 * PAGE, offsets="shuffled") - middle(62 * PAGE, offsets="shuffled")
    assert step == pytest.approx(7.0, abs=0.5)
    assert chase("zen3", 64 * PAGE, offsets="shuffled") < chase("zen3", 65 * PAGE, offsets="shuffled")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_second_level_ends_at_2048_pages(seed: int) -> None:
    """Walks start; measured between 1920 and 2176 pages: 15 to 25 cycles more."""
    inside, outside = (chase_cost("zen3", pages * PAGE, PAGE, "4K", "shuffled", seed) for pages in (1920, 2176))
    assert 15 <= outside.cycles_per_access - inside.cycles_per_access <= 25
    assert inside.walks < 0.02 * inside.accesses
    assert outside.walks > 0.9 * outside.accesses


@pytest.mark.parametrize(("offsets", "stride", "kibibytes", "measured"), MEASURED)
def test_serial_and_overlapped_bracket_the_measurement(
    offsets: str, stride: int, kibibytes: int, measured: float
) -> None:
    """A chase is bound by latency: what independent loads could do lies well below it."""
    for seed in SEEDS[:3]:
        cost = chase_cost("zen3", kibibytes * KIB, stride, "4K", offsets, seed)
        overlapped = cost.overlapped_cycles / cost.accesses
        assert 1 / presets.cpu("zen3").overlap.loads_per_cycle.value <= overlapped < measured / 3
        assert overlapped < 0.9 * measured <= cost.cycles_per_access


def test_what_is_counted_are_whole_steady_laps() -> None:
    """Nothing is cold, all that fits is hit; 50 pages go into 100,000 accesses 2000 times, 99 pages 1011 times."""
    for pages, accesses in ((50, STEADY), (99, 1011 * 99)):
        cost = chase_cost("zen3", pages * PAGE, PAGE, "4K", "shuffled", 0)
        assert cost.accesses == accesses
        assert cost.walks == 0
        assert cost.counts[Cause.DATA_MEMORY] == 0
    assert cost.tlb_hits.tolist() == [0, 1011 * 99]


def test_page_sizes() -> None:
    """64 MiB: 16384 pages of 4K walk, 32 of 2M and one of 1G are in the first level; data lines are as far."""
    costs = {size: chase_cost("zen3", "64MiB", PAGE, size, "shuffled", 0) for size in ("4K", "2M", "1G")}
    assert costs["4K"].walks == costs["4K"].accesses
    for size in ("2M", "1G"):
        assert costs[size].tlb_hits.tolist() == [costs[size].accesses, 0]
        assert costs[size].by_cause["page walk"] == 0
        assert costs[size].cycles < costs["4K"].cycles
    # 96 pages of 2M are in the second level only.
    many = chase_cost("zen3", "192MiB", 2 << 20, "2M", "shuffled", 0)
    assert many.tlb_hits.tolist() == [0, many.accesses]


@pytest.mark.parametrize("cpu", presets.cpu_names())
def test_every_cpu_can_be_chased_on_with_the_page_sizes_it_has(cpu: str) -> None:
    preset = presets.cpu(cpu)
    fast = chase(cpu, 8 * PAGE, offsets="shuffled")
    assert fast == preset.data_cache[0].latency.value
    for size in preset.paging.page_sizes.value:
        assert fast < chase(cpu, "16MiB", page_size=size, offsets="shuffled") < 2 * preset.memory.latency.value
    if "1G" not in preset.paging.page_sizes.value:
        with pytest.raises(ConfigurationError, match=r"presets that have them: .*skylake-sp, zen3"):
            chase(cpu, page_size="1G")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offsets": "wild"}, "same and shuffled"),
        ({"stride": 0}, "no element"),
        ({"stride": -4096}, "no element"),
        ({"footprint": 4096, "stride": 8192}, "lower the stride"),
        ({"page_size": "3M"}, "4K, 2M, 1G"),
        ({"cpu": "z80"}, "there are core2"),
        ({"footprint": "much"}, "footprint"),
        ({"footprint": -1}, "footprint"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chase(**arguments)  # type: ignore[arg-type]


def test_a_seed_is_a_draw_of_frames_lines_and_cycle() -> None:
    same = [chase_cost("zen3", "3MiB", PAGE, "4K", "same", 5).counts for _ in range(2)]
    assert same[0].tolist() == same[1].tolist()
    assert len({chase("zen3", "3MiB", seed=seed) for seed in range(5)}) == 5


def test_sizes_may_be_written_out() -> None:
    assert chase("zen3", "512KiB") == chase("zen3", 512 * KIB)
    assert chase() == chase("zen3", "8MiB", 4096, "4K", "same", 0)
