"""What was said for and against insisting on contiguity, held against requests on fragmented and full machines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from vclab import presets
from vclab.results import NOT_MEASURED, SEEDS_FOR_A_VERDICT, Claim, interval, judge
from vclab.studies.demand import label

#: Who insists, and who gives up fast, in the ways to ask.
INSISTS, FAST = "late-fallback, insist", "early-fallback"
#: Orders between which the crossover is judged.
CROSSOVER_ORDERS = (5, 8)
#: Times that insisting has to cost for the crossover, and per cent that count as no difference.
CROSSOVER, EQUAL = 2.0, 1.0
#: Per cent of requests that defragmentation has to serve for a fallback to be for special cases only.
SERVES = 99.0
NEED = "May only be needed for special cases in which the existing defragmentation methods fail."
DEAR = "On fragmented memory giving up fast and using vmalloc costs half the allocation CPU of insisting, or less."
SAME = "On memory that is not fragmented, insisting and giving up fast cost the same."
WHOLE = "The whole machine saves as much: kswapd and kcompactd, and what programs have to do more, included."
XFS = "A request that compacts once before it falls back costs several times one that does not (XFS, 2022)."
TAIL = "Who insists waits long now and then."
_LEFT_OUT = "kswapd and kcompactd at work beside the requests; contention; per-CPU lists"


def reached(dataset: xr.Dataset) -> list[float]:
    """Return the fragmentations that some machine of the first rule set was aged to, all of them if there is none."""
    wanted = dataset["outcome"].isel(linux=0).transpose("unusable", ...)
    asked = wanted.values.reshape(len(wanted), -1).sum(axis=1)
    indices = [float(index) for index in dataset["unusable"].values]
    return [index for index, count in zip(indices, asked, strict=True) if count] or indices


def conditions(dataset: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the coordinates of the hardest machine whose pages can all be moved, and of the easiest one."""
    linux = str(dataset["linux"].values[0])
    pressures = dataset["pressure"].values.tolist()
    pinned = float(dataset["pinned"].min())
    hard = "full" if "full" in pressures else pressures[0]
    easy = "spare" if "spare" in pressures else pressures[0]
    common = {"linux": linux, "pinned": pinned}
    indices = reached(dataset)
    return (
        {**common, "unusable": max(indices), "pressure": hard},
        {**common, "unusable": min(indices), "pressure": easy},
    )


def crossover(dataset: xr.Dataset) -> xr.Dataset:
    """Return the results of the orders between which the crossover is judged, or of all where there are none."""
    orders = dataset["order"]
    inside = (orders >= CROSSOVER_ORDERS[0]) & (orders <= CROSSOVER_ORDERS[1])
    return dataset.sel(order=orders[inside]) if bool(inside.any()) else dataset


def cpu_time(dataset: xr.Dataset, bound: str = "value", background: bool = False, free: bool = False) -> xr.DataArray:
    """Return nanoseconds of CPU time a request, without bound and cause; ``background``: of the whole machine."""
    total = dataset["own_ns"].sel(bound=bound).sum("operation_cause", skipna=False)
    if background:
        for name in ("background_ns", "others_ns"):
            total = total + dataset[name].sel(bound=bound).sum("operation_cause", skipna=False)
    if free:
        total = total + dataset["free_ns"].sel(bound=bound).sum("operation_cause", skipna=False)
    return total


def served(dataset: xr.Dataset, answers: list[str]) -> xr.DataArray:
    """Return the share of requests with some answers, 0 to 1."""
    asked = dataset["outcome"].sum("answer")
    return dataset["outcome"].sel(answer=answers).sum("answer") / asked.where(asked > 0)


def where(dataset: xr.Dataset, place: dict[str, Any]) -> str:
    """Return a machine in words."""
    pinned = f", {place['pinned']:.0%} of its pages pinned" if place.get("pinned") else ""
    order = int(dataset.attrs["fragment_order"])
    text = f"memory {place['pressure']}, {place['unusable']:.0%} of free frames unusable for order {order}{pinned}"
    had, wanted = machines(dataset, place), dataset.sizes["seed"]
    return text if had == wanted else f"{text}; {had} of {wanted} machines were to be had so"


