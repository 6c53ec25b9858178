import numpy as np
import pytest
import torch

from data_prep.schema import RefusedInput
from nowcast.forecaster import member_seed
from nowcast.forecasters.baselines import Extrapolation, ExtrapolationEnsemble, Persistence


def test_persistence_repeats_the_last_frame_with_labels(make_rain):
    rain = make_rain(6, missing_rows=5)
    forecast = Persistence().forecast(rain, lead_steps=3, members=9)
    assert forecast.dims == ("realization", "lead_time", "y", "x")
    assert forecast.sizes["realization"] == 1
    for lead in range(3):
        np.testing.assert_array_equal(forecast.values[0, lead], rain.values[-1])
    assert list(forecast["lead_time"].values / np.timedelta64(1, "m")) == [5, 10, 15]
    assert forecast["time"].values[1] == rain["time"].values[-1] + np.timedelta64(10, "m")
    assert forecast["forecast_reference_time"].values == rain["time"].values[-1]
    assert forecast.attrs["units"] == "mm h-1"
    assert forecast.attrs["model"] == "persistence"


def test_a_lead_time_is_chosen_by_its_length(make_rain):
    forecast = Persistence().forecast(make_rain(6), lead_steps=6)
    assert forecast.sel(lead_time="30min").dims == ("realization", "y", "x")


def test_extrapolation_of_a_moving_blob_is_far_better_than_persistence(make_rain):
    rain = make_rain(16, speed=(2, 1))
    context, truth = rain[:6], rain[6:]
    moved = Extrapolation().forecast(context, lead_steps=10).values[0]
    still = Persistence().forecast(context, lead_steps=10).values[0]
    seen = np.isfinite(moved)
    errors = [np.abs(forecast - truth.values)[seen].mean() for forecast in (moved, still)]
    assert errors[0] < 0.15 * errors[1]


@pytest.mark.parametrize("forecaster", [Persistence(), Extrapolation()], ids=lambda f: f.name)
def test_a_dry_context_gives_a_dry_forecast(make_rain, forecaster):
    dry = make_rain(4).copy(data=np.zeros((4, 64, 64), np.float32))
    assert (forecaster.forecast(dry, lead_steps=4).values == 0).all()


@pytest.mark.parametrize("forecaster", [Persistence(), Extrapolation()], ids=lambda f: f.name)
def test_no_data_stays_no_data(make_rain, forecaster):
    forecast = forecaster.forecast(make_rain(4, speed=(0, 0), missing_rows=10), lead_steps=2)
    assert np.isnan(forecast.values[..., -9:, :]).all()
    assert np.isfinite(forecast.values[..., :54, :]).all()


def all_missing(rain):
    rain.values[-1] = np.nan
    return rain


def missing_in_the_past(rain):
    rain.values[3] = np.nan
    return rain


def negative(rain):
    rain.values[-1, 3, 3] = -0.5
    return rain


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (all_missing, "no observed cell at 2020-06-01T00:25"),
        (negative, "came: -0.5 to"),
        (lambda rain: rain[:3], "holds 4 frames or more; came: 3"),
        (lambda rain: rain.isel(time=[0, 1, 2, 4, 5]), "no frame at 2020-06-01T00:15"),
        (lambda rain: rain.assign_attrs(units="dBZ"), "in 'dBZ'"),
        (lambda rain: rain.drop_vars("crs"), "scalar coordinate 'crs'"),
        (lambda rain: rain[0], "a context is rain rate (time, y, x)"),
    ],
)
def test_unusable_contexts_are_refused(make_rain, damage, finding):
    with pytest.raises(RefusedInput) as refusal:
        Extrapolation().forecast(damage(make_rain(6)), lead_steps=2)
    assert finding in str(refusal.value)


class Exacting(Persistence):
    takes_gaps = False


def test_a_frame_without_data_is_refused_by_those_that_need_all_frames(make_rain):
    damaged = missing_in_the_past(make_rain(6))
    with pytest.raises(RefusedInput, match="no observed cell at 2020-06-01T00:15"):
        Exacting().forecast(damaged)
    np.testing.assert_array_equal(Persistence().forecast(damaged).values[0, 0], damaged.values[-1])


def test_extrapolation_takes_its_motion_from_the_pairs_of_frames_that_there_are(make_rain):
    whole = make_rain(6)
    forecast = Extrapolation().forecast(missing_in_the_past(whole.copy(deep=True)), lead_steps=4)
    expected = Extrapolation().forecast(whole, lead_steps=4)
    both = np.isfinite(forecast.values) & np.isfinite(expected.values)
    assert np.abs(forecast.values - expected.values)[both].max() < 0.5
    assert np.abs(Persistence().forecast(whole, lead_steps=4).values - expected.values)[both].max() > 4
    alone = whole.copy(deep=True)
    alone.values[[2, 4]] = np.nan
    for forecaster in (Extrapolation(), ExtrapolationEnsemble()):
        with pytest.raises(RefusedInput, match="two consecutive frames"):
            forecaster.forecast(alone)


def test_infinite_rates_in_a_context_are_cells_without_data(make_rain):
    rain = make_rain(6)
    rain.values[-1, 3, 3], rain.values[-2, 4, 5] = np.inf, np.inf
    frames = Persistence().recent(rain)
    assert np.isnan(frames.values[-1, 3, 3])
    assert np.isnan(frames.values[-2, 4, 5])
    assert np.isnan(frames.values).sum() == 2
    assert np.isinf(rain.values[-1, 3, 3])  # the caller's own array is left alone
    assert frames.dtype == np.float32


def test_a_frame_of_nothing_but_infinite_rates_holds_no_data(make_rain):
    rain = make_rain(6)
    rain.values[-1] = np.inf
    with pytest.raises(RefusedInput, match="no observed cell at 2020-06-01T00:25"):
        Persistence().forecast(rain)


@pytest.mark.parametrize("wrong", [{"lead_steps": 0}, {"members": 0}, {"seed": -1}])
def test_senseless_requests_are_refused(make_rain, wrong):
    with pytest.raises(RefusedInput, match="lead_steps and members are 1 or more"):
        Persistence().forecast(make_rain(6), **wrong)


def test_seeds_of_members_differ_and_do_not_depend_on_how_many_there_are():
    time = np.datetime64("2020-06-01T00:00", "ns")
    seeds = {member_seed(1, time, member) for member in range(1000)}
    assert len(seeds) == 1000
    assert member_seed(1, time, 7) in seeds
    assert member_seed(1, time + np.timedelta64(5, "m"), 7) not in seeds
    assert member_seed(2, time, 7) not in seeds
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_grid_with_a_hole_is_refused(make_rain, axis):
    rain = make_rain(2)
    with pytest.raises(RefusedInput, match=f"the {axis} of a context are two or more cells at one distance"):
        Extrapolation().forecast(rain.drop_isel({axis: range(20, 30)}))


def test_a_context_without_longitudes_is_refused_in_one_line(make_rain):
    with pytest.raises(RefusedInput, match="came: no lat, lon"):
        Persistence().forecast(make_rain(2).drop_vars(["lat", "lon"]))
