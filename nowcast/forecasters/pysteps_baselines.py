"""S-PROG, ANVIL and STEPS of pysteps (extra ``baselines``) as forecasters.

All move the rain by our motion (`nowcast.motion`), so that they differ from extrapolation, and from each
other, by their method alone; opencv is not needed. They work on the box around the observed cells.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from data_prep.schema import RefusedInput, iso, minutes, time_step
from nowcast.forecaster import Forecaster, member_seed, spacing_km
from nowcast.forecasters.baselines import carried_along, motion_of

DRIEST = 0.1
"""Rain rates below this are dry, mm/h."""
DECIBEL_OF_DRIEST = -10.0
DECIBEL_OF_DRY = -15.0
CASCADE_LEVELS = 6
"""The default of pysteps."""
ANVIL_WINDOW = 25
"""Radius in cells in which ANVIL fits its model, as in the example of pysteps for rain rates."""
FEWEST_WET = 10
"""Wet cells that every frame holds, for a model of growth and decay to be fitted."""
LEAST_VARIATION = 1e-6
"""Of a frame, in dB, and of the correlation of two frames from 1: less is rounding."""

_lock = threading.Lock()


@dataclass(frozen=True)
class Scene:
    """What a method of pysteps is given: the box around the observed cells."""

    box: tuple[slice, slice]
    rain: np.ndarray
    """mm/h, float64 (time, h, w), NaN where there is no data."""
    velocity: np.ndarray
    """Cells per time step along x and y, float64 (2, h, w)."""
    kilometres: float
    """Of a cell."""
    minutes: float
    """Of a time step."""

    @classmethod
    def of(cls, context: xr.DataArray, motion: torch.Tensor) -> Scene:
        """The scene of a context whose rain moves by (2, H, W)."""
        observed = np.isfinite(context.values).any(axis=0)
        rows, columns = np.flatnonzero(observed.any(axis=1)), np.flatnonzero(observed.any(axis=0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return cls(
            box=box,
            rain=_completed(context.values, motion)[:, *box].astype(np.float64),
            velocity=motion.cpu().numpy()[:, *box].astype(np.float64),
            kilometres=spacing_km(context),
            minutes=minutes(time_step(context["time"].values)),
        )

    def decibel(self) -> np.ndarray:
        """10 log10 of the last three frames, (3, h, w)."""
        return _decibel(self.rain[-3:])

    def can_be_fitted(self) -> bool:
        """Whether a model of growth and decay can: all frames hold rain, and along the motion it changes."""
        count, velocity = self.rain.shape[0], torch.from_numpy(self.velocity)
        moved = [carried_along(frame, velocity, count - 1 - n)[-1] for n, frame in enumerate(self.rain[:-1])]
        decibel = _decibel(np.stack([*moved, self.rain[-1]])).reshape(count, -1)
        if (decibel > DECIBEL_OF_DRY).sum(axis=1).min() < FEWEST_WET:
            return False
        decibel = np.where(np.isfinite(decibel), decibel, np.nanmin(decibel, axis=1, keepdims=True))
        if decibel.std(axis=1).min() < LEAST_VARIATION:
            return False
        related = np.corrcoef(decibel)[np.triu_indices(count, k=1)]
        return bool((related < 1 - LEAST_VARIATION).all())


class PystepsForecaster(Forecaster):
    """What the methods of pysteps have in common.

    There is no forecast where the rain would come from outside the data, nor where the last frame has no
    data. Rates below 0.1 mm/h are dry. Where the model of growth and decay cannot be fitted, because a frame
    holds (next to) no rain, the last frame is carried along.

    Args:
        device: Where the motion is estimated.

    Raises:
        RefusedInput: If pysteps is not installed.
    """

    method: str
    """Module of ``pysteps.nowcasts``."""

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device
        _method(self.method)

    def provenance(self) -> dict[str, str]:
        """Name of the model and version of pysteps."""
        from importlib.metadata import version

        return {"model": self.name, "pysteps": version("pysteps")}

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Run the method once for a member; see `Forecaster.stream`."""
        motion = motion_of(context, device=self.device)
        scene = Scene.of(context, motion)
        fits = scene.can_be_fitted()
        observed = np.isfinite(context.values[-1])
        reference_time = context["time"].values[-1]
        for member in range(members):
            if fits:
                forecast = np.full((lead_steps, *observed.shape), np.nan, np.float32)
                drawn = member_seed(seed, reference_time, member) % 2**32
                forecast[:, *scene.box] = self._run(scene, lead_steps, drawn, reference_time)
            else:
                forecast = carried_along(context.values[-1], motion, lead_steps)
            forecast[forecast < DRIEST] = 0
            forecast[:, ~observed] = np.nan
            yield forecast

    def _run(self, scene: Scene, steps: int, seed: int, reference_time: np.datetime64) -> np.ndarray:
        """One member, mm/h; whatever pysteps stumbles over is refused by name."""
        run = _method(self.method)
        try:
            with _to_itself():
                return self.member(run, scene, steps=steps, seed=seed)
        except Exception as error:
            raise RefusedInput(
                f"{self.name} can be run on the frames up to {iso(reference_time)}",
                came=f"{type(error).__name__} in pysteps: {error}",
                do="leave out this time or this model",
            ) from error

    @abstractmethod
    def member(self, run: Callable[..., Any], scene: Scene, *, steps: int, seed: int) -> np.ndarray:
        """One member, mm/h, (steps, h, w), by the method's function in pysteps."""


