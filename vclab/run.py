"""Running a study: its points side by side in processes, progress, and results that are whole or absent."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclab import studies
from vclab.errors import ConfigurationError, VclabError

if TYPE_CHECKING:
    import xarray as xr
    from pydantic import BaseModel

Report = Callable[[int, float, str], None]
"""Called with the number of a point, the share of it that is done and what is being done."""

_channel: Any = None
#: Options of mallopt(3), from malloc.h; a threshold of 32 MiB is the highest for taking memory from the heap.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def compiled_already() -> bool:
    """Return whether this build's kernels have been compiled on this machine before."""
    from vckernels.jit import cache_directory

    folder = cache_directory()
    return folder.is_dir() and any(folder.rglob("*.nbi"))


def next_folder(stem: str) -> Path:
    """Return the first of ``STEM-1``, ``STEM-2`` ... that does not exist."""
    number = 1
    while Path(f"{stem}-{number}").exists():
        number += 1
    return Path(f"{stem}-{number}")


def _start_worker(channel: Any) -> None:
    global _channel  # a worker process has one channel for all its points
    _channel = channel
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let this process keep what it frees: each copy of a machine is tens of megabytes.

    The GNU C library would give arrays of that size back at once, and the kernel clear every page of the next one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for a moment: processes started meanwhile ignore it for good and leave it to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait for a moment, so that no process is started that nobody knows of."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def _run_point(name: str, parameters: BaseModel, number: int, point: Any) -> xr.Dataset:
    def progress(share: float, what: str) -> None:
        if _channel is not None:
            _channel.put((number, share, what))

    return studies.find(name).run_point(parameters, point, progress)


def run_study(name: str, parameters: BaseModel, jobs: int, report: Report) -> xr.Dataset:
    """Run all points of a study and put them together.

    Parameters
    ----------
    name : str
        A study.
    parameters : BaseModel
        Its parameters.
    jobs : int
        Processes at once; with 1 everything runs in this process.
    report : callable
        Told what is done, from this process.

    Raises
    ------
    VclabError
        Whatever a point raises. On this and on Ctrl-C all workers are ended.
    """
    study = studies.find(name)
    points = list(study.points(parameters, jobs))
    jobs = min(jobs, len(points))
    if jobs <= 1:
        _keep_freed_memory()
        parts = []
        for number, point in enumerate(points):

            def tell(share: float, what: str, number: int = number) -> None:
                report(number, share, what)

            parts.append(study.run_point(parameters, point, tell))
        return study.combine(parameters, parts)
    # A CPU is idle while the process that workers are forked from is getting ready: what comes after them loads.
    loader = ThreadPoolExecutor(1)
    loading = loader.submit(studies.load_aftermath, name)
    loader.shutdown(wait=False)
    forked = _start_method() == "forkserver"
    if forked:
        _start_server()
    context = multiprocessing.get_context(_start_method())
    channel = context.Queue()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(channel,))
    try:
        # Workers that a server forks ignore Ctrl-C as it does; others take over what this process does meanwhile.
        with _interrupts_wait() if forked else _interrupts_ignored():
            futures = [pool.submit(_run_point, name, parameters, number, point) for number, point in enumerate(points)]
        loading.result()
        parts = [_wait(future, channel, report) for future in futures]
        _drain(channel, report)
    except BrokenProcessPool as error:
        raise VclabError("a worker process ended early, perhaps for lack of memory; try --jobs 1") from error
    finally:
        _end(pool)
        channel.close()
    return study.combine(parameters, parts)


def _start_method() -> str:
    """Return how workers start: from a server without threads or half-used state, or each afresh."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def prepare_workers(study: str) -> None:
    """Let the process that workers will come from import a study, while this one is still getting ready."""
    # Nothing here multiplies matrices, and threads that wait to do so take time from those that work.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if _start_method() == "forkserver":
        multiprocessing.set_forkserver_preload([f"vclab.studies.{study.replace('-', '_')}", "vclab.preload"])
        _start_server()


def _start_server() -> None:
    with _interrupts_ignored():
        forkserver.ensure_running()


def _wait(future: Future[xr.Dataset], channel: Any, report: Report) -> xr.Dataset:
    while True:
        try:
            part = future.result(timeout=0.1)
        except NotYet:
            _drain(channel, report)
        else:
            _drain(channel, report)
            return part


def _drain(channel: Any, report: Report) -> None:
    while True:
        try:
            report(*channel.get_nowait())
        except queue.Empty:
            return


def _end(pool: ProcessPoolExecutor) -> None:
    """End all workers now, whatever they are doing."""
    workers = list((getattr(pool, "_processes", None) or {}).values())
    idle = all(not worker.is_alive() for worker in workers)
    pool.shutdown(wait=idle, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def default_jobs() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def settings_from(pairs: list[str], parameters: type[BaseModel]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` settings as a dictionary.

    Parameters
    ----------
    pairs : list of str
        Values are read as TOML, else as text; those of parameters that are text, as text.
    parameters : type
        The study's parameters.

    Raises
    ------
    ConfigurationError
        If a setting has no ``=``.
    """
    import tomllib

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"setting {pair!r} of --set is not NAME=VALUE; write it like --set seeds=5")
        field = parameters.model_fields.get(name.strip())
        if field is not None and field.annotation is str:
            settings[name.strip()] = value.strip().strip("'\"")
            continue
        try:
            settings[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name.strip()] = value
    return settings


def prices_from(pairs: list[str]) -> dict[str, float]:
    """Return ``NAME=NUMBER`` prices as a dictionary.

    Raises
    ------
    ConfigurationError
        If one is not of that form.
    """
    prices = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            prices[name.strip()] = float(value)
        except ValueError:
            raise ConfigurationError(
                f"price {pair!r} is not NAME=NUMBER; write it like --price cpu.memory.latency=300"
            ) from None
    return prices


def study_file(path: Path) -> tuple[str, dict[str, Any]]:
    """Return study name and settings from a TOML file: ``study = "NAME"``, then its parameters.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or names no study.
    """
    import tomllib

    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"study file {path} cannot be read: {error}; it should be TOML") from error
    name = settings.pop("study", None)
    if not isinstance(name, str):
        raise ConfigurationError(f'study file {path} names no study; begin it with study = "fallback"')
    return name, settings
