"""Figures: maps, panels of an ensemble, curves of scores, and loops.

Nothing here holds a figure open: what is returned belongs to the caller, and pyplot does not know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import ExifTags, Image

from data_prep.schema import RefusedInput
from nowcast.fields import exceedance_probability
from nowcast.files import written_whole
from nowcast.maps import (
    HEADING,
    NO_DATA,
    PROBABILITY,
    RAIN,
    RAIN_COLOURS,
    RAIN_LEVELS,
    GridProjection,
    Scale,
    draw_colour_bar,
    draw_no_data_key,
    heading,
    lead_text,
    plot_map,
    projection_of,
    raster,
    scale_of,
    utc,
)

__all__ = ["PROBABILITY", "RAIN", "RAIN_COLOURS", "RAIN_LEVELS", "Scale", "animate", "plot_map", "plot_panel",
           "projection_of", "save_figure"]  # fmt: skip

PREFERRED_LEADS = tuple(np.timedelta64(m, "m") for m in (15, 30, 60))
"""Rows of a panel, where the forecast has them all."""
LOOPS = {".gif": "GIF", ".webp": "WebP"}
LAST_FRAME_SECONDS = 1.2
_GRID_TOLERANCE = 1.0
"""Metres by which the cells of the observation may lie off those of the forecast."""
_PALETTE_SIZE = 96
_NEAR = 12
"""Of 255: colours nearer than this to one of the scale are drawn as that one."""
_PANEL_SIDE, _PANEL_GAP, _PANEL_LEFT, _PANEL_TOP, _PANEL_BOTTOM = 2.7, 0.12, 0.8, 0.7, 0.8
"""Inches: longer side of one map, space between maps, and margins."""


def plot_panel(
    observed: xr.DataArray | None,
    ensemble: xr.DataArray,
    *,
    threshold: float = 1.0,
    lead_times: Sequence[np.timedelta64] | None = None,
) -> Figure:
    """Maps of an ensemble forecast beside what fell.

    A row is a lead time. The columns are the observation, the ensemble mean, two members and the probability
    of the threshold or more; of a single member, the observation and the forecast.

    Args:
        observed: Rain array (time, y, x) on the grid of the forecast, in mm/h, from which the valid times are
            picked; a time it lacks is shown as not observed yet. None leaves the column out.
        ensemble: (realization, lead_time, y, x) in mm/h, as forecasters return it.
        threshold: Of the probability, mm/h.
        lead_times: Rows; by default 15, 30 and 60 minutes, or three of the forecast's own evenly chosen.

    Raises:
        RefusedInput: If the ensemble lacks a dim, the CRS or a lead time, or the grids differ.
    """
    _check_panel(observed, ensemble)
    rows = ensemble.sel(lead_time=_panel_leads(ensemble, lead_times)).load()
    columns = _panel_columns(observed, rows, threshold)
    figure, axes = _panel_axes(projection_of(ensemble), len(columns), rows.sizes["lead_time"])
    for column, (name, fields) in enumerate(columns.items()):
        for row, field in enumerate(fields):
            title = name if row == 0 else ""
            if field is None:
                _draw_absent(axes[row, column], title)
            else:
                plot_map(field, ax=axes[row, column], title=title, colour_bar=False, graticule=False)
    for row, ax in enumerate(axes[:, 0]):
        label = f"+{lead_text(rows['lead_time'].values[row])}\n{utc(rows['time'].values[row])[11:]}"
        ax.annotate(label, (0, 0.5), (-7, 0), xycoords="axes fraction", textcoords="offset points",
                    ha="right", va="center", fontsize=9)  # fmt: skip
    _draw_panel_keys(figure, axes, with_probability=rows.sizes["realization"] > 1)
    members = f"{rows.sizes['realization']} members" if rows.sizes["realization"] > 1 else ""
    made_by = f"by {ensemble.attrs['model']}" if "model" in ensemble.attrs else ""
    title = ", ".join(filter(None, (heading(rows.drop_vars(["time", "lead_time"])), made_by, members)))
    width, height = figure.get_size_inches()
    figure.suptitle(
        title, x=_PANEL_LEFT / width, y=1 - 0.1 / height, ha="left", va="top", fontsize=12 if width > 8 else 8
    )
    return figure


def _check_panel(observed: xr.DataArray | None, ensemble: xr.DataArray) -> None:
    if ensemble.dims != ("realization", "lead_time", "y", "x"):
        raise RefusedInput(
            "a panel shows a forecast (realization, lead_time, y, x)", came=f"dims {ensemble.dims}",
            do="transpose it, or draw one field with plot_map",
        )  # fmt: skip
    if observed is not None and not all(
        observed.sizes[name] == ensemble.sizes[name]
        and np.allclose(observed[name].values, ensemble[name].values, rtol=0, atol=_GRID_TOLERANCE)
        for name in ("x", "y")
    ):
        raise RefusedInput(
            "the observation is on the grid of the forecast",
            came=f"{dict(observed.sizes)} against {dict(ensemble.sizes)}",
            do="crop the observation to the x and y of the forecast",
        )


def _panel_leads(ensemble: xr.DataArray, lead_times: Sequence[np.timedelta64] | None) -> np.ndarray:
    available = ensemble["lead_time"].values
    if lead_times is None:
        if np.isin(PREFERRED_LEADS, available).all():
            return np.array(PREFERRED_LEADS)
        count = min(3, available.size)
        return available[[round((n + 1) * available.size / count) - 1 for n in range(count)]]
    chosen = np.array(list(lead_times), dtype="timedelta64[ns]")
    lacking = chosen[~np.isin(chosen, available)]
    if lacking.size:
        raise RefusedInput(
            "the forecast has every lead time to be drawn", came=f"{lead_text(lacking[0])}, absent",
            do=f"choose from {lead_text(available[0])} to {lead_text(available[-1])}",
        )  # fmt: skip
    return chosen


def _panel_columns(
    observed: xr.DataArray | None, rows: xr.DataArray, threshold: float
) -> dict[str, list[xr.DataArray | None]]:
    """Columns of the panel from left to right, each with a field a row."""
    count = rows.sizes["lead_time"]
    columns: dict[str, list[xr.DataArray | None]] = {}
    if observed is not None:
        known = observed["time"].values
        columns["Observed"] = [
            observed.sel(time=time) if time in known else None for time in rows["time"].values
        ]
    members = rows.sizes["realization"]
    if members == 1:
        columns["Forecast"] = [rows[0, row] for row in range(count)]
        return columns
    mean = rows.mean("realization")
    columns["Ensemble mean"] = [mean[row] for row in range(count)]
    for member in range(2):
        columns[f"Member {rows['realization'].values[member]}"] = [rows[member, row] for row in range(count)]
    probability = exceedance_probability(rows, threshold)
    columns[f"P(≥ {threshold:g} mm/h)"] = [probability[row] for row in range(count)]
    return columns


def _panel_axes(projection: GridProjection, columns: int, rows: int) -> tuple[Figure, np.ndarray]:
    west, east, south, north = projection.bounds
    scale = _PANEL_SIDE / max(east - west, north - south)
    width, height = (east - west) * scale, (north - south) * scale
    size = (
        max(_PANEL_LEFT + columns * (width + _PANEL_GAP) + 0.1, 4.2),
        _PANEL_TOP + rows * (height + _PANEL_GAP) + _PANEL_BOTTOM,
    )
    figure = Figure(figsize=size, dpi=100)
    axes = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        left = _PANEL_LEFT + column * (width + _PANEL_GAP)
        bottom = _PANEL_BOTTOM + (rows - 1 - row) * (height + _PANEL_GAP) + _PANEL_GAP
        place = (left / size[0], bottom / size[1], width / size[0], height / size[1])
        axes[row, column] = figure.add_axes(place, projection=projection)
    return figure, axes


def _draw_absent(ax: GeoAxes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=10)
    ax.text(0.5, 0.5, "not observed yet", transform=ax.transAxes, ha="center", va="center", color="0.4",
            fontsize=9)  # fmt: skip


def _draw_panel_keys(figure: Figure, axes: np.ndarray, *, with_probability: bool) -> None:
    """One bar of rain under the columns in mm/h and one of probability under its own."""
    unit = np.array([figure.get_figwidth(), figure.get_figheight()])
    bottom, height, key = 0.5 / unit[1], 0.14 / unit[1], 0.85 / unit[0]
    first, last = axes[-1, 0].get_position(), axes[-1, -2 if with_probability else -1].get_position()
    width = np.clip(last.x1 - first.x0 - key, 2.6 / unit[0], 7.0 / unit[0])
    rain = figure.add_axes((first.x0 + key, bottom, width, height))
    draw_colour_bar(rain, RAIN, orientation="horizontal")
    draw_no_data_key(rain, (-key / width, 0.0, 0.25 / unit[0] / width, 1.0))
    if with_probability:
        place = axes[-1, -1].get_position()
        draw_colour_bar(
            figure.add_axes((place.x0, bottom, place.width, height)), PROBABILITY, orientation="horizontal"
        )


def animate(
    fields: xr.DataArray,
    path: str | Path,
    *,
    title: str | None = None,
    frames_per_second: float = 4.0,
    scale: Scale | None = None,
    description: str = "",
) -> None:
    """Write an endless loop of maps.

    Args:
        fields: (time, y, x) or (lead_time, y, x) with the spatial coordinates of a rain array; mm/h, or
            probabilities (units ``1``).
        path: ``.gif`` or ``.webp``; written whole or not at all.
        title: First line of the heading, above the times.
        frames_per_second: Speed; the last frame stays for `LAST_FRAME_SECONDS`.
        scale: As of `plot_map`.
        description: What the file says of itself beside the pictures.

    Raises:
        RefusedInput: If the suffix is another, the speed is not positive, or the fields have other dims.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in LOOPS:
        raise RefusedInput("a loop is a .gif or a .webp", came=path.name, do="change the suffix")
    if frames_per_second <= 0:
        raise RefusedInput("frames_per_second is positive", came=frames_per_second, do="give 4, say")
    if fields.dims not in (("time", "y", "x"), ("lead_time", "y", "x")) or not len(fields):
        raise RefusedInput(
            "a loop shows one field or more (time, y, x) or (lead_time, y, x)", came=dict(fields.sizes),
            do="choose a member with sel, or average over members",
        )  # fmt: skip
    images = list(_frames(fields, title, scale))
    duration = [round(1000 / frames_per_second)] * len(images)
    duration[-1] = max(duration[-1], round(1000 * LAST_FRAME_SECONDS))
    options: dict[str, Any] = {"save_all": True, "append_images": images[1:], "duration": duration, "loop": 0}
    if kind == ".gif" and description:
        options["comment"] = description
    if kind == ".webp":
        images = [image.convert("RGB") for image in images]
        options |= {"append_images": images[1:], "lossless": True, "quality": 10, "method": 1}
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = description
        options |= {"exif": exif.tobytes()} if description else {}
    with written_whole(path) as partial:
        images[0].save(partial, format=LOOPS[kind], **options)


