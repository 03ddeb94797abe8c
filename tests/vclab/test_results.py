"""Results: intervals, netCDF in and out, folders that cannot be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from vclab import results
from vclab.errors import OutputError


def test_interval_is_students() -> None:
    sample = np.array([1.0, 2.0, 4.0, 8.0, 9.0])
    mean, low, high = results.interval(sample)
    expected = stats.t.interval(0.95, 4, loc=sample.mean(), scale=stats.sem(sample))
    np.testing.assert_allclose((mean, low, high), (sample.mean(), *expected))


def test_exact_counts_have_no_interval() -> None:
    assert results.interval([3.0, 3.0, 3.0]) == (3.0, 3.0, 3.0)
    assert results.interval([7.0]) == (7.0, None, None)


def test_dataset_comes_back_as_it_was(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {"events": (("seed", "cell"), np.arange(4000).reshape(2, 2000), {"units": "1"})},
        coords={"seed": [1, 2]},
        attrs={"study": "fallback"},
    )
    path = results.save(dataset, tmp_path)
    assert path.name == "results.nc"
    xr.testing.assert_identical(results.load(tmp_path), dataset)
    assert [file.name for file in tmp_path.iterdir()] == ["results.nc"]


@pytest.mark.parametrize("content", [b"", b"not netcdf", b"\x89HDF\r\n\x1a\n" + b"\0" * 200])
def test_damaged_results_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.nc").write_bytes(content)
    with pytest.raises(OutputError, match="cannot be read"):
        results.load(tmp_path)


def test_foreign_netcdf_is_refused(tmp_path: Path) -> None:
    results.save(xr.Dataset({"x": ("y", [1, 2])}), tmp_path)
    with pytest.raises(OutputError, match="holds no results of vclab"):
        results.load(tmp_path)
    with pytest.raises(OutputError, match=r"no results\.nc"):
        results.load(tmp_path / "absent")


def test_claim_number_for_people() -> None:
    assert results.Claim("s", "m").number == "–"
    assert results.Claim("s", "m", value=1.5, unit="times").number == "1.5 times"
    assert results.Claim("s", "m", value=1.5, low=1.25, high=1.75, unit="%").number == "1.5 [1.25, 1.75] %"


def test_ratio_interval_is_fiellers() -> None:
    """With a constant denominator it is Student's; its ends are where the rest is Student's quantile from zero."""
    above = np.array([9.0, 11.0, 10.0, 12.0, 10.5])
    np.testing.assert_allclose(results.ratio_interval(above, np.full(5, 4.0)), np.array(results.interval(above)) / 4)
    below = np.array([4.0, 4.4, 3.9, 4.1, 4.2])
    value, low, high = results.ratio_interval(above, below)
    assert value == pytest.approx(above.mean() / below.mean())
    assert low is not None
    assert high is not None
    for end in (low, high):
        rest = above - end * below
        assert abs(rest.mean() / stats.sem(rest)) == pytest.approx(stats.t.ppf(0.975, 4))
    assert results.ratio_interval(above, below - below.mean() + 0.01)[1:] == (-np.inf, np.inf)
    assert results.ratio_interval([6.0], [3.0]) == (2.0, None, None)
    with pytest.raises(ValueError, match="no interval"):
        results.ratio_interval([1.0, 2.0], [1.0])
