"""T4 and T5: the kernel's own numbers in a recording's folder, computed again from what they depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy.typing as npt

from vclab.fragmentation import fragmentation_thousandths, unusable_thousandths
from vclab.recordings.indices import read_indices
from vclab.recordings.procfiles import read_buddyinfo
from vclab.recordings.refusal import refusal
from vclab.recordings.zonetext import ZoneText, read_zones
from vclab.replay.rates import Check
from vclab.watermarks import FRAME_KBYTES, MOVABLE, Settings, ZoneLimits, ZoneSize, zone_limits

_INDICES: dict[str, Callable[[npt.ArrayLike, int], int]] = {
    "extfrag_index": fragmentation_thousandths,
    "unusable_index": unusable_thousandths,
}


def check_indices(folder: Path) -> list[Check]:
    """Run T4: each ``*extfrag_index.txt`` and ``*unusable_index.txt`` against the buddyinfo read beside it."""
    compared = equal = 0
    files = []
    for name, index in _INDICES.items():
        for path in sorted(folder.glob(f"*{name}.txt")):
            beside = path.with_name(path.name.replace(f"{name}.txt", "buddyinfo.txt"))
            if not beside.exists():
                continue
            files.append(path.name)
            said, blocks = read_indices(path), read_buddyinfo(beside)
            for zone, row in zip(said.zone_names, said.thousandths.tolist(), strict=True):
                counts = blocks.counts[blocks.zone_names.index(zone)] if zone in blocks.zone_names else None
                compared += len(row)
                if counts is not None and len(counts) == len(row):
                    equal += sum(index(counts, order) == value for order, value in enumerate(row))
    if not compared:
        return []
    return [
        Check(
            "T4",
            "values of the fragmentation indices that equal the ones computed from buddyinfo",
            equal / compared,
            1.0,
            detail=f"n {compared}: {', '.join(files)}",
        )
    ]


def check_limits(folder: Path) -> list[Check]:
    """Run T5: watermarks, reserves and per-CPU sizes of each ``*zoneinfo.txt`` against what the zones' sizes give."""
    compared = equal = 0
    files, wrong, settled = [], [], set()
    for path in sorted(folder.glob("*zoneinfo.txt")):
        zones = read_zones(path)
        if not all({"managed", "present", "min"} <= zone.sizes.keys() for zone in zones):
            continue
        for zone in zones:
            if zone.sizes.get("boost", 0) > zone.sizes["min"]:
                boosted = f"boost {zone.sizes['boost']} of zone {zone.label}"
                raise refusal(boosted, path, f"it is part of min, which is {zone.sizes['min']}")
        files.append(path.name)
        limits, how = _limits(zones)
        settled.add(how)
        for zone, limit in zip(zones, limits, strict=True):
            for name, said, computed in _pairs(zone, limit):
                compared += 1
                equal += said == computed
                if said != computed:
                    wrong.append(f"{path.name} {zone.label} {name} {said} for {computed}")
    if not compared:
        return []
    return [
        Check(
            "T5",
            "watermarks, reserves, batch and high of zoneinfo that follow from the zones' sizes",
            equal / compared,
            1.0,
            detail=f"n {compared}: {', '.join(files)}; {' and '.join(sorted(settled))}"
            + (f"; first wrong: {wrong[0]}" if wrong else ""),
        )
    ]


def _limits(zones: list[ZoneText]) -> tuple[list[ZoneLimits], str]:
    """Return what follows from zones' sizes, and how min_free_kbytes, which no recording has, was settled.

    It is what the kernel chooses, with transparent huge pages or without, whichever gives the recorded minima; an
    administrator may have set it to something else, which the sum of the minima then tells within a page a zone.
    """
    sizes = [ZoneSize(zone.name, zone.sizes["managed"], zone.sizes["present"], zone.node) for zone in zones]
    cpus = max([1, *(len(zone.per_cpu) for zone in zones)])
    nodes = sorted({zone.node for zone in zones})
    of_node = {node: max(1, cpus // len(nodes)) for node in nodes}
    minima = [zone.sizes["min"] - zone.sizes.get("boost", 0) for zone in zones]
    for thp, how in ((True, "khugepaged"), (False, "the kernel at boot")):
        limits = zone_limits(sizes, of_node, Settings(transparent_huge_pages=thp))
        if [limit.watermarks.min for limit in limits] == minima:
            return limits, f"min_free_kbytes as {how} chooses it"
    kept = sum(least for least, zone in zip(minima, zones, strict=True) if zone.name != MOVABLE)
    settings = Settings(min_free_kbytes=kept * FRAME_KBYTES, transparent_huge_pages=False)
    return zone_limits(sizes, of_node, settings), f"min_free_kbytes {kept * FRAME_KBYTES} from the sum of the minima"


def _pairs(zone: ZoneText, limit: ZoneLimits) -> Iterator[tuple[str, int, int]]:
    """Yield name, recorded and computed value of each number that follows from zones' sizes."""
    marks = limit.watermarks.boosted(zone.sizes.get("boost", 0))
    for name, computed in marks._asdict().items():
        if name in zone.sizes:
            yield name, zone.sizes[name], computed
    for said, (above, computed) in zip(zone.protection, limit.lowmem_reserve.items(), strict=False):
        yield f"protection {above}", said, computed
    for lists in zone.per_cpu:
        for name, computed in limit.per_cpu._asdict().items():
            if name in lists.values:
                yield f"cpu {lists.cpu} {name}", lists.values[name], computed
        if lists.threshold is not None:
            yield f"cpu {lists.cpu} threshold", lists.threshold, limit.stat_threshold
