from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pyproj
import pytest
import xarray as xr
import zarr

from data_prep.rain_rate import to_rain_rate
from data_prep.readers import cf_grid, find_reader, read
from data_prep.schema import RefusedInput, crs_of, open_radar

LAEA = {
    "grid_mapping_name": "lambert_azimuthal_equal_area",
    "longitude_of_projection_origin": 5.0,
    "latitude_of_projection_origin": 52.0,
    "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257223563,
}
FORMATS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4")
RATE = {"standard_name": "rainfall_rate", "units": "mm h-1", "grid_mapping": "crs"}
AMOUNT = {"standard_name": "precipitation_amount", "units": "kg m-2", "grid_mapping": "crs"}
VALUES = np.arange(12.0).reshape(2, 2, 3)
"""Two frames of 2 x 3 cells."""


def dataset(
    values: np.ndarray = VALUES, attributes: dict[str, Any] | None = None, *, seconds: Any = None
) -> xr.Dataset:
    """A CF data set on 1-km cells, north first, 5-minute steps from 2020-06-01."""
    frames, rows, columns = values.shape
    attributes = RATE if attributes is None else attributes
    seconds = 300 * np.arange(frames) if seconds is None else np.array(seconds)
    time = ("time", seconds, {"standard_name": "time", "units": "seconds since 2020-06-01 00:00:00"})
    return xr.Dataset(
        {"rain": (("time", "y", "x"), values, attributes), "crs": ((), 0, LAEA)},
        {
            "time": time,
            "y": ("y", -1000.0 * np.arange(rows), {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": (
                "x",
                1000.0 * np.arange(columns),
                {"standard_name": "projection_x_coordinate", "units": "m"},
            ),
        },
    )


def save(path: Path, data: xr.Dataset, kind: str = "NETCDF4", *, fill: Any = None) -> Path:
    """Write a data set without any fill value but those asked for."""
    encoding = {str(name): {"_FillValue": None} for name in data.variables}
    if fill is not None:
        encoding["rain"]["_FillValue"] = fill
    data.to_netcdf(path, format=kind, encoding=encoding, engine="netcdf4")
    return path


def frames_of(path: Path) -> list[xr.DataArray]:
    reader = find_reader(path)
    assert reader.name == "cf_grid"
    return list(reader.read_frames(path, range(reader.read_times(path).size)))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_netcdf_format_gives_the_same_frames(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "a", dataset(VALUES.astype(np.float32)), kind)
    frames = frames_of(path)
    np.testing.assert_array_equal(frames, VALUES)
    assert frames[0].dtype == np.float32
    assert frames[1]["time"].values == np.datetime64("2020-06-01T00:05", "ns")
    np.testing.assert_array_equal(frames[0]["y"], [0, -1000])
    assert frames[0]["lat"].values[0, 0] == pytest.approx(52)
    assert frames[0]["lon"].values[0, 0] == pytest.approx(5)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_both_versions_is_read_by_numbers_along_time(tmp_path: Path, version: int) -> None:
    data = (
        dataset().chunk(time=1).assign_coords(missing_times=("missing_times", np.array([], "datetime64[ns]")))
    )
    data.to_zarr(tmp_path / "a.zarr", zarr_format=version, consolidated=version == 2)
    reader = find_reader(tmp_path / "a.zarr")
    second, first = reader.read_frames(tmp_path / "a.zarr", [1, 0])
    np.testing.assert_array_equal(second, VALUES[1])
    np.testing.assert_array_equal(first, VALUES[0])
    assert first["lat"].variable._data is second["lat"].variable._data


def test_a_store_of_this_project_gives_back_its_values(store: Path) -> None:
    rain = open_radar(store)
    times = find_reader(store).read_times(store)
    numbers = [40, 3, 4, 5]
    np.testing.assert_array_equal(times, rain["time"])
    for number, frame in zip(numbers, find_reader(store).read_frames(store, numbers), strict=True):
        np.testing.assert_allclose(frame, rain[number], rtol=1e-6)
        assert frame["time"].values == rain["time"].values[number]
        np.testing.assert_allclose(frame["lat"], rain["lat"], atol=1e-9)


def test_each_chunk_is_read_once_for_frames_that_follow_each_other(tmp_path: Path, monkeypatch: Any) -> None:
    data = dataset(np.arange(8.0 * 6).reshape(8, 2, 3))
    data.to_zarr(tmp_path / "a.zarr", zarr_format=3, encoding={"rain": {"chunks": (4, 2, 3)}})
    reads: list[Any] = []
    original = zarr.Array.__getitem__

    def counted(array: zarr.Array, index: Any) -> Any:
        if array.ndim == 3:
            reads.append(index)
        return original(array, index)

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    assert len(frames_of(tmp_path / "a.zarr")) == 8
    assert len(reads) == 2


@pytest.mark.parametrize(
    ("units", "factor"),
    [("mm/h", 1), ("kg m-2 h-1", 1), ("mm h-1", 1), ("m s-1", 3.6e6), ("kg m-2 s-1", 3600)],
)
def test_rates_become_mm_per_hour(tmp_path: Path, units: str, factor: float) -> None:
    values = np.array([[[0, 36 / factor], [1.8 / factor, 0]]])
    frame = read(save(tmp_path / "a", dataset(values, {**RATE, "units": units})))
    np.testing.assert_allclose(frame, [[0, 36], [1.8, 0]], rtol=1e-6)
    assert frame.attrs["units"] == "mm h-1"


def test_reflectivity_stays_in_dbz(tmp_path: Path) -> None:
    attributes = {"standard_name": "equivalent_reflectivity_factor", "units": "dBZ", "grid_mapping": "crs"}
    frame = read(save(tmp_path / "a", dataset(np.array([[[-31.5, 20], [-np.inf, np.nan]]]), attributes)))
    np.testing.assert_array_equal(frame, [[-31.5, 20], [-np.inf, np.nan]])
    assert frame.attrs["units"] == "dBZ"


def test_units_go_before_the_name_of_the_variable(tmp_path: Path) -> None:
    data = dataset(attributes={"units": "mm/h", "grid_mapping": "crs"}).rename(rain="rainfall_amount")
    assert read(save(tmp_path / "a", data)).attrs["units"] == "mm h-1"


def test_a_variable_without_units_is_refused(tmp_path: Path) -> None:
    data = dataset(attributes={"grid_mapping": "crs"}).rename(rain="rainfall_amount")
    with pytest.raises(RefusedInput, match="rainfall_amount has units None"):
        read(save(tmp_path / "a", data))


def test_the_interval_of_an_accumulation_comes_from_the_bounds_and_its_time_is_their_end(
    tmp_path: Path,
) -> None:
    data = dataset(attributes=AMOUNT)
    data["time"].attrs["bounds"] = "time_bnds"
    # Stamped at the beginning of 10 minutes, every 5 minutes.
    data["time_bnds"] = (("time", "nv"), np.array([[0, 600], [300, 900]]))
    first, second = frames_of(save(tmp_path / "a", data))
    assert first.attrs["accumulation_minutes"] == 10
    assert first["time"].values == np.datetime64("2020-06-01T00:10", "ns")
    assert second["time"].values == np.datetime64("2020-06-01T00:15", "ns")
    assert to_rain_rate(second).values[0, 0] == pytest.approx(6 * 6)


@pytest.mark.parametrize(
    ("attributes", "minutes"),
    [
        ({"accumulation_minutes": 15.0}, 15),
        ({"cell_methods": "time: sum (interval: 1 hour)"}, 60),
        ({"units": "sum 10min"}, 10),
        ({}, 5),
    ],
)
def test_without_bounds_the_interval_is_the_attribute_or_else_the_time_step(
    tmp_path: Path, attributes: dict[str, Any], minutes: float
) -> None:
    path = save(tmp_path / "a", dataset(attributes={**AMOUNT, **attributes}))
    assert [frame.attrs["accumulation_minutes"] for frame in frames_of(path)] == [minutes, minutes]


def test_an_accumulation_over_an_unknown_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="over how many minutes"):
        read(save(tmp_path / "one", dataset(VALUES[:1], AMOUNT)))
    uneven = dataset(np.zeros((3, 2, 3)), AMOUNT, seconds=[0, 300, 720])
    with pytest.raises(RefusedInput, match="no regular time step"):
        read(save(tmp_path / "uneven", uneven))


