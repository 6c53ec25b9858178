import gzip
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import xarray as xr

from data_prep import readers
from data_prep.readers import fmi_geotiff, fmi_pgm
from data_prep.schema import RefusedInput, crs_of

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geotiff) is not installed")

ITEMS = {
    "Observation time": ('format="YYYYMMDDhhmm"', "201705091045"),
    "Quantity": ('unit="dBZ"', "Corrected reflectivity"),
    "Gain": ("", "0.500000"),
    "Offset": ("", "-32.000000"),
    "Nodata": ("", "255"),
    "Undetect": ("", "0"),
}
FIRST = "fmi/geotiff/20170509/201705091045_FINUTM.tif"
EAST, NORTH = 385_000.0, 6_672_000.0
"""Outer north-west corner of the small grid: near Helsinki, in ETRS-TM35FIN."""


def metadata(**changed: tuple[str, str] | None) -> str:
    items = {**ITEMS, **{key.replace("_", " "): value for key, value in changed.items()}}
    lines = [f'<Item name="{key}" {kind}>{text}</Item>' for key, (kind, text) in filter(all, items.items())]
    return "\n".join(["<GDALMetadata>", *lines, "</GDALMetadata>"])


def write(path: Path, pixels: Any, text: str | None = None, **changed: Any) -> Path:
    """A small composite of 250 m; GDAL writes the XML into an item of its own XML, as FMI's files have it."""
    pixels = np.asarray(pixels, dtype=changed.pop("dtype", "uint8"))
    profile = {
        "driver": "GTiff", "dtype": pixels.dtype, "count": 1, "height": pixels.shape[0],
        "width": pixels.shape[1], "crs": "EPSG:3067", "tiled": True, "blockxsize": 16, "blockysize": 16,
        "compress": "deflate", "transform": rasterio.Affine(250, 0, EAST, 0, -250, NORTH),
    } | changed  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels, 1)
        dataset.update_tags(GDAL_METADATA=metadata() if text is None else text)
    return path


def read_coarsely(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A full frame in parts, with coordinates of blocks of 20 x 20 cells: those of all cells take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmi_geotiff, "_coordinates", _coarse)
        patch.setattr(fmi_geotiff, "frame", lambda values, **parts: (values, parts))
        return fmi_geotiff.read(path)


def _coarse(grid: Any) -> dict[str, xr.DataArray]:
    spacing = tuple(20 * size for size in grid.spacing)
    return COORDINATES(grid._replace(shape=(365, 247), spacing=spacing))


COORDINATES = fmi_geotiff._coordinates


def test_values_become_dbz_with_no_echo_and_no_data_told_apart(tmp_path: Path) -> None:
    # 104 * 0.5 - 32 = 20 dBZ, 64 is 0 dBZ, 44 is -10 dBZ, 0 is no echo, 255 no data.
    frame = fmi_geotiff.read(write(tmp_path / "a", [[104, 64, 44], [0, 255, 254]]))
    np.testing.assert_array_equal(frame.values, [[20, 0, -10], [-np.inf, np.nan, 95]])
    assert frame.dtype == np.float32
    assert frame.attrs["units"] == "dBZ"


def test_the_calibration_is_that_of_the_header(tmp_path: Path) -> None:
    text = metadata(Gain=("", "0.25"), Offset=("", "1"), Nodata=("", "7"), Undetect=("", "8"))
    frame = fmi_geotiff.read(write(tmp_path / "a", [[7, 8, 0, 255]], text))
    np.testing.assert_array_equal(frame.values, [[np.nan, -np.inf, 1, 64.75]])


def test_a_grid_of_many_blocks_keeps_every_cell_in_its_place(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(1, 255, (53, 37))
    frame = fmi_geotiff.read(write(tmp_path / "a", pixels))
    np.testing.assert_array_equal(frame.values, pixels * 0.5 - 32)


def test_the_grid_is_that_of_the_transform_north_first(tmp_path: Path) -> None:
    frame = fmi_geotiff.read(write(tmp_path / "a", np.zeros((3, 2))))
    np.testing.assert_array_equal(frame["x"], EAST + 125 + np.array([0, 250]))
    np.testing.assert_array_equal(frame["y"], NORTH - 125 - np.array([0, 250, 500]))
    project = pyproj.Proj("+proj=utm +zone=35 +ellps=GRS80")
    np.testing.assert_allclose(project(frame["lon"].values, frame["lat"].values)[0][0], frame["x"], atol=1e-3)
    # The railway station of Helsinki, 60.171 N 24.941 E, lies about a kilometre from that corner.
    assert frame["lat"].values[0, 0] == pytest.approx(60.171, abs=0.01)
    assert frame["lon"].values[0, 0] == pytest.approx(24.941, abs=0.02)


def test_frames_of_one_grid_share_their_coordinates(tmp_path: Path) -> None:
    first, second = (fmi_geotiff.read(write(tmp_path / name, np.zeros((3, 2)))) for name in "ab")
    assert np.shares_memory(first["lat"].values, second["lat"].values)


@pytest.mark.parametrize("layout", [{}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"tiled": False}])
def test_every_kind_of_tiff_is_found_by_content_and_read_alike(tmp_path: Path, layout: dict) -> None:
    pixels = np.arange(20).reshape(4, 5)
    plain = write(tmp_path / "199901010000.png", pixels, **layout)
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert fmi_geotiff.detect(plain.read_bytes()[:4096], plain)
    assert fmi_geotiff.detect(plain.read_bytes()[:4096], packed)
    assert fmi_geotiff.read(plain).identical(fmi_geotiff.read(packed))
    np.testing.assert_array_equal(fmi_geotiff.read(plain).values[1:], pixels[1:] * 0.5 - 32)


