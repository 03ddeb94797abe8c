"""Requests for large pages on a machine whose memory others want too: how it gets so, what is asked, what it costs.

A machine is aged to a fragmentation, its movable blocks become pages of programs and files, and more such pages fill
what is free until so much is left as its watermarks are multiplied by (:func:`crowd`). Policies then meet the same
requests on copies of it (:func:`serve`), each page kept to the end, so that every policy has to find as many frames.

Between two requests programs use pages, and those that reclaim took come back; and files read new ones, if that is
wanted, which wake kswapd again and again, as on a machine whose memory is full of caches. What reclaim has freed beyond
what was asked for stays free until it is used so: the less is reclaimed later.

What a request counts is divided into its own work, and that of kswapd and kcompactd which it woke, done to the end
before anything else happens; really they run beside it, on another CPU where there is one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import MAX_ORDER, Migratetype
from vckernels.causes import COUNTERS, Cause
from vckernels.rules import Option
from vckernels.watermark import Limit
from vclab.allocator import only_limits
from vclab.boot import DEFAULT_RECORDING
from vclab.compound import CompoundPage
from vclab.errors import ConfigurationError, OutOfMemory
from vclab.gfp import GFP_KERNEL, GFP_VFALLBACK, Gfp
from vclab.ledger import price_devices, price_operations
from vclab.movable import PageMix
from vclab.presets import CpuPreset, LinuxPreset
from vclab.system import System

#: What a request can end in.
ANSWERS = ("physical", "smaller", "virtual", "failed")
PHYSICAL, SMALLER, VIRTUAL, FAILED = range(len(ANSWERS))

#: Every event that has a price, and what tells of reclaim and compaction beside; kept so that results can be repriced.
EVENTS = (
    Cause.ALLOCATION,
    Cause.PER_CPU_ALLOCATION,
    Cause.FREE,
    Cause.PER_CPU_FREE,
    Cause.SPLIT,
    Cause.MERGE,
    Cause.AREA_RESERVE,
    Cause.AREA_POOL_HIT,
    Cause.AREA_STEP,
    Cause.AREA_RELEASE,
    Cause.AREA_LAZY_FREE,
    Cause.BLOCK_TAKE,
    Cause.BLOCK_GIVE,
    Cause.ENTRY_WRITE,
    Cause.TABLE_PAGE,
    Cause.STRUCT_PAGE,
    Cause.PAGE_CLEARED,
    Cause.PAGE_COPIED,
    Cause.FLUSH_CALL,
    Cause.TLB_INVALIDATION,
    Cause.TLB_FLUSH,
    Cause.BROADCAST,
    Cause.BROADCAST_WAIT,
    Cause.INTERRUPT,
    Cause.MIGRATE_SCANNED,
    Cause.FREE_SCANNED,
    Cause.PAGE_MIGRATED,
    Cause.RECLAIM_SCANNED,
    Cause.PAGE_RECLAIMED,
    Cause.REFAULT,
    Cause.WORKINGSET_REFAULT,
    Cause.WRITE_BACK,
    Cause.SWAP_OUT,
    Cause.CONGESTION_WAIT,
    Cause.SLOW_PATH,
    Cause.SLOW_PATH_RETRY,
    Cause.DIRECT_RECLAIM,
    Cause.KSWAPD_RUN,
    Cause.COMPACT_STALL,
    Cause.COMPACT_SUCCESS,
    Cause.COMPACT_DEFERRED,
)
EVENT_NAMES = [cause.name.lower() for cause in EVENTS]


class Way(NamedTuple):
    """How a caller asks: under which policy, with which flags, and the least order that it would take."""

    policy: str
    flags: Gfp
    min_order: int = 0


#: Ways to ask, by name. "insist" is ``RETRY_MAYFAIL``: above order 3 too, reclaim and compaction go on while they help.
WAYS = {
    "physical": Way("physical", GFP_KERNEL),
    "physical, insist": Way("physical", GFP_KERNEL | Gfp.RETRY_MAYFAIL),
    "late-fallback": Way("late-fallback", GFP_VFALLBACK),
    "late-fallback, insist": Way("late-fallback", GFP_VFALLBACK | Gfp.RETRY_MAYFAIL),
    "early-fallback": Way("early-fallback", GFP_VFALLBACK),
    "early-fallback-6.12": Way("early-fallback-6.12", GFP_VFALLBACK),
    "early-fallback-v3": Way("early-fallback-v3", GFP_VFALLBACK),
    "always-virtual": Way("always-virtual", GFP_VFALLBACK),
    "vmalloc": Way("vmalloc", GFP_VFALLBACK),
    "huge-vmalloc": Way("huge-vmalloc", GFP_VFALLBACK),
    "min-order": Way("min-order", GFP_VFALLBACK),
}


#: A release that compacts is of a time that has kvmalloc, which gives up early, and entries of 2 MiB for vmalloc
#: (Linux 5.13); in the RFC's days there were neither.
_COMPACTS = "compaction"


def exists(way: str, linux: LinuxPreset) -> bool:
    """Return whether a release has what a way to ask needs: of 2 MiB entries those of today alone."""
    return WAYS[way].policy != "huge-vmalloc" or linux.allocator.slow_path.value == _COMPACTS


def label(way: str, linux: LinuxPreset) -> str:
    """Return a way's name, with a word on it where no kernel of that time would ask so."""
    early = linux.allocator.slow_path.value == _COMPACTS
    return f"{way} (counterfactual)" if early and WAYS[way].policy == "late-fallback" else way


