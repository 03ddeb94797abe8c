"""Events out of raw sub-buffers of ftrace's ring buffer, as ``per_cpu/cpuN/trace_pipe_raw`` gives them.

A sub-buffer is a page: the time of its first event (8 bytes), a commit word (8 bytes: how many bytes of data follow,
and two flags about lost events), data. An event is a word of 32 bits, 5 bits of type or length and 27 bits of time
since the event before, and what the type asks for. What a tracepoint recorded begins with 8 common bytes: the event's
number, flags, and the number of the process, which is never read here.

Linux ``include/linux/ring_buffer.h``; ``kernel/trace/ring_buffer.c``: ``rb_event_length``, ``rb_fix_abs_ts``,
``rb_read_data_buffer``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

HEADER_WORDS = 4
"""32-bit words before a sub-buffer's data."""
COMMON_WORDS = 2
"""32-bit words of a record before its own fields: number, flags, process."""
EVENT_NUMBERS = 1 << 16
"""Numbers that an event can have."""
PAYLOAD_WORDS = 6
"""64-bit words of a record's own fields that are kept; longer records are cut."""
LONGEST_LENGTH = 28
"""Largest type that is a length, in 32-bit words."""
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
TIME_SHIFT = 27
TIME_STAMP_BITS = 59
"""Bits of an absolute time; those above are the ones of the time before."""
LENGTH_MASK = (1 << 27) - 1
LOST_STORED = 1 << 30
"""Flag of the commit word: the number of events lost before this page stands behind its data."""
LOST = 1 << 31
"""Flag of the commit word: events were lost before this page."""


class PageCount(IntEnum):
    """Index into the counts of :func:`read_pages`."""

    PAGES = 0
    EVENTS = 1
    """Records of any number."""
    SHORT = 2
    """Records of a wanted number without a whole header; not given out."""
    LOST_PAGES = 3
    """Pages that say that events were lost before them."""
    LOST_EVENTS = 4
    """Events lost, as far as pages give the number."""
    BROKEN_PAGES = 5
    """Pages that no ring buffer writes; nothing of them is given out."""


PAGE_COUNTS = len(PageCount)


class Events(NamedTuple):
    """Columns of events.

    Attributes
    ----------
    time : int64[rows]
        In units of the buffer's clock.
    event : uint16[rows]
        Number of the event.
    cpu : uint16[rows]
        CPU whose buffer held it.
    words : uint64[rows, PAYLOAD_WORDS]
        The record from its own first field on, 0 behind its end.
    """

    time: npt.NDArray[np.int64]
    event: npt.NDArray[np.uint16]
    cpu: npt.NDArray[np.uint16]
    words: npt.NDArray[np.uint64]


def new_events(rows: int) -> Events:
    """Return empty columns."""
    return Events(
        np.zeros(rows, np.int64),
        np.zeros(rows, np.uint16),
        np.zeros(rows, np.uint16),
        np.zeros((rows, PAYLOAD_WORDS), np.uint64),
    )


@kernel(inline=True)
def _wide(page: npt.NDArray[np.uint32], word: int) -> np.uint64:
    """Return the 64-bit number at a 32-bit word."""
    return np.uint64(page[unsigned(word)]) | (np.uint64(page[unsigned(word + 1)]) << np.uint64(32))


@kernel(inline=True)
def _put(events: Events, row: int, time: int, cpu: int, page: npt.NDArray[np.uint32], start: int, end: int) -> None:
    """Write the record in words ``start`` to ``end`` of a page as a row."""
    events.time[unsigned(row)] = time
    events.event[unsigned(row)] = page[unsigned(start)] & np.uint32(EVENT_NUMBERS - 1)
    events.cpu[unsigned(row)] = cpu
    for index in range(PAYLOAD_WORDS):
        word = start + COMMON_WORDS + 2 * index
        value = np.uint64(0)
        if word < end:
            value = np.uint64(page[unsigned(word)])
        if word + 1 < end:
            value |= np.uint64(page[unsigned(word + 1)]) << np.uint64(32)
        events.words[unsigned(row), unsigned(index)] = value


