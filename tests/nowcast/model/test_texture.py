import torch

from nowcast.model import Generator

SIZES = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": 3, "texture": True}


def test_noise_has_unit_variance_at_every_level_and_reaches_two_cells_of_the_field():
    generator = Generator(**SIZES)
    assert generator.latent_shape(64, 128) == (8 + 16, 8, 16)
    z = torch.randn(200, *generator.latent_shape(64, 128), generator=torch.Generator().manual_seed(0))
    coarse, (fine, less_fine) = generator._split(z)
    assert coarse.equal(z[:, :8])
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
