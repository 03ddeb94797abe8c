"""Stacked bars: where cycles go, and who gets served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vclab.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    new_figure,
    readable_on,
    style,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One part of every bar: its name in the legend, colour and hatching."""

    name: str
    colour: str
    hatch: str = ""

    @property
    def edge(self) -> str:
        """Colour of its outline and hatching."""
        return MUTED if self.colour == "#ffffff" else "#ffffff"


#: Looks for parts without a look of their own, in order.
PART_LOOKS = (
    (GREY, ""),
    (SKY, "\\\\\\\\"),
    (ORANGE, "////"),
    (VERMILLION, "xxxx"),
    (BLUE, "||||"),
    ("#f0e442", "----"),
    (GREEN, ""),
    (PURPLE, "...."),
    (INK, ""),
    ("#ffffff", "++++"),
    ("#cc79a7", "\\\\"),
    (BLUE, ""),
    (VERMILLION, ""),
    ("#ffffff", "oooo"),
)
#: Parts in one line of a legend.
LEGEND_COLUMNS = 5
SERVED = (Part("physically contiguous", BLUE), Part("virtually contiguous", ORANGE, "////"), Part("failed", "#ffffff"))


@dataclass(frozen=True)
class Bars:
    """A plot of stacked bars: title, a quieter note beside or below it, and float64[rows, parts]."""

    title: str
    note: str
    values: Floats


def parts(names: Sequence[str]) -> list[Part]:
    """Return parts with looks in turn."""
    return [Part(name, *PART_LOOKS[row % len(PART_LOOKS)]) for row, name in enumerate(names)]


def without_empty(groups: Sequence[Bars], stack: Sequence[Part]) -> tuple[list[Bars], list[Part]]:
    """Return groups and parts without the parts that are nothing in every bar."""
    used = np.flatnonzero(sum(np.abs(group.values).sum(axis=0) for group in groups) > 0)
    return [Bars(group.title, group.note, group.values[:, used]) for group in groups], [
        stack[int(part)] for part in used
    ]


