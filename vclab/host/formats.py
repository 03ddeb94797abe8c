"""What an event's record looks like on this kernel: number, and offsets of its fields, read from its format file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vckernels.ringbuffer import COMMON_WORDS, EVENT_NUMBERS, HEADER_WORDS, PAYLOAD_WORDS
from vclab.errors import HostError

_COMMON_BYTES = 4 * COMMON_WORDS
_PAYLOAD_BYTES = 8 * PAYLOAD_WORDS
_NUMBER = re.compile(r"^ID:\s*(\d{1,9})$", re.MULTILINE)
_FIELD = re.compile(r"^\s*field:(?:.*\W)?(\w+)(\[\d*\])?;\s*offset:(\d{1,9});\s*size:(\d{1,9});\s*signed:([01]);", re.M)


@dataclass(frozen=True)
class Field:
    """Where a field stands in a record.

    Attributes
    ----------
    offset, size : int
        Bytes from the record's start, and of the field.
    signed : bool
    """

    offset: int
    size: int
    signed: bool

    def of(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the field of each record, int64[n].

        Parameters
        ----------
        words : uint64[n, PAYLOAD_WORDS]
            Records from their first own field on.
        """
        at = self.offset - _COMMON_BYTES
        bits = 8 * self.size
        value = words[:, at // 8] >> np.uint64(8 * (at % 8))
        if bits == 64:
            return value.astype(np.int64)
        value = value & np.uint64((1 << bits) - 1)
        number = value.astype(np.int64)
        return np.where(number >= 1 << (bits - 1), number - (1 << bits), number) if self.signed else number


@dataclass(frozen=True)
class EventFormat:
    """One event's record.

    Attributes
    ----------
    name : str
        ``group/event``.
    number : int
        What its records begin with.
    fields : mapping of str to Field
        Its own fields that lie within the words that are kept.
    text : str
        The kernel's whole description.
    """

    name: str
    number: int
    fields: Mapping[str, Field]
    text: str

    def field(self, name: str) -> Field:
        """Return a field.

        Raises
        ------
        HostError
            If this kernel's event has none of that name.
        """
        if name not in self.fields:
            raise HostError(f"no field {name}, in the format of event {self.name}, a kernel that gives it is needed")
        return self.fields[name]


def event_format(name: str, text: str) -> EventFormat:
    """Return an event's format from the text of its ``format`` file.

    Raises
    ------
    HostError
        If the text is none, or records begin otherwise than on every kernel known.
    """
    number = _NUMBER.search(text)
    found = {match[1]: match for match in _FIELD.finditer(text)}
    kind = found.get("common_type")
    if number is None or int(number[1]) >= EVENT_NUMBERS or kind is None or kind.group(3, 4) != ("0", "2"):
        raise HostError(f"a record of unknown form, in the format of event {name}, its number should come first")
    fields = {}
    for field, match in found.items():
        offset, size = int(match[3]), int(match[4])
        if field.startswith("common_"):
            if offset + size > _COMMON_BYTES:
                raise HostError(f"common field {field} at {offset}, in the format of event {name}, 8 bytes are known")
            continue
        within = _COMMON_BYTES <= offset and offset + size <= _COMMON_BYTES + _PAYLOAD_BYTES
        if match[2] is None and size in (1, 2, 4, 8) and offset % size == 0 and within:
            fields[field] = Field(offset, size, match[5] == "1")
    return EventFormat(name, int(number[1]), fields, text)


def page_bytes(header_page: str) -> int:
    """Return the bytes of a sub-buffer from the text of ``events/header_page``.

    Raises
    ------
    HostError
        If its header is not that of every 64-bit kernel known.
    """
    found = {match[1]: (int(match[3]), int(match[4])) for match in _FIELD.finditer(header_page)}
    data = found.get("data", (0, 0))
    header = 4 * HEADER_WORDS
    if (found.get("timestamp"), found.get("commit"), data[0]) != ((0, 8), (8, 8), header) or data[1] % 4:
        raise HostError("sub-buffers of unknown form, in events/header_page, a 64-bit kernel is needed")
    return header + data[1]
