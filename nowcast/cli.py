"""The command ``nowcast``. Heavy imports happen inside the commands, so that help is quick."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nowcast.terminal import explain, set_up_logging

DONE, REFUSED, WRONG_USAGE = 0, 1, 2


def demo(out: str = "out/demo", train_seconds: float = 40.0, seed: int = 1) -> int:
    """Run the whole chain on embedded synthetic radar: store, training, scores, forecast, maps.

    Args:
        out: Folder for everything that is made.
        train_seconds: Time for training, s.
        seed: Of the rain, the training and the members.
    """
    from nowcast.demo import run_demo

    run_demo(Path(out), train_seconds=train_seconds, seed=seed)
    return DONE


def check(path: str, mlcast: bool = False) -> int:  # noqa: FBT001, FBT002
    """Check a radar store or a forecast: contract, range and gaps, or files against their manifest.

    Args:
        path: RADAR.zarr, a forecast as .nc or .zarr, or the folder of a published forecast.
        mlcast: Ask the validator of the MLCast specification about the store, too.
    """
    from nowcast.checks import check_forecast, check_store
    from nowcast.products.forecast_file import is_forecast

    if (Path(path) / "manifest.json").is_file():
        from nowcast.service.publishing import check_published

        facts, findings = check_published(path)
    else:
        facts, findings = check_forecast(path) if is_forecast(path) else check_store(path)
    if mlcast:
        from data_prep.mlcast import mlcast_findings

        failures, warnings = mlcast_findings(path)
        facts, findings = [*facts, *warnings], [*findings, *failures]
    print(*facts, *(f"FINDING: {line}" for line in findings), sep="\n")
    print(f"{path}: {len(findings)} finding(s)" if findings else f"{path}: good")
    return REFUSED if findings else DONE


def forecast(  # noqa: PLR0913 (its options)
    source: str, output: str, model: str = "pretrained", time: str = "latest", members: int = 20,
    lead_steps: int = 18, seed: int = 0, prep: str | None = None,
    allow_dry: bool = False,  # noqa: FBT001, FBT002
    device: str = "cpu", packing: float | None = None,
    standard_name: Literal["rainfall_rate", "lwe_precipitation_rate"] = "rainfall_rate",
    dialect: Literal["cf", "pysteps"] = "cf",
) -> int:  # fmt: skip
    """Forecast from the frames up to a time and write a CF NetCDF file with all members.

    Args:
        source: RADAR.zarr, or a folder of radar files (then --prep says how to read them).
        output: Forecast file to write, *.nc or *.zarr.
        model: pretrained (the network that is shipped), persistence, extrapolation, extrapolation-ensemble,
            climatology, sprog, anvil, steps, or a checkpoint or weights file.
        time: Time of the last frame to use, ISO 8601 in UTC, or latest.
        members: Ensemble size; a deterministic model makes one.
        lead_steps: Future frames.
        seed: With the reference time, all that a member depends on.
        prep: Prep configuration for a folder of radar files.
        allow_dry: Write a forecast even if no frame of the context holds rain.
        device: Where to compute, as torch names devices.
        packing: mm/h for one step of an int16, 0.01 or 0.03125; by default float32.
        standard_name: Of the rate; lwe_precipitation_rate where the radar sees snow, too.
        dialect: pysteps for a file that pysteps reads.
    """
    from data_prep.schema import open_radar
    from nowcast.forecaster import refuse_dry
    from nowcast.forecasters.load import load_forecaster
    from nowcast.products.cf import FileForm
    from nowcast.products.forecast_file import forecast_to_file

    form = FileForm(standard_name=standard_name, packing=packing, dialect=dialect)
    radar = open_radar(source) if prep is None else None
    forecaster = load_forecaster(model, device=device, radar=radar)
    context = _context(source, time, forecaster.context_frames, prep)
    if not allow_dry:
        refuse_dry(context)
    forecast_to_file(
        output, forecaster, context, lead_steps=lead_steps, members=members, seed=seed, form=form
    )
    count = forecaster.member_count(members)
    print(f"{output}: {count} member(s), {lead_steps} lead times, by {forecaster.name}")
    return DONE


def products(forecast: str, output: str, settings: Any) -> int:
    """Make mean, percentiles, probabilities, accumulations, maps and more of a forecast file."""
    from nowcast.products.write import write_products

    path = Path(forecast)
    for file in write_products(path, Path(output), settings, stem=path.stem):
        print(file.path)
    return DONE


def verify(settings: Any) -> int:
    """Score models on hindcasts from a store: table, report.html and scores.nc."""
    from nowcast.evaluation.verify_store import verify_store

    lines, findings = verify_store(settings)
    print(lines, *(f"FINDING: {line}" for line in findings), sep="\n")
    return REFUSED if findings else DONE


def serve(settings: Any, at: str | None, once: bool) -> int:  # noqa: FBT001
    """Forecast whenever a frame arrives, publish and verify; or once, for a schedule of one's own."""
    from data_prep.schema import RefusedInput
    from nowcast.options import instant_of
    from nowcast.service.core import Exit, OutputGone
    from nowcast.service.logs import log_as_json
    from nowcast.service.loop import serve, serve_once
    from nowcast.service.publishing import AnotherInstance

    if once and at is not None:
        raise RefusedInput("--at is one time, --once the newest", came="both", do="give one of them")
    if settings.log_json:
        log_as_json()
    try:
        if at is None and not once:
            return serve(settings)
        status, line = serve_once(settings, at=None if at is None else instant_of(at))
    except (AnotherInstance, OutputGone) as error:
        print(f"nowcast serve: {error}", file=sys.stderr)
        return Exit.BUSY if isinstance(error, AnotherInstance) else Exit.REFUSED
    print(line)
    return status


