"""Both layouts say the same, files are written whole, and reading them needs no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vclab.recordings.small import (
    BLOCKS_BEFORE,
    EVENTS,
    PAGE_EVENTS,
    ROOT,
    assert_tiles,
    differing,
    free_mask,
    refused,
    replayed,
    snapshot_columns,
    stream_columns,
    write_npz,
)
from vclab import recordings
from vclab.errors import OutputError
from vclab.recordings import CompactionStep, FrameKind, pack


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


def test_rows_of_the_api_are_read(folder: Path) -> None:
    pages = recordings.load(folder).pages
    assert pages is not None
    # Rows are counted among the zone's own: the last of EVENTS lies elsewhere, as do two of these six.
    assert pages.row.tolist() == [0, 2, 5, 5]
    assert pages.time_us.tolist() == [7, 9, 2_000_010, 2_500_010]
    assert pages.operation.tolist() == [0, 1, 1, 0]
    assert pages.frame.tolist() == [2050, 2050, 4000, 4000]
    assert pages.migratetype.tolist() == [1, -1, -1, 2]
    assert pages.head(2).frame.tolist() == [2050, 2050]


def test_rows_of_the_api_among_the_zones_own_tell_their_place(folder: Path) -> None:
    events = [PAGE_EVENTS[0], *EVENTS[:3], PAGE_EVENTS[3], EVENTS[3]]
    columns = stream_columns([event[:7] for event in events])
    columns["t_us"] = np.arange(6, dtype="<u4")
    write_npz(folder / "api_head.npz", {**columns, "t0_ns": np.array(-5_000_000)})
    pages = recordings.load(folder).pages
    assert pages is not None
    assert pages.row.tolist() == [0, 3]
    assert pages.time_us.tolist() == [-5000, -4996]
    columns["pfn"][3] += 1024
    write_npz(folder / "api_head.npz", {**columns, "t0_ns": np.array(0)})
    refused(folder, r"rows of the zone out of place, .*api_head\.npz: op, ")


def test_compaction_is_read(folder: Path) -> None:
    compaction = recordings.load(folder).compaction
    assert compaction is not None
    assert compaction.step.tolist() == [
        CompactionStep.BEGIN, CompactionStep.ISOLATE_USED, CompactionStep.ISOLATE_FREE, CompactionStep.MIGRATE,
        CompactionStep.END,
    ]  # fmt: skip
    assert compaction.row.tolist() == [3, 3, 3, 4, 5]
    assert compaction.time_us.tolist() == [1, 2, 3, 4, 5]
    assert compaction.start.tolist() == [1024, 1024, 3072, 0, 1024]
    assert compaction.end.tolist() == [6144, 1536, 3584, 0, 6144]
    assert compaction.scanned.tolist() == [1, 512, 512, 1, 1]
    assert compaction.taken.tolist() == [0, 2, 8, 2, 8]


def test_compact_file_holds_everything_and_repeats_its_bytes(folder: Path, tmp_path: Path) -> None:
    recording = recordings.load(folder)
    recordings.save(recording, tmp_path / "one.npz")
    again = recordings.load(str(tmp_path / "one.npz"))
    assert differing(recording, again) == [] and again.digest == recording.digest
    assert (again.name, again.path) == ("one", tmp_path / "one.npz")
    recordings.save(again, tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "small", "two.npz"]


def test_optional_parts_may_be_missing(folder: Path, tmp_path: Path) -> None:
    for name in ("post_snapshot.npz", "post_buddyinfo_before.txt", "api_head.npz", "aux_events.npz"):
        (folder / name).unlink()
    columns = snapshot_columns(BLOCKS_BEFORE)
    write_npz(folder / "pre_snapshot.npz", {name: columns[name] for name in ("npfn", "block_pfn", "block_order")})
    write_npz(folder / "zone_stream.npz", stream_columns([]))
    recording = recordings.load(folder)
    assert recording.pages is None and recording.compaction is None
    assert recording.free_after is None and recording.buddyinfo_end is None and recording.duration == 0.0
    assert recording.frames == 4096  # without flags, managed frames decide
    assert set(recording.allocated.kinds) == {FrameKind.OTHER} and not recording.allocated.orders.any()
    assert_tiles(recording)
    recordings.save(recording, tmp_path / "bare.npz")
    assert differing(recording, recordings.load(tmp_path / "bare.npz")) == []


def test_digest_changes_with_any_content(folder: Path) -> None:
    recording = recordings.load(folder)
    changes: list[dict[str, Any]] = [
        {"pages": None},
        {"compaction": None},
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
        with pytest.raises(OutputError, match=r"cannot write .*out\.npz: No space left on device; check"):
            recordings.save(recording, out)
    assert out.read_bytes() == b"old" and sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "small"]
    with pytest.raises(OutputError, match="nowhere"):
        recordings.save(recording, tmp_path / "nowhere" / "out.npz")
    recordings.save(recording, out)
    assert recordings.load(out).digest == recording.digest


def test_pack_writes_a_compact_file_or_says_why_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack.main([str(folder), str(tmp_path / "packed.npz")]) == 0
    assert recordings.load(tmp_path / "packed.npz").digest in capsys.readouterr().out
    assert pack.main([str(folder), str(tmp_path / "cut.npz"), "--pages", "1"]) == 0
    pages = recordings.load(tmp_path / "cut.npz").pages
    assert pages is not None and pages.frame.tolist() == [2050]
    capsys.readouterr()
    assert pack.main([str(tmp_path / "absent"), str(tmp_path / "x.npz")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vclab: error: no such recording, ") and error.count("\n") == 1
    assert not (tmp_path / "x.npz").exists()


def test_recordings_import_no_compiler() -> None:
    code = "import sys, vclab.recordings; print([m for m in ('numba', 'vckernels') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_folder_of_one_moment_is_a_recording_without_events(folder: Path) -> None:
    for name in (
        "zone_stream.npz",
        "api_head.npz",
        "aux_events.npz",
        "post_snapshot.npz",
        "post_buddyinfo.txt",
        "post_buddyinfo_before.txt",
    ):
        (folder / name).unlink()
    recording = recordings.load(folder)
    assert recording.zone_name == "Normal"
    assert recording.stream.frame.size == 0 and recording.free_after is None
    assert (recording.buddyinfo_after == recording.buddyinfo_before).all()
    assert_tiles(recording)


def test_a_stream_that_is_missing_beside_files_of_the_end_is_missed(folder: Path) -> None:
    (folder / "zone_stream.npz").unlink()
    refused(folder, r"zone_stream\.npz")
