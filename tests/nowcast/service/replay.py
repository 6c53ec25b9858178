"""A radar whose frames come as a test says, a clock that goes as it says, and a service on both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from odim_files import LAEA, corners, write_odim

from nowcast.products.forecast_file import FileForm
from nowcast.products.write import Products
from nowcast.service.core import Service, opened
from nowcast.service.publishing import differences, time_of
from nowcast.service.settings import Forecasts, Http, Input, Policy, ServeSettings, Verification

START = np.datetime64("2024-06-01T12:00", "ns")
"""Time of the first frame."""
STEP = np.timedelta64(5, "m")
SIZE = 32
PREP = """# Frames of the replay.
pattern: "*.h5"
reader: odim_hdf5
time_step_minutes: 5
sampling: null
about: {title: A blob that moves, institution: Nobody, license: CC0-1.0}
"""


class ReplayClock:
    """A clock that stands still but for `go`, and that can be set wrong."""

    def __init__(self, start: np.datetime64 = START) -> None:
        self._start, self._elapsed, self.wrong_by = start, 0.0, 0.0

    def now(self) -> np.datetime64:
        return self._start + np.timedelta64(round((self._elapsed + self.wrong_by) * 1e9), "ns")

    def elapsed(self) -> float:
        return self._elapsed

    def go(self, seconds: float) -> None:
        self._elapsed += seconds


def rain(number: int, size: int = SIZE) -> np.ndarray:
    """mm/h at a frame: a blob that moves a column and half a row, and light rain that does not end."""
    y, x = np.mgrid[:size, :size]
    blob = 9 * np.exp(-(((x - 6 - number % 14) ** 2) / 40 + ((y - 10 - number % 14 / 2) ** 2) / 30))
    values = np.where(blob < 0.1, 0, blob)
    values[:, -2:] = -9999000  # no data
    return values


def time_at(number: float) -> np.datetime64:
    """Time of a frame by its number."""
    return START + np.timedelta64(round(number * 300), "s")


def write_frame(
    folder: Path, number: int, *, values: np.ndarray | None = None, stamp: np.datetime64 | None = None,
    name: str = "",
) -> Path:  # fmt: skip
    """The file of a frame."""
    time = (time_at(number) if stamp is None else stamp).astype("datetime64[s]").item()
    day, clock = time.strftime("%Y%m%d"), time.strftime("%H%M%S")
    path = folder / (name or f"frame_{number:04d}.h5")
    path.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.unlink(missing_ok=True)
    place = "dataset1/data1/what"
    told = {"what/date": day, "what/time": clock}
    for end in ("start", "end"):
        told |= {f"{place}/{end}date": day, f"{place}/{end}time": clock}
    values = rain(number) if values is None else values
    rows, columns = values.shape
    edges = corners(LAEA, 1950000 - 500 * columns, -2100000 + 500 * rows, 1000 * columns, 1000 * rows)
    told |= {"where/xscale": 1000.0, "where/yscale": 1000.0, **edges}
    write_odim(partial, values, **told)
    partial.rename(path)
    return path


class World:
    """A folder that frames come into, and the settings of a service on it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.incoming, self.output = folder / "incoming", folder / "published"
        self.incoming.mkdir(exist_ok=True)
        self.clock = ReplayClock()
        (folder / "prep.yaml").write_text(PREP)
        self.settings = ServeSettings(
            **{
                "input": Input(str(self.incoming), str(folder / "prep.yaml"), settle_seconds=1.0),
                "output": str(self.output),
                "domain": "test",
                "forecast": Forecasts(
                    model="extrapolation", fallbacks=("persistence",), lead_steps=3, members=2
                ),
                "policy": Policy(wait_minutes=8, deadline_minutes=12, stale_minutes=20),
                "products": Products(kinds=("mean",), accumulation_minutes=(15,), picture=False, loop=None),
                "form": FileForm(),
                "http": Http(enabled=False),
                "verification": Verification(enabled=False),
            }
            | settings
        )

    def with_forecasts(self, **changed: Any) -> None:
        """Change what is forecast."""
        self.settings = replace(self.settings, forecast=replace(self.settings.forecast, **changed))

    def frame(self, number: int, **how: Any) -> Path:
        """Let a frame arrive."""
        return write_frame(self.incoming, number, **how)

    def frames(self, *numbers: int) -> None:
        """Let some frames arrive."""
        for number in numbers:
            self.frame(number)

    def be_at(self, number: float) -> None:
        """Let time go on to some time steps after the first frame."""
        seconds = number * 300 - self.clock.elapsed()
        assert seconds >= 0
        self.clock.go(seconds)

    @contextmanager
    def service(self, **how: Any) -> Iterator[Service]:
        with opened(self.settings, clock=self.clock, **how) as service:
            yield service

    def settle(self, service: Service) -> None:
        """Look at what there is, and again when files have stopped growing."""
        service.tick()
        self.clock.go(2)
        service.tick()

    def journal(self) -> list[dict]:
        """What became of reference times."""
        path = self.output / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def outcomes(self) -> dict[int, str]:
        """What became of reference times, by their numbers; `published` or the reason."""
        found = {}
        for told in self.journal():
            last = told.get("last", told["reference_time"])
            for number in range(number_of(told["reference_time"]), number_of(last) + 1):
                found[number] = "published" if told["outcome"] == "published" else told["reason"]
        return found

    def published(self) -> list[int]:
        """Numbers of the reference times that are published."""
        return [number_of(time_of(path.name)) for path in sorted((self.output / "forecasts").iterdir())]

    def manifest(self, number: int) -> dict:
        """Manifest of a reference time."""
        (folder,) = [
            path for path in (self.output / "forecasts").iterdir() if number_of(time_of(path.name)) == number
        ]
        return json.loads((folder / "manifest.json").read_text())

    def audit(self, due: range) -> list[str]:
        """What is not as it should be after a replay, one finding a line."""
        findings = []
        folders = sorted((self.output / "forecasts").iterdir())
        for folder in folders:
            findings += [f"{folder.name}: {finding}" for finding in differences(folder)]
        published, outcomes = set(self.published()), self.outcomes()
        for number in due:
            if number not in published and outcomes.get(number, "published") == "published":
                findings.append(f"{number} is neither published nor skipped for a reason")
        times = [told["reference_time"] for told in self.journal() if told["outcome"] == "published"]
        findings += [f"{time} was published twice" for time in {t for t in times if times.count(t) > 1}]
        latest = self.output / "latest.json"
        newest = json.loads((folders[-1] / "manifest.json").read_text()) if folders else None
        if (json.loads(latest.read_text()) if latest.exists() else None) != newest:
            findings.append("latest.json is not the manifest of the newest forecast")
        for left in (".making", ".removed"):
            findings += [f"{path} was left" for path in (self.output / left).glob("*")]
        return findings

    def clear(self) -> None:
        """Take away what was published."""
        shutil.rmtree(self.output, ignore_errors=True)


def number_of(time: str | np.datetime64) -> int:
    """Number of a frame by its time."""
    moment = np.datetime64(time.removesuffix("Z"), "ns") if isinstance(time, str) else time
    return round((moment - START) / STEP)


def manifest_of(time: np.datetime64) -> dict[str, Any]:
    """What a manifest has to say, of a forecast of a time."""
    return {
        "reference_time": f"{str(time)[:16]}Z", "model": "extrapolation", "asked_model": "extrapolation",
        "fallback": None, "run_id": str(time), "members": 1, "input_frames": [], "problems": [],
        "wet_fraction": 0.1, "spread": 0.0,
    }  # fmt: skip