def plot(
    forecast: str, output: str, store: str | None = None, lead_minutes: int | None = None,
    threshold: float = 1.0, product: Literal["mean", "probability_matched_mean"] = "mean",
) -> int:  # fmt: skip
    """Draw a forecast file: maps as .png, a loop of one forecast as .gif, .webp or .mp4.

    Args:
        forecast: Forecast file.
        output: Picture to write.
        store: RADAR.zarr with what was observed, drawn beside the forecast in the panel.
        lead_minutes: Draw one large map at this lead time instead of the panel.
        threshold: Of the exceedance probability in the panel, mm/h.
        product: What the large map and the loop show: the mean of the members, or the probability-matched
            mean, which has their peaks.
    """
    from data_prep.schema import RefusedInput, open_radar
    from nowcast.fields import SINGLES, at_lead_time
    from nowcast.plotting import animate, plot_map, plot_panel, save_figure
    from nowcast.plotting.loops import LOOPS
    from nowcast.plotting.maps import heading
    from nowcast.products.forecast_file import read_forecast

    ensemble = read_forecast(forecast)
    observed = open_radar(store) if store else None
    members = ensemble.sizes["realization"]
    of_members = f", {SINGLES[product].title} of {members} members" if members > 1 else ""
    made_by = f"{ensemble.attrs.get('model')}{of_members}"
    if Path(output).suffix.lower() in LOOPS:
        if lead_minutes is not None:
            raise RefusedInput(
                "a loop shows all lead times",
                came=f"--lead_minutes {lead_minutes}",
                do="leave it out, or write a .png",
            )
        animate(read_forecast(forecast, product=product).load(), output, title=made_by)
    elif lead_minutes is None:
        save_figure(plot_panel(observed, ensemble, threshold=threshold), output)
    else:
        field = at_lead_time(read_forecast(forecast, product=product), lead_minutes)
        save_figure(plot_map(field, title=f"{made_by}\n{heading(field)}").figure, output)
    print(output)
    return DONE


def export(checkpoint: str, output: str, about: str | None = None) -> int:
    """Write the network of a checkpoint as a weights file: tensors and text, no code.

    Args:
        checkpoint: Checkpoint of nowcast train.
        output: File to write, *.safetensors.
        about: YAML file of what else the card says, as configs/card/pretrained.yaml.
    """
    from nowcast.weights import load_network, read_about

    network, card = load_network(checkpoint)
    return _write_weights(output, network, {**card, **(read_about(about) if about else {})})


def export_samples(
    store: str, output: str, split: Literal["train", "validation", "test"] | None = None
) -> int:
    """Write the sample index of a store for MLCast: a CSV or parquet file, or a CSV in a folder.

    Args:
        store: RADAR.zarr.
        output: File to write, *.csv or *.parquet, or a folder, for a CSV with the parameters in its name.
        split: Windows to write; all by default.
    """
    from data_prep.mlcast import export_samples

    path, count = export_samples(store, output, split)
    print(f"{path}: {count} window(s)")
    return DONE


