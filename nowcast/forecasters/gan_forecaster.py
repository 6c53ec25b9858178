"""From a trained network to a forecaster: encode once, draw z, decode member by member.

What the card of a network says beside `nowcast.weights`, and may leave out:

- ``spacing_range_km``, two numbers: data within it are resampled to the spacing that the network was trained
  on, and the forecast is brought back onto their grid (`nowcast.forecasters.resampling`).
- ``calibration``: ``{"gain": [...]}``, a factor on the rain of every member for each lead time.
- ``precision``: ``bf16-mixed`` if the network was trained in it; forecasts are then computed in it where the
  processor has units for that (a GPU, AMX), and take about half the time.
"""

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
from nowcast.forecaster import Forecaster, cell_size, member_seed, spacing_km, tell_unknown_motion
from nowcast.forecasters.resampling import resampled, size_at
from nowcast.model import Generator
from nowcast.motion import unknown_motion
from nowcast.representation import Paths, Representation, Seen
from nowcast.weights import load_network

CELLS_AT_ONCE = 2**20
"""Cells of all lead times that are decoded together: more need more memory and are no faster on a CPU."""
SPACING_TOLERANCE = 0.05
"""Relative difference in grid spacing up to which data count as what the network was trained on."""
WIDE_SPACING_TOLERANCE = 0.2
"""The same where the card has a range of spacings: so far, resampling does more harm than good."""
STILL = "none: "
"""How the attribute ``motion`` of a forecast begins if the rain was taken to stand still."""


