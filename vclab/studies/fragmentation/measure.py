"""Requests of each order, asked in each way, on machines from whole to fragmented, with memory to spare or full.

Machines differ in four things: the rules of a release; how fragmented their free memory is; its pressure; and how many
of their pages are pinned, so that neither compaction nor reclaim can do anything with them. ``spare`` leaves a multiple
of the high watermark free and nothing more is read; ``full`` leaves the high watermark, where kswapd rests, and files
go on reading new pages. All ways to ask meet the same requests on copies of the same machine (:mod:`..demand`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from pydantic import Field, model_validator

from vckernels.causes import COUNTERS, Cause
from vclab import presets, recordings
from vclab.errors import FragmentationNotReached
from vclab.ledger import DEVICE_CAUSES, OPERATION_CAUSES, price_operations
from vclab.movable import PageMix
from vclab.presets import CpuPreset, LinuxPreset
from vclab.presets.prices import Prices
from vclab.studies import LEFT_OUT_EVERYWHERE, Progress
from vclab.studies.demand import (
    ANSWERS,
    EVENT_NAMES,
    WAYS,
    Demand,
    age,
    cpu_ns,
    device_ns,
    exists,
    fill,
    kept,
    serve,
)
from vclab.studies.machine import MachineParameters
from vclab.system import System
from vclab.units import parse_bytes

PRESSURES = ("spare", "full")
BOUNDS = ("value", "low", "high")
#: Whose work is counted: of requests themselves, what they woke, frees, programs in between, and what programs do
#: where nothing is asked for.
COUNTED = ("own", "background", "frees", "programs", "anyway")
_TIMES = {"own_ns": "own", "background_ns": "background", "others_ns": "others", "free_ns": "frees"}
STATISTICS = ("mean", "median", "p99")
#: Events of a single request that have a price and occur; with them latencies can be priced again.
SAMPLED = (
    Cause.ALLOCATION,
    Cause.FREE,
    Cause.SPLIT,
    Cause.MERGE,
    Cause.AREA_RESERVE,
    Cause.AREA_STEP,
    Cause.ENTRY_WRITE,
    Cause.TABLE_PAGE,
    Cause.STRUCT_PAGE,
    Cause.TLB_INVALIDATION,
    Cause.FLUSH_CALL,
    Cause.TLB_FLUSH,
    Cause.INTERRUPT,
    Cause.MIGRATE_SCANNED,
    Cause.FREE_SCANNED,
    Cause.PAGE_MIGRATED,
    Cause.RECLAIM_SCANNED,
    Cause.PAGE_RECLAIMED,
)


class Parameters(MachineParameters):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    memory: str = Field("1GiB", description="size of the machine, or 'recorded'")
    fragment_order: Annotated[int, Field(ge=0, le=10)] = Field(
        5, description="order whose unusable free index is meant: what is unusable for it is so for all above"
    )
    rule_sets: list[str] = Field(["6.18"], min_length=1, description="releases whose rules are tried; prices: linux")
    unusable: list[Annotated[float, Field(ge=0, le=1)]] = Field(  # type: ignore[assignment]
        [0.1, 0.95], min_length=1, description="unusable free indices to age to"
    )
    free: Annotated[float, Field(gt=0, lt=1)] = Field(0.15, description="free share to age to, before memory is filled")
    pressures: list[Literal["spare", "full"]] = Field(["spare", "full"], min_length=1)
    spare_marks: Annotated[float, Field(ge=1)] = Field(3.0, description="free multiple of the high watermark if spare")
    full_marks: Annotated[float, Field(ge=1)] = Field(1.0, description="the same if full")
    reads: Annotated[int, Field(ge=0, le=100_000)] = Field(
        64, description="pages that files read between two requests where memory is full"
    )
    pinned: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.0, 0.02], min_length=1, description="shares of pages that can be neither moved nor reclaimed"
    )
    swap: str = Field("512MiB", description="size of the swap")
    cpus: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="CPUs that forget pages which moved or went; as many as the recorded machines have"
    )
    ways: list[str] = Field(
        [
            "physical",
            "late-fallback",
            "late-fallback, insist",
            "early-fallback-6.12",
            "early-fallback",
            "always-virtual",
            "vmalloc",
            "huge-vmalloc",
            "min-order",
        ],
        min_length=1,
        description="how it is asked; what a release has not is left out for it",
    )
    orders: list[Annotated[int, Field(ge=1, le=10)]] = Field(list(range(1, 11)), min_length=1)
    requests: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="of each order, fewer if large")
    share: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.05, description="most memory that the requests of one order take together"
    )
    uses: Annotated[int, Field(ge=0, le=10_000)] = Field(
        32, description="pages that programs use between two requests, each drawn from all"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself before any work is done."""
        self.require_ascending("orders", "unusable", "pinned")
        for name in ("ways", "pressures", "rule_sets"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} must name each once")
        for way in self.ways:
            if way not in WAYS:
                raise ValueError(f"no way {way!r} to ask; there are {', '.join(WAYS)}")
        for name in self.rule_sets:
            presets.linux(name)
        parse_bytes(self.swap, "swap")
        return self

    def asked(self, order: int, frames: int) -> int:
        """Return how many requests of an order there are on a machine with so many frames."""
        return max(1, min(self.requests, int(self.share * frames) >> order))


