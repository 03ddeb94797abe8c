"""Recording this machine: watch its page allocator while a command runs, and write what was seen as a recording."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vclab.errors import HostError, OutputError
from vclab.host import procfiles, zonerows
from vclab.host.command import require_command, running
from vclab.host.drain import RESERVE
from vclab.host.eventlog import OTHER_EVENTS, PAGE_EVENTS, EventLog, read_log
from vclab.host.formats import EventFormat
from vclab.host.interruption import interruptible
from vclab.host.watch import Glimpse, Watch, glimpse, live_texts, require, watching
from vclab.recordings import layout
from vclab.recordings.freemap import FreeMap, ZoneEvents, free_map
from vclab.recordings.layout import EventRows
from vclab.recordings.occupancy import FlagRuns
from vclab.recordings.procfiles import read_buddyinfo, read_zoneinfo

#: Most requests and frees of pages that are kept; what a zone's lists see is kept whole.
API_ROWS = 2_000_000
#: Most bytes of raw trace, and most seconds, that a recording takes; the command goes on beyond.
LARGEST_TRACE = 2 << 30
LONGEST = 4200.0
_LEAST_TRACE = 64 << 20
_LARGEST_CPU = 255
_AREA_ALLOCATED = OTHER_EVENTS["vmalloc/alloc_vmap_area"]
_AREA_FREED = OTHER_EVENTS["vmalloc/free_vmap_area_noflush"]
_LOOK = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Summary:
    """What a recording came to.

    Attributes
    ----------
    status : int
        Exit status of the command; negative: the signal that ended it.
    seconds : float
        That it ran while it was watched.
    whole : bool
        Whether it had ended when the recording did.
    traced : float
        Seconds of trace, the snapshots included.
    events, lost : int
    trace_bytes, folder_bytes, buffer_bytes : int
        Raw trace; the folder; each CPU's buffer.
    zone_rows, api_rows, other_rows : int
        Events kept.
    before, after : FreeMap
    """

    status: int
    seconds: float
    whole: bool
    traced: float
    events: int
    lost: int
    trace_bytes: int
    folder_bytes: int
    buffer_bytes: int
    zone_rows: int
    api_rows: int
    other_rows: int
    before: FreeMap
    after: FreeMap

    def lines(self) -> list[str]:
        """Return what there is to say, in lines."""
        ended = f"exited with {self.status}" if self.status >= 0 else f"was ended by signal {-self.status}"
        rate = self.events / self.traced
        return [
            f"command: {ended}; {self.seconds:.1f} s recorded" + ("" if self.whole else ", not to its end"),
            f"events: {self.events:,} ({rate:,.0f} a second), {self.lost:,} lost, {self.trace_bytes / 1e6:,.1f} MB of "
            f"trace; {self.zone_rows:,} of zones, {self.api_rows:,} of pages and {self.other_rows:,} others kept, "
            f"{self.folder_bytes / 1e6:,.1f} MB",
            f"free blocks before: {_agreement(self.before)}",
            f"free blocks after: {_agreement(self.after)}",
            *(["events were lost: a larger --buffer may keep them all"] if self.lost else []),
        ]


@contextlib.contextmanager
def folder_for(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` that takes its place when the block ends well, and goes when it does not.

    Raises
    ------
    OutputError
        If ``out`` is there already and not an empty folder, or its place cannot be written.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out} is there already; name a new folder")
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        what = f"cannot write a recording to {out}: {error.strerror or error}"
        raise OutputError(f"{what}; name a folder that can be made") from error
    try:
        try:
            yield made
            made.chmod(0o755)
            made.replace(out)
        except OSError as error:
            what = f"cannot write a recording to {out}: {error.strerror or error}"
            raise OutputError(f"{what}; check the folder and its space") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
    finally:
        # Again, in case a signal came inside the first.
        shutil.rmtree(made, ignore_errors=True)


def _agreement(found: FreeMap) -> str:
    """Return how a map agrees with the kernel's own count."""
    blocks = f"{found.counted.sum():,} blocks in {len(found.zones)} zones"
    if found.distance == 0:
        return f"{blocks}, as /proc/buddyinfo counts them ({found.rewound:,} frames rewound)"
    return f"{blocks}, {found.distance:,} away from /proc/buddyinfo ({found.rewound:,} frames rewound)"


