"""Parsers of settings: a typed dataclass is the schema of its YAML file and of the options of its command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jsonargparse import ArgumentParser

from data_prep.pipeline import Recipe
from data_prep.schema import RefusedInput

Kind = TypeVar("Kind")


def read_recipe(path: str) -> Recipe:
    """Read a prep configuration file.

    Raises:
        RefusedInput: If there is no such file.
    """
    if not Path(path).is_file():
        raise RefusedInput("--prep is a prep configuration file", came=path, do="see configs/prep")
    parser = recipe_parser(required=False)
    return instance_of(parser, parser.parse_args(["--config", path]), Recipe)


def appending(argv: Sequence[str]) -> list[str]:
    """Let ``--model A --model B`` mean both: the parser's own form for that is ``--model+ A``."""
    return ["--model+" + word[7:] if word.split("=")[0] == "--model" else word for word in argv]


def recipe_parser(*, required: bool = True, description: str = "") -> ArgumentParser:
    """The options of ``nowcast prep``."""
    parser = ArgumentParser(prog="nowcast prep", description=description)
    parser.add_argument("--config", action="config", help="Prep configuration, as in configs/prep.")
    parser.add_argument("--source", type=str, required=required, help="Folder of radar files.")
    parser.add_argument("--store", type=str, required=required, help="Zarr store to make or to append to.")
    parser.add_argument("--report", type=str, help="Report file (JSON); STORE.report.json by default.")
    parser.add_argument("--strict", type=bool, default=False, help="Exit with 1 if anything was refused.")
    parser.add_argument("--scheduler", type=str, help="Address of a dask scheduler to work on its cluster.")
    parser.add_argument("--threads", type=int, help="Threads to work with; one for each core by default.")
    parser.add_class_arguments(Recipe)
    return parser


def products_parser(*, description: str = "") -> ArgumentParser:
    """The options of ``nowcast products``."""
    from nowcast.products.write import Products

    parser = ArgumentParser(prog="nowcast products", description=description)
    parser.add_argument("--config", action="config", help="These options as a YAML file.")
    parser.add_argument("forecast", type=str, help="Forecast file.")
    parser.add_argument("--output", type=str, required=True, help="Folder for the products.")
    parser.add_class_arguments(Products)
    return parser


def settings_parser(command: str, kind: type, *, description: str) -> ArgumentParser:
    """The options of a command that are the fields of a dataclass, also as a YAML file."""
    parser = ArgumentParser(prog=f"nowcast {command}", description=description)
    parser.add_argument("--config", action="config", help="These options as a YAML file.")
    parser.add_class_arguments(kind)
    return parser


def instant_of(text: str) -> np.datetime64:
    """A time that was given, UTC.

    Raises:
        RefusedInput: If it is none.
    """
    try:
        time = datetime.fromisoformat(text)
        utc = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
        return np.datetime64(utc, "ns")
    except ValueError as error:
        raise RefusedInput("a time is ISO 8601 in UTC", came=text, do="as 2010-08-26T05:00") from error


def instance_of(parser: Any, settings: Any, kind: type[Kind]) -> Kind:
    """The dataclass whose fields are among the options of a parser."""
    values = parser.instantiate(settings)
    return kind(**{field.name: values[field.name] for field in fields(kind)})  # type: ignore[arg-type]
