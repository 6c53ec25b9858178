"""Generator of DGMR: context frames and latent noise in, one realization of the coming frames out.

Everything is fully convolutional, so any grid works. With n conditioning levels, one cell of the coarsest
features spans 2**(n + 1) cells of the field (32 for the paper's four levels); fields are padded to a multiple
and cropped.
Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, and its published pseudocode.
"""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nowcast.model.attention import AttentionOver
from nowcast.model.blocks import check_positive, normalized_once
from nowcast.model.drift import COMPONENTS, Drift
from nowcast.model.sampler import Sampler
from nowcast.model.stacks import ConditioningStack, LatentStack


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
        grain: whether white noise is added to every cell of the output, too, with an amplitude that the
            features give. z then has 4**(levels + 1) more channels, which texture shares.
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
        grain: bool = False,
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
            "grain": grain,
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
            grain=grain,
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
        channels = self.config["z_channels"] + self._spread**2
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

    @property
    def _spread(self) -> int:
        """Cells of white noise along a side of a cell of z."""
        return self.factor if self.config["grain"] else self.factor // 2 * self.config["texture"]

    def _split(self, z: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Noise of the latent stack; and white noise of unit variance, of the field and of every level."""
        levels = len(self.config["conditioning_channels"])
        coarse, spread_out = z.split((self.config["z_channels"], self._spread**2), dim=1)
        noise: list[Tensor | None] = [None] * (levels + 1)
        if self._spread:
            finest = F.pixel_shuffle(spread_out, self._spread)
            first = 0 if self.config["grain"] else 1
            pooled = [F.avg_pool2d(finest, 2**level) * 2**level for level in range(levels + 1 - first)]
            noise[first:] = pooled
        return coarse, noise

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
