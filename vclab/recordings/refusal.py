"""The one place where damage found in a file becomes a RecordingError."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vclab.errors import RecordingError

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    RuntimeError,  # an encrypted zip member; NotImplementedError is one of these too
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
)


def refusal(what: str, where: str | Path, right: str) -> RecordingError:
    """Return the error ``WHAT, WHERE, what would be right``, on one line whatever the file put into it."""
    line = f"{what}, {where}, {right}"
    return RecordingError("".join(letter if letter.isprintable() else "?" for letter in line))


@contextmanager
def reading(where: str | Path) -> Iterator[None]:
    """Turn whatever error a damaged file provokes inside the block into a RecordingError naming `where`."""
    try:
        yield
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        what = f"cannot be read ({reason or type(error).__name__})"
        raise refusal(what, where, "a complete, undamaged recording is needed") from error