#: What ``--quick`` changes: one seed, the ends of each range.
QUICK = {
    "seeds": 1,
    "orders": [1, 3, 5, 7, 9],
    "requests": 80,
}

ASSUMPTIONS = (
    ("prices", "those of linux for every rule set", "no source has prices of 2.6.x on a CPU of today"),
    ("pages", "60 % anonymous, half of them active, a fifth of files' dirty", "see vclab.movable.PageMix"),
    ("pinned", "none and 2 %, unless set", "nobody published a share; with 2 % half of all blocks of order 5 hold one"),
    (
        "background",
        "kswapd and kcompactd finish before anything else happens",
        "really they run beside it, and several requests find them at work for the first; what kswapd frees each time "
        "is by its rules (a recorded machine's freed 42,065 frames in 22 runs)",
    ),
    (
        "between-requests",
        "32 uses of pages drawn from all, and 64 reads where memory is full, unless set",
        "how much other work lies between two requests decides how much of what was reclaimed is needed again",
    ),
)


class Point(NamedTuple):
    """What runs by itself: a seed, a rule set and a fragmentation."""

    seed: int
    linux: str
    unusable: float

    def __str__(self) -> str:
        return f"{self.seed}, Linux {self.linux}, {self.unusable:.0%} unusable"


def points(parameters: Parameters, jobs: int = 1) -> Sequence[Point]:  # noqa: ARG001 (part of the protocol)
    """Return one point for each seed, rule set and fragmentation; each ages memory anew."""
    seeds = range(parameters.seed, parameters.seed + parameters.seeds)
    return [
        Point(seed, name, index) for seed in seeds for name in parameters.rule_sets for index in parameters.unusable
    ]


