"""Watermarks, reserves and per-CPU sizes equal those of recorded kernels, to the last frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from vclab import watermarks_2_6
from vclab.errors import ConfigurationError
from vclab.watermarks import (
    PerCpuSizes,
    Settings,
    Watermarks,
    ZoneLimits,
    ZoneSize,
    batch_size,
    boost_limits,
    boot_min_free_kbytes,
    highatomic_limit,
    min_free_kbytes,
    per_cpu_sizes,
    recommended_min_free_kbytes,
    stat_threshold,
    zone_limits,
)

RECORDED = Path(__file__).parents[3] / "shared" / "data"
MOMENTS = [f"linux-6.18-compile/{moment}" for moment in ("live", "pre", "post")]
MOMENTS += [f"linux-6.18-fragmented/{moment}" for moment in ("pre", "post")]
MOMENTS += [f"linux-6.18-maps/frag_{number}" for number in (1, 2, 3)]

#: Zones of one recorded Linux 6.18 with 2 CPUs at two moments: managed and present frames, boost, the four marks,
#: protection, and for zones that hold frames batch, high_min, high_max and the statistics' threshold.
EXCERPT = {
    "growing": """
        DMA 3840 3998 0 13 16 19 22 (0, 3018, 19402, 19402, 19402) 1 8 240 4
        DMA32 772808 782336 0 2626 3398 4170 4942 (0, 0, 16384, 16384, 16384) 63 1699 48300 24
        Normal 4194304 5505024 0 14256 18450 22644 26838 (0, 0, 0, 0, 0) 63 9225 262144 36
        Movable 0 0 0 32 32 32 32 (0, 0, 0, 0, 0)
        Device 0 0 0 0 0 0 0 (0, 0, 0, 0, 0)""",
    "boosted": """
        DMA 3840 3998 0 10 13 16 19 (0, 3018, 24090, 24090, 24090) 1 6 240 4
        DMA32 772808 782336 0 2115 2887 3659 4431 (0, 0, 21071, 21071, 21071) 63 1443 48300 24
        Normal 5394266 5505024 1536 16305 21699 27093 32487 (0, 0, 0, 0, 0) 63 10081 337141 36
        Movable 0 0 0 32 32 32 32 (0, 0, 0, 0, 0)
        Device 0 0 0 0 0 0 0 (0, 0, 0, 0, 0)""",
}


class Seen(NamedTuple):
    """What one zone of a zoneinfo says."""

    zone: ZoneSize
    boost: int
    marks: list[int]
    protection: list[int]
    per_cpu: list[PerCpuSizes]
    thresholds: list[int]
    highs: list[int]


def from_excerpt(text: str) -> list[Seen]:
    seen = []
    for name, sizes, protection, rest in re.findall(r"(\w+) ([\d ]+) \((.*)\) ?(.*)", text):
        managed, present, boost, *marks = map(int, sizes.split())
        more = [int(number) for number in rest.split()]
        per_cpu, thresholds = ([PerCpuSizes(*more[:3])], more[3:]) if more else ([], [])
        zone = ZoneSize(name, managed, present)
        seen.append(Seen(zone, boost, marks, [int(n) for n in protection.split(",")], per_cpu, thresholds, []))
    return seen


def from_zoneinfo(text: str) -> list[Seen]:
    seen = []
    for name, body in re.findall(r"zone +(\w+)\n(.*?)(?=^Node|\Z)", text, re.MULTILINE | re.DOTALL):
        numbers = {key: list(map(int, re.findall(rf"^ +{key}:? +(\d+)$", body, re.MULTILINE))) for key in KEYS}
        protection = re.search(r"protection: \((.*)\)", body)
        assert protection
        seen.append(
            Seen(
                ZoneSize(name, numbers["managed"][0], numbers["present"][0]),
                numbers["boost"][0],
                [numbers[key][0] for key in Watermarks._fields],
                [int(number) for number in protection[1].split(",")],
                [PerCpuSizes(*row) for row in zip(*(numbers[key] for key in PerCpuSizes._fields), strict=True)],
                numbers["vm stats threshold"],
                numbers["high"][1:],
            )
        )
    return seen


KEYS = (*Watermarks._fields, *PerCpuSizes._fields, "managed", "present", "boost", "vm stats threshold")


def compare(seen: list[Seen], cpus: int) -> int:
    """Assert that all of a zoneinfo follows from its zones' sizes; return how many numbers were compared."""
    compared = 0
    for zone, limits in zip(seen, zone_limits([zone.zone for zone in seen], cpus), strict=True):
        assert limits.zone == zone.zone
        assert list(limits.watermarks.boosted(zone.boost)) == zone.marks
        assert list(limits.lowmem_reserve.values()) == zone.protection
        assert all(sizes == limits.per_cpu for sizes in zone.per_cpu)
        assert all(threshold == limits.stat_threshold for threshold in zone.thresholds)
        # The limit of a CPU's lists starts at 0 and tunes itself between its bounds.
        assert all(not high or limits.per_cpu.high_min <= high <= limits.per_cpu.high_max for high in zone.highs)
        assert zone.boost % 512 == 0 and zone.boost <= limits.boost_limit
        compared += len(zone.marks) + len(zone.protection) + 3 * len(zone.per_cpu) + len(zone.thresholds)
    return compared


