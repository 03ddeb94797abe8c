"""Readers of the kernel's own text files: buddyinfo, pagetypeinfo and zoneinfo.

Tables by order may have 10 to 13 columns, as kernels are built with that many orders.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.refusal import reading, refusal

#: The watermarks of a zone that zoneinfo may give, in frames; ``min``, ``low`` and ``high`` are always there.
WATERMARKS = ("boost", "min", "low", "high", "promo")

_TEXT_BYTES = 4_000_000
_ORDER_COLUMNS = range(10, 14)
_COUNT = re.compile(r"\d{1,15}", re.ASCII)
_CAPPED_COUNT = re.compile(r">?\d{1,15}", re.ASCII)
_ZONE_ROW = re.compile(r"Node\s+(\d{1,5}), zone\s+([\w-]{1,32})((?:\s.*)?)", re.ASCII)
_TYPE_ROW = re.compile(r"Node\s+(\d{1,5}), zone\s+([\w-]{1,32}), type\s+([\w-]{1,32})((?:\s.*)?)", re.ASCII)
_SIZES = "spanned|present|managed|boost|min|low|high|promo|start_pfn:"
_SIZE_ROW = re.compile(rf"\s*({_SIZES})\s+(\S+)\s*", re.ASCII)


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
        Frames with and without holes, and those the page allocator manages.
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
    """

    zone_names: tuple[str, ...]
    type_names: tuple[str, ...]
    counts: NDArray[np.int64]
    capped: NDArray[np.uint8]
    pageblocks: NDArray[np.int64]


def zone_label(node: int, name: str) -> str:
    """Return a zone's name among all nodes: the plain name on node 0."""
    return name if node == 0 else f"{name} (node {node})"


def read_buddyinfo(path: Path) -> BuddyInfo:
    """Read ``/proc/buddyinfo``.

    Raises
    ------
    RecordingError
        If the file is missing or a line is not a zone with its counts.
    """
    rows: dict[str, list[int]] = {}
    for where, line in _lines(path):
        match = _ZONE_ROW.fullmatch(line)
        if match is None:
            right = "a line should read 'Node 0, zone Normal' and one count per order"
            raise refusal(f"{line[:60]!r}", where, right)
        label = zone_label(int(match[1]), match[2])
        if label in rows:
            raise refusal(f"zone {label} again", where, "a zone has one line")
        rows[label] = [_count(word, where) for word in match[3].split()]
        _check_order_columns(rows[label], next(iter(rows.values())), where)
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
    pageblocks: dict[str, list[int]] = {}
    type_names: tuple[str, ...] = ()
    in_pageblocks = False
    first_row: list[str] = []
    for where, line in _lines(path):
        if line.startswith("Number of "):
            words = line.split()
            in_pageblocks = words[2:4] == ["blocks", "type"]
            if in_pageblocks:
                type_names = tuple(words[4:])
        elif line.startswith(("Page block order:", "Pages per block:", "Free pages count per migrate type")):
            in_pageblocks = False
        elif (match := _TYPE_ROW.fullmatch(line)) is not None:
            words = match[4].split()
            first_row = first_row or words
            _check_order_columns(words, first_row, where)
            rows = free.setdefault(zone_label(int(match[1]), match[2]), {})
            rows[match[3]] = [_matching(_CAPPED_COUNT, word, where) for word in words]
        elif (match := _ZONE_ROW.fullmatch(line)) is None:
            raise refusal(f"{line[:60]!r}", where, "a line should name a zone, or be a known heading")
        elif in_pageblocks:
            label = zone_label(int(match[1]), match[2])
            pageblocks[label] = [_count(word, where) for word in match[3].split()]
    if not free or not type_names or len(set(type_names)) != len(type_names):
        right = "pagetypeinfo has both, with each type once"
        raise refusal("no table of free pages or of blocks", path, right)
    for label, rows in free.items():
        if set(rows) != set(type_names) or len(pageblocks.get(label, ())) != len(type_names):
            right = f"it should have {', '.join(type_names)}"
            raise refusal(f"zone {label} lacks rows or columns", path, right)
    table = [[rows[name] for name in type_names] for rows in free.values()]
    return PageTypeInfo(
        zone_names=tuple(free),
        type_names=type_names,
        counts=np.array([[[int(word.lstrip(">")) for word in row] for row in rows] for rows in table], np.int64),
        capped=np.array([[[word[0] == ">" for word in row] for row in rows] for rows in table], np.uint8),
        pageblocks=np.array([pageblocks[label] for label in free], dtype=np.int64),
    )


def read_zoneinfo(path: Path) -> list[ZoneInfo]:
    """Read ``/proc/zoneinfo``.

    Raises
    ------
    RecordingError
        If the file is missing, a number is not one, or a zone lacks its sizes or watermarks.
    """
    sizes: dict[tuple[int, str], dict[str, int]] = {}
    current: dict[str, int] | None = None
    for where, line in _lines(path):
        zone = _ZONE_ROW.fullmatch(line)
        size = _SIZE_ROW.fullmatch(line)
        if zone is not None:
            current = sizes.setdefault((int(zone[1]), zone[2]), {})
        elif size is not None:
            if current is None:
                raise refusal(f"{size[1]} before any zone", where, "a zone's sizes follow its name")
            current.setdefault(size[1].rstrip(":"), _count(size[2], where))
    if not sizes:
        raise refusal("no zone", path, "zoneinfo describes each zone")
    zones = []
    for (node, name), found in sizes.items():
        missing = {"spanned", "present", "managed", "min", "low", "high"} - found.keys()
        if found.get("spanned") and "start_pfn" not in found:
            missing.add("start_pfn")
        if missing:
            what = f"zone {zone_label(node, name)} lacks {', '.join(sorted(missing))}"
            raise refusal(what, path, "each zone has them")
        zones.append(
            ZoneInfo(
                node=node,
                name=name,
                start_pfn=found.get("start_pfn", 0),
                spanned=found["spanned"],
                present=found["present"],
                managed=found["managed"],
                watermarks={mark: found[mark] for mark in WATERMARKS if mark in found},
            )
        )
    return zones


def _lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a text file that are not blank, each with the words that name it in a message."""
    with reading(path):
        if not path.is_file():
            raise refusal("no such file", path, "a recording holds it")
        with path.open("rb") as stream:
            content = stream.read(_TEXT_BYTES + 1)
        if len(content) > _TEXT_BYTES:
            raise refusal("too long", path, f"a text file has at most {_TEXT_BYTES} bytes")
        lines = content.decode("utf-8").split("\n")
    return [(f"{path} line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def _matching(pattern: re.Pattern[str], word: str, where: str) -> str:
    """Return a word that is a count, or refuse it."""
    if pattern.fullmatch(word) is None:
        raise refusal(f"{word[:40]!r}", where, "a count of at most 15 digits is needed")
    return word


def _count(word: str, where: str) -> int:
    """Return a count as a number, or refuse it."""
    return int(_matching(_COUNT, word, where))


def _check_order_columns(row: list[int] | list[str], first_row: list[int] | list[str], where: str) -> None:
    """Refuse a row by order that has too few or too many columns, or other than the file's first one."""
    if len(row) not in _ORDER_COLUMNS or len(row) != len(first_row):
        raise refusal(f"{len(row)} counts by order", where, "every line has the same number of them, 10 to 13")
