"""Reading of a recording laid out as a folder: archives of columns beside the kernel's own text files.

===================================  ===================================================================
``pre_snapshot.npz``                 free blocks and frame flags before
``post_snapshot.npz``                the same after; may be missing
``zone_stream.npz``                  every zone-level event in between
``pre_zoneinfo.txt``                 zones, their sizes and watermarks
``pre_pagetypeinfo.txt``             free blocks by migratetype
``pre_buddyinfo.txt``, ``post_...``  free blocks by zone
``*_buddyinfo_before.txt``           the same, read just before the frame flags; may be missing
``api_head.npz``                     the first seconds of all operations; may be missing (see `sidestreams`)
``aux_events.npz``                   events of compaction; may be missing
===================================  ===================================================================

A folder without a stream and without files of the end is a snapshot: a recording that ends as it begins.

A recording is about the zone that most events hit; without events, about the one that requests try first. Where that
zone ends is not written anywhere: its span in zoneinfo goes on over memory that is not plugged in or was never
initialised. The end is therefore the last frame that a free block, an event or telling frame flags touch, and not less
than the managed frames need, rounded up to a block of order 10.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.archive import Archive
from vclab.recordings.checks import check_blocks, check_stream
from vclab.recordings.occupancy import FlagRuns, allocated_blocks
from vclab.recordings.procfiles import ZoneInfo, read_buddyinfo, read_pagetypeinfo, read_zoneinfo
from vclab.recordings.recording import (
    MACHINE_FRAMES,
    MAXIMUM_ORDER,
    ORDERS,
    ZONE_FRAMES,
    BlockMap,
    Recording,
    ZoneStream,
)
from vclab.recordings.refusal import reading, refusal
from vclab.recordings.sidestreams import read_compaction, read_pages

_KERNEL_ZONES = ("DMA", "DMA32", "Normal")
_NO_EVENTS = ZoneStream(
    time_us=np.empty(0, np.uint32),
    operation=np.empty(0, np.uint8),
    order=np.empty(0, np.uint8),
    migratetype=np.empty(0, np.int8),
    cpu=np.empty(0, np.uint8),
    frame=np.empty(0, np.int64),
    extra=np.empty(0, np.uint16),
)


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """Free blocks of all zones, and frame flags where recorded."""

    npfn: int
    blocks: BlockMap
    runs: FlagRuns | None


def read_folder(folder: Path) -> Recording:
    """Read a recording from a folder.

    Raises
    ------
    RecordingError
        If a file is missing, damaged, or says what no page allocator can say.
    """
    zones = read_zoneinfo(folder / "pre_zoneinfo.txt")
    types = read_pagetypeinfo(folder / "pre_pagetypeinfo.txt")
    before_path = folder / "pre_buddyinfo.txt"
    zone_names = read_buddyinfo(before_path).zone_names
    snapshot = _read_snapshot(folder / "pre_snapshot.npz")
    post_path = folder / "post_snapshot.npz"
    stream_path = folder / "zone_stream.npz"
    with reading(post_path):
        post = _read_snapshot(post_path) if post_path.exists() else None
        moment = not stream_path.exists() and not any(folder.glob("post_*"))
    snapshots = [snapshot] if post is None else [snapshot, post]
    stream, began_ns = (_NO_EVENTS, 0) if moment else _read_stream(stream_path, max(seen.npfn for seen in snapshots))

    zone = _busiest_zone(zones, stream, folder / "pre_zoneinfo.txt")
    end = _zone_end(zone, snapshots, stream, folder)
    inside = (stream.frame >= zone.start_pfn) & (stream.frame < end)
    zone_stream = _select(stream, inside)
    check_stream(zone_stream, zone.start_pfn, end, f"{stream_path}: events of zone {zone.label}")
    free_before = _zone_blocks(snapshot, zone.start_pfn, end, folder / "pre_snapshot.npz")
    if zone.label not in types.zone_names or zone.label not in zone_names:
        right = "pre_pagetypeinfo.txt and pre_buddyinfo.txt should have it"
        raise refusal(f"no zone {zone.label}", folder, right)
    row = types.zone_names.index(zone.label)
    type_path = folder / "pre_pagetypeinfo.txt"
    row_in_zone = np.concatenate((np.zeros(1, np.int64), np.cumsum(inside, dtype=np.int64)))
    pages = read_pages(folder / "api_head.npz", stream, began_ns, zone.start_pfn, end)
    compaction = read_compaction(folder / "aux_events.npz", began_ns, zone.start_pfn, end, inside.size)
    return Recording(
        name=folder.resolve().name,
        path=folder,
        zone=zone,
        first_frame=zone.start_pfn,
        frames=end - zone.start_pfn,
        free_before=free_before,
        free_after=None if post is None else _zone_blocks(post, zone.start_pfn, end, post_path),
        allocated=allocated_blocks(zone.start_pfn, end, free_before, snapshot.runs, snapshot.npfn),
        stream=zone_stream,
        pages=None if pages is None else replace(pages, row=row_in_zone[pages.row]),
        compaction=None if compaction is None else replace(compaction, row=row_in_zone[compaction.row]),
        events_elsewhere=int(inside.size - np.count_nonzero(inside)),
        zone_names=zone_names,
        buddyinfo_before=_counts_of_zones(before_path, zone_names),
        buddyinfo_after=_counts_of_zones(before_path if moment else folder / "post_buddyinfo.txt", zone_names),
        buddyinfo_start=_optional_counts_of_zones(folder / "pre_buddyinfo_before.txt", zone_names),
        buddyinfo_end=_optional_counts_of_zones(folder / "post_buddyinfo_before.txt", zone_names),
        type_names=types.type_names,
        pageblock_types=dict(zip(types.type_names, types.pageblocks[row].tolist(), strict=True)),
        free_by_type=_by_order(types.counts[row], type_path),
        free_by_type_capped=_by_order(types.capped[row].astype(np.int64), type_path).astype(np.uint8),
    )


def _counts_of_zones(path: Path, zone_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the counts of a buddyinfo file, int64[zones, 11], refusing other zones than `zone_names`."""
    table = read_buddyinfo(path)
    if table.zone_names != zone_names:
        right = f"its zones should be those of pre_buddyinfo.txt, {', '.join(zone_names)}"
        raise refusal(f"zones {', '.join(table.zone_names)}", path, right)
    return _by_order(table.counts, path)


