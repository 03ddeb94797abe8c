"""The policies on one trace of requests: what each is served, what it does for that, and what it takes besides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from vckernels.causes import Cause
from vclab.compound import CompoundPage
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.policies import Attempt, find_policy
from vclab.studies.machine import MachineParameters
from vclab.system import System

#: Compared on one request trace. Those that differ only in what reclaim and compaction do are not among them.
POLICIES = ("physical", "early-fallback", "always-virtual", "vmalloc", "huge-vmalloc")
STEPS = ("allocate", "free")
WORK = (
    Cause.ALLOCATION,
    Cause.FREE,
    Cause.SPLIT,
    Cause.MERGE,
    Cause.CLAIM_BLOCK,
    Cause.CLAIM_PAGEBLOCK,
    Cause.STEAL,
    Cause.TABLE_PAGE,
    Cause.ENTRY_WRITE,
    Cause.AREA_RESERVE,
    Cause.AREA_STEP,
    Cause.AREA_POOL_HIT,
    Cause.AREA_RELEASE,
    Cause.AREA_LAZY_FREE,
    Cause.AREA_PURGE,
    Cause.STRUCT_PAGE,
    Cause.FLUSH_CALL,
    Cause.TLB_INVALIDATION,
    Cause.TLB_FLUSH,
    Cause.INTERRUPT,
)


class _Outcome(NamedTuple):
    """What became of the requests that a policy met."""

    answers: tuple[int, int, int]
    """Physical, virtual, failed."""
    work: npt.NDArray[np.int64]
    """By step and operation."""
    overhead: tuple[int, int, int]
    """Attributed bytes, and frames newly taken and kept."""


def run_policies(aged: System, parameters: MachineParameters, requests: int, order: int, seed: int) -> xr.Dataset:
    """Give every policy the same requests on a copy of the same machine, then free all in one random order."""
    free_order = np.random.default_rng([seed, order, 2]).permutation(requests)
    # Policies that make the same attempts do the same.
    of_attempts: dict[tuple[Attempt, ...], _Outcome] = {}
    outcomes = []
    for name in POLICIES:
        policy = find_policy(name, aged.linux.early_fallback.value)
        attempts = policy.attempts(order, int(GFP_VFALLBACK), 0)
        if attempts not in of_attempts:
            of_attempts[attempts] = _run_policy(aged.copy(policy=name), parameters, order, free_order)
        outcomes.append(of_attempts[attempts])
    overhead = np.array([outcome.overhead for outcome in outcomes])
    return xr.Dataset(
        {
            "outcome": (("policy", "answer"), np.array([outcome.answers for outcome in outcomes])),
            "work": (("policy", "step", "operation"), np.stack([outcome.work for outcome in outcomes])),
            "attributed_bytes": ("policy", overhead[:, 0]),
            "marginal_frames": ("policy", overhead[:, 1]),
            "retained_frames": ("policy", overhead[:, 2]),
        }
    )


def _run_policy(
    system: System, parameters: MachineParameters, order: int, free_order: npt.NDArray[np.int64]
) -> _Outcome:
    """Make all requests of an order, and free what they got."""
    counts = [system.ledger.counts]
    free_before = system.memory.zone.free_frames
    pages: list[CompoundPage | None] = []
    for _ in free_order:
        try:
            pages.append(system.alloc_pages(order, GFP_VFALLBACK))
        except OutOfMemory:
            pages.append(None)
    counts.append(system.ledger.counts)
    parameters.audited(system)
    served = [page for page in pages if page is not None]
    virtual = sum(page.is_virtual for page in served)
    attributed = sum(page.overhead_bytes for page in served)
    marginal = sum(page.marginal_frames for page in served)
    for index in free_order:
        page = pages[index]
        if page is not None:
            system.free_pages(page)
    # What was freed lazily pays its part of a flush.
    system.purge_vmalloc_area()
    counts.append(system.ledger.counts)
    parameters.audited(system)
    return _Outcome(
        (len(served) - virtual, virtual, len(pages) - len(served)),
        np.diff(counts, axis=0)[:, list(WORK)],
        (attributed, marginal, free_before - system.memory.zone.free_frames),
    )
