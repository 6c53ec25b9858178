import os

import numpy as np
import pytest
import xarray as xr
from verification_models import SETTINGS, Noisy, frame_time, store_forecasts

from data_prep.schema import RefusedInput
from nowcast.evaluation.cases import Case
from nowcast.evaluation.hindcasts import Hindcasts, score_case
from nowcast.forecasters.stored_forecasts import StoredForecasts, on_one_grid
from nowcast.products.forecast_file import file_stem, forecast_to_file
from nowcast.products.write import Products, write_products


@pytest.fixture(scope="module")
def rain(make_rain):
    return make_rain(14, missing_rows=6)


@pytest.fixture
def folder(rain, tmp_path):
    return store_forecasts(tmp_path / "noisy", Noisy(), rain, [4, 6])


def stream(folder, context, *, lead_steps=3, members=3) -> np.ndarray:
    stored = StoredForecasts(folder)
    return np.stack(list(stored.stream(context, lead_steps=lead_steps, members=members, seed=0)))


def age(path, seconds: float) -> None:
    """Make a file look as if it was written earlier."""
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))


def test_stored_forecasts_score_as_those_made_on_the_spot(rain, folder):
    settings = {"lead_steps": 3, "members": 3, "scores": SETTINGS}
    case = Case(frame_time(4))
    stored = score_case(Hindcasts({"noisy": StoredForecasts(folder)}, rain, **settings), case)
    made = score_case(Hindcasts({"noisy": Noisy()}, rain, **settings), case)
    xr.testing.assert_identical(stored, made)


def test_a_folder_is_as_good_as_its_files(rain, folder):
    stored = StoredForecasts(folder)
    assert list(stored.times) == [frame_time(4), frame_time(6)]
    assert stored.name == "noisy"
    np.testing.assert_array_equal(stream(folder / "004.nc", rain[:5]), stream(folder, rain[:5]))


def test_a_pattern_finds_forecasts_in_folders_and_passes_their_products_by(rain, tmp_path):
    for number in (4, 6):
        stem = file_stem("noisy", "here", frame_time(number))
        folder = tmp_path / stem.split("_")[-1]
        forecast_to_file(folder / f"{stem}.nc", Noisy(), rain[: number + 1], lead_steps=2, members=2)
        write_products(
            folder / f"{stem}.nc", folder, Products(kinds=("mean",), picture=False, loop=None), stem=stem
        )
    stored = StoredForecasts(tmp_path, pattern="*/*Z.nc")
    assert list(stored.times) == [frame_time(4), frame_time(6)]
    assert stored.refused == {}
    with pytest.raises(RefusedInput, match=r"no \*Z.nc in"):
        StoredForecasts(tmp_path, pattern="*Z.nc")


def test_fewer_members_and_lead_times_can_be_asked_for(rain, folder):
    whole = stream(folder, rain[:5])
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(stream(folder, rain[:5], lead_steps=2, members=1), whole[:1, :2])
    assert StoredForecasts(folder).member_count(20) == 3
    assert StoredForecasts(folder).member_count(2) == 2


def test_a_window_of_the_grid_is_cut_out(rain, folder):
    window = {"y": slice(10, 42), "x": slice(5, 37)}
    np.testing.assert_array_equal(
        stream(folder, rain[:5].isel(window)), stream(folder, rain[:5])[..., 10:42, 5:37]
    )


def test_a_reference_time_without_a_forecast_is_refused(rain, folder):
    with pytest.raises(RefusedInput, match="none from 2020-06-01T00:25 in noisy"):
        stream(folder, rain[:6])


@pytest.mark.parametrize("spacing", [1000.5, 2000.0])
def test_a_forecast_on_another_grid_is_refused(folder, make_rain, spacing):
    with pytest.raises(RefusedInput, match="lie on one grid"):
        stream(folder, make_rain(5, spacing=spacing))


def test_a_forecast_elsewhere_or_upside_down_is_refused(rain, folder):
    context = rain[:5]
    moved = context.assign_coords(x=("x", context["x"].values + 300, context["x"].attrs))
    for other in (moved, context[:, ::-1]):
        with pytest.raises(RefusedInput, match="lie on one grid"):
            stream(folder, other)


