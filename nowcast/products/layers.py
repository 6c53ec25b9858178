"""What the viewer shows of a forecast: pictures of its cells, and ``layers.json`` about them.

Each layer is one palette PNG that holds all its lead times as tiles, row by row, drawn straight from the
cells in the classes and colours of `nowcast.plotting.palettes`. The layers are the probability-matched mean,
the probability of a threshold, each member, and the observed frames that the forecast was made from. Coasts,
borders and graticule are a picture of their own, drawn once for a grid.

The first layer is the probability-matched mean, and not the mean: a loop goes from observed frames into it,
and the mean, smoother with every lead time, would look like rain that spreads and dies.

The members are read one after another; memory is that of one member and of sums over members. Nothing
depends on the present time: the same forecast gives the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from data_prep.schema import RefusedInput, crs_of, minutes
from nowcast.forecaster import INPUT_STATUS
from nowcast.plotting import maps
from nowcast.plotting.palettes import PROBABILITY, RAIN, Palette
from nowcast.products.cf import utc
from nowcast.products.forecast_file import nothing, read_forecast
from nowcast.verification.matched_mean import matched_events

LAYERS = "layers.json"
LINES = "layer_lines.png"
LARGEST_TILE = 800
"""Pixels of the longer side of a tile; larger grids are shown in blocks of cells."""
LARGEST_PICTURE = 16_000_000
"""Pixels of a picture of all lead times: more than that phones do not draw."""
MARGIN = 0.02
"""Margin round the cells with data, of the longer side of their box."""
LINES_SIDE = 1600
"""Pixels of the longer side of the picture of the lines."""
_RUN_LENGTHS = 3
"""zlib's strategy Z_RLE."""


@dataclass(frozen=True)
class Window:
    """The part of a grid that is shown, north up.

    Attributes:
        rows: Rows of the grid, in its own order.
        columns: Columns of the grid, in its own order.
        turned: Whether the grid's first row is in the south, and whether its first column is in the east.
        block: Cells along one side of a pixel, which shows their mean.
    """

    rows: slice
    columns: slice
    turned: tuple[bool, bool]
    block: int

    def cut(self, values: np.ndarray) -> np.ndarray:
        """Values (..., y, x) of the grid to those of the pixels (..., height, width), float32."""
        part = values[..., self.rows, self.columns].astype(np.float32, copy=False)
        part = np.flip(part, tuple(np.flatnonzero(self.turned) - 2))
        return part if self.block == 1 else _block_means(part, self.block)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        rows, columns = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return rows // self.block, columns // self.block

    def in_blocks(self, block: int) -> Window:
        """The same window with larger pixels; what is left of a block at the end is not shown."""
        rows, columns = (
            slice(cells.start, cells.stop - (cells.stop - cells.start) % block)
            for cells in (self.rows, self.columns)
        )
        return Window(rows, columns, self.turned, block)


def write_layers(
    forecast: Path,
    folder: Path,
    *,
    observed: xr.DataArray | None = None,
    threshold: float = 1.0,
    between: Callable[[], None] = nothing,
) -> list[Path]:
    """Draw all layers of a forecast.

    Args:
        forecast: Forecast file with the members.
        folder: Where the files go. They are written in place: nobody should read there yet.
        observed: The rain array (time, y, x) that the forecast was made from, mm/h, on its grid, with the
            coordinate ``input_frame_status`` (time) where a frame was not observed.
        threshold: mm/h of which the probability is shown. One member has no probability and no mean.
        between: Called after each picture. If it raises, the files written so far stay.

    Returns:
        The files, ``layers.json`` last.

    Raises:
        RefusedInput: If the file is no forecast, or the observed frames are on another grid.
    """
    members = read_forecast(forecast)
    if observed is not None:
        _refuse_other_grid(observed, members)
    first = members.isel(realization=0).values
    window = window_of(members, [first] if observed is None else [first, observed.values])
    pictures = _Pictures(folder, window, between)
    if observed is not None:
        pictures.add("observed", RAIN, classes_of(window.cut(observed.values), RAIN))
    count = members.sizes["realization"]
    sums = _Sums(threshold, (members.sizes["lead_time"], *window.size))
    for number in range(count):
        rates = window.cut(members.isel(realization=number).values)
        classes = classes_of(rates, RAIN)
        pictures.add(f"member_{number:02d}", RAIN, classes)
        if count > 1:
            sums.add(rates, classes)
    if count > 1:
        pictures.add("mean", RAIN, sums.matched_mean_classes())
        pictures.add("probability", PROBABILITY, classes_of(sums.probability(), PROBABILITY))
    lines, degrees = lines_picture(crs_of(members).to_wkt(), _extent(window, members))
    (folder / LINES).write_bytes(lines)
    told = _told(members, observed, window, threshold) | {"degrees": degrees}
    (folder / LAYERS).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*pictures.files, folder / LINES, folder / LAYERS]


