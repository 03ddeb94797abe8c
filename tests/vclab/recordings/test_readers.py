"""Readers of indices, counters, slab caches and frame flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vclab.recordings.small import SHARED, needs_data
from tests.vclab.recordings.texts import INDEX, SLABINFO, VMSTAT
from vclab.errors import RecordingError
from vclab.fragmentation import fragmentation_thousandths, unusable_thousandths
from vclab.recordings import frameflags
from vclab.recordings.counters import read_vmstat
from vclab.recordings.frameflags import read_frame_flags
from vclab.recordings.indices import read_indices
from vclab.recordings.procfiles import read_buddyinfo, read_pagetypeinfo
from vclab.recordings.proctext import index_text
from vclab.recordings.slabinfo import SlabCache, read_slabinfo
from vclab.recordings.vmallocinfo import read_vmallocinfo
from vclab.recordings.zonetext import read_zones


def refused(read: Callable[[Path], Any], path: Path, content: str | bytes, *parts: str) -> None:
    """Assert that a content is refused in one line that names the file and holds some words."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RecordingError) as caught:
        read(path)
    line = str(caught.value)
    assert line.isprintable() and str(path) in line and line.count(", ") >= 2
    for part in parts:
        assert part in line, line


def test_indices(tmp_path: Path) -> None:
    (tmp_path / "extfrag_index").write_text(INDEX)
    found = read_indices(tmp_path / "extfrag_index")
    assert found.zone_names == ("DMA", "Normal")
    assert found.thousandths.tolist() == [[-1000] * 10 + [-500], [-1000] * 9 + [998, 1000]]
    assert index_text(found.zone_names, found.thousandths, 2) == INDEX


@needs_data
@pytest.mark.parametrize("moment", ["compile/live", "maps/frag_1", "maps/frag_2", "maps/frag_3"])
@pytest.mark.parametrize(
    ("kind", "width", "index"), [("extfrag", 2, fragmentation_thousandths), ("unusable", 1, unusable_thousandths)]
)
def test_recorded_indices_are_those_of_recorded_blocks(
    moment: str, kind: str, width: int, index: Callable[..., int]
) -> None:
    path = SHARED / f"linux-6.18-{moment}_{kind}_index.txt"
    blocks = read_buddyinfo(SHARED / f"linux-6.18-{moment}_buddyinfo.txt")
    found = read_indices(path)
    assert found.zone_names == blocks.zone_names
    assert found.thousandths.tolist() == [[index(row, order) for order in range(11)] for row in blocks.counts]
    assert index_text(found.zone_names, found.thousandths, width) == path.read_text(encoding="ascii")


def test_vmstat(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text(VMSTAT)
    found = read_vmstat(tmp_path / "vmstat")
    assert found == {"nr_free_pages": 3193260, "compact_stall": 0, "nr_unstable": (1 << 64) - 1}


def test_slabinfo(tmp_path: Path) -> None:
    (tmp_path / "slabinfo").write_text(SLABINFO)
    vsock, journal = read_slabinfo(tmp_path / "slabinfo")
    assert vsock == SlabCache("AF_VSOCK", 36, 40, 1280, 12, 4, 0, 0, 0, 3, 4, 0)
    assert vsock.order == 2
    assert journal == SlabCache("jbd2_1k(9:user)", 0, 0, 2112, 15, 8, 1, 2, 3, 0, 0, 5)


@needs_data
def test_recorded_counters_and_caches() -> None:
    folder = SHARED / "linux-6.18-compile"
    counters = read_vmstat(folder / "live_vmstat.txt")
    zones = read_zones(folder / "live_zoneinfo.txt")
    for name in ("nr_zspages", "nr_free_cma", "nr_mlock"):
        assert counters[name] == sum(zone.counters.get(name, 0) for zone in zones)
    caches = read_slabinfo(folder / "live_slabinfo.txt")
    assert len(caches) == 235
    # A slab of SLUB holds as many objects as fit.
    assert all(cache.objects_per_slab * cache.object_bytes <= cache.frames_per_slab << 12 for cache in caches)
    assert all(cache.objects == cache.slabs * cache.objects_per_slab for cache in caches)
    assert len(read_vmstat(SHARED / "linux-6.18-fragmented" / "vmstat0.txt")) > 150


@settings(max_examples=40)
@given(
    runs=st.lists(st.tuples(st.sampled_from([0, 1 << 10, 1 << 20, (1 << 64) - 1]), st.integers(1, 40)), min_size=1),
    chunk=st.integers(1, 9),
)
def test_frame_flags_are_coded_by_runs(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]], chunk: int
) -> None:
    words = np.repeat(np.array([flags for flags, _ in runs], np.uint64), [length for _, length in runs])
    path = tmp_path_factory.mktemp("flags") / "kpageflags"
    path.write_bytes(words.astype("<u8").tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frameflags, "_BYTES_AT_ONCE", 8 * chunk)
        found = read_frame_flags(path)
    assert found.npfn == len(words) and found.starts.dtype == np.int64 and found.flags.dtype == np.uint64
    assert (np.repeat(found.flags, np.diff(np.append(found.starts, found.npfn))) == words).all()
    assert found.starts[0] == 0 and (found.flags[1:] != found.flags[:-1]).all()


