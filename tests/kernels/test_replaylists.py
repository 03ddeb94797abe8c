"""Recorded per-CPU lists: the kernel beside the plain ones, and the rules one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.replaylists import PlainLists, Row, name_of
from vckernels.replay import Stream
from vckernels.replaylists import (
    LIST_COUNTS,
    LISTS_PER_CPU,
    CpuLists,
    ListCount,
    follow_lists,
    list_of,
    new_lists,
)

FRAMES = 4 * 512
CPUS = 2
DTYPES = (np.uint8, np.uint8, np.int8, np.uint8, np.int64, np.uint16)
ALLOCATE, FREE, REMOVE, DRAIN, FALLBACK, BEGIN, MIGRATED, END = 0, 1, 3, 4, 5, 8, 11, 7


def as_stream(rows: list[Row]) -> Stream:
    operation, order, migratetype, cpu, frame, extra = (
        np.array([row[column] for row in rows], dtype) for column, dtype in enumerate(DTYPES)
    )
    return Stream(operation, order, migratetype, cpu, frame, extra)


def read(lists: CpuLists, number: int) -> list[int]:
    sentinel = FRAMES + number
    found, back = [], []
    at = int(lists.next[sentinel])
    while at != sentinel:
        found.append(at)
        at = int(lists.next[at])
    at = int(lists.prev[sentinel])
    while at != sentinel:
        back.append(at)
        at = int(lists.prev[at])
    assert found == back[::-1]
    return found


def follow(rows: list[Row], types: tuple[int, ...] = (1, 1, 0, 2)) -> tuple[dict[str, int], CpuLists]:
    """Follow rows with both; return the counts that are not 0, the same in both, and the kernel's lists."""
    lists = new_lists(FRAMES, CPUS, np.array(types, np.int8))
    counts = np.zeros(LIST_COUNTS, np.int64)
    follow_lists(as_stream(rows), lists, counts)
    plain = PlainLists(list(types))
    plain.follow(rows)
    found = {count.name: int(counts[count]) for count in ListCount if counts[count]}
    assert found == {name: count for name, count in plain.events.items() if count}
    assert lists.pageblock.tolist() == plain.types
    held = 0
    for cpu in range(CPUS):
        for order in (0, 1, 2, 3, 9):
            for kind in range(3):
                blocks = read(lists, list_of(cpu, order, kind))
                assert blocks == list(plain.lists[name_of(cpu, order, kind)])
                held += len(blocks) if order < 9 or kind else 0
    assert held == np.count_nonzero(lists.list_number >= 0)
    return found, lists


def rows() -> st.SearchStrategy[list[Row]]:
    """Few frames, so that events meet; runs of removals, so that lists fill."""
    order = st.sampled_from((0, 0, 0, 1, 3, 4, 9))
    kind = st.integers(0, 2)
    cpu = st.integers(0, CPUS - 1)

    @st.composite
    def some(draw: st.DrawFn) -> list[Row]:
        operation = draw(
            st.sampled_from((ALLOCATE, ALLOCATE, FREE, FREE, REMOVE, REMOVE, DRAIN, FALLBACK, BEGIN, MIGRATED, END))
        )
        size, which, who = draw(order), draw(kind), draw(cpu)
        frame = (draw(st.sampled_from((0, 512, 1024, 1536))) + draw(st.integers(0, 5)) << size >> size) & -(1 << size)
        if operation in (DRAIN, REMOVE):
            which = draw(st.integers(0, 4)) if operation == DRAIN else draw(st.integers(0, 3))
        if operation == REMOVE:
            more = draw(st.integers(0, 3))
            return [(REMOVE, size, which, who, (frame + (k << size)) % FRAMES, 1) for k in range(more + 1)]
        extra = 0
        if operation == FALLBACK:
            fallback = draw(st.sampled_from([o for o in (2, 4, 9, 10) if o >= size]))
            frame &= -(1 << fallback)
            extra = fallback | draw(kind) << 4 | draw(st.integers(0, 1)) << 8
        return [(operation, size, which, who, frame, extra)]

    return st.lists(some(), max_size=120).map(lambda parts: [row for part in parts for row in part])


@settings(max_examples=200, deadline=None)
@given(rows())
def test_kernel_and_plain_lists_agree(events: list[Row]) -> None:
    follow(events)


