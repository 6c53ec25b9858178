"""What watches a training: the average of the generator's weights, the last state, pictures of one case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Callback, Checkpoint, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from nowcast.training.batch import observed_rain


class GeneratorAverage(WeightAveraging):
    """Exponential moving average of the weights, taken after every step of the generator.

    What is validated, saved for forecasts and left at the end of a training is the average; a checkpoint
    holds the weights themselves as well, and training goes on from those. The paper's released weights are
    such an average with decay 0.9999. It starts with the decay (1 + n) / (10 + n) after n steps while that
    is less, so that the first weights are forgotten.

    Args:
        decay: How much of the average stays in a step.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        def averaged(average: Tensor, weight: Tensor, steps: Tensor) -> Tensor:
            kept = torch.clamp((1 + steps) / (10 + steps), max=decay)
            return torch.lerp(weight, average, kept.to(average.dtype))

        super().__init__(use_buffers=False, avg_fn=averaged)
        self._steps = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start from the weights there are, where they will be trained (they are moved there later)."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        self._steps = int(pl_module.generator_steps)  # type: ignore[arg-type]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Take the new weights in, if the generator has made a step."""
        steps = int(pl_module.generator_steps)  # type: ignore[arg-type]
        if steps > self._steps and self._average_model is not None:
            self._average_model.update_parameters(pl_module)
            self._steps = steps

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: the average follows steps, not epochs."""

    def state_dict(self) -> dict[str, Any]:
        """Number of the last generator step that was taken in."""
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `state_dict`."""
        self._steps = state_dict["steps"]


class LastCheckpoint(Checkpoint):
    """Keeps the state to go on from in ``last.ckpt``, written whole every so many batches and at epoch ends.

    Args:
        folder: Where; ``checkpoints`` in the folder of the first logger if none is given.
        every_n_batches: Batches between two states.
    """

    def __init__(self, folder: str | None = None, every_n_batches: int = 1000) -> None:
        self.folder = folder
        self.every_n_batches = every_n_batches
        self.last_model_path = ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Agree on the folder in all processes."""
        folder = self.folder or str(Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints")
        self.folder = trainer.strategy.broadcast(folder)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Save, if it is time."""
        if int(pl_module.batches_seen) % self.every_n_batches == 0:  # type: ignore[arg-type]
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Save: a run that is over ends an epoch, too."""
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self.last_model_path = str(Path(str(self.folder)) / "last.ckpt")
        trainer.save_checkpoint(self.last_model_path)


class CasePictures(Callback):
    """Draws what fell and what is forecast in one fixed validation window, in every validation.

    Pictures go to TensorBoard where it is among the loggers, else to files ``pictures/*.png`` in the folder
    of the first logger.

    Args:
        case: Number of the validation window.
        lead_steps: Lead times to draw.
    """

    def __init__(self, case: int = 0, lead_steps: tuple[int, ...] = (1, 3, 6, 12, 18)) -> None:
        self.case = case
        self.lead_steps = lead_steps
        self.folder = Path()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Agree on the folder in all processes."""
        self.folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Forecast the case and draw it, once a validation and with the weights that are validated."""
        windows = trainer.datamodule.validation  # type: ignore[attr-defined]
        skip = batch_idx > 0 or not trainer.is_global_zero or trainer.sanity_checking
        if skip or len(windows) <= self.case:
            return
        window = {name: value[None].to(pl_module.device) for name, value in windows[self.case].items()}
        context, target = observed_rain(window, **pl_module._frames())  # type: ignore[operator]
        members = pl_module.ensemble(context, 2, seed=0)[:, 0].cpu()  # type: ignore[operator]
        steps = [step for step in self.lead_steps if step <= target.shape[1]]
        rows = {"observed": target[0].cpu(), "member 0": members[0], "member 1": members[1]}
        figure = _panel(context[0, -1].cpu(), rows, steps)
        self._publish(trainer, figure)

    def _publish(self, trainer: pl.Trainer, figure: Figure) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("case", figure, global_step=trainer.global_step)
                return
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.folder / f"step{trainer.global_step:07d}.png", dpi=80)


def _panel(last: Tensor, rows: dict[str, Tensor], steps: list[int]) -> Figure:
    """Rows of rain (L, H, W) in mm/h at some lead times, beside the last frame (H, W)."""
    # With cartopy, which training itself does without.
    from nowcast.plotting.maps import draw_colour_bar
    from nowcast.plotting.palettes import RAIN

    figure = Figure(figsize=(2.2 * (1 + len(steps)) + 0.9, 2.3 * len(rows)), layout="constrained")
    ((pictures, key),) = figure.subfigures(1, 2, squeeze=False, width_ratios=[2.2 * (1 + len(steps)), 0.9])
    axes = pictures.subplots(len(rows), 1 + len(steps), squeeze=False)
    for line, (name, rain) in zip(axes, rows.items(), strict=True):
        fields = {"last frame": last, **{f"frame +{step}": rain[step - 1] for step in steps}}
        for axis, (title, field) in zip(line, fields.items(), strict=True):
            axis.imshow(field.numpy(), cmap=RAIN.colour_map(), norm=RAIN.norm(), interpolation="nearest")
            axis.set(xticks=[], yticks=[], title=title if name == "observed" else "")
        line[0].set_ylabel(name)
    draw_colour_bar(key.add_axes((0.1, 0.1, 0.2, 0.8)), RAIN, orientation="vertical")
    return figure
