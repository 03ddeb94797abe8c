"""The slow path of Linux 2.6.23 and 2.6.24: kswapd, lumpy reclaim, and again. There is no compaction.

The order of steps is told by :mod:`vckernels.slowpath_2_6_24`. While a request waits for devices kswapd goes on with
its work: only kswapd finds out that nothing is left to be reclaimed, without which a small request would try for ever.
Rules: ``mm/page_alloc.c`` of 2.6.24: ``__alloc_pages``; ``mm/vmscan.c``: ``wakeup_kswapd``.
"""

from __future__ import annotations

from vckernels.slowpath import SlowAction
from vckernels.slowpath_2_6_24 import begin_slow_2_6_24, next_step_2_6_24
from vckernels.watermark import Limit, zone_watermark_ok_2_6_24
from vclab.gfp import Gfp
from vclab.memory import Memory
from vclab.movable import MovablePages
from vclab.slowpath import HIGHEST_ZONE, CompactingSlowPath, Effort, SlowPath


class LumpySlowPath(SlowPath):
    """The slow path of the RFC's days."""

    def _begin(self, order: int, flags: Gfp, has_fallback: bool) -> int:
        return int(begin_slow_2_6_24(self.slow, self.counters, order, int(flags), has_fallback))

    def _next_step(self, answer: int) -> int:
        return int(next_step_2_6_24(self.slow, self.counters, answer))

    def _do(self, action: SlowAction, order: int, flags: Gfp, effort: Effort) -> int:
        if action == SlowAction.DRAIN:
            return self.memory.drain()
        assert action == SlowAction.WAIT
        # Others meet the low watermark meanwhile, and wake it.
        self._wake_kswapd(order, flags, effort)
        self.while_waiting()
        return 0

    def _wake_kswapd(self, order: int, flags: Gfp, effort: Effort) -> None:
        """Wake kswapd if a zone is below its low watermark for an order."""
        for zone in self._zones(flags):
            limits = zone.limits()
            mark, free = int(limits[Limit.LOW]), zone.free_frames
            if not zone_watermark_ok_2_6_24(zone.buddy, limits, order, mark, 0, 0, free):
                self._want_order(order, flags, effort)

    def run_background(self) -> None:
        """Let kswapd do what it was woken for."""
        if self.wanted_order >= 0:
            order, self.wanted_order = self.wanted_order, -1
            self.movable.balance(order, HIGHEST_ZONE)


def slow_path(movable: MovablePages, memory: Memory) -> SlowPath:
    """Return the slow path of the release by whose rules pages are reclaimed."""
    return (CompactingSlowPath if movable.rules.compacts else LumpySlowPath)(movable, memory)
