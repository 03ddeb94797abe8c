"""Cost against the size of a working set: one line for each way to reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from vclab.figures.style import BLUE, GREEN, MUTED, PURPLE, VERMILLION, new_figure, spread, style
from vclab.units import format_bytes

Floats = npt.NDArray[np.float64]
LEFT, RIGHT = 0.6, 2.3
#: Inches above and below a plot, and its height: in one piece, and split.
ABOVE, BELOW, PLAIN, SPLIT = 0.38, 0.76, 3.0, 2.3
TITLES = 0.42  # inches of the titles of split plots
#: Where the axis of cycles, a logarithmic one, has ticks.
CYCLES = (0.3, 1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000)


@dataclass(frozen=True)
class Look:
    """How a line is drawn, so that it can be told apart without colour too."""

    colour: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str
    width: float = 1.8

    @property
    def is_broad(self) -> bool:
        """Whether it is a band on which another line may lie."""
        return self.width > 3


#: Looks of curves in their order.
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
    name, label : str
        Short name, and what it means: written at the line's end.
    size, cost, low, high : ndarray
        Live bytes in ascending order, cycles per access, and their least and greatest over seeds.
    dot_size, dot_cost : ndarray
        Single measurements.
    floor : ndarray or None
        Lower bound of the cost, at the same sizes.
    """

    name: str
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
    """A title and its curves: in one plot, or if they have floors in a plot each, side by side."""

    title: str
    curves: Sequence[Curve]

    @property
    def is_split(self) -> bool:
        """Whether each curve has a plot of its own."""
        return any(curve.floor is not None for curve in self.curves)


@dataclass(frozen=True)
class Scale:
    """The axis that all plots share: live bytes in units of a TLB's reach."""

    unit: float
    smallest: float
    largest: float
    bottom: float
    top: float
    reaches: Sequence[tuple[float, str]]


def cost_curves(panels: Sequence[Panel], reaches: Sequence[tuple[float, str]], unit: float) -> Figure:
    """Draw cost against live bytes over TLB reach, panels one above the other.

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
    curves = [curve for panel in panels for curve in panel.curves]
    sizes = np.concatenate([curve.size for curve in curves])
    lowest = min(float(line.min()) for curve in curves for line in (curve.low, curve.floor) if line is not None)
    highest = max(float(curve.high.max()) for curve in curves)
    scale = Scale(unit, sizes.min() / unit, sizes.max() / unit, lowest, highest, reaches)
    with style():
        heights = [SPLIT + TITLES if panel.is_split else PLAIN for panel in panels]
        figure = new_figure(sum(heights) + (ABOVE + BELOW) * len(panels) - 0.16)
        top = figure.get_figheight()
        for panel, tall in zip(panels, heights, strict=True):
            _draw_panel(figure, panel, scale, top - ABOVE, tall)
            top -= ABOVE + tall + BELOW
        return figure


def _draw_panel(figure: Figure, panel: Panel, scale: Scale, top: float, tall: float) -> None:
    """Draw a panel that starts ``top`` inches above the figure's lower edge and is ``tall`` inches high."""
    width, height = figure.get_size_inches()
    figure.text(0.06 / width, (top + 0.16) / height, panel.title, fontsize=10, fontweight="bold")
    right = RIGHT if not panel.is_split else 0.42
    name, under = "live bytes ÷ reach of the second-level TLB with 4K entries", 0.27
    if not panel.is_split:
        name, under = f"{name}, and live bytes", 0.45
        axes = figure.add_axes((LEFT / width, (top - tall) / height, (width - LEFT - right) / width, tall / height))
        _prepare(axes, scale, named=True)
        for layer, (curve, look) in enumerate(zip(panel.curves, LOOKS, strict=False)):
            _draw_curve(axes, curve, look, scale, layer)
        _label_ends(axes, panel.curves, scale)
        _size_ticks(axes, scale, 9, with_bytes=True)
        axes.set_ylabel("cycles per access")
    else:
        _draw_split(figure, panel, scale, top, tall)
    centre = (LEFT + (width - LEFT - right) / 2) / width
    figure.text(centre, (top - tall - under) / height, name, ha="center", va="top", color="#333333")


def _draw_split(figure: Figure, panel: Panel, scale: Scale, top: float, tall: float) -> None:
    width, height = figure.get_size_inches()
    each = (width - LEFT) / len(panel.curves)
    for column, (curve, look) in enumerate(zip(panel.curves, LOOKS, strict=False)):
        left = (LEFT + column * each) / width
        axes = figure.add_axes((left, (top - tall) / height, (each - 0.4) / width, (tall - TITLES) / height))
        _prepare(axes, scale, named=False)
        axes.set_title(f"{curve.name}\n{curve.label}", fontsize=8, fontweight="normal", color=look.colour, pad=4)
        _draw_curve(axes, curve, look, scale, 0)
        _label_bounds(axes, curve, look, scale)
        _size_ticks(axes, scale, 4, with_bytes=False)
        if column:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("cycles per access")


