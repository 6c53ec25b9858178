"""Ready-made sizes: constructor arguments of `Generator` and `Discriminator`, by name of the network."""

from typing import Any

dgmr: dict[str, dict[str, Any]] = {
    "generator": {
        "context_frames": 4,
        "lead_steps": 18,
        "input_channels": 1,
        "output_channels": 1,
        "conditioning_channels": (48, 96, 192, 384),
        "latent_channels": (24, 48, 192, 768),
        "z_channels": 8,
        "frame_channels": None,
    },
    "discriminator": {
        "input_channels": 1,
        "context_frames": 4,
        "spatial_channels": (48, 96, 192, 384, 768, 768),
        "temporal_channels": (48, 96, 192, 384, 768, 768),
        "spatial_frames": 8,
    },
}
"""The network of the paper (DOI 10.1038/s41586-021-03854-z), for crops of 256 x 256 cells: the defaults."""

tiny: dict[str, dict[str, Any]] = {
    "generator": {
        "context_frames": 4,
        "lead_steps": 18,
        "input_channels": 1,
        "output_channels": 1,
        "conditioning_channels": (8, 16, 32),
        "latent_channels": (12, 16, 64),
        "z_channels": 8,
        "frame_channels": None,
    },
    "discriminator": {
        "input_channels": 1,
        "context_frames": 4,
        "spatial_channels": (8, 16, 32, 32, 32),
        "temporal_channels": (8, 16, 32, 32, 32),
        "spatial_frames": 8,
    },
}
"""The same network with a fraction of the width and one level less, for training on a CPU.

Train it on crops of 128 x 128 cells: on 64 x 64 its coarsest features are mostly edge, and forecasts of
larger fields run away.
"""
