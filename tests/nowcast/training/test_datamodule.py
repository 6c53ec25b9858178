from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

from data_prep.sampling import Sampling
from data_prep.schema import RefusedInput, open_radar, open_store
from nowcast.training.datamodule import Draws, RadarCrops, RadarDataModule


def test_a_window_is_what_the_store_holds_at_its_time_and_place(store):
    crops = RadarCrops(store, "train")
    radar = open_radar(store).values
    samples = _samples(store).isel(sample=_samples(store)["split"].values == 0)
    for number in (0, len(crops) - 1):
        item = crops[number]
        y, x = int(samples["y"][number]), int(samples["x"][number])
        first = list(open_radar(store)["time"].values).index(samples["start_time"].values[number])
        expected = radar[first : first + 22, y : y + 32, x : x + 32]
        np.testing.assert_allclose(item["rain"][:, 0], np.nan_to_num(expected), atol=1e-5)
        np.testing.assert_array_equal(item["mask"][:, 0], np.isfinite(expected))
        assert item["rain"].shape == item["mask"].shape == (22, 1, 32, 32)
        assert item["probability"].item() == pytest.approx(float(samples["probability"][number]))


def test_windows_after_a_gap_are_found_by_time(make_store):
    store = make_store(60, leave_out=(3,))
    crops, samples = RadarCrops(store, "train"), _samples(store)
    samples = samples.isel(sample=samples["split"].values == 0)
    late = len(crops) - 1
    index = list(open_radar(store)["time"].values).index(samples["start_time"].values[late])
    assert crops.start[late] == index


def test_splits_do_not_share_a_frame(store):
    used = {}
    for split in ("train", "validation", "test"):
        crops = RadarCrops(store, split)
        used[split] = {frame for start in crops.start for frame in range(start, start + crops.frames)}
    assert used["train"]
    assert not used["train"] & used["validation"]
    assert not used["train"] & used["test"]


def test_a_smaller_crop_is_the_centre_of_the_window(store):
    whole, part = RadarCrops(store, "train")[0], RadarCrops(store, "train", size=16)[0]
    torch.testing.assert_close(part["rain"], whole["rain"][..., 8:24, 8:24])


def test_a_crop_larger_than_the_windows_is_refused(store):
    with pytest.raises(RefusedInput, match="data.size=64"):
        RadarCrops(store, "train", size=64)


def test_a_store_without_windows_is_refused(make_store):
    data = RadarDataModule(str(make_store(30, sampling=None)))
    with pytest.raises(RefusedInput, match="sample index"):
        data.setup()


def test_a_store_without_a_training_window_is_refused(make_store):
    data = RadarDataModule(str(make_store(30, sampling=Sampling(height=32, width=32, q_min=0, m=0))))
    with pytest.raises(RefusedInput, match="one training window or more"):
        data.setup()


def test_batches_have_the_shapes_the_training_expects(store):
    data = RadarDataModule(str(store), batch_size=3, samples_per_epoch=7, validation_samples=2)
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    assert batches[0]["rain"].shape == (3, 22, 1, 32, 32)
    assert sum(batch["rain"].shape[0] for batch in data.val_dataloader()) == 2
    assert data.description == {"grid_spacing": 1000.0, "time_step_minutes": 5.0}


def test_worker_processes_read_the_same_windows(store):
    data = RadarDataModule(str(store), batch_size=2, validation_samples=4, workers=1)
    data.setup()
    there = torch.cat([batch["rain"] for batch in data.val_dataloader()])
    here = RadarDataModule(str(store), batch_size=2, validation_samples=4)
    here.setup()
    torch.testing.assert_close(there, torch.cat([batch["rain"] for batch in here.val_dataloader()]))


def _samples(store):
    import xarray as xr

    return xr.open_zarr(store, group="samples", chunks=None, consolidated=False)


def test_the_index_lies_in_the_store(store):
    assert "samples" not in open_store(store)
    assert _samples(store).attrs["frames"] == 22


@pytest.mark.parametrize(
    ("name", "shift"), [("start_time", np.timedelta64(-400, "D")), ("x", -500), ("y", 10_000)]
)
def test_windows_that_do_not_lie_in_their_store_are_refused(make_store, name, shift):
    store = make_store(60)
    group = zarr.open_group(str(store / "samples"), mode="r+")
    unit = group[name].attrs.get("units", "")
    step = int(shift / np.timedelta64(1, unit.split()[0][:1] or "s")) if name == "start_time" else shift
    group[name][:] = group[name][:] + step
    with pytest.raises(RefusedInput, match="sampled windows lie inside their store"):
        RadarCrops(store, "train")


def batches_of(store, *, seen: int = 0, **settings) -> list[dict[str, torch.Tensor]]:
    """Training batches of a run that has already seen some."""
    data = RadarDataModule(str(store), batch_size=2, samples_per_epoch=8 - 2 * seen, seed=5, **settings)
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(batches_seen=seen), global_rank=0, world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    data.prepare_data()
    data.setup()
    return list(data.train_dataloader())


def assert_same_batches(one, other):
    assert len(one) == len(other) > 0
    for batch, same in zip(one, other, strict=True):
        for name, value in batch.items():
            assert torch.equal(value, same[name]), name


@pytest.mark.parametrize("augment", [False, True])
def test_batches_are_the_same_from_the_cache_and_after_a_resume(store, tmp_path, augment):
    plain = batches_of(store, augment=augment)
    cache = str(tmp_path)
    assert_same_batches(plain, batches_of(store, augment=augment, cache=cache))
    assert_same_batches(plain[3:], batches_of(store, augment=augment, cache=cache, seen=3))


def test_batches_are_the_same_from_workers(store, tmp_path):
    there = batches_of(store, augment=True, cache=str(tmp_path), workers=2)
    assert_same_batches(batches_of(store, augment=True), there)


def test_augmented_batches_hold_the_same_windows_turned(store):
    plain, augmented = batches_of(store), batches_of(store, augment=True)
    turned = 0
    for one, other in zip(plain, augmented, strict=True):
        for before, after in zip(one["rain"], other["rain"], strict=True):
            square = [
                torch.rot90(flipped, k, (-2, -1)) for flipped in (before, before.flip(-1)) for k in range(4)
            ]
            assert any(torch.equal(after, candidate) for candidate in square)
            turned += not torch.equal(after, before)
        assert torch.equal(one["probability"], other["probability"])
    assert turned >= 4  # of 8 windows, 7 in the mean


def test_processes_share_the_draws_of_one():
    settings = {"symmetries": range(8), "batches": 2, "seed": 1, "position": lambda: 4}
    whole = list(Draws(50, batch_size=4, rank=0, world_size=1, **settings))
    shares = [list(Draws(50, batch_size=2, rank=rank, world_size=2, **settings)) for rank in (0, 1)]
    assert [whole[0::2], whole[1::2]] == shares
    assert {symmetry for _, symmetry in whole} <= set(range(8))


def test_validation_is_never_turned(store):
    rain = []
    for augment in (False, True):
        data = RadarDataModule(str(store), batch_size=4, validation_samples=4, augment=augment)
        data.setup()
        rain.append(torch.cat([batch["rain"] for batch in data.val_dataloader()]))
        rain.append(data.statistics_windows(4)["rain"])
    assert torch.equal(rain[0], rain[2])
    assert torch.equal(rain[1], rain[3])
