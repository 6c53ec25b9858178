"""Training curves of a run or of several beside each other, from what the run logged."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from data_prep.schema import RefusedInput
from nowcast.plotting.charts import COLOURS, REFERENCE_COLOUR, new_panels, style_axes

METRICS = "metrics.csv"
EVENTS = "events.out.tfevents.*"
CONFIGURATION = "config.yaml"
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
SMOOTHED = 25
"""A smoothed curve is a running mean over this part of its points, but over `LEAST_WIDTH` or more."""
LEAST_WIDTH = 5
FEWEST_SMOOTHED = 20
"""Points from which a curve is smoothed."""
_LEGEND_LINE = 0.12
"""Of the height of a panel."""
MARKED = 60
"""Points up to which each is marked."""


@dataclass(frozen=True)
class Panel:
    """What is drawn together.

    Attributes:
        title: With what is to be seen.
        unit: Of its values.
        curves: Names in the log, without the network before the stroke, and what they are called.
        smoothed: Whether the values of single batches are noisy.
        limits: Of its axis, where they are known.
        logarithmic: Whether its axis is.
    """

    title: str
    unit: str
    curves: Mapping[str, str]
    smoothed: bool = True
    limits: tuple[float, float] | None = None
    logarithmic: bool = False


REFERENCE = "val/crps_persistence"
PANELS = (
    Panel("Losses", "", {"loss/generator": "generator", "loss/adversarial": "its adversarial part",
                         "loss/discriminator": "critics"}),
    Panel("Distance from what fell", "regularizer, mm/h",
          {"loss/regularizer": "regularizer", "mean_absolute_error": "MAE of the mean"}),
    Panel("CRPS in validation", "mm/h", {"val/crps": "network", REFERENCE: "persistence"},
          smoothed=False),
    Panel("Hinge losses of the critics", "", {"spatial_hinge": "spatial", "temporal_hinge": "temporal"}),
    Panel("Accuracy of the critics", "share told rightly",
          {"spatial_real_accuracy": "spatial, real", "spatial_fake_accuracy": "spatial, generated",
           "temporal_real_accuracy": "temporal, real", "temporal_fake_accuracy": "temporal, generated"},
          limits=(-0.02, 1.02)),
    Panel("Gradient norms", "",
          {"gradient_norm/generator": "generator", "gradient_norm/discriminator": "critics"},
          logarithmic=True),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a run logged.

    Attributes:
        curves: By name, batches seen (N,) and values (N,), NaN where a value was undefined.
        batches_a_step: Batches for one step of the generator; None if the run does not tell.
    """

    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
    batches_a_step: int | None

    def find(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """A curve by its name, or by the end of it."""
        ends = (key for key in self.curves if key == name or key.rpartition("/")[2] == name)
        return next((self.curves[key] for key in ends), None)


def plot_training(log: str | Path | Mapping[str, str | Path]) -> Figure:
    """Losses, distance from what fell, validation, critics and gradients by the steps of the generator.

    Curves of many points are drawn smoothed, with the points behind them. A value that was undefined is a
    gap. Where a run was interrupted and resumed, what was logged after the state that it went on from is
    left out. Panels of which a run logged nothing are left out.

    Args:
        log: Folder of a run as ``nowcast train fit`` logs it (``metrics.csv``, or TensorBoard's event files),
            or that above it with ``version_0``, ``version_1`` and so on, which continue each other; or
            several by the name that each is to have.

    Raises:
        RefusedInput: If there is no log, or nothing in it.
    """
    runs = {
        name: read_log(folder) for name, folder in (log if isinstance(log, Mapping) else {"": log}).items()
    }
    if not runs:
        raise RefusedInput("training curves are of a run or more", came="none", do="give the folder of a log")
    panels = [
        panel for panel in PANELS if any(run.find(name) for run in runs.values() for name in panel.curves)
    ]
    if not panels:
        logged = sorted({name for run in runs.values() for name in run.curves})
        raise RefusedInput(
            "a log holds what nowcast train fit logs", came=", ".join(logged)[:200], do="give another folder"
        )
    several = len(runs) > 1
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(runs)}
    legend = {name: {"color": colour, "linewidth": 1.6} for name, colour in colours.items()}
    figure, axes = new_panels(
        len(panels), columns=3 if len(panels) > 4 else 2, legend=legend if several else None
    )
    in_steps = all(run.batches_a_step for run in runs.values())
    for ax, panel in zip(axes, panels, strict=True):
        looks = _looks(panel, runs, several=several)
        for name, run in runs.items():
            scale = run.batches_a_step if in_steps and run.batches_a_step else 1
            colour = {"color": colours[name]} if several else {}
            for curve, look in looks.items():
                _draw_curve(ax, panel, run.find(curve), scale=scale, look=look | colour)
        _draw_frame(ax, panel, looks, "generator steps" if in_steps else "batches")
    return figure


def _looks(panel: Panel, runs: Mapping[str, Run], *, several: bool) -> dict[str, dict[str, Any]]:
    """Of the curves that a run has: dashes where the runs have colours, else colours."""
    looks: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(panel.curves):
        if any(run.find(name) for run in runs.values()):
            looks[name] = {"color": COLOURS[place], "linestyle": "-"}
            if name == REFERENCE:
                looks[name] = {"color": REFERENCE_COLOUR, "linestyle": "--"}
            if several:
                looks[name] = {"color": "0.3", "linestyle": DASHES[place]}
    return looks


