"""The model of the service and its fallbacks; a file of weights that is replaced is taken up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.forecaster import Forecaster
from nowcast.forecasters.load import NAMES, load_forecaster
from nowcast.service.inputs import CONTEXT_FRAMES
from nowcast.service.settings import Forecasts

logger = logging.getLogger(__name__)

WET = 0.1
"""mm/h from which a cell counts as wet."""


class ModelFailed(Exception):
    """A model that gave no forecast."""


class Models:
    """The model that is asked for, and what is asked where it fails.

    A file of weights that cannot be used, at the start or when it is replaced, is named once in the log; the
    one before stays, or the fallbacks forecast.

    Args:
        settings: Which they are.

    Attributes:
        problem: What is wrong with the file of the model as it is now; nothing if it is good.

    Raises:
        RefusedInput: If a model has neither a known name nor the name of a file, or a fallback cannot be
            loaded.
    """

    def __init__(self, settings: Forecasts) -> None:
        self._settings = settings
        self._model: Forecaster | None = None
        self._stamp: tuple[int, int, int] | None = None
        self.problem = ""
        self._is_file = settings.model not in NAMES
        if self._is_file and not Path(settings.model).suffix:
            raise RefusedInput(
                f"forecast.model is one of {', '.join(NAMES)}, or a checkpoint or weights file",
                came=settings.model, do="correct the configuration",
            )  # fmt: skip
        self._fallbacks = [load_forecaster(name, device=settings.device) for name in settings.fallbacks]
        if self._is_file:
            self.refresh()
        else:
            self._model = load_forecaster(settings.model, device=settings.device)

    def refresh(self) -> None:
        """Take up the file of the model, if it has changed."""
        if not self._is_file:
            return
        stamp = _stamp(self._settings.model)
        if stamp == self._stamp and (self._model or self.problem):
            return
        self._stamp = stamp
        try:
            model = load_forecaster(self._settings.model, device=self._settings.device)
            _refuse_other_context(model)
        except Exception as error:  # noqa: BLE001 (whatever a broken file does, the service goes on)
            self.problem = f"{self._settings.model} cannot be used: {error}"
            stays = "the one before stays" if self._model else "fallbacks forecast"
            logger.error("%s; %s", self.problem, stays)
            return
        if self._model is not None:
            logger.info("%s was replaced: %s", self._settings.model, model.provenance().get("checkpoint", ""))
        self._model, self.problem = model, ""

    def in_order(self) -> list[Forecaster]:
        """The model, if there is one, and the fallbacks."""
        return ([self._model] if self._model else []) + self._fallbacks

    def is_fallback(self, forecaster: Forecaster) -> bool:
        """Whether it is not the model that is asked for."""
        return forecaster is not self._model


class Guarded(Forecaster):
    """A forecaster whose errors are told from those of writing its forecast, and that is watched.

    Args:
        inner: The forecaster.
        still_wanted: Called before each member; raises if the forecast is not wanted any more.

    Attributes:
        wet_fraction: Share of cells with `WET` or more, over members, lead times and cells with a value.
        spread: Root of the mean variance of the members at the last lead time, mm/h.
    """

    def __init__(self, inner: Forecaster, still_wanted: Callable[[], None]) -> None:
        self._inner, self._still_wanted = inner, still_wanted
        self.name, self.deterministic = inner.name, inner.deterministic
        self.context_frames, self.takes_gaps = inner.context_frames, inner.takes_gaps
        self._wet = self._cells = 0
        self._count, self._sum, self._squares = 0, np.zeros(()), np.zeros(())

    def provenance(self) -> dict[str, str]:
        """That of the forecaster."""
        return self._inner.provenance()

    def recent(self, context: xr.DataArray) -> xr.DataArray:
        """As `Forecaster.recent`.

        Raises:
            ModelFailed: If the forecaster refuses the context.
        """
        return self._guard(lambda: self._inner.recent(context))

    def made_from(self, frames: xr.DataArray, *, seed: int) -> dict[str, Any]:
        """As `Forecaster.made_from`.

        Raises:
            ModelFailed: If the forecaster fails.
        """
        return self._guard(lambda: self._inner.made_from(frames, seed=seed))

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        """As `Forecaster.stream`.

        Raises:
            ModelFailed: If the forecaster fails.
        """
        made = self._guard(
            lambda: self._inner.stream(context, lead_steps=lead_steps, members=members, seed=seed)
        )
        for _ in range(members):
            self._still_wanted()
            member = self._guard(lambda: next(made))
            self._look_at(member)
            yield member

    @property
    def wet_fraction(self) -> float:
        """See the class."""
        return self._wet / max(self._cells, 1)

    @property
    def spread(self) -> float:
        """See the class."""
        if self._count < 2:
            return 0.0
        variance = (self._squares - self._sum**2 / self._count) / (self._count - 1)
        return float(np.sqrt(np.nanmean(np.maximum(variance, 0)))) if np.isfinite(variance).any() else 0.0

    def _guard(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except StopIteration as error:
            raise ModelFailed(f"{self.name} made fewer members than asked for") from error
        except Exception as error:  # noqa: BLE001 (whatever fails in a model, another may do)
            told = str(error) if isinstance(error, RefusedInput) else f"{type(error).__name__}: {error}"
            raise ModelFailed(f"{self.name}: {told}") from error

    def _look_at(self, member: np.ndarray) -> None:
        self._wet += int(np.count_nonzero(member >= WET))
        self._cells += int(np.count_nonzero(np.isfinite(member)))
        last = member[-1].astype(np.float64)
        self._count, self._sum, self._squares = self._count + 1, self._sum + last, self._squares + last**2


def _refuse_other_context(model: Forecaster) -> None:
    if model.context_frames > CONTEXT_FRAMES:
        raise RefusedInput(
            f"a model of the service needs {CONTEXT_FRAMES} frames or fewer", came=model.context_frames,
            do="choose another model",
        )  # fmt: skip


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        told = Path(path).stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino
