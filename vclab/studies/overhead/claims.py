"""The RFC's third disadvantage, and what of the second is the kernel's own work, held against numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from vclab.results import SEEDS_FOR_A_VERDICT, Claim, interval, judge
from vclab.studies.flush import REGIMES
from vclab.units import PAGE_BYTES

#: A ratio up to this, or a share up to this much more than nothing, counts as no difference.
NEGLIGIBLE = 1.02
MEMORY = "Virtual mappings have more memory overhead: vm_area structures, page tables, page arrays."
TIME = "Virtual mappings are less efficient than physical mappings: they have to be allocated and managed."
FLUSH_CAUSES = ("flush", "interrupt")
_PACKED = "slabs and per-CPU lists of the control structures"


def data_bytes(dataset: xr.Dataset) -> xr.DataArray:
    """Return the bytes of the pages that were served, not a number where there were none."""
    return (dataset["served"] * 2 ** dataset["order"] * PAGE_BYTES).where(dataset["served"] > 0)


def memory_shares(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return attributed, marginal and retained bytes over the bytes of the pages themselves."""
    data = data_bytes(dataset)
    return {
        "attributed": dataset["attributed_bytes"] / data,
        "marginal": dataset["marginal_frames"] * PAGE_BYTES / data,
        "retained": dataset["retained_frames"] * PAGE_BYTES / data,
    }


def per_page(dataset: xr.Dataset) -> xr.DataArray:
    """Return nanoseconds for each 4 KiB served, by cause, not a number where nothing was."""
    return dataset["nanoseconds"] / (data_bytes(dataset) / PAGE_BYTES)


def middle_order(dataset: xr.Dataset) -> int:
    """Return the order nearest to 3, up to which Linux thinks little of a request (``PAGE_ALLOC_COSTLY_ORDER``)."""
    orders = dataset["order"].values
    return int(orders[np.abs(orders - 3).argmin()])


