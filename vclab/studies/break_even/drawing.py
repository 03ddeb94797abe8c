"""The figures of the break-even study: maps of who wins, costs over a page's life, parts of the price, working sets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from vclab.figures.bars import Bars, parts, stacked_bars, without_empty
from vclab.figures.lifetimes import Lifetime, lifetime_curves
from vclab.figures.maps import Cell, MapPanel, blend, labelled_maps
from vclab.figures.style import BLUE, GREEN, INK, MUTED, PURPLE, VERMILLION, new_figure, save, style
from vclab.results import SEEDS_FOR_A_VERDICT
from vclab.studies import Draw
from vclab.studies.break_even.balance import Outcome, lifetime
from vclab.studies.break_even.claims import (
    ALL,
    ALL_CPUS,
    CALLER,
    FALLING_BACK,
    INSISTING,
    REFAULTS,
    cell_text,
    format_accesses,
    headline,
    large_order,
)

#: Powers of ten of accesses that colours go from and to.
SOON, LATE = 3.0, 9.0
_WAY = ("#7db8dd", "#f4f2ec", "#f0a273")
_COLOURS = {
    Outcome.AT_ONCE: BLUE,
    Outcome.NEVER: VERMILLION,
    Outcome.UNTIL: PURPLE,
    Outcome.OPEN: "#d9dde2",
    Outcome.EQUAL: "#d9dde2",
    Outcome.NOT_NEEDED: "#ffffff",
}
_ACCOUNTS = {CALLER: "the caller alone", ALL_CPUS: "all CPUs", REFAULTS: "and refaults"}
#: Causes that bars put together; the others have no part in this.
_GROUPS = {
    "blocks, struct pages": ("block allocation", "block free", "split", "merge", "struct page"),
    "vmalloc area": ("area reservation", "area search", "area release"),
    "entries and tables": ("entry write", "table page"),
    "flush, interrupts": ("flush", "interrupt"),
    "compaction": ("compaction scan", "migration", "copying"),
    "reclaim": ("reclaim scan", "reclaim"),
}
ACCESSES = tuple(10**power for power in range(2, 9))


def figures(dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each of the study's figures into a folder."""
    return [
        partial(_map, dataset, out, "serial"),
        partial(_map, dataset, out, "overlapped"),
        partial(_lifetimes, dataset, out),
        partial(_parts, dataset, out),
        partial(_working_sets, dataset, out),
    ]


def _cell(cell: xr.Dataset) -> Cell:
    outcome = Outcome(str(cell["outcome"].values))
    colour = _COLOURS.get(outcome)
    if colour is None:
        power = float(np.log10(max(float(cell["break_even"]), 1.0)))
        colour = blend(_WAY, (power - SOON) / (LATE - SOON))
    return Cell(cell_text(cell), colour)


def _map(dataset: xr.Dataset, out: Path, bound: str) -> tuple[str, str, str]:
    cpus, orders, patterns = (dataset[name].values.tolist() for name in ("cpu", "order", "pattern"))
    panels = []
    for account, name in _ACCOUNTS.items():
        shown = headline(dataset, account=account, bound=bound)
        panels.append(
            [
                MapPanel(
                    f"{cpu}, {name}",
                    [[_cell(shown.sel(cpu=cpu, order=o, pattern=p)) for p in patterns] for o in orders],
                )
                for cpu in cpus
            ]
        )
    legend = [
        Cell("at once", BLUE),
        Cell("after 1k accesses", _WAY[0]),
        Cell("1M", _WAY[1]),
        Cell("1G or more", _WAY[2]),
        Cell("never", VERMILLION),
        Cell("no difference, or open", _COLOURS[Outcome.EQUAL]),
    ]
    figure = labelled_maps(
        panels, [str(order) for order in orders], [_short(name) for name in patterns], "order", legend
    )
    stem = f"map-{bound}"
    save(figure, out, stem)
    live = int(dataset["live_pages"].values[-1])
    unserved = _unserved(dataset)
    few = dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT
    caption = (
        f"After how many accesses to each page insisting on contiguity has paid, over all requests, {live} pages live "
        f"at once, {bound} accesses (a chase cannot overlap). Numbers are the ratio of two means over "
        f"{dataset.sizes['seed']} machines: what insisting costs more at allocation and free, over what an access then "
        "saves; a difference whose 95 % interval includes zero counts as none, or leaves it open who wins"
        f"{' (too few seeds for intervals that decide)' if few else ''}; the numbers' own intervals, Fieller's, are in "
        "the results. Each row of maps adds to whose time counts: the caller's own; kswapd's, kcompactd's and "
        f"programs'; their wait for pages that reclaim took and they needed again. {unserved} Left out: first touches, "
        "waiting for locks."
    )
    return stem, f"From how many accesses on contiguity is worth its price ({bound})", caption


