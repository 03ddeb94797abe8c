"""The flags of every frame of this machine (``/proc/kpageflags``), run-length coded while they are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vclab.errors import HostError

KPAGEFLAGS = Path("/proc/kpageflags")
_WORD = 8
_FRAMES_AT_ONCE = 1 << 17
#: Frames of 52 bits of physical address.
_MOST_FRAMES = 1 << 40


@dataclass(frozen=True, eq=False)
class FrameFlags:
    """Flags of frames 0 to ``frames`` - 1.

    Attributes
    ----------
    starts : int64[n]
        First frame of each run, 0 first.
    flags : uint64[n]
        Its flags.
    frames : int
    """

    starts: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint64]
    frames: int


def readable() -> bool:
    """Return whether the flags can be read."""
    try:
        with KPAGEFLAGS.open("rb", buffering=0) as source:
            return bool(source.read(_WORD))
    except OSError:
        return False


def read_flags(path: Path = KPAGEFLAGS) -> FrameFlags:
    """Read all flags. They change meanwhile: about a second goes by for 24 GiB.

    Raises
    ------
    HostError
        If the file cannot be read, or ends inside a frame.
    """
    buffer = np.zeros(_FRAMES_AT_ONCE, "<u8")
    starts: list[npt.NDArray[np.int64]] = []
    flags: list[npt.NDArray[np.uint64]] = []
    frames = 0
    last: np.uint64 | None = None
    try:
        with path.open("rb", buffering=0) as source:
            while count := os.readv(source.fileno(), [buffer.data]):
                if count % _WORD or frames > _MOST_FRAMES:
                    raise HostError(f"{count} bytes more after frame {frames}, {path}, 8 bytes a frame are known")
                part = buffer[: count // _WORD]
                begins = np.flatnonzero(part[1:] != part[:-1]) + 1
                if last is None or part[0] != last:
                    begins = np.concatenate([[0], begins])
                starts.append(begins + frames)
                flags.append(part[begins].astype(np.uint64))
                last = part[-1]
                frames += len(part)
    except OSError as error:
        raise HostError(f"cannot be read ({error.strerror}), {path}, root is needed") from error
    if not frames:
        raise HostError(f"empty, {path}, root is needed")
    return FrameFlags(np.concatenate(starts), np.concatenate(flags), frames)
