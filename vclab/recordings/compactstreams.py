"""API-level rows and events of compaction in a compact file, as columns whose names begin with their stream's.

Rows, times and frames are stored as differences to the row before; frames are relative to the zone's first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.archive import Archive
from vclab.recordings.checks import check_compaction, check_pages
from vclab.recordings.recording import CompactionStep, CompactionStream, PageStream


def pages_members(pages: PageStream, first: int) -> dict[str, NDArray[Any]]:
    """Return the columns of API-level rows; ``first`` is the zone's first frame."""
    return {
        "pages_row_step": np.diff(pages.row, prepend=0).astype("<u4"),
        "pages_time_step_us": np.diff(pages.time_us, prepend=0).astype("<i8"),
        "pages_op": pages.operation,
        "pages_order": pages.order,
        "pages_migratetype": pages.migratetype,
        "pages_cpu": pages.cpu,
        "pages_frame_step": np.diff(pages.frame, prepend=first).astype("<i4"),
    }


def read_pages_members(archive: Archive, first: int, frames: int, rows: int) -> PageStream | None:
    """Return the API-level rows of an archive, if it has them; the zone's stream has ``rows`` rows."""
    if not archive.holds("pages_op"):
        return None
    operation = archive.column("pages_op", np.uint8)
    count = operation.size
    pages = PageStream(
        row=np.cumsum(archive.column("pages_row_step", np.uint32, count), dtype=np.int64),
        time_us=np.cumsum(archive.column("pages_time_step_us", np.int64, count), dtype=np.int64),
        operation=operation,
        order=archive.column("pages_order", np.uint8, count),
        migratetype=archive.column("pages_migratetype", np.int8, count),
        cpu=archive.column("pages_cpu", np.uint8, count),
        frame=first + np.cumsum(archive.column("pages_frame_step", np.int32, count), dtype=np.int64),
    )
    check_pages(pages, first, first + frames, rows, archive.where("pages"))
    return pages


def compaction_members(compaction: CompactionStream, first: int) -> dict[str, NDArray[Any]]:
    """Return the columns of events of compaction; ``first`` is the zone's first frame."""
    ranged = compaction.step != CompactionStep.MIGRATE
    return {
        "compaction_row_step": np.diff(compaction.row, prepend=0).astype("<u4"),
        "compaction_time_step_us": np.diff(compaction.time_us, prepend=0).astype("<i8"),
        "compaction_step": compaction.step,
        "compaction_cpu": compaction.cpu,
        "compaction_start": (compaction.start - first * ranged).astype("<u4"),
        "compaction_end": (compaction.end - first * ranged).astype("<u4"),
        "compaction_scanned": compaction.scanned.astype("<u4"),
        "compaction_taken": compaction.taken.astype("<u4"),
    }


def read_compaction_members(archive: Archive, first: int, frames: int, rows: int) -> CompactionStream | None:
    """Return the events of compaction of an archive, if it has them; the zone's stream has ``rows`` rows."""
    if not archive.holds("compaction_step"):
        return None
    step = archive.column("compaction_step", np.uint8)
    ranged = step != CompactionStep.MIGRATE
    start, end, scanned, taken = (
        archive.column(f"compaction_{name}", np.uint32, step.size).astype(np.int64)
        for name in ("start", "end", "scanned", "taken")
    )
    compaction = CompactionStream(
        row=np.cumsum(archive.column("compaction_row_step", np.uint32, step.size), dtype=np.int64),
        time_us=np.cumsum(archive.column("compaction_time_step_us", np.int64, step.size), dtype=np.int64),
        step=step,
        cpu=archive.column("compaction_cpu", np.uint8, step.size),
        start=start + first * ranged,
        end=end + first * ranged,
        scanned=scanned,
        taken=taken,
    )
    check_compaction(compaction, first, first + frames, rows, archive.where("compaction"))
    return compaction
