"""Presets: every number has one origin, the geometry is the published one, bad files are refused."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import get_args

import pytest

from vclab import presets
from vclab.errors import ConfigurationError
from vclab.presets import CpuPreset, LinuxPreset, MultiprocessorPreset, Preset
from vclab.units import PAGE_SIZES

CPU_FOLDER = Path(presets.__file__).parent / "cpu"
LINUX_FOLDER = Path(presets.__file__).parent / "linux"
KERNEL_FILE = re.compile(r"Linux (?:2\.6\.)?\d+(?:\.\d+)?, (?:[\w-]+/)+[\w-]+\.(?:c|h|rst|txt)\b")
ALL_PRESETS: list[Preset] = [
    *(presets.cpu(name) for name in presets.cpu_names()),
    *(presets.linux(name) for name in presets.linux_names()),
    *(presets.multiprocessor(name) for name in presets.multiprocessor_names()),
]
FOLDERS = {CpuPreset: "cpu", LinuxPreset: "linux", MultiprocessorPreset: "multiprocessor"}

TLB_FLAG = "tlb.1.holds_directories.value"
TRUE = '{ value = true, estimate = "a guess" }'
HELD = "held are PDPTE, PML4E"

Structure = tuple[int, int, int, tuple[str, ...]]


def structures(name: str) -> list[Structure]:
    return [(s.level, s.entries.value, s.ways.value, s.page_sizes.value) for s in presets.cpu(name).tlb]


def caches(name: str) -> list[tuple[int, int, float, str]]:
    return [(c.nbytes.value, c.ways.value, c.latency.value, c.fill.value) for c in presets.cpu(name).data_cache]


def walk_caches(name: str) -> list[tuple[tuple[str, ...], int, int]]:
    return [(w.holds.value, w.entries.value, w.ways.value) for w in presets.cpu(name).walk_cache]


def estimates(preset: Preset) -> set[str]:
    return {number.path for number in preset.numbers() if number.is_estimate}


def inline_tables(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if "value =" in line]


def mangled(tmp_path: Path, file: Path, old: str, new: str) -> Path:
    text = file.read_text(encoding="utf-8")
    assert old in text
    copy = tmp_path / file.name
    copy.write_text(text.replace(old, new, 1), encoding="utf-8")
    return copy


def refusal(file: Path, model: type[Preset] = CpuPreset) -> str:
    with pytest.raises(ConfigurationError) as caught:
        presets.read(file, model)
    message = str(caught.value)
    assert message.startswith(f"preset file {file.name}")
    assert "\n" not in message
    return message


def test_names() -> None:
    assert {"core2", "ice-lake", "k8", "skylake-sp", "zen3"} <= set(presets.cpu_names())
    assert presets.cpu_names() == sorted(presets.cpu_names())
    assert presets.linux_names() == ["2.6.23", "2.6.24", "6.18"]


@pytest.mark.parametrize("preset", ALL_PRESETS, ids=lambda preset: preset.name)
def test_every_number_is_listed_with_one_origin(preset: Preset) -> None:
    folder = CPU_FOLDER.with_name(FOLDERS[type(preset)])
    lines = inline_tables(folder / f"{preset.name}.toml")
    assert all(("source =" in line) != ("estimate =" in line) for line in lines)
    numbers = preset.numbers()
    assert len(numbers) == len(lines)
    assert len({number.path for number in numbers}) == len(numbers)
    assert sum(number.is_estimate for number in numbers) == sum("estimate =" in line for line in lines)
    assert all(number.text.strip() for number in numbers)


@pytest.mark.parametrize("preset", ALL_PRESETS, ids=lambda preset: preset.name)
def test_origins_are_usable_elsewhere(preset: Preset) -> None:
    for number in preset.numbers():
        rest = KERNEL_FILE.sub("", number.text) if isinstance(preset, LinuxPreset) else number.text
        assert "/" not in rest, number
        assert ".md" not in number.text, number
        assert not re.search(r"\b(shared|facts|unknown|from memory)\b", number.text), number


def test_numbers_have_path_value_text_and_kind() -> None:
    rows = {number.path: number for number in presets.cpu("zen3").numbers()}
    assert next(iter(rows)) == "clock.gigahertz"
    path, value, text, is_estimate, _ = rows["walk.start"]
    assert (path, value, is_estimate) == ("walk.start", 10.8, True)
    assert text.startswith("fit: with it a chase")
    assert rows["tlb.second-level.entries"].value == 2048
    assert rows["tlb.second-level.holds_directories"].value is True
    assert "tlb.second-level.hash_shift" not in rows
    assert rows["data_cache.third-level.fill"].value == "victim"


#: What nobody publishes for any of these CPUs.
ALWAYS_ESTIMATED = {
    "latency.accessed_dirty_update",
    "memory.latency",
    "prefetch.next_page",
    "walk.start",
}
INTEL_WALK_CACHES = {
    "walk_cache.pml4e.entries",
    "walk_cache.pml4e.ways",
    "walk_cache.pdpte.entries",
    "walk_cache.pdpte.ways",
    "walk_cache.pde.entries",
    "walk_cache.pde.ways",
}
ESTIMATED = {
    "core2": {
        "data_cache.first-level.fill",
        "data_cache.second-level.fill",
        "isolation.meltdown",
        "overlap.loads_per_cycle",
        "overlap.miss_parallelism",
        "overlap.walkers",
        "prefetch.stream_lines",
        *(INTEL_WALK_CACHES - {"walk_cache.pdpte.entries"}),
    },
    "ice-lake": {
        "data_cache.first-level.fill",
        "data_cache.first-level.latency",
        "data_cache.second-level.fill",
        "data_cache.second-level.latency",
        "data_cache.third-level.fill",
        "data_cache.third-level.latency",
        "isolation.meltdown",
        "isolation.pcid",
        "latency.first_level_fill_conflict",
        "prefetch.stream_lines",
        "walk_cache.pml5e.entries",
        "walk_cache.pml5e.holds",
        "walk_cache.pml5e.ways",
        *INTEL_WALK_CACHES,
    },
    "k8": {
        "prefetch.adjacent_line",
        "latency.first_level_fill_conflict",
        "latency.second_level_tlb_hit",
        "overlap.miss_parallelism",
        "overlap.walkers",
        "walk_cache.page-walk-cache.ways",
    },
    "skylake-sp": {
        "data_cache.first-level.fill",
        "data_cache.third-level.latency",
        "overlap.miss_parallelism",
        "prefetch.stream_lines",
        *INTEL_WALK_CACHES,
    },
    "zen3": {
        "data_cache.first-level.fill",
        "data_cache.second-level.fill",
        "data_cache.second-level.hash_bits",
        "data_cache.second-level.hash_shift",
        "data_cache.third-level.fill",
        "data_cache.third-level.hash_bits",
        "data_cache.third-level.latency",
        "prefetch.adjacent_line",
        "prefetch.stream_lines",
        "walk.tag",
        "walk_cache.page-directory-cache.ways",
    },
}


@pytest.mark.parametrize("name", sorted(ESTIMATED))
def test_estimates_are_these(name: str) -> None:
    assert estimates(presets.cpu(name)) == ALWAYS_ESTIMATED | ESTIMATED[name]


def test_measured_costs_are_no_estimates() -> None:
    costs = set(type(presets.linux("6.18").costs).model_fields)
    measured = {"flush_call_cycles", "flush_page_cycles", "flush_full_cycles", "migrate_page_ns"} | {"reclaim_page_ns"}
    assert measured < costs
    devices = {"devices.refault_ns", "devices.write_back_ns"}
    assert estimates(presets.linux("6.18")) == {f"costs.{name}" for name in costs - measured} | devices


def test_kernels_follow_the_preset() -> None:
    """Rules that the kernels have compiled in are the preset's."""
    from vckernels import buddy, claim, fallback_2_6_24, pcplist, rules
    from vclab.allocator import allocator_options

    linux = presets.linux("6.18")
    assert linux.page_block_order.value == buddy.PAGEBLOCK_ORDER
    assert linux.max_page_order.value == buddy.MAX_ORDER
    for kind in ("unmovable", "movable", "reclaimable"):
        expected = [buddy.Migratetype[name.upper()] for name in getattr(linux.fallbacks, kind).value]
        assert claim.FALLBACKS[buddy.Migratetype[kind.upper()]].tolist() == expected
        assert fallback_2_6_24.FALLBACKS[buddy.Migratetype[kind.upper()]].tolist() == [
            buddy.Migratetype[name.upper()] for name in getattr(presets.linux("2.6.24").fallbacks, kind).value
        ]
    for name, options in {
        "6.18": rules.new_options,
        "2.6.24": rules.options_2_6_24,
        "2.6.23": rules.options_2_6_23,
    }.items():
        assert allocator_options(presets.linux(name)).tolist() == options().tolist()
        assert presets.linux(name).costly_order.value == pcplist.COSTLY_ORDER


