"""Recordings: both layouts say the same, the events explain the maps, and no file can do harm."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vclab import recordings
from vclab.errors import OutputError, RecordingError
from vclab.recordings import BlockMap, FrameKind, Operation, Recording, archive, pack
from vclab.recordings.occupancy import FlagRuns, allocated_blocks, frame_kinds
from vclab.recordings.procfiles import read_buddyinfo, read_pagetypeinfo, read_zoneinfo

ROOT = Path(__file__).parents[2]
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
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "small")


@pytest.fixture(scope="module")
def shipped() -> Recording:
    return recordings.load("compile")


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


# --- the shipped recording --------------------------------------------------------------------------------


def test_shipped_names_have_files_and_one_line_descriptions() -> None:
    files = {path.stem for path in (Path(recordings.__file__).parent / "data").glob("*.npz")}
    assert recordings.names() == ["compile"] == sorted(files)
    assert "\n" not in recordings.describe("compile") and "compile" in recordings.describe("compile")
    with pytest.raises(RecordingError, match=r"no recording 'nope', .*, there is compile"):
        recordings.describe("nope")


def test_shipped_recording_is_zone_normal_of_the_machine(shipped: Recording) -> None:
    assert (shipped.zone_name, shipped.first_frame, shipped.frames) == ("Normal", 1048576, 3964928)
    assert shipped.zone.managed == 3964928 and shipped.zone.spanned == 5505024
    assert shipped.zone.watermarks == {"boost": 0, "min": 14128, "low": 18092, "high": 22056, "promo": 26020}
    assert shipped.name == "compile" and re.fullmatch(r"[0-9a-f]{64}", shipped.digest)
    assert shipped.stream.frame.size == 2_131_844 and shipped.events_elsewhere == 0
    assert 52 < shipped.duration < 54
    assert shipped.pageblock_types == {
        "Unmovable": 559, "Movable": 6978, "Reclaimable": 207, "HighAtomic": 0, "Isolate": 0,
    }  # fmt: skip
    assert shipped.zone_names == ("DMA", "DMA32", "Normal") and not shipped.free_by_type_capped.any()
    assert shipped.free_by_type[1].tolist() == [8434, 9839, 15324, 12609, 395, 4258, 3652, 1964, 574, 0, 22]


def test_shipped_columns_have_the_documented_types(shipped: Recording) -> None:
    expected = {"time_us": "u4", "operation": "u1", "order": "u1", "migratetype": "i1", "cpu": "u1",
                "frame": "i8", "extra": "u2"}  # fmt: skip
    for name, dtype in expected.items():
        column = getattr(shipped.stream, name)
        assert column.dtype == np.dtype(dtype) and column.flags.c_contiguous and column.flags.writeable, name
    assert shipped.free_after is not None
    for blocks in (shipped.free_before, shipped.free_after, shipped.allocated):
        assert blocks.frames.dtype == np.int64 and blocks.orders.dtype == np.int8
        assert blocks.frames.flags.writeable and blocks.orders.flags.writeable
    assert shipped.allocated.kinds.dtype == np.uint8
    assert shipped.buddyinfo_before.shape == shipped.buddyinfo_after.shape == (3, 11)
    assert shipped.free_by_type.dtype == np.int64 and shipped.free_by_type.shape == (5, 11)


def test_shipped_events_turn_the_map_before_into_the_map_after(shipped: Recording) -> None:
    free, already_taken, already_free = replayed(shipped)
    assert shipped.free_after is not None
    assert (free == free_mask(shipped, shipped.free_after)).all()
    assert int(free.sum()) == 776_970
    assert (already_taken, already_free) == (353, 0)


def test_shipped_map_after_has_the_block_counts_that_the_kernel_gave(shipped: Recording) -> None:
    assert shipped.free_after is not None and shipped.buddyinfo_end is not None
    normal = shipped.zone_names.index("Normal")
    assert block_counts(shipped.free_after) == shipped.buddyinfo_end[normal].tolist()
    # Before, two pages went between the flags and buddyinfo.
    assert np.abs(np.array(block_counts(shipped.free_before)) - shipped.buddyinfo_before[normal]).sum() == 2


def test_shipped_allocated_blocks_agree_with_the_kernels_own_sums(shipped: Recording) -> None:
    assert_tiles(shipped)
    allocated = shipped.allocated
    frames = np.bincount(allocated.kinds, weights=sizes(allocated), minlength=6).astype(int)
    # zoneinfo of the same moment, flags being read over 1.2 s.
    assert frames[FrameKind.FILE] == pytest.approx(1_490_154, rel=1e-5)
    assert frames[FrameKind.ANONYMOUS] == pytest.approx(1_071_319 + 2_238, rel=1e-3)
    assert frames[FrameKind.SLAB] == pytest.approx(105_006 + 14_992, rel=0.02)
    assert frames[FrameKind.PAGE_TABLE] == pytest.approx(2_494, rel=0.01)
    huge = allocated.orders == 9
    assert int((huge & (allocated.kinds == FrameKind.ANONYMOUS)).sum()) == 2048  # nr_anon_transparent_hugepages
    assert int((huge & (allocated.kinds == FrameKind.FILE)).sum()) == 426  # nr_file_hugepages


@needs_data
def test_shipped_recording_equals_its_folder_field_by_field(shipped: Recording) -> None:
    original = recordings.load(SHARED / "linux-6.18-compile")
    assert differing(original, shipped) == []
    assert original.digest == shipped.digest
    assert original.name == "linux-6.18-compile"


@needs_data
def test_fragmented_folder_keeps_to_the_zone_of_its_stream() -> None:
    recording = recordings.load(str(SHARED / "linux-6.18-fragmented"))
    assert (recording.zone_name, recording.first_frame, recording.frames) == ("Normal", 1048576, 5505024)
    assert recording.stream.frame.size + recording.events_elsewhere == 1_195_038
    assert recording.events_elsewhere == 4531  # in DMA32
    assert recording.stream.frame.min() >= recording.first_frame
    assert_tiles(recording)
    normal = recording.zone_names.index("Normal")
    assert recording.free_after is not None and recording.buddyinfo_start is not None
    assert block_counts(recording.free_before) == recording.buddyinfo_start[normal].tolist()
    assert block_counts(recording.free_after) == recording.buddyinfo_after[normal].tolist()
    movable = recording.type_names.index("Movable")
    assert recording.free_by_type_capped[movable].tolist() == [1, 1] + [0] * 9
    assert recording.free_by_type_capped.sum() == 2


# --- a small one, both layouts ----------------------------------------------------------------------------


def test_small_folder_is_read_as_written(folder: Path) -> None:
    recording = recordings.load(folder)
    # Managed frames need 1024 + 4000 = 5024, flags tell up to 5200, that is rounded up to 6144.
    assert (recording.name, recording.first_frame, recording.frames) == ("small", 1024, 5120)
    assert recording.events_elsewhere == 1 and recording.duration == 2.0
    assert recording.stream.frame.tolist() == [2048, 2056, 2560, 2048, 4000]
    assert recording.stream.migratetype.tolist() == [1, 0, 0, 1, -1]
    assert list(zip(recording.free_before.frames, recording.free_before.orders, strict=True)) == BLOCKS_BEFORE[1:]
    assert recording.pageblock_types == {"Unmovable": 1, "Movable": 2, "Reclaimable": 3}
    assert recording.free_by_type[2].tolist() == [100_000] + [7] * 10
    assert recording.free_by_type_capped.tolist() == [[1] + [0] * 10] * 3
    assert recording.buddyinfo_after[1].tolist() == list(range(3, 14))
    assert recording.buddyinfo_start is None and recording.buddyinfo_end is not None
    assert_tiles(recording)
    free, already_taken, already_free = replayed(recording)
    assert recording.free_after is not None
    assert (free == free_mask(recording, recording.free_after)).all() and (already_taken, already_free) == (
        0,
        0,
    )
    allocated = recording.allocated
    compound = {
        (int(f), int(o)): int(k)
        for f, o, k in zip(allocated.frames, allocated.orders, allocated.kinds, strict=True)
        if o
    }
    assert compound == {(1536, 9): FrameKind.ANONYMOUS, (4096, 2): FrameKind.SLAB}
    kind_of = dict(zip(allocated.frames.tolist(), allocated.kinds.tolist(), strict=True))
    kinds = [kind_of[frame] for frame in (1024, 1100, 3072 + 512, 4100, 4120, 6143)]
    assert kinds == [
        FrameKind.FILE,
        FrameKind.ANONYMOUS,
        FrameKind.OTHER,
        FrameKind.SLAB,
        FrameKind.PAGE_TABLE,
        0,
    ]


def test_compact_file_holds_everything_and_repeats_its_bytes(folder: Path, tmp_path: Path) -> None:
    recording = recordings.load(folder)
    recordings.save(recording, tmp_path / "one.npz")
    again = recordings.load(str(tmp_path / "one.npz"))
    assert differing(recording, again) == [] and again.digest == recording.digest
    assert (again.name, again.path) == ("one", tmp_path / "one.npz")
    recordings.save(again, tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["one.npz", "small", "two.npz"]


def test_optional_parts_may_be_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "post_snapshot.npz").unlink()
    (folder / "post_buddyinfo_before.txt").unlink()
    columns = snapshot_columns(BLOCKS_BEFORE)
    write_npz(folder / "pre_snapshot.npz", {name: columns[name] for name in ("npfn", "block_pfn", "block_order")})
    write_npz(folder / "zone_stream.npz", stream_columns([]))
    recording = recordings.load(folder)
    assert recording.free_after is None and recording.buddyinfo_end is None and recording.duration == 0.0
    assert recording.frames == 4096  # without flags, managed frames decide
    assert set(recording.allocated.kinds) == {FrameKind.OTHER} and not recording.allocated.orders.any()
    assert_tiles(recording)
    recordings.save(recording, tmp_path / "bare.npz")
    assert differing(recording, recordings.load(tmp_path / "bare.npz")) == []


def test_digest_changes_with_any_content(folder: Path) -> None:
    recording = recordings.load(folder)
    changes: list[dict[str, Any]] = [
        {"stream": replace(recording.stream, cpu=recording.stream.cpu + np.uint8(1))},
        {"free_after": None},
        {"allocated": replace(recording.allocated, kinds=recording.allocated.kinds ^ np.uint8(1))},
        {"zone": replace(recording.zone, managed=3999)},
        {"type_names": (*recording.type_names[:-1], "Other")},
        {"free_by_type": recording.free_by_type + 1},
    ]
    digests = {replace(recording, **change).digest for change in changes} | {recording.digest}
    assert len(digests) == 1 + len(changes)
    assert replace(recording, name="x", path=Path("y")).digest == recording.digest


def test_save_replaces_whole_or_not_at_all(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = recordings.load(folder)
    out = tmp_path / "out.npz"
    out.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\), .*out\.npz, "):
            recordings.save(recording, out)
    assert out.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["out.npz", "small"]
    with pytest.raises(OutputError, match="nowhere"):
        recordings.save(recording, tmp_path / "nowhere" / "out.npz")
    recordings.save(recording, out)
    assert recordings.load(out).digest == recording.digest


def test_pack_writes_a_compact_file_or_says_why_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack.main([str(folder), str(tmp_path / "packed.npz")]) == 0
    assert recordings.load(tmp_path / "packed.npz").digest in capsys.readouterr().out
    assert pack.main([str(tmp_path / "absent"), str(tmp_path / "x.npz")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vclab: error: no such recording, ") and error.count("\n") == 1
    assert not (tmp_path / "x.npz").exists()


def test_recordings_import_no_compiler() -> None:
    code = "import sys, vclab.recordings; print([m for m in ('numba', 'vckernels') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- what fills the zone ----------------------------------------------------------------------------------


def slow_allocated(first: int, end: int, free: set[int], flags: list[int]) -> list[tuple[int, int, int]]:
    """The same as `allocated_blocks`, frame by frame."""
    kinds = frame_kinds(np.array(flags, dtype=np.uint64)).tolist()
    result, frame = [], first
    while frame < end:
        if frame in free:
            frame += 1
            continue
        after = frame + 1
        if flags[frame] & HEAD:
            while after < end and after not in free and flags[after] & TAIL and not flags[after] & HEAD:
                after += 1
        kind = kinds[frame]
        while frame < after:
            order = max(o for o in range(11) if frame % (1 << o) == 0 and frame + (1 << o) <= after)
            result.append((frame, order, kind))
            frame += 1 << order
    return result


WORDS = [
    0,
    LRU,
    LRU | ANON,
    HEAD,
    TAIL,
    HEAD | LRU | ANON,
    TAIL | LRU | ANON,
    SLAB | HEAD,
    SLAB | TAIL,
    RESERVED,
    BUDDY,
]


@quick
@given(
    runs=st.lists(
        st.tuples(st.sampled_from(WORDS), st.sampled_from([1, 1, 2, 3, 7, 64, 511, 1500])),
        min_size=1,
        max_size=40,
    ),
    frees=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 10)), max_size=6),
    first=st.integers(0, 2000),
    beyond=st.integers(0, 30),
)
def test_runs_become_the_same_blocks_as_frame_by_frame(
    runs: list[tuple[int, int]], frees: list[tuple[int, int]], first: int, beyond: int
) -> None:
    merged = [run for k, run in enumerate(runs) if k == 0 or run[0] != runs[k - 1][0]]
    flags = [word for word, length in merged for _ in range(length)]
    npfn = len(flags)
    first = first % npfn
    end = npfn + beyond
    blocks: list[tuple[int, int]] = []
    for wish, order in sorted(frees):
        start = wish >> order << order
        if start >= first and start + (1 << order) <= end and (not blocks or start >= sum_end(blocks[-1])):
            blocks.append((start, order))
    free = BlockMap(integer([b for b, _ in blocks], "i8"), integer([o for _, o in blocks], "i1"))
    starts = np.cumsum([0] + [length for _, length in merged[:-1]])
    coded = FlagRuns(starts, np.array([word for word, _ in merged], dtype=np.uint64), npfn)
    found = allocated_blocks(first, end, free, coded, npfn)
    free_frames = {frame for start, order in blocks for frame in range(start, start + (1 << order))}
    expected = slow_allocated(first, end, free_frames, flags + [RESERVED] * beyond)
    assert list(zip(found.frames.tolist(), found.orders.tolist(), found.kinds.tolist(), strict=True)) == expected


def sum_end(block: tuple[int, int]) -> int:
    return block[0] + (1 << block[1])


def test_giant_compound_pages_are_cut_at_order_ten_without_a_row_per_frame() -> None:
    frames = 1 << 24
    coded = FlagRuns(integer([0, 1], "i8"), integer([HEAD, TAIL], "u8"), frames)
    none = BlockMap(integer([], "i8"), integer([], "i1"))
    tracemalloc.start()
    found = allocated_blocks(0, frames, none, coded, frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.orders == 10).all() and found.frames.tolist() == list(range(0, frames, 1024))
    assert peak < 16_000_000


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (0, FrameKind.OTHER),
        (1 << 15 | 1 << 16 | 1 << 22, FrameKind.OTHER),
        (LRU, FrameKind.FILE),
        (LRU | ANON, FrameKind.ANONYMOUS),
        (ANON, FrameKind.ANONYMOUS),
        (SLAB | ANON | 1 << 21, FrameKind.SLAB),
        (PGTABLE | 1 << 11, FrameKind.PAGE_TABLE),
        (RESERVED | LRU, FrameKind.RESERVED),
        (NOPAGE, FrameKind.RESERVED),
        (OFFLINE, FrameKind.RESERVED),
    ],
)
def test_flags_name_the_kind(word: int, kind: FrameKind) -> None:
    assert frame_kinds(np.array([word], dtype=np.uint64)).tolist() == [kind]


# --- the kernel's text files ------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [10, 11, 12, 13])
def test_tables_by_order_may_have_ten_to_thirteen_columns(columns: int, folder: Path) -> None:
    for name in ("pre_buddyinfo", "post_buddyinfo", "post_buddyinfo_before"):
        (folder / f"{name}.txt").write_text(buddy_text(columns))
    (folder / "pre_pagetypeinfo.txt").write_text(type_text(columns))
    assert read_buddyinfo(folder / "pre_buddyinfo.txt").counts.shape == (2, columns)
    table = read_pagetypeinfo(folder / "pre_pagetypeinfo.txt")
    assert table.counts.shape == table.capped.shape == (2, 3, columns) and table.pageblocks.shape == (2, 3)
    recording = recordings.load(folder)
    assert recording.buddyinfo_before.shape == (2, 11)
    assert recording.buddyinfo_before[0].tolist() == [*range(min(columns, 11)), *[0] * (11 - columns)]


@pytest.mark.parametrize("columns", [9, 14])
def test_other_column_counts_are_refused(columns: int, folder: Path) -> None:
    (folder / "pre_buddyinfo.txt").write_text(buddy_text(columns))
    refused(folder, rf"{columns} counts by order, .*pre_buddyinfo\.txt line 1, every line has .* 10 to 13")


def test_blocks_above_order_ten_are_refused(folder: Path) -> None:
    text = buddy_text(12).replace("     0 \n", "     1 \n")
    (folder / "post_buddyinfo.txt").write_text(text)
    refused(folder, r"blocks above order 10, .*post_buddyinfo\.txt, recordings hold orders 0 to 10")


def test_zones_of_several_nodes_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "b").write_text(buddy_text() + buddy_text().replace("Node 0", "Node 1"))
    (tmp_path / "z").write_text(zone_text(ZONES) + zone_text(ZONES).replace("Node 0", "Node 1"))
    mixed = "\nNumber of mixed blocks Unmovable Movable Reclaimable\nNode 0, zone Normal 0 1 2\n"
    second = type_text().split("\n\n", 1)[1].replace("Node 0", "Node 1").replace("Node    0", "Node    1")
    (tmp_path / "t").write_text(type_text() + mixed + second)
    expected = ("DMA", "Normal", "DMA (node 1)", "Normal (node 1)")
    assert read_buddyinfo(tmp_path / "b").zone_names == expected
    assert tuple(zone.label for zone in read_zoneinfo(tmp_path / "z")) == expected
    table = read_pagetypeinfo(tmp_path / "t")
    assert table.zone_names == expected and table.pageblocks.tolist() == [[0, 1, 2], [1, 2, 3]] * 2


@needs_data
def test_kernel_files_of_the_maps_are_read() -> None:
    for path in sorted((SHARED / "linux-6.18-maps").glob("*_zoneinfo.txt")):
        zones = read_zoneinfo(path)
        assert [zone.name for zone in zones] == ["DMA", "DMA32", "Normal", "Movable", "Device"]
        assert zones[2].start_pfn == 1048576 and zones[3].spanned == 0
        table = read_pagetypeinfo(path.with_name(path.name.replace("zoneinfo", "pagetypeinfo")))
        assert table.capped.any() and (table.counts[table.capped == 1] == 100_000).all()
        free = read_buddyinfo(path.with_name(path.name.replace("zoneinfo", "buddyinfo")))
        assert free.counts.shape == (3, 11) and free.zone_names == table.zone_names


# --- refusals ---------------------------------------------------------------------------------------------


def refused(path: Path, pattern: str = "") -> str:
    """Assert that loading is refused in one line of WHAT, WHERE and what would be right; return the line."""
    with pytest.raises(RecordingError) as caught:
        recordings.load(path)
    line = str(caught.value)
    assert line.isprintable() and str(path) in line and line.count(", ") >= 2, line
    assert re.search(pattern, line), line
    return line


def harmless(path: Path) -> None:
    """Load something damaged: a recording or a RecordingError in one line are both right, all else is not."""
    try:
        recording = recordings.load(path)
    except RecordingError as error:
        assert str(error).isprintable() and str(path) in str(error)
    else:
        assert_tiles(recording)


def changed(folder: Path, file: str, **columns: np.ndarray | None) -> None:
    """Write an archive of the small recording with some columns changed, or left out."""
    blocks = {"pre_snapshot.npz": BLOCKS_BEFORE, "post_snapshot.npz": BLOCKS_AFTER}
    whole = snapshot_columns(blocks[file]) if file in blocks else stream_columns(EVENTS)
    write_npz(folder / file, {name: column for name, column in {**whole, **columns}.items() if column is not None})


def with_event(row: int, **values: int) -> dict[str, np.ndarray]:
    columns = stream_columns(EVENTS)
    for name, value in values.items():
        columns[name] = columns[name].astype("i8")
        columns[name][row] = value
    return columns


@pytest.mark.parametrize(
    ("file", "columns", "pattern"),
    [
        ("pre_snapshot.npz", {"npfn": None}, r"no such member, .*pre_snapshot\.npz: npfn, "),
        ("pre_snapshot.npz", {"npfn": integer(0, "i8")}, r"npfn 0, "),
        ("pre_snapshot.npz", {"npfn": integer(1 << 41, "i8")}, r"npfn 2199023255552, "),
        ("pre_snapshot.npz", {"npfn": integer([1, 2], "i8")}, r"2 elements, .*: npfn, it should be a"),
        ("pre_snapshot.npz", {"npfn": integer(4000, "i8")}, r"block frame 4125 in row 3, .* 0 to 3999"),
        ("pre_snapshot.npz", {"block_pfn": integer(5, "i4")}, r"a single number, .*: block_pfn, "),
        ("pre_snapshot.npz", {"block_pfn": integer([512, 2048, -3072, 4125], "i4")}, "frame -3072 in row 2"),
        ("pre_snapshot.npz", {"block_pfn": integer([512, 2049, 3072, 4125], "i4")}, "frame 2049 .* aligned"),
        ("pre_snapshot.npz", {"block_pfn": integer([512, 3072, 2048, 4125], "i4")}, "frame 2048 .* overlap"),
        ("pre_snapshot.npz", {"block_pfn": integer([512, 2048, 2560, 4125], "i4")}, "frame 2560 .* overlap"),
        ("pre_snapshot.npz", {"block_pfn": integer([512, 2048, 3072, 1 << 62], "i8")}, "within frames 0 to"),
        ("pre_snapshot.npz", {"block_pfn": integer([512, 2048, 3072, 1 << 63], "u8")}, "should lie between"),
        ("pre_snapshot.npz", {"block_order": integer([1, 11, 9, 0], "i1")}, "order 11 in row 1, .* 0 to 10"),
        ("pre_snapshot.npz", {"block_order": integer([1, -1, 9, 0], "i1")}, "block order -1 in row 1"),
        ("pre_snapshot.npz", {"block_order": integer([1, 300, 9, 0], "i4")}, "block_order, they should lie"),
        ("pre_snapshot.npz", {"block_order": integer([1, 10, 9], "i1")}, "3 elements, .*block_order, .* 4"),
        ("pre_snapshot.npz", {"flag_values": None}, r"no such member, .*: flag_values"),
        ("pre_snapshot.npz", {"flag_values": integer([], "u8")}, r"an unknown code, .*: flag_run_code"),
        ("pre_snapshot.npz", {"flag_values": np.zeros(9)}, r"header .*'<f8'.*: flag_values, plain integers"),
        ("pre_snapshot.npz", {"flag_values": np.zeros((3, 3), "u8")}, r"header .*\(3, 3\).*: flag_values"),
        ("pre_snapshot.npz", {"flag_values": np.array(["a"])}, r": flag_values, plain integers"),
        ("pre_snapshot.npz", {"flag_values": np.zeros(9, "i4,i4")}, r": flag_values, plain integers"),
        ("pre_snapshot.npz", {"flag_values": np.array([None, {}])}, r"header .*'\|O'.*: flag_values"),
        ("pre_snapshot.npz", {"flag_run_start": integer([*range(1, 13)], "i4")}, "place, .*flag_run_start"),
        ("pre_snapshot.npz", {"flag_run_start": integer([0, 2**63 - 1, *range(-20, -10)], "i8")}, "place"),
        ("pre_snapshot.npz", {"flag_run_start": integer([0] * 12, "i4")}, "out of place, .*flag_run_start"),
        ("pre_snapshot.npz", {"flag_run_start": integer([*range(11), 8192], "i4")}, "runs out of place"),
        ("pre_snapshot.npz", {"flag_run_start": integer([], "i4")}, "12 elements, .*flag_run_code"),
        ("pre_snapshot.npz", {"flag_run_code": integer([-1] * 12, "i2")}, "an unknown code, .*flag_run_code"),
        ("pre_snapshot.npz", {"flag_run_code": integer([200] * 12, "u1")}, "code, .*flag_run_code"),
        ("post_snapshot.npz", {"block_pfn": None}, r"no such member, .*post_snapshot\.npz: block_pfn"),
        ("zone_stream.npz", {"cpu": None}, r"no such member, .*zone_stream\.npz: cpu"),
        ("zone_stream.npz", {"extra": integer([0], "u2")}, r"1 elements, .*: extra, it should have 6"),
        ("zone_stream.npz", with_event(1, op=2), r"op 2 in row 1, .*zone_stream\.npz, .* 1, 3, 4 and 5"),
        ("zone_stream.npz", with_event(1, op=0), r"op 0 in row 1, "),
        ("zone_stream.npz", with_event(1, op=6), r"op 6 in row 1, "),
        ("zone_stream.npz", with_event(1, op=-1), r"values from -1 to 5, .*: op, "),
        ("zone_stream.npz", with_event(2, order=11), r"order 11 in row 2, "),
        ("zone_stream.npz", with_event(2, pfn=-512), r"pfn -512 in row 2, "),
        ("zone_stream.npz", with_event(2, pfn=8192), r"pfn 8192 in row 2, .* 0 to 8191"),
        ("zone_stream.npz", with_event(2, pfn=2561), r"pfn 2561 in row 2, .* aligned"),
        ("zone_stream.npz", with_event(4, pfn=17408 - 8), r"pfn 17400 in row 4, "),
        ("zone_stream.npz", with_event(0, migratetype=-1), r"migratetype -1 in row 0, "),
        ("zone_stream.npz", with_event(4, migratetype=6), r"migratetype 6 in row 4, "),
        ("zone_stream.npz", with_event(0, extra=2), r"extra 2 in row 0, "),
        ("zone_stream.npz", with_event(3, extra=1), r"extra 1 in row 3, "),
        ("zone_stream.npz", with_event(2, extra=11), r"extra 11 in row 2, "),
        ("zone_stream.npz", with_event(2, extra=10 | 6 << 4), r"extra 106 in row 2, "),
        ("zone_stream.npz", with_event(2, extra=2 << 8), r"extra 512 in row 2, "),
        ("zone_stream.npz", with_event(3, t_us=4), r"time 4 in row 3, .* does not fall"),
        ("zone_stream.npz", with_event(3, t_us=1 << 32), r"t_us, they should lie between 0 and 4294967295"),
    ],
)  # fmt: skip
def test_impossible_columns_are_refused(
    file: str, columns: dict[str, np.ndarray | None], pattern: str, folder: Path
) -> None:
    changed(folder, file, **columns)
    assert file in refused(folder, pattern)


@pytest.mark.parametrize(
    ("file", "old", "new", "pattern"),
    [
        (
            "pre_zoneinfo.txt",
            "managed  4000",
            "managed  4e3",
            r"'4e3', .*pre_zoneinfo\.txt line \d+, a count",
        ),
        ("pre_zoneinfo.txt", "managed  4000", f"managed  {'9' * 5000}", r"'9{40}', .*pre_zoneinfo\.txt line"),
        ("pre_zoneinfo.txt", "managed  4000", "managed  -4", r"'-4', "),
        ("pre_zoneinfo.txt", "        low      20\n", "", r"zone DMA lacks low, .*pre_zoneinfo\.txt, "),
        ("pre_zoneinfo.txt", "  start_pfn:           1024\n", "", r"zone Normal lacks start_pfn, "),
        ("pre_zoneinfo.txt", "Node 0, zone", "", r"spanned before any zone|no zone|before any zone"),
        (
            "pre_buddyinfo.txt",
            "Node 0, zone      DMA",
            "Node 0, zone      Nix",
            r"zones DMA, Normal, .*post_buddyinfo",
        ),
        ("pre_buddyinfo.txt", "Node 0, zone      DMA", "Node 0, zone   Normal", r"zone Normal again, "),
        (
            "pre_buddyinfo.txt",
            "     1 ",
            "     x ",
            r"'x', .*pre_buddyinfo\.txt line 1, a count of at most 15",
        ),
        ("pre_buddyinfo.txt", "     1 ", "  \u0663 ", r"pre_buddyinfo\.txt line 1"),
        ("pre_pagetypeinfo.txt", "     7 ", "    >> ", r"'>>', .*pre_pagetypeinfo\.txt line 5"),
        (
            "pre_pagetypeinfo.txt",
            "Number of blocks type",
            "Count",
            r"'Count Unmovable.*pre_pagetypeinfo\.txt line",
        ),
        (
            "pre_pagetypeinfo.txt",
            ", type    Unmovable",
            ", type       Other",
            r"zone DMA lacks rows or columns",
        ),
        (
            "pre_pagetypeinfo.txt",
            "Node 0, zone   Normal      1",
            "Node 0, zone   Normal ",
            r"zone Normal lacks rows",
        ),
        ("pre_pagetypeinfo.txt", "Normal", "Nix", r"no zone Normal, .*, pre_pagetypeinfo\.txt"),
    ],
)
def test_garbage_in_text_files_is_refused(file: str, old: str, new: str, pattern: str, folder: Path) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    refused(folder, pattern)


def test_zones_larger_than_the_machine_are_cut_to_the_evidence(folder: Path) -> None:
    (folder / "pre_zoneinfo.txt").write_text(zone_text({**ZONES, "Normal": (1024, 1 << 40, 4000)}))
    recording = recordings.load(folder)
    assert recording.frames == 5120 and recording.zone.spanned == 1 << 40
    (folder / "pre_zoneinfo.txt").write_text(zone_text({**ZONES, "Normal": (1024, 16384, 1 << 40)}))
    recording = recordings.load(folder)
    assert recording.frames == 16384  # as many as the span has; what lies beyond the last frame is RESERVED
    assert_tiles(recording)
    beyond = recording.allocated.frames >= 8192
    assert beyond.sum() == 1024 + 16384 - 8192
    assert (recording.allocated.kinds[beyond] == FrameKind.RESERVED).all()


def test_a_zone_too_large_to_expand_is_refused(folder: Path) -> None:
    text = zone_text({**ZONES, "Normal": (1024, 1 << 40, 1 << 39)})
    (folder / "pre_zoneinfo.txt").write_text(text)
    refused(folder, r"zone Normal of 549755813888 frames, .*, zones of 1 to 67108864 frames can be read")


def test_blocks_and_events_across_a_zones_border_are_refused(folder: Path) -> None:
    (folder / "pre_zoneinfo.txt").write_text(zone_text({"Normal": (2049, 1023, 900)}))
    refused(folder, r"block frame 2048 in row 0, .*pre_snapshot\.npz: block_pfn, rows of the zone, ")
    (folder / "pre_zoneinfo.txt").write_text(zone_text({"Normal": (1024, 1600, 900)}))
    refused(folder, r"pfn 2560 in row 2, .*zone_stream\.npz: events of zone Normal, ")


NEEDED = ["pre_zoneinfo.txt", "pre_pagetypeinfo.txt", "pre_buddyinfo.txt", "post_buddyinfo.txt"]
NEEDED += ["pre_snapshot.npz", "zone_stream.npz"]


@pytest.mark.parametrize("file", NEEDED)
@pytest.mark.parametrize("how", ["missing", "empty", "folder", "noise", "pipe"])
def test_files_that_are_none_are_refused(file: str, how: str, folder: Path) -> None:
    path = folder / file
    path.unlink()
    if how == "empty":
        path.touch()
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    assert file in refused(folder)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"no such file, .*pre_zoneinfo\.txt, a recording holds it")
    refused(tmp_path / "absent", r"no such recording, .*absent, name a folder, .* compile")
    (tmp_path / "text.npz").write_text("hello")
    refused(tmp_path / "text.npz", r"cannot be read \(File is not a zip file\)")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    refused(tmp_path / "other.npz", r"no such member, .*other\.npz: layout, the layout needs it")
    with pytest.raises(RecordingError):
        recordings.load("x" * 5000)
    with pytest.raises(RecordingError):
        recordings.load("nul\0byte")
    with pytest.raises(RecordingError) as caught:
        recordings.load("two\nlines")
    assert "\n" not in str(caught.value)


# --- the compact file's own refusals ----------------------------------------------------------------------


def compact_columns(folder: Path) -> dict[str, np.ndarray]:
    recordings.save(recordings.load(folder), folder.parent / "whole.npz")
    with np.load(folder.parent / "whole.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.mark.parametrize(
    ("name", "change", "pattern"),
    [
        ("layout", lambda c: c + 1, r"layout 2, .*: layout, this version reads 1"),
        ("first_frame", lambda c: c * 0 - 1024, r"5120 frames from -1024, "),
        ("frames", lambda c: c * 0 + (1 << 40), r"1099511627776 frames from 1024, "),
        (
            "frames",
            lambda c: c + 1024,
            r"runs over 5120 frames, .*: before_count, the runs fill the zone's 6144",
        ),
        ("before_code", lambda c: c | 128, r"an unknown code, .*: before_code, codes are 0 to 76"),
        ("before_code", lambda c: c[:-1], r"\d+ elements, .*: before_count"),
        ("before_code", lambda c: np.roll(c, 1), r"runs over \d+ frames|aligned"),
        ("before_count", lambda c: c * 0, r"runs over 0 frames, "),
        ("before_count", lambda c: np.full_like(c, 2**32 - 1), r"runs over 0 frames, "),
        ("after_frame", lambda c: c[::-1].copy(), r"block frame \d+ .*: after_frame, after_order"),
        ("after_order", lambda c: c + 11, r"block order \d+ in row 0, "),
        ("time_step_us", lambda c: np.full_like(c, 2**32 - 1), r": time_step_us, they should lie between"),
        ("frame_step", lambda c: c * 0 - 7, r"pfn 1017 in row 0, .* 1024 to 6143"),
        ("op", lambda c: c + 1, r"op 6 in row 2, "),
        ("events_elsewhere", lambda c: c - 2, r"-1, .*: events_elsewhere, a count is 0 or more"),
        ("zone_name", lambda c: c[1:], r"zone ormal, .*: zone_name, it should be DMA or Normal"),
        ("zone_names", lambda c: c | 128, r"cannot be read \(.*utf-8.*: zone_names"),
        ("zone_names", lambda c: c * 0 + 10, r"an empty or repeated name, .*: zone_names"),
        ("zone_names", lambda c: c[:0], r"an empty or repeated name, .*: zone_names"),
        ("zone_names", lambda c: np.zeros(70_000, "u1"), r"70000 bytes, .*: zone_names, at most 65536"),
        ("type_names", lambda c: c[:-12], r"3 elements, .*: pageblocks, it should have 2"),
        ("pageblocks", lambda c: c - 9, r"a negative number, .*: pageblocks"),
        ("zone_sizes", lambda c: -c, r"a negative number, .*: zone_sizes"),
        ("watermarks", lambda c: c[:3], r"3 elements, .*: watermarks, it should have 5"),
        ("free_by_type", lambda c: c[:-1], r"32 elements, .*: free_by_type, it should have 33"),
        ("free_by_type_capped", lambda c: c[:-1], r"32 elements, .*: free_by_type_capped"),
        ("buddyinfo_before", lambda c: -c, r"a negative number, .*: buddyinfo_before"),
        ("buddyinfo_end", lambda c: c[1:], r"21 elements, .*: buddyinfo_end"),
    ],
)
def test_impossible_compact_files_are_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray], pattern: str, folder: Path, tmp_path: Path
) -> None:
    columns = compact_columns(folder)
    with np.errstate(over="ignore"):
        columns[name] = np.asarray(change(columns[name]))
    write_npz(tmp_path / "changed.npz", columns)
    refused(tmp_path / "changed.npz", pattern)


def test_every_member_that_is_not_optional_is_needed(folder: Path, tmp_path: Path) -> None:
    columns = compact_columns(folder)
    optional = {"after_frame", "buddyinfo_end"}
    for name in columns:
        write_npz(tmp_path / "less.npz", {other: column for other, column in columns.items() if other != name})
        if name in optional:
            recordings.load(tmp_path / "less.npz")
        else:
            refused(tmp_path / "less.npz", rf"no such member, .*: {name}, ")


# --- hostile archives -------------------------------------------------------------------------------------


def npy(header: str, body: bytes, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin-1")
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + body


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "no npy array"),
        (b"\x93NUMPY\x03\x00", "no npy array"),
        (b"PK" * 40, "no npy array"),
        (npy("", b""), "an npy header ''"),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"1234567"),
            "declared size .* 8 bytes",
        ),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"123456789"),
            "declared size .* 8 bytes",
        ),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999,), }", b""),
            "99999999 elements, .* at most",
        ),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (49999999,), }", b""), "declared size of"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }", b""), "an npy header"),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999999999999999,), }", b""),
            "an npy header",
        ),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", b"12345678"), "plain integers"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", b"cos\nsystem\n"), "plain integers"),
        (npy("{'descr': '<i3', 'fortran_order': False, 'shape': (), }", b"123"), "plain integers"),
        (npy("[" * 3000, b""), "an npy header"),
        (npy("__import__('os').abort()", b""), "an npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "an npy header ''"),
        (b"\x93NUMPY\x01\x00\x10", "cannot be read"),
    ],
)
def test_hostile_headers_are_refused(content: bytes, pattern: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as output:
        output.writestr("layout.npy", content)
    refused(tmp_path / "bad.npz", pattern)


def test_other_integer_layouts_are_read(folder: Path, tmp_path: Path) -> None:
    columns = {name: column.astype(column.dtype.newbyteorder(">")) for name, column in compact_columns(folder).items()}
    with zipfile.ZipFile(tmp_path / "other.npz", "w", zipfile.ZIP_DEFLATED) as output:
        for name, column in columns.items():
            with output.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, column, version=(2, 0))
    assert recordings.load(tmp_path / "other.npz").digest == recordings.load(folder).digest


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_members_larger_than_declared_take_no_memory(method: int, tmp_path: Path) -> None:
    """A member of 128 MB that claims to hold the one number its header names."""
    path = tmp_path / "bomb.npz"
    head = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (), }", bytes(8))
    with zipfile.ZipFile(path, "w", method) as output:
        output.writestr("layout.npy", head + bytes(128_000_000))
    content = bytearray(path.read_bytes())
    declared = content.rindex(b"PK\x01\x02") + 24
    content[declared : declared + 4] = struct.pack("<I", len(head))
    path.write_bytes(content)
    tracemalloc.start()
    refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80_000_000  # one read of the densest LZMA is 30 MB, and zipfile holds it twice


def test_more_elements_than_an_archive_may_have_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_BYTES", 8 * 30)
    refused(folder, r"too large, .*pre_snapshot\.npz, an archive has at most 240 bytes")
    monkeypatch.setattr(archive, "ARCHIVE_BYTES", 8 * 5000)
    columns = {"layout": integer(1, "i8"), "first_frame": integer(1, "i8"), "frames": integer(9, "i8")}
    columns["before_code"] = np.zeros(5000, dtype="u1")
    write_npz(tmp_path / "many.npz", columns)
    refused(tmp_path / "many.npz", r"too many elements in all, .*: before_code, an archive has at most 5000")


def test_encrypted_and_unknown_compression_are_refused(folder: Path, tmp_path: Path) -> None:
    compact_columns(folder)
    whole = (tmp_path / "whole.npz").read_bytes()
    entry = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99), (10, 12)):
        content = bytearray(whole)
        content[entry + offset] = value
        (tmp_path / "odd.npz").write_bytes(content)
        refused(tmp_path / "odd.npz", r"cannot be read \(")


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A whole folder, a folder to damage, and a compact file of them."""
    place = tmp_path_factory.mktemp("victims")
    whole = write_folder(place / "whole")
    shutil.copytree(whole, place / "damaged")
    recordings.save(recordings.load(whole), place / "compact.npz")
    return whole, place / "damaged", place / "compact.npz"