@pytest.mark.parametrize(("kind", "dtype"), [("NETCDF4", "f4"), ("NETCDF3_CLASSIC", "f8"), ("NETCDF4", "f8")])
@pytest.mark.parametrize("stated", [None, -1.0, np.nan])
def test_default_fill_values_are_no_data_whatever_fill_value_says(
    tmp_path: Path, kind: str, dtype: str, stated: float | None
) -> None:
    values = np.array([[[1, netCDF4.default_fillvals[dtype]], [0, 2]]], dtype=dtype)
    frame = read(save(tmp_path / "a", dataset(values), kind, fill=stated))
    np.testing.assert_array_equal(frame, [[1, np.nan], [0, 2]])


def test_default_fill_values_of_packed_integers_are_no_data(tmp_path: Path) -> None:
    values = np.array([[[10, -32767], [0, 30]]], dtype="i2")
    frame = read(save(tmp_path / "a", dataset(values, {**RATE, "scale_factor": 0.1})))
    np.testing.assert_allclose(frame, [[1, np.nan], [0, 3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": np.int16(7)}, [[1, 1.5], [2, np.nan]]),
        ({"missing_value": np.array([1, 2], "i2")}, [[0, np.nan], [np.nan, 7]]),
        ({"valid_range": np.array([1, 6], "i2"), "scale_factor": 2.0}, [[np.nan, 2], [4, np.nan]]),
        ({"valid_max": np.int16(2)}, [[0, 1], [2, np.nan]]),
        # Limits of another type than the packed data are those of the unpacked.
        ({"valid_max": 1.0, "scale_factor": 0.5}, [[0, 0.5], [1, np.nan]]),
    ],
)
def test_packing_and_missing_values_are_those_of_cf(tmp_path: Path, attributes: dict, expected: list) -> None:
    data = dataset(np.array([[[0, 1], [2, 7]]], "i2"), {**RATE, **attributes})
    fill = data["rain"].attrs.pop("_FillValue", None)
    np.testing.assert_allclose(read(save(tmp_path / "a", data, fill=fill)), expected)


def test_signed_bytes_that_are_declared_unsigned_reach_255(tmp_path: Path) -> None:
    with netCDF4.Dataset(save(tmp_path / "a", dataset(), "NETCDF3_CLASSIC"), "a") as file:
        rain = file.createVariable("rain8", "i1", ("time", "y", "x"), fill_value=-1)
        rain.set_auto_maskandscale(False)
        rain.setncatts({**RATE, "_Unsigned": "true"})
        rain[:] = np.array([[[0, 1, 127], [-128, -2, -1]]] * 2)
        file.renameVariable("rain", "other")
        file["other"].standard_name = "air_temperature"
    np.testing.assert_array_equal(read(tmp_path / "a"), [[0, 1, 127], [128, 254, np.nan]])


@pytest.mark.parametrize("value", [-1, -9999, 1e20])
def test_an_impossible_amount_that_no_attribute_explains_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(RefusedInput, match="fill value that no attribute names"):
        read(save(tmp_path / "a", dataset(np.array([[[0, value], [1, 2]]]))))


def test_fill_value_0_of_a_zarr_v2_array_is_dry(tmp_path: Path) -> None:
    dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    array = zarr.open_group(tmp_path / "a.zarr")["rain"]
    metadata = tmp_path / "a.zarr" / "rain" / ".zarray"
    metadata.write_text(metadata.read_text().replace('"NaN"', "0.0"))
    assert array.shape == (2, 2, 3)
    assert read(tmp_path / "a.zarr").values[0, 0] == 0


def test_rows_that_run_south_to_north_are_turned(tmp_path: Path) -> None:
    frame = read(save(tmp_path / "a", dataset().isel(y=slice(None, None, -1), x=slice(None, None, -1))))
    np.testing.assert_array_equal(frame, VALUES[0])
    np.testing.assert_array_equal(frame["y"], [0, -1000])
    np.testing.assert_array_equal(frame["x"], [0, 1000, 2000])


def test_dimensions_in_another_order_and_of_length_1_do_not_matter(tmp_path: Path) -> None:
    data = dataset()
    data["rain"] = (
        data["rain"].expand_dims(height=1, realization=1).transpose("x", "height", "time", "y", ...)
    )
    np.testing.assert_array_equal(frames_of(save(tmp_path / "a", data)), VALUES)
    data = dataset()
    data["rain"] = data["rain"].expand_dims(height=2)
    with pytest.raises(RefusedInput, match="dimensions {'height': 2}"):
        read(save(tmp_path / "b", data))


def test_a_map_with_a_scalar_time_is_one_frame(tmp_path: Path) -> None:
    data = dataset().isel(time=1)
    data["forecast_reference_time"] = ((), 0, {"units": "seconds since 2020-06-01", "standard_name": "other"})
    (frame,) = frames_of(save(tmp_path / "a", data, "NETCDF3_CLASSIC"))
    np.testing.assert_array_equal(frame, VALUES[1])
    assert frame["time"].values == np.datetime64("2020-06-01T00:05", "ns")


@pytest.mark.parametrize(
    ("values", "units", "expected"),
    [
        ([7, 12], "minutes since 2020-06-01T00:00:00Z", "2020-06-01T00:12"),
        ([1, 2], "hours since 2020-05-31 23:00 +01:00", "2020-06-01T00:00"),
        ([18414.0, 18414.00347222], "days since 1970-01-01", "2020-06-01T00:05"),
        ([0, 1590970200000000000], "nanoseconds since 1970-01-01", "2020-06-01T00:10"),
    ],
)
def test_times_in_any_unit_are_decoded(tmp_path: Path, values: list, units: str, expected: str) -> None:
    data = dataset()
    data = data.assign_coords(time=("time", np.array(values), {"standard_name": "time", "units": units}))
    times = cf_grid.read_times(save(tmp_path / "a", data))
    assert times.dtype == "datetime64[ns]"
    assert times[1] == np.datetime64(expected, "ns")


def test_missing_times_and_calendars_of_models_are_refused(tmp_path: Path) -> None:
    data = dataset(seconds=[0, netCDF4.default_fillvals["i8"]])
    with pytest.raises(RefusedInput, match="missing times"):
        cf_grid.read_times(save(tmp_path / "fill", data))
    data = dataset()
    data["time"].attrs["calendar"] = "360_day"
    with pytest.raises(RefusedInput, match="complete|says"):
        cf_grid.read_times(save(tmp_path / "model", data))


def test_two_variables_that_fit_equally_are_refused_by_name(tmp_path: Path) -> None:
    data = dataset().assign(other=dataset()["rain"])
    with pytest.raises(RefusedInput, match="other, rain fit equally"):
        read(save(tmp_path / "a", data))
    # A standard name goes before units.
    data["other"].attrs = {"units": "mm/h", "grid_mapping": "crs"}
    data["other"] = data["other"] + 1
    np.testing.assert_array_equal(read(save(tmp_path / "b", data)), VALUES[0])


def test_wind_is_no_rain(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="no precipitation or reflectivity"):
        read(save(tmp_path / "a", dataset(attributes={"units": "m s-1", "grid_mapping": "crs"})))
    with pytest.raises(RefusedInput, match="no precipitation or reflectivity"):
        read(save(tmp_path / "b", dataset(attributes={"units": "mm", "standard_name": "snow_depth"})))


def test_axes_in_km_and_a_projection_in_km_come_out_in_metres(tmp_path: Path) -> None:
    expected = read(save(tmp_path / "m", dataset()))
    data = dataset()
    for name in ("x", "y"):
        data = data.assign_coords(
            {name: (name, data[name].values / 1000, {**data[name].attrs, "units": "km"})}
        )
    in_axes = read(save(tmp_path / "km", data))
    in_km = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84 +units=km")
    data["crs"].attrs = {"crs_wkt": in_km.to_wkt()}
    in_crs = read(save(tmp_path / "crs", data))
    for frame in (in_axes, in_crs):
        np.testing.assert_allclose(frame["x"], expected["x"])
        np.testing.assert_allclose(frame["lat"], expected["lat"], atol=1e-9)


def geographic(*, two_dimensional: bool) -> xr.Dataset:
    latitude, longitude = np.array([50.0, 50.01]), np.array([358.99, 359.0, 359.01])
    data = xr.Dataset({"rain": (("time", "r", "c"), VALUES, {"units": "mm/h"})}, {"time": dataset()["time"]})
    if two_dimensional:
        data["rain"].attrs["coordinates"] = "lat lon"
        latitude, longitude = np.meshgrid(latitude, longitude, indexing="ij")
    dims = ((("r", "c"),) * 2) if two_dimensional else ("r", "c")
    data["lat"] = (dims[0], latitude, {"units": "degrees_north"})
    data["lon"] = (dims[1], longitude, {"units": "degrees_east"})
    return data


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_grid_regular_in_degrees_needs_no_grid_mapping(tmp_path: Path, dimensions: int) -> None:
    frame = read(save(tmp_path / "a", geographic(two_dimensional=dimensions == 2)))
    np.testing.assert_array_equal(frame, VALUES[0][::-1])
    np.testing.assert_allclose(frame["y"], [50.01, 50.0])
    np.testing.assert_allclose(frame["x"], [-1.01, -1.0, -0.99])
    assert crs_of(frame).is_geographic


def test_2d_coordinates_that_are_regular_in_no_stated_projection_are_refused(tmp_path: Path) -> None:
    data = geographic(two_dimensional=True)
    data["lat"].values[:] += 0.001 * np.arange(3)
    with pytest.raises(RefusedInput, match="which projection it is regular in is not said"):
        read(save(tmp_path / "a", data))


def test_a_grid_in_metres_without_projection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="no projection is stated"):
        read(save(tmp_path / "a", dataset(attributes={"units": "mm/h"}).drop_vars("crs")))


