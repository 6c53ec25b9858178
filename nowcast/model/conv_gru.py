"""Convolutional gated recurrent unit of the sampler."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.model.blocks import sn_conv2d


class ConvGRU(nn.Module):
    """Convolutional GRU with a ReLU candidate, run over a whole sequence.

    With * a spectrally normalised 3x3 convolution and [x, h] the concatenation of channels:

        r = sigmoid(W_r * [x, h])
        u = sigmoid(W_u * [x, h])
        c = ReLU(W_c * [x, r h])
        h' = u h + (1 - u) c

    Each convolution is split into its share of x and its share of h. The share of x needs no recurrence and
    is computed for all steps at once, and only once if the input is the same at every step.
    Source: pseudocode of DOI 10.1038/s41586-021-03854-z.

    Args:
        input_channels: width of x.
        hidden_channels: width of h.
    """

    def __init__(self, input_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.read_gate = sn_conv2d(input_channels + hidden_channels, hidden_channels, 3)
        self.update_gate = sn_conv2d(input_channels + hidden_channels, hidden_channels, 3)
        self.candidate = sn_conv2d(input_channels + hidden_channels, hidden_channels, 3)

    def project(self, inputs: Tensor) -> Tensor:
        """The share of the input in all three convolutions, which needs no recurrence.

        Args:
            inputs: (steps, N, input_channels, H, W), or (1, N, ...) for the same input at each step.

        Returns:
            (steps or 1, N, 3 * hidden_channels, H, W)
        """
        bias = torch.cat([layer.bias for layer in self._layers() if layer.bias is not None])
        weight = self._weight(slice(None, self.input_channels))
        return F.conv2d(inputs.flatten(0, 1), weight, bias, padding=1).unflatten(0, inputs.shape[:2])

    def forward(self, projected: Tensor, hidden: Tensor, *, steps: int) -> Tensor:
        """Returns the hidden state after each step.

        Args:
            projected: What `project` made of the inputs.
            hidden: (N, hidden_channels, H, W), the state before the first step.
            steps: number of steps.

        Returns:
            (steps, N, hidden_channels, H, W)
        """
        sizes = (2 * self.hidden_channels, self.hidden_channels)
        of_gates, of_candidate = self._weight(slice(self.input_channels, None)).split(sizes)
        states = []
        for from_x in projected.expand(steps, -1, -1, -1, -1):
            gates_from_x, candidate_from_x = from_x.split(sizes, dim=1)
            gates = torch.sigmoid(gates_from_x + F.conv2d(hidden, of_gates, padding=1))
            read, update = gates.chunk(2, dim=1)
            candidate = F.relu(candidate_from_x + F.conv2d(read * hidden, of_candidate, padding=1))
            hidden = candidate + update * (hidden - candidate)
            states.append(hidden)
        return torch.stack(states)

    def _layers(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        return self.read_gate, self.update_gate, self.candidate

    def _weight(self, channels: slice) -> Tensor:
        """The kernels of all three convolutions for some of their input channels, copied together once."""
        weight = torch.cat([layer.weight[:, channels] for layer in self._layers()])
        return weight.contiguous(memory_format=torch.channels_last)
