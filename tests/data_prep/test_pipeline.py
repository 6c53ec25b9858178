import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.pipeline import Recipe, prepare, read_latest, scan
from data_prep.sampling import Sampling
from data_prep.schema import RefusedInput, open_radar, open_store, validate
from data_prep.splits import Splits
from nowcast.cli import read_recipe

ROOT = Path(__file__).resolve().parents[2]


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
    assert prepare(knmi, tmp_path / "r.zarr", SMALL) == 6
    dataset = open_store(tmp_path / "r.zarr")
    assert validate(dataset) == []
    assert dataset["rainfall_rate"].shape == (6, 765, 700)
    assert str(dataset["time"].values[0]) == "2010-08-26T00:00:00.000000000"


@pytest.mark.radar
def test_a_second_run_adds_what_is_new_and_nothing_else(knmi, tmp_path):
    held_back = [path.rename(path.with_suffix(".later")) for path in files(knmi)[4:]]
    recipe = Recipe(pattern="*.h5", sampling=None)
    assert prepare(knmi, tmp_path / "r.zarr", recipe) == 4
    assert prepare(knmi, tmp_path / "r.zarr", recipe) == 0
    for path in held_back:
        path.rename(path.with_suffix(".h5"))
    assert prepare(knmi, tmp_path / "r.zarr", recipe) == 2
    assert open_radar(tmp_path / "r.zarr").sizes["time"] == 6


@pytest.mark.radar
def test_an_absent_file_becomes_a_named_gap_and_coming_late_it_is_said(knmi, tmp_path, caplog):
    late = files(knmi)[3].rename(tmp_path / "late.h5")
    prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert list(open_store(tmp_path / "r.zarr")["missing_times"].values) == [
        np.datetime64("2010-08-26T00:15")
    ]
    late.rename(knmi / "late.h5")
    assert prepare(knmi, tmp_path / "r.zarr", SMALL) == 0
    assert "1 frame(s) before the end" in caplog.text


@pytest.mark.radar
def test_a_truncated_file_is_refused_by_name_and_leaves_nothing_behind(knmi, tmp_path):
    broken = files(knmi)[3]
    broken.write_bytes(broken.read_bytes()[:4000])
    with pytest.raises(RefusedInput, match=broken.name):
        prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["knmi"]


@pytest.mark.radar
def test_a_truncated_file_may_be_left_as_a_gap(knmi, tmp_path, caplog):
    broken = files(knmi)[3]
    broken.write_bytes(broken.read_bytes()[:4000])
    assert prepare(knmi, tmp_path / "r.zarr", Recipe(unreadable="missing", sampling=None)) == 5
    assert open_store(tmp_path / "r.zarr").sizes["missing_times"] == 1
    assert broken.name in caplog.text


@pytest.mark.radar
def test_a_store_without_samples_gets_them_from_the_next_run(knmi, tmp_path):
    prepare(knmi, tmp_path / "r.zarr", Recipe(sampling=None))
    assert prepare(knmi, tmp_path / "r.zarr", SMALL) == 0
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
def test_a_calibration_that_gives_negative_rain_is_refused(knmi, tmp_path):
    with h5py.File(files(knmi)[2], "r+") as file:
        file["image1/calibration"].attrs["calibration_formulas"] = np.array([b"GEO=0.01*PV-1.0"])
    with pytest.raises(RefusedInput, match="finite and not negative"):
        prepare(knmi, tmp_path / "r.zarr", Recipe(sampling=None))


@pytest.mark.radar
def test_an_unknown_format_is_refused_by_name(knmi, tmp_path):
    (knmi / "readme.txt").write_text("not radar")
    with pytest.raises(RefusedInput, match=r"readme\.txt"):
        prepare(knmi, tmp_path / "r.zarr", SMALL)
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.radar
def test_two_files_of_one_time_are_refused(knmi, tmp_path):
    shutil.copy(files(knmi)[0], knmi / "again.h5")
    with pytest.raises(RefusedInput, match="one file holds one time"):
        prepare(knmi, tmp_path / "r.zarr", SMALL)


