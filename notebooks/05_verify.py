# %% [markdown]
# # Verification: which model is better, and how sure is that?
#
# Four models forecast the same cases, and are scored on the same cells. This notebook reads the scores one
# after another and ends with what may be concluded from so few cases, and what not.
#
# It needs the radar files of MeteoSwiss (`mch/20150515`, `mch/20170131`), in the folder that
# `NOWCAST_RADAR_DATA` names. The network that is shipped was not trained on
# any frame of them.

# %%
# %matplotlib inline
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

RADAR_DATA = Path(os.environ.get("NOWCAST_RADAR_DATA", "../../shared/data")).resolve()
if not (RADAR_DATA / "mch").is_dir():
    raise SystemExit("no radar files: set NOWCAST_RADAR_DATA to the folder that holds mch/20150515")

# %%
import nowcast
from data_prep.pipeline import prepare
from nowcast.options import read_recipe

recipe = read_recipe("../configs/prep/mch.yaml")
os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a temporary folder
prepare(RADAR_DATA / "mch", "mch.zarr", recipe)
radar = nowcast.open_radar("mch.zarr")

# %% [markdown]
# ## Cases
#
# Two events: rain on a May afternoon and a front in January. A case is a reference time that has its four
# frames (three before it and its own) and the 18 after it. Of these, every ninth is taken, one in 45
# minutes. To stay within a minute, forecasts are of 160 x 160 km of western Switzerland and its Alps.

# %%
from nowcast.evaluation.cases import valid_starts

radar = radar.isel(y=slice(238, 398), x=slice(278, 438)).load()
starts = valid_starts(radar, context_frames=4, lead_steps=18, stride=9, part="all")
print(*starts.astype("datetime64[m]"), sep="\n")

# %%
radar.sel(time=starts[0]).nowcast.plot_map().figure

# %% [markdown]
# ## Models
#
# Persistence holds the last frame. Extrapolation moves it along the motion of the rain: one forecast, with
# all its small scales. STEPS (pysteps) moves it, too, and replaces by noise what cannot be forecast; so
# does, in its way, the network.

# %%
names = ["persistence", "extrapolation", "pretrained"]
if find_spec("pysteps"):
    names.append("steps")
models = {name: nowcast.load_forecaster(name) for name in names}

# %%
from nowcast.evaluation.evaluate import evaluate

evaluation = evaluate(models, radar, starts, members=5, seed=0)
scores = evaluation.scores("persistence")
intervals = evaluation.uncertainty("persistence")
print(len(evaluation.failures), "forecasts failed")

# %% [markdown]
# ## Scores by lead time
#
# Sums are added over all cases and divided last, so a wet case counts more than a dry one. The bands are 95
# % intervals, from drawing blocks of cases anew: cases 45 minutes apart see the same storm, and are not
# independent.

# %%
from nowcast.verification.score_text import score_table

crps, *_, note = score_table(scores, intervals).split("\n\n")
print(crps, note, sep="\n\n")

# %%
scores.nowcast.plot_scores(intervals=intervals, variables=("crps", "member_csi", "csi", "bias"))

# %% [markdown]
# - **CRPS** is the error of the whole ensemble; of one forecast it is the mean absolute error. A single
#   forecast pays twice for rain in the wrong place, so that extrapolation, with all its detail, soon does
#   worse than persistence. An ensemble that is spread as wide as it errs is paid for being honest.
# - **CSI of the members** asks whether single members have rain of 1 mm/h in the right cell. **CSI of the
#   mean** asks that of a smooth field, which is easier.
# - **Bias** above 1: too much rain. That of persistence falls below 1, because more rain came into the cells
#   that are scored than there had been. Of the rain that extrapolation and STEPS bring in, nearly all came in
#   January, and at an hour ahead less than half on the May afternoon: hence the wide bands.
#
# Skill is the same against the reference, persistence.

# %%
scores.nowcast.plot_scores(intervals=intervals, variables=("crps_skill", "fss_skill"))

# %% [markdown]
# ## Are the probabilities to be trusted?
#
# If rain of 1 mm/h is forecast with 70 %, it should come in 70 % of such cells: on the diagonal. Below it,
# the model is too sure of rain.

# %%
scores.nowcast.plot_reliability(threshold=1.0, lead_time=30)

# %% [markdown]
# The observation should be anywhere among the members with the same chance: a flat line. A line that falls
# says that it lies below the members too often, which is the bias again; high at both ends, that the
# members are too alike; high in the middle, that they differ too much.

# %%
scores.nowcast.plot_rank_histogram(lead_time=30)

# %% [markdown]
# ## Does it look like rain?
#
# Variance by wavelength, of the members and of what was observed. On the left is how much it rains
# altogether, on the right the detail. A forecast that is smoothed falls below the observed line there, one
# that is too noisy rises above it.

# %%
scores.nowcast.plot_spectrum(lead_time=60)

# %% [markdown]
# ## Is it of use?
#
# Somebody can protect at a cost C against a loss L. The value is the share of what a perfect forecast would
# save that this one saves, each user taking the probability that suits them best; always or never protecting,
# whichever is better, is worth 0. Forecasts are worth most to those whose C/L is near the frequency of the
# rain, here 0.14. There the network leads, and STEPS with its five members is below extrapolation (0.1 to
# 0.3). Whoever has a C/L below 0.06 does better to protect always, and from 0.5 on never to: no forecast of
# these is worth anything to them.

# %%
scores.nowcast.plot_economic_value(threshold=1.0, lead_time=60)

# %% [markdown]
# ## What may be concluded
#
# The test exchanges two models block by block and asks how often chance alone would give such a difference.

# %%
blocks = evaluation.blocks.sizes["block"]
print(f"{len(starts)} cases in {blocks} blocks of {evaluation.block_length.astype('timedelta64[m]')}")
for name in names[1:]:
    skill = float(1 - scores["crps"].sel(model=name).mean() / scores["crps"].sel(model="persistence").mean())
    p_value = float(intervals["crps_all_leads_p_value"].sel(model=name))
    print(f"{name}: skill in CRPS {100 * skill:+.0f} %, p = {p_value:.2f}")

# %% [markdown]
# **What may be said.** On these five forecasts the network has the best CRPS at every lead time; STEPS
# beats extrapolation from ten minutes on, and persistence for an hour. As to where single members have
# their rain, extrapolation is the best for 70 minutes.
#
# **What may not.** Two blocks can be exchanged in two ways, so that no p-value can be below 0.5: nothing
# here is significant. The intervals are too narrow, as the note below the table says, and tell how scores
# vary over more hours of *these* two days, not over other days. The order of the two ensembles is one that
# another week could turn round: over the whole composite and with 20 members, the
# [model card](../docs/model-card.md) has the network 4 % ahead of STEPS on the May afternoon and level with
# it on the January front, not 13 to 26 % ahead as in this box with five. And these weights were preferred to
# earlier ones because they did better on these two events, which makes them look a little too good. Nothing
# follows for other weather, hail, snow, or another radar.
#
# For a verdict, verify on many days that no model has seen:
#
# ```
# nowcast verify --model pretrained --model steps --model extrapolation --reference persistence \
#   --store ten_years.zarr --part test --members 20 --workers 16 --output scores
# ```
#
# writes `scores/report.html`, one file with all these diagrams, and `scores.nc`, which
# `xarray.open_dataset("scores/scores.nc").nowcast` draws as above. [Verification](../docs/verification.md)
# defines every score.
