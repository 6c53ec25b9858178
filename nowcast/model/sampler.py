"""The sampler of DGMR: lead times unrolled from the coarsest level to the finest.

Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, and its published pseudocode.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.model.blocks import GBlock, UpsampleGBlock, normalized_once, recomputed, sn_conv2d
from nowcast.model.conv_gru import ConvGRU
from nowcast.smoothing import smoothing_matrix

GRAIN = 0.05
"""Amplitude of the noise of single cells before training, in network units."""
TEXTURE = 0.1
"""Standard deviation of the weights of added noise before training."""


class SamplerLevel(nn.Module):
    """One resolution of the sampler: ConvGRU over the lead times, SN conv1x1, G-block, upsampling G-block.

    Args:
        input_channels: width of what comes from the coarser level.
        channels: width C of the hidden state and of the output; the blocks between work at 2 C.
        upsample_hidden_channels: width inside the upsampling G-block.
        texture: whether noise is added to the output; see `Generator`.
    """

    def __init__(
        self, input_channels: int, channels: int, *, upsample_hidden_channels: int, texture: bool
    ) -> None:
        super().__init__()
        self.gru = ConvGRU(input_channels, channels)
        self.texture = nn.Parameter(TEXTURE * torch.randn(channels, 1, 1)) if texture else None
        self.per_frame = nn.Sequential(
            sn_conv2d(channels, 2 * channels, 1),
            GBlock(2 * channels),
            UpsampleGBlock(2 * channels, channels, hidden_channels=upsample_hidden_channels),
        )

    def textured(self, features: Tensor, noise: Tensor | None) -> Tensor:
        """The output (steps * N, C, H, W) plus noise (N, 1, H, W), which is the same at all steps."""
        if self.texture is None or noise is None:
            return features
        by_step = features.unflatten(0, (-1, noise.shape[0]))
        return (by_step + (self.texture * noise).to(features.dtype)).flatten(0, 1)

    def recur(self, features: Tensor, hidden: Tensor, *, steps: int) -> Tensor:
        """States after each step, (steps, N, C, H, W), from the features (steps * N, ...) of all steps."""
        inputs = features.unflatten(0, (steps, -1))
        return self.gru(self.gru.project(inputs), hidden, steps=steps)


class Sampler(nn.Module):
    """Unrolls the lead times from the coarsest level to the finest.

    Only the ConvGRUs are recurrent in time; all other layers see the lead times merged into the batch. Batch
    norm thus normalises over all lead times of a call together, where the pseudocode calls it once per lead
    time. We deviate because the statistics of training are then the ones that evaluation uses.

    Args:
        output_channels: channels C of a forecast frame.
        latent_channels: width of the latent input.
        conditioning_channels: widths of the hidden states, finest level first.
        upsample_hidden_channels: widths inside the upsampling G-blocks, finest level first; None takes
            `conditioning_channels`.
        texture: whether noise is added after every level; see `Generator`.
        smooth: whether the output is smoothed; see `Generator`.
        grain: whether noise is added to the output; see `Generator`.

    Attributes:
        recompute: whether training keeps only the hidden states and computes what lies between them again
            in the backward pass, which must then run inside `normalized_once`.
    """

    def __init__(
        self,
        *,
        output_channels: int,
        latent_channels: int,
        conditioning_channels: Sequence[int],
        upsample_hidden_channels: Sequence[int] | None,
        texture: bool,
        smooth: bool,
        grain: bool,
    ) -> None:
        super().__init__()
        widths = [*conditioning_channels, latent_channels]
        self.smooth = smooth
        self.levels = nn.ModuleList(
            SamplerLevel(wider, width, upsample_hidden_channels=hidden, texture=texture)
            for wider, width, hidden in zip(
                widths[1:], widths[:-1], upsample_hidden_channels or conditioning_channels, strict=True
            )
        )
        self.norm = nn.BatchNorm2d(widths[0])
        self.output = sn_conv2d(widths[0], 4 * output_channels, 1)
        self.grain = nn.Conv2d(widths[0], 4 * output_channels, 1) if grain else None
        if self.grain is not None:
            nn.init.zeros_(self.grain.weight)
            nn.init.constant_(self.grain.bias, math.log(math.expm1(GRAIN)))  # type: ignore[arg-type]
        self.recompute = False

    def forward(
        self,
        latent: Tensor,
        states: Sequence[Tensor],
        noise: Sequence[Tensor | None],
        *,
        lead_steps: int,
        steps_at_once: int,
    ) -> Iterator[Tensor]:
        """Yields the frames of `steps_at_once` lead times after the other, (N, steps, C, H, W).

        Args:
            latent: (N, latent_channels, h, w), the input of the coarsest level at every lead time.
            states: hidden states before the first lead time, finest first, batch N.
            noise: what is added to the output and after each level, finest first, if anything.
            lead_steps: number of lead times.
            steps_at_once: number of lead times whose activations are in memory together.
        """
        hidden = list(states)
        coarsest = cast(SamplerLevel, self.levels[-1])
        with normalized_once(self):
            projected = coarsest.gru.project(latent.unsqueeze(0))
        for first in range(0, lead_steps, steps_at_once):
            with normalized_once(self):
                steps = min(steps_at_once, lead_steps - first)
                features = self._advance(projected, hidden, noise[1:], steps=steps)
                frames = self._frames(features, noise[0], first=first, steps=steps)
            yield frames

    def _advance(
        self, projected: Tensor, hidden: list[Tensor], noise: Sequence[Tensor | None], *, steps: int
    ) -> Tensor:
        """Finest features of the next lead times, (steps * N, C, H, W); replaces the hidden states."""
        levels = cast(list[SamplerLevel], list(self.levels))
        recur: Callable[..., Tensor] = levels[-1].gru
        features = projected
        for index in reversed(range(len(levels))):
            level = levels[index]
            sequence = self._run(partial(recur, steps=steps), features, hidden[index])
            hidden[index] = sequence[-1]
            features = self._run(level.per_frame[:2], sequence.flatten(0, 1))
            features = level.textured(self._run(level.per_frame[2], features), noise[index])
            recur = levels[index - 1].recur
        return F.relu(self.norm(features))

    def _frames(self, features: Tensor, noise: Tensor | None, *, first: int, steps: int) -> Tensor:
        """Fields (N, steps, C, H, W) from the features of some lead times, with grain of their own."""
        frames = F.pixel_shuffle(self.output(features), 2)
        frames = _smoothed(frames) if self.smooth else frames
        frames = frames.unflatten(0, (steps, -1)).transpose(0, 1)
        if self.grain is None or noise is None:
            return frames
        amplitude = F.softplus(F.pixel_shuffle(self.grain(features), 2))
        # What is that fine does not last from one frame to the next: each has the noise of another place.
        lead_times = range(first + 1, first + steps + 1)
        grain = torch.stack([noise.roll((37 * n, 61 * n), dims=(-2, -1)) for n in lead_times], dim=1)
        return frames + amplitude.unflatten(0, (steps, -1)).transpose(0, 1) * grain

    def _run(self, layers: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return recomputed(layers, *inputs, norms=self)
        return layers(*inputs)


def _smoothed(frames: Tensor) -> Tensor:
    """Fields (N, C, H, W) without their shortest waves.

    Of a wave of L cells along an axis, 1 - sin(pi / L)^6 is left: nothing of 2 cells, 0.6 of 3, 0.9 of 4.
    """
    with torch.autocast(frames.device.type, enabled=False):
        fields = frames.float()
        taps = torch.tensor([1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0], device=fields.device) / 64
        taps[len(taps) // 2] += 1
        rows, columns = (smoothing_matrix(taps, length) for length in fields.shape[-2:])
        return rows @ fields @ columns.T
