"""Presets: the numbers of CPUs and of Linux releases, as data with a source for each.

A preset is a TOML file in ``cpu/`` or ``linux/``. A number in it is an inline table with a ``value`` and
either a ``source`` (who published or measured it) or an ``estimate`` (the reasoning, where nobody did).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vclab.errors import ConfigurationError
from vclab.units import PAGE_SHIFT

T = TypeVar("T")
PresetType = TypeVar("PresetType", bound="Preset")
Count = Annotated[int, Field(strict=True, gt=0)]
Quantity = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(pattern=r"\S")]
Name = Annotated[str, Field(pattern="^[a-z0-9-]+$")]
Address = Annotated[int, BeforeValidator(lambda text: int(str(text), 16)), Field(ge=1 << 63, lt=1 << 64)]
PageSizes = Annotated[tuple[Literal["4K", "2M", "1G"], ...], Field(min_length=1)]
Migratetype = Literal["unmovable", "movable", "reclaimable"]


class Number(NamedTuple):
    """One row of a provenance table: where a number stands in its preset, and where it comes from."""

    path: str
    value: Any
    text: str
    is_estimate: bool


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sourced(_Model, Generic[T]):
    """A value with the document or measurement it was read from, or the reasoning it was estimated by."""

    value: T
    source: Text | None = None
    estimate: Text | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.source is None) == (self.estimate is None):
            raise ValueError("a value needs exactly one of source and estimate")
        return self


class Labelled(Sourced[T], Generic[T]):
    """A sourced value with a label: the Linux release it was read from."""

    label: Text


class Preset(_Model):
    """What CPU and Linux presets share: a name (that of the file), a title, and their list of numbers."""

    name: Text
    title: Text

    def numbers(self) -> list[Number]:
        """Return every sourced number with its dotted path, in the order of the model's fields."""
        return list(_numbers(self, ""))


def _numbers(item: object, path: str) -> Iterator[Number]:
    if isinstance(item, Sourced):
        yield Number(path, item.value, item.source or item.estimate or "", item.source is None)
    elif isinstance(item, _Model):
        for field in type(item).model_fields:
            yield from _numbers(getattr(item, field), f"{path}.{field}".lstrip("."))
    elif isinstance(item, tuple):
        for member in item:
            yield from _numbers(member, f"{path}.{member.name}")


class Clock(_Model):
    """The clock that turns cycles into nanoseconds."""

    gigahertz: Sourced[Quantity]


class Paging(_Model):
    """Address widths, page-table levels and page sizes. ``virtual_bits`` is that of the most levels."""

    physical_bits: Sourced[Annotated[int, Field(strict=True, ge=32, le=52)]]
    virtual_bits: Sourced[Count]
    levels: Sourced[Annotated[tuple[Literal[4, 5], ...], Field(min_length=1)]]
    page_sizes: Sourced[PageSizes]

    @model_validator(mode="after")
    def _levels_match_width(self) -> Self:
        if self.virtual_bits.value != PAGE_SHIFT + 9 * max(self.levels.value):
            raise ValueError("the most levels and virtual_bits must agree: 4 and 48, or 5 and 57")
        return self


class TlbStructure(_Model):
    """One array of TLB entries for data loads; fully associative means as many ways as entries.

    A page size that several structures of one level hold is spread over their sets as over one array: set
    index = page number mod the sum of their sets, counted through the structures in file order.
    """

    name: Name
    level: Literal[1, 2]
    entries: Sourced[Count]
    ways: Sourced[Count]
    page_sizes: Sourced[PageSizes]

    @model_validator(mode="after")
    def _ways_divide_entries(self) -> Self:
        if self.entries.value % self.ways.value:
            raise ValueError(f"{self.ways.value} ways do not divide {self.entries.value} entries")
        return self

    @property
    def sets(self) -> int:
        """Number of sets: entries divided by ways."""
        return self.entries.value // self.ways.value


class Latency(_Model):
    """Cycles of a load to use in L1d, and the extra cycles of a TLB miss.

    ``second_level_tlb_hit`` is for a first-level miss that hits the second level, ``walk`` for one page walk
    whose table entries are in the caches, beyond the second-level penalty.
    """

    first_level_data: Sourced[Quantity]
    second_level_tlb_hit: Sourced[Quantity]
    walk: Sourced[Quantity]


