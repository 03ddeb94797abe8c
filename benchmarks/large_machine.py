"""A machine of 1 TiB beside one of 4 GiB: ``python -m benchmarks.large_machine``.

Each machine boots in a process of its own, ages by 10 million operations, allocates and accesses. CPU time and peak
resident memory are printed; exits 1 where a machine takes 8 GiB or more, or an operation of a 1 TiB machine more than
8 times what it takes at 4 GiB (medians).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

SMALL, LARGE = "4GiB", "1TiB"
MOST_BYTES = 8 << 30
MOST_RATIO = 8.0

SCRIPT = """
import json, resource, sys, time
import vclab
memory, direct_map, operations = sys.argv[1], sys.argv[2], int(sys.argv[3])
small = vclab.System(memory="64MiB")
small.age(1000, tail="day")
small.access(small.alloc_pages(9, vclab.GFP_KERNEL), [0])
clock = time.process_time
before = clock()
system = vclab.System(memory=memory, direct_map=direct_map)
boot = clock() - before
before = clock()
done = system.age(operations, tail="day")
age = (clock() - before) / (done["arrivals"] + done["deaths"])
before = clock()
pages = [system.alloc_pages(3, vclab.GFP_KERNEL | vclab.GFP_VFALLBACK) for _ in range(10000)]
allocate = (clock() - before) / len(pages)
offsets = vclab.streams.uniform(len(pages) << 15, 1_000_000, seed=1)
before = clock()
system.access(pages[:8192], offsets % (8192 << 15))
access = (clock() - before) / len(offsets)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
print(json.dumps({"boot": boot, "age": age, "allocate": allocate, "access": access, "peak": peak}))
"""


def measure(memory: str, direct_map: str, operations: int) -> dict[str, float]:
    """Return boot's CPU seconds, those of one operation of each kind, and peak bytes, from a new process."""
    command = [sys.executable, "-c", SCRIPT, memory, direct_map, str(operations)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure machines in turns, print medians and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_machine", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="processes for each machine (default: %(default)s)")
    parser.add_argument("--operations", type=int, default=10_000_000)
    options = parser.parse_args(arguments)
    failed = False
    print(f"{'machine':16}{'boot s':>9}{'age ns':>9}{'alloc ns':>10}{'access ns':>11}{'peak GiB':>10}")
    for direct_map in ("2M", "1G"):
        medians = {}
        runs: dict[str, list[dict[str, float]]] = {SMALL: [], LARGE: []}
        for _ in range(options.repeat):
            for memory, found in runs.items():
                found.append(measure(memory, direct_map, options.operations))
        for memory, found in runs.items():
            middle = {name: statistics.median(run[name] for run in found) for name in found[0]}
            medians[memory] = middle
            costs = "".join(f"{middle[n] * 1e9:{w}.0f}" for n, w in (("age", 9), ("allocate", 10), ("access", 11)))
            peak = max(run["peak"] for run in found)
            print(f"{memory + ', ' + direct_map:16}{middle['boot']:9.2f}{costs}{peak / (1 << 30):10.2f}", flush=True)
            failed |= peak >= MOST_BYTES
        ratios = {name: medians[LARGE][name] / medians[SMALL][name] for name in ("age", "allocate", "access")}
        print("  ratio: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), flush=True)
        failed |= max(ratios.values()) > MOST_RATIO
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
