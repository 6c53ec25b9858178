"""From a trained network to a forecaster: encode once, draw z, decode member by member."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from data_prep.schema import RefusedInput, minutes, time_step
from nowcast.forecaster import Forecaster, grid_spacing, member_seed
from nowcast.model import Generator
from nowcast.representation import Paths, Representation, Seen
from nowcast.weights import load_network

CELLS_AT_ONCE = 2**20
"""Cells of all lead times that are decoded together: more need more memory and are no faster on a CPU."""
SPACING_TOLERANCE = 0.05
"""Relative difference in grid spacing up to which data count as what the network was trained on."""


class GANForecaster(Forecaster):
    """A trained generator as a forecaster.

    Args:
        generator: The network.
        card: What it is and what it was trained on; see `nowcast.weights`.
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
        self.representation = Representation.of(card)
        self.generator = generator.eval().to(device)
        self.card = card
        self.name = name
        self.checkpoint = checkpoint
        self.device = device
        self.context_frames = generator.config["context_frames"]

    @classmethod
    def from_file(cls, path: str | Path, *, device: str = "cpu") -> GANForecaster:
        """Load a training checkpoint or a weights file; no code in the file is run.

        Raises:
            RefusedInput: If the file is neither; see `nowcast.weights.load_network`.
        """
        path = Path(path)
        generator, card = load_network(path)
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
        """Decode one member at a time; see `Forecaster.stream`. Rain of cells without data stays unknown."""
        longest = self.generator.config["lead_steps"]
        if lead_steps > longest:
            raise RefusedInput(
                f"{self.name} forecasts up to {longest} steps", came=lead_steps, do="lower lead_steps"
            )
        rows, columns = _box(np.isfinite(context.values).any(axis=0))
        frames = torch.from_numpy(context.values[:, rows, columns]).to(self.device)[None]
        height, width = frames.shape[-2:]
        reference_time = context["time"].values[-1]
        with torch.inference_mode():
            encoded = encode(self.generator, self.representation, frames, lead_steps=lead_steps)
        for member in range(members):
            noise = torch.Generator().manual_seed(member_seed(seed, reference_time, member))
            z = torch.randn(1, *self.generator.latent_shape(height, width), generator=noise)
            forecast = np.full((lead_steps, *context.shape[1:]), np.nan, np.float32)
            at_once = max(1, CELLS_AT_ONCE // (height * width))
            with torch.inference_mode():
                parts = decode(
                    self.generator,
                    self.representation,
                    encoded,
                    z.to(self.device),
                    lead_steps=lead_steps,
                    steps_at_once=at_once,
                )
                forecast[:, rows, columns] = torch.cat([part[0].cpu() for part in parts]).numpy()
            yield forecast


class Encoded(NamedTuple):
    """What all realizations of a batch of B contexts have in common."""

    states: list[Tensor]
    """What `Generator.encode` gave."""
    seen: Seen
    """The contexts as the network sees them."""
    paths: Paths
    """Where their rain goes."""


def encode(
    generator: Generator, representation: Representation, context: Tensor, *, lead_steps: int
) -> Encoded:
    """Encodes contexts (B, T, H, W), mm/h with NaN where there is no data, as `representation` sees them."""
    seen = representation.encode(context)
    return Encoded(generator.encode(seen.values), seen, Paths.of(seen, lead_steps))


def decode(
    generator: Generator,
    representation: Representation,
    encoded: Encoded,
    z: Tensor,
    *,
    lead_steps: int,
    steps_at_once: int,
) -> Iterator[Tensor]:
    """Draws realizations as rain at its place, a few lead times after the other.

    Args:
        generator: The network.
        representation: How it sees rain.
        encoded: What `encode` gave for B contexts.
        z: Noise (N, ...) as `Generator.stream` takes it; noise n belongs to context n // (N / B).
        lead_steps: Number of lead times, those of `encode` or fewer.
        steps_at_once: Number of lead times that are in memory together.

    Yields:
        (N, steps, H, W), mm/h, not negative; NaN where the rain comes from cells without data.
    """
    repeats = z.shape[0] // encoded.seen.last.shape[0]
    last, paths = encoded.seen.last.repeat_interleave(repeats, dim=0), encoded.paths.repeated(repeats)
    height, width = last.shape[-2:]
    outputs = generator.stream(
        encoded.states, z, size=(height, width), lead_steps=lead_steps, steps_at_once=steps_at_once
    )
    values = (representation.from_network(output, last).float() for output in outputs)

    def rain(fields: Tensor) -> Tensor:
        return representation.to_rain(fields).clamp(min=0)

    error = generator.velocity_error(encoded.states, z, size=(height, width))
    if error is None:
        yield from paths.carry(rain(value).squeeze(2) for value in values)
    else:  # network values are carried, as in training
        yield from map(rain, paths.carry((value.squeeze(2) for value in values), error))


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
