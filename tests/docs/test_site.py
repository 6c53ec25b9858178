"""The site names what there is; building it (make docs) finds broken links and headings that are gone."""

import importlib.util
import pkgutil
import re
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml

import nowcast
from nowcast import plotting
from nowcast.cli import COMMANDS
from nowcast.model import PRESETS, Discriminator, Generator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_in(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [
        page for part in (entry if isinstance(entry, list) else entry.values()) for page in pages_in(part)
    ]


def documented(page: str) -> set[str]:
    """Names whose docstrings a page shows."""
    return set(re.findall(r"^::: (\S+)$", (DOCS / page).read_text(), flags=re.MULTILINE))


ALL_DOCUMENTED = sorted(
    set().union(*(documented(f"reference/{p.name}") for p in DOCS.glob("reference/*.md")))
)


def test_the_navigation_leads_to_every_page_once():
    pages = pages_in(SITE["nav"])
    assert sorted(pages) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("name", ALL_DOCUMENTED)
def test_what_the_reference_shows_is_there_and_has_a_docstring(name):
    assert pkgutil.resolve_name(name).__doc__


def test_the_reference_shows_every_public_name():
    told = {name.rpartition(".")[2] for name in documented("reference/python.md")}
    assert told == set(nowcast.__all__)
    drawn = (DOCS / "reference/plotting.md").read_text()
    assert [name for name in plotting.__all__ if not re.search(rf"\b{name}\b", drawn)] == []


def test_the_reference_shows_every_command_and_every_configuration():
    commands = (DOCS / "reference/command-line.md").read_text()
    assert [name for name in COMMANDS if f"\n## nowcast {name}\n" not in commands] == []
    files = (DOCS / "reference/configuration.md").read_text()
    there = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("configs/*/*.yaml"))]
    assert [name for name in there if f'--8<-- "{name}"' not in files] == []


def test_the_help_of_a_command_takes_its_place_in_the_page():
    page = tool("pages").on_page_markdown("before\n\n    <!-- help: check -->\n\nafter")
    assert page.startswith("before\n\n    ```text\n    usage: nowcast check")
    assert page.endswith("\n    ```\n\nafter")


def test_the_changelog_links_to_pages_of_the_site():
    page = tool("pages").on_page_markdown((DOCS / "changelog.md").read_text())
    assert page.startswith("# Changelog")
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", page) if not link.startswith("../")]
    assert [link for link in links if not (DOCS / link).is_file()] == []


def test_parts_of_the_readme_stand_on_the_site_with_links_that_lead_somewhere():
    page = tool("pages").on_page_markdown((DOCS / "limits.md").read_text())
    assert "\n## What it cannot do\n\n- " in page
    assert "\n## Beside others\n" in page
    assert "## With your own radar" not in page
    assert [link for link in re.findall(r"\]\(([^)#:]+)", page) if not (DOCS / link).is_file()] == []


def test_a_part_of_the_readme_that_is_gone_stops_the_site():
    with pytest.raises(ValueError, match=r"README.md has no section Cheese"):
        tool("pages").on_page_markdown("<!-- section of README.md: Cheese -->")


def test_the_help_on_the_site_fits_its_column_and_holds_no_control_characters():
    text = tool("pages").help_of(["verify"])
    assert "--print_config[=flags]" in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(character.isprintable() for character in text.replace("\n", ""))


def test_every_notebook_has_its_line_on_the_page_of_notebooks():
    told = re.findall(r"\]\((\w+)\.md\)", (DOCS / "notebooks/index.md").read_text())
    assert told == [path.stem for path in tool("notebooks").notebooks()]


def test_no_page_installs_the_package_of_that_name_on_pypi():
    for page in DOCS.rglob("*.md"):
        assert not re.search(r"pip install '?nowcast\[", page.read_text()), page


def test_reading_and_building_the_site_loads_nothing_from_a_network():
    assert SITE["theme"]["font"] is False
    own = [*SITE["extra"]["polyfills"], *SITE["extra_css"], *SITE.get("extra_javascript", [])]
    assert [path for path in own if not (DOCS / path).is_file()] == []
    # Without a file of this name, the plugin for reading offline has one fetched.
    assert any("iframe-worker" in path for path in own)


def test_the_figure_of_the_model_is_what_its_program_draws():
    figure = tool("model_figure")
    assert figure.FILE.read_text() == figure.figure()


def test_the_shapes_in_the_figure_of_the_model_are_those_of_the_networks():
    shapes = shapes_of_dgmr()
    drawn = re.findall(r'class="shape">([\d× ]+)<', tool("model_figure").figure())
    assert len(drawn) > 30
    assert [text for text in drawn if tuple(map(int, text.split(" × "))) not in shapes] == []


def shapes_of_dgmr() -> set[tuple[int, ...]]:
    """Sizes of what goes into and comes out of the parts of the paper's networks, without the batch."""
    found: set[tuple[int, ...]] = set()

    def note(value) -> None:
        if isinstance(value, torch.Tensor):
            # The last four and the last three sizes: frames may be merged into the batch.
            found.update(tuple(value.shape[-count:]) for count in (3, 4) if value.ndim > count - 1)
        elif isinstance(value, (list, tuple)):
            for part in value:
                note(part)

    def watch(_module, inputs, output) -> None:
        note([inputs, output])

    # On the device "meta" there are shapes and no values, and no autocast.
    with torch.device("meta"), mock.patch("torch.autocast", return_value=nullcontext()):
        generator = Generator(**PRESETS["dgmr"]["generator"])
        critics = Discriminator(**PRESETS["dgmr"]["discriminator"])
        for network in (generator, critics):
            for module in network.modules():
                module.register_forward_hook(watch)
        generator(torch.zeros(1, 4, 1, 256, 256), torch.randn(1, *generator.latent_shape(256, 256)))
        sequence = torch.zeros(1, 22, 1, 256, 256)
        note(sequence[..., :128, :128])
        note(torch.nn.functional.avg_pool2d(sequence[:, :8].flatten(0, 1), 2).unflatten(0, (1, 8)))
        critics.spatial(sequence, torch.arange(4, 12)[None])
        critics.temporal(sequence, (0, 0))
    return found
