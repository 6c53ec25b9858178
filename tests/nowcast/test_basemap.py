import json
import socket
import urllib.request
from pathlib import Path

import numpy as np
import pyproj
import pytest

from nowcast import basemap
from nowcast.basemap import build

DUTCH = pyproj.CRS.from_proj4("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +units=m")
DUTCH_BOX = ((0.0, 700e3), (-4415e3, -3650e3))
FINNISH_BOX = ((-118e3, 875e3), (6575e3, 7801e3))


def distance_km(lines: list[np.ndarray], longitude: float, latitude: float, crs: pyproj.CRS) -> float:
    """From a place to the nearest line, in the plane of the map."""
    place = np.array(pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(longitude, latitude))
    nearest = np.inf
    for line in lines:
        start, step = line[:-1], np.diff(line, axis=0)
        along = ((place - start) * step).sum(axis=1) / np.maximum((step**2).sum(axis=1), 1e-9)
        foot = start + along.clip(0, 1)[:, None] * step
        nearest = min(nearest, np.hypot(*(foot - place).T).min())
    return nearest / 1e3


def longest_step_km(found: dict[str, list[np.ndarray]]) -> float:
    return max(np.hypot(*np.diff(line, axis=0).T).max() for lines in found.values() for line in lines) / 1e3


@pytest.mark.parametrize(
    ("kind", "longitude", "latitude"),
    [
        ("coast", 4.76, 52.96),  # Den Helder
        ("coast", 4.12, 51.98),  # Hook of Holland
        ("border", 6.20, 51.37),  # Venlo
        ("border", 3.37, 51.37),  # where the Belgian border meets the sea
        ("lake", 5.07, 52.65),  # Hoorn on the IJsselmeer
        ("river", 6.25, 51.83),  # Emmerich on the Rhine
        ("river", 6.97, 50.94),  # Cologne
    ],
)
def test_dutch_lines_pass_within_5_km_of_places_on_them(kind, longitude, latitude):
    assert distance_km(basemap.lines(*DUTCH_BOX, DUTCH)[kind], longitude, latitude, DUTCH) < 5


@pytest.mark.parametrize("kind", ["coast", "border", "lake"])
def test_no_line_but_a_river_passes_apeldoorn(kind):
    assert distance_km(basemap.lines(*DUTCH_BOX, DUTCH)[kind], 5.97, 52.10, DUTCH) > 25


def test_no_line_crosses_the_whole_of_finland():
    found = basemap.lines(*FINNISH_BOX, pyproj.CRS.from_epsg(3067))
    assert longest_step_km(found) < 40
    for kind in ("coast", "border"):
        assert distance_km(found[kind], 27.0, 65.09, pyproj.CRS.from_epsg(3067)) > 40


def test_lines_stay_within_the_margin_of_the_box():
    points = np.concatenate([line for lines in basemap.lines(*DUTCH_BOX, DUTCH).values() for line in lines])
    for axis, (low, high) in enumerate(DUTCH_BOX):
        assert low - basemap.MARGIN <= points[:, axis].min() <= low
        assert high <= points[:, axis].max() <= high + basemap.MARGIN


def test_limits_may_be_given_in_either_order():
    (west, east), (south, north) = DUTCH_BOX
    turned = basemap.lines((east, west), (north, south), DUTCH)
    assert len(turned["coast"]) == len(basemap.lines(*DUTCH_BOX, DUTCH)["coast"]) > 0


def test_fiji_is_whole_at_the_antimeridian_and_has_no_coast_along_it():
    crs = pyproj.CRS.from_proj4("+proj=laea +lat_0=-17 +lon_0=180 +datum=WGS84 +units=m")
    found = basemap.lines((-500e3, 500e3), (-500e3, 500e3), crs)
    x = np.concatenate([line[:, 0] for line in found["coast"]])
    assert longest_step_km(found) < 40
    assert -2e3 < x[x < -1].max() < 0 < x[x > 1].min() < 2e3
    assert not any((np.abs(line[:-1, 0]) + np.abs(line[1:, 0]) < 1).any() for line in found["coast"])


def test_no_line_leads_to_the_south_pole():
    found = basemap.lines((-3e6, 3e6), (-3e6, 3e6), pyproj.CRS.from_epsg(3031))
    assert min(np.hypot(*line.T).min() for line in found["coast"]) > 400e3


def test_a_border_along_a_parallel_follows_it():
    crs = pyproj.CRS.from_proj4("+proj=lcc +lat_0=49 +lon_0=-100 +lat_1=40 +lat_2=55 +datum=WGS84")
    found = basemap.lines((-900e3, 900e3), (-400e3, 400e3), crs)
    for longitude in (-110.0, -105.3, -98.1):
        assert distance_km(found["border"], longitude, 49.0, crs) < 2


def test_a_box_in_the_ocean_has_no_lines():
    crs = pyproj.CRS.from_proj4("+proj=laea +lat_0=-40 +lon_0=-110 +datum=WGS84")
    assert basemap.lines((-1e5, 1e5), (-1e5, 1e5), crs) == dict.fromkeys(basemap.KINDS, [])


