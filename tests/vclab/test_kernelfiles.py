"""T4 and T5: a folder's indices and zoneinfo against what they follow from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vclab.test_watermarks import EXCERPT, from_excerpt
from vclab.errors import RecordingError
from vclab.recordings.proctext import zoneinfo_text
from vclab.recordings.zonetext import PerCpuLists, ZoneText
from vclab.replay.kernelfiles import check_indices, check_limits

# Two single frames and a pair: 4 frames in 3 blocks, computed by hand.
BUDDYINFO = "Node 0, zone   Normal      2      1 " + "     0 " * 9 + "\n"
EXTFRAG = "-1.000 -1.000 0.334 0.500 0.584 0.625 0.646 0.657 0.662 0.665 0.666"
UNUSABLE = "0.000 0.500 " + "1.000 " * 9


def write_moment(folder: Path, moment: str, extfrag: str = EXTFRAG) -> None:
    (folder / f"{moment}buddyinfo.txt").write_text(BUDDYINFO)
    (folder / f"{moment}extfrag_index.txt").write_text(f"Node 0, zone   Normal {extfrag} \n")
    (folder / f"{moment}unusable_index.txt").write_text(f"Node 0, zone   Normal {UNUSABLE} \n")


def test_t4_indices_equal_the_files(tmp_path: Path) -> None:
    assert check_indices(tmp_path) == []
    write_moment(tmp_path, "live_")
    write_moment(tmp_path, "")
    (check,) = check_indices(tmp_path)
    assert (check.name, check.rate, check.passed) == ("T4", 1.0, True)
    assert check.detail.startswith("n 44: extfrag_index.txt, live_extfrag_index.txt, ")
    write_moment(tmp_path, "", EXTFRAG.replace("0.334", "0.333"))
    (check,) = check_indices(tmp_path)
    assert check.rate == 43 / 44 and not check.passed


def test_t4_needs_the_buddyinfo_of_the_moment(tmp_path: Path) -> None:
    write_moment(tmp_path, "live_")
    (tmp_path / "live_buddyinfo.txt").unlink()
    assert check_indices(tmp_path) == []
    (tmp_path / "live_buddyinfo.txt").write_text(BUDDYINFO.replace("Normal", "   DMA"))
    assert check_indices(tmp_path)[0].rate == 0
    (tmp_path / "live_buddyinfo.txt").write_text("nonsense")
    with pytest.raises(RecordingError, match=r"live_buddyinfo\.txt"):
        check_indices(tmp_path)


def zones(moment: str) -> list[ZoneText]:
    """Return the zones of a recorded machine."""
    found = []
    for seen in from_excerpt(EXCERPT[moment]):
        marks = dict(zip(("min", "low", "high", "promo"), seen.marks, strict=True))
        sizes = {"managed": seen.zone.managed, "present": seen.zone.present, "boost": seen.boost, **marks}
        per_cpu = tuple(
            PerCpuLists(cpu, lists._asdict(), threshold=threshold)
            for lists, threshold in zip(seen.per_cpu, seen.thresholds, strict=True)
            for cpu in (0, 1)
        )
        found.append(ZoneText(0, seen.zone.name, sizes=sizes, protection=tuple(seen.protection), per_cpu=per_cpu))
    return found


@pytest.mark.parametrize("moment", EXCERPT)
def test_t5_zoneinfo_follows_from_sizes(moment: str, tmp_path: Path) -> None:
    assert check_limits(tmp_path) == []
    path = tmp_path / "pre_zoneinfo.txt"
    path.write_text(zoneinfo_text(zones(moment)))
    (check,) = check_limits(tmp_path)
    assert (check.name, check.rate, check.passed) == ("T5", 1.0, True)
    assert check.detail.startswith("n 69: pre_zoneinfo.txt") and "khugepaged" in check.detail
    path.write_text(path.read_text().replace("batch:    63", "batch:    31", 1))
    (check,) = check_limits(tmp_path)
    assert check.rate == 68 / 69 and not check.passed
    assert check.detail.endswith("first wrong: pre_zoneinfo.txt DMA32 cpu 0 batch 31 for 63")


def test_t5_without_huge_pages_and_with_another_min_free_kbytes(tmp_path: Path) -> None:
    """Marks computed by hand for one zone of 2**20 frames: the root of 16 x 4 GiB in KiB, and 100,000 KiB."""
    for least, how in ((2048, "the kernel at boot"), (25000, "min_free_kbytes 100000")):
        step = max(least // 4, (1 << 20) * 10 // 10000)
        sizes = {"managed": 1 << 20, "present": 1 << 20, "min": least, "low": least + step, "high": least + 2 * step}
        (tmp_path / "zoneinfo.txt").write_text(zoneinfo_text([ZoneText(0, "Normal", sizes=sizes)]))
        (check,) = check_limits(tmp_path)
        assert check.rate == 1.0 and how in check.detail


def test_t5_needs_the_sizes(tmp_path: Path) -> None:
    """Kernels before 3.8 do not tell what a zone manages."""
    (tmp_path / "zoneinfo.txt").write_text(zoneinfo_text([ZoneText(0, "Normal", sizes={"min": 1, "present": 9})]))
    assert check_limits(tmp_path) == []


def test_t5_refuses_a_boost_that_the_minimum_does_not_hold(tmp_path: Path) -> None:
    sizes = {"boost": 21, "min": 20, "low": 40, "high": 60, "managed": 4000, "present": 4096}
    (tmp_path / "pre_zoneinfo.txt").write_text(zoneinfo_text([ZoneText(0, "Normal", sizes=sizes)]))
    with pytest.raises(RecordingError, match=r"boost 21 of zone .*Normal, .*pre_zoneinfo\.txt, it is part of min"):
        check_limits(tmp_path)
