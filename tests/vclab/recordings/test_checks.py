"""Events are checked in pieces; where one ends and the next begins makes no difference."""

from __future__ import annotations

import numpy as np
import pytest

from vclab.errors import RecordingError
from vclab.recordings import ZoneStream, checks

EVENTS = 11


def stream(**columns: object) -> ZoneStream:
    """Return frees of single frames, one a microsecond, with some columns replaced."""
    given = {
        "time_us": np.arange(EVENTS, dtype=np.uint32),
        "operation": np.ones(EVENTS, np.uint8),
        "order": np.zeros(EVENTS, np.uint8),
        "migratetype": np.full(EVENTS, -1, np.int8),
        "cpu": np.zeros(EVENTS, np.uint8),
        "frame": np.arange(EVENTS, dtype=np.int64),
        "extra": np.zeros(EVENTS, np.uint16),
    }
    return ZoneStream(**{name: np.asarray(columns.get(name, column), column.dtype) for name, column in given.items()})


def changed(row: int, value: int, usual: int = 0) -> list[int]:
    """Return a column in which one row differs."""
    return [value if number == row else usual for number in range(EVENTS)]


@pytest.mark.parametrize("piece", [1, 4, 1 << 16])
@pytest.mark.parametrize("row", [0, 3, 4, 7, 8, 10])
def test_a_wrong_event_is_named_in_whichever_piece_it_is(monkeypatch: pytest.MonkeyPatch, piece: int, row: int) -> None:
    monkeypatch.setattr(checks, "_PIECE", piece)
    checks.check_stream(stream(), 0, EVENTS, "file")
    with pytest.raises(RecordingError, match=f"op 9 in row {row}, file"):
        checks.check_stream(stream(operation=changed(row, 9, usual=1)), 0, EVENTS, "file")
    with pytest.raises(RecordingError, match=f"order 11 in row {row}, file"):
        checks.check_stream(stream(order=changed(row, 11)), 0, EVENTS, "file")


@pytest.mark.parametrize("piece", [1, 4, 1 << 16])
@pytest.mark.parametrize("row", [1, 3, 4, 5, 8, 10])
def test_time_that_falls_between_two_pieces_is_refused(monkeypatch: pytest.MonkeyPatch, piece: int, row: int) -> None:
    monkeypatch.setattr(checks, "_PIECE", piece)
    times = np.arange(EVENTS) + 5
    times[row:] -= 2
    with pytest.raises(RecordingError, match=f"time {times[row]} in row {row}, file"):
        checks.check_stream(stream(time_us=times), 0, EVENTS, "file")
