"""Sizes in words and in numbers: ``"2MiB"``, ``"64 KiB"``, ``4096`` (bytes)."""

from __future__ import annotations

import re

from vclab.errors import ConfigurationError

PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT

_FACTORS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)

#: Page sizes of x86-64 by the level of their leaf entry: 1 page table, 2 page directory, 3 pointer table.
PAGE_SIZES = {"4K": 1, "2M": 2, "1G": 3}


def parse_bytes(text: str | int, what: str = "size") -> int:
    """Return a size in bytes.

    Parameters
    ----------
    text : str or int
        A number of bytes, or a number with K, M, G or T (powers of 1024; ``KiB`` and ``KB`` mean the same).
    what : str
        Name of the setting, for the error message.

    Raises
    ------
    ConfigurationError
        If the text is no size, or not a whole number of bytes.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        value: float = text
    else:
        match = _SIZE.fullmatch(str(text))
        if match is None:
            raise ConfigurationError(f"{what} {text!r} is not a size; write it like '2GiB', '64K' or 4096")
        value = float(match[1]) * _FACTORS[match[2].upper()]
    if value != int(value) or value < 0:
        raise ConfigurationError(f"{what} {text!r} is not a whole number of bytes; write it like '2GiB' or 4096")
    return int(value)


def format_bytes(count: float) -> str:
    """Return a size for people: ``1536`` becomes ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def page_level(size: str) -> int:
    """Return the level of the leaf entry for a page size: 1 for 4K, 2 for 2M, 3 for 1G.

    Raises
    ------
    ConfigurationError
        If x86-64 has no such page size.
    """
    if size not in PAGE_SIZES:
        raise ConfigurationError(f"page size {size!r} does not exist; x86-64 has {', '.join(PAGE_SIZES)}")
    return PAGE_SIZES[size]
