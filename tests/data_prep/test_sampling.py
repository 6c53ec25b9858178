import dataclasses
import os
import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
import zarr

from data_prep import sampling as sampling_module
from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.sampling import Sampling, draw_samples, window_sums, write_samples
from data_prep.schema import SPLITS, RefusedInput, open_store
from data_prep.splits import Splits

SMALL = Sampling(frames=6, height=32, width=32, stride=16, q_min=0.3, m=0.5)


def dataset(rain, codes=None):
    codes = np.zeros(rain.sizes["time"], np.int8) if codes is None else codes
    return rain.to_dataset().assign_coords(split=("time", np.asarray(codes, np.int8)))


@pytest.fixture
def append(make_rain):
    """Append frames of one rain to a store, without drawing windows."""
    # Blocks of one hour, so that borders of splits and guard gaps lie in what is appended.
    splits = Splits(origin="2020-06-01T00:00", block_minutes=60, guard_minutes=10, cycle=("train", "test"))
    recipe = Recipe(sampling=None, splits=splits)

    def call(store, first, last, *, without=()):
        frames = [n for n in range(first, last) if n not in without]
        prepare_arrays(iter([make_rain(last, missing_rows=8).isel(time=frames)]), store, recipe)
        return store

    return call


def index_of(store):
    return xr.open_zarr(store, group="samples", chunks=None, consolidated=False).load()


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


def test_every_window_sum_is_that_of_its_cells(make_rain):
    rain = make_rain(20, 80, missing_rows=20)
    size = Sampling(frames=5, height=48, width=32, stride=16)
    starts = np.array([0, 1, 2, 9, 10, 15])
    found = list(window_sums(rain, starts, size, lambda rate: np.isnan(rate)[None].astype(np.float32)))
    assert [window.start for window in found] == starts.tolist()
    for start, sums in found:
        assert sums.shape == (1, 3, 4)
        for row in range(3):
            for column in range(4):
                cells = rain[start : start + 5, row * 16 : row * 16 + 48, column * 16 : column * 16 + 32]
                assert sums[0, row, column] == np.isnan(cells.values).sum()


def test_frames_are_read_once_and_only_where_there_are_windows(make_rain, monkeypatch):
    read = []
    original = sampling_module._block_sums

    def count(measures, stride):
        read.append(float(measures[0, 0, 0]))
        return original(measures, stride)

    monkeypatch.setattr(sampling_module, "_block_sums", count)
    rain = make_rain(40)
    rain.values[:] = np.arange(40)[:, None, None]
    starts = np.array([0, 3, 20, 21])
    assert len(list(window_sums(rain, starts, Sampling(frames=5), lambda rate: rate[None]))) == 4
    assert read == [*range(8), *range(20, 26)]


def test_windows_start_at_multiples_of_the_time_stride_whatever_the_archive_begins_with(make_rain):
    sampling = Sampling(frames=2, height=32, width=32, q_min=1.0, time_stride=4)
    for first in (0, 3):
        index = draw_samples(dataset(make_rain(20, first=first)), sampling)
        minutes = index["start_time"].values.astype("datetime64[m]").astype(int) % 60
        assert set(minutes) == {0, 20, 40}


@pytest.mark.parametrize("frames_at_once", [1, 5, 240])
def test_the_draw_does_not_depend_on_how_the_archive_is_cut(make_rain, monkeypatch, frames_at_once):
    rain = dataset(make_rain(40, missing_rows=5))
    expected = draw_samples(rain, SMALL)
    monkeypatch.setattr(sampling_module, "FRAMES_AT_ONCE", frames_at_once)
    assert draw_samples(rain, SMALL).identical(expected)


@pytest.mark.parametrize("cuts", [(4, 5, 6, 7), (13, 30), (44,), (3, 25, 26, 45)])
def test_an_index_that_grew_is_the_index_drawn_at_once(append, tmp_path, cuts):
    grown, whole, gaps = tmp_path / "grown.zarr", tmp_path / "whole.zarr", (20, 33)
    for first, last in zip((0, *cuts), (*cuts, 50), strict=True):
        write_samples(append(grown, first, last, without=gaps), SMALL)
    assert write_samples(append(whole, 0, 50, without=gaps), SMALL) > 30
    xr.testing.assert_identical(index_of(grown), index_of(whole))
    drawn = draw_samples(open_store(whole), SMALL)
    xr.testing.assert_identical(index_of(whole).drop_encoding(), drawn)


def test_growing_reads_no_more_than_the_new_frames_and_one_window_before(append, tmp_path, monkeypatch):
    store, read = tmp_path / "a.zarr", []
    write_samples(append(store, 0, 30), SMALL)
    original = sampling_module._frames

    def watch(rain, first, stop):
        read.extend(range(first, stop))
        return original(rain, first, stop)

    monkeypatch.setattr(sampling_module, "_frames", watch)
    write_samples(append(store, 30, 34), SMALL)
    assert read == list(range(25, 34))
    write_samples(store, SMALL)
    assert len(read) == 9


@pytest.mark.parametrize("change", ["setting", "split", "digest", "absent", "lost"])
def test_everything_is_drawn_anew_where_the_index_is_not_one_of_these_frames_and_settings(
    append, tmp_path, change
):
    store, again = append(tmp_path / "a.zarr", 0, 40), append(tmp_path / "b.zarr", 0, 40)
    write_samples(store, SMALL)
    sampling = dataclasses.replace(SMALL, seed=5) if change == "setting" else SMALL
    if change == "split":
        for path in (store, again):
            codes = zarr.open_array(path, path="split", mode="r+")
            codes[:] = SPLITS.index("validation")
    elif change == "digest":
        zarr.open_group(store, path="samples", mode="r+").attrs["frames_digest"] = "another"
    elif change == "absent":
        shutil.rmtree(store / "samples")
    elif change == "lost":
        shutil.rmtree(store / "samples" / "start_time" / "c")
    write_samples(store, sampling)
    write_samples(again, sampling)
    xr.testing.assert_identical(index_of(store), index_of(again))
    assert index_of(store).sizes["sample"] > 0


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_that_is_killed_leaves_an_index_or_none_and_the_next_run_a_whole_one(
    append, tmp_path, monkeypatch, step
):
    store, whole = tmp_path / "a.zarr", append(tmp_path / "b.zarr", 0, 40)
    write_samples(append(store, 0, 30), SMALL)
    before = index_of(store)
    append(store, 30, 40)
    calls = []

    def killed(original):
        def call(*arguments):
            calls.append(original)
            if len(calls) == step:
                raise KeyboardInterrupt
            return original(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(sampling_module, "os", SimpleNamespace(replace=killed(os.replace)))
        patch.setattr(sampling_module, "consolidate", killed(sampling_module.consolidate))
        with pytest.raises(KeyboardInterrupt):
            write_samples(store, SMALL)
    if step == 1:
        xr.testing.assert_identical(index_of(store), before)
    assert (store / "samples").exists() == (step != 2)
    write_samples(store, SMALL)
    write_samples(whole, SMALL)
    xr.testing.assert_identical(index_of(store), index_of(whole))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a.zarr", "b.zarr"]


def test_the_memory_of_a_draw_does_not_grow_with_the_archive(make_store, make_rain):
    peaks = []
    for frames in (48, 192):
        rain = make_rain(frames, 192, speed=(0.1, 0.1))
        opened = open_store(make_store(rain=rain, sampling=None))
        del rain
        tracemalloc.start()
        draw_samples(opened, Sampling(frames=6, height=64, width=64, q_min=0, m=0.01))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


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
