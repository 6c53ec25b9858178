import hashlib
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import netCDF4
import numpy as np
import pyproj
import pytest
import xarray as xr
from compliance import cf_findings
from verification_models import Noisy

from data_prep.schema import RefusedInput, crs_of, rain_array
from nowcast.cli import main
from nowcast.fields import exceedance_probability, probability_matched_mean
from nowcast.forecasters.baselines import Extrapolation, Persistence
from nowcast.products.cf import FileForm
from nowcast.products.forecast_file import (
    file_stem,
    forecast_to_file,
    read_forecast,
    validate_forecast,
    write_forecast,
)
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


# What a file says of itself

FORMS = [
    FileForm(),
    FileForm(packing=0.01),
    FileForm(packing=0.03125, standard_name="lwe_precipitation_rate"),
    FileForm(dialect="pysteps"),
    FileForm(dialect="pysteps", packing=0.01),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_compliance_checker_finds_nothing_in_a_forecast_file(make_rain, tmp_path, form):
    forecast_to_file(
        tmp_path / "f.nc", Noisy(), make_rain(6, missing_rows=4), members=3, lead_steps=3, form=form
    )
    assert cf_findings(tmp_path / "f.nc") == []
    assert validate_forecast(tmp_path / "f.nc") == []


def test_the_compliance_checker_finds_a_unit_that_there_is_not(make_rain, tmp_path):
    forecast_to_file(tmp_path / "f.nc", Persistence(), make_rain(6), lead_steps=2)
    spoilt = xr.open_dataset(tmp_path / "f.nc", decode_cf=False).load()
    spoilt["rainfall_rate"].attrs["units"] = "buckets"
    spoilt.to_netcdf(tmp_path / "spoilt.nc")
    assert any("units" in line for line in cf_findings(tmp_path / "spoilt.nc"))


def test_the_status_of_each_input_frame_is_in_the_file(make_rain, tmp_path):
    rain = make_rain(4).assign_coords(input_frame_status=("time", np.array([0, 1, 0, 0], dtype=np.int8)))
    forecast_to_file(tmp_path / "f.nc", Persistence(), rain, lead_steps=2)
    raw = xr.open_dataset(tmp_path / "f.nc")
    assert raw["input_frame_status"].values.tolist() == [0, 1, 0, 0]
    assert raw["input_frame_status"].attrs["flag_meanings"] == "observed interpolated missing"
    assert (raw["input_time"].values == rain["time"].values).all()
    assert raw.attrs["nowcast__input_frames"].split(", ")[:2] == [
        "2020-06-01T00:00 observed",
        "2020-06-01T00:05 interpolated",
    ]
    assert read_forecast(tmp_path / "f.nc").attrs["input_frames"] == raw.attrs["nowcast__input_frames"]
    write_forecast(read_forecast(tmp_path / "f.nc"), tmp_path / "again.nc")
    assert xr.open_dataset(tmp_path / "again.nc")["input_frame_status"].values.tolist() == [0, 1, 0, 0]


def test_a_file_says_what_its_caller_knows(make_rain, tmp_path):
    told = {"title": "Rain of De Bilt", "license": "CC-BY-4.0", "config_hash": "abc", "run_id": "r1"}
    forecast_to_file(tmp_path / "f.nc", Persistence(), make_rain(6), lead_steps=2, seed=7, attributes=told)
    raw = xr.open_dataset(tmp_path / "f.nc").attrs
    assert (raw["title"], raw["license"]) == ("Rain of De Bilt", "CC-BY-4.0")
    assert (raw["nowcast__config_hash"], raw["nowcast__run_id"]) == ("abc", "r1")
    assert (raw["nowcast__seed"], raw["nowcast__members"], raw["nowcast__model"]) == ("7", "1", "persistence")
    assert read_forecast(tmp_path / "f.nc").attrs["run_id"] == "r1"


def test_the_checkpoint_is_part_of_the_source(make_rain, tmp_path):
    forecast = Persistence().forecast(make_rain(6), lead_steps=2).assign_attrs(checkpoint="f00")
    write_forecast(forecast, tmp_path / "f.nc")
    assert xr.open_dataset(tmp_path / "f.nc").attrs["source"].endswith(", persistence, checkpoint sha256 f00")


def test_nothing_in_a_file_depends_on_the_present_time(make_rain, tmp_path):
    forecast_to_file(tmp_path / "f.nc", Persistence(), make_rain(6), lead_steps=2)
    raw = xr.open_dataset(tmp_path / "f.nc").attrs
    assert raw["date_created"] == "2020-06-01T00:25:00Z"
    assert raw["history"].startswith("2020-06-01T00:25:00Z ")
    assert "date_created and history carry the forecast reference time" in raw["comment"]
    assert (raw["time_coverage_start"], raw["time_coverage_end"]) == (
        "2020-06-01T00:30:00Z",
        "2020-06-01T00:35:00Z",
    )


WRITE = """
import sys
import xarray as xr
from nowcast.products.cf import FileForm
from nowcast.cli import main
from nowcast.products.forecast_file import read_forecast, write_forecast
write_forecast(read_forecast(sys.argv[1]), sys.argv[2], form=FileForm(packing=0.01))
"""


def test_a_later_process_writes_the_same_bytes(make_rain, tmp_path):
    forecast_to_file(tmp_path / "f.nc", Noisy(), make_rain(6, missing_rows=4), members=3, lead_steps=3)
    write_forecast(read_forecast(tmp_path / "f.nc"), tmp_path / "here.nc", form=FileForm(packing=0.01))
    there = tmp_path / "there.nc"
    subprocess.run(
        [sys.executable, "-c", WRITE, tmp_path / "f.nc", there], check=True, cwd=Path(__file__).parents[3]
    )
    assert digest(there) == digest(tmp_path / "here.nc")
    forecast_to_file(tmp_path / "g.nc", Noisy(), make_rain(6, missing_rows=4), members=3, lead_steps=3)
    assert digest(tmp_path / "g.nc") == digest(tmp_path / "f.nc")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_are_named_by_model_domain_and_reference_time():
    time = np.datetime64("2010-08-26T05:00:00", "ns")
    assert file_stem("pretrained", "knmi", time) == "pretrained_knmi_20100826T0500Z"
    assert file_stem("my_model v2.ckpt", "a/b", time) == "my-model-v2.ckpt_a-b_20100826T0500Z"


# Forms of a file


@pytest.mark.parametrize("scale", [0.01, 0.03125])
def test_packed_rates_are_right_to_half_a_step_and_missing_stays_missing(ensemble, tmp_path, scale):
    write_forecast(ensemble, tmp_path / "f.nc", form=FileForm(packing=scale))
    raw = xr.open_dataset(tmp_path / "f.nc", mask_and_scale=False)["rainfall_rate"]
    assert raw.dtype == np.int16
    back = read_forecast(tmp_path / "f.nc")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back.values, ensemble.values, atol=scale / 2 * 1.001)
    assert (np.isnan(back.values) == np.isnan(ensemble.values)).all()
    assert ((back.values == 0) == (ensemble.values < scale / 2))[np.isfinite(ensemble.values)].all()


