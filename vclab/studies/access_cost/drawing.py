"""The figures of the access-cost study: which numbers go into them, and what their captions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vclab import presets
from vclab.figures.curves import Look
from vclab.figures.style import BLUE, GREEN, MUTED, ORANGE, PURPLE, VERMILLION, new_figure, save, style
from vclab.mmu import tlb_entries
from vclab.studies import Draw
from vclab.studies.access_cost.claims import (
    fewer_times,
    huge_table,
    measured_hashes,
    overlapped,
    parameters_of,
    reached_share,
    rows_where,
    serial,
    share_of_published,
    sweep,
    time_saved,
)
from vclab.studies.access_cost.grid import DEPENDENT, FORESEEN
from vclab.studies.access_cost.huge import PUBLISHED_FALL, PUBLISHED_MISSES
from vclab.units import PAGE_BYTES, format_bytes

Floats = npt.NDArray[np.float64]

CONTIGUOUS = Look(BLUE, "-", "o")
SCATTERED = Look(VERMILLION, (0, (4, 1.5)), "D")
LOOKS = (
    CONTIGUOUS,
    Look(GREEN, "-", "s", 5.0),
    Look(PURPLE, "-", "^", 5.0),
    Look(ORANGE, "-", "v"),
    SCATTERED,
)
SHORT = {"hash-table": "hash table", "strided": "strided, one page"}


@dataclass(frozen=True)
class Line:
    """Cost against live bytes.

    Attributes
    ----------
    label : str
    look : Look
    x, y, low, high : ndarray
        Bytes; mean, least and greatest over seeds.
    floor : ndarray or None
        The overlapped cost.
    """

    label: str
    look: Look
    x: Floats
    y: Floats
    low: Floats
    high: Floats
    floor: Floats | None = None


@dataclass(frozen=True)
class Plot:
    """One of several plots: title, lines, and a size to mark with a word."""

    title: str
    lines: Sequence[Line]
    mark: tuple[float, str] | None = None


def figures(dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each of the study's figures into a folder."""
    draws = [_by_pattern, _by_cpu, _by_direct_map, _by_control]
    if measured_hashes(dataset):
        draws.append(_huge)
    return [partial(draw, dataset, out) for draw in draws]


def _line(label: str, look: Look, rows: xr.Dataset, values: xr.DataArray, floor: xr.DataArray | None = None) -> Line:
    """Return one line; rows of one size, of several orders, are averaged."""
    sizes = rows["live_bytes"].values.astype(float)
    distinct = np.unique(sizes)
    table = np.stack([values.values[:, sizes == size].mean(1) for size in distinct], axis=1)
    under = None
    if floor is not None:
        under = np.array([floor.values[:, sizes == size].mean() for size in distinct])
    return Line(label, look, distinct, table.mean(0), table.min(0), table.max(0), under)


def _seeds(dataset: xr.Dataset) -> str:
    count = dataset.sizes["seed"]
    return "one seed" if count == 1 else f"means of {count} seeds, strokes from least to greatest"


