"""Published forecasts are scored as their truth arrives; skill that falls raises an alarm."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_prep.live import LiveFrames
from data_prep.schema import RefusedInput, iso
from nowcast.evaluation.live_verification import PERSISTENCE, LiveVerification
from nowcast.files import written_whole
from nowcast.service.clock import stamp
from nowcast.service.publishing import Manifest, Publisher, time_of
from nowcast.service.settings import ServeSettings, Verification, minutes
from nowcast.verification import ScoreSettings

logger = logging.getLogger(__name__)

FOLDER = "verification"
SCORES = ScoreSettings(thresholds=(1.0,), scales=(1.0,), windows=(16.0,), intensities=(0.0, 0.1, 1.0))
"""What online scores look at: enough to see skill fall. ``nowcast verify`` tells the rest."""
HISTORY = "skill.json"
MORE_HOURS = 6.0
"""That sums are kept beyond the hours over which skill is told."""
EVERY = np.timedelta64(1, "h")
"""How often skill is told."""


class Verifier:
    """Scores forecasts of the model of a service, one reference time at a call.

    Args:
        settings: Of the service.
        live: The frames.
        publisher: The forecasts.
    """

    def __init__(self, settings: ServeSettings, live: LiveFrames, publisher: Publisher) -> None:
        self._settings, self._live, self._publisher = settings.verification, live, publisher
        self._wait = settings.policy.wait
        asked = [minutes(lead) for lead in self._settings.lead_minutes]
        made = [number * live.step for number in range(1, settings.forecast.lead_steps + 1)]
        self._leads = [lead for lead in asked if lead in made]
        if self._settings.enabled and not self._leads:
            logger.warning("no forecast is scored: none reaches verification.lead_minutes")
        folder = Path(settings.output) / FOLDER
        keep = minutes(60 * (self._settings.hours + MORE_HOURS))
        self._verification = LiveVerification(folder, SCORES, keep)
        self._history = History(folder / HISTORY, minutes(self._settings.keep_days * 1440))
        self._done: set[str] = set()
        self._told_at: np.datetime64 | None = None
        self.skill: dict[str, Any] | None = None

    def step(self, now: np.datetime64) -> bool:
        """Score one forecast whose truth is due, if there is one; whether something was done."""
        if not (self._settings.enabled and self._leads):
            return False
        for name, manifest in self._publisher.published.items():
            due = time_of(name) + max(self._leads) + self._wait <= self._live.newest
            if due and name not in self._done:
                self._done.add(name)
                if not manifest["fallback"] and not self._verification.is_scored(time_of(name)):
                    self._score(name, manifest)
                    return True
        self._done &= set(self._publisher.published)
        if self._told_at is None or now >= self._told_at + EVERY or now < self._told_at:
            self._told_at = now
            self.skill = self._tell(now)
            return True
        return False

    def _score(self, name: str, manifest: Manifest) -> None:
        members = next(file["name"] for file in manifest["files"] if file["role"] == "members")
        path = self._publisher.forecasts / name / members
        frames = []
        for lead in (np.timedelta64(0, "s"), *self._leads):
            try:
                frames.append(self._live.window(time_of(name) + lead, 1).rain)
            except RefusedInput as error:
                logger.info("no truth for %s: %s", name, error)
        if frames:
            radar = xr.concat(frames, dim="time", coords="minimal", compat="override")
            self._verification.update({manifest["asked_model"]: path}, radar)

    def _tell(self, now: np.datetime64) -> dict[str, Any] | None:
        """Skill of the last hours, and whether it is lower than it should be."""
        since = now - minutes(self._settings.hours * 60)
        recent = self._scores(since, now)
        if recent is None:
            return None
        skill = _skill(recent)
        alarm = _alarm(skill, self._history.before(since), self._settings)
        self._history.add(now, skill)
        if alarm and (self.skill is None or not self.skill["alarm"]):
            logger.warning("alarm: %s", alarm)
        return {"skill": skill, "reference": PERSISTENCE, "since": stamp(since), "alarm": alarm or None}

    def _scores(self, since: np.datetime64, until: np.datetime64) -> xr.Dataset | None:
        """Scores of a period in which there was rain enough; nothing if there was not."""
        try:
            scores = self._verification.scores(since=since, until=until)
        except RefusedInput:
            return None
        scores = scores.isel(lead_time=np.isin(scores["lead_time"].values, self._leads))
        wet = float((scores["events"].isel(threshold=0) / scores["cells"]).mean())
        enough = int(scores["case_count"].min()) >= self._settings.least_cases
        return scores if enough and wet >= self._settings.least_wet else None


class History:
    """What skill was told when, in a file of one JSON object.

    Args:
        path: The file.
        keep: How long it goes back.
    """

    def __init__(self, path: Path, keep: np.timedelta64) -> None:
        self._path, self._keep = path, keep
        self._told: dict[str, dict[str, float]] = {}
        if path.is_file():
            try:
                told = json.loads(path.read_text())
                self._told = {iso(np.datetime64(when)): dict(skill) for when, skill in told.items()}
            except (ValueError, TypeError, AttributeError) as error:
                logger.warning("%s is begun anew: %s", path.name, error)

    def add(self, time: np.datetime64, skill: dict[str, float]) -> None:
        """Keep what was told."""
        told = {**self._told, iso(time): skill}
        self._told = {when: skill for when, skill in told.items() if np.datetime64(when) > time - self._keep}
        with written_whole(self._path) as partial:
            Path(partial).write_text(json.dumps(self._told))

    def before(self, time: np.datetime64) -> dict[str, float]:
        """The median of the skill that was told up to a time, by lead time in minutes."""
        earlier = [skill for when, skill in self._told.items() if np.datetime64(when) <= time]
        leads = {lead for skill in earlier for lead in skill}
        return {lead: float(np.median([skill[lead] for skill in earlier if lead in skill])) for lead in leads}


def _skill(scores: xr.Dataset) -> dict[str, float]:
    """Skill by CRPS over persistence, by lead time in minutes."""
    (model,) = [name for name in scores["model"].values if name != PERSISTENCE][:1]
    skill = scores["crps_skill"].sel(model=model)
    leads = (skill["lead_time"].values / np.timedelta64(1, "m")).astype(int)
    pairs = zip(leads, skill.values, strict=True)
    return {str(lead): round(float(value), 4) for lead, value in pairs if np.isfinite(value)}


def _alarm(skill: dict[str, float], before: dict[str, float], settings: Verification) -> str:
    """What is wrong with skill, in one line; nothing if it is as it should be."""
    low = [f"{value:.2f} at {lead} min" for lead, value in skill.items() if value < settings.least_skill]
    fallen = [
        f"{value:.2f} after {before[lead]:.2f} at {lead} min"
        for lead, value in skill.items()
        if lead in before and value < before[lead] - settings.largest_drop
    ]
    parts = ["skill below what is asked: " + ", ".join(low)] if low else []
    return "; ".join(parts + (["skill has fallen: " + ", ".join(fallen)] if fallen else []))
