"""The figures of the unmap study: cost against CPUs, who pays, all CPUs at once, and the table of 2008."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vclab.figures.bars import Bars, parts, stacked_bars
from vclab.figures.style import BLUE, GREEN, INK, PURPLE, VERMILLION, new_figure, save, style
from vclab.studies import Draw
from vclab.studies.unmap.claims import totals
from vclab.studies.unmap.measure import middle_order

#: Looks of regimes; flushes by broadcast are drawn thin.
_LOOKS = {"eager": (VERMILLION, (0, (4, 1.5)), "D"), "2.6.28": (GREEN, (0, (1, 1.2)), "s"), "lazy": (BLUE, "-", "o")}
_NAMES = {"eager": "eager (2.6.24)", "2.6.28": "lazy (2.6.28)", "lazy": "lazy, nodes (6.18)"}
#: CPUs whose bars are shown, where they were measured.
_SHOWN = (1, 2, 8, 64)


def figures(dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each of the study's figures into a folder."""
    draws = (_against_cpus, _parts, _at_once, _table_of_2008)
    return [partial(draw, dataset, out) for draw in draws]


def _prepare(axes: Axes, counts: list[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.set_xlabel(label)


def _legend(figure: Figure, dataset: xr.Dataset) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, marker=marker, markersize=3.5, label=_NAMES[regime])  # type: ignore[arg-type]
        for regime, (colour, dashes, marker) in _LOOKS.items()
    ]
    if "invlpgb" in dataset["mechanism"].values:
        handles.append(Line2D([], [], color=INK, linewidth=0.8, marker="x", markersize=3.5, label="thin: by broadcast"))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=len(handles), columnspacing=1.4)


def _lines(axes: Axes, dataset: xr.Dataset, values: xr.DataArray) -> None:
    """Draw a line for each regime and mechanism over the numbers of CPUs."""
    for regime, (colour, dashes, marker) in _LOOKS.items():
        for mechanism in dataset["mechanism"].values.tolist():
            thin = mechanism != "ipi"
            axes.plot(
                dataset["cpus"].values,
                values.sel(regime=regime, mechanism=mechanism).values,
                color=colour,
                linestyle=dashes,
                marker="x" if thin else marker,
                markersize=3.5,
                linewidth=0.8 if thin else 1.6,
            )