def test_lines_need_no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"network used: {arguments} {options}")

    for function in (basemap._lines, basemap._packed, basemap._archive):
        function.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert basemap.lines(*DUTCH_BOX, DUTCH)["coast"]


def test_the_packaged_file_is_small():
    assert (Path(basemap.__file__).parent / "natural_earth.npz").stat().st_size < 2e6


def topology(arcs: list[list[list[int]]], **objects: list[list[int]]) -> dict:
    """TopoJSON in whole degrees; each geometry is a ring of arcs."""
    groups = {
        name: {
            "type": "GeometryCollection",
            "geometries": [{"type": "Polygon", "arcs": [ring]} for ring in rings],
        }
        for name, rings in objects.items()
    }
    return {"transform": {"scale": [1.0, 1.0], "translate": [0.0, 0.0]}, "arcs": arcs, "objects": groups}


def test_an_arc_of_two_countries_is_a_border_and_of_one_a_coast():
    # Two squares side by side; the middle line is used forwards by one and backwards (~2) by the other.
    arcs = [[[1, 0], [-1, 0], [0, 1], [1, 0]], [[1, 0], [1, 0], [0, 1], [-1, 0]], [[1, 0], [0, 1]]]
    coast, border = build.coasts_and_borders(topology(arcs, countries=[[0, ~2], [1, 2]]))
    assert [line.tolist() for line in coast] == [
        [[1, 0], [0, 0], [0, 1], [1, 1]],
        [[1, 0], [2, 0], [2, 1], [1, 1]],
    ]
    assert [line.tolist() for line in border] == [[[1, 0], [1, 1]]]


def test_of_a_lake_in_two_sources_the_first_is_kept():
    fine = topology([[[0, 0], [4, 0], [0, 4], [-4, -4]]], lakes=[[0]])
    coarse = topology(
        [[[1, 1], [4, 0], [0, 4], [-4, -4]], [[50, 0], [4, 0], [0, 4], [-4, -4]]], lakes=[[0], [1]]
    )
    assert [line[0].tolist() for line in build.lake_shores([fine, coarse])] == [[0, 0], [50, 0]]


def test_of_a_river_in_two_sources_the_first_is_kept_and_the_second_goes_on_beyond_it():
    fine = topology([[[0, 0], [4, 0]]], rivers=[[0]])
    coarse = topology([[[1, 0], [2, 0], [3, 0], [3, 0]], [[0, 5], [1, 0]]], rivers=[[0], [1]])
    kept = [line.tolist() for line in build.rivers([fine, coarse])]
    assert kept == [[[0, 0], [4, 0]], [[3, 0], [6, 0], [9, 0]], [[0, 5], [1, 5]]]


def test_lines_of_the_kinds_asked_for_are_all_there_are():
    found = basemap.lines(*DUTCH_BOX, DUTCH, kinds=("river",))
    assert list(found) == ["river"]
    assert found["river"]


def test_a_line_goes_on_beyond_180_degrees():
    (line,) = build.tidy(np.array([[179.9, 10.0], [-179.9, 10.1]]))
    np.testing.assert_allclose(line, [[179.9, 10.0], [180.1, 10.1]])


@pytest.mark.parametrize(
    "edge", [[[180.0, 60.0], [180.0, 61.0]], [[-180.0, 60.0], [180.0, 61.0]], [[10.0, -90.0], [20.0, -90.0]]]
)
def test_the_edge_of_the_source_map_is_no_coast(edge):
    assert build.tidy(np.array(edge)) == []


def test_long_stretches_get_points_between():
    (line,) = build.tidy(np.array([[0.0, 49.0], [1.0, 49.0], [1.0, 49.1]]))
    np.testing.assert_allclose(line[:, 0], [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(line[:, 1], [49, 49, 49, 49, 49, 49.1])


def test_the_build_gives_the_same_bytes_twice_and_the_lines_it_was_given(tmp_path):
    countries, lakes = tmp_path / "countries.json", tmp_path / "lakes.json"
    arcs = [[[3, 50], [1, 0], [0, 1]], [[4, 51], [-1, -1]]]
    countries.write_text(json.dumps(topology(arcs, countries=[[0, 1], [~1]])))
    lakes.write_text(
        json.dumps(topology([[[8, 47], [1, 0], [-1, 0]], [[9, 47], [1, 0]]], lakes=[[0]], rivers=[[1]]))
    )
    for name in ("one.npz", "two.npz"):
        build.main([str(countries), str(lakes), str(tmp_path / name)])
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as packed:
        coast = np.cumsum(packed["coast_steps"], axis=1) * basemap.DEGREE
        assert packed["coast_sizes"].tolist() == [9]
        assert packed["border_sizes"].tolist() == [5]
        assert packed["lake_sizes"].tolist() == [9]
        assert packed["river_sizes"].tolist() == [5]
    np.testing.assert_allclose(coast[:, [0, 4, 8]], [[3, 4, 4], [50, 50, 51]])
