import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from verification_models import SETTINGS, Failing, Noisy, frame_time

import nowcast.evaluation.hindcasts as machinery
from data_prep.schema import RefusedInput, open_radar
from nowcast.evaluation.cases import Case
from nowcast.evaluation.hindcasts import Hindcasts, rank_seed, results, score_case
from nowcast.forecaster import spacing_km
from nowcast.forecasters.baselines import Persistence
from nowcast.verification import lead_sums

CASES = [Case(frame_time(number)) for number in (3, 4, 5)]


@pytest.fixture(scope="module")
def rain(make_rain):
    return make_rain(12, missing_rows=6)


@pytest.fixture
def computed(monkeypatch):
    """Reference times of the cases that are computed and not read."""
    times = []

    def counting(hindcasts, case):
        times.append(case.time)
        return score_case(hindcasts, case)

    monkeypatch.setattr(machinery, "score_case", counting)
    return times


def hindcasts(rain, *models, lead_steps=2, members=3, **more) -> Hindcasts:
    models = models or (Persistence(), Noisy())
    by_name = {model.name: model for model in models}
    return Hindcasts(by_name, rain, lead_steps, members, scores=SETTINGS, **more)


# What is added up


def test_the_sums_of_a_case_are_those_of_its_forecasts_one_by_one(rain):
    sums = score_case(hindcasts(rain), CASES[0])
    forecast = Noisy().forecast(rain[:4], lead_steps=2, members=3)
    for lead, number in enumerate((4, 5)):
        truth = rain[number].values
        mask = np.isfinite(truth) & np.isfinite(forecast[:, lead].values).all(0)
        expected = lead_sums(forecast[:, lead].values, truth, mask, SETTINGS, spacing=1.0)
        for name in ("cells", "crps_error", "crps_spread", "hits", "event_table", "fss_difference", "power"):
            found = sums[name].sel(model="noisy").isel(lead_time=lead)
            np.testing.assert_allclose(found, expected[name], rtol=1e-12, err_msg=name)
    assert float(sums["cells"][0, 0]) == 58 * 64


def test_all_models_are_scored_on_the_cells_that_every_one_forecasts(rain):
    sums = score_case(hindcasts(rain, Persistence(), Noisy(blind_columns=10)), CASES[0])
    assert (sums["cells"] == 58 * 54).all()


def test_a_margin_is_not_scored(rain):
    settings = dataclasses.replace(SETTINGS, margin=5)
    sums = score_case(dataclasses.replace(hindcasts(rain), scores=settings), CASES[0])
    assert (sums["cells"] == (64 - 5 - 6) * (64 - 10)).all()  # the 6 rows without data hold the margin below


def test_a_margin_that_covers_the_field_leaves_no_cell(rain):
    settings = dataclasses.replace(SETTINGS, margin=40)
    sums = score_case(dataclasses.replace(hindcasts(rain), scores=settings), CASES[0])
    assert (sums["cells"] == 0).all()
    assert all(np.isfinite(sums[name]).all() for name in sums)


def test_a_window_is_forecast_and_scored_by_itself(rain):
    case = Case(CASES[0].time, (8, 40), (16, 48), weight=3.0)
    sums = score_case(hindcasts(rain), case)
    alone = score_case(hindcasts(rain[:, 8:40, 16:48]), CASES[0])
    for name in sums:
        np.testing.assert_array_equal(sums[name], alone[name])
    assert float(sums["weight"]) == 3.0


def test_regions_that_cover_the_field_add_up_to_it(rain):
    labels = np.ones((64, 64), int)
    labels[:20], labels[20:, 30:] = 2, 3
    regions = xr.DataArray(labels, dims=("y", "x"), attrs={"names": ["west", "north", "east"]})
    sums = score_case(hindcasts(rain, regions=regions), CASES[0])
    assert list(sums["region"].values) == ["all", "west", "north", "east"]
    parts = sums.sel(region=["west", "north", "east"]).sum("region")
    whole = sums.sel(region="all")
    for name in ("cells", "observed", "squared_error", "crps_error", "hits", "event_table", "intensity"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6, err_msg=name)
    assert (sums["cells"].sel(region="north") == 20 * 64).all()


