"""What is no recording, or an impossible one, is refused in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.vclab.recordings.small import (
    BLOCKS_AFTER,
    BLOCKS_BEFORE,
    COMPACTION_EVENTS,
    EVENTS,
    NEEDED,
    PAGE_EVENTS,
    ZONES,
    assert_tiles,
    compact_columns,
    compaction_columns,
    integer,
    page_columns,
    refused,
    snapshot_columns,
    stream_columns,
    write_npz,
    zone_text,
)
from vclab import recordings
from vclab.errors import RecordingError
from vclab.recordings import FrameKind


def changed(folder: Path, file: str, **columns: np.ndarray | None) -> None:
    """Write an archive of the small recording with some columns changed, or left out."""
    blocks = {"pre_snapshot.npz": BLOCKS_BEFORE, "post_snapshot.npz": BLOCKS_AFTER}
    others = {"api_head.npz": page_columns(PAGE_EVENTS), "aux_events.npz": compaction_columns(COMPACTION_EVENTS)}
    whole = snapshot_columns(blocks[file]) if file in blocks else others.get(file, stream_columns(EVENTS))
    write_npz(folder / file, {name: column for name, column in {**whole, **columns}.items() if column is not None})


def with_event(row: int, **values: int) -> dict[str, np.ndarray]:
    columns = stream_columns(EVENTS)
    for name, value in values.items():
        columns[name] = columns[name].astype("i8")
        columns[name][row] = value
    return columns


def with_words(row: int, *words: int) -> dict[str, np.ndarray]:
    columns = compaction_columns(COMPACTION_EVENTS)
    columns["w"][row, : len(words)] = words
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
        ("pre_snapshot.npz", {"flag_values": np.zeros((3, 3), "u8")}, r"shape of 3 x 3, .*: flag_values"),
        ("pre_snapshot.npz", {"flag_values": np.zeros((3, 3), "u8", order="F")}, r"header .*\(3, 3\).*: flag_values"),
        ("pre_snapshot.npz", {"flag_values": np.zeros((3, 3, 3), "u8")}, r"header .*\(3, 3, 3\).*: flag_values"),
        ("api_head.npz", {"zone_row": integer([0, 1, 1, 2, 5, 7], "i4")}, "zone_row 7 in row 3, .* 6 rows"),
        ("api_head.npz", {"zone_row": integer([0, 1, 1, 2, 1, 6], "i4")}, "zone_row 1 in row 2, .* does not fall"),
        ("api_head.npz", {"migratetype": integer([1, 1, 0, -1, -1, 3], "i1")}, "migratetype 3 in row 3, "),
        ("api_head.npz", {"pfn": integer([2050, 600, -1, 2050, 4000, 4001], "i4")}, "pfn 4001 in row 3, .* aligned"),
        ("api_head.npz", {"order": integer([0, 0, 2, 0, 4, 11], "u1")}, "order 11 in row 3, "),
        ("api_head.npz", {"t_us": None}, r"no such member, .*api_head\.npz: t_us"),
        ("aux_events.npz", {"w": integer([1, 2, 3], "u8")}, r"shape of 3, .*: w, it should have 7 rows of 6"),
        ("aux_events.npz", {"w": np.zeros((7, 5), "u8")}, r"shape of 7 x 5, .*: w, it should have 7 rows of 6"),
        ("aux_events.npz", {"w": np.full((7, 6), 2**63, "u8")}, r"values from .*: w, they should lie"),
        ("aux_events.npz", with_words(3, 3072, 3000, 1, 1), "start 3072 in row 2, .* ranges lie within"),
        ("aux_events.npz", with_words(3, 3072, 6145, 1, 1), "start 3072 in row 2, "),
        ("aux_events.npz", with_words(3, 3072, 3584, 5121, 1), "scanned 5121 in row 2, .* at most 5120"),
        ("aux_events.npz", with_words(5, 5121, 0, 0, 0), "taken 5121 in row 3, "),
        ("aux_events.npz", {"zone_row": integer([0, 3, 3, 3, 3, 4, 7], "i4")}, "zone_row 7 in row 4, "),
        ("aux_events.npz", {"t_ns": integer([0, 9000, *range(2000, 7000, 1000)], "i8")}, "time 2 in row 1, "),
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
    optional = {"after_frame", "buddyinfo_end", "pages_op", "compaction_step"}
    for name in columns:
        write_npz(tmp_path / "less.npz", {other: column for other, column in columns.items() if other != name})
        if name in optional:
            recordings.load(tmp_path / "less.npz")
        else:
            refused(tmp_path / "less.npz", rf"no such member, .*: {name}, ")
