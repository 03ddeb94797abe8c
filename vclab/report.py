"""From results to what a person reads: figures, the report, and the claims for the terminal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclab import presets, results, studies
from vclab.errors import ConfigurationError, OutputError
from vclab.figures.parallel import draw_all
from vclab.figures.report import write_report
from vclab.files import prepare_folder
from vclab.presets.prices import Prices

if TYPE_CHECKING:
    import xarray as xr


#: What no study reads of its presets, by the beginning of the name: it waits for mechanisms to come.
_UNREAD = {
    "cpu": ("paging.virtual_bits",),
    "linux": (
        "page_block_order",
        "max_page_order",
        "costly_order",
        "vm_struct_bytes",
        "fallbacks",
        "costs.copy_page",
        "costs.migrate_page",
        "costs.compact_scan",
        "costs.reclaim",
        "devices",
    ),
}
#: What studies of reclaim and compaction read of that.
_UNDER_PRESSURE = ("costly_order", "costs.migrate_page", "costs.compact_scan", "costs.reclaim", "devices")


def _provenance(study: studies.Study, parameters: dict[str, Any], prices: Prices) -> list[tuple[str, str, str, bool]]:
    """Return name, value, source or reasoning, and whether it is an estimate, of every number that a run read."""
    cpus = prices.cpus([presets.cpu(name) for name in studies.cpu_names(parameters)])
    linux = prices.linux(presets.linux(parameters["linux"]))
    levels = {parameters.get("levels") or max(cpu.paging.levels.value) for cpu in cpus}
    numbers = [("cpu", cpu.name, number) for cpu in cpus for number in cpu.numbers()]
    numbers += [("linux", f"linux-{linux.name}", number) for number in linux.numbers()]
    rows = []
    for kind, name, number in numbers:
        layouts = [f"{count}-level" for count in levels]
        other_layout = number.path.startswith("address_space") and not any(one in number.path for one in layouts)
        other_era = number.path.startswith("structures") and "eras" not in parameters
        unread = tuple(path for path in _UNREAD[kind] if not ("swap" in parameters and path in _UNDER_PRESSURE))
        if not (number.path.startswith(unread) or other_layout or other_era):
            value = str(number.value) if number.range is None else f"{number.value:g} ({number.range})"
            rows.append((f"{name}.{number.path}", value, number.text, number.is_estimate))
    return rows + [(f"study.{name}", value, text, True) for name, value, text in study.ASSUMPTIONS]


def reprice(folder: Path, settings: dict[str, float], out: Path) -> tuple[xr.Dataset, list[results.Claim]]:
    """Price saved results anew, without another run, and write them to another folder with figures and report.

    Parameters
    ----------
    folder : Path
        What ``vclab run`` wrote.
    settings : dict of str to float
        See :class:`vclab.presets.prices.Prices`.
    out : Path
        Folder for the repriced results.

    Raises
    ------
    ConfigurationError
        If a price does not exist or cannot be set so.
    OutputError
        If the results cannot be read or the folder cannot be written.
    """
    dataset = results.load(folder)
    if out.resolve() == folder.resolve():
        raise ConfigurationError(f"{out} holds the results themselves; name another folder for repriced ones")
    prices = Prices(settings)
    study = studies.find(str(dataset.attrs["study"]))
    with _stranger(folder, dataset):
        repriced = study.reprice(dataset, prices)
    repriced.attrs["prices"] = json.dumps(settings)
    prepare_folder(out)
    with _stranger(folder, dataset):
        return repriced, save_and_write(repriced, out)


@contextlib.contextmanager
def _stranger(folder: Path, dataset: xr.Dataset) -> Iterator[None]:
    """Turn what goes wrong with results that this version did not write into an error that says so."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise OutputError(
            f"{folder / results.RESULTS_FILE} is not what study {dataset.attrs['study']} of this version writes "
            f"({type(error).__name__}: {error}); run the study again"
        ) from error


def rewrite(folder: Path) -> tuple[xr.Dataset, list[results.Claim]]:
    """Draw figures and report of results that were saved; return them and their claims.

    Raises
    ------
    OutputError
        If there are none, or they are not what this version's study writes.
    """
    dataset = results.load(folder)
    prepare_folder(folder)
    with _stranger(folder, dataset):
        try:
            return dataset, write(dataset, folder)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error


def save_and_write(dataset: xr.Dataset, out: Path) -> list[results.Claim]:
    """Write OUT/results.nc while the figures are drawn, and the report; return the claims."""
    tried = False

    def save() -> None:
        nonlocal tried
        tried = True
        results.save(dataset, out)

    try:
        return write(dataset, out, save)
    finally:
        # Whatever drawing comes upon, results are kept.
        if not tried:
            save()


def write(dataset: xr.Dataset, out: Path, save: Callable[[], None] | None = None) -> list[results.Claim]:
    """Draw a dataset's figures, write OUT/report.html and return the claims.

    Parameters
    ----------
    dataset : Dataset
        What a study's ``combine`` returned.
    out : Path
        Folder, which exists.
    save : callable, optional
        Called, once, while figures are drawn.
    """
    name = str(dataset.attrs["study"])
    study = studies.find(name)
    claims: list[results.Claim] = []
    summary: list[str] = []

    def meanwhile() -> None:
        if save is not None:
            save()
        claims.extend(study.claims(dataset))
        summary.extend(study.summary(dataset))

    figures = draw_all(studies.figures(name, dataset, out), meanwhile)
    parameters = json.loads(dataset.attrs["parameters"])
    settings = json.loads(dataset.attrs.get("prices", "{}"))
    facts = {
        "vclab": str(dataset.attrs["vclab_version"]),
        "machine": str(dataset.attrs["machine"]),
        "recording": f"{dataset.attrs['recording']} ({str(dataset.attrs['recording_digest'])[:12]})",
        "seeds": ", ".join(str(int(seed)) for seed in dataset["seed"]),
    }
    if settings:
        facts["prices set by the user"] = ", ".join(f"{name}={value:g}" for name, value in settings.items())
    write_report(
        out,
        title=f"vclab: {name}",
        question=studies.STUDIES[name],
        summary=summary,
        claims=claims,
        figures=figures,
        provenance=_provenance(study, parameters, Prices(settings)),
        parameters=parameters,
        facts=facts,
        left_out=str(dataset.attrs["left_out"]),
        of_rfc=name == "fallback",
    )
    return claims
