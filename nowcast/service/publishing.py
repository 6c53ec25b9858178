"""Forecasts appear whole, once, and in order of time; what a crash left behind is cleared.

A forecast is a folder. It is made in ``.making`` of the same file system, its files and its manifest are
brought to disk, and one rename lets it appear in ``forecasts``. Then ``latest.json`` is replaced. So a reader
never sees a part of a forecast, and after a crash at any point the last whole one is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.schema import RefusedInput
from nowcast.files import written_whole
from nowcast.service.clock import of_stamp
from nowcast.service.settings import Retention, minutes

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LATEST = "latest.json"
LOCK = ".lock"
NAME = re.compile(r"\d{8}T\d{4}(\d{2})?Z")
"""Of the folder of a forecast: its reference time."""

Manifest = dict[str, Any]
NEEDED: dict[str, Any] = {
    "reference_time": str, "published": str, "model": str, "asked_model": str, "fallback": str | None,
    "run_id": str, "members": int, "input_frames": list, "files": list, "problems": list,
    "wet_fraction": float | int, "spread": float | int,
}  # fmt: skip
"""What a manifest has to say, and in which kind of value."""


class AnotherInstance(Exception):
    """Another service publishes to the folder."""


def name_of(time: np.datetime64) -> str:
    """Name of the folder of a reference time, as ``20100826T0500Z``; with seconds where there are any."""
    text = str(time.astype("datetime64[s]")).replace("-", "").replace(":", "")
    return f"{text.removesuffix('00')}Z"


def time_of(name: str) -> np.datetime64:
    """Reference time of a folder by its name."""
    text = name.removesuffix("Z").ljust(15, "0")
    return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:11]}:{text[11:13]}:{text[13:]}", "ns")


class Publisher:
    """The folder that forecasts are published in. Use it under `locked`.

    Args:
        output: The folder.
        retention: Which forecasts are kept.

    Attributes:
        published: Manifests of the forecasts there are, by the names of their folders, oldest first.
    """

    def __init__(self, output: str | Path, retention: Retention) -> None:
        self._output, self._retention = Path(output), retention
        self._making, self._removed = self._output / ".making", self._output / ".removed"
        self.forecasts = self._output / "forecasts"
        self._folders = (self.forecasts, self._making, self._removed)
        self.published: dict[str, Manifest] = {}
        self._told: str | None = None
        self._recover()

    @property
    def latest(self) -> Manifest | None:
        """Manifest of the forecast from the newest reference time."""
        return next(reversed(self.published.values()), None)

    @contextmanager
    def made(self, time: np.datetime64) -> Iterator[Path]:
        """An empty folder to make a forecast in; it is gone afterwards, unless `publish` moved it."""
        folder = self._making / name_of(time)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, manifest: Manifest) -> Manifest:
        """Let a forecast appear.

        Args:
            folder: Of `made`, with all files of the forecast.
            manifest: What is said of it; ``files`` are added, with their roles from ``roles`` by name.

        Returns:
            The manifest as it is published.

        Raises:
            OSError: If the disk is full or cannot be written to; nothing has appeared then.
        """
        roles = manifest.pop("roles")
        files = [_described(path, folder, roles) for path in sorted(folder.rglob("*")) if path.is_file()]
        manifest = {**manifest, "published": _now(), "files": files}
        _write_synced(folder / MANIFEST, json.dumps(manifest, indent=1))
        for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
            _sync(path)
        self._clear_damaged(folder.name)
        os.rename(folder, self.forecasts / folder.name)
        # It is published: what fails from here on is made good later.
        self.published = dict(sorted({**self.published, folder.name: manifest}.items()))
        with suppress(OSError):
            _sync(self.forecasts)
        self.mend()
        return manifest

    def mend(self) -> bool:
        """Forget forecasts that somebody took away, and have `LATEST` say what is the newest.

        Returns:
            Whether forecasts are gone.
        """
        there = {folder.name for folder in self.forecasts.iterdir()} if self.forecasts.is_dir() else set()
        gone = sorted(self.published.keys() - there)
        if gone:
            logger.warning("somebody took away the forecasts of %s", ", ".join(gone))
            self.published = {name: told for name, told in self.published.items() if name in there}
        told = self.latest["run_id"] if self.latest else ""
        if told != self._told:
            try:
                self._say_latest()
                self._told = told
            except OSError as error:
                logger.error("%s cannot be written: %s; it is tried again", LATEST, error)
        return bool(gone)

    def make_room(self, now: np.datetime64) -> None:
        """Remove forecasts that are too old, or too many for the disk; the newest stays."""
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        limit = self._retention
        if self.published:  # a clock that is ahead must not make everything old
            now = min(now, time_of(next(reversed(self.published))))
        sizes = {name: sum(file["bytes"] for file in told["files"]) for name, told in self.published.items()}
        kept = list(sizes)
        for name in kept[:-1]:
            too_old = now - time_of(name) > minutes(60 * limit.hours)
            too_much = sum(sizes[other] for other in kept) > limit.gigabytes * 1e9
            if not (too_old or too_much or self._free() < limit.free_gigabytes * 1e9):
                break
            self._remove(name)
            kept.remove(name)

    def _free(self) -> int:
        return shutil.disk_usage(self._output).free

    def _remove(self, name: str) -> None:
        """Take a forecast away: whole, by one rename, before its files go."""
        os.rename(self.forecasts / name, self._removed / name)
        shutil.rmtree(self._removed / name, ignore_errors=True)
        self.published = {other: told for other, told in self.published.items() if other != name}
        logger.info("removed the forecast of %s", name)

    def _recover(self) -> None:
        """Clear what a crash left, and learn what is published."""
        for left in (self._making, self._removed):
            shutil.rmtree(left, ignore_errors=True)
        for folder in self._folders:  # on a full disk it would be too late
            folder.mkdir(parents=True, exist_ok=True)
        for partial in (*self._output.glob(".*.partial"), *self._output.glob("*/.*.partial")):
            partial.unlink(missing_ok=True)
        for folder in sorted(self.forecasts.iterdir()):
            if NAME.fullmatch(folder.name):
                try:
                    self.published[folder.name] = read_manifest(folder)
                except RefusedInput as error:
                    logger.error("%s counts as not published: %s", folder.name, error)
        self.mend()

    def _clear_damaged(self, name: str) -> None:
        """Take away a folder that is in the place of a forecast and is none."""
        if name not in self.published and (self.forecasts / name).exists():
            logger.warning("%s was damaged, and is made again", name)
            os.rename(self.forecasts / name, self._removed / name)
            shutil.rmtree(self._removed / name, ignore_errors=True)

    def _say_latest(self) -> None:
        latest = self.latest
        path = self._output / LATEST
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        if latest is None:
            path.unlink(missing_ok=True)
            return
        with written_whole(path) as partial:
            Path(partial).write_text(json.dumps(latest, indent=1))


@contextmanager
def locked(output: str | Path) -> Iterator[Callable[[], bool]]:
    """Keep other services away from a folder; the lock goes when its process goes.

    Yields:
        Whether the folder is still the one that is locked.

    Raises:
        AnotherInstance: If one uses it.
    """
    Path(output).mkdir(parents=True, exist_ok=True)
    # Opened for reading, so that it does not keep the file system from being made read-only.
    handle = os.open(Path(output) / LOCK, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnotherInstance(f"another service publishes to {output}") from error

        def still() -> bool:
            with suppress(OSError):
                return os.stat(Path(output) / LOCK).st_ino == os.fstat(handle).st_ino
            return False

        yield still
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a published forecast.

    Raises:
        RefusedInput: If there is none that can be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if time_of(folder.name) != of_stamp(manifest["reference_time"]):
            raise ValueError(f"it is of {manifest['reference_time']}")
        lacking = [name for name, kind in NEEDED.items() if not isinstance(manifest[name], kind)]
        odd = [file["name"] for file in manifest["files"] if not _is_inside(file)]
        if lacking or odd:
            raise ValueError(f"it has no good {', '.join(lacking + odd)}")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RefusedInput(
            f"the folder of a forecast holds a {MANIFEST}", came=f"{folder} ({error})", do="make it again"
        ) from error
    return manifest


def _is_inside(file: dict[str, Any]) -> bool:
    """Whether a manifest names a file of its own folder, with its size and its SHA-256."""
    path = Path(file["name"])
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and isinstance(file["bytes"], int) and isinstance(file["sha256"], str)


def differences(folder: Path) -> list[str]:
    """What of a published forecast is not as its manifest says, one finding a line.

    Raises:
        RefusedInput: If it has no manifest.
    """
    manifest = read_manifest(folder)
    findings = []
    for file in manifest["files"]:
        path = folder / file["name"]
        if not path.is_file():
            findings.append(f"{file['name']} is absent")
        elif path.stat().st_size != file["bytes"] or _sha256(path) != file["sha256"]:
            findings.append(f"{file['name']} is not what the manifest names")
    named = {file["name"] for file in manifest["files"]} | {MANIFEST}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return findings + [f"{name} is not in the manifest" for name in sorted(there - named)]


def check_published(path: str | Path) -> tuple[list[str], list[str]]:
    """Facts of a published forecast and findings, one a line.

    Raises:
        RefusedInput: If it has no manifest.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    frames = ", ".join(f"{frame['time']} {frame['status']}" for frame in manifest["input_frames"])
    size = sum(file["bytes"] for file in manifest["files"]) / 1e6
    facts = [
        f"{manifest['model']} from {manifest['reference_time']}, {manifest['members']} member(s), "
        f"published {manifest['published']}",
        f"input: {frames}",
        f"{len(manifest['files'])} files, {size:.0f} MB",
    ]
    facts += [f"fallback: {manifest['fallback']}"] if manifest["fallback"] else []
    return facts, [*manifest["problems"], *differences(folder)]


def _described(path: Path, folder: Path, roles: dict[str, str]) -> dict[str, Any]:
    """A file of a forecast, brought to disk."""
    _sync(path)
    name = str(path.relative_to(folder))
    role = roles.get(name) or roles.get(name.split("/")[0], "other")
    return {"name": name, "role": role, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Bring a file or the names in a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
