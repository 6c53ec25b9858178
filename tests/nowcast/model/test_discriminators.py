import json

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from nowcast.model import Discriminator
from nowcast.model.discriminators import draw_crop, draw_frames

SMALL = {"spatial_channels": (4, 6, 8), "temporal_channels": (4, 6, 8), "spatial_frames": 3}
SIZE = 16


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(**arguments):
    return Discriminator(**{**SMALL, **arguments})


def lead_frames(sequence, count=3):
    return draw_frames(
        len(sequence), context_frames=4, lead_steps=sequence.shape[1] - 4, count=count, generator=None
    )


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_those_of_the_pseudocode_without_batch_norm():
    with torch.device("meta"):
        discriminator = Discriminator()
    assert parameters(discriminator.spatial) == 16_304_261
    assert parameters(discriminator.temporal) == 16_432_421


def test_each_sequence_gets_a_spatial_and_a_temporal_score():
    sequence = torch.rand(3, 9, 2, 16, 24)
    scores = small(input_channels=2)(sequence, frames=lead_frames(sequence), crop=(8, 3))
    assert scores.shape == (3, 2)
    assert scores.std(dim=0).min() > 0


def test_the_rest_of_the_batch_does_not_change_a_score():
    sequence = torch.rand(3, 9, 1, SIZE, SIZE)
    frames = lead_frames(sequence)
    discriminator = small().eval()
    together = discriminator(sequence, frames=frames, crop=(1, 2))
    for n in range(3):
        alone = discriminator(sequence[n : n + 1], frames=frames[n : n + 1], crop=(1, 2))
        torch.testing.assert_close(together[n : n + 1], alone)


def test_the_spatial_discriminator_ignores_context_and_frames_that_were_not_drawn():
    sequence = torch.rand(1, 9, 1, SIZE, SIZE)
    frames = torch.tensor([[5, 8, 6]])
    discriminator = small().eval()
    scores = discriminator(sequence, frames=frames, crop=(0, 0))
    changed = sequence.clone()
    changed[:, [0, 1, 2, 3, 4, 7]] += 1
    other = discriminator(changed, frames=frames, crop=(0, 0))
    assert other[0, 0] == scores[0, 0]
    assert other[0, 1] != scores[0, 1]
    for frame in (5, 6, 8):
        changed = sequence.clone()
        changed[:, frame] += 1
        assert discriminator(changed, frames=frames, crop=(0, 0))[0, 0] != scores[0, 0]


def test_each_sample_is_scored_on_its_own_frames():
    sequence = torch.rand(1, 9, 1, SIZE, SIZE).repeat(2, 1, 1, 1, 1)
    discriminator = small().eval()
    swapped = discriminator(sequence, frames=torch.tensor([[4, 5, 6], [6, 4, 5]]), crop=(0, 0))
    torch.testing.assert_close(swapped[0], swapped[1])
    different = discriminator(sequence, frames=torch.tensor([[4, 5, 6], [6, 7, 8]]), crop=(0, 0))
    assert different[0, 0] != different[1, 0]


def test_the_spatial_score_is_a_sum_over_frames_of_a_head_on_sums_over_cells():
    spatial = small().spatial.eval()
    sequence = torch.rand(1, 9, 1, 32, 32)
    expected = 0
    for frame in (4, 7):
        half_resolution = F.avg_pool2d(sequence[:, frame], 2)
        features = spatial.blocks(F.pixel_unshuffle(half_resolution, 2))
        assert features.shape == (1, 8, 2, 2)
        expected = expected + spatial.head(F.relu(features).sum(dim=(2, 3)))[:, 0]
    torch.testing.assert_close(spatial(sequence, torch.tensor([[4, 7]])), expected)


