"""The free blocks of a machine at one moment, out of frame flags that took a while to read and the trace meanwhile.

The kernel sets BUDDY on every frame of a free block, and merges buddies as soon as both are free, so the blocks are the
largest aligned ones that the free frames make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vclab.recordings.occupancy import FlagRuns, aligned_pieces
from vclab.recordings.procfiles import BuddyInfo, ZoneInfo
from vclab.recordings.recording import ORDERS, BlockMap, Operation

_BUDDY = np.uint64(1 << 10)
#: Events after which a block is free; after the other ones of a zone it is not.
_FREEING = (Operation.FREE, Operation.DRAIN)

# Most moments, between events, at which a count of free blocks is looked for.
_MOST_CUTS = 32

Frames = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FreeMap:
    """The free blocks at the moment at which the kernel counted them.

    Attributes
    ----------
    blocks : BlockMap
        Of all zones.
    row : int
        How many of the zones' events came before.
    rewound : int
        Frames whose flags were read later and had changed meanwhile.
    zones : tuple of str
        Rows of both tables.
    counted : int64[zones, 11]
        Blocks of the map.
    buddyinfo : int64[zones, 11]
        Blocks by the kernel's count.
    """

    blocks: BlockMap
    row: int
    rewound: int
    zones: tuple[str, ...]
    counted: npt.NDArray[np.int64]
    buddyinfo: npt.NDArray[np.int64]

    @property
    def distance(self) -> int:
        """Sum of all differences between both counts, in blocks."""
        return int(np.abs(self.counted - self.buddyinfo).sum())


@dataclass(frozen=True, eq=False)
class ZoneEvents:
    """What happened to zones' free lists, in the order of time.

    Attributes
    ----------
    operation : uint8[n]
        `Operation.FREE`, `REMOVE`, `DRAIN` or `CLAIM`.
    order : integer[n]
    frame : int64[n]
    """

    operation: npt.NDArray[np.uint8]
    order: npt.NDArray[np.integer]
    frame: Frames


def free_frames(runs: FlagRuns) -> npt.NDArray[np.bool_]:
    """Return which frames lay in free blocks when their flags were read, bool[npfn]."""
    lengths = np.diff(np.append(runs.starts, runs.npfn))
    return np.repeat(runs.flags & _BUDDY != 0, lengths)


def _touches(events: ZoneEvents, first: int, end: int, frames: int) -> tuple[Frames, npt.NDArray[np.bool_]]:
    """Return each frame that rows of events touch, in the order of time, and whether the event freed it."""
    operation, frame = events.operation[first:end], events.frame[first:end]
    sizes = np.int64(1) << events.order[first:end].astype(np.int64)
    inside = (frame >= 0) & (frame + sizes <= frames)
    sizes, starts, freed = sizes[inside], frame[inside], np.isin(operation[inside], _FREEING)
    event = np.repeat(np.arange(len(sizes)), sizes)
    touched = starts[event] + np.arange(len(event)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return touched, freed[event]


def rewind(
    free: npt.NDArray[np.bool_],
    events: ZoneEvents,
    first: int,
    end: int,
) -> int:
    """Take back what happened to frames between a moment and the reading of their flags.

    The first event on a frame after the moment tells what it was then, whether the flags were read before or after that
    event: a frame that is removed was free, one that is freed was not.

    Parameters
    ----------
    free : bool[npfn]
        As read; mutated.
    events : ZoneEvents
    first, end : int
        Rows from the moment until the last flags were read.

    Returns
    -------
    int
        How many frames changed.
    """
    before = free.copy()
    touched, freed = _touches(events, first, end, len(free))
    # Latest first: of several values for one frame the last one stays, which is that of its first event.
    free[touched[::-1]] = ~freed[::-1]
    return int(np.count_nonzero(free != before))


@dataclass(frozen=True)
class Contradictions:
    """Where a trace and the free frames at its ends contradict each other, in frames.

    Kernels isolate blocks for compaction and for reporting without an event, free past a locked per-CPU list, and now
    and then refill such a list unseen.

    Attributes
    ----------
    unseen_removals : int
        Freed while free: a removal in between shows in no event.
    unseen_frees : int
        Removed while not free: so does a free.
    differing : int
        Free, or not, at the end, other than the events leave them.
    """

    unseen_removals: int
    unseen_frees: int
    differing: int


def contradictions(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], events: ZoneEvents, first: int, end: int
) -> Contradictions:
    """Hold a trace against the free frames at both ends.

    Parameters
    ----------
    before, after : bool[npfn]
    events : ZoneEvents
    first, end : int
        Rows between.
    """
    touched, freed = _touches(events, first, end, len(before))
    order = np.argsort(touched, kind="stable")
    touched, freed = touched[order], freed[order]
    was_free = np.roll(freed, 1)
    begins = np.diff(touched, prepend=-1) != 0
    was_free[begins] = before[touched[begins]]
    left = before.copy()
    ends = np.diff(touched, append=-1) != 0
    left[touched[ends]] = freed[ends]
    return Contradictions(
        unseen_removals=int(np.count_nonzero(was_free & freed)),
        unseen_frees=int(np.count_nonzero(~was_free & ~freed)),
        differing=int(np.count_nonzero(left != after)),
    )


def block_frames(blocks: BlockMap, npfn: int) -> npt.NDArray[np.bool_]:
    """Return which frames lie in blocks, bool[npfn]."""
    steps = np.zeros(npfn + 1, np.int8)
    steps[blocks.frames] += 1
    steps[blocks.frames + (np.int64(1) << blocks.orders.astype(np.int64))] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8) > 0


def free_blocks(free: npt.NDArray[np.bool_], borders: Sequence[int] = ()) -> BlockMap:
    """Return the largest aligned blocks that free frames make.

    Parameters
    ----------
    free : bool[npfn]
    borders : sequence of int
        Frames that no block crosses: first frames of zones.
    """
    edges = np.flatnonzero(np.diff(free.astype(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    for border in borders:
        cut = np.flatnonzero((starts < border) & (border < ends))
        if len(cut):
            starts = np.sort(np.append(starts, border))
            ends = np.sort(np.append(ends, border))
    frames, orders, _ = aligned_pieces(starts.astype(np.int64), (ends - starts).astype(np.int64))
    ascending = np.argsort(frames)
    return BlockMap(frames[ascending], orders[ascending])


def blocks_by_zone(blocks: BlockMap, zones: Sequence[ZoneInfo]) -> npt.NDArray[np.int64]:
    """Return the number of blocks by zone and order, int64[zones, 11], as ``/proc/buddyinfo`` counts them."""
    table = np.zeros((len(zones), ORDERS), np.int64)
    for row, zone in enumerate(zones):
        first, last = np.searchsorted(blocks.frames, [zone.start_pfn, zone.start_pfn + zone.spanned])
        table[row] = np.bincount(blocks.orders[first:last], minlength=ORDERS)
    return table


def free_map(
    runs: FlagRuns, events: ZoneEvents, rows: range, end: int, zones: Sequence[ZoneInfo], buddyinfo: BuddyInfo
) -> FreeMap:
    """Return the free blocks at the moment of a count of them, before the frame flags were read.

    Parameters
    ----------
    runs : FlagRuns
    events : ZoneEvents
    rows : range
        Rows of events that came first after that moment, as far as clocks tell. The first one whose map agrees with
        the count is taken, else the one that comes nearest.
    end : int
        Row of the first event after the last flags were read.
    zones : sequence of ZoneInfo
    buddyinfo : BuddyInfo
        The count.
    """
    by_name = {zone.label: zone for zone in zones}
    populated = [by_name[name] for name in buddyinfo.zone_names if name in by_name]
    counts = np.zeros((len(populated), ORDERS), np.int64)
    named = [row for row, name in enumerate(buddyinfo.zone_names) if name in by_name]
    kept = min(ORDERS, buddyinfo.counts.shape[1])
    counts[:, :kept] = buddyinfo.counts[named, :kept]
    read = free_frames(runs)
    best: FreeMap | None = None
    for row in rows[:_MOST_CUTS]:
        free = read.copy()
        rewound = rewind(free, events, row, end)
        blocks = free_blocks(free, [zone.start_pfn for zone in populated])
        counted = blocks_by_zone(blocks, populated)
        found = FreeMap(blocks, row, rewound, tuple(zone.label for zone in populated), counted, counts)
        if best is None or found.distance < best.distance:
            best = found
        if best.distance == 0:
            break
    assert best is not None
    return best
