"""The page allocator of a release: the rules of its free lists, and zones, watermarks and per-CPU lists before them.

Zones are cut where Linux cuts them, at 16 MiB and 4 GiB, in memory that has no holes. A request takes the kernel's fast
path: the low watermark first, then, where kswapd would be woken, the min watermark with what its flags allow. Before it
fails, one that may reclaim gets back what lies on per-CPU lists and in pageblocks reserved for atomic requests. Where
there are movable pages a slow path follows instead (:mod:`vclab.slowpath`), which reclaims.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import highatomic, zonelist
from vckernels import zone as zone_kernels
from vckernels.allocflags import AllocFlag
from vckernels.buddy import ALLOCATED, MAX_ORDER, Migratetype
from vckernels.causes import Cause, Status
from vckernels.pages import LRU_LISTS
from vckernels.rules import Fallback, Option, PerCpuRule, new_options
from vckernels.watermark import Limit, ZoneIndex, new_limits
from vckernels.zonelist import Zonelist
from vclab import gfp, watermarks, watermarks_2_6
from vclab.errors import ConfigurationError, InvalidFree
from vclab.gfp import Gfp
from vclab.memory import Memory, Zone, free_whole_blocks, kernel_limits
from vclab.presets import LinuxPreset
from vclab.watermarks import ZoneSize

#: What a machine's requests meet.
ALLOCATORS = {
    "free-lists": "one zone, all of whose frames are to be had: free lists alone, as the zone-level stream of a "
    "recording drives them",
    "full": "zones DMA, DMA32 and Normal with their watermarks, per-CPU lists, reserved pageblocks",
}
#: Frames at which zones begin: 16 MiB and 4 GiB.
ZONE_STARTS = (("DMA", 0), ("DMA32", 1 << 12), ("Normal", 1 << 20))
_FALLBACKS = {
    "claim-or-steal": Fallback.CLAIM_OR_STEAL,
    "move-largest": Fallback.MOVE_LARGEST,
    "nothing": Fallback.NOTHING,
}
_PER_CPU = {"many-orders": PerCpuRule.MANY_ORDERS, "hot-and-cold": PerCpuRule.HOT_AND_COLD}
_MOST_CPUS = 1024


def allocator_options(linux: LinuxPreset) -> npt.NDArray[np.int64]:
    """Return the rules of a release as the kernels read them, int64[OPTIONS]."""
    rules = linux.allocator
    return new_options(
        merge_likely_to_tail=rules.merge_likely_to_tail.value,
        grouped=bool(rules.migratetypes.value),
        lists_follow_pageblocks=rules.lists_follow_pageblocks.value,
        fallback=_FALLBACKS[rules.fallback.value],
        halving_watermarks=rules.watermark_check.value == "halving",
        per_cpu=_PER_CPU[rules.per_cpu_lists.value],
    )


def boot_zone(linux: LinuxPreset, name: str, first_frame: int, frames: int, lists: int = LRU_LISTS) -> Zone:
    """Return a zone under a release's rules, all free: movable, or of the one type of a release without types."""
    options = allocator_options(linux)
    migratetype = Migratetype.MOVABLE if options[Option.GROUPED] else Migratetype.UNMOVABLE
    buddy = buddy_kernels.new_buddy(frames, migratetype, lists=lists, options=options)
    free_whole_blocks(buddy)
    return Zone(name, first_frame, frames, buddy)


def zone_spans(frames: int) -> list[tuple[str, int, int]]:
    """Return name, first frame and frames of the zones of so much memory, lowest first."""
    ends = [start for _, start in ZONE_STARTS[1:]] + [frames]
    spans = [(name, start, min(end, frames) - start) for (name, start), end in zip(ZONE_STARTS, ends, strict=True)]
    return [span for span in spans if span[2] > 0]