def latest(dataset: xr.Dataset) -> str:
    """Return the last era that was measured."""
    return str(dataset["era"].values[-1])


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Return rows on memory, on its rounding, on time, and on flushes."""
    eras = [str(era) for era in dataset["era"].values]
    return [
        *(_attributed(dataset, era) for era in eras),
        *(_frames(dataset, name) for name in ("marginal", "retained")),
        _rounded(dataset),
        _time(dataset),
        *(_flush(dataset, regime) for regime in REGIMES[1:]),
    ]


def _attributed(dataset: xr.Dataset, era: str) -> Claim:
    shares = 100 * memory_shares(dataset)["attributed"].sel(era=era, policy="vmalloc", state="fresh")
    share = shares.mean("seed")
    low, high = int(dataset["order"].min()), int(dataset["order"].max())
    middle = middle_order(dataset)
    return Claim(
        sentence=MEMORY,
        measure=f"bytes of structures of {era} over bytes of a page of order {middle} "
        f"({float(share.sel(order=low)):.2g} % at order {low}, {float(share.sel(order=high)):.2g} % at order {high}; "
        "physical: none); exact",
        value=float(share.sel(order=middle)),
        unit="%",
        threshold="holds if above 0 % at every order",
        verdict="holds" if bool((shares > 0).all()) else "does not hold",
        left_out=_PACKED,
    )


def _frames(dataset: xr.Dataset, name: str) -> Claim:
    era, middle = latest(dataset), middle_order(dataset)
    shares = 100 * memory_shares(dataset)[name].sel(era=era, policy="vmalloc", state="aged")
    value, low, high = interval(shares.sel(order=middle))
    mean = shares.mean("seed")
    ends = int(dataset["order"].min()), int(dataset["order"].max())
    first = dataset["first_marginal_frames"].sel(era=era, policy="vmalloc", state="aged", order=middle).mean("seed")
    what = {
        "marginal": f"frames newly taken over frames of {_requests(dataset, middle)} pages of order {middle} under "
        f"{era} (for the first page alone {float(first):.0f} frames)",
        "retained": f"frames still held when all pages of order {middle} are freed, as page tables",
    }
    return Claim(
        sentence=MEMORY,
        measure=f"{what[name]}; {float(mean.sel(order=ends[0])):.2g} % at order {ends[0]}, "
        f"{float(mean.sel(order=ends[1])):.2g} % at order {ends[1]}",
        value=value,
        low=low,
        high=high,
        unit="%",
        threshold="holds if above 0 %, which is what physical pages take",
        verdict=judge(dataset.sizes["seed"], low, high, 0.0),
        left_out=_PACKED,
    )


def _requests(dataset: xr.Dataset, order: int) -> int:
    return int(dataset["requested"].sel(policy="vmalloc", state="aged", order=order).isel(seed=0, era=-1))


def taken_per_byte(dataset: xr.Dataset) -> xr.DataArray:
    """Return bytes taken over bytes asked for, structures included, by rounding, order and fraction; exact."""
    taken = dataset["taken_pages"] / dataset["asked_pages"]
    share = memory_shares(dataset)["attributed"].sel(era=latest(dataset), state="fresh").mean("seed")
    own = xr.concat(
        [xr.zeros_like(share.sel(policy="vmalloc", drop=True)), share.sel(policy="vmalloc", drop=True)],
        xr.Variable("rounding", ["compound page", "vmalloc"]),
    )
    huge = share.sel(policy="huge-vmalloc", drop=True).expand_dims(rounding=["huge-vmalloc"])
    return taken * (1 + xr.concat([own, huge], "rounding"))


def _rounded(dataset: xr.Dataset) -> Claim:
    """Return whether virtual pages take more for requests that are no power of two."""
    order = middle_order(dataset)
    taken = taken_per_byte(dataset).sel(order=order)
    mean = taken.mean("fraction")
    value = float(mean.sel(rounding="vmalloc") / mean.sel(rounding="compound page"))
    quarter = taken.sel(fraction=1.25)
    return Claim(
        sentence=MEMORY,
        measure=f"bytes that vmalloc takes, structures included, over those of a physical page, mean of requests for "
        f"1, 1.25, 1.5 and 1.75 times 2^{order} pages (for 1.25 times: "
        f"{float(quarter.sel(rounding='vmalloc')):.3f} and {float(quarter.sel(rounding='compound page')):.3f} for each "
        "byte asked for); exact",
        value=value,
        unit="times",
        threshold="holds if above 1",
        verdict="holds" if value > 1 else "does not hold",
        left_out="giving back the tail (alloc_pages_exact); a virtual compound page rounds up too",
    )


def _time(dataset: xr.Dataset) -> Claim:
    era, order = latest(dataset), middle_order(dataset)
    each = per_page(dataset).sel(era=era, state="aged", order=order).sum("step", skipna=False)
    without = each.where(~each["operation_cause"].isin(FLUSH_CAUSES), 0.0).sum("operation_cause", skipna=False)
    virtual, physical = without.sel(policy="vmalloc"), without.sel(policy="physical")
    if not bool(np.isfinite(physical).all()):
        return Claim(sentence=TIME, measure=f"no physical page of order {order} was served, so nothing compares")
    ratio = virtual / physical
    value, low, high = interval(ratio.sel(bound="value"))
    ends = [f"{float(ratio.sel(bound=bound).mean()):.3g}" for bound in ("low", "high")]
    return Claim(
        sentence=TIME,
        measure=f"ns to allocate, clear and free a virtual page of order {order} over a physical one, without flushes "
        f"({float(virtual.sel(bound='value').mean()):,.0f} against {float(physical.sel(bound='value').mean()):,.0f} ns "
        f"for each 4 KiB; {ends[0]} with all prices low, {ends[1]} with all high)",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold=f"holds if above {NEGLIGIBLE}",
        verdict=judge(dataset.sizes["seed"], low, high, NEGLIGIBLE),
        left_out="per-CPU lists and bulk allocation, which make single frames cheaper",
    )


def free_without_flush(dataset: xr.Dataset) -> xr.DataArray:
    """Return the cycles of freeing one virtual page beside its flush, by seed and order."""
    where: dict[str, Any] = {"era": latest(dataset), "state": "aged", "policy": "vmalloc"}
    work = dataset["nanoseconds"].sel(step="free", bound="value", **where)
    rest = work.where(~work["operation_cause"].isin(FLUSH_CAUSES), 0.0).sum("operation_cause")
    return rest * float(dataset.attrs["gigahertz"]) / dataset["served"].sel(where)


def _flush(dataset: xr.Dataset, regime: str) -> Claim:
    order = middle_order(dataset)
    shares = dataset["flush_cycles"].sel(order=order, regime=regime)
    rest = free_without_flush(dataset).sel(order=order)
    value, low, high = interval(shares.sum("share") / rest + 1)
    listed = ", ".join(f"{name} {float(shares.sel(share=name).mean()):,.1f}" for name in shares["share"].values)
    since = "2.6.24" if regime == REGIMES[1] else "since 2.6.28"
    return Claim(
        sentence=TIME,
        measure=f"cycles of freeing a virtual page of order {order} with its flush over those without, {regime} "
        f"({since}; cycles a free: {listed}; the rest of it {float(rest.mean()):,.0f})",
        value=value,
        low=low,
        high=high,
        unit="times",
        threshold=f"holds if above {NEGLIGIBLE}",
        verdict=judge(dataset.sizes["seed"], low, high, NEGLIGIBLE),
        left_out="interrupts that are off when asked for, locks, more CPUs",
    )


def summary(dataset: xr.Dataset) -> list[str]:
    """Return what a reader should know first."""
    era, order = latest(dataset), middle_order(dataset)
    share = 100 * memory_shares(dataset)["attributed"].sel(policy="vmalloc", state="fresh").mean("seed")
    largest = int(dataset["order"].max())
    taken = taken_per_byte(dataset).sel(order=order, fraction=1.25)
    by_era = " and ".join(
        f"{float(share.sel(era=name, order=order)):.2f} % with the structures of {name}"
        for name in dataset["era"].values.tolist()
    )
    flush = dataset["flush_cycles"].sel(order=order).sum("share").mean("seed")
    lines = [
        f"A virtual page of order {order} takes {by_era}, and at order {largest} "
        f"{float(share.sel(era=era, order=largest)):.2f} %: the page array and the entries, 16 bytes for each 4 KiB.",
        f"Rounding costs far more: asked for 1.25 times a power of two, the page allocator takes "
        f"{float(taken.sel(rounding='compound page')):.2f} times as much as was asked for, vmalloc "
        f"{float(taken.sel(rounding='vmalloc')):.2f} times.",
        f"Flushing all CPUs at each free, as 2.6.24 does, costs {float(flush.sel(regime=REGIMES[1])):,.0f} cycles a "
        f"free of order {order}, interrupts and refills included; spread over a lazy purge it is "
        f"{float(flush.sel(regime=REGIMES[2])):,.0f}.",
    ]
    if dataset.sizes["seed"] < SEEDS_FOR_A_VERDICT:
        lines.append(
            f"Only {dataset.sizes['seed']} of the {SEEDS_FOR_A_VERDICT} seeds that a verdict needs: nothing is decided."
        )
    return lines