def test_the_temporal_score_is_a_sum_over_time_slots_of_a_head_on_sums_over_cells():
    temporal = small().temporal.eval()
    sequence = torch.rand(1, 9, 1, 32, 32)
    frames = [F.pixel_unshuffle(sequence[:, frame, :, 2:18, 4:20], 2) for frame in range(9)]
    slots = temporal.blocks_3d(torch.stack(frames, dim=2))
    assert slots.shape == (1, 6, 2, 2, 2)  # 9 frames -> 4 -> 2 time slots
    features = [F.relu(temporal.blocks(slots[:, :, slot])) for slot in range(2)]
    expected = sum(temporal.head(feature.sum(dim=(2, 3))) for feature in features)[:, 0]
    torch.testing.assert_close(temporal(sequence, (2, 4)), expected)


def test_the_temporal_discriminator_sees_texture_of_single_cells():
    sequence = torch.rand(1, 9, 1, SIZE, SIZE)
    frames = lead_frames(sequence)
    cells = torch.arange(SIZE)
    checkerboard = 1.0 - 2.0 * ((cells[:, None] + cells[None, :]) % 2)  # mean 0 over each 2 x 2 cells
    discriminator = small().eval()
    smooth = discriminator(sequence, frames=frames, crop=(0, 0))
    rough = discriminator(sequence + checkerboard, frames=frames, crop=(0, 0))
    torch.testing.assert_close(rough[:, 0], smooth[:, 0])
    assert (rough[:, 1] - smooth[:, 1]).abs() > 1e-2


