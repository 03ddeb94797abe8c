"""Leaves follow moved pages and go with reclaimed ones, beside a dict of what each address reaches."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import pagetable as plain
from vckernels import entry, pagetable, remap
from vckernels.causes import Cause, Status

START = 1 << 44
PAGES = 1100
"""More than two tables hold."""


def tables_with(frames: np.ndarray) -> pagetable.PageTables:
    tables = pagetable.new_page_tables(1, 0, 1 << 14, 4, 46, True)
    needed = int(pagetable.survey(tables, np.uint64(START), len(frames), 1))
    pagetable.map_range(
        tables,
        np.uint64(START),
        frames,
        1,
        entry.USER_LEAF,
        entry.KERNEL_TABLE | entry.USER,
        np.arange(2, 2 + needed),
    )
    return tables


def reached(tables: pagetable.PageTables, page: int) -> int | None:
    """Return the frame that an independent walk finds at a page of the region, None on a fault."""
    memory = {int(tables.frames[row]): tables.words[row].tolist() for row in range(int(tables.control[1]))}
    return plain.walk(memory, 1, START + 4096 * page, plain.Rules(physical_bits=46)).frame


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_equals_a_dict_of_addresses(seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    expected: dict[int, int] = {page: 1000 + page for page in range(PAGES)}
    tables = tables_with(np.arange(1000, 1000 + PAGES))
    for _ in range(rounds):
        orders = rng.integers(0, 5, 4).astype(np.int8)
        owners = np.array([rng.integers(0, PAGES >> o) << o for o in orders.astype(int)], np.int64)
        if len({o for a, k in zip(owners, orders, strict=True) for o in range(a, a + (1 << k))}) < (1 << orders).sum():
            continue
        every = [int(a) + part for a, k in zip(owners, orders, strict=True) for part in range(1 << k)]
        whole = all(page in expected for page in every)
        before = tables.words.copy(), int(tables.counters[Cause.ENTRY_WRITE])
        if rng.random() < 0.7:
            frames = rng.integers(5000, 9000, 4)
            status = remap.follow_moves(tables, np.uint64(START), owners, orders, frames)
            if whole:
                for first, k, frame in zip(owners, orders, frames, strict=True):
                    expected |= {int(first) + part: int(frame) + part for part in range(1 << k)}
                assert tables.counters[Cause.ENTRY_WRITE] - before[1] == 2 * len(every)
        else:
            status = remap.clear_leaves(tables, np.uint64(START), owners, orders)
            if whole:
                for page in every:
                    del expected[page]
                assert tables.counters[Cause.ENTRY_WRITE] - before[1] == len(every)
        assert status == (Status.OK if whole else Status.NOT_MAPPED)
        if not whole:
            assert np.array_equal(before[0], tables.words)
    for page in (*range(0, PAGES, 97), *(int(p) for p in rng.integers(0, PAGES, 20))):
        assert reached(tables, page) == expected.get(page)
    physical = np.empty(PAGES, np.int64)
    addresses = np.uint64(START) + np.arange(PAGES, dtype=np.uint64) * np.uint64(4096)
    pagetable.translate_many(tables, addresses, physical)
    assert (physical >> 12).tolist() == [expected.get(page, -1) for page in range(PAGES)]


def test_flags_stay_with_a_page_that_moves() -> None:
    tables = tables_with(np.arange(1000, 1004))
    row, index = pagetable.leaf_word(tables, np.uint64(START))
    for cleared in (entry.DIRTY, entry.ACCESSED, entry.ZERO):
        tables.words[row, index] = entry.USER_LEAF & ~cleared | np.uint64(77 << 12)
        status = remap.follow_moves(
            tables, np.uint64(START), np.zeros(1, np.int64), np.zeros(1, np.int8), np.full(1, 88)
        )
        assert status == Status.OK
        assert tables.words[row, index] == entry.USER_LEAF & ~cleared | np.uint64(88 << 12)


def test_a_larger_leaf_or_nothing_is_no_leaf_of_a_page() -> None:
    tables = tables_with(np.arange(1000, 1004))
    assert pagetable.leaf_word(tables, np.uint64(START + 4 * 4096)) == (-1, 0)
    assert pagetable.leaf_word(tables, np.uint64(1 << 40)) == (-1, 0)
    huge = np.uint64(START + (1 << 30))
    needed = int(pagetable.survey(tables, huge, 1, 2))
    pagetable.map_range(
        tables, huge, np.full(1, 1024), 2, entry.USER_LEAF, entry.KERNEL_TABLE, np.arange(50, 50 + needed)
    )
    assert pagetable.leaf_word(tables, huge) == (-1, 0)
    owner = np.full(1, (1 << 30) >> 12, np.int64)
    assert remap.clear_leaves(tables, np.uint64(START), owner, np.zeros(1, np.int8)) == Status.NOT_MAPPED
