"""The compact file: one recording in one npz archive, a few integer columns each.

``layout`` is 1. What filled the zone before is coded as runs over its span in frame order: ``before_code`` is
``order + 11 * filling`` with filling 0 for free blocks and ``1 + FrameKind`` for the others, ``before_count``
the number of such blocks in a row. ``time_step_us`` and ``frame_step`` hold each event's difference to the
event before. Frame numbers are relative to the zone's first frame. Tables are stored row by row, names as
UTF-8 text, one a line. Columns of API-level rows and of compaction are in `compactstreams`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.archive import Archive, fitted, text_column, write_archive
from vclab.recordings.checks import check_blocks, check_stream
from vclab.recordings.compactstreams import (
    compaction_members,
    pages_members,
    read_compaction_members,
    read_pages_members,
)
from vclab.recordings.procfiles import WATERMARKS, ZoneInfo
from vclab.recordings.recording import (
    MACHINE_FRAMES,
    ORDERS,
    ZONE_FRAMES,
    AllocatedMap,
    BlockMap,
    FrameKind,
    Recording,
    ZoneStream,
)
from vclab.recordings.refusal import refusal

_LAYOUT = 1
_CODES = ORDERS * (1 + len(FrameKind))
_ABSENT = -1


def write_compact(recording: Recording, path: Path) -> None:
    """Write a recording to a compact file, all or nothing.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    zone, stream = recording.zone, recording.stream
    codes, counts = _runs_before(recording)
    zone_sizes = [zone.node, zone.start_pfn, zone.spanned, zone.present, zone.managed]
    pageblocks = [recording.pageblock_types[name] for name in recording.type_names]
    members: dict[str, NDArray[Any]] = {
        "layout": np.array(_LAYOUT, dtype="<i8"),
        "zone_name": text_column((zone.name,)),
        "zone_sizes": np.array(zone_sizes, dtype="<i8"),
        "watermarks": np.array([zone.watermarks.get(mark, _ABSENT) for mark in WATERMARKS], dtype="<i8"),
        "first_frame": np.array(recording.first_frame, dtype="<i8"),
        "frames": np.array(recording.frames, dtype="<i8"),
        "before_code": codes.astype("<u1"),
        "before_count": counts.astype("<u4"),
        "time_step_us": np.diff(stream.time_us, prepend=np.uint32(0)).astype("<u4"),
        "op": stream.operation,
        "order": stream.order,
        "migratetype": stream.migratetype,
        "cpu": stream.cpu,
        "frame_step": np.diff(stream.frame, prepend=recording.first_frame).astype("<i4"),
        "extra": stream.extra.astype("<u2"),
        "events_elsewhere": np.array(recording.events_elsewhere, dtype="<i8"),
        "zone_names": text_column(recording.zone_names),
        "type_names": text_column(recording.type_names),
        "pageblocks": np.array(pageblocks, dtype="<i8"),
        "free_by_type": recording.free_by_type.ravel().astype("<i8"),
        "free_by_type_capped": recording.free_by_type_capped.ravel(),
        "buddyinfo_before": recording.buddyinfo_before.ravel().astype("<i8"),
        "buddyinfo_after": recording.buddyinfo_after.ravel().astype("<i8"),
    }
    if recording.free_after is not None:
        members["after_frame"] = (recording.free_after.frames - recording.first_frame).astype("<u4")
        members["after_order"] = recording.free_after.orders
    if recording.buddyinfo_start is not None:
        members["buddyinfo_start"] = recording.buddyinfo_start.ravel().astype("<i8")
    if recording.buddyinfo_end is not None:
        members["buddyinfo_end"] = recording.buddyinfo_end.ravel().astype("<i8")
    if recording.pages is not None:
        members |= pages_members(recording.pages, recording.first_frame)
    if recording.compaction is not None:
        members |= compaction_members(recording.compaction, recording.first_frame)
    write_archive(path, members)


def read_compact(path: Path) -> Recording:
    """Read a recording from a compact file.

    Raises
    ------
    RecordingError
        If the file is missing, damaged, of another layout, or says what no page allocator can say.
    """
    with Archive(path) as archive:
        layout = archive.scalar("layout")
        if layout != _LAYOUT:
            raise refusal(f"layout {layout}", archive.where("layout"), f"this version reads {_LAYOUT}")
        first, frames = archive.scalar("first_frame"), archive.scalar("frames")
        if not (0 <= first <= MACHINE_FRAMES and 0 < frames <= ZONE_FRAMES):
            right = f"a zone has 1 to {ZONE_FRAMES} frames from frame 0 on"
            raise refusal(f"{frames} frames from {first}", archive.where("frames"), right)
        free_before, allocated = _read_before(archive, first, frames)
        zone_names, type_names = archive.names("zone_names"), archive.names("type_names")
        zone = _read_zone(archive)
        if zone.label not in zone_names:
            right = f"it should be {' or '.join(zone_names)}"
            raise refusal(f"zone {zone.label}", archive.where("zone_name"), right)
        pageblocks = _counts(archive, "pageblocks", len(type_names))
        stream = _read_stream(archive, first, frames)
        capped = archive.column("free_by_type_capped", np.uint8, len(type_names) * ORDERS)
        return Recording(
            name=path.stem,
            path=path,
            zone=zone,
            first_frame=first,
            frames=frames,
            free_before=free_before,
            free_after=_read_after(archive, first, frames) if archive.holds("after_frame") else None,
            allocated=allocated,
            stream=stream,
            pages=read_pages_members(archive, first, frames, stream.frame.size),
            compaction=read_compaction_members(archive, first, frames, stream.frame.size),
            events_elsewhere=_at_least_zero(archive, "events_elsewhere"),
            zone_names=zone_names,
            buddyinfo_before=_table(archive, "buddyinfo_before", len(zone_names)),
            buddyinfo_after=_table(archive, "buddyinfo_after", len(zone_names)),
            buddyinfo_start=_optional_table(archive, "buddyinfo_start", len(zone_names)),
            buddyinfo_end=_optional_table(archive, "buddyinfo_end", len(zone_names)),
            type_names=type_names,
            pageblock_types=dict(zip(type_names, pageblocks.tolist(), strict=True)),
            free_by_type=_table(archive, "free_by_type", len(type_names)),
            free_by_type_capped=capped.reshape(len(type_names), ORDERS),
        )


