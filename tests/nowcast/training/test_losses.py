import math

import pytest
import torch

from nowcast.training.losses import (
    discriminator_hinge,
    generator_hinge,
    grid_cell_regularizer,
    masked_mean,
    multiscale_crps,
)
from nowcast.verification import ensemble_crps

NAN = float("nan")


def observed(target):
    return torch.ones_like(target, dtype=torch.bool)


def regularizer(samples, target, mask=None, **arguments):
    return grid_cell_regularizer(samples, target, observed(target) if mask is None else mask, **arguments)


def crps(samples, target, mask=None, **arguments):
    return multiscale_crps(samples, target, observed(target) if mask is None else mask, **arguments)


def random_case(seed=0, members=3, shape=(2, 2, 1, 6, 7), dtype=torch.float32):
    """Samples, target and mask with about a quarter of the cells missing."""
    noise = torch.Generator().manual_seed(seed)
    samples = torch.rand(members, *shape, generator=noise, dtype=dtype)
    target = torch.rand(shape, generator=noise, dtype=dtype)
    return samples, target, torch.rand(shape, generator=noise) > 0.25


def fields(*values):
    """One realization-free field (B, T, C, H, W) = (1, 1, 1, 1, n), mm/h."""
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def test_discriminator_hinge_is_the_sum_over_heads_of_the_batch_means():
    real = torch.tensor([[0.5, 2.0], [-1.0, 1.0]])  # 1 - real, at least 0: [[0.5, 0], [2, 0]]
    fake = torch.tensor([[-3.0, 0.0], [1.0, -0.5]])  # 1 + fake, at least 0: [[0, 1], [2, 0.5]]
    loss, diagnostics = discriminator_hinge(real, fake)
    # spatial (0.5 + 2) / 2 + (0 + 2) / 2 = 2.25, temporal 0 + (1 + 0.5) / 2 = 0.75
    assert loss.item() == pytest.approx(3.0)
    assert {name: value.item() for name, value in diagnostics.items()} == pytest.approx(
        {
            "spatial_hinge": 2.25,
            "temporal_hinge": 0.75,
            "spatial_real_score": -0.25,
            "temporal_real_score": 1.5,
            "spatial_fake_score": -1.0,
            "temporal_fake_score": -0.25,
            "spatial_real_accuracy": 0.5,
            "temporal_real_accuracy": 1.0,
            "spatial_fake_accuracy": 0.5,
            "temporal_fake_accuracy": 0.5,  # a score of 0 takes no side
        }
    )


def test_a_discriminator_that_is_sure_and_right_has_no_loss():
    real, fake = torch.full((3, 2), 1.0), torch.full((5, 2), -1.0)
    loss, diagnostics = discriminator_hinge(real, fake)
    assert loss.item() == 0
    assert all(value.item() == 1 for name, value in diagnostics.items() if name.endswith("accuracy"))


def test_generator_hinge_is_minus_the_sum_over_heads_of_the_mean_scores():
    loss, diagnostics = generator_hinge(torch.tensor([[1.0, 4.0], [3.0, -2.0]]))
    assert loss.item() == pytest.approx(-(2 + 1))
    assert diagnostics["spatial_fake_score"].item() == 2
    assert diagnostics["temporal_fake_score"].item() == 1


@pytest.mark.parametrize("shape", [(2,), (2, 3), (0, 2), (2, 2, 1)])
def test_scores_of_another_shape_are_refused(shape):
    good, bad = torch.zeros(2, 2), torch.zeros(shape)
    for call in (
        lambda: generator_hinge(bad),
        lambda: discriminator_hinge(good, bad),
        lambda: discriminator_hinge(bad, good),
    ):
        with pytest.raises(ValueError, match="scores must have shape \\(N, 2\\)"):
            call()


@pytest.mark.parametrize(
    ("weight", "expected"), [("paper", [1, 6, 24, 24]), ("pseudocode", [0, 5, 23.5, 24])]
)
def test_heavier_rain_weighs_more_up_to_24(weight, expected):
    for rain, factor in zip([0.0, 5.0, 23.5, 100.0], expected, strict=True):
        target = fields(rain)
        assert regularizer(target + 1, target, weight=weight)[0].item() == pytest.approx(factor)


def test_the_paper_weight_is_the_default():
    target = fields(0.0, 5.0)
    assert regularizer(target + 2, target)[0].item() == pytest.approx((2 * 1 + 2 * 6) / 2)


