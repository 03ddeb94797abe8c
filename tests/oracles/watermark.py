"""Watermark checks of two generations of Linux in plain Python, written from the rules and from no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

PAGEBLOCK = 512
ORDINARY = range(3)
RESERVED = 3


def share_kept(mark: int, flags: Set[str], modern: bool) -> int:
    """Return what is left of a watermark for requests that may dip below it."""
    if "MIN_RESERVE" in flags:
        mark -= mark // 2
    if "NON_BLOCK" in flags and ("MIN_RESERVE" in flags or not modern):
        mark -= mark // 4
    if "OOM" in flags and modern:
        mark -= mark // 2
    return mark


def ok(
    blocks: Sequence[Sequence[int]], reserve: int, any_reserved: bool, order: int, mark: int, flags: Set[str]
) -> bool:
    """Linux 6.18's ``__zone_watermark_ok``; ``blocks[order][migratetype]`` are the lengths of the free lists."""
    free = sum(sum(row) << k for k, row in enumerate(blocks))
    free -= 2**order - 1
    if any_reserved and not flags & {"OOM", "NON_BLOCK", "MIN_RESERVE", "HIGHATOMIC"}:
        free -= sum(row[RESERVED] << k for k, row in enumerate(blocks))
    if free <= share_kept(mark, flags, True) + reserve:
        return False
    usable = {*ORDINARY, *([RESERVED] if flags & {"OOM", "HIGHATOMIC"} else [])}
    return order == 0 or any(row[kind] for row in blocks[order:] for kind in usable)


def fast(
    blocks: Sequence[Sequence[int]],
    marks: Mapping[str, int],
    boost: int,
    reserve: int,
    any_reserved: bool,
    order: int,
    mark: str,
    flags: Set[str],
    named: str | None = None,
) -> bool:
    """Linux 6.18's ``zone_watermark_fast`` for a mark by name; ``named`` is the one that flags name."""
    if ok(blocks, reserve, any_reserved, order, marks[mark] + boost, flags):
        return True
    # One frame that every mark lets go: asked in plain numbers first, without what flags allow.
    free = sum(sum(row) << k for k, row in enumerate(blocks))
    if order == 0 and any_reserved and not flags & {"OOM", "NON_BLOCK", "MIN_RESERVE", "HIGHATOMIC"}:
        free = max(free - sum(row[RESERVED] << k for k, row in enumerate(blocks)), 0)
    if order == 0 and free > marks[mark] + boost + reserve:
        return True
    unboosted = order == 0 and boost > 0 and (named or mark) == "min" and "MIN_RESERVE" in flags
    return unboosted and ok(blocks, reserve, any_reserved, 0, marks["min"], flags)


def ok_2_6_24(blocks: Sequence[Sequence[int]], reserve: int, order: int, mark: int, flags: Set[str]) -> bool:
    """``zone_watermark_ok`` of 2.6.23 and 2.6.24."""
    kept = share_kept(mark, flags, False)
    at_least = [kept + reserve] + [kept >> (low + 1) for low in range(order)]
    free = sum(sum(row) << k for k, row in enumerate(blocks)) - 2**order + 1
    discounted = [sum(sum(row) << k for k, row in enumerate(blocks[:low])) for low in range(order + 1)]
    return all(free - gone > least for gone, least in zip(discounted, at_least, strict=True))


def boosted(boost: int, most: int, claims: int) -> int:
    """Return the boost after so many tries to claim a pageblock; ``most`` 0: none."""
    for _ in range(claims if most else 0):
        boost = min(boost + PAGEBLOCK, most)
    return boost
