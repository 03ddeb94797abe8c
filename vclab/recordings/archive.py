"""Reading and writing of npz archives that hold nothing but plain integer columns.

An archive from outside is untrusted. Nothing in it is unpickled or evaluated, and no memory is taken for a
member before its declared size and its npy header have been checked against each other and against the bounds
below.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vclab.files import replacing
from vclab.recordings.refusal import reading, refusal

#: Most elements of one member; a column of this length takes at most 400 MB.
MEMBER_ELEMENTS = 50_000_000
#: Most bytes of one archive on disk, and of all members read from it when each element is widened to 8 bytes.
ARCHIVE_BYTES = 2_000_000_000
#: Most bytes of a dictionary that decompressing a member may take: that of LZMA's highest preset.
DICTIONARY_BYTES = 64 << 20
#: Most bytes of a member that holds text.
TEXT_BYTES = 65_536

# zipfile decompresses at most this many compressed bytes per read: 4 KiB of the densest LZMA are about 28 MB.
_READ_BYTES = 4096
_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 4096
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[iu][1248])', 'fortran_order': (True|False), "
    r"'shape': \((?:(\d{1,12}),(?: (\d{1,3}))?)?\),? ?\}\s*",
    re.ASCII,
)

Integer = TypeVar("Integer", bound=np.integer[Any])


class Archive:
    """An npz archive opened for reading, as a context manager.

    Parameters
    ----------
    path : Path
        The file. Only members that are asked for are read.

    Raises
    ------
    RecordingError
        If the file is no regular file, too large, or no zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes_left = ARCHIVE_BYTES
        with reading(path):
            if not path.is_file():
                raise refusal("no such file", path, "it should be an npz archive")
            if path.stat().st_size > ARCHIVE_BYTES:
                raise refusal("too large", path, f"an archive has at most {ARCHIVE_BYTES} bytes")
            self._zip = zipfile.ZipFile(path)
            self._members = {info.filename: info for info in self._zip.infolist()}

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def where(self, name: str) -> str:
        """Return the words that name a member in a message."""
        return f"{self.path}: {name}"

    def holds(self, name: str) -> bool:
        """Return whether a member is there."""
        return f"{name}.npy" in self._members

    def column(self, name: str, dtype: type[Integer], length: int | None = None) -> NDArray[Integer]:
        """Return a member of one dimension.

        Parameters
        ----------
        name : str
            Name without ``.npy``.
        dtype : type
            The integer type wanted; a stored value that it cannot hold is refused.
        length : int or None
            Number of elements that the layout demands, if it does.

        Returns
        -------
        ndarray
            dtype[n], writable.
        """
        with reading(self.where(name)):
            stored, shape = self._read(name)
        if len(shape) != 1:
            raise refusal(_dimensions(shape), self.where(name), "it should have one dimension")
        if length is not None and stored.size != length:
            raise refusal(f"{stored.size} elements", self.where(name), f"it should have {length}")
        return fitted(stored, dtype, self.where(name))

    def table(self, name: str, dtype: type[Integer], rows: int, columns: int) -> NDArray[Integer]:
        """Return a member of two dimensions, dtype[rows, columns]; another shape is refused."""
        with reading(self.where(name)):
            stored, shape = self._read(name)
        if shape != (rows, columns):
            raise refusal(_dimensions(shape), self.where(name), f"it should have {rows} rows of {columns}")
        return fitted(stored, dtype, self.where(name)).reshape(shape)

    def scalar(self, name: str) -> int:
        """Return a member that holds a single number."""
        with reading(self.where(name)):
            stored, _ = self._read(name)
        if stored.size != 1:
            raise refusal(f"{stored.size} elements", self.where(name), "it should be a single number")
        return int(stored[0])

    def names(self, name: str) -> tuple[str, ...]:
        """Return the lines of a member that holds UTF-8 text, as written by `text_column`."""
        letters = self.column(name, np.uint8)
        if letters.size > TEXT_BYTES:
            raise refusal(f"{letters.size} bytes", self.where(name), f"at most {TEXT_BYTES} can be read")
        with reading(self.where(name)):
            lines = tuple(letters.tobytes().decode("utf-8").split("\n"))
        if not all(line and line.isprintable() for line in lines) or len(set(lines)) != len(lines):
            raise refusal("an empty or repeated name", self.where(name), "names differ, one a line")
        return lines

    def _read(self, name: str) -> tuple[NDArray[Any], tuple[int, ...]]:
        """Return a member as a flat array in native byte order, and its shape (up to two dimensions)."""
        if not self.holds(name):
            raise refusal("no such member", self.where(name), "the layout needs it")
        member = self._members[f"{name}.npy"]
        if member.compress_type == zipfile.ZIP_LZMA:
            _check_dictionary(self.path, member, self.where(name))
        with self._zip.open(member) as stream:
            dtype, shape = _read_header(stream, self.where(name))
            count = math.prod(shape)
            if count > MEMBER_ELEMENTS:
                raise refusal(f"{count} elements", self.where(name), f"it has at most {MEMBER_ELEMENTS}")
            self._bytes_left -= 8 * count
            if self._bytes_left < 0:
                right = f"an archive has at most {ARCHIVE_BYTES // 8}"
                raise refusal("too many elements in all", self.where(name), right)
            size = count * dtype.itemsize
            if member.file_size != stream.tell() + size:
                right = f"its header asks for {size} bytes of data"
                raise refusal(f"a declared size of {member.file_size} bytes", self.where(name), right)
            content = bytearray()
            while len(content) < size:
                part = stream.read(min(_READ_BYTES, size - len(content)))
                if not part:
                    raise refusal("cut short", self.where(name), f"it should hold {size} bytes of data")
                content += part
        array: NDArray[Any] = np.frombuffer(content, dtype=dtype)
        return array.astype(dtype.newbyteorder("="), copy=False), shape


