"""What the kernel does for a request that free memory cannot serve at once: kswapd, compaction, reclaim, and again.

A request first has to leave the low watermark untouched; what it does then, and in which order, is told step by step
by :mod:`vckernels.slowpath`. Here the steps are done, page tables following between them. Background work that it
wakes is done when it has been answered: kswapd and kcompactd are never in the middle of something. Nobody
is killed for memory, and there are no per-CPU lists to drain. Rules: Linux 6.18, ``mm/page_alloc.c`` and, for what is
woken, ``mm/vmscan.c``: ``wakeup_kswapd``.
"""

from __future__ import annotations

from dataclasses import dataclass

from vckernels import buddy as buddy_kernels
from vckernels import claim, slowpath, watermark
from vckernels.allocflags import AllocFlag
from vckernels.buddy import MAX_ORDER
from vckernels.compactcontrol import reset_deferral
from vckernels.compaction import CompactPriority, CompactResult, has_targets
from vckernels.slowpath import CAPTURED, SlowAction, SlowField
from vckernels.watermark import Limit, ZoneIndex
from vclab.gfp import Gfp, migratetype
from vclab.movable import MovablePages

HIGHEST_ZONE = int(ZoneIndex.NORMAL)


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


class SlowPath:
    """Requests of a machine whose one zone has movable pages.

    Parameters
    ----------
    movable : MovablePages
        The zone's pages; mutated by compaction and reclaim.
    """

    def __init__(self, movable: MovablePages) -> None:
        self.movable = movable
        self.slow = slowpath.new_slow()
        self.wanted_order = -1
        """Order that kswapd was last woken for, -1 if it sleeps."""
        self.compaction_order = -1
        """Order that kcompactd was last woken for, -1 if it sleeps."""

    # Requests

    def allocate(self, order: int, flags: Gfp) -> tuple[int, Effort]:
        """Return the first frame of a block, -1 if there is none, and what that took.

        What it woke still sleeps: :meth:`run_background` follows.
        """
        effort = Effort()
        if order > MAX_ORDER:
            effort.end = SlowAction.FAILED
            return -1, effort
        frame = self._take(order, flags, int(AllocFlag.WMARK_LOW), effort)
        if frame < 0:
            frame = self._go_slow(order, flags, effort)
        return frame, effort

    def _take(self, order: int, flags: Gfp, allowed: int, effort: Effort) -> int:
        """Look at the free lists (``get_page_from_freelist``); return the first frame or -1."""
        zone = self.movable.zone
        effort.tries += 1
        free = zone.free_frames
        if not watermark.zone_watermark_fast(zone.buddy, self.movable.limits, order, HIGHEST_ZONE, allowed, free):
            return -1
        frame = int(claim.allocate_one(zone.buddy, order, migratetype(flags)))
        return frame if frame < 0 else frame + zone.first_frame

    def _go_slow(self, order: int, flags: Gfp, effort: Effort) -> int:
        """Do step after step until one is the end; return the request's block, -1 if there is none."""
        slow, counters = self.slow, self.movable.zone.buddy.counters
        may_stand_in = bool(flags & Gfp.VFALLBACK)
        action = slowpath.begin_slow(slow, counters, order, migratetype(flags), int(flags), may_stand_in)
        frame = -1
        while action < SlowAction.SERVED:
            answer = 0
            if action == SlowAction.TAKE:
                frame = self._take(order, flags, int(slow[SlowField.TAKE_FLAGS]), effort)
                answer = int(frame >= 0)
            elif action == SlowAction.COMPACT:
                answer, frame = self._compact(order, flags, effort)
            elif action == SlowAction.RECLAIM:
                effort.reclaims += 1
                answer = self.movable.reclaim(order, HIGHEST_ZONE)
                effort.reclaimed_frames += answer
            elif action == SlowAction.WAKE_KSWAPD:
                self._wake_kswapd(order, flags, effort)
            elif action == SlowAction.JUDGE_RECLAIM:
                answer = int(self._would_serve(order))
            elif action == SlowAction.JUDGE_COMPACTION:
                answer = int(self._could_compact(order))
            elif action == SlowAction.KILL:
                effort.would_kill = True
            action = slowpath.next_step(slow, counters, answer)
        effort.end = SlowAction(action)
        if action == SlowAction.SERVED_BY_COMPACTION:
            reset_deferral(self.movable.compaction, order, True)
        return frame if action in (SlowAction.SERVED, SlowAction.SERVED_BY_COMPACTION) else -1

    def _compact(self, order: int, flags: Gfp, effort: Effort) -> tuple[int, int]:
        """Compact for the request (``__alloc_pages_direct_compact``); return the answer, and a block captured or -1."""
        movable, slow = self.movable, self.slow
        priority = CompactPriority(int(slow[SlowField.RUN_PRIORITY]))
        allowed, files = int(slow[SlowField.FLAGS]), bool(flags & Gfp.FS)
        result = movable.compact(order, migratetype(flags), priority, allowed, HIGHEST_ZONE, files)
        ran = result not in (CompactResult.SKIPPED, CompactResult.DEFERRED)
        effort.compactions += ran
        captured = movable.captured if ran else -1
        return int(result) + CAPTURED * (captured >= 0), captured

    def _would_serve(self, order: int) -> bool:
        """Return whether the request could be served if all that is reclaimable were (``should_reclaim_retry``)."""
        movable = self.movable
        buddy, limits = movable.zone.buddy, movable.limits
        available = movable.zone.free_frames + movable.reclaimable_frames
        mark = int(limits[Limit.MIN] + limits[Limit.BOOST])
        allowed = int(self.slow[SlowField.FLAGS])
        return bool(watermark.zone_watermark_ok(buddy, limits, order, mark, HIGHEST_ZONE, allowed, available))

    def _could_compact(self, order: int) -> bool:
        """Return whether compaction has room if a part is reclaimed (``compaction_zonelist_suitable``)."""
        movable = self.movable
        free = movable.zone.free_frames + movable.reclaimable_frames // max(order, 1)
        return bool(has_targets(movable.zone.buddy, movable.limits, order, HIGHEST_ZONE, free))

    # Background work

    def _wake_kswapd(self, order: int, flags: Gfp, effort: Effort) -> None:
        """Wake kswapd, or kcompactd where free memory is short of nothing but large blocks (``wakeup_kswapd``)."""
        if not flags & Gfp.KSWAPD_RECLAIM:
            return
        if self._is_balanced(order):
            if not flags & Gfp.DIRECT_RECLAIM:
                self.compaction_order = max(self.compaction_order, order)
                effort.woke_kcompactd = True
            return
        self.wanted_order = max(self.wanted_order, order)
        effort.woke_kswapd = True

    def _is_balanced(self, order: int) -> bool:
        """Return whether the zone is above its high watermark, with a block of an order (``pgdat_balanced``)."""
        buddy, limits = self.movable.zone.buddy, self.movable.limits
        if limits[Limit.BOOST]:
            return False
        free = int(buddy_kernels.free_frames(buddy))
        return bool(watermark.zone_watermark_ok(buddy, limits, order, limits[Limit.HIGH], HIGHEST_ZONE, 0, free))

    @property
    def is_awake(self) -> bool:
        """Whether kswapd or kcompactd was woken and has not run yet."""
        return self.wanted_order >= 0 or self.compaction_order >= 0

    def run_background(self) -> None:
        """Let kswapd and kcompactd do what they were woken for."""
        if self.wanted_order >= 0:
            order, self.wanted_order = self.wanted_order, -1
            self.movable.balance(order, HIGHEST_ZONE)
            # kswapd, before it sleeps, hands a high order on (kswapd_try_to_sleep).
            self.compaction_order = max(self.compaction_order, order)
        if self.compaction_order > 0:
            self.movable.compact_in_background(self.compaction_order, int(AllocFlag.WMARK_MIN), HIGHEST_ZONE)
        self.compaction_order = -1
