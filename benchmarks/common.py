"""Inputs that all benchmarks share.

An input is part of a benchmark's identity: **append here, never change what is here**, or a step in a series says
nothing about the code. For the same reason no library's random generator takes part.
"""

from __future__ import annotations

import functools
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import claim, entry, pagetable, vmap
from vckernels import mmu as mmu_kernels
from vckernels import tlb as tlb_kernels
from vckernels.buddy import MAX_ORDER, Buddy, Migratetype
from vckernels.jit import kernel
from vckernels.mmu import Mmu, Target
from vckernels.pagetable import PageTables
from vckernels.tlb import Array, Tlb
from vckernels.vmap import Areas

MIB = 1 << 20
FRAMES = 65_536
"""A zone of 256 MiB."""
BASE = 0xFFFF_C900_0000_0000
"""Virtual address that mapped ranges start at: Linux's vmalloc area with 4 levels."""

GEOMETRIES = {
    "skylake": (Array(1, 16, 4, (1,)), Array(2, 128, 12, (1,))),
    "zen3": (Array(1, 1, 64, (1, 2, 3)), Array(2, 128, 16, (1, 2)), Array(2, 1, 64, (3,))),
}
"""TLBs of two levels: 64 entries of 4 ways before 1536 of 12; 64 of 64 ways before 2048 of 16."""

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
def _mapped(nbytes: int, level: int) -> PageTables:
    pages = nbytes >> (12 + 9 * (level - 1))
    machine = 4 * (nbytes >> 12)
    size = 1 << (9 * (level - 1))
    # Leaves in scattered frames of the machine's lower half, tables in scattered frames of the upper.
    leaves = permutation(machine // 2 // size, seed=2)[:pages] * size
    table_frames = machine // 2 + permutation(machine // 2, seed=3)
    tables = pagetable.new_page_tables(int(table_frames[0]), 0, machine, 4, 48, True, capacity=nbytes // (2 * MIB) + 8)
    needed = int(pagetable.survey(tables, np.uint64(BASE), pages, level))
    pagetable.map_range(
        tables, np.uint64(BASE), leaves, level, entry.KERNEL_LEAF, entry.KERNEL_TABLE, table_frames[1 : 1 + needed]
    )
    return tables


def mapped(nbytes: int, level: int = 1) -> PageTables:
    """Return page tables that map ``nbytes`` at :data:`BASE` by leaves of a level in scattered frames."""
    return copied(_mapped(nbytes, level))


def target(nbytes: int) -> Target:
    """Return what maps offsets to addresses from :data:`BASE` on; ``nbytes`` is a power of two."""
    return Target(np.array([BASE], np.uint64), nbytes.bit_length() - 1, np.zeros(0, np.uint64), 0)


def mmu(geometry: str) -> Mmu:
    """Return a CPU that has translated nothing yet, with one of :data:`GEOMETRIES`."""
    return mmu_kernels.new_mmu(tlb(geometry))


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
