"""Prices: what counted events cost, by cause. Nothing else in vclab turns counts into cycles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vckernels.causes import COUNTERS, Cause
from vclab.presets import CpuPreset, LinuxPreset

#: Priced causes of an access, in the order in which figures and tables show them.
ACCESS_CAUSES = (
    "first-level data",
    "second-level data",
    "third-level data",
    "memory",
    "fill conflict",
    "page array load",
    "second-level TLB hit",
    "page walk",
    "accessed and dirty update",
)
#: Those of them that reach data, whatever the translation.
DATA_CAUSES = ACCESS_CAUSES[:5]
#: Priced causes of the kernel's work on allocations, in nanoseconds each by the Linux preset.
OPERATION_CAUSES = (
    "block allocation",
    "block free",
    "split",
    "merge",
    "area reservation",
    "area search",
    "area release",
    "entry write",
    "table page",
    "struct page",
    "zeroing",
    "copying",
    "flush",
    "interrupt",
    "compaction scan",
    "migration",
    "reclaim scan",
    "reclaim",
)
#: What devices do for reclaim while nobody computes, in nanoseconds each by the Linux preset.
DEVICE_CAUSES = ("refault", "write-back", "congestion wait")
_LEVELS = 4


def served_latencies(cpu: CpuPreset) -> npt.NDArray[np.float64]:
    """Return cycles from load to use by who serves a line: float64[4], first to third level and memory."""
    latencies = np.zeros(_LEVELS)
    for level, cache in enumerate(cpu.data_cache):
        latencies[level] = cache.latency.value
    latencies[-1] = cpu.memory.latency.value
    return latencies


def _served(counts: npt.NDArray[np.int64], first: Cause) -> npt.NDArray[np.int64]:
    return counts[..., first : first + _LEVELS]


def walk_cycles(counts: npt.NDArray[np.int64], cpu: CpuPreset) -> npt.NDArray[np.float64]:
    """Return the cycles that page walkers were busy: starting, and loading the words of page tables."""
    loads = _served(counts, Cause.WALK_LEVEL_1) @ served_latencies(cpu)
    return np.asarray(cpu.walk.start.value * counts[..., Cause.WALK] + loads, float)


def price_access(counts: npt.NDArray[np.int64], cpu: CpuPreset) -> npt.NDArray[np.float64]:
    """Return the cycles that an access stream's events cost; serial, every latency paid in full.

    Parameters
    ----------
    counts : int64[..., COUNTERS]
        Events.
    cpu : CpuPreset
        Latencies.

    Returns
    -------
    ndarray
        float64[..., len(ACCESS_CAUSES)].
    """
    latencies = served_latencies(cpu)
    latency = cpu.latency
    updates = counts[..., Cause.ACCESSED_UPDATE] + counts[..., Cause.DIRTY_UPDATE]
    parts = [
        *np.moveaxis(_served(counts, Cause.DATA_LEVEL_1) * latencies, -1, 0),
        latency.first_level_fill_conflict.value * counts[..., Cause.FILL_CONFLICT],
        _served(counts, Cause.ARRAY_LEVEL_1) @ latencies,
        latency.second_level_tlb_hit.value * counts[..., Cause.SECOND_LEVEL_TLB_HIT],
        latency.second_level_tlb_hit.value * counts[..., Cause.WALK] + walk_cycles(counts, cpu),
        latency.accessed_dirty_update.value * updates,
    ]
    return np.stack([np.asarray(part, float) for part in parts], axis=-1)


def price_overlapped(counts: npt.NDArray[np.int64], cpu: CpuPreset) -> npt.NDArray[np.float64]:
    """Return the cycles if independent accesses overlap perfectly: the largest of the bounds on throughput.

    Issue; data misses over outstanding misses; walks over page walkers.

    Parameters
    ----------
    counts : int64[..., COUNTERS]
    cpu : CpuPreset

    Returns
    -------
    ndarray
        float64[...].
    """
    latencies = served_latencies(cpu)
    latencies[0] = 0.0
    overlap = cpu.overlap
    issue = (counts[..., Cause.DATA_ACCESS] + counts[..., Cause.PAGE_ARRAY_ACCESS]) / overlap.loads_per_cycle.value
    misses = (_served(counts, Cause.DATA_LEVEL_1) + _served(counts, Cause.ARRAY_LEVEL_1)) @ latencies
    bounds = (issue, misses / overlap.miss_parallelism.value, walk_cycles(counts, cpu) / overlap.walkers.value)
    return np.asarray(np.maximum.reduce(bounds), float)


def price_operations(
    counts: npt.NDArray[np.int64], linux: LinuxPreset, cpu: CpuPreset, bound: str = "value"
) -> npt.NDArray[np.float64]:
    """Return the nanoseconds that the kernel's work on allocations costs.

    Parameters
    ----------
    counts : int64[..., COUNTERS]
        Events.
    linux : LinuxPreset
        Prices, each with its range.
    cpu : CpuPreset
        The clock by which flushes, priced in cycles, become nanoseconds.
    bound : str
        "value", or "low" or "high": the ends of each price's range.

    Returns
    -------
    ndarray
        float64[..., len(OPERATION_CAUSES)].
    """
    costs = linux.costs

    def price(name: str) -> float:
        return float(getattr(getattr(costs, name), bound))

    flush = (
        price("flush_call_cycles") * counts[..., Cause.FLUSH_CALL]
        + price("flush_page_cycles") * counts[..., Cause.TLB_INVALIDATION]
        + price("flush_full_cycles") * counts[..., Cause.TLB_FLUSH]
    ) / cpu.clock.gigahertz.value
    broadcast = (
        price("broadcast_ns") * counts[..., Cause.BROADCAST]
        + price("broadcast_wait_ns") * counts[..., Cause.BROADCAST_WAIT]
    )
    # A reservation's price includes the search that a fresh area needs: one step.
    steps = np.maximum(counts[..., Cause.AREA_STEP] - counts[..., Cause.AREA_RESERVE], 0)
    parts = (
        price("allocation_ns") * counts[..., Cause.ALLOCATION]
        + price("per_cpu_allocation_ns") * counts[..., Cause.PER_CPU_ALLOCATION],
        price("free_ns") * counts[..., Cause.FREE] + price("per_cpu_free_ns") * counts[..., Cause.PER_CPU_FREE],
        price("split_ns") * counts[..., Cause.SPLIT],
        price("merge_ns") * counts[..., Cause.MERGE],
        price("area_reserve_ns") * counts[..., Cause.AREA_RESERVE]
        + price("area_pool_ns") * counts[..., Cause.AREA_POOL_HIT]
        + price("block_part_ns") * counts[..., Cause.BLOCK_TAKE],
        price("area_search_step_ns") * steps,
        price("area_release_ns") * counts[..., Cause.AREA_RELEASE]
        + price("area_lazy_ns") * counts[..., Cause.AREA_LAZY_FREE]
        + price("block_part_ns") * counts[..., Cause.BLOCK_GIVE],
        price("entry_write_ns") * counts[..., Cause.ENTRY_WRITE],
        price("table_page_ns") * counts[..., Cause.TABLE_PAGE],
        price("struct_page_ns") * counts[..., Cause.STRUCT_PAGE],
        price("zero_page_ns") * counts[..., Cause.PAGE_CLEARED],
        price("copy_page_ns") * counts[..., Cause.PAGE_COPIED],
        flush + broadcast,
        price("interrupt_ns") * counts[..., Cause.INTERRUPT],
        price("compact_scan_ns") * (counts[..., Cause.MIGRATE_SCANNED] + counts[..., Cause.FREE_SCANNED]),
        price("migrate_page_ns") * counts[..., Cause.PAGE_MIGRATED],
        price("reclaim_scan_ns") * counts[..., Cause.RECLAIM_SCANNED],
        price("reclaim_page_ns") * counts[..., Cause.PAGE_RECLAIMED],
    )
    return np.stack([np.asarray(part, float) for part in parts], axis=-1)


def price_devices(counts: npt.NDArray[np.int64], linux: LinuxPreset, bound: str = "value") -> npt.NDArray[np.float64]:
    """Return the nanoseconds that devices take for reclaim; no CPU is busy with them.

    Parameters
    ----------
    counts : int64[..., COUNTERS]
        Events.
    linux : LinuxPreset
        Latencies, each with its range.
    bound : str
        "value", or "low" or "high".

    Returns
    -------
    ndarray
        float64[..., len(DEVICE_CAUSES)].
    """
    devices = linux.devices
    parts = (
        getattr(devices.refault_ns, bound) * counts[..., Cause.REFAULT],
        getattr(devices.write_back_ns, bound) * (counts[..., Cause.WRITE_BACK] + counts[..., Cause.SWAP_OUT]),
        getattr(devices.congestion_wait_ns, bound) * counts[..., Cause.CONGESTION_WAIT],
    )
    return np.stack([np.asarray(part, float) for part in parts], axis=-1)


@dataclass(frozen=True)
class AccessCost:
    """What a stream of accesses cost; counts are priced when a price is asked for.

    Attributes
    ----------
    counts : ndarray
        int64[COUNTERS], events by :class:`vckernels.causes.Cause`.
    cpu : CpuPreset
        Latencies.
    levels : int
        Levels of the TLB.
    """

    counts: npt.NDArray[np.int64]
    cpu: CpuPreset
    levels: int

    @cached_property
    def by_cause(self) -> dict[str, float]:
        """Serial cycles by cause."""
        return dict(zip(ACCESS_CAUSES, price_access(self.counts, self.cpu).tolist(), strict=True))

    @cached_property
    def cycles(self) -> float:
        """Sum of :attr:`by_cause`: every latency paid in full, as in a pointer chase."""
        return sum(self.by_cause.values())

    @cached_property
    def overlapped_cycles(self) -> float:
        """Lower bound for independent accesses."""
        return float(price_overlapped(self.counts, self.cpu))

    @property
    def tlb_hits(self) -> npt.NDArray[np.int64]:
        """Hits of each level, int64[levels]; with :attr:`walks` they add up to accesses (and page-array loads)."""
        return self.counts[Cause.FIRST_LEVEL_TLB_HIT : Cause.FIRST_LEVEL_TLB_HIT + self.levels].copy()

    @property
    def gigahertz(self) -> float:
        """The preset's clock."""
        return self.cpu.clock.gigahertz.value

    @property
    def accesses(self) -> int:
        """Accesses of the stream."""
        return int(self.counts[Cause.DATA_ACCESS])

    @property
    def cycles_per_access(self) -> float:
        """Serial cycles of one access, 0 if there was none."""
        return self.cycles / self.accesses if self.accesses else 0.0

    @property
    def walks(self) -> int:
        """Page walks."""
        return int(self.counts[Cause.WALK])

    @property
    def walk_references(self) -> int:
        """Page-table words loaded by walks."""
        return int(self.counts[Cause.WALK_REFERENCE])

    @property
    def nanoseconds(self) -> float:
        """Serial time at the preset's clock."""
        return self.cycles / self.gigahertz

    def __repr__(self) -> str:
        return (
            f"<AccessCost {self.accesses:,} accesses, {self.cycles_per_access:.2f} cycles each, {self.walks:,} walks>"
        )

    def _repr_html_(self) -> str:
        return html_table("Cost of access", "cycles", self.by_cause)


