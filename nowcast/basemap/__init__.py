"""Coasts, national borders, lake shores and rivers from Natural Earth, packaged: nothing is ever fetched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
import pyproj

KINDS = ("coast", "border", "lake", "river")
DEGREE = 1e-4
"""Degrees of one step of the packed coordinates (about 11 m)."""
LONGEST_STEP = 0.25
"""Largest distance in degrees of longitude or latitude between two points of a packed line."""
MARGIN = 45_000.0
"""Metres kept beyond the box: more than the longest step, so that no line ends inside the box."""
_LONGEST_DRAWN = 300_000.0
"""Metres in the projection beyond which a step is no step but the projection's own cut."""
_EARTH_RADIUS = 6_371_000.0


def lines(
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
    crs: pyproj.CRS,
    kinds: Sequence[str] = KINDS,
) -> dict[str, list[np.ndarray]]:
    """Polylines of the map in and just around a box.

    Args:
        x_limits: Western and eastern edge of the box, metres in the CRS.
        y_limits: Southern and northern edge of the box, metres in the CRS.
        crs: Projected CRS in metres.
        kinds: Which lines.

    Returns:
        For each kind the lines, of shape (points, 2): x and y in metres in the CRS, read-only. Lines
        are clipped to the box with a margin of `MARGIN`.
    """
    box = (*sorted(map(float, x_limits)), *sorted(map(float, y_limits)))
    return {kind: list(_lines(kind, box, crs.to_wkt())) for kind in kinds}


@lru_cache(maxsize=32)
def _lines(kind: str, box: tuple[float, ...], wkt: str) -> tuple[np.ndarray, ...]:
    crs = pyproj.CRS.from_wkt(wkt)
    west, east, south, north = np.array(box) + MARGIN * np.array([-1, 1, -1, 1])
    to_map = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    longitude, latitude, line = _packed(kind)
    near = np.flatnonzero(_near(kind, *_cap(to_map, (west, east, south, north))))
    x, y = to_map.transform(longitude[near], latitude[near])
    with np.errstate(invalid="ignore"):
        inside = (x >= west) & (x <= east) & (y >= south) & (y <= north)
        breaks = (np.diff(near) > 1) | (np.diff(line[near]) != 0)
        breaks |= ~(np.hypot(np.diff(x), np.diff(y)) < _LONGEST_DRAWN)
    points = np.column_stack([x, y])
    return tuple(_runs(points, inside, breaks))


def _runs(points: np.ndarray, inside: np.ndarray, breaks: np.ndarray) -> list[np.ndarray]:
    """Split at the breaks and at the points outside the box."""
    bounds = np.flatnonzero(breaks | (np.diff(inside.astype(np.int8)) != 0)) + 1
    runs = []
    for first, last in zip([0, *bounds], [*bounds, len(points)], strict=True):
        if last - first > 1 and inside[first]:
            run = points[first:last]
            run.flags.writeable = False
            runs.append(run)
    return runs


def _cap(to_map: pyproj.Transformer, box: tuple[float, float, float, float]) -> tuple[np.ndarray, float]:
    """A cap of the sphere round the box: its axis (unit vector) and the cosine of its radius.

    On the sphere there is neither an antimeridian nor a pole to mind.
    """
    x, y = np.meshgrid(np.linspace(box[0], box[1], 33), np.linspace(box[2], box[3], 33))
    longitude, latitude = to_map.transform(x, y, direction="INVERSE")
    seen = np.isfinite(longitude) & np.isfinite(latitude)
    if not seen.any():
        return np.array([0.0, 0.0, 1.0]), 2.0
    vectors = _unit_vectors(longitude[seen], latitude[seen])
    axis = vectors.mean(axis=1)
    axis /= np.linalg.norm(axis)
    radius = np.arccos(np.clip(axis @ vectors, -1.0, 1.0)).max() + MARGIN / _EARTH_RADIUS
    return axis, float(np.cos(min(radius, np.pi)))


def _near(kind: str, axis: np.ndarray, cosine: float) -> np.ndarray:
    longitude, latitude, _ = _packed(kind)
    return axis.astype(np.float32) @ _unit_vectors(longitude, latitude) >= cosine


def _unit_vectors(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Shape (3, points)."""
    angle, height = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(height) * np.cos(angle), np.cos(height) * np.sin(angle), np.sin(height)])


@lru_cache(maxsize=1)
def _archive() -> dict[str, np.ndarray]:
    with resources.as_file(resources.files(__name__) / "natural_earth.npz") as path, np.load(path) as file:
        return dict(file)


@lru_cache(maxsize=4)
def _packed(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Longitude and latitude of all points of a kind (degrees), and the number of their line."""
    archive = _archive()
    longitude, latitude = np.cumsum(archive[f"{kind}_steps"], axis=1) * DEGREE
    sizes = archive[f"{kind}_sizes"]
    return longitude, latitude, np.repeat(np.arange(len(sizes)), sizes)
