"""Pages and reclaim's lists against plain Python, and what may not be done to them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.kernels.pagedzones import PagedPair, random_page
from tests.oracles.pages import PlainPage
from vckernels import buddy as kernels
from vckernels import freeing, pages
from vckernels.causes import Cause, Status
from vckernels.pages import Lru


class Histories(RuleBasedStateMachine):
    """Pages come, are used, locked, held, split and freed, rightly or wrongly."""

    @initialize(frames=st.sampled_from([64, 700, 1024]), split_lists=st.booleans())
    def boot(self, frames: int, split_lists: bool) -> None:
        self.pair = PagedPair(frames, split_lists=split_lists)

    @rule(order=st.integers(0, 10) | st.integers(0, 2), seed=st.integers(0, 1 << 16))
    def new_page(self, order: int, seed: int) -> None:
        self.pair.new_page(order, random_page(random.Random(seed)))

    @rule(order=st.integers(0, 4))
    def kernel_block(self, order: int) -> None:
        self.pair.allocate(order, 0)

    frames = st.integers(-5, 1100)

    @rule(frame=frames, what=st.sampled_from(["activate", "deactivate", "mark_used", "release"]))
    def anything(self, frame: int, what: str) -> None:
        getattr(self.pair, what)(frame)

    @precondition(lambda self: self.pair.listed)
    @rule(data=st.data(), what=st.sampled_from(["activate", "deactivate", "mark_used", "mark_used"]))
    def use(self, data: st.DataObject, what: str) -> None:
        assert getattr(self.pair, what)(data.draw(st.sampled_from(self.pair.listed))) == "OK"

    @precondition(lambda self: self.pair.listed)
    @rule(data=st.data(), locked=st.booleans())
    def lock(self, data: st.DataObject, locked: bool) -> None:
        assert self.pair.lock(data.draw(st.sampled_from(self.pair.listed)), locked) == "OK"

    @precondition(lambda self: self.pair.listed)
    @rule(data=st.data(), write=st.booleans())
    def touch(self, data: st.DataObject, write: bool) -> None:
        self.pair.touch(data.draw(st.lists(st.sampled_from(self.pair.listed), max_size=5)), write)

    @precondition(lambda self: self.pair.listed)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        self.pair.hold(data.draw(st.sampled_from(self.pair.listed)))

    @precondition(lambda self: self.pair.held)
    @rule(data=st.data(), tail=st.booleans(), split=st.booleans())
    def put_back(self, data: st.DataObject, tail: bool, split: bool) -> None:
        frame = data.draw(st.sampled_from(self.pair.held))
        if split:
            self.pair.split_held(frame)
        self.pair.put(frame, tail)

    @precondition(lambda self: self.pair.plain_pages.pages)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        assert self.pair.release(data.draw(st.sampled_from(list(self.pair.plain_pages.pages)))) == "OK"

    @invariant()
    def same(self) -> None:
        self.pair.check()


Histories.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
TestHistories = Histories.TestCase


def test_new_pages_come_to_the_head_of_the_list_of_their_kind() -> None:
    pair = PagedPair(64)
    kinds = {
        Lru.INACTIVE_ANONYMOUS: PlainPage(0, anonymous=True),
        Lru.ACTIVE_ANONYMOUS: PlainPage(1, anonymous=True, active=True),
        Lru.INACTIVE_FILE: PlainPage(2),
        Lru.ACTIVE_FILE: PlainPage(3, active=True, dirty=True),
        Lru.UNEVICTABLE: PlainPage(4, anonymous=True, active=True, locked=True),
    }
    for number, (chosen, page) in enumerate(kinds.items()):
        assert pair.new_page(0, page) == number
        assert pair.read_lru(chosen) == [number]
    assert pair.new_page(3, PlainPage(9)) == 8
    assert pair.read_lru(Lru.INACTIVE_FILE) == [8, 2]
    assert pair.pages.lengths.tolist() == [1, 1, 9, 1, 1, 3]
    pair.check()


def test_before_2_6_28_kinds_share_two_lists() -> None:
    pair = PagedPair(64, split_lists=False)
    pair.new_page(0, PlainPage(0, anonymous=True))
    pair.new_page(0, PlainPage(1, locked=True))
    pair.new_page(0, PlainPage(2, anonymous=True, active=True))
    pair.new_page(0, PlainPage(3, active=True))
    assert pair.read_lru(Lru.INACTIVE_FILE) == [1, 0]
    assert pair.read_lru(Lru.ACTIVE_FILE) == [3, 2]
    pair.check()


def test_a_file_page_is_active_after_two_uses_and_forgets_them() -> None:
    pair = PagedPair(64)
    frame = pair.new_page(2, PlainPage(5))
    pair.mark_used(frame)
    assert pair.read_lru(Lru.INACTIVE_FILE) == [frame]
    pair.mark_used(frame)
    assert pair.read_lru(Lru.ACTIVE_FILE) == [frame]
    assert not pair.plain_pages.pages[frame].referenced
    assert pair.buddy.counters[Cause.PAGE_ACTIVATION] == 4
    # A use more is noticed; deactivation forgets it.
    pair.mark_used(frame)
    pair.deactivate(frame)
    assert pair.pages.flags[frame] == pages.ON_LRU
    pair.check()


def test_refusals_change_nothing() -> None:
    pair = PagedPair(64)
    kernel = pair.allocate(1, 0)
    frame = pair.new_page(2, PlainPage(1))
    before = [array.copy() for array in (*pair.buddy, *pair.pages)]
    add = [
        (frame, 1, 0, Status.ON_LIST),
        (frame + 1, 1, 0, Status.NOT_ALLOCATED),
        (-1, 1, 0, Status.NOT_ALLOCATED),
        (64, 1, 0, Status.NOT_ALLOCATED),
        (kernel, -1, 0, Status.OUT_OF_RANGE),
        (kernel, (1 << 31) - 1, 0, Status.OUT_OF_RANGE),
        (kernel, 1, pages.ON_LRU, Status.OUT_OF_RANGE),
        (kernel, 1, 256, Status.OUT_OF_RANGE),
    ]
    for at, owner, flags, status in add:
        assert pages.add_page(pair.buddy, pair.pages, at, owner, flags) == status
    for at in (kernel, frame + 1, 40, -1, 64, 1 << 40):
        for what in (pages.activate_page, pages.deactivate_page, pages.mark_used):
            assert what(pair.buddy, pair.pages, at) == Status.NOT_ON_LIST
        assert pages.lock_page(pair.buddy, pair.pages, at, True) == Status.NOT_ON_LIST
    assert freeing.release_page(pair.buddy, pair.pages, 40, False) == Status.NOT_ALLOCATED
    for old, new in zip(before, (*pair.buddy, *pair.pages), strict=True):
        np.testing.assert_array_equal(old, new)
    assert pages.add_page(pair.buddy, pair.pages, kernel, (1 << 31) - 2, 0) == Status.OK


@pytest.mark.parametrize(
    ("array", "place", "value", "answer"),
    [
        ("flags", 1, 4, 1),
        ("flags", 40, 64, 1),
        ("flags", 0, pages.ANONYMOUS | pages.ON_LRU, 2),
        ("flags", 0, 0, 2),
        ("lengths", 2, 3, 3),
    ],
)
def test_the_audit_finds_damage(array: str, place: int, value: int, answer: int) -> None:
    pair = PagedPair(64)
    pair.new_page(1, PlainPage(0))
    pair.check()
    getattr(pair.pages, array)[place] = value
    assert pages.audit_pages(pair.buddy, pair.pages) == answer


def test_the_audit_misses_no_page_that_is_on_no_list() -> None:
    pair = PagedPair(64)
    pair.pages.flags[pair.allocate(0, 1)] = pages.ON_LRU
    assert pages.audit_pages(pair.buddy, pair.pages) == 4


def test_a_frame_takes_14_bytes_with_its_page() -> None:
    frames = 1 << 16
    zone, data = kernels.new_buddy(frames, lists=pages.LRU_LISTS), pages.new_pages(frames)
    assert sum(array.nbytes for array in (*zone, *data)) <= 14.2 * frames
