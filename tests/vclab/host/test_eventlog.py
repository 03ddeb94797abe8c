"""Events of all CPUs in one order, out of pages written here, and which of them hit a zone."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.oracles.ringbuffer import PageWriter
from tests.vclab.host.test_formats import COMMON
from vclab.errors import HostError
from vclab.host.eventlog import EventLog, read_log
from vclab.host.formats import EventFormat, event_format
from vclab.host.zonerows import zone_rows

# Numbers and offsets unlike those of any kernel: they are read, not known.
FORMATS: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {
    "kmem/mm_page_alloc": (900, {"order": (8, 4), "migratetype": (12, 4), "pfn": (16, 8), "gfp_flags": (24, 8)}),
    "kmem/mm_page_free": (901, {"pfn": (8, 8), "order": (16, 4)}),
    "kmem/mm_page_alloc_zone_locked": (
        7,
        {"pfn": (8, 8), "order": (16, 4), "migratetype": (20, 4), "percpu_refill": (24, 4)},
    ),
    "kmem/mm_page_pcpu_drain": (8, {"pfn": (8, 8), "order": (16, 4), "migratetype": (20, 4)}),
    "kmem/mm_page_alloc_extfrag": (
        9,
        {"pfn": (8, 8), "alloc_order": (16, 4), "fallback_order": (20, 4), "alloc_migratetype": (24, 4),
         "fallback_migratetype": (28, 4), "change_ownership": (32, 4)},
    ),
    "compaction/mm_compaction_isolate_migratepages": (20, {"start_pfn": (8, 8), "nr_taken": (16, 8)}),
    "compaction/mm_compaction_migratepages": (21, {"nr_migrated": (8, 8)}),
}  # fmt: skip


def form(name: str) -> EventFormat:
    number, fields = FORMATS[name]
    own = "".join(
        f"\tfield:int {field};\toffset:{offset};\tsize:{size};\tsigned:1;\n" for field, (offset, size) in fields.items()
    )
    return event_format(name, f"name: x\nID: {number}\nformat:\n{COMMON}\n{own}")


ALL_FORMATS = [form(name) for name in FORMATS]


def write(writer: PageWriter, delta: int, name: str, **values: int) -> None:
    number, fields = FORMATS[name]
    size = max(offset + width for offset, width in fields.values())
    body = bytearray(struct.pack("<HHi", number, 0, 4711).ljust(-(-size // 8) * 8, b"\0"))
    for field, value in values.items():
        offset, width = fields[field]
        body[offset : offset + width] = value.to_bytes(width, "little", signed=True)
    assert writer.record(delta, bytes(body))


def log_of(tmp_path: Path, *cpus: list[PageWriter]) -> EventLog:
    files = []
    for cpu, pages in enumerate(cpus):
        path = tmp_path / f"cpu{cpu}.raw"
        path.write_bytes(b"".join(page.bytes() for page in pages))
        files.append((cpu, path))
    return read_log(files, ALL_FORMATS, 4096)


def test_columns_in_the_order_of_time(tmp_path: Path) -> None:
    one, two = PageWriter(100), PageWriter(105, lost=3)
    write(one, 0, "kmem/mm_page_alloc", pfn=-1, order=9, migratetype=1, gfp_flags=0x1234)
    write(one, 10, "kmem/mm_page_alloc_extfrag", pfn=512, alloc_order=9, fallback_order=10, alloc_migratetype=0,
          fallback_migratetype=1, change_ownership=1)  # fmt: skip
    write(one, 0, "compaction/mm_compaction_migratepages", nr_migrated=31)
    write(two, 0, "kmem/mm_page_alloc_zone_locked", pfn=77, order=0, migratetype=2, percpu_refill=1)
    write(two, 5, "kmem/mm_page_free", pfn=78, order=3)
    write(two, 1, "compaction/mm_compaction_isolate_migratepages", start_pfn=1, nr_taken=2)
    log = log_of(tmp_path, [one], [two])
    assert log.time.tolist() == [100, 105, 110, 110, 110, 111]
    assert log.operation.tolist() == [0, 3, 5, 11, 1, 8]
    assert log.cpu.tolist() == [0, 1, 0, 0, 1, 1]
    assert log.frame.tolist() == [-1, 77, 512, 0, 78, 0]
    assert log.order.tolist() == [9, 0, 9, -1, 3, -1]
    assert log.migratetype.tolist() == [1, 2, 0, -1, -1, -1]
    assert log.extra.tolist() == [0, 1, 10 | 1 << 4 | 1 << 8, 0, 0, 0]
    assert log.flags.tolist() == [0x1234, 0, 0, 0, 0, 0]
    assert log.other.tolist() == [3, 5]
    assert log.words[:, :2].tolist() == [[31, 0], [1, 2]]
    assert (log.events, log.lost, log.lost_pages) == (6, 3, 1)


def test_no_process_is_kept(tmp_path: Path) -> None:
    writer = PageWriter(0)
    write(writer, 0, "compaction/mm_compaction_isolate_migratepages", start_pfn=1, nr_taken=2)
    log = log_of(tmp_path, [writer])
    for column in vars(log).values():
        assert not hasattr(column, "tolist") or 4711 not in column.ravel().tolist()


def test_an_empty_trace(tmp_path: Path) -> None:
    log = log_of(tmp_path, [], [])
    assert len(log.time) == len(log.other) == log.events == 0
    assert zone_rows(log, ALL_FORMATS, (0, 1, 2, 3, 9)).tolist() == []


def test_a_broken_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cpu0.raw"
    path.write_bytes(b"\xff" * 4096)
    with pytest.raises(HostError, match="broken sub-buffer, in the trace of CPU 0"):
        read_log([(0, path)], ALL_FORMATS, 4096)


def test_frees_without_a_list_go_to_the_zone_unless_compaction_gets_them(tmp_path: Path) -> None:
    writer, elsewhere = PageWriter(0), PageWriter(2)
    for order in (0, 3, 4, 9, 10):
        write(writer, 10, "kmem/mm_page_free", pfn=1024, order=order)
    write(writer, 10, "kmem/mm_page_pcpu_drain", pfn=3, order=0, migratetype=1)
    write(writer, 10, "compaction/mm_compaction_isolate_migratepages", nr_taken=0)
    write(writer, 10, "kmem/mm_page_free", pfn=16, order=4)
    write(writer, 10, "compaction/mm_compaction_isolate_migratepages", nr_taken=5)
    write(writer, 10, "kmem/mm_page_free", pfn=32, order=4)
    write(elsewhere, 101, "kmem/mm_page_free", pfn=48, order=4)
    write(writer, 10, "compaction/mm_compaction_migratepages", nr_migrated=5)
    write(writer, 10, "kmem/mm_page_free", pfn=64, order=4)
    log = log_of(tmp_path, [writer], [elsewhere])
    rows = zone_rows(log, ALL_FORMATS, (0, 1, 2, 3, 9))
    found = list(zip(log.operation[rows].tolist(), log.order[rows].tolist(), log.frame[rows].tolist(), strict=True))
    assert found == [(1, 4, 1024), (1, 10, 1024), (4, 0, 3), (1, 4, 16), (1, 4, 48), (1, 4, 64)]
