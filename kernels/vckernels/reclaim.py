"""Reclaim of one zone: a request frees a few frames itself, kswapd frees until the high watermark is kept.

Each goes through priorities, scanning ever larger parts of the lists; for high orders until compaction can begin. A
run is begun and then advanced; it pauses where the log is full. Rules: Linux 6.18, ``mm/vmscan.c``:
``do_try_to_free_pages``, ``shrink_zones``, ``shrink_node``, ``should_continue_reclaim``, ``compaction_ready``,
``balance_pgdat``, ``kswapd_shrink_node``.

Caches of kernel objects (shrinkers) are none of it. Writes are done at once (:mod:`vckernels.shrink`), so nobody is
throttled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy, free_frames
from vckernels.causes import Cause
from vckernels.compactcontrol import COSTLY_ORDER
from vckernels.compaction import is_suitable
from vckernels.jit import kernel
from vckernels.movelog import Moves
from vckernels.pages import Lru, Pages
from vckernels.referenced import Entries
from vckernels.scanplan import count_scans, prepare, scan_lists
from vckernels.shrink import age_anonymous
from vckernels.watermark import Limit, zone_watermark_ok
from vckernels.workingset import FIRST_PRIORITY, SWAP_CLUSTER, Reclaim, ReclaimField

PAUSED = -1
"""Answer of :func:`advance_reclaim`: the log is full; advance again once it is empty."""
MAX_FAILURES = 16
"""Runs without progress after which kswapd gives up (``MAX_RECLAIM_RETRIES``)."""


@kernel(inline=True)
def compact_gap(order: int) -> int:
    """Return how many frames compaction needs to serve an order."""
    return 2 << order


@kernel
def is_balanced(buddy: Buddy, limits: npt.NDArray[np.int64], order: int, highest_zone: int) -> bool:
    """Return whether kswapd may sleep: the high watermark is kept, for the order too. Rule: ``pgdat_balanced``."""
    mark = limits[Limit.HIGH] + limits[Limit.BOOST]
    return zone_watermark_ok(buddy, limits, order, mark, highest_zone, 0, free_frames(buddy))


@kernel
def _compaction_ready(buddy: Buddy, limits: npt.NDArray[np.int64], reclaim: Reclaim) -> bool:
    """Return whether a request had better compact than reclaim. Rule: ``compaction_ready``."""
    order = reclaim.fields[ReclaimField.ORDER]
    zone = reclaim.fields[ReclaimField.HIGHEST_ZONE]
    free = free_frames(buddy)
    if zone_watermark_ok(buddy, limits, order, limits[Limit.MIN] + limits[Limit.BOOST], zone, 0, free):
        return True
    if not is_suitable(buddy, limits, order, zone):
        return False
    mark = limits[Limit.HIGH] + limits[Limit.BOOST] + compact_gap(order)
    return zone_watermark_ok(buddy, limits, 0, mark, zone, 0, free)


@kernel
def _goes_on(buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim, reclaimed: int) -> bool:
    """Return whether another pass at the same priority follows. Rule: ``should_continue_reclaim``."""
    fields = reclaim.fields
    order = fields[ReclaimField.ORDER]
    zone = fields[ReclaimField.HIGHEST_ZONE]
    for_compaction = order > COSTLY_ORDER or fields[ReclaimField.PRIORITY] < FIRST_PRIORITY - 2
    if order == 0 or not for_compaction or reclaimed == 0:
        return False
    mark = limits[Limit.MIN] + limits[Limit.BOOST]
    if zone_watermark_ok(buddy, limits, order, mark, zone, 0, free_frames(buddy)):
        return False
    if is_suitable(buddy, limits, order, zone):
        return False
    inactive = pages.lengths[Lru.INACTIVE_FILE]
    if fields[ReclaimField.SWAP_FREE] > 0:
        inactive += pages.lengths[Lru.INACTIVE_ANONYMOUS]
    return inactive > compact_gap(order)


@kernel
def _begin(reclaim: Reclaim, order: int, highest_zone: int, kswapd: bool) -> None:
    """Set the fields of a run. Mutates ``fields``."""
    fields = reclaim.fields
    for i in range(ReclaimField.ORDER, len(fields)):
        fields[i] = 0
    fields[ReclaimField.ORDER] = order
    fields[ReclaimField.HIGHEST_ZONE] = highest_zone
    fields[ReclaimField.KSWAPD] = kswapd
    fields[ReclaimField.PRIORITY] = FIRST_PRIORITY
    fields[ReclaimField.TO_RECLAIM] = SWAP_CLUSTER
    fields[ReclaimField.MAY_SWAP] = 1
    fields[ReclaimField.MAY_WRITE] = 1


@kernel
def begin_reclaim(buddy: Buddy, reclaim: Reclaim, order: int, highest_zone: int) -> None:
    """Begin a request's own reclaim (``try_to_free_pages``). Mutates ``fields``, counters."""
    _begin(reclaim, order, highest_zone, False)
    buddy.counters[Cause.DIRECT_RECLAIM] += 1


