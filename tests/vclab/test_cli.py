"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vclab import cli, results

SMALL = ["memory=64MiB", "orders=[1, 5]", "live_pages=[1, 4]", "accesses=500", "requests=8"]
SMALL += ["fragment_order=5", "unusable=0.8"]


def vclab(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vclab.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def small(*more: str) -> list[str]:
    return [argument for setting in [*SMALL, *more] for argument in ("--set", setting)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a study was run twice: by two processes, and by one as a file of parameters asks."""
    folder = tmp_path_factory.mktemp("runs")
    first = vclab("run", "--jobs", "2", *small("seeds=2"), cwd=folder)
    assert first.returncode == 0, first.stderr
    assert "not measured yet" in first.stdout
    (folder / "study.toml").write_text('study = "fallback"\nseeds = 2\n')
    second = vclab("run", "study.toml", "--jobs", "1", *small(), cwd=folder)
    assert second.returncode == 0, second.stderr
    return folder


def test_text_is_text_and_numbers_are_numbers(tmp_path: Path) -> None:
    done = vclab(
        "run", "--dry-run", "--set", "linux=6.18", "--set", "memory=4194304", "--set", "free=0.25", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "4194304" in done.stdout
    assert "0.25" in done.stdout


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m vclab.cli list cpu | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("damage", ["variable", "parameters", "zeros"])
def test_results_of_another_make_are_refused(damage: str, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "vclab-fallback-1", tmp_path / "out")
    dataset = results.load(tmp_path / "out")
    if damage == "variable":
        dataset = dataset.drop_vars("outcome")
    elif damage == "parameters":
        dataset.attrs["parameters"] = "{}"
    else:
        dataset["cycles"] = dataset["cycles"].isel(cause=0, drop=True)
    results.save(dataset, tmp_path / "out")
    again = vclab("report", "out", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("vclab: error: ")
    assert again.stderr.count("\n") == 1


def test_importing_the_command_line_is_light() -> None:
    code = "import sys, vclab.cli; print([m for m in ('numpy','numba','pydantic','xarray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_has_examples(tmp_path: Path) -> None:
    for command in ([], ["run"], ["replay"], ["list"], ["report"], ["record"], ["snapshot"], ["vmap-cost"]):
        done = vclab(*command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert f"vclab {' '.join(command)}".strip() in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run", "nothing"],
        ["run", "--bogus"],
        ["run", "--set", "seeds"],
        ["run", "--set", "seeds=none"],
        ["run", "--set", "cpu=zen9"],
        ["run", "--set", "orders=[3, 3]"],
        ["run", "--jobs", "0"],
        ["run", "--jobs", "many"],
        ["run", "absent.toml"],
        ["run", "--out", "blocked"],
        ["run", "--out", "blocked/below"],
        ["list", "everything"],
        ["report", "."],
        ["replay", "absent"],
        ["replay", "blocked", "--check"],
        ["replay"],
    ],
)
def test_bad_input_gets_one_line_and_status_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blocked").write_text("a file")
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("vclab: error: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["blocked"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run", "--bogus"],
        ["run", "--out", "blocked/below"],
        ["run", "--jobs", "1", *small("memory=4MiB", "orders=[9]", "live_pages=[64]")],
        ["replay", "blocked", "--check"],
    ],
)
def test_a_process_with_bad_input_ends_so_whenever_it_is_found(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file")
    done = vclab(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("vclab: error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert [file.name for file in tmp_path.iterdir()] == ["blocked"]


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = vclab("run", "--quick", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "vclab-fallback-1" in done.stdout.replace("\n", " ")
    assert "1GiB" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_run_report_and_a_second_folder(runs: Path) -> None:
    folder = runs / "vclab-fallback-1"
    names = {file.name for file in folder.iterdir()}
    assert {"results.nc", "report.html"} <= names
    assert any(name.endswith(".svg") for name in names)
    assert any(name.endswith(".png") for name in names)
    assert not any(name.startswith(".") for name in names)
    page = (folder / "report.html").read_bytes()
    dataset = results.load(folder)
    assert json.loads(dataset.attrs["parameters"])["seeds"] == 2
    again = vclab("report", str(folder), cwd=runs)
    assert again.returncode == 0, again.stderr
    assert (folder / "report.html").read_bytes() == page
    assert (runs / "vclab-fallback-2" / "results.nc").is_file()


def test_processes_change_no_number(runs: Path) -> None:
    by_two, by_one = (results.load(runs / f"vclab-fallback-{number}") for number in (1, 2))
    assert by_one.identical(by_two)


@pytest.mark.parametrize(("jobs", "seconds"), [("1", 1.5), ("2", 0.2), ("2", 1.5)])
def test_ctrl_c_leaves_nothing_behind(jobs: str, seconds: float, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "vclab.cli", "run", "--quick", "--jobs", jobs, "--set", "seeds=200"]
    running = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = tmp_path / "vclab-fallback-1"
    for _ in range(600):
        if folder.exists():
            break
        time.sleep(0.05)
    time.sleep(seconds)
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stderr.splitlines()[-1] == "vclab: interrupted"
    assert "Traceback" not in stderr
    assert not folder.exists()


def test_ctrl_c_while_a_module_loads_has_its_status_too(tmp_path: Path) -> None:
    """Dataclasses and named tuples are made by exec(), where CPython remembers an interrupt though it is caught."""
    lines = ["import sys", "from vclab import cli", "@cli.app.command", "def load() -> None:"]
    lines += ["    exec('raise KeyboardInterrupt')", "sys.exit(cli.main(['load']))"]
    (tmp_path / "interrupted.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == ["vclab: interrupted"]
    assert done.returncode == 130


def test_replay_check_exits_with_1_below_a_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    from vclab import replay

    failing = replay.Check("T3", "order", 0.5, 0.999)
    monkeypatch.setattr(replay, "check", lambda _: [failing])
    assert cli.main(["replay", "compile", "--check"]) == 1
    assert cli.main(["replay", "compile"]) == 0


def test_replay_of_the_shipped_recording_passes() -> None:
    assert cli.main(["replay", "compile", "--check"]) == 0


def test_list_shows_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("fallback", "zen3", "ice-lake", "k8", "6.18", "compile", "unusable"):
        assert name in shown
