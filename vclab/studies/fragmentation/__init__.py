"""How often are large pages to be had, and how long does it take, against fragmentation and memory pressure?"""

from __future__ import annotations

from vclab.studies.fragmentation.claims import claims, summary
from vclab.studies.fragmentation.measure import ASSUMPTIONS, QUICK, Parameters, combine, points, reprice, run_point

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
