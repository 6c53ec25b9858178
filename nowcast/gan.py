"""Training of the generator against its two critics."""

from __future__ import annotations

import copy
from collections import deque
from importlib.metadata import version
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from data_prep.schema import RefusedInput
from nowcast.gan_forecaster import refuse_other_data
from nowcast.losses import discriminator_hinge, generator_hinge, grid_cell_regularizer, masked_mean
from nowcast.model import Discriminator, Generator
from nowcast.model.discriminators import draw_crop, draw_frames
from nowcast.transform import TransformName, refuse_unknown_transform, to_network, to_rain
from nowcast.verification import ensemble_crps
from nowcast.weights import CARD

STATISTICS_WINDOWS = 32
"""Recent windows that the batch-norm statistics of a checkpoint are taken over.

With the paper's widths each takes about a quarter of a GiB for the moment.
"""


class NowcastGAN(pl.LightningModule):
    """DGMR's adversarial training (Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z).

    Every batch trains the discriminators; every `discriminator_steps`-th also trains the generator, so that
    the critics see two batches for one of the generator's, as the paper has it. Lightning counts the steps of
    both optimisers: with two discriminator steps, ``max_steps`` of 3 is one step of the generator.

    Args:
        generator: Network that makes the future.
        discriminator: Network that judges it.
        transform: mm/h to network value; see `nowcast.transform`.
        generator_lr: Learning rate of the generator.
        discriminator_lr: Learning rate of the discriminators.
        betas: Of Adam, for both.
        regularizer_weight: Weight (lambda) of the grid-cell regulariser against the sum of both critics.
        regularizer: How the regulariser weights rain; see `nowcast.losses.grid_cell_regularizer`.
        samples: Monte-Carlo samples of the future in a generator step.
        discriminator_steps: Discriminator steps for one of the generator.
        validation_members: Ensemble size in validation.
    """

    batches_seen: Tensor

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        transform: TransformName = "rain_rate",
        generator_lr: float = 5e-5,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.0, 0.999),
        regularizer_weight: float = 20.0,
        regularizer: Literal["paper", "pseudocode"] = "paper",
        samples: int = 6,
        discriminator_steps: int = 2,
        validation_members: int = 4,
    ) -> None:
        super().__init__()
        refuse_unknown_transform(transform)
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.transform = transform
        self.generator_lr = generator_lr
        self.discriminator_lr = discriminator_lr
        self.betas = betas
        self.regularizer_weight = regularizer_weight
        self.regularizer = regularizer
        self.samples = samples
        self.discriminator_steps = discriminator_steps
        self.validation_members = validation_members
        self.recent_contexts: deque[Tensor] = deque(maxlen=STATISTICS_WINDOWS)
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator and Adam for both discriminators together."""
        return [
            torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr, betas=self.betas),
            torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=self.betas),
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """One batch; rain and mask as `nowcast.datamodule.RadarCrops` gives them, batched."""
        context, target, mask = self._split(batch)
        self.recent_contexts.extend(context)
        self._discriminator_step(context, target, mask)
        self.batches_seen += 1
        if self.batches_seen % self.discriminator_steps == 0:
            self._generator_step(context, target, mask)

    def on_validation_start(self) -> None:
        """Validate the network that a checkpoint would hold."""
        statistics = self._batch_norm_statistics()
        own = {name.removeprefix("generator."): value for name, value in statistics.items()}
        self.generator.load_state_dict(own, strict=False)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """CRPS of a small ensemble beside that of persistence, over observed cells, mm/h."""
        context, target, mask = self._split(batch)
        noise = torch.Generator().manual_seed(batch_idx)
        members = self._sample(context, self.validation_members, noise=noise)
        rain = to_rain(members, self.transform).clamp(min=0).float()
        last = to_rain(context[:, -1:], self.transform).expand_as(target)
        first = self.generator.config["context_frames"]
        mask = mask & batch["mask"][:, first - 1 : first]  # persistence has nothing to say elsewhere
        scores = {
            "val/crps": masked_mean(ensemble_crps(rain, target), mask),
            "val/crps_persistence": masked_mean((last - target).abs(), mask),
        }
        self.log_dict(scores, prog_bar=True, batch_size=target.shape[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a forecaster needs to know, in plain values, and statistics it can rely on."""
        checkpoint["state_dict"].update(self._batch_norm_statistics())
        checkpoint[CARD] = {
            "generator": self.generator.config,
            "transform": self.transform,
            "package_version": version("nowcast"),
            **self._data(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from a checkpoint of another transform, grid spacing or time step.

        Raises:
            RefusedInput: If one of them differs.
        """
        card = checkpoint.get(CARD)
        if card is None:
            raise RefusedInput(
                "a checkpoint was written by nowcast train", came=f"one without '{CARD}'", do="start anew"
            )
        if card["transform"] != self.transform:
            raise RefusedInput(
                f"the checkpoint was trained with transform {card['transform']}",
                came=self.transform,
                do="set model.transform to the checkpoint's, or start anew",
            )
        refuse_other_data(card, self._data(), what="the checkpoint")

    def _batch_norm_statistics(self) -> dict[str, Tensor]:
        """Statistics of the present weights over recent windows, for the state dict.

        The windows go through as one batch, so that every layer sees what it will see in a forecast: with
        statistics that trail behind the weights, or are means over small batches, a forecast can run away.
        """
        if not self.recent_contexts:
            return {}
        generator = copy.deepcopy(self.generator).train()
        for module in generator.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        context = torch.stack(list(self.recent_contexts))
        shape = (context.shape[0], *generator.latent_shape(*context.shape[-2:]))
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():
            generator(context, torch.randn(shape, generator=noise).to(context))
        statistics = generator.state_dict()
        return {f"generator.{name}": value for name, value in statistics.items() if ".running_" in name}

    def _data(self) -> dict[str, float]:
        return self.trainer.datamodule.description  # type: ignore[attr-defined]

    def _optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        """Of the generator and of the discriminators."""
        generator, discriminator = cast(list[LightningOptimizer], self.optimizers())
        return generator, discriminator

    def _split(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Context in network values; target in mm/h and its mask, (B, L, 1, H, W).

        Raises:
            RefusedInput: If the windows of the store are shorter than context and lead times together.
        """
        first = self.generator.config["context_frames"]
        last = first + self.generator.config["lead_steps"]
        rain, mask = batch["rain"], batch["mask"]
        if rain.shape[1] < last:
            raise RefusedInput(
                f"a window holds {last} frames, context and lead times together",
                came=rain.shape[1],
                do="prepare the store with longer sampling.frames, or lower lead_steps",
            )
        return to_network(rain[:, :first], self.transform), rain[:, first:last], mask[:, first:last]

    def _discriminator_step(self, context: Tensor, target: Tensor, mask: Tensor) -> None:
        with torch.no_grad():
            fake = self._sample(context, 1)[0]
        _, optimizer = self._optimizers()
        self.toggle_optimizer(optimizer)
        judge = self._critics(context, mask)
        loss, diagnostics = discriminator_hinge(*judge(to_network(target, self.transform), fake))
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self._log({"loss/discriminator": loss, **diagnostics})

    def _generator_step(self, context: Tensor, target: Tensor, mask: Tensor) -> None:
        optimizer, _ = self._optimizers()
        self.toggle_optimizer(optimizer)
        samples = self._sample(context, self.samples)
        judge = self._critics(context, mask)
        adversarial, diagnostics = generator_hinge(torch.cat(judge(*samples)))
        rain = to_rain(samples, self.transform)
        cells, cell_diagnostics = grid_cell_regularizer(rain, target, mask, weight=self.regularizer)
        loss = adversarial + self.regularizer_weight * cells
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self._log({"loss/generator": loss, **diagnostics, **cell_diagnostics})

    def _sample(self, context: Tensor, count: int, *, noise: torch.Generator | None = None) -> Tensor:
        """Futures in network values, (count, B, L, 1, H, W); the context is encoded once."""
        batch, height, width = context.shape[0], *context.shape[-2:]
        shape = (batch * count, *self.generator.latent_shape(height, width))
        z = torch.randn(shape, generator=noise) if noise else torch.randn(shape, device=context.device)
        futures = self.generator(context, z.to(context))
        return futures.unflatten(0, (batch, count)).transpose(0, 1)

    def _critics(self, context: Tensor, mask: Tensor) -> Any:
        """A function that scores several futures of one context on the same frames and the same crop.

        Cells without data are 0 in every future, so that the mask tells real and generated rain apart
        for nobody.
        """
        batch, leads, _, height, width = mask.shape
        frames = draw_frames(
            batch,
            context_frames=context.shape[1],
            lead_steps=leads,
            count=self.discriminator.config["spatial_frames"],
            generator=None,
        )
        crop = draw_crop(height, width, generator=None)

        def judge(*futures: Tensor) -> tuple[Tensor, ...]:
            sequences = [torch.cat([context, future * mask], dim=1) for future in futures]
            scores = self.discriminator(
                torch.cat(sequences), frames=frames.repeat(len(futures), 1), crop=crop
            )
            return scores.chunk(len(futures))

        return judge

    def _log(self, values: dict[str, Tensor]) -> None:
        self.log_dict({name: value.detach() for name, value in values.items()}, prog_bar=False)
