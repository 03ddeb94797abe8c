"""The figures of the overhead study: memory by order, rounding, time by cause with its range, and flushes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from vclab.figures.bars import Bars, parts, stacked_bars
from vclab.figures.style import BLUE, GREEN, INK, VERMILLION, new_figure, save, style
from vclab.policies import HUGE_ORDER
from vclab.studies import Draw
from vclab.studies.overhead.claims import (
    FLUSH_CAUSES,
    latest,
    memory_shares,
    middle_order,
    per_page,
    taken_per_byte,
)
from vclab.studies.overhead.measure import BOUNDS, POLICIES, STATES
from vclab.units import PAGE_BYTES, format_bytes

Floats = npt.NDArray[np.float64]

#: Looks of lines, in order.
_LOOKS = ((GREEN, (0, (1, 1.2)), "s"), (VERMILLION, (0, (4, 1.5)), "D"), (BLUE, "-", "o"))
#: Causes that the bars put together.
_GROUPS = {
    "blocks": ("block allocation", "block free", "split", "merge"),
    "vmalloc area": ("area reservation", "area search", "area release"),
    "entries and tables": ("entry write", "table page"),
    "struct pages": ("struct page",),
    "zeroing": ("zeroing",),
    "flush, interrupts": FLUSH_CAUSES,
}
#: Orders whose bars are shown, where they were measured.
_SHOWN = (0, 3, 5, 9, 12)


def figures(dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each of the study's figures into a folder."""
    return [
        partial(_memory_by_order, dataset, out),
        partial(_rounding, dataset, out),
        partial(_time_by_cause, dataset, out, "allocate"),
        partial(_time_by_cause, dataset, out, "free"),
        partial(_flushes, dataset, out),
    ]


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.minorticks_off()


def _legend(figure: Figure, names: list[str]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, marker=marker, markersize=3.5, label=name)  # type: ignore[arg-type]
        for name, (colour, dashes, marker) in zip(names, _LOOKS, strict=False)
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=len(names), columnspacing=1.6)


def _memory_by_order(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    shares = memory_shares(dataset)
    lines = [(str(era), "vmalloc") for era in dataset["era"].values] + [(latest(dataset), "huge-vmalloc")]
    titles = {
        "attributed": "Attributed to structures",
        "marginal": "Newly taken frames",
        "retained": "Held after the free",
    }
    orders = dataset["order"].values
    with style():
        figure = new_figure(3.1)
        all_axes = figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.085, right=0.985, top=0.8, bottom=0.17, wspace=0.1)
        for axes, (name, title) in zip(all_axes, titles.items(), strict=True):
            axes.set_title(title, fontsize=9, fontweight="bold", loc="left")
            axes.set_yscale("log")
            axes.grid(axis="y")
            for (era, policy), (colour, dashes, marker) in zip(lines, _LOOKS, strict=False):
                share = 100 * shares[name].sel(era=era, policy=policy, state="aged").mean("seed")
                if policy == "huge-vmalloc":
                    # Below 2 MiB it is vmalloc.
                    share = share.where(share["order"] >= HUGE_ORDER)
                values = np.where(share.values > 0, share.values, np.nan)
                axes.plot(orders, values, color=colour, linestyle=dashes, marker=marker, markersize=3.5, linewidth=1.6)
            _percent(axes)
            axes.set_xticks([order for order in orders if order % 3 == 0])
        all_axes[0].set_ylabel("of the page’s own bytes")
        figure.supxlabel("order", fontsize=9, y=0.01, color="#333333")
        _legend(figure, [f"{policy}, structures of {era}" for era, policy in lines])
    stem = "memory-by-order"
    save(figure, out, stem)
    era, small, large = latest(dataset), int(orders[0]), int(orders[-1])
    of_vmalloc = shares["attributed"].sel(era=era, policy="vmalloc", state="aged").mean("seed")
    requests = int(dataset["requested"].max())
    caption = (
        f"Structures of {era} take {float(of_vmalloc.sel(order=small)):.2%} of a virtual page at order {small} and "
        f"{float(of_vmalloc.sel(order=large)):.2%} at order {large}; a physical page takes nothing. Newly taken frames "
        "are more at low orders, since tables and slabs come in whole frames, and what is retained are page tables, "
        f"which Linux never frees. Up to {requests} pages of each order on an aged machine, fewer where memory is "
        "short, so tables are shared by fewer pages there. Left out: per-CPU lists."
    )
    return stem, "Memory beside the page’s own, by order", caption


