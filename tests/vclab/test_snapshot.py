"""A snapshot of this machine, from the command line to a machine that starts from it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.vclab.host.live import left_in_kernel, needs_live_kernel
from tests.vclab.test_record import refused, vclab
from vclab import System, recordings
from vclab.snapshot import PerCpuList, per_cpu_lists

ZONEINFO = """Node 0, zone    DMA32
  per-node stats
      nr_free 3
  pagesets
    cpu: 0
              count:    0
              high:     5113
              batch:    63
              high_min: 5113
  vm stats threshold: 24
    cpu: 1
              count:    7
              high:     5113
              batch:    63
  node_unreclaimable:  0
Node 1, zone   Normal
  pagesets
    cpu: 3
              count:    4658
              high:     7886
              batch:    31
"""


def test_per_cpu_lists_are_read_by_zone() -> None:
    assert per_cpu_lists(ZONEINFO) == [
        PerCpuList("DMA32", 1, 7, 5113, 63),
        PerCpuList("Normal (node 1)", 3, 4658, 7886, 31),
    ]
    assert per_cpu_lists("") == []


@needs_live_kernel
def test_a_snapshot_starts_a_machine(tmp_path: Path) -> None:
    done = vclab("snapshot", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("zone DMA32", "direct map:", "Per-CPU lists", "early-fallback", "Verdict", "Zone Normal", "out"):
        assert words in done.stdout
    assert [place.name for place in tmp_path.iterdir()] == ["out"]
    recording = recordings.load(tmp_path / "out")
    assert len(recording.stream.frame) == 0 and recording.free_after is None
    assert recording.buddyinfo_start is not None
    row = recording.zone_names.index(recording.zone_name)
    counted = np.bincount(recording.free_before.orders, minlength=11)
    if "as /proc/buddyinfo counts" in done.stdout:
        assert counted.tolist() == recording.buddyinfo_start[row].tolist()
    system = System(memory="recorded", recording=str(tmp_path / "out"))
    # Page tables of the direct map took some frames since.
    assert 0 <= counted @ (1 << np.arange(11)) - system.memory.zone.free_frames <= system.boot_tables


@needs_live_kernel
def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    code = "import sys; from vclab import cli, verdict; import vclab.snapshot as s; f = s.glimpse\n"
    code += "def wait():\n    print(flush=True)\n    sys.stdin.read(1)\n    return f()\n"
    code += "s.glimpse = wait; sys.exit(cli.main(['snapshot', 'out']))"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes)
    assert process.stdout is not None
    process.stdout.readline()
    assert left_in_kernel(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert not left_in_kernel(process.pid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["snapshot", "out", "--cpu", "zen9"], ["snapshot", "--linux", "1.0"]])
def test_unknown_presets_are_refused_before_any_work(arguments: list[str], tmp_path: Path) -> None:
    refused(vclab(*arguments, cwd=tmp_path), tmp_path)
