"""The machine's own texts: readers of real ones read them, and they say what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vckernels.buddy import HOLE, Migratetype, new_buddy
from vckernels.pages import Lru
from vckernels.watermark import Limit
from vckernels.workingset import ReclaimField
from vclab import GFP_KERNEL, GFP_VFALLBACK, System, presets, watermarks_2_6
from vclab.errors import ConfigurationError
from vclab.gfp import Gfp
from vclab.kerneltexts import NAMES, pagetypeinfo, text_names
from vclab.memory import Memory, Zone
from vclab.recordings.indices import read_indices
from vclab.recordings.procfiles import read_buddyinfo, read_pagetypeinfo, read_zoneinfo
from vclab.recordings.vmallocinfo import read_vmallocinfo
from vclab.recordings.zonetext import read_zones
from vclab.watermarks import ZoneSize, zone_limits


@pytest.fixture(scope="module")
def system() -> System:
    system = System(memory="64MiB", cpus=2, policy="always-virtual")
    system.alloc_pages(3, GFP_KERNEL)
    system.alloc_pages(4, GFP_KERNEL | GFP_VFALLBACK)
    system.vmap(np.arange(40, 47))
    return system


def read(system: System, name: str, reader: Any, place: Path) -> Any:
    (place / name).write_text(system.procfs(name))
    return reader(place / name)


def test_buddyinfo_and_the_indices(system: System, tmp_path: Path) -> None:
    table = read(system, "buddyinfo", read_buddyinfo, tmp_path)
    assert table.zone_names == ("Normal",)
    assert (table.counts == system.buddyinfo()).all()
    for name, index in (
        ("extfrag_index", system.fragmentation_index),
        ("unusable_index", system.unusable_free_index),
    ):
        found = read(system, name, read_indices, tmp_path)
        assert found.thousandths[0].tolist() == [round(index(order) * 1000) for order in range(11)]


def test_pagetypeinfo(system: System, tmp_path: Path) -> None:
    table = read(system, "pagetypeinfo", read_pagetypeinfo, tmp_path)
    assert table.type_names == ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate")
    assert table.pageblock_order == 9
    assert (table.counts[0].sum(axis=0) == system.buddyinfo()[0]).all() and not table.capped.any()
    assert table.pageblocks.sum() == 32 and table.pageblocks[0, Migratetype.UNMOVABLE] >= 1


def test_zoneinfo(system: System, tmp_path: Path) -> None:
    zone = system.memory.zone
    (text,) = read(system, "zoneinfo", read_zones, tmp_path)
    (limits,) = zone_limits([ZoneSize("Normal", zone.managed)], cpus=2)
    assert text.sizes["free"] == text.counters["nr_free_pages"] == zone.free_frames
    assert text.node_counters == {"nr_page_table_pages": system.page_tables.count}
    assert [text.sizes[mark] for mark in limits.watermarks._fields] == list(limits.watermarks)
    assert [lists.cpu for lists in text.per_cpu] == [0, 1]
    assert text.per_cpu[1].values == {"count": 0, "high": limits.per_cpu.high_min, **limits.per_cpu._asdict()}
    (sizes,) = read_zoneinfo(tmp_path / "zoneinfo")
    assert (sizes.start_pfn, sizes.spanned, sizes.managed) == (0, 16384, zone.managed)


def test_vmallocinfo(system: System, tmp_path: Path) -> None:
    ranges = read(system, "vmallocinfo", read_vmallocinfo, tmp_path)
    virtual = [page for page in system.pages if page.is_virtual]
    assert [one.start for one in ranges if one.kinds == ("vmalloc",)] == sorted(page.address for page in virtual)
    (page,) = virtual
    (own,) = (one for one in ranges if one.start == page.address)
    assert (own.pages, own.nbytes, own.nodes) == (16, 17 * 4096, {0: 16})
    (mapped,) = (one for one in ranges if one.kinds == ("vmap",))
    assert (mapped.pages, mapped.nbytes, mapped.end - mapped.start) == (0, 8 * 4096, 8 * 4096)


def test_mapped_page_arrays_are_ranges_too(tmp_path: Path) -> None:
    system = System(memory="64MiB", policy="always-virtual")
    page = system.alloc_pages(10, GFP_KERNEL | GFP_VFALLBACK)
    assert page.array_pages == 2
    own, array = sorted(read(system, "vmallocinfo", read_vmallocinfo, tmp_path), key=lambda one: -one.pages)
    assert (own.pages, own.page_array_virtual) == (1024, True)
    assert (array.start, array.pages, array.kinds, array.page_array_virtual) == (
        page.array_address, 2, ("vmalloc",), False,
    )  # fmt: skip


def test_no_other_text(system: System) -> None:
    assert all(system.procfs(name).endswith("\n") for name in NAMES)
    with pytest.raises(ConfigurationError, match=r"no text 'meminfo' of Linux 6\.18; there are buddyinfo, "):
        system.procfs("meminfo")


def test_long_lists_are_not_counted_out_and_holes_have_no_pageblock() -> None:
    buddy = new_buddy(4096)
    buddy.state[1024:] = 0
    assert (buddy.state[:1024] == HOLE).all()
    buddy.free_blocks[0, Migratetype.MOVABLE] = 100_000
    buddy.free_blocks[1, Migratetype.MOVABLE] = 99_999
    table = pagetypeinfo(presets.linux("6.18"), Memory([Zone("Normal", 0, 4096, buddy)]))
    assert table.counts[0, Migratetype.MOVABLE, :2].tolist() == [100_000, 99_999]
    assert table.capped[0, Migratetype.MOVABLE, :2].tolist() == [1, 0]
    assert table.pageblocks.tolist() == [[0, 6, 0, 0, 0]]


def test_what_cpus_keep_and_a_boost_are_told(tmp_path: Path) -> None:
    system = System(memory="64MiB", levels=4, cpus=2, allocator="full")
    system.memory.cpu = 1
    frames = [system.memory.allocate(order, GFP_KERNEL) for order in (0, 0, 2)]
    before = [read(system, "zoneinfo", read_zones, tmp_path)[1].per_cpu[cpu].values["count"] for cpu in (0, 1)]
    for frame, order in zip(frames, (0, 0, 2), strict=True):
        system.memory.free(frame, order)
    limits = system.memory.zone.limits()
    limits[Limit.BOOST] = 512
    _, zone = read(system, "zoneinfo", read_zones, tmp_path)
    assert [lists.values["count"] - count for lists, count in zip(zone.per_cpu, before, strict=True)] == [0, 6]
    assert zone.sizes["boost"] == 512
    assert [zone.sizes[name] for name in ("min", "low", "high")] == (limits[:3] + 512).tolist()


OLD = ("2.6.23", "2.6.24")


@pytest.mark.parametrize("linux", OLD)
@pytest.mark.parametrize("allocator", ["full", "free-lists"])
def test_zoneinfo_of_the_rfcs_days(linux: str, allocator: str, tmp_path: Path) -> None:
    system = System("k8", linux, memory="64MiB", levels=4, cpus=2, allocator=allocator)
    zones = read(system, "zoneinfo", read_zones, tmp_path)
    sizes = {zone.name: zone.managed for zone in system.memory.zones}
    every = {name: sizes.get(name, 0) for name in ("DMA", "DMA32", "Normal")}
    derived = {one.name: one for one in watermarks_2_6.zone_limits(every)}
    for zone, text in zip(system.memory.zones, zones, strict=True):
        limits = derived[zone.name]
        assert list(text.sizes) == ["free", "min", "low", "high", "scanned", "spanned", "present"]
        assert [text.sizes[name] for name in limits.marks._fields] == list(limits.marks)
        assert text.sizes["free"] == text.counters["nr_free_pages"] == zone.free_frames
        assert [(lists.cpu, lists.list) for lists in text.per_cpu] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        held = [[int(count) for count in row[[0, 5]]] for row in zone.per_cpu] or [[0, 0], [0, 0]]
        for lists in text.per_cpu:
            one = (limits.hot, limits.cold)[lists.list or 0]
            assert lists.values == {"count": held[lists.cpu][lists.list or 0], "high": one.high, "batch": one.batch}
            assert (lists.threshold is None) == (lists.list == 0)
        assert text.rest == {"all_unreclaimable": 0, "prev_priority": 12, "start_pfn": zone.first_frame}
    assert sum(text.counters["nr_page_table_pages"] for text in zones) == system.page_tables.count
    found = read(system, "zoneinfo", read_zoneinfo, tmp_path)
    assert [(one.name, one.managed, one.present) for one in found] == [(n, size, size) for n, size in sizes.items()]
    text = system.procfs("zoneinfo")
    assert "boost" not in text and "managed" not in text and "cma" not in text


def test_zoneinfo_of_2_6_24_tells_of_reclaim(tmp_path: Path) -> None:
    system = System("k8", "2.6.24", memory="64MiB", levels=4)
    for _ in range(9000):
        system.memory.allocate(0, GFP_KERNEL | Gfp.MOVABLE)
    system.populate()
    movable = system.movable
    assert movable is not None
    movable.reclaim(0, 0)
    (zone,) = read(system, "zoneinfo", read_zones, tmp_path)
    fields = movable.reclaim_state.fields
    assert zone.counters["nr_active"] == movable.pages.lengths[Lru.ACTIVE_FILE] > 0
    assert zone.counters["nr_inactive"] == movable.pages.lengths[Lru.INACTIVE_FILE] > 0
    assert zone.sizes["scanned"] == fields[ReclaimField.SCANNED_IN_VAIN]
    assert zone.rest["prev_priority"] == fields[ReclaimField.PREVIOUS_PRIORITY] < 12
    planned = (int(fields[ReclaimField.PLANNED_ACTIVE]), int(fields[ReclaimField.PLANNED_INACTIVE]))
    assert f"(a: {planned[0]} i: {planned[1]})" in system.procfs("zoneinfo")


def test_pagetypeinfo_of_2_6_24_has_its_types_in_their_order(tmp_path: Path) -> None:
    system = System("k8", "2.6.24", memory="256MiB", levels=4, allocator="full")
    table = read(system, "pagetypeinfo", read_pagetypeinfo, tmp_path)
    assert table.type_names == ("Unmovable", "Reclaimable", "Movable", "Reserve")
    assert (table.counts.sum(axis=1) == system.buddyinfo()).all()
    for zone, pageblocks in zip(system.memory.zones, table.pageblocks, strict=True):
        kinds = (Migratetype.UNMOVABLE, Migratetype.RECLAIMABLE, Migratetype.MOVABLE, Migratetype.HIGHATOMIC)
        assert pageblocks.tolist() == [int((zone.buddy.pageblock == kind).sum()) for kind in kinds]
        assert pageblocks[3] > 0


@pytest.mark.parametrize("linux", presets.linux_names())
def test_a_release_has_no_text_of_another(linux: str) -> None:
    system = System("k8", linux, memory="16MiB", levels=4, policy="vmalloc")
    system.alloc_pages(1, GFP_KERNEL)
    names = text_names(system.linux)
    assert {"2.6.23": 2, "2.6.24": 3, "6.18": 6}[linux] == len(names)
    assert all(system.procfs(name) for name in names)
    for name in set(NAMES) - set(names):
        with pytest.raises(ConfigurationError, match=f"no text '{name}' of Linux {linux}; there are buddyinfo, "):
            system.procfs(name)
