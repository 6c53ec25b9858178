import csv
import time
from pathlib import Path

import forked
import pytest
import torch
from training_run import train

STEPS = 33
"""Of both optimisers: 22 batches, three epochs of seven and one batch more."""


def losses(folder: Path) -> dict[int, dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for row in csv.DictReader((folder / "log" / "metrics.csv").open()):
        values = {
            name: float(value) for name, value in row.items() if value and name not in ("epoch", "step")
        }
        rows.setdefault(int(row["step"]), {}).update(values)
    return rows


def killed_in_mid_epoch(store: Path, folder: Path) -> None:
    """Train for ever, and kill without warning when a checkpoint of the second epoch is there."""
    process = forked.start(train, str(store), folder, steps=100_000)
    deadline = time.monotonic() + forked.SECONDS
    while time.monotonic() < deadline and process.is_alive():
        saved = folder / "last.ckpt"
        if saved.exists() and torch.load(saved, weights_only=True)["batches_seen"] > 7:
            break
        time.sleep(0.02)
    process.kill()
    process.join()


@pytest.fixture(scope="module")
def resumed(store, tmp_path_factory):
    """Losses by step of a run that was killed and resumed, and of one that was left alone."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    killed_in_mid_epoch(store, broken)
    position = torch.load(broken / "last.ckpt", weights_only=True)["batches_seen"]
    steps = STEPS if position < 22 else 3 * (position // 2) + 9
    (broken / "log" / "metrics.csv").rename(broken / "first.csv")
    resume = str(broken / "last.ckpt")
    assert forked.exit_status(forked.start(train, str(store), broken, steps=steps, resume=resume)) == 0
    threads = torch.get_num_threads()
    train(str(store), whole, steps=steps)
    torch.set_num_threads(threads)
    return position, losses(whole), losses(broken), whole, broken


def test_a_killed_run_goes_on_with_the_losses_it_would_have_had(resumed):
    position, whole, broken, *_ = resumed
    assert position % 7 != 0  # it was killed in mid-epoch
    assert len(broken) >= 5
    compared = 0
    for step, values in broken.items():
        # Lightning repeats the last value of a term that this batch has not: the first row may lack it.
        common = [name for name in values if name in whole[step]]
        for name in common:
            assert values[name] == pytest.approx(whole[step][name], rel=1e-6, abs=1e-6, nan_ok=True), (
                step,
                name,
            )
        compared += len(common)
    assert compared > 50


def test_a_killed_run_ends_with_the_weights_and_the_average_it_would_have_had(resumed):
    *_, whole, broken = resumed
    one, other = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, broken))
    assert one["batches_seen"] == other["batches_seen"]
    for key in ("state_dict", "current_model_state"):
        for name, value in one[key].items():
            torch.testing.assert_close(other[key][name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert any(
        not torch.equal(value, one["current_model_state"][name]) for name, value in one["state_dict"].items()
    )


def test_a_run_goes_on_from_the_end_of_an_epoch_too(store, resumed, tmp_path):
    _, whole, *_ = resumed
    threads = torch.get_num_threads()
    train(str(store), tmp_path, steps=21)  # two epochs of seven batches
    (tmp_path / "log" / "metrics.csv").unlink()
    train(str(store), tmp_path, steps=27, resume=str(tmp_path / "last.ckpt"))
    torch.set_num_threads(threads)
    # Lightning counts the batches of the log one further after an epoch's end: compare in order.
    name = "loss/discriminator"
    ours, theirs = ([row[name] for row in rows.values() if name in row] for rows in (losses(tmp_path), whole))
    assert len(ours) == 4
    assert ours == pytest.approx(theirs[14:18], rel=1e-6, abs=1e-6)
