"""The command line. Heavy imports wait until a command needs them, so that help is instant."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter

import vclab
from vclab.errors import ConfigurationError, VclabError

if TYPE_CHECKING:
    import xarray as xr
    from pydantic import BaseModel
    from rich.console import Console

    from vclab.results import Claim

DONE, BELOW_THRESHOLD, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="vclab",
    version=vclab.__version__,
    help="""What does it cost when a large kernel allocation cannot be physically contiguous?

    For example:

        vclab run                        # study "fallback", recorded machine
        vclab run --quick                # the same in seconds, small machine
        vclab run fallback --set cpu=k8 --set seeds=10 --out results
        vclab replay compile --check     # is the real allocator foreseen?
        vclab record OUT -- make -j4     # record this machine at work (root)
        vclab snapshot                   # its memory now, and who would pay what
        vclab list
    """,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)


@app.command
def run(
    study: str = "fallback",
    /,
    *,
    out: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=False)] = (),
    jobs: int | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run a study and write its results, figures and report.

    For example:

        vclab run
        vclab run fallback --set orders=[3,9] --set unusable=0.8 --jobs 1
        vclab run my-study.toml --out my-results

    Parameters
    ----------
    study
        Name of a study, or a TOML file that begins with study = "NAME" and sets its parameters.
    out
        Folder for the results; without it a new folder vclab-STUDY-N.
    set_
        NAME=VALUE, as often as needed; "vclab list studies" shows what can be set.
    jobs
        Processes at once; all CPUs by default.
    quick
        One seed on a small machine: about ten seconds, for a first look.
    dry_run
        Say what would be run, and run nothing.
    """
    from vclab import run as runner
    from vclab import studies

    settings: dict[str, Any] = {}
    if study.endswith(".toml"):
        study, settings = runner.study_file(Path(study))
    if study in studies.STUDIES and not dry_run and jobs != 1:
        runner.prepare_workers(study)
    module = studies.find(study)
    if quick:
        settings = {**settings, **module.QUICK}
    parameters = studies.parameters(study, {**settings, **runner.settings_from(list(set_), module.Parameters)})
    if jobs is not None and jobs < 1:
        raise ConfigurationError(f"--jobs {jobs} is not possible; use 1 or more")
    wanted = jobs or runner.default_jobs()
    points = [str(point) for point in module.points(parameters, wanted)]
    jobs = min(wanted, len(points))
    folder = runner.next_folder(f"vclab-{study}") if out is None else out
    if dry_run:
        _print_plan(study, parameters, points, jobs, folder)
        return DONE
    return _run(study, parameters, points, jobs, folder)


def _print_plan(study: str, parameters: BaseModel, points: list[str], jobs: int, folder: Path) -> None:
    from rich.table import Table

    table = Table(title=f"study {study}: {len(points)} points, {jobs} at once, into {folder}", title_justify="left")
    table.add_column("parameter")
    table.add_column("value")
    for name, value in parameters.model_dump().items():
        table.add_row(name, str(value))
    _console().print(table)


def _run(study: str, parameters: BaseModel, points: list[str], jobs: int, folder: Path) -> int:
    from vclab import run as runner
    from vclab.files import prepare_folder

    new = not folder.exists()
    done = False
    try:
        prepare_folder(folder)
        if not runner.compiled_already():
            print("compiling kernels, once, about 40 s", file=sys.stderr, flush=True)
        with _Progress(points) as progress:
            dataset = runner.run_study(study, parameters, jobs, progress.report)
        # Not before workers are busy: these take a while to import.
        from vclab import report as reporting

        _show(dataset, reporting.save_and_write(dataset, folder), folder)
        done = True
    finally:
        if new and not done and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return DONE


def _show(dataset: xr.Dataset, claims: list[Claim], folder: Path) -> None:
    from vclab import studies

    study = studies.find(str(dataset.attrs["study"]))
    for line in study.summary(dataset):
        print(line)
    _print_claims(claims)
    print(f"report: {folder / 'report.html'}   results: {folder / 'results.nc'}")


def _print_claims(claims: list[Claim]) -> None:
    from rich.table import Table

    table = Table(title="Claims", title_justify="left", show_lines=True)
    for heading in ("claim", "measured", "number [95 % interval]", "verdict"):
        table.add_column(heading)
    for claim in claims:
        verdict = claim.verdict if not claim.threshold else f"{claim.verdict} ({claim.threshold})"
        table.add_row(claim.sentence, claim.measure, claim.number, verdict)
    _console().print(table)


