import numpy as np
import pytest
import xarray as xr

from data_prep.schema import RefusedInput, crs_of
from nowcast.baselines import Extrapolation, Persistence
from nowcast.products import (
    exceedance_probability,
    forecast_to_file,
    read_forecast,
    validate_forecast,
    write_forecast,
)


def test_a_forecast_comes_back_from_its_file(make_rain, tmp_path):
    forecast = Extrapolation().forecast(make_rain(6, missing_rows=4), lead_steps=5)
    write_forecast(forecast, tmp_path / "f.nc")
    back = read_forecast(tmp_path / "f.nc")
    np.testing.assert_array_equal(back.values, forecast.values)
    for name in ("lead_time", "time", "forecast_reference_time", "x", "y", "lat", "lon"):
        np.testing.assert_array_equal(back[name].values, forecast[name].values, err_msg=name)
    assert crs_of(back) == crs_of(forecast)
    assert back.attrs["model"] == "extrapolation"
    assert validate_forecast(tmp_path / "f.nc") == []


def test_streaming_into_a_file_gives_the_file_that_memory_gives(make_rain, tmp_path):
    rain = make_rain(6)
    forecast_to_file(tmp_path / "streamed.nc", Extrapolation(), rain, lead_steps=4, seed=3)
    write_forecast(Extrapolation().forecast(rain, lead_steps=4, seed=3), tmp_path / "whole.nc")
    streamed, whole = (xr.open_dataset(tmp_path / f"{name}.nc") for name in ("streamed", "whole"))
    xr.testing.assert_equal(streamed, whole)
    own = [name for name in whole.attrs if name.startswith("nowcast__")]
    assert {name: streamed.attrs[name] for name in own} == {name: whole.attrs[name] for name in own}


def test_the_file_has_the_layout_that_the_documentation_promises(make_rain, tmp_path):
    forecast_to_file(tmp_path / "f.nc", Persistence(), make_rain(6), lead_steps=2)
    raw = xr.open_dataset(tmp_path / "f.nc", decode_times=False, mask_and_scale=False)
    assert raw["rainfall_rate"].dims == ("realization", "time", "y", "x")
    assert raw["rainfall_rate"].attrs["units"] == "mm h-1"
    assert raw["forecast_period"].values.tolist() == [300, 600]
    assert raw["time"].attrs["units"] == "seconds since 1970-01-01 00:00:00"
    assert raw["input_frame_status"].values.tolist() == [0, 0, 0, 0]
    assert raw.attrs["Conventions"] == "CF-1.11"
    assert raw.attrs["nowcast__input_frames"].startswith("2020-06-01T00:10")


def test_a_forecaster_that_fails_midway_leaves_nothing_behind(make_rain, tmp_path):
    class Failing(Persistence):
        def stream(self, context, *, lead_steps, members, seed):
            yield next(super().stream(context, lead_steps=lead_steps, members=members, seed=seed))
            raise RuntimeError("out of memory")

    failing = Failing()
    failing.deterministic = False
    with pytest.raises(RuntimeError, match="out of memory"):
        forecast_to_file(tmp_path / "f.nc", failing, make_rain(6), members=2, lead_steps=2)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_replaced_only_by_a_complete_one(make_rain, tmp_path):
    forecast_to_file(tmp_path / "f.nc", Persistence(), make_rain(6), lead_steps=2)
    before = (tmp_path / "f.nc").read_bytes()
    with pytest.raises(RefusedInput):
        forecast_to_file(tmp_path / "f.nc", Persistence(), make_rain(3), lead_steps=2)
    assert (tmp_path / "f.nc").read_bytes() == before


def test_probability_is_the_fraction_of_members_and_missing_where_none_has_a_value(make_rain):
    one = Persistence().forecast(make_rain(6, missing_rows=3), lead_steps=1)
    ensemble = xr.concat([one * 0 + rate for rate in (0.0, 1.0, 2.0, 3.0)], dim="realization")
    probability = exceedance_probability(ensemble, 1.0)
    assert probability.dims == ("lead_time", "y", "x")
    assert float(probability[0, 0, 0]) == 0.75
    assert np.isnan(probability.values[0, -1]).all()


def test_a_member_without_a_value_is_not_a_member_without_rain(make_rain):
    one = Persistence().forecast(make_rain(6), lead_steps=1)
    ensemble = xr.concat([one * 0 + 5, one * np.nan], dim="realization")
    assert (exceedance_probability(ensemble, 1.0) == 1).all()


def test_licence_and_institution_of_the_radar_are_in_the_product(store, tmp_path):
    from data_prep.schema import open_radar

    forecast_to_file(tmp_path / "f.nc", Persistence(), open_radar(store)[:6], lead_steps=1)
    raw = xr.open_dataset(tmp_path / "f.nc")
    assert raw.attrs["license"] == open_radar(store).attrs["license"] == "LicenseRef-unknown"
    assert "references" not in raw.attrs
    assert read_forecast(tmp_path / "f.nc").attrs["license"] == raw.attrs["license"]


@pytest.mark.parametrize("content", [b"", b"not a file of NetCDF", None])
def test_anything_but_a_forecast_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "f.nc").write_bytes(content)
    with pytest.raises(RefusedInput, match="a forecast is a NetCDF file"):
        read_forecast(tmp_path / "f.nc")


def test_another_netcdf_file_is_refused(tmp_path):
    xr.Dataset({"temperature": ("x", np.arange(3.0))}).to_netcdf(tmp_path / "f.nc")
    with pytest.raises(RefusedInput, match="KeyError"):
        read_forecast(tmp_path / "f.nc")


def test_negative_rates_and_empty_lead_times_are_found(make_rain, tmp_path):
    forecast = Persistence().forecast(make_rain(6), lead_steps=3)
    forecast.values[0, 0, 0, 0], forecast.values[0, 2] = -1, np.nan
    write_forecast(forecast, tmp_path / "f.nc")
    findings = " ".join(validate_forecast(tmp_path / "f.nc"))
    assert "rates outside 0" in findings
    assert "a lead time without any value" in findings
