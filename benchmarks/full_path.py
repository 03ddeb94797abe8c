"""How fast single frames go through the whole path: ``python -m benchmarks.full_path``.

Per-CPU lists, watermarks, migratetypes and three zones of a machine of 8 GiB, under each generation of rules.
Three traces: ``mix`` keeps half of the slots filled, at random; ``waves`` fills all slots and empties them in random
order; ``types`` is ``mix`` with three migratetypes. Exits 1 where a rule set serves less than 15 million operations a
second of any trace, best of several, CPU time of the calls alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vckernels.causes import Cause, Status
from vckernels.zonelist import allocation_requests, free_requests
from vclab import presets
from vclab.allocator import FullMemory

LEAST = 15e6
FRAMES = (8 << 30) >> 12
SLOTS = 100_000
TRACES = ("mix", "waves", "types")


def trace(name: str, operations: int, seed: int = 1) -> npt.NDArray[np.int64]:
    """Return requests of single frames for ``SLOTS`` slots, about as many as asked for."""
    rng = np.random.default_rng(seed)
    if name == "waves":
        every = np.arange(SLOTS)
        rounds = max(1, operations // (2 * SLOTS))
        parts = [
            part for _ in range(rounds) for part in (allocation_requests(every), free_requests(rng.permutation(SLOTS)))
        ]
        return np.concatenate(parts)
    slots = rng.integers(0, SLOTS, operations)
    kinds = rng.integers(0, 3, operations) if name == "types" else 0
    # A slot is filled and emptied in turn: what comes before in the trace decides.
    order = np.argsort(slots, kind="stable")
    ranks = np.empty(operations, np.int64)
    starts = np.flatnonzero(np.diff(slots[order], prepend=-1))
    lengths = np.diff(np.append(starts, operations))
    ranks[order] = np.arange(operations) - np.repeat(starts, lengths)
    return np.where(ranks % 2 == 0, allocation_requests(slots, migratetypes=kinds), free_requests(slots))


def measure(linux: str, name: str, operations: int, repeat: int) -> tuple[float, npt.NDArray[np.int64]]:
    """Return operations a second, best of some runs on fresh machines, and the events of the last."""
    requests = trace(name, operations)
    best = 0.0
    for _ in range(repeat + 1):
        memory = FullMemory.boot(presets.linux(linux), FRAMES, 1)
        before = memory.counters
        slots = np.full(SLOTS, -1, np.int64)
        started = time.process_time()
        done, status = memory.run(requests, slots)
        seconds = time.process_time() - started
        if status != Status.OK or done != len(requests):
            raise AssertionError(f"request {done} of {len(requests)} ended with {status.name}")
        best = max(best, len(requests) / seconds)
    return best, memory.counters - before


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every trace under every rule set, print a table and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_path", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="runs of each, the first of which compiles")
    parser.add_argument("--operations", type=int, default=4_000_000)
    options = parser.parse_args(arguments)
    failed = False
    print(f"{'linux':10}{'trace':8}{'M/s':>8}{'from lists':>13}{'refills':>10}{'drains':>10}{'splits':>11}")
    for linux in ("6.18", "2.6.24"):
        for name in TRACES:
            speed, events = measure(linux, name, options.operations, options.repeat)
            seen = (Cause.PER_CPU_ALLOCATION, Cause.PER_CPU_REFILL, Cause.PER_CPU_DRAIN, Cause.SPLIT)
            counts = "".join(f"{events[cause]:{width},}" for cause, width in zip(seen, (13, 10, 10, 11), strict=True))
            print(f"{linux:10}{name:8}{speed / 1e6:8.1f}{counts}", flush=True)
            failed |= speed < LEAST
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
