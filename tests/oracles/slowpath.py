"""The slow paths of Linux 6.18 and 2.6.24 in plain Python: each a generator that yields a step and is sent its answer.

Rules: ``mm/page_alloc.c``: ``__alloc_pages_slowpath`` of 6.18, ``__alloc_pages`` of 2.6.24. Steps are (name, argument).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

Step = tuple[str, object]
Path = Generator[Step, int, str]

SKIPPED, DEFERRED, SUCCESS = 1, 2, 8
CAPTURED = 16
ASYNC, SYNC_LIGHT, SYNC_FULL = 2, 1, 0


def flags_of(order: int, gfp: set[str]) -> set[str]:
    """Return what a request may do under 6.18."""
    flags = {"MIN_RESERVE"} & ({"MIN_RESERVE"} if "HIGH" in gfp else set())
    if "KSWAPD_RECLAIM" in gfp:
        flags.add("KSWAPD")
    if not {"DIRECT_RECLAIM", "NOMEMALLOC"} & gfp:
        flags.add("NON_BLOCK")
        if order and "HIGH" in gfp:
            flags.add("HIGHATOMIC")
    return flags


def today(order: int, movable: bool, gfp: set[str], fallback: bool, events: Counter[str], most: int) -> Path:
    """Yield the steps of 6.18's slow path; return how it ends."""
    events["SLOW_PATH"] += 1
    flags = flags_of(order, gfp)
    costly = order > 3
    may_compact = {"DIRECT_RECLAIM", "IO"} <= gfp
    wakes = "KSWAPD" in flags
    priority, result, retries, idle = SYNC_LIGHT, SKIPPED, 0, 0

    def compact(chosen: int) -> Generator[Step, int, bool]:
        nonlocal result
        answer = yield "COMPACT", chosen
        result = answer % CAPTURED
        if result == SKIPPED:
            return False
        events["COMPACT_STALL"] += 1
        got = answer >= CAPTURED or (yield "TAKE", frozenset(flags))
        events["COMPACT_SUCCESS" if got else "COMPACT_FAIL"] += 1
        return bool(got)

    if wakes:
        yield "WAKE_KSWAPD", None
    if (yield "TAKE", frozenset(flags)):
        return "SERVED"
    hopeless = False
    if may_compact and (costly or (order and not movable)):
        if (yield from compact(ASYNC)):
            return "SERVED_BY_COMPACTION"
        if costly and "NORETRY" in gfp:
            hopeless = result in (SKIPPED, DEFERRED)
            priority = priority if hopeless else ASYNC
    rounds = 0
    while True:
        if not hopeless:
            rounds += 1
            if rounds > most:
                return "ABANDONED"
            if wakes:
                yield "WAKE_KSWAPD", None
            if (yield "TAKE", frozenset(flags)):
                return "SERVED"
            again = False
            if "DIRECT_RECLAIM" in gfp:
                progress = yield "RECLAIM", None
                if progress:
                    if (yield "TAKE", frozenset(flags)):
                        return "SERVED"
                    yield "DRAIN", None
                    if (yield "TAKE", frozenset(flags)):
                        return "SERVED"
                if order and "IO" not in gfp:
                    result = SKIPPED
                elif order and (yield from compact(priority)):
                    return "SERVED_BY_COMPACTION"
                if "NORETRY" not in gfp and (not costly or (may_compact and "RETRY_MAYFAIL" in gfp)):
                    events["SLOW_PATH_RETRY"] += 1
                    idle = 0 if progress and not costly else idle + 1
                    again = idle <= 16 and bool((yield "JUDGE_RECLAIM", None))
                    again = again or bool((yield "RELEASE_RESERVE", None))
                    if not again and progress and may_compact and order:
                        if result == SKIPPED:
                            again = bool((yield "JUDGE_COMPACTION", None))
                        else:
                            if result == SUCCESS:
                                retries += 1
                                again = retries <= (4 if costly else 16)
                            if not again and priority > (SYNC_LIGHT if costly else SYNC_FULL):
                                priority, retries, again = priority - 1, 0, True
                    if not again:
                        if (yield "TAKE", frozenset({"WMARK_HIGH"})):
                            return "SERVED"
                        if not costly and "RETRY_MAYFAIL" not in gfp and not fallback and (yield "KILL", None):
                            events["OOM_KILL"] += 1
                            idle, again = 0, True
            if again:
                continue
        hopeless = False
        if not {"NOFAIL", "DIRECT_RECLAIM"} <= gfp:
            return "FAILED"
        if (yield "TAKE", frozenset({"MIN_RESERVE"})):
            return "SERVED"


def of_2007(order: int, gfp: set[str], fallback: bool, events: Counter[str], most: int) -> Path:
    """Yield the steps of 2.6.24's slow path; return how it ends."""
    events["SLOW_PATH"] += 1
    waits = "DIRECT_RECLAIM" in gfp
    hurries = not waits and "NOMEMALLOC" not in gfp
    flags = frozenset(({"MIN_RESERVE"} if "HIGH" in gfp else set()) | ({"NON_BLOCK"} if hurries else set()))
    rounds = 0
    while True:
        yield "WAKE_KSWAPD", None
        if (yield "TAKE", flags):
            return "SERVED"
        if not waits:
            return "FAILED"
        killed = False
        while not killed:
            rounds += 1
            if rounds > most:
                return "ABANDONED"
            progress = yield "RECLAIM", None
            if order:
                yield "DRAIN", None
            if progress:
                if (yield "TAKE", flags):
                    return "SERVED"
                if fallback and order > 3:
                    return "FAILED"
            elif fallback:
                return "FAILED"
            elif "FS" in gfp and "NORETRY" not in gfp:
                if (yield "TAKE", frozenset({"WMARK_HIGH"})):
                    return "SERVED"
                if order > 3 or not (yield "KILL", None):
                    return "FAILED"
                events["OOM_KILL"] += 1
                if (yield "TAKE", frozenset({"WMARK_LOW"})):
                    return "SERVED"
                killed = True
                continue
            if "NORETRY" in gfp or (order > 3 and not {"RETRY_MAYFAIL", "NOFAIL"} & gfp):
                return "FAILED"
            events["SLOW_PATH_RETRY"] += 1
            yield "WAIT", None
