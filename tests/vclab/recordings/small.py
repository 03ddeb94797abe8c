"""The small synthetic recording, and what tests of recordings share."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from vclab import recordings
from vclab.errors import RecordingError
from vclab.recordings import BlockMap, Operation, Recording

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no recordings in {SHARED}")
quick = settings(max_examples=150, deadline=None, database=None)

ANON, LRU, SLAB, HEAD, TAIL, NOPAGE, PGTABLE, RESERVED = (1 << bit for bit in (12, 5, 7, 15, 16, 20, 26, 32))
OFFLINE, BUDDY = 1 << 23, 1 << 10

# A machine of 8192 frames: zone DMA has frames 1 to 1023, zone Normal spans 1024 to 17407 (4000 managed).
ZONES = {"DMA": (1, 1023, 1000), "Normal": (1024, 16384, 4000)}
TYPES = ("Unmovable", "Movable", "Reclaimable")


def zone_text(sizes: dict[str, tuple[int, int, int]]) -> str:
    return "".join(
        f"Node 0, zone {name:>8}\n  per-node stats\n      nr_anon 5\n  pages free     40\n"
        "        boost    0\n"
        f"        min      10\n        low      20\n        high     30\n        spanned  {spanned}\n"
        f"        present  {spanned}\n        managed  {managed}\n"
        f"  pagesets\n    cpu: 0\n              high:     7\n"
        f"  start_pfn:           {start}\n"
        for name, (start, spanned, managed) in sizes.items()
    )


def buddy_text(columns: int = 11) -> str:
    return "".join(
        f"Node 0, zone {name:>8} " + "".join(f"{3 * row + k % 11:>6} " for k in range(min(columns, 11)))
        + "     0 " * (columns - 11) + "\n"
        for row, name in enumerate(ZONES)
    )  # fmt: skip


def type_text(columns: int = 11) -> str:
    free = "".join(
        f"Node    0, zone {zone:>8}, type {name:>12} >100000 " + "     7 " * (min(columns, 11) - 1)
        + "     0 " * (columns - 11) + "\n"
        for zone in ZONES
        for name in TYPES
    )  # fmt: skip
    blocks = "".join(f"Node 0, zone {zone:>8} {row:>6} {row + 1:>6} {row + 2:>6}\n" for row, zone in enumerate(ZONES))
    heading = f"Free pages count per migrate type at order {' '.join(map(str, range(columns)))}\n"
    counts = f"Number of blocks type {' '.join(TYPES)}\n{blocks}"
    return f"Page block order: 9\nPages per block:  512\n\n{heading}{free}\n{counts}"


def integer(values: list[int] | int, dtype: str) -> np.ndarray:
    return np.array(values, dtype=dtype)


def snapshot_columns(blocks: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    runs = [(0, RESERVED), (16, 0), (1024, LRU), (1100, ANON | LRU), (1536, HEAD | ANON), (1537, TAIL | ANON)]
    runs += [
        (2048, BUDDY),
        (4096, SLAB | HEAD),
        (4097, SLAB | TAIL),
        (4100, SLAB),
        (4120, PGTABLE),
        (5200, 0),
    ]
    values = sorted({flags for _, flags in runs})
    return {
        "npfn": integer(8192, "<i8"),
        "block_pfn": integer([frame for frame, _ in blocks], "<i4"),
        "block_order": integer([order for _, order in blocks], "<i1"),
        "flag_values": integer(values, "<u8"),
        "flag_run_start": integer([start for start, _ in runs], "<i4"),
        "flag_run_code": integer([values.index(flags) for _, flags in runs], "<u2"),
    }


EVENTS = [  # time, op, order, migratetype, cpu, frame, extra
    (0, 3, 0, 1, 0, 2048, 1),
    (0, 3, 3, 0, 1, 2056, 0),
    (5, 5, 9, 0, 1, 2560, 10 | 1 << 4 | 1 << 8),
    (9, 4, 0, 1, 0, 2048, 0),
    (2_000_000, 1, 4, -1, 1, 4000, 0),
    (2_500_000, 4, 0, 2, 0, 512, 0),  # in zone DMA
]
BLOCKS_BEFORE = [(512, 1), (2048, 10), (3072, 9), (4125, 0)]
BLOCKS_AFTER = [
    (512, 1),
    (2048, 3),
    (2064, 4),
    (2080, 5),
    (2112, 6),
    (2176, 7),
    (2304, 8),
    (3072, 9),
    (4000, 4),
    (4125, 0),
]


def stream_columns(events: Sequence[tuple[int, ...]]) -> dict[str, np.ndarray]:
    kinds = {
        "t_us": "u4",
        "op": "u1",
        "order": "u1",
        "migratetype": "i1",
        "cpu": "u1",
        "pfn": "i4",
        "extra": "u2",
    }
    columns = zip(*events, strict=True) if events else [[]] * 7
    arrays = {name: integer(list(column), dtype) for (name, dtype), column in zip(kinds.items(), columns, strict=True)}
    return {"t0_ns": integer(123, "<i8"), **arrays}


PAGE_EVENTS = [  # the same, and how many rows of EVENTS came before
    (7, 0, 0, 1, 0, 2050, 0, 0),
    (8, 0, 0, 1, 1, 600, 0, 1),  # in zone DMA
    (9, 0, 2, 0, 0, -1, 0, 1),  # failed
    (9, 1, 0, -1, 0, 2050, 0, 2),
    (2_000_010, 1, 4, -1, 1, 4000, 0, 5),
    (2_500_010, 0, 4, 2, 1, 4000, 0, 6),
]
COMPACTION_EVENTS = [  # time, op, cpu, zone row, words
    (0, 12, 0, 0, (9, 2**64 - 1, 0, 0, 0, 0)),
    (1000, 6, 1, 3, (1024, 1100, 17000, 17408, 77 << 32 | 1, 0)),
    (2000, 8, 1, 3, (1024, 1536, 512, 2, 0, 0)),
    (3000, 9, 1, 3, (3072, 3584, 512, 8, 0, 0)),
    (3000, 10, 1, 3, (512, 520, 8, 8, 0, 0)),  # in zone DMA
    (4000, 11, 1, 4, (2, 1, 0, 0, 0, 0)),
    (5000, 7, 1, 6, (1024, 1100, 17000, 17408, 8 << 32 | 5 << 8 | 1, 0)),
]


def page_columns(events: Sequence[tuple[int, ...]], began_ns: int = 123) -> dict[str, np.ndarray]:
    columns = stream_columns([event[:7] for event in events])
    return {**columns, "t0_ns": integer(began_ns, "<i8"), "zone_row": integer([event[7] for event in events], "<i4")}


def compaction_columns(events: Sequence[tuple[int, int, int, int, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    kinds = {"t_ns": "<i8", "op": "u1", "cpu": "u1", "zone_row": "<i4", "w": "<u8"}
    return {name: np.array([event[at] for event in events], dtype) for at, (name, dtype) in enumerate(kinds.items())}


def write_npz(path: Path, columns: dict[str, np.ndarray], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as output:
        for name, column in columns.items():
            with output.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, column)


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pre_zoneinfo.txt").write_text(zone_text(ZONES))
    (folder / "pre_pagetypeinfo.txt").write_text(type_text())
    for name in ("pre_buddyinfo", "post_buddyinfo", "post_buddyinfo_before"):
        (folder / f"{name}.txt").write_text(buddy_text())
    write_npz(folder / "pre_snapshot.npz", snapshot_columns(BLOCKS_BEFORE), zipfile.ZIP_LZMA)
    write_npz(folder / "post_snapshot.npz", snapshot_columns(BLOCKS_AFTER), zipfile.ZIP_LZMA)
    write_npz(folder / "zone_stream.npz", stream_columns(EVENTS), zipfile.ZIP_LZMA)
    write_npz(folder / "api_head.npz", page_columns(PAGE_EVENTS), zipfile.ZIP_LZMA)
    write_npz(folder / "aux_events.npz", compaction_columns(COMPACTION_EVENTS), zipfile.ZIP_LZMA)
    return folder


def differing(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the fields in which two recordings differ; dtypes and shapes count."""
    if is_dataclass(one) and type(one) is type(other):
        parts = [field.name for field in fields(one) if field.name not in ("name", "path") or name]
        return [found for part in parts for found in differing(getattr(one, part), getattr(other, part), part)]
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
        return [] if same else [name]
    return [] if type(one) is type(other) and one == other else [name]


