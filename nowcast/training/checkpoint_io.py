"""Training checkpoints as Lightning writes and reads them, whole and safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from data_prep.schema import RefusedInput
from nowcast.files import written_whole
from nowcast.weights import CARD, UNREADABLE, reason

NEEDED = (
    CARD, "state_dict", "optimizer_states", "loops", "batches_seen", "generator_steps", "training_buffers",
    "pytorch-lightning_version",
)  # fmt: skip


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that replace their predecessor when they are complete, and that run no code when read.

    Lightning writes to the temporary folder of the system and moves: across file systems that is a copy onto
    the old file, which a kill leaves in pieces.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write beside the path, then replace what is there."""
        with written_whole(Path(path)) as unfinished:
            torch.save(checkpoint, unfinished)

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any = None,  # noqa: ARG002
        weights_only: bool | None = None,  # noqa: ARG002, FBT001
    ) -> dict[str, Any]:
        """Read tensors and plain values.

        Raises:
            RefusedInput: If the file is no checkpoint of a training, is damaged, or holds weights that are
                not finite.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            lacking = [name for name in NEEDED if name not in checkpoint]
            if lacking:
                raise ValueError(f"without {', '.join(lacking)}")
            broken = [name for name, value in checkpoint["state_dict"].items() if not value.isfinite().all()]
            if broken:
                raise ValueError(f"{broken[0]} is not finite")
        except UNREADABLE as error:
            raise RefusedInput(
                "a state to go on from was written by nowcast train",
                came=f"{path} ({reason(error)})",
                do="give an older checkpoint, or start anew",
            ) from error
        return checkpoint