def test_forecasts_without_any_value_leave_no_cell_to_score(rain):
    sums = score_case(hindcasts(rain, Persistence(), Failing("blank")), CASES[0])
    assert (sums["cells"] == 0).all()
    assert sums.attrs["failures"] == "{}"


def test_the_draw_of_ranks_depends_on_reference_time_and_lead_time_alone():
    seeds = {rank_seed(frame_time(n), np.timedelta64(lead, "m")) for n in range(5) for lead in (5, 10, 15)}
    assert len(seeds) == 15
    assert rank_seed(frame_time(1), np.timedelta64(5, "m")) == rank_seed(
        frame_time(1).astype("datetime64[s]"), np.timedelta64(300, "s")
    )


def test_the_spacing_is_in_km(rain):
    assert spacing_km(rain) == pytest.approx(1.0)
    assert spacing_km(rain[:, :, ::2]) == pytest.approx(np.sqrt(2))


# Models that fail


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "ZeroDivisionError: the motion has no length"),
        ("few", "a forecast of 3 members, got 2"),
        ("many", "a forecast of 3 members, got 4"),
        ("shape", r"a member has the shape (2, 64, 64), got (1, 64, 64)"),
        ("negative", "rain rates are 0 or more, got -999 mm/h"),
    ],
)
def test_a_model_that_fails_is_named_and_the_others_go_on(rain, how, message):
    sums = score_case(hindcasts(rain, Persistence(), Failing(how), Noisy()), CASES[0])
    assert list(sums["model"].values) == ["persistence", "noisy"]
    failures = json.loads(sums.attrs["failures"])
    assert list(failures) == [f"failing_{how}"]
    assert message in failures[f"failing_{how}"]


def test_a_context_with_a_gap_fails_the_models_that_need_it(rain):
    gappy = rain.isel(time=[0, 1, 3, 4, 5, 6])
    sums = score_case(hindcasts(gappy, Persistence(), Noisy()), CASES[1])
    assert list(sums["model"].values) == ["noisy"]  # it needs 2 frames; persistence asks for 4
    assert "no frame at 2020-06-01T00:10" in json.loads(sums.attrs["failures"])["persistence"]


def test_a_case_without_any_forecast_is_kept_as_failed(rain, tmp_path):
    (result,) = results(hindcasts(rain, Failing("raises")), CASES[:1], folder=tmp_path)
    assert not result.data_vars
    assert "failing_raises" in json.loads(result.attrs["failures"])


def test_a_case_without_truth_is_refused_before_anything_is_computed(rain, tmp_path, computed):
    late = Case(frame_time(10))
    with pytest.raises(
        RefusedInput, match="no frame at 2020-06-01T01:00 for the forecast from 2020-06-01T00:50"
    ):
        list(results(hindcasts(rain), [*CASES, late], folder=tmp_path))
    assert computed == []


# Going on where a run ended


def test_a_second_run_computes_nothing_and_gives_the_same(rain, tmp_path, computed):
    first = list(results(hindcasts(rain), CASES, folder=tmp_path))
    assert len(computed) == 3
    second = list(results(hindcasts(rain), CASES, folder=tmp_path))
    assert len(computed) == 3
    for one, other in zip(first, second, strict=True):
        xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


def test_a_run_that_is_killed_goes_on_where_it_ended(rain, tmp_path, computed):
    run = results(hindcasts(rain), CASES, folder=tmp_path)
    next(run)
    run.close()
    list(results(hindcasts(rain), CASES, folder=tmp_path))
    assert computed == [CASES[0].time, CASES[1].time, CASES[2].time]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{case.name}.nc" for case in CASES)


@pytest.mark.parametrize(
    "change",
    [
        {"members": 4},
        {"lead_steps": 1},
        {"seed": 1},
        {"scores": dataclasses.replace(SETTINGS, margin=1)},
        {"forecasters": {"noisy": Noisy(spread=0.1), "persistence": Persistence()}},
        {"forecasters": {"noisy": Noisy()}},
    ],
    ids=["members", "lead_steps", "seed", "scores", "another model of the name", "fewer models"],
)
def test_other_models_or_settings_are_computed_anew(rain, tmp_path, computed, change):
    list(results(hindcasts(rain), CASES[:1], folder=tmp_path))
    list(results(dataclasses.replace(hindcasts(rain), **change), CASES[:1], folder=tmp_path))
    assert len(computed) == 2


