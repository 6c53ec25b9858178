import torch
import torch.nn.functional as F

from nowcast.model.conv_gru import ConvGRU


def gru_with_bias():
    gru = ConvGRU(3, 2).eval()
    for layer in (gru.read_gate, gru.update_gate, gru.candidate):
        torch.nn.init.normal_(layer.bias)
    return gru


def test_each_step_follows_the_formula():
    gru = gru_with_bias()
    inputs, hidden = torch.randn(4, 2, 3, 5, 6), torch.randn(2, 2, 5, 6)
    expected = []
    state = hidden
    for x in inputs:
        both = torch.cat([x, state], dim=1)
        read, update = torch.sigmoid(gru.read_gate(both)), torch.sigmoid(gru.update_gate(both))
        candidate = F.relu(gru.candidate(torch.cat([x, read * state], dim=1)))
        state = update * state + (1 - update) * candidate
        expected.append(state)
    torch.testing.assert_close(gru(gru.project(inputs), hidden, steps=4), torch.stack(expected))


def test_one_input_is_used_at_every_step():
    gru = gru_with_bias()
    x, hidden = torch.randn(1, 2, 3, 5, 6), torch.randn(2, 2, 5, 6)
    once, often = gru.project(x), gru.project(x.repeat(5, 1, 1, 1, 1))
    torch.testing.assert_close(gru(once, hidden, steps=5), gru(often, hidden, steps=5))
