"""How measured, fitted and predicted costs look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vclab.vmalloccost import MEASURED, Row
from vclab.vmapcost import Cell, Effect, Free

REGIMES = {"eager": "before (2.6.27)", "blocks": "after (2.6.28)"}


def print_vmap_cost(console: Console, free: Free, cells: Sequence[Cell]) -> None:
    """Print every cell of the table of 2008 beside the model's, and which of them the model was fitted on."""
    table = Table(title="Map, touch and unmap 4 pages: ns a round of each thread, 8 CPUs", title_justify="left")
    for heading in ("vmap", "threads", "measured", "model", "error", "which is"):
        table.add_column(heading, justify="left" if heading in ("vmap", "which is") else "right")
    for cell in cells:
        numbers = (str(cell.threads), f"{cell.measured:,.0f}", f"{cell.model:,.0f}", f"{cell.error:+.1%}")
        table.add_row(REGIMES[cell.regime], *numbers, "fitted" if cell.is_fitted else "predicted")
    console.print(table)
    console.print(f"fitted: work of a round {free.work:,.0f} ns, flush of a CPU {free.flush:,.0f} ns")


def print_effects(console: Console, effects: Sequence[Effect]) -> None:
    """Print what the ends of all ranges do to fit and predictions."""
    table = Table(title="With one number at an end of its range, fitted anew", title_justify="left")
    for heading in ("number", "value", "work", "flush", "misfit", "worst prediction"):
        table.add_column(heading, justify="left" if heading == "number" else "right")
    for one in effects:
        fitted = (f"{one.free.work:,.0f}", f"{one.free.flush:,.0f}", f"{one.misfit:.1%}")
        table.add_row(f"{one.path}, {one.end}", f"{one.value:g}", *fitted, f"{one.worst:+.0%}")
    console.print(table)


def print_vmalloc_cost(console: Console, rows: Sequence[Row]) -> None:
    """Print what allocating and freeing virtual pages costs beside what test_vmalloc measured."""
    table = Table(title="Allocate, clear and free a virtual page today: ns", title_justify="left")
    for heading in ("pages", "measured", "line", "model", "from line", "of it zeroing"):
        table.add_column(heading, justify="right")
    for row in rows:
        measured = MEASURED.get(1 << row.order)
        table.add_row(
            str(1 << row.order),
            "–" if measured is None else f"{measured:,.0f}",
            f"{row.line:,.0f}",
            f"{row.nanoseconds:,.0f}",
            f"{row.error:+.1%}",
            f"{row.by_cause['zeroing']:,.0f}",
        )
    console.print(table)
    console.print("fitted: the prices of a page's allocation and free and of an area, on the line")
