"""``/proc/zoneinfo`` letter for letter as Linux 2.6.23 and 2.6.24 print it (``mm/vmstat.c``: ``zoneinfo_show_print``).

``/proc/buddyinfo`` and 2.6.24's ``/proc/pagetypeinfo`` look as they do today (:mod:`vclab.recordings.proctext`).
"""

from __future__ import annotations

from collections.abc import Iterable

from vclab.recordings.zonetext import PerCpuLists, ZoneText

#: Kept with a zone's scanned pages: what has come together to be scanned of the active and of the inactive list.
PLANNED = ("nr_scan_active", "nr_scan_inactive")


def zoneinfo_text_2_6(zones: Iterable[ZoneText]) -> str:
    """Return ``/proc/zoneinfo``. ``rest`` of each zone may have :data:`PLANNED`, which stand beside ``scanned``."""
    return "".join(_zone_text(zone) for zone in zones)


def _zone_text(zone: ZoneText) -> str:
    text = [f"Node {zone.node}, zone {zone.name:>8}"]
    for name, value in zone.sizes.items():
        text.append(f"  pages free     {value}" if name == "free" else f"        {name:<8} {value}")
        if name == "scanned":
            active, inactive = (zone.rest.get(planned, 0) for planned in PLANNED)
            text[-1] += f" (a: {active} i: {inactive})"
    text += [f"    {name:<12} {value}" for name, value in zone.counters.items()]
    text.append(f"        protection: ({', '.join(map(str, zone.protection))})")
    text.append("  pagesets")
    for lists in zone.per_cpu:
        text += _per_cpu_text(lists)
    rest = {name: value for name, value in zone.rest.items() if name not in PLANNED}
    text += [f"  {name + ':':<18} {value}" for name, value in rest.items()]
    return "\n".join(text) + "\n"


def _per_cpu_text(lists: PerCpuLists) -> list[str]:
    text = [f"    cpu: {lists.cpu} pcp: {lists.list}"]
    text += [f"              {name + ':':<6} {value}" for name, value in lists.values.items()]
    if lists.threshold is not None:
        text.append(f"  vm stats threshold: {lists.threshold}")
    return text
