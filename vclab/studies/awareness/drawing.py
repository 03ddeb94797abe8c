"""The figures of the awareness study: cost of each operation by live bytes, and where the cycles go."""

from __future__ import annotations

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
from vclab.figures.style import BLUE, GREEN, MUTED, VERMILLION, new_figure, save, style
from vclab.ledger import ACCESS_CAUSES, DATA_CAUSES, OPERATION_CAUSES
from vclab.studies import Draw
from vclab.studies.awareness.claims import largest, live_bytes, per_operation
from vclab.studies.awareness.measure import INSTRUCTIONS
from vclab.units import PAGE_BYTES, format_bytes

Floats = npt.NDArray[np.float64]

#: Colour, dashes, marker and name of each kind.
_LOOKS = {
    "no fallback": (GREEN, (0, (1, 1.2)), "s", "kernel without the fallback"),
    "physical": (BLUE, "-", "o", "with it, physical page"),
    "virtual": (VERMILLION, (0, (4, 1.5)), "D", "with it, virtual page"),
}
#: Causes that the bars of lookups, and of freeing, put together.
_LOOKUP = {
    INSTRUCTIONS: (INSTRUCTIONS,),
    "words in caches": DATA_CAUSES[:3],
    "words in memory": DATA_CAUSES[3:],
    "translating them": ("second-level TLB hit", "page walk", "accessed and dirty update"),
}
_FLUSH = ("flush", "interrupt")
_FREE = {
    "finding the page": (INSTRUCTIONS, *ACCESS_CAUSES),
    "allocator and vmalloc area": tuple(cause for cause in OPERATION_CAUSES if cause not in _FLUSH),
    "flush and interrupts": _FLUSH,
}


def figures(dataset: xr.Dataset, out: Path) -> list[Draw]:
    """Return what writes each of the study's figures into a folder."""
    draws = (_cost_against_live_bytes, _lookups_by_cause, _free_by_cause)
    return [partial(draw, dataset, out) for draw in draws]


def _line(dataset: xr.Dataset, operation: str, kind: str, phase: str) -> tuple[Floats, Floats]:
    """Return distinct live bytes, and the mean cost over seeds of the median over orders that reach them."""
    cost = per_operation(dataset).sel(operation=operation, kind=kind, phase=phase)
    size = live_bytes(dataset).transpose("order", "live_pages").values
    table = cost.transpose("seed", "order", "live_pages").values
    distinct = np.unique(size)
    return distinct.astype(float), np.array([np.median(table[:, size == each], axis=1).mean() for each in distinct])


def _draw(dataset: xr.Dataset) -> Figure:
    operations = [str(name) for name in dataset["operation"].values]
    with style():
        figure = new_figure(3.2)
        all_axes = figure.subplots(1, len(operations), sharex=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.085, right=0.97, top=0.82, bottom=0.165, wspace=0.26)
        for axes, operation in zip(all_axes, operations, strict=True):
            axes.set_title(operation, fontsize=10, fontweight="bold", loc="left")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.grid(axis="y")
            for kind, (colour, dashes, marker, _) in _LOOKS.items():
                for phase in ("cold", "steady"):
                    size, cost = _line(dataset, operation, kind, phase)
                    look = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 3.5}
                    faint = phase == "cold"
                    axes.plot(size, cost, linewidth=1.0 if faint else 1.8, alpha=0.45 if faint else 1.0, **look)
            _ticks(axes)
        all_axes[0].set_ylabel("cycles per operation")
        figure.supxlabel("live bytes", fontsize=9, y=0.01, color="#333333")
        handles = [
            Line2D([], [], color=colour, linestyle=dashes, marker=marker, markersize=3.5, label=name)  # type: ignore[arg-type]
            for colour, dashes, marker, name in _LOOKS.values()
        ]
        handles.append(Line2D([], [], color=MUTED, linewidth=1.0, alpha=0.6, label="thin: cold"))
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=4, columnspacing=1.4)
        return figure


