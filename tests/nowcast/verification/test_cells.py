import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import chisquare

from nowcast.verification.cells import cell_sums


def rain(seed, *shape, dry=0.5):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < dry, 0.0, rng.gamma(0.6, 3.0, shape))


def sums_of(members, observed, mask=None, *, thresholds=(1.0,), intensities=(0.0, 1.0, 4.0), seed=0):
    members, observed = np.asarray(members, float), np.asarray(observed, float)
    mask = np.ones(observed.shape, bool) if mask is None else mask
    levels = {"thresholds": thresholds, "intensities": intensities}
    return cell_sums(members, observed, mask, **levels, seed=seed)


def test_errors_of_two_members_in_two_cells_worked_by_hand():
    found = sums_of([[[1.0, 0.0]], [[4.0, 0.0]]], [[2.0, 1.0]])
    expected = {
        "cells": 2,
        "forecast": 2.5,  # means 2.5 and 0
        "observed": 3,
        "forecast_squared": 6.25,
        "observed_squared": 5,
        "product": 5,
        "absolute_error": 1.5,
        "squared_error": 1.25,
        "ensemble_variance": 4.5,  # (1.5^2 + 1.5^2) / (2 - 1), and 0
        "crps_error": 2.5,  # (1 + 2) / 2, and 1
        "crps_spread": 1.5,  # half the mean difference of two: 3 / 2, and 0
        "tw_crps_error": 1.5,  # above 1 mm/h: the first cell only
        "tw_crps_spread": 1.5,
    }
    assert {name: found.sums[name].item() for name in expected} == pytest.approx(expected)
    np.testing.assert_array_equal(found.mean, [[2.5, 0]])
    np.testing.assert_array_equal(found.counts, [[[2, 0]]])


def test_the_event_table_counts_cells_by_event_and_members():
    members = [[[0, 2, 2, 0]], [[0, 0, 2, 1]]]
    found = sums_of(members, [[0, 5, 1, 0]])
    # Not observed: one cell with no member, one with one. Observed: one with one, one with both.
    np.testing.assert_array_equal(found.sums["event_table"], [[[1, 1, 0], [0, 1, 1]]])


def test_an_event_is_the_threshold_or_more_in_single_precision_too():
    levels = np.float32([0.1, 0.3, 0.7])
    members, observed = levels.reshape(1, 1, 3), levels.reshape(1, 3)
    options = {"intensities": (0.0,), "seed": 0}
    for number, threshold in enumerate((0.1, 0.3, 0.7)):
        found = cell_sums(members, observed, np.ones((1, 3), bool), thresholds=(threshold,), **options)
        assert found.counts[0, 0, number] == 1
        assert found.sums["event_table"][0, 1].sum() == 3 - number


@pytest.mark.parametrize("count", [1, 20, 100, 300])
def test_events_are_those_of_a_naive_count_in_ensembles_of_any_size(count):
    members, observed = rain(0, count, 20, 30) + 0.5, rain(1, 20, 30)
    thresholds = (4.0, 0.5)  # in any order; all members reach the lower one
    found = sums_of(members, observed, thresholds=thresholds)
    for number, level in enumerate(thresholds):
        above = (members >= level).sum(0)
        np.testing.assert_array_equal(found.counts[number], above)
        for event in (0, 1):
            cells = above[(observed >= level) == event]
            expected = np.bincount(cells, minlength=count + 1)
            np.testing.assert_array_equal(found.sums["event_table"][number, event], expected)


def test_intensity_bins_count_members_as_their_mean():
    found = sums_of([[[0, 1, 2, 9]], [[0, 0, 4, 9]]], [[0.5, 4, 4, 3.9]])
    # 0 to 1: 1 and 2 cells; 1 to 4: 2 and 0; 4 and more: 1 and 2.
    np.testing.assert_array_equal(found.sums["intensity"], [1.5, 1, 1.5])
    np.testing.assert_array_equal(found.sums["observed_intensity"], [1, 1, 2])


