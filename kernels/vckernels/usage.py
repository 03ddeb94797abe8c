"""Programs use their pages, without a CPU that notes it in page-table entries: flags say what entries would."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy
from vckernels.compactcontrol import first_of_block
from vckernels.jit import kernel, unsigned
from vckernels.pages import ACCESSED, ANONYMOUS, DIRTY, ON_LRU, Pages, flags_of, mark_used


@kernel
def use_frames(buddy: Buddy, pages: Pages, frames: npt.NDArray[np.int64], write: bool) -> int:
    """Mark the pages around frames as used, and as changed by a write; return how many frames were part of a page.

    Where all pages are on the same lists (before 2.6.28), those of files are mapped nowhere: system calls read and
    write them (``mark_page_accessed``).

    Parameters
    ----------
    buddy, pages : Buddy, Pages
        Mutated: flags; lists where a system call makes a page active.
    frames : int64[n]
        Frames of the zone, of any part of a page; negative ones are passed over.
    write : bool
        Stores rather than loads.
    """
    mark = ACCESSED | DIRTY if write else ACCESSED
    used = 0
    for i in range(len(frames)):
        first = first_of_block(buddy, frames[i]) if frames[i] >= 0 else np.int64(-1)
        if first < 0 or flags_of(pages, first) & ON_LRU == 0:
            continue
        if pages.options[0] == 0 and flags_of(pages, first) & ANONYMOUS == 0:
            mark_used(buddy, pages, first)
            pages.flags[unsigned(first)] |= mark & DIRTY
        else:
            pages.flags[unsigned(first)] |= mark
        used += 1
    return used
