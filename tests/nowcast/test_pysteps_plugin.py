import subprocess
import sys
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pyproj
import pytest

from data_prep.pipeline import Recipe, prepare
from data_prep.readers.pysteps_bridge import to_frame
from data_prep.schema import RefusedInput, crs_of, open_radar
from nowcast import pysteps_plugin
from nowcast.forecasters.load import load_forecaster
from nowcast.products.forecast_file import write_forecast
from nowcast.pysteps_plugin import forecast, import_nowcast_forecast, import_nowcast_zarr, register

NEEDS_PYSTEPS = "needs the extra 'baselines'"
FRAMES = "RAD_NL25_RAP_5min_20100826"
GRID = {"kmperpixel": 1.0, "timestep": 5.0}
DECIBEL = {"unit": "mm/h", "transform": "dB", "threshold": -10.0, "zerovalue": -15.0}


def decibel(rates: np.ndarray) -> np.ndarray:
    return np.where(rates < 0.1, -15.0, 10 * np.log10(np.maximum(rates, 0.1)))


@pytest.fixture(scope="module")
def rain(make_rain):
    """Four frames of a moving blob of 0.1 mm/h and more, without data in the last rows."""
    blob = make_rain(4, missing_rows=5)
    return blob.where(blob.isnull() | (blob >= 0.1), 0)


@pytest.fixture(scope="module")
def forecast_file(rain, tmp_path_factory) -> Path:
    """Two members at three lead times."""
    path = tmp_path_factory.mktemp("forecast") / "forecast.nc"
    ensemble = load_forecaster("extrapolation-ensemble").forecast(rain, lead_steps=3, members=2)
    write_forecast(ensemble, path)
    return path


