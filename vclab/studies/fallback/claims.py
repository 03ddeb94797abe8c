"""The RFC's sentences that this study can hold against numbers, and the thresholds by which it judges them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from vclab.results import SEEDS_FOR_A_VERDICT, Claim, interval
from vclab.units import PAGE_BYTES, format_bytes

#: A ratio this near to 1 counts as no difference.
NEGLIGIBLE = 0.02
#: Percent of requests that have to be served, and of requests or walks that count as most.
RELIABLE = 99.9
MOST = 50

_NO_CACHES = "data-cache misses (not modelled): they would dilute the share of translation"
_NO_DEFRAGMENTATION = "reclaim and compaction, which would be tried first or instead"


def per_access(dataset: xr.Dataset) -> xr.DataArray:
    """Return serial cycles per data access of each seed, order, working set, cell, pattern and phase."""
    return dataset["cycles"].sum("cause") / dataset["events"].sel(event="data_access")


def live_bytes(dataset: xr.Dataset) -> xr.DataArray:
    """Return the bytes of each working set, by order and live pages."""
    return PAGE_BYTES * 2 ** dataset["order"] * dataset["live_pages"]


def _ratio(values: xr.DataArray, above: str, below: str) -> npt.NDArray[np.float64]:
    return np.asarray(values.sel(cell=above).values / values.sel(cell=below).values, float)


def _judge(dataset: xr.Dataset, low: float | None, high: float | None, least: float) -> str:
    """Return the verdict on "at least": by where the whole interval lies, and only with enough seeds for one."""
    if low is None or high is None or dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        return "undecided"
    if low > least:
        return "holds"
    return "does not hold" if high < least else "undecided"


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Return one row for each sentence of the RFC's advantages and disadvantages."""
    largest = {"order": int(dataset["order"].max()), "live_pages": int(dataset["live_pages"].max())}
    size = format_bytes(float(live_bytes(dataset).sel(largest)))
    return [
        _stand_in(dataset),
        _reliability(dataset),
        _less_vmalloc(dataset),
        _larger_entries(dataset, largest, size),
        Claim(
            sentence="The logic accessing the memory must be aware that it could be backed by a virtual mapping.",
            measure="cycles of page_address, virt_to_page and free, both kinds",
        ),
        _slower(dataset, largest, size),
        _memory_overhead(dataset),
        Claim(
            sentence="Stage 2 allows allocation and frees in interrupt context.",
            measure="failed and deferred requests under contention",
        ),
        Claim(
            sentence="SLUB uses virtual mappings for caches marked SLAB_VFALLBACK, so that slow paths are rare.",
            measure="slow-path share and cycles per object",
        ),
        Claim(
            sentence="May only be needed for special cases in which the existing defragmentation methods fail.",
            measure="requests that reclaim and compaction cannot serve, and their cost against falling back",
        ),
    ]


def _share(dataset: xr.Dataset, policy: str, answers: list[str]) -> npt.NDArray[np.float64]:
    outcome = dataset["outcome"].sel(policy=policy)
    return np.asarray(
        (outcome.sel(answer=answers).sum(["answer", "order"]) / outcome.sum(["answer", "order"])).values, float
    )


def _stand_in(dataset: xr.Dataset) -> Claim:
    sentence = "If higher order allocations are failing then virtual compound pages can stand in for them."
    failed = dataset["outcome"].sel(answer="failed").sum("order")
    alone, left = failed.sel(policy="physical"), failed.sel(policy="early-fallback")
    if not bool((alone > 0).all()):
        return Claim(sentence=sentence, measure="nothing failed under physical, so nothing had to stand in")
    value, low, high = interval(100 * (1 - left / alone))
    return Claim(
        sentence=sentence,
        measure="requests failed under physical that no longer fail under early-fallback",
        value=value,
        low=low,
        high=high,
        unit="%",
        threshold=f"holds if above {RELIABLE} %",
        verdict=_judge(dataset, low, high, RELIABLE),
        left_out=_NO_DEFRAGMENTATION,
    )


def _reliability(dataset: xr.Dataset) -> Claim:
    value, low, high = interval(100 * _share(dataset, "early-fallback", ["physical", "virtual"]))
    alone = float(_share(dataset, "physical", ["physical"]).mean())
    return Claim(
        sentence="“Reliability” as long as the vmalloc layer can provide virtual mappings.",
        measure=f"requests served under early-fallback, all orders (physical alone: {alone:.1%})",
        value=value,
        low=low,
        high=high,
        unit="%",
        threshold=f"holds if at least {RELIABLE} % are served",
        verdict=_judge(dataset, low, high, RELIABLE),
        left_out="exhaustion: order-0 shortage at the watermarks, a bounded vmalloc area",
    )


def _less_vmalloc(dataset: xr.Dataset) -> Claim:
    value, low, high = interval(100 * _share(dataset, "early-fallback", ["physical"]))
    return Claim(
        sentence="Ability to reduce the use of vmalloc layer significantly.",
        measure="requests, virtual under vmalloc, that are physical under early-fallback",
        value=value,
        low=low,
        high=high,
        unit="%",
        threshold=f"holds if at least {MOST} % are",
        verdict=_judge(dataset, low, high, MOST),
        left_out="how often kernels ask for which order: each order counts the same here",
    )


