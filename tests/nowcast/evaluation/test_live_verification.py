import dataclasses
import json
import os
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from verification_models import SETTINGS, STEP, Noisy, frame_time, store_forecasts

from data_prep.schema import RefusedInput
from nowcast.evaluation.cases import Case
from nowcast.evaluation.hindcasts import Hindcasts, score_case
from nowcast.evaluation.live_verification import LiveVerification
from nowcast.forecasters.baselines import Persistence
from nowcast.forecasters.stored_forecasts import StoredForecasts
from nowcast.verification import score

LEADS = np.arange(1, 4) * STEP


@pytest.fixture(scope="module")
def rain(make_rain):
    return make_rain(16, missing_rows=6)


@pytest.fixture
def folders(rain, tmp_path):
    """Forecasts of two models from frames 4, 5 and 6, three lead times each."""
    models = {"a": (Noisy("a"), 3), "b": (Noisy("b", spread=0.2, blind_columns=8), 2)}
    return {
        name: store_forecasts(tmp_path / name, model, rain, [4, 5, 6], members=members)
        for name, (model, members) in models.items()
    }


def live(tmp_path, **more) -> LiveVerification:
    return LiveVerification(tmp_path / "live", SETTINGS, **more)


def counts(sums: xr.Dataset, model: str = "a") -> list[list[bool]]:
    """Which lead times of which cases are scored."""
    return sums["cells"].sel(model=model).notnull().values.tolist()


# The same numbers as hindcasts


def test_the_sums_are_those_of_a_hindcast_of_the_same_forecasts(rain, folders, tmp_path):
    verification = live(tmp_path)
    verification.update(folders, rain)
    sums = verification.sums()
    stored = {name: StoredForecasts(folder) for name, folder in folders.items()}
    hindcasts = Hindcasts(stored | {"persistence": Persistence()}, rain, 3, 3, scores=SETTINGS)
    assert list(sums["case"].values) == [Case(frame_time(n)).name for n in (4, 5, 6)]
    for place, number in enumerate((4, 5, 6)):
        expected = score_case(hindcasts, Case(frame_time(number)))
        found = sums.isel(case=place).sel(model=expected["model"])
        assert list(found["member_count"].values) == [3, 2, 1]
        for name in expected.data_vars:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_frames_that_arrive_one_by_one_give_the_sums_of_all_at_once(rain, folders, tmp_path):
    step_by_step, at_once = live(tmp_path / "one"), live(tmp_path / "other")
    scored = [sum(len(item.lead_times) for item in step_by_step.update(folders, rain[:n]).scored)
              for n in range(5, 13)]  # fmt: skip
    assert scored == [0, 1, 2, 3, 2, 1, 0, 0]
    at_once.update(folders, rain)
    xr.testing.assert_identical(step_by_step.sums(), at_once.sums())


def test_rolling_scores_are_those_of_the_added_sums(rain, folders, tmp_path):
    verification = live(tmp_path)
    verification.update(folders, rain)
    scores = verification.scores()
    expected = score(verification.sums().sum("case").assign_coords(), SETTINGS)
    for name in ("crps", "csi", "mae", "brier"):
        np.testing.assert_allclose(scores[name], expected[name], err_msg=name)
    assert (scores["mae_skill"].sel(model="persistence") == 0).all()
    assert scores["case_count"].values.tolist() == [3, 3, 3]
    recent = verification.scores(since=frame_time(5), until=frame_time(5))
    assert recent["case_count"].values.tolist() == [1, 1, 1]
    alone = verification.sums(frame_time(5), frame_time(5))
    np.testing.assert_array_equal(recent["cells"], alone["cells"].isel(case=0))


def test_persistence_that_is_given_is_not_made(rain, tmp_path):
    store_forecasts(tmp_path / "p", Persistence(), rain, [4])
    verification = live(tmp_path)
    verification.update({"persistence": tmp_path / "p"}, rain[5:])
    assert counts(verification.sums(), "persistence") == [[True, True, True]]


# Truth that is late or never comes


