import socket

import forked
import pytest
import torch
from training_run import step, step_of_rank


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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = [forked.start(step_of_rank, rank, port, str(store), file, regularizer) for rank in (0, 1)]
    assert [forked.exit_status(rank) for rank in ranks] == [0, 0]
    assert_same(torch.load(file, weights_only=True), one_process)


def test_micro_batches_make_the_step_of_the_whole_batch(store, tmp_path, one_process, regularizer):
    file = tmp_path / "parts.pt"
    step(str(store), file, processes=1, micro_batches=3, regularizer=regularizer)
    assert_same(torch.load(file, weights_only=True), one_process)
