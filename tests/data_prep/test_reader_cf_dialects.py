from pathlib import Path

import netCDF4
import numpy as np
import pytest

from data_prep.rain_rate import to_rain_rate
from data_prep.readers import find_reader, read
from data_prep.schema import RefusedInput

OPENMRG_COMMENT = (
    "The data are in pseudo-dBZ (integer 0-255) and are linked to the scale_factor (0.4) and add_offset (-30)"
)
STEREOGRAPHIC = {"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 14.0,
                 "latitude_of_projection_origin": 90.0, "standard_parallel": 60.0}  # fmt: skip


def write_rainfields(
    path: Path, stored: np.ndarray, *, x0: float = -1.0, fill: int = -1, source: str = "rainfields 3.0.28"
) -> Path:
    """A file of 0.5-km cells and 6 minutes, as of rainfields; x from x0 km."""
    rows, columns = stored.shape
    with netCDF4.Dataset(path, "w") as file:
        file.source = source
        for name, size in (("y", rows), ("x", columns)):
            file.createDimension(name, size)
            axis = file.createVariable(name, "f4", (name,))
            axis.setncatts({"standard_name": f"projection_{name}_coordinate", "units": "km"})
            axis[:] = (x0 if name == "x" else -x0) + (0.5 if name == "x" else -0.5) * np.arange(size)
        for name, seconds in (("valid_time", 1529143200), ("start_time", 1529142840)):
            time = file.createVariable(name, "i8")
            time.units = "seconds since 1970-01-01 00:00:00 UTC"
            time[...] = seconds
        file["valid_time"].standard_name = "time"
        file.createVariable("proj", "i1").setncatts(
            {"grid_mapping_name": "albers_conical_equal_area", "standard_parallel": [-18.0, -36.0],
             "longitude_of_central_meridian": 144.752, "latitude_of_projection_origin": -37.852}
        )  # fmt: skip
        rain = file.createVariable("precipitation", "i2", ("y", "x"), fill_value=fill)
        rain.set_auto_maskandscale(False)
        rain.setncatts({"standard_name": "precipitation_amount", "units": "kg m-2", "scale_factor": 0.05,
                        "grid_mapping": "proj"})  # fmt: skip
        rain[:] = stored
    return path


def write_openmrg(path: Path, values: np.ndarray, *, units: str = "", comment: str = OPENMRG_COMMENT) -> Path:
    """A file of 2-km cells and 5 minutes, as derived from OpenMRG; axes without units."""
    frames, rows, columns = values.shape
    with netCDF4.Dataset(path, "w") as file:
        file.comment = comment
        for name, first, step, size in (("y", -3412560.0, -2000, rows), ("x", -154199.0, 2000, columns)):
            file.createDimension(name, size)
            file.createVariable(name, "f8", (name,))[:] = first + step * np.arange(size)
        file.createDimension("time")
        file.createVariable("time", "i4", ("time",)).units = "seconds since 1970-01-01"
        file.createVariable("crs", "i4").setncatts(
            {**STEREOGRAPHIC, "GeoTransform": [-155199.0, 2000.0, 0.0, -3411560.0, 0.0, -2000.0]}
        )
        rain = file.createVariable("rainfall_amount", "f8", ("time", "y", "x"))
        if units:
            rain.units = units
        rain[:] = values
        file["time"][:] = 300 * np.arange(frames)
    return path


def marshall_palmer(levels: np.ndarray) -> np.ndarray:
    """mm/h of pseudo-dBZ levels: Z = 200 R^1.6."""
    return (10 ** ((0.4 * levels - 30) / 10) / 200) ** (1 / 1.6)


def test_rainfields_states_the_interval_by_start_and_end(tmp_path: Path) -> None:
    frame = read(write_rainfields(tmp_path / "a", np.full((4, 4), 20)))
    assert frame.attrs["units"] == "mm"
    assert frame.attrs["accumulation_minutes"] == 6
    assert frame["time"].values == np.datetime64("2018-06-16T10:00", "ns")
    # 1 mm in 6 minutes.
    np.testing.assert_allclose(to_rain_rate(frame), 10, rtol=1e-6)


@pytest.mark.parametrize("fill", [-1, -32768])
def test_rainfields_has_three_numbers_for_no_data_and_others_are_refused(tmp_path: Path, fill: int) -> None:
    frame = read(write_rainfields(tmp_path / "a", np.array([[0, -1], [-2, -32768]]), x0=-0.5, fill=fill))
    np.testing.assert_array_equal(frame, [[0, np.nan], [np.nan, np.nan]])
    with pytest.raises(RefusedInput, match=r"-0\.15 mm in precipitation"):
        read(write_rainfields(tmp_path / "b", np.array([[0, -1], [-3, 0]]), fill=fill))
    with pytest.raises(RefusedInput, match=r"-0\.1 mm in precipitation"):
        read(write_rainfields(tmp_path / "c", np.array([[0, -1], [-2, 0]]), source="another"))


