import numpy as np
import pytest
import torch
import xarray as xr

from nowcast.verification.fractions import Windows, fraction_sums


def rain(seed, *shape):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, 0.0, rng.gamma(0.6, 3.0, shape))


def skill(forecast, observed, side, *, mask=None, threshold=1.0, **options):
    mask = np.ones(observed.shape, bool) if mask is None else mask
    windows = Windows(mask, [side], **options)
    fractions = [windows.fractions((field >= threshold) & mask) for field in (forecast, observed)]
    difference, reference = fraction_sums(*fractions)
    return 1 - difference.item() / reference.item()


def of_scores(forecast, observed, side, *, threshold=1.0):
    package = pytest.importorskip("scores.spatial", reason="needs the package scores")
    fields = [xr.DataArray(field, dims=("y", "x")) for field in (forecast, observed)]
    return package.fss_2d(
        *fields,
        event_threshold=threshold,
        window_size=(side, side),
        spatial_dims=("y", "x"),
        threshold_operator=np.greater_equal,
    ).item()


def of_pysteps(forecast, observed, side, *, threshold=1.0):
    package = pytest.importorskip("pysteps.verification.spatialscores", reason="needs the extra 'baselines'")
    return package.fss(forecast, observed, threshold, side)


def naive(events, mask, side):
    """Window by window; an even one reaches one cell further up and left."""
    shares = np.zeros(mask.shape)
    for row, column in zip(*np.nonzero(mask), strict=True):
        rows, columns = (slice(max(at - side // 2, 0), at - side // 2 + side) for at in (row, column))
        shares[row, column] = events[rows, columns].sum() / mask[rows, columns].sum()
    return shares


def test_a_shifted_cell_worked_by_hand():
    forecast, observed = np.zeros((1, 5)), np.zeros((1, 5))
    forecast[0, 1], observed[0, 3] = 1, 1
    assert skill(forecast, observed, 1) == 0
    # Windows of 3 at the edges hold 2 cells: forecast 1/2 1/3 1/3 0 0, observed 0 0 1/3 1/3 1/2.
    squares = 1 / 4 + 1 / 9 + 1 / 9
    assert skill(forecast, observed, 3) == pytest.approx(1 - 2 * (1 / 4 + 1 / 9) / (2 * squares))


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 12, 40])
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_fractions_are_those_of_a_loop_over_windows(side, share):
    mask = np.random.default_rng(side).random((11, 14)) < share
    events = (rain(0, 11, 14) >= 1) & mask
    np.testing.assert_allclose(Windows(mask, [3, side]).fractions(events)[1], naive(events, mask, side), 1e-6)


@pytest.mark.parametrize("side", [1, 2, 4, 5, 9])
def test_of_whole_windows_it_equals_that_of_the_package_scores(side):
    forecast, observed = rain(0, 20, 25), rain(1, 20, 25)
    ours = skill(forecast, observed, side, whole_windows=True)
    assert ours == pytest.approx(of_scores(forecast, observed, side), abs=1e-6)


@pytest.mark.parametrize("side", [1, 2, 4, 5, 9])
def test_inside_a_dry_border_it_equals_that_of_pysteps(side):
    forecast, observed = (np.pad(rain(seed, 20, 25), side) for seed in (0, 1))
    assert skill(forecast, observed, side) == pytest.approx(of_pysteps(forecast, observed, side), abs=1e-6)


def test_a_missing_cell_is_dry_to_scores_and_pysteps_and_missing_to_us():
    forecast, observed = (np.pad(rain(seed, 20, 25), 5) + 0.0 for seed in (0, 1))
    lacking = np.where(np.random.default_rng(2).random(observed.shape) < 0.2, np.nan, observed)
    dry, mask = np.nan_to_num(lacking), np.isfinite(lacking)
    for theirs in (of_scores, of_pysteps):
        assert theirs(forecast, lacking, 3) == theirs(forecast, dry, 3)
    ours = skill(forecast, lacking, 3, mask=mask)
    assert abs(ours - skill(forecast, dry, 3)) > 0.01
    shares = [naive((field >= 1) & mask, mask, 3) for field in (forecast, lacking)]
    expected = 1 - ((shares[0] - shares[1]) ** 2).sum() / (shares[0] ** 2 + shares[1] ** 2).sum()
    assert ours == pytest.approx(expected, abs=1e-6)


def test_the_probability_is_the_share_of_members_and_cells():
    mask = np.random.default_rng(0).random((11, 14)) < 0.8
    events = (rain(0, 6, 11, 14) >= 1) & mask
    shares = Windows(mask, [4]).fractions(events.sum(0), of=6)[0]
    np.testing.assert_allclose(shares, np.mean([naive(one, mask, 4) for one in events], axis=0), 1e-6)


def test_large_sums_do_not_run_over():
    # 2 members in 200 x 200 cells are more than 16 bits hold.
    shares = Windows(np.ones((200, 200), bool), [400]).fractions(np.full((200, 200), 2), of=2)[0]
    np.testing.assert_allclose(shares, 1, 1e-6)


def test_without_an_event_or_a_cell_both_sums_are_zero():
    mask = np.ones((6, 7), bool)
    for counted in (mask, ~mask):
        windows = Windows(counted, [1, 3])
        nothing = windows.fractions(np.zeros((6, 7), int))
        for sums in fraction_sums(nothing, nothing):
            np.testing.assert_array_equal(sums, [0, 0])


def test_a_field_smaller_than_a_whole_window_has_none():
    mask = np.ones((3, 8), bool)
    assert Windows(mask, [4], whole_windows=True).fractions(mask)[0].max() == 0
    assert Windows(mask, [4]).fractions(mask)[0].min() == 1


def test_numpy_and_torch_agree():
    mask = np.random.default_rng(0).random((11, 14)) < 0.8
    counts = ((rain(0, 6, 11, 14) >= 1) & mask).sum(0)
    ours = Windows(mask, [2, 5]).fractions(counts, of=6)
    theirs = Windows(torch.from_numpy(mask), [2, 5]).fractions(torch.from_numpy(counts), of=6)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other.numpy(), 1e-6)