class Crowd(NamedTuple):
    """What a machine is like once it is full of pages.

    Attributes
    ----------
    unusable : float
        Unusable free index, for the order that was asked for.
    free_frames : int
    movable_frames : int
        Frames of pages that may be moved and reclaimed.
    """

    unusable: float
    free_frames: int
    movable_frames: int


def crowd(
    system: System,
    order: int = 9,
    unusable: float = 0.95,
    marks: float = 1.1,
    mix: PageMix | None = None,
    swap: str | int = "512MiB",
    free: float = 0.15,
    source: str = DEFAULT_RECORDING,
    tail: str = "hour",
) -> Crowd:
    """Age a machine to a fragmentation and fill it with movable pages until little is free.

    Parameters
    ----------
    system : System
        Fresh from boot; mutated. Its seed decides on everything.
    order : int
        The order whose unusable free index is meant.
    unusable : float
        That index, 0 to 1, when ageing ends; filling takes free blocks in proportion, so that it hardly changes.
    marks : float
        Free frames at the end as a multiple of the high watermark, above which kswapd lets memory be; at least 1.
    mix : PageMix, optional
        What the pages are.
    swap : str or int
        Size of the swap.
    free : float
        Free share of memory at which ageing ends, if it is not to be more in the end.
    source, tail : str
        As :meth:`System.fragment` takes them.

    Raises
    ------
    ConfigurationError
        If marks are below 1 or more than the machine can have, or it has no slow path under its rules.
    FragmentationNotReached
        If ageing did not come there.
    """
    age(system, order, unusable, marks, free, source, tail)
    return fill(system, order, marks, mix, swap)


def age(
    system: System,
    order: int = 9,
    unusable: float = 0.95,
    marks: float = 1.1,
    free: float = 0.15,
    source: str = DEFAULT_RECORDING,
    tail: str = "hour",
) -> None:
    """Age a machine so that it can be filled up to some marks, or any below; parameters as those of :func:`crowd`."""
    share = _goal(system, marks) / system.memory.zone.managed
    system.fragment(order, unusable, max(free, share + 0.01), source, tail)


def _goal(system: System, marks: float) -> int:
    """Return the frames that are so many times the high watermark."""
    managed = system.memory.zone.managed
    goal = round(marks * float(only_limits(system.linux, managed, len(system.mmus))[Limit.HIGH]))
    if marks < 1 or goal > 0.6 * managed:
        raise ConfigurationError(
            f"{marks:g} times the high watermark cannot be left free; use at least 1, and at most 60 % of memory "
            f"({managed * 6 // 10} frames)"
        )
    return goal


