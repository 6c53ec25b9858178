"""The whole chain on embedded data: synthetic radar, training, verification, forecast of the shipped network.

The training is short and shows that the chain works; forecast file and pictures are of the shipped network.
"""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.sampling import Sampling
from data_prep.schema import iso, open_radar
from data_prep.splits import Splits
from data_prep.store import SHARD_FRAMES, About
from data_prep.synthetic import SyntheticRain, generate
from nowcast.evaluation.cases import context_at, valid_starts
from nowcast.evaluation.verify_store import StoreVerification, verify_store
from nowcast.forecaster import Forecaster
from nowcast.forecasters.load import PRETRAINED, load_forecaster
from nowcast.model import PRESETS, Discriminator, Generator
from nowcast.plotting import animate, plot_panel, save_figure
from nowcast.products.forecast_file import read_forecast, write_forecast
from nowcast.training.datamodule import RadarDataModule
from nowcast.training.gan import NowcastGAN

FRAMES = 240
BATCH = 3
RECIPE = Recipe(
    about=About(
        title="Synthetic radar rain rate",
        institution="nowcast",
        license="Apache-2.0",
        source="data_prep.synthetic: stochastic rain with known motion",
    ),
    splits=Splits(
        block_minutes=240, origin="2026-01-01T00:00", guard_minutes=0,
        cycle=("train", "train", "train", "validation", "test"),
    ),
    sampling=Sampling(height=128, width=128, q_min=0.01, m=1.0),
)  # fmt: skip


def run_demo(
    out: Path, *, train_seconds: float = 40.0, members: int = 10, cases: int = 6, seed: int = 1
) -> None:
    """Run the chain and report on it.

    Args:
        out: Folder for everything that is made.
        train_seconds: Time for training, s.
        members: Ensemble size.
        cases: Forecasts that are verified.
        seed: Of the rain, of the training and of the members.
    """
    out.mkdir(parents=True, exist_ok=True)
    store = make_store(out / "synthetic.zarr", seed=seed)
    checkpoint = train(store, out, seconds=train_seconds, seed=seed)
    starts = valid_starts(open_radar(store), context_frames=4, lead_steps=18, part="test")
    print(f"3/4  Verification: {cases} cases of the test split, {members} members")
    settings = StoreVerification(
        model=["extrapolation", f"tiny={checkpoint}", PRETRAINED],
        store=str(store),
        output=str(out / "scores"),
        part="test",
        stride=max(1, -(-starts.size // cases)),
        members=members,
        seed=seed,
    )
    table, findings = verify_store(settings)
    print("", table, *findings, "", sep="\n")
    draw(store, load_forecaster(), out, time=starts[-1], members=members, seed=seed)
    print(f"\nEverything lies in {out}:")
    for path in sorted(out.iterdir()):
        print(f"  {path}")


def make_store(store: Path, *, seed: int) -> Path:
    """Synthetic radar as a store, made once."""
    if store.exists():
        print(f"1/4  Synthetic radar: {store} is there already")
        return store
    print(f"1/4  Synthetic radar: {FRAMES} frames of 256 x 256 km every 5 min")
    weather = SyntheticRain(start=RECIPE.splits.origin, wet_fraction=0.35, growth=0.15)
    rain = generate(weather, frames=FRAMES, seed=seed)["rainfall_rate"]
    batches = (rain[first : first + SHARD_FRAMES] for first in range(0, FRAMES, SHARD_FRAMES))
    prepare_arrays(batches, store, RECIPE)
    return store


def train(store: Path, out: Path, *, seconds: float, seed: int) -> Path:
    """Train the tiny networks and return their checkpoint."""
    print(f"2/4  Training: DGMR's networks at tiny widths, {seconds:.0f} s")
    pl.seed_everything(seed, verbose=False)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    model = NowcastGAN(
        Generator(**PRESETS["tiny"]["generator"]),
        Discriminator(**PRESETS["tiny"]["discriminator"]),
        transform="square_root",
        generator_lr=1e-3,
        discriminator_lr=1e-3,
        betas=(0.5, 0.999),
        samples=2,  # not 6: more steps in the same time
    )
    data = RadarDataModule(str(store), batch_size=BATCH, samples_per_epoch=10**6)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_time=timedelta(seconds=seconds),
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    print(f"     {int(model.batches_seen)} batches of {BATCH} windows of 22 frames, 128 x 128")
    print("     So short a training shows that the chain works; a good model is shipped: pretrained")
    checkpoint = out / "tiny.ckpt"
    trainer.save_checkpoint(checkpoint)
    return checkpoint


def draw(
    store: Path, forecaster: Forecaster, out: Path, *, time: np.datetime64, members: int, seed: int
) -> None:
    """A forecast file, a panel of maps and a loop."""
    print(f"4/4  Forecast from {iso(time)}: file, maps, loop")
    radar = open_radar(store)
    ensemble = forecaster.forecast(context_at(radar, time, 4), members=members, seed=seed)
    write_forecast(ensemble, out / "forecast.nc")
    ensemble = read_forecast(out / "forecast.nc").assign_attrs(model=f"{PRETRAINED} on synthetic radar")
    save_figure(plot_panel(radar, ensemble), out / "panel.png")
    mean = ensemble.mean("realization", keep_attrs=True)
    animate(mean, out / "loop.gif", title=f"{ensemble.attrs['model']}, ensemble mean")
