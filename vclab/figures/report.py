"""The report: one file that answers the question, shows how, and says where every number comes from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from vclab.errors import OutputError
from vclab.files import replacing
from vclab.results import NOT_MEASURED, SEEDS_FOR_A_VERDICT, Claim

REPORT_FILE = "report.html"
#: Seeds that a verdict asks for.


class Cell(NamedTuple):
    """One way to reach a working set."""

    name: str
    frames: str
    mapping: str
    stands_for: str


#: The four cells of every comparison.
CELLS = (
    Cell("i", "contiguous", "direct map (large entries)", "a physically contiguous page"),
    Cell("ii", "contiguous", "4K entries in the vmalloc area", "what the mapping alone costs"),
    Cell("iii", "scattered, as the allocator gave them", "4K entries in the vmalloc area", "a virtual compound page"),
    Cell("iv", "the same scattered frames", "direct map, found through a page array", "open-coded single pages"),
)


#: What a report says of claims: those of the RFC, and those that a study itself set out to judge.
RFC_CLAIMS = {
    "claims_title": "What the RFC of 2007 said",
    "claims_about": "Sentences of the RFC “Virtual Compound Page Support” (Christoph Lameter, linux-kernel, "
    "18 September 2007), shortened.",
    "claims_column": "The RFC says",
}
OWN_CLAIMS = {
    "claims_title": "What this study set out to judge",
    "claims_about": "What this study set out to judge.",
    "claims_column": "Claim",
}


@dataclass(frozen=True)
class Verdict:
    """How a verdict is shown: a word for one and for several, a sign that needs no colour, and a style."""

    text: str
    several: str
    sign: str
    style: str

    def count(self, number: int) -> str:
        """Return a number of such verdicts in words: ``5 hold``."""
        return f"{number} {self.text if number == 1 else self.several}"


VERDICTS = {
    "holds": Verdict("holds", "hold", "✓", "holds"),
    "does not hold": Verdict("does not hold", "do not hold", "✗", "fails"),
    "undecided": Verdict("undecided", "undecided", "?", "undecided"),
    NOT_MEASURED: Verdict(NOT_MEASURED, NOT_MEASURED, "–", "open"),
}


@dataclass(frozen=True)
class Row:
    """A claim as the report shows it."""

    claim: Claim
    verdict: Verdict
    value: str
    interval: str


def write_report(
    out: Path,
    *,
    title: str,
    question: str,
    summary: list[str],
    claims: list[Claim],
    figures: list[tuple[str, str, str]],
    provenance: list[tuple[str, str, str, bool]],
    parameters: dict[str, object],
    facts: dict[str, str],
    left_out: str,
    of_rfc: bool = True,
) -> Path:
    """Write OUT/report.html, whole or not at all: one file that loads nothing and needs no scripts.

    Parameters
    ----------
    out : Path
        Folder that holds the figures' SVGs.
    title, question : str
        Of the study.
    summary : list of str
        The answer, in sentences.
    claims : list of Claim
        Verdicts.
    figures : list of (str, str, str)
        File stem, title and caption.
    provenance : list of (str, str, str, bool)
        Name, value, source or reasoning, and whether it is an estimate, of every number that went in.
    parameters : dict
        What was set.
    facts : dict
        What was run: version, recording and so on, without dates. ``seeds`` lists them, separated by commas.
    left_out : str
        What the model leaves out.
    of_rfc : bool
        The claims are sentences of the RFC, rather than the study's own.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        If a figure cannot be read or the report cannot be written.
    """
    seeds = _count_seeds(facts, parameters)
    rows = [_row(claim, seeds) for claim in claims]
    tally = Counter(row.verdict.text for row in rows)
    page = _template().render(
        title=title,
        question=question,
        summary=summary,
        rows=rows,
        measured=[row for row in rows if row.verdict.text != NOT_MEASURED],
        tally=[(verdict, verdict.count(tally[text])) for text, verdict in VERDICTS.items() if tally[text]],
        figures=[(_data_uri(out / f"{stem}.svg"), stem, name, caption) for stem, name, caption in figures],
        cells=CELLS,
        seed_note=_seed_note(seeds),
        provenance=[(name, _tidy(value), source, is_estimate) for name, value, source, is_estimate in provenance],
        estimates=sum(is_estimate for *_, is_estimate in provenance),
        parameters={name: _setting(value) for name, value in parameters.items()},
        facts=facts,
        left_out=left_out,
        **(RFC_CLAIMS if of_rfc else OWN_CLAIMS),
    )
    path = out / REPORT_FILE
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _count_seeds(facts: dict[str, str], parameters: dict[str, object]) -> int:
    """Return how many seeds were run; 0 if nobody says."""
    if facts.get("seeds"):
        return len([seed for seed in facts["seeds"].split(",") if seed.strip()])
    count = parameters.get("seeds", 0)
    return count if isinstance(count, int) else 0


def _seed_note(seeds: int) -> str:
    if seeds == 0:
        return ""
    if seeds == 1:
        return (
            "Only one seed was run, so there is no interval: what another ageing of the same machine would give is not "
            f"known. A verdict asks for at least {SEEDS_FOR_A_VERDICT} seeds: nothing is decided yet."
        )
    note = (
        f"Intervals are 95% (Student’s t) over {seeds} seeds, each ageing memory anew: the model’s randomness on one "
        "machine, not the variety of machines."
    )
    if seeds < SEEDS_FOR_A_VERDICT:
        note += f" A verdict asks for at least {SEEDS_FOR_A_VERDICT} seeds: nothing is decided yet."
    return note


def _row(claim: Claim, seeds: int) -> Row:
    verdict = VERDICTS.get(claim.verdict, Verdict(claim.verdict, claim.verdict, "?", "undecided"))
    if claim.value is None:
        return Row(claim, verdict, "–", "")
    decimals = _decimals(claim.value, claim.unit)
    space = "" if claim.unit in ("", "%") else " "
    value = f"{claim.value:,.{decimals}f}{space}{claim.unit}"
    if seeds == 1:
        return Row(claim, verdict, value, "one seed, no interval")
    if claim.low is None or claim.high is None:
        return Row(claim, verdict, value, "exact count")
    if claim.low == claim.high:
        return Row(claim, verdict, value, "the same for every seed")
    return Row(claim, verdict, value, f"{claim.low:,.{decimals}f} to {claim.high:,.{decimals}f}")


def _decimals(value: float, unit: str) -> int:
    """Return the decimals that show three significant digits; bare shares always get three."""
    if not unit and 0 <= value <= 1:
        return 3
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0


def _setting(value: object) -> str:
    if value is None:
        return "default"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value)
    return _tidy(str(value))


def _tidy(value: str) -> str:
    """Return a number's text for people: sequences without quotes, large numbers grouped, addresses in hexadecimal."""
    if value.startswith("(") and value.endswith(")"):
        return value[1:-1].rstrip(",").replace("'", "")
    if value.isdecimal() and len(value) > 4:
        return f"{int(value):,}" if int(value) < 1 << 63 else f"{int(value):#x}"
    return value


def _data_uri(path: Path) -> str:
    """Return an SVG file as a data URI; percent-encoded, since its rasters are base64 already."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot read figure {path}: {error.strerror or error}; draw the figures before the report"
        ) from error
    start = text.index("<svg")
    text = text[start:]
    # One after another, which is ten times as fast as str.translate.
    for sign in _PERCENT:
        text = text.replace(sign, f"%{ord(sign):02X}")
    return "data:image/svg+xml," + text


#: Percent first and foremost; the colon of addresses in namespaces goes too, so nothing looks like a link.
_PERCENT = "%#\"'<>&\n:"
