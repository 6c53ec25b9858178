# %% [markdown]
# # Train a network, and watch it learn
#
# A network of DGMR's kind at a sixth of its widths is trained for some seconds on synthetic rain, to show
# what training needs, what is logged, and how a training is judged. It does not become a good network: that
# takes longer (the one that is shipped an hour and a half on two cores, the paper's a week on 16 TPU cores).

# %%
# %matplotlib inline
import logging
import os
import tempfile
import warnings
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

import nowcast
from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.sampling import Sampling
from data_prep.splits import Splits
from data_prep.store import About
from data_prep.synthetic import SyntheticRain, generate

os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a temporary folder
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="pytorch_lightning")

# %% [markdown]
# ## An archive to train on
#
# Fifteen hours of synthetic rain, split by time: three blocks of three hours train, one validates, one
# tests. Windows of 22 frames, four of context and 18 of future, are drawn in favour of rain. A real archive
# is made in the same way from files ([02](02_radar_to_zarr_and_quality.ipynb)).

# %%
recipe = Recipe(
    about=About(title="Synthetic radar", institution="nowcast, synthetic rain", license="Apache-2.0"),
    splits=Splits(
        origin="2026-01-01T00:00", block_minutes=180, guard_minutes=0,
        cycle=("train", "train", "train", "validation", "test"),
    ),
    sampling=Sampling(height=64, width=64, q_min=0.05, m=1.0),
)  # fmt: skip
weather = SyntheticRain(shape=(192, 192), start="2026-01-01T00:00", wet_fraction=0.35, growth=0.15, speed=5.0)
rain = generate(weather, frames=180, seed=3)["rainfall_rate"]
report = prepare_arrays(iter([rain]), "synthetic.zarr", recipe)
print(report.frames, "frames,", report.windows, "windows")

# %% [markdown]
# ## Networks
#
# The generator makes the future, the discriminators judge it: one looks at single frames, one at their
# sequence. Rain goes in as its square root and in the frame that moves with it, and what comes out is added
# to the last frame. So the network need not learn that rain moves and stays, only how it changes. Beside
# the critics, an ensemble score (CRPS) holds the members near what fell.

# %%
from nowcast.model import PRESETS, Discriminator, Generator
from nowcast.training.gan import NowcastGAN

pl.seed_everything(1, verbose=False)
model = NowcastGAN(
    Generator(**PRESETS["tiny"]["generator"] | {"smooth": True}),
    Discriminator(**PRESETS["tiny"]["discriminator"]),
    transform="square_root",
    generator_lr=1e-3,
    discriminator_lr=1e-3,
    betas=(0.5, 0.999),
    output="residual",
    frame="comoving",
    regularizer="normalized_crps",
    samples=2,
    validation_members=2,
)
for name, network in (("generator", model.generator), ("discriminators", model.discriminator)):
    print(f"{name}: {sum(weights.numel() for weights in network.parameters()):,} weights")

# %% [markdown]
# ## Training
#
# Every batch trains the discriminators, every second one the generator, too. The command line does what
# this cell does, from a configuration: `nowcast train fit --config configs/train/tiny.yaml --data.store
# synthetic.zarr`. `nowcast doctor` with the same options tells what memory and time it will take.

# %%
from nowcast.training.callbacks import CasePictures, GeneratorAverage
from nowcast.training.datamodule import RadarDataModule

data = RadarDataModule("synthetic.zarr", batch_size=2, size=64, samples_per_epoch=160, validation_samples=4)
trainer = pl.Trainer(
    accelerator="cpu",
    max_steps=90,  # of both optimisers: 60 of the discriminators, 30 of the generator
    val_check_interval=15,
    log_every_n_steps=1,
    logger=CSVLogger("runs", name="tiny", version=0),
    callbacks=[GeneratorAverage(decay=0.9), CasePictures(case=40)],
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    num_sanity_val_steps=0,
)
trainer.fit(model, datamodule=data)
trainer.save_checkpoint("tiny.ckpt")
print(int(model.generator_steps), "steps of the generator")

# %% [markdown]
# ## Watching
#
# A training is watched by its log. Losses of a GAN do not fall like others: generator and critics hold each
# other in balance. Look instead at three things. The accuracy of the critics, once they have learned
# something, stays between a half and one; at one they have won, and the generator learns nothing more.
# Gradient norms stay of one order. And the CRPS on validation windows falls: it is the only one of these
# numbers that says whether forecasts get better. Thirty steps are too few to see that; four windows tell
# little more than that persistence is beaten.

# %%
from nowcast.plotting import plot_training

plot_training("runs/tiny/version_0")

# %% [markdown]
# And by its pictures: one validation window is forecast at every validation. The rain moves rightly from
# the start, because its motion is estimated and not learned. What the network adds to it still has the
# grain of its layers. Grey grows where the rain would come from outside the window.
#
# It is the synthetic rain of above. A step is 5 minutes, and the colours are those of the panel at the end:
# light blue from 0.1 mm/h, violet from 4, red from 16; white is dry, grey has no forecast.

# %%
from IPython.display import Image

Image(sorted(Path("runs/tiny/version_0/pictures").glob("*.png"))[-1])

# %% [markdown]
# ## What was learned?
#
# The checkpoint is a forecaster like any other. On the block that nobody trained on, against the network
# that is shipped and against persistence, CRPS in mm/h:

# %%
from nowcast.evaluation.cases import valid_starts

radar = nowcast.open_radar("synthetic.zarr")
start = valid_starts(radar, context_frames=4, lead_steps=18, part="test")[0]
context = radar.sel(time=slice(None, start)).isel(time=slice(-4, None))
forecasts = {
    name: nowcast.load_forecaster(path).forecast(context, members=4, seed=0)
    for name, path in {"tiny, 30 steps": "tiny.ckpt", "pretrained": "pretrained"}.items()
}
scores = nowcast.verify(forecasts, truth=radar, reference="persistence")
leads = [f"{minutes}min" for minutes in (5, 15, 30, 60, 90)]
scores["crps"].sel(lead_time=leads).to_pandas().T.round(3)

# %%
forecasts["tiny, 30 steps"].nowcast.plot_panel(radar)

# %% [markdown]
# ## For a network that is of use
#
# Go on from the network that is shipped, with radar of your own, or train the paper's networks on GPUs.
# `doctor` says before what it will cost, and a run that was interrupted goes on with the losses that it
# would have had.
#
# ```
# nowcast train fit --config configs/train/finetune.yaml --init pretrained --data.stores '[mine.zarr]'
#
# nowcast doctor    --config configs/train/dgmr.yaml --data.store mine.zarr
# nowcast train fit --config configs/train/dgmr.yaml --data.store mine.zarr
# nowcast train fit --config configs/train/dgmr.yaml --data.store mine.zarr --ckpt_path last.ckpt
# ```
#
# Judge it by `nowcast verify` on cases that it has not seen ([05](05_verify.ipynb)), and never by its
# losses.
