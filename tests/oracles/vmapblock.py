"""Small mappings from per-CPU blocks in plain Python, over plain lazily freed ranges; written from no kernel.

Rules (``mm/vmalloc.c``): a mapping of up to 64 pages takes a power of two of them from the first block of the CPU,
oldest first, that has as many left, behind what it gave out before; else from a new block of 1024 aligned pages. A
block all of whose pages were given out and back waits for a purge. So do, when a purge is due, blocks with nothing in
use and fewer than 256 pages left, or with anything given back at all if all goes. A block with none left is on no list.
"""

from __future__ import annotations

from tests.oracles.lazyareas import PlainLazyAreas

PAGES = 1024


class PlainBlock:
    """A block: how much of it was given out, and back."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.out = 0
        self.back = 0


class PlainBlocks:
    """The CPUs' blocks."""

    def __init__(self, areas: PlainLazyAreas, cpus: int) -> None:
        self.areas = areas
        self.open: list[list[PlainBlock]] = [[] for _ in range(cpus)]
        self.full: list[PlainBlock] = []

    def take(self, pages: int, cpu: int) -> int:
        """Return the first page, -4 for too many or none, -8 or -9 as the areas do."""
        if not 1 <= pages <= 64:
            return -4
        size = 1 << (pages - 1).bit_length()
        fitting = [block for block in self.open[cpu] if PAGES - block.out >= size]
        if fitting:
            block = fitting[0]
        else:
            start = self.areas.reserve(PAGES, PAGES, cpu)
            if start < 0:
                return start
            block = PlainBlock(start)
            self.open[cpu].append(block)
        page = block.start + block.out
        block.out += size
        if block.out == PAGES:
            self.open[cpu].remove(block)
            self.full.append(block)
        return page

    def give(self, page: int, pages: int) -> int:
        """Return 0, or 4 where no such addresses were given out."""
        every = [block for blocks in self.open for block in blocks] + self.full
        size = 1 << (pages - 1).bit_length() if 1 <= pages <= 64 else 0
        for block in every:
            if block.start <= page < block.start + PAGES:
                if not size or page + size > block.start + block.out or block.back + size > block.out:
                    return 4
                block.back += size
                if block.back == PAGES:
                    self._retire(block)
                return 0
        return 4

    def _retire(self, block: PlainBlock) -> None:
        for blocks in [*self.open, self.full]:
            if block in blocks:
                blocks.remove(block)
        self.areas.retire(block.start)

    def retire_unused(self, whole: bool) -> int:
        """Return how many blocks now wait."""
        unused = [
            block
            for blocks in self.open
            for block in blocks
            if block.back == block.out and (whole or PAGES - block.out < 256)
        ]
        for block in unused:
            self._retire(block)
        return len(unused)
