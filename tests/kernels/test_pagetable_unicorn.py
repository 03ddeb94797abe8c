"""The walk kernel agrees with QEMU's MMU on every access of a share of the campaign."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.campaigns import pagetable_unicorn
from tests.campaigns.pagetable_unicorn import DEFAULTS, KINDS, SIZES, Tally
from tests.oracles.unicorn_mmu import NO_MEMORY, UnicornMmu, fetched_number, token, tokens
from vckernels.entry import Fault
from vckernels.pagetable import Control

SHARE = 0.02
ROOT = 0x100


@cache
def tally(levels: int) -> Tally:
    return pagetable_unicorn.campaign(levels, SHARE, seed=1)


@pytest.mark.parametrize("levels", [4, 5])
def test_no_disagreement(levels: int) -> None:
    result = tally(levels)
    assert result.disagreements == []
    assert result.accesses >= SHARE * 250_000


@pytest.mark.parametrize("levels", [4, 5])
def test_every_category_was_met(levels: int) -> None:
    counts = tally(levels).counts
    least = {f"mapped {size}": 200 for size in SIZES.values()}
    least |= {f"fault {fault.name}": 10 for fault in Fault if fault != Fault.NONE}
    least |= {f"fault RESERVED_BIT at level {level}": 5 for level in range(1, levels + 1)}
    least |= {f"not the default {name}": 250 for name in DEFAULTS}
    for mode in ("user", "supervisor"):
        for kind in KINDS:
            least |= {f"{mode} {kind} mapped {size}": 5 for size in SIZES.values()}
            least |= {f"{mode} {kind} fault {name}": 20 for name in ("NOT_PRESENT", "RESERVED_BIT", "NON_CANONICAL")}
        least |= {f"{mode} fetch fault FETCH": 20, f"{mode} write fault WRITE": 20}
    least |= {f"user {kind} fault USER": 20 for kind in KINDS}
    assert {name: counts[name] for name, minimum in least.items() if counts[name] < minimum} == {}


@pytest.mark.parametrize("levels", [4, 5])
def test_error_codes_of_all_faults_were_compared(levels: int) -> None:
    counts = tally(levels).counts
    assert counts["error codes compared"] == sum(counts[f"fault {fault.name}"] for fault in Fault)


def test_a_broken_kernel_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign is no empty ritual: with CPUID's physical address bits off by one it disagrees."""
    build = pagetable_unicorn.build

    def off_by_one(rng: np.random.Generator, levels: int) -> object:
        tables, regions = build(rng, levels)
        tables.control[Control.PHYSICAL_BITS] -= 1
        return tables, regions

    monkeypatch.setattr(pagetable_unicorn, "build", off_by_one)
    assert len(pagetable_unicorn.campaign(4, 0.005, seed=1).disagreements) > 0


def test_tokens_are_words_and_instructions() -> None:
    assert tokens(0x12_3456_7000, 16).tolist() == [token(0x12_3456_7000), token(0x12_3456_7008)]
    raw = token(0x12_3456_7008).to_bytes(8, "little")
    assert raw[0] == 0xB8
    assert int.from_bytes(raw[1:5], "little") == fetched_number(0x12_3456_7008)
    assert raw[5] == 0xCC
    assert token(0x12_3456_7008) & 1 == 0


def mmu_of_two_tables(levels: int) -> UnicornMmu:
    """Return an emulator whose root's word 0 leads through a chain of tables to 4K leaves."""
    frames = np.arange(ROOT, ROOT + levels)
    words = np.zeros((levels, 512), np.uint64)
    for row in range(levels - 1):
        words[row, 0] = (ROOT + row + 1) << 12 | 0x7
    words[levels - 1, :2] = (0x200 << 12 | 0x7, 0x300 << 12 | 0x3)
    mmu = UnicornMmu(frames, words, ROOT << 12, levels, [(0x200 << 12, 4096)])
    mmu.fill(0x200 << 12, 4096)
    return mmu


@pytest.mark.parametrize("levels", [4, 5])
def test_the_emulator_itself(levels: int) -> None:
    """A mapped page, a page without memory, a stale translation and its flush, as the SDM says."""
    mmu = mmu_of_two_tables(levels)
    leaf = (ROOT + levels - 1) << 12
    assert mmu.load(8, user=True).value == token(0x200 << 12 | 8)
    assert mmu.fetch(16).value == fetched_number(0x200 << 12 | 16)
    assert mmu.read(leaf) == 0x200 << 12 | 0x27
    assert mmu.store(24, 5).vector is None
    assert mmu.read(0x200 << 12 | 24) == 5
    assert mmu.read(leaf) == 0x200 << 12 | 0x67
    assert mmu.load(4096).vector == NO_MEMORY
    assert mmu.load(4096, user=True) == (14, 4096, None, 0b101)
    mmu.write(leaf, 0)
    assert mmu.load(8).vector is None
    mmu.flush()
    assert mmu.load(8) == (14, 8, None, 0)
    assert mmu.fetch(8, user=True) == (14, 8, None, 0b10100)
    assert mmu.store(1 << 62, 0) == (13, None, None, 0)
    mmu.control(smep=True, smap=True)
    mmu.write(leaf, 0x200 << 12 | 0x7)
    assert mmu.load(8) == (14, 8, None, 0b1)
    assert mmu.fetch(8) == (14, 8, None, 0b10001)


def test_the_emulator_needs_one_unused_root_word() -> None:
    with pytest.raises(ValueError, match="no unused word"):
        UnicornMmu(np.array([ROOT]), np.ones((1, 512), np.uint64), ROOT << 12, 4)
    mmu = UnicornMmu(np.array([ROOT]), np.zeros((1, 512), np.uint64), ROOT << 12, 4)
    with pytest.raises(ValueError, match="in use"):
        mmu.set_tables(np.ones((1, 512), np.uint64))