def test_other_radar_data_on_the_same_grid_are_computed_anew(rain, tmp_path, computed):
    list(results(hindcasts(rain), CASES[:1], folder=tmp_path))
    list(results(hindcasts(rain.copy(data=2 * rain)), CASES[:1], folder=tmp_path))
    assert len(computed) == 2


@pytest.mark.parametrize("frame", [0, -1], ids=["context", "truth"])
def test_a_corrected_frame_is_noticed(rain, tmp_path, computed, frame):
    times = CASES[0].time + hindcasts(rain).lead_times
    corrected = rain.copy(deep=True)
    changed = times[-1] if frame else CASES[0].time - (times[1] - times[0])
    corrected.loc[{"time": changed}] += 1
    list(results(hindcasts(rain), CASES[:1], folder=tmp_path))
    list(results(hindcasts(corrected), CASES[:1], folder=tmp_path))
    assert len(computed) == 2


def test_another_time_step_is_computed_anew(rain, tmp_path, computed):
    slower = rain.assign_coords(time=CASES[0].time + 2 * (rain["time"].values - CASES[0].time))
    list(results(hindcasts(rain), CASES[:1], folder=tmp_path))
    list(results(hindcasts(slower), CASES[:1], folder=tmp_path))
    assert len(computed) == 2


def test_a_store_that_has_grown_is_not_computed_anew(rain, tmp_path, computed):
    list(results(hindcasts(rain[:9]), CASES[:1], folder=tmp_path))
    list(results(hindcasts(rain), CASES[:1], folder=tmp_path))
    assert len(computed) == 1


@pytest.mark.parametrize("length", [0, 100, 0.5])
def test_a_truncated_result_is_computed_anew(rain, tmp_path, computed, length):
    (whole,) = results(hindcasts(rain), CASES[:1], folder=tmp_path)
    file = tmp_path / f"{CASES[0].name}.nc"
    content = file.read_bytes()
    file.write_bytes(content[: length if length != 0.5 else len(content) // 2])
    (again,) = results(hindcasts(rain), CASES[:1], folder=tmp_path)
    assert len(computed) == 2
    xr.testing.assert_equal(whole, again)


def test_a_case_that_a_model_failed_on_is_tried_again(rain, tmp_path, computed):
    list(results(hindcasts(rain, Persistence(), Failing("raises")), CASES[:1], folder=tmp_path))
    list(results(hindcasts(rain, Persistence(), Failing("raises")), CASES[:1], folder=tmp_path))
    assert len(computed) == 2


# Many workers, little memory


def test_two_processes_give_the_sums_of_one(store, tmp_path):
    radar = open_radar(store)
    cases = [Case(radar["time"].values[number]) for number in (40, 45, 50)]
    asked = hindcasts(radar, Noisy(), Failing("few", times=(cases[1].time,)))
    alone = list(results(asked, cases))
    together = list(results(asked, cases, folder=tmp_path, workers=2))
    assert [json.loads(result.attrs["failures"]) != {} for result in together] == [False, True, False]
    for one, other in zip(alone, together, strict=True):
        assert one["reference_time"] == other["reference_time"]
        assert list(one["model"].values) == list(other["model"].values)
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-12, err_msg=name)


def test_a_dask_cluster_gives_the_sums_of_this_process(rain):
    distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        together = list(results(hindcasts(rain), CASES, scheduler=cluster.scheduler_address))
    for one, other in zip(results(hindcasts(rain), CASES), together, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-12, err_msg=name)


def test_memory_grows_no_faster_than_the_members_of_one_lead_time(make_rain):
    # 256 x 256 cells: a field is 0.25 MiB and 40 members of one lead time are 10 MiB.
    rain = make_rain(16, size=256)

    def peak(members: int, lead_steps: int) -> int:
        asked = hindcasts(rain, Noisy(), members=members, lead_steps=lead_steps)
        tracemalloc.start()
        score_case(asked, CASES[0])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1, 1)
    few, many, longer = peak(10, 2), peak(20, 2), peak(20, 8)
    assert many < 2.2 * few
    assert longer < 2 * many
    assert longer < 20 * 8 * 256 * 256 * 4  # what the whole ensemble would take