def test_a_grid_is_the_same_within_a_thousandth_of_a_cell(rain):
    near = rain.assign_coords(x=("x", rain["x"].values + 0.5, rain["x"].attrs))
    far = rain.assign_coords(x=("x", rain["x"].values + 5, rain["x"].attrs))
    assert on_one_grid(rain, near)
    assert not on_one_grid(rain, far)
    assert not on_one_grid(rain, rain[:, :, 1:])


def test_a_forecast_in_another_unit_is_refused(rain, folder):
    import netCDF4

    with netCDF4.Dataset(folder / "004.nc", "a") as file:
        file["rainfall_rate"].units = "dBZ"
    with pytest.raises(RefusedInput, match="'dBZ'"):
        stream(folder, rain[:5])


def test_a_lead_time_that_is_missing_is_refused_by_name(rain, folder):
    with pytest.raises(RefusedInput, match=r"no lead time of 20 min in .*004\.nc"):
        stream(folder, rain[:5], lead_steps=4)


def test_a_forecast_with_fewer_members_than_the_others_is_refused(rain, folder):
    store_forecasts(folder, Noisy(), rain, [5], members=2)
    assert StoredForecasts(folder).member_count(20) == 3
    with pytest.raises(RefusedInput, match=r"every forecast holds 3 members; came: 2 in .*005\.nc"):
        stream(folder, rain[:6])


def test_a_damaged_file_is_named_and_the_others_can_be_used(folder):
    path = folder / "006.nc"
    path.write_bytes(path.read_bytes()[:2000])
    stored = StoredForecasts(folder)
    assert list(stored.times) == [frame_time(4)]
    assert list(stored.refused) == ["006.nc"]
    with pytest.raises(RefusedInput, match=r"unreadable: 006\.nc"):
        stored.file_of(frame_time(6))


def test_damage_inside_a_file_is_refused_when_it_is_read(rain, folder):
    import h5py

    with h5py.File(folder / "004.nc") as file:
        place = file["rainfall_rate"].id.get_chunk_info_by_coord((2, 1, 0, 0))
    with (folder / "004.nc").open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)
    with pytest.raises(RefusedInput, match=r"a forecast file can be read; came: .*004\.nc"):
        stream(folder, rain[:5])
    assert stream(folder, rain[:5], members=2).shape == (2, 3, 64, 64)


def test_an_empty_folder_and_one_of_other_files_are_refused(tmp_path):
    with pytest.raises(RefusedInput, match=r"no \*\.nc in"):
        StoredForecasts(tmp_path)
    with pytest.raises(RefusedInput, match=r"no \*\.nc in"):
        StoredForecasts(tmp_path / "absent")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(RefusedInput, match=r"came: other\.nc"):
        StoredForecasts(tmp_path)


def test_of_two_files_for_one_time_the_newest_counts(rain, folder):
    wet = store_forecasts(folder / "again", Noisy(spread=0.1), rain, [4], members=2) / "004.nc"
    again = wet.rename(folder / "000_again.nc")
    age(again, 100)
    assert StoredForecasts(folder).file_of(frame_time(4)).path.name == "004.nc"
    age(folder / "004.nc", 200)
    stored = StoredForecasts(folder)
    assert stored.file_of(frame_time(4)).path == again
    again.unlink()
    stored.refresh()
    assert stored.file_of(frame_time(4)).path.name == "004.nc"


def test_the_number_of_members_is_that_of_the_files_that_count(rain, tmp_path):
    folder = store_forecasts(tmp_path, Noisy(), rain, [4], members=5)
    age(folder / "004.nc", 100)
    (folder / "004.nc").rename(folder / "old.nc")
    store_forecasts(folder, Noisy(), rain, [4], members=2)
    assert StoredForecasts(folder).member_count(20) == 2
    assert stream(folder, rain[:5], members=2).shape[0] == 2


def test_a_folder_that_grows_or_changes_is_looked_at_again(rain, folder):
    stored = StoredForecasts(folder)
    before = stored.provenance()
    store_forecasts(folder, Noisy(), rain, [5])
    (folder / "006.nc").unlink()
    assert list(stored.times) == [frame_time(4), frame_time(6)]
    stored.refresh()
    assert list(stored.times) == [frame_time(4), frame_time(5)]
    assert stored.provenance() != before