@pytest.mark.skipif(not RECORDED.is_dir(), reason="whole zoneinfo files are not shipped; they lie in ../shared/data")
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_recorded_zone_follows_from_its_size(moment: str) -> None:
    seen = from_zoneinfo((RECORDED / f"{moment}_zoneinfo.txt").read_text(encoding="ascii"))
    assert [len(zone.per_cpu) for zone in seen] == [2, 2, 2, 0, 0]
    # 5 zones of 4 marks and 5 reserves, 3 zones of 2 CPUs with 3 sizes and a threshold.
    assert compare(seen, cpus=2) == 5 * 9 + 3 * 2 * 4


@pytest.mark.parametrize("moment", EXCERPT)
def test_recorded_zones_follow_from_their_sizes(moment: str) -> None:
    seen = from_excerpt(EXCERPT[moment])
    assert compare(seen, cpus=2) == 5 * 9 + 3 * 4
    # Three zones of 512 * 11 frames each.
    assert min_free_kbytes([zone.zone for zone in seen]) == 67584


# Rules by hand


def test_min_free_kbytes() -> None:
    # The table in mm/page_alloc.c: 16 MB: 512 KB, 1 GB: 4 MB, 16 GB: 16 MB.
    assert [boot_min_free_kbytes(size << 10) for size in (16, 1024, 16384)] == [512, 4096, 16384]
    assert boot_min_free_kbytes(100) == 128
    assert boot_min_free_kbytes(1 << 40) == 262144
    # A small machine: a twentieth of its memory above its high watermarks.
    zones = [ZoneSize("DMA", 2000), ZoneSize("DMA32", 60000)]
    quiet = Settings(transparent_huge_pages=False)
    assert min_free_kbytes(zones, quiet) == 1991
    marks = [limits.watermarks for limits in zone_limits(zones, settings=quiet)]
    assert marks == [Watermarks(16, 20, 24, 28), Watermarks(480, 600, 720, 840)]
    assert min_free_kbytes(zones) == (62000 - 744) // 20 * 4
    assert recommended_min_free_kbytes(2, 10**6) == 2 * 11 * 512 * 4
    # What an administrator sets stays, unless khugepaged wants more.
    assert min_free_kbytes(zones, Settings(min_free_kbytes=100_000)) == 100_000
    assert min_free_kbytes(zones, Settings(min_free_kbytes=1000)) > 1000


def test_movable_memory_has_marks_of_its_own() -> None:
    zones = [ZoneSize("Normal", 100_000), ZoneSize("Movable", 100_000), ZoneSize("Device", 0)]
    normal, movable, device = zone_limits(zones, settings=Settings(min_free_kbytes=4000, transparent_huge_pages=False))
    assert normal.watermarks == Watermarks(1000, 1250, 1500, 1750)
    # A 1024th of the zone, between 32 and 128; the steps go on from its share.
    assert movable.watermarks == Watermarks(97, 347, 597, 847)
    assert device.watermarks == Watermarks(0, 0, 0, 0)
    assert normal.lowmem_reserve == {"Normal": 0, "Movable": 3125, "Device": 3125}
    assert movable.lowmem_reserve == {"Normal": 0, "Movable": 0, "Device": 0}


@pytest.mark.parametrize(
    ("managed", "batch"), [(0, 1), (3840, 1), (12_288, 3), (131_072, 31), (262_144, 63), (1 << 40, 63)]
)
def test_batch(managed: int, batch: int) -> None:
    assert batch_size(managed) == batch


