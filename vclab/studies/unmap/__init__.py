"""What does freeing a virtual page cost, by the number of CPUs: with a flush at each free, or one for many?"""

from __future__ import annotations

from vclab.studies.unmap.claims import claims, summary
from vclab.studies.unmap.measure import ASSUMPTIONS, QUICK, Parameters, combine, points, reprice, run_point

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
