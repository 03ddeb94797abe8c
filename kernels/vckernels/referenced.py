"""What CPUs note in page-table entries, as reclaim finds it: by a page's own entries, when it looks at that page.

Each page has its entries at the address that its owner's number says (:mod:`vckernels.remap`), so nothing is searched.
The accessed bit is read and cleared when reclaim looks at the page, the dirty bit when it unmaps it. Rules: Linux 6.18
``mm/rmap.c``: ``folio_referenced_one``, ``try_to_unmap_one``.

Clearing an accessed bit lets no CPU forget anything on x86 (``arch/x86/mm/pgtable.c``: ``ptep_clear_flush_young``; it
did until Linux 3.15): whoever still has the translation does not set it again. What is unmapped every CPU forgets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vckernels import entry
from vckernels.jit import kernel, unsigned
from vckernels.pages import Pages
from vckernels.pagetable import PageTables, leaf_word, new_page_tables


class Entries(NamedTuple):
    """Where the entries of a zone's pages are.

    Attributes
    ----------
    tables : PageTables
    start : uint64
        Address of the region whose page ``n`` is that of owner ``n``.
    noted : bool
        Whether CPUs may have noted anything in them; else nobody needs to look.
    """

    tables: PageTables
    start: np.uint64
    noted: bool


def no_entries() -> Entries:
    """Return the entries of pages that are mapped nowhere."""
    return Entries(new_page_tables(0, 0, 1, 4, 46, True, capacity=1), entry.ZERO, False)


@kernel
def _take(entries: Entries, owner: int, size: int, bit: np.uint64) -> bool:
    """Return whether one of a page's entries has a bit, and clear it in all. Mutates words."""
    found = False
    words = entries.tables.words
    for part in range(owner, owner + size):
        row, index = leaf_word(entries.tables, entries.start + (np.uint64(part) << entry.PAGE_SHIFT))
        if row >= 0 and words[unsigned(row), unsigned(index)] & bit != entry.ZERO:
            words[unsigned(row), unsigned(index)] &= ~bit
            found = True
    return found


@kernel(inline=True)
def take_accessed(entries: Entries, pages: Pages, page: int, size: int) -> bool:
    """Return whether a page was accessed since it was looked at last, and let its entries say so no more.

    Several entries of one page count once, as its mapping does. Rule: ``folio_referenced_one``.

    Parameters
    ----------
    entries : Entries
        Mutated: accessed bits.
    pages : Pages
        Read.
    page : int
        First frame.
    size : int
        The page's frames, of which each has an entry.
    """
    return entries.noted and _take(entries, np.int64(pages.owner[unsigned(page)]), size, entry.ACCESSED)


@kernel(inline=True)
def take_dirty(entries: Entries, pages: Pages, page: int, size: int) -> bool:
    """Return whether a page that is unmapped was written, and clear its entries' dirty bits (``try_to_unmap_one``).

    The entries stay: who gets at a page again before it is freed would fault for its address, which is not counted.
    Parameters are those of :func:`take_accessed`.
    """
    return entries.noted and _take(entries, np.int64(pages.owner[unsigned(page)]), size, entry.DIRTY)
