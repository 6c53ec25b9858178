"""Rain between a grid of the user and one of the spacing that a network was trained on, and back.

Both grids cover the same area. Towards coarser cells rain is averaged over area, so that its amount stays.
Towards finer ones there are two ways:

- A context takes the value of the cell that a fine cell lies in. Peaks and amounts stay, and what comes back
  at once is what was given; bilinear values take away a third of a peak that is one cell wide and more.
- A forecast is interpolated bilinearly, so that it shows no blocks that nobody forecast.

Missing is never dry: values are made from the cells that have one, and are missing where half or more of what
they are made of is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from nowcast.forecaster import cell_size

FinerBy = Literal["nearest-exact", "bilinear"]


def size_at(array: xr.DataArray, shape: Sequence[int], spacing: float) -> tuple[int, int]:
    """Rows and columns of cells of about `spacing` m that cover as much as `shape` cells of an array."""
    width, height = cell_size(array)
    return max(1, round(shape[0] * height / spacing)), max(1, round(shape[1] * width / spacing))


def resampled(fields: Tensor, size: Sequence[int], *, finer_by: FinerBy) -> Tensor:
    """Fields on another grid over the same area.

    Args:
        fields: mm/h, (N, H, W), NaN where there is no data.
        size: Rows and columns wanted. An axis that gets fewer cells is averaged.
        finer_by: How values come to an axis that gets more cells.

    Returns:
        mm/h, (N, *size); NaN where half or more of what a value is made of is missing.
    """
    planes = torch.stack([fields.nan_to_num(nan=0.0), fields.isfinite().to(fields.dtype)], dim=1)
    fewer = [min(have, want) for have, want in zip(fields.shape[-2:], size, strict=True)]
    planes = F.interpolate(planes, size=fewer, mode="area")
    value, weight = F.interpolate(planes, size=list(size), mode=finer_by).unbind(dim=1)
    return torch.where(weight > 0.5, value / weight.clamp(min=0.5), torch.nan)
