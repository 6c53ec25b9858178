"""Forecasts and products as Zarr: a copy of their NetCDF file, attribute by attribute and field by field."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import zarr
from zarr.codecs import BloscCodec

DETERMINISTIC = "zarr.core.codec_pipeline.BatchedCodecPipeline"
"""Zarr's own codecs. Those of the package zarrs, which may be set, put the chunks of a shard in any order."""


def copy_to_zarr(source: Path, target: Path) -> None:
    """Copy a NetCDF file to a Zarr v3 store with consolidated metadata, which appears whole.

    A chunk is a field, as in the source, and a shard all lead times of a member, threshold or percentile, so
    that there are few files.

    Args:
        source: NetCDF file, as this package writes them.
        target: Folder to write; one that exists is replaced.
    """
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with netCDF4.Dataset(source) as file, zarr.config.set({"codec_pipeline.path": DETERMINISTIC}):
            file.set_auto_maskandscale(False)
            root = zarr.create_group(scratch, overwrite=True, attributes=_plain(file))
            for name, variable in file.variables.items():
                _copy(variable, root, name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(scratch)
        os.chmod(scratch, 0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(variable: netCDF4.Variable, root: zarr.Group, name: str) -> None:
    shape = variable.shape
    field = shape[-2:] if variable.dimensions[-2:] == ("y", "x") else shape
    leading = len(shape) - len(field)
    told = _plain(variable)
    fill = told.pop("_FillValue", 0)
    if variable.dtype.kind in "iu" and "_FillValue" in variable.ncattrs():
        told["_FillValue"] = fill  # where NaN marks what is missing, nothing has to be said
    array = root.create_array(
        name, shape=shape, dtype=variable.dtype, chunks=(1,) * leading + field,
        shards=(1,) * (leading - 1) + (shape[leading - 1], *field) if leading else None,
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle") if shape else None,
        fill_value=fill, dimension_names=variable.dimensions, attributes=told,
    )  # fmt: skip
    for place in np.ndindex(shape[: max(leading - 1, 0)]):
        array[place] = variable[place]


def _plain(told: netCDF4.Dataset | netCDF4.Variable) -> dict[str, Any]:
    """Attributes as JSON knows them."""
    found = {name: told.getncattr(name) for name in told.ncattrs()}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}
