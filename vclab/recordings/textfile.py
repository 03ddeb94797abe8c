"""Lines and numbers of the kernel's text files, bounded before memory is taken for them."""

from __future__ import annotations

import re
from pathlib import Path

from vclab.recordings.refusal import reading, refusal

#: Most bytes of a text file, unless its reader says otherwise.
TEXT_BYTES = 4_000_000
#: Orders that a table may have: kernels are built with that many.
ORDER_COLUMNS = range(10, 14)
#: Largest value of the kernel's counters.
MOST = (1 << 64) - 1
ZONE_ROW = re.compile(r"Node\s+(\d{1,5}), zone\s+([\w-]{1,32})((?:\s.*)?)", re.ASCII)

_BYTES_AT_ONCE = 65_536
_COUNT = re.compile(r"\d{1,15}", re.ASCII)
_CAPPED_COUNT = re.compile(r">?\d{1,15}", re.ASCII)
_COUNTER = re.compile(r"\d{1,20}", re.ASCII)


def lines(path: Path, most_bytes: int = TEXT_BYTES) -> list[tuple[str, str]]:
    """Return the lines of a text file that are not blank, each with the words that name it in a message.

    Raises
    ------
    RecordingError
        If the file is missing, too long, or no UTF-8.
    """
    with reading(path):
        if not path.is_file():
            raise refusal("no such file", path, "a recording holds it")
        content = bytearray()
        with path.open("rb") as stream:
            # In pieces: a read takes memory for all that it is asked for.
            while (part := stream.read(_BYTES_AT_ONCE)) and len(content) <= most_bytes:
                content += part
        if len(content) > most_bytes:
            raise refusal("too long", path, f"a text file has at most {most_bytes} bytes")
        found = content.decode("utf-8").split("\n")
    return [(f"{path} line {number}", line) for number, line in enumerate(found, 1) if line.strip()]


def _matching(pattern: re.Pattern[str], word: str, where: str, digits: int) -> str:
    if pattern.fullmatch(word) is None:
        raise refusal(f"{word[:40]!r}", where, f"a count of at most {digits} digits is needed")
    return word


def count(word: str, where: str) -> int:
    """Return a count as a number, or refuse it: up to 15 digits, so that sums of some fit 64 bits."""
    return int(_matching(_COUNT, word, where, 15))


def capped_count(word: str, where: str) -> str:
    """Return a count that may be a lower bound, as ``>100000``, or refuse it."""
    return _matching(_CAPPED_COUNT, word, where, 15)


def counter(word: str, where: str) -> int:
    """Return one of the kernel's 64-bit counters as a number, or refuse it."""
    number = int(_matching(_COUNTER, word, where, 20))
    if number > MOST:
        raise refusal(word, where, "a counter has 64 bits")
    return number


def check_order_columns(row: list[int] | list[str], first_row: list[int] | list[str], where: str) -> None:
    """Refuse a row by order that has too few or too many columns, or other than the file's first one."""
    if len(row) not in ORDER_COLUMNS or len(row) != len(first_row):
        raise refusal(f"{len(row)} counts by order", where, "every line has the same number of them, 10 to 13")


def zone_label(node: int, name: str) -> str:
    """Return a zone's name among all nodes: the plain name on node 0."""
    return name if node == 0 else f"{name} (node {node})"


def node_and_zone(label: str) -> tuple[int, str]:
    """Return node and plain name of a zone's label."""
    name, _, node = label.partition(" (node ")
    return (int(node.rstrip(")")) if node else 0), name
