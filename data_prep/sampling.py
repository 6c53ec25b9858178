"""Importance-sampled training windows: rain is rare, so windows are accepted in favour of it.

A window is ``frames`` consecutive frames of ``height`` x ``width`` cells. It is accepted with probability

    q = min(1, q_min + m * mean(1 - exp(-rate / s)))

where the mean runs over all cells of the window and cells without data count as dry. The probability is
stored with the window, so that an evaluation can weight by 1/q. DGMR's data were drawn by importance, too
(Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z); the form is that of public re-implementations of it.

Whether a window is accepted depends on its cells, its start time and the seed alone. So an archive is read
once, a few frames at a time, and the index of an archive that grows gets the windows that are new.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from data_prep.schema import SPLITS, VARIABLE, RefusedInput, clock_step, open_store
from data_prep.store import TIME_ENCODING, consolidate

GROUP = "samples"
FRAMES_AT_ONCE = 12
"""Frames read together: those of one chunk of a store for training."""
ROWS_AT_ONCE = 128
"""Rows read together: those of one chunk."""
UNIT = 2.0**-20
"""Sums over cells are kept in whole numbers of this, so that the order of adding them changes nothing."""
COLUMNS = {
    "start_time": "datetime64[ns]",
    "y": "int32",
    "x": "int32",
    "split": "int8",
    "probability": "float64",
}


@dataclass(frozen=True)
class Sampling:
    """How windows are drawn.

    Attributes:
        frames: Frames in a window: context and lead times together.
        height: Rows of a window.
        width: Columns of a window.
        stride: Cells between the corners of neighbouring candidates; divides height and width.
        time_stride: Candidates start at every time that is a multiple of this many time steps after
            1970-01-01T00:00: with 4 in an archive of 5 minutes at the full hour, 20 and 40 minutes past.
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
        if not (0 <= self.q_min <= 1 and 0 <= self.m < np.inf and 0 < self.s < np.inf
                and 0 <= self.min_observed <= 1 and self.seed >= 0):  # fmt: skip
            raise RefusedInput(
                "0 <= q_min <= 1, m >= 0, s > 0, 0 <= min_observed <= 1 and seed >= 0 in sampling",
                came=f"{self.q_min}, {self.m}, {self.s}, {self.min_observed} and {self.seed}",
                do="correct the prep configuration",
            )

    @property
    def cells(self) -> int:
        """Cells of all frames of a window."""
        return self.frames * self.height * self.width


class WindowSums(NamedTuple):
    """Sums over the windows that start at one frame.

    Attributes:
        start: Number of the frame.
        sums: One for each measure and corner, shape (measures, rows, columns); the corner of row r and column
            c is at cell ``r * stride, c * stride``.
    """

    start: int
    sums: np.ndarray


def write_samples(store: str | Path, sampling: Sampling) -> int:
    """Bring the sample index of a store up to date: the group ``samples``.

    Windows of frames that came since the last time are added. Everything is drawn anew where there is no
    index yet, or settings, time step, times or splits of the frames it covers have changed; their rain is not
    compared. The index takes the place of the former one when it is complete. A run that is killed leaves the
    former one, or, for the moment between two renamings, none; then the next call draws everything anew.

    Returns:
        How many windows the index holds.

    Raises:
        RefusedInput: If the grid of the store is smaller than a window.
    """
    store = Path(store)
    dataset = open_store(store)
    count = dataset.sizes["time"]
    former = _former(store, dataset, sampling)
    if former is not None and former.attrs["frames_indexed"] == count:
        return former.sizes["sample"]
    indexed = 0 if former is None else former.attrs["frames_indexed"]
    index = _draw(dataset, sampling, after=indexed)
    if former is not None:
        index = xr.concat([former, index], "sample", combine_attrs="drop")
    index.attrs = _attributes(dataset, sampling, count)
    _replace(store, index)
    return index.sizes["sample"]


