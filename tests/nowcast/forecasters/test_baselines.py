import pickle

import numpy as np
import pyproj
import pytest
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter

from data_prep.schema import SPLITS, RefusedInput, map_coordinates, rain_array
from nowcast.forecaster import cell_size
from nowcast.forecasters.baselines import Climatology, Extrapolation, ExtrapolationEnsemble, Persistence
from nowcast.forecasters.load import BASELINES, load_forecaster, load_forecasters

CRS = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m")
WITH_PYSTEPS = ("sprog", "anvil", "steps")
MOVING = ("extrapolation", "extrapolation-ensemble", *WITH_PYSTEPS)


def load(name: str):
    if name in WITH_PYSTEPS:
        pytest.importorskip("pysteps", reason="needs the extra 'baselines'")
    return load_forecaster(name)


def rain_of(values: np.ndarray, *, spacing: float = 1000.0, minutes: int = 5) -> xr.DataArray:
    """Frames as a rain array on a grid that starts at (0, 0)."""
    time = np.datetime64("2020-06-01T00:00", "ns") + np.arange(len(values)) * np.timedelta64(minutes, "m")
    x, y = (np.arange(length) * spacing for length in values.shape[:0:-1])
    return rain_array(values, time=time, x=x, y=y[::-1], crs=CRS)


def showers(frames: int = 4, height: int = 60, width: int = 72, *, seed: int = 0) -> np.ndarray:
    """Rain of many scales that moves 2 columns and 1 row a frame, and slowly changes; mm/h."""
    margin = 2 * frames
    draw = np.random.default_rng(seed)
    shape = (height + margin, width + margin)
    noise = [draw.standard_normal(shape) for _ in range(2)]
    textures = [sum(s * gaussian_filter(n, s) for s in (1.5, 3, 6)) for n in noise]
    fields = [textures[0] + 0.1 * n * textures[1] for n in range(frames)]
    scale = 2.5 / fields[0].std()
    rows, columns = range(frames, 0, -1), range(2 * frames, 0, -2)
    windows = zip(fields, rows, columns, strict=True)
    return np.stack([np.maximum(scale * f[r : r + height, c : c + width] - 0.5, 0) for f, r, c in windows])


SHOWERS = showers()


# --- all of them


@pytest.mark.parametrize("name", MOVING)
def test_whatever_knows_the_motion_beats_persistence_on_moving_rain(name):
    frames = showers(10)
    forecasts = {
        model: load(model).forecast(rain_of(frames[:4]), lead_steps=6, members=3).values.mean(axis=0)
        for model in (name, "persistence")
    }
    seen = np.isfinite(forecasts[name])
    errors = {model: np.abs(forecast - frames[4:])[seen].mean() for model, forecast in forecasts.items()}
    assert seen.mean() > 0.5
    assert errors[name] < 0.75 * errors["persistence"]


@pytest.mark.parametrize("name", MOVING)
def test_forecasts_are_float32_rates_that_are_not_negative_and_the_same_twice(name):
    forecaster, rain = load(name), rain_of(SHOWERS)
    first, second = (forecaster.forecast(rain, lead_steps=3, members=2, seed=4).values for _ in range(2))
    assert first.dtype == np.float32
    assert first.shape == (1 if forecaster.deterministic else 2, 3, *SHOWERS.shape[1:])
    assert np.nanmin(first) == 0
    assert not np.isinf(first).any()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("dry", [(0,), (2,), (3,), (0, 1, 2), (0, 1, 2, 3)])
