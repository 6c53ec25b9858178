"""Building blocks of DGMR: convolutions, the D-, G- and L-blocks, and the pass that normalises weights once.

All blocks are fully convolutional, pad to keep the grid (SAME) and take feature maps of shape (N, C, H, W)
unless they say otherwise.
Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, with the widths of its published pseudocode.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

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


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    bias: bool = True,
    kind: type[nn.Conv2d] = nn.Conv2d,
) -> nn.Conv2d:
    """Plain 2-D convolution with SAME padding, orthogonal weights and zero bias."""
    layer = kind(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    if not layer.weight.is_meta:  # where it would take seconds to no effect
        nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def spectral_norm(layer: Layer) -> Layer:
    """Divides the weight of `layer` by its largest singular value (power iteration, eps 1e-4), in place."""
    parametrizations.spectral_norm(layer, eps=SPECTRAL_NORM_EPS)
    return layer


def sn_conv2d(
    in_channels: int, out_channels: int, kernel_size: int, *, kind: type[nn.Conv2d] = nn.Conv2d
) -> nn.Conv2d:
    """Spectrally normalised 2-D convolution."""
    return spectral_norm(conv2d(in_channels, out_channels, kernel_size, kind=kind))


def sn_conv3d(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv3d:
    """Spectrally normalised 3-D convolution; no source names an initialisation, so torch's own is kept."""
    return spectral_norm(nn.Conv3d(in_channels, out_channels, kernel_size, padding=kernel_size // 2))


@contextmanager
def normalized_once(*modules: nn.Module, iterate: bool = True) -> Iterator[None]:
    """Normalises each spectrally normalised weight inside modules once for all that runs in the block.

    A training forward pass then does one power iteration, however often a weight is used. The weights are
    computed here, outside autocast, because a power iteration in bfloat16 loses the singular value it looks
    for (and mixes types on some devices). Blocks may be nested; weights stay fixed until the outermost one
    ends, so an optimiser must not step inside.

    Args:
        modules: networks that run in the block.
        iterate: whether training does its power iteration; without it, the weights are those of the last.
    """
    layers: list[Any] = [layer for module in modules for layer in module.modules()]
    layers = [layer for layer in layers if parametrize.is_parametrized(layer, "weight")]
    device_type = next(modules[0].parameters()).device.type
    with parametrize.cached():
        with torch.autocast(device_type, enabled=False):
            for layer in layers:
                norm = layer.parametrizations.weight[0]
                training = norm.training
                norm.train(training and iterate)
                _ = layer.weight
                norm.train(training)
        yield


def recomputed(layers: Callable[..., Tensor], *inputs: Tensor, norms: nn.Module) -> Tensor:
    """Runs layers without keeping their activations: the backward pass computes them again.

    The second run must see the weights of the first and leave the statistics of batch norm alone, so both
    passes have to be inside `normalized_once`.

    Args:
        layers: maps tensors to one tensor.
        inputs: these tensors, which are kept.
        norms: module whose batch norms are among the layers.

    Raises:
        RuntimeError: in the backward pass, if the normalised weights of the forward pass are gone.
    """
    contexts = partial(_once_and_again, norms)
    return checkpoint(layers, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _once_and_again(norms: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _again(norms)


@contextmanager
def _again(norms: nn.Module) -> Iterator[None]:
    """For a while, batch norms leave their statistics as they are."""
    if not parametrize._cache_enabled:
        raise RuntimeError(
            "recomputed layers need the weights of the forward pass, got a backward pass after they were "
            "released; run both inside normalized_once"
        )
    statistics = [
        buffer
        for module in norms.modules()
        if isinstance(module, _BatchNorm)
        for buffer in module.buffers(recurse=False)
    ]
    before = [buffer.clone() for buffer in statistics]
    try:
        yield
    finally:
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)


class UpsampleConv2d(nn.Conv2d):
    """3x3 convolution of a field whose cells are first repeated 2 x 2, without ever making that field.

    Repeated cells meet several taps of the kernel at once, so that one transposed convolution with the
    4 x 4 kernel of their sums gives the same values: 16 products for 4 output cells instead of 36.
    """

    merge: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taps = torch.eye(3).flip(0)
        rows = F.pad(taps, (0, 0, 0, 1)) + F.pad(
            taps, (0, 0, 1, 0)
        )  # (4, 3): tap j adds to rows 2 - j, 3 - j
        self.register_buffer("merge", torch.kron(rows, rows).T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, 2 H, 2 W)."""
        kernel = (self.weight.flatten(2) @ self.merge).unflatten(2, (4, 4)).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


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
        main = self.first_conv(F.relu(self.first_norm(x), inplace=True))
        return x + self.last_conv(F.relu(self.last_norm(main), inplace=True))


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
        self.first_conv = sn_conv2d(in_channels, hidden_channels, 3, kind=UpsampleConv2d)
        self.last_norm = nn.BatchNorm2d(hidden_channels)
        self.last_conv = sn_conv2d(hidden_channels, out_channels, 3)
        self.shortcut = sn_conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, 2 H, 2 W)."""
        main = self.first_conv(F.relu(self.first_norm(x), inplace=True))
        main = self.last_conv(F.relu(self.last_norm(main), inplace=True))
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
