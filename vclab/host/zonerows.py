"""Which events of a log hit a zone's free lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vclab.host.eventlog import OTHER_EVENTS, PAGE_EVENTS, EventLog
from vclab.host.formats import EventFormat

_FREE = PAGE_EVENTS["kmem/mm_page_free"]
_IN_ZONE = tuple(PAGE_EVENTS[name] for name in PAGE_EVENTS if name not in ("kmem/mm_page_alloc", "kmem/mm_page_free"))
_ISOLATE = "compaction/mm_compaction_isolate_migratepages"
_ENDS = (OTHER_EVENTS["compaction/mm_compaction_migratepages"], OTHER_EVENTS["compaction/mm_compaction_end"])
_COSTLY_ORDER = 3
_HUGE_ORDER = 9
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


def per_cpu_orders() -> tuple[int, ...]:
    """Return the orders that this kernel keeps on per-CPU lists (``mm/page_alloc.c``: ``pcp_allowed_order``)."""
    return (*range(_COSTLY_ORDER + 1), *([_HUGE_ORDER] if _HUGE_PAGES.exists() else []))


def zone_rows(log: EventLog, formats: Sequence[EventFormat], per_cpu: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the rows that took a block off a zone's lists or put one on them, ascending.

    A free of an order that has per-CPU lists shows when such a list is drained; others go straight to the zone. But
    while compaction moves pages, what it gives back goes to its own list.

    Parameters
    ----------
    log : EventLog
    formats : sequence of EventFormat
    per_cpu : sequence of int
        Orders with per-CPU lists.

    Notes
    -----
    Linux ``mm/compaction.c``: ``compaction_free``. A free that finds the per-CPU lists locked goes straight to the zone
    too, unseen (1 of 4000).
    """
    direct = np.flatnonzero((log.operation == _FREE) & ~np.isin(log.order, per_cpu))
    direct = direct[~_while_migrating(log, formats, direct)]
    return np.sort(np.concatenate([np.flatnonzero(np.isin(log.operation, _IN_ZONE)), direct]))


def _while_migrating(
    log: EventLog, formats: Sequence[EventFormat], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return which rows lie, on their CPU, between the isolation of pages and the end of their migration."""
    inside = np.zeros(len(rows), np.bool_)
    form = next((one for one in formats if one.name == _ISOLATE), None)
    if form is None or "nr_taken" not in form.fields:
        return inside
    operation = log.operation[log.other]
    taken = (operation == OTHER_EVENTS[_ISOLATE]) & (form.field("nr_taken").of(log.words) > 0)
    marks = taken | np.isin(operation, _ENDS)
    mark_rows, begins, mark_cpus = log.other[marks], taken[marks], log.cpu[log.other[marks]]
    for cpu in np.unique(mark_cpus):
        own = mark_cpus == cpu
        here = log.cpu[rows] == cpu
        last = np.searchsorted(mark_rows[own], rows[here]) - 1
        inside[here] = (last >= 0) & begins[own][last]
    return inside
