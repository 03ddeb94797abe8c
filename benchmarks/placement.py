"""LLFree's fragmentation experiment under three rules of placement: ``python -m benchmarks.placement``.

Single frames fill a zone but for its last 8 %; a random half of them is freed; then, in each round, a random tenth of
what is held is freed and as much allocated anew. What counts are free 2 MiB frames, free blocks of order 9 and twice
those of order 10: the experiment, its metric and the published runs are those of luhsra/llfree-bench (``frag``: Linux
6.0 and LLFree, 128 GiB, 8 threads). Here there is one thread and there are no per-CPU lists.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import placement as kernels
from vckernels.buddy import MAX_ORDER, PAGEBLOCK_FRAMES, PAGEBLOCK_ORDER, Buddy
from vckernels.causes import Status
from vckernels.placement import Placement
from vclab.fragmentation import write_histograms

USED = 57_609
"""2 MiB frames that are filled: 29.50 M frames. Twice the 17,363,262 frames that were free after the first published
round, less the 5,108 free 2 MiB frames, are 57,609.2 times 512."""
UNUSED = 5_108
"""2 MiB frames never allocated, as published: with those filled, 32.11 M frames."""
REPLACED = 10
"""One frame of so many is replaced in a round."""
PUBLISHED = {
    "Linux 6.0, published": {0: 5108, 16: 5108, 17: 5106, 18: 5107, 99: 5107},
    "LLFree, published": dict(
        zip(
            (0, 20, 30, 40, 50, 60, 70, 80, 90, 99),
            (5024, 5024, 4928, 5999, 13779, 23331, 28670, 30809, 31661, 31967),
            strict=True,
        )
    ),
}
"""Free 2 MiB frames after some rounds, counted from 0 (llfree-bench be8374e, ``frag/latest-bu/out.csv`` and
``frag/latest-ll/out.csv``, column ``huge``)."""


class Run(NamedTuple):
    """What one rule of placement came to.

    Attributes
    ----------
    at_start : tuple of int
        Free 2 MiB frames once the zone is filled, and once half is freed.
    free : int64[rounds]
        Free frames after each round.
    huge : int64[rounds]
        Free 2 MiB frames.
    histogram : uint16[rounds, 2 MiB frames]
        Free frames in each.
    seconds : float
        CPU time.
    """

    placement: Placement
    at_start: tuple[int, int]
    free: npt.NDArray[np.int64]
    huge: npt.NDArray[np.int64]
    histogram: npt.NDArray[np.uint16]
    seconds: float


def fresh_zone(huge_frames: int) -> kernels.PlacedZone:
    """Return a zone of so many 2 MiB frames, all free in the largest blocks, lowest first."""
    frames = huge_frames * PAGEBLOCK_FRAMES
    blocks = np.arange(0, frames, 1 << MAX_ORDER, dtype=np.int64)
    orders = np.where(blocks + (1 << MAX_ORDER) <= frames, MAX_ORDER, PAGEBLOCK_ORDER).astype(np.int8)
    buddy = buddy_kernels.new_buddy(frames)
    if buddy_kernels.free_at_boot(buddy, blocks, orders, True) != Status.OK:
        raise AssertionError("blocks do not fit their zone")
    return kernels.new_placed_zone(buddy)


def huge_free(buddy: Buddy) -> int:
    """Return the free 2 MiB frames as the experiment counts them."""
    blocks = buddy.free_blocks.sum(axis=1)
    return int(blocks[PAGEBLOCK_ORDER] + 2 * blocks[MAX_ORDER])


def run(placement: Placement, scale: Fraction = Fraction(1), seed: int = 42, rounds: int = 100) -> Run:
    """Run the experiment at a scale, 1 being as published."""
    started = time.process_time()
    used, unused = round(USED * scale), round(UNUSED * scale)
    zone = fresh_zone(used + unused)
    rng = np.random.default_rng(seed)
    held = np.empty(used * PAGEBLOCK_FRAMES, np.int32)
    _all(kernels.get_frames(zone, placement, held), len(held))
    filled = huge_free(zone.buddy)
    kernels.shuffle_tail(held, len(held), rng)
    half = len(held) // 2
    _all(kernels.put_frames(zone, placement, held[half:]), len(held) - half)
    # The other half's memory is given back.
    held = held[:half].copy()
    at_start = filled, huge_free(zone.buddy)
    free = np.empty(rounds, np.int64)
    huge = np.empty(rounds, np.int64)
    histogram = np.empty((rounds, used + unused), np.uint16)
    for number in range(rounds):
        _all(kernels.replace_frames(zone, placement, held, half // REPLACED, rng), Status.OK)
        free[number] = buddy_kernels.free_frames(zone.buddy)
        huge[number] = huge_free(zone.buddy)
        histogram[number] = zone.free_in
    return Run(placement, at_start, free, huge, histogram, time.process_time() - started)


def _all(done: int, wanted: int) -> None:
    if done != wanted:
        raise AssertionError(f"the zone served {done} where {wanted} was expected")


def write(result: Run, out: Path) -> None:
    """Write one rule's rounds as llfree-bench does: a table, and the histograms one after another as little-endian."""
    name = result.placement.name.lower().replace("_", "-")
    lines = ["order,threads,iter,allocs,small,huge"]
    lines += [f"0,1,{i},{REPLACED},{f},{h}" for i, (f, h) in enumerate(zip(result.free, result.huge, strict=True))]
    (out / f"{name}.csv").write_text("\n".join(lines) + "\n")
    write_histograms(out / f"{name}-histogram.u16", result.histogram)


