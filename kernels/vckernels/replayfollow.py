"""A recorded zone followed one step ahead: the model foresees each choice, then the recorded one is carried out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import (
    INSIDE,
    ISOLATED,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_FRAMES,
    PAGEBLOCK_ORDER,
    Buddy,
    Migratetype,
    expand,
    first_block,
    take_at,
)
from vckernels.claim import FALLBACKS, fallback_type, may_claim, move_free_blocks
from vckernels.jit import kernel
from vckernels.replay import (
    ZONE_DRAIN,
    ZONE_FALLBACK,
    ZONE_FREE,
    ZONE_REMOVAL,
    Count,
    Stream,
    free_block,
    free_block_around,
)
from vckernels.replayisolation import (
    COMPACTION_END,
    ISOLATE_FREE,
    ISOLATE_FREE_FAST,
    ISOLATE_USED,
    MIGRATE,
    CompactionEvents,
    stride_of,
    take_walk,
)

NOTHING, OWN, CLAIM, STEAL = 0, 1, 2, 3
"""What serves a request: no block, the type's own lists, a pageblock claimed, a block stolen."""


class Following(NamedTuple):
    """What is remembered from event to event.

    Attributes
    ----------
    first_known : int8[frames]
        0 at first frames of blocks whose place on their list is unknown, as the snapshot gives none; all else 1.
    compound : int8[frames]
        Order of the compound page of the first snapshot that begins at each frame, until it is freed; else 0.
    named : int8[frames / 512]
        1 at pageblocks whose migratetype an event has named so far.
    migrating : int8[cpus]
        1 while a CPU migrates pages.
    low, high : int64[cpus]
        The range in which a CPU's compaction has taken free blocks, ``high`` excluded; ``high`` 0: none.
    captured : int64[cpus]
        The pageblock's first frame that a CPU captures once its last part is free, or -1.
    """

    first_known: npt.NDArray[np.int8]
    compound: npt.NDArray[np.int8]
    named: npt.NDArray[np.int8]
    migrating: npt.NDArray[np.int8]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    captured: npt.NDArray[np.int64]


