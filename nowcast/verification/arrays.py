"""What the scores need of arrays, numpy's or torch's: one implementation for both, on any device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

Array = Any
"""numpy.ndarray or torch.Tensor."""
CELLS_AT_ONCE = 1 << 14
"""Cells that are worked on together: with some 20 members they stay in a core's cache."""
CELLS_AT_ONCE_ELSEWHERE = 1 << 22
"""The same on a GPU, where many small steps would cost more than memory."""


def namespace(array: Array) -> Any:
    """Numpy or torch; whoever holds a tensor has imported torch, and scores alone do not need it."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def like(values: np.ndarray, array: Array) -> Array:
    """Values as an array of the same kind and on the same device."""
    return (
        values if isinstance(array, np.ndarray) else namespace(array).as_tensor(values, device=array.device)
    )


def as_numpy(array: Array) -> np.ndarray:
    """The values in the memory of this machine."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def copied(row: Array) -> Array:
    """The values in memory of their own."""
    return row.copy() if isinstance(row, np.ndarray) else row.clone()


def device_of(array: Array) -> dict[str, Any]:
    """Argument that makes a new array on the device of another."""
    return {} if isinstance(array, np.ndarray) else {"device": array.device}


def floating(array: Array) -> Array:
    """The values as floating-point numbers: those that are stay as they are."""
    xp = namespace(array)
    is_floating = np.issubdtype(array.dtype, np.floating) if xp is np else array.is_floating_point()
    return array if is_floating else xp.asarray(array, dtype=xp.float32)


def blocks(count: int, array: Array) -> Iterator[slice]:
    """Slices of so many cells that are worked on one after another, so that memory stays small."""
    on_cpu = isinstance(array, np.ndarray) or array.device.type == "cpu"
    size = CELLS_AT_ONCE if on_cpu else CELLS_AT_ONCE_ELSEWHERE
    for first in range(0, count, size):
        yield slice(first, first + size)


def cells_of(mask: Array) -> Iterator[slice | Array]:
    """Places of the cells that count in the flattened field, block by block.

    Args:
        mask: True where the cell counts, (H, W).

    Yields:
        Slices or whole numbers to index with; one block that is empty if no cell counts.
    """
    flat = mask.reshape(-1)
    if bool(flat.all()):
        yield from blocks(flat.shape[0], mask)
        return
    places = places_of(flat)
    for block in blocks(max(places.shape[0], 1), mask):
        yield places[block]


def places_of(flags: Array) -> Array:
    """Places of what is true, (N,): to take those from many arrays this is faster than the flags."""
    return namespace(flags).argwhere(flags)[:, 0]


def sort_members(rows: list[Array]) -> list[Array]:
    """Members in ascending order, cell by cell.

    A sorting network (Batcher 1968, doi:10.1145/1468075.1468121) on whole rows: for an ensemble's few members
    that is several times faster than sorting every cell on its own.

    Args:
        rows: One array per member, all of one shape; they are overwritten.

    Returns:
        The rows, the smallest values first.
    """
    rows = list(rows)
    if len(rows) < 2:
        return rows
    xp = namespace(rows[0])
    spare = xp.empty_like(rows[0])
    for low, high in comparisons(len(rows)):
        xp.minimum(rows[low], rows[high], out=spare)
        xp.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows


@lru_cache(maxsize=64)
def comparisons(count: int) -> tuple[tuple[int, int], ...]:
    """Pairs to compare and exchange, in order, that sort any values: Batcher's odd-even merge sort."""
    pairs = []
    size = 1
    while size < count:
        step = size
        while step >= 1:
            for start in range(step % size, count - step, 2 * step):
                for low in range(start, min(start + step, count - step)):
                    if low // (2 * size) == (low + step) // (2 * size):
                        pairs.append((low, low + step))
            step //= 2
        size *= 2
    return tuple(pairs)
