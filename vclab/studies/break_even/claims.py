"""Who wins where: for the caller, for all CPUs, with refaults; each claim with its threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from vclab.results import SEEDS_FOR_A_VERDICT, Claim, interval, judge, ratio_interval
from vclab.studies.access_cost.grid import DEPENDENT
from vclab.studies.break_even.balance import Outcome
from vclab.studies.break_even.requests import ACCOUNTS, OVER, SIDES

ALL, NEEDED = OVER
INSISTING, FALLING_BACK = SIDES
CALLER, ALL_CPUS, REFAULTS, READ_AGAIN = ACCOUNTS
#: Accesses that few pages see between allocation and free: a pass of lines over 64 KiB is a thousand.
MANY = 10_000.0
_LEFT_OUT = "locks, sleeping, the caller's wait for kswapd on a machine's only CPU; first touches"


def format_accesses(count: float) -> str:
    """Return a number of accesses in at most five characters: ``1234567`` becomes ``1.2M``."""
    for unit in ("", "k", "M", "G", "T"):
        if count < 999.5 or unit == "T":
            return f"{count:.2g}{unit}" if count < 99.5 else f"{count:.0f}{unit}"
        count /= 1000
    raise AssertionError("unreachable")


def cell_text(cell: xr.Dataset) -> str:
    """Return who wins in one cell, in a word or a number of accesses."""
    outcome = Outcome(str(cell["outcome"].values))
    if outcome is Outcome.AFTER:
        return format_accesses(float(cell["break_even"]))
    if outcome is Outcome.UNTIL:
        return f"<{format_accesses(float(cell['break_even']))}"
    return {Outcome.EQUAL: "equal", Outcome.NOT_NEEDED: "–"}.get(outcome, str(outcome))


def headline(dataset: xr.Dataset, **where: Any) -> xr.Dataset:
    """Return who wins over all requests with the most live pages; ``where`` chooses among the other dimensions."""
    numbers = dataset[["outcome", "break_even", "break_even_low", "break_even_high"]]
    return numbers.isel(live_pages=-1).sel({"over": ALL, **where})


def extra_ns(dataset: xr.Dataset, account: str, over: str = ALL) -> xr.DataArray:
    """Return what insisting costs more than falling back a request, ns, by CPU, seed and order."""
    cost = dataset["cost_ns"].sel(account=account, over=over)
    return cost.sel(side=INSISTING, drop=True) - cost.sel(side=FALLING_BACK, drop=True)


def large_order(dataset: xr.Dataset) -> int:
    """Return the order nearest to 9, a 2 MiB block."""
    orders = dataset["order"].values.tolist()
    return int(min(orders, key=lambda order: (abs(order - 9), order)))


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Return every claim."""
    rows = [_caller(dataset), _overlapped(dataset), _all_cpus(dataset), _refaults(dataset), _unserved(dataset)]
    if dataset.sizes["cpu"] > 1:
        rows.insert(2, _cpus(dataset))
    return rows


def _caller(dataset: xr.Dataset) -> Claim:
    sentence = "For the caller, falling back is cheaper unless a page is accessed very often."
    cells = headline(dataset, account=CALLER, bound="serial").stack(cell=("cpu", "order", "pattern"))
    known = cells["break_even"].where(cells["outcome"] == str(Outcome.AFTER))
    if not bool(known.notnull().any()):
        return Claim(sentence=sentence, measure="no cell of the map has a number of accesses")
    first = cells.isel(cell=int(known.argmin("cell")))
    low, high = float(first["break_even_low"]), float(first["break_even_high"])
    known_ends = bool(np.isfinite(low) and np.isfinite(high))
    early = int((cells["outcome"] == str(Outcome.AT_ONCE)).sum())
    verdict = judge(dataset.sizes["seed"], low if known_ends else None, high if known_ends else None, MANY)
    return Claim(
        sentence=sentence,
        measure=f"the fewest accesses of any cell after which insisting has paid for the caller: order "
        f"{int(first['order'])}, {first['pattern'].item()}, {first['cpu'].item()}, serial; the median cell with a "
        f"number has {format_accesses(float(known.median()))}, {early} of {cells.sizes['cell']} cells pay at once, "
        f"{int((cells['outcome'] == str(Outcome.NEVER)).sum())} never (interval: Fieller's, of the ratio of means)",
        value=float(first["break_even"]),
        low=low if known_ends else None,
        high=high if known_ends else None,
        unit="accesses",
        threshold=f"holds if above {MANY:,.0f}, and no cell pays at once",
        verdict="does not hold" if early and dataset.sizes["seed"] >= SEEDS_FOR_A_VERDICT else verdict,
        left_out=_LEFT_OUT,
    )


