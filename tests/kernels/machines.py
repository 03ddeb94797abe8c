"""A kernel MMU over kernel page tables, and the plain ones, side by side: every call goes to both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tests.oracles.tlb import PlainArray, PlainMmu, PlainTlb
from vckernels import entry, mmu, pagetable, tlb
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
        self.mmu = mmu.new_mmu(new_tlb(arrays))
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
        mmu.access(self.mmu, self.tables, target, np.asarray(offsets, np.int64), write)
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
