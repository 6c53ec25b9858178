"""Products of a forecast, in files of their own: what most users need of an ensemble, without its members.

A forecast file is read lead time by lead time, once; memory is that of all members at one lead time and of
their sums since the reference time. All files appear together when all are complete.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import netCDF4

from nowcast.cf import FileForm, Labels
from nowcast.fields import Members
from nowcast.forecast_file import nothing, read_forecast
from nowcast.product_files import (
    AccumulationFile,
    MeanFile,
    PercentilesFile,
    ProbabilityFile,
    ProductFile,
    RainStartFile,
    Target,
)

logger = logging.getLogger(__name__)

Kind = Literal["mean", "percentiles", "probability", "accumulation", "rain_start"]
Format = Literal["netcdf", "zarr"]
KINDS: tuple[Kind, ...] = ("mean", "percentiles", "probability", "accumulation", "rain_start")


@dataclass(frozen=True)
class Products:
    """What is made of a forecast.

    Args:
        kinds: Which files: mean (also the probability-matched mean), percentiles, probability, accumulation,
            rain_start.
        thresholds: Rates whose probability of exceedance is given, mm/h.
        percentiles: Of the members, %.
        accumulation_minutes: Periods from the reference time on over which rain is added up.
        accumulation_thresholds: Amounts whose probability of exceedance is given, mm.
        rain_start_threshold: Rate that counts as rain, mm/h.
        rain_start_probability: Rain starts at the first lead time at which it is as likely as this.
        formats: Of these files: netcdf, zarr or both.
        geotiff: Write Cloud-Optimized GeoTIFF, too (needs the extra geotiff).
        picture: Write a map panel as PNG.
        loop: Format of a loop of the mean: webp or gif; null for none.
        points: CSV file with a row name,lat,lon for each place whose forecast is written as CSV and JSON.

    Raises:
        RefusedInput: If a number makes no sense.
    """

    kinds: tuple[Kind, ...] = KINDS
    thresholds: tuple[float, ...] = (0.1, 1.0, 5.0)
    percentiles: tuple[float, ...] = (10.0, 25.0, 50.0, 75.0, 90.0)
    accumulation_minutes: tuple[int, ...] = (15, 30, 60, 90)
    accumulation_thresholds: tuple[float, ...] = (1.0, 5.0, 10.0)
    rain_start_threshold: float = 0.1
    rain_start_probability: float = 0.5
    formats: tuple[Format, ...] = ("netcdf",)
    geotiff: bool = False
    picture: bool = True
    loop: Literal["webp", "gif"] | None = "webp"
    points: str | None = None


class Written(NamedTuple):
    """A file that was written, and what it is: one of `KINDS`, ``map``, ``loop`` or ``points``."""

    path: Path
    role: str


def write_products(
    forecast: Path,
    folder: Path,
    products: Products,
    *,
    stem: str,
    form: FileForm | None = None,
    between: Callable[[], None] = nothing,
) -> list[Written]:
    """Write the products of a forecast file.

    Args:
        forecast: Forecast file.
        folder: Folder for the products.
        products: What to make.
        stem: Name of the files: ``<stem>_<product>.<suffix>``.
        form: Packing of rates and amounts. The standard name is that of the forecast.
        between: Called after each lead time and each file. What it raises ends the work, and no file is left.

    Returns:
        The files.

    Raises:
        RefusedInput: If it is no forecast file.
    """
    ensemble = read_forecast(forecast)
    labels, packing = Labels.of(ensemble), (form or FileForm()).packing
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stem}.") as scratch:
        written = []
        with ExitStack() as stack:
            files = []
            for kind in products.kinds:
                path = Path(scratch) / f"{stem}_{kind}.nc"
                file = stack.enter_context(netCDF4.Dataset(path, "w"))
                target = Target(file, labels, ensemble.attrs["standard_name"], packing)
                files.append(_product_file(kind, target, products))
                written.append(Written(path, kind))
            for lead in range(labels.lead_times.size):
                values = ensemble.isel(lead_time=lead).values
                members = Members(values)
                for product in files:
                    product.add(lead, values, members)
                between()
            for product in files:
                product.finish()
        return [Written(_moved(path, folder), role) for path, role in written]


def _product_file(kind: Kind, target: Target, products: Products) -> ProductFile:
    """The file of a product, with its settings."""
    if kind == "mean":
        return MeanFile(target)
    if kind == "percentiles":
        return PercentilesFile(target, products.percentiles)
    if kind == "probability":
        return ProbabilityFile(target, products.thresholds)
    if kind == "accumulation":
        leads = _ends(target.labels, products.accumulation_minutes)
        return AccumulationFile(target, leads, products.percentiles, products.accumulation_thresholds)
    start = {"threshold": products.rain_start_threshold, "probability": products.rain_start_probability}
    return RainStartFile(target, **start)


def _ends(labels: Labels, minutes: Sequence[int]) -> list[int]:
    """Numbers of the lead times at which the periods end; what the forecast does not reach is left out."""
    leads = (labels.lead_times / 60).tolist()
    lacking = [period for period in minutes if period not in leads]
    if lacking:
        left_out = ", ".join(f"{period} min" for period in lacking)
        logger.warning("no accumulation over %s: the forecast has no such lead time", left_out)
    return [leads.index(period) for period in minutes if period in leads]


def _moved(path: Path, folder: Path) -> Path:
    os.replace(path, folder / path.name)
    return folder / path.name
