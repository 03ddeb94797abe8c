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
from vclab import streams

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


def access(name: str) -> Counts:
    """Count what one of :data:`benchmarks.common.ACCESSES` makes TLB, walks and caches do."""
    mmu, tables, target, offsets, write, beside = common.ACCESSES[name].start(COUNT)
    mmu_kernels.access(mmu, tables, target, offsets, write, beside)
    causes = range(Cause.DATA_ACCESS, Cause.PREFETCH_REFERENCE + 1)
    found = _named(mmu.counters, *map(Cause, causes))
    if beside.gap:
        others = _named(beside.counters, *map(Cause, causes))
        found |= {f"beside_{name}": number for name, number in others.items() if number}
    return found


def data_cache(processor: str, stream: str) -> Counts:
    """Count which level serves the lines of a stream, without translation; memory is the level past the last."""
    served = np.zeros(4, np.int64)
    common.run_lines(common.data_cache(processor), common.offsets(stream, COUNT) >> 6, served)
    return {f"level_{level}": int(number) for level, number in enumerate(served, start=1)}


LOWEST_WORDS = {"zen3": 3, "skylake-sp": 2}
"""Lowest level of the words that each processor's own paging-structure caches hold, where they are virtually tagged."""


def walk_cache(processor: str, stream: str) -> Counts:
    """Count at which level the paging-structure caches let walks begin; 0 is the root."""
    hits = np.zeros(6, np.int64)
    common.run_words(
        common.walk_cache(processor),
        common.offsets(stream, COUNT) >> 12,
        LOWEST_WORDS[processor],
        hits,
    )
    return {f"level_{level}": int(number) for level, number in enumerate(hits)}


def huge_mappings() -> Counts:
    """Count words and tables while 512 MiB of 4K pages make room for 2M pages, and those for 4K pages again."""
    state = common.new_remapping(512 * common.MIB)
    common.remap(state)
    tables = state.tables
    return {
        "tables": int(tables.control[pagetable.Control.TABLES]),
        "present_words": int(np.count_nonzero(tables.words & entries.PRESENT)),
        **_named(tables.counters, Cause.TABLE_PAGE, Cause.ENTRY_WRITE),
    }


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


def aligned_areas() -> Counts:
    """Count the same where every eighth range is one of 2 MiB at a multiple of 2 MiB."""
    state, starts = common.new_large_areas(), np.full(common.AREA_SLOTS, -1, np.int64)
    served = common.run_aligned_areas(state, common.area_requests(COUNT // 4), starts)
    causes = (Cause.AREA_RESERVE, Cause.AREA_RELEASE, Cause.AREA_STEP)
    return {"served": int(served), **_named(state.counters, *causes)}


STREAMS: dict[str, Callable[[int], npt.NDArray[np.int64]]] = {
    "uniform": lambda count: streams.uniform(1024 * common.MIB, count, seed=1),
    "sequential": lambda count: streams.sequential(1024 * common.MIB, count),
    "strided": lambda count: streams.strided(1024 * common.MIB, count, 4096),
    "chase": lambda count: streams.chase(1024 * common.MIB, count, seed=1),
    "zipf": lambda count: streams.zipf(1024 * common.MIB, count, seed=1),
    "hash_table": lambda count: streams.hash_table(1024 * common.MIB, count, seed=1),
    "bucket_heads": lambda count: streams.hash_table(1024 * common.MIB, count, seed=1, chains=False),
}
"""Streams of offsets over 1 GiB by name; each takes how many."""


def offsets(stream: str) -> Counts:
    """Count the lines and pages that one of :data:`STREAMS` meets; the checksum stands for its order."""
    found = STREAMS[stream](COUNT)
    return {
        "lines": len(np.unique(found >> 6)),
        "pages": len(np.unique(found >> 12)),
        "checksum": int(streams.digest(found)[:8], 16),
    }


SCENARIOS: dict[str, Callable[[], Counts]] = {
    **{f"buddy {kind}": lambda kind=kind: buddy(kind) for kind in common.TRACES},
    **{
        f"tlb {geometry} {stream}": lambda geometry=geometry, stream=stream: tlb(geometry, stream)
        for geometry in common.GEOMETRIES
        for stream in common.STREAMS
    },
    **{f"access {name}": lambda name=name: access(name) for name in common.ACCESSES},
    "page tables": page_tables,
    "areas": areas,
    **{f"stream {stream}": lambda stream=stream: offsets(stream) for stream in STREAMS},
    **{
        f"data cache {processor} {stream}": lambda processor=processor, stream=stream: data_cache(processor, stream)
        for processor in common.PROCESSORS
        for stream in common.STREAMS
    },
    **{
        f"walk cache {processor} {stream}": lambda processor=processor, stream=stream: walk_cache(processor, stream)
        for processor in LOWEST_WORDS
        for stream in common.STREAMS
    },
    "huge mappings": huge_mappings,
    "aligned areas": aligned_areas,
}
"""What can be counted, by name."""
