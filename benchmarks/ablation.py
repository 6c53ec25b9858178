"""What the co-moving frame and the critics are worth: small networks trained side by side and verified.

    python benchmarks/ablation.py STORE --out RESULTS.json [--folder WORK] [--steps 400] [--more 150]

All networks have the widths of the preset `tiny` and start from the same weights; those that are compared see
the same windows in the same order: the sampled training windows of STORE, best of 128 x 128 cells, neither
turned nor mirrored. The arms:

- ``fixed``: in the fixed frame, trained on the ensemble score alone.
- ``window``: the same in the co-moving frame. It pulls context and targets inside its windows, and learns
  nothing from rain that leaves them.
- ``comoving``: the same again, but whole fields are pulled before its windows are cut out, as for the network
  that is shipped: windows keep their rain.
- ``critics``: ``comoving``, trained on against the critics as well.
- ``control``: ``comoving``, trained on as long without them.

All are verified on the validation frames of STORE beside persistence and extrapolation. One seed and, in most
stores, few cases: what comes out are orders of magnitude. A run that is repeated with the same WORK and
settings goes on.
"""

import argparse
import json
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import Dataset

from data_prep.schema import open_radar
from nowcast.evaluation.cases import Case, valid_starts
from nowcast.evaluation.evaluate import evaluate_cases
from nowcast.evaluation.hindcasts import Hindcasts
from nowcast.files import written_whole
from nowcast.forecaster import Forecaster
from nowcast.forecasters.baselines import Extrapolation, Persistence
from nowcast.forecasters.gan_forecaster import GANForecaster
from nowcast.model import PRESETS, Discriminator, Generator
from nowcast.representation import FrameName, Representation
from nowcast.training.callbacks import LastCheckpoint
from nowcast.training.checkpoint_io import WholeCheckpoints
from nowcast.training.crops import RadarCrops
from nowcast.training.datamodule import RadarDataModule
from nowcast.training.gan import NowcastGAN
from nowcast.verification import ScoreSettings

SHOWN = {
    "crps": ("CRPS, mm/h", {}),
    "pooled_mean_crps": ("CRPS of 16 km means, mm/h", {"scale": 16.0}),
    "member_csi": ("CSI of members, 1 mm/h", {"threshold": 1.0}),
    "log_spectral_distance": ("log-spectral distance, dB", {}),
    "spread_skill": ("spread / RMSE", {}),
    "bias": ("mean rain forecast / observed", {}),
}
LEADS = (5, 15, 30, 60, 90)
LEARNING_RATE = 1e-3
LEARNING_RATE_ON = 3e-4
"""Of the generator in the arms that go on from another."""


@dataclass(frozen=True)
class Arm:
    """One network to train; see the module."""

    frame: FrameName = "comoving"
    pulled: bool = True
    start: str | None = None
    critics: bool = False


ARMS = {
    "fixed": Arm(frame="fixed", pulled=False),
    "window": Arm(pulled=False),
    "comoving": Arm(),
    "critics": Arm(start="comoving", critics=True),
    "control": Arm(start="comoving"),
}


class PulledCrops(Dataset):
    """The windows of `RadarCrops`, cut out of fields that were pulled along their motion before.

    Args:
        crops: The windows.
        pulled: Their rain, mm/h, (N, T, H, W), NaN where there is no data.
    """

    def __init__(self, crops: RadarCrops, pulled: np.ndarray) -> None:
        self.probability = crops.probability
        self.pulled = pulled

    def __len__(self) -> int:
        return len(self.pulled)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        number = item[0] if isinstance(item, tuple) else item
        rain = torch.from_numpy(self.pulled[number].astype(np.float32))[:, None]
        return {
            "rain": rain.nan_to_num(nan=0.0),
            "mask": rain.isfinite(),
            "probability": torch.tensor(self.probability[number], dtype=torch.float32),
            "aligned": torch.tensor(True),  # noqa: FBT003 (a value)
        }


