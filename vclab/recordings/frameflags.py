"""Reading of ``/proc/kpageflags`` as a file: 64 little-endian bits a frame, run-length coded while they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.occupancy import FlagRuns
from vclab.recordings.recording import MACHINE_FRAMES
from vclab.recordings.refusal import reading, refusal

#: Most runs of equal flags; they take 16 bytes each.
MOST_RUNS = 25_000_000
_WORD = 8
_BYTES_AT_ONCE = 1 << 20


def read_frame_flags(path: Path) -> FlagRuns:
    """Read the flags of frames 0 to n - 1.

    Memory is taken for runs of equal flags, not for frames.

    Raises
    ------
    RecordingError
        If the file is missing or empty, ends inside a frame, or has too many frames or runs.
    """
    starts: list[NDArray[np.int64]] = []
    flags: list[NDArray[np.uint64]] = []
    frames = runs = 0
    last: np.uint64 | None = None
    with reading(path), path.open("rb") as source:
        while content := source.read(_BYTES_AT_ONCE):
            if len(content) % _WORD:
                raise refusal(f"{len(content) % _WORD} bytes after frame {frames}", path, "a frame has 8 bytes")
            part = np.frombuffer(content, "<u8")
            begins = np.flatnonzero(part[1:] != part[:-1]) + 1
            if last is None or part[0] != last:
                begins = np.concatenate([[0], begins])
            runs += len(begins)
            frames += len(part)
            if frames > MACHINE_FRAMES:
                raise refusal(f"more than {MACHINE_FRAMES} frames", path, "physical addresses have 52 bits")
            if runs > MOST_RUNS:
                raise refusal(f"more than {MOST_RUNS} runs of equal flags", path, "frame flags repeat")
            starts.append(begins + (frames - len(part)))
            flags.append(part[begins].astype(np.uint64))
            last = part[-1]
    if not frames:
        raise refusal("no frame", path, "there are 8 bytes for each")
    return FlagRuns(np.concatenate(starts).astype(np.int64), np.concatenate(flags), frames)
