import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from tfrecord.writer import TFRecordWriter

from data_prep.readers import deepmind_tfrecord, find_reader
from data_prep.schema import RefusedInput, crs_of

END = 1_546_302_600
"""2019-01-01 00:30 UTC."""


def features(radar: np.ndarray, *, without: str = "", **changed: Any) -> dict[str, tuple[Any, str]]:
    """A record whose south-west corner is at 300 km E, 200 km N of the National Grid."""
    _, height, width = radar.shape
    values = {
        "radar": (radar.astype("<i2").tobytes(), "byte"),
        "sample_prob": (0.25, "float"),
        "osgb_extent_top": (200_000 + 1000 * height, "int"),
        "osgb_extent_left": (300_000, "int"),
        "osgb_extent_bottom": (200_000, "int"),
        "osgb_extent_right": (300_000 + 1000 * width, "int"),
        "end_time_timestamp": (END, "int"),
    } | changed
    return {name: value for name, value in values.items() if name != without}


def write(path: Path, *records: dict[str, tuple[Any, str]], pack: Callable[[bytes], bytes] = bytes) -> Path:
    """A file by the independent writer of the package tfrecord."""
    writer = TFRecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()
    path.write_bytes(pack(path.read_bytes()))
    return path


def frames(path: Path, *numbers: int) -> list:
    return list(find_reader(path).read_frames(path, numbers))


