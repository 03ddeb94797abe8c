"""The slow path of Linux 2.6.23 and 2.6.24: kswapd, lumpy reclaim, and again; no compaction.

Actions and state are those of :mod:`vckernels.slowpath`. Rules: ``__alloc_pages`` in ``mm/page_alloc.c``.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vckernels.allocflags import AllocFlag
from vckernels.causes import Cause
from vckernels.compactcontrol import COSTLY_ORDER
from vckernels.jit import kernel
from vckernels.slowpath import GfpBit, SlowAction, SlowField


class Stage2007(IntEnum):
    """The step whose answer is awaited."""

    WAKE = 0
    TAKE = 1
    RECLAIM = 2
    DRAIN = 3
    TAKE_RECLAIMED = 4
    TAKE_HIGH = 5
    KILL = 6
    TAKE_AGAIN = 7
    WAIT = 8


@kernel(inline=True)
def _await(slow: npt.NDArray[np.int64], stage: int, action: int) -> int:
    """Set the stage and return the action."""
    slow[SlowField.STAGE] = stage
    return action


@kernel(inline=True)
def _take(slow: npt.NDArray[np.int64], stage: int, flags: int) -> int:
    """Take a block with some flags next."""
    slow[SlowField.TAKE_FLAGS] = flags
    slow[SlowField.STAGE] = stage
    return np.int64(SlowAction.TAKE)


@kernel
def begin_slow_2_6_24(
    slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64], order: int, gfp: int, has_fallback: bool
) -> int:
    """Begin the slow path of a request that the low watermark kept from being served; return the first action.

    Parameters as those of :func:`~vckernels.slowpath.begin_slow`. ``NOMEMALLOC``, which had no part in this then, marks
    what a request that can wait takes without waiting.
    """
    counters[Cause.SLOW_PATH] += 1
    flags = AllocFlag.WMARK_MIN + 0
    if gfp & (GfpBit.DIRECT_RECLAIM | GfpBit.NOMEMALLOC) == 0:
        flags |= AllocFlag.NON_BLOCK
    if gfp & GfpBit.HIGH:
        flags |= AllocFlag.MIN_RESERVE
    slow[SlowField.ORDER] = order
    slow[SlowField.GFP] = gfp
    slow[SlowField.FLAGS] = flags
    slow[SlowField.PROGRESS] = 0
    slow[SlowField.ROUNDS] = 0
    slow[SlowField.HAS_FALLBACK] = has_fallback
    return _await(slow, Stage2007.WAKE, np.int64(SlowAction.WAKE_KSWAPD))


@kernel
def _rebalance(slow: npt.NDArray[np.int64]) -> int:
    """Begin a round of reclaim, unless the request cannot wait for that."""
    if slow[SlowField.GFP] & GfpBit.DIRECT_RECLAIM == 0:
        return np.int64(SlowAction.FAILED)
    slow[SlowField.ROUNDS] += 1
    if slow[SlowField.ROUNDS] > slow[SlowField.MOST_ROUNDS]:
        return np.int64(SlowAction.ABANDONED)
    return _await(slow, Stage2007.RECLAIM, np.int64(SlowAction.RECLAIM))


@kernel
def _end_round(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]) -> int:
    """Wait and begin another round, or fail. Large requests go on only if they say so."""
    gfp = slow[SlowField.GFP]
    small = slow[SlowField.ORDER] <= COSTLY_ORDER
    insists = small or gfp & (GfpBit.RETRY_MAYFAIL | GfpBit.NOFAIL) != 0
    if gfp & GfpBit.NORETRY or not insists:
        return np.int64(SlowAction.FAILED)
    counters[Cause.SLOW_PATH_RETRY] += 1
    return _await(slow, Stage2007.WAIT, np.int64(SlowAction.WAIT))


@kernel
def _after_reclaim(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]) -> int:
    """Take if there was progress; else take a last look before somebody is killed, if file systems may be entered."""
    gfp = slow[SlowField.GFP]
    if slow[SlowField.PROGRESS] > 0:
        return _take(slow, Stage2007.TAKE_RECLAIMED, slow[SlowField.FLAGS])
    if slow[SlowField.HAS_FALLBACK]:
        return np.int64(SlowAction.FAILED)
    if gfp & GfpBit.FS and gfp & GfpBit.NORETRY == 0:
        return _take(slow, Stage2007.TAKE_HIGH, np.int64(AllocFlag.WMARK_HIGH))
    return _end_round(slow, counters)


@kernel
def next_step_2_6_24(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64], answer: int) -> int:
    """Return what a request does next; parameters as those of :func:`~vckernels.slowpath.next_step`."""
    stage = slow[SlowField.STAGE]
    if stage == Stage2007.WAKE:
        return _take(slow, Stage2007.TAKE, slow[SlowField.FLAGS])
    if stage == Stage2007.RECLAIM:
        slow[SlowField.PROGRESS] = answer
        if slow[SlowField.ORDER] > 0:
            return _await(slow, Stage2007.DRAIN, np.int64(SlowAction.DRAIN))
        return _after_reclaim(slow, counters)
    if stage == Stage2007.DRAIN:
        return _after_reclaim(slow, counters)
    if stage == Stage2007.KILL:
        if answer == 0:
            return np.int64(SlowAction.FAILED)
        counters[Cause.OOM_KILL] += 1
        return _take(slow, Stage2007.TAKE_AGAIN, np.int64(AllocFlag.WMARK_LOW))
    if stage == Stage2007.WAIT:
        return _rebalance(slow)
    if answer > 0:
        return np.int64(SlowAction.SERVED)
    if stage == Stage2007.TAKE:
        return _rebalance(slow)
    if stage == Stage2007.TAKE_RECLAIMED:
        # Above order 3 one failed round is enough where something stands in.
        if slow[SlowField.HAS_FALLBACK] and slow[SlowField.ORDER] > COSTLY_ORDER:
            return np.int64(SlowAction.FAILED)
        return _end_round(slow, counters)
    if stage == Stage2007.TAKE_HIGH:
        if slow[SlowField.ORDER] > COSTLY_ORDER:
            return np.int64(SlowAction.FAILED)
        return _await(slow, Stage2007.KILL, np.int64(SlowAction.KILL))
    return _await(slow, Stage2007.WAKE, np.int64(SlowAction.WAKE_KSWAPD))
