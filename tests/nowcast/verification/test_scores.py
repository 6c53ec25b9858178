import numpy as np
import pytest
import torch
import xarray as xr

from nowcast.verification import ensemble_crps, lead_sums, score, skill


def dataset(sums: dict[str, np.ndarray], model: str = "a") -> xr.Dataset:
    variables = {name: ("threshold",) if value.ndim else () for name, value in sums.items()}
    made = xr.Dataset({name: (dims, sums[name]) for name, dims in variables.items()})
    return made.expand_dims(model=[model])


def sums_of(members, observed, mask=None, thresholds=(1.0,)):
    members, observed = np.asarray(members, float), np.asarray(observed, float)
    mask = np.ones(observed.shape, bool) if mask is None else mask
    return lead_sums(members, observed, mask, thresholds=thresholds)


def test_a_contingency_table_counted_by_hand():
    forecast, observed = [[2, 2, 0, 0]], [[2, 0, 2, 0]]
    scores = score(dataset(sums_of([forecast], observed)))
    assert scores["csi"].item() == pytest.approx(1 / 3)  # 1 hit, 1 miss, 1 false alarm
    assert scores["frequency_bias"].item() == 1
    assert scores["bias"].item() == 1
    assert scores["mae"].item() == 1
    assert scores["rmse"].item() == pytest.approx(2**0.5)


def test_an_event_is_the_threshold_or_more():
    assert sums_of([[[1.0]]], [[1.0]])["hits"].item() == 1


def test_members_are_pooled_and_the_mean_is_taken_first():
    members, observed = [[[4.0]], [[0.0]]], [[3.0]]
    sums = sums_of(members, observed)
    assert (sums["hits"].item(), sums["member_hits"].item(), sums["member_misses"].item()) == (1, 1, 1)
    assert sums["absolute_error"] == 1


def test_crps_of_two_members_worked_by_hand():
    # mean |x - y| = (1 + 2) / 2, and half the mean difference of all pairs is 3 / 4.
    assert ensemble_crps(np.array([[1.0], [4.0]]), np.array([2.0])).item() == pytest.approx(0.75)


def test_crps_of_one_member_is_the_absolute_error():
    assert ensemble_crps(np.array([[1.0, 5.0]]), np.array([2.0, 2.0])).tolist() == [1.0, 3.0]


def test_crps_is_the_integral_of_the_squared_difference_of_the_distributions():
    rng = np.random.default_rng(0)
    members, observed = rng.gamma(0.5, 2, 9), 1.3
    grid = np.linspace(0, 60, 600_001)
    distribution = (members[:, None] <= grid).mean(0)
    integral = ((distribution - (grid >= observed)) ** 2).sum() * (grid[1] - grid[0])
    assert ensemble_crps(members[:, None], np.array([observed])).item() == pytest.approx(integral, abs=1e-3)


def test_numpy_and_torch_give_the_same_sums():
    rng = np.random.default_rng(1)
    members, observed = rng.gamma(0.5, 2, (5, 20, 20)), rng.gamma(0.5, 2, (20, 20))
    mask = rng.random((20, 20)) > 0.3
    ours = lead_sums(members, observed, mask, thresholds=(0.5, 2.0))
    theirs = lead_sums(*map(torch.from_numpy, (members, observed, mask)), thresholds=(0.5, 2.0))
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, err_msg=name)


def test_cells_outside_the_mask_change_nothing_whatever_they_hold():
    rng = np.random.default_rng(2)
    members, observed = rng.gamma(0.5, 2, (3, 8, 8)), rng.gamma(0.5, 2, (8, 8))
    mask = rng.random((8, 8)) > 0.5
    before = sums_of(members, observed, mask)
    members[:, ~mask], observed[~mask] = np.nan, np.inf
    after = sums_of(members, observed, mask)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_sums_of_two_cases_add_before_they_divide():
    first, second = sums_of([[[2.0] * 9]], [[2.0] * 9]), sums_of([[[2.0]]], [[0.0]])
    both = {name: first[name] + second[name] for name in first}
    assert score(dataset(both))["csi"].item() == pytest.approx(0.9)


def test_skill_is_one_for_the_perfect_and_zero_for_the_reference():
    perfect, reference = sums_of([[[2.0, 0.0]]], [[2.0, 0.0]]), sums_of([[[0.0, 2.0]]], [[2.0, 0.0]])
    scores = score(xr.concat([dataset(perfect, "perfect"), dataset(reference, "reference")], dim="model"))
    result = skill(scores, "reference")
    for name in ("csi_skill", "mae_skill", "crps_skill"):
        assert result[name].sel(model="perfect").item() == 1
        assert result[name].sel(model="reference").item() == 0


def test_scores_without_a_divisor_are_nan_and_not_an_error():
    scores = score(dataset(sums_of([[[0.0]]], [[0.0]])))
    assert np.isnan(scores["csi"].item())
    assert np.isnan(scores["bias"].item())
    assert scores["mae"].item() == 0