def test_dry_frames_in_a_context_are_no_obstacle(name, dry):
    values = SHOWERS.copy()
    values[list(dry)] = 0
    forecast = load(name).forecast(rain_of(values), lead_steps=3, members=2).values
    assert np.isfinite(forecast).mean() > 0.5
    assert 3 not in dry or np.nanmax(forecast) == 0


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("cells", [1, 3, 12])
def test_a_handful_of_wet_cells_is_no_obstacle(name, cells):
    values = np.zeros((4, 64, 64))
    places = np.random.default_rng(cells).integers(8, 50, (cells, 2))
    for frame in range(4):
        values[frame, places[:, 0] + frame, places[:, 1] + frame] = 4.0
    for context in (values, np.concatenate([showers(3, 64, 64), values[3:]])):
        forecast = load(name).forecast(rain_of(context), lead_steps=2, members=2).values
        assert np.isfinite(forecast).mean() > 0.5
        assert np.nanmax(forecast) < 20


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("kind", ["constant", "one constant frame", "unchanged", "wet everywhere"])
def test_rain_that_no_model_can_be_fitted_to_is_no_obstacle(name, kind):
    values = {
        "constant": np.full_like(SHOWERS, 3.0),
        "one constant frame": np.where(np.arange(4)[:, None, None] == 1, 3.0, SHOWERS),
        "unchanged": np.repeat(SHOWERS[:1], 4, axis=0),
        "wet everywhere": SHOWERS + 1,
    }[kind]
    forecast = load(name).forecast(rain_of(values), lead_steps=2, members=2).values
    assert np.isfinite(forecast).mean() > 0.5
    assert np.nanmean(forecast) == pytest.approx(values[-1].mean(), rel=0.5)


@pytest.mark.parametrize("name", BASELINES)
def test_infinite_rates_count_as_no_data(name):
    values = SHOWERS.copy()
    values[:, 20:24, 30:36] = np.nan
    infinite = np.where(np.isnan(values), np.inf, values)
    forecaster = Climatology(split_store()) if name == "climatology" else load(name)
    forecasts = [forecaster.forecast(rain_of(v), lead_steps=2, members=2).values for v in (values, infinite)]
    np.testing.assert_array_equal(*forecasts)


@pytest.mark.parametrize("name", WITH_PYSTEPS)
@pytest.mark.parametrize("gap", ["hole", "side", "three quarters"])
def test_cells_without_data_stay_without_and_the_others_are_forecast(name, gap):
    values = SHOWERS.copy()
    missing = {
        "hole": np.s_[..., 30:36, 40:48],
        "side": np.s_[..., 54:],
        "three quarters": np.s_[..., 18:],
    }[gap]
    values[missing] = np.nan
    forecast = load(name).forecast(rain_of(values), lead_steps=3, members=2).values
    assert np.isnan(forecast[missing]).all()
    observed = np.isfinite(values[-1])
    assert np.isfinite(forecast[:, 0][:, observed]).mean() > 0.3
    assert forecast.shape[2:] == values.shape[1:]


@pytest.mark.parametrize("name", ["sprog", "steps"])
def test_a_gap_in_an_earlier_frame_costs_no_cell_of_the_forecast(name):
    forecaster, values = load(name), SHOWERS.copy()
    whole = forecaster.forecast(rain_of(values), lead_steps=2).values
    values[2, 20:50, 30:60] = np.nan
    forecast = forecaster.forecast(rain_of(values), lead_steps=2).values
    gained_or_lost = np.isfinite(forecast) ^ np.isfinite(whole)
    assert gained_or_lost.mean() < 0.01


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("size", [(48, 37), (37, 48), (61, 101), (16, 16), (6, 5), (2, 3)])
def test_small_and_odd_grids_are_no_obstacle(name, size):
    forecaster = load(name)
    rain = rain_of(showers(4, *size), spacing=2000.0)
    assert forecaster.forecast(rain, lead_steps=2, members=2).shape[1:] == (2, *size)


@pytest.mark.parametrize("name", ["persistence", *MOVING])
def test_baselines_can_be_sent_to_another_process(name):
    forecaster, rain = load(name), rain_of(SHOWERS)
    copy = pickle.loads(pickle.dumps(forecaster))
    forecasts = [model.forecast(rain, lead_steps=1).values for model in (forecaster, copy)]
    np.testing.assert_array_equal(*forecasts)


