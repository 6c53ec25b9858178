"""Cloud-Optimized GeoTIFF of the fields of a product file, for GIS: a file to a variable, a band to a field.

Needs the extra geotiff (rasterio).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from data_prep.schema import RefusedInput

COMPRESSION = {"COMPRESS": "DEFLATE", "LEVEL": "1", "PREDICTOR": "YES", "BLOCKSIZE": "256"}


def require_rasterio() -> Any:
    """The package rasterio.

    Raises:
        RefusedInput: If it is not installed.
    """
    try:
        import rasterio  # type: ignore[import-untyped]
        import rasterio.shutil  # type: ignore[import-untyped]
    except ImportError as error:
        raise RefusedInput(
            "GeoTIFF needs rasterio",
            came=error,
            do="pip install -e '.[geotiff]' in the checkout, or set geotiff to false",
        ) from error
    return rasterio


def fields_of(file: netCDF4.Dataset) -> list[str]:
    """Names of the variables of a product file that are fields on its grid."""
    return [name for name, v in file.variables.items() if "grid_mapping" in v.ncattrs()]


def write_geotiff(file: netCDF4.Dataset, name: str, path: Path) -> None:
    """Write one variable of a product file as a Cloud-Optimized GeoTIFF.

    Bands follow each other as the fields do in the variable; each says its lead time and its threshold or
    percentile. North is up, missing is NaN, and integers are flags.

    Args:
        file: Product file, opened for reading.
        name: Of the variable.
        path: ``.tif`` to write.

    Raises:
        RefusedInput: If rasterio is not installed.
    """
    rasterio = require_rasterio()
    variable = file[name]
    x, y = (file[axis][:].astype(float) for axis in ("x", "y"))
    steps = abs(x[1] - x[0]), abs(y[1] - y[0])
    transform = rasterio.transform.from_origin(x.min() - steps[0] / 2, y.max() + steps[1] / 2, *steps)
    flags = "flag_values" in variable.ncattrs()
    told = {key: str(file.getncattr(key)) for key in file.ncattrs()}
    flagged = {
        key: str(variable.getncattr(key)) for key in ("flag_meanings", "comment") if key in variable.ncattrs()
    }
    places = list(np.ndindex(variable.shape[:-2]))
    profile = {
        "driver": "GTiff", "width": x.size, "height": y.size, "count": len(places),
        "dtype": "int8" if flags else "float32", "nodata": None if flags else np.nan,
        "crs": rasterio.crs.CRS.from_wkt(file[variable.grid_mapping].crs_wkt), "transform": transform,
    }  # fmt: skip
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as raster:
            raster.update_tags(**{**told, **flagged, "long_name": variable.long_name})
            for band, (place, text) in enumerate(zip(places, _descriptions(file, variable), strict=True), 1):
                raster.write(_upright(variable, place, y), band)
                raster.set_band_description(band, text)
                raster.set_band_unit(band, getattr(variable, "units", ""))
        resampling = "NEAREST" if flags else "AVERAGE"
        with memory.open() as raster:
            rasterio.shutil.copy(raster, path, driver="COG", OVERVIEW_RESAMPLING=resampling, **COMPRESSION)


def _upright(variable: netCDF4.Variable, place: tuple[int, ...], y: np.ndarray) -> np.ndarray:
    """A field with the northern row first and the western column first; NaN where it is missing."""
    values = variable[place]
    values = values.filled(np.nan) if values.dtype.kind == "f" and np.ma.isMA(values) else np.asarray(values)
    return values if y[0] > y[-1] else values[::-1]


def _descriptions(file: netCDF4.Dataset, variable: netCDF4.Variable) -> Iterator[str]:
    """What each band is: ``+30 min, >= 1 mm h-1``."""
    texts = []
    for axis in variable.dimensions[:-2]:
        if axis == "time":
            texts.append([f"+{seconds / 60:g} min" for seconds in file["forecast_period"][:]])
        else:
            sign = {"threshold": ">= ", "percentile": "percentile "}[axis]
            units = "" if axis == "percentile" else f" {file[axis].units}"
            texts.append([f"{sign}{value:g}{units}" for value in file[axis][:]])
    for parts in product(*texts):
        yield ", ".join(reversed(parts)) or variable.long_name