def _draw(
    plots: Sequence[Plot], across: int, unit: str, *, logarithmic: bool = True, own_legends: bool = False
) -> Figure:
    """Draw plots side by side on one scale."""
    with style():
        down = -(-len(plots) // across)
        head = 0.36 if not own_legends else 0.1
        height = head + 0.2 + down * (2.35 if not own_legends else 3.0)
        figure = new_figure(height)
        every = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        figure.subplots_adjust(
            left=0.085, right=0.985, top=1 - (head + 0.26) / height, bottom=0.6 / height, wspace=0.06, hspace=0.22
        )
        if logarithmic:
            every[0].set_yscale("log")
        for axes, plot in zip(every, plots, strict=False):
            _draw_plot(axes, plot, mark_low=own_legends)
            if own_legends:
                axes.legend(fontsize=8, loc="upper left", frameon=False, handlelength=2.6, borderaxespad=0.2)
        if own_legends:
            low, high = every[0].get_ylim()
            every[0].set_ylim(low, high * (high / low) ** 0.45)
        for axes in every[len(plots) :]:
            axes.set_axis_off()
        _ticks(every[0], plots, logarithmic)
        for number, axes in enumerate(every[: len(plots)]):
            # A plot with nothing below it shows the sizes.
            axes.tick_params(labelbottom=number + across >= len(plots), labelsize=8)
            if number % across == 0:
                axes.set_ylabel(unit, fontsize=8.5)
        figure.text(0.53, 0.06 / height, "live bytes", ha="center", fontsize=9, color="#333333")
        if not own_legends:
            handles, labels = every[0].get_legend_handles_labels()
            figure.legend(
                handles,
                labels,
                loc="upper left",
                bbox_to_anchor=(0.0, 1.0),
                ncols=len(labels),
                fontsize=8.5,
                frameon=False,
                handlelength=2.6,
                columnspacing=1.4,
            )
        return figure


def _draw_plot(axes: Axes, plot: Plot, *, mark_low: bool) -> None:
    axes.set_xscale("log", base=2)
    axes.grid(axis="y")
    axes.set_title(plot.title, fontsize=9, loc="left", pad=3)
    for line in plot.lines:
        kind = {"color": line.look.colour, "linestyle": line.look.dashes}
        # Lines that may lie under others are bands.
        broad = {"linewidth": line.look.width, "alpha": 0.45, "zorder": 2.0, "marker": ""}
        narrow = {"linewidth": 1.5, "marker": line.look.marker, "markersize": 3.2, "zorder": 3.0}
        drawn = {**kind, **(broad if line.look.is_broad else narrow)}
        axes.plot(line.x, line.y, label=line.label, **drawn)  # type: ignore[arg-type]
        axes.vlines(line.x, line.low, line.high, color=line.look.colour, linewidth=1)
        if line.floor is not None:
            axes.plot(line.x, line.floor, linewidth=0.9, **kind)  # type: ignore[arg-type]
    floors = [(line.x[0], line.floor[0]) for line in plot.lines if line.floor is not None]
    if floors:
        axes.annotate("overlapped", floors[0], (0, 4), textcoords="offset points", fontsize=8, color=MUTED)
    if plot.mark is not None:
        place, word = plot.mark
        axes.axvline(place, color="#9aa3ad", linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        near = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "ha": "right"}
        height, side = (0.02, "bottom") if mark_low else (0.98, "top")
        axes.annotate(word, (place, height), (-3, 0), va=side, fontsize=8, color=MUTED, **near)  # type: ignore[arg-type]


def _ticks(axes: Axes, plots: Sequence[Plot], logarithmic: bool) -> None:
    sizes = np.concatenate([line.x for plot in plots for line in plot.lines])
    first, last = int(np.floor(np.log2(sizes.min()))), int(np.ceil(np.log2(sizes.max())))
    exponents = range(first, last + 1, max(2, -(-(last - first) // 4)))
    axes.set_xticks(
        [2.0**each for each in exponents], [format_bytes(2.0**each).replace(" ", "\n") for each in exponents]
    )
    axes.minorticks_off()
    if logarithmic:
        low, high = axes.get_ylim()
        fine = (1, 3) if high / low > 30 else (1, 2, 3, 5, 7)
        steps = [step * 10.0**power for power in range(-2, 5) for step in fine]
        shown = [step for step in steps if low <= step <= high]
        axes.set_yticks(shown, [f"{step:g}" for step in shown])
        axes.minorticks_off()


def _reach(dataset: xr.Dataset) -> tuple[float, str]:
    return float(dataset.attrs["second_level_reach_bytes"]), "TLB’s reach"


def _by_pattern(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    parameters = parameters_of(dataset)
    plots, gaps = [], {}
    for pattern in parameters["patterns"]:
        rows = rows_where(dataset, pattern=pattern).sortby("live_bytes")
        lines = []
        for cell, label, look in (
            ("i", f"i  contiguous, {parameters['direct_map']} direct map", CONTIGUOUS),
            ("iii", "iii  scattered, 4K entries in the vmalloc area", SCATTERED),
        ):
            floor = None if pattern == DEPENDENT else overlapped(rows, cell)
            lines.append(_line(label, look, rows, serial(rows, cell), floor))
        plots.append(Plot(SHORT.get(pattern, pattern), lines, _reach(dataset)))
        gaps[pattern] = lines[1].y / lines[0].y, lines[0].x
    stem = "cost-by-pattern"
    save(_draw(plots, min(3, len(plots)), "cycles per access"), out, stem)
    worst = {pattern: int(gap.argmax()) for pattern, (gap, _) in gaps.items()}
    told = ", ".join(
        f"{SHORT.get(pattern, pattern)} {gap[worst[pattern]]:.2f} ({format_bytes(sizes[worst[pattern]])})"
        for pattern, (gap, sizes) in gaps.items()
    )
    caption = (
        f"On {parameters['cpu']}, serial cycles of an access to scattered 4K pages are at most so many times those to "
        f"contiguous ones behind the {parameters['direct_map']} direct map: {told}. Thick lines with marks are serial, "
        f"the thin ones below them perfectly overlapped; {_seeds(dataset)}. Steady state. Dashed: reach of the last "
        "TLB level with 4K entries. Contiguous frames are counterfactual above order 10 and wherever no block was free "
        f"({_counterfactual(dataset)})."
    )
    return stem, "What an access costs, by pattern and live memory", caption


def _counterfactual(dataset: xr.Dataset) -> str:
    """Return how many pages of the baseline's orders up to 10 were not to be had."""
    rows = rows_where(dataset)
    possible = rows.isel(row=np.flatnonzero(rows["order"].values <= 10))
    share = (possible["counterfactual"] / possible["live_pages"]).mean("seed")
    if not float(share.max()):
        return "none was missing up to order 10"
    worst = int(share.values.argmax())
    return f"up to {float(share[worst]):.0%} of pages, at order {int(possible['order'].values[worst])}"


def _by_cpu(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    parameters = parameters_of(dataset)
    pattern = parameters["sweep_patterns"][0]
    plots, told = [], []
    for cpu in dict.fromkeys(dataset["cpu"].values.tolist()):
        rows = sweep(dataset, pattern, cpu=cpu)
        if not rows.sizes["row"]:
            continue
        each = rows["nanoseconds"].sel(phase="steady").sum("cause")
        lines = [
            _line(f"i  contiguous, {parameters['direct_map']} direct map", CONTIGUOUS, rows, each.sel(cell="i")),
            _line("iii  scattered, 4K entries in the vmalloc area", SCATTERED, rows, each.sel(cell="iii")),
        ]
        preset = presets.cpu(cpu)
        mark = float(PAGE_BYTES * tlb_entries(preset, "4K")[-1]), "TLB’s reach"
        plots.append(Plot(cpu, lines, mark))
        gap = lines[1].y / lines[0].y
        told.append(
            f"{cpu} {gap[-1]:.2f} times (at most {gap.max():.2f}, over {format_bytes(lines[0].x[gap.argmax()])})"
        )
    stem = "cost-by-cpu"
    save(_draw(plots, min(3, len(plots)), "ns per access"), out, stem)
    largest = format_bytes(plots[0].lines[0].x[-1])
    caption = (
        f"{pattern.capitalize()} over {largest}, iii over i: {'; '.join(told)}. Serial nanoseconds at each preset’s "
        f"clock, pages of order {parameters['sweep_order']}, steady state; {_seeds(dataset)}. Left out of the grid: "
        f"{dataset.attrs['missing_points'] or 'nothing'}."
    )
    return stem, "What an access costs, by CPU", caption


def _by_direct_map(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    parameters = parameters_of(dataset)
    pattern = parameters["sweep_patterns"][0]
    base = sweep(dataset, pattern)
    reference = _line("iii  scattered, 4K entries", SCATTERED, base, serial(base, "iii"))
    by_size, by_split = [], []
    sizes = [size for size in ("2M", "1G", "4K") if sweep(dataset, pattern, direct_map=size).sizes["row"]]
    for size, look in zip(sizes, LOOKS, strict=False):
        rows = sweep(dataset, pattern, direct_map=size)
        by_size.append(_line(f"i  {size} pages", look, rows, serial(rows, "i")))
    splits = [share for share in parameters["splits"] if sweep(dataset, pattern, split=share).sizes["row"]]
    for share, look in zip(splits, LOOKS, strict=False):
        rows = sweep(dataset, pattern, split=share)
        by_split.append(_line(f"i  {share:.0%} broken", look, rows, serial(rows, "i")))
    plots = [Plot("by page size of the direct map", [*by_size, reference], _reach(dataset))]
    if by_split:
        plots.append(
            Plot(f"by the broken share of {parameters['direct_map']} pages", [*by_split, reference], _reach(dataset))
        )
    stem = "cost-by-direct-map"
    save(_draw(plots, len(plots), "cycles per access", own_legends=True), out, stem)
    first = ", ".join(f"{line.y[-1]:.0f} with {line.label[3:]}" for line in by_size)
    second = ", ".join(f"{line.y[-1]:.0f} with {line.label[3:]}" for line in by_split)
    caption = (
        f"{pattern.capitalize()} over {format_bytes(reference.x[-1])} on {parameters['cpu']}, contiguous pages behind "
        f"the direct map (i), serial cycles: {first}"
        + (f"; of the {parameters['direct_map']} map {second}" if second else "")
        + f"; scattered 4K pages (iii) {reference.y[-1]:.0f}. Broken pages are chosen at random; {_seeds(dataset)}."
    )
    return stem, "What an access costs, by the direct map", caption


def _by_control(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    """Draw the gap between iii and i under each control, and what prefetchers do for what they foresee."""
    parameters = parameters_of(dataset)
    plots, told = [], []
    for pattern in parameters["sweep_patterns"]:
        lines = []
        for (label, wanted), look in zip(
            (
                ("as it is", {}),
                ("colour-neutral", {"control": "colour-neutral"}),
                ("data at first-level cost", {"first": "level"}),
                ("beside other work", {"background": "half"}),
            ),
            LOOKS,
            strict=False,
        ):
            rows = sweep(dataset, pattern, **{name: value for name, value in wanted.items() if name != "first"})
            each = rows["first_level_cycles"].sel(phase="steady") if "first" in wanted else None
            gap = serial(rows, "iii") - serial(rows, "i") if each is None else each.sel(cell="iii") - each.sel(cell="i")
            lines.append(_line(label, look, rows, gap))
        plots.append(Plot(f"{pattern}: iii − i", lines, _reach(dataset)))
        apart = int(np.ptp([line.y for line in lines], axis=0).argmax())
        told.append(
            f"{pattern} over {format_bytes(lines[0].x[apart])}, where they differ most, "
            + ", ".join(f"{line.y[apart]:.1f} {line.label}" for line in lines)
            + f" (over {format_bytes(lines[0].x[-1])} {', '.join(f'{line.y[-1]:.1f}' for line in lines)})"
        )
    stem = "gap-by-control"
    save(_draw(plots, len(plots), "cycles per access", logarithmic=False), out, stem)
    caption = (
        f"Serial cycles that scattered 4K pages (iii) cost more than contiguous ones behind the direct map (i): "
        f"{'; '.join(told)}. Colour-neutral caches do not see which frames data has; beside other work, "
        f"{parameters['background_share']:.0%} of the last TLB level’s entries are asked for by somebody else. "
        f"{_prefetch(dataset)}{_seeds(dataset).capitalize()}."
    )
    return stem, "The price of scattered pages under each control", caption


def _prefetch(dataset: xr.Dataset) -> str:
    """Return a sentence on what the prefetchers save."""
    told = []
    for pattern in FORESEEN:
        with_it, without = (sweep(dataset, pattern, prefetch=state) for state in ("on", "off"))
        if without.sizes["row"]:
            costs = [float(serial(rows, "iii").isel(row=-1).mean()) for rows in (with_it, without)]
            told.append(f"{pattern} {costs[0]:.1f} cycles (iii) with and {costs[1]:.1f} without")
    return f"Prefetchers: {', '.join(told)}. " if told else ""


def _huge(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    orders = measured_hashes(dataset)
    times, saved = fewer_times(dataset), time_saved(dataset)
    low = time_saved(dataset, "overlapped")
    stem = "huge-vmalloc"
    with style():
        figure = new_figure(3.1)
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_yscale("log")
        figure.subplots_adjust(left=0.085, right=0.985, top=0.78, bottom=0.17, wspace=0.2)
        for order, look in zip(orders, (CONTIGUOUS, Look(GREEN, (0, (1, 1.2)), "s"), SCATTERED), strict=False):
            share = 100 * (1 - reached_share(dataset).sel(hash_order=order).mean("seed")).values
            ranks = np.argsort(-share, kind="stable")
            label = f"hash of {format_bytes(PAGE_BYTES << order)}"
            for axes, values, thin in ((left, times, None), (right, saved, low)):
                y = values.sel(hash_order=order).mean("seed").values[ranks]
                kind: dict[str, Any] = {"color": look.colour, "linestyle": look.dashes}
                axes.plot(share[ranks], y, label=label, marker=look.marker, markersize=4, linewidth=1.5, **kind)
                if thin is not None:
                    under = thin.sel(hash_order=order).mean("seed").values[ranks]
                    axes.plot(share[ranks], under, linewidth=0.9, **kind)
        left.set_ylim(10, 2 * left.get_ylim()[1])
        right.set_ylim(0.03, 100)
        ratio = PUBLISHED_MISSES[0] / PUBLISHED_MISSES[1]
        for axes, value, text in (
            (left, ratio, f"published: {ratio:.0f}"),
            (right, PUBLISHED_FALL, f"published: {PUBLISHED_FALL} %"),
        ):
            axes.set_xlim(115, 0.85)
            axes.grid(axis="y")
            axes.axhline(value, color=MUTED, linewidth=1.0, linestyle=(0, (2, 2)))
            where = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
            axes.annotate(text, (0.01, value), (2, 3), fontsize=8, color=MUTED, **where)
            axes.set_xticks([100, 50, 10, 1], ["100", "50", "10", "1"])
            low_end, high_end = axes.get_ylim()
            shown = [
                each for each in (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if low_end <= each <= high_end
            ]
            axes.set_yticks(shown, [f"{each:,g}" for each in shown])
            axes.minorticks_off()
            axes.tick_params(labelsize=8)
            axes.set_xlabel("share of time in lookups, % (the rest: other work)", fontsize=8.5)
        left.set_title("TLB misses: times fewer with 2M entries", fontsize=9, loc="left")
        right.set_title("cycles saved by 2M entries, %", fontsize=9, loc="left")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper left", ncols=len(labels), fontsize=8.5, frameon=False, bbox_to_anchor=(0, 1)
        )
    save(figure, out, stem)
    return stem, "Huge vmalloc: misses and time", _huge_caption(dataset, orders[-1])


def _huge_caption(dataset: xr.Dataset, order: int) -> str:
    parts = [
        f"{row['other work']}: {row['times fewer']:,.0f} times, {row['cycles saved, serial %']:.2f} % "
        f"({row['cycles saved, overlapped %']:.2f})"
        for row in huge_table(dataset)
        if row["hash"] == format_bytes(PAGE_BYTES << order)
    ]
    needed = share_of_published(dataset)
    published = (
        ""
        if needed is None
        else f" The published {PUBLISHED_FALL} % would follow where about {needed:.1%} of time is other work."
    )
    return (
        f"Misses fall and cycles saved, serial (thin lines and brackets: overlapped), a hash of "
        f"{format_bytes(PAGE_BYTES << order)}, by the time of other work: {'; '.join(parts)}.{published} Published "
        f"(POWER9, git diff): misses {PUBLISHED_MISSES[0]:,} to {PUBLISHED_MISSES[1]:,}, cycles −{PUBLISHED_FALL} %; "
        "its share of other work is not known, so it is a line, not a point. Other work here has its pages in the "
        "TLB, so 2M entries leave nothing but first touches, and the factor grows with the lookups: "
        f"{parameters_of(dataset)['lookups']:,} here."
    )
