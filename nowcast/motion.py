"""Motion of the rain, and advection along it. One implementation for CPU and GPU.

Fields are tensors (B, ..., H, W) in mm/h with NaN where there is no data. Motion is (B, 2, H, W) in cells per
time step: component 0 along x (columns), component 1 along y (rows, downwards).

The estimate is a coarse-to-fine Lucas-Kanade (Lucas and Kanade 1981; pyramid after Bouguet 2001) over all
consecutive pairs of the context at once, with robust weights, missing cells left out, and a pull towards the
surrounding motion where the rain says little. Advection is backward semi-Lagrangian (Germann and Zawadzki
2002, doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COARSEST = 24
"""Cells that the shorter side keeps at the top of the pyramid."""
WINDOW = 12.0
"""Standard deviation of the window that shares one motion, in cells of the pyramid level."""
FINEST_SCALE = 2
"""Cells that one cell of the pyramid's lowest level spans: finer rain does not last from frame to frame."""
ITERATIONS = 4
DAMPING = 0.05
"""Strength of the pull towards the surrounding motion, relative to the mean image gradient."""


def estimate_motion(frames: Tensor) -> Tensor:
    """Motion of the rain over a sequence of frames.

    Args:
        frames: Rain rate in mm/h, (B, T, H, W) with T >= 2, NaN where there is no data.

    Returns:
        Motion in cells per step, (B, 2, H, W); 0 everywhere in a sequence without rain.
    """
    height, width = frames.shape[-2:]
    valid = frames.isfinite()
    texture = torch.log1p(frames.nan_to_num(nan=0.0).clamp(min=0) / 0.1)
    scale = FINEST_SCALE
    scales = [scale]
    while min(height, width) // (scale * 2) >= COARSEST:
        scale *= 2
        scales.append(scale)
    motion = texture.new_zeros(texture.shape[0], 2, 1, 1)
    for scale in reversed(scales):
        level, weight = _shrink(texture, valid, scale)
        motion = _resize(motion, level.shape[-2:])
        motion = _refine(level, weight, motion / scale) * scale
    return _resize(motion, (height, width))


def advect(field: Tensor, motion: Tensor, steps: int) -> Tensor:
    """Carry a field along a steady motion.

    Args:
        field: mm/h, (B, H, W), NaN where there is no data.
        motion: Cells per step, (B, 2, H, W).
        steps: How many steps.

    Returns:
        (B, steps, H, W); NaN where the rain would come from outside the data.
    """
    return torch.stack([sample(field, back) for back in trajectories(motion, steps)], dim=1)


def trajectories(motion: Tensor, steps: int) -> Iterator[Tensor]:
    """Displacement from every cell back to where its rain was, for 1, 2, ... steps.

    Args:
        motion: Cells per step, (B, 2, H, W).
        steps: How many steps.

    Yields:
        (B, 2, H, W) in cells: the rain at ``p`` after n steps was at ``p - displacement``.
    """
    displacement = torch.zeros_like(motion)
    for _ in range(steps):
        step = motion
        for _ in range(2):  # the mid-point of the step, found by fixed-point iteration
            step = _sample_smooth(motion, step / 2)
        displacement = step + _sample_smooth(displacement, step)
        yield displacement


def sample(field: Tensor, displacement: Tensor, *, nearest: bool = False) -> Tensor:
    """Values of a field at ``p - displacement``: bilinear, or those of the nearest cell.

    Args:
        field: (B, H, W), NaN where there is no data.
        displacement: Cells, (B, 2, H, W).
        nearest: Whether to take the nearest cell, which smoothes nothing.

    Returns:
        (B, H, W); NaN outside the field, and where half or more of what a value is made of is missing.
    """
    valid = field.isfinite()
    planes = torch.stack([field.nan_to_num(nan=0.0), valid.to(field.dtype)], dim=1)
    mode = "nearest" if nearest else "bilinear"
    planes = F.grid_sample(planes, _grid(displacement), mode=mode, align_corners=True, padding_mode="zeros")
    value, weight = planes.unbind(dim=1)
    return torch.where(weight > 0.5, value / weight.clamp(min=0.5), torch.nan)


def _sample_smooth(vectors: Tensor, displacement: Tensor) -> Tensor:
    """Vectors (B, C, H, W) at ``p - displacement``, continued beyond the edge."""
    return F.grid_sample(vectors, _grid(displacement), align_corners=True, padding_mode="border")


