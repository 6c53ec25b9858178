"""Equal to the package scores and to pysteps where they define a score; where they differ, both are shown."""

import warnings

import numpy as np
import pytest
import xarray as xr
from score_chain import SETTINGS, field, rain, scored
from scores.categorical import BinaryContingencyManager, ThresholdEventOperator
from scores.continuous import correlation, mae, multiplicative_bias, rmse
from scores.plotdata import relative_economic_value, roc
from scores.probability import (
    brier_score_for_ensemble,
    crps_for_ensemble,
    rank_histogram,
    roc_curve_data,
    tail_tw_crps_for_ensemble,
    tw_crps_for_ensemble,
)

near = pytest.approx
MEMBERS = 5
DIMS = ("y", "x")
ENSEMBLE = ("member", *DIMS)
MANAGER = {
    "csi": "critical_success_index",
    "pod": "probability_of_detection",
    "far": "false_alarm_ratio",
    "frequency_bias": "frequency_bias",
    "hss": "heidke_skill_score",
    "ets": "equitable_threat_score",
}


@pytest.fixture(autouse=True)
def _quiet():
    """No score may warn, whatever it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def case():
    """Members, observed rain and mask; a fifth of the cells is missing."""
    observed = rain(1, 20, 25)
    members = 0.5 * observed + 0.7 * rain(2, MEMBERS, 20, 25)
    return members, observed, np.random.default_rng(3).random(observed.shape) > 0.2


@pytest.fixture(scope="module")
def ours(case):
    """All our scores of it."""
    return scored(*case)


@pytest.fixture
def pysteps(capfd):
    """Its verification; what it prints on import goes nowhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("pysteps.verification", reason="needs the extra 'baselines'")
        yield module
    capfd.readouterr()


def labelled(members, observed, mask):
    """The same for the package scores, which takes NaN for missing."""
    truth = xr.DataArray(np.where(mask, observed, np.nan), dims=DIMS)
    return xr.DataArray(np.where(mask, members, np.nan), dims=ENSEMBLE), truth


def of_events(members, observed, mask, level):
    """Probability and event (0, 1) for the package scores."""
    probability = np.where(mask, (members >= level).mean(0), np.nan)
    event = np.where(mask, observed >= level, np.nan)
    return xr.DataArray(probability, dims=DIMS), xr.DataArray(event, dims=DIMS)


# The package scores


@pytest.mark.parametrize(("name", "theirs"), MANAGER.items())
def test_contingency_scores_equal_those_of_scores(case, ours, name, theirs):
    members, truth = labelled(*case)
    for level in SETTINGS.thresholds:
        # skipna=False: a cell without data stays one.
        mean = members.mean("member", skipna=False)
        table = ThresholdEventOperator().make_contingency_manager(mean, truth, event_threshold=level)
        assert ours[name].sel(threshold=level) == near(getattr(table, theirs)().item())
        events = (members >= level).where(members.notnull()).astype(float)
        pooled = BinaryContingencyManager(events, (truth >= level).where(truth.notnull()).astype(float))
        assert ours[f"member_{name}"].sel(threshold=level) == near(getattr(pooled, theirs)().item())


def test_errors_equal_those_of_scores(case, ours):
    members, truth = labelled(*case)
    mean = members.mean("member", skipna=False)
    assert ours["mae"] == near(mae(mean, truth).item())
    assert ours["rmse"] == near(rmse(mean, truth).item())
    assert ours["bias"] == near(multiplicative_bias(mean, truth).item())
    assert ours["correlation"] == near(correlation.pearsonr(mean, truth).item())


@pytest.mark.parametrize(("name", "method"), [("crps", "ecdf"), ("fair_crps", "fair")])
def test_crps_equals_that_of_scores(case, ours, name, method):
    members, truth = labelled(*case)
    theirs = crps_for_ensemble(members, truth, "member", method=method)
    assert ours[name] == near(theirs.item())


@pytest.mark.parametrize(("name", "method"), [("tw_crps", "ecdf"), ("fair_tw_crps", "fair")])
@pytest.mark.parametrize("level", SETTINGS.thresholds)
def test_threshold_weighted_crps_equals_that_of_scores(case, ours, name, method, level):
    members, truth = labelled(*case)
    theirs = tail_tw_crps_for_ensemble(members, truth, "member", level, method=method)
    assert ours[name].sel(threshold=level) == near(theirs.item())
    chained = tw_crps_for_ensemble(
        members, truth, "member", lambda rate: np.maximum(rate, level), method=method
    )
    assert ours[name].sel(threshold=level) == near(chained.item())


