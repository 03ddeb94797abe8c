"""A zone that is compacted, kernel and plain, compared to the last hint."""

from __future__ import annotations

import numpy as np

from tests.kernels.pagedzones import PagedPair
from tests.oracles.compaction import PlainCompaction, PlainLimits
from vckernels import compactcontrol, freescan
from vckernels.buddy import ISOLATED, ORDERS
from vckernels.compactcontrol import RunField, ZoneField
from vckernels.watermark import new_limits


class CompactedPair(PagedPair):
    """One zone with pages and compaction, twice."""

    def __init__(
        self,
        frames: int,
        types: dict[int, int] | None = None,
        limits: PlainLimits | None = None,
        split_lists: bool = True,
    ) -> None:
        super().__init__(frames, types, split_lists)
        marks = limits or PlainLimits()
        self.compaction = compactcontrol.new_compaction(frames)
        self.plain_compaction = PlainCompaction(self.plain_pages, marks)
        self.limits = new_limits(
            min=marks.min,
            low=marks.low,
            high=marks.high,
            boost=marks.boost,
            highatomic_reserved=marks.reserved,
            managed=frames,
        )

    def set_run(self, **values: int) -> None:
        """Set fields of the run in both, by lower-case name."""
        for name, value in values.items():
            self.compaction.run[RunField[name.upper()]] = value
            setattr(self.plain_compaction.run, name, value)

    def set_zone(self, **values: int) -> None:
        """Set what the zone remembers, in both, by lower-case name."""
        for name, value in values.items():
            self.compaction.zone[ZoneField[name.upper()]] = value
            setattr(self.plain_compaction.zone_memory, name, value)

    def set_hint(self, block: int) -> None:
        """Set a pageblock's skip hint in both."""
        self.compaction.skip[block] = 1
        self.plain_compaction.skip.add(block)

    def run(self, name: str) -> int:
        """Return a field of the run, the same in both."""
        value = int(self.compaction.run[RunField[name.upper()]])
        assert value == getattr(self.plain_compaction.run, name), name
        return value

    def zone(self, name: str) -> int:
        """Return what the zone remembers, the same in both."""
        value = int(self.compaction.zone[ZoneField[name.upper()]])
        assert value == getattr(self.plain_compaction.zone_memory, name), name
        return value

    def held_blocks(self, order: int) -> list[int]:
        """Return the held free blocks of an order, first one first, the same in both."""
        blocks = []
        frame = int(self.compaction.first[order])
        while frame >= 0:
            assert self.buddy.state[frame] == ISOLATED
            blocks.append(frame)
            frame = int(self.buddy.next[frame])
        assert (blocks[-1] if blocks else -1) == self.compaction.last[order]
        assert blocks == list(self.plain_compaction.held[order]), order
        return blocks

    # Doing the same to both

    def fast_isolate(self) -> None:
        """Run the fast search for targets."""
        freescan.fast_isolate(self.buddy, self.limits, self.compaction)
        self.plain_compaction.fast_free()

    def isolate_free(self) -> None:
        """Run the free scanner."""
        freescan.isolate_free(self.buddy, self.limits, self.compaction)
        self.plain_compaction.scan_free()

    def isolate_in_pageblock(self, start: int, end: int, stride: int) -> int:
        """Walk part of a pageblock."""
        at = freescan.isolate_in_pageblock(self.buddy, self.limits, self.compaction, start, end, stride)
        assert at == self.plain_compaction.walk(start, end, stride)
        return int(at)

    def take_target(self, order: int) -> int:
        """Take a target, which stays isolated."""
        frame = freescan.take_target(self.buddy, self.limits, self.compaction, order)
        assert frame == self.plain_compaction.target(order)
        return int(frame)

    def hold_again(self, frame: int, order: int) -> None:
        """Hold a target that was not needed."""
        compactcontrol.hold_first(self.buddy, self.compaction, frame, order)
        self.plain_compaction.held[order].appendleft(frame)
        self.plain_compaction.run.free_held += 1 << order

    def release_held(self) -> int:
        """Give held blocks back."""
        highest = compactcontrol.release_held(self.buddy, self.compaction)
        assert highest == self.plain_compaction.release()
        return int(highest)

    def clear_hints(self) -> None:
        """Clear skip hints."""
        compactcontrol.clear_hints(self.buddy, self.pages, self.compaction)
        self.plain_compaction.clear_hints()

    # Comparing

    def check_compaction(self) -> None:
        """Compare everything that compaction has, and the zone."""
        held = [frame for order in range(ORDERS) for frame in self.held_blocks(order)]
        for field in RunField:
            self.run(field.name.lower())
        for field in ZoneField:
            self.zone(field.name.lower())
        assert set(np.flatnonzero(self.compaction.skip).tolist()) == self.plain_compaction.skip
        self.check(held)
