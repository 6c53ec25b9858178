"""A training in a process of its own, for tests that kill it or run several processes."""

import os
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from nowcast.model import Discriminator, Generator
from nowcast.training.callbacks import GeneratorAverage, LastCheckpoint
from nowcast.training.checkpoint_io import WholeCheckpoints
from nowcast.training.datamodule import RadarDataModule
from nowcast.training.gan import NowcastGAN


def small(**settings) -> NowcastGAN:
    torch.manual_seed(0)
    sizes = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12)}
    critics = {"spatial_channels": (4, 8, 8), "temporal_channels": (4, 8, 8), "spatial_frames": 4}
    options = {"samples": 2, "generator_lr": 1e-3, "transform": "square_root", **settings}
    return NowcastGAN(Generator(**sizes), Discriminator(**critics), **options)


def train(store: str, folder: Path, *, steps: int, resume: str | None = None) -> None:
    """Train with a checkpoint every three batches and every loss in a CSV file."""
    torch.set_num_threads(1)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, logger=CSVLogger(folder, name="", version="log"),
        plugins=[WholeCheckpoints()],
        callbacks=[GeneratorAverage(), LastCheckpoint(str(folder), every_n_batches=3)],
    )  # fmt: skip
    data = RadarDataModule(store, batch_size=2, samples_per_epoch=14, validation_samples=2)
    trainer.fit(small(), datamodule=data, ckpt_path=resume, weights_only=True)


class FixedStatistics(pl.Callback):
    """Batch norm as in evaluation: its statistics would differ between a batch and its halves."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # noqa: ARG002
        for module in pl_module.generator.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


class Gradients(pl.Callback):
    """Keeps the gradients that an optimiser is about to use."""

    def __init__(self) -> None:
        self.last: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):  # noqa: ARG002
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.last[name] = parameter.grad.clone()


def step(
    store: str, file: Path, *, processes: int, micro_batches: int = 1, regularizer: str = "paper"
) -> None:
    """Two discriminator steps and one generator step on batches of four windows; saves the gradients."""
    torch.set_num_threads(1)
    gradients = Gradients()
    model = small(micro_batches=micro_batches, regularizer=regularizer, discriminator_lr=0.0)
    trainer = pl.Trainer(
        max_steps=3, accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        logger=False, enable_checkpointing=False, callbacks=[FixedStatistics(), gradients],
    )  # fmt: skip
    trainer.fit(model, datamodule=RadarDataModule(store, batch_size=4 // processes, samples_per_epoch=8))
    if trainer.is_global_zero:
        torch.save({name: gradients.last.get(name) for name, _ in model.named_parameters()}, file)


def step_of_rank(rank: int, port: int, store: str, file: Path, regularizer: str) -> None:
    """The step of one of two processes that something else than Lightning started."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
    }  # fmt: skip
    step(store, file, processes=2, regularizer=regularizer)
