"""One CPU's MMU built from a preset, and exact TLB miss counts for any geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vckernels import mmu as mmu_kernels
from vckernels import tlb as tlb_kernels
from vckernels.mmu import Target
from vckernels.pagetable import PageTables
from vclab.errors import ConfigurationError
from vclab.presets import CpuPreset
from vclab.state import copied
from vclab.units import page_level


@dataclass(frozen=True)
class TlbLevel:
    """Geometry of one TLB level: ``entries`` in sets of ``ways``; sets need not be a power of two.

    Raises
    ------
    ConfigurationError
        If the ways do not divide the entries.
    """

    entries: int
    ways: int

    def __post_init__(self) -> None:
        if self.ways < 1 or self.entries < 1 or self.entries % self.ways:
            raise ConfigurationError(
                f"a TLB level of {self.entries} entries in {self.ways} ways has no whole number of sets; "
                "entries must be a multiple of ways"
            )


def tlb_misses(page_numbers: npt.ArrayLike, levels: Sequence[TlbLevel]) -> npt.NDArray[np.int64]:
    """Count the misses of each TLB level for a sequence of pages of one size.

    Exact LRU; set = page number mod (entries / ways). The TLB starts empty, a miss fills every level that missed,
    and a level's recency is touched only by what reaches it.

    Parameters
    ----------
    page_numbers : array_like of int
        Pages in order of access, 0 or more, below 2**52.
    levels : sequence of TlbLevel
        First level first.

    Returns
    -------
    ndarray
        int64[levels], misses.

    Examples
    --------
    >>> tlb_misses([0, 1, 2, 0], [TlbLevel(entries=2, ways=2), TlbLevel(entries=4, ways=4)])
    array([4, 3])
    """
    if not levels:
        raise ConfigurationError("tlb_misses got no levels; give at least one TlbLevel")
    numbers = np.asarray(page_numbers)
    if numbers.size and (numbers.dtype.kind not in "iu" or int(numbers.min()) < 0 or int(numbers.max()) >= 1 << 52):
        raise ConfigurationError("page numbers must be whole numbers from 0 to 2**52 - 1")
    pages = np.ascontiguousarray(numbers, np.int64).ravel()
    arrays = [
        tlb_kernels.Array(number, level.entries // level.ways, level.ways, (1,))
        for number, level in enumerate(levels, start=1)
    ]
    misses = np.zeros(len(levels), np.int64)
    tlb_kernels.count_misses(tlb_kernels.new_tlb(len(levels), arrays), pages, misses)
    return misses


class Mmu:
    """TLBs and page walks of one CPU, with everything they counted.

    Parameters
    ----------
    cpu : CpuPreset
        Geometry.
    """

    def __init__(self, cpu: CpuPreset) -> None:
        self.cpu = cpu
        arrays = [
            tlb_kernels.Array(
                array.level,
                array.sets,
                array.ways.value,
                tuple(page_level(size) for size in array.page_sizes.value),
            )
            for array in cpu.tlb
        ]
        self.levels = max(array.level for array in cpu.tlb)
        self.state = mmu_kernels.new_mmu(tlb_kernels.new_tlb(self.levels, arrays))

    @property
    def counters(self) -> npt.NDArray[np.int64]:
        """Events by cause so far, int64[COUNTERS]."""
        return self.state.counters

    def access(self, tables: PageTables, target: Target, offsets: npt.NDArray[np.int64], write: bool) -> None:
        """Run a stream through the MMU; state and counters go on from what they were."""
        mmu_kernels.access(self.state, tables, target, offsets, write)

    def flush(self) -> None:
        """Empty the TLBs."""
        mmu_kernels.flush_all(self.state)

    def invalidate(self, address: int, pages: int) -> None:
        """Drop 4K entries of an address range, as INVLPG for each page does."""
        mmu_kernels.invalidate_range(self.state, np.uint64(address), pages, 1)

    def reach(self, page_size: str = "4K") -> list[int]:
        """Return the bytes that each level can map with pages of one size; 0 where it holds none."""
        size = 1 << (12 + 9 * (page_level(page_size) - 1))
        return [
            size * sum(a.entries.value for a in self.cpu.tlb if a.level == level and page_size in a.page_sizes.value)
            for level in range(1, self.levels + 1)
        ]

    def copy(self) -> Mmu:
        """Return an independent MMU in the same state."""
        twin = object.__new__(Mmu)
        twin.cpu = self.cpu
        twin.levels = self.levels
        twin.state = copied(self.state)
        return twin
