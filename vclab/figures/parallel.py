"""Drawing several figures at once: each is text and paths, which use one CPU."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

Drawn = TypeVar("Drawn")
_draws: Sequence[Callable[[], object]] = ()


def _draw(number: int) -> object:
    return _draws[number]()


def _nothing() -> None:
    pass


def draw_all(draws: Sequence[Callable[[], Drawn]], meanwhile: Callable[[], object] = _nothing) -> list[Drawn]:
    """Call functions that draw and save figures, in forked processes where there are CPUs; return their answers.

    Parameters
    ----------
    draws : sequence of callables
        Independent of one another, what takes longest last. What they return is passed between processes.
    meanwhile : callable
        Called once, in this process.
    """
    processes = min(len(os.sched_getaffinity(0)), len(draws), 4) if hasattr(os, "sched_getaffinity") else 1
    if processes < 2 or multiprocessing.parent_process() is not None:
        meanwhile()
        return [draw() for draw in draws]
    global _draws  # forked processes find it there, so that nothing large is passed on
    _draws = draws
    # Forked processes do not look through this one's objects for garbage: they would copy their memory.
    gc.freeze()
    try:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            # The longest first, so that no process is left with it at the end.
            drawn = pool.map_async(_draw, reversed(range(len(draws))), chunksize=1)
            meanwhile()
            return drawn.get()[::-1]  # type: ignore[return-value]
    finally:
        gc.unfreeze()
        _draws = ()
