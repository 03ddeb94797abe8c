"""LLFree's fragmentation experiment at 1/128 of its size, in exact counts."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.placement import PUBLISHED, UNUSED, USED, run, write
from vckernels.placement import Placement

SCALE = Fraction(1, 128)
ROUNDS = 60
HUGE_FRAMES = round(USED * SCALE) + round(UNUSED * SCALE)


def test_sizes_are_those_of_the_published_run() -> None:
    # Free once half is freed: 17,363,262 published, 62 more than whole 2 MiB frames can give.
    assert (USED + UNUSED) * 512 - USED * 512 // 2 == 17_363_262 - 62
    assert UNUSED == PUBLISHED["Linux 6.0, published"][0]


def test_linux_rule_keeps_what_was_never_allocated_and_makes_no_more() -> None:
    result = run(Placement.SMALLEST_BLOCK, SCALE, rounds=ROUNDS)
    assert result.at_start == (40, 40)
    assert result.huge.tolist() == [40] * ROUNDS
    assert set(result.free.tolist()) == {HUGE_FRAMES * 512 - 450 * 256}


def test_lowest_address_puts_free_2mib_frames_together() -> None:
    result = run(Placement.LOWEST_ADDRESS, SCALE, rounds=ROUNDS)
    assert result.at_start == (40, 40)
    assert result.huge[[0, 9, 59]].tolist() == [40, 40, 175]


def test_largest_block_leaves_no_2mib_frame() -> None:
    result = run(Placement.LARGEST_BLOCK, SCALE, rounds=3)
    assert result.at_start == (0, 0)
    assert result.huge.tolist() == [0, 0, 0]


def test_histogram_counts_every_free_frame_of_every_round(tmp_path: Path) -> None:
    result = run(Placement.LOWEST_ADDRESS, SCALE, rounds=4)
    assert result.histogram.shape == (4, HUGE_FRAMES)
    assert result.histogram.sum(axis=1).tolist() == result.free.tolist()
    assert ((result.histogram == 512).sum(axis=1) == result.huge).all()
    write(result, tmp_path)
    words = np.fromfile(tmp_path / "lowest-address-histogram.u16", "<u2")
    assert words.reshape(4, -1).tolist() == result.histogram.tolist()
    table = np.genfromtxt(tmp_path / "lowest-address.csv", delimiter=",", names=True)
    assert table["huge"].tolist() == result.huge.tolist()
