import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyproj
import pytest
from stores import same_stores

from data_prep.pipeline import Recipe, prepare, prepare_arrays, read_latest
from data_prep.quality import Quality
from data_prep.sampling import Sampling
from data_prep.schema import RefusedInput, open_frames, open_radar, open_store, validate
from data_prep.splits import Splits


@pytest.fixture
def knmi(radar_data, tmp_path) -> Path:
    """The first six frames of the Dutch event, to be damaged at will."""
    folder = tmp_path / "knmi"
    folder.mkdir()
    for path in sorted((radar_data / "knmi").rglob("*.h5"))[:6]:
        # Copied without their mode: the originals are read-only.
        shutil.copyfile(path, folder / path.name)
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.h5"))


SMALL = Recipe(
    sampling=Sampling(frames=3, height=64, width=64, stride=64, q_min=1.0), splits=Splits(cycle=("train",))
)


@pytest.mark.radar
def test_six_files_become_six_frames_with_an_index(knmi, tmp_path):
    assert prepare(knmi, tmp_path / "r.zarr", SMALL).written == 6
    dataset = open_store(tmp_path / "r.zarr")
    assert validate(dataset) == []
    assert dataset["rainfall_rate"].shape == (6, 765, 700)
    assert str(dataset["time"].values[0]) == "2010-08-26T00:00:00.000000000"


@pytest.mark.radar
def test_a_second_run_adds_what_is_new_and_nothing_else(knmi, tmp_path):
    held_back = [path.rename(path.with_suffix(".later")) for path in files(knmi)[4:]]
    recipe = Recipe(pattern="*.h5", sampling=None)
    assert prepare(knmi, tmp_path / "r.zarr", recipe).written == 4
    assert prepare(knmi, tmp_path / "r.zarr", recipe).written == 0
    for path in held_back:
        path.rename(path.with_suffix(".h5"))
    assert prepare(knmi, tmp_path / "r.zarr", recipe).written == 2
    assert open_radar(tmp_path / "r.zarr").sizes["time"] == 6


@pytest.mark.radar
def test_an_absent_file_becomes_a_named_gap_and_coming_late_it_is_said(knmi, tmp_path):
    late = files(knmi)[3].rename(tmp_path / "late.h5")
    report = prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert report.gaps == [("2010-08-26T00:15", "2010-08-26T00:15", 1)]
    assert list(open_store(tmp_path / "r.zarr")["missing_times"].values) == [
        np.datetime64("2010-08-26T00:15")
    ]
    late.rename(knmi / "late.h5")
    report = prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert report.written == 0
    assert [(refusal.file, refusal.time) for refusal in report.refused] == [("late.h5", "2010-08-26T00:15")]
    assert "late" in report.refused[0].reason


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def take_rights(path: Path) -> None:
    # Root reads whatever the mode says, so a link to nowhere stands for a file that cannot be opened.
    path.unlink()
    path.symlink_to("/proc/1/nonexistent")


def date_in_the_future(path: Path) -> None:
    set_time(path, "26-AUG-2110;00:15:00.000")


def let_the_clock_jump(path: Path) -> None:
    set_time(path, "26-AUG-1970;00:15:00.000")


def leave_the_clock(path: Path) -> None:
    set_time(path, "26-AUG-2010;00:16:40.000")


def repeat_a_time(path: Path) -> None:
    set_time(path, "26-AUG-2010;00:10:00.000")


