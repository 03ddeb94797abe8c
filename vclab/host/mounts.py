"""Where a file system of the kernel is mounted; in a folder of our own for a while if it is nowhere."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vclab.errors import HostError

#: Begins the name of each folder that a file system is mounted in for a while; the process follows.
PREFIX = "vclab-mount-"
_OWN = re.compile(rf"{PREFIX}(\d+)-\w+")
_MOUNTS = Path("/proc/self/mounts")
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DETACH = 2


def mounted_at(kind: str) -> Path | None:
    """Return where a file system (``tracefs``, ``debugfs``) is mounted to stay, None if it is nowhere."""
    for line in _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split(" ")
        if len(words) < 3 or words[2] != kind or "\\" in words[1]:
            continue
        place = Path(words[1])
        if not place.name.startswith(PREFIX) and os.access(place, os.R_OK | os.X_OK):
            return place
    return None


@contextlib.contextmanager
def file_system(kind: str) -> Iterator[Path]:
    """Give the folder of a kernel's file system, mounting it in one of our own for the while if need be.

    Raises
    ------
    HostError
        If it is mounted nowhere and cannot be.
    """
    try:
        place = mounted_at(kind)
    except OSError as error:
        raise HostError(f"no {_MOUNTS}, on this machine; mount /proc and {kind}") from error
    if place is not None:
        yield place
        return
    _remove_orphans()
    own = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        try:
            _mount(kind, own)
            yield own
        finally:
            _unmount(own)
    finally:
        # Again, in case a signal came inside the first.
        _unmount(own)


def _mount(kind: str, place: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_NOSUID | _NODEV | _NOEXEC)
    if library.mount(b"vclab", os.fsencode(place), kind.encode(), flags, None):
        reason = os.strerror(ctypes.get_errno())
        raise HostError(f"{kind} cannot be mounted ({reason}), on this machine; be root on a kernel that has it")


def _remove_orphans() -> None:
    """Take back what processes that are no more (they were killed) have mounted."""
    for line in _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        place = Path(line.split(" ")[1])
        match = _OWN.fullmatch(place.name)
        if match is not None and not Path("/proc", match[1]).exists():
            with contextlib.suppress(OSError):
                _unmount(place)


def _unmount(place: Path) -> None:
    """Take a mount of our own back; no effect if it is gone."""
    if place.exists():
        if os.path.ismount(place):
            ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(place), _DETACH)
        place.rmdir()
