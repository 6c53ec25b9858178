# %% [markdown]
# # Verification: which model is better, and how sure is that?
#
# Four models forecast the same cases, and are scored on the same cells. This notebook reads the scores one
# after another and ends with what may be concluded from so few cases, and what not.
#
# It needs the radar files of MeteoSwiss (`mch/20150515`, `mch/20170131`), in the folder that
# `NOWCAST_RADAR_DATA` names. The network that is shipped has never seen a frame of them.

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
# Two events: showers on a May afternoon and a front in January. A case is a reference time whose four
# frames before and 18 after are all there. From every sixth of them, one each half hour, forecasts are
# made. To stay within a minute they are of 192 x 192 km around the Alps' main ridge.

# %%
from nowcast.evaluation.cases import valid_starts

radar = radar.isel(y=slice(222, 414), x=slice(262, 454)).load()
starts = valid_starts(radar, context_frames=4, lead_steps=18, stride=6, part="all")
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

evaluation = evaluate(models, radar, starts, members=6, seed=0)
scores = evaluation.scores("persistence")
intervals = evaluation.uncertainty("persistence")
evaluation.failures

# %% [markdown]
# ## Scores by lead time
#
# Sums are added over all cases and divided last, so a wet case counts more than a dry one. The bands are 95
# % intervals, from drawing blocks of cases anew: cases half an hour apart see the same storm, and are not
# independent.

# %%
from nowcast.verification.score_text import score_table

print(score_table(scores, intervals))

# %%
scores.nowcast.plot_scores(intervals=intervals, variables=("crps", "member_csi", "csi", "bias"))

# %% [markdown]
# - **CRPS** is the error of the whole ensemble; of one forecast it is the mean absolute error. An ensemble
#   that is spread as wide as it errs wins here by being honest.
# - **CSI of the members** asks whether single members have rain of 1 mm/h in the right cell. **CSI of the
#   mean** does well by being smooth.
# - **Bias** above 1: too much rain.
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
scores.nowcast.plot_reliability(threshold=1.0, lead_time="30min")

# %% [markdown]
# The observation should be anywhere among the members with the same chance: a flat line. A hump at both
# ends says that the members are too alike, a hump in the middle that they differ too much.

# %%
scores.nowcast.plot_rank_histogram(lead_time="30min")

# %% [markdown]
# ## Does it look like rain?
#
# Variance by wavelength, of the members and of what was observed. A model that loses its small scales falls
# below the observed line on the right; an ensemble mean always does, a member should not.

# %%
scores.nowcast.plot_spectrum(lead_time="60min")

# %% [markdown]
# ## Is it of use?
#
# Somebody can protect at a cost C against a loss L. The value is the share of what a perfect forecast would
# save that this one saves, each user taking the probability that suits them best. Who has little to lose by
# protecting (C/L small) gains from an ensemble, because it also warns of what is unlikely.

# %%
scores.nowcast.plot_economic_value(threshold=1.0, lead_time="60min")

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
    print(f"{name}: CRPS {100 * skill:.0f} % below that of persistence, p = {p_value:.2f}")

# %% [markdown]
# **What may be said.** On these seven forecasts, every model beats persistence by far, and both ensembles
# beat the single extrapolation in CRPS at every lead time.
#
# **What may not.** With so few blocks, no p-value can be small: the smallest possible one is one in as many
# ways as blocks can be exchanged. Nothing follows for other weather, other radars, hail, snow, or the
# places where it matters. The difference between the two ensembles is one that another week could turn
# round. And the intervals say how the score would vary over more hours of *these* two days, not over other
# days.
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
