"""Allocating and freeing 2 to 64 pages through a whole machine, against test_vmalloc."""

from __future__ import annotations

import pytest

from vclab.vmalloccost import FIT, MEASURED, ORDERS, measure


@pytest.mark.parametrize("order", ORDERS)
def test_a_page_costs_what_test_vmalloc_measured_within_10_percent(order: int) -> None:
    row = measure(order)
    assert abs(row.error) < 0.10
    assert row.by_cause["zeroing"] == 65 * 2**order
    assert row.nanoseconds == sum(row.by_cause.values())
    if 2**order in MEASURED:
        assert abs(row.nanoseconds / MEASURED[2**order] - 1) < 0.10


def test_the_line_is_that_of_what_was_measured() -> None:
    for pages, nanoseconds in MEASURED.items():
        assert abs((FIT[0] + FIT[1] * pages) / nanoseconds - 1) < 0.03
