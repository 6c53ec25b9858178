import pytest
import torch

from nowcast import demo, weights
from nowcast.model import Generator
from nowcast.products.forecast_file import read_forecast
from nowcast.weights import save_weights

CARD = {
    "transform": "square_root", "output": "residual", "frame": "comoving", "channels": "rain_and_mask",
    "grid_spacing": 1000.0, "time_step_minutes": 5.0, "package_version": "0",
}  # fmt: skip


@pytest.fixture
def weights_file(tmp_path):
    """A small untrained network."""
    torch.manual_seed(0)
    sizes = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12)}
    generator = Generator(**sizes, input_channels=2, drift=True)
    path = tmp_path / "pretrained.safetensors"
    save_weights(path, generator, {**CARD, "generator": generator.config})
    return path


def test_the_demo_compares_the_shipped_network_and_draws_its_forecast(
    store, weights_file, tmp_path, monkeypatch, capsys
):
    asked = []

    def verify(settings):
        asked.append(settings)
        return "the table", ["a finding"]

    monkeypatch.setattr(demo, "make_store", lambda path, seed: store)  # noqa: ARG005
    monkeypatch.setattr(demo, "train", lambda *_, **__: weights_file)
    monkeypatch.setattr(demo, "verify_store", verify)
    monkeypatch.setattr(demo, "animate", lambda mean, path, title: path.write_text(title))  # noqa: ARG005
    monkeypatch.setattr(weights, "pretrained_path", lambda: weights_file)
    demo.run_demo(tmp_path / "demo", members=2, cases=1)
    (settings,) = asked
    assert settings.reference == "persistence"
    assert settings.model == ["extrapolation", f"tiny={weights_file}", "pretrained"]
    assert settings.part == "test"
    made = read_forecast(tmp_path / "demo/forecast.nc")
    assert made.attrs["model"] == "pretrained"
    assert made.sizes == {"realization": 2, "lead_time": 18, "y": 64, "x": 64}
    assert (tmp_path / "demo/panel.png").stat().st_size > 5000
    assert (tmp_path / "demo/loop.gif").read_text() == "pretrained on synthetic radar, ensemble mean"
    told = capsys.readouterr().out
    assert "the table\na finding" in told
    assert str(tmp_path / "demo/panel.png") in told
