"""Two percent of the campaign of damaged inputs; the rest is ``python -m tests.campaigns.mutations``."""

from __future__ import annotations

import random

import pytest

from tests.campaigns import damage, mutations
from tests.campaigns.mutations import LOADERS, MEMORY


def test_two_percent_of_the_campaign_ends_as_it_may() -> None:
    tallies = mutations.run(0.02, seed=2)
    assert sum(tally.inputs for tally in tallies) == 200
    for tally in tallies:
        assert not tally.wrong, tally
        assert tally.accepted + tally.refused == tally.inputs > 0
        assert tally.memory < MEMORY // 10
    assert sum(tally.refused for tally in tallies if tally.name in LOADERS) > 50


@pytest.mark.parametrize("way", sorted({way.__name__ for way in damage.OF_TEXTS + damage.OF_ARCHIVES}))
def test_every_way_of_damage_does_some(way: str) -> None:
    content, others = b"Node 0, zone Normal 17\nNode 1, zone DMA 4\n" * 3, [b"Page block order: 9\n"]
    results = {getattr(damage, way)(content, others, random.Random(seed)) for seed in range(40)}
    assert len(results - {content}) > 10
    assert all(len(result) <= damage.MOST_BYTES for result in results)


def test_what_ends_otherwise_is_told(tmp_path: object) -> None:
    """The campaign sees a reader that raises something else, takes too much memory, or does not name the file."""
    subject = mutations.Subject("bad", {"text": b"1"}, lambda path: 1 // 0, damage.OF_BYTES)
    run = mutations._Run(subject, tmp_path / "place")  # type: ignore[operator]
    run.take(subject.files, "input 0")
    run.subject = subject._replace(read=lambda path: len(bytearray(MEMORY + 1)))
    run.take(subject.files, "input 1")

    def nameless(_: object) -> None:
        raise mutations.RecordingError("something is wrong")

    run.subject = subject._replace(read=nameless)
    run.take(subject.files, "input 2")
    wrong = run.tally().wrong
    assert [line.split(": ")[0] for line in wrong] == ["input 0", "input 1", "input 2"]
    assert "ZeroDivisionError" in wrong[0] and "bytes" in wrong[1] and "name the file" in wrong[2]
