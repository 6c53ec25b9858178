"""The variables of netCDF (classic and netCDF4) and Zarr (v2 and v3), as they stand in the file.

Nothing is decoded here: packing, fill values and times are for the reader to judge. netCDF4 is read as the
HDF5 that it is, with h5py, which has its own lock.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr

from data_prep.readers import damaged, incomplete, open_content
from data_prep.readers.hdf5 import MAGIC as HDF5_MAGIC
from data_prep.readers.hdf5 import open_hdf5, read_part
from data_prep.readers.limits import LARGEST_GRID, whole
from data_prep.readers.netcdf_classic import MAGIC as CLASSIC_MAGIC
from data_prep.readers.netcdf_classic import read_classic
from data_prep.schema import RefusedInput

_SCALE_LABEL = b"This is a netCDF dimension but not a netCDF variable"
_BOOKKEEPING = frozenset({"DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Coordinates",
                          "_Netcdf4Dimid", "_NCProperties", "_ARRAY_DIMENSIONS"})  # fmt: skip
_ERRORS = (
    OSError,
    struct.error,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
)


class Variable(NamedTuple):
    """A variable of a file.

    Attributes:
        name: Its name.
        dims: Names of its dimensions.
        shape: Their lengths.
        dtype: As stored.
        attributes: Text, numbers, or tuples of them.
        values: What stands in the file, to be sliced by numbers and slices along its first dimensions.
        chunks: Lengths of the blocks that are read as a whole.
        default_fill: Whether the default fill value of netCDF marks no data.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attributes: dict[str, Any]
    values: Any
    chunks: tuple[int, ...]
    default_fill: bool

    def read(self, *index: int | slice) -> np.ndarray:
        """Read a part of the values.

        Raises:
            ValueError: If it is larger than `LARGEST_GRID`.
        """
        lengths = [
            len(range(*part.indices(length))) if isinstance(part, slice) else 1
            for part, length in zip(index, self.shape, strict=False)
        ]
        cells = math.prod([*lengths, *self.shape[len(index) :]])
        if max(cells, math.prod(self.chunks)) > LARGEST_GRID:
            raise ValueError(f"{self.name} {self.shape} in chunks {self.chunks}: too large to be true")
        return np.asarray(self.values[index])


class Source(NamedTuple):
    """An open file: its name, its global attributes and its variables."""

    path: Path
    attributes: dict[str, Any]
    variables: dict[str, Variable]


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder with a Zarr group."""
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def is_netcdf4(path: Path) -> bool:
    """Whether an HDF5 file is netCDF4: written by a netCDF library, or with its dimensions or conventions."""
    with _translated(path), open_hdf5(path) as file:
        if "_NCProperties" in file.attrs or _text(file.attrs.get("Conventions", "")).startswith("CF"):
            return True
        return any(item.is_scale for item in _datasets(file).values())


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a file; whatever goes wrong while it is read is refused by name.

    Raises:
        RefusedInput: If it is of none of the formats, or damaged.
    """
    with _translated(path), ExitStack() as stack:
        if path.is_dir():
            yield _zarr_source(path)
            return
        content = stack.enter_context(open_content(path))
        magic = content.read(8)
        if magic.startswith(CLASSIC_MAGIC):
            stream = whole(content, path) if isinstance(content, gzip.GzipFile) else content
            attributes, variables = read_classic(stream)
            yield Source(path, _plain(attributes), {
                name: Variable(name, v.dims, v.values.shape, v.values.dtype, _plain(v.attributes), v.values,
                               (), default_fill=True)
                for name, v in variables.items()
            })  # fmt: skip
        elif magic == HDF5_MAGIC:
            yield _hdf5_source(path, stack.enter_context(open_hdf5(path)))
        else:
            raise incomplete(path, f"it begins with {magic!r}, neither netCDF nor Zarr")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except RefusedInput:
        raise
    except MemoryError as error:
        raise damaged(path, "a header that asks for more than the memory") from error
    except _ERRORS as error:
        # What h5py and zarr raise for damaged metadata depends on which byte is wrong.
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Datasets of the root group; links to other files are not followed."""
    items = {name: file[name] for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)}
    return {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}


def _hdf5_source(path: Path, file: h5py.File) -> Source:
    datasets = _datasets(file)
    numbers = {
        int(item.attrs["_Netcdf4Dimid"]): name
        for name, item in datasets.items()
        if item.is_scale and "_Netcdf4Dimid" in item.attrs
    }
    variables = {}
    for name, item in datasets.items():
        if item.shape is None or item.attrs.get("NAME", b"").startswith(_SCALE_LABEL):
            continue
        attributes = {key: item.attrs[key] for key in item.attrs if key not in _BOOKKEEPING}
        # A variable that has the name of a dimension that is not its own is stored under another.
        plain = name.removeprefix("_nc4_non_coord_")
        dims = _hdf5_dims(name, item, numbers)
        variables[plain] = Variable(plain, dims, item.shape, item.dtype, _plain(attributes),
                                    _Stored(item), item.chunks or (), default_fill=True)  # fmt: skip
    return Source(path, _plain({k: file.attrs[k] for k in file.attrs if k not in _BOOKKEEPING}), variables)


class _Stored:
    """Values in HDF5, of which no more is read than they may be."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        return read_part(self._dataset, index)