def test_truth_still_to_come_is_nan_and_late_truth_fills_in(rain, folders, tmp_path):
    verification = live(tmp_path)
    gappy = rain.isel(time=[n for n in range(9) if n != 6])
    verification.update({"a": folders["a"]}, gappy)
    assert counts(verification.sums()) == [[True, False, True], [False, True, True]]
    assert verification.scores()["case_count"].values.tolist() == [1, 1, 2]
    update = verification.update({"a": folders["a"]}, rain[:9])
    assert [(item.time, len(item.lead_times)) for item in update.scored] == [
        (frame_time(4), 1),
        (frame_time(5), 1),
        (frame_time(6), 2),
    ]
    assert counts(verification.sums()) == [[True] * 3, [True] * 3, [True, True, False]]


def test_a_truth_that_never_comes_is_left_out_of_the_scores(rain, folders, tmp_path):
    verification = live(tmp_path)
    gappy = rain.isel(time=[n for n in range(16) if n != 7])
    verification.update(folders, gappy)
    assert verification.update(folders, gappy).scored == []
    sums = verification.sums()
    assert counts(sums) == [[True, True, False], [True, False, True], [False, True, True]]
    scores = verification.scores()
    assert scores["case_count"].values.tolist() == [2, 2, 2]
    assert np.isfinite(scores["crps"]).all()


def test_forecasts_without_a_frame_at_their_reference_time_are_named(rain, folders, tmp_path):
    update = live(tmp_path).update(folders, rain[6:])
    assert [failure.time for failure in update.failures] == [frame_time(4), frame_time(5)]
    assert "no frame at the reference time" in update.failures[0].message
    assert [item.time for item in update.scored] == [frame_time(6)]


# Doing it again


def test_looking_again_changes_nothing(rain, folders, tmp_path):
    verification = live(tmp_path)
    verification.update(folders, rain)
    files = sorted((tmp_path / "live").iterdir())
    before = [(file.name, file.stat().st_mtime_ns, file.read_bytes()) for file in files]
    for again in (verification, live(tmp_path)):
        assert again.update(folders, rain) == ([], [])
    assert [(file.name, file.stat().st_mtime_ns, file.read_bytes()) for file in files] == before
    assert sorted((tmp_path / "live").iterdir()) == files


