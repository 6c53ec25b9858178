import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from training_run import Gradients

from data_prep.schema import RefusedInput, open_radar
from nowcast.evaluation.cases import context_at
from nowcast.forecaster import member_seed
from nowcast.forecasters.gan_forecaster import GANForecaster, _box, decode, encode
from nowcast.forecasters.load import load_forecaster
from nowcast.model import Discriminator, Generator
from nowcast.representation import Representation
from nowcast.training.batch import Draws, TrainingBatch
from nowcast.training.callbacks import CasePictures, GeneratorAverage
from nowcast.training.datamodule import RadarDataModule
from nowcast.training.gan import NowcastGAN
from nowcast.weights import CARD

SIZES = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": 18}
CRITICS = {"spatial_channels": (4, 8, 8), "temporal_channels": (4, 8, 8), "spatial_frames": 4}


def network(**settings) -> NowcastGAN:
    torch.manual_seed(0)
    options = {"samples": 2, "generator_lr": 1e-3, "transform": "square_root", **settings}
    return NowcastGAN(Generator(**SIZES), Discriminator(**CRITICS), **options)


def fit(
    model: NowcastGAN, store, *, steps: int = 6, precision: str = "32-true", callbacks=(), root=None, **resume
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1, num_sanity_val_steps=0,
        callbacks=list(callbacks), default_root_dir=root,
    )  # fmt: skip
    data = RadarDataModule(str(store), batch_size=2, samples_per_epoch=8, validation_samples=2)
    trainer.fit(model, datamodule=data, **resume)
    return trainer


