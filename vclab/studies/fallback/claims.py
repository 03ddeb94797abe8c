"""The RFC's sentences that this study can hold against numbers, and the thresholds by which it judges them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from vclab.results import SEEDS_FOR_A_VERDICT, Claim, interval, judge
from vclab.studies.cells import is_colouring
from vclab.units import PAGE_BYTES, format_bytes

#: A ratio this near to 1 counts as no difference.
NEGLIGIBLE = 0.02
#: Percent of requests that have to be served, and of requests or walks that count as most.
RELIABLE = 99.9
MOST = 50

_NO_COALESCING = "coalescing of neighbouring TLB entries; hardware that is smarter than LRU"
_NO_DEFRAGMENTATION = "reclaim and compaction, which would be tried first or instead (vclab run fragmentation)"


def per_access(dataset: xr.Dataset) -> xr.DataArray:
    """Return serial cycles per data access of each seed, order, working set, cell, pattern and phase."""
    return dataset["cycles"].sum("cause") / dataset["events"].sel(event="data_access")


def live_bytes(dataset: xr.Dataset) -> xr.DataArray:
    """Return the bytes of each working set, by order and live pages."""
    return PAGE_BYTES * 2 ** dataset["order"] * dataset["live_pages"]


def _ratio(values: xr.DataArray, above: str, below: str) -> npt.NDArray[np.float64]:
    return np.asarray(values.sel(cell=above).values / values.sel(cell=below).values, float)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Return one row for each sentence of the RFC's advantages and disadvantages."""
    largest = {"order": int(dataset["order"].max()), "live_pages": int(dataset["live_pages"].max())}
    size = format_bytes(float(live_bytes(dataset).sel(largest)))
    return [
        _stand_in(dataset),
        _reliability(dataset),
        _less_vmalloc(dataset),
        _larger_entries(dataset, largest, size),
        _awareness(dataset),
        _slower(dataset, largest, size),
        _slower_overlapped(dataset, largest, size),
        _memory_overhead(dataset),
        _time_overhead(dataset),
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
            measure="requests that reclaim and compaction cannot serve, and their cost against falling back: "
            "judged by vclab run fragmentation, on machines whose pages can be moved and reclaimed",
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
        verdict=judge(dataset.sizes["seed"], low, high, RELIABLE),
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
        verdict=judge(dataset.sizes["seed"], low, high, RELIABLE),
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
        verdict=judge(dataset.sizes["seed"], low, high, MOST),
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
        verdict=judge(dataset.sizes["seed"], low, high, MOST),
        left_out=_NO_COALESCING,
    )


