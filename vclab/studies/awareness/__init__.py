"""What does it cost code to cope with pages that may be physical or virtual?"""

from __future__ import annotations

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

__all__ = [
    "ASSUMPTIONS",
    "QUICK",
    "Parameters",
    "claims",
    "combine",
    "measure",
    "points",
    "priced",
    "reprice",
    "run_point",
    "summary",
]
