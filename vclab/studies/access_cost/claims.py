"""What follows from the costs: mapping size, placement, virtual contiguity, huge vmalloc; each with its threshold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from vclab.ledger import DATA_CAUSES
from vclab.results import SEEDS_FOR_A_VERDICT, Claim, interval
from vclab.studies.access_cost.grid import DEPENDENT
from vclab.studies.access_cost.huge import PUBLISHED_FALL, PUBLISHED_MISSES
from vclab.studies.cells import is_colouring
from vclab.units import PAGE_BYTES, format_bytes

Floats = npt.NDArray[np.float64]
Bounds = tuple[float, float | None, float | None]

#: Percent that count as no difference.
NEGLIGIBLE = 2.0
#: Huge vmalloc: misses fall by more than so many times, and time by less than so many percent all the same, ...
MANY_TIMES = 10.0
LITTLE = 5.0
#: ... where other work takes this share of all time, or the asked one next to it.
SHARE_JUDGED = 0.9

_LEFT_OUT = "coalescing of neighbouring TLB entries; prefetchers and speculation beyond the presets'"


def parameters_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the parameters of a run."""
    found: dict[str, Any] = json.loads(dataset.attrs["parameters"])
    return found


def rows_where(dataset: xr.Dataset, **wanted: object) -> xr.Dataset:
    """Return the rows with given values of their coordinates; what is not named is as in the baseline."""
    parameters = parameters_of(dataset)
    values: dict[str, object] = {
        "cpu": parameters["cpu"],
        "direct_map": parameters["direct_map"],
        "split": 0.0,
        "background": "none",
        "control": "full",
        "prefetch": "on",
    } | wanted
    keep = np.ones(dataset.sizes["row"], np.bool_)
    for name, value in values.items():
        keep &= dataset[name].values == value
    return dataset.isel(row=np.flatnonzero(keep))


def sweep(dataset: xr.Dataset, pattern: str, **wanted: object) -> xr.Dataset:
    """Return the rows of the order that all machines have, by ascending size."""
    order = parameters_of(dataset)["sweep_order"]
    return rows_where(dataset, pattern=pattern, order=order, **wanted).sortby("live_bytes")


def serial(dataset: xr.Dataset, cell: str, phase: str = "steady") -> xr.DataArray:
    """Return serial cycles per access of a cell, over seeds and rows."""
    return dataset["cycles"].sel(cell=cell, phase=phase).sum("cause")


def overlapped(dataset: xr.Dataset, cell: str, phase: str = "steady") -> xr.DataArray:
    """Return overlapped cycles per access of a cell, over seeds and rows."""
    return dataset["overlapped_cycles"].sel(cell=cell, phase=phase)


def more(of: xr.DataArray, than: xr.DataArray) -> Floats:
    """Return by how many percent one cost is above another, float64[seed, rows]."""
    return np.asarray(100 * (of.values / than.values - 1), float)


