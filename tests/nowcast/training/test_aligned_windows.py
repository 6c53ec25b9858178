import numpy as np
import pytest
import torch

from data_prep.schema import RefusedInput, open_radar
from nowcast.training.aligned_windows import SHIFT, AlignedWindows, Cutting, cut_store, cut_synthetic
from nowcast.training.datamodule import AlignedData, Draws

CUTTING = Cutting(size=48)


@pytest.fixture
def real(store, tmp_path):
    return cut_store(tmp_path, str(store), part=(0, 0.75), count=6, cutting=CUTTING)


def test_windows_of_a_store_are_cut_once_and_hold_its_rain(store, tmp_path, real):
    assert real.shape == (6, 22, 48 + SHIFT, 48 + SHIFT)
    written = next(tmp_path.iterdir())
    stamp = written.stat().st_mtime_ns
    again = cut_store(tmp_path, str(store), part=(0, 0.75), count=6, cutting=CUTTING)
    assert written.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again, real)
    rates = np.unique(open_radar(store).values.astype(np.float16))
    assert np.isin(real[np.isfinite(real)], rates).all()


def test_the_rain_of_a_window_stands_still(real):
    def difference(late: int) -> float:
        return float(np.nanmean(np.abs(real[:, 3].astype(np.float32) - real[:, late])))

    shifted = np.roll(real[:, 4].astype(np.float32), 4, axis=-1)
    moved = float(np.nanmean(np.abs(real[:, 3].astype(np.float32) - shifted)))
    assert difference(4) < 0.7 * moved


def test_nothing_beyond_the_part_is_in_a_window(store, tmp_path):
    frames = open_radar(store).sizes["time"]
    part = (0, 10 / frames)
    windows = cut_store(tmp_path, str(store), part=part, count=4, cutting=CUTTING)
    # ten frames: a window that starts at the first has six lead times, and later ones fewer
    assert np.isfinite(windows[0, :10]).any(axis=(1, 2)).all()
    assert not np.isfinite(windows[:, 10:]).any()


def test_a_part_without_a_window_is_refused(store, tmp_path):
    with pytest.raises(RefusedInput, match="7 frames in a row"):
        cut_store(tmp_path, str(store), part=(0, 0.01), count=4, cutting=CUTTING)


def test_draws_are_repeatable_and_share_out_what_there_is(real, tmp_path):
    synthetic = cut_synthetic(tmp_path, range(12, 14), Cutting(size=48, lead_steps=18))
    settings = {"share": 0.5, "size": 48, "gain": 0.0, "seed": 3}
    windows = AlignedWindows(synthetic, [real], **settings)
    first, again = windows[7], windows[7]
    assert torch.equal(first["rain"], again["rain"])
    assert first["rain"].shape == first["mask"].shape == (22, 1, 48, 48)
    assert bool(first["aligned"])
    drawn = [windows[number]["rain"][:, 0].numpy() for number in range(40)]
    assert not np.array_equal(*np.nan_to_num(synthetic))
    known = [np.nan_to_num(window.astype(np.float32)) for window in synthetic]
    counts = [sum(np.array_equal(rain, window) for rain in drawn) for window in known]
    assert all(count >= 3 for count in counts)  # 10 each on average
    assert 10 <= sum(counts) <= 30  # the others are real


def test_a_gain_changes_the_rate_and_leaves_dry_cells_dry(real):
    still, gained = (
        AlignedWindows(None, [real], share=0.0, size=48, gain=gain, seed=0)[1] for gain in (0.0, 0.5)
    )
    wet = still["rain"] > 0
    factor = gained["rain"][wet] / still["rain"][wet]
    assert factor.std() < 1e-4
    assert abs(float(factor.mean()) - 1) > 0.01
    assert gained["rain"][~wet].max() == 0


def test_symmetries_turn_all_frames_alike(real):
    windows = AlignedWindows(None, [real], share=0.0, size=48, gain=0.0, seed=0)
    plain, turned = windows[2], windows[(2, 1)]
    torch.testing.assert_close(turned["rain"], plain["rain"].rot90(1, dims=(-2, -1)))


def test_training_and_validation_have_different_windows(store, tmp_path):
    data = AlignedData(
        [str(store)], cache=str(tmp_path), synthetic_windows=2, real_windows=4, hold_out=0.3, size=48,
        batch_size=2, samples_per_epoch=4, validation_samples=3,
    )  # fmt: skip
    data.setup()
    assert data.description == {"grid_spacing": 1000.0, "time_step_minutes": 5.0}
    assert not np.array_equal(data.train.synthetic[:2], data.validation.synthetic[:2])
    assert len(data.train.real[0]) == 4
    batch = next(iter(data.train_dataloader()))
    assert batch["rain"].shape == (2, 22, 1, 48, 48)
    assert len(list(data.val_dataloader())) == 2
    assert data.statistics_windows(3)["rain"].shape == (3, 22, 1, 48, 48)
    assert isinstance(data.train_dataloader().sampler, Draws)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(RefusedInput, match="something to train on"):
        AlignedData([], synthetic_windows=0)