def fill(system: System, order: int, marks: float, mix: PageMix | None = None, swap: str | int = "512MiB") -> Crowd:
    """Fill an aged machine with movable pages until little is free; parameters as those of :func:`crowd`."""
    zone, goal = system.memory.zone, _goal(system, marks)
    # Tables of the pages take a frame for 512 of them.
    _fill(system, zone.free_frames - goal - zone.managed // 512)
    system.populate(mix, swap)
    _settle(system, goal)
    movable = system.movable
    assert movable is not None
    assert system.pressure is not None
    # No request is to pay for what CPUs have to forget of this.
    system.pressure.forget()
    pages = movable.frames() - zone.first_frame
    frames = int((1 << (zone.buddy.state[pages] & 15).astype(np.int64)).sum())
    return Crowd(system.unusable_free_index(order), zone.free_frames, frames)


def _fill(system: System, frames: int) -> None:
    """Take so many free frames as single movable pages, of the blocks of each order the same share."""
    zone = system.memory.zone
    # A release without migratetypes has all its blocks on the lists of one.
    kind = Migratetype.MOVABLE if zone.buddy.options[Option.GROUPED] else Migratetype.UNMOVABLE
    blocks = zone.buddy.free_blocks[:, kind].copy()
    share = min(1.0, max(0, frames) / max(1, int((blocks << np.arange(MAX_ORDER + 1)).sum())))
    for order in range(MAX_ORDER, -1, -1):
        taken = zone.allocate_all(order, Migratetype.MOVABLE, round(share * int(blocks[order])))
        for frame in taken.tolist() if taken is not None and order else []:
            system.memory.split(frame, order, Gfp.MOVABLE)


def _settle(system: System, goal: int) -> None:
    """Let as many frames be free as wanted, to the frame where pages have one each."""
    zone, movable = system.memory.zone, system.movable
    assert movable is not None
    if zone.free_frames > goal:
        _new_pages(system, zone.free_frames - goal)
    frames = movable.frames()
    singles = frames[zone.buddy.state[frames - zone.first_frame] & 15 == 0]
    missing = min(max(0, goal - zone.free_frames), len(singles))
    movable.release(np.random.default_rng([system.seed, missing]).choice(singles, missing, replace=False))


def _new_pages(system: System, count: int) -> bool:
    """Let files read so many new pages into free memory; return whether there was room, for their tables too."""
    zone, movable = system.memory.zone, system.movable
    assert movable is not None
    frames = zone.allocate_all(0, Migratetype.MOVABLE, count)
    if frames is None:
        return False
    adopted = movable.adopt(frames, 0, 0)
    if not adopted:
        zone.free(frames, 0)
    return adopted


def _read(system: System, count: int) -> None:
    """Let files read so many new pages, each as a request for a frame that may wake kswapd and reclaim."""
    memory, pressure = system.memory, system.pressure
    assert pressure is not None
    movable = pressure.movable
    while count > 0:
        # Above the low watermark a request does nothing but take a frame.
        at_once = min(count, memory.zone.free_frames - memory.low_watermark)
        if at_once > 0 and not _new_pages(system, at_once):
            return
        count -= max(0, at_once)
        if count > 0:
            frame = pressure.serve(0, GFP_KERNEL | Gfp.MOVABLE, only_movable=True)
            if frame < 0:
                return
            if not movable.adopt(np.array([frame], np.int64), 0, 0):
                memory.free(frame, 0)
                return
            count -= 1


class Demand(NamedTuple):
    """What is asked for.

    Attributes
    ----------
    order : int
    requests : int
    uses : int
        Pages that programs use between two requests, drawn from all that there were at first.
    reads : int
        New pages that files read between two requests.
    seed : int
        Of what they use, and of the order in which pages are freed.
    """

    order: int
    requests: int = 100
    uses: int = 32
    reads: int = 0
    seed: int = 0


class Served(NamedTuple):
    """How requests ended and what they took. Counts are events by cause.

    Attributes
    ----------
    answers : int8[requests]
        Index into :data:`ANSWERS`.
    own : int64[requests, COUNTERS]
        Work of each request itself.
    background : int64[requests, COUNTERS]
        That of kswapd and kcompactd, which it woke.
    freed : int64[requests, COUNTERS]
        Of giving back the page of each request; all are given back at the end, in a random order.
    purge : int64[COUNTERS]
        Of giving back what those frees left for later, where unmapping is lazy.
    programs : int64[COUNTERS]
        Of programs and files in between, refaults included, and what they woke.
    killed : int
        Requests for which Linux would have killed a process.
    unusable : float
        Unusable free index of order 9 after the last request.
    free_frames : int
        After the last request.
    """

    answers: npt.NDArray[np.int8]
    own: npt.NDArray[np.int64]
    background: npt.NDArray[np.int64]
    freed: npt.NDArray[np.int64]
    purge: npt.NDArray[np.int64]
    programs: npt.NDArray[np.int64]
    killed: int
    unusable: float
    free_frames: int

    @property
    def frees(self) -> npt.NDArray[np.int64]:
        """Events of giving back all pages, int64[COUNTERS]."""
        return np.asarray(self.freed.sum(axis=0) + self.purge)

    def answered(self) -> npt.NDArray[np.int64]:
        """Return how many requests had each answer, int64[len(ANSWERS)]."""
        return np.bincount(self.answers, minlength=len(ANSWERS))


def serve(crowded: System, way: Way | None, demand: Demand) -> Served:
    """Ask a copy of a machine for pages one after another, then free them all in a random order.

    Parameters
    ----------
    crowded : System
        Left as it is; one that :func:`crowd` filled, or any with movable pages.
    way : Way or None
        None: nothing is asked for, which tells what programs and files do anyway. Requests count as failed.
    demand : Demand

    Raises
    ------
    ConfigurationError
        If the machine has no movable pages.
    """
    system = crowded.copy(policy=None if way is None else way.policy)
    pressure = system.pressure
    if pressure is None:
        raise ConfigurationError("nothing on this machine can be moved or reclaimed; call crowd() or populate() first")
    rng = np.random.default_rng([demand.seed, demand.requests])
    uses = rng.integers(pressure.movable.region.used, size=(demand.requests, demand.uses))
    free_order = rng.permutation(demand.requests)
    answers = np.zeros(demand.requests, np.int8)
    own = np.zeros((demand.requests, COUNTERS), np.int64)
    background = np.zeros((demand.requests, COUNTERS), np.int64)
    programs = np.zeros(COUNTERS, np.int64)
    pages: list[CompoundPage | None] = []
    killed = 0
    for request in range(demand.requests):
        before, woken = system.ledger.counts, pressure.background.copy()
        pressure.last_effort = None
        page = None if way is None else _ask(system, way, demand.order)
        after = system.ledger.counts
        pages.append(page)
        answers[request] = _answer(page, demand.order)
        background[request] = pressure.background - woken
        own[request] = after - before - background[request]
        killed += way is not None and pressure.last_effort is not None and pressure.last_effort.would_kill
        system.use_pages(uses[request])
        _read(system, demand.reads)
        programs += system.ledger.counts - after
    unusable, free = system.unusable_free_index(9), system.memory.zone.free_frames
    freed = np.zeros((demand.requests, COUNTERS), np.int64)
    before = system.ledger.counts
    for request in free_order.tolist():
        page = pages[request]
        if page is not None:
            system.free_pages(page)
        after = system.ledger.counts
        freed[request] = after - before
        before = after
    system.purge_vmalloc_area()
    purge = system.ledger.counts - before
    return Served(answers, own, background, freed, purge, programs, killed, unusable, free)


def _ask(system: System, way: Way, order: int) -> CompoundPage | None:
    try:
        return system.alloc_pages(order, way.flags, min(way.min_order, order))
    except OutOfMemory:
        return None


def _answer(page: CompoundPage | None, order: int) -> int:
    if page is None:
        return FAILED
    if page.is_virtual:
        return VIRTUAL
    return PHYSICAL if page.order == order else SMALLER


def kept(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the events that results keep, int64[..., len(EVENTS)], from counters, int64[..., COUNTERS]."""
    return counts[..., list(EVENTS)]


def all_counts(events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return counters, int64[..., COUNTERS], from the events that results keep, int64[..., len(EVENTS)]."""
    counts = np.zeros((*events.shape[:-1], COUNTERS), np.int64)
    counts[..., list(EVENTS)] = events
    return counts


def cpu_ns(
    events: npt.NDArray[np.int64], linux: LinuxPreset, cpu: CpuPreset, bound: str = "value"
) -> npt.NDArray[np.float64]:
    """Return nanoseconds of CPU time, float64[..., len(OPERATION_CAUSES)], of events that results keep."""
    return price_operations(all_counts(events), linux, cpu, bound)


def device_ns(events: npt.NDArray[np.int64], linux: LinuxPreset, bound: str = "value") -> npt.NDArray[np.float64]:
    """Return nanoseconds that devices take, float64[..., len(DEVICE_CAUSES)], of events that results keep."""
    return price_devices(all_counts(events), linux, bound)
