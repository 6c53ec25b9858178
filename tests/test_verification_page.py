"""The page on verification says of scores, sums and options what the code says, and its short code runs."""

import re
from dataclasses import fields
from math import inf
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nowcast
from nowcast.verification import SCORES, ScoreSettings, label_sums, lead_sums
from nowcast.verification.sal import SAL_SUMS
from nowcast.verification.score_table import SYMBOLS
from nowcast.verification.sums import DIMS
from nowcast.verification.uncertainty import FEW_BLOCKS, HEADLINE, TESTED

PAGE = (Path(__file__).resolve().parents[1] / "docs/verification.md").read_text()
FLAT = " ".join(PAGE.split())
NUMBERS = {inf: "inf", -inf: "-inf", -1 / 3: "-1/3"}


def rows(heading: str) -> list[list[str]]:
    """Cells of the table rows from a heading to the next one of its kind."""
    text = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def formulas() -> dict[str, str]:
    """Formulas of the code blocks of the scores, by name; what is set in belongs to the line above."""
    text = PAGE.split("\n## The scores\n", 1)[1].split("\n## ", 1)[0]
    found: dict[str, str] = {}
    for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\n   ", " ").splitlines():
            left, formula = re.split(r"\s{2,}", line, maxsplit=1)
            found |= dict.fromkeys(left.split(", ") if "fss" in left else [left], " ".join(formula.split()))
    return found


def block_after(heading: str) -> str:
    """The first Python of a section."""
    section = PAGE.split(f" {heading}\n", 1)[1]
    return re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]


@pytest.mark.parametrize("name", SCORES)
def test_a_score_has_a_row_with_its_range_its_perfect_value_and_its_source(name):
    score = SCORES[name]
    (row,) = [row for row in rows("The scores") if name in names(row[0])]
    low, high = (NUMBERS.get(end, f"{end:g}") for end in score.range)
    perfect = "none" if score.perfect is None else f"{score.perfect:g}"
    assert row[-3:-1] == [f"{low} to {high}", perfect]
    for source in filter(None, score.reference.split("; ")):
        assert source.split(", ")[0] in row[-1]
        assert f"- {source}\n" in PAGE


@pytest.mark.parametrize("name", [name for name in SCORES if SCORES[name].formula not in ("n", "a + c")])
def test_the_formula_of_a_score_is_that_of_the_code(name):
    family = re.sub("^(matched|member|probability)_", "", name)
    assert formulas()[family] == SCORES[name].formula


def test_no_row_of_the_scores_is_of_a_score_that_there_is_not():
    told = [name for row in rows("The scores") for name in names(row[0])]
    assert sorted(told) == sorted(SCORES)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbol_is_explained(symbol):
    assert f"{symbol} {SYMBOLS[symbol]}" in FLAT


@pytest.mark.parametrize("name", [*DIMS, *SAL_SUMS])
def test_a_sum_has_a_row_with_its_dims(name):
    (row,) = [row for row in rows("The sums") if name in names(row[0])]
    dims = ", ".join(DIMS.get(name, ()))
    assert row[1] == (f"`{dims}`" if dims else "")


def test_the_options_and_their_defaults_are_those_of_the_command():
    from nowcast.evaluation.verify_store import StoreVerification

    told = {names(row[0])[0]: row[2] for row in rows("How to verify") if row[0].startswith("`--")}
    options = {f"--{field.name}": field for field in fields(StoreVerification) if field.name != "scores"}
    options |= {f"--scores.{field.name}": field for field in fields(ScoreSettings)}
    assert told.keys() == options.keys()
    for name, field in options.items():
        if isinstance(field.default, (int, str)) and not isinstance(field.default, bool):
            assert told[name].strip("`") == str(field.default), name
        elif isinstance(field.default, tuple) and name != "--scores.intensities":
            assert told[name] == ", ".join(f"{value:g}" for value in field.default), name


@pytest.mark.parametrize("line", re.findall(r"^nowcast (?:.*\\\n)*.*", PAGE, flags=re.MULTILINE))
def test_the_commands_have_options_that_there_are(line):
    from data_prep.pipeline import Recipe
    from data_prep.sampling import Sampling
    from data_prep.splits import Splits
    from nowcast.evaluation.verify_store import StoreVerification

    groups = {"scores": ScoreSettings, "sampling": Sampling, "splits": Splits}
    known = {field.name for kind in (StoreVerification, Recipe) for field in fields(kind)}
    known |= {f"{group}.{field.name}" for group, kind in groups.items() for field in fields(kind)}
    assert set(re.findall(r"--([a-z_.]+)", line)) <= known | {"config", "source"}


def test_the_scores_with_intervals_and_tests_are_named_and_so_is_how_few_blocks_are_few():
    sentence = FLAT.split("Intervals are made of ", 1)[1]
    with_intervals, tested = sentence.split("; tests of ", 1)
    assert names(with_intervals) == list(HEADLINE)
    assert tuple(names(tested.split(". In Python", 1)[0])) == TESTED
    assert f"Below {FEW_BLOCKS} blocks" in FLAT


def test_the_regions_of_the_page_can_be_read(tmp_path, monkeypatch):
    from nowcast.evaluation.verify_store import read_regions

    axes = {"time": np.array(["2020-01-01"], "datetime64[ns]"), "y": [2.0, 1.0], "x": [1.0, 2.0, 3.0, 4.0]}
    radar = xr.DataArray(np.zeros((1, 2, 4)), axes, ("time", "y", "x"))
    monkeypatch.setattr(nowcast, "open_radar", lambda _: radar, raising=False)
    monkeypatch.chdir(tmp_path)
    exec(block_after("Regions"), {})
    regions = read_regions("regions.nc", radar)
    assert regions.attrs["names"] == ["west", "east"]
    assert regions.values.tolist() == [[1, 1, 2, 2]] * 2


def test_the_python_on_sums_runs_on_what_verify_writes(tmp_path, monkeypatch):
    draws = np.random.default_rng(0)
    settings = ScoreSettings(thresholds=(1.0,), scales=(1.0,), windows=(1.0,))
    leads = np.arange(1, 3) * np.timedelta64(5, "m")

    def block() -> xr.Dataset:
        observed = draws.gamma(0.7, 3.0, (4, 4))
        made = {"steps": 2 * observed, "mine": observed + 0.1}
        by_model = {
            name: [lead_sums(field[None], observed, observed >= 0, settings, spacing=1.0)] * leads.size
            for name, field in made.items()
        }
        return label_sums(by_model, lead_times=leads, settings=settings, shape=(4, 4), spacing=1.0)

    for folder in ("scores", "dgmr"):
        (tmp_path / folder).mkdir()
        xr.concat([block() for _ in range(12)], dim="block").to_netcdf(tmp_path / folder / "sums.nc")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(block_after("What is written"), found)
    assert found["first_hour"]["mae"].sel(model="mine") == pytest.approx(0.1)
    exec(block_after("The protocol of the paper"), found)
    # Mine is better in each of the 6 blocks that are taken: 2 of 64 exchanges are as large.
    assert found["tested"]["crps_p_value"].sel(model="mine").values == pytest.approx([2 / 64] * 2)


def test_lines_are_no_longer_than_a_screen_is_wide():
    assert max(map(len, PAGE.splitlines())) <= 118
