"""The price of falling back: paired cells on an aged machine, and the policies on one request trace.

Every working set is measured in the four cells of :mod:`vclab.studies.cells`. Some of them are measured again under two
controls: with colour-neutral data caches, which no placement of frames can please or displease, and with other work
that takes half of the second-level TLB.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from pydantic import Field, model_validator

from vckernels.buddy import describe_frames
from vckernels.causes import Cause
from vclab import presets, recordings, streams
from vclab.ageing import REPLACED
from vclab.background import Background
from vclab.ledger import (
    ACCESS_CAUSES,
    DATA_CAUSES,
    OPERATION_CAUSES,
    price_access,
    price_operations,
    price_overlapped,
    served_latencies,
)
from vclab.mmu import MmuOptions, tlb_entries
from vclab.presets import CpuPreset, LinuxPreset
from vclab.presets.prices import Prices
from vclab.studies import LEFT_OUT_EVERYWHERE, Progress, awareness
from vclab.studies.cells import (
    CELLS,
    EVENT_NAMES,
    EVENTS,
    PHASES,
    Cells,
    Offsets,
    Stream,
    all_counts,
    coalescible,
    digest,
    offsets_for,
)
from vclab.studies.fallback.requests import POLICIES, STEPS, WORK, run_policies
from vclab.studies.machine import MachineParameters
from vclab.system import System
from vclab.units import PAGE_BYTES

#: In this order on one warm machine: the chase goes on with the cycle of the first touch.
PATTERNS = {"chase": streams.chase, "uniform": streams.uniform}
#: Cells of the controls, which are about the first three, and about a chase.
CONTROL_CELLS = CELLS[:3]
CONTROLS = ("colour-neutral", "other work")
#: Accesses to one page after its allocation, at which the cost so far is noted.
LIFETIMES = (1, 10, 100, 1_000, 10_000, 100_000)
LIFETIME_CELLS = ("i", "iii")
#: Tells the seeds of streams from those of machines.
STREAM_SEED = int.from_bytes(b"chas")


class Parameters(MachineParameters):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    prefetch: bool = Field(True, description="the CPU's prefetchers are on")
    control_orders: Annotated[list[Annotated[int, Field(ge=1, le=10)]], Field(min_length=1)] | None = Field(
        None, description="orders measured again under the controls; 7 by default, or the largest"
    )
    orders: list[Annotated[int, Field(ge=1, le=10)]] = Field(list(range(1, 11)), min_length=1)
    live_pages: list[Annotated[int, Field(ge=1, le=4096)]] = Field([1, 4, 16, 64, 256], min_length=1)
    accesses: Annotated[int, Field(ge=1, le=100_000_000)] = Field(8_192, description="accesses of a steady phase")
    requests: Annotated[int, Field(ge=1, le=100_000)] = Field(
        128, description="requests of the policy trace, per order"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself before any work is done."""
        self.require_ascending("orders", "live_pages", "control_orders")
        if not set(self.controlled) <= set(self.orders):
            raise ValueError("control_orders must be among orders")
        return self

    @property
    def controlled(self) -> list[int]:
        """Orders that are measured again under the controls."""
        if self.control_orders is not None:
            return self.control_orders
        return [7] if 7 in self.orders else self.orders[-1:]

    @property
    def telling(self) -> list[int]:
        """Orders whose pages are followed over a life."""
        return ends_and_middle(self.orders)


