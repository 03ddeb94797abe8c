"""The picture of memory: one pixel for each page frame, coloured by its state.

Frames lie along a Z curve inside squares of one largest block (4 MiB, 32 x 32 pixels), so every block of the buddy
allocator is a square or a rectangle of two squares, and a pageblock is half a square. Squares follow in rows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vclab.figures.style import INK, MUTED, WIDTH, new_figure, style
from vclab.units import PAGE_BYTES, format_bytes

States = npt.NDArray[np.uint8]

#: Frames of one square: a block of the largest order.
SQUARE = 1024
SIDE = 32
ROW = 0.19  # inches from line to line of the legend
ALLOCATED = 16
HOLE = 255
#: Above this many frames one pixel stands for four of them, or sixteen and so on.
MOST_PIXELS = 1 << 22
#: Name, colour and states of everything a frame can be; the last is what lies outside memory.
KINDS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("free, order 0: single pages", "#7fb8de", (0,)),
    ("free, orders 1–3", "#3585bf", (1, 2, 3)),
    ("free, orders 4–8", "#0b4f94", (4, 5, 6, 7, 8)),
    ("free, orders 9–10: pageblocks", "#031a38", (9, 10)),
    ("allocated, movable", "#e5e0d6", (17,)),
    ("allocated, unmovable", "#d55e00", (16,)),
    ("allocated, reclaimable", "#f0c419", (18,)),
    ("allocated, high-atomic", "#a6559d", (19,)),
    ("hole: no memory", "#4d4d4d", (HOLE,)),
    ("other", "#00a67d", ()),
    ("outside", "#ffffff", ()),
)
#: Kinds that are free; the legend puts them in a column of their own.
FREE = 4
OTHER, OUTSIDE = len(KINDS) - 2, len(KINDS) - 1
PALETTE = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for _, colour, _ in KINDS], np.uint8)


def _kind_of_state() -> States:
    kinds = np.full(256, OTHER, np.uint8)
    for kind, (_, _, members) in enumerate(KINDS):
        kinds[list(members)] = kind
    return kinds


_KIND_OF_STATE = _kind_of_state()


def _z_curve() -> npt.NDArray[np.int64]:
    """Return int64[SIDE, SIDE]: which frame of a square lies at each pixel."""
    frames = np.arange(SQUARE)
    bits = range(SIDE.bit_length() - 1)
    x = sum(((frames >> (2 * bit)) & 1) << bit for bit in bits)
    y = sum(((frames >> (2 * bit + 1)) & 1) << bit for bit in bits)
    curve = np.empty((SIDE, SIDE), np.int64)
    curve[y, x] = frames
    return curve


def frame_kinds(states: States) -> States:
    """Return the kind (row of ``KINDS``) of each frame state."""
    return _KIND_OF_STATE[np.asarray(states, np.uint8)]


def shares(kinds: States) -> npt.NDArray[np.float64]:
    """Return the share of frames of each kind, float64[len(KINDS)]."""
    return np.bincount(kinds, minlength=len(KINDS)) / max(len(kinds), 1)


def frames_per_pixel(frames: int) -> int:
    """Return how many frames one pixel of a picture stands for: 1, or 4, 16 ... above ``MOST_PIXELS`` frames."""
    per_pixel = 1
    while frames // per_pixel > MOST_PIXELS:
        per_pixel *= 4
    return per_pixel


def lay_out(kinds: States) -> tuple[States, int]:
    """Return the picture as uint8[height, width] of kinds, and the frames that one pixel stands for.

    Above ``MOST_PIXELS`` frames a pixel shows one frame drawn at random (always the same) from an aligned group.
    """
    per_pixel = frames_per_pixel(len(kinds))
    if per_pixel > 1:
        groups = kinds[: len(kinds) // per_pixel * per_pixel].reshape(-1, per_pixel)
        pick = np.random.default_rng(0).integers(0, per_pixel, len(groups))
        kinds = groups[np.arange(len(groups)), pick]
    squares = max(1, -(-len(kinds) // SQUARE))
    across = 1 << max(0, round(np.log2(squares) / 2))
    down = -(-squares // across)
    padded = np.full(across * down * SQUARE, OUTSIDE, np.uint8)
    padded[: len(kinds)] = kinds
    pixels = padded.reshape(down, across, SQUARE)[:, :, _z_curve()]
    return pixels.transpose(0, 2, 1, 3).reshape(down * SIDE, across * SIDE), per_pixel


def palette_png(kinds: States) -> bytes:
    """Return a picture of kinds, uint8[height, even width], as a PNG of four bits a pixel."""
    height, width = kinds.shape
    rows = np.zeros((height, 1 + width // 2), np.uint8)
    rows[:, 1:] = kinds[:, 0::2] << 4 | kinds[:, 1::2]
    # Frames are runs of one kind or noise: looking for longer patterns takes eight times as long and packs no better.
    packer = zlib.compressobj(strategy=zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", PALETTE.tobytes()),
        (b"IDAT", packer.compress(rows.tobytes()) + packer.flush()),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def frame_picture(states: npt.ArrayLike, title: str = "Page frames") -> Figure:
    """Return a picture of memory with its legend, for notebooks.

    Parameters
    ----------
    states : array_like of uint8
        State of each frame: 0-10 free in a block of that order, 16 + migratetype allocated, 255 no memory.
    title : str
        Written above.
    """
    return frame_pictures([(title, np.asarray(states, np.uint8))])[0]


def frame_pictures(pictures: Sequence[tuple[str, States]]) -> tuple[Figure, list[bytes]]:
    """Draw memory at several moments side by side, with one legend and the share of each state.

    Parameters
    ----------
    pictures : sequence of (str, uint8[frames])
        Titles, whose first words head the columns of the legend, and frame states.

    Returns
    -------
    figure : Figure
        Images averaged down to about the resolution of the screen.
    rasters : list of bytes
        The same images in full resolution, upside down as SVG wants them, for :func:`vclab.figures.style.save`.
    """
    kinds = [frame_kinds(states) for _, states in pictures]
    laid = [lay_out(each) for each in kinds]
    parts = np.array([shares(each) for each in kinds])
    shown = [kind for kind in range(OUTSIDE) if parts[:, kind].any()]
    with style():
        width = WIDTH if len(pictures) > 1 else WIDTH * 0.75
        left, right, between = 0.62, 0.1, 0.35
        across = (width - left - right - between * (len(pictures) - 1)) / len(pictures)
        tall = max(across * image.shape[0] / image.shape[1] for image, _ in laid)
        free = sum(kind < FREE for kind in shown)
        under = 0.42 + ROW * max(free, len(shown) - free)
        figure = new_figure(0.36 + tall + under, width)
        height = figure.get_figheight()
        for column, ((title, _), (image, per_pixel)) in enumerate(zip(pictures, laid, strict=True)):
            box = ((left + column * (across + between)) / width, under / height, across / width, tall / height)
            axes = figure.add_axes(box)
            axes.set_title(title, pad=5)
            _draw_frames(axes, image, per_pixel, labelled=column == 0)
        heads = [title.split()[0].lower() for title, _ in pictures] if len(pictures) > 1 else ["share"]
        _draw_legend(figure, shown, parts, heads, under)
        return figure, [palette_png(image[::-1]) for image, _ in laid]


def _draw_frames(axes: Axes, image: States, per_pixel: int, *, labelled: bool) -> None:
    height, width = image.shape
    axes.imshow(_averaged(image), extent=(0, width, height, 0), aspect="auto")
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    row_bytes = PAGE_BYTES * per_pixel * SIDE * width
    rows = height // SIDE
    step = 1 << max(0, int(np.ceil(np.log2(max(rows, 1) / 8))))
    ticks = np.arange(0, rows + 1, step)
    axes.set_yticks(ticks * SIDE, [format_bytes(float(tick * row_bytes)) for tick in ticks] if labelled else [])
    axes.tick_params(axis="y", labelsize=8)
    if not labelled:
        axes.tick_params(axis="y", length=0)


def _averaged(image: States) -> States:
    """Return uint8[h, w, 3]: the picture's colours, averaged in whole squares to at most about 1000 pixels across."""
    factor = 1
    while image.shape[1] // factor > 1024 and factor < SIDE:
        factor *= 2
    if factor == 1:
        return PALETTE[image]
    height, width = image.shape[0] // factor, image.shape[1] // factor
    # Red, green and blue are added up side by side in one number.
    places = np.array([0, 20, 40], np.uint64)
    colours = (PALETTE.astype(np.uint64) << places).sum(axis=1)
    total = np.zeros((height, width), np.uint64)
    for row in range(factor):
        for column in range(factor):
            total += colours[image[row::factor, column::factor]]
    channels = (total[..., None] >> places) & np.uint64((1 << 20) - 1)
    return ((channels + factor * factor // 2) // (factor * factor)).astype(np.uint8)


def _draw_legend(
    figure: Figure, shown: Sequence[int], parts: npt.NDArray[np.float64], heads: Sequence[str], under: float
) -> None:
    """Draw tables of kinds below the pictures, free and allocated: swatch, name, and the share in each picture."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.0, 0.0, 1.0, under / height))
    axes.set_xlim(0, width)
    axes.set_ylim(0, under)
    axes.set_axis_off()
    left = 0.62
    across = (width - left - 0.1 - 0.3) / 2
    for column, kinds in enumerate(([k for k in shown if k < FREE], [k for k in shown if k >= FREE])):
        start = left + column * (across + 0.3)
        ends = [start + across - 0.52 * (len(heads) - 1 - picture) for picture in range(len(heads))]
        for end, head in zip(ends, heads, strict=True):
            axes.text(end, under - 0.2, head, va="center", ha="right", fontsize=8, color=MUTED)
        for row, kind in enumerate(kinds):
            name, colour, _ = KINDS[kind]
            y = under - 0.2 - ROW * (row + 1)
            axes.add_patch(Rectangle((start, y - 0.065), 0.19, 0.13, facecolor=colour, edgecolor=MUTED, linewidth=0.4))
            axes.text(start + 0.26, y, name, va="center", fontsize=8, color=INK)
            for picture, end in enumerate(ends):
                share = _percent(float(parts[picture, kind]))
                axes.text(end, y, share, va="center", ha="right", fontsize=8, color=INK)


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}" if share else "0"
