"""A motion error of its own for each realization."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 3.0
"""Standard deviation of the window that smoothes the noise, in cells of the coarsest features."""
START = 0.3
"""Standard deviation of the error before training, cells per step."""
COMPONENTS = 2
"""Channels of z that are the error along x and along y."""


class Drift(nn.Module):
    """Velocity that separates one realization from another: smooth noise times an amplitude from the context.

    The first two channels of z, smoothed to unit variance, are its direction and size relative to the
    amplitude, which a 1x1 convolution with softplus reads from the coarsest state, place by place.

    Args:
        channels: width of the coarsest state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.amplitude = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.amplitude.weight)
        nn.init.constant_(self.amplitude.bias, math.log(math.expm1(START)))  # type: ignore[arg-type]

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """Velocity in cells of the field per step, x before y.

        Args:
            state: (N, channels, h, w), the coarsest state of the conditioning stack.
            z: (N, z_channels, h, w) standard normal noise.

        Returns:
            (N, 2, h, w).
        """
        with torch.autocast(z.device.type, enabled=False):  # a displacement needs all the digits
            rows, columns = (_smoothing(length, like=z) for length in z.shape[-2:])
            noise = rows @ z[:, :COMPONENTS].float() @ columns.T
            return F.softplus(self.amplitude(state.float())) * noise


def _smoothing(length: int, *, like: Tensor) -> Tensor:
    """Matrix (length, length) that smoothes independent numbers; unit variance stays unit variance."""
    place = torch.arange(length, device=like.device, dtype=torch.float32)
    weights = torch.exp(-((place[:, None] - place) ** 2) / (2 * WIDTH**2))
    return weights / weights.norm(dim=1, keepdim=True)
