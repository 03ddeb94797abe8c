"""Paired cells: one working set reached in four ways on identical offsets, so that causes can be told apart.

====  ===========  =======================================================================
cell  frames       mapping
====  ===========  =======================================================================
i     contiguous   direct map
ii    contiguous   4K entries in the vmalloc area
iii   scattered    4K entries in the vmalloc area
iv    the same     direct map, as open-coded pages: the page array's word is loaded first
====  ===========  =======================================================================

ii - i is mapping size, iii - ii placement, iii - iv what virtual contiguity costs or saves against open coding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.causes import Cause
from vclab import streams
from vclab.compound import CompoundPage
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.mmu import MmuOptions
from vclab.system import System
from vclab.units import PAGE_BYTES, PAGE_SHIFT

CELLS = ("i", "ii", "iii", "iv")
PHASES = ("cold", "steady")
#: What an access can cause, kept in results so that they can be priced again.
EVENTS = (
    Cause.DATA_ACCESS,
    Cause.PAGE_ARRAY_ACCESS,
    Cause.FIRST_LEVEL_TLB_HIT,
    Cause.SECOND_LEVEL_TLB_HIT,
    Cause.WALK,
    Cause.WALK_REFERENCE,
    Cause.WALK_CACHE_HIT,
    Cause.ACCESSED_UPDATE,
    Cause.DIRTY_UPDATE,
    Cause.DATA_LEVEL_1,
    Cause.DATA_LEVEL_2,
    Cause.DATA_LEVEL_3,
    Cause.DATA_MEMORY,
    Cause.ARRAY_LEVEL_1,
    Cause.ARRAY_LEVEL_2,
    Cause.ARRAY_LEVEL_3,
    Cause.ARRAY_MEMORY,
    Cause.WALK_LEVEL_1,
    Cause.WALK_LEVEL_2,
    Cause.WALK_LEVEL_3,
    Cause.WALK_MEMORY,
    Cause.FILL_CONFLICT,
    Cause.PREFETCH_LINE,
    Cause.PREFETCH_WALK,
    Cause.PREFETCH_REFERENCE,
)
Stream = Callable[..., npt.NDArray[np.int64]]
"""Returns offsets for bytes, a number of accesses and a seed (:mod:`vclab.streams`)."""
#: Accesses after which independent ones are steady. Which lines came last says nothing of which come next, and after
#: the first touch the caches hold as many of them as they ever do. The stream's own are only how recent they are, and
#: the words of page tables: that is settled when the largest TLB (4,096 entries) has been replaced four times over.
#: A chase is no such stream: of the sets that its cycle overfills, a victim cache keeps more with each lap.
INDEPENDENT_WARM_UP = 1 << 14
#: Names of those events, as coordinates of results.
EVENT_NAMES = [cause.name.lower() for cause in EVENTS]


def all_counts(events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return counters, int64[..., COUNTERS], from the events that results keep, int64[..., len(EVENTS)]."""
    counts = np.zeros((*events.shape[:-1], len(Cause)), np.int64)
    counts[..., list(EVENTS)] = events
    return counts


def digest(values: npt.NDArray[np.generic]) -> str:
    """Return a short digest of an array, by which results prove that two arrays were one."""
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=8).hexdigest()