def machines(dataset: xr.Dataset, place: dict[str, Any]) -> int:
    """Return how many machines came to be as asked: of some seeds ageing may not have reached the fragmentation."""
    asked = dataset["outcome"].sel(place).transpose("seed", ...)
    return int((asked.values.reshape(len(asked), -1).sum(axis=1) > 0).sum())


def mean_ratio(ratios: xr.DataArray, *over: str) -> xr.DataArray:
    """Return the geometric mean: ratios are as far below 1 as their inverses are above it. Missing ones are left out.

    All of a kind may be missing; then so is their mean.
    """
    logarithms = xr.DataArray(np.log(ratios))
    known = logarithms.notnull().sum(over)
    mean = logarithms.fillna(0.0).sum(over) / known.where(known > 0)
    return xr.DataArray(np.exp(mean))


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Return rows on the crossover, on what defragmentation cannot serve, and on who pays."""
    ways = dataset["way"].values.tolist()
    both = {INSISTS, FAST} <= set(ways)
    rows = [_dear(dataset), _same(dataset), _whole(dataset)] if both else []
    if {"early-fallback-6.12", FAST} <= set(ways):
        rows.append(_once(dataset))
    if both:
        rows.append(_tail(dataset))
    if "physical" in ways:
        rows.append(_serves(dataset))
        if "vmalloc" in ways:
            rows += [_cheaper(dataset), _in_vain(dataset)]
            rows += [_lumpy(dataset, linux) for linux in dataset["linux"].values.tolist()[1:]]
    return rows


def _judged(
    values: npt.ArrayLike, sentence: str, measure: str, least: float, unit: str = "times", left_out: str = _LEFT_OUT
) -> Claim:
    """Return a row that holds above a threshold, by the seeds that have a number."""
    numbers = np.asarray(values, float).ravel()
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return Claim(sentence=sentence, measure=f"{measure}; no machine was to be had", verdict=NOT_MEASURED)
    # Ratios are as far below 1 as their inverses are above it: mean and interval of logarithms.
    ratios = unit == "times"
    value, low, high = interval(np.log(numbers) if ratios else numbers)
    if ratios:
        value = float(np.exp(value))
        low, high = (None if end is None else float(np.exp(end)) for end in (low, high))
    return Claim(
        sentence=sentence,
        measure=f"{measure}; geometric mean of seeds" if ratios else measure,
        value=value,
        low=low,
        high=high,
        unit=unit,
        threshold=f"holds if above {least:g}{' %' if unit == '%' else ''}",
        verdict=judge(len(numbers), low, high, least),
        left_out=left_out,
    )


def _reversed(claim: Claim, threshold: str) -> Claim:
    """Return a row that holds below its threshold."""
    opposite = {"holds": "does not hold", "does not hold": "holds"}
    return Claim(**{**vars(claim), "threshold": threshold, "verdict": opposite.get(claim.verdict, claim.verdict)})


def _by_order(values: xr.DataArray, digits: int = 1) -> str:
    return _listed(values.mean("seed"), digits)


def _ratios_by_order(ratios: xr.DataArray, digits: int = 1) -> str:
    return _listed(mean_ratio(ratios, "seed"), digits)


def _listed(values: xr.DataArray, digits: int) -> str:
    return ", ".join(f"{int(order)}: {float(values.sel(order=order)):,.{digits}f}" for order in values["order"].values)


def _ratio(dataset: xr.Dataset, place: dict[str, Any], above: str, below: str, **which: Any) -> xr.DataArray:
    cost = cpu_time(crossover(dataset).sel(place), **which)
    return cost.sel(way=above, drop=True) / cost.sel(way=below, drop=True)


def _dear(dataset: xr.Dataset) -> Claim:
    hard, _ = conditions(dataset)
    ratio = _ratio(dataset, hard, INSISTS, FAST)
    cheap = float(mean_ratio(_ratio(dataset, hard, INSISTS, FAST, bound="low"), "seed").min())
    freed = _ratios_by_order(_ratio(dataset, hard, INSISTS, FAST, free=True))
    spare = {**hard, "pressure": "spare"}
    beside = ""
    if spare != hard and "spare" in dataset["pressure"].values:
        beside = f"; with memory to spare {_ratios_by_order(_ratio(dataset, spare, INSISTS, FAST))}"
    measure = (
        f"CPU time of a request that insists (compaction and reclaim, RETRY_MAYFAIL{_counterfactual(hard)}) over one "
        f"that gives up fast, the least of these orders ({_ratios_by_order(ratio)}; with frees {freed}{beside}; "
        f"{cheap:.1f} at least with all prices low); {where(dataset, hard)}"
    )
    return _judged(ratio.min("order"), DEAR, measure, CROSSOVER)


def _counterfactual(place: dict[str, Any]) -> str:
    """Return a word on who insists under a release whose callers have kvmalloc, which gives up early."""
    return "; a counterfactual" if label(INSISTS, presets.linux(place["linux"])) != INSISTS else ""


def _same(dataset: xr.Dataset) -> Claim:
    hard, easy = conditions(dataset)
    off = 100 * abs(_ratio(dataset, easy, INSISTS, FAST) - 1)
    full = {**easy, "pressure": hard["pressure"]}
    beside = ""
    if full != easy:
        beside = f" (ratios by order where memory is {full['pressure']}, so that reclaim fragments it: "
        beside += f"{_ratios_by_order(_ratio(dataset, full, INSISTS, FAST))})"
    measure = f"largest difference of their CPU time at any of these orders{beside}; {where(dataset, easy)}"
    row = _judged(off.max("order"), SAME, measure, EQUAL, "%")
    return _reversed(row, f"holds if below {EQUAL:g} %")


def _whole(dataset: xr.Dataset) -> Claim:
    hard, _ = conditions(dataset)
    chosen = crossover(dataset).sel(hard)
    each = cpu_time(chosen, background=True)
    together = each.sum("order", skipna=False)
    ratio = together.sel(way=INSISTS) / together.sel(way=FAST)
    by_order = each.mean("seed").sel(way=INSISTS) / each.mean("seed").sel(way=FAST)
    others = (each - cpu_time(chosen)).sel(way=FAST)
    most = float((cpu_time(chosen).sel(way=INSISTS) + others).sum() / each.sel(way=FAST).sum())
    cost = each.mean(["seed", "order"]) / 1000
    events = chosen["own"] + chosen["background"] + chosen["programs"] - chosen["anyway"]
    taken = (events.sel(event="page_reclaimed") / chosen["outcome"].sum("answer")).mean(["seed", "order"])
    waits = chosen["device_ns"].sel(bound="value", device_cause="refault").mean(["seed", "order"]) / 1000
    cheap = cpu_time(chosen, "low", background=True).sum(["seed", "order"])
    low = float(cheap.sel(way=INSISTS) / cheap.sel(way=FAST))
    measure = (
        f"the same ratio with all of that, these orders together ({_listed(by_order, 2)}; {low:.2f} with all prices "
        f"low, {most:.2f} if others did as much for who insists as for who gives up; a request costs "
        f"{float(cost.sel(way=INSISTS)):,.0f} and {float(cost.sel(way=FAST)):,.0f} µs and has "
        f"{float(taken.sel(way=INSISTS)):,.0f} and {float(taken.sel(way=FAST)):,.0f} frames reclaimed, for which "
        f"programs wait {float(waits.sel(way=INSISTS)):,.0f} and {float(waits.sel(way=FAST)):,.0f} µs for refaults)"
    )
    return _judged(ratio, WHOLE, measure, CROSSOVER)


def _once(dataset: xr.Dataset) -> Claim:
    hard, _ = conditions(dataset)
    ratio = _ratio(dataset, hard, "early-fallback-6.12", FAST)
    measure = (
        f"CPU time of a request of kvmalloc as of 6.12, which reclaims and compacts once (NORETRY), over that of 6.18, "
        f"which does not, geometric mean of these orders ({_ratios_by_order(ratio)}; XFS: some 5); "
        f"{where(dataset, hard)}"
    )
    return _judged(mean_ratio(ratio, "order"), XFS, measure, CROSSOVER)


def _tail(dataset: xr.Dataset) -> Claim:
    hard, _ = conditions(dataset)
    chosen = crossover(dataset).sel(hard)["latency_ns"] / 1000
    tail = chosen.sel(statistic="p99")
    ratio = mean_ratio(tail.sel(way=INSISTS) / tail.sel(way=FAST), "order")
    measure = (
        "99th percentile of CPU time of single requests, insisting over giving up fast, geometric mean of these orders "
        f"(µs by order: {_by_order(tail.sel(way=INSISTS), 0)} against {_by_order(tail.sel(way=FAST))}; medians "
        f"{_by_order(chosen.sel(statistic='median', way=INSISTS))} against "
        f"{_by_order(chosen.sel(statistic='median', way=FAST))}); {where(dataset, hard)}"
    )
    return _judged(ratio, TAIL, measure, 10.0)


def _serves(dataset: xr.Dataset) -> Claim:
    hard, _ = conditions(dataset)
    share = 100 * served(dataset, ["physical"]).sel(way="physical")
    texts = []
    for pinned in dataset["pinned"].values.tolist()[1:]:
        at = share.sel({**hard, "pinned": pinned})
        texts.append(f"with {pinned:.0%} of pages pinned {float(at.mean()):.1f} % ({_by_order(at, 0)})")
    everywhere = share.sel(linux=hard["linux"])
    texts.append(f"over all machines {float(everywhere.mean()):.1f} %")
    measure = (
        f"requests of orders {int(dataset['order'].min())} to {int(dataset['order'].max())} that reclaim and "
        f"compaction serve ({'; '.join(texts)}); {where(dataset, hard)}"
    )
    return _judged(share.sel(hard).mean("order"), NEED, measure, SERVES, "%")


def _cheaper(dataset: xr.Dataset) -> Claim:
    hard, _ = conditions(dataset)
    dear = _ratio(dataset, hard, "physical", "vmalloc", free=True)
    everything = cpu_time(dataset.sel(hard), free=True)
    over = mean_ratio(everything.sel(way="physical") / everything.sel(way="vmalloc"), "seed")
    above = [int(order) for order in dataset["order"].values if float(over.sel(order=order)) > 1]
    dearer = f"dearer on average at orders {', '.join(map(str, above))}" if above else "dearer at no order"
    measure = (
        f"CPU time to get a block by reclaim and compaction and to free it, over that of a virtual page, geometric "
        f"mean of these orders ({_ratios_by_order(dear, 2)}; of all orders {dearer}); {where(dataset, hard)}"
    )
    row = _judged(mean_ratio(dear, "order"), f"{NEED} Where they do not fail, they are no dearer.", measure, 1.0)
    return _reversed(row, "holds if below 1")


def _in_vain(dataset: xr.Dataset) -> Claim:
    hard, _ = conditions(dataset)
    place = {**hard, "pinned": float(dataset["pinned"].max())}
    failing = served(dataset, ["failed"]).sel(place).sel(way="physical")
    cost = cpu_time(dataset.sel(place), free=True)
    extra = (cost.sel(way="physical") / cost.sel(way="vmalloc")).where(failing > 0)
    sentence = f"{NEED} There, trying in vain costs more than falling back."
    if not bool((failing > 0).any()):
        return Claim(sentence=sentence, measure=f"no request failed; {where(dataset, place)}", verdict=NOT_MEASURED)
    measure = (
        "CPU time of a request that may fail after reclaim and compaction over that of a virtual page, geometric mean "
        f"of the orders at which some fail (failed, %, by order: {_by_order(100 * failing, 0)}); "
        f"{where(dataset, place)}"
    )
    return _judged(mean_ratio(extra, "order"), sentence, measure, 1.0)


def _lumpy(dataset: xr.Dataset, linux: str) -> Claim:
    """Return a row on other rules, those of releases that have no compaction above all."""
    place = {**conditions(dataset)[0], "linux": linux}
    share = 100 * served(dataset, ["physical"]).sel(place).sel(way="physical")
    cost = cpu_time(dataset.sel(place), background=True)
    together = cost.sum("order", skipna=False)
    ratio = together.sel(way="physical") / together.sel(way="vmalloc")
    events = dataset["own"] + dataset["background"] + dataset["programs"] - dataset["anyway"]
    taken = (events.sel(event="page_reclaimed") / dataset["outcome"].sum("answer")).sel(place)
    pinned = float(dataset["pinned"].max())
    other = 100 * served(dataset, ["physical"]).sel({**place, "pinned": pinned}).sel(way="physical")
    measure = (
        f"requests served with a block under the rules of {linux}, all orders ({_by_order(share, 0)}; with "
        f"{pinned:.0%} of pages pinned {_by_order(other, 0)}); the machine's CPU time is "
        f"{float(mean_ratio(ratio, 'seed')):.2f} times that of virtual pages, and frames reclaimed for a request are, "
        f"by order, {_by_order(taken.sel(way='physical'), 0)} against {_by_order(taken.sel(way='vmalloc'), 0)}; "
        f"{where(dataset, place)}"
    )
    return _judged(share.mean("order"), f"{NEED} (Rules of {linux}.)", measure, SERVES, "%")


def summary(dataset: xr.Dataset) -> list[str]:
    """Return what a reader should know first."""
    hard, easy = conditions(dataset)
    lines = []
    ways = dataset["way"].values.tolist()
    if "physical" in ways:
        share = served(dataset, ["physical"]).sel(way="physical").mean(["seed", "order"])
        text = f"Reclaim and compaction serve {float(share.sel(hard)):.0%} of requests; {where(dataset, hard)}"
        pinned = float(dataset["pinned"].max())
        if pinned > hard["pinned"]:
            text += f". With {pinned:.0%} of pages pinned they serve {float(share.sel({**hard, 'pinned': pinned})):.0%}"
        lines.append(text + ".")
    if {INSISTS, FAST} <= set(ways):
        own = cpu_time(crossover(dataset)).mean(["seed", "order"]) / 1000
        total = cpu_time(crossover(dataset), background=True).mean(["seed", "order"]) / 1000
        lines.append(
            f"There, a request of orders {CROSSOVER_ORDERS[0]} to {CROSSOVER_ORDERS[1]} that insists on contiguity "
            f"takes {float(own.sel(hard).sel(way=INSISTS)):,.0f} µs of CPU time itself and one that gives up fast "
            f"{float(own.sel(hard).sel(way=FAST)):,.1f}; with what kswapd and kcompactd do for them "
            f"{float(total.sel(hard).sel(way=INSISTS)):,.0f} and {float(total.sel(hard).sel(way=FAST)):,.0f}. On "
            f"memory that is not fragmented they take {float(own.sel(easy).sel(way=INSISTS)):,.2f} and "
            f"{float(own.sel(easy).sel(way=FAST)):,.2f}."
        )
    missing = sorted(set(dataset["unusable"].values.tolist()) - set(reached(dataset)))
    if missing:
        listed = ", ".join(f"{index:.0%}" for index in missing)
        lines.append(f"No machine was aged to {listed} of free frames unusable: that is left out.")
    if dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        lines.append(
            f"Only {dataset.sizes['seed']} of the {SEEDS_FOR_A_VERDICT} seeds that a verdict needs: nothing is decided."
        )
    return lines