def draw_samples(dataset: xr.Dataset, sampling: Sampling) -> xr.Dataset:
    """The sample index of a dataset: start time, corner, split and acceptance probability of each window.

    Returns:
        ``start_time, y, x, split, probability`` along ``sample``; ``y`` and ``x`` are the first row and
        column, ``split`` an index into `schema.SPLITS`.
    """
    index = _draw(dataset, sampling, after=0)
    index.attrs = _attributes(dataset, sampling, dataset.sizes["time"])
    return index


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


def window_sums(
    rain: xr.DataArray, starts: np.ndarray, sampling: Sampling, measure: Callable[[np.ndarray], np.ndarray]
) -> Iterator[WindowSums]:
    """Sums over the windows of a rain array, frame by frame and in the memory of one window.

    Args:
        rain: Rain array, read once and only where there are windows.
        starts: Increasing numbers of the frames at which windows start.
        sampling: Size and stride of the windows.
        measure: What is summed: turns one frame (y, x) into float arrays (measures, y, x).

    Yields:
        For each start the sums over its windows; exact if the measures are multiples of `UNIT`.
    """
    apart = np.flatnonzero(np.diff(starts) > sampling.frames) + 1
    for run in np.split(starts, apart):
        if not run.size:
            continue
        wanted, window = set(run.tolist()), deque[np.ndarray](maxlen=sampling.frames)
        total = np.zeros((), np.int64)
        for number, frame in _frames(rain, int(run[0]), int(run[-1]) + sampling.frames):
            blocks = _block_sums(measure(frame), sampling.stride)
            total = total + blocks - (window[0] if len(window) == sampling.frames else 0)
            window.append(blocks)
            start = number - sampling.frames + 1
            if start in wanted:
                yield WindowSums(start, _crop_sums(total, sampling) * UNIT)


