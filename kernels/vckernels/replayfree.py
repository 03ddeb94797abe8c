"""A recorded zone whose every block the model chooses: recorded frames only name what is freed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import INSIDE, PAGEBLOCK_ORDER, Buddy, merge_and_insert
from vckernels.claim import MODE_NORMAL, allocate
from vckernels.jit import kernel
from vckernels.replay import ZONE_DRAIN, ZONE_FALLBACK, ZONE_FREE, ZONE_REMOVAL, Count, Stream, free_block


@kernel
def run_free(
    buddy: Buddy,
    stream: Stream,
    taken: npt.NDArray[np.int8],
    model_frame: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
) -> None:
    """Let the model choose every block; recorded frames only name what a free gives back.

    Parameters
    ----------
    buddy : Buddy
        The zone as first snapped; mutated.
    stream : Stream
        Read.
    taken : int8[frames]
        Mutated. 1 where the recorded frame is allocated.
    model_frame : int32[frames]
        Mutated. The model's frame that stands for each recorded one: at first itself.
    counts : int64[COUNTS]
        Added to.
    """
    for i in range(len(stream.frame)):
        operation = stream.operation[i]
        frame = stream.frame[i]
        order = np.int64(stream.order[i])
        size = 1 << order
        if operation == ZONE_REMOVAL or operation == ZONE_FALLBACK:
            if operation == ZONE_FALLBACK and np.int64(stream.extra[i]) & 15 < PAGEBLOCK_ORDER:
                continue
            if taken[frame]:
                counts[Count.REMOVALS_SKIPPED] += 1
                continue
            migratetype = np.int64(stream.migratetype[i])
            chosen, _ = allocate(buddy, order, migratetype, 0, MODE_NORMAL)
            if chosen < 0:
                counts[Count.FAILED] += 1
                continue
            buddy.state[chosen] = INSIDE
            counts[Count.REMOVALS] += 1
            counts[Count.FRAME_RIGHT] += chosen == frame
            for j in range(size):
                taken[frame + j] = 1
                model_frame[frame + j] = chosen + j
        elif operation == ZONE_FREE or operation == ZONE_DRAIN:
            whole = True
            first = np.int64(model_frame[frame])
            for j in range(size):
                whole = whole and taken[frame + j] and model_frame[frame + j] == first + j
            if whole and first & (size - 1) == 0:
                free_block(buddy, first, order)
                counts[Count.FREES] += 1
            else:
                counts[Count.FREES_SPLIT] += 1
                for j in range(size):
                    if taken[frame + j]:
                        merge_and_insert(buddy, np.int64(model_frame[frame + j]), 0)
            for j in range(size):
                taken[frame + j] = 0
