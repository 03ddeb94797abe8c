"""Every event of a recording in the order of time, as columns: out of the raw sub-buffers of all CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vckernels import ringbuffer
from vckernels.ringbuffer import Events, PageCount
from vclab.errors import HostError
from vclab.host.formats import EventFormat

#: Events of the page allocator by their operation: pages asked for and given back, and what happens below, in a zone.
PAGE_EVENTS = {
    "kmem/mm_page_alloc": 0,
    "kmem/mm_page_free": 1,
    "kmem/mm_page_alloc_zone_locked": 3,
    "kmem/mm_page_pcpu_drain": 4,
    "kmem/mm_page_alloc_extfrag": 5,
}
#: Events kept whole beside them, by their operation; a kernel may lack some.
OTHER_EVENTS = {
    "compaction/mm_compaction_begin": 6,
    "compaction/mm_compaction_end": 7,
    "compaction/mm_compaction_isolate_migratepages": 8,
    "compaction/mm_compaction_isolate_freepages": 9,
    "compaction/mm_compaction_fast_isolate_freepages": 10,
    "compaction/mm_compaction_migratepages": 11,
    "compaction/mm_compaction_try_to_compact_pages": 12,
    "compaction/mm_compaction_suitable": 13,
    "compaction/mm_compaction_finished": 14,
    "compaction/mm_compaction_deferred": 15,
    "compaction/mm_compaction_defer_compaction": 16,
    "compaction/mm_compaction_defer_reset": 17,
    "compaction/mm_compaction_kcompactd_wake": 18,
    "compaction/mm_compaction_wakeup_kcompactd": 19,
    "compaction/mm_compaction_kcompactd_sleep": 20,
    "vmalloc/alloc_vmap_area": 21,
    "vmalloc/free_vmap_area_noflush": 22,
    "vmalloc/purge_vmap_area_lazy": 23,
    "vmscan/mm_vmscan_direct_reclaim_begin": 24,
    "vmscan/mm_vmscan_direct_reclaim_end": 25,
    "vmscan/mm_vmscan_wakeup_kswapd": 26,
    "vmscan/mm_vmscan_kswapd_wake": 27,
}
_UNKNOWN = 255
_PAGES_AT_ONCE = 4096
_ROWS_AT_ONCE = 1 << 19
# What each operation's columns are called in its event: order, migratetype.
_COLUMNS = {
    0: ("order", "migratetype"),
    1: ("order", ""),
    3: ("order", "migratetype"),
    4: ("order", "migratetype"),
    5: ("alloc_order", "alloc_migratetype"),
}


@dataclass(frozen=True, eq=False)
class EventLog:
    """Columns of all events, ascending by time.

    Attributes
    ----------
    time : int64[n]
        Nanoseconds of the monotonic clock.
    operation : uint8[n]
        Values of ``PAGE_EVENTS`` and ``OTHER_EVENTS``.
    cpu : uint16[n]
    frame : int64[n]
        First frame of the block (absolute); -1 for a failed allocation, and 0 for the other events.
    order, migratetype : int16[n]
        -1 where the event gives none.
    extra : uint16[n]
        Removal from a zone: 1 if it refills a per-CPU list. Claim: fallback order | fallback migratetype << 4 | change
        of ownership << 8. Otherwise 0.
    flags : uint32[n]
        Allocation flags, 0 where there are none.
    other : int64[m]
        Rows of the other events.
    words : uint64[m, 6]
        Their records, from their first own field on.
    events, lost : int
        Records met in the buffers, and events that pages say were lost before them.
    lost_pages : int
        Pages that say so, be the number given or not.
    """

    time: npt.NDArray[np.int64]
    operation: npt.NDArray[np.uint8]
    cpu: npt.NDArray[np.uint16]
    frame: npt.NDArray[np.int64]
    order: npt.NDArray[np.int16]
    migratetype: npt.NDArray[np.int16]
    extra: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint32]
    other: npt.NDArray[np.int64]
    words: npt.NDArray[np.uint64]
    events: int
    lost: int
    lost_pages: int


_Part = dict[str, npt.NDArray[np.generic]]
_NAMES = {
    "time": np.int64,
    "operation": np.uint8,
    "cpu": np.uint16,
    "frame": np.int64,
    "order": np.int16,
    "migratetype": np.int16,
    "extra": np.uint16,
    "flags": np.uint32,
}


def read_log(
    files: Sequence[tuple[int, Path]],
    formats: Sequence[EventFormat],
    page_bytes: int,
    progress: Callable[[float], None] | None = None,
) -> EventLog:
    """Read the sub-buffers of all CPUs.

    Parameters
    ----------
    files : sequence of (cpu, path)
    formats : sequence of EventFormat
        Of the events in the buffers; names of ``PAGE_EVENTS`` and ``OTHER_EVENTS``.
    page_bytes : int
        Size of a sub-buffer.
    progress : callable, optional
        Told the share done, 0 to 1.

    Raises
    ------
    HostError
        If a sub-buffer is broken.
    """
    operations = {**PAGE_EVENTS, **OTHER_EVENTS}
    table = np.full(ringbuffer.EVENT_NUMBERS, _UNKNOWN, np.uint8)
    for one in formats:
        table[one.number] = operations[one.name]
    by_operation = {operations[one.name]: one for one in formats}
    counts = np.zeros(ringbuffer.PAGE_COUNTS, np.int64)
    parts: list[_Part] = []
    words: list[npt.NDArray[np.uint64]] = []
    whole = max(1, sum(path.stat().st_size for _, path in files))
    done = 0
    for cpu, path in files:
        with path.open("rb") as source:
            while chunk := source.read(_PAGES_AT_ONCE * page_bytes):
                pages = np.frombuffer(chunk, "<u4").reshape(-1, page_bytes // 4)
                for events in _batches(pages, cpu, table, counts):
                    operation = table[events.event]
                    parts.append(_columns(events, operation, by_operation))
                    words.append(events.words[operation > max(PAGE_EVENTS.values())])
                done += len(chunk)
                if progress is not None:
                    progress(done / whole)
        if counts[PageCount.BROKEN_PAGES]:
            raise HostError(f"a broken sub-buffer, in the trace of CPU {cpu}, no other form is known")
    return _in_order(parts, words, counts)


def _batches(
    pages: npt.NDArray[np.uint32], cpu: int, table: npt.NDArray[np.uint8], counts: npt.NDArray[np.int64]
) -> list[Events]:
    """Return the events of pages, in as many batches as the columns ask for."""
    wanted = (table != _UNKNOWN).astype(np.uint8)
    batches = []
    first = 0
    while first < len(pages):
        events = ringbuffer.new_events(max(_ROWS_AT_ONCE, pages.shape[1]))
        rows = np.zeros(1, np.int64)
        first = int(ringbuffer.read_pages(pages, cpu, wanted, events, counts, first, rows))
        filled = slice(0, int(rows[0]))
        batches.append(Events(events.time[filled], events.event[filled], events.cpu[filled], events.words[filled]))
    return batches


def _columns(events: Events, operation: npt.NDArray[np.uint8], formats: dict[int, EventFormat]) -> _Part:
    """Return the columns of a batch of one CPU's events."""
    rows = len(events.time)
    part: _Part = {name: np.zeros(rows, dtype) for name, dtype in _NAMES.items()}
    part["time"], part["operation"], part["cpu"] = events.time.copy(), operation, events.cpu.copy()
    part["order"] = np.full(rows, -1, np.int16)
    part["migratetype"] = np.full(rows, -1, np.int16)
    for number, (order, migratetype) in _COLUMNS.items():
        chosen = np.flatnonzero(operation == number)
        if not len(chosen):
            continue
        form, words = formats[number], events.words[chosen]
        part["frame"][chosen] = form.field("pfn").of(words)
        part["order"][chosen] = form.field(order).of(words)
        if migratetype:
            part["migratetype"][chosen] = form.field(migratetype).of(words)
        if number == PAGE_EVENTS["kmem/mm_page_alloc"]:
            part["flags"][chosen] = form.field("gfp_flags").of(words) & 0xFFFF_FFFF
        elif number == PAGE_EVENTS["kmem/mm_page_alloc_zone_locked"] and "percpu_refill" in form.fields:
            part["extra"][chosen] = form.field("percpu_refill").of(words) != 0
        elif number == PAGE_EVENTS["kmem/mm_page_alloc_extfrag"]:
            fallback = form.field("fallback_order").of(words) | form.field("fallback_migratetype").of(words) << 4
            part["extra"][chosen] = fallback | (form.field("change_ownership").of(words) != 0).astype(np.int64) << 8
    return part


def _in_order(parts: list[_Part], words: list[npt.NDArray[np.uint64]], counts: npt.NDArray[np.int64]) -> EventLog:
    """Return all CPUs' events in one order; events of one CPU and one moment stay as they were."""
    columns = {
        name: np.concatenate([part.pop(name) for part in parts]) if parts else np.zeros(0, dtype)
        for name, dtype in _NAMES.items()
    }
    as_read = np.flatnonzero(columns["operation"] > max(PAGE_EVENTS.values()))
    records = np.concatenate(words) if words else np.zeros((0, ringbuffer.PAYLOAD_WORDS), np.uint64)
    ascending = np.argsort(columns["time"], kind="stable")
    columns = {name: column[ascending] for name, column in columns.items()}
    other = np.flatnonzero(columns["operation"] > max(PAGE_EVENTS.values()))
    return EventLog(
        **columns,
        other=other,
        words=records[np.searchsorted(as_read, ascending[other])],
        events=int(counts[PageCount.EVENTS]),
        lost=int(counts[PageCount.LOST_EVENTS]),
        lost_pages=int(counts[PageCount.LOST_PAGES]),
    )