def block_counts(blocks: BlockMap) -> list[int]:
    counts: list[int] = np.bincount(blocks.orders, minlength=11).tolist()
    return counts


def sizes(blocks: BlockMap) -> np.ndarray:
    return np.int64(1) << blocks.orders.astype(np.int64)


def free_mask(recording: Recording, blocks: BlockMap) -> np.ndarray:
    steps = np.zeros(recording.frames + 1, dtype=np.int64)
    np.add.at(steps, blocks.frames - recording.first_frame, 1)
    np.add.at(steps, blocks.frames + sizes(blocks) - recording.first_frame, -1)
    mask: np.ndarray = np.cumsum(steps)[:-1] == 1
    return mask


def assert_tiles(recording: Recording) -> None:
    both = np.concatenate((recording.free_before.frames, recording.allocated.frames))
    lengths = np.concatenate((sizes(recording.free_before), sizes(recording.allocated)))
    order = np.argsort(both)
    edges = np.append(both[order], recording.first_frame + recording.frames)
    assert edges[0] == recording.first_frame
    assert (np.diff(edges) == lengths[order]).all()


def replayed(recording: Recording) -> tuple[np.ndarray, int, int]:
    """Free frames after the stream, how many removals met a frame not free, how many frees one that was."""
    stream = recording.stream
    count = np.int64(1) << stream.order.astype(np.int64)
    event = np.repeat(np.arange(count.size), count)
    frame = np.arange(event.size) - np.repeat(np.cumsum(count) - count, count) + stream.frame[event]
    frame -= recording.first_frame
    frees = np.isin(stream.operation, (Operation.FREE, Operation.DRAIN))[event]
    order = np.argsort(frame, kind="stable")
    event, frame, frees = event[order], frame[order], frees[order]
    free = free_mask(recording, recording.free_before)
    first_touch = np.diff(frame, prepend=-1) != 0
    free_then = np.where(first_touch, free[frame], np.roll(frees, 1))
    last_touch = np.diff(frame, append=-1) != 0
    free[frame[last_touch]] = frees[last_touch]
    return free, len(set(event[~frees & ~free_then])), len(set(event[frees & free_then]))


def refused(path: Path, pattern: str = "") -> str:
    """Assert that loading is refused in one line of WHAT, WHERE and what would be right; return the line."""
    with pytest.raises(RecordingError) as caught:
        recordings.load(path)
    line = str(caught.value)
    assert line.isprintable() and str(path) in line and line.count(", ") >= 2, line
    assert re.search(pattern, line), line
    return line


NEEDED = ["pre_zoneinfo.txt", "pre_pagetypeinfo.txt", "pre_buddyinfo.txt", "post_buddyinfo.txt"]
NEEDED += ["pre_snapshot.npz", "zone_stream.npz"]


def compact_columns(folder: Path) -> dict[str, np.ndarray]:
    recordings.save(recordings.load(folder), folder.parent / "whole.npz")
    with np.load(folder.parent / "whole.npz", allow_pickle=False) as stored:
        return dict(stored)
