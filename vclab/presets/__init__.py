"""Presets: the numbers of CPUs and of Linux releases, as data with a source for each.

A preset is a TOML file in ``cpu/``, ``linux/`` or ``multiprocessor/``. A number in it is an inline table with a
``value`` and either a ``source`` (who published or measured it) or an ``estimate`` (the reasoning, where nobody did).
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from vclab.errors import ConfigurationError
from vclab.presets.cpu_preset import (
    CpuPreset,
    DataCache,
    DirectoryEntries,
    Latency,
    PageSizes,
    TlbStructure,
    WalkCache,
)
from vclab.presets.linux_preset import AddressSpace, Costs, LinuxPreset
from vclab.presets.multiprocessor_preset import MultiprocessorPreset
from vclab.presets.sourced import Cost, Labelled, Number, Preset, Ranged, Sourced

__all__ = [
    "AddressSpace",
    "Cost",
    "Costs",
    "CpuPreset",
    "DataCache",
    "DirectoryEntries",
    "Labelled",
    "Latency",
    "LinuxPreset",
    "MultiprocessorPreset",
    "Number",
    "PageSizes",
    "Preset",
    "Ranged",
    "Sourced",
    "TlbStructure",
    "WalkCache",
    "cpu",
    "cpu_names",
    "linux",
    "linux_names",
    "multiprocessor",
    "multiprocessor_names",
    "read",
]

PresetType = TypeVar("PresetType", bound=Preset)


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


def multiprocessor_names() -> list[str]:
    """Return the names of all multiprocessor presets, sorted."""
    return sorted(file.stem for file in Path(__file__).with_name("multiprocessor").glob("*.toml"))


@cache
def cpu(name: str) -> CpuPreset:
    """Return a CPU preset by name; ``ConfigurationError`` lists what exists if it does not."""
    return _find("cpu", name, cpu_names(), CpuPreset)


@cache
def linux(name: str) -> LinuxPreset:
    """Return a Linux preset by name; ``ConfigurationError`` lists what exists if it does not."""
    return _find("linux", name, linux_names(), LinuxPreset)


@cache
def multiprocessor(name: str) -> MultiprocessorPreset:
    """Return a multiprocessor preset by name; ``ConfigurationError`` lists what exists if it does not."""
    return _find("multiprocessor", name, multiprocessor_names(), MultiprocessorPreset)
