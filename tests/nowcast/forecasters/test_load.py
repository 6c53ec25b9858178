import pytest
import torch

from data_prep.schema import RefusedInput
from nowcast import weights
from nowcast.evaluation.verify_store import StoreVerification, verify_store
from nowcast.forecasters import load
from nowcast.forecasters.load import load_forecaster, load_forecasters
from nowcast.model import Discriminator, Generator
from nowcast.training.cli import training_cli
from nowcast.training.gan import NowcastGAN
from nowcast.weights import load_network, save_weights

SIZES = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12)}
CRITICS = {"spatial_channels": (4, 8, 8), "temporal_channels": (4, 8, 8), "spatial_frames": 4}
CARD = {
    "transform": "square_root", "output": "residual", "frame": "comoving", "channels": "rain_and_mask",
    "grid_spacing": 1000.0, "time_step_minutes": 5.0, "package_version": "0",
}  # fmt: skip


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A small untrained network in place of the one that is shipped."""
    torch.manual_seed(0)
    generator = Generator(**SIZES, input_channels=2, drift=True)
    path = tmp_path / "pretrained.safetensors"
    save_weights(path, generator, {**CARD, "generator": generator.config})
    monkeypatch.setattr(weights, "pretrained_path", lambda: path)
    return path


# By name


@pytest.mark.usefixtures("shipped")
def test_the_shipped_network_is_what_is_loaded_if_nothing_else_is_asked_for(make_rain):
    forecaster = load_forecaster()
    assert forecaster.name == load_forecaster("pretrained").name == load.PRETRAINED == weights.PRETRAINED
    made = forecaster.forecast(make_rain(4), members=2, lead_steps=3)
    assert made.attrs["model"] == "pretrained"
    assert made.sizes["realization"] == 2


def test_the_shipped_network_stands_beside_others(shipped):
    names = load_forecasters(["persistence", "pretrained", f"mine={shipped}"])
    assert list(names) == ["persistence", "pretrained", "mine"]
    assert names["pretrained"].provenance()["checkpoint"] == names["mine"].provenance()["checkpoint"]


def test_no_other_model_has_its_name(shipped):
    own = shipped.with_name("own.safetensors")
    own.write_bytes(shipped.read_bytes())
    with pytest.raises(RefusedInput, match="pretrained is the model of that name"):
        load_forecasters([f"pretrained={own}"])
    with pytest.raises(RefusedInput, match="different names; came: pretrained twice"):
        load_forecasters(["pretrained", str(shipped)])


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(RefusedInput, match="a model is one of pretrained, persistence, .*; came: pretraned"):
        load_forecaster("pretraned")


def test_an_installation_without_the_shipped_network_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path / package)  # noqa: ARG005
    with pytest.raises(RefusedInput, match=r"the package holds its weights; came: no .*; install") as refusal:
        load_forecaster("pretrained")
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("shipped")
def test_verification_takes_the_shipped_network_if_no_model_is_named(store, tmp_path):
    settings = StoreVerification(
        store=str(store), output=str(tmp_path / "s"), stride=20, members=2, lead_steps=2, maps=0
    )
    assert settings.models == ["pretrained"]
    table, found = verify_store(settings)
    assert not found
    assert "pretrained" in table
    assert StoreVerification(model=["persistence"], store="", output="").models == ["persistence"]


# As the start of a training


def starting_from(path, *words: str) -> NowcastGAN:
    generator, discriminator = "--model.generator.init_args", "--model.discriminator.init_args"
    options = [
        "--model.generator=nowcast.model.Generator",
        f"{generator}.conditioning_channels=[4,6]",
        f"{generator}.latent_channels=[8,8,12]",
        f"{generator}.input_channels=2",
        f"{generator}.drift=true",
        "--model.discriminator=nowcast.model.Discriminator",
        f"{discriminator}.spatial_channels=[4,8,8]",
        f"{discriminator}.temporal_channels=[4,8,8]",
        "--model.transform=square_root",
        "--model.output=residual",
        "--model.frame=comoving",
        "--model.channels=rain_and_mask",
        "--data=nowcast.training.datamodule.RadarDataModule",
        "--data.store=",
    ]
    return training_cli([*options, *words, "--init", str(path)], run=False).model


@pytest.mark.parametrize("name", ["pretrained", "file"])
def test_a_training_starts_with_the_very_function_of_the_weights(shipped, name):
    trained = load_network(shipped)[0]
    started = starting_from(shipped if name == "file" else name).generator
    assert any("parametrizations" in weight for weight in started.state_dict())  # it learns
    context, z = torch.rand(2, 4, 2, 32, 48), torch.randn(2, *trained.latent_shape(32, 48))
    with torch.no_grad():
        expected, states = trained(context, z), trained.encode(context)
        torch.testing.assert_close(started.eval()(context, z), expected, rtol=1e-4, atol=1e-4)
        errors = [network.velocity_error(states, z, size=(32, 48)) for network in (started, trained)]
    torch.testing.assert_close(*errors, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 1e-3
    torch.manual_seed(1)
    other = Generator(**SIZES, input_channels=2, drift=True).eval()
    assert not torch.allclose(other(context, z), expected, atol=1e-2)


def test_weights_of_other_sizes_do_not_start_a_training(shipped):
    words = "--model.generator.init_args.conditioning_channels=[4,8]"
    with pytest.raises(RefusedInput, match=r"a network of other sizes; came: .*4, 8.*4, 6") as refusal:
        starting_from(shipped, words)
    assert "\n" not in str(refusal.value)
    with pytest.raises(RefusedInput, match="other sizes"):
        NowcastGAN(Generator(**SIZES), Discriminator(**CRITICS), init=str(shipped))


def test_a_file_that_is_not_there_does_not_start_a_training(tmp_path):
    with pytest.raises(RefusedInput, match="model weights were written by nowcast"):
        starting_from(tmp_path / "nothing.safetensors")
