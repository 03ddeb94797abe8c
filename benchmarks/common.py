"""Inputs that all benchmarks share.

An input is part of a benchmark's identity: **append here, never change what is here**, or a step in a series says
nothing about the code. For the same reason no library's random generator takes part.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import claim, datacache, entry, pagetable, vmap, walkcache
from vckernels import mmu as mmu_kernels
from vckernels import tlb as tlb_kernels
from vckernels.buddy import MAX_ORDER, Buddy, Migratetype
from vckernels.causes import COUNTERS
from vckernels.datacache import DataCache, Level
from vckernels.jit import kernel, unsigned
from vckernels.mmu import Beside, Control, DataMode, Mmu, Target
from vckernels.pagetable import PageTables
from vckernels.prefetch import Adjacent
from vckernels.tlb import Array, Tlb
from vckernels.vmap import Areas
from vckernels.walkcache import Structure, WalkCache

MIB = 1 << 20
FRAMES = 65_536
"""A zone of 256 MiB."""
BASE = 0xFFFF_C900_0000_0000
"""Virtual address that mapped ranges start at: Linux's vmalloc area with 4 levels."""
NEUTRAL_BASE = 20480 * 65_536
"""Line that colour-neutral data starts from: above 64 GiB and in set 0 of every level here."""

GEOMETRIES = {
    "skylake": (Array(1, 16, 4, (1,)), Array(2, 128, 12, (1,))),
    "zen3": (Array(1, 1, 64, (1, 2, 3)), Array(2, 128, 16, (1, 2)), Array(2, 1, 64, (3,))),
}
"""TLBs of two levels: 64 entries of 4 ways before 1536 of 12; 64 of 64 ways before 2048 of 16."""


class Processor(NamedTuple):
    """What is modelled of a CPU: TLB arrays of two levels, paging-structure caches and how they are tagged, caches.

    ``adjacent`` is the neighbour of a missed line that its prefetchers fetch where they are on.
    """

    arrays: tuple[Array, ...]
    structures: tuple[Structure, ...]
    physical: bool
    levels: tuple[Level, ...]
    adjacent: Adjacent


PROCESSORS = {
    "zen3": Processor(
        (Array(1, 1, 64, (1, 2, 3)), Array(2, 128, 16, (1, 2), directories=True), Array(2, 1, 64, (3,))),
        (Structure(1, 64, (3, 4)),),
        False,
        (Level(64, 8), Level(1024, 8, 4, False, 3), Level(32768, 16, 3, True)),
        Adjacent.HISTORY,
    ),
    "skylake-sp": Processor(
        (
            Array(1, 16, 4, (1,)),
            Array(1, 8, 4, (2,)),
            Array(1, 1, 4, (3,)),
            Array(2, 128, 12, (1, 2), 7),
            Array(2, 4, 4, (3,)),
        ),
        (Structure(1, 4, (4,)), Structure(2, 4, (3,)), Structure(4, 8, (2,))),
        False,
        (Level(64, 8), Level(1024, 16), Level(20480, 11, 0, True)),
        Adjacent.PAIR,
    ),
    "k8": Processor(
        (Array(1, 1, 32, (1,)), Array(1, 1, 8, (2,)), Array(2, 128, 4, (1,))),
        (Structure(1, 24, ()),),
        True,
        (Level(512, 2), Level(512, 16, 0, True)),
        Adjacent.NONE,
    ),
}
"""CPUs whose page-directory entries lie in the second-level TLB, in caches of their own, and by physical address."""

STREAM_LINES = 4
"""Lines that the stream prefetcher fetches ahead where it is on."""

STREAMS = {
    "uniform-16MiB": ("uniform", 16 * MIB),
    "uniform-256MiB": ("uniform", 256 * MIB),
    "lines-256MiB": ("lines", 256 * MIB),
}
"""Kind and footprint of each stream of offsets; "lines" goes through all 64-byte lines in order."""

TRACES = ("order0", "mix", "waves", "types")
"""Traces for a zone of 256 MiB.

The first two keep it around 60 % full, with blocks of order 0, or of order k with probability 1/2**(k+1) and the rest
of order 10: steady states, which reuse what was just freed and seldom split. "waves" fills it to 90 % with such a mix
and empties it again in random order, over and over: all splits and merges. In "types" an eighth of what the waves bring
is unmovable and an eighth reclaimable, so that blocks are claimed and stolen.
"""