def _judge(seeds: int, bounds: Sequence[Bounds]) -> str:
    """Return whether all intervals lie above what is negligible, or all below, with enough seeds for a verdict."""
    if seeds < SEEDS_FOR_A_VERDICT:
        return "undecided"
    if all(low is not None and low > NEGLIGIBLE for _, low, _ in bounds):
        return "holds"
    below = all(high is not None and high < NEGLIGIBLE for _, _, high in bounds)
    return "does not hold" if below else "undecided"


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Return every claim: three for each pattern, and huge vmalloc."""
    found = []
    for pattern in parameters_of(dataset)["patterns"]:
        found += [_mapping_size(dataset, pattern), _placement(dataset, pattern), _virtual_contiguity(dataset, pattern)]
    return [*found, _huge(dataset)]


def _claim(dataset: xr.Dataset, pattern: str, above: str, below: str, sentence: str, note: str = "") -> Claim:
    """Judge by how much a cell costs more than another at the largest working set of the sweep."""
    largest = sweep(dataset, pattern).isel(row=[-1])
    bounds = [interval(more(serial(largest, above), serial(largest, below)))]
    text = f"{bounds[0][0]:+.1f} %"
    rule = f"holds if above {NEGLIGIBLE:g} % at this size"
    if pattern != DEPENDENT:
        bounds.append(interval(more(overlapped(largest, above), overlapped(largest, below))))
        text = f"{text} serial, {bounds[1][0]:+.1f} % overlapped; the number is their middle, the interval spans both"
        rule += ", serial and overlapped"
    ends = [end for _, low, high in bounds for end in (low, high) if end is not None]
    size = format_bytes(float(largest["live_bytes"].values[0]))
    costs = f"{float(serial(largest, above).mean()):.1f} against {float(serial(largest, below).mean()):.1f} cycles"
    return Claim(
        sentence=f"{sentence} Over {size}.",
        measure=f"{pattern} over {size}, {above} against {below}: {text} ({costs} serial){note}",
        value=float(np.mean([value for value, _, _ in bounds])),
        low=min(ends) if ends else None,
        high=max(ends) if ends else None,
        unit="%",
        threshold=rule,
        verdict=_judge(dataset.sizes["seed"], bounds),
        left_out=_LEFT_OUT,
    )


def _mapping_size(dataset: xr.Dataset, pattern: str) -> Claim:
    large = parameters_of(dataset)["direct_map"]
    cheap = sweep(dataset, pattern).isel(row=[-1])["first_level_cycles"].sel(phase="steady")
    note = (
        f"; {float((cheap.sel(cell='ii') - cheap.sel(cell='i')).mean()):.1f} cycles more with data at first-level cost"
    )
    beside = sweep(dataset, pattern, background="half")
    if beside.sizes["row"]:
        largest = beside.isel(row=[-1])
        note += f", {more(serial(largest, 'ii'), serial(largest, 'i')).mean():+.1f} % beside other work"
    sentence = f"Mapping size: 4K entries cost more than the {large} direct map ({pattern})."
    return _claim(dataset, pattern, "ii", "i", sentence, note)


def colouring(dataset: xr.Dataset, pattern: str) -> tuple[Floats, Floats]:
    """Return by how many percent scattered frames cost more than contiguous ones at each size of the sweep.

    Returns
    -------
    full, neutral : tuple of float64[sizes]
        Means over seeds, as it is and with colour-neutral caches.
    """
    gaps = []
    for control in ("full", "colour-neutral"):
        rows = sweep(dataset, pattern, control=control)
        gaps.append(more(serial(rows, "iii"), serial(rows, "ii")).mean(0))
    return gaps[0], gaps[1]


def _placement(dataset: xr.Dataset, pattern: str) -> Claim:
    full, neutral = colouring(dataset, pattern)
    note = f"; colour-neutral {neutral[-1]:+.1f} %"
    widest = int(abs(full).argmax())
    if widest != len(full) - 1:
        size = format_bytes(float(sweep(dataset, pattern)["live_bytes"].values[widest]))
        note += f"; widest over {size}: {full[widest]:+.1f} %, colour-neutral {neutral[widest]:+.1f} %"
    if is_colouring(full[widest], neutral[widest], NEGLIGIBLE):
        note += ": reported as colouring"
    sentence = f"Placement: scattered frames cost more than contiguous ones ({pattern})."
    return _claim(dataset, pattern, "iii", "ii", sentence, note)


def _virtual_contiguity(dataset: xr.Dataset, pattern: str) -> Claim:
    sentence = f"Virtual contiguity: open-coded pages cost more than virtually contiguous ones ({pattern})."
    return _claim(dataset, pattern, "iv", "iii", sentence)


# Huge vmalloc


def misses(dataset: xr.Dataset) -> xr.DataArray:
    """Return page walks of lookups and other work together, by seed, hash, amount of other work and entries."""
    return dataset["huge_events"].sel(event="walk").sum("who")


def fewer_times(dataset: xr.Dataset) -> xr.DataArray:
    """Return how many times fewer misses 2M entries have; NaN where no hash got them."""
    walks = misses(dataset)
    ratio = walks.sel(entries="4K", drop=True) / np.maximum(walks.sel(entries="2M", drop=True), 1)
    return ratio.where(dataset["huge_measured"] > 0)


def time_saved(dataset: xr.Dataset, bound: str = "serial") -> xr.DataArray:
    """Return by how many percent all cycles fall with 2M entries; NaN where no hash got them.

    Other work was given its share of serial cycles. Overlapped, its cycles are weighted so that they are the same share
    of the time with 4K entries.
    """
    time = huge_time(dataset, bound)
    if bound == "overlapped":
        by_who = huge_time(dataset).sel(entries="4K", drop=True)
        wanted = by_who / by_who.sel(who="lookups", drop=True)
        has = time.sel(entries="4K", drop=True) / time.sel(entries="4K", who="lookups", drop=True)
        time = time * (wanted / has.where(has > 0)).fillna(0)
    total = time.sum("who")
    four = total.sel(entries="4K", drop=True)
    return (100 * (1 - total.sel(entries="2M", drop=True) / four)).where(dataset["huge_measured"] > 0)


def huge_time(dataset: xr.Dataset, bound: str = "serial") -> xr.DataArray:
    """Return cycles of a run, by who spent them."""
    return dataset["huge_cycles"].sum("cause") if bound == "serial" else dataset["huge_overlapped_cycles"]


def reached_share(dataset: xr.Dataset) -> xr.DataArray:
    """Return the share of all time that other work takes with 4K entries."""
    time = huge_time(dataset).sel(entries="4K", drop=True)
    return (time.sel(who="other work", drop=True) / time.sum("who")).where(dataset["huge_measured"] > 0)


def measured_hashes(dataset: xr.Dataset) -> list[int]:
    """Return the orders of hash that got 2M entries with every seed."""
    return [int(order) for order in dataset["hash_order"].values[(dataset["huge_measured"] > 0).all("seed").values]]


def judged_work(dataset: xr.Dataset) -> str:
    """Return the amount of other work that the claim is judged at."""
    reached = dataset["asked_share"].where(dataset["reading"] == "all")
    if not bool(reached.notnull().any()):
        return str(dataset["work"].values[-1])
    return str(dataset["work"].values[int(abs(reached - SHARE_JUDGED).argmin("work"))])


def _huge(dataset: xr.Dataset) -> Claim:
    sentence = "Larger entries save many TLB misses and little time (huge vmalloc, published: 28 times, 0.54 %)."
    orders = measured_hashes(dataset)
    if not orders:
        return Claim(sentence=sentence, measure="no hash got 2M entries: every 2 MiB block was short")
    work = judged_work(dataset)
    at = {"hash_order": orders[-1], "work": work}
    times = interval(fewer_times(dataset).sel(at))
    saved = {bound: interval(time_saved(dataset, bound).sel(at)) for bound in ("serial", "overlapped")}
    alone = float(time_saved(dataset).sel(hash_order=orders[-1], work="none").mean())
    ends = [end for _, low, high in saved.values() for end in (low, high) if end is not None]
    lookups = parameters_of(dataset)["lookups"]
    verdict = "undecided"
    if dataset.sizes["seed"] >= SEEDS_FOR_A_VERDICT and times[1] is not None and times[2] is not None:
        if times[1] > MANY_TIMES and max(ends) < LITTLE:
            verdict = "holds"
        elif times[2] < MANY_TIMES or min(ends) > LITTLE:
            verdict = "does not hold"
    return Claim(
        sentence=sentence,
        measure=f"lookups in a hash of {format_bytes(PAGE_BYTES << orders[-1])}, other work {work} time: misses fall "
        f"{times[0]:,.0f} times, cycles by {saved['serial'][0]:.2f} % serial and {saved['overlapped'][0]:.2f} % "
        f"overlapped ({alone:.1f} % of the lookups' own); misses that are left are first touches, so the factor grows "
        f"with the lookups, {lookups:,} here; the number is the percentage, in the middle of both",
        value=float(np.mean([value for value, _, _ in saved.values()])),
        low=min(ends) if ends else None,
        high=max(ends) if ends else None,
        unit="%",
        threshold=f"holds if misses fall more than {MANY_TIMES:g} times and cycles by less than {LITTLE:g} %",
        verdict=verdict,
        left_out="what other work itself misses depends on its working set, which the published pair does not give; 2M "
        f"entries come with contiguous frames, and {_cached_share(dataset, orders[-1]):.0%} of what lookups alone save "
        "is in who serves the data, not in translation",
    )


def _cached_share(dataset: xr.Dataset, order: int) -> float:
    """Return the part of the cycles that lookups alone save that is in who serves the data."""
    spent = dataset["huge_cycles"].sel(hash_order=order, work="none").sum("who")
    saved = (spent.sel(entries="4K") - spent.sel(entries="2M")).mean("seed")
    return float(saved.sel(cause=list(DATA_CAUSES)).sum() / saved.sum())


def huge_table(dataset: xr.Dataset) -> list[dict[str, float | str]]:
    """Return the comparison as rows: size, other work, its share of all time, misses and cycles both ways."""
    walks = misses(dataset)
    table: list[dict[str, float | str]] = []
    for order in measured_hashes(dataset):
        for work in dataset["work"].values:
            at = {"hash_order": order, "work": work}
            table.append(
                {
                    "hash": format_bytes(PAGE_BYTES << order),
                    "other work": str(work),
                    "share of all time": float(reached_share(dataset).sel(at).mean("seed")),
                    "misses with 4K": float(walks.sel({**at, "entries": "4K"}).mean("seed")),
                    "misses with 2M": float(walks.sel({**at, "entries": "2M"}).mean("seed")),
                    "times fewer": float(fewer_times(dataset).sel(at).mean("seed")),
                    "cycles saved, serial %": float(time_saved(dataset).sel(at).mean("seed")),
                    "cycles saved, overlapped %": float(time_saved(dataset, "overlapped").sel(at).mean("seed")),
                }
            )
    return table


def share_of_published(dataset: xr.Dataset) -> float | None:
    """Return the share of other work at which the largest measured hash would save what was published, serial.

    Interpolated, or followed further, between the two nearest amounts of other work, logarithm against logarithm.
    """
    orders = measured_hashes(dataset)
    if not orders:
        return None
    saved = time_saved(dataset).sel(hash_order=orders[-1]).mean("seed").values
    left = 1 - reached_share(dataset).sel(hash_order=orders[-1]).mean("seed").values
    left, first = np.unique(left.round(3), return_index=True)
    saved = saved[first]
    if len(left) < 2 or not (saved > 0).all():
        return None
    above = int(np.clip(np.searchsorted(saved, PUBLISHED_FALL), 1, len(saved) - 1))
    slope = np.log(left[above] / left[above - 1]) / np.log(saved[above] / saved[above - 1])
    return float(1 - left[above] * (PUBLISHED_FALL / saved[above]) ** slope)


def summary(dataset: xr.Dataset) -> list[str]:
    """Return what a reader should know first."""
    parameters = parameters_of(dataset)
    lines = []
    for pattern in parameters["sweep_patterns"]:
        rows = sweep(dataset, pattern)
        sizes = rows["live_bytes"].values
        gap = more(serial(rows, "iii"), serial(rows, "i")).mean(0)
        lines.append(
            f"{pattern.capitalize()}: on {parameters['cpu']} scattered 4K pages cost {gap[0]:+.0f} % over "
            f"{format_bytes(float(sizes[0]))} and {gap[-1]:+.0f} % over {format_bytes(float(sizes[-1]))} against "
            f"contiguous ones behind the {parameters['direct_map']} direct map; at most {gap.max():+.0f} %, over "
            f"{format_bytes(float(sizes[gap.argmax()]))}."
        )
    first = sweep(dataset, parameters["sweep_patterns"][0]).isel(row=[-1])
    cold = {cell: float(serial(first, cell, "cold").mean()) for cell in ("i", "iii")}
    lines.append(
        f"Cold, the first touch of each page costs {cold['iii']:.0f} cycles against {cold['i']:.0f} over the largest "
        "of these, in caches as clearing the pages leaves them."
    )
    lines.append(_huge_summary(dataset))
    short = dataset["huge_share"].mean("seed")
    shares = ", ".join(
        f"{format_bytes(PAGE_BYTES << int(order))} {1 - float(short.sel(hash_order=order)):.0%}"
        for order in dataset["hash_order"].values
    )
    lines.append(f"Of {parameters['hash_requests']} hashes asked for in a row, these fell back to 4K: {shares}.")
    if dataset.attrs["missing_points"]:
        lines.append(f"Left out of the grid: {dataset.attrs['missing_points']}.")
    if dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        lines.append(
            f"Only {dataset.sizes['seed']} of the {SEEDS_FOR_A_VERDICT} seeds that a verdict needs: nothing is decided."
        )
    return lines


def _huge_summary(dataset: xr.Dataset) -> str:
    orders = measured_hashes(dataset)
    if not orders:
        return "Huge vmalloc: no hash got 2M entries on these machines, so there is nothing to compare."
    at = {"hash_order": orders[-1], "work": judged_work(dataset)}
    alone = {"hash_order": orders[-1], "work": "none"}
    return (
        f"Huge vmalloc, a hash of {format_bytes(PAGE_BYTES << orders[-1])}: misses fall "
        f"{float(fewer_times(dataset).sel(alone).mean()):,.0f} times and the lookups' own cycles by "
        f"{float(time_saved(dataset).sel(alone).mean()):.1f} %; with other work {at['work']} time, "
        f"{float(fewer_times(dataset).sel(at).mean()):,.0f} times and {float(time_saved(dataset).sel(at).mean()):.2f} "
        f"% (published on POWER9: {PUBLISHED_MISSES[0] / PUBLISHED_MISSES[1]:.0f} times and {PUBLISHED_FALL} %)."
    )
