"""How many accesses make up for the price of contiguity: arithmetic on costs alone.

A page costs its allocation, its accesses and its free. Insisting on contiguity pays ``extra`` more at allocation and
free than falling back; each access then saves ``gain``. Of both there is one value for each independently aged machine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vclab.results import interval, ratio_interval

Floats = npt.NDArray[np.float64]


class Outcome(StrEnum):
    """Who is cheaper over the life of a page."""

    NOT_NEEDED = "not needed"
    """No request fell back, so that there is nothing to choose."""
    AT_ONCE = "at once"
    """Contiguity, from the first access on: it is not dearer to get, and cheaper to access."""
    AFTER = "after"
    """Contiguity, from so many accesses on."""
    NEVER = "never"
    """Falling back, however many accesses follow: contiguity is dearer to get, and not cheaper to access."""
    UNTIL = "until"
    """Contiguity, up to so many accesses: it is cheaper to get, and dearer to access."""
    OPEN = "open"
    """Not known: what differs between machines is more than what one way costs beyond the other."""
    EQUAL = "equal"
    """Neither: no difference at allocation, none at access, on any machine."""


class BreakEven(NamedTuple):
    """Who wins, and from or up to how many accesses on.

    Attributes
    ----------
    outcome : Outcome
    accesses : float
        At which both cost the same: 0 at once, infinite never, NaN where that has no meaning.
    low, high : float
        Its 95 % interval; NaN where there is none.
    """

    outcome: Outcome
    accesses: float
    low: float
    high: float


def _sign(values: Floats) -> int:
    """Return the sign of a mean, 0 if its interval includes zero. A single value has its own sign."""
    mean, low, high = interval(values)
    if low is None or high is None:
        return int(np.sign(mean))
    return int(low > 0) - int(high < 0)


def break_even(extra: npt.ArrayLike, gain: npt.ArrayLike) -> BreakEven:
    """Return after how many accesses contiguity has paid.

    Parameters
    ----------
    extra : float64[machines]
        What insisting costs more than falling back, allocation and free together; NaN on machines where no request
        fell back, which are left out.
    gain : float64[machines]
        What an access costs more where the page is virtual, in the same unit.

    Returns
    -------
    BreakEven
        The number is the ratio of the two means, and its interval Fieller's (:func:`~vclab.results.ratio_interval`).
        A difference whose interval includes zero decides nothing, unless it is zero on every machine.
    """
    more, saved = np.asarray(extra, float).ravel(), np.asarray(gain, float).ravel()
    known = ~(np.isnan(more) | np.isnan(saved))
    if not known.any():
        return BreakEven(Outcome.NOT_NEEDED, np.nan, np.nan, np.nan)
    more, saved = more[known], saved[known]
    dearer, slower = _sign(more), _sign(saved)
    if dearer == slower and dearer:
        value, low, high = ratio_interval(more, saved)
        ends = (np.nan, np.nan) if low is None or high is None else (low, high)
        return BreakEven(Outcome.AFTER if dearer > 0 else Outcome.UNTIL, value, *ends)
    as_dear, as_slow = not more.any(), not saved.any()
    if as_dear and as_slow:
        return BreakEven(Outcome.EQUAL, np.nan, np.nan, np.nan)
    if (dearer > 0 or as_dear) and (slower < 0 or as_slow):
        return BreakEven(Outcome.NEVER, np.inf, np.nan, np.nan)
    if dearer < 0 or (as_dear and slower > 0):
        # At worst undecided is what accesses cost: it is cheaper from the first one.
        return BreakEven(Outcome.AT_ONCE, 0.0, np.nan, np.nan)
    return BreakEven(Outcome.OPEN, np.nan, np.nan, np.nan)


def lifetime(fixed: npt.ArrayLike, access: npt.ArrayLike, accesses: npt.ArrayLike) -> Floats:
    """Return what pages cost from allocation to free, in the unit of the costs (arrays are broadcast)."""
    return np.asarray(np.asarray(fixed, float) + np.asarray(accesses, float) * np.asarray(access, float), float)