class Overlap(_Model):
    """What bounds overlapped accesses: page walkers, loads per cycle, outstanding first-level data misses."""

    walkers: Sourced[Count]
    loads_per_cycle: Sourced[Count]
    miss_parallelism: Sourced[Count]


class CpuPreset(Preset):
    """A CPU: ``year`` is the one in which the part that ``title`` names was released."""

    year: Count
    vendor: Literal["AMD", "Intel"]
    clock: Clock
    paging: Paging
    tlb: tuple[TlbStructure, ...]
    latency: Latency
    overlap: Overlap

    @model_validator(mode="after")
    def _tlb_serves_pages(self) -> Self:
        every = {size for array in self.tlb for size in array.page_sizes.value}
        first = {size for array in self.tlb if array.level == 1 for size in array.page_sizes.value}
        if not first == every == set(self.paging.page_sizes.value):
            raise ValueError("the first-level tlb, the whole tlb and paging must have the same page sizes")
        if len({array.name for array in self.tlb}) < len(self.tlb):
            raise ValueError("two tlb structures have one name")
        return self


class Fallbacks(_Model):
    """For each migratetype, the others to take from when its own free lists are empty, in order."""

    unmovable: Labelled[tuple[Migratetype, ...]]
    movable: Labelled[tuple[Migratetype, ...]]
    reclaimable: Labelled[tuple[Migratetype, ...]]


class AddressSpace(_Model):
    """Where direct map and vmalloc area lie without KASLR; addresses are hexadecimal strings in the file."""

    name: Name
    levels: Literal[4, 5]
    direct_map_start: Labelled[Address]
    vmalloc_start: Labelled[Address]
    vmalloc_bytes: Labelled[Count]


class LinuxPreset(Preset):
    """A Linux rule set; each number's label names the release it was read from."""

    page_block_order: Labelled[Count]
    max_page_order: Labelled[Count]
    costly_order: Labelled[Count]
    vm_struct_bytes: Labelled[Count]
    vm_struct_allocated_bytes: Labelled[Count]
    vmap_area_bytes: Labelled[Count]
    page_array_entry_bytes: Labelled[Count]
    table_entry_bytes: Labelled[Count]
    guard_pages: Labelled[Count]
    tlb_single_page_flush_ceiling: Labelled[Count]
    fallbacks: Fallbacks
    address_space: tuple[AddressSpace, ...]


def read(file: Path, model: type[PresetType]) -> PresetType:
    """Return the preset in a TOML file, or raise ``ConfigurationError`` naming the file and the field."""
    try:
        preset = model.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        field, what = ".".join(map(str, first["loc"])) or "(all)", first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"preset file {file.name}, field {field}: {what}") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"preset file {file.name} is not readable as TOML: {error}") from error
    if preset.name != file.stem:
        raise ConfigurationError(f"preset file {file.name}, field name: should be {file.stem!r}")
    return preset


def _find(kind: str, name: str, names: list[str], model: type[PresetType]) -> PresetType:
    if name not in names:
        raise ConfigurationError(f"{kind} preset {name!r} does not exist; there are {', '.join(names)}")
    return read(Path(__file__).with_name(kind) / f"{name}.toml", model)


def cpu_names() -> list[str]:
    """Return the names of all CPU presets, sorted."""
    return sorted(file.stem for file in Path(__file__).with_name("cpu").glob("*.toml"))


def linux_names() -> list[str]:
    """Return the names of all Linux presets, sorted."""
    return sorted(file.stem for file in Path(__file__).with_name("linux").glob("*.toml"))


@cache
def cpu(name: str) -> CpuPreset:
    """Return a CPU preset by name; ``ConfigurationError`` lists what exists if it does not."""
    return _find("cpu", name, cpu_names(), CpuPreset)


@cache
def linux(name: str) -> LinuxPreset:
    """Return a Linux preset by name; ``ConfigurationError`` lists what exists if it does not."""
    return _find("linux", name, linux_names(), LinuxPreset)