def _draw(dataset: xr.Dataset, sampling: Sampling, *, after: int) -> xr.Dataset:
    """The accepted windows that do not lie within the first ``after`` frames."""
    rain, times, codes = dataset[VARIABLE], dataset["time"].values, dataset["split"].values
    refuse_small_grid(rain, sampling)
    starts = _valid_starts(times, codes, clock_step(dataset), sampling)
    starts = starts[starts > after - sampling.frames]

    def measure(rate: np.ndarray) -> np.ndarray:
        observed = np.isfinite(rate)
        saturation = -np.expm1(-np.where(observed, rate, 0).astype(np.float32) / np.float32(sampling.s))
        return np.stack([saturation, observed.astype(np.float32)])

    parts: list[tuple[np.ndarray, ...]] = []
    for start, (saturation, observed) in window_sums(rain, starts, sampling, measure):
        probability = np.minimum(1.0, sampling.q_min + sampling.m * saturation / sampling.cells)
        seconds = int(times[start].astype("datetime64[s]").astype(np.int64))
        draw = np.random.default_rng([sampling.seed, seconds]).random(probability.shape)
        y, x = np.nonzero((draw <= probability) & (observed / sampling.cells >= sampling.min_observed))
        same = np.full(y.size, start)
        parts.append((times[same], y * sampling.stride, x * sampling.stride, codes[same], probability[y, x]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] or [np.array([])] * len(COLUMNS)
    return xr.Dataset(
        {
            name: ("sample", column.astype(dtype))
            for (name, dtype), column in zip(COLUMNS.items(), columns, strict=True)
        }
    )


def _valid_starts(
    times: np.ndarray, codes: np.ndarray, step: np.timedelta64, sampling: Sampling
) -> np.ndarray:
    """Numbers of the frames that begin a window without a gap within one split."""
    count = times.size - sampling.frames + 1
    if count < 1:
        return np.zeros(0, np.int64)
    first, last = times[:count], times[sampling.frames - 1 :]
    changes = np.concatenate([[0], np.cumsum(codes[1:] != codes[:-1])])
    valid = (
        (last - first == (sampling.frames - 1) * step)
        & (changes[sampling.frames - 1 :] == changes[:count])
        & (codes[:count] != SPLITS.index("guard"))
        & ((first - np.datetime64(0, "ns")) // step % sampling.time_stride == 0)
    )
    return np.flatnonzero(valid)


def _frames(rain: xr.DataArray, first: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frames (float32) with their numbers; each chunk of the store is read once."""
    cuts = [first, *range(first - first % FRAMES_AT_ONCE + FRAMES_AT_ONCE, stop, FRAMES_AT_ONCE), stop]
    for begin, end in zip(cuts, cuts[1:], strict=False):
        frames = np.empty((end - begin, *rain.shape[1:]), dtype=np.float32)
        for row in range(0, rain.shape[1], ROWS_AT_ONCE):
            # Decoded to float64, twelve frames of a large grid are more than a machine may have to spare.
            rows = slice(row, row + ROWS_AT_ONCE)
            frames[:, rows] = rain[begin:end, rows].values
        yield from enumerate(frames, begin)


def _block_sums(measures: np.ndarray, stride: int) -> np.ndarray:
    """Sums over blocks of stride x stride cells, in `UNIT`, shape (measures, rows, columns)."""
    rows, columns = measures.shape[1] // stride, measures.shape[2] // stride
    whole = measures[:, : rows * stride, : columns * stride]
    strips = whole.reshape(-1, rows, stride, columns * stride).sum(axis=2, dtype=np.float64)
    blocks = strips.reshape(-1, rows, columns, stride).sum(axis=3)
    return np.rint(blocks / UNIT).astype(np.int64)


def _crop_sums(blocks: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Sums over every window's blocks, from the integral image of single blocks."""
    rows, columns = sampling.height // sampling.stride, sampling.width // sampling.stride
    image = np.pad(blocks.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
    strips = image[:, rows:] - image[:, :-rows]
    return strips[:, :, columns:] - strips[:, :, :-columns]


def _attributes(dataset: xr.Dataset, sampling: Sampling, frames: int) -> dict:
    return {
        "title": "importance-sampled windows",
        **asdict(sampling),
        "frames_indexed": frames,
        "frames_digest": _digest(dataset, frames),
    }


def _digest(dataset: xr.Dataset, frames: int) -> str:
    """Fingerprint of what, beside the rain, the windows of the first frames depend on."""
    times = dataset["time"].values
    digest = hashlib.sha256(str(clock_step(dataset)).encode())
    digest.update(times[:frames].astype(np.int64).tobytes())
    digest.update(dataset["split"].values[:frames].astype(np.int8).tobytes())
    return digest.hexdigest()


def _former(store: Path, dataset: xr.Dataset, sampling: Sampling) -> xr.Dataset | None:
    """The index of a store where it is one of these settings and frames, or of the first of them."""
    try:
        index = xr.open_zarr(store, group=GROUP, chunks=None, consolidated=False).load()
    except (OSError, KeyError, ValueError):
        return None
    frames = index.attrs.get("frames_indexed", 0)
    if index.attrs != _attributes(dataset, sampling, frames) or set(index.data_vars) != set(COLUMNS):
        return None
    whole = np.isin(index["start_time"].values, dataset["time"].values).all()
    return index[list(COLUMNS)].drop_encoding() if whole else None


def _replace(store: Path, index: xr.Dataset) -> None:
    """Write the index beside the store and let it take the place of the former one."""
    partial, former = (store.with_name(f".{store.name}.{GROUP}.{name}") for name in ("partial", "former"))
    for leftover in (partial, former):
        shutil.rmtree(leftover, ignore_errors=True)
    encoding = {"start_time": TIME_ENCODING}
    index.to_zarr(partial, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    if (store / GROUP).exists():
        os.replace(store / GROUP, former)
    os.replace(partial, store / GROUP)
    shutil.rmtree(former, ignore_errors=True)
    consolidate(store)
