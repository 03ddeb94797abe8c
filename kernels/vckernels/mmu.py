"""A CPU's way from virtual addresses to events: TLB, page walk and data caches, counted by cause.

The loop is fused: it makes an address from an offset, translates it and counts, so that no array of addresses is ever
built. Page sizes come from the page tables themselves, through a small table of regions that have been seen (a region
of 2 MiB never holds more than one page size). Walks begin where the paging-structure caches let them, and load the
words of page tables through the same data caches as everything else.

Translation does not depend on what the data caches hold. So the lines to load, of walks and of data, are queued in
their order and loaded a few hundred at a time, which this machine does much faster than in turns with translation. Only
a next-page prefetcher is set off by data misses: it needs the queue to be empty whenever a page's first or last line
has been accessed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.causes import COUNTERS, Cause
from vckernels.datacache import LINE_SHIFT, MOST_LEVELS, DataCache, await_line, first_level_set, load_line
from vckernels.entry import PAGE_SHIFT
from vckernels.jit import kernel, unsigned
from vckernels.linequeue import AHEAD, BESIDE, KIND_BITS, QUEUE, Kind, mark_beside, new_queue, push
from vckernels.pagetable import PageTables, walk
from vckernels.pagewalk import set_dirty, walk_through_caches
from vckernels.prefetch import LINES_IN_PAGE, Adjacent, History, Streams, neighbour, new_history, new_streams, train
from vckernels.tlb import (
    DIRECTORY,
    DIRTY,
    EMPTY,
    FRAME_SHIFT,
    Field,
    Tlb,
    drop_directories,
    drop_local,
    fill,
    find,
    flush,
    invalidate,
    lookup,
)
from vckernels.walkcache import WalkCache, flush_walk_cache

REGIONS = 1 << 14
REGION_PAGES_SHIFT = 9
NO_REGION = -1
UNMAPPED = 3
"""Stands for a page size where nothing is mapped."""
LINES_IN_PAGE_SHIFT = 6
PAGE_BITS = (1 << 52) - 1
NO_SET = -1


class DataMode(IntEnum):
    """How data accesses meet the data caches; walks and page arrays always go by physical address."""

    PHYSICAL = 0
    COLOUR_NEUTRAL = 1
    """Indexed by page offset and number of the page in the working set, so that which frames it has does not matter."""
    FIRST_LEVEL = 2
    """Not at all: each costs a first-level hit."""


class Control(IntEnum):
    """Index into :attr:`Mmu.control`."""

    DATA_MODE = 0
    FREE_TRANSLATION = 1
    """1: addresses are translated by magic, without TLB, walk or cost."""
    STREAM_LINES = 2
    """Lines that the stream prefetcher fetches ahead; 0 without one."""
    NEXT_PAGE = 3
    """1: the next-page prefetcher translates the page that a stream runs into."""
    NEUTRAL_BASE = 4
    """Line number that colour-neutral lines start from, above all lines of the machine."""
    LAST_MISS_SET = 5
    """First-level set that the last data access missed in, ``NO_SET`` if it hit."""
    ADJACENT = 6
    """Which neighbour of a missed line is fetched: an :class:`~vckernels.prefetch.Adjacent`."""


class Mmu(NamedTuple):
    """One CPU's translation and cache state.

    Attributes
    ----------
    tlb : Tlb
    walk_cache : WalkCache
    data_cache : DataCache
    streams : Streams
    history : History
    regions : int64[REGIONS]
        ``region << 2 | size`` of 2 MiB regions seen, found by the region's low bits; ``NO_REGION`` if none.
    control : int64[len(Control)]
    counters : int64[COUNTERS]
    queue : int64[]
        Lines that wait for the data caches (:mod:`vckernels.linequeue`); empty between calls.
    """

    tlb: Tlb
    walk_cache: WalkCache
    data_cache: DataCache
    streams: Streams
    history: History
    regions: npt.NDArray[np.int64]
    control: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]
    queue: npt.NDArray[np.int64]


class Target(NamedTuple):
    """What a stream's offsets mean.

    Offset ``o`` lies at ``bases[o >> shift] + (o & ((1 << shift) - 1))``. Where ``arrays`` is not empty, the page
    is open-coded: each access is preceded by the load of its word in a page array,
    ``arrays[o >> array_shift] + 8 * (page within)``.

    Attributes
    ----------
    bases : uint64[n]
    shift : int
    arrays : uint64[m]
    array_shift : int
    """

    bases: npt.NDArray[np.uint64]
    shift: int
    arrays: npt.NDArray[np.uint64]
    array_shift: int


def new_mmu(tlb: Tlb, walk_cache: WalkCache, data_cache: DataCache) -> Mmu:
    """Return a CPU that has translated nothing yet; its TLB has one or two levels, as there are counters for two."""
    if tlb.geometry.shape[0] > Cause.WALK - Cause.FIRST_LEVEL_TLB_HIT:
        raise ValueError("hits of a third TLB level have no counter")
    if tlb.geometry[0, DIRECTORY, Field.SETS]:
        raise ValueError("page-directory entries lie in the second TLB level or in the walk cache")
    control = np.zeros(len(Control), np.int64)
    control[Control.LAST_MISS_SET] = NO_SET
    return Mmu(
        tlb,
        walk_cache,
        data_cache,
        new_streams(),
        new_history(),
        np.full(REGIONS, NO_REGION, np.int64),
        control,
        np.zeros(COUNTERS, np.int64),
        new_queue(),
    )


@kernel(inline=True)
def _page_size(mmu: Mmu, tables: PageTables, page: int) -> int:
    """Return the size (0: 4K, 1: 2M, 2: 1G, ``UNMAPPED``) of the page around a 4K page number."""
    region = page >> REGION_PAGES_SHIFT
    slot = region & (REGIONS - 1)
    seen = mmu.regions[unsigned(slot)]
    if seen >> 2 == region:
        return seen & 3
    _, level, _, fault = walk(tables, np.uint64(page << 12), False, False, False, False)
    if fault != 0:
        return UNMAPPED
    mmu.regions[unsigned(slot)] = region << 2 | (level - 1)
    return level - 1


@kernel(inline=True)
def _translate(mmu: Mmu, tables: PageTables, page: int, write: bool) -> tuple[int, int, bool]:
    """Translate one access to a 4K page number (the upper 52 bits of an address) and count how.

    Returns
    -------
    frame : int
        4 KiB frame, -1 on a fault.
    missed : int
        TLB levels that missed.
    reusable : bool
        The first level now holds the page, known dirty if this was a store.
    """
    tlb = mmu.tlb
    counters = mmu.counters
    if mmu.control[Control.FREE_TRANSLATION] != 0:
        frame, _, _, _ = walk(tables, np.uint64(page << 12), write, False, False, False)
        return frame, 0, False
    size = _page_size(mmu, tables, page)
    number = page >> (9 * size)
    levels = tlb.geometry.shape[0]
    # No level holds what is not mapped; the walk finds that out.
    missed = levels if size == UNMAPPED else 0
    at = np.int64(EMPTY)
    while missed < levels:
        at = lookup(tlb, missed, number, size)
        if at != EMPTY:
            break
        missed += 1
    if missed == levels:
        counters[Cause.WALK] += 1
        value, _ = walk_through_caches(tlb, mmu.walk_cache, tables, mmu.queue, counters, page, write, False)
        if value < 0:
            counters[Cause.TLB_FAULT] += 1
            return -1, missed, False
    else:
        counters[unsigned(Cause.FIRST_LEVEL_TLB_HIT + missed)] += 1
        value = tlb.values[unsigned(at)]
        if write and value & DIRTY == 0:
            if not set_dirty(tlb, tables, mmu.queue, counters, page, size):
                counters[Cause.TLB_FAULT] += 1
                return -1, missed, False
            value |= DIRTY
    for level in range(missed):
        fill(tlb, level, number, size, value)
    frame = (value >> FRAME_SHIFT) + (page & ((np.int64(1) << (9 * size)) - 1))
    return frame, missed, tlb.geometry[0, unsigned(size), Field.SETS] != 0


@kernel
def _prefetch_page(mmu: Mmu, tables: PageTables, page: int) -> None:
    """Bring the translation of a page into the TLB if it is not there; what is not mapped is walked for in vain."""
    size = _page_size(mmu, tables, page)
    number = page >> (9 * size)
    levels = mmu.tlb.geometry.shape[0]
    if size != UNMAPPED:
        for level in range(levels):
            if find(mmu.tlb, level, number, size) != EMPTY:
                return
    mmu.counters[Cause.PREFETCH_WALK] += 1
    value, _ = walk_through_caches(mmu.tlb, mmu.walk_cache, tables, mmu.queue, mmu.counters, page, False, True)
    if value >= 0:
        for level in range(levels):
            fill(mmu.tlb, level, number, size, value)


@kernel(inline=True)
def _fetch_ahead(mmu: Mmu, line: int, direction: int) -> int:
    """Fetch the lines that a stream which has reached a line will need, inside its 4 KiB page; return how many came."""
    within = line & (LINES_IN_PAGE - 1)
    came = 0
    for ahead in range(1, mmu.control[Control.STREAM_LINES] + 1):
        wanted = within + direction * ahead
        if not 0 <= wanted < LINES_IN_PAGE:
            break
        if load_line(mmu.data_cache, line + direction * ahead, 1) != 1:
            came += 1
    return came


@kernel(inline=True)
def _fetch_neighbour(mmu: Mmu, line: int) -> bool:
    """Fetch a neighbour of a line that the first level missed; return whether it was not in the second."""
    if mmu.control[Control.ADJACENT] == Adjacent.PAIR:
        return load_line(mmu.data_cache, line ^ 1, 1) != 1
    step = neighbour(mmu.history, line >> LINES_IN_PAGE_SHIFT, line & (LINES_IN_PAGE - 1))
    return step != 0 and load_line(mmu.data_cache, line + step, 1) != 1


@kernel
def _drain(mmu: Mmu, stream: npt.NDArray[np.int64], beside: npt.NDArray[np.int64]) -> int:
    """Load all lines that wait, in order, train the prefetchers, and count for the stream or for what is beside it.

    Returns 1 or -1 if the last one is data that takes a stream out of its page upwards or downwards, else 0.
    """
    cache = mmu.data_cache
    queue = mmu.queue
    last_miss = mmu.control[Control.LAST_MISS_SET]
    trains = mmu.control[Control.STREAM_LINES] != 0 or mmu.control[Control.NEXT_PAGE] != 0
    adjacent = mmu.control[Control.ADJACENT] != Adjacent.NONE
    leaving = np.int64(0)
    waiting = queue[0]
    for at in range(1, waiting + 1):
        await_line(cache, queue[unsigned(at + AHEAD)] >> KIND_BITS)
        line = queue[unsigned(at)] >> KIND_BITS
        kind = queue[unsigned(at)] & (BESIDE - 1)
        others = queue[unsigned(at)] & BESIDE != 0
        counters = beside if others else stream
        served = load_line(cache, line, 0)
        column = served if served < cache.levels else np.int64(MOST_LEVELS)
        if kind == Kind.WALK:
            counters[unsigned(Cause.WALK_LEVEL_1 + column)] += 1
        elif kind == Kind.ARRAY:
            counters[unsigned(Cause.ARRAY_LEVEL_1 + column)] += 1
        elif kind != Kind.PREFETCH_WALK:
            counters[unsigned(Cause.DATA_LEVEL_1 + column)] += 1
            leaving = np.int64(0)
            if not others:
                # Whether it follows a miss in the same set is not asked of other work.
                place = np.int64(NO_SET) if served == 0 else first_level_set(cache, line)
                if kind == Kind.DATA and served != 0 and place == last_miss:
                    counters[Cause.FILL_CONFLICT] += 1
                last_miss = place
            if served == 0:
                continue
            if adjacent and _fetch_neighbour(mmu, line):
                counters[Cause.PREFETCH_LINE] += 1
            if trains:
                within = line & (LINES_IN_PAGE - 1)
                direction = train(mmu.streams, line >> LINES_IN_PAGE_SHIFT, within)
                if direction != 0:
                    counters[Cause.PREFETCH_LINE] += _fetch_ahead(mmu, line, direction)
                    if not 0 <= within + direction < LINES_IN_PAGE:
                        leaving = direction
    queue[0] = 0
    mmu.control[Control.LAST_MISS_SET] = last_miss
    return leaving


@kernel(inline=True)
def _finish(
    mmu: Mmu, tables: PageTables, page: int, stream: npt.NDArray[np.int64], beside: npt.NDArray[np.int64]
) -> bool:
    """Load what waits and let the next-page prefetcher follow; return whether it walked.

    ``page`` is that of the last data access, for which ``mmu`` counts; the lines are counted as in :func:`_drain`.
    """
    direction = _drain(mmu, stream, beside)
    if direction == 0 or mmu.control[Control.NEXT_PAGE] == 0 or mmu.control[Control.FREE_TRANSLATION] != 0:
        return False
    before = mmu.counters[Cause.PREFETCH_WALK]
    _prefetch_page(mmu, tables, (page + direction) & PAGE_BITS)
    if mmu.counters[Cause.PREFETCH_WALK] == before:
        return False
    _drain(mmu, stream, beside)
    return True


@kernel(inline=True)
def _is_due(mmu: Mmu, address: int) -> bool:
    """Return whether what waits must be loaded now: the queue is full, or a stream may be leaving its page."""
    if mmu.queue[0] >= QUEUE:
        return True
    within = (address >> LINE_SHIFT) & (LINES_IN_PAGE - 1)
    return mmu.control[Control.NEXT_PAGE] != 0 and (within == 0 or within == LINES_IN_PAGE - 1)


class Beside(NamedTuple):
    """Other work on the same CPU, which shares TLB and caches with a stream.

    Attributes
    ----------
    target : Target
        Its pages; never open-coded.
    offsets : int64[m]
        Gone through in turn, over and over.
    gap : int
        One such access follows every ``gap`` accesses of the stream; 0: none.
    state : int64[2]
        Accesses of the stream since the last one, and the place in ``offsets``.
    counters : int64[COUNTERS]
        What it counts, apart from the stream's events.
    """

    target: Target
    offsets: npt.NDArray[np.int64]
    gap: int
    state: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]


def no_target() -> Target:
    """Return a target without pages."""
    return Target(np.empty(0, np.uint64), 0, np.empty(0, np.uint64), 0)


def nothing_beside() -> Beside:
    """Return the absence of other work."""
    return Beside(no_target(), np.empty(0, np.int64), 0, np.zeros(2, np.int64), np.zeros(COUNTERS, np.int64))


@kernel(inline=True)
def _access_beside(mmu: Mmu, tables: PageTables, beside: Beside) -> None:
    """Do one access of other work, a load; its data goes by physical address in every data mode."""
    other = Mmu(
        mmu.tlb,
        mmu.walk_cache,
        mmu.data_cache,
        mmu.streams,
        mmu.history,
        mmu.regions,
        mmu.control,
        beside.counters,
        mmu.queue,
    )
    target = beside.target
    offset = beside.offsets[unsigned(beside.state[1])]
    beside.state[1] = beside.state[1] + 1 if beside.state[1] < len(beside.offsets) - 1 else 0
    address = np.int64(target.bases[unsigned(offset >> target.shift)]) + (offset & ((np.int64(1) << target.shift) - 1))
    page = (address >> 12) & PAGE_BITS
    first = mmu.queue[0] + 1
    frame, _, _ = _translate(other, tables, page, False)
    if frame >= 0:
        push(mmu.queue, frame << LINES_IN_PAGE_SHIFT | ((address >> LINE_SHIFT) & (LINES_IN_PAGE - 1)), Kind.DATA)
    mark_beside(mmu.queue, first)
    beside.counters[Cause.DATA_ACCESS] += 1
    mmu.counters[Cause.BACKGROUND_ACCESS] += 1
    if _is_due(mmu, address):
        _finish(other, tables, page, mmu.counters, beside.counters)


@kernel
def access_beside(mmu: Mmu, tables: PageTables, beside: Beside, count: int) -> None:
    """Do ``count`` accesses of other work, one after another."""
    for _ in range(count):
        _access_beside(mmu, tables, beside)
    _drain(mmu, mmu.counters, beside.counters)


@kernel
def access(
    mmu: Mmu, tables: PageTables, target: Target, offsets: npt.NDArray[np.int64], write: bool, beside: Beside
) -> None:
    """Access each offset in turn.

    Parameters
    ----------
    mmu : Mmu
        Mutated: all its state and counters.
    tables : PageTables
        Accessed and dirty bits are set.
    target : Target
        Read.
    offsets : int64[n]
        Byte offsets, 0 or more, inside the target.
    write : bool
        Stores rather than loads (page-array words are always loaded).
    beside : Beside
        Other work between these accesses; its state and counters are mutated.
    """
    within = (np.int64(1) << target.shift) - 1
    array_within = (np.int64(1) << target.array_shift) - 1
    open_coded = len(target.arrays) > 0
    mode = mmu.control[Control.DATA_MODE]
    neutral = mmu.control[Control.NEUTRAL_BASE]
    last = np.int64(-1)
    frame = np.int64(-1)
    repeated = 0
    for i in range(len(offsets)):
        if beside.gap > 0:
            if beside.state[0] == beside.gap:
                beside.state[0] = 0
                _access_beside(mmu, tables, beside)
                last = np.int64(-1)
            beside.state[0] += 1
        offset = offsets[i]
        if open_coded:
            place = (
                np.int64(target.arrays[unsigned(offset >> target.array_shift)]) + ((offset & array_within) >> 12) * 8
            )
            found, _, _ = _translate(mmu, tables, (place >> 12) & PAGE_BITS, False)
            if found >= 0:
                line = found << LINES_IN_PAGE_SHIFT | ((place >> LINE_SHIFT) & (LINES_IN_PAGE - 1))
                push(mmu.queue, line, Kind.ARRAY)
            last = np.int64(-1)
        address = np.int64(target.bases[unsigned(offset >> target.shift)]) + (offset & within)
        page = (address >> 12) & PAGE_BITS
        kind = np.int64(Kind.DATA)
        if page == last:
            # The page just used is the first level's most recent entry: a hit that changes nothing.
            repeated += 1
        else:
            frame, missed, reusable = _translate(mmu, tables, page, write)
            if missed != 0:
                kind = np.int64(Kind.DATA_AFTER_MISS)
            last = page if reusable else np.int64(-1)
        if frame >= 0:
            if mode == DataMode.FIRST_LEVEL:
                mmu.counters[Cause.DATA_LEVEL_1] += 1
                mmu.control[Control.LAST_MISS_SET] = NO_SET
            elif mode == DataMode.PHYSICAL:
                push(mmu.queue, frame << LINES_IN_PAGE_SHIFT | ((address >> LINE_SHIFT) & (LINES_IN_PAGE - 1)), kind)
            else:
                push(mmu.queue, neutral + (offset >> LINE_SHIFT), kind)
        if _is_due(mmu, address) and _finish(mmu, tables, page, mmu.counters, beside.counters):
            # The prefetched page is the most recent now.
            last = np.int64(-1)
    _drain(mmu, mmu.counters, beside.counters)
    mmu.counters[Cause.FIRST_LEVEL_TLB_HIT] += repeated
    mmu.counters[Cause.DATA_ACCESS] += len(offsets)
    if open_coded:
        mmu.counters[Cause.PAGE_ARRAY_ACCESS] += len(offsets)


@kernel
def leave_cleared(mmu: Mmu, frames: npt.NDArray[np.int64], first: int) -> None:
    """Leave the data caches as clearing 4 KiB pages in turn does; counts nothing.

    Parameters
    ----------
    mmu : Mmu
        Its data caches are mutated, as its data mode says.
    frames : int64[n]
        The pages.
    first : int
        Number of the first of them in the working set.
    """
    mode = mmu.control[Control.DATA_MODE]
    for i in range(len(frames)):
        start = frames[i] << LINES_IN_PAGE_SHIFT
        if mode == DataMode.COLOUR_NEUTRAL:
            start = mmu.control[Control.NEUTRAL_BASE] + ((first + i) << LINES_IN_PAGE_SHIFT)
        if mode != DataMode.FIRST_LEVEL:
            for line in range(LINES_IN_PAGE):
                load_line(mmu.data_cache, start + line, 0)


@kernel
def flush_all(mmu: Mmu) -> None:
    """Forget every translation; the data caches keep what they hold."""
    flush(mmu.tlb)
    flush_walk_cache(mmu.walk_cache)
    mmu.regions[:] = NO_REGION


@kernel
def flush_local(mmu: Mmu) -> None:
    """Forget every translation that is not global, as a write to CR3 does (Intel SDM volume 3A, 4.10.4.1)."""
    drop_local(mmu.tlb)
    flush_walk_cache(mmu.walk_cache)


@kernel
def invalidate_range(mmu: Mmu, address: np.uint64, count: int, level: int) -> int:
    """Drop ``count`` pages of a leaf level from an address on; return how many entries were dropped.

    Each is an INVLPG, which forgets all paging-structure caches too (Intel SDM volume 3A, 4.10.4.1).
    """
    dropped = 0
    page = np.int64(address >> PAGE_SHIFT)
    step = np.int64(1) << (9 * (level - 1))
    for i in range(count):
        at = page + i * step
        dropped += invalidate(mmu.tlb, at >> (9 * (level - 1)), level - 1)
        for region in range(at >> REGION_PAGES_SHIFT, ((at + step - 1) >> REGION_PAGES_SHIFT) + 1):
            slot = region & (REGIONS - 1)
            if mmu.regions[unsigned(slot)] >> 2 == region:
                mmu.regions[unsigned(slot)] = NO_REGION
    if count > 0:
        drop_directories(mmu.tlb)
        flush_walk_cache(mmu.walk_cache)
    return dropped
