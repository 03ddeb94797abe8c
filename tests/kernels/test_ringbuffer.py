"""Raw sub-buffers, beside a plain reading byte by byte."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.ringbuffer import BrokenPage, PageWriter, Reading, read_page
from vckernels import ringbuffer as kernels
from vckernels.ringbuffer import PAYLOAD_WORDS, PageCount

SMALL_PAGE = 256
WANTED = (3, 17, 700)
ALL = range(kernels.EVENT_NUMBERS)


def switched(numbers: object) -> np.ndarray:
    """Return the table of the event numbers to give out."""
    wanted = np.zeros(kernels.EVENT_NUMBERS, np.uint8)
    wanted[list(numbers)] = 1  # type: ignore[call-overload]
    return wanted


def as_words(pages: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(pages), "<u4").reshape(len(pages), -1)


def plain(pages: list[bytes], numbers: object = ALL) -> tuple[list[tuple[int, int, bytes]], dict[str, int]]:
    """Return records and counts by the plain reading."""
    records: list[tuple[int, int, bytes]] = []
    counts = dict.fromkeys(PageCount.__members__, 0)
    for page in pages:
        counts["PAGES"] += 1
        try:
            reading: Reading = read_page(page)
        except BrokenPage:
            counts["BROKEN_PAGES"] += 1
            continue
        records += [record for record in reading.records if record[1] in numbers]  # type: ignore[operator]
        counts["EVENTS"] += reading.events
        counts["SHORT"] += reading.short
        counts["LOST_PAGES"] += reading.lost is not None
        counts["LOST_EVENTS"] += reading.lost if reading.lost not in (None, -1) else 0
    return records, counts


def read(
    pages: list[bytes], numbers: object = ALL, room: int = 0
) -> tuple[list[tuple[int, int, bytes]], dict[str, int]]:
    """Return records and counts by the kernel, called again as often as its columns of ``room`` rows ask for."""
    words = as_words(pages)
    wanted = switched(numbers)
    counts = np.zeros(kernels.PAGE_COUNTS, np.int64)
    records = []
    first = 0
    while first < len(pages):
        events = kernels.new_events(room or words.size)
        rows = np.zeros(1, np.int64)
        following = kernels.read_pages(words, 5, wanted, events, counts, first, rows)
        assert following > first
        first = following
        filled = slice(0, rows[0])
        assert (events.cpu[filled] == 5).all()
        times, numbers_given = events.time[filled].tolist(), events.event[filled].tolist()
        bodies = [words.astype("<u8").tobytes() for words in events.words[filled]]
        records += zip(times, numbers_given, bodies, strict=True)
        assert not events.words[rows[0] + SMALL_PAGE :].any()
    return records, {count.name: int(counts[count]) for count in PageCount}


def check(pages: list[bytes], numbers: object = ALL, room: int = 0) -> dict[str, int]:
    """Compare both readings; return the counts."""
    expected, expected_counts = plain(pages, numbers)
    records, counts = read(pages, numbers, room)
    kept = 8 * PAYLOAD_WORDS
    assert records == [(time, number, body[:kept].ljust(kept, b"\0")) for time, number, body in expected]
    if numbers is ALL:
        assert counts == expected_counts
    else:
        assert counts["SHORT"] <= expected_counts["SHORT"]
        assert counts | {"SHORT": 0} == expected_counts | {"SHORT": 0}
    return counts


def body(rng: random.Random, words: int) -> bytes:
    """Return a record: number, flags, process, then its own fields."""
    return (rng.choice([*WANTED, 4, 65535]).to_bytes(2, "little") + rng.randbytes(4 * words))[: 4 * words]


def page(rng: random.Random, size: int = SMALL_PAGE) -> bytes:
    """Return a page as a ring buffer might write it."""
    start = rng.choice([0, rng.getrandbits(40), rng.getrandbits(62)])
    writer = PageWriter(start, rng.choice([None, None, 0, rng.getrandbits(20) + 1]), size)
    fitted = True
    while fitted:
        delta = rng.choice([0, 1, rng.getrandbits(10), (1 << 27) - 1])
        step = rng.random()
        if step < 0.6:
            fitted = writer.record(delta, body(rng, rng.randint(0, 16)), rng.random() < 0.2)
        elif step < 0.7:
            fitted = writer.discarded(delta or 1, rng.randint(1, 6))
        elif step < 0.8:
            fitted = writer.extend(rng.getrandbits(40))
        elif step < 0.9:
            fitted = writer.stamp(rng.choice([start + rng.getrandbits(30), rng.getrandbits(59)]))
        elif step < 0.92:
            writer.end()
            break
        else:
            fitted = rng.random() < 0.7
    return writer.bytes()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.booleans(), st.booleans())
def test_pages_read_as_the_plain_reading_reads_them(seed: int, count: int, some: bool, tight: bool) -> None:
    """Every kind of event, whole and in parts, all numbers and few, at once and through small columns."""
    rng = random.Random(seed)
    check([page(rng) for _ in range(count)], WANTED if some else ALL, SMALL_PAGE // 4 if tight else 0)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_damaged_pages_are_read_alike_or_refused_alike(seed: int, flips: int) -> None:
    rng = random.Random(seed)
    pages = []
    for _ in range(4):
        content = bytearray(page(rng))
        for _ in range(flips):
            content[rng.randrange(8, len(content))] ^= 1 << rng.randrange(8)
        pages.append(bytes(content))
    check([*pages, rng.randbytes(SMALL_PAGE)])


def test_times_come_from_deltas_extensions_and_stamps() -> None:
    writer = PageWriter(1000)
    record = (17).to_bytes(8, "little")
    writer.record(0, record)
    writer.record(7, record)
    writer.extend(1 << 30)
    writer.record(3, record)
    writer.stamp(5 << 40)
    writer.record(0, record)
    writer.discarded(10, 2)
    writer.discarded(1, 2)
    writer.record(2, record, extended=True)
    records, _ = read([writer.bytes()])
    times = [time for time, _, _ in records]
    assert times == [1000, 1007, 1010 + (1 << 30), 5 << 40, (5 << 40) + 12]


def test_a_stamp_takes_its_high_bits_from_the_time_before() -> None:
    before = (3 << 59) + (1 << 58)
    writer = PageWriter(before)
    record = (17).to_bytes(8, "little")
    writer.stamp(before + 5)
    writer.record(0, record)
    writer.stamp(before + (1 << 58) + 9)  # its low bits have gone round
    writer.record(0, record)
    records, _ = read([writer.bytes()])
    assert [time for time, _, _ in records] == [before + 5, before + (1 << 58) + 9]


def test_the_number_of_the_process_is_not_given_out() -> None:
    writer = PageWriter(0)
    writer.record(0, (17).to_bytes(4, "little") + b"\x11\x22\x33\x44" + bytes(range(1, 45)))
    writer.record(0, (17).to_bytes(4, "little") + b"\x11\x22\x33\x44" + bytes([9]) * 4)
    records, _ = read([writer.bytes()])
    assert records[0][2] == bytes(range(1, 45)).ljust(48, b"\0")
    assert records[1][2] == (bytes([9]) * 4).ljust(48, b"\0")


@pytest.mark.parametrize(("lost", "pages", "events"), [(None, 0, 0), (0, 1, 0), (12345, 1, 12345)])
def test_lost_events_are_counted(lost: int | None, pages: int, events: int) -> None:
    writer = PageWriter(0, lost)
    writer.record(0, (17).to_bytes(8, "little"))
    counts = check([writer.bytes()])
    assert (counts["LOST_PAGES"], counts["LOST_EVENTS"], counts["EVENTS"]) == (pages, events, 1)


def test_a_full_page_with_lost_events_has_no_room_for_their_number() -> None:
    writer = PageWriter(0, 99)
    while writer.record(1, (17).to_bytes(12, "little")):
        pass
    counts = check([writer.bytes()])
    assert (counts["LOST_PAGES"], counts["LOST_EVENTS"], counts["EVENTS"]) == (1, 0, 255)


def test_a_broken_page_gives_nothing_and_the_next_is_read() -> None:
    whole = PageWriter(0)
    whole.record(0, (17).to_bytes(8, "little"))
    damaged = bytearray(whole.bytes())
    damaged[8] += 12  # more data than there are events: an event of no length follows
    counts = check([bytes(damaged), whole.bytes()])
    assert (counts["BROKEN_PAGES"], counts["EVENTS"]) == (1, 1)