def test_zen3() -> None:
    preset = presets.cpu("zen3")
    assert structures("zen3") == [
        (1, 64, 64, ("4K", "2M", "1G")),
        (2, 2048, 16, ("4K", "2M")),
        (2, 64, 64, ("1G",)),
    ]
    assert [structure.sets for structure in preset.tlb] == [1, 128, 1]
    assert (preset.paging.physical_bits.value, preset.paging.virtual_bits.value) == (48, 48)
    assert preset.paging.levels.value == (4,)
    assert caches("zen3") == [(32768, 8, 4, "miss"), (524288, 8, 12, "miss"), (33554432, 16, 46, "victim")]
    assert [cache.sets for cache in preset.data_cache] == [64, 1024, 32768]
    assert [cache.hash_bits.value if cache.hash_bits else 0 for cache in preset.data_cache] == [0, 4, 3]
    assert [cache.hash_shift.value if cache.hash_shift else 0 for cache in preset.data_cache] == [0, 3, 0]
    assert preset.memory.latency.value == 285
    assert walk_caches("zen3") == [(("PDPTE", "PML4E"), 64, 64)]
    assert [array.has_directories for array in preset.tlb] == [False, True, False]
    assert (preset.walk.tag.value, preset.walk.start.value) == ("virtual", 10.8)
    latency, overlap = preset.latency, preset.overlap
    assert (latency.second_level_tlb_hit.value, latency.first_level_fill_conflict.value) == (7, 3)
    assert latency.accessed_dirty_update.value == 20
    assert (overlap.walkers.value, overlap.loads_per_cycle.value, overlap.miss_parallelism.value) == (6, 3, 24)
    assert (preset.prefetch.stream_lines.value, preset.prefetch.next_page.value) == (4, False)
    assert preset.prefetch.adjacent_line.value == "history"
    assert (preset.isolation.meltdown.value, preset.isolation.pcid.value) == (False, True)


