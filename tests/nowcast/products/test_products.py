import csv
import hashlib
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from compliance import cf_findings
from PIL import ExifTags, Image
from verification_models import Noisy

from data_prep.pipeline import read_latest
from data_prep.schema import RefusedInput, crs_of
from nowcast.cli import main
from nowcast.fields import Members
from nowcast.forecasters.baselines import Extrapolation
from nowcast.options import read_recipe
from nowcast.products.cf import FileForm
from nowcast.products.forecast_file import file_stem, forecast_to_file, read_forecast, write_forecast
from nowcast.products.write import KINDS, Products, write_products
from nowcast.training.packed import PIPELINES

FILES = Products(picture=False, loop=None)
"""The NetCDF files, and nothing else."""
SHORT = Products(picture=False, loop=None, accumulation_minutes=(10, 30))


@pytest.fixture(scope="module")
def forecast(make_rain, tmp_path_factory):
    """Five members, six lead times; the third has no value in some rows, no member in others."""
    path = tmp_path_factory.mktemp("forecast") / "f.nc"
    members = Noisy().forecast(make_rain(6, missing_rows=4), lead_steps=6, members=5, seed=2)
    members.values[2, :, :6] = np.nan
    members.attrs["license"] = "CC-BY-4.0"
    write_forecast(members, path)
    return path


@pytest.fixture(scope="module")
def made(forecast, tmp_path_factory):
    folder = tmp_path_factory.mktemp("products")
    return {file.role: file.path for file in write_products(forecast, folder, SHORT, stem="f")}


def description_of(picture):
    return picture.info.get("Description") or picture.getexif()[ExifTags.Base.ImageDescription]


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_product_has_a_file_of_its_own(made):
    assert {role: path.name for role, path in made.items()} == {kind: f"f_{kind}.nc" for kind in KINDS}
    assert sorted(path.name for path in made["mean"].parent.iterdir()) == sorted(
        f"f_{kind}.nc" for kind in KINDS
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [FileForm(), FileForm(packing=0.01)], ids=["plain", "packed"])
def test_the_compliance_checker_finds_nothing_in_a_product(forecast, tmp_path, kind, form):
    products = Products(kinds=(kind,), picture=False, loop=None, accumulation_minutes=(10,))
    (file,) = write_products(forecast, tmp_path, products, stem="f", form=form)
    assert cf_findings(file.path) == []


def test_the_compliance_checker_finds_nothing_in_products_of_all_precipitation(make_rain, tmp_path):
    form = FileForm(standard_name="lwe_precipitation_rate", packing=0.01)
    forecast_to_file(tmp_path / "f.nc", Noisy(), make_rain(6), lead_steps=3, members=3, form=form)
    products = Products(picture=False, loop=None, accumulation_minutes=(15,))
    files = write_products(tmp_path / "f.nc", tmp_path, products, stem="f")
    assert [line for file in files for line in cf_findings(file.path)] == []
    amount = xr.open_dataset(tmp_path / "f_accumulation.nc")["lwe_thickness_of_precipitation_amount_mean"]
    assert amount.attrs["standard_name"] == "lwe_thickness_of_precipitation_amount"
    assert amount.attrs["units"] == "mm"
    assert amount.encoding["dtype"] == np.int16  # packed as the forecast is


