"""A kernel MMU over kernel page tables, and the plain ones, side by side: every call goes to both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.oracles import mmu as oracle
from tests.oracles.mmu import Background, CompleteMmu, PlainLevel, PlainStructure
from tests.oracles.pagetable import Rules
from tests.oracles.tlb import PlainArray, PlainMmu, PlainTlb
from vckernels import datacache, entry, mmu, pagetable, prefetch, tlb, walkcache
from vckernels.causes import Cause, Status

EVENTS = (
    Cause.DATA_ACCESS,
    Cause.PAGE_ARRAY_ACCESS,
    Cause.FIRST_LEVEL_TLB_HIT,
    Cause.SECOND_LEVEL_TLB_HIT,
    Cause.WALK,
    Cause.WALK_REFERENCE,
    Cause.TLB_FAULT,
)
FRAMES = 1 << 16
PIECE = 1 << 12


def new_tlb(arrays: Sequence[PlainArray]) -> tlb.Tlb:
    """Return the kernel's TLB of these arrays."""
    levels = max(array.level for array in arrays)
    return tlb.new_tlb(levels, [tlb.Array(*array) for array in arrays])


def new_plain_tlb(arrays: Sequence[PlainArray]) -> PlainTlb:
    """Return the plain TLB of these arrays."""
    return PlainTlb(max(array.level for array in arrays), arrays)


class Machine:
    """One CPU over one tree of page tables, twice.

    Attributes
    ----------
    bases : list of int
        Addresses of all 4 KiB pieces of what :meth:`map` mapped, in that order: offset ``o`` of :meth:`access` lies
        in piece ``o // 4096``.
    """

    def __init__(self, arrays: Sequence[PlainArray], table_levels: int = 4, capacity: int = 4096) -> None:
        self.mmu = mmu.new_mmu(
            new_tlb(arrays), walkcache.new_walk_cache([]), datacache.new_data_cache([datacache.Level(64, 8)] * 2)
        )
        self.plain = PlainMmu(new_plain_tlb(arrays), table_levels)
        self.tables = pagetable.new_page_tables(0, 0, FRAMES, table_levels, 46, True, capacity)
        self.free_frame = 1
        self.bases: list[int] = []

    def map(self, address: int, page_level: int, count: int, *, writable: bool = True, pieces: bool = True) -> None:
        """Map pages of a size from an address on."""
        size = 1 << (9 * (page_level - 1))
        frames = np.arange(count, dtype=np.int64) * size
        flags = entry.KERNEL_LEAF if writable else entry.KERNEL_LEAF & ~entry.WRITABLE
        needed = pagetable.survey(self.tables, np.uint64(address), count, page_level)
        assert needed >= 0
        new = np.arange(self.free_frame, self.free_frame + needed, dtype=np.int64)
        self.free_frame += needed
        pagetable.map_range(self.tables, np.uint64(address), frames, page_level, flags, entry.KERNEL_TABLE, new)
        self.plain.map(address, page_level, count, writable)
        if pieces:
            self.bases += [address + PIECE * piece for piece in range(count * size)]

    def unmap(self, address: int, page_level: int, count: int) -> int:
        """Clear leaves and drop their translations; return how many TLB entries went."""
        frames = np.empty(count, np.int64)
        assert pagetable.unmap_range(self.tables, np.uint64(address), count, page_level, frames) == Status.OK
        self.plain.unmap(address, page_level, count)
        return self.invalidate(address, page_level, count)

    def invalidate(self, address: int, page_level: int, count: int) -> int:
        """Drop the translations of pages of a size; return how many TLB entries went."""
        dropped = mmu.invalidate_range(self.mmu, np.uint64(address), count, page_level)
        first = address >> (3 + 9 * page_level)
        expected = sum(self.plain.tlb.invalidate(first + number, page_level) for number in range(count))
        assert dropped == expected
        return expected

    def flush(self) -> None:
        """Forget all translations."""
        mmu.flush_all(self.mmu)
        self.plain.tlb.flush()

    def access(
        self,
        offsets: npt.NDArray[np.int64],
        write: bool = False,
        bases: Sequence[int] | None = None,
        piece: int = PIECE,
        arrays: Sequence[int] = (),
        array_piece: int = 1,
    ) -> None:
        """Access offsets, by default of everything mapped."""
        bases = self.bases if bases is None else bases
        target = mmu.Target(
            np.array(bases, np.uint64),
            piece.bit_length() - 1,
            np.array(arrays, np.uint64),
            array_piece.bit_length() - 1,
        )
        mmu.access(self.mmu, self.tables, target, np.asarray(offsets, np.int64), write, mmu.nothing_beside())
        self.plain.access(bases, piece, offsets.tolist(), write, arrays, array_piece)

    def counts(self) -> dict[str, int]:
        """Return the events of the kernel's MMU, by cause."""
        return {cause.name: int(self.mmu.counters[cause]) for cause in EVENTS}

    def expected(self) -> dict[str, int]:
        """Return the events of the plain MMU, by cause."""
        return {cause.name: self.plain.events[cause.name] for cause in EVENTS}

    def check(self) -> dict[str, int]:
        """Compare the events of both, and return them."""
        counts = self.counts()
        assert counts == self.expected()
        assert counts["DATA_ACCESS"] + counts["PAGE_ARRAY_ACCESS"] == sum(
            counts[name] for name in ("FIRST_LEVEL_TLB_HIT", "SECOND_LEVEL_TLB_HIT", "WALK")
        )
        return counts


