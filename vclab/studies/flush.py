"""What a flush costs, as a difference: the same streams on all CPUs with and without it, charged to the free.

=====  ============================================================================================
share  what it is
=====  ============================================================================================
local  the freeing CPU's own flush
ipi    interrupts of the other CPUs, and their flushes
self   what the freeing CPU's accesses cost more afterwards
other  what the other CPUs' accesses cost more
=====  ============================================================================================
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from vckernels.causes import COUNTERS, Cause
from vclab import streams
from vclab.compound import CompoundPage
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.ledger import price_access, price_operations
from vclab.presets import CpuPreset, LinuxPreset
from vclab.system import System
from vclab.units import PAGE_BYTES
from vclab.vmalloc_area import lazy_max_pages

SHARES = ("local", "ipi", "refill-self", "refill-others")
#: How a free forgets its range: with nothing flushed, the range (Linux's rule for long ones included), or everything.
FLUSHES = ("none", "range", "everything")
#: When: at each free as in 2.6.24 (which flushes everything) or by range, or once for the frees of one lazy purge.
REGIMES = ("range at each free", "everything at each free", "lazy purge")
#: Order of the pages of the working set.
WORKING_ORDER = 3
#: Passes over the working set: before the free, and after it.
WARM_UP, LAPS = 2, 2


def lazy_pages(page: CompoundPage, guard_pages: int) -> int:
    """Return the pages that a free of a virtual page adds to those that wait: of all its ranges, guards included."""
    return sum((count << (9 * (level - 1))) + guard_pages for _, count, level in page.mappings)


def measure_flush(aged: System, orders: list[int], share: float, seed: int) -> xr.Dataset:
    """Free a virtual page of each order beside a working set that every CPU keeps on accessing.

    Parameters
    ----------
    aged : System
        Copied, not changed. Its regime of unmapping is "range": the others are made of what a free costs then.
    orders : list of int
        Of the pages that are freed.
    share : float
        Entries of the second-level TLB that the working set needs, as a share of all.
    seed : int
        Of the accesses.

    Returns
    -------
    Dataset
        ``flush_access`` (flush, cpu, order, event): what ``LAPS`` passes caused after the free; ``flush_work`` (flush,
        cpu, order, event): what the flush itself counted, calls and interrupts with the first CPU; ``waiting_pages``
        (order): what the free adds to those that wait for a purge. Zeros where memory was short.
    """
    base = aged.copy(policy="vmalloc")
    count = max(1, int(share * base.mmu.entries("4K")[-1]) >> WORKING_ORDER)
    working = [base.alloc_pages(WORKING_ORDER, GFP_VFALLBACK) for _ in range(count)]
    bases = np.array([page.address for page in working], np.uint64)
    nbytes = PAGE_BYTES << WORKING_ORDER
    lap = (count << WORKING_ORDER) * LAPS
    offsets = streams.chase(count * nbytes, lap, seed)
    cpus = len(base.mmus)
    for cpu in range(cpus):
        for _ in range(-(-WARM_UP // LAPS)):
            base.access_at(bases, nbytes, offsets, cpu=cpu)
    shape = (len(FLUSHES), cpus, len(orders), COUNTERS)
    access, work = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    waiting = np.zeros(len(orders), np.int64)
    for o, order in enumerate(orders):
        victims = base.copy()
        try:
            victim = victims.alloc_pages(order, GFP_VFALLBACK)
        except OutOfMemory:
            continue
        waiting[o] = lazy_pages(victim, victims.linux.guard_pages.value)
        for f, flush in enumerate(FLUSHES):
            system = victims.copy()
            work[f, :, o] = _free(system, system.compound.pages[victim.address], flush)
            for cpu in range(cpus):
                access[f, cpu, o] = system.access_at(bases, nbytes, offsets, cpu=cpu).counts
    dims = ("flush", "cpu", "order", "event")
    return xr.Dataset(
        {"flush_access": (dims, access), "flush_work": (dims, work), "waiting_pages": (("order",), waiting)}
    )


def _free(system: System, page: CompoundPage, flush: str) -> npt.NDArray[np.int64]:
    """Free a page with a flush of one kind; return what the flush counted, int64[cpus, COUNTERS]."""
    before = [mmu.counters.copy() for mmu in system.mmus]
    calls = system.operations.copy()
    if flush == "range":
        system.free_pages(page)
    else:
        system.compound.free(page)
        if flush == "everything":
            system.operations[Cause.INTERRUPT] += len(system.mmus) > 1
            for mmu in system.mmus:
                mmu.flush()
    counts = np.stack([mmu.counters - start for mmu, start in zip(system.mmus, before, strict=True)])
    counts[0] += system.operations - calls
    return counts


def flush_shares(
    dataset: xr.Dataset, linux: LinuxPreset, cpu: CpuPreset, mechanism: str, bound: str = "value"
) -> xr.DataArray:
    """Return the cycles that one free costs through its flush, by regime and share.

    Parameters
    ----------
    dataset : Dataset
        With what :func:`measure_flush` counted, and any leading dimensions.
    linux, cpu : presets
        Prices.
    mechanism : str
        "ipi": other CPUs are interrupted and flush by themselves. "invlpgb": the flush is broadcast in hardware.
    bound : str
        "value", "low" or "high" of the prices.

    Returns
    -------
    DataArray
        (..., order, regime, share).
    """
    work = dataset["flush_work"].transpose(..., "flush", "cpu", "order", "event")
    access = dataset["flush_access"].transpose(..., "flush", "cpu", "order", "event")
    counts = work.values.copy()
    if mechanism == "invlpgb":
        counts[..., Cause.INTERRUPT] = 0
        counts[..., 1:, :, :] = 0
    # Interrupts are counted with the first CPU, which waits for them, but are no flush of its own.
    own = price_operations(counts, linux, cpu, bound) * cpu.clock.gigahertz.value
    interrupts = price_operations(_only(counts, Cause.INTERRUPT), linux, cpu, bound).sum(axis=-1)
    interrupts *= cpu.clock.gigahertz.value
    flushes = own.sum(axis=-1) - interrupts
    cost = price_access(access.values, cpu).sum(axis=-1)
    more = cost - cost[..., :1, :, :]
    shares = np.stack(
        [
            flushes[..., 0, :],
            interrupts.sum(axis=-2) + flushes[..., 1:, :].sum(axis=-2),
            more[..., 0, :],
            more[..., 1:, :].sum(axis=-2),
        ],
        axis=-1,
    )
    cpus = work.sizes["cpu"]
    waiting = dataset["waiting_pages"].transpose(..., "order").values
    per_purge = np.maximum(1.0, lazy_max_pages(cpus) / np.maximum(waiting, 1))[..., None]
    of_range, of_all = shares[..., 1, :, :], shares[..., 2, :, :]
    regimes = np.stack([of_range, of_all, of_all / per_purge], axis=-2)
    dims = (*work.dims[:-4], "order", "regime", "share")
    return xr.DataArray(regimes, dims=dims, coords={"regime": list(REGIMES), "share": list(SHARES)})


def _only(counts: npt.NDArray[np.int64], cause: Cause) -> npt.NDArray[np.int64]:
    kept = np.zeros_like(counts)
    kept[..., cause] = counts[..., cause]
    return kept
