"""Intervals and tests on sums made by hand: one cell a block unless said otherwise, so a score is a mean."""

from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.verification import ScoreSettings, label_sums, lead_sums, score, skill
from nowcast.verification import uncertainty as under_test
from nowcast.verification.uncertainty import (
    SUMS_OF,
    add_by_block,
    block_labels,
    default_block_length,
    intervals,
    permutation_test,
)

SUMS = sorted({needed for name in under_test.HEADLINE for needed in SUMS_OF[name]})
START = np.datetime64("2020-05-01T00:00", "ns")


def hours(*numbers):
    return START + (np.array(numbers) * 60).astype("timedelta64[m]")


def errors(**models):
    """Sums of which the MAE is the mean of the values given, (block,) or (block, lead_time)."""
    values = np.stack([np.asarray(value, float) for value in models.values()], axis=1)
    values = values.reshape(*values.shape[:2], -1)
    dims = ("block", "model", "lead_time")
    sums = {"absolute_error": (dims, values), "cells": (dims, np.ones(values.shape))}
    members = ("model", np.ones(len(models), int))
    return xr.Dataset(sums, {"model": list(models), "member_count": members})


@lru_cache
def mixed_ensembles(**members):
    """Every sum of six cases, one a block, of ensembles of some sizes in small fields."""
    rng = np.random.default_rng(0)
    settings = ScoreSettings(scales=(1.0, 4.0), windows=(4.0,), thresholds=(1.0, 3.0))
    leads, cases = np.array([5], "timedelta64[m]"), []
    for _ in range(6):
        observed, mask = rng.gamma(0.5, 2, (16, 16)), rng.random((16, 16)) > 0.2
        by_model = {
            name: [lead_sums(rng.gamma(0.5, 2, (count, 16, 16)), observed, mask, settings, spacing=1.0)]
            for name, count in members.items()
        }
        cases.append(label_sums(by_model, lead_times=leads, settings=settings, shape=(16, 16), spacing=1.0))
    return xr.concat(cases, dim="block", data_vars="all", coords="minimal", compat="override")


def of_three_sizes():
    return mixed_ensembles(one=1, three=3, eight=8)


def by_case(values, weights):
    sums = errors(a=values, b=np.zeros(len(values))).rename(block="case")
    return sums.assign_coords(weight=("case", np.asarray(weights, float)))


# Blocks


def test_cases_of_a_run_are_cut_into_blocks_from_its_first_case_on():
    # 0 to 5.5 in the first 6 hours, 6 to 8 in the next; 20 starts a run, which 25.9 still belongs to.
    labels = block_labels(hours(0, 3, 5.5, 6, 8, 20, 25.9, 26), np.timedelta64(6, "h"))
    assert labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_cases_one_block_length_apart_are_in_blocks_of_their_own():
    assert block_labels(hours(1, 7, 13), np.timedelta64(6, "h")).tolist() == [0, 1, 2]
    # 11 is 6 hours after 5, so that a run begins there and its first block reaches to 17.
    assert block_labels(hours(0, 5, 11, 13), np.timedelta64(6, "h")).tolist() == [0, 0, 1, 1]


def test_blocks_are_the_same_in_any_order_and_cases_of_one_time_share_one():
    assert block_labels(hours(8, 0, 3, 8, 20, 0), np.timedelta64(6, "h")).tolist() == [1, 0, 0, 1, 2, 0]


def test_a_stretch_without_cases_has_no_number():
    assert block_labels(hours(0, 5, 10, 15, 20), np.timedelta64(7, "h")).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("length", [np.timedelta64(0, "h"), np.timedelta64(-1, "h")])
def test_blocks_without_length_are_refused(length):
    with pytest.raises(RefusedInput, match="blocks of cases last some time"):
        block_labels(hours(0, 1), length)


