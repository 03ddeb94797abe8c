"""What the kernel does for a request that free memory cannot serve at once: kswapd, reclaim, compaction, and again.

A request first has to leave the low watermark untouched; what it does then, and in which order, is told step by step
by a kernel, :mod:`vckernels.slowpath` for Linux 6.18. Here the steps are done, page tables following between them.
Background work that it wakes is done when it has been answered: kswapd and kcompactd are never in the middle of
something, and neither helps a request that reclaims or compacts for itself. Nobody is killed for memory. Movable pages
are in one zone, the machine's highest; only it is reclaimed and compacted, and kswapd balances it. Rules: Linux 6.18,
``mm/page_alloc.c`` and, for what is woken, ``mm/vmscan.c``: ``wakeup_kswapd``, ``pgdat_balanced``. Those of 2.6.23 and
2.6.24 are in :mod:`vclab.slowpath_2_6_24`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from vckernels import slowpath, watermark
from vckernels.allocflags import AllocFlag
from vckernels.buddy import MAX_ORDER, PAGEBLOCK_ORDER
from vckernels.causes import Cause
from vckernels.compactcontrol import reset_deferral
from vckernels.compaction import CompactPriority, CompactResult, has_targets
from vckernels.slowpath import CAPTURED, SlowAction, SlowField
from vckernels.watermark import Limit, ZoneIndex
from vclab.gfp import Gfp, migratetype
from vclab.memory import Memory, Zone
from vclab.movable import MovablePages

HIGHEST_ZONE = int(ZoneIndex.NORMAL)
"""For whom kswapd and kcompactd work."""


@dataclass
class Effort:
    """What one request took beyond a look at the free lists.

    Attributes
    ----------
    tries : int
        Looks at the free lists.
    reclaims, compactions : int
        Times that it reclaimed and compacted itself; compaction that was put off or had no room does not count.
    reclaimed_frames : int
    woke_kswapd, woke_kcompactd : bool
    would_kill : bool
        Linux would have killed a process for it; here it fails.
    end : SlowAction
    """

    tries: int = 0
    reclaims: int = 0
    compactions: int = 0
    reclaimed_frames: int = 0
    woke_kswapd: bool = False
    woke_kcompactd: bool = False
    would_kill: bool = False
    end: SlowAction = SlowAction.SERVED


class SlowPath(ABC):
    """What requests of a machine with movable pages do; what a release does its own way, its class adds.

    Parameters
    ----------
    movable : MovablePages
        Mutated by compaction and reclaim.
    memory : Memory
        It keeps watermarks; mutated.
    """

    def __init__(self, movable: MovablePages, memory: Memory) -> None:
        self.movable = movable
        self.memory = memory
        self.slow = slowpath.new_slow()
        self.counters = movable.zone.buddy.counters
        self.wanted_order = -1
        """Order that kswapd was last woken for, -1 if it sleeps."""
        self._only_movable = False
        self.while_waiting: Callable[[], None] = self.run_background
        """What goes on while a request sleeps until devices are less busy, which only 2.6.24 lets it do."""

    # Requests

    def allocate(self, order: int, flags: Gfp, only_movable: bool = False) -> tuple[int, Effort]:
        """Return the first frame of a block, -1 if there is none, and what that took.

        What it woke still sleeps: :meth:`run_background` follows. With ``only_movable`` the block is of the zone that
        has movable pages.
        """
        effort = Effort()
        self._only_movable = only_movable
        if order > MAX_ORDER:
            effort.end = SlowAction.FAILED
            return -1, effort
        allowed = AllocFlag.WMARK_LOW | (AllocFlag.KSWAPD if flags & Gfp.KSWAPD_RECLAIM else 0)
        frame = self._take(order, flags, allowed, effort)
        if frame < 0:
            frame = self._go_slow(order, flags, effort)
            self.counters[Cause.ALLOCATION_FAILURE] += frame < 0
        return frame, effort

    def _take(self, order: int, flags: Gfp, allowed: int, effort: Effort) -> int:
        """Look at the free lists of all zones that may serve; return the first frame or -1."""
        effort.tries += 1
        return self.memory.take(order, flags, allowed, self._only_movable)

    def _zones(self, flags: Gfp) -> list[Zone]:
        """Return the zones that may serve a request, in the order in which they are tried."""
        return [self.movable.zone] if self._only_movable else self.memory.eligible_zones(flags)

    def _go_slow(self, order: int, flags: Gfp, effort: Effort) -> int:
        """Do step after step until one is the end; return the request's block, -1 if there is none."""
        action = self._begin(order, flags, order > 0 and bool(flags & Gfp.VFALLBACK))
        frame = -1
        while action < SlowAction.SERVED:
            answer = 0
            if action == SlowAction.TAKE:
                frame = self._take(order, flags, int(self.slow[SlowField.TAKE_FLAGS]), effort)
                answer = int(frame >= 0)
            elif action == SlowAction.RECLAIM:
                # At once and in the caller: kswapd, woken microseconds before, has freed nothing yet, whoever asks.
                answer = self._reclaim(order, flags, effort)
            elif action == SlowAction.WAKE_KSWAPD:
                if flags & Gfp.KSWAPD_RECLAIM:
                    self._wake_kswapd(order, flags, effort)
            elif action == SlowAction.KILL:
                effort.would_kill = True
            elif action == SlowAction.COMPACT:
                answer, frame = self._compact(order, flags, effort)
            else:
                answer = self._do(SlowAction(action), order, flags, effort)
            action = self._next_step(answer)
        effort.end = SlowAction(action)
        return frame if action in (SlowAction.SERVED, SlowAction.SERVED_BY_COMPACTION) else -1

    def _reclaim(self, order: int, flags: Gfp, effort: Effort) -> int:
        """Reclaim for the request; return 0 if there was no progress."""
        effort.reclaims += 1
        if not self._reaches_movable(flags):
            return 0
        answer = self.movable.reclaim(order, self.memory.highest_zone(flags))
        effort.reclaimed_frames += self.movable.reclaimed_frames
        return answer

    def _compact(self, order: int, flags: Gfp, effort: Effort) -> tuple[int, int]:
        """Compact for the request; return the answer, and a block captured or -1."""
        raise NotImplementedError(f"{type(self).__name__} knows of no compaction")

    def _reaches_movable(self, flags: Gfp) -> bool:
        """Return whether a request may have frames of the zone with movable pages."""
        return self.movable.zone in self._zones(flags)

    @abstractmethod
    def _begin(self, order: int, flags: Gfp, has_fallback: bool) -> int:
        """Return the first step of a request."""

    @abstractmethod
    def _next_step(self, answer: int) -> int:
        """Return the step after one that ended so."""

    @abstractmethod
    def _do(self, action: SlowAction, order: int, flags: Gfp, effort: Effort) -> int:
        """Do a step that releases do in different ways; return its answer."""

    # Background work

    @abstractmethod
    def _wake_kswapd(self, order: int, flags: Gfp, effort: Effort) -> None:
        """Wake kswapd for an order if there is something to do for it (``wakeup_kswapd``)."""

    @property
    def is_awake(self) -> bool:
        """Whether somebody was woken and has not run yet."""
        return self.wanted_order >= 0

    @abstractmethod
    def run_background(self) -> None:
        """Let all that was woken do its work."""

    def _want_order(self, order: int, flags: Gfp, effort: Effort) -> None:
        """Note that kswapd is to work for an order; where it finds no movable page it has nothing to do."""
        effort.woke_kswapd = True
        if self._reaches_movable(flags):
            self.wanted_order = max(self.wanted_order, order)


