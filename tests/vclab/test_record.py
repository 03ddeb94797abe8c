"""Recording a machine, from the command line to the replay of what was written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.vclab.host.live import left_in_kernel, needs_live_kernel
from vclab import recordings, replay
from vclab.recordings.archive import Archive
from vclab.recordings.procfiles import read_buddyinfo

WORK = "import json, decimal; data = [bytearray(1 << 20) for _ in range(40)]; data.clear()"
BUFFER = ("--buffer", "16MiB")
RIGHTS = {
    "root": "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)",
    "frame flags": "from pathlib import Path; import vclab.host.frameflags as f; f.KPAGEFLAGS = Path('/dev/null')",
}


def vclab(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vclab.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@needs_live_kernel
def test_what_is_recorded_replays(tmp_path: Path) -> None:
    done = vclab("record", "out", *BUFFER, "--", sys.executable, "-c", WORK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "exited with 0" in done.stdout and " 0 lost" in done.stdout
    assert [place.name for place in tmp_path.iterdir()] == ["out"]
    out = tmp_path / "out"
    recording = recordings.load(out)
    assert len(recording.stream.frame) > 100
    assert recording.free_after is not None
    assert recording.buddyinfo_start is not None and recording.buddyinfo_end is not None
    row = recording.zone_names.index(recording.zone_name)
    if done.stdout.count("as /proc/buddyinfo counts them") == 2:
        for blocks, counted in (
            (recording.free_before, recording.buddyinfo_start),
            (recording.free_after, recording.buddyinfo_end),
        ):
            assert np.bincount(blocks.orders, minlength=11).tolist() == counted[row].tolist()
    match = re.search(r"the events lead from one to the other but for ([\d,]+) frames", done.stdout)
    assert match is not None
    differing = int(match[1].replace(",", ""))
    exact = next(check.rate for check in replay.check(recording) if check.name == "T1")
    # Kernels take blocks without an event now and then; each frame may keep a block from being as large as it is.
    assert exact <= 1024 * differing
    for file in out.iterdir():
        assert file.suffix != ".raw"
    with Archive(out / "api_head.npz") as archive:
        rows = archive.column("zone_row", np.int64)
        assert len(rows) > 1000 and (np.diff(rows) >= 0).all()
        assert rows[-1] <= len(recording.stream.frame) + recording.events_elsewhere
    assert read_buddyinfo(out / "live_buddyinfo.txt").zone_names == recording.zone_names


@needs_live_kernel
def test_the_commands_own_status_is_told(tmp_path: Path) -> None:
    done = vclab("record", "out", *BUFFER, "--", "sh", "-c", "exit 3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "exited with 3" in done.stdout


@needs_live_kernel
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vclab.cli", "record", "out", *BUFFER, "--", "sh", "-c", "echo $$; sleep 60"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    shell = int(process.stdout.readline())
    assert left_in_kernel(process.pid)
    process.send_signal(number)
    process.send_signal(number)  # and again: a second one is no reason to leave something behind
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "vclab: interrupted"
    assert not left_in_kernel(process.pid)
    assert list(tmp_path.iterdir()) == []
    for _ in range(50):
        if not Path(f"/proc/{shell}").exists():
            break
        time.sleep(0.02)
    else:
        pytest.fail("the command goes on")


@needs_live_kernel
@pytest.mark.parametrize("missing", sorted(RIGHTS))
def test_what_is_missing_is_said_in_one_line(missing: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = f"import sys, vclab.record; from vclab import cli; {RIGHTS[missing]}; "
    code += "sys.exit(cli.main(['record', 'out', '--', 'true']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    refused(done, tmp_path)


@needs_live_kernel
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_no_tracefs_is_said_in_one_line(tmp_path: Path) -> None:
    """Without the right to mount it, where nobody has."""
    code = "import sys, vclab.record, vclab.host.mounts as m; from vclab import cli; m.mounted_at = lambda kind: None; "
    code += "sys.exit(cli.main(['record', 'out', '--', 'true']))"
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    refused(done, tmp_path)
    assert "tracefs" in done.stderr


def test_a_machine_that_cannot_be_recorded_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0 and Path("/proc/kpageflags").exists():
        pytest.skip("this one can be recorded, by root")
    refused(vclab("record", "out", "--", "true", cwd=tmp_path), tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["record", "out"],
        ["record", "out", "--", "no-such-command-anywhere"],
        ["record", "out", "--buffer", "lots", "--", "true"],
        ["record"],
    ],
)
def test_bad_input_gets_one_line_and_status_2(arguments: list[str], tmp_path: Path) -> None:
    refused(vclab(*arguments, cwd=tmp_path), tmp_path)


@needs_live_kernel
@pytest.mark.parametrize("out", ["full", "file", "absent/out"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(out: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    (tmp_path / "file").write_text("")
    done = vclab("record", out, "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("vclab: error: ") and done.stderr.count("\n") == 1
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file", "full"]


def refused(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("vclab: error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(folder.iterdir()) == []
