import json
import os
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from ocf_layout import inputs, ocf_state
from safetensors.torch import load_file, save_file

from data_prep.schema import RefusedInput
from nowcast.cli import main
from nowcast.forecaster import member_seed
from nowcast.forecasters.load import load_forecaster
from nowcast.model import Generator
from nowcast.ocf import import_ocf
from nowcast.weights import save_weights

PEER = np.load(Path(__file__).with_name("data") / "ocf_peer.npz")
"""What the port itself makes of `ocf_state` and `inputs`; see make_ocf_fixture.py."""
NARROW = {"context": 48, "latent": 96, "noise": 2}
METADATA = {"format": "pt"}
ORIGINAL = "sampler.convGRU2.cell.output_conv.parametrizations.weight.original"
PLAIN = "latent_stack.l_block2.last_conv_3x3.weight"


def as_saved(state: dict) -> dict:
    """As the port's save_pretrained names things: aliases once, under either name; discriminators too."""
    names = {name if name.startswith("conditioning") else f"generator.{name}": name for name in state}
    critic = {"discriminator.spatial_discriminator.fc.bias": torch.zeros(1)}
    return {**{new: state[name] for new, name in names.items()}, **critic}


def as_trained(state: dict) -> dict:
    """All aliases, as in a state_dict of the port."""
    return {**state, **{f"generator.{name}": value for name, value in state.items()}}


def alone(state: dict, component: str) -> dict:
    beginning = f"{component}."
    return {
        name.removeprefix(beginning): value for name, value in state.items() if name.startswith(beginning)
    }