def run_point(parameters: Parameters, point: Point, progress: Progress) -> xr.Dataset:
    """Age and fill a machine for each pressure and share of pinned pages, and ask in every way for every order."""
    seed, linux, unusable = point
    shape = (len(parameters.pressures), len(parameters.pinned))
    asked = (*shape, len(parameters.ways), len(parameters.orders))
    outcome = np.zeros((*asked, len(ANSWERS)), np.int64)
    counts = {name: np.zeros((*asked, len(EVENT_NAMES)), np.int64) for name in COUNTED}
    samples = np.full((*asked, parameters.requests, len(SAMPLED)), -1, np.int32)
    ends = {name: np.full(asked, np.nan) for name in ("end_unusable", "end_free", "killed")}
    machine = np.full((3, *shape), np.nan)
    marks = {"spare": parameters.spare_marks, "full": parameters.full_marks}
    aged = System(
        cpu=parameters.cpu,
        linux=linux,
        memory=parameters.memory,
        cpus=parameters.cpus,
        levels=parameters.levels,
        direct_map=parameters.direct_map,
        recording=parameters.recording,
        seed=seed,
    )
    places = list(np.ndindex(shape))
    try:
        age(
            aged,
            parameters.fragment_order,
            unusable,
            max(marks[pressure] for pressure in parameters.pressures),
            parameters.free,
            parameters.recording,
            parameters.tail,
        )
    except FragmentationNotReached:
        # Left empty: as if this seed had not been asked.
        places = []
    ways = [way for way in parameters.ways if exists(way, aged.linux)]
    for done, place in enumerate(places):
        pressure, pinned = parameters.pressures[place[0]], parameters.pinned[place[1]]
        progress(done / len(places), f"memory {pressure}, {pinned:.0%} pinned")
        full = pressure == "full"
        system = aged.copy()
        crowded = fill(system, parameters.fragment_order, marks[pressure], PageMix(pinned=pinned), parameters.swap)
        parameters.audited(system)
        managed = system.memory.zone.managed
        anyway: dict[int, npt.NDArray[np.int64]] = {}
        machine[:, *place] = crowded.unusable, crowded.free_frames / managed, crowded.movable_frames / managed
        for way, (o, order) in itertools.product(ways, enumerate(parameters.orders)):
            reads = parameters.reads if full else 0
            demand = Demand(order, parameters.asked(order, managed), parameters.uses, reads, seed)
            if demand.requests not in anyway:
                nothing = serve(system, None, demand)
                anyway[demand.requests] = kept(nothing.programs + nothing.background.sum(axis=0))
            served = serve(system, WAYS[way], demand)
            where = (*place, parameters.ways.index(way), o)
            outcome[where] = served.answered()
            counts["own"][where] = kept(served.own.sum(axis=0))
            counts["background"][where] = kept(served.background.sum(axis=0))
            counts["frees"][where], counts["programs"][where] = kept(served.frees), kept(served.programs)
            counts["anyway"][where] = anyway[demand.requests]
            samples[where][: demand.requests] = served.own[:, list(SAMPLED)]
            ends["end_unusable"][where] = served.unusable
            ends["end_free"][where] = served.free_frames / managed
            ends["killed"][where] = served.killed
    dims = ("pressure", "pinned", "way", "order")
    dataset = xr.Dataset({"outcome": ((*dims, "answer"), outcome), "samples": ((*dims, "request", "sampled"), samples)})
    for name, events in counts.items():
        dataset[name] = ((*dims, "event"), events)
    for name, values in ends.items():
        dataset[name] = (dims, values)
    for name, values in zip(("unusable_index", "free_share", "movable_share"), machine, strict=True):
        dataset[name] = (dims[:2], values)
    progress(1.0, "done")
    return dataset


def latencies(samples: npt.NDArray[np.int32], linux: LinuxPreset, cpu: CpuPreset) -> npt.NDArray[np.float64]:
    """Return the CPU time of single requests in nanoseconds, float64[...], NaN where there was none.

    Parameters
    ----------
    samples : int32[..., len(SAMPLED)]
    """
    wanted = samples[..., 0] >= 0
    counts = np.zeros((int(wanted.sum()), COUNTERS), np.int64)
    counts[:, list(SAMPLED)] = samples[wanted]
    found = np.full(wanted.shape, np.nan)
    found[wanted] = price_operations(counts, linux, cpu).sum(axis=-1)
    return found


