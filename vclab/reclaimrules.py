"""Reclaim of a release: what its lists are like, and the kernels that begin and advance its runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vckernels import lumpy, reclaim
from vckernels.buddy import Buddy
from vckernels.movelog import Moves
from vckernels.pages import Pages
from vckernels.referenced import Entries
from vckernels.workingset import Reclaim

Limits = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReclaimRules:
    """How a release reclaims.

    Attributes
    ----------
    split_lists : bool
        Whether anonymous, file and unevictable pages have lists of their own.
    large_pages : bool
        Whether pages of several frames are on lists; else programs have single ones only.
    compacts : bool
        Whether there is compaction beside reclaim.
    forgets_pages : bool
        Whether CPUs forget each page that is unmapped on its own, by INVLPG (``ptep_clear_flush``); else a batch of
        them at once, by a flush of all they know of programs (``arch_tlbbatch_flush``).
    begin_direct, begin_kswapd : callable
        Begin a request's own reclaim, or kswapd's, for an order and the highest zone that serves it.
    advance : callable
        Goes on until the run is finished or the log is full (:data:`PAUSED`); the answer is the release's own.
    """

    split_lists: bool
    large_pages: bool
    compacts: bool
    forgets_pages: bool
    begin_direct: Callable[[Buddy, Limits, Reclaim, int, int], None]
    begin_kswapd: Callable[[Buddy, Limits, Reclaim, int, int], None]
    advance: Callable[[Buddy, Pages, Limits, Reclaim, Entries, Moves], int]


PAUSED = reclaim.PAUSED
"""Answer of ``advance``, in both generations: empty the log and advance again."""


def _begin_direct(buddy: Buddy, limits: Limits, state: Reclaim, order: int, zone: int) -> None:
    del limits
    reclaim.begin_reclaim(buddy, state, order, zone)


def _begin_lumpy(buddy: Buddy, limits: Limits, state: Reclaim, order: int, zone: int) -> None:
    del limits
    lumpy.begin_lumpy(buddy, state, order, zone, False)


def _begin_lumpy_kswapd(buddy: Buddy, limits: Limits, state: Reclaim, order: int, zone: int) -> None:
    del limits
    lumpy.begin_lumpy(buddy, state, order, zone, True)


#: By what a preset says of its release (``allocator.slow_path``).
RECLAIM_RULES = {
    "compaction": ReclaimRules(
        split_lists=True,
        large_pages=True,
        compacts=True,
        forgets_pages=False,
        begin_direct=_begin_direct,
        begin_kswapd=reclaim.begin_kswapd,
        advance=reclaim.advance_reclaim,
    ),
    "lumpy-reclaim": ReclaimRules(
        split_lists=False,
        large_pages=False,
        compacts=False,
        forgets_pages=True,
        begin_direct=_begin_lumpy,
        begin_kswapd=_begin_lumpy_kswapd,
        advance=lumpy.advance_lumpy,
    ),
}
