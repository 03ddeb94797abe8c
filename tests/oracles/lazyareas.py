"""Lazily freed ranges with nodes and pools in plain Python, over the plain first fit; written from no kernel.

Rules (``mm/vmalloc.c``): a CPU's node is its number modulo the nodes; several nodes have pools of ready ranges for each
length up to 256 pages. An allocation takes the first of its node's pool if it is aligned as asked, else puts that one
to the pool's end and searches. What is freed waits at the node that reserved it. A purge first gives back a quarter
(rounded down) of each pool from its beginning, or all, then takes what waits by ascending address and puts each to the
beginning of its pool, or gives it back where there is none or all goes.
"""

from __future__ import annotations

from collections import defaultdict

from tests.oracles.vmap import PlainAreas


class PlainLazyAreas:
    """Ranges, and where each of them is."""

    def __init__(self, total_pages: int, capacity: int, limit: int, nodes: int) -> None:
        self.areas = PlainAreas(total_pages, capacity)
        self.limit = limit
        self.nodes = nodes
        self.busy: dict[int, int] = {}
        self.lazy: list[list[int]] = [[] for _ in range(nodes)]
        self.pools: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(nodes)]
        self.pool_hits = 0

    def length(self, start: int) -> int:
        """Return the pages of the range that starts at a page."""
        return dict(self.areas.ranges)[start]

    def reserve(self, pages: int, alignment: int, cpu: int) -> int:
        """Return the first page, or -8 or -9 as the plain areas do."""
        home = cpu % self.nodes
        pool = self.pools[home].get(pages, [])
        start = None
        if pool and pool[0] % alignment == 0:
            start = pool.pop(0)
            self.pool_hits += 1
        elif pool:
            pool.append(pool.pop(0))
        if start is None:
            start = self.areas.reserve(pages, alignment)
        if start >= 0:
            self.busy[start] = home
        return start

    def find(self, page: int) -> tuple[int, int] | None:
        """Return the range in use that holds a page."""
        found = self.areas.find(page)
        return found if found and found[0] in self.busy else None

    def retire(self, start: int) -> int:
        """Return the pages of a range that now waits, -1 if none starts there."""
        if start not in self.busy:
            return -1
        self.lazy[self.busy.pop(start)].append(start)
        return self.length(start)

    @property
    def waiting(self) -> int:
        """Pages that wait."""
        return sum(self.length(start) for starts in self.lazy for start in starts)

    def bounds(self) -> tuple[int, int] | None:
        """Return the lowest page that waits and the one past the highest."""
        every = [start for starts in self.lazy for start in starts]
        return (min(every), max(start + self.length(start) for start in every)) if every else None

    def purge(self, whole: bool) -> int:
        """Return how many ranges waited."""
        for pools in self.pools:
            for pool in pools.values():
                for _ in range(len(pool) if whole else len(pool) // 4):
                    self.areas.release(pool.pop(0))
        count = 0
        for home, starts in enumerate(self.lazy):
            for start in sorted(starts):
                pages = self.length(start)
                if whole or self.nodes == 1 or pages > 256:
                    self.areas.release(start)
                else:
                    self.pools[home][pages].insert(0, start)
                count += 1
            starts.clear()
        return count
