"""A batch of radar windows as training sees it: checked, in the network's frame, in parts if need be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from data_prep.schema import RefusedInput
from nowcast.model.discriminators import draw_crop, draw_frames
from nowcast.representation import Representation


@dataclass(frozen=True)
class TrainingBatch:
    """Windows of one grid size, all tensors (B, some T, 1, H, W).

    Attributes:
        context: Network values of the context, in the network's frame, (B, T, C, H, W), rain first.
        real: Network values of what followed, likewise.
        target: What followed, mm/h, 0 where there is no data.
        mask: bool, True where the target is data.
    """

    context: Tensor
    real: Tensor
    target: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, batch: dict[str, Tensor], representation: Representation, *, context_frames: int, lead_steps: int
    ) -> TrainingBatch:
        """The batch of windows that `nowcast.training.crops.RadarCrops` gives.

        Raises:
            RefusedInput: If rain and mask disagree, windows are too short, or rates are negative or not
                finite.
        """
        context, future = observed_rain(batch, context_frames=context_frames, lead_steps=lead_steps)
        seen = seen_by(representation, batch).encode(context)
        future = representation.pull_future(future, seen.motion)
        mask = future.isfinite()[:, :, None]
        return cls(
            context=seen.values,
            real=representation.to_network(future),
            target=future.nan_to_num(nan=0.0)[:, :, None],
            mask=mask,
        )

    @property
    def last(self) -> Tensor:
        """Network value of the last frame of the context, (B, 1, 1, H, W)."""
        return self.context[:, -1:, :1]

    def parts(self, count: int) -> Iterator[TrainingBatch]:
        """The batch in `count` parts of (almost) the same number of windows, one after the other."""
        columns = [getattr(self, field.name).tensor_split(count) for field in fields(self)]
        yield from (TrainingBatch(*part) for part in zip(*columns, strict=True) if len(part[0]))

    def __len__(self) -> int:
        return len(self.context)


def seen_by(representation: Representation, batch: dict[str, Tensor]) -> Representation:
    """How a batch is to be taken: its windows may be in the network's frame already (``aligned``)."""
    return representation.aligned() if "aligned" in batch else representation


def observed_rain(batch: dict[str, Tensor], *, context_frames: int, lead_steps: int) -> tuple[Tensor, Tensor]:
    """Context and future of a batch, mm/h, (B, T, H, W) with NaN where there is no data.

    Raises:
        RefusedInput: As `TrainingBatch.of`.
    """
    rain, mask = batch["rain"], batch["mask"]
    if rain.ndim != 5 or rain.shape[2] != 1 or mask.shape != rain.shape or mask.dtype != torch.bool:
        raise RefusedInput(
            "a batch holds rain (B, T, 1, H, W) and a bool mask of its shape",
            came=f"{tuple(rain.shape)} and {mask.dtype} {tuple(mask.shape)}",
            do="give what RadarCrops gives",
        )
    frames = context_frames + lead_steps
    if rain.shape[1] < frames:
        raise RefusedInput(
            f"a window holds {frames} frames, context and lead times together",
            came=rain.shape[1],
            do="prepare the store with longer sampling.frames, or lower lead_steps",
        )
    wrong = mask & ~((rain >= 0) & rain.isfinite())
    if wrong.any():
        window, frame, _, row, column = (int(index) for index in wrong.nonzero()[0])
        raise RefusedInput(
            "rain rates are finite and not negative where the mask says data",
            came=f"{float(rain[window, frame, 0, row, column]):g} mm/h in window {window}, frame {frame}, "
            f"cell ({row}, {column})",
            do="nowcast check names the frames of the store",
        )
    known = torch.where(mask, rain, torch.nan)[:, :frames, 0]
    return known[:, :context_frames], known[:, context_frames:]


@dataclass(frozen=True)
class Draws:
    """The randomness of one step: noise, frames and crop.

    Several processes draw for all their windows together and keep their share, so that they do what one
    process would do with the whole batch.

    Attributes:
        z: Noise, (B, samples, z_channels, h, w).
        frames: Lead frames that the spatial discriminator looks at, (B, K).
        crop: First cell of the crop that the temporal discriminator looks at.
    """

    z: Tensor
    frames: Tensor
    crop: tuple[int, int]

    @classmethod
    def of(  # noqa: PLR0913 (sizes, and who draws)
        cls,
        windows: TrainingBatch,
        *,
        samples: int,
        latent_shape: tuple[int, int, int],
        spatial_frames: int,
        noise: torch.Generator,
        rank: int = 0,
        world_size: int = 1,
    ) -> Draws:
        """Draws for a batch with a generator of the CPU, which is in the same state in all processes."""
        count = len(windows) * world_size
        leads, height, width = windows.mask.shape[1], *windows.mask.shape[-2:]
        z = torch.randn(count, samples, *latent_shape, generator=noise)
        frames = draw_frames(
            count,
            context_frames=windows.context.shape[1],
            lead_steps=leads,
            count=spatial_frames,
            generator=noise,
        )
        own = slice(rank, None, world_size)
        return cls(z[own].to(windows.context), frames[own], draw_crop(height, width, generator=noise))

    def parts(self, count: int) -> Iterator[Draws]:
        """The draws of the parts of a batch; see `TrainingBatch.parts`."""
        for z, frames in zip(self.z.tensor_split(count), self.frames.tensor_split(count), strict=True):
            if len(z):
                yield Draws(z, frames, self.crop)
