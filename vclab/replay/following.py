"""A recording's zone followed one step ahead, or left to the model's own choices."""

from __future__ import annotations

import numpy as np

from vckernels import replay as kernels
from vckernels.buddy import Buddy
from vckernels.replay import Count, Stream
from vclab.memory import Zone
from vclab.recorded import snapshot_buddy, span
from vclab.recordings import BlockMap, Recording


def follow(
    recording: Recording, stream: Stream, ascending: bool, merge_likely_to_tail: bool
) -> tuple[Buddy, dict[Count, int]]:
    """Follow a recording one step ahead; return the final allocator and what was counted.

    Parameters
    ----------
    recording : Recording
    stream : Stream
        Its events.
    ascending : bool
        Assumed first order of the free lists, which a snapshot does not show: lowest frame first, else highest.
    merge_likely_to_tail : bool
        The tail placement rule, for ablation.
    """
    buddy = snapshot_buddy(recording, stream, ascending, merge_likely_to_tail)
    known = np.ones(span(recording), np.int8)
    known[recording.free_before.frames - recording.first_frame] = 0
    counts = np.zeros(kernels.COUNTS, np.int64)
    kernels.follow(buddy, stream, known, counts)
    return buddy, {count: int(counts[count]) for count in Count}


def run_free(recording: Recording, stream: Stream, ascending: bool) -> tuple[Buddy, dict[Count, int]]:
    """Let the model choose every block of a recording's requests; return the final allocator and counts."""
    buddy = snapshot_buddy(recording, stream, ascending)
    taken = np.ones(span(recording), np.int8)
    free = recording.free_before
    for frame, order in zip((free.frames - recording.first_frame).tolist(), free.orders.tolist(), strict=True):
        taken[frame : frame + (1 << order)] = 0
    counts = np.zeros(kernels.COUNTS, np.int64)
    kernels.run_free(buddy, stream, taken, np.arange(span(recording), dtype=np.int32), counts)
    return buddy, {count: int(counts[count]) for count in Count}


def differing_frames(recording: Recording, buddy: Buddy, real: BlockMap) -> int:
    """Return in how many frames the model's free lists, block by block, differ from a block map."""
    zone = Zone(recording.zone_name, recording.first_frame, span(recording), buddy)
    frames, orders = zone.blocks()
    pictures = np.full((2, span(recording)), -1, np.int8)
    for picture, first, order in zip(pictures, (frames, real.frames), (orders, real.orders), strict=True):
        starts = first - recording.first_frame
        sizes = 1 << order.astype(np.int64)
        inside = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        picture[inside] = np.repeat(order, sizes)
        # A block's first frame is marked, so that two halves differ from the whole.
        picture[starts] += 16
    return int(np.count_nonzero(pictures[0] != pictures[1]))
