"""A zone in the state in which a recording found it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels import buddy as buddy_kernels
from vckernels import replay as replay_kernels
from vckernels.buddy import INSIDE, MAX_ORDER, PAGEBLOCK_ORDER, TYPES, Buddy, Migratetype
from vckernels.causes import Status
from vckernels.pages import LRU_LISTS
from vckernels.replay import Stream
from vclab.errors import RecordingError
from vclab.memory import FRAMES_PER_BLOCK, Zone
from vclab.recordings import BlockMap, FrameKind, Operation, Recording

#: Migratetypes that user memory of a kind was asked for with; all else is unmovable.
MOVABLE_KINDS = (FrameKind.ANONYMOUS, FrameKind.FILE)


def kernel_stream(recording: Recording) -> Stream:
    """Return a recording's events as the kernels take them, frames counted from the zone's first.

    Raises
    ------
    RecordingError
        If its kernel had migratetypes that the model does not know, or its zone starts inside a largest block.
    """
    if recording.first_frame % FRAMES_PER_BLOCK:
        raise RecordingError(
            f"zone {recording.zone_name} of recording {recording.name} starts at frame {recording.first_frame}; "
            f"it should be a multiple of {FRAMES_PER_BLOCK}"
        )
    stream = recording.stream
    claims = stream.operation == Operation.CLAIM
    fallback_types = (stream.extra[claims] >> 4) & 15
    if stream.migratetype.max(initial=0) >= TYPES or fallback_types.max(initial=0) >= TYPES:
        raise RecordingError(
            f"recording {recording.name} has migratetypes above {TYPES - 1}; record a kernel without CMA"
        )
    return Stream(
        operation=stream.operation,
        order=stream.order,
        migratetype=stream.migratetype,
        cpu=stream.cpu,
        frame=stream.frame - recording.first_frame,
        extra=stream.extra,
    )


def span(recording: Recording) -> int:
    """Return the frames of a recording's zone, rounded up to whole blocks of the largest order."""
    return -(-recording.frames // FRAMES_PER_BLOCK) * FRAMES_PER_BLOCK


def pageblock_types(recording: Recording, stream: Stream) -> tuple[npt.NDArray[np.int8], int]:
    """Return each pageblock's migratetype before the stream, and how many of them no event named.

    A block map does not tell types. The first event in a pageblock does; where there is none, a pageblock
    counts as movable, as all are at boot. The two pageblocks of a free block of order 10 lie on one list, so the
    first one's event, else the second one's, tells for both.
    """
    types = np.empty(span(recording) >> PAGEBLOCK_ORDER, np.int8)
    replay_kernels.learn_types(stream, types)
    whole = recording.free_before.frames[recording.free_before.orders == MAX_ORDER] - recording.first_frame
    first = whole >> PAGEBLOCK_ORDER
    types[first] = np.where(types[first] == replay_kernels.UNKNOWN_TYPE, types[first + 1], types[first])
    types[first + 1] = types[first]
    unknown = types == replay_kernels.UNKNOWN_TYPE
    types[unknown] = Migratetype.MOVABLE
    return types, int(unknown.sum())


def _place_free(buddy: Buddy, recording: Recording, blocks: BlockMap, ascending: bool) -> None:
    frames = blocks.frames - recording.first_frame
    orders = blocks.orders
    # The block placed last is the head of its list.
    if ascending:
        frames, orders = frames[::-1], orders[::-1]
    status = buddy_kernels.free_at_boot(buddy, np.ascontiguousarray(frames), np.ascontiguousarray(orders), False)
    if status != Status.OK:
        raise RecordingError(f"free blocks of {recording.name} do not fit its zone; record the whole zone")


def snapshot_buddy(
    recording: Recording, stream: Stream, ascending: bool = False, merge_likely_to_tail: bool = True
) -> Buddy:
    """Return the allocator as first snapped, allocated frames being nobody's: for replaying the stream.

    Parameters
    ----------
    recording : Recording
    stream : Stream
        Its events, from :func:`kernel_stream`.
    ascending : bool
        Assumed order of each free list: lowest frame at the head, else highest (a snapshot shows only the set).
    merge_likely_to_tail : bool
        The tail placement rule, for ablation.
    """
    buddy = buddy_kernels.new_buddy(span(recording), merge_likely_to_tail=merge_likely_to_tail)
    buddy.state[:] = INSIDE
    buddy.pageblock[:], _ = pageblock_types(recording, stream)
    _place_free(buddy, recording, recording.free_before, ascending)
    return buddy


def recorded_zone(recording: Recording) -> Zone:
    """Return the zone as first snapped, with every allocated block in its place, so that it can be freed."""
    buddy = buddy_kernels.new_buddy(span(recording), lists=LRU_LISTS)
    buddy.pageblock[:], _ = pageblock_types(recording, kernel_stream(recording))
    _place_free(buddy, recording, recording.free_before, ascending=False)
    allocated = recording.allocated
    used = allocated.kinds != FrameKind.RESERVED
    mobility = np.where(np.isin(allocated.kinds, MOVABLE_KINDS), Migratetype.MOVABLE, Migratetype.UNMOVABLE)
    status = buddy_kernels.adopt(
        buddy,
        allocated.frames[used] - recording.first_frame,
        allocated.orders[used],
        mobility[used].astype(np.int8),
    )
    if status != Status.OK:
        raise RecordingError(f"allocated blocks of {recording.name} do not fit its zone; record the whole zone")
    return Zone(recording.zone_name, recording.first_frame, span(recording), buddy)
