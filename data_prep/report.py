"""What a preparation did: as JSON for programs, as text for people."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.frames import Tally
from data_prep.quality import FRAME_MARKS, WET_RATE
from data_prep.schema import iso
from data_prep.sources import Refusal, readable_name

SHOWN = 10
"""Lines of one kind in the text; the JSON holds all."""


class Gap(NamedTuple):
    """Consecutive times of the clock without a frame: the first, the last, and how many."""

    first: str
    last: str
    times: int


def gaps_of(missing: np.ndarray, step: np.timedelta64) -> list[Gap]:
    """The gaps that some missing times make.

    Args:
        missing: Times without a frame, datetime64, increasing.
        step: Of the clock.
    """
    if missing.size == 0:
        return []
    runs = np.split(missing, np.flatnonzero(np.diff(missing) > step) + 1)
    return [Gap(iso(run[0]), iso(run[-1]), run.size) for run in runs]


@dataclass
class Report:
    """What a preparation did.

    Attributes:
        source: Folder of radar files.
        store: The store.
        files: Files found.
        written: Frames written.
        frames: Frames in the store afterwards.
        first: Time of the first frame in the store.
        last: Time of the last.
        time_step_minutes: Step of its clock.
        grid: Its grid, in words.
        readers: Frames written, by reader.
        refused: What is not in the store, and why.
        marked: Frames written that were marked: time and marks.
        gaps: Times of the clock without a frame.
        windows: Sampled training windows in the store.
        tally: Of the written frames as they were read.
        seconds: How long it took.
    """

    source: str
    store: str
    files: int = 0
    written: int = 0
    frames: int = 0
    first: str | None = None
    last: str | None = None
    time_step_minutes: float | None = None
    grid: str = ""
    readers: Counter = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)
    marked: list[tuple[str, list[str]]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    windows: int | None = None
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0

    def refuse(self, refusals: list[Refusal]) -> None:
        """Take note of what is refused, files by their path below the source."""
        root = Path(self.source)
        for refusal in refusals:
            path = Path(refusal.file)
            name = str(path.relative_to(root)) if path.is_relative_to(root) and path != root else refusal.file
            self.refused.append(
                refusal._replace(file=readable_name(name), reason=readable_name(refusal.reason))
            )

    def mark(self, time: np.datetime64, marks: int) -> None:
        """Take note of a frame's marks."""
        if marks:
            self.marked.append((iso(time), [name for name, bit in FRAME_MARKS.items() if marks & bit]))

    def as_json(self) -> str:
        """Everything, as JSON."""
        content = vars(self) | {
            "refused": [refusal._asdict() for refusal in self.refused],
            "marked": [{"time": time, "marks": marks} for time, marks in self.marked],
            "gaps": [gap._asdict() for gap in self.gaps],
            "tally": self.tally._asdict(),
        }
        return json.dumps(content, indent=1)

    def as_text(self) -> str:
        """What a person wants to know."""
        lines = [
            f"{self.store}: {self.written} new frame(s), {self.files} file(s) found, {self.seconds:.1f} s"
            + (f", {self.written / self.seconds:.0f} frames/s" if self.written and self.seconds else "")
        ]
        if self.frames:
            lines.append(
                f"it holds {self.frames} frame(s) every {self.time_step_minutes:g} min, {self.first} to "
                f"{self.last}, {self.grid}"
            )
        if self.tally.observed:
            tally, readers = self.tally, ", ".join(f"{name} {n}" for name, n in self.readers.items())
            lines.append(
                f"as read ({readers}): no data {1 - tally.observed / tally.cells:.1%}; of the rest wet "
                f"({WET_RATE:g} mm/h or more) {tally.wet / tally.observed:.2%}; largest rate "
                f"{tally.largest:.1f} mm/h"
            )
        if self.windows is not None:
            lines.append(f"{self.windows} sampled windows")
        lines += self._counted("gap(s)", [f"{g.first} to {g.last}, {g.times} time(s)" for g in self.gaps])
        kinds = Counter(mark for _, marks in self.marked for mark in marks)
        for kind, count in kinds.items():
            first = next(time for time, marks in self.marked if kind in marks)
            lines.append(f"marked {kind}: {count} frame(s), first {first}")
        lines += self._counted(
            "refused",
            [f"{r.file}{f' ({r.time})' if r.time else ''}: {r.reason}" for r in self.refused],
        )
        return "\n".join(lines)

    @staticmethod
    def _counted(name: str, items: list[str]) -> list[str]:
        if not items:
            return []
        more = [f"  and {len(items) - SHOWN} more, in the report file"] if len(items) > SHOWN else []
        return [f"{len(items)} {name}:", *(f"  {item}" for item in items[:SHOWN]), *more]
