"""Spatial and temporal discriminator of DGMR.

Both score sequences of context and lead frames, real or generated. Neither has batch norm: the paper reports
nearly identical results without it, and a dividing batch norm hides the score at small batches.
Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z (Methods), and its published pseudocode.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.model.blocks import DBlock, DBlock3d, check_positive, normalized_once

MIN_FRAMES = 4  # two 3-D D-blocks halve the number of frames twice


class SpatialDiscriminator(nn.Module):
    """Scores single lead frames at half resolution: does each look like radar?

    Args:
        input_channels: channels of a frame.
        channels: widths of the D-blocks; all but the last halve the grid.
    """

    def __init__(self, *, input_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(DBlock(4 * input_channels, channels[0], pre_activation=False))
        self.blocks.extend(_pre_activated(channels))
        self.head = nn.Linear(channels[-1], 1)

    def forward(self, sequence: Tensor, frames: Tensor) -> Tensor:
        """Sums the scores of the frames of sequence (N, T, C, H, W) at time indices (N, K); returns (N,)."""
        frames = frames.to(sequence.device)
        sample = torch.arange(len(sequence), device=sequence.device).unsqueeze(1)
        chosen = sequence[sample, frames].flatten(0, 1)
        with normalized_once(self):
            features = self.blocks(F.pixel_unshuffle(F.avg_pool2d(chosen, 2), 2))
            scores = _score(features, self.head)
        return scores.unflatten(0, tuple(frames.shape)).sum(dim=1)


class TemporalDiscriminator(nn.Module):
    """Scores a crop of the whole sequence at full resolution: does it move and change like radar?

    Args:
        input_channels: channels of a frame.
        channels: widths of the D-blocks; the first two are 3-D and halve time, too, all but the last halve
            the grid.
    """

    def __init__(self, *, input_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.blocks_3d = nn.Sequential(
            DBlock3d(4 * input_channels, channels[0], pre_activation=False),
            DBlock3d(channels[0], channels[1]),
        )
        self.blocks = nn.Sequential(*_pre_activated(channels[1:]))
        self.head = nn.Linear(channels[-1], 1)

    def forward(self, sequence: Tensor, crop: tuple[int, int]) -> Tensor:
        """Scores the H/2 x W/2 cells of sequence (N, T, C, H, W) from `crop` (row, column) on; gives (N,)."""
        height, width = sequence.shape[-2] // 2, sequence.shape[-1] // 2
        row, column = crop
        cropped = sequence[..., row : row + height, column : column + width]
        with normalized_once(self):
            features = self.blocks_3d(F.pixel_unshuffle(cropped, 2).transpose(1, 2))
            time_slots = features.transpose(1, 2)
            scores = _score(self.blocks(time_slots.flatten(0, 1)), self.head)
        return scores.unflatten(0, tuple(time_slots.shape[:2])).sum(dim=1)


class Discriminator(nn.Module):
    """Both discriminators; which frames and which crop they look at are arguments of each call.

    `config` holds the arguments as plain values: `Discriminator(**discriminator.config)` is built the same.

    Args:
        input_channels: channels of a frame.
        context_frames: number of frames at the start of a sequence that the spatial discriminator never sees.
        spatial_channels: widths of the D-blocks of the spatial discriminator, at least two.
        temporal_channels: widths of the D-blocks of the temporal discriminator, at least three.
        spatial_frames: number of lead frames that the spatial discriminator scores (all, if there are fewer).

    Raises:
        ValueError: if a size is not a positive whole number or a discriminator has too few blocks.
    """

    def __init__(
        self,
        *,
        input_channels: int = 1,
        context_frames: int = 4,
        spatial_channels: tuple[int, ...] = (48, 96, 192, 384, 768, 768),
        temporal_channels: tuple[int, ...] = (48, 96, 192, 384, 768, 768),
        spatial_frames: int = 8,
    ) -> None:
        super().__init__()
        for name, value in (
            ("input_channels", input_channels),
            ("context_frames", context_frames),
            ("spatial_frames", spatial_frames),
        ):
            check_positive(name, [value])
        _check_widths("spatial_channels", spatial_channels, at_least=2)
        _check_widths("temporal_channels", temporal_channels, at_least=3)
        self.config: dict[str, Any] = {
            "input_channels": input_channels,
            "context_frames": context_frames,
            "spatial_channels": list(spatial_channels),
            "temporal_channels": list(temporal_channels),
            "spatial_frames": spatial_frames,
        }
        self.spatial = SpatialDiscriminator(input_channels=input_channels, channels=spatial_channels)
        self.temporal = TemporalDiscriminator(input_channels=input_channels, channels=temporal_channels)

    def forward(self, sequence: Tensor, *, frames: Tensor, crop: tuple[int, int]) -> Tensor:
        """Scores sequences, higher for more real.

        Args:
            sequence: (N, T, C, H, W) in network units, context frames first.
            frames: (N, K) integer time indices of the lead frames to score, as `draw_frames` gives them.
            crop: (row, column) of the first cell of the H/2 x W/2 crop, as `draw_crop` gives it.

        Returns:
            (N, 2): spatial score (a sum over K frames) and temporal score (a sum over time slots).

        Raises:
            ValueError: if the sequence is too small for the number of blocks, or frames or crop lie outside.
        """
        self._check_sequence(sequence)
        self._check_frames(sequence, frames)
        _check_crop(sequence, crop)
        scores = [self.spatial(sequence, frames), self.temporal(sequence, crop)]
        return torch.stack(scores, dim=1).to(sequence.dtype)

    def _check_sequence(self, sequence: Tensor) -> None:
        channels = self.config["input_channels"]
        shortest = max(MIN_FRAMES, self.config["context_frames"] + 1)
        if sequence.ndim != 5 or sequence.shape[1] < shortest or sequence.shape[2] != channels:
            raise ValueError(
                f"a sequence must have shape (batch, at least {shortest} frames, {channels} channels, "
                f"height, width), got {tuple(sequence.shape)}; give context and lead frames together"
            )
        blocks = max(len(self.config["spatial_channels"]), len(self.config["temporal_channels"]))
        smallest = 4 * 2 ** (blocks - 1)
        height, width = sequence.shape[-2:]
        if height % 4 or width % 4 or min(height, width) < smallest:
            raise ValueError(
                f"discriminators of {blocks} blocks need sides of at least {smallest} cells, "
                f"in multiples of 4, got {height} x {width}; give larger crops or fewer widths"
            )

    def _check_frames(self, sequence: Tensor, frames: Tensor) -> None:
        first, end = self.config["context_frames"], sequence.shape[1]
        expected = (sequence.shape[0], min(self.config["spatial_frames"], end - first))
        if tuple(frames.shape) != expected or frames.min() < first or frames.max() >= end:
            raise ValueError(
                f"frames must have shape {expected} and lie in {first}..{end - 1}, "
                f"got shape {tuple(frames.shape)} with {frames.flatten().tolist()}; use draw_frames"
            )


def draw_frames(
    batch: int, *, context_frames: int, lead_steps: int, count: int, generator: torch.Generator | None
) -> Tensor:
    """Draws the lead frames that the spatial discriminator scores: distinct, and anew for each sample.

    Args:
        batch: number N of samples.
        context_frames: number of frames before the first lead time.
        lead_steps: number of lead times.
        count: number of frames to draw per sample; all of them if there are fewer lead times.
        generator: source of randomness; None takes torch's global one.

    Returns:
        (N, min(count, lead_steps)) time indices from context_frames to context_frames + lead_steps - 1, on
        the device of the generator.

    Raises:
        ValueError: if there is nothing to draw from.
    """
    check_positive("lead_steps and count", (lead_steps, count))
    device = "cpu" if generator is None else generator.device
    order = torch.rand(batch, lead_steps, generator=generator, device=device).argsort(dim=1)
    return order[:, :count] + context_frames


def draw_crop(height: int, width: int, *, generator: torch.Generator | None) -> tuple[int, int]:
    """Draws the first (row, column) of an H/2 x W/2 crop, uniform in 0..H/2-1 and 0..W/2-1.

    One crop serves a whole call: real and generated sequences are compared on the same cells.

    Args:
        height: cells H of the field, at least 2.
        width: cells W of the field, at least 2.
        generator: source of randomness; None takes torch's global one.

    Raises:
        ValueError: if a side has fewer than 2 cells.
    """
    check_positive("half of height and of width", (height // 2, width // 2))
    device = "cpu" if generator is None else generator.device
    row, column = (
        int(torch.randint(side // 2, (1,), generator=generator, device=device)) for side in (height, width)
    )
    return row, column


def _pre_activated(channels: Sequence[int]) -> list[DBlock]:
    """D-blocks from each width to the next; the last one keeps the grid."""
    steps = list(zip(channels[:-1], channels[1:], strict=True))
    return [DBlock(*step, downsample=index < len(steps) - 1) for index, step in enumerate(steps)]


def _score(features: Tensor, head: nn.Linear) -> Tensor:
    """Linear score of the ReLU features (N, C, h, w) summed over all cells; returns (N,)."""
    with torch.autocast(features.device.type, enabled=False):  # a hinge sees differences of a score
        return head(F.relu(features.float()).sum(dim=(-2, -1))).squeeze(1)


def _check_widths(name: str, channels: Sequence[int], *, at_least: int) -> None:
    check_positive(name, channels)
    if len(channels) < at_least:
        raise ValueError(f"{name} must have at least {at_least} widths, got {list(channels)}; add widths")


def _check_crop(sequence: Tensor, crop: tuple[int, int]) -> None:
    height, width = sequence.shape[-2:]
    if not (0 <= crop[0] <= height // 2 and 0 <= crop[1] <= width // 2):
        raise ValueError(
            f"a crop must start in 0..{height // 2}, 0..{width // 2} to fit into {height} x {width} cells, "
            f"got {tuple(crop)}; draw it with draw_crop"
        )