def _overlapped(dataset: xr.Dataset) -> Claim:
    sentence = "Where accesses overlap, contiguity is hardly ever worth its price to the caller."
    patterns = [name for name in dataset["pattern"].values.tolist() if name != DEPENDENT]
    if not patterns:
        return Claim(sentence=sentence, measure=f"no pattern but {DEPENDENT}, whose accesses cannot overlap")
    cells = headline(dataset, account=CALLER, bound="overlapped", pattern=patterns)
    late = (cells["outcome"] == str(Outcome.NEVER)) | (cells["break_even"] > 1e6)
    value = 100 * float(late.mean())
    never = 100 * float((cells["outcome"] == str(Outcome.NEVER)).mean())
    enough = dataset.sizes["seed"] >= SEEDS_FOR_A_VERDICT
    return Claim(
        sentence=sentence,
        measure=f"share of the map's cells, {', '.join(patterns)}, in which contiguity pays never ({never:.0f} %) or "
        "after more than a million accesses",
        value=value,
        unit="%",
        threshold="holds if above 90 %",
        verdict=("holds" if value > 90 else "does not hold") if enough else "undecided",
        left_out=_LEFT_OUT,
    )


def _cpus(dataset: xr.Dataset) -> Claim:
    order = large_order(dataset)
    pattern = str(dataset["pattern"].values[0])
    cells = headline(dataset, account=CALLER, bound="serial", order=order, pattern=pattern)
    numbers = cells["break_even"].where(cells["outcome"] == str(Outcome.AFTER))
    listed = ", ".join(f"{name} {cell_text(cells.sel(cpu=name))}" for name in cells["cpu"].values.tolist())
    sentence = "The trade depends on the CPU."
    if int(numbers.notnull().sum()) < 2:
        return Claim(sentence=sentence, measure=f"order {order}, {pattern}: {listed}")
    late, soon = (str(cells["cpu"].values[int(pick("cpu"))]) for pick in (numbers.argmax, numbers.argmin))
    # The same extra cost over two gains: the ratio of the numbers is that of the gains.
    steady = dataset["access_ns"].sel(phase="steady", bound="serial", order=order, pattern=pattern).isel(live_pages=-1)
    gain = steady.sel(kind="virtual", drop=True) - steady.sel(kind="physical", drop=True)
    value, low, high = ratio_interval(gain.sel(cpu=soon), gain.sel(cpu=late))
    return Claim(
        sentence=sentence,
        measure=f"order {order}, {pattern}, serial: accesses until insisting has paid for the caller: {listed}; what "
        f"an access saves on {soon} over what it saves on {late}",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold="holds if above 2",
        verdict=judge(dataset.sizes["seed"], low, high, 2.0),
        left_out="prices of the kernel's work are those of one machine for all CPUs",
    )


def _all_cpus(dataset: xr.Dataset) -> Claim:
    order = large_order(dataset)
    cost = dataset["cost_ns"].isel(cpu=0).sel(over=ALL, order=order)
    sides = {name: cost.sel(side=name) for name in SIDES}
    value, low, high = ratio_interval(sides[FALLING_BACK].sel(account=ALL_CPUS), sides[INSISTING].sel(account=ALL_CPUS))
    own = float(sides[INSISTING].sel(account=CALLER).mean() / sides[FALLING_BACK].sel(account=CALLER).mean())
    outcomes = headline(dataset, account=ALL_CPUS, bound="serial")["outcome"]
    return Claim(
        sentence="Falling back spares the machine the work of making contiguous blocks.",
        measure=f"CPU time of all CPUs for one request of order {order} that falls back, over one that insists (the "
        f"caller's own: insisting takes {own:,.1f} times as long). The quick try that comes before a fallback wakes "
        "kswapd and kcompactd all the same. "
        f"{int((outcomes == str(Outcome.AT_ONCE)).sum())} of {outcomes.size} cells of the map pay at once so",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold="holds if below 1",
        verdict={"holds": "does not hold", "does not hold": "holds"}.get(
            verdict := judge(dataset.sizes["seed"], low, high, 1.0), verdict
        ),
        left_out="kswapd and kcompactd finish between two requests here; a burst of requests would share one run",
    )