def test_rates_beyond_the_range_of_packing_are_written_as_its_largest_and_the_file_says_so(
    make_rain, tmp_path
):
    forecast = Persistence().forecast(make_rain(6), lead_steps=1)
    forecast.values[0, 0, 3, 3] = 500
    write_forecast(forecast, tmp_path / "f.nc", form=FileForm(packing=0.01))
    back = read_forecast(tmp_path / "f.nc")
    assert float(back[0, 0, 3, 3]) == pytest.approx(327.67)
    assert xr.open_dataset(tmp_path / "f.nc")["rainfall_rate"].attrs["comment"] == (
        "Values above 327.67 are written as that."
    )


def test_the_rate_may_be_of_all_precipitation_and_is_read_by_either_name(ensemble, tmp_path):
    write_forecast(ensemble, tmp_path / "f.nc", form=FileForm(standard_name="lwe_precipitation_rate"))
    raw = xr.open_dataset(tmp_path / "f.nc")
    assert "rainfall_rate" not in raw
    assert raw["lwe_precipitation_rate"].attrs["standard_name"] == "lwe_precipitation_rate"
    back = read_forecast(tmp_path / "f.nc")
    np.testing.assert_array_equal(back.values, ensemble.values)
    assert (back.name, back.attrs["standard_name"]) == ("rainfall_rate", "lwe_precipitation_rate")


