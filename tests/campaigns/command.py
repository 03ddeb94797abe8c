"""The command line of campaigns that hold geometries against a plain model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Protocol


class Compared(Protocol):
    """What was counted for one geometry by both sides."""

    @property
    def accesses(self) -> int:
        """Accesses made."""

    @property
    def agrees(self) -> bool:
        """Whether all counts were equal."""


def command(run: Callable[[float, int], Sequence[Compared]], description: str | None) -> int:
    """Run a campaign with the arguments of the process and print every geometry; return 1 if any count differs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--share", type=float, default=1.0, help="share of a million accesses for each geometry")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.process_time()
    results = run(arguments.share, arguments.seed)
    for result in results:
        print(result)
    different = sum(not result.agrees for result in results)
    accesses = sum(result.accesses for result in results)
    print(
        f"{len(results)} geometries, {accesses:,} accesses, {different} geometries with different counts, "
        f"{time.process_time() - started:.0f} s of CPU time"
    )
    return int(different > 0)
