"""The kernel's text files: orders, nodes and types of the tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vclab.recordings.small import (
    SHARED,
    ZONES,
    buddy_text,
    needs_data,
    refused,
    type_text,
    zone_text,
)
from vclab import recordings
from vclab.recordings.procfiles import read_buddyinfo, read_pagetypeinfo, read_zoneinfo


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
