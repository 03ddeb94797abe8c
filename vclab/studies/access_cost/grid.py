"""What may be set, and which points of the grid follow from it.

Not the full product: one factor at a time departs from a baseline (one CPU, one direct map, whole, nothing beside),
so that each figure has its axis. The baseline has every access pattern and size; the other machines have the sizes of
one order, ``sweep_order``, and the patterns of ``sweep_patterns``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from vclab import presets, streams
from vclab.boot import check_paging
from vclab.compound import MAX_REQUEST_ORDER
from vclab.errors import ConfigurationError
from vclab.policies import HUGE_ORDER
from vclab.studies.cells import Stream
from vclab.studies.machine import MachineParameters
from vclab.units import PAGE_BYTES, parse_bytes

DirectMapSize = Literal["2M", "1G", "4K"]
Pattern = Literal["chase", "uniform", "zipf", "sequential", "strided", "hash-table"]


def _sequential(nbytes: int, count: int, **_: int) -> npt.NDArray[np.int64]:
    return streams.sequential(nbytes, count)


def _strided(nbytes: int, count: int, **_: int) -> npt.NDArray[np.int64]:
    return streams.strided(nbytes, count, PAGE_BYTES)


#: Every pattern by name; a stride is one page.
PATTERNS: dict[str, Stream] = {
    "chase": streams.chase,
    "uniform": streams.uniform,
    "zipf": streams.zipf,
    "sequential": _sequential,
    "strided": _strided,
    "hash-table": streams.hash_table,
}
#: Only its accesses wait for one another.
DEPENDENT = "chase"
#: Patterns that run into the next line or page, which prefetchers foresee.
FORESEEN = ("sequential", "strided")


class Parameters(MachineParameters):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    cpu: str = Field("zen3", description="CPU preset of the baseline")
    cpus: list[str] = Field(
        ["zen3", "skylake-sp", "ice-lake", "k8", "core2"], min_length=1, description="CPU presets that are compared"
    )
    levels: Literal[4, 5] | None = Field(None, description="page-table levels; each CPU's most by default")
    direct_map: DirectMapSize = Field("2M", description="page size of the baseline's direct map")
    direct_maps: list[DirectMapSize] = Field(["2M", "1G", "4K"], description="page sizes compared, on every CPU")
    splits: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.0, 0.05, 0.25, 1.0], description="shares of the baseline's direct map broken into smaller pages"
    )
    patterns: list[Pattern] = Field(
        ["chase", "uniform", "zipf", "sequential", "strided", "hash-table"], min_length=1, description="of the baseline"
    )
    orders: list[Annotated[int, Field(ge=0, le=MAX_REQUEST_ORDER)]] = Field([2, 5, 9, 10, 12, 14], min_length=1)
    live_pages: list[Annotated[int, Field(ge=1, le=4096)]] = Field([1, 4, 16, 64, 256], min_length=1)
    most_bytes: str = Field("256MiB", description="largest working set of the baseline")
    sweep_patterns: list[Pattern] = Field(["chase", "uniform"], min_length=1, description="of the other machines")
    sweep_order: Annotated[int, Field(ge=0, le=10)] = 5
    sweep_live_pages: list[Annotated[int, Field(ge=1, le=4096)]] = Field([1, 4, 16, 64, 256, 1024], min_length=1)
    background_share: Annotated[float, Field(gt=0, le=4)] = Field(
        0.5, description="4K pages of the work beside, over the entries of the second-level TLB"
    )
    entry_cycles: Annotated[float, Field(ge=0)] = Field(
        100_000, description="cycles from one kernel entry to the next where there is work beside; 0: none"
    )
    accesses: Annotated[int, Field(ge=1, le=100_000_000)] = Field(35_000, description="accesses of a steady phase")
    hash_orders: list[Annotated[int, Field(ge=HUGE_ORDER, le=MAX_REQUEST_ORDER)]] = Field(
        [10, 12, 14], description="hash tables of the huge-vmalloc comparison"
    )
    lookups: Annotated[int, Field(ge=100, le=10_000_000)] = Field(20_000, description="in each such hash table")
    hash_requests: Annotated[int, Field(ge=1, le=1000)] = Field(
        32, description="hash tables asked for, to see how many get 2M entries"
    )
    own_shares: list[Annotated[float, Field(gt=0, le=100)]] = Field(
        [0.1, 0.3, 1.0], description="time of other work over that of the lookups"
    )
    time_shares: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5, 0.9, 0.99], description="time of other work over all time"
    )
    other_pages: Annotated[int, Field(ge=1, le=1 << 16)] = Field(
        512, description="4K pages of the other work beside the lookups"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself before any work is done."""
        self.require_ascending("orders", "live_pages", "sweep_live_pages", "splits", "hash_orders")
        for cpu in self.cpus:
            presets.cpu(cpu)
        parse_bytes(self.most_bytes, "most_bytes")
        if not set(self.sweep_patterns) <= set(self.patterns):
            raise ValueError("sweep_patterns must be among patterns, for the baseline to compare with")
        return self