@kernel
def _read_page(
    page: npt.NDArray[np.uint32],
    cpu: int,
    wanted: npt.NDArray[np.uint8],
    events: Events,
    row: int,
    counts: npt.NDArray[np.int64],
) -> int:
    """Read one page from a row on; return the row after its last one, or -1 if the page is broken."""
    time = np.int64(_wide(page, 0))
    commit = np.int64(page[2])
    length = commit & LENGTH_MASK
    words = len(page)
    if length & 3 or length > 4 * (words - HEADER_WORDS):
        return -1
    end = HEADER_WORDS + (length >> 2)
    seen = 0
    short = 0
    position = HEADER_WORDS
    while position < end:
        head = np.int64(page[unsigned(position)])
        kind = head & 31
        delta = head >> 5
        if kind == PADDING and delta == 0:
            # The rest of the page was not used.
            break
        if 0 < kind <= LONGEST_LENGTH:
            start = position + 1
            after = start + kind
        else:
            if position + 1 >= end:
                return -1
            second = np.int64(page[unsigned(position + 1)])
            start = position + 2
            after = start
            if kind == TIME_EXTEND:
                time += delta + (second << TIME_SHIFT)
            elif kind == TIME_STAMP:
                stamp = delta + (second << TIME_SHIFT)
                high = (time >> TIME_STAMP_BITS) << TIME_STAMP_BITS
                if high != 0 and stamp + high < time:
                    high += 1 << TIME_STAMP_BITS
                time = stamp + high
            else:
                # The length counts its own word, and padding that was an event has one too.
                if second < 4 or second & 3:
                    return -1
                after = position + 1 + (second >> 2)
        if after > end:
            return -1
        if kind <= LONGEST_LENGTH:
            time += delta
            seen += 1
            if after > start and wanted[unsigned(page[unsigned(start)] & np.uint32(EVENT_NUMBERS - 1))]:
                if after < start + COMMON_WORDS:
                    short += 1
                else:
                    _put(events, row, time, cpu, page, start, after)
                    row += 1
        elif kind == PADDING and delta != 1:
            # An event that was discarded; a time of 1 only says that it is no unused rest.
            time += delta
        position = after
    counts[PageCount.EVENTS] += seen
    counts[PageCount.SHORT] += short
    if commit & LOST:
        counts[PageCount.LOST_PAGES] += 1
        behind = HEADER_WORDS + (length >> 2)
        if commit & LOST_STORED and behind + 2 <= words:
            counts[PageCount.LOST_EVENTS] += np.int64(_wide(page, behind))
    return row


@kernel
def read_pages(
    pages: npt.NDArray[np.uint32],
    cpu: int,
    wanted: npt.NDArray[np.uint8],
    events: Events,
    counts: npt.NDArray[np.int64],
    first: int,
    rows: npt.NDArray[np.int64],
) -> int:
    """Read sub-buffers of one CPU until the columns cannot be sure to hold another, or all are read.

    Parameters
    ----------
    pages : uint32[n, words]
        Sub-buffers, little-endian.
    cpu : int
        CPU that they are of.
    wanted : uint8[EVENT_NUMBERS]
        1 for each event number to give out.
    events : Events
        Written.
    counts : int64[PAGE_COUNTS]
        What was met, by :class:`PageCount`; added to.
    first : int
        First page to read.
    rows : int64[1]
        Rows of ``events`` that are filled; brought up.

    Returns
    -------
    int
        The page to go on with; ``len(pages)`` at the end.
    """
    # An event that is given out takes three words at least.
    most = pages.shape[1] // 3
    index = first
    while index < pages.shape[0] and rows[0] + most <= len(events.time):
        row = _read_page(pages[index], cpu, wanted, events, rows[0], counts)
        counts[PageCount.PAGES] += 1
        if row < 0:
            counts[PageCount.BROKEN_PAGES] += 1
        else:
            rows[0] = row
        index += 1
    return index
