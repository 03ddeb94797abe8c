"""The figures of the fallback study: which numbers go into them, and what their captions say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from vclab.figures.bars import Bars, parts, served_bars, stacked_bars, without_empty
from vclab.figures.curves import Curve, Panel, cost_curves
from vclab.figures.lifetimes import Lifetime, lifetime_curves
from vclab.figures.memory import frame_pictures, frames_per_pixel
from vclab.figures.style import save
from vclab.studies import Draw
from vclab.studies.cells import is_colouring
from vclab.studies.fallback.claims import NEGLIGIBLE, control_ratios, live_bytes, per_access, per_request
from vclab.studies.fallback.measure import ends_and_middle
from vclab.units import PAGE_BYTES, format_bytes

Floats = npt.NDArray[np.float64]

#: What each access pattern means, for panel titles.
PATTERNS = {
    "chase": "Pointer chase: each access waits for the one before (serial)",
    "uniform": "Independent random accesses: serial (marked line) down to perfectly overlapped (thin line)",
}
#: What each policy does, for plot titles.
POLICIES = {
    "physical": "contiguous or nothing",
    "early-fallback": "contiguous, else virtual",
    "always-virtual": "virtual at once",
    "vmalloc": "virtual at once",
    "huge-vmalloc": "virtual, 2M entries if it can",
}


def figures(dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each of the study's figures into a folder."""
    draws = [
        _cost_against_reach,
        _cycles_by_cause,
        _controls,
        _cold_against_reach,
        _success_by_order,
        _operations,
        _lifetimes,
    ]
    if "frame_state" in dataset:
        draws.append(_memory_before_after)
    return [partial(draw, dataset, out) for draw in draws]


def _cell_names(dataset: xr.Dataset) -> dict[str, str]:
    direct = json.loads(dataset.attrs["parameters"])["direct_map"]
    return {
        "i": f"contiguous, {direct} direct map",
        "ii": "contiguous, 4K vmalloc",
        "iii": "scattered, 4K vmalloc",
        "iv": "scattered, open-coded",
    }


def _seeds(dataset: xr.Dataset) -> str:
    count = dataset.sizes["seed"]
    return "one seed" if count == 1 else f"{count} seeds"


def _by_size(dataset: xr.Dataset, values: xr.DataArray) -> tuple[Floats, list[Floats]]:
    """Return the distinct live bytes, and for each the values as float64[seed, combinations of order and pages]."""
    size = live_bytes(dataset).transpose("order", "live_pages").values
    table = values.transpose("seed", "order", "live_pages").values
    distinct = np.unique(size)
    return distinct.astype(float), [table[:, size == each] for each in distinct]


def _curve(dataset: xr.Dataset, pattern: str, cell: str, label: str, phase: str = "steady") -> Curve:
    where = {"phase": phase, "pattern": pattern, "cell": cell}
    sizes, groups = _by_size(dataset, per_access(dataset).sel(where))
    medians = np.array([np.median(group, axis=1) for group in groups])
    dots = [group.mean(axis=0) for group in groups]
    floor = None
    if pattern != "chase":
        overlapped = (dataset["overlapped_cycles"] / dataset["events"].sel(event="data_access")).sel(where)
        floor = np.array([np.median(group, axis=1).mean() for group in _by_size(dataset, overlapped)[1]])
    return Curve(
        name=cell,
        label=label,
        size=sizes,
        cost=medians.mean(axis=1),
        low=medians.min(axis=1),
        high=medians.max(axis=1),
        dot_size=np.repeat(sizes, [len(each) for each in dots]),
        dot_cost=np.concatenate(dots),
        floor=floor,
    )


def _reaches(dataset: xr.Dataset) -> list[tuple[float, str]]:
    first, second = (float(dataset.attrs[f"{level}_level_reach_bytes"]) for level in ("first", "second"))
    return [
        (first, "4K entries fit the\nfirst-level TLB"),
        (second, "4K entries fit the\nsecond-level TLB"),
        (np.inf, "beyond both:\npage walks"),
    ]


