"""Does the full GAN learn? One batch of KNMI radar, over and over: benchmarks/overfit.py [DATA] [STEPS].

Prints the CRPS of four members, drawn as a forecast draws them, beside that of persistence, after every 25
steps of the generator (each with its two of the discriminators) of the `tiny` networks.
"""

import copy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_prep.pipeline import prepare
from nowcast.model import PRESETS, Discriminator, Generator
from nowcast.options import read_recipe
from nowcast.training.batch import observed_rain
from nowcast.training.batch_norm import estimated_buffers, set_buffers
from nowcast.training.datamodule import RadarDataModule
from nowcast.training.gan import NowcastGAN
from nowcast.training.validation import ValidationSums

WINDOWS = 4
SIZE = 128
MEMBERS = 4


class OneBatch(RadarDataModule):
    """The same windows in every batch."""

    def train_dataloader(self) -> DataLoader:
        one = self.statistics_windows(WINDOWS)
        windows = [{name: value[number] for name, value in one.items()} for number in range(WINDOWS)]
        return DataLoader(windows * 10_000, batch_size=WINDOWS)


class Report(pl.Callback):
    """CRPS on the batch."""

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.batches_seen % 50 and pl_module.batches_seen != 2:
            return
        score(pl_module, batch)


def score(model: NowcastGAN, batch: dict[str, Tensor]) -> None:
    context, target = observed_rain(batch, context_frames=4, lead_steps=18)
    values, _ = model.representation.encode(context)
    trained = model.generator
    model.generator = copy.deepcopy(trained).eval()
    set_buffers(model.generator, estimated_buffers(trained, values))
    sums = ValidationSums()
    sums.add(model.ensemble(context, MEMBERS, seed=1), target, context[:, -1])
    model.generator = trained
    shown = {name: float(value) for name, value in sums.scores().items()}
    print(
        f"generator step {model.generator_steps:4d}: CRPS {shown['crps']:.3f} mm/h, persistence "
        f"{shown['crps_persistence']:.3f}, skill {shown['crps_skill']:+.2f}; CSI 1 mm/h "
        f"{shown['csi_1']:.2f} / {shown['csi_persistence_1']:.2f}; "
        f"spectra {shown['spectra_distance']:.1f} dB",
        flush=True,
    )


def main(data: Path, steps: int, **settings: Any) -> None:
    warnings.filterwarnings("ignore")
    pl.seed_everything(0)
    store = Path(tempfile.mkdtemp()) / "knmi.zarr"
    prepare(data / "knmi", store, read_recipe("configs/prep/knmi.yaml"))
    model = NowcastGAN(
        Generator(**PRESETS["tiny"]["generator"]), Discriminator(**PRESETS["tiny"]["discriminator"]),
        transform="square_root", generator_lr=1e-3, discriminator_lr=1e-3, betas=(0.5, 0.999), samples=2,
        **settings,
    )  # fmt: skip
    trainer = pl.Trainer(
        max_steps=3 * steps, accelerator="cpu", logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Report()],
    )  # fmt: skip
    trainer.fit(model, datamodule=OneBatch(str(store), batch_size=WINDOWS, size=SIZE))


if __name__ == "__main__":
    folder, steps = [*sys.argv[1:], *["../shared/data", "300"][len(sys.argv) - 1 :]]
    main(Path(folder), int(steps))