def with_location(*, shift: float) -> xr.Dataset:
    data = dataset()
    located = read_location(data)
    data["rain"].attrs["coordinates"] = "lat lon"
    data["lat"] = (("y", "x"), located["lat"] + shift, {"units": "degrees_north"})
    data["lon"] = (("y", "x"), located["lon"], {"units": "degrees_east"})
    return data


def read_location(data: xr.Dataset) -> dict[str, np.ndarray]:
    project = pyproj.Proj("+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84")
    longitude, latitude = project(*np.meshgrid(data["x"], data["y"]), inverse=True)
    return {"lat": latitude, "lon": longitude}


def test_latitude_and_longitude_have_to_agree_with_x_and_y_to_half_a_cell(tmp_path: Path) -> None:
    # 1 km is 0.009 degrees.
    read(save(tmp_path / "near", with_location(shift=0.001)))
    with pytest.raises(RefusedInput, match="cells away from x and y"):
        read(save(tmp_path / "far", with_location(shift=0.009)))


def test_a_projection_in_a_global_attribute_needs_latitude_and_longitude_that_confirm_it(
    tmp_path: Path,
) -> None:
    data = with_location(shift=0).drop_vars("crs")
    del data["rain"].attrs["grid_mapping"]
    data.attrs["proj_string"] = "+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84"
    assert read(save(tmp_path / "a", data))["lat"].values[0, 0] == pytest.approx(52)
    data.attrs["proj_string"] = "+proj=laea +lat_0=53 +lon_0=5 +ellps=WGS84"
    with pytest.raises(RefusedInput, match="cells away"):
        read(save(tmp_path / "b", data))
    with pytest.raises(RefusedInput, match="no 2-D latitude and longitude confirm"):
        read(save(tmp_path / "c", data.drop_vars(["lat", "lon"])))


