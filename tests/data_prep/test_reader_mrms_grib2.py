import gzip
import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.readers import mrms_grib2
from data_prep.schema import RefusedInput, crs_of

pytest.importorskip("eccodes", reason="eccodes (extra grib) is not installed")

FIRST = "mrms/2019/06/10/PrecipRate_00.00_20190610-000000.grib2"


def signed(value: int) -> int:
    """GRIB's sign and magnitude, 32 bits."""
    return value if value >= 0 else 0x80000000 | -value


def section(number: int, content: bytes) -> bytes:
    return struct.pack(">IB", len(content) + 5, number) + content


def png(steps: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(steps.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def grib(rates: Any, **changed: Any) -> bytes:
    """A message as NOAA writes them: 0.1 mm/h steps above -3 in a PNG of 16 bits, cells of 0.01 degrees.

    The grid begins at 50 N 100 W, the time is 2019-06-10 00:02:30.
    """
    rates = np.asarray(rates, dtype=float)
    rows, columns = rates.shape
    fields = {
        "discipline": 209, "edition": 2, "category": 6, "number": 1, "time": (2019, 6, 10, 0, 2, 30),
        "ahead": 0, "product": 0, "earth": (2, 1, 6367470, 1, 6378160, 1, 6356775), "rows": rows,
        "columns": columns, "points": rows * columns, "angles": (1, 1_000_000),
        "first": (50_000_000, 260_000_000),
        "last": (50_000_000 - (rows - 1) * 10_000, 260_000_000 + (columns - 1) * 10_000), "flags": 48,
        "step": (10_000, 10_000), "scanning": 0, "values": rows * columns, "packing": 41, "bits": 16,
        "bitmap": 255, "data": None, "reference": -30.0,
    } | changed  # fmt: skip
    data = png(np.rint(rates * 10 + 30)) if fields["data"] is None else fields["data"]
    shape, *axes = fields["earth"]
    grid = struct.pack(
        ">BIBBHBBIBIBI6IB4IB", 0, fields["points"], 0, 0, 0, shape, *axes, fields["columns"], fields["rows"],
        *fields["angles"], *map(signed, fields["first"]), fields["flags"], *map(signed, fields["last"]),
        *reversed(fields["step"]), fields["scanning"],
    )  # fmt: skip
    product = struct.pack(">HHBB", 0, fields["product"], fields["category"], fields["number"])
    product += struct.pack(">BBBHBBI", 8, 0, 97, 0, 0, 0, fields["ahead"])
    product += struct.pack(">BBIBBI", 102, 0, 0, 255, 1, 0)
    packing = struct.pack(">IHfHHBB", fields["values"], fields["packing"], fields["reference"], 0, 1,
                          fields["bits"], 0)  # fmt: skip
    body = b"".join(
        [section(1, struct.pack(">HHBBBH5BBB", 161, 0, 255, 1, 3, *fields["time"], 0, 7)), section(3, grid),
         section(4, product), section(5, packing), section(6, bytes([fields["bitmap"]])), section(7, data),
         b"7777"]
    )  # fmt: skip
    start = b"GRIB" + struct.pack(">HBBQ", 0, fields["discipline"], fields["edition"], len(body) + 16)
    return start + body


def write(path: Path, *messages: bytes) -> Path:
    path.write_bytes(b"".join(messages))
    return path


def read(path: Path, number: int = 0) -> Any:
    return next(mrms_grib2.read_frames(path, [number]))


RATES = [[0.0, 0.1, 148.8], [-3.0, -1.0, 2.5]]


def test_no_coverage_and_missing_become_no_data_and_dry_stays_dry(tmp_path: Path) -> None:
    frame = read(write(tmp_path / "a", grib(RATES)))
    np.testing.assert_allclose(frame.values, [[0, 0.1, 148.8], [np.nan, np.nan, 2.5]], rtol=1e-6)
    assert frame.values[0, 0] == 0
    assert frame.dtype == np.float32
    assert frame.attrs["units"] == "mm h-1"


def test_simple_packing_is_read_like_png(tmp_path: Path) -> None:
    steps = np.rint(np.array(RATES) * 10 + 30).astype(">u2").tobytes()
    plain = write(tmp_path / "a", grib(RATES, packing=0, data=steps))
    assert read(plain).identical(read(write(tmp_path / "b", grib(RATES))))


def test_longitudes_east_of_greenwich_become_west_and_latitudes_descend(tmp_path: Path) -> None:
    frame = read(write(tmp_path / "a", grib(RATES)))
    np.testing.assert_allclose(frame["x"], [-100, -99.99, -99.98], atol=1e-9)
    np.testing.assert_allclose(frame["y"], [50, 49.99], atol=1e-9)
    np.testing.assert_allclose(frame["lat"].values[:, 1], frame["y"], atol=1e-9)
    np.testing.assert_allclose(frame["lon"].values[1], frame["x"], atol=1e-9)
    assert frame["x"].attrs["units"] == "degrees_east"


def test_a_grid_written_from_south_to_north_is_turned_round(tmp_path: Path) -> None:
    turned = grib(RATES[::-1], scanning=0x40, first=(49_990_000, 260_000_000), last=(50_000_000, 260_020_000))
    assert read(write(tmp_path / "a", turned)).identical(read(write(tmp_path / "b", grib(RATES))))


def test_a_grid_south_of_the_equator_and_east_of_greenwich_keeps_its_place(tmp_path: Path) -> None:
    far = grib(RATES, first=(-10_000_000, 144_000_000), last=(-10_010_000, 144_020_000))
    frame = read(write(tmp_path / "a", far))
    np.testing.assert_allclose(frame["y"], [-10, -10.01], atol=1e-9)
    np.testing.assert_allclose(frame["x"], [144, 144.01, 144.02], atol=1e-9)


@pytest.mark.parametrize(
    ("earth", "axes"),
    [((2, 1, 6367470, 1, 6378160, 1, 6356775), (6378160, 6356775)),
     ((6, 0, 0, 0, 0, 0, 0), (6371229, 6371229)), ((5, 0, 0, 0, 0, 0, 0), (6378137, 6356752.3142)),
     ((1, 0, 6370000, 0, 0, 0, 0), (6370000, 6370000)),
     ((7, 0, 0, 1, 63781370, 0, 6356752), (6378137, 6356752)),
     ((3, 0, 0, 3, 6378137, 3, 6356752), (6378137, 6356752))],
)  # fmt: skip
def test_the_earth_is_that_of_the_header(tmp_path: Path, earth: tuple, axes: tuple) -> None:
    ellipsoid = crs_of(read(write(tmp_path / "a", grib(RATES, earth=earth)))).ellipsoid
    assert (ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre) == pytest.approx(axes, abs=0.01)


def test_the_time_is_that_of_the_header_with_its_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "PrecipRate_00.00_19990101-000000.grib2", grib(RATES))
    assert mrms_grib2.read_times(path) == np.datetime64("2019-06-10T00:02:30")
    assert read(path)["time"].values == np.datetime64("2019-06-10T00:02:30", "ns")


def test_several_messages_are_several_frames_in_any_order(tmp_path: Path) -> None:
    messages = grib(RATES), grib(np.ones((4, 5)), time=(2019, 6, 10, 0, 4, 30))
    path = write(tmp_path / "a", *messages)
    assert list(mrms_grib2.read_times(path)) == [
        np.datetime64(f"2019-06-10T00:0{minute}:30") for minute in (2, 4)
    ]
    second, first = mrms_grib2.read_frames(path, [1, 0])
    assert (second == 1).all()
    assert first.identical(read(write(tmp_path / "b", messages[0])))
    with pytest.raises(RefusedInput, match=r"2 message\(s\), none of number 2"):
        read(path, 2)


def test_the_format_is_found_by_content_with_or_without_gzip(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.png", grib(RATES))
    packed = write(tmp_path / "packed", gzip.compress(grib(RATES)))
    assert mrms_grib2.detect(grib(RATES)[:4096], plain)
    assert not mrms_grib2.detect(grib(RATES, discipline=0)[:4096], plain)
    assert not mrms_grib2.detect(b"GRIB", plain)
    assert read(plain).identical(read(packed))


def test_frames_of_one_grid_share_their_coordinates(tmp_path: Path) -> None:
    first, second = (read(write(tmp_path / name, grib(RATES))) for name in "ab")
    assert np.shares_memory(first["lat"].values, second["lat"].values)


def test_without_eccodes_the_times_are_read_and_the_frames_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.grib2", grib(RATES))
    monkeypatch.setitem(sys.modules, "eccodes", None)
    assert mrms_grib2.read_times(path).size == 1
    with pytest.raises(RefusedInput, match=r"a\.grib2.*'\.\[grib\]'"):
        read(path)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [({"number": 2}, r"\(209, 6, 2\)"), ({"category": 9}, r"\(209, 9, 1\)"), ({"product": 8}, "template 8"),
     ({"ahead": 5}, "5 units ahead"), ({"time": (2019, 13, 1, 0, 0, 0)}, "reference time"),
     ({"points": 7}, "7 points"), ({"rows": 0, "points": 0}, "0 points"),
     ({"rows": 2**31, "columns": 2**31, "points": 2**32 - 1}, "points"), ({"values": 5}, "5 values"),
     ({"bitmap": 0}, "bitmap 0"), ({"flags": 0}, "flags"), ({"scanning": 0x80}, "scanning 0x80"),
     ({"angles": (1, 1000)}, "microdegrees"), ({"packing": 40}, "template 40"), ({"bits": 8}, "8 bits"),
     ({"packing": 0}, "cells of 16 bits"), ({"data": b"\x89PNG"}, "corrupt"),
     ({"data": png(np.ones((9, 9)))}, "data"), ({"data": png(np.ones((2, 3)))[:-1]}, "corrupt"),
     ({"data": png(np.ones((2, 3))) + b"0"}, "corrupt"),
     ({"earth": (1, 1, 6367470, 0, 0, 0, 0)}, "shape 1"), ({"earth": (9, 0, 0, 0, 0, 0, 0)}, "shape 9"),
     ({"step": (0, 10_000)}, "last point"), ({"last": (49_000_000, 260_020_000)}, "last point"),
     ({"first": (90_500_000, 260_000_000), "last": (90_490_000, 260_020_000)}, "latitude"),
     ({"first": (50_000_000, 179_990_000), "last": (49_990_000, 180_010_000)}, "longitude"),
     ({"reference": np.inf}, "values from inf"), ({"edition": 1}, "GRIB2"),
     ({"discipline": 0}, r"\(0, 6, 1\)")],
)  # fmt: skip
def test_another_product_or_an_impossible_header_is_refused(
    tmp_path: Path, changed: dict, finding: str
) -> None:
    path = write(tmp_path / "strange", grib(RATES, **changed))
    with pytest.raises(RefusedInput, match=f"strange.*{finding}"):
        read(path)


def test_what_follows_a_message_and_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="junk"):
        mrms_grib2.read_times(write(tmp_path / "junk", grib(RATES), b"\0" * 200))
    with pytest.raises(RefusedInput, match="junk"):
        mrms_grib2.read_times(write(tmp_path / "junk", grib(RATES), b"\n"))


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, share: float, compress: Any) -> None:
    content = compress(grib(np.random.default_rng(1).integers(0, 99, (60, 50))))
    path = write(tmp_path / "cut", content[: int(len(content) * share)])
    with pytest.raises(RefusedInput, match="cut"):
        read(path)


