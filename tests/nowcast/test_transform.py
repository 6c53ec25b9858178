import pytest
import torch

from data_prep.schema import RefusedInput
from nowcast.transform import TRANSFORMS, refuse_unknown_transform, to_network, to_rain


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_there_and_back_gives_the_rain(transform):
    rain = torch.tensor([0.0, 0.01, 1.0, 4.0, 128.0])
    torch.testing.assert_close(to_rain(to_network(rain, transform), transform), rain)


def test_the_square_root_of_four_is_two():
    assert to_network(torch.tensor(4.0), "square_root") == 2


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_missing_cells_become_zero(transform):
    assert to_network(torch.tensor([torch.nan]), transform).item() == 0


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_negative_values_stay_negative_with_a_slope_for_the_loss(transform):
    value = torch.tensor(-0.5, requires_grad=True)
    rain = to_rain(value, transform)
    rain.backward()
    assert rain < 0
    assert value.grad > 0


def test_an_unknown_transform_is_refused():
    with pytest.raises(RefusedInput, match="came: log"):
        refuse_unknown_transform("log")