def test_ice_lake() -> None:
    preset = presets.cpu("ice-lake")
    assert structures("ice-lake") == [
        (1, 64, 4, ("4K",)),
        (1, 32, 4, ("2M",)),
        (1, 8, 8, ("1G",)),
        (2, 1024, 8, ("4K", "2M")),
        (2, 1024, 8, ("4K", "1G")),
    ]
    second = [structure for structure in preset.tlb if structure.level == 2]
    reach = {size: sum(s.entries.value for s in second if size in s.page_sizes.value) for size in PAGE_SIZES}
    assert reach == {"4K": 2048, "2M": 1024, "1G": 1024}
    assert sum(structure.sets for structure in second) == 256
    assert (preset.paging.physical_bits.value, preset.paging.virtual_bits.value) == (46, 57)
    assert preset.paging.levels.value == (4, 5)
    assert (preset.latency.second_level_tlb_hit.value, preset.overlap.walkers.value) == (7, 2)
    assert caches("ice-lake") == [(49152, 12, 5, "miss"), (1310720, 20, 14, "miss"), (62914560, 12, 78, "victim")]
    assert [cache.sets for cache in preset.data_cache] == [64, 1024, 81920]
    assert walk_caches("ice-lake") == [
        (("PML5E",), 2, 2),
        (("PML4E",), 4, 4),
        (("PDPTE",), 8, 4),
        (("PDE",), 32, 8),
    ]
    assert (preset.memory.latency.value, preset.walk.start.value) == (226, 8)
    assert (preset.prefetch.stream_lines.value, preset.prefetch.next_page.value) == (20, True)
    assert preset.prefetch.adjacent_line.value == "pair"
    assert (preset.isolation.meltdown.value, preset.isolation.pcid.value) == (False, True)


