import numpy as np
import pytest

from data_prep.sampling import Sampling, draw_samples
from data_prep.schema import SPLITS, RefusedInput


def dataset(rain, codes=None):
    codes = np.zeros(rain.sizes["time"], np.int8) if codes is None else codes
    return rain.to_dataset().assign_coords(split=("time", np.asarray(codes, np.int8)))


def test_the_probability_is_the_formula_worked_by_hand(make_rain):
    rain = make_rain(6, 32)
    rain.values[:] = 0
    rain.values[:, :16, :16] = 1.0
    rain.values[:, 16:, 16:] = np.nan
    sampling = Sampling(frames=6, height=32, width=32, stride=16, q_min=0.3, m=0.4, s=1.0, seed=3)
    index = draw_samples(dataset(rain), sampling)
    # A quarter of the cells is wet with 1 - 1/e; missing cells count as dry.
    assert index["probability"].values == pytest.approx(0.3 + 0.4 * 0.25 * (1 - np.exp(-1)))


def test_rain_is_preferred_in_the_proportion_of_the_probabilities(make_rain):
    rain = make_rain(400, 64, speed=(0, 0))
    rain.values[:] = 0
    rain.values[:, :, :32] = 50.0
    sampling = Sampling(frames=1, height=32, width=32, stride=32, q_min=0.1, m=0.5)
    index = draw_samples(dataset(rain), sampling)
    wet = int((index["x"] == 0).sum())
    dry = int((index["x"] == 32).sum())
    assert wet / 800 == pytest.approx(0.6, abs=0.06)
    assert dry / 800 == pytest.approx(0.1, abs=0.04)


def test_windows_never_cross_a_gap_or_the_border_of_two_splits(make_rain):
    rain = make_rain(40).isel(time=[n for n in range(40) if n != 12])
    codes = np.where(np.arange(39) < 25, 0, 2)
    sampling = Sampling(frames=6, height=32, width=32, stride=32, q_min=1.0)
    index = draw_samples(dataset(rain, codes), sampling)
    times = rain["time"].values
    for start, split in zip(index["start_time"].values, index["split"].values, strict=True):
        first = int(np.searchsorted(times, start))
        assert times[first + 5] - times[first] == np.timedelta64(25, "m")
        assert set(codes[first : first + 6]) == {split}
    assert set(index["split"].values) == {SPLITS.index("train"), SPLITS.index("test")}


def test_guarded_frames_are_in_no_window(make_rain):
    sampling = Sampling(frames=6, height=32, width=32, stride=32, q_min=1.0)
    index = draw_samples(dataset(make_rain(10), np.full(10, SPLITS.index("guard"))), sampling)
    assert index.sizes["sample"] == 0


def test_windows_without_enough_data_are_left_out(make_rain):
    rain = make_rain(8, missing_rows=40)
    sampling = Sampling(frames=6, height=32, width=32, stride=16, q_min=1.0, min_observed=0.5)
    assert set(draw_samples(dataset(rain), sampling)["y"].values) == {0}


def test_the_same_seed_draws_the_same_windows_and_another_draws_others(make_rain):
    rain = dataset(make_rain(30))
    first = draw_samples(rain, Sampling(frames=6, height=32, width=32, stride=16, q_min=0.5))
    again = draw_samples(rain, Sampling(frames=6, height=32, width=32, stride=16, q_min=0.5))
    other = draw_samples(rain, Sampling(frames=6, height=32, width=32, stride=16, q_min=0.5, seed=1))
    assert first.drop_attrs().identical(again.drop_attrs())
    assert first.sizes != other.sizes or not first["start_time"].equals(other["start_time"])


def test_a_longer_archive_keeps_the_windows_it_had(make_rain):
    sampling = Sampling(frames=6, height=32, width=32, stride=16, q_min=0.5)
    short = draw_samples(dataset(make_rain(20)), sampling)
    long = draw_samples(dataset(make_rain(30)), sampling)
    count = short.sizes["sample"]
    assert short.drop_attrs().identical(long.isel(sample=slice(count)).drop_attrs())


def test_a_grid_smaller_than_a_window_is_refused(make_rain):
    with pytest.raises(RefusedInput, match="fits into the grid"):
        draw_samples(dataset(make_rain(30, 32)), Sampling(frames=6))


def test_a_stride_that_does_not_divide_the_window_is_refused():
    with pytest.raises(RefusedInput, match="stride divides"):
        Sampling(height=100, stride=32)