def test_blocks_are_days_in_long_archives_and_forecasts_in_short_ones():
    forecast = np.timedelta64(90, "m")
    assert default_block_length(hours(0, 239), forecast) == forecast
    assert default_block_length(hours(0, 3), np.timedelta64(5, "m")) == np.timedelta64(1, "h")
    assert default_block_length(hours(240, 0), forecast) == np.timedelta64(24, "h")
    assert default_block_length(hours(0, 240), np.timedelta64(36, "h")) == np.timedelta64(36, "h")


def test_a_weight_of_two_is_the_case_twice():
    once, labels = by_case([1, 2, 6, 3], [1, 2, 1, 1]), np.array([0, 0, 1, 1])
    twice, repeated = by_case([1, 2, 2, 6, 3], [1, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1])
    blocks = add_by_block(once, labels)
    assert blocks["absolute_error"].sel(model="a").values.ravel().tolist() == [5, 9]
    assert blocks["cells"].sel(model="a").values.ravel().tolist() == [3, 2]
    xr.testing.assert_identical(blocks, add_by_block(twice, repeated))
    assert "weight" not in blocks.coords


# Intervals


def test_the_interval_of_a_mean_is_that_of_theory():
    blocks = errors(a=np.random.default_rng(0).normal(10, 2, 400))
    found = intervals(blocks, "a", scores=["mae"], replicates=4000)
    values = blocks["absolute_error"].values
    half = 1.96 * values.std() / 20
    assert found["mae_low"].item() == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found["mae_high"].item() == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_an_interval_is_between_percentiles_of_scores_of_drawn_blocks():
    blocks = of_three_sizes()[SUMS]
    drawn = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), 50)
    sums = [blocks.isel(block=np.repeat(np.arange(6), row)).sum("block") for row in drawn]
    naive = score(xr.concat(sums, dim="draw"), names=under_test.HEADLINE)
    skills = skill(naive, "three")
    found = intervals(blocks, "three", level=0.8, replicates=50, seed=3)
    for name in under_test.HEADLINE:
        difference = naive[name] - naive[name].sel(model="three", drop=True)
        for values, what in (
            (naive[name], ""),
            (difference, "_difference"),
            (skills[f"{name}_skill"], "_skill"),
        ):
            low, high = np.quantile(values, [0.1, 0.9], axis=0)
            np.testing.assert_allclose(found[f"{name}{what}_low"], low, atol=1e-9, err_msg=name + what)
            np.testing.assert_allclose(found[f"{name}{what}_high"], high, atol=1e-9, err_msg=name + what)


def test_intervals_stand_beside_the_scores_they_are_of():
    blocks = of_three_sizes()
    scores = score(blocks.sum("block"))
    found = intervals(blocks, "one", replicates=20)
    parts = [scores, skill(scores, "one"), found, permutation_test(blocks, "one")]
    whole = xr.merge(parts, combine_attrs="drop", compat="no_conflicts")
    assert whole["crps_skill"].dims == whole["crps_skill_low"].dims == ("model", "lead_time")
    assert whole["csi_p_value"].dims == whole["csi_low"].dims == ("model", "lead_time", "threshold")
    assert (whole["crps_low"] <= whole["crps"]).all()
    assert (whole["crps"] <= whole["crps_high"]).all()
    assert found["crps_difference"].attrs["long_name"].startswith("difference to one: continuous")
    assert found["crps_skill_low"].attrs["long_name"].startswith("low end of the 95 % interval: skill in")
    assert found["crps_low"].attrs["units"] == "mm h-1"
    assert not any(
        "perfect_value" in whole[f"crps_{what}"].attrs for what in ("difference", "low", "p_value")
    )
    assert found.attrs["blocks"] == 6
    assert found.attrs["indicative"] == 1


