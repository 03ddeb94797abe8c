"""From results to what a person reads: figures, the report, and the claims for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vclab import presets, results, studies
from vclab.figures.report import write_report

if TYPE_CHECKING:
    import xarray as xr


def write(dataset: xr.Dataset, out: Path) -> list[results.Claim]:
    """Draw a dataset's figures, write OUT/report.html and return the claims."""
    name = str(dataset.attrs["study"])
    study = studies.find(name)
    claims = study.claims(dataset)
    parameters = json.loads(dataset.attrs["parameters"])
    sources = {
        parameters["cpu"]: presets.cpu(parameters["cpu"]).numbers(),
        f"linux-{parameters['linux']}": presets.linux(parameters["linux"]).numbers(),
    }
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
        provenance=[
            (f"{preset}.{number.path}", str(number.value), number.text, number.is_estimate)
            for preset, numbers in sources.items()
            for number in numbers
        ],
        parameters=parameters,
        facts=facts,
        left_out=str(dataset.attrs["left_out"]),
    )
    return claims
