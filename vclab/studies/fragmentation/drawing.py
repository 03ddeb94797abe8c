"""The figures of the fragmentation study: who is served, how long it takes, by what, and where insisting pays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vclab import presets
from vclab.figures.bars import Bars, parts, stacked_bars, without_empty
from vclab.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILLION, new_figure, save, style
from vclab.studies import Draw
from vclab.studies.demand import exists, label
from vclab.studies.fragmentation.claims import FAST, INSISTS, conditions, cpu_time, mean_ratio, served, where

#: Colour, dashes and marker of each way to ask, in turn.
_LOOKS = (
    (VERMILLION, "-", "D"),
    (PURPLE, (0, (4, 1.5)), "^"),
    (ORANGE, (0, (3, 1, 1, 1)), "v"),
    (BLUE, "-", "o"),
    (GREEN, (0, (1, 1.2)), "s"),
    (SKY, (0, (5, 2)), "x"),
    (INK, (0, (2, 2)), "+"),
    (MUTED, "-", "<"),
    (VERMILLION, (0, (1, 2)), ">"),
    (BLUE, (0, (6, 1, 1, 1)), "P"),
    (GREEN, "-", "*"),
)
#: Columns of the legend of ways to ask.
_LEGEND = 3
#: A request's own work in fewer parts.
_CAUSES = {
    "taking": ("block allocation", "split", "struct page"),
    "mapping": ("area reservation", "area search", "area release", "entry write", "table page"),
    "compaction scan": ("compaction scan",),
    "migration": ("migration", "copying", "flush", "interrupt"),
    "reclaim": ("reclaim", "reclaim scan"),
    "freeing and uniting": ("block free", "merge"),
}
#: Orders whose times are divided by cause, where they were measured.
_SHOWN = (3, 5, 7, 9)


def figures(dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each of the study's figures into a folder."""
    first, *others = dataset["linux"].values.tolist()
    draws: list[Draw] = [
        partial(_success, dataset, out, first),
        partial(_latency, dataset, out, first),
        partial(_causes, dataset, out),
    ]
    if {INSISTS, FAST} <= set(dataset["way"].values.tolist()):
        draws.append(partial(_map, dataset, out))
    for linux in others:
        draws += [partial(_success, dataset, out, linux), partial(_latency, dataset, out, linux)]
    return draws


def _stem(dataset: xr.Dataset, name: str, linux: str) -> str:
    """Return the stem of a figure that there is for each rule set; that of the first has no more than a name."""
    return name if linux == str(dataset["linux"].values[0]) else f"{name}-{linux}"


