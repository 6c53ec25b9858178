"""Opening HDF5 files, whose damage shows in many ways."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from data_prep.readers import damaged, open_content
from data_prep.schema import RefusedInput

MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, looking through gzip; whatever goes wrong inside is refused by name.

    Raises:
        RefusedInput: If the file cannot be opened or is damaged.
    """
    with open_content(path) as content:
        source = io.BytesIO(content.read()) if isinstance(content, gzip.GzipFile) else path
    try:
        with h5py.File(source, "r") as file:
            yield file
    except RefusedInput:
        raise
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        # What h5py raises for damaged metadata depends on which byte is wrong.
        raise damaged(path, error) from error
