"""Training of the generator against its two critics."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import Any, Literal, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_prep.schema import RefusedInput, refuse_less
from nowcast.forecasters.gan_forecaster import decode, encode, refuse_other_data
from nowcast.model import Discriminator, Generator
from nowcast.model.blocks import normalized_once
from nowcast.model.compiled import compile_blocks
from nowcast.representation import ChannelsName, FrameName, OutputName, Representation, drifted
from nowcast.training.batch import Draws, TrainingBatch, observed_rain, seen_by
from nowcast.training.batch_norm import estimated_buffers, hold_statistics, set_buffers
from nowcast.training.losses import REGULARIZERS, discriminator_hinge, generator_hinge
from nowcast.training.validation import ValidationSums
from nowcast.transform import TransformName
from nowcast.weights import CARD, PREFIX, generator_weights, refuse_other_card, take_weights

STATISTICS_WINDOWS = 32
"""Training windows that the batch-norm statistics of validation and of a checkpoint are taken over.

With the paper's widths each takes about a quarter of a GiB for the moment.
"""


class NowcastGAN(pl.LightningModule):
    """DGMR's adversarial training (Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z).

    Every batch trains the discriminators; every `discriminator_steps`-th also trains the generator, so that
    the critics see two batches for one of the generator's, as the paper has it. Lightning counts the steps of
    both optimisers: with two discriminator steps, ``max_steps`` of 3 is one step of the generator.

    All randomness of a step follows from `seed` and the number of the batch. A run that goes on from a
    checkpoint repeats what it would have done, and several processes do what one would do with all their
    windows (but for batch norm, whose statistics are those of each process unless they are synchronised).

    Args:
        generator: Network that makes the future.
        discriminator: Network that judges it.
        transform: mm/h to network value; see `nowcast.representation`, as for the next three.
        output: Whether the generator puts out rain or what changes.
        frame: Whether the networks see rain in place or carried along.
        channels: Whether the generator is told which cells of the context have no data.
        init: Weights that the generator starts from: a checkpoint, a weights file, or ``pretrained``.
        generator_lr: Learning rate of the generator.
        discriminator_lr: Learning rate of the discriminators.
        anneal_steps: Generator steps in which both rates fall to 0, along half a cosine; never if not given.
        betas: Of Adam, for both.
        regularizer: What keeps the samples near the observation; see `nowcast.training.losses.REGULARIZERS`.
        regularizer_weight: Its weight (lambda) against the sum of both critics.
        adversarial_weight: Weight of the critics in the generator's loss. With 0 there are none: every batch
            trains the generator, by the regularizer alone.
        hold_norms: Whether batch norm keeps the statistics that the generator starts with, in training too.
        samples: Monte-Carlo samples of the future in a generator step.
        discriminator_steps: Discriminator steps for one of the generator.
        validation_members: Ensemble size in validation.
        micro_batches: Parts into which each batch is cut; their gradients add up to one step, which takes
            less memory. Batch norm then sees one part at a time.
        gradient_checkpointing: Whether the sampler's activations are computed again instead of kept.
        compile: Whether torch compiles the blocks of the networks, which takes minutes once.
        seed: Of all noise, frames and crops.
    """

    def __init__(  # noqa: PLR0913 (the settings of a training)
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        transform: TransformName = "rain_rate",
        output: OutputName = "rain",
        frame: FrameName = "fixed",
        channels: ChannelsName = "rain",
        init: str | None = None,
        generator_lr: float = 5e-5,
        discriminator_lr: float = 2e-4,
        anneal_steps: int | None = None,
        betas: tuple[float, float] = (0.0, 0.999),
        regularizer: Literal["paper", "pseudocode", "crps", "normalized_crps"] = "paper",
        regularizer_weight: float = 20.0,
        adversarial_weight: float = 1.0,
        hold_norms: bool = False,
        samples: int = 6,
        discriminator_steps: int = 2,
        validation_members: int = 4,
        micro_batches: int = 1,
        gradient_checkpointing: bool = False,
        compile: bool = False,  # noqa: A002
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {
            "samples": samples,
            "discriminator_steps": discriminator_steps,
            "validation_members": validation_members,
            "micro_batches": micro_batches,
            "anneal_steps": 1 if anneal_steps is None else anneal_steps,
        }
        refuse_less({f"model.{name}": value for name, value in counts.items()}, than=1)
        refuse_less({"model.samples": samples}, than=2 if "crps" in regularizer else 1)
        refuse_less({"seed": seed, "model.adversarial_weight": adversarial_weight}, than=0)
        contexts = generator.config["context_frames"], discriminator.config["context_frames"]
        if contexts[0] != contexts[1]:
            raise RefusedInput(
                "generator and discriminator have one number of context_frames",
                came=f"{contexts[0]} and {contexts[1]}",
                do="set both",
            )
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.representation = Representation(
            transform=transform, output=output, frame=frame, channels=channels
        )
        self.representation.refuse_other_channels(generator.config["input_channels"])
        if init is not None:
            take_weights(generator, init)
        self.generator_lr = generator_lr
        self.discriminator_lr = discriminator_lr
        self.betas = betas
        self.regularizer = REGULARIZERS[regularizer]
        self.regularizer_weight = regularizer_weight
        self.adversarial_weight = adversarial_weight
        self.hold_norms = hold_norms
        self.anneal_steps = anneal_steps
        self.samples = samples
        self.discriminator_steps = discriminator_steps if adversarial_weight else 0
        self.validation_members = validation_members
        self.micro_batches = micro_batches
        self.seed = seed
        self.batches_seen = 0
        self.generator_steps = 0
        self.validation_sums: ValidationSums | None = None
        self.training_buffers: dict[str, Tensor] = {}
        self.resumed_buffers: dict[str, Tensor] = {}
        generator.sampler.recompute = gradient_checkpointing
        if compile:
            compile_blocks(generator, discriminator)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator and Adam for both discriminators together."""
        return [
            torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr, betas=self.betas),
            torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=self.betas),
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """One batch; rain and mask as `nowcast.training.crops.RadarCrops` gives them, batched.

        Raises:
            RefusedInput: If the batch cannot be used, before anything has changed, or if a gradient is not
                finite, before the step that it would have made.
        """
        if self.hold_norms:
            hold_statistics(self.generator)
        windows = TrainingBatch.of(batch, self.representation, **self._frames())
        cells = self._reduce(windows.mask.sum().float(), "mean")
        if cells == 0:
            raise RefusedInput(
                "a batch holds an observed cell to learn from",
                came="a mask without one after the context",
                do="prepare the store anew: its sampled windows hold data",
            )
        if self.adversarial_weight:
            self._discriminator_step(windows)
        self.batches_seen += 1
        if self.batches_seen % max(1, self.discriminator_steps) == 0:
            self._generator_step(windows, cells)
            self.generator_steps += 1

    def on_fit_start(self) -> None:
        """Take up the buffers that training was at.

        Raises:
            RefusedInput: If the precision scales the loss: the guard would take its first trials for faults.
        """
        if self.trainer.precision == "16-mixed":
            raise RefusedInput("precision is 32-true or bf16-mixed", came="16-mixed", do="use bf16-mixed")
        set_buffers(self.generator, self.resumed_buffers)

    def on_validation_start(self) -> None:
        """Remember the buffers of training."""
        self.training_buffers = {name: value.clone() for name, value in self.generator.named_buffers()}

    def on_validation_end(self) -> None:
        """Go back to the buffers of training."""
        set_buffers(self.generator, self.training_buffers)

    def on_validation_epoch_start(self) -> None:
        """Validate the network that a checkpoint would hold."""
        set_buffers(self.generator, self._forecast_buffers(self.generator))
        self.validation_sums = ValidationSums()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """A small ensemble of every window, as a forecast would have it, into the sums."""
        context, target = observed_rain(batch, **self._frames())
        how = seen_by(self.representation, batch)
        members = self.ensemble(context, self.validation_members, seed=batch_idx, representation=how)
        sums = cast(ValidationSums, self.validation_sums)
        sums.add(members, target, context[:, -1], probability=batch["probability"])

    def on_validation_epoch_end(self) -> None:
        """Scores over all windows of all processes."""
        sums = cast(ValidationSums, self.validation_sums)
        if sums.totals:
            sums.totals = {name: self._reduce(total, "sum") for name, total in sums.totals.items()}
            scores = {f"val/{name}": value for name, value in sums.scores().items()}
            self.log_dict(scores, prog_bar=True, rank_zero_only=False)

    @torch.no_grad()
    def ensemble(
        self, context: Tensor, members: int, *, seed: int, representation: Representation | None = None
    ) -> Tensor:
        """Forecasts from contexts (B, T, H, W) in mm/h: (members, B, L, H, W), NaN where there is none."""
        how = representation or self.representation
        noise = torch.Generator().manual_seed(seed)
        shape = (len(context) * members, *self.generator.latent_shape(*context.shape[-2:]))
        z = torch.randn(shape, generator=noise).to(context)
        steps = self.generator.config["lead_steps"]
        encoded = encode(self.generator, how, context, lead_steps=steps)
        parts = decode(self.generator, how, encoded, z, lead_steps=steps, steps_at_once=steps)
        rain = torch.cat(list(parts), dim=1)
        return rain.unflatten(0, (len(context), members)).transpose(0, 1)

    def card(self) -> dict[str, Any]:
        """What the network is and what data it is trained on, in plain values; see `nowcast.weights`."""
        return {
            "generator": self.generator.config,
            "discriminator": self.discriminator.config,
            **self.representation.card(),
            "package_version": version("nowcast"),
            **self._data(),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card, and batch-norm statistics that the weights in the checkpoint can rely on."""
        state = checkpoint["state_dict"]
        generator = copy.deepcopy(self.generator)
        generator.load_state_dict(generator_weights(state))
        buffers = self._forecast_buffers(generator)
        checkpoint["state_dict"] = {
            **state,
            **{PREFIX + name: value for name, value in buffers.items() if PREFIX + name in state},
        }
        checkpoint["training_buffers"] = dict(self.generator.named_buffers())
        checkpoint["batches_seen"] = self.batches_seen
        checkpoint["generator_steps"] = self.generator_steps
        checkpoint[CARD] = self.card()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from a checkpoint of other networks or other data.

        Raises:
            RefusedInput: If networks, representation, grid spacing or time step differ.
        """
        own = self.card()
        names = ("generator", "discriminator", *self.representation.card())
        card = refuse_other_card(checkpoint.get(CARD), own, names)
        refuse_other_data(card, own, what="the checkpoint")
        self.resumed_buffers = checkpoint["training_buffers"]
        self.batches_seen = checkpoint["batches_seen"]
        self.generator_steps = checkpoint["generator_steps"]

    def _frames(self) -> dict[str, int]:
        return {name: self.generator.config[name] for name in ("context_frames", "lead_steps")}

    def _data(self) -> dict[str, float]:
        return self.trainer.datamodule.description  # type: ignore[attr-defined]

    def _forecast_buffers(self, generator: Generator) -> dict[str, Tensor]:
        """Buffers that the weights of a generator can be used with."""
        if self.hold_norms:
            return dict(generator.named_buffers())
        windows = self.trainer.datamodule.statistics_windows(STATISTICS_WINDOWS)  # type: ignore[attr-defined]
        windows = {name: value.to(self.device) for name, value in windows.items()}
        context, _ = observed_rain(windows, **self._frames())
        return estimated_buffers(generator, seen_by(self.representation, windows).encode(context).values)

    def _discriminator_step(self, windows: TrainingBatch) -> None:
        with self._stepping("discriminator", self.discriminator) as backward:
            for part, draws, first in self._parts(windows, samples=1, purpose=0):
                with normalized_once(self.generator, self.discriminator, iterate=first):
                    with torch.no_grad():
                        fake = self._futures(part, draws)[0]
                    loss, terms = discriminator_hinge(*self._judge(part, draws, part.real, fake))
                    share = len(part) / len(windows)
                    backward(loss * share, _scaled(terms, share), fake)

    def _generator_step(self, windows: TrainingBatch, cells: Tensor) -> None:
        """One step; `cells` is the number of observed cells in the windows of a process, on average."""
        with self._stepping("generator", self.generator) as backward:
            for part, draws, first in self._parts(windows, samples=self.samples, purpose=1):
                with normalized_once(self.generator, self.discriminator, iterate=first):
                    futures = self._futures(part, draws)
                    adversarial, terms = self._adversarial(part, draws, futures)
                    rain = self.representation.to_rain(futures)
                    distance, distances = self.regularizer.loss(rain, part.target, part.mask)
                    share = len(part) / len(windows)
                    cell_share = share if self.regularizer.per_window else part.mask.sum() / cells
                    loss = adversarial * share + self.regularizer_weight * distance * cell_share
                    terms = _scaled(terms, share)
                    distances = _scaled({**distances, "loss/regularizer": distance}, cell_share)
                    backward(loss, {**terms, **distances}, futures)

    def _parts(
        self, windows: TrainingBatch, *, samples: int, purpose: int
    ) -> Iterator[tuple[TrainingBatch, Draws, bool]]:
        """The micro-batches of a step, their noise, frames and crop, and whether one is the first."""
        key = np.random.SeedSequence([self.seed, self.batches_seen, purpose]).generate_state(1, np.uint64)
        draws = Draws.of(
            windows,
            samples=samples,
            latent_shape=self.generator.latent_shape(*windows.mask.shape[-2:]),
            spatial_frames=self.discriminator.config["spatial_frames"],
            noise=torch.Generator().manual_seed(int(key[0] >> 1)),
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        )
        parts = zip(windows.parts(self.micro_batches), draws.parts(self.micro_batches), strict=True)
        yield from ((part, own, number == 0) for number, (part, own) in enumerate(parts))

    def _futures(self, part: TrainingBatch, draws: Draws) -> Tensor:
        """Futures in network values, (samples, B, L, 1, H, W); the context is encoded once."""
        z, (height, width) = draws.z.flatten(0, 1), part.context.shape[-2:]
        states = self.generator.encode(part.context)
        futures = self.generator.decode(states, z, size=(height, width)).unflatten(0, draws.z.shape[:2])
        values = self.representation.from_network(futures.transpose(0, 1), part.last)
        error = self.generator.velocity_error(states, z, size=(height, width))
        if error is None:
            return values
        return (
            drifted(values.transpose(0, 1).flatten(0, 1), error)
            .unflatten(0, draws.z.shape[:2])
            .transpose(0, 1)
        )

    def _adversarial(
        self, part: TrainingBatch, draws: Draws, futures: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the critics add to the generator's loss, and what there is to log of them."""
        if not self.adversarial_weight:
            return futures.new_zeros(()), {}
        adversarial, terms = generator_hinge(torch.cat(self._judge(part, draws, *futures)))
        return self.adversarial_weight * adversarial, {**terms, "loss/adversarial": adversarial}

    def _judge(self, part: TrainingBatch, draws: Draws, *futures: Tensor) -> tuple[Tensor, ...]:
        """Scores of several futures of one context, on the same frames and the same crop.

        Cells without data are 0 in every future, so that the mask tells real and generated rain apart
        for nobody.
        """
        context = part.context[:, :, :1]
        sequences = torch.cat([torch.cat([context, future * part.mask], dim=1) for future in futures])
        frames = draws.frames.repeat(len(futures), 1)
        return self.discriminator(sequences, frames=frames, crop=draws.crop).chunk(len(futures))

    @contextmanager
    def _stepping(self, name: str, network: nn.Module) -> Iterator[Any]:
        """One step of an optimiser: yields what takes the losses of the micro-batches, then steps.

        Gradients of several processes are averaged here and not by DistributedDataParallel, which expects
        each backward pass to reach all networks.
        """
        optimizer = self._optimizer(name)
        self.toggle_optimizer(optimizer)
        totals: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}

        def backward(loss: Tensor, terms: dict[str, Tensor], forecast: Tensor) -> None:
            with self._unsynchronised():
                self.manual_backward(loss)
            values = {key if "/" in key else f"{name}/{key}": value.detach() for key, value in terms.items()}
            for key, value in {f"loss/{name}": loss.detach(), **values}.items():
                totals[key] = totals.get(key, 0) + value
            seen.update({"the forecast": forecast.detach(), **values})

        yield backward
        self._average_gradients(network)
        gradients = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        if not norm.isfinite():
            named = {f"gradient of {name}.{key}": gradient for key, gradient in gradients.items()}
            raise self._not_finite({**seen, **named}, name)
        if self.anneal_steps is not None:
            share = min(self.generator_steps / self.anneal_steps, 1)
            for group in optimizer.param_groups:
                group["lr"] = getattr(self, f"{name}_lr") * (1 + math.cos(math.pi * share)) / 2
        optimizer.step()
        optimizer.zero_grad()  # the other network's step has better use for the memory
        self.untoggle_optimizer(optimizer)
        means = self._reduce(torch.stack(list(totals.values())), "mean")
        self.log_dict({**dict(zip(totals, means, strict=True)), f"gradient_norm/{name}": norm})

    def _not_finite(self, tensors: dict[str, Tensor], network: str) -> RefusedInput:
        broken = next(
            (name for name, value in tensors.items() if not value.isfinite().all()), "gradient norm"
        )
        return RefusedInput(
            "losses and gradients are finite",
            came=f"{broken} is not, after {self.batches_seen} batches; the step of the {network} is not made",
            do="go on from the last checkpoint (--ckpt_path) with a lower learning rate or precision 32-true",
        )

    def _average_gradients(self, network: nn.Module) -> None:
        if self.trainer.world_size == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        flat = self._reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def _unsynchronised(self) -> Any:
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def _reduce(self, value: Tensor, how: str) -> Tensor:
        """Sum or mean over all processes."""
        return cast(Tensor, self.trainer.strategy.reduce(value, reduce_op=how))

    def _optimizer(self, name: str) -> LightningOptimizer:
        generator, discriminator = cast(list[LightningOptimizer], self.optimizers())
        return generator if name == "generator" else discriminator


def _scaled(terms: dict[str, Tensor], share: Tensor | float) -> dict[str, Tensor]:
    return {name: share * value for name, value in terms.items()}