def scale_wrongly(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["image1/calibration"].attrs["calibration_formulas"] = np.array([b"GEO=10*PV+0.0"])


def fall_below_zero(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["image1/calibration"].attrs["calibration_formulas"] = np.array([b"GEO=0.01*PV-1.0"])


def take_all_data(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["image1/image_data"][...] = 65535


def shrink_the_grid(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        pixels = file["image1/image_data"][:600]
        del file["image1/image_data"]
        file["image1/image_data"] = pixels
        file["geographic"].attrs["geo_number_rows"] = np.array([600])
        corners = file["geographic"].attrs["geo_product_corners"]
        project = pyproj.Proj("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.137 +b=6356.752")
        corners[[0, 1]], corners[[6, 7]] = (project(x, -4250, inverse=True) for x in (0, 700))
        file["geographic"].attrs["geo_product_corners"] = corners


def set_time(path: Path, end: str) -> None:
    with h5py.File(path, "r+") as file:
        file["overview"].attrs["product_datetime_end"] = np.array([end.encode()])
        file["overview"].attrs["product_datetime_start"] = np.array([b"26-AUG-1960;00:10:00.000"])


DAMAGE = {
    truncate: "is complete",
    empty: "has content",
    fill_with_zeros: "known format",
    take_rights: "can be opened",
    date_in_the_future: "in the future",
    let_the_clock_jump: "the clock jumps",
    leave_the_clock: "off the clock of 5 min",
    repeat_a_time: "a second file for the time of RAD_NL25_RAP_5min_201008260010.h5, which is kept",
    scale_wrongly: "in most wet cells",
    fall_below_zero: "is not negative",
    take_all_data: "without any observed cell",
    shrink_the_grid: "another grid: 600 x 700",
}


@pytest.mark.radar
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_bad_file_is_refused_by_name_and_the_others_are_kept(knmi, tmp_path, damage):
    bad = files(knmi)[3]
    damage(bad)
    report = prepare(knmi, tmp_path / "r.zarr", Recipe(sampling=None))
    assert [refusal.file for refusal in report.refused] == [bad.name]
    assert DAMAGE[damage] in report.refused[0].reason
    assert bad.name in report.as_text()
    assert json.loads(report.as_json())["refused"][0]["file"] == bad.name
    dataset = open_store(tmp_path / "r.zarr")
    assert report.written == dataset.sizes["time"] == 5
    assert list(dataset["missing_times"].values) == [np.datetime64("2010-08-26T00:15")]
    assert validate(dataset) == []


@pytest.mark.radar
def test_a_copy_under_another_name_is_refused_as_the_same_bytes(knmi, tmp_path):
    shutil.copyfile(files(knmi)[0], knmi / "again.h5")
    report = prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert report.written == 6
    assert [refusal.file for refusal in report.refused] == ["again.h5"]
    assert "the same bytes as" in report.refused[0].reason


@pytest.mark.radar
def test_where_nothing_can_be_used_nothing_is_left_behind(knmi, tmp_path):
    for path in files(knmi):
        truncate(path)
    with pytest.raises(RefusedInput, match="none of 6"):
        prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["knmi"]


@pytest.mark.radar
def test_what_is_noticed_of_a_frame_is_stored_with_it_and_reported(knmi, tmp_path):
    with h5py.File(files(knmi)[4], "r+") as file, h5py.File(files(knmi)[3]) as before:
        file["image1/image_data"][...] = before["image1/image_data"][()]
    with h5py.File(files(knmi)[5], "r+") as file:
        pixels = file["image1/image_data"][()]
        pixels[:400] = 65535
        file["image1/image_data"][...] = pixels
    report = prepare(knmi, tmp_path / "r.zarr", Recipe(sampling=None))
    assert report.written == 6
    assert dict(report.marked) == {
        "2010-08-26T00:20": ["repeated"],
        "2010-08-26T00:25": ["mask_changed", "coverage_drop"],
    }
    frames = open_frames(tmp_path / "r.zarr")
    assert list(frames["marks"].values) == [0, 0, 0, 0, 1, 6]
    assert list(frames["source"].values) == [path.name for path in files(knmi)]
    assert set(frames["reader"].values) == {"knmi_hdf5"}
    rain = open_radar(tmp_path / "r.zarr").values
    np.testing.assert_allclose(frames["observed"], np.isfinite(rain).mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(frames["largest"], np.nanmax(rain, axis=(1, 2)), atol=0.005)


@pytest.mark.radar
def test_cells_with_a_mark_that_the_recipe_names_are_no_data(knmi, tmp_path):
    prepare(knmi, tmp_path / "plain.zarr", Recipe(sampling=None))
    prepare(knmi, tmp_path / "masked.zarr", Recipe(quality=Quality(mask=("speckle",)), sampling=None))
    marks = open_frames(tmp_path / "plain.zarr")["quality"].values
    plain, masked = (open_radar(tmp_path / f"{name}.zarr").values for name in ("plain", "masked"))
    assert (marks & 2).any()
    np.testing.assert_array_equal(np.isnan(masked), np.isnan(plain) | ((marks & 2) > 0))


@pytest.mark.radar
def test_frames_added_one_by_one_make_the_store_that_all_at_once_make(knmi, tmp_path):
    once, bit_by_bit = tmp_path / "once.zarr", tmp_path / "bits.zarr"
    prepare(knmi, once, SMALL)
    later = [path.rename(tmp_path / path.name) for path in files(knmi)[2:]]
    prepare(knmi, bit_by_bit, SMALL)
    for path in later:
        path.rename(knmi / path.name)
        prepare(knmi, bit_by_bit, SMALL)
    assert same_stores(once, bit_by_bit)


@pytest.mark.radar
def test_a_disk_that_fills_up_loses_nothing_that_was_committed(knmi, tmp_path, monkeypatch):
    later = [path.rename(tmp_path / path.name) for path in files(knmi)[3:]]
    prepare(knmi, tmp_path / "r.zarr", SMALL)
    before = open_radar(tmp_path / "r.zarr").values
    for path in later:
        path.rename(knmi / path.name)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.assembly.write_rates", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(knmi, tmp_path / "r.zarr", SMALL)
    np.testing.assert_array_equal(open_radar(tmp_path / "r.zarr").values, before)
    assert prepare(knmi, tmp_path / "r.zarr", SMALL).written == 3
    prepare(knmi, tmp_path / "whole.zarr", SMALL)
    assert same_stores(tmp_path / "r.zarr", tmp_path / "whole.zarr")


@pytest.mark.radar
def test_a_store_without_samples_gets_them_from_the_next_run(knmi, tmp_path):
    prepare(knmi, tmp_path / "r.zarr", replace(SMALL, sampling=None))
    assert prepare(knmi, tmp_path / "r.zarr", SMALL).written == 0
    assert (tmp_path / "r.zarr/samples/zarr.json").is_file()


@pytest.mark.radar
def test_windows_that_do_not_fit_are_refused_before_anything_is_written(knmi, tmp_path):
    with pytest.raises(RefusedInput, match="fits into the grid"):
        prepare(knmi, tmp_path / "r.zarr", Recipe(sampling=Sampling(height=1024, width=1024)))
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.radar
def test_a_folder_with_a_gap_gives_no_context(knmi):
    files(knmi)[3].unlink()
    with pytest.raises(RefusedInput, match="no file of 2010-08-26T00:15"):
        read_latest(knmi, SMALL, frames=4)


@pytest.mark.radar
def test_what_is_no_radar_file_is_refused_by_name(knmi, tmp_path):
    (knmi / "readme.txt").write_text("not radar")
    report = prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert [refusal.file for refusal in report.refused] == ["readme.txt"]
    assert report.written == 6


@pytest.mark.radar
def test_frames_of_another_archive_are_refused_and_the_store_stays(knmi, radar_data, tmp_path):
    plain = Recipe(sampling=None)
    prepare(knmi, tmp_path / "k.zarr", plain)
    for path in sorted((radar_data / "fmi/pgm").rglob("*.gz"))[:3]:
        shutil.copyfile(path, knmi / path.name)
    report = prepare(knmi, tmp_path / "k.zarr", Recipe(longest_gap_days=10000, sampling=None))
    assert report.written == 0
    assert len(report.refused) == 3
    assert all("another grid" in refusal.reason for refusal in report.refused)
    assert open_radar(tmp_path / "k.zarr").sizes["time"] == 6


@pytest.mark.radar
def test_a_time_step_other_than_the_recipe_says_is_refused(knmi, tmp_path):
    with pytest.raises(RefusedInput, match="10 min"):
        prepare(knmi, tmp_path / "r.zarr", Recipe(time_step_minutes=10))
    prepare(knmi, tmp_path / "r.zarr", Recipe(sampling=None))
    with pytest.raises(RefusedInput, match="a store keeps its time step, here 5 min"):
        prepare(knmi, tmp_path / "r.zarr", Recipe(time_step_minutes=15, sampling=None))


@pytest.mark.radar
def test_rates_are_capped_where_the_recipe_says(knmi, tmp_path):
    prepare(knmi, tmp_path / "r.zarr", Recipe(quality=Quality(largest_rate=1.5), sampling=None))
    assert float(open_radar(tmp_path / "r.zarr").max()) == pytest.approx(1.5)


@pytest.mark.radar
def test_the_latest_frames_of_a_folder_are_those_that_the_store_would_hold(knmi, tmp_path):
    prepare(knmi, tmp_path / "r.zarr", SMALL)
    latest = read_latest(knmi, SMALL, frames=4)
    assert latest.attrs["institution"] == SMALL.about.institution
    stored = open_radar(tmp_path / "r.zarr")[2:].values.astype(np.float32)
    np.testing.assert_array_equal(latest.values, stored)
    at = read_latest(knmi, SMALL, frames=2, time=np.datetime64("2010-08-26T00:15"))
    assert at["time"].values[-1] == np.datetime64("2010-08-26T00:15")
    with pytest.raises(RefusedInput, match="came: 2010-08-26T00:17"):
        read_latest(knmi, SMALL, frames=2, time=np.datetime64("2010-08-26T00:17", "ns"))


def test_a_missing_folder_and_one_without_radar_are_refused(tmp_path):
    with pytest.raises(RefusedInput, match="--source is a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "r.zarr", SMALL)
    with pytest.raises(RefusedInput, match=r"match the pattern \*\.h5"):
        prepare(tmp_path, tmp_path / "r.zarr", Recipe(pattern="*.h5"))
    assert list(tmp_path.iterdir()) == []


def test_a_cap_beyond_what_a_store_can_hold_is_refused():
    with pytest.raises(RefusedInput, match="largest_rate"):
        Recipe(quality=Quality(largest_rate=1000))


def write_rain(path: Path, rain, frames: slice) -> None:
    """Some frames as a CF netCDF file."""
    part = rain[frames].assign_attrs(units="mm h-1", grid_mapping="crs")
    part.to_dataset().to_netcdf(path, engine="netcdf4")


PLAIN = Recipe(sampling=None, splits=Splits(cycle=("train",)))


def test_a_file_that_grows_gives_its_new_frames_whatever_its_age(make_rain, tmp_path):
    rain, folder = make_rain(12, speed=(0.5, 0.25)), tmp_path / "files"
    folder.mkdir()
    write_rain(folder / "day.nc", rain, slice(0, 6))
    assert prepare(folder, tmp_path / "r.zarr", PLAIN).written == 6
    write_rain(folder / "day.nc", rain, slice(0, 12))
    os.utime(folder / "day.nc", (0, 0))
    report = prepare(folder, tmp_path / "r.zarr", PLAIN)
    assert (report.written, report.refused) == (6, [])
    np.testing.assert_allclose(open_radar(tmp_path / "r.zarr"), rain, atol=0.0051)
    assert list(open_frames(tmp_path / "r.zarr")["source"].values[[0, 1, 11]]) == [
        "day.nc", "day.nc#1", "day.nc#11",
    ]  # fmt: skip


def test_frames_of_another_grid_are_refused_alone_wherever_they_come(make_rain, tmp_path):
    rain, other = make_rain(24), make_rain(24, spacing=2000.0)
    for n in range(24):
        alien = n in (0, 1, 2, 4, 5, 6, 9, 10)
        write_rain(tmp_path / f"f{n:02d}.nc", other if alien else rain, slice(n, n + 1))
    report = prepare(tmp_path, tmp_path / "r.zarr", PLAIN)
    assert [refusal.file for refusal in report.refused] == [f"f{n:02d}.nc" for n in (0, 1, 2, 4, 5, 6, 9, 10)]
    assert all("another grid" in refusal.reason for refusal in report.refused)
    assert report.written == 16


@pytest.mark.parametrize(
    "other",
    [{"z_r_a": 300.0}, {"quality": Quality(largest_rate=1.0)}, {"splits": Splits()}, {"layout": "archive"}],
)
def test_a_store_keeps_the_settings_that_its_frames_share(make_rain, tmp_path, other):
    prepare_arrays(iter([make_rain(6)]), tmp_path / "r.zarr", PLAIN)
    with pytest.raises(RefusedInput, match=f"came: another {next(iter(other))}"):
        prepare_arrays(iter([make_rain(6, first=6)]), tmp_path / "r.zarr", replace(PLAIN, **other))


def test_another_file_for_a_time_that_the_store_holds_is_refused_by_name(make_rain, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for n in range(4):
        write_rain(folder / f"f{n}.nc", make_rain(4), slice(n, n + 1))
    prepare(folder, tmp_path / "r.zarr", PLAIN)
    write_rain(folder / "f1_corrected.nc", make_rain(4) * 2, slice(1, 2))
    report = prepare(folder, tmp_path / "r.zarr", PLAIN)
    (refusal,) = report.refused
    assert "f1" in refusal.file


def test_strange_names_hidden_folders_pipes_and_the_store_itself_do_not_stop_a_run(make_rain, tmp_path):
    rain = make_rain(4)
    for n in range(3):
        write_rain(tmp_path / f"f{n}.nc", rain, slice(n, n + 1))
    shutil.copyfile(tmp_path / "f2.nc", os.fsencode(tmp_path) + b"/b\xff.nc")
    (tmp_path / ".snapshot").mkdir()
    write_rain(tmp_path / ".snapshot" / "f3.nc", rain, slice(3, 4))
    os.mkfifo(tmp_path / "pipe")
    for count in (3, 0):
        report = prepare(tmp_path, tmp_path / "r.zarr", PLAIN)
        assert report.written == count
        assert "pipe" in [refusal.file for refusal in report.refused]
        assert all("zarr" not in refusal.file for refusal in report.refused)
        json.loads(report.as_json())


def test_a_store_that_does_not_tell_where_frames_came_from_is_not_appended_to(make_rain, tmp_path):
    prepare_arrays(iter([make_rain(4)]), tmp_path / "r.zarr", PLAIN)
    shutil.rmtree(tmp_path / "r.zarr" / "frames")
    with pytest.raises(RefusedInput, match="without a group frames"):
        prepare_arrays(iter([make_rain(4, first=4)]), tmp_path / "r.zarr", PLAIN)


@pytest.mark.parametrize(
    "wrong", [{"z_r_a": np.inf}, {"z_r_b": -1.0}, {"time_step_minutes": 0.005}, {"longest_gap_days": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(RefusedInput, match=next(iter(wrong))):
        Recipe(**wrong)
