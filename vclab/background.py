"""Other work on a CPU beside a stream: a working set of its own, and entries into the kernel.

The TLB is shared (kernel data behind large entries, stacks in the vmalloc area, user pages), so what a stream finds
there depends on what ran in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vckernels import entry
from vckernels.causes import COUNTERS
from vckernels.mmu import Beside, Target
from vclab.errors import ConfigurationError
from vclab.gfp import GFP_KERNEL
from vclab.mapping import DirectMap, PageTables
from vclab.memory import Memory
from vclab.units import PAGE_BYTES, PAGE_SHIFT
from vclab.vmalloc_area import VmallocArea

#: Where the user pages of the other work lie: an address of the lower half, as of a program's heap.
USER_START = 0x5555_5555_6000
STACK_PAGES = 4


@dataclass(frozen=True)
class Background:
    """What runs beside a stream.

    Attributes
    ----------
    pages : int
        4 KiB pages of its working set; 0: none.
    kernel, stacks, user : float
        Shares of kernel data (behind the direct map), kernel stacks (4K entries in the vmalloc area) and user pages
        (4K entries, not global); they add up to 1.
    gap : int
        One access of it follows every ``gap`` accesses of the stream; 0: only kernel entries bring it in.
    entry_cycles : float
        Cycles of the stream from one kernel entry to the next; 0: there are none.
    entry_accesses : int
        Accesses of it that a kernel entry brings at once.
    switches : bool
        Each kernel entry comes from another address space: what is not global is forgotten.
    """

    pages: int = 0
    kernel: float = 0.5
    stacks: float = 0.1
    user: float = 0.4
    gap: int = 1
    entry_cycles: float = 0.0
    entry_accesses: int = 64
    switches: bool = False

    def __post_init__(self) -> None:
        shares = (self.kernel, self.stacks, self.user)
        if not all(value >= 0 for value in (self.pages, self.gap, self.entry_cycles, self.entry_accesses)):
            raise ConfigurationError("pages, gap, entry cycles and entry accesses of other work are 0 or more")
        if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-9):
            raise ConfigurationError(f"shares {shares} of other work's pages do not add up to 1")


@dataclass
class BackgroundState:
    """Other work that a system has made room for: its pages, the order it uses them in, and what it counted."""

    background: Background
    beside: Beside
    frames: npt.NDArray[np.int64] = field(repr=False)
    since_entry: float = 0.0

    def copy(self) -> BackgroundState:
        """Return the same work at the same point, with counters of its own."""
        beside = self.beside._replace(state=self.beside.state.copy(), counters=self.beside.counters.copy())
        return BackgroundState(self.background, beside, self.frames, self.since_entry)


def place_background(
    background: Background,
    memory: Memory,
    tables: PageTables,
    direct_map: DirectMap,
    area: VmallocArea,
    rng: np.random.Generator,
) -> BackgroundState:
    """Take memory for other work and map it.

    Parameters
    ----------
    background : Background
    memory : Memory
        Mutated: frames are taken, order 0.
    tables, area
        Mutated: stacks are mapped in the vmalloc area, user pages in the lower half.
    direct_map : DirectMap
    rng : Generator
        Orders the accesses: each round visits every page once, at a random line.

    Raises
    ------
    ConfigurationError
        If memory or address space is short.
    """
    stacks = round(background.pages * background.stacks) // STACK_PAGES
    user = round(background.pages * background.user)
    kernel = background.pages - STACK_PAGES * stacks - user
    bases: list[npt.NDArray[np.uint64]] = []
    taken = memory.allocate_all(0, GFP_KERNEL, background.pages) if background.pages else None
    if background.pages and taken is None:
        raise ConfigurationError(f"{background.pages} pages for other work are not free; lower its size")
    frames = np.empty(0, np.int64) if taken is None else taken
    bases.append(np.uint64(direct_map.start) + (frames[:kernel].astype(np.uint64) << np.uint64(PAGE_SHIFT)))
    for stack in range(stacks):
        first = kernel + stack * STACK_PAGES
        mapped = area.map(frames[first : first + STACK_PAGES])
        if mapped is None:
            raise ConfigurationError("there is no room for the stacks of other work; lower its size")
        bases.append(np.uint64(mapped[0]) + np.arange(STACK_PAGES, dtype=np.uint64) * np.uint64(PAGE_BYTES))
    if user:
        start = USER_START
        while tables.translate([start])[0] >= 0:
            start += 1 << 30
        if tables.map(start, frames[background.pages - user :], 1, entry.USER_LEAF) is None:
            raise ConfigurationError("there is no memory for the page tables of other work; lower its size")
        bases.append(np.uint64(start) + np.arange(user, dtype=np.uint64) * np.uint64(PAGE_BYTES))
    target = Target(np.concatenate(bases), PAGE_SHIFT, np.empty(0, np.uint64), 0)
    order = rng.permutation(background.pages)
    offsets = order * PAGE_BYTES + rng.integers(0, PAGE_BYTES // 64, len(order)) * 64
    beside = Beside(
        target,
        offsets.astype(np.int64),
        background.gap if len(offsets) else 0,
        np.zeros(2, np.int64),
        np.zeros(COUNTERS, np.int64),
    )
    return BackgroundState(background, beside, frames)
