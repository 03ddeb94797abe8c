"""Policies: what is tried, and in which order, when a large page is asked for.

A policy turns a request into attempts, made one after another until one succeeds. What an attempt may do beyond taking
from the free lists (waking kswapd, reclaim, compaction, waiting for memory) is told by its flags alone, as in Linux.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import NamedTuple

from vckernels.buddy import PAGEBLOCK_ORDER
from vclab.errors import ConfigurationError
from vclab.gfp import Gfp

HUGE_ORDER = PAGEBLOCK_ORDER
"""Of a block of 2 MiB."""

NO_RECLAIM = ~(Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM)
"""What is left of flags that may take from the free lists and no more."""


class Backing(Enum):
    """What an attempt makes a page of."""

    BLOCK = "one physically contiguous block"
    HUGE = "2 MiB blocks behind a range of the vmalloc area"
    SINGLE = "single frames behind a range of the vmalloc area"


class Request(NamedTuple):
    """What a caller asks for.

    Attributes
    ----------
    order : int
        2**order pages.
    flags : Gfp
        With ``GFP_VFALLBACK`` if the caller can cope with a virtual page.
    min_order : int
        The least order that would do, under policies that may serve less.
    """

    order: int
    flags: Gfp
    min_order: int

    @property
    def flagged(self) -> bool:
        """Whether a virtual page may stand in, where that has to be allowed."""
        return self.order > 0 and bool(self.flags & Gfp.VFALLBACK)


class Attempt(NamedTuple):
    """One try to serve a request; the order is the request's but for smaller blocks."""

    backing: Backing
    flags: Gfp
    order: int


Plan = Callable[[Request], tuple[Attempt, ...]]


@dataclass(frozen=True)
class Policy:
    """What happens when pages are asked for.

    Attributes
    ----------
    name, summary : str
    plan : callable
        The attempts that a request leads to.
    heeds_flag : bool
        Whether a request is served otherwise with ``GFP_VFALLBACK`` than without.
    """

    name: str
    summary: str
    plan: Plan
    heeds_flag: bool = False

    @cache  # noqa: B019 - policies are few and live as long as the process
    def attempts(self, order: int, flags: int, min_order: int) -> tuple[Attempt, ...]:
        """Return what is tried for a request, first attempt first."""
        return self.plan(Request(order, Gfp(flags), min_order))


def _block(request: Request, flags: Gfp | None = None) -> Attempt:
    return Attempt(Backing.BLOCK, request.flags if flags is None else flags, request.order)


def _single(request: Request, flags: Gfp | None = None) -> Attempt:
    return Attempt(Backing.SINGLE, request.flags if flags is None else flags, request.order)


def _physical(request: Request) -> tuple[Attempt, ...]:
    return (_block(request, request.flags & ~Gfp.VFALLBACK),)


def _late_fallback(request: Request) -> tuple[Attempt, ...]:
    """Try all that the kernel does before it fails or kills a process, then take single frames that are free.

    RFC V2, patch 8: ``alloc_vcompound`` calls ``get_page_from_freelist`` for each member, with what the request itself
    may use, so nothing is reclaimed for them; whoever could have waited dips into no reserve (``NOMEMALLOC``). An
    atomic request reclaims nothing either way, so that it falls back at once.
    """
    if not request.flagged:
        return (_block(request),)
    waits = Gfp.NOMEMALLOC if request.flags & Gfp.DIRECT_RECLAIM else Gfp.NONE
    return _block(request), _single(request, request.flags & NO_RECLAIM | waits)


def _early_fallback(first: Callable[[Gfp], Gfp]) -> Plan:
    """Return the plan that makes one cheap try, with flags changed by ``first``, and then takes single frames."""

    def plan(request: Request) -> tuple[Attempt, ...]:
        if not request.flagged:
            return (_block(request),)
        return _block(request, first(request.flags)), _single(request)

    return plan


def _flags_of_v3(flags: Gfp) -> Gfp:
    """RFC V3, patch 4: ``alloc_vcompound`` tries once with these."""
    return flags | Gfp.NORETRY | Gfp.NOWARN


def _flags_of_6_12(flags: Gfp) -> Gfp:
    """Linux 6.12 ``mm/util.c``: ``kmalloc_gfp_adjust``."""
    return flags | Gfp.NOWARN | (Gfp.NONE if flags & Gfp.RETRY_MAYFAIL else Gfp.NORETRY)