def test_the_temporal_discriminator_sees_its_crop_and_nothing_else():
    sequence = torch.rand(1, 9, 1, SIZE, SIZE)
    frames = lead_frames(sequence)
    row, column = 3, 5
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[row : row + SIZE // 2, column : column + SIZE // 2] = True
    discriminator = small().eval()
    score = discriminator(sequence, frames=frames, crop=(row, column))[0, 1]
    outside_changed = discriminator(sequence + ~inside, frames=frames, crop=(row, column))[0, 1]
    inside_changed = discriminator(sequence + inside, frames=frames, crop=(row, column))[0, 1]
    assert outside_changed == score
    assert inside_changed != score


def test_the_temporal_discriminator_sees_the_order_of_frames():
    sequence = torch.rand(1, 8, 1, SIZE, SIZE)
    frames = lead_frames(sequence)
    discriminator = small().eval()
    forward = discriminator(sequence, frames=frames, crop=(0, 0))[0, 1]
    backward = discriminator(sequence.flip(1), frames=frames, crop=(0, 0))[0, 1]
    assert (forward - backward).abs() > 1e-4


def test_one_call_does_one_power_iteration_per_weight():
    discriminator = small()
    norms = [
        (layer.parametrizations.weight.original, layer.parametrizations.weight[0])
        for layer in discriminator.modules()
        if parametrize.is_parametrized(layer, "weight")
    ]
    expected = []
    for original, norm in norms:
        torch.nn.init.normal_(original)
        u = F.normalize(original.flatten(1) @ norm._v, dim=0)
        expected.append((u, F.normalize(original.flatten(1).T @ u, dim=0)))
    sequence = torch.rand(2, 9, 1, SIZE, SIZE)
    discriminator(sequence, frames=lead_frames(sequence), crop=(0, 0))
    for (_, norm), (u, v) in zip(norms, expected, strict=True):
        torch.testing.assert_close(norm._u, u)
        torch.testing.assert_close(norm._v, v)


def test_the_configuration_rebuilds_the_discriminator():
    discriminator = small(input_channels=2, context_frames=3).eval()
    rebuilt = Discriminator(**json.loads(json.dumps(discriminator.config))).eval()
    rebuilt.load_state_dict(discriminator.state_dict())
    sequence = torch.rand(1, 9, 2, SIZE, SIZE)
    frames = torch.tensor([[3, 5, 8]])
    torch.testing.assert_close(
        rebuilt(sequence, frames=frames, crop=(0, 0)), discriminator(sequence, frames=frames, crop=(0, 0))
    )
    assert rebuilt.config == discriminator.config


@pytest.mark.parametrize("size", [(12, 16), (16, 18), (8, 8)])
def test_a_crop_too_small_for_the_blocks_is_refused(size):
    sequence = torch.rand(1, 9, 1, *size)
    with pytest.raises(ValueError, match="discriminators of 3 blocks need sides of at least 16 cells"):
        small()(sequence, frames=lead_frames(sequence), crop=(0, 0))


def test_the_smallest_allowed_crop_works():
    sequence = torch.rand(1, 5, 1, 16, 16)
    assert small()(sequence, frames=torch.tensor([[4]]), crop=(8, 8)).shape == (1, 2)


@pytest.mark.parametrize("shape", [(2, 4, 1, 16, 16), (2, 9, 2, 16, 16), (9, 1, 16, 16)])
def test_a_sequence_of_another_shape_is_refused(shape):
    with pytest.raises(
        ValueError, match="a sequence must have shape \\(batch, at least 5 frames, 1 channels"
    ):
        small()(torch.rand(shape), frames=torch.tensor([[4, 5, 6]] * 2), crop=(0, 0))


@pytest.mark.parametrize("frames", [[[3, 4, 5]], [[4, 5, 9]], [[4, 5]], [[4, 5, 6], [4, 5, 6]], [4, 5, 6]])
def test_frames_that_are_no_lead_times_or_of_another_number_are_refused(frames):
    with pytest.raises(ValueError, match="frames must have shape \\(1, 3\\) and lie in 4..8"):
        small()(torch.rand(1, 9, 1, SIZE, SIZE), frames=torch.tensor(frames), crop=(0, 0))


@pytest.mark.parametrize("crop", [(-1, 0), (0, 9)])
def test_a_crop_outside_the_field_is_refused(crop):
    with pytest.raises(ValueError, match="a crop must start in 0..8, 0..8"):
        small()(torch.rand(1, 9, 1, SIZE, SIZE), frames=torch.tensor([[4, 5, 6]]), crop=crop)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_frames": 0}, "spatial_frames must be positive"),
        ({"spatial_channels": (4,)}, "spatial_channels must have at least 2 widths, got \\[4\\]"),
        ({"temporal_channels": (4, 6)}, "temporal_channels must have at least 3 widths, got \\[4, 6\\]"),
        ({"temporal_channels": (4, 0, 6)}, "temporal_channels must be positive"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_drawn_frames_are_distinct_lead_times_and_differ_between_samples():
    generator = torch.Generator().manual_seed(1)
    frames = draw_frames(200, context_frames=4, lead_steps=18, count=8, generator=generator)
    assert frames.shape == (200, 8)
    assert frames.dtype == torch.long
    assert all(len(set(row)) == 8 for row in frames.tolist())
    assert set(frames.flatten().tolist()) == set(range(4, 22))
    assert len({tuple(row) for row in frames.tolist()}) > 190


def test_all_lead_times_are_drawn_if_there_are_fewer_than_asked():
    frames = draw_frames(5, context_frames=3, lead_steps=4, count=8, generator=None)
    assert all(sorted(row) == [3, 4, 5, 6] for row in frames.tolist())


def test_drawn_crops_start_in_the_first_half_and_reach_all_of_it():
    generator = torch.Generator().manual_seed(1)
    crops = [draw_crop(8, 12, generator=generator) for _ in range(300)]
    assert {row for row, _ in crops} == set(range(4))
    assert {column for _, column in crops} == set(range(6))


def test_draws_repeat_with_the_seed():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        frames = draw_frames(2, context_frames=4, lead_steps=18, count=8, generator=generator)
        return frames.tolist(), draw_crop(256, 256, generator=generator)

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="lead_steps and count must be positive"):
        draw_frames(1, context_frames=4, lead_steps=0, count=8, generator=None)
    with pytest.raises(ValueError, match="half of height and of width must be positive"):
        draw_crop(1, 8, generator=None)