class PulledData(RadarDataModule):
    """The same windows in the same order as of `RadarDataModule`, in the co-moving frame.

    Args:
        store: The store.
        kept: File of the windows, written if it is not there.
        **settings: As of `RadarDataModule`.
    """

    def __init__(self, store: str, *, kept: Path, **settings: Any) -> None:
        super().__init__(store, **settings)
        self.kept = kept

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if not self.kept.is_file():
            cut_pulled(self.store, self.train, self.kept)
        self.train = PulledCrops(self.train, np.load(self.kept, mmap_mode="r"))  # type: ignore[assignment]


def cut_pulled(store: str, crops: RadarCrops, path: Path) -> None:
    """Pull the whole field of every start along its motion, and cut the windows out of it."""
    radar, how = open_radar(store), Representation(frame="comoving")
    shape = (len(crops), crops.frames, crops.height, crops.width)
    context_frames = PRESETS["tiny"]["generator"]["context_frames"]
    with written_whole(path) as unfinished:
        file = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
        for start in np.unique(crops.start):
            field = radar[start : start + crops.frames].values.astype(np.float32)
            context, future = torch.from_numpy(field)[None].tensor_split([context_frames], dim=1)
            motion = how.motion(context)
            pulled = torch.cat([how.pull_context(context, motion), how.pull_future(future, motion)], dim=1)
            for number in np.flatnonzero(crops.start == start):
                _, rows, columns = crops.windows.box(int(number))
                file[number] = pulled[0, :, rows, columns].numpy()
        file.flush()


class Costs(pl.Callback):
    """CPU time of a training, across its interruptions, and what it logs, every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.before = 0.0
        self.logged: list[dict[str, float]] = []
        self.start = 0.0

    @property
    def cpu_seconds(self) -> float:
        return self.before + time.process_time() - self.start

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = time.process_time()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.generator_steps % self.every:
            return
        losses = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        self.logged.append({"step": pl_module.generator_steps, **losses})
        print(f"  step {pl_module.generator_steps}, {self.cpu_seconds:.0f} s CPU: {losses}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"cpu_seconds": round(self.cpu_seconds, 1), "logged": self.logged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.logged = state_dict["cpu_seconds"], state_dict["logged"]


def network(arm: Arm, steps: int, start: Path | None, asked: argparse.Namespace) -> NowcastGAN:
    pl.seed_everything(asked.seed, verbose=False)
    sizes = {**PRESETS["tiny"]["generator"], "input_channels": 2, "drift": True}
    return NowcastGAN(
        Generator(**sizes), Discriminator(**PRESETS["tiny"]["discriminator"]),
        transform="square_root", output="residual", frame=arm.frame, channels="rain_and_mask",
        init=None if start is None else str(start), hold_norms=start is not None,
        generator_lr=LEARNING_RATE if start is None else LEARNING_RATE_ON, discriminator_lr=LEARNING_RATE,
        anneal_steps=steps, betas=(0.9, 0.999), regularizer="normalized_crps", regularizer_weight=1.0,
        adversarial_weight=asked.adversarial_weight if arm.critics else 0.0, discriminator_steps=1,
        samples=2, seed=asked.seed,
    )  # fmt: skip


def data(arm: Arm, asked: argparse.Namespace) -> RadarDataModule:
    """Windows of an arm; those that go on see other draws than before."""
    settings = {"batch_size": asked.batch_size, "seed": asked.seed + (arm.start is not None)}
    if arm.pulled:
        return PulledData(asked.store, kept=asked.folder / "pulled.npy", **settings)
    return RadarDataModule(asked.store, **settings)


def train(name: str, asked: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Train an arm, go on, or take what is there; its checkpoint, and what to say of it."""
    arm = ARMS[name]
    steps = asked.steps if arm.start is None else asked.more
    checkpoint = asked.folder / f"{name}-{steps}" / "last.ckpt"
    state = read(checkpoint)
    if state is None or state["generator_steps"] < steps:
        print(f"{name}: {steps} steps", flush=True)
        start = None if arm.start is None else asked.folder / f"{arm.start}-{asked.steps}" / "last.ckpt"
        model = network(arm, steps, start, asked)
        fit(model, data(arm, asked), checkpoint, precision=asked.precision, resumes=state is not None)
        state = read(checkpoint)
    assert state is not None
    return checkpoint, {"steps": state["generator_steps"], "from": arm.start, **state["callbacks"]["Costs"]}


