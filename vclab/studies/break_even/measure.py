"""After how many accesses insisting on contiguity has paid, by order, pattern, CPU and working set.

The life of a page costs its allocation, its accesses and its free. What insisting pays more at allocation and free is
counted once, since it does not depend on the CPU (:mod:`~vclab.studies.break_even.requests`); what an access then
saves is counted on each CPU (:mod:`~vclab.studies.break_even.access`); the number is their ratio
(:mod:`~vclab.studies.break_even.balance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Self

import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from vclab import presets, recordings
from vclab.ageing import REPLACED
from vclab.mmu import tlb_entries
from vclab.presets import CpuPreset, LinuxPreset
from vclab.presets.prices import Prices
from vclab.studies import LEFT_OUT_EVERYWHERE, Progress, cpu_names, demand
from vclab.studies.access_cost.grid import Pattern
from vclab.studies.break_even import access, requests
from vclab.studies.break_even.balance import break_even
from vclab.studies.cells import EVENT_NAMES, PHASES
from vclab.studies.machine import MachineParameters
from vclab.system import System
from vclab.units import PAGE_BYTES, parse_bytes


class Parameters(MachineParameters):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    memory: str = Field("2GiB", description="size of the machine, or 'recorded'")
    cpus: list[str] = Field(["zen3", "skylake-sp", "core2"], min_length=1, description="CPU presets that are compared")
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="independent ageings")
    orders: list[Annotated[int, Field(ge=1, le=10)]] = Field(list(range(1, 11)), min_length=1)
    patterns: list[Pattern] = Field(["chase", "uniform", "zipf", "sequential"], min_length=1)
    live_pages: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        [1, 8, 64], min_length=1, description="pages that accesses are spread over; maps show the most"
    )
    accesses: Annotated[int, Field(ge=1, le=100_000_000)] = Field(20_000, description="accesses of a steady phase")
    requests: Annotated[int, Field(ge=1, le=100_000)] = Field(64, description="requests of each order's trace")
    marks: Annotated[float, Field(ge=1)] = Field(
        2.0, description="free frames when requests begin to come, over the high watermark"
    )
    swap: str = Field("512MiB", description="size of the swap")
    uses: Annotated[int, Field(ge=0, le=100_000)] = Field(
        32, description="pages that programs use between two requests"
    )
    cpu_count: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="CPUs that forget pages which moved, went or were freed; as many as the recorded machines have"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself before any work is done."""
        self.require_ascending("orders", "live_pages")
        for name in ("patterns", "cpus"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} must be named once each")
        for name in self.cpus:
            presets.cpu(name)
        parse_bytes(self.swap, "swap")
        return self

    @property
    def measured_cpus(self) -> tuple[list[str], list[str]]:
        """CPUs that have the direct map and levels asked for, and why others do not."""
        linux = presets.linux(self.linux)
        return access.existing_cpus(cpu_names(self.model_dump()), self.levels, self.direct_map, linux)


#: What ``--quick`` changes: one seed on a small machine.
QUICK = {
    "seeds": 1,
    "memory": "1GiB",
    "cpus": ["zen3", "core2"],
    "orders": [1, 3, 5, 7, 9],
    "live_pages": [1, 16],
    "accesses": 10_000,
    "requests": 32,
}

ASSUMPTIONS = (
    ("ageing.replaced", str(REPLACED), "arrivals for each death while memory runs empty, so that holes are refilled"),
    ("ageing.tail", "hour, unless set", "end of the lifetimes of what outlived the recording: evenly in the logarithm"),
    ("marks", "2, unless set", "free memory is a small multiple of the watermarks where file caches take what is left"),
    (
        "earlier-callers",
        "all blocks of the order",
        "the trace begins where the free lists have no block left; before that, both ways are one",
    ),
    ("programs.uses", "32 pages, unless set", "between two requests, each page of the machine equally likely"),
    (
        "background",
        "done at once",
        "kswapd and kcompactd finish before the next request comes, however soon that is",
    ),
)

