"""What a request does when the free lists do not serve it at once: the order of steps, and when to give up.

The steps (taking, waking kswapd, reclaim, compaction) are done by who holds the zones; :func:`begin_slow` and
:func:`next_step` say which comes next, given how the last one ended. So one rule serves a single zone and a
machine's zones alike, and page tables can follow between the steps. Rules: Linux 6.18, ``mm/page_alloc.c``:
``__alloc_pages_slowpath``, ``gfp_to_alloc_flags``, ``should_reclaim_retry``, ``should_compact_retry``,
``__alloc_pages_may_oom``. Those of 2.6.23 and 2.6.24 are in :mod:`vckernels.slowpath_2_6_24`.

Nobody is an exception: no task may use all memory (``PF_MEMALLOC``) or is being killed, and there are no cpusets.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vckernels.allocflags import AllocFlag
from vckernels.buddy import Migratetype
from vckernels.causes import Cause
from vckernels.compactcontrol import COSTLY_ORDER
from vckernels.compaction import CompactPriority, CompactResult
from vckernels.jit import kernel

MAX_RECLAIM_RETRIES = 16
MAX_COMPACT_RETRIES = 16


class GfpBit(IntEnum):
    """Bits of a request's flags that matter here, as Linux 6.18 numbers them (``include/linux/gfp_types.h``)."""

    HIGH = 1 << 5
    IO = 1 << 6
    FS = 1 << 7
    DIRECT_RECLAIM = 1 << 10
    KSWAPD_RECLAIM = 1 << 11
    RETRY_MAYFAIL = 1 << 14
    """In 2007, ``__GFP_REPEAT``."""
    NOFAIL = 1 << 15
    NORETRY = 1 << 16
    NOMEMALLOC = 1 << 19


class SlowAction(IntEnum):
    """A step of the slow path, and what its answer is to be."""

    TAKE = 0
    """Take a block from the free lists as ``TAKE_FLAGS`` allow; answer: 1 if there was one."""
    WAKE_KSWAPD = 1
    """Let kswapd know of the order; answer: anything."""
    COMPACT = 2
    """Compact with ``RUN_PRIORITY``; answer: a ``CompactResult``, ``CAPTURED`` added if a block was captured."""
    RECLAIM = 3
    """Reclaim; answer: 0 if there was no progress."""
    DRAIN = 4
    """Empty per-CPU lists and give a reserved pageblock back; answer: anything."""
    JUDGE_RECLAIM = 5
    """Answer: 1 if the request would be served from the blocks there are, were all reclaimable frames free."""
    JUDGE_COMPACTION = 6
    """Answer: 1 if compaction could begin, were part of the reclaimable frames free."""
    RELEASE_RESERVE = 7
    """Give a pageblock reserved for atomic requests back, come what may; answer: 1 if there was one."""
    KILL = 8
    """Kill a process for its memory; answer: 1 if that was done."""
    WAIT = 9
    """2.6.24: wait for devices; answer: anything."""
    SERVED = 10
    """The end: the block last taken is the request's."""
    SERVED_BY_COMPACTION = 11
    """The end: the block last taken or captured is, and the zone's compaction is not put off any longer."""
    FAILED = 12
    """The end: there is no memory for the request."""
    ABANDONED = 13
    """The end: the kernel would try for ever."""


CAPTURED = 16
"""Added to a ``CompactResult`` if the run captured a block for the request."""


class SlowField(IntEnum):
    """Index into the state of one request, int64[SLOW_FIELDS]."""

    STAGE = 0
    ORDER = 1
    MIGRATETYPE = 2
    GFP = 3
    FLAGS = 4
    """What the request may do (:class:`~vckernels.allocflags.AllocFlag`)."""
    TAKE_FLAGS = 5
    """What it may do in this step."""
    PRIORITY = 6
    """Of compaction in the next round (:class:`~vckernels.compaction.CompactPriority`)."""
    RESULT = 7
    """Of compaction last."""
    PROGRESS = 8
    """Answer of reclaim last."""
    NO_PROGRESS = 9
    """Rounds without progress."""
    COMPACT_RETRIES = 10
    ROUNDS = 11
    MOST_ROUNDS = 12
    """Rounds after which the request is abandoned."""
    HAS_FALLBACK = 13
    """1: something stands in if this fails, so nobody is killed for it."""
    RUN_PRIORITY = 14
    """Priority of compaction in this step."""


SLOW_FIELDS = len(SlowField)