def _refaults(dataset: xr.Dataset) -> Claim:
    outcomes = {name: headline(dataset, account=name, bound="serial") for name in (ALL_CPUS, REFAULTS, READ_AGAIN)}
    changed = 100 * float((outcomes[ALL_CPUS]["outcome"] != outcomes[REFAULTS]["outcome"]).mean())
    again = 100 * float((outcomes[ALL_CPUS]["outcome"] != outcomes[READ_AGAIN]["outcome"]).mean())
    order = large_order(dataset)
    more = {
        name: float(extra_ns(dataset, name).isel(cpu=0).sel(order=order).mean()) / 1000
        for name in (ALL_CPUS, REFAULTS, READ_AGAIN)
    }
    enough = dataset.sizes["seed"] >= SEEDS_FOR_A_VERDICT
    return Claim(
        sentence="Refaults of what reclaim took decide who wins.",
        measure="share of the map's cells whose winner is another one when waiting for pages that programs needed "
        f"again counts (if all of what reclaim took were needed again: {again:.0f} %). Order {order}: insisting costs "
        f"{more[ALL_CPUS]:+,.0f} us more than falling back without, {more[REFAULTS]:+,.0f} with refaults, "
        f"{more[READ_AGAIN]:+,.0f} if all is read again",
        value=changed,
        unit="%",
        threshold="holds if above 10 %",
        verdict=("holds" if changed > 10 else "does not hold") if enough else "undecided",
        left_out="pages that programs need only after the trace; write-back",
    )


def _unserved(dataset: xr.Dataset) -> Claim:
    order = int(dataset["order"].values[-1])
    needed, unserved = (dataset[name].sel(order=order) for name in ("needed", "unserved"))
    sentence = "Insisting gets its block in the end."
    if not bool((needed > 0).all()):
        return Claim(sentence=sentence, measure=f"order {order}: some machines served every request at once")
    value, low, high = interval(100 * (1 - unserved / needed))
    by_order = ", ".join(
        f"{int(each)}: {float(dataset['unserved'].sel(order=each).sum()):.0f} of "
        f"{float(dataset['needed'].sel(order=each).sum()):.0f}"
        for each in dataset["order"].values
    )
    exact = low == high
    verdict = judge(dataset.sizes["seed"], low, high, 99.0)
    return Claim(
        sentence=sentence,
        measure=f"share of the requests of order {order} that fell back which insisting served (not served, by order: "
        f"{by_order}); those that it could not serve are in all numbers with a counterfactual block",
        value=value,
        low=None if exact else low,
        high=None if exact else high,
        unit="%",
        threshold="holds if above 99 %",
        verdict=verdict,
        left_out="nobody is killed for memory here",
    )


def summary(dataset: xr.Dataset) -> list[str]:
    """Return what a reader should know first."""
    order = large_order(dataset)
    pattern = str(dataset["pattern"].values[0])
    cpu = str(dataset["cpu"].values[0])
    cost = dataset["cost_ns"].sel(cpu=cpu, over=ALL, order=order).mean("seed") / 1000
    cell = headline(dataset, cpu=cpu, order=order, pattern=pattern, bound="serial")
    own, machine = (cost.sel(account=account) for account in (CALLER, ALL_CPUS))
    where = {"over": NEEDED, "account": CALLER, "bound": "serial", "cpu": cpu, "order": order, "pattern": pattern}
    alone = headline(dataset, **where)
    lines = [
        f"A caller that insists on a block of order {order} where none is free spends "
        f"{float(own.sel(side=INSISTING)):,.0f} us on it and its free; one that falls back spends "
        f"{float(own.sel(side=FALLING_BACK)):,.0f} us.",
        f"On {cpu}, {pattern}: contiguity has paid for that caller {_in_words(cell.sel(account=CALLER))}; counting all "
        f"CPUs {_in_words(cell.sel(account=ALL_CPUS))}, with refaults {_in_words(cell.sel(account=REFAULTS))}. Of the "
        f"requests that fell back alone, for the caller: {_in_words(alone)}; that leaves out what insisting for them "
        "makes dearer or cheaper for others.",
        f"All CPUs together spend {float(machine.sel(side=INSISTING)):,.0f} us for a request that insists, "
        f"{float(machine.sel(side=FALLING_BACK)):,.0f} us for one that falls back: the quick try wakes kswapd and "
        "kcompactd in either case.",
    ]
    if dataset.attrs["missing_points"]:
        lines.append(f"Left out: {dataset.attrs['missing_points']}.")
    if dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        lines.append(
            f"Only {dataset.sizes['seed']} of the {SEEDS_FOR_A_VERDICT} seeds that a verdict needs: nothing is decided."
        )
    return lines


def _in_words(cell: xr.Dataset) -> str:
    """Return when contiguity has paid in one cell."""
    outcome = Outcome(str(cell["outcome"].values))
    if outcome is Outcome.AFTER:
        text = f"after {format_accesses(float(cell['break_even']))} accesses"
        low, high = float(cell["break_even_low"]), float(cell["break_even_high"])
        ends = f" ({format_accesses(low)} to {format_accesses(high)})" if np.isfinite(low) else ""
        return text + ends
    if outcome is Outcome.UNTIL:
        return f"up to {format_accesses(float(cell['break_even']))} accesses"
    words = {
        Outcome.EQUAL: "at no time more than falling back",
        Outcome.OPEN: "at a time that these machines leave open, if at all",
        Outcome.NOT_NEEDED: "without a difference, since no request fell back",
    }
    return words.get(outcome, str(outcome))
