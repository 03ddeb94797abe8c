"""What reclaim remembers of a zone: costs of each kind of page, and when pages were evicted, so that refaults show.

A clock counts evictions and activations. An evicted page leaves the clock's reading with its owner's id; when the owner
needs the page again, the difference tells how much larger memory would have had to be. If that is less than what other
pages would have made room for, the page is active from the start. Rules: Linux 6.18, ``mm/workingset.c``:
``workingset_eviction``, ``workingset_refault``, ``workingset_test_recent``; ``mm/swap.c``: ``lru_note_cost``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import Buddy
from vckernels.causes import Cause
from vckernels.jit import kernel, unsigned
from vckernels.pages import ACTIVE, ANONYMOUS, DIRTY, LRU_LISTS, WORKINGSET, Lru, Pages

CLOCK_BITS = 28
"""Bits of the clock that a shadow keeps; distances are taken modulo as many frames."""
SWAP_CLUSTER = 32
"""Frames that reclaim scans at once, and that a direct request wants (``SWAP_CLUSTER_MAX``)."""


FIRST_PRIORITY = 12
"""Priority with which reclaim begins (``DEF_PRIORITY``)."""


class ReclaimField(IntEnum):
    """Index into what a zone's reclaim remembers and is about, int64[RECLAIM_FIELDS]."""

    ANONYMOUS_COST = 0
    """What reclaim of anonymous pages cost lately [``anon_cost``]."""
    FILE_COST = 1
    CLOCK = 2
    """Evictions and activations in frames [``nonresident_age``]."""
    ACTIVATED_ANONYMOUS = 3
    """Frames that refaults made active at once, by kind [``WORKINGSET_ACTIVATE``]."""
    ACTIVATED_FILE = 4
    SEEN_ANONYMOUS = 5
    """These two when reclaim ended last [``refaults``]."""
    SEEN_FILE = 6
    SWAPPINESS = 7
    """Inclination to anonymous pages, 0 to 200 (``vm.swappiness``)."""
    SWAP_TOTAL = 8
    """Frames that swap can hold."""
    SWAP_FREE = 9
    KSWAPD_FAILURES = 10
    """Runs of kswapd in a row that reclaimed nothing."""
    PLANNED_ACTIVE = 11
    """2.6.24: frames of the active list to be scanned once they are 32 [``nr_scan_active``]."""
    PLANNED_INACTIVE = 12
    PREVIOUS_PRIORITY = 13
    """2.6.24: priority at which reclaim ended last [``prev_priority``]."""
    SCANNED_IN_VAIN = 14
    """2.6.24: frames scanned since reclaim freed one [``pages_scanned``]."""
    UNRECLAIMABLE = 15
    """2.6.24: 1 if all lists were scanned six times in vain [``ZONE_ALL_UNRECLAIMABLE``]."""
    ORDER = 16
    """From here on: the run. Order of the request."""
    HIGHEST_ZONE = 17
    KSWAPD = 18
    """1: kswapd's run; 0: a request's own."""
    PRIORITY = 19
    """A list's length is shifted right by this for what to scan of it; 12 at first, 0 at last."""
    TO_RECLAIM = 20
    """Frames wanted."""
    RECLAIMED = 21
    SCANNED = 22
    """Frames scanned at this priority."""
    MAY_SWAP = 23
    MAY_WRITE = 24
    DEACTIVATE_ANONYMOUS = 25
    """1: the active list may shrink."""
    DEACTIVATE_FILE = 26
    FORCE_DEACTIVATE = 27
    SKIPPED_DEACTIVATE = 28
    CACHE_TRIM = 29
    """1: there are enough inactive file pages to leave the rest alone [``cache_trim_mode``]."""
    NO_CACHE_TRIM = 30
    CACHE_TRIM_FAILED = 31
    FILE_TINY = 32
    """1: there is so little page cache that only anonymous pages can help [``file_is_tiny``]."""
    COMPACTION_READY = 33
    """1: there is enough free memory for compaction to serve the request."""
    SCANNING = 34
    """1 in the middle of a pass over the lists."""
    PASS_BEGAN = 35
    """``RECLAIMED`` when the pass began."""
    BOOST = 36
    """What the watermark was boosted by when kswapd's run began."""
    BOOST_LEFT = 37
    """Frames still to be reclaimed for the boost, 0 once it is ignored."""
    LAST_RECLAIMED = 38
    """``RECLAIMED`` when this priority began."""
    NEXT_LIST = 39
    """The list whose turn it is in the pass."""
    TOTAL_SCANNED = 40
    """2.6.24: frames scanned at all priorities, mapped ones twice."""
    PROGRESS = 41
    """2.6.24: 1 if the zone was scanned at the last priority."""