def machine_limits(linux: LinuxPreset, sizes: dict[str, int], cpus: int) -> list[npt.NDArray[np.int64]]:
    """Return the limits of a machine's zones as its release derives them from their frames, int64[LIMITS] each.

    Parameters
    ----------
    linux : LinuxPreset
    sizes : dict
        Frames by zone, lowest zone first, empty ones too.
    cpus : int
    """
    rules = linux.allocator
    ratios = dict(zip(("DMA", "DMA32", "Normal"), rules.lowmem_reserve_ratio.value, strict=True))
    if rules.watermark_check.value == "block":
        settings = watermarks.Settings(
            watermark_scale_factor=rules.watermark_scale_factor.value,
            watermark_boost_factor=rules.watermark_boost_factor.value,
            lowmem_reserve_ratio=ratios,
        )
        zones = [ZoneSize(name, frames, frames) for name, frames in sizes.items()]
        limits = [kernel_limits(one) for one in watermarks.zone_limits(zones, cpus, settings)]
        for one in limits:
            # The caches of a CPU of today hold more than three batches.
            one[Limit.FREE_HIGH_BATCH] = 1
        return limits
    reserves = watermarks_2_6.lowmem_reserves(sizes, ratios)
    return [
        new_limits(
            min=one.marks.min,
            low=one.marks.low,
            high=one.marks.high,
            managed=sizes[one.name],
            batch=one.hot.batch,
            high_min=one.cold.high,
            high_max=one.hot.high,
            **{f"reserve_{name.lower()}": frames for name, frames in reserve.items()},
        )
        for one, reserve in zip(watermarks_2_6.zone_limits(sizes), reserves, strict=True)
    ]


def only_limits(linux: LinuxPreset, frames: int, cpus: int) -> npt.NDArray[np.int64]:
    """Return the limits of a machine's only zone, int64[LIMITS]."""
    sizes = {name: 0 for name, _ in ZONE_STARTS} | {"Normal": frames}
    return machine_limits(linux, sizes, cpus)[-1]


