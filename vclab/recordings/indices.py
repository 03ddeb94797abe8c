"""Reading of debugfs's ``extfrag_index`` and ``unusable_index``: one number for each zone and order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.refusal import refusal
from vclab.recordings.textfile import ZONE_ROW, check_order_columns, lines, zone_label

# The kernel prints quotient and remainder by 1000, and both can be negative: -500 thousandths are 0.-500.
_VALUE = re.compile(r"(-?)(\d{1,9})\.(-?)(\d{3})", re.ASCII)


@dataclass(frozen=True, eq=False)
class Indices:
    """An index by zone and order.

    Attributes
    ----------
    zone_names : tuple of str
        Labels of the rows.
    thousandths : ndarray
        int64[zones, orders].
    """

    zone_names: tuple[str, ...]
    thousandths: NDArray[np.int64]


def read_indices(path: Path) -> Indices:
    """Read ``extfrag_index`` or ``unusable_index``.

    Raises
    ------
    RecordingError
        If the file is missing or a line is not a zone with its values.
    """
    rows: dict[str, list[int]] = {}
    for where, line in lines(path):
        match = ZONE_ROW.fullmatch(line)
        if match is None:
            right = "a line should read 'Node 0, zone Normal' and one value per order"
            raise refusal(f"{line[:60]!r}", where, right)
        label = zone_label(int(match[1]), match[2])
        if label in rows:
            raise refusal(f"zone {label} again", where, "a zone has one line")
        rows[label] = [_thousandths(word, where) for word in match[3].split()]
        check_order_columns(rows[label], next(iter(rows.values())), where)
    if not rows:
        raise refusal("no zone", path, "there is a line for each zone")
    return Indices(tuple(rows), np.array(list(rows.values()), np.int64))


def _thousandths(word: str, where: str) -> int:
    match = _VALUE.fullmatch(word)
    if match is None:
        raise refusal(f"{word[:40]!r}", where, "a number with three decimals is needed")
    number = int(match[2]) * 1000 + int(match[4])
    return -number if match[1] or match[3] else number