LEFT_OUT = (
    "Requests come from one CPU: what waiting for locks and for other CPUs' requests adds is in no account. All of a "
    "machine's CPUs are interrupted to forget what moved, went or was unmapped; their flushes count as work of the "
    "caller who caused them, although a part of it runs elsewhere. kswapd and kcompactd run between requests: who has "
    "to reclaim does so alone, of which kswapd could do half, and kswapd finds the block made that a request has "
    "compacted for. Latency that a caller suffers from them on a machine's only CPU: their time is in 'all CPUs', "
    "not in 'caller'. "
    "Refills of the TLB after a flush, which hundreds of lazy frees share (study unmap); coping with two kinds of page "
    "(study awareness). First touches: the number is about steady accesses. Pages that reclaim took and that programs "
    "need only after the trace: 'all read again' is their upper bound; writing back. Accesses are measured on a "
    "machine of the same age with more free memory, so that working sets fit; contiguous blocks that were not free "
    "there are counterfactual, and so is the block of a request that insisting could not serve: its price is in the "
    "number, and their share is given. Coalescing of neighbouring TLB entries." + LEFT_OUT_EVERYWHERE
)


def points(parameters: Parameters, jobs: int = 1) -> Sequence[int]:  # noqa: ARG001 (part of the protocol)
    """Return the seeds; each ages memory anew."""
    return range(parameters.seed, parameters.seed + parameters.seeds)


def run_point(parameters: Parameters, point: int, progress: Progress) -> xr.Dataset:
    """Serve requests on one machine that is short of memory, then measure accesses on one of each CPU."""
    progress(0.0, "ageing")
    cpus, _ = parameters.measured_cpus
    crowded = _boot(parameters, parameters.cpu, point, parameters.cpu_count)
    crowd = demand.crowd(
        crowded,
        parameters.fragment_order,
        parameters.unusable,
        parameters.marks,
        swap=parameters.swap,
        free=parameters.free,
        source=parameters.recording,
        tail=parameters.tail,
    )
    parameters.audited(crowded)
    dataset = requests.measure(
        crowded,
        parameters.orders,
        parameters.requests,
        parameters.uses,
        point,
        lambda share: progress(0.05 + 0.45 * share, "requests"),
    )
    dataset["unusable_index"] = xr.Variable((), crowd.unusable)
    dataset["free_frames"] = xr.Variable((), crowd.free_frames)
    dataset["movable_frames"] = xr.Variable((), crowd.movable_frames)
    parts = []
    for number, name in enumerate(cpus):
        aged = _boot(parameters, name, point)
        parameters.age(aged)

        def tell(share: float, number: int = number, name: str = name) -> None:
            progress(0.5 + 0.5 * (number + share) / len(cpus), f"accesses, {name}")

        parts.append(
            access.measure(
                aged,
                parameters.orders,
                parameters.live_pages,
                parameters.patterns,
                parameters.accesses,
                point,
                tell,
            )
        )
    progress(1.0, "done")
    return dataset.merge(xr.concat(parts, xr.Variable("cpu", cpus)))


