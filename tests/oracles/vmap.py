"""First fit at the lowest address, aligned if asked, in plain Python, over a sorted list of ranges."""

from __future__ import annotations


class PlainAreas:
    """Reserved ranges of an area of ``total_pages``, with room for ``capacity`` ranges."""

    def __init__(self, total_pages: int, capacity: int) -> None:
        self.total_pages = total_pages
        self.capacity = capacity
        self.ranges: list[tuple[int, int]] = []

    def gaps(self) -> list[tuple[int, int]]:
        """Return the free (first page, pages) from the lowest up, empty ones left out."""
        ends = [0, *(start + pages for start, pages in self.ranges)]
        starts = [*(start for start, _ in self.ranges), self.total_pages]
        return [(end, start - end) for end, start in zip(ends, starts, strict=True) if start > end]

    def reserve(self, pages: int, alignment: int = 1) -> int:
        """Return the first page of a new range, -8 where nothing fits.

        -9 where all ranges are in use and a gap is long enough, at a multiple or not.
        """
        long_enough = [(start, free) for start, free in self.gaps() if free >= pages]
        if long_enough and len(self.ranges) == self.capacity:
            return -9
        for start, free in long_enough:
            skipped = -start % alignment
            if free - skipped >= pages:
                self.ranges = sorted([*self.ranges, (start + skipped, pages)])
                return start + skipped
        return -8

    def release(self, start: int) -> int:
        """Return the length of the range given back, -1 if none starts there."""
        for number, (first, pages) in enumerate(self.ranges):
            if first == start:
                del self.ranges[number]
                return pages
        return -1

    def find(self, page: int) -> tuple[int, int] | None:
        """Return the range that holds a page."""
        for start, pages in self.ranges:
            if start <= page < start + pages:
                return start, pages
        return None
