"""Importance-sampled training windows: rain is rare, so windows are accepted in favour of it.

A window is ``frames`` consecutive frames of ``height`` x ``width`` cells. It is accepted with probability

    q = min(1, q_min + m * mean(1 - exp(-rate / s)))

where the mean runs over all cells of the window and cells without data count as dry. The probability is
stored with the window, so that an evaluation can weight by 1/q. DGMR's data were drawn by importance, too
(Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z); the form is that of public re-implementations of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from data_prep.schema import SPLITS, RefusedInput, open_store, time_step
from data_prep.store import TIME_ENCODING, consolidate

GROUP = "samples"
FRAMES_AT_ONCE = 48


@dataclass(frozen=True)
class Sampling:
    """How windows are drawn.

    Attributes:
        frames: Frames in a window: context and lead times together.
        height: Rows of a window.
        width: Columns of a window.
        stride: Cells between the corners of neighbouring candidates; divides height and width.
        time_stride: Frames between the starts of neighbouring candidates.
        q_min: Acceptance probability of a dry window.
        m: Weight of the rain in the acceptance probability.
        s: Rain rate at which a cell counts 63 %, mm/h.
        min_observed: Least fraction of a window's cells that hold data.
        seed: Of the acceptance draws.
    """

    frames: int = 22
    height: int = 256
    width: int = 256
    stride: int = 32
    time_stride: int = 1
    q_min: float = 2e-4
    m: float = 0.1
    s: float = 1.0
    min_observed: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width, self.stride, self.time_stride) < 1 or (
            self.height % self.stride or self.width % self.stride
        ):
            raise RefusedInput(
                "sampling.stride divides height and width, and all sizes are at least 1",
                came=f"{self.frames} frames of {self.height} x {self.width}, stride {self.stride}",
                do="correct the prep configuration",
            )
        if not (0 <= self.q_min <= 1 and self.m >= 0 and self.s > 0 and 0 <= self.min_observed <= 1
                and self.seed >= 0):  # fmt: skip
            raise RefusedInput(
                "0 <= q_min <= 1, m >= 0, s > 0, 0 <= min_observed <= 1 and seed >= 0 in sampling",
                came=f"{self.q_min}, {self.m}, {self.s}, {self.min_observed} and {self.seed}",
                do="correct the prep configuration",
            )


def write_samples(store: str | Path, sampling: Sampling) -> int:
    """Draw the sample index of a store and write it into the store's group ``samples``.

    Returns:
        How many windows were accepted.

    Raises:
        RefusedInput: If the grid of the store is smaller than a window.
    """
    index = draw_samples(open_store(store), sampling)
    encoding = {"start_time": TIME_ENCODING}
    index.to_zarr(store, group=GROUP, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    consolidate(store)
    return index.sizes["sample"]


def draw_samples(dataset: xr.Dataset, sampling: Sampling) -> xr.Dataset:
    """The sample index of a dataset: start time, corner, split and acceptance probability of each window.

    Returns:
        ``start_time, y, x, split, probability`` along ``sample``; ``y`` and ``x`` are the first row and
        column, ``split`` an index into `schema.SPLITS`.
    """
    rain = dataset["rainfall_rate"]
    refuse_small_grid(rain, sampling)
    saturation, observed = _block_sums(rain, sampling)
    rows = []
    for start in _unbroken_starts(dataset["time"].values, sampling):
        window = slice(start, start + sampling.frames)
        splits = np.unique(dataset["split"].values[window])
        if splits.size > 1 or SPLITS[splits[0]] == "guard":
            continue
        cells = sampling.frames * sampling.height * sampling.width
        mean = _crop_sums(saturation[window].sum(axis=0), sampling) / cells
        covered = _crop_sums(observed[window].sum(axis=0), sampling) / cells
        probability = np.minimum(1.0, sampling.q_min + sampling.m * mean)
        time = dataset["time"].values[start]
        draw = np.random.default_rng([sampling.seed, int(time.astype("datetime64[s]").astype(np.int64))])
        accepted = (draw.random(mean.shape) <= probability) & (covered >= sampling.min_observed)
        rows += [
            (time, y * sampling.stride, x * sampling.stride, splits[0], probability[y, x])
            for y, x in np.argwhere(accepted)
        ]
    return _as_dataset(rows, sampling)


def refuse_small_grid(rain: xr.DataArray, sampling: Sampling) -> None:
    """Refuse a grid into which no window fits.

    Raises:
        RefusedInput: If it is smaller than a window.
    """
    height, width = rain.sizes["y"], rain.sizes["x"]
    if height < sampling.height or width < sampling.width:
        raise RefusedInput(
            f"a window of {sampling.height} x {sampling.width} cells fits into the grid",
            came=f"a grid of {height} x {width}",
            do="set sampling.height and sampling.width in the prep configuration",
        )


def _as_dataset(rows: list[tuple], sampling: Sampling) -> xr.Dataset:
    columns = list(zip(*rows, strict=True)) or [()] * 5
    names = ("start_time", "y", "x", "split", "probability")
    dtypes = ("datetime64[ns]", "int32", "int32", "int8", "float64")
    return xr.Dataset(
        {
            name: ("sample", np.array(column, dtype=dtype))
            for name, column, dtype in zip(names, columns, dtypes, strict=True)
        },
        attrs={"title": "importance-sampled windows", **asdict(sampling)},
    )


def _unbroken_starts(times: np.ndarray, sampling: Sampling) -> list[int]:
    """Indices of frames that begin a window without a gap."""
    if times.size < sampling.frames:
        return []
    span = (sampling.frames - 1) * time_step(times)
    last = times.size - sampling.frames + 1
    return [
        start
        for start in range(0, last, sampling.time_stride)
        if times[start + sampling.frames - 1] - times[start] == span
    ]


def _block_sums(rain: xr.DataArray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Sums of saturation and of observed cells over blocks of stride x stride, each (time, rows, columns)."""
    stride = sampling.stride
    rows, columns = rain.sizes["y"] // stride, rain.sizes["x"] // stride
    saturation = np.empty((rain.sizes["time"], rows, columns), np.float32)
    observed = np.empty_like(saturation)
    for first in range(0, rain.sizes["time"], FRAMES_AT_ONCE):
        part = slice(first, first + FRAMES_AT_ONCE)
        values = rain[part, : rows * stride, : columns * stride].values
        blocks = values.reshape(values.shape[0], rows, stride, columns, stride)
        saturation[part] = np.nansum(-np.expm1(-blocks / sampling.s), axis=(2, 4))
        observed[part] = np.isfinite(blocks).sum(axis=(2, 4))
    return saturation, observed


def _crop_sums(blocks: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Sums over every window's blocks from the sums over single blocks (rows, columns)."""
    size = (sampling.height // sampling.stride, sampling.width // sampling.stride)
    return np.lib.stride_tricks.sliding_window_view(blocks, size).sum(axis=(2, 3))
