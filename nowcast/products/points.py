"""Forecasts at places: what the members say in the cell a place lies in, as CSV and JSON.

No value is no zero: a place outside the grid and a cell without data say so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.schema import RefusedInput
from nowcast.fields import Members, cells_at
from nowcast.products.cf import OWN, Labels, global_attributes, utc

OK, NO_COVERAGE, OUTSIDE = "ok", "no coverage", "outside the grid"
COLUMNS = ("name", "lat", "lon")
PROVENANCE = ("model", "checkpoint", "config_hash", "run_id", "seed", "input_frames")
"""Last columns of the CSV, beside the reference time and the number of members."""
DIGITS = 4
"""Decimals of what is written."""


class Place(NamedTuple):
    """A place whose forecast is wanted, degrees."""

    name: str
    lat: float
    lon: float


def read_places(path: str | Path) -> list[Place]:
    """Read the CSV file of the places.

    Raises:
        RefusedInput: If there is none, a column is missing, or a row is no place on Earth.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        places = [Place(row["name"], float(row["lat"]), float(row["lon"])) for row in rows]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise RefusedInput(
            "places are a CSV file with the columns name, lat and lon",
            came=f"{path} ({type(error).__name__}: {error})",
            do="repair it, or leave --points out",
        ) from error
    wrong = [place for place in places if not (abs(place.lat) <= 90 and abs(place.lon) <= 360)]
    if wrong or not places:
        raise RefusedInput(
            "places are one or more, with degrees north and east",
            came=f"{wrong[0]} in {path}" if wrong else f"none in {path}",
            do="correct the file",
        )
    return places


class PointForecasts:
    """The members at places, lead time by lead time.

    Args:
        places: Where.
        labels: Of the forecast.
        thresholds: Of the probabilities, mm/h.
        percentiles: %.
    """

    def __init__(
        self, places: Sequence[Place], labels: Labels, *, thresholds: Sequence[float],
        percentiles: Sequence[float],
    ) -> None:  # fmt: skip
        self.places, self.labels = places, labels
        self.thresholds, self.percentiles = thresholds, percentiles
        self.cells = cells_at(
            labels.coordinates, [place.lon for place in places], [place.lat for place in places]
        )
        self._inside = np.flatnonzero(self.cells[:, 0] >= 0)
        self._leads: list[dict[str, np.ndarray]] = []

    def add(self, values: np.ndarray) -> None:
        """Take the next lead time, mm/h, (M, y, x)."""
        rows, columns = self.cells[self._inside].T
        members = Members(values[:, rows, columns][:, None])
        made = {"mean": members.mean()}
        made |= {f"percentile_{level:g}": members.percentile(level) for level in self.percentiles}
        made |= {f"probability_{least:g}": members.probability(least) for least in self.thresholds}
        everywhere = {name: np.full(len(self.places), np.nan) for name in made}
        for name, found in made.items():
            everywhere[name][self._inside] = found[0]
        self._leads.append(everywhere)

    def write_csv(self, path: Path) -> None:
        """Write a row for each place and lead time; values that there are not are empty."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            told = {name: self.labels.attributes.get(name, "") for name in PROVENANCE}
            told["reference_time"], told["members"] = (
                utc(self.labels.reference_time),
                str(self.labels.members),
            )
            names = [*COLUMNS, "time", "lead_minutes", "status", *self._leads[0], *told]
            table = csv.DictWriter(file, names, lineterminator="\n")
            table.writeheader()
            for number, place in enumerate(self.places):
                for entry in self._series(number):
                    table.writerow(place._asdict() | entry | told)

    def write_json(self, path: Path) -> None:
        """Write all places with their lead times, and where the forecast comes from."""
        told = {name.removeprefix(OWN): text for name, text in global_attributes(self.labels).items()}
        document = {
            **{name: text for name, text in told.items() if name not in ("Conventions", "comment")},
            "reference_time": utc(self.labels.reference_time),
            "units": {"mean": "mm/h", "percentile": "mm/h", "probability": "1", "lead_minutes": "min"},
            "places": [
                {**place._asdict(), "forecast": self._series(number)}
                for number, place in enumerate(self.places)
            ],
        }
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _series(self, number: int) -> list[dict[str, Any]]:
        """What is known of one place, a lead time an entry."""
        times, minutes = self.labels.coordinates["time"].values, self.labels.lead_times / 60
        return [
            {"time": utc(time), "lead_minutes": float(minute), "status": self._status(number, values["mean"])}
            | {name: _rounded(found[number]) for name, found in values.items()}
            for time, minute, values in zip(times, minutes, self._leads, strict=True)
        ]

    def _status(self, number: int, mean: np.ndarray) -> str:
        if self.cells[number, 0] < 0:
            return OUTSIDE
        return OK if np.isfinite(mean[number]) else NO_COVERAGE


def _rounded(value: float) -> float | None:
    return round(float(value), DIGITS) if np.isfinite(value) else None
