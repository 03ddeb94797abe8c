"""Events out of ftrace's text: every field of every event, and no process in what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vclab.recordings.test_readers import refused
from tests.vclab.recordings.texts import DETAILS, TRACE_HEADING, as_perf, as_trace
from vclab.recordings import tracetext
from vclab.recordings.recording import Operation
from vclab.recordings.tracetext import FIELDS, TraceText, page_rows, read_trace


def read(place: Path, text: str) -> TraceText:
    (place / "trace").write_text(text)
    return read_trace(place / "trace")


def test_every_event_has_a_sample() -> None:
    assert DETAILS.keys() == FIELDS.keys()


@pytest.mark.parametrize("line", [as_trace, as_perf])
@pytest.mark.parametrize("name", DETAILS)
def test_every_field_is_read(name: str, line: object, tmp_path: Path) -> None:
    trace = read(tmp_path, TRACE_HEADING + 2 * line(name, DETAILS[name]))  # type: ignore[operator]
    assert (trace.skipped, trace.lost, list(trace.events)) == (0, 0, [name])
    events = trace.events[name]
    assert events.cpu.tolist() == [1, 1] and events.row.tolist() == [0, 1]
    assert events.time.tolist() == [5904081796000 if line is as_trace else 5904081796123] * 2
    for field, kind in FIELDS[name].items():
        column = events.fields[field]
        assert column[0] == column[1]
        value = events.words[field][column[0]] if kind[0] == "w" else int(column[0])
        assert str(value) in DETAILS[name] or f"{value:x}" in DETAILS[name], field
    assert set(events.words) == {field for field, kind in FIELDS[name].items() if kind[0] == "w"}


def test_numbers_and_words(tmp_path: Path) -> None:
    trace = read(tmp_path, "".join(as_trace(name, details) for name, details in DETAILS.items()))
    area = trace.events["alloc_vmap_area"].fields
    assert area["va_start"].dtype == np.uint64 and int(area["va_start"][0]) == 18446683600571105280
    kmalloc = trace.events["kmalloc"]
    assert kmalloc.fields["node"].tolist() == [-1] and kmalloc.fields["ptr"].tolist() == [0x067F5745]
    assert kmalloc.words == {"gfp_flags": ("GFP_KERNEL",), "accounted": ("false",)}
    walk = trace.events["mm_compaction_isolate_freepages"].fields
    assert [int(walk[name][0]) for name in walk] == [0x63FE00, 0x640000, 512, 77]
    assert trace.events["mm_compaction_finished"].fields["order"].tolist() == [-1]


def test_no_process_is_kept(tmp_path: Path) -> None:
    names = ("secret", "a b-c 7", "[003] 1.0: x:", "x-1 [002]", "<...>", "(sd-pam)", "kmem:kfree:", "-", "1 2 3")
    lines = [as_trace("mm_page_free", DETAILS["mm_page_free"]).replace("kworker/1:0", name) for name in names]
    lines += [as_perf("mm_page_free", DETAILS["mm_page_free"]).replace("cc1", name) for name in names]
    grouped = lines[0].replace("-9676 ", "-9676 ( 4242) ")
    trace = read(tmp_path, "".join([*lines, grouped, lines[0].replace("11539", "11538/11539")]))
    assert trace.skipped == 0
    events = trace.events["mm_page_free"]
    assert events.fields["pfn"].tolist() == [0x1496D9] * (2 * len(names) + 2)
    assert set(events.cpu.tolist()) == {1}
    assert set(events.fields) == {"pfn", "order"}
    # A line that cannot be understood is not quoted either.
    refused(read_trace, tmp_path / "bad", lines[0].replace("[001]", "[00x]"), "line 1")
    with pytest.raises(Exception, match="no event") as caught:
        read(tmp_path, lines[0].replace("[001]", "[00x]"))
    assert "secret" not in str(caught.value) and "9676" not in str(caught.value)


def test_other_events_stacks_and_gaps(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        TRACE_HEADING
        + as_trace("sched_switch", "prev_comm=secret prev_pid=1")
        + as_perf("kfree", DETAILS["kfree"]).replace("kmem:", "mine:")
        + "            bash-1200    [000] .....  5904.1: <stack trace>\n => kfree\n => do_exit\n"
        + "\t        ffffffff8123abcd kfree+0x1d ([kernel.kallsyms])\n"
        + "CPU:1 [LOST 42 EVENTS]\nCPU:0 [LOST EVENTS]\n\n",
    )
    assert (trace.events, trace.skipped, trace.lost) == ({}, 3, 43)


def test_pages_become_rows_of_a_recording(tmp_path: Path) -> None:
    names = ["mm_page_pcpu_drain", "mm_page_alloc_extfrag", "kfree", "mm_page_free", "mm_page_alloc_zone_locked"]
    names += ["mm_page_alloc", "mm_page_free_batched"]
    text = "".join(as_trace(name, DETAILS[name], f"1.00000{n}", cpu=n) for n, name in enumerate(names))
    text += as_trace("mm_page_alloc", "page=0000000000000000 pfn=0x0 order=9 migratetype=1 gfp_flags=GFP_ATOMIC", "2.0")
    rows = page_rows(read(tmp_path, text))
    kinds = [Operation.DRAIN, Operation.CLAIM, Operation.FREE, Operation.REMOVE, Operation.ALLOCATE, Operation.ALLOCATE]
    assert rows.operation.tolist() == kinds
    assert rows.cpu.tolist() == [0, 1, 3, 4, 5, 1]
    assert rows.frame.tolist() == [0x1496D9, 0x149600, 0x1496D9, 0x1496D9, 0x12E55A, -1]
    assert rows.order.tolist() == [0, 3, 0, 1, 3, 9]
    assert rows.migratetype.tolist() == [0, 0, -1, 2, 1, 1]
    assert rows.extra.tolist() == [0, 9 | 1 << 4 | 1 << 8, 0, 1, 0, 0]
    assert rows.time.tolist() == [1_000_000_000 + 1000 * n for n in (0, 1, 3, 4, 5)] + [2_000_000_000]
    assert page_rows(read(tmp_path, "")).frame.size == 0


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**40), st.integers(0, 10), st.integers(-1, 5), st.integers(0, 400), st.booleans()),
        max_size=20,
    )
)
def test_any_events_are_read(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, int, int, int, bool]]
) -> None:
    text = "".join(
        (as_perf if perf else as_trace)(
            "mm_page_alloc", f"page=x pfn={pfn:#x} order={order} migratetype={kind} gfp_flags=F{order}", cpu=cpu
        )
        for pfn, order, kind, cpu, perf in events
    )
    found = read(tmp_path_factory.mktemp("traces"), text).events.get("mm_page_alloc")
    if found is not None:
        columns = [found.fields[name].tolist() for name in ("pfn", "order", "migratetype")]
        assert list(zip(*columns, found.cpu.tolist(), strict=True)) == [event[:4] for event in events]
        words = found.words["gfp_flags"]
        assert [words[code] for code in found.fields["gfp_flags"]] == [f"F{order}" for _, order, *_ in events]


def test_damaged_texts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace"
    good = as_trace("mm_page_free", DETAILS["mm_page_free"])
    refused(read_trace, path, good + "what is this\n", "no event", "line 2")
    refused(read_trace, path, good[:-9] + "\n", "no order", "line 1: mm_page_free")
    refused(read_trace, path, good.replace("order=0", "order=zero"), "order 'zero'", "line 1: mm_page_free")
    refused(read_trace, path, good.replace("0x1496d9", "-5"), "pfn -5", "numbers from 0")
    refused(read_trace, path, good.replace("order=0", f"order={1 << 63}"), "order 9223372036854775808")
    refused(read_trace, path, as_trace("kfree", "ptr=?"), "ptr '?'", "kfree")
    refused(read_trace, path, as_trace("mm_compaction_suitable", "node=0 zone=a,b order=0 ret=x"), "zone 'a,b'")
    refused(read_trace, path, good + "x" * 5000, "a long line", "line 2")
    monkeypatch.setattr(tracetext, "MOST_NUMBERS", 12)
    refused(read_trace, path, 3 * good, "too many events", "line 3")
    monkeypatch.setattr(tracetext, "MOST_WORDS", 1)
    alloc = as_trace("mm_page_alloc", DETAILS["mm_page_alloc"])
    refused(read_trace, path, alloc + alloc.replace("GFP_H", "GFP_X"), "line 2")
    path.unlink()
    with pytest.raises(Exception, match="No such file"):
        read_trace(path)
