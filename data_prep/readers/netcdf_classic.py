"""The netCDF classic format: CDF-1, CDF-2 (64-bit offsets) and CDF-5 (64-bit data).

Header as in Unidata, "NetCDF Classic Format Specification" (NetCDF User's Guide, appendix "File Format
Specifications"). It is not left to the netCDF C library because that reads what a truncated file lacks as
zeros, that is as dry, and a damaged header can end the whole process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAGIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
MOST_ELEMENTS = 100_000
"""Dimensions, attributes and variables in a file, together at most."""

_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12
_CHAR = 2
_TYPES = {1: "i1", _CHAR: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8",
          7: "u1", 8: ">u2", 9: ">u4", 10: ">i8", 11: ">u8"}  # fmt: skip


class Values:
    """Values of a variable in an open file, read when they are sliced.

    They are not mapped into memory: a file that is cut short meanwhile would end the whole process.

    Args:
        content: The file.
        shape: Of the values; along the first dimension they lie ``stride`` bytes apart.
        dtype: Of the values.
        begin: Byte of the first.
        stride: Bytes from one record, or row, to the next.
    """

    def __init__(
        self, content: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, begin: int, stride: int
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._content, self._begin, self._stride = content, begin, stride

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        """A part: numbers and slices along the first dimensions.

        Raises:
            ValueError: If the file has been cut short.
        """
        if not self.shape:
            return self._read(0, ())
        first, rest = (index[0] if index else slice(None)), index[1:]
        row = self.shape[1:]
        if not isinstance(first, slice):
            return self._read(first, row)[rest]
        rows = range(*first.indices(self.shape[0]))
        if rows.step == 1 and self._stride == math.prod(row) * self.dtype.itemsize:
            return self._read(rows.start, (len(rows), *row))[(slice(None), *rest)]
        values = np.empty((len(rows), *row), dtype=self.dtype)
        for place, number in enumerate(rows):
            values[place] = self._read(number, row)
        return values[(slice(None), *rest)]

    def _read(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """What lies together from a row or record on."""
        size = math.prod(shape) * self.dtype.itemsize
        self._content.seek(self._begin + number * self._stride)
        data = self._content.read(size)
        if len(data) != size:
            raise ValueError(f"the file ends within its values, {len(data)} of {size} bytes")
        return np.frombuffer(data, dtype=self.dtype).reshape(shape)


class ClassicVariable(NamedTuple):
    """A variable: the names of its dimensions, its raw attributes, and its values in the file."""

    dims: tuple[str, ...]
    attributes: dict[str, np.ndarray | bytes]
    values: Values


class _Declared(NamedTuple):
    """A variable as in the header; sizes in bytes, None for the length of the record dimension."""

    name: str
    dims: tuple[str, ...]
    lengths: tuple[int | None, ...]
    attributes: dict[str, np.ndarray | bytes]
    dtype: np.dtype
    begin: int

    @property
    def is_record(self) -> bool:
        return self.lengths[:1] == (None,)

    @property
    def size(self) -> int:
        return math.prod(length for length in self.lengths if length is not None) * self.dtype.itemsize


def read_classic(content: BinaryIO) -> tuple[dict[str, np.ndarray | bytes], dict[str, ClassicVariable]]:
    """The global attributes and the variables of a file.

    Args:
        content: The file; the values are read from it as long as it is open.

    Raises:
        ValueError: If the file is cut short or its header is damaged.
    """
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    header = _Header(content, size)
    records = header.number()
    dims = header.many(_DIMENSIONS, lambda: (header.name(), header.number()))
    attributes = dict(header.many(_ATTRIBUTES, header.attribute))
    declared = header.many(_VARIABLES, lambda: header.variable(dims))
    in_records = [variable for variable in declared if variable.is_record]
    stride = sum(variable.size + -variable.size % 4 for variable in in_records)
    if len(in_records) == 1:
        # The only record variable is not padded.
        stride = in_records[0].size
    if records == header.streaming:
        start = min((variable.begin for variable in in_records), default=size)
        records = (size - start) // stride if stride else 0
    return attributes, {v.name: _values(v, content, size, records, stride) for v in declared}


def _values(declared: _Declared, content: BinaryIO, size: int, records: int, stride: int) -> ClassicVariable:
    shape = tuple(records if length is None else length for length in declared.lengths)
    end = declared.begin + declared.size
    if declared.is_record:
        end += (records - 1) * stride
    if 0 not in shape and end > size:
        raise ValueError(f"{declared.name} ends at byte {end} of {size}")
    apart = stride if declared.is_record else declared.dtype.itemsize * math.prod(shape[1:])
    values = Values(content, shape, declared.dtype, declared.begin, apart)
    return ClassicVariable(declared.dims, declared.attributes, values)


class _Header:
    """Reads the header from its beginning; to read past the end of the file is an error."""

    def __init__(self, content: BinaryIO, size: int) -> None:
        self._content = content
        self._size = size
        self._elements = 0
        version = content.read(4)[3]
        self._number_bytes = 8 if version == 5 else 4
        self._offset_bytes = 4 if version == 1 else 8
        self.streaming = 256**self._number_bytes - 1
        """What stands for a number of records that was not known when the header was written."""

    def many(self, kind: int, one: Callable[[], Any]) -> list[Any]:
        found, count = self._integer(4), self.number()
        self._elements += count
        if found not in (0, kind) or (found == 0 and count) or self._elements > MOST_ELEMENTS:
            raise ValueError(f"the header has {count} elements of kind {found} where kind {kind} is listed")
        return [one() for _ in range(count)]

    def number(self) -> int:
        return self._integer(self._number_bytes)

    def name(self) -> str:
        return self._padded(self.number()).decode("utf-8", "replace")

    def attribute(self) -> tuple[str, np.ndarray | bytes]:
        name, (kind, dtype), count = self.name(), self._type(), self.number()
        data = self._padded(count * dtype.itemsize)
        return name, data if kind == _CHAR else np.frombuffer(data, dtype)

    def variable(self, dims: list[tuple[str, int]]) -> _Declared:
        name, rank = self.name(), self.number()
        if rank > len(dims):
            raise ValueError(f"{name} has {rank} dimensions of {len(dims)}")
        numbers = [self.number() for _ in range(rank)]
        if any(number >= len(dims) for number in numbers):
            raise ValueError(f"{name} has dimensions {numbers} of {len(dims)}")
        # The record dimension has the length 0 in the header.
        lengths = tuple(dims[number][1] or None for number in numbers)
        if None in lengths[1:]:
            raise ValueError(f"{name} has the record dimension in another place than the first")
        attributes = dict(self.many(_ATTRIBUTES, self.attribute))
        _, dtype = self._type()
        self.number()  # The size, which is wrong for large variables.
        begin = self._integer(self._offset_bytes)
        return _Declared(
            name, tuple(dims[number][0] for number in numbers), lengths, attributes, dtype, begin
        )

    def _type(self) -> tuple[int, np.dtype]:
        kind = self._integer(4)
        if kind not in _TYPES:
            raise ValueError(f"the header names a type {kind}")
        return kind, np.dtype(_TYPES[kind])

    def _padded(self, count: int) -> bytes:
        taken = self._take(count)
        self._take(-count % 4)
        return taken

    def _integer(self, count: int) -> int:
        return int.from_bytes(self._take(count), "big")

    def _take(self, count: int) -> bytes:
        if count > self._size - self._content.tell():
            raise ValueError("the header does not end within the file")
        return self._content.read(count)
