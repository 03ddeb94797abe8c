"""What three operations cost in kernels that know virtual compound pages and in one that does not.

================  ============================================================================
operation         what it does
================  ============================================================================
``page_address``  address of a compound page, from its head's struct page
``virt_to_page``  head's struct page, from any address inside
``free``          the page is given back by its address
================  ============================================================================

Their loads depend on each other and run through the MMU and the data caches of the model; see
:mod:`vclab.studies.awareness.loads`. Freeing is priced by what it counts.
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
from vclab import presets, recordings
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.ledger import ACCESS_CAUSES, OPERATION_CAUSES, price_access, price_operations, price_overlapped
from vclab.mmu import tlb_entries
from vclab.presets import CpuPreset, LinuxPreset
from vclab.presets.prices import Prices
from vclab.studies import LEFT_OUT_EVERYWHERE, Progress
from vclab.studies.awareness.loads import FLAGS, NONE, PRIVATE, Addresses, scan, software_walk, struct_page
from vclab.studies.machine import MachineParameters
from vclab.system import System
from vclab.units import PAGE_BYTES, PAGE_SHIFT

OPERATIONS = ("page_address", "virt_to_page", "free")
#: A kernel that knows physical pages only; one with the fallback, asked about a page of either kind.
KINDS = ("no fallback", "physical", "virtual")
PHASES = ("cold", "steady")
#: Cycles of instructions; see ``ASSUMPTIONS``.
ARITHMETIC, TEST = 3, 1
INSTRUCTIONS = "instructions"
#: Passes over all pages that come before steady ones.
WARM_UP = 2


class Parameters(MachineParameters):
    """What may be set with ``--set NAME=VALUE`` or in a study file."""

    cpus: Annotated[int, Field(ge=1, le=64)] = Field(2, description="CPUs that a free makes forget its page")
    orders: list[Annotated[int, Field(ge=1, le=10)]] = Field([1, 3, 5, 9], min_length=1)
    live_pages: list[Annotated[int, Field(ge=1, le=4096)]] = Field([1, 4, 16, 64, 256], min_length=1)
    operations: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        20_000, description="fewest operations of a steady phase"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself before any work is done."""
        self.require_ascending("orders", "live_pages")
        return self


#: What ``--quick`` changes: one seed on a small machine.
QUICK = {"seeds": 1, "memory": "1GiB", "live_pages": [1, 4, 16, 64], "operations": 5_000}

ASSUMPTIONS = (
    ("arithmetic", f"{ARITHMETIC} cycles", "subtract, shift and add, each waiting for the one before"),
    ("walk-step", f"{ARITHMETIC} cycles a level", "mask the word, add the direct map's start, add the index"),
    ("test", f"{TEST} cycle", "one compare with its branch predicted, as of a range, of flags, or of a tail"),
    ("cold", "TLBs and data caches empty", "the most that a first use can cost; steady, with nothing else, the least"),
    ("free-without-a-block", "one free, no merge", "the free of a contiguous block where the aged machine had none"),
)


def points(parameters: Parameters, jobs: int = 1) -> Sequence[int]:  # noqa: ARG001 (part of the protocol)
    """Return the seeds; each ages memory anew."""
    return range(parameters.seed, parameters.seed + parameters.seeds)


def run_point(parameters: Parameters, point: int, progress: Progress) -> xr.Dataset:
    """Age one machine and measure every order and number of live pages on copies of it."""
    progress(0.0, "booting")
    system = System(
        cpu=parameters.cpu,
        linux=parameters.linux,
        memory=parameters.memory,
        cpus=parameters.cpus,
        levels=parameters.levels,
        direct_map=parameters.direct_map,
        recording=parameters.recording,
        # A free and its flush are measured together, so that the ranges need not wait.
        unmap="range",
        seed=point,
    )
    # As at boot: before ageing, so that its page tables lie where a kernel's do.
    _ = system.vmemmap
    progress(0.02, "ageing memory")
    parameters.age(system)
    by_order = []
    for done, order in enumerate(parameters.orders):
        progress(0.3 + 0.7 * done / len(parameters.orders), f"order {order}")
        parts = [measure(system, order, live, point, parameters.operations) for live in parameters.live_pages]
        by_order.append(xr.concat(parts, xr.Variable("live_pages", parameters.live_pages)))
    dataset = xr.concat(by_order, xr.Variable("order", parameters.orders))
    dataset["unusable_index"] = xr.Variable((), system.unusable_free_index(parameters.fragment_order))
    progress(1.0, "done")
    return dataset


