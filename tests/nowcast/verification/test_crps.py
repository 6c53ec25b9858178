import numpy as np
import pytest
import torch
import xarray as xr

from nowcast.verification import ensemble_crps
from nowcast.verification.crps import crps_of, crps_parts

NEEDS_SCORES = "needs the package scores, of the extra 'test'"


def rain(seed, *shape, dry=0.5):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < dry, 0.0, rng.gamma(0.6, 3.0, shape))


def naive(members, observed, *, fair=False):
    """The definition, pair by pair."""
    count = len(members)
    pairs = sum(abs(one - other) for one in members for other in members)
    divisor = count * (count - 1) if fair else count**2
    return sum(abs(member - observed) for member in members) / count - pairs / (2 * divisor)


def labelled(members, observed):
    return xr.DataArray(members, dims=("realization", "cell")), xr.DataArray(observed, dims="cell")


def test_two_members_worked_by_hand():
    # |1 - 2| and |4 - 2|: error (1 + 2) / 2. Pairs 0, 3, 3, 0: CRPS 1.5 - 6 / 8, fair 1.5 - 6 / 4.
    members, observed = np.array([[1.0], [4.0]]), np.array([2.0])
    assert ensemble_crps(members, observed).item() == pytest.approx(0.75)
    assert ensemble_crps(members, observed, fair=True).item() == pytest.approx(0)


def test_one_member_gives_the_absolute_error_and_no_fair_score():
    members, observed = np.array([[1.0, 5.0]]), np.array([2.0, 2.0])
    assert ensemble_crps(members, observed).tolist() == [1, 3]
    assert np.isnan(ensemble_crps(members, observed, fair=True)).all()


def test_it_is_the_integral_of_the_squared_difference_of_the_distributions():
    members, observed = np.random.default_rng(0).gamma(0.5, 2, 9), 1.3
    grid = np.linspace(0, 60, 600_001)
    distribution = (members[:, None] <= grid).mean(0)
    integral = ((distribution - (grid >= observed)) ** 2).sum() * (grid[1] - grid[0])
    assert ensemble_crps(members[:, None], np.array([observed])).item() == pytest.approx(integral, abs=1e-3)


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("count", [2, 3, 8, 100])
def test_it_is_its_definition(count, fair):
    members, observed = rain(count, count, 40), rain(1, 40)
    expected = naive(members, observed, fair=fair)
    np.testing.assert_allclose(ensemble_crps(members, observed, fair=fair), expected, atol=1e-12)


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("count", [2, 5, 20])
def test_it_equals_that_of_the_package_scores(count, fair):
    package = pytest.importorskip("scores.probability", reason=NEEDS_SCORES)
    members, observed = rain(count, count, 300), rain(1, 300)
    method = "fair" if fair else "ecdf"
    expected = package.crps_for_ensemble(
        *labelled(members, observed), "realization", method=method, preserve_dims="all"
    )
    np.testing.assert_allclose(ensemble_crps(members, observed, fair=fair), expected, atol=1e-12)


def test_with_a_missing_member_scores_takes_fewer_and_ours_is_missing():
    package = pytest.importorskip("scores.probability", reason=NEEDS_SCORES)
    members, observed = rain(0, 5, 3, dry=0), rain(1, 3, dry=0)
    members[2, 1] = np.nan
    theirs = package.crps_for_ensemble(*labelled(members, observed), "realization", preserve_dims="all")
    assert theirs[1] == pytest.approx(naive(members[[0, 1, 3, 4], 1], observed[1]))
    np.testing.assert_array_equal(np.isnan(ensemble_crps(members, observed)), [False, True, False])


def test_it_equals_that_of_pysteps():
    package = pytest.importorskip("pysteps.verification.probscores", reason="needs the extra 'baselines'")
    members, observed = rain(0, 7, 20, 30, dry=0), rain(1, 20, 30, dry=0)
    assert ensemble_crps(members, observed).mean() == pytest.approx(package.CRPS(members, observed))


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 4.0])
def test_above_a_threshold_it_equals_that_of_the_package_scores(threshold, fair):
    package = pytest.importorskip("scores.probability", reason=NEEDS_SCORES)
    members, observed = rain(0, 6, 300), rain(1, 300)
    method = "fair" if fair else "ecdf"
    expected = package.tail_tw_crps_for_ensemble(
        *labelled(members, observed), "realization", threshold, method=method, preserve_dims="all"
    )
    parts = crps_parts(list(np.sort(members, axis=0)), observed, threshold=threshold)
    np.testing.assert_allclose(crps_of(*parts, 6, fair=fair), expected, atol=1e-12)


def test_equal_members_have_no_spread_at_all_however_strong_the_rain():
    members = [np.full(10, 123.4567, np.float32)] * 50
    assert crps_parts(members, members[0])[1].max() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_torch_agree_and_keep_type_and_shape(dtype):
    members, observed = rain(0, 5, 4, 6).astype(dtype), rain(1, 4, 6).astype(dtype)
    ours = ensemble_crps(members, observed)
    theirs = ensemble_crps(torch.from_numpy(members), torch.from_numpy(observed))
    assert isinstance(theirs, torch.Tensor)
    assert ours.dtype == theirs.numpy().dtype == dtype
    assert ours.shape == theirs.shape == (4, 6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_members_stay_as_they_were_also_if_they_may_not_be_written():
    members = rain(0, 5, 30)
    members.flags.writeable = False
    before = members.copy()
    ensemble_crps(members, rain(1, 30))
    np.testing.assert_array_equal(members, before)


def test_any_order_in_memory_gives_the_same():
    members, observed = rain(0, 4, 10, 12), rain(1, 10, 12)
    turned = np.asfortranarray(members)[:, ::-1], np.asfortranarray(observed)[::-1]
    np.testing.assert_array_equal(ensemble_crps(*turned)[::-1], ensemble_crps(members, observed))


def test_whole_numbers_are_rain_too():
    assert ensemble_crps(np.array([[1], [4]]), np.array([2])).item() == pytest.approx(0.75)
