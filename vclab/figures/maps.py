"""Maps: who wins in each cell, and from where on, in words and colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from vclab.figures.style import MUTED, new_figure, readable_on, style

#: Inches of a row, of what stands above and below the rows of a panel, and left of the first and right of the last.
ROW, ABOVE, BELOW, LEFT, RIGHT = 0.2, 0.42, 0.26, 0.62, 0.1
LEGEND = 0.3


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and its colour."""

    text: str
    colour: str


@dataclass(frozen=True)
class MapPanel:
    """A title and its cells, row by row from the top."""

    title: str
    cells: Sequence[Sequence[Cell]]


def blend(colours: Sequence[str], share: float) -> str:
    """Return a colour on the way through others, 0 the first and 1 the last."""
    return to_hex(LinearSegmentedColormap.from_list("way", list(colours))(min(max(share, 0.0), 1.0)))


def labelled_maps(
    panels: Sequence[Sequence[MapPanel]],
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str,
    legend: Sequence[Cell],
) -> Figure:
    """Draw rows of maps, all with the same rows and columns.

    Parameters
    ----------
    panels : sequence of sequences of MapPanel
        Row by row, each of as many panels.
    rows, columns : sequence of str
        Names of every panel's rows, from the top, and of its columns.
    row_label : str
        What rows are.
    legend : sequence of Cell
        Colours and what they mean, above all panels.
    """
    with style():
        tall = len(rows) * ROW
        height = LEGEND + len(panels) * (ABOVE + tall + BELOW)
        figure = new_figure(height)
        width = figure.get_size_inches()[0]
        each = (width - LEFT - RIGHT) / len(panels[0])
        for down, line in enumerate(panels):
            bottom = height - LEGEND - (down + 1) * (ABOVE + tall) - down * BELOW
            for right, panel in enumerate(line):
                left = LEFT + right * each
                axes = figure.add_axes((left / width, bottom / height, (each - 0.12) / width, tall / height))
                _draw(axes, panel, columns)
                axes.set_yticks([row + 0.5 for row in range(len(rows))], rows if not right else [""] * len(rows))
                if not right:
                    axes.set_ylabel(row_label)
        handles = [Patch(facecolor=cell.colour, edgecolor=MUTED, linewidth=0.5, label=cell.text) for cell in legend]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=len(handles),
            columnspacing=1.1,
            handlelength=1.3,
            borderaxespad=0.2,
        )
        return figure


def _draw(axes: Axes, panel: MapPanel, columns: Sequence[str]) -> None:
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(panel.cells), 0)
    axes.set_title(panel.title, fontsize=9, loc="left", pad=4)
    axes.set_xticks([column + 0.5 for column in range(len(columns))], columns, fontsize=7.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, line in enumerate(panel.cells):
        for column, cell in enumerate(line):
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=cell.colour, edgecolor="white", linewidth=1.2))
            place = (column + 0.5, row + 0.52)
            colour = readable_on(cell.colour)
            axes.text(*place, cell.text, ha="center", va="center", fontsize=7.5, color=colour)