@pytest.mark.parametrize("x0", [-1.0, -0.75])
def test_corners_of_cells_are_told_from_middles_by_the_radar_in_the_centre(tmp_path: Path, x0: float) -> None:
    frame = read(write_rainfields(tmp_path / "a", np.zeros((4, 4)), x0=x0))
    np.testing.assert_allclose(frame["x"], [-750, -250, 250, 750])
    np.testing.assert_allclose(frame["y"], [750, 250, -250, -750])
    assert frame["lat"].values.mean() == pytest.approx(-37.852, abs=1e-4)


def test_openmrg_without_units_is_mm_per_hour_if_it_lies_on_the_levels_of_reflectivity(
    tmp_path: Path,
) -> None:
    rate = marshall_palmer(np.array([[[0.0, 75.0], [140.0, 180.0]]]))
    # 23 dBZ, level 132.5, is about 1 mm/h: 16 log10(R) + 23.
    assert rate[0, 0, 1] == pytest.approx((1 / 200) ** (1 / 1.6))
    frame = read(write_openmrg(tmp_path / "a", rate))
    np.testing.assert_allclose(frame, rate[0], rtol=1e-6)
    assert frame.attrs["units"] == "mm h-1"
    for number, (values, comment) in enumerate(
        [(rate / 12, OPENMRG_COMMENT), (rate, ""), (np.zeros((1, 2, 2)), OPENMRG_COMMENT)]
    ):
        with pytest.raises(RefusedInput, match="units"):
            read(write_openmrg(tmp_path / f"{number}", values, comment=comment))


def test_sum_5min_is_mm_in_5_minutes(tmp_path: Path) -> None:
    frame = read(write_openmrg(tmp_path / "a", np.full((1, 2, 2), 0.5), units="sum 5min"))
    assert frame.attrs["accumulation_minutes"] == 5
    np.testing.assert_allclose(to_rain_rate(frame), 6)


def test_axes_without_units_need_a_geotransform_that_puts_the_first_cell_there(tmp_path: Path) -> None:
    path = write_openmrg(tmp_path / "a", np.zeros((1, 2, 2)), units="mm/h")
    np.testing.assert_array_equal(read(path)["y"], [-3412560, -3414560])
    with netCDF4.Dataset(path, "a") as file:
        file["crs"].GeoTransform = [-154199.0, 2000.0, 0.0, -3412560.0, 0.0, -2000.0]
    with pytest.raises(RefusedInput, match="x and y have no units"):
        read(path)


@pytest.mark.radar
@pytest.mark.parametrize(
    ("name", "minutes", "missing", "wet", "highest"),
    [
        # Cells with -1 and -2, share of the others with 0.1 mm/h or more, maximum in mm/h, by netCDF4.
        ("prcp-c10/66/2020/10/31/66_20201031_174000.prcp-c10.nc", 10, 10, 0.0028955, 11.4),
        ("prcp-cscn/2/2018/06/16/2_20180616_120000.prcp-cscn.nc", 6, 0, 0.2168770, 19.5),
    ],
)
def test_bureau_of_meteorology(
    radar_data: Path, name: str, minutes: float, missing: int, wet: float, highest: float
) -> None:
    path = radar_data / "bom" / name
    assert find_reader(path).name == "cf_grid"
    frame = read(path)
    rate = to_rain_rate(frame).values
    seen = rate[~np.isnan(rate)]
    assert rate.size - seen.size == missing
    assert (seen >= 0.1).mean() == pytest.approx(wet, rel=1e-4)
    assert seen.max() == pytest.approx(highest)
    assert frame.attrs["accumulation_minutes"] == minutes
    np.testing.assert_allclose(frame["x"].values[[0, -1]], [-127750, 127750])
    np.testing.assert_allclose(frame["y"].values[[0, -1]], [127750, -127750])


@pytest.mark.radar
def test_openmrg_files_that_call_both_quantities_rainfall_amount_are_told_apart(radar_data: Path) -> None:
    first, second = (
        radar_data / "openmrg" / f"{n}.nc" for n in ("openMRG_Radar_180minutes", "openmrg_rad_5min_2h")
    )
    rates, amounts = (
        list(find_reader(p).read_frames(p, range(find_reader(p).read_times(p).size))) for p in (first, second)
    )
    assert len(rates) == 36
    assert len(amounts) == 31
    assert {frame.attrs["units"] for frame in rates} == {"mm h-1"}
    assert {(frame.attrs["units"], frame.attrs["accumulation_minutes"]) for frame in amounts} == {("mm", 5)}
    assert max(float(frame.max()) for frame in rates) == pytest.approx(68.684, abs=0.01)
    assert max(float(to_rain_rate(frame).max()) for frame in amounts) == pytest.approx(13.704, abs=0.01)
    # Least is the level 0, -30 dBZ, in both.
    least = marshall_palmer(np.array(0.0))
    assert min(float(frame.min()) for frame in rates) == pytest.approx(least, rel=1e-3)
    np.testing.assert_allclose(rates[0]["lat"], amounts[0]["lat"], atol=1e-6)
    with netCDF4.Dataset(first) as file:
        np.testing.assert_allclose(rates[0]["lat"], file["lat"][:], atol=1e-4)
        np.testing.assert_allclose(rates[0]["lon"], file["lon"][:], atol=1e-4)
    assert rates[0]["time"].values == np.datetime64("2015-08-27T00:20", "ns")
    assert amounts[-1]["time"].values == np.datetime64("2015-07-25T15:00", "ns")