def test_numbers_of_lists_differ() -> None:
    numbers = [list_of(cpu, order, kind) for cpu in range(2) for order in range(4) for kind in range(3)]
    numbers += [list_of(cpu, 9, kind) for cpu in range(2) for kind in (0, 1)]
    assert sorted(numbers) == list(range(2 * LISTS_PER_CPU))
    assert list_of(1, 9, 2) == list_of(1, 9, 0)


def test_a_refill_is_handed_out_in_its_order_and_frees_come_first() -> None:
    filled = [(REMOVE, 0, 1, 0, frame, 1) for frame in (5, 6, 7)]
    found, lists = follow([*filled, (ALLOCATE, 0, 1, 0, 5, 0), (FREE, 0, -1, 0, 40, 0), (ALLOCATE, 0, 1, 0, 40, 0)])
    assert found == {
        "REFILLS": 1, "REFILLED": 3, "ALLOCATIONS": 2, "RIGHT": 2, "KNOWN": 2, "KNOWN_RIGHT": 2, "FREES": 1,
    }  # fmt: skip
    assert read(lists, list_of(0, 0, 1)) == [6, 7]


def test_what_lies_above_the_block_taken_was_taken_unseen() -> None:
    found, lists = follow([(FREE, 0, -1, 0, frame, 0) for frame in (3, 4, 5)] + [(ALLOCATE, 0, 1, 0, 4, 0)])
    assert (found["SKIPPED"], found["KNOWN"], found.get("KNOWN_RIGHT")) == (1, 1, None)
    assert read(lists, list_of(0, 0, 1)) == [3]


def test_a_refill_finds_the_list_empty() -> None:
    rows = [(FREE, 0, -1, 0, 3, 0), (REMOVE, 0, 1, 0, 8, 1), (REMOVE, 0, 1, 0, 9, 1)]
    found, lists = follow(rows)
    assert found["FLUSHED"] == 1 and read(lists, list_of(0, 0, 1)) == [8, 9]


def test_a_removal_taken_at_once_is_no_refill() -> None:
    rows = [(FREE, 0, -1, 0, 3, 0), (REMOVE, 0, 1, 0, 8, 1), (FREE, 0, -1, 1, 4, 0), (ALLOCATE, 0, 1, 0, 8, 0)]
    found, lists = follow(rows)
    assert found == {"FREES": 2, "DIRECT": 1} and read(lists, list_of(0, 0, 1)) == [3]


def test_frees_go_to_the_list_of_their_pageblock() -> None:
    rows = [(FREE, 0, -1, 0, frame, 0) for frame in (1, 513, 1025, 1537)]
    _, lists = follow(rows, types=(4, 3, 0, 2))
    assert lists.list_number[[1, 513, 1025, 1537]].tolist() == [-1, 1, 0, 2]


def test_frees_of_a_cpu_that_migrates_go_to_compaction() -> None:
    rows = [(BEGIN, 0, 0, 1, 0, 0), (FREE, 0, -1, 1, 7, 0), (FREE, 0, -1, 0, 8, 0), (MIGRATED, 0, 0, 1, 0, 0)]
    found, lists = follow([*rows, (FREE, 0, -1, 1, 9, 0)])
    assert found == {"FREES_TO_COMPACTION": 1, "FREES": 2}
    assert lists.list_number[[7, 8, 9]].tolist() == [-1, 1, LISTS_PER_CPU + 1]


def test_a_claimed_pageblock_refills_and_a_captured_one_does_not() -> None:
    claimed, captured = 9 | 1 << 4 | 1 << 8, 9 | 1 << 4
    found, lists = follow([(FALLBACK, 0, 0, 0, 512, claimed), (FALLBACK, 9, 2, 0, 0, captured)])
    assert found == {"REFILLS": 1, "REFILLED": 1}
    assert lists.pageblock.tolist() == [1, 0, 0, 2] and lists.list_number[512] == list_of(0, 0, 0)


def test_stolen_blocks_leave_the_type_alone() -> None:
    found, lists = follow([(FALLBACK, 0, 0, 0, 512, 3 | 1 << 4)])
    assert found["REFILLED"] == 1 and lists.pageblock.tolist() == [1, 1, 0, 2]


def test_drains_are_expected_from_the_tail() -> None:
    rows = [(FREE, 0, -1, 0, frame, 0) for frame in (3, 4)]
    found, _ = follow([*rows, (DRAIN, 0, 1, 0, 3, 0), (DRAIN, 0, 1, 1, 4, 0), (DRAIN, 0, 1, 0, 9, 0)])
    assert (found["DRAINS"], found["DRAINS_FROM_TAIL"], found["DRAINS_UNKNOWN"]) == (2, 2, 1)
