"""Recordings of real machines' page allocators: reading, keeping and the ones that are shipped.

Files are untrusted. Whatever is wrong with one ends in a `vclab.errors.RecordingError` that names file and
field.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from vclab.recordings.compact import read_compact, write_compact
from vclab.recordings.folder import read_folder
from vclab.recordings.procfiles import ZoneInfo
from vclab.recordings.recording import (
    AllocatedMap,
    BlockMap,
    CompactionStep,
    CompactionStream,
    FrameKind,
    Operation,
    PageStream,
    Recording,
    ZoneStream,
)
from vclab.recordings.refusal import reading, refusal

__all__ = [
    "AllocatedMap",
    "BlockMap",
    "CompactionStep",
    "CompactionStream",
    "FrameKind",
    "Operation",
    "PageStream",
    "Recording",
    "ZoneInfo",
    "ZoneStream",
    "describe",
    "load",
    "names",
    "save",
]

_DATA = Path(__file__).parent / "data"
_SHIPPED = {
    "compile": "Linux 6.18, 2 CPUs, 24 GiB: a parallel C compile and Python imports, unfragmented, 53 s",
    "fragmented": "the same machine fragmented on purpose, then pipes, sockets, threads, large pages, files; 71 s",
}


def names() -> list[str]:
    """Return the names of the recordings that are shipped."""
    return sorted(_SHIPPED)


def describe(name: str) -> str:
    """Return one line about a shipped recording.

    Raises
    ------
    RecordingError
        If no such recording is shipped.
    """
    if name not in _SHIPPED:
        raise refusal(f"no recording {name!r}", "among the shipped ones", f"there are {', '.join(names())}")
    return _SHIPPED[name]


def load(name_or_path: str | os.PathLike[str]) -> Recording:
    """Read a recording.

    Parameters
    ----------
    name_or_path : str or path
        The name of a shipped recording, a folder laid out as in `vclab.recordings.folder`, or a compact file
        from `save`. A shipped name wins over a file of that name; write ``./NAME`` for the file. Shipped ones are read
        once a process and belong to all who ask: leave their arrays as they are.

    Raises
    ------
    RecordingError
        If there is no such recording, or it is damaged or of another layout.
    """
    if isinstance(name_or_path, str) and name_or_path in _SHIPPED:
        return _shipped(name_or_path)
    path = Path(name_or_path)
    with reading(path):
        if path.is_dir():
            return read_folder(path)
        if not path.exists():
            right = f"name a folder, a compact file, or a shipped recording: {', '.join(names())}"
            raise refusal("no such recording", path, right)
        return read_compact(path)


@lru_cache(maxsize=len(_SHIPPED))
def _shipped(name: str) -> Recording:
    """Read a shipped recording, which does not change, once a process."""
    path = _DATA / f"{name}.npz"
    with reading(path):
        return read_compact(path)


def save(recording: Recording, path: str | os.PathLike[str]) -> None:
    """Write a recording to a compact file, all or nothing.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    write_compact(recording, Path(path))