class GANForecaster(Forecaster):
    """A trained generator as a forecaster.

    Args:
        generator: The network.
        card: What it is and what it was trained on; see `nowcast.weights`.
        name: What tables and files call it.
        checkpoint: SHA-256 of the file it came from.
        device: Where it computes.

    Raises:
        RefusedInput: If range of spacings, calibration or precision of the card are not what they should be.
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
        self.spacings = _spacing_range(card)
        self.gain = _gain(card, generator.config["lead_steps"])
        self.reduced = _reduced(card, device)

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

    def made_from(self, frames: xr.DataArray, *, seed: int) -> dict[str, Any]:
        """As `Forecaster.made_from`; also whether motion was found, and whether rain was resampled."""
        attributes = super().made_from(frames, seed=seed)
        if self.representation.frame == "comoving":
            attributes["motion"] = self._shown(frames).motion
        if self._resamples(frames):
            spacing = self.card["grid_spacing"] / 1000
            attributes["resampled"] = f"from {spacing_km(frames):.3g} km to {spacing:.3g} km and back"
        return attributes

    def recent(self, context: xr.DataArray) -> xr.DataArray:
        """As `Forecaster.recent`.

        Raises:
            RefusedInput: Also if grid spacing or time step are not such that the network can be used.
        """
        frames = super().recent(context)
        data = describe_data(context)
        if self.spacings is None:
            refuse_other_data(self.card, data, what=self.name)
        elif not all(self.spacings[0] <= side / 1000 <= self.spacings[1] for side in cell_size(frames)):
            raise RefusedInput(
                f"{self.name} takes a grid spacing of {self.spacings[0]:g} to {self.spacings[1]:g} km",
                came=" x ".join(f"{side / 1000:.3g}" for side in cell_size(frames)) + " km",
                do="prepare the data with regrid, or train a model on them",
            )
        _refuse_other_time_step(self.card, data, what=self.name)
        return frames

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Decode one member at a time; see `Forecaster.stream`.

        Rain that comes from cells without data stays unknown, as do cells that no frame has data of. Rates
        below the least that the context holds are dry, as they are to its radar: a network knows no 0. A
        context without any rain gives a forecast without any. Rain whose motion the context does not tell is
        taken to stand still (`nowcast.motion.unknown_motion`), and the log says so.
        """
        longest = self.generator.config["lead_steps"]
        if lead_steps > longest:
            raise RefusedInput(
                f"{self.name} forecasts up to {longest} steps", came=lead_steps, do="lower lead_steps"
            )
        if not (context.values > 0).any():
            for _ in range(members):
                yield np.repeat(self._dry(context), lead_steps, axis=0)
            return
        shown = self._shown(context)
        if shown.motion.startswith(STILL):
            tell_unknown_motion(context, shown.motion.removeprefix(STILL))
        with torch.inference_mode(), self._precision():
            encoded = encode_seen(self.generator, shown.seen, lead_steps=lead_steps)
        unobserved = ~np.isfinite(context.values).any(axis=0)
        least = context.values[context.values > 0].min()
        for member in range(members):
            drawn = member_seed(seed, context["time"].values[-1], member)
            with torch.inference_mode(), self._precision():
                rain = self._member(encoded, lead_steps=lead_steps, seed=drawn)
                rain = resampled(rain, shown.size, finer_by="bilinear") if shown.resampled else rain
            forecast = np.full((lead_steps, *context.shape[1:]), np.nan, np.float32)
            forecast[:, *shown.box] = rain.cpu().numpy()
            forecast[:, unobserved] = np.nan
            forecast[forecast < least] = 0
            yield forecast

    def _member(self, encoded: Encoded, *, lead_steps: int, seed: int) -> Tensor:
        """Rain of one member on the grid of the network, mm/h, (lead_step, h, w)."""
        height, width = encoded.seen.last.shape[-2:]
        noise = torch.Generator().manual_seed(seed)
        z = torch.randn(1, *self.generator.latent_shape(height, width), generator=noise)
        parts = decode(
            self.generator,
            self.representation,
            encoded,
            z.to(self.device),
            lead_steps=lead_steps,
            steps_at_once=max(1, CELLS_AT_ONCE // (height * width)),
        )
        rain = torch.cat([part[0] for part in parts])
        return rain if self.gain is None else rain * self.gain[:lead_steps, None, None].to(rain)

    def _precision(self) -> torch.autocast:
        """In which the network computes; what must not lose digits leaves it by itself."""
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.reduced)

    def _resamples(self, frames: xr.DataArray) -> bool:
        """Whether frames come onto another grid before the network sees them."""
        trained = self.card["grid_spacing"] / 1000
        return self.spacings is not None and abs(spacing_km(frames) / trained - 1) > WIDE_SPACING_TOLERANCE

    def _shown(self, context: xr.DataArray) -> Shown:
        """A context as the network is shown it: the box with data, at its spacing, in a frame that holds."""
        rows, columns = _box(np.isfinite(context.values).any(axis=0))
        frames = torch.from_numpy(context.values[:, rows, columns]).to(self.device)
        height, width = frames.shape[-2:]
        resamples = self._resamples(context)
        if resamples:
            size = size_at(context, (height, width), self.card["grid_spacing"])
            frames = resampled(frames, size, finer_by="nearest-exact")
        with torch.inference_mode():
            seen, told = self.representation.encode(frames[None]), "estimated"
            if seen.motion is not None and (reason := unknown_motion(frames, seen.motion[0])):
                seen, told = self.representation.aligned().encode(frames[None]), STILL + reason
        return Shown((rows, columns), (height, width), seen, told, resamples)

    def _dry(self, context: xr.DataArray) -> np.ndarray:
        """No rain wherever there can be a forecast, (1, H, W)."""
        observed = np.isfinite(context.values)
        known = observed.any(axis=0) if self.representation.channel_count > 1 else observed[-1]
        return np.where(known, np.float32(0), np.float32(np.nan))[None]


class Shown(NamedTuple):
    """What a network is shown of a context."""

    box: tuple[slice, slice]
    """Rows and columns of the context that hold data."""
    size: tuple[int, int]
    """Rows and columns of the box."""
    seen: Seen
    """The box at the spacing of the network, as it sees rain; if motion is unknown, in the fixed frame."""
    motion: str
    """``estimated``, or `STILL` and why."""
    resampled: bool
    """Whether `seen` is on another grid than the box."""


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
    return encode_seen(generator, representation.encode(context), lead_steps=lead_steps)