def _frames(fields: xr.DataArray, title: str | None, scale: Scale | None) -> Iterator[Image.Image]:
    """Pictures of all fields with one palette; what does not change is drawn once."""
    scale = scale or scale_of(fields)
    texts = ["\n".join(part for part in (title, heading(field)) if part) for field in fields]
    ax = plot_map(fields[0], title=texts[0], scale=scale)
    heading_text = ax.set_title(texts[0], loc="left", **HEADING)
    figure = ax.figure
    canvas = FigureCanvasAgg(figure)
    moving = [*ax.images, *ax.collections, ax.spines["geo"]]
    for artist in (*moving, heading_text):
        artist.set_animated(True)
    canvas.draw()
    static = canvas.copy_from_bbox(figure.bbox)
    palette: Image.Image | None = None
    for text, field in zip(texts, fields, strict=True):
        canvas.restore_region(static)
        ax.images[0].set_data(raster(field))
        heading_text.set_text(text)
        for artist in (*moving, heading_text):
            artist.draw(canvas.get_renderer())
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        palette = palette or _palette(picture, scale)
        yield picture.quantize(palette=palette, dither=Image.Dither.NONE)


def _palette(picture: Image.Image, scale: Scale) -> Image.Image:
    """The colours of the scale themselves, and the most frequent others of a picture."""
    names = (*scale.colours, NO_DATA, "white", "black")
    exact = np.array([to_rgb(name) for name in names]) * 255
    others = np.reshape(picture.quantize(_PALETTE_SIZE - len(names)).getpalette() or [], (-1, 3))
    apart = np.abs(others[:, None] - exact).max(axis=-1).min(axis=-1) > _NEAR
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([exact.round(), others[apart]]).astype(np.uint8).tobytes())
    return palette


def save_figure(figure: Figure, path: str | Path, *, dpi: float = 150, description: str = "") -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: Any matplotlib figure.
        path: The suffix chooses the format, as ``.png``, ``.pdf``, ``.svg``.
        dpi: Pixels per inch.
        description: What a ``.png`` says of itself beside the picture.

    Raises:
        RefusedInput: If matplotlib does not write this suffix.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise RefusedInput(
            f"a figure is one of {', '.join(sorted(known))}", came=path.name, do="change the suffix"
        )
    with written_whole(path) as partial:
        told: dict[str, Any] = {}
        if description and kind == "png":
            told["metadata"] = {"Description": description}
        figure.savefig(partial, dpi=dpi, format=kind, **told)