def _optional_counts_of_zones(path: Path, zone_names: tuple[str, ...]) -> NDArray[np.int64] | None:
    with reading(path):
        return _counts_of_zones(path, zone_names) if path.exists() else None


def _by_order(counts: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    """Return a table by order with columns for orders 0 to 10: absent ones are 0, others must be."""
    if counts[:, ORDERS:].any():
        raise refusal("blocks above order 10", path, "recordings hold orders 0 to 10")
    table = np.zeros((counts.shape[0], ORDERS), dtype=np.int64)
    kept = min(ORDERS, counts.shape[1])
    table[:, :kept] = counts[:, :kept]
    return table


def _read_snapshot(path: Path) -> _Snapshot:
    with Archive(path) as archive:
        npfn = archive.scalar("npfn")
        if not 0 < npfn <= MACHINE_FRAMES:
            raise refusal(f"npfn {npfn}", archive.where("npfn"), f"frames number 1 to {MACHINE_FRAMES}")
        frames = archive.column("block_pfn", np.int64)
        blocks = BlockMap(frames, archive.column("block_order", np.int8, frames.size))
        check_blocks(blocks, 0, npfn, archive.where("block_pfn, block_order"))
        return _Snapshot(npfn, blocks, _read_flags(archive, npfn))


def _read_flags(archive: Archive, npfn: int) -> FlagRuns | None:
    if not any(archive.holds(name) for name in ("flag_values", "flag_run_start", "flag_run_code")):
        return None
    values = archive.column("flag_values", np.uint64)
    starts = archive.column("flag_run_start", np.int64)
    codes = archive.column("flag_run_code", np.int64, starts.size)
    if starts.size == 0 or starts[0] != 0 or (starts[1:] <= starts[:-1]).any() or starts[-1] >= npfn:
        right = f"runs start at frame 0 and ascend, below npfn {npfn}"
        raise refusal("runs out of place", archive.where("flag_run_start"), right)
    if codes.min() < 0 or codes.max() >= values.size:
        raise refusal("an unknown code", archive.where("flag_run_code"), f"codes are 0 to {values.size - 1}")
    return FlagRuns(starts, values[codes], npfn)


def _read_stream(path: Path, npfn: int) -> tuple[ZoneStream, int]:
    """Return the events of all zones, and when they began (ns)."""
    with Archive(path) as archive:
        began_ns = archive.scalar("t0_ns")
        operation = archive.column("op", np.uint8)
        count = operation.size
        stream = ZoneStream(
            time_us=archive.column("t_us", np.uint32, count),
            operation=operation,
            order=archive.column("order", np.uint8, count),
            migratetype=archive.column("migratetype", np.int8, count),
            cpu=archive.column("cpu", np.uint8, count),
            frame=archive.column("pfn", np.int64, count),
            extra=archive.column("extra", np.uint16, count),
        )
    check_stream(stream, 0, npfn, str(path))
    return stream, began_ns


def _busiest_zone(zones: list[ZoneInfo], stream: ZoneStream, path: Path) -> ZoneInfo:
    """Return the zone that most events hit; among equals, the one that requests of kernel memory try first."""
    candidates = [zone for zone in zones if zone.spanned]
    if not candidates:
        raise refusal("no zone with frames", path, "a zone should have spanned frames and a start_pfn")

    def hits(zone: ZoneInfo) -> tuple[int, bool, int, int]:
        within = (stream.frame >= zone.start_pfn) & (stream.frame < zone.start_pfn + zone.spanned)
        rank = _KERNEL_ZONES.index(zone.name) if zone.name in _KERNEL_ZONES else -1
        return int(np.count_nonzero(within)), zone.managed > 0, rank, zone.managed

    return max(candidates, key=hits)


def _zone_end(zone: ZoneInfo, snapshots: list[_Snapshot], stream: ZoneStream, folder: Path) -> int:
    """Return the frame after the last of the zone (see the module's text)."""
    limit = zone.start_pfn + zone.spanned
    touched = [zone.start_pfn + zone.managed]
    blocks = [(seen.blocks.frames, seen.blocks.orders) for seen in snapshots]
    for frames, orders in (*blocks, (stream.frame, stream.order)):
        within = (frames >= zone.start_pfn) & (frames < limit)
        ends = frames[within] + (np.int64(1) << orders[within].astype(np.int64))
        touched.append(int(ends.max(initial=0)))
    touched += [seen.runs.evidence_end() for seen in snapshots if seen.runs is not None]
    largest = 1 << MAXIMUM_ORDER
    end = min(-(-max(touched) // largest) * largest, limit)
    if not 0 < end - zone.start_pfn <= ZONE_FRAMES:
        right = f"zones of 1 to {ZONE_FRAMES} frames can be read"
        raise refusal(f"zone {zone.label} of {end - zone.start_pfn} frames", folder, right)
    return end


def _zone_blocks(snapshot: _Snapshot, first: int, end: int, path: Path) -> BlockMap:
    """Return the blocks that touch a zone, refusing those that cross its border."""
    frames, orders = snapshot.blocks.frames, snapshot.blocks.orders
    touching = (frames < end) & (frames + (np.int64(1) << orders.astype(np.int64)) > first)
    blocks = BlockMap(frames[touching], orders[touching])
    check_blocks(blocks, first, end, f"{path}: block_pfn, rows of the zone")
    return blocks


def _select(stream: ZoneStream, rows: NDArray[np.bool_]) -> ZoneStream:
    return ZoneStream(
        time_us=stream.time_us[rows],
        operation=stream.operation[rows],
        order=stream.order[rows],
        migratetype=stream.migratetype[rows],
        cpu=stream.cpu[rows],
        frame=stream.frame[rows],
        extra=stream.extra[rows],
    )
