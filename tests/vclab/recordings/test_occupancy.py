"""What fills the zone: flags become allocated blocks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vclab.recordings.small import (
    ANON,
    BUDDY,
    HEAD,
    LRU,
    NOPAGE,
    OFFLINE,
    PGTABLE,
    RESERVED,
    SLAB,
    TAIL,
    integer,
    quick,
)
from vclab.recordings import BlockMap, FrameKind
from vclab.recordings.occupancy import FlagRuns, allocated_blocks, frame_kinds


def slow_allocated(first: int, end: int, free: set[int], flags: list[int]) -> list[tuple[int, int, int]]:
    """The same as `allocated_blocks`, frame by frame."""
    kinds = frame_kinds(np.array(flags, dtype=np.uint64)).tolist()
    result, frame = [], first
    while frame < end:
        if frame in free:
            frame += 1
            continue
        after = frame + 1
        if flags[frame] & HEAD:
            while after < end and after not in free and flags[after] & TAIL and not flags[after] & HEAD:
                after += 1
        kind = kinds[frame]
        while frame < after:
            order = max(o for o in range(11) if frame % (1 << o) == 0 and frame + (1 << o) <= after)
            result.append((frame, order, kind))
            frame += 1 << order
    return result


WORDS = [
    0,
    LRU,
    LRU | ANON,
    HEAD,
    TAIL,
    HEAD | LRU | ANON,
    TAIL | LRU | ANON,
    SLAB | HEAD,
    SLAB | TAIL,
    RESERVED,
    BUDDY,
]


@quick
@given(
    runs=st.lists(
        st.tuples(st.sampled_from(WORDS), st.sampled_from([1, 1, 2, 3, 7, 64, 511, 1500])),
        min_size=1,
        max_size=40,
    ),
    frees=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 10)), max_size=6),
    first=st.integers(0, 2000),
    beyond=st.integers(0, 30),
)
def test_runs_become_the_same_blocks_as_frame_by_frame(
    runs: list[tuple[int, int]], frees: list[tuple[int, int]], first: int, beyond: int
) -> None:
    merged = [run for k, run in enumerate(runs) if k == 0 or run[0] != runs[k - 1][0]]
    flags = [word for word, length in merged for _ in range(length)]
    npfn = len(flags)
    first = first % npfn
    end = npfn + beyond
    blocks: list[tuple[int, int]] = []
    for wish, order in sorted(frees):
        start = wish >> order << order
        if start >= first and start + (1 << order) <= end and (not blocks or start >= sum_end(blocks[-1])):
            blocks.append((start, order))
    free = BlockMap(integer([b for b, _ in blocks], "i8"), integer([o for _, o in blocks], "i1"))
    starts = np.cumsum([0] + [length for _, length in merged[:-1]])
    coded = FlagRuns(starts, np.array([word for word, _ in merged], dtype=np.uint64), npfn)
    found = allocated_blocks(first, end, free, coded, npfn)
    free_frames = {frame for start, order in blocks for frame in range(start, start + (1 << order))}
    expected = slow_allocated(first, end, free_frames, flags + [RESERVED] * beyond)
    assert list(zip(found.frames.tolist(), found.orders.tolist(), found.kinds.tolist(), strict=True)) == expected


def sum_end(block: tuple[int, int]) -> int:
    return block[0] + (1 << block[1])


def test_giant_compound_pages_are_cut_at_order_ten_without_a_row_per_frame() -> None:
    frames = 1 << 24
    coded = FlagRuns(integer([0, 1], "i8"), integer([HEAD, TAIL], "u8"), frames)
    none = BlockMap(integer([], "i8"), integer([], "i1"))
    tracemalloc.start()
    found = allocated_blocks(0, frames, none, coded, frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.orders == 10).all() and found.frames.tolist() == list(range(0, frames, 1024))
    assert peak < 16_000_000


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (0, FrameKind.OTHER),
        (1 << 15 | 1 << 16 | 1 << 22, FrameKind.OTHER),
        (LRU, FrameKind.FILE),
        (LRU | ANON, FrameKind.ANONYMOUS),
        (ANON, FrameKind.ANONYMOUS),
        (SLAB | ANON | 1 << 21, FrameKind.SLAB),
        (PGTABLE | 1 << 11, FrameKind.PAGE_TABLE),
        (RESERVED | LRU, FrameKind.RESERVED),
        (NOPAGE, FrameKind.RESERVED),
        (OFFLINE, FrameKind.RESERVED),
    ],
)
def test_flags_name_the_kind(word: int, kind: FrameKind) -> None:
    assert frame_kinds(np.array([word], dtype=np.uint64)).tolist() == [kind]
