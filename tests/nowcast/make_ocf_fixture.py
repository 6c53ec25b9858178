"""Runs the public port of DGMR itself on made-up weights and keeps what it puts out in data/ocf_peer.npz.

The port is not needed by the tests, only by this program. Into a folder of its own, with its requirements but
torch, torchvision and pytorch_lightning:

    pip install --target PORT --no-deps dgmr==1.4.4 einops pytorch_msssim
    pip install --target PORT huggingface_hub safetensors
    PYTHONPATH=PORT python tests/nowcast/make_ocf_fixture.py
"""

import importlib.machinery
import sys
import types
from pathlib import Path

import numpy as np
import pytorch_lightning  # noqa: F401 (looks for torchvision, so it comes before the stand-in)
import torch
from ocf_layout import inputs, ocf_state

FIXTURE = Path(__file__).with_name("data") / "ocf_peer.npz"
SEED = 7
SIZE = 64
EVERY = 3
"""Rows and columns kept: odd, so that all four cells of a depth-to-space square are among them."""


def port(**settings) -> torch.nn.Module:
    """The port's model in evaluation mode; torchvision, which it only draws with, need not be there."""
    for name in ("torchvision", "torchvision.utils"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules.setdefault(name, module)
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]
    from dgmr import DGMR

    model = DGMR(**settings)
    torch.autograd.set_detect_anomaly(False)
    return model.eval()


def run(model: torch.nn.Module, context: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """What the port makes of a context with this noise, (1, 18, 1, H, W)."""
    model.latent_stack.distribution.sample = lambda _: z[..., None]
    with torch.no_grad():
        return model(context)


def main() -> None:
    model = port(output_shape=SIZE)
    state = ocf_state(seed=SEED)
    own = model.generator.state_dict()
    assert sorted(own) == sorted(state)
    assert all(own[name].shape == value.shape for name, value in state.items())
    model.generator.load_state_dict(state, strict=True)
    context, z = inputs(SEED, SIZE)
    output = run(model, context, z)
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        FIXTURE,
        seed=SEED,
        z=z.numpy(),
        output=output[..., ::EVERY, ::EVERY].numpy(),
    )


if __name__ == "__main__":
    main()