class _Progress:
    """A bar for each point on a terminal, a line for each finished point elsewhere."""

    def __init__(self, points: list[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.plain = not console.is_terminal
        self.bars = Progress(
            TextColumn("seed {task.fields[point]}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=self.plain,
        )
        self.tasks = [self.bars.add_task("waiting", total=1.0, point=point, start=False) for point in points]
        self.points = points

    def __enter__(self) -> _Progress:
        self.bars.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bars.__exit__(*error)

    def report(self, number: int, share: float, what: str) -> None:
        """Show what a point is doing."""
        task = self.tasks[number]
        if share == 0:
            self.bars.start_task(task)
        self.bars.update(task, completed=share, description=what)
        if self.plain and share >= 1:
            print(f"seed {self.points[number]} done, {len(self.points)} in all", file=sys.stderr, flush=True)


@app.command(name="list")
def list_(what: Literal["studies", "cpu", "linux", "recordings"] | None = None, /) -> int:
    """Show the studies, presets and recordings that exist.

    For example:

        vclab list
        vclab list cpu

    Parameters
    ----------
    what
        One kind only.
    """
    from rich.table import Table

    console = _console()
    for kind in (what,) if what else ("studies", "cpu", "linux", "recordings"):
        table = Table("name", "what", title=str(kind), title_justify="left")
        for name, text in _listing(str(kind)):
            table.add_row(name, text)
        console.print(table)
    return DONE


def _listing(kind: str) -> list[tuple[str, str]]:
    if kind == "studies":
        from vclab import studies

        rows = []
        for name, question in studies.STUDIES.items():
            rows.append((name, question))
            for field, info in studies.find(name).Parameters.model_fields.items():
                rows.append((f"  {field}", f"{info.description or ''} (default {info.default})".strip()))
        return rows
    if kind == "recordings":
        from vclab import recordings

        return [(name, recordings.describe(name)) for name in recordings.names()]
    from vclab import presets

    if kind == "cpu":
        return [(name, presets.cpu(name).title) for name in presets.cpu_names()]
    return [(name, presets.linux(name).title) for name in presets.linux_names()]


@app.command
def report(
    folder: Path,
    /,
    *,
    price: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    out: Path | None = None,
) -> int:
    """Draw the figures and write the report of a finished run again, at other prices if some are set.

    For example:

        vclab report vclab-fallback-1
        vclab report vclab-fallback-1 --price cpu.memory.latency=350 --out slow

    Parameters
    ----------
    folder
        What "vclab run" wrote to.
    price
        NAME=NUMBER, as often as needed: a price by its name in the report's table of numbers, with cpu or linux
        for the preset's name. Counts stay as they are, so nothing is run again.
    out
        Folder for repriced results; without it FOLDER-repriced-N.
    """
    from vclab import report as reporting
    from vclab import run as runner

    if not price:
        if out is not None:
            raise ConfigurationError("--out is for repriced results; add --price, or leave it out")
        _show(*reporting.rewrite(folder), folder)
        return DONE
    settings = runner.prices_from(list(price))
    target = out or runner.next_folder(f"{folder}-repriced")
    _show(*reporting.reprice(folder, settings, target), target)
    return DONE


@app.command
def replay(recording: str, /, *, check: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Replay a recorded page allocator and count how often the model foresees what the kernel did.

    For example:

        vclab replay compile --check

    Parameters
    ----------
    recording
        Name of a shipped recording, a folder with one, or a compact file.
    check
        Exit with 1 if a rate is on the wrong side of its threshold.
    """
    from rich.table import Table

    from vclab import recordings
    from vclab import replay as replaying

    checks = replaying.check(recordings.load(recording))
    table = Table(title=f"replay of {recording}", title_justify="left", show_lines=True)
    for heading in ("test", "rate", "threshold", "result", "what"):
        table.add_column(heading)
    for one in checks:
        sign = "at most" if one.at_most else "at least"
        rate = f"{one.rate:,.0f}" if one.unit else f"{one.rate:.4%}"
        limit = "–" if one.threshold is None else f"{sign} {one.threshold:{',.0f' if one.unit else '.1%'}}"
        result = "–" if one.threshold is None else "met" if one.passed else "MISSED"
        table.add_row(one.name, rate, limit, result, f"{one.what} ({one.detail})")
    _console().print(table)
    for line in replaying.left_out(checks):
        print(line)
    return BELOW_THRESHOLD if check and not all(one.passed for one in checks) else DONE


@app.command
def record(
    out: Path,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    buffer: str | None = None,
) -> int:
    """Record this machine's page allocator while a command runs. Needs Linux, root and tracefs.

    For example:

        vclab record my-machine -- make -j4
        vclab replay my-machine --check

    What is kept: every event of the zones' free lists, the first requests for pages, compaction, vmalloc and
    reclaim, and all free blocks before and after. No names or numbers of processes.

    Parameters
    ----------
    out
        The folder to make.
    command
        What to run, after --.
    buffer
        Size of each CPU's trace buffer, like 64MiB; without it, for the highest rate seen and the memory there is.
    """
    from vclab.record import record as record_machine
    from vclab.units import parse_bytes

    summary = record_machine(out, command, _say, None if buffer is None else parse_bytes(buffer, "--buffer"))
    for line in summary.lines():
        print(line)
    print(f"recording: {out}   check it: vclab replay {out} --check")
    return DONE


@app.command
def snapshot(out: Path | None = None, /, *, cpu: str = "zen3", linux: str = "6.18") -> int:
    """Show this machine's free memory now, and what each policy would pay here. Needs Linux, root and tracefs.

    For example:

        vclab snapshot
        vclab snapshot now --cpu skylake-sp

    Parameters
    ----------
    out
        A folder to make with what was seen, as a recording without events; without it nothing is kept.
    cpu, linux
        Presets whose prices the verdict uses.
    """
    import contextlib
    import tempfile

    from vclab import presets, tables, verdict
    from vclab import run as runner
    from vclab.files import new_folder
    from vclab.host.watch import require
    from vclab.snapshot import take

    presets.cpu(cpu)
    presets.linux(linux)
    require()
    with contextlib.ExitStack() as stack:
        kept = contextlib.nullcontext(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vclab-snapshot-"))))
        folder = stack.enter_context(kept if out is None else new_folder(out, "a snapshot"))
        tables.print_snapshot(_console(), take(folder))
        if not runner.compiled_already():
            print("compiling kernels, once, about 40 s", file=sys.stderr, flush=True)
        system = verdict.snapshot_system(folder, cpu, linux)
        tables.print_verdict(_console(), system, verdict.ask(system))
    if out is not None:
        print(f'snapshot: {out}   in Python: vclab.System(memory="recorded", recording="{out}")')
    return DONE


@app.command(name="vmap-cost")
def vmap_cost(*, effects: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Hold modelled costs of mapping against published ones, of 2008 and of today: what is fitted, what predicted.

    For example:

        vclab vmap-cost
        vclab vmap-cost --effects

    Parameters
    ----------
    effects
        Also what each unfitted number does at both ends of its range, in about half a minute.
    """
    from vclab import costtables, presets, vmalloccost, vmapcost

    free, cells = vmapcost.published()
    costtables.print_vmap_cost(_console(), free, cells)
    costtables.print_vmalloc_cost(_console(), vmalloccost.table())
    if effects:
        costtables.print_effects(_console(), vmapcost.effects(presets.multiprocessor("opteron-2008")))
    return DONE


def _say(line: str) -> None:
    """Tell in a line what goes on, beside the results."""
    print(line, file=sys.stderr, flush=True)


def _console() -> Console:
    """Return a console for standard output that leaves a closed pipe to :func:`main`."""
    from rich.console import Console

    class LabConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return LabConsole()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : list of str, optional
        Without it, those of the process.
    """
    # At its end the interpreter would look through all that Numba has loaded, for half a second.
    atexit.register(gc.freeze)
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        print(f"vclab: error: {_one_line(error)} See vclab --help.", file=sys.stderr)
        return BAD_INPUT
    except VclabError as error:
        print(f"vclab: error: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"vclab: error: cannot write the output: {error.strerror}; check where it goes", file=sys.stderr)
            return BAD_INPUT
        # Whoever read the output has gone; what is still buffered goes nowhere, without another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("vclab: interrupted", file=sys.stderr)
        # Had it come within exec(), which modules call while they load, CPython would note it for its end (pythonrun.c,
        # run_eval_code_obj) and end by the signal whatever is returned here. Another exec() takes the note away.
        exec("")
        return INTERRUPTED
    return status if isinstance(status, int) else DONE


if __name__ == "__main__":
    sys.exit(main())
