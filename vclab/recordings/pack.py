"""For maintainers: ``python -m vclab.recordings.pack FOLDER OUT.npz`` makes a compact file of a folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from vclab.errors import VclabError
from vclab.recordings import load, save
from vclab.units import format_bytes


def main(arguments: list[str] | None = None) -> int:
    """Pack a recording, read it back, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vclab.recordings.pack", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a recording, folder or compact file")
    parser.add_argument("out", type=Path, metavar="OUT.npz", help="the compact file to write")
    parser.add_argument(
        "--pages", type=int, metavar="ROWS", help="keep this many rows of the API level, the first ones"
    )
    options = parser.parse_args(arguments)
    try:
        recording = load(options.folder)
        if options.pages is not None and recording.pages is not None:
            recording = replace(recording, pages=recording.pages.head(options.pages))
        save(recording, options.out)
        if load(options.out).digest != recording.digest:
            raise VclabError(f"content changed by packing, {options.out}, vclab.recordings is at fault")
    except VclabError as error:
        print(f"vclab: error: {error}", file=sys.stderr)
        return 2
    size, events = format_bytes(options.out.stat().st_size), recording.stream.frame.size
    print(f"{options.out}: {size}, {events} events of zone {recording.zone_name}, {recording.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
