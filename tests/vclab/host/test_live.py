"""The running kernel, where it can be watched."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.test_ringbuffer import check
from tests.vclab.host.live import BUFFER, left_in_kernel, needs_live_kernel
from vclab.errors import HostError
from vclab.host import frameflags, mounts, tracing, watch
from vclab.host.drain import RESERVE, SMALLEST_BUFFER, buffer_bytes
from vclab.host.eventlog import PAGE_EVENTS, read_log
from vclab.host.mounts import file_system


@needs_live_kernel
def test_captured_pages_read_as_the_plain_reading_reads_them(tmp_path: Path) -> None:
    begin = time.monotonic_ns()
    with watch.watching(tmp_path, BUFFER) as watched:
        subprocess.run([sys.executable, "-c", "import json"], check=True)
        watched.end()
    end = time.monotonic_ns()
    files = [(cpu, watched.drain.path(cpu)) for cpu in watched.drain.cpus]
    assert watched.lost == 0
    events = 0
    for _, path in files:
        content = path.read_bytes()
        size = watched.page_bytes
        if not content:
            continue  # nothing happened on that CPU
        counts = check([content[start : start + size] for start in range(0, min(len(content), 20 * size), size)])
        assert counts["BROKEN_PAGES"] == counts["LOST_PAGES"] == 0
        events += counts["EVENTS"]
    assert events > 100
    log = read_log(files, watched.formats, watched.page_bytes)
    assert log.events == len(log.time) >= events
    assert begin <= log.time[0] and log.time[-1] <= end
    assert (np.diff(log.time) >= 0).all()
    frames = frameflags.read_flags().frames
    assert ((log.frame >= -1) & (log.frame < frames)).all()
    assert set(np.unique(log.operation)) >= {PAGE_EVENTS["kmem/mm_page_alloc"], PAGE_EVENTS["kmem/mm_page_free"]}
    pages = log.operation <= max(PAGE_EVENTS.values())
    assert ((log.order[pages] >= 0) & (log.order[pages] <= 10)).all()
    assert not left_in_kernel()


@needs_live_kernel
def test_nothing_stays_in_the_kernel_after_an_error(tmp_path: Path) -> None:
    held = set()

    def work() -> None:
        with watch.watching(tmp_path, BUFFER):
            held.update(left_in_kernel())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert held
    assert not left_in_kernel()


@needs_live_kernel
def test_instances_that_dead_processes_left_are_removed_and_no_others() -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    with file_system("tracefs") as place:
        every = place / "instances"
        orphan, foreign = every / f"{tracing.PREFIX}{int(gone.stdout)}-0abc", every / "test-of-a-foreign-instance"
        try:
            orphan.mkdir()
            foreign.mkdir()
            with tracing.instance(place) as own:
                assert own.folder.exists() and foreign.exists() and not orphan.exists()
            assert foreign.exists() and not own.folder.exists()
        finally:
            for one in (orphan, foreign):
                if one.exists():
                    one.rmdir()


@needs_live_kernel
def test_a_file_system_is_mounted_in_a_folder_of_our_own_only_while_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mounts, "mounted_at", lambda kind: None)
    with file_system("tracefs") as place:
        assert place.name.startswith(mounts.PREFIX) and (place / "events").is_dir()
    assert not place.exists()
    with pytest.raises(HostError, match="nosuchfs cannot be mounted"), file_system("nosuchfs"):
        pass
    assert not left_in_kernel()


@needs_live_kernel
def test_a_look_at_all_frames() -> None:
    seen = watch.glimpse()
    assert seen.before[0] <= seen.before[1] <= seen.flags_begin <= seen.flags_end <= seen.after[0]
    assert seen.flags.starts[0] == 0 and (np.diff(seen.flags.starts) > 0).all()
    assert seen.flags.starts[-1] < seen.flags.frames
    assert (seen.flags.flags[1:] != seen.flags.flags[:-1]).all()
    assert [int(word) for word in seen.times.split()][1:] == [
        1, seen.before[1], seen.flags_begin, seen.flags_end, seen.after[1], seen.flags.frames,
    ]  # fmt: skip


def test_flags_are_coded_as_they_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    # Longer than what is read at once, with runs across the seams.
    words = np.repeat(rng.integers(0, 3, 3000).astype("<u8") << 10, rng.integers(1, 300, 3000))
    path = tmp_path / "flags"
    path.write_bytes(words.tobytes())
    seen = frameflags.read_flags(path)
    assert seen.frames == len(words)
    assert (np.repeat(seen.flags, np.diff(np.append(seen.starts, seen.frames))) == words).all()
    assert (seen.flags[1:] != seen.flags[:-1]).all()
    path.write_bytes(words.tobytes()[:-1])
    with pytest.raises(HostError, match="8 bytes a frame"):
        frameflags.read_flags(path)
    path.write_bytes(b"")
    with pytest.raises(HostError, match="empty"):
        frameflags.read_flags(path)
    with pytest.raises(HostError, match="cannot be read"):
        frameflags.read_flags(tmp_path / "absent")


def test_buffers_leave_the_reserve_alone() -> None:
    assert buffer_bytes(2, 64 << 30) == 123 << 20
    assert buffer_bytes(2, RESERVE + 4 * (50 << 20)) == 50 << 20
    assert buffer_bytes(2, 64 << 30, 1 << 20) == 1 << 20
    for available, wanted in ((RESERVE, None), (RESERVE + 4 * SMALLEST_BUFFER - 1, None), (64 << 30, 1 << 40)):
        with pytest.raises(HostError, match="MiB of memory are available"):
            buffer_bytes(2, available, wanted)


@needs_live_kernel
def test_a_killed_recording_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    code = "from pathlib import Path\nimport vclab.host.mounts as m, vclab.host.watch as w\n"
    code += f"m.mounted_at = lambda kind: None\nwith w.watching(Path('.'), {BUFFER}):\n"
    code += "    print(flush=True)\n    input()\n"
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert left_in_kernel(process.pid)
    with file_system("tracefs") as place, tracing.instance(place):
        assert not any(name.startswith(tracing.PREFIX + f"{process.pid}-") for name in left_in_kernel(process.pid))
    mounts._remove_orphans()
    assert not left_in_kernel(process.pid)
