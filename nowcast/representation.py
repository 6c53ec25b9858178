"""How a network sees rain, and what its output means: one place for training, validation and service.

Four choices, none of which the networks know of:

- ``transform``: ``rain_rate`` (mm/h, the paper) or ``square_root``; see `nowcast.transform`.
- ``output``: ``rain`` (the paper), or ``residual``: what the network puts out is added to the last frame of
  the context, in square-root space.
- ``frame``: ``fixed`` (the paper), or ``comoving``: the network sees rain that stands still. Context and
  targets are pulled along the estimated motion to where the rain is at the reference time, and forecasts
  are advected after the network. Pulling takes the nearest cell, which keeps the texture of the rain.
- ``channels``: ``rain`` (the paper): missing cells of the context count as dry. Or ``rain_and_mask``: they
  take the value of the nearest frame that has one, later ones first, and a second channel tells which they
  are; there is a forecast wherever some frame of the context has data.

Fields are (B, T, H, W) in mm/h, NaN where there is no data; network values are (B, T, C, H, W), rain first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.schema import RefusedInput
from nowcast.motion import estimate_motion, sample, sample_continued, trajectories
from nowcast.transform import TransformName, refuse_unknown_transform, to_network, to_rain

COARSE = 8
"""Cells between those at which motion errors are looked up."""

OutputName = Literal["rain", "residual"]
FrameName = Literal["fixed", "comoving"]
ChannelsName = Literal["rain", "rain_and_mask"]


class Seen(NamedTuple):
    """A context as the network sees it."""

    values: Tensor
    """Network values, (B, T, C, H, W)."""
    observed: Tensor
    """Where there can be a forecast, bool (B, 1, H, W), in the network's frame."""
    motion: Tensor | None
    """Cells per step, (B, 2, H, W); none in the fixed frame."""

    @property
    def last(self) -> Tensor:
        """Network value of the rain of the last frame, (B, 1, 1, H, W)."""
        return self.values[:, -1:, :1]


@dataclass(frozen=True)
class Representation:
    """The four choices; see the module.

    Raises:
        RefusedInput: If a choice is unknown, or a residual is asked for without the square root.
    """

    transform: TransformName = "rain_rate"
    output: OutputName = "rain"
    frame: FrameName = "fixed"
    channels: ChannelsName = "rain"

    def __post_init__(self) -> None:
        refuse_unknown_transform(self.transform)
        for name, kind in (("output", OutputName), ("frame", FrameName), ("channels", ChannelsName)):
            if getattr(self, name) not in get_args(kind):
                raise RefusedInput(
                    f"{name} is one of {get_args(kind)}",
                    came=getattr(self, name),
                    do="correct the configuration",
                )
        if self.output == "residual" and self.transform != "square_root":
            raise RefusedInput(
                "a residual is added in square-root space",
                came=f"transform {self.transform}",
                do="set transform to square_root, or output to rain",
            )

    @classmethod
    def of(cls, card: dict[str, Any]) -> Representation:
        """The choices that the card of a network names (see `nowcast.weights`).

        Raises:
            KeyError: If it does not name them.
        """
        return cls(
            transform=card["transform"], output=card["output"], frame=card["frame"], channels=card["channels"]
        )

    def card(self) -> dict[str, str]:
        """The choices as plain values."""
        return asdict(self)

    @property
    def channel_count(self) -> int:
        """Channels of a context frame."""
        return 2 if self.channels == "rain_and_mask" else 1

    def refuse_other_channels(self, count: int) -> None:
        """Refuse a network that sees another number of channels.

        Raises:
            RefusedInput: If `count` differs.
        """
        if count != self.channel_count:
            raise RefusedInput(
                f"a network that sees {self.channels} has {self.channel_count} input_channels",
                came=count,
                do="set model.generator.init_args.input_channels or model.channels",
            )

    def aligned(self) -> Representation:
        """The same for rain that was pulled into the network's frame before."""
        return replace(self, frame="fixed")

    def motion(self, context: Tensor) -> Tensor | None:
        """Motion of the rain in a context, cells per step, (B, 2, H, W); none in the fixed frame."""
        return estimate_motion(context) if self.frame == "comoving" else None

    def pull_context(self, context: Tensor, motion: Tensor | None) -> Tensor:
        """Where the rain of each cell of the last frame was before; (B, T, H, W) in and out."""
        if motion is None:
            return context
        earlier = context[:, :-1].flip(1)
        return torch.cat([_pull(earlier, motion).flip(1), context[:, -1:]], dim=1)

    def encode(self, context: Tensor) -> Seen:
        """A context (B, T, H, W) as the network sees it, and the motion it follows."""
        motion = self.motion(context)
        pulled = self.pull_context(context, motion)
        if self.channels == "rain":
            return Seen(self.to_network(pulled), context[:, -1:].isfinite(), motion)
        filled = _filled(pulled)
        known = pulled.isfinite().to(pulled.dtype)
        values = torch.cat([self.to_network(filled), known[:, :, None]], dim=2)
        return Seen(values, filled[:, -1:].isfinite(), motion)

    def pull_future(self, future: Tensor, motion: Tensor | None) -> Tensor:
        """Where the rain of each cell of the last frame goes; (B, T, H, W) in and out."""
        return future if motion is None else _pull(future, -motion)

    def to_network(self, rain: Tensor) -> Tensor:
        """Rain (B, T, H, W) as network values (B, T, 1, H, W); missing cells become 0, as dry ones."""
        return to_network(rain, self.transform)[:, :, None]

    def from_network(self, output: Tensor, last: Tensor) -> Tensor:
        """Network values of the future from what the network puts out.

        Args:
            output: (..., B, T, 1, H, W), output of the generator.
            last: (B, 1, 1, H, W), network value of the last frame of the context.
        """
        return output + last if self.output == "residual" else output

    def to_rain(self, values: Tensor) -> Tensor:
        """Network values to rain in mm/h, any shape; negative values stay negative."""
        return to_rain(values, self.transform)