class _Pages:
    """Compound pages of one kind on a copy of the machine."""

    def __init__(self, aged: System, order: int, count: int, is_virtual: bool, rng: np.random.Generator) -> None:
        # Drawn before anything that depends on the kind of page, so that all kinds are gone through in one order.
        members = rng.permutation(count << order)
        self.heads = rng.permutation(count)
        self.system = aged.copy(policy="vmalloc" if is_virtual else "physical")
        self.is_virtual = is_virtual
        self.pages = []
        for _ in range(count):
            try:
                self.pages.append(self.system.alloc_pages(order, GFP_VFALLBACK))
            except OutOfMemory:
                if is_virtual:
                    raise
                break
        frames = [page.frames for page in self.pages]
        if len(frames) < count:
            frames += self._counterfactual(order, count - len(frames), rng)
        self.frames = np.stack(frames)
        addresses = [page.address for page in self.pages]
        addresses += [self.system.direct_map.address(int(block[0])) for block in frames[len(addresses) :]]
        self.addresses = np.array(addresses, np.uint64)
        self.page, self.member = np.divmod(members, 1 << order)

    def _counterfactual(self, order: int, count: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        """Return contiguous blocks, free or not, for what the machine has no free block for."""
        zone = self.system.memory.zone
        every = zone.first_frame + np.arange(0, zone.frames - (1 << order) + 1, 1 << order)
        others = np.setdiff1d(every, np.array([page.frames[0] for page in self.pages], np.int64))
        if len(others) < count:
            raise OutOfMemory(f"the machine has no {count} more blocks of order {order}; lower live_pages")
        # At random: at even distances their struct pages could share few sets of a cache.
        chosen = rng.choice(others, count, replace=False)
        return [first + np.arange(1 << order) for first in chosen.tolist()]

    def loads(self, operation: str, aware: bool) -> tuple[Addresses, Addresses]:
        """Return the loads of one pass over all pages, and of a first touch of each.

        Returns
        -------
        every, first : uint64[n, depth]
            One row for each operation, ``NONE`` where it has fewer loads.
        """
        if operation == "page_address":
            every = self._page_address(aware)
            return every, every
        heads = self.heads, np.zeros(len(self.heads), np.int64)
        if operation == "free":
            every = self._virt_to_page(*heads)
            return every, every
        # The first member of each page that the pass comes to.
        first = np.sort(np.unique(self.page, return_index=True)[1])
        return self._virt_to_page(self.page, self.member), self._virt_to_page(self.page[first], self.member[first])

    def _page_address(self, aware: bool) -> Addresses:
        if not aware:
            return np.empty((len(self.heads), 0), np.uint64)
        pages = self.system.vmemmap.addresses(self.frames[self.heads, 0])
        words = (FLAGS, PRIVATE) if self.is_virtual else (FLAGS,)
        return np.stack([pages + np.uint64(word) for word in words], axis=1)

    def _virt_to_page(self, page: npt.NDArray[np.int64], member: npt.NDArray[np.int64]) -> Addresses:
        own = struct_page(self.system, self.frames[page, member], self.frames[page, 0])
        if not self.is_virtual:
            return own
        addresses = self.addresses[page] + (member << PAGE_SHIFT).astype(np.uint64)
        return np.concatenate([software_walk(self.system, addresses)[0], own], axis=1)

    def run(self, loads: Addresses) -> npt.NDArray[np.int64]:
        """Let the first CPU do loads one after another; return event counts, int64[COUNTERS]."""
        levels = self.system.page_tables.levels
        half = 1 << (PAGE_SHIFT + 9 * levels - 1)
        base = np.uint64(2**64 - half)
        offsets = (loads[loads != NONE] - base).astype(np.int64)
        return self.system.access_at(np.array([base]), half, offsets).counts

    def forget(self) -> None:
        """Empty TLBs and data caches of the first CPU."""
        self.system.mmu.flush()
        self.system.mmu.empty_caches()

    def free(self) -> tuple[npt.NDArray[np.int64], int]:
        """Free all pages on a copy, in random order; return event counts and how many there were.

        Each pays its own flush, where unmapping is lazy too: spread over a purge it would vanish.
        """
        counts = np.zeros(COUNTERS, np.int64)
        if not self.pages:
            counts[Cause.FREE] = 1
            return counts, 1
        twin = self.system.copy()
        before = twin.ledger.counts
        for number in self.heads:
            if number < len(self.pages):
                twin.free_pages(twin.compound.pages[self.pages[number].address])
                twin.purge_vmalloc_area()
        return twin.ledger.counts - before, len(self.pages)


def measure(system: System, order: int, live: int, seed: int = 0, operations: int = 20_000) -> xr.Dataset:
    """Measure all operations on pages of one order; the machine is copied, not changed.

    Parameters
    ----------
    system : System
        Usually aged. Its page tables, number of CPUs and other work are what the operations meet.
    order : int
        Of the pages, 1 to 10.
    live : int
        Pages alive at once, which the operations go over in random order.
    seed : int
        Of that order.
    operations : int
        Fewest operations of a steady phase.

    Returns
    -------
    Dataset
        Counts, which :func:`priced` turns into cycles: ``events`` (operation, kind, phase, event) of ``performed``
        operations (operation, kind, phase), ``work`` (kind, event) of ``freed`` pages (kind), ``scan_events``
        (phase, event) of one linear search for a page in the middle, and ``instruction_cycles`` (operation, kind).

    Raises
    ------
    OutOfMemory
        If the machine is too small for so many pages.
    """
    events = np.zeros((len(OPERATIONS), len(KINDS), len(PHASES), COUNTERS), np.int64)
    performed = np.zeros(events.shape[:-1], np.int64)
    work = np.zeros((len(KINDS), COUNTERS), np.int64)
    freed = np.zeros(len(KINDS), np.int64)
    scans = np.zeros((len(PHASES), COUNTERS), np.int64)
    for k, kind in enumerate(KINDS):
        pages = _Pages(system, order, live, kind == "virtual", np.random.default_rng([seed, order, live]))
        for o, operation in enumerate(OPERATIONS):
            every, first = pages.loads(operation, kind != "no fallback")
            pages.forget()
            events[o, k, 0], performed[o, k, 0] = pages.run(first), len(first)
            for _ in range(WARM_UP):
                pages.run(every)
            passes = -(-operations // len(every))
            events[o, k, 1], performed[o, k, 1] = pages.run(np.tile(every, (passes, 1))), passes * len(every)
        if pages.is_virtual:
            words = scan(pages.system, int(pages.frames[live // 2, 0]))[:, None]
            pages.forget()
            scans[0] = pages.run(words)
            for _ in range(WARM_UP):
                pages.run(words)
            scans[1] = pages.run(words)
        work[k], freed[k] = pages.free()
    instructions = _instruction_cycles(system.page_tables.levels)
    return xr.Dataset(
        {
            "events": (("operation", "kind", "phase", "event"), events),
            "performed": (("operation", "kind", "phase"), performed),
            "work": (("kind", "event"), work),
            "freed": (("kind",), freed),
            "scan_events": (("phase", "event"), scans),
            "instruction_cycles": (("operation", "kind"), instructions),
        },
        coords={
            "operation": list(OPERATIONS),
            "kind": list(KINDS),
            "phase": list(PHASES),
            "event": [cause.name.lower() for cause in Cause],
        },
    )


def _instruction_cycles(levels: int) -> npt.NDArray[np.float64]:
    """Return cycles beside loads, float64[operation, kind]."""
    walk = levels * ARITHMETIC
    # virt_to_page: arithmetic and the test for a tail, in every kernel; the range compare, where there is a fallback.
    finds = ARITHMETIC + TEST
    return np.array(
        [
            [ARITHMETIC, TEST + ARITHMETIC, TEST],
            [finds, TEST + finds, TEST + walk + finds],
            # Freeing tests the flags too.
            [finds, 2 * TEST + finds, 2 * TEST + walk + finds],
        ],
        float,
    )


def priced(dataset: xr.Dataset, cpu: CpuPreset, linux: LinuxPreset) -> xr.Dataset:
    """Return results with cycles by cause for each operation, by the prices of two presets.

    ``cycles`` (..., operation, kind, phase, cause) are serial: each load waits for the one before. ``cycles_low`` and
    ``cycles_high`` are sums at the ends of the ranges of what freeing costs. ``scan_cycles`` and
    ``scan_overlapped_cycles`` (..., phase) are those of a whole linear search.
    """
    gigahertz = cpu.clock.gigahertz.value
    dataset = dataset.assign_coords(cause=[INSTRUCTIONS, *ACCESS_CAUSES, *OPERATION_CAUSES])
    events = dataset["events"].transpose(..., "operation", "kind", "phase", "event")
    dims = events.dims[:-1]
    performed = dataset["performed"].transpose(*dims).values[..., None]
    loads = price_access(events.values, cpu) / performed
    instructions = dataset["instruction_cycles"].broadcast_like(events.isel(event=0)).transpose(*dims).values
    kinds = dataset["work"].transpose(..., "kind", "event")
    freed = dataset["freed"].transpose(*kinds.dims[:-1]).values[..., None]
    is_free = (np.array(OPERATIONS) == "free")[:, None, None, None]
    totals = {}
    for bound in ("value", "low", "high"):
        work = price_operations(kinds.values, linux, cpu, bound) * gigahertz / freed
        work = is_free * work[..., None, :, None, :] * np.ones((len(PHASES), 1))
        totals[bound] = np.concatenate([instructions[..., None], loads, work], axis=-1)
    dataset["cycles"] = ((*dims, "cause"), totals["value"])
    for bound in ("low", "high"):
        dataset[f"cycles_{bound}"] = (dims, totals[bound].sum(axis=-1))
    scans = dataset["scan_events"].transpose(..., "event")
    dataset["scan_cycles"] = (scans.dims[:-1], price_access(scans.values, cpu).sum(axis=-1))
    dataset.attrs["gigahertz"] = gigahertz
    dataset["scan_overlapped_cycles"] = (scans.dims[:-1], price_overlapped(scans.values, cpu))
    for name in ("cycles", "cycles_low", "cycles_high", "scan_cycles", "scan_overlapped_cycles", "instruction_cycles"):
        dataset[name].attrs["units"] = "cycles"
    for name in ("events", "performed", "work", "freed", "scan_events"):
        dataset[name].attrs["units"] = "1"
    return dataset


def combine(parameters: Parameters, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put all seeds together, price the counts, add provenance."""
    dataset = xr.concat(list(parts), xr.Variable("seed", list(points(parameters))))
    dataset["instruction_cycles"] = parts[0]["instruction_cycles"].isel(order=0, live_pages=0)
    cpu = presets.cpu(parameters.cpu)
    dataset = priced(dataset, cpu, presets.linux(parameters.linux))
    recording = recordings.load(parameters.recording)
    dataset["unusable_index"].attrs["units"] = "1"
    dataset.attrs |= {
        "study": "awareness",
        "vclab_version": version("vclab"),
        "parameters": parameters.model_dump_json(),
        "recording": recording.name,
        "recording_digest": recording.digest,
        "machine": parameters.machine,
        "second_level_reach_bytes": PAGE_BYTES * tlb_entries(cpu, "4K")[-1],
        "left_out": LEFT_OUT,
    }
    return dataset


LEFT_OUT = (
    "Mispredicted branches, instruction fetches, and the work that a caller overlaps with these loads: costs are "
    "serial. What else the caches hold: cold finds them empty, steady finds in them what these operations left "
    "there, so both are bounds. Sharing of struct pages between CPUs. A free's flush is charged as work of all "
    "CPUs, at once for each free; spread over a lazy purge it nearly vanishes (study overhead)." + LEFT_OUT_EVERYWHERE
)


def reprice(dataset: xr.Dataset, prices: Prices) -> xr.Dataset:
    """Return the same counts at other prices."""
    parameters = Parameters.model_validate_json(dataset.attrs["parameters"])
    return priced(dataset, prices.cpu(presets.cpu(parameters.cpu)), prices.linux(presets.linux(parameters.linux)))
