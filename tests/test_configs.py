"""Every shipped configuration is loaded as the command would load it."""

from pathlib import Path

import pytest
import torch
import yaml

from nowcast.cli import read_recipe
from nowcast.model import PRESETS, Discriminator, Generator

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/prep").glob("*.yaml")), ids=lambda p: p.stem)
def test_prep_configurations_are_recipes(path):
    recipe = read_recipe(str(path))
    assert recipe.about.license == "CC-BY-4.0"
    assert recipe.sampling.frames == 22


@pytest.mark.parametrize("path", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda p: p.stem)
def test_train_configurations_build_the_preset_of_their_name(path):
    from nowcast.training_cli import training_cli

    with torch.device("meta"):
        cli = training_cli(["--config", str(path), "--data.store", "nowhere.zarr"], run=False)
    preset = PRESETS[path.stem]
    with torch.device("meta"):
        assert cli.model.generator.config == Generator(**preset["generator"]).config
        assert cli.model.discriminator.config == Discriminator(**preset["discriminator"]).config


def test_every_configuration_says_in_a_comment_what_it_is():
    for path in ROOT.glob("configs/*/*.yaml"):
        assert path.read_text().startswith("# "), path
        assert yaml.safe_load(path.read_text())
