"""What a recording holds: blocks, events and the kernel's own counts, as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.procfiles import ZoneInfo

#: Largest order of the buddy allocator in every kernel that a recording comes from.
MAXIMUM_ORDER = 10
#: Orders 0 to 10, the columns of every table by order.
ORDERS = MAXIMUM_ORDER + 1
#: Most frames of the recorded zone: 256 GiB. Its map is expanded in memory, so there has to be a bound.
ZONE_FRAMES = 1 << 26
#: Most frames of a machine: 52 bits of physical address.
MACHINE_FRAMES = 1 << 40


class Operation(IntEnum):
    """What an event did. A zone's stream holds FREE, REMOVE, DRAIN and CLAIM."""

    ALLOCATE = 0
    """Page allocation at the API level (mm_page_alloc)."""
    FREE = 1
    """Page free; in a zone's stream, one that went straight to the zone (mm_page_free)."""
    REMOVE = 3
    """Removal from the zone's free list (mm_page_alloc_zone_locked)."""
    DRAIN = 4
    """A per-CPU list gave the block back to the zone (mm_page_pcpu_drain)."""
    CLAIM = 5
    """Claim or steal from another migratetype (mm_page_alloc_extfrag)."""


class FrameKind(IntEnum):
    """What filled a frame that was not free, as far as its flags tell."""

    OTHER = 0
    """Kernel and vmalloc pages, pages on per-CPU lists, page structs never initialised: flags do not tell."""
    ANONYMOUS = 1
    FILE = 2
    SLAB = 3
    PAGE_TABLE = 4
    RESERVED = 5
    """Reserved, offline, or no page at all."""


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Blocks of frames, ascending and disjoint, each aligned to its order.

    Attributes
    ----------
    frames : ndarray
        int64[n], first frame number of each block (absolute, 4 KiB frames).
    orders : ndarray
        int8[n], 0 to 10: the block holds 2**order frames.
    """

    frames: NDArray[np.int64]
    orders: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class AllocatedMap(BlockMap):
    """Blocks that were not free, with what filled them.

    Attributes
    ----------
    kinds : ndarray
        uint8[n], values of FrameKind.
    """

    kinds: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ZoneStream:
    """Events of one zone in the order in which they happened.

    Attributes
    ----------
    time_us : ndarray
        uint32[n], microseconds since the stream began, never falling.
    operation : ndarray
        uint8[n], values of Operation.
    order : ndarray
        uint8[n], 0 to 10.
    migratetype : ndarray
        int8[n], 0 unmovable, 1 movable, 2 reclaimable, 3 to 5 the kernel's special types; -1 (not given) on
        FREE only.
    cpu : ndarray
        uint8[n], number of the CPU.
    frame : ndarray
        int64[n], first frame of the block (absolute), aligned to `order`.
    extra : ndarray
        uint16[n]. REMOVE: 1 if it refills a per-CPU list. CLAIM: fallback order | fallback migratetype << 4 |
        change of ownership << 8. Otherwise 0.
    """

    time_us: NDArray[np.uint32]
    operation: NDArray[np.uint8]
    order: NDArray[np.uint8]
    migratetype: NDArray[np.int8]
    cpu: NDArray[np.uint8]
    frame: NDArray[np.int64]
    extra: NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class PageStream:
    """Page allocations and frees of one zone at the API level, in order, for the first part of a recording.

    Attributes
    ----------
    row : ndarray
        int64[n], rows of the zone's stream that came before; never falling. Rows before the stream begins have 0.
    time_us : ndarray
        int64[n], microseconds since the zone's stream began, never falling; negative before that.
    operation : ndarray
        uint8[n], ALLOCATE or FREE of Operation.
    order : ndarray
        uint8[n], 0 to 10.
    migratetype : ndarray
        int8[n], 0 to 2 as asked for; -1 (not given) on FREE.
    cpu : ndarray
        uint8[n], number of the CPU.
    frame : ndarray
        int64[n], first frame of the block (absolute), aligned to `order`.
    """

    row: NDArray[np.int64]
    time_us: NDArray[np.int64]
    operation: NDArray[np.uint8]
    order: NDArray[np.uint8]
    migratetype: NDArray[np.int8]
    cpu: NDArray[np.uint8]
    frame: NDArray[np.int64]

    def head(self, rows: int) -> PageStream:
        """Return the first rows."""
        return PageStream(*(getattr(self, column.name)[:rows] for column in fields(self)))


class CompactionStep(IntEnum):
    """What an event of compaction tells."""

    BEGIN = 6
    """Compaction of the zone begins (mm_compaction_begin)."""
    END = 7
    """It ends (mm_compaction_end)."""
    ISOLATE_USED = 8
    """The migrate scanner went over frames (mm_compaction_isolate_migratepages)."""
    ISOLATE_FREE = 9
    """The free scanner went over frames and took free blocks (mm_compaction_isolate_freepages)."""
    ISOLATE_FREE_FAST = 10
    """The fast free scanner took one block from a list's tail (mm_compaction_fast_isolate_freepages)."""
    MIGRATE = 11
    """The pages isolated were moved, or not (mm_compaction_migratepages)."""


