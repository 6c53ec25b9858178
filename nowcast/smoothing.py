"""Smoothing along an axis as a product with a matrix, which processors do faster than narrow convolutions."""

import torch
from torch import Tensor


def smoothing_matrix(kernel: Tensor, length: int) -> Tensor:
    """Matrix (length, length) that filters a column; what lies beyond an end counts as that end.

    Args:
        kernel: Weights of the cells from some before to as many after, (2 * radius + 1,).
        length: Cells of the column.
    """
    radius = len(kernel) // 2
    offset = torch.arange(-radius, radius + 1, device=kernel.device)
    neighbour = (torch.arange(length, device=kernel.device)[:, None] + offset).clamp(0, length - 1)
    return kernel.new_zeros(length, length).scatter_add_(1, neighbour, kernel.expand(length, -1))
