"""The kernel's own texts, letter for letter as Linux 6.18 prints them, of what the readers beside this file return.

Formats: ``mm/vmstat.c`` (``frag_show_print``, ``pagetypeinfo_show``, ``zoneinfo_show_print``, ``extfrag_show_print``)
and ``mm/vmalloc.c`` (``vmalloc_info_show``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from vclab.recordings.procfiles import BuddyInfo, PageTypeInfo
from vclab.recordings.textfile import node_and_zone
from vclab.recordings.vmallocinfo import VmallocRange
from vclab.recordings.zonetext import PerCpuLists, ZoneText

#: Where the kernel stops counting the blocks of one list for pagetypeinfo.
COUNTED_MOST = 100_000


def buddyinfo_text(table: BuddyInfo) -> str:
    """Return ``/proc/buddyinfo``."""
    return "".join(
        "Node {}, zone {:>8} ".format(*node_and_zone(label)) + "".join(f"{blocks:>6} " for blocks in row) + "\n"
        for label, row in zip(table.zone_names, table.counts.tolist(), strict=True)
    )


def index_text(zone_names: Iterable[str], thousandths: NDArray[np.int64], width: int) -> str:
    """Return debugfs's ``extfrag_index`` or ``unusable_index``.

    Parameters
    ----------
    zone_names : iterable of str
    thousandths : int64[zones, orders]
    width : int
        Digits before the point: 2 for ``extfrag_index``, 1 for ``unusable_index``.
    """
    return "".join(
        "Node {}, zone {:>8} ".format(*node_and_zone(label)) + "".join(_decimal(value, width) for value in row) + "\n"
        for label, row in zip(zone_names, thousandths.tolist(), strict=True)
    )


def _decimal(thousandths: int, width: int) -> str:
    # C divides towards zero, and the remainder has the sign of the dividend: -500 is printed as 0.-500.
    whole, part = divmod(abs(thousandths), 1000)
    sign = -1 if thousandths < 0 else 1
    remainder = sign * part
    return f"{sign * whole:{width}d}.{remainder:03d} "


def pagetypeinfo_text(table: PageTypeInfo) -> str:
    """Return ``/proc/pagetypeinfo``, node by node."""
    parts = []
    nodes = [node_and_zone(label)[0] for label in table.zone_names]
    for node in dict.fromkeys(nodes):
        rows = [row for row, of in enumerate(nodes) if of == node]
        parts.append(_pagetypeinfo_of_node(table, node, rows))
    return "".join(parts)


def _pagetypeinfo_of_node(table: PageTypeInfo, node: int, rows: list[int]) -> str:
    order = 9 if table.pageblock_order is None else table.pageblock_order
    orders = "".join(f"{order:>6} " for order in range(table.counts.shape[2]))
    text = [f"Page block order: {order}\nPages per block:  {1 << order}\n\n"]
    text.append(f"{'Free pages count per migrate type at order':<43} {orders}\n")
    names = [node_and_zone(table.zone_names[row])[1] for row in rows]
    for row, name in zip(rows, names, strict=True):
        for kind, of in enumerate(table.type_names):
            counts = zip(table.counts[row, kind].tolist(), table.capped[row, kind].tolist(), strict=True)
            blocks = "".join(f"{'>' if capped else ''}{count:>6} " for count, capped in counts)
            text.append(f"Node {node:>4}, zone {name:>8}, type {of:>12} {blocks}\n")
    for heading, blocks_by_type in (
        ("Number of blocks type ", table.pageblocks),
        ("Number of mixed blocks ", table.mixed),
    ):
        if blocks_by_type is None:
            continue
        text.append(f"\n{heading:<23}" + "".join(f"{of:>12} " for of in table.type_names) + "\n")
        for row, name in zip(rows, names, strict=True):
            counts_of_zone = "".join(f"{count:>12} " for count in blocks_by_type[row].tolist())
            text.append(f"Node {node}, zone {name:>8} {counts_of_zone}\n")
    return "".join(text)


def zoneinfo_text(zones: Iterable[ZoneText]) -> str:
    """Return ``/proc/zoneinfo``: of each zone what it has."""
    return "".join(_zone_text(zone) for zone in zones)


def _zone_text(zone: ZoneText) -> str:
    text = [f"Node {zone.node}, zone {zone.name:>8}"]
    if zone.node_counters:
        text += ["  per-node stats", *_counters(zone.node_counters)]
    for name, value in zone.sizes.items():
        text.append(f"  pages free     {value}" if name == "free" else f"        {name:<8} {value}")
    if zone.protection:
        text.append(f"        protection: ({', '.join(map(str, zone.protection))})")
    text += _counters(zone.counters)
    if zone.per_cpu:
        text.append("  pagesets")
        for lists in zone.per_cpu:
            text += _per_cpu_text(lists)
    text += [f"  {name + ':':<20} {value}" for name, value in zone.rest.items()]
    return "\n".join(text) + "\n"


def _counters(counters: Mapping[str, int]) -> list[str]:
    return [f"      {name:<12} {value}" for name, value in counters.items()]


def _per_cpu_text(lists: PerCpuLists) -> list[str]:
    which = "" if lists.list is None else f" pcp: {lists.list}"
    text = [f"    cpu: {lists.cpu}{which}"]
    text += [f"              {name + ':':<9} {value}" for name, value in lists.values.items()]
    if lists.threshold is not None:
        text.append(f"  vm stats threshold: {lists.threshold}")
    return text


def vmallocinfo_text(ranges: Iterable[VmallocRange]) -> str:
    """Return ``/proc/vmallocinfo``."""
    return "".join(_range_text(one) + "\n" for one in ranges)


def _range_text(one: VmallocRange) -> str:
    text = f"0x{one.start:016x}-0x{one.end:016x} {one.nbytes:>7}"
    if one.bare:
        return f"{text} {one.bare}"
    if one.caller:
        text += f" {one.caller}"
    if one.pages:
        text += f" pages={one.pages}"
    if one.physical is not None:
        text += f" phys=0x{one.physical:016x}"
    words = [*one.kinds, *(["vpages"] if one.page_array_virtual else [])]
    words += [f"N{node}={frames}" for node, frames in one.nodes.items()]
    return " ".join([text, *words])