def test_skylake_sp_hashes_its_second_level() -> None:
    preset = presets.cpu("skylake-sp")
    assert structures("skylake-sp") == [
        (1, 64, 4, ("4K",)),
        (1, 32, 4, ("2M",)),
        (1, 4, 4, ("1G",)),
        (2, 1536, 12, ("4K", "2M")),
        (2, 16, 4, ("1G",)),
    ]
    assert [array.sets for array in preset.tlb] == [16, 8, 1, 128, 4]
    assert [array.hash_shift.value if array.hash_shift else 0 for array in preset.tlb] == [0, 0, 0, 7, 0]
    assert caches("skylake-sp") == [(32768, 8, 4, "miss"), (1048576, 16, 14, "miss"), (14417920, 11, 66, "victim")]
    assert [cache.sets for cache in preset.data_cache] == [64, 1024, 20480]
    assert walk_caches("skylake-sp") == [(("PML4E",), 4, 4), (("PDPTE",), 8, 4), (("PDE",), 32, 8)]
    assert (preset.clock.gigahertz.value, preset.memory.latency.value, preset.walk.start.value) == (3.31, 260, 6)
    assert (preset.paging.physical_bits.value, preset.paging.levels.value) == (46, (4,))
    latency, overlap = preset.latency, preset.overlap
    assert (latency.second_level_tlb_hit.value, latency.first_level_fill_conflict.value) == (9, 0)
    assert (overlap.walkers.value, overlap.loads_per_cycle.value, overlap.miss_parallelism.value) == (2, 2, 12)
    assert (preset.isolation.meltdown.value, preset.isolation.pcid.value) == (True, True)


def test_core2_has_two_cache_levels_and_36_physical_bits() -> None:
    preset = presets.cpu("core2")
    assert structures("core2") == [
        (1, 16, 4, ("4K",)),
        (1, 16, 4, ("2M",)),
        (2, 256, 4, ("4K",)),
        (2, 32, 4, ("2M",)),
    ]
    assert preset.paging.page_sizes.value == ("4K", "2M")
    assert (preset.paging.physical_bits.value, preset.paging.virtual_bits.value) == (36, 48)
    assert caches("core2") == [(32768, 8, 3, "miss"), (4194304, 16, 14, "miss")]
    assert walk_caches("core2") == [(("PML4E",), 4, 4), (("PDPTE",), 4, 4), (("PDE",), 32, 8)]
    assert (preset.clock.gigahertz.value, preset.memory.latency.value, preset.walk.start.value) == (2.94, 235, 4)
    latency, overlap = preset.latency, preset.overlap
    assert (latency.second_level_tlb_hit.value, latency.first_level_fill_conflict.value) == (2, 0)
    assert (overlap.walkers.value, overlap.loads_per_cycle.value, overlap.miss_parallelism.value) == (1, 1, 8)
    assert (preset.prefetch.stream_lines.value, preset.prefetch.next_page.value) == (2, False)
    assert (preset.isolation.meltdown.value, preset.isolation.pcid.value) == (True, False)


def test_k8_has_no_1g_and_a_second_level_of_4k_only() -> None:
    preset = presets.cpu("k8")
    assert structures("k8") == [(1, 32, 32, ("4K",)), (1, 8, 8, ("2M",)), (2, 512, 4, ("4K",))]
    assert preset.paging.page_sizes.value == ("4K", "2M")
    assert (preset.paging.physical_bits.value, preset.paging.virtual_bits.value) == (40, 48)
    assert preset.paging.levels.value == (4,)
    assert caches("k8") == [(65536, 2, 3, "miss"), (524288, 16, 13, "victim")]
    assert walk_caches("k8") == [(("PDE", "PDPTE", "PML4E"), 24, 24)]
    assert (preset.walk.tag.value, preset.walk.start.value, preset.memory.latency.value) == ("physical", 12, 166)
    assert (preset.prefetch.stream_lines.value, preset.prefetch.next_page.value) == (2, False)
    assert (preset.isolation.meltdown.value, preset.isolation.pcid.value) == (False, False)


