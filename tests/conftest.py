"""Settings of all tests: Hypothesis draws the same examples in every run, and no example is timed.

What compiles every kernel, on all CPUs, comes first, so that other tests find the machine code ready. Where several
processes share the tests (``-n``) one of them has it done and the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os

import pytest
from hypothesis import HealthCheck, settings

from tests.kernels.smallruns import Compiled, compile_all

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


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Every kernel, compiled by whichever process asks first."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    kept = place / "compiled.json"
    with (place / "compiling").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(json.dumps(compile_all(tmp_path_factory.mktemp("cache"))))
    return Compiled(*json.loads(kept.read_text()))


@pytest.fixture(scope="session", autouse=True)
def _compile_first(request: pytest.FixtureRequest) -> None:
    """Let no test begin before every kernel is compiled, where that is asked for at all."""
    if any(item.get_closest_marker("compiles_all") for item in request.session.items):
        # If it fails, the test of what was compiled tells why; others compile what they need.
        with contextlib.suppress(Exception):
            request.getfixturevalue("compiled")
