"""The cost of a free by its parts, under each regime and way of flushing, for 1 to many CPUs.

=============  ======================================================================================================
part           what it is
=============  ======================================================================================================
unmapping      entries, the search of the area, giving its addresses back: what the free does without any flush
local          the freeing CPU's own flush
ipi            its waiting for the other CPUs, and their handlers; by the event queue
refill-self    what the freeing CPU's accesses cost more after a flush: the same accesses with and without it
refill-others  what those of all other CPUs cost more: one other CPU's difference times their number
=============  ======================================================================================================

Cycles are those of the whole machine, charged to the free that caused them; where many frees share a flush, each has an
equal part. The time that passes from free to free, where all CPUs free at once, is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from pydantic import Field, model_validator

from vckernels.causes import COUNTERS, Cause
from vclab import presets, recordings, vmapcost
from vclab.compound import MAX_REQUEST_ORDER
from vclab.errors import ConfigurationError, OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.ledger import OPERATION_CAUSES, price_access, price_operations
from vclab.presets import CpuPreset, LinuxPreset
from vclab.presets.prices import Prices
from vclab.shootdown import MECHANISMS, check_mechanism
from vclab.studies import LEFT_OUT_EVERYWHERE, Progress
from vclab.studies.flush import FLUSHES, measure_flush
from vclab.studies.machine import MachineParameters
from vclab.studies.unmap.rounds import Costs, all_free, one_flush
from vclab.system import System
from vclab.vmalloc_area import lazy_max_pages

REGIMES = ("eager", "2.6.28", "lazy")
PARTS = ("unmapping", "local", "ipi", "refill-self", "refill-others")
BOUNDS = ("value", "low", "high")
#: Causes of a free that are its flush's.
FLUSH_CAUSES = ("flush", "interrupt")
#: Of a free's work, under the lock over the areas.
LOCKED_CAUSES = ("area search", "area release", "entry write")
#: Without a flush, or with one of everything: what measure_flush counts.
_NONE, _EVERYTHING = FLUSHES.index("none"), FLUSHES.index("everything")


class Parameters(MachineParameters):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    memory: str = Field("2GiB", description="size of the machine, or 'recorded'")
    cpu_counts: list[Annotated[int, Field(ge=1, le=128)]] = Field(
        [1, 2, 4, 8, 16, 32, 64], min_length=1, description="CPUs of the machine"
    )
    orders: list[Annotated[int, Field(ge=0, le=MAX_REQUEST_ORDER)]] = Field([0, 1, 2, 3, 4, 5, 7, 9], min_length=1)
    areas: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="areas that are live while one is freed, fewer where they would take half of what is free"
    )
    multiprocessor: str = Field("epyc-2021", description="preset of interrupts and lines between CPUs")
    working_share: Annotated[float, Field(gt=0, le=4)] = Field(
        0.5, description="second-level TLB entries that each CPU's working set needs, as a share of all"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself before any work is done."""
        self.require_ascending("orders", "cpu_counts")
        presets.multiprocessor(self.multiprocessor)
        return self

    @property
    def mechanisms(self) -> list[str]:
        """Ways of flushing that the CPU has."""
        cpu = presets.cpu(self.cpu)
        return [name for name in MECHANISMS if _can(name, cpu)]


def _can(mechanism: str, cpu: CpuPreset) -> bool:
    try:
        check_mechanism(mechanism, cpu)
    except ConfigurationError:
        return False
    return True


#: What ``--quick`` changes: one seed on a small machine.
QUICK = {"seeds": 1, "memory": "512MiB", "orders": [0, 3, 9], "cpu_counts": [1, 2, 8, 64], "areas": 40}

ASSUMPTIONS = (
    ("prices", "those of 6.18 for every regime", "no source has prices of 2.6.x on a CPU of today"),
    ("other-cpus", "all do what one of them is measured to do", "each has caches of its own and the same work"),
    ("working-set", "half the second-level TLB, unless set", "what a flush costs depends on what was worth keeping"),
    (
        "areas",
        "100 live areas, unless set",
        "the list of 2.6.24 and the tree of 2.6.28 are walked from their lowest area on",
    ),
)


