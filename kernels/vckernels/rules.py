"""What differs between releases of the page allocator, as data."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Fallback(IntEnum):
    """What serves a request whose own lists are empty."""

    NOTHING = 0
    CLAIM_OR_STEAL = 1
    """Linux since 6.15: :mod:`vckernels.claim`."""
    MOVE_LARGEST = 2
    """Linux 2.6.24: :mod:`vckernels.fallback_2_6_24`."""


class PerCpuRule(IntEnum):
    """What stands between requests and a zone's free lists."""

    NONE = 0
    MANY_ORDERS = 1
    """Linux since 5.14: lists for orders 0 to 3 and 9 by migratetype (:mod:`vckernels.pcplist`)."""
    HOT_AND_COLD = 2
    """Linux 2.6.23 and 2.6.24: two lists of single frames (:mod:`vckernels.pcplist_2_6_24`)."""


class Option(IntEnum):
    """Index into :attr:`vckernels.buddy.Buddy.options`: which rules a zone goes by."""

    MERGE_LIKELY_TO_TAIL = 0
    """1 if blocks likely to merge go to the tail (Linux since 2.6.35), 0 if all go to the head."""
    GROUPED = 1
    """1 if migratetypes have lists of their own (since 2.6.24); 0: all requests are of type ``UNMOVABLE``."""
    LISTS_FOLLOW_PAGEBLOCKS = 2
    """1 if a free block always lies on the list of its pageblock's type: merging retypes pageblocks, spares those that
    are reserved or isolated, and frees go a pageblock at a time (since 6.10). 0: blocks stay on the list that they were
    put on, whatever becomes of their pageblock's type."""
    FALLBACK = 3
    """A :class:`Fallback`."""
    HALVING_WATERMARKS = 4
    """1 if watermarks are checked as before 4.4: halved at each order (:mod:`vckernels.watermark`)."""
    PER_CPU = 5
    """A :class:`PerCpuRule`."""


OPTIONS = len(Option)


def new_options(
    merge_likely_to_tail: bool = True,
    grouped: bool = True,
    lists_follow_pageblocks: bool = True,
    fallback: Fallback = Fallback.CLAIM_OR_STEAL,
    halving_watermarks: bool = False,
    per_cpu: PerCpuRule = PerCpuRule.MANY_ORDERS,
) -> npt.NDArray[np.int64]:
    """Return the rules of a zone, int64[OPTIONS]; without arguments those of Linux 6.18."""
    options = np.zeros(OPTIONS, np.int64)
    options[Option.MERGE_LIKELY_TO_TAIL] = merge_likely_to_tail
    options[Option.GROUPED] = grouped
    options[Option.LISTS_FOLLOW_PAGEBLOCKS] = lists_follow_pageblocks
    options[Option.FALLBACK] = fallback
    options[Option.HALVING_WATERMARKS] = halving_watermarks
    options[Option.PER_CPU] = per_cpu
    return options


def options_2_6_24() -> npt.NDArray[np.int64]:
    """Return the rules of Linux 2.6.24, the first with migratetypes."""
    return new_options(False, True, False, Fallback.MOVE_LARGEST, True, PerCpuRule.HOT_AND_COLD)


def options_2_6_23() -> npt.NDArray[np.int64]:
    """Return the rules of Linux 2.6.23: one list an order."""
    return new_options(False, False, False, Fallback.NOTHING, True, PerCpuRule.HOT_AND_COLD)
