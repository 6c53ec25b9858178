"""Products of a forecast, in files of their own: what most users need of an ensemble, without its members.

A forecast file is read lead time by lead time, once; memory is that of all members at one lead time and of
their sums since the reference time. All files appear together when all are complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import netCDF4
import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.fields import SINGLES, Members, box_of_data
from nowcast.products.cf import FileForm, Labels, global_attributes, packing_of
from nowcast.products.forecast_file import nothing, read_forecast
from nowcast.products.geotiff import fields_of, require_rasterio, write_geotiff
from nowcast.products.points import PointForecasts, read_places
from nowcast.products.product_files import (
    AccumulationFile,
    MeanFile,
    PercentilesFile,
    ProbabilityFile,
    ProductFile,
    RainStartFile,
    Target,
)
from nowcast.products.zarr_copy import copy_to_zarr

logger = logging.getLogger(__name__)

Kind = Literal["mean", "percentiles", "probability", "accumulation", "rain_start"]
Format = Literal["netcdf", "zarr"]
KINDS: tuple[Kind, ...] = ("mean", "percentiles", "probability", "accumulation", "rain_start")
FORMATS: tuple[Format, ...] = ("netcdf", "zarr")
LOOPS = ("webp", "gif", None)
MARGIN = 10
"""Rows and columns that pictures show around the cells with data."""


@dataclass(frozen=True)
class Products:
    """What is made of a forecast.

    Args:
        kinds: Which files: mean (also the probability-matched mean), percentiles, probability, accumulation,
            rain_start. Of a forecast with one member there are no percentiles.
        thresholds: Rates whose probability of exceedance is given, mm/h.
        percentiles: Of the members, %.
        accumulation_minutes: Periods from the reference time on over which rain is added up.
        accumulation_thresholds: Amounts whose probability of exceedance is given, mm.
        rain_start_threshold: Rate that counts as rain, mm/h.
        rain_start_probability: Rain starts at the first lead time at which it is as likely as this.
        formats: Of these files: netcdf, zarr or both.
        geotiff: Write Cloud-Optimized GeoTIFF, too (needs the extra geotiff).
        picture: Write a panel of maps as PNG.
        loop: Format of a loop of maps of the mean: webp or gif; null for none.
        points: CSV file with a row name,lat,lon for each place whose forecast is written as CSV and JSON.

    Raises:
        RefusedInput: If a setting makes no sense.
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

    def __post_init__(self) -> None:
        _refuse_others("kinds", self.kinds, KINDS)
        _refuse_others("formats", self.formats, FORMATS)
        _refuse_others("loop", (self.loop,), LOOPS)
        if self.kinds and not self.formats:
            raise RefusedInput("formats are one or more", came="none", do="give netcdf or zarr")
        _refuse_disorder("thresholds", self.thresholds)
        _refuse_disorder("percentiles", self.percentiles, "from 0 to 100", lambda level: 0 <= level <= 100)
        _refuse_disorder("accumulation_minutes", self.accumulation_minutes)
        _refuse_disorder("accumulation_thresholds", self.accumulation_thresholds)
        _refuse_disorder("rain_start_threshold", (self.rain_start_threshold,))
        share = self.rain_start_probability
        _refuse_disorder("rain_start_probability", (share,), "above 0 to 1", lambda value: 0 < value <= 1)


class Written(NamedTuple):
    """A file that was written, and what it is: one of `KINDS`, ``map``, ``loop`` or ``points``."""

    path: Path
    role: str


