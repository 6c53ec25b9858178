import warnings

import numpy as np
import pytest
import xarray as xr
from score_chain import field, rain, scored, sums_of

from nowcast.verification import ScoreSettings, score

near = pytest.approx


@pytest.fixture(autouse=True)
def _quiet():
    """No score may warn, whatever it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# By hand


@pytest.fixture
def by_hand():
    """Two members, five cells: members with 1 mm/h or more 2 2 1 0 0, observed 1 0 1 0 0."""
    return scored(field([[5, 5, 5, 0, 0], [5, 5, 0, 0, 0]]), field([5, 0, 5, 0, 0])).sel(threshold=1)


def test_brier_score_by_hand(by_hand):
    # Probabilities 1 1 .5 0 0: (0 + 1 + 1/4 + 0 + 0) / 5; p (1 - p) / (M - 1) is 1/4 in the third cell.
    assert by_hand["brier"] == near(1.25 / 5)
    assert by_hand["fair_brier"] == near(1.25 / 5 - 0.25 / 5)
    # Observed frequencies 0, 1, 1/2 of probabilities 0, 1/2, 1 (2, 1, 2 cells); 2/5 of all.
    assert by_hand["brier_reliability"] == near((0 + 1 * (1 / 2) ** 2 + 2 * (1 / 2) ** 2) / 5)
    assert by_hand["brier_resolution"] == near((2 * 0.4**2 + 1 * 0.6**2 + 2 * 0.1**2) / 5)
    assert by_hand["brier_uncertainty"] == near(0.4 * 0.6)
    assert by_hand["brier_skill_score"] == near(1 - 0.25 / 0.24)


def test_reliability_diagram_by_hand(by_hand):
    assert by_hand["observed_frequency"].values == near([0, 1, 0.5])
    assert by_hand["forecast_share"].values == near([0.4, 0.2, 0.4])
    assert by_hand["forecast_probability"].values == near([0, 0.5, 1])


def test_relative_operating_characteristic_by_hand(by_hand):
    # 0, 1, 2 members or more: all; cells 1 to 3; cells 1 and 2.
    assert by_hand["hit_rate"].values == near([1, 1, 1 / 2])
    assert by_hand["false_alarm_rate"].values == near([1, 1 / 3, 1 / 3])
    # From (0, 0) to (1/3, 1/2), straight up to (1/3, 1), and on to (1, 1).
    assert by_hand["roc_area"] == near(1 / 3 * 1 / 4 + 2 / 3 * 1)


def test_economic_value_by_hand(by_hand):
    # Cost/loss 0.3 is below the frequency 0.4: always acting costs 0.3, knowing the future 0.4 * 0.3.
    # Acting at 1 member: 3 of 5 times, no event missed: 0.6 * 0.3 = 0.18; at 2 members 0.12 + 0.2 = 0.32.
    assert by_hand["economic_value"].sel(cost_loss=0.3) == near((0.3 - 0.18) / (0.3 - 0.12))
    # Cost/loss 0.9: never acting costs 0.4; at 1 member 0.54; at 2 members 0.36 + 0.2 = 0.56.
    assert by_hand["economic_value"].sel(cost_loss=0.9) == near((0.4 - 0.54) / (0.4 - 0.36))


def test_axes_say_what_they_are(by_hand):
    for name in ("probability", "cost_loss", "forecast_probability"):
        assert by_hand[name].attrs["long_name"], name
        assert by_hand[name].attrs["units"] == "1"


def test_contingency_of_a_probability_by_hand(by_hand):
    # 0.1 to 0.5: one member or more, 2 hits and 1 false alarm; 0.7: both, one hit, one miss, one false alarm.
    assert by_hand["probability_csi"].values == near([2 / 3, 2 / 3, 2 / 3, 1 / 3])
    assert by_hand["probability_pod"].values == near([1, 1, 1, 1 / 2])
    assert by_hand["probability_far"].values == near([1 / 3, 1 / 3, 1 / 3, 1 / 2])


@pytest.mark.parametrize("members", [3, 10, 20, 50])
def test_a_probability_of_exactly_the_cut_is_a_forecast_of_the_event(members):
    # In cell k, k members have the event; with n cells, those from cut * M on are forecast.
    events = np.arange(members)[:, None] < np.arange(members + 1)
    cuts = tuple(number / 10 for number in range(1, 10))
    settings = ScoreSettings(thresholds=(1.0,), probabilities=cuts, scales=(1.0,), windows=(1.0,))
    scores = scored(field(5.0 * events), field([5] * (members + 1)), settings=settings)
    forecast = [
        sum(10 * number >= tenth * members for number in range(members + 1)) for tenth in range(1, 10)
    ]
    assert scores["probability_pod"].values[0] == near(np.array(forecast) / (members + 1))


def test_rank_histogram_and_its_flatness_by_hand():
    # Members 1 and 3: 0 below both, 2 between, 4 and 5 above.
    scores = scored(field([[1, 1, 1, 1], [3, 3, 3, 3]]), field([0, 2, 4, 5]))
    assert scores["rank_frequency"].values == near([1 / 4, 1 / 4, 1 / 2])
    assert scores["rank_flatness"] == near(1 / 12 + 1 / 12 + 1 / 6)


def test_a_member_drawn_as_the_truth_is_gives_a_flat_rank_histogram_also_where_it_is_dry():
    fields = rain(5, 10, 150, 150)
    scores = scored(fields[1:], fields[0], names=["rank_frequency", "rank_flatness"])
    assert scores["rank_frequency"].values == near(np.full(10, 0.1), abs=0.01)
    assert scores["rank_flatness"] < 0.04


def test_a_member_drawn_as_the_truth_is_gives_a_fair_brier_score_of_the_uncertainty():
    fields = rain(6, 6, 200, 200)
    scores = scored(fields[1:], fields[0], names=["fair_brier", "brier_uncertainty", "brier"])
    assert scores["fair_brier"].values == near(scores["brier_uncertainty"].values, rel=0.01)
    assert (scores["brier"] > 1.1 * scores["brier_uncertainty"]).all()


# Properties


def test_the_parts_of_the_brier_score_make_the_whole():
    scores = scored(rain(1, 5, 20, 20), rain(2, 20, 20))
    whole = scores["brier_reliability"] - scores["brier_resolution"] + scores["brier_uncertainty"]
    np.testing.assert_allclose(whole, scores["brier"], rtol=1e-13)


def test_curves_are_nan_where_a_probability_was_not_forecast_and_beyond_the_members():
    forecasts = {"two": field([[5, 0], [5, 0]]), "four": field([[5, 0], [5, 0], [5, 0], [0, 5]])}
    scores = scored(forecasts, field([5, 0])).sel(threshold=1)
    assert scores["observed_frequency"].sel(model="two").values == near(
        [0, np.nan, 1, np.nan, np.nan], nan_ok=True
    )
    assert scores["forecast_share"].sel(model="two").values == near(
        [0.5, 0, 0.5, np.nan, np.nan], nan_ok=True
    )
    assert scores["hit_rate"].sel(model="two").values == near([1, 1, 1, np.nan, np.nan], nan_ok=True)
    assert scores["forecast_probability"].sel(model="two").values == near(
        [0, 0.5, 1, np.nan, np.nan], nan_ok=True
    )
    assert scores["forecast_probability"].sel(model="four").values == near([0, 0.25, 0.5, 0.75, 1])


def test_a_single_member_is_a_forecast_of_yes_or_no():
    scores = scored(rain(7, 1, 30, 30), rain(8, 30, 30))
    for name in ("csi", "pod", "far"):
        for cut in (0.1, 0.7):
            xr.testing.assert_allclose(
                scores[f"probability_{name}"].sel(probability=cut, drop=True), scores[name]
            )
    assert scores["hit_rate"].isel(forecast_count=1).values == near(scores["pod"].values)


def test_economic_value_needs_no_more_than_it_says():
    """The naive count of what users pay, cell by cell."""
    members, observed = rain(9, 4, 15, 15), rain(10, 15, 15)
    ours = scored(members, observed).sel(threshold=1)["economic_value"]
    number, event = (members >= 1).sum(0), observed >= 1
    for ratio in ours["cost_loss"].values:
        paid = [np.where(number >= least, ratio, np.where(event, 1.0, 0.0)).mean() for least in range(1, 5)]
        climatology, perfect = min(ratio, event.mean()), ratio * event.mean()
        expected = (climatology - min(paid)) / (climatology - perfect)
        assert ours.sel(cost_loss=ratio) == near(expected)


def test_many_replicates_are_scored_at_once():
    sums = sums_of({"one": rain(11, 1, 16, 16), "six": rain(12, 6, 16, 16)}, rain(13, 16, 16))
    draws = np.random.default_rng(14).integers(1, 5, 300)
    scores = score(sums * xr.DataArray(draws.astype(float), dims="replicate"))
    for name in ("economic_value", "roc_area", "brier_reliability", "rank_flatness"):
        spread = scores[name].max("replicate") - scores[name].min("replicate")
        assert float(spread.max()) < 1e-12, name