def draw(results: Sequence[Run], scale: Fraction, out: Path) -> None:
    """Draw free 2 MiB frames by round, and the histograms, ordered by address."""
    from vclab.figures.style import BLUE, GREEN, INK, MUTED, PURPLE, VERMILLION, new_figure, save, style

    looks: list[dict[str, Any]] = [
        {"color": colour, "linestyle": dashes} for colour, dashes in ((BLUE, "-"), (GREEN, "--"), (VERMILLION, "-."))
    ]
    with style():
        figure = new_figure(3.4)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.1, right=0.985, top=0.83, bottom=0.14)
        for result, look in zip(results, looks, strict=False):
            axes.plot(result.huge, label=_title(result), linewidth=1.8, **look)
        for (name, points), marker, colour in zip(PUBLISHED.items(), "ox", (INK, PURPLE), strict=True):
            axes.plot(list(points), [v * float(scale) for v in points.values()], marker, color=colour, label=name)
        axes.set_xlabel("round")
        axes.set_ylabel("free 2 MiB frames")
        figure.legend(loc="upper left", bbox_to_anchor=(0, 1), ncols=3)
        save(figure, out, "free-huge-frames")
        figure = new_figure(3.0)
        columns = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.1, right=0.9, top=0.9, bottom=0.15, wspace=0.08)
        for axes, result in zip(columns, results, strict=True):
            rounds, huge_frames = result.histogram.shape
            rows = [part.mean(axis=1) for part in np.array_split(result.histogram, min(200, huge_frames), axis=1)]
            shape = (0, rounds, huge_frames / 512, 0)
            image = axes.imshow(np.array(rows), aspect="auto", cmap="viridis", vmin=0, vmax=512, extent=shape)
            axes.set_title(_title(result), fontsize=9)
            axes.set_xlabel("round", color=MUTED)
        columns[0].set_ylabel("address, GiB")
        figure.colorbar(image, cax=figure.add_axes((0.92, 0.15, 0.015, 0.75)), label="free frames of 512")
        save(figure, out, "free-frames-by-address")


def _title(result: Run) -> str:
    return result.placement.name.lower().replace("_", " ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rules, print what came of them, write tables, histograms and figures; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=Fraction, default=Fraction(1), help="share of the published size, like 1/128")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for tables, histograms and figures")
    options = parser.parse_args(arguments)
    if not Fraction(1, 1000) <= options.scale <= 1 or options.seed < 0 or options.rounds < 1 or options.jobs < 1:
        parser.error("--scale is 1/1000 to 1, --seed 0 or more, --rounds and --jobs at least 1")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, rule, options.scale, options.seed, options.rounds) for rule in Placement]
        results = [future.result() for future in futures]
    print(f"{'placement':16}{'filled':>8}{'halved':>8}{'first':>8}{'middle':>8}{'last':>8}{'CPU s':>8}")
    for result in results:
        rounds = (result.huge[0], result.huge[len(result.huge) // 2], result.huge[-1])
        numbers = "".join(f"{number:8}" for number in (*result.at_start, *rounds))
        print(f"{_title(result):16}{numbers}{result.seconds:8.1f}")
        if options.out is not None:
            write(result, options.out)
    if options.out is not None:
        draw(results, options.scale, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
