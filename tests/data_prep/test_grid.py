from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr

from data_prep import grid
from data_prep.grid import Regrid, regrid
from data_prep.rain_rate import to_rain_rate
from data_prep.readers import frame as dress
from data_prep.readers import read
from data_prep.schema import RefusedInput, crs_of, map_coordinates

LAEA = "+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m +type=crs"
DEGREES = "EPSG:4326"
ROTATED_POLE = "+proj=ob_tran +o_proj=longlat +o_lat_p=40 +o_lon_p=0 +lon_0=5 +datum=WGS84 +type=crs"
OBLIQUE = "+proj=omerc +lat_0=52 +lonc=5 +alpha=45 +gamma=0 +datum=WGS84 +units=m +type=crs"
NAN = np.nan


def make_frame(
    values: object,
    *,
    crs: str = LAEA,
    west: float = 0.0,
    north: float = 0.0,
    spacing: float = 1000.0,
    quality: object = None,
) -> xr.DataArray:
    """A frame whose outer edges begin at west and north."""
    array = np.array(values, dtype=np.float32)
    x = west + (np.arange(array.shape[1]) + 0.5) * spacing
    y = north - (np.arange(array.shape[0]) + 0.5) * spacing
    coordinates = map_coordinates(x, y, pyproj.CRS.from_user_input(crs))
    result = dress(
        array, time=np.datetime64("2020-06-01T00:05"), coordinates=coordinates, attributes={"units": "mm h-1"}
    )
    if quality is None:
        return result
    index = xr.DataArray(np.array(quality, dtype=np.float32), dims=("y", "x"), attrs={"long_name": "quality"})
    return result.assign_coords(quality_index=index)


def to(method: str, spacing: float = 2000.0, crs: str = LAEA, **more: object) -> Regrid:
    return Regrid(method, crs=crs, spacing=spacing, **more)  # type: ignore[arg-type]


def test_identity_returns_the_frame_itself() -> None:
    frame = make_frame(np.ones((2, 3)))
    assert regrid(frame, Regrid()) is frame


@pytest.mark.parametrize("settings", [Regrid(), Regrid("block_mean", factor=2)])
def test_a_grid_in_degrees_must_be_reprojected(settings: Regrid) -> None:
    with pytest.raises(RefusedInput, match="set regrid"):
        regrid(make_frame(np.ones((4, 4)), crs=DEGREES, spacing=0.01), settings)


def test_blocks_are_averaged_over_the_cells_that_hold_data_and_the_rest_is_cut() -> None:
    frame = make_frame(
        [
            [1, 3, 8, NAN, NAN, NAN, 7],
            [5, 7, NAN, 4, NAN, 9, 7],
            [0, 0, NAN, NAN, 2, 2, 7],
            [0, 1, NAN, NAN, 2, NAN, 7],
            [9, 9, 9, 9, 9, 9, 9],
        ]
    )
    result = regrid(frame, Regrid("block_mean", factor=2))
    # (1 + 3 + 5 + 7) / 4; (8 + 4) / 2, half observed; one cell of four is too few; (0 + 0 + 0 + 1) / 4; none.
    np.testing.assert_array_equal(result, np.float32([[4, 6, NAN], [0.25, NAN, 2]]))
    assert result.dtype == np.float32
    # Blocks begin in the north-west corner, so the first centre lies 1000 m from either edge.
    np.testing.assert_allclose(result["x"], [1000, 3000, 5000])
    np.testing.assert_allclose(result["y"], [-1000, -3000])
    assert crs_of(result) == crs_of(frame)


@pytest.mark.parametrize(("least", "holds"), [(0, [1, 1, 1, 0]), (0.3, [1, 1, 0, 0]), (1, [1, 0, 0, 0])])
@pytest.mark.parametrize("method", ["block_mean", "mean"])
def test_the_least_observed_share_decides_which_cells_hold_data(
    method: str, least: float, holds: list[int]
) -> None:
    # 4, 2, 1 and 0 of four cells hold data.
    frame = make_frame([[1, 1, 1, NAN, 1, NAN, NAN, NAN], [1, 1, 1, NAN, NAN, NAN, NAN, NAN]])
    settings = (
        Regrid("block_mean", factor=2, min_observed=least)
        if method == "block_mean"
        else to("mean", min_observed=least)
    )
    np.testing.assert_array_equal(np.isfinite(regrid(frame, settings).values[0]), np.array(holds, dtype=bool))


