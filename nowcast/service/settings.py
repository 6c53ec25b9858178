"""Settings of the service, each with a default that a national 5-minute composite can start with."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep.pipeline import Recipe
from data_prep.quality import FRAME_MARKS
from data_prep.schema import RefusedInput, refuse_less
from nowcast.products.cf import FileForm
from nowcast.products.write import Products


@dataclass(frozen=True)
class Input:
    """Radar files as they come.

    Attributes:
        source: Folder that they come into.
        prep: Prep configuration that says how they are read, as in configs/prep.
        settle_seconds: A file counts once it has not changed for so long.
        offset_minutes: Of the times of frames from full time steps since midnight.
        future_minutes: A frame further ahead of the clock than this when it comes is refused for good.
        newest_files: Of more files than this, those that were written last are looked at.
        doubted: Marks of whole frames (see docs/archives.md) with which a frame counts as missing.
    """

    source: str
    prep: str
    settle_seconds: float = 1.0
    offset_minutes: float = 0.0
    future_minutes: float = 2.0
    newest_files: int = 2000
    doubted: tuple[str, ...] = ("repeated", "level_jump", "gone_dry")

    def __post_init__(self) -> None:
        object.__setattr__(self, "doubted", tuple(self.doubted))
        refuse_less({"input.settle_seconds": self.settle_seconds, "input.future_minutes": self.future_minutes,
                     "input.offset_minutes": self.offset_minutes}, than=0)  # fmt: skip
        refuse_less({"input.newest_files": self.newest_files}, than=1)
        unknown = sorted(set(self.doubted) - FRAME_MARKS.keys())
        if unknown:
            raise RefusedInput(
                f"input.doubted names marks of frames ({', '.join(FRAME_MARKS)})", came=", ".join(unknown),
                do="correct the configuration",
            )  # fmt: skip


@dataclass(frozen=True)
class Forecasts:
    """What is forecast, and by which model.

    Attributes:
        model: As for ``nowcast forecast``. A checkpoint or weights file that is replaced is loaded between
            two cycles; one that cannot be used is refused, and the one before stays.
        fallbacks: Models that are asked one after another where that one fails, or frames are missing.
        members: Ensemble size; a deterministic model makes one.
        lead_steps: Future frames.
        seed: With the reference time, all that a member depends on.
        device: Where to compute, as torch names devices.
    """

    model: str = "pretrained"
    fallbacks: tuple[str, ...] = ("extrapolation", "persistence")
    members: int = 20
    lead_steps: int = 18
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "fallbacks", tuple(self.fallbacks))
        refuse_less({"forecast.members": self.members, "forecast.lead_steps": self.lead_steps}, than=1)
        refuse_less({"forecast.seed": self.seed}, than=0)


@dataclass(frozen=True)
class Policy:
    """What to do about frames that come late or not at all; minutes are counted from the time of a frame.

    Attributes:
        wait_minutes: How long a frame is waited for. Then a forecast is made without it.
        interpolate: Whether one missing frame between two others is interpolated along the motion.
        deadline_minutes: When a model that is still at work is given up for the next one.
        stale_minutes: From when on a forecast is no longer made, and a published one no longer current.
        retry_seconds: How long to wait after a forecast could not be written; doubled each time.
    """

    wait_minutes: float = 8.0
    interpolate: bool = True
    deadline_minutes: float = 12.0
    stale_minutes: float = 20.0
    retry_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.wait_minutes <= self.deadline_minutes <= self.stale_minutes:
            raise RefusedInput(
                "0 < policy.wait_minutes <= deadline_minutes <= stale_minutes",
                came=f"{self.wait_minutes:g}, {self.deadline_minutes:g}, {self.stale_minutes:g}",
                do="correct the configuration",
            )
        refuse_less({"policy.retry_seconds": self.retry_seconds}, than=1)

    @property
    def stale(self) -> np.timedelta64:
        """`stale_minutes` as a time."""
        return minutes(self.stale_minutes)

    @property
    def wait(self) -> np.timedelta64:
        """`wait_minutes` as a time."""
        return minutes(self.wait_minutes)

    @property
    def deadline(self) -> np.timedelta64:
        """`deadline_minutes` as a time."""
        return minutes(self.deadline_minutes)


@dataclass(frozen=True)
class Retention:
    """Which published forecasts are kept; the newest always is.

    Attributes:
        hours: Older ones are removed.
        gigabytes: Of more than this, the oldest are removed.
        free_gigabytes: Where less is free on the disk, the oldest are removed before the next is made.
    """

    hours: float = 48.0
    gigabytes: float = 50.0
    free_gigabytes: float = 1.0

    def __post_init__(self) -> None:
        values = {f"retention.{name}": value for name, value in asdict(self).items()}
        refuse_less(values, than=0)


@dataclass(frozen=True)
class Http:
    """The page and what monitors read.

    Attributes:
        enabled: Whether there is a server.
        host: Address it listens on. Whoever reaches it reads every forecast; there is no password.
        port: 0 takes a free one, which the log names.
        connections: That are answered at once; further ones are told to come again.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8080
    connections: int = 16

    def __post_init__(self) -> None:
        refuse_less({"http.connections": self.connections}, than=1)
        if not 0 <= self.port <= 65535:
            raise RefusedInput("http.port lies in [0, 65535]", came=self.port, do="correct the configuration")


