"""Reading of ``/proc/vmstat``: the kernel's counters by name."""

from __future__ import annotations

import re
from pathlib import Path

from vclab.recordings.refusal import refusal
from vclab.recordings.textfile import counter, lines

_ROW = re.compile(r"(\w{1,100}) (\S+)", re.ASCII)


def read_vmstat(path: Path) -> dict[str, int]:
    """Return the counters by name, in the order of the file.

    Raises
    ------
    RecordingError
        If the file is missing, a line is no counter or a name comes twice.
    """
    counters: dict[str, int] = {}
    for where, line in lines(path):
        match = _ROW.fullmatch(line.strip())
        if match is None:
            raise refusal(f"{line[:60]!r}", where, "a line should be a counter's name and its value")
        if match[1] in counters:
            raise refusal(f"{match[1]} again", where, "a counter has one line")
        counters[match[1]] = counter(match[2], where)
    if not counters:
        raise refusal("no counter", path, "vmstat has a line for each")
    return counters