def new_following(first_known: npt.NDArray[np.int8], compound: npt.NDArray[np.int8], cpus: int) -> Following:
    """Return the beginning; ``first_known`` and ``compound`` (int8[frames]) are kept and mutated."""
    return Following(
        first_known=first_known,
        compound=compound,
        named=np.zeros((len(first_known) + PAGEBLOCK_FRAMES - 1) // PAGEBLOCK_FRAMES, np.int8),
        migrating=np.zeros(cpus, np.int8),
        low=np.zeros(cpus, np.int64),
        high=np.zeros(cpus, np.int64),
        captured=np.full(cpus, -1, np.int64),
    )


@kernel(inline=True)
def _predict(buddy: Buddy, order: int, migratetype: int) -> tuple[int, int]:
    """Return the frame that the type's own lists would give and the order split for it, or (-1, -1)."""
    for high in range(order, ORDERS):
        frame = first_block(buddy, high, migratetype)
        if frame >= 0:
            return frame, high
    return -1, -1


@kernel
def foresee(buddy: Buddy, order: int, migratetype: int) -> tuple[int, int, int]:
    """Return what would serve a request, and the order and migratetype of the block found for it.

    Rules: ``__rmqueue``, as in :mod:`vckernels.claim`. A pageblock found for less than itself is taken to be claimed:
    whether enough of it is free or alike, a replay does not know.
    """
    _, high = _predict(buddy, order, migratetype)
    if high >= 0:
        return OWN, high, migratetype
    if migratetype < len(FALLBACKS):
        for claimed in range(MAX_ORDER, order - 1, -1):
            if not may_claim(claimed, migratetype):
                break
            fallback = fallback_type(buddy, claimed, migratetype)
            if fallback >= 0:
                return CLAIM, claimed, fallback
        for stolen in range(order, ORDERS):
            fallback = fallback_type(buddy, stolen, migratetype)
            if fallback >= 0:
                return STEAL, stolen, fallback
    return NOTHING, -1, -1


@kernel
def _take(buddy: Buddy, following: Following, frame: int, order: int, high: int) -> None:
    """Take a block out of the free block of order ``high`` around it, and leave it to nobody."""
    following.first_known[frame & ~((1 << high) - 1)] = 1
    take_at(buddy, frame, order, 0)
    buddy.state[frame] = INSIDE


@kernel
def _take_parts(buddy: Buddy, following: Following, frame: int, order: int) -> int:
    """Take whatever of a block is free off the lists; return the frames."""
    high = free_block_around(buddy, frame, order)
    if high >= 0:
        _take(buddy, following, frame, order, high)
        return 1 << order
    taken = 0
    inside = frame
    while inside < frame + (1 << order):
        part = np.int64(buddy.state[inside])
        if part >= 0:
            _take(buddy, following, inside, part, part)
            taken += 1 << part
            inside += 1 << part
        else:
            inside += 1
    return taken


@kernel
def _retype(buddy: Buddy, following: Following, frame: int, migratetype: int) -> None:
    """Correct the type of the pageblock around a frame, or of all that a free block there spans.

    Its free blocks were on other lists than thought, so their places are unknown.
    """
    high = free_block_around(buddy, frame & ~(PAGEBLOCK_FRAMES - 1), PAGEBLOCK_ORDER)
    size = 1 << max(high, PAGEBLOCK_ORDER)
    start = frame & ~(size - 1)
    for part in range(start, start + size, PAGEBLOCK_FRAMES):
        move_free_blocks(buddy, part, migratetype)
    for inside in range(start, start + size):
        if buddy.state[inside] >= 0:
            following.first_known[inside] = 0


@kernel
def _learn_type(
    buddy: Buddy, following: Following, frame: int, migratetype: int, counts: npt.NDArray[np.int64]
) -> None:
    """Take over a pageblock's type as an event names it."""
    following.named[frame >> PAGEBLOCK_ORDER] = 1
    if buddy.pageblock[frame >> PAGEBLOCK_ORDER] != migratetype:
        counts[Count.RETYPED] += 1
        _retype(buddy, following, frame, migratetype)


@kernel
def _set_aside(
    buddy: Buddy, following: Following, low: int, high: int, migratetype: int, counts: npt.NDArray[np.int64]
) -> None:
    """Clear the heads of a type's lists, from order ``low`` to below ``high``, that an event proves to be empty.

    A pageblock whose type no event has named is of another type: until one does, its blocks are on the lists of
    ``ISOLATE``, where nobody looks. A whole pageblock that was not movable may have been looked at by page reporting
    (``__isolate_free_page``), which makes it movable. Smaller blocks of a pageblock whose type is known stay: frames
    freed without an event have made them parts of larger ones.
    """
    if migratetype >= len(FALLBACKS):
        return
    for order in range(low, high):
        block = first_block(buddy, order, migratetype)
        while block >= 0 and (order >= PAGEBLOCK_ORDER or not following.named[block >> PAGEBLOCK_ORDER]):
            counts[Count.SET_ASIDE] += 1
            reported = order >= PAGEBLOCK_ORDER and migratetype != Migratetype.MOVABLE
            _retype(buddy, following, block, np.int64(Migratetype.MOVABLE if reported else Migratetype.ISOLATE))
            block = first_block(buddy, order, migratetype)


@kernel
def _prove_empty(
    buddy: Buddy, following: Following, order: int, migratetype: int, extra: int, counts: npt.NDArray[np.int64]
) -> None:
    """Clear all lists that a fallback proves to be empty: the type's own, and those that would have been chosen before.

    A claim goes from the highest order down, and only blocks smaller than a pageblock can be refused; a steal goes up.
    """
    _set_aside(buddy, following, order, ORDERS, migratetype, counts)
    if migratetype >= len(FALLBACKS):
        return
    high = extra & 15
    for i in range(FALLBACKS.shape[1]):
        fallback = FALLBACKS[migratetype, i]
        if extra >> 8:
            _set_aside(buddy, following, max(high + 1, PAGEBLOCK_ORDER), ORDERS, fallback, counts)
        else:
            _set_aside(buddy, following, order, high, fallback, counts)
    for i in range(FALLBACKS.shape[1]):
        fallback = FALLBACKS[migratetype, i]
        if fallback == (extra >> 4) & 15:
            break
        _set_aside(buddy, following, high, high + 1, fallback, counts)


@kernel
def _remove(
    buddy: Buddy, following: Following, frame: int, order: int, migratetype: int, counts: npt.NDArray[np.int64]
) -> None:
    """Foresee and carry out one removal from the type's own lists."""
    high = free_block_around(buddy, frame, order)
    if high < 0:
        counts[Count.REMOVALS_SKIPPED] += 1
        _take_parts(buddy, following, frame, order)
        return
    foreseen, foreseen_order = _predict(buddy, order, migratetype)
    first = frame & ~((1 << high) - 1)
    right = foreseen == frame
    counts[Count.REMOVALS] += 1
    counts[Count.FRAME_RIGHT] += right
    counts[Count.ORDER_RIGHT] += foreseen_order == high
    counts[Count.RESYNCHRONISATIONS] += not right
    block_type = np.int64(buddy.pageblock[frame >> PAGEBLOCK_ORDER])
    counts[Count.TYPE_MISMATCH] += block_type != migratetype
    if following.first_known[first]:
        counts[Count.KNOWN] += 1
        counts[Count.KNOWN_RIGHT] += right
    elif block_type != Migratetype.MOVABLE:
        counts[Count.LEARNED] += 1
        counts[Count.LEARNED_RIGHT] += right
    _learn_type(buddy, following, frame, migratetype, counts)
    _set_aside(buddy, following, order, high, migratetype, counts)
    _take(buddy, following, frame, order, high)


@kernel
def _judge_fallback(
    buddy: Buddy, frame: int, order: int, migratetype: int, extra: int, counts: npt.NDArray[np.int64]
) -> bool:
    """Compare what the model would fall back to with what was recorded; return whether the block is the same."""
    kind, high, fallback = foresee(buddy, order, migratetype)
    recorded_kind = CLAIM if extra >> 8 else STEAL
    right = kind == recorded_kind and high == extra & 15 and fallback == (extra >> 4) & 15
    counts[Count.CLAIMS] += 1
    counts[Count.CLAIMS_RIGHT] += right
    if kind != OWN:
        counts[Count.CLAIMS_EMPTY] += 1
        counts[Count.CLAIMS_EMPTY_RIGHT] += right
        if extra & 15 < PAGEBLOCK_ORDER:
            counts[Count.CLAIMS_EMPTY_SMALL] += 1
            counts[Count.CLAIMS_EMPTY_SMALL_RIGHT] += right
        else:
            counts[Count.CLAIMS_EMPTY_LARGE] += 1
            counts[Count.CLAIMS_EMPTY_LARGE_ORDER] += kind == recorded_kind and high == extra & 15
    same = False
    if right:
        block = first_block(buddy, high, fallback)
        same = block == frame
        if high < PAGEBLOCK_ORDER and kind == CLAIM:
            same = block >> PAGEBLOCK_ORDER == frame >> PAGEBLOCK_ORDER
    counts[Count.CLAIMS_FRAME_RIGHT] += same
    counts[Count.RESYNCHRONISATIONS] += not same
    return same


@kernel
def _move_pageblock(buddy: Buddy, following: Following, frame: int, migratetype: int) -> None:
    """Retype the pageblock around a frame; its free blocks go to the new lists' tails, from then on in known places."""
    start = frame & ~(PAGEBLOCK_FRAMES - 1)
    following.first_known[start : start + PAGEBLOCK_FRAMES] = 1
    move_free_blocks(buddy, start, migratetype)


@kernel
def _remove_after_claim(
    buddy: Buddy,
    following: Following,
    frame: int,
    order: int,
    migratetype: int,
    extra: int,
    counts: npt.NDArray[np.int64],
) -> None:
    """Claim the pageblock of a removal, then foresee and carry that out. Rule: ``try_to_claim_block``."""
    high = free_block_around(buddy, frame, order)
    if high < 0:
        counts[Count.REMOVALS_SKIPPED] += 1
        _take_parts(buddy, following, frame, order)
        return
    _judge_fallback(buddy, frame, order, migratetype, extra, counts)
    _prove_empty(buddy, following, order, migratetype, extra, counts)
    if high >= PAGEBLOCK_ORDER:
        # The model has more free here than there was: what is left of the pageblock is moved afterwards.
        _take(buddy, following, frame, order, high)
        _move_pageblock(buddy, following, frame, migratetype)
        return
    _move_pageblock(buddy, following, frame, migratetype)
    foreseen, _ = _predict(buddy, order, migratetype)
    counts[Count.AFTER_CLAIM] += 1
    counts[Count.AFTER_CLAIM_RIGHT] += foreseen == frame
    counts[Count.RESYNCHRONISATIONS] += foreseen != frame
    _take(buddy, following, frame, order, high)


@kernel
def _fall_back(
    buddy: Buddy,
    following: Following,
    frame: int,
    order: int,
    migratetype: int,
    extra: int,
    counts: npt.NDArray[np.int64],
) -> None:
    """Foresee and carry out a fallback without a removal: a pageblock or more claimed, or a block stolen."""
    high = extra & 15
    around = free_block_around(buddy, frame, high)
    if around < 0 or order > high or frame & ((1 << high) - 1):
        counts[Count.REMOVALS_SKIPPED] += 1
        _take_parts(buddy, following, frame, order)
        return
    _judge_fallback(buddy, frame, order, migratetype, extra, counts)
    _learn_type(buddy, following, frame, (extra >> 4) & 15, counts)
    _prove_empty(buddy, following, order, migratetype, extra, counts)
    _take(buddy, following, frame, high, around)
    if extra >> 8 and high < PAGEBLOCK_ORDER:
        _move_pageblock(buddy, following, frame, migratetype)
    elif extra >> 8:
        for part in range(frame, frame + (1 << high), PAGEBLOCK_FRAMES):
            buddy.pageblock[part >> PAGEBLOCK_ORDER] = migratetype
    expand(buddy, frame, high, order, np.int64(buddy.pageblock[frame >> PAGEBLOCK_ORDER]))


@kernel
def _free(buddy: Buddy, following: Following, frame: int, order: int, cpu: int, counts: npt.NDArray[np.int64]) -> None:
    """Carry out a free; if that completes what the CPU is to capture, that is taken."""
    counts[Count.FREES] += 1
    counts[Count.FREES_AGAIN] += _take_parts(buddy, following, frame, order) > 0
    buddy.state[frame : frame + (1 << order)] = INSIDE
    following.compound[frame : frame + (1 << order)] = 0
    free_block(buddy, frame, order)
    for part in range(frame, frame + (1 << order), PAGEBLOCK_FRAMES):
        merged = free_block_around(buddy, part, min(order, PAGEBLOCK_ORDER))
        first = part & ~((1 << merged) - 1)
        following.first_known[first : first + (1 << merged)] = 1
    caught = following.captured[cpu]
    if caught >= 0 and frame >> PAGEBLOCK_ORDER == caught >> PAGEBLOCK_ORDER:
        following.captured[cpu] = -1
        high = free_block_around(buddy, caught, PAGEBLOCK_ORDER)
        if high >= 0:
            counts[Count.CAPTURES] += 1
            _take(buddy, following, caught, PAGEBLOCK_ORDER, high)


@kernel
def _compact(
    buddy: Buddy, following: Following, events: CompactionEvents, i: int, counts: npt.NDArray[np.int64]
) -> None:
    """Carry out one step of compaction, as far as it touches free blocks."""
    step = events.step[i]
    cpu = np.int64(events.cpu[i])
    start = events.start[i]
    end = events.end[i]
    taken = events.taken[i]
    if step == ISOLATE_USED:
        following.migrating[cpu] = 1
    elif step == MIGRATE:
        following.migrating[cpu] = 0
    elif step == COMPACTION_END:
        following.migrating[cpu] = 0
        # Targets that were not given back are in use from now on.
        for frame in range(following.low[cpu], following.high[cpu]):
            if buddy.state[frame] == ISOLATED:
                buddy.state[frame] = INSIDE
        following.high[cpu] = 0
    elif step == ISOLATE_FREE_FAST:
        counts[Count.FAST_ISOLATED] += taken
    elif step == ISOLATE_FREE:
        stride = stride_of(buddy, following.compound, start, end, events.scanned[i], taken)
        if taken == 0:
            counts[Count.WALKS_IDLE] += 1
            counts[Count.WALKS_IDLE_RIGHT] += stride > 0
            return
        counts[Count.WALKS] += 1
        counts[Count.WALKS_RIGHT] += stride > 0
        counts[Count.WALKS_STRIDING] += stride > 1
        counts[Count.WALKED_FRAMES] += take_walk(
            buddy, following.compound, start, end, max(stride, 1), following.first_known
        )
        following.low[cpu] = min(start, following.low[cpu]) if following.high[cpu] else start
        following.high[cpu] = max(end, following.high[cpu])


@kernel(inline=True)
def _explained(stream: Stream, i: int) -> bool:
    """Return whether a removal is followed by the claim of a smaller block than a pageblock that it was made from."""
    if i + 1 == len(stream.frame) or stream.operation[i + 1] != ZONE_FALLBACK or stream.frame[i + 1] != stream.frame[i]:
        return False
    fallback_order = np.int64(stream.extra[i + 1]) & 15
    return np.int64(stream.order[i]) <= fallback_order < PAGEBLOCK_ORDER


@kernel
def follow(
    buddy: Buddy, stream: Stream, events: CompactionEvents, following: Following, counts: npt.NDArray[np.int64]
) -> None:
    """Foresee each removal, fallback and walk, compare it with the recorded one, carry out the recorded one.

    Parameters
    ----------
    buddy : Buddy
        The zone as first snapped; mutated to its state after the stream.
    stream : Stream
        Read.
    events : CompactionEvents
        What compaction did between them; read.
    following : Following
        Mutated.
    counts : int64[COUNTS]
        Added to.
    """
    total = len(stream.frame)
    step = 0
    explained = False
    for i in range(total):
        while step < len(events.row) and events.row[step] <= i:
            _compact(buddy, following, events, step, counts)
            step += 1
        operation = stream.operation[i]
        frame = stream.frame[i]
        order = np.int64(stream.order[i])
        migratetype = np.int64(stream.migratetype[i])
        if operation == ZONE_REMOVAL:
            explained = _explained(stream, i)
            if explained:
                extra = np.int64(stream.extra[i + 1])
                _remove_after_claim(buddy, following, frame, order, migratetype, extra, counts)
            else:
                _remove(buddy, following, frame, order, migratetype, counts)
        elif operation == ZONE_FALLBACK:
            extra = np.int64(stream.extra[i])
            if explained:
                explained = False
            elif extra & 15 >= PAGEBLOCK_ORDER and not extra >> 8:
                # A whole pageblock keeps its type only when compaction captures it.
                following.captured[stream.cpu[i]] = frame & ~(PAGEBLOCK_FRAMES - 1)
            else:
                _fall_back(buddy, following, frame, order, migratetype, extra, counts)
        elif operation == ZONE_FREE and following.migrating[stream.cpu[i]] and buddy.state[frame] == ISOLATED:
            counts[Count.FREES_TO_COMPACTION] += 1
        elif operation == ZONE_FREE or operation == ZONE_DRAIN:
            if operation == ZONE_DRAIN:
                _learn_type(buddy, following, frame, migratetype, counts)
            _free(buddy, following, frame, order, np.int64(stream.cpu[i]), counts)
    while step < len(events.row):
        _compact(buddy, following, events, step, counts)
        step += 1
