"""Huge vmalloc: lookups in a large hash behind 4K and behind 2M entries, with other work between them.

The published pair: ``git diff`` with the kernel's hashes in the vmalloc area missed its TLBs 59,800 times with 4K and
2,100 times with 2M entries, and took 0.54 % fewer cycles (N. Piggin, linux-arch mailing list, March 2021, "huge vmalloc
mappings", on POWER9). How much of the time went elsewhere is not published, so the share of other work is an axis,
in both readings: over the time of the lookups, and over all time.

The hash is the bucket array alone (as the dentry hash is), so a lookup is one access. Other work has pages of its own
(half kernel data, a tenth stacks, the rest user pages) and runs in bursts between bursts of lookups; how many accesses
it makes is found with 4K entries, and the same accesses follow with 2M entries. Counted is a run that begins with the
other work's pages translated and those of the hash not, as a counter around a whole program sees it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from vckernels.mmu import Target
from vclab import streams
from vclab.background import Background
from vclab.compound import CompoundPage
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.ledger import price_access
from vclab.policies import HUGE_ORDER
from vclab.studies.access_cost.grid import Parameters
from vclab.studies.cells import EVENTS, digest
from vclab.system import System
from vclab.units import PAGE_BYTES

Counts = npt.NDArray[np.int64]
ENTRIES = {"4K": "vmalloc", "2M": "huge-vmalloc"}
WHO = ("lookups", "other work")
#: Lookups before other work has its turn.
BURST = 16
#: Most accesses of other work, but for so many lookups, in the runs by which its amount is found.
MOST_OTHER = 1_000_000
FEWEST_LOOKUPS = 500
#: Other work's time may be this far from what was asked, in parts of it; runs to come nearer.
NEAR, TRIES, CORRECTIONS = 0.02, 6, 2
#: TLB misses with 4K and 2M entries, and percent of cycles saved.
PUBLISHED_MISSES = (59_800, 2_100)
PUBLISHED_FALL = 0.54


def work_shares(parameters: Parameters) -> list[tuple[str, str, float]]:
    """Return name, reading and share of each amount of other work, none first."""
    own = [(f"{share:.0%} of lookups", "own", share) for share in parameters.own_shares]
    whole = [(f"{share:.0%} of all", "all", share) for share in parameters.time_shares]
    return [("none", "own", 0.0), *own, *whole]


def relative_to_lookups(reading: str, share: float) -> float:
    """Return the time of other work over that of the lookups."""
    return share if reading == "own" else share / (1 - share)


class _Run:
    """Lookups in one hash on one machine."""

    def __init__(self, system: System, page: CompoundPage, offsets: Counts) -> None:
        assert system.background is not None
        self.system = system
        self.page = page
        self.offsets = offsets
        self.beside = system.background.beside
        nothing = np.empty(0, np.uint64)
        self.target = Target(np.array([page.address], np.uint64), page.nbytes.bit_length() - 1, nothing, 0)
        mmu = system.mmu
        mmu.empty_caches()
        mmu.leave_cleared(page.frames)
        self.lines = mmu.cached_lines()

    def __call__(self, other: float, alone: int = 0) -> Counts:
        """Run all lookups with ``other`` accesses of other work for each; return int64[len(WHO), COUNTERS].

        The first ``alone`` of them are run without it, and not counted.
        """
        mmu, tables = self.system.mmu, self.system.page_tables.state
        mmu.flush()
        mmu.set_cached_lines(self.lines)
        self.beside.state[:] = 0
        if other:
            mmu.access_beside(tables, self.beside, 2 * len(self.beside.offsets))
        mmu.access(tables, self.target, self.offsets[:alone], False)
        before = np.stack([mmu.counters, self.beside.counters])
        done = 0
        for start in range(alone, len(self.offsets), BURST):
            end = min(start + BURST, len(self.offsets))
            mmu.access(tables, self.target, self.offsets[start:end], False)
            due = int((end - alone) * other) - done
            if due:
                mmu.access_beside(tables, self.beside, due)
                done += due
        return np.stack([mmu.counters, self.beside.counters]) - before


def measure_huge(aged: System, parameters: Parameters, seed: int) -> xr.Dataset:
    """Compare 2M with 4K entries for every size of hash; ``aged`` is copied, not changed."""
    orders, works = parameters.hash_orders, work_shares(parameters)
    events = np.zeros((len(orders), len(works), len(ENTRIES), len(WHO), len(EVENTS)), np.int64)
    share, measured = np.zeros(len(orders)), np.zeros(len(orders), np.int8)
    digests = [""] * len(orders)
    for o, order in enumerate(orders):
        share[o] = _huge_share(aged, order, parameters.hash_requests)
        offsets = streams.hash_table(PAGE_BYTES << order, parameters.lookups, seed=seed, chains=False)
        digests[o] = digest(offsets)
        runs = _runs(aged, parameters, order, offsets)
        if runs is None:
            continue
        measured[o] = 1
        for_one = 1.0
        for w, (_, reading, wanted) in enumerate(works):
            goal = relative_to_lookups(reading, wanted)
            counts, each = _calibrated(runs["4K"], goal, for_one * goal)
            for_one = each / goal if goal else for_one
            events[o, w, 0] = counts[:, list(EVENTS)]
            events[o, w, 1] = runs["2M"](each)[:, list(EVENTS)]
    dims = ("hash_order", "work", "entries", "who", "event")
    return xr.Dataset(
        {
            "huge_events": (dims, events),
            "huge_share": ("hash_order", share),
            "huge_measured": ("hash_order", measured),
            "huge_offsets_digest": ("hash_order", digests),
        }
    )


def _huge_share(aged: System, order: int, requests: int) -> float:
    """Return the share of so many hashes, asked for one after another, that get 2M entries."""
    system = aged.copy(policy="huge-vmalloc")
    huge = 0
    for _ in range(requests):
        try:
            huge += system.alloc_pages(order, GFP_VFALLBACK).mapping_level == 2
        except OutOfMemory:
            break
    return huge / requests


def _runs(aged: System, parameters: Parameters, order: int, offsets: Counts) -> dict[str, _Run] | None:
    """Return the same lookups behind 4K and 2M entries, with other work in the same frames; None without 2M blocks."""
    base = aged.copy()
    base.set_background(Background(pages=parameters.other_pages, gap=0))
    runs = {}
    for entries, policy in ENTRIES.items():
        system = base.copy(policy=policy)
        try:
            page = system.alloc_pages(order, GFP_VFALLBACK)
        except OutOfMemory:
            return None
        if entries == "2M" and page.mapping_level != 2:
            return None
        runs[entries] = _Run(system, page, offsets)
    assert order >= HUGE_ORDER
    return runs


def _calibrated(run: _Run, goal: float, each: float) -> tuple[Counts, float]:
    """Run the lookups with as much other work as takes ``goal`` times their cycles, found from a guess.

    Returns
    -------
    counts, each : tuple of int64[len(WHO), COUNTERS] and float
        Events, and accesses of other work for each lookup. First tried on as many of the last lookups as time allows.
    """
    if not goal:
        return run(0.0), 0.0
    most = len(run.offsets)
    for _ in range(TRIES):
        sample = int(min(most, max(FEWEST_LOOKUPS, MOST_OTHER / each)))
        reached = _reached(run, run(each, most - sample))
        if abs(reached / goal - 1) < NEAR:
            break
        each *= goal / reached
    for _ in range(CORRECTIONS):
        counts = run(each)
        reached = _reached(run, counts)
        if abs(reached / goal - 1) < NEAR:
            return counts, each
        each *= goal / reached
    return run(each), each


def _reached(run: _Run, counts: Counts) -> float:
    """Return the cycles of other work over those of the lookups; where there was none at all, next to nothing."""
    cycles = price_access(counts, run.system.cpu).sum(1)
    return max(float(cycles[1] / cycles[0]), 1e-3)
