import dataclasses

import numpy as np
import pytest
import xarray as xr
from verification_models import SETTINGS, STEP, Failing, Noisy, frame_time

from data_prep.schema import RefusedInput
from nowcast import verify
from nowcast.evaluation.cases import Case
from nowcast.evaluation.evaluate import evaluate, evaluate_cases, settings_attributes, write_scores
from nowcast.evaluation.hindcasts import Hindcasts
from nowcast.forecasters.baselines import Extrapolation, Persistence
from nowcast.verification import score

TIMES = [frame_time(number) for number in (3, 4, 5, 6)]


@pytest.fixture(scope="module")
def rain(make_rain):
    return make_rain(12, speed=(2, 1), missing_rows=6)


@pytest.fixture(scope="module")
def two_models(rain):
    """Four cases of two models."""
    return run(rain, Persistence(), Noisy(blind_columns=6))


def run(rain, *models, cases=TIMES, **more):
    by_name = {model.name: model for model in models}
    return evaluate(by_name, rain, cases, lead_steps=2, members=3, scores=SETTINGS, **more)


# Sums and scores of many cases


def test_extrapolation_has_skill_on_moving_rain_and_persistence_none(make_rain):
    evaluation = run(make_rain(12, speed=(2, 1)), Persistence(), Extrapolation())
    scores = evaluation.scores("persistence")
    assert (scores["mae_skill"].sel(model="extrapolation") > 0.5).all()
    assert (scores["mae_skill"].sel(model="persistence") == 0).all()
    assert scores.attrs["reference"] == "persistence"


def test_all_models_are_scored_on_the_same_cells(two_models):
    assert (two_models.total()["cells"] == 4 * 58 * 58).all()
    assert two_models.failures == ()


def test_blocks_and_hours_add_up_to_the_same_total(rain, two_models, tmp_path):
    assert two_models.block_length == np.timedelta64(1, "h")  # longer than a forecast of 10 min
    assert two_models.blocks.sizes["block"] == 1
    models = {"persistence": Persistence(), "noisy": Noisy(blind_columns=6)}
    hindcasts = Hindcasts(models, rain, 2, 3, scores=SETTINGS)
    cases = [Case(time) for time in TIMES]
    shorter = evaluate_cases(hindcasts, cases, folder=tmp_path, block_length=2 * STEP)
    assert shorter.blocks.sizes["block"] == 2  # starts every 5 min, 10 min a block
    assert list(shorter.hours["hour"].values) == [0]
    xr.testing.assert_allclose(shorter.total(), shorter.hours.sum("hour"))
    xr.testing.assert_allclose(shorter.total(), two_models.total())


def test_every_case_has_its_scores_under_its_name(two_models):
    assert list(two_models.cases["case"].values) == [Case(time).name for time in TIMES]
    np.testing.assert_array_equal(two_models.cases["reference_time"], TIMES)
    cells = two_models.cases["cells"] / two_models.cases["cells"].sum("case")
    pooled = (two_models.cases["crps"] * cells).sum("case")
    np.testing.assert_allclose(two_models.scores("persistence")["crps"], pooled, rtol=1e-6)


def test_a_case_of_weight_3_counts_as_three(rain):
    weighted = run(rain, Noisy(), cases=[Case(TIMES[0], weight=3.0), Case(TIMES[1])])
    repeated = run(rain, Noisy(), cases=[Case(TIMES[0])] * 3 + [Case(TIMES[1])])
    xr.testing.assert_allclose(weighted.total(), repeated.total())
    assert weighted.cases["weight"].values.tolist() == [3.0, 1.0]


def test_a_single_member_has_scores_but_no_fair_ones(rain):
    scores = run(rain, Persistence(), cases=TIMES[:1]).scores("persistence")
    np.testing.assert_allclose(scores["crps"], scores["mae"], rtol=1e-5)
    assert scores["fair_crps"].isnull().all()
    assert scores["spread"].isnull().all()


def test_a_score_without_an_event_or_a_cell_is_nan(rain):
    dry = rain.copy(data=np.where(np.isnan(rain), np.nan, 0).astype(np.float32))
    scores = run(dry, Persistence(), Noisy(), cases=TIMES[:1]).scores("persistence")
    assert scores["csi"].isnull().all()
    assert (scores["events"] == 0).all()
    assert (scores["mae"] == 0).all()
    assert scores["mae_skill"].isnull().all()  # the reference is perfect
    blank = run(rain, Persistence(), Failing("blank"), cases=TIMES[:1]).scores("persistence")
    assert (blank["cells"] == 0).all()
    assert blank["crps"].isnull().all()


