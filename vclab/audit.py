"""Conservation, asked of a whole machine: each frame in one state, each owner's frames allocated."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vckernels import audit as kernels
from vckernels.buddy import ALLOCATED, ORDERS, PAGEBLOCK_FRAMES, TYPES, Migratetype
from vckernels.pages import Pages, new_pages
from vckernels.watermark import Limit, new_limits
from vckernels.zone import PerCpu
from vckernels.zone import Zone as KernelZone
from vclab.allocator import FullMemory
from vclab.errors import ConservationError
from vclab.memory import Memory, Zone

_CHECKS = {
    1: "two blocks overlap, or one leaves the zone",
    2: "a block is not aligned to its size",
    3: "a free block lies on the list of another migratetype",
    4: "a free list is broken or its length is wrong",
    5: "two free buddies were not merged",
    kernels.WRONG_PER_CPU: "per-CPU lists and the states of frames disagree",
    kernels.WRONG_LRU: "reclaim's lists and the allocator disagree",
    kernels.WRONG_RESERVE: "another number of pageblocks is reserved than the zone counts",
}


def _kernel_zone(memory: Memory, zone: Zone) -> KernelZone:
    """Return a zone as kernels see it; without per-CPU lists if the machine has none."""
    if isinstance(memory, FullMemory):
        return memory.kernel_zone(zone.name)
    limits = new_limits()
    reserved = np.count_nonzero(zone.buddy.pageblock == Migratetype.HIGHATOMIC)
    limits[Limit.HIGHATOMIC_RESERVED] = reserved * PAGEBLOCK_FRAMES
    return KernelZone(zone.buddy, limits, np.zeros((0, len(PerCpu)), np.int64))


def check(
    memory: Memory,
    movable: tuple[Zone, Pages] | None,
    blocks: Iterable[tuple[str, npt.NDArray[np.int64], int]],
) -> None:
    """Check a machine's memory.

    Parameters
    ----------
    memory : Memory
    movable : tuple of Zone and Pages, optional
        The zone that has movable pages, and what is known of them.
    blocks : iterable of (str, int64[n], int)
        Who owns which first frames of allocated blocks, as the machine numbers them, and their order.

    Raises
    ------
    ConservationError
        Naming the zone, or the owner, and what is wrong.
    """
    for zone in memory.zones:
        pages = movable[1] if movable is not None and movable[0] is zone else new_pages(0)
        failed = int(kernels.audit_zone(_kernel_zone(memory, zone), pages, np.zeros((ORDERS, TYPES), np.int64)))
        if failed:
            raise ConservationError(f"zone {zone.name} is at odds with itself: {_CHECKS[failed]}")
    owned: list[npt.NDArray[np.int64]] = []
    for owner, frames, order in blocks:
        for zone in memory.zones:
            local = frames - zone.first_frame
            local = local[(local >= 0) & (local < zone.frames)]
            state = zone.buddy.state[local]
            wrong = (state < ALLOCATED) | (state & 15 != order)
            if wrong.any():
                frame = int(local[np.argmax(wrong)]) + zone.first_frame
                raise ConservationError(f"{owner}: no block of order {order} is allocated at frame {frame}")
        owned.append(frames)
    every = np.concatenate(owned) if owned else np.empty(0, np.int64)
    if len(np.unique(every)) < len(every):
        twice = int(np.sort(every)[np.argmax(np.diff(np.sort(every)) == 0)])
        raise ConservationError(f"frame {twice} has two owners")
