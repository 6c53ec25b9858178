"""DeepMind's UK radar sequences (Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z): TFRecord files.

A file is a row of records, each a sequence of frames (24 in the published data) every 5 minutes on its own
piece of the National Grid. Frame number n of a file of T-frame records is frame n % T of record n // T.

A record is framed by its length and two masked CRC-32C, of the length and of the content, both checked here.
The content is a ``tf.train.Example`` with the features ``radar`` (little-endian int16 in steps of 1/32 mm/h,
-1 no data), ``osgb_extent_top``, ``_bottom``, ``_left`` and ``_right`` (metres, the outer edges of cells of
1 km), ``end_time_timestamp`` (of the last frame, seconds since 1970 UTC; anything else, such as microseconds,
is refused) and ``sample_prob``, the probability of having been drawn, given as ``sample_probability``.

Files are streamed: no more than two records are in memory, the one given and the next. As an Example may
hold its features in any order, `read_times` goes through the whole file.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import Reader, damaged, frame, incomplete, locate, open_content
from data_prep.readers.limits import refuse_large_grid, refuse_many_frames
from data_prep.schema import RefusedInput, map_coordinates

NATIONAL_GRID = "EPSG:27700"
CELL = 1000
"""Metres."""
STEP = np.timedelta64(5, "m")
STEPS_PER_MM_H = 32
LARGEST_RECORD = 256 * 2**20
"""Bytes; the largest published, 24 frames of 1536 x 1280, have 94 MB."""
FARTHEST = 10_000_000
"""Metres from the origin of the grid within which an extent is credible."""
MOST_FIELDS = 1000
"""In a message; a record holds seven features."""
EARLIEST, LATEST = 0, 4_102_444_800
"""Seconds since 1970: the years 1970 to 2100."""

_EXTENT = tuple(f"osgb_extent_{side}" for side in ("top", "bottom", "left", "right"))
_FEATURES = ("radar", "end_time_timestamp", "sample_prob", *_EXTENT)
_MASK = 0xA282EAD8
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types of protocol buffers."""


class _Record(NamedTuple):
    """One sequence."""

    radar: np.ndarray
    """int16, shape (T, Y, X)."""
    extent: tuple[int, ...]
    """Top, bottom, left, right in metres."""
    times: np.ndarray
    sample_probability: float


def detect(head: bytes, path: Path) -> bool:
    """Whether a file is a TFRecord whose first record has the features of this data set.

    Raises:
        RefusedInput: If it is a TFRecord whose first record is damaged.
    """
    if len(head) < 12 or _masked_crc(head[:8]) != head[8:12]:
        return False
    with open_content(path) as content:
        first = next(_contents(content, path))
    try:
        return set(_FEATURES) <= _features(first).keys()
    except ValueError:
        return False


def read_times(path: Path) -> np.ndarray:
    """Times of all frames, UTC, datetime64[ns], shape (frames,), as the records follow each other.

    Raises:
        RefusedInput: If the file is damaged or a record lacks something.
    """
    return np.concatenate([record.times for record in _records(path)])


def read_frames(path: Path, numbers: Sequence[int]) -> Iterator[xr.DataArray]:
    """Rain rates: frames by their numbers, mm h-1, dims (y, x), with the attribute ``sample_probability``.

    Numbers that rise go through the file once; each one below its predecessor's record begins anew.

    Raises:
        RefusedInput: If the file is damaged, a record lacks something, or there is no frame of a number.
    """
    records = _records(path)
    record = next(records)
    position, length = 0, len(record.times)
    for number in numbers:
        wanted, inside = divmod(number, length)
        if wanted < position:
            records, position = _records(path), -1
        for following in islice(records, max(0, wanted - position)):
            position, record = position + 1, following
        if number < 0 or position != wanted:
            raise RefusedInput(
                "frames are counted from 0 to the last of the file",
                came=f"number {number} of {path}",
                do="take a number that read_times counts",
            )
        yield _frame(record, inside, path)


READER = Reader("deepmind_tfrecord", detect, read_times, read_frames)


def _frame(record: _Record, number: int, path: Path) -> xr.DataArray:
    raw = record.radar[number]
    values = raw / np.float32(STEPS_PER_MM_H)
    # Rain is never negative: -1 is no data, and nothing is known of any other.
    values[raw < 0] = np.nan
    attributes = {
        "long_name": "rain rate",
        "units": "mm h-1",
        "sample_probability": record.sample_probability,
    }
    coordinates = locate(_coordinates, record.extent, path)
    return frame(values, time=record.times[number], coordinates=coordinates, attributes=attributes)


def _records(path: Path) -> Iterator[_Record]:
    """All records, each with as many frames as the first."""
    length = None
    with open_content(path) as content:
        for number, data in enumerate(_contents(content, path)):
            record = _record(data, number, path)
            length = length or len(record.times)
            refuse_many_frames(number * length, path)
            if len(record.times) != length:
                raise incomplete(path, f"record {number} has {len(record.times)} frames, the first {length}")
            yield record


