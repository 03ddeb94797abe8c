"""Refusal of blocks and events that no buddy allocator could have produced."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.recording import (
    MAXIMUM_ORDER,
    BlockMap,
    CompactionStep,
    CompactionStream,
    Operation,
    PageStream,
    ZoneStream,
)
from vclab.recordings.refusal import refusal

#: Migratetypes are numbered 0 to 5 in a kernel with contiguous-memory areas, fewer in others.
_MAXIMUM_MIGRATETYPE = 5
#: Events that are checked at once.
_PIECE = 1 << 16
_ZONE_OPERATIONS = (Operation.FREE, Operation.REMOVE, Operation.DRAIN, Operation.CLAIM)


def _refuse_where(
    wrong: NDArray[np.bool_], values: NDArray[Any], field: str, where: str, right: str, first_row: int = 0
) -> None:
    """Refuse the first row that is wrong, naming its value."""
    if wrong.any():
        row = int(wrong.argmax())
        raise refusal(f"{field} {int(values[row])} in row {first_row + row}", where, right)


def check_blocks(blocks: BlockMap, first: int, end: int, where: str) -> None:
    """Refuse blocks that are not ascending, disjoint, aligned and inside frames `first` to `end` - 1."""
    frames, orders = blocks.frames, blocks.orders
    if frames.size != orders.size:
        raise refusal(f"{frames.size} frames and {orders.size} orders", where, "each block has one of both")
    _refuse_where((orders < 0) | (orders > MAXIMUM_ORDER), orders, "block order", where, "orders are 0 to 10")
    outside = f"blocks lie within frames {first} to {end - 1}"
    _refuse_where((frames < first) | (frames >= end), frames, "block frame", where, outside)
    ends = frames + (np.int64(1) << orders.astype(np.int64))
    _refuse_where(ends > end, frames, "block frame", where, outside)
    unaligned = (frames & (ends - frames - 1)) != 0
    _refuse_where(unaligned, frames, "block frame", where, "blocks are aligned to their order")
    overlapping = np.zeros(frames.size, dtype=np.bool_)
    overlapping[1:] = frames[1:] < ends[:-1]
    _refuse_where(overlapping, frames, "block frame", where, "blocks ascend without overlap")


def check_stream(stream: ZoneStream, first: int, end: int, where: str) -> None:
    """Refuse events with unknown operations, impossible operands or falling times.

    Their blocks are to lie inside frames `first` to `end` - 1.
    """
    # In pieces that stay in a CPU's caches: memory for all events at once would take longer than the checks.
    for start in range(0, stream.operation.size, _PIECE):
        piece = slice(max(0, start - 1), start + _PIECE)
        events = ZoneStream(**{name: column[piece] for name, column in vars(stream).items()})
        _check_events(events, first, end, piece.start, where)


def _check_events(stream: ZoneStream, first: int, end: int, row: int, where: str) -> None:
    """Check the events from a row on."""
    operation, order, frame = stream.operation, stream.order, stream.frame

    def refuse(wrong: NDArray[np.bool_], values: NDArray[Any], field: str, right: str) -> None:
        _refuse_where(wrong, values, field, where, right, row)

    known = np.isin(operation, _ZONE_OPERATIONS)
    refuse(~known, operation, "op", "a zone's operations are 1, 3, 4 and 5")
    refuse(order > MAXIMUM_ORDER, order, "order", "orders are 0 to 10")
    outside = f"the events' blocks lie within frames {first} to {end - 1}"
    refuse((frame < first) | (frame >= end), frame, "pfn", outside)
    size = np.int64(1) << order.astype(np.int64)
    refuse(frame + size > end, frame, "pfn", outside)
    refuse((frame & (size - 1)) != 0, frame, "pfn", "an event's block is aligned to its order")
    lowest = np.where(operation == Operation.FREE, -1, 0)
    wrong_type = (stream.migratetype < lowest) | (stream.migratetype > _MAXIMUM_MIGRATETYPE)
    types = "migratetypes are 0 to 5, or -1 where a free gives none"
    refuse(wrong_type, stream.migratetype, "migratetype", types)
    extra = stream.extra
    claim = ((extra & 15) <= MAXIMUM_ORDER) & ((extra >> 4 & 15) <= _MAXIMUM_MIGRATETYPE) & (extra >> 8 <= 1)
    fitting = np.where(operation == Operation.CLAIM, claim, extra <= (operation == Operation.REMOVE))
    meaning = "op 3 has 0 or 1, op 5 an order, a migratetype and a change of ownership, the others 0"
    refuse(~fitting, extra, "extra", meaning)
    falling = np.zeros(operation.size, dtype=np.bool_)
    falling[1:] = stream.time_us[1:] < stream.time_us[:-1]
    refuse(falling, stream.time_us, "time", "time does not fall")


def _refuse_falling(values: NDArray[Any], field: str, where: str) -> None:
    falling = np.zeros(values.size, dtype=np.bool_)
    falling[1:] = values[1:] < values[:-1]
    _refuse_where(falling, values, field, where, f"{field} does not fall")


def _check_rows(row: NDArray[np.int64], rows: int, where: str) -> None:
    _refuse_falling(row, "zone_row", where)
    _refuse_where((row < 0) | (row > rows), row, "zone_row", where, f"the zone's stream has {rows} rows")


def check_pages(pages: PageStream, first: int, end: int, rows: int, where: str) -> None:
    """Refuse API-level rows with impossible operands, or out of order.

    Their blocks are to lie inside frames `first` to `end` - 1, and the zone's stream to have `rows` rows.
    """
    operation, order, frame = pages.operation, pages.order, pages.frame
    known = np.isin(operation, (Operation.ALLOCATE, Operation.FREE))
    _refuse_where(~known, operation, "op", where, "operations at the API level are 0 and 1")
    _refuse_where(order > MAXIMUM_ORDER, order, "order", where, "orders are 0 to 10")
    size = np.int64(1) << order.astype(np.int64)
    outside = (frame < first) | (frame >= end) | (frame + size > end)
    _refuse_where(outside, frame, "pfn", where, f"the events' blocks lie within frames {first} to {end - 1}")
    _refuse_where((frame & (size - 1)) != 0, frame, "pfn", where, "an event's block is aligned to its order")
    lowest = np.where(operation == Operation.FREE, -1, 0)
    wrong_type = (pages.migratetype < lowest) | (pages.migratetype > 2)
    _refuse_where(wrong_type, pages.migratetype, "migratetype", where, "requests have migratetypes 0 to 2")
    _check_rows(pages.row, rows, where)
    _refuse_falling(pages.time_us, "time", where)


def check_compaction(compaction: CompactionStream, first: int, end: int, rows: int, where: str) -> None:
    """Refuse events of compaction with impossible ranges or numbers, or out of order."""
    step = compaction.step
    _refuse_where(~np.isin(step, list(CompactionStep)), step, "op", where, "steps of compaction are 6 to 11")
    ranged = step != CompactionStep.MIGRATE
    low = np.where(ranged, first, 0)
    high = np.where(ranged, end, 0)
    outside = (compaction.start < low) | (compaction.end < compaction.start) | (compaction.end > high)
    _refuse_where(outside, compaction.start, "start", where, f"ranges lie within frames {first} to {end - 1}")
    for values, field in ((compaction.scanned, "scanned"), (compaction.taken, "taken")):
        wrong = (values < 0) | (values > end - first)
        _refuse_where(wrong, values, field, where, f"they are counts of at most {end - first} frames")
    _check_rows(compaction.row, rows, where)
    _refuse_falling(compaction.time_us, "time", where)
