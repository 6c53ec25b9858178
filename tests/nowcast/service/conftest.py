from pathlib import Path

import pytest
import torch

from nowcast.model import Generator
from nowcast.weights import save_weights

CARD = {
    "transform": "square_root", "output": "residual", "frame": "comoving", "channels": "rain_and_mask",
    "grid_spacing": 1000.0, "time_step_minutes": 5.0, "spacing_range_km": [0.5, 2.5],
}  # fmt: skip


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> Path:
    """Weights of a network like the one that is shipped, small and untrained."""
    torch.manual_seed(0)
    sizes = {"conditioning_channels": (4, 6), "latent_channels": (8, 8, 12), "lead_steps": 4}
    generator = Generator(**sizes, input_channels=2, drift=True).fold()
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, generator, {**CARD, "generator": generator.config})
    return path
