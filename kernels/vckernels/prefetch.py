"""What the prefetchers remember: the streams that are being read, and the lines that pages have been missed at.

They are told of every first-level data miss. What to fetch then is the caller's part, since a stream ends at the page
but a next-page prefetcher goes on.

A stream prefetcher follows pages that are read line after line. Two steps of one line in one direction inside one
4 KiB page make a stream; Intel's second-level streamer follows up to 32 of them (Intel 64 and IA-32 Architectures
Optimization Reference Manual, "Data Prefetching").

An adjacent-line prefetcher fetches one neighbour of what was missed. Intel's completes the pair of lines that are
aligned to 128 bytes (same place, "Spatial Prefetcher"); AMD's goes to the next or the previous line as its history of
accesses says (Software Optimization Guide for AMD Family 19h Processors, publication 56665, "L2 Up/Down Prefetcher").
How long that history is, nobody has published: see :data:`HISTORY`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

STREAMS = 32
HISTORY = 1 << 10
"""Pages whose lines are remembered: an estimate. With it a chase over all lines of 0.4 to 4 MiB meets the measured
one of Zen 3, where lines that overfill a set are hit now and then, which exact LRU alone would never do.
"""
LINES_IN_PAGE = 64


class Slot(IntEnum):
    """Index into the last axis of :attr:`Streams.slots`."""

    FRAME = 0
    LINE = 1
    """Last line missed, 0 to 63."""
    DIRECTION = 2
    """1 upwards, -1 downwards, 0 not known yet."""


class Streams(NamedTuple):
    """The streams that are followed.

    Attributes
    ----------
    slots : int64[STREAMS, len(Slot)]
        A page's slot is the low bits of its frame number.
    """

    slots: npt.NDArray[np.int64]


def new_streams() -> Streams:
    """Return a prefetcher that follows nothing."""
    slots = np.zeros((STREAMS, len(Slot)), np.int64)
    slots[:, Slot.FRAME] = -1
    return Streams(slots)


class Adjacent(IntEnum):
    """Which neighbour of a missed line is fetched."""

    NONE = 0
    PAIR = 1
    """The other one of two lines aligned to 128 bytes."""
    HISTORY = 2
    """The next or else the previous one, if the page has been missed there before."""


class History(NamedTuple):
    """At which lines pages have been missed.

    Attributes
    ----------
    frames : int64[HISTORY]
        A page's place is the low bits of its frame number; -1 where there is none.
    lines : uint64[HISTORY]
        A bit for each of its lines.
    """

    frames: npt.NDArray[np.int64]
    lines: npt.NDArray[np.uint64]


def new_history() -> History:
    """Return a history without pages."""
    return History(np.full(HISTORY, -1, np.int64), np.zeros(HISTORY, np.uint64))


@kernel(inline=True)
def neighbour(history: History, frame: int, line: int) -> int:
    """Note a miss on a line (0 to 63) of a frame; return the step to the neighbour missed before: 1, -1 or 0."""
    place = unsigned(frame & (HISTORY - 1))
    bit = np.uint64(1) << np.uint64(line)
    if history.frames[place] != frame:
        history.frames[place] = frame
        history.lines[place] = bit
        return 0
    lines = history.lines[place]
    history.lines[place] = lines | bit
    if lines & (bit << np.uint64(1)) != np.uint64(0):
        return 1
    if lines & (bit >> np.uint64(1)) != np.uint64(0):
        return -1
    return 0


@kernel(inline=True)
def train(streams: Streams, frame: int, line: int) -> int:
    """Note a miss on a line (0 to 63) of a frame; return the direction of the stream it goes on with, 0 if none."""
    slot = streams.slots[unsigned(frame & (STREAMS - 1))]
    if slot[Slot.FRAME] != frame:
        slot[Slot.FRAME] = frame
        slot[Slot.LINE] = line
        slot[Slot.DIRECTION] = 0
        return 0
    step = line - slot[Slot.LINE]
    known = slot[Slot.DIRECTION]
    slot[Slot.LINE] = line
    if step != 1 and step != -1:
        slot[Slot.DIRECTION] = 0
        return 0
    slot[Slot.DIRECTION] = step
    return step if step == known else 0
