import numpy as np
import pytest
import xarray as xr

from data_prep.schema import RefusedInput, open_radar
from nowcast import verify
from nowcast.baselines import Extrapolation, Persistence
from nowcast.evaluation import context_at, evaluate, scored, skill_table, valid_starts

MODELS = {"persistence": Persistence(), "extrapolation": Extrapolation()}


def test_extrapolation_has_skill_on_moving_rain_and_persistence_none(make_rain):
    rain = make_rain(20, speed=(2, 1))
    starts = valid_starts(rain, context_frames=4, lead_steps=6, part="all")
    scores = scored(evaluate(MODELS, rain, starts[:3], lead_steps=6), "persistence")
    assert (scores["mae_skill"].sel(model="extrapolation") > 0.5).all()
    assert (scores["mae_skill"].sel(model="persistence") == 0).all()
    assert scores.sizes["lead_time"] == 6


def test_all_models_are_scored_on_the_same_cells(make_rain):
    rain = make_rain(14, speed=(2, 1), missing_rows=6)
    starts = valid_starts(rain, context_frames=4, lead_steps=6, part="all")
    cells = evaluate(MODELS, rain, starts, lead_steps=6)["cells"]
    np.testing.assert_array_equal(cells.sel(model="persistence"), cells.sel(model="extrapolation"))
    assert (cells < 64 * 58).any()


def test_windows_never_span_a_gap(make_store):
    radar = open_radar(make_store(60, leave_out=(20,)))
    starts = valid_starts(radar, context_frames=4, lead_steps=18, part="all")
    times = set(radar["time"].values)
    step = np.timedelta64(5, "m")
    for start in starts:
        assert all(start + n * step in times for n in range(-3, 19))
    assert len(starts) == 60 - 22 + 1 - 21


def test_held_out_windows_hold_no_training_frame(store):
    radar = open_radar(store)
    starts = valid_starts(radar, context_frames=4, lead_steps=18)
    first = radar["time"].values[30]
    assert starts[0] - 3 * np.timedelta64(5, "m") == first
    assert len(valid_starts(radar, context_frames=4, lead_steps=18, part="train")) == 30 - 22 + 1
    assert len(valid_starts(radar, context_frames=4, lead_steps=18, stride=4)) < len(starts)


def test_a_store_without_a_long_enough_window_is_refused(store):
    with pytest.raises(RefusedInput, match="unbroken window of 44 frames"):
        valid_starts(open_radar(store), context_frames=4, lead_steps=40, part="train")


def test_a_time_outside_a_store_is_refused_with_the_nearest_one(store):
    with pytest.raises(RefusedInput, match="the nearest frame is 2020-06-01T00:00"):
        context_at(open_radar(store), np.datetime64("2019-01-01T00:00", "ns"), 4)


def test_a_context_with_a_gap_is_refused_by_the_name_of_the_missing_time(make_store):
    radar = open_radar(make_store(30, leave_out=(10,)))
    with pytest.raises(RefusedInput, match="no frame at 2020-06-01T00:50"):
        context_at(radar, np.datetime64("2020-06-01T01:00", "ns"), 4)
    with pytest.raises(RefusedInput, match="no frame at 2020-05-31T23:50"):
        context_at(radar, np.datetime64("2020-06-01T00:05", "ns"), 4)


def test_one_forecast_is_verified_against_persistence_that_nobody_gave(make_rain):
    rain = make_rain(14, speed=(2, 1))
    forecast = Extrapolation().forecast(rain[:6], lead_steps=8)
    scores = verify({"extrapolation": forecast}, truth=rain)
    assert set(scores["model"].values) == {"extrapolation", "persistence"}
    assert (scores["mae_skill"].sel(model="extrapolation") > 0.5).all()


def test_forecasts_of_different_times_are_not_compared(make_rain):
    rain = make_rain(14)
    forecasts = {name: Persistence().forecast(rain[:n], lead_steps=3) for name, n in (("a", 6), ("b", 7))}
    with pytest.raises(RefusedInput, match="one reference time"):
        verify(forecasts, truth=rain)


def test_a_forecast_beyond_the_truth_is_refused(make_rain):
    rain = make_rain(8)
    with pytest.raises(RefusedInput, match="the truth holds"):
        verify({"a": Persistence().forecast(rain[:6], lead_steps=3)}, truth=rain)


def test_forecasts_and_truth_on_other_grids_are_not_compared(make_rain):
    rain = make_rain(14)
    forecast = Persistence().forecast(rain[:6], lead_steps=3)
    elsewhere = rain.assign_coords(x=("x", rain["x"].values + 5e4, rain["x"].attrs))
    with pytest.raises(RefusedInput, match="one grid"):
        verify({"a": forecast}, truth=elsewhere)
    slower = forecast.assign_coords(lead_time=forecast["lead_time"] * 2)
    with pytest.raises(RefusedInput, match="one set of lead times"):
        verify({"a": forecast, "b": slower}, truth=rain)
    with pytest.raises(RefusedInput, match="came: steps"):
        verify({"a": forecast}, truth=rain, reference="steps")


def test_names_of_models_never_take_the_place_of_another(tmp_path):
    from nowcast.load import load_forecasters

    assert list(load_forecasters(["persistence", "persistence", "still=persistence"])) == [
        "persistence",
        "still",
    ]
    with pytest.raises(RefusedInput, match="extrapolation is the model of that name"):
        load_forecasters(["extrapolation=persistence"])
    with pytest.raises(RefusedInput, match="different names"):
        load_forecasters(["a=persistence", "a=extrapolation"])
    strange = tmp_path / "epoch=0-step=3.ckpt"
    strange.write_text("no checkpoint")
    with pytest.raises(RefusedInput, match="written by nowcast train"):
        load_forecasters([str(strange)])


def test_the_table_has_a_line_for_every_lead_time_and_a_column_for_every_skill(make_rain):
    rain = make_rain(14)
    starts = valid_starts(rain, context_frames=4, lead_steps=5, part="all")[:2]
    sums = evaluate(MODELS, rain, starts, lead_steps=5)
    table = skill_table(sums, ["persistence"])
    assert table.count("25'") == 3
    assert "extrapolation vs persistence" in table
    assert isinstance(sums, xr.Dataset)
