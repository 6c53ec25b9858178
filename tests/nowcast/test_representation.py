import pytest
import torch

from data_prep.schema import RefusedInput
from nowcast.representation import Paths, Representation, Seen, drifted


def blob(row: float, column: float, size: int = 48) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return 8 * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 30)


def moving(frames: range, *, rows: float = 1.0, columns: float = 2.0) -> torch.Tensor:
    """(1, T, 48, 48): rain in the middle at step 0, moving some cells a step."""
    return torch.stack([blob(24 + rows * step, 20 + columns * step) for step in frames])[None]


def steady(rows: float = 1.0, columns: float = 2.0) -> torch.Tensor:
    return torch.tensor([columns, rows])[None, :, None, None].expand(1, 2, 48, 48).contiguous()


def paths(steps: int = 4, motion: torch.Tensor | None = None, *, still: bool = False) -> Paths:
    everywhere = torch.ones(1, 1, 48, 48, dtype=torch.bool)
    known_motion = None if still else steady() if motion is None else motion
    return Paths.of(Seen(torch.zeros(1, 4, 1, 48, 48), everywhere, known_motion), steps)


COMOVING = Representation(frame="comoving")


def test_the_fixed_frame_changes_nothing():
    fixed, context = Representation(), moving(range(-3, 1))
    assert fixed.motion(context) is None
    assert fixed.pull_context(context, None) is context
    assert fixed.pull_future(context, None) is context
    assert list(Paths.of(fixed.encode(context), 4).carry(iter([context])))[0].equal(context)


def test_in_the_comoving_frame_moving_rain_stands_still():
    last = blob(24, 20)
    context = COMOVING.pull_context(moving(range(-3, 1)), steady())
    future = COMOVING.pull_future(moving(range(1, 7)), steady())
    inner = (..., slice(14, 34), slice(14, 28))
    for frame in (*context[0], *future[0]):
        torch.testing.assert_close(frame[inner], last[inner])


def test_the_estimated_motion_brings_the_rain_back_too():
    context = moving(range(-3, 1))
    pulled = COMOVING.pull_context(context, COMOVING.motion(context))
    assert (pulled[0, 0] - context[0, -1])[14:34, 12:28].abs().mean() < 0.1 * (
        context[0, 0] - context[0, -1]
    )[14:34, 12:28].abs().mean()


def test_advection_undoes_the_pull_of_the_future():
    future = moving(range(1, 5))
    pulled = COMOVING.pull_future(future, steady())
    parts = [pulled[:, :1], pulled[:, 1:]]
    back = torch.cat(list(paths().carry(iter(parts))), dim=1)
    known = back.isfinite()
    assert known[..., 5:40, 10:40].all()
    torch.testing.assert_close(back[known], future[known], atol=1e-4, rtol=1e-4)


def test_rain_from_outside_the_field_is_unknown():
    future = COMOVING.pull_future(moving(range(1, 5)), steady())
    assert future[0, 3, :, -8:].isnan().all()  # it has left the field
    inflow = torch.cat(list(paths().carry(iter([moving(range(4))]))), dim=1)
    assert inflow[0, 3, :, :8].isnan().all()


def test_missing_cells_travel_with_the_rain():
    context = moving(range(-3, 1))
    context[0, 0, 10:14, 20:24] = torch.nan
    pulled = COMOVING.pull_context(context, steady())[0, 0]
    assert pulled[13:17, 26:30].isnan().all()
    assert int(pulled[13:17, 20:40].isnan().sum()) == 16


def test_a_pull_takes_values_that_were_there():
    future = moving(range(1, 3))
    pulled = COMOVING.pull_future(future, steady(0.4, 0.7))
    there = set(future[0, 1].flatten().tolist())
    assert set(pulled[0, 1][pulled[0, 1].isfinite()].tolist()) <= there


def test_a_residual_is_added_to_the_square_root_of_the_last_frame():
    representation = Representation(transform="square_root", output="residual")
    values = representation.to_network(torch.tensor([[[[9.0, float("nan")]]]]))
    future = representation.from_network(torch.tensor([[[[[1.0, -1.0]]]]]), values)
    assert representation.to_rain(future).flatten().tolist() == [16.0, -1.0]


def test_a_velocity_error_displaces_every_lead_time_more_than_the_one_before():
    still = blob(24, 20)[None, None].repeat(1, 3, 1, 1)
    error = torch.tensor([2.0, 1.0])[None, :, None, None].expand(1, 2, 48, 48)
    expected = torch.stack([blob(24 + step, 20 + 2 * step) for step in (1, 2, 3)])[None]
    in_training = drifted(still[:, :, None], error)[:, :, 0]
    in_a_forecast = next(paths(3, still=True).carry(iter([still]), error))
    for moved in (in_training, in_a_forecast):
        torch.testing.assert_close(moved[..., 8:40, 10:40], expected[..., 8:40, 10:40], atol=1e-4, rtol=1e-4)


def test_velocity_errors_add_to_the_motion_and_leave_unknown_cells_where_they_were():
    still = blob(24, 20)[None, None].repeat(1, 3, 1, 1)
    error = torch.tensor([2.0, 1.0])[None, :, None, None].expand(1, 2, 48, 48)
    moved = next(paths(3).carry(iter([still]), error))
    expected = torch.stack([blob(24 + 2 * step, 20 + 4 * step) for step in (1, 2, 3)])[None]
    torch.testing.assert_close(moved[..., 8:40, 12:40], expected[..., 8:40, 12:40], atol=1e-4, rtol=1e-4)
    without = next(paths(3).carry(iter([still])))
    assert moved.isnan().equal(without.isnan())
    assert without.isnan().any()


def test_a_velocity_error_draws_no_streaks_from_the_edge_of_the_field():
    edge = torch.zeros(1, 1, 48, 48)
    edge[..., 0] = 5.0  # rain that leaves the field on the left
    error = torch.tensor([2.0, 0.0])[None, :, None, None].expand(1, 2, 48, 48)
    moved = next(paths(1, still=True).carry(iter([edge]), error))
    # Column 0 stays where nothing can come from; column 2 is where it is carried to.
    assert moved[0, 0, 10, :5].tolist() == pytest.approx([5.0, 0.0, 5.0, 0.0, 0.0], abs=1e-4)


def test_missing_cells_take_the_nearest_frame_that_has_them_and_are_told_apart():
    masked = Representation(transform="square_root", channels="rain_and_mask")
    nan = torch.nan
    # by frames, oldest first: cell 0 lacks the last, cell 1 all but the third, cell 2 all, cell 3 none
    context = torch.tensor([[1.0, nan, nan, 1.0], [4.0, nan, nan, 4.0], [9.0, 16.0, nan, 9.0],
                            [nan, nan, nan, 16.0]])[None, :, None]  # fmt: skip
    seen = masked.encode(context)
    rain, known = seen.values[0, :, 0, 0], seen.values[0, :, 1, 0]
    assert rain.tolist() == [[1, 4, 0, 1], [2, 4, 0, 2], [3, 4, 0, 3], [3, 4, 0, 4]]
    assert known.equal(context[0, :, 0].isfinite().float())
    assert seen.observed.flatten().tolist() == [True, True, False, True]
    assert seen.last.flatten().tolist() == [3, 4, 0, 4]


def test_unknown_choices_are_refused():
    with pytest.raises(RefusedInput, match="output is one of"):
        Representation(output="increment")
    with pytest.raises(RefusedInput, match="frame is one of"):
        Representation(frame="moving")
    with pytest.raises(RefusedInput, match="square-root space; came: transform rain_rate"):
        Representation(output="residual")