@dataclass(frozen=True)
class Verification:
    """Scores of published forecasts as their truth arrives.

    Attributes:
        enabled: Whether forecasts of the model are scored (those of its fallbacks are not).
        lead_minutes: Lead times that are scored.
        hours: Over which skill is told, against persistence, by CRPS.
        keep_days: How far back skill that was told serves to compare with.
        least_skill: There is an alarm if skill is below this at one of the lead times.
        largest_drop: There is an alarm if skill is lower by this than over the days before.
        least_cases: Forecasts that must be scored before skill is told.
        least_wet: Mean share of wet cells (1 mm/h) in them: without rain there is no skill to lose.
    """

    enabled: bool = True
    lead_minutes: tuple[int, ...] = (15, 30, 60, 90)
    hours: float = 24.0
    keep_days: float = 30.0
    least_skill: float = 0.0
    largest_drop: float = 0.2
    least_cases: int = 12
    least_wet: float = 0.002

    def __post_init__(self) -> None:
        object.__setattr__(self, "lead_minutes", tuple(self.lead_minutes))
        refuse_less({"verification.least_cases": self.least_cases, "verification.hours": self.hours}, than=1)
        if not self.lead_minutes or min(self.lead_minutes) < 1:
            raise RefusedInput(
                "verification.lead_minutes are lead times, 1 or more", came=self.lead_minutes,
                do="correct the configuration, or set verification.enabled to false",
            )  # fmt: skip


@dataclass(frozen=True)
class ServeSettings:
    """Settings of ``nowcast serve``.

    Attributes:
        input: Radar files as they come.
        output: Folder that forecasts are published in; one service at a time uses it.
        domain: Name of the area, for file names.
        forecast: What is forecast, and by which model.
        policy: What to do about frames that come late or not at all.
        form: Form of the forecast files.
        products: What is made of each forecast.
        retention: Which published forecasts are kept.
        http: The page and what monitors read.
        verification: Scores of published forecasts as their truth arrives.
        log_json: Whether each line of the log is a JSON object.
        poll_seconds: How often to look for new files where no event tells of them.
    """

    input: Input
    output: str
    domain: str = "radar"
    forecast: Forecasts = field(default_factory=Forecasts)
    policy: Policy = field(default_factory=Policy)
    form: FileForm = field(default_factory=FileForm)
    products: Products = field(default_factory=Products)
    retention: Retention = field(default_factory=Retention)
    http: Http = field(default_factory=Http)
    verification: Verification = field(default_factory=Verification)
    log_json: bool = False
    poll_seconds: float = 10.0

    def __post_init__(self) -> None:
        refuse_less({"poll_seconds": self.poll_seconds}, than=0.1)
        if not re.fullmatch(r"[A-Za-z0-9-]{1,40}", self.domain):
            raise RefusedInput(
                "domain is part of file names: letters, digits and hyphens", came=repr(self.domain),
                do="correct the configuration",
            )  # fmt: skip

        source, output = Path(self.input.source).resolve(), Path(self.output).resolve()
        if output.is_relative_to(source):
            raise RefusedInput(
                "output lies outside input.source", came=self.output, do="publish to a folder of its own"
            )

    def digest(self, recipe: Recipe) -> str:
        """SHA-256 of all that shapes a forecast: settings and recipe, but no folder and no address."""
        shaping = [asdict(part) for part in (self.forecast, self.policy, self.form, self.products, recipe)]
        of_input = asdict(replace(self.input, source="", prep=""))
        text = json.dumps([self.domain, of_input, *shaping], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def minutes(count: float) -> np.timedelta64:
    """Minutes as numpy has them."""
    return np.timedelta64(round(count * 60), "s")
