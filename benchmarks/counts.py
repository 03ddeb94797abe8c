"""Exact counts of what the model does with the shared inputs: the same on every machine, so any change is a change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks import common
from vckernels import claim, pagetable
from vckernels import entry as entries
from vckernels import mmu as mmu_kernels
from vckernels import tlb as tlb_kernels
from vckernels.buddy import MAX_ORDER
from vckernels.causes import Cause

COUNT = 1_000_000
"""Requests or accesses of each scenario."""

Counts = dict[str, int]


def _named(counters: npt.NDArray[np.int64], *causes: Cause) -> Counts:
    return {cause.name.lower(): int(counters[cause]) for cause in causes}


def buddy(kind: str) -> Counts:
    """Count what a trace of allocations and frees makes the allocator do, and what is left whole."""
    trace = common.trace(kind, COUNT)
    zone, slots, slot_orders = trace.start()
    served = claim.run_trace(zone, trace.requests, trace.migratetypes, slots, slot_orders)
    found = _named(
        zone.counters,
        Cause.ALLOCATION,
        Cause.ALLOCATION_FAILURE,
        Cause.FREE,
        Cause.SPLIT,
        Cause.MERGE,
        Cause.CLAIM_BLOCK,
        Cause.CLAIM_PAGEBLOCK,
        Cause.CLAIM_REFUSED,
        Cause.CLAIM_MOVED_FRAMES,
        Cause.STEAL,
    )
    blocks = zone.free_blocks.sum(axis=1)
    return {
        "served": int(served),
        **found,
        "free_frames": int(blocks @ (1 << np.arange(MAX_ORDER + 1))),
        "free_blocks": int(blocks.sum()),
        "free_largest_blocks": int(blocks[MAX_ORDER]),
    }


def tlb(geometry: str, stream: str) -> Counts:
    """Count the misses of both TLB levels for a stream of 4K pages."""
    misses = np.zeros(2, np.int64)
    tlb_kernels.count_misses(common.tlb(geometry), common.offsets(stream, COUNT) >> 12, misses)
    return {"first_level_misses": int(misses[0]), "second_level_misses": int(misses[1])}


def access(stream: str, level: int, write: bool) -> Counts:
    """Count hits, walks and the words that walks load, through page tables with leaves of a level."""
    nbytes = common.STREAMS[stream][1]
    mmu, tables = common.mmu("zen3"), common.mapped(nbytes, level)
    mmu_kernels.access(mmu, tables, common.target(nbytes), common.offsets(stream, COUNT), write)
    return _named(
        mmu.counters,
        Cause.DATA_ACCESS,
        Cause.FIRST_LEVEL_TLB_HIT,
        Cause.SECOND_LEVEL_TLB_HIT,
        Cause.WALK,
        Cause.WALK_REFERENCE,
        Cause.TLB_FAULT,
    )


def page_tables() -> Counts:
    """Count tables and words written for 256 MiB mapped by 4K leaves, half of them unmapped again."""
    nbytes = 256 * common.MIB
    tables = common.mapped(nbytes)
    half = nbytes // 8192
    pagetable.unmap_range(tables, np.uint64(common.BASE), half, 1, np.empty(half, np.int64))
    return {
        "tables": int(tables.control[pagetable.Control.TABLES]),
        "present_words": int(np.count_nonzero(tables.words & entries.PRESENT)),
        **_named(tables.counters, Cause.TABLE_PAGE, Cause.ENTRY_WRITE),
    }


def areas() -> Counts:
    """Count tree nodes visited while ranges of the vmalloc area come and go."""
    state, starts = common.new_areas(), np.full(common.AREA_SLOTS, -1, np.int64)
    served = common.run_areas(state, common.area_requests(COUNT), starts)
    causes = (Cause.AREA_RESERVE, Cause.AREA_RELEASE, Cause.AREA_STEP)
    return {"served": int(served), **_named(state.counters, *causes)}


SCENARIOS: dict[str, Callable[[], Counts]] = {
    **{f"buddy {kind}": lambda kind=kind: buddy(kind) for kind in common.TRACES},
    **{
        f"tlb {geometry} {stream}": lambda geometry=geometry, stream=stream: tlb(geometry, stream)
        for geometry in common.GEOMETRIES
        for stream in common.STREAMS
    },
    **{f"access 4K {stream}": lambda stream=stream: access(stream, 1, False) for stream in common.STREAMS},
    "access 4K uniform-256MiB write": lambda: access("uniform-256MiB", 1, True),
    "access 2M uniform-256MiB": lambda: access("uniform-256MiB", 2, False),
    "page tables": page_tables,
    "areas": areas,
}
"""What can be counted, by name."""