class SProg(PystepsForecaster):
    """S-PROG: scales lose their rain the faster the smaller they are (Seed 2003).

    doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2
    """

    name, method, deterministic = "sprog", "sprog", True

    def member(self, run: Callable[..., Any], scene: Scene, *, steps: int, seed: int) -> np.ndarray:  # noqa: ARG002
        """The forecast, which no seed changes."""
        return _rate(
            run(
                scene.decibel(),
                scene.velocity,
                steps,
                precip_thr=DECIBEL_OF_DRIEST,
                n_cascade_levels=CASCADE_LEVELS,
            )
        )


class Anvil(PystepsForecaster):
    """ANVIL: growth and decay go on, by scale and place (Pulkkinen et al. 2020).

    doi:10.1109/TGRS.2020.2984594

    It is run on rain rates, the only thing there is, in place of vertically integrated liquid.
    """

    name, method, deterministic = "anvil", "anvil", True

    def member(self, run: Callable[..., Any], scene: Scene, *, steps: int, seed: int) -> np.ndarray:  # noqa: ARG002
        """The forecast, which no seed changes."""
        return run(
            scene.rain,
            scene.velocity,
            steps,
            n_cascade_levels=CASCADE_LEVELS,
            ar_window_radius=ANVIL_WINDOW,
        )


class Steps(PystepsForecaster):
    """STEPS: an ensemble of rain and motion perturbed by scale (Bowler et al. 2006, doi:10.1256/qj.04.100).

    Members are run one at a time, each from a seed of its own: memory does not grow with the ensemble, and
    a member does not depend on how many there are. What they have in common is worked out again for each,
    which takes about a sixth of the time.
    """

    name, method = "steps", "steps"

    def member(self, run: Callable[..., Any], scene: Scene, *, steps: int, seed: int) -> np.ndarray:
        """The member of a seed."""
        ensemble = run(
            scene.decibel(),
            scene.velocity,
            steps,
            n_ens_members=1,
            n_cascade_levels=CASCADE_LEVELS,
            precip_thr=DECIBEL_OF_DRIEST,
            kmperpixel=scene.kilometres,
            timestep=scene.minutes,
            seed=seed,
        )
        return _rate(ensemble[0])


def _completed(rain: np.ndarray, motion: torch.Tensor) -> np.ndarray:
    """Frames (time, H, W) in which earlier ones hold what the last one shows of the rain that they lack.

    So a frame with a gap neither looks like rain that grows nor takes that place out of the forecast.
    """
    seen_later = carried_along(rain[-1], -motion, rain.shape[0] - 1)[::-1]
    return np.concatenate([np.where(np.isfinite(rain[:-1]), rain[:-1], seen_later), rain[-1:]])


def _decibel(rain: np.ndarray) -> np.ndarray:
    wet = 10 * np.log10(np.maximum(rain, DRIEST))
    return np.where(rain < DRIEST, DECIBEL_OF_DRY, wet)


def _rate(decibel: np.ndarray) -> np.ndarray:
    return 10 ** (decibel / 10)


def _method(name: str) -> Callable[..., Any]:
    try:
        with _lock, contextlib.redirect_stdout(io.StringIO()):  # it tells where its configuration is
            return importlib.import_module(f"pysteps.nowcasts.{name}").forecast
    except ImportError as error:
        raise RefusedInput(
            f"pysteps is there for {name}", came=error, do="pip install -e '.[baselines]' in the checkout"
        ) from error
    except Exception as error:
        raise RefusedInput("pysteps can be loaded", came=error, do="look at its pystepsrc") from error


@contextlib.contextmanager
def _to_itself() -> Iterator[None]:
    """Let pysteps have what belongs to the whole process, and put it back.

    It prints, it seeds the global generator of numpy, and it hands work to whatever scheduler dask has at the
    moment, which on a worker of a cluster is that cluster. So one call is made at a time.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImportError):
            stack.enter_context(importlib.import_module("dask").config.set(scheduler="synchronous"))
        state = np.random.get_state()  # noqa: NPY002
        stack.callback(np.random.set_state, state)  # noqa: NPY002
        yield
