import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.live import LiveFrames
from data_prep.pipeline import Recipe, prepare
from data_prep.schema import RefusedInput, open_radar

RECIPE = Recipe(pattern="**/RAD_NL25_*.h5", reader="knmi_hdf5", time_step_minutes=5.0, sampling=None)
DOUBTED = ("repeated", "level_jump", "gone_dry")


def at(clock: str) -> np.datetime64:
    return np.datetime64(f"2010-08-26T{clock}", "ns")


def file_of(clock: str) -> str:
    return f"RAD_NL25_RAP_5min_20100826{clock.replace(':', '')}.h5"


@pytest.fixture
def archive(radar_data) -> Path:
    return radar_data / "knmi/2010/08"


@pytest.fixture
def folder(archive, tmp_path) -> Path:
    """Six frames up to 05:00."""
    for clock in ("04:35", "04:40", "04:45", "04:50", "04:55", "05:00"):
        shutil.copy(archive / file_of(clock), tmp_path)
    return tmp_path


def frames_of(folder: Path, **settings) -> LiveFrames:
    live = LiveFrames(folder, RECIPE, **settings)
    live.look(at("05:02"), 0.0)
    live.look(at("05:02"), 10.0)
    return live


@pytest.mark.radar
def test_live_frames_hold_the_values_of_a_store(folder, tmp_path):
    prepare(folder, tmp_path / "r.zarr", RECIPE)
    window = frames_of(folder).window(at("05:00"), 4)
    stored = open_radar(tmp_path / "r.zarr").values[-4:].astype(np.float32)
    np.testing.assert_array_equal(window.rain.values, stored)
    assert window.reasons == ("", "", "", "")
    assert window.files[-1] == file_of("05:00")


@pytest.mark.radar
def test_a_file_counts_once_it_has_stopped_growing(archive, tmp_path):
    whole = (archive / file_of("05:00")).read_bytes()
    growing = tmp_path / file_of("05:00")
    growing.write_bytes(whole[:20000])
    live = LiveFrames(tmp_path, RECIPE, settle_seconds=2)
    assert live.look(at("05:01"), 0.0) == []
    assert live.waits
    growing.write_bytes(whole)
    live.look(at("05:01"), 1.0)
    live.look(at("05:01"), 2.5)
    assert not live.holds(at("05:00"))  # changed 1.5 s ago
    live.look(at("05:01"), 3.5)
    assert live.holds(at("05:00"))
    assert not live.waits


@pytest.mark.radar
@pytest.mark.parametrize("size", [0, 3000])
def test_a_broken_file_is_named_once_and_read_again_when_it_is_whole(archive, tmp_path, size):
    whole = (archive / file_of("05:00")).read_bytes()
    path = tmp_path / file_of("05:00")
    path.write_bytes(whole[:size])
    live = LiveFrames(tmp_path, RECIPE, settle_seconds=0)
    (refusal,) = live.look(at("05:01"), 0.0)
    assert refusal.file == str(path)
    assert live.look(at("05:01"), 5.0) == []
    path.write_bytes(whole)
    assert live.look(at("05:01"), 6.0) == []
    assert live.holds(at("05:00"))


@pytest.mark.radar
def test_values_that_cannot_be_read_leave_a_missing_frame_with_its_reason(folder):
    with h5py.File(folder / file_of("04:55"), "r+") as file:
        del file["image1/image_data"]
    window = frames_of(folder).window(at("05:00"), 4)
    assert [bool(reason) for reason in window.reasons] == [False, False, True, False]
    assert np.isnan(window.rain.values[2]).all()
    assert window.files[2] == ""


@pytest.mark.radar
def test_an_absent_frame_is_missing_and_the_others_keep_their_places(folder):
    (folder / file_of("04:50")).unlink()
    window = frames_of(folder).window(at("05:00"), 4)
    assert window.reasons == ("", "no file", "", "")
    assert window.rain["time"].values[1] == at("04:50")


@pytest.mark.radar
def test_a_frame_from_the_future_stays_out_even_when_its_time_has_come(folder, archive):
    shutil.copy(archive / file_of("05:20"), folder)
    live = frames_of(folder)
    assert not live.holds(at("05:20"))
    live.look(at("05:21"), 20.0)
    assert not live.holds(at("05:20"))
    live.forget_future()  # it was the clock of this machine that was wrong
    live.look(at("05:21"), 30.0)
    assert live.holds(at("05:20"))