@dataclass(frozen=True, eq=False)
class CompactionStream:
    """Events of compaction in one zone, in order.

    Attributes
    ----------
    row : ndarray
        int64[n], rows of the zone's stream that came before; never falling.
    time_us : ndarray
        int64[n], microseconds since the zone's stream began, never falling.
    step : ndarray
        uint8[n], values of CompactionStep.
    cpu : ndarray
        uint8[n], number of the CPU.
    start, end : ndarray
        int64[n], frames (absolute). ISOLATE_...: the range that was scanned, `end` excluded. BEGIN, END: the zone's
        range. MIGRATE: 0.
    scanned, taken : ndarray
        int64[n], frames. ISOLATE_...: those looked at and those taken. MIGRATE: those not moved and those moved.
        BEGIN, END: 1 if synchronous, and 0 or the status.
    """

    row: NDArray[np.int64]
    time_us: NDArray[np.int64]
    step: NDArray[np.uint8]
    cpu: NDArray[np.uint8]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    scanned: NDArray[np.int64]
    taken: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Recording:
    """One zone of a real machine: its frames before, every event, its free frames after.

    `free_before` and `allocated` together tile the span from `first_frame` without gap or overlap.

    Attributes
    ----------
    name : str
        Name of the folder, or of the compact file without its suffix.
    path : Path
        Where it was read.
    zone : ZoneInfo
        The zone as the kernel described it before: sizes and watermarks, in frames.
    first_frame, frames : int
        The zone's span, in frames. It ends where the machine's evidence of frames ends (see `folder`).
    free_before : BlockMap
        Free blocks as the stream begins.
    free_after : BlockMap or None
        Free blocks as the stream ends, where they were recorded.
    allocated : AllocatedMap
        All other frames as the stream begins. Compound pages have their order, all else is order 0.
    stream : ZoneStream
        The zone's events.
    pages : PageStream or None
        Allocations and frees at the API level of the zone's first seconds, where they were recorded.
    compaction : CompactionStream or None
        What compaction did, where that was recorded. None: unknown, or nothing.
    events_elsewhere : int
        Number of recorded events that hit other zones and were left out of `stream`.
    zone_names : tuple of str
        Rows of the tables `buddyinfo_*`; "Normal" on node 0, "Normal (node 1)" on another.
    buddyinfo_before, buddyinfo_after : ndarray
        int64[zones, 11], free blocks by order, from ``pre_buddyinfo.txt`` and ``post_buddyinfo.txt``. They
        were read after the frame flags, which takes a second: work may lie between them and the maps.
    buddyinfo_start, buddyinfo_end : ndarray or None
        int64[zones, 11], the same from just before the frame flags (``*_buddyinfo_before.txt``), if recorded.
        `buddyinfo_end` is the kernel's count at the very moment of `free_after`.
    type_names : tuple of str
        The kernel's migratetypes, rows of `free_by_type`.
    pageblock_types : dict
        Number of the zone's pageblocks by type name.
    free_by_type : ndarray
        int64[types, 11], the zone's free blocks by type and order.
    free_by_type_capped : ndarray
        uint8[types, 11], 1 where the kernel stopped counting (``>100000``): the count is a lower bound.
    """

    name: str
    path: Path
    zone: ZoneInfo
    first_frame: int
    frames: int
    free_before: BlockMap
    free_after: BlockMap | None
    allocated: AllocatedMap
    stream: ZoneStream
    pages: PageStream | None
    compaction: CompactionStream | None
    events_elsewhere: int
    zone_names: tuple[str, ...]
    buddyinfo_before: NDArray[np.int64]
    buddyinfo_after: NDArray[np.int64]
    buddyinfo_start: NDArray[np.int64] | None
    buddyinfo_end: NDArray[np.int64] | None
    type_names: tuple[str, ...]
    pageblock_types: dict[str, int]
    free_by_type: NDArray[np.int64]
    free_by_type_capped: NDArray[np.uint8]

    @property
    def zone_name(self) -> str:
        """Name of the zone, as in `zone_names`."""
        return self.zone.label

    @property
    def duration(self) -> float:
        """Seconds from the start of the stream to its last event."""
        return float(self.stream.time_us[-1]) / 1e6 if self.stream.time_us.size else 0.0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all content, in hexadecimal: the same for a folder and for its compact file."""
        content = hashlib.sha256()
        for part in fields(self):
            if part.name not in ("name", "path"):
                _add(content, part.name, getattr(self, part.name))
        return content.hexdigest()


def _add(content: hashlib._Hash, name: str, value: Any) -> None:
    """Feed a named value to a hash, in a form that does not depend on the machine."""
    if is_dataclass(value):
        content.update(f"{name}:\n".encode())
        for part in fields(value):
            _add(content, part.name, getattr(value, part.name))
    elif isinstance(value, np.ndarray):
        portable = value.astype(value.dtype.newbyteorder("<"), copy=False)
        content.update(f"{name} {portable.dtype.str} {portable.shape}\n".encode())
        content.update(np.ascontiguousarray(portable).data)
    else:
        content.update(f"{name} {value!r}\n".encode())