def _cost_against_reach(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    names = _cell_names(dataset)
    panels = [
        Panel(title, [_curve(dataset, pattern, cell, names[cell]) for cell in names])
        for pattern, title in PATTERNS.items()
        if pattern in dataset["pattern"].values
    ]
    stem = "cost-against-reach"
    save(cost_curves(panels, _reaches(dataset), float(dataset.attrs["second_level_reach_bytes"])), out, stem)
    physical, virtual = panels[0].curves[0], panels[0].curves[2]
    ratio = virtual.cost / physical.cost
    worst = int(ratio.argmax())
    caption = (
        f"In a chase, an access to virtual pages (iii) costs {virtual.cost[0]:.1f} cycles and one to physical pages "
        f"(i) {physical.cost[0]:.1f} at {format_bytes(virtual.size[0])}, but {virtual.cost[-1]:.1f} and "
        f"{physical.cost[-1]:.1f} at {format_bytes(virtual.size[-1])}; the gap is widest, {ratio[worst]:.1f} times, at "
        f"{format_bytes(virtual.size[worst])}.{_overlapped(panels)} Lines are medians over the orders that reach the "
        f"same live bytes and means of {_seeds(dataset)} (strokes: least to greatest), dots single orders. "
        f"{_counterfactual(dataset)}"
        "Left out: coalescing of neighbouring TLB entries."
    )
    return stem, "What an access costs, by how much memory is live", caption


def _cold_against_reach(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    names = _cell_names(dataset)
    curves = [_curve(dataset, "chase", cell, names[cell], "cold") for cell in names]
    stem = "cold-against-reach"
    panel = Panel("First pass from empty TLBs: each page is touched once", curves)
    save(cost_curves([panel], _reaches(dataset), float(dataset.attrs["second_level_reach_bytes"])), out, stem)
    physical, virtual = curves[0], curves[2]
    caption = (
        f"Cold, every virtual page costs a walk: {virtual.cost[0]:.0f} cycles an access at "
        f"{format_bytes(virtual.size[0])}, where nothing of the page tables is cached yet, and {virtual.cost[-1]:.0f} "
        f"at {format_bytes(virtual.size[-1])}; physical pages share larger entries: {physical.cost[0]:.0f} and "
        f"{physical.cost[-1]:.0f} cycles. Data caches hold what clearing the pages has "
        "left in them. Left out: table words that mapping the page has just written, and so left in the caches."
    )
    return stem, "The first touch of each page", caption


def _overlapped(panels: list[Panel]) -> str:
    """Return a sentence on the lower bounds at the largest working set."""
    for panel in panels:
        physical, virtual = panel.curves[0].floor, panel.curves[2].floor
        if physical is not None and virtual is not None:
            return (
                f" Independent accesses that overlap perfectly cost {virtual[-1]:.1f} and {physical[-1]:.1f} at the "
                "largest size."
            )
    return ""


def _counterfactual(dataset: xr.Dataset) -> str:
    """Return a sentence on contiguous blocks that were not free, if there are any."""
    share = dataset["counterfactual"].mean("seed") / dataset["live_pages"].max()
    order = int(share.idxmax("order"))
    if not float(share.sel(order=order)):
        return ""
    return (
        "Where no contiguous block was free, (i) and (ii) use counterfactual ones: up to "
        f"{float(share.max()):.0%} of pages, at order {order}. "
    )


def _working_sets(dataset: xr.Dataset) -> list[tuple[float, str]]:
    """Return up to four telling working sets: live bytes and description."""
    sizes = np.unique(live_bytes(dataset).values).astype(float)
    first, second = (float(dataset.attrs[f"{level}_level_reach_bytes"]) for level in ("first", "second"))
    chosen: dict[float, str] = {}
    for name, candidates in (
        ("4K entries fit the first-level TLB", sizes[sizes < first][-1:]),
        ("4K entries fit the second-level TLB", sizes[(sizes > first) & (sizes < second)][-1:]),
        ("{ratio:.3g} times the second-level TLB’s reach with 4K entries", sizes[sizes >= 4 * second][:1]),
        ("{ratio:.3g} times the second-level TLB’s reach with 4K entries, the largest measured", sizes[-1:]),
    ):
        for size in candidates:
            chosen.setdefault(float(size), name.format(ratio=size / second))
    return sorted(chosen.items())


def _cycles_by_cause(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    names = _cell_names(dataset)
    causes = [str(cause) for cause in dataset["cause"].values]
    each = (dataset["cycles"] / dataset["events"].sel(event="data_access")).sel(phase="steady", pattern="chase")
    size = live_bytes(dataset)
    groups = [
        Bars(
            f"{format_bytes(live)} live",
            note,
            each.where(size == live).mean(["seed", "order", "live_pages"]).transpose("cell", "cause").values,
        )
        for live, note in _working_sets(dataset)
    ]
    stem = "cycles-by-cause"
    rows = [f"{cell}  {names[cell]}" for cell in dataset["cell"].values]
    drawn, stack = without_empty(groups, parts(causes))
    save(stacked_bars(drawn, rows, stack, "cycles per access of a pointer chase", shared=False), out, stem)
    last = groups[-1].values[2]
    walk = float(last[causes.index("page walk")])
    caption = (
        f"Of the {last.sum():.1f} cycles that an access to virtual pages (iii) costs at the largest working set, "
        f"{float(last[: causes.index('memory') + 1].sum()):.1f} are the data itself and {walk:.1f} "
        f"({walk / last.sum():.0%}) walking page tables, their words included; open-coded pages (iv) load the page "
        f"array instead. Each plot has its own axis. Means of {_seeds(dataset)} and of all orders with these live "
        "bytes. Left out: write-back traffic."
    )
    return stem, "Where the cycles go", caption


#: What each control changes, for captions and titles.
CONTROL_TITLES = {
    "full": "As the machine is",
    "colour-neutral": "Colour-neutral",
    "other work": "Beside other work",
    "first-level data": "Translation alone",
}


def _controls(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    """Draw cells i to iii under each control, for the largest order that the controls cover."""
    order = int(dataset["control_order"].max())
    live = int(dataset["live_pages"].max())
    steady = dataset.sel(live_pages=live, phase="steady")
    full = steady.sel(order=order, pattern="chase", cell=["i", "ii", "iii"])
    accesses = full["events"].sel(event="data_access", drop=True)
    control = steady.sel(control_order=order)
    made = control["control_events"].sel(event="data_access")
    bars = {"full": full["cycles"].sum("cause") / accesses, "first-level data": full["first_level_cycles"] / accesses}
    for name in dataset["control"].values:
        bars[str(name)] = control["control_cycles"].sum("cause").sel(control=name) / made.sel(control=name)
    ratios = control_ratios(dataset)
    groups = [
        Bars(
            CONTROL_TITLES[name],
            f"virtual over physical (iii over i): {float(ratios[name].mean()):.2f}",
            bars[name].mean("seed").values.reshape(-1, 1),
        )
        for name in CONTROL_TITLES
    ]
    names = _cell_names(dataset)
    stem = "controls"
    figure = stacked_bars(
        groups,
        [f"{cell}  {names[cell]}" for cell in ("i", "ii", "iii")],
        parts(["cycles per access"]),
        f"cycles per access of a pointer chase over {format_bytes(float(PAGE_BYTES << order) * live)}",
    )
    save(figure, out, stem)
    gap, neutral = (float(ratios[name].mean()) - 1 for name in ("full", "colour-neutral"))
    colour = is_colouring(gap, neutral, NEGLIGIBLE)
    caption = (
        "The same chase, measured again. Colour-neutral caches are indexed by page offset and number of the page, so "
        "that the frames a page happens to have make no difference; "
        f"{'more' if colour else 'less'} than half of the gap goes with them: it is "
        f"{'colouring' if colour else 'translation, not colouring'}. Other work takes half the entries of the "
        "second-level TLB. With data at first-level cost only translation is left. "
        f"Order {order}, {live} pages, means of {_seeds(dataset)}. Left out: other mixes of work."
    )
    return stem, "Is it translation? The controls", caption


def _operations(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    """Draw the time to allocate and free one request, by cause, for three orders."""
    each = per_request(dataset).mean("seed") / 1000
    value = each.sel(bound="value")
    shown = ends_and_middle(dataset["order"].values.tolist())
    policies = [str(name) for name in dataset["policy"].values]
    causes = [str(cause) for cause in dataset["operation_cause"].values]
    totals = {bound: each.sel(bound=bound).sum("operation_cause") for bound in ("low", "high")}
    groups = [
        Bars(
            format_bytes(float(PAGE_BYTES << order)),
            f"order {order}; by the ranges of the prices, vmalloc takes "
            f"{float(totals['low'].sel(order=order, policy='vmalloc')):.1f} to "
            f"{float(totals['high'].sel(order=order, policy='vmalloc')):.1f} µs",
            np.nan_to_num(value.sel(order=order).transpose("policy", "operation_cause").values),
        )
        for order in shown
    ]
    drawn, stack = without_empty(groups, parts(causes))
    stem = "time-by-cause"
    save(
        stacked_bars(drawn, policies, stack, "µs to allocate and free one request that is served", shared=False),
        out,
        stem,
    )
    last = value.sel(order=shown[-1]).sum("operation_cause")
    caption = (
        f"At order {shown[-1]} a request takes {float(last.sel(policy='vmalloc')):.0f} µs under vmalloc and "
        f"{float(last.sel(policy='physical')):.1f} under physical, where one block stands for all the single frames. "
        "Prices are those of the Linux preset, each with its source and its range. Each plot has its own axis; means "
        f"of {_seeds(dataset)}. Left out: zeroing, which both kinds need alike, and per-CPU lists, which make single "
        "frames cheaper."
    )
    return stem, "What making and freeing a page costs", caption


def _lifetimes(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    """Draw cost per access over a page's life, for three orders."""
    gigahertz = float(dataset.attrs["gigahertz"])
    shown = dataset["lifetime_order"].values.tolist()
    counts = dataset["lifetime"].values
    access = dataset["lifetime_cycles"].sum("cause").mean("seed") / gigahertz / counts
    made = per_request(dataset).sel(bound="value").sum("operation_cause").mean("seed")
    beyond = np.append(counts, 10 * counts[-1])
    plots = []
    for order in shown:
        lines = {}
        for cell, policy in (("i", "physical"), ("iii", "vmalloc")):
            alone = access.sel(lifetime_order=order, lifetime_cell=cell).values
            last = alone[-1] * counts[-1] - alone[-2] * counts[-2]
            # What comes after the last measured access goes on as the accesses before it did.
            steady = last / (counts[-1] - counts[-2])
            alone = np.append(alone, (alone[-1] * counts[-1] + steady * (beyond[-1] - counts[-1])) / beyond[-1])
            lines[cell] = alone, alone + float(np.nan_to_num(made.sel(order=order, policy=policy))) / beyond
        title = f"{format_bytes(float(PAGE_BYTES << order))}, order {order}"
        plots.append(Lifetime(title, beyond, lines["i"][1], lines["iii"][1], lines["i"][0], lines["iii"][0]))
    stem = "cost-over-a-life"
    save(lifetime_curves(plots), out, stem)
    last_plot = plots[-1]
    caption = (
        f"A page of order {shown[-1]} that is accessed {beyond[-2]:,} times costs "
        f"{float(last_plot.virtual[-2]):.2f} ns per access if it is virtual and {float(last_plot.physical[-2]):.2f} if "
        f"it is physical, of which {float(last_plot.virtual_access[-2]):.2f} and "
        f"{float(last_plot.physical_access[-2]):.2f} are the accesses. Uniform random accesses to one page from the "
        "first touch on, each waiting for the last; the last point goes on at the rate of the accesses before it. Left "
        "out: reclaim and compaction, which a physical page may have to wait for."
    )
    return stem, "What an access costs over a page’s life", caption


def _memory_before_after(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    states = dataset["frame_state"]
    titles = {"before": "Before ageing", "after": "After ageing"}
    pictures = [
        (titles.get(str(moment), str(moment)), states.sel(moment=moment).values) for moment in states["moment"].values
    ]
    stem = "memory-before-after"
    figure, rasters = frame_pictures(pictures)
    save(figure, out, stem, rasters)
    small = [float((each <= 3).sum() / max((each <= 10).sum(), 1)) for _, each in pictures]
    order = json.loads(dataset.attrs["parameters"])["fragment_order"]
    unusable = float(dataset["unusable_index"].isel(seed=0)[order])
    per_pixel = frames_per_pixel(states.sizes["frame"])
    of_svg = "of the SVG is one page frame" if per_pixel == 1 else f"of the SVG is one of {per_pixel} page frames"
    caption = (
        f"Each pixel {of_svg} of {format_bytes(states.sizes['frame'] * PAGE_BYTES)}. Frames follow a Z curve inside "
        "squares of 4 MiB, the largest block, so every free block is a square or half of one: the finer the grain, "
        f"the less is left for large requests. Blocks of at most order 3 hold {small[0]:.0%} of free memory before and "
        f"{small[-1]:.0%} after ageing, when {unusable:.0%} of it is unusable for order {order}. Shown: seed "
        f"{int(dataset['seed'][0])}. Left out: who owns a frame, and for how long."
    )
    return stem, "Memory before and after ageing", caption


def _heading(policies: list[str]) -> str:
    """Return names on one line if they fit a plot, else one below the other."""
    line = " / ".join(policies)
    return line if len(line) <= 24 else "\n".join(policies)


def _success_by_order(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    outcome = dataset["outcome"].sum("seed").transpose("policy", "order", "answer")
    share = (outcome / outcome.sum("answer")).values
    alike: dict[bytes, list[str]] = {}
    tables: dict[bytes, Floats] = {}
    for policy, table in zip(dataset["policy"].values, share, strict=True):
        alike.setdefault(table.tobytes(), []).append(str(policy))
        tables[table.tobytes()] = table
    groups = [Bars(_heading(policies), POLICIES.get(policies[0], ""), tables[key]) for key, policies in alike.items()]
    orders = dataset["order"].values
    rows = [f"{format_bytes(float(PAGE_BYTES << int(order)))}, order {order}" for order in orders]
    stem = "success-by-order"
    save(served_bars(groups, rows), out, stem)
    requests = int(dataset["outcome"].isel(seed=0, policy=0, order=0).sum())
    caption = (
        f"{_physical_alone(outcome)} With early-fallback the rest are served by virtually contiguous pages. Each "
        f"policy meets the same {requests} requests per order, on copies of the same aged machine ({_seeds(dataset)}). "
        "Left out: reclaim and compaction, which would be tried first, and what serving costs."
    )
    return stem, "Who gets served, by order and policy", caption


def _physical_alone(outcome: xr.DataArray) -> str:
    """Return a sentence on what physical contiguity serves."""
    of_policy = outcome.sel(policy="physical")
    served = (of_policy.sel(answer="physical") / of_policy.sum("answer")).values
    orders = outcome["order"].values
    partial = np.flatnonzero(served < 1)
    if not len(partial):
        return "Physical contiguity serves every request."
    start = f"every request below order {orders[partial[0]]}, but " if partial[0] else ""
    return f"Physical contiguity serves {start}{served[-1]:.0%} of order {orders[-1]}."
