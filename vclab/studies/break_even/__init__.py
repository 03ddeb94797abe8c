"""How many accesses until paying for contiguity beats falling back, by order, pattern, CPU and working set?"""

from __future__ import annotations

from vclab.studies.break_even.claims import claims, summary
from vclab.studies.break_even.measure import ASSUMPTIONS, QUICK, Parameters, combine, points, reprice, run_point

__all__ = [
    "ASSUMPTIONS",
    "QUICK",
    "Parameters",
    "claims",
    "combine",
    "points",
    "reprice",
    "run_point",
    "summary",
]