def _short(pattern: str) -> str:
    return {"sequential": "sequent.", "hash-table": "hash"}.get(pattern, pattern)


def _unserved(dataset: xr.Dataset) -> str:
    """Return which requests insisting could not serve, as a sentence."""
    unserved, needed = (dataset[name].sum("seed") for name in ("unserved", "needed"))
    failing = [int(order) for order in dataset["order"].values if int(unserved.sel(order=order))]
    if not failing:
        return "Insisting served every request."
    listed = ", ".join(
        f"{100 * float(unserved.sel(order=order) / needed.sel(order=order)):.0f} % at order {order}"
        for order in failing
    )
    return f"Of the requests that fell back insisting could not serve {listed}; they count with a counterfactual block."


def _lifetimes(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    cpu, pattern = str(dataset["cpu"].values[0]), str(dataset["pattern"].values[0])
    orders = dataset["order"].values.tolist()
    chosen = sorted({min(orders, key=lambda order: (abs(order - wanted), order)) for wanted in (3, 6, 9)})
    asked = dataset["answers"].isel(side=0).sum("answer")
    share = dataset["needed"] / asked
    steady = dataset["access_ns"].sel(cpu=cpu, pattern=pattern, phase="steady", bound="serial").isel(live_pages=-1)
    plots = []
    for order in chosen:
        cost = dataset["cost_ns"].sel(cpu=cpu, over=ALL, account=CALLER, order=order).mean("seed")
        access = steady.sel(order=order)
        physical = float(access.sel(kind="physical").mean())
        gain = access.sel(kind="virtual") - access.sel(kind="physical")
        mixed = physical + float((gain * share.sel(order=order)).mean())
        counts = np.array(ACCESSES)
        whole = [
            lifetime(float(cost.sel(side=side)), each, counts) / counts
            for side, each in ((INSISTING, physical), (FALLING_BACK, mixed))
        ]
        alone = [np.full(len(counts), each) for each in (physical, mixed)]
        plots.append(Lifetime(f"order {order}", counts, whole[0], whole[1], alone[0], alone[1]))
    stem = "lifetimes"
    save(lifetime_curves(plots, (INSISTING, FALLING_BACK)), out, stem)
    cells = headline(dataset, cpu=cpu, pattern=pattern, account=CALLER, bound="serial")
    crossings = "; ".join(f"order {order}: {cell_text(cells.sel(order=order))}" for order in chosen)
    live = int(dataset["live_pages"].values[-1])
    caption = (
        f"{cpu}, {pattern}, {live} pages live at once: ns per access for the caller with allocation and free shared "
        f"out over the accesses to a page, steady and serial. Full lines cross where it has paid ({crossings}). "
        "Falling back is a mix: most requests of small orders are served physically either way. Left out: first "
        "touches, other CPUs' time."
    )
    return stem, "What an access costs with a share of allocation and free", caption


def _parts(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    orders = dataset["order"].values.tolist()
    chosen = sorted({min(orders, key=lambda order: (abs(order - wanted), order)) for wanted in (5, 9)})
    time = dataset["work_ns"].isel(cpu=0).sel(over=ALL).mean("seed") / 1000
    groups = []
    for order in chosen:
        for name, who in (("the caller", ["allocation", "free"]), ("other CPUs", ["background", "programs"])):
            spent = time.sel(order=order, part=who).sum("part")
            values = [
                [float(spent.sel(side=s, operation_cause=list(c)).sum()) for c in _GROUPS.values()]
                for s in time["side"].values
            ]
            groups.append(Bars(f"order {order}, {name}", "", np.array(values)))
    shown, stack = without_empty(groups, parts(list(_GROUPS)))
    stem = "parts-of-the-price"
    figure = stacked_bars(shown, [INSISTING, FALLING_BACK], stack, "us of CPU time a request", shared=False)
    save(figure, out, stem)
    order = chosen[-1]
    reclaimed = dataset["work"].sel(operation="page_reclaimed", over=ALL, order=order).sum("part").mean("seed")
    asked = float(dataset["answers"].isel(side=0, seed=0).sel(order=order).sum())
    caption = (
        "Mean CPU time of a request, its page's free included, by cause; each plot has a scale of its own. Other CPUs "
        "run kswapd, kcompactd, and programs that bring pages back. At order "
        f"{order} reclaim takes {float(reclaimed.sel(side=INSISTING)) / asked:,.0f} pages a request where callers "
        f"insist and {float(reclaimed.sel(side=FALLING_BACK)) / asked:,.0f} where they fall back, whose quick try "
        "wakes kswapd all the same. Left out: waiting for devices."
    )
    return stem, "What insisting and falling back spend their time on", caption


def _working_sets(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    cpus, patterns = dataset["cpu"].values.tolist(), dataset["pattern"].values.tolist()[:3]
    looks = ((BLUE, "-", "o"), (GREEN, (0, (1, 1.2)), "s"), (VERMILLION, (0, (4, 1.5)), "D"))
    order = large_order(dataset)
    shown = dataset[["outcome", "break_even"]].sel(over=ALL, account=CALLER, bound="serial", order=order)
    numbers = shown["break_even"].where(shown["outcome"] == str(Outcome.AFTER))
    drawn = numbers.sel(pattern=patterns)
    never_drawn = bool((shown["outcome"].sel(pattern=patterns) == str(Outcome.NEVER)).any())
    top = 3 * (float(drawn.max()) if bool(drawn.notnull().any()) else 1e6)
    pages = dataset["live_pages"].values
    with style():
        figure = new_figure(2.9)
        all_axes = figure.subplots(1, len(cpus), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.085, right=0.985, top=0.79, bottom=0.17, wspace=0.08)
        for axes, cpu in zip(all_axes, cpus, strict=True):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.grid(axis="y")
            axes.set_title(cpu, fontsize=9.5, loc="left")
            reach = float(dataset["second_level_reach"].sel(cpu=cpu))
            sizes = pages * float(4096 << order) / reach
            for pattern, (colour, dashes, marker) in zip(patterns, looks, strict=False):
                line = numbers.sel(cpu=cpu, pattern=pattern).values
                axes.plot(sizes, line, color=colour, linestyle=dashes, marker=marker, markersize=4, label=pattern)
                never = (shown["outcome"].sel(cpu=cpu, pattern=pattern) == str(Outcome.NEVER)).values
                axes.plot(sizes[never], np.full(int(never.sum()), top), marker="x", linestyle="", color=colour)
            axes.axvline(1.0, color="#9aa3ad", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
            if never_drawn:
                axes.set_ylim(top=2 * top)
            axes.set_xticks(sizes, [f"{size:.2g}" if size < 10 else f"{size:.0f}" for size in sizes], fontsize=8.5)
            axes.minorticks_off()
        all_axes[0].set_ylabel("accesses until it has paid")
        figure.text(0.53, 0.015, "live bytes ÷ reach of the second-level TLB with 4K entries", ha="center", color=MUTED)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=4, labelcolor=INK)
    stem = "working-sets"
    save(figure, out, stem)
    least, most = (float(pick()) for pick in (drawn.min, drawn.max))
    span = f"from {format_accesses(least)} to {format_accesses(most)}" if np.isfinite(least) else "never, in every case"
    caption = (
        f"Accesses to each page of order {order} after which insisting has paid for the caller, serial, against the "
        f"size of {', '.join(str(int(count)) for count in pages)} live pages: {span}. "
        + ("Crosses at the top: never, a virtual page is as cheap to access there. " if never_drawn else "")
        + "Dashed: all live bytes within the TLB's reach. Left out: other work that shares the TLB."
    )
    return stem, "The larger the working set, the sooner contiguity pays", caption
