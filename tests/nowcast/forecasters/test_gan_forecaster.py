import logging

import numpy as np
import pyproj
import pytest
import torch
import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.forecaster import Forecaster
from nowcast.forecasters.gan_forecaster import GANForecaster, describe_data
from nowcast.model import Generator
from nowcast.products.forecast_file import forecast_to_file, read_forecast

LEADS = 4
CARD = {
    "transform": "square_root", "output": "residual", "frame": "comoving", "channels": "rain_and_mask",
    "grid_spacing": 1000.0, "time_step_minutes": 5.0, "spacing_range_km": [0.5, 2.5],
}  # fmt: skip


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A network like the one that is shipped, small and untrained."""
    torch.manual_seed(0)
    sizes = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": LEADS}
    return Generator(**sizes, input_channels=2, drift=True).fold()


@pytest.fixture
def forecaster(generator) -> GANForecaster:
    return model(generator)


def model(generator, **card) -> GANForecaster:
    return GANForecaster(generator, {**CARD, "generator": generator.config, **card}, name="small")


def forecast(forecaster: Forecaster, rain: xr.DataArray, **asked) -> xr.DataArray:
    return forecaster.forecast(rain, **{"lead_steps": LEADS, "members": 2, **asked})


def finely(rain: xr.DataArray) -> xr.DataArray:
    """The same with a trace of rain in one cell, so that no rate of a forecast is too low to be reported."""
    traced = rain.copy(deep=True)
    row, column = np.argwhere(np.isfinite(rain.values).all(axis=0))[0]
    traced.values[0, row, column] = 1e-6
    return traced


def on_finer_grid(make_rain, coarse: xr.DataArray, factor: int) -> xr.DataArray:
    """Every cell as `factor` x `factor` cells of 1 km."""
    fine = make_rain(coarse.sizes["time"], coarse.sizes["x"] * factor)
    return fine.copy(data=coarse.values.repeat(factor, axis=1).repeat(factor, axis=2))


def block_means(values: np.ndarray, factor: int) -> np.ndarray:
    height, width = (length // factor for length in values.shape[-2:])
    return values.reshape(*values.shape[:-2], height, factor, width, factor).mean(axis=(-3, -1))


# Grid spacing and time step


@pytest.mark.parametrize("spacing", [810.0, 1190.0])
def test_data_within_a_fifth_of_the_trained_spacing_are_taken_as_they_are(forecaster, make_rain, spacing):
    near = forecast(forecaster, make_rain(4, spacing=spacing))
    np.testing.assert_array_equal(near.values, forecast(forecaster, make_rain(4)).values)
    assert "resampled" not in near.attrs


def test_coarser_data_are_forecast_at_the_trained_spacing_and_averaged_back(forecaster, make_rain):
    coarse = finely(make_rain(4, 32, spacing=2000.0, speed=(1, 0.5)))
    made = forecast(forecaster, coarse)
    fine = forecast(forecaster, on_finer_grid(make_rain, coarse, 2)).values
    expected = block_means(np.nan_to_num(fine), 2)
    known = block_means(np.isfinite(fine).astype(float), 2)
    assert made.shape == (2, LEADS, 32, 32)
    np.testing.assert_array_equal(np.isfinite(made.values), known > 0.5)
    np.testing.assert_allclose(made.values[known == 1], expected[known == 1], rtol=1e-4, atol=1e-5)
    assert made.attrs["resampled"] == "from 2 km to 1 km and back"


def test_finer_data_are_averaged_forecast_and_brought_back_to_their_cells(forecaster, make_rain):
    fine = make_rain(4, 128, spacing=500.0, speed=(4, 2))
    coarse = make_rain(4, 64).copy(data=block_means(fine.values, 2))
    made, expected = forecast(forecaster, fine).values, forecast(forecaster, coarse).values
    assert made.shape == (2, LEADS, 128, 128)
    inner = (..., slice(8, 48), slice(8, 48))
    assert np.isfinite(expected[inner]).all()
    # Block means of what lies bilinearly between block means: 3/4 of a cell's own value along each axis.
    np.testing.assert_allclose(block_means(made, 2)[inner].mean(), expected[inner].mean(), rtol=0.02)
    assert np.corrcoef(block_means(made, 2)[inner].ravel(), expected[inner].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("spacing", [500.0, 2000.0])
def test_missing_cells_of_a_resampled_grid_stay_missing(forecaster, make_rain, spacing):
    rain = make_rain(4, spacing=spacing)
    rain.values[:, 40:51, 12:23] = np.nan
    made = forecast(forecaster, rain).values
    assert np.isnan(made[..., 40:51, 12:23]).all()
    assert np.isfinite(made).mean() > 0.8


@pytest.mark.parametrize(
    ("spacing", "told"), [(4000.0, "4 x 4 km"), (2600.0, "2.6 x 2.6 km"), (400.0, "0.4 x 0.4 km")]
)
def test_spacings_outside_the_range_of_the_card_are_refused(forecaster, make_rain, spacing, told):
    with pytest.raises(RefusedInput, match=rf"spacing of 0.5 to 2.5 km; came: {told}"):
        forecast(forecaster, make_rain(4, spacing=spacing))


def test_both_sides_of_a_cell_have_to_be_in_the_range(forecaster, make_rain):
    rain = make_rain(4)
    long = rain.assign_coords(x=rain["x"] * 0.3, y=rain["y"] * 3)  # 0.95 km is the side of a square as large
    with pytest.raises(RefusedInput, match="came: 0.3 x 3 km"):
        forecast(forecaster, long)


def test_without_a_range_data_are_not_resampled(generator, make_rain):
    narrow = model(generator, spacing_range_km=None)
    assert forecast(narrow, make_rain(4, spacing=1040.0)).shape == (2, LEADS, 64, 64)
    with pytest.raises(RefusedInput, match="grid spacing of 1000 m; came: 1100 m"):
        forecast(narrow, make_rain(4, spacing=1100.0))


@pytest.mark.parametrize("minutes", [6, 10, 15])
def test_another_time_step_is_refused(forecaster, make_rain, minutes):
    with pytest.raises(RefusedInput, match=f"frames every 5 min; came: every {minutes} min"):
        forecast(forecaster, make_rain(4, step=np.timedelta64(minutes, "m")))


def test_the_spacing_of_cells_that_are_not_square_is_the_geometric_mean(make_rain):
    rain = make_rain(4)
    rain = rain.assign_coords(y=rain["y"] * 2.25)
    assert describe_data(rain) == {"grid_spacing": pytest.approx(1500.0), "time_step_minutes": 5.0}


def test_degrees_are_turned_into_metres(make_rain):
    rain = make_rain(4).assign_coords(x=np.arange(64) * 0.02, y=60 - np.arange(-32, 32) * 0.01)
    rain["crs"].attrs["crs_wkt"] = pyproj.CRS.from_epsg(4326).to_wkt()
    # At 60 N 0.02 degrees along x are 111.2 km * 0.02 / 2, and 0.01 degrees along y as much.
    assert describe_data(rain)["grid_spacing"] == pytest.approx(1112, rel=0.01)


@pytest.mark.parametrize(
    "given", [[2.0], [2.0, 1.0], [0.5, 0.9], [1.1, 2.5], [0.0, 1.0], ["1", "2"], [1.0, float("nan")], 2.0]
)
def test_a_range_of_spacings_that_is_none_is_refused(generator, given):
    with pytest.raises(RefusedInput, match="spacing_range_km of a card"):
        model(generator, spacing_range_km=given)


# Dry, one small cell, a radar that is missing


def test_a_dry_context_gives_an_exactly_dry_forecast_without_the_network(generator, make_rain, monkeypatch):
    monkeypatch.setattr(Generator, "encode", None)
    rain = make_rain(4)
    rain.values[:] = 0
    rain.values[:, 10:20] = np.nan
    rain.values[-1, 30:40] = np.nan
    made = forecast(model(generator), rain)
    assert np.isnan(made.values[:, :, 10:20]).all()
    elsewhere = np.delete(made.values, np.s_[10:20], axis=2)
    assert (elsewhere == 0).all()
    assert made.attrs["motion"].startswith("none: ")


def test_a_network_that_sees_no_mask_is_dry_where_the_last_frame_is():
    torch.manual_seed(0)
    single = Generator(conditioning_channels=(4, 6), latent_channels=(8, 8, 12), lead_steps=LEADS).fold()
    rain = xr.DataArray(np.zeros((4, 8, 8), np.float32), dims=("time", "y", "x"))
    rain.values[-1, 2:4] = np.nan
    member = next(model(single, channels="rain").stream(rain, lead_steps=2, members=1, seed=0))
    np.testing.assert_array_equal(member, np.stack([rain.values[-1]] * 2))


def one_cell(make_rain, side: int) -> xr.DataArray:
    """A cell of `side` x `side` pixels that moves 5 columns a frame."""
    rain = make_rain(4, 96)
    rain.values[:] = 0
    for number, frame in enumerate(rain.values):
        frame[40 : 40 + side, 30 + 5 * number : 30 + 5 * number + side] = 6.0
    return rain


def test_one_small_cell_is_taken_to_stand_still_and_that_is_said_once(forecaster, make_rain, caplog):
    rain = one_cell(make_rain, 3)
    with caplog.at_level(logging.WARNING):
        made = forecast(forecaster, rain)
    assert made.attrs["motion"].startswith("none: no two frames with 10 wet blocks")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "no motion is assumed for the rain up to 2020-06-01T00:15" in told[0]
    # Rain that stands still comes from no cell outside the grid.
    assert np.isfinite(made.values).all()


def test_the_motion_of_rain_that_shows_it_is_used(forecaster, make_rain, caplog):
    with caplog.at_level(logging.WARNING):
        made = forecast(forecaster, make_rain(4))
        cell = forecast(forecaster, one_cell(make_rain, 9))
    assert made.attrs["motion"] == cell.attrs["motion"] == "estimated"
    assert not caplog.records
    assert np.isnan(made.values[..., 0]).all()  # from the left comes rain that nobody saw


def test_a_fixed_network_says_nothing_of_motion(generator, make_rain):
    assert "motion" not in forecast(model(generator, frame="fixed"), one_cell(make_rain, 3)).attrs


def test_what_was_done_to_the_rain_is_told_in_the_file(forecaster, make_rain, tmp_path):
    rain = make_rain(4, 64, spacing=2000.0)
    forecast_to_file(tmp_path / "f.nc", forecaster, rain, lead_steps=LEADS, members=2)
    read = read_forecast(tmp_path / "f.nc")
    assert read.attrs["motion"] == "estimated"
    assert read.attrs["resampled"] == "from 2 km to 1 km and back"


@pytest.mark.parametrize("frame", [1, 3])
def test_a_radar_that_is_missing_in_one_frame_leaves_no_gap(forecaster, make_rain, frame):
    rain = make_rain(4, 96)
    rain.values[frame, :, 48:] = np.nan
    made = forecast(forecaster, rain)
    assert made.attrs["motion"] == "estimated"
    assert np.isfinite(made.values[..., 12:84, 12:84]).all()


def test_cells_that_no_frame_saw_have_no_forecast_even_where_rain_is_carried_to(forecaster, make_rain):
    rain = make_rain(4, 96)
    rain.values[:, 30:50, 50:70] = np.nan
    made = forecast(forecaster, rain).values
    assert np.isnan(made[..., 30:50, 50:70]).all()
    assert np.isfinite(made[..., 60:84, 20:48]).all()


# Calibration


def test_every_lead_time_is_multiplied_by_its_gain(generator, make_rain):
    gain = [0.5, 1.0, 2.0, 3.0]
    plain = forecast(model(generator), finely(make_rain(4))).values
    calibrated = forecast(model(generator, calibration={"gain": gain}), finely(make_rain(4))).values
    np.testing.assert_allclose(calibrated, plain * np.array(gain)[:, None, None], rtol=1e-6, atol=1e-5)
    short = forecast(model(generator, calibration={"gain": gain}), finely(make_rain(4)), lead_steps=2).values
    np.testing.assert_array_equal(short, calibrated[:, :2])


@pytest.mark.parametrize("calibration", [{"gain": [1.0] * 3}, {"gain": [1, 1, 1, -1]}, {}, [1, 1, 1, 1]])
def test_a_calibration_that_is_none_is_refused(generator, calibration):
    with pytest.raises(RefusedInput, match="a gain with 4 factors above 0"):
        model(generator, calibration=calibration)


@pytest.mark.parametrize("has_units", [False, True])
def test_a_network_trained_in_bf16_forecasts_in_it_where_the_processor_has_units(
    generator, make_rain, monkeypatch, has_units
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_units})
    exact = forecast(model(generator), finely(make_rain(4))).values
    reduced = forecast(model(generator, precision="bf16-mixed"), finely(make_rain(4))).values
    assert np.array_equal(reduced, exact, equal_nan=True) != has_units
    np.testing.assert_allclose(reduced, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16", None, 16])
def test_a_precision_that_is_none_is_refused(generator, precision):
    with pytest.raises(RefusedInput, match="precision of a card is 32-true or bf16-mixed"):
        model(generator, precision=precision)


def test_weights_that_give_no_numbers_are_refused_rather_than_taken_for_missing_data(make_rain):
    torch.manual_seed(0)
    sizes = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": LEADS}
    broken = Generator(**sizes, input_channels=2).fold()
    broken.sampler.output.bias.fill_(float("inf"))
    with pytest.raises(RefusedInput, match="a network puts out finite values"):
        forecast(model(broken), make_rain(4))


def test_rates_below_the_least_of_the_context_are_dry(forecaster, make_rain):
    rain = make_rain(4)
    least = rain.values[rain.values > 0].min()
    reported = rain.where(rain > 20 * least, 0.0).where(np.isfinite(rain))
    assert (forecast(forecaster, rain).values > 0).sum() > (forecast(forecaster, reported).values > 0).sum()
    made = forecast(forecaster, reported).values
    assert made[made > 0].min() >= reported.values[reported.values > 0].min()
