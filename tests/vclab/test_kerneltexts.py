"""The machine's own texts: readers of real ones read them, and they say what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vckernels.buddy import HOLE, LISTS, PER_CPU, Migratetype, new_buddy
from vckernels.framelist import push_tail
from vclab import GFP_KERNEL, GFP_VFALLBACK, System
from vclab.errors import ConfigurationError
from vclab.kerneltexts import NAMES, TYPE_NAMES, pagetypeinfo, per_cpu_frames, zoneinfo
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
    assert table.type_names == TYPE_NAMES and table.pageblock_order == 9
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
    with pytest.raises(ConfigurationError, match="no text 'meminfo' of the kernel; there are buddyinfo, "):
        system.procfs("meminfo")


def test_long_lists_are_not_counted_out_and_holes_have_no_pageblock() -> None:
    buddy = new_buddy(4096)
    buddy.state[1024:] = 0
    assert (buddy.state[:1024] == HOLE).all()
    buddy.free_blocks[0, Migratetype.MOVABLE] = 100_000
    buddy.free_blocks[1, Migratetype.MOVABLE] = 99_999
    table = pagetypeinfo(Memory([Zone("Normal", 0, 4096, buddy)]))
    assert table.counts[0, Migratetype.MOVABLE, :2].tolist() == [100_000, 99_999]
    assert table.capped[0, Migratetype.MOVABLE, :2].tolist() == [1, 0]
    assert table.pageblocks.tolist() == [[0, 6, 0, 0, 0]]


def test_frames_on_per_cpu_lists_are_counted() -> None:
    buddy = new_buddy(2048, lists=5 + 2 * 14)
    zone = Zone("Normal", 0, 2048, buddy)
    # A block of order 2 and two frames on lists of the second CPU.
    for number, frame, order in ((2 * 3 + 1, 64, 2), (1, 100, 0), (1, 101, 0)):
        push_tail(buddy.next, buddy.prev, 2048 + LISTS + 5 + 14 + number, frame)
        buddy.state[frame] = PER_CPU - 4 * order - Migratetype.MOVABLE
    assert (per_cpu_frames(zone, 0), per_cpu_frames(zone, 1), per_cpu_frames(zone, 2)) == (0, 6, 0)
    (text,) = zoneinfo(Memory([zone]), 0, cpus=2)
    assert [lists.values["count"] for lists in text.per_cpu] == [0, 6]