def snapshot(module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def changed(before, module) -> bool:
    return any(not torch.equal(before[name], value) for name, value in module.named_parameters())


@pytest.fixture(scope="module")
def checkpoint(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("gan") / "small.ckpt"
    fit(network(), store, steps=6).save_checkpoint(path)
    return path


def test_the_generator_learns_after_every_second_batch_and_the_critics_after_each(store):
    model = network()
    before = snapshot(model.generator), snapshot(model.discriminator)
    fit(model, store, steps=1)
    assert not changed(before[0], model.generator)
    assert changed(before[1], model.discriminator)
    assert model.batches_seen == 1
    model = network()
    before = snapshot(model.generator)
    fit(model, store, steps=3)
    assert model.batches_seen == 2
    assert changed(before, model.generator)


def test_training_lowers_the_error_of_the_mean_forecast(store):
    model = network(generator_lr=3e-3, samples=1)
    data = RadarDataModule(str(store), batch_size=8, samples_per_epoch=8)
    data.setup()
    batch = next(iter(data.train_dataloader()))

    def error() -> float:
        context = torch.where(batch["mask"], batch["rain"], torch.nan)[:, :4, 0]
        rain = model.train().ensemble(context, 1, seed=1)[0]
        return float((rain - batch["rain"][:, 4:, 0])[batch["mask"][:, 4:, 0] & rain.isfinite()].abs().mean())

    before = error()
    fit(model, store, steps=105)
    assert error() < 0.8 * before


def windows(batch: int = 2, size: int = 32, *, representation=None, seed: int = 0) -> TrainingBatch:
    rain = torch.rand(batch, 22, 1, size, size, generator=torch.Generator().manual_seed(seed))
    given = {"rain": rain, "mask": torch.ones_like(rain, dtype=torch.bool)}
    return TrainingBatch.of(given, representation or Representation(), context_frames=4, lead_steps=18)


def draws(model: NowcastGAN, of: TrainingBatch, *, samples: int, seed: int = 0, **share) -> Draws:
    return Draws.of(
        of, samples=samples, latent_shape=model.generator.latent_shape(*of.mask.shape[-2:]),
        spatial_frames=4, noise=torch.Generator().manual_seed(seed), **share,
    )  # fmt: skip


def test_samples_of_one_context_differ_and_keep_their_order():
    model, batch = network(), windows()
    futures = model._futures(batch, draws(model, batch, samples=3))
    assert futures.shape == (3, 2, 18, 1, 32, 32)
    assert not torch.equal(futures[0, 0], futures[1, 0])


def test_processes_draw_together_what_one_would_draw_for_all():
    model, batch = network(), windows(4)
    whole = draws(model, batch, samples=3)
    shares = [draws(model, windows(2), samples=3, rank=rank, world_size=2) for rank in (0, 1)]
    for rank, share in enumerate(shares):
        torch.testing.assert_close(share.z, whole.z[rank::2])
        assert torch.equal(share.frames, whole.frames[rank::2])
        assert share.crop == whole.crop


def test_missing_cells_tell_the_critics_nothing():
    model, batch = network(), windows()
    batch.mask[..., 10:20] = False
    future = torch.rand(2, 18, 1, 32, 32)
    other = torch.where(batch.mask, future, 99.0)
    first, second = model._judge(batch, draws(model, batch, samples=1), future, other)
    torch.testing.assert_close(first, second)


def test_training_in_bf16_keeps_finite_weights(store):
    model = network()
    fit(model, store, steps=3, precision="bf16-mixed")
    assert all(value.isfinite().all() for value in model.parameters())


def test_the_same_seed_trains_the_same_network(store):
    weights = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        model = network()
        pl.seed_everything(4, verbose=False)
        fit(model, store, steps=3)
        weights.append(snapshot(model.generator))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validation_gives_the_crps_beside_that_of_persistence(store):
    model = network()
    trainer = fit(model, store, steps=12)
    assert trainer.callback_metrics["val/crps"] > 0
    assert trainer.callback_metrics["val/crps_persistence"] > 0


def test_windows_too_short_for_the_network_are_refused(store):
    torch.manual_seed(0)
    model = NowcastGAN(Generator(**{**SIZES, "lead_steps": 30}), Discriminator(**CRITICS))
    with pytest.raises(RefusedInput, match="a window holds 34 frames"):
        fit(model, store, steps=1)


def test_a_checkpoint_says_what_it_is_in_plain_values(checkpoint):
    card = torch.load(checkpoint, weights_only=True)[CARD]
    assert card["transform"] == "square_root"
    assert card["grid_spacing"] == 1000.0
    assert card["time_step_minutes"] == 5.0
    assert Generator(**card["generator"]).config == card["generator"]


def test_training_goes_on_from_a_checkpoint(checkpoint, store):
    model = network()
    fit(model, store, steps=9, ckpt_path=checkpoint, weights_only=True)
    assert model.batches_seen == 6


def test_a_checkpoint_of_another_transform_is_not_continued(checkpoint, store):
    with pytest.raises(RefusedInput, match="transform square_root; came: rain_rate"):
        fit(network(transform="rain_rate"), store, steps=9, ckpt_path=checkpoint, weights_only=True)


def test_a_checkpoint_of_another_spacing_is_not_continued(checkpoint, make_store, make_rain):
    other = make_store(rain=make_rain(60, spacing=2000.0))
    with pytest.raises(RefusedInput, match="grid spacing of 1000 m; came: 2000 m"):
        fit(network(), other, steps=9, ckpt_path=checkpoint, weights_only=True)


def test_members_differ_and_a_member_is_the_same_however_many_are_made(checkpoint, store):
    forecaster = load_forecaster(checkpoint)
    context = context_at(open_radar(store), open_radar(store)["time"].values[10], 4)
    three = forecaster.forecast(context, lead_steps=5, members=3, seed=7)
    one = forecaster.forecast(context, lead_steps=5, members=1, seed=7)
    np.testing.assert_array_equal(three.values[0], one.values[0])
    assert not np.array_equal(three.values[0], three.values[1], equal_nan=True)
    assert forecaster.provenance()["checkpoint"] == three.attrs["checkpoint"]
    assert (three.values[np.isfinite(three.values)] >= 0).all()


def test_no_data_of_the_last_frame_is_carried_to_the_forecast(checkpoint, store):
    context = context_at(open_radar(store), open_radar(store)["time"].values[10], 4)
    values = load_forecaster(checkpoint).forecast(context, lead_steps=2, members=2).values
    np.testing.assert_array_equal(np.isnan(values[1, 1]), np.isnan(context.values[-1]))


def test_data_that_the_network_was_not_trained_on_are_refused(checkpoint, make_rain):
    forecaster = load_forecaster(checkpoint)
    with pytest.raises(RefusedInput, match="grid spacing of 1000 m; came: 2000 m"):
        forecaster.forecast(make_rain(6, spacing=2000.0))
    with pytest.raises(RefusedInput, match="frames every 5 min; came: every 10 min"):
        forecaster.forecast(make_rain(6, step=np.timedelta64(10, "m")))
    with pytest.raises(RefusedInput, match="up to 18 steps"):
        forecaster.forecast(make_rain(6), lead_steps=19)


def test_a_checkpoint_with_an_unknown_transform_is_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content[CARD]["transform"] = "logarithm"
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(RefusedInput, match="came: logarithm"):
        load_forecaster(tmp_path / "other.ckpt")


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("weights")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for name in ("text.ckpt", "foreign.ckpt"):
        with pytest.raises(RefusedInput, match=r"written by nowcast train"):
            load_forecaster(tmp_path / name)
    with pytest.raises(RefusedInput, match="a model is one of"):
        load_forecaster("persistance")


class Malice:
    def __reduce__(self):
        return (open, ("stolen.txt", "w"))


def test_a_checkpoint_with_code_in_it_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({CARD: Malice()}, tmp_path / "evil.ckpt")
    with pytest.raises(RefusedInput):
        GANForecaster.from_file(tmp_path / "evil.ckpt")
    assert not (tmp_path / "stolen.txt").exists()


def test_a_forecast_does_not_run_away_after_a_short_training(checkpoint, store):
    times = open_radar(store)["time"].values
    context = context_at(open_radar(store), times[10], 4)
    forecast = load_forecaster(checkpoint).forecast(context, members=2)
    assert float(forecast.max()) < 100 * float(context.max())


class Spoiler(pl.Callback):
    """Makes one window of one batch unusable."""

    def __init__(self, batch: int, how: str) -> None:
        self.batch, self.how = batch, how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # noqa: ARG002
        if batch_idx == self.batch:
            if self.how == "nan":
                batch["rain"][0, 6, 0, 2, 2] = torch.nan
                batch["mask"][0, 6, 0, 2, 2] = True
            elif self.how == "masked":
                batch["mask"][:] = False
            else:
                pl_module.generator.sampler.norm.weight.data[0] = torch.inf


@pytest.mark.parametrize(
    ("how", "message"),
    [("nan", "came: nan mm/h in window 0, frame 6"), ("masked", "an observed cell to learn from")],
)
def test_a_bad_batch_stops_training_and_changes_nothing(store, how, message):
    torch.manual_seed(0)
    model = network()
    states: list[dict] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # noqa: ARG002
            states.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    with pytest.raises(RefusedInput, match=message):
        fit(model, store, steps=20, callbacks=[Watch(), Spoiler(3, how)])
    assert model.batches_seen == 3
    assert all(torch.equal(value, states[-1][name]) for name, value in model.state_dict().items())


def test_what_is_not_finite_is_named_and_changes_no_weight(store):
    model = network()
    with pytest.raises(
        RefusedInput,
        match=r"finite; came: the forecast is not, after 3 batches; the step of the discriminator",
    ):
        fit(model, store, steps=20, callbacks=[Spoiler(3, "weight")])
    others = {
        name: value for name, value in model.named_parameters() if name != "generator.sampler.norm.weight"
    }
    assert all(value.isfinite().all() for value in others.values())


def test_a_gradient_that_is_not_finite_is_named_with_its_parameter(store):
    model = network()
    model.discriminator.temporal.head.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(RefusedInput, match=r"gradient of discriminator.temporal.head.weight is not"):
        fit(model, store, steps=20)
    assert model.batches_seen == 0


def test_every_generator_parameter_gets_a_gradient_in_bf16(store):
    model = network()
    for module in model.modules():
        if hasattr(module, "gamma"):
            torch.nn.init.constant_(module.gamma, 0.5)
    gradients = Gradients()
    fit(model, store, steps=3, precision="bf16-mixed", callbacks=[gradients])
    for name, _ in model.generator.named_parameters(prefix="generator"):
        assert name in gradients.last
        assert gradients.last[name].ndim == 1 or gradients.last[name].any(), name


@pytest.mark.parametrize("representation", [
    {"transform": "square_root", "output": "residual", "frame": "comoving"},
    {"transform": "rain_rate", "regularizer": "normalized_crps"},
    {"transform": "square_root", "regularizer": "crps", "gradient_checkpointing": True, "micro_batches": 2},
])  # fmt: skip
def test_every_way_of_training_trains_and_forecasts(store, tmp_path, representation):
    model = network(**representation)
    before = snapshot(model.generator)
    fit(model, store, steps=6).save_checkpoint(tmp_path / "way.ckpt")
    assert changed(before, model.generator)
    radar = open_radar(store)
    context = context_at(radar, radar["time"].values[10], 4)
    forecast = load_forecaster(tmp_path / "way.ckpt").forecast(context, lead_steps=4, members=2)
    known = forecast.values[np.isfinite(forecast.values)]
    assert known.size > 0.5 * forecast.size
    assert (known >= 0).all()


def test_training_validation_and_service_see_the_same_rain(store, tmp_path):
    model = network(output="residual", frame="comoving")
    fit(model, store, steps=3).save_checkpoint(tmp_path / "one.ckpt")
    radar = open_radar(store)
    context = context_at(radar, radar["time"].values[10], 4)
    forecaster = load_forecaster(tmp_path / "one.ckpt")
    served = forecaster.forecast(context, members=1, seed=0).values[0]
    box = (slice(None), *_box(np.isfinite(context.values).any(axis=0)))
    frames = torch.from_numpy(context.values[box])[None].float()
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict(state)
    noise = member_noise(forecaster, context[box])
    encoded = encode(model.generator.eval(), model.representation, frames, lead_steps=18)
    with torch.no_grad():
        parts = decode(model.generator, model.representation, encoded, noise, lead_steps=18, steps_at_once=18)
        own = torch.cat(list(parts), dim=1)[0].numpy()
    least = context.values[context.values > 0].min()
    np.testing.assert_allclose(served[box], np.where(own < least, 0, own), rtol=1e-4, atol=1e-4)


def member_noise(forecaster, context) -> torch.Tensor:
    seed = member_seed(0, context["time"].values[-1], 0)
    shape = forecaster.generator.latent_shape(*context.shape[1:])
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def test_a_checkpoint_of_other_networks_is_not_continued(checkpoint, store):
    torch.manual_seed(0)
    other = NowcastGAN(
        Generator(**{**SIZES, "conditioning_channels": (4, 8)}),
        Discriminator(**CRITICS),
        transform="square_root",
    )
    with pytest.raises(RefusedInput, match=r"generator {'conditioning_channels': \[4, 6\]}"):
        fit(other, store, steps=9, ckpt_path=checkpoint, weights_only=True)


def test_a_truncated_checkpoint_is_refused_as_a_model(checkpoint, tmp_path):
    (tmp_path / "short.ckpt").write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(RefusedInput, match="model weights were written by nowcast"):
        load_forecaster(tmp_path / "short.ckpt")


def test_validation_scores_are_those_of_the_average_network_and_name_everything(store):
    trainer = fit(network(), store, steps=12, callbacks=[GeneratorAverage(decay=0.5)])
    names = {name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/")}
    assert {
        "crps",
        "crps_persistence",
        "crps_skill",
        "csi_1",
        "csi_persistence_1",
        "spectra_distance",
    } <= names
    logged = set(trainer.callback_metrics)
    assert {
        "discriminator/spatial_real_accuracy", "discriminator/temporal_fake_accuracy", "loss/discriminator",
        "loss/adversarial", "loss/generator", "loss/regularizer", "gradient_norm/generator",
        "gradient_norm/discriminator",
    } <= logged  # fmt: skip


def test_the_average_follows_the_steps_of_the_generator(store):
    average = GeneratorAverage(decay=0.9)
    model = network(generator_lr=1e-2)
    weights: list[torch.Tensor] = [model.generator.sampler.output.bias.detach().clone()]

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # noqa: ARG002
            if pl_module.batches_seen % 2 == 0:
                weights.append(pl_module.generator.sampler.output.bias.detach().clone())

    fit(model, store, steps=9, callbacks=[average, Watch()])
    expected = weights[1]  # the first step is taken as it is
    for steps, weight in enumerate(weights[2:], start=1):
        kept = min(0.9, (1 + steps) / (10 + steps))
        expected = kept * expected + (1 - kept) * weight
    torch.testing.assert_close(model.generator.sampler.output.bias.detach(), expected)


def test_a_case_is_drawn_after_validation(store, tmp_path):
    trainer = fit(network(), store, steps=12, callbacks=[CasePictures()], root=tmp_path)
    pictures = list((tmp_path / "pictures").glob("step*.png"))
    assert trainer.current_epoch > 0
    assert pictures
    assert pictures[0].stat().st_size > 5000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "model.samples is 1 or more; came: 0"),
        ({"samples": 1, "regularizer": "crps"}, "model.samples is 2 or more; came: 1"),
        ({"micro_batches": 0}, "model.micro_batches is 1 or more"),
        ({"discriminator_steps": -1}, "model.discriminator_steps is 1 or more"),
        ({"seed": -1}, "seed is 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings, message):
    with pytest.raises(RefusedInput, match=message):
        network(**settings)


def test_networks_of_different_contexts_are_refused_at_once():
    with pytest.raises(RefusedInput, match="one number of context_frames; came: 3 and 4"):
        NowcastGAN(Generator(**SIZES, context_frames=3), Discriminator(**CRITICS))


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"size": 0}, {"samples_per_epoch": -3}, {"workers": -1}]
)
def test_data_settings_that_cannot_be_are_refused_at_once(settings):
    with pytest.raises(RefusedInput, match="or more; came"):
        RadarDataModule("nowhere.zarr", **settings)
