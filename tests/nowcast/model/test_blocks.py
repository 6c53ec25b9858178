import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from nowcast.model.blocks import (
    DBlock,
    DBlock3d,
    GBlock,
    LBlock,
    UpsampleGBlock,
    conv2d,
    normalized_once,
    sn_conv2d,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomize(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def test_convolutions_start_orthogonal_with_zero_bias():
    layer = conv2d(3, 8, 3)
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)
    assert not layer.bias.any()


def test_spectral_norm_divides_by_the_largest_singular_value():
    layer = randomize(sn_conv2d(3, 8, 3))
    for _ in range(200):
        weight = layer.weight
    assert torch.linalg.matrix_norm(weight.flatten(1), ord=2).item() == pytest.approx(1, abs=1e-3)


def test_a_weight_that_is_used_many_times_costs_one_power_iteration():
    layer = randomize(sn_conv2d(3, 8, 3))
    norm = layer.parametrizations.weight[0]
    matrix = layer.parametrizations.weight.original.flatten(1)
    left = F.normalize(matrix @ norm._v, dim=0)
    with normalized_once(layer):
        first = layer.weight
        assert layer.weight is first
    torch.testing.assert_close(norm._u, left)


def test_a_d_block_does_what_the_pseudocode_says():
    block = randomize(DBlock(3, 5)).eval()
    x = torch.randn(2, 3, 8, 8)
    main = F.avg_pool2d(block.last_conv(F.relu(block.first_conv(F.relu(x)))), 2)
    shortcut = F.avg_pool2d(block.shortcut(x), 2)
    torch.testing.assert_close(block(x), main + shortcut)


def test_a_d_block_without_pre_activation_passes_negative_values():
    block = DBlock(4, 4, pre_activation=False).eval()
    x = -torch.rand(1, 4, 4, 4)
    main = F.avg_pool2d(block.last_conv(F.relu(block.first_conv(x))), 2)
    assert main.any()
    torch.testing.assert_close(block(x), main + block.shortcut(F.avg_pool2d(x, 2)))


def test_a_d_block_that_changes_nothing_has_an_identity_shortcut():
    block = DBlock(4, 4, downsample=False)
    torch.nn.init.zeros_(block.last_conv.bias)
    block.last_conv.parametrizations.weight[0] = torch.nn.Identity()
    torch.nn.init.zeros_(block.last_conv.parametrizations.weight.original)
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(x), x)


def test_a_3d_d_block_halves_time_and_grid_and_drops_the_odd_frame():
    assert DBlock3d(4, 6)(torch.randn(2, 4, 11, 8, 6)).shape == (2, 6, 5, 4, 3)


@pytest.mark.parametrize(
    ("block", "hidden"),
    [
        (DBlock(4, 6), 4),
        (DBlock(4, 6, hidden_channels=6), 6),
        (GBlock(4), 4),
        (GBlock(4, hidden_channels=3), 3),
        (UpsampleGBlock(6, 3), 3),
        (UpsampleGBlock(6, 3, hidden_channels=6), 6),
    ],
)
def test_hidden_widths_default_to_the_pseudocode_and_can_be_chosen(block, hidden):
    assert block.first_conv.out_channels == hidden
    assert block.last_conv.in_channels == hidden


def test_an_upsampling_g_block_does_what_the_pseudocode_says():
    block = randomize(UpsampleGBlock(4, 2)).eval()
    x = torch.randn(2, 4, 3, 5)
    repeat = {"scale_factor": 2, "mode": "nearest"}
    first = block.first_conv
    repeated = F.interpolate(F.relu(block.first_norm(x)), **repeat)
    main = F.conv2d(repeated, first.weight, first.bias, padding=1)
    main = block.last_conv(F.relu(block.last_norm(main)))
    torch.testing.assert_close(block(x), main + block.shortcut(F.interpolate(x, **repeat)))


def test_a_g_block_adds_to_its_input():
    block = randomize(GBlock(4)).eval()
    x = torch.randn(2, 4, 3, 5)
    main = block.first_conv(F.relu(block.first_norm(x)))
    torch.testing.assert_close(block(x) - x, block.last_conv(F.relu(block.last_norm(main))))


def test_an_l_block_keeps_its_input_and_adds_channels():
    block = LBlock(2, 5)
    torch.nn.init.zeros_(block.last_conv.weight)
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(block(x), torch.cat([x, block.added(x)], dim=1))
    assert not any(parametrize.is_parametrized(layer) for layer in block.modules())


def test_an_l_block_of_equal_widths_has_no_unused_convolution():
    block = LBlock(3, 3)
    torch.nn.init.zeros_(block.last_conv.weight)
    x = torch.randn(1, 3, 3, 3)
    torch.testing.assert_close(block(x), x)
    assert block.added is None


def test_an_l_block_refuses_to_narrow():
    with pytest.raises(ValueError, match="cannot narrow its input, got 5 -> 2"):
        LBlock(5, 2)