def import_ocf(
    file: list[str], output: str, lead_steps: int | None = None, grid_spacing: float = 1000.0,
    time_step_minutes: float = 5.0,
) -> int:  # fmt: skip
    """Turn weights of the public port of DGMR (PyPI dgmr 1.4.4) into a weights file.

    Args:
        file: Weights of the port: safetensors, pytorch_model.bin, a checkpoint, a folder with one of these,
            or several for the parts of its generator.
        output: File to write, *.safetensors.
        lead_steps: Future frames; by default what config.json beside the file says, or else 18.
        grid_spacing: Of the rain the weights were trained on, m.
        time_step_minutes: Between its frames.
    """
    from nowcast.ocf import import_ocf

    data = {"grid_spacing": grid_spacing, "time_step_minutes": time_step_minutes}
    return _write_weights(output, *import_ocf(file, lead_steps=lead_steps, **data))


def doctor(argv: Sequence[str]) -> int:
    """Say what this machine offers and, with --config and other options of train fit, what that takes."""
    from nowcast.checks import examine_environment

    planned: tuple[list[str], list[str]] = [], []
    if argv:
        from nowcast.training.cli import training_cli
        from nowcast.training.cost import expectations

        for chatter in ("pytorch_lightning", "lightning_fabric"):
            logging.getLogger(chatter).setLevel(logging.WARNING)
        usage = "nowcast doctor [--config CONFIG] [options of nowcast train fit]"
        names = {"prog": "nowcast doctor", "usage": usage, "description": _summary(doctor)}
        words = ["--data.store", "", *argv]  # a store may be named, but need not be there yet
        planned = expectations(partial(training_cli, words, run=False, **names))
    machine = examine_environment(networks=not argv)
    facts, findings = (own + more for own, more in zip(machine, planned, strict=True))
    print(*facts, *(f"FINDING: {line}" for line in findings), sep="\n")
    return REFUSED if findings else DONE


def prep(settings: Any, recipe: Callable[[], Any]) -> int:
    """Turn a folder of radar files into a store, or append what is new to one."""
    from data_prep.pipeline import prepare

    where = {"scheduler": settings.scheduler, "threads": settings.threads}
    report = prepare(settings.source, settings.store, recipe(), **where)
    print(report.as_text())
    Path(settings.report or f"{settings.store.rstrip('/')}.report.json").write_text(report.as_json())
    return REFUSED if settings.strict and report.refused else DONE


