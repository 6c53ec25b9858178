import numpy as np
import torch

from nowcast.motion import advect, between, estimate_motion, sample, trajectories


def rain_field(size: int = 128, *, seed: int = 0) -> torch.Tensor:
    """Smooth random rain, mm/h, (size, size)."""
    noise = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(size)
    wave = (frequency[:, None] ** 2 + torch.fft.fftfreq(size)[None] ** 2).sqrt()
    field = torch.fft.ifft2(torch.fft.fft2(noise[0, 0]) / (wave + 0.02) ** 1.5).real
    return (4 * (field / field.std())).clamp(min=0)


def moving(velocity: tuple[float, float], frames: int = 4) -> torch.Tensor:
    """Rain that moves steadily (cells per frame along x and y) on a periodic domain, (1, T, H, W)."""
    spectrum = torch.fft.fft2(rain_field())
    ky, kx = torch.fft.fftfreq(128)[:, None], torch.fft.fftfreq(128)[None]
    shifted = [
        torch.fft.ifft2(spectrum * torch.exp(-2j * torch.pi * n * (kx * velocity[0] + ky * velocity[1]))).real
        for n in range(frames)
    ]
    return torch.stack(shifted)[None].clamp(min=0)


def test_known_motion_is_found_to_a_fifth_of_a_cell():
    for velocity in ((3.0, -1.5), (-6.4, 4.2), (0.0, 0.0)):
        motion = estimate_motion(moving(velocity))[0, :, 16:-16, 16:-16]
        error = motion.mean(dim=(1, 2)) - torch.tensor(velocity)
        assert error.abs().max() < 0.2, velocity


def test_motion_that_differs_across_the_field_is_found_where_it_is():
    frames = moving((0.0, 0.0))
    left, right = moving((3.0, 0.0)), moving((-3.0, 0.0))
    frames = torch.cat([left[..., :64], right[..., 64:]], dim=-1)
    motion = estimate_motion(frames)[0, 0]
    assert motion[:, 10:30].mean() > 1.5
    assert motion[:, -30:-10].mean() < -1.5


def test_missing_cells_do_not_disturb_the_motion_of_the_rest():
    frames = moving((4.0, 2.0))
    frames[..., 80:] = torch.nan
    motion = estimate_motion(frames)[0, :, 16:-16, 8:64]
    assert motion.isfinite().all()
    assert (motion.mean(dim=(1, 2)) - torch.tensor([4.0, 2.0])).abs().max() < 0.4


def test_rain_that_ends_in_a_sharp_edge_of_coverage_is_not_taken_for_standing_still():
    frames = moving((5.0, 0.0))
    y, x = np.mgrid[:128, :128]
    frames[..., torch.from_numpy(np.hypot(y - 64, x - 64) > 50)] = torch.nan
    assert estimate_motion(frames)[0, 0, 40:88, 40:88].mean() > 4.0


def test_widespread_rain_moves_alike_up_to_the_edge_of_coverage():
    frames = moving((3.0, -2.0)) + 3.0
    y, x = np.mgrid[:128, :128]
    ring = torch.from_numpy(np.hypot(y - 64, x - 64))
    frames[..., ring > 50] = torch.nan
    motion = estimate_motion(frames)[0]
    outer = (ring > 42) & (ring < 50)
    assert (motion[:, outer].mean(dim=1) - torch.tensor([3.0, -2.0])).abs().max() < 0.1


def test_dry_and_all_missing_sequences_stand_still():
    assert (estimate_motion(torch.zeros(1, 4, 64, 64)) == 0).all()
    assert (estimate_motion(torch.full((1, 4, 64, 64), torch.nan)) == 0).all()


def test_sequences_in_a_batch_do_not_know_of_each_other():
    slow, fast = moving((1.0, 0.0)), moving((6.0, 0.0))
    together = estimate_motion(torch.cat([slow, fast]))
    torch.testing.assert_close(together[1:], estimate_motion(fast), atol=1e-4, rtol=1e-4)


def test_uniform_advection_moves_a_cell_by_whole_cells_and_leaves_nan_upwind():
    field = torch.zeros(1, 20, 20)
    field[0, 10, 5] = 7.0
    motion = torch.zeros(1, 2, 20, 20)
    motion[:, 0], motion[:, 1] = 2.0, -1.0
    moved = advect(field, motion, 3)
    assert moved.shape == (1, 3, 20, 20)
    assert moved[0, 2, 7, 11] == 7.0
    assert moved[0, 2].nansum() == 7.0
    assert moved[0, 2, :, :6].isnan().all()
    assert moved[0, 2, -3:].isnan().all()
    assert moved[0, 2, :-3, 6:].isfinite().all()


def test_trajectories_follow_a_rotation():
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    angle = 0.05
    motion = torch.stack([-y * angle, x * angle])[None]
    *_, back = trajectories(motion, 10)
    # After 10 steps the rain at (x, y) came from where a turn by -0.5 rad puts it.
    turned = torch.stack([
        x * np.cos(0.5) + y * np.sin(0.5),
        -x * np.sin(0.5) + y * np.cos(0.5),
    ])  # fmt: skip
    inside = (x.hypot(y) < 25)[None].expand(2, -1, -1)
    origin = torch.stack([x, y]) - back[0]
    assert (origin - turned)[inside].abs().max() < 0.5


def test_sampling_next_to_missing_cells_does_not_mix_them_in():
    field = torch.full((1, 8, 8), 5.0)
    field[..., 4:] = torch.nan
    shifted = sample(field, torch.full((1, 2, 8, 8), -0.25))
    assert (((shifted - 5.0).abs() < 1e-4) | shifted.isnan()).all()
    assert shifted[0, 2, 2].isfinite()
    assert shifted[0, 2, 5].isnan()


def test_motion_has_gradients_where_a_network_could_use_them():
    field = rain_field()[None].requires_grad_()
    advect(field, torch.ones(1, 2, 128, 128), 2).nan_to_num().sum().backward()
    assert field.grad.abs().sum() > 0


def test_motion_is_the_same_with_any_number_of_threads():
    frames = torch.cat([moving((3.0, -1.5)), moving((3.0, -1.5))], dim=-1).repeat(1, 1, 3, 1)
    results = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(estimate_motion(frames))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_trajectories_along_a_uniform_motion_are_straight_up_to_the_corners_of_any_grid():
    for size in ((7, 90), (50, 33)):
        motion = torch.tensor([1.5, -0.75])[None, :, None, None].expand(1, 2, *size)
        for n, back in enumerate(trajectories(motion, 4), start=1):
            assert back.shape == (1, 2, *size)
            torch.testing.assert_close(back, n * motion, atol=1e-5, rtol=0)


def test_a_field_between_two_lies_half_way_along_the_motion(make_rain):
    earlier, middle, later = torch.from_numpy(make_rain(3, speed=(4, 2)).values)
    made = between(earlier, later)
    known = made.isfinite()
    assert known.float().mean() > 0.99  # in two corners neither of the two has a value
    assert (made - middle)[known].abs().max() < 0.6
    assert ((earlier + later) / 2 - middle).abs().max() > 2.5


def test_between_two_fields_the_one_fills_what_the_other_lacks(make_rain):
    earlier, later = torch.from_numpy(make_rain(2, speed=(0, 0)).values)
    earlier[:10], later[:4] = torch.nan, torch.nan
    made = between(earlier, later)
    assert made[:4].isnan().all()
    assert made[5:].isfinite().all()


def test_between_two_dry_fields_it_is_dry():
    assert (between(torch.zeros(64, 64), torch.zeros(64, 64)) == 0).all()
