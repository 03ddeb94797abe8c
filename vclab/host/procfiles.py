"""The kernel's own texts about memory, as they are, and the moment of each reading."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from vclab.errors import HostError

PROC = Path("/proc")
#: Texts of the page allocator.
ALLOCATOR = ("buddyinfo", "pagetypeinfo", "zoneinfo")
_MEMINFO = re.compile(r"^(\w[\w()]*):\s+(\d+) kB$", re.MULTILINE)


def read_text(name: str, folder: Path = PROC) -> bytes:
    """Return a text of the kernel.

    Raises
    ------
    HostError
        If it cannot be read.
    """
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise HostError(f"{what}, {folder / name}, root on a Linux machine is needed") from error


def read_optional(names: Iterable[str], folder: Path = PROC) -> dict[str, bytes]:
    """Return those texts that can be read."""
    found = {}
    for name in names:
        try:
            found[name] = (folder / name).read_bytes()
        except OSError:
            continue
    return found


def timed_buddyinfo() -> tuple[bytes, int, int]:
    """Return ``/proc/buddyinfo`` and the monotonic time, in ns, just before and just after it was read."""
    begin = time.monotonic_ns()
    text = read_text("buddyinfo")
    return text, begin, time.monotonic_ns()


def meminfo() -> dict[str, int]:
    """Return ``/proc/meminfo`` in bytes by name."""
    text = read_text("meminfo").decode("ascii", "replace")
    return {match[1]: int(match[2]) << 10 for match in _MEMINFO.finditer(text)}


def require_root() -> None:
    """Refuse to go on without the right to look into the kernel.

    Raises
    ------
    HostError
    """
    if not hasattr(os, "geteuid") or not PROC.joinpath("buddyinfo").exists():
        raise HostError("no /proc/buddyinfo, on this machine, a Linux kernel is needed")
    if os.geteuid() != 0:
        raise HostError(f"user {os.geteuid()} may not look into the kernel, on this machine, root may")
