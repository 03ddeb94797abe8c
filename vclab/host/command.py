"""Running somebody's command, and ending it if we are ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from vclab.errors import ConfigurationError

_GRACE_SECONDS = 3.0


def require_command(command: Sequence[str]) -> None:
    """Refuse a command that does not exist.

    Raises
    ------
    ConfigurationError
    """
    if not command:
        raise ConfigurationError("no command, after --, name what is to run while the machine is recorded")
    if shutil.which(command[0]) is None:
        raise ConfigurationError(f"no command {command[0]!r}, after --, name a program that can be run")


@contextlib.contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Give a running command; end it, and what it started, if the block is left before it has ended.

    On a terminal it stays in our process group, so that it can read the keyboard and gets Ctrl-C itself.

    Raises
    ------
    ConfigurationError
        If it cannot be started.
    """
    own_group = not (sys.stdin is not None and sys.stdin.isatty())
    try:
        process = subprocess.Popen(list(command), process_group=0 if own_group else None)
    except OSError as error:
        what = f"{command[0]!r} cannot be run ({error.strerror})"
        raise ConfigurationError(f"{what}, after --, name a program that can be run") from error
    try:
        try:
            yield process
        finally:
            _end(process, own_group)
    finally:
        # Again, in case a signal came inside the first.
        _end(process, own_group)


def _end(process: subprocess.Popen[bytes], own_group: bool) -> None:
    """End a command that still runs: asked first, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if own_group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
