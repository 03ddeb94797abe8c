"""Accessed and dirty bits of a region's entries become flags of its pages, beside a loop over plain numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vckernels import buddy, entry, pages, pagetable, referenced
from vckernels.causes import Status
from vckernels.pages import ACCESSED, ANONYMOUS, DIRTY, ON_LRU

START = 1 << 44
FRAMES = 1024
FIRST_FRAME = 4096


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_equals_a_loop_over_plain_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    zone = buddy.new_buddy(FRAMES, lists=pages.LRU_LISTS)
    data = pages.new_pages(FRAMES)
    # Pages of one and of four frames, blocks that are no pages, and one frame that no block begins at.
    owner, frames, firsts = 0, [], []
    frame = 1
    while frame < FRAMES - 8:
        order = int(rng.choice([0, 0, 2])) if frame % 4 == 0 else 0
        buddy.adopt(zone, np.array([frame]), np.array([order], np.int8), np.array([1], np.int8))
        if rng.random() < 0.8:
            assert pages.add_page(zone, data, frame, owner, int(rng.choice([0, ANONYMOUS, DIRTY]))) == Status.OK
        frames += range(frame, frame + (1 << order))
        firsts += [frame] * (1 << order)
        owner += 1 << order
        frame += 1 << order
    tables = pagetable.new_page_tables(1, 0, 1 << 14, 4, 46, True)
    where = np.array(frames) + FIRST_FRAME
    bits = rng.choice([0, int(entry.ACCESSED), int(entry.ACCESSED | entry.DIRTY)], len(where), p=[0.6, 0.2, 0.2])
    bare = entry.USER_LEAF & ~(entry.ACCESSED | entry.DIRTY)
    needed = int(pagetable.survey(tables, np.uint64(START), len(where), 1))
    upper = entry.KERNEL_TABLE | entry.USER
    pagetable.map_range(tables, np.uint64(START), where, 1, bare, upper, np.arange(2, 2 + needed))
    leaves = []
    for number in range(len(where)):
        row, index = pagetable.leaf_word(tables, np.uint64(START + 4096 * number))
        leaves.append((row, index))
        tables.words[row, index] |= np.uint64(bits[number])
    gone = set(rng.choice(len(where), 20, replace=False).tolist())
    for number in gone:
        tables.words[leaves[number]] = entry.ZERO
    before = [int(flags) for flags in data.flags]
    expected, dirty = list(before), []
    for number, first in enumerate(firsts):
        if number in gone or not before[first] & ON_LRU:
            continue
        if bits[number] & int(entry.ACCESSED):
            expected[first] |= ACCESSED
        if bits[number] & int(entry.DIRTY):
            expected[first] |= DIRTY
            dirty.append(number)
    written = np.full(len(where), -1, np.int64)
    count = referenced.take_bits(tables, np.uint64(START), zone, data, FIRST_FRAME, written)
    assert written[:count].tolist() == dirty
    assert data.flags.tolist() == expected
    for number, first in enumerate(firsts):
        word = int(tables.words[leaves[number]])
        listed = number not in gone and before[first] & ON_LRU
        assert word & 0x60 == (0 if listed or number in gone else int(bits[number]))
        assert number in gone or word >> 12 & 0xFFFFFF == where[number]
    # Nothing is left to be noted.
    assert referenced.take_bits(tables, np.uint64(START), zone, data, FIRST_FRAME, written) == 0
    assert data.flags.tolist() == expected
