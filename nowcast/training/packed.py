"""Rain rates as a store packs them: reading boxes of them quickly, and unpacking them.

Boxes are read by plain Zarr, not through xarray or dask. The codecs are those of zarr itself or, where it is
installed, those of zarrs (the extra ``fast``), which take half the time. The threads of zarrs do not survive
a fork: a forked child of a process that has used them would hang in its first read, so it gets zarr's codecs.
"""

from __future__ import annotations

import importlib.util
import os
from functools import reduce
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
import zarr

from data_prep.schema import VARIABLE, RefusedInput

Codecs = Literal["auto", "zarr", "zarrs"]
PIPELINES = {"zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs": "zarrs.ZarrsCodecPipeline"}
_processes_with_zarrs: set[int] = set()
"""This process and those it was forked from, as far as they have used the codecs of zarrs."""


class Packing(NamedTuple):
    """How a store holds rates: rate = scale * number + offset, but for numbers that stand for no data.

    Attributes:
        scale: mm/h; CF ``scale_factor``.
        offset: mm/h; CF ``add_offset``.
        missing: CF ``_FillValue`` and ``missing_value``. Beside them NaN stands for no data.
    """

    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[float, ...] = ()

    @classmethod
    def of(cls, radar: xr.DataArray) -> Packing:
        """The packing of a rain array that was opened from a store.

        Raises:
            RefusedInput: If signed numbers stand for unsigned ones.
        """
        how = radar.encoding
        if "_Unsigned" in how:
            raise RefusedInput(
                "packed rates are what their dtype says",
                came=f"_Unsigned={how['_Unsigned']}",
                do="repack them",
            )
        named = (how[name] for name in ("_FillValue", "missing_value") if name in how)
        marks = (float(mark) for group in named for mark in np.ravel(group))
        # Packed whole numbers compare faster with ints.
        missing = {int(mark) if mark.is_integer() else mark for mark in marks if not np.isnan(mark)}
        return cls(float(how.get("scale_factor", 1)), float(how.get("add_offset", 0)), tuple(missing))

    def unpack(self, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rates in mm/h, float32, 0 where there is no data, and True where there is data; both contiguous."""
        rain = packed.astype(np.float32, order="C")
        if self.scale != 1:
            rain *= np.float32(self.scale)
        if self.offset != 0:
            rain += np.float32(self.offset)
        known = [packed != number for number in self.missing]
        if packed.dtype.kind == "f":
            known.append(~np.isnan(packed))
        mask = reduce(np.logical_and, known) if known else np.ones(packed.shape, bool)
        if not mask.all():
            np.copyto(rain, 0, where=~mask)
        return rain, mask


class PackedArchive:
    """The packed rates of a store, (time, y, x), opened on first use and anew in every process.

    Args:
        store: The store.
        codecs: Who decodes: zarr, zarrs, or (``auto``) zarrs where it is installed and safe.

    Raises:
        RefusedInput: If zarrs is asked for and not installed.
    """

    def __init__(self, store: str, *, codecs: Codecs = "auto") -> None:
        if codecs == "zarrs" and not _zarrs_installed():
            raise RefusedInput(
                "data.codecs=zarrs needs the package zarrs",
                came="it is not installed",
                do="pip install -e '.[fast]' in the checkout, or set data.codecs to auto",
            )
        self.store = store
        self.codecs = codecs
        self._array: Any = None
        self._process = 0

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        """The packed rates of a box of frames, rows and columns."""
        return np.asarray(self._opened()[box])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    @property
    def dtype(self) -> np.dtype:
        """Of the packed rates."""
        return self._opened().dtype

    def description(self) -> dict[str, Any]:
        """What the store says of itself and of its rates, but for their number of frames."""
        group = zarr.open_group(self.store, mode="r")
        array = group[VARIABLE].metadata.to_dict()
        del array["shape"]
        return {"store": group.attrs.asdict(), VARIABLE: array}

    def _opened(self) -> Any:
        if self._array is None or self._process != os.getpid():
            # An array keeps the codecs that were set when it was opened.
            with zarr.config.set({"codec_pipeline.path": PIPELINES[self._choice()]}):
                self._array = zarr.open_group(self.store, mode="r")[VARIABLE]
            self._process = os.getpid()
        return self._array

    def _choice(self) -> str:
        if self.codecs == "zarr" or (self.codecs == "auto" and not _zarrs_installed()):
            return "zarr"
        if _processes_with_zarrs - {os.getpid()}:
            if self.codecs == "auto":
                return "zarr"
            raise RefusedInput(
                "a process that reads with zarrs was not forked from one that did",
                came="a forked one",
                do="spawn processes, or set data.codecs to auto",
            )
        _processes_with_zarrs.add(os.getpid())
        return "zarrs"


def read_with_one_thread(worker: int = 0) -> None:  # noqa: ARG001 (what a DataLoader gives)
    """Have this process, one of several that read, decode with one thread."""
    zarr.config.set({"threading.max_workers": 1})


def _zarrs_installed() -> bool:
    return importlib.util.find_spec("zarrs") is not None
