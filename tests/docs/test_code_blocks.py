"""Every code block of the documentation does what it says.

Python is run, page by page from top to bottom, in a folder with small synthetic data under the names that the
pages use. Commands of the shell are run where they are cheap (`RUN`), and are elsewhere read by the parser of
the command, so that an option or a configuration that there is not fails. What is neither is in `OTHERS`.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import xarray as xr
import yaml
from fenced import PAGES, ROOT, SHELL, Block, blocks_of, nowcast_calls, statements
from pytorch_lightning.cli import LightningCLI

from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.readers import Reader
from data_prep.schema import open_radar
from data_prep.splits import Splits
from nowcast import cli
from nowcast.forecasters.load import load_forecaster
from nowcast.products.forecast_file import write_forecast
from nowcast.training.cli import training_cli
from nowcast.verification import SCORES, ScoreSettings, label_sums, lead_sums, scores

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = {"docs/tutorial.md", "docs/howto/add-a-reader.md"}
"""Pages whose calls of nowcast are run."""
SHORTER = {"verify": ["--maps", "0", "--stride", "20"]}
"""What a call that is run is given besides: one case without maps takes a third of the time."""
UNITS = ("ini", "crontab", "ecflow")
OTHERS = {
    "": "drawings, formulas and listings of folders: no line of them is a command",
    "text": "what a program prints",
}
"""Languages that nothing is done with, and why."""
PROGRAMS = ("nowcast", "make", "pip", "dask", "tensorboard", "sbatch", "source", "export", "python")
"""What a block for the shell calls, unless it is a script."""
NEEDED = {"docs/pysteps.md": ("pysteps", "cv2")}
"""Packages beside our own that the Python of a page needs."""
LAST_TIME = np.datetime64("2010-08-26T07:00", "ns")


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


each_python_page = pytest.mark.parametrize("page", sorted({block.page for block in of("python")}))


def each(blocks: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks, ids=[block.name for block in blocks])


@pytest.fixture(scope="module")
def files(make_rain, tmp_path_factory) -> Path:
    """What the pages read: rain of the day that they speak of, forecasts, sums of a verification."""
    folder = tmp_path_factory.mktemp("files")
    rain = make_rain(37, speed=(0.5, 0.25), missing_rows=4)
    rain = rain.assign_coords(time=LAST_TIME - np.arange(37)[::-1] * np.timedelta64(5, "m"))
    splits = Splits(origin="2010-08-26T00:00", block_minutes=115, guard_minutes=0)
    prepare_arrays(iter([rain]), folder / "radar.zarr", Recipe(sampling=None, splits=splits))
    (folder / "knmi.zarr").symlink_to("radar.zarr")
    context = open_radar(folder / "radar.zarr")[:6]
    ensemble = load_forecaster("extrapolation-ensemble").forecast(context, members=3)
    for name in ("forecast.nc", "rain.nc", "forecasts/mine/a.nc", "forecasts/steps/a.nc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_forecast(ensemble, folder / name)
    for name in ("scores", "dgmr"):
        (folder / name).mkdir()
        sums().to_netcdf(folder / name / "sums.nc")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def sums() -> xr.Dataset:
    """Those of four models in 12 blocks of one case of 8 x 8 cells at two lead times."""
    draws = np.random.default_rng(0)
    settings = ScoreSettings(thresholds=(1.0,), scales=(1.0,), windows=(1.0,))
    errors = {"mine": 0.5, "steps": 1.0, "extrapolation": 1.5, "persistence": 2.0}

    def block() -> xr.Dataset:
        seen = draws.gamma(0.7, 3.0, (8, 8))
        made = {
            name: np.abs(seen + error * draws.standard_normal((2, 8, 8))) for name, error in errors.items()
        }
        by_model = {
            name: [lead_sums(values, seen, seen >= 0, settings, spacing=1.0)] * 2
            for name, values in made.items()
        }
        leads = np.arange(1, 3) * np.timedelta64(5, "m")
        return label_sums(by_model, lead_times=leads, settings=settings, shape=(8, 8), spacing=1.0)

    return xr.concat([block() for _ in range(12)], dim="block")


@pytest.fixture
def folder(files, tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with these files, where a page is run; modules and scores that it adds are taken away."""
    for path in files.iterdir():
        if path.name == "forecasts":
            (tmp_path / path.name).mkdir()
            for model in path.iterdir():
                (tmp_path / path.name / model.name).symlink_to(model)
        else:
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(scores, "GROUPS", scores.GROUPS)
    before = set(sys.modules)
    with mock.patch.dict(SCORES):
        yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@each_python_page