def window_of(grid: xr.DataArray, shown: Sequence[np.ndarray]) -> Window:
    """The box of the cells with data and a margin; the whole grid where there are none.

    Args:
        grid: Anything with the dims and coordinates of the forecast.
        shown: Fields (time, y, x) to have in the window.
    """
    present = np.zeros(shown[0].shape[-2:], dtype=bool)
    for fields in shown:
        for field in fields:
            present |= np.isfinite(field)
    spans = [_span(np.flatnonzero(present.any(axis=axis)), present.shape[1 - axis]) for axis in (1, 0)]
    margin = round(MARGIN * max(span.stop - span.start for span in spans)) + 1
    rows, columns = (
        slice(max(span.start - margin, 0), min(span.stop + margin, present.shape[axis]))
        for axis, span in enumerate(spans)
    )
    turned = bool(grid["y"][0] < grid["y"][-1]), bool(grid["x"][0] > grid["x"][-1])
    whole = window = Window(rows, columns, turned, block=1)
    while max(window.size) > LARGEST_TILE or _picture_size(window, len(shown[0])) > LARGEST_PICTURE:
        if min(window.size) == 1:
            break
        window = whole.in_blocks(window.block + 1)
    return window


def classes_of(values: np.ndarray, palette: Palette) -> np.ndarray:
    """Number of each value's class, as the palette has it: 0 below the first, n + 1 of n where not finite.

    A value on a level belongs to the class above, as on the maps.
    """
    classes = np.zeros(values.shape, dtype=np.uint8)
    for field, numbers in zip(values, classes, strict=True):
        for level in palette.levels[: len(palette.colours)]:
            numbers += field >= np.float32(level)
        numbers[~np.isfinite(field)] = len(palette.colours) + 1
    return classes


def columns_of(tiles: int, height: int, width: int) -> int:
    """Tiles in one row of a picture, so that it is about as wide as high."""
    return min(tiles, max(1, round((tiles * height / width) ** 0.5)))


@lru_cache(maxsize=4)
def lines_picture(
    crs_wkt: str, extent: tuple[float, float, float, float]
) -> tuple[bytes, dict[str, list[dict[str, Any]]]]:
    """Coasts, borders, lakes and graticule of a window, as PNG, and the labels of the graticule.

    Args:
        crs_wkt: Projected CRS in metres.
        extent: West, east, south and north edge, metres.

    Returns:
        The picture, transparent where there is no line; for ``south`` and ``west`` the labels at that edge,
        each with its place as a fraction of the edge from the west or from the north.
    """
    west, east, south, north = extent
    size = np.array([east - west, north - south])
    inches = size / size.max() * maps.LARGEST_SIDE
    figure = Figure(figsize=tuple(inches), dpi=LINES_SIDE / maps.LARGEST_SIDE)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(west, east), ylim=(south, north))
    box = xr.DataArray(
        np.zeros((2, 2)), dims=("y", "x"),
        coords={"x": west + size[0] * np.array([0.25, 0.75]), "y": south + size[1] * np.array([0.75, 0.25]),
                "crs": xr.DataArray(0, attrs={"crs_wkt": crs_wkt})},
    )  # fmt: skip
    maps.draw_lines(axes, box)
    maps.draw_graticule(axes, box)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", transparent=True, metadata={"Software": None})
    grey = io.BytesIO()
    Image.open(drawn).convert("LA").save(grey, "PNG")
    return grey.getvalue(), {
        "south": _labels(axes.xaxis, west, east - west),
        "west": _labels(axes.yaxis, north, south - north),
    }