def _runs_before(recording: Recording) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return code and repeat count of the runs of like blocks that tile the zone."""
    free, allocated = recording.free_before, recording.allocated
    frames = np.concatenate((free.frames, allocated.frames))
    free_codes = free.orders.astype(np.int64)
    allocated_codes = allocated.orders + ORDERS * (1 + allocated.kinds.astype(np.int64))
    codes = np.concatenate((free_codes, allocated_codes))[np.argsort(frames, kind="stable")]
    run_starts = np.flatnonzero(np.diff(codes, prepend=_ABSENT))
    return codes[run_starts], np.diff(run_starts, append=codes.size)


def _read_before(archive: Archive, first: int, frames: int) -> tuple[BlockMap, AllocatedMap]:
    """Expand the runs that tile the zone."""
    codes = archive.column("before_code", np.uint8)
    counts = archive.column("before_count", np.int64, codes.size)
    if codes.max(initial=0) >= _CODES:
        raise refusal("an unknown code", archive.where("before_code"), f"codes are 0 to {_CODES - 1}")
    possible = (counts >= 1) & (counts <= frames)
    filled = int((counts << (codes % ORDERS))[possible].sum())
    if not possible.all() or filled != frames:
        right = f"the runs fill the zone's {frames} frames"
        raise refusal(f"runs over {filled} frames", archive.where("before_count"), right)
    block_codes = np.repeat(codes, counts)
    orders = (block_codes % ORDERS).astype(np.int8)
    sizes = np.int64(1) << orders.astype(np.int64)
    starts = first + np.cumsum(sizes) - sizes
    check_blocks(BlockMap(starts, orders), first, first + frames, archive.where("before_code"))
    free = block_codes < ORDERS
    kinds = block_codes[~free] // np.uint8(ORDERS) - np.uint8(1)
    return BlockMap(starts[free], orders[free]), AllocatedMap(starts[~free], orders[~free], kinds)


def _read_after(archive: Archive, first: int, frames: int) -> BlockMap:
    offsets = archive.column("after_frame", np.uint32).astype(np.int64)
    blocks = BlockMap(first + offsets, archive.column("after_order", np.int8, offsets.size))
    check_blocks(blocks, first, first + frames, archive.where("after_frame, after_order"))
    return blocks


def _read_stream(archive: Archive, first: int, frames: int) -> ZoneStream:
    operation = archive.column("op", np.uint8)
    count = operation.size
    times = np.cumsum(archive.column("time_step_us", np.uint32, count), dtype=np.int64)
    first_frames = np.cumsum(archive.column("frame_step", np.int32, count), dtype=np.int64)
    first_frames += first
    stream = ZoneStream(
        time_us=fitted(times, np.uint32, archive.where("time_step_us")),
        operation=operation,
        order=archive.column("order", np.uint8, count),
        migratetype=archive.column("migratetype", np.int8, count),
        cpu=archive.column("cpu", np.uint8, count),
        frame=first_frames,
        extra=archive.column("extra", np.uint16, count),
    )
    check_stream(stream, first, first + frames, str(archive.path))
    return stream


def _read_zone(archive: Archive) -> ZoneInfo:
    node, start_pfn, spanned, present, managed = _counts(archive, "zone_sizes", 5).tolist()
    marks = archive.column("watermarks", np.int64, len(WATERMARKS)).tolist()
    return ZoneInfo(
        node=node,
        name=archive.names("zone_name")[0],
        start_pfn=start_pfn,
        spanned=spanned,
        present=present,
        managed=managed,
        watermarks={name: value for name, value in zip(WATERMARKS, marks, strict=True) if value != _ABSENT},
    )


def _counts(archive: Archive, name: str, length: int) -> NDArray[np.int64]:
    """Return a column of numbers that cannot be negative."""
    values = archive.column(name, np.int64, length)
    if (values < 0).any():
        raise refusal("a negative number", archive.where(name), "counts are 0 or more")
    return values


def _at_least_zero(archive: Archive, name: str) -> int:
    value = archive.scalar(name)
    if value < 0:
        raise refusal(f"{value}", archive.where(name), "a count is 0 or more")
    return value


def _table(archive: Archive, name: str, rows: int) -> NDArray[np.int64]:
    return _counts(archive, name, rows * ORDERS).reshape(rows, ORDERS)


def _optional_table(archive: Archive, name: str, rows: int) -> NDArray[np.int64] | None:
    return _table(archive, name, rows) if archive.holds(name) else None
