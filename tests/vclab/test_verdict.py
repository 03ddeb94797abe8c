"""What each policy would pay: from the model's own events and the presets' prices."""

from __future__ import annotations

import numpy as np
import pytest

from vclab import System, verdict
from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.ledger import price_operations
from vclab.policies import policy_names
from vclab.units import PAGE_BYTES

MEMORY = 64 << 20


def machine(held_order: int | None = None) -> System:
    """Return a small machine; with an order, of which no block that large is free."""
    system = System(memory=MEMORY, policy="physical")
    if held_order is not None:
        zone = system.memory.zone
        pages = []
        while (frame := zone.allocate(0, 0)) >= 0:
            pages.append(frame)
        keep = 1 << held_order
        zone.free([frame for frame in pages if frame % keep], 0)
    return system


def test_answers_are_those_of_the_model_at_the_presets_prices() -> None:
    system = machine(6)
    before = system.ledger.counts.copy()
    answers = verdict.ask(system)
    assert (system.ledger.counts == before).all()
    assert not system.pages
    assert {(answer.policy, answer.order) for answer in answers} == {
        (p, o) for p in policy_names() for o in range(1, 11)
    }
    for answer in answers:
        twin = system.copy(policy=answer.policy)
        try:
            page = twin.alloc_pages(answer.order, GFP_VFALLBACK)
            smaller = page.order < answer.order
            assert answer.served == ("virtual" if page.is_virtual else "smaller block" if smaller else "physical")
        except OutOfMemory:
            assert answer.served == "failed"
        counts = twin.ledger.counts - before
        for bound, price in (("value", answer.nanoseconds), ("low", answer.low), ("high", answer.high)):
            assert price == pytest.approx(price_operations(counts, twin.linux, twin.cpu, bound).sum())
        assert 0 <= answer.low <= answer.nanoseconds <= answer.high


def test_physical_fails_where_no_block_is_left_and_fallback_does_not() -> None:
    by_request = {(answer.policy, answer.order): answer.served for answer in verdict.ask(machine(6))}
    for order in range(1, 11):
        assert by_request["physical", order] == ("physical" if order < 6 else "failed")
        assert by_request["early-fallback", order] == ("physical" if order < 6 else "virtual")
        assert by_request["min-order", order] == ("physical" if order < 6 else "smaller block")
        assert by_request["always-virtual", order] == "virtual"


@pytest.mark.parametrize(
    ("held", "first", "second"),
    [
        (None, "Orders 1 to 10 are served physically contiguous now", None),
        (6, "Orders 6 to 10 cannot be served physically contiguous now; 1 to 5 can", "6 to 10"),
        (9, "Orders 9, 10 cannot be served physically contiguous now; 1 to 8 can", "9, 10"),
        (1, "No order can be served physically contiguous now", None),
    ],
)
def test_the_verdict_says_who_falls_back(held: int | None, first: str, second: str | None) -> None:
    system = machine(held)
    lines = verdict.sentences(system, verdict.ask(system, ("physical", "early-fallback", "always-virtual")))
    free = system.memory.free_share
    assert lines[0].startswith(f"Zone Normal: {free:.1%} of its frames are free")
    assert lines[1].startswith(first)
    assert (f"early-fallback falls back at orders {second}." in lines) == (second is not None)
    assert ("falls back at" in " ".join(lines)) == (second is not None)
    assert any("A virtual page of order 9 takes" in line for line in lines)
    assert ("times what a physical one takes" in " ".join(lines)) == (held is None)
    assert "zen3" in lines[-1] and "6.18" in lines[-1]


def test_the_cost_grows_with_the_pages() -> None:
    answers = {answer.order: answer for answer in verdict.ask(machine(), ("always-virtual",))}
    costs = np.array([answers[order].nanoseconds for order in range(1, 11)])
    assert (np.diff(costs) > 0).all()
    assert machine().memory.zone.managed * PAGE_BYTES == MEMORY