class _Pictures:
    """Layers as files of a folder.

    Args:
        folder: Where they go.
        window: What of the grid they show.
        between: Called after each.
    """

    def __init__(self, folder: Path, window: Window, between: Callable[[], None]) -> None:
        self.files: list[Path] = []
        self._folder, self._window, self._between = folder, window, between

    def add(self, name: str, palette: Palette, classes: np.ndarray) -> None:
        """Write the classes (tiles, height, width) of a layer."""
        tiles, height, width = classes.shape
        columns = columns_of(tiles, height, width)
        sheet = np.zeros((-(-tiles // columns), height, columns, width), dtype=np.uint8)
        for number, tile in enumerate(classes):
            sheet[number // columns, :, number % columns] = tile
        picture = Image.fromarray(sheet.reshape(-1, columns * width))
        colours = ["#ffffff", *palette.colours, palette.no_data]
        picture.putpalette(bytes.fromhex("".join(colour.removeprefix("#") for colour in colours)))
        path = self._folder / layer_file(name)
        # Run lengths fit such pictures: a quarter of the time of the default, and fewer bytes.
        picture.save(path, "PNG", transparency=0, bits=4, compress_type=_RUN_LENGTHS)
        self.files.append(path)
        self._between()


class _Sums:
    """What the mean and the probability need of the members.

    Args:
        threshold: mm/h of the probability.
        shape: (lead_time, height, width).
    """

    def __init__(self, threshold: float, shape: tuple[int, ...]) -> None:
        self._threshold, self._members = threshold, 0
        self._total = np.zeros(shape, dtype=np.float32)
        self._reaching, self._present = np.zeros(shape, dtype=np.uint16), np.zeros(shape, dtype=np.uint16)
        self._in_class = np.zeros((shape[0], len(RAIN.colours) + 1), dtype=np.int64)

    def add(self, rates: np.ndarray, classes: np.ndarray) -> None:
        """Count one member: rates in mm/h and their classes, (lead_time, height, width)."""
        self._members += 1
        self._total += rates
        self._reaching += rates >= self._threshold
        self._present += np.isfinite(rates)
        for counts, tile in zip(self._in_class, classes, strict=True):
            counts += [np.count_nonzero(tile == number) for number in range(counts.size)]

    def probability(self) -> np.ndarray:
        """Fraction of the members with a value that reach the threshold; NaN where none has one."""
        with np.errstate(invalid="ignore"):
            return np.divide(self._reaching, self._present, dtype=np.float32)

    def matched_mean_classes(self) -> np.ndarray:
        """Classes of the probability-matched mean, for which the classes of the members are enough.

        Where members have data in different cells, the cells of each count alike.
        """
        classes = np.zeros(self._total.shape, dtype=np.uint8)
        for total, tile, counts in zip(self._total, classes, self._in_class, strict=True):
            complete = np.isfinite(total)
            share = complete.sum() * self._members / max(counts.sum(), 1)
            # Rates at or above each level, in the cells that all members have.
            reaching = np.rint(counts[:0:-1].cumsum()[::-1] * share).astype(np.int64)
            wet = total > 0
            for event in matched_events(total[wet], reaching, self._members):
                tile[wet] += event
            tile[~complete] = len(RAIN.colours) + 1
        return classes


def layer_file(name: str) -> str:
    """File name of a layer."""
    return f"layer_{name}.png"


def _told(
    members: xr.DataArray, observed: xr.DataArray | None, window: Window, threshold: float
) -> dict[str, Any]:
    """What ``layers.json`` says, but for the labels of the graticule."""
    height, width = window.size
    count = members.sizes["realization"]
    west, east, south, north = extent = _extent(window, members)
    true = _true_length(crs_of(members), extent)
    size = {"across": (east - west) * true / 1000, "up": (north - south) * true / 1000}
    leads = [
        {"minutes": minutes(lead), "time": utc(time)}
        for lead, time in zip(members["lead_time"].values, members["time"].values, strict=True)
    ]
    frames = [] if observed is None else _observed_frames(observed, members)
    return {
        "reference_time": utc(members["forecast_reference_time"].values),
        "tile": {"width": width, "height": height},
        "extent": {"west": west, "east": east, "south": south, "north": north},
        "kilometres": {name: round(value, 3) for name, value in size.items()},
        "block": window.block,
        "lines": LINES,
        "scales": {"rain": _legend(RAIN), "probability": _legend(PROBABILITY)},
        "observed": {
            "file": layer_file("observed"),
            "columns": columns_of(len(frames) or 1, height, width),
            "frames": frames,
        },
        "forecast": {"columns": columns_of(len(leads), height, width), "frames": leads},
        "layers": _layers(count, threshold),
    }


def _layers(count: int, threshold: float) -> list[dict[str, str]]:
    """The layers of a forecast in the order in which they are offered."""

    def layer(name: str, kind: str, label: str, note: str) -> dict[str, str]:
        return {"id": name, "kind": kind, "label": label, "note": note, "file": layer_file(name)}

    if count == 1:
        return [layer("member_00", "rain", "Forecast", "A single forecast: nothing says how sure it is.")]
    return [
        layer("mean", "rain", "Mean", f"Probability-matched mean of {count} members: rain where their mean "
              "has it, as hard as in the members."),
        layer("probability", "probability", f"Chance ≥ {threshold:g} mm/h",
              f"Fraction of the {count} members that reach {threshold:g} mm/h."),
        *(layer(f"member_{n:02d}", "rain", str(n + 1), f"Member {n + 1} of {count}, all equally likely.")
          for n in range(count)),
    ]  # fmt: skip


def _observed_frames(observed: xr.DataArray, members: xr.DataArray) -> list[dict[str, Any]]:
    reference = members["forecast_reference_time"].values
    status = np.zeros(observed.sizes["time"], dtype=int)
    if "input_frame_status" in observed.coords:
        status = observed["input_frame_status"].values.astype(int)
    return [
        {"minutes": minutes(time - reference), "time": utc(time), "status": INPUT_STATUS[code]}
        for time, code in zip(observed["time"].values, status, strict=True)
    ]


def _legend(palette: Palette) -> dict[str, Any]:
    return {
        "label": palette.label,
        "levels": list(palette.levels),
        "colours": list(palette.colours),
        "open_end": palette.open_end,
        "no_data": palette.no_data,
    }


def _labels(axis: Any, start: float, length: float) -> list[dict[str, Any]]:
    """Tick labels of an axis, with their places as fractions of a length from a start."""
    return [
        {"at": round((float(place) - start) / length, 5), "label": label.get_text()}
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    ]


def _extent(window: Window, grid: xr.DataArray) -> tuple[float, float, float, float]:
    """West, east, south and north edge of a window, metres in the CRS of the grid."""
    return maps.extent_of(grid.isel(y=window.rows, x=window.columns))


def _true_length(crs: pyproj.CRS, extent: tuple[float, float, float, float]) -> float:
    """Metres on the ground of a metre of the projection, in the middle of a box."""
    west, east, south, north = extent
    middle = np.array([(west + east) / 2, (south + north) / 2])
    to_ground = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    (first, last), (low, high) = to_ground.transform(middle[0] + np.array([-500.0, 500.0]), middle[[1, 1]])
    geod = crs.get_geod()
    length = float(geod.inv(first, low, last, high)[2]) / 1000 if geod else 1.0
    return length if np.isfinite(length) else 1.0


def _span(places: np.ndarray, size: int) -> slice:
    """From the first to the last of some places; all there are if there is none."""
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, size)


def _block_means(fields: np.ndarray, block: int) -> np.ndarray:
    """Means of blocks of cells; missing where a cell is."""
    total = np.zeros((*fields.shape[:-2], *(side // block for side in fields.shape[-2:])), dtype=np.float32)
    for row in range(block):
        for column in range(block):
            total += fields[..., row::block, column::block]
    return total / np.float32(block * block)


def _picture_size(window: Window, tiles: int) -> int:
    height, width = window.size
    columns = columns_of(tiles, height, width)
    return columns * width * -(-tiles // columns) * height


def _refuse_other_grid(observed: xr.DataArray, members: xr.DataArray) -> None:
    if any(not np.array_equal(observed[axis].values, members[axis].values) for axis in ("y", "x")):
        raise RefusedInput(
            "observed frames are on the grid of the forecast",
            came=f"{observed.sizes['y']} x {observed.sizes['x']} cells, the forecast has "
            f"{members.sizes['y']} x {members.sizes['x']}",
            do="give the context that the forecast was made from",
        )