def train(argv: Sequence[str]) -> int:
    """Train networks; the subcommands and options are those of Lightning's command line."""
    from nowcast.training.cli import training_cli

    for callback in training_cli(argv).trainer.checkpoint_callbacks:
        for name in ("best_model_path", "last_model_path"):
            if path := getattr(callback, name, ""):
                print(f"{name.removesuffix('_model_path')} checkpoint: {path}")
    return DONE


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo, "prep": prep, "check": check, "train": train, "forecast": forecast, "products": products,
    "verify": verify, "serve": serve, "plot": plot, "export": export, "export-samples": export_samples,
    "import-ocf": import_ocf, "doctor": doctor,
}  # fmt: skip
POSITIONAL = {
    "check": "path", "plot": "forecast", "export": "checkpoint", "export-samples": "store",
    "import-ocf": "file",
}  # fmt: skip
"""The argument that is given without an option's name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0 done, 1 a finding or a refused input, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return DONE if arguments else WRONG_USAGE
    name, *rest = arguments
    if name == "--version":
        from importlib.metadata import version

        print(f"nowcast {version('nowcast')}")
        return DONE
    if name not in COMMANDS:
        print(f"nowcast: no command '{name}'; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return WRONG_USAGE
    # Torch then asks for memory in huge pages: large activations cost a third of the time on a CPU.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        run = PARSERS.get(name, _parse_signature)(name, rest)
        set_up_logging()
        return run()
    except SystemExit as stop:  # argparse: help and usage errors
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE
    except KeyboardInterrupt:
        print(f"nowcast {name}: stopped", file=sys.stderr)
        return REFUSED
    except Exception as error:  # noqa: BLE001 (whatever it is, the user gets one line; --debug shows the rest)
        if debug:
            raise
        print(f"nowcast {name}: {explain(error)}", file=sys.stderr)
        return REFUSED


def _parse_signature(name: str, argv: Sequence[str]) -> Callable[[], int]:
    """Parse the options of a command that are the signature of its function."""
    from jsonargparse import ArgumentParser

    command = COMMANDS[name]
    parser = ArgumentParser(prog=f"nowcast {name}", description=_summary(command))
    positional = [POSITIONAL[name]] if name in POSITIONAL else []
    for argument in positional:
        parser.add_argument(argument, type=str, nargs="+" if command is import_ocf else None)
    parser.add_function_arguments(command, skip=set(positional), fail_untyped=True)
    return partial(command, **parser.parse_args(list(argv)).as_dict())


def _parse_recipe(name: str, argv: Sequence[str]) -> Callable[[], int]:  # noqa: ARG001
    """Parse the options of ``prep``, which are those of a recipe."""
    from data_prep.pipeline import Recipe
    from nowcast.options import instance_of, recipe_parser

    parser = recipe_parser(description=_summary(prep))
    settings = parser.parse_args(argv)
    return partial(prep, settings, lambda: instance_of(parser, settings, Recipe))


def _parse_products(name: str, argv: Sequence[str]) -> Callable[[], int]:  # noqa: ARG001
    """Parse the options of ``products``, which are the settings of what is made."""
    from nowcast.options import instance_of, products_parser
    from nowcast.products.write import Products

    parser = products_parser(description=_summary(products))
    settings = parser.parse_args(list(argv))
    return partial(products, settings.forecast, settings.output, instance_of(parser, settings, Products))


def _parse_verification(name: str, argv: Sequence[str]) -> Callable[[], int]:  # noqa: ARG001
    """Parse the options of ``verify``, which are the settings of a verification."""
    from nowcast.evaluation.verify_store import StoreVerification
    from nowcast.options import appending, instance_of, settings_parser

    parser = settings_parser("verify", StoreVerification, description=_summary(verify))
    return partial(verify, instance_of(parser, parser.parse_args(appending(argv)), StoreVerification))


def _parse_service(name: str, argv: Sequence[str]) -> Callable[[], int]:  # noqa: ARG001
    """Parse the options of ``serve``, which are the settings of the service."""
    from nowcast.options import instance_of, settings_parser
    from nowcast.service.settings import ServeSettings

    parser = settings_parser("serve", ServeSettings, description=_summary(serve))
    parser.add_argument(
        "--once", action="store_true", help="Make what is due, waiting for this time step's frame, and end."
    )
    parser.add_argument("--at", type=str, help="Make the forecast of this reference time (UTC) and end.")
    settings = parser.parse_args(list(argv))
    return partial(serve, instance_of(parser, settings, ServeSettings), settings.at, settings.once)


def _pass_on(name: str, argv: Sequence[str]) -> Callable[[], int]:
    """Leave the options of ``train`` and ``doctor`` to Lightning."""
    return partial(COMMANDS[name], argv)


def _context(source: str, time: str, frames: int, prep: str | None) -> Any:
    """The frames up to a time, from a store or from a folder of radar files."""
    from data_prep.pipeline import read_latest
    from data_prep.schema import open_radar
    from nowcast.evaluation.cases import context_at
    from nowcast.options import instant_of, read_recipe

    instant = None if time == "latest" else instant_of(time)
    if prep is not None:
        return read_latest(source, read_recipe(prep), frames=frames, time=instant)
    radar = open_radar(source)
    return context_at(radar, radar["time"].values[-1] if instant is None else instant, frames)


def _write_weights(output: str, network: Any, card: dict[str, Any]) -> int:
    from nowcast.forecasters.gan_forecaster import GANForecaster
    from nowcast.weights import save_weights

    GANForecaster(network, card, name=output)  # refuses a card that forecasts would refuse
    save_weights(output, network, card)
    print(f"{output}: {sum(parameter.numel() for parameter in network.parameters()):,} parameters")
    return DONE


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {_summary(command)}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nowcast COMMAND [options]      nowcast COMMAND --help",
            "",
            "Radar nowcasting from archive to verified ensemble forecast.",
            "",
            *lines,
            "",
            "--debug shows the traceback of a refused input; --version the version.",
            "Exit status: 0 done, 1 a finding or a refused input, 2 wrong usage.",
        ]
    )


def _summary(command: Callable[..., int]) -> str:
    return (command.__doc__ or "").strip().splitlines()[0]


PARSERS = {
    "prep": _parse_recipe,
    "products": _parse_products,
    "verify": _parse_verification,
    "serve": _parse_service,
    "train": _pass_on,
    "doctor": _pass_on,
}
"""How the options of a command are parsed, where they are not the signature of its function."""
