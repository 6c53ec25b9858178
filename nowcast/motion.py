"""Motion of the rain, and advection along it. One implementation for CPU and GPU.

Fields are tensors (B, ..., H, W) in mm/h with NaN where there is no data. Motion is (B, 2, H, W) in cells per
time step: component 0 along x (columns), component 1 along y (rows, downwards).

The estimate is a coarse-to-fine Lucas-Kanade (Lucas and Kanade 1981; pyramid after Bouguet 2001) over all
consecutive pairs of the context at once, with robust weights, missing cells left out, and a pull towards the
surrounding motion where the rain says little. Advection is backward semi-Lagrangian (Germann and Zawadzki
2002, doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2).

Motion is as smooth as the window it is estimated in, so it is solved for, and followed back in time, on grids
that are `COARSENING` times as coarse as what it moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nowcast.smoothing import smoothing_matrix

COARSEST = 24
"""Cells that the shorter side keeps at the top of the pyramid."""
WINDOW = 12.0
"""Standard deviation of the window that shares one motion, in cells of the pyramid level."""
FINEST_SCALE = 2
"""Cells that one cell of the pyramid's lowest level spans: finer rain does not last from frame to frame."""
COARSENING = 2
"""Cells of a pyramid level, or of a field, that one cell of its motion spans."""
ITERATIONS = 4
DAMPING = 0.05
"""Strength of the pull towards the surrounding motion, relative to the mean image gradient."""
WET = 0.1
"""Rain rate from which a block of cells counts as wet when motion is judged, mm/h."""
FEWEST_WET = 10
"""Wet blocks from which rain has a shape to follow: of fewer, a cell that grows on one side looks as one that
moves, and the whole field would move with it."""
LEAST_CORRELATION = 0.4
"""Between frames and what was carried to them. Radar rain on 1 km after 5 min has 0.9, rain without any
connection up to 0.25, however well motion is fitted to it."""


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
    weight = valid.to(texture.dtype)
    texture = texture * weight
    scale = FINEST_SCALE
    scales = [scale]
    while min(height, width) // (scale * 2) >= COARSEST:
        scale *= 2
        scales.append(scale)
    motion = texture.new_zeros(texture.shape[0], 2, 1, 1)
    for scale in reversed(scales):
        level, known = _shrink(texture, weight, scale)
        motion = _refine(level, known, motion / scale) * scale
    return _resize(motion, (height, width))


def unknown_motion(frames: Tensor, motion: Tensor) -> str:
    """Why frames do not tell how the rain moves.

    Looked at are block means over `FINEST_SCALE` cells, where two consecutive frames have data. Two frames
    tell the motion if both hold `FEWEST_WET` wet blocks or more, and the earlier one, carried along the
    motion, correlates with the later one by `LEAST_CORRELATION` or more.

    Args:
        frames: mm/h, (T, H, W), NaN where there is no data.
        motion: What was estimated from them, cells per step, (2, H, W).

    Returns:
        The reason, or nothing if two frames or more tell the motion.
    """
    blocks = _pool(frames[None], FINEST_SCALE)[0]
    both = blocks[:-1].isfinite() & blocks[1:].isfinite()
    wet = torch.minimum(*(((part >= WET) & both).sum(dim=(1, 2)) for part in (blocks[:-1], blocks[1:])))
    if int(wet.max()) < FEWEST_WET:
        return f"no two frames with {FEWEST_WET} wet blocks of {FINEST_SCALE} x {FINEST_SCALE} cells or more"
    coarse = _pool(motion[None], FINEST_SCALE) / FINEST_SCALE
    displacement = next(trajectories(coarse, 1)).expand(len(both), -1, -1, -1)
    texture = torch.log1p(blocks / WET)
    moved = sample(texture[:-1], displacement)
    enough = wet >= FEWEST_WET
    related = [_correlation(*pair) for pair in zip(moved[enough], texture[1:][enough], strict=True)]
    if max(related) >= LEAST_CORRELATION:
        return ""
    return f"frames carried along an estimate correlate by {max(related):.2f} with those that followed"


def advect(field: Tensor, motion: Tensor, steps: int) -> Tensor:
    """Carry a field along a steady motion.

    Args:
        field: mm/h, (B, H, W), NaN where there is no data.
        motion: Cells per step, (B, 2, H, W), as smooth as `trajectories` takes it.
        steps: How many steps.

    Returns:
        (B, steps, H, W); NaN where the rain would come from outside the data.
    """
    planes = _planes(field)
    return torch.stack([_at(planes, back, mode="bilinear") for back in trajectories(motion, steps)], dim=1)


