"""Accessed and dirty bits of one page's entries are taken, and no others, beside a loop over plain words."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vckernels import entry, pages, pagetable, referenced, remap
from vckernels.causes import Status
from vckernels.referenced import Entries

START = 1 << 44
OWNERS = 1200


def mapped_region(rng: np.random.Generator) -> tuple[Entries, list[tuple[int, int]]]:
    """Return entries of which each has an accessed bit, or that and a dirty bit, or none, and where each lies."""
    tables = pagetable.new_page_tables(1, 0, 1 << 14, 4, 46, True)
    bare = entry.USER_LEAF & ~(entry.ACCESSED | entry.DIRTY)
    needed = int(pagetable.survey(tables, np.uint64(START), OWNERS, 1))
    frames, upper = rng.permutation(OWNERS) + 4096, entry.KERNEL_TABLE | entry.USER
    pagetable.map_range(tables, np.uint64(START), frames, 1, bare, upper, np.arange(2, 2 + needed))
    places = [pagetable.leaf_word(tables, np.uint64(START + (owner << 12))) for owner in range(OWNERS)]
    bits = rng.choice([0, int(entry.ACCESSED), int(entry.ACCESSED | entry.DIRTY)], OWNERS, p=[0.6, 0.2, 0.2])
    for place, bit in zip(places, bits, strict=True):
        tables.words[place] |= np.uint64(bit)
    return Entries(tables, np.uint64(START), True), places


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_equals_a_loop_over_plain_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    entries, places = mapped_region(rng)
    words = entries.tables.words
    gone = rng.choice(OWNERS, 20, replace=False).astype(np.int64)
    assert remap.clear_leaves(entries.tables, np.uint64(START), gone, np.zeros(20, np.int8)) == Status.OK
    data = pages.new_pages(100)
    plain = [int(words[place]) for place in places]
    for _ in range(100):
        frame, order = int(rng.integers(100)), int(rng.choice([0, 0, 2, 9]))
        owner = int(rng.integers(OWNERS >> order)) << order
        data.owner[frame] = owner
        for take, bit in ((referenced.take_accessed, 1 << 5), (referenced.take_dirty, 1 << 6)):
            if rng.random() < 0.5:
                page = range(owner, owner + (1 << order))
                assert take(entries, data, frame, 1 << order) == any(plain[part] & bit for part in page)
                for part in page:
                    plain[part] &= ~bit
        assert [int(words[place]) for place in places] == plain


def test_nothing_is_looked_at_where_nobody_can_have_noted_anything() -> None:
    entries, places = mapped_region(np.random.default_rng(1))
    entries = entries._replace(noted=False)
    before = entries.tables.words.copy()
    data = pages.new_pages(len(places))
    data.owner[:] = np.arange(len(places))
    for page in range(len(places)):
        assert not referenced.take_accessed(entries, data, page, 1)
        assert not referenced.take_dirty(entries, data, page, 1)
    assert (entries.tables.words == before).all()
    assert not referenced.take_accessed(referenced.no_entries(), data, 0, 1)