def test_linux_6_18() -> None:
    preset = presets.linux("6.18")
    assert (preset.page_block_order.value, preset.max_page_order.value, preset.costly_order.value) == (
        9,
        10,
        3,
    )
    assert preset.fallbacks.unmovable.value == ("reclaimable", "movable")
    assert preset.fallbacks.movable.value == ("reclaimable", "unmovable")
    assert preset.fallbacks.reclaimable.value == ("unmovable", "movable")
    assert (preset.vm_struct_bytes.value, preset.vmap_area_bytes.value) == (72, 72)
    assert preset.vm_struct_allocated_bytes.value + preset.vmap_area_bytes.value == 168
    assert preset.page_array_entry_bytes.value + preset.table_entry_bytes.value == 16
    assert (preset.guard_pages.value, preset.tlb_single_page_flush_ceiling.value) == (1, 33)
    assert preset.vm_struct_bytes.label == "6.12"
    assert (preset.page_array_kmalloc.value, preset.page_table_isolation.value) == (False, True)


def test_linux_of_2007() -> None:
    new, old = presets.linux("2.6.24"), presets.linux("2.6.23")
    for preset in (new, old):
        assert (preset.max_page_order.value, preset.costly_order.value) == (10, 3)
        assert (preset.vm_struct_bytes.value, preset.vm_struct_allocated_bytes.value) == (56, 64)
        assert preset.vmap_area_bytes.value == 0
        assert preset.tlb_single_page_flush_ceiling.value == 0
        assert (preset.page_array_kmalloc.value, preset.page_table_isolation.value) == (True, False)
        rules = preset.allocator
        assert (rules.watermark_check.value, rules.per_cpu_lists.value) == ("halving", "hot-and-cold")
        assert (rules.merge_likely_to_tail.value, rules.lists_follow_pageblocks.value) == (False, False)
        assert rules.lowmem_reserve_ratio.value == (256, 256, 32)
        (space,) = preset.address_space
        assert (space.levels, space.direct_map_start.value) == (4, 0xFFFF810000000000)
        assert space.vmalloc_start.value == 0xFFFFC20000000000
        assert space.vmalloc_start.value + space.vmalloc_bytes.value - 1 == 0xFFFFE1FFFFFFFFFF
        assert space.vmemmap_start.value == 0xFFFFE20000000000
    assert new.allocator.migratetypes.value == ("unmovable", "reclaimable", "movable", "reserve")
    assert (new.allocator.fallback.value, old.allocator.fallback.value) == ("move-largest", "nothing")
    assert old.allocator.migratetypes.value == old.fallbacks.movable.value == ()


def test_prices_of_2007_are_no_lower_than_todays_but_for_a_list_in_the_cache() -> None:
    now = presets.linux("6.18").costs
    for name in ("2.6.23", "2.6.24"):
        then = presets.linux(name).costs
        for field in set(type(now).model_fields) - {"area_search_step_ns"}:
            assert getattr(then, field).value >= getattr(now, field).value, field


@pytest.mark.parametrize("name", presets.linux_names())
def test_costs_lie_in_their_ranges(name: str) -> None:
    costs = presets.linux(name).costs
    for field in type(costs).model_fields:
        cost = getattr(costs, field)
        assert field.endswith(("_ns", "_cycles"))
        assert 0 < cost.low <= cost.value <= cost.high
        assert cost.label


@pytest.mark.parametrize(("pages", "microseconds"), [(2, 1.45), (4, 2.21), (8, 3.73), (64, 24.0)])
def test_costs_add_up_to_what_test_vmalloc_measured(pages: int, microseconds: float) -> None:
    """Allocate and free an area of cold pages, AMD Milan, linux-mm 2025: within 10 %."""
    costs = presets.linux("6.18").costs
    page = costs.allocation_ns.value + costs.free_ns.value + costs.zero_page_ns.value + 2 * costs.entry_write_ns.value
    page += costs.struct_page_ns.value + costs.split_ns.value + costs.merge_ns.value
    searches = 35 * costs.area_search_step_ns.value
    total = costs.area_reserve_ns.value + costs.area_release_ns.value + searches + pages * page
    assert total == pytest.approx(1000 * microseconds, rel=0.1)


