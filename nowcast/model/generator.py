"""Generator of DGMR: context frames and latent noise in, one realization of the coming frames out.

Everything is fully convolutional, so any grid works. With n conditioning levels, one cell of the coarsest
features spans 2**(n + 1) cells of the field (32 for the paper's four levels); fields are padded to a multiple
and cropped.
Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, and its published pseudocode.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nowcast.model.attention import AttentionOver
from nowcast.model.blocks import (
    GBlock,
    UpsampleGBlock,
    check_positive,
    normalized_once,
    recomputed,
    sn_conv2d,
)
from nowcast.model.conv_gru import ConvGRU
from nowcast.model.drift import COMPONENTS, Drift
from nowcast.model.stacks import ConditioningStack, LatentStack

SMOOTHING = 3
"""Cells on either side that the smoothing of the output takes in."""
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
            noise: what is added after each level, finest first, if anything.
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
                frames = self._advance(projected, hidden, noise, steps=steps)
            yield frames

    def _advance(
        self, projected: Tensor, hidden: list[Tensor], noise: Sequence[Tensor | None], *, steps: int
    ) -> Tensor:
        """Frames of the next lead times, (N, steps, C, H, W); replaces the hidden states by the new ones."""
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
        frames = F.pixel_shuffle(self.output(F.relu(self.norm(features))), 2)
        frames = _smoothed(frames) if self.smooth else frames
        return frames.unflatten(0, (steps, -1)).transpose(0, 1)

    def _run(self, layers: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return recomputed(layers, *inputs, norms=self)
        return layers(*inputs)


class Generator(nn.Module):
    """DGMR generator; the same context with another z gives another realization.

    Fields are in network units, with missing cells set to 0 by the caller. The output is linear: no
    activation is applied, so that the caller decides what a network value means. The noise z is always an
    argument. `config` holds the arguments as plain values: `Generator(**generator.config)` is built the same.

    Args:
        context_frames: number T of observed frames.
        lead_steps: number L of forecast frames.
        input_channels: channels of a context frame.
        output_channels: channels of a forecast frame.
        conditioning_channels: widths of the hidden states, finest level first; their number n sets the depth.
        latent_channels: widths of the L-blocks, at least two, from at least `z_channels` and not decreasing.
        z_channels: channels of the noise.
        frame_channels: widths of the D-blocks that see single context frames, one per level; None takes
            `conditioning_channels` (pseudocode). Several ports take half of these, (24, 48, 96, 192).
        frame_hidden_channels: widths inside these D-blocks; None takes those of their inputs (pseudocode).
        upsample_hidden_channels: widths inside the upsampling G-blocks, finest level first; None takes those
            of their outputs, `conditioning_channels` (pseudocode).
        attention_over: what attends to what in the latent stack: ``cells`` (pseudocode), or ``rows``, for
            weights of the public port; see `Attention`.
        drift: whether realizations also have motion errors of their own; see `velocity_error`.
        texture: whether white noise is added after every level of the sampler, down to 2 x 2 cells of the
            field, in learned directions. Without it a network that is to draw fine texture has nothing but
            coarse noise to make it from, and draws patterns. z then has 4**levels more channels.
        smooth: whether the shortest waves are taken from the output, where a pixel shuffle leaves a lattice.

    Raises:
        ValueError: if the sizes do not fit together, or `attention_over` is neither.
    """

    def __init__(  # noqa: PLR0913 (sizes)
        self,
        *,
        context_frames: int = 4,
        lead_steps: int = 18,
        input_channels: int = 1,
        output_channels: int = 1,
        conditioning_channels: tuple[int, ...] = (48, 96, 192, 384),
        latent_channels: tuple[int, ...] = (24, 48, 192, 768),
        z_channels: int = 8,
        frame_channels: tuple[int, ...] | None = None,
        frame_hidden_channels: tuple[int, ...] | None = None,
        upsample_hidden_channels: tuple[int, ...] | None = None,
        attention_over: AttentionOver = "cells",
        drift: bool = False,
        texture: bool = False,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "context_frames": context_frames,
            "lead_steps": lead_steps,
            "input_channels": input_channels,
            "output_channels": output_channels,
            "conditioning_channels": list(conditioning_channels),
            "latent_channels": list(latent_channels),
            "z_channels": z_channels,
            "frame_channels": None if frame_channels is None else list(frame_channels),
            "frame_hidden_channels": None if frame_hidden_channels is None else list(frame_hidden_channels),
            "upsample_hidden_channels": (
                None if upsample_hidden_channels is None else list(upsample_hidden_channels)
            ),
            "attention_over": attention_over,
            "drift": drift,
            "texture": texture,
            "smooth": smooth,
        }
        _check_widths(self.config)
        self.factor = 2 ** (1 + len(conditioning_channels))
        self.conditioning_stack = ConditioningStack(
            context_frames=context_frames,
            input_channels=input_channels,
            frame_channels=frame_channels or conditioning_channels,
            frame_hidden_channels=frame_hidden_channels,
            conditioning_channels=conditioning_channels,
        )
        self.latent_stack = LatentStack(
            z_channels=z_channels, latent_channels=latent_channels, attention_over=attention_over
        )
        self.sampler = Sampler(
            output_channels=output_channels,
            latent_channels=latent_channels[-1],
            conditioning_channels=conditioning_channels,
            upsample_hidden_channels=upsample_hidden_channels,
            texture=texture,
            smooth=smooth,
        )
        self.drift = Drift(conditioning_channels[-1]) if drift else None
        # In this layout the network is 1.6 times as fast on a CPU; it changes no value.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def fold(self) -> "Generator":
        """Replaces every spectrally normalised weight by its value: for inference, which then is faster.

        The network is put into evaluation mode and its weights no longer learn. Networks that were copied
        from one another share classes that this changes: fold a network that was built, not a copy.
        """
        self.eval().requires_grad_(requires_grad=False)
        for layer in self.modules():
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight")
        return self

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (z_channels, h, w) of the noise of one realization of a field of `height` x `width` cells.

        Raises:
            ValueError: if a side has no cell.
        """
        if min(height, width) < 1:
            raise ValueError(f"a field must have at least 1 x 1 cells, got {height} x {width}; give its size")
        channels = self.config["z_channels"] + (self.factor // 2) ** 2 * self.config["texture"]
        return channels, -(-height // self.factor), -(-width // self.factor)

    def encode(self, context: Tensor) -> list[Tensor]:
        """Computes what does not depend on z, once for all realizations.

        Args:
            context: (B, T, C, H, W) in network units, oldest frame first; padded with zeros below and to the
                right, up to the next multiple of `factor`.

        Returns:
            One state per level, finest first; the last is (B, conditioning_channels[-1], h, w) with h and w
            from `latent_shape`, and each finer one has twice the cells per side.

        Raises:
            ValueError: if the context has other frames or channels than the generator was built for.
        """
        expected = (self.config["context_frames"], self.config["input_channels"])
        if context.ndim != 5 or tuple(context.shape[1:3]) != expected:
            raise ValueError(
                f"a context must have shape (batch, {expected[0]} frames, {expected[1]} channels, height, "
                f"width), got {tuple(context.shape)}; select these, or build a generator for what came"
            )
        height, width = context.shape[-2:]
        padded = F.pad(context, (0, -width % self.factor, 0, -height % self.factor))
        with normalized_once(self.conditioning_stack):
            return self.conditioning_stack(padded)

    def stream(
        self,
        states: Sequence[Tensor],
        z: Tensor,
        *,
        size: tuple[int, int],
        lead_steps: int | None = None,
        steps_at_once: int = 1,
    ) -> Iterator[Tensor]:
        """Draws the realizations that belong to z, some lead times after the other.

        Args:
            states: what `encode` returned for a batch of B contexts.
            z: (N, z_channels, h, w) standard normal noise, N = B * M; noise n belongs to context n // M.
            size: (H, W), cells of the context.
            lead_steps: number L of lead times; None takes those the generator was built for.
            steps_at_once: number of lead times whose activations are in memory together.

        Yields:
            (N, steps, C, H, W) in network units, of the type of z.

        Raises:
            ValueError: if z, the states and the size do not fit together.
        """
        lead_steps = lead_steps or self.config["lead_steps"]
        realizations = self._realizations(states, z, size)
        coarse, noise = self._split(z)
        with normalized_once(self.latent_stack):
            latent = self.latent_stack(coarse)
        repeated = [state.repeat_interleave(realizations, dim=0) for state in states]
        steps = {"lead_steps": lead_steps, "steps_at_once": steps_at_once}
        for frames in self.sampler(latent, repeated, noise, **steps):
            yield frames[..., : size[0], : size[1]].to(z.dtype)

    def decode(self, states: Sequence[Tensor], z: Tensor, *, size: tuple[int, int]) -> Tensor:
        """All lead times at once, (N, L, C, H, W) in network units; arguments and errors as for `stream`."""
        with normalized_once(self.latent_stack), normalized_once(self.sampler):
            return next(self.stream(states, z, size=size, steps_at_once=self.config["lead_steps"]))

    def velocity_error(self, states: Sequence[Tensor], z: Tensor, *, size: tuple[int, int]) -> Tensor | None:
        """The motion error of the realizations that belong to z, if the network has any.

        The frames that `stream` yields do not contain it: who calls displaces frame n by n times this.

        Returns:
            (N, 2, H, W) in cells per step, x before y; None without `drift`.
        """
        if self.drift is None:
            return None
        state = states[-1].repeat_interleave(self._realizations(states, z, size), dim=0)
        smooth = F.interpolate(self.drift(state, z), scale_factor=self.factor, mode="bilinear")
        return smooth[..., : size[0], : size[1]]

    def forward(self, context: Tensor, z: Tensor) -> Tensor:
        """Maps context (B, T, C, H, W) and noise (B * M, z_channels, h, w) to (B * M, L, C, H, W)."""
        height, width = context.shape[-2:]
        return self.decode(self.encode(context), z, size=(height, width))

    def _split(self, z: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Noise of the latent stack, and white noise of unit variance for every level, finest first."""
        levels = len(self.config["conditioning_channels"])
        count = self.config["z_channels"]
        if not self.config["texture"]:
            return z, [None] * levels
        fine = F.pixel_shuffle(z[:, count:], self.factor // 2)
        return z[:, :count], [F.avg_pool2d(fine, 2**level) * 2**level for level in range(levels)]

    def _realizations(self, states: Sequence[Tensor], z: Tensor, size: tuple[int, int]) -> int:
        """Number M of realizations per context, once all shapes are known to agree."""
        expected = self.latent_shape(*size)
        if z.ndim != 4 or tuple(z.shape[1:]) != expected:
            raise ValueError(
                f"the noise of a field of {size[0]} x {size[1]} cells must have shape (N, *{expected}), "
                f"got {tuple(z.shape)}; draw z with latent_shape(height, width)"
            )
        if tuple(states[-1].shape[-2:]) != expected[1:]:
            raise ValueError(
                f"the states of a field of {size[0]} x {size[1]} cells must end at {expected[1:]} cells, "
                f"got {tuple(states[-1].shape[-2:])}; give the size of the context that was encoded"
            )
        batch = states[-1].shape[0]
        if z.shape[0] == 0 or z.shape[0] % batch:
            raise ValueError(
                f"the number of noise fields must be a multiple of the batch of {batch} contexts, "
                f"got {z.shape[0]}; draw the same number of realizations for each context"
            )
        return z.shape[0] // batch


def _smoothed(frames: Tensor) -> Tensor:
    """Fields (N, C, H, W) without their shortest waves.

    Of a wave of L cells along an axis, 1 - sin(pi / L)^6 is left: nothing of 2 cells, 0.6 of 3, 0.9 of 4.
    """
    taps = torch.tensor([1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0], device=frames.device) / 64
    taps[SMOOTHING] += 1
    padded = F.pad(frames.float().flatten(0, 1)[:, None], (SMOOTHING,) * 4, mode="replicate")
    with torch.autocast(frames.device.type, enabled=False):
        along_rows = F.conv2d(padded, taps[None, None, None])
        return F.conv2d(along_rows, taps[None, None, :, None]).unflatten(0, frames.shape[:2])[:, :, 0]


def _check_widths(config: dict[str, Any]) -> None:
    for name in ("context_frames", "lead_steps", "input_channels", "output_channels", "z_channels"):
        check_positive(name, [config[name]])
    for name in ("conditioning_channels", "latent_channels"):
        check_positive(name, config[name])
    if config["attention_over"] not in get_args(AttentionOver):
        raise ValueError(
            f"attention_over is one of {get_args(AttentionOver)}, got {config['attention_over']}; correct it"
        )
    if config["drift"] and config["z_channels"] < COMPONENTS:
        raise ValueError(
            f"drift needs {COMPONENTS} z_channels or more, got {config['z_channels']}; raise them"
        )
    levels = len(config["conditioning_channels"])
    for name in ("frame_channels", "frame_hidden_channels", "upsample_hidden_channels"):
        if config[name] is None:
            continue
        check_positive(name, config[name])
        if len(config[name]) != levels:
            raise ValueError(
                f"{name} must have one width per conditioning level, got {len(config[name])} for "
                f"{levels} levels; give both tuples the same length"
            )
    if len(config["latent_channels"]) < 2:
        raise ValueError(
            f"latent_channels must have at least two widths, as attention sits before the last L-block, "
            f"got {config['latent_channels']}; add a width"
        )
