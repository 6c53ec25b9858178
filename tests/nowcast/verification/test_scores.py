import warnings

import numpy as np
import pytest
import xarray as xr
from score_chain import field, rain, scored, sums_of

from data_prep.schema import RefusedInput
from nowcast.verification import SCORES as TABLE
from nowcast.verification import ScoreSettings, score, skill

near = pytest.approx


@pytest.fixture(autouse=True)
def _quiet():
    """No score may warn, whatever it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# By hand

SCORES = {name: row for name, row in TABLE.items() if not name.startswith("sal_")}
"""Those that are made unasked."""


def test_a_contingency_table_counted_by_hand():
    # 1 mm/h: 2 hits, 1 false alarm, 1 miss, 2 correct negatives; by chance 3 * 3 / 6 = 1.5 hits.
    scores = scored(field([[3, 3, 3, 0, 0, 0]]), field([3, 3, 0, 3, 0, 0])).sel(threshold=1)
    assert scores["csi"] == 2 / 4
    assert scores["pod"] == near(2 / 3)
    assert scores["far"] == near(1 / 3)
    assert scores["frequency_bias"] == 1
    assert scores["hss"] == near(2 * (2 * 2 - 1 * 1) / (3 * 3 + 3 * 3))
    assert scores["ets"] == near((2 - 1.5) / (4 - 1.5))
    assert scores["events"] == 6  # in two equal rows
    assert scores["cells"] == 12


def test_the_ensemble_mean_and_the_members_are_scored_apart():
    # Members 4 and 0 where 3 fell: the mean of 2 is a hit, of the members one is a hit and one a miss.
    scores = scored(field([[4, 4], [0, 0]]), field([3, 3])).sel(threshold=1)
    assert scores["csi"] == 1
    assert scores["member_csi"] == 0.5
    assert scores["member_pod"] == 0.5
    assert scores["mae"] == 1


def test_the_matched_mean_has_the_rates_of_the_members_in_the_places_of_the_mean():
    # In two equal rows: means 3 3 2 2 1.5 1.5 0.5 0.5, rates 6 6, 4 4, 3 3, 1 1 and dry: one of two is taken.
    # At 2 mm/h the mean forecasts 4 cells and the matched mean 3, at 1 mm/h 6 and 4; 2 of them are hits.
    scores = scored(field([[6, 0, 3, 1], [0, 4, 0, 0]]), field([5, 0, 0, 0]))
    assert scores["csi"].values == near([2 / 6, 2 / 4])
    assert scores["matched_csi"].values == near([2 / 4, 2 / 3])
    assert scores["matched_far"].sel(threshold=1) == near(1 / 2)
    assert scores["matched_frequency_bias"].sel(threshold=1) == 2
    assert scores["matched_hss"].sel(threshold=1) == near(2 * (2 * 4 - 2 * 0) / (2 * 4 + 4 * 6))


def test_members_are_counted_as_if_each_were_a_forecast():
    # 1 mm/h, cells (members; observed): (1 1 0; 1), (1 0 0; 0) -> 2 hits, 1 miss, 1 false alarm, 2 negatives.
    scores = scored(field([[5, 5], [5, 0], [0, 0]]), field([5, 0])).sel(threshold=1)
    assert scores["member_csi"] == near(2 / 4)
    assert scores["member_far"] == near(1 / 3)
    assert scores["member_frequency_bias"] == 1
    assert scores["member_hss"] == near(2 * (2 * 2 - 1) / (3 * 3 + 3 * 3))


def test_errors_and_bias_by_hand():
    scores = scored(field([[4, 1, 0]]), field([2, 1, 1]))
    assert scores["mae"] == near((2 + 0 + 1) / 3)
    assert scores["rmse"] == near((5 / 3) ** 0.5)
    assert scores["bias"] == near(5 / 4)
    # Deviations of the forecast: 7/3, -2/3 and -5/3; of what was observed: 2/3, -1/3 and -1/3.
    assert scores["correlation"] == near((14 + 2 + 5) / np.sqrt((49 + 4 + 25) * (4 + 1 + 1)))


def test_crps_of_two_members_by_hand():
    # error = (1 + 2) / 2, spread = |4 - 1| / 2; the standard score takes half of the spread off.
    scores = scored(field([[1, 1], [4, 4]]), field([2, 2]))
    assert scores["crps"] == near(1.5 - 0.75)
    assert scores["fair_crps"] == near(1.5 - 1.5, abs=1e-12)
    # Above 2 mm/h members are 2 and 4 and 2 was observed.
    assert scores["tw_crps"].sel(threshold=2) == near((0 + 2) / 2 - 0.5)
    assert scores["fair_tw_crps"].sel(threshold=2) == near(1 - 1, abs=1e-12)


def test_pooled_crps_by_hand():
    # One neighbourhood of 2 x 2 cells: means 1 and 3, largest 2 and 4, observed 2 and 4.
    members = np.array([[[0, 2], [0, 2]], [[2, 4], [2, 4]]], float)
    scores = scored(members, np.array([[0, 4], [0, 4]], float)).sel(scale=2)
    assert scores["pooled_cells"] == 1
    assert scores["pooled_mean_crps"] == near(1 - 0.5)
    assert scores["fair_pooled_mean_crps"] == near(1 - 1, abs=1e-12)
    assert scores["pooled_max_crps"] == near(1 - 0.5)


def test_spread_and_error_by_hand():
    # Unbiased variances ((1 + 1) / 1, 0), errors of the mean (1, 1).
    scores = scored(field([[1, 2], [3, 2]]), field([1, 3]))
    assert scores["spread"] == near(1)
    assert scores["spread_skill"] == near((3 / 2) ** 0.5)


def test_spread_equals_error_for_members_drawn_as_the_truth_is():
    rng = np.random.default_rng(0)
    centre = rng.gamma(2, 5, (200, 200)) + 20
    members, observed = (centre + rng.normal(0, 3, (*size, 200, 200)) for size in ((3,), ()))
    assert scored(members, observed, names=["spread_skill"])["spread_skill"] == near(1, rel=0.02)


def test_intensity_shares_by_hand():
    scores = scored(field([[0, 0, 0.3, 40], [0, 5, 5, 5]]), field([0, 0, 0, 70]))
    share, observed = scores["intensity_share"], scores["observed_intensity_share"]
    assert share.sel(intensity_bin=0) == near((2 + 1) / 2 / 4)
    assert share.sel(intensity_bin=0.2) == near(0.5 / 4)
    assert share.sel(intensity_bin=4) == near(1.5 / 4)
    assert share.sel(intensity_bin=32) == near(0.5 / 4)
    assert observed.sel(intensity_bin=64) == 1 / 4
    assert share.sum() == near(1)


def test_log_spectral_distance_of_a_forecast_ten_times_too_strong_is_20_decibels():
    observed = rain(0, 16, 16)
    assert scored(10 * observed[None], observed)["log_spectral_distance"] == near(20)


def test_fractions_skill_score_by_hand():
    # One event a cell aside: as wrong as can be cell by cell; within 3 cells the fractions are
    # forecast 1/2 1/3 1/3 0, observed 0 1/3 1/3 1/2 (windows of 2, 3, 3 and 2 cells of a row).
    scores = scored(field([[5, 0, 0, 0]]), field([0, 0, 0, 5])).sel(threshold=1)
    assert scores["fss"].sel(window=1) == 0
    closer = scored(field([[5, 5, 0, 0]]), field([0, 5, 5, 0])).sel(threshold=1, window=3)["fss"]
    # Forecast 1, 2/3, 1/3, 0; observed 1/2, 2/3, 2/3, 1/2.
    forecast, observed = np.array([1, 2 / 3, 1 / 3, 0]), np.array([1 / 2, 2 / 3, 2 / 3, 1 / 2])
    assert closer == near(1 - ((forecast - observed) ** 2).sum() / (forecast**2 + observed**2).sum())


# Undefined


def test_without_any_rain_scores_that_need_some_are_nan_and_events_say_why():
    scores = scored(field([[0, 0, 0], [0, 0, 0]]), field([0, 0, 0]))
    assert (scores["events"] == 0).all()
    assert scores["cells"] == 6
    for name in ("csi", "pod", "far", "frequency_bias", "hss", "ets", "member_csi", "probability_csi", "bias",
                 "correlation", "spread_skill", "brier_skill_score", "roc_area", "hit_rate", "economic_value",
                 "fss", "fss_probability", "log_spectral_distance"):  # fmt: skip
        assert np.isnan(scores[name]).all(), name
    for name in ("mae", "rmse", "crps", "fair_crps", "brier", "spread"):
        assert (scores[name] == 0).all(), name


def test_only_false_alarms_are_a_csi_of_0_and_no_skill_to_speak_of():
    scores = scored(field([[5, 5, 0]]), field([0, 0, 0])).sel(threshold=1)
    assert scores["csi"] == 0
    assert scores["far"] == 1
    for name in ("pod", "frequency_bias", "hss", "ets", "member_hss", "roc_area", "brier_skill_score"):
        assert np.isnan(scores[name]), name
    assert np.isnan(scores["economic_value"]).all()


def test_events_everywhere_leave_nothing_to_tell_apart():
    scores = scored(field([[5, 5, 0]]), field([5, 5, 5])).sel(threshold=1)
    assert scores["csi"] == near(2 / 3)
    for name in ("hss", "ets", "member_hss", "member_ets", "roc_area", "brier_skill_score"):
        assert np.isnan(scores[name]), name
    assert np.isnan(scores["economic_value"]).all()


def test_events_everywhere_are_seen_through_the_rounding_of_weights():
    sums = sums_of(field([[5, 5, 0]]), field([5, 5, 5])) * 0.1
    assert (sums["cells"] - sums["hits"] - sums["misses"] - sums["false_alarms"] > 0).all()
    assert np.isnan(score(sums)["hss"]).all()


def test_without_a_cell_nothing_is_defined():
    scores = scored(field([[5, 5], [1, 0]]), field([5, 5]), mask=np.zeros((2, 2), bool))
    for name in set(scores) - {"cells", "events", "pooled_cells"}:
        assert np.isnan(scores[name]).all(), name
    assert scores["cells"] == 0


def test_sums_that_are_nan_make_scores_that_are_nan_and_spoil_no_other_model():
    sums = sums_of({"good": rain(18, 4, 12, 12), "failed": rain(19, 4, 12, 12)}, rain(20, 12, 12))
    before, scores = score(sums), score(sums.where(sums["model"] == "good"))
    for name in scores:
        assert np.isnan(scores[name].sel(model="failed")).all(), name
        xr.testing.assert_identical(scores[name].sel(model="good"), before[name].sel(model="good"))


def test_one_member_has_a_crps_but_neither_a_fair_score_nor_a_spread():
    scores = scored(field([[4, 1]]), field([2, 1]))
    assert scores["crps"] == scores["mae"] == 1
    assert scores["tw_crps"].sel(threshold=2) == near(1)
    for name in ("fair_crps", "fair_tw_crps", "fair_pooled_mean_crps", "fair_pooled_max_crps", "fair_brier",
                 "spread", "spread_skill"):  # fmt: skip
        assert np.isnan(scores[name]).all(), name


@pytest.mark.parametrize("value", [0.3, 7.7, 1e-3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_field_of_one_value_has_no_correlation(value, dtype):
    same = np.full((40, 40), value, dtype)
    assert np.isnan(scored(same[None], rain(4, 40, 40).astype(dtype), names=["correlation"])["correlation"])


def test_a_perfect_forecast_has_the_perfect_value_of_every_score():
    observed = rain(5, 24, 24)
    scores = scored(np.stack([observed] * 3), observed)
    for name, row in SCORES.items():
        # Members that never differ have no spread, and the ranks among equals are drawn.
        if row.perfect is not None and name not in ("spread_skill", "rank_flatness"):
            values = scores[name].values
            np.testing.assert_allclose(values, row.perfect, atol=1e-7, err_msg=name)


# Any dims, merging, padding


def test_scores_of_merged_sums_equal_scores_of_the_pooled_cells():
    members, observed = rain(12, 3, 10, 8), rain(13, 10, 8)
    mask = np.random.default_rng(14).random(observed.shape) > 0.3
    # Cut where no neighbourhood of 2 x 2 is cut; what looks across the cut is left out.
    parts = [sums_of(members[:, rows], observed[rows], mask[rows]) for rows in (slice(0, 4), slice(4, 10))]
    whole, added = sums_of(members, observed, mask), parts[0].copy()
    for name in set(added) - {"power", "observed_power"}:
        added[name] = parts[0][name] + parts[1][name]
    across = {"fss", "fss_probability", "log_spectral_distance", "rank_frequency", "rank_flatness"}
    first, second = score(whole), score(added)
    for name in set(first) - across:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_a_small_ensemble_beside_a_larger_one_has_the_scores_that_it_has_alone():
    small, large, observed = rain(15, 3, 12, 12), rain(16, 7, 12, 12), rain(17, 12, 12)
    alone, beside = scored(small, observed), scored({"small": small, "large": large}, observed)
    for name in SCORES:
        ours, other = beside[name].sel(model="small"), alone[name]
        for dim in ("rank", "forecast_count"):
            if dim in ours.dims:
                assert np.isnan(ours.isel({dim: slice(4, None)})).all(), name
                ours = ours.isel({dim: slice(4)})
        np.testing.assert_array_equal(ours, other, err_msg=name)
    assert beside["member_count"].values.tolist() == [3, 7]


def test_models_joined_from_two_evaluations_are_scored_as_in_one():
    # Where the larger ensemble has counts, joining fills the smaller one's up with NaN.
    small, large, observed = rain(15, 3, 12, 12), rain(16, 7, 12, 12), rain(17, 12, 12)
    joined = xr.concat(
        [sums_of({"small": small}, observed), sums_of({"large": large}, observed)], "model", join="outer"
    )
    together = score(sums_of({"small": small, "large": large}, observed))
    xr.testing.assert_allclose(score(joined), together)


def test_leading_dims_may_be_any_and_none():
    sums = sums_of({"one": rain(18, 1, 12, 12), "four": rain(19, 4, 12, 12)}, rain(20, 12, 12))
    factors = xr.DataArray([1.0, 2.0, 5.0], dims="replicate")
    repeated = score((sums * factors).transpose(..., "replicate"))
    once = score(sums)
    for name in set(SCORES) - {"cells", "events", "pooled_cells"}:
        assert repeated[name].dims[-len(SCORES[name].dims) :] == SCORES[name].dims or not SCORES[name].dims
        for replicate in range(3):
            ours = repeated[name].isel(replicate=replicate)
            np.testing.assert_allclose(ours, once[name].transpose(*ours.dims), err_msg=name)
    bare = score(sums.isel(model=1, lead_time=0, drop=True).assign_coords(member_count=4))
    assert bare["csi"].dims == ("threshold",)
    assert bare["crps"].item() == once["crps"].values[1, 0]


def test_a_sum_that_is_missing_costs_only_its_own_scores():
    sums = sums_of(rain(21, 3, 12, 12), rain(22, 12, 12))
    without = score(sums.drop_vars("event_table"))
    from_events = {
        name for name in SCORES if name.startswith(("member_", "probability_", "brier", "fair_brier"))
    }
    from_events |= {"observed_frequency", "forecast_share", "hit_rate", "false_alarm_rate", "roc_area",
                    "economic_value"}  # fmt: skip
    assert set(without) == set(SCORES) - from_events
    assert set(score(sums[["squared_error", "cells"]])) == {"rmse", "cells"}


def test_scores_can_be_chosen_by_name():
    sums = sums_of(rain(21, 3, 12, 12), rain(22, 12, 12))
    chosen = score(sums, names=["crps", "member_csi"])
    assert set(chosen) == {"crps", "member_csi"}
    xr.testing.assert_identical(chosen["crps"], score(sums)["crps"])
    assert "economic_value" not in score(sums, cost_loss=())


@pytest.mark.parametrize("name", ["kippers", "csi"])
def test_a_score_that_cannot_be_made_is_refused(name):
    sums = sums_of(rain(21, 3, 12, 12), rain(22, 12, 12)).drop_vars("hits")
    with pytest.raises(RefusedInput, match=name):
        score(sums, names=[name])


def test_sums_that_do_not_say_how_many_members_are_refused():
    sums = sums_of(rain(21, 3, 12, 12), rain(22, 12, 12)).drop_vars("member_count")
    with pytest.raises(RefusedInput, match="member_count"):
        score(sums)


# The table


def test_all_scores_of_the_table_are_made_and_lie_within_their_range():
    found = [scored(rain(seed, 4, 10, 10), rain(seed + 50, 10, 10)) for seed in range(2)]
    for scores in found:
        assert list(scores) == list(SCORES)
        for name, row in SCORES.items():
            values = scores[name].values[np.isfinite(scores[name].values)]
            assert values.size, name
            assert values.min() >= row.range[0] - 1e-9, name
            assert values.max() <= row.range[1] + 1e-9, name


def test_every_score_says_what_it_is_and_in_which_unit():
    sums = sums_of(rain(21, 3, 12, 12), rain(22, 12, 12))
    before = sums.copy(deep=True)
    scores = score(sums)
    for name, row in SCORES.items():
        attributes = scores[name].attrs
        assert (attributes["long_name"], attributes["units"]) == (row.long_name, row.units)
        assert attributes.get("perfect_value") == row.perfect
        assert row.name == name
        assert (row.orientation == "none") <= (row.perfect is None)
    xr.testing.assert_identical(sums, before)


def test_no_name_of_a_skill_is_that_of_a_score():
    assert not {f"{row.name}_skill" for row in SCORES.values() if row.perfect is not None} & set(SCORES)


def test_settings_name_the_probabilities_at_which_the_event_is_forecast():
    settings = ScoreSettings(thresholds=(1.0,), probabilities=(0.25, 0.75))
    scores = scored(rain(21, 4, 12, 12), rain(22, 12, 12), settings=settings)
    assert scores["probability"].values.tolist() == [0.25, 0.75]


# Skill


def test_skill_is_one_for_the_perfect_and_zero_for_the_reference():
    observed = field([5, 0, 0])
    scores = scored({"perfect": np.stack([observed] * 2), "reference": field([[0, 5, 0]])}, observed)
    result = skill(scores, "reference").sel(threshold=1)
    for name in ("csi_skill", "mae_skill", "crps_skill", "rmse_skill", "far_skill", "hss_skill"):
        assert result[name].sel(model="perfect") == 1, name
        assert result[name].sel(model="reference") == 0, name
    assert result["member_count"].values.tolist() == [2, 1]


def test_skill_by_hand():
    scores = scored({"better": field([[3, 0]]), "reference": field([[4, 0]])}, field([2, 0]))
    assert skill(scores, "reference")["mae_skill"].sel(model="better") == near(1 - 0.5 / 1)


def test_skill_against_a_perfect_reference_is_undefined():
    observed = field([5, 0, 0])
    scores = scored({"a": field([[0, 5, 0]]), "reference": observed[None]}, observed)
    assert np.isnan(skill(scores, "reference")["mae_skill"]).all()


def test_a_bias_above_one_is_no_better_than_the_same_distance_below():
    # Biases 1.5 and 0.5 miss 1 by as much; 1.25 by half of it.
    models = {"over": field([[3, 3]]), "reference": field([[1, 1]]), "nearer": field([[2.5, 2.5]])}
    values = skill(scored(models, field([2, 2])), "reference")["bias_skill"]
    assert values.values == near([0, 0, 0.5])


def test_a_reference_that_is_not_there_is_refused():
    scores = score(sums_of({"a": rain(21, 3, 12, 12)}, rain(22, 12, 12)))
    with pytest.raises(RefusedInput, match="persistence"):
        skill(scores, "persistence")


def test_sal_is_a_mean_over_the_fields_in_which_it_is_defined():
    values = {"sal_cases": 2.0, "sal_structure": 1.0, "sal_amplitude": 0.5, "sal_location": 0.2}
    dims = ("model", "lead_time")
    sums = xr.Dataset(
        {name: (dims, [[value, 0.0]]) for name, value in values.items()},
        coords={"model": ["a"], "member_count": ("model", [1])},
    )
    scores = score(sums)
    found = {name: scores[name].values[0].tolist() for name in TABLE if name.startswith("sal_")}
    assert found["sal_cases"] == [2, 0]
    for name, value in {"sal_structure": 0.5, "sal_amplitude": 0.25, "sal_location": 0.1}.items():
        assert found[name][0] == pytest.approx(value)
        assert np.isnan(found[name][1])