@kernel
def begin_kswapd(buddy: Buddy, limits: npt.NDArray[np.int64], reclaim: Reclaim, order: int, highest_zone: int) -> None:
    """Begin a run of kswapd for the highest order that somebody wanted (``balance_pgdat``).

    Mutates ``fields``, counters, and ``RECLAIM_ACTIVE``, while which CPUs keep little for themselves.
    """
    _begin(reclaim, order, highest_zone, True)
    reclaim.fields[ReclaimField.BOOST] = limits[Limit.BOOST]
    reclaim.fields[ReclaimField.BOOST_LEFT] = limits[Limit.BOOST]
    limits[Limit.RECLAIM_ACTIVE] = 1
    buddy.counters[Cause.KSWAPD_RUN] += 1


@kernel
def _begin_pass(buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim) -> None:
    """Plan a pass over the lists. Mutates ``fields``, ``left``, ``targets``."""
    fields = reclaim.fields
    fields[ReclaimField.PASS_BEGAN] = fields[ReclaimField.RECLAIMED]
    fields[ReclaimField.SCANNING] = 1
    prepare(buddy, pages, limits, reclaim)
    count_scans(pages, reclaim)


@kernel
def _begin_priority(
    buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim, entries: Entries
) -> bool:
    """Begin a priority of a request's own reclaim or of kswapd; return False if kswapd has nothing to do.

    Mutates ``fields``, ``left``, ``targets``, and lists by background ageing.
    """
    fields = reclaim.fields
    fields[ReclaimField.SCANNED] = 0
    fields[ReclaimField.LAST_RECLAIMED] = fields[ReclaimField.RECLAIMED]
    order = fields[ReclaimField.ORDER]
    if fields[ReclaimField.KSWAPD]:
        balanced = is_balanced(buddy, limits, order, fields[ReclaimField.HIGHEST_ZONE])
        if not balanced and fields[ReclaimField.BOOST_LEFT] > 0:
            fields[ReclaimField.BOOST_LEFT] = 0
            fields[ReclaimField.PRIORITY] = FIRST_PRIORITY
        if balanced and fields[ReclaimField.BOOST_LEFT] == 0:
            return False
        fields[ReclaimField.MAY_WRITE] = fields[ReclaimField.BOOST_LEFT] == 0
        fields[ReclaimField.MAY_SWAP] = fields[ReclaimField.BOOST_LEFT] == 0
        age_anonymous(buddy, pages, reclaim, entries)
        fields[ReclaimField.TO_RECLAIM] = max(limits[Limit.HIGH] + limits[Limit.BOOST], SWAP_CLUSTER)
    elif order > COSTLY_ORDER and _compaction_ready(buddy, limits, reclaim):
        fields[ReclaimField.COMPACTION_READY] = 1
        return True
    _begin_pass(buddy, pages, limits, reclaim)
    return True


@kernel
def _end_request_priority(reclaim: Reclaim) -> bool:
    """Return whether a request's own reclaim is finished, or set the next priority. Mutates ``fields``."""
    fields = reclaim.fields
    if fields[ReclaimField.RECLAIMED] >= fields[ReclaimField.TO_RECLAIM] or fields[ReclaimField.COMPACTION_READY]:
        return True
    fields[ReclaimField.PRIORITY] -= 1
    if fields[ReclaimField.PRIORITY] >= 0:
        return False
    if fields[ReclaimField.RECLAIMED] == 0 and fields[ReclaimField.SKIPPED_DEACTIVATE]:
        fields[ReclaimField.PRIORITY] = FIRST_PRIORITY
        fields[ReclaimField.FORCE_DEACTIVATE] = 1
        fields[ReclaimField.SKIPPED_DEACTIVATE] = 0
        return False
    return True


