import numpy as np
import pytest
import torch
import xarray as xr

from nowcast.verification.pooling import pooled_sums


def rain(seed, *shape):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, 0.0, rng.gamma(0.6, 3.0, shape))


def naive(members, observed, mask, side):
    """Neighbourhood by neighbourhood, pair by pair."""
    sums = dict.fromkeys(("cells", "mean_error", "mean_spread", "max_error", "max_spread"), 0.0)
    count = len(members)
    for row in range(0, observed.shape[0] - side + 1, side):
        for column in range(0, observed.shape[1] - side + 1, side):
            place = (..., slice(row, row + side), slice(column, column + side))
            inside = mask[place]
            if inside.sum() * 2 < side**2:
                continue
            sums["cells"] += 1
            for name, pool in (("mean", np.mean), ("max", np.max)):
                values = np.array([pool(member[place][inside]) for member in members])
                sums[f"{name}_error"] += abs(values - pool(observed[place][inside])).mean()
                pairs = abs(values[:, None] - values).sum()
                sums[f"{name}_spread"] += pairs / (2 * max(count * (count - 1), 1))
    return sums


def named(sums):
    return {name.removeprefix("pooled_").replace("crps_", ""): value.item() for name, value in sums.items()}


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_sums_are_those_of_a_loop_over_neighbourhoods(side, count, share):
    mask = np.random.default_rng(side).random((13, 17)) < share
    members, observed = rain(0, count, 13, 17) * mask, rain(1, 13, 17) * mask
    found = named(pooled_sums(members, observed, mask, side))
    assert found == pytest.approx(naive(members, observed, mask, side))


def test_without_missing_cells_it_is_the_crps_of_block_means_and_maxima_of_the_package_scores():
    package = pytest.importorskip("scores.probability", reason="needs the package scores")
    dims = ("member", "y", "x")
    members, observed = (
        xr.DataArray(rain(0, 5, 12, 16), dims=dims),
        xr.DataArray(rain(1, 12, 16), dims=dims[1:]),
    )
    sums = named(pooled_sums(members.values, observed.values, np.ones((12, 16), bool), 4))
    for name in ("mean", "max"):
        coarse = [getattr(field.coarsen(y=4, x=4), name)() for field in (members, observed)]
        for method, share in (("fair", 1), ("ecdf", 4 / 5)):
            expected = package.crps_for_ensemble(*coarse, "member", method=method).item()
            ours = (sums[f"{name}_error"] - share * sums[f"{name}_spread"]) / sums["cells"]
            assert ours == pytest.approx(expected)


def test_a_neighbourhood_counts_if_half_of_its_cells_do():
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    observed = np.where(mask, [[2.0, 4.0, 8.0, 0.0], [0.0] * 4], 0)
    sums = named(pooled_sums(np.zeros((1, 2, 4)), observed, mask, 2))
    assert sums == {"cells": 1, "mean_error": 3, "mean_spread": 0, "max_error": 4, "max_spread": 0}


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("shape", [(3, 9), (9, 3), (2, 2)])
def test_a_field_smaller_than_a_neighbourhood_has_none(kind, shape):
    fields = kind(np.ones((2, *shape))), kind(np.ones(shape)), kind(np.ones(shape, bool))
    assert set(named(pooled_sums(*fields, 4)).values()) == {0.0}


def test_numpy_and_torch_agree():
    mask = np.random.default_rng(0).random((13, 17)) < 0.8
    members, observed = (np.float32(values * mask) for values in (rain(0, 5, 13, 17), rain(1, 13, 17)))
    ours = named(pooled_sums(members, observed, mask, 4))
    theirs = named(pooled_sums(*map(torch.from_numpy, (members, observed, mask)), 4))
    assert theirs == pytest.approx(ours, rel=1e-5)
