"""Stacked bars: where cycles go, and who gets served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vclab.figures.style import BLUE, GREY, INK, MUTED, ORANGE, SKY, VERMILLION, new_figure, readable_on, style

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One part of every bar: its name in the legend, colour and hatching."""

    name: str
    colour: str
    hatch: str = ""


#: Looks for parts without a look of their own, in order.
PART_LOOKS = ((GREY, ""), (SKY, "...."), (ORANGE, "////"), (VERMILLION, "xxxx"), (BLUE, "\\\\\\\\"), ("#f0e442", "||||"))
SERVED = (Part("physical", BLUE), Part("virtual", ORANGE, "////"), Part("failed", "#ffffff", "...."))


def parts(names: Sequence[str]) -> list[Part]:
    """Return parts with looks in turn."""
    return [Part(name, *PART_LOOKS[row % len(PART_LOOKS)]) for row, name in enumerate(names)]


def stacked_bars(
    groups: Sequence[tuple[str, Floats]], rows: Sequence[str], stack: Sequence[Part], unit: str
) -> Figure:
    """Draw horizontal stacked bars, one group below the other on one axis, values written where they fit.

    Parameters
    ----------
    groups : sequence of (str, float64[rows, parts])
        Title and heights of each group.
    rows : sequence of str
        Names of the bars of every group.
    stack : sequence of Part
        Parts of every bar.
    unit : str
        Label of the axis.
    """
    with style():
        each = 0.24 * len(rows)
        height = 0.95 + len(groups) * (each + 0.42)
        figure = new_figure(height)
        all_axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        figure.subplots_adjust(
            left=0.27, right=0.965, top=1 - 0.72 / height, bottom=0.5 / height, hspace=0.42 / each
        )
        longest = max(float(values.sum(1).max()) for _, values in groups)
        for axes, (title, values) in zip(all_axes, groups, strict=True):
            axes.set_xlim(0, longest * 1.1)
            axes.set_title(title, x=-0.355, pad=5)
            axes.grid(axis="x")
            _draw_rows(axes, values, stack, lambda value: f"{value:.1f}")
            for row, total in enumerate(values.sum(1)):
                axes.text(
                    total + 0.008 * longest, row, f"{total:.1f}", va="center", fontsize=8.5, fontweight="bold", color=INK
                )
            axes.set_yticks(range(len(rows)), rows)
        all_axes[-1].set_xlabel(unit)
        _legend(figure, stack, height)
        return figure


def served_bars(
    groups: Sequence[tuple[str, Floats]], rows: Sequence[str], stack: Sequence[Part] = SERVED
) -> Figure:
    """Draw shares of requests, policies side by side, one bar for each order.

    Parameters
    ----------
    groups : sequence of (str, float64[rows, parts])
        Title and shares, 0 to 1, of each policy.
    rows : sequence of str
        Names of the orders.
    stack : sequence of Part
        What may become of a request.
    """
    with style():
        height = 1.15 + 0.27 * len(rows)
        figure = new_figure(height)
        all_axes = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.145, right=0.975, top=1 - 0.68 / height, bottom=0.47 / height, wspace=0.09)
        for axes, (title, values) in zip(all_axes, groups, strict=True):
            axes.set_title(title, pad=5)
            axes.set_xlim(0, 100)
            _draw_rows(axes, 100 * values, stack, lambda value: f"{value:.0f}")
            axes.set_xticks([0, 50, 100])
        all_axes[0].set_yticks(range(len(rows)), rows)
        figure.text(0.56, 0.08 / height, "share of requests, %", ha="center", color="#333333")
        _legend(figure, stack, height)
        return figure


def _draw_rows(axes: Axes, values: Floats, stack: Sequence[Part], text: Callable[[float], str]) -> None:
    """Draw one bar per row, the first at the top, and write each value that fits into its part."""
    axes.set_ylim(len(values) - 0.42, -0.58)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    room = axes.get_xlim()[1] * 0.055 * (1 if axes.get_position().width > 0.5 else 2.4)
    starts = np.zeros(len(values))
    for column, part in enumerate(stack):
        widths = values[:, column]
        axes.barh(
            np.arange(len(values)),
            widths,
            left=starts,
            height=0.76,
            color=part.colour,
            hatch=part.hatch,
            edgecolor=_hatch_colour(part),
            linewidth=0.5,
        )
        for row in np.flatnonzero(widths >= room):
            label = axes.text(
                starts[row] + widths[row] / 2,
                row,
                text(float(widths[row])),
                ha="center",
                va="center",
                fontsize=8,
                color=readable_on(part.colour),
            )
            if part.hatch:
                label.set_bbox({"facecolor": part.colour, "edgecolor": "none", "pad": 1.2})
        starts = starts + widths


def _hatch_colour(part: Part) -> str:
    return MUTED if part.colour == "#ffffff" else "#ffffff"


def _legend(figure: Figure, stack: Sequence[Part], height: float) -> None:
    handles = [
        Patch(facecolor=part.colour, hatch=part.hatch, edgecolor=_hatch_colour(part), label=part.name) for part in stack
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.02 / height),
        ncols=len(stack),
        handlelength=1.5,
        handleheight=1.0,
        columnspacing=1.6,
        borderaxespad=0.2,
    )
