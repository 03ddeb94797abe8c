"""What one access costs: the paired cells over a grid of sizes, patterns, CPUs and direct maps.

Each machine of the grid boots and ages anew, by the same law and seed. On it the four cells of
:mod:`vclab.studies.cells` meet the same offsets, cold and steady, for every row of the grid (see
:mod:`vclab.studies.access_cost.grid`: one factor at a time departs from a baseline). Above order 10 no page is
physically contiguous: there cells i and ii have counterfactual frames. "first-level" is a price, not a run: the same
events with every data access at first-level cost. The cold phase and the warm-up are as many accesses each as there
are live 4K pages (fewer, where accesses are independent); only a chase and a stride touch each page once by it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import xarray as xr

from vckernels.causes import Cause
from vclab import presets, recordings
from vclab.ageing import REPLACED
from vclab.background import Background
from vclab.ledger import ACCESS_CAUSES, price_access, price_overlapped
from vclab.mmu import MmuOptions, tlb_entries
from vclab.presets import CpuPreset
from vclab.presets.prices import Prices
from vclab.studies import LEFT_OUT_EVERYWHERE, Progress
from vclab.studies.access_cost.claims import fewer_times, reached_share, time_saved
from vclab.studies.access_cost.grid import (
    PATTERNS,
    Machine,
    Parameters,
    Row,
    grid,
    machines,
    rows,
)
from vclab.studies.access_cost.huge import BURST, ENTRIES, WHO, measure_huge, work_shares
from vclab.studies.cells import CELLS, EVENT_NAMES, EVENTS, PHASES, Cells, Offsets, all_counts, digest, offsets_for
from vclab.system import System
from vclab.units import PAGE_BYTES

#: The two sets of frames: of cells i and ii, of iii and iv.
PLACEMENTS = ("contiguous", "scattered")

ASSUMPTIONS = (
    ("ageing.replaced", str(REPLACED), "arrivals for each death while memory runs empty, so that holes are refilled"),
    ("ageing.tail", "hour, unless set", "end of the lifetimes of what outlived the recording: evenly in the logarithm"),
    (
        "background",
        "half kernel data, 10 % stacks, 40 % user pages",
        "mix of the work beside: one of its accesses for each of the stream; no measurement of such a mix is known",
    ),
    (
        "background.entry_cycles",
        "100,000, unless set",
        "about 30 µs from one kernel entry to the next, 64 accesses each",
    ),
    ("huge-vmalloc.burst", str(BURST), "lookups before other work has its turn"),
    ("huge-vmalloc.hash", "heads only", "the bucket array is the large allocation, as of the kernel's dentry hash"),
    ("stride", "one page", "of the strided pattern; each lap starts one line further"),
)

LEFT_OUT = (
    "Coalescing of neighbouring TLB entries; prefetchers but for those of the presets; what speculation loads. "
    "Prefetched lines arrive at once and bandwidth is unlimited, so sequential streams are cheaper here than on a "
    "real CPU; walks of the next-page prefetcher cost nothing. Exact LRU everywhere: real caches miss less just "
    "beyond their capacity. POWER9, on which the published pair of huge vmalloc was measured: its misses include "
    "those of git itself, whose working set is not known. Correlated deaths: blocks of one process die together "
    "in reality, one by one here. Machines of the grid age anew, each by the same law and seed, so their frames "
    "differ a little. Where no contiguous block was free, and always above order 10, contiguous frames are "
    "counterfactual." + LEFT_OUT_EVERYWHERE
)


def points(parameters: Parameters, jobs: int = 1) -> Sequence[int]:  # noqa: ARG001 (part of the protocol)
    """Return the seeds; each ages memory anew."""
    return range(parameters.seed, parameters.seed + parameters.seeds)


def run_point(parameters: Parameters, point: int, progress: Progress) -> xr.Dataset:
    """Age every machine of the grid with one seed and measure its rows; on the baseline, huge vmalloc too."""
    progress(0.0, "booting")
    every, _ = machines(parameters)
    counts = [len(rows(parameters, machine)) for machine in every]
    total = sum(counts) + counts[0]
    done = 0
    parts = []
    huge = indices = None
    aged = _aged(parameters, every[0], point)
    for machine, count in zip(every, counts, strict=True):
        progress(min(0.99, done / total + 1e-6), f"{machine.cpu}, {machine.direct_map} direct map")
        # The second machine is the first, once there is work beside it.
        if machine is not every[0] and not machine.background:
            aged = _aged(parameters, machine, point)
        if huge is None:
            huge = measure_huge(aged, parameters, point)
            indices = xr.Dataset(
                {
                    "unusable_index": ("target_order", [aged.unusable_free_index(order) for order in range(11)]),
                    "free_share": ((), aged.memory.free_share),
                }
            )
            done += counts[0]
        if machine.background:
            entries = tlb_entries(aged.cpu, "4K")[-1]
            pages = round(parameters.background_share * entries)
            aged.set_background(Background(pages=pages, entry_cycles=parameters.entry_cycles))
        parts.append(_measure(aged, parameters, rows(parameters, machine), point))
        done += count
    assert huge is not None
    assert indices is not None
    progress(1.0, "done")
    return xr.merge([xr.concat(parts, "row"), huge, indices])


def _aged(parameters: Parameters, machine: Machine, seed: int) -> System:
    system = System(
        cpu=machine.cpu,
        linux=parameters.linux,
        memory=parameters.memory,
        levels=parameters.levels,
        direct_map=machine.direct_map,
        direct_map_split=machine.split,
        recording=parameters.recording,
        seed=seed,
    )
    parameters.age(system)
    return system


def _measure(aged: System, parameters: Parameters, wanted: Sequence[Row], seed: int) -> xr.Dataset:
    """Measure the rows of one machine, those of one order and one set of options together."""
    events = np.zeros((len(wanted), len(CELLS), len(PHASES), len(EVENTS)), np.int64)
    counterfactual = np.zeros(len(wanted), np.int64)
    offset_digests = np.empty(len(wanted), object)
    frame_digests = np.empty((len(wanted), len(PLACEMENTS)), object)
    for order in dict.fromkeys(row.order for row in wanted):
        most = max(row.live_pages for row in wanted if row.order == order)
        cells = Cells(aged, order, most, np.random.default_rng([seed, order]))
        options = None
        for number, row in enumerate(wanted):
            if row.order != order:
                continue
            if options != (row.control, row.prefetch):
                options = (row.control, row.prefetch)
                caches = "physical" if row.control == "full" else row.control
                cells.set_options(MmuOptions(data_caches=caches, prefetch=row.prefetch))
            offsets = _offsets(row, parameters.accesses, seed)
            offset_digests[number] = offsets.digests[0]
            counterfactual[number] = max(0, row.live_pages - (most - cells.counterfactual))
            pages = row.live_pages << order
            for p, cell in enumerate(("i", "iii")):
                frame_digests[number, p] = digest(cells.frames(cell)[:pages])
            for c, cell in enumerate(CELLS):
                events[number, c] = cells.measure(cell, row.live_pages, offsets)
    return xr.Dataset(
        {
            "events": (("row", "cell", "phase", "event"), events),
            "counterfactual": ("row", counterfactual),
            "offsets_digest": ("row", offset_digests.astype(str)),
            "frames_digest": (("row", "placement"), frame_digests.astype(str)),
        }
    )


def _offsets(row: Row, accesses: int, seed: int) -> Offsets:
    nbytes = (PAGE_BYTES << row.order) * row.live_pages
    return offsets_for([PATTERNS[row.pattern]], nbytes, accesses, zlib.crc32(row.pattern.encode()) + seed)


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all seeds together, price the events, add units and provenance."""
    dataset = xr.concat(list(parts), xr.Variable("seed", list(points(parameters))))
    table = grid(parameters)
    works = work_shares(parameters)
    dataset = dataset.assign_coords(
        cell=list(CELLS),
        phase=list(PHASES),
        event=EVENT_NAMES,
        placement=list(PLACEMENTS),
        target_order=np.arange(11),
        hash_order=parameters.hash_orders,
        work=[name for name, _, _ in works],
        reading=("work", [reading for _, reading, _ in works]),
        asked_share=("work", [share for _, _, share in works]),
        entries=list(ENTRIES),
        who=list(WHO),
        cpu=("row", [row.machine.cpu for row in table]),
        direct_map=("row", [row.machine.direct_map for row in table]),
        split=("row", [row.machine.split for row in table]),
        background=("row", ["half" if row.machine.background else "none" for row in table]),
        control=("row", [row.control for row in table]),
        prefetch=("row", ["on" if row.prefetch else "off" for row in table]),
        pattern=("row", [row.pattern for row in table]),
        order=("row", [row.order for row in table]),
        live_pages=("row", [row.live_pages for row in table]),
        live_bytes=("row", [(PAGE_BYTES << row.order) * row.live_pages for row in table]),
    )
    cpu = presets.cpu(parameters.cpu)
    recording = recordings.load(parameters.recording)
    dataset.attrs = {
        "study": "access-cost",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": recording.name,
        "recording_digest": recording.digest,
        "machine": parameters.machine,
        "first_level_reach_bytes": PAGE_BYTES * tlb_entries(cpu, "4K")[0],
        "second_level_reach_bytes": PAGE_BYTES * tlb_entries(cpu, "4K")[-1],
        "missing_points": "; ".join(machines(parameters)[1]),
        "left_out": _left_out(parameters),
    }
    dataset = priced(dataset)
    for name, unit in _UNITS.items():
        dataset[name].attrs["units"] = unit
    return dataset


