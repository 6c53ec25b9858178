"""Opening HDF5 files, whose damage shows in many ways, and reading no more of them than they may hold.

A dataset may announce any size, be compressed several times over, or take its values from another file. What
is read here is bounded before the HDF5 library is asked for it: its filters inflate a chunk to whatever it
holds (HDF5 File Format Specification 3.0, section IV.A.2.l).
"""

from __future__ import annotations

import gzip
import itertools
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep.readers import damaged, incomplete, open_content
from data_prep.readers.limits import BLOCK, LARGEST_CONTENT, LARGEST_GRID, whole
from data_prep.schema import RefusedInput

MAGIC = b"\x89HDF\r\n\x1a\n"
LARGEST_SEARCH = 2**26
"""Bytes at the beginning of a file in which damaged heaps are looked for."""
MOST_CHUNKS = 2**18
"""That are read at once, each of which takes memory."""
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
"""By their numbers. Of others it is not known how large their output becomes."""
DEFLATE_RATIO = 1032
"""By which deflate shrinks at most (zlib, "Technical Details")."""

_HEAP = b"GCOL\x01\0\0\0"


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, looking through gzip; whatever goes wrong inside is refused by name.

    Raises:
        RefusedInput: If the file cannot be opened, is too large or damaged, or refers to other files.
    """
    with open_content(path) as content:
        inflated = whole(content, path) if isinstance(content, gzip.GzipFile) else None
        content.seek(0)
        start = content.read(LARGEST_SEARCH)
    try:
        _refuse_endless_heap(start)
        del start
        with h5py.File(inflated or path, "r") as file:
            _refuse_links(file)
            yield file
    except RefusedInput:
        raise
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, OverflowError,
            MemoryError, struct.error) as error:  # fmt: skip
        # What h5py raises for damaged metadata depends on which byte is wrong.
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def read_image(dataset: h5py.Dataset, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """All numbers of an image.

    Args:
        dataset: The image.
        shape: Of the grid that the header announces.
        path: The file, for the refusal.

    Raises:
        RefusedInput: If the image is of another shape, or of no numbers.
        ValueError: As `read_part`.
    """
    if dataset.shape != shape or dataset.dtype.kind not in "fui":
        raise incomplete(path, f"{dataset.name} is {dataset.dtype} of {dataset.shape} in a grid {shape}")
    return read_part(dataset, ())


def read_part(dataset: h5py.Dataset, index: tuple[int | slice, ...]) -> np.ndarray:
    """A part of a dataset, which is no larger than a grid may be and inflates to no more than its chunks.

    Args:
        dataset: Of numbers.
        index: Numbers and slices along the first dimensions; the others are read as a whole.

    Raises:
        ValueError: If it is larger, compressed in a way that is not known, lies in another file, or the file
            is cut short meanwhile.
    """
    if dataset.dtype.kind not in "fui" or dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} holds no numbers, or those of another file")
    parts = (*index, *[slice(None)] * (len(dataset.shape) - len(index)))
    spans = [
        part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        for part, length in zip(parts, dataset.shape, strict=True)
    ]
    cells = math.prod(len(range(*span)) for span in spans)
    chunk = dataset.chunks or ()
    if max(cells, math.prod(chunk)) > LARGEST_GRID:
        raise ValueError(f"{dataset.name} {dataset.shape} in chunks {chunk}: too large to be true")
    if chunk:
        _refuse_bombs(
            dataset, [(start // n * n, stop, n) for (start, stop, _), n in zip(spans, chunk, strict=True)]
        )
    values = np.asarray(dataset[index])
    file = dataset.file
    if file.driver == "sec2" and os.path.getsize(file.filename) < file.id.get_filesize():
        # The library reads zeros there.
        raise ValueError("the file was cut short while it was read")
    return values


def _refuse_bombs(dataset: h5py.Dataset, spans: list[tuple[int, int, int]]) -> None:
    """Refuse chunks that would inflate to more than their size.

    Args:
        dataset: With chunks.
        spans: Along each dimension the first chunk, the end and the length of a chunk, in cells.

    Raises:
        ValueError: If there is one, or more chunks than may be read at once, or filters that are not known.
    """
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(n)[0] for n in range(properties.get_nfilters())]
    if not set(filters) <= FILTERS.keys() or filters.count(1) > 1:
        raise ValueError(
            f"{dataset.name} is compressed by the filters {filters}; store it with deflate, once"
        )
    if math.prod(len(range(*span)) for span in spans) > MOST_CHUNKS:
        raise ValueError(f"{dataset.name} {dataset.shape} is in chunks of {dataset.chunks}, too many")
    if 1 not in filters:
        return
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    for place in itertools.product(*(range(*span) for span in spans)):
        stored = dataset.id.get_chunk_info_by_coord(place)
        if stored.byte_offset is None or stored.size * DEFLATE_RATIO <= LARGEST_CONTENT:
            continue
        if stored.size > 2 * size + BLOCK:
            raise ValueError(f"a chunk of {stored.size} bytes for {size}")
        if not stored.filter_mask & 1 << filters.index(1):
            _refuse_bomb(dataset.id.read_direct_chunk(place)[1], size)


def _refuse_bomb(compressed: bytes, size: int) -> None:
    inflater, total = zlib.decompressobj(), 0
    try:
        while compressed and not inflater.eof:
            total += len(inflater.decompress(compressed, BLOCK))
            compressed = inflater.unconsumed_tail
            if total > size:
                raise ValueError(f"a chunk that inflates to more than its {size} bytes")
    except zlib.error as error:
        raise ValueError(f"a chunk that cannot be inflated: {error}") from error


def _refuse_links(file: h5py.File) -> None:
    def elsewhere(name: bytes, link: Any) -> bytes | None:
        return name if link.type == h5py.h5l.TYPE_EXTERNAL else None

    found = file.id.links.visit(elsewhere, info=True)
    if found is not None:
        raise ValueError(f"{found!r} lies in another file")


def _refuse_endless_heap(content: bytes) -> None:
    """Refuse what the HDF5 library would never finish reading: a heap of texts with an object of no length.

    The layout is that of the HDF5 File Format Specification 3.0, section III.E (global heap).

    Raises:
        ValueError: If there is one.
    """
    if len(content) < 16:
        raise ValueError("the file ends within its first block")
    length_bytes = content[14] if content[8] < 2 else content[10]
    if length_bytes != 8:
        return
    heap = content.find(_HEAP)
    while heap >= 0:
        if heap + 16 > len(content):
            return
        (size,) = struct.unpack_from("<Q", content, heap + 8)
        place, end = heap + 16, min(heap + size, len(content))
        while place + 16 <= end:
            number, length = struct.unpack_from("<H6xQ", content, place)
            place += length if number == 0 else 16 + -(-length // 8) * 8
            if (number, length) == (0, 0) or place > heap + size:
                raise ValueError(f"the heap at byte {heap} has an object of {length} bytes")
        heap = content.find(_HEAP, heap + 8)
