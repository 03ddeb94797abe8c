"""Results: labelled arrays with units and provenance, saved as netCDF; and the claims drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from vclab.errors import OutputError
from vclab.files import replacing

#: Results from elsewhere that would take more memory than this are refused.
MOST_BYTES = 2 << 30
RESULTS_FILE = "results.nc"
#: A verdict needs this many independently aged machines.
SEEDS_FOR_A_VERDICT = 5
NOT_MEASURED = "not measured yet"


@dataclass(frozen=True)
class Claim:
    """A sentence of the RFC held against numbers.

    Attributes
    ----------
    sentence : str
        What the RFC says.
    measure : str
        What was measured for it.
    value, low, high : float or None
        The number and its 95 % interval; exact counts have no interval.
    unit : str
    threshold : str
        The rule by which the verdict follows from the number, stated beforehand.
    verdict : str
        "holds", "does not hold", "undecided" or "not measured yet".
    left_out : str
        What the model leaves out that could change the number.
    """

    sentence: str
    measure: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    threshold: str = ""
    verdict: str = NOT_MEASURED
    left_out: str = ""

    @property
    def number(self) -> str:
        """The number with its interval, for people."""
        if self.value is None:
            return "–"
        text = f"{self.value:.3g}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{text} {self.unit}".rstrip()


def interval(values: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float, float] | tuple[float, None, None]:
    """Return mean, lower and upper end of Student's t interval of independent values (one for each seed).

    One value has no interval (None). That of values that are all equal is the mean alone.
    """
    # All of scipy.stats takes a second to load; its quantile is this function.
    from scipy.special import stdtrit

    sample = np.asarray(values, float).ravel()
    mean = float(sample.mean())
    if len(sample) < 2:
        return mean, None, None
    if np.ptp(sample) == 0:
        return mean, mean, mean
    error = sample.std(ddof=1) / np.sqrt(len(sample))
    half = float(stdtrit(len(sample) - 1, (1 + confidence) / 2) * error)
    return mean, mean - half, mean + half


def ratio_interval(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, confidence: float = 0.95
) -> tuple[float, float, float] | tuple[float, None, None]:
    """Return the ratio of two means with its interval by Fieller's theorem, from independent pairs (one for each seed).

    Unlike the mean of each pair's ratio it needs no denominator to be far from zero: where the mean denominator's own
    interval includes zero, every ratio is possible and the ends are infinite. One pair has no interval (None). Source:
    E. C. Fieller, Some problems in interval estimation, Journal of the Royal Statistical Society B 16 (1954) 175-185.

    Raises
    ------
    ValueError
        If they are not as many, or there are none.
    """
    from scipy.special import stdtrit

    above, below = np.asarray(numerators, float).ravel(), np.asarray(denominators, float).ravel()
    if len(above) != len(below) or not len(above):
        raise ValueError(f"a ratio of {len(above)} numerators and {len(below)} denominators has no interval")
    top, bottom = float(above.mean()), float(below.mean())
    ratio = top / bottom if bottom else float(np.copysign(np.inf, top)) if top else np.nan
    if len(above) < 2:
        return ratio, None, None
    squared = float(stdtrit(len(above) - 1, (1 + confidence) / 2)) ** 2 / len(above)
    # The ratios r for which numerator - r * denominator may have the mean zero: a quadratic inequality in r.
    spread = squared * np.cov(above, below)
    a, b, c = bottom**2 - spread[1, 1], top * bottom - spread[0, 1], top**2 - spread[0, 0]
    if a <= 0:
        return ratio, -np.inf, np.inf
    half = float(np.sqrt(max(b**2 - a * c, 0.0)))
    return ratio, float(b - half) / float(a), float(b + half) / float(a)


def judge(seeds: int, low: float | None, high: float | None, least: float) -> str:
    """Return the verdict on "more than ``least``": by where the whole interval lies, with enough seeds for one."""
    if low is None or high is None or seeds < SEEDS_FOR_A_VERDICT:
        return "undecided"
    if low > least:
        return "holds"
    return "does not hold" if high < least else "undecided"


def save(dataset: xr.Dataset, out: Path) -> Path:
    """Write a dataset to OUT/results.nc, whole or not at all, and return the path."""
    path = out / RESULTS_FILE
    encoding: dict[str, dict[str, Any]] = {
        str(name): {"zlib": True, "complevel": 1}
        for name, array in dataset.data_vars.items()
        if array.size > 1000 and array.dtype.kind in "iuf"
    }
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
    return path


def load(folder: Path) -> xr.Dataset:
    """Read a dataset from OUT/results.nc.

    Raises
    ------
    OutputError
        If there is none or it is damaged.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        raise OutputError(f"no {RESULTS_FILE} in {folder}; name a folder that vclab run has written")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            if dataset.nbytes > MOST_BYTES:
                raise OutputError(f"{path} would take {dataset.nbytes:,} bytes; results take at most {MOST_BYTES:,}")
            loaded = dataset.load()
    except OutputError:
        raise
    except Exception as error:
        raise OutputError(f"{path} cannot be read ({type(error).__name__}); run the study again") from error
    if "study" not in loaded.attrs:
        raise OutputError(f"{path} holds no results of vclab; name a folder that vclab run has written")
    return loaded
