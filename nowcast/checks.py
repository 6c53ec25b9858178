"""Facts of a store, a forecast file and this machine, and findings where a rule is broken."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import xarray as xr

from data_prep.schema import (
    SPLITS,
    VARIABLE,
    iso,
    minutes,
    open_store,
    time_step,
    validate,
)
from nowcast.forecaster import grid_spacing
from nowcast.products import read_forecast, validate_forecast

WET = 0.1
"""mm/h from which a cell counts as wet."""
FRAMES_AT_ONCE = 24
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


def check_store(path: str | Path) -> Report:
    """Check the layout of a store, then every value in it.

    Raises:
        RefusedInput: If there is no store at the path.
    """
    dataset = open_store(path)
    findings = validate(dataset)
    if findings:
        return [], findings
    rain, times = dataset[VARIABLE], dataset["time"].values
    facts = [
        f"{dataset.attrs['title']} ({dataset.attrs['license']})",
        f"{times.size} frames every {minutes(time_step(times)):g} min, {iso(times[0])} to {iso(times[-1])}, "
        f"{dataset.sizes.get('missing_times', 0)} missing between",
        f"{rain.sizes['y']} x {rain.sizes['x']} cells of {grid_spacing(rain) / 1000:.3g} km, "
        f"{rain['crs'].attrs['grid_mapping_name']}, {_corners(rain)}",
    ]
    observed = wet = 0
    largest = 0.0
    for first in range(0, times.size, FRAMES_AT_ONCE):
        values = rain[first : first + FRAMES_AT_ONCE].values
        known = np.isfinite(values)
        observed, wet = observed + int(known.sum()), wet + int((values >= WET).sum())
        largest = max(largest, float(values[known].max(initial=0)))
        findings += [
            f"no observed cell at {iso(times[first + lost])}: its time belongs in missing_times"
            for lost in np.flatnonzero(~known.any(axis=(1, 2)))
        ]
        if (values[known] < 0).any():
            findings.append(
                f"negative rain rates between {iso(times[first])} and the next {FRAMES_AT_ONCE} frames"
            )
    if observed:
        facts.append(
            f"no data {1 - observed / rain.size:.0%}; of the rest wet ({WET:g} mm/h or more) "
            f"{wet / observed:.1%}, largest rate {largest:.1f} mm/h"
        )
    return [*facts, *_split_facts(path, dataset["split"].values)], findings


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
