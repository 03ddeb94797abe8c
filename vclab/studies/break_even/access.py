"""What an access costs a physical and a virtual page: cells i and iii, for every CPU, size and pattern.

Each CPU has a machine of its own that ages by the same law and seed. How many frames are free where does not depend on
the CPU, so that requests are counted on one of them only (:mod:`vclab.studies.break_even.requests`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from vclab import presets
from vclab.boot import check_paging
from vclab.errors import ConfigurationError
from vclab.ledger import price_access, price_overlapped
from vclab.presets import CpuPreset, LinuxPreset
from vclab.studies.access_cost.grid import DEPENDENT, PATTERNS
from vclab.studies.cells import EVENTS, PHASES, Cells, all_counts, offsets_for
from vclab.system import System

#: Kinds of page, and the cells that they are.
KINDS = {"physical": "i", "virtual": "iii"}
BOUNDS = ("serial", "overlapped")


def existing_cpus(
    names: Sequence[str], levels: int | None, direct_map: str, linux: LinuxPreset
) -> tuple[list[str], list[str]]:
    """Return the CPUs of a list that have the paging asked for under a release, and why the others do not."""
    found, missing = [], []
    for name in dict.fromkeys(names):
        try:
            check_paging(name, levels, direct_map, linux)
        except ConfigurationError as error:
            missing.append(str(error).split(";", maxsplit=1)[0])
        else:
            found.append(name)
    return found, missing


def measure(
    aged: System,
    orders: Sequence[int],
    live_pages: Sequence[int],
    patterns: Sequence[str],
    accesses: int,
    seed: int,
    progress: Callable[[float], None],
) -> xr.Dataset:
    """Access working sets of either kind on one machine, on identical offsets.

    Returns
    -------
    Dataset
        ``events`` (order, live_pages, pattern, kind, phase, event); ``counterfactual`` (order), contiguous blocks that
        were not free, of as many as the largest working set has.
    """
    shape = (len(orders), len(live_pages), len(patterns), len(KINDS), len(PHASES), len(EVENTS))
    events = np.zeros(shape, np.int64)
    counterfactual = np.zeros(len(orders), np.int64)
    for o, order in enumerate(orders):
        progress(o / len(orders))
        cells = Cells(aged, order, max(live_pages), np.random.default_rng([seed, order]))
        counterfactual[o] = cells.counterfactual
        for k, live in enumerate(live_pages):
            for p, pattern in enumerate(patterns):
                stream_seed = zlib.crc32(pattern.encode()) + seed
                offsets = offsets_for([PATTERNS[pattern]], live * cells.nbytes, accesses, stream_seed)
                for c, cell in enumerate(KINDS.values()):
                    events[o, k, p, c] = cells.measure(cell, live, offsets)
    return xr.Dataset(
        {
            "events": (("order", "live_pages", "pattern", "kind", "phase", "event"), events),
            "counterfactual": ("order", counterfactual),
        }
    )


def priced(events: xr.DataArray, cpus: dict[str, CpuPreset]) -> xr.DataArray:
    """Return nanoseconds of one access: (..., bound), for events with a dimension ``cpu``.

    Accesses of a pointer chase wait for one another: overlapped, they take as long as one by one.
    """
    ordered = events.transpose("cpu", "pattern", ..., "event")
    counts = all_counts(ordered.values)
    accesses = ordered.sel(event="data_access").values
    cost = np.zeros((*accesses.shape, len(BOUNDS)))
    for row, name in enumerate(ordered["cpu"].values.tolist()):
        cpu = cpus[name]
        serial = price_access(counts[row], cpu).sum(-1)
        overlapped = price_overlapped(counts[row], cpu)
        dependent = ordered["pattern"].values == DEPENDENT
        overlapped[dependent] = serial[dependent]
        both = np.stack([serial, overlapped], axis=-1)
        cost[row] = both / np.maximum(accesses[row], 1)[..., None] / cpu.clock.gigahertz.value
    dims = (*ordered.dims[:-1], "bound")
    coords = {name: value for name, value in ordered.coords.items() if name not in ("event",)}
    return xr.DataArray(cost, dims=dims, coords={**coords, "bound": list(BOUNDS)})


def cpu_presets(names: Sequence[str]) -> dict[str, CpuPreset]:
    """Return presets by name."""
    return {name: presets.cpu(name) for name in names}