def ends_and_middle(orders: Sequence[int]) -> list[int]:
    """Return the least, the middle and the largest of ascending orders."""
    return sorted({orders[0], orders[len(orders) // 2], orders[-1]})


#: What ``--quick`` changes: one seed on a small machine.
QUICK = {
    "seeds": 1,
    "memory": "1GiB",
    "orders": [1, 3, 5, 7, 9],
    "control_orders": [9],
    "live_pages": [1, 4, 16],
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
    (
        "cache.cleared",
        "last pages",
        "data caches begin as clearing the pages in turn leaves them; page tables not cached",
    ),
    (
        "other-work.mix",
        "50 % kernel, 10 % stacks, 40 % user",
        "half the entries of the second-level TLB, one access after every four of the stream",
    ),
    ("requests", "each order alike", "kernels do not ask for all orders equally often; shares are given by order too"),
)


class Point(NamedTuple):
    """A seed, or one of several parts of it that share its orders."""

    seed: int
    part: int = 0
    parts: int = 1

    def __str__(self) -> str:
        return str(self.seed) if self.parts == 1 else f"{self.seed}, part {self.part + 1}"


def points(parameters: Parameters, jobs: int = 1) -> Sequence[Point]:
    """Return the seeds; each ages memory anew.

    Seeds that would leave processes idle in the last round are divided among them: ageing is done again in each part,
    which costs less than waiting.
    """
    seeds = range(parameters.seed, parameters.seed + parameters.seeds)
    left = len(seeds) % jobs
    parts = min(jobs // left, len(parameters.orders)) if left else 1
    whole = [Point(seed) for seed in seeds[: len(seeds) - left]]
    return whole + [Point(seed, part, parts) for seed in seeds[len(seeds) - left :] for part in range(parts)]


def run_point(parameters: Parameters, point: Point, progress: Progress) -> xr.Dataset:
    """Age one machine and measure cells and policies on copies of it."""
    progress(0.0, "booting")
    system = System(
        cpu=parameters.cpu,
        linux=parameters.linux,
        memory=parameters.memory,
        levels=parameters.levels,
        direct_map=parameters.direct_map,
        recording=parameters.recording,
        seed=point.seed,
        mmu=MmuOptions(prefetch=parameters.prefetch),
    )
    before = _frame_states(system)
    progress(0.02, "ageing memory")
    aged = parameters.age(system)
    after = _frame_states(system)
    orders = _orders_of(parameters, point)
    parts, lives = [], {}
    for done, order in enumerate(orders):
        progress(0.3 + 0.55 * done / len(orders), f"order {order}")
        measured, life = _measure_order(system, parameters, order, point.seed)
        parts.append(measured.merge(run_policies(system, parameters, parameters.requests, order, point.seed)))
        if life is not None:
            lives[order] = life
    dataset = xr.concat(parts, xr.Variable("order", orders))
    if lives:
        dataset["lifetime_events"] = xr.concat(lives.values(), xr.Variable("lifetime_order", list(lives)))
    if point.part == 0:
        progress(0.85, "controls")
        dataset["control_events"] = xr.concat(
            [_measure_controls(system, parameters, order, point.seed) for order in parameters.controlled],
            xr.Variable("control_order", parameters.controlled),
        )
        progress(0.97, "awareness")
        dataset = dataset.merge(_measure_awareness(system, parameters, point.seed))
    dataset["unusable_index"] = xr.Variable("target_order", [system.unusable_free_index(order) for order in range(11)])
    dataset["free_share"] = xr.Variable((), system.memory.free_share)
    dataset["buddyinfo"] = xr.Variable("target_order", system.buddyinfo()[0])
    for name, value in aged.items():
        dataset[f"ageing_{name}"] = xr.Variable((), value)
    if point.part == 0 and point.seed == parameters.seed:
        dataset["frame_state"] = xr.Variable(("moment", "frame"), np.stack([before, after]))
        # Here the recording has been read already.
        recording = recordings.load(parameters.recording)
        dataset.attrs |= {"recording": recording.name, "recording_digest": recording.digest}
    dataset.attrs["seed"] = point.seed
    progress(1.0, "done")
    return dataset


def _joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the parts of one seed as one dataset, orders ascending."""
    if len(parts) == 1:
        return parts[0]
    # What has no order is the same in every part, or only in one.
    without = [part.drop_dims(["order", "lifetime_order"], errors="ignore") for part in parts]
    joined = [xr.merge(without, compat="identical", combine_attrs="drop")]
    for order in ("order", "lifetime_order"):
        names = [[name for name in part.data_vars if order in part[name].dims] for part in parts]
        having = [part[of_part] for part, of_part in zip(parts, names, strict=True) if of_part]
        joined.append(xr.concat(having, order).sortby(order))
    return xr.merge(joined, combine_attrs="drop")


def _orders_of(parameters: Parameters, point: Point) -> list[int]:
    """Return the orders of a part, ascending: from the largest on, each falls to the part with the least to do."""
    work = [0] * point.parts
    taken: list[list[int]] = [[] for _ in work]
    for order in reversed(parameters.orders):
        part = work.index(min(work))
        taken[part].insert(0, order)
        # What every order takes alike is as much as the accesses to so many frames.
        work[part] += 128 + (1 << order)
    return taken[point.part]


def _frame_states(system: System) -> npt.NDArray[np.uint8]:
    states = np.empty(system.memory.zone.frames, np.uint8)
    describe_frames(system.memory.zone.buddy, states)
    return states


def _offsets(patterns: Sequence[Stream], nbytes: int, parameters: Parameters, seed: int) -> Offsets:
    return offsets_for(patterns, nbytes, parameters.accesses, STREAM_SEED + seed)


def _measure_order(
    aged: System, parameters: Parameters, order: int, seed: int
) -> tuple[xr.Dataset, xr.DataArray | None]:
    """Measure the cells of an order, and what a page costs over a life if that is wanted."""
    cells = Cells(aged, order, max(parameters.live_pages), np.random.default_rng([seed, order]))
    measured = _measure_cells(cells, parameters, seed)
    return measured, _measure_lifetimes(cells, seed) if order in parameters.telling else None


def _measure_cells(cells: Cells, parameters: Parameters, seed: int) -> xr.Dataset:
    shape = (len(parameters.live_pages), len(CELLS), len(PATTERNS), len(PHASES), len(EVENTS))
    events = np.zeros(shape, np.int64)
    digests = np.empty((len(parameters.live_pages), len(PATTERNS)), object)
    for k, live in enumerate(parameters.live_pages):
        offsets = _offsets(list(PATTERNS.values()), live * cells.nbytes, parameters, seed)
        digests[k] = offsets.digests
        for c, cell in enumerate(CELLS):
            measured = cells.measure(cell, live, offsets)
            # All patterns begin with the same touch of each page.
            events[k, c, :, PHASES.index("cold")] = measured[0]
            events[k, c, :, PHASES.index("steady")] = measured[1:]
    runs = np.concatenate([page.run_lengths for page in cells.pages])
    return xr.Dataset(
        {
            "events": (("live_pages", "cell", "pattern", "phase", "event"), events),
            "offsets_digest": (("live_pages", "pattern"), digests.astype(str)),
            "frames_digest": (("cell",), [digest(cells.frames(cell)) for cell in CELLS]),
            "counterfactual": ((), cells.counterfactual),
            "mean_run_length": ((), float(runs.mean())),
            "aligned_groups_of_four": ((), coalescible(cells.pages)),
        }
    )


def _measure_lifetimes(cells: Cells, seed: int) -> xr.DataArray:
    """Return what the first accesses to a single fresh page cause, up to each of ``LIFETIMES``."""
    offsets = streams.uniform(cells.nbytes, LIFETIMES[-1], seed)
    counts = np.zeros((len(LIFETIME_CELLS), len(LIFETIMES), len(EVENTS)), np.int64)
    for c, cell in enumerate(LIFETIME_CELLS):
        cells.prepare(cell, 1)
        for n, (start, stop) in enumerate(zip((0, *LIFETIMES[:-1]), LIFETIMES, strict=True)):
            counts[c, n] = cells.access(cell, 1, offsets[start:stop])
    return xr.DataArray(counts.cumsum(axis=1), dims=("lifetime_cell", "lifetime", "event"))


def _measure_controls(aged: System, parameters: Parameters, order: int, seed: int) -> xr.DataArray:
    """Measure a chase again: with colour-neutral caches, and beside other work."""
    most = max(parameters.live_pages)
    busy = aged.copy()
    busy.set_background(Background(pages=busy.mmu.entries("4K")[-1] // 2, gap=4))
    shape = (len(CONTROLS), len(parameters.live_pages), len(CONTROL_CELLS), len(PHASES), len(EVENTS))
    events = np.zeros(shape, np.int64)
    for n, control in enumerate(CONTROLS):
        base = busy if control == "other work" else aged
        cells = Cells(base, order, most, np.random.default_rng([seed, order]))
        if control == "colour-neutral":
            cells.set_options(MmuOptions("colour-neutral", prefetch=parameters.prefetch))
        for k, live in enumerate(parameters.live_pages):
            offsets = _offsets([streams.chase], live * cells.nbytes, parameters, seed)
            for c, cell in enumerate(CONTROL_CELLS):
                events[n, k, c] = cells.measure(cell, live, offsets)
        # Two machines are done with before there are two more.
        del cells
    return xr.DataArray(events, dims=("control", "live_pages", "control_cell", "phase", "event"))


def _measure_awareness(aged: System, parameters: Parameters, seed: int) -> xr.Dataset:
    """Measure what it takes to find a page of either kind, for the order and the working set in the middle."""
    order = parameters.orders[len(parameters.orders) // 2]
    live = parameters.live_pages[len(parameters.live_pages) // 2]
    found = awareness.measure(aged, order, live, seed, parameters.accesses // 4)
    return found.rename({name: f"awareness_{name}" for name in found.data_vars}).rename(_AWARENESS_DIMENSIONS)


#: Dimensions of the study awareness under the names that they have here.
_AWARENESS_DIMENSIONS = {"operation": "awareness_operation", "event": "counter", "phase": "awareness_phase"}


def _price_awareness(dataset: xr.Dataset, cpu: CpuPreset, linux: LinuxPreset) -> xr.DataArray:
    """Return steady cycles of each operation of the study awareness."""
    prefix = "awareness_"
    counts = ("events", "performed", "work", "freed", "scan_events", "instruction_cycles")
    found = dataset[[prefix + name for name in counts]].rename({prefix + name: name for name in counts})
    found = found.rename({here: there for there, here in _AWARENESS_DIMENSIONS.items()})
    cycles = awareness.priced(found, cpu, linux)["cycles"].sel(phase="steady", drop=True).sum("cause")
    return cycles.rename(operation="awareness_operation")


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all seeds together, price the events, add units and provenance."""
    seeds = list(range(parameters.seed, parameters.seed + parameters.seeds))
    states = next((part["frame_state"] for part in parts if "frame_state" in part), None)
    parts = [part.drop_vars("frame_state", errors="ignore") for part in parts]
    of_seed = [_joined([part for part in parts if part.attrs["seed"] == seed]) for seed in seeds]
    dataset = xr.concat(of_seed, xr.Variable("seed", seeds), combine_attrs="drop")
    if states is not None:
        dataset["frame_state"] = states
    dataset = dataset.assign_coords(
        live_pages=parameters.live_pages,
        cell=list(CELLS),
        pattern=list(PATTERNS),
        phase=list(PHASES),
        event=EVENT_NAMES,
        control_cell=list(CONTROL_CELLS),
        control=list(CONTROLS),
        lifetime=list(LIFETIMES),
        lifetime_cell=list(LIFETIME_CELLS),
        step=list(STEPS),
        policy=list(POLICIES),
        answer=["physical", "virtual", "failed"],
        operation=[cause.name.lower() for cause in WORK],
        target_order=np.arange(11),
        moment=["before", "after"],
    )
    cpu = presets.cpu(parameters.cpu)
    dataset = priced(dataset, cpu, presets.linux(parameters.linux))
    for name, unit in _UNITS.items():
        if name in dataset:
            dataset[name].attrs["units"] = unit
    reach = [PAGE_BYTES * entries for entries in tlb_entries(cpu, "4K")]
    dataset.attrs |= {
        "study": "fallback",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": parts[0].attrs["recording"],
        "recording_digest": parts[0].attrs["recording_digest"],
        "machine": parameters.machine,
        "first_level_reach_bytes": reach[0],
        "second_level_reach_bytes": reach[-1],
        "left_out": LEFT_OUT,
    }
    return dataset


def priced(dataset: xr.Dataset, cpu: CpuPreset, linux: LinuxPreset) -> xr.Dataset:
    """Return results with all cycles and nanoseconds anew from their counts, by the prices of two presets."""
    dataset = dataset.assign_coords(
        cause=list(ACCESS_CAUSES), operation_cause=list(OPERATION_CAUSES), bound=["value", "low", "high"]
    )
    for prefix in ("", "control_", "lifetime_"):
        events = dataset[f"{prefix}events"]
        counts = all_counts(events.transpose(..., "event").values)
        dims = [dim for dim in events.dims if dim != "event"]
        dataset[f"{prefix}cycles"] = ((*dims, "cause"), price_access(counts, cpu))
        dataset[f"{prefix}overlapped_cycles"] = (dims, price_overlapped(counts, cpu))
    # What translation alone costs: every data access at the price of a first-level hit.
    translation = dataset["cycles"].drop_sel(cause=list(DATA_CAUSES)).sum("cause")
    first_level = float(served_latencies(cpu)[0]) * dataset["events"].sel(event="data_access", drop=True)
    dataset["first_level_cycles"] = translation + first_level
    dataset["awareness_cycles"] = _price_awareness(dataset, cpu, linux)
    work = dataset["work"].transpose(..., "operation")
    counts = np.zeros((*work.shape[:-1], len(Cause)), np.int64)
    counts[..., list(WORK)] = work.values
    nanoseconds = [price_operations(counts, linux, cpu, str(bound)) for bound in dataset["bound"].values]
    dataset["operation_ns"] = (("bound", *work.dims[:-1], "operation_cause"), np.stack(nanoseconds))
    dataset.attrs["gigahertz"] = cpu.clock.gigahertz.value
    return dataset


_UNITS = {
    "events": "1",
    "cycles": "cycles",
    "overlapped_cycles": "cycles",
    "control_cycles": "cycles",
    "lifetime_cycles": "cycles",
    "awareness_cycles": "cycles",
    "operation_ns": "ns",
    "attributed_bytes": "bytes",
    "marginal_frames": "frames",
    "retained_frames": "frames",
    "mean_run_length": "frames",
    "free_share": "1",
    "unusable_index": "1",
    "ageing_seconds": "s",
}

LEFT_OUT = (
    "Reclaim, compaction and watermarks, which the study fragmentation has; per-CPU lists. Coalescing of neighbouring "
    "TLB entries: the share of aligned groups of four frames that could be coalesced is in the results. Exact LRU "
    "everywhere: real caches miss less just beyond their capacity. Write-back traffic and back-invalidation of data "
    "caches; bandwidth, and the time "
    "that prefetched lines take. Table words are not in the caches when a page is first touched, though mapping "
    "it has just written them. What pages of every order cost over a life: three orders are followed. Correlated "
    "deaths: blocks of one process die together in reality, one by one here. "
    "Freed virtual pages are flushed as the rule set does it, today once for 32 MiB of them; the refills that a "
    "flush causes are in the study overhead. Claims between migratetypes are counted, not priced." + LEFT_OUT_EVERYWHERE
)


def reprice(dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
    """Return the same counts at other prices."""
    parameters = Parameters.model_validate_json(dataset.attrs["parameters"])
    return priced(dataset, prices.cpu(presets.cpu(parameters.cpu)), prices.linux(presets.linux(parameters.linux)))
