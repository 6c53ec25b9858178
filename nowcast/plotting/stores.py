"""What an archive holds: which frames there are, which are missing or doubtful, and how they are split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data_prep.schema import (
    FRAMES_GROUP,
    SPLITS,
    RefusedInput,
    clock_step,
    iso,
    minutes,
    missing_from_clock,
    open_frames,
    open_store,
)

STATES = ("present", "doubtful", "refused", "missing")
STATE_COLOURS = ("#a6cee3", "#e69f00", "#cc3d8a", "#262626")
SPLIT_COLOURS = ("#b8b8b8", "#4daf8c", "#7570b3", "#e4e4e4")
"""One for each of `data_prep.schema.SPLITS`."""
HARMLESS_MARKS = ("mask_changed",)
"""Marks that do not make a frame doubtful: where radars come and go nearly every one is marked so."""
LONGEST_STRIP = np.timedelta64(48, "h")
"""An archive up to this long is drawn along one axis of time, a longer one day by day."""
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 9.0, 1.0, 0.22, 1.3, 0.75, 0.28
"""Inches."""
_DAY_HEIGHT, _GRID_HEIGHT = 0.16, (2.2, 7.5)
_STRIP_HEIGHT, _CURVE_HEIGHT = 0.32, 1.05
_PIXELS = 1200
"""Along each side of a picture of codes at least."""
_OUTSIDE = 255
"""Code of a time before the archive or after it."""


@dataclass(frozen=True)
class Archive:
    """Every time of the clock of a store, from its first frame to its last.

    Attributes:
        time: datetime64, increasing, (N,).
        step: Of the clock.
        state: Places in `STATES`, uint8, (N,).
        split: Codes of `data_prep.schema.SPLITS`, uint8, (N,), 255 where there is no frame; None if the store
            is not split.
        shares: By name, shares along ``time``, (N,), NaN where there is no frame; none if the store has no
            record of its frames.
        marks: Doubtful frames by mark.
        about: Attributes of the store.
    """

    time: np.ndarray
    step: np.timedelta64
    state: np.ndarray
    split: np.ndarray | None
    shares: dict[str, np.ndarray]
    marks: dict[str, int]
    about: dict[str, Any]


def plot_calendar(store: str | Path | xr.Dataset) -> Figure:
    """Availability and quality of the frames of a store.

    A longer archive is a row a day, with the time of day (UTC) across, and beside it by day the share of the
    times that have a frame, of the cells that hold data and of the observed cells that are wet. Where there
    are more times than pixels their colours are mixed. An archive of two days or less is drawn along one
    axis.

    Frames that the last preparation refused are told from the report beside the store
    (``STORE.report.json``). A store without a record of its frames (the group ``frames``) shows which are
    there, and how they are split.

    Args:
        store: Path of a store, or what `data_prep.schema.open_store` or ``xarray.open_zarr`` makes of it.

    Raises:
        RefusedInput: If it is no store, or one without a frame.
    """
    archive = read_archive(store)
    if archive.time[-1] - archive.time[0] <= LONGEST_STRIP:
        return _strip(archive)
    return _calendar(archive)


def read_archive(store: str | Path | xr.Dataset) -> Archive:
    """What a store tells of its frames, without a look at the rain; as `plot_calendar`."""
    dataset = store if isinstance(store, xr.Dataset) else None
    if dataset is None:
        if not isinstance(store, (str, Path)):
            raise RefusedInput("a calendar is of a store", came=type(store).__name__, do="give its path")
        dataset = open_store(store)
    if "time" not in dataset.coords or not dataset.sizes.get("time"):
        raise RefusedInput(
            "a calendar is of a store with frames", came="none", do="prepare radar files first"
        )
    source = store if isinstance(store, (str, Path)) else dataset.encoding.get("source")
    times, step = dataset["time"].values.astype("datetime64[ns]"), clock_step(dataset)
    frames = _frames_at(times, source)
    lacking = (
        dataset["missing_times"].values if "missing_times" in dataset else missing_from_clock(times, step)
    )
    lacking = lacking[(lacking > times[0]) & (lacking < times[-1])]
    clock = np.concatenate([times, lacking.astype("datetime64[ns]")])
    order = np.argsort(clock, kind="stable")
    clock = clock[order]

    def along_clock(values: np.ndarray, absent: float) -> np.ndarray:
        return np.concatenate([values, np.full(lacking.size, absent, values.dtype)])[order]

    state, marks = _states(times.size, frames)
    state = along_clock(state, STATES.index("missing"))
    state[np.isin(clock, _refused_times(source)) & (state == STATES.index("missing"))] = STATES.index(
        "refused"
    )
    split = along_clock(dataset["split"].values.astype(np.uint8), _OUTSIDE) if "split" in dataset else None
    shares = {}
    if frames is not None:
        shares = {name: along_clock(frames[name].values, np.nan) for name in ("observed", "wet")}
    return Archive(clock, step, state, split, shares, marks, dict(dataset.attrs))


def _frames_at(times: np.ndarray, source: str | Path | None) -> xr.Dataset | None:
    """What a store tells of the frames at some of its times; None if it tells nothing."""
    frames = open_frames(source) if source and Path(source).is_dir() else None
    if frames is None or not {"marks", "observed", "wet"} <= set(frames):
        return None
    if "time" not in frames.coords:
        raise RefusedInput(
            f"a store tells of every frame in its group {FRAMES_GROUP}",
            came=f"{frames.sizes['time']} of them in {source}",
            do="look at it with: nowcast check",
        )
    return frames.sel(time=times)


def _states(count: int, frames: xr.Dataset | None) -> tuple[np.ndarray, dict[str, int]]:
    """States of the frames that are there, and how many have each mark that makes them doubtful."""
    state = np.zeros(count, np.uint8)
    counts = {}
    if frames is not None:
        bits = frames["marks"].values
        names = str(frames["marks"].attrs["flag_meanings"]).split()
        for name, bit in zip(names, np.atleast_1d(frames["marks"].attrs["flag_masks"]), strict=True):
            marked = (bits & bit) != 0
            if name not in HARMLESS_MARKS and marked.any():
                counts[name] = int(marked.sum())
                state[marked] = STATES.index("doubtful")
    return state, counts


def _refused_times(source: str | Path | None) -> np.ndarray:
    """Times of the frames that the last preparation refused; none if it left no report."""
    if source is None:
        return np.array([], "datetime64[ns]")
    try:
        refused = json.loads(Path(f"{str(source).rstrip('/')}.report.json").read_text())["refused"]
        return np.array([entry["time"] for entry in refused if entry["time"]], "datetime64[ns]")
    except (OSError, ValueError, KeyError, TypeError):
        return np.array([], "datetime64[ns]")  # the report is a help, and not part of the store


def _calendar(archive: Archive) -> Figure:
    """A row a day."""
    first = archive.time[0].astype("datetime64[D]")
    day = (archive.time.astype("datetime64[D]") - first).astype(int)
    slot = ((archive.time - archive.time.astype("datetime64[D]")) // archive.step).astype(int)
    days = first + np.arange(day[-1] + 1)
    shape = (
        days.size,
        int(-(-np.timedelta64(1, "D") // archive.step)),
    )  # the last slot may end the day after
    height = float(np.clip(_DAY_HEIGHT * days.size, *_GRID_HEIGHT))
    profiles = _by_day(archive, day)
    figure = Figure(figsize=(_WIDTH, height + _top(archive) + _BOTTOM), dpi=110)
    widths = [4.4, *([0.4] if archive.split is not None else []), *([1.0] * len(profiles))]
    room = _WIDTH - _LEFT - _RIGHT - _GAP * (len(widths) - 1)
    widths[0] = room - sum(widths[1:])
    lefts = [_LEFT + sum(widths[:place]) + _GAP * place for place in range(len(widths))]
    axes = [_axes_at(figure, left, _BOTTOM, width, height) for left, width in zip(lefts, widths, strict=True)]
    ends = date2num([days[0], days[-1] + 1])

    def grid_of(codes: np.ndarray) -> np.ndarray:
        grid = np.full(shape, _OUTSIDE, np.uint8)
        grid[day, slot] = codes
        return grid

    _draw_codes(axes[0], grid_of(archive.state), STATE_COLOURS, (0, 24, ends[1], ends[0]))
    axes[0].set_xticks(range(0, 25, 3))
    _title(axes[0], "", "time of day (UTC)")
    if archive.split is not None:
        _draw_codes(axes[1], grid_of(archive.split), SPLIT_COLOURS, (0, 1, ends[1], ends[0]))
        axes[1].set_xticks([])
        _title(axes[1], "split")
    _day_axis(axes, ends)
    for ax, (name, values) in zip(axes[-len(profiles) :], profiles.items(), strict=True):
        _draw_profile(ax, name, values, date2num(days))
    _draw_head(figure, archive)
    return figure


def _by_day(archive: Archive, day: np.ndarray) -> dict[str, np.ndarray]:
    """Shares by day: of the times of the clock that have a frame, and the means of what frames tell."""
    count = np.bincount(day)
    there = archive.state < STATES.index("refused")
    with np.errstate(invalid="ignore"):
        frames = np.bincount(day, weights=there) / count
        profiles = {"frames": frames}
        titles = {"observed": "cells with data", "wet": "wet cells"}
        for name, shares in archive.shares.items():
            known = np.isfinite(shares)
            total = np.bincount(day[known], weights=shares[known], minlength=count.size)
            profiles[titles[name]] = total / np.bincount(day[known], minlength=count.size)
    return profiles


def _draw_profile(ax: Axes, name: str, values: np.ndarray, days: np.ndarray) -> None:
    """Shares in percent, a bar a day, to the right."""
    edges = np.append(days, days[-1] + 1)
    ax.stairs(100 * np.nan_to_num(values), edges, orientation="horizontal", fill=True, color="#6f94ad")
    highest = 100 * np.nanmax(values, initial=0.0)
    ax.set_xlim(0, 100 if name != "wet cells" else max(1.0, 1.05 * highest))
    _title(ax, name, "%")
    ax.grid(axis="x", color="0.85", linewidth=0.6)


def _day_axis(axes: list[Axes], ends: np.ndarray) -> None:
    """Dates downwards, named at the left alone."""
    span = ends[1] - ends[0]
    pattern = "%Y-%m-%d" if span < 100 else "%Y-%m" if span < 1500 else "%Y"
    for place, ax in enumerate(axes):
        ax.yaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=12, interval_multiples=span >= 100))
        ax.yaxis.set_major_formatter(DateFormatter(pattern))
        ax.set_ylim(ends[1], ends[0])
        ax.tick_params(labelsize=9, labelleft=not place)


def _strip(archive: Archive) -> Figure:
    """One axis of time, for a short archive."""
    titles = {"observed": "cells with data (%)", "wet": "wet cells (%)"}
    rows = ["frames", *(["split"] if archive.split is not None else []), *archive.shares]
    heights = [_CURVE_HEIGHT if name in titles else _STRIP_HEIGHT for name in rows]
    total = sum(heights) + _GAP * len(rows)
    figure = Figure(figsize=(_WIDTH, total + _top(archive) + _BOTTOM), dpi=110)
    half = archive.step / 2
    edges = date2num([archive.time[0] - half, archive.time[-1] + half])
    bottom = _BOTTOM + total
    for name, height in zip(rows, heights, strict=True):
        bottom -= height + _GAP
        ax = _axes_at(figure, _LEFT, bottom + _GAP, _WIDTH - _LEFT - _RIGHT, height)
        if name in titles:
            ax.plot(
                archive.time, 100 * archive.shares[name], ".-", color="#3f6f8f", linewidth=1, markersize=4
            )
            highest = 100 * np.nanmax(archive.shares[name], initial=0.0)
            ax.set_ylim(0, 100 if name == "observed" else max(1.0, 1.08 * highest))
            ax.grid(color="0.88", linewidth=0.6)
            ax.set_ylabel(titles[name].replace(" (%)", "\n(%)"), fontsize=9)
        else:
            codes, colours = archive.state, STATE_COLOURS
            if name == "split" and archive.split is not None:
                codes, colours = archive.split, SPLIT_COLOURS
            _draw_codes(ax, codes[None], colours, (*edges, 0, 1))
            ax.set_yticks([])
            ax.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
        ax.xaxis_date()
        ax.set_xlim(edges)
        ax.tick_params(labelsize=9, labelbottom=name == rows[-1])
    locator = AutoDateLocator(minticks=3, maxticks=10)
    for ax in figure.axes:
        ax.xaxis.set_major_locator(
            locator if ax is figure.axes[-1] else AutoDateLocator(minticks=3, maxticks=10)
        )
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.set_xlabel("time (UTC)", fontsize=9.5)
    _draw_head(figure, archive)
    return figure


def _draw_codes(
    ax: Axes, codes: np.ndarray, colours: Sequence[str], extent: tuple[float, float, float, float]
) -> None:
    """Codes (rows, columns) as a picture, white outside the archive.

    Where there are more of them than pixels, their colours are mixed. Where there are fewer each is repeated,
    because what is enlarged a little is blurred.
    """
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = np.round(255 * np.array([to_rgb(colour) for colour in colours]))
    for axis, size in enumerate(codes.shape):
        codes = np.repeat(codes, -(-_PIXELS // size), axis=axis)
    ax.imshow(table[codes], extent=extent, aspect="auto", interpolation="auto", interpolation_stage="rgba")


def _axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _title(ax: Axes, title: str, below: str = "") -> None:
    ax.set_title(title, loc="left", fontsize=9.5)
    ax.set_xlabel(below, fontsize=9.5)
    ax.tick_params(labelsize=9)


def _top(archive: Archive) -> float:
    """Inches above the axes: two marks stand on a line of the legend."""
    return _TOP + 0.14 * max(0, -(-len(archive.marks) // 2) - 1)


def _draw_head(figure: Figure, archive: Archive) -> None:
    """What the archive is, the keys with their numbers, and whose data it is."""
    width, height = figure.get_size_inches()
    name = str(archive.about.get("title", "Radar archive"))
    first, last = (iso(time).replace("T", " ") for time in archive.time[[0, -1]])
    span = f"{first} to {last} UTC, every {minutes(archive.step):g} min"
    figure.text(0.12 / width, 1 - 0.12 / height, f"{name}\n{span}", fontsize=10.5, va="top",
                linespacing=1.4, parse_math=False)  # fmt: skip
    keys = [_state_key(archive, place) for place in range(len(STATES))]
    handles = [
        Patch(facecolor=colour, edgecolor="0.5", linewidth=0.4, label=key)
        for colour, key in zip(STATE_COLOURS, keys, strict=True)
        if key
    ]
    if archive.split is not None:
        counts = np.bincount(archive.split, minlength=len(SPLITS))[: len(SPLITS)]
        handles += [
            Patch(facecolor=colour, edgecolor="0.5", linewidth=0.4,
                  label=f"{name} {_share(count, counts.sum())}")
            for name, colour, count in zip(SPLITS, SPLIT_COLOURS, counts, strict=True) if count
        ]  # fmt: skip
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.05 / width, 1 - 0.5 / height), ncols=4,
                  frameon=False, fontsize=8.5, columnspacing=1.2, handlelength=1.2)  # fmt: skip
    cited = ", ".join(str(archive.about[key]) for key in ("institution", "license") if archive.about.get(key))
    if cited:
        figure.text(1 - 0.1 / width, 0.1 / height, f"Data: {cited}", fontsize=8, color="0.35", ha="right",
                    parse_math=False)  # fmt: skip


def _state_key(archive: Archive, place: int) -> str:
    """A state with the number of its times, and what is known of them; empty if there is none."""
    count = int(np.count_nonzero(archive.state == place))
    if not count:
        return ""
    text = f"{STATES[place]} {_share(count, archive.time.size)}"
    if STATES[place] == "doubtful":
        marks = [f"{name.replace('_', ' ')} {number}" for name, number in archive.marks.items()]
        text += "".join(f"\n{', '.join(marks[first : first + 2])}" for first in range(0, len(marks), 2))
    if STATES[place] == "missing":
        lacking = archive.state >= STATES.index("refused")
        starts = np.flatnonzero(np.diff(lacking.astype(int), prepend=0) == 1)
        longest = np.diff(np.append(np.flatnonzero(~lacking), lacking.size)).max() - 1
        lasts = longest * minutes(archive.step)
        length = f"{lasts:g} min" if lasts < 120 else f"{lasts / 60:.3g} h"
        text += f"\nin {starts.size} gap{'s' if starts.size > 1 else ''}, the longest {length}"
    return text


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.3g} %)".replace(",", "\u202f")