def _flags_of_6_18(flags: Gfp) -> Gfp:
    """Linux 6.18 ``mm/slub.c``: ``kmalloc_gfp_adjust`` gives up direct reclaim; kswapd is still woken."""
    return flags | Gfp.NOWARN if flags & Gfp.RETRY_MAYFAIL else (flags | Gfp.NOWARN) & ~Gfp.DIRECT_RECLAIM


def _min_order(request: Request) -> tuple[Attempt, ...]:
    """Linux 6.12 ``mm/slub.c``: ``allocate_slab``. The large try gives up all reclaim where a smaller one is left."""
    own = request.flags & ~Gfp.VFALLBACK
    flags = (own | Gfp.NOWARN | Gfp.NORETRY) & ~Gfp.NOFAIL
    if request.order <= request.min_order:
        return (_block(request, own),)
    if flags & Gfp.DIRECT_RECLAIM:
        flags = (flags | Gfp.NOMEMALLOC) & NO_RECLAIM
    return _block(request, flags), Attempt(Backing.BLOCK, own, request.min_order)


def _always_virtual(request: Request) -> tuple[Attempt, ...]:
    return (_single(request) if request.flagged else _block(request),)


def _vmalloc(request: Request) -> tuple[Attempt, ...]:
    return (_single(request),)


def _huge_vmalloc(request: Request) -> tuple[Attempt, ...]:
    """2 MiB blocks, and single frames for the whole area where one of them is short.

    Linux ``mm/vmalloc.c``: ``__vmalloc_node_range`` compares with the size over the online nodes; the machine is one.
    """
    if request.order < HUGE_ORDER:
        return (_single(request),)
    return Attempt(Backing.HUGE, request.flags | Gfp.NOWARN, request.order), _single(request)


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("physical", "physically contiguous or fail; GFP_VFALLBACK is ignored", _physical),
        Policy(
            "late-fallback",
            "virtual once reclaim, and compaction where there is one, have failed (RFC, V2)",
            _late_fallback,
            heeds_flag=True,
        ),
        Policy(
            "early-fallback-6.18",
            "one try without direct reclaim, then virtual (kvmalloc of 6.18)",
            _early_fallback(_flags_of_6_18),
            heeds_flag=True,
        ),
        Policy(
            "early-fallback-6.12",
            "one try that does not retry, then virtual (kvmalloc of 6.12)",
            _early_fallback(_flags_of_6_12),
            heeds_flag=True,
        ),
        Policy(
            "early-fallback-v3",
            "one try that does not retry, then virtual (RFC V3)",
            _early_fallback(_flags_of_v3),
            True,
        ),
        Policy("min-order", "a smaller block where the large one is not to be had at once (SLUB of 6.12)", _min_order),
        Policy(
            "always-virtual",
            "flagged requests of order 1 and more are virtual (CONFIG_VFALLBACK_ALWAYS)",
            _always_virtual,
            heeds_flag=True,
        ),
        Policy("vmalloc", "always virtual, as callers of 2007 did it", _vmalloc),
        Policy(
            "huge-vmalloc",
            "always virtual, in 2M entries from 2 MiB on if all 2 MiB blocks are found (vmalloc_huge of 6.12)",
            _huge_vmalloc,
        ),
    )
}


EARLY_FALLBACK = "early-fallback"
"""The variant that is the rule set's own."""


def policy_names() -> tuple[str, ...]:
    """Return what policies can be asked for."""
    return (*POLICIES, EARLY_FALLBACK)


def find_policy(name: str, early_fallback: str = "6.18") -> Policy:
    """Return a policy by name.

    Parameters
    ----------
    name : str
        One of :func:`policy_names`.
    early_fallback : str
        The variant that ``early-fallback`` means: "v3", "6.12" or "6.18".

    Raises
    ------
    ConfigurationError
        If there is no such policy, naming those that exist.
    """
    if name == EARLY_FALLBACK:
        return replace(POLICIES[f"{EARLY_FALLBACK}-{early_fallback}"], name=EARLY_FALLBACK)
    if name not in POLICIES:
        raise ConfigurationError(f"policy {name!r} does not exist; there are {', '.join(policy_names())}")
    return POLICIES[name]
