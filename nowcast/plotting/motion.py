"""Rain with the arrows of its motion."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from data_prep.schema import RefusedInput
from nowcast.plotting.grids import extent_of, in_metres, raster
from nowcast.plotting.maps import plot_map
from nowcast.plotting.palettes import Palette
from nowcast.plotting.sheets import is_number

ARROWS = 14
"""Along the longer side of a map, unless a spacing is asked for."""
LONGEST = 0.95
"""Of the spacing: how long the arrow of the key is."""
KEYS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0)
"""Speeds that the key may show, m/s; faster than weather moves, whole hundreds."""
_COMPONENTS = ("motion_x", "motion_y")


def plot_motion(
    field: xr.DataArray,
    motion: xr.Dataset,
    *,
    spacing: float | None = None,
    title: str | None = None,
    palette: Palette | str | None = None,
) -> Figure:
    """A map of rain with arrows that show how it moves, where there is data.

    Args:
        field: (y, x) in mm/h, as of `plot_map`.
        motion: ``motion_x`` and ``motion_y`` (y, x) on the grid of the field, m/s, as
            `nowcast.motion_field.motion_field` gives them.
        spacing: Kilometres between arrows; by default as many of them as can be told apart.
        title: As of `plot_map`.
        palette: As of `plot_map`.

    Raises:
        RefusedInput: If the field cannot be drawn, the motion is none in m/s on its grid, or the spacing is
            not above 0.
    """
    if spacing is not None and not (is_number(spacing) and spacing > 0):
        raise RefusedInput("the spacing of arrows is above 0 km", came=spacing, do="leave it out, or give 25")
    _refuse_other_motion(field, motion)
    field = in_metres(field)
    ax = plot_map(field, title=title, palette=palette)
    west, east, south, north = extent_of(field)
    apart = max(east - west, north - south) / ARROWS if spacing is None else 1000 * spacing
    x, y = (_places(*ends, apart) for ends in ((west, east), (south, north)))
    u, v = (_at(motion[name].assign_coords(x=field["x"], y=field["y"]), x, y) for name in _COMPONENTS)
    hidden = np.ma.getmaskarray(raster(field))[_cells(north, south, y, field.sizes["y"])][
        :, _cells(west, east, x, field.sizes["x"])
    ]
    speed = np.hypot(u, v)
    shown = np.isfinite(speed) & ~hidden
    fast = float(np.quantile(speed[shown], 0.9)) if shown.any() else 0.0
    key = next((key for key in KEYS if key >= fast), 100 * float(np.ceil(fast / 100)))
    columns, rows = np.meshgrid(x, y)
    arrows = ax.quiver(
        columns[shown], rows[shown], u[shown], v[shown], angles="xy", scale_units="xy", pivot="middle",
        scale=key / (LONGEST * apart), width=0.0028, headwidth=4.5, headlength=5.5, headaxislength=5,
        color="black", zorder=4, path_effects=[withStroke(linewidth=1.6, foreground="white", alpha=0.8)],
    )  # fmt: skip
    ax.quiverkey(arrows, 0.99, 1.025, key, f"{key:g} m/s", labelpos="W", labelsep=0.08,
                 fontproperties={"size": 9})  # fmt: skip
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _refuse_other_motion(field: xr.DataArray, motion: xr.Dataset) -> None:
    if not isinstance(motion, xr.Dataset):
        raise RefusedInput(
            "a motion is a Dataset with motion_x and motion_y", came=type(motion).__name__,
            do="estimate it with nowcast.motion_field.motion_field",
        )  # fmt: skip
    if not set(_COMPONENTS) <= set(motion) or any(
        set(motion[name].dims) != {"y", "x"} or motion[name].attrs.get("units") != "m s-1"
        for name in _COMPONENTS
    ):
        raise RefusedInput(
            "a motion is motion_x and motion_y (y, x) in m s-1",
            came=f"{sorted(map(str, motion))} by {dict(motion.sizes)}",
            do="estimate it with nowcast.motion_field.motion_field",
        )
    if any(
        name not in field.coords or not np.array_equal(motion[name].values, field[name].values)
        for name in ("x", "y")
    ):
        raise RefusedInput(
            "the motion is on the grid of the field",
            came=f"{dict(motion.sizes)} against {dict(field.sizes)}, or other x and y",
            do="select the same box of both",
        )


def _places(low: float, high: float, apart: float) -> np.ndarray:
    """Places at one distance, as many as fit between two edges, in the middle of them."""
    count = max(1, int((high - low) / apart + 1e-6))
    return (low + high) / 2 + apart * (np.arange(count) - (count - 1) / 2)


def _cells(first: float, last: float, places: np.ndarray, count: int) -> np.ndarray:
    """The cells that places lie in, counted from the first edge to the last."""
    return np.clip(((places - first) / (last - first) * count).astype(int), 0, count - 1)


def _at(component: xr.DataArray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values at the nearest cells, (y, x)."""
    return component.sel(x=x, y=y, method="nearest").transpose("y", "x").values
