import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_run import step

RUN = [sys.executable, str(Path(__file__).with_name("training_run.py")), "step"]


@pytest.fixture(params=["paper", "normalized_crps"])
def regularizer(request):
    return request.param


@pytest.fixture
def one_process(store, tmp_path, regularizer):
    threads = torch.get_num_threads()
    step(str(store), tmp_path / "one.pt", processes=1, regularizer=regularizer)
    yield torch.load(tmp_path / "one.pt", weights_only=True)
    torch.set_num_threads(threads)


def assert_same(gradients, expected):
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None, name
        largest = float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-5 * largest + 1e-9, msg=name)


def test_two_processes_make_the_step_of_one_on_the_same_windows(store, tmp_path, one_process, regularizer):
    file = tmp_path / "two.pt"
    subprocess.run(
        [*RUN, str(store), str(file), regularizer], check=True, stderr=subprocess.DEVNULL, timeout=120
    )
    assert_same(torch.load(file, weights_only=True), one_process)


def test_micro_batches_make_the_step_of_the_whole_batch(store, tmp_path, one_process, regularizer):
    file = tmp_path / "parts.pt"
    step(str(store), file, processes=1, micro_batches=3, regularizer=regularizer)
    assert_same(torch.load(file, weights_only=True), one_process)
