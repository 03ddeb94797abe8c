"""Page-table words: positions, leaves, reserved bits and error codes, against the manual's tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import pagetable as plain
from vckernels import entry
from vckernels.entry import Fault

words = st.integers(0, (1 << 64) - 1)
leaf_levels = st.sampled_from([1, 2, 3])
levels = st.integers(1, 5)


def test_bits_stand_where_the_manual_puts_them() -> None:
    names = ("PRESENT", "WRITABLE", "USER", "WRITE_THROUGH", "CACHE_DISABLE", "ACCESSED", "DIRTY", "PAT", "GLOBAL")
    assert [int(getattr(entry, name)) for name in names] == [1 << number for number in range(9)]
    assert int(entry.LARGE) == 1 << 7
    assert int(entry.PAT_LARGE) == 1 << 12
    assert int(entry.NO_EXECUTE) == 1 << 63
    assert int(entry.ADDRESS_BITS) == sum(1 << number for number in range(12, 52))
    # Linux __PAGE_KERNEL with _PAGE_GLOBAL: RW, accessed, dirty, global, NX.
    assert int(entry.KERNEL_LEAF) == 0x8000_0000_0000_0163


@settings(deadline=None, max_examples=200)
@given(address=words, level=levels)
def test_table_index(address: int, level: int) -> None:
    assert entry.level_shift(level) == {1: 12, 2: 21, 3: 30, 4: 39, 5: 48}[level]
    assert entry.table_index(np.uint64(address), level) == address // 4096 // 512 ** (level - 1) % 512


@settings(deadline=None, max_examples=300)
@given(data=st.data(), level=leaf_levels, pat=st.booleans(), upper=st.integers(0, 0x7FF), lower=st.integers(0, 127))
def test_leaf_and_back(data: st.DataObject, level: int, pat: bool, upper: int, lower: int) -> None:
    unit = 512 ** (level - 1)
    frame = unit * data.draw(st.integers(0, ((1 << 40) - 1) // unit))
    flags = lower | pat << 7 | (upper & 1) << 8 | upper >> 1 << 53
    word = int(entry.leaf(frame, level, np.uint64(flags)))
    assert word & ~(1 << 7 | 1 << 12) & ~(((1 << 40) - 1) // unit * unit << 12) == flags & ~(1 << 7)
    assert entry.leaf_frame(np.uint64(word), level) == frame
    assert bool(entry.is_leaf(np.uint64(word), level))
    if level == 1:
        assert word >> 7 & 1 == pat
    else:
        assert word >> 7 & 1 == 1
        assert word >> 12 & 1 == pat


@settings(deadline=None, max_examples=200)
@given(word=words, level=levels)
def test_a_word_is_a_leaf_by_its_level_and_bit_7(word: int, level: int) -> None:
    expected = {1: True, 2: word >> 7 & 1 == 1, 3: word >> 7 & 1 == 1, 4: False, 5: False}[level]
    assert bool(entry.is_leaf(np.uint64(word), level)) == expected
    assert entry.frame_of(np.uint64(word)) == word >> 12 & ((1 << 40) - 1)


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("physical_bits", [36, 40, 46, 52])
def test_reserved_bits_one_by_one(level: int, physical_bits: int) -> None:
    for gigabyte_pages, no_execute, large in itertools.product((False, True), repeat=3):
        rules = plain.Rules(5, physical_bits, gigabyte_pages, no_execute)
        found = set()
        for number in range(64):
            word = np.uint64(1 << number | 1 | large << 7)
            found |= {
                bit
                for bit in range(64)
                if int(entry.reserved_bits(word, level, physical_bits, gigabyte_pages, no_execute)) >> bit & 1
            }
        expected = {number for number in range(64) if number in plain.must_be_zero(1 | large << 7, level, rules)}
        reached = expected if large else expected | (plain.must_be_zero(0x81, level, rules) & {7})
        assert found == reached, (gigabyte_pages, no_execute, large)


@settings(deadline=None, max_examples=500)
@given(word=words, level=levels, physical_bits=st.integers(36, 52), switches=st.tuples(st.booleans(), st.booleans()))
def test_reserved_bits_of_any_word(word: int, level: int, physical_bits: int, switches: tuple[bool, bool]) -> None:
    forbidden = plain.must_be_zero(word, level, plain.Rules(5, physical_bits, *switches))
    expected = sum(1 << number for number in forbidden if word >> number & 1)
    assert int(entry.reserved_bits(np.uint64(word), level, physical_bits, *switches)) == expected


def test_error_codes() -> None:
    for fault, switches in itertools.product(Fault, itertools.product((False, True), repeat=5)):
        write, user, fetch, no_execute, smep = switches
        if write and fetch:
            continue
        rules = plain.Rules(no_execute=no_execute, smep=smep)
        faults = frozenset() if fault == Fault.NONE else frozenset({fault.name})
        expected = plain.error_code(faults, rules, write=write, user=user, fetch=fetch)
        assert entry.error_code(int(fault), write, user, fetch, no_execute, smep) == expected


@pytest.mark.parametrize(
    ("fault", "access", "code"),
    [
        (Fault.NOT_PRESENT, (False, False, False), 0b00000),
        (Fault.NOT_PRESENT, (True, True, False), 0b00110),
        (Fault.WRITE, (True, False, False), 0b00011),
        (Fault.USER, (False, True, False), 0b00101),
        (Fault.RESERVED_BIT, (False, False, False), 0b01001),
        (Fault.FETCH, (False, True, True), 0b10101),
        (Fault.NON_CANONICAL, (True, True, False), 0),
    ],
)
def test_error_codes_by_hand(fault: Fault, access: tuple[bool, bool, bool], code: int) -> None:
    assert entry.error_code(int(fault), *access, True, False) == code