RECLAIM_FIELDS = len(ReclaimField)


class Reclaim(NamedTuple):
    """Reclaim of one zone.

    Attributes
    ----------
    fields : int64[RECLAIM_FIELDS]
        By :class:`ReclaimField`.
    left, targets : int64[LRU_LISTS]
        Frames of each list still to be scanned in a pass, and how many it was to be.
    held : int64[n]
        Scratch: pages taken off their list.
    shadows : int32[owners]
        By owner's id: 0 if its page is in memory or never was, else 1 + 4 * clock at its eviction + 2 if it was
        anonymous + 1 if it belonged to the working set.
    """

    fields: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    held: npt.NDArray[np.int64]
    shadows: npt.NDArray[np.int32]


def new_reclaim(owners: int, swap: int = 0, swappiness: int = 60) -> Reclaim:
    """Return reclaim's state for a zone whose pages have as many owners' ids.

    Parameters
    ----------
    owners : int
        Ids are 0 to ``owners - 1``.
    swap : int
        Frames that swap can hold.
    swappiness : int
        0 to 200; Linux's default is 60.
    """
    fields = np.zeros(RECLAIM_FIELDS, np.int64)
    fields[ReclaimField.SWAPPINESS] = swappiness
    fields[[ReclaimField.SWAP_TOTAL, ReclaimField.SWAP_FREE]] = swap
    fields[ReclaimField.PREVIOUS_PRIORITY] = FIRST_PRIORITY
    return Reclaim(
        fields=fields,
        left=np.zeros(LRU_LISTS, np.int64),
        targets=np.zeros(LRU_LISTS, np.int64),
        held=np.zeros(2048, np.int64),
        shadows=np.zeros(owners, np.int32),
    )


@kernel(inline=True)
def evictable_frames(pages: Pages) -> int:
    """Return the frames of all lists but the unevictable one."""
    total = 0
    for chosen in range(Lru.UNEVICTABLE):
        total += pages.lengths[unsigned(chosen)]
    return total


@kernel
def note_cost(pages: Pages, reclaim: Reclaim, file: bool, written: int, rotated: int) -> None:
    """Add what reclaim of one kind cost; halve both kinds' when they exceed a quarter of the lists (``lru_note_cost``).

    Parameters
    ----------
    pages : Pages
        Read.
    reclaim : Reclaim
        Mutated.
    file : bool
        Which kind.
    written : int
        Frames of I/O, each worth 32 scanned ones.
    rotated : int
        Frames scanned in vain.
    """
    fields = reclaim.fields
    cost = written * SWAP_CLUSTER + rotated
    if file:
        fields[ReclaimField.FILE_COST] += cost
    else:
        fields[ReclaimField.ANONYMOUS_COST] += cost
    if fields[ReclaimField.FILE_COST] + fields[ReclaimField.ANONYMOUS_COST] > evictable_frames(pages) // 4:
        fields[ReclaimField.FILE_COST] //= 2
        fields[ReclaimField.ANONYMOUS_COST] //= 2


