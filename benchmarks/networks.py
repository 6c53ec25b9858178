"""Speed and memory of the networks beside the public port (PyPI dgmr 1.4.4) and this machine's own rate.

    PYTHONPATH=FOLDER_OF_THE_PORT python benchmarks/networks.py [--device cuda] [PART ...]

Every part runs in a process of its own, so that its peak memory is its own; the table comes at the end.
Without the port (pip install --target FOLDER --no-deps dgmr==1.4.4 einops pytorch_msssim, and huggingface_hub
with what it needs) its parts say so. A training step is one of the generator with its two of the
discriminators.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from nowcast.model import PRESETS, Discriminator, Generator
from nowcast.training.gan import NowcastGAN

SIZE = 256
SAMPLES = 6
FULL_FRAME = (1536, 1280)
REPEATS = 5


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: str, repeats: int = REPEATS) -> float:
    """Median time of a piece of work after one run to warm up."""
    times = []
    for _ in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def flops(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@torch.no_grad()
def rates(device: str) -> dict[str, float]:
    """FLOP/s of a matrix product and of a convolution of the networks' kind, float32 and bfloat16."""
    result = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        side = 2048 if device == "cpu" else 8192
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        result[f"matmul {name} TFLOP/s"] = 2 * side**3 / seconds(lambda a=a, b=b: a @ b, device) / 1e12
        x = torch.randn(18, 192, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(192, 192, 3, padding=1, device=device, dtype=dtype)
        conv = conv.to(memory_format=torch.channels_last)
        work = 2 * 18 * 192 * 192 * 9 * 32 * 32
        result[f"convolution {name} TFLOP/s"] = work / seconds(lambda x=x, c=conv: c(x), device) / 1e12
    return result


def peer(size: int = SIZE) -> Any:
    """The public port, built as its documentation has it."""
    stub = types.ModuleType("torchvision")
    stub.utils = types.ModuleType("torchvision.utils")  # type: ignore[attr-defined]
    stub.__spec__ = ModuleSpec("torchvision", None)
    sys.modules.setdefault("torchvision", stub)  # it draws pictures with it, which nobody asks for here
    sys.modules.setdefault("torchvision.utils", stub.utils)
    from dgmr import DGMR

    model = DGMR(forecast_steps=18, output_shape=size, generation_steps=SAMPLES)
    torch.autograd.set_detect_anomaly(False)  # building it switches this on, which slows it down
    return model


def sample_peer(device: str) -> dict[str, float]:
    model, context = peer().eval().to(device), torch.rand(1, 4, 1, SIZE, SIZE, device=device)
    with torch.no_grad():
        return {"GFLOP": flops(lambda: model(context)) / 1e9, "s": seconds(lambda: model(context), device)}


def sample(device: str) -> dict[str, float]:
    generator = Generator(**PRESETS["dgmr"]["generator"]).to(device).fold()
    context = torch.rand(1, 4, 1, SIZE, SIZE, device=device)
    with torch.inference_mode():
        z = torch.randn(1, *generator.latent_shape(SIZE, SIZE), device=device)
        states = generator.encode(context)
        ten = torch.randn(10, *z.shape[1:], device=device)
        return {
            "GFLOP": flops(lambda: generator(context, z)) / 1e9,
            "s": seconds(lambda: generator(context, z), device),
            "s a member of 10 of one context": seconds(
                lambda: generator.decode(states, ten, size=(SIZE, SIZE)), device, 2
            )
            / 10,
        }


class Windows(Dataset):
    """Random windows."""

    def __init__(self, frames: int) -> None:
        self.rain = torch.rand(frames, 1, SIZE, SIZE)

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"rain": self.rain, "mask": torch.ones_like(self.rain, dtype=torch.bool)}


class RandomRadar(pl.LightningDataModule):
    """What a training asks of its data, without data."""

    description = {"grid_spacing": 1000.0, "time_step_minutes": 5.0}

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Windows(22), batch_size=self.batch_size)