# Models that fail


def test_a_case_that_one_model_fails_on_is_left_out_for_all(rain):
    failing = Failing("raises", times=(TIMES[1],))
    evaluation = run(rain, Persistence(), failing, Noisy())
    assert evaluation.models == ["persistence", "failing_raises", "noisy"]
    assert list(evaluation.cases["case"].values) == [Case(time).name for time in np.delete(TIMES, 1)]
    assert [(failure.model, failure.time) for failure in evaluation.failures] == [
        ("failing_raises", TIMES[1])
    ]
    assert (evaluation.total()["cells"] == 3 * 58 * 64).all()


def test_a_window_that_a_model_fails_on_does_not_cost_the_others_of_that_time(rain):
    class FailsInTheNorth(Noisy):
        def stream(self, context, **asked):
            if context["y"].values[0] > 20_000:  # row 0 lies at 31 km
                raise ValueError("too far north")
            yield from super().stream(context, **asked)

    cases = [Case(TIMES[0], (row, row + 32), (0, 32)) for row in (0, 20, 24)]
    evaluation = run(rain, Persistence(), FailsInTheNorth(), cases=cases)
    assert list(evaluation.cases["case"].values) == [case.name for case in cases[1:]]
    assert len(evaluation.failures) == 1


def test_a_model_that_fails_on_every_case_is_left_out_and_the_others_are_scored(rain):
    evaluation = run(rain, Persistence(), Failing("few"))
    assert evaluation.models == ["persistence"]
    assert len(evaluation.failures) == 4
    assert evaluation.cases.sizes["case"] == 4
    with pytest.raises(
        RefusedInput, match="failing_few, which gave none .ValueError: a forecast of 3 members"
    ):
        evaluation.scores("failing_few")


def test_models_that_all_fail_are_refused_in_one_line(rain):
    with pytest.raises(RefusedInput, match="none of 4 does: failing_raises at 2020-06-01T00:15") as refusal:
        run(rain, Failing("raises"), Failing("shape"))
    assert "\n" not in str(refusal.value)


def test_nothing_to_verify_is_refused(rain):
    with pytest.raises(RefusedInput, match="there is a case to verify"):
        run(rain, Persistence(), cases=[])


# Files


def test_the_files_hold_every_number_with_its_settings(rain, tmp_path):
    hindcasts = Hindcasts({"persistence": Persistence(), "noisy": Noisy()}, rain, 2, 3, scores=SETTINGS)
    evaluation = evaluate_cases(hindcasts, [Case(time) for time in TIMES], folder=tmp_path / "cases")
    about = settings_attributes({"store": "rain.zarr", "members": 3}, SETTINGS)
    scores = evaluation.scores("persistence").assign_attrs(about)
    write_scores(evaluation, scores, evaluation.uncertainty("persistence"), tmp_path)
    with xr.open_dataset(tmp_path / "scores.nc", decode_timedelta=True) as written:
        assert written.attrs["thresholds"] == "1.0, 4.0"
        assert written.attrs["members"] == "3"
        np.testing.assert_allclose(written["crps"], scores["crps"])
        assert {"crps_low", "crps_high", "crps_p_value"} <= set(written.data_vars)
        np.testing.assert_array_equal(written["lead_time"], scores["lead_time"])
    with xr.open_dataset(tmp_path / "scores.nc", group="case", decode_timedelta=True) as cases:
        assert cases.sizes["case"] == 4
    with xr.open_dataset(tmp_path / "scores.nc", group="hour", decode_timedelta=True) as hours:
        assert hours["probability_csi"].sizes["probability"] == len(SETTINGS.probabilities)
    with xr.open_dataset(tmp_path / "sums.nc", decode_timedelta=True) as sums:
        again = score(sums.sum("block"), SETTINGS)
        np.testing.assert_allclose(again["crps"], scores["crps"])


# One forecast against what fell


