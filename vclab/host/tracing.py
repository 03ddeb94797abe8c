"""A tracing instance of our own: buffers and events beside those of anybody else, gone when it is left."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vclab.errors import HostError

#: Begins the name of each instance; the process and a random number follow.
PREFIX = "vclab-"
_NAME = re.compile(rf"{PREFIX}(\d+)-[0-9a-f]+")
_REMOVALS = 50
_PAUSE = 0.02
_STATISTIC = re.compile(r"([a-z ]+): (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Instance:
    """Files of a tracing instance.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    def write(self, name: str, text: str) -> None:
        """Set a file of the instance.

        Raises
        ------
        HostError
            If the kernel refuses.
        """
        try:
            (self.folder / name).write_text(text)
        except OSError as error:
            what = f"{text!r} is refused ({error.strerror or error})"
            raise HostError(f"{what}, {self.folder / name}, a kernel that traces events is needed") from error

    def read(self, name: str) -> str:
        """Return a file of the instance.

        Raises
        ------
        HostError
            If it cannot be read.
        """
        try:
            return (self.folder / name).read_text()
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise HostError(f"{what}, {self.folder / name}, a kernel that traces events is needed") from error

    def has_event(self, event: str) -> bool:
        """Return whether the kernel has an event, named ``group/event``."""
        return (self.folder / "events" / event / "format").exists()

    @property
    def cpus(self) -> list[int]:
        """CPUs that have a buffer, ascending."""
        return sorted(int(place.name[3:]) for place in (self.folder / "per_cpu").glob("cpu[0-9]*"))

    def lost(self) -> int:
        """Return how many events found no room in a buffer, or were overwritten before they were read."""
        lost = 0
        for cpu in self.cpus:
            found = dict(_STATISTIC.findall(self.read(f"per_cpu/cpu{cpu}/stats")))
            lost += sum(int(found.get(name, 0)) for name in ("overrun", "commit overrun", "dropped events"))
        return lost


@contextlib.contextmanager
def instance(tracing: Path) -> Iterator[Instance]:
    """Give a new instance, and remove it however the block is left.

    Instances that processes which are no more have left (they were killed) are removed first.

    Parameters
    ----------
    tracing : Path
        Where tracefs is mounted.

    Raises
    ------
    HostError
        If the kernel gives none.
    """
    every = tracing / "instances"
    _remove_orphans(every)
    folder = every / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        try:
            _make(folder)
            yield Instance(folder)
        finally:
            _remove(folder)
    finally:
        # Again, in case a signal came inside the first.
        _remove(folder)


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        what = f"no tracing instance can be made ({error.strerror or error})"
        raise HostError(f"{what}, {folder.parent}, root on a kernel with trace events is needed") from error


def _remove(folder: Path) -> None:
    """Remove an instance, waiting a little for readers to let go; no effect if it is gone."""
    for left in reversed(range(_REMOVALS)):
        if not folder.exists():
            return
        try:
            (folder / "tracing_on").write_text("0")
            (folder / "events" / "enable").write_text("0")
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or not left:
                raise HostError(f"a tracing instance stays ({error.strerror}), {folder}, remove it by rmdir") from error
            time.sleep(_PAUSE)


def _remove_orphans(every: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in every.iterdir():
            match = _NAME.fullmatch(folder.name)
            if match is not None and not Path("/proc", match[1]).exists():
                with contextlib.suppress(OSError, HostError):
                    _remove(folder)
