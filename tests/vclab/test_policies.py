"""Each policy's attempts are those that the kernel, or the RFC, makes: in order, and with the flags it passes."""

from __future__ import annotations

import pytest

import vclab
from vclab import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK
from vclab.gfp import Gfp
from vclab.policies import POLICIES, Backing, Policy, Request, find_policy

RECLAIM = Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM
FLAGGED = GFP_KERNEL | GFP_VFALLBACK


def attempts(name: str, flags: Gfp = FLAGGED, order: int = 5, min_order: int = 0) -> list[tuple[Backing, int, Gfp]]:
    """Return backing, order and flags of each attempt."""
    plan = find_policy(name).plan(Request(order, flags, min_order))
    return [(attempt.backing, attempt.order, attempt.flags) for attempt in plan]


def test_late_fallback_tries_everything_and_then_takes_what_is_free() -> None:
    first, second = attempts("late-fallback")
    assert first == (Backing.BLOCK, 5, FLAGGED)
    # Who could have waited dips into no reserve; who could not may.
    assert second == (Backing.SINGLE, 5, FLAGGED & ~RECLAIM | Gfp.NOMEMALLOC)
    atomic = attempts("late-fallback", GFP_ATOMIC | Gfp.VFALLBACK)
    assert not any(flags & (Gfp.DIRECT_RECLAIM | Gfp.NOMEMALLOC) for _, _, flags in atomic)


@pytest.mark.parametrize(
    ("name", "flags", "added", "removed"),
    [
        ("early-fallback-v3", FLAGGED, Gfp.NORETRY | Gfp.NOWARN, Gfp.NONE),
        ("early-fallback-6.12", FLAGGED, Gfp.NORETRY | Gfp.NOWARN, Gfp.NONE),
        ("early-fallback-6.12", FLAGGED | Gfp.RETRY_MAYFAIL, Gfp.NOWARN, Gfp.NONE),
        ("early-fallback", FLAGGED, Gfp.NOWARN, Gfp.DIRECT_RECLAIM),
        ("early-fallback", FLAGGED | Gfp.RETRY_MAYFAIL, Gfp.NOWARN, Gfp.NONE),
    ],
)
def test_early_fallback_changes_the_flags_of_its_one_try(name: str, flags: Gfp, added: Gfp, removed: Gfp) -> None:
    assert attempts(name, flags) == [
        (Backing.BLOCK, 5, (flags | added) & ~removed),
        (Backing.SINGLE, 5, flags),
    ]


def test_min_order_gives_up_reclaim_for_the_large_block_only() -> None:
    first, second = attempts("min-order", GFP_KERNEL | Gfp.NOFAIL, order=3, min_order=1)
    quiet = Gfp.NOWARN | Gfp.NORETRY | Gfp.NOMEMALLOC
    assert first == (Backing.BLOCK, 3, (GFP_KERNEL | quiet) & ~RECLAIM)
    assert second == (Backing.BLOCK, 1, GFP_KERNEL | Gfp.NOFAIL)
    # Who cannot reclaim anyway keeps the right to wake kswapd.
    assert attempts("min-order", GFP_ATOMIC, order=3)[0][2] == GFP_ATOMIC | Gfp.NOWARN | Gfp.NORETRY
    assert attempts("min-order", GFP_KERNEL, order=2, min_order=2) == [(Backing.BLOCK, 2, GFP_KERNEL)]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_unflagged_and_single_pages_are_served_without_fallback_where_the_flag_is_heeded(policy: Policy) -> None:
    for request in (Request(5, GFP_KERNEL, 0), Request(0, FLAGGED, 0)):
        backings = [attempt.backing for attempt in policy.plan(request)]
        if policy.heeds_flag:
            assert backings == [Backing.BLOCK]
    flagged, not_flagged = (
        [attempt._replace(flags=attempt.flags & ~Gfp.VFALLBACK) for attempt in policy.plan(Request(5, flags, 5))]
        for flags in (FLAGGED, GFP_KERNEL)
    )
    assert (flagged != not_flagged) == policy.heeds_flag


def test_a_smaller_page_stands_in_under_min_order() -> None:
    system = vclab.System(memory="64MiB", policy="min-order", levels=4)
    while True:
        page = system.alloc_pages(5, GFP_KERNEL, min_order=2)
        if page.order < 5:
            break
    assert page.order == 2
    assert not page.is_virtual
    assert system.memory.zone.free_blocks[5:].sum() == 0
    with pytest.raises(vclab.ConfigurationError, match="least order 6"):
        system.alloc_pages(5, GFP_KERNEL, min_order=6)
    while True:
        try:
            system.alloc_pages(3, GFP_KERNEL, min_order=3)
        except vclab.OutOfMemory as error:
            assert "policy min-order" in str(error)
            break


def test_early_fallback_is_the_rule_sets_own() -> None:
    assert vclab.System(memory="16MiB", levels=4).compound.policy.plan is POLICIES["early-fallback-6.18"].plan
    old = vclab.System(memory="16MiB", linux="2.6.24", levels=4)
    assert old.compound.policy.plan is POLICIES["early-fallback-v3"].plan
    assert old.compound.policy.name == "early-fallback"
    assert old.copy("early-fallback").compound.policy.plan is POLICIES["early-fallback-v3"].plan