@pytest.mark.parametrize("side", [8, 64])
def test_a_uniform_error_scores_the_same_on_every_grid(side):
    target = torch.full((2, 18, 1, side, side), 3.0)
    samples = (target + 1).expand(6, *target.shape)
    assert regularizer(samples, target)[0].item() == pytest.approx(4.0)
    loss, diagnostics = crps(samples, target)
    assert loss.item() == pytest.approx(1.0)
    for name in ("crps_1", "crps_4", "crps_16", "mean_absolute_error", "observed_fraction"):
        assert diagnostics[name].item() == pytest.approx(1.0), name


def test_the_mean_over_realizations_comes_before_the_absolute_value():
    target = fields(2.0)
    samples = torch.stack([target - 1.5, target + 1.5])  # each is wrong by 1.5 mm/h, their mean is right
    assert regularizer(samples, target)[0].item() == 0
    assert regularizer(samples.mean(dim=0) + 1, target)[0].item() == pytest.approx(3.0)


def test_cells_that_were_not_observed_change_nothing():
    target, forecast = fields(0.0, 4.0, NAN, -1.0), fields(1.0, 2.0, 50.0, NAN)
    mask = torch.tensor([True, True, False, False]).reshape(target.shape)
    samples = forecast.unsqueeze(0).requires_grad_()
    loss, diagnostics = regularizer(samples, target, mask)
    assert loss.item() == pytest.approx((1 * 1 + 2 * 5) / 2)
    assert diagnostics["mean_absolute_error"].item() == pytest.approx((1 + 2) / 2)
    assert diagnostics["observed_fraction"].item() == pytest.approx(0.5)
    loss.backward()
    torch.testing.assert_close(samples.grad.flatten(), torch.tensor([0.5, -2.5, 0.0, 0.0]))


def test_a_wrong_forecast_where_it_was_observed_does_change_the_loss():
    target = fields(0.0, 4.0)
    assert regularizer(target, target)[0].item() == 0
    assert regularizer(target + fields(0.0, 1.0), target)[0].item() == pytest.approx(5 / 2)


@pytest.mark.parametrize("loss_of", [regularizer, crps, lambda *case: crps(*case, normalize=True)])
def test_nothing_observed_gives_zero_that_can_be_differentiated(loss_of):
    target = fields(NAN, NAN)
    samples = torch.ones(3, *target.shape, requires_grad=True)
    loss, _ = loss_of(samples, target, torch.zeros_like(target, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(samples.grad, torch.zeros_like(samples))


def test_diagnostics_hold_no_graph():
    target = fields(1.0, 2.0)
    samples = torch.ones(3, *target.shape, requires_grad=True)
    scores = torch.zeros(2, 2, requires_grad=True)
    for loss, diagnostics in (
        regularizer(samples, target),
        crps(samples, target),
        generator_hinge(scores),
        discriminator_hinge(scores, scores),
    ):
        assert loss.requires_grad
        assert not any(value.requires_grad for value in diagnostics.values())


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, 0.0), (0.95, 0.025), (0.0, 0.5)])
def test_crps_of_two_members_worked_by_hand(alpha, expected):
    # mean |x - y| = 1; both pairs differ by 2, so 1 / (2 * 2 * 1) * 4 = 1; eps = (1 - alpha) / 2.
    samples = torch.stack([fields(0.0), fields(2.0)])
    loss, diagnostics = crps(samples, fields(1.0), alpha=alpha)
    assert loss.item() == pytest.approx(expected)
    assert diagnostics["crps_1"].item() == pytest.approx(expected)
    assert diagnostics["mean_absolute_error"].item() == 0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.95, 1.0])
def test_crps_is_alpha_times_the_fair_and_the_rest_the_standard_score(alpha):
    samples, target, _ = random_case(members=5)
    spread = sum((x - other).abs() for x in samples for other in samples)
    fair = (samples - target).abs().mean(dim=0) - spread / (2 * 5 * 4)
    standard = ensemble_crps(samples, target)
    expected = (alpha * fair + (1 - alpha) * standard).mean()
    torch.testing.assert_close(crps(samples, target, scales=(1,), alpha=alpha)[0], expected)


