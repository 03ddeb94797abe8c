"""The kernel's own texts: what the readers take in, the writers give back letter for letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vclab.recordings.small import SHARED, needs_data
from tests.vclab.recordings.texts import MIXED, OLD_ZONEINFO, PAGETYPEINFO, TEXTS, VMALLOCINFO, ZONEINFO
from vclab.recordings.procfiles import BuddyInfo, PageTypeInfo, read_buddyinfo, read_pagetypeinfo
from vclab.recordings.proctext import (
    COUNTED_MOST,
    buddyinfo_text,
    index_text,
    pagetypeinfo_text,
    vmallocinfo_text,
    zoneinfo_text,
)
from vclab.recordings.textfile import node_and_zone, zone_label
from vclab.recordings.vmallocinfo import BARE, KINDS, VmallocRange, read_vmallocinfo
from vclab.recordings.zonetext import SIZES, PerCpuLists, ZoneText, read_zones

PAIRS: dict[str, tuple[Callable[[Path], Any], Callable[[Any], str]]] = {
    "buddyinfo": (read_buddyinfo, buddyinfo_text),
    "pagetypeinfo": (read_pagetypeinfo, pagetypeinfo_text),
    "zoneinfo": (read_zones, zoneinfo_text),
    "vmallocinfo": (read_vmallocinfo, vmallocinfo_text),
}


def rewritten(kind: str, text: str, place: Path) -> str:
    """Read a text and write it again."""
    (place / kind).write_text(text)
    read, write = PAIRS[kind]
    return write(read(place / kind))


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_come_back_letter_for_letter(kind: str, tmp_path: Path) -> None:
    assert rewritten(kind, TEXTS[kind], tmp_path) == TEXTS[kind]


@needs_data
@pytest.mark.parametrize(
    ("kind", "files"), [("buddyinfo", 15), ("pagetypeinfo", 8), ("zoneinfo", 8), ("vmallocinfo", 1)]
)
def test_recorded_texts_come_back_letter_for_letter(kind: str, files: int) -> None:
    read, write = PAIRS[kind]
    paths = sorted(SHARED.glob(f"linux-6.18-*/*_{kind}.txt")) + sorted(SHARED.glob(f"linux-6.18-*/*_{kind}_before.txt"))
    assert len(paths) == files
    for path in paths:
        assert write(read(path)) == path.read_text(encoding="ascii"), path


def test_all_of_a_zone_is_read(tmp_path: Path) -> None:
    (tmp_path / "zoneinfo").write_text(ZONEINFO)
    dma32, movable = read_zones(tmp_path / "zoneinfo")
    assert dma32.node_counters == {"nr_inactive_anon": 276417, "nr_mapped": 38200}
    assert list(dma32.sizes) == [name for name in SIZES if name != "scanned"]
    assert dma32.protection == (0, 0, 16384, 16384, 16384)
    assert dma32.counters["numa_hit"] == (1 << 64) - 1
    assert [lists.cpu for lists in dma32.per_cpu] == [0, 1]
    assert dma32.per_cpu[0].threshold == 24 and dma32.per_cpu[1].values["high_max"] == 48300
    assert dma32.rest == {"node_unreclaimable": 0, "start_pfn": 4096}
    assert movable.label == "Movable" and movable.per_cpu == () and movable.counters == {}


def test_a_zone_of_2_6_24_is_read(tmp_path: Path) -> None:
    (tmp_path / "zoneinfo").write_text(OLD_ZONEINFO)
    (zone,) = read_zones(tmp_path / "zoneinfo")
    assert zone.sizes["scanned"] == 0 and zone.sizes["present"] == 3998 and "managed" not in zone.sizes
    assert zone.counters == {"nr_free_pages": 2577, "nr_bounce": 0}
    hot = PerCpuLists(0, {"count": 7, "high": 18, "batch": 3}, list=0)
    assert zone.per_cpu == (hot, PerCpuLists(0, {"count": 0, "high": 6, "batch": 1}, list=1, threshold=6))
    assert zone.rest == {"all_unreclaimable": 0, "prev_priority": 12, "start_pfn": 0}


def test_mixed_pageblocks_are_read(tmp_path: Path) -> None:
    assert rewritten("pagetypeinfo", PAGETYPEINFO + MIXED, tmp_path) == PAGETYPEINFO + MIXED
    table = read_pagetypeinfo(tmp_path / "pagetypeinfo")
    assert table.mixed is not None and table.mixed.tolist() == [[1, 2], [0, 15]]
    assert table.pageblock_order == 9
    assert table.capped[1, 1].tolist() == [1, 1] + [0] * 9


def test_ranges_are_read(tmp_path: Path) -> None:
    (tmp_path / "vmallocinfo").write_text(VMALLOCINFO)
    ranges = read_vmallocinfo(tmp_path / "vmallocinfo")
    assert ranges[3] == VmallocRange(
        start=0x82B63439, end=0x55A74A56, nbytes=33558528, caller="nvme_probe+0x31b/0x500 [nvme]", pages=8192,
        kinds=("vmalloc",), page_array_virtual=True, nodes={0: 8000, 1: 192},
    )  # fmt: skip
    assert ranges[1].physical == 0xA0000 and ranges[1].kinds == ("ioremap",)
    assert [one.bare for one in ranges[5:]] == list(BARE)


def test_indices_are_printed_as_the_kernel_does() -> None:
    values = np.array([[-1000, 0, 998], [-500, 1000, 7]])
    assert index_text(["DMA", "Normal (node 1)"], values, 2) == (
        "Node 0, zone      DMA -1.000  0.000  0.998 \nNode 1, zone   Normal  0.-500  1.000  0.007 \n"
    )
    assert index_text(["DMA"], values[:1, 1:], 1) == "Node 0, zone      DMA 0.000 0.998 \n"


COUNTS = st.integers(0, 10**14)
ZONE_NAMES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["DMA", "DMA32", "Normal", "Movable", "Device"])),
    min_size=1, max_size=4, unique=True,
)  # fmt: skip


@settings(max_examples=30)
@given(zones=ZONE_NAMES, orders=st.integers(10, 13), data=st.data())
def test_any_tables_come_back(
    tmp_path_factory: pytest.TempPathFactory, zones: list[tuple[int, str]], orders: int, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("tables")
    labels = tuple(zone_label(node, name) for node, name in sorted(zones))
    assert [node_and_zone(label) for label in labels] == sorted(zones)
    types = ("Unmovable", "Movable", "Reclaimable")[: data.draw(st.integers(1, 3))]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    counts = rng.integers(0, 10 ** rng.integers(1, 14), (len(labels), len(types), orders))
    capped = (counts % 7 == 0).astype(np.uint8)
    counts[capped == 1] = COUNTED_MOST
    (place / "b").write_text(buddyinfo_text(BuddyInfo(labels, counts[:, 0])))
    back = read_buddyinfo(place / "b")
    assert back.zone_names == labels and (back.counts == counts[:, 0]).all()
    blocks = rng.integers(0, 10**6, (len(labels), len(types)))
    mixed = data.draw(st.sampled_from([None, blocks // 3]))
    (place / "t").write_text(pagetypeinfo_text(PageTypeInfo(labels, types, counts, capped, blocks, mixed, 9)))
    table = read_pagetypeinfo(place / "t")
    assert table.zone_names == labels and table.type_names == types and table.pageblock_order == 9
    assert (table.counts == counts).all() and (table.capped == capped).all() and (table.pageblocks == blocks).all()
    assert (table.mixed is None) == (mixed is None) and (mixed is None or (table.mixed == mixed).all())


NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=2, max_size=20).map(lambda name: f"nr_{name}")
NUMBERS = st.dictionaries(NAMES, st.integers(0, 2**64 - 1), max_size=4)
PER_CPU = st.builds(
    PerCpuLists,
    st.integers(0, 5000),
    st.fixed_dictionaries(dict.fromkeys(("count", "high", "batch"), COUNTS)),
    st.none() | st.integers(0, 1),
    st.none() | st.integers(0, 125),
)
ZONES = st.builds(
    ZoneText,
    st.integers(0, 99),
    st.sampled_from(["DMA", "Normal", "Movable"]),
    NUMBERS,
    st.lists(COUNTS, min_size=len(SIZES), max_size=len(SIZES)).map(lambda row: dict(zip(SIZES, row, strict=True))),
    st.lists(COUNTS, min_size=1, max_size=5).map(tuple),
    NUMBERS,
    st.lists(PER_CPU, min_size=1, max_size=3).map(tuple),
    st.just({"node_unreclaimable": 0, "start_pfn": 12}),
)
RANGES = st.builds(
    VmallocRange,
    start=st.integers(0, 2**64 - 1),
    end=st.integers(0, 2**64 - 1),
    nbytes=COUNTS,
    caller=st.sampled_from(["", "kernel_clone+0xb8/0x400", "f.part.0+0x1/0x2 [some-mod]", "0xffffffff81000000"]),
    pages=COUNTS,
    physical=st.none() | st.integers(0, 2**64 - 1),
    kinds=st.lists(st.sampled_from(KINDS), unique=True, max_size=2).map(tuple),
    page_array_virtual=st.booleans(),
    nodes=st.dictionaries(st.integers(0, 99), COUNTS, max_size=3),
) | st.builds(VmallocRange, st.integers(0, 2**64 - 1), st.just(0), COUNTS, bare=st.sampled_from(BARE))


@settings(max_examples=30)
@given(
    zones=st.lists(ZONES, min_size=1, max_size=3, unique_by=lambda zone: zone.label),
    ranges=st.lists(RANGES, max_size=5),
)
def test_any_zones_and_ranges_come_back(
    tmp_path_factory: pytest.TempPathFactory, zones: list[ZoneText], ranges: list[VmallocRange]
) -> None:
    place = tmp_path_factory.mktemp("texts")
    (place / "z").write_text(zoneinfo_text(zones))
    assert read_zones(place / "z") == zones
    (place / "v").write_text(vmallocinfo_text(ranges))
    assert read_vmallocinfo(place / "v") == ranges
