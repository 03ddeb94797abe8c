"""T6: the per-CPU page lists of a recording, followed one step ahead."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vckernels import replaylists as kernels
from vckernels.replay import Stream
from vckernels.replaylists import ListCount
from vclab.recorded import pageblock_types, span
from vclab.recordings import CompactionStep, CompactionStream, Operation, Recording
from vclab.replay.rates import Check, rate, share

#: Rate of all allocations that is to be foreseen, where the lists' unknown first content leaves room for it.
ALL_RATE = 0.98

Integer = TypeVar("Integer", bound=np.integer[Any])

_MARKS = (CompactionStep.ISOLATE_USED, CompactionStep.MIGRATE, CompactionStep.END)


def explained_fallbacks(stream: Stream) -> npt.NDArray[np.bool_]:
    """Return which rows are fallbacks that explain the removal just before them, bool[n].

    ``__rmqueue_claim`` retypes a pageblock smaller than the block that it finds and then removes from it, which is
    traced; the fallback is traced after that.
    """
    explained = np.zeros(len(stream.frame), np.bool_)
    explained[1:] = (
        (stream.operation[1:] == Operation.CLAIM)
        & (stream.operation[:-1] == Operation.REMOVE)
        & (stream.frame[1:] == stream.frame[:-1])
    )
    return explained


def list_stream(recording: Recording, stream: Stream) -> Stream:
    """Return API-level rows among the zone's and the marks of migration, as :mod:`vckernels.replaylists` takes them.

    Parameters
    ----------
    recording : Recording
        With API-level rows.
    stream : Stream
        Its zone's events.
    """
    pages = recording.pages
    assert pages is not None
    last = int(pages.row[-1]) if len(pages.row) else 0
    zone = np.flatnonzero((stream.operation[:last] != Operation.FREE) & ~explained_fallbacks(stream)[:last])
    marks = _marks(recording.compaction, last)
    # Before the zone's row of their number; among themselves by time, allocations and frees first.
    place = np.concatenate((2 * pages.row, 2 * marks.row, 2 * zone + 1))
    time = np.concatenate((pages.time_us, marks.time_us, np.zeros(len(zone), np.int64)))
    order = np.lexsort((time, place))
    unset = np.zeros(len(marks.row), np.int64)

    def merged(
        of_pages: npt.NDArray[Any], of_marks: npt.NDArray[Any], of_zone: npt.NDArray[Integer]
    ) -> npt.NDArray[Integer]:
        return np.concatenate((of_pages, of_marks, of_zone[zone]))[order].astype(of_zone.dtype)

    return Stream(
        operation=merged(pages.operation, marks.step, stream.operation),
        order=merged(pages.order, unset, stream.order),
        migratetype=merged(pages.migratetype, unset, stream.migratetype),
        cpu=merged(pages.cpu, marks.cpu, stream.cpu),
        frame=merged(pages.frame - recording.first_frame, unset, stream.frame),
        extra=merged(np.zeros(len(pages.row), np.int64), unset, stream.extra),
    )


def _marks(compaction: CompactionStream | None, last: int) -> CompactionStream:
    """Return the events of compaction that begin and end migrations, up to a row of the zone's stream."""
    if compaction is None:
        none = np.zeros(0, np.int64)
        return CompactionStream(none, none, none.astype(np.uint8), none.astype(np.uint8), none, none, none, none)
    kept = np.isin(compaction.step, _MARKS) & (compaction.row <= last)
    return CompactionStream(*(getattr(compaction, column.name)[kept] for column in fields(CompactionStream)))


def follow_lists(recording: Recording, stream: Stream, merged: Stream) -> dict[ListCount, int]:
    """Follow a recording's per-CPU lists, empty at first, one step ahead; return what was counted."""
    types, _ = pageblock_types(recording, stream)
    lists = kernels.new_lists(span(recording), int(merged.cpu.max(initial=0)) + 1, types)
    counts = np.zeros(kernels.LIST_COUNTS, np.int64)
    kernels.follow_lists(merged, lists, counts)
    return {count: int(counts[count]) for count in ListCount}


def never_seen(merged: Stream) -> int:
    """Return how many blocks are allocated before anything else happens to them: they lay on lists already."""
    touching = np.flatnonzero(np.isin(merged.operation, list(Operation)))
    _, first = np.unique(merged.frame[touching], return_index=True)
    return int(np.count_nonzero(merged.operation[touching[first]] == Operation.ALLOCATE))


def check_lists(recording: Recording, stream: Stream) -> list[Check]:
    """Run T6 on a recording that has API-level rows."""
    if recording.pages is None or not len(recording.pages.row):
        return []
    merged = list_stream(recording, stream)
    counts = follow_lists(recording, stream, merged)
    unseen = never_seen(merged)
    foreseeable = unseen <= (1 - ALL_RATE) * counts[ListCount.ALLOCATIONS]
    said = {count: f"{counts[count]:,}" for count in ListCount}
    return [
        share(
            "T6 all",
            "next page of a per-CPU list foreseen, of all allocations",
            counts,
            ListCount.RIGHT,
            ListCount.ALLOCATIONS,
            ALL_RATE if foreseeable else None,
            detail=f"{unseen:,} blocks lay on lists since before the trace, "
            f"judged where those are at most {1 - ALL_RATE:.0%}; {said[ListCount.REFILLED]} blocks of "
            f"{said[ListCount.REFILLS]} refills taken from the trace",
        ),
        share(
            "T6 known",
            "next page of a per-CPU list foreseen, of allocations of blocks that the model has on a list",
            counts,
            ListCount.KNOWN_RIGHT,
            ListCount.KNOWN,
            0.995,
            detail=f"resynchronised: {said[ListCount.SKIPPED]} blocks above the one taken, "
            f"{said[ListCount.FLUSHED]} left as a refill began, {said[ListCount.OTHER_LIST]} on another list, "
            f"{said[ListCount.FREED_TWICE]} freed again, {said[ListCount.REMOVED_TWICE]} removed again; apart: "
            f"{said[ListCount.DIRECT]} straight from the zone, {said[ListCount.FREES_TO_COMPACTION]} frees to "
            f"compaction; drains from the tail {rate(counts, ListCount.DRAINS_FROM_TAIL, ListCount.DRAINS):.1%} of "
            f"{said[ListCount.DRAINS]}, {said[ListCount.DRAINS_UNKNOWN]} of unknown blocks",
        ),
    ]