class Ledger:
    """Every event of a system so far, by cause, but for those of other work, which has counters of its own.

    Parameters
    ----------
    counts : int64[COUNTERS]
        Events.
    cpu : CpuPreset
        Prices of accesses.
    linux : LinuxPreset
        Prices of the kernel's work.
    """

    def __init__(self, counts: npt.NDArray[np.int64], cpu: CpuPreset, linux: LinuxPreset) -> None:
        self.counts = counts
        self.cpu = cpu
        self.linux = linux

    @property
    def events(self) -> dict[str, int]:
        """Number of events by cause; causes that never occurred are left out."""
        return {cause.name.lower().replace("_", " "): int(self.counts[cause]) for cause in Cause if self.counts[cause]}

    @property
    def by_cause(self) -> dict[str, float]:
        """Serial cycles so far by cause: of all accesses, and of the kernel's work on allocations."""
        accesses = price_access(self.counts, self.cpu)
        operations = price_operations(self.counts, self.linux, self.cpu) * self.cpu.clock.gigahertz.value
        return dict(zip((*ACCESS_CAUSES, *OPERATION_CAUSES), [*accesses.tolist(), *operations.tolist()], strict=True))

    @property
    def cycles(self) -> float:
        """Sum of ``by_cause``."""
        return sum(self.by_cause.values())

    @property
    def device_ns(self) -> dict[str, float]:
        """Nanoseconds that devices took for reclaim, by cause; ``cycles`` has nothing of them."""
        return dict(zip(DEVICE_CAUSES, price_devices(self.counts, self.linux).tolist(), strict=True))

    def __repr__(self) -> str:
        return f"<Ledger {self.events}>"

    def _repr_html_(self) -> str:
        return html_table("Events so far", "events", self.events)


def html_table(title: str, unit: str, values: dict[str, float] | dict[str, int]) -> str:
    """Return a small HTML table of named numbers."""
    rows = "".join(f"<tr><th>{name}</th><td>{value:,.0f}</td></tr>" for name, value in values.items())
    return f"<table><caption>{title}</caption><tr><th>cause</th><th>{unit}</th></tr>{rows}</table>"


def no_counts() -> npt.NDArray[np.int64]:
    """Return counters at zero, int64[COUNTERS]."""
    return np.zeros(COUNTERS, np.int64)