class Geometry(NamedTuple):
    """A CPU: TLB arrays, paging-structure caches (tagged with physical addresses or not) and data caches."""

    arrays: Sequence[PlainArray]
    structures: Sequence[PlainStructure] = ()
    physical_tags: bool = False
    levels: Sequence[PlainLevel] = (PlainLevel(64, 8), PlainLevel(512, 8))
    table_levels: int = 4


ADJACENT = {
    oracle.NO_NEIGHBOUR: prefetch.Adjacent.NONE,
    oracle.PAIR: prefetch.Adjacent.PAIR,
    oracle.BY_HISTORY: prefetch.Adjacent.HISTORY,
}
MODES = {
    "physical": mmu.DataMode.PHYSICAL,
    "colour-neutral": mmu.DataMode.COLOUR_NEUTRAL,
    "first-level": mmu.DataMode.FIRST_LEVEL,
}
COMPLETE_EVENTS = [
    *(cause for cause in Cause if Cause.DATA_ACCESS <= cause <= Cause.PREFETCH_REFERENCE),
    Cause.BACKGROUND_ACCESS,
]
PHYSICAL_BITS = 46
MOST_FRAMES_SHIFT = 24
"""Binary logarithm of the frames that data may lie in."""


class Neighbour:
    """Other work on a CPU, twice: one load of 4 KiB pieces after every ``gap`` accesses of a stream."""

    def __init__(self, bases: Sequence[int], offsets: Sequence[int], gap: int) -> None:
        target = mmu.no_target()._replace(bases=np.array(bases, np.uint64), shift=PIECE.bit_length() - 1)
        counters = np.zeros(len(Cause), np.int64)
        self.kernel = mmu.Beside(target, np.array(offsets, np.int64), gap, np.zeros(2, np.int64), counters)
        self.plain = Background(bases, PIECE, offsets, gap)

    def check(self) -> dict[str, int]:
        """Compare the events of both, and return them."""
        counts = {cause.name: int(self.kernel.counters[cause]) for cause in COMPLETE_EVENTS}
        different = {
            name: (count, self.plain.events[name]) for name, count in counts.items() if count != self.plain.events[name]
        }
        assert not different, f"kernel and plain counts of other work: {different}"
        return counts