def encode_seen(generator: Generator, seen: Seen, *, lead_steps: int) -> Encoded:
    """As `encode`, of contexts as the network sees them."""
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

    Raises:
        RefusedInput: If the network puts out anything but numbers: that is not missing data.
    """
    repeats = z.shape[0] // encoded.seen.last.shape[0]
    last, paths = encoded.seen.last.repeat_interleave(repeats, dim=0), encoded.paths.repeated(repeats)
    height, width = last.shape[-2:]
    outputs = generator.stream(
        encoded.states, z, size=(height, width), lead_steps=lead_steps, steps_at_once=steps_at_once
    )
    values = (representation.from_network(_finite(output), last).float() for output in outputs)

    def rain(fields: Tensor) -> Tensor:
        return representation.to_rain(fields).clamp(min=0)

    error = generator.velocity_error(encoded.states, z, size=(height, width))
    if error is None:
        yield from paths.carry(rain(value).squeeze(2) for value in values)
    else:  # network values are carried, as in training
        yield from map(rain, paths.carry((value.squeeze(2) for value in values), error))


def _finite(output: Tensor) -> Tensor:
    if not bool(output.isfinite().all()):
        raise RefusedInput(
            "a network puts out finite values",
            came="infinite ones, or none",
            do="use other weights: these are damaged, or their training has diverged",
        )
    return output


def _box(observed: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the observed cells: the network works on no more."""
    rows, columns = np.flatnonzero(observed.any(axis=1)), np.flatnonzero(observed.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def describe_data(array: xr.DataArray) -> dict[str, float]:
    """What a network must know of the data it sees: grid spacing in m and time step in minutes."""
    return {
        "grid_spacing": 1000 * spacing_km(array),
        "time_step_minutes": minutes(time_step(array["time"].values)),
    }


def refuse_other_data(card: dict[str, Any], data: dict[str, float], *, what: str) -> None:
    """Refuse data whose spacing or time step a network was not trained on.

    Raises:
        RefusedInput: If either differs.
    """
    spacing = card["grid_spacing"]
    if abs(data["grid_spacing"] / spacing - 1) > SPACING_TOLERANCE:
        raise RefusedInput(
            f"{what} was trained on a grid spacing of {spacing:.0f} m",
            came=f"{data['grid_spacing']:.0f} m",
            do="use data of that spacing or a model trained on this one",
        )
    _refuse_other_time_step(card, data, what=what)


def _refuse_other_time_step(card: dict[str, Any], data: dict[str, float], *, what: str) -> None:
    step = card["time_step_minutes"]
    if data["time_step_minutes"] != step:
        raise RefusedInput(
            f"{what} was trained on frames every {step:g} min",
            came=f"every {data['time_step_minutes']:g} min",
            do="use data of that time step or a model trained on this one",
        )


def _spacing_range(card: dict[str, Any]) -> tuple[float, float] | None:
    """Lowest and highest spacing that a card allows, km."""
    given = card.get("spacing_range_km")
    if given is None:
        return None
    trained = card["grid_spacing"] / 1000
    if not _are_positive(given, count=2) or not given[0] <= trained <= given[1]:
        raise RefusedInput(
            f"spacing_range_km of a card is [lowest, highest], km, about the {trained:g} km of its network",
            came=given,
            do="correct the card",
        )
    return given[0], given[1]


def _gain(card: dict[str, Any], lead_steps: int) -> Tensor | None:
    """Factor on the rain for each lead time, (lead_step,); none if a card has none."""
    calibration = card.get("calibration")
    if calibration is None:
        return None
    gain = calibration.get("gain") if isinstance(calibration, dict) else None
    if not _are_positive(gain, count=lead_steps):
        raise RefusedInput(
            f"calibration of a card is a gain with {lead_steps} factors above 0, one for each lead time",
            came=calibration,
            do="correct the card",
        )
    return torch.tensor(gain)


def _reduced(card: dict[str, Any], device: str) -> bool:
    """Whether a network with this card computes in bf16 here."""
    precision = card.get("precision", "32-true")
    if precision not in ("32-true", "bf16-mixed"):
        raise RefusedInput(
            "precision of a card is 32-true or bf16-mixed", came=precision, do="correct the card"
        )
    if torch.device(device).type == "cuda":
        units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities().get("amx_bf16", False)
    return precision == "bf16-mixed" and bool(units)


def _are_positive(numbers: Any, *, count: int) -> bool:
    """Whether this is a list of so many finite numbers above 0."""
    return (
        isinstance(numbers, list)
        and len(numbers) == count
        and all(isinstance(number, (int, float)) and 0 < number < np.inf for number in numbers)
    )
