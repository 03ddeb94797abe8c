"""The price of falling back: paired cells on an aged machine, and the policies on one request trace.

Four cells on identical offsets tell mapping size, placement and virtual contiguity apart:

====  ===========  =======================================================================
cell  frames       mapping
====  ===========  =======================================================================
i     contiguous   direct map
ii    contiguous   4K entries in the vmalloc area
iii   scattered    4K entries in the vmalloc area
iv    the same     direct map, as open-coded pages: the page array's word is loaded first
====  ===========  =======================================================================

ii - i is mapping size, iii - ii placement, iii - iv what virtual contiguity costs or saves against open coding.
Placement costs exactly nothing until data caches or coalescing TLBs are modelled: no 4K entry knows its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vckernels.buddy import describe_frames
from vckernels.causes import Cause
from vclab import presets, recordings, streams
from vclab.ageing import REPLACED
from vclab.compound import POLICIES, CompoundPage
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.ledger import ACCESS_CAUSES, price_access, price_overlapped
from vclab.studies import Progress
from vclab.system import RECORDED, System, check_paging, check_size
from vclab.units import PAGE_BYTES, PAGE_SHIFT

CELLS = ("i", "ii", "iii", "iv")
PATTERNS = {"uniform": streams.uniform, "chase": streams.chase}
PHASES = ("cold", "steady")
EVENTS = (
    Cause.DATA_ACCESS,
    Cause.PAGE_ARRAY_ACCESS,
    Cause.FIRST_LEVEL_TLB_HIT,
    Cause.SECOND_LEVEL_TLB_HIT,
    Cause.WALK,
    Cause.WALK_REFERENCE,
)
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
)


class Parameters(BaseModel):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str = Field("zen3", description="CPU preset")
    linux: str = Field("6.18", description="Linux preset")
    memory: str = Field("recorded", description="size of the machine, or 'recorded'")
    recording: str = Field("compile", description="recording that the machine and its ageing come from")
    levels: Literal[4, 5] | None = Field(None, description="page-table levels; the CPU's most by default")
    direct_map: Literal["4K", "2M", "1G"] = Field("2M", description="page size of the direct map")
    fragment_order: Annotated[int, Field(ge=0, le=10)] = 9
    unusable: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="unusable free index to age to")
    free: Annotated[float, Field(gt=0, lt=1)] = Field(0.30, description="free share to age to")
    tail: Literal["never", "hour", "day"] = Field("hour", description="lifetime of what outlived the recording")
    orders: list[Annotated[int, Field(ge=1, le=10)]] = Field(list(range(1, 11)), min_length=1)
    live_pages: list[Annotated[int, Field(ge=1, le=4096)]] = Field([1, 4, 16, 64, 256], min_length=1)
    accesses: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        35_000, description="fewest accesses of a steady phase"
    )
    requests: Annotated[int, Field(ge=1, le=100_000)] = Field(
        256, description="requests of the policy trace, per order"
    )
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(5, description="independent ageings")
    seed: int = Field(1, ge=0, description="first seed")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        """Refuse presets and sizes that do not exist before any work is done."""
        for name in ("orders", "live_pages"):
            values = getattr(self, name)
            if values != sorted(set(values)):
                raise ValueError(f"{name} must ascend, each value once")
        if self.recording not in recordings.names() and not Path(self.recording).exists():
            known = ", ".join(recordings.names())
            raise ValueError(f"no recording {self.recording!r}; name a path, or one of those shipped: {known}")
        presets.linux(self.linux)
        check_paging(self.cpu, self.levels, self.direct_map)
        if self.memory != RECORDED:
            check_size(self.memory)
        return self


#: What ``--quick`` changes: one seed on a small machine.
QUICK = {
    "seeds": 1,
    "memory": "1GiB",
    "orders": [1, 3, 5, 7, 9],
    "live_pages": [1, 4, 16],
    "accesses": 10_000,
    "requests": 64,
}


ASSUMPTIONS = (
    ("ageing.replaced", str(REPLACED), "arrivals for each death while memory runs empty, so that holes are refilled"),
    ("ageing.tail", "hour, unless set", "end of the lifetimes of what outlived the recording: evenly in the logarithm"),
    (
        "ageing.old-blocks",
        "by order",
        "an order with no block when the recording began gets the curve of the one below",
    ),
    ("requests", "each order alike", "kernels do not ask for all orders equally often; shares are given by order too"),
)


def points(parameters: Parameters) -> Sequence[int]:
    """Return the seeds; each ages memory anew."""
    return range(parameters.seed, parameters.seed + parameters.seeds)


def run_point(parameters: Parameters, point: int, progress: Progress) -> xr.Dataset:
    """Age one machine and measure cells and policies on copies of it."""
    progress(0.0, "booting")
    system = System(
        cpu=parameters.cpu,
        linux=parameters.linux,
        memory=parameters.memory,
        levels=parameters.levels,
        direct_map=parameters.direct_map,
        recording=parameters.recording,
        seed=point,
    )
    before = _frame_states(system)
    progress(0.02, "ageing memory")
    aged = system.fragment(
        parameters.fragment_order, parameters.unusable, parameters.free, parameters.recording, parameters.tail
    )
    after = _frame_states(system)
    parts = []
    for done, order in enumerate(parameters.orders):
        progress(0.4 + 0.6 * done / len(parameters.orders), f"order {order}")
        cells = _measure_cells(system, parameters, order, point)
        parts.append(cells.merge(_run_policies(system, parameters, order, point)))
    dataset = xr.concat(parts, xr.Variable("order", parameters.orders))
    dataset["unusable_index"] = xr.Variable("target_order", [system.unusable_free_index(order) for order in range(11)])
    dataset["free_share"] = xr.Variable((), system.memory.free_share)
    dataset["buddyinfo"] = xr.Variable("target_order", system.buddyinfo()[0])
    for name, value in aged.items():
        dataset[f"ageing_{name}"] = xr.Variable((), value)
    if point == parameters.seed:
        dataset["frame_state"] = xr.Variable(("moment", "frame"), np.stack([before, after]))
    progress(1.0, "done")
    return dataset


def _frame_states(system: System) -> npt.NDArray[np.uint8]:
    states = np.empty(system.memory.zone.frames, np.uint8)
    describe_frames(system.memory.zone.buddy, states)
    return states


class _Cells:
    """The same working set reached in four ways."""

    def __init__(self, aged: System, order: int, count: int, rng: np.random.Generator) -> None:
        self.nbytes = PAGE_BYTES << order
        self.contiguous = aged.copy(policy="physical")
        self.scattered = aged.copy(policy="vmalloc")
        self.counterfactual = 0
        starts = self._contiguous_starts(order, count, rng)
        self.pages = [self.scattered.alloc_pages(order, GFP_VFALLBACK) for _ in range(count)]
        direct = self.contiguous.direct_map
        frames = starts[:, None] + np.arange(1 << order)
        self.direct = np.array([direct.address(int(start)) for start in starts], np.uint64)
        self.remapped = np.array([self.contiguous.vmap(block) for block in frames], np.uint64)
        self.virtual = np.array([page.address for page in self.pages], np.uint64)
        scattered_frames = np.concatenate([page.frames for page in self.pages])
        self.open_coded = np.uint64(direct.start) + (scattered_frames.astype(np.uint64) << np.uint64(PAGE_SHIFT))
        self.arrays = np.array([direct.start + page.array_address for page in self.pages], np.uint64)

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
            every = zone.first_frame + np.arange(0, zone.frames, 1 << order)
            others = np.setdiff1d(every, np.array(won, np.int64))
            if len(others) < self.counterfactual:
                raise OutOfMemory(
                    f"the machine has no {count} blocks of order {order}; give it more memory or lower live_pages"
                )
            won += rng.choice(others, self.counterfactual, replace=False).tolist()
        return np.array(won, np.int64)

    def access(self, cell: str, live: int, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Run offsets over the first ``live`` pages in one cell; return event counts."""
        if cell == "iv":
            pages = self.nbytes // PAGE_BYTES
            cost = self.scattered.access_at(
                self.open_coded[: live * pages],
                PAGE_BYTES,
                offsets,
                arrays=self.arrays[:live],
                array_nbytes=self.nbytes,
            )
        else:
            system = self.scattered if cell == "iii" else self.contiguous
            bases = {"i": self.direct, "ii": self.remapped, "iii": self.virtual}[cell]
            cost = system.access_at(bases[:live], self.nbytes, offsets)
        return cost.counts[list(EVENTS)]

    def flush(self) -> None:
        """Empty the TLBs."""
        self.contiguous.mmu.flush()
        self.scattered.mmu.flush()


