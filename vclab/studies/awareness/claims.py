"""The RFC's first disadvantage held against numbers."""

from __future__ import annotations

from typing import Any

import xarray as xr

from vclab.results import SEEDS_FOR_A_VERDICT, Claim, interval, judge
from vclab.units import PAGE_BYTES, format_bytes

#: A ratio up to this counts as no difference.
NEGLIGIBLE = 1.02
#: What each operation is called in a sentence, and the function that the RFC names with it.
SENTENCES = {
    "page_address": "In order to use fall back the logic must be aware that memory could be virtual: page_address().",
    "virt_to_page": "In order to use fall back the logic must be aware that memory could be virtual: virt_to_page().",
    "free": "In order to use fall back the logic must be aware that memory could be virtual: freeing by address.",
}
_LEFT_OUT = (
    "mispredicted branches, what callers overlap with these loads, and what they have just loaded: whoever holds a "
    "struct page has often read it"
)


def per_operation(dataset: xr.Dataset) -> xr.DataArray:
    """Return serial cycles of one operation by seed, order, live pages, operation, kind and phase."""
    return dataset["cycles"].sum("cause")


def live_bytes(dataset: xr.Dataset) -> xr.DataArray:
    """Return the bytes of each working set, by order and live pages."""
    return PAGE_BYTES * 2 ** dataset["order"] * dataset["live_pages"]


def largest(dataset: xr.Dataset) -> dict[str, Any]:
    """Return order and live pages of the largest working set."""
    return {"order": int(dataset["order"].max()), "live_pages": int(dataset["live_pages"].max())}


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Return one row for what a kernel with the fallback costs everybody, one for virtual pages, by operation."""
    rows = []
    for operation, sentence in SENTENCES.items():
        rows += [_for_everybody(dataset, operation, sentence), _for_virtual(dataset, operation, sentence)]
    return [*rows, _search(dataset)]


def _compared(dataset: xr.Dataset, operation: str, above: str, below: str) -> dict[str, Any]:
    """Return value, interval and verdict on how many times what another one kind costs, and both in words."""
    where = largest(dataset)
    cost = per_operation(dataset).sel(operation=operation, **where)
    steady = cost.sel(phase="steady")
    value, low, high = interval(steady.sel(kind=above).values / steady.sel(kind=below).values)
    mean = cost.mean("seed")
    pairs = [f"{float(mean.sel(kind=kind, phase='steady')):,.1f}" for kind in (above, below)]
    cold = [f"{float(mean.sel(kind=kind, phase='cold')):,.1f}" for kind in (above, below)]
    return {
        "value": value,
        "low": low,
        "high": high,
        "unit": "times",
        "verdict": judge(dataset.sizes["seed"], low, high, NEGLIGIBLE),
        "left_out": _LEFT_OUT,
        "measure": f"({pairs[0]} cycles against {pairs[1]} steady over {_size(dataset)}; "
        f"cold {cold[0]} against {cold[1]})",
    }


def _size(dataset: xr.Dataset) -> str:
    where = largest(dataset)
    size = format_bytes(float(live_bytes(dataset).sel(where)))
    return f"{where['live_pages']} pages of order {where['order']}, {size}"


def _for_everybody(dataset: xr.Dataset, operation: str, sentence: str) -> Claim:
    compared = _compared(dataset, operation, "physical", "no fallback")
    compared["measure"] = (
        f"cycles of {operation} for a physical page in a kernel with the fallback over one without "
        f"{compared['measure']}"
    )
    return Claim(
        sentence=sentence,
        threshold=f"holds, as a cost to physical pages, if above {NEGLIGIBLE}",
        **compared,
    )


def _for_virtual(dataset: xr.Dataset, operation: str, sentence: str) -> Claim:
    compared = _compared(dataset, operation, "virtual", "physical")
    compared["measure"] = f"cycles of {operation} for a virtual page over a physical one {compared['measure']}"
    return Claim(
        sentence=sentence,
        threshold=f"holds, as a cost to virtual pages, if above {NEGLIGIBLE}",
        **compared,
    )


def _search(dataset: xr.Dataset) -> Claim:
    """Return what the linear search of V2 costs against the address kept in the struct page."""
    where = largest(dataset)
    searched = dataset["scan_cycles"].sel(phase="steady", **where)
    kept = per_operation(dataset).sel(operation="page_address", kind="virtual", phase="steady", **where)
    value, low, high = interval(searched / kept)
    words = dataset["scan_events"].sel(event="data_access", phase="steady", **where).mean("seed")
    overlapped = dataset["scan_overlapped_cycles"].sel(phase="steady", **where).mean("seed")
    return Claim(
        sentence="vmalloc_address() (introduced through this patch set) may have to be called.",
        measure=f"cycles of V2's linear search through the vmalloc area's tables over those of reading page->private "
        f"({float(words):,.0f} words for a page in the middle of {_size(dataset)}: {float(searched.mean()):,.0f} "
        f"cycles, {float(overlapped):,.0f} if they overlap perfectly)",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold=f"holds if above {NEGLIGIBLE}",
        verdict=judge(dataset.sizes["seed"], low, high, NEGLIGIBLE),
        left_out="the lock that the search holds, and everything else that is mapped in the vmalloc area",
    )


def summary(dataset: xr.Dataset) -> list[str]:
    """Return what a reader should know first."""
    cost = per_operation(dataset).sel(phase="steady", **largest(dataset)).mean("seed")
    cold = per_operation(dataset).sel(phase="cold", **largest(dataset)).mean("seed")
    find, address = cost.sel(operation="virt_to_page"), cost.sel(operation="page_address")
    free = cost.sel(operation="free")
    gigahertz = float(dataset.attrs["gigahertz"])

    def cycles(values: xr.DataArray, kind: str) -> float:
        return float(values.sel(kind=kind))

    lines = [
        f"Over {_size(dataset)}, finding the struct page of an address costs {cycles(find, 'virtual'):.0f} cycles for "
        f"a virtual page and {cycles(find, 'physical'):.0f} for a physical one "
        f"({cycles(find, 'virtual') / cycles(find, 'physical'):.2f} times); cold, "
        f"{cycles(cold.sel(operation='virt_to_page'), 'virtual'):.0f} and "
        f"{cycles(cold.sel(operation='virt_to_page'), 'physical'):.0f}.",
        f"Physical pages pay for a fallback that they do not use: {cycles(address, 'physical'):.0f} cycles instead of "
        f"{cycles(address, 'no fallback'):.0f} for page_address, which now reads the struct page, and "
        f"{cycles(find, 'physical') - cycles(find, 'no fallback'):.0f} more for virt_to_page.",
        f"Giving a virtual page back costs {cycles(free, 'virtual') / gigahertz:,.0f} ns and a physical one "
        f"{cycles(free, 'physical') / gigahertz:,.0f} ns, nearly all of it the allocator's work and the flush; finding "
        "the page is the smaller part.",
    ]
    if dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        lines.append(
            f"Only {dataset.sizes['seed']} of the {SEEDS_FOR_A_VERDICT} seeds that a verdict needs: nothing is decided."
        )
    return lines