def test_the_time_is_that_of_the_header_and_needs_no_rasterio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "199901010000.tif", np.zeros((2, 2)))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert fmi_geotiff.READER.read_times(path) == np.datetime64("2017-05-09T10:45")
    assert fmi_geotiff.detect(path.read_bytes()[:4096], path)
    with pytest.raises(RefusedInput, match=r"199901010000\.tif.*'\.\[geotiff\]'"):
        fmi_geotiff.read(path)


def test_items_directly_in_the_tag_are_read_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [[104, 0]], "")
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{key: text for key, (_, text) in ITEMS.items()})
    assert fmi_geotiff.detect(path.read_bytes()[:4096], path)
    assert fmi_geotiff.read_time(path) == np.datetime64("2017-05-09T10:45")


@pytest.mark.parametrize("content", [b"P5\n2 1\n", b"GIF89a", b""])
def test_other_content_is_not_claimed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    assert not fmi_geotiff.detect(content, tmp_path / "other")


def test_a_tiff_of_another_provider_is_not_claimed(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [[1, 2]], "<GDALMetadata><Item name='Gain'>1</Item></GDALMetadata>")
    assert not fmi_geotiff.detect(path.read_bytes()[:4096], path)
    with pytest.raises(RefusedInput, match="no item 'Observation time'"):
        fmi_geotiff.read(path)


@pytest.mark.parametrize(
    "item",
    [{"Observation_time": ("", "2017-05-09")}, {"Observation_time": ("", "201713091045")},
     {"Quantity": ('unit="mm/h"', "Corrected reflectivity")}, {"Quantity": ('unit="dBZ"', "Echo top")},
     {"Gain": ("", "0")}, {"Gain": ("", "half")}, {"Gain": ("", "nan")}, {"Offset": ("", "1e60")},
     {"Nodata": ("", "0")}, {"Nodata": ("", "256")}, {"Undetect": ("", "0.5")}, {"Undetect": None},
     {"Gain": None}],
)  # fmt: skip
def test_a_header_with_an_absent_or_impossible_value_is_refused(tmp_path: Path, item: dict) -> None:
    with pytest.raises(RefusedInput, match="strange"):
        fmi_geotiff.read(write(tmp_path / "strange", [[1, 2]], metadata(**item)))


def test_an_entity_in_the_metadata_is_refused_and_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + metadata(Gain=("", "&b;"))
    with pytest.raises(RefusedInput, match="hostile.*document type"):
        fmi_geotiff.read_time(write(tmp_path / "hostile", [[1, 2]], bomb))


@pytest.mark.parametrize(
    ("changed", "finding"),
    [({"dtype": "uint16"}, "uint16"), ({"crs": None}, "CRS None"),
     ({"transform": rasterio.Affine(250, 10, EAST, 0, -250, NORTH)}, "north up"),
     ({"transform": rasterio.Affine(250, 0, EAST, 0, 250, NORTH)}, "north up"),
     ({"crs": "EPSG:2277"}, "metres")],
)  # fmt: skip
def test_pixels_or_a_grid_of_another_kind_are_refused(tmp_path: Path, changed: dict, finding: str) -> None:
    # EPSG:2277 is in US feet.
    with pytest.raises(RefusedInput, match=f"strange.*{finding}"):
        fmi_geotiff.read(write(tmp_path / "strange", [[1, 2]], **changed))


def test_a_block_that_was_never_written_is_refused_and_not_read_as_dry(tmp_path: Path) -> None:
    path = write(tmp_path / "sparse", np.zeros((32, 48)), SPARSE_OK=True)
    with pytest.raises(RefusedInput, match="sparse.*no block 0, 0"):
        fmi_geotiff.read(path)


def test_a_file_beside_it_does_not_change_what_it_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [[104, 0]])
    before = fmi_geotiff.read(path)
    moved = "<PAMDataset><GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform></PAMDataset>"
    (tmp_path / "a.tif.aux.xml").write_text(moved)
    assert fmi_geotiff.read(path).identical(before)