def _measure_cells(aged: System, parameters: Parameters, order: int, seed: int) -> xr.Dataset:
    most = max(parameters.live_pages)
    cells = _Cells(aged, order, most, np.random.default_rng([seed, order]))
    shape = (len(parameters.live_pages), len(CELLS), len(PATTERNS), len(PHASES), len(EVENTS))
    events = np.zeros(shape, np.int64)
    digests = np.empty((len(parameters.live_pages), len(PATTERNS)), object)
    for k, live in enumerate(parameters.live_pages):
        pages = live << order
        steady = max(pages, parameters.accesses)
        for p, (pattern, stream) in enumerate(PATTERNS.items()):
            offsets = stream(live * cells.nbytes, 2 * pages + steady, int.from_bytes(pattern.encode()[:4]) + seed)
            digests[k, p] = hashlib.blake2b(offsets.data, digest_size=8).hexdigest()
            cells.flush()
            for c, cell in enumerate(CELLS):
                events[k, c, p, 0] = cells.access(cell, live, offsets[:pages])
                cells.access(cell, live, offsets[pages : 2 * pages])
                events[k, c, p, 1] = cells.access(cell, live, offsets[2 * pages :])
                cells.flush()
    runs = np.concatenate([page.run_lengths for page in cells.pages])
    return xr.Dataset(
        {
            "events": (("live_pages", "cell", "pattern", "phase", "event"), events),
            "offsets_digest": (("live_pages", "pattern"), digests.astype(str)),
            "counterfactual": ((), cells.counterfactual),
            "mean_run_length": ((), float(runs.mean())),
            "aligned_groups_of_four": ((), _coalescible(cells.pages)),
        }
    )