def ramp(first: int, shape: tuple[int, int, int] = (3, 2, 2)) -> np.ndarray:
    return first + np.arange(np.prod(shape)).reshape(shape)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_frames_become_mm_per_hour_north_first_with_no_data_apart_from_dry(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    # 32 / 32 = 1, 48 / 32 = 1.5, 4096 / 32 = 128 mm/h, -1 is no data.
    radar = np.array([[[32, 48, 0], [-1, 4096, 1]]])
    path = write(tmp_path / "a", features(radar), pack=pack)
    assert find_reader(path) is deepmind_tfrecord.READER
    (frame,) = frames(path, 0)
    np.testing.assert_array_equal(frame.values, [[1, 1.5, 0], [np.nan, 128, 0.03125]])
    assert frame.dtype == np.float32
    assert frame.attrs["units"] == "mm h-1"
    assert frame.attrs["sample_probability"] == 0.25


def test_extents_are_the_outer_edges_of_cells_of_one_km_on_the_national_grid(tmp_path: Path) -> None:
    (frame,) = frames(write(tmp_path / "a", features(np.zeros((1, 2, 3)))), 0)
    assert frame["x"].values.tolist() == [300_500, 301_500, 302_500]
    assert frame["y"].values.tolist() == [201_500, 200_500]
    assert crs_of(frame).to_epsg() == 27700


def test_extents_west_and_south_of_the_origin_of_the_grid_are_negative(tmp_path: Path) -> None:
    record = features(np.zeros((1, 1, 1)), osgb_extent_left=(-2000, "int"), osgb_extent_right=(-1000, "int"))
    (frame,) = frames(write(tmp_path / "a", record), 0)
    assert frame["x"].item() == -1500


def test_times_step_by_five_minutes_up_to_the_end_time_of_each_record(tmp_path: Path) -> None:
    earlier = features(ramp(0), end_time_timestamp=(END - 86_400, "int"))
    path = write(tmp_path / "a", features(ramp(0)), earlier)
    expected = ["2019-01-01T00:20", "2019-01-01T00:25", "2019-01-01T00:30",
                "2018-12-31T00:20", "2018-12-31T00:25", "2018-12-31T00:30"]  # fmt: skip
    times = find_reader(path).read_times(path)
    np.testing.assert_array_equal(times, np.array(expected, dtype="datetime64[ns]"))
    assert times.dtype == "datetime64[ns]"
    read = frames(path, *range(6))
    np.testing.assert_array_equal([frame["time"].values for frame in read], times)


def test_frame_n_is_frame_n_modulo_t_of_record_n_over_t_in_whatever_order_they_are_asked_for(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a", *(features(ramp(100 * number)) for number in range(4)))
    numbers = (5, 0, 11, 11, 3, 4, 2)
    first_values = [frame.values[0, 0] * 32 for frame in frames(path, *numbers)]
    # Record n // 3 begins at 100 (n // 3), and each frame has 4 cells.
    assert first_values == [108, 0, 308, 308, 100, 104, 8]


@pytest.mark.parametrize("number", [-1, 6, 100])
def test_a_frame_beyond_the_last_is_refused(tmp_path: Path, number: int) -> None:
    path = write(tmp_path / "a", features(ramp(0)), features(ramp(0)))
    with pytest.raises(RefusedInput, match=f"number {number} of"):
        frames(path, number)


def test_each_record_lies_on_its_own_grid_and_frames_of_one_record_share_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a", features(np.zeros((2, 3, 1))), features(np.zeros((2, 1, 4))))
    first, second, third = frames(path, 0, 1, 2)
    assert (first.shape, third.shape) == ((3, 1), (1, 4))
    assert np.shares_memory(first["lat"].values, second["lat"].values)


def test_records_of_different_length_in_a_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mixed", features(ramp(0)), features(ramp(0, (2, 2, 2))))
    with pytest.raises(RefusedInput, match="mixed.*record 1 has 2 frames, the first 3"):
        find_reader(path).read_times(path)


@pytest.mark.parametrize("name", [name for name in features(ramp(0)) if name != "radar"])
def test_a_record_that_lacks_a_feature_is_refused_by_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "lacks", features(ramp(0)), features(ramp(0), without=name))
    with pytest.raises(RefusedInput, match=f"lacks.*record 1 has no {name}"):
        find_reader(path).read_times(path)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"osgb_extent_top": (205_000, "int")}, "24 bytes of radar for 5 x 2 cells"),
        ({"osgb_extent_top": (202_500, "int")}, "hold no cells"),
        ({"osgb_extent_top": (200_000, "int")}, "hold no cells"),
        ({"osgb_extent_right": (-(2**63), "int")}, "hold no cells"),
        ({"osgb_extent_top": (2**62, "int"), "osgb_extent_right": (2**62, "int")}, "hold no cells"),
        ({"radar": (b"", "byte")}, "0 bytes of radar"),
        ({"radar": (b"123", "byte")}, "3 bytes of radar"),
        ({"radar": ([b"12345678", b"12345678"], "byte")}, "2 times, not once"),
        ({"radar": (7, "int")}, "0 times, not once"),
        ({"end_time_timestamp": (END * 1_000_000, "int")}, "not in seconds since 1970"),
        ({"end_time_timestamp": (-1, "int")}, "not in seconds since 1970"),
        ({"end_time_timestamp": ([END, END], "int")}, "more than one integer"),
        ({"sample_prob": (float("nan"), "float")}, "sample_prob is nan"),
        ({"sample_prob": (0.0, "float")}, "sample_prob is 0"),
        ({"sample_prob": ([0.5, 0.5], "float")}, "more or less than one float"),
    ],
)
def test_a_record_with_an_impossible_feature_is_refused_by_it(
    tmp_path: Path, changed: dict[str, Any], finding: str
) -> None:
    path = write(tmp_path / "strange", features(ramp(0)) | changed)
    for outcome in (find_reader(path).read_times, lambda path: frames(path, 0)):
        with pytest.raises(RefusedInput, match=f"strange.*record 0.*{finding}"):
            outcome(path)


