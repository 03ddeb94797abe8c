"""What allocating and freeing a virtual page costs today, against test_vmalloc's numbers, through a whole machine.

The kernel's own test allocates a million areas, clears their pages, and then frees them, so that pages come from memory
and not from a list of the CPU's (AMD Milan, 256 CPUs, one thread; linux-mm, 2025). The model does the same on a smaller
machine and prices what it counts by the Linux preset. Two of the preset's prices, of a page's allocation with its free
and of an area, were made from the line through those numbers (``FIT``); so this shows that counts and prices fit
together, and foretells nothing. The prices of 2008 (:mod:`vclab.vmapcost`) are others.
"""

from __future__ import annotations

from typing import NamedTuple

from vclab.gfp import GFP_KERNEL, Gfp
from vclab.ledger import OPERATION_CAUSES, price_operations
from vclab.system import System

#: Nanoseconds of an allocation and its free by pages.
MEASURED = {2: 1_450.0, 4: 2_210.0, 8: 3_730.0, 64: 24_000.0}
#: Nanoseconds of an area, and of each of its pages.
FIT = (760.0, 364.0)
ORDERS = (1, 2, 3, 4, 5, 6)
#: Pages that are live at once.
LIVE_PAGES = 16_384


class Row(NamedTuple):
    """One size."""

    order: int
    by_cause: dict[str, float]
    """Nanoseconds of an allocation and its free; zeroing is a cause of its own."""

    @property
    def nanoseconds(self) -> float:
        """All causes."""
        return sum(self.by_cause.values())

    @property
    def line(self) -> float:
        """Nanoseconds by the line through the measured numbers."""
        return FIT[0] + FIT[1] * (1 << self.order)

    @property
    def error(self) -> float:
        """Relative distance from that line."""
        return self.nanoseconds / self.line - 1


def measure(order: int, cpu: str = "zen3", linux: str = "6.18") -> Row:
    """Allocate many pages of an order, then free them; return what one costs."""
    system = System(cpu=cpu, linux=linux, memory="256MiB", policy="vmalloc", unmap="lazy", cpus=2)
    before = system.ledger.counts
    pages = [system.alloc_pages(order, GFP_KERNEL | Gfp.ZERO) for _ in range(LIVE_PAGES >> order)]
    for page in pages:
        system.free_pages(page)
    nanoseconds = price_operations(system.ledger.counts - before, system.linux, system.cpu) / len(pages)
    return Row(order, dict(zip(OPERATION_CAUSES, nanoseconds.tolist(), strict=True)))


def table() -> list[Row]:
    """Return what 2 to 64 pages cost."""
    return [measure(order) for order in ORDERS]
