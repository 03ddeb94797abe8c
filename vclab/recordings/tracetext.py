"""Reading of ftrace's text, from ``trace`` in tracefs or ``perf script``: events of kmem, compaction and vmalloc.

Names and ids of processes stand in every line; they are skipped and never kept, in messages neither.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.layout import EventRows
from vclab.recordings.recording import Operation
from vclab.recordings.refusal import reading, refusal

#: Most bytes of a line.
LINE_BYTES = 4096
#: Most numbers kept of one file, of 8 bytes each.
MOST_NUMBERS = 150_000_000
#: Most different words of one field, as names of caches and sets of flags.
MOST_WORDS = 10_000

# What a field is: a signed or unsigned number, a hexadecimal one without 0x, or a word. A question mark: not in all
# kernels; -1 or an empty word where it is missing.
_SIGNED, _UNSIGNED, _HEXADECIMAL, _WORD, _MAYBE = "i", "u", "x", "w", "?"
_BLOCK = {"pfn": "u", "order": "i"}
_TYPED_BLOCK = {**_BLOCK, "migratetype": "i"}
_SCAN = {"start_pfn": "u", "end_pfn": "u", "nr_scanned": "u", "nr_taken": "u"}
_SCANNERS = {"zone_start": "u", "migrate_pfn": "u", "free_pfn": "u", "zone_end": "u", "mode": "w?"}
_ANSWER = {"node": "i", "zone": "w", "order": "i", "ret": "w"}
_DEFERRAL = {"node": "i", "zone": "w", "order": "i", "order_failed": "i", "consider": "u", "limit": "u"}
_WAKE = {"nid": "i", "order": "i", "classzone_idx": "w"}
_OBJECT = {"ptr": "x", "bytes_req": "u", "bytes_alloc": "u", "gfp_flags": "w", "node": "i?", "accounted": "w?"}

#: Fields that are kept, by event.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "mm_page_alloc": {**_TYPED_BLOCK, "gfp_flags": "w"},
    "mm_page_free": _BLOCK,
    "mm_page_free_batched": _BLOCK,
    "mm_page_alloc_zone_locked": {**_TYPED_BLOCK, "percpu_refill": "i"},
    "mm_page_pcpu_drain": _TYPED_BLOCK,
    "mm_page_alloc_extfrag": {
        "pfn": "u",
        "alloc_order": "i",
        "fallback_order": "i",
        "pageblock_order": "i?",
        "alloc_migratetype": "i",
        "fallback_migratetype": "i",
        "fragmenting": "i?",
        "change_ownership": "i",
    },
    "kmalloc": _OBJECT,
    "kmem_cache_alloc": {"name": "w?", **_OBJECT},
    "kfree": {"ptr": "x"},
    "kmem_cache_free": {"ptr": "x", "name": "w?"},
    "mm_compaction_begin": _SCANNERS,
    "mm_compaction_end": {**_SCANNERS, "status": "w"},
    "mm_compaction_isolate_migratepages": _SCAN,
    "mm_compaction_isolate_freepages": _SCAN,
    "mm_compaction_fast_isolate_freepages": _SCAN,
    "mm_compaction_migratepages": {"nr_migrated": "u", "nr_failed": "u"},
    "mm_compaction_try_to_compact_pages": {"order": "i", "gfp_mask": "w", "priority": "i"},
    "mm_compaction_suitable": _ANSWER,
    "mm_compaction_finished": _ANSWER,
    "mm_compaction_deferred": _DEFERRAL,
    "mm_compaction_defer_compaction": _DEFERRAL,
    "mm_compaction_defer_reset": _DEFERRAL,
    "mm_compaction_kcompactd_wake": _WAKE,
    "mm_compaction_wakeup_kcompactd": _WAKE,
    "mm_compaction_kcompactd_sleep": {"nid": "i"},
    "alloc_vmap_area": {"va_start": "u", "size": "u", "align": "u", "vstart": "u", "vend": "u", "failed": "i"},
    "free_vmap_area_noflush": {"va_start": "u", "nr_lazy": "u", "nr_lazy_max": "u"},
    "purge_vmap_area_lazy": {"start": "u", "end": "u", "num_purged": "u"},
}
SYSTEMS = ("kmem", "compaction", "vmalloc")

# task-id (group) [cpu] flags time: event: ..., or task id [cpu] time: system:event: ...
_EVENT = re.compile(
    r"\s*\S.{0,23}?[-\s]\s*-?\d{1,10}(?:/\s*\d{1,10})?\s+(?:\([\s\d-]{1,10}\)\s+)?\[(\d{1,5})\]\s+(?:[^\s\d]\S{0,11}\s+)?"
    r"(\d{1,9})\.(\d{1,9}):\s+(?:\d{1,12}\s+)?(?:(\w{1,64}):)?(\w{1,64}|<stack trace>):?(?:\s+(.*))?",
    re.ASCII,
)
_LOST = re.compile(r"CPU:\d{1,5} \[LOST(?: (\d{1,18}))? EVENTS\]", re.ASCII)
# Rows of a stack below an event.
_STACK = re.compile(r"\s*=> .*|\s+[0-9a-f]{4,16} .*", re.ASCII)
_PAIR = re.compile(r"(\w{1,64})(?:=|: )(\S{1,1000})", re.ASCII)
_RANGE = re.compile(r"range=\((0x[0-9a-f]{1,16}) ~ (0x[0-9a-f]{1,16})\)", re.ASCII)
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]{1,16}|\d{1,20})", re.ASCII)
_BARE_HEXADECIMAL = re.compile(r"(?:0x)?[0-9a-f]{1,16}", re.ASCII)
_WORD_LETTERS = re.compile(r"[\w|.+/()\[\]:<>~@$-]{1,1000}", re.ASCII)


@dataclass(frozen=True, eq=False)
class TraceEvents:
    """All events of one name, as they follow in the file.

    Attributes
    ----------
    time : int64[n]
        Nanoseconds of the trace's clock.
    cpu : int64[n]
    row : int64[n]
        How many of the events that are kept came before, whatever their names.
    fields : dict
        int64[n] or uint64[n] by name; of a field of words, indices into `words`.
    words : dict
        By field: its different words.
    """

    time: NDArray[np.int64]
    cpu: NDArray[np.int64]
    row: NDArray[np.int64]
    fields: dict[str, NDArray[Any]]
    words: dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class TraceText:
    """What a text of events holds.

    Attributes
    ----------
    events : dict
        By name, those that occur.
    skipped : int
        Events of other names.
    lost : int
        Events that the kernel says it lost; at least 1 for each place that gives no number.
    """

    events: dict[str, TraceEvents]
    skipped: int
    lost: int


class _Columns:
    """Events of one name while they are read."""

    def __init__(self, name: str) -> None:
        self.kinds = FIELDS[name]
        self.time, self.cpu, self.row = array("q"), array("q"), array("q")
        self.fields = {name: array("q" if kind[0] in "iw" else "Q") for name, kind in self.kinds.items()}
        self.words: dict[str, dict[str, int]] = {name: {} for name, kind in self.kinds.items() if kind[0] == _WORD}

    def add(self, details: str, where: str) -> None:
        """Take in the fields of one event."""
        found = dict(_PAIR.findall(details))
        if (span := _RANGE.search(details)) is not None:
            found["start_pfn"], found["end_pfn"] = span[1], span[2]
        for name, kind in self.kinds.items():
            word = found.get(name)
            if word is None and not kind.endswith(_MAYBE):
                raise refusal(f"no {name}", where, f"the event has {', '.join(self.kinds)}")
            column = self.fields[name]
            if kind[0] == _WORD:
                column.append(self._code(name, word or "", where))
            else:
                column.append(-1 if word is None else _number(name, kind[0], word.rstrip(","), where))

    def _code(self, name: str, word: str, where: str) -> int:
        words = self.words[name]
        if word not in words:
            if word and _WORD_LETTERS.fullmatch(word) is None:
                raise refusal(f"{name} {word[:40]!r}", where, "a word is needed")
            if len(words) >= MOST_WORDS:
                raise refusal(f"more than {MOST_WORDS} words of {name}", where, "a field has few different words")
            words[word] = len(words)
        return words[word]

    def done(self) -> TraceEvents:
        fields: dict[str, NDArray[Any]] = {}
        for name, column in self.fields.items():
            fields[name] = np.frombuffer(column, np.int64 if column.typecode == "q" else np.uint64)
        return TraceEvents(
            time=np.frombuffer(self.time, np.int64),
            cpu=np.frombuffer(self.cpu, np.int64),
            row=np.frombuffer(self.row, np.int64),
            fields=fields,
            words={name: tuple(words) for name, words in self.words.items()},
        )


def _number(name: str, kind: str, word: str, where: str) -> int:
    if kind == _HEXADECIMAL:
        # The null pointer and pointers before the kernel can hash them are printed in words.
        if word.startswith("("):
            return 0
        if _BARE_HEXADECIMAL.fullmatch(word) is None:
            raise refusal(f"{name} {word[:40]!r}", where, "an address is needed")
        return int(word, 16)
    if _NUMBER.fullmatch(word) is None:
        raise refusal(f"{name} {word[:40]!r}", where, "a number is needed")
    number = int(word, 16 if "0x" in word else 10)
    low, high = (-(1 << 63), 1 << 63) if kind == _SIGNED else (0, 1 << 64)
    if not low <= number < high:
        raise refusal(f"{name} {word[:40]}", where, f"numbers from {low} to {high - 1} are possible")
    return number


def read_trace(path: Path) -> TraceText:
    """Read a text of events.

    Raises
    ------
    RecordingError
        If the file is missing, a line is no event, an event lacks a field, or there is too much of it.
    """
    columns: dict[str, _Columns] = {}
    skipped = lost = row = numbers = number = 0
    with reading(path), path.open("rb") as source:
        while line := source.readline(LINE_BYTES + 1):
            number += 1
            where = f"{path} line {number}"
            if len(line) > LINE_BYTES:
                raise refusal("a long line", where, f"lines have at most {LINE_BYTES} bytes")
            text = line.decode("utf-8", "replace").rstrip()
            if not text or text.startswith("#"):
                continue
            match = _EVENT.fullmatch(text)
            if match is None:
                if (gap := _LOST.fullmatch(text.strip())) is not None:
                    lost += max(int(gap[1] or 1), 1)
                elif _STACK.fullmatch(text) is None:
                    raise refusal("no event", where, "a line should have CPU, time in seconds, and an event")
                continue
            name = match[5]
            if name not in FIELDS or match[4] not in (None, *SYSTEMS):
                skipped += 1
                continue
            if name not in columns:
                columns[name] = _Columns(name)
            into = columns[name]
            numbers += 3 + len(into.kinds)
            if numbers > MOST_NUMBERS:
                raise refusal("too many events", where, f"{MOST_NUMBERS} numbers can be read")
            into.time.append(int(match[2]) * 1_000_000_000 + int(match[3].ljust(9, "0")))
            into.cpu.append(int(match[1]))
            into.row.append(row)
            into.add(match[6] or "", f"{where}: {name}")
            row += 1
    return TraceText({name: into.done() for name, into in columns.items()}, skipped, lost)


#: What each event of pages is in a recording, and the names of its order and migratetype.
_PAGE_EVENTS = {
    "mm_page_alloc": (Operation.ALLOCATE, "order", "migratetype"),
    "mm_page_free": (Operation.FREE, "order", ""),
    "mm_page_alloc_zone_locked": (Operation.REMOVE, "order", "migratetype"),
    "mm_page_pcpu_drain": (Operation.DRAIN, "order", "migratetype"),
    "mm_page_alloc_extfrag": (Operation.CLAIM, "alloc_order", "alloc_migratetype"),
}


def page_rows(trace: TraceText) -> EventRows:
    """Return the events of pages as a recording has them, in the order of the file.

    ``mm_page_free_batched`` repeats ``mm_page_free`` and is left out. A failed allocation has frame -1.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    for name, (operation, order, migratetype) in _PAGE_EVENTS.items():
        if name not in trace.events:
            continue
        events = trace.events[name]
        fields = events.fields
        frame = fields["pfn"].astype(np.int64)
        extra = np.zeros(len(frame), np.int64)
        if operation == Operation.ALLOCATE:
            frame = np.where(frame == 0, -1, frame)
        elif operation == Operation.REMOVE:
            extra = (fields["percpu_refill"] != 0).astype(np.int64)
        elif operation == Operation.CLAIM:
            extra = fields["fallback_order"] & 15 | (fields["fallback_migratetype"] & 15) << 4
            extra = extra | (fields["change_ownership"] & 1) << 8
        parts.append(
            {
                "time": events.time,
                "operation": np.full(len(frame), operation, np.uint8),
                "order": fields[order],
                "migratetype": fields[migratetype] if migratetype else np.full(len(frame), -1, np.int64),
                "cpu": events.cpu,
                "frame": frame,
                "extra": extra.astype(np.uint16),
                "row": events.row,
            }
        )
    kinds = {"operation": np.uint8, "extra": np.uint16}
    names = ("time", "operation", "order", "migratetype", "cpu", "frame", "extra", "row")
    joined = {
        name: np.concatenate([np.empty(0, kinds.get(name, np.int64)), *(part[name] for part in parts)])
        for name in names
    }
    sequence = np.argsort(joined.pop("row"), kind="stable")
    return EventRows(**{name: column[sequence] for name, column in joined.items()})
