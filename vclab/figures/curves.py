"""Cost against the size of a working set: one line for each way to reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vclab.figures.style import BLUE, GREEN, INK, MUTED, PURPLE, VERMILLION, new_figure, spread, style
from vclab.units import format_bytes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """How a line is drawn, so that it can be told apart without colour too."""

    colour: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str
    width: float = 1.8


#: Looks in drawing order; the second is a broad band that another line may lie on.
LOOKS = (
    Look(BLUE, "-", "o"),
    Look(GREEN, "-", "s", 5.0),
    Look(VERMILLION, (0, (4, 1.5)), "D"),
    Look(PURPLE, (0, (1, 1.2)), "^"),
)


@dataclass(frozen=True)
class Curve:
    """One line: cost at each size, the spread over seeds, and the single measurements it runs through.

    Attributes
    ----------
    label : str
        Written at the line's end.
    size, cost, low, high : ndarray
        Live bytes in ascending order, cycles per access, and their least and greatest over seeds.
    dot_size, dot_cost : ndarray
        Single measurements.
    floor : ndarray or None
        Lower bound of the cost, at the same sizes.
    """

    label: str
    size: Floats
    cost: Floats
    low: Floats
    high: Floats
    dot_size: Floats
    dot_cost: Floats
    floor: Floats | None = None


@dataclass(frozen=True)
class Panel:
    """A title and its curves."""

    title: str
    curves: Sequence[Curve]


def cost_curves(panels: Sequence[Panel], reaches: Sequence[tuple[float, str]], unit: float) -> Figure:
    """Draw cost against live bytes over TLB reach, one panel above the other on one axis.

    Parameters
    ----------
    panels : sequence of Panel
        Curves of one access pattern each.
    reaches : sequence of (bytes, str)
        Where a TLB level's reach ends, ascending, and what lies below that end; the last name, with infinite
        bytes, is for what lies beyond them all.
    unit : float
        Bytes that the axis counts in: the reach of the last TLB level.
    """
    with style():
        figure = new_figure(0.85 + 3.0 * len(panels))
        height = figure.get_figheight()
        all_axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        figure.subplots_adjust(left=0.075, right=0.765, top=1 - 0.3 / height, bottom=0.62 / height, hspace=0.2)
        sizes = np.concatenate([curve.size for panel in panels for curve in panel.curves])
        top = max(float(curve.high.max()) for panel in panels for curve in panel.curves)
        for axes, panel in zip(all_axes, panels, strict=True):
            axes.set_xscale("log", base=2)
            axes.set_xlim(sizes.min() / unit / 1.35, sizes.max() / unit * 1.35)
            axes.set_ylim(0, top * 1.22)
            axes.set_title(panel.title)
            axes.set_ylabel("cycles per access")
            axes.grid(axis="y")
            _mark_reaches(axes, reaches, unit)
            _draw_curves(axes, panel.curves, unit)
            _label_ends(axes, panel.curves, unit)
        _size_ticks(all_axes[-1], float(sizes.min()), float(sizes.max()), unit)
        return figure


def _mark_reaches(axes: Axes, reaches: Sequence[tuple[float, str]], unit: float) -> None:
    left, right = axes.get_xlim()
    start = left
    for number, (end, name) in enumerate(reaches):
        stop = min(max(end / unit, left), right)
        if number % 2:
            axes.axvspan(start, stop, color="#f2f4f7", linewidth=0, zorder=0)
        if left < end / unit < right:
            axes.axvline(end / unit, color="#9aa3ad", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        if np.log2(stop / start) > 0.12 * np.log2(right / left):
            centre = float(np.sqrt(start * stop))
            axes.text(centre, 0.985, name, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=8, color=MUTED)
        start = stop


def _draw_curves(axes: Axes, curves: Sequence[Curve], unit: float) -> None:
    for layer, (curve, look) in enumerate(zip(curves, LOOKS, strict=False)):
        broad = look.width > 3
        alpha = 0.45 if broad else 1.0
        x = curve.size / unit
        if curve.floor is not None:
            axes.fill_between(x, curve.floor, curve.cost, color=look.colour, alpha=0.1, linewidth=0, zorder=2)
            axes.plot(
                x, curve.floor, color=look.colour, linestyle=look.dashes, linewidth=look.width * 0.6, alpha=alpha, zorder=3
            )
        axes.plot(
            curve.dot_size / unit,
            curve.dot_cost,
            linestyle="",
            marker=look.marker,
            markersize=3,
            color=look.colour,
            alpha=0.25,
            markeredgewidth=0,
            zorder=3,
        )
        axes.vlines(x, curve.low, curve.high, color=look.colour, linewidth=1, zorder=4)
        axes.plot(
            x,
            curve.cost,
            color=look.colour,
            linestyle=look.dashes,
            linewidth=look.width,
            alpha=alpha,
            marker="" if broad else look.marker,
            solid_capstyle="butt",
            zorder=4 + 0.1 * layer,
        )


def _label_ends(axes: Axes, curves: Sequence[Curve], unit: float) -> None:
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    ends = [float(curve.cost[-1]) for curve in curves]
    places = spread([end + 0.001 * rank for rank, end in enumerate(reversed(ends))][::-1], gap, low + gap / 2, high - gap / 2)
    edge = axes.get_xlim()[1]
    for curve, look, end, place in zip(curves, LOOKS, ends, places, strict=False):
        axes.annotate(
            f"{curve.label}  {end:.1f}",
            xy=(float(curve.size[-1]) / unit, end),
            xytext=(edge * 1.45, place),
            textcoords="data",
            va="center",
            fontsize=8.5,
            color=look.colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": look.colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3},
        )


def _size_ticks(axes: Axes, smallest: float, largest: float, unit: float) -> None:
    first, last = int(np.ceil(np.log2(smallest / unit))), int(np.floor(np.log2(largest / unit)))
    step = max(1, (last - first) // 6)
    exponents = [exponent for exponent in range(first, last + 1) if exponent % step == 0]
    axes.set_xticks([2.0**exponent for exponent in exponents])
    axes.set_xticklabels([f"{Fraction(2) ** exponent}\n{format_bytes(unit * 2.0**exponent)}" for exponent in exponents])
    axes.minorticks_off()
    axes.set_xlabel("live bytes over the reach of the second-level TLB with 4K entries", color=INK)
