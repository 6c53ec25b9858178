import pytest
import torch
from training_run import train

from data_prep.schema import RefusedInput
from nowcast.training.checkpoint_io import WholeCheckpoints


@pytest.fixture(scope="module")
def last(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    train(str(store), folder, steps=3)
    torch.set_num_threads(threads)
    return folder / "last.ckpt"


class Malice:
    def __reduce__(self):
        return (open, ("stolen.txt", "w"))


def spoil(path, how):
    content = torch.load(path, weights_only=True)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-3000])
        return
    if how in ("empty", "text"):
        path.write_bytes(b"" if how == "empty" else b"weights")
        return
    if how == "code":
        content["extra"] = Malice()
    elif how == "not finite":
        content["state_dict"]["generator.sampler.norm.weight"][0] = torch.nan
    elif how == "bare weights":
        content = content["state_dict"]
    torch.save(content, path)


def test_a_checkpoint_comes_back_and_leaves_nothing_beside_it(last):
    assert WholeCheckpoints().load_checkpoint(last)["batches_seen"] == 2
    assert [path.name for path in last.parent.glob("*last*")] == ["last.ckpt"]
    assert not list(last.parent.glob(".*partial"))


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "code", "not finite", "bare weights"])
def test_a_damaged_or_foreign_state_is_refused_and_nothing_runs(last, tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "other.ckpt"
    path.write_bytes(last.read_bytes())
    spoil(path, how)
    with pytest.raises(RefusedInput, match="a state to go on from was written by nowcast train") as refused:
        WholeCheckpoints().load_checkpoint(path)
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "stolen.txt").exists()