def points(parameters: Parameters, jobs: int = 1) -> Sequence[int]:  # noqa: ARG001 (part of the protocol)
    """Return the seeds; each ages memory anew."""
    return range(parameters.seed, parameters.seed + parameters.seeds)


def run_point(parameters: Parameters, point: int, progress: Progress) -> xr.Dataset:
    """Boot and age a machine and free on copies of it, under each regime and with and without a flush."""
    progress(0.0, "boot")
    work = np.zeros((len(REGIMES), len(parameters.orders), COUNTERS), np.int64)
    freed = np.zeros((len(REGIMES), len(parameters.orders)), np.int64)
    for r, regime in enumerate(REGIMES):
        progress(0.7 * r / len(REGIMES), f"regime {regime}")
        aged = _boot(parameters, point, regime)
        parameters.age(aged)
        for o, order in enumerate(parameters.orders):
            work[r, o], freed[r, o] = _free_among(aged.copy(policy="vmalloc"), order, parameters.areas, point)
    progress(0.7, "flushes")
    flushes = measure_flush(aged, parameters.orders, parameters.working_share, point)
    dataset = xr.Dataset({"work": (("regime", "order", "event"), work), "freed": (("regime", "order"), freed)}).merge(
        flushes[["flush_access", "waiting_pages"]]
    )
    dataset["unusable_index"] = xr.Variable((), aged.unusable_free_index(parameters.fragment_order))
    progress(1.0, "done")
    return dataset


def _boot(parameters: Parameters, seed: int, unmap: str) -> System:
    return System(
        cpu=parameters.cpu,
        linux=parameters.linux,
        memory=parameters.memory,
        cpus=2,
        levels=parameters.levels,
        direct_map=parameters.direct_map,
        recording=parameters.recording,
        seed=seed,
        unmap=unmap,
    )