def test_flush_costs_follow_the_measured_table() -> None:
    """Cycles per range flush, Hansen 2014: calls of 1 to 33 pages, within 25 % at the most and 6 % on average."""
    costs = presets.linux("6.18").costs
    table = {1: 1276, 2: 1505, 4: 2447, 8: 3542, 16: 5041, 24: 6912, 32: 9350, 33: 8534}
    ratios = [(costs.flush_call_cycles.value + n * costs.flush_page_cycles.value) / c for n, c in table.items()]
    assert all(0.75 < ratio < 1.25 for ratio in ratios)
    assert abs(sum(ratios) / len(ratios) - 1) < 0.06


def test_address_spaces_end_where_the_kernel_says() -> None:
    four, five = presets.linux("6.18").address_space
    assert (four.levels, five.levels) == (4, 5)
    assert (four.direct_map_start.value, four.vmalloc_start.value) == (0xFFFF888000000000, 0xFFFFC90000000000)
    assert (five.direct_map_start.value, five.vmalloc_start.value) == (0xFF11000000000000, 0xFFA0000000000000)
    assert (four.vmalloc_bytes.value, five.vmalloc_bytes.value) == (32 << 40, 12800 << 40)
    assert four.vmalloc_start.value + four.vmalloc_bytes.value - 1 == 0xFFFFE8FFFFFFFFFF
    assert five.vmalloc_start.value + five.vmalloc_bytes.value - 1 == 0xFFD1FFFFFFFFFFFF


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(ConfigurationError) as caught:
        presets.cpu("zen9")
    assert str(caught.value) == f"cpu preset 'zen9' does not exist; there are {', '.join(presets.cpu_names())}"
    for name in ("../linux/6.18", "", "zen3.toml"):
        with pytest.raises(ConfigurationError, match="does not exist"):
            presets.cpu(name)
    with pytest.raises(ConfigurationError, match=r"linux preset '2\.4' does not exist; there are .*6\.18"):
        presets.linux("2.4")


def test_presets_are_cached_and_frozen() -> None:
    preset = presets.cpu("zen3")
    assert presets.cpu("zen3") is preset
    assert presets.linux("6.18") is presets.linux("6.18")
    with pytest.raises(ValueError, match="frozen"):
        preset.overlap.walkers.value = 7


@pytest.mark.parametrize(
    ("old", "new", "field", "reason"),
    [
        ("{ value = 2048, ", "{ value = 2047, ", "tlb.1", "16 ways do not divide 2047 entries"),
        ("{ value = 64, ", "{ value = 0, ", "tlb.0.entries.value", "greater than 0"),
        ("{ value = 64, ", "{ value = -64, ", "tlb.0.entries.value", "greater than 0"),
        ("{ value = 64, ", '{ value = "64", ', "tlb.0.entries.value", "valid integer"),
        ("{ value = 10.8, ", "{ value = inf, ", "walk.start.value", "finite"),
        ("{ value = 10.8, ", "{ value = nan, ", "walk.start.value", ""),
        ('["4K", "2M"], ', '["4K", "4M"], ', "tlb.1.page_sizes.value.1", "'4K', '2M' or '1G'"),
        ('["4K", "2M", "1G"], ', '["4K", "2M"], ', "(all)", "must have the same page sizes"),
        ("level = 1", "level = 2", "(all)", "must have the same page sizes"),
        ("level = 1", "level = 3", "tlb.0.level", "1 or 2"),
        ('name = "second-level-1g"', 'name = "second-level"', "(all)", "two tlb structures have one name"),
        ("[4], ", "[4, 5], ", "paging", "must agree"),
        ("[4], ", "[3], ", "paging.levels.value.0", "4 or 5"),
        ('source = "AnandTech', 'origin = "AnandTech', "overlap.walkers.origin", "Extra inputs"),
        (
            'source = "AnandTech',
            'estimate = "a guess", source = "AnandTech',
            "overlap.walkers",
            "exactly one",
        ),
        ('source = "AnandTech 16214, Zen 3 load and store"', 'source = " "', "overlap.walkers.source", ""),
        (', source = "AnandTech 16214, Zen 3 load and store"', "", "overlap.walkers", "exactly one"),
        ("[clock]", "[clock]\nturbo = 1", "clock.turbo", "Extra inputs"),
        ('vendor = "AMD"', "", "vendor", "required"),
        ('name = "zen3"', 'name = "zen4"', "name", "should be 'zen3'"),
    ],
)
def test_mangled_cpu_file_is_refused(tmp_path: Path, old: str, new: str, field: str, reason: str) -> None:
    message = refusal(mangled(tmp_path, CPU_FOLDER / "zen3.toml", old, new))
    assert f", field {field}: " in message
    assert reason in message