def _prepare(axes: Axes, scale: Scale, *, named: bool) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(scale.smallest / 1.35, scale.largest * 1.35)
    axes.set_yscale("log")
    room = (scale.top / scale.bottom) ** (0.16 if named else 0.05)
    axes.set_ylim(scale.bottom / 1.15, scale.top * max(room, 1.15))
    ticks = [tick for tick in CYCLES if scale.bottom / 1.15 <= tick <= scale.top * 1.1]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(axis="y")
    left, right = axes.get_xlim()
    start = left
    for number, (end, name) in enumerate(scale.reaches):
        stop = min(max(end / scale.unit, left), right)
        if number % 2:
            axes.axvspan(start, stop, color="#f1f3f6", linewidth=0, zorder=0)
        if left < stop < right:
            axes.axvline(stop, color="#9aa3ad", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        if named and np.log2(stop / start) > 0.12 * np.log2(right / left):
            centre = float(np.sqrt(start * stop))
            where = axes.get_xaxis_transform()
            axes.text(centre, 0.985, name, transform=where, ha="center", va="top", fontsize=8, color=MUTED)
        start = stop


def _draw_curve(axes: Axes, curve: Curve, look: Look, scale: Scale, layer: int) -> None:
    x = curve.size / scale.unit
    broad = look.is_broad and curve.floor is None
    line = {"color": look.colour, "linestyle": look.dashes, "solid_capstyle": "butt"}
    if curve.floor is not None:
        axes.fill_between(x, curve.floor, curve.cost, color=look.colour, alpha=0.13, linewidth=0, zorder=2)
        axes.plot(x, curve.floor, linewidth=1.2, zorder=3, **line)  # type: ignore[arg-type]
    else:
        dots = {"linestyle": "", "marker": look.marker, "markersize": 3, "markeredgewidth": 0, "alpha": 0.3}
        axes.plot(curve.dot_size / scale.unit, curve.dot_cost, color=look.colour, zorder=3, **dots)  # type: ignore[arg-type]
    axes.vlines(x, curve.low, curve.high, color=look.colour, linewidth=1, zorder=4)
    axes.plot(
        x,
        curve.cost,
        linewidth=look.width if broad else 1.8,
        alpha=0.45 if broad else 1.0,
        marker="" if broad and len(x) > 1 else look.marker,
        markersize=4 if curve.floor is None else 2.6,
        zorder=4 + 0.1 * layer,
        **line,  # type: ignore[arg-type]
    )


def _label_ends(axes: Axes, curves: Sequence[Curve], scale: Scale) -> None:
    """Write each curve's last value and name to the right of it, moved apart where they would touch."""
    low, high = np.log(axes.get_ylim())
    gap = 0.075 * (high - low)
    ends = np.array([float(curve.cost[-1]) for curve in curves])
    first_on_top = 1e-6 * np.arange(len(ends))[::-1]
    places = np.exp(spread(np.log(ends) + first_on_top, gap, low + gap / 2, high - gap / 2))
    figure = axes.get_figure()
    assert figure is not None
    beside = axes.get_yaxis_transform() + ScaledTranslation(0.2, 0, figure.dpi_scale_trans)
    for curve, look, end, place in zip(curves, LOOKS, ends, places, strict=False):
        axes.annotate(
            f"{end:.1f}  {curve.name}  {curve.label}",
            xy=(float(curve.size[-1]) / scale.unit, end),
            xytext=(1.0, place),
            textcoords=beside,
            va="center",
            fontsize=8,
            color=look.colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": look.colour,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0.0, 0.5),
            },
        )


def _label_bounds(axes: Axes, curve: Curve, look: Look, scale: Scale) -> None:
    assert curve.floor is not None
    low, high = np.log(axes.get_ylim())
    ends = [float(curve.cost[-1]), float(curve.floor[-1])]
    places = np.exp(spread(np.log(ends), 0.07 * (high - low), low, high))
    for end, place in zip(ends, places, strict=True):
        axes.annotate(
            f"{end:.1f}",
            xy=(float(curve.size[-1]) / scale.unit, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=look.colour,
            annotation_clip=False,
        )


def _size_ticks(axes: Axes, scale: Scale, most: int, *, with_bytes: bool) -> None:
    """Put ticks at powers of two, at most so many, one of them at 1."""
    first, last = int(np.ceil(np.log2(scale.smallest))), int(np.floor(np.log2(scale.largest)))
    step = max(1, -(-(last - first + 1) // most))
    exponents = [exponent for exponent in range(first, last + 1) if exponent % step == 0]
    exponents = exponents or [round(np.log2(scale.smallest))]
    labels = [str(Fraction(2) ** exponent) for exponent in exponents]
    if with_bytes:
        labels = [
            f"{label}\n{format_bytes(scale.unit * 2.0**exponent)}"
            for label, exponent in zip(labels, exponents, strict=True)
        ]
    axes.set_xticks([2.0**exponent for exponent in exponents], labels, fontsize=8 if with_bytes else 7.5)
    axes.minorticks_off()