def test_a_run_that_is_killed_while_it_writes_is_made_up_for(rain, folders, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    verification = live(tmp_path)
    verification.update(folders, rain[:6])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            verification.update(folders, rain)
    (tmp_path / "live" / ".2020-06-01T002000.nc.abc.partial").write_bytes(b"killed harder")
    again = live(tmp_path)
    again.update(folders, rain)
    whole = live(tmp_path / "whole")
    whole.update(folders, rain)
    xr.testing.assert_identical(again.sums(), whole.sums())
    assert len(list((tmp_path / "live").iterdir())) == 3


def test_a_damaged_file_of_sums_is_made_again(rain, folders, tmp_path):
    verification = live(tmp_path)
    verification.update(folders, rain)
    before = verification.sums()
    file = sorted((tmp_path / "live").iterdir())[1]
    file.write_bytes(file.read_bytes()[:1000])
    again = live(tmp_path)
    assert [item.time for item in again.update(folders, rain).scored] == [frame_time(5)]
    xr.testing.assert_identical(again.sums(), before)


def test_sums_of_other_settings_do_not_count(rain, folders, tmp_path):
    live(tmp_path).update(folders, rain)
    other = LiveVerification(tmp_path / "live", dataclasses.replace(SETTINGS, margin=3))
    with pytest.raises(RefusedInput, match="forecasts of the period were scored"):
        other.sums()
    assert len(other.update(folders, rain).scored) == 3


def test_old_sums_are_removed(rain, folders, tmp_path):
    verification = live(tmp_path, keep=10 * STEP)
    verification.update(folders, rain[:15])  # the newest frame is 14
    assert verification.sums().sizes["case"] == 3
    verification.update(folders, rain)
    assert [path.name for path in sorted((tmp_path / "live").iterdir())] == [
        "2020-06-01T002500.nc",
        "2020-06-01T003000.nc",
    ]
    assert live(tmp_path).sums().sizes["case"] == 2
    assert verification.update(folders, rain).scored == []


# Models that are late, damaged or change


def test_a_time_waits_for_a_model_that_is_late(rain, folders, tmp_path):
    late = folders["b"] / "005.nc"
    late.rename(tmp_path / "005.nc")
    verification = live(tmp_path)
    assert {item.time for item in verification.update(folders, rain[:8]).scored} == {
        frame_time(4),
        frame_time(6),
    }
    (tmp_path / "005.nc").rename(late)
    update = verification.update(folders, rain[:8])
    assert [(item.time, len(item.lead_times)) for item in update.scored] == [(frame_time(5), 2)]
    assert counts(verification.sums(), "b")[1] == [True, True, False]


def test_a_model_that_is_missing_when_the_last_truth_is_due_is_left_out_for_good(rain, folders, tmp_path):
    late = folders["b"] / "005.nc"
    late.rename(tmp_path / "005.nc")
    verification = live(tmp_path)
    verification.update(folders, rain)
    (tmp_path / "005.nc").rename(late)
    assert verification.update(folders, rain).scored == []
    sums = verification.sums()
    assert counts(sums, "a") == [[True] * 3] * 3
    assert counts(sums, "b") == [[True] * 3, [False] * 3, [True] * 3]
    # On its own, a is scored where b has no forecast, too.
    assert sums["cells"].sel(model="a").isel(lead_time=0).values.tolist() == [58 * 56, 58 * 64, 58 * 56]
    # Scores compare the models on the two cases they share.
    assert verification.scores()["case_count"].values.tolist() == [2, 2, 2]


def test_a_new_model_is_scored_from_its_first_forecast_on(rain, folders, tmp_path):
    verification = live(tmp_path)
    verification.update({"a": folders["a"]}, rain)
    store_forecasts(folders["a"], Noisy("a"), rain, [8])
    store_forecasts(tmp_path / "new", Noisy("new"), rain, [4, 8])
    update = verification.update({"a": folders["a"], "new": tmp_path / "new"}, rain)
    assert [item.time for item in update.scored] == [frame_time(8)]
    assert counts(verification.sums(), "new") == [[False] * 3] * 3 + [[True] * 3]
    assert verification.scores()["case_count"].values.tolist() == [1, 1, 1]
    assert verification.scores(until=frame_time(7))["case_count"].values.tolist() == [3, 3, 3]


@pytest.mark.parametrize("kind", ["no file", "truncated", "damaged inside"])
def test_a_damaged_forecast_is_named_once_and_does_not_stop_the_rest(rain, folders, tmp_path, kind):
    path = folders["b"] / "005.nc"
    content = bytearray(path.read_bytes())
    if kind == "damaged inside":
        _spoil_last_lead_time(path)
    else:
        path.write_bytes(b"no forecast" if kind == "no file" else content[: len(content) // 2])
    verification = live(tmp_path)
    update = verification.update(folders, rain)
    assert len(update.failures) == 1
    assert update.failures[0].model == "b"
    assert "005.nc" in update.failures[0].message
    assert [item.time for item in update.scored] == [frame_time(4), frame_time(5), frame_time(6)]
    assert counts(verification.sums(), "a") == [[True] * 3] * 3
    assert verification.update(folders, rain) == ([], [])


def test_a_damaged_forecast_that_is_made_again_in_time_counts(rain, folders, tmp_path):
    path = folders["b"] / "005.nc"
    content = path.read_bytes()
    path.write_bytes(content[:3000])
    verification = live(tmp_path)
    assert len(verification.update(folders, rain[:8]).failures) == 1
    path.write_bytes(content)
    verification.update(folders, rain)
    assert counts(verification.sums(), "b") == [[True] * 3] * 3


def test_a_forecast_on_another_grid_is_named(rain, folders, make_rain, tmp_path):
    elsewhere = make_rain(16, spacing=2000.0)
    store_forecasts(folders["b"], Noisy("b"), elsewhere, [5], members=2)
    update = live(tmp_path).update(folders, rain)
    assert [(failure.model, failure.time) for failure in update.failures] == [("b", frame_time(5))]
    assert "one grid" in update.failures[0].message


def test_a_forecast_that_lacks_a_lead_time_is_named_and_scored_at_the_others(rain, folders, tmp_path):
    store_forecasts(folders["b"], Noisy("b"), rain, [5], lead_steps=2, members=2)
    verification = live(tmp_path)
    update = verification.update(folders, rain)
    assert ["lacks lead times that others have: 2, up to 10 min" in failure.message
            for failure in update.failures] == [True]  # fmt: skip
    assert counts(verification.sums(), "b") == [[True] * 3, [True, True, False], [True] * 3]
    assert verification.scores()["case_count"].values.tolist() == [3, 3, 2]


def test_a_model_with_shorter_forecasts_does_not_keep_the_others_from_being_scored(rain, folders, tmp_path):
    store_forecasts(tmp_path / "short", Noisy("short"), rain, [4, 5, 6], lead_steps=1)
    verification = live(tmp_path)
    verification.update({"a": folders["a"], "short": tmp_path / "short"}, rain)
    scores = verification.scores()
    assert scores["case_count"].values.tolist() == [3, 3, 3]
    assert np.isfinite(scores["crps"].sel(model="a")).all()
    assert np.isfinite(scores["crps"].sel(model="short")).values.tolist() == [True, False, False]


def test_cases_of_another_ensemble_size_are_not_added_to_the_newest(rain, folders, tmp_path):
    store_forecasts(folders["a"], Noisy("a"), rain, [7, 8], members=5)
    verification = live(tmp_path)
    verification.update({"a": folders["a"]}, rain)
    scores = verification.scores()
    assert int(scores["member_count"].sel(model="a")) == 5
    assert scores["case_count"].values.tolist() == [2, 2, 2]
    assert counts(verification.sums()) == [[False] * 3] * 3 + [[True] * 3] * 2
    assert int(verification.scores(until=frame_time(6))["member_count"].sel(model="a")) == 3


def test_a_folder_that_is_empty_or_absent_is_named_and_looked_at_again(rain, tmp_path):
    verification = live(tmp_path)
    assert "no *.nc" in verification.update({"a": tmp_path / "a"}, rain).failures[0].message
    assert verification.update({"a": tmp_path / "a"}, rain).failures == []
    with pytest.raises(RefusedInput, match="forecasts of the period were scored"):
        verification.scores()
    store_forecasts(tmp_path / "a", Noisy("a"), rain, [4])
    assert len(verification.update({"a": tmp_path / "a"}, rain).scored) == 1


def test_a_reference_that_was_never_scored_is_refused(rain, folders, tmp_path):
    verification = live(tmp_path)
    verification.update(folders, rain)
    with pytest.raises(RefusedInput, match="the reference is one of the models"):
        verification.scores("steps")


# Files and memory


def test_a_file_of_sums_says_what_it_holds(rain, folders, tmp_path):
    live(tmp_path).update(folders, rain[:7])
    with xr.open_dataset(tmp_path / "live" / "2020-06-01T002000.nc", decode_timedelta=True) as sums:
        told = json.loads(sums.attrs["live_verification"])
        np.testing.assert_array_equal(sums["lead_time"], LEADS)
        assert sums["cells"].sel(model="b").notnull().values.tolist() == [True, True, False]
    assert told["members"] == {"a": 3, "b": 2, "persistence": 1}


def test_memory_is_that_of_one_model_at_one_lead_time(make_rain, tmp_path):
    rain = make_rain(16, size=256)

    def peak(models: int, lead_steps: int) -> int:
        place = tmp_path / f"{models}_{lead_steps}"
        folders = {
            f"m{n}": store_forecasts(place / f"m{n}", Noisy(), rain, [4], lead_steps=lead_steps, members=8)
            for n in range(models)
        }
        verification = live(place)
        tracemalloc.start()
        verification.update(folders, rain)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1, 2)  # what is loaded and kept on first use
    assert peak(2, 4) < 1.5 * peak(1, 1)


def _spoil_last_lead_time(path) -> None:
    """Overwrite the compressed values of the last member and lead time."""
    import h5py

    with h5py.File(path) as file:
        place = file["rainfall_rate"].id.get_chunk_info_by_coord((1, 2, 0, 0))
    with path.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)
