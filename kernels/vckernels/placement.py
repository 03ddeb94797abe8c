"""Where single frames come from: three rules of placement over one buddy allocator.

Linux takes the head of the lowest order that has a block. Beside it stand the two ends between which that rule lies:
the lowest free frame of the zone, whatever block it begins, and the head of the highest order that has a block. Frees
and merges are the allocator's own under all three.

The lowest free frame comes from a tree of bitmaps: one bit a frame, and above it, level by level, one bit for each
word that is not zero, so that a search loads one word a level.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import MAX_ORDER, PAGEBLOCK_ORDER, Buddy, Migratetype, first_block, give_back, take
from vckernels.causes import Cause, Status
from vckernels.jit import kernel, unsigned

WORD_SHIFT = 6
WORD_BITS = 1 << WORD_SHIFT


class Placement(IntEnum):
    """Which free frame a request of order 0 gets."""

    SMALLEST_BLOCK = 0
    """The head of the lowest order that has a block: Linux's rule (``mm/page_alloc.c``: ``__rmqueue_smallest``)."""
    LOWEST_ADDRESS = 1
    """The lowest free frame; the free block that it begins is split."""
    LARGEST_BLOCK = 2
    """The head of the highest order that has a block."""


class FrameSet(NamedTuple):
    """A set of frame numbers that gives its least member in constant time.

    Attributes
    ----------
    words : uint64[words of all levels]
        Bitmaps, level 0 first: bit ``i`` of level 0 is set for each member ``i``, bit ``i`` of a level above if
        word ``i`` of the level below is not zero. The last level is one word.
    starts : int64[levels]
        Where each level starts.
    """

    words: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]


class PlacedZone(NamedTuple):
    """A zone of single frames under a rule of placement.

    Attributes
    ----------
    buddy : Buddy
    free : FrameSet
        Free frames, kept up under ``LOWEST_ADDRESS`` only.
    free_in : uint16[ceil(frames / 512)]
        Free frames in each aligned 2 MiB.
    """

    buddy: Buddy
    free: FrameSet
    free_in: npt.NDArray[np.uint16]


