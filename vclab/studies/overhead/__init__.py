"""What does a virtually contiguous page take beside its own frames: memory, time, and other CPUs' translations?"""

from __future__ import annotations

from vclab.studies.overhead.claims import claims, summary
from vclab.studies.overhead.measure import ASSUMPTIONS, QUICK, Parameters, combine, points, reprice, run_point

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
