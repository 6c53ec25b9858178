# %% [markdown]
# # Operations: two hours of a service, replayed
#
# `nowcast serve` watches a folder that radar files come into and publishes a forecast of each new frame,
# unattended. Radars fail, files come late or broken, machines are restarted. Here such hours are replayed
# in a minute: synthetic frames arrive one by one, some do not, and the service itself decides what to do.
# Only the clock is ours.

# %%
# %matplotlib inline
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import nowcast
from data_prep.synthetic import SyntheticRain, generate
from nowcast.products.write import Products
from nowcast.service.core import opened
from nowcast.service.settings import Forecasts, Http, Input, Policy, ServeSettings, Verification

logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a temporary folder

# %% [markdown]
# ## The radar
#
# Two hours of frames, every five minutes from 12:00. Each becomes a CF NetCDF file under a hidden name and
# is then renamed, as a careful provider does it: the service never sees a part of it.

# %%
START = np.datetime64("2026-06-01T12:00", "ns")
MINUTE = np.timedelta64(1, "m")
weather = SyntheticRain(shape=(160, 160), start=str(START), wet_fraction=0.4, speed=10.0)
radar = generate(weather, frames=24, seed=11)["rainfall_rate"]
files = {}
Path("provider").mkdir()
for number, time in enumerate(radar["time"].values):
    files[number] = Path("provider", f"radar_{str(time)[11:16].replace(':', '')}.nc")
    radar.isel(time=[number]).to_netcdf(files[number])

# %% [markdown]
# ## What goes wrong
#
# A frame usually comes one minute after its time. Not these:

# %%
arrival = {number: 5 * number + 1 for number in files}  # minutes after 12:00
del arrival[5]  # 12:25 never comes
damaged = 9  # 12:45 is cut short
del arrival[12], arrival[13]  # 13:00 and 13:05 do not come, either
arrival[19] = 5 * 19 + 7  # 13:35 comes after seven minutes, and after the frame of 13:40
restart = 103  # the machine goes down at 13:43 and comes up again

# %% [markdown]
# ## The service
#
# How the files are read stands in a prep configuration, and what is to be done in the settings; every one
# of these has a default. The network is asked first, then extrapolation, then persistence.

# %%
Path("prep.yaml").write_text("""
pattern: "*.nc"
reader: cf_grid
time_step_minutes: 5
sampling: null
about: {title: Synthetic radar, institution: "nowcast, synthetic rain", license: Apache-2.0}
""")
Path("incoming").mkdir()
settings = ServeSettings(
    input=Input("incoming", "prep.yaml", settle_seconds=0),
    output="published",
    domain="demo",
    forecast=Forecasts(members=4, lead_steps=12),
    policy=Policy(wait_minutes=8),
    products=Products(kinds=("mean", "probability"), picture=False, loop=None),
    http=Http(enabled=False),
    verification=Verification(enabled=False),
)

# %% [markdown]
# The clock is an argument, too. This one stands still until it is told the next minute.

# %%
passed = 0  # minutes
clock = SimpleNamespace(now=lambda: START + passed * MINUTE, elapsed=lambda: 60.0 * passed)

# %% [markdown]
# ## Two hours
#
# Minute by minute: what arrives is put into the folder, and the service has a look. `tick` is what the
# process does whenever a file or the clock wakes it. What it finds worth a line in the log comes out below.

# %%
minutes = iter(range(121))
watched = []
while passed < 120:
    with opened(settings, clock=clock) as service:
        for passed in minutes:
            for number in [number for number, minute in arrival.items() if minute == passed]:
                content = files[number].read_bytes()
                partial = Path("incoming", f".{files[number].name}")
                partial.write_bytes(content[: len(content) // 2] if number == damaged else content)
                partial.rename(partial.with_name(files[number].name))
            service.tick()
            watched.append(service.health.as_dict())
            if passed == restart:
                print("--- the machine goes down ---")
                break

# %% [markdown]
# ## What became of each frame
#
# The journal tells of each reference time whether its forecast was published, by which model and why not by
# the network, or why there is none. That the file of 12:45 came, but was cut short, stands in the log above:
# for the journal, no frame came that could be used.

# %%
journal = [json.loads(line) for line in Path("published/journal.jsonl").read_text().splitlines()]
for told in sorted(journal, key=lambda told: told["reference_time"]):
    print(told["reference_time"][11:16], told["outcome"], told["model"] or "", told["reason"] or "", sep="  ")

# %% [markdown]
# What a user sees is a forecast of a certain age. It grows by a minute every minute until the next one is
# published. From 20 minutes on it is stale, and the page says so with a red banner; here it never came to
# that.

# %%
from matplotlib.figure import Figure

colours = {"pretrained": "#0072b2", "extrapolation": "#d55e00", "persistence": "#666666"}
figure = Figure(figsize=(8, 3), dpi=100, layout="constrained")
ax = figure.subplots()
times = START + np.arange(len(watched)) * MINUTE
models = np.array([told["forecast"]["model"] if told["forecast"] else "" for told in watched])
ages = np.array([told["age_minutes"] if told["forecast"] else np.nan for told in watched], dtype=float)
for model, colour in colours.items():
    shown = models == model
    ax.bar(times[shown], ages[shown], width=MINUTE, align="edge", color=colour, label=model)
ax.axhline(settings.policy.stale_minutes, color="black", linestyle="--", linewidth=1)
ax.annotate("stale", (times[0], settings.policy.stale_minutes), (0, 3), textcoords="offset points")
ax.xaxis.set_major_formatter(lambda day, _: str(np.datetime64(round(day * 1440), "m"))[11:])
ax.set(xlabel="time (UTC), 1 June 2026", ylabel="age of the forecast (min)", ylim=(0, 29))
ax.legend(title="made by", ncols=3, frameon=False, loc="upper right")
figure

# %% [markdown]
# ## What stands in a product
#
# At 12:40 the frame of 12:25 was missing. It lies between two others, so it was made along the motion of
# the rain, and the manifest says so.

# %%
forecast = service.publisher.published["20260601T1240Z"]
for told in forecast["input_frames"]:
    print(told["time"], told["status"], told["file"] or "", told["reason"] or "")

# %% [markdown]
# Every published folder is whole: the manifest has the size and the SHA-256 of each file, and `nowcast
# check` compares.

# %%
from nowcast.service.publishing import differences

folders = sorted(Path("published/forecasts").iterdir())
print(len(folders), "forecasts,", sum(len(differences(folder)) for folder in folders), "files that differ")
for path in sorted(folders[-1].iterdir()):
    print(path)

# %% [markdown]
# A forecast is read like any other.

# %%
(members,) = folders[-1].glob("*Z.nc")
newest = nowcast.read_forecast(members)
newest.mean("realization", keep_attrs=True).sel(lead_time="30min").nowcast.plot_map().figure

# %% [markdown]
# ## In earnest
#
# ```
# nowcast serve --config serve.yaml
# ```
#
# with the settings above as YAML, `configs/serve/example.yaml` to start from, and a page, metrics and
# probes at <http://127.0.0.1:8080/>. [Operations](../docs/operations.md) has the policies, the units for
# systemd, cron and Kubernetes, and the alarms to start with.
