"""From frame flags (``/proc/kpageflags``, run-length coded) to the blocks that fill what is not free.

Everything works on runs; a frame becomes a row of its own only where it is an order-0 block of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.recording import MAXIMUM_ORDER, AllocatedMap, BlockMap, FrameKind

_LRU = np.uint64(1 << 5)
_SLAB = np.uint64(1 << 7)
_ANON = np.uint64(1 << 12)
_COMPOUND_HEAD = np.uint64(1 << 15)
_COMPOUND_TAIL = np.uint64(1 << 16)
_NOPAGE = np.uint64(1 << 20)
_OFFLINE = np.uint64(1 << 23)
_PGTABLE = np.uint64(1 << 26)
_RESERVED = np.uint64(1 << 32)

Frames = NDArray[np.int64]
Kinds = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FlagRuns:
    """Flags of frames 0 to `npfn` - 1, run-length coded.

    Attributes
    ----------
    starts : ndarray
        int64[n], first frame of each run, 0 first; a run ends where the next begins, the last at `npfn`.
    flags : ndarray
        uint64[n], kpageflags word of each run.
    npfn : int
        Number of frames.
    """

    starts: Frames
    flags: NDArray[np.uint64]
    npfn: int

    def evidence_end(self) -> int:
        """Return the frame after the last one whose flags say that it is in use.

        No flags at all prove nothing: page structs that were never initialised look so, and lie at the end.
        """
        telling = np.flatnonzero((self.flags != 0) & (self.flags & _NOPAGE == 0))
        if telling.size == 0:
            return 0
        after = int(telling[-1]) + 1
        return int(self.starts[after]) if after < self.starts.size else self.npfn


def frame_kinds(flags: NDArray[np.uint64]) -> Kinds:
    """Return the FrameKind of each kpageflags word, uint8[n].

    A slab page keeps other things in the fields behind ANON and LRU, so SLAB and PGTABLE go before those.
    """
    absent = flags & (_RESERVED | _NOPAGE | _OFFLINE) != 0
    conditions = [absent, flags & _SLAB != 0, flags & _PGTABLE != 0, flags & _ANON != 0, flags & _LRU != 0]
    kinds = [FrameKind.RESERVED, FrameKind.SLAB, FrameKind.PAGE_TABLE, FrameKind.ANONYMOUS, FrameKind.FILE]
    chosen = np.select(conditions, [np.uint8(kind) for kind in kinds], default=np.uint8(FrameKind.OTHER))
    return chosen.astype(np.uint8)


def allocated_blocks(first: int, end: int, free: BlockMap, runs: FlagRuns | None, npfn: int) -> AllocatedMap:
    """Return the blocks that fill the frames `first` to `end` (exclusive) between the free blocks.

    Parameters
    ----------
    first, end : int
        The span.
    free : BlockMap
        Free blocks inside the span. Where flags disagree with them the flags lose: they are read later.
    runs : FlagRuns or None
        Flags; without them every frame is OTHER.
    npfn : int
        Number of frames of the machine; frames of the span from there on are RESERVED.

    Returns
    -------
    AllocatedMap
        A compound page (a head and the tails right after it) is one block of the kind of its head, cut into
        aligned pieces where it is not a power of two, not aligned, or above order 10. All other frames are
        blocks of order 0.
    """
    starts, lengths, flags = _pieces(first, end, free, runs, npfn)
    kinds = frame_kinds(flags)
    heads = flags & _COMPOUND_HEAD != 0
    follows = np.zeros(starts.size, dtype=np.bool_)
    follows[1:] = (flags[1:] & _COMPOUND_TAIL != 0) & ~heads[1:] & (starts[1:] == starts[:-1] + lengths[:-1])
    leaders = np.flatnonzero(~follows)
    group = np.cumsum(~follows) - 1
    in_compound = heads[leaders][group] & follows
    # In a run of heads, each frame but the last is a compound page of one frame.
    compound_starts = (starts + lengths - 1)[heads]
    tail_frames = np.zeros(leaders.size, dtype=np.int64)
    np.add.at(tail_frames, group[in_compound], lengths[in_compound])
    frames, orders, piece_of = aligned_pieces(compound_starts, 1 + tail_frames[heads[leaders]])
    single = ~in_compound
    single_counts = (lengths - heads)[single]
    single_frames = _ranges(starts[single], single_counts)
    # Both ascend: the compound pages' pieces are put between the single frames, of which there can be very many.
    ascending = np.argsort(frames)
    places = np.searchsorted(single_frames, frames[ascending]) + np.arange(frames.size)
    between = np.ones(frames.size + single_frames.size, dtype=np.bool_)
    between[places] = False
    all_frames = np.empty(between.size, dtype=np.int64)
    all_frames[between] = single_frames
    del single_frames
    all_frames[places] = frames[ascending]
    all_orders = np.zeros(between.size, dtype=np.int8)
    all_orders[places] = orders[ascending]
    all_kinds = np.empty(between.size, dtype=np.uint8)
    all_kinds[between] = np.repeat(kinds[single], single_counts)
    all_kinds[places] = kinds[heads][piece_of][ascending]
    return AllocatedMap(all_frames, all_orders, all_kinds)


def _pieces(
    first: int, end: int, free: BlockMap, runs: FlagRuns | None, npfn: int
) -> tuple[Frames, Frames, NDArray[np.uint64]]:
    """Return start, length and flags of the span's stretches that are not free and have one flags word."""
    if runs is None:
        run_starts, run_flags = np.array([first], dtype=np.int64), np.zeros(1, dtype=np.uint64)
    else:
        after = int(np.searchsorted(runs.starts, first, side="right"))
        until = int(np.searchsorted(runs.starts, end, side="left"))
        inside = slice(after - 1, until)
        run_starts, run_flags = np.maximum(runs.starts[inside], first), runs.flags[inside]
    if npfn < end:
        run_starts = np.append(run_starts, np.int64(npfn))
        run_flags = np.append(run_flags, _RESERVED)
    free_ends = free.frames + (np.int64(1) << free.orders.astype(np.int64))
    cuts = np.unique(np.concatenate((run_starts, free.frames, free_ends, [end])))
    starts, lengths = cuts[:-1], np.diff(cuts)
    last_free = np.searchsorted(free.frames, starts, side="right")
    is_free = starts < np.concatenate(([first], free_ends))[last_free]
    flags = run_flags[np.searchsorted(run_starts, starts, side="right") - 1]
    return starts[~is_free], lengths[~is_free], flags[~is_free]


