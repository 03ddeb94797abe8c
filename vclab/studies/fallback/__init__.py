"""What does it cost when a virtually contiguous page stands in for a physically contiguous one?"""

from __future__ import annotations

from vclab.studies.fallback.claims import claims, summary
from vclab.studies.fallback.measure import ASSUMPTIONS, QUICK, Parameters, combine, points, reprice, run_point

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
