import numpy as np
import pytest
import torch
import zarr

from data_prep.sampling import Sampling
from data_prep.schema import RefusedInput, open_radar
from nowcast.training.crops import RadarCrops, turned


def test_windows_with_a_gap_are_refused(make_store):
    store = make_store(60, leave_out=(25,))
    times = open_radar(store)["time"].values
    starts = zarr.open_group(str(store / "samples"), mode="r+")["start_time"]
    assert starts.attrs["units"] == "seconds since 1970-01-01"
    starts[:] = int(times[5].astype("datetime64[s]").astype(np.int64))  # and its 21st frame is missing
    with pytest.raises(RefusedInput, match="22 frames of a sampled window follow each other every 5 min"):
        RadarCrops(store, "train")


@pytest.mark.parametrize("probability", [0.0, -0.5, 1.5, np.nan])
def test_windows_that_cannot_be_weighted_are_refused(make_store, probability):
    store = make_store(60)
    zarr.open_group(str(store / "samples"), mode="r+")["probability"][0] = probability
    with pytest.raises(RefusedInput, match=r"probability of a sampled window lies in \(0, 1\]"):
        RadarCrops(store, "train")


def test_the_eight_symmetries_are_those_of_the_square():
    corner = np.array([[[1, 2], [3, 4]]])
    seen = {symmetry: turned(corner, symmetry)[0].tolist() for symmetry in range(8)}
    assert seen[0] == [[1, 2], [3, 4]]
    assert seen[1] == [[2, 4], [1, 3]]  # a quarter turn anticlockwise
    assert seen[2] == [[4, 3], [2, 1]]
    assert seen[4] == [[2, 1], [4, 3]]  # left and right swapped
    assert seen[6] == [[3, 4], [1, 2]]  # top and bottom swapped
    assert len({str(square) for square in seen.values()}) == 8


def centres(frames) -> np.ndarray:
    """Row and column of the centre of mass of each frame (T, H, W)."""
    grid = np.indices(frames.shape[1:])
    return np.array([[(axis * frame).sum() / frame.sum() for axis in grid] for frame in frames])


@pytest.mark.parametrize(
    ("symmetry", "expected"),
    [
        # The blob moves 1 row down and 2 columns to the right with every frame.
        (0, (1, 2)), (1, (-2, 1)), (2, (-1, -2)), (3, (2, -1)),
        (4, (1, -2)), (5, (2, 1)), (6, (-1, 2)), (7, (-2, -1)),
    ],
)  # fmt: skip
def test_a_moving_blob_moves_in_the_turned_direction(symmetry, expected):
    y, x = np.mgrid[:32, :32]
    blob = np.stack([np.exp(-((x - 11 - 2 * n) ** 2 + (y - 13 - n) ** 2) / 4) for n in range(5)])
    motion = np.diff(centres(turned(blob, symmetry)), axis=0)
    np.testing.assert_allclose(motion, np.broadcast_to(expected, motion.shape), atol=1e-3)


def test_rain_and_mask_are_turned_together(store):
    crops = RadarCrops(store, "train")
    plain, item = crops[0], crops[0, 3]
    for name in ("rain", "mask"):
        torch.testing.assert_close(item[name], torch.rot90(plain[name], 3, dims=(-2, -1)))
    assert not torch.equal(item["rain"], plain["rain"])


def test_only_square_crops_are_turned_by_a_quarter(make_store):
    store = make_store(60, sampling=Sampling(height=16, width=32, stride=16, q_min=0.2, m=1.0))
    crops = RadarCrops(store, "train")
    assert crops.symmetries == (0, 2, 4, 6)
    assert {crops[0, symmetry]["rain"].shape[-2:] for symmetry in crops.symmetries} == {(16, 32)}
    assert RadarCrops(store, "train", size=16).symmetries == tuple(range(8))