def _larger_entries(dataset: xr.Dataset, largest: dict[str, Any], size: str) -> Claim:
    steady = dataset["events"].sel(phase="steady", pattern="uniform", **largest)
    walks = steady.sel(event="walk") / steady.sel(event="data_access")
    direct = np.asarray(walks.sel(cell="i").values, float)
    virtual = np.asarray(walks.sel(cell="iii").values, float)
    sentence = "Physically contiguous memory may allow larger TLB entries, reducing TLB pressure and page walks."
    if not (virtual > 0).all():
        return Claim(sentence=sentence, measure=f"nothing was walked for over {size}, so no walk could be avoided")
    value, low, high = interval(100 * (1 - direct / virtual))
    return Claim(
        sentence=sentence,
        measure=f"page walks of scattered 4K pages that the direct map avoids, uniform accesses over {size} "
        f"({float(virtual.mean()):.3f} walks per access against {float(direct.mean()):.3f})",
        value=value,
        low=low,
        high=high,
        unit="%",
        threshold=f"holds if at least {MOST} % are avoided",
        verdict=_judge(dataset, low, high, MOST),
        left_out="coalescing of neighbouring 4K entries, other users of the TLB",
    )


def _slower(dataset: xr.Dataset, largest: dict[str, Any], size: str) -> Claim:
    cost = per_access(dataset).sel(phase="steady", pattern="chase")
    value, low, high = interval(_ratio(cost.sel(largest), "iii", "i"))
    smallest = {"order": int(dataset["order"].min()), "live_pages": int(dataset["live_pages"].min())}
    one = float(_ratio(cost.sel(smallest), "iii", "i").mean())
    widest = (cost.sel(cell="iii") / cost.sel(cell="i")).mean("seed")
    where = {str(dim): int(widest[dim][index]) for dim, index in widest.argmax(["order", "live_pages"]).items()}
    return Claim(
        sentence="Virtual mappings are less efficient: performance will drop once virtual fall back occurs.",
        measure=f"cycles per access of a pointer chase over {size}, virtual over physical "
        f"({one:.2f} over {format_bytes(float(live_bytes(dataset).sel(smallest)))}; widest {float(widest.max()):.2f} "
        f"over {format_bytes(float(live_bytes(dataset).sel(where)))})",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold=f"holds if above {1 + NEGLIGIBLE}",
        verdict=_judge(dataset, low, high, 1 + NEGLIGIBLE),
        left_out=_NO_CACHES,
    )


def _memory_overhead(dataset: xr.Dataset) -> Claim:
    served = dataset["outcome"].sel(policy="vmalloc", answer="virtual")
    data = served * 2 ** dataset["order"] * PAGE_BYTES
    share = 100 * (dataset["attributed_bytes"].sel(policy="vmalloc") / data).mean("seed")
    marginal = 100 * (dataset["marginal_frames"].sel(policy="vmalloc") * PAGE_BYTES / data).mean("seed")
    retained = 100 * (dataset["retained_frames"].sel(policy="vmalloc") * PAGE_BYTES / data).mean("seed")
    small, large = int(dataset["order"].min()), int(dataset["order"].max())
    return Claim(
        sentence="Virtual mappings have more memory overhead: vm_area structures, page tables, page arrays.",
        measure=f"bytes attributed per byte of pages of order {small} ({float(share.sel(order=large)):.2f} % at order "
        f"{large}; newly taken frames {_range(marginal, small, large)}, retained after free "
        f"{_range(retained, small, large)}); exact",
        value=float(share.sel(order=small)),
        unit="%",
        threshold="holds if above 0 % at every order, which is what physical pages take",
        verdict="holds" if bool((share > 0).all()) else "does not hold",
        left_out="per-CPU lists and slabs of the control structures",
    )


def _range(share: xr.DataArray, small: int, large: int) -> str:
    return f"{float(share.sel(order=small)):.2f} to {float(share.sel(order=large)):.2f} %"


def summary(dataset: xr.Dataset) -> list[str]:
    """Return what a reader should know first."""
    cost = per_access(dataset).sel(phase="steady").mean("seed")
    size = live_bytes(dataset)
    reach = int(dataset.attrs["second_level_reach_bytes"])
    inside = size < reach
    ratio = cost.sel(cell="iii") / cost.sel(cell="i")
    chase = ratio.sel(pattern="chase")
    served = _share(dataset, "physical", ["physical"]).mean()
    index = float(dataset["unusable_index"].mean("seed")[9])
    with_fallback = _share(dataset, "early-fallback", ["physical", "virtual"]).mean()
    lines = [
        f"On a machine aged until {index:.0%} of its free memory is unusable for order 9, physical contiguity serves "
        f"{served:.0%} of requests of orders {int(dataset['order'].min())} to {int(dataset['order'].max())}; with "
        f"fallback {with_fallback:.1%} are served.",
    ]
    if bool(inside.any()):
        lines.append(
            f"While all live pages together fit the second-level TLB ({format_bytes(reach)}), a pointer chase through "
            f"virtual pages costs at most {float(chase.where(inside).max()):.2f} times what it costs through physical "
            "ones."
        )
    if bool((~inside).any()):
        lines.append(
            f"Beyond it the price grows to {float(chase.where(~inside).max()):.2f} times, with data and page tables in "
            "the caches: an upper bound wherever data misses add to both sides."
        )
    if dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        lines.append(
            f"Only {dataset.sizes['seed']} of the {SEEDS_FOR_A_VERDICT} seeds that a verdict needs: nothing is decided."
        )
    return lines