class Stage(IntEnum):
    """The step whose answer is awaited."""

    WAKE_FIRST = 0
    TAKE_FIRST = 1
    COMPACT_FIRST = 2
    TAKE_COMPACTED_FIRST = 3
    WAKE = 4
    TAKE = 5
    RECLAIM = 6
    TAKE_RECLAIMED = 7
    DRAIN = 8
    TAKE_DRAINED = 9
    COMPACT = 10
    TAKE_COMPACTED = 11
    JUDGE_RECLAIM = 12
    RELEASE_RESERVE = 13
    JUDGE_COMPACTION = 14
    TAKE_HIGH = 15
    KILL = 16
    TAKE_NOFAIL = 17


def new_slow(most_rounds: int = 10_000) -> npt.NDArray[np.int64]:
    """Return the state of a request, int64[SLOW_FIELDS], to be begun."""
    slow = np.zeros(SLOW_FIELDS, np.int64)
    slow[SlowField.MOST_ROUNDS] = most_rounds
    return slow


@kernel
def alloc_flags(order: int, gfp: int) -> int:
    """Return what a request may do in the slow path. Rule: ``gfp_to_alloc_flags``."""
    flags = AllocFlag.WMARK_MIN + 0
    if gfp & GfpBit.HIGH:
        flags |= AllocFlag.MIN_RESERVE
    if gfp & GfpBit.KSWAPD_RECLAIM:
        flags |= AllocFlag.KSWAPD
    if gfp & GfpBit.DIRECT_RECLAIM == 0 and gfp & GfpBit.NOMEMALLOC == 0:
        flags |= AllocFlag.NON_BLOCK
        if order > 0 and flags & AllocFlag.MIN_RESERVE:
            flags |= AllocFlag.HIGHATOMIC
    return flags


@kernel(inline=True)
def _can_compact(slow: npt.NDArray[np.int64]) -> bool:
    """Return whether a request may compact: it may reclaim, and do I/O."""
    both = GfpBit.DIRECT_RECLAIM | GfpBit.IO
    return slow[SlowField.GFP] & both == both


@kernel(inline=True)
def _is_costly(slow: npt.NDArray[np.int64]) -> bool:
    """Return whether the order is above 3."""
    return slow[SlowField.ORDER] > COSTLY_ORDER


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
def _retry(slow: npt.NDArray[np.int64]) -> int:
    """Begin a round: wake kswapd if that is allowed, and take."""
    slow[SlowField.ROUNDS] += 1
    if slow[SlowField.ROUNDS] > slow[SlowField.MOST_ROUNDS]:
        return np.int64(SlowAction.ABANDONED)
    if slow[SlowField.FLAGS] & AllocFlag.KSWAPD:
        return _await(slow, Stage.WAKE, np.int64(SlowAction.WAKE_KSWAPD))
    return _take(slow, Stage.TAKE, slow[SlowField.FLAGS])


@kernel
def _no_page(slow: npt.NDArray[np.int64]) -> int:
    """Fail, unless the request must not: then dip into the reserve once and begin a round."""
    gfp = slow[SlowField.GFP]
    if gfp & GfpBit.NOFAIL and gfp & GfpBit.DIRECT_RECLAIM:
        return _take(slow, Stage.TAKE_NOFAIL, np.int64(AllocFlag.MIN_RESERVE))
    return np.int64(SlowAction.FAILED)


@kernel
def _compact(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]) -> int:
    """Compact after reclaim, if there is an order to do it for."""
    if slow[SlowField.ORDER] == 0:
        return _after_compaction(slow, counters)
    if slow[SlowField.GFP] & GfpBit.IO == 0:
        slow[SlowField.RESULT] = CompactResult.SKIPPED
        return _after_compaction(slow, counters)
    slow[SlowField.RUN_PRIORITY] = slow[SlowField.PRIORITY]
    return _await(slow, Stage.COMPACT, np.int64(SlowAction.COMPACT))


@kernel
def _note_compaction(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64], stage: int, answer: int) -> int:
    """Note a run's result; return the next action, or -1 if nothing came of it (``__alloc_pages_direct_compact``)."""
    slow[SlowField.RESULT] = answer & (CAPTURED - 1)
    if slow[SlowField.RESULT] == CompactResult.SKIPPED:
        return -1
    counters[Cause.COMPACT_STALL] += 1
    if answer & CAPTURED:
        counters[Cause.COMPACT_SUCCESS] += 1
        return np.int64(SlowAction.SERVED_BY_COMPACTION)
    return _take(slow, stage, slow[SlowField.FLAGS])


