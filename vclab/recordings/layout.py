"""Writing of the files that make up a recording's folder (the layout that `folder` reads)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vclab.recordings.archive import write_archive
from vclab.recordings.occupancy import FlagRuns
from vclab.recordings.recording import BlockMap

_Members = dict[str, npt.NDArray[Any]]
#: Largest time that a stream's column holds, in microseconds from its begin.
LONGEST_US = 2**32 - 1


@dataclass(frozen=True, eq=False)
class EventRows:
    """Events of pages or zones, in the order of time.

    Attributes
    ----------
    time : int64[n]
        Nanoseconds.
    operation : uint8[n]
        Values of `recording.Operation`.
    order, migratetype : integer[n]
        -1 migratetype where none is given.
    cpu : integer[n]
    frame : int64[n]
        First frame, -1 for a failed allocation.
    extra : uint16[n]
        See `recording.ZoneStream`.
    """

    time: npt.NDArray[np.int64]
    operation: npt.NDArray[np.uint8]
    order: npt.NDArray[np.integer]
    migratetype: npt.NDArray[np.integer]
    cpu: npt.NDArray[np.integer]
    frame: npt.NDArray[np.int64]
    extra: npt.NDArray[np.uint16]


def _narrow(values: npt.NDArray[np.integer], limit: int) -> npt.NDArray[np.integer]:
    """Return values in 32 bits where a limit allows it."""
    return values.astype(np.int32 if limit < 2**31 else np.int64)


def write_snapshot(path: Path, blocks: BlockMap, runs: FlagRuns) -> None:
    """Write free blocks and frame flags.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    values, codes = np.unique(runs.flags, return_inverse=True)
    kind = np.uint8 if len(values) <= 256 else np.uint16 if len(values) <= 65536 else np.uint32
    write_archive(
        path,
        {
            "npfn": np.array(runs.npfn, np.int64),
            "block_pfn": _narrow(blocks.frames, runs.npfn),
            "block_order": blocks.orders.astype(np.int8),
            "flag_values": values.astype(np.uint64),
            "flag_run_start": _narrow(runs.starts, runs.npfn),
            "flag_run_code": codes.astype(kind),
        },
    )


def _columns(rows: EventRows, begin: int, npfn: int) -> _Members:
    return {
        "t0_ns": np.array(begin, np.int64),
        "t_us": ((rows.time - begin) // 1000).astype(np.uint32),
        "op": rows.operation.astype(np.uint8),
        "order": rows.order.astype(np.uint8),
        "migratetype": rows.migratetype.astype(np.int8),
        "cpu": rows.cpu.astype(np.uint8),
        "pfn": _narrow(rows.frame, npfn),
        "extra": rows.extra.astype(np.uint16),
    }


def write_zone_stream(path: Path, rows: EventRows, begin: int, npfn: int) -> None:
    """Write the zones' events.

    Parameters
    ----------
    path : Path
    rows : EventRows
    begin : int
        Nanoseconds that times are counted from.
    npfn : int
        Frames of the machine.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    write_archive(path, _columns(rows, begin, npfn))


def write_api_head(
    path: Path, rows: EventRows, begin: int, npfn: int, flags: npt.NDArray[np.uint32], zone_row: npt.NDArray[np.int64]
) -> None:
    """Write the first requests and frees of pages.

    Parameters
    ----------
    path : Path
    rows : EventRows
    begin, npfn : int
        See `write_zone_stream`.
    flags : uint32[n]
        Allocation flags.
    zone_row : int64[n]
        How many rows of the zones' events came before.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    values, codes = np.unique(flags, return_inverse=True)
    code_type = np.uint8 if len(values) <= 256 else np.uint16
    members = _columns(rows, begin, npfn)
    members |= {"gfp_values": values.astype(np.uint32), "gfp_code": codes.astype(code_type)}
    write_archive(path, members | {"zone_row": zone_row.astype(np.int32)})


def write_other_events(
    path: Path,
    time: npt.NDArray[np.int64],
    operation: npt.NDArray[np.uint8],
    cpu: npt.NDArray[np.integer],
    zone_row: npt.NDArray[np.int64],
    words: npt.NDArray[np.uint64],
) -> None:
    """Write compaction, vmap and reclaim events with their own fields as 64-bit words.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    members: _Members = {"t_ns": time.astype(np.uint64), "op": operation, "cpu": cpu.astype(np.uint8)}
    write_archive(path, members | {"zone_row": zone_row.astype(np.int32), "w": words.astype(np.uint64)})


def write_vmap_events(
    path: Path, time: npt.NDArray[np.int64], freed: npt.NDArray[np.bool_], words: npt.NDArray[np.uint64]
) -> None:
    """Write allocations and frees of vmalloc areas.

    Parameters
    ----------
    path : Path
    time : int64[n]
    freed : bool[n]
        Which of them are frees.
    words : uint64[n, 3]
        Allocation: address, size, alignment. Free: address, lazily freed pages so far, and at most.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    members: _Members = {"t_ns": time.astype(np.uint64), "op": freed.astype(np.uint8)}
    names = ("va", "size_or_nrlazy", "align_or_lazymax")
    write_archive(path, members | {name: words[:, column].astype(np.uint64) for column, name in enumerate(names)})
