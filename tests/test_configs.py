"""Every shipped configuration is loaded as the command would load it."""

from pathlib import Path

import pytest
import torch
import yaml

from data_prep.pipeline import prepare
from data_prep.readers import BUILT_IN
from nowcast.checks import check_store
from nowcast.cli import PARSERS
from nowcast.model import PRESETS, Discriminator, Generator
from nowcast.options import read_recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/prep").glob("*.yaml")), ids=lambda p: p.stem)
def test_prep_configurations_are_recipes(path):
    recipe = read_recipe(str(path))
    assert recipe.reader in {entry.name for entry in BUILT_IN}
    assert recipe.about.license.startswith(("CC-BY", "etalab-2.0", "LicenseRef-"))
    assert {recipe.about.license, recipe.about.institution}.isdisjoint({"LicenseRef-unknown", "unknown"})


ARCHIVES = {
    # configuration: folder, frames, wet share in %, maximum in mm/h, as read
    "knmi": ("knmi", 92, 53, 29),
    "fmi": ("fmi/pgm", 40, 9, 63),
    "mch": ("mch", 80, 19, 115),
    "bom-cscn": ("bom", 61, 31, 53),
    "openmrg": ("openmrg", 67, 49, 69),
    "radolan-yw": ("dwd", 12, 15, 143),
    "radolan-rw": ("dwd", 1, 33, 39),
    "radolan-rx": ("dwd", 1, 20, 192),
    "radolan-ry": ("dwd", 1, 21, 130),
    "radvor-rv": ("dwd", 1, 18, 60),
    "meteonet-nw": ("meteonet", 45, 1, 31),
    "meteonet-se": ("meteonet", 45, 2, 60),
    "metoffice-nimrod": ("metoffice", 1, 1, 39),
    "metoffice-radarnet": ("metoffice", 3, 6, 5),
}
"""The larger ones (OPERA, MRMS, FMI at 250 m, a day of BoM) are tested frame by frame with their readers."""


@pytest.mark.radar
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_shipped_configuration_prepares_its_archive_into_a_valid_store(radar_data, tmp_path, name):
    folder, frames, wet, largest = ARCHIVES[name]
    recipe = read_recipe(str(ROOT / f"configs/prep/{name}.yaml"))
    report = prepare(radar_data / folder, tmp_path / "r.zarr", recipe)
    assert report.refused == []
    assert report.frames == report.written == frames
    assert 100 * report.tally.wet / report.tally.observed == pytest.approx(wet, abs=0.6)
    assert report.tally.largest == pytest.approx(largest, abs=0.6)
    facts, findings = check_store(tmp_path / "r.zarr")
    assert findings == []
    assert recipe.about.title in facts[0]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda p: p.stem)
def test_train_configurations_build_the_preset_of_their_name(path):
    from nowcast.training.cli import training_cli

    phases = ("pretrain", "finetune", "adversarial")
    data = ["--data.stores", "[nowhere.zarr]"] if path.stem in phases else ["--data.store", "nowhere.zarr"]
    with torch.device("meta"):
        cli = training_cli(["--config", str(path), *data], run=False)
    preset = PRESETS["pretrained" if path.stem in phases else path.stem]
    with torch.device("meta"):
        assert cli.model.generator.config == Generator(**preset["generator"]).config
        assert cli.model.discriminator.config == Discriminator(**preset["discriminator"]).config


def test_every_configuration_says_in_a_comment_what_it_is():
    for path in ROOT.glob("configs/*/*.yaml"):
        assert path.read_text().startswith("# "), path
        assert yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", sorted((ROOT / "configs/products").glob("*.yaml")), ids=lambda p: p.stem)
def test_products_configurations_are_settings_of_products(path):
    words = ["f.nc", "--output", "out", "--config", str(path)]
    settings = PARSERS["products"]("products", words).args[2]
    assert settings.kinds
    assert settings.accumulation_minutes == (15, 30, 60, 90)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/verify").glob("*.yaml")), ids=lambda p: p.stem)
def test_verify_configurations_are_settings_of_a_verification(path):
    words = ["--config", str(path), "--model", "extrapolation", "--store", "s.zarr", "--output", "out"]
    settings = PARSERS["verify"]("verify", words).args[0]
    assert settings.windows
    assert settings.scores.margin == 96
    assert settings.model == ["extrapolation"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/serve").glob("*.yaml")), ids=lambda p: p.stem)
def test_serve_configurations_are_settings_of_a_service(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings, at, once = PARSERS["serve"]("serve", ["--config", str(path)]).args
    assert (at, once) == (None, False)
    assert read_recipe(settings.input.prep).step is not None
    assert settings.http.host == "127.0.0.1"
