import warnings

import numpy as np
import pyproj
import pytest
import xarray as xr

from data_prep.schema import crs_of, map_coordinates
from nowcast.fields import Members, RainStart, box_of_data, cells_at
from nowcast.verification import matched_mean

NAN = np.nan
WGS84 = pyproj.CRS.from_epsg(4326)
FOUR = np.array(
    [[[0, 1, NAN, 0]], [[0, 2, NAN, NAN]], [[0, 3, NAN, NAN]], [[0, 6, NAN, 3]]], dtype=np.float32
)
"""Four members in four cells: dry; 1, 2, 3, 6; without data; 0 and 3 of two members."""


@pytest.fixture
def many():
    """Nine members of 20 x 30 cells; half of the values dry, a tenth missing, a corner without data."""
    rng = np.random.default_rng(5)
    values = np.where(rng.random((9, 20, 30)) < 0.5, 0, rng.exponential(2, (9, 20, 30))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, :5, :7] = np.nan
    return values


def test_the_mean_is_that_of_the_members_with_a_value():
    np.testing.assert_allclose(Members(FOUR).mean(), [[0, 3, NAN, 1.5]])


def test_probabilities_are_shares_of_the_members_with_a_value():
    np.testing.assert_allclose(Members(FOUR).probability(2), [[0, 0.75, NAN, 0.5]])
    np.testing.assert_allclose(Members(FOUR).probability(6), [[0, 0.25, NAN, 0]])


def test_percentiles_lie_between_the_members_as_far_as_they_say():
    np.testing.assert_allclose(Members(FOUR).percentile(50), [[0, 2.5, NAN, 1.5]])
    np.testing.assert_allclose(Members(FOUR).percentile(0), [[0, 1, NAN, 0]])
    np.testing.assert_allclose(Members(FOUR).percentile(100), [[0, 6, NAN, 3]])


@pytest.mark.parametrize("level", [0, 10, 33.3, 50, 90, 100])
def test_percentiles_are_those_of_numpy(many, level):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of cells without any member
        expected = np.nanpercentile(many, level, axis=0)
    np.testing.assert_allclose(Members(many).percentile(level), expected, rtol=1e-5, atol=1e-6)


def test_the_matched_mean_of_wet_cells_is_that_of_all_cells(many):
    many[:, 10:] = np.nan_to_num(many[:, 10:])
    expected = matched_mean.probability_matched_mean(many)
    assert (expected > 0).any()
    np.testing.assert_array_equal(Members(many).probability_matched_mean(), expected)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_members_without_rain_or_without_data_give_fields_of_that(value):
    members = Members(np.full((3, 4, 5), value, dtype=np.float32))
    fields = (
        members.mean(),
        members.percentile(90),
        members.probability(1),
        members.probability_matched_mean(),
    )
    for field in fields:
        np.testing.assert_array_equal(field, np.full((4, 5), value))


def test_one_member_is_its_own_mean_median_and_matched_mean(many):
    members = Members(many[:1])
    for field in (members.mean(), members.percentile(50), members.probability_matched_mean()):
        np.testing.assert_array_equal(field, many[0])


def test_members_are_not_written_to(many):
    before = many.copy()
    members = Members(many)
    members.mean(), members.percentile(90), members.probability(1), members.probability_matched_mean()
    np.testing.assert_array_equal(many, before)


def test_the_start_of_the_rain_tells_now_later_never_and_unknown():
    start = RainStart((1, 6), threshold=0.1, probability=0.5)
    leads = [
        #  now  later  never  no data  seen, then lost  lost, then rain
        [[[3.0, 0.0, 0.05, NAN, 0.0, NAN]], [[0.2, 0.0, 0.00, NAN, 0.0, NAN]]],
        [[[0.0, 0.1, 0.05, NAN, NAN, 1.0]], [[0.0, 0.0, 0.00, NAN, NAN, 0.0]]],
    ]
    for lead in leads:
        start.add(Members(np.array(lead, dtype=np.float32)))
    minutes, status = start.result(np.array([5, 10]))
    np.testing.assert_array_equal(minutes, [[5, 10, NAN, NAN, NAN, 10]])
    assert [RainStart.MEANINGS[code] for code in status[0]] == [
        "raining_now", "rain_later", "no_rain_expected", "no_data", "no_rain_as_far_as_known", "rain_later",
    ]  # fmt: skip


def test_rain_starts_when_enough_members_have_it():
    values = np.array([[[1.0]], [[0.0]], [[0.0]]], dtype=np.float32)
    for probability, expected in ((0.3, 5), (0.4, np.nan)):
        start = RainStart((1, 1), threshold=0.1, probability=probability)
        start.add(Members(values))
        np.testing.assert_array_equal(start.result(np.array([5]))[0], [[expected]])


def test_the_box_of_data_holds_all_cells_with_data_and_a_margin_inside_the_grid():
    values = np.full((2, 10, 12), np.nan)
    values[0, 3, 5], values[1, 6, 1] = 0.0, 2.0
    fields = xr.DataArray(values, dims=("time", "y", "x"))
    assert box_of_data(fields) == {"y": slice(3, 7), "x": slice(1, 6)}
    assert fields.isel(box_of_data(fields, margin=2)).shape == (2, 8, 8)
    assert fields.isel(box_of_data(fields * np.nan)).shape == (2, 10, 12)


def test_a_place_belongs_to_the_cell_whose_edges_are_around_it(make_rain):
    grid = make_rain(1)
    to_map = pyproj.Transformer.from_crs(crs_of(grid), "EPSG:4326", always_xy=True)
    x, y = grid["x"].values, grid["y"].values
    row, column = 20, 33
    where = [(x[column] + 499, y[row] - 499), (x[column] - 499, y[row] + 499), (x[0] - 499, y[0]),
             (x[0] - 501, y[0])]  # fmt: skip
    longitudes, latitudes = zip(*(to_map.transform(*point) for point in where), strict=True)
    assert cells_at(grid, longitudes, latitudes).tolist() == [[row, column], [row, column], [0, 0], [-1, -1]]


def test_a_place_across_the_antimeridian_is_found_on_a_grid_of_degrees():
    grid = xr.Dataset(coords=map_coordinates(np.arange(176.0, 186.0), np.arange(-20.0, -10.0), WGS84))
    found = cells_at(grid, [-178.2, 178.2, -174.0], [-15.0, -15.0, -15.0])
    assert found.tolist() == [[5, 6], [5, 2], [-1, -1]]
