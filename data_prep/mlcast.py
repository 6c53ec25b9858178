"""Towards MLCast: the sample index in the forms its tools read, and its validator run on a store.

The forms are those of mlcast-dataset-sampler 0.1 (CSV) and of ``mlcast build-sampling-index`` (parquet,
``schema_version`` 1). In both ``t`` counts the frames of the store, not time steps, since MLCast takes
windows by position; ``x`` and ``y`` are the first column and row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_prep.sampling import GROUP, Sampling, window_sums
from data_prep.schema import SPLITS, VARIABLE, RefusedInput, clock_step, minutes, open_store

WET_THRESHOLD = 0.1
"""mm/h above which MLCast counts a cell as wet."""
SCHEMA_VERSION = 1
ROWS_AT_ONCE = 100_000
STATISTICS = {"nan_count": "int32", "sum": "float32", "mean": "float32", "frac_wet": "float32"}
INSTALL = "pip install -e '.[mlcast]' in the checkout"

Report = tuple[list[str], list[str]]
"""Failures and warnings, one a line."""


def export_samples(store: str | Path, output: str | Path, split: str | None = None) -> tuple[Path, int]:
    """Write the sample index of a store in a form that MLCast reads.

    Args:
        store: The store, with a sample index.
        output: ``*.csv`` with the columns t, x, y; ``*.parquet`` with nan_count, sum, mean (mm/h, of the
            cells with data) and frac_wet (share of all cells) as well, for which all windows are read; or a
            folder, for a CSV whose name carries the parameters as MLCast's sampler parses them.
        split: Windows to export; all where none is given.

    Returns:
        The file, and how many windows are in it.

    Raises:
        RefusedInput: If there is no sample index, it is not one of the store's frames, the split or the form
            of the file is unknown, or a package is missing.
    """
    store, output = Path(store), Path(output)
    dataset = open_store(store)
    index, sampling = _read_index(store, dataset, split)
    if output.suffix not in (".csv", ".parquet"):
        if output.suffix and not output.is_dir():
            raise RefusedInput(
                "samples are exported to *.csv, *.parquet or a folder", came=output, do="change --output"
            )
        output = output / csv_name(dataset, sampling)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    try:
        if output.suffix == ".csv":
            rows = np.stack([index[name] for name in ("t", "x", "y")], axis=1)
            np.savetxt(partial, rows, fmt="%d", delimiter=",", header="t,x,y", comments="")
        else:
            _write_parquet(partial, store, dataset, index, sampling, split)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return output, index["t"].size


def mlcast_findings(store: str | Path) -> Report:
    """What MLCast's validator says of a store: failures and warnings.

    Where the store says in ``mlcast_created_with`` from which repository it comes, the validator asks
    api.github.com for it; without a network that costs ten seconds and a warning.

    Raises:
        RefusedInput: If there is no store at the path or the validator is not installed.
    """
    open_store(store)
    try:
        from loguru import logger
        from mlcast_dataset_validator.specs.source_data import (  # type: ignore[import-untyped]
            radar_precipitation,
        )
    except ImportError as error:
        raise RefusedInput("MLCast's validator is installed", came=error, do=INSTALL) from error
    logger.disable("mlcast_dataset_validator")
    try:
        report, _ = radar_precipitation.validate_dataset(xr.open_zarr(store))
    except Exception as error:  # noqa: BLE001 (of a foreign program that is to judge strange stores)
        return [f"MLCast: its validator stopped ({type(error).__name__}: {error})"], []
    finally:
        logger.enable("mlcast_dataset_validator")
    # Not report.ok, which stays true whatever failed.
    return tuple(
        [f"MLCast {r.section} {r.requirement}: {r.detail}" for r in report.results if r.status == status]
        for status in ("FAIL", "WARNING")
    )  # type: ignore[return-value]


def csv_name(dataset: xr.Dataset, sampling: Sampling) -> str:
    """Name of a CSV as MLCast's sampler parses it: dates, sizes, strides and the missing cells allowed."""
    first, last = dataset["time"].values[[0, -1]].astype("datetime64[D]")
    size = f"{sampling.frames}x{sampling.width}x{sampling.height}"
    strides = f"{sampling.time_stride}x{sampling.stride}x{sampling.stride}"
    return f"sampled_datacubes_{first}-{last}_{size}_{strides}_{most_missing(sampling)}.csv"


def most_missing(sampling: Sampling) -> int:
    """Cells without data that a window may have, as `Sampling.min_observed` is compared."""
    least = round(sampling.min_observed * sampling.cells)
    least += (least / sampling.cells) < sampling.min_observed
    return sampling.cells - least


