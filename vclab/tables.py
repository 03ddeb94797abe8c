"""How a snapshot of this machine, and the verdict on it, look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.table import Table

from vclab.fragmentation import fragmentation_index, unusable_free_index
from vclab.snapshot import Snapshot
from vclab.system import System
from vclab.units import PAGE_BYTES, format_bytes
from vclab.verdict import Answer, sentences

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

NONE = "–"


def print_snapshot(console: Console, seen: Snapshot) -> None:
    """Print free blocks and both indices by zone and order, the direct map and the per-CPU lists."""
    free = seen.free
    agreement = (
        "as /proc/buddyinfo counts" if free.distance == 0 else f"{free.distance} from what /proc/buddyinfo counts"
    )
    frames = sum(seen.free_frames.tolist())
    console.print(f"free: {format_bytes(frames * PAGE_BYTES)} in {free.counted.sum():,} blocks, {agreement}")
    console.print(Columns([_zone_table(name, row) for name, row in zip(free.zones, free.counted, strict=True)]))
    console.print(
        f"unusable: share of free frames in smaller blocks; index: 0 lack of memory, 1 fragmentation, {NONE} served"
    )
    total = sum(seen.direct_map.values())
    parts = [f"{format_bytes(size)} ({size / total:.1%}) in {name}" for name, size in seen.direct_map.items() if size]
    console.print(f"direct map: {', '.join(parts) + ' pages' if parts else 'not told by /proc/meminfo'}")
    table = Table("zone", title="Per-CPU lists: free, but in no block", title_justify="left")
    for name in ("cpu", "frames", "size", "high", "batch"):
        table.add_column(name, justify="right")
    for one in seen.lists:
        size = format_bytes(one.count * PAGE_BYTES)
        table.add_row(one.zone, str(one.cpu), f"{one.count:,}", size, f"{one.high:,}", str(one.batch))
    console.print(table)
    if seen.lost:
        console.print(f"{seen.lost:,} events were lost meanwhile: free blocks may be wrong in as many places")


def _zone_table(name: str, row: npt.NDArray[np.int64]) -> Table:
    table = Table(title=f"zone {name}", title_justify="left")
    for heading in ("order", "blocks", "unusable", "index"):
        table.add_column(heading, justify="right")
    for order, count in enumerate(row.tolist()):
        index = fragmentation_index(row, order)
        cause = NONE if index < 0 else f"{index:.3f}"
        table.add_row(str(order), f"{count:,}", f"{unusable_free_index(row, order):.3f}", cause)
    return table


def print_verdict(console: Console, system: System, answers: Sequence[Answer]) -> None:
    """Print how policies would answer each order and what that costs, and the verdict in sentences."""
    table = Table("order", title="What one request would get now, and cost", title_justify="left")
    for heading in ("served", "us", "range", "under"):
        table.add_column(heading, justify="right" if heading in ("us", "range") else "left")
    for order in sorted({answer.order for answer in answers}):
        policies: dict[tuple[str, str, str], list[str]] = {}
        for answer in answers:
            if answer.order == order:
                span = f"{_microseconds(answer.low)} to {_microseconds(answer.high)}"
                policies.setdefault((answer.served, _microseconds(answer.nanoseconds), span), []).append(answer.policy)
        for number, (cells, names) in enumerate(policies.items()):
            table.add_row(
                "" if number else str(order), *cells, ", ".join(names), end_section=number + 1 == len(policies)
            )
    console.print(table)
    console.print("Verdict")
    for line in sentences(system, answers):
        console.print(f"  {line}", markup=False, highlight=False)


def _microseconds(nanoseconds: float) -> str:
    """Return a time with two figures or three."""
    value = nanoseconds / 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