@pytest.mark.parametrize(("blocks", "least", "most"), [(5, 0.77, 0.88), (10, 0.86, 0.94), (40, 0.92, 0.97)])
def test_intervals_hold_the_truth_as_often_as_the_docstring_says(blocks, least, most):
    archives = np.random.default_rng(blocks).normal(3, 1, (blocks, 1500))
    found = intervals(errors(a=archives), "a", scores=["mae"], replicates=800)
    holds = (found["mae_low"] <= 3) & (found["mae_high"] >= 3)
    assert least < holds.mean().item() < most
    assert found.attrs["indicative"] == int(blocks < 10)


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(1)
    weather = rng.gamma(2, 5, 60)
    found = intervals(errors(a=weather, b=weather + rng.normal(1, 0.2, 60)), "a", scores=["mae"])
    width = {end: found[f"mae{end}_high"] - found[f"mae{end}_low"] for end in ("", "_difference")}
    assert width["_difference"].sel(model="b").item() < 0.1 * width[""].sel(model="b").item()
    assert 0.9 < found["mae_difference_low"].sel(model="b").item() < 1
    assert 1 < found["mae_difference_high"].sel(model="b").item() < 1.1


def test_the_reference_differs_from_itself_by_exactly_nothing():
    found = intervals(of_three_sizes(), "three", replicates=100).sel(model="three")
    for name in ("crps", "csi", "brier", "log_spectral_distance"):
        for what in ("difference", "difference_low", "difference_high"):
            assert (found[f"{name}_{what}"] == 0).all(), name


def test_cells_count_and_not_blocks():
    # Three in four cells have an error of 1: the score is 0.25 * 5 + 0.75 * 1, not the mean of 1 and 5.
    blocks = errors(a=[3, 5]).assign(cells=(("block", "model", "lead_time"), [[[3.0]], [[1.0]]]))
    found = intervals(blocks, "a", scores=["mae"], level=0.2, replicates=2000)
    assert found["mae_low"].item() == found["mae_high"].item() == 2  # half of the replicates hold both blocks


def test_one_block_gives_no_interval():
    found = intervals(errors(a=[1], b=[2]), "a", scores=["mae"])
    assert found["mae_difference"].sel(model="b").item() == 1
    assert np.isnan([found["mae_low"], found["mae_difference_high"], found["mae_skill_low"]]).all()


def test_an_event_in_a_single_block_gives_no_interval_of_its_score():
    hits, dims = np.zeros((20, 1, 1, 2)), ("block", "model", "lead_time", "threshold")
    hits[0, ..., 0] = 1  # in 1 of 20 blocks, which a third of the replicates lacks
    hits[:8, ..., 1] = 1
    sums = {"hits": (dims, hits), "misses": (dims, 0 * hits), "false_alarms": (dims, 0 * hits)}
    sums["cells"] = (dims[:3], np.full((20, 1, 1), 4.0))
    blocks = xr.Dataset(sums, {"model": ["a"], "member_count": ("model", [1])})
    found = intervals(blocks, "a", scores=["csi"])
    assert np.isnan(found["csi_low"].values.ravel()).tolist() == [True, False]
    assert found["csi_high"].values.ravel()[1] == 1


def test_scores_that_a_model_does_not_have_get_neither_interval_nor_p_value():
    blocks = of_three_sizes()
    found = intervals(blocks, "three", replicates=100)
    assert np.isnan(found["fair_crps_low"].sel(model="one")).all()
    assert np.isfinite(found["fair_crps_low"].sel(model="eight")).all()
    tested = permutation_test(blocks, "one", ["fair_crps", "crps"])
    assert np.isnan(tested["fair_crps_p_value"]).all()
    assert np.isfinite(tested["crps_p_value"].sel(model="eight")).all()


def test_a_model_without_sums_of_a_case_has_no_interval_and_leaves_the_others_theirs():
    values = np.arange(12.0)
    blocks = errors(a=values, b=np.where(values == 3, np.nan, values), c=2 * values)
    found = intervals(blocks, "a", scores=["mae"])
    assert np.isnan(found["mae_low"].sel(model="b")).all()
    assert np.isfinite(found["mae_difference_low"].sel(model="c")).all()
    p = permutation_test(blocks, "a", ["mae"])["mae_p_value"]
    assert np.isnan(p.sel(model="b")).all()
    assert np.isfinite(p.sel(model="c")).all()