def stacked_bars(
    groups: Sequence[Bars], rows: Sequence[str], stack: Sequence[Part], unit: str, *, shared: bool = True
) -> Figure:
    """Draw horizontal stacked bars, one group below the other, values written where they fit.

    Parameters
    ----------
    groups : sequence of Bars
        Plots.
    rows : sequence of str
        Names of the bars of every group.
    stack : sequence of Part
        Parts of every bar.
    unit : str
        Label of the axis.
    shared : bool
        One axis for all groups; otherwise each has its own.
    """
    with style():
        each = 0.24 * len(rows)
        gap = 0.42 if shared else 0.62
        legend = 0.2 * (-(-len(stack) // LEGEND_COLUMNS) - 1)
        height = 0.95 + legend + len(groups) * (each + gap)
        figure = new_figure(height)
        all_axes = figure.subplots(len(groups), 1, sharex=shared, squeeze=False)[:, 0]
        top = 1 - (0.72 + legend) / height
        figure.subplots_adjust(left=0.255, right=0.985, top=top, bottom=0.5 / height, hspace=gap / each)
        totals = [float(group.values.sum(1).max()) for group in groups]
        for axes, group, total in zip(all_axes, groups, totals, strict=True):
            longest = max(totals) if shared else total
            axes.set_xlim(0, longest * 1.1)
            axes.grid(axis="x")
            axes.annotate(group.title, (0, 1), (-132, 7), **_CORNER, fontsize=10, fontweight="bold")
            axes.annotate(group.note, (0, 1), (0, 7), **_CORNER, fontsize=9, color=MUTED)
            digits = 1 if longest < 1000 else 0
            _draw_rows(axes, group.values, stack, lambda value, digits=digits: f"{value:,.{digits}f}")  # type: ignore[misc]
            for row, bar in enumerate(group.values.sum(1)):
                place = bar + 0.008 * longest
                axes.text(place, row, f"{bar:,.{digits}f}", va="center", fontsize=8.5, fontweight="bold", color=INK)
            axes.set_yticks(range(len(rows)), rows)
        all_axes[-1].set_xlabel(unit)
        _legend(figure, stack)
        return figure


_CORNER = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}


def served_bars(groups: Sequence[Bars], rows: Sequence[str], stack: Sequence[Part] = SERVED) -> Figure:
    """Draw shares of requests, policies side by side, one bar for each order.

    Parameters
    ----------
    groups : sequence of Bars
        Plots: shares, 0 to 1, under each policy.
    rows : sequence of str
        Names of the orders.
    stack : sequence of Part
        What may become of a request.
    """
    with style():
        across = min(len(groups), 3)
        down = -(-len(groups) // across)
        head = 0.14 + 0.17 * max(group.title.count("\n") + group.note.count("\n") + 2 for group in groups)
        each = 0.27 * len(rows)
        height = 0.28 + down * (head + each + 0.24) + 0.23
        figure = new_figure(height)
        all_axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        figure.subplots_adjust(
            left=0.16,
            right=0.965,
            top=1 - (head + 0.28) / height,
            bottom=0.47 / height,
            wspace=0.16,
            hspace=(head + 0.24) / each,
        )
        for axes, group in zip(all_axes, groups, strict=False):
            over_note = 6 + 11 * (group.note.count("\n") + 1)
            axes.annotate(group.note, (0, 1), (0, 4), **_CORNER, fontsize=8.5, color=MUTED)
            axes.annotate(group.title, (0, 1), (0, over_note), **_CORNER, fontsize=10, fontweight="bold")
            axes.set_xlim(0, 100)
            _draw_rows(axes, 100 * group.values, stack, lambda value: f"{value:.0f}")
            axes.set_xticks([0, 50, 100])
            axes.tick_params(labelbottom=True)
        for axes in all_axes[len(groups) :]:
            axes.set_axis_off()
        all_axes[0].set_yticks(range(len(rows)), rows)
        figure.text(0.5625, 0.06 / height, "share of requests, %", ha="center", color="#333333")
        _legend(figure, stack)
        return figure


def _draw_rows(axes: Axes, values: Floats, stack: Sequence[Part], text: Callable[[float], str]) -> None:
    """Draw one bar per row, the first at the top, and write each value that fits into its part."""
    axes.set_ylim(len(values) - 0.42, -0.58)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure = axes.get_figure()
    assert figure is not None
    inches = axes.get_position().width * figure.get_figwidth()  # type: ignore[union-attr]
    per_character = axes.get_xlim()[1] / inches * 0.085
    starts = np.zeros(len(values))
    for column, part in enumerate(stack):
        widths = values[:, column]
        look = {"color": part.colour, "hatch": part.hatch, "edgecolor": part.edge, "linewidth": 0.5}
        there = np.flatnonzero(widths)
        axes.barh(there, widths[there], left=starts[there], height=0.76, **look)  # type: ignore[arg-type]
        for row, width in enumerate(widths):
            label = text(float(width))
            if width < per_character * len(label):
                continue
            written = axes.text(starts[row] + width / 2, row, label, ha="center", va="center", fontsize=8)
            written.set_color(readable_on(part.colour))
            if part.hatch:
                written.set_bbox({"facecolor": part.colour, "edgecolor": "none", "pad": 1.0})
        starts = starts + widths


def _legend(figure: Figure, stack: Sequence[Part]) -> None:
    handles = [Patch(facecolor=part.colour, hatch=part.hatch, edgecolor=part.edge, label=part.name) for part in stack]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.02 / figure.get_figheight()),
        ncols=min(len(stack), LEGEND_COLUMNS),
        handlelength=1.5,
        handleheight=1.0,
        columnspacing=1.6,
        borderaxespad=0.2,
    )