def new_frame_set(frames: int) -> FrameSet:
    """Return the empty set of the numbers from 0 to ``frames - 1``."""
    starts = [0]
    words = -(-frames // WORD_BITS)
    total = words
    while words > 1:
        starts.append(total)
        words = -(-words // WORD_BITS)
        total += words
    return FrameSet(np.zeros(total, np.uint64), np.array(starts, np.int64))


def new_placed_zone(buddy: Buddy) -> PlacedZone:
    """Return a zone that places single frames in an allocator, as its blocks are now."""
    frames = len(buddy.state)
    zone = PlacedZone(buddy, new_frame_set(frames), np.zeros(len(buddy.pageblock), np.uint16))
    count_free(zone)
    return zone


@kernel(inline=True)
def add_frame(members: FrameSet, frame: int) -> None:
    """Put a frame into a set; no effect if it is there."""
    index = frame
    for level in range(len(members.starts)):
        word = unsigned(members.starts[unsigned(level)] + (index >> WORD_SHIFT))
        before = members.words[word]
        members.words[word] = before | (np.uint64(1) << np.uint64(index & (WORD_BITS - 1)))
        if before != np.uint64(0):
            return
        index >>= WORD_SHIFT


@kernel(inline=True)
def discard_frame(members: FrameSet, frame: int) -> None:
    """Take a frame out of a set; no effect if it is not there."""
    index = frame
    for level in range(len(members.starts)):
        word = unsigned(members.starts[unsigned(level)] + (index >> WORD_SHIFT))
        after = members.words[word] & ~(np.uint64(1) << np.uint64(index & (WORD_BITS - 1)))
        members.words[word] = after
        if after != np.uint64(0):
            return
        index >>= WORD_SHIFT


@kernel(inline=True)
def _lowest_bit(word: np.uint64) -> int:
    """Return the number of the lowest bit set in a word that is not zero."""
    bit = 0
    for shift in (32, 16, 8, 4, 2, 1):
        if word & ((np.uint64(1) << np.uint64(shift)) - np.uint64(1)) == np.uint64(0):
            word >>= np.uint64(shift)
            bit += shift
    return bit


@kernel(inline=True)
def lowest_frame(members: FrameSet) -> int:
    """Return the least member of a set, -1 if it is empty."""
    index = 0
    for level in range(len(members.starts) - 1, -1, -1):
        word = members.words[unsigned(members.starts[unsigned(level)] + index)]
        if word == np.uint64(0):
            return -1
        index = (index << WORD_SHIFT) + _lowest_bit(word)
    return index


@kernel
def count_free(zone: PlacedZone) -> None:
    """Set the set of free frames and the counts of each 2 MiB by what the allocator's blocks are. Mutates both."""
    zone.free.words[:] = np.uint64(0)
    zone.free_in[:] = 0
    buddy = zone.buddy
    frame = 0
    while frame < len(buddy.state):
        state = np.int64(buddy.state[unsigned(frame)])
        frames = 1 if state < 0 else 1 << (state & 15)
        if 0 <= state <= MAX_ORDER:
            for inside in range(frame, frame + frames):
                add_frame(zone.free, inside)
                zone.free_in[unsigned(inside >> PAGEBLOCK_ORDER)] += 1
        frame += frames


@kernel(inline=True)
def get_frame(zone: PlacedZone, placement: int) -> int:
    """Allocate one movable frame under a rule of placement; return it, or -1 with nothing changed.

    Requests never change a pageblock's type or take from another's lists: the zone's pageblocks are movable, all of
    them.
    """
    buddy = zone.buddy
    frame = np.int64(-1)
    high = np.int64(0)
    if placement == Placement.LOWEST_ADDRESS:
        frame = lowest_frame(zone.free)
        if frame >= 0:
            # Every frame below is taken, so the lowest free frame begins its block.
            high = np.int64(buddy.state[unsigned(frame)])
            discard_frame(zone.free, frame)
    elif placement == Placement.LARGEST_BLOCK:
        high = np.int64(MAX_ORDER)
        while high > 0 and buddy.free_blocks[unsigned(high), unsigned(Migratetype.MOVABLE)] == 0:
            high -= 1
        frame = first_block(buddy, high, Migratetype.MOVABLE)
    else:
        while high < MAX_ORDER and buddy.free_blocks[unsigned(high), unsigned(Migratetype.MOVABLE)] == 0:
            high += 1
        frame = first_block(buddy, high, Migratetype.MOVABLE)
    if frame < 0:
        buddy.counters[Cause.ALLOCATION_FAILURE] += 1
        return -1
    take(buddy, frame, high, 0, Migratetype.MOVABLE, Migratetype.MOVABLE)
    zone.free_in[unsigned(frame >> PAGEBLOCK_ORDER)] -= 1
    return frame


@kernel(inline=True)
def put_frame(zone: PlacedZone, placement: int, frame: int) -> int:
    """Free one frame and return a status; what is not an allocated single frame is refused, without effect."""
    status = give_back(zone.buddy, frame, 0)
    if status == Status.OK:
        zone.free_in[unsigned(frame >> PAGEBLOCK_ORDER)] += 1
        if placement == Placement.LOWEST_ADDRESS:
            add_frame(zone.free, frame)
    return status


@kernel
def get_frames(zone: PlacedZone, placement: int, frames: npt.NDArray[np.int32]) -> int:
    """Fill ``frames`` (int32[n]) with frames one by one; return how many there were."""
    for i in range(len(frames)):
        frame = get_frame(zone, placement)
        if frame < 0:
            return i
        frames[unsigned(i)] = frame
    return len(frames)


@kernel
def put_frames(zone: PlacedZone, placement: int, frames: npt.NDArray[np.int32]) -> int:
    """Free frames (int32[n]) in their order; return how many were freed before the first that cannot be."""
    for i in range(len(frames)):
        if put_frame(zone, placement, np.int64(frames[unsigned(i)])) != Status.OK:
            return i
    return len(frames)


@kernel
def shuffle_tail(frames: npt.NDArray[np.int32], count: int, rng: np.random.Generator) -> None:
    """Move ``count`` members drawn at random, in random order, to the end of ``frames`` (int32[n], mutated).

    Fisher and Yates's shuffle from the end, stopped after ``count`` draws; with ``count`` = n it is a whole shuffle.
    """
    for last in range(len(frames) - 1, max(len(frames) - 1 - count, 0), -1):
        other = np.int64(rng.random() * (last + 1))
        chosen = frames[unsigned(other)]
        frames[unsigned(other)] = frames[unsigned(last)]
        frames[unsigned(last)] = chosen


@kernel
def replace_frames(
    zone: PlacedZone, placement: int, held: npt.NDArray[np.int32], count: int, rng: np.random.Generator
) -> int:
    """Free ``count`` random ones of the frames held, then allocate as many anew; return a status.

    Parameters
    ----------
    zone : PlacedZone
        Mutated.
    placement : int
        A :class:`Placement`.
    held : int32[n]
        Frames held, mutated: reordered, and its last ``count`` replaced.
    count : int
        At most n.
    rng : numpy.random.Generator
        Advanced.
    """
    shuffle_tail(held, count, rng)
    chosen = held[len(held) - count :]
    if put_frames(zone, placement, chosen) < count:
        return Status.NOT_ALLOCATED
    if get_frames(zone, placement, chosen) < count:
        return Status.NO_MEMORY
    return Status.OK