@kernel(inline=True)
def leave_shadow(reclaim: Reclaim, owner: int, size: int, flags: int) -> None:
    """Remember an eviction and let the clock go on. Mutates shadows and ``CLOCK``."""
    clock = reclaim.fields[ReclaimField.CLOCK] & ((1 << CLOCK_BITS) - 1)
    kept = (flags & WORKINGSET) // WORKINGSET + 2 * ((flags & ANONYMOUS) // ANONYMOUS)
    for i in range(size):
        reclaim.shadows[unsigned(owner + i)] = 1 + 4 * clock + kept
    reclaim.fields[ReclaimField.CLOCK] += size


@kernel
def is_recent(pages: Pages, reclaim: Reclaim, shadow: int, file: bool) -> bool:
    """Return whether a page was evicted so recently that it belongs to the working set (``workingset_test_recent``)."""
    distance = (reclaim.fields[ReclaimField.CLOCK] - (shadow - 1) // 4) & ((1 << CLOCK_BITS) - 1)
    room = pages.lengths[Lru.ACTIVE_FILE]
    if not file:
        room += pages.lengths[Lru.INACTIVE_FILE]
    if reclaim.fields[ReclaimField.SWAP_FREE] > 0:
        room += pages.lengths[Lru.ACTIVE_ANONYMOUS]
        if file:
            room += pages.lengths[Lru.INACTIVE_ANONYMOUS]
    return distance <= room


@kernel
def refault(buddy: Buddy, pages: Pages, reclaim: Reclaim, owner: int, flags: int) -> int:
    """Return the flags with which a page comes back that an owner needs, and forget the shadow.

    Without a shadow it is a first use and the flags are as given; so they are where lists are not split, since
    kernels of that time knew of no refaults. Rule: ``workingset_refault``.

    Parameters
    ----------
    buddy : Buddy
        Mutated: counters.
    pages : Pages
        Read.
    reclaim : Reclaim
        Mutated: shadow, clock, costs, free swap.
    owner : int
        Id, below the number of shadows.
    flags : int
        Of the page that is to be added for one frame, if this is the first use. One that was evicted is of the kind it
        was, and dirty if anonymous, since its place in swap is given up.
    """
    shadow = np.int64(reclaim.shadows[owner])
    if shadow == 0:
        return flags
    reclaim.shadows[owner] = 0
    fields = reclaim.fields
    file = (shadow - 1) & 2 == 0
    flags = flags & ~ANONYMOUS if file else flags | ANONYMOUS | DIRTY
    buddy.counters[Cause.REFAULT] += 1
    if not file:
        fields[ReclaimField.SWAP_FREE] += 1
    if pages.options[0] == 0 or not is_recent(pages, reclaim, shadow, file):
        return flags
    flags |= ACTIVE
    fields[ReclaimField.CLOCK] += 1
    if file:
        fields[ReclaimField.ACTIVATED_FILE] += 1
    else:
        fields[ReclaimField.ACTIVATED_ANONYMOUS] += 1
    buddy.counters[Cause.WORKINGSET_REFAULT] += 1
    if (shadow - 1) & 1:
        flags |= WORKINGSET
        note_cost(pages, reclaim, file, 1, 0)
    return flags


@kernel
def forget(reclaim: Reclaim, owner: int) -> None:
    """Drop the shadow of an owner that is no more, and its place in swap. Mutates shadows and ``SWAP_FREE``."""
    if reclaim.shadows[owner] != 0 and (reclaim.shadows[owner] - 1) & 2:
        reclaim.fields[ReclaimField.SWAP_FREE] += 1
    reclaim.shadows[owner] = 0


@kernel
def forget_all(reclaim: Reclaim, owners: npt.NDArray[np.int64]) -> None:
    """Drop what is remembered of owners, int64[n], that are no more (:func:`forget`)."""
    for i in range(len(owners)):
        forget(reclaim, owners[i])
