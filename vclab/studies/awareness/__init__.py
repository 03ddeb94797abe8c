"""What does it cost code to cope with pages that may be physical or virtual?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vclab.studies.awareness.claims import claims, summary
from vclab.studies.awareness.measure import (
    ASSUMPTIONS,
    QUICK,
    Parameters,
    combine,
    measure,
    points,
    priced,
    reprice,
    run_point,
)

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
    "measure",
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
    from vclab.studies.awareness.drawing import figures as draw

    return draw(dataset, out)