class Paths(NamedTuple):
    """Where the rain of every lead time comes from, the same for all realizations."""

    observed: Tensor
    """Where there can be a forecast in the network's frame, bool (B, H, W)."""
    back: list[Tensor] | None
    """Displacement from every cell back to where its rain was, cells, (B, 2, H, W) per lead time."""
    known: list[Tensor]
    """Where there can be a forecast at its valid time, bool (B, H, W) per lead time."""

    @classmethod
    def of(cls, seen: Seen, steps: int) -> Paths:
        """The paths of the next lead times from a context."""
        observed = seen.observed[:, 0]
        if seen.motion is None:
            return cls(observed, None, [observed] * steps)
        back = list(trajectories(seen.motion, steps))
        share = observed.to(seen.motion.dtype)
        return cls(observed, back, [sample(share, displacement) > 0.5 for displacement in back])

    def repeated(self, times: int) -> Paths:
        """The paths of several realizations of each context."""
        if times == 1:
            return self
        back = None if self.back is None else [item.repeat_interleave(times, dim=0) for item in self.back]
        known = [item.repeat_interleave(times, dim=0) for item in self.known]
        return Paths(self.observed.repeat_interleave(times, dim=0), back, known)

    def carry(self, parts: Iterator[Tensor], velocity_error: Tensor | None = None) -> Iterator[Tensor]:
        """Puts forecasts where they are at their valid time.

        Args:
            parts: Fields of consecutive lead times in the network's frame, each part (N, some T, H, W).
            velocity_error: Cells per step, (N, 2, H, W); none if realizations have none. Where there is a
                forecast does not depend on it.

        Yields:
            The parts, NaN where there can be no forecast.
        """
        step = 0
        for part in parts:
            moved = []
            for frame in part.unbind(dim=1):
                moved.append(self._carried(frame, velocity_error, step))
                step += 1
            yield torch.stack(moved, dim=1)

    def _carried(self, frame: Tensor, velocity_error: Tensor | None, step: int) -> Tensor:
        back = None if self.back is None else self.back[step]
        if velocity_error is None:
            here = torch.where(self.observed, frame, torch.nan)
            return here if back is None else sample(here, back)
        error = (step + 1) * velocity_error
        if back is None:
            back = torch.zeros_like(error)
        else:
            error = _followed(error, back)
        size = back.shape[-2:]
        moved = sample_continued(frame[:, None], back + error, size)[:, 0]
        # What an error would bring from where nothing was seen, or from beyond the field, stays without it.
        there = sample(self.observed.to(frame.dtype), back + error) > 0.5
        if not there.all():
            moved = torch.where(there, moved, sample_continued(frame[:, None], back, size)[:, 0])
        return torch.where(self.known[step], moved, torch.nan)


def _followed(error: Tensor, back: Tensor) -> Tensor:
    """Errors (B, 2, H, W) where the rain of each cell was, looked up as coarsely as they are smooth."""
    size = error.shape[-2:]
    coarse = [max(2, -(-length // COARSE)) for length in size]
    error, back = (
        F.interpolate(field, size=coarse, mode="bilinear", align_corners=True) for field in (error, back)
    )
    followed = sample_continued(error, back, size)
    return F.interpolate(followed, size=size, mode="bilinear", align_corners=True)


def pulled_along(frames: Tensor, *, context_frames: int) -> Tensor:
    """Frames (B, T, H, W) in the co-moving frame, along the motion that the first `context_frames` show."""
    comoving = Representation(frame="comoving")
    context, future = frames[:, :context_frames], frames[:, context_frames:]
    motion = comoving.motion(context)
    return torch.cat([comoving.pull_context(context, motion), comoving.pull_future(future, motion)], dim=1)


def drifted(values: Tensor, velocity_error: Tensor | None) -> Tensor:
    """Futures (N, L, 1, H, W) in the network's frame, frame n displaced by n velocity errors (N, 2, H, W)."""
    if velocity_error is None:
        return values
    steps = torch.arange(1, values.shape[1] + 1, device=values.device)[None, :, None, None, None]
    displacement = (velocity_error[:, None] * steps).flatten(0, 1)
    moved = sample_continued(values.flatten(0, 1).float(), displacement, values.shape[-2:])
    return moved.unflatten(0, values.shape[:2])


def _pull(fields: Tensor, motion: Tensor) -> Tensor:
    """The value of step k at the place to which its rain is displaced k steps against the motion."""
    back = trajectories(motion, fields.shape[1])
    moved = [sample(field, next(back), nearest=True) for field in fields.unbind(dim=1)]
    return torch.stack(moved, dim=1)


def _filled(context: Tensor) -> Tensor:
    """A context (B, T, H, W) whose missing cells have the value of the next frame with one, else the last."""
    frames = list(context.unbind(dim=1))
    for earlier in reversed(frames[:-1]):
        frames[-1] = torch.where(frames[-1].isnan(), earlier, frames[-1])
    for number in reversed(range(len(frames) - 1)):
        frames[number] = torch.where(frames[number].isnan(), frames[number + 1], frames[number])
    return torch.stack(frames, dim=1)