def _read_index(
    store: Path, dataset: xr.Dataset, split: str | None
) -> tuple[dict[str, np.ndarray], Sampling]:
    """Corners ``t, x, y`` of the windows, in order of time, and the settings they were drawn with."""
    if split is not None and split not in SPLITS[:3]:
        raise RefusedInput(
            f"--split is one of {', '.join(SPLITS[:3])}", came=split, do="leave it out for all windows"
        )
    try:
        samples = xr.open_zarr(store, group=GROUP, chunks=None, consolidated=False).load()
        sampling = Sampling(**{field.name: samples.attrs[field.name] for field in fields(Sampling)})
    except (OSError, KeyError) as error:
        raise RefusedInput(
            "a store to export from holds a sample index",
            came=f"no group '{GROUP}' in {store}",
            do="prepare it with sampling in the prep configuration",
        ) from error
    if split is not None:
        samples = samples.isel(sample=samples["split"].values == SPLITS.index(split))
    times, starts = dataset["time"].values, samples["start_time"].values
    if not np.isin(starts, times).all():
        raise RefusedInput(
            "windows start at frames of the store", came=f"others in {store}", do="prepare it once more"
        )
    t = np.searchsorted(times, starts)
    order = np.argsort(t, kind="stable")
    columns = {"t": t, "x": samples["x"].values, "y": samples["y"].values}
    return {name: values[order].astype(np.int32) for name, values in columns.items()}, sampling


def _write_parquet(
    path: Path, store: Path, dataset: xr.Dataset, index: dict[str, np.ndarray], sampling: Sampling,
    split: str | None,
) -> None:  # fmt: skip
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise RefusedInput("pyarrow is installed, for parquet", came=error, do=INSTALL) from error
    types = {"t": "int32", "x": "int32", "y": "int32", **STATISTICS}
    metadata = {
        "mlcast.stats": json.dumps(_parameters(store, dataset, sampling), sort_keys=True),
        "nowcast.samples": json.dumps({**asdict(sampling), "split": split}),
    }
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in types.items()], metadata)
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in _in_batches(_statistics(dataset[VARIABLE], index, sampling)):
            columns = [np.concatenate([rows[name] for rows in part]).astype(types[name]) for name in types]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))


def _parameters(store: Path, dataset: xr.Dataset, sampling: Sampling) -> dict[str, Any]:
    """The fields of MLCast's sampling parameters."""
    times = dataset["time"].values
    step = minutes(clock_step(dataset))
    if step != round(step):
        raise RefusedInput(
            "MLCast's parquet form holds time steps of whole minutes", came=f"{step:g} min", do="export a CSV"
        )
    first, last = times[[0, -1]].astype("datetime64[s]")
    return {
        "zarr_path": str(store), "data_var": VARIABLE, "time_var": "time", "start_date": str(first),
        "end_date": str(last), "time_step_minutes": round(step), "time_depth": sampling.frames,
        "width": sampling.width, "height": sampling.height, "step_t": sampling.time_stride,
        "step_x": sampling.stride, "step_y": sampling.stride, "max_nan": most_missing(sampling),
        "wet_threshold": WET_THRESHOLD, "data_kind": "rainrate",
        "units": dataset[VARIABLE].attrs.get("units"), "schema_version": SCHEMA_VERSION,
    }  # fmt: skip


def _statistics(
    rain: xr.DataArray, index: dict[str, np.ndarray], sampling: Sampling
) -> Iterator[dict[str, np.ndarray]]:
    """Columns of the windows that start at one frame, frame by frame."""
    starts, first = np.unique(index["t"], return_index=True)
    limits = np.append(first, index["t"].size)

    def measure(rate: np.ndarray) -> np.ndarray:
        missing = np.isnan(rate)
        filled = np.where(missing, 0, rate)
        return np.stack([missing, filled, filled > WET_THRESHOLD])

    for number, (_, sums) in enumerate(window_sums(rain, starts, sampling, measure)):
        rows = slice(limits[number], limits[number + 1])
        corners = {name: index[name][rows] for name in ("t", "x", "y")}
        missing, total, wet = sums[:, corners["y"] // sampling.stride, corners["x"] // sampling.stride]
        observed = sampling.cells - missing
        mean = np.divide(total, observed, out=np.full(total.shape, np.nan), where=observed > 0)
        yield {**corners, "nan_count": missing, "sum": total, "mean": mean, "frac_wet": wet / sampling.cells}


def _in_batches(parts: Iterator[dict[str, np.ndarray]]) -> Iterator[list[dict[str, np.ndarray]]]:
    batch: list[dict[str, np.ndarray]] = []
    rows = 0
    for part in parts:
        batch.append(part)
        rows += part["t"].size
        if rows >= ROWS_AT_ONCE:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch
