"""Whether this machine can be watched, and what is left in its kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vclab.errors import VclabError
from vclab.host import procfiles, watch
from vclab.host.drain import RESERVE
from vclab.host.mounts import PREFIX, file_system
from vclab.host.tracing import PREFIX as INSTANCE_PREFIX

_BUFFERS = 256 << 20


def _reason() -> str:
    """Return why this machine cannot be watched, nothing if it can."""
    try:
        watch.require()
    except (VclabError, OSError) as error:
        return str(error)
    if procfiles.meminfo().get("MemAvailable", 0) < RESERVE + _BUFFERS:
        return "too little memory is free"
    return ""


REASON = _reason()
needs_live_kernel = pytest.mark.skipif(bool(REASON), reason=REASON)
BUFFER = 8 << 20


def left_in_kernel(process: int | None = None) -> set[str]:
    """Return the tracing instances and folders of mounts that a process, this one by default, has in the kernel."""
    number = os.getpid() if process is None else process
    with file_system("tracefs") as tracing:
        instances = {place.name for place in (tracing / "instances").glob(f"{INSTANCE_PREFIX}{number}-*")}
        mounts = {word for word in Path("/proc/self/mounts").read_text().split() if f"{PREFIX}{number}-" in word}
        return instances | mounts - {str(tracing)}
