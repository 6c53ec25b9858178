"""What a step of training needs and takes, said before it runs.

The steps are those of `nowcast.training.gan.NowcastGAN`, gone through on fake tensors (docs.pytorch.org,
torch.compiler_fake_tensor). These have a shape, a type and a device but no values, so that nothing is
computed and no memory taken. Tensors on the device "meta" would not do: autocast passes them by.
"""

from __future__ import annotations

import copy
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from data_prep.schema import RefusedInput
from nowcast.checks import Report
from nowcast.training.batch import TrainingBatch
from nowcast.training.datamodule import RadarCrops, RadarDataModule
from nowcast.training.gan import NowcastGAN

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Type of the convolutions by precision, as Lightning names it; None is that of the weights."""
CPU = torch.device("cpu")
PAPER_SIZE = 256
"""Cells a side of a crop where neither configuration nor store say."""


class StepCost(NamedTuple):
    """What one step of the generator takes, together with its steps of the discriminators."""

    flops: int
    """Of convolutions and matrix products, forward, backward and again where activations are recomputed."""
    moved_bytes: int
    """What all other operators read and write."""
    operators: int
    """Number of operators that compute or copy."""
    peak_bytes: int
    """The most that tensors take at a time, the weights included."""
    weights_bytes: int
    """Weights, gradients, both moments of Adam, and the average of the weights if there is one."""


class Rates(NamedTuple):
    """What a device does in a second."""

    flops: float
    """Floating-point operations of a convolution."""
    moved_bytes: float
    """Bytes read and written by an operator that works cell by cell."""
    operators: float
    """Operators on a single number."""


def step_cost(
    model: NowcastGAN,
    *,
    batch_size: int,
    height: int,
    width: int,
    precision: str = "32-true",
    device: torch.device = CPU,
    averaged: bool = False,
) -> StepCost:
    """Goes through the discriminators' steps and the step of the generator that follows.

    Left out are the preparation of the batch, the optimisers' arithmetic, compilation, and scratch memory of
    single operators. The memory is that of tensors; the allocator adds to it what it cannot reuse. On a CPU a
    process grew by 1.1 to 2.1 times the expected peak with glibc's usual settings, by 1.1 to 1.2 times where
    MALLOC_MMAP_THRESHOLD_=65536 made it give back what was freed. No GPU has been tried.

    Args:
        model: The training; its networks may be on any device, also on "meta".
        batch_size: Windows in a batch.
        height: Rows of a window.
        width: Columns of a window.
        precision: As Lightning names it, a key of `AUTOCAST`.
        device: Where it would run; it is not used.
        averaged: Whether an average of the weights is kept.

    Raises:
        RefusedInput: If the precision is another.
        ValueError: If the networks cannot work on windows of this size.
    """
    autocast = _autocast(device, precision)
    like = partial(_fake, mode=FakeTensorMode(allow_non_fake_inputs=True), device=device)
    rehearsal = _Rehearsal(model, like)
    windows = _windows(rehearsal, batch_size, height, width, like)
    meter, counter = _Meter(), FlopCounterMode(display=False)
    for tensor in (*rehearsal.tensors(), windows.context, windows.real, windows.target, windows.mask):
        meter.follow(tensor)
    with autocast, meter, counter:
        for _ in range(model.discriminator_steps):
            rehearsal._discriminator_step(windows)
        rehearsal._generator_step(windows, windows.mask.sum().float())
    weights = sum(value.nbytes for value in rehearsal.parameters())
    state = weights + sum(value.nbytes for value in rehearsal.buffers())
    kept = 2 * weights + (state if averaged else 0)
    return StepCost(
        flops=counter.get_total_flops(),
        moved_bytes=meter.moved,
        operators=meter.operators,
        peak_bytes=meter.peak + kept,
        weights_bytes=state + weights + kept,
    )


def expected_seconds(cost: StepCost, rates: Rates) -> float:
    """Time of a step, s: its arithmetic and its memory traffic, no less than starting its operators takes.

    An estimate: on one thread of a CPU, 0.66 to 0.95 of what was measured for three sizes of network, two of
    them in two precisions; arithmetic alone would have said 0.07 to 0.43. No GPU has been tried. Where other
    processes compute on the same cores, torch's threads wait for each other and a step takes many times that.
    """
    busy = cost.flops / rates.flops + cost.moved_bytes / rates.moved_bytes
    return max(busy, cost.operators / rates.operators)


def measure_rates(device: torch.device, precision: str) -> Rates:
    """What the device does, measured in about three seconds.

    Raises:
        RefusedInput: If the precision is not one of `AUTOCAST`.
    """
    return Rates(convolution_rate(device, precision), _pointwise_rate(device, precision), _start_rate(device))


def convolution_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a 3x3 convolution of 96 channels, forward and backward, measured in about a second.

    Raises:
        RefusedInput: If the precision is not one of `AUTOCAST`.
    """
    shape, kernel = (18, 96, 64, 64), (96, 96, 3, 3)
    autocast = _autocast(device, precision)
    weight, x = (
        torch.rand(size, device=device).to(memory_format=torch.channels_last).requires_grad_()
        for size in (kernel, shape)
    )

    def run() -> None:
        with autocast:
            y = F.conv2d(x, weight, padding=1)
        y.backward(y.detach())

    flops_forward = 2 * prod(kernel) * shape[0] * prod(shape[2:])
    return 3 * flops_forward / _best_seconds(run, device)


