import math

import pytest
import torch
from torch import nn

from data_prep.schema import RefusedInput
from nowcast.forecasters.gan_forecaster import GANForecaster
from nowcast.model import Discriminator, Generator
from nowcast.training.datamodule import AlignedData
from nowcast.training.gan import NowcastGAN
from nowcast.weights import _find_norms, generator_weights, save_weights

pl = pytest.importorskip("pytorch_lightning")

SIZES = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "input_channels": 2, "drift": True,
         "texture": True}  # fmt: skip
CRITICS = {"spatial_channels": (4, 8, 8), "temporal_channels": (4, 8, 8), "spatial_frames": 4}
HOW = {"transform": "square_root", "output": "residual", "frame": "comoving", "channels": "rain_and_mask"}
SCORE = {"regularizer": "normalized_crps", "regularizer_weight": 1.0, "adversarial_weight": 0.0, "samples": 2}


def network(sizes=SIZES, **settings) -> NowcastGAN:
    torch.manual_seed(0)
    options = {**HOW, **SCORE, "generator_lr": 1e-3, **settings}
    return NowcastGAN(Generator(**sizes), Discriminator(**CRITICS), **options)


@pytest.fixture(scope="module")
def windows(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    return lambda: AlignedData(
        [str(store)], cache=str(folder), synthetic_windows=0, real_windows=6, hold_out=0.3, size=32,
        batch_size=2, samples_per_epoch=16, validation_samples=2,
    )  # fmt: skip


def fit(model: NowcastGAN, data, *, steps: int = 4) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, limit_val_batches=1,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return trainer


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_without_critics_every_batch_trains_the_generator_and_none_the_critics(windows):
    model = network()
    generator, critics = weights(model.generator), weights(model.discriminator)
    fit(model, windows(), steps=3)
    assert model.generator_steps == model.batches_seen == 3
    assert all(torch.equal(value, critics[name]) for name, value in model.discriminator.named_parameters())
    changed = {
        name for name, value in model.generator.named_parameters() if not torch.equal(value, generator[name])
    }
    assert "drift.amplitude.bias" in changed
    assert "sampler.levels.0.texture" in changed
    assert any(name.startswith("conditioning_stack") for name in changed)


def test_with_critics_both_learn_and_the_weight_scales_what_they_add(windows):
    model = network(adversarial_weight=0.5, discriminator_steps=1)
    critics = weights(model.discriminator)
    fit(model, windows(), steps=4)
    assert model.generator_steps == 2
    assert any(
        not torch.equal(value, critics[name]) for name, value in model.discriminator.named_parameters()
    )


def test_the_rate_falls_along_half_a_cosine_and_is_a_plain_number_in_the_checkpoint(windows, tmp_path):
    model = network(anneal_steps=10)
    trainer = fit(model, windows(), steps=4)
    group = trainer.optimizers[0].param_groups[0]
    assert group["lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 0.3)) / 2)  # the fourth step, number 3
    trainer.save_checkpoint(tmp_path / "phase.ckpt")
    torch.load(tmp_path / "phase.ckpt", weights_only=True)


def test_held_norms_keep_their_statistics(windows):
    model = network(hold_norms=True)
    before = {name: value.clone() for name, value in model.generator.named_buffers() if "running" in name}
    trainer = fit(model, windows(), steps=3)
    after = dict(model.generator.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert trainer.model is not None


def test_a_phase_starts_from_the_weights_of_the_one_before(windows, tmp_path):
    first = network()
    trainer = fit(first, windows(), steps=3)
    _find_norms(first.generator)  # as after many steps
    path = tmp_path / "first.ckpt"
    trainer.save_checkpoint(path)
    second = network(init=str(path))
    saved = generator_weights(torch.load(path, weights_only=True)["state_dict"])
    reference = Generator(**SIZES)
    reference.load_state_dict(saved)
    context = torch.rand(1, 4, 2, 32, 32)
    z = torch.randn(1, *reference.latent_shape(32, 32))
    with torch.no_grad():
        expected, came = reference.eval()(context, z), second.generator.eval()(context, z)
    torch.testing.assert_close(came, expected, atol=2e-2, rtol=0)  # spectral norms are found anew


def test_a_phase_may_add_parts_but_no_other_sizes(tmp_path):
    plain = network({**SIZES, "drift": False, "texture": False})
    path = tmp_path / "plain.safetensors"
    card = {"generator": plain.generator.config, **plain.representation.card(), "grid_spacing": 1000.0,
            "time_step_minutes": 5.0}  # fmt: skip
    save_weights(path, plain.generator, card)
    assert network(init=str(path)).generator.drift is not None
    with pytest.raises(RefusedInput, match="network of other sizes"):
        network({**SIZES, "conditioning_channels": (4, 8)}, init=str(path))


def test_a_network_that_sees_a_mask_has_two_channels():
    with pytest.raises(RefusedInput, match="2 input_channels; came: 1"):
        network({**SIZES, "input_channels": 1})


def test_a_member_of_the_forecaster_is_the_networks_rain_at_its_place(make_rain, tmp_path):
    model = network()
    path = tmp_path / "weights.safetensors"
    card = {"generator": model.generator.config, **model.representation.card(), "grid_spacing": 1000.0,
            "time_step_minutes": 5.0}  # fmt: skip
    save_weights(path, model.generator, card)
    context = make_rain(4, speed=(2.0, 1.0), missing_rows=3)
    ensemble = GANForecaster.from_file(path).forecast(context, members=2, lead_steps=18, seed=1)
    known = ensemble.notnull().values
    assert (known[0] == known[1]).all()
    assert not known[..., -3:, :].any()
    first, second = ensemble.values
    assert abs(first[known[0]] - second[known[1]]).max() > 0
