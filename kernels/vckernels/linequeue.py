"""Lines that wait for the data caches: what page walks and data accesses load, in their order."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vckernels.jit import kernel, unsigned

QUEUE = 1 << 10
"""Lines that wait for the data caches at most."""
QUEUE_ROOM = 32
"""Places kept free: more than one access ever queues."""
KIND_BITS = 4
BESIDE = 8
"""Set in the kind of what other work loads."""
AHEAD = 6
"""How many lines ahead the queue is looked through for sets of the last cache level."""


class Kind(IntEnum):
    """What a queued line is loaded for: the lowest bits of its place in the queue."""

    WALK = 0
    ARRAY = 1
    DATA_AFTER_MISS = 2
    """Data whose translation missed the first-level TLB."""
    DATA = 3
    PREFETCH_WALK = 4


def new_queue() -> npt.NDArray[np.int64]:
    """Return an empty queue, int64[1 + QUEUE + QUEUE_ROOM + AHEAD].

    First how many lines wait, then each: its number above its :class:`Kind`.
    """
    return np.zeros(1 + QUEUE + QUEUE_ROOM + AHEAD, np.int64)


@kernel(inline=True)
def push(queue: npt.NDArray[np.int64], line: int, kind: int) -> None:
    """Let a line wait for the data caches."""
    waiting = queue[0] + 1
    queue[0] = waiting
    queue[unsigned(waiting)] = line << KIND_BITS | kind


@kernel(inline=True)
def mark_beside(queue: npt.NDArray[np.int64], first: int) -> None:
    """Mark what waits from the ``first``-th line on as other work's."""
    for at in range(first, queue[0] + 1):
        queue[unsigned(at)] |= BESIDE
