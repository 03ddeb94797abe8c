"""What all figures share: one style, colours that survive colour blindness, and saving without a trace of when.

Figures are plain :class:`matplotlib.figure.Figure` objects; pyplot and its global state are never used.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vclab.files import replacing

STYLE = Path(__file__).with_name("vclab.mplstyle")
#: Inches across; in the report one point of a figure is then 1 to 1.6 CSS pixels.
WIDTH = 7.6

# Okabe and Ito's colours, told apart with any common colour blindness.
BLUE = "#0072b2"
SKY = "#56b4e9"
GREEN = "#009e73"
ORANGE = "#e69f00"
VERMILLION = "#d55e00"
PURPLE = "#8e4585"
GREY = "#a9b1ba"
INK = "#222222"
MUTED = "#5c5c5c"

_IMAGE = re.compile(rb'<image [^>]*?xlink:href="data:image/png;base64,[^"]*"')


class LabFigure(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        return to_png(self)


@contextmanager
def style() -> Iterator[None]:
    """Put matplotlib's settings to the lab's for a while, whatever the user's are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE, use_default_template=False))
        yield


def new_figure(height: float, width: float = WIDTH) -> LabFigure:
    """Return an empty figure of a size in inches, drawn by Agg. To be called within :func:`style`."""
    figure = LabFigure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG; equal figures give equal bytes."""
    return _render(figure, "png", {"Software": None}, pil_kwargs={"compress_level": 3})


def to_svg(figure: Figure, rasters: Sequence[bytes] = ()) -> bytes:
    """Return a figure as SVG; equal figures give equal bytes.

    Parameters
    ----------
    figure : Figure
        What to draw.
    rasters : sequence of bytes
        PNGs in full resolution that take the place of the figure's images, in drawing order. Matplotlib's SVGs turn
        images upside down, so these must be upside down already.
    """
    text = _render(figure, "svg", {"Date": None, "Creator": "vclab"})
    if not rasters:
        return text
    remaining = iter(rasters)

    def replace(_: re.Match[bytes]) -> bytes:
        encoded = base64.b64encode(next(remaining))
        return b'<image preserveAspectRatio="none" xlink:href="data:image/png;base64,' + encoded + b'"'

    return _IMAGE.sub(replace, text)


def _render(figure: Figure, kind: str, metadata: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()


def save(figure: Figure, out: Path, stem: str, rasters: Sequence[bytes] = ()) -> None:
    """Write OUT/STEM.svg and OUT/STEM.png, each whole or not at all.

    Parameters
    ----------
    figure : Figure
        What to draw.
    out : Path
        Folder, which exists.
    stem : str
        File name without its ending.
    rasters : sequence of bytes
        See :func:`to_svg`.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    for ending, content in (("svg", to_svg(figure, rasters)), ("png", to_png(figure))):
        with replacing(out / f"{stem}.{ending}") as temporary:
            temporary.write_bytes(content)


def spread(positions: npt.ArrayLike, gap: float, low: float, high: float) -> npt.NDArray[np.float64]:
    """Move labels apart: positions at least ``gap`` from each other, near where they were, from ``low`` to ``high``.

    Neighbours that touch form a group that is centred on the mean of where its members wanted to be. If they do
    not all fit, they are spaced evenly.
    """
    wanted = np.asarray(positions, np.float64)
    if len(wanted) * gap > high - low + gap:
        ranks = np.argsort(np.argsort(wanted, kind="stable"), kind="stable")
        return np.asarray(low + ranks * ((high - low) / max(len(wanted) - 1, 1)), np.float64)
    order = np.argsort(wanted, kind="stable")
    groups: list[tuple[list[int], float]] = []
    for index in order:
        members, centre = [int(index)], float(wanted[index])
        centre = _held(centre, 1, gap, low, high)
        while groups and groups[-1][1] + (len(groups[-1][0]) + len(members)) * gap / 2 > centre:
            members = groups.pop()[0] + members
            centre = _held(float(wanted[members].mean()), len(members), gap, low, high)
        groups.append((members, centre))
    placed = np.empty(len(wanted))
    for members, centre in groups:
        placed[members] = centre + (np.arange(len(members)) - (len(members) - 1) / 2) * gap
    return placed


def _held(centre: float, count: int, gap: float, low: float, high: float) -> float:
    half = (count - 1) * gap / 2
    return min(max(centre, low + half), high - half)


def readable_on(colour: str) -> str:
    """Return black or white, whichever reads better on a colour."""
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else INK
