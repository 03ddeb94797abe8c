"""Memory and time that pages take beside their own frames, for both kinds, all orders, and the structures of two eras.

Three figures for memory: *attributed*, the bytes of its structures; *marginal*, frames newly taken from the allocator;
*retained*, frames held after the page is freed. Time is counted by cause and priced with the range of each price.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from pydantic import Field, model_validator

from vckernels.causes import COUNTERS, Cause
from vclab import presets, recordings
from vclab.compound import MAX_REQUEST_ORDER, CompoundPage
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK, Gfp
from vclab.ledger import OPERATION_CAUSES, price_operations
from vclab.policies import HUGE_ORDER
from vclab.presets import CpuPreset, LinuxPreset
from vclab.presets.prices import Prices
from vclab.studies import LEFT_OUT_EVERYWHERE, Progress
from vclab.studies.flush import FLUSHES, flush_shares, measure_flush
from vclab.studies.machine import MachineParameters
from vclab.system import System

STATES = ("fresh", "aged")
POLICIES = ("physical", "vmalloc", "huge-vmalloc")
STEPS = ("allocate", "free")
BOUNDS = ("value", "low", "high")
#: Pages that are asked for, as multiples of a power of two of pages.
FRACTIONS = (1.0, 1.25, 1.5, 1.75)
#: Who rounds a request: the page allocator for both kinds of compound page, vmalloc to a page, or to 2 MiB.
ROUNDINGS = ("compound page", "vmalloc", "huge-vmalloc")
#: Releases that have 2M mappings in the vmalloc area.
_HUGE_ERAS = ("6.18",)


class Parameters(MachineParameters):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    eras: list[str] = Field(["2.6.24", "6.18"], min_length=1, description="releases whose structures are used")
    memory: str = Field("2GiB", description="size of the machine, or 'recorded'")
    cpus: Annotated[int, Field(ge=2, le=64)] = Field(2, description="CPUs; all but one only access memory")
    orders: list[Annotated[int, Field(ge=0, le=MAX_REQUEST_ORDER)]] = Field(
        list(range(MAX_REQUEST_ORDER + 1)), min_length=1
    )
    requests: Annotated[int, Field(ge=1, le=10_000)] = Field(
        64, description="pages of each order, fewer where they would take more than half of what is free"
    )
    flush: Literal["ipi", "invlpgb"] = Field("ipi", description="how other CPUs are made to forget a translation")
    working_share: Annotated[float, Field(gt=0, le=4)] = Field(
        0.5, description="second-level TLB entries that the working set needs, as a share of all"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself before any work is done."""
        self.require_ascending("orders")
        if len(self.eras) != len(set(self.eras)):
            raise ValueError("eras must differ")
        linux = presets.linux(self.linux)
        for era in self.eras:
            linux.with_structures(era)
        return self


#: What ``--quick`` changes: one seed on a small machine.
QUICK = {"seeds": 1, "memory": "512MiB", "orders": [0, 1, 3, 5, 7, 9, 10, 12], "requests": 16}

ASSUMPTIONS = (
    ("lazy-purge", "32 MiB for each bit of the number of CPUs", "Linux 6.12, mm/vmalloc.c: lazy_max_pages"),
    ("prices", "those of 6.18 for every era", "no source has prices of 2.6.24; eras differ in sizes and rules only"),
    (
        "invlpgb",
        "a flush of one CPU, no interrupts",
        "no source has the price of AMD's broadcast; a local one's",
    ),
    ("working-set", "half the second-level TLB, unless set", "what a flush costs depends on what was worth keeping"),
)


def points(parameters: Parameters, jobs: int = 1) -> Sequence[int]:  # noqa: ARG001 (part of the protocol)
    """Return the seeds; each ages memory anew."""
    return range(parameters.seed, parameters.seed + parameters.seeds)


