"""The command ``nowcast verify``: models over the cases of a store, to scores, intervals and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput, iso, open_radar
from nowcast.evaluation.cases import Case, Part, sampled_cases, valid_starts
from nowcast.evaluation.evaluate import Evaluation, evaluate_cases, settings_attributes, write_scores
from nowcast.evaluation.hindcasts import EVERYWHERE, Hindcasts
from nowcast.forecasters.load import PRETRAINED, load_forecasters
from nowcast.verification import ScoreSettings

LISTED = 20
"""Failures that are told on the terminal; the report names all."""


@dataclass(frozen=True, kw_only=True)
class StoreVerification:
    """What to verify, on what, and how.

    Attributes:
        model: Model to score: a name (pretrained, persistence, extrapolation, extrapolation-ensemble,
            climatology, sprog, anvil, steps), a checkpoint, a weights file, or a folder of forecast files;
            also as NAME=PATH; repeat the option for more. By default pretrained.
        store: RADAR.zarr.
        output: Folder for report.html, scores.nc, sums.nc and the results by case; what it holds of the same
            models and settings is not computed again.
        reference: Model that skill is measured against.
        part: Frames to use; held_out leaves out every window with a training frame.
        stride: Every how many-th start, or window, to take.
        windows: Score the sampled windows of the store, weighted by 1 over their probability, instead of
            whole frames.
        members: Ensemble size of every model that is not deterministic.
        lead_steps: Future frames.
        seed: Of the members.
        scores: Thresholds, scales and windows of the scores.
        regions: NetCDF file with integer labels region(y, x) on the grid of the store, whose attributes
            flag_values and flag_meanings name them; each is scored apart, too.
        block_minutes: Length of the blocks of cases that intervals are made from; by default the length of a
            forecast, or a day where the cases span ten.
        maps: How many cases to draw: of the best, median and worst.
        workers: Processes that work on cases.
        scheduler: Address of a dask scheduler to work on its cluster instead.
        device: Where models compute, as torch names devices.
    """

    model: list[str] = field(default_factory=list)
    store: str
    output: str
    reference: str = "persistence"
    part: Part = "held_out"
    stride: int = 1
    windows: bool = False
    members: int = 10
    lead_steps: int = 18
    seed: int = 0
    scores: ScoreSettings = field(default_factory=ScoreSettings)
    regions: str | None = None
    block_minutes: float | None = None
    maps: int = 3
    workers: int = 1
    scheduler: str | None = None
    device: str = "cpu"

    @property
    def models(self) -> list[str]:
        """What to score; the default is not in the field, as options on the command line add to it."""
        return self.model or [PRETRAINED]


def verify_store(settings: StoreVerification) -> tuple[str, list[str]]:
    """Score models on hindcasts from a store; write report.html, scores.nc and sums.nc.

    Returns:
        What to tell on the terminal, and what is wrong: failures, and that nothing could be scored.

    Raises:
        RefusedInput: If models, store or settings cannot be used, or no case is left.
    """
    from nowcast.evaluation.case_maps import draw_cases
    from nowcast.evaluation.report import write_report
    from nowcast.verification.score_text import score_table

    radar = open_radar(settings.store)
    forecasters = load_forecasters(
        [settings.reference, *settings.models], device=settings.device, radar=radar
    )
    hindcasts = Hindcasts(
        forecasters, radar, settings.lead_steps, settings.members, settings.seed, settings.scores,
        read_regions(settings.regions, radar) if settings.regions else None,
    )  # fmt: skip
    cases = choose_cases(settings, hindcasts)
    folder = Path(settings.output)
    if folder.exists() and not folder.is_dir():
        raise RefusedInput("--output is a folder", came=folder, do="choose another one")
    minutes = settings.block_minutes
    evaluation = evaluate_cases(
        hindcasts,
        cases,
        folder=folder / "cases",
        workers=settings.workers,
        scheduler=settings.scheduler,
        block_length=None if minutes is None else np.timedelta64(round(minutes * 60), "s"),
    )
    reference = next(iter(forecasters))
    about = facts(settings, radar, cases, evaluation)
    scores = evaluation.scores(reference, settings.scores).assign_attrs(about)
    uncertainty = evaluation.uncertainty(reference, seed=settings.seed)
    write_scores(evaluation, scores, uncertainty, folder)
    write_report(
        folder / "report.html",
        scores=scores,
        intervals=uncertainty,
        by_case=evaluation.cases,
        failures=evaluation.failures,
        about=about,
        case_maps=draw_cases(hindcasts, evaluation, cases, count=settings.maps),
    )
    table = score_table(*(everywhere(dataset) for dataset in (scores, uncertainty)))
    files = f"{folder}: report.html, scores.nc, sums.nc"
    return "\n".join([*told(about, scores), "", table, "", files]), findings(about, scores, evaluation)


def everywhere(scores: xr.Dataset) -> xr.Dataset:
    """Scores of the whole field, where there are some of regions, too."""
    return scores.sel(region=EVERYWHERE, drop=True) if "region" in scores.dims else scores


def choose_cases(settings: StoreVerification, hindcasts: Hindcasts) -> list[Case]:
    """Windows with their weights, or all valid starts, every stride-th of them."""
    asked = {
        "context_frames": hindcasts.context_frames,
        "lead_steps": settings.lead_steps,
        "stride": settings.stride,
        "part": settings.part,
    }
    if settings.windows:
        return sampled_cases(settings.store, hindcasts.radar, **asked)  # type: ignore[arg-type]
    return [Case(time) for time in valid_starts(hindcasts.radar, **asked)]  # type: ignore[arg-type]


def read_regions(path: str, radar: xr.DataArray) -> xr.DataArray:
    """Labels of regions on the grid of a store, 1, 2, ... in the order of their ``names``.

    Raises:
        RefusedInput: If the file does not hold them on that grid.
    """
    try:
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            region = dataset["region"].load()
        values = np.atleast_1d(region.attrs["flag_values"])
        names = str(region.attrs["flag_meanings"]).split()
    except (OSError, KeyError, ValueError) as error:
        raise RefusedInput(
            "--regions is a NetCDF file with region(y, x), flag_values and flag_meanings",
            came=f"{path} ({type(error).__name__}: {error})",
            do="see docs/verification.md",
        ) from error
    axes = [axis for axis in ("y", "x") if axis in region.coords]
    placed = (
        region.dims == ("y", "x")
        and region.shape == radar.shape[1:]
        and len(axes) == 2
        and all(
            np.allclose(
                region[axis], radar[axis], rtol=0, atol=1e-3 * abs(float(radar[axis][1] - radar[axis][0]))
            )
            for axis in axes
        )
    )
    if not placed or len(values) != len(names):
        raise RefusedInput(
            "regions (y, x) lie on the grid of the store and have one name each",
            came=f"{region.dims} {region.shape}, {len(values)} values, {len(names)} names",
            do="see docs/verification.md",
        )
    twice = len(set(names)) < len(names) or len(np.unique(values)) < len(values)
    if twice or EVERYWHERE in names or not np.isin(values, region.values).all():
        raise RefusedInput(
            f"regions hold cells, and have a value and a name of their own, not {EVERYWHERE}",
            came=f"values {values.tolist()}, names {names}",
            do="see docs/verification.md",
        )
    labels = sum((region.values == value) * (number + 1) for number, value in enumerate(values))
    return xr.DataArray(labels, dims=("y", "x"), attrs={"names": names})


def facts(
    settings: StoreVerification, radar: xr.DataArray, cases: Sequence[Case], evaluation: Evaluation
) -> dict[str, str]:
    """What was compared, on what."""
    from importlib.metadata import version

    told = {
        name: str(radar.attrs[name]) for name in ("title", "institution", "license") if name in radar.attrs
    }
    times = [case.time for case in cases]
    asked = {
        "store": settings.store,
        "models": evaluation.models,
        "model_arguments": settings.models,
        "reference": settings.reference,
        "cases": evaluation.cases.sizes["case"],
        "cases_asked_for": len(cases),
        "first_reference_time": iso(min(times)),
        "last_reference_time": iso(max(times)),
        "part": settings.part,
        "stride": settings.stride,
        "regions": settings.regions or "none",
        "kind": "sampled windows, weighted by 1 / probability" if settings.windows else "whole frames",
        "members": settings.members,
        "member_seed": settings.seed,
        "lead_steps": settings.lead_steps,
        "block_minutes": f"{evaluation.block_length / np.timedelta64(1, 'm'):g}",
        "blocks": evaluation.blocks.sizes["block"],
        "nowcast_version": version("nowcast"),
    }
    return told | settings_attributes(asked, settings.scores)


def told(about: dict[str, str], scores: xr.Dataset) -> list[str]:
    """Lines for the terminal on what was scored."""
    cells = everywhere(scores)["cells"].isel(model=0).values
    lines = [
        f"{about['cases']} cases from {about['first_reference_time']} to {about['last_reference_time']}, "
        f"part {about['part']} of {about['store']} ({about['kind']}), in {about['blocks']} block(s)",
        f"{about['members']} members of every model that is not deterministic",
    ]
    if cells[0]:
        cover = f"at the last lead time {cells[-1] / cells[0]:.0%} of the first"
        lines.append(f"Scored are cells that every model forecasts: {cover}")
    return lines


def findings(about: dict[str, str], scores: xr.Dataset, evaluation: Evaluation) -> list[str]:
    """Lines on what is wrong: cases left out and why, and that nothing could be scored."""
    lines = []
    if not scores["cells"].values.any():
        lines.append("no cell has a value in the truth and in every forecast: nothing is scored")
    if evaluation.failures:
        dropped = int(about["cases_asked_for"]) - int(about["cases"])
        lines.append(f"{dropped} case(s) left out, {len(evaluation.failures)} failure(s)")
    named = evaluation.failures[:LISTED]
    return lines + [f"{model} failed at {iso(time)}: {message}" for model, time, message in named]