def assert_same(first: Generator, second: Generator) -> None:
    assert first.config == second.config
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def distance(output: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference at the cells kept, relative to the largest value."""
    return float(np.abs(output[..., ::3, ::3].numpy() - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The whole way at full size: what the command printed and the forecaster of its weights file."""
    folder = tmp_path_factory.mktemp("ocf")
    source, weights = folder / "model.safetensors", folder / "weights.safetensors"
    save_file(as_saved(ocf_state(seed=int(PEER["seed"]))), source, metadata=METADATA)
    with redirect_stdout(StringIO()) as printed:
        status = main(["import-ocf", str(source), "--output", str(weights)])
    source.unlink()
    forecaster = load_forecaster(weights)
    weights.unlink()
    return status, printed.getvalue(), weights, forecaster


@pytest.fixture(scope="module")
def narrow():
    return ocf_state(seed=3, **NARROW)


@pytest.fixture(scope="module")
def reference(narrow, tmp_path_factory):
    path = tmp_path_factory.mktemp("ocf") / "narrow.safetensors"
    save_file(narrow, path)
    generator = import_ocf([path])[0]
    path.unlink()
    return generator


@pytest.fixture(autouse=True)
def _no_files_stay(tmp_path):
    yield
    shutil.rmtree(tmp_path)


# What works


def test_the_command_prints_the_file_and_the_parameters_without_those_that_the_port_never_uses(imported):
    status, printed, weights, _ = imported
    assert status == 0
    assert printed == f"{weights}: {53_566_957 - 784_800:,} parameters\n"


def test_an_imported_network_gives_what_the_port_gives(imported):
    generator = imported[-1].generator
    context, z = inputs(int(PEER["seed"]), 64)
    np.testing.assert_array_equal(z, PEER["z"])
    with torch.no_grad():
        output = generator(context, z[None])
        other = generator(context, inputs(8, 64)[1][None])
    assert distance(output, PEER["output"]) < 1e-4
    assert distance(other, PEER["output"]) > 0.1


def test_the_forecaster_gives_the_output_of_the_network_where_a_radar_would_see_it(imported, make_rain):
    forecaster = imported[-1]
    context = make_rain(4)
    forecast = forecaster.forecast(context, lead_steps=18, members=1, seed=5)
    noise = torch.Generator().manual_seed(member_seed(5, context["time"].values[-1], 0))
    z = torch.randn(1, 8, 2, 2, generator=noise)
    with torch.no_grad():
        output = forecaster.generator(torch.from_numpy(context.values).float()[None, :, None], z)
    least = context.values[context.values > 0].min()
    assert (output < least).any()
    expected = output[0, :, 0].where(output[0, :, 0] >= least, 0)
    np.testing.assert_allclose(forecast.values[0], expected, rtol=1e-4, atol=1e-4)


def test_the_card_says_where_the_weights_came_from(narrow, tmp_path):
    save_file(narrow, tmp_path / "a.safetensors")
    card = import_ocf([tmp_path / "a.safetensors"], grid_spacing=2000, time_step_minutes=15)[1]
    assert (card["transform"], card["output"], card["frame"]) == ("rain_rate", "rain", "fixed")
    assert (card["grid_spacing"], card["time_step_minutes"]) == (2000, 15)
    assert card["generator"]["frame_channels"] == card["generator"]["frame_hidden_channels"] == [3, 6, 12, 24]
    assert card["generator"]["upsample_hidden_channels"] == [12, 24, 48, 96]
    (source,) = card["source"]
    assert source["file"] == "a.safetensors"
    assert len(source["sha256"]) == 64


def test_bin_files_with_all_aliases_are_read(narrow, reference, tmp_path):
    torch.save(as_trained(narrow), tmp_path / "pytorch_model.bin")
    assert_same(import_ocf([tmp_path / "pytorch_model.bin"])[0], reference)


def test_lightning_checkpoints_and_the_lead_times_in_them_are_read(narrow, reference, tmp_path):
    wrapped = {f"model.module.{name}": value for name, value in as_saved(narrow).items()}
    settings = {"forecast_steps": 12, "beta1": 0.0}
    torch.save({"epoch": 3, "state_dict": wrapped, "hyper_parameters": settings}, tmp_path / "last.ckpt")
    generator = import_ocf([tmp_path / "last.ckpt"])[0]
    assert generator.config["lead_steps"] == 12
    assert_same(import_ocf([tmp_path / "last.ckpt"], lead_steps=18)[0], reference)


def test_snapshots_of_a_hub_are_read_with_the_lead_times_of_their_configuration(narrow, tmp_path):
    save_file(as_saved(narrow), tmp_path / "model.safetensors", metadata=METADATA)
    (tmp_path / "config.json").write_text(json.dumps({"forecast_steps": 6, "latent_channels": 96}))
    assert import_ocf([tmp_path])[0].config["lead_steps"] == 6


def test_components_alone_are_put_together(narrow, reference, tmp_path):
    parts = ("sampler", "latent_stack", "conditioning_stack")
    for part in parts:
        save_file(alone(narrow, part), tmp_path / part)
    assert_same(import_ocf([tmp_path / part for part in parts])[0], reference)


def test_all_names_may_begin_with_generator(narrow, reference, tmp_path):
    save_file({f"generator.{name}": value for name, value in narrow.items()}, tmp_path / "a")
    assert_same(import_ocf([tmp_path / "a"])[0], reference)


def test_weights_without_a_spectral_norm_are_taken_as_they_are(narrow, reference, tmp_path):
    state = {name: value for name, value in narrow.items() if ".parametrizations." not in name}
    for name, value in narrow.items():
        module, _, leaf = name.partition(".parametrizations.weight.")
        if leaf == "original":
            u, v = (narrow[f"{module}.parametrizations.weight.0._{vector}"].double() for vector in "uv")
            state[f"{module}.weight"] = (value.double() / (u @ value.double().flatten(1) @ v)).float()
    save_file(state, tmp_path / "folded")
    assert_same(import_ocf([tmp_path / "folded"])[0], reference)


def test_export_writes_the_same_network(reference, tmp_path, capsys):
    card = {
        "generator": reference.config, "transform": "rain_rate", "output": "rain", "frame": "fixed",
        "channels": "rain", "grid_spacing": 1000.0, "time_step_minutes": 5.0, "package_version": "0",
    }  # fmt: skip
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_weights(first, reference, card)
    assert main(["export", str(first), "--output", str(second)]) == 0
    assert capsys.readouterr().out.startswith(f"{second}: 8")
    one, other = load_file(first), load_file(second)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load_forecaster(second).card == card

    about = tmp_path / "about.yaml"
    about.write_text("spacing_range_km: [2.5, 0.4]\n")
    third = tmp_path / "c.safetensors"
    assert main(["export", str(first), "--output", str(third), "--about", str(about)]) == 1
    assert "spacing_range_km of a card" in capsys.readouterr().err
    assert not third.exists()


# What is refused


@pytest.fixture
def refused(tmp_path):
    """A file with this content is refused with these words."""

    def check(state: dict, words: str, **options) -> None:
        save_file(state, tmp_path / "a.safetensors")
        with pytest.raises(RefusedInput, match=words):
            import_ocf([tmp_path / "a.safetensors"], **options)

    return check


def test_a_missing_component_is_named_with_what_there_was(narrow, refused):
    parts = {name: value for name, value in narrow.items() if not name.startswith("latent_stack")}
    refused(parts, r"no latent_stack, but conditioning_stack\.conv1\.bias, .* and \d+ more; give")
    refused(alone(narrow, "sampler"), "no conditioning_stack, no latent_stack, but sampler")
    refused({"discriminator.fc.bias": torch.zeros(1)}, "but nothing of the generator")


def test_foreign_names_are_refused(narrow, refused):
    refused({"encoder.weight": torch.zeros(3)}, "a.safetensors with encoder.weight; leave it out")
    refused({**narrow, "sampler.g5.bn1.weight": torch.zeros(3)}, "sampler.g5.bn1.weight is unknown")
    refused({**narrow, "ema.decay": torch.zeros(1)}, "ema.decay is unknown")


@pytest.mark.parametrize(
    "name", [PLAIN, ORIGINAL, ORIGINAL.replace("original", "0._u"), "sampler.bn.running_var"]
)
def test_a_missing_weight_is_named(narrow, refused, name):
    missing = ORIGINAL.replace("parametrizations.weight.original", "weight") if name == ORIGINAL else name
    refused({key: value for key, value in narrow.items() if key != name}, f"came: {missing} is missing")


def test_wrong_shapes_are_refused(narrow, refused):
    refused(
        {**narrow, PLAIN: narrow[PLAIN][:, 1:].clone()}, rf"{PLAIN} has shape \(6, 5, 3, 3\), not \(6, 6,"
    )
    refused({**narrow, ORIGINAL: narrow[ORIGINAL][1:].clone()}, rf"{ORIGINAL} has shape")
    first = "latent_stack.l_block1.first_conv_3x3.weight"
    refused({**narrow, first: torch.zeros(3)}, rf"{first} is of shape \(3,\)")


def test_weights_of_a_network_that_cannot_be_built_are_refused(narrow, refused):
    first = "latent_stack.l_block1.first_conv_3x3.weight"
    refused({**narrow, first: torch.zeros(1, 2, 3, 3)}, "an L-block cannot narrow")
    refused(narrow, "lead_steps must be positive", lead_steps=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [PLAIN, ORIGINAL, ORIGINAL.replace("original", "0._v")])
def test_weights_that_are_not_finite_are_refused(narrow, refused, name, value):
    broken = narrow[name].clone()
    broken[0] = value
    refused({**narrow, name: broken}, f"weights are finite; came: {name} is not")


def test_a_singular_value_of_0_is_refused(narrow, refused):
    refused({**narrow, ORIGINAL: torch.zeros_like(narrow[ORIGINAL])}, f"came: {ORIGINAL} is not")


def test_two_values_of_one_weight_are_refused(narrow, refused):
    refused({**narrow, f"generator.{PLAIN}": narrow[PLAIN] + 1}, f"two values of {PLAIN}")
    refused({**narrow, f"generator.{PLAIN}": narrow[PLAIN].half()}, f"two values of {PLAIN}")


def test_files_that_do_not_agree_on_lead_times_are_refused(narrow, tmp_path):
    for part, steps in (("sampler", 18), ("latent_stack", 12)):
        (tmp_path / part).mkdir()
        save_file(alone(narrow, part), tmp_path / part / "model.safetensors")
        (tmp_path / part / "config.json").write_text(json.dumps({"forecast_steps": steps}))
    rest = tmp_path / "rest.safetensors"
    save_file(alone(narrow, "conditioning_stack"), rest)
    with pytest.raises(RefusedInput, match=r"came: \[18, 12\]; give --lead_steps"):
        import_ocf([tmp_path / "sampler", tmp_path / "latent_stack", rest])


def test_a_configuration_that_is_none_is_refused(narrow, refused, tmp_path):
    (tmp_path / "config.json").write_text("forecast_steps: 18")
    refused(narrow, "config.json beside the weights")
    (tmp_path / "config.json").write_text('{"forecast_steps": "many"}')
    refused(narrow, "lead_steps must be positive")


@pytest.mark.parametrize("options", [{"grid_spacing": 0.0}, {"time_step_minutes": float("nan")}])
def test_a_grid_without_size_is_refused(options, refused):
    refused({}, "are above 0", **options)


def test_truncated_files_are_refused(narrow, tmp_path):
    save_file(narrow, tmp_path / "whole.safetensors")
    torch.save(narrow, tmp_path / "whole.bin")
    for name in ("whole.safetensors", "whole.bin"):
        os.truncate(tmp_path / name, 1_000_000)
        with pytest.raises(RefusedInput, match="fetch the file anew"):
            import_ocf([tmp_path / name])


def test_other_files_are_refused(tmp_path):
    for name, content in (("text.ckpt", "weights of a network"), ("empty.safetensors", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(RefusedInput, match="neither safetensors nor written by"):
            import_ocf([tmp_path / name])
    for content in (torch.zeros(3), {"state_dict": {"epoch": 3}}, {"state_dict": 3}):
        torch.save(content, tmp_path / "a.bin")
        with pytest.raises(RefusedInput, match="save its state_dict alone"):
            import_ocf([tmp_path / "a.bin"])


def test_what_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "nothing.bin", tmp_path):
        with pytest.raises(
            RefusedInput, match="a file, or a folder with model.safetensors or pytorch_model.bin"
        ):
            import_ocf([path])


class Malice:
    def __reduce__(self):
        return (open, ("stolen.txt", "w"))


def test_pickled_code_is_refused_and_does_not_run(narrow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": narrow, "callbacks": Malice()}, tmp_path / "evil.ckpt")
    with pytest.raises(RefusedInput, match="more than plain values and tensors"):
        import_ocf([tmp_path / "evil.ckpt"])
    assert not (tmp_path / "stolen.txt").exists()


def test_the_command_refuses_in_one_line_and_leaves_nothing(narrow, tmp_path, capsys):
    save_file(alone(narrow, "sampler"), tmp_path / "a.safetensors")
    options = ["--output", str(tmp_path / "weights.safetensors")]
    assert main(["import-ocf", str(tmp_path / "a.safetensors"), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("nowcast import-ocf: the files hold ")
    assert error.count("\n") == 1
    assert not (tmp_path / "weights.safetensors").exists()
