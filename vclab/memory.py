"""Physical memory: zones of frames under a buddy allocator.

Frame numbers here are absolute; the kernels below count from each zone's first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import claim, highatomic, histogram, zonelist
from vckernels import zone as zone_kernels
from vckernels.allocflags import AllocFlag
from vckernels.buddy import MAX_ORDER, ORDERS, PAGEBLOCK_FRAMES, TYPES, Buddy, Migratetype
from vckernels.causes import Cause, Status
from vckernels.pages import LRU_LISTS
from vckernels.rules import Option, PerCpuRule
from vckernels.watermark import Limit, ZoneIndex, boost_watermark, new_limits, wmark_frames
from vckernels.zone import PerCpu
from vckernels.zonelist import Zonelist
from vclab import gfp
from vclab.errors import ConfigurationError, InvalidFree
from vclab.fragmentation import fragmentation_index, unusable_free_index
from vclab.state import copied
from vclab.watermarks import ZoneLimits, ZoneSize, zone_limits

FRAMES_PER_BLOCK = 1 << MAX_ORDER
_BOOST = [int(Limit.BOOST), int(Limit.BOOSTED)]

_REFUSALS = {
    Status.NOT_ALLOCATED: "no allocated block starts there (freed already?)",
    Status.WRONG_ORDER: "the block there has another order",
    Status.OUT_OF_RANGE: "that lies outside the zone",
}


class Zone:
    """One zone under one buddy allocator.

    Parameters
    ----------
    name : str
        As in /proc/zoneinfo.
    first_frame : int
        A multiple of 1024 frames (the largest block).
    frames : int
        Size in frames, a multiple of 1024.
    buddy : Buddy, optional
        Allocator state to adopt; without it all frames become free blocks of the largest order, lowest first.
    own_limits : int64[LIMITS], optional
        Watermarks and what goes with them, kept up to date by the allocator that has them.

    Attributes
    ----------
    per_cpu : int64[cpus, len(PerCpu)]
        What CPUs keep of the zone (:class:`vckernels.zone.PerCpu`), set by the allocator that has such lists.
    cpu : int64[1]
        Whose lists serve requests and take what is freed.
    """

    def __init__(
        self,
        name: str,
        first_frame: int,
        frames: int,
        buddy: Buddy | None = None,
        own_limits: npt.NDArray[np.int64] | None = None,
    ) -> None:
        if frames <= 0 or frames % FRAMES_PER_BLOCK or first_frame % FRAMES_PER_BLOCK:
            raise ConfigurationError(
                f"zone {name} of {frames} frames from {first_frame} is not made of whole 4 MiB blocks; use a multiple"
            )
        self.name = name
        self.first_frame = first_frame
        self.frames = frames
        self.own_limits = own_limits
        self.per_cpu = np.zeros((0, len(PerCpu)), np.int64)
        self.cpu = np.zeros(1, np.int64)
        self.buddy = buddy_kernels.new_buddy(frames, lists=LRU_LISTS) if buddy is None else buddy
        if buddy is None:
            free_whole_blocks(self.buddy)

    def allocate(self, order: int, migratetype: int) -> int:
        """Return the first frame of a new block of 2**order frames, or -1 where no block can serve."""
        # Kernels look twice as long at the type of an enumeration's member as at a number.
        frame = int(claim.allocate_one(self.buddy, order, int(migratetype)))
        return frame if frame < 0 else frame + self.first_frame

    def allocate_all(self, order: int, migratetype: int, count: int) -> npt.NDArray[np.int64] | None:
        """Return the first frames of ``count`` new blocks, int64[count], or None with none taken."""
        frames = np.empty(count, np.int64)
        if claim.allocate_all(self.buddy, order, int(migratetype), frames) != Status.OK:
            return None
        return frames + self.first_frame

    def free(self, frames: npt.ArrayLike, order: int) -> None:
        """Give blocks of one order back.

        Raises
        ------
        InvalidFree
            If a frame starts no allocated block of that order; the other blocks in the list were freed.
        """
        if isinstance(frames, int):
            # Nearly every block of a kernel's own structures is freed alone, and the arrays cost more than the work.
            self._check_freed(frames, order, int(claim.free_one(self.buddy, frames - self.first_frame, order)))
            return
        first = np.atleast_1d(np.asarray(frames, np.int64)) - self.first_frame
        statuses = np.zeros(len(first), np.int8)
        if claim.free_many(self.buddy, first, np.full(len(first), order, np.int8), statuses) < len(first):
            bad = int(np.argmax(statuses != Status.OK))
            self._check_freed(int(first[bad]) + self.first_frame, order, int(statuses[bad]))

    def _check_freed(self, frame: int, order: int, status: int) -> None:
        """Raise if a block could not be freed."""
        if status != Status.OK:
            raise InvalidFree(
                f"cannot free frame {frame} with order {order} in zone {self.name}: {_REFUSALS[Status(status)]}"
            )

    @property
    def managed(self) -> int:
        """Number of frames that are the allocator's: all but holes."""
        return int(np.count_nonzero(self.buddy.state != buddy_kernels.HOLE))

    def limits(self, cpus: int = 1) -> npt.NDArray[np.int64]:
        """Return watermarks and what goes with them, as the kernel derives them from the zone's size.

        int64[LIMITS], by :class:`vckernels.watermark.Limit`: the allocator's own where it has any, else those of a zone
        of Linux 6.18 that is the machine's only one.
        """
        if self.own_limits is not None:
            return self.own_limits
        managed = self.managed
        return kernel_limits(zone_limits([ZoneSize(self.name, managed, managed)], cpus)[0])

    @property
    def free_frames(self) -> int:
        """Number of free frames."""
        return int(buddy_kernels.free_frames(self.buddy))

    @property
    def free_blocks(self) -> npt.NDArray[np.int64]:
        """Free blocks by order, int64[11]."""
        return np.asarray(self.buddy.free_blocks.sum(axis=1))

    def blocks(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """Return first frame and order of every free block as the lists hold them, ascending by frame."""
        lists = []
        for order in range(ORDERS):
            for migratetype in range(TYPES):
                block = np.empty(self.buddy.free_blocks[order, migratetype], np.int64)
                buddy_kernels.read_list(self.buddy, order, migratetype, block)
                lists.append((block, np.full(len(block), order, np.int8)))
        frames = np.concatenate([block for block, _ in lists])
        orders = np.concatenate([order for _, order in lists])
        ascending = np.argsort(frames)
        return frames[ascending] + self.first_frame, orders[ascending]

    def free_histogram(self) -> npt.NDArray[np.uint16]:
        """Return the free frames of each 2 MiB, uint16[pageblocks], 0 to 512 each."""
        free = np.empty(len(self.buddy.pageblock), np.uint16)
        histogram.count_free_frames(self.buddy, free)
        return free

    def audit(self) -> int:
        """Return 0 if every frame is in exactly one state and all free lists are whole, else which check failed."""
        return int(claim.audit(self.buddy, np.zeros((ORDERS, TYPES), np.int64)))

    def copy(self) -> Zone:
        """Return an independent zone in the same state."""
        limits = None if self.own_limits is None else self.own_limits.copy()
        return Zone(self.name, self.first_frame, self.frames, copied(self.buddy), limits)


class Memory:
    """All zones of a machine, whose requests the last serves, from its free lists.

    Parameters
    ----------
    zones : sequence of Zone

    Attributes
    ----------
    slow_path : callable or None
        Serves a request of an order with flags, by reclaim and compaction if need be, and returns its first frame or
        -1. None: requests take what is free, to the last frame, as the allocator's lists give it.
    kernel : Zonelist or None
        The zones as kernels see them, where requests keep watermarks (:meth:`keep_watermarks`).
    highest : Zonelist or None
        The same with none but the highest zone.
    """

    def __init__(self, zones: Sequence[Zone]) -> None:
        self.zones = tuple(zones)
        self.slow_path: Callable[[int, gfp.Gfp], int] | None = None
        self.kernel: Zonelist | None = None
        self.highest: Zonelist | None = None
        self._batch_left = [0] * TYPES
        """Single frames by migratetype that a CPU's list would still hold of a batch, were there one."""
        self._batch_claimed = [False] * TYPES

    @property
    def cpu(self) -> int:
        """Whose per-CPU lists serve requests and take what is freed, where there are any; 0 at first."""
        return int(self.zones[-1].cpu[0])

    @cpu.setter
    def cpu(self, cpu: int) -> None:
        for zone in self.zones:
            zone.cpu[0] = cpu

    @property
    def zone(self) -> Zone:
        """The zone that requests are served from."""
        return self.zones[-1]

    def allocate(self, order: int, flags: int) -> int:
        """Return the first frame of a new block of 2**order frames, or -1 where no block can serve.

        ``flags`` (:class:`vclab.gfp.Gfp`) say which migratetype is asked for, and what may be done for it where the
        machine has something to do (:attr:`slow_path`).
        """
        if self.slow_path is not None:
            return self.slow_path(order, gfp.Gfp(int(flags)))
        return self.zone.allocate(order, gfp.migratetype(flags))

    def allocate_all(self, order: int, flags: int, count: int) -> npt.NDArray[np.int64] | None:
        """Return the first frames of ``count`` new blocks, int64[count], or None with none taken.

        With a slow path, blocks that would take memory below the low watermark are asked for one by one, as
        ``alloc_pages_bulk`` leaves them to its callers; single frames by the batch that a CPU's list takes.
        """
        if self.slow_path is None:
            return self.zone.allocate_all(order, gfp.migratetype(flags), count)
        if self.zone.free_frames - (count << order) > self.low_watermark:
            return self._allocate_batch(order, flags, count)
        frames = np.full(count, -1, np.int64)
        return frames if self._allocate_singly(order, flags, frames) else None

    def _allocate_singly(self, order: int, flags: int, frames: npt.NDArray[np.int64]) -> bool:
        """Take a block for each frame that is -1 by the slow path, or give all back; return whether all were had."""
        assert self.slow_path is not None
        missing = np.flatnonzero(frames < 0)
        while len(missing):
            frames[missing[0]] = self.slow_path(order, gfp.Gfp(int(flags)))
            if frames[missing[0]] < 0:
                self.free(frames[frames >= 0][::-1], order)
                return False
            listed = self._take_listed(order, flags, len(missing) - 1)
            frames[missing[1 : 1 + len(listed)]] = listed
            missing = missing[1 + len(listed) :]
        return True

    def _take_listed(self, order: int, flags: int, most: int) -> npt.NDArray[np.int64]:
        """Take at once what requests for single frames would find on a CPU's list, int64[up to most].

        None where that would take memory below the min watermark: there each request has to see for itself.
        """
        kind = gfp.migratetype(flags)
        count = min(most, self._batch_left[kind]) if order == 0 else 0
        least = int(wmark_frames(self.zone.limits(), int(AllocFlag.WMARK_MIN)))
        if count <= 0 or self.zone.free_frames - count <= least:
            return np.empty(0, np.int64)
        frames = self._allocate_batch(0, flags, count)
        return np.empty(0, np.int64) if frames is None else frames

    def _allocate_batch(self, order: int, flags: int, count: int) -> npt.NDArray[np.int64] | None:
        """Return the first frames of ``count`` new blocks, or None with none taken, and boost watermarks for claims."""
        claims = self._claims
        frames = self.zone.allocate_all(order, gfp.migratetype(flags), count)
        claims = self._claims - claims
        if self._boosts(order, flags, count, claims):
            boost_watermark(self.zone.limits(), claims)
        return frames

    def _boosts(self, order: int, flags: int, count: int, claims: int) -> bool:
        """Return whether claims of pageblocks that so many blocks led to boost the watermarks.

        Linux takes single frames for a CPU's list in batches, and tries to claim pageblocks once for each of them
        (``rmqueue_bulk``). Free lists alone are asked for every frame, but boost no oftener. A batch doubles from one
        to the next (``nr_pcp_alloc``), so that one is enough for what is asked for at once.
        """
        if order > 0:
            return True
        kind = gfp.migratetype(flags)
        left = self._batch_left[kind] - count
        if left < 0:
            left %= max(1, int(self.zone.limits()[Limit.BATCH]))
            self._batch_claimed[kind] = False
        self._batch_left[kind] = left
        boosts = not self._batch_claimed[kind]
        self._batch_claimed[kind] |= claims > 0
        return boosts

    @property
    def low_watermark(self) -> int:
        """Frames of the zone below which requests wake kswapd, with what the watermark is boosted by."""
        return int(wmark_frames(self.zone.limits(), int(AllocFlag.WMARK_LOW)))

    @property
    def _claims(self) -> int:
        """How often a pageblock was tried to be claimed, each of which boosts watermarks."""
        counters = self.zone.buddy.counters
        return int(counters[Cause.CLAIM_PAGEBLOCK] + counters[Cause.CLAIM_REFUSED])

    def free(self, frames: npt.ArrayLike, order: int) -> None:
        """Give blocks of one order back.

        Raises
        ------
        InvalidFree
            If a frame starts no allocated block of that order; the other blocks in the list were freed.
        """
        self.zone.free(frames, order)

    # What a slow path does

    def keep_watermarks(self, limits: npt.NDArray[np.int64]) -> None:
        """Let :meth:`take` serve requests from now on, by a zone's limits, int64[LIMITS], which become its own.

        No pageblock is reserved for atomic requests beside those that a recording has.
        """
        zone = self.zone
        zone.own_limits = limits
        limits[Limit.FIRST_FRAME] = zone.first_frame
        limits[Limit.HIGHATOMIC_MOST] = 0
        limits[Limit.HIGHATOMIC_RESERVED] = PAGEBLOCK_FRAMES * np.count_nonzero(
            zone.buddy.pageblock == Migratetype.HIGHATOMIC
        )
        zone.buddy.options[Option.PER_CPU] = PerCpuRule.NONE
        empty = zone_kernels.new_zone(0, new_limits(), 0, zone.buddy.options)
        self.kernel = self.highest = Zonelist(empty, empty, zone_kernels.Zone(zone.buddy, limits, empty.per_cpu))

    def highest_zone(self, flags: int) -> ZoneIndex:
        """Return the highest zone that may serve a request: the only one that there is."""
        del flags
        return ZoneIndex.NORMAL

    def eligible_zones(self, flags: int) -> list[Zone]:
        """Return the zones that may serve a request, in the order in which they are tried."""
        del flags
        return list(self.zones)

    def take(self, order: int, flags: int, allowed: int, only_highest: bool = False) -> int:
        """Take a block as far as that needs no slow path (``get_page_from_freelist``); return its first frame or -1.

        ``allowed`` are bits of :class:`~vckernels.allocflags.AllocFlag`; ``only_highest``: of the highest zone alone.
        """
        zones = self.highest if only_highest else self.kernel
        assert zones is not None
        zonelist.count_zones(zones)
        # Kernels look twice as long at the type of an enumeration's member as at a number.
        kind, highest = gfp.migratetype(flags), int(self.highest_zone(flags))
        limits, claims = self.zone.limits(), self._claims
        boost = limits[_BOOST]
        frame = int(zonelist.get_page(zones, self.cpu, order, kind, highest, int(allowed)))
        if frame >= 0 and not self._boosts(order, flags, 1, self._claims - claims):
            limits[_BOOST] = boost
        return frame

    def drain(self) -> int:
        """Give back what all CPUs hold, and return how many frames that were: none, of free lists alone."""
        return 0

    def release_reserve(self, migratetype: int, force: bool) -> bool:
        """Give one reserved pageblock to a type, with ``force`` the last one too; return whether there was one.

        Rule: ``unreserve_highatomic_pageblock``.
        """
        assert self.kernel is not None
        zones = (self.kernel.normal, self.kernel.dma32, self.kernel.dma)
        return any(highatomic.release_pageblock(zone, migratetype, force) for zone in zones)

    def split(self, frame: int, order: int, flags: int) -> None:
        """Make single pages of an allocated block, each to be freed on its own (``split_page``)."""
        zone = self.zone
        singles = np.arange(frame, frame + (1 << order)) - zone.first_frame
        kinds = np.full(len(singles), gfp.migratetype(flags), np.int8)
        buddy_kernels.adopt(zone.buddy, singles, np.zeros(len(singles), np.int8), kinds)

    @property
    def free_frames(self) -> int:
        """Number of free frames of all zones."""
        return sum(zone.free_frames for zone in self.zones)

    @property
    def first_frame(self) -> int:
        """Number of the machine's first frame."""
        return self.zones[0].first_frame

    @property
    def frames(self) -> int:
        """Number of frames from the first to the last."""
        return self.zones[-1].first_frame + self.zones[-1].frames - self.first_frame

    @property
    def free_share(self) -> float:
        """Share of the managed frames that is free, 0 to 1."""
        return sum(zone.free_frames for zone in self.zones) / sum(zone.managed for zone in self.zones)

    @property
    def counters(self) -> npt.NDArray[np.int64]:
        """Events of all zones by cause, int64[COUNTERS]."""
        counters = self.zones[0].buddy.counters.copy()
        for zone in self.zones[1:]:
            counters += zone.buddy.counters
        return counters

    def buddyinfo(self) -> npt.NDArray[np.int64]:
        """Return free blocks by zone and order, int64[zones, 11], as /proc/buddyinfo prints them."""
        return np.array([zone.free_blocks for zone in self.zones])

    def copy(self) -> Memory:
        """Return independent memory in the same state, but for its slow path."""
        twin = Memory([zone.copy() for zone in self.zones])
        if self.kernel is not None:
            twin.keep_watermarks(twin.zone.limits())
        twin._batch_left, twin._batch_claimed = list(self._batch_left), list(self._batch_claimed)
        return twin


def kernel_limits(limits: ZoneLimits) -> npt.NDArray[np.int64]:
    """Return a zone's limits as kernels read them, int64[LIMITS]."""
    reserve = {f"reserve_{name.lower()}": frames for name, frames in limits.lowmem_reserve.items()}
    return new_limits(
        min=limits.watermarks.min,
        low=limits.watermarks.low,
        high=limits.watermarks.high,
        promo=limits.watermarks.promo,
        boost_most=limits.boost_limit,
        managed=limits.zone.managed,
        highatomic_most=limits.highatomic_limit,
        batch=limits.per_cpu.batch,
        high_min=limits.per_cpu.high_min,
        high_max=limits.per_cpu.high_max,
        **reserve,
    )


def free_whole_blocks(buddy: Buddy) -> None:
    """Put a zone of holes on its free lists in blocks of the largest order, lowest first."""
    blocks = np.arange(0, len(buddy.state), FRAMES_PER_BLOCK, dtype=np.int64)
    buddy_kernels.free_at_boot(buddy, blocks, np.full(len(blocks), MAX_ORDER, np.int8), True)


def empty_zone(frames: int) -> Zone:
    """Return a zone that starts empty at frame 0, all blocks of the largest order and movable."""
    return Zone("Normal", 0, frames)


__all__ = [
    "FRAMES_PER_BLOCK",
    "Memory",
    "Migratetype",
    "Zone",
    "empty_zone",
    "fragmentation_index",
    "free_whole_blocks",
    "unusable_free_index",
]