def test_the_rank_is_the_number_of_members_below():
    found = sums_of([[[1.0, 1.0, 1.0]], [[3.0, 3.0, 3.0]]], [[0.5, 2.0, 5.0]])
    np.testing.assert_array_equal(found.sums["rank_count"], [1, 1, 1])


def test_ranks_without_ties_equal_those_of_scores_and_of_pysteps():
    package = pytest.importorskip("scores.probability", reason="needs the package scores")
    pysteps = pytest.importorskip("pysteps.verification.ensscores", reason="needs the extra 'baselines'")
    members, observed = rain(0, 6, 20, 30, dry=0), rain(1, 20, 30, dry=0)
    ours = sums_of(members, observed).sums["rank_count"]
    dims = ("member", "y", "x")
    theirs = package.rank_histogram(
        xr.DataArray(members, dims=dims), xr.DataArray(observed, dims=dims[1:]), "member"
    )
    np.testing.assert_allclose(ours / 600, theirs)
    np.testing.assert_array_equal(ours, pysteps.rankhist(members, observed, normalize=False))


def test_the_rank_among_equals_is_drawn_by_the_seed_and_evenly():
    members, observed = np.zeros((4, 100, 100)), np.zeros((100, 100))
    first, again, other = (sums_of(members, observed, seed=seed).sums["rank_count"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.sum() == 10_000
    assert chisquare(first).pvalue > 0.001


def test_ranks_with_ties_agree_with_the_shared_ranks_of_scores():
    package = pytest.importorskip("scores.probability", reason="needs the package scores")
    members, observed = rain(0, 5, 200, 200, dry=0.7), rain(1, 200, 200, dry=0.7)
    dims = ("member", "y", "x")
    shared = package.rank_histogram(
        xr.DataArray(members, dims=dims), xr.DataArray(observed, dims=dims[1:]), "member"
    )
    drawn = sums_of(members, observed).sums["rank_count"]
    assert chisquare(drawn, shared.values * drawn.sum()).pvalue > 0.001


def test_the_largest_chance_stays_below_the_number_of_places():
    places = np.arange(1, 100_000, dtype=np.float32)
    assert (np.float32(1 - 2**-24) * places < places).all()


def test_no_cell_gives_zeros_of_the_right_sizes():
    found = sums_of(np.full((3, 4, 5), np.nan), np.full((4, 5), np.inf), np.zeros((4, 5), bool))
    assert {name: values.shape for name, values in found.sums.items() if values.ndim} == {
        "tw_crps_error": (1,),
        "tw_crps_spread": (1,),
        "event_table": (1, 2, 4),
        "rank_count": (4,),
        "intensity": (3,),
        "observed_intensity": (3,),
    }
    assert all((values == 0).all() for values in found.sums.values())
    assert (found.mean == 0).all()


def test_the_threshold_weighted_parts_are_those_of_all_cells_in_any_order_of_thresholds():
    members, observed = rain(0, 5, 30, 40), rain(1, 30, 40)
    found = sums_of(members, observed, thresholds=(4.0, 1.0)).sums
    for number, level in enumerate((4.0, 1.0)):
        above, seen = np.maximum(members, level), np.maximum(observed, level)
        assert found["tw_crps_error"][number] == pytest.approx(abs(above - seen).mean(0).sum())
        pairs = abs(above[:, None] - above).sum((0, 1)) / (2 * 5 * 4)
        assert found["tw_crps_spread"][number] == pytest.approx(pairs.sum())


def test_draws_of_torch_are_those_of_numpy():
    members, observed = np.zeros((4, 30, 40), np.float32), np.zeros((30, 40), np.float32)
    options = {"thresholds": (1.0,), "intensities": (0.0,), "seed": 7}
    mask = np.ones((30, 40), bool)
    ours = cell_sums(members, observed, mask, **options)
    theirs = cell_sums(*map(torch.from_numpy, (members, observed, mask)), **options)
    np.testing.assert_array_equal(ours.sums["rank_count"], theirs.sums["rank_count"])