def test_numbers_may_be_packed_or_not() -> None:
    # By hand: 5 in an Int64List (field 3) and 0.5 in a FloatList (field 2), with a key each or with one.
    assert deepmind_tfrecord._integer(memoryview(b"\x1a\x02\x08\x05")) == 5
    assert deepmind_tfrecord._integer(memoryview(b"\x1a\x03\x0a\x01\x05")) == 5
    assert deepmind_tfrecord._real(memoryview(b"\x12\x05\x0d" + struct.pack("<f", 0.5))) == 0.5
    assert deepmind_tfrecord._real(memoryview(b"\x12\x06\x0a\x04" + struct.pack("<f", 0.5))) == 0.5


def test_every_flip_of_a_byte_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "flipped", features(ramp(0)), features(ramp(50)))
    whole = path.read_bytes()
    for position in range(0, len(whole), 2):
        spoilt = bytearray(whole)
        spoilt[position] ^= 1 << position % 8
        path.write_bytes(bytes(spoilt))
        with pytest.raises(RefusedInput, match="flipped"):
            find_reader(path).read_times(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_cut_anywhere_is_refused_unless_between_two_records(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "cut", features(ramp(0)), features(ramp(0)))
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(pack(whole[:half]))
    assert len(find_reader(path).read_times(path)) == 3
    for length in (*range(0, half, 9), *range(half + 1, len(whole), 9)):
        path.write_bytes(pack(whole[:length]))
        with pytest.raises(RefusedInput, match="cut"):
            find_reader(path).read_times(path)


def test_gzip_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    radar = np.random.default_rng(1).integers(0, 99, (3, 9, 9))
    path = write(tmp_path / "cut", features(radar), pack=gzip.compress)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RefusedInput, match="cut"):
        find_reader(path).read_times(path)


def framed(content: bytes, length: int | None = None) -> bytes:
    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)

    head = struct.pack("<Q", len(content) if length is None else length)
    return head + masked(head) + content + masked(content)


@pytest.mark.parametrize("length", [1000, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_absurd_length_with_a_right_checksum_is_refused_before_that_much_is_read(
    tmp_path: Path, length: int, pack: Callable[[bytes], bytes]
) -> None:
    content = framed(b"few bytes", length)
    (tmp_path / "long").write_bytes(pack(content))
    tracemalloc.start()
    with pytest.raises(RefusedInput, match="long"):
        find_reader(tmp_path / "long")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("content", [b"", b"\x0a", b"\x0a\xff", b"\xff" * 11, b"\x0b", b"\x08\x01" * 5000])
def test_a_tfrecord_of_something_else_is_of_unknown_format(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(framed(content))
    with pytest.raises(RefusedInput, match="known format.*other"):
        find_reader(tmp_path / "other")
    with pytest.raises(RefusedInput, match="other"):
        deepmind_tfrecord.read_times(tmp_path / "other")


def test_wrong_bytes_under_right_checksums_are_read_or_refused_but_never_an_unnamed_error(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(1)
    path = write(tmp_path / "a", features(ramp(0)))
    content = np.frombuffer(path.read_bytes()[12:-4], dtype=np.uint8)
    outcomes = set()
    for _ in range(400):
        spoilt = content.copy()
        spoilt[rng.integers(content.size, size=2)] = rng.integers(256, size=2)
        (tmp_path / "flipped").write_bytes(framed(spoilt.tobytes()))
        try:
            read = list(deepmind_tfrecord.read_frames(tmp_path / "flipped", [0]))
            outcomes.add(read[0].attrs["units"])
        except RefusedInput as refusal:
            outcomes.add("refused" if "flipped" in str(refusal) else str(refusal))
    assert outcomes == {"mm h-1", "refused"}


def test_memory_is_bounded_by_the_records_in_hand_not_by_the_file(tmp_path: Path) -> None:
    record = np.random.default_rng(1).integers(0, 99, (24, 128, 128))
    path = write(tmp_path / "large", *[features(record)] * 12)
    size = record.size * 2
    tracemalloc.start()
    for frame in find_reader(path).read_frames(path, range(5, 24 * 12, 24)):
        assert frame.shape == (128, 128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Two records of 12 in the file, and the coordinates of their grid.
    assert peak < 4 * size