def run_point(parameters: Parameters, point: int, progress: Progress) -> xr.Dataset:
    """Boot and age a machine for each era and measure on copies of it."""
    eras = []
    for number, era in enumerate(parameters.eras):
        start = 0.9 * number / len(parameters.eras)
        progress(start, f"structures of {era}")
        system = _boot(parameters, era, point)
        fresh = system.copy()
        parameters.age(system)
        states = []
        for state, machine in zip(STATES, (fresh, system), strict=True):
            progress(start + 0.3, f"structures of {era}, {state}")
            states.append(_measure_policies(machine, parameters, era))
        eras.append(xr.concat(states, xr.Variable("state", list(STATES))))
    dataset = xr.concat(eras, xr.Variable("era", parameters.eras))
    progress(0.9, "flushes")
    dataset = dataset.merge(measure_flush(system, parameters.orders, parameters.working_share, point))
    dataset["unusable_index"] = xr.Variable((), system.unusable_free_index(parameters.fragment_order))
    progress(1.0, "done")
    return dataset


def _boot(parameters: Parameters, era: str, seed: int) -> System:
    return System(
        cpu=parameters.cpu,
        linux=presets.linux(parameters.linux).with_structures(era),
        memory=parameters.memory,
        cpus=parameters.cpus,
        levels=parameters.levels,
        direct_map=parameters.direct_map,
        recording=parameters.recording,
        # A flush of its own for each free is measured; the other regimes are made of it.
        unmap="range",
        seed=seed,
    )


