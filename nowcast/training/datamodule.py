"""Which windows of a store come when, in training and in validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data.distributed import DistributedSampler

from data_prep.schema import RefusedInput, open_radar, refuse_less
from nowcast.forecasters.gan_forecaster import describe_data
from nowcast.training.aligned_windows import (
    SPACING_KM,
    STEP_MINUTES,
    AlignedWindows,
    Cutting,
    cut_store,
    cut_synthetic,
)
from nowcast.training.crops import RadarCrops
from nowcast.training.packed import Codecs, read_with_one_thread

__all__ = ["AlignedData", "Draws", "RadarCrops", "RadarDataModule", "Share"]


class Draws(DistributedSampler):
    """Windows drawn with replacement, batch by batch: each batch is a pure function of seed and number.

    A run that goes on from a checkpoint thus sees the batches it would have seen, and several processes
    share the batches of one. Each draw is the number of a window and a symmetry, as `RadarCrops` takes them;
    the windows are the same whatever the symmetries.

    Args:
        windows: How many there are to draw from.
        symmetries: To draw from, all equally likely.
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
        symmetries: Sequence[int] = (0,),
        batch_size: int,
        batches: int,
        seed: int,
        position: Callable[[], int],
        rank: int,
        world_size: int,
    ) -> None:
        self.windows = windows
        self.symmetries = symmetries
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.position = position
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first, count = self.position(), self.batch_size * self.world_size
        for number in range(first, first + self.batches):
            draw = np.random.default_rng([self.seed, number])
            windows = draw.integers(self.windows, size=count)
            symmetries = draw.choice(self.symmetries, size=count)
            own = slice(self.rank, None, self.world_size)
            yield from zip(windows[own].tolist(), symmetries[own].tolist(), strict=True)

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
        codecs: Who decodes the store: zarr, zarrs, or the latter where it is installed;
            see `nowcast.training.packed`.
        cache: Folder on a local disk into which the windows are cut once, to be read from there; see
            `nowcast.training.crop_cache`.
        augment: Whether training windows are turned and mirrored at random, all frames of a window alike.
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
        codecs: Codecs = "auto",
        cache: str | None = None,
        augment: bool = False,
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
        self.codecs = codecs
        self.cache = cache
        self.augment = augment
        self.seed = seed

    def prepare_data(self) -> None:
        """Cut the windows, in one process of each machine; the others wait."""
        if self.cache is not None:
            self.setup()

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Open the sample index, and the cache if there is to be one; see `RadarCrops`.

        Raises:
            RefusedInput: If there is no window to train on.
        """
        self.description = describe_data(open_radar(self.store))
        self.train, self.validation = (
            RadarCrops(self.store, split, size=self.size, codecs=self.codecs, cache=self.cache)
            for split in ("train", "validation")
        )
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
            symmetries=self.train.symmetries if self.augment else (0,),
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
        """Spawned workers: forked ones could not read with the faster codecs."""
        settings: dict = {"pin_memory": self._on_accelerator()}
        if self.workers > 0:
            settings |= {
                "num_workers": self.workers,
                "multiprocessing_context": "spawn",
                "persistent_workers": True,
                "worker_init_fn": read_with_one_thread,
            }
        return settings

    def _on_accelerator(self) -> bool:
        """Whether batches travel to a device that takes them faster from pinned memory."""
        return self.trainer is not None and self.trainer.strategy.root_device.type not in ("cpu", "mps")


class AlignedData(RadarDataModule):
    """Synthetic rain and radar archives, as windows in the co-moving frame.

    See `nowcast.training.aligned_windows`.

    Args:
        stores: Radar archives of about 1 km every 5 min; none for synthetic rain alone.
        cache: Folder for the windows, which are cut once.
        synthetic_windows: Windows of synthetic rain to draw from; 0 for none.
        synthetic_share: How many of the drawn windows are synthetic, if there are stores, too.
        real_windows: Windows of each store to draw from.
        hold_out: Share of the frames of each store, the last ones, that validation has for itself.
        gain: Standard deviation of the logarithm of a random factor on the rain rate of a window.
        size: Rows and columns of a window.
        batch_size: Windows in a batch, of each process.
        samples_per_epoch: Windows drawn for one epoch of each process.
        validation_samples: Windows of validation, drawn as those of training, from what training has not.
        workers: Processes that read.
        seed: Of synthetic rain, places and draws.
    """

    def __init__(  # noqa: PLR0913 (the settings of a training)
        self,
        stores: list[str] | None = None,
        *,
        cache: str = "out/windows",
        synthetic_windows: int = 4096,
        synthetic_share: float = 0.3,
        real_windows: int = 512,
        hold_out: float = 1 / 3,
        gain: float = 0.3,
        size: int = 128,
        batch_size: int = 8,
        samples_per_epoch: int = 4096,
        validation_samples: int = 64,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            ", ".join(stores or []), batch_size=batch_size, size=size, samples_per_epoch=samples_per_epoch,
            validation_samples=validation_samples, workers=workers, cache=cache, augment=True, seed=seed,
        )  # fmt: skip
        if not stores and synthetic_windows == 0:
            raise RefusedInput(
                "there is something to train on", came="no stores, no synthetic windows", do="set data.stores"
            )
        self.stores = stores or []
        self.synthetic_windows = synthetic_windows
        self.synthetic_share = synthetic_share
        self.real_windows = real_windows
        self.hold_out = hold_out
        self.gain = gain

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Cut the windows, or open what was cut before."""
        self.description = {"grid_spacing": 1000 * SPACING_KM, "time_step_minutes": STEP_MINUTES}
        kept = 1 - self.hold_out
        held_out = range(self.synthetic_windows, self.synthetic_windows + self.validation_samples)
        self.train = self._windows(range(self.synthetic_windows), (0, kept), self.real_windows)  # type: ignore[assignment]
        self.validation = self._windows(held_out, (kept, 1), self.validation_samples)  # type: ignore[assignment]

    def statistics_windows(self, count: int) -> dict[str, Tensor]:
        """Training windows for batch-norm statistics, the first that are drawn, as one batch."""
        return _collate([self.train[number] for number in range(count)])

    def _windows(self, numbers: range, part: tuple[float, float], count: int) -> AlignedWindows:
        folder, cutting = Path(str(self.cache)), Cutting(size=int(self.size or 0), seed=self.seed)
        synthetic = cut_synthetic(folder, numbers, cutting) if self.synthetic_windows and numbers else None
        real = [cut_store(folder, store, part=part, count=count, cutting=cutting) for store in self.stores]
        return AlignedWindows(
            synthetic, real, share=self.synthetic_share, size=cutting.size, gain=self.gain, seed=self.seed
        )


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
