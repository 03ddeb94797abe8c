"""The model of vmap in 2008 against the published table."""

from __future__ import annotations

import pytest

from vclab import vmapcost
from vclab.errors import ConfigurationError
from vclab.presets import multiprocessor
from vclab.vmapcost import FITTED, MEASURED, Free, fit, prices, published, simulate

MACHINE = multiprocessor("opteron-2008")


def test_what_is_not_fitted_is_predicted_within_15_percent() -> None:
    free, cells = published()
    assert [(cell.regime, cell.threads) for cell in cells if cell.is_fitted] == list(FITTED)
    assert len(FITTED) == len(Free.__dataclass_fields__)
    assert {(cell.regime, cell.threads): cell.measured for cell in cells} == {
        (regime, threads): measured for regime, column in MEASURED.items() for threads, measured in column.items()
    }
    for cell in cells:
        assert abs(cell.error) < (0.005 if cell.is_fitted else 0.15), cell
    assert 0 < free.work < MEASURED["blocks"][1]
    assert 0 < free.flush < MEASURED["eager"][8] / 8


def test_a_model_without_halted_cpus_or_without_moving_lines_misses_the_table() -> None:
    """The two causes that the table's middle rests on, each left out and the rest fitted anew."""
    for changes in ({"timer": 1.0, "wake": 1.0}, {"near": 1.0, "far": 1.0}):
        price = prices(MACHINE, **changes)
        free = fit(price)
        errors = [
            simulate(*cell, free, price) / MEASURED[cell[0]][cell[1]] - 1 for cell in (("eager", 2), ("blocks", 1))
        ]
        assert max(map(abs, errors)) > 0.15, changes


def test_more_threads_do_not_get_more_done_before_and_do_after() -> None:
    free, _ = published()
    price = prices(MACHINE)
    eager = [simulate("eager", threads, free, price) / threads for threads in (2, 4, 8)]
    blocks = [simulate("blocks", threads, free, price) for threads in (1, 8)]
    assert eager[0] > eager[1] > eager[2]
    assert blocks[1] < 1.02 * blocks[0]


def test_a_run_has_one_outcome() -> None:
    free = Free(2000.0, 2000.0)
    assert len({simulate("eager", 4, free, prices(MACHINE), rounds=20) for _ in range(3)}) == 1


def test_a_machine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="opteron-2008"):
        multiprocessor("opteron-2009")


def test_every_range_is_a_number_that_a_run_uses() -> None:
    paths = [path for path, _ in vmapcost._ranged(MACHINE)]
    assert len(set(paths)) == len(paths)
    price = prices(MACHINE)
    free = Free(2000.0, 2000.0)
    before = [simulate(*cell, free, price, rounds=20) for cell in (("eager", 4), ("blocks", 4))]
    for path, number in vmapcost._ranged(MACHINE):
        changed = prices(MACHINE, **{path: number.high})
        after = [simulate(*cell, free, changed, rounds=20) for cell in (("eager", 4), ("blocks", 4))]
        assert after != before, path
