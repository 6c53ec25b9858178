import numpy as np
import pyproj
import pytest
import torch

from nowcast.forecasters.resampling import resampled, size_at

NAN = torch.nan


def test_finer_rain_becomes_the_mean_of_the_cells_that_have_a_value():
    field = torch.tensor([[[1.0, 3.0, 0.0, NAN], [5.0, 7.0, 6.0, 0.0]]])
    # Block 1: (1 + 3 + 5 + 7) / 4; block 2: three cells have a value, (0 + 6 + 0) / 3.
    torch.testing.assert_close(resampled(field, (1, 2), finer_by="bilinear"), torch.tensor([[[4.0, 2.0]]]))


@pytest.mark.parametrize("missing", [2, 3, 4])
def test_a_block_of_which_half_or_more_is_missing_is_missing(missing):
    field = torch.ones(4)
    field[:missing] = NAN
    assert resampled(field.reshape(1, 2, 2), (1, 1), finer_by="bilinear").isnan().all()


def test_coarser_rain_keeps_its_values_and_its_gaps_and_comes_back_as_it_was():
    field = torch.tensor([[[0.0, 9.0], [NAN, 1.0]]])
    fine = resampled(field, (4, 4), finer_by="nearest-exact")
    torch.testing.assert_close(
        fine, field.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2), equal_nan=True
    )
    torch.testing.assert_close(resampled(fine, (2, 2), finer_by="bilinear"), field, equal_nan=True)


def test_bilinear_values_lie_between_their_neighbours_and_do_not_mix_with_missing_ones():
    field = torch.tensor([[[0.0, 4.0, NAN]]])
    # Fine cells lie at 1/4 and 3/4 of a coarse one: 4 * 1/4 and 4 * 3/4 between the first two.
    expected = torch.tensor([[[0.0, 1.0, 3.0, 4.0, NAN, NAN]]])
    torch.testing.assert_close(resampled(field, (1, 6), finer_by="bilinear"), expected, equal_nan=True)


@pytest.mark.parametrize("size", [(30, 40), (24, 33), (97, 80), (24, 90)])
def test_the_amount_of_rain_stays_on_any_grid(size):
    y, x = np.mgrid[:60, :80]
    blob = torch.tensor(5 * np.exp(-((x - 40) ** 2 + (y - 30) ** 2) / 100), dtype=torch.float32)[None]
    assert float(resampled(blob, size, finer_by="nearest-exact").mean()) == pytest.approx(
        float(blob.mean()), rel=0.02
    )


def test_another_grid_covers_as_much_along_each_axis(make_rain):
    rain = make_rain(1, 64, spacing=2000.0)
    assert size_at(rain, (64, 32), 1000.0) == (128, 64)
    assert size_at(rain, (64, 32), 3000.0) == (43, 21)
    assert size_at(rain, (1, 1), 1e6) == (1, 1)


def test_degrees_count_as_metres_at_the_middle_of_the_grid(make_rain):
    rain = make_rain(1, 64)
    crs = pyproj.CRS.from_epsg(4326)
    # 0.02 degrees are 2224 m along y and, at 60 N, half of it along x.
    degrees = rain.assign_coords(x=np.arange(64) * 0.02, y=60 - np.arange(-32, 32) * 0.02)
    degrees["crs"].attrs["crs_wkt"] = crs.to_wkt()
    assert size_at(degrees, (100, 100), 1000.0) == (222, 111)