def expectations(configure: Callable[[], Any]) -> Report:
    """What a training needs and takes on the device that its trainer would use.

    Args:
        configure: Gives an object with the model, the datamodule and the trainer, as Lightning's command
            line is; it is called where networks take no memory.

    Raises:
        RefusedInput: If the precision is not one of `AUTOCAST`, or the store cannot be trained on.
        ValueError: If the networks cannot work on windows of this size.
    """
    with torch.device("meta"):
        training = configure()
    model, data, trainer = training.model, training.datamodule, training.trainer
    device, precision = trainer.strategy.root_device, trainer.precision
    height, width, origin = _window_size(data)
    cost = step_cost(
        model,
        batch_size=data.batch_size,
        height=height,
        width=width,
        precision=precision,
        device=device,
        averaged=any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks),
    )
    rates = measure_rates(device, precision)
    seconds = expected_seconds(cost, rates)
    critics = model.discriminator_steps
    facts = [
        f"generator {_millions(model.generator)}, discriminators {_millions(model.discriminator)} million "
        "parameters",
        f"batch {data.batch_size}, {height} x {width} cells ({origin}), {model.samples} samples, "
        f"{precision}, gradient checkpointing {'on' if model.generator.sampler.recompute else 'off'}, "
        f"micro batches {model.micro_batches}",
        f"a step of the generator and {critics} of the discriminators: {cost.flops / 1e12:.3g} TFLOP, "
        f"{cost.moved_bytes / 1e9:.3g} GB read and written",
        f"expected peak memory {_gib(cost.peak_bytes)}, of it {_gib(cost.weights_bytes)} for the weights and "
        "their training",
        f"measured on {device}: {rates.flops / 1e12:.3g} TFLOP/s, {rates.moved_bytes / 1e9:.3g} GB/s",
        f"expected {_rounded(seconds)} s for that step (good to a factor of two); "
        f"{_duration(trainer.max_steps // (critics + 1), seconds)}",
    ]
    return facts, _memory_findings(cost, device)


class _Rehearsal(NowcastGAN):
    """The steps of a training on tensors that `like` makes, without data, trainer and optimisers."""

    def __init__(self, model: NowcastGAN, like: Callable[[Tensor], Tensor]) -> None:
        super().__init__(
            copy.deepcopy(model.generator),
            copy.deepcopy(model.discriminator),
            **model.representation.card(),  # type: ignore[arg-type]
            regularizer_weight=model.regularizer_weight,
            adversarial_weight=model.adversarial_weight,
            hold_norms=model.hold_norms,
            samples=model.samples,
            micro_batches=model.micro_batches,
            gradient_checkpointing=model.generator.sampler.recompute,
        )
        self.regularizer = model.regularizer
        self.trainer = cast(pl.Trainer, SimpleNamespace(world_size=1, global_rank=0))
        self.train()
        for part in self.modules():
            for name, weight in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(like(weight)))
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, like(buffer))
        for parameter in self.parameters():
            parameter.grad = like(parameter)  # as the step before has left it

    def tensors(self) -> Iterator[Tensor]:
        """Weights, buffers and gradients."""
        yield from self.buffers()
        for parameter in self.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad

    def _reduce(self, value: Tensor, how: str) -> Tensor:  # noqa: ARG002
        return value

    @contextmanager
    def _stepping(self, name: str, network: nn.Module) -> Iterator[Any]:  # noqa: ARG002
        for part in (self.generator, self.discriminator):
            part.requires_grad_(part is network)
        network.zero_grad()
        yield lambda loss, *_: loss.backward()


