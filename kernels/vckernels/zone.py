"""A zone as requests meet it: a buddy allocator, its limits, and what each CPU keeps of it."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import LISTS, Buddy, Migratetype, free_frames, new_buddy
from vckernels.jit import kernel
from vckernels.pages import LRU_LISTS
from vckernels.rules import new_options
from vckernels.watermark import Limit

LISTS_PER_CPU = 14
"""Per-CPU lists of today: orders 0 to 3 by three migratetypes, order 9 not movable and movable."""
FIRST_PER_CPU_LIST = LRU_LISTS
"""Extra list of a :class:`~vckernels.buddy.Buddy` from which on the per-CPU lists follow, CPU by CPU."""


class PerCpu(IntEnum):
    """Column of :attr:`Zone.per_cpu`."""

    COUNT = 0
    """Frames on the CPU's lists; on the hot one in releases with two."""
    HIGH = 1
    """How many there may be before some are given back; tunes itself."""
    ALLOC_FACTOR = 2
    """A refill takes the batch shifted by as many bits."""
    FREE_COUNT = 3
    """Frames freed lately without allocations between: as many are given back at once."""
    PREVIOUS_WAS_HIGH_ORDER = 4
    """1 if the last block freed was of order 1 to 3."""
    COLD_COUNT = 5
    """Frames on the cold list, in releases that have one."""
    CAPTURE_ORDER = 6
    """Order of the block that whoever compacts on the CPU takes over once a free makes it whole, 0 if nobody does."""
    CAPTURE_TYPE = 7
    """Migratetype of that request."""
    CAPTURED = 8
    """1 + the first frame of the block taken over, 0 if there is none yet."""


class Zone(NamedTuple):
    """One zone.

    Attributes
    ----------
    buddy : Buddy
    limits : int64[LIMITS]
        By :class:`~vckernels.watermark.Limit`.
    per_cpu : int64[cpus, len(PerCpu)]
    """

    buddy: Buddy
    limits: npt.NDArray[np.int64]
    per_cpu: npt.NDArray[np.int64]


def new_zone(
    frames: int,
    limits: npt.NDArray[np.int64],
    cpus: int = 1,
    options: npt.NDArray[np.int64] | None = None,
    migratetype: int = Migratetype.MOVABLE,
) -> Zone:
    """Return a zone of holes whose per-CPU lists are empty; without options, by Linux 6.18's rules.

    Parameters
    ----------
    frames, options, migratetype
        As for :func:`vckernels.buddy.new_buddy`.
    limits : int64[LIMITS]
        Copied.
    cpus : int
        How many CPUs keep lists.
    """
    chosen = new_options() if options is None else options
    buddy = new_buddy(frames, migratetype, lists=FIRST_PER_CPU_LIST + cpus * LISTS_PER_CPU, options=chosen)
    per_cpu = np.zeros((cpus, len(PerCpu)), np.int64)
    per_cpu[:, PerCpu.HIGH] = limits[Limit.HIGH_MIN]
    return Zone(buddy, limits.copy(), per_cpu)


@kernel
def count_free(zone: Zone) -> None:
    """Count the zone's free frames into its limits, as must be after anything else has changed its lists."""
    zone.limits[Limit.FREE] = free_frames(zone.buddy)


@kernel(inline=True)
def per_cpu_sentinel(buddy: Buddy, cpu: int, number: int) -> int:
    """Return the index of a per-CPU list's sentinel."""
    return len(buddy.state) + LISTS + FIRST_PER_CPU_LIST + cpu * LISTS_PER_CPU + number