@kernel
def _after_early_compaction(slow: npt.NDArray[np.int64]) -> int:
    """Go on after the first, asynchronous run: a costly request that must not retry gives up where there is no hope."""
    if _is_costly(slow) and slow[SlowField.GFP] & GfpBit.NORETRY:
        result = slow[SlowField.RESULT]
        if result == CompactResult.SKIPPED or result == CompactResult.DEFERRED:
            return _no_page(slow)
        slow[SlowField.PRIORITY] = CompactPriority.ASYNC
    return _retry(slow)


@kernel
def _after_compaction(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]) -> int:
    """Decide whether another round makes sense. Rule: the end of a round, and ``should_reclaim_retry``."""
    gfp = slow[SlowField.GFP]
    if gfp & GfpBit.NORETRY:
        return _no_page(slow)
    if _is_costly(slow) and not (_can_compact(slow) and gfp & GfpBit.RETRY_MAYFAIL):
        return _no_page(slow)
    counters[Cause.SLOW_PATH_RETRY] += 1
    if slow[SlowField.PROGRESS] > 0 and not _is_costly(slow):
        slow[SlowField.NO_PROGRESS] = 0
    else:
        slow[SlowField.NO_PROGRESS] += 1
    if slow[SlowField.NO_PROGRESS] > MAX_RECLAIM_RETRIES:
        return _await(slow, Stage.RELEASE_RESERVE, np.int64(SlowAction.RELEASE_RESERVE))
    return _await(slow, Stage.JUDGE_RECLAIM, np.int64(SlowAction.JUDGE_RECLAIM))


@kernel
def _harder(slow: npt.NDArray[np.int64]) -> int:
    """Begin a round with more insistent compaction, or come to the end. Rule: end of ``should_compact_retry``."""
    least = CompactPriority.SYNC_LIGHT if _is_costly(slow) else CompactPriority.SYNC_FULL
    if slow[SlowField.PRIORITY] > least:
        slow[SlowField.PRIORITY] -= 1
        slow[SlowField.COMPACT_RETRIES] = 0
        return _retry(slow)
    return _take(slow, Stage.TAKE_HIGH, np.int64(AllocFlag.WMARK_HIGH))


@kernel
def _retry_compaction(slow: npt.NDArray[np.int64]) -> int:
    """Decide whether compaction should be tried again, or come to the end. Rule: ``should_compact_retry``."""
    if slow[SlowField.PROGRESS] == 0 or not _can_compact(slow) or slow[SlowField.ORDER] == 0:
        return _take(slow, Stage.TAKE_HIGH, np.int64(AllocFlag.WMARK_HIGH))
    if slow[SlowField.RESULT] == CompactResult.SKIPPED:
        return _await(slow, Stage.JUDGE_COMPACTION, np.int64(SlowAction.JUDGE_COMPACTION))
    if slow[SlowField.RESULT] == CompactResult.SUCCESS:
        slow[SlowField.COMPACT_RETRIES] += 1
        most = MAX_COMPACT_RETRIES // 4 if _is_costly(slow) else MAX_COMPACT_RETRIES
        if slow[SlowField.COMPACT_RETRIES] <= most:
            return _retry(slow)
    return _harder(slow)


@kernel
def begin_slow(
    slow: npt.NDArray[np.int64],
    counters: npt.NDArray[np.int64],
    order: int,
    migratetype: int,
    gfp: int,
    has_fallback: bool,
) -> int:
    """Begin the slow path of a request that the low watermark kept from being served; return the first action.

    Parameters
    ----------
    slow : int64[SLOW_FIELDS]
        Mutated.
    counters : int64[COUNTERS]
        Mutated.
    order, migratetype : int
        The request.
    gfp : int
        Bits of :class:`GfpBit`; others do not matter.
    has_fallback : bool
        Whether something stands in if the request fails, so that nobody is killed for it.
    """
    counters[Cause.SLOW_PATH] += 1
    slow[SlowField.ORDER] = order
    slow[SlowField.MIGRATETYPE] = migratetype
    slow[SlowField.GFP] = gfp
    slow[SlowField.FLAGS] = alloc_flags(order, gfp)
    slow[SlowField.PRIORITY] = CompactPriority.SYNC_LIGHT
    slow[SlowField.RESULT] = CompactResult.SKIPPED
    slow[SlowField.PROGRESS] = 0
    slow[SlowField.NO_PROGRESS] = 0
    slow[SlowField.COMPACT_RETRIES] = 0
    slow[SlowField.ROUNDS] = 0
    slow[SlowField.HAS_FALLBACK] = has_fallback
    if slow[SlowField.FLAGS] & AllocFlag.KSWAPD:
        return _await(slow, Stage.WAKE_FIRST, np.int64(SlowAction.WAKE_KSWAPD))
    return _take(slow, Stage.TAKE_FIRST, slow[SlowField.FLAGS])