def priced(dataset: xr.Dataset, cpu: CpuPreset, linux: LinuxPreset) -> xr.Dataset:
    """Return results with all times anew from their counts.

    ``own_ns``, ``background_ns`` (bound, ..., operation_cause) of a request, ``free_ns`` of giving its page back, and
    ``others_ns`` of programs in between beyond what they do anyway: of two requests for the last free frames the later
    wakes kswapd, whoever it is, so that only all together tell what requests cost the machine. All are spread over the
    requests that were made, as is ``device_ns`` (bound, ..., device_cause), the devices' time of all together.
    ``latency_ns`` (..., statistic) is the CPU time of single requests.
    """
    dataset = dataset.assign_coords(
        bound=list(BOUNDS),
        operation_cause=list(OPERATION_CAUSES),
        device_cause=list(DEVICE_CAUSES),
        statistic=list(STATISTICS),
    )
    asked = dataset["outcome"].sum("answer")
    asked = asked.where(asked > 0)
    dims = asked.dims
    counts = {name: dataset[name].transpose(*dims, "event").values for name in COUNTED}
    times = {name: np.stack([cpu_ns(events, linux, cpu, bound) for bound in BOUNDS]) for name, events in counts.items()}
    times["others"] = times.pop("programs") - times.pop("anyway")
    for name, whose in _TIMES.items():
        dataset[name] = xr.DataArray(times[whose], dims=("bound", *dims, "operation_cause")) / asked
    events = counts["own"] + counts["background"] + counts["frees"] + counts["programs"] - counts["anyway"]
    waits = np.stack([device_ns(events, linux, bound) for bound in BOUNDS])
    dataset["device_ns"] = xr.DataArray(waits, dims=("bound", *dims, "device_cause")) / asked
    samples = dataset["samples"].transpose(*dims, "request", "sampled").values
    single = np.stack([latencies(of_seed, linux, cpu) for of_seed in samples])
    with np.errstate(all="ignore"):
        empty = np.isnan(single).all(axis=-1, keepdims=True)
        single = np.where(empty, 0.0, single)
        found = [np.nanmean(single, axis=-1), *np.nanquantile(single, [0.5, 0.99], axis=-1)]
    statistics = np.where(empty, np.nan, np.stack(found, axis=-1))
    dataset["latency_ns"] = ((*dims, "statistic"), statistics)
    for name in (*_TIMES, "device_ns", "latency_ns"):
        dataset[name].attrs["units"] = "ns"
    return dataset


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all points together, price the counts, add units and provenance."""
    names, indices = parameters.rule_sets, len(parameters.unusable)
    seeds = []
    for first in range(0, len(parts), len(names) * indices):
        of_seed = parts[first : first + len(names) * indices]
        rules = [
            xr.concat(of_seed[start : start + indices], xr.Variable("unusable", parameters.unusable))
            for start in range(0, len(of_seed), indices)
        ]
        seeds.append(xr.concat(rules, xr.Variable("linux", names)))
    every = list(range(parameters.seed, parameters.seed + parameters.seeds))
    dataset = xr.concat(seeds, xr.Variable("seed", every)).assign_coords(
        pressure=parameters.pressures,
        pinned=parameters.pinned,
        way=parameters.ways,
        order=parameters.orders,
        answer=list(ANSWERS),
        event=EVENT_NAMES,
        sampled=[cause.name.lower() for cause in SAMPLED],
    )
    dataset["outcome"] = dataset["outcome"].transpose("seed", "linux", "unusable", ...)
    dataset = priced(dataset, presets.cpu(parameters.cpu), presets.linux(parameters.linux))
    for name in (*COUNTED, "outcome", "samples", "end_unusable", "end_free", "killed"):
        dataset[name].attrs["units"] = "1"
    recording = recordings.load(parameters.recording)
    dataset.attrs |= {
        "study": "fragmentation",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": recording.name,
        "recording_digest": recording.digest,
        "machine": parameters.machine,
        "fragment_order": parameters.fragment_order,
        "left_out": LEFT_OUT + LEFT_OUT_EVERYWHERE,
    }
    return dataset


LEFT_OUT = (
    "Requests come from one CPU: no other asks at the same time or waits for locks. All of a machine's CPUs are "
    "interrupted to forget pages that moved or went, and their flushes count as work of who caused them; TLBs that "
    "have to be filled again do not. Under 6.18 late-fallback is a counterfactual: no kernel of today does it. kswapd "
    "and kcompactd beside the requests rather than between them: who has to reclaim does so alone, of which kswapd "
    "could do half, and kswapd finds the block made that a request has compacted for, where really it would have begun "
    "to reclaim. Zones, per-CPU lists (they only decide how often a claim boosts watermarks) and reserved pageblocks. "
    "Caches of kernel objects, which reclaim could shrink too. The OOM killer: a request that would call it fails. "
    "Latency is CPU time: nobody waits for a device, whose time is given apart. What pages cost once they are used "
    "(the studies fallback and access-cost)."
)


def reprice(dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
    """Return the same counts at other prices."""
    parameters = Parameters.model_validate_json(dataset.attrs["parameters"])
    cpu, linux = presets.cpu(parameters.cpu), presets.linux(parameters.linux)
    return priced(dataset, prices.cpu(cpu), prices.linux(linux))
