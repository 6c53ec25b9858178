"""Facts of a store, a forecast file and this machine, and findings where a rule is broken."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from data_prep.schema import (
    FRAMES_GROUP,
    LARGEST_RATE,
    SPLITS,
    VARIABLE,
    clock_step,
    iso,
    minutes,
    open_store,
    validate,
)
from nowcast.forecaster import grid_spacing
from nowcast.products.forecast_file import read_forecast, validate_forecast

WET = 0.1
"""mm/h from which a cell counts as wet."""
RAINY_CELLS = 10
"""Wet cells from which two frames are not equal by chance; fewer may be clutter that stands still."""
OBSERVED_TOLERANCE = 1e-3
"""Share of the cells by which two counts of the observed ones may differ."""
TRAINING_SIZE = 256
"""Cells along a window of DGMR, and the least area that the MLCast specification asks for."""
CLUTTER_FRAMES = 288
"""Frames, a day of 5 minutes, from which a cell that is always wet tells of clutter rather than of rain."""
CLUTTER_WET, CLUTTER_USUAL = 0.95, 0.3
"""Share of the frames above which a cell is suspect, if the median cell is wet in less than the second."""
LISTED = 10
"""Lines of one kind that are shown."""
FRAMES_AT_ONCE = 12
PACKAGES = (
    "torch",
    "pytorch-lightning",
    "xarray",
    "zarr",
    "netCDF4",
    "cartopy",
    "numpy",
    "h5py",
    "jsonargparse",
)
ADAM_BYTES = 16
"""Bytes a float32 parameter takes in training: itself, its gradient and two moments."""

Report = tuple[list[str], list[str]]
"""Facts and findings, one a line."""


class StoreScan(NamedTuple):
    """What one pass over all values of a store leaves.

    Attributes:
        observed: Cells with data, of each frame.
        wet: Cells with `WET` or more, of each frame.
        smallest: Smallest rate of each frame, mm/h; NaN without data.
        largest: Largest rate of each frame, mm/h; NaN without data.
        fingerprint: Digest of each frame in 64 bits.
        cell_observed: Frames with data, of each cell, shape (y, x).
        cell_wet: Frames with `WET` or more, of each cell, shape (y, x).
    """

    observed: np.ndarray
    wet: np.ndarray
    smallest: np.ndarray
    largest: np.ndarray
    fingerprint: np.ndarray
    cell_observed: np.ndarray
    cell_wet: np.ndarray


def check_store(path: str | Path) -> Report:
    """Check the layout of a store, then every value in it.

    Raises:
        RefusedInput: If there is no store at the path.
    """
    dataset = open_store(path)
    findings = validate(dataset)
    if findings:
        return [], findings
    rain, times, step = dataset[VARIABLE], dataset["time"].values, clock_step(dataset)
    facts = [
        f"{dataset.attrs['title']} ({dataset.attrs['license']})",
        f"{times.size} frames every {minutes(step):g} min, {iso(times[0])} to {iso(times[-1])}, "
        f"{dataset.sizes.get('missing_times', 0)} missing between",
        *_gap_facts(times, step),
        f"{rain.sizes['y']} x {rain.sizes['x']} cells of {grid_spacing(rain) / 1000:.3g} km, "
        f"{rain['crs'].attrs['grid_mapping_name']}, {_corners(rain)}",
    ]
    scan = _scan(rain)
    if scan.observed.any():
        facts.append(
            f"no data {1 - scan.observed.sum() / rain.size:.0%}; of the rest wet ({WET:g} mm/h or more) "
            f"{scan.wet.sum() / scan.observed.sum():.1%}, largest rate {np.nanmax(scan.largest):.1f} mm/h"
        )
    table_facts, table_findings = _table_report(path, scan, times)
    facts += [*_cover_facts(scan), *_clutter_facts(scan), *table_facts]
    findings += [*_value_findings(scan, times), *_repeated_findings(scan, times), *table_findings]
    return [*facts, *_split_facts(path, dataset["split"].values)], findings


def _scan(rain: xr.DataArray) -> StoreScan:
    frames, cells = rain.sizes["time"], (rain.sizes["y"], rain.sizes["x"])
    whole = {name: np.zeros(frames, np.int64) for name in ("observed", "wet")}
    rates = {name: np.full(frames, np.nan) for name in ("smallest", "largest")}
    fingerprint = np.zeros(frames, np.uint64)
    cell_observed, cell_wet = np.zeros(cells, np.int32), np.zeros(cells, np.int32)
    for first in range(0, frames, FRAMES_AT_ONCE):
        for number, rate in enumerate(rain[first : first + FRAMES_AT_ONCE].values, first):
            known, wet = ~np.isnan(rate), rate >= WET
            cell_observed += known
            cell_wet += wet
            whole["observed"][number], whole["wet"][number] = known.sum(), wet.sum()
            if known.any():
                rates["smallest"][number], rates["largest"][number] = (
                    np.fmin.reduce(rate, None),
                    np.fmax.reduce(rate, None),
                )
            digest = hashlib.blake2b(np.ascontiguousarray(rate).data, digest_size=8).digest()
            fingerprint[number] = int.from_bytes(digest)
    return StoreScan(
        **whole, **rates, fingerprint=fingerprint, cell_observed=cell_observed, cell_wet=cell_wet
    )


def _gap_facts(times: np.ndarray, step: np.timedelta64) -> list[str]:
    """Density of the archive, and its gaps, the longest first."""
    lost = (np.diff(times) // step - 1).astype(int)
    if not lost.any():
        return []
    share = times.size / (times.size + lost.sum())
    gaps = [
        f"gap of {lost[n]} frame(s), {lost[n] * minutes(step):g} min, after {iso(times[n])}"
        for n in np.argsort(-lost, kind="stable")[: np.count_nonzero(lost)]
    ]
    head = f"{share:.1%} of the clock's times have a frame; {len(gaps)} gap(s), the longest first:"
    return [head, *_limited(gaps)]


def _value_findings(scan: StoreScan, times: np.ndarray) -> list[str]:
    """Frames without data and rates that cannot be."""
    return [
        *_limited([
            f"no observed cell at {iso(time)}: its time belongs in missing_times"
            for time in times[scan.observed == 0]
        ]),
        *_limited([f"negative rain rates at {iso(time)}" for time in times[scan.smallest < 0]]),
        *_limited([
            f"rain rates above {LARGEST_RATE:g} mm/h at {iso(time)}"
            for time in times[scan.largest > LARGEST_RATE]
        ]),
    ]  # fmt: skip


def _repeated_findings(scan: StoreScan, times: np.ndarray) -> list[str]:
    """Frames with rain that equal the one before, or an earlier one."""
    rainy, prints = scan.wet >= RAINY_CELLS, scan.fingerprint
    frozen = np.append(False, prints[1:] == prints[:-1]) & rainy
    edges = np.diff(frozen.astype(np.int8), prepend=0, append=0)
    runs = [
        f"frozen: {stop - start + 1} identical frames with rain from {iso(times[start - 1])} to "
        f"{iso(times[stop - 1])}"
        for start, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    ]
    numbers = np.flatnonzero(rainy)
    _, first, group = np.unique(prints[numbers], return_index=True, return_inverse=True)
    originals = numbers[first[group]]
    copies = [
        f"the frame at {iso(times[number])} is that at {iso(times[original])}"
        for number, original in zip(numbers, originals, strict=True)
        if number != original and not frozen[number]
    ]
    return [*_limited(runs), *_limited(copies)]


def _cover_facts(scan: StoreScan) -> list[str]:
    """The largest square of cells that are usually observed."""
    covered = 2 * scan.cell_observed >= scan.observed.size
    side = _largest_square(covered)
    fits = "fits" if side >= TRAINING_SIZE else "does not fit"
    return [
        f"{covered.mean():.0%} of the cells hold data in half of all frames or more; the largest square of "
        f"them is {side} x {side}: {TRAINING_SIZE} x {TRAINING_SIZE} {fits}"
    ]


def _largest_square(inside: np.ndarray) -> int:
    """Cells along the largest square that lies inside, by halving, since smaller squares fit into larger."""
    image = np.pad(inside.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))

    def fits(n: int) -> bool:
        return bool((image[n:, n:] - image[:-n, n:] - image[n:, :-n] + image[:-n, :-n] == n * n).any())

    fitting, too_large = 0, min(inside.shape) + 1
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        fitting, too_large = (middle, too_large) if fits(middle) else (fitting, middle)
    return fitting


def _clutter_facts(scan: StoreScan) -> list[str]:
    """Cells that are nearly always wet where others are not."""
    frames = scan.observed.size
    if frames < CLUTTER_FRAMES:
        return []
    usual = float(np.median(scan.cell_wet[scan.cell_observed > 0] / frames))
    suspects = np.argwhere(scan.cell_wet > CLUTTER_WET * frames)
    if not len(suspects) or usual >= CLUTTER_USUAL:
        return []
    row, column = suspects[0]
    return [
        f"{len(suspects)} cell(s) look like clutter, wet in more than {CLUTTER_WET:.0%} of all frames, the "
        f"median cell in {usual:.0%}; the first is row {row}, column {column}"
    ]


def _table_report(path: str | Path, scan: StoreScan, times: np.ndarray) -> Report:
    """Marked frames, and frames that are not what they were when they were prepared."""
    if not (Path(path) / FRAMES_GROUP / "zarr.json").is_file():
        return [], []
    table = xr.open_zarr(path, group=FRAMES_GROUP, chunks=None, consolidated=False)
    told = {
        name: table[name].values[: times.size]
        for name in ("observed", "wet", "marked", "marks")
        if name in table
    }
    short = [name for name, values in told.items() if values.size < times.size]
    if short:
        return [], [f"group {FRAMES_GROUP} tells {', '.join(short)} of fewer than the {times.size} frames"]
    findings = _changed_findings(told, scan, times) if "observed" in told else []
    if "marks" not in told:
        return [], findings
    attributes = table["marks"].attrs
    bits = attributes.get("flag_masks", attributes.get("flag_values", []))
    kinds = dict(zip(attributes.get("flag_meanings", "").split(), bits, strict=False))
    counts = {kind: np.flatnonzero(told["marks"] & bit) for kind, bit in kinds.items()}
    marked = [f"{kind} {n.size} (first {iso(times[n[0]])})" for kind, n in counts.items() if n.size]
    return ["marked frames: " + ", ".join(marked)] if marked else [], findings


def _changed_findings(told: dict[str, np.ndarray], scan: StoreScan, times: np.ndarray) -> list[str]:
    """Frames with more or fewer observed cells, or less rain, than when they were prepared.

    A part of a store that is lost reads as dry. Marked cells may have been masked since they were counted.
    """
    cells = scan.cell_wet.size
    masked = told.get("marked", np.zeros(times.size)) / cells
    seen, then = scan.observed / cells, told["observed"]
    changed = (seen > then + OBSERVED_TOLERANCE) | (seen < then - masked - OBSERVED_TOLERANCE)
    wet = told["wet"] * then - masked if "wet" in told else np.zeros(times.size)
    dried = ~changed & (scan.wet == 0) & (wet > OBSERVED_TOLERANCE)
    lost = "part of the store is lost"
    return [
        *_limited([
            f"{share:.1%} of the cells hold data at {iso(time)}, {before:.1%} when it was prepared: {lost}"
            for time, share, before in zip(times[changed], seen[changed], then[changed], strict=True)
        ]),
        *_limited([
            f"no rain at {iso(time)}, {before:.1%} of the cells were wet when it was prepared: {lost}"
            for time, before in zip(times[dried], wet[dried], strict=True)
        ]),
    ]  # fmt: skip


def _limited(lines: list[str]) -> list[str]:
    """The first lines of one kind, and how many more there are."""
    more = [f"and {len(lines) - LISTED} more like the last"] if len(lines) > LISTED else []
    return lines[:LISTED] + more


def check_forecast(path: str | Path) -> Report:
    """Check a forecast file.

    Raises:
        RefusedInput: If it is not a forecast file of this package.
    """
    findings = validate_forecast(path)
    ensemble = read_forecast(path)
    leads = ensemble["lead_time"].values / np.timedelta64(1, "m")
    reference, attributes = iso(ensemble["forecast_reference_time"].values), ensemble.attrs
    facts = [
        f"{attributes.get('model')} from {reference}, input {attributes.get('input_frames')}",
        f"{ensemble.sizes['realization']} member(s), lead times {leads[0]:g} to {leads[-1]:g} min, "
        f"{ensemble.sizes['y']} x {ensemble.sizes['x']} cells",
    ]
    return facts, findings


def examine_environment(*, networks: bool = True) -> Report:
    """Versions, devices and memory of this machine, and, if asked for, what our networks need of it."""
    import torch

    from nowcast.basemap import lines  # noqa: F401  (a broken installation shows here)
    from nowcast.model import PRESETS, Discriminator, Generator

    facts = [f"nowcast {_version('nowcast')}, Python {platform.python_version()}, {platform.platform()}"]
    facts.append(", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    findings = [f"{name} is not installed" for name in PACKAGES if _version(name) == "absent"]
    facts.append(
        f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads for torch, {_memory()} memory"
    )
    disk = shutil.disk_usage(Path.cwd())
    facts.append(f"{disk.free / 2**30:.0f} GiB free in this folder")
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        facts.append(f"cuda:{number}: {device.name}, {device.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        facts.append("no GPU: training runs on the CPU, slowly")
    for name, preset in PRESETS.items() if networks else ():
        with torch.device("meta"):
            pair = Generator(**preset["generator"]), Discriminator(**preset["discriminator"])
        count = sum(p.numel() for network in pair for p in network.parameters())
        facts.append(
            f"{name}: {count / 1e6:.1f} million parameters, {count * ADAM_BYTES / 2**30:.2f} GiB in training "
            "before activations"
        )
    return facts, findings


def _split_facts(path: str | Path, codes: np.ndarray) -> list[str]:
    frames = {name: int((codes == code).sum()) for code, name in enumerate(SPLITS)}
    lines = ["frames: " + ", ".join(f"{name} {count}" for name, count in frames.items() if count)]
    if (Path(path) / "samples" / "zarr.json").is_file():
        samples = xr.open_zarr(path, group="samples", chunks=None, consolidated=False)
        of = {name: int((samples["split"].values == code).sum()) for code, name in enumerate(SPLITS[:3])}
        sizes = [samples.attrs[name] for name in ("frames", "height", "width")]
        counts = ", ".join(f"{name} {count}" for name, count in of.items())
        lines.append(f"windows of {sizes[0]} x {sizes[1]} x {sizes[2]}: {counts}")
    return lines


def _corners(rain: xr.DataArray) -> str:
    lat, lon = rain["lat"].values, rain["lon"].values
    return (
        f"lat {np.nanmin(lat):.2f} to {np.nanmax(lat):.2f}, lon {np.nanmin(lon):.2f} to {np.nanmax(lon):.2f}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