#: What ``--quick`` changes: one seed on a small machine, two CPUs.
QUICK = {
    "seeds": 1,
    "memory": "1GiB",
    "cpus": ["zen3", "k8"],
    "orders": [2, 9, 12],
    "live_pages": [1, 4, 16],
    "most_bytes": "64MiB",
    "sweep_live_pages": [1, 16, 256],
    "splits": [0.0, 0.25, 1.0],
    "accesses": 10_000,
    "hash_orders": [10, 12],
    "lookups": 5000,
    "own_shares": [0.3],
    "time_shares": [0.9],
    "unusable": 0.8,
}


@dataclass(frozen=True)
class Machine:
    """What tells one machine of the grid from another.

    Attributes
    ----------
    cpu, direct_map : str
    split : float
        Share of the direct map that is broken.
    background : bool
        There is work beside the streams.
    """

    cpu: str
    direct_map: str
    split: float = 0.0
    background: bool = False


@dataclass(frozen=True)
class Row:
    """One point of the grid: a working set on a machine, and how it is gone through.

    Attributes
    ----------
    machine : Machine
    control : str
        "full", or "colour-neutral" data caches.
    prefetch : bool
    pattern : str
    order, live_pages : int
    """

    machine: Machine
    control: str
    prefetch: bool
    pattern: str
    order: int
    live_pages: int


def machines(parameters: Parameters) -> tuple[list[Machine], list[str]]:
    """Return the machines of the grid, the baseline first, and descriptions of those that do not exist."""
    base = Machine(parameters.cpu, parameters.direct_map)
    wanted = [base, Machine(parameters.cpu, parameters.direct_map, background=True)]
    if parameters.direct_map != "4K":
        wanted += [Machine(parameters.cpu, parameters.direct_map, split) for split in parameters.splits]
    for cpu in dict.fromkeys([parameters.cpu, *parameters.cpus]):
        wanted += [Machine(cpu, size) for size in dict.fromkeys([parameters.direct_map, *parameters.direct_maps])]
    found, missing = [], []
    for machine in dict.fromkeys(wanted):
        try:
            check_paging(machine.cpu, parameters.levels, machine.direct_map)
        except ConfigurationError as error:
            missing.append(str(error).split(";", maxsplit=1)[0])
        else:
            found.append(machine)
    return found, missing


def rows(parameters: Parameters, machine: Machine) -> list[Row]:
    """Return the points of one machine."""
    base = Machine(parameters.cpu, parameters.direct_map)
    sweep = [(parameters.sweep_order, live) for live in parameters.sweep_live_pages]
    if machine != base:
        return _rows(machine, sweep, parameters.sweep_patterns)
    most = parse_bytes(parameters.most_bytes, "most_bytes")
    sizes = [
        (order, live)
        for order in parameters.orders
        for live in parameters.live_pages
        if (PAGE_BYTES << order) * live <= most
    ]
    foreseen = [pattern for pattern in FORESEEN if pattern in parameters.patterns]
    return [
        *_rows(machine, sorted({*sizes, *sweep}), parameters.patterns),
        *_rows(machine, sweep, parameters.patterns, control="colour-neutral"),
        *_rows(machine, sweep, [*parameters.sweep_patterns, *foreseen], prefetch=False),
    ]


def _rows(
    machine: Machine,
    sizes: Sequence[tuple[int, int]],
    patterns: Sequence[str],
    control: str = "full",
    prefetch: bool = True,
) -> list[Row]:
    return [
        Row(machine, control, prefetch, pattern, order, live)
        for order, live in sizes
        for pattern in dict.fromkeys(patterns)
    ]


def grid(parameters: Parameters) -> list[Row]:
    """Return every point, in the order of the results' dimension ``row``."""
    return [row for machine in machines(parameters)[0] for row in rows(parameters, machine)]
