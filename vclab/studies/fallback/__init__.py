"""What does it cost when a virtually contiguous page stands in for a physically contiguous one?"""

from vclab.studies.fallback.claims import claims, summary
from vclab.studies.fallback.figures import figures
from vclab.studies.fallback.measure import QUICK, Parameters, combine, points, run_point

__all__ = ["QUICK", "Parameters", "claims", "combine", "figures", "points", "run_point", "summary"]
