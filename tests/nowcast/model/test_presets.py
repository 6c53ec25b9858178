import inspect

import pytest
import torch

from nowcast.model import PRESETS, Discriminator, Generator
from nowcast.model.discriminators import draw_frames
from nowcast.training import losses

SAMPLES = 2


def defaults(network):
    return {name: parameter.default for name, parameter in inspect.signature(network).parameters.items()}


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    generator = Generator(**PRESETS["tiny"]["generator"])
    for module in generator.modules():
        if hasattr(module, "gamma"):
            torch.nn.init.constant_(module.gamma, 0.5)  # at 0 no gradient passes through attention
    return generator, Discriminator(**PRESETS["tiny"]["discriminator"])


def generated(generator, context):
    z = torch.randn(SAMPLES * len(context), *generator.latent_shape(64, 64))
    return generator(context, z)


def scores(discriminator, context, future):
    sequence = torch.cat([context, future], dim=1)
    frames = draw_frames(len(sequence), context_frames=4, lead_steps=18, count=8, generator=None)
    return discriminator(sequence, frames=frames, crop=(5, 7))


def assert_every_parameter_learns(network):
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A bias in front of a batch norm is subtracted again: its gradient is 0 by construction.
        assert parameter.ndim == 1 or parameter.grad.any(), name


def test_the_dgmr_preset_is_what_the_constructors_default_to():
    assert PRESETS["dgmr"]["generator"] == defaults(Generator)
    assert PRESETS["dgmr"]["discriminator"] == defaults(Discriminator)


def test_every_tiny_generator_parameter_learns_from_the_generator_loss(tiny):
    generator, discriminator = tiny
    context, target = torch.rand(2, 4, 1, 64, 64), torch.rand(2, 18, 1, 64, 64)
    future = generated(generator, context)
    fake = scores(discriminator, context.repeat_interleave(SAMPLES, dim=0), future)
    adversarial, _ = losses.generator_hinge(fake)
    samples = future.unflatten(0, (2, SAMPLES)).transpose(0, 1)
    distance, _ = losses.grid_cell_regularizer(samples, target, torch.ones_like(target, dtype=torch.bool))
    (adversarial + 20 * distance).backward()
    assert_every_parameter_learns(generator)


def test_the_adversarial_loss_alone_reaches_every_generator_parameter(tiny):
    generator, discriminator = tiny
    context = torch.rand(1, 4, 1, 64, 64)
    fake = scores(discriminator, context.repeat_interleave(SAMPLES, dim=0), generated(generator, context))
    losses.generator_hinge(fake)[0].backward()
    assert_every_parameter_learns(generator)


def test_every_tiny_discriminator_parameter_learns_from_the_discriminator_loss(tiny):
    generator, discriminator = tiny
    context = torch.rand(2, 4, 1, 64, 64)
    with torch.no_grad():
        future = generated(generator, context)[::SAMPLES]
    real = scores(discriminator, context, torch.rand(2, 18, 1, 64, 64))
    loss, _ = losses.discriminator_hinge(real, scores(discriminator, context, future))
    loss.backward()
    assert_every_parameter_learns(discriminator)


def test_an_optimiser_step_on_the_discriminator_lowers_its_loss(tiny):
    _, discriminator = tiny
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.0, 0.999))
    real, fake = torch.rand(2, 22, 1, 64, 64), torch.zeros(2, 22, 1, 64, 64)
    frames = draw_frames(2, context_frames=4, lead_steps=18, count=8, generator=None)
    history = []
    for _ in range(10):
        heads = [discriminator(sequence, frames=frames, crop=(0, 0)) for sequence in (real, fake)]
        loss, _ = losses.discriminator_hinge(*heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0]


def test_tiny_learns_in_bfloat16(tiny):
    generator, discriminator = tiny
    context = torch.rand(1, 4, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        future = generated(generator, context)
        fake = scores(discriminator, context.repeat_interleave(SAMPLES, dim=0), future)
        loss, _ = losses.generator_hinge(fake)
    loss.backward()
    assert future.dtype == fake.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in generator.parameters())
    assert_every_parameter_learns(generator)
    assert all(parameter.grad.isfinite().all() for parameter in generator.parameters())


def test_bfloat16_scores_are_close_to_float32(tiny):
    generator, discriminator = (network.eval() for network in tiny)
    context = torch.rand(1, 4, 1, 64, 64)
    future = torch.rand(1, 18, 1, 64, 64)
    torch.manual_seed(1)
    exact = scores(discriminator, context, future)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = scores(discriminator, context, future)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
    assert not torch.equal(rounded, exact)