@pytest.mark.parametrize("factor", [2, 3, 16, 20])
def test_blocks_equal_a_mean_written_out_cell_by_cell(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_CELLS_OF_A_SUM", 1500)
    rng = np.random.default_rng(1)
    values = rng.gamma(0.3, 5, (70, 50)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = NAN
    result = regrid(make_frame(values), Regrid("block_mean", factor=factor, min_observed=0))
    for row, column in np.ndindex(result.shape):
        block = values[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        expected = np.nanmean(block) if np.isfinite(block).any() else NAN
        np.testing.assert_allclose(result[row, column], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [Regrid("block_mean", factor=2), to("mean"), to("mean", bounds=(-2000, -10000, 10000, 2000))]
)
def test_the_mass_of_rain_is_kept(settings: Regrid) -> None:
    values = np.random.default_rng(2).gamma(0.3, 5, (8, 6))
    result = regrid(make_frame(values), settings)
    # Cells of 4 km2 instead of 1 km2; those outside the source hold no data.
    assert np.nansum(result) * 4 == pytest.approx(values.sum(), rel=1e-5)
    assert np.isfinite(result).sum() == 12


def test_a_mean_takes_the_cells_whose_centres_lie_within() -> None:
    frame = make_frame([[1, 2, 4], [8, 16, NAN], [NAN, NAN, 64]])
    result = regrid(frame, to("mean", bounds=(0, -4000, 4000, 0)))
    # (1 + 2 + 8 + 16) / 4; 4 of two cells, half observed; none of two; 64 alone.
    np.testing.assert_array_equal(result, np.float32([[6.75, 4], [NAN, 64]]))


def test_a_mean_onto_a_finer_grid_takes_the_nearest_cell() -> None:
    result = regrid(make_frame([[1, NAN], [3, 4]]), to("mean", spacing=500))
    expected = np.float32([[1, 1, NAN, NAN], [1, 1, NAN, NAN], [3, 3, 4, 4], [3, 3, 4, 4]])
    np.testing.assert_array_equal(result, expected)


def test_nearest_takes_the_cell_around_the_centre_and_nothing_outside() -> None:
    frame = make_frame([[1, 2, NAN], [4, 5, 6]])
    result = regrid(frame, to("nearest", spacing=1000, bounds=(-1300, -2400, 2700, 600)))
    # Centres at x = -800, 200, 1200, 2200 and y = 100, -900, -1900 m.
    expected = np.float32([[NAN, NAN, NAN, NAN], [NAN, 1, 2, NAN], [NAN, 4, 5, 6]])
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_allclose(result["x"], [-800, 200, 1200, 2200])
    np.testing.assert_allclose(result["y"], [100, -900, -1900])


def test_without_bounds_the_target_covers_the_source_in_whole_multiples_of_the_spacing() -> None:
    result = regrid(make_frame(np.ones((5, 4)), west=-1500, north=700), to("mean", spacing=2000))
    # The source reaches from -1500 to 2500 and from -4300 to 700 m.
    np.testing.assert_allclose(result["x"], [-1000, 1000, 3000])
    np.testing.assert_allclose(result["y"], [1000, -1000, -3000, -5000])
    aligned = regrid(make_frame(np.ones((4, 4)), west=-2000, north=2000), to("mean", spacing=2000))
    assert aligned.shape == (2, 2)


@pytest.mark.parametrize("method", ["mean", "nearest"])
@pytest.mark.parametrize(
    ("crs", "west", "north", "spacing"),
    [(LAEA, -40e3, 40e3, 1000.0), (DEGREES, 4.4, 52.4, 0.01), (ROTATED_POLE, 4.6, 2.4, 0.01)],
)
@pytest.mark.parametrize("target", [OBLIQUE, "EPSG:3035"])
def test_a_linear_field_comes_out_right_at_the_centres_of_another_projection(
    method: str, crs: str, west: float, north: float, spacing: float, target: str
) -> None:
    frame = make_frame(np.zeros((80, 80)), crs=crs, west=west, north=north, spacing=spacing)
    # In units of cells: 50 at the west, 1 more with each column, 2 more with each row to the north.
    gradient = [1 / spacing, 2 / spacing]
    field = 250 + gradient[0] * (frame["x"] - west) + gradient[1] * (frame["y"] - north)
    frame.values[:] = field.transpose("y", "x").values
    result = regrid(frame, to(method, spacing=4000, crs=target))
    onto = pyproj.Transformer.from_crs(crs_of(result), crs_of(frame), always_xy=True)
    x, y = onto.transform(*np.meshgrid(result["x"], result["y"]))
    expected = 250 + gradient[0] * (x - west) + gradient[1] * (y - north)
    # Away from the edge, where a target cell is full.
    cells = np.stack([(x - west) / spacing, (north - y) / spacing])
    inner = ((cells > 6) & (cells < 74)).all(axis=0)
    assert inner.sum() > 100
    error = (result.values - expected)[inner]
    # The nearest cell is half a cell away at most, 1.5 in value; means of 16 to 29 centres come closer.
    assert np.abs(error).max() < 1.51
    assert np.sqrt((error**2).mean()) < (0.5 if method == "mean" else 0.8)
    assert abs(error.mean()) < 0.1


def test_a_mean_onto_a_turned_grid_equals_one_written_out() -> None:
    values = np.random.default_rng(3).gamma(0.3, 5, (40, 40)).astype(np.float32)
    # Off the symmetry in which centres would lie on edges.
    frame = make_frame(values, west=-19860, north=20050)
    result = regrid(frame, to("mean", spacing=5000, crs=OBLIQUE, bounds=(-15e3, -15e3, 15e3, 15e3)))
    onto = pyproj.Transformer.from_crs(LAEA, OBLIQUE, always_xy=True)
    x, y = onto.transform(*np.meshgrid(frame["x"], frame["y"]))
    means = 0
    for row, column in np.ndindex(result.shape):
        east, north = x - (column * 5000 - 15e3), (15e3 - row * 5000) - y
        within = values[(east >= 0) & (east < 5000) & (north > 0) & (north <= 5000)]
        if within.size:
            means += 1
            assert result.values[row, column] == pytest.approx(within.mean(), rel=1e-5)
    assert means >= 32


def test_longitudes_from_0_to_360_are_those_from_minus_180_to_180() -> None:
    values = np.random.default_rng(4).random((30, 40))
    settings = to("mean", crs="EPSG:5070", spacing=3000)
    west = regrid(make_frame(values, crs=DEGREES, west=-97.2, north=40, spacing=0.01), settings)
    east = regrid(make_frame(values, crs=DEGREES, west=262.8, north=40, spacing=0.01), settings)
    assert np.isfinite(west).sum() > 100
    np.testing.assert_array_equal(west.values, east.values)
    finer = to("mean", crs="EPSG:5070", spacing=500)
    assert np.isfinite(
        regrid(make_frame(values, crs=DEGREES, west=262.8, north=40, spacing=0.01), finer)
    ).any()


def test_time_name_attributes_and_quality_come_along() -> None:
    frame = make_frame(np.ones((2, 4)), quality=[[1, 0.5, NAN, NAN], [0, 0.5, NAN, 0.25]]).rename(
        "rainfall_rate"
    )
    for settings in (Regrid("block_mean", factor=2), to("mean")):
        result = regrid(frame, settings)
        assert result.name == "rainfall_rate"
        assert result.attrs == frame.attrs
        assert result["time"].values == np.datetime64("2020-06-01T00:05")
        assert result["quality_index"].attrs == {"long_name": "quality"}
        # (1 + 0.5 + 0 + 0.5) / 4; one known of four is too few.
        np.testing.assert_array_equal(result["quality_index"], np.float32([[0.5, NAN]]))
        assert set(result.coords) == {"time", "x", "y", "lat", "lon", "crs", "quality_index"}


@pytest.mark.parametrize("settings", [Regrid("block_mean", factor=2), to("mean"), to("nearest")])
def test_latitude_and_longitude_are_those_of_the_target_shared_and_read_only(settings: Regrid) -> None:
    first, second = (regrid(make_frame(np.full((4, 4), value)), settings) for value in (1, 2))
    assert np.shares_memory(first["lat"].values, second["lat"].values)
    assert not first["lat"].values.flags.writeable
    expected = map_coordinates(first["x"].values, first["y"].values, crs_of(first))
    np.testing.assert_allclose(first["lon"], expected["lon"])


def test_several_threads_share_what_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    original = grid._cells_within

    def counted(*args: object) -> object:
        made.append(args)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(grid, "_cells_within", counted)
    frames = [make_frame(np.full((40, 40), n), west=123.0) for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda frame: regrid(frame, to("mean")), frames))
    assert len(made) == 1
    for n, result in enumerate(results):
        # Against the edge some target cells hold fewer centres, but all of one value.
        assert np.nanmin(result) == np.nanmax(result) == n


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Regrid("bilinear"), "method is one of"),  # type: ignore[arg-type]
        (lambda: Regrid("block_mean"), "factor is 2 or more"),
        (lambda: Regrid(factor=2), "factor is 2 or more for block_mean"),
        (lambda: Regrid(spacing=1000.0), "belong to nearest and mean"),
        (lambda: Regrid("mean", crs=LAEA), "needs a crs and a spacing"),
        (lambda: Regrid("nearest", spacing=1000.0), "needs a crs and a spacing"),
        (lambda: to("mean", spacing=0), "spacing above 0"),
        (lambda: to("mean", crs="EPSG:nothing"), "PROJ knows"),
        (lambda: to("mean", crs=DEGREES), "projected and in metres"),
        (lambda: to("mean", crs=LAEA.replace("=m ", "=km ")), "projected and in metres"),
        (lambda: to("mean", bounds=(0, 0, 3000, 2000)), "whole cells of 2000 m"),
        (lambda: to("mean", bounds=(0, 0, -2000, 2000)), "west, south, east, north"),
        (lambda: to("mean", bounds=(0, 0, NAN, 2000)), "west, south, east, north"),
        (lambda: to("mean", bounds=(0, 0, 2000)), "west, south, east, north"),
        (lambda: Regrid("block_mean", factor=2, min_observed=1.1), "min_observed"),
        (lambda: Regrid("block_mean", factor=2, min_observed=NAN), "min_observed"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make: Callable[[], Regrid], rule: str) -> None:
    with pytest.raises(RefusedInput, match=rule):
        make()


def test_bounds_from_a_file_may_be_a_list() -> None:
    settings = to("mean", bounds=[0, -2000, 2000, 0])
    assert regrid(make_frame(np.ones((2, 2))), settings).shape == (1, 1)


@pytest.mark.parametrize(
    ("frame", "settings", "rule"),
    [
        (make_frame(np.ones((3, 3))), Regrid("block_mean", factor=4), "not larger than the frame"),
        (make_frame(np.ones((1, 3))), to("mean"), "two or more each way"),
        (make_frame(np.ones((3, 3))).T, to("mean"), r"dims \(y, x\)"),
        (make_frame(np.ones((3, 3))), to("mean", bounds=(8e4, 8e4, 9e4, 9e4)), "no common cell"),
        (make_frame(np.ones((3, 3))), to("nearest", bounds=(8e4, 8e4, 9e4, 9e4)), "no common cell"),
        (make_frame(np.ones((3, 3))), to("mean", spacing=0.1), "at most"),
        (make_frame(np.ones((3, 3))), to("mean", crs=LAEA.replace("laea", "gnom").replace("52", "-60")),
         "bounds are given"),
        (make_frame(np.ones((3, 9)), crs=DEGREES, west=175, spacing=1), to("mean"), "180th meridian"),
        (make_frame(np.ones((3, 9)), crs="EPSG:3995", west=-5000, north=2000), to("mean"), "180th meridian"),
    ],
)  # fmt: skip
def test_frames_that_do_not_fit_are_refused(frame: xr.DataArray, settings: Regrid, rule: str) -> None:
    with pytest.raises(RefusedInput, match=rule):
        regrid(frame, settings)


def test_an_uneven_grid_is_refused() -> None:
    frame = make_frame(np.ones((3, 4)))
    uneven = frame.assign_coords(x=("x", np.array([500.0, 1500, 2900, 3500]), frame["x"].attrs))
    with pytest.raises(RefusedInput, match="evenly spaced"):
        regrid(uneven, Regrid("block_mean", factor=2))


@pytest.mark.radar
def test_the_finnish_event_keeps_its_mean_rain_on_another_grid(radar_data: Path) -> None:
    file = min((radar_data / "fmi/pgm/20170509").glob("*.pgm.gz"))
    rate = to_rain_rate(read(file), z_r_a=223.0, z_r_b=1.53)
    # ETRS-TM35FIN; its scale differs from that of the polar stereographic grid by a few per cent.
    for settings in (
        to("mean", crs="EPSG:3067"),
        to("nearest", crs="EPSG:3067"),
        Regrid("block_mean", factor=2),
    ):
        result = regrid(rate, settings)
        assert float(result.mean()) == pytest.approx(float(rate.mean()), rel=0.03)
        observed = np.isfinite(rate).sum() / np.isfinite(result).sum()
        assert float(observed) == pytest.approx(4, rel=0.05)
