"""A recorded zone left to the model: the kernel beside the plain one."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_replayfollow import FRAMES, Blocks, kernel_zone, snapshot_of
from tests.kernels.test_replaylists import as_stream
from tests.kernels.zones import read_list
from tests.oracles.buddy import PlainBuddy
from tests.oracles.replayfollow import Row
from tests.oracles.replayfree import PlainFreeRun
from vckernels.buddy import ORDERS, TYPES
from vckernels.replay import COUNTS, Count
from vckernels.replayfree import run_free


def run(rows: list[Row], blocks: Blocks, types: list[int]) -> dict[str, int]:
    """Run with both, compare all, and return the counts that are not 0."""
    plain_zone = PlainBuddy(FRAMES)
    plain_zone.types = list(types)
    taken = np.ones(FRAMES, np.int8)
    for frame, order in blocks:
        plain_zone.insert(frame, order, types[frame // 512])
        taken[frame : frame + (1 << order)] = 0
    plain = PlainFreeRun(plain_zone, set(np.flatnonzero(taken).tolist()))
    plain.run(rows)
    zone = kernel_zone(blocks, types)
    mine = np.arange(FRAMES, dtype=np.int32)
    counts = np.zeros(COUNTS, np.int64)
    run_free(zone, as_stream(rows), taken, mine, counts)
    found = {count.name: int(counts[count]) for count in Count if counts[count]}
    assert found == {name: count for name, count in plain.seen.items() if count}
    assert {name: int(mine[name]) for name in np.flatnonzero(taken).tolist()} == plain.mine
    assert zone.pageblock.tolist() == plain_zone.types
    for order in range(ORDERS):
        for kind in range(TYPES):
            assert read_list(zone, order, kind) == list(plain_zone.lists[order, kind])
    return found


def trace(rng: random.Random, blocks: Blocks) -> list[Row]:
    """Return removals of free frames and frees of taken ones, as a recording has them: all aligned, never twice."""
    free = np.zeros(FRAMES, bool)
    for frame, order in blocks:
        free[frame : frame + (1 << order)] = True
    rows: list[Row] = []
    for _ in range(rng.randrange(300)):
        order = rng.choice((0, 0, 0, 1, 2, 5, 9, 10))
        frame = rng.randrange(FRAMES) & -(1 << order)
        part = free[frame : frame + (1 << order)]
        if part.all() and rng.random() < 0.7:
            part[:] = False
            large = order == 9 and rng.random() < 0.3
            rows.append((5 if large else 3, order, rng.randrange(3), 0, frame, 9 | 1 << 8 if large else 1))
        elif not part.any():
            part[:] = True
            rows.append((rng.choice((1, 4)), order, 1, 0, frame, 0))
        elif part.all() and rng.random() < 0.1:
            rows.append((5, order, 1, 0, frame, 8))
    return rows


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32))
def test_kernel_and_plain_zone_agree(seed: int) -> None:
    rng = random.Random(seed)
    blocks, types, _ = snapshot_of(rng)
    run(trace(rng, blocks), blocks, types)


def test_choices_of_the_model_stand_for_the_recorded_ones() -> None:
    # The model takes frame 512, the recording said 515: freeing 515 frees 512.
    found = run([(3, 0, 1, 0, 515, 1), (4, 0, 1, 0, 515, 0)], [(512, 2)], [1] * (FRAMES // 512))
    assert found == {"REMOVALS": 1, "FREES": 1}
    # Two frames that lie apart in the model are freed one by one.
    rows: list[Row] = [(3, 0, 1, 0, 1, 1), (3, 0, 1, 0, 0, 1), (4, 1, 1, 0, 0, 0)]
    found = run(rows, [(0, 1)], [1] * (FRAMES // 512))
    assert found == {"REMOVALS": 2, "FREES_SPLIT": 1}
    assert run([(3, 0, 1, 0, 9, 1)], [(0, 1)], [1] * (FRAMES // 512)) == {"REMOVALS_SKIPPED": 1}
    # Recorded: an order that no block of the model has, as its frames went otherwise.
    rows = [(3, 0, 1, 0, 3, 1), (3, 1, 1, 0, 0, 1)]
    assert run(rows, [(0, 0), (1, 0), (3, 0)], [1] * (FRAMES // 512)) == {"REMOVALS": 1, "FRAME_RIGHT": 1, "FAILED": 1}