def _looks(dataset: xr.Dataset, linux: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, label and look of each way to ask that a release has."""
    preset = presets.linux(linux)
    looks = zip(dataset["way"].values.tolist(), _LOOKS, strict=False)
    return [
        (way, label(way, preset), {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 3.5})
        for way, (colour, dashes, marker) in looks
        if exists(way, preset)
    ]


def _panels(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Return the machines that figures show: the most fragmented, each pressure and share of pinned pages."""
    hard, _ = conditions(dataset)
    return [
        {**hard, "pressure": pressure, "pinned": pinned}
        for pressure in dataset["pressure"].values.tolist()
        for pinned in dataset["pinned"].values.tolist()
    ]


def _title(place: dict[str, Any]) -> str:
    return f"memory {place['pressure']}, {place['pinned']:.0%} pinned"


def _lines(axes: Axes, values: xr.DataArray, looks: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Draw a line for each way to ask over the orders."""
    for way, _, look in looks:
        axes.plot(values["order"].values, values.sel(way=way).values, **look)
    axes.set_xticks(values["order"].values)
    axes.grid(axis="y")


def _legend(figure: Figure, looks: list[tuple[str, str, dict[str, Any]]]) -> None:
    handles = [Line2D([], [], label=text, **look) for _, text, look in looks]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=_LEGEND, columnspacing=1.2)


def _head(looks: list[tuple[str, str, dict[str, Any]]]) -> float:
    """Return the inches that the legend takes."""
    return 0.35 + 0.18 * -(-len(looks) // _LEGEND)


def _grid(dataset: xr.Dataset, height: float, head: float = 0.85) -> tuple[Figure, list[tuple[Axes, dict[str, Any]]]]:
    """Return a figure with one plot for each machine: pressures below each other, pinned shares side by side."""
    down, across = dataset.sizes["pressure"], dataset.sizes["pinned"]
    inches = head + 0.1 + down * height
    figure = new_figure(inches)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.1, right=0.985, top=1 - head / inches, bottom=0.48 / inches, hspace=0.3 / (height - 0.3), wspace=0.08
    )
    places = list(zip(axes.ravel().tolist(), _panels(dataset), strict=True))
    for one, place in places:
        one.set_title(_title(place), fontsize=9, loc="left")
    for one in axes[-1]:
        one.set_xlabel("order")
    return figure, places


def _success(dataset: xr.Dataset, out: Path, linux: str) -> tuple[str, str, str]:
    share = 100 * served(dataset, ["physical"]).mean("seed")
    failed = 100 * served(dataset, ["failed"]).mean("seed")
    hard, _ = conditions(dataset)
    hard = {**hard, "linux": linux}
    looks = _looks(dataset, linux)
    with style():
        figure, places = _grid(dataset, 1.75, _head(looks))
        for axes, place in places:
            _lines(axes, share.sel({**place, "linux": linux}), looks)
            axes.set_ylim(-4, 104)
        figure.supylabel("physically contiguous, %", fontsize=9)
        _legend(figure, looks)
    stem = _stem(dataset, "served-by-order", linux)
    save(figure, out, stem)
    sentences = []
    for place in _panels(dataset):
        worst = failed.sel({**place, "linux": linux}).max("order")
        names = [f"{way} {float(worst.sel(way=way)):.0f} %" for way, _, _ in looks if float(worst.sel(way=way))]
        if names:
            sentences.append(f"{_title(place)}: {', '.join(names)}")
    caption = (
        f"Share of requests that are served with one block; {where(dataset, hard)}, or otherwise as written, when they "
        "begin. What is not so served is virtual or in smaller blocks, or "
        f"fails; the most failures at one order: {'; '.join(sentences) or 'none'}. Physical, and insisting, reclaim, "
        "and compact where a release can; early fallback of 6.18 leaves that to kswapd and kcompactd. Left out: other "
        "CPUs that ask at the same time."
    )
    return stem, f"Who gets a contiguous block, by the rules of {linux}", caption


def _latency(dataset: xr.Dataset, out: Path, linux: str) -> tuple[str, str, str]:
    hard, _ = conditions(dataset)
    hard = {**hard, "linux": linux}
    times = dataset["latency_ns"].mean("seed") / 1000
    looks = _looks(dataset, linux)
    with style():
        head = _head(looks)
        inches = 2.85 + head
        figure = new_figure(inches)
        both = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(left=0.1, right=0.985, top=1 - head / inches, bottom=0.48 / inches, wspace=0.08)
        for axes, statistic, title in zip(both, ("mean", "p99"), ("mean", "99th percentile"), strict=True):
            _lines(axes, times.sel(hard).sel(statistic=statistic), looks)
            axes.set_yscale("log")
            axes.set_xlabel("order")
            axes.set_title(title, fontsize=9, loc="left")
        both[0].set_ylabel("µs of a request")
        _legend(figure, looks)
    stem = _stem(dataset, "latency-by-order", linux)
    save(figure, out, stem)
    largest = int(dataset["order"].max())
    at = times.sel(hard).sel(order=largest)
    listed = ", ".join(
        f"{text} {float(at.sel(way=way, statistic='median')):,.1f}, {float(at.sel(way=way, statistic='p99')):,.0f}"
        for way, text, _ in looks
    )
    caption = (
        f"CPU time of single requests until they are answered, {where(dataset, hard)}; means over seeds. Medians and "
        f"99th percentiles at order {largest}, µs: {listed}. Left out: waiting for devices, for other CPUs, and "
        "for kswapd."
    )
    return stem, f"How long a request takes, by the rules of {linux}", caption


def _causes(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    hard, _ = conditions(dataset)
    looks = _looks(dataset, hard["linux"])
    chosen = dataset.sel(hard).sel(bound="value", way=[way for way, _, _ in looks])
    shown = [order for order in _SHOWN if order in dataset["order"].values] or dataset["order"].values.tolist()[:4]
    own = chosen["own_ns"].mean("seed") / 1000
    others = (chosen["background_ns"] + chosen["others_ns"]).mean("seed").sum("operation_cause") / 1000
    groups = []
    for order in shown:
        at = own.sel(order=order)
        columns = [at.sel(operation_cause=list(causes)).sum("operation_cause").values for causes in _CAUSES.values()]
        columns.append(np.maximum(others.sel(order=order).values, 0.0))
        groups.append(Bars(f"order {order}", "", np.stack(columns, axis=1)))
    groups, stack = without_empty(groups, parts([*_CAUSES, "kswapd, kcompactd, others"]))
    stem = "causes"
    # The whole word would take the plots' room.
    rows = [way if text == way else f"{way} †" for way, text, _ in looks]
    save(stacked_bars(groups, rows, stack, "µs of CPU time a request", shared=False), out, stem)
    devices = chosen["device_ns"].mean("seed").sel(order=shown[-1]) / 1000
    listed = ", ".join(
        f"{text} {float(devices.sel(way=way, device_cause='refault')):,.0f} and "
        f"{float(devices.sel(way=way, device_cause='write-back')):,.0f}"
        for way, text, _ in looks
    )
    caption = (
        "CPU time of a request by cause, and what kswapd, kcompactd and programs do more than where nothing is asked "
        f"for; each plot has a scale of its own; {where(dataset, hard)}. †: a counterfactual, no kernel of today asks "
        f"so. Devices beside it, µs a request at order {shown[-1]}, refaults and writes: {listed}. Left out: frees, "
        "which are in the results."
    )
    return stem, "Where the time goes", caption


def _map(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    cost = cpu_time(dataset)
    ratio = mean_ratio(cost.sel(way=INSISTS) / cost.sel(way=FAST), "seed")
    hard, easy = conditions(dataset)
    with style():
        figure, places = _grid(dataset, 0.5 + 0.3 * dataset.sizes["unusable"], head=0.55)
        most = max(2.0, float(ratio.max()))
        image = None
        for axes, place in places:
            at = ratio.sel({name: place[name] for name in ("linux", "pressure", "pinned")}).transpose(
                "unusable", "order"
            )
            image = axes.imshow(np.maximum(at.values, 1.0), norm=LogNorm(1, most), cmap="cividis", aspect="auto")
            for (row, column), value in np.ndenumerate(at.values):
                dark = value < most**0.6
                text = "–" if np.isnan(value) else f"{value:.1f}" if value < 10 else f"{value:,.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color="w" if dark else INK)
            axes.set_xticks(range(dataset.sizes["order"]), [str(order) for order in dataset["order"].values])
            axes.set_yticks(range(dataset.sizes["unusable"]), [f"{index:.0%}" for index in dataset["unusable"].values])
        figure.supylabel(f"unusable for order {dataset.attrs['fragment_order']}", fontsize=9)
        figure.text(0.1, 0.985, "CPU time of insisting over giving up fast, times", va="top", fontsize=9, color=INK)
        assert image is not None
    stem = "crossover"
    save(figure, out, stem)
    largest = ratio.sel(linux=hard["linux"]).max()
    caption = (
        "What a request that insists on contiguity costs its caller, over one that gives up fast and takes a virtual "
        f"page: 1 where both find a block at once, {float(largest):,.0f} at most. On the easiest machine "
        f"({where(dataset, easy)}) the largest is {float(ratio.sel(easy).max()):.2f}. Left out: what kswapd and "
        "kcompactd do for who gives up, which is in the claims."
    )
    return stem, "Where insisting on contiguity costs more", caption