@pytest.mark.parametrize(
    "wrong", [{"packing": 0.02}, {"standard_name": "snow"}, {"dialect": "grib"}], ids=lambda w: next(iter(w))
)
def test_a_form_that_there_is_not_is_refused(wrong):
    with pytest.raises(RefusedInput, match=f"{next(iter(wrong))} is one of"):
        FileForm(**wrong)


@pytest.mark.parametrize("packing", [None, 0.01])
def test_a_forecast_as_zarr_is_that_of_the_netcdf_file_in_few_files(make_rain, tmp_path, packing):
    how = {"members": 3, "lead_steps": 4, "form": FileForm(packing=packing)}
    forecast_to_file(tmp_path / "f.nc", Noisy(), make_rain(6, missing_rows=4), **how)
    forecast_to_file(tmp_path / "f.zarr", Noisy(), make_rain(6, missing_rows=4), **how)
    netcdf, stored = xr.open_dataset(tmp_path / "f.nc"), xr.open_zarr(tmp_path / "f.zarr", chunks=None)
    xr.testing.assert_allclose(netcdf, stored.astype(netcdf.dtypes), rtol=0, atol=0)
    assert netcdf.attrs == stored.attrs
    assert (tmp_path / "f.zarr/zarr.json").read_text().count('"consolidated_metadata"') == 1
    assert sum(path.is_file() for path in (tmp_path / "f.zarr/rainfall_rate").rglob("*")) == 1 + 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    ours = read_forecast(tmp_path / "f.zarr")
    np.testing.assert_allclose(ours.values, read_forecast(tmp_path / "f.nc").values, rtol=1e-6)
    assert ours.attrs == read_forecast(tmp_path / "f.nc").attrs
    assert validate_forecast(tmp_path / "f.zarr") == []


