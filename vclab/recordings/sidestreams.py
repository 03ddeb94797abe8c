"""Reading of what a folder may hold beside its zone's stream: page allocations at the API level, and compaction.

==================  =========================================================================================
``api_head.npz``    the first seconds of all operations; ``zone_row`` says how many rows of the zone's stream came
                    before. Without it, the file holds those rows too, and they tell the same.
``aux_events.npz``  events of compaction (and others, left out), each with the first 6 words of the kernel's own record
==================  =========================================================================================
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.archive import Archive, fitted
from vclab.recordings.checks import check_compaction, check_pages
from vclab.recordings.recording import CompactionStep, CompactionStream, Operation, PageStream, ZoneStream
from vclab.recordings.refusal import reading, refusal

_WORDS = 6
_ZONE_OPERATIONS = (Operation.REMOVE, Operation.DRAIN, Operation.CLAIM)


def read_pages(path: Path, stream: ZoneStream, began_ns: int, first: int, end: int) -> PageStream | None:
    """Return the API-level rows of a zone, or None where there is no such file.

    Parameters
    ----------
    path : Path
    stream : ZoneStream
        Zone-level events of all zones, as in the folder.
    began_ns : int
        Time of their beginning.
    first, end : int
        The zone's frames; rows elsewhere, and failed allocations, are left out.
    """
    with reading(path):
        if not path.exists():
            return None
    with Archive(path) as archive:
        operation = archive.column("op", np.uint8)
        count = operation.size
        began_us = archive.scalar("t0_ns") // 1000 - began_ns // 1000
        time_us = began_us + archive.column("t_us", np.uint32, count).astype(np.int64)
        frame = archive.column("pfn", np.int64, count)
        order = archive.column("order", np.uint8, count)
        migratetype = archive.column("migratetype", np.int8, count)
        cpu = archive.column("cpu", np.uint8, count)
        if archive.holds("zone_row"):
            row = archive.column("zone_row", np.int64, count)
        else:
            of_zone = np.isin(operation, _ZONE_OPERATIONS)
            row = _rows_before(of_zone, frame, stream, archive.where("op"))
        known = np.isin(operation, (Operation.ALLOCATE, Operation.FREE))
        kept = np.flatnonzero(known & (frame >= first) & (frame < end))
        pages = PageStream(
            row=row[kept],
            time_us=time_us[kept],
            operation=operation[kept],
            order=order[kept],
            migratetype=migratetype[kept],
            cpu=cpu[kept],
            frame=frame[kept],
        )
    check_pages(pages, first, end, stream.frame.size, str(path))
    return pages


def _rows_before(
    of_zone: NDArray[np.bool_], frame: NDArray[np.int64], stream: ZoneStream, where: str
) -> NDArray[np.int64]:
    """Return how many rows of the zone's stream came before each row of a file that holds those rows too.

    Parameters
    ----------
    of_zone : ndarray
        bool[n], whether a row is one of the zone's.
    frame : ndarray
        int64[n], first frames of all rows.
    """
    counterpart = np.flatnonzero(stream.operation != Operation.FREE)[: np.count_nonzero(of_zone)]
    if not np.array_equal(stream.frame[counterpart], frame[of_zone]):
        right = "its operations 3, 4 and 5 should be the first ones of zone_stream.npz"
        raise refusal("rows of the zone out of place", where, right)
    after = np.concatenate((np.zeros(1, np.int64), counterpart + 1))
    return after[np.cumsum(of_zone)]


def read_compaction(path: Path, began_ns: int, first: int, end: int, rows: int) -> CompactionStream | None:
    """Return what compaction did in a zone, or None where there is no such file.

    Parameters
    ----------
    path : Path
    began_ns : int
        Time of the beginning of the zone's stream.
    first, end : int
        The zone's frames; events elsewhere are left out.
    rows : int
        Number of rows of the zone-level events of all zones.
    """
    with reading(path):
        if not path.exists():
            return None
    with Archive(path) as archive:
        step = archive.column("op", np.uint8)
        count = step.size
        kept = np.isin(step, list(CompactionStep))
        words = archive.table("w", np.uint64, count, _WORDS)[kept]
        time_us = archive.column("t_ns", np.int64, count)[kept] // 1000 - began_ns // 1000
        row = archive.column("zone_row", np.int64, count)[kept]
        cpu = archive.column("cpu", np.uint8, count)[kept]
        where = archive.where("w")
    step = step[kept]
    words[step == CompactionStep.MIGRATE] = _of_migration(words[step == CompactionStep.MIGRATE])
    whole = np.isin(step, (CompactionStep.BEGIN, CompactionStep.END))
    words[whole] = _of_whole_run(words[whole])
    # A beginning has no status: what lies there is left over.
    words[step == CompactionStep.BEGIN, 3] = 0
    start, stop, scanned, taken = (fitted(words[:, column], np.int64, where) for column in range(4))
    inside = ((start >= first) & (start < end)) | (step == CompactionStep.MIGRATE)
    compaction = CompactionStream(
        row=row[inside],
        time_us=time_us[inside],
        step=step[inside],
        cpu=cpu[inside],
        start=start[inside],
        # A zone's end is not written anywhere: it may lie beyond the last frame with evidence.
        end=np.where(whole, np.minimum(stop, end), stop)[inside],
        scanned=scanned[inside],
        taken=taken[inside],
    )
    check_compaction(compaction, first, end, rows, str(path))
    return compaction


def _of_whole_run(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return zone start, zone end, 1 if synchronous, and status, from words 0, 3 and the halves of word 4."""
    flags = words[:, 4]
    parts = (words[:, 0], words[:, 3], flags & np.uint64(0xFF), flags >> np.uint64(32), 0 * flags, 0 * flags)
    return np.stack(parts, axis=1)


def _of_migration(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 0, 0, pages not moved and pages moved, from nr_migrated, nr_failed."""
    none = 0 * words[:, 0]
    return np.stack((none, none, words[:, 1], words[:, 0], none, none), axis=1)