def test_slices_of_draws_change_nothing(monkeypatch):
    settings = {"reference": "three", "scores": ["crps", "fair_crps", "brier"]}
    whole = (
        intervals(of_three_sizes(), replicates=30, **settings),
        permutation_test(of_three_sizes(), **settings),
    )
    monkeypatch.setattr(under_test, "VALUES_AT_ONCE", 1000)
    sliced = (
        intervals(of_three_sizes(), replicates=30, **settings),
        permutation_test(of_three_sizes(), **settings),
    )
    for one, other in zip(whole, sliced, strict=True):
        xr.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_the_same_seed_gives_the_same_interval_and_another_one_not():
    blocks = errors(a=np.random.default_rng(5).normal(size=15))
    one, same, other = (intervals(blocks, "a", scores=["mae"], seed=seed) for seed in (1, 1, 2))
    xr.testing.assert_identical(one, same)
    assert one["mae_low"].item() != other["mae_low"].item()


# Tests


def test_three_blocks_worked_by_hand():
    # Errors of b less those of a: 3, 1, -1. The eight patterns of signs give the sums
    # 3, -3, 1, -1, 5, -5, 3, -3; six of them are 3 or more in absolute value.
    found = permutation_test(errors(a=[1, 1, 3], b=[4, 2, 2]), "a", ["mae"])
    assert found["mae_p_value"].sel(model="b").item() == 6 / 8
    assert np.isnan(found["mae_p_value"].sel(model="a").item())
    assert (found.attrs["exact"], found.attrs["permutations"], found.attrs["blocks"]) == (1, 8, 3)
    assert found.attrs["smallest_p_value"] == 2 / 8


def test_sums_are_exchanged_and_not_scores():
    names = ["csi", "rmse", "crps", "member_csi", "log_spectral_distance"]
    blocks = mixed_ensembles(a=3, b=3)[SUMS].assign_coords(member_count=3)
    swapped = xr.DataArray(list(product([False, True], repeat=6)), dims=("choice", "block"))
    a, b = (blocks.sel(model=name, drop=True) for name in "ab")
    one = score(xr.where(swapped, b, a).sum("block"), names=names)
    other = score(xr.where(swapped, a, b).sum("block"), names=names)
    gap = abs(one - other)
    expected = (gap >= gap.isel(choice=0) - 1e-10).mean("choice")
    found = permutation_test(blocks.assign_coords(member_count=("model", [3, 3])), "b", names).sel(model="a")
    for name in names:
        np.testing.assert_allclose(found[f"{name}_p_value"], expected[name], err_msg=name)
    assert len({found[f"{name}_p_value"].values.ravel()[0] for name in names}) > 1


