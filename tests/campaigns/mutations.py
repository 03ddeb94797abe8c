"""Damaged recordings and texts of the kernel, each below 64 KiB: read, or refused in one line, and nothing else.

Run ``python -m tests.campaigns.mutations --share 1.0 --seed 1``: 10,000 damaged inputs to every reader and to the
loaders of recordings, in one process. Each must end, within seconds, in a value or in a RecordingError that names the
file; a recording that loads must tile its zone, and replay. Memory is bounded by :data:`MEMORY` and, once a recording
loads, by :data:`FRAME_MEMORY` for each frame of its zone.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from tests.campaigns.damage import MOST_BYTES, OF_ARCHIVES, OF_BYTES, OF_TEXTS, Damage
from tests.vclab.recordings.small import assert_tiles, write_folder
from tests.vclab.recordings.texts import DETAILS, INDEX, MIXED, OLD_ZONEINFO, SLABINFO, TEXTS, VMSTAT, as_perf, as_trace
from vclab import recordings, replay
from vclab.errors import RecordingError
from vclab.recordings.counters import read_vmstat
from vclab.recordings.frameflags import read_frame_flags
from vclab.recordings.indices import read_indices
from vclab.recordings.procfiles import read_buddyinfo, read_pagetypeinfo, read_zoneinfo
from vclab.recordings.slabinfo import read_slabinfo
from vclab.recordings.tracetext import page_rows, read_trace
from vclab.recordings.vmallocinfo import read_vmallocinfo
from vclab.recordings.zonetext import read_zones

INPUTS = 10_000
#: Most bytes that reading any input may take: a dictionary of LZMA, and twice what 4 KiB of it unfold to.
MEMORY = 160 << 20
#: Bytes for each frame of a zone that loads: a recording is expanded to blocks.
FRAME_MEMORY = 48
#: Most seconds for one input.
SECONDS = 20.0
#: Recordings of larger zones are not replayed.
REPLAYED_FRAMES = 1 << 17
LOADERS = ("folder", "archive")


class Subject(NamedTuple):
    """What is damaged, and who reads it: a file, or a folder of which some files are damaged."""

    name: str
    files: dict[str, bytes]
    read: Callable[[Path], Any]
    damages: Sequence[Damage]


class Tally(NamedTuple):
    """What became of the damaged inputs of one subject.

    Attributes
    ----------
    inputs, accepted, refused, replayed : int
    seconds : float
        CPU time of the slowest.
    memory : int
        Most bytes taken at once.
    wrong : list of str
        What else happened, by input.
    """

    name: str
    inputs: int
    accepted: int
    refused: int
    replayed: int
    seconds: float
    memory: int
    wrong: list[str]

    def __str__(self) -> str:
        verdict = "all in order" if not self.wrong else f"{len(self.wrong)} WRONG, as {self.wrong[0]}"
        return (
            f"{self.name}: {self.inputs} inputs, {self.accepted} read ({self.replayed} replayed), {self.refused} "
            f"refused, at most {self.seconds:.2f} s and {self.memory / (1 << 20):.1f} MiB: {verdict}"
        )


class TooLong(BaseException):
    """An input took longer than it may; no reader catches this."""


def subjects(place: Path) -> list[Subject]:
    """Return every reader with whole inputs; the recordings are made in an empty folder."""
    folder = write_folder(place / "whole")
    recordings.save(recordings.load(folder), place / "whole.npz")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    events = "".join((as_trace, as_perf)[n % 2](name, text) for n, (name, text) in enumerate(DETAILS.items()))
    flags = np.repeat(np.array([0, 1 << 10, 1 << 5, 1 << 20], "<u8"), [900, 64, 300, 12]).tobytes()
    texts: list[tuple[str, str, Callable[[Path], Any]]] = [
        ("buddyinfo", TEXTS["buddyinfo"], read_buddyinfo),
        ("pagetypeinfo", TEXTS["pagetypeinfo"] + MIXED, read_pagetypeinfo),
        ("zoneinfo", TEXTS["zoneinfo"], read_zones),
        ("zoneinfo of 2.6", OLD_ZONEINFO, read_zones),
        ("zones' sizes", TEXTS["zoneinfo"], read_zoneinfo),
        ("extfrag_index", INDEX, read_indices),
        ("vmstat", VMSTAT, read_vmstat),
        ("slabinfo", SLABINFO, read_slabinfo),
        ("vmallocinfo", TEXTS["vmallocinfo"], read_vmallocinfo),
        ("events", events, lambda path: page_rows(read_trace(path))),
    ]
    return [
        Subject("folder", files, recordings.load, ()),
        Subject("archive", {"damaged.npz": (place / "whole.npz").read_bytes()}, recordings.load, OF_ARCHIVES),
        *(Subject(name, {"text": text.encode()}, read, OF_TEXTS) for name, text, read in texts),
        Subject("kpageflags", {"kpageflags": flags}, read_frame_flags, OF_BYTES),
    ]


def damaged(subject: Subject, others: Sequence[bytes], rng: random.Random) -> dict[str, bytes]:
    """Return the subject's files with damage: one to three of a folder's, or the only one, once or twice."""
    files = dict(subject.files)
    for name in rng.sample(sorted(files), min(len(files), rng.choice((1, 1, 1, 2, 3)))):
        if len(files) > 1 and rng.random() < 0.03:
            del files[name]
            continue
        damages = subject.damages or (OF_ARCHIVES if name.endswith(".npz") else OF_TEXTS)
        for _ in range(rng.choice((1, 1, 1, 2))):
            files[name] = rng.choice(damages)(files[name], others, rng)[:MOST_BYTES]
    return files


def _alarm(_: int, __: FrameType | None) -> None:
    raise TooLong


class _Run:
    """Reads damaged inputs of one subject and counts what becomes of them."""

    def __init__(self, subject: Subject, place: Path) -> None:
        self.subject = subject
        self.place = place
        self.accepted = self.refused = self.replayed = self.inputs = self.memory = 0
        self.seconds = 0.0
        self.wrong: list[str] = []

    def take(self, files: dict[str, bytes], label: str) -> None:
        """Write one input, have it read, and look at the end of it."""
        self.inputs += 1
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        for name, content in files.items():
            (self.place / name).write_bytes(content)
        path = self.place if len(self.subject.files) > 1 else self.place / next(iter(self.subject.files))
        result, wrong = self._read(path)
        if isinstance(result, recordings.Recording) and not wrong:
            wrong = self._check(result)
        if wrong:
            self.wrong.append(f"{label}: {wrong}")

    def _read(self, path: Path) -> tuple[Any, str]:
        result, wrong = None, ""
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        tracemalloc.start()
        started = time.process_time()
        try:
            result = self.subject.read(path)
            self.accepted += 1
        except RecordingError as error:
            self.refused += 1
            line = str(error)
            if not line.isprintable() or str(path) not in line or line.count(", ") < 2:
                wrong = f"a refusal {line!r} that does not name the file or is not one line"
        except TooLong:
            wrong = f"more than {SECONDS} s"
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            memory = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        self.seconds = max(self.seconds, time.process_time() - started)
        self.memory = max(self.memory, memory)
        frames = result.frames if isinstance(result, recordings.Recording) else 0
        if memory > MEMORY + FRAME_MEMORY * frames:
            wrong = wrong or f"{memory} bytes"
        return result, wrong

    def _check(self, recording: recordings.Recording) -> str:
        """Hold a recording that loads to what it promises; return what is wrong."""
        try:
            assert_tiles(recording)
            if recording.frames <= REPLAYED_FRAMES:
                replay.check(recording)
                self.replayed += 1
        except RecordingError as error:
            # Kernels of other years have rules that the model does not know.
            return "" if str(error).isprintable() else f"a refusal {error!r}"
        except Exception as error:
            return f"replayed, {type(error).__name__}: {error}"
        return ""

    def tally(self) -> Tally:
        """Return the counts."""
        return Tally(
            self.subject.name,
            self.inputs,
            self.accepted,
            self.refused,
            self.replayed,
            self.seconds,
            self.memory,
            self.wrong,
        )


def run(share: float, seed: int) -> list[Tally]:
    """Have a share of the damaged inputs read: the loaders of recordings get half of them."""
    count = max(50, int(INPUTS * share))
    previous = signal.signal(signal.SIGALRM, _alarm)
    try:
        with tempfile.TemporaryDirectory() as place:
            every = subjects(Path(place))
            others = [content for subject in every for content in subject.files.values()]
            loaders = [subject for subject in every if subject.name in LOADERS]
            readers = [subject for subject in every if subject.name not in LOADERS]
            runs = {subject.name: _Run(subject, Path(place) / "damaged") for subject in every}
            for number in range(count):
                rng = random.Random(seed * 1_000_003 + number)
                group = (loaders, readers)[number % 2]
                subject = group[number // 2 % len(group)]
                runs[subject.name].take(damaged(subject, others, rng), f"input {number}")
            return [one.tally() for one in runs.values()]
    finally:
        signal.signal(signal.SIGALRM, previous)


def main() -> int:
    """Run the campaign with the arguments of the process; return 1 if any input ended otherwise than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help=f"share of {INPUTS} inputs")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.process_time()
    tallies = run(arguments.share, arguments.seed)
    for tally in tallies:
        print(tally)
    wrong = sum(len(tally.wrong) for tally in tallies)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{sum(tally.inputs for tally in tallies):,} inputs, {wrong} ended otherwise than they may; the process had at "
        f"most {resident} MiB and took {time.process_time() - started:.0f} s of CPU time"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
