"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vclab import files
from vclab.errors import OutputError


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with files.replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_unwritable_places_are_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for place in (blocked, blocked / "below"):
        with pytest.raises(OutputError, match="name a folder that can be written"):
            files.prepare_folder(place)
