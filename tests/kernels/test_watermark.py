"""Watermarks of both generations against plain Python, and by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import watermark as plain
from vckernels import buddy as buddies
from vckernels import watermark
from vckernels.allocflags import AllocFlag
from vckernels.buddy import ORDERS, TYPES, Buddy, Migratetype
from vckernels.watermark import Limit, ZoneIndex

FLAGS = ("OOM", "NON_BLOCK", "MIN_RESERVE", "HIGHATOMIC", "NOFRAGMENT", "KSWAPD")
LENGTHS = st.lists(st.lists(st.sampled_from([0, 0, 0, 1, 2, 7]), min_size=4, max_size=4), min_size=11, max_size=11)
FLAG_SETS = st.sets(st.sampled_from(FLAGS))


def zone(lengths: list[list[int]] | dict[tuple[int, int], int]) -> Buddy:
    """Return a zone whose free lists have these lengths; nothing else of it is real."""
    state = buddies.new_buddy(1024)
    if isinstance(lengths, dict):
        for (order, kind), length in lengths.items():
            state.free_blocks[order, kind] = length
    else:
        state.free_blocks[:, :4] = lengths
    return state


def bits(flags: set[str], mark: str = "MIN") -> int:
    return sum(int(AllocFlag[flag]) for flag in flags) | int(AllocFlag[f"WMARK_{mark}"])


def free_of(state: Buddy) -> int:
    return int(buddies.free_frames(state))


@given(LENGTHS, FLAG_SETS, st.integers(0, 10), st.integers(-3, 3), st.sampled_from([0, 5, 300]), st.booleans())
def test_both_rules_agree_with_plain_python(
    lengths: list[list[int]], flags: set[str], order: int, distance: int, reserve: int, reserved: bool
) -> None:
    """Marks lie near what is free, where the answer turns."""
    state = zone(lengths)
    free = free_of(state)
    limits = watermark.new_limits(highatomic_reserved=512 * reserved, reserve_dma32=reserve)
    for part in (1, 2, 3, 4, 8, 64):
        mark = max(free * part // 4 // (1 if part < 8 else part) + distance, 0)
        got = watermark.zone_watermark_ok(state, limits, order, mark, ZoneIndex.DMA32, bits(flags), free)
        assert got == plain.ok(lengths, reserve, reserved, order, mark, flags)
        got = watermark.zone_watermark_ok_2_6_24(state, limits, order, mark, ZoneIndex.DMA32, bits(flags), free)
        assert got == plain.ok_2_6_24(lengths, reserve, order, mark, flags)


@given(LENGTHS, FLAG_SETS, st.integers(0, 3), st.sampled_from(["MIN", "LOW", "HIGH"]), st.data())
def test_the_fast_check_agrees_with_plain_python(
    lengths: list[list[int]], flags: set[str], order: int, mark: str, data: st.DataObject
) -> None:
    state = zone(lengths)
    free = free_of(state)
    near = st.sampled_from([0, free // 2, max(free - 513, 0), max(free - 1, 0), free, free + 1, 2 * free])
    marks = {name: data.draw(near) for name in ("min", "low", "high")}
    boost = data.draw(st.sampled_from([0, 512]))
    reserved = data.draw(st.booleans())
    limits = watermark.new_limits(**marks, boost=boost, highatomic_reserved=512 * reserved, reserve_normal=3)
    got = watermark.zone_watermark_fast(state, limits, order, ZoneIndex.NORMAL, bits(flags, mark), free)
    assert got == plain.fast(lengths, marks, boost, 3, reserved, order, mark.lower(), flags)


@given(st.integers(0, 9), st.sampled_from([0, 512, 1300, 5120]), st.integers(0, 4))
def test_boosts_add_up_to_their_cap(claims: int, most: int, before: int) -> None:
    boost = min(before * 512, most)
    limits = watermark.new_limits(boost=boost, boost_most=most)
    assert watermark.boost_watermark(limits, claims) == bool(most and claims)
    assert limits[Limit.BOOST] == plain.boosted(boost, most, claims)
    assert limits[Limit.BOOSTED] == bool(most and claims)


# By hand


def marks(**values: int) -> npt.NDArray[np.int64]:
    return watermark.new_limits(min=1000, low=1250, high=1500, **values)


@pytest.mark.parametrize(
    ("flags", "least"),
    [
        (set(), 1000),
        ({"MIN_RESERVE"}, 500),
        ({"NON_BLOCK"}, 1000),
        ({"MIN_RESERVE", "NON_BLOCK"}, 375),
        ({"OOM"}, 500),
        ({"MIN_RESERVE", "OOM"}, 250),
    ],
)
def test_how_far_each_request_may_dip(flags: set[str], least: int) -> None:
    """One frame: the mark itself is not enough, one more is."""
    for free, enough in ((least, False), (least + 1, True)):
        state = zone({(0, 1): free})
        assert watermark.zone_watermark_fast(state, marks(), 0, ZoneIndex.NORMAL, bits(flags), free) == enough
        above = zone({(0, 1): free + 30})
        kept = marks(reserve_normal=30)
        assert watermark.zone_watermark_fast(above, kept, 0, ZoneIndex.NORMAL, bits(flags), free + 30) == enough
        assert watermark.zone_watermark_fast(above, kept, 0, ZoneIndex.DMA32, bits(flags), free + 30)


def test_low_and_high_marks_and_the_boost() -> None:
    state = zone({(0, 1): 1251})
    for boost, answers in ((0, [True, True, False]), (1, [True, False, False]), (251, [False, False, False])):
        limits = marks(boost=boost)
        got = [
            watermark.zone_watermark_fast(state, limits, 0, ZoneIndex.NORMAL, bits(set(), mark), 1251)
            for mark in ("MIN", "LOW", "HIGH")
        ]
        assert got == answers
    # Only for one frame, with the reserve, at the min mark is a boost nothing.
    few = zone({(0, 1): 600, (4, 1): 1})
    boosted = marks(boost=5000)
    for order, mark, enough in ((0, "MIN", True), (1, "MIN", False), (0, "LOW", False)):
        flag = bits({"MIN_RESERVE"}, mark)
        assert watermark.zone_watermark_fast(few, boosted, order, ZoneIndex.NORMAL, flag, 616) == enough


def test_reserved_blocks_serve_those_who_may() -> None:
    """2000 frames are free, 1500 of them kept for atomic requests, and the only block of order 9 among them."""
    kinds = {(0, int(Migratetype.UNMOVABLE)): 500, (0, 3): 988, (9, 3): 1}
    state = zone(kinds)
    limits = marks(highatomic_reserved=1536)
    for order, flags, enough in (
        (0, set(), False),
        (0, {"HIGHATOMIC"}, True),
        (0, {"NON_BLOCK"}, True),
        (9, {"HIGHATOMIC"}, True),
        (9, {"OOM"}, True),
        (9, {"MIN_RESERVE"}, False),
        (10, {"HIGHATOMIC"}, False),
    ):
        answer = watermark.zone_watermark_fast(state, limits, order, ZoneIndex.NORMAL, bits(flags), 2000)
        assert answer == enough, (order, flags)


def test_blocks_being_isolated_serve_nobody() -> None:
    state = zone({(9, int(Migratetype.ISOLATE)): 9})
    assert not watermark.zone_watermark_ok(state, marks(), 9, 1, ZoneIndex.NORMAL, bits({"HIGHATOMIC"}), 9 * 512)


def test_in_2007_high_orders_were_refused_though_a_block_was_there() -> None:
    """4000 frames in single pages and one block of order 5: today it is handed out."""
    state = zone({(0, 1): 4000, (5, 1): 1})
    arguments = (marks(), 5, 1000, ZoneIndex.NORMAL, 0, 4032)
    assert watermark.zone_watermark_ok(state, *arguments)
    assert not watermark.zone_watermark_ok_2_6_24(state, *arguments)
    # With 33 such blocks 1056 - 31 frames are left at every step: above 500, 250 ... 31.
    state = zone({(0, 1): 4000, (5, 1): 33})
    assert watermark.zone_watermark_ok_2_6_24(state, marks(), 5, 1000, ZoneIndex.NORMAL, 0, 5056)


def test_limits_have_places_for_all_zones_and_types() -> None:
    assert Limit.RESERVE_DMA + ZoneIndex.MOVABLE == Limit.RESERVE_MOVABLE
    assert [Limit.MIN, Limit.LOW, Limit.HIGH] == [AllocFlag[f"WMARK_{name}"] for name in ("MIN", "LOW", "HIGH")]
    assert zone({}).free_blocks.shape == (ORDERS, TYPES)
    with pytest.raises(KeyError):
        watermark.new_limits(middle=1)
