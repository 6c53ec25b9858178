"""Ready-made sizes by name: constructor arguments of `Generator` and `Discriminator` as plain values.

- `dgmr`: the network of the paper (DOI 10.1038/s41586-021-03854-z) with the widths of its published
  pseudocode, for crops of 256 x 256 cells: what the constructors default to.
- `dgmr-narrow`: the same with half the width where single context frames are read, as several ports have it.
- `dgmr-small`: all channels divided by 4, for one consumer GPU.
- `pretrained`: the network that is shipped, a third of the widths, with all that our generator adds to the
  paper's, and a channel for the mask.
- `tiny`: a sixth of the widths and one level less, for training on a CPU. Train it on crops of 128 x 128
  cells: on 64 x 64 its coarsest features are mostly edge, and forecasts of larger fields run away.
"""

from typing import Any

Preset = dict[str, dict[str, Any]]


def _preset(
    conditioning: tuple[int, ...],
    latent: tuple[int, ...],
    critic: tuple[int, ...],
    *,
    frame: tuple[int, ...] | None = None,
    additions: bool = False,
) -> Preset:
    return {
        "generator": {
            "context_frames": 4,
            "lead_steps": 18,
            "input_channels": 2 if additions else 1,
            "output_channels": 1,
            "conditioning_channels": conditioning,
            "latent_channels": latent,
            "z_channels": 8,
            "frame_channels": frame,
            "frame_hidden_channels": None,
            "upsample_hidden_channels": None,
            "attention_over": "cells",
            "drift": additions,
            "texture": additions,
            "smooth": additions,
            "grain": additions,
        },
        "discriminator": {
            "input_channels": 1,
            "context_frames": 4,
            "spatial_channels": critic,
            "temporal_channels": critic,
            "spatial_frames": 8,
        },
    }


PRESETS: dict[str, Preset] = {
    "dgmr": _preset((48, 96, 192, 384), (24, 48, 192, 768), (48, 96, 192, 384, 768, 768)),
    "dgmr-narrow": _preset(
        (48, 96, 192, 384), (24, 48, 192, 768), (48, 96, 192, 384, 768, 768), frame=(24, 48, 96, 192)
    ),
    "dgmr-small": _preset((12, 24, 48, 96), (8, 12, 48, 192), (12, 24, 48, 96, 192, 192)),
    "pretrained": _preset((16, 32, 64, 128), (8, 16, 64, 256), (16, 32, 64, 128, 128, 128), additions=True),
    "tiny": _preset((8, 16, 32), (12, 16, 64), (8, 16, 32, 32, 32)),
}