def _grid(displacement: Tensor) -> Tensor:
    """Positions ``p - displacement`` in the units of `grid_sample`, (B, H, W, 2)."""
    height, width = displacement.shape[-2:]
    rows = torch.arange(height, device=displacement.device, dtype=displacement.dtype)
    columns = torch.arange(width, device=displacement.device, dtype=displacement.dtype)
    x = (columns[None, None, :] - displacement[:, 0]) * (2 / max(width - 1, 1)) - 1
    y = (rows[None, :, None] - displacement[:, 1]) * (2 / max(height - 1, 1)) - 1
    return torch.stack([x, y], dim=-1)


def _shrink(texture: Tensor, valid: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Block means over observed cells and the observed fraction, each (B, T, H/scale, W/scale)."""
    weight = F.avg_pool2d(valid.to(texture.dtype), scale, ceil_mode=True, count_include_pad=False)
    total = F.avg_pool2d(texture * valid, scale, ceil_mode=True, count_include_pad=False)
    # Both are smoothed, so that missing cells do not pull their neighbours towards dry.
    return _blur(total, 1.0) / _blur(weight, 1.0).clamp(min=1e-6), (weight > 0.5).to(texture.dtype)


def _refine(level: Tensor, weight: Tensor, motion: Tensor) -> Tensor:
    """Improve the motion at one pyramid level; level and weight (B, T, h, w), motion (B, 2, h, w)."""
    batch, frames = level.shape[:2]
    pairs = frames - 1
    earlier, later = level[:, :-1].flatten(0, 1), level[:, 1:].flatten(0, 1)
    pair_weight = weight[:, :-1].flatten(0, 1), weight[:, 1:].flatten(0, 1)
    for _ in range(ITERATIONS):
        repeated = motion.repeat_interleave(pairs, dim=0)
        moved = _sample_smooth(torch.stack([earlier, pair_weight[0]], dim=1), repeated)
        warped, known = moved[:, 0], moved[:, 1] * pair_weight[1]
        difference = warped - later
        x_gradient, y_gradient = _gradient((warped + later) / 2)
        known = known * _huber(difference, known)
        terms = torch.stack(
            [x_gradient**2, x_gradient * y_gradient, y_gradient**2, x_gradient * difference,
             y_gradient * difference], dim=1
        ) * known[:, None]  # fmt: skip
        terms = _blur(terms.unflatten(0, (batch, pairs)).mean(dim=1), WINDOW)
        motion = _solve(terms, motion)
    return motion


def _solve(terms: Tensor, motion: Tensor) -> Tensor:
    """Damped least squares for the change of motion, pulled towards the motion around."""
    xx, xy, yy, xd, yd = terms.unbind(dim=1)
    trace = xx + yy
    damping = DAMPING * trace.mean(dim=(1, 2), keepdim=True) + 1e-9
    confidence = (trace / (trace + damping))[:, None]
    around = _blur(motion * confidence, 2 * WINDOW) / (_blur(confidence, 2 * WINDOW) + 1e-6)
    pull = damping[:, None] * (around - motion)
    x_force, y_force = xd + pull[:, 0], yd + pull[:, 1]
    xx, yy = xx + damping, yy + damping
    determinant = (xx * yy - xy**2).clamp(min=1e-20)
    change = torch.stack(
        [(yy * x_force - xy * y_force) / determinant, (xx * y_force - xy * x_force) / determinant], dim=1
    )
    return motion + change.clamp(-2, 2)


def _huber(difference: Tensor, known: Tensor) -> Tensor:
    """Weights that keep single large differences (cells that grow, clutter) from ruling the estimate."""
    count = known.sum(dim=(-2, -1), keepdim=True).clamp(min=1)
    spread = (difference.abs() * known).sum(dim=(-2, -1), keepdim=True) / count
    return spread.clamp(min=1e-6) / difference.abs().clamp(min=spread.clamp(min=1e-6))


def _gradient(field: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, one-sided at the edges; (N, h, w)."""
    padded = F.pad(field[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def _resize(motion: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(motion, size=list(size), mode="bilinear", align_corners=False)


def _blur(field: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, C, h, w), edges continued."""
    height, width = field.shape[-2:]
    channels = field.flatten(0, 1)[:, None]
    for radius_limit, axis in ((width - 1, -1), (height - 1, -2)):
        radius = min(round(3 * sigma), radius_limit)
        position = torch.arange(-radius, radius + 1, device=field.device, dtype=field.dtype)
        kernel = torch.exp(-(position**2) / (2 * sigma**2))
        kernel = kernel / kernel.sum()
        pad = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
        shape = (1, 1, 1, -1) if axis == -1 else (1, 1, -1, 1)
        with torch.autocast(field.device.type, enabled=False):  # motion needs all the digits
            channels = F.conv2d(F.pad(channels, pad, mode="replicate"), kernel.reshape(shape))
    return channels[:, 0].unflatten(0, field.shape[:2])