def test_one_forecast_is_verified_against_persistence_that_nobody_gave(make_rain):
    rain = make_rain(12, speed=(2, 1))
    forecast = Extrapolation().forecast(rain[:6], lead_steps=6)
    scores = verify({"extrapolation": forecast}, truth=rain)
    assert set(scores["model"].values) == {"extrapolation", "persistence"}
    assert (scores["mae_skill"].sel(model="extrapolation") > 0.5).all()


def test_verifying_one_forecast_gives_the_scores_of_its_hindcast(rain):
    forecasts = {model.name: model.forecast(rain[:5], lead_steps=2, members=3) for model in (Noisy(),)}
    scores = verify(forecasts, truth=rain, settings=SETTINGS)
    expected = run(rain, Noisy(), Persistence(), cases=[TIMES[1]]).scores("persistence")
    for name in ("crps", "csi", "rank_frequency", "fss", "mae_skill"):
        np.testing.assert_allclose(scores[name], expected[name], err_msg=name)
    margin = verify(forecasts, truth=rain, settings=dataclasses.replace(SETTINGS, margin=8))
    assert (margin["cells"] == (64 - 16) * (64 - 16)).all()


def test_forecasts_of_different_times_are_not_compared(rain):
    forecasts = {name: Persistence().forecast(rain[:n], lead_steps=3) for name, n in (("a", 6), ("b", 7))}
    with pytest.raises(RefusedInput, match="one reference time"):
        verify(forecasts, truth=rain)
    slower = forecasts["a"].assign_coords(lead_time=forecasts["a"]["lead_time"] * 2)
    with pytest.raises(RefusedInput, match="one set of lead times"):
        verify({"a": forecasts["a"], "b": slower}, truth=rain)


def test_a_truth_that_lacks_a_frame_is_refused_by_its_time(rain):
    forecast = {"a": Persistence().forecast(rain[:6], lead_steps=3)}
    with pytest.raises(RefusedInput, match="the truth holds .* no frame at 2020-06-01T00:35"):
        verify(forecast, truth=rain.isel(time=[5, 6, 8]))
    with pytest.raises(RefusedInput, match="no frame at 2020-06-01T00:25"):
        verify(forecast, truth=rain[6:])


def test_forecasts_and_truth_on_other_grids_are_not_compared(rain):
    forecast = Persistence().forecast(rain[:6], lead_steps=3)
    elsewhere = rain.assign_coords(x=("x", rain["x"].values + 5e4, rain["x"].attrs))
    for truth in (elsewhere, rain[:, ::-1], rain[:, 1:]):
        with pytest.raises(RefusedInput, match="one grid"):
            verify({"a": forecast}, truth=truth)
    with pytest.raises(RefusedInput, match="one grid"):
        verify({"a": forecast, "b": forecast[..., 1:]}, truth=rain)


def test_another_unit_is_refused_by_the_name_of_what_is_in_it(rain):
    forecast = Persistence().forecast(rain[:6], lead_steps=3)
    with pytest.raises(RefusedInput, match="came: a in 'dBZ'"):
        verify({"a": forecast.assign_attrs(units="dBZ")}, truth=rain)
    with pytest.raises(RefusedInput, match="came: the truth in 'm s-1'"):
        verify({"a": forecast}, truth=rain.assign_attrs(units="m s-1"))


def test_a_reference_that_is_not_there_and_no_forecast_at_all_are_refused(rain):
    forecast = Persistence().forecast(rain[:6], lead_steps=3)
    with pytest.raises(RefusedInput, match="came: steps"):
        verify({"a": forecast}, truth=rain, reference="steps")
    with pytest.raises(RefusedInput, match="there is a forecast to verify"):
        verify({}, truth=rain)


# Names


def test_names_of_models_never_take_the_place_of_another(tmp_path):
    from nowcast.forecasters.load import load_forecasters

    assert list(load_forecasters(["persistence", "persistence", "still=persistence"])) == [
        "persistence",
        "still",
    ]
    with pytest.raises(RefusedInput, match="extrapolation is the model of that name"):
        load_forecasters(["extrapolation=persistence"])
    with pytest.raises(RefusedInput, match="different names"):
        load_forecasters(["a=persistence", "a=extrapolation"])
    strange = tmp_path / "epoch=0-step=3.ckpt"
    strange.write_text("no checkpoint")
    with pytest.raises(RefusedInput, match="written by nowcast train"):
        load_forecasters([str(strange)])