def record(out: Path, command: Sequence[str], say: Say, buffer: int | None = None) -> Summary:
    """Record this machine while a command runs.

    Parameters
    ----------
    out : Path
        The folder to make.
    command : sequence of str
        Program and arguments.
    say : callable
        Told in a line what goes on.
    buffer : int, optional
        Bytes of each CPU's buffer.

    Raises
    ------
    HostError
        If this machine cannot be recorded.
    OutputError
        If the folder cannot be made.
    ConfigurationError
        If there is no such command.
    """
    require_command(command)
    require()
    with interruptible(), folder_for(out) as made, contextlib.ExitStack() as stack:
        spool = made / "trace"
        spool.mkdir()
        largest = min(LARGEST_TRACE, max(_LEAST_TRACE, (procfiles.meminfo().get("MemAvailable", 0) - RESERVE) // 3))
        with watching(spool, buffer) as watch:
            say(f"tracing into {watch.buffer >> 20} MiB for each of {len(watch.drain.cpus)} CPUs")
            before = glimpse()
            say(f"running {' '.join(command)[:60]}")
            begin = time.monotonic()
            process = stack.enter_context(running(command))
            whole = _wait(process, watch, largest)
            seconds = time.monotonic() - begin
            say(f"{seconds:.1f} s recorded" + ("" if whole else "; the command goes on"))
            after = glimpse()
            live = live_texts()
            watch.end()
        say(f"putting {watch.drain.written / 1e6:,.1f} MB of trace in order")
        log = read_log([(cpu, watch.drain.path(cpu)) for cpu in watch.drain.cpus], watch.formats, watch.page_bytes)
        shutil.rmtree(spool)
        maps, rows = write_files(made, log, watch.formats, (before, after), live, say)
        return Summary(
            status=process.wait(),
            seconds=seconds,
            whole=whole,
            traced=(after.flags_end - before.before[0]) / 1e9,
            events=log.events,
            lost=max(watch.lost, log.lost),
            trace_bytes=watch.drain.written,
            folder_bytes=sum(file.stat().st_size for file in made.iterdir()),
            buffer_bytes=watch.buffer,
            zone_rows=rows[0],
            api_rows=rows[1],
            other_rows=rows[2],
            before=maps[0],
            after=maps[1],
        )


def _wait(process: subprocess.Popen[bytes], watch: Watch, largest: int) -> bool:
    """Wait for the command; return False if the trace is as long or as large as it may be before it ends."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and watch.drain.written < largest:
        watch.drain.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)
            return True
    return False


def write_files(
    folder: Path,
    log: EventLog,
    formats: Sequence[EventFormat],
    glimpses: tuple[Glimpse, Glimpse],
    live: dict[str, bytes],
    say: Say,
) -> tuple[tuple[FreeMap, FreeMap], tuple[int, int, int]]:
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

    Returns
    -------
    tuple
        The two maps of free blocks, and the numbers of rows written: of zones, of pages, of other events.
    """
    if len(log.cpu) and log.cpu.max() > _LARGEST_CPU:
        raise HostError(f"CPU {log.cpu.max()}, on this machine, a recording holds CPUs 0 to {_LARGEST_CPU}")
    zone = zonerows.zone_rows(log, formats, zonerows.per_cpu_orders())
    say("finding the free blocks at both ends")
    first, last = (
        _free_map(folder, prefix, seen, log, zone) for prefix, seen in zip(("pre", "post"), glimpses, strict=True)
    )
    say("writing")
    npfn = max(seen.flags.frames for seen in glimpses)
    for prefix, seen, found in zip(("pre", "post"), glimpses, (first, last), strict=True):
        layout.write_snapshot(folder / f"{prefix}_snapshot.npz", found.blocks, _runs(seen))
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
    for name, text in live.items():
        (folder / f"live_{name}.txt").write_bytes(text)
    (folder / "formats.txt").write_text("\n".join(one.text for one in formats), encoding="utf-8")
    return (first, last), (len(stream), len(api), len(other))


def _runs(seen: Glimpse) -> FlagRuns:
    return FlagRuns(seen.flags.starts, seen.flags.flags, seen.flags.frames)


def _free_map(folder: Path, prefix: str, seen: Glimpse, log: EventLog, zone: npt.NDArray[np.int64]) -> FreeMap:
    """Write a snapshot's texts; return its free blocks when the first of them was read."""
    for name, text in seen.texts.items():
        (folder / f"{prefix}_{name}.txt").write_bytes(text)
    (folder / f"{prefix}_times.txt").write_text(seen.times, encoding="ascii")
    events = ZoneEvents(log.operation[zone], log.order[zone], log.frame[zone])
    times = log.time[zone]
    early, late = (int(np.searchsorted(times, moment)) for moment in seen.before)
    return free_map(
        _runs(seen),
        events,
        range(early, late + 1),
        int(np.searchsorted(times, seen.flags_end)),
        read_zoneinfo(folder / f"{prefix}_zoneinfo.txt"),
        read_buddyinfo(folder / f"{prefix}_buddyinfo_before.txt"),
    )


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
