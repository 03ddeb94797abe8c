"""Programs use their pages: what a CPU notes in page-table entries, as reclaim will find it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy
from vckernels.compactcontrol import first_of_block
from vckernels.jit import kernel, unsigned
from vckernels.pages import ACCESSED, DIRTY, ON_LRU, Pages, flags_of


@kernel
def use_frames(buddy: Buddy, pages: Pages, frames: npt.NDArray[np.int64], write: bool) -> int:
    """Mark the pages around frames as used, and as changed by a write; return how many frames were part of a page.

    Parameters
    ----------
    buddy : Buddy
        Read.
    pages : Pages
        Mutated: flags.
    frames : int64[n]
        Frames of the zone, of any part of a page; negative ones are passed over.
    write : bool
        Stores rather than loads.
    """
    mark = ACCESSED | DIRTY if write else ACCESSED
    used = 0
    for i in range(len(frames)):
        first = first_of_block(buddy, frames[i]) if frames[i] >= 0 else np.int64(-1)
        if first >= 0 and flags_of(pages, first) & ON_LRU:
            pages.flags[unsigned(first)] |= mark
            used += 1
    return used
