import pytest
import torch

from nowcast.training.validation import ValidationSums

NAN = float("nan")


def windows(*errors: float, observed: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two members with one error everywhere, for each window; what fell is what the last frame had."""
    target = torch.full((len(errors), 3, 8, 8), observed)
    members = target + torch.tensor(errors)[:, None, None, None]
    return members.expand(2, *members.shape).clone(), target, target[:, 0]


def test_a_window_counts_as_many_times_as_it_stands_for():
    members, target, last = windows(1.0, 3.0)
    sums = ValidationSums()
    sums.add(members, target, last, probability=torch.tensor([1.0, 0.1]))
    # The second was one of ten: (1 x 1 + 10 x 3) / 11 mm/h; and (1 + 10)^2 / (1 + 100) windows.
    scores = sums.scores()
    assert float(scores["crps"]) == pytest.approx(31 / 11)
    assert float(scores["effective_windows"]) == pytest.approx(121 / 101)


def test_hits_and_misses_are_weighted_too():
    members, target, last = windows(0.0, -1.9)  # a hit at 1 mm/h in every cell, and a miss in every cell
    sums = ValidationSums()
    sums.add(members, target, last, probability=torch.tensor([0.5, 0.25]))
    assert float(sums.scores()["csi_1"]) == pytest.approx(2 / (2 + 4))


def test_windows_of_one_probability_score_as_without():
    torch.manual_seed(0)
    members, target, last = torch.rand(2, 3, 4, 8, 8) * 8, torch.rand(3, 4, 8, 8) * 8, torch.rand(3, 8, 8) * 8
    plain, weighted = ValidationSums(), ValidationSums()
    plain.add(members, target, last)
    weighted.add(members, target, last, probability=torch.full((3,), 2e-4))
    for name, value in plain.scores().items():
        torch.testing.assert_close(weighted.scores()[name], value, rtol=1e-6, atol=1e-6)
    assert float(plain.scores()["effective_windows"]) == 3


def test_spectra_are_weighted_like_all_sums():
    torch.manual_seed(0)
    members, target, last = torch.rand(1, 2, 1, 8, 8) * 8, torch.rand(2, 1, 8, 8) * 8, torch.rand(2, 8, 8)
    weighted, thrice = ValidationSums(), ValidationSums()
    weighted.add(members, target, last, probability=torch.tensor([1.0, 1 / 3]))
    again = [0, 1, 1, 1]
    thrice.add(members[:, again], target[again], last[again])
    for name in ("spectra_distance", "crps", "csi_4"):
        torch.testing.assert_close(weighted.scores()[name], thrice.scores()[name], rtol=1e-5, atol=1e-6)


def test_missing_cells_do_not_count_whatever_their_window_weighs():
    members, target, last = windows(1.0, 3.0)
    target[1] = NAN
    sums = ValidationSums()
    sums.add(members, target, last, probability=torch.tensor([1.0, 1e-4]))
    assert float(sums.scores()["crps"]) == pytest.approx(1.0)


def test_sums_of_several_batches_add_up():
    members, target, last = windows(1.0, 3.0, 2.0)
    probability = torch.tensor([0.1, 0.5, 1.0])
    whole, parts = ValidationSums(), ValidationSums()
    whole.add(members, target, last, probability=probability)
    for part in (slice(0, 1), slice(1, 3)):
        parts.add(members[:, part], target[part], last[part], probability=probability[part])
    assert float(parts.scores()["crps"]) == pytest.approx(float(whole.scores()["crps"]))
