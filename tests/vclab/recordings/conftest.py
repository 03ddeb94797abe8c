"""Recordings that several tests read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.vclab.recordings.small import write_folder
from vclab import recordings
from vclab.recordings import Recording


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "small")


@pytest.fixture(scope="module")
def shipped() -> Recording:
    return recordings.load("compile")


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A whole folder, a folder to damage, and a compact file of them."""
    place = tmp_path_factory.mktemp("victims")
    whole = write_folder(place / "whole")
    shutil.copytree(whole, place / "damaged")
    recordings.save(recordings.load(whole), place / "compact.npz")
    return whole, place / "damaged", place / "compact.npz"
