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

from nowcast.model.attention import Attention, AttentionOver
from nowcast.model.blocks import (
    DBlock,
    GBlock,
    LBlock,
    UpsampleGBlock,
    check_positive,
    normalized_once,
    recomputed,
    sn_conv2d,
)
from nowcast.model.conv_gru import ConvGRU
from nowcast.model.drift import COMPONENTS, Drift


class ConditioningStack(nn.Module):
    """Turns the context into one initial hidden state per level of the sampler.

    Each frame goes through the same space-to-depth and D-blocks; at each level the features of all frames are
    concatenated (frame by frame) and mixed by an SN conv3x3 and a ReLU.

    Args:
        context_frames: number T of frames.
        input_channels: channels C per frame.
        frame_channels: widths of the D-blocks, finest level first.
        frame_hidden_channels: widths inside the D-blocks; None takes those of their inputs.
        conditioning_channels: widths of the states, finest level first.
    """

    def __init__(
        self,
        *,
        context_frames: int,
        input_channels: int,
        frame_channels: Sequence[int],
        frame_hidden_channels: Sequence[int] | None,
        conditioning_channels: Sequence[int],
    ) -> None:
        super().__init__()
        widths = [4 * input_channels, *frame_channels]
        self.blocks = nn.ModuleList(
            DBlock(width, wider, hidden_channels=hidden)
            for width, wider, hidden in zip(
                widths[:-1], widths[1:], frame_hidden_channels or widths[:-1], strict=True
            )
        )
        self.mixing = nn.ModuleList(
            sn_conv2d(context_frames * frame_width, width, 3)
            for frame_width, width in zip(frame_channels, conditioning_channels, strict=True)
        )

    def forward(self, context: Tensor) -> list[Tensor]:
        """Maps (B, T, C, H, W) to states (B, conditioning_channels[i], H / 2**(i + 2), ...), finest first."""
        batch, frames = context.shape[:2]
        features = F.pixel_unshuffle(context.flatten(0, 1), 2)
        states = []
        for block, mix in zip(self.blocks, self.mixing, strict=True):
            features = block(features)
            frame_by_frame = features.unflatten(0, (batch, frames)).flatten(1, 2)
            states.append(F.relu(mix(frame_by_frame)))
        return states


class LatentStack(nn.Module):
    """Turns latent noise into the input of the sampler: SN conv3x3, L-blocks, attention before the last one.

    Args:
        z_channels: channels of the noise.
        latent_channels: widths of the L-blocks, at least two, not decreasing.
        attention_over: see `Attention`.
    """

    def __init__(
        self, *, z_channels: int, latent_channels: Sequence[int], attention_over: AttentionOver
    ) -> None:
        super().__init__()
        widths = [z_channels, *latent_channels]
        blocks: list[nn.Module] = list(map(LBlock, widths[:-1], widths[1:]))
        blocks.insert(-1, Attention(widths[-2], over=attention_over))
        self.layers = nn.Sequential(sn_conv2d(z_channels, z_channels, 3), *blocks)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (N, z_channels, h, w) to (N, latent_channels[-1], h, w)."""
        return self.layers(z)


class SamplerLevel(nn.Module):
    """One resolution of the sampler: ConvGRU over the lead times, SN conv1x1, G-block, upsampling G-block.

    Args:
        input_channels: width of what comes from the coarser level.
        channels: width C of the hidden state and of the output; the blocks between work at 2 C.
        upsample_hidden_channels: width inside the upsampling G-block.
    """

    def __init__(self, input_channels: int, channels: int, *, upsample_hidden_channels: int) -> None:
        super().__init__()
        self.gru = ConvGRU(input_channels, channels)
        self.per_frame = nn.Sequential(
            sn_conv2d(channels, 2 * channels, 1),
            GBlock(2 * channels),
            UpsampleGBlock(2 * channels, channels, hidden_channels=upsample_hidden_channels),
        )

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
    ) -> None:
        super().__init__()
        widths = [*conditioning_channels, latent_channels]
        self.levels = nn.ModuleList(
            SamplerLevel(wider, width, upsample_hidden_channels=hidden)
            for wider, width, hidden in zip(
                widths[1:], widths[:-1], upsample_hidden_channels or conditioning_channels, strict=True
            )
        )
        self.norm = nn.BatchNorm2d(widths[0])
        self.output = sn_conv2d(widths[0], 4 * output_channels, 1)
        self.recompute = False

    def forward(
        self, latent: Tensor, states: Sequence[Tensor], *, lead_steps: int, steps_at_once: int
    ) -> Iterator[Tensor]:
        """Yields the frames of `steps_at_once` lead times after the other, (N, steps, C, H, W).

        Args:
            latent: (N, latent_channels, h, w), the input of the coarsest level at every lead time.
            states: hidden states before the first lead time, finest first, batch N.
            lead_steps: number of lead times.
            steps_at_once: number of lead times whose activations are in memory together.
        """
        hidden = list(states)
        coarsest = cast(SamplerLevel, self.levels[-1])
        with normalized_once(self):
            projected = coarsest.gru.project(latent.unsqueeze(0))
        for first in range(0, lead_steps, steps_at_once):
            with normalized_once(self):
                frames = self._advance(projected, hidden, steps=min(steps_at_once, lead_steps - first))
            yield frames

    def _advance(self, projected: Tensor, hidden: list[Tensor], *, steps: int) -> Tensor:
        """Frames of the next lead times, (N, steps, C, H, W); replaces the hidden states by the new ones."""
        levels = cast(list[SamplerLevel], list(self.levels))
        recur: Callable[..., Tensor] = levels[-1].gru
        features = projected
        for index in reversed(range(len(levels))):
            level = levels[index]
            sequence = self._run(partial(recur, steps=steps), features, hidden[index])
            hidden[index] = sequence[-1]
            features = self._run(level.per_frame[:2], sequence.flatten(0, 1))
            features = self._run(level.per_frame[2], features)
            recur = levels[index - 1].recur
        frames = F.pixel_shuffle(self.output(F.relu(self.norm(features))), 2)
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

    Raises:
        ValueError: if the sizes do not fit together, or `attention_over` is neither.
    """

    def __init__(
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
        return self.config["z_channels"], -(-height // self.factor), -(-width // self.factor)

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
        with normalized_once(self.latent_stack):
            latent = self.latent_stack(z)
        repeated = [state.repeat_interleave(realizations, dim=0) for state in states]
        for frames in self.sampler(latent, repeated, lead_steps=lead_steps, steps_at_once=steps_at_once):
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
        raise ValueError(f"drift needs {COMPONENTS} z_channels or more, got {config['z_channels']}; raise them")
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