FILES = [*NEEDED, "post_snapshot.npz", "post_buddyinfo_before.txt", "compact.npz"]


@quick
@given(file=st.sampled_from(FILES), data=st.data())
def test_damage_is_refused_or_does_no_harm(victims: tuple[Path, Path, Path], file: str, data: st.DataObject) -> None:
    whole, damaged, compact = victims
    original = (compact if file == "compact.npz" else whole / file).read_bytes()
    content = bytearray(original)
    kind = data.draw(st.sampled_from(["flip", "flip", "set", "cut", "insert", "tail"]))
    where = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "set":
        filling = data.draw(st.sampled_from([b"\x00", b"\xff", b"-", b"9"]))
        content[where : where + 8] = filling * len(content[where : where + 8])
    elif kind == "cut":
        del content[where:]
    elif kind == "insert":
        content[where:where] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        content += data.draw(st.binary(min_size=1, max_size=99))
    target = compact.with_name("damaged.npz") if file == "compact.npz" else damaged / file
    target.write_bytes(content)
    try:
        harmless(target if file == "compact.npz" else damaged)
    finally:
        target.write_bytes(original)


@quick
@given(data=st.data())
def test_hostile_columns_are_refused_or_do_no_harm(victims: tuple[Path, Path, Path], data: st.DataObject) -> None:
    """Columns of a compact file replaced by numbers that the format can hold, checksums being right."""
    with np.load(victims[2], allow_pickle=False) as stored:
        columns = dict(stored)
    for name in data.draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=2, unique=True)):
        column = columns[name].copy().reshape(-1)
        limits = np.iinfo(column.dtype)
        number = st.sampled_from([limits.min, limits.max, 0, 1]) | st.integers(limits.min, limits.max)
        for row in data.draw(st.lists(st.integers(0, column.size - 1), min_size=1, max_size=3)):
            column[row] = data.draw(number)
        columns[name] = column.reshape(columns[name].shape)
    target = victims[2].with_name("hostile.npz")
    write_npz(target, columns)
    harmless(target)
