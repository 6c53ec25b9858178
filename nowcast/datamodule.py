"""Training windows from a store, as tensors with their mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
import zarr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from data_prep.schema import PACKED_MISSING, PACKED_SCALE, SPLITS, VARIABLE, RefusedInput, open_radar
from nowcast.gan_forecaster import describe_data

SAMPLES = "samples"


class RadarCrops(Dataset):
    """The sampled windows of one split of a store.

    The Zarr array is opened on first use, hence anew in every worker, and read without dask.

    Args:
        store: The store.
        split: ``train``, ``validation`` or ``test``.
        size: Rows and columns of a crop; the centre of larger sampled windows is taken.

    Raises:
        RefusedInput: If the store has no sample index or its windows are smaller than the crop.
    """

    def __init__(self, store: str | Path, split: str, *, size: int | None = None) -> None:
        self.store = str(store)
        times = open_radar(store)["time"].values
        index = _open_samples(store)
        self.frames: int = index.attrs["frames"]
        window = (index.attrs["height"], index.attrs["width"])
        self.height: int = size or window[0]
        self.width: int = size or window[1]
        if self.height > window[0] or self.width > window[1]:
            raise RefusedInput(
                f"a crop is no larger than the sampled windows of {window[0]} x {window[1]}",
                came=f"data.size={size}",
                do="lower data.size, or prepare the store with larger sampling windows",
            )
        index = index.isel(sample=index["split"].values == SPLITS.index(split))
        self.start = np.searchsorted(times, index["start_time"].values)
        self.row = index["y"].values + (window[0] - self.height) // 2
        self.column = index["x"].values + (window[1] - self.width) // 2
        self.probability = index["probability"].values
        self._array: zarr.Array | None = None

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """One window.

        Returns:
            ``rain``: mm/h, float32 (T, 1, H, W), 0 where there is no data; ``mask``: bool of the same shape,
            True where there is data; ``probability``: of the window having been sampled.
        """
        if self._array is None:
            group = zarr.open_group(self.store, mode="r")
            self._array = group[VARIABLE]  # type: ignore[assignment]
        start, row, column = self.start[number], self.row[number], self.column[number]
        packed = np.asarray(
            self._array[  # type: ignore[index]
                start : start + self.frames, row : row + self.height, column : column + self.width
            ]
        )
        mask = packed != PACKED_MISSING
        rain = np.where(mask, packed * np.float32(PACKED_SCALE), np.float32(0))
        return {
            "rain": torch.from_numpy(rain[:, None]),
            "mask": torch.from_numpy(mask[:, None]),
            "probability": torch.tensor(self.probability[number], dtype=torch.float32),
        }


class RadarDataModule(pl.LightningDataModule):
    """Training and validation windows of a store.

    Args:
        store: The store.
        batch_size: Windows in a batch.
        size: Rows and columns of a crop; all of the sampled window where none is given.
        samples_per_epoch: Windows drawn, with replacement, for one epoch.
        validation_samples: Windows of the validation split that are used, evenly chosen.
        workers: Processes that read.
    """

    def __init__(
        self,
        store: str,
        *,
        batch_size: int = 16,
        size: int | None = None,
        samples_per_epoch: int = 4096,
        validation_samples: int = 256,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.store = store
        self.batch_size = batch_size
        self.size = size
        self.samples_per_epoch = samples_per_epoch
        self.validation_samples = validation_samples
        self.workers = workers

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Open the sample index; see `RadarCrops`.

        Raises:
            RefusedInput: If there is no window to train on.
        """
        self.description = describe_data(open_radar(self.store))
        self.train = RadarCrops(self.store, "train", size=self.size)
        self.validation = RadarCrops(self.store, "validation", size=self.size)
        if len(self.train) == 0:
            raise RefusedInput(
                "a store holds one training window or more",
                came=f"none in {self.store}",
                do="prepare more data, or raise sampling.q_min and sampling.m in the prep configuration",
            )

    def train_dataloader(self) -> DataLoader:
        """Windows drawn at random, with replacement."""
        sampler = RandomSampler(self.train, replacement=True, num_samples=self.samples_per_epoch)
        return DataLoader(
            self.train,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            **self._worker_settings(),
        )

    def val_dataloader(self) -> DataLoader | list:
        """Windows of the validation split in a fixed order; nothing where it has none."""
        count = min(self.validation_samples, len(self.validation))
        if count == 0:
            return []
        chosen = np.linspace(0, len(self.validation) - 1, count).astype(int).tolist()
        subset = torch.utils.data.Subset(self.validation, chosen)
        return DataLoader(subset, batch_size=self.batch_size, **self._worker_settings())

    def _worker_settings(self) -> dict:
        """Spawned workers: forked ones hang where the parent has read through the zarrs codecs."""
        if self.workers == 0:
            return {}
        return {
            "num_workers": self.workers,
            "multiprocessing_context": "spawn",
            "persistent_workers": True,
            "pin_memory": torch.cuda.is_available(),
        }


def _open_samples(store: str | Path) -> xr.Dataset:
    try:
        return xr.open_zarr(store, group=SAMPLES, chunks=None, consolidated=False).load()
    except (FileNotFoundError, KeyError) as error:
        raise RefusedInput(
            "a store to train on holds a sample index",
            came=f"no group '{SAMPLES}' in {store}",
            do="prepare it with sampling in the prep configuration",
        ) from error