def _rounding(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    taken = taken_per_byte(dataset)
    asked = dataset["asked_pages"]
    names = [str(name) for name in dataset["rounding"].values]
    looks = dict(zip(names, (_LOOKS[2], _LOOKS[1], _LOOKS[0]), strict=True))
    with style():
        figure = new_figure(2.8)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.085, right=0.985, top=0.86, bottom=0.19)
        axes.set_xscale("log", base=2)
        axes.grid(axis="y")
        for name, (colour, dashes, marker) in looks.items():
            where = asked.values.ravel()
            order = np.unique(where, return_index=True)[1]
            values = taken.sel(rounding=name).transpose("order", "fraction").values.ravel()
            size = where[order] * PAGE_BYTES
            axes.plot(size, values[order], color=colour, linestyle=dashes, marker=marker, markersize=3, linewidth=1.4)
        places = 2.0 ** np.arange(12, int(np.log2(asked.max() * PAGE_BYTES)) + 1, 2)
        axes.set_xticks(places, [format_bytes(place) for place in places], fontsize=8)
        axes.minorticks_off()
        axes.set_ylabel("bytes taken ÷ asked for")
        axes.set_xlabel("bytes asked for")
        handles = [
            Line2D([], [], color=colour, linestyle=dashes, marker=marker, markersize=3, label=name)  # type: ignore[arg-type]
            for name, (colour, dashes, marker) in looks.items()
        ]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=len(names))
    stem = "rounding"
    save(figure, out, stem)
    mean = taken.mean(["order", "fraction"])
    caption = (
        "Both kinds of compound page round up to a power of two of pages: asked for a quarter more than one, they take "
        "1.6 times as much. vmalloc rounds to a page, huge-vmalloc to 2 MiB where it can. Means of all requests shown: "
        + ", ".join(f"{name} {float(mean.sel(rounding=name)):.3f}" for name in names)
        + ". Structures are included. Left out: alloc_pages_exact, which gives the tail back."
    )
    return stem, "What rounding takes", caption


def _shown_orders(dataset: xr.Dataset) -> list[int]:
    measured = dataset["order"].values.tolist()
    return [order for order in _SHOWN if order in measured] or measured[:4]


