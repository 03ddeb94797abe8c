"""Hold the kernels against their C twin: ``python -m benchmarks.ratio``.

Each workload is run by both sides on equal copies of one state. First their results must be equal, every counter and
every word of state. Then they take turns, N C N C ..., each on a fresh copy, and CPU time of the calls alone is taken:
a neighbour on the machine slows both sides of a pair alike. Exits 1 if any ratio of the best times is below the bar,
2 if a twin cannot be had or disagrees.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, twin
from vckernels import claim
from vckernels import mmu as mmu_kernels
from vckernels import tlb as tlb_kernels

BAR = 0.5
COUNT = 10_000_000


@dataclass(frozen=True)
class Workload:
    """One row.

    Attributes
    ----------
    name : str
    kernel, twin : callable
        Both sides; they take the same arguments.
    start : callable
        Returns fresh arguments in the state that a run begins with.
    """

    name: str
    kernel: Callable[..., Any]
    twin: Callable[..., Any]
    start: Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Row:
    """What was measured: million operations a second by each side's best time, and numba's speed over C's."""

    name: str
    numba: float
    c: float
    ratio: float
    median_ratio: float


def workloads(count: int) -> Iterator[Workload]:
    """Yield all rows, each of ``count`` accesses or requests."""
    for geometry in common.GEOMETRIES:
        for stream in common.STREAMS:
            pages = common.offsets(stream, count) >> 12
            yield Workload(
                f"TLB alone, {geometry}, {stream}",
                tlb_kernels.count_misses,
                twin.count_misses,
                lambda geometry=geometry, pages=pages: (common.tlb(geometry), pages, np.zeros(2, np.int64)),
            )
    for processor in common.PROCESSORS:
        for stream in common.STREAMS:
            lines = common.offsets(stream, count) >> 6
            yield Workload(
                f"data caches alone, {processor}, {stream}",
                common.run_lines,
                twin.run_lines,
                lambda processor=processor, lines=lines: (common.data_cache(processor), lines, np.zeros(4, np.int64)),
            )
    for name, accesses in common.ACCESSES.items():
        yield Workload(
            f"access, {name}",
            mmu_kernels.access,
            twin.access,
            lambda accesses=accesses: accesses.start(count),
        )
    # Claiming has no twin, so no trace of several types.
    for kind in ("order0", "mix", "waves"):
        trace = common.trace(kind, count)

        def start(trace: common.Trace = trace) -> tuple[Any, ...]:
            buddy, slots, slot_orders = trace.start()
            return buddy, trace.requests, trace.migratetypes, slots, slot_orders

        yield Workload(f"buddy 256 MiB, {kind}", claim.run_trace, twin.run_trace, start)


def arrays(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield every array in nested tuples with the path to it."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, tuple):
        fields = getattr(value, "_fields", range(len(value)))
        for field, part in zip(fields, value, strict=True):
            yield from arrays(part, f"{name}.{field}")


def _forget_scratch(arguments: tuple[Any, ...]) -> None:
    """Clear what an MMU leaves behind that means nothing: lines that have been loaded."""
    for state in arguments:
        if isinstance(state, mmu_kernels.Mmu):
            state.queue[1:] = 0


def difference(workload: Workload) -> str | None:
    """Run both sides once and return what differs in answer or state, or None. Warms both up, too."""
    ours, theirs = workload.start(), workload.start()
    answer, twin_answer = workload.kernel(*ours), workload.twin(*theirs)
    if answer != twin_answer:
        return f"the kernel answers {answer}, the twin {twin_answer}"
    _forget_scratch(ours)
    _forget_scratch(theirs)
    for (name, array), (_, twin_array) in zip(arrays(ours), arrays(theirs), strict=True):
        if not np.array_equal(array, twin_array):
            place = int(np.flatnonzero(array.ravel() != twin_array.ravel())[0])
            return f"{name} differs first at {place}: {array.flat[place]} by the kernel, {twin_array.flat[place]} by C"
    return None


def seconds(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Return the CPU time of one call."""
    before = time.process_time()
    function(*arguments)
    return time.process_time() - before


def measure(workload: Workload, count: int, repeat: int) -> Row:
    """Time both sides in turns."""
    pairs = [
        (seconds(workload.kernel, workload.start()), seconds(workload.twin, workload.start())) for _ in range(repeat)
    ]
    ours, theirs = (min(times) for times in zip(*pairs, strict=True))
    return Row(
        workload.name,
        count / ours / 1e6,
        count / theirs / 1e6,
        theirs / ours,
        statistics.median(c / numba for numba, c in pairs),
    )


def processor() -> str:
    """Return the CPU's model name as the kernel prints it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ratio", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=9, help="pairs of runs for each row (default: %(default)s)")
    parser.add_argument("--count", type=int, default=COUNT, help="accesses or requests of a run (default: %(default)s)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--verify", action="store_true", help="only hold the results of both sides against each other")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    options = parser.parse_args(arguments)
    if options.repeat < 1 or options.count < 1:
        parser.error("--repeat and --count must be at least 1")
    load = os.getloadavg()[0]
    rows = []
    if not options.verify:
        print(f"{processor()}; load average {load:.2f}; {options.count:,} operations a run, {options.repeat} pairs")
        print(f"{'workload':<48} {'numba M/s':>10} {'C M/s':>8} {'ratio':>6} {'median':>7}")
    try:
        for workload in workloads(options.count):
            if options.only not in workload.name:
                continue
            differs = difference(workload)
            if differs:
                print(f"{workload.name}: {differs}", file=sys.stderr)
                return 2
            if options.verify:
                print(f"{workload.name}: equal")
                continue
            row = measure(workload, options.count, options.repeat)
            rows.append(row)
            mark = "" if row.ratio >= BAR else f"  below {BAR}"
            print(
                f"{row.name:<48} {row.numba:>10.1f} {row.c:>8.1f} {row.ratio:>6.2f} {row.median_ratio:>7.2f}{mark}",
                flush=True,
            )
    except twin.TwinError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        found = {"processor": processor(), "load": load, "count": options.count, "repeat": options.repeat}
        options.json.write_text(json.dumps({**found, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return int(any(row.ratio < BAR for row in rows))


if __name__ == "__main__":
    sys.exit(main())
