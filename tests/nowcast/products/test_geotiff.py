import sys

import numpy as np
import pytest
import xarray as xr
from verification_models import Noisy

from data_prep.schema import RefusedInput
from nowcast.products.forecast_file import write_forecast
from nowcast.products.write import Products, write_products

GIS = Products(picture=False, loop=None, geotiff=True, accumulation_minutes=(10,), thresholds=(0.5, 2.0))


@pytest.fixture(scope="module", params=["north first", "south first"])
def folder(request, make_rain, tmp_path_factory):
    """Products of a forecast of 300 x 300 cells, of which some rows have no data."""
    pytest.importorskip("rasterio", reason="rasterio is not installed (extra geotiff)")
    folder = tmp_path_factory.mktemp("gis")
    rain = make_rain(6, size=300, missing_rows=40)
    if request.param == "south first":
        rain = rain.isel(y=slice(None, None, -1))
    write_forecast(Noisy().forecast(rain, lead_steps=2, members=3), folder / "f.nc")
    write_products(folder / "f.nc", folder, GIS, stem="f")
    return folder


def opened(path):
    import rasterio

    return rasterio.open(path)


def test_every_field_of_a_product_is_a_cloud_optimized_geotiff(folder):
    files = sorted(folder.glob("*.tif"))
    assert [path.stem.removeprefix("f_") for path in files] == [
        "accumulation_mean", "accumulation_percentiles", "accumulation_probability", "mean", "percentiles",
        "probability", "probability_matched_mean", "rain_start", "rain_start_status",
    ]  # fmt: skip
    for path in files:
        with opened(path) as raster:
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert raster.profile["tiled"]
            assert raster.overviews(1)
            assert raster.crs.to_dict()["proj"] == "laea"


def test_a_band_is_a_lead_time_and_says_so(folder):
    with opened(folder / "f_mean.tif") as raster:
        assert raster.descriptions == ("+5 min", "+10 min")
        assert raster.units == ("mm h-1", "mm h-1")
    with opened(folder / "f_probability.tif") as raster:
        assert raster.descriptions == (
            "+5 min, >= 0.5 mm h-1", "+10 min, >= 0.5 mm h-1", "+5 min, >= 2 mm h-1", "+10 min, >= 2 mm h-1",
        )  # fmt: skip
    with opened(folder / "f_percentiles.tif") as raster:
        assert raster.descriptions[:3] == (
            "+5 min, percentile 10",
            "+10 min, percentile 10",
            "+5 min, percentile 25",
        )


def test_every_cell_lies_where_it_does_in_the_product(folder):
    from rasterio.warp import transform

    product = xr.open_dataset(folder / "f_mean.nc")
    with opened(folder / "f_mean.tif") as raster:
        assert np.isnan(raster.nodata)
        for row, column in ((0, 0), (10, 200), (200, 10), (120, 117), (299, 299)):
            x, y = float(product["x"][column]), float(product["y"][row])
            place = raster.index(x, y)
            assert raster.xy(*place) == pytest.approx((x, y), abs=1e-6)
            for lead in (0, 1):
                stored = raster.read(lead + 1)[place]
                np.testing.assert_array_equal(stored, product["rainfall_rate_mean"][lead, row, column])
            lon, lat = transform(raster.crs, "EPSG:4326", [x], [y])
            assert lon[0] == pytest.approx(float(product["lon"][row, column]), abs=1e-5)
            assert lat[0] == pytest.approx(float(product["lat"][row, column]), abs=1e-5)
        assert raster.transform.e < 0  # north is up


def test_flags_stay_flags_and_the_file_says_what_they_mean_and_where_it_comes_from(folder):
    with opened(folder / "f_rain_start_status.tif") as raster:
        assert raster.dtypes == ("int8",)
        assert set(np.unique(raster.read(1))) <= {0, 1, 2, 3, 4}
        assert raster.tags()["flag_meanings"].startswith("no_data no_rain_expected")
        assert raster.tags()["nowcast__model"] == "noisy"
        assert raster.tags()["nowcast__seed"] == "0"


def test_a_second_writing_gives_the_same_bytes(folder, tmp_path):
    for file in write_products(folder / "f.nc", tmp_path, GIS, stem="f"):
        assert file.path.read_bytes() == (folder / file.path.name).read_bytes(), file.path.name


def test_without_rasterio_geotiff_is_refused_before_any_work(make_rain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    write_forecast(Noisy().forecast(make_rain(6), lead_steps=2, members=2), tmp_path / "f.nc")
    with pytest.raises(RefusedInput, match=r"pip install -e '.\[geotiff\]'"):
        write_products(tmp_path / "f.nc", tmp_path / "out", GIS, stem="f")
    assert not (tmp_path / "out").exists()
