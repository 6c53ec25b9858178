import pytest
import torch

from data_prep.schema import RefusedInput
from nowcast.representation import Representation
from nowcast.training.batch import TrainingBatch
from nowcast.training.datamodule import _collate

FRAMES = {"context_frames": 4, "lead_steps": 18}


def windows(batch: int = 2, frames: int = 22, size: int = 16) -> dict[str, torch.Tensor]:
    rain = torch.rand(batch, frames, 1, size, size, generator=torch.Generator().manual_seed(0))
    return {"rain": rain, "mask": torch.ones_like(rain, dtype=torch.bool)}


def made(given, **choices) -> TrainingBatch:
    return TrainingBatch.of(given, Representation(**choices), **FRAMES)


def test_a_batch_is_cut_into_context_and_target():
    given = windows()
    batch = made(given, transform="square_root")
    torch.testing.assert_close(batch.context, given["rain"][:, :4].sqrt())
    torch.testing.assert_close(batch.target, given["rain"][:, 4:])
    torch.testing.assert_close(batch.real, batch.target.sqrt())
    torch.testing.assert_close(batch.last, batch.context[:, 3:4])
    assert batch.mask.all()
    assert len(batch) == 2


def test_parts_hold_every_window_once():
    batch = made(windows(5))
    parts = list(batch.parts(3))
    assert [len(part) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat([part.target for part in parts]), batch.target)
    assert len(list(made(windows(2)).parts(3))) == 2


def test_what_is_missing_is_masked_and_read_as_dry():
    given = windows()
    given["mask"][0, 7, 0, 3, 4] = False
    given["rain"][0, 7, 0, 3, 4] = torch.nan
    batch = made(given)
    assert batch.target[0, 3, 0, 3, 4] == batch.real[0, 3, 0, 3, 4] == 0
    assert int((~batch.mask).sum()) == 1


def test_the_comoving_frame_masks_what_leaves_the_window():
    given = windows(1, size=64)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for frame in range(22):
        blob = 9 * torch.exp(-((rows - 32) ** 2 + (columns - 14 - 2 * frame) ** 2) / 40)
        given["rain"][0, frame, 0] = blob
    batch = made(given, frame="comoving")
    assert not batch.mask[0, -1].all()
    assert batch.mask[0, 0].float().mean() > 0.9
    still = (batch.target[0, 4] - given["rain"][0, 3])[:, 20:44, 15:30].abs().mean()
    assert still < 0.2 * (given["rain"][0, 8] - given["rain"][0, 3])[:, 20:44, 15:30].abs().mean()


@pytest.mark.parametrize(("value", "came"), [(float("nan"), "nan"), (-0.5, "-0.5"), (float("inf"), "inf")])
def test_rates_that_cannot_be_are_refused_with_their_place(value, came):
    given = windows()
    given["rain"][1, 5, 0, 3, 4] = value
    with pytest.raises(RefusedInput, match=rf"came: {came} mm/h in window 1, frame 5, cell \(3, 4\)"):
        made(given)


def test_fewer_frames_than_needed_are_refused():
    with pytest.raises(RefusedInput, match="a window holds 22 frames, .* came: 21"):
        made(windows(frames=21))


def test_rain_and_mask_of_different_shapes_are_refused():
    given = windows()
    given["mask"] = given["mask"][..., :8]
    with pytest.raises(RefusedInput, match="a bool mask of its shape"):
        made(given)


def test_windows_of_mixed_grid_sizes_are_refused():
    mixed = [{name: value[0] for name, value in windows(size=size).items()} for size in (16, 24)]
    with pytest.raises(RefusedInput, match=r"one grid size; came: \[\(22, 1, 16, 16\), \(22, 1, 24, 24\)\]"):
        _collate(mixed)