def test_the_python_of_a_page_runs_from_top_to_bottom(page, folder):
    for package in NEEDED.get(page, ()):
        pytest.importorskip(package, reason=f"the Python of {page} needs {package} (extra 'benchmarks')")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in (block for block in BLOCKS if block.page == page):
        if block.title:
            (folder / Path(block.title).name).write_text(block.text)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
        elif page in RUN and block.language in SHELL:
            for call in nowcast_calls(block.text):
                assert cli.main([*call, *SHORTER.get(call[0], [])]) == 0, call


@each(of(*SHELL, *UNITS))
def test_a_call_of_nowcast_has_options_and_settings_that_there_are(block, folder):
    write_titled(block.page, folder)
    for call in nowcast_calls(block.text):
        parse(call)


@each(of(*SHELL))
def test_a_block_for_the_shell_is_its_language_and_calls_known_programs(block):
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for program, *words in statements(block.text):
        assert block.text.startswith("#!") or program in PROGRAMS, program
        if program == "make":
            assert {word for word in words if "=" not in word} <= targets
        if program == "python" and words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file()


@each(of("yaml"))
def test_yaml_can_be_read_and_settings_are_those_of_a_command(block, folder):
    values = yaml.safe_load(block.text)
    write_titled(block.page, folder)
    shell = "\n".join(other.text for other in of(*SHELL) if other.page == block.page)
    # The parser of the command reads it in the test above; shipped files have tests of their own.
    assert not block.title or f"--config {block.title}" in shell or (ROOT / block.title).is_file()
    for call in calls_in(values):
        parse(call)


@each(of("ini"))
def test_a_unit_of_systemd_has_sections_and_settings(block):
    unit = configparser.ConfigParser(inline_comment_prefixes=("#",), interpolation=None)
    unit.read_string(block.text)
    assert unit["Service"]["ExecStart"].startswith("/")


@each(of("crontab"))
def test_a_line_of_a_crontab_has_five_fields_before_its_command(block):
    for line in filter(None, (line.partition("#")[0].strip() for line in block.text.splitlines())):
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in line.split()[:5]), line


@each(of("toml"))
def test_an_entry_point_of_a_package_leads_to_a_reader(block, folder):
    project = tomllib.loads(block.text)["project"]
    write_titled(block.page, folder)
    for name, place in project["entry-points"]["nowcast.readers"].items():
        assert isinstance(EntryPoint(name, place, "nowcast.readers").load(), Reader)


def test_every_block_is_of_a_language_that_something_is_done_with_or_not_for_a_reason():
    known = {"python", "yaml", "toml", *SHELL, *UNITS, *OTHERS}
    assert {block.name: block.language for block in BLOCKS if block.language not in known} == {}
    hidden = [block.name for block in of(*OTHERS) for words in statements(block.text) if words[0] in PROGRAMS]
    assert hidden == []


def test_no_page_hides_a_command_in_an_indented_block():
    for page in PAGES:
        lines = page.read_text().splitlines()
        assert [line for line in lines if re.match(r"    (nowcast|make|pip) ", line)] == [], page


def write_titled(page: str, folder: Path) -> None:
    for block in BLOCKS:
        if block.page == page and block.title and "/" not in block.title:
            (folder / block.title).write_text(block.text)


def parse(call: list[str]) -> None:
    """Read a call as the command would; files in folders of an installation are those of the page."""
    name, *words = [Path(word).name if re.fullmatch(r"/.*\.yaml", word) else word for word in call]
    words = ["configs/prep/knmi.yaml" if word == "CONFIG" else word for word in words]
    try:
        if name in ("train", "doctor"):
            parse_training(name, words)
        elif name in cli.COMMANDS:
            run = cli.PARSERS.get(name, cli._parse_signature)(name, words)
            if name == "prep":
                run.args[-1]()
        else:
            assert name == "--help", f"no command {name}"
    except SystemExit as stop:
        if stop.code:
            pytest.fail(f"nowcast {' '.join(call)}")


def parse_training(name: str, words: list[str]) -> None:
    nothing = {"instantiate_classes": mock.DEFAULT, "_run_subcommand": mock.DEFAULT}
    with mock.patch.multiple(LightningCLI, **nothing), mock.patch("nowcast.training.cli.keep_freed_memory"):
        if name == "train":
            training_cli(words)
        elif words:
            training_cli(["--data.store", "", *words], run=False)


def calls_in(values: Any) -> Iterator[list[str]]:
    """Arguments of nowcast in lists of YAML."""
    if isinstance(values, list) and values[:1] == ["nowcast"]:
        yield [str(word) for word in values[1:]]
    elif isinstance(values, (list, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from calls_in(value)
