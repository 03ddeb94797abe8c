"""What was watched on this machine, as the files of a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vclab.errors import HostError
from vclab.host import zonerows
from vclab.host.eventlog import OTHER_EVENTS, PAGE_EVENTS, EventLog
from vclab.host.formats import EventFormat
from vclab.host.watch import Glimpse
from vclab.recordings import layout
from vclab.recordings.freemap import Contradictions, FreeMap, ZoneEvents, block_frames, contradictions, free_map
from vclab.recordings.layout import EventRows
from vclab.recordings.occupancy import FlagRuns
from vclab.recordings.procfiles import read_buddyinfo, read_zoneinfo

#: Most requests and frees of pages that are kept; what a zone's lists see is kept whole.
API_ROWS = 2_000_000
_LARGEST_CPU = 255
_AREA_ALLOCATED = OTHER_EVENTS["vmalloc/alloc_vmap_area"]
_AREA_FREED = OTHER_EVENTS["vmalloc/free_vmap_area_noflush"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Written:
    """What a recording's files hold.

    Attributes
    ----------
    before, after : FreeMap
        The free blocks at both ends.
    contradictions : Contradictions
        Between these and the events.
    zone_rows, api_rows, other_rows : int
        Events of zones, of pages, and others.
    """

    before: FreeMap
    after: FreeMap
    contradictions: Contradictions
    zone_rows: int
    api_rows: int
    other_rows: int


def write_recording(
    folder: Path,
    log: EventLog,
    formats: Sequence[EventFormat],
    glimpses: tuple[Glimpse, Glimpse],
    live: dict[str, bytes],
    say: Say,
) -> Written:
    """Write what was watched as the files of a recording.

    Parameters
    ----------
    folder : Path
    log : EventLog
    formats : sequence of EventFormat
    glimpses : tuple of Glimpse
        Before and after.
    live : dict of str to bytes
        Further texts.
    say : callable
    """
    if len(log.cpu) and log.cpu.max() > _LARGEST_CPU:
        raise HostError(f"CPU {log.cpu.max()}, on this machine, a recording holds CPUs 0 to {_LARGEST_CPU}")
    zone = zonerows.zone_rows(log, formats, zonerows.per_cpu_orders())
    say("finding the free blocks at both ends")
    first, last = (
        write_glimpse(folder, prefix, seen, log, zone) for prefix, seen in zip(("pre", "post"), glimpses, strict=True)
    )
    say("writing")
    npfn = max(seen.flags.frames for seen in glimpses)
    stream = zone[first.row : last.row]
    begin = int(log.time[stream[0]]) if len(stream) else glimpses[0].before[1]
    layout.write_zone_stream(folder / "zone_stream.npz", _event_rows(log, stream), begin, npfn)
    api = np.flatnonzero(log.operation <= PAGE_EVENTS["kmem/mm_page_free"])[:API_ROWS]
    begin = int(log.time[api[0]]) if len(api) else begin
    head = _event_rows(log, api)
    layout.write_api_head(folder / "api_head.npz", head, begin, npfn, log.flags[api], np.searchsorted(stream, api))
    other = log.other
    operation = log.operation[other]
    layout.write_other_events(
        folder / "aux_events.npz",
        log.time[other],
        operation,
        log.cpu[other],
        np.searchsorted(stream, other),
        log.words,
    )
    areas = np.isin(operation, (_AREA_ALLOCATED, _AREA_FREED))
    words = log.words[areas][:, :3]
    layout.write_vmap_events(folder / "vmap_events.npz", log.time[other[areas]], operation[areas] == _AREA_FREED, words)
    write_live(folder, live, formats)
    found = contradictions(
        block_frames(first.blocks, npfn), block_frames(last.blocks, npfn), _zone_events(log, zone), first.row, last.row
    )
    return Written(first, last, found, len(stream), len(api), len(other))


def write_glimpse(folder: Path, prefix: str, seen: Glimpse, log: EventLog, zone: npt.NDArray[np.int64]) -> FreeMap:
    """Write a snapshot's texts, free blocks and flags; return the free blocks when the first text was read.

    Parameters
    ----------
    folder : Path
    prefix : str
        ``pre`` or ``post``.
    seen : Glimpse
    log : EventLog
    zone : int64[n]
        Its rows that hit the zones.
    """
    for name, text in seen.texts.items():
        (folder / f"{prefix}_{name}.txt").write_bytes(text)
    (folder / f"{prefix}_times.txt").write_text(seen.times, encoding="ascii")
    runs = FlagRuns(seen.flags.starts, seen.flags.flags, seen.flags.frames)
    times = log.time[zone]
    early, late = (int(np.searchsorted(times, moment)) for moment in seen.before)
    found = free_map(
        runs,
        _zone_events(log, zone),
        range(early, late + 1),
        int(np.searchsorted(times, seen.flags_end)),
        read_zoneinfo(folder / f"{prefix}_zoneinfo.txt"),
        read_buddyinfo(folder / f"{prefix}_buddyinfo_before.txt"),
    )
    layout.write_snapshot(folder / f"{prefix}_snapshot.npz", found.blocks, runs)
    return found


def write_live(folder: Path, live: dict[str, bytes], formats: Sequence[EventFormat]) -> None:
    """Write further texts of the kernel, and how it describes its events."""
    for name, text in live.items():
        (folder / f"live_{name}.txt").write_bytes(text)
    (folder / "formats.txt").write_text("\n".join(one.text for one in formats), encoding="utf-8")


def _zone_events(log: EventLog, zone: npt.NDArray[np.int64]) -> ZoneEvents:
    return ZoneEvents(log.operation[zone], log.order[zone], log.frame[zone])


def _event_rows(log: EventLog, rows: npt.NDArray[np.int64]) -> EventRows:
    return EventRows(
        time=log.time[rows],
        operation=log.operation[rows],
        order=log.order[rows],
        migratetype=log.migratetype[rows],
        cpu=log.cpu[rows],
        frame=log.frame[rows],
        extra=log.extra[rows],
    )