def require(products: Products) -> None:
    """See that what products need is there, before a forecast is made.

    Raises:
        RefusedInput: If the places cannot be read, or rasterio is absent.
    """
    if products.points:
        read_places(products.points)
    if products.geotiff:
        require_rasterio()


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
        form: Packing of rates and amounts; by default that of the forecast, as is the standard name.
        between: Called after each lead time and each file. What it raises ends the work, and no file is left.

    Returns:
        The files.

    Raises:
        RefusedInput: If it is no forecast file, the places cannot be read, or rasterio is absent.
    """
    ensemble = read_forecast(forecast)
    places = read_places(products.points) if products.points else []
    if products.geotiff:
        require_rasterio()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stem}.") as scratch:
        packing = form.packing if form else packing_of(ensemble)
        work = _Work(ensemble, Path(scratch), stem, products, packing, between)
        points = PointForecasts(
            places, work.labels, thresholds=products.thresholds, percentiles=work.percentiles
        )
        work.through_lead_times(points)
        written = [*work.other_formats(), *work.pictures(), *work.points(points)]
        return [Written(_moved(path, folder), role) for path, role in written]


class _Work:
    """Making the products of one forecast in a folder."""

    def __init__(
        self, ensemble: xr.DataArray, folder: Path, stem: str, products: Products, packing: float | None,
        between: Callable[[], None],
    ) -> None:  # fmt: skip
        self.ensemble, self.folder, self.stem, self.products = ensemble, folder, stem, products
        self.packing, self.between = packing, between
        self.labels = Labels.of(ensemble)
        self.ends = (
            _ends(self.labels, products.accumulation_minutes) if "accumulation" in products.kinds else []
        )
        self.percentiles = products.percentiles if self.labels.members > 1 else ()
        self.files: dict[Kind, Path] = {}
        self.means: list[np.ndarray] = []

    def path(self, name: str) -> Path:
        """Where a product goes."""
        return self.folder / f"{self.stem}_{name}"

    def through_lead_times(self, points: PointForecasts) -> None:
        """Write the NetCDF files, and gather what points and pictures show."""
        with ExitStack() as stack:
            files = []
            for kind in self._kinds():
                self.files[kind] = self.path(f"{kind}.nc")
                file = stack.enter_context(netCDF4.Dataset(self.files[kind], "w"))
                files.append(self._file(kind, file))
            for lead in range(self.labels.lead_times.size):
                values = self.ensemble.isel(lead_time=lead).values.astype(np.float32, copy=False)
                members = Members(values)
                for product in files:
                    product.add(lead, values, members)
                if points.places:
                    points.add(values)
                if self.products.picture or self.products.loop:
                    self.means.append(members.mean())
                self.between()
            for product in files:
                product.finish()

    def other_formats(self) -> Iterator[Written]:
        """The NetCDF files, if they are wanted, and their copies in other formats."""
        for kind, path in self.files.items():
            if "zarr" in self.products.formats:
                copy_to_zarr(path, path.with_suffix(".zarr"))
                self.between()
                yield Written(path.with_suffix(".zarr"), kind)
            if self.products.geotiff:
                yield from self._geotiffs(kind, path)
            if "netcdf" in self.products.formats:
                yield Written(path, kind)

    def pictures(self) -> Iterator[Written]:
        """Panel and loop of the box that has data."""
        if not self.means:
            return
        from nowcast.plotting import animate, plot_panel, save_figure

        mean = self.ensemble.isel(realization=0, drop=True).copy(data=np.stack(self.means))
        box = box_of_data(mean, margin=MARGIN)
        told = json.dumps(global_attributes(self.labels))
        if self.products.picture:
            save_figure(plot_panel(None, self.ensemble.isel(box)), self.path("map.png"), description=told)
            self.between()
            yield Written(self.path("map.png"), "map")
        if self.products.loop:
            path = self.path(f"loop.{self.products.loop}")
            model, members = self.ensemble.attrs.get("model"), self.labels.members
            of_members = f", {SINGLES['mean'].title} of {members} members" if members > 1 else ""
            animate(mean.isel(box), path, title=f"{model}{of_members}", description=told)
            self.between()
            yield Written(path, "loop")

    def points(self, points: PointForecasts) -> Iterator[Written]:
        """The forecast at places."""
        if points.places:
            for path, write in ((self.path("points.csv"), points.write_csv),
                                (self.path("points.json"), points.write_json)):  # fmt: skip
                write(path)
                yield Written(path, "points")

    def _geotiffs(self, kind: Kind, path: Path) -> Iterator[Written]:
        with netCDF4.Dataset(path) as file:
            for name in fields_of(file):
                target = self.path(f"{_part(kind, name)}.tif")
                write_geotiff(file, name, target)
                self.between()
                yield Written(target, kind)

    def _kinds(self) -> Iterator[Kind]:
        """The files that can be made of the forecast."""
        for kind in self.products.kinds:
            if kind == "percentiles" and not self.percentiles:
                logger.info("no percentiles of %s: it has one member", self.stem)
            elif kind != "accumulation" or self.ends:
                yield kind

    def _file(self, kind: Kind, file: netCDF4.Dataset) -> ProductFile:
        """The file of a product, with its settings."""
        made = self.products
        target = Target(file, self.labels, self.ensemble.attrs["standard_name"], self.packing)
        if kind == "mean":
            return MeanFile(target)
        if kind == "percentiles":
            return PercentilesFile(target, self.percentiles)
        if kind == "probability":
            return ProbabilityFile(target, made.thresholds)
        if kind == "accumulation":
            return AccumulationFile(target, self.ends, self.percentiles, made.accumulation_thresholds)
        return RainStartFile(
            target, threshold=made.rain_start_threshold, probability=made.rain_start_probability
        )


def _part(kind: Kind, variable: str) -> str:
    """What the file of one variable of a product is called: mean, accumulation_mean, probability."""
    known = (
        "probability_matched_mean",
        "percentiles",
        "probability",
        "mean",
        "rain_start_status",
        "rain_start",
    )
    part = next(part for part in known if variable.startswith(part) or variable.endswith(f"_{part}"))
    return f"{kind}_{part}" if kind == "accumulation" else part


def _ends(labels: Labels, minutes: Sequence[int]) -> list[int]:
    """Numbers of the lead times at which the periods end; what the forecast does not reach is left out."""
    leads = (labels.lead_times / 60).tolist()
    lacking = [period for period in minutes if period not in leads]
    if lacking:
        left_out = ", ".join(f"{period} min" for period in lacking)
        logger.warning("no accumulation over %s: the forecast has no such lead time", left_out)
    return [leads.index(period) for period in minutes if period in leads]


def _moved(path: Path, folder: Path) -> Path:
    target = folder / path.name
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(path, target)
    return target


def _refuse_others(name: str, values: Sequence[str | None], known: Sequence[str | None]) -> None:
    wrong = [value for value in values if value not in known]
    if wrong or len(set(values)) < len(values):
        raise RefusedInput(
            f"{name}: any of {', '.join(str(value) for value in known)}, each once",
            came=", ".join(str(value) for value in values),
            do="correct the settings",
        )


def _refuse_disorder(
    name: str, values: Sequence[float], rule: str = "above 0", holds: Callable[[float], bool] | None = None
) -> None:
    holds = holds or (lambda value: 0 < value < np.inf)
    if not values or list(values) != sorted(set(values)) or not all(holds(value) for value in values):
        raise RefusedInput(
            f"{name}: one number or more {rule}, each larger than the one before",
            came=", ".join(f"{value:g}" for value in values) or "none",
            do="correct the settings",
        )