def _boot(parameters: Parameters, cpu: str, seed: int, cpus: int = 1) -> System:
    return System(
        cpu=cpu,
        linux=parameters.linux,
        memory=parameters.memory,
        cpus=cpus,
        levels=parameters.levels,
        direct_map=parameters.direct_map,
        recording=parameters.recording,
        seed=seed,
    )


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all seeds together, price the counts, add units and provenance."""
    cpus, missing = parameters.measured_cpus
    dataset = xr.concat(list(parts), xr.Variable("seed", list(points(parameters)))).assign_coords(
        cpu=cpus,
        order=parameters.orders,
        live_pages=parameters.live_pages,
        pattern=parameters.patterns,
        kind=list(access.KINDS),
        phase=list(PHASES),
        event=EVENT_NAMES,
        over=list(requests.OVER),
        side=list(requests.SIDES),
        part=list(requests.PARTS),
        operation=demand.EVENT_NAMES,
        answer=list(demand.ANSWERS),
    )
    recording = recordings.load(parameters.recording)
    dataset.attrs = {
        "study": "break-even",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": recording.name,
        "recording_digest": recording.digest,
        "machine": parameters.machine,
        "missing_points": "; ".join(missing),
        "left_out": LEFT_OUT + (f" CPUs that are left out: {'; '.join(missing)}." if missing else ""),
    }
    reaches = [PAGE_BYTES * tlb_entries(presets.cpu(name), "4K")[-1] for name in cpus]
    dataset["second_level_reach"] = ("cpu", reaches)
    dataset = priced(dataset, {name: presets.cpu(name) for name in cpus}, presets.linux(parameters.linux))
    for name, unit in _UNITS.items():
        dataset[name].attrs["units"] = unit
    return dataset


def priced(dataset: xr.Dataset, cpus: Mapping[str, CpuPreset], linux: LinuxPreset) -> xr.Dataset:
    """Return results with all costs and numbers of accesses anew from their counts.

    ``access_ns`` (..., kind, phase, bound) of one access; ``work_ns`` (cpu, ..., over, side, part, operation_cause) and
    ``cost_ns`` (..., over, side, account) of one request, NaN where none needed the fallback; ``outcome`` and
    ``break_even``, with ``break_even_low`` and ``break_even_high``, (over, account, bound, cpu, order, live_pages,
    pattern).
    """
    known = dict(cpus)
    dataset = dataset.drop_dims(["operation_cause", "account", "bound"], errors="ignore")
    dataset["access_ns"] = access.priced(dataset["events"], known)
    cpu_time = requests.prices(dataset["work"], linux, known)
    asked = dataset["answers"].sel(side=requests.SIDES[0], drop=True).sum("answer")
    counts = xr.concat([asked, dataset["needed"]], xr.Variable("over", list(requests.OVER)))
    each = counts.where(counts > 0)
    dataset["work_ns"] = cpu_time / each
    dataset["cost_ns"] = requests.accounts(dataset["work"], cpu_time, linux) / each
    return dataset.merge(_break_even(dataset, dataset["needed"] / asked))


def _break_even(dataset: xr.Dataset, share: xr.DataArray) -> xr.Dataset:
    """Return who wins, and after how many accesses, from costs by seed and the share of requests that fell back."""
    insisting, falling_back = (dataset["cost_ns"].sel(side=side, drop=True) for side in requests.SIDES)
    steady = dataset["access_ns"].sel(phase="steady", drop=True)
    gain = steady.sel(kind="virtual", drop=True) - steady.sel(kind="physical", drop=True)
    # Of all requests, only those that fell back are dearer to access.
    gains = xr.concat([gain * share, gain], xr.Variable("over", list(requests.OVER)))
    dims = ("over", "account", "bound", "cpu", "order", "live_pages", "pattern")
    extra, gains = xr.broadcast(insisting - falling_back, gains)
    extra, gains = (values.transpose(*dims, "seed") for values in (extra, gains))
    shape = extra.shape[:-1]
    outcome = np.empty(shape, object)
    numbers = np.zeros((3, *shape))
    for place in np.ndindex(shape):
        found = break_even(extra.values[place], gains.values[place])
        outcome[place] = str(found.outcome)
        numbers[(slice(None), *place)] = found.accesses, found.low, found.high
    return xr.Dataset(
        {
            "outcome": (dims, outcome.astype(str)),
            "break_even": (dims, numbers[0]),
            "break_even_low": (dims, numbers[1]),
            "break_even_high": (dims, numbers[2]),
        },
        coords={name: extra[name] for name in dims},
    )


_UNITS = {
    "events": "1",
    "work": "1",
    "answers": "1",
    "needed": "1",
    "unserved": "1",
    "taken": "1",
    "counterfactual": "pages",
    "unusable_index": "1",
    "free_frames": "frames",
    "movable_frames": "frames",
    "second_level_reach": "bytes",
    "access_ns": "ns per access",
    "work_ns": "ns per request",
    "cost_ns": "ns per request",
    "break_even": "accesses",
    "break_even_low": "accesses",
    "break_even_high": "accesses",
}


def reprice(dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
    """Return the same counts at other prices; what is set for a CPU is set for all of them."""
    parameters = Parameters.model_validate_json(dataset.attrs["parameters"])
    names = dataset["cpu"].values.tolist()
    cpus = prices.cpus([presets.cpu(name) for name in names])
    repriced = priced(dataset, {cpu.name: cpu for cpu in cpus}, prices.linux(presets.linux(parameters.linux)))
    for name, unit in _UNITS.items():
        repriced[name].attrs["units"] = unit
    return repriced
