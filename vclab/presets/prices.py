"""Prices that a user sets in place of a preset's, so that counted events can be priced again without another run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vclab.errors import ConfigurationError
from vclab.presets.cpu_preset import CpuPreset
from vclab.presets.linux_preset import Costs, Devices, LinuxPreset

ModelType = TypeVar("ModelType", bound=BaseModel)

#: What turns counts into cycles and nanoseconds, by the beginning and the end of the path. Anything else, such as a
#: number of entries, changes what is counted, and needs a run.
_PRICES = {
    "cpu": (
        ("clock.", ""),
        ("latency.", ""),
        ("overlap.", ""),
        ("walk.start", ""),
        ("memory.latency", ""),
        ("data_cache.", ".latency"),
    ),
    "linux": (("costs.", ""), ("devices.", "")),
}


class Prices:
    """Presets, some of whose prices are set by the user.

    Parameters
    ----------
    settings : mapping of str to float
        ``cpu.PATH`` or ``linux.PATH`` and the new value; paths are those of a report's table of numbers.

    Raises
    ------
    ConfigurationError
        If a path names no preset kind, or a value is no number.
    """

    def __init__(self, settings: Mapping[str, float] | None = None) -> None:
        self.settings = dict(settings or {})
        for name, value in self.settings.items():
            if name.partition(".")[0] not in _PRICES:
                raise ConfigurationError(
                    f"price {name!r} does not begin with cpu. or linux.; write it like cpu.memory.latency=300"
                )
            if not math.isfinite(value):
                raise ConfigurationError(f"price {name}={value} is no finite number")

    def cpu(self, preset: CpuPreset) -> CpuPreset:
        """Return a CPU preset with the prices that are set for CPUs."""
        if not self._of("cpu"):
            return preset
        return _validated(CpuPreset, self._applied("cpu", preset), preset.name)

    def cpus(self, presets: Sequence[CpuPreset]) -> list[CpuPreset]:
        """Return several CPU presets, each with the prices that it has; each price must be one of some preset.

        Raises
        ------
        ConfigurationError
            If none of them has a price that is set.
        """
        known = {number.path for preset in presets for number in preset.numbers()}
        for path in self._of("cpu"):
            if path not in known:
                names = ", ".join(preset.name for preset in presets)
                raise ConfigurationError(
                    f"cpu.{path} is no price of {names}; the table of numbers in a report has them all"
                )
        priced = []
        for preset in presets:
            own = {number.path for number in preset.numbers()}
            settings = {f"cpu.{path}": value for path, value in self._of("cpu").items() if path in own}
            priced.append(Prices(settings).cpu(preset))
        return priced

    def linux(self, preset: LinuxPreset) -> LinuxPreset:
        """Return a Linux preset with the prices that are set for Linux."""
        if not self._of("linux"):
            return preset
        applied = self._applied("linux", preset)
        costs = _validated(Costs, applied["costs"], preset.name)
        devices = _validated(Devices, applied["devices"], preset.name)
        return preset.model_copy(update={"costs": costs, "devices": devices})

    def _of(self, kind: str) -> dict[str, float]:
        """Return the settings of one kind of preset by their paths in it."""
        return {
            name.partition(".")[2]: value for name, value in self.settings.items() if name.partition(".")[0] == kind
        }

    def _applied(self, kind: str, preset: CpuPreset | LinuxPreset) -> dict[str, Any]:
        """Return a preset as nested dictionaries with its prices set.

        Raises
        ------
        ConfigurationError
            If a path is no price, or the preset does not allow the value.
        """
        tree = preset.model_dump()
        paths = {number.path for number in preset.numbers()}
        for path, value in self._of(kind).items():
            is_price = any(path.startswith(first) and path.endswith(last) for first, last in _PRICES[kind])
            if path not in paths or not is_price:
                raise ConfigurationError(
                    f"{kind}.{path} is no price of preset {preset.name}; the table of numbers in a report has them all"
                )
            place: Any = tree
            for part in path.split("."):
                place = place[part] if isinstance(place, dict) else next(one for one in place if one["name"] == part)
            whole = isinstance(place["value"], int) and value == int(value)
            place["value"] = int(value) if whole else value
            place["source"], place["estimate"] = None, f"set by the user in place of {preset.name}'s"
            if "low" in place:
                place["low"], place["high"] = min(place["low"], value), max(place["high"], value)
            if value < 0:
                raise ConfigurationError(f"price {kind}.{path}={value:g} is below 0")
        return tree


def _validated(model: type[ModelType], tree: dict[str, Any], name: str) -> ModelType:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"a price cannot be set so for preset {name}: {what}") from error
