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
from vclab.presets import CpuPreset, LinuxPreset, Preset
from vclab.units import PAGE_SIZES

CPU_FOLDER = Path(presets.__file__).parent / "cpu"
LINUX_FOLDER = Path(presets.__file__).parent / "linux"
KERNEL_FILE = re.compile(r"Linux \d+\.\d+, (?:\w+/)+\w+\.(?:c|h|rst)\b")
ALL_PRESETS: list[Preset] = [
    *(presets.cpu(name) for name in presets.cpu_names()),
    *(presets.linux(name) for name in presets.linux_names()),
]

Structure = tuple[int, int, int, tuple[str, ...]]


def structures(name: str) -> list[Structure]:
    return [(s.level, s.entries.value, s.ways.value, s.page_sizes.value) for s in presets.cpu(name).tlb]


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
    assert {"ice-lake", "k8", "zen3"} <= set(presets.cpu_names())
    assert presets.cpu_names() == sorted(presets.cpu_names())
    assert "6.18" in presets.linux_names()


@pytest.mark.parametrize("preset", ALL_PRESETS, ids=lambda preset: preset.name)
def test_every_number_is_listed_with_one_origin(preset: Preset) -> None:
    folder = CPU_FOLDER if isinstance(preset, CpuPreset) else LINUX_FOLDER
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
    path, value, text, is_estimate = rows["latency.walk"]
    assert (path, value, is_estimate) == ("latency.walk", 17.5, True)
    assert text.startswith("measured on an EPYC Milan VM")
    assert rows["tlb.second-level.entries"].value == 2048


def test_estimates_are_these() -> None:
    assert estimates(presets.cpu("zen3")) == {"latency.walk"}
    assert estimates(presets.cpu("ice-lake")) == {"latency.first_level_data", "latency.walk"}
    assert estimates(presets.cpu("k8")) == {
        "latency.second_level_tlb_hit",
        "latency.walk",
        "overlap.walkers",
        "overlap.miss_parallelism",
    }
    assert estimates(presets.linux("6.18")) == set()


def test_kernels_follow_the_preset() -> None:
    """Rules that the kernels have compiled in are the preset's."""
    from vckernels import buddy, claim

    linux = presets.linux("6.18")
    assert linux.page_block_order.value == buddy.PAGEBLOCK_ORDER
    assert linux.max_page_order.value == buddy.MAX_ORDER
    for kind in ("unmovable", "movable", "reclaimable"):
        expected = [buddy.Migratetype[name.upper()] for name in getattr(linux.fallbacks, kind).value]
        assert claim.FALLBACKS[buddy.Migratetype[kind.upper()]].tolist() == expected


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
    latency, overlap = preset.latency, preset.overlap
    assert (latency.first_level_data.value, latency.second_level_tlb_hit.value, latency.walk.value) == (
        4,
        7,
        17.5,
    )
    assert (overlap.walkers.value, overlap.loads_per_cycle.value, overlap.miss_parallelism.value) == (
        6,
        3,
        24,
    )


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


def test_k8_has_no_1g_and_a_second_level_of_4k_only() -> None:
    preset = presets.cpu("k8")
    assert structures("k8") == [(1, 32, 32, ("4K",)), (1, 8, 8, ("2M",)), (2, 512, 4, ("4K",))]
    assert preset.paging.page_sizes.value == ("4K", "2M")
    assert (preset.paging.physical_bits.value, preset.paging.virtual_bits.value) == (40, 48)
    assert preset.paging.levels.value == (4,)


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
        ("{ value = 17.5, ", "{ value = inf, ", "latency.walk.value", "finite"),
        ("{ value = 17.5, ", "{ value = nan, ", "latency.walk.value", ""),
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
    ("old", "new", "field"),
    [
        ('"ffffc90000000000"', '"0000c90000000000"', "address_space.0.vmalloc_start.value"),
        ('"ffffc90000000000"', '"vmalloc"', "address_space.0.vmalloc_start.value"),
        ('"ffffc90000000000"', "-60473139527680", "address_space.0.vmalloc_start.value"),
        ('"ffffc90000000000"', "18446683600570023936", "address_space.0.vmalloc_start.value"),
        ('label = "6.18", ', "", "page_block_order.label"),
        ('["reclaimable", "movable"]', '["reclaimable", "mobile"]', "fallbacks.unmovable.value.1"),
        ("guard_pages", "guard_page", "guard_pages"),
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
    for node in ast.walk(ast.parse(Path(presets.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    outside = {module for module in modules if module.split(".")[0] not in sys.stdlib_module_names}
    assert outside == {"pydantic", "vclab.errors", "vclab.units"}
