"""Reading of ``/proc/zoneinfo``, all of it, as kernels from 2.6 to 6.x print it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vclab.recordings.refusal import refusal
from vclab.recordings.textfile import ZONE_ROW, count, counter, lines, zone_label

#: Sizes and watermarks of a zone, in frames, in the order of the file; older kernels have fewer.
SIZES = ("free", "boost", "min", "low", "high", "promo", "scanned", "spanned", "present", "managed", "cma")
#: Most numbers in one file: a machine of some hundred nodes and CPUs has fewer.
_NUMBERS = 500_000

_PAIR = re.compile(r"(\w+):?\s+(\S+)(?:\s+\(.*\))?", re.ASCII)
_PROTECTION = re.compile(r"protection: \(([^()]*)\)", re.ASCII)
_CPU = re.compile(r"cpu: (\S+)(?: pcp: (\S+))?", re.ASCII)
_THRESHOLD = re.compile(r"vm stats threshold: (\S+)", re.ASCII)


@dataclass(frozen=True)
class PerCpuLists:
    """One CPU's lists of a zone.

    Attributes
    ----------
    cpu : int
    values : dict
        Frames by name: ``count``, ``high``, ``batch``, and since 6.7 ``high_min`` and ``high_max``.
    list : int or None
        Kernels before 2.6.26 had two: 0 hot, 1 cold.
    threshold : int or None
        Up to how much the CPU keeps a change of a counter to itself.
    """

    cpu: int
    values: dict[str, int]
    list: int | None = None
    threshold: int | None = None


@dataclass(frozen=True)
class ZoneText:
    """Everything that zoneinfo says about one zone.

    Attributes
    ----------
    node : int
        NUMA node.
    name : str
        ``DMA``, ``DMA32``, ``Normal``, ``Movable`` or ``Device``.
    node_counters : dict
        The node's counters by name; with a node's first zone that holds frames only.
    sizes : dict
        Frames by name of `SIZES`, as far as given. Watermarks are with what they are boosted by.
    protection : tuple of int
        Frames kept back from requests for each zone of the node.
    counters : dict
        The zone's counters by name.
    per_cpu : tuple of PerCpuLists
    rest : dict
        ``node_unreclaimable``, ``start_pfn`` and what other kernels print there.
    """

    node: int
    name: str
    node_counters: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    protection: tuple[int, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    per_cpu: tuple[PerCpuLists, ...] = ()
    rest: dict[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name of the zone among all nodes."""
        return zone_label(self.node, self.name)


class _Reading:
    """A zone as far as its lines have been read."""

    def __init__(self, node: int, name: str) -> None:
        self.zone = ZoneText(node, name)
        self.protection: tuple[int, ...] = ()
        self.per_cpu: list[PerCpuLists] = []
        self.section = "sizes"

    def done(self) -> ZoneText:
        zone = self.zone
        return ZoneText(
            zone.node, zone.name, zone.node_counters, zone.sizes, self.protection, zone.counters,
            tuple(self.per_cpu), zone.rest,
        )  # fmt: skip

    def add(self, line: str, where: str) -> int:
        """Take one line in; return how many numbers it held."""
        if line in ("per-node stats", "pagesets"):
            self.section = line
            return 0
        if (protection := _PROTECTION.fullmatch(line)) is not None:
            self.protection = tuple(count(word.strip(), where) for word in protection[1].split(","))
            return len(self.protection)
        if (cpu := _CPU.fullmatch(line)) is not None:
            which = None if cpu[2] is None else count(cpu[2], where)
            self.per_cpu.append(PerCpuLists(count(cpu[1], where), {}, which))
            return 1
        if (threshold := _THRESHOLD.fullmatch(line)) is not None and self.per_cpu:
            last = self.per_cpu[-1]
            self.per_cpu[-1] = PerCpuLists(last.cpu, last.values, last.list, count(threshold[1], where))
            return 1
        if line.startswith("pages ") and len(line.split()) > 2:
            self.section = "sizes"
            line = line.removeprefix("pages ").lstrip()
        if (pair := _PAIR.fullmatch(line)) is None:
            # A kernel of another year may print a line more.
            return 0
        self._add_pair(pair[1], pair[2], where)
        return 1

    def _add_pair(self, name: str, word: str, where: str) -> None:
        zone = self.zone
        if self.section == "per-node stats":
            _put(zone.node_counters, name, counter(word, where), where)
        elif self.section == "pagesets":
            lists = self.per_cpu[-1].values if self.per_cpu else zone.rest
            known = name in ("count", "high", "batch", "high_min", "high_max", "low")
            _put(lists if known else zone.rest, name, count(word, where), where)
        elif name in SIZES:
            _put(zone.sizes, name, count(word, where), where)
        elif name == "start_pfn":
            _put(zone.rest, name, count(word, where), where)
        else:
            _put(zone.counters, name, counter(word, where), where)


def _put(numbers: dict[str, int], name: str, number: int, where: str) -> None:
    if name in numbers:
        raise refusal(f"{name} again", where, "a zone has each field once")
    numbers[name] = number


def read_zones(path: Path) -> list[ZoneText]:
    """Read ``/proc/zoneinfo``.

    Raises
    ------
    RecordingError
        If the file is missing, a number is not one, a zone or one of its fields comes twice, or none comes.
    """
    zones: dict[tuple[int, str], _Reading] = {}
    current: _Reading | None = None
    numbers = 0
    for where, line in lines(path):
        zone = ZONE_ROW.fullmatch(line)
        if zone is not None:
            key = int(zone[1]), zone[2]
            if key in zones:
                raise refusal(f"zone {zone_label(*key)} again", where, "a zone is described once")
            current = zones[key] = _Reading(*key)
        elif current is not None:
            numbers += current.add(line.strip(), where)
        elif (pair := _PAIR.fullmatch(line.strip())) is not None:
            raise refusal(f"{pair[1][:40]} before any zone", where, "a zone's fields follow its name")
        if numbers > _NUMBERS:
            raise refusal("too many numbers", where, f"a zoneinfo has at most {_NUMBERS}")
    if not zones:
        raise refusal("no zone", path, "zoneinfo describes each zone")
    return [zone.done() for zone in zones.values()]
