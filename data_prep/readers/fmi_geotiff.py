"""FMI radar composites as GeoTIFF: reflectivity of Finland, 8 bits, 250 m.

Gain, offset, no data, undetect and the observation time stand in XML inside the private tag 42112 of GDAL, in
older files as an XML text inside an item of that XML; the standard tag of no data is absent (Finnish
Meteorological Institute, open data, "Radar data"). The tag is read here without GDAL, so that neither the
detection nor the time needs it.
"""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import (
    damaged,
    frame,
    in_nanoseconds,
    incomplete,
    locate,
    open_content,
    single_frame_reader,
)
from data_prep.readers.limits import LARGEST_CONTENT, refuse_large_grid, whole
from data_prep.schema import RefusedInput, map_coordinates

GDAL_METADATA = 42112
"""Number of the TIFF tag."""
KEYS = {"Observation time", "Quantity", "Gain", "Offset", "Nodata", "Undetect"}
LARGEST_METADATA = 65536
"""Bytes."""

_MAGIC = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_ASCII = 2
# In this order: a mark of the file, the number of entries, one entry and the size of the value field.
_CLASSIC = ("I", "H", "HHI", 4)
_BIG = ("Q", "Q", "HHQ", 8)


class _Item(NamedTuple):
    text: str
    unit: str


class _Grid(NamedTuple):
    """Geometry of the grid; metres."""

    shape: tuple[int, int]
    crs: str
    corner: tuple[float, float]
    spacing: tuple[float, float]


def detect(head: bytes, path: Path) -> bool:
    """Whether a file is a TIFF with the observation time and calibration of FMI in its metadata."""
    if head[:4] not in _MAGIC:
        return False
    with open_content(path) as content:
        return _metadata(content, path).keys() >= KEYS


def read_time(path: Path) -> np.datetime64:
    """Observation time, UTC.

    Raises:
        RefusedInput: If the file is damaged or its header does not say it.
    """
    with open_content(path) as content:
        return _time(_metadata(content, path), path)


def read(path: Path) -> xr.DataArray:
    """Reflectivity.

    Returns:
        A frame, dims (y, x), dBZ, NaN where there is no data, -inf where there is no echo.

    Raises:
        RefusedInput: If the file is damaged, holds another quantity, lacks something in its header, or
            rasterio is not installed.
    """
    with open_content(path) as content:
        items = _metadata(content, path)
    time, table = _time(items, path), _reflectivity(items, path)
    with _open(path) as dataset:
        grid = _grid(dataset, path)
        values = _values(dataset, table, path)
    coordinates = locate(_coordinates, grid, path)
    attributes = {"long_name": "radar reflectivity", "units": "dBZ"}
    return frame(values, time=time, coordinates=coordinates, attributes=attributes)


READER = single_frame_reader("fmi_geotiff", detect, read_time, read)


def _metadata(content: BinaryIO, path: Path) -> dict[str, _Item]:
    """The items of the metadata by name; none where the file has no such tag."""
    try:
        text = _tag(content)
        items = _items(text) if text else {}
        if "GDAL_METADATA" in items:
            # Escaped twice: the parser has undone it once.
            items = _items(unescape(items["GDAL_METADATA"].text, {"&quot;": '"', "&apos;": "'"}))
    except (struct.error, ValueError, OverflowError, ElementTree.ParseError) as error:
        raise damaged(path, f"TIFF metadata: {error}") from error
    return items


def _tag(content: BinaryIO) -> str:
    """Text of the tag `GDAL_METADATA` in the first directory of a TIFF, or nothing.

    Raises:
        ValueError: If the directory or the text does not end within the file.
    """
    magic = content.read(4)
    if magic not in _MAGIC:
        raise ValueError(f"it begins with {magic!r}")
    order = _MAGIC[magic]
    mark, count, entry, width = _BIG if b"+" in magic else _CLASSIC
    if width == _BIG[-1]:
        content.read(4)
    _seek(content, content.read(width), order + mark)
    (entries,) = _unpack(content, order + count)
    for _ in range(min(entries, LARGEST_METADATA)):
        tag, kind, size = _unpack(content, order + entry)
        value = content.read(width)
        if tag == GDAL_METADATA and kind == _ASCII and width < size <= LARGEST_METADATA:
            _seek(content, value, order + mark)
            text = content.read(size)
            if len(text) != size:
                raise ValueError("the file ends within its metadata")
            return text.rstrip(b"\0").decode("utf-8")
    return ""


def _seek(content: BinaryIO, value: bytes, layout: str) -> None:
    (offset,) = struct.unpack(layout, value)
    if offset > LARGEST_CONTENT:
        raise ValueError(f"an offset of {offset} bytes")
    content.seek(offset)


def _unpack(content: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, content.read(struct.calcsize(layout)))


def _items(text: str) -> dict[str, _Item]:
    """Items of GDAL's XML by name.

    Raises:
        ValueError: If there is a document type or an entity in it, which could grow without bound.
    """
    if "<!" in text:
        raise ValueError("a document type declaration")
    root = ElementTree.fromstring(text)
    return {
        item.get("name", ""): _Item((item.text or "").strip(), item.get("unit", ""))
        for item in root.iter("Item")
    }


