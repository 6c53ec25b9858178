"""What the service says of itself: metrics for Prometheus, and what its page and probes read."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nowcast.service.clock import Clock, of_stamp, stamp
from nowcast.service.journal import Outcome
from nowcast.service.publishing import Manifest
from nowcast.service.settings import Policy

ALIVE_SECONDS = 300.0
"""After which a service that has not moved on is taken to hang."""
MINUTE = np.timedelta64(1, "m")


class Health:
    """State of a service, for other threads to read.

    Args:
        clock: The time.
        policy: When a forecast is stale.
    """

    def __init__(self, clock: Clock, policy: Policy) -> None:
        self._clock, self._policy = clock, policy
        self._lock = threading.Lock()
        self._latest: Manifest | None = None
        self._last: Outcome | None = None
        self._newest_frame: np.datetime64 = np.datetime64("NaT", "ns")
        self._beat = clock.elapsed()
        self.verification: dict[str, Any] | None = None
        self.registry = CollectorRegistry()
        self._define_metrics()

    def _define_metrics(self) -> None:
        gauge, counter = partial(Gauge, registry=self.registry), partial(Counter, registry=self.registry)
        self._success = gauge("nowcast_last_success_timestamp_seconds", "When a forecast was published")
        self._reference = gauge(
            "nowcast_reference_timestamp_seconds", "Reference time of the newest forecast"
        )
        self._age = gauge("nowcast_input_age_seconds", "Age of the newest radar frame")
        self._age.set_function(self._input_age)
        self._stale = gauge("nowcast_stale", "1 if there is no current forecast")
        self._stale.set_function(lambda: float(not self.is_ready()))
        self._stages = Histogram(
            "nowcast_stage_seconds", "Time of the stages of a cycle", ["stage"],
            buckets=(0.1, 0.3, 1, 3, 10, 20, 30, 60, 120, 300), registry=self.registry,
        )  # fmt: skip
        self._latency = gauge(
            "nowcast_latency_seconds", "From the arrival of the last frame to the published forecast"
        )
        self._cycles = counter("nowcast_cycles", "Reference times, by what became of them", ["outcome"])
        self._fallbacks = counter("nowcast_fallbacks", "Forecasts that a fallback made", ["model"])
        self._refused = counter("nowcast_refused_files", "Radar files and frames that were refused")
        self._gaps = counter(
            "nowcast_input_gaps", "Frames of published forecasts that were not observed", ["status"]
        )
        self._errors = counter("nowcast_write_errors", "Forecasts that could not be made or written")
        self._jumps = counter("nowcast_clock_jumps", "Times the clock was set by more than 30 s")
        self._wet = gauge("nowcast_wet_fraction", "Share of wet cells in the newest forecast")
        self._spread = gauge("nowcast_spread_mm_per_h", "Spread of the newest forecast at its end")
        self._model = gauge("nowcast_model_usable", "1 if the model that is asked for can be used")
        self._skill = gauge(
            "nowcast_crps_skill", "Skill of published forecasts over persistence", ["lead_minutes"]
        )
        self._alarm = gauge("nowcast_skill_alarm", "1 if skill has fallen")

    def beat(self) -> None:
        """The service moves on."""
        self._beat = self._clock.elapsed()

    def input_is(self, newest: np.datetime64, *, model_problem: str, refused: int) -> None:
        """What there is to forecast from and with."""
        with self._lock:
            self._newest_frame = newest
        self._model.set(not model_problem)
        self._refused.inc(refused)

    def stage(self, name: str, seconds: float) -> None:
        """How long a stage took."""
        self.beat()
        self._stages.labels(name).observe(seconds)

    def clock_jumped(self) -> None:
        """The clock was set."""
        self._jumps.inc()

    def failed(self) -> None:
        """A forecast could not be made or written."""
        self._errors.inc()

    def decided(self, outcome: Outcome, count: int = 1) -> None:
        """Something became of one reference time or more."""
        self._cycles.labels(outcome.outcome).inc(count)
        with self._lock:
            if self._last is None or outcome.time >= self._last.time:
                self._last = outcome

    def published(self, manifest: Manifest) -> None:
        """A forecast was published."""
        self._success.set(_seconds(self._clock.now()))
        self._wet.set(manifest["wet_fraction"])
        self._spread.set(manifest["spread"])
        self._latency.set(manifest["seconds"]["total"])
        if manifest["fallback"]:
            self._fallbacks.labels(manifest["model"]).inc()
        for frame in manifest["input_frames"]:
            if frame["status"] != "observed":
                self._gaps.labels(frame["status"]).inc()

    def latest_is(self, manifest: Manifest | None, last: Outcome | None = None) -> None:
        """Which forecast is the newest; and what became of the last reference time, if that is known."""
        with self._lock:
            self._latest = manifest
            self._last = last or self._last
        if manifest is not None:
            self._reference.set(_seconds(of_stamp(manifest["reference_time"])))

    def verified(self, told: dict[str, Any] | None) -> None:
        """What verification found."""
        self.verification = told
        for lead, skill in (told or {}).get("skill", {}).items():
            self._skill.labels(lead).set(skill)
        self._alarm.set(bool(told and told["alarm"]))

    def is_alive(self) -> bool:
        """Whether the service has moved on lately."""
        return self._clock.elapsed() - self._beat < ALIVE_SECONDS

    def is_ready(self) -> bool:
        """Whether there is a forecast that is not stale."""
        return bool(self._latest) and not self.as_dict()["stale"]

    def metrics(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self.registry)

    def as_dict(self) -> dict[str, Any]:
        """What the page shows."""
        with self._lock:
            latest, last = self._latest, self._last
        now = self._clock.now()
        age = None if latest is None else round(float((now - of_stamp(latest["reference_time"])) / MINUTE), 2)
        limit = self._policy.stale_minutes
        return {
            "now": stamp(now),
            "age_minutes": age,
            "stale": age is None or not -limit <= age <= limit,
            "stale_after_minutes": limit,
            "last_cycle": None if last is None else {
                "reference_time": stamp(last.time), "outcome": last.outcome, "reason": last.reason or None
            },
            "verification": self.verification,
            "forecast": latest,
        }  # fmt: skip

    def _input_age(self) -> float:
        with self._lock:
            newest = self._newest_frame
        if np.isnat(newest):
            return float("inf")  # no comparison with NaN would raise an alarm
        return float((self._clock.now() - newest) / np.timedelta64(1, "s"))


def _seconds(time: np.datetime64) -> float:
    return int(time.astype("datetime64[ms]").astype(np.int64)) / 1000
