"""The recording that vclab ships, and the real folders: what the events and the kernel say agrees."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.vclab.recordings.small import (
    SHARED,
    assert_tiles,
    block_counts,
    differing,
    free_mask,
    needs_data,
    replayed,
    sizes,
)
from vclab import recordings
from vclab.errors import RecordingError
from vclab.recordings import FrameKind, Recording


def test_shipped_names_have_files_and_one_line_descriptions() -> None:
    files = {path.stem for path in (Path(recordings.__file__).parent / "data").glob("*.npz")}
    assert recordings.names() == ["compile", "fragmented"] == sorted(files)
    for name in recordings.names():
        assert "\n" not in recordings.describe(name)
    with pytest.raises(RecordingError, match=r"no recording 'nope', .*, there are compile, fragmented"):
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
    assert original.pages is not None and shipped.pages is not None
    cut = replace(original, pages=original.pages.head(shipped.pages.row.size))
    assert differing(cut, shipped) == []
    assert cut.digest == shipped.digest
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