def test_damaged_texts_are_refused(tmp_path: Path) -> None:
    zone = "Node 0, zone Normal\n"
    table = "Node 0, zone Normal" + " 1" * 11 + "\n"
    types = "Node 0, zone Normal, type Movable" + " 1" * 11 + "\n"
    path = tmp_path / "text"
    refused(read_indices, path, "", "no zone")
    refused(read_indices, path, table, "'1'", "line 1")
    refused(read_indices, path, INDEX + INDEX, "zone DMA again", "line 3")
    refused(read_indices, path, INDEX.replace(" 0.998", ""), "10 counts by order", "line 2")
    refused(read_indices, path, "nothing", "'nothing'")
    refused(read_vmstat, path, "", "no counter")
    refused(read_vmstat, path, "a 1\nb -1\n", "'-1'", "line 2")
    refused(read_vmstat, path, f"a {1 << 64}", "64 bits")
    refused(read_vmstat, path, "a 1\na 1\n", "a again", "line 2")
    refused(read_vmstat, path, "a 1 2\n", "'a 1 2'")
    refused(read_vmstat, path, b"a \xff1", "cannot be read")
    refused(read_vmstat, path, "a" * 5_000_000, "too long")
    refused(read_slabinfo, path, "", "another heading")
    refused(read_slabinfo, path, SLABINFO.replace("2.1", "2.0"), "another heading")
    refused(read_slabinfo, path, SLABINFO + "x 1 2\n", "'x 1 2'", "line 5")
    refused(read_slabinfo, path, SLABINFO.replace("1280", "12x0"), "'12x0'", "line 3")
    refused(read_slabinfo, path, SLABINFO + SLABINFO[SLABINFO.index("AF") :], "cache AF_VSOCK again")
    refused(read_zones, path, zone + "  pages free 1\n        min 2\n        min 2\n", "min again", "line 4")
    refused(read_zones, path, zone + zone, "zone Normal again", "line 2")
    refused(read_zones, path, zone + "        protection: (0, x)\n", "'x'", "line 2")
    refused(read_zones, path, zone + "  pagesets\n    cpu: y\n", "'y'", "line 3")
    refused(read_zones, path, "  min 3\n", "min before any zone", "line 1")
    refused(read_pagetypeinfo, path, types + types, "type Movable again", "line 2")
    blocks = "Number of blocks type Movable\nNode 0, zone Normal 3\n"
    refused(read_pagetypeinfo, path, types + blocks + "Node 0, zone Normal 3\n", "zone Normal again", "line 4")
    refused(read_pagetypeinfo, path, types + blocks + "Number of mixed blocks\nNode 0, zone Normal 3 4\n", "lacks rows")
    for line, part in (
        ("0x1-0x2", "should begin with a range"),
        ("0x1-0x2 12x", "'12x'"),
        ("0x1-0x2 1 f()", "'f()'"),
        ("0x1-0x2 1 f pages=1 pages=1", "pages again"),
        ("0x1-0x2 1 f phys=zz", "phys 'zz'"),
        ("0x1-0x2 1 f vmalloc vmalloc", "'vmalloc'"),
        ("0x1-0x2 1 f N0=-1", "'-1'"),
    ):
        refused(read_vmallocinfo, path, f"0x1-0x2 1 f vmalloc\n{line}\n", "line 2", part)


def test_damaged_frame_flags_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kpageflags"
    refused(read_frame_flags, path, b"", "no frame")
    refused(read_frame_flags, path, bytes(20), "4 bytes after frame 0")
    monkeypatch.setattr(frameflags, "MOST_RUNS", 2)
    refused(read_frame_flags, path, np.arange(3, dtype="<u8").tobytes(), "more than 2 runs")
    monkeypatch.setattr(frameflags, "MACHINE_FRAMES", 2)
    refused(read_frame_flags, path, bytes(24), "more than 2 frames")
    path.unlink()
    with pytest.raises(RecordingError, match=r"No such file.*kpageflags"):
        read_frame_flags(path)
