import pytest
import torch

from nowcast.model import Generator
from nowcast.model.drift import START, Drift

SIZES = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": 3, "drift": True}


def test_before_training_errors_have_the_same_variance_everywhere():
    z = torch.randn(4000, 8, 5, 7, generator=torch.Generator().manual_seed(0))
    velocity = Drift(6)(torch.randn(1, 6, 5, 7).expand(4000, -1, -1, -1), z)
    torch.testing.assert_close(velocity.std(dim=0), torch.full((2, 5, 7), START), atol=0.02, rtol=0)
    assert velocity.mean(dim=0).abs().max() < 0.02


def test_neighbours_err_alike_and_the_two_components_do_not():
    z = torch.randn(4000, 8, 1, 40, generator=torch.Generator().manual_seed(0))
    velocity = Drift(6)(torch.zeros(4000, 6, 1, 40), z)[:, :, 0]
    near, far, other = (
        torch.corrcoef(torch.stack(pair))[0, 1]
        for pair in (
            (velocity[:, 0, 18], velocity[:, 0, 19]),
            (velocity[:, 0, 5], velocity[:, 0, 35]),
            (velocity[:, 0, 18], velocity[:, 1, 18]),
        )
    )
    assert near > 0.95
    assert abs(far) < 0.06
    assert abs(other) < 0.06


def test_the_error_covers_the_field_in_cells_and_belongs_to_the_noise():
    torch.manual_seed(0)
    generator = Generator(**SIZES)
    context = torch.rand(2, 4, 1, 20, 27)
    z = torch.randn(4, *generator.latent_shape(20, 27))
    velocity = generator.velocity_error(generator.encode(context), z, size=(20, 27))
    assert velocity.shape == (4, 2, 20, 27)
    again = generator.velocity_error(generator.encode(context), z.flip(0), size=(20, 27))
    assert not torch.allclose(velocity[0], again[0])


def test_the_amplitude_learns_from_the_context():
    torch.manual_seed(0)
    generator = Generator(**SIZES)
    z = torch.randn(2, *generator.latent_shape(16, 16))
    generator.velocity_error(
        generator.encode(torch.rand(2, 4, 1, 16, 16)), z, size=(16, 16)
    ).square().sum().backward()
    assert generator.drift.amplitude.weight.grad.abs().sum() > 0
    assert generator.conditioning_stack.mixing[-1].bias.grad is not None


def test_a_network_without_drift_has_no_velocity_error():
    generator = Generator(**{**SIZES, "drift": False})
    z = torch.randn(1, *generator.latent_shape(16, 16))
    assert generator.velocity_error(generator.encode(torch.rand(1, 4, 1, 16, 16)), z, size=(16, 16)) is None


def test_drift_needs_two_channels_of_noise():
    with pytest.raises(ValueError, match="drift needs 2 z_channels"):
        Generator(**SIZES, z_channels=1)
