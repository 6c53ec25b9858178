"""The README's Python is run as it stands."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from data_prep.pipeline import prepare
from nowcast.cli import COMMANDS
from nowcast.options import read_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.radar
def test_the_python_of_the_readme_runs_on_real_radar(radar_data, tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted((radar_data / "knmi").rglob("*.h5")):
        if "0445" <= path.stem[-4:] <= "0630":
            shutil.copyfile(path, source / path.name)
    prepare(source, tmp_path / "knmi.zarr", read_recipe(str(ROOT / "configs/prep/knmi.yaml")))
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    block = block.replace("members=20", "members=4")  # twenty take a minute
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    assert names["ensemble"].dims == ("realization", "lead_time", "y", "x")
    assert (names["scores"]["mae_skill"].sel(model="pretrained") > 0).all()


def test_the_readme_names_every_command_that_there_is():
    for name in COMMANDS.keys() - {"demo", "doctor"}:
        assert f"nowcast {name}" in README, name


def test_what_the_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_version_to_cite_is_that_of_the_package():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1]
    assert cited == version("nowcast")
