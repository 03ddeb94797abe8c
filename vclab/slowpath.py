"""What the kernel does for a request that free memory cannot serve at once: kswapd, compaction, reclaim, and again.

A request first has to leave the low watermark untouched, then the min one; its flags say how much it may do between
tries. Background work that it wakes is done when it has been answered: this machine's kswapd and kcompactd are never
in the middle of something. Rules: Linux 6.18, ``mm/page_alloc.c``: ``__alloc_pages_slowpath``, ``gfp_to_alloc_flags``,
``should_reclaim_retry``, ``should_compact_retry``; ``mm/vmscan.c``: ``wakeup_kswapd``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vckernels import buddy as buddy_kernels
from vckernels import claim, watermark
from vckernels.allocflags import AllocFlag
from vckernels.buddy import MAX_ORDER, Migratetype
from vckernels.compactcontrol import COSTLY_ORDER
from vckernels.compaction import CompactPriority, CompactResult, has_targets
from vckernels.watermark import Limit, ZoneIndex
from vclab.gfp import Gfp, migratetype
from vclab.movable import MovablePages

RECLAIM_RETRIES = 16
"""Rounds of reclaim without progress before a request gives up (``MAX_RECLAIM_RETRIES``)."""
COMPACT_RETRIES = 16
"""Rounds after which successful compaction that did not serve the request is tried harder (``MAX_COMPACT_RETRIES``)."""
HIGHEST_ZONE = int(ZoneIndex.NORMAL)


class Ending(Enum):
    """Why a request was not served."""

    SERVED = "it was served"
    NO_DIRECT_RECLAIM = "it may not reclaim"
    NO_RETRY = "it may not try again"
    COSTLY = "it is of a costly order and may fail"
    NO_PROGRESS = "reclaim and compaction make no progress"
    WOULD_KILL = "only killing a process would help"


@dataclass
class Effort:
    """What one request took beyond a look at the free lists.

    Attributes
    ----------
    tries : int
        Looks at the free lists.
    reclaims, compactions : int
        Times that it reclaimed and compacted itself.
    reclaimed_frames : int
    woke_kswapd, woke_kcompactd : bool
    ending : Ending
    """

    tries: int = 0
    reclaims: int = 0
    compactions: int = 0
    reclaimed_frames: int = 0
    woke_kswapd: bool = False
    woke_kcompactd: bool = False
    ending: Ending = Ending.SERVED


def allocation_flags(order: int, flags: Gfp) -> int:
    """Return what a request may use once the low watermark is passed (``gfp_to_alloc_flags``)."""
    allowed = int(AllocFlag.WMARK_MIN)
    if flags & Gfp.HIGH:
        allowed |= AllocFlag.MIN_RESERVE
    if flags & Gfp.KSWAPD_RECLAIM:
        allowed |= AllocFlag.KSWAPD
    if not flags & Gfp.DIRECT_RECLAIM and not flags & Gfp.NOMEMALLOC:
        allowed |= AllocFlag.NON_BLOCK
        if order > 0:
            allowed |= AllocFlag.HIGHATOMIC
    return allowed


class SlowPath:
    """Requests of a machine whose one zone has movable pages.

    Parameters
    ----------
    movable : MovablePages
        The zone's pages; mutated by compaction and reclaim.
    """

    def __init__(self, movable: MovablePages) -> None:
        self.movable = movable
        self.wanted_order = -1
        """Order that kswapd was last woken for, -1 if it sleeps."""
        self.compaction_order = -1
        """Order that kcompactd was last woken for, -1 if it sleeps."""

    # Requests

    def allocate(self, order: int, flags: Gfp) -> tuple[int, Effort]:
        """Return the first frame of a block, -1 if there is none, and what that took."""
        effort = Effort()
        if order > MAX_ORDER:
            effort.ending = Ending.NO_PROGRESS
            return -1, effort
        frame = self._try(order, flags, int(AllocFlag.WMARK_LOW), effort)
        if frame < 0:
            frame = self._try_harder(order, flags, effort)
        self.run_background()
        return frame, effort

    def _try(self, order: int, flags: Gfp, allowed: int, effort: Effort) -> int:
        """Look at the free lists (``get_page_from_freelist``); return the first frame or -1."""
        zone = self.movable.zone
        effort.tries += 1
        free = zone.free_frames
        if not watermark.zone_watermark_fast(zone.buddy, self.movable.limits, order, HIGHEST_ZONE, allowed, free):
            return -1
        frame = int(claim.allocate_one(zone.buddy, order, migratetype(flags)))
        return frame if frame < 0 else frame + zone.first_frame

    def _try_harder(self, order: int, flags: Gfp, effort: Effort) -> int:
        allowed = allocation_flags(order, flags)
        may_reclaim = bool(flags & Gfp.DIRECT_RECLAIM)
        may_compact = may_reclaim and order > 0 and bool(flags & Gfp.IO)
        costly = order > COSTLY_ORDER
        self._wake_kswapd(order, flags, effort)
        frame = self._try(order, flags, allowed, effort)
        if frame >= 0:
            return frame
        priority = CompactPriority.SYNC_LIGHT
        if may_compact and (costly or migratetype(flags) != Migratetype.MOVABLE):
            frame, result = self._compact(order, flags, CompactPriority.ASYNC, allowed, effort)
            if frame >= 0:
                return frame
            if costly and flags & Gfp.NORETRY:
                if result in (CompactResult.SKIPPED, CompactResult.DEFERRED):
                    return self._end(effort, Ending.NO_RETRY)
                priority = CompactPriority.ASYNC
        idle_rounds = 0
        compact_rounds = 0
        while True:
            self._wake_kswapd(order, flags, effort)
            if not may_reclaim:
                return self._end(effort, Ending.NO_DIRECT_RECLAIM)
            progress = self._reclaim(order, effort)
            frame = self._try(order, flags, allowed, effort) if progress else -1
            if frame >= 0:
                return frame
            result = CompactResult.SKIPPED
            if may_compact:
                frame, result = self._compact(order, flags, priority, allowed, effort)
                if frame >= 0:
                    return frame
            if flags & Gfp.NORETRY:
                return self._end(effort, Ending.NO_RETRY)
            if costly and (not may_compact or not flags & Gfp.RETRY_MAYFAIL):
                return self._end(effort, Ending.COSTLY)
            idle_rounds = 0 if progress and not costly else idle_rounds + 1
            if self._may_reclaim_again(order, allowed, idle_rounds):
                continue
            if progress:
                again, priority, compact_rounds = self._may_compact_again(order, result, priority, compact_rounds)
                if again:
                    continue
            if costly or flags & Gfp.RETRY_MAYFAIL:
                return self._end(effort, Ending.NO_PROGRESS)
            return self._end(effort, Ending.WOULD_KILL)

    def _end(self, effort: Effort, ending: Ending) -> int:
        effort.ending = ending
        return -1

    def _reclaim(self, order: int, effort: Effort) -> int:
        """Reclaim for the request (``__alloc_pages_direct_reclaim``); return the frames freed."""
        effort.reclaims += 1
        freed = self.movable.reclaim(order, HIGHEST_ZONE)
        effort.reclaimed_frames += freed
        return freed

    def _compact(
        self, order: int, flags: Gfp, priority: CompactPriority, allowed: int, effort: Effort
    ) -> tuple[int, CompactResult]:
        """Compact for the request (``__alloc_pages_direct_compact``); return its block or -1, and how that ended."""
        movable = self.movable
        files = bool(flags & Gfp.FS)
        result = movable.compact(order, migratetype(flags), priority, allowed, HIGHEST_ZONE, files)
        if result in (CompactResult.SKIPPED, CompactResult.DEFERRED):
            return -1, result
        effort.compactions += 1
        if movable.captured >= 0:
            return movable.captured, result
        return self._try(order, flags, allowed, effort), result

    # Whether to go on

    def _may_reclaim_again(self, order: int, allowed: int, idle_rounds: int) -> bool:
        """Return whether the request could be served if all that is reclaimable were (``should_reclaim_retry``)."""
        if idle_rounds > RECLAIM_RETRIES:
            return False
        movable = self.movable
        available = movable.zone.free_frames + movable.reclaimable_frames
        mark = int(movable.limits[Limit.MIN] + movable.limits[Limit.BOOST])
        buddy, limits = movable.zone.buddy, movable.limits
        return bool(watermark.zone_watermark_ok(buddy, limits, order, mark, HIGHEST_ZONE, allowed, available))

    def _may_compact_again(
        self, order: int, result: CompactResult, priority: CompactPriority, rounds: int
    ) -> tuple[bool, CompactPriority, int]:
        """Return whether compaction is worth another round, how hard it tries then, and the rounds so far.

        Rule: ``should_compact_retry``.
        """
        if order == 0:
            return False, priority, rounds
        if result == CompactResult.SKIPPED:
            free = self.movable.zone.free_frames + self.movable.reclaimable_frames // order
            possible = has_targets(self.movable.zone.buddy, self.movable.limits, order, HIGHEST_ZONE, free)
            return bool(possible), priority, rounds
        costly = order > COSTLY_ORDER
        if result == CompactResult.SUCCESS:
            rounds += 1
            if rounds <= (COMPACT_RETRIES // 4 if costly else COMPACT_RETRIES):
                return True, priority, rounds
        hardest = CompactPriority.SYNC_LIGHT if costly else CompactPriority.SYNC_FULL
        if priority > hardest:
            return True, CompactPriority(priority - 1), 0
        return False, priority, rounds

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
