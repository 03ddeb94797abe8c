"""Tests of recordings: both layouts say the same, the events explain the maps, and no file can do harm."""

from __future__ import annotations
