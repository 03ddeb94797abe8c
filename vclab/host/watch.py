"""Watching this machine's page allocator: tracing, snapshots of all frames, and readers that keep up with them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vclab.errors import HostError
from vclab.host import frameflags, procfiles
from vclab.host.drain import Drain, buffer_bytes
from vclab.host.eventlog import OTHER_EVENTS, PAGE_EVENTS
from vclab.host.formats import EventFormat, event_format, page_bytes
from vclab.host.frameflags import FrameFlags
from vclab.host.mounts import file_system
from vclab.host.tracing import Instance, instance

#: The clock of the trace; ``time.monotonic_ns`` is the same one.
CLOCK = "mono"
_INDEX_FILES = ("extfrag_index", "unusable_index")
_LIVE_TEXTS = ("pagetypeinfo", "zoneinfo", "vmstat", "slabinfo", "vmallocinfo")
_CONSISTENT_TRIES = 20


@dataclass(frozen=True, eq=False)
class Glimpse:
    """All frames of the machine, and the kernel's own counts before and after they were read.

    Attributes
    ----------
    texts : dict of str to bytes
        ``buddyinfo_before``, ``buddyinfo``, ``pagetypeinfo``, ``zoneinfo``.
    flags : FrameFlags
    before : tuple of int
        Monotonic ns between which ``buddyinfo_before`` was read.
    flags_begin, flags_end : int
        Between which the flags were read.
    after : tuple of int
        Between which ``buddyinfo`` was read.
    """

    texts: dict[str, bytes]
    flags: FrameFlags
    before: tuple[int, int]
    flags_begin: int
    flags_end: int
    after: tuple[int, int]

    @property
    def times(self) -> str:
        """One line: whether both counts agree, tries, the four times, and the number of frames."""
        quiet = int(self.texts["buddyinfo_before"] == self.texts["buddyinfo"])
        return f"{quiet} 1 {self.before[1]} {self.flags_begin} {self.flags_end} {self.after[1]} {self.flags.frames}\n"


def glimpse() -> Glimpse:
    """Look at all frames now.

    Raises
    ------
    HostError
        If this machine does not show them.
    """
    texts = {name: procfiles.read_text(name) for name in ("pagetypeinfo", "zoneinfo")}
    texts["buddyinfo_before"], *before = procfiles.timed_buddyinfo()
    begin = time.monotonic_ns()
    flags = frameflags.read_flags()
    end = time.monotonic_ns()
    texts["buddyinfo"], *after = procfiles.timed_buddyinfo()
    return Glimpse(texts, flags, (before[0], before[1]), begin, end, (after[0], after[1]))


def live_texts() -> dict[str, bytes]:
    """Return the kernel's texts of one moment, the fragmentation indices beside buddyinfo where debugfs shows them.

    buddyinfo and the indices belong together: they are read again until nothing changed meanwhile, and the indices are
    left out if that does not happen.
    """
    found = procfiles.read_optional(_LIVE_TEXTS)
    found["buddyinfo"] = procfiles.read_text("buddyinfo")
    with contextlib.suppress(HostError, OSError), file_system("debugfs") as debug:
        for _ in range(_CONSISTENT_TRIES):
            before = procfiles.read_text("buddyinfo")
            indices = procfiles.read_optional(_INDEX_FILES, debug / "extfrag")
            if procfiles.read_text("buddyinfo") == before:
                return found | {"buddyinfo": before} | indices
    return found


@dataclass
class Watch:
    """Tracing that is on.

    Attributes
    ----------
    instance : Instance
    drain : Drain
    formats : list of EventFormat
        Of the events that are recorded.
    page_bytes, buffer : int
        Bytes of a sub-buffer, and of each CPU's buffer.
    lost : int
        Events lost; known when tracing has ended.
    """

    instance: Instance
    drain: Drain
    formats: Sequence[EventFormat]
    page_bytes: int
    buffer: int
    lost: int = 0

    def end(self) -> None:
        """Stop tracing and read what is left in the buffers.

        Raises
        ------
        HostError
            If a reader failed.
        """
        self.instance.write("tracing_on", "0")
        self.drain.finish()
        self.lost = self.instance.lost()


@contextlib.contextmanager
def watching(folder: Path, buffer: int | None = None) -> Iterator[Watch]:
    """Trace the page allocator into files of a folder while the block runs; leave nothing in the kernel.

    Parameters
    ----------
    folder : Path
        Where each CPU's sub-buffers go.
    buffer : int, optional
        Bytes of each CPU's buffer; without it, for the highest rate seen and the memory that is available.

    Raises
    ------
    HostError
        If the machine, or the user, cannot.
    """
    require()
    with file_system("tracefs") as tracing, instance(tracing) as own:
        size = buffer_bytes(len(own.cpus), procfiles.meminfo().get("MemAvailable", 0), buffer)
        formats = [_format(own, name) for name in PAGE_EVENTS]
        formats += [_format(own, name) for name in OTHER_EVENTS if own.has_event(name)]
        own.write("tracing_on", "0")
        own.write("trace_clock", CLOCK)
        own.write("buffer_size_kb", str(size >> 10))
        page = page_bytes((tracing / "events" / "header_page").read_text())
        for one in formats:
            own.write(f"events/{one.name}/enable", "1")
        with Drain(own, folder, page) as drain:
            own.write("tracing_on", "1")
            yield Watch(own, drain, formats, page, size)


def _format(own: Instance, name: str) -> EventFormat:
    return event_format(name, own.read(f"events/{name}/format"))


def require() -> None:
    """Refuse to go on where the page allocator cannot be watched.

    Raises
    ------
    HostError
        Naming what is missing: root, the frame flags, or tracefs.
    """
    procfiles.require_root()
    if not frameflags.readable():
        raise HostError(
            f"no frame flags, {frameflags.KPAGEFLAGS}, a kernel with CONFIG_PROC_PAGE_MONITOR and root are needed"
        )
    with file_system("tracefs") as tracing:
        for name in PAGE_EVENTS:
            if not (tracing / "events" / name / "format").exists():
                raise HostError(f"no event {name}, {tracing}, a kernel with trace events and root are needed")