@pytest.mark.parametrize(
    ("name", "old", "new", "field", "reason"),
    [
        ("skylake-sp", "hash_shift = { value = 7,", "hash_shift = { value = 0,", "tlb.3.hash_shift.value", "greater"),
        ("skylake-sp", 'value = ["4K", "2M"], ', 'value = ["4K", "2M", "1G"], ', "(all)", "cannot have a hash_shift"),
        ("zen3", "holds_directories = { value = true,", "holds_directories = { value = 1,", TLB_FLAG, "boolean"),
        ("zen3", "level = 1\n", f"level = 1\nholds_directories = {TRUE}\n", "tlb.0", "second-level"),
        ("zen3", 'name = "second-level-1g"\n', f'name = "b"\nholds_directories = {TRUE}\n', "(all)", "two tlb"),
        ("zen3", "holds_directories = { value = true,", "holds_directories = { value = false,", "(all)", HELD),
        ("zen3", '["PDPTE", "PML4E"]', '["PDPTE", "PML4E", "PDE"]', "(all)", "held once"),
        ("zen3", '["PDPTE", "PML4E"]', '["PDPTE", "PML4E", "PML5E"]', "(all)", "only with 5 levels"),
        ("zen3", '["PDPTE", "PML4E"]', '["PDPTE", "PDPTE"]', "(all)", "held once"),
        ("zen3", '["PDPTE", "PML4E"]', '["PDPTE", "PTE"]', "walk_cache.0.holds.value.1", "'PML4E'"),
        ("zen3", '["PDPTE", "PML4E"]', "[]", "walk_cache.0.holds.value", "at least 1"),
        ("zen3", 'tag = { value = "virtual",', 'tag = { value = "physical",', "(all)", "is one array"),
        ("zen3", 'tag = { value = "virtual",', 'tag = { value = "linear",', "walk.tag.value", "'physical'"),
        ("zen3", "{ value = 10.8, ", "{ value = -1, ", "walk.start.value", "greater than or equal to 0"),
        ("ice-lake", 'tag = { value = "virtual",', 'tag = { value = "physical",', "(all)", "is one array"),
        ("ice-lake", '["PML5E"]', '["PML4E"]', "(all)", "held once"),
        ("ice-lake", 'name = "pml5e"', 'name = "pde"', "(all)", "two walk caches have one name"),
        ("ice-lake", "ways = { value = 2, ", "ways = { value = 3, ", "walk_cache.0", "3 ways do not divide 2 entries"),
        ("zen3", "nbytes = { value = 32768,", "nbytes = { value = 32000,", "data_cache.0", "do not divide 32000 bytes"),
        (
            "zen3",
            "nbytes = { value = 524288,",
            "nbytes = { value = 393216,",
            "data_cache.1",
            "power of two of sets, not 768",
        ),
        ("zen3", "hash_bits = { value = 4,", "hash_bits = { value = 8,", "data_cache.1", "8 hash bits from bit 3"),
        (
            "zen3",
            "hash_bits = { value = 4,",
            "hash_bits = { value = 0,",
            "data_cache.1.hash_bits.value",
            "greater than 0",
        ),
        ("zen3", 'fill = { value = "miss"', 'fill = { value = "victim"', "(all)", "must be filled on a miss"),
        ("zen3", 'fill = { value = "miss"', 'fill = { value = "both"', "data_cache.0.fill.value", "'victim'"),
        ("zen3", "latency = { value = 12,", "latency = { value = 46,", "(all)", "not 4, 46, 46, 285"),
        ("zen3", "latency = { value = 285,", "latency = { value = 45,", "(all)", "not 4, 12, 46, 45"),
        (
            "zen3",
            '[[data_cache]]\nname = "first-level"',
            '[[data_cache]]\nname = "third-level"',
            "(all)",
            "must be first",
        ),
        (
            "zen3",
            "conflict = { value = 3,",
            "conflict = { value = -3,",
            "latency.first_level_fill_conflict.value",
            "equal to 0",
        ),
        (
            "zen3",
            "stream_lines = { value = 4,",
            "stream_lines = { value = -1,",
            "prefetch.stream_lines.value",
            "equal to 0",
        ),
        ("zen3", "next_page = { value = false,", "next_page = { value = 0,", "prefetch.next_page.value", "boolean"),
        ("zen3", "pcid = { value = true,", 'pcid = { value = "yes",', "isolation.pcid.value", "boolean"),
        ("zen3", "[memory]", "[main-memory]", "memory", "required"),
    ],
)
def test_inconsistent_caches_are_refused(
    tmp_path: Path, name: str, old: str, new: str, field: str, reason: str
) -> None:
    message = refusal(mangled(tmp_path, CPU_FOLDER / f"{name}.toml", old, new))
    assert f", field {field}: " in message
    assert reason in message