# --- extrapolation with perturbed motion


def still_blob(*, spacing: float = 1000.0, minutes: int = 5) -> xr.DataArray:
    y, x = np.mgrid[:64, :64]
    blob = 9 * np.exp(-((x - 32) ** 2 + (y - 32) ** 2) / 18)
    return rain_of(np.repeat(blob[None], 4, axis=0), spacing=spacing, minutes=minutes)


def centres(forecast: np.ndarray) -> np.ndarray:
    """Column and row of the centre of the rain, (..., 2)."""
    rain = np.nan_to_num(forecast)
    y, x = np.mgrid[: rain.shape[-2], : rain.shape[-1]]
    return np.stack([(rain * axis).sum((-2, -1)) / rain.sum((-2, -1)) for axis in (x, y)], axis=-1)


def test_members_of_the_ensemble_part_in_proportion_to_lead_time_by_the_velocity_error():
    forecast = ExtrapolationEnsemble().forecast(still_blob(), lead_steps=8, members=100, seed=3).values
    shift = centres(forecast) - 32
    # A constant error: after n steps a member is n times as far off as after one.
    steps = np.arange(1, 9)[None, :, None]
    np.testing.assert_allclose(shift, shift[:, :1] * steps, atol=0.15)
    # 2.7 m/s are 0.81 km in 5 min; a standard deviation of 200 numbers is good to 5 %.
    assert shift[:, 0].std() == pytest.approx(0.81, rel=0.15)
    assert abs(shift[:, 0].mean()) < 0.2


def test_the_velocity_error_is_in_metres_per_second_whatever_the_grid_and_the_time_step():
    one, other = (
        centres(ExtrapolationEnsemble().forecast(blob, lead_steps=1, members=3).values) - 32
        for blob in (still_blob(), still_blob(spacing=2000.0, minutes=15))
    )
    # Members depend on the reference time, too: compare at the same one.
    early = ExtrapolationEnsemble().forecast(still_blob(spacing=2000.0), lead_steps=1, members=3).values
    np.testing.assert_allclose(centres(early) - 32, one / 2, atol=0.05)
    assert other.std() > 0


def test_cells_in_degrees_have_their_size_in_metres():
    crs = pyproj.CRS.from_epsg(4326)
    coordinates = map_coordinates(np.arange(5.0, 6.01, 0.01), np.arange(61.0, 58.99, -0.02), crs)
    field = xr.DataArray(np.zeros((101, 101)), dims=("y", "x"), coords=coordinates)
    width, height = cell_size(field)
    # A hundredth of a degree of longitude at 60 degrees north is half of one at the equator.
    assert width == pytest.approx(1111.95 / 2, rel=1e-3)
    assert height == pytest.approx(2 * 1111.95, rel=1e-3)


@pytest.mark.parametrize("name", ["extrapolation-ensemble", "steps"])
def test_a_member_depends_on_its_number_and_seed_and_not_on_how_many_there_are(name):
    forecaster, rain = load(name), rain_of(SHOWERS)
    three, five = (forecaster.forecast(rain, lead_steps=2, members=n, seed=7).values for n in (3, 5))
    np.testing.assert_array_equal(three, five[:3])
    assert all(np.nanmax(np.abs(five[n] - five[0])) > 0.1 for n in range(1, 5))
    other = forecaster.forecast(rain, lead_steps=2, members=1, seed=8).values
    assert np.nanmax(np.abs(other - five[:1])) > 0.1


@pytest.mark.parametrize("name", ["extrapolation-ensemble", "steps"])
def test_members_do_not_depend_on_threads(name):
    forecaster, rain = load(name), rain_of(showers(4, 96, 96))
    threads, forecasts = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            forecasts.append(forecaster.forecast(rain, lead_steps=2).values)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*forecasts)


