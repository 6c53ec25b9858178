import numpy as np
import pytest
import xarray as xr
import zarr

from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.schema import RefusedInput, open_radar, open_store, validate
from data_prep.store import About, write_frames


def with_split(rain):
    return rain.to_dataset().assign_coords(split=("time", np.zeros(rain.sizes["time"], np.int8)))


def test_values_come_back_to_half_a_step_and_missing_stays_missing(make_rain, tmp_path):
    rain = make_rain(6, missing_rows=7)
    write_frames(tmp_path / "a.zarr", with_split(rain), about=About())
    stored = open_radar(tmp_path / "a.zarr")
    np.testing.assert_array_equal(np.isnan(stored.values), np.isnan(rain.values))
    assert np.nanmax(np.abs(stored.values - rain.values)) <= 0.005 + 1e-6


def test_plain_xarray_reads_a_georeferenced_rate(make_rain, tmp_path):
    write_frames(tmp_path / "a.zarr", with_split(make_rain(4)), about=About(title="A title"))
    dataset = xr.open_zarr(tmp_path / "a.zarr")
    assert dataset.attrs["title"] == "A title"
    assert dataset["rainfall_rate"].attrs["standard_name"] == "rainfall_flux"
    assert {"lat", "lon", "crs", "missing_times"} <= set(dataset.coords)
    assert "spatial_ref" in dataset["crs"].attrs
    assert dataset["rainfall_rate"].encoding["_FillValue"] == 65535


def test_dry_frames_take_no_room(make_rain, tmp_path):
    rain = make_rain(48) * 0
    write_frames(tmp_path / "a.zarr", with_split(rain.assign_attrs(make_rain().attrs)), about=About())
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
    write_frames(tmp_path / "a.zarr", with_split(make_rain(4)), about=About())
    write_frames(tmp_path / "a.zarr", with_split(make_rain(4, first=6)), about=About())
    named = open_store(tmp_path / "a.zarr")["missing_times"].values
    assert list(named) == [np.datetime64("2020-06-01T00:20"), np.datetime64("2020-06-01T00:25")]


@pytest.mark.parametrize("other", [{"size": 48}, {"spacing": 2000.0}])
def test_a_store_keeps_one_grid(make_rain, tmp_path, other):
    write_frames(tmp_path / "a.zarr", with_split(make_rain(4)), about=About())
    with pytest.raises(RefusedInput, match="a store holds one grid"):
        write_frames(tmp_path / "a.zarr", with_split(make_rain(4, first=4, **other)), about=About())
    assert open_radar(tmp_path / "a.zarr").sizes["time"] == 4


def test_frames_off_the_clock_of_a_store_are_refused(make_rain, tmp_path):
    write_frames(tmp_path / "a.zarr", with_split(make_rain(4)), about=About())
    late = make_rain(4, first=5)
    late = late.assign_coords(time=late["time"] + np.timedelta64(1, "m"))
    with pytest.raises(RefusedInput, match="regular clock"):
        write_frames(tmp_path / "a.zarr", with_split(late), about=About())
    assert open_radar(tmp_path / "a.zarr").sizes["time"] == 4


def test_a_store_that_cannot_be_written_leaves_nothing_behind(make_rain, tmp_path):
    with pytest.raises(RefusedInput):
        write_frames(tmp_path / "a.zarr", with_split(make_rain(1)), about=About())
    assert list(tmp_path.iterdir()) == []


def test_the_archive_layout_holds_one_frame_in_a_chunk(make_rain, tmp_path):
    write_frames(tmp_path / "a.zarr", with_split(make_rain(4)), about=About(), layout="archive")
    array = zarr.open_array(tmp_path / "a.zarr", path="rainfall_rate", mode="r")
    assert array.chunks == (1, 64, 64)
    assert open_radar(tmp_path / "a.zarr")[2].notnull().all()