def test_data_caches_are_two_or_three(tmp_path: Path) -> None:
    text = (CPU_FOLDER / "zen3.toml").read_text(encoding="utf-8")
    before, *levels = text.split("[[data_cache]]")
    third, after = levels[2].split("[memory]")
    for blocks, reason in ((levels[:1], "at least 2"), ([*levels[:2], third, third], "at most 3")):
        copy = tmp_path / "zen3.toml"
        copy.write_text("[[data_cache]]".join([before, *blocks]) + "[memory]" + after, encoding="utf-8")
        message = refusal(copy)
        assert ", field data_cache: " in message
        assert reason in message


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"ffffc90000000000"', '"0000c90000000000"', "address_space.0.vmalloc_start.value"),
        ('"ffffc90000000000"', '"vmalloc"', "address_space.0.vmalloc_start.value"),
        ('"ffffc90000000000"', "-60473139527680", "address_space.0.vmalloc_start.value"),
        ('"ffffc90000000000"', "18446683600570023936", "address_space.0.vmalloc_start.value"),
        ('label = "6.18", ', "", "page_block_order.label"),
        ('["reclaimable", "movable"]', '["reclaimable", "mobile"]', "fallbacks.unmovable.value.1"),
        ("guard_pages", "guard_page", "guard_pages"),
        ("allocation_ns = { value = 109,", "allocation_ns = { value = 400,", "costs.allocation_ns"),
        ("allocation_ns = { value = 109,", "allocation_ns = { value = 50,", "costs.allocation_ns"),
        ("allocation_ns = { value = 109,", "allocation_ns = { value = inf,", "costs.allocation_ns.value"),
        ("low = 56, ", "", "costs.allocation_ns.low"),
        ("low = 56, ", "low = -1, ", "costs.allocation_ns.low"),
        ("high = 298, ", "", "costs.allocation_ns.high"),
        ("zero_page_ns", "zero_page_cycles", "costs.zero_page_ns"),
        ("page_array_kmalloc = { value = false,", "page_array_kmalloc = { value = 0,", "page_array_kmalloc.value"),
    ],
)
def test_mangled_linux_file_is_refused(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert f", field {field}: " in refusal(mangled(tmp_path, LINUX_FOLDER / "6.18.toml", old, new), LinuxPreset)


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "zen3.toml"
    assert "not readable as TOML" in refusal(broken)
    broken.write_text("name = ", encoding="utf-8")
    assert "not readable as TOML" in refusal(broken)
    broken.write_bytes(b'name = "\xff"')
    assert "not readable as TOML" in refusal(broken)


def test_page_sizes_are_those_of_units() -> None:
    sizes, _ = get_args(presets.PageSizes)
    literal, _ = get_args(sizes)
    assert get_args(literal) == tuple(PAGE_SIZES)


def test_loader_imports_only_what_it_may() -> None:
    modules: set[str] = set()
    for file in Path(presets.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module or "")
    outside = {module for module in modules if module.split(".")[0] not in sys.stdlib_module_names}
    outside = {module for module in outside if not module.startswith("vclab.presets.")}
    assert outside == {"pydantic", "vclab.errors", "vclab.units"}
