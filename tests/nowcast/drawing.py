"""Fields to draw, and what is seen of the figures."""

import numpy as np
import pyproj
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from data_prep.schema import rain_array
from nowcast.plotting import plot_map

POLAR = pyproj.CRS.from_proj4("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +ellps=WGS84 +units=m")
LOCAL = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m")
START = np.datetime64("2026-06-01T12:00", "ns")
LEADS = np.arange(1, 5) * np.timedelta64(15, "m").astype("timedelta64[ns]")


def rain(values, crs=LOCAL, *, longitude=5.0, latitude=52.0, southward=True) -> xr.DataArray:
    """Frames every 15 minutes on a 2-km grid round a place."""
    values = np.asarray(values, dtype=float)
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(longitude, latitude)
    columns = x + (np.arange(values.shape[2]) - values.shape[2] // 2) * 2000.0
    rows = y + (np.arange(values.shape[1]) - values.shape[1] // 2) * 2000.0
    times = START + np.arange(len(values)) * np.timedelta64(15, "m")
    return rain_array(values, time=times, x=columns, y=rows[::-1] if southward else rows, crs=crs)


def ensemble(values) -> xr.DataArray:
    """Forecast from START, (realization, lead_time, y, x)."""
    values = np.asarray(values, dtype=float)
    grid = rain(values[0])
    leads = LEADS[: values.shape[1]]
    return xr.DataArray(
        values,
        dims=("realization", "lead_time", "y", "x"),
        coords={
            "realization": np.arange(len(values)),
            "lead_time": leads,
            "time": ("lead_time", START + leads),
            "forecast_reference_time": START,
            **{name: grid[name] for name in ("x", "y", "lat", "lon", "crs")},
        },
        attrs={"units": "mm h-1"},
    )


def pixels(figure: Figure) -> np.ndarray:
    """Red, green, blue of the drawn figure, 0 to 255, from the bottom up as display units are."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[::-1, :, :3].astype(int)


def colour(name: str) -> list[int]:
    return [round(255 * part) for part in to_rgb(name)]


def colours_in_the_middle(field: xr.DataArray, **options) -> list[int]:
    """Colour of the central cell of a map without lines and words."""
    ax = plot_map(field, graticule=False, **options)
    for artist in (*ax.collections, *ax.texts):
        artist.set_visible(False)
    column, row = ax.transAxes.transform((0.5, 0.5)).round().astype(int)
    return pixels(ax.figure)[row, column].tolist()


def on_degrees(values, *, longitudes, latitudes, names=("lon", "lat")) -> xr.DataArray:
    """A field (latitude, longitude) without a CRS, as many archives have it."""
    longitude, latitude = names
    return xr.DataArray(
        values,
        dims=(latitude, longitude),
        coords={longitude: np.asarray(longitudes, float), latitude: np.asarray(latitudes, float)},
        attrs={"units": "mm h-1"},
    )


def showers(shape: tuple[int, int]) -> np.ndarray:
    """Rain of all classes in some cells, dry ones around, and a corner without data; always the same."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / np.reshape(shape, (2, 1, 1))
    waves = np.sin(9 * rows + 4 * np.sin(5 * columns)) * np.cos(11 * columns - 3 * rows)
    values = np.where(waves > 0, 90.0 * waves**3, 0.0)
    return np.where(np.hypot(rows - 0.5, columns - 0.5) > 0.6, np.nan, values)


def compared(*, dpi: int) -> pytest.MarkDecorator:
    """Marks a test whose figure is compared with the picture in ``baseline``, as small as can be judged."""
    return pytest.mark.mpl_image_compare(
        baseline_dir="baseline", style="default", tolerance=3, savefig_kwargs={"dpi": dpi}
    )