@pytest.mark.radar
def test_later_frames_are_passed_over_without_a_word_where_a_time_is_given(folder, archive):
    shutil.copy(archive / file_of("05:20"), folder)
    live = LiveFrames(folder, RECIPE, until=at("04:55"))
    assert live.look(at("04:55"), 0.0) + live.look(at("04:55"), 10.0) == []
    assert live.newest == at("04:55")


@pytest.mark.radar
def test_of_two_files_of_one_time_one_counts_and_the_other_is_named(folder):
    shutil.copy(folder / file_of("05:00"), folder / file_of("05:00").replace("RAP", "RAQ"))
    live = LiveFrames(folder, RECIPE, settle_seconds=0)
    (refusal,) = live.look(at("05:02"), 0.0)
    assert "the same bytes" in refusal.reason


@pytest.mark.radar
def test_a_doubtful_frame_is_missing_and_the_next_is_compared_with_the_last_good_one(folder):
    with h5py.File(folder / file_of("04:50"), "r+") as file:
        values = file["image1/image_data"][...]
        file["image1/image_data"][...] = np.where(values == 65535, values, values * 10)
    shutil.copy(folder / file_of("04:55"), folder / file_of("05:00"))
    with h5py.File(folder / file_of("05:00"), "r+") as file:
        file["overview"].attrs["product_datetime_start"] = b"26-AUG-2010;04:55:00.000"
        file["overview"].attrs["product_datetime_end"] = b"26-AUG-2010;05:00:00.000"
    live = frames_of(folder)
    assert live.window(at("05:00"), 6).reasons == ("",) * 6
    window = live.window(at("05:00"), 6, doubted=DOUBTED)
    assert [reason.removeprefix("it is marked ") for reason in window.reasons] == [
        "", "", "", "level_jump", "", "repeated"
    ]  # fmt: skip


@pytest.mark.radar
def test_an_empty_frame_in_the_midst_of_rain_is_doubtful(folder):
    with h5py.File(folder / file_of("05:00"), "r+") as file:
        values = file["image1/image_data"][...]
        file["image1/image_data"][...] = np.where(values == 65535, values, 0)
    assert frames_of(folder).window(at("05:00"), 4, doubted=DOUBTED).reasons[-1] == "it is marked gone_dry"


@pytest.mark.radar
def test_a_frame_of_another_grid_is_missing(folder):
    with h5py.File(folder / file_of("04:55"), "r+") as file:
        values = file["image1/image_data"][:700, :600]
        del file["image1/image_data"]
        file["image1"].create_dataset("image_data", data=values)
        geographic = file["geographic"].attrs
        geographic["geo_number_rows"], geographic["geo_number_columns"] = [700], [600]
    window = frames_of(folder).window(at("05:00"), 4)
    assert window.reasons[2]
    assert np.isnan(window.rain.values[2]).all()
    assert window.rain.shape == (4, 765, 700)


@pytest.mark.radar
def test_a_window_without_any_frame_is_refused(folder):
    with pytest.raises(RefusedInput, match="one or more of 4 frames"):
        frames_of(folder).window(at("04:00"), 4)


@pytest.mark.radar
def test_a_folder_that_is_out_of_reach_for_a_while_is_empty_and_comes_back(folder):
    live = frames_of(folder)
    away = folder.rename(folder.with_name("away"))
    assert live.look(at("05:02"), 20.0) == []
    assert not live.holds(at("05:00"))
    away.rename(folder)
    live.look(at("05:02"), 30.0)
    live.look(at("05:02"), 40.0)
    assert live.holds(at("05:00"))


@pytest.mark.radar
def test_only_the_newest_files_are_looked_at_where_there_are_many(folder):
    for age, path in enumerate(sorted(folder.glob("*.h5"), reverse=True)):
        os.utime(path, (1e9 - age, 1e9 - age))
    live = frames_of(folder, newest_files=2)
    assert [live.holds(at(clock)) for clock in ("04:50", "04:55", "05:00")] == [False, True, True]


@pytest.mark.radar
def test_the_clock_may_be_offset_from_full_steps(folder):
    live = frames_of(folder, offset_minutes=2.5)
    assert live.floor(at("05:02")) == at("04:57") + np.timedelta64(30, "s")
    assert not live.holds(at("05:00"))


def test_a_source_that_is_no_folder_and_a_recipe_without_a_step_are_refused(tmp_path):
    with pytest.raises(RefusedInput, match="source is a folder"):
        LiveFrames(tmp_path / "nowhere", RECIPE)
    with pytest.raises(RefusedInput, match="time_step_minutes"):
        LiveFrames(tmp_path, Recipe())
