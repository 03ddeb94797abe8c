"""Readers of what the page allocator says of itself: buddyinfo, pagetypeinfo, and the zones' sizes in zoneinfo.

Tables by order may have 10 to 13 columns, as kernels are built with that many orders.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.refusal import refusal
from vclab.recordings.textfile import ZONE_ROW, capped_count, check_order_columns, count, lines, zone_label
from vclab.recordings.zonetext import read_zones

#: The watermarks of a zone that zoneinfo may give, in frames; ``min``, ``low`` and ``high`` are always there.
WATERMARKS = ("boost", "min", "low", "high", "promo")

_TYPE_ROW = re.compile(r"Node\s+(\d{1,5}), zone\s+([\w-]{1,32}), type\s+([\w-]{1,32})((?:\s.*)?)", re.ASCII)
_BLOCK_ORDER = re.compile(r"Page block order: (\S+)\s*", re.ASCII)


@dataclass(frozen=True)
class ZoneInfo:
    """One zone of zoneinfo.

    Attributes
    ----------
    node : int
        NUMA node.
    name : str
        ``DMA``, ``DMA32``, ``Normal``, ``Movable`` or ``Device``.
    start_pfn : int
        First frame of the zone; 0 if the zone is empty and the kernel gives none.
    spanned, present, managed : int
        Frames with and without holes, and those the page allocator manages: the present ones, where an
        old kernel tells of no others.
    watermarks : dict
        Frames by name of WATERMARKS, as far as given.
    """

    node: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    watermarks: dict[str, int]

    @property
    def label(self) -> str:
        """Name of the zone among all nodes."""
        return zone_label(self.node, self.name)


@dataclass(frozen=True, eq=False)
class BuddyInfo:
    """Free blocks by zone and order.

    Attributes
    ----------
    zone_names : tuple of str
        Labels of the rows.
    counts : ndarray
        int64[zones, orders], number of free blocks.
    """

    zone_names: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PageTypeInfo:
    """Free blocks by zone, migratetype and order, and pageblocks by zone and migratetype.

    Attributes
    ----------
    zone_names, type_names : tuple of str
        What the first two dimensions mean.
    counts : ndarray
        int64[zones, types, orders], number of free blocks.
    capped : ndarray
        uint8[zones, types, orders], 1 where the kernel stopped counting: the count is a lower bound.
    pageblocks : ndarray
        int64[zones, types], number of pageblocks.
    mixed : ndarray or None
        int64[zones, types], pageblocks that hold pages of another type; only kernels that track owners tell, -1 where
        one does not.
    pageblock_order : int or None
    """

    zone_names: tuple[str, ...]
    type_names: tuple[str, ...]
    counts: NDArray[np.int64]
    capped: NDArray[np.uint8]
    pageblocks: NDArray[np.int64]
    mixed: NDArray[np.int64] | None = None
    pageblock_order: int | None = None


def read_buddyinfo(path: Path) -> BuddyInfo:
    """Read ``/proc/buddyinfo``.

    Raises
    ------
    RecordingError
        If the file is missing or a line is not a zone with its counts.
    """
    rows: dict[str, list[int]] = {}
    for where, line in lines(path):
        match = ZONE_ROW.fullmatch(line)
        if match is None:
            right = "a line should read 'Node 0, zone Normal' and one count per order"
            raise refusal(f"{line[:60]!r}", where, right)
        label = zone_label(int(match[1]), match[2])
        if label in rows:
            raise refusal(f"zone {label} again", where, "a zone has one line")
        rows[label] = [count(word, where) for word in match[3].split()]
        check_order_columns(rows[label], next(iter(rows.values())), where)
    if not rows:
        raise refusal("no zone", path, "buddyinfo has a line for each zone")
    return BuddyInfo(tuple(rows), np.array(list(rows.values()), dtype=np.int64))


def read_pagetypeinfo(path: Path) -> PageTypeInfo:
    """Read ``/proc/pagetypeinfo``.

    Raises
    ------
    RecordingError
        If the file is missing, a line cannot be understood, or a zone lacks one of its rows.
    """
    free: dict[str, dict[str, list[str]]] = {}
    blocks: dict[str, dict[str, list[int]]] = {"blocks": {}, "mixed": {}}
    type_names: tuple[str, ...] = ()
    pageblock_order: int | None = None
    section = ""
    first_row: list[str] = []
    for where, line in lines(path):
        if line.startswith("Number of "):
            words = line.split()
            section = {"blocks": "blocks", "mixed": "mixed"}.get(words[2] if len(words) > 2 else "", "")
            if section == "blocks" and words[3:4] == ["type"]:
                type_names = tuple(words[4:])
        elif line.startswith(("Page block order:", "Pages per block:", "Free pages count per migrate type")):
            section = ""
            if (order := _BLOCK_ORDER.fullmatch(line)) is not None:
                pageblock_order = count(order[1], where)
        elif (match := _TYPE_ROW.fullmatch(line)) is not None:
            words = match[4].split()
            first_row = first_row or words
            check_order_columns(words, first_row, where)
            rows = free.setdefault(zone_label(int(match[1]), match[2]), {})
            if match[3] in rows:
                raise refusal(f"type {match[3]} again", where, "a zone has one line for each type")
            rows[match[3]] = [capped_count(word, where) for word in words]
        elif (match := ZONE_ROW.fullmatch(line)) is None:
            raise refusal(f"{line[:60]!r}", where, "a line should name a zone, or be a known heading")
        elif section:
            label = zone_label(int(match[1]), match[2])
            if label in blocks[section]:
                raise refusal(f"zone {label} again", where, "a zone has one line in a table")
            blocks[section][label] = [count(word, where) for word in match[3].split()]
    if not free or not type_names or len(set(type_names)) != len(type_names):
        right = "pagetypeinfo has both, with each type once"
        raise refusal("no table of free pages or of blocks", path, right)
    for label, rows in free.items():
        widths = {len(found[label]) for found in blocks.values() if label in found}
        if set(rows) != set(type_names) or widths != {len(type_names)} or label not in blocks["blocks"]:
            right = f"it should have {', '.join(type_names)}"
            raise refusal(f"zone {label} lacks rows or columns", path, right)
    table = [[rows[name] for name in type_names] for rows in free.values()]
    mixed = [blocks["mixed"].get(label, [-1] * len(type_names)) for label in free] if blocks["mixed"] else None
    return PageTypeInfo(
        zone_names=tuple(free),
        type_names=type_names,
        counts=np.array([[[int(word.lstrip(">")) for word in row] for row in rows] for rows in table], np.int64),
        capped=np.array([[[word[0] == ">" for word in row] for row in rows] for rows in table], np.uint8),
        pageblocks=np.array([blocks["blocks"][label] for label in free], dtype=np.int64),
        mixed=None if mixed is None else np.array(mixed, dtype=np.int64),
        pageblock_order=pageblock_order,
    )


def read_zoneinfo(path: Path) -> list[ZoneInfo]:
    """Read ``/proc/zoneinfo``.

    Raises
    ------
    RecordingError
        If the file is missing, a number is not one, or a zone lacks its sizes or watermarks.
    """
    zones = []
    for zone in read_zones(path):
        found = zone.sizes
        missing = {"spanned", "present", "min", "low", "high"} - found.keys()
        if found.get("spanned") and "start_pfn" not in zone.rest:
            missing.add("start_pfn")
        if missing:
            what = f"zone {zone.label} lacks {', '.join(sorted(missing))}"
            raise refusal(what, path, "each zone has them")
        zones.append(
            ZoneInfo(
                node=zone.node,
                name=zone.name,
                start_pfn=zone.rest.get("start_pfn", 0),
                spanned=found["spanned"],
                present=found["present"],
                # Old kernels took all frames of a zone that exist for the allocator's.
                managed=found.get("managed", found["present"]),
                watermarks={mark: found[mark] for mark in WATERMARKS if mark in found},
            )
        )
    return zones
