"""Building blocks of DGMR: convolutions, the D-, G- and L-blocks, and the pass that normalises weights once.

All blocks are fully convolutional, pad to keep the grid (SAME) and take feature maps of shape (N, C, H, W)
unless they say otherwise.
Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, with the widths of its published pseudocode.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

SPECTRAL_NORM_EPS = 1e-4

Layer = TypeVar("Layer", bound=nn.Module)


def check_positive(name: str, values: Iterable[int]) -> None:
    """Rejects sizes that are no positive whole numbers.

    Raises:
        ValueError: if a value is not an integer of at least 1.
    """
    values = list(values)
    if not values or any(not isinstance(value, int) or value < 1 for value in values):
        raise ValueError(f"{name} must be positive whole numbers, got {values}; give integers of at least 1")


def conv2d(in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True) -> nn.Conv2d:
    """Plain 2-D convolution with SAME padding, orthogonal weights and zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def spectral_norm(layer: Layer) -> Layer:
    """Divides the weight of `layer` by its largest singular value (power iteration, eps 1e-4), in place."""
    parametrizations.spectral_norm(layer, eps=SPECTRAL_NORM_EPS)
    return layer


def sn_conv2d(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Spectrally normalised 2-D convolution."""
    return spectral_norm(conv2d(in_channels, out_channels, kernel_size))


def sn_conv3d(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv3d:
    """Spectrally normalised 3-D convolution; no source names an initialisation, so torch's own is kept."""
    return spectral_norm(nn.Conv3d(in_channels, out_channels, kernel_size, padding=kernel_size // 2))


@contextmanager
def normalized_once(module: nn.Module) -> Iterator[None]:
    """Normalises each spectrally normalised weight inside `module` once for all that runs in the block.

    A training forward pass then does one power iteration, however often a weight is used. The weights are
    computed here, outside autocast, because a power iteration in bfloat16 loses the singular value it looks
    for (and mixes types on some devices). Blocks may be nested; weights stay fixed until the outermost one
    ends, so an optimiser must not step inside.
    """
    device_type = next(module.parameters()).device.type
    with parametrize.cached():
        with torch.autocast(device_type, enabled=False):
            for layer in module.modules():
                if parametrize.is_parametrized(layer, "weight"):
                    _ = layer.weight
        yield


class DBlock(nn.Module):
    """Residual block of the conditioning stack and of the discriminators; halves the grid by average pooling.

    Main path: (ReLU) - SN conv3x3 to `hidden_channels` - ReLU - SN conv3x3 - (2x2 mean). Shortcut, from the
    input before its ReLU: (2x2 mean) - SN conv1x1, or the identity if neither grid nor width changes. The
    shortcut pools before the 1x1 convolution: both are linear and commute, at a quarter of the cost.

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        hidden_channels: width between the two 3x3 convolutions; None takes `in_channels` (pseudocode).
        downsample: whether (N, C, H, W) becomes (N, C', H // 2, W // 2).
        pre_activation: whether the main path starts with a ReLU (not for raw fields in a discriminator).
    """

    conv: Callable[[int, int, int], nn.Module] = staticmethod(sn_conv2d)
    pool: Callable[[Tensor, int], Tensor] = staticmethod(F.avg_pool2d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int | None = None,
        downsample: bool = True,
        pre_activation: bool = True,
    ) -> None:
        super().__init__()
        hidden_channels = hidden_channels or in_channels
        self.downsample = downsample
        self.pre_activation = pre_activation
        self.first_conv = self.conv(in_channels, hidden_channels, 3)
        self.last_conv = self.conv(hidden_channels, out_channels, 3)
        keeps_shape = in_channels == out_channels and not downsample
        self.shortcut = nn.Identity() if keeps_shape else self.conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H // 2, W // 2), or (N, out, H, W) without downsampling."""
        main = F.relu(x) if self.pre_activation else x
        main = self.last_conv(F.relu(self.first_conv(main)))
        if self.downsample:
            main, x = self.pool(main, 2), self.pool(x, 2)
        return main + self.shortcut(x)


class DBlock3d(DBlock):
    """D-block over time and space (kernel 3, mean of 2): (N, C, T, H, W) to (N, C', T//2, H//2, W//2)."""

    conv = staticmethod(sn_conv3d)
    pool = staticmethod(F.avg_pool3d)


class GBlock(nn.Module):
    """Residual block of the sampler: BN - ReLU - SN conv3x3 - BN - ReLU - SN conv3x3, plus the input.

    Args:
        channels: width of input and output.
        hidden_channels: width between the convolutions; None takes `channels`.
    """

    def __init__(self, channels: int, *, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden_channels = hidden_channels or channels
        self.first_norm = nn.BatchNorm2d(channels)
        self.first_conv = sn_conv2d(channels, hidden_channels, 3)
        self.last_norm = nn.BatchNorm2d(hidden_channels)
        self.last_conv = sn_conv2d(hidden_channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        main = self.first_conv(F.relu(self.first_norm(x)))
        return x + self.last_conv(F.relu(self.last_norm(main)))


class UpsampleGBlock(nn.Module):
    """G-block that doubles the grid by repeating cells.

    Main path: BN - ReLU - nearest x2 - SN conv3x3 to `hidden_channels` - BN - ReLU - SN conv3x3. Shortcut:
    SN conv1x1 - nearest x2 (in this order, which gives the same values at a quarter of the cost).

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        hidden_channels: width between the two 3x3 convolutions; None takes `out_channels` (pseudocode).
    """

    def __init__(self, in_channels: int, out_channels: int, *, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden_channels = hidden_channels or out_channels
        self.first_norm = nn.BatchNorm2d(in_channels)
        self.first_conv = sn_conv2d(in_channels, hidden_channels, 3)
        self.last_norm = nn.BatchNorm2d(hidden_channels)
        self.last_conv = sn_conv2d(hidden_channels, out_channels, 3)
        self.shortcut = sn_conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, 2 H, 2 W)."""
        main = self.first_conv(_repeat_cells(F.relu(self.first_norm(x))))
        main = self.last_conv(F.relu(self.last_norm(main)))
        return main + _repeat_cells(self.shortcut(x))


class LBlock(nn.Module):
    """Residual block of the latent stack: ReLU - conv3x3 - ReLU - conv3x3, neither norm nor spectral norm.

    The shortcut keeps the input and adds the missing channels by a 1x1 convolution.

    Args:
        in_channels: width of the input.
        out_channels: width of the output, at least `in_channels`.

    Raises:
        ValueError: if the block would have to narrow.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(
                f"an L-block cannot narrow its input, got {in_channels} -> {out_channels} channels; "
                "give widths that do not decrease"
            )
        self.first_conv = conv2d(in_channels, out_channels, 3)
        self.last_conv = conv2d(out_channels, out_channels, 3)
        self.added = (
            conv2d(in_channels, out_channels - in_channels, 1) if out_channels > in_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H, W)."""
        main = self.last_conv(F.relu(self.first_conv(F.relu(x))))
        shortcut = x if self.added is None else torch.cat([x, self.added(x)], dim=1)
        return main + shortcut


def _repeat_cells(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
