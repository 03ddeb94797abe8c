"""Settings of all tests: Hypothesis draws the same examples in every run, and no example is timed.

What compiles every kernel, on all CPUs, comes first, so that other tests find the machine code ready.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "vclab",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("vclab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what compiles every kernel."""
    items.sort(key=lambda item: item.get_closest_marker("compiles_all") is None)
