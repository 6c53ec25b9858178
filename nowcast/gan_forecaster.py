"""From a checkpoint to a forecaster: encode once, draw z, decode member by member."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from data_prep.schema import RefusedInput, minutes, time_step
from nowcast.forecaster import Forecaster, grid_spacing, member_seed
from nowcast.model import Generator
from nowcast.transform import refuse_unknown_transform, to_network, to_rain

CARD = "nowcast"
"""Key of a checkpoint under which a network says what it is and what data it was trained on."""
SPACING_TOLERANCE = 0.05
"""Relative difference in grid spacing up to which data count as what the network was trained on."""


class GANForecaster(Forecaster):
    """A trained generator as a forecaster.

    Args:
        generator: The network.
        card: ``transform``, ``grid_spacing`` (m), ``time_step_minutes`` and ``package_version`` of its
            training.
        name: What tables and files call it.
        checkpoint: SHA-256 of the file it came from.
        device: Where it computes.
    """

    def __init__(
        self,
        generator: Generator,
        card: dict[str, Any],
        *,
        name: str,
        checkpoint: str = "",
        device: str = "cpu",
    ) -> None:
        refuse_unknown_transform(card["transform"])
        self.generator = generator.eval().to(device)
        self.card = card
        self.name = name
        self.checkpoint = checkpoint
        self.device = device
        self.context_frames = generator.config["context_frames"]

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, device: str = "cpu") -> GANForecaster:
        """Load a training checkpoint; no code in the file is run.

        Raises:
            RefusedInput: If the file is no checkpoint of `nowcast.gan.NowcastGAN`.
        """
        path = Path(path)
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            card = checkpoint[CARD]
            generator = Generator(**card["generator"])
            prefix = "generator."
            state = checkpoint["state_dict"]
            generator.load_state_dict(
                {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            )
            if not all(value.isfinite().all() for value in generator.state_dict().values()):
                raise ValueError("weights that are not finite")
        except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, AttributeError,
                pickle.UnpicklingError, zipfile.BadZipFile) as error:  # fmt: skip
            raise RefusedInput(
                "a checkpoint was written by nowcast train",
                came=f"{path} ({_reason(error)})",
                do="train one with: nowcast train fit",
            ) from error
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(generator, card, name=path.stem, checkpoint=digest, device=device)

    def provenance(self) -> dict[str, str]:
        """Name and SHA-256 of the checkpoint."""
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "references": "Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z",
        }

    def recent(self, context: xr.DataArray) -> xr.DataArray:
        """As `Forecaster.recent`.

        Raises:
            RefusedInput: Also if grid spacing or time step are not those the network was trained on.
        """
        frames = super().recent(context)
        refuse_other_data(self.card, describe_data(context), what=self.name)
        return frames

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Decode one member at a time; see `Forecaster.stream`. No-data cells of the last frame stay so."""
        longest = self.generator.config["lead_steps"]
        if lead_steps > longest:
            raise RefusedInput(
                f"{self.name} forecasts up to {longest} steps", came=lead_steps, do="lower lead_steps"
            )
        rows, columns = _box(np.isfinite(context.values).any(axis=0))
        last = context.values[-1]
        frames = torch.from_numpy(context.values[:, rows, columns]).to(self.device)[None, :, None]
        height, width = frames.shape[-2:]
        reference_time = context["time"].values[-1]
        with torch.inference_mode():
            states = self.generator.encode(to_network(frames, self.card["transform"]))
        for member in range(members):
            noise = torch.Generator().manual_seed(member_seed(seed, reference_time, member))
            z = torch.randn(1, *self.generator.latent_shape(height, width), generator=noise)
            with torch.inference_mode():
                value = self.generator.decode(states, z.to(self.device), size=(height, width))
                rain = to_rain(value, self.card["transform"]).clamp(min=0)[0, :lead_steps, 0]
                values = rain.float().cpu().numpy()
            forecast = np.full((lead_steps, *last.shape), np.nan, np.float32)
            forecast[:, rows, columns] = values
            forecast[:, ~np.isfinite(last)] = np.nan
            yield forecast


def _reason(error: Exception) -> str:
    """Why a checkpoint cannot be loaded, without torch's advice to load it unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than plain values and tensors"
    return " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])


def _box(observed: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the observed cells: the network works on no more."""
    rows, columns = np.flatnonzero(observed.any(axis=1)), np.flatnonzero(observed.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def describe_data(array: xr.DataArray) -> dict[str, float]:
    """What a network must know of the data it sees: grid spacing in m and time step in minutes."""
    return {
        "grid_spacing": grid_spacing(array),
        "time_step_minutes": minutes(time_step(array["time"].values)),
    }


def refuse_other_data(card: dict[str, Any], data: dict[str, float], *, what: str) -> None:
    """Refuse data whose spacing or time step a network was not trained on.

    Raises:
        RefusedInput: If either differs.
    """
    spacing, step = card["grid_spacing"], card["time_step_minutes"]
    if abs(data["grid_spacing"] / spacing - 1) > SPACING_TOLERANCE:
        raise RefusedInput(
            f"{what} was trained on a grid spacing of {spacing:.0f} m",
            came=f"{data['grid_spacing']:.0f} m",
            do="use data of that spacing or a model trained on this one",
        )
    if data["time_step_minutes"] != step:
        raise RefusedInput(
            f"{what} was trained on frames every {step:g} min",
            came=f"every {data['time_step_minutes']:g} min",
            do="use data of that time step or a model trained on this one",
        )