class Cells:
    """The same working set reached in four ways.

    Parameters
    ----------
    aged : System
        Copied, not changed.
    order : int
        Of each page of the working set.
    count : int
        Pages.
    rng : Generator
        Chooses counterfactual blocks.

    Attributes
    ----------
    counterfactual : int
        Contiguous blocks that were not free: what ``physical`` could not win.
    pages : list of CompoundPage
        The virtual pages of cell iii.

    Raises
    ------
    OutOfMemory
        If the machine is too small for so many pages.
    """

    def __init__(self, aged: System, order: int, count: int, rng: np.random.Generator) -> None:
        self.nbytes = PAGE_BYTES << order
        self.contiguous = aged.copy(policy="physical")
        self.scattered = aged.copy(policy="vmalloc")
        self.counterfactual = 0
        starts = self._contiguous_starts(order, count, rng)
        self.pages: list[CompoundPage] = [self.scattered.alloc_pages(order, GFP_VFALLBACK) for _ in range(count)]
        direct = self.contiguous.direct_map
        blocks = starts[:, None] + np.arange(1 << order)
        scattered = np.concatenate([page.frames for page in self.pages])
        self.direct = np.array([direct.address(int(start)) for start in starts], np.uint64)
        self.remapped = np.array([self.contiguous.vmap(block) for block in blocks], np.uint64)
        self.virtual = np.array([page.address for page in self.pages], np.uint64)
        self.open_coded = np.uint64(direct.start) + (scattered.astype(np.uint64) << np.uint64(PAGE_SHIFT))
        self.arrays = np.array([page.array_address for page in self.pages], np.uint64)
        self._frames = {"i": blocks.ravel(), "ii": blocks.ravel(), "iii": scattered, "iv": scattered}
        self._cleared: dict[tuple[bool, int], tuple[npt.NDArray[np.generic], ...]] = {}

    def _contiguous_starts(self, order: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return first frames of contiguous blocks: what ``physical`` wins, then counterfactual ones.

        A request that fails is paired with a block of the machine that nobody else of these pages has, free or not.
        """
        zone = self.contiguous.memory.zone
        won: list[int] = []
        for _ in range(count):
            try:
                won.append(int(self.contiguous.alloc_pages(order, GFP_VFALLBACK).frames[0]))
            except OutOfMemory:
                break
        self.counterfactual = count - len(won)
        if self.counterfactual:
            every = zone.first_frame + np.arange(0, zone.frames - (1 << order) + 1, 1 << order)
            others = np.setdiff1d(every, np.array(won, np.int64))
            if len(others) < self.counterfactual:
                raise OutOfMemory(
                    f"the machine has no {count} blocks of order {order}; give it more memory or lower live_pages"
                )
            won += rng.choice(others, self.counterfactual, replace=False).tolist()
        return np.array(won, np.int64)

    def system(self, cell: str) -> System:
        """Return the machine that a cell is on."""
        return self.contiguous if cell in ("i", "ii") else self.scattered

    def frames(self, cell: str) -> npt.NDArray[np.int64]:
        """Return the frames of a cell's working set in the order of its offsets."""
        return self._frames[cell]

    def set_options(self, options: MmuOptions) -> None:
        """Choose what of the MMUs is modelled from now on; caches are cleared anew."""
        self._cleared.clear()
        for system in (self.contiguous, self.scattered):
            system.mmu.set_options(options)

    def prepare(self, cell: str, live: int) -> None:
        """Forget all translations, and leave the data caches as clearing the first ``live`` pages leaves them.

        Other work begins where it began for the other cells.
        """
        system = self.system(cell)
        mmu = system.mmu
        if system.background is not None:
            system.background.beside.state[:] = 0
            system.background.since_entry = 0.0
        mmu.flush()
        key = (cell in ("i", "ii"), live)
        if key not in self._cleared:
            mmu.empty_caches()
            mmu.leave_cleared(self.frames(cell)[: live * self.nbytes // PAGE_BYTES])
            self._cleared = {old: kept for old, kept in self._cleared.items() if old[1] == live}
            self._cleared[key] = mmu.cached_lines()
        else:
            mmu.set_cached_lines(self._cleared[key])

    def access(
        self, cell: str, live: int, offsets: npt.NDArray[np.int64], write: bool = False
    ) -> npt.NDArray[np.int64]:
        """Run offsets over the first ``live`` pages in one cell; return event counts, int64[len(EVENTS)]."""
        system = self.system(cell)
        if cell == "iv":
            cost = system.access_at(
                self.open_coded[: live * self.nbytes // PAGE_BYTES],
                PAGE_BYTES,
                offsets,
                write,
                arrays=self.arrays[:live],
                array_nbytes=self.nbytes,
            )
        else:
            bases = {"i": self.direct, "ii": self.remapped, "iii": self.virtual}[cell]
            cost = system.access_at(bases[:live], self.nbytes, offsets, write)
        return cost.counts[list(EVENTS)]

    def measure(self, cell: str, live: int, offsets: Offsets) -> npt.NDArray[np.int64]:
        """Return events of the cold phase and of each stream's steady phase, int64[1 + streams, len(EVENTS)].

        The cold phase is the first touch of each 4 KiB page, in random order. Then comes each stream: its warm-up,
        which with the first touch makes two passes, and its steady phase.
        """
        self.prepare(cell, live)
        events = [self.access(cell, live, offsets.cold)]
        for stream in offsets.streams:
            self.access(cell, live, stream[: -offsets.steady])
            events.append(self.access(cell, live, stream[-offsets.steady :]))
        return np.stack(events)


class Offsets(NamedTuple):
    """What a working set is accessed by, the same in all cells.

    Attributes
    ----------
    cold : int64[pages]
        A touch of each 4 KiB page, in the order of a chase.
    streams : tuple of int64[]
        Of each stream its warm-up, and its steady phase.
    steady : int
        Accesses of a steady phase.
    """

    cold: npt.NDArray[np.int64]
    streams: tuple[npt.NDArray[np.int64], ...]
    steady: int

    @property
    def digests(self) -> list[str]:
        """A digest for each stream: of the first touch and its own accesses."""
        return [digest(np.concatenate([self.cold, stream])) for stream in self.streams]


def offsets_for(patterns: Sequence[Stream], nbytes: int, steady: int, seed: int) -> Offsets:
    """Return offsets for :meth:`Cells.measure`: a touch of each page, and each pattern's warm-up and ``steady`` more.

    A warm-up is as many accesses as there are pages, of independent accesses at most ``INDEPENDENT_WARM_UP``. A steady
    phase need not go through everything: any stretch of a random order is a fair sample of it. A chase goes on with
    the cycle of the first touch.
    """
    pages = nbytes // PAGE_BYTES
    own = []
    for pattern in patterns:
        warm_up = min(pages, INDEPENDENT_WARM_UP) if pattern is streams.uniform else pages
        own.append(pattern(nbytes, warm_up + steady, seed=seed))
    return Offsets(streams.chase(nbytes, pages, seed), tuple(own), steady)


def coalescible(pages: Sequence[CompoundPage]) -> float:
    """Return the share of aligned groups of four pages whose frames are consecutive and aligned.

    Such a group could share one 16 KiB entry where a CPU coalesces neighbours.
    """
    large = [page.frames.reshape(-1, 4) for page in pages if page.order >= 2]
    if not large:
        return 0.0
    groups = np.concatenate(large)
    whole = (groups[:, 0] % 4 == 0) & (np.diff(groups, axis=1) == 1).all(axis=1)
    return float(whole.mean())


def is_colouring(full: float, neutral: float, negligible: float) -> bool:
    """Return whether a gap shrinks by more than half when frames no longer choose the cache sets.

    Gaps and what counts as none are in one unit.
    """
    return abs(full) > negligible and abs(neutral) < abs(full) / 2