def _dimensions(shape: tuple[int, ...]) -> str:
    return f"a shape of {' x '.join(map(str, shape))}" if shape else "a single number"


def _read_header(stream: IO[bytes], where: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return dtype and shape from an npy header: matched, never evaluated."""
    start = stream.read(8)
    version = start[6:]
    if start[:6] != _MAGIC or version not in (b"\x01\x00", b"\x02\x00"):
        raise refusal("no npy array", where, "members are npy arrays of format 1.0 or 2.0")
    length_format = "<H" if version == b"\x01\x00" else "<I"
    (length,) = struct.unpack(length_format, stream.read(struct.calcsize(length_format)))
    text = stream.read(length).decode("latin-1") if length <= _HEADER_BYTES else ""
    match = _HEADER.fullmatch(text)
    if match is None or (match[4] and match[2] == "True"):
        right = "plain integers in at most two dimensions, row by row, are needed"
        raise refusal(f"an npy header {text[:80].strip()!r}", where, right)
    return np.dtype(match[1]), tuple(int(length) for length in match.groups()[2:] if length)


def fitted(stored: NDArray[Any], dtype: type[Integer], where: str) -> NDArray[Integer]:
    """Return an integer array in another integer type, refusing values that the type cannot hold."""
    limits = np.iinfo(dtype)
    if stored.size and not (limits.min <= int(stored.min()) and int(stored.max()) <= limits.max):
        what = f"values from {int(stored.min())} to {int(stored.max())}"
        raise refusal(what, where, f"they should lie between {limits.min} and {limits.max}")
    return stored.astype(dtype, copy=False)


def _check_dictionary(path: Path, member: zipfile.ZipInfo, where: str) -> None:
    """Refuse a member whose decompression would take a very large dictionary at once, whatever it holds."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(30)
        stream.seek(sum(struct.unpack("<HH", header[26:])), io.SEEK_CUR)
        # Version and size of the properties, two bytes each; then one byte, and the dictionary's size.
        (nbytes,) = struct.unpack("<I", stream.read(9)[5:])
    if nbytes > DICTIONARY_BYTES:
        raise refusal(f"a dictionary of {nbytes} bytes", where, f"it has at most {DICTIONARY_BYTES}")


def text_column(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return names as the bytes of UTF-8 text, one a line."""
    return np.frombuffer("\n".join(names).encode("utf-8"), dtype=np.uint8)


def write_archive(path: Path, members: Mapping[str, NDArray[Any]]) -> None:
    """Write an LZMA-compressed npz archive, all or nothing.

    The same members give the same bytes: no time of writing goes into the file.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "x", compression=zipfile.ZIP_LZMA) as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(info, content.getvalue(), compress_type=zipfile.ZIP_LZMA)
