"""What does one access cost, by size, pattern, CPU and direct map, and what do larger entries save?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vclab.studies.access_cost.claims import claims, summary
from vclab.studies.access_cost.grid import QUICK, Parameters
from vclab.studies.access_cost.measure import ASSUMPTIONS, combine, points, priced, reprice, run_point

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
    "priced",
    "reprice",
    "run_point",
    "summary",
]


def figures(dataset: xr.Dataset, out: Path) -> list[tuple[str, str, str]]:
    """Write the study's figures to a folder; return file stem, title and caption of each.

    Plotting is imported here, so that workers, which only measure, start without it.
    """
    from vclab.studies.access_cost.drawing import figures as draw

    return draw(dataset, out)
