import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_run import small

from data_prep.schema import RefusedInput
from nowcast.forecasters.load import load_forecaster
from nowcast.weights import CARD, load_network, read_about, save_weights

ROOT = Path(__file__).resolve().parents[2]

DATA = {"grid_spacing": 1000.0, "time_step_minutes": 5.0, "package_version": "0"}


@pytest.fixture
def network():
    model = small()
    card = {"generator": model.generator.config, **model.representation.card(), **DATA}
    return model.generator.eval(), card


@pytest.fixture
def file(network, tmp_path):
    save_weights(tmp_path / "small.safetensors", *network)
    return tmp_path / "small.safetensors"


def test_weights_come_back_with_their_card_and_forecast_the_same(network, file):
    generator, card = network
    loaded, read = load_network(file)
    context, z = torch.rand(1, 4, 1, 16, 24), torch.randn(1, *generator.latent_shape(16, 24))
    torch.testing.assert_close(loaded(context, z), generator(context, z))
    assert read == json.loads(json.dumps(card))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_weights_file_is_a_forecaster(file, make_rain):
    forecast = load_forecaster(file).forecast(make_rain(6), members=2)
    assert forecast.attrs["model"] == "small"
    assert forecast.sizes["realization"] == 2


def test_loading_weights_leaves_the_random_numbers_alone(file):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_network(file)
    assert torch.equal(torch.rand(3), expected)


def test_weights_files_hold_tensors_and_text_alone(file):
    with safe_open(file, framework="pt") as opened:
        assert set(opened.metadata()) == {CARD}
        assert not any("parametrizations" in name for name in opened.keys())  # noqa: SIM118


def break_file(file, how):
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "no card":
        save_file(tensors, file)
    elif how == "not finite":
        tensors["sampler.norm.weight"][0] = torch.nan
        save_file(tensors, file, metadata)
    elif how == "lacking":
        tensors.popitem()
        save_file(tensors, file, metadata)
    elif how == "other sizes":
        card = json.loads(metadata[CARD])
        card["generator"]["conditioning_channels"] = [4, 8]
        save_file(tensors, file, {CARD: json.dumps(card)})


@pytest.mark.parametrize("how", ["truncated", "no card", "not finite", "lacking", "other sizes"])
def test_broken_weights_are_refused(file, how):
    break_file(file, how)
    with pytest.raises(RefusedInput, match="model weights were written by nowcast"):
        load_network(file)


def test_weights_go_to_a_safetensors_file(network, tmp_path):
    with pytest.raises(RefusedInput, match="safetensors"):
        save_weights(tmp_path / "small.pt", *network)


@pytest.mark.parametrize("spacing", [float("nan"), 0, -1000.0, "1000", None, True])
def test_a_card_without_a_grid_spacing_is_refused(network, tmp_path, spacing):
    generator, card = network
    with pytest.raises(RefusedInput, match="a card names networks"):
        save_weights(tmp_path / "small.safetensors", generator, {**card, "grid_spacing": spacing})
    assert not (tmp_path / "small.safetensors").exists()


def test_a_card_takes_further_entries_from_a_file_and_keeps_its_own(tmp_path):
    path = tmp_path / "about.yaml"
    path.write_text("title: ours\nspacing_range_km: [0.5, 2]\n")
    assert read_about(path) == {"title": "ours", "spacing_range_km": [0.5, 2]}
    for text, message in (("- a\n", "YAML mapping"), ("a: [\n", "YAML mapping"), ("frame: fixed\n", "stays")):
        path.write_text(text)
        with pytest.raises(RefusedInput, match=message):
            read_about(path)
    with pytest.raises(RefusedInput, match="YAML mapping"):
        read_about(tmp_path / "none.yaml")


def test_the_shipped_card_can_be_added():
    assert read_about(ROOT / "configs/card/pretrained.yaml")["license"] == "Apache-2.0"