@pytest.mark.parametrize(("name", "method"), [("crps", "ecdf"), ("fair_crps", "fair")])
def test_pooled_crps_equals_that_of_scores_for_fields_that_are_pooled_first(name, method):
    members, observed = rain(6, 4, 12, 16), rain(7, 12, 16)
    forecast, truth = xr.DataArray(members, dims=ENSEMBLE), xr.DataArray(observed, dims=DIMS)
    ours = scored(members, observed).sel(scale=2)
    fair = "fair_" if method == "fair" else ""
    for kind in ("mean", "max"):
        pooled = [getattr(values.coarsen(y=2, x=2), kind)() for values in (forecast, truth)]
        theirs = crps_for_ensemble(*pooled, "member", method=method)
        assert ours[f"{fair}pooled_{kind}_crps"] == near(theirs.item()), name


def test_a_cell_where_one_member_lacks_is_left_out_and_not_scored_with_the_others():
    # scores takes the members that there are: |3 - 2| in the second cell. Here all members or none.
    members = xr.DataArray([[1.0, np.nan], [1.0, 3.0]], dims=("member", "x"))
    theirs = crps_for_ensemble(members, xr.DataArray([1.0, 2.0], dims="x"), "member")
    mask = field([1, 0]).astype(bool)
    assert theirs == 0.5
    assert scored(field([[1, np.nan], [1, 3]]), field([1, 2]), mask)["crps"] == 0


@pytest.mark.parametrize(("name", "fair"), [("brier", False), ("fair_brier", True)])
def test_brier_score_equals_that_of_scores(case, ours, name, fair):
    members, observed, mask = case
    truth = xr.DataArray(np.where(mask, observed, np.nan), dims=DIMS)
    theirs = brier_score_for_ensemble(
        xr.DataArray(members, dims=("member", *DIMS)), truth, "member", list(SETTINGS.thresholds),
        fair_correction=fair,
    )  # fmt: skip
    assert ours[name].values == near(theirs.values)


def test_brier_score_of_scores_takes_the_members_that_there_are_and_ours_none(case):
    members, observed, mask = case
    lacking = np.where(mask, members, np.nan)
    lacking[1:, ~mask] = members[1:, ~mask]
    theirs = brier_score_for_ensemble(
        xr.DataArray(lacking, dims=("member", *DIMS)), xr.DataArray(observed, dims=DIMS), "member", 1.0,
        fair_correction=False,
    )  # fmt: skip
    event, four = observed >= 1, (members[1:] >= 1).mean(0)
    with_four = ((np.where(mask, (members >= 1).mean(0), four) - event) ** 2).mean()
    assert theirs.item() == near(with_four)
    only_five = ((members >= 1).mean(0) - event)[mask] ** 2
    assert scored(lacking, observed, mask)["brier"].sel(threshold=1) == near(only_five.mean())


@pytest.mark.parametrize("level", SETTINGS.thresholds)
def test_relative_operating_characteristic_equals_that_of_scores(case, ours, level):
    ours = ours.sel(threshold=level)
    # Just below the probabilities: their own are not all to be had as k / M in binary.
    cuts = [0.0, *(np.arange(1, MEMBERS + 1) / MEMBERS - 1e-6)]
    for function in (roc_curve_data, roc):
        theirs = function(*of_events(*case, level), cuts)
        assert ours["roc_area"] == near(theirs["AUC"].item())
        assert ours["hit_rate"].values == near(theirs["POD"].values[: MEMBERS + 1])
        assert ours["false_alarm_rate"].values == near(theirs["POFD"].values[: MEMBERS + 1])


@pytest.mark.parametrize("level", SETTINGS.thresholds)
def test_economic_value_equals_that_of_scores(case, ours, level):
    ours = ours["economic_value"].sel(threshold=level)
    theirs = relative_economic_value(
        *of_events(*case, level),
        cost_loss_ratios=list(ours["cost_loss"].values),
        probability_thresholds=list(np.arange(1, MEMBERS + 1) / MEMBERS - 1e-6),
        generate_maximum_rev=True,
    )
    assert ours.values == near(theirs["maximum"].values)