def test_only_the_fair_score_overlooks_a_member_that_runs_away():
    samples, target = torch.stack([fields(1.0), fields(11.0)]), fields(1.0)
    assert crps(samples, target, alpha=1.0)[0].item() == 0  # 10 / 2 - 20 / 4
    assert crps(samples, target, alpha=0.95)[0].item() == pytest.approx(0.125)  # 10 / 2 - 0.975 * 20 / 4


def test_crps_of_members_that_agree_is_the_absolute_error():
    samples, target, mask = random_case()
    agreed = samples[:1].expand_as(samples)
    loss, diagnostics = crps(agreed, target, mask, scales=(1,))
    torch.testing.assert_close(loss, (agreed[0] - target).abs()[mask].mean())
    torch.testing.assert_close(loss, diagnostics["mean_absolute_error"])


def test_fair_crps_is_least_for_the_spread_that_the_truth_has():
    noise = torch.Generator().manual_seed(0)
    truth, *members = torch.randn(3, 1, 1, 1, 150, 150, generator=noise)
    scores = [
        crps(spread * torch.stack(members), truth, scales=(1,), alpha=1.0)[0].item() for spread in (0.5, 1, 2)
    ]
    # Spread s against 1: E|X - Y| = sqrt(1 + s^2) sqrt(2 / pi), half of E|X - X'| = s / sqrt(pi).
    expected = [(math.sqrt(2 + 2 * s**2) - s) / math.sqrt(math.pi) for s in (0.5, 1, 2)]
    assert expected == pytest.approx([0.610, 0.564, 0.656], abs=5e-4)
    assert scores == pytest.approx(expected, abs=0.015)


def test_rain_that_is_displaced_within_a_block_is_right_at_the_scale_of_the_block():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    target = board.float().reshape(1, 1, 1, 8, 8)
    displaced = (1 - target).expand(2, 1, 1, 1, 8, 8)
    loss, diagnostics = crps(displaced, target, scales=(1, 4))
    assert diagnostics["crps_1"].item() == 1
    assert diagnostics["crps_4"].item() == 0
    assert loss.item() == 0.5  # the mean over scales


def test_a_block_weighs_as_much_as_it_has_observed_cells():
    target, forecast = fields(1.0, 1.0, 0.0, NAN), fields(2.0, 0.0, 3.0, 9.0)
    mask = torch.tensor([True, True, True, False]).reshape(target.shape)
    loss, _ = crps(forecast.expand(2, *target.shape), target, mask, scales=(2,))
    assert loss.item() == pytest.approx((2 * 0 + 1 * 3) / 3)


@pytest.mark.parametrize("scale", [4, 5, 100])
def test_cells_beyond_the_edge_do_not_count(scale):
    target = torch.zeros(1, 1, 1, 5, 7)
    loss, _ = crps(torch.full((2, *target.shape), 3.0), target, scales=(scale,))
    assert loss.item() == pytest.approx(3.0)


def test_a_scale_larger_than_the_field_is_one_block():
    target, forecast = fields(1.0, 2.0, 3.0), fields(3.0, 1.0, 5.0)
    for scale in (3, 100, 10**6):  # no block of 10^12 cells is built
        loss, _ = crps(forecast.expand(2, *target.shape), target, scales=(scale,))
        assert loss.item() == pytest.approx((2 - 1 + 2) / 3)


@pytest.mark.parametrize("held", [NAN, 99.0, float("inf")])
@pytest.mark.parametrize("normalize", [False, True])
def test_crps_takes_no_notice_of_cells_that_were_not_observed(held, normalize):
    samples, target, mask = random_case()
    results = []
    for filling in (0.0, held):
        filled = torch.where(mask, samples, filling).requires_grad_()
        loss, diagnostics = crps(filled, torch.where(mask, target, filling), mask, normalize=normalize)
        loss.backward()
        assert filled.grad[:, mask].abs().min() > 0
        assert filled.grad[:, ~mask].abs().max() == 0
        results.append((loss, filled.grad, diagnostics))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_of_crps_is_that_of_its_value(normalize):
    samples, target, mask = random_case(members=4, shape=(2, 1, 1, 3, 5), dtype=torch.float64)
    samples.requires_grad_()

    def loss(samples):
        return crps(samples, target, mask, scales=(1, 2), normalize=normalize)[0]

    assert torch.autograd.gradcheck(loss, samples)