def test_all_products_are_those_of_the_members_at_each_lead_time(forecast, made):
    ensemble = read_forecast(forecast)
    mean, percentiles, probability = (
        xr.open_dataset(made[kind]) for kind in ("mean", "percentiles", "probability")
    )
    assert percentiles["percentile"].values.tolist() == [10, 25, 50, 75, 90]
    assert probability.sel(threshold=0.1)["threshold"] == 0.1  # which a float32 would not be
    assert probability["threshold"].values.tolist() == [0.1, 1, 5]
    for lead in range(6):
        members = Members(ensemble[:, lead].values)
        np.testing.assert_array_equal(mean["rainfall_rate_mean"][lead], members.mean())
        matched = mean["rainfall_rate_probability_matched_mean"][lead]
        np.testing.assert_array_equal(matched, members.probability_matched_mean())
        for number, level in enumerate((10, 25, 50, 75, 90)):
            stored = percentiles["rainfall_rate_percentiles"][number, lead]
            np.testing.assert_array_equal(stored, members.percentile(level))
        for number, threshold in enumerate((0.1, 1, 5)):
            stored = probability["probability_of_rainfall_rate_above_threshold"][number, lead]
            np.testing.assert_array_equal(stored, members.probability(threshold).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_products_have_the_grid_the_times_and_the_provenance_of_the_forecast(forecast, made, kind):
    members, product = xr.open_dataset(forecast), xr.open_dataset(made[kind])
    for name in ("y", "x", "lat", "lon", "forecast_reference_time", "input_time", "input_frame_status"):
        xr.testing.assert_identical(product[name].variable, members[name].variable)
    assert crs_of(product.set_coords("crs")) == crs_of(members.set_coords("crs"))
    assert product.attrs.pop("title").startswith(members.attrs.pop("title") + ": ")
    assert product.attrs == members.attrs
    assert product.attrs["nowcast__members"] == "5"
    if kind in ("mean", "percentiles", "probability"):
        assert (product["time"].values == members["time"].values).all()
        assert (product["forecast_period"].values == members["forecast_period"].values).all()


def test_a_threshold_says_that_it_is_reached_or_exceeded(made):
    threshold = xr.open_dataset(made["probability"])["threshold"]
    assert threshold.attrs["standard_name"] == "rainfall_rate"
    assert threshold.attrs["spp__relative_to_threshold"] == "greater_than_or_equal_to"


def test_an_accumulation_is_the_sum_of_the_rates_times_their_steps_from_the_reference_time_on(forecast, made):
    ensemble, product = read_forecast(forecast).values, xr.open_dataset(made["accumulation"])
    reference = product["forecast_reference_time"].values
    assert product["time_bnds"].dims == ("time", "bnds")
    for place, leads in enumerate((2, 6)):
        end = reference + np.timedelta64(5 * leads, "m")
        assert product["time"].values[place] == end
        assert product["time_bnds"].values[place].tolist() == [reference.astype(int), end.astype(int)]
        amounts = ensemble[:, :leads].sum(axis=1) * (5 / 60)  # mm/h for 5 minutes
        present = np.isfinite(amounts).any(axis=0)
        mean = product["rainfall_amount_mean"][place].values
        np.testing.assert_allclose(mean[present], np.nanmean(amounts[:, present], axis=0), rtol=1e-5)
        assert np.isnan(mean[~present]).all()
        half = product["rainfall_amount_percentiles"].sel(percentile=50)[place].values
        np.testing.assert_allclose(half[present], np.nanmedian(amounts[:, present], axis=0), rtol=1e-5)
        reached = product["probability_of_rainfall_amount_above_threshold"].sel(threshold=1)[place].values
        expected = Members(amounts.astype(np.float32)).probability(1)
        np.testing.assert_allclose(reached, expected, atol=0.21)  # a member may lie on the threshold
        assert np.mean(np.abs(reached[present] - expected[present])) < 0.001
    assert product["rainfall_amount_mean"].attrs["standard_name"] == "rainfall_amount"
    assert product["rainfall_amount_mean"].attrs["units"] == "kg m-2"
    assert product["rainfall_amount_mean"].attrs["cell_methods"] == "time: sum"


def test_steady_rain_of_6_mm_per_hour_is_3_mm_in_half_an_hour(make_rain, tmp_path):
    forecast = Extrapolation().forecast(make_rain(6), lead_steps=6)
    forecast.values[:] = 6
    write_forecast(forecast, tmp_path / "f.nc")
    write_products(tmp_path / "f.nc", tmp_path, SHORT, stem="f")
    product = xr.open_dataset(tmp_path / "f_accumulation.nc")
    np.testing.assert_allclose(product["rainfall_amount_mean"][1], 3, rtol=1e-6)
    np.testing.assert_allclose(product["rainfall_amount_mean"][0], 1, rtol=1e-6)


def test_an_amount_is_missing_where_a_rate_before_its_end_is(make_rain, tmp_path):
    forecast = Extrapolation().forecast(make_rain(6), lead_steps=6)
    forecast.values[:] = 6
    forecast.values[:, 3, 0, 0] = np.nan
    write_forecast(forecast, tmp_path / "f.nc")
    write_products(tmp_path / "f.nc", tmp_path, SHORT, stem="f")
    amounts = xr.open_dataset(tmp_path / "f_accumulation.nc")["rainfall_amount_mean"]
    assert np.isfinite(amounts[0, 0, 0])
    assert np.isnan(amounts[1, 0, 0])


def test_accumulations_beyond_the_forecast_are_left_out_and_the_log_says_so(forecast, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_products(forecast, tmp_path, FILES, stem="f")
    assert "no accumulation over 60 min, 90 min: the forecast has no such lead time" in caplog.text
    product = xr.open_dataset(tmp_path / "f_accumulation.nc")
    assert (product["forecast_period"].values / 60).tolist() == [15, 30]


def test_a_forecast_too_short_for_any_accumulation_has_no_file_of_them(make_rain, tmp_path):
    forecast_to_file(tmp_path / "f.nc", Noisy(), make_rain(6), lead_steps=1, members=2)
    roles = [file.role for file in write_products(tmp_path / "f.nc", tmp_path, FILES, stem="f")]
    assert roles == ["mean", "percentiles", "probability", "rain_start"]


def test_the_start_of_the_rain_is_in_minutes_with_a_status(forecast, made):
    ensemble, product = read_forecast(forecast).values, xr.open_dataset(made["rain_start"])
    present = np.isfinite(ensemble).any(axis=0)
    likely = (ensemble >= 0.1).sum(axis=0) / np.maximum(np.isfinite(ensemble).sum(axis=0), 1) >= 0.5
    first = np.where((likely & present).any(axis=0), 5.0 * (1 + likely.argmax(axis=0)), np.nan)
    np.testing.assert_array_equal(product["rain_start"], first)
    status = product["rain_start_status"]
    assert status.attrs["flag_meanings"].split()[:4] == [
        "no_data", "no_rain_expected", "raining_now", "rain_later",
    ]  # fmt: skip
    assert (status.values[~present.any(axis=0)] == 0).all()
    assert ((status.values == 2) == (first == 5)).all()
    assert product["rain_start"].attrs["units"] == "min"


def test_a_forecast_of_one_member_has_all_products_but_percentiles(make_rain, tmp_path, caplog):
    forecast_to_file(tmp_path / "f.nc", Extrapolation(), make_rain(6, missing_rows=3), lead_steps=6)
    with caplog.at_level(logging.INFO):
        files = write_products(tmp_path / "f.nc", tmp_path, SHORT, stem="f")
    assert [file.role for file in files] == ["mean", "probability", "accumulation", "rain_start"]
    assert "no percentiles of f: it has one member" in caplog.text
    mean = xr.open_dataset(tmp_path / "f_mean.nc")
    np.testing.assert_array_equal(mean["rainfall_rate_mean"], read_forecast(tmp_path / "f.nc")[0])
    assert mean.attrs["nowcast__members"] == "1"
    assert "rainfall_rate_probability_matched_mean" not in mean
    assert "rainfall_amount_percentiles" not in xr.open_dataset(tmp_path / "f_accumulation.nc")
    probability = xr.open_dataset(tmp_path / "f_probability.nc")[
        "probability_of_rainfall_rate_above_threshold"
    ]
    assert set(np.unique(probability.values[np.isfinite(probability.values)])) == {0, 1}
    assert [line for file in files for line in cf_findings(file.path)] == []


def test_packed_products_are_right_to_half_a_step(forecast, made, tmp_path):
    write_products(forecast, tmp_path, SHORT, stem="f", form=FileForm(packing=0.01))
    for kind, names in (("mean", ["rainfall_rate_mean"]), ("accumulation", ["rainfall_amount_mean"])):
        packed, plain = xr.open_dataset(tmp_path / f"f_{kind}.nc"), xr.open_dataset(made[kind])
        for name in names:
            assert packed[name].encoding["dtype"] == np.int16
            np.testing.assert_allclose(packed[name], plain[name], atol=0.00501)


def test_products_as_zarr_are_those_of_netcdf_and_the_same_bytes_a_second_time(forecast, tmp_path):
    products = Products(picture=False, loop=None, accumulation_minutes=(10,), formats=("netcdf", "zarr"))
    folders = [tmp_path / name for name in ("first", "second")]
    for folder, codecs in zip(folders, PIPELINES.values(), strict=True):
        with zarr.config.set({"codec_pipeline.path": codecs}):  # whatever is set in the process
            write_products(forecast, folder, products, stem="f")
    for kind in KINDS:
        netcdf = xr.open_dataset(folders[0] / f"f_{kind}.nc")
        xr.testing.assert_equal(netcdf, xr.open_zarr(folders[0] / f"f_{kind}.zarr", chunks=None).load())
    assert digests(folders[0]) == digests(folders[1])
    only = write_products(forecast, tmp_path / "third", Products(
        kinds=("mean",), picture=False, loop=None, formats=("zarr",)), stem="f")  # fmt: skip
    assert [path.name for path in (tmp_path / "third").iterdir()] == [only[0].path.name] == ["f_mean.zarr"]


def test_pictures_show_the_box_that_has_data(make_rain, tmp_path):
    rain = make_rain(6, size=96)
    rain.values[:, :, 50:] = np.nan
    forecast_to_file(tmp_path / "f.nc", Noisy(), rain, lead_steps=3, members=3)
    files = write_products(tmp_path / "f.nc", tmp_path, Products(kinds=()), stem="f")
    assert [(file.role, file.path.name) for file in files] == [("map", "f_map.png"), ("loop", "f_loop.webp")]
    loop = Image.open(tmp_path / "f_loop.webp")
    assert loop.n_frames == 3
    width, height = loop.size
    assert height > 1.2 * width  # 60 of 96 columns
    for name in ("f_map.png", "f_loop.webp"):
        assert '"nowcast__seed": "0"' in description_of(Image.open(tmp_path / name))
    first = {file.path.name: file.path.read_bytes() for file in files}
    for file in write_products(tmp_path / "f.nc", tmp_path, Products(kinds=()), stem="f"):
        assert first[file.path.name] == file.path.read_bytes()


def test_who_stops_the_work_leaves_no_file(forecast, tmp_path):
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 9:  # in the midst of the other formats
            raise TimeoutError("deadline")

    with pytest.raises(TimeoutError):
        write_products(forecast, tmp_path, Products(formats=("zarr",)), stem="f", between=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"kinds": ("mean", "median")}, "kinds: any of mean"),
        ({"kinds": ("mean", "mean")}, "kinds: any of mean"),
        ({"thresholds": (0.0, 1.0)}, "thresholds: one number or more above 0"),
        ({"thresholds": ()}, "thresholds: .* came: none"),
        ({"thresholds": (1.0, float("nan"))}, "thresholds"),
        ({"percentiles": (50, 101)}, "percentiles: one number or more from 0 to 100"),
        ({"percentiles": (90, 10)}, "each larger than the one before; came: 90, 10"),
        ({"accumulation_minutes": (0, 30)}, "accumulation_minutes"),
        ({"accumulation_thresholds": (-1.0,)}, "accumulation_thresholds"),
        ({"rain_start_threshold": 0.0}, "rain_start_threshold"),
        ({"rain_start_probability": 1.5}, "rain_start_probability: one number or more above 0 to 1"),
        ({"formats": ("grib",)}, "formats: any of netcdf, zarr"),
        ({"formats": ()}, "formats are one or more"),
        ({"loop": "mp4"}, "loop: any of webp, gif"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, rule):
    with pytest.raises(RefusedInput, match=rule):
        Products(**wrong)


def test_another_file_is_refused_and_no_folder_is_made(tmp_path):
    (tmp_path / "f.nc").write_bytes(b"no NetCDF")
    with pytest.raises(RefusedInput, match="a forecast is"):
        write_products(tmp_path / "f.nc", tmp_path / "out", FILES, stem="f")
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_lead_times(make_rain, tmp_path):
    peaks = []
    for leads in (6, 24):
        forecast_to_file(tmp_path / "f.nc", Noisy(), make_rain(6, size=128), lead_steps=leads, members=8)
        write_products(tmp_path / "f.nc", tmp_path, SHORT, stem="warm")
        tracemalloc.start()
        write_products(tmp_path / "f.nc", tmp_path, SHORT, stem="f")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 8 * 8 * 4 * 128 * 128  # eight times the members at one lead time


def test_the_command_writes_products_by_options_and_by_a_configuration(forecast, tmp_path, capsys):
    words = ["products", str(forecast), "--output", str(tmp_path / "a"), "--kinds", "[mean,probability]",
             "--thresholds", "[0.5,2]", "--picture", "false", "--loop", "null"]  # fmt: skip
    assert main(words) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "a" / f"f_{k}.nc") for k in ("mean", "probability")
    ]
    assert xr.open_dataset(tmp_path / "a/f_probability.nc")["threshold"].values.tolist() == [0.5, 2]
    (tmp_path / "p.yaml").write_text("kinds: [mean]\npicture: false\nloop: null\n")
    config = ["--config", str(tmp_path / "p.yaml")]
    assert main(["products", str(forecast), "--output", str(tmp_path / "b"), *config]) == 0
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["f_mean.nc"]
    assert main([*words, "--percentiles", "[120]"]) == 1
    assert "percentiles: one number or more from 0 to 100" in capsys.readouterr().err


