import numpy as np
import pytest

from data_prep.schema import RefusedInput
from data_prep.sources import Entry, choose, find_files

NOW = np.datetime64("2020-06-01T12:00")
DAYS = np.timedelta64(1000, "D")
NOTHING = np.array([], dtype="datetime64[ns]")


def entries(*times: str) -> list[Entry]:
    return [
        Entry(int(np.datetime64(time, "ns").astype(np.int64)), f"/nowhere/{n}", 0, "fmi_pgm")
        for n, time in enumerate(times)
    ]


def chosen(*times: str, step=None, stored=NOTHING, **settings):
    kept, refused, clock = choose(
        entries(*times), step=step, stored=stored, now=NOW, longest_gap=settings.get("longest_gap", DAYS)
    )
    return [str(e.stamp)[:16] for e in kept], {r.time: r.reason for r in refused}, clock


def day(*clock: str) -> list[str]:
    return [f"2020-06-01T{time}" for time in clock]


def test_the_step_is_the_most_frequent_one_and_not_the_smallest():
    kept, refused, clock = chosen(*day("00:00", "00:05", "00:10", "00:11", "00:15", "00:20"))
    assert clock.step == np.timedelta64(5, "m")
    assert kept == day("00:00", "00:05", "00:10", "00:15", "00:20")
    assert list(refused) == day("00:11")


def test_a_step_that_doubles_leaves_gaps_and_one_that_halves_is_refused_off_the_clock():
    kept, refused, _ = chosen(*day("00:00", "00:05", "00:10", "00:20", "00:30"), step=np.timedelta64(5, "m"))
    assert len(kept) == 5
    assert not refused
    ten = np.timedelta64(10, "m")
    kept, refused, _ = chosen(*day("00:00", "00:10", "00:20", "00:30", "00:35", "00:40", "00:45"), step=ten)
    assert list(refused) == day("00:35", "00:45")


def test_the_clock_of_a_store_outweighs_that_of_new_files():
    stored = np.array([np.datetime64("2020-06-01T00:02", "ns")])
    kept, refused, clock = chosen(*day("01:00", "01:05", "01:07"), step=np.timedelta64(5, "m"), stored=stored)
    assert kept == day("01:07")
    assert clock.origin == stored[0]


def test_frames_of_the_future_are_refused_but_clocks_may_differ_by_minutes():
    kept, refused, _ = chosen(*day("11:55", "12:00", "12:05", "12:20"), step=np.timedelta64(5, "m"))
    assert kept == day("11:55", "12:00", "12:05")
    assert "future" in refused["2020-06-01T12:20"]


def test_a_clock_that_jumped_is_refused_wherever_it_went():
    times = ["1970-01-01T00:00", *day("00:00", "00:05", "00:10")]
    kept, refused, _ = chosen(*times)
    assert kept == times[1:]
    assert "jumps" in refused["1970-01-01T00:00"]
    stored = np.array([np.datetime64("2011-06-01T00:02", "ns")])
    kept, refused, _ = chosen(*times, stored=stored, step=np.timedelta64(1, "m"))
    assert not kept
    assert len(refused) == 4


def test_of_two_files_for_one_time_the_first_is_kept():
    kept, refused, _ = chosen(*day("00:00", "00:05", "00:05"))
    assert kept == day("00:00", "00:05")
    assert list(refused) == day("00:05")


def test_one_frame_needs_a_given_step():
    with pytest.raises(RefusedInput, match="time_step_minutes"):
        chosen(*day("00:00"))
    kept, _, _ = chosen(*day("00:00"), step=np.timedelta64(5, "m"))
    assert kept == day("00:00")


def test_a_zarr_archive_is_one_file_and_what_is_in_it_is_none(tmp_path):
    archive = tmp_path / "deep" / "a.zarr"
    (archive / "rain" / "c" / "0").mkdir(parents=True)
    (archive / "zarr.json").write_text("{}")
    (archive / "rain" / "zarr.json").write_text("{}")
    (archive / "rain" / "c" / "0" / "0").write_text("x")
    (tmp_path / "b.h5").write_text("x")
    assert find_files(tmp_path, "**/*") == [str(tmp_path / "b.h5"), str(archive)]
    assert find_files(archive, "**/*") == [str(archive)]


def test_a_missing_folder_and_one_without_radar_are_refused(tmp_path):
    with pytest.raises(RefusedInput, match="--source is a folder"):
        find_files(tmp_path / "nowhere", "*")
    with pytest.raises(RefusedInput, match=r"match the pattern \*\.h5"):
        find_files(tmp_path, "*.h5")