def _time_by_cause(dataset: xr.Dataset, out: Path, step: str) -> tuple[str, str, str]:
    each = per_page(dataset).sel(era=latest(dataset), step=step).mean("seed")
    orders = _shown_orders(dataset)
    where = [(policy, state) for policy in POLICIES for state in STATES]
    groups, ranges = [], []
    for order in orders:
        of_order = each.sel(order=order)
        rows = np.zeros((len(where), len(_GROUPS)))
        ends = np.full((len(where), 2), np.nan)
        for row, (policy, state) in enumerate(where):
            causes = of_order.sel(policy=policy, state=state)
            if not bool(np.isfinite(causes).all()):
                continue
            rows[row] = [float(causes.sel(bound="value", operation_cause=list(c)).sum()) for c in _GROUPS.values()]
            ends[row] = [float(causes.sel(bound=bound).sum()) for bound in ("low", "high")]
        groups.append(Bars(f"order {order}", format_bytes(float(PAGE_BYTES << order)), rows))
        ranges.append(ends)
    names = [f"{policy}, {state}" for policy, state in where]
    occurs = np.any([group.values.any(axis=0) for group in groups], axis=0)
    groups = [Bars(group.title, group.note, group.values[:, occurs]) for group in groups]
    stack = [part for part, is_there in zip(parts(list(_GROUPS)), occurs, strict=True) if is_there]
    figure = stacked_bars(groups, names, stack, "ns for each 4 KiB")
    highest = max(float(np.nanmax(ends)) for ends in ranges)
    for axes, ends in zip(figure.axes, ranges, strict=True):
        axes.set_xlim(0, highest * 1.02)
        served = np.isfinite(ends[:, 0])
        _keep_totals(axes, served)
        rows = np.arange(len(ends))[served]
        axes.hlines(rows + 0.44, ends[served, 0], ends[served, 1], color=INK, linewidth=0.9, zorder=5)
    stem = f"time-to-{step}"
    save(figure, out, stem)
    order = middle_order(dataset)
    totals = each.sel(order=order, state="aged").sum("operation_cause", skipna=False)
    listed = "; ".join(
        "{} {:,.0f} ns ({:,.0f} to {:,.0f})".format(policy, *totals.sel(policy=policy, bound=list(BOUNDS)).values)
        for policy in POLICIES
        if bool(np.isfinite(totals.sel(policy=policy)).all())
    )
    what, note = {
        "allocate": ("Allocating and clearing", ""),
        "free": ("Giving back", " Freeing flushes the range on all CPUs at once here."),
    }[step]
    caption = (
        f"{what} costs for each 4 KiB of a page of order {order}, aged: {listed}. Thin lines are the sums with all "
        "prices at the low and the high end of their ranges. A virtual page is made of single frames, so its cost for "
        f"each hardly falls with the order.{note} Left out: per-CPU lists, bulk allocation, lazy purges."
    )
    return stem, {"allocate": "The time of an allocation", "free": "The time of a free"}[step], caption


def _keep_totals(axes: Axes, served: npt.NDArray[np.bool_]) -> None:
    """Take the numbers out of bars that a longer axis has made too short for them; say which rows were not served."""
    for text in list(axes.texts):
        if text.get_horizontalalignment() == "center":
            text.remove()
        elif text.get_verticalalignment() == "center" and not served[round(text.get_position()[1])]:
            text.set_text("not served")
            text.set_fontweight("normal")
        elif text.get_text() in ("0", "0.0"):
            text.set_text("below 1")


def _flushes(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    shares = dataset["flush_cycles"].mean("seed").transpose("order", "regime", "share")
    orders = [order for order in _shown_orders(dataset) if int(dataset["waiting_pages"].sel(order=order).min())]
    groups = [
        Bars(f"order {order}", format_bytes(float(PAGE_BYTES << order)), shares.sel(order=order).values)
        for order in orders
    ]
    rows = [str(regime) for regime in dataset["regime"].values]
    stem = "flushes"
    save(stacked_bars(groups, rows, parts([str(name) for name in dataset["share"].values]), "cycles a free"), out, stem)
    order = middle_order(dataset)
    each = shares.sel(order=order).sum("share")
    low, high = (
        float(dataset[f"flush_cycles_{end}"].sel(order=order, regime=rows[1]).sum("share").mean())
        for end in ("low", "high")
    )
    share = json.loads(dataset.attrs["parameters"])["working_share"]
    caption = (
        f"At order {order} a flush of everything at each free costs {float(each.sel(regime=rows[1])):,.0f} cycles "
        f"({low:,.0f} to {high:,.0f} by the prices’ ranges), one of the range {float(each.sel(regime=rows[0])):,.0f}, "
        f"and a free’s part of a lazy purge {float(each.sel(regime=rows[2])):,.0f}. {dataset.sizes['cpu']} CPUs access "
        f"a working set that takes {share:.0%} of the second-level TLB, with and without the flush: the difference is "
        "the refill. Left out: interrupts that wait, and CPUs that sleep."
    )
    return stem, "What a flush costs, and whom", caption