def _item(items: dict[str, _Item], key: str, path: Path) -> _Item:
    if key not in items:
        raise incomplete(path, f"no item {key!r} in tag {GDAL_METADATA}")
    return items[key]


def _number(items: dict[str, _Item], key: str, path: Path) -> float:
    text = _item(items, key, path).text
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise incomplete(path, f"{key} is {text!r}, not a number")
    return number


def _time(items: dict[str, _Item], path: Path) -> np.datetime64:
    text = _item(items, "Observation time", path).text
    match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})(\d{2})(\d{2})", text, re.ASCII)
    try:
        year, month, day, hour, minute = match.groups() if match else ()
        return in_nanoseconds(np.datetime64(f"{year}-{month}-{day}T{hour}:{minute}", "s"))
    except ValueError as error:
        raise incomplete(path, f"Observation time is {text!r}, not YYYYMMDDhhmm") from error


def _reflectivity(items: dict[str, _Item], path: Path) -> np.ndarray:
    """Reflectivity of each of the 256 pixel values, dBZ, float32."""
    quantity = _item(items, "Quantity", path)
    if quantity != ("Corrected reflectivity", "dBZ"):
        raise incomplete(path, f"{quantity.text} in {quantity.unit!r}, not Corrected reflectivity in dBZ")
    gain, offset = _number(items, "Gain", path), _number(items, "Offset", path)
    marks = _number(items, "Undetect", path), _number(items, "Nodata", path)
    if gain <= 0 or marks[0] == marks[1] or not all(mark in range(256) for mark in marks):
        raise incomplete(path, f"gain {gain:g}, undetect and no data {marks}, not above 0 and in 0..255")
    with np.errstate(over="ignore"):
        table = (np.arange(256) * gain + offset).astype(np.float32)
    if not np.isfinite(table).all():
        raise incomplete(path, f"gain {gain:g} and offset {offset:g} make no finite dBZ")
    table[int(marks[0])], table[int(marks[1])] = -np.inf, np.nan
    return table


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file as a rasterio dataset."""
    try:
        import rasterio  # type: ignore[import-untyped]
        from rasterio._err import CPLE_BaseError  # type: ignore[import-untyped]
    except ImportError as error:
        raise RefusedInput(
            "rasterio reads GeoTIFF",
            came=f"{path}, and rasterio is not installed",
            do="pip install -e '.[geotiff]' in the checkout",
        ) from error
    with open_content(path) as content:
        source = whole(content, path) if isinstance(content, gzip.GzipFile) else path
    try:
        # Without its folder: a file beside this one must not change what it says.
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED=False),
            rasterio.open(source, driver="GTiff") as dataset,
        ):
            yield dataset
    except RefusedInput:
        raise
    except (rasterio.errors.RasterioError, CPLE_BaseError, ValueError, OverflowError, MemoryError) as error:
        raise damaged(path, error) from error


def _grid(dataset: Any, path: Path) -> _Grid:
    transform, crs = dataset.transform, dataset.crs
    refuse_large_grid(dataset.shape, path)
    # GDAL decodes a block as a whole, however little of it lies on the grid.
    refuse_large_grid(dataset.block_shapes[0], path)
    if dataset.count != 1 or dataset.dtypes[0] != "uint8":
        raise incomplete(path, f"{dataset.count} band(s) of {dataset.dtypes[0]}, not one of uint8")
    upright = (transform.b, transform.d) == (0, 0) and transform.a > 0 > transform.e
    if crs is None or not upright or not np.isfinite(transform[:6]).all():
        raise incomplete(path, f"CRS {crs} and transform {transform[:6]}, not north up and west left")
    return _Grid(
        shape=(dataset.height, dataset.width),
        crs=crs.to_wkt(),
        corner=(transform.c, transform.f),
        spacing=(transform.a, transform.e),
    )


def _values(dataset: Any, table: np.ndarray, path: Path) -> np.ndarray:
    """Reflectivity, dBZ, float32, shape (Y, X).

    Row blocks at a time, since numpy turns the pixels that index the table into eight bytes each.
    """
    height, width = dataset.block_shapes[0]
    rows, columns = dataset.shape
    values = np.empty((rows, columns), dtype=np.float32)
    for row, top in enumerate(range(0, rows, height)):
        for column in range(-(-columns // width)):
            # GDAL fills a block that was never written with 0, which here is dry.
            if not dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1):
                raise damaged(path, f"no block {column}, {row}")
        bottom = min(top + height, rows)
        values[top:bottom] = table[dataset.read(1, window=((top, bottom), (0, columns)))]
    return values


@lru_cache(maxsize=2)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in metres; worked out once for an archive, half a gigabyte for the full grid."""
    (rows, columns), (west, north), (width, height) = grid.shape, grid.corner, grid.spacing
    x = west + (np.arange(columns) + 0.5) * width
    y = north + (np.arange(rows) + 0.5) * height
    return map_coordinates(x, y, pyproj.CRS.from_wkt(grid.crs))