def _free_among(system: System, order: int, areas: int, seed: int) -> tuple[npt.NDArray[np.int64], int]:
    """Replace pages of an order at random, as many frees as there are pages; return what those frees counted.

    Returns
    -------
    counts : int64[COUNTERS]
    frees : int
    """
    rng = np.random.default_rng([seed, order])
    count = max(1, min(areas, system.memory.zone.free_frames // 2 >> order))
    pages = []
    for _ in range(count):
        try:
            pages.append(system.alloc_pages(order, GFP_VFALLBACK))
        except OutOfMemory:
            break
    counts = np.zeros(COUNTERS, np.int64)
    for victim in rng.integers(max(1, len(pages)), size=len(pages)).tolist():
        before = system.ledger.counts
        system.free_pages(pages[victim])
        counts += system.ledger.counts - before
        pages[victim] = system.alloc_pages(order, GFP_VFALLBACK)
    # Giving addresses back belongs to the frees whenever it is done; the flush before it is counted apart.
    before = system.ledger.counts
    system.purge_vmalloc_area()
    counts += system.ledger.counts - before
    return counts, len(pages)


def free_nanoseconds(dataset: xr.Dataset, linux: LinuxPreset, cpu: CpuPreset, bound: str = "value") -> xr.DataArray:
    """Return nanoseconds of one free by cause, but for its flush: (..., regime, order, operation_cause)."""
    work = dataset["work"].transpose(..., "event")
    priced = xr.DataArray(
        price_operations(work.values, linux, cpu, bound),
        dims=(*work.dims[:-1], "operation_cause"),
        coords={"operation_cause": list(OPERATION_CAUSES)},
    )
    own = priced.where(~priced["operation_cause"].isin(FLUSH_CAUSES), 0.0)
    return (own / np.maximum(dataset["freed"], 1)).transpose(..., "regime", "order", "operation_cause")


def refills(dataset: xr.Dataset, cpu: CpuPreset) -> xr.DataArray:
    """Return the cycles that accesses cost more after a flush of everything: (..., cpu), the freeing CPU first."""
    access = dataset["flush_access"].transpose(..., "flush", "cpu", "order", "event")
    cost = price_access(access.values, cpu).sum(axis=-1)
    more = (cost[..., _EVERYTHING, :, :] - cost[..., _NONE, :, :]).mean(axis=-1)
    return xr.DataArray(more, dims=(*access.dims[:-4], "cpu"))


def frees_per_flush(dataset: xr.Dataset, cpus: int) -> xr.DataArray:
    """Return how many frees of a page of each order share one flush on so many CPUs: (..., regime, order)."""
    waiting = dataset["waiting_pages"]
    lazy = np.maximum(1.0, lazy_max_pages(cpus) / np.maximum(waiting, 1))
    several = xr.DataArray([float(regime != "eager") for regime in REGIMES], dims="regime")
    return (1.0 + several * (lazy - 1.0)).transpose(..., "regime", "order")


def priced(dataset: xr.Dataset, cpu: CpuPreset, linux: LinuxPreset, parameters: Parameters) -> xr.Dataset:
    """Return results with all costs anew from their counts.

    ``free_cycles`` (..., bound, mechanism, cpus, regime, order, part) of one free, by all CPUs; ``busy_cycles``
    (mechanism, cpus, regime), from free to free of each CPU where all free pages of the middle order at once;
    ``frees_per_flush``; ``flush_round`` (mechanism, cpus), what the CPU that flushes everything takes for it.
    """
    machine = presets.multiprocessor(parameters.multiprocessor)
    gigahertz = cpu.clock.gigahertz.value
    scale = gigahertz / machine.gigahertz.value
    counts, mechanisms = parameters.cpu_counts, parameters.mechanisms
    refill = refills(dataset, cpu)
    by_bound, rounds = [], np.zeros((len(mechanisms), len(counts)))
    for bound in BOUNDS:
        costs = Costs.of(machine, linux, bound)
        each = free_nanoseconds(dataset, linux, cpu, bound)
        unmapping = each.sum("operation_cause") * gigahertz
        by_mechanism = []
        for m, mechanism in enumerate(mechanisms):
            by_count = []
            for c, count in enumerate(counts):
                flush = one_flush(costs, count, mechanism)
                shared = frees_per_flush(dataset, count)
                parts = [unmapping]
                parts += [
                    xr.zeros_like(unmapping) + number / shared
                    for number in (
                        flush.local * scale,
                        (flush.waiting + flush.others) * scale,
                        refill.isel(cpu=0),
                        refill.isel(cpu=1) * (count - 1),
                    )
                ]
                by_count.append(xr.concat(parts, xr.Variable("part", list(PARTS))))
                if bound == "value":
                    rounds[m, c] = (flush.local + flush.waiting) * scale
            by_mechanism.append(xr.concat(by_count, xr.Variable("cpus", counts)))
        by_bound.append(xr.concat(by_mechanism, xr.Variable("mechanism", mechanisms)))
    order = middle_order(parameters.orders)
    dataset = dataset.assign_coords(operation_cause=list(OPERATION_CAUSES))
    dataset["free_nanoseconds"] = free_nanoseconds(dataset, linux, cpu)
    dataset["free_cycles"] = xr.concat(by_bound, xr.Variable("bound", list(BOUNDS)))
    dataset["flush_round"] = (("mechanism", "cpus"), rounds)
    dataset["frees_per_flush"] = xr.concat(
        [frees_per_flush(dataset, count) for count in counts], xr.Variable("cpus", counts)
    )
    busy = _busy(dataset, Costs.of(machine, linux), order, mechanisms, counts)
    dataset["busy_cycles"] = (("mechanism", "cpus", "regime"), busy * scale)
    dataset.attrs["gigahertz"] = gigahertz
    return dataset


def middle_order(orders: Sequence[int]) -> int:
    """Return the order nearest to 3, up to which Linux thinks little of a request (``PAGE_ALLOC_COSTLY_ORDER``)."""
    return min(orders, key=lambda order: (abs(order - 3), order))


def _busy(
    dataset: xr.Dataset, costs: Costs, order: int, mechanisms: Sequence[str], counts: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Let all CPUs free pages of one order at once; return the cycles from free to free of each."""
    each = dataset["free_nanoseconds"].sel(order=order)
    each = each.mean([name for name in each.dims if name not in ("regime", "operation_cause")])
    shared = dataset["frees_per_flush"].sel(order=order)
    shared = shared.mean([name for name in shared.dims if name not in ("cpus", "regime")])
    cycles = costs.machine.gigahertz.value
    busy = np.zeros((len(mechanisms), len(counts), len(REGIMES)))
    for place in np.ndindex(busy.shape):
        mechanism, count, regime = mechanisms[place[0]], counts[place[1]], place[2]
        causes = each.isel(regime=regime)
        locked = float(causes.sel(operation_cause=list(LOCKED_CAUSES)).sum()) * cycles
        work = float(causes.sum()) * cycles - locked
        busy[place] = all_free(costs, count, mechanism, work, locked, float(shared.sel(cpus=count).isel(regime=regime)))
    return busy


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all seeds together, price the counts, add the table of 2008, units and provenance."""
    dataset = xr.concat(list(parts), xr.Variable("seed", list(points(parameters)))).assign_coords(
        order=parameters.orders,
        regime=list(REGIMES),
        flush=list(FLUSHES),
        event=[cause.name.lower() for cause in Cause],
    )
    cpu, linux = presets.cpu(parameters.cpu), presets.linux(parameters.linux)
    dataset = priced(dataset, cpu, linux, parameters)
    free, cells = vmapcost.published()
    threads = list(next(iter(vmapcost.MEASURED.values())))
    shape = (len(vmapcost.MEASURED), len(threads))
    for name, values in (
        ("vmap_measured", [cell.measured for cell in cells]),
        ("vmap_model", [cell.model for cell in cells]),
        ("vmap_fitted", [int(cell.is_fitted) for cell in cells]),
    ):
        dataset[name] = (("vmap", "threads"), np.array(values).reshape(shape))
    dataset = dataset.assign_coords(vmap=list(vmapcost.MEASURED), threads=threads)
    for name, unit in _UNITS.items():
        dataset[name].attrs["units"] = unit
    recording = recordings.load(parameters.recording)
    dataset.attrs |= {
        "study": "unmap",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": recording.name,
        "recording_digest": recording.digest,
        "machine": parameters.machine,
        "vmap_work_ns": free.work,
        "vmap_flush_ns": free.flush,
        "left_out": LEFT_OUT,
    }
    return dataset


_UNITS = {
    "work": "1",
    "freed": "1",
    "flush_access": "1",
    "waiting_pages": "pages",
    "free_nanoseconds": "ns",
    "free_cycles": "cycles",
    "busy_cycles": "cycles",
    "flush_round": "cycles",
    "frees_per_flush": "1",
    "vmap_measured": "ns",
    "vmap_model": "ns",
    "vmap_fitted": "1",
    "unusable_index": "1",
}

LEFT_OUT = (
    "CPUs that sleep, and interrupts that are off when they are asked for, beside the table of 2008, which has the "
    "former. Locks other than the one over the areas. Refills that other work causes in the meantime: the accesses "
    "after a flush are the same ones as before it. Workers that purge in the background, whose time is charged to the "
    "frees as if they made it themselves." + LEFT_OUT_EVERYWHERE
)


def reprice(dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
    """Return the same counts at other prices; the table of 2008 has prices of its own."""
    parameters = Parameters.model_validate_json(dataset.attrs["parameters"])
    cpu, linux = presets.cpu(parameters.cpu), presets.linux(parameters.linux)
    return priced(dataset, prices.cpu(cpu), prices.linux(linux), parameters)
