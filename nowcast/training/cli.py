"""Lightning's command line for our networks and data: ``nowcast train``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from nowcast.training.datamodule import RadarDataModule
from nowcast.training.gan import NowcastGAN
from nowcast.training.memory import keep_freed_memory


class TrainingCLI(LightningCLI):
    """Lightning's command line with one seed for everything."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Hand the seed on to the networks and to the data."""
        for target in ("model.seed", "data.init_args.seed"):
            parser.link_arguments("seed_everything", target, compute_fn=int)
        parser.add_argument("--init", type=str | None, help="weights to start from: a file, or pretrained")
        parser.link_arguments("init", "model.init")

    def _parse_ckpt_path(self) -> None:
        """Nothing: our checkpoints hold no arguments, and `WholeCheckpoints` is who reads them."""


def training_cli(argv: Sequence[str], *, run: bool = True, **parser: str) -> LightningCLI:
    """Parse a training and, if asked, run it.

    Args:
        argv: Its arguments; with a subcommand first if it runs.
        run: Whether to run the subcommand, or only to build model, data and trainer.
        parser: How the parser differs from that of train.
    """
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    # Ours needs no state: which windows come next follows from NowcastGAN.batches_seen.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
    if run:
        keep_freed_memory()
    return TrainingCLI(
        NowcastGAN,
        RadarDataModule,
        args=list(argv),
        run=run,
        seed_everything_default=0,
        subclass_mode_data=True,
        trainer_defaults={"plugins": [{"class_path": "nowcast.training.checkpoint_io.WholeCheckpoints"}]},
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "nowcast train", **parser},
    )
