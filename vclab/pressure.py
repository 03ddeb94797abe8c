"""A machine whose memory others want too: its slow path, and CPUs that forget what compaction and reclaim change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from vckernels.causes import COUNTERS, Cause
from vckernels.compaction import CompactResult
from vclab.gfp import Gfp
from vclab.memory import Memory
from vclab.mmu import Mmu
from vclab.movable import MovablePages
from vclab.slowpath import Effort
from vclab.slowpath_2_6_24 import slow_path


class Pressure:
    """Serves a machine's requests by the kernel's slow path from its making on, watermarks included.

    Parameters
    ----------
    movable : MovablePages
        What compaction moves and reclaim takes.
    memory : Memory
        It keeps watermarks; its requests come here.
    mmus : sequence of Mmu
        Those of all CPUs; mutated where they have to forget.
    operations : int64[COUNTERS]
        The kernel's work is counted here.

    Attributes
    ----------
    last_effort : Effort or None
        What the last request for frames took.
    background : int64[COUNTERS]
        What kswapd and kcompactd did when requests had woken them; the machine's ledger holds it too.
    background_cpu : int
        Where they ran last, so that what they free is on this CPU's lists.
    """

    def __init__(
        self, movable: MovablePages, memory: Memory, mmus: Sequence[Mmu], operations: npt.NDArray[np.int64]
    ) -> None:
        self.movable = movable
        self.memory = memory
        self.mmus = mmus
        self.operations = operations
        self.last_effort: Effort | None = None
        self.background = np.zeros(COUNTERS, np.int64)
        self.background_cpu = len(mmus) - 1
        self._seen_batches = self._batches
        self._slow_path = slow_path(movable, memory)
        self._slow_path.while_waiting = self._run_background
        self._held = False
        memory.slow_path = self.serve

    def serve(self, order: int, flags: Gfp, only_movable: bool = False) -> int:
        """Return the first frame of a block, -1 where all that flags allow brings none.

        ``only_movable``: of the zone with movable pages alone.
        """
        frame, self.last_effort = self._slow_path.allocate(order, flags, only_movable)
        if self._held:
            self.forget()
        else:
            self._run_background()
        return frame

    @contextmanager
    def until_answered(self) -> Iterator[None]:
        """Let kswapd and kcompactd run when a request has been answered by all that its policy tries.

        They are threads of their own that take milliseconds; a fallback follows its first try within microseconds,
        and reclaims for itself if it has to, as a request that insists does. Where a request sleeps they run meanwhile.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._run_background()

    def _run_background(self) -> None:
        """Let kswapd and kcompactd do what the request woke them for, and count it as theirs."""
        self.forget()
        if not self._slow_path.is_awake:
            return
        counts = self._counts()
        asking, self.memory.cpu = self.memory.cpu, self._place_background()
        try:
            self._slow_path.run_background()
        finally:
            self.memory.cpu = asking
        self.forget()
        self.background += self._counts() - counts

    def _place_background(self) -> int:
        """Return the CPU on which kswapd and kcompactd run now.

        Threads of their node, they may run on any of its CPUs. Who wakes one goes on, so that its CPU is busy; a woken
        thread stays where it ran last if that one is idle, else it goes to another that is, and nobody but who asks
        keeps a CPU busy here. Rules: ``kernel/sched/fair.c``: ``wake_affine_idle``, ``select_idle_sibling``; of 2.6.24
        ``kernel/sched.c``: ``try_to_wake_up``, whose load balancing finds the idle one a little later. A machine's only
        CPU does everything.
        """
        if self.background_cpu == self.memory.cpu:
            self.background_cpu = (self.background_cpu + 1) % len(self.mmus)
        return self.background_cpu

    def _counts(self) -> npt.NDArray[np.int64]:
        """Return all events that the kernel's work on pages counts, int64[COUNTERS]."""
        counts = self.operations + self.memory.counters + self.movable.region.tables.state.counters
        for mmu in self.mmus:
            counts += mmu.counters
        return counts

    def compact(self, proactiveness: int) -> CompactResult:
        """Compact the whole zone (:meth:`~vclab.movable.MovablePages.compact_all`)."""
        result = self.movable.compact_all(proactiveness)
        self.forget()
        return result

    def copy(
        self, movable: MovablePages, memory: Memory, mmus: Sequence[Mmu], operations: npt.NDArray[np.int64]
    ) -> Pressure:
        """Return the same for copies of its parts, between two requests; nobody is awake then."""
        twin = Pressure(movable, memory, mmus, operations)
        twin.background = self.background.copy()
        twin.background_cpu = self.background_cpu
        twin.last_effort = self.last_effort
        twin._seen_batches = self._seen_batches
        return twin

    @property
    def _batches(self) -> int:
        """Times so far that CPUs had to forget pages that moved or were unmapped."""
        counters = self.movable.zone.buddy.counters
        return int(counters[Cause.MIGRATION_BATCH] + counters[Cause.UNMAP_BATCH])

    def forget(self) -> None:
        """Let every CPU forget pages that moved or were unmapped, as often as the release does it.

        All that CPUs know of programs goes, even where a release forgets single pages: their work is counted so.
        """
        before, self._seen_batches = self._seen_batches, self._batches
        if not self.movable.take_forgotten():
            return
        batches = max(1, self._batches - before)
        # Nothing is accessed between batches, so one flush leaves what all would; all are counted.
        for mmu in self.mmus:
            mmu.forget_programs()
        cause = Cause.TLB_INVALIDATION if self.movable.rules.forgets_pages else Cause.TLB_FLUSH
        self.operations[cause] += batches * len(self.mmus)
        self.operations[Cause.INTERRUPT] += batches * (len(self.mmus) > 1)