def test_a_huge_size_in_the_header_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "huge", [[1, 2]]).read_bytes())
    for tag in (256, 257):  # width and length, of one short each
        at = content.rindex(struct.pack("<HHI", tag, 3, 1))
        content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 2_000_000)
    (tmp_path / "huge").write_bytes(bytes(content))
    with pytest.raises(RefusedInput, match="huge"):
        fmi_geotiff.read(tmp_path / "huge")


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, share: float) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (60, 50))
    content = write(tmp_path / "whole", pixels).read_bytes()
    for name, data in (("plain", content), ("packed", gzip.compress(content))):
        (tmp_path / f"cut-{name}").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(RefusedInput, match=f"cut-{name}"):
            fmi_geotiff.read(tmp_path / f"cut-{name}")


def test_wrong_bytes_are_read_or_refused_but_never_an_unnamed_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = write(tmp_path / "whole", rng.integers(0, 255, (20, 20)))
    content = np.fromfile(path, dtype=np.uint8)
    outcomes = []
    for _ in range(300):
        spoilt = content.copy()
        spoilt[rng.integers(content.size, size=3)] = rng.integers(256, size=3)
        (tmp_path / "flipped").write_bytes(spoilt.tobytes())
        try:
            outcomes.append(fmi_geotiff.read(tmp_path / "flipped").attrs["units"])
        except RefusedInput as refusal:
            outcomes.append("refused" if "flipped" in str(refusal) else str(refusal))
    assert set(outcomes) == {"dBZ", "refused"}


@pytest.mark.radar
@pytest.mark.parametrize(("clock", "strongest"), [("1045", 43.5), ("1140", 51.0)])
def test_the_finnish_frame_has_its_known_time_shape_mask_and_maximum(
    radar_data: Path, clock: str, strongest: float
) -> None:
    values, parts = read_coarsely(radar_data / FIRST.replace("1045", clock))
    assert parts["time"] == np.datetime64(f"2017-05-09T{clock[:2]}:{clock[2:]}", "ns")
    assert values.shape == (7316, 4963)
    assert np.isnan(values).mean() == pytest.approx(0.6795, abs=1e-4)
    assert np.nanmax(values) == strongest


@pytest.fixture(scope="module")
def finland(radar_data: Path) -> xr.DataArray:
    """Every 20th cell of a frame."""
    values, parts = read_coarsely(radar_data / FIRST)
    return readers.frame(values[10:7310:20, 10:4950:20], **parts)


@pytest.mark.radar
def test_the_finnish_cells_are_250_metres(finland: xr.DataArray) -> None:
    assert np.diff(finland["x"]) / 20 == pytest.approx(250.004, abs=1e-3)
    assert np.diff(finland["y"]) / 20 == pytest.approx(-250.014, abs=1e-3)


@pytest.mark.radar
def test_reflectivity_lies_where_the_coarser_composite_of_the_same_time_has_it(
    radar_data: Path, finland: xr.DataArray
) -> None:
    name = "fmi/pgm/20170509/201705091045_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"
    coarse = fmi_pgm.read(radar_data / name)
    column, row = _cells(coarse, finland["lon"].values, finland["lat"].values)
    inside = (row >= 0) & (row < coarse.shape[0]) & (column >= 0) & (column < coarse.shape[1])
    there, here = coarse.values[row[inside], column[inside]], finland.values[inside]
    both = np.isfinite(there) & np.isfinite(here)
    assert both.sum() > 3000
    # The sphere of one and the ellipsoid of the other, and 1 km against 250 m, leave some scatter.
    assert np.corrcoef(there[both], here[both])[0, 1] > 0.8
    assert (np.isnan(there) == np.isnan(here)).mean() > 0.97


@pytest.mark.radar
def test_times_of_the_finnish_event_are_read_from_the_headers(radar_data: Path) -> None:
    files = sorted((radar_data / FIRST).parent.glob("*.tif"))
    times = np.concatenate([fmi_geotiff.READER.read_times(path) for path in files])
    assert times[0] == np.datetime64("2017-05-09T10:45")
    assert len(times) == 12
    assert (np.diff(times) == np.timedelta64(5, "m")).all()


@pytest.mark.radar
def test_a_real_file_cut_short_is_refused_by_name(radar_data: Path, tmp_path: Path) -> None:
    shutil.copyfile(radar_data / FIRST, tmp_path / "cut")
    with (tmp_path / "cut").open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(RefusedInput, match="cut"):
        fmi_geotiff.read(tmp_path / "cut")


def _cells(grid: xr.DataArray, longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of points in a grid."""
    crs = crs_of(grid)
    x, y = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform(longitude, latitude)
    columns = (x - grid["x"].values[0]) / np.diff(grid["x"])[0]
    rows = (y - grid["y"].values[0]) / np.diff(grid["y"])[0]
    return columns.round().astype(int), rows.round().astype(int)
