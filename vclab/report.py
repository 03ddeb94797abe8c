"""From results to what a person reads: figures, the report, and the claims for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclab import presets, results, studies
from vclab.errors import ConfigurationError, OutputError
from vclab.figures.report import write_report
from vclab.files import prepare_folder

if TYPE_CHECKING:
    import xarray as xr


#: What a run reads of its presets, by the beginning of the name; the rest waits for mechanisms to come.
_READ = {
    "cpu": (
        "clock",
        "paging.physical_bits",
        "paging.levels",
        "paging.page_sizes",
        "tlb",
        "latency",
        "overlap.walkers",
        "overlap.loads_per_cycle",
    ),
    "linux": ("vm_struct_allocated", "vmap_area", "page_array_entry", "table_entry", "guard_pages", "address_space"),
}


def _provenance(study: studies.Study, parameters: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return name, value, source or reasoning, and whether it is an estimate, of every number that a run read."""
    cpu, linux = presets.cpu(parameters["cpu"]), presets.linux(parameters["linux"])
    levels = parameters["levels"] or max(cpu.paging.levels.value)
    rows = []
    for kind, name, numbers in (("cpu", cpu.name, cpu.numbers()), ("linux", f"linux-{linux.name}", linux.numbers())):
        for number in numbers:
            other_layout = number.path.startswith("address_space") and f"{levels}-level" not in number.path
            if number.path.startswith(_READ[kind]) and not other_layout:
                rows.append((f"{name}.{number.path}", str(number.value), number.text, number.is_estimate))
    return rows + [(f"study.{name}", value, text, True) for name, value, text in study.ASSUMPTIONS]


def rewrite(folder: Path) -> tuple[xr.Dataset, list[results.Claim]]:
    """Draw figures and report of results that were saved; return them and their claims.

    Raises
    ------
    OutputError
        If there are none, or they are not what this version's study writes.
    """
    dataset = results.load(folder)
    prepare_folder(folder)
    try:
        return dataset, write(dataset, folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, ConfigurationError) as error:
        raise OutputError(
            f"{folder / results.RESULTS_FILE} is not what study {dataset.attrs['study']} of this version writes "
            f"({type(error).__name__}: {error}); run the study again"
        ) from error


def write(dataset: xr.Dataset, out: Path) -> list[results.Claim]:
    """Draw a dataset's figures, write OUT/report.html and return the claims."""
    name = str(dataset.attrs["study"])
    study = studies.find(name)
    claims = study.claims(dataset)
    parameters = json.loads(dataset.attrs["parameters"])
    facts = {
        "vclab": str(dataset.attrs["vclab_version"]),
        "machine": str(dataset.attrs["machine"]),
        "recording": f"{dataset.attrs['recording']} ({str(dataset.attrs['recording_digest'])[:12]})",
        "seeds": ", ".join(str(int(seed)) for seed in dataset["seed"]),
    }
    write_report(
        out,
        title=f"vclab: {name}",
        question=studies.STUDIES[name],
        summary=study.summary(dataset),
        claims=claims,
        figures=study.figures(dataset, out),
        provenance=_provenance(study, parameters),
        parameters=parameters,
        facts=facts,
        left_out=str(dataset.attrs["left_out"]),
    )
    return claims
