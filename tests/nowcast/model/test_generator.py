import json

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from nowcast.model import PRESETS, Generator
from nowcast.model.blocks import normalized_once

SMALL = {
    "lead_steps": 5,
    "conditioning_channels": (4, 6, 8),
    "latent_channels": (6, 8, 12),
    "z_channels": 4,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(**arguments):
    generator = Generator(**{**SMALL, **arguments})
    for module in generator.modules():
        if hasattr(module, "gamma"):
            torch.nn.init.constant_(module.gamma, 0.5)
    return generator


def noise(generator, count, height, width):
    return torch.randn(count, *generator.latent_shape(height, width))


def trained(generator, context):
    """Batch norm statistics of one training pass, so that evaluation has something to use."""
    generator.train()
    with torch.no_grad():
        generator(context, noise(generator, len(context), *context.shape[-2:]))
    return generator.eval()


def spectral_norms(module):
    return [
        (layer.parametrizations.weight.original, layer.parametrizations.weight[0])
        for layer in module.modules()
        if parametrize.is_parametrized(layer, "weight")
    ]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_those_of_the_pseudocode():
    with torch.device("meta"):
        generator = Generator()
    assert parameters(generator.conditioning_stack) == 8_457_940
    assert parameters(generator.latent_stack) == 7_228_305
    assert parameters(generator.sampler) == 36_053_572
    assert parameters(generator) == 51_739_817


def test_narrow_conditioning_has_the_parameter_count_of_the_ports():
    with torch.device("meta"):
        generator = Generator(**PRESETS["dgmr-narrow"]["generator"])
    assert parameters(generator) == 47_160_497


def test_the_widths_of_the_ports_give_their_parameter_count_without_what_they_never_use():
    with torch.device("meta"):
        generator = Generator(
            frame_channels=(24, 48, 96, 192),
            frame_hidden_channels=(24, 48, 96, 192),
            upsample_hidden_channels=(96, 192, 384, 768),
        )
    assert parameters(generator) == 53_566_957 - 784_800


@pytest.mark.parametrize(("height", "width"), [(50, 70), (16, 16), (5, 33)])
def test_the_forecast_has_the_grid_of_the_context(height, width):
    generator = small(context_frames=3, input_channels=2, output_channels=2)
    context = torch.rand(2, 3, 2, height, width)
    z = noise(generator, 4, height, width)
    assert generator(context, z).shape == (4, 5, 2, height, width)


def test_input_and_output_channels_may_differ():
    generator = small(input_channels=3, output_channels=2)
    assert generator(torch.rand(1, 4, 3, 16, 16), noise(generator, 1, 16, 16)).shape == (1, 5, 2, 16, 16)


def test_the_noise_has_one_cell_per_32_cells_rounded_up():
    with torch.device("meta"):
        generator = Generator(**PRESETS["dgmr"]["generator"])
    assert generator.latent_shape(256, 256) == (8, 8, 8)
    assert generator.latent_shape(50, 70) == (8, 2, 3)
    assert small().latent_shape(50, 70) == (4, 4, 5)


def test_padding_means_zeros_below_and_to_the_right():
    generator = small().eval()
    context = torch.rand(1, 4, 1, 20, 30)
    z = noise(generator, 1, 20, 30)
    padded = F.pad(context, (0, 2, 0, 12))  # 20 x 30 -> 32 x 32
    torch.testing.assert_close(generator(context, z), generator(padded, z)[..., :20, :30])


def test_members_differ_only_by_their_noise():
    context = torch.rand(1, 4, 1, 32, 32).repeat(3, 1, 1, 1, 1)
    generator = trained(small(), context)
    z = noise(generator, 2, 32, 32)[[0, 0, 1]]
    first, same, other = generator(context, z)
    torch.testing.assert_close(first, same)
    assert not torch.allclose(first, other, atol=1e-3)


def test_noise_n_belongs_to_context_n_div_m():
    context = torch.rand(2, 4, 1, 32, 32)
    generator = trained(small(), context)
    z = noise(generator, 6, 32, 32)
    together = generator(context, z)
    for n in range(6):
        alone = generator(context[n // 3 : n // 3 + 1], z[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone, atol=1e-5, rtol=1e-4)


def test_the_rest_of_the_batch_does_not_change_a_forecast_in_evaluation():
    context = torch.rand(3, 4, 1, 32, 32)
    generator = trained(small(), context)
    z = noise(generator, 3, 32, 32)
    other = context.clone()
    other[1:] *= 10
    torch.testing.assert_close(generator(context, z)[0], generator(other, z)[0], atol=1e-5, rtol=1e-4)


def test_encoding_once_and_decoding_often_is_the_forward_pass():
    context = torch.rand(2, 4, 1, 20, 30)
    generator = trained(small(), context)
    z = noise(generator, 4, 20, 30)
    states = generator.encode(context)
    torch.testing.assert_close(generator.decode(states, z, size=(20, 30)), generator(context, z))
    assert [tuple(state.shape) for state in states] == [(2, 4, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2)]


def test_every_context_frame_matters():
    context = torch.rand(1, 4, 1, 32, 32)
    generator = trained(small(), context)
    z = noise(generator, 1, 32, 32)
    forecast = generator(context, z)
    for frame in range(4):
        changed = context.clone()
        changed[:, frame] = 0
        assert not torch.allclose(generator(changed, z), forecast, atol=1e-5)


def test_features_of_the_frames_are_mixed_frame_by_frame():
    stack = small().conditioning_stack.eval()
    context = torch.rand(1, 4, 1, 16, 16)
    features = [stack.blocks[0](F.pixel_unshuffle(context[:, frame], 2)) for frame in range(4)]
    expected = F.relu(stack.mixing[0](torch.cat(features, dim=1)))
    torch.testing.assert_close(stack(context)[0], expected)


@pytest.mark.parametrize("call", ["encode", "decode", "forward"])
def test_one_call_does_one_power_iteration_per_weight(call):
    generator = small()
    context, z = torch.rand(1, 4, 1, 16, 16), noise(generator, 2, 16, 16)
    states = generator.encode(context)
    used = {
        "encode": [generator.conditioning_stack],
        "decode": [generator.latent_stack, generator.sampler],
        "forward": [generator],
    }[call]
    norms = [norm for module in used for norm in spectral_norms(module)]
    expected = []
    for original, norm in norms:
        torch.nn.init.normal_(original)  # an orthogonal weight would stay where it is
        u = F.normalize(original.flatten(1) @ norm._v, dim=0)
        expected.append((u, F.normalize(original.flatten(1).T @ u, dim=0)))

    if call == "encode":
        generator.encode(context)
    elif call == "decode":
        generator.decode(states, z, size=(16, 16))
    else:
        generator(context, z)

    for (_, norm), (u, v) in zip(norms, expected, strict=True):
        torch.testing.assert_close(norm._u, u)
        torch.testing.assert_close(norm._v, v)


def test_weights_are_normalised_in_full_precision_under_autocast():
    generator = small()
    autocast = []
    for _, norm in spectral_norms(generator):
        norm.register_forward_hook(lambda *_: autocast.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        generator(torch.rand(1, 4, 1, 16, 16), noise(generator, 1, 16, 16))
    assert autocast == [False] * len(spectral_norms(generator))


def test_evaluation_does_no_power_iteration_and_moves_no_statistics():
    generator = small().eval()
    for original, _ in spectral_norms(generator):
        torch.nn.init.normal_(original)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    generator(torch.rand(1, 4, 1, 16, 16), noise(generator, 1, 16, 16))
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_batch_norm_sees_all_lead_times_at_once():
    generator = small()
    seen = []
    generator.sampler.norm.register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].shape)
    )
    generator(torch.rand(2, 4, 1, 16, 16), noise(generator, 4, 16, 16))
    assert seen == [(4 * 5, 4, 8, 8)]
    assert generator.sampler.norm.num_batches_tracked == 1


def test_the_output_is_linear_and_may_be_negative():
    generator = small()
    forecast = generator(torch.rand(1, 4, 1, 32, 32), noise(generator, 2, 32, 32))
    assert (forecast < 0).any()
    assert (forecast > 0).any()


def test_the_configuration_rebuilds_the_generator():
    generator = small(frame_channels=(3, 5, 7), input_channels=2).eval()
    rebuilt = Generator(**json.loads(json.dumps(generator.config))).eval()
    rebuilt.load_state_dict(generator.state_dict())
    context, z = torch.rand(1, 4, 2, 16, 16), noise(generator, 1, 16, 16)
    torch.testing.assert_close(rebuilt(context, z), generator(context, z))
    assert rebuilt.config == generator.config


def test_plain_weights_forecast_like_normalised_ones():
    generator = small().eval()
    context, z = torch.rand(1, 4, 1, 16, 16), noise(generator, 1, 16, 16)
    forecast = generator(context, z)
    torch.testing.assert_close(generator.fold()(context, z), forecast)
    assert not spectral_norms(generator)
    assert not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize("steps_at_once", [1, 2, 5, 9])
def test_lead_times_may_be_drawn_some_after_the_other(steps_at_once):
    generator = trained(small(), torch.rand(2, 4, 1, 20, 16))
    states, z = generator.encode(torch.rand(2, 4, 1, 20, 16)), noise(generator, 4, 20, 16)
    parts = list(generator.stream(states, z, size=(20, 16), steps_at_once=steps_at_once))
    assert max(part.shape[1] for part in parts) == min(steps_at_once, 5)
    torch.testing.assert_close(torch.cat(parts, dim=1), generator.decode(states, z, size=(20, 16)))


def test_any_number_of_lead_times_may_be_drawn():
    generator = trained(small(), torch.rand(2, 4, 1, 16, 16))
    states, z = generator.encode(torch.rand(1, 4, 1, 16, 16)), noise(generator, 1, 16, 16)
    nine = torch.cat(list(generator.stream(states, z, size=(16, 16), lead_steps=9)), dim=1)
    assert nine.shape == (1, 9, 1, 16, 16)
    torch.testing.assert_close(nine[:, :5], generator.decode(states, z, size=(16, 16)))


def gradients_and_buffers(generator, context, z, *, recompute):
    generator.sampler.recompute = recompute
    with normalized_once(generator):
        generator(context, z).square().mean().backward()
    gradients = {name: value.grad.clone() for name, value in generator.named_parameters()}
    return gradients, {name: value.clone() for name, value in generator.named_buffers()}


def test_recomputing_changes_neither_gradients_nor_power_iterations_nor_statistics():
    generator = small()
    context, z = torch.rand(2, 4, 1, 16, 16), noise(generator, 2, 16, 16)
    for original, _ in spectral_norms(generator):
        torch.nn.init.normal_(original)
    start = {name: value.clone() for name, value in generator.state_dict().items()}
    kept = gradients_and_buffers(generator, context, z, recompute=False)
    generator.load_state_dict(start)
    generator.zero_grad()
    recomputed = gradients_and_buffers(generator, context, z, recompute=True)
    for before, after in zip(kept, recomputed, strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, msg=name)
    assert int(generator.sampler.norm.num_batches_tracked) == 1


def test_recomputing_after_the_weights_were_released_is_refused():
    generator = small()
    generator.sampler.recompute = True
    loss = generator(torch.rand(2, 4, 1, 16, 16), noise(generator, 2, 16, 16)).mean()
    with pytest.raises(RuntimeError, match="run both inside normalized_once"):
        loss.backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context_frames": 0}, "context_frames must be positive whole numbers, got \\[0\\]"),
        ({"conditioning_channels": ()}, "conditioning_channels must be positive"),
        ({"conditioning_channels": (4, 2.5)}, "conditioning_channels must be positive"),
        ({"frame_channels": (4, 6)}, "one width per conditioning level, got 2 for 3 levels"),
        ({"frame_hidden_channels": (4,)}, "one width per conditioning level, got 1 for 3 levels"),
        ({"upsample_hidden_channels": (4, 6, 0)}, "upsample_hidden_channels must be positive"),
        ({"attention_over": "columns"}, "attention_over is one of"),
        ({"latent_channels": (8,)}, "at least two widths"),
        ({"latent_channels": (8, 6)}, "cannot narrow its input, got 8 -> 6"),
        ({"z_channels": 7}, "cannot narrow its input, got 7 -> 6"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Generator(**{**SMALL, **arguments})


@pytest.mark.parametrize("shape", [(2, 3, 1, 16, 16), (2, 4, 2, 16, 16), (4, 1, 16, 16)])
def test_a_context_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="a context must have shape \\(batch, 4 frames, 1 channels"):
        small().encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("z_shape", "size", "message"),
    [
        ((2, 4, 1, 2), (16, 16), "must have shape \\(N, \\*\\(4, 1, 1\\)\\)"),
        ((2, 3, 1, 1), (16, 16), "must have shape \\(N, \\*\\(4, 1, 1\\)\\)"),
        ((2, 4, 2, 1), (17, 16), "give the size of the context"),
        ((3, 4, 1, 1), (16, 16), "a multiple of the batch of 2 contexts, got 3"),
        ((0, 4, 1, 1), (16, 16), "a multiple of the batch of 2 contexts, got 0"),
    ],
)
def test_noise_that_does_not_fit_is_refused(z_shape, size, message):
    generator = small()
    states = generator.encode(torch.zeros(2, 4, 1, 16, 16))
    with pytest.raises(ValueError, match=message):
        generator.decode(states, torch.zeros(z_shape), size=size)


def test_a_field_without_cells_is_refused():
    with pytest.raises(ValueError, match="at least 1 x 1 cells, got 0 x 16"):
        small().latent_shape(0, 16)