def test_pysteps_finds_the_importers_when_it_is_imported_and_torch_is_not():
    pytest.importorskip("pysteps", reason=NEEDS_PYSTEPS)
    code = (
        "import sys, pysteps\n"
        "for name in ('nowcast_zarr', 'nowcast_forecast'):\n"
        "    assert pysteps.io.get_method(name, 'importer').__module__ == 'nowcast.pysteps_plugin'\n"
        "    assert hasattr(pysteps.io.importers, f'import_{name}')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_entry_points_lead_to_importers_and_method():
    found = {entry.name: entry.load() for entry in entry_points(group="pysteps.plugins.importer")}
    assert found["nowcast_zarr"] is import_nowcast_zarr
    assert found["nowcast_forecast"] is import_nowcast_forecast
    (method,) = entry_points(group="pysteps.plugins.nowcasts", name="nowcast")
    assert method.load() is forecast


def test_a_registered_method_is_found_by_its_name_and_no_method_of_pysteps_is_displaced(monkeypatch):
    interface = pytest.importorskip("pysteps.nowcasts.interface", reason=NEEDS_PYSTEPS)
    monkeypatch.setattr(interface, "_nowcast_methods", dict(interface._nowcast_methods))
    for _ in range(2):
        register()
    assert interface.get_method("nowcast") is forecast
    register("DGMR")
    assert interface.get_method("dgmr") is forecast
    steps = interface.get_method("steps")
    with pytest.raises(RefusedInput, match="steps, which is taken"):
        register("steps")
    assert interface.get_method("steps") is steps


def test_an_imported_frame_is_that_of_the_archive_by_its_time(store):
    rain = open_radar(store)
    for time in (datetime(2020, 6, 1, 0, 40), np.datetime64("2020-06-01T00:40"), "2020-06-01T00:40"):
        precip, quality, metadata = import_nowcast_zarr(store, time=time)
        np.testing.assert_array_equal(precip, rain.sel(time="2020-06-01T00:40").values.astype(np.float32))
        assert quality is None
        assert list(metadata["timestamps"]) == [datetime(2020, 6, 1, 0, 40)]
    newest, _, metadata = import_nowcast_zarr(str(store))
    np.testing.assert_array_equal(newest, rain[-1].values.astype(np.float32))
    named, _, _ = import_nowcast_zarr(f"{store}@2020-06-01T00:40")
    np.testing.assert_array_equal(named, precip)
    assert metadata["threshold"] == pytest.approx(newest[newest > 0].min())


def test_the_metadata_say_all_that_pysteps_asks_for(store):
    _, _, metadata = import_nowcast_zarr(store)
    said = {
        key: metadata[key] for key in ("unit", "transform", "zerovalue", "accutime", "timestep", "yorigin")
    }
    assert said == {"unit": "mm/h", "transform": None, "zerovalue": 0.0, "accutime": 5.0, "timestep": 5.0,
                    "yorigin": "upper"}  # fmt: skip
    # 64 cells of 1 km, the first centre 32 km west of the middle of the projection.
    edges = {key: metadata[key] for key in ("x1", "x2", "y1", "y2", "xpixelsize", "ypixelsize")}
    assert edges == {"x1": -32_500, "x2": 31_500, "y1": -32_500, "y2": 31_500, "xpixelsize": 1000,
                     "ypixelsize": 1000}  # fmt: skip
    assert metadata["cartesian_unit"] == "m"
    assert pyproj.CRS.from_user_input(metadata["projection"]).equals(crs_of(open_radar(store)))
    assert isinstance(metadata["institution"], str)
    assert metadata["threshold"] > 0


def test_what_is_imported_comes_back_as_the_same_frame_through_the_reader_for_pysteps(store):
    rain = open_radar(store)[40]
    imported = import_nowcast_zarr(store, time=rain["time"].values)
    frame = to_frame(imported, time=rain["time"].values, path=store)
    np.testing.assert_array_equal(frame.values, rain.values.astype(np.float32))
    for name in ("x", "y", "lat", "lon"):
        np.testing.assert_allclose(frame[name].values, rain[name].values, atol=1e-6)


def test_rows_from_the_south_are_turned_north_first(make_store, make_rain):
    upright = make_rain(4, missing_rows=5)
    south_first = make_store(rain=upright[:, ::-1])
    precip, _, metadata = import_nowcast_zarr(south_first)
    np.testing.assert_allclose(precip, upright[-1].values, atol=0.006)
    assert metadata["y1"] < metadata["y2"]


def test_pysteps_reads_a_series_by_names_with_times(store):
    io = pytest.importorskip("pysteps.io", reason=NEEDS_PYSTEPS)
    times = [datetime(2020, 6, 1, 0, minute) for minute in (30, 35, 40, 45)]
    names = [f"{store}@{time:%Y-%m-%dT%H:%M}" for time in times]
    importer = io.get_method("nowcast_zarr", "importer")
    precip, _, metadata = io.read_timeseries((names, times), importer)
    np.testing.assert_array_equal(precip, open_radar(store)[6:10].values.astype(np.float32))
    assert precip.dtype == np.float32
    assert list(metadata["timestamps"]) == times
    assert importer(names[0], dtype="double", fillna=-1.0)[0].min() == -1
    assert importer(names[0], dtype="double")[0].dtype == np.float64


@pytest.mark.parametrize(
    ("time", "finding"),
    [
        ("2020-06-01T00:41", "2020-06-01T00:41"),
        ("yesterday", "yesterday"),
        (1.5, "1.5"),
        ("2031-01-01", "2031"),
    ],
)
def test_a_time_without_a_frame_is_refused(store, time, finding):
    with pytest.raises(RefusedInput, match=finding):
        import_nowcast_zarr(store, time=time)


def test_no_archive_and_no_forecast_file_are_refused(tmp_path):
    with pytest.raises(RefusedInput, match="absent.zarr"):
        import_nowcast_zarr(tmp_path / "absent.zarr")
    with pytest.raises(RefusedInput, match="absent.nc"):
        import_nowcast_forecast(tmp_path / "absent.nc")


def test_a_forecast_file_is_imported_whole_or_in_part(forecast_file):
    whole, _, metadata = import_nowcast_forecast(forecast_file)
    assert whole.shape == (2, 3, 64, 64)
    assert list(metadata["leadtimes"]) == [5, 10, 15]
    assert metadata["startdate"] == datetime(2020, 6, 1, 0, 15)
    assert list(metadata["timestamps"]) == [datetime(2020, 6, 1, 0, minute) for minute in (20, 25, 30)]
    assert metadata["timestep"] == 5
    part, _, metadata = import_nowcast_forecast(forecast_file, members=[1], lead_minutes=[15, 5])
    np.testing.assert_array_equal(part, whole[1:, [2, 0]])
    assert list(metadata["leadtimes"]) == [15, 5]
    assert {key: metadata[key] for key in ("x1", "y2")} == {"x1": -32_500, "y2": 31_500}
    for asked in ({"members": [2]}, {"lead_minutes": [7]}):
        with pytest.raises(RefusedInput, match="forecast.nc"):
            import_nowcast_forecast(forecast_file, **asked)


def test_a_nowcast_is_that_of_the_forecaster_whatever_the_unit_and_the_transform(rain):
    expected = load_forecaster("extrapolation-ensemble").forecast(rain, lead_steps=3, members=2, seed=7)
    options = {"model": "extrapolation-ensemble", "n_ens_members": 2, "seed": 7,
               "kmperpixel": 1.0}  # fmt: skip
    times = {"timestamps": rain["time"].values.astype("datetime64[s]").tolist()}
    plain = {"unit": "mm/h", "transform": None, **times}
    rates = forecast(rain.values, None, 3, metadata=plain, **options)
    np.testing.assert_allclose(rates, expected.values, rtol=1e-5)
    in_db = forecast(decibel(rain.values), None, 3, metadata=DECIBEL | times, **options)
    np.testing.assert_array_equal(np.isnan(in_db), np.isnan(expected.values))
    wet = expected.values >= 0.1
    np.testing.assert_allclose(in_db[wet], 10 * np.log10(expected.values[wet]), atol=1e-3)
    assert set(np.unique(in_db[expected.values < 0.0999])) == {-15.0}
    assert 0.01 < wet.mean() < 0.5
    amounts = {"unit": "mm", "transform": None, "accutime": 5.0, **times}
    np.testing.assert_allclose(
        forecast(rain.values / 12, None, 3, metadata=amounts, **options),
        expected.values / 12,
        rtol=1e-5,
        atol=1e-6,
    )


def test_no_data_stays_no_data_and_dry_becomes_the_zerovalue(rain):
    frames = decibel(rain.values)
    frames[:, -5:] = np.nan
    found = forecast(frames, None, 2, metadata=DECIBEL, model="persistence", **GRID)
    assert found.shape == (2, 64, 64)
    np.testing.assert_allclose(found[1], frames[-1], rtol=1e-6)
    masked = np.ma.masked_invalid(frames)
    np.testing.assert_array_equal(
        forecast(masked, None, 2, metadata=DECIBEL, model="persistence", **GRID), found
    )


def test_steps_ahead_are_a_number_or_a_list_of_them(rain):
    options = {"model": "extrapolation", **GRID}
    all_steps = forecast(rain.values, None, 6, **options)
    assert all_steps.shape == (6, 64, 64)
    np.testing.assert_array_equal(forecast(rain.values, None, [2, 3, 6], **options), all_steps[[1, 2, 5]])
    np.testing.assert_array_equal(forecast(rain.values, None, np.int64(2), **options), all_steps[:2])


def test_a_seed_gives_the_same_members_however_many_there_are(rain):
    options = {"model": "extrapolation-ensemble", **GRID}
    two, three = (forecast(rain.values, None, 2, n_ens_members=count, **options) for count in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    assert not np.array_equal(two, forecast(rain.values, None, 2, n_ens_members=2, seed=1, **options), True)
    assert not np.array_equal(two[0], two[1], True)


def test_the_size_of_a_cell_is_known_from_the_metadata_in_any_unit_or_from_kmperpixel(rain):
    options = {"model": "extrapolation-ensemble", "n_ens_members": 1, "timestep": 5.0}
    expected = forecast(rain.values, None, 2, kmperpixel=2.0, **options)
    base = {"unit": "mm/h", "transform": None}
    # 2 km at 60 N are 0.03597 degrees of longitude and half of that of latitude.
    degree = 111.195
    for sizes in (
        {"xpixelsize": 2000, "ypixelsize": 2000.0, "cartesian_unit": "m"},
        {"xpixelsize": np.float32(2), "ypixelsize": 2.0, "cartesian_unit": "km"},
        {"xpixelsize": 4 / degree, "ypixelsize": 2 / degree, "cartesian_unit": "degrees", "y1": 59, "y2": 61},
    ):
        found = forecast(rain.values, None, 2, metadata=base | sizes, **options)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not np.allclose(
        forecast(rain.values, None, 2, kmperpixel=1.0, **options), expected, equal_nan=True
    )


def test_rows_from_the_south_give_the_same_nowcast_upside_down(rain):
    options = {"model": "extrapolation-ensemble", "n_ens_members": 2, **GRID}
    upper = forecast(rain.values, None, 2, **options)
    lower = {"unit": "mm/h", "transform": None, "yorigin": "lower"}
    np.testing.assert_array_equal(
        forecast(rain.values[:, ::-1], None, 2, metadata=lower, **options)[:, :, ::-1], upper
    )


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"metadata": {"unit": "dBZ", "transform": "dB"}}, "dBZ.*to_rainrate"),
        ({"metadata": {"unit": "mm/h", "transform": "BoxCox"}}, "BoxCox.*to_rainrate"),
        ({"metadata": {"x1": 0}}, "unit None"),
        ({"metadata": {"unit": "mm/h", "transform": "dB"}}, "zerovalue None"),
        ({"metadata": {"unit": "mm", "transform": None}}, "accutime None"),
        ({"timestep": None}, "give timestep"),
        ({"timestep": 0.0}, "0.0 min"),
        ({"kmperpixel": None}, "give kmperpixel"),
        ({"kmperpixel": -1.0}, "a cell has a size"),
        ({"timesteps": 0}, "timesteps are"),
        ({"timesteps": []}, "timesteps are"),
        ({"timesteps": [2, 1]}, r"\[2, 1\]"),
        ({"timesteps": [0.5, 1]}, r"\[0.5, 1\]"),
        ({"n_ens_members": 0}, "members"),
        ({"seed": -1}, "seed"),
        ({"precip": np.zeros((64, 64))}, r"\(64, 64\)"),
        ({"velocity": np.zeros((2, 5, 5))}, r"\(2, 5, 5\)"),
        ({"precip": np.full((4, 8, 8), -15.0)}, "metadata that dB_transform returned"),
        ({"precip": np.zeros((1, 8, 8))}, "4 frames or more"),
        ({"precip": np.full((4, 8, 8), np.nan)}, "observed"),
        ({"model": "no such model"}, "no such model"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(rain, changed, finding):
    call = {"precip": rain.values, "velocity": None, "timesteps": 2, "model": "persistence", **GRID} | changed
    with pytest.raises(RefusedInput, match=finding) as refusal:
        forecast(**call)
    assert "\n" not in str(refusal.value)


def test_a_model_is_loaded_once(rain, monkeypatch):
    loads = []
    load = pysteps_plugin.load_forecaster
    monkeypatch.setattr(pysteps_plugin, "load_forecaster", lambda *a, **k: loads.append(a) or load(*a, **k))
    pysteps_plugin._loaded.cache_clear()
    for _ in range(2):
        forecast(rain.values, None, 1, model="extrapolation", **GRID)
    assert len(loads) == 1


@pytest.fixture(scope="module")
def knmi(radar_data, tmp_path_factory) -> Path:
    """Archive of four frames of the Netherlands."""
    folder = tmp_path_factory.mktemp("knmi")
    (folder / "in").mkdir()
    for minute in ("0445", "0450", "0455", "0500"):
        name = f"{FRAMES}{minute}.h5"
        (folder / "in" / name).write_bytes((radar_data / "knmi/2010/08" / name).read_bytes())
    prepare(folder / "in", folder / "knmi.zarr", Recipe(sampling=None, time_step_minutes=5))
    return folder / "knmi.zarr"


@pytest.mark.radar
def test_a_dutch_frame_of_the_archive_is_that_of_pysteps_own_importer(knmi, radar_data):
    io = pytest.importorskip("pysteps.io", reason=NEEDS_PYSTEPS)
    precip, _, metadata = io.get_method("nowcast_zarr", "importer")(knmi)
    file = radar_data / "knmi/2010/08" / f"{FRAMES}0500.h5"
    millimetres, _, theirs = io.get_method("knmi_hdf5", "importer")(str(file))
    # mm in 5 minutes, and km.
    np.testing.assert_allclose(precip, 12 * millimetres, rtol=1e-6)
    for edge in ("x1", "x2", "y1", "y2", "xpixelsize", "ypixelsize"):
        assert metadata[edge] == 1000 * theirs[edge]
    assert metadata["threshold"] == pytest.approx(12 * theirs["threshold"])
    assert theirs.keys() - metadata.keys() == {"zr_a", "zr_b"}


@pytest.mark.radar
def test_the_shipped_network_nowcasts_dutch_rain_in_db_as_it_does_from_an_archive(knmi):
    context = open_radar(knmi)[:, 300:428, 200:328].load()
    expected = load_forecaster().forecast(context, lead_steps=2, members=1, seed=3).values
    times = context["time"].values.astype("datetime64[s]").tolist()
    told = DECIBEL | {"timestamps": times}
    found = forecast(decibel(context.values), None, 2, metadata=told, kmperpixel=1.0, n_ens_members=1, seed=3)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    wet = expected > 0.2
    assert wet.mean() > 0.3
    np.testing.assert_allclose(found[wet], 10 * np.log10(expected[wet]), atol=0.05)
