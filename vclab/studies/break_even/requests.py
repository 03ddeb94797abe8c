"""What requests take that insist on contiguity, and what the same ones take that fall back.

On a machine that is fragmented and short of free memory, callers before have taken every block of the order, down to
the watermark that a try without reclaim respects. What then insists and what then falls back meets the same trace on
copies of this state. Two sums of it are kept: over all requests, and over those that needed the fallback (which fell
back); while insisting, it is what the same requests cost. The first is what a policy costs: the second leaves out what
insisting for one request makes dearer or cheaper for others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from vckernels.buddy import Migratetype
from vckernels.causes import Cause
from vclab.ledger import DEVICE_CAUSES, OPERATION_CAUSES
from vclab.presets import CpuPreset, LinuxPreset
from vclab.studies.demand import (
    ANSWERS,
    EVENTS,
    FAILED,
    VIRTUAL,
    WAYS,
    Demand,
    Served,
    Way,
    cpu_ns,
    device_ns,
    kept,
    serve,
)
from vclab.system import System

SIDES = ("insisting", "falling back")
OVER = ("all requests", "needed fallback")
#: Who does the work: the caller at allocation and at free, kswapd and kcompactd, programs in between.
PARTS = ("allocation", "free", "background", "programs")
#: Whose time counts: the caller's own; all CPUs'; that and the wait for pages that programs needed again; that and the
#: wait for every page that reclaim took, as if all were needed again.
ACCOUNTS = ("caller", "all CPUs", "with refaults", "all read again")


def ways(order: int, linux: LinuxPreset) -> tuple[Way, Way]:
    """Return how the two sides ask: orders for which Linux gives up early insist with ``RETRY_MAYFAIL``."""
    insisting = "physical, insist" if order > linux.costly_order.value else "physical"
    return WAYS[insisting], WAYS["early-fallback"]


def exhaust(system: System, order: int) -> int:
    """Take blocks of an order as long as a try without reclaim gets them; return how many."""
    zone, low = system.memory.zone, system.memory.low_watermark
    taken = 0
    while zone.free_frames - (1 << order) > low and zone.allocate(order, Migratetype.UNMOVABLE) >= 0:
        taken += 1
    return taken


def measure(
    crowded: System, orders: Sequence[int], requests: int, uses: int, seed: int, progress: Callable[[float], None]
) -> xr.Dataset:
    """Serve the same requests in both ways.

    Returns
    -------
    Dataset
        ``work`` (order, over, side, part, operation), sums; ``answers`` (order, side, answer); ``needed`` (order),
        requests that fell back, and ``unserved`` (order), those of them that insisting could not serve; ``taken``
        (order), blocks that callers before had taken.
    """
    work = np.zeros((len(orders), len(OVER), len(SIDES), len(PARTS), len(EVENTS)), np.int64)
    answers = np.zeros((len(orders), len(SIDES), len(ANSWERS)), np.int64)
    needed, unserved, taken = (np.zeros(len(orders), np.int64) for _ in range(3))
    for o, order in enumerate(orders):
        progress(o / len(orders))
        system = crowded.copy()
        taken[o] = exhaust(system, order)
        served = [serve(system, way, Demand(order, requests, uses, seed=seed)) for way in ways(order, system.linux)]
        fell_back = served[1].answers == VIRTUAL
        needed[o] = fell_back.sum()
        unserved[o] = np.count_nonzero(served[0].answers[fell_back] == FAILED)
        for s, side in enumerate(served):
            answers[o, s] = side.answered()
            work[o, :, s] = [_sums(side, np.ones_like(fell_back)), _sums(side, fell_back)]
    return xr.Dataset(
        {
            "work": (("order", "over", "side", "part", "operation"), work),
            "answers": (("order", "side", "answer"), answers),
            "needed": ("order", needed),
            "unserved": ("order", unserved),
            "taken": ("order", taken),
        }
    )


def _sums(served: Served, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return what some requests took, int64[parts, events].

    Addresses that were given back together are charged to the chosen frees alike, and what programs did is charged to
    the chosen requests in full: without those that needed more than the free lists had, there would be next to none.
    """
    own, background = served.own[chosen].sum(0), served.background[chosen].sum(0)
    free = served.freed[chosen].sum(0) + served.purge
    return kept(np.stack([own, free, background, served.programs]))


def prices(work: xr.DataArray, linux: LinuxPreset, cpus: dict[str, CpuPreset], bound: str = "value") -> xr.DataArray:
    """Return nanoseconds of CPU time by cause, (cpu, ..., part, operation_cause), of sums of events.

    Only flushes, whose price is in cycles, tell the CPUs apart.
    """
    ordered = work.transpose(..., "operation")
    each = [cpu_ns(ordered.values, linux, cpu, bound) for cpu in cpus.values()]
    coords = {name: value for name, value in ordered.coords.items() if name != "operation"}
    return xr.DataArray(
        np.stack(each),
        dims=("cpu", *ordered.dims[:-1], "operation_cause"),
        coords={**coords, "cpu": list(cpus), "operation_cause": list(OPERATION_CAUSES)},
    )


def accounts(work: xr.DataArray, cpu_time: xr.DataArray, linux: LinuxPreset) -> xr.DataArray:
    """Return nanoseconds by whose time counts, (..., account), from sums of events and their CPU time by part."""
    time = cpu_time.sum("operation_cause")
    caller = time.sel(part=["allocation", "free"]).sum("part")
    machine = time.sum("part")
    events = work.sum("part").transpose(..., "operation")
    waits = device_ns(events.values, linux)[..., DEVICE_CAUSES.index("refault")]
    again = linux.devices.refault_ns.value * events.values[..., EVENTS.index(Cause.PAGE_RECLAIMED)]
    coords = {name: value for name, value in events.coords.items() if name != "operation"}
    both = [xr.DataArray(values, dims=events.dims[:-1], coords=coords) for values in (waits, again)]
    parts = [caller, machine, machine + both[0], machine + both[1]]
    return xr.concat(parts, xr.Variable("account", list(ACCOUNTS))).transpose(..., "account")