def test_per_cpu_sizes() -> None:
    assert per_cpu_sizes(3_964_928, 18_092, 2) == (63, 9046, 247_808)
    # Not less than four batches, and a fraction of the zone that is set.
    assert per_cpu_sizes(1 << 20, 1600, 64) == (63, 252, 2048)
    assert per_cpu_sizes(1 << 20, 1600, 4, high_fraction=16) == (63, 16_384, 16_384)


def test_boost_and_what_is_kept_for_atomic_requests() -> None:
    assert boost_limits(5_394_266, 25_557) == (512, 38_335)
    assert boost_limits(4096, 20) == (512, 512)
    assert boost_limits(2047, 20) == (0, 0)
    assert boost_limits(4096, 20, boost_factor=0) == (0, 0)
    assert highatomic_limit(51_199) == 0
    assert highatomic_limit(51_200) == 512
    assert highatomic_limit(5_394_266) == 106 * 512
    assert stat_threshold(1 << 30, 1024) == 125


def test_nodes_have_cpus_of_their_own() -> None:
    zones = [ZoneSize("Normal", 1 << 20, node=0), ZoneSize("Normal", 1 << 20, node=1), ZoneSize("Normal", 8, node=2)]
    first, second, third = zone_limits(zones, {0: 2, 1: 6})
    assert first.watermarks == second.watermarks
    assert first.per_cpu.high_max == (1 << 20) // 8 // 2
    assert second.per_cpu.high_max == (1 << 20) // 8 // 6
    assert third.per_cpu == PerCpuSizes(1, 4, 4)
    assert first.lowmem_reserve == {"Normal": 0}


def test_impossible_settings_are_refused() -> None:
    zones = [ZoneSize("Normal", 1024)]
    with pytest.raises(ConfigurationError):
        zone_limits(zones, cpus=0)
    for settings in (Settings(watermark_scale_factor=-1), Settings(lowmem_reserve_ratio={"DMA": -1})):
        with pytest.raises(ConfigurationError):
            zone_limits(zones, settings=settings)
    limits: list[ZoneLimits] = zone_limits([ZoneSize("Normal", 0)])
    assert limits[0].watermarks == Watermarks(0, 0, 0, 0)


# Linux 2.6.23 and 2.6.24


def test_2_6_marks_by_hand() -> None:
    """2 GiB below 4 GiB: 4 times the root of its KiB, shared out by size, a quarter and a half more."""
    limits = watermarks_2_6.zone_limits({"DMA": 4096, "DMA32": 520_192})
    assert watermarks_2_6.min_free_kbytes(524_288) == 5792
    assert [zone.marks for zone in limits] == [(11, 13, 16), (1436, 1795, 2154)]
    assert [zone.lowmem_reserve for zone in limits] == [{"DMA": 0, "DMA32": 2032}, {"DMA": 0, "DMA32": 0}]
    assert [zone.reserve_blocks for zone in limits] == [1, 3]
    assert limits[0].hot == (1, 0) and limits[0].cold == (1, 0)
    assert limits[1].hot == (31, 186) and limits[1].cold == (15, 62)
    # As its boot messages say: "DMA zone: 3998 pages, LIFO batch:0", "DMA32 zone: 782300 pages, LIFO batch:31".
    assert watermarks_2_6.hot_and_cold(3998)[0].high == 0
    assert watermarks_2_6.hot_and_cold(782_300)[0].batch == 31


def test_2_6_bounds_and_settings() -> None:
    assert watermarks_2_6.min_free_kbytes(10) == 128
    assert watermarks_2_6.min_free_kbytes(1 << 30) == 65536
    assert watermarks_2_6.hot_and_cold(1 << 20, fraction=8) == ((96, 1 << 17), (15, 62))
    assert watermarks_2_6.hot_and_cold(1 << 10, fraction=512) == ((1, 2), (1, 0))
    assert watermarks_2_6.lowmem_reserves({"DMA": 10, "Normal": 600, "Movable": 90}, {"DMA": 0, "Normal": 3}) == [
        {"DMA": 0, "Normal": 600, "Movable": 690},
        {"DMA": 0, "Normal": 0, "Movable": 30},
        {"DMA": 0, "Normal": 0, "Movable": 0},
    ]
    assert watermarks_2_6.zone_limits({"Normal": 51_200}, kbytes=8192)[0].marks == (2048, 2560, 3072)
    for present, kbytes in (({}, None), ({"Normal": 0}, None), ({"Normal": 9}, -1), ({"A": -1, "B": 5}, None)):
        with pytest.raises(ConfigurationError):
            watermarks_2_6.zone_limits(present, kbytes)