class CompleteMachine:
    """One CPU with all its caches over one tree of page tables, twice; every call goes to both.

    Tables lie in frames drawn at random, as ``seed`` says, from the lowest ``FRAMES``.
    """

    def __init__(self, geometry: Geometry, seed: int = 0, capacity: int = 1024) -> None:
        self.geometry = geometry
        self.mmu = mmu.new_mmu(
            new_tlb(geometry.arrays),
            walkcache.new_walk_cache(
                [walkcache.Structure(*structure) for structure in geometry.structures], geometry.physical_tags
            ),
            datacache.new_data_cache([datacache.Level(*level) for level in geometry.levels]),
        )
        self.table_frames = np.random.default_rng(seed).permutation(FRAMES)
        root = int(self.table_frames[0])
        self.tables = pagetable.new_page_tables(root, 0, FRAMES, geometry.table_levels, PHYSICAL_BITS, True, capacity)
        self.plain = CompleteMmu(
            new_plain_tlb(geometry.arrays),
            geometry.structures,
            geometry.physical_tags,
            geometry.levels,
            Rules(geometry.table_levels, PHYSICAL_BITS),
            root,
        )
        self.plain.set_memory(self.kernel_memory())
        unit = math.lcm(*(level.sets for level in geometry.levels)) << 8
        self.neutral_base = -(-(1 << MOST_FRAMES_SHIFT + 6) // unit) * unit
        self.set("physical")

    def set(
        self,
        mode: str = "physical",
        *,
        free_translation: bool = False,
        stream_lines: int = 0,
        next_page: bool = False,
        adjacent: str = "none",
    ) -> None:
        """Change the settings; what is not given is off."""
        self.plain.mode = mode
        self.plain.free_translation = free_translation
        self.plain.stream_lines = stream_lines
        self.plain.next_page = next_page
        self.plain.adjacent = adjacent
        self.plain.neutral_base = self.neutral_base
        control = self.mmu.control
        control[mmu.Control.DATA_MODE] = MODES[mode]
        control[mmu.Control.FREE_TRANSLATION] = free_translation
        control[mmu.Control.STREAM_LINES] = stream_lines
        control[mmu.Control.NEXT_PAGE] = next_page
        control[mmu.Control.ADJACENT] = ADJACENT[adjacent]
        control[mmu.Control.NEUTRAL_BASE] = self.neutral_base

    def map(
        self,
        address: int,
        page_level: int,
        frames: Sequence[int] | npt.NDArray[np.int64],
        *,
        leaf_flags: np.uint64 = entry.KERNEL_LEAF,
        table_flags: np.uint64 = entry.KERNEL_TABLE,
    ) -> int:
        """Map pages of a size by their first frames from an address on; return how many tables that took."""
        needed = int(pagetable.survey(self.tables, np.uint64(address), len(frames), page_level))
        assert needed >= 0
        used = int(self.tables.control[pagetable.Control.TABLES])
        assert used + needed <= len(self.tables.words)
        new = self.table_frames[used : used + needed]
        pagetable.map_range(
            self.tables, np.uint64(address), np.asarray(frames, np.int64), page_level, leaf_flags, table_flags, new
        )
        self.plain.set_memory(self.kernel_memory())
        return needed

    def unmap(self, address: int, page_level: int, count: int) -> None:
        """Clear leaves and drop their translations."""
        frames = np.empty(count, np.int64)
        assert pagetable.unmap_range(self.tables, np.uint64(address), count, page_level, frames) == Status.OK
        self.plain.set_memory(self.kernel_memory())
        self.invalidate(address, page_level, count)

    def invalidate(self, address: int, page_level: int, count: int) -> None:
        """Drop the translations of pages of a size."""
        dropped = mmu.invalidate_range(self.mmu, np.uint64(address), count, page_level)
        expected = self.plain.invalidate(address, count, page_level)
        assert dropped == expected, f"dropped {dropped} entries, {expected} by the plain MMU"

    def flush(self) -> None:
        """Forget all translations."""
        mmu.flush_all(self.mmu)
        self.plain.flush()

    def access(
        self,
        offsets: Sequence[int] | npt.NDArray[np.int64],
        write: bool = False,
        *,
        bases: Sequence[int],
        piece: int = PIECE,
        arrays: Sequence[int] = (),
        array_piece: int = 1,
        beside: Neighbour | None = None,
    ) -> None:
        """Access offsets of pieces, with other work between them or not."""
        target = mmu.Target(
            np.array(bases, np.uint64),
            piece.bit_length() - 1,
            np.array(arrays, np.uint64),
            array_piece.bit_length() - 1,
        )
        numbers = np.asarray(offsets, np.int64)
        other = mmu.nothing_beside() if beside is None else beside.kernel
        mmu.access(self.mmu, self.tables, target, numbers, write, other)
        plain = None if beside is None else beside.plain
        self.plain.access(bases, piece, numbers.tolist(), write, arrays, array_piece, plain)

    def kernel_memory(self) -> dict[int, list[int]]:
        """Return the words of the kernel's page tables by frame."""
        used = int(self.tables.control[pagetable.Control.TABLES])
        return dict(zip(self.tables.frames[:used].tolist(), self.tables.words[:used].tolist(), strict=True))

    def counts(self) -> dict[str, int]:
        """Return the events of the kernel's MMU, by cause."""
        return {cause.name: int(self.mmu.counters[cause]) for cause in COMPLETE_EVENTS}

    def expected(self) -> dict[str, int]:
        """Return the events of the plain MMU, by cause."""
        return {cause.name: self.plain.events[cause.name] for cause in COMPLETE_EVENTS}

    def check(self) -> dict[str, int]:
        """Compare the events and page-table words of both, and return the events."""
        counts = self.counts()
        different = {name: (counts[name], count) for name, count in self.expected().items() if count != counts[name]}
        assert not different, f"kernel and plain counts: {different}"
        assert set(self.plain.events) <= set(counts)
        assert self.kernel_memory() == self.plain.memory, "page-table words differ"
        return counts