def _measure_policies(machine: System, parameters: Parameters, era: str) -> xr.Dataset:
    """Ask for pages of every order under every policy, each time on a copy of the machine, and free them."""
    shape = (len(POLICIES), len(parameters.orders))
    names = ("requested", "served", "in_large_entries", "attributed_bytes", "marginal_frames", "retained_frames")
    numbers = {name: np.zeros(shape, np.int64) for name in (*names, "first_marginal_frames")}
    work = np.zeros((*shape, len(STEPS), COUNTERS), np.int64)
    for p, policy in enumerate(POLICIES):
        if policy == "huge-vmalloc" and era not in _HUGE_ERAS:
            continue
        for o, order in enumerate(parameters.orders):
            system = machine.copy(policy=policy)
            free = system.memory.zone.free_frames
            requested = max(1, min(parameters.requests, free // 2 >> order))
            counts = [system.ledger.counts]
            pages = _serve(system, order, requested)
            counts.append(system.ledger.counts)
            marginal = free - system.memory.zone.free_frames - (len(pages) << order)
            attributed = sum(page.overhead_bytes for page in pages)
            for page in pages:
                system.free_pages(page)
            counts.append(system.ledger.counts)
            work[p, o] = np.diff(counts, axis=0)
            retained = free - system.memory.zone.free_frames
            large = sum(page.mapping_level > 1 for page in pages)
            answers = (requested, len(pages), large, attributed, marginal, retained)
            for name, value in zip(names, answers, strict=True):
                numbers[name][p, o] = value
            numbers["first_marginal_frames"][p, o] = pages[0].marginal_frames if pages else 0
    dataset = xr.Dataset({name: (("policy", "order"), values) for name, values in numbers.items()})
    dataset["work"] = (("policy", "order", "step", "event"), work)
    return dataset


def _serve(system: System, order: int, requested: int) -> list[CompoundPage]:
    """Return the pages, cleared, that the policy can serve; it is asked no more after the first refusal."""
    pages: list[CompoundPage] = []
    for _ in range(requested):
        try:
            pages.append(system.alloc_pages(order, GFP_VFALLBACK | Gfp.ZERO))
        except OutOfMemory:
            break
    return pages


def rounded_pages(pages: npt.ArrayLike, rounding: str) -> npt.NDArray[np.int64]:
    """Return the pages that a request for so many takes.

    Parameters
    ----------
    pages : array_like of int
        Asked for, 1 or more.
    rounding : str
        One of ``ROUNDINGS``: to a power of two, not at all, or from 2 MiB on to a multiple of 2 MiB.
    """
    asked = np.asarray(pages, np.int64)
    if rounding == "vmalloc":
        return asked
    if rounding == "compound page":
        return np.array(1 << np.ceil(np.log2(asked)).astype(np.int64))
    large = 1 << HUGE_ORDER
    return np.where(asked >= large, -(-asked // large) * large, asked)


def priced(dataset: xr.Dataset, cpu: CpuPreset, linux: LinuxPreset, mechanism: str) -> xr.Dataset:
    """Return results with all times anew from their counts.

    ``nanoseconds`` (..., bound, operation_cause) are of all requests of an order together; ``flush_cycles`` (...,
    order, regime, share) of one free, ``flush_cycles_low`` and ``flush_cycles_high`` at the ends of the prices' ranges.
    """
    work = dataset["work"].transpose(..., "event")
    dataset = dataset.assign_coords(bound=list(BOUNDS), operation_cause=list(OPERATION_CAUSES))
    prices = np.stack([price_operations(work.values, linux, cpu, bound) for bound in BOUNDS], axis=-2)
    dataset["nanoseconds"] = ((*work.dims[:-1], "bound", "operation_cause"), prices)
    for suffix, bound in (("", "value"), ("_low", "low"), ("_high", "high")):
        dataset[f"flush_cycles{suffix}"] = flush_shares(dataset, linux, cpu, mechanism, bound)
    dataset.attrs["gigahertz"] = cpu.clock.gigahertz.value
    return dataset


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all seeds together, price the counts, add requests that are no power of two, units and provenance."""
    dataset = xr.concat(list(parts), xr.Variable("seed", list(points(parameters)))).assign_coords(
        order=parameters.orders,
        policy=list(POLICIES),
        step=list(STEPS),
        flush=list(FLUSHES),
        event=[cause.name.lower() for cause in Cause],
        fraction=list(FRACTIONS),
        rounding=list(ROUNDINGS),
    )
    asked = np.ceil(2.0 ** np.array(parameters.orders)[:, None] * np.array(FRACTIONS)).astype(np.int64)
    dataset["asked_pages"] = (("order", "fraction"), asked)
    taken = np.stack([rounded_pages(asked, rounding) for rounding in ROUNDINGS])
    dataset["taken_pages"] = (("rounding", "order", "fraction"), taken)
    cpu, linux = presets.cpu(parameters.cpu), presets.linux(parameters.linux)
    dataset = priced(dataset, cpu, linux, parameters.flush)
    for name, unit in _UNITS.items():
        dataset[name].attrs["units"] = unit
    recording = recordings.load(parameters.recording)
    dataset.attrs |= {
        "study": "overhead",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": recording.name,
        "recording_digest": recording.digest,
        "machine": parameters.machine,
        "left_out": LEFT_OUT,
    }
    return dataset


_UNITS = {
    "requested": "1",
    "served": "1",
    "in_large_entries": "1",
    "attributed_bytes": "bytes",
    "marginal_frames": "frames",
    "first_marginal_frames": "frames",
    "retained_frames": "frames",
    "work": "1",
    "nanoseconds": "ns",
    "flush_access": "1",
    "flush_work": "1",
    "waiting_pages": "pages",
    "flush_cycles": "cycles",
    "flush_cycles_low": "cycles",
    "flush_cycles_high": "cycles",
    "asked_pages": "pages",
    "taken_pages": "pages",
    "unusable_index": "1",
}

LEFT_OUT = (
    "Per-CPU page lists and slabs of more than a page: control structures pack frames as tightly as they can. "
    "Caches of ready areas (vmap nodes), and locks that CPUs wait for. Reclaim and compaction, so that an aged "
    "machine refuses what a kernel would defragment for. alloc_pages_exact, which gives the tail of a rounded "
    "block back. Allocating in bulk, which makes single frames cheaper than here. Instructions and cache misses "
    "of the kernel are priced as constants, with a range." + LEFT_OUT_EVERYWHERE
)


def reprice(dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
    """Return the same counts at other prices."""
    parameters = Parameters.model_validate_json(dataset.attrs["parameters"])
    cpu, linux = presets.cpu(parameters.cpu), presets.linux(parameters.linux)
    return priced(dataset, prices.cpu(cpu), prices.linux(linux), parameters.flush)