class CompactingSlowPath(SlowPath):
    """The slow path of Linux 6.18."""

    def __init__(self, movable: MovablePages, memory: Memory) -> None:
        super().__init__(movable, memory)
        self.compaction_order = -1
        """Order that kcompactd was last woken for, -1 if it sleeps."""

    def _take(self, order: int, flags: Gfp, allowed: int, effort: Effort) -> int:
        frame = super()._take(order, flags, allowed, effort)
        if allowed & AllocFlag.KSWAPD:
            # A claim of another type's pageblock has boosted the watermarks (end of rmqueue).
            for zone in self._zones(flags):
                if zone.limits()[Limit.BOOSTED]:
                    zone.limits()[Limit.BOOSTED] = 0
                    self._want_order(0, flags, effort)
        return frame

    def _begin(self, order: int, flags: Gfp, has_fallback: bool) -> int:
        return int(slowpath.begin_slow(self.slow, self.counters, order, migratetype(flags), int(flags), has_fallback))

    def _next_step(self, answer: int) -> int:
        action = int(slowpath.next_step(self.slow, self.counters, answer))
        if action == SlowAction.SERVED_BY_COMPACTION:
            reset_deferral(self.movable.compaction, int(self.slow[SlowField.ORDER]), True)
        return action

    def _do(self, action: SlowAction, order: int, flags: Gfp, effort: Effort) -> int:
        del effort
        if action == SlowAction.DRAIN:
            self.memory.release_reserve(migratetype(flags), False)
            return self.memory.drain()
        if action == SlowAction.RELEASE_RESERVE:
            return int(self.memory.release_reserve(migratetype(flags), True))
        if action == SlowAction.JUDGE_RECLAIM:
            return int(self._would_serve(order, flags))
        assert action == SlowAction.JUDGE_COMPACTION
        return int(self._could_compact(order, flags))

    def _compact(self, order: int, flags: Gfp, effort: Effort) -> tuple[int, int]:
        """Compact for the request (``__alloc_pages_direct_compact``); return the answer, and a block captured or -1."""
        if not self._reaches_movable(flags):
            return int(CompactResult.SKIPPED), -1
        movable, slow = self.movable, self.slow
        priority = CompactPriority(int(slow[SlowField.RUN_PRIORITY]))
        allowed, files, highest = int(slow[SlowField.FLAGS]), bool(flags & Gfp.FS), self.memory.highest_zone(flags)
        result = movable.compact(order, migratetype(flags), priority, allowed, highest, files)
        ran = result not in (CompactResult.SKIPPED, CompactResult.DEFERRED)
        effort.compactions += ran
        captured = movable.captured if ran else -1
        return int(result) + CAPTURED * (captured >= 0), captured

    def _would_serve(self, order: int, flags: Gfp) -> bool:
        """Return whether the request could be served if all that is reclaimable were (``should_reclaim_retry``)."""
        allowed, highest = int(self.slow[SlowField.FLAGS]), self.memory.highest_zone(flags)
        for zone in self._zones(flags):
            limits = zone.limits()
            available = zone.free_frames
            if zone is self.movable.zone:
                available += self.movable.reclaimable_frames
            mark = int(limits[Limit.MIN] + limits[Limit.BOOST])
            if watermark.zone_watermark_ok(zone.buddy, limits, order, mark, highest, allowed, available):
                return True
        return False

    def _could_compact(self, order: int, flags: Gfp) -> bool:
        """Return whether compaction has room if a part is reclaimed (``compaction_zonelist_suitable``)."""
        highest = self.memory.highest_zone(flags)
        for zone in self._zones(flags):
            available = zone.free_frames
            if zone is self.movable.zone:
                available += self.movable.reclaimable_frames // max(order, 1)
            if has_targets(zone.buddy, zone.limits(), order, highest, available):
                return True
        return False

    def _wake_kswapd(self, order: int, flags: Gfp, effort: Effort) -> None:
        """Wake kswapd, or kcompactd where free memory is short of nothing but large blocks (``wakeup_kswapd``)."""
        if not self._is_balanced(order, flags):
            self._want_order(order, flags, effort)
        elif not flags & Gfp.DIRECT_RECLAIM:
            self.compaction_order = max(self.compaction_order, order)
            effort.woke_kcompactd = True

    def _is_balanced(self, order: int, flags: Gfp) -> bool:
        """Return whether a zone is above its high watermark, with a block of an order (``pgdat_balanced``)."""
        zones = self._zones(flags)
        if any(zone.limits()[Limit.BOOST] for zone in zones):
            return False
        highest = self.memory.highest_zone(flags)
        for zone in zones:
            limits = zone.limits()
            if watermark.zone_watermark_ok(zone.buddy, limits, order, limits[Limit.HIGH], highest, 0, zone.free_frames):
                return True
        return False

    @property
    def is_awake(self) -> bool:
        """Whether kswapd or kcompactd was woken and has not run yet."""
        return super().is_awake or self.compaction_order >= 0

    def run_background(self) -> None:
        """Let kswapd and kcompactd do what they were woken for.

        Woken for an order that is not to be had, kswapd frees twice the block (``compact_gap``) and then goes on only
        while single frames are below the high watermark and its boost (``kswapd_shrink_node``, ``balance_pgdat``); the
        rest is kcompactd's. Nothing keeps the next request from waking both again.
        """
        if self.wanted_order >= 0:
            order, self.wanted_order = self.wanted_order, -1
            # What a boost has reclaimed is to be made pageblocks of (end of balance_pgdat).
            boosted = self.movable.limits[Limit.BOOST] > 0
            self.movable.balance(order, HIGHEST_ZONE)
            # kswapd, before it sleeps, hands a high order on (kswapd_try_to_sleep).
            self.compaction_order = max(self.compaction_order, order, PAGEBLOCK_ORDER if boosted else 0)
        if self.compaction_order > 0:
            self.movable.compact_in_background(self.compaction_order, int(AllocFlag.WMARK_MIN), HIGHEST_ZONE)
        self.compaction_order = -1