class FullMemory(Memory):
    """Zones as requests meet them in the kernel.

    Parameters
    ----------
    zones : sequence of Zone
        Lowest first; each has limits of its own.
    per_cpu : sequence of ndarray
        What CPUs keep of each zone (:class:`vckernels.zone.PerCpu`).
    empty : Zone
        A zone without frames under the same rules, for those that the machine has not.
    """

    def __init__(
        self, zones: Sequence[Zone], per_cpu: Sequence[npt.NDArray[np.int64]], empty: zone_kernels.Zone
    ) -> None:
        super().__init__(zones)
        self._empty = empty
        self._per_cpu = list(per_cpu)
        for zone, own in zip(self.zones, self._per_cpu, strict=True):
            zone.per_cpu = own
        by_name = {
            zone.name: zone_kernels.Zone(zone.buddy, zone.limits(), own)
            for zone, own in zip(self.zones, self._per_cpu, strict=True)
        }
        self.kernel: Zonelist = Zonelist(*(by_name.get(name, empty) for name, _ in ZONE_STARTS))
        names = [name if name == self.zone.name else "" for name, _ in ZONE_STARTS]
        self.highest = Zonelist(*(by_name.get(name, empty) for name in names))

    @classmethod
    def boot(cls, linux: LinuxPreset, frames: int, cpus: int) -> FullMemory:
        """Return the memory of a machine that has just booted; ``frames`` are a multiple of 1024.

        Raises
        ------
        ConfigurationError
            If there are more CPUs than requests can name.
        """
        if cpus > _MOST_CPUS:
            raise ConfigurationError(f"{cpus} CPUs cannot have lists of their own; use up to {_MOST_CPUS}")
        spans = zone_spans(frames)
        sizes = {name: 0 for name, _ in ZONE_STARTS} | {name: size for name, _, size in spans}
        limits = dict(zip(sizes, machine_limits(linux, sizes, cpus), strict=True))
        options = allocator_options(linux)
        lists = zone_kernels.FIRST_PER_CPU_LIST + cpus * zone_kernels.LISTS_PER_CPU
        zones, per_cpu = [], []
        for name, first, size in spans:
            zone = boot_zone(linux, name, first, size, lists)
            fresh = zone_kernels.new_zone(0, limits[name], cpus, options)
            zone.own_limits = fresh.limits
            zone.own_limits[Limit.FIRST_FRAME] = first
            zones.append(zone)
            per_cpu.append(fresh.per_cpu)
            highatomic.keep_reserve(zone_kernels.Zone(zone.buddy, zone.own_limits, fresh.per_cpu))
        return cls(zones, per_cpu, zone_kernels.new_zone(0, new_limits(), cpus, options))

    # Requests

    def run(self, requests: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], start: int = 0) -> tuple[int, Status]:
        """Serve many requests by slot, up to where one would leave the fast path.

        As :func:`vckernels.zonelist.run_requests`, whose requests :func:`~vckernels.zonelist.allocation_requests` and
        :func:`~vckernels.zonelist.free_requests` make.
        """
        number, status = zonelist.run_requests(self.kernel, requests, slots, start)
        return int(number), Status(int(status))

    def keep_watermarks(self, limits: npt.NDArray[np.int64]) -> None:
        """Do nothing: all zones have limits of their own, and keep them."""

    def highest_zone(self, flags: int) -> ZoneIndex:
        """Return the highest zone that may serve a request."""
        return ZoneIndex[gfp.highest_zone(flags).upper()]

    def eligible_zones(self, flags: int) -> list[Zone]:
        """Return the zones that may serve a request, in the order in which they are tried."""
        highest = self.highest_zone(flags)
        return [zone for zone in reversed(self.zones) if ZoneIndex[zone.name.upper()] <= highest]

    def allocate(self, order: int, flags: int) -> int:
        """Return the first frame of a new block of 2**order frames, or -1 where no block can serve."""
        if self.slow_path is not None:
            return self.slow_path(order, Gfp(int(flags)))
        frames = self.allocate_all(order, flags, 1)
        return -1 if frames is None else int(frames[0])

    def allocate_all(self, order: int, flags: int, count: int) -> npt.NDArray[np.int64] | None:
        """Return the first frames of ``count`` new blocks, int64[count], or None with none taken."""
        frames = np.full(count, -1, np.int64)
        if not 0 <= order <= MAX_ORDER:
            return None
        kind, zone = gfp.migratetype(flags), self.highest_zone(flags)
        done = 0
        for tried, bits in enumerate(self._alloc_flags(order, flags)):
            if tried == 2:
                self.drain()
                self.release_reserve(kind, True)
            requests = zonelist.allocation_requests(np.arange(count), order, kind, zone, bits, self.cpu)
            done, _ = self.run(requests, frames, done)
            if done == count:
                return frames
            if self.slow_path is not None:
                return frames if self._allocate_singly(order, flags, frames) else None
        self.free(frames[:done], order)
        self.zone.buddy.counters[Cause.ALLOCATION_FAILURE] += 1
        return None

    @staticmethod
    def _alloc_flags(order: int, flags: int) -> list[int]:
        """Return the flags with which a request is tried in turn (``gfp_to_alloc_flags``)."""
        wanted = Gfp(int(flags))
        bits = int(AllocFlag.KSWAPD) if Gfp.KSWAPD_RECLAIM in wanted else 0
        first = bits | AllocFlag.WMARK_LOW
        if Gfp.HIGH in wanted:
            bits |= AllocFlag.MIN_RESERVE
        if Gfp.DIRECT_RECLAIM in wanted:
            return [first, bits, bits]
        if Gfp.NOMEMALLOC not in wanted:
            bits |= AllocFlag.NON_BLOCK
            if order > 0 and Gfp.HIGH in wanted:
                bits |= AllocFlag.HIGHATOMIC
        return [first, bits]

    def _boosts(self, order: int, flags: int, count: int, claims: int) -> bool:
        """Return True: there are lists, and what fills them counts its claims by itself."""
        del order, flags, count, claims
        return True

    def _take_listed(self, order: int, flags: int, most: int) -> npt.NDArray[np.int64]:
        """Return none: requests find what is on the lists."""
        del order, flags, most
        return np.empty(0, np.int64)

    def free(self, frames: npt.ArrayLike, order: int) -> None:
        """Give blocks of one order back.

        Raises
        ------
        InvalidFree
            If a frame starts no allocated block of that order; those before it in the list were freed.
        """
        chosen = np.atleast_1d(np.asarray(frames, np.int64)).copy()
        wrong = ~self._start_blocks(chosen, order)
        stop = int(np.argmax(wrong)) if wrong.any() else len(chosen)
        slots = chosen[:stop]
        done, _ = self.run(zonelist.free_requests(np.arange(stop), self.cpu), slots)
        if done < len(chosen):
            raise InvalidFree(f"cannot free frame {int(chosen[done])} with order {order}: no such block is allocated")

    def _start_blocks(self, frames: npt.NDArray[np.int64], order: int) -> npt.NDArray[np.bool_]:
        """Return which frames start an allocated block of an order, and are named for the first time."""
        found = np.zeros(len(frames), np.bool_)
        for zone in self.zones:
            inside = (frames >= zone.first_frame) & (frames < zone.first_frame + zone.frames)
            state = zone.buddy.state[frames[inside] - zone.first_frame]
            found[inside] = (state >= ALLOCATED) & (state & 15 == order)
        first = np.zeros(len(frames), np.bool_)
        first[np.unique(frames, return_index=True)[1]] = True
        return found & first

    def split(self, frame: int, order: int, flags: int) -> None:
        """Make single pages of an allocated block, each to be freed on its own (``split_page``)."""
        zone = next(zone for zone in reversed(self.zones) if frame >= zone.first_frame)
        singles = np.arange(frame, frame + (1 << order)) - zone.first_frame
        kinds = np.full(len(singles), gfp.migratetype(flags), np.int8)
        buddy_kernels.adopt(zone.buddy, singles, np.zeros(len(singles), np.int8), kinds)

    # What is kept from the free lists

    @property
    def cpus(self) -> int:
        """How many CPUs keep lists."""
        return len(self._per_cpu[0])

    def drain(self) -> int:
        """Give back what all CPUs hold, and return how many frames that were (``drain_all_pages``)."""
        return sum(int(zonelist.drain_cpu(self.kernel, cpu)) for cpu in range(self.cpus))

    @property
    def per_cpu_frames(self) -> npt.NDArray[np.int64]:
        """Frames on per-CPU lists, int64[zones, cpus]."""
        both = [zone_kernels.PerCpu.COUNT, zone_kernels.PerCpu.COLD_COUNT]
        return np.array([own[:, both].sum(axis=1) for own in self._per_cpu])

    def kernel_zone(self, name: str) -> zone_kernels.Zone:
        """Return a zone as kernels see it."""
        return {"DMA": self.kernel.dma, "DMA32": self.kernel.dma32, "Normal": self.kernel.normal}[name]

    def copy(self) -> FullMemory:
        """Return independent memory in the same state."""
        twin = FullMemory([zone.copy() for zone in self.zones], [own.copy() for own in self._per_cpu], self._empty)
        twin.cpu = self.cpu
        return twin


def boot_memory(linux: LinuxPreset, frames: int, cpus: int, allocator: str) -> Memory:
    """Return the memory of a machine that has just booted: ``frames`` frames, a multiple of 1024.

    Raises
    ------
    ConfigurationError
        If there is no such allocator.
    """
    if allocator not in ALLOCATORS:
        raise ConfigurationError(f"allocator {allocator!r} does not exist; there are {', '.join(ALLOCATORS)}")
    if allocator == "full":
        return FullMemory.boot(linux, frames, cpus)
    return Memory([boot_zone(linux, "Normal", 0, frames)])