def read(checkpoint: Path) -> dict[str, Any] | None:
    return torch.load(checkpoint, weights_only=True) if checkpoint.is_file() else None


def fit(
    model: NowcastGAN, windows: RadarDataModule, checkpoint: Path, *, precision: str, resumes: bool
) -> None:
    """As many generator steps as the learning rate takes to fall to 0."""
    steps = int(model.anneal_steps or 0)
    callbacks = [Costs(every=max(1, steps // 10)), LastCheckpoint(str(checkpoint.parent), every_n_batches=50)]
    trainer = pl.Trainer(
        max_steps=steps * (2 if model.adversarial_weight else 1), accelerator="cpu", precision=precision,
        plugins=[WholeCheckpoints()], callbacks=callbacks, logger=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=checkpoint.parent,
    )  # fmt: skip
    trainer.fit(model, datamodule=windows, ckpt_path=checkpoint if resumes else None)


def verified(forecasters: dict[str, Forecaster], asked: argparse.Namespace) -> tuple[xr.Dataset, list[str]]:
    """Scores on the validation frames, and the reference times."""
    radar = open_radar(asked.store)
    lead_steps = PRESETS["tiny"]["generator"]["lead_steps"]
    settings = ScoreSettings(thresholds=(1.0,), scales=(16.0,), windows=(16.0,))
    hindcasts = Hindcasts(forecasters, radar, lead_steps, asked.members, asked.seed, settings)
    starts = valid_starts(
        radar, context_frames=hindcasts.context_frames, lead_steps=lead_steps, stride=asked.stride,
        part="validation",
    )  # fmt: skip
    cases = [Case(start) for start in starts]
    evaluation = evaluate_cases(hindcasts, cases, folder=asked.folder / "cases")
    for failure in evaluation.failures:
        print(f"{failure.model} failed at {failure.time}: {failure.message}")
    return evaluation.scores("persistence"), [str(start)[:16] for start in starts]


def table(scores: xr.Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """By score, model and lead time in minutes; printed, too."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    chosen = scores.sel(lead_time=[np.timedelta64(lead, "m") for lead in LEADS])
    for name, (title, where) in SHOWN.items():
        print(f"\n{title:<32}" + "".join(f"{lead:>5} min" for lead in LEADS))
        result[name] = {}
        for model in chosen["model"].values.tolist():
            values = chosen[name].sel(model=model, **where).values.tolist()
            result[name][model] = {
                str(lead): round(value, 4) for lead, value in zip(LEADS, values, strict=True)
            }
            print(f"  {model:<30}" + "".join(f"{value:9.3f}" for value in values))
    return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", metavar="STORE", help="with training windows and validation frames")
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    parser.add_argument("--folder", type=Path, default=Path("out/ablation"), help="for checkpoints")
    parser.add_argument("--steps", type=int, default=400, help="of the arms that start anew")
    parser.add_argument("--more", type=int, default=150, help="of those that go on")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="which to train")
    parser.add_argument("--adversarial_weight", type=float, default=0.02)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on processors without AMX")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--stride", type=int, default=3, help="every how many-th start to verify")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command nowcast has it
    warnings.filterwarnings("ignore")
    asked = arguments()
    asked.folder.mkdir(parents=True, exist_ok=True)
    forecasters: dict[str, Forecaster] = {"persistence": Persistence(), "extrapolation": Extrapolation()}
    arms = {}
    for name in asked.arms:
        checkpoint, arms[name] = train(name, asked)
        forecasters[name] = GANForecaster.from_file(checkpoint)
    begun = time.process_time()
    scores, starts = verified(forecasters, asked)
    told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}
    cpu = {"verification_cpu_seconds": round(time.process_time() - begun, 1)}
    result = {"settings": told, "cases": starts, "arms": arms, **cpu, "scores": table(scores)}
    with written_whole(asked.out) as unfinished:
        Path(unfinished).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