def _contents(content: BinaryIO, path: Path) -> Iterator[bytes]:
    """The contents of the records of a file, at least one, their checksums verified."""
    size = LARGEST_RECORD if isinstance(content, gzip.GzipFile) else path.stat().st_size
    number = 0
    while True:
        head = content.read(12)
        if not head and number:
            return
        if len(head) < 12 or _masked_crc(head[:8]) != head[8:]:
            raise damaged(path, f"record {number}: the checksum of its length is wrong")
        (length,) = struct.unpack("<Q", head[:8])
        if length > min(size, LARGEST_RECORD):
            raise damaged(path, f"record {number}: {length} bytes long")
        data, checksum = content.read(length), content.read(4)
        if len(data) < length or _masked_crc(data) != checksum:
            raise damaged(path, f"record {number}: the checksum of its content is wrong")
        yield data
        number += 1


def _masked_crc(data: bytes) -> bytes:
    """The checksum of the TFRecord format: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _record(data: bytes, number: int, path: Path) -> _Record:
    try:
        features = _features(data)
    except ValueError as error:
        raise incomplete(path, f"record {number} is no tf.train.Example: {error}") from error
    absent = [name for name in _FEATURES if name not in features]
    if absent:
        raise incomplete(path, f"record {number} has no {', '.join(absent)}")
    try:
        end = _integer(features["end_time_timestamp"])
        extent = tuple(_integer(features[name]) for name in _EXTENT)
        probability = _real(features["sample_prob"])
        packed = _single(features["radar"], 1)
    except ValueError as error:
        raise incomplete(path, f"record {number}: {error}") from error
    if not EARLIEST <= end <= LATEST:
        raise incomplete(path, f"record {number}: end_time_timestamp {end} is not in seconds since 1970")
    if not 0 < probability <= 1:
        raise incomplete(path, f"record {number}: sample_prob is {probability}")
    height, width = _shape(extent, number, path)
    refuse_large_grid((height, width), path)
    frames, rest = divmod(len(packed), 2 * height * width)
    if frames == 0 or rest:
        raise incomplete(path, f"record {number}: {len(packed)} bytes of radar for {height} x {width} cells")
    radar = np.frombuffer(packed, dtype="<i2").reshape(frames, height, width)
    times = np.datetime64(end, "s").astype("datetime64[ns]") - STEP * np.arange(frames)[::-1]
    return _Record(radar, extent, times, probability)


def _shape(extent: tuple[int, ...], number: int, path: Path) -> tuple[int, int]:
    top, bottom, left, right = extent
    height, width = top - bottom, right - left
    if max(map(abs, extent)) > FARTHEST or min(height, width) <= 0 or height % CELL or width % CELL:
        raise incomplete(
            path, f"record {number}: extents {extent} (top, bottom, left, right) hold no cells of {CELL} m"
        )
    return height // CELL, width // CELL


@lru_cache(maxsize=8)
def _coordinates(extent: tuple[int, ...]) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in metres, of a piece of the National Grid."""
    top, bottom, left, right = extent
    x, y = np.arange(left + CELL / 2, right, CELL), np.arange(top - CELL / 2, bottom, -CELL)
    return map_coordinates(x, y, pyproj.CRS.from_user_input(NATIONAL_GRID))


def _features(data: bytes) -> dict[str, memoryview]:
    """The features of an Example by name, each a serialised Feature.

    An Example is {1: Features}, Features {1: a map of entries {1: name, 2: Feature}}, and a Feature one of
    {1: BytesList}, {2: FloatList}, {3: Int64List}, each of them {1: its values}.

    Raises:
        ValueError: If the bytes are no Example.
    """
    features = {}
    for container in _submessages(memoryview(data), 1):
        for entry in _submessages(container, 1):
            name = bytes(_single_field(entry, 1)).decode("utf-8", "replace")
            features[name] = _single_field(entry, 2)
    return features


def _integer(feature: memoryview) -> int:
    values = _single(feature, 3)
    number, end = _varint(values, 0)
    if end != len(values):
        raise ValueError("more than one integer in a feature")
    return number - (1 << 64) if number >> 63 else number


def _real(feature: memoryview) -> float:
    values = _single(feature, 2)
    if len(values) != 4:
        raise ValueError("more or less than one float in a feature")
    return float(struct.unpack("<f", values)[0])


def _single(feature: memoryview, kind: int) -> memoryview:
    """The bytes of the only value of a Feature of a kind: 1 bytes, 2 floats, 3 integers."""
    return _single_field(_single_field(feature, kind), 1)


def _single_field(message: memoryview, number: int) -> memoryview:
    found = _submessages(message, number)
    if len(found) != 1:
        raise ValueError(f"field {number} is there {len(found)} times, not once")
    return found[0]


def _submessages(message: memoryview, number: int) -> list[memoryview]:
    """The contents of all fields of a number, whether with a length or, as unpacked numbers, without."""
    found: list[memoryview] = []
    position = 0
    for _ in range(MOST_FIELDS):
        if position == len(message):
            return found
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == _BYTES:
            size, start = _varint(message, position)
        elif wire_type == _VARINT:
            size, start = _varint(message, position)[1] - position, position
        elif wire_type in (_FOUR_BYTES, _EIGHT_BYTES):
            size, start = (4 if wire_type == _FOUR_BYTES else 8), position
        else:
            raise ValueError(f"wire type {wire_type}")
        position = start + size
        if position > len(message):
            raise ValueError("a field ends beyond its message")
        if key >> 3 == number:
            found.append(message[start:position])
    raise ValueError(f"more than {MOST_FIELDS} fields in a message")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """An unsigned integer of 64 bits, 7 bits a byte, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        value, position = value | (byte & 0x7F) << shift, position + 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("an integer does not end")