def _against_cpus(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    order = middle_order(dataset["order"].values.tolist())
    cycles = dataset["free_cycles"].sum("part").mean("seed").sel(order=order)
    counts = dataset["cpus"].values.tolist()
    with style():
        figure = new_figure(3.0)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.1, right=0.985, top=0.87, bottom=0.16)
        _prepare(axes, counts, "CPUs")
        _lines(axes, dataset, cycles.sel(bound="value"))
        for regime, (colour, _, _) in _LOOKS.items():
            low, high = (cycles.sel(bound=end, regime=regime, mechanism="ipi").values for end in ("low", "high"))
            axes.fill_between(counts, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_ylabel("cycles of all CPUs a free")
        _legend(figure, dataset)
    stem = "cost-against-cpus"
    save(figure, out, stem)
    many = counts[-1]
    eager, lazy = (totals(dataset, regime).mean("seed") for regime in ("eager", "lazy"))
    shared = float(dataset["frees_per_flush"].sel(regime="lazy", order=order, cpus=many).mean())
    caption = (
        f"One CPU frees a virtual page of order {order} while the others work. With a flush of all CPUs at each free "
        f"it costs {float(eager.sel(cpus=counts[0])):,.0f} cycles on {counts[0]} CPU and "
        f"{float(eager.sel(cpus=many)):,.0f} on {many}, all CPUs' together, since each other CPU is interrupted, "
        f"flushes and loads again. Lazily it costs {float(lazy.sel(cpus=many)):,.0f} on {many}: {shared:,.0f} frees "
        "share one flush there, under either lazy regime. Shaded: all prices at the low and high ends of their ranges. "
        "Left out: sleeping CPUs, interrupts that are off when asked for."
    )
    return stem, "What a free costs, by the number of CPUs", caption


def _parts(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    order = middle_order(dataset["order"].values.tolist())
    cycles = dataset["free_cycles"].sel(bound="value", order=order).mean("seed") / 1000
    mechanisms = dataset["mechanism"].values.tolist()
    rows = [(regime, mechanism) for regime in ("eager", "lazy") for mechanism in mechanisms]
    shown = [count for count in _SHOWN if count in dataset["cpus"].values] or dataset["cpus"].values.tolist()[:4]
    groups = [
        Bars(
            f"{count} CPU{'s' * (count > 1)}",
            "",
            np.stack(
                [cycles.sel(cpus=count, regime=regime, mechanism=way).transpose("part").values for regime, way in rows]
            ),
        )
        for count in shown
    ]
    names = [f"{regime}, {'interrupts' if way == 'ipi' else 'broadcast'}" for regime, way in rows]
    stem = "parts-of-a-free"
    stack = parts([str(name) for name in dataset["part"].values])
    save(stacked_bars(groups, names, stack, "thousands of cycles of all CPUs a free", shared=False), out, stem)
    most = cycles.sel(cpus=shown[-1], regime="eager", mechanism="ipi")
    listed = ", ".join(f"{name} {1000 * float(most.sel(part=name)):,.0f}" for name in most["part"].values)
    caption = (
        f"Cycles of one free of order {order} by part; each plot has a scale of its own. Eagerly on {shown[-1]} CPUs: "
        f"{listed}. Refills are differences: the same accesses on both sides of the flush, with and without it, over a "
        "working set on every CPU. Left out: misses of other work in the meantime."
    )
    return stem, "Who pays for a free", caption


def _at_once(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    counts = dataset["cpus"].values.tolist()
    busy = dataset["busy_cycles"]
    with style():
        figure = new_figure(2.8)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.1, right=0.985, top=0.86, bottom=0.17)
        _prepare(axes, counts, "CPUs, all of which free")
        _lines(axes, dataset, busy)
        axes.set_ylabel("cycles from free to free")
        _legend(figure, dataset)
    stem = "all-free-at-once"
    save(figure, out, stem)
    many = counts[-1]
    order = middle_order(dataset["order"].values.tolist())
    caption = (
        f"Every CPU frees pages of order {order} one after another, on the event queue. With a flush at each free, "
        "under the lock over the areas, they wait for each other: "
        f"{float(busy.sel(regime='eager', mechanism='ipi', cpus=many)):,.0f} cycles from one free of a CPU to its next "
        f"on {many} CPUs, {float(busy.sel(regime='lazy', mechanism='ipi', cpus=many)):,.0f} lazily. One outcome, no "
        "randomness. Left out: contention for the pages themselves."
    )
    return stem, "All CPUs free at once", caption


def _table_of_2008(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    threads = dataset["threads"].values.tolist()
    fitted = dataset["vmap_fitted"].values.astype(bool)
    looks = {"eager": (VERMILLION, "before (2.6.27)"), "blocks": (PURPLE, "after (2.6.28)")}
    with style():
        figure = new_figure(2.6)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.1, right=0.985, top=0.85, bottom=0.18)
        _prepare(axes, threads, "threads")
        for row, (regime, (colour, _)) in enumerate(looks.items()):
            model = dataset["vmap_model"].sel(vmap=regime).values
            axes.plot(threads, model, color=colour, linewidth=1.4)
            axes.plot(threads, dataset["vmap_measured"].sel(vmap=regime).values, "o", color=INK, markersize=4.5)
            if fitted[row].any():
                places = np.array(threads)[fitted[row]]
                axes.plot(places, model[fitted[row]], "s", markersize=9, markerfacecolor="none", markeredgecolor=colour)
        ticks = [3_000, 10_000, 30_000, 70_000]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_ylabel("ns a round of each thread")
        handles = [Line2D([], [], color=colour, label=f"model, {name}") for colour, name in looks.values()]
        handles.append(Line2D([], [], color=INK, marker="o", linestyle="", markersize=4.5, label="measured"))
        square = {"marker": "s", "linestyle": "", "markersize": 8, "markerfacecolor": "none"}
        handles.append(Line2D([], [], color=INK, label="fitted there", **square))  # type: ignore[arg-type]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=len(handles))
    stem = "table-of-2008"
    save(figure, out, stem)
    error = dataset["vmap_model"] / dataset["vmap_measured"] - 1
    cells = "; ".join(
        f"{looks[regime][1]}, "
        + ", ".join(f"{count}: {float(error.sel(vmap=regime, threads=count)):+.1%}" for count in threads)
        for regime in looks
    )
    caption = (
        "Map, touch and unmap four pages on two quad-core Opterons, measured by Nick Piggin in 2008, and the model on "
        f"the event queue. Errors by threads: {cells}. Two numbers are fitted on the two cells in squares: "
        f"{dataset.attrs['vmap_work_ns']:,.0f} ns of mapping work and {dataset.attrs['vmap_flush_ns']:,.0f} ns for a "
        "CPU's flush. Left out: what machine and kernel exactly, which the message does not say; estimates of lines "
        "and interrupts were made with the table in view (vclab vmap-cost --effects)."
    )
    return stem, "The table of 2008: fitted and predicted", caption
