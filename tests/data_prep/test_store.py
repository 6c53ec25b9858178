import numpy as np
import pytest
import xarray as xr
import zarr

from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.schema import RefusedInput, open_radar, open_store, validate
from data_prep.store import About, Grid, lock, pack, shard_frames_for, unpack


def write(path, rain, **recipe):
    return prepare_arrays(iter([rain]), path, Recipe(sampling=None, **recipe))


def test_values_come_back_to_half_a_step_and_missing_stays_missing(make_rain, tmp_path):
    rain = make_rain(6, missing_rows=7)
    write(tmp_path / "a.zarr", rain)
    stored = open_radar(tmp_path / "a.zarr")
    np.testing.assert_array_equal(np.isnan(stored.values), np.isnan(rain.values))
    assert np.nanmax(np.abs(stored.values - rain.values)) <= 0.005 + 1e-6


def test_plain_xarray_reads_a_georeferenced_rate(make_rain, tmp_path):
    write(tmp_path / "a.zarr", make_rain(4), about=About(title="A title"))
    dataset = xr.open_zarr(tmp_path / "a.zarr")
    assert dataset.attrs["title"] == "A title"
    assert dataset["rainfall_rate"].attrs["standard_name"] == "rainfall_flux"
    assert {"lat", "lon", "crs", "missing_times"} <= set(dataset.coords)
    assert "spatial_ref" in dataset["crs"].attrs
    assert dataset["rainfall_rate"].encoding["_FillValue"] == 65535


def test_dry_frames_take_no_room(make_rain, tmp_path):
    rain = make_rain(48) * 0
    write(tmp_path / "a.zarr", rain.assign_attrs(make_rain().attrs))
    assert zarr.open_array(tmp_path / "a.zarr", path="rainfall_rate", mode="r").nchunks_initialized == 0


def test_appending_in_parts_gives_the_store_that_writing_at_once_gives(make_rain, tmp_path):
    rain = make_rain(70, missing_rows=3)
    prepare_arrays(iter([rain]), tmp_path / "whole.zarr", Recipe(sampling=None))
    parts = [rain[:3], rain[3:50], rain[50:]]
    prepare_arrays(iter(parts), tmp_path / "parts.zarr", Recipe(sampling=None))
    whole, grown = open_store(tmp_path / "whole.zarr"), open_store(tmp_path / "parts.zarr")
    xr.testing.assert_equal(whole, grown)
    assert whole.attrs.keys() == grown.attrs.keys()
    assert validate(grown) == []


def test_a_gap_that_appending_opens_is_named(make_rain, tmp_path):
    write(tmp_path / "a.zarr", make_rain(4))
    write(tmp_path / "a.zarr", make_rain(4, first=6))
    named = open_store(tmp_path / "a.zarr")["missing_times"].values
    assert list(named) == [np.datetime64("2020-06-01T00:20"), np.datetime64("2020-06-01T00:25")]


@pytest.mark.parametrize("broken", ["rainfall_rate", "split", "time", "missing_times", "consolidated"])
def test_an_interrupted_append_is_invisible_and_the_next_one_heals_it(
    make_rain, tmp_path, monkeypatch, broken
):
    path, rain = tmp_path / "a.zarr", make_rain(20)
    write(path, rain[:6])
    before = open_store(path).load()

    def fail(_path=None, **_settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if broken == "consolidated":
            patch.setattr("data_prep.store.consolidate", fail)
        else:
            original = zarr.Array.__setitem__

            def set_item(array, selection, value):
                if array.basename == broken:
                    fail()
                original(array, selection, value)

            patch.setattr(zarr.Array, "__setitem__", set_item)
        with pytest.raises(KeyboardInterrupt):
            write(path, rain[6:15])
    xr.testing.assert_identical(open_store(path).load(), before)
    assert validate(open_store(path)) == []
    write(path, rain[6:10])
    np.testing.assert_allclose(open_radar(path).values, rain[:10].values, atol=0.006)
    assert validate(open_store(path)) == []


@pytest.mark.parametrize("rate", [-1.0, 700.0, np.inf])
def test_rates_that_packing_would_turn_into_others_are_refused(make_rain, tmp_path, rate):
    rain = make_rain(4)
    rain.values[1, 2, 3] = rate
    with pytest.raises(RefusedInput, match="rain rates in a store lie between 0 and 655.34"):
        write(tmp_path / "a.zarr", rain)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused(make_rain, tmp_path):
    with lock(tmp_path / "a.zarr"), pytest.raises(RefusedInput, match="one process writes to a store"):
        prepare_arrays(iter([make_rain(4)]), tmp_path / "a.zarr", Recipe(sampling=None))
    assert list(tmp_path.iterdir()) == []
    prepare_arrays(iter([make_rain(4)]), tmp_path / "a.zarr", Recipe(sampling=None))


@pytest.mark.parametrize("other", [{"size": 48}, {"spacing": 2000.0}])
def test_a_store_keeps_one_grid(make_rain, tmp_path, other):
    write(tmp_path / "a.zarr", make_rain(4))
    with pytest.raises(RefusedInput, match="a store holds one grid"):
        write(tmp_path / "a.zarr", make_rain(4, first=4, **other))
    assert open_radar(tmp_path / "a.zarr").sizes["time"] == 4


def test_frames_off_the_clock_of_a_store_are_refused(make_rain, tmp_path):
    write(tmp_path / "a.zarr", make_rain(4))
    late = make_rain(4, first=5)
    late = late.assign_coords(time=late["time"] + np.timedelta64(1, "m"))
    with pytest.raises(RefusedInput, match="regular clock"):
        write(tmp_path / "a.zarr", late)
    assert open_radar(tmp_path / "a.zarr").sizes["time"] == 4


def test_a_store_that_cannot_be_written_leaves_nothing_behind(make_rain, tmp_path):
    with pytest.raises(RefusedInput):
        write(tmp_path / "a.zarr", make_rain(1))
    assert list(tmp_path.iterdir()) == []


def test_the_archive_layout_holds_one_frame_in_a_chunk(make_rain, tmp_path):
    write(tmp_path / "a.zarr", make_rain(4), layout="archive")
    array = zarr.open_array(tmp_path / "a.zarr", path="rainfall_rate", mode="r")
    assert array.chunks == (1, 64, 64)
    assert open_radar(tmp_path / "a.zarr")[2].notnull().all()


def test_packing_keeps_rates_to_half_a_step_caps_them_and_knows_missing_from_dry():
    rate = np.float32([[0, 0.004, 0.006, 1.44], [127.999, 500, np.nan, 0.015]])
    packed = pack(rate, cap=128)
    np.testing.assert_array_equal(packed, [[0, 0, 1, 144], [12800, 12800, 65535, 2]])
    np.testing.assert_allclose(unpack(packed)[1], [128, 128, np.nan, 0.02], rtol=1e-6)


def test_a_large_grid_has_smaller_shards():
    assert shard_frames_for(Grid(np.arange(700), np.arange(765), "")) == 24
    assert shard_frames_for(Grid(np.arange(1900), np.arange(2200), "")) == 12
