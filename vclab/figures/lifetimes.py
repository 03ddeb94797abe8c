"""Cost per access against how often a page is used between allocation and free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from vclab.figures.style import BLUE, MUTED, VERMILLION, new_figure, style

Floats = npt.NDArray[np.float64]

_SMALL_DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Lifetime:
    """One plot: nanoseconds per access of both kinds of page at each number of accesses.

    Attributes
    ----------
    title : str
    accesses : ndarray
        Ascending.
    physical, virtual : ndarray
        Accesses and a share of making and freeing the page.
    physical_access, virtual_access : ndarray
        Accesses alone.
    """

    title: str
    accesses: npt.NDArray[np.int64]
    physical: Floats
    virtual: Floats
    physical_access: Floats
    virtual_access: Floats


def _power(value: float) -> str:
    """Return a power of ten in the font's own small digits: to set a formula takes longer than all else of a plot."""
    return "10" + str(round(np.log10(value))).translate(_SMALL_DIGITS)


def lifetime_curves(plots: Sequence[Lifetime], names: tuple[str, str] = ("physical", "virtual")) -> Figure:
    """Draw plots side by side on equal axes: with the page's own cost (full lines), and accesses alone (thin).

    Parameters
    ----------
    plots : sequence of Lifetime
    names : (str, str)
        What physical and virtual are called.
    """
    physical, virtual = names
    with style():
        figure = new_figure(3.2)
        all_axes = figure.subplots(1, len(plots), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.085, right=0.985, top=0.79, bottom=0.155, wspace=0.08)
        for axes, plot in zip(all_axes, plots, strict=True):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.grid(axis="y")
            axes.set_title(plot.title, fontsize=9.5, loc="left")
            for colour, marker, name, whole, alone in (
                (VERMILLION, "D", virtual, plot.virtual, plot.virtual_access),
                (BLUE, "o", physical, plot.physical, plot.physical_access),
            ):
                axes.plot(plot.accesses, whole, color=colour, marker=marker, markersize=3.5, label=f"{name}, all of it")
                axes.plot(
                    plot.accesses,
                    alone,
                    color=colour,
                    linewidth=1,
                    linestyle=(0, (3, 2)),
                    label=f"{name}, access alone",
                )
            ticks = plot.accesses[::2]
            axes.set_xticks(ticks, [_power(count) for count in ticks], fontsize=8.5)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
            axes.minorticks_off()
        all_axes[0].set_ylabel("ns per access")
        figure.text(0.53, 0.015, "accesses between allocation and free", ha="center", color=MUTED)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.2)
        return figure