def between(earlier: Tensor, later: Tensor) -> Tensor:
    """The field half-way between two fields, along the motion from one to the other.

    Each is carried half of the way and what meets is averaged. Where `unknown_motion` has a reason, rain is
    taken to stand still.

    Args:
        earlier: mm/h, (H, W), NaN where there is no data.
        later: The same at the later time.

    Returns:
        mm/h, (H, W); where one of the two has no value, that of the other.
    """
    frames = torch.stack([earlier, later])
    motion = estimate_motion(frames[None])
    if unknown_motion(frames, motion[0]):
        motion = torch.zeros_like(motion)
    forth, back = advect(earlier[None], motion / 2, 1)[0, 0], advect(later[None], -motion / 2, 1)[0, 0]
    both = torch.stack([forth, back])
    return both.nanmean(dim=0)


def trajectories(motion: Tensor, steps: int) -> Iterator[Tensor]:
    """Displacement from every cell back to where its rain was, for 1, 2, ... steps.

    Args:
        motion: Cells per step, (B, 2, H, W), smooth over `COARSENING` cells, as `estimate_motion` gives it.
        steps: How many steps.

    Yields:
        (B, 2, H, W) in cells: the rain at ``p`` after n steps was at ``p - displacement``.
    """
    size = motion.shape[-2:]
    coarse = [max(2, -(-(length - 1) // COARSENING) + 1) for length in size]
    # The corners of both grids coincide, so that positions in units of `grid_sample` mean the same in both.
    motion = F.interpolate(motion, size=coarse, mode="bilinear", align_corners=True)
    displacement = torch.zeros_like(motion)
    for _ in range(steps):
        step = motion
        for _ in range(2):  # the mid-point of the step, found by fixed-point iteration
            step = sample_continued(motion, step / 2, size)
        displacement = step + sample_continued(displacement, step, size)
        yield F.interpolate(displacement, size=size, mode="bilinear", align_corners=True)


def sample(field: Tensor, displacement: Tensor, *, nearest: bool = False) -> Tensor:
    """Values of a field at ``p - displacement``: bilinear, or those of the nearest cell.

    Args:
        field: (B, H, W), NaN where there is no data.
        displacement: Cells, (B, 2, H, W).
        nearest: Whether to take the nearest cell, which smoothes nothing.

    Returns:
        (B, H, W); NaN outside the field, and where half or more of what a value is made of is missing.
    """
    return _at(_planes(field), displacement, mode="nearest" if nearest else "bilinear")


def sample_continued(fields: Tensor, displacement: Tensor, size: Sequence[int]) -> Tensor:
    """Fields without missing cells at ``p - displacement``, continued beyond the edge.

    Args:
        fields: (B, C, h, w).
        displacement: (B, 2, h', w'), in cells of a field of `size`.
        size: Rows and columns of the field that both are spread over.

    Returns:
        (B, C, h', w').
    """
    return F.grid_sample(fields, _grid(displacement, size), align_corners=True, padding_mode="border")


def _planes(field: Tensor) -> Tensor:
    """Rain, 0 where there is no data, and 1 where there is; (B, 2, H, W)."""
    return torch.stack([field.nan_to_num(nan=0.0), field.isfinite().to(field.dtype)], dim=1)


def _at(planes: Tensor, displacement: Tensor, *, mode: str) -> Tensor:
    grid = _grid(displacement, planes.shape[-2:])
    value, weight = F.grid_sample(planes, grid, mode=mode, align_corners=True, padding_mode="zeros").unbind(
        dim=1
    )
    return torch.where(weight > 0.5, value / weight.clamp(min=0.5), torch.nan)


def _grid(displacement: Tensor, size: Sequence[int]) -> Tensor:
    """Positions ``p - displacement`` in the units of `grid_sample`, (B, h, w, 2).

    Args:
        displacement: (B, 2, h, w), in cells of a field of `size`, at points spread evenly over that field.
        size: Rows and columns of the field.
    """
    rows, columns = (
        torch.linspace(-1, 1, count, device=displacement.device, dtype=displacement.dtype)
        for count in displacement.shape[-2:]
    )
    x = columns[None, None, :] - displacement[:, 0] * (2 / max(size[1] - 1, 1))
    y = rows[None, :, None] - displacement[:, 1] * (2 / max(size[0] - 1, 1))
    return torch.stack([x, y], dim=-1)


def _shrink(texture: Tensor, weight: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Block means over observed cells, and which blocks are observed, each (B, T, H/scale, W/scale)."""
    total, weight = _pool(texture, scale), _pool(weight, scale)
    # Both are smoothed, so that missing cells do not pull their neighbours towards dry.
    return _blur(total, 1.0) / _blur(weight, 1.0).clamp(min=1e-6), (weight > 0.5).to(texture.dtype)


def _refine(level: Tensor, weight: Tensor, motion: Tensor) -> Tensor:
    """Improve the motion at one pyramid level.

    Args:
        level: Texture, (B, T, h, w).
        weight: 1 where it is observed, (B, T, h, w).
        motion: Cells of the level per step, (B, 2, any, any).

    Returns:
        (B, 2, h / COARSENING, w / COARSENING).
    """
    batch, frames = level.shape[:2]
    pairs, size = frames - 1, level.shape[-2:]
    earlier, later = level[:, :-1].flatten(0, 1), level[:, 1:].flatten(0, 1)
    known_earlier, known_later = weight[:, :-1].flatten(0, 1), weight[:, 1:].flatten(0, 1)
    planes = torch.stack([earlier, known_earlier], dim=1)
    motion = _resize(motion, [-(-length // COARSENING) for length in size])
    for _ in range(ITERATIONS):
        displacement = _resize(motion, size).repeat_interleave(pairs, dim=0)
        warped, known = sample_continued(planes, displacement, size).unbind(dim=1)
        difference = warped - later
        x_gradient, y_gradient = _gradient((warped + later) / 2)
        known = known * known_later
        known = known * _huber(difference, known)
        terms = torch.stack(
            [x_gradient**2, x_gradient * y_gradient, y_gradient**2, x_gradient * difference,
             y_gradient * difference], dim=1
        ) * known[:, None]  # fmt: skip
        terms = _pool(terms.unflatten(0, (batch, pairs)).mean(dim=1), COARSENING)
        motion = _solve(_blur(terms, WINDOW / COARSENING), motion)
    return motion


def _solve(terms: Tensor, motion: Tensor) -> Tensor:
    """Damped least squares for the change of motion, pulled towards the motion around."""
    xx, xy, yy, xd, yd = terms.unbind(dim=1)
    trace = xx + yy
    damping = DAMPING * _total(trace) / trace[0].numel() + 1e-9
    confidence = (trace / (trace + damping))[:, None]
    wide = 2 * WINDOW / COARSENING
    around = _blur(motion * confidence, wide) / (_blur(confidence, wide) + 1e-6)
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
    spread = _total(difference.abs() * known) / _total(known).clamp(min=1)
    return spread.clamp(min=1e-6) / difference.abs().clamp(min=spread.clamp(min=1e-6))


def _total(field: Tensor) -> Tensor:
    """Sum over rows and columns, (..., 1, 1): in two steps, each the same with any number of threads."""
    return field.sum(dim=-1, keepdim=True).sum(dim=-2, keepdim=True)


def _correlation(first: Tensor, second: Tensor) -> float:
    """Over the cells where both have a value; 0 where it is not defined."""
    known = first.isfinite() & second.isfinite()
    if int(known.sum()) < 2:
        return 0.0
    return float(torch.corrcoef(torch.stack([first[known], second[known]]))[0, 1].nan_to_num(nan=0.0))


def _gradient(field: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, one-sided at the edges; (N, h, w)."""
    padded = F.pad(field[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def _pool(field: Tensor, size: int) -> Tensor:
    """Means over blocks of cells, those at the edges smaller where it does not come out even."""
    return F.avg_pool2d(field, size, ceil_mode=True, count_include_pad=False)


def _resize(motion: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(motion, size=list(size), mode="bilinear", align_corners=False)


def _blur(field: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, C, h, w), edges continued."""
    rows, columns = (_smoothing(length, sigma, like=field) for length in field.shape[-2:])
    with torch.autocast(field.device.type, enabled=False):  # motion needs all the digits
        return rows @ field @ columns.T


def _smoothing(length: int, sigma: float, *, like: Tensor) -> Tensor:
    """Matrix (length, length) of a Gaussian that is cut off at three standard deviations."""
    radius = min(round(3 * sigma), length - 1)
    offset = torch.arange(-radius, radius + 1, device=like.device)
    kernel = torch.exp(-(offset.to(like.dtype) ** 2) / (2 * sigma**2))
    return smoothing_matrix(kernel / kernel.sum(), length)