def test_uneven_axes_are_refused(tmp_path: Path) -> None:
    data = dataset().assign_coords(x=("x", [0.0, 1000, 2100], dataset()["x"].attrs))
    with pytest.raises(RefusedInput, match="not evenly spaced"):
        read(save(tmp_path / "a", data))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_cut_short_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    whole = save(tmp_path / "whole", dataset(), kind).read_bytes()
    path = tmp_path / "part"
    for size in range(8, len(whole) - 4, max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        with pytest.raises(RefusedInput, match="part"):
            frames_of(path)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA", "NETCDF4"])
def test_damaged_bytes_are_read_or_refused_but_nothing_else(tmp_path: Path, kind: str) -> None:
    whole = bytearray(save(tmp_path / "whole", dataset(), kind).read_bytes())
    random = np.random.default_rng(0)
    path = tmp_path / "part"
    refused = 0
    for place in random.integers(4, len(whole), 40):
        damaged = whole.copy()
        damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            frames_of(path)
        except RefusedInput:
            refused += 1
    assert refused


def test_sizes_that_no_radar_has_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    data = dataset()
    data.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    metadata = tmp_path / "a.zarr" / "rain" / "zarr.json"
    text = metadata.read_text()
    metadata.write_text("".join(text.split()).replace("[2,2,3]", "[2,200000,300000]"))
    with pytest.raises(RefusedInput, match="too large to be true"):
        read(tmp_path / "a.zarr")


def test_a_heap_that_the_hdf5_library_would_read_for_ever_is_refused(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "a", dataset()).read_bytes())
    heap = content.index(b"GCOL")
    # The first object: number 0, length 0.
    content[heap + 16 : heap + 32] = bytes(16)
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(RefusedInput, match="an object of 0 bytes"):
        read(tmp_path / "b")


