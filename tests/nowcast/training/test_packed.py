import os
import pickle
import sys

import forked
import numpy as np
import pytest
import xarray as xr
import zarr

from data_prep.schema import RefusedInput, open_radar
from nowcast.training import packed
from nowcast.training.packed import PackedArchive, Packing

RATES = np.array([[0.0, 0.5], [np.nan, 12.3]], np.float32)
"""mm/h; steps of 0.1."""
WHOLE = (slice(0, 1), slice(0, 2), slice(0, 2))


def archive_of(path, rates=RATES, **encoding):
    """A store of one frame, packed as asked."""
    xr.Dataset({"rainfall_rate": (("time", "y", "x"), rates[None])}).to_zarr(
        path, zarr_format=3, encoding={"rainfall_rate": encoding}
    )
    return path


@pytest.mark.parametrize("encoding", [
    {"dtype": "uint16", "scale_factor": 0.01, "_FillValue": 65535, "fill_value": 0},
    {"dtype": "int16", "scale_factor": 0.1, "add_offset": 3.0, "_FillValue": -1},
    {"dtype": "uint8", "scale_factor": 0.1, "_FillValue": 255},
    {"dtype": "float32"},
    {"dtype": "float32", "_FillValue": -9999.0},
    {"dtype": "float64", "_FillValue": np.nan},
    {"dtype": "float32", "missing_value": 1e20},
], ids=lambda encoding: "-".join(map(str, encoding.values())))  # fmt: skip
@pytest.mark.parametrize("codecs", ["zarr", "zarrs"])
def test_rates_are_read_as_they_were_packed(tmp_path, encoding, codecs):
    store = archive_of(tmp_path / "radar.zarr", **encoding)
    rain, mask = Packing.of(open_radar(store)).unpack(PackedArchive(str(store), codecs=codecs)[WHOLE])
    np.testing.assert_allclose(rain[0], [[0, 0.5], [0, 12.3]], atol=1e-5)
    np.testing.assert_array_equal(mask[0], [[True, True], [False, True]])
    assert rain.dtype == np.float32


def test_a_store_without_a_mark_for_no_data_is_observed_everywhere(tmp_path):
    store = archive_of(tmp_path / "radar.zarr", np.array([[1, 65535]], np.uint16))
    rain, mask = Packing.of(open_radar(store)).unpack(np.array([1, 65535], np.uint16))
    assert mask.all()
    assert rain.tolist() == [1, 65535]


def test_signed_numbers_that_stand_for_unsigned_ones_are_refused(tmp_path):
    store = archive_of(
        tmp_path / "radar.zarr", dtype="int16", _Unsigned="true", scale_factor=0.1, _FillValue=-1
    )
    with pytest.raises(RefusedInput, match="_Unsigned=true"):
        Packing.of(open_radar(store))


def test_the_codecs_of_one_array_leave_those_of_others_alone(tmp_path):
    store = str(archive_of(tmp_path / "radar.zarr"))
    before = zarr.config.get("codec_pipeline.path")
    fast, plain = PackedArchive(store, codecs="zarrs"), PackedArchive(store, codecs="zarr")
    np.testing.assert_array_equal(fast[WHOLE], plain[WHOLE])
    names = [type(archive._array._async_array.codec_pipeline).__name__ for archive in (fast, plain)]
    assert names == ["ZarrsCodecPipeline", "BatchedCodecPipeline"]
    assert zarr.config.get("codec_pipeline.path") == before


def test_zarrs_is_taken_where_it_is_installed(tmp_path, monkeypatch):
    store = str(archive_of(tmp_path / "radar.zarr"))
    assert PackedArchive(store)._choice() == "zarrs"
    monkeypatch.setattr(packed, "_zarrs_installed", lambda: False)
    assert PackedArchive(store)._choice() == "zarr"
    with pytest.raises(RefusedInput, match=r"pip install -e '.\[fast\]'"):
        PackedArchive(store, codecs="zarrs")


def read_before_and_after_a_fork(store: str) -> None:
    """Exit with 0 if a forked child reads, and is refused what would hang."""
    archive, strict = PackedArchive(store), PackedArchive(store, codecs="zarrs")
    archive[WHOLE], strict[WHOLE]
    child = os.fork()
    if child == 0:
        read = archive[WHOLE].shape == (1, 2, 2)
        try:
            strict[WHOLE]
            refused = False
        except RefusedInput as error:
            refused = "forked" in str(error)
        os._exit(0 if read and refused else 1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_a_forked_child_reads_and_does_not_hang(tmp_path):
    store = archive_of(tmp_path / "radar.zarr")
    assert forked.exit_status(forked.start(read_before_and_after_a_fork, str(store))) == 0


def test_an_open_archive_travels_closed(tmp_path):
    archive = PackedArchive(str(archive_of(tmp_path / "radar.zarr")))
    expected = archive[WHOLE]
    copy = pickle.loads(pickle.dumps(archive))
    assert copy._array is None
    np.testing.assert_array_equal(copy[WHOLE], expected)
