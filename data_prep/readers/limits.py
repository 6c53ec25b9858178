"""How large radar files may be. All readers ask here, before they read or allocate what a header announces.

A file that anyone may drop in a folder says of itself how large it is, and a compressed one is small however
much it holds. The limits leave room above what the archives of weather services need: the largest grid
known, of Finland at 250 m, has 36 million cells, the largest bundles a few gigabytes.

Two things are outside their reach: the chunks of a Zarr archive, which zarr decompresses to whatever they
hold before anyone can count, and what an importer of pysteps does with its file. The shape is checked there,
too.
"""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from data_prep.schema import RefusedInput

LARGEST_FILE = 2**34
"""Bytes of a file, as it lies on disk and, where it is read as a stream, decompressed."""
LARGEST_CONTENT = 2**29
"""Bytes of decompressed content that are in memory at once."""
LARGEST_GRID = 2**26
"""Cells of a grid."""
MOST_FRAMES = 10**6
"""Frames in a file: a year of a frame every minute is half of it."""
BLOCK = 2**20
"""Bytes that are decompressed at once to count them."""


def too_large(path: Path, finding: object) -> RefusedInput:
    """The refusal of a file beyond a limit."""
    return RefusedInput(
        "a radar file is within the limits of data_prep.readers.limits",
        came=f"{path} ({finding})",
        do="leave it out",
    )


def refuse_large_file(size: int, path: Path) -> None:
    """Refuse a file, or a stream of it, by the bytes it has.

    Raises:
        RefusedInput: If they are more than `LARGEST_FILE`.
    """
    if size > LARGEST_FILE:
        raise too_large(path, f"more than {LARGEST_FILE} bytes")


def refuse_large_grid(shape: Sequence[int], path: Path) -> None:
    """Refuse a grid by the rows and columns that a header announces.

    Raises:
        RefusedInput: If it has no cell, or more than `LARGEST_GRID`.
    """
    if min(shape) < 1 or math.prod(shape) > LARGEST_GRID:
        raise too_large(path, f"a grid of {' x '.join(map(str, shape))} cells, not of 1 to {LARGEST_GRID}")


def refuse_many_frames(count: int, path: Path) -> None:
    """Refuse a file by the number of its frames.

    Raises:
        RefusedInput: If they are more than `MOST_FRAMES`.
    """
    if count > MOST_FRAMES:
        raise too_large(path, f"{count} frames, more than {MOST_FRAMES}")


def whole(content: BinaryIO, path: Path) -> io.BytesIO:
    """All of an open file, in memory. A compressed one is counted first, so that a bomb takes no memory.

    Raises:
        RefusedInput: If it has more than `LARGEST_CONTENT` bytes.
    """
    size = 0
    content.seek(0)
    while piece := content.read(BLOCK):
        size += len(piece)
        if size > LARGEST_CONTENT:
            raise too_large(path, f"more than {LARGEST_CONTENT} bytes, decompressed")
    content.seek(0)
    # Not what has been appended since.
    return io.BytesIO(content.read(size))


class LimitedGzip(gzip.GzipFile):
    """The content of a gzip file, up to `LARGEST_FILE` bytes of it.

    Args:
        raw: The file, at its beginning.
        path: Its path, for the refusal.
    """

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._path = path

    def read(self, size: int | None = -1) -> bytes:
        """Decompress some bytes.

        Raises:
            RefusedInput: If they lie beyond the limit.
        """
        data = super().read(size)
        refuse_large_file(self.tell(), self._path)
        return data