def _ranges(starts: Frames, counts: Frames) -> Frames:
    """Return `counts` consecutive numbers from each of `starts` on, in one array."""
    skipped = np.cumsum(counts) - counts
    numbers = np.arange(int(counts.sum()), dtype=np.int64)
    numbers += np.repeat(starts - skipped, counts)
    return numbers


def aligned_pieces(starts: Frames, lengths: Frames) -> tuple[Frames, NDArray[np.int8], Frames]:
    """Cut stretches of frames into the fewest aligned blocks of order 0 to 10.

    Returns
    -------
    tuple of ndarray
        int64[n] first frame, int8[n] order, and int64[n] index of the stretch, for each block, in no order.
    """
    largest = 1 << MAXIMUM_ORDER
    windows = (starts + lengths - 1) // largest - starts // largest + 1
    stretch = np.repeat(np.arange(starts.size, dtype=np.int64), windows)
    window = _ranges(starts // largest, windows)
    left = np.maximum(starts[stretch], window * largest)
    right = np.minimum((starts + lengths)[stretch], (window + 1) * largest)
    frames, orders, stretches = [left[:0]], [left[:0].astype(np.int8)], [stretch[:0]]
    while left.size:  # at most 20 times: inside a window of 1024 frames sizes first rise, then fall
        order = np.zeros(left.size, dtype=np.int8)
        for candidate in range(1, MAXIMUM_ORDER + 1):
            size = 1 << candidate
            order[(left & (size - 1) == 0) & (left + size <= right)] = candidate
        frames.append(left)
        orders.append(order)
        stretches.append(stretch)
        left = left + (np.int64(1) << order.astype(np.int64))
        unfinished = left < right
        left, right, stretch = left[unfinished], right[unfinished], stretch[unfinished]
    return np.concatenate(frames), np.concatenate(orders), np.concatenate(stretches)
