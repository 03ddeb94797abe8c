"""asv: what vclab costs before it answers anything: memory of a booted machine, imports, the first compile."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import vclab

FIRST_USE = """
import time
before = time.process_time()
import vclab
system = vclab.System(memory="64MiB")
system.access(system.alloc_pages(9, vclab.GFP_KERNEL), [0])
print(time.process_time() - before)
"""


def first_use_seconds(cache: str) -> float:
    """Return the CPU seconds in which a new process imports vclab, boots a machine and makes an access."""
    environment = {**os.environ, "VCLAB_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


class Machine:
    """A machine of 2 GiB: 524,288 frames and a direct map in 2M pages."""

    number = 1
    rounds = 2
    repeat = (3, 10, 2.0)
    warmup_time = 0.05
    timeout = 300.0

    def setup(self) -> None:
        vclab.System(memory="64MiB")

    def peakmem_boot(self) -> None:
        self.system = vclab.System(memory="2GiB")

    def time_boot(self) -> None:
        vclab.System(memory="2GiB")

    def track_state_bytes(self) -> int:
        system = vclab.System(memory="2GiB")
        states = (system.memory.zone.buddy, system.page_tables.state)
        return sum(array.nbytes for state in states for array in state)

    track_state_bytes.unit = "bytes"  # type: ignore[attr-defined]


class Start:
    """New processes."""

    timeout = 600.0

    def timeraw_import(self) -> str:
        return "import vclab"

    def timeraw_import_cli(self) -> str:
        return "import vclab.cli"

    def timeraw_import_system(self) -> str:
        return "from vclab import System"

    def track_compile_seconds(self) -> float:
        """Return what the first use of an empty cache costs beyond one that finds its machine code there."""
        with tempfile.TemporaryDirectory() as cache:
            return first_use_seconds(cache) - min(first_use_seconds(cache) for _ in range(3))

    track_compile_seconds.unit = "s"  # type: ignore[attr-defined]

    def track_first_use_seconds(self) -> float:
        """Return what a use of a full cache costs."""
        with tempfile.TemporaryDirectory() as cache:
            return min(first_use_seconds(cache) for _ in range(4))

    track_first_use_seconds.unit = "s"  # type: ignore[attr-defined]
