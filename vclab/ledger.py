"""Prices: what counted events cost, by cause. Nothing else in vclab turns counts into cycles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vckernels.causes import COUNTERS, Cause
from vclab.presets import CpuPreset

#: Priced causes of an access, in the order in which figures and tables show them.
ACCESS_CAUSES = ("data access", "page array load", "second-level TLB hit", "page walk")


def price_access(counts: npt.NDArray[np.int64], cpu: CpuPreset) -> dict[str, float]:
    """Return the cycles that an access stream's events cost, by cause; serial, every latency paid in full.

    Parameters
    ----------
    counts : int64[COUNTERS]
        Events.
    cpu : CpuPreset
        Latencies.
    """
    latency = cpu.latency
    walk = latency.second_level_tlb_hit.value + latency.walk.value
    prices = (
        latency.first_level_data.value * counts[Cause.DATA_ACCESS],
        latency.first_level_data.value * counts[Cause.PAGE_ARRAY_ACCESS],
        latency.second_level_tlb_hit.value * counts[Cause.SECOND_LEVEL_TLB_HIT],
        walk * counts[Cause.WALK],
    )
    return {cause: float(cycles) for cause, cycles in zip(ACCESS_CAUSES, prices, strict=True)}


def price_overlapped(counts: npt.NDArray[np.int64], cpu: CpuPreset) -> float:
    """Return the cycles if independent accesses overlap perfectly: the largest of the bounds on throughput.

    Issue bound, and walk cycles over page walkers. Data misses are not counted yet and bound nothing.
    """
    issue = (counts[Cause.DATA_ACCESS] + counts[Cause.PAGE_ARRAY_ACCESS]) / cpu.overlap.loads_per_cycle.value
    walks = counts[Cause.WALK] * cpu.latency.walk.value / cpu.overlap.walkers.value
    return float(max(issue, walks))


@dataclass(frozen=True)
class AccessCost:
    """What a stream of accesses cost.

    Attributes
    ----------
    counts : ndarray
        int64[COUNTERS], events by :class:`vckernels.causes.Cause`.
    by_cause : dict
        Serial cycles by cause.
    cycles : float
        Sum of ``by_cause``: every latency paid in full, as in a pointer chase.
    overlapped_cycles : float
        Lower bound for independent accesses.
    tlb_hits : ndarray
        int64[levels]. Together with ``walks`` they add up to ``accesses`` (and page-array loads).
    """

    counts: npt.NDArray[np.int64]
    by_cause: dict[str, float]
    cycles: float
    overlapped_cycles: float
    tlb_hits: npt.NDArray[np.int64]
    gigahertz: float

    @classmethod
    def of(cls, counts: npt.NDArray[np.int64], cpu: CpuPreset, levels: int) -> AccessCost:
        """Price counts with a preset."""
        by_cause = price_access(counts, cpu)
        return cls(
            counts=counts,
            by_cause=by_cause,
            cycles=sum(by_cause.values()),
            overlapped_cycles=price_overlapped(counts, cpu),
            tlb_hits=counts[Cause.FIRST_LEVEL_TLB_HIT : Cause.FIRST_LEVEL_TLB_HIT + levels].copy(),
            gigahertz=cpu.clock.gigahertz.value,
        )

    @property
    def accesses(self) -> int:
        """Accesses of the stream."""
        return int(self.counts[Cause.DATA_ACCESS])

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
        each = self.cycles / self.accesses if self.accesses else 0.0
        return f"<AccessCost {self.accesses:,} accesses, {each:.2f} cycles each, {self.walks:,} walks>"

    def _repr_html_(self) -> str:
        return html_table("Cost of access", "cycles", self.by_cause)


class Ledger:
    """Every event of a system so far, by cause.

    Parameters
    ----------
    counts : int64[COUNTERS]
        Events.
    cpu : CpuPreset
        Prices.
    """

    def __init__(self, counts: npt.NDArray[np.int64], cpu: CpuPreset) -> None:
        self.counts = counts
        self.cpu = cpu

    @property
    def events(self) -> dict[str, int]:
        """Number of events by cause; causes that never occurred are left out."""
        return {cause.name.lower().replace("_", " "): int(self.counts[cause]) for cause in Cause if self.counts[cause]}

    @property
    def by_cause(self) -> dict[str, float]:
        """Serial cycles of all accesses so far, by cause. Allocator events are counted, not priced yet."""
        return price_access(self.counts, self.cpu)

    @property
    def cycles(self) -> float:
        """Sum of ``by_cause``."""
        return sum(self.by_cause.values())

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
