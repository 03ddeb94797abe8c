"""What CPUs note in page-table entries reaches reclaim: accessed and dirty bits become a page's flags.

The kernel reads and clears the accessed bits of a page's entries when reclaim looks at the page, and takes over the
dirty bits when it unmaps it. Here the bits of all entries are taken over before a run of reclaim looks at anything,
which comes to the same: a flag stays until its page is looked at, or written. Clearing an accessed bit lets no CPU
forget anything; who still has the translation sets it no more, as on x86. Rules: Linux 6.18 ``mm/rmap.c``:
``folio_referenced_one``, ``try_to_unmap_one``; ``arch/x86/mm/pgtable.c``: ``ptep_clear_flush_young``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels import entry
from vckernels.buddy import Buddy
from vckernels.compactcontrol import first_of_block
from vckernels.jit import kernel, unsigned
from vckernels.pages import ACCESSED, DIRTY, ON_LRU, Pages, flags_of
from vckernels.pagetable import PageTables, leaf_word


@kernel
def take_bits(
    tables: PageTables, start: np.uint64, buddy: Buddy, pages: Pages, first_frame: int, written: npt.NDArray[np.int64]
) -> int:
    """Move what a region's entries say into the flags of its pages; return how many entries were dirty.

    Parameters
    ----------
    tables : PageTables
        Mutated: accessed and dirty bits are cleared.
    start : uint64
        Address of the region's first page.
    buddy : Buddy
        Read.
    pages : Pages
        Mutated: flags.
    first_frame : int
        Of the zone, as page tables number frames.
    written : int64[n]
        As many entries as the region's first pages; overwritten: numbers of those that were dirty, which CPUs must
        forget to note the next write.
    """
    count = 0
    for owner in range(len(written)):
        row, index = leaf_word(tables, start + (np.uint64(owner) << entry.PAGE_SHIFT))
        if row < 0:
            continue
        word = tables.words[unsigned(row), unsigned(index)]
        if word & (entry.ACCESSED | entry.DIRTY) == entry.ZERO:
            continue
        frame = entry.frame_of(word) - first_frame
        first = first_of_block(buddy, frame) if 0 <= frame < len(buddy.state) else np.int64(-1)
        if first < 0 or flags_of(pages, first) & ON_LRU == 0:
            continue
        if word & entry.ACCESSED != entry.ZERO:
            pages.flags[unsigned(first)] |= ACCESSED
        if word & entry.DIRTY != entry.ZERO:
            pages.flags[unsigned(first)] |= DIRTY
            written[unsigned(count)] = owner
            count += 1
        tables.words[unsigned(row), unsigned(index)] = word & ~(entry.ACCESSED | entry.DIRTY)
    return count
