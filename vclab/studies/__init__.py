"""Studies: one module is one question.

A study has ``Parameters`` (what may be set), ``points`` (what can run side by side), ``run_point`` (one of them),
``combine`` (all of them as one dataset) and ``claims`` (what follows); its module ``drawing`` has its ``figures`` (how
it looks).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from vclab.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr
    from pydantic import BaseModel

    from vclab.presets.prices import Prices
    from vclab.results import Claim

#: Names and one-line questions; modules are imported when a study is asked for.
STUDIES = {
    "fallback": "What does it cost when a virtually contiguous page stands in for a physically contiguous one?",
    "access-cost": "What does one access cost, by size, pattern, CPU and direct map, and what do larger entries save?",
    "awareness": "What does it cost code to cope with pages that may be physical or virtual?",
    "overhead": "What does a virtually contiguous page take beside its own frames: memory, time, other CPUs' flushes?",
    "unmap": "What does freeing a virtual page cost, by the number of CPUs, with a flush for each or for many?",
    "fragmentation": "How often are large pages to be had, and how fast, against fragmentation and memory pressure?",
    "break-even": "How many accesses until paying for contiguity beats falling back, and who wins where?",
}

#: What no study models; every report says so.
LEFT_OUT_EVERYWHERE = (
    " NUMA placement, TLB sharing between hardware threads, faults on unsynchronised top-level entries, IA64."
)

Draw = Callable[[], tuple[str, str, str]]
"""Writes a figure; returns its file stem, title and caption."""

Progress = Callable[[float, str], None]
"""Called with the share of a point that is done, 0 to 1, and what is being done."""


class Study(Protocol):
    """What a study's module offers."""

    Parameters: type[BaseModel]
    QUICK: dict[str, Any]
    ASSUMPTIONS: Sequence[tuple[str, str, str]]
    """Name, value and reasoning of what the study itself decides without a source."""

    def points(self, parameters: Any, jobs: int = 1) -> Sequence[Any]:
        """Return what can run side by side, each a seed or a part of one, for so many processes at once.

        Results do not depend on the number of processes; how evenly they are busy may.
        """

    def run_point(self, parameters: Any, point: Any, progress: Progress) -> xr.Dataset:
        """Run one point."""

    def combine(self, parameters: Any, parts: Sequence[xr.Dataset]) -> xr.Dataset:
        """Put all points together in their order, with provenance."""

    def claims(self, dataset: xr.Dataset) -> list[Claim]:
        """Hold the study's claims against its results."""

    def summary(self, dataset: xr.Dataset) -> list[str]:
        """Return what a reader should know first, in sentences."""

    def reprice(self, dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
        """Return the same counts at other prices."""


def cpu_names(parameters: dict[str, Any]) -> list[str]:
    """Return the CPU presets that a study's parameters name, one or several."""
    named = parameters.get("cpus")
    others = [name for name in named if name != parameters["cpu"]] if isinstance(named, list) else []
    return [str(parameters["cpu"]), *others]


def find(name: str) -> Study:
    """Return a study by name; ``ConfigurationError`` lists what exists if it does not."""
    if name not in STUDIES:
        raise ConfigurationError(f"study {name!r} does not exist; there are {', '.join(STUDIES)}")
    return cast("Study", importlib.import_module(_module(name)))


def _module(name: str) -> str:
    return f"vclab.studies.{name.replace('-', '_')}"


def figures(name: str, dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each figure of a study into a folder, which exists, from what its ``combine`` returned.

    Plotting is imported here, so that workers, which only measure, start without it.
    """
    drawing: Any = importlib.import_module(f"{_module(name)}.drawing")
    draws: list[Draw] = drawing.figures(dataset, out)
    return draws


def load_aftermath(name: str) -> None:
    """Import what a study's intervals, figures, report and saving need, which workers do without."""
    for module in (
        "vclab.figures.report",
        f"{_module(name)}.drawing",
        "scipy.special",
        "h5netcdf",
    ):
        importlib.import_module(module)


def parameters(name: str, settings: dict[str, Any]) -> BaseModel:
    """Return a study's parameters with some set.

    Raises
    ------
    ConfigurationError
        Naming the first setting that does not exist or has no sense.
    """
    from pydantic import ValidationError

    study = find(name)
    try:
        return study.Parameters.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "settings"
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"does not exist; there are {', '.join(study.Parameters.model_fields)}"
        raise ConfigurationError(f"{field} of study {name}: {what}") from error
