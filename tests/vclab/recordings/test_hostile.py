"""No archive can do harm: hostile headers, sizes and columns, and damage anywhere."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vclab.recordings.small import (
    NEEDED,
    assert_tiles,
    compact_columns,
    integer,
    quick,
    refused,
    write_npz,
)
from vclab import recordings
from vclab.errors import RecordingError
from vclab.recordings import archive


def harmless(path: Path) -> None:
    """Load something damaged: a recording or a RecordingError in one line are both right, all else is not."""
    try:
        recording = recordings.load(path)
    except RecordingError as error:
        assert str(error).isprintable() and str(path) in str(error)
    else:
        assert_tiles(recording)


def npy(header: str, body: bytes, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin-1")
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + body


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "no npy array"),
        (b"\x93NUMPY\x03\x00", "no npy array"),
        (b"PK" * 40, "no npy array"),
        (npy("", b""), "an npy header ''"),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"1234567"),
            "declared size .* 8 bytes",
        ),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"123456789"),
            "declared size .* 8 bytes",
        ),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999,), }", b""),
            "99999999 elements, .* at most",
        ),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (49999999,), }", b""), "declared size of"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }", b""), "an npy header"),
        (
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999999999999999,), }", b""),
            "an npy header",
        ),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", b"12345678"), "plain integers"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", b"cos\nsystem\n"), "plain integers"),
        (npy("{'descr': '<i3', 'fortran_order': False, 'shape': (), }", b"123"), "plain integers"),
        (npy("[" * 3000, b""), "an npy header"),
        (npy("__import__('os').abort()", b""), "an npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "an npy header ''"),
        (b"\x93NUMPY\x01\x00\x10", "cannot be read"),
    ],
)
def test_hostile_headers_are_refused(content: bytes, pattern: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as output:
        output.writestr("layout.npy", content)
    refused(tmp_path / "bad.npz", pattern)


def test_other_integer_layouts_are_read(folder: Path, tmp_path: Path) -> None:
    columns = {name: column.astype(column.dtype.newbyteorder(">")) for name, column in compact_columns(folder).items()}
    with zipfile.ZipFile(tmp_path / "other.npz", "w", zipfile.ZIP_DEFLATED) as output:
        for name, column in columns.items():
            with output.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, column, version=(2, 0))
    assert recordings.load(tmp_path / "other.npz").digest == recordings.load(folder).digest


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_members_larger_than_declared_take_no_memory(method: int, tmp_path: Path) -> None:
    """A member of 128 MB that claims to hold the one number its header names."""
    path = tmp_path / "bomb.npz"
    head = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (), }", bytes(8))
    with zipfile.ZipFile(path, "w", method) as output:
        output.writestr("layout.npy", head + bytes(128_000_000))
    content = bytearray(path.read_bytes())
    declared = content.rindex(b"PK\x01\x02") + 24
    content[declared : declared + 4] = struct.pack("<I", len(head))
    path.write_bytes(content)
    tracemalloc.start()
    refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80_000_000  # one read of the densest LZMA is 30 MB, and zipfile holds it twice


def test_more_elements_than_an_archive_may_have_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_BYTES", 8 * 30)
    refused(folder, r"too large, .*pre_snapshot\.npz, an archive has at most 240 bytes")
    monkeypatch.setattr(archive, "ARCHIVE_BYTES", 8 * 5000)
    columns = {"layout": integer(1, "i8"), "first_frame": integer(1, "i8"), "frames": integer(9, "i8")}
    columns["before_code"] = np.zeros(5000, dtype="u1")
    write_npz(tmp_path / "many.npz", columns)
    refused(tmp_path / "many.npz", r"too many elements in all, .*: before_code, an archive has at most 5000")


def test_encrypted_and_unknown_compression_are_refused(folder: Path, tmp_path: Path) -> None:
    compact_columns(folder)
    whole = (tmp_path / "whole.npz").read_bytes()
    entry = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99), (10, 12)):
        content = bytearray(whole)
        content[entry + offset] = value
        (tmp_path / "odd.npz").write_bytes(content)
        refused(tmp_path / "odd.npz", r"cannot be read \(")


FILES = [*NEEDED, "post_snapshot.npz", "post_buddyinfo_before.txt", "api_head.npz", "aux_events.npz", "compact.npz"]


@quick
@given(file=st.sampled_from(FILES), data=st.data())
def test_damage_is_refused_or_does_no_harm(victims: tuple[Path, Path, Path], file: str, data: st.DataObject) -> None:
    whole, damaged, compact = victims
    original = (compact if file == "compact.npz" else whole / file).read_bytes()
    content = bytearray(original)
    kind = data.draw(st.sampled_from(["flip", "flip", "set", "cut", "insert", "tail"]))
    where = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "set":
        filling = data.draw(st.sampled_from([b"\x00", b"\xff", b"-", b"9"]))
        content[where : where + 8] = filling * len(content[where : where + 8])
    elif kind == "cut":
        del content[where:]
    elif kind == "insert":
        content[where:where] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        content += data.draw(st.binary(min_size=1, max_size=99))
    target = compact.with_name("damaged.npz") if file == "compact.npz" else damaged / file
    target.write_bytes(content)
    try:
        harmless(target if file == "compact.npz" else damaged)
    finally:
        target.write_bytes(original)


@quick
@given(data=st.data())
def test_hostile_columns_are_refused_or_do_no_harm(victims: tuple[Path, Path, Path], data: st.DataObject) -> None:
    """Columns of a compact file replaced by numbers that the format can hold, checksums being right."""
    with np.load(victims[2], allow_pickle=False) as stored:
        columns = dict(stored)
    for name in data.draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=2, unique=True)):
        column = columns[name].copy().reshape(-1)
        limits = np.iinfo(column.dtype)
        number = st.sampled_from([limits.min, limits.max, 0, 1]) | st.integers(limits.min, limits.max)
        for row in data.draw(st.lists(st.integers(0, column.size - 1), min_size=1, max_size=3)):
            column[row] = data.draw(number)
        columns[name] = column.reshape(columns[name].shape)
    target = victims[2].with_name("hostile.npz")
    write_npz(target, columns)
    harmless(target)


def test_large_dictionaries_are_refused_before_they_are_taken(folder: Path) -> None:
    path = folder / "pre_snapshot.npz"
    content = bytearray(path.read_bytes())
    at = content.index(b"npfn.npy") + len("npfn.npy") + 5
    assert struct.unpack("<I", content[at : at + 4]) == (8 << 20,)
    content[at : at + 4] = struct.pack("<I", (64 << 20) + 1)
    path.write_bytes(content)
    tracemalloc.start()
    refused(folder, r"a dictionary of 67108865 bytes, .*pre_snapshot\.npz: npfn, it has at most 67108864")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    path.write_bytes(content[: at - 5])
    refused(folder, r"cannot be read \(")