State = TypeVar("State", bound=tuple)


def words(count: int, seed: int) -> npt.NDArray[np.uint64]:
    """Return uint64[count] of noise: the splitmix64 generator."""
    state = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 40)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def below(bound: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return int64[count], uniform from 0 to ``bound - 1``; ``bound`` is at most 2**32."""
    return (((words(count, seed) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permutation(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return 0 to ``count - 1`` in random order, int64[count]."""
    return np.argsort(words(count, seed), kind="stable").astype(np.int64)


def copied(state: State) -> State:
    """Return an independent copy of a NamedTuple of arrays, of other NamedTuples and of scalars."""
    return type(state)(
        *(
            copied(part) if isinstance(part, tuple) else part.copy() if isinstance(part, np.ndarray) else part
            for part in state
        )
    )


@functools.cache
def offsets(stream: str, count: int) -> npt.NDArray[np.int64]:
    """Return byte offsets of one of :data:`STREAMS`, int64[count]."""
    kind, nbytes = STREAMS[stream]
    if kind == "uniform":
        return below(nbytes, count, seed=1)
    return np.arange(count, dtype=np.int64) % (nbytes // 64) * 64


def tlb(geometry: str) -> Tlb:
    """Return an empty TLB of one of :data:`GEOMETRIES`."""
    return tlb_kernels.new_tlb(2, list(GEOMETRIES[geometry]))


@functools.cache
def _mapped(nbytes: int, level: int, scattered: bool) -> PageTables:
    pages = nbytes >> (12 + 9 * (level - 1))
    machine = 4 * (nbytes >> 12)
    size = 1 << (9 * (level - 1))
    # Leaves in scattered frames of the machine's lower half, tables in scattered frames of the upper.
    order = permutation(machine // 2 // size, seed=2) if scattered else np.arange(pages, dtype=np.int64)
    leaves = order[:pages] * size
    table_frames = machine // 2 + permutation(machine // 2, seed=3)
    tables = pagetable.new_page_tables(int(table_frames[0]), 0, machine, 4, 48, True, capacity=nbytes // (2 * MIB) + 8)
    needed = int(pagetable.survey(tables, np.uint64(BASE), pages, level))
    pagetable.map_range(
        tables, np.uint64(BASE), leaves, level, entry.KERNEL_LEAF, entry.KERNEL_TABLE, table_frames[1 : 1 + needed]
    )
    return tables


def mapped(nbytes: int, level: int = 1, scattered: bool = True) -> PageTables:
    """Return page tables that map ``nbytes`` at :data:`BASE` by leaves of a level.

    They lie in random order in twice their room, or all in a row; the tables are scattered in any case.
    """
    return copied(_mapped(nbytes, level, scattered))


def clean(tables: PageTables) -> PageTables:
    """Return page tables whose accessed and dirty bits are all clear."""
    tables.words[...] &= ~(entry.ACCESSED | entry.DIRTY)
    return tables


def target(nbytes: int) -> Target:
    """Return what maps offsets to addresses from :data:`BASE` on; ``nbytes`` is a power of two."""
    return Target(np.array([BASE], np.uint64), nbytes.bit_length() - 1, np.zeros(0, np.uint64), 0)


def open_coded(nbytes: int) -> Target:
    """Return the same as pages of 4 MiB, each of whose 4K pages is found through a page array, in the last 2 MiB."""
    number = np.arange(nbytes >> 22, dtype=np.uint64)
    arrays = np.uint64(BASE + nbytes - 2 * MIB) + number * np.uint64(8192)
    return Target(np.uint64(BASE) + number * np.uint64(4 * MIB), 22, arrays, 22)


@functools.cache
def _beside_offsets(nbytes: int) -> npt.NDArray[np.int64]:
    return below(nbytes, 1 << 12, seed=12)


def beside(nbytes: int, gap: int) -> Beside:
    """Return other work: after every ``gap`` accesses one of 4096 places of the first ``nbytes`` at :data:`BASE`."""
    return Beside(
        target(nbytes), _beside_offsets(nbytes).copy(), gap, np.zeros(2, np.int64), np.zeros(COUNTERS, np.int64)
    )


def walk_cache(processor: str) -> WalkCache:
    """Return empty paging-structure caches of one of :data:`PROCESSORS`."""
    return walkcache.new_walk_cache(list(PROCESSORS[processor].structures), PROCESSORS[processor].physical)


def data_cache(processor: str) -> DataCache:
    """Return empty data caches of one of :data:`PROCESSORS`."""
    return datacache.new_data_cache(list(PROCESSORS[processor].levels))


def mmu(
    processor: str, mode: DataMode = DataMode.PHYSICAL, prefetch: bool = False, free_translation: bool = False
) -> Mmu:
    """Return a CPU that has translated nothing yet, one of :data:`PROCESSORS`."""
    state = mmu_kernels.new_mmu(
        tlb_kernels.new_tlb(2, list(PROCESSORS[processor].arrays)), walk_cache(processor), data_cache(processor)
    )
    state.control[Control.DATA_MODE] = mode
    state.control[Control.FREE_TRANSLATION] = free_translation
    state.control[Control.STREAM_LINES] = STREAM_LINES if prefetch else 0
    state.control[Control.NEXT_PAGE] = prefetch
    state.control[Control.ADJACENT] = PROCESSORS[processor].adjacent if prefetch else Adjacent.NONE
    state.control[Control.NEUTRAL_BASE] = NEUTRAL_BASE
    return state


class Accesses(NamedTuple):
    """A stream through a complete MMU: what :func:`vckernels.mmu.access` does, and with what.

    Attributes
    ----------
    stream : str
        One of :data:`STREAMS`.
    processor : str
        One of :data:`PROCESSORS`.
    level : int
        Level of the leaves.
    scattered : bool
        Their frames are in random order, else in a row.
    write : bool
    clean : bool
        All accessed and dirty bits are clear at first.
    mode : DataMode
    prefetch, free_translation, open_coded : bool
    gap : int
        Accesses between two of other work, in 16 MiB; 0: none.
    """

    stream: str = "uniform-256MiB"
    processor: str = "zen3"
    level: int = 1
    scattered: bool = True
    write: bool = False
    clean: bool = False
    mode: DataMode = DataMode.PHYSICAL
    prefetch: bool = False
    free_translation: bool = False
    open_coded: bool = False
    gap: int = 0

    def start(self, count: int) -> tuple[Mmu, PageTables, Target, npt.NDArray[np.int64], bool, Beside]:
        """Return fresh arguments of :func:`vckernels.mmu.access` for so many accesses."""
        nbytes = STREAMS[self.stream][1]
        tables = mapped(nbytes, self.level, self.scattered)
        return (
            mmu(self.processor, self.mode, self.prefetch, self.free_translation),
            clean(tables) if self.clean else tables,
            open_coded(nbytes) if self.open_coded else target(nbytes),
            offsets(self.stream, count),
            self.write,
            beside(16 * MIB, self.gap),
        )


ACCESSES = {
    **{f"4K {stream}": Accesses(stream) for stream in STREAMS},
    "4K uniform-256MiB write": Accesses(write=True),
    "2M uniform-256MiB": Accesses(level=2),
    "4K uniform-256MiB contiguous": Accesses(scattered=False),
    "4K lines-256MiB contiguous": Accesses("lines-256MiB", scattered=False),
    "4K uniform-256MiB colour-neutral": Accesses(mode=DataMode.COLOUR_NEUTRAL),
    "4K uniform-256MiB first-level": Accesses(mode=DataMode.FIRST_LEVEL),
    "4K uniform-16MiB prefetch": Accesses("uniform-16MiB", prefetch=True),
    "4K lines-256MiB prefetch": Accesses("lines-256MiB", prefetch=True),
    "4K uniform-256MiB clean write": Accesses(write=True, clean=True),
    "4K uniform-256MiB free": Accesses(free_translation=True),
    "4K uniform-256MiB open-coded": Accesses(open_coded=True),
    "2M uniform-256MiB open-coded": Accesses(level=2, open_coded=True),
    "4K uniform-16MiB open-coded clean write": Accesses("uniform-16MiB", write=True, clean=True, open_coded=True),
    "4K uniform-256MiB beside": Accesses(gap=16),
    "4K uniform-256MiB skylake-sp": Accesses(processor="skylake-sp"),
    "4K uniform-256MiB k8": Accesses(processor="k8"),
    "4K lines-256MiB skylake-sp prefetch": Accesses("lines-256MiB", "skylake-sp", prefetch=True),
    "2M uniform-256MiB k8 clean write": Accesses(processor="k8", level=2, write=True, clean=True),
}
"""Streams through the complete MMU, by name."""


@kernel
def run_lines(cache: DataCache, lines: npt.NDArray[np.int64], served: npt.NDArray[np.int64]) -> None:
    """Load lines in turn; add up in int64[4] by which level they were served, memory last of those there are."""
    for i in range(len(lines)):
        served[unsigned(datacache.load_line(cache, lines[i], 0))] += 1


@kernel
def run_words(cache: WalkCache, pages: npt.NDArray[np.int64], lowest: int, hits: npt.NDArray[np.int64]) -> None:
    """Look up words of levels from ``lowest`` to 4 for 4K pages in turn, keeping what is missed as a walk does.

    ``hits`` is int64[6], by the level of the first word found, 0 where there is none.
    """
    for i in range(len(pages)):
        level = lowest
        while level <= 4 and walkcache.find_word(cache, pages[i] >> (9 * (level - 1)), level) < 0:
            level += 1
        hits[unsigned(level if level <= 4 else 0)] += 1
        for missed in range(level - 1, lowest - 1, -1):
            walkcache.keep_word(cache, pages[i] >> (9 * (missed - 1)), missed, pages[i])


def _steady(number: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the slot of each request, and whether it allocates: half of the slots first, then any at random.

    Requests of one slot take turns, so that about half of the slots hold a block.
    """
    chosen = np.concatenate([permutation(number, seed=4)[: number // 2], below(number, count, seed=5)])
    order = np.argsort(chosen, kind="stable")
    group = chosen[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    rank = np.empty(len(chosen), np.int64)
    rank[order] = np.arange(len(chosen)) - np.repeat(starts, np.diff(np.r_[starts, len(chosen)]))
    return chosen, rank % 2 == 0


def _waves(number: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the slot of each request, and whether it allocates: all slots, then all frees in another order ..."""
    halves = -(-count // number)
    chosen = np.concatenate([permutation(number, seed=10 + half) for half in range(halves)])[:count]
    return chosen, np.arange(count) // number % 2 == 0


class Trace:
    """A zone of 256 MiB and what is asked of it.

    Parameters
    ----------
    kind : str
        One of :data:`TRACES`.
    count : int
        Requests, besides those that fill the zone first.

    Attributes
    ----------
    buddy : Buddy
        The zone before the first request.
    requests : int64[count]
        As :func:`vckernels.claim.run_trace` reads them.
    migratetypes : int8[count]
    slots : int64[m]
    slot_orders : int8[m]
    """

    def __init__(self, kind: str, count: int) -> None:
        mean = 1 if kind == "order0" else MAX_ORDER // 2 + 1
        if kind in ("order0", "mix"):
            number = int(2 * 0.6 * FRAMES / mean)
            chosen, allocates = _steady(number, count)
        else:
            number = int(0.9 * FRAMES / mean)
            chosen, allocates = _waves(number, count)
        block_orders = np.zeros(len(chosen), np.int64)
        if kind != "order0":
            noise = words(len(chosen), seed=6)
            for bits in range(1, MAX_ORDER + 1):
                block_orders[noise & np.uint64((1 << bits) - 1) == 0] = bits
        types = np.full(len(chosen), Migratetype.MOVABLE, np.int8)
        if kind == "types":
            eighth = below(8, len(chosen), seed=7)
            types[eighth == 0] = Migratetype.UNMOVABLE
            types[eighth == 1] = Migratetype.RECLAIMABLE
        requests = np.where(allocates, chosen * 16 + block_orders, ~chosen)
        self.buddy: Buddy = buddy_kernels.new_buddy(FRAMES)
        blocks = np.arange(0, FRAMES, 1 << MAX_ORDER, dtype=np.int64)
        buddy_kernels.free_at_boot(self.buddy, blocks, np.full(len(blocks), MAX_ORDER, np.int8), True)
        self.slots = np.full(number, -1, np.int64)
        self.slot_orders = np.zeros(number, np.int8)
        fill = len(chosen) - count
        claim.run_trace(self.buddy, requests[:fill].copy(), types[:fill].copy(), self.slots, self.slot_orders)
        self.buddy.counters[:] = 0
        self.requests = requests[fill:].copy()
        self.migratetypes = types[fill:].copy()

    def start(self) -> tuple[Buddy, npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """Return independent copies of zone, slots and slot orders before the first request."""
        return copied(self.buddy), self.slots.copy(), self.slot_orders.copy()


@functools.cache
def trace(kind: str, count: int) -> Trace:
    """Return one of :data:`TRACES` of ``count`` requests."""
    return Trace(kind, count)


AREA_SLOTS = 4096
AREA_PAGES = 32 * AREA_SLOTS


@kernel
def run_areas(areas: Areas, requests: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> int:
    """Replay requests of :func:`area_requests`; ``starts`` (int64[AREA_SLOTS]) holds -1 where a slot is empty.

    Returns how many were served. A kernel, so that what is timed is not the way into one.
    """
    served = 0
    for i in range(len(requests)):
        slot = requests[i] >> 8
        if starts[slot] >= 0:
            served += vmap.release(areas, starts[slot]) > 0
            starts[slot] = -1
        else:
            starts[slot] = vmap.reserve(areas, requests[i] & 255)
            served += starts[slot] >= 0
    return served


@functools.cache
def area_requests(count: int) -> npt.NDArray[np.int64]:
    """Return requests ``slot * 256 + pages``, int64[count], 2 to 65 pages each.

    A request releases its slot's range if it has one, else reserves one, so that the area of :data:`AREA_PAGES` comes
    to be about half full.
    """
    return below(AREA_SLOTS, count, seed=8) * 256 + 2 + below(64, count, seed=9)


def new_areas() -> Areas:
    """Return the empty area that :func:`area_requests` are for."""
    return vmap.new_areas(AREA_PAGES, capacity=AREA_SLOTS + 1)


@kernel
def run_aligned_areas(areas: Areas, requests: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> int:
    """Replay requests as :func:`run_areas` does, every eighth of them for 512 pages at a multiple of 512."""
    served = 0
    for i in range(len(requests)):
        slot = requests[i] >> 8
        if starts[slot] >= 0:
            served += vmap.release(areas, starts[slot]) > 0
            starts[slot] = -1
        else:
            if slot & 7 == 0:
                starts[slot] = vmap.reserve(areas, 512, 512)
            else:
                starts[slot] = vmap.reserve(areas, requests[i] & 255)
            served += starts[slot] >= 0
    return served


def new_large_areas() -> Areas:
    """Return the empty area that :func:`run_aligned_areas` has room in: four times that of :func:`new_areas`."""
    return vmap.new_areas(4 * AREA_PAGES, capacity=AREA_SLOTS + 1)


class Remapping(NamedTuple):
    """Page tables, what is mapped through them in turn, and room for what comes back.

    Attributes
    ----------
    tables : PageTables
        Empty.
    small, large : int64[n], int64[n / 512]
        First frames of 4K and of 2M pages for the same addresses.
    free, frames : int64[n]
        Frames for tables; frames that were unmapped.
    """

    tables: PageTables
    small: npt.NDArray[np.int64]
    large: npt.NDArray[np.int64]
    free: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]


def new_remapping(nbytes: int) -> Remapping:
    """Return what :func:`remap` needs."""
    small, large = nbytes >> 12, nbytes >> 21
    return Remapping(
        pagetable.new_page_tables(0, 0, 4 * small, 4, 48, True, capacity=large + 8),
        2 * small + permutation(small, seed=2),
        2 * small + 512 * permutation(large, seed=2),
        1 + permutation(small, seed=3),
        np.empty(small, np.int64),
    )


def remap(state: Remapping) -> None:
    """Map 4K pages, unmap them, do the same by 2M pages, and map 4K pages again.

    The empty tables that 4K pages leave behind are taken out before the 2M pages go in, and used again at last.
    """
    tables, base, large = state.tables, np.uint64(BASE), len(state.large)
    free = state.free
    for number, (leaves, level) in enumerate(((state.small, 1), (state.large, 2), (state.small, 1))):
        if number == 1:
            free = np.empty(int(pagetable.survey_empty_tables(tables, base, large, 2)), np.int64)
            pagetable.remove_empty_tables(tables, base, large, 2, free)
        pagetable.survey(tables, base, len(leaves), level)
        pagetable.map_range(tables, base, leaves, level, entry.KERNEL_LEAF, entry.KERNEL_TABLE, free)
        if number < 2:
            pagetable.unmap_range(tables, base, len(leaves), level, state.frames)
