"""Reading of ``/proc/slabinfo``, version 2.1: the caches of the slab allocator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from vclab.recordings.refusal import refusal
from vclab.recordings.textfile import count, lines

_HEADING = re.compile(r"slabinfo - version: 2\.1(?: \(statistics\))?", re.ASCII)
# What follows slabdata are statistics that only debugging kernels print.
_ROW = re.compile(r"(\S{1,255})((?: +\S+){5}) : tunables((?: +\S+){3}) : slabdata((?: +\S+){3})(?: : .*)?", re.ASCII)


class SlabCache(NamedTuple):
    """One cache.

    Attributes
    ----------
    name : str
    active_objects, objects : int
        In use, and allocated.
    object_bytes : int
        With padding.
    objects_per_slab, frames_per_slab : int
    limit, batch, shared_factor : int
        Tunables; 0 in SLUB.
    active_slabs, slabs : int
    shared_available : int
    """

    name: str
    active_objects: int
    objects: int
    object_bytes: int
    objects_per_slab: int
    frames_per_slab: int
    limit: int
    batch: int
    shared_factor: int
    active_slabs: int
    slabs: int
    shared_available: int

    @property
    def order(self) -> int:
        """Order of a slab."""
        return max(self.frames_per_slab, 1).bit_length() - 1


def read_slabinfo(path: Path) -> list[SlabCache]:
    """Read ``/proc/slabinfo``.

    Raises
    ------
    RecordingError
        If the file is missing, of another version, or a line is no cache.
    """
    rows = lines(path)
    if not rows or _HEADING.fullmatch(rows[0][1].strip()) is None:
        raise refusal("another heading", path, "slabinfo should begin with 'slabinfo - version: 2.1'")
    caches: dict[str, SlabCache] = {}
    for where, line in rows[1:]:
        if line.startswith("#"):
            continue
        match = _ROW.fullmatch(line.strip())
        if match is None:
            raise refusal(f"{line[:60]!r}", where, "a line should be a cache, its objects, tunables and slabdata")
        if match[1] in caches:
            raise refusal(f"cache {match[1][:60]} again", where, "a cache has one line")
        numbers = [count(word, where) for word in " ".join(match.group(2, 3, 4)).split()]
        caches[match[1]] = SlabCache(match[1], *numbers)
    return list(caches.values())
