"""Drawing several figures at once: each is text and paths, which use one CPU."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vclab.errors import VclabError

Drawn = TypeVar("Drawn")
_draws: Sequence[Callable[[], object]] = ()


def _draw(number: int) -> object:
    return _draws[number]()


def draw_all(draws: Sequence[Callable[[], Drawn]], meanwhile: Callable[[], None] | None = None) -> list[Drawn]:
    """Call functions that draw and save figures, in forked processes where there are CPUs; return their answers.

    Parameters
    ----------
    draws : sequence of callables
        Independent of one another; the last are begun first. What they return is passed between processes.
    meanwhile : callable, optional
        Called, once, in this process.

    Raises
    ------
    VclabError
        Whatever one of them raises, or if a process ended before its figure was drawn.
    """
    processes = min(len(os.sched_getaffinity(0)), len(draws), 4) if hasattr(os, "sched_getaffinity") else 1
    if processes < 2 or multiprocessing.parent_process() is not None:
        if meanwhile is not None:
            meanwhile()
        return [draw() for draw in draws]
    global _draws  # forked processes find it there, so that nothing large is passed on
    _draws = draws
    # Forked processes do not look through this one's objects for garbage: they would copy their memory.
    kept = gc.get_freeze_count()
    gc.freeze()
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"))
    try:
        # They take over that Ctrl-C is held back, and so leave it to this process for good.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            drawn = [pool.submit(_draw, number) for number in reversed(range(len(draws)))]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if meanwhile is not None:
            meanwhile()
        return [future.result() for future in reversed(drawn)]  # type: ignore[misc]
    except BrokenProcessPool as error:
        raise VclabError("a process that drew a figure ended early, perhaps for lack of memory") from error
    finally:
        pool.shutdown(cancel_futures=True)
        if not kept:
            gc.unfreeze()
        _draws = ()