def test_ensembles_of_two_members_stand_for_those_of_any_size():
    total = of_three_sizes().sum("block")
    names = [name for name, needs in SUMS_OF.items() if set(needs) <= set(total)]
    scores, same = score(total, names=names), score(under_test._as_of_two(total), names=names)
    assert {"crps", "fair_crps", "fair_pooled_max_crps", "brier", "member_csi", "hss", "fss"} <= set(names)
    for name in names:
        expected = scores[name]
        np.testing.assert_allclose(
            same[name].where(expected.notnull()), expected, rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_a_copy_of_the_reference_has_a_p_value_of_one():
    once = mixed_ensembles(a=8)[SUMS].rename(block="case")
    both = xr.concat([once.assign_coords(model=[name]) for name in ("a", "copy")], dim="model")
    weights = [1.3, 0.1, 7.7, 2.2, 0.3, 1.1]
    blocks = add_by_block(both.assign_coords(weight=("case", weights)), np.arange(6))
    found = permutation_test(blocks, "a")
    for name in under_test.TESTED:
        assert (found[f"{name}_p_value"].sel(model="copy") == 1).all(), name
    compared = intervals(blocks, "a", replicates=100).sel(model="copy")
    np.testing.assert_allclose(compared["crps_difference_low"], 0, atol=1e-14)
    np.testing.assert_allclose(compared["crps_difference_high"], 0, atol=1e-14)


def test_a_model_that_is_better_in_every_block_is_found_so():
    rng = np.random.default_rng(2)
    weather = rng.gamma(2, 5, 8)
    found = permutation_test(errors(a=weather, b=0.8 * weather), "a", ["mae"])
    assert found["mae_p_value"].sel(model="b").item() == found.attrs["smallest_p_value"] == 2 / 2**8
    many = permutation_test(errors(a=np.tile(weather, 5), b=0.8 * np.tile(weather, 5)), "a", ["mae"])
    assert many["mae_p_value"].sel(model="b").item() == many.attrs["smallest_p_value"] == 1 / 10_001
    assert many.attrs["exact"] == 0


def test_p_values_of_equal_models_are_spread_evenly():
    values = np.random.default_rng(3).normal(size=(2, 12, 2000))
    found = permutation_test(errors(a=values[0], b=values[1]), "a", ["mae"])["mae_p_value"].sel(model="b")
    for p in (0.05, 0.2, 0.5):
        assert (found <= p).mean().item() == pytest.approx(p, abs=3 * (p * (1 - p) / 2000) ** 0.5)


def test_p_values_of_random_choices_are_near_those_of_all():
    values = np.random.default_rng(4).normal(size=(2, 10, 30))
    blocks = errors(a=values[0], b=values[1] + 0.3)
    exact, sampled = (permutation_test(blocks, "a", ["mae"], permutations=n) for n in (1024, 1000))
    assert (exact.attrs["exact"], sampled.attrs["exact"]) == (1, 0)
    gap = abs(exact["mae_p_value"] - sampled["mae_p_value"]).sel(model="b")
    assert 0 < gap.max().item() < 0.06
    again = permutation_test(blocks, "a", ["mae"], permutations=1000)
    xr.testing.assert_identical(sampled, again)


def test_the_order_of_blocks_does_not_matter():
    blocks = of_three_sizes()
    turned = blocks.isel(block=[4, 2, 0, 5, 1, 3])
    xr.testing.assert_allclose(permutation_test(blocks, "three"), permutation_test(turned, "three"))
    one, other = (intervals(some, "three", replicates=4000, scores=["crps"]) for some in (blocks, turned))
    np.testing.assert_allclose(one["crps_low"], other["crps_low"], rtol=0.01)


def test_a_single_block_gives_no_p_value():
    found = permutation_test(errors(a=[1], b=[2]), "a", ["mae"])
    assert np.isnan(found["mae_p_value"]).all()
    assert found.attrs["smallest_p_value"] == 1


def test_the_reference_alone_is_tested_against_nothing():
    blocks = errors(a=[1, 2, 4])
    assert np.isnan(permutation_test(blocks, "a")["mae_p_value"]).all()
    assert intervals(blocks, "a")["mae_difference_high"].item() == 0


# Refusals


@pytest.mark.parametrize("make", [intervals, permutation_test])
@pytest.mark.parametrize(
    ("reference", "settings", "rule"),
    [
        ("nobody", {}, "the reference is one of the models"),
        ("a", {"scores": ["no_such"]}, "scores they are made for; came: no_such"),
        ("a", {"scores": ["spread_skill"]}, "scores they are made for; came: spread_skill"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, reference, settings, rule):
    with pytest.raises(RefusedInput, match=rule):
        make(errors(a=[1, 2], b=[2, 3]), reference, **settings)


@pytest.mark.parametrize("settings", [{"level": 1.0}, {"level": 0.0}, {"replicates": 0}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(RefusedInput, match="level lies between 0 and 1"):
        intervals(errors(a=[1, 2]), "a", **settings)
    with pytest.raises(RefusedInput, match="permutations are 1 or more"):
        permutation_test(errors(a=[1, 2]), "a", permutations=0)