def test_contingency_of_the_probability_equals_that_of_scores(case, ours):
    for level in SETTINGS.thresholds:
        probability, event = of_events(*case, level)
        for cut in SETTINGS.probabilities:
            table = ThresholdEventOperator(default_event_threshold=0.5).make_contingency_manager(
                (probability >= cut - 1e-6).where(probability.notnull()).astype(float), event
            )
            at = {"threshold": level, "probability": cut}
            assert ours["probability_csi"].sel(at) == near(table.critical_success_index().item())
            assert ours["probability_pod"].sel(at) == near(table.probability_of_detection().item())
            assert ours["probability_far"].sel(at) == near(table.false_alarm_ratio().item())


def test_rank_histogram_equals_that_of_scores_where_no_values_are_equal():
    fields = np.random.default_rng(15).gamma(0.7, 3.0, (MEMBERS + 1, 15, 15))
    theirs = rank_histogram(
        xr.DataArray(fields[1:], dims=("member", *DIMS)), xr.DataArray(fields[0], dims=DIMS), "member"
    )
    assert scored(fields[1:], fields[0])["rank_frequency"].values == near(theirs.values)


def test_ranks_among_equal_values_are_drawn_here_and_shared_out_in_scores():
    members, observed = np.zeros((1, 60, 60)), np.zeros((60, 60))
    theirs = rank_histogram(
        xr.DataArray(members, dims=("member", *DIMS)), xr.DataArray(observed, dims=DIMS), "member"
    )
    ours = scored(members, observed)["rank_frequency"].values
    assert theirs.values.tolist() == [0.5, 0.5]
    # 3600 draws: a share has a standard deviation of 0.0083.
    assert ours == near([0.5, 0.5], abs=0.04)
    assert ours[0] != 0.5


# pysteps


def test_contingency_scores_equal_those_of_pysteps(pysteps):
    members, observed = rain(8, 1, 20, 20), rain(9, 20, 20)
    names = ["CSI", "POD", "FAR", "BIAS", "HSS", "ETS"]
    theirs = pysteps.detcatscores.det_cat_fct(members[0], observed, 1.0, names)
    ours = scored(members, observed).sel(threshold=1)
    for name, mine in zip(names, ("csi", "pod", "far", "frequency_bias", "hss", "ets"), strict=True):
        assert ours[mine] == near(float(theirs[name])), name


def test_a_rate_of_just_the_threshold_is_an_event_here_and_none_in_pysteps(pysteps):
    rates = field([[1, 0]])
    assert scored(rates, rates[0]).sel(threshold=1)["pod"] == 1
    with np.errstate(invalid="ignore"):
        assert np.isnan(pysteps.detcatscores.det_cat_fct(rates[0], rates[0], 1.0, ["POD"])["POD"])


def test_no_data_is_dry_in_pysteps_and_nothing_here(pysteps):
    # The second cell has rain forecast and no observation: no false alarm can be told.
    forecast, observed = field([[5, 5]]), field([5, np.nan])
    theirs = pysteps.detcatscores.det_cat_fct(forecast[0], observed, 1.0, ["CSI"])["CSI"]
    assert theirs == 0.5
    assert scored(forecast, observed, np.isfinite(observed)).sel(threshold=1)["csi"] == 1


def test_errors_equal_those_of_pysteps(pysteps, case, ours):
    members, observed, mask = case
    mean, truth = (np.where(mask, values, np.nan) for values in (members.mean(0), observed))
    theirs = pysteps.detcontscores.det_cont_fct(mean, truth, ["MAE", "RMSE", "corr_p"])
    for name, mine in {"MAE": "mae", "RMSE": "rmse", "corr_p": "correlation"}.items():
        assert ours[mine] == near(float(theirs[name])), name


def test_pysteps_takes_the_variance_of_the_forecast_also_where_nothing_was_observed(pysteps):
    # Forecast and observation are the same where both are: a correlation of 1.
    forecast, observed = field([[4, 1, 1, 60]]), field([4, 1, 1, np.nan])
    theirs = pysteps.detcontscores.det_cont_fct(forecast[0], observed, ["corr_p"])["corr_p"]
    # Mean 16.5 of all four forecasts, and mean 2 of three observations: covariance of the three is 2.
    assert theirs == near(2 / np.sqrt(2) / np.sqrt((12.5**2 + 2 * 15.5**2 + 43.5**2) / 4))
    assert scored(forecast, observed, np.isfinite(observed))["correlation"] == near(1)


