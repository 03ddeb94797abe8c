"""Settings of all tests: Hypothesis draws the same examples in every run, and no example is timed."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "vclab",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("vclab")
