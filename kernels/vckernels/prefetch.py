"""A stream prefetcher's memory: which pages are being read line after line, and in which direction.

It is told of every first-level data miss. Two steps of one line in one direction inside one 4 KiB page make a
stream; what to fetch then is the caller's part, since a stream ends at the page but a next-page prefetcher goes on.
Intel's second-level streamer follows up to 32 such streams (Intel 64 and IA-32 Architectures Optimization Reference
Manual, "Data Prefetching").
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

STREAMS = 32
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
