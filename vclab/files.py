"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vclab.errors import OutputError


def prepare_folder(out: Path) -> None:
    """Make sure that results can be written to a folder, creating it if need be.

    Raises
    ------
    OutputError
        If it cannot be created or written, or is a file.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write results to {out}: {error.strerror or error}; name a folder that can be written"
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and move it there at the end; nothing half written is left on failure.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; check the folder and its space") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(out: Path, what: str) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` that takes its place when the block ends well, and goes when it does not.

    Parameters
    ----------
    out : Path
        The folder to make.
    what : str
        What it is for, for messages: ``a recording``.

    Raises
    ------
    OutputError
        If ``out`` is there already and not an empty folder, or its place cannot be written.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out} is there already; name a new folder")
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        why = f"cannot write {what} to {out}: {error.strerror or error}"
        raise OutputError(f"{why}; name a folder that can be made") from error
    try:
        try:
            yield made
            made.chmod(0o755)
            made.replace(out)
        except OSError as error:
            why = f"cannot write {what} to {out}: {error.strerror or error}"
            raise OutputError(f"{why}; check the folder and its space") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
    finally:
        # Again, in case a signal came inside the first.
        shutil.rmtree(made, ignore_errors=True)
