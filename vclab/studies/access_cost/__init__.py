"""What does one access cost, by size, pattern, CPU and direct map, and what do larger entries save?"""

from __future__ import annotations

from vclab.studies.access_cost.claims import claims, summary
from vclab.studies.access_cost.grid import QUICK, Parameters
from vclab.studies.access_cost.measure import ASSUMPTIONS, combine, points, priced, reprice, run_point

__all__ = [
    "ASSUMPTIONS",
    "QUICK",
    "Parameters",
    "claims",
    "combine",
    "points",
    "priced",
    "reprice",
    "run_point",
    "summary",
]
