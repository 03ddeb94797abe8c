"""How many accesses until paying for contiguity beats falling back, by order, pattern, CPU and working set?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vclab.studies.break_even.claims import claims, summary
from vclab.studies.break_even.measure import ASSUMPTIONS, QUICK, Parameters, combine, points, reprice, run_point

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

__all__ = [
    "ASSUMPTIONS",
    "QUICK",
    "Parameters",
    "claims",
    "combine",
    "figures",
    "points",
    "reprice",
    "run_point",
    "summary",
]


def figures(dataset: xr.Dataset, out: Path) -> list[tuple[str, str, str]]:
    """Write the study's figures to a folder; return file stem, title and caption of each.

    Plotting is imported here, so that workers, which only measure, start without it.
    """
    from vclab.studies.break_even.drawing import figures as draw

    return draw(dataset, out)