@pytest.mark.radar
def test_files_of_another_grid_are_refused_even_if_they_are_older(knmi, radar_data, tmp_path):
    finland = tmp_path / "fmi"
    finland.mkdir()
    for path in sorted((radar_data / "fmi/pgm").rglob("*.gz"))[:3]:
        shutil.copy(path, finland)
    plain = Recipe(sampling=None)
    prepare(finland, tmp_path / "r.zarr", plain)
    with pytest.raises(RefusedInput, match="a store holds one grid"):
        prepare(knmi, tmp_path / "r.zarr", plain)
    prepare(knmi, tmp_path / "k.zarr", plain)
    with pytest.raises(RefusedInput, match="a store holds one grid"):
        prepare(finland, tmp_path / "k.zarr", plain)
    assert open_radar(tmp_path / "k.zarr").sizes["time"] == 6


@pytest.mark.radar
def test_a_mixed_folder_is_refused(knmi, radar_data, tmp_path):
    shutil.copy(next((radar_data / "fmi/pgm").rglob("*.gz")), knmi)
    with pytest.raises(RefusedInput):
        prepare(knmi, tmp_path / "r.zarr", Recipe(sampling=None))
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.radar
def test_a_time_step_other_than_the_recipe_says_is_refused(knmi, tmp_path):
    with pytest.raises(RefusedInput, match="time_step_minutes = 10"):
        prepare(knmi, tmp_path / "r.zarr", Recipe(time_step_minutes=10))


@pytest.mark.radar
def test_rates_are_capped_where_the_recipe_says(knmi, tmp_path):
    prepare(knmi, tmp_path / "r.zarr", Recipe(largest_rate=1.5, sampling=None))
    assert float(open_radar(tmp_path / "r.zarr").max()) == pytest.approx(1.5)


@pytest.mark.radar
def test_the_latest_frames_of_a_folder_are_those_that_the_store_would_hold(knmi, tmp_path):
    prepare(knmi, tmp_path / "r.zarr", SMALL)
    latest = read_latest(knmi, SMALL, frames=4)
    stored = open_radar(tmp_path / "r.zarr")[2:].values.astype(np.float32)
    np.testing.assert_array_equal(latest.values, stored)
    at = read_latest(knmi, SMALL, frames=2, time=np.datetime64("2010-08-26T00:15"))
    assert at["time"].values[-1] == np.datetime64("2010-08-26T00:15")
    with pytest.raises(RefusedInput, match="came: 2010-08-26T00:17"):
        read_latest(knmi, SMALL, frames=2, time=np.datetime64("2010-08-26T00:17", "ns"))


@pytest.mark.radar
@pytest.mark.parametrize(
    ("config", "folder", "time"),
    [("knmi.yaml", "knmi", "2010-08-26T00:00"), ("fmi.yaml", "fmi/pgm", "2017-05-09T10:45")],
)
def test_shipped_configurations_find_every_file_of_their_archive(radar_data, config, folder, time):
    recipe = read_recipe(str(ROOT / "configs/prep" / config))
    entries = scan(radar_data / folder, recipe)
    assert len(entries) == {"knmi.yaml": 92, "fmi.yaml": 40}[config]
    assert entries[0].time == np.datetime64(time)


def test_a_missing_folder_and_one_without_radar_are_refused(tmp_path):
    with pytest.raises(RefusedInput, match="--source is a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "r.zarr", SMALL)
    with pytest.raises(RefusedInput, match=r"match the pattern \*\.h5"):
        prepare(tmp_path, tmp_path / "r.zarr", Recipe(pattern="*.h5"))
    assert list(tmp_path.iterdir()) == []


def test_a_cap_beyond_what_a_store_can_hold_is_refused():
    with pytest.raises(RefusedInput, match="largest_rate"):
        Recipe(largest_rate=1000)
