"""Free frames of each aligned 2 MiB, as LLFree's benchmarks draw them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import MAX_ORDER, PAGEBLOCK_FRAMES, PAGEBLOCK_ORDER, Buddy
from vckernels.jit import kernel, unsigned


@kernel
def count_free_frames(buddy: Buddy, free_in: npt.NDArray[np.uint16]) -> None:
    """Count the frames of free blocks in each aligned 2 MiB.

    What lies on per-CPU lists or is isolated is not free, as in buddyinfo.

    Parameters
    ----------
    buddy : Buddy
    free_in : uint16[ceil(frames / 512)]
        Overwritten: 0 to 512 each.
    """
    free_in[:] = 0
    frame = np.int64(0)
    while frame < len(buddy.state):
        state = np.int64(buddy.state[unsigned(frame)])
        frames = np.int64(1)
        if state >= 0:
            frames = np.int64(1) << (state & 15)
        if 0 <= state <= MAX_ORDER:
            # A block is aligned to its order: it lies inside one 2 MiB, or it is made of whole ones.
            for huge in range(frame >> PAGEBLOCK_ORDER, (frame + frames - 1 >> PAGEBLOCK_ORDER) + 1):
                free_in[unsigned(huge)] += min(frames, PAGEBLOCK_FRAMES)
        frame += frames
