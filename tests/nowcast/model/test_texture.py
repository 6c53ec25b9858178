import pytest
import torch

from nowcast.model import Generator
from nowcast.model.sampler import GRAIN, _smoothed

SIZES = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": 3, "texture": True}


def test_noise_has_unit_variance_at_every_level_and_reaches_two_cells_of_the_field():
    generator = Generator(**SIZES)
    assert generator.latent_shape(64, 128) == (8 + 16, 8, 16)
    z = torch.randn(200, *generator.latent_shape(64, 128), generator=torch.Generator().manual_seed(0))
    coarse, (cells, fine, less_fine) = generator._split(z)
    assert coarse.equal(z[:, :8])
    assert cells is None
    assert fine.shape == (200, 1, 32, 64)
    assert less_fine.shape == (200, 1, 16, 32)
    for noise in (fine, less_fine):
        assert abs(float(noise.std()) - 1) < 0.01
        neighbours = torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()])
        assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.02


def test_texture_is_local_and_belongs_to_the_realization():
    torch.manual_seed(0)
    generator = Generator(**SIZES).eval()
    context = torch.rand(1, 4, 1, 64, 64)
    z = torch.randn(1, *generator.latent_shape(64, 64))
    other = z.clone()
    other[:, 8:, 0, 0] += 1  # the fine noise of the first 8 x 8 cells
    with torch.no_grad():
        change = (generator(context, other) - generator(context, z)).abs().amax(dim=(0, 1, 2))
    assert change[:8, :8].max() > 1e-4
    assert change[40:, 40:].max() < 1e-7


def test_a_network_without_texture_takes_noise_for_its_coarsest_level_alone():
    generator = Generator(**{**SIZES, "texture": False})
    assert generator.latent_shape(64, 64) == (8, 8, 8)


def test_grain_adds_noise_to_every_cell_and_shares_it_with_the_levels():
    generator = Generator(**{**SIZES, "grain": True})
    assert generator.latent_shape(64, 128) == (8 + 64, 8, 16)
    z = torch.randn(50, *generator.latent_shape(64, 128), generator=torch.Generator().manual_seed(0))
    _, noise = generator._split(z)
    assert [tuple(item.shape[-2:]) for item in noise] == [(64, 128), (32, 64), (16, 32)]
    assert all(abs(float(item.std()) - 1) < 0.02 for item in noise)
    assert torch.allclose(noise[1][..., 0, 0], noise[0][..., :2, :2].sum(dim=(-2, -1)) / 2, atol=1e-5)


def test_before_training_grain_is_small_noise_that_changes_from_one_lead_time_to_the_next():
    torch.manual_seed(0)
    generator = Generator(**{**SIZES, "texture": False, "grain": True}).eval()
    without = Generator(**{**SIZES, "texture": False}).eval()
    without.load_state_dict(
        {name: value for name, value in generator.state_dict().items() if "grain" not in name}
    )
    context = torch.rand(1, 4, 1, 64, 64)
    z = torch.randn(1, *generator.latent_shape(64, 64))
    with torch.no_grad():
        grain = generator(context, z) - without(context, z[:, :8])
        parts = list(generator.stream(generator.encode(context), z, size=(64, 64), steps_at_once=2))
    assert float(grain.std()) == pytest.approx(GRAIN, rel=0.05)
    frames = grain[0, :, 0].flatten(1)
    assert torch.corrcoef(frames).fill_diagonal_(0).abs().max() < 0.1
    # few lead times at a time draw the same
    torch.testing.assert_close(torch.cat(parts, dim=1), generator(context, z), atol=1e-5, rtol=1e-4)


def test_smoothing_takes_the_shortest_waves_and_leaves_the_others():
    x = torch.arange(48.0)
    for length, left in ((2, 0.0), (3, 0.578), (4, 0.875), (12, 1.0)):
        wave = torch.cos(2 * torch.pi * x / length)[None, None, None].expand(2, 3, 40, 48)
        inner = (..., slice(8, 32), slice(12, 36))
        torch.testing.assert_close(_smoothed(wave)[inner], left * wave[inner], atol=2e-3, rtol=0)