FLIP = """
import sys
from pathlib import Path
import numpy as np
from data_prep.readers import mrms_grib2
from data_prep.schema import RefusedInput

rng = np.random.default_rng(1)
whole, flipped = Path(sys.argv[1]), Path(sys.argv[2])
content = np.fromfile(whole, dtype=np.uint8)
outcomes = set()
for _ in range(150):
    spoilt = content.copy()
    spoilt[rng.integers(min(content.size, 250))] = rng.integers(256)
    flipped.write_bytes(spoilt.tobytes())
    try:
        outcomes.add(next(mrms_grib2.read_frames(flipped, [0])).attrs["units"])
    except RefusedInput as refusal:
        outcomes.add("refused" if "flipped" in str(refusal) else str(refusal))
sys.stdout.write(repr(sorted(outcomes)))
"""


def test_wrong_bytes_are_read_or_refused_but_neither_crash_nor_raise_an_unnamed_error(tmp_path: Path) -> None:
    # In another process: a fault in the decoder would end it.
    whole = write(tmp_path / "whole", grib(np.random.default_rng(1).integers(0, 99, (12, 15))))
    done = subprocess.run(
        [sys.executable, "-c", FLIP, whole, tmp_path / "flipped"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "['mm h-1', 'refused']"), done.stderr


@pytest.mark.radar
def test_the_american_frame_holds_what_its_picture_holds(radar_data: Path) -> None:
    frame = read(radar_data / FIRST)
    assert frame.shape == (3500, 7000)
    assert frame["time"].values == np.datetime64("2019-06-10T00:00", "ns")
    content = (radar_data / FIRST).read_bytes()
    steps = np.asarray(Image.open(io.BytesIO(content[content.index(b"\x89PNG") :])))
    observed = steps >= 30
    np.testing.assert_array_equal(np.isfinite(frame.values), observed)
    some = np.s_[::11, ::13]
    rates = np.where(observed, (steps - np.float32(30)) / 10, np.nan)
    np.testing.assert_allclose(frame.values[some], rates[some], rtol=1e-5, atol=1e-6)
    assert (frame.values >= 0.1).sum() / observed.sum() == pytest.approx(0.0625, abs=1e-4)
    assert np.nanmax(frame.values) == pytest.approx(148.8, abs=1e-4)
    assert np.isnan(frame.values).mean() == pytest.approx(0.3579, abs=1e-4)


@pytest.mark.radar
def test_the_american_grid_covers_the_contiguous_states(radar_data: Path) -> None:
    frame = read(radar_data / FIRST)
    np.testing.assert_allclose(frame["x"].values[[0, -1]], [-129.995, -60.005], atol=1e-9)
    np.testing.assert_allclose(frame["y"].values[[0, -1]], [54.995, 20.005], atol=1e-9)
    # Norman, Oklahoma, lies within range of its radar; the north-west corner, over the ocean, does not.
    assert np.isfinite(frame.sel(x=-97.44, y=35.22, method="nearest"))
    assert np.isnan(frame[0, 0])


@pytest.mark.radar
def test_times_of_the_american_event_are_two_minutes_apart(radar_data: Path) -> None:
    files = sorted((radar_data / FIRST).parent.iterdir())
    times = np.concatenate([mrms_grib2.read_times(path) for path in files])
    assert times[0] == np.datetime64("2019-06-10T00:00")
    assert (np.diff(times) == np.timedelta64(2, "m")).all()


@pytest.mark.radar
def test_a_real_file_cut_short_is_refused_by_name(radar_data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "cut", (radar_data / FIRST).read_bytes()[:500_000])
    with pytest.raises(RefusedInput, match="cut"):
        read(path)