def test_hdf5_that_is_not_netcdf_and_folders_that_are_not_zarr_are_left_to_others(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = VALUES
    head = (tmp_path / "a.h5").read_bytes()[:4096]
    assert not cf_grid.detect(head, tmp_path / "a.h5")
    assert not cf_grid.detect(b"", tmp_path)
    assert not cf_grid.detect(b"CDF\x03", tmp_path / "a")


@pytest.mark.radar
@pytest.mark.parametrize(
    ("name", "observed", "wet", "highest", "corner"),
    [
        # Share of cells with data and of those with 0.1 mm/h or more, maximum in mm/h, northernmost y in m.
        ("kgo_preciprate.nc", 0.7092, 0.0073, 39.34, 1222000),
        ("20190101T0645Z-u1096_ng_radar_precip_ratecomposite_2km.nc", 0.7247, 0.0519, 3.594, 362000),
    ],
)
def test_met_office_composites_are_rates_with_their_gaps_unfilled(
    radar_data: Path, name: str, observed: float, wet: float, highest: float, corner: float
) -> None:
    frame = read(radar_data / "metoffice" / name)
    seen = frame.values[~np.isnan(frame.values)]
    assert seen.size / frame.size == pytest.approx(observed, abs=1e-4)
    assert (seen >= 0.1).mean() == pytest.approx(wet, abs=1e-4)
    assert seen.max() == pytest.approx(highest, abs=0.01)
    assert frame["y"].values[0] == corner
    assert np.diff(frame["y"].values).max() == -2000