# --- climatology


def split_store(*, blind: tuple[int, ...] = ()) -> xr.DataArray:
    """12 frames, each of one rate (its number + 1), the first 6 for training."""
    values = np.ones((12, *SHOWERS.shape[1:])) * np.arange(1, 13)[:, None, None]
    values[list(blind)] = np.nan
    values[:, :5] = np.nan
    values[2, 8] = np.inf
    codes = np.repeat([SPLITS.index("train"), SPLITS.index("validation")], 6)
    return rain_of(values).assign_coords(split=("time", codes.astype(np.int8)))


def test_climatology_draws_each_member_from_the_training_frames():
    forecast = Climatology(split_store()).forecast(rain_of(SHOWERS), lead_steps=3, members=60, seed=1).values
    assert np.isnan(forecast[:, :, :5]).all()
    assert not np.isinf(forecast).any()
    np.testing.assert_array_equal(forecast[:, 0], forecast[:, 2])
    drawn, counts = np.unique(forecast[:, 0, -1, -1], return_counts=True)
    assert list(drawn) == [1, 2, 3, 4, 5, 6]
    assert counts.max() < 25  # 10 of each are expected


def test_climatology_draws_the_same_members_however_many_there_are():
    climatology, rain = Climatology(split_store()), rain_of(SHOWERS)
    few, many = (climatology.forecast(rain, lead_steps=1, members=n, seed=1).values for n in (3, 20))
    np.testing.assert_array_equal(few, many[:3])
    assert len(np.unique(many[:, 0, -1, -1])) > 1


def test_climatology_never_draws_a_frame_without_data():
    climatology = Climatology(split_store(blind=(0, 1, 2, 4)))
    forecast = climatology.forecast(rain_of(SHOWERS), lead_steps=1, members=30).values
    assert set(np.unique(forecast[:, 0, -1, -1])) == {4, 6}


def test_climatology_says_which_frames_it_draws_from():
    forecast = Climatology(split_store()).forecast(rain_of(SHOWERS), lead_steps=1)
    assert forecast.attrs["training_frames"] == "6 from 2020-06-01T00:00 to 2020-06-01T00:25"


@pytest.mark.parametrize(
    ("radar", "finding"),
    [
        (rain_of(SHOWERS), "came: no split"),
        (split_store()[6:], "came: 6 frames with a split, none of training"),
    ],
)
def test_climatology_refuses_a_store_without_training_frames(radar, finding):
    with pytest.raises(RefusedInput, match=finding):
        load_forecaster("climatology", radar=radar)


def test_climatology_refuses_what_it_cannot_draw_for():
    with pytest.raises(RefusedInput, match="6 frames without any"):
        Climatology(split_store(blind=tuple(range(6)))).forecast(rain_of(SHOWERS))
    with pytest.raises(RefusedInput, match="on the grid of the frames"):
        Climatology(split_store()).forecast(rain_of(SHOWERS, spacing=2000.0))


def test_climatology_of_a_part_of_the_grid_is_that_part_of_a_frame():
    store = split_store()
    whole = Climatology(store).forecast(rain_of(SHOWERS), lead_steps=1, members=3).values
    part = rain_of(SHOWERS).isel(y=slice(4, 20), x=slice(2, 30))
    cut = Climatology(store).forecast(part, lead_steps=1, members=3).values
    assert np.array_equal(cut, whole[..., 4:20, 2:30], equal_nan=True)


def test_climatology_of_a_store_draws_from_it(store):
    from data_prep.schema import open_radar

    radar = open_radar(store)
    climatology = pickle.loads(pickle.dumps(load_forecaster("climatology", radar=radar)))
    member = climatology.forecast(radar[:4], lead_steps=1).values[0, 0]
    training = radar.values[radar["split"].values == SPLITS.index("train")]
    assert any(np.array_equal(member, frame.astype(np.float32), equal_nan=True) for frame in training)


