"""Recording this machine: watch its page allocator while a command runs, and write what was seen as a recording."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vclab.files import new_folder
from vclab.host import procfiles
from vclab.host.command import require_command, running
from vclab.host.drain import RESERVE
from vclab.host.eventlog import read_log
from vclab.host.interruption import interruptible
from vclab.host.watch import Watch, glimpse, live_texts, require, watching
from vclab.recordings.freemap import FreeMap
from vclab.watched import Say, Written, write_recording

#: Most bytes of raw trace, and most seconds, that a recording takes; the command goes on beyond.
LARGEST_TRACE = 2 << 30
LONGEST = 4200.0
_LEAST_TRACE = 64 << 20
_LOOK = 0.2


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
    written : Written
        What the folder holds.
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
    written: Written

    def lines(self) -> list[str]:
        """Return what there is to say, in lines."""
        ended = f"exited with {self.status}" if self.status >= 0 else f"was ended by signal {-self.status}"
        kept, against = self.written, self.written.contradictions
        rate = self.events / self.traced
        return [
            f"command: {ended}; {self.seconds:.1f} s recorded" + ("" if self.whole else ", not to its end"),
            f"events: {self.events:,} ({rate:,.0f} a second), {self.lost:,} lost, {self.trace_bytes / 1e6:,.1f} MB of "
            f"trace; {kept.zone_rows:,} of zones, {kept.api_rows:,} of pages and {kept.other_rows:,} others kept, "
            f"{self.folder_bytes / 1e6:,.1f} MB",
            f"free blocks before: {_agreement(kept.before)}",
            f"free blocks after: {_agreement(kept.after)}",
            f"the events lead from one to the other but for {against.differing:,} frames; they lack at least "
            f"{against.unseen_removals:,} removals and {against.unseen_frees:,} frees of frames",
            *(["events were lost: a larger --buffer may keep them all"] if self.lost else []),
        ]


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
    with interruptible(), new_folder(out, "a recording") as made, contextlib.ExitStack() as stack:
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
        written = write_recording(made, log, watch.formats, (before, after), live, say)
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
            written=written,
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
