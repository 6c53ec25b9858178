import tracemalloc
import warnings

import numpy as np
import pytest
import xarray as xr
from verification_models import Noisy

from data_prep.schema import RefusedInput, crs_of
from nowcast.baselines import Extrapolation, Persistence
from nowcast.fields import exceedance_probability, probability_matched_mean
from nowcast.forecast_file import forecast_to_file, read_forecast, validate_forecast, write_forecast
from nowcast.verification import matched_mean


def test_a_forecast_comes_back_from_its_file(make_rain, tmp_path):
    forecast = Extrapolation().forecast(make_rain(6, missing_rows=4), lead_steps=5)
    write_forecast(forecast, tmp_path / "f.nc")
    back = read_forecast(tmp_path / "f.nc")
    np.testing.assert_array_equal(back.values, forecast.values)
    for name in ("lead_time", "time", "forecast_reference_time", "x", "y"):
        np.testing.assert_array_equal(back[name].values, forecast[name].values, err_msg=name)
    for name in ("lat", "lon"):
        np.testing.assert_array_equal(back[name].values, forecast[name].values.astype(np.float32))
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


# Single forecasts of an ensemble


@pytest.fixture
def ensemble(make_rain):
    """Five members that differ, of which the third has no forecast in the first rows."""
    members = Noisy().forecast(make_rain(6, missing_rows=4), lead_steps=3, members=5)
    members.values[2, :, :6] = np.nan
    return members


def test_of_a_file_of_an_ensemble_the_mean_and_the_matched_mean_are_read(ensemble, tmp_path):
    write_forecast(ensemble, tmp_path / "f.nc")
    np.testing.assert_array_equal(read_forecast(tmp_path / "f.nc").values, ensemble.values)
    mean = read_forecast(tmp_path / "f.nc", product="mean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of cells without any member
        np.testing.assert_allclose(mean.values, np.nanmean(ensemble.values, axis=0), rtol=1e-6)
    matched = read_forecast(tmp_path / "f.nc", product="probability_matched_mean")
    for lead in range(3):
        expected = matched_mean.probability_matched_mean(ensemble.values[:, lead])
        np.testing.assert_array_equal(matched.values[lead], expected)
    assert np.isnan(matched.values[:, :6]).all()  # one member has no value there
    assert np.isfinite(mean.values[:, :6]).all()


def test_a_single_forecast_is_labelled_as_the_members_are(ensemble, tmp_path):
    write_forecast(ensemble, tmp_path / "f.nc")
    for product in ("mean", "probability_matched_mean"):
        found = read_forecast(tmp_path / "f.nc", product=product)
        assert found.dims == ("lead_time", "y", "x")
        for name in ("lead_time", "time", "forecast_reference_time", "x", "y"):
            np.testing.assert_array_equal(found[name].values, ensemble[name].values, err_msg=name)
        assert crs_of(found) == crs_of(ensemble)
        assert (found.attrs["model"], found.attrs["units"]) == ("noisy", "mm h-1")


def test_an_ensemble_streamed_into_a_file_is_that_of_one_in_memory(make_rain, tmp_path):
    rain = make_rain(6)
    forecast_to_file(tmp_path / "streamed.nc", Noisy(), rain, lead_steps=2, members=4, seed=3)
    write_forecast(Noisy().forecast(rain, lead_steps=2, members=4, seed=3), tmp_path / "whole.nc")
    streamed, whole = (xr.open_dataset(tmp_path / f"{name}.nc") for name in ("streamed", "whole"))
    xr.testing.assert_equal(streamed, whole)


def test_the_singles_of_one_member_are_that_member(make_rain, tmp_path):
    forecast_to_file(tmp_path / "f.nc", Extrapolation(), make_rain(6), lead_steps=2)
    member = read_forecast(tmp_path / "f.nc").values[0]
    for product in ("mean", "probability_matched_mean"):
        np.testing.assert_array_equal(read_forecast(tmp_path / "f.nc", product=product).values, member)


def test_the_matched_mean_of_an_ensemble_in_memory_is_that_of_its_file(ensemble, tmp_path):
    write_forecast(ensemble, tmp_path / "f.nc")
    matched = probability_matched_mean(ensemble)
    assert matched.dims == ("lead_time", "y", "x")
    stored = read_forecast(tmp_path / "f.nc", product="probability_matched_mean")
    np.testing.assert_array_equal(matched.values, stored.values)
    assert matched.attrs["long_name"] == stored.attrs["long_name"]


def test_a_product_that_there_is_not_is_refused(ensemble, tmp_path):
    write_forecast(ensemble, tmp_path / "f.nc")
    with pytest.raises(RefusedInput, match="a product is one of members, mean, .* came: median"):
        read_forecast(tmp_path / "f.nc", product="median")


def test_memory_is_that_of_one_lead_time_of_all_members_and_of_a_member(make_rain, tmp_path):
    rain, count, leads = make_rain(6, size=128), 16, 24
    field = 4 * 128 * 128
    forecast_to_file(tmp_path / "small.nc", Noisy(), rain[:, :8, :8], lead_steps=2, members=2)  # imports done
    tracemalloc.start()
    forecast_to_file(tmp_path / "f.nc", Noisy(), rain, lead_steps=leads, members=count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Making a member takes a few copies of it, matching one and a half of all members.
    assert peak < 4 * (count + leads) * field < count * leads * field / 2
