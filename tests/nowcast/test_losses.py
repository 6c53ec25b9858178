import pytest
import torch

from nowcast.losses import discriminator_hinge, generator_hinge, grid_cell_regularizer, masked_mean

NAN = float("nan")


def observed(target):
    return torch.ones_like(target, dtype=torch.bool)


def regularizer(samples, target, mask=None, **arguments):
    return grid_cell_regularizer(samples, target, observed(target) if mask is None else mask, **arguments)


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
        }
    )


def test_a_discriminator_that_is_sure_and_right_has_no_loss():
    real, fake = torch.full((3, 2), 1.0), torch.full((5, 2), -1.0)
    assert discriminator_hinge(real, fake)[0].item() == 0


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


def test_the_mean_over_realizations_comes_before_the_absolute_value():
    target = fields(2.0)
    samples = torch.stack([target - 1.5, target + 1.5])  # each is wrong by 1.5 mm/h, their mean is right
    assert regularizer(samples, target)[0].item() == 0
    assert regularizer(samples.mean(dim=0) + 1, target)[0].item() == pytest.approx(3.0)


def test_cells_that_were_not_observed_change_nothing():
    target, forecast = fields(0.0, 4.0, NAN, -1.0), fields(1.0, 2.0, 50.0, -7.0)
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


def test_nothing_observed_gives_zero_that_can_be_differentiated():
    target = fields(NAN, NAN)
    samples = torch.ones(3, *target.shape, requires_grad=True)
    loss, _ = regularizer(samples, target, torch.zeros_like(target, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(samples.grad, torch.zeros_like(samples))


def test_diagnostics_hold_no_graph():
    target = fields(1.0, 2.0)
    samples = torch.ones(3, *target.shape, requires_grad=True)
    scores = torch.zeros(2, 2, requires_grad=True)
    for loss, diagnostics in (
        regularizer(samples, target),
        generator_hinge(scores),
        discriminator_hinge(scores, scores),
    ):
        assert loss.requires_grad
        assert not any(value.requires_grad for value in diagnostics.values())


def test_masked_mean_divides_by_what_was_observed():
    values = torch.tensor([1.0, 2.0, NAN, 6.0])
    assert masked_mean(values, torch.tensor([True, True, False, True])).item() == pytest.approx(3.0)
    assert masked_mean(values, torch.zeros(4, dtype=torch.bool)).item() == 0


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="must be one of \\['paper', 'pseudocode'\\], got 'max'"):
        regularizer(fields(1.0), fields(1.0), weight="max")


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="realizations must have the shape of the target"):
        regularizer(torch.zeros(6, 1, 1, 1, 1, 3), fields(1.0, 2.0))
    with pytest.raises(ValueError, match="a mask must be bool of shape \\(1, 1, 1, 1, 2\\)"):
        regularizer(fields(1.0, 2.0), fields(1.0, 2.0), torch.ones(1, 1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="a mask must be bool of shape \\(4,\\), got torch.float32"):
        masked_mean(torch.zeros(4), torch.ones(4))