def _draw_curve(
    ax: Axes, panel: Panel, found: tuple[np.ndarray, np.ndarray] | None, *, scale: int, look: dict[str, Any]
) -> None:
    """A curve, smoothed with its points behind it where they are many and noisy."""
    if found is None:
        return
    steps, values = found[0] / scale, found[1]
    if panel.logarithmic:
        values = np.where(values > 0, values, np.nan)
    smooth = panel.smoothed and values.size >= FEWEST_SMOOTHED
    if smooth:
        ax.plot(steps, values, color=look["color"], alpha=0.25, linewidth=0.7)
        values = running_mean(values, max(LEAST_WIDTH, values.size // SMOOTHED))
    ax.plot(steps, values, linewidth=1.6, marker="." if not smooth and values.size <= MARKED else "", **look)


def _draw_frame(ax: Axes, panel: Panel, looks: Mapping[str, Mapping[str, Any]], steps: str) -> None:
    """Title, axes and the names of the curves, in room above them."""
    style_axes(ax, panel.title, x=steps, y=panel.unit)
    ax.set_xlim(left=0)
    if panel.logarithmic:
        ax.set_yscale("log")
    low, high = panel.limits or ax.get_ylim()
    room = _LEGEND_LINE * -(-len(looks) // 2)
    ax.set_ylim(low, high * (high / low) ** room if panel.logarithmic else high + room * (high - low))
    if panel.limits:
        ax.set_yticks(np.linspace(0, 1, 6))
    handles = [Line2D([], [], label=panel.curves[name], **look) for name, look in looks.items()]
    ax.legend(handles=handles, loc="upper left", ncols=2, fontsize=8.5, frameon=False, handlelength=1.8,
              borderaxespad=0.2, columnspacing=1.2)  # fmt: skip


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means over as many values as there are of `width` around each, which are fewer at the ends.

    Args:
        values: (N,), NaN where there is none; the mean there is NaN, too.
        width: Number of values; the next odd number is taken.
    """
    known = np.isfinite(values)
    window = np.ones(2 * (width // 2) + 1)
    total, count = (
        np.convolve(part, window)[width // 2 :][: values.size] for part in (np.where(known, values, 0), known)
    )
    return np.where(known, total / np.maximum(count, 1), np.nan)


def read_log(folder: str | Path) -> Run:
    """The log in a folder, or in its folders ``version_*`` in their order; as `plot_training`."""
    folder = Path(folder)
    versions = sorted(
        folder.glob("version_*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]
    )
    folders = [folder, *versions]
    tables = [path / METRICS for path in folders if (path / METRICS).is_file()]
    events = [path for path in folders if any(path.glob(EVENTS))]
    if tables:
        rows = (row for path in tables for row in _rows_of_table(path))
    elif events:
        rows = (row for path in events for row in _rows_of_events(path))
    else:
        raise RefusedInput(
            f"the folder of a run holds {METRICS} or event files of TensorBoard",
            came=f"{folder} ({'neither in it' if folder.is_dir() else 'no such folder'})",
            do="give the folder that the logger of the training writes",
        )
    curves = _curves(rows)
    if not curves:
        raise RefusedInput(
            "a log has values", came=f"none in {folder}", do="wait for the first, or train anew"
        )
    configurations = [path / CONFIGURATION for path in folders if (path / CONFIGURATION).is_file()]
    return Run(curves, _batches_a_step(configurations[-1]) if configurations else None)


def _rows_of_table(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Batches seen and what was logged then; a cell that is empty was not logged, one that says nan was."""
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # the last one may be half written
    try:
        for row in csv.DictReader(whole):
            step = row.pop("step")
            if step:
                values = {name: float(text) for name, text in row.items() if text and name != "epoch"}
                yield int(step) + 1, values
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise RefusedInput(
            f"{METRICS} is a table with a column step, as Lightning writes it",
            came=f"{path} ({type(error).__name__}: {error})",
            do="give the folder of another log",
        ) from error


def _rows_of_events(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The same of the scalars in the event files of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    reader = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    rows: dict[int, dict[str, float]] = {}
    for name in reader.Tags()["scalars"]:
        for event in reader.Scalars(name):
            rows.setdefault(event.step + 1, {})[name] = event.value
    rows = {
        step: {name: value for name, value in row.items() if name != "epoch"} for step, row in rows.items()
    }
    yield from sorted(rows.items())


def _curves(rows: Iterator[tuple[int, dict[str, float]]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Curves by name. Where the steps go back, the run was resumed there: what came later is forgotten."""
    curves: dict[str, dict[int, float]] = {}
    last = 0
    for step, values in rows:
        if step < last:
            for points in curves.values():
                for later in [place for place in points if place >= step]:
                    del points[later]
        last = step
        for name, value in values.items():
            curves.setdefault(name, {})[step] = value
    return {
        name: (np.array(list(points)), np.array(list(points.values())))
        for name, points in curves.items()
        if points
    }


def _batches_a_step(path: Path) -> int | None:
    """Batches for one step of the generator, from the configuration of a run; None if it does not tell."""
    try:
        model = yaml.safe_load(path.read_text())["model"]
        return max(1, int(model["discriminator_steps"])) if model.get("adversarial_weight", 1) else 1
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        return None
