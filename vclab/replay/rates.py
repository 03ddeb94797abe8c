"""One rate of a replay beside its threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar


@dataclass(frozen=True)
class Check:
    """One rate and the threshold that it is held against.

    Attributes
    ----------
    name, what : str
    rate : float
    threshold : float or None
        None: reported, not judged.
    at_most : bool
        The rate must not exceed the threshold, else it must reach it.
    detail : str
    unit : str
        What the rate counts; empty for a share of one.
    """

    name: str
    what: str
    rate: float
    threshold: float | None = None
    at_most: bool = False
    detail: str = ""
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the rate is on the right side."""
        if self.threshold is None:
            return True
        return self.rate <= self.threshold if self.at_most else self.rate >= self.threshold


Name = TypeVar("Name", bound=IntEnum)


def rate(counts: Mapping[Name, int], part: Name, whole: Name) -> float:
    """Return one count over another, 1 where there was nothing to count."""
    return counts[part] / counts[whole] if counts[whole] else 1.0


def share(
    name: str,
    what: str,
    counts: Mapping[Name, int],
    part: Name,
    whole: Name,
    threshold: float | None,
    at_most: bool = False,
    detail: str = "",
) -> Check:
    """Return the check of one count over another, which is judged only if there was something to count."""
    judged = threshold if counts[whole] else None
    said = f"n {counts[whole]:,}" + (f"; {detail}" if detail else "")
    return Check(name, what, rate(counts, part, whole), judged, at_most, said)
