import numpy as np
import pytest
import xarray as xr

from data_prep.rain_rate import to_rain_rate
from data_prep.schema import RATE_ATTRIBUTES, RefusedInput


def _frame(values: list[float], **attributes: object) -> xr.DataArray:
    return xr.DataArray(np.array([values], dtype=np.float32), dims=("y", "x"), attrs=attributes)


def test_marshall_palmer_gives_1_mm_per_hour_at_23_dbz_and_10_at_39() -> None:
    # 10 log10(200) = 23.01 dBZ for 1 mm/h; each factor of ten in R adds 16 dB.
    rate = to_rain_rate(_frame([23.0103, 39.0103, 7.0103], units="dBZ"))
    np.testing.assert_allclose(rate.values, [[1.0, 10.0, 0.1]], rtol=1e-4)


def test_finnish_coefficients_give_1_mm_per_hour_at_10_log10_of_223() -> None:
    rate = to_rain_rate(_frame([23.48305], units="dBZ"), z_r_a=223.0, z_r_b=1.53)
    assert rate.item() == pytest.approx(1.0, rel=1e-4)


def test_no_echo_is_dry_and_no_data_stays_missing() -> None:
    rate = to_rain_rate(_frame([-np.inf, np.nan], units="dBZ"))
    np.testing.assert_array_equal(rate.values, [[0.0, np.nan]])


def test_a_negative_reflectivity_is_very_light_rain_and_not_zero() -> None:
    # (10^(-1) / 200)^(1/1.6) = 0.00865
    assert to_rain_rate(_frame([-10.0], units="dBZ")).item() == pytest.approx(0.00865, rel=1e-2)


@pytest.mark.parametrize(("interval", "factor"), [(5, 12.0), (6.0, 10.0), (15, 4.0), (60, 1.0)])
def test_an_accumulation_is_divided_by_its_own_interval(interval: float, factor: float) -> None:
    rate = to_rain_rate(_frame([0.5, 0.0, np.nan], units="mm", accumulation_minutes=interval))
    np.testing.assert_allclose(rate.values, [[0.5 * factor, 0.0, np.nan]])


@pytest.mark.parametrize("units", ["mm h-1", "mm/h", "kg m-2 h-1"])
def test_a_rate_stays_as_it_is(units: str) -> None:
    np.testing.assert_array_equal(to_rain_rate(_frame([2.5, np.nan], units=units)).values, [[2.5, np.nan]])


def test_the_result_carries_the_attributes_of_the_contract_and_names_its_coefficients() -> None:
    rate = to_rain_rate(_frame([20.0], units="dBZ"), z_r_a=223.0, z_r_b=1.53)
    assert rate.name == "rainfall_rate"
    assert rate.dtype == np.float32
    assert {key: rate.attrs[key] for key in RATE_ATTRIBUTES} == RATE_ATTRIBUTES
    assert "Z = 223 R^1.53" in rate.attrs["comment"]


def test_the_frame_keeps_its_coordinates_and_its_values() -> None:
    frame = _frame([20.0, -np.inf], units="dBZ").assign_coords(time=np.datetime64("2017-05-09T10:45", "ns"))
    before = frame.copy(deep=True)
    rate = to_rain_rate(frame)
    assert rate["time"].item() == frame["time"].item()
    xr.testing.assert_identical(frame, before)


@pytest.mark.parametrize("attributes", [{}, {"units": "K"}, {"units": "m s-1"}])
def test_an_unknown_unit_is_refused_by_name(attributes: dict) -> None:
    with pytest.raises(RefusedInput, match=str(attributes.get("units", "None"))):
        to_rain_rate(_frame([1.0], **attributes))


@pytest.mark.parametrize("interval", [None, 0, -5, "5"])
def test_an_accumulation_without_a_usable_interval_is_refused(interval: object) -> None:
    with pytest.raises(RefusedInput, match="accumulation_minutes"):
        to_rain_rate(_frame([1.0], units="mm", accumulation_minutes=interval))


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.6), (-200.0, 1.6), (200.0, 0.0), (float("nan"), 1.6)])
def test_coefficients_that_are_not_positive_are_refused(a: float, b: float) -> None:
    with pytest.raises(RefusedInput, match="a > 0 and b > 0"):
        to_rain_rate(_frame([1.0], units="dBZ"), z_r_a=a, z_r_b=b)
