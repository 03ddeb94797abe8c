"""Readers that empty each CPU's buffer into a file while the machine works."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from pathlib import Path
from types import TracebackType

from vclab.errors import HostError
from vclab.host.tracing import Instance

#: Seconds between two looks at a buffer.
PAUSE = 0.02
#: Most bytes per second and CPU that a page allocator was seen to write: 1.4 million events of 37 bytes.
PEAK_RATE = 52_000_000
#: Seconds at that rate that a buffer should outlast a reader that gets no CPU.
PATIENCE = 2.5
#: Least memory that stays available to everybody else.
RESERVE = 6 << 30
SMALLEST_BUFFER = 4 << 20

_HEADER = struct.Struct("<QI")
_LENGTH = (1 << 27) - 1
_PAGES_AT_ONCE = 256
# While tracing goes on, a reader stops at a page that is not nearly full: writing down what little it holds would make
# about as many events again.
_NEARLY_FULL = 0.75


def buffer_bytes(cpus: int, available: int, wanted: int | None = None) -> int:
    """Return the size of each CPU's buffer: for the peak rate, or as much as the reserve allows.

    Parameters
    ----------
    cpus : int
    available : int
        Bytes that the machine can give (MemAvailable).
    wanted : int, optional
        Use this size if it can be had.

    Raises
    ------
    HostError
        If there is too little memory to record without touching the reserve.
    """
    # As much again for what is read out and put in order afterwards.
    affordable = (available - RESERVE) // (2 * cpus)
    least = SMALLEST_BUFFER if wanted is None else wanted
    if least > affordable:
        needed = (RESERVE + 2 * cpus * least) >> 20
        raise HostError(f"{available >> 20} MiB of memory are available, on this machine, {needed} MiB are needed")
    return min(int(PEAK_RATE * PATIENCE) >> 20 << 20, affordable) if wanted is None else wanted


class Drain:
    """A thread for each CPU that reads whole sub-buffers and writes them to ``cpuN.raw``.

    As a context manager: reading begins with the block, and ends with it at the latest.

    Parameters
    ----------
    instance : Instance
        What is read.
    folder : Path
        Where the files go; it exists.
    page_bytes : int
        Size of a sub-buffer.
    """

    def __init__(self, instance: Instance, folder: Path, page_bytes: int) -> None:
        self.instance = instance
        self.folder = folder
        self.page_bytes = page_bytes
        self.cpus = instance.cpus
        self._ending = threading.Event()
        self._written = [0] * len(self.cpus)
        self._errors: list[OSError] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Drain:
        for index in range(len(self.cpus)):
            thread = threading.Thread(target=self._run, args=(index,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    @property
    def written(self) -> int:
        """Bytes read so far."""
        return sum(self._written)

    def path(self, cpu: int) -> Path:
        """Return the file of a CPU's sub-buffers."""
        return self.folder / f"cpu{cpu}.raw"

    def finish(self) -> None:
        """Read what is left, after tracing was switched off, and stop.

        Raises
        ------
        HostError
            If a buffer could not be read or a file not be written.
        """
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self.check()

    def check(self) -> None:
        """Raise what a reader has met.

        Raises
        ------
        HostError
            If a buffer could not be read or a file not be written.
        """
        if self._errors:
            reason = self._errors[0].strerror or str(self._errors[0])
            raise HostError(f"reading the trace failed ({reason}), {self.folder}, more space may help")

    def _run(self, index: int) -> None:
        try:
            self._read(index)
        except OSError as error:
            self._errors.append(error)

    def _read(self, index: int) -> None:
        cpu = self.cpus[index]
        # The work that is watched may want every CPU; a reader that has to wait loses events.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        page = self.page_bytes
        chunk = memoryview(bytearray(_PAGES_AT_ONCE * page))
        filled = 0
        source = os.open(self.instance.folder / f"per_cpu/cpu{cpu}/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
        try:
            with self.path(cpu).open("wb", buffering=0) as target:
                ending = False
                while not ending:
                    # Looked at first, so that all that was there when the end was asked for is read.
                    ending = self._ending.wait(PAUSE)
                    while self._next_page(source, chunk[filled : filled + page]):
                        length = _HEADER.unpack_from(chunk, filled)[1] & _LENGTH
                        filled += page
                        if filled == len(chunk):
                            target.write(chunk)
                            self._written[index] += filled
                            filled = 0
                        if not ending and length < _NEARLY_FULL * page:
                            break
                target.write(chunk[:filled])
                self._written[index] += filled
        finally:
            os.close(source)

    def _next_page(self, source: int, place: memoryview) -> bool:
        """Read one sub-buffer; return whether there was one."""
        try:
            return os.readv(source, [place]) == self.page_bytes
        except BlockingIOError:
            return False
