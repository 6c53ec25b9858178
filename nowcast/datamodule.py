"""Training windows from a store, as tensors with their mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
import zarr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from data_prep.schema import PACKED_MISSING, PACKED_SCALE, SPLITS, VARIABLE, RefusedInput, open_radar
from nowcast.gan_forecaster import describe_data

SAMPLES = "samples"


def refuse_less(settings: dict[str, int], *, than: int) -> None:
    """Refuse settings below a number.

    Raises:
        RefusedInput: If one is.
    """
    for name, value in settings.items():
        if value < than:
            raise RefusedInput(f"{name} is {than} or more", came=value, do="correct the configuration")


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
        radar = open_radar(store)
        times = radar["time"].values
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
        self._refuse_strange_windows(radar, index, window)
        self.row = index["y"].values + (window[0] - self.height) // 2
        self.column = index["x"].values + (window[1] - self.width) // 2
        self.probability = index["probability"].values
        self._array: zarr.Array | None = None

    def _refuse_strange_windows(
        self, radar: xr.DataArray, index: xr.Dataset, window: tuple[int, int]
    ) -> None:
        """Refuse an index that was drawn for other frames or another grid."""
        times = radar["time"].values
        fits = self.start + self.frames <= times.size
        fits[fits] &= times[self.start[fits]] == index["start_time"].values[fits]
        for axis, length in zip(("y", "x"), window, strict=True):
            fits &= (index[axis].values >= 0) & (index[axis].values + length <= radar.sizes[axis])
        if not fits.all():
            raise RefusedInput(
                "sampled windows lie inside their store",
                came=f"{int((~fits).sum())} of {fits.size} that do not, in {self.store}",
                do="prepare the store anew",
            )

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


class Draws(DistributedSampler):
    """Windows drawn with replacement, batch by batch: each batch is a pure function of seed and number.

    A run that goes on from a checkpoint thus sees the batches it would have seen, and several processes
    share the batches of one.

    Args:
        windows: How many there are to draw from.
        batch_size: Windows of one process in a batch.
        batches: Batches in an epoch.
        seed: Of the draws.
        position: Number of the next batch of the run, asked for at the start of each epoch.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        windows: int,
        *,
        batch_size: int,
        batches: int,
        seed: int,
        position: Callable[[], int],
        rank: int,
        world_size: int,
    ) -> None:
        self.windows = windows
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.position = position
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        first = self.position()
        for number in range(first, first + self.batches):
            draw = np.random.default_rng([self.seed, number])
            batch = draw.integers(self.windows, size=self.batch_size * self.world_size)
            yield from batch[self.rank :: self.world_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the position says it all."""


class Share(DistributedSampler):
    """The windows of one process, in order, none of them twice.

    Args:
        chosen: Numbers of the windows of all processes.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, chosen: Sequence[int], *, rank: int, world_size: int) -> None:
        self.own = list(chosen)[rank::world_size]

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[int]:
        return iter(self.own)

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the order is fixed."""


class RadarDataModule(pl.LightningDataModule):
    """Training and validation windows of a store.

    Args:
        store: The store.
        batch_size: Windows in a batch, of each process.
        size: Rows and columns of a crop; all of the sampled window where none is given.
        samples_per_epoch: Windows drawn, with replacement, for one epoch of each process.
        validation_samples: Windows of the validation split that are used, evenly chosen.
        workers: Processes that read.
        seed: Of the draws.
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_less(
            {"data.batch_size": batch_size, "data.size": 1 if size is None else size,
             "data.samples_per_epoch": samples_per_epoch}, than=1,
        )  # fmt: skip
        refuse_less(
            {"data.validation_samples": validation_samples, "data.workers": workers, "seed": seed}, than=0
        )
        self.store = store
        self.batch_size = batch_size
        self.size = size
        self.samples_per_epoch = samples_per_epoch
        self.validation_samples = validation_samples
        self.workers = workers
        self.seed = seed

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
        """Windows drawn at random, with replacement, from where the run has come to."""
        sampler = Draws(
            len(self.train),
            batch_size=self.batch_size,
            batches=max(1, self.samples_per_epoch // self.batch_size),
            seed=self.seed,
            position=lambda: getattr(self.trainer.lightning_module, "batches_seen", 0) if self.trainer else 0,
            **self._processes(),
        )
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader | list:
        """Windows of the validation split in a fixed order; nothing where it has none.

        Raises:
            RefusedInput: If there are fewer than processes.
        """
        chosen = _evenly(len(self.validation), self.validation_samples)
        if not chosen:
            return []
        if len(chosen) < self._processes()["world_size"]:
            raise RefusedInput(
                "every process validates one window or more",
                came=f"{len(chosen)} windows",
                do="raise data.validation_samples, prepare more data, or use fewer processes",
            )
        return self._loader(self.validation, Share(chosen, **self._processes()))

    def statistics_windows(self, count: int) -> dict[str, Tensor]:
        """Training windows for batch-norm statistics, evenly chosen, as one batch."""
        chosen = _evenly(len(self.train), count)
        return _collate([self.train[number] for number in chosen])

    def _loader(self, windows: RadarCrops, sampler: DistributedSampler) -> DataLoader:
        return DataLoader(
            windows,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=_collate,
            **self._worker_settings(),
        )

    def _processes(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

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


def _evenly(available: int, count: int) -> list[int]:
    count = min(count, available)
    return np.linspace(0, available - 1, count).astype(int).tolist() if count else []


def _collate(windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack windows of one grid size.

    Raises:
        RefusedInput: If the sizes differ.
    """
    sizes = {tuple(window["rain"].shape) for window in windows}
    if len(sizes) > 1:
        raise RefusedInput(
            "the windows of a batch have one number of frames and one grid size",
            came=f"{sorted(sizes)}",
            do="train on one store at a time, or prepare the windows with one size",
        )
    return default_collate(list(windows))


def _open_samples(store: str | Path) -> xr.Dataset:
    try:
        return xr.open_zarr(store, group=SAMPLES, chunks=None, consolidated=False).load()
    except (FileNotFoundError, KeyError) as error:
        raise RefusedInput(
            "a store to train on holds a sample index",
            came=f"no group '{SAMPLES}' in {store}",
            do="prepare it with sampling in the prep configuration",
        ) from error