class PeerRadar(pl.LightningDataModule):
    """The same as the port wants it: context and future."""

    def train_dataloader(self) -> DataLoader:
        rain = torch.rand(22, 1, SIZE, SIZE)
        return DataLoader([(rain[:4], rain[4:])] * 10, batch_size=1)


class Clock(pl.Callback):
    """Time of every batch."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        wait(self.device)
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        wait(self.device)
        self.times.append(time.perf_counter() - self.start)


def fit(
    model: pl.LightningModule, data: pl.LightningDataModule, device: str, precision: str, batches: int
) -> list[float]:
    clock = Clock(device)
    trainer = pl.Trainer(
        accelerator="cpu" if device == "cpu" else "gpu", devices=1, precision=precision, max_epochs=1,
        limit_train_batches=batches, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[clock],
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return clock.times


def step(
    device: str, *, preset: str = "dgmr", batch_size: int = 1, precision: str = "32-true", **settings: Any
) -> dict[str, float]:
    networks = Generator(**PRESETS[preset]["generator"]), Discriminator(**PRESETS[preset]["discriminator"])
    model = NowcastGAN(*networks, samples=SAMPLES, **settings)
    times = fit(model, RandomRadar(batch_size), device, precision, 4 if device == "cpu" else 12)
    steps = [first + second for first, second in zip(times[::2], times[1::2], strict=True)]
    return {"s": statistics.median(steps[1:])}


def step_peer(device: str) -> dict[str, float]:
    return {"s": fit(peer(), PeerRadar(), device, "32-true", 1)[0]}


def full_frame(device: str, precision: str = "32-true") -> dict[str, float]:
    generator = Generator(**PRESETS["dgmr"]["generator"]).to(device).fold()
    context = torch.rand(1, 4, 1, *FULL_FRAME, device=device)
    z = torch.randn(1, *generator.latent_shape(*FULL_FRAME), device=device)
    at_once = 1 if device == "cpu" else 3

    def member() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device, dtype=torch.bfloat16, enabled=precision != "32-true"),
        ):
            for _ in generator.stream(generator.encode(context), z, size=FULL_FRAME, steps_at_once=at_once):
                pass

    return {"s": seconds(member, device, 1 if device == "cpu" else 5)}


PARTS: dict[str, Callable[[str], dict[str, float]]] = {
    "rates": rates,
    "sample of the port": sample_peer,
    "sample of the port, huge pages": sample_peer,
    "sample": sample,
    "step of the port": step_peer,
    "step": step,
    "step, recomputing": lambda device: step(device, gradient_checkpointing=True),
    "step, bf16": lambda device: step(device, precision="bf16-mixed"),
    "step, bf16, recomputing": lambda device: step(
        device, precision="bf16-mixed", gradient_checkpointing=True
    ),
    "full frame": full_frame,
    "full frame, bf16": lambda device: full_frame(device, "bf16-mixed"),
    "step of 16 windows, bf16": lambda device: step(device, batch_size=16, precision="bf16-mixed"),
    "step of 16 windows, bf16, compiled": lambda device: step(
        device, batch_size=16, precision="bf16-mixed", compile=True
    ),
}
AS_IT_IS = ("sample of the port", "step of the port")
GPU_ONLY = ("step of 16 windows, bf16", "step of 16 windows, bf16, compiled")


def peak(device: str) -> float:
    """GB of memory that this process has held at most."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        warnings.filterwarnings("ignore")
        result = PARTS[arguments.here](arguments.device)
        print(json.dumps({**result, "peak GB": peak(arguments.device)}))
        return
    for part in arguments.parts or [
        name for name in PARTS if arguments.device != "cpu" or name not in GPU_ONLY
    ]:
        command = [sys.executable, __file__, "--here", part, "--device", arguments.device]
        # The command nowcast asks for huge pages; the port is taken as it is, and once with them.
        huge = {} if part in AS_IT_IS else {"THP_MEM_ALLOC_ENABLE": "1"}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **huge})
        if run.returncode:
            print(f"{part:<36} failed: {run.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        values = json.loads(run.stdout.strip().splitlines()[-1])
        print(f"{part:<36} " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)


if __name__ == "__main__":
    main()
