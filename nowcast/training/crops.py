"""The sampled windows of a store, as tensors with their mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import Dataset

from data_prep.schema import SPLITS, RefusedInput, minutes, open_radar, time_step
from nowcast.training.crop_cache import CropCache, Windows, crop_cache
from nowcast.training.packed import Codecs, PackedArchive, Packing

SAMPLES = "samples"


class RadarCrops(Dataset):
    """The sampled windows of one split of a store.

    Args:
        store: The store.
        split: ``train``, ``validation`` or ``test``.
        size: Rows and columns of a crop; the centre of larger sampled windows is taken.
        codecs: Who decodes the store; see `nowcast.training.packed`.
        cache: Folder in which the windows are cut out once and then read from;
            see `nowcast.training.crop_cache`.

    Raises:
        RefusedInput: If the store has no sample index, its windows are smaller than the crop, an index is not
            of this store, or there is no room for the cache.
    """

    def __init__(
        self,
        store: str | Path,
        split: str,
        *,
        size: int | None = None,
        codecs: Codecs = "auto",
        cache: str | Path | None = None,
    ) -> None:
        radar = open_radar(store)
        index = _open_samples(store)
        sampled = (index.attrs["height"], index.attrs["width"])
        self.frames: int = index.attrs["frames"]
        self.height: int = size or sampled[0]
        self.width: int = size or sampled[1]
        if self.height > sampled[0] or self.width > sampled[1]:
            raise RefusedInput(
                f"a crop is no larger than the sampled windows of {sampled[0]} x {sampled[1]}",
                came=f"data.size={size}",
                do="lower data.size, or prepare the store with larger sampling windows",
            )
        index = index.isel(sample=index["split"].values == SPLITS.index(split))
        self.windows = _windows(radar, index, (self.frames, *sampled))
        _refuse_strange_windows(radar, self.windows, store)
        self.probability = index["probability"].values
        _refuse_strange_probabilities(self.probability, store)
        self.packing = Packing.of(radar)
        self.archive = PackedArchive(str(store), codecs=codecs)
        self.cache: CropCache | None = None
        if cache is not None and len(self):
            self.cache = crop_cache(cache, archive=self.archive, windows=self.windows, split=split)

    @property
    def start(self) -> np.ndarray:
        """Numbers of the first frames."""
        return self.windows.start

    @property
    def symmetries(self) -> tuple[int, ...]:
        """The symmetries that keep the shape of a crop; see `turned`."""
        return tuple(range(8)) if self.height == self.width else (0, 2, 4, 6)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        """One window, by its number, or by its number and the symmetry that it is turned by.

        Returns:
            ``rain``: mm/h, float32 (T, 1, H, W), 0 where there is no data; ``mask``: bool of the same shape,
            True where there is data; ``probability``: of the window having been sampled.
        """
        number, symmetry = item if isinstance(item, tuple) else (item, 0)
        rain, mask = self.packing.unpack(turned(self._packed(number), symmetry))
        return {
            "rain": torch.from_numpy(rain[:, None]),
            "mask": torch.from_numpy(mask[:, None]),
            "probability": torch.tensor(self.probability[number], dtype=torch.float32),
        }

    def _packed(self, number: int) -> np.ndarray:
        """The centre of a window, (T, H, W), from the cache or else from the store."""
        row = (self.windows.height - self.height) // 2
        column = (self.windows.width - self.width) // 2
        if self.cache is not None:
            return self.cache[number][:, row : row + self.height, column : column + self.width]
        frames, rows, columns = self.windows.box(number)
        row, column = row + rows.start, column + columns.start
        return self.archive[frames, slice(row, row + self.height), slice(column, column + self.width)]


def turned(frames: np.ndarray, symmetry: int) -> np.ndarray:
    """Frames after one of the eight symmetries of the square, contiguous.

    Args:
        frames: (T, H, W), row 0 on top.
        symmetry: From 4 on, left and right are swapped first; then come ``symmetry % 4`` quarter turns
            anticlockwise. The even ones keep the shape of any rectangle.
    """
    if symmetry == 0:
        return frames
    mirrored = frames[..., ::-1] if symmetry >= 4 else frames
    return np.ascontiguousarray(np.rot90(mirrored, symmetry % 4, axes=(-2, -1)))


def _windows(radar: xr.DataArray, index: xr.Dataset, size: tuple[int, int, int]) -> Windows:
    time = index["start_time"].values
    return Windows(
        time=time,
        start=np.searchsorted(radar["time"].values, time),
        row=index["y"].values,
        column=index["x"].values,
        frames=size[0],
        height=size[1],
        width=size[2],
    )


def _refuse_strange_windows(radar: xr.DataArray, windows: Windows, store: str | Path) -> None:
    """Refuse an index that was drawn for other frames or another grid."""
    times = radar["time"].values
    fits = windows.start + windows.frames <= times.size
    fits[fits] &= times[windows.start[fits]] == windows.time[fits]
    for first, length, name in ((windows.row, windows.height, "y"), (windows.column, windows.width, "x")):
        fits &= (first >= 0) & (first + length <= radar.sizes[name])
    if not fits.all():
        raise RefusedInput(
            "sampled windows lie inside their store",
            came=f"{int((~fits).sum())} of {fits.size} that do not, in {store}",
            do="prepare the store anew",
        )
    step = time_step(times)
    whole = times[windows.start + windows.frames - 1] - windows.time == (windows.frames - 1) * step
    if not whole.all():
        raise RefusedInput(
            f"the {windows.frames} frames of a sampled window follow each other every {minutes(step):g} min",
            came=f"{int((~whole).sum())} of {whole.size} windows with a gap, in {store}",
            do="prepare the store anew",
        )


def _refuse_strange_probabilities(probability: np.ndarray, store: str | Path) -> None:
    """Refuse what scores cannot be weighted by."""
    fits = (probability > 0) & (probability <= 1)
    if not fits.all():
        raise RefusedInput(
            "the probability of a sampled window lies in (0, 1]",
            came=f"{float(probability[~fits][0]):g} in {store}",
            do="prepare the store anew",
        )


def _open_samples(store: str | Path) -> xr.Dataset:
    try:
        return xr.open_zarr(store, group=SAMPLES, chunks=None, consolidated=False).load()
    except (FileNotFoundError, KeyError) as error:
        raise RefusedInput(
            "a store to train on holds a sample index",
            came=f"no group '{SAMPLES}' in {store}",
            do="prepare it with sampling in the prep configuration",
        ) from error