def _awareness(dataset: xr.Dataset) -> Claim:
    cycles = dataset["awareness_cycles"].sel(awareness_operation="virt_to_page")
    value, low, high = interval((cycles.sel(kind="virtual") / cycles.sel(kind="physical")).values)
    mean = cycles.mean("seed")
    virtual, physical, without = (float(mean.sel(kind=kind)) for kind in ("virtual", "physical", "no fallback"))
    live = int(dataset["live_pages"].values[dataset.sizes["live_pages"] // 2])
    order = int(dataset["order"].values[dataset.sizes["order"] // 2])
    return Claim(
        sentence="The logic accessing the memory must be aware that it could be backed by a virtual mapping.",
        measure=f"cycles of virt_to_page for one of {live} virtual pages of order {order} over those for a physical "
        f"one ({virtual:.0f} against {physical:.0f}; the test itself costs physical pages {physical - without:.1f})",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold=f"holds if above {1 + NEGLIGIBLE}",
        verdict=judge(dataset.sizes["seed"], low, high, 1 + NEGLIGIBLE),
        left_out="the cost of writing and proving such code",
    )


def control_ratios(dataset: xr.Dataset) -> dict[str, npt.NDArray[np.float64]]:
    """Return, for each way to measure a chase, cycles of cell iii over those of i, float64[seed].

    For the largest order and working set that the controls cover: as the machine is, with each control, and with every
    data access priced as a first-level hit.
    """
    order = int(dataset["control_order"].max())
    steady = dataset.sel(live_pages=int(dataset["live_pages"].max()), phase="steady")
    chase = steady.sel(order=order, pattern="chase")
    found = {"full": _ratio(chase["cycles"].sum("cause"), "iii", "i")}
    control = steady["control_cycles"].sum("cause").sel(control_order=order)
    for name in dataset["control"].values:
        found[str(name)] = _ratio(control.sel(control=name).rename(control_cell="cell"), "iii", "i")
    found["first-level data"] = _ratio(chase["first_level_cycles"], "iii", "i")
    return found


def _controls_sentence(dataset: xr.Dataset) -> str:
    """Return what the controls say of the gap, with a warning where it is colouring rather than translation."""
    ratios = {name: float(values.mean()) for name, values in control_ratios(dataset).items()}
    size = format_bytes(float(PAGE_BYTES * 2 ** int(dataset["control_order"].max()) * int(dataset["live_pages"].max())))
    sentence = (
        f"; controls over {size}: {ratios['full']:.2f} as it is, {ratios['colour-neutral']:.2f} colour-neutral, "
        f"{ratios['other work']:.2f} beside other work, {ratios['first-level data']:.2f} with data at first-level cost"
    )
    if is_colouring(ratios["full"] - 1, ratios["colour-neutral"] - 1, NEGLIGIBLE):
        sentence += "; more than half of the gap is colouring, not translation"
    return sentence


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
        f"over {format_bytes(float(live_bytes(dataset).sel(where)))}{_controls_sentence(dataset)})",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold=f"holds if above {1 + NEGLIGIBLE}",
        verdict=judge(dataset.sizes["seed"], low, high, 1 + NEGLIGIBLE),
        left_out=_NO_COALESCING,
    )


def _slower_overlapped(dataset: xr.Dataset, largest: dict[str, Any], size: str) -> Claim:
    """Judge independent accesses by both bounds: fully serial and perfectly overlapped."""
    steady = dataset.sel(phase="steady", pattern="uniform", **largest)
    serial = interval(_ratio(steady["cycles"].sum("cause"), "iii", "i"))
    overlapped = interval(_ratio(steady["overlapped_cycles"], "iii", "i"))
    verdicts = {judge(dataset.sizes["seed"], low, high, 1 + NEGLIGIBLE) for _, low, high in (serial, overlapped)}
    ends = [end for _, *bounds in (serial, overlapped) for end in bounds if end is not None]
    return Claim(
        sentence="The same, for accesses that do not wait for one another.",
        measure=f"cycles per independent random access over {size}, virtual over physical: {serial[0]:.2f} if each "
        f"waits for the last, {overlapped[0]:.2f} if all overlap perfectly; the number is their middle, the interval "
        "spans both",
        value=(serial[0] + overlapped[0]) / 2,
        low=min(ends) if ends else None,
        high=max(ends) if ends else None,
        unit="times",
        threshold=f"holds if above {1 + NEGLIGIBLE} both serial and overlapped",
        verdict=verdicts.pop() if len(verdicts) == 1 else "undecided",
        left_out=_NO_COALESCING,
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


def per_request(dataset: xr.Dataset) -> xr.DataArray:
    """Return nanoseconds to serve and free one request, by bound, seed, order, policy and cause of work."""
    served = dataset["outcome"].sel(answer=["physical", "virtual"]).sum("answer")
    return dataset["operation_ns"].sum("step") / served.where(served > 0)


def _time_overhead(dataset: xr.Dataset) -> Claim:
    each = per_request(dataset).sum("operation_cause", skipna=False)
    ratio = each.sel(policy="vmalloc") / each.sel(policy="physical")
    small, large = int(dataset["order"].min()), int(dataset["order"].max())
    everywhere = ratio.sel(bound="value").min("order")
    value, low, high = interval(everywhere.values)
    median = int(dataset["order"].values[dataset.sizes["order"] // 2])
    at = each.sel(order=median).mean("seed")
    spread = [float(at.sel(bound=bound, policy="vmalloc")) / 1000 for bound in ("low", "high")]
    return Claim(
        sentence="Virtual mappings have to be allocated and managed.",
        measure=f"time to allocate and free a virtual page over that of a physical one, the least of all orders "
        f"({float(ratio.sel(bound='value', order=small).mean()):.0f} at order {small}, "
        f"{float(ratio.sel(bound='value', order=large).mean()):.0f} at order {large}; at order {median} "
        f"{float(at.sel(bound='value', policy='vmalloc')) / 1000:.1f} µs, {spread[0]:.1f} to {spread[1]:.1f} by the "
        f"ranges of the prices, against {float(at.sel(bound='value', policy='physical')) / 1000:.2f})",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold=f"holds if above {1 + NEGLIGIBLE} at every order",
        verdict=judge(dataset.sizes["seed"], low, high, 1 + NEGLIGIBLE),
        left_out="per-CPU lists, refills after a flush; reclaim and compaction, which physical pages would wait for "
        "(vclab run fragmentation)",
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
        f"virtual pages as a fallback {with_fallback:.1%} are served.",
    ]
    price = "The price of a virtual page, in a pointer chase, the worst case"
    if bool(inside.any()):
        lines.append(
            f"{price}: while all live pages together fit the second-level TLB ({format_bytes(reach)}), an access costs "
            f"at most {float(chase.where(inside).max()):.2f} times what it costs through a physical page (typically "
            f"{float(chase.where(inside).median()):.2f})."
        )
    if bool((~inside).any()):
        largest = float(size.max())
        at_most = float(chase.where(~inside).max())
        bound = dataset["overlapped_cycles"].sel(phase="steady", pattern="uniform").mean("seed")
        overlapped_ratio = float((bound.sel(cell="iii") / bound.sel(cell="i")).where(size == largest).mean())
        lines.append(
            f"{'Beyond it' if inside.any() else price + ': beyond the second-level TLB'}, page walks and cache misses "
            f"meet: the ratio reaches {at_most:.2f} at most and is {float(chase.where(size == largest).mean()):.2f} at "
            f"{format_bytes(largest)}; for accesses that do not wait for one another it is between "
            f"{overlapped_ratio:.2f} and {float(ratio.sel(pattern='uniform').where(size == largest).mean()):.2f} there."
        )
    each = per_request(dataset).sum("operation_cause", skipna=False).sel(bound="value").mean("seed") / 1000
    order = int(dataset["order"].values[dataset.sizes["order"] // 2])
    lines.append(
        f"Making and freeing a virtual page of order {order} takes about "
        f"{float(each.sel(order=order, policy='vmalloc')):.0f} µs, a physical one "
        f"{float(each.sel(order=order, policy='physical')):.1f}, before either is zeroed or used."
    )
    if dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        lines.append(
            f"Only {dataset.sizes['seed']} of the {SEEDS_FOR_A_VERDICT} seeds that a verdict needs: nothing is decided."
        )
    return lines
