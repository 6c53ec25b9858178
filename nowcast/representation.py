"""How a network sees rain, and what its output means: one place for training, validation and service.

Three choices, none of which the networks know of:

- ``transform``: ``rain_rate`` (mm/h, the paper) or ``square_root``; see `nowcast.transform`.
- ``output``: ``rain`` (the paper), or ``residual``: what the network puts out is added to the last frame of
  the context, in square-root space.
- ``frame``: ``fixed`` (the paper), or ``comoving``: the network sees rain that stands still. Context and
  targets are pulled along the estimated motion to where the rain is at the reference time, and forecasts
  are advected after the network. Pulling takes the nearest cell, which keeps the texture of the rain.

Fields are (B, T, H, W) in mm/h, NaN where there is no data; network values are (B, T, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from data_prep.schema import RefusedInput
from nowcast.motion import estimate_motion, sample, trajectories
from nowcast.transform import TransformName, refuse_unknown_transform, to_network, to_rain

OutputName = Literal["rain", "residual"]
FrameName = Literal["fixed", "comoving"]


@dataclass(frozen=True)
class Representation:
    """The three choices; see the module.

    Raises:
        RefusedInput: If a choice is unknown, or a residual is asked for without the square root.
    """

    transform: TransformName = "rain_rate"
    output: OutputName = "rain"
    frame: FrameName = "fixed"

    def __post_init__(self) -> None:
        refuse_unknown_transform(self.transform)
        for name, value, known in (("output", self.output, OutputName), ("frame", self.frame, FrameName)):
            if value not in get_args(known):
                raise RefusedInput(
                    f"{name} is one of {get_args(known)}", came=value, do="correct the configuration"
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
        return cls(transform=card["transform"], output=card["output"], frame=card["frame"])

    def card(self) -> dict[str, str]:
        """The choices as plain values."""
        return asdict(self)

    def motion(self, context: Tensor) -> Tensor | None:
        """Motion of the rain in a context, cells per step, (B, 2, H, W); none in the fixed frame."""
        return estimate_motion(context) if self.frame == "comoving" else None

    def pull_context(self, context: Tensor, motion: Tensor | None) -> Tensor:
        """Where the rain of each cell of the last frame was before; (B, T, H, W) in and out."""
        if motion is None:
            return context
        earlier = context[:, :-1].flip(1)
        return torch.cat([_pull(earlier, motion).flip(1), context[:, -1:]], dim=1)

    def encode(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """Network values of a context (B, T, H, W) in the network's frame, and the motion it follows."""
        motion = self.motion(context)
        return self.to_network(self.pull_context(context, motion)), motion

    def pull_future(self, future: Tensor, motion: Tensor | None) -> Tensor:
        """Where the rain of each cell of the last frame goes; (B, T, H, W) in and out."""
        return future if motion is None else _pull(future, -motion)

    def advect(self, parts: Iterator[Tensor], motion: Tensor | None, *, steps: int) -> Iterator[Tensor]:
        """Puts forecast rain where it is at its valid time.

        Args:
            parts: Rain of consecutive lead times in the network's frame, each part (B, some T, H, W).
            motion: What `motion` gave.
            steps: Number of lead times in all parts together.

        Yields:
            The parts, NaN where the rain would come from outside the field.
        """
        if motion is None:
            yield from parts
            return
        back = trajectories(motion, steps)
        for part in parts:
            moved = [sample(frame, next(back)) for frame in part.unbind(dim=1)]
            yield torch.stack(moved, dim=1)

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


def _pull(fields: Tensor, motion: Tensor) -> Tensor:
    """The value of step k at the place to which its rain is displaced k steps against the motion."""
    back = trajectories(motion, fields.shape[1])
    moved = [sample(field, next(back), nearest=True) for field in fields.unbind(dim=1)]
    return torch.stack(moved, dim=1)