def _coalescible(pages: Sequence[CompoundPage]) -> float:
    """Return the share of aligned groups of four pages whose frames are consecutive and aligned."""
    large = [page.frames.reshape(-1, 4) for page in pages if page.order >= 2]
    if not large:
        return 0.0
    groups = np.concatenate(large)
    whole = (groups[:, 0] % 4 == 0) & (np.diff(groups, axis=1) == 1).all(axis=1)
    return float(whole.mean())


def _run_policies(aged: System, parameters: Parameters, order: int, seed: int) -> xr.Dataset:
    """Give every policy the same requests on a copy of the same machine, then free all in one random order."""
    names = list(POLICIES)
    outcome = np.zeros((len(names), 3), np.int64)
    work = np.zeros((len(names), len(WORK)), np.int64)
    overhead = np.zeros((len(names), 3), np.int64)
    free_order = np.random.default_rng([seed, order, 2]).permutation(parameters.requests)
    for row, name in enumerate(names):
        system = aged.copy(policy=name)
        start = system.ledger.counts.copy()
        free_before = system.memory.zone.free_frames
        pages: list[CompoundPage | None] = []
        for _ in range(parameters.requests):
            try:
                pages.append(system.alloc_pages(order, GFP_VFALLBACK))
            except OutOfMemory:
                pages.append(None)
        served = [page for page in pages if page is not None]
        virtual = sum(page.is_virtual for page in served)
        outcome[row] = len(served) - virtual, virtual, len(pages) - len(served)
        overhead[row, 0] = sum(page.overhead_bytes for page in served)
        overhead[row, 1] = sum(page.marginal_frames for page in served)
        for index in free_order:
            page = pages[index]
            if page is not None:
                system.free_pages(page)
        overhead[row, 2] = free_before - system.memory.zone.free_frames
        work[row] = (system.ledger.counts - start)[list(WORK)]
    return xr.Dataset(
        {
            "outcome": (("policy", "answer"), outcome),
            "work": (("policy", "operation"), work),
            "attributed_bytes": ("policy", overhead[:, 0]),
            "marginal_frames": ("policy", overhead[:, 1]),
            "retained_frames": ("policy", overhead[:, 2]),
        }
    )


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all seeds together, price the events, add units and provenance."""
    seeds = list(points(parameters))
    states = next((part["frame_state"] for part in parts if "frame_state" in part), None)
    dataset = xr.concat([part.drop_vars("frame_state", errors="ignore") for part in parts], xr.Variable("seed", seeds))
    if states is not None:
        dataset["frame_state"] = states
    dataset = dataset.assign_coords(
        live_pages=parameters.live_pages,
        cell=list(CELLS),
        pattern=list(PATTERNS),
        phase=list(PHASES),
        event=[cause.name.lower() for cause in EVENTS],
        policy=list(POLICIES),
        answer=["physical", "virtual", "failed"],
        operation=[cause.name.lower() for cause in WORK],
        target_order=np.arange(11),
        moment=["before", "after"],
    )
    cpu = presets.cpu(parameters.cpu)
    dataset = priced(dataset, cpu)
    for name, unit in _UNITS.items():
        dataset[name].attrs["units"] = unit
    recording = recordings.load(parameters.recording)
    dataset.attrs = {
        "study": "fallback",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": recording.name,
        "recording_digest": recording.digest,
        "machine": "recorded machine" if parameters.memory == RECORDED else parameters.memory,
        "first_level_reach_bytes": PAGE_BYTES * _entries(cpu, 1),
        "second_level_reach_bytes": PAGE_BYTES * _entries(cpu, 2),
        "left_out": LEFT_OUT,
    }
    return dataset


def priced(dataset: xr.Dataset, cpu: presets.CpuPreset) -> xr.Dataset:
    """Return results with ``cycles`` by cause and ``overlapped_cycles`` from a preset, replacing what was there."""
    events = dataset["events"]
    counts = np.zeros((*events.shape[:-1], len(Cause)), np.int64)
    counts[..., list(EVENTS)] = events.values
    flat = counts.reshape(-1, len(Cause))
    cycles = np.array([list(price_access(row, cpu).values()) for row in flat])
    overlapped = np.array([price_overlapped(row, cpu) for row in flat])
    dims = events.dims[:-1]
    dataset = dataset.assign_coords(cause=list(ACCESS_CAUSES))
    dataset["cycles"] = ((*dims, "cause"), cycles.reshape(*events.shape[:-1], -1))
    dataset["overlapped_cycles"] = (dims, overlapped.reshape(events.shape[:-1]))
    return dataset


def _entries(cpu: presets.CpuPreset, level: int) -> int:
    return sum(array.entries.value for array in cpu.tlb if array.level == level and "4K" in array.page_sizes.value)


_UNITS = {
    "events": "1",
    "cycles": "cycles",
    "overlapped_cycles": "cycles",
    "attributed_bytes": "bytes",
    "marginal_frames": "frames",
    "retained_frames": "frames",
    "mean_run_length": "frames",
    "free_share": "1",
    "unusable_index": "1",
    "ageing_seconds": "s",
}

LEFT_OUT = (
    "Data caches: every data access costs a first-level hit and every walk finds its tables in the caches, so the "
    "share of translation is an upper bound where data would miss and a lower one where tables would. "
    "Coalescing of neighbouring entries, paging-structure caches, prefetchers, other users of the TLB. Reclaim, "
    "compaction, per-CPU lists, watermarks. The time of allocation and free: they are counted, not priced. NUMA "
    "placement, TLB sharing between hardware threads. Correlated deaths: blocks of one process die together in "
    "reality, one by one here. Because of the first three, what scattered frames cost (iii - ii) is exactly 0. Virtual "
    "pages are unmapped with one INVLPG a page at once, neither lazily nor by a full flush. Page arrays of more than a "
    "page are blocks, as in the RFC; Linux 6.18 maps those virtually too."
)