@pytest.mark.radar
def test_products_of_real_radar_are_clean_and_find_a_town(radar_data, tmp_path):
    time = np.datetime64("2010-08-26T05:00", "ns")
    recipe = read_recipe(str(Path(__file__).parents[3] / "configs/prep/knmi.yaml"))
    context = read_latest(radar_data / "knmi", recipe, frames=4, time=time)
    stem = file_stem("extrapolation", "knmi", time)
    forecast_to_file(tmp_path / f"{stem}.nc", Extrapolation(), context, lead_steps=3)
    (tmp_path / "towns.csv").write_text("name,lat,lon\nDe Bilt,52.10,5.18\nLuxembourg,49.61,6.13\n")
    products = Products(loop=None, accumulation_minutes=(15,), points=str(tmp_path / "towns.csv"))
    made = write_products(tmp_path / f"{stem}.nc", tmp_path, products, stem=stem)
    assert stem == "extrapolation_knmi_20100826T0500Z"
    for path in [tmp_path / f"{stem}.nc", *(file.path for file in made if file.path.suffix == ".nc")]:
        assert cf_findings(path) == []
    with (tmp_path / f"{stem}_points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["no coverage"] * 3
    assert float(rows[0]["mean"]) > 0.1  # it rained in De Bilt that morning
    width, _ = Image.open(tmp_path / f"{stem}_map.png").size
    assert width < 1200  # a strip of three boxes, not of the grid
    assert "2010-08-26T04:45 observed" in description_of(Image.open(tmp_path / f"{stem}_map.png"))
