"""One CPU's MMU built from a preset, and exact TLB miss counts for any geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vckernels import datacache, walkcache
from vckernels import mmu as mmu_kernels
from vckernels import tlb as tlb_kernels
from vckernels.causes import Cause
from vckernels.mmu import Beside, Control, DataMode, Target
from vckernels.pagetable import PageTables
from vckernels.prefetch import LINES_IN_PAGE, Adjacent, Slot
from vclab.errors import ConfigurationError
from vclab.presets import CpuPreset
from vclab.state import copied
from vclab.units import PAGE_BYTES, page_level


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


#: Names of the ways in which data accesses can meet the data caches; see :class:`vckernels.mmu.DataMode`.
DATA_CACHES = {
    "physical": DataMode.PHYSICAL,
    "colour-neutral": DataMode.COLOUR_NEUTRAL,
    "first-level": DataMode.FIRST_LEVEL,
}
_NOTHING = mmu_kernels.nothing_beside()
_ENTRY_LEVELS = {"PDE": 2, "PDPTE": 3, "PML4E": 4, "PML5E": 5}


@dataclass(frozen=True)
class MmuOptions:
    """What of an MMU is modelled; the defaults are the machine as it is, the others are controls.

    Attributes
    ----------
    data_caches : str
        "physical": indexed by physical address. "colour-neutral": data is indexed by page offset and number of the
        page in the working set, so that which frames it has makes no difference. "first-level": every data access
        costs a first-level hit. Walks and page arrays go by physical address through the caches in any case.
    free_translation : bool
        Addresses are translated at no cost: no TLB, no walk.
    prefetch : bool
        The preset's prefetchers are on.
    """

    data_caches: str = "physical"
    free_translation: bool = False
    prefetch: bool = True

    def __post_init__(self) -> None:
        if self.data_caches not in DATA_CACHES:
            raise ConfigurationError(
                f"data caches {self.data_caches!r} do not exist; there are {', '.join(DATA_CACHES)}"
            )


def tlb_entries(cpu: CpuPreset, page_size: str) -> list[int]:
    """Return how many pages of one size each TLB level of a CPU can hold."""
    levels = max(array.level for array in cpu.tlb)
    return [
        sum(array.entries.value for array in cpu.tlb if array.level == level and page_size in array.page_sizes.value)
        for level in range(1, levels + 1)
    ]


class Mmu:
    """TLBs, paging-structure caches and data caches of one CPU, with everything they counted.

    Parameters
    ----------
    cpu : CpuPreset
        Geometry.
    frames : int
        4 KiB frames of the machine, from physical address 0 on.
    options : MmuOptions
        What is modelled.
    """

    def __init__(self, cpu: CpuPreset, frames: int, options: MmuOptions | None = None) -> None:
        self.cpu = cpu
        self.levels = max(array.level for array in cpu.tlb)
        tlb = [
            tlb_kernels.Array(
                array.level,
                array.sets,
                array.ways.value,
                tuple(page_level(size) for size in array.page_sizes.value),
                hash_shift=array.hash_shift.value if array.hash_shift else 0,
                directories=array.has_directories,
            )
            for array in cpu.tlb
        ]
        structures = [
            walkcache.Structure(cache.sets, cache.ways.value, tuple(_ENTRY_LEVELS[name] for name in cache.holds.value))
            for cache in cpu.walk_cache
        ]
        levels = [
            datacache.Level(
                cache.sets,
                cache.ways.value,
                cache.hash_bits.value if cache.hash_bits else 0,
                cache.fill.value == "victim",
                cache.hash_shift.value if cache.hash_shift else 0,
            )
            for cache in cpu.data_cache
        ]
        self.state = mmu_kernels.new_mmu(
            tlb_kernels.new_tlb(self.levels, tlb),
            walkcache.new_walk_cache(structures, cpu.walk.tag.value == "physical"),
            datacache.new_data_cache(levels),
        )
        # A whole number of times through all sets and their hashes, above every line of the machine.
        step = math.lcm(*(level.sets for level in levels)) << 8
        self.state.control[Control.NEUTRAL_BASE] = -(-(frames * LINES_IN_PAGE) // step) * step
        self.set_options(options or MmuOptions())

    def set_options(self, options: MmuOptions) -> None:
        """Choose what is modelled from now on."""
        self.options = options
        control = self.state.control
        control[Control.DATA_MODE] = DATA_CACHES[options.data_caches]
        control[Control.FREE_TRANSLATION] = options.free_translation
        control[Control.STREAM_LINES] = self.cpu.prefetch.stream_lines.value if options.prefetch else 0
        control[Control.NEXT_PAGE] = self.cpu.prefetch.next_page.value if options.prefetch else 0
        control[Control.ADJACENT] = (
            Adjacent[self.cpu.prefetch.adjacent_line.value.upper()] if options.prefetch else Adjacent.NONE
        )

    @property
    def counters(self) -> npt.NDArray[np.int64]:
        """Events by cause so far, int64[COUNTERS]."""
        return self.state.counters

    def access(
        self,
        tables: PageTables,
        target: Target,
        offsets: npt.NDArray[np.int64],
        write: bool,
        beside: Beside | None = None,
    ) -> None:
        """Run a stream through the MMU, perhaps beside other work; state and counters go on from what they were."""
        mmu_kernels.access(self.state, tables, target, offsets, write, beside or _NOTHING)

    def access_beside(self, tables: PageTables, beside: Beside, count: int) -> None:
        """Do a number of accesses of other work, at once."""
        mmu_kernels.access_beside(self.state, tables, beside, count)

    def flush(self) -> None:
        """Empty the TLBs and the paging-structure caches."""
        mmu_kernels.flush_all(self.state)
        self.counters[Cause.TLB_FLUSH] += 1

    def flush_local(self) -> None:
        """Drop all translations that are not global, as a change of the address space does."""
        self.forget_programs()
        self.counters[Cause.TLB_FLUSH] += 1

    def forget_programs(self) -> None:
        """Drop all translations that are not global, for which somebody else counts the work."""
        mmu_kernels.flush_local(self.state)

    def invalidate(self, address: int, pages: int, level: int = 1) -> None:
        """Drop pages of a leaf level from an address on, as INVLPG for each does."""
        mmu_kernels.invalidate_range(self.state, np.uint64(address), pages, level)
        self.counters[Cause.TLB_INVALIDATION] += pages

    def forget(self, address: int, pages: int, level: int = 1) -> None:
        """Drop pages of a leaf level because another CPU broadcast it: this one does no work for it."""
        mmu_kernels.invalidate_range(self.state, np.uint64(address), pages, level)

    def forget_all(self) -> None:
        """Drop everything because another CPU broadcast it: this one does no work for it."""
        mmu_kernels.flush_all(self.state)

    def leave_cleared(self, frames: npt.NDArray[np.int64]) -> None:
        """Leave the data caches as clearing 4 KiB pages one after another does.

        Only the last pages are gone through, as many as all caches hold together: of scattered frames, whose sets fill
        unevenly, a few per cent of the lines that clearing everything would leave are missing.
        """
        kept = sum(cache.nbytes.value for cache in self.cpu.data_cache) // PAGE_BYTES
        first = max(0, len(frames) - kept)
        mmu_kernels.leave_cleared(self.state, np.ascontiguousarray(frames[first:], np.int64), first)

    def empty_caches(self) -> None:
        """Empty the data caches."""
        datacache.empty(self.state.data_cache)
        self._forget_misses()

    def cached_lines(self) -> tuple[npt.NDArray[np.generic], ...]:
        """Return a copy of what the data caches hold, for :meth:`set_cached_lines`."""
        cache = self.state.data_cache
        return cache.tags.copy(), cache.heads.copy()

    def set_cached_lines(self, lines: tuple[npt.NDArray[np.generic], ...]) -> None:
        """Let the data caches hold what they held when :meth:`cached_lines` was called."""
        cache = self.state.data_cache
        np.copyto(cache.tags, lines[0], casting="no")
        np.copyto(cache.heads, lines[1], casting="no")
        self._forget_misses()

    def _forget_misses(self) -> None:
        """Let no earlier miss train a prefetcher or be in the way of a fill."""
        self.state.streams.slots[:, Slot.FRAME] = -1
        self.state.history.frames[:] = -1
        self.state.control[Control.LAST_MISS_SET] = mmu_kernels.NO_SET

    def entries(self, page_size: str = "4K") -> list[int]:
        """Return how many pages of one size each level can hold."""
        return tlb_entries(self.cpu, page_size)

    def reach(self, page_size: str = "4K") -> list[int]:
        """Return the bytes that each level can map with pages of one size; 0 where it holds none."""
        return [entries << (12 + 9 * (page_level(page_size) - 1)) for entries in self.entries(page_size)]

    def copy(self) -> Mmu:
        """Return an independent MMU in the same state."""
        twin = object.__new__(Mmu)
        twin.__dict__.update(self.__dict__)
        twin.state = copied(self.state)
        return twin