# --- pysteps


def test_sprog_is_smoother_than_extrapolation_and_keeps_the_amount_of_rain():
    rain = rain_of(SHOWERS)
    sprog, extrapolation = (
        load(name).forecast(rain, lead_steps=6).values[0, -1] for name in ("sprog", "extrapolation")
    )
    both = np.isfinite(sprog) & np.isfinite(extrapolation)
    roughness = [
        np.nanmean(np.abs(np.diff(np.where(both, field, np.nan), axis=1))) for field in (sprog, extrapolation)
    ]
    assert roughness[0] < 0.85 * roughness[1]
    assert sprog[both].mean() == pytest.approx(extrapolation[both].mean(), rel=0.35)


def test_rain_follows_our_motion_in_all_methods_of_pysteps():
    values = SHOWERS
    for name in WITH_PYSTEPS:
        forecast = load(name).forecast(rain_of(values), lead_steps=1).values[0, 0]
        errors = {}
        for columns, rows in ((2, 1), (-2, -1), (1, 2), (0, 0)):
            moved = np.roll(values[-1], (rows, columns), axis=(0, 1))
            errors[columns, rows] = np.nanmean(np.abs(forecast - moved))
        assert min(errors, key=errors.get) == (2, 1), name


@pytest.mark.parametrize("name", WITH_PYSTEPS)
def test_pysteps_is_silent_and_leaves_the_global_generator_of_numpy_alone(name, capfd):
    forecaster, rain = load(name), rain_of(SHOWERS)
    np.random.seed(5)  # noqa: NPY002
    first = forecaster.forecast(rain, lead_steps=1, seed=2).values
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002
    np.testing.assert_array_equal(forecaster.forecast(rain, lead_steps=1, seed=2).values, first)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", WITH_PYSTEPS)
def test_whatever_pysteps_stumbles_over_is_refused_with_model_and_time(name, monkeypatch):
    forecaster = load(name)

    def stumble(*_, **__):
        raise KeyError("no\nsuch level")

    monkeypatch.setattr("nowcast.forecasters.pysteps_baselines._method", lambda _: stumble)
    with pytest.raises(RefusedInput) as refusal:
        forecaster.forecast(rain_of(SHOWERS))
    text = str(refusal.value)
    assert text.startswith(f"{name} can be run on the frames up to 2020-06-01T00:15; came: KeyError")
    assert "\n" not in text


def test_without_pysteps_its_models_are_refused_with_what_to_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(RefusedInput, match=r"pip install -e '.\[baselines\]'"):
        load_forecaster("steps")


def test_pysteps_has_one_call_at_a_time_and_standard_output_comes_back():
    import sys
    from concurrent.futures import ThreadPoolExecutor

    forecaster, rain, stdout = load("steps"), rain_of(SHOWERS), sys.stdout
    alone = [forecaster.forecast(rain, lead_steps=2, seed=seed).values for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(
            pool.map(lambda seed: forecaster.forecast(rain, lead_steps=2, seed=seed).values, (1, 2))
        )
    assert sys.stdout is stdout
    np.testing.assert_array_equal(alone, together)


# --- names


def test_every_baseline_is_loaded_by_its_name():
    pytest.importorskip("pysteps", reason="needs the extra 'baselines'")
    forecasters = load_forecasters(BASELINES, radar=split_store())
    assert list(forecasters) == list(BASELINES)
    assert [name for name, model in forecasters.items() if model.deterministic] == [
        "persistence", "extrapolation", "sprog", "anvil",
    ]  # fmt: skip
    assert isinstance(forecasters["persistence"], Persistence)
    assert isinstance(forecasters["extrapolation"], Extrapolation)


def test_climatology_is_refused_without_a_store():
    with pytest.raises(RefusedInput, match=r"came: no store; forecast from a RADAR\.zarr"):
        load_forecaster("climatology")