def test_crps_equals_that_of_pysteps_where_no_values_are_equal(pysteps, case):
    _, observed, mask = case
    members = np.random.default_rng(10).gamma(0.7, 3.0, (6, *observed.shape))
    wet = observed + np.random.default_rng(11).random(observed.shape)
    theirs = pysteps.probscores.CRPS(members, np.where(mask, wet, np.nan))
    assert scored(members, wet, mask)["crps"] == near(theirs)


def test_pysteps_misses_what_lies_beside_a_member_equal_to_the_observation(pysteps):
    # Members 0 and 1, observed 0: error 1/2, half the mean difference 1/4. pysteps compares strictly on both
    # sides and drops the interval from 0 to 1.
    members, observed = field([[0, 0], [1, 1]]), field([0, 0])
    theirs = pysteps.probscores.CRPS(members, observed)
    assert theirs == 0
    assert scored(members, observed)["crps"] == near(0.25)


def test_reliability_diagram_equals_that_of_pysteps(pysteps, case, ours):
    probability, _ = of_events(*case, 1.0)
    truth = np.where(case[2], case[1], np.nan)
    # Their bins, of equal width and M + 1 in number, hold one of our probabilities each.
    forecast, frequency = pysteps.probscores.reldiag(
        probability.values, truth, 1.0, n_bins=MEMBERS + 1, min_count=1
    )
    ours = ours.sel(threshold=1)
    assert ours["forecast_probability"].values == near(forecast)
    assert ours["observed_frequency"].values == near(frequency)


def test_relative_operating_characteristic_equals_that_of_pysteps(pysteps, case, ours):
    probability, _ = of_events(*case, 1.0)
    truth = np.where(case[2], case[1], np.nan)
    # In the order in which they come, which is not that of their documentation.
    false_alarm_rate, hit_rate, area = pysteps.probscores.ROC_curve(
        probability.values + 1e-9, truth, 1.0, n_prob_thrs=MEMBERS + 1, compute_area=True
    )
    ours = ours.sel(threshold=1)
    assert ours["hit_rate"].values == near(hit_rate)
    assert ours["false_alarm_rate"].values == near(false_alarm_rate)
    assert ours["roc_area"] == near(area)


def test_rank_histogram_equals_that_of_pysteps_where_no_values_are_equal(pysteps):
    fields = np.random.default_rng(16).gamma(0.7, 3.0, (MEMBERS + 1, 15, 15))
    theirs = pysteps.ensscores.rankhist(fields[1:], fields[0])
    assert scored(fields[1:], fields[0])["rank_frequency"].values == near(theirs)


def test_spread_of_pysteps_is_the_difference_of_pairs_which_is_the_spread_of_our_crps(pysteps):
    # Mean over pairs of |x_i - x_j| there; here the root of the variance, and half of theirs within the CRPS.
    members, observed = rain(17, 4, 15, 15), rain(18, 15, 15)
    theirs = pysteps.ensscores.ensemble_spread(members, "MAE")
    scores = scored(members, observed)
    pairs = [abs(one - other).mean() for number, one in enumerate(members) for other in members[number + 1 :]]
    assert theirs == near(np.mean(pairs))
    assert 4 * (scores["crps"] - scores["fair_crps"]) == near(theirs / 2)
    assert scores["spread"] == near(np.sqrt(members.var(0, ddof=1).mean()))


def test_skill_of_pysteps_is_the_mean_of_the_members_scores_and_ours_is_of_their_added_counts(pysteps):
    # Observed 5 5 0 0. One member hits both (CSI 1), the other one of three (1 hit, 1 miss, 1 false alarm).
    members, observed = field([[5, 5, 0, 0], [5, 0, 5, 0]]), field([5, 5, 0, 0])
    assert pysteps.ensscores.ensemble_skill(members, observed, "CSI", thr=1.0) == near((1 + 1 / 3) / 2)
    assert scored(members, observed)["member_csi"].sel(threshold=1) == near(3 / (3 + 1 + 1))