@kernel
def _after_take(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]) -> int:
    """Go on where a step found no block."""
    stage = slow[SlowField.STAGE]
    if stage == Stage.TAKE_FIRST:
        movable = slow[SlowField.MIGRATETYPE] == Migratetype.MOVABLE
        early = _is_costly(slow) or (slow[SlowField.ORDER] > 0 and not movable)
        if early and _can_compact(slow):
            slow[SlowField.RUN_PRIORITY] = CompactPriority.ASYNC
            return _await(slow, Stage.COMPACT_FIRST, np.int64(SlowAction.COMPACT))
        return _retry(slow)
    if stage == Stage.TAKE_COMPACTED_FIRST:
        counters[Cause.COMPACT_FAIL] += 1
        return _after_early_compaction(slow)
    if stage == Stage.TAKE:
        if slow[SlowField.GFP] & GfpBit.DIRECT_RECLAIM == 0:
            return _no_page(slow)
        return _await(slow, Stage.RECLAIM, np.int64(SlowAction.RECLAIM))
    if stage == Stage.TAKE_RECLAIMED:
        return _await(slow, Stage.DRAIN, np.int64(SlowAction.DRAIN))
    if stage == Stage.TAKE_DRAINED:
        return _compact(slow, counters)
    if stage == Stage.TAKE_COMPACTED:
        counters[Cause.COMPACT_FAIL] += 1
        return _after_compaction(slow, counters)
    if stage == Stage.TAKE_NOFAIL:
        return _retry(slow)
    # The last look before somebody is killed, which helps no costly request.
    mild = slow[SlowField.GFP] & GfpBit.RETRY_MAYFAIL or slow[SlowField.HAS_FALLBACK]
    if _is_costly(slow) or mild:
        return _no_page(slow)
    return _await(slow, Stage.KILL, np.int64(SlowAction.KILL))


@kernel
def next_step(slow: npt.NDArray[np.int64], counters: npt.NDArray[np.int64], answer: int) -> int:
    """Return what a request does next, given how its last step ended; one of the four ends is final.

    Parameters
    ----------
    slow : int64[SLOW_FIELDS]
        Mutated.
    counters : int64[COUNTERS]
        Mutated.
    answer : int
        As the last action's description says.
    """
    stage = slow[SlowField.STAGE]
    if stage == Stage.WAKE_FIRST:
        return _take(slow, Stage.TAKE_FIRST, slow[SlowField.FLAGS])
    if stage == Stage.WAKE:
        return _take(slow, Stage.TAKE, slow[SlowField.FLAGS])
    if stage == Stage.COMPACT_FIRST:
        action = _note_compaction(slow, counters, np.int64(Stage.TAKE_COMPACTED_FIRST), answer)
        return action if action >= 0 else _after_early_compaction(slow)
    if stage == Stage.COMPACT:
        action = _note_compaction(slow, counters, np.int64(Stage.TAKE_COMPACTED), answer)
        return action if action >= 0 else _after_compaction(slow, counters)
    if stage == Stage.RECLAIM:
        slow[SlowField.PROGRESS] = answer
        if answer > 0:
            return _take(slow, Stage.TAKE_RECLAIMED, slow[SlowField.FLAGS])
        return _compact(slow, counters)
    if stage == Stage.DRAIN:
        return _take(slow, Stage.TAKE_DRAINED, slow[SlowField.FLAGS])
    if stage == Stage.JUDGE_RECLAIM:
        if answer:
            return _retry(slow)
        return _await(slow, Stage.RELEASE_RESERVE, np.int64(SlowAction.RELEASE_RESERVE))
    if stage == Stage.RELEASE_RESERVE:
        return _retry(slow) if answer else _retry_compaction(slow)
    if stage == Stage.JUDGE_COMPACTION:
        if answer:
            return _retry(slow)
        return _take(slow, Stage.TAKE_HIGH, np.int64(AllocFlag.WMARK_HIGH))
    if stage == Stage.KILL:
        if answer == 0:
            return _no_page(slow)
        counters[Cause.OOM_KILL] += 1
        slow[SlowField.NO_PROGRESS] = 0
        return _retry(slow)
    if answer == 0:
        return _after_take(slow, counters)
    if stage == Stage.TAKE_COMPACTED or stage == Stage.TAKE_COMPACTED_FIRST:
        counters[Cause.COMPACT_SUCCESS] += 1
        return np.int64(SlowAction.SERVED_BY_COMPACTION)
    return np.int64(SlowAction.SERVED)