def test_zarr_is_the_same_bytes_a_second_time_and_replaces_what_was_there(make_rain, tmp_path):
    digests = []
    for _ in range(2):
        forecast_to_file(tmp_path / "f.zarr", Noisy(), make_rain(6, missing_rows=4), members=3, lead_steps=4)
        files = sorted(path for path in (tmp_path / "f.zarr").rglob("*") if path.is_file())
        digests.append([(path.relative_to(tmp_path), digest(path)) for path in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
def test_the_command_writes_any_form_and_check_finds_it_good(store, tmp_path, capsys, name):
    words = ["--model", "extrapolation", "--time", "2020-06-01T01:00", "--lead_steps", "2"]
    how = ["--packing", "0.01", "--standard_name", "lwe_precipitation_rate"]
    output = str(tmp_path / name)
    assert main(["forecast", "--source", str(store), "--output", output, *words, *how]) == 0
    assert main(["check", output]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{output}: good"
    assert read_forecast(output).attrs["standard_name"] == "lwe_precipitation_rate"


# pysteps

POLAR = pyproj.CRS.from_proj4(
    "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=0 +x_0=10000 +y_0=0 +datum=WGS84 +units=m"
)


def polar_rain(*, upside_down: bool):
    values = np.zeros((4, 6, 5), dtype=np.float32)
    values[:, 1, 2], values[:, 4, 0] = 3.5, np.nan
    y = -4_000_000 - 1000.0 * np.arange(6)
    time = np.datetime64("2020-06-01T00:00", "ns") + np.arange(4) * np.timedelta64(5, "m")
    rain = rain_array(values, time=time, x=200_000 + 2000.0 * np.arange(5), y=y, crs=POLAR)
    return rain.isel(y=slice(None, None, -1)) if upside_down else rain


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("upside_down", [False, True])
def test_pysteps_loads_its_dialect_with_all_metadata(tmp_path, members, upside_down):
    importers = pytest.importorskip("pysteps.io.nowcast_importers", reason="pysteps is not installed")
    one = Persistence().forecast(polar_rain(upside_down=upside_down), lead_steps=3)
    forecast = xr.concat([one.isel(realization=0)] * members, dim="realization").transpose(*one.dims)
    forecast = forecast.assign_coords(realization=np.arange(members))
    write_forecast(forecast, tmp_path / "f.nc", form=FileForm(dialect="pysteps"))
    rates, metadata = importers.import_netcdf_pysteps(str(tmp_path / "f.nc"), onerror="raise")
    assert rates.shape == (members, 3, 6, 5)[members == 1 :]
    first = rates.reshape(-1, 6, 5)[0]
    assert first[1, 2] == np.float32(3.5)
    assert np.isnan(first[4, 0])
    assert np.isfinite(first).sum() == 29
    assert metadata["projection"] == "+proj=stere +lon_0=0.0 +lat_0=90.0 +lat_ts=60.0 +x_0=10000.0 +y_0=0.0"
    assert (metadata["xpixelsize"], metadata["ypixelsize"]) == (2000, 1000)
    assert (metadata["x1"], metadata["x2"], metadata["y1"], metadata["y2"]) == (
        199_000, 209_000, -4_005_500, -3_999_500,
    )  # fmt: skip
    assert metadata["yorigin"] == "upper"
    assert (metadata["unit"], metadata["accutime"], metadata["transform"]) == ("mm/h", 5, None)
    assert (metadata["zerovalue"], metadata["threshold"]) == (0, np.float32(3.5))
    assert list(metadata["leadtimes"]) == [5, 10, 15]
    assert [str(time) for time in metadata["timestamps"]] == [f"2020-06-01 00:{m}:00" for m in (20, 25, 30)]


def test_our_own_reader_reads_the_dialect_of_pysteps(tmp_path):
    forecast = Persistence().forecast(polar_rain(upside_down=False), lead_steps=3)
    write_forecast(forecast, tmp_path / "f.nc", form=FileForm(dialect="pysteps"))
    back = read_forecast(tmp_path / "f.nc")
    xr.testing.assert_equal(back.drop_vars(["lat", "lon"]), forecast.drop_vars(["lat", "lon"]))
    assert crs_of(back) == POLAR
    assert validate_forecast(tmp_path / "f.nc") == []


# Interruption and validation


def test_a_caller_may_stop_a_forecast_between_members_and_nothing_is_left(make_rain, tmp_path):
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 2:
            raise TimeoutError("deadline")

    for name in ("f.nc", "f.zarr"):
        calls.clear()
        with pytest.raises(TimeoutError):
            forecast_to_file(tmp_path / name, Noisy(), make_rain(6), members=4, lead_steps=2, between=stop)
    assert list(tmp_path.iterdir()) == []


def spoil(file, fault):
    if fault == "status":
        file["input_frame_status"][:] = 5
    elif fault == "input_time":
        file["input_time"][:] = file["input_time"][:] - 60
    elif fault == "no_inputs":
        file.renameVariable("input_frame_status", "status")
    elif fault == "lat":
        file["lat"][:] = file["lat"][:] + 0.01
    elif fault == "seed":
        file.delncattr("nowcast__seed")
    elif fault == "standard_name":
        file["rainfall_rate"].standard_name = "rainfall_flux"
    elif fault == "lead_time":
        for name in ("forecast_period", "time"):
            file[name][:] = file[name][::-1]
    elif fault == "realization":
        file["realization"][:] = 0


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("status", "input_frame_status is"),
        ("input_time", "not of the forecast_reference_time"),
        ("no_inputs", "input_time and input_frame_status"),
        ("lat", "lat differs from what the CRS says by 0.01 degrees"),
        ("seed", "attribute nowcast__seed is absent"),
        ("standard_name", "standard_name is 'rainfall_flux'"),
        ("lead_time", "not positive and in increasing order"),
        ("realization", "members have one number twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_found(make_rain, tmp_path, fault, finding):
    forecast_to_file(tmp_path / "f.nc", Noisy(), make_rain(6), members=2, lead_steps=2)
    with netCDF4.Dataset(tmp_path / "f.nc", "a") as file:
        spoil(file, fault)
    findings = validate_forecast(tmp_path / "f.nc")
    assert len(findings) == 1
    assert finding in findings[0]
