"""Ways to damage a file: cut, flipped, grown, spliced, with numbers that are too large, inside archives too."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

#: No damaged file is larger.
MOST_BYTES = 65_536
_NUMBER = re.compile(rb"\d+")
_EXTREMES = (
    "0", "-1", "1", "10", "11", "255", "1023", "4000", "65536", "2147483648", "4294967296", "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "9" * 15, "9" * 16, "9" * 40, "1e9", "0x10", "1.5", "", ">5", "NaN",
    "\u0661",
)  # fmt: skip
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
_TYPES = ("<i8", "<u8", "<i4", "<u4", "<i2", "<i1", "<u1", ">i8", "|b1", "<f8", "|O", "<U8", "<i3")
_SHAPES = (
    "()",
    "(0,)",
    "(1,)",
    "(7,)",
    "(49999999,)",
    "(50000001,)",
    "(999999999999,)",
    "(-1,)",
    "(2, 3)",
    "(1, 1, 1)",
)


def truncated(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    """Cut the end off."""
    return content[: rng.randrange(len(content) + 1)]


def flipped(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(content)
    for _unused in range(rng.choice((1, 1, 1, 2, 4, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def filled(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    """Overwrite a stretch."""
    start = rng.randrange(len(content) + 1)
    part = rng.choice((b"\x00", b"\xff", b"9", b"-", b" ", b"\n", b"\x80", b"PK\x01\x02", b"(", b"\x93NUMPY"))
    end = start + rng.choice((1, 2, 4, 8, 64))
    return content[:start] + (part * 64)[: end - start] + content[end:]


def oversized(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    """Repeat a stretch, up to the largest size."""
    start = rng.randrange(len(content) + 1)
    stretch = content[start : start + rng.choice((1, 8, 80, 800, 8000))]
    return _grown(content, start, stretch, rng.choice((2, 3, 10, 1000, 100_000)))


def _grown(content: bytes, start: int, stretch: bytes, times: int) -> bytes:
    room = max(MOST_BYTES - len(content), 0)
    more = stretch * min(times, room // max(len(stretch), 1))
    return content[:start] + more + content[start:]


def removed(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    """Take a stretch out."""
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 2, 8, 80, 800)) :]


def spliced(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Go on with another file after some place."""
    other = rng.choice(others)
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def renumbered(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    """Put extreme numbers in the place of one to three numbers."""
    for _unused in range(rng.choice((1, 1, 2, 3))):
        numbers = list(_NUMBER.finditer(content))
        if numbers:
            place = rng.choice(numbers)
            content = content[: place.start()] + rng.choice(_EXTREMES).encode() + content[place.end() :]
    return content


def relined(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Swap, drop, repeat or borrow a line."""
    lines = content.split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines[one], lines[two] = lines[two], lines[one]
    elif change == 1:
        del lines[one]
    elif change == 2:
        lines.insert(two, lines[one])
    else:
        lines.insert(one, rng.choice(rng.choice(others).split(b"\n")))
    return b"\n".join(lines)


def resealed(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Damage a member of an archive, or its header, and write the archive anew, with right sums."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # whatever zipfile says to an archive that is damaged already
        members = {}
    if not members:
        return flipped(content, others, rng)
    name = rng.choice(sorted(members))
    change = rng.randrange(5)
    if change == 0:
        del members[name]
    elif change == 1:
        members[name] = members[rng.choice(sorted(members))]
    elif change == 2:
        members[name] = _reshaped(members[name], rng)
    else:
        # The npy header of 128 bytes stays, so that values are damaged and not only texts.
        head, body = members[name][:128], members[name][128:]
        damage = rng.choice((flipped, filled, truncated, removed, oversized))
        members[name] = head + damage(body, others, rng) if rng.random() < 0.8 else damage(head + body, others, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice(_METHODS)) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return _lying(out.getvalue(), rng) if rng.random() < 0.2 else out.getvalue()


def _reshaped(member: bytes, rng: random.Random) -> bytes:
    """Give an npy array another type or shape, with its data as it was or as long as asked for."""
    header = f"{{'descr': '{rng.choice(_TYPES)}', 'fortran_order': False, 'shape': {rng.choice(_SHAPES)}, }}"
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + member[128 : 128 + rng.choice((0, 8, 56, 9999))]


def _lying(content: bytes, rng: random.Random) -> bytes:
    """Change sizes, sums, methods or flags that an archive declares of its members."""
    changed = bytearray(content)
    entries = [match.start() for match in re.finditer(rb"PK\x01\x02", content)]
    if entries:
        at = rng.choice(entries) + rng.choice((8, 10, 16, 20, 24, 42))
        value = rng.choice((0, 1, 12, 14, 99, 0xFFFFFFFF, 0x7FFFFFFF, len(content), zlib.crc32(content)))
        changed[at : at + 4] = struct.pack("<I", value)
    return bytes(changed)


Damage = Callable[[bytes, Sequence[bytes], random.Random], bytes]
OF_BYTES: tuple[Damage, ...] = (truncated, flipped, filled, oversized, removed, spliced)
OF_TEXTS: tuple[Damage, ...] = (*OF_BYTES, renumbered, renumbered, relined)
OF_ARCHIVES: tuple[Damage, ...] = (*OF_BYTES, *[resealed] * 6)
