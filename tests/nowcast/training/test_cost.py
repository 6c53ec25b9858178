from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from data_prep.schema import RefusedInput
from nowcast.cli import main
from nowcast.model import Discriminator, Generator
from nowcast.training.cost import (
    CPU,
    Rates,
    StepCost,
    _duration,
    _memory_findings,
    _Meter,
    _window_size,
    convolution_rate,
    expected_seconds,
    step_cost,
)
from nowcast.training.datamodule import RadarDataModule
from nowcast.training.gan import NowcastGAN

ROOT = Path(__file__).resolve().parents[3]
SIZES = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": 2}
CRITICS = {"spatial_channels": (4, 8, 8), "temporal_channels": (4, 8, 8), "spatial_frames": 2}


def network(**settings) -> NowcastGAN:
    return NowcastGAN(Generator(**SIZES), Discriminator(**CRITICS), **{"samples": 2, **settings})


def cost(*, batch_size: int = 2, precision: str = "32-true", averaged: bool = False, **settings) -> StepCost:
    sizes = {"batch_size": batch_size, "height": 32, "width": 32}
    return step_cost(network(**settings), **sizes, precision=precision, averaged=averaged)


def activations(step: StepCost) -> int:
    return step.peak_bytes - step.weights_bytes


@pytest.fixture(scope="module")
def plain() -> StepCost:
    return cost()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"micro_batches": 2, "gradient_checkpointing": True, "regularizer": "crps", "discriminator_steps": 1},
    ],
    ids=["as in the paper", "in parts and again"],
)
def test_the_flops_are_those_of_a_real_training(settings):
    model = network(**settings)
    rain = torch.rand(2, 6, 1, 32, 32)
    batch = {"rain": rain, "mask": torch.ones_like(rain, dtype=torch.bool)}
    steps = model.discriminator_steps + 1
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    # torch counts the products of attention in this form alone.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            trainer.fit(model, DataLoader([batch] * model.discriminator_steps, batch_size=None))
        expected = cost(**settings)
    assert expected.flops == counter.get_total_flops()


def test_gradient_checkpointing_takes_less_memory_and_more_arithmetic(plain):
    again = cost(gradient_checkpointing=True)
    assert activations(again) < 0.8 * activations(plain)
    assert 1.05 * plain.flops < again.flops < 1.4 * plain.flops


def test_half_a_batch_at_a_time_takes_less_memory_and_the_same_arithmetic(plain):
    halves = cost(micro_batches=2)
    assert activations(halves) < 0.7 * activations(plain)
    assert halves.flops == pytest.approx(plain.flops, rel=0.02)


def test_twice_the_batch_takes_twice_the_arithmetic_and_no_more_weights(plain):
    double = cost(batch_size=4)
    assert double.flops == pytest.approx(2 * plain.flops, rel=0.02)
    assert double.weights_bytes == plain.weights_bytes


def test_bf16_takes_less_memory_and_the_same_arithmetic(plain):
    mixed = cost(precision="bf16-mixed")
    assert activations(mixed) < 0.8 * activations(plain)
    assert mixed.flops == plain.flops


def test_a_weight_takes_16_bytes_and_4_more_with_an_average(plain):
    model = network()
    weights = sum(value.numel() for value in model.parameters())
    buffers = sum(value.nbytes for value in model.buffers())
    assert plain.weights_bytes == 16 * weights + buffers
    assert cost(averaged=True).weights_bytes == 20 * weights + 2 * buffers


def test_the_model_is_left_as_it_was():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step_cost(model, batch_size=1, height=32, width=32)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in model.parameters())


def test_memory_counts_while_a_tensor_lives_and_views_take_none():
    meter = _Meter()
    with meter:
        first = torch.zeros(1000)  # 4000 bytes, written
        second = first.view(10, 100) + 1  # 4000 bytes read and 4000 written
        del first
        third = second.mul_(2)[:5]  # 4000 bytes read and 4000 written, in place
    assert (meter.peak, meter.alive) == (8000, 4000)
    assert (meter.moved, meter.operators) == (4000 + 8000 + 8000, 3)
    del second, third
    assert meter.alive == 0


def test_time_is_that_of_arithmetic_and_traffic_or_of_starting_operators():
    step = StepCost(flops=60, moved_bytes=20, operators=5, peak_bytes=0, weights_bytes=0)
    assert expected_seconds(step, Rates(flops=10, moved_bytes=5, operators=100)) == 6 + 4
    assert expected_seconds(step, Rates(flops=1000, moved_bytes=1000, operators=0.5)) == 10
    assert _duration(500_000, 2.0) == "500000 generator steps: about 12 days"
    assert _duration(200, 1.0) == "200 generator steps: about 3.3 minutes"
    assert _duration(-1, 1.0) == "trainer.max_steps does not limit the run"


def test_the_rate_of_a_convolution_is_that_of_a_computer():
    assert 1e8 < convolution_rate(CPU, "32-true") < 1e16


def test_a_precision_without_a_known_cost_is_refused():
    with pytest.raises(RefusedInput, match="came: bf16-true"):
        cost(precision="bf16-true")


def test_a_step_that_does_not_fit_is_a_finding():
    assert _memory_findings(StepCost(0, 0, 0, 2**20, 0), CPU) == []
    (finding,) = _memory_findings(StepCost(0, 0, 0, 2**60, 0), CPU)
    assert finding.startswith("a step needs 1.07e+09 GiB, cpu has ")


def test_the_size_of_a_window_comes_from_the_configuration_then_the_store_then_the_paper(store):
    assert _window_size(RadarDataModule(str(store), size=16)) == (16, 16, "data.size")
    assert _window_size(RadarDataModule(str(store))) == (32, 32, f"sampled windows of {store}")
    assert _window_size(RadarDataModule("nowhere.zarr"))[:2] == (256, 256)


def test_the_doctor_says_what_a_configured_training_takes(capsys, monkeypatch):
    monkeypatch.setattr("nowcast.checks.examine_environment", lambda **_: (["this machine"], []))
    config = str(ROOT / "configs/train/tiny.yaml")
    assert main(["doctor", "--config", config, "--data.batch_size", "1", "--trainer.accelerator", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "this machine"
    assert lines[1] == "generator 0.4, discriminators 0.1 million parameters"
    assert lines[2].startswith("batch 1, 128 x 128 cells (data.size), 2 samples, 32-true, gradient checkp")
    assert lines[3].startswith("a step of the generator and 2 of the discriminators: 0.014 TFLOP, ")
    assert lines[4].startswith("expected peak memory 0.0")
    assert lines[5].startswith("measured on cpu: ")
    assert "200 generator steps: about " in lines[6]
    assert len(lines) == 7


def test_a_key_that_does_not_exist_is_wrong_usage(capsys):
    config = str(ROOT / "configs/train/tiny.yaml")
    assert main(["doctor", "--config", config, "--data.no_such_key", "1"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert any("Option 'no_such_key' is not accepted" in line for line in error)
    assert len(error) <= 12
