"""One cycle: from the frames up to a reference time to a forecast that is published."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.schema import iso
from nowcast.forecaster import Forecaster
from nowcast.products.forecast_file import file_stem, forecast_to_file
from nowcast.products.layers import write_layers
from nowcast.products.write import write_products
from nowcast.service.clock import Clock, stamp
from nowcast.service.inputs import Context
from nowcast.service.models import Guarded, ModelFailed, Models
from nowcast.service.publishing import Manifest, Publisher
from nowcast.service.settings import ServeSettings

logger = logging.getLogger(__name__)

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
"""Errors of the disk, and not of what is written to it."""


class NotMade(Exception):
    """No model gave a forecast, or it could not be written."""


class Stopping(Exception):
    """The service is asked to end; what is under way is rolled back."""


class Made(NamedTuple):
    """A forecast of a cycle."""

    path: Path
    forecaster: Forecaster
    watched: Guarded
    fallback: str


class Cycle:
    """Makes forecasts and publishes them.

    Args:
        settings: Of the service.
        digest: SHA-256 of the settings and the recipe that shape a forecast.
        models: Which are asked.
        publisher: Where forecasts appear.
        clock: The time.
        stopping: Whether the service is asked to end.
        stage: Called with the name and the seconds of each stage.
        beat: Called whenever work goes on.
        hurry: Whether a model is given up at the deadline of the policy.
    """

    def __init__(
        self,
        settings: ServeSettings,
        digest: str,
        models: Models,
        publisher: Publisher,
        clock: Clock,
        *,
        stopping: Callable[[], bool],
        stage: Callable[[str, float], None],
        beat: Callable[[], None],
        hurry: bool = True,
    ) -> None:
        self._beat = beat
        self._settings, self._digest = settings, digest
        self._models, self._publisher, self._clock = models, publisher, clock
        self._stopping, self._stage, self._hurry = stopping, stage, hurry
        self._asked_model = Path(settings.forecast.model).stem

    def make(self, time: np.datetime64, context: Context, *, since_arrival: float) -> Manifest:
        """Make and publish the forecast of a reference time.

        Args:
            time: Reference time.
            context: The frames up to it.
            since_arrival: Seconds since the last of them came.

        Returns:
            The manifest as it is published.

        Raises:
            NotMade: If there is none. Nothing has appeared then.
            Stopping: If the service is asked to end.
        """
        began = self._clock.elapsed()
        seconds = {"wait": since_arrival}
        try:
            with self._publisher.made(time) as folder:
                with self._timed("forecast", seconds):
                    made = self._forecast(folder, time, context)
                roles = {made.path.name: "members"}
                with self._timed("products", seconds):
                    problems = self._products(folder, made.path, context, roles)
                self._go_on()
                if self._hurry and self._clock.now() > time + self._settings.policy.stale:
                    raise NotMade("it was ready only when it was stale")
                with self._timed("publish", seconds):
                    seconds["total"] = since_arrival + self._clock.elapsed() - began
                    told = {**self._told(time, context, made), "seconds": dict(seconds), "problems": problems}
                    return self._publisher.publish(folder, {**told, "roles": roles})
        except (OSError, RuntimeError) as error:  # netCDF says with the latter that the disk is full
            raise NotMade(f"it could not be written: {error}") from error

    def _forecast(self, folder: Path, time: np.datetime64, context: Context) -> Made:
        """The members in a file, by the first model that makes them.

        Raises:
            NotMade: If none does.
        """
        asked = self._settings.forecast
        failed = [self._models.problem] if self._models.problem else []
        lacking = context.lacking()
        for forecaster in self._models.in_order():
            fallback = self._models.is_fallback(forecaster)
            if lacking and not forecaster.takes_gaps:
                failed.append(lacking)
                continue
            watched = Guarded(forecaster, partial(self._still_wanted, time, patient=fallback))
            path = folder / f"{file_stem(forecaster.name, self._settings.domain, time)}.nc"
            attributes = {"config_hash": self._digest, "run_id": self._run_id(time, context, forecaster)}
            if fallback:
                attributes |= {"asked_model": self._asked_model, "fallback": "; ".join(failed)}
            try:
                forecast_to_file(
                    path, watched, context.rain, lead_steps=asked.lead_steps, members=asked.members,
                    seed=asked.seed, form=self._settings.form, attributes=attributes, between=self._go_on,
                )  # fmt: skip
            except ModelFailed as error:
                logger.warning("%s: %s", iso(time), error)
                failed.append(str(error))
                continue
            return Made(path, forecaster, watched, "; ".join(failed) if fallback else "")
        raise NotMade("; ".join(failed) or "no model is there")

    def _products(self, folder: Path, forecast: Path, context: Context, roles: dict[str, str]) -> list[str]:
        """What is made of the members; what fails for another reason than the disk is left out and named."""
        problems = []

        def products() -> None:
            settings = self._settings
            made = write_products(
                forecast,
                folder,
                settings.products,
                stem=forecast.stem,
                form=settings.form,
                between=self._go_on,
            )
            roles.update({written.path.name: written.role for written in made})

        def layers() -> None:
            made = write_layers(forecast, folder, observed=context.rain, between=self._go_on)
            roles.update({path.name: "layers" if path.suffix == ".json" else "layer" for path in made})

        for work in (products, layers) if self._settings.http.enabled else (products,):
            try:
                work()
            except Stopping:
                raise
            except Exception as error:  # noqa: BLE001 (a picture must not take the forecast with it)
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    raise
                logger.exception("%s of %s failed", work.__name__, forecast.name)
                problems.append(f"{work.__name__}: {type(error).__name__}: {error}")
        return problems

    def _told(self, time: np.datetime64, context: Context, made: Made) -> Manifest:
        """What the manifest says beside files and times of work."""
        settings, model = self._settings, made.forecaster
        members = model.member_count(settings.forecast.members)
        steps = np.arange(1, settings.forecast.lead_steps + 1)
        step = context.rain["time"].values[-1] - context.rain["time"].values[-2]
        attributes = context.rain.attrs
        return {
            "reference_time": stamp(time),
            "model": model.name,
            "asked_model": self._asked_model,
            "fallback": made.fallback or None,
            "checkpoint": model.provenance().get("checkpoint", ""),
            "members": members,
            "lead_minutes": (steps * (step / np.timedelta64(1, "m"))).tolist(),
            "seed": settings.forecast.seed,
            "config_hash": self._digest,
            "run_id": self._run_id(time, context, model),
            "software": f"nowcast {version('nowcast')}",
            "domain": settings.domain,
            "title": attributes["radar"],
            "institution": attributes["institution"],
            "license": attributes["license"],
            "input_frames": context.frames(),
            "wet_fraction": round(made.watched.wet_fraction, 6),
            "spread": round(made.watched.spread, 6),
        }

    def _run_id(self, time: np.datetime64, context: Context, model: Forecaster) -> str:
        """Names a forecast by what it is made from, so that a re-run has the same."""
        told = [iso(time), self._digest, model.provenance(), context.files, context.status.tolist()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def _still_wanted(self, time: np.datetime64, *, patient: bool) -> None:
        self._go_on()
        deadline = self._settings.policy.deadline
        if self._hurry and not patient and self._clock.now() > time + deadline:
            raise ModelFailed(f"it was not ready {deadline / np.timedelta64(1, 'm'):g} min after the frame")

    def _go_on(self) -> None:
        self._beat()
        if self._stopping():
            raise Stopping

    @contextmanager
    def _timed(self, stage: str, seconds: dict[str, float]) -> Iterator[None]:
        began = self._clock.elapsed()
        yield
        seconds[stage] = round(self._clock.elapsed() - began, 3)
        self._stage(stage, seconds[stage])