def _ticks(axes: Axes) -> None:
    low, high = (int(np.round(np.log2(limit))) for limit in axes.get_xlim())
    step = max(1, (high - low) // 4)
    places = 2.0 ** np.arange(-(-low // step) * step, high + 1, step)
    axes.set_xticks(places, [format_bytes(place) for place in places], fontsize=7.5)
    short = FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value / 1e3:g}k")
    axes.yaxis.set_major_formatter(short)
    axes.minorticks_off()


def _mean(dataset: xr.Dataset, operation: str, kind: str, phase: str) -> float:
    where = {"operation": operation, "kind": kind, "phase": phase, **largest(dataset)}
    return float(per_operation(dataset).sel(where).mean())


def _cost_against_live_bytes(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    stem = "cost-against-live-bytes"
    save(_draw(dataset), out, stem)
    size = format_bytes(float(live_bytes(dataset).sel(largest(dataset))))
    find = {phase: [_mean(dataset, "virt_to_page", kind, phase) for kind in _LOOKS] for phase in ("steady", "cold")}
    caption = (
        f"Over {size}, virt_to_page costs {find['steady'][0]:.0f} cycles without the fallback, {find['steady'][1]:.0f} "
        f"for a physical and {find['steady'][2]:.0f} for a virtual page when nothing else uses the caches, and "
        f"{find['cold'][0]:.0f}, {find['cold'][1]:.0f} and {find['cold'][2]:.0f} when they are empty. Without the "
        "fallback page_address is arithmetic; with it the struct page is read first, and for a virtual page holds the "
        "address. Heads of physical pages of a high order lie a power of two apart, so their struct pages share few "
        "sets of the first-level cache; virtual heads do not. Means of "
        f"{dataset.sizes['seed']} seeds, medians over the orders that reach the same live bytes. Left out: what else "
        "the caches hold."
    )
    return stem, "What coping with both kinds costs, by how much memory is live", caption


def _bars(cycles: xr.DataArray, groups: dict[str, tuple[str, ...]]) -> Floats:
    """Return sums of causes, float64[kinds, groups]."""
    sums = [cycles.sel(cause=list(causes)).sum("cause").transpose("kind").values for causes in groups.values()]
    return np.stack(sums, axis=1)


def _lookups_by_cause(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    cycles = dataset["cycles"].sel(**largest(dataset)).mean("seed")
    groups = [
        Bars(operation, phase, _bars(cycles.sel(operation=operation, phase=phase), _LOOKUP))
        for operation in ("page_address", "virt_to_page")
        for phase in ("steady", "cold")
    ]
    stem = "lookups-by-cause"
    rows = [look[3] for look in _LOOKS.values()]
    save(stacked_bars(groups, rows, parts(list(_LOOKUP)), "cycles per operation"), out, stem)
    walk = int(dataset["events"].sel(operation="virt_to_page", kind="virtual", event="data_access").isel(phase=0).sum())
    own = int(dataset["events"].sel(operation="virt_to_page", kind="physical", event="data_access").isel(phase=0).sum())
    performed = int(dataset["performed"].sel(operation="virt_to_page", kind="virtual").isel(phase=0).sum())
    caption = (
        f"A virtual page makes virt_to_page load {walk / performed:.1f} words instead of {own / performed:.1f}, one "
        "for each level of the page tables more. Largest working set. Left out: mispredicted branches, and overlap "
        "with the caller's own work."
    )
    return stem, "Where the cycles of a lookup go", caption


def _free_by_cause(dataset: xr.Dataset, out: Path) -> tuple[str, str, str]:
    gigahertz = float(dataset.attrs["gigahertz"])
    live, order = (largest(dataset)[name] for name in ("live_pages", "order"))
    of_free = dataset.sel(operation="free", phase="steady", live_pages=live).mean("seed")
    each = of_free["cycles"] / gigahertz / 2 ** dataset["order"]
    groups = [
        Bars(f"order {number}", format_bytes(float(PAGE_BYTES << number)), _bars(each.sel(order=number), _FREE))
        for number in dataset["order"].values.tolist()
    ]
    stem = "free-by-cause"
    rows = [look[3] for look in _LOOKS.values()]
    save(stacked_bars(groups, rows, parts(list(_FREE)), "ns for each 4 KiB given back"), out, stem)
    whole = of_free.sel(order=order)
    names = ("cycles_low", "cycles_high")
    low, high = (float(whole[name].sel(kind="virtual")) / gigahertz for name in names)
    total = whole["cycles"].sum("cause") / gigahertz
    caption = (
        f"Giving back a virtual page of order {order} costs {float(total.sel(kind='virtual')):,.0f} ns ({low:,.0f} to "
        f"{high:,.0f} by the prices’ ranges), a physical one {float(total.sel(kind='physical')):,.0f} ns: its frames "
        f"go back one by one, and every CPU forgets it at once. {live} live pages. Left out: per-CPU lists, lazy "
        "purges."
    )
    return stem, "Where the time of a free goes", caption