def _hdf5_dims(name: str, item: h5py.Dataset, numbers: Mapping[int, str]) -> tuple[str, ...]:
    stated = np.atleast_1d(item.attrs.get("_Netcdf4Coordinates", ()))
    if len(stated) == item.ndim and all(int(number) in numbers for number in stated):
        return tuple(numbers[int(number)] for number in stated)
    if item.is_scale and item.ndim == 1:
        return (name,)
    scales = [list(dimension.values()) for dimension in item.dims]
    return tuple(s[0].name.rpartition("/")[2] if s else f"{name}_{n}" for n, s in enumerate(scales))


def _zarr_source(path: Path) -> Source:
    group = zarr.open_group(path, mode="r")
    variables = {}
    for name, array in group.arrays():
        attributes: dict[str, Any] = dict(array.attrs)
        if array.metadata.zarr_format == 2:
            dims = attributes.get("_ARRAY_DIMENSIONS")
            # The fill value of v2 is by custom that of CF; but 0 is what software fills in unasked, and dry.
            if array.fill_value is not None and array.fill_value != 0:
                attributes.setdefault("_FillValue", array.fill_value)
        else:
            dims = array.metadata.dimension_names
        if "_FillValue" in attributes:
            attributes["_FillValue"] = _zarr_number(attributes["_FillValue"])
        names = tuple(str(d) for d in dims or ()) if len(dims or ()) == array.ndim else ()
        names = names or tuple(f"{name}_{n}" for n in range(array.ndim))
        variables[name] = Variable(name, names, array.shape, array.dtype, _plain(attributes), array,
                                   array.chunks, default_fill=False)  # fmt: skip
    return Source(path, _plain(dict(group.attrs)), variables)


def _zarr_number(value: Any) -> Any:
    """A fill value in JSON: a number, its name ("NaN"), or as xarray writes it for floats, base64."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return struct.unpack("<d", base64.standard_b64decode(value))[0]
    except (struct.error, binascii.Error):
        return value


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes out of their wrapping: text as str, one number as a number, several as a tuple."""
    return {key: _unwrapped(value) for key, value in attributes.items() if key not in _BOOKKEEPING}


def _unwrapped(value: Any) -> Any:
    if isinstance(value, (str, bytes)):
        return _text(value)
    if isinstance(value, (np.ndarray, np.generic, list, tuple)):
        array = np.asarray(value)
        if array.dtype.kind in "SO" and array.size == 1:
            return _text(array.item())
        return array.item() if array.size == 1 else tuple(array.ravel().tolist())
    return value


def _text(value: Any) -> str:
    return _bytes(value).decode("utf-8", "replace").strip(" \0")


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