class _Meter(TorchDispatchMode):
    """Follows the memory of tensors, and counts operators without FLOPs and what they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.moved = self.operators = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def follow(self, tensor: Tensor) -> bool:
        """Count the memory of a tensor while it is alive; tells whether it is new and not that of another."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return False
        self._known.add(storage)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, storage.nbytes())
        return True

    def _release(self, count: int) -> None:
        self.alive -= count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ARG002
        out = func(*args, **(kwargs or {}))
        made = [self.follow(value) for value in tree_leaves(out) if isinstance(value, Tensor)]
        if any(made) or func._schema.is_mutable:
            self.operators += 1
            if func.overloadpacket not in flop_registry:
                values = tree_leaves((args, kwargs, out))
                self.moved += sum(value.nbytes for value in values if isinstance(value, Tensor))
        return out


def _fake(value: Tensor, *, mode: FakeTensorMode, device: torch.device) -> Tensor:
    with mode:
        return torch.empty_like(value, device=device)


def _windows(
    model: NowcastGAN, batch_size: int, height: int, width: int, like: Callable[[Tensor], Tensor]
) -> TrainingBatch:
    frames = model._frames()
    channels = model.representation.channel_count
    context = torch.empty(batch_size, frames["context_frames"], channels, height, width, device="meta")
    target = torch.empty(batch_size, frames["lead_steps"], 1, height, width, device="meta")
    return TrainingBatch(like(context), like(target), like(target), like(target.bool()))


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    """Precision of the convolutions, as Lightning sets it.

    Raises:
        RefusedInput: If it is not one of `AUTOCAST`.
    """
    if precision not in AUTOCAST:
        raise RefusedInput(
            f"the cost of a step is known for the precisions {', '.join(AUTOCAST)}",
            came=precision,
            do="set trainer.precision to one of these",
        )
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _pointwise_rate(device: torch.device, precision: str) -> float:
    """Bytes/s of a ReLU forward (reads one field, writes one) and backward (reads two, writes one)."""
    x = torch.rand(18, 96, 128, 128, device=device, dtype=AUTOCAST[precision]).requires_grad_()

    def run() -> None:
        y = x.relu()
        y.backward(y.detach())

    return 5 * x.nbytes / _best_seconds(run, device)


def _start_rate(device: torch.device) -> float:
    """Operators/s where they have a single number to work on, forward and backward."""
    x, count = torch.ones(1, device=device).requires_grad_(), 1000

    def run() -> None:
        y = x
        for _ in range(count):
            y = y.relu()
        y.backward()

    return 2 * count / _best_seconds(run, device)


def _best_seconds(run: Callable[[], None], device: torch.device) -> float:
    """The shortest of the runs that begin within a second, or of two; the first only warms up."""
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < 1:
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _window_size(data: RadarDataModule) -> tuple[int, int, str]:
    """Rows and columns of a window, and where they come from."""
    if data.size is not None:
        return data.size, data.size, "data.size"
    if data.store and Path(data.store).exists():
        crops = RadarCrops(data.store, "train")
        return crops.height, crops.width, f"sampled windows of {data.store}"
    return PAPER_SIZE, PAPER_SIZE, "as in the paper: neither data.size nor a store is given"


def _memory_findings(cost: StepCost, device: torch.device) -> list[str]:
    available = _memory(device)
    if available is None or cost.peak_bytes <= available:
        return []
    return [
        f"a step needs {_gib(cost.peak_bytes)}, {device} has {_gib(available)}: lower data.batch_size, raise "
        "model.micro_batches, or set model.gradient_checkpointing to true"
    ]


def _memory(device: torch.device) -> int | None:
    """Bytes of the GPU or of the machine, where they can be known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _duration(steps: int, seconds: float) -> str:
    if steps < 0:
        return "trainer.max_steps does not limit the run"
    total = steps * seconds
    unit, size = next(
        (unit, size)
        for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
        if total >= 2 * size or size == 1
    )
    return f"{steps} generator steps: about {_rounded(total / size)} {unit}"


def _rounded(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.12g}"


def _millions(network: nn.Module) -> str:
    return f"{sum(value.numel() for value in network.parameters()) / 1e6:.1f}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