@kernel
def _end_kswapd_priority(reclaim: Reclaim) -> bool:
    """Return whether kswapd's run is finished, or set the next priority. Mutates ``fields``."""
    fields = reclaim.fields
    order = fields[ReclaimField.ORDER]
    # The system may be too fragmented for the order; then single frames have to do.
    if order > 0 and fields[ReclaimField.RECLAIMED] >= compact_gap(order):
        fields[ReclaimField.ORDER] = 0
    boosted = fields[ReclaimField.BOOST_LEFT] > 0
    harder = fields[ReclaimField.SCANNED] < fields[ReclaimField.TO_RECLAIM]
    if boosted and fields[ReclaimField.PRIORITY] == FIRST_PRIORITY - 2:
        harder = False
    reclaimed = fields[ReclaimField.RECLAIMED] - fields[ReclaimField.LAST_RECLAIMED]
    fields[ReclaimField.BOOST_LEFT] -= min(fields[ReclaimField.BOOST_LEFT], reclaimed)
    if fields[ReclaimField.BOOST_LEFT] > 0 and reclaimed == 0:
        fields[ReclaimField.KSWAPD_FAILURES] += fields[ReclaimField.RECLAIMED] == 0
        return True
    if harder or reclaimed == 0:
        fields[ReclaimField.PRIORITY] -= 1
    if fields[ReclaimField.PRIORITY] >= 1:
        return False
    if fields[ReclaimField.RECLAIMED] == 0:
        if fields[ReclaimField.NO_CACHE_TRIM] == 0 and fields[ReclaimField.CACHE_TRIM_FAILED]:
            fields[ReclaimField.NO_CACHE_TRIM] = 1
            fields[ReclaimField.PRIORITY] = FIRST_PRIORITY
            return False
        fields[ReclaimField.KSWAPD_FAILURES] += 1
    return True


@kernel
def _end(limits: npt.NDArray[np.int64], reclaim: Reclaim) -> None:
    """Remember what refaults there were, and take a boost away that kswapd has seen to. Mutates both."""
    fields = reclaim.fields
    fields[ReclaimField.SEEN_ANONYMOUS] = fields[ReclaimField.ACTIVATED_ANONYMOUS]
    fields[ReclaimField.SEEN_FILE] = fields[ReclaimField.ACTIVATED_FILE]
    if fields[ReclaimField.KSWAPD]:
        limits[Limit.BOOST] -= min(limits[Limit.BOOST], fields[ReclaimField.BOOST])
        limits[Limit.RECLAIM_ACTIVE] = 0


@kernel
def advance_reclaim(
    buddy: Buddy, pages: Pages, limits: npt.NDArray[np.int64], reclaim: Reclaim, entries: Entries, moves: Moves
) -> int:
    """Go on with a run until it is finished or the log is full.

    Returns ``PAUSED``; or the frames that a request's own reclaim freed, 1 if none but compaction can begin; or the
    order that kswapd balanced for.

    Parameters
    ----------
    buddy, pages, reclaim : Buddy, Pages, Reclaim
        Mutated.
    limits : int64[LIMITS]
        ``BOOST`` and ``RECLAIM_ACTIVE`` are mutated where kswapd ends.
    entries : Entries
        Of the pages; mutated: bits of those that are looked at.
    moves : Moves
        Written.
    """
    fields = reclaim.fields
    kswapd = fields[ReclaimField.KSWAPD] != 0
    while True:
        if fields[ReclaimField.SCANNING] == 0:
            if not _begin_priority(buddy, pages, limits, reclaim, entries):
                break
        if fields[ReclaimField.SCANNING]:
            if not scan_lists(buddy, pages, reclaim, entries, moves):
                return PAUSED
            reclaimed = fields[ReclaimField.RECLAIMED] - fields[ReclaimField.PASS_BEGAN]
            if reclaimed > 0:
                fields[ReclaimField.KSWAPD_FAILURES] = 0
            if _goes_on(buddy, pages, limits, reclaim, reclaimed):
                _begin_pass(buddy, pages, limits, reclaim)
                continue
            fields[ReclaimField.SCANNING] = 0
            if (
                fields[ReclaimField.RECLAIMED] == fields[ReclaimField.LAST_RECLAIMED]
                and fields[ReclaimField.CACHE_TRIM]
            ):
                fields[ReclaimField.CACHE_TRIM_FAILED] = 1
        if kswapd:
            if _end_kswapd_priority(reclaim):
                break
        elif _end_request_priority(reclaim):
            break
    _end(limits, reclaim)
    if kswapd:
        return fields[ReclaimField.ORDER]
    return max(fields[ReclaimField.RECLAIMED], fields[ReclaimField.COMPACTION_READY])