def test_members_that_are_all_dry_are_not_driven_apart():
    target = fields(0.0, 2.0)
    samples = torch.zeros(3, *target.shape, requires_grad=True)
    crps(samples, target, scales=(1,))[0].backward()
    # In the wet cell each of 3 members is 1 / 3 of the absolute error, over 2 cells.
    torch.testing.assert_close(samples.grad.reshape(3, 2), torch.tensor([0.0, -1 / 6]).expand(3, 2))


def test_crps_keeps_one_number_per_member_and_cell_for_the_way_back():
    samples, target, mask = random_case(members=6, shape=(1, 2, 1, 16, 16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda _: _):
        crps(samples.requires_grad_(), target, mask, scales=(1,))
    assert sum(tensor.numel() for tensor in kept if tensor.is_floating_point()) <= samples.numel() + 10


def test_normalized_windows_are_divided_by_their_rate_and_a_tenth():
    rates = torch.tensor([0.9, 9.9]).reshape(2, 1, 1, 1, 1)
    target = rates.expand(2, 3, 1, 4, 4)
    samples = (target + 1).expand(2, *target.shape)
    loss, diagnostics = crps(samples, target, normalize=True)
    assert loss.item() == pytest.approx((1 / 1.0 + 1 / 10.0) / 2)
    assert diagnostics["crps_4"].item() == pytest.approx(1.0)  # mm/h, never normalized


def test_a_normalized_window_has_its_own_mean_and_counts_as_zero_without_cells():
    target = torch.zeros(3, 1, 1, 1, 4)
    error = torch.tensor([[1.0, 3.0, 9.0, 9.0], [0.0, 1.0, 0.0, 0.0], [7.0, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool).reshape(target.shape)
    samples = error.reshape(target.shape).expand(2, *target.shape)
    loss, _ = crps(samples, target, mask, scales=(1,), normalize=True)
    # Dry windows, so each mean error is divided by 0.1: 2 / 0.1, 0.25 / 0.1 and 0.
    assert loss.item() == pytest.approx((20 + 2.5 + 0) / 3)


def test_masked_mean_divides_by_what_was_observed():
    values = torch.tensor([1.0, 2.0, NAN, 6.0])
    mask = torch.tensor([True, True, False, True])
    assert masked_mean(values, mask).item() == pytest.approx(3.0)
    assert masked_mean(values, torch.zeros(4, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("scales", [(), (0,), (1, -4), (1, 2.5)])
def test_scales_that_are_no_number_of_cells_are_refused(scales):
    with pytest.raises(ValueError, match="scales must be positive whole numbers"):
        crps(torch.zeros(2, 1, 1, 1, 1, 1), fields(0.0), scales=scales)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, NAN])
def test_an_alpha_beyond_the_fair_and_the_standard_score_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must lie between 0 .* and 1 .*, got"):
        crps(torch.zeros(2, 1, 1, 1, 1, 1), fields(0.0), alpha=alpha)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1, 2), (1, 1, 1, 1, 2)])
def test_an_ensemble_score_of_one_realization_is_refused(shape):
    with pytest.raises(ValueError, match="an ensemble score needs 2 realizations or more, got 1"):
        crps(torch.zeros(shape), fields(1.0, 2.0))


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="must be one of \\['paper', 'pseudocode'\\], got 'max'"):
        regularizer(fields(1.0), fields(1.0), weight="max")


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="realizations must have the shape of the target"):
        regularizer(torch.zeros(6, 1, 1, 1, 1, 3), fields(1.0, 2.0))
    with pytest.raises(ValueError, match="realizations must have the shape of the target"):
        crps(torch.zeros(1, 6, 1, 1, 1, 2), fields(1.0, 2.0))
    with pytest.raises(ValueError, match="realizations must have the shape of the target"):
        crps(torch.zeros(2, 6, 1, 1, 1, 1, 2), fields(1.0, 2.0))
    with pytest.raises(
        ValueError, match="the target must have the axes \\(B, T, C, H, W\\), got shape \\(4, 4\\)"
    ):
        crps(torch.zeros(2, 4, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="a mask must be bool of shape \\(1, 1, 1, 1, 2\\)"):
        regularizer(fields(1.0, 2.0), fields(1.0, 2.0), torch.ones(1, 1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="a mask must be bool of shape \\(1, 1, 1, 1, 2\\)"):
        crps(torch.zeros(2, 1, 1, 1, 1, 2), fields(1.0, 2.0), torch.ones(1, 1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="a mask must be bool of shape \\(4,\\), got torch.float32"):
        masked_mean(torch.zeros(4), torch.ones(4))
