"""Sub-buffers of ftrace's ring buffer in plain Python: reading, byte by byte, and writing for tests.

After the comments of Linux ``include/linux/ring_buffer.h`` and what ``events/header_page`` and ``events/header_event``
of a live kernel say; independent of the kernel code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

PAGE_BYTES = 4096
HEADER_BYTES = 16


class BrokenPage(Exception):
    """No ring buffer writes such a page."""


@dataclass
class Reading:
    """What a page held.

    Attributes
    ----------
    records : list of tuple
        Time, event number, own fields as bytes, for each record that is whole.
    events, short : int
        Records of any kind, and those without a whole header.
    lost : int or None
        None: no events were lost before the page. -1: some, of a number not said.
    """

    records: list[tuple[int, int, bytes]] = field(default_factory=list)
    events: int = 0
    short: int = 0
    lost: int | None = None


def read_page(page: bytes) -> Reading:
    """Return what a page held.

    Raises
    ------
    BrokenPage
        If an event or the data do not fit.
    """
    time, commit = struct.unpack_from("<qI", page)
    length = commit % (1 << 27)
    if length % 4 or HEADER_BYTES + length > len(page):
        raise BrokenPage
    data = page[HEADER_BYTES : HEADER_BYTES + length]
    reading = Reading()
    at = 0
    while at < len(data):
        (head,) = struct.unpack_from("<I", data, at)
        kind, delta = head % 32, head // 32
        if kind == 29 and delta == 0:
            break
        if 1 <= kind <= 28:
            body = data[at + 4 : at + 4 + 4 * kind]
            if len(body) < 4 * kind:
                raise BrokenPage
            at += 4 + 4 * kind
        else:
            if at + 8 > len(data):
                raise BrokenPage
            (second,) = struct.unpack_from("<I", data, at + 4)
            if kind == 30:
                time = wrapped(time + delta + second * (1 << 27))
                at += 8
                continue
            if kind == 31:
                time = absolute(delta + second * (1 << 27), time)
                at += 8
                continue
            if second < 4 or second % 4 or at + 4 + second > len(data):
                raise BrokenPage
            body = data[at + 8 : at + 4 + second]
            at += 4 + second
        if kind == 29:
            if delta != 1:
                time = wrapped(time + delta)
            continue
        time = wrapped(time + delta)
        reading.events += 1
        if len(body) >= 8:
            reading.records.append((time, int.from_bytes(body[:2], "little"), body[8:]))
        elif body:
            reading.short += 1
    if commit & 1 << 31:
        reading.lost = -1
        if commit & 1 << 30 and HEADER_BYTES + length + 8 <= len(page):
            (reading.lost,) = struct.unpack_from("<q", page, HEADER_BYTES + length)
    return reading


def wrapped(time: int) -> int:
    """Return a time as 64 bits with a sign hold it."""
    return (time + (1 << 63)) % (1 << 64) - (1 << 63)


def absolute(stamp: int, before: int) -> int:
    """Return the time that the low 59 bits mean, given the time before."""
    high = before - before % (1 << 59)
    if not high:
        return stamp
    time = high + stamp
    return wrapped(time + (1 << 59) if time < before else time)


class PageWriter:
    """A page that grows as a ring buffer's does.

    Parameters
    ----------
    time : int
        Time of the first event.
    lost : int or None
        None: nothing was lost before. 0: something, of a number not said. Otherwise the number.
    size : int
        Bytes of the page.
    """

    def __init__(self, time: int, lost: int | None = None, size: int = PAGE_BYTES) -> None:
        self.time = time
        self.lost = lost
        self.size = size
        self.data = b""

    def _add(self, more: bytes) -> bool:
        if HEADER_BYTES + len(self.data) + len(more) > self.size:
            return False
        self.data += more
        return True

    def record(self, delta: int, body: bytes, extended: bool = False) -> bool:
        """Write a record whose bytes are a multiple of 4; return whether it fitted."""
        words = len(body) // 4
        if extended or not 1 <= words <= 28:
            return self._add(struct.pack("<II", delta * 32, len(body) + 4) + body)
        return self._add(struct.pack("<I", delta * 32 + words) + body)

    def discarded(self, delta: int, words: int) -> bool:
        """Write an event that was taken back after its room had been given; at least one word behind its length."""
        return self._add(struct.pack("<II", delta * 32 + 29, 4 * words) + bytes(4 * (words - 1)))

    def extend(self, delta: int) -> bool:
        """Write more time than 27 bits hold."""
        return self._add(struct.pack("<II", delta % (1 << 27) * 32 + 30, delta >> 27))

    def stamp(self, time: int) -> bool:
        """Write an absolute time, 59 bits of it."""
        time %= 1 << 59
        return self._add(struct.pack("<II", time % (1 << 27) * 32 + 31, time >> 27))

    def end(self) -> bool:
        """Write that the rest is not used."""
        return self._add(struct.pack("<I", 29))

    def bytes(self) -> bytes:
        """Return the page."""
        commit = len(self.data)
        behind = b""
        if self.lost is not None:
            commit |= 1 << 31
            if self.lost and HEADER_BYTES + len(self.data) + 8 <= self.size:
                commit |= 1 << 30
                behind = struct.pack("<q", self.lost)
        page = struct.pack("<qQ", self.time, commit) + self.data + behind
        return page.ljust(self.size, b"\0")