def _left_out(parameters: Parameters) -> str:
    missing = machines(parameters)[1]
    return LEFT_OUT + (f" Points of the grid that do not exist: {'; '.join(missing)}." if missing else "")


def first_level_counts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return counters as if every data access had hit the first-level cache; walks and page arrays are as they were."""
    moved = counts.copy()
    served = slice(Cause.DATA_LEVEL_1, Cause.DATA_MEMORY + 1)
    moved[..., served] = 0
    moved[..., Cause.DATA_LEVEL_1] = counts[..., served].sum(-1)
    moved[..., Cause.FILL_CONFLICT] = 0
    return moved


def priced(dataset: xr.Dataset, cpus: Mapping[str, CpuPreset] | None = None) -> xr.Dataset:
    """Return results with costs from presets, replacing what was there.

    Parameters
    ----------
    dataset : Dataset
        What :func:`combine` returned; its event counts are read.
    cpus : mapping of str to CpuPreset, optional
        Presets to price with in place of the shipped ones, by name.
    """
    known = dict(cpus or {})
    by_name = {name: known.get(name) or presets.cpu(name) for name in np.unique(dataset["cpu"].values).tolist()}
    dataset = dataset.assign_coords(cause=list(ACCESS_CAUSES))
    events = dataset["events"].transpose("seed", "row", "cell", "phase", "event")
    counts = all_counts(events.values)
    accesses = counts[..., Cause.DATA_ACCESS]
    cycles = np.zeros((*accesses.shape, len(ACCESS_CAUSES)))
    overlapped, first, first_overlapped = (np.zeros(accesses.shape) for _ in range(3))
    gigahertz = np.zeros(events.sizes["row"])
    for name, cpu in by_name.items():
        chosen = np.flatnonzero(dataset["cpu"].values == name)
        own = counts[:, chosen]
        cheap = first_level_counts(own)
        each = accesses[:, chosen]
        cycles[:, chosen] = price_access(own, cpu) / each[..., None]
        overlapped[:, chosen] = price_overlapped(own, cpu) / each
        first[:, chosen] = price_access(cheap, cpu).sum(-1) / each
        first_overlapped[:, chosen] = price_overlapped(cheap, cpu) / each
        gigahertz[chosen] = cpu.clock.gigahertz.value
    dims = events.dims[:-1]
    dataset["gigahertz"] = ("row", gigahertz)
    dataset["cycles"] = ((*dims, "cause"), cycles)
    dataset["overlapped_cycles"] = (dims, overlapped)
    dataset["first_level_cycles"] = (dims, first)
    dataset["first_level_overlapped_cycles"] = (dims, first_overlapped)
    dataset["nanoseconds"] = dataset["cycles"] / dataset["gigahertz"]
    dataset["overlapped_nanoseconds"] = dataset["overlapped_cycles"] / dataset["gigahertz"]
    baseline = str(dataset["cpu"].values[0])
    work = all_counts(dataset["huge_events"].transpose(..., "event").values)
    work_dims = dataset["huge_events"].transpose(..., "event").dims[:-1]
    dataset["huge_cycles"] = ((*work_dims, "cause"), price_access(work, by_name[baseline]))
    dataset["huge_overlapped_cycles"] = (work_dims, price_overlapped(work, by_name[baseline]))
    dataset["huge_other_share"] = reached_share(dataset)
    dataset["huge_fewer_times"] = fewer_times(dataset)
    dataset["huge_time_saved"] = time_saved(dataset)
    dataset["huge_overlapped_time_saved"] = time_saved(dataset, "overlapped")
    return dataset


_UNITS = {
    "events": "1",
    "cycles": "cycles per access",
    "overlapped_cycles": "cycles per access",
    "first_level_cycles": "cycles per access",
    "first_level_overlapped_cycles": "cycles per access",
    "nanoseconds": "ns per access",
    "overlapped_nanoseconds": "ns per access",
    "gigahertz": "GHz",
    "counterfactual": "pages",
    "free_share": "1",
    "unusable_index": "1",
    "huge_events": "1",
    "huge_cycles": "cycles",
    "huge_overlapped_cycles": "cycles",
    "huge_share": "1",
    "huge_other_share": "1",
    "huge_fewer_times": "1",
    "huge_time_saved": "%",
    "huge_overlapped_time_saved": "%",
    "live_bytes": "bytes",
}


def reprice(dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
    """Return the same counts at other prices; what is set for a CPU is set for all of them."""
    names = np.unique(dataset["cpu"].values).tolist()
    return priced(dataset, {cpu.name: cpu for cpu in prices.cpus([presets.cpu(name) for name in names])})
