"""The borders of docs/architecture.md, read from the imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for package in ("nowcast", "data_prep") for path in (ROOT / package).rglob("*.py"))
TORCH = {"torch", "pytorch_lightning"}
MAY_USE_PIPELINE = {"nowcast.cli", "nowcast.demo", "nowcast.options", "nowcast.service"}
WITHOUT_TORCH = {"nowcast.forecaster", "nowcast.forecasters.load", "nowcast.forecasters.stored_forecasts",
                 "nowcast.products", "nowcast.plotting", "nowcast.evaluation", "nowcast.verification",
                 "nowcast.basemap", "nowcast.training.packed", "nowcast.training.crop_cache",
                 "nowcast.viewer", "nowcast.fields", "nowcast.pysteps_plugin"}  # fmt: skip
LINES = 450
LINES_OF_A_FUNCTION = 60


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("data_prep")], ids=name_of)
def test_data_prep_knows_neither_torch_nor_nowcast(path):
    assert not {name for name in imports(path) for package in (*TORCH, "nowcast") if within(name, package)}


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("nowcast")], ids=name_of)
def test_nowcast_knows_data_prep_through_its_schema(path):
    if any(within(name_of(path), name) for name in MAY_USE_PIPELINE):
        return
    used = {name for name in imports(path) if within(name, "data_prep")}
    assert not {name for name in used if not within(name, "data_prep.schema")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_outside_the_network_do_not_import_torch(path):
    if any(within(name_of(path), name) for name in WITHOUT_TORCH):
        assert not {name for name in imports(path) for package in TORCH if within(name, package)}


def test_imports_make_no_cycle():
    names = {name_of(path) for path in MODULES}
    graph = {name_of(path): (imports(path) & names) - {name_of(path)} for path in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for following in sorted(graph[name]):
                # A package's own __init__ gathers names from its modules; they may import its siblings.
                if not within(name, following):
                    visit(following, (*trail, name))
            done.add(name)

    for name in sorted(names):
        visit(name, ())


def test_packages_know_each_other_in_one_direction():
    """As the table of docs/architecture.md orders them."""
    table = (ROOT / "docs/architecture.md").read_text().split("### nowcast/: learn")[1].split("\n### ")[0]
    parts = [
        re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1])
        for line in table.splitlines()
        if line[:3] == "| `"
    ]
    place = {part: row for row, found in enumerate(parts) for part in found}
    for path in MODULES:
        if name_of(path).count(".") and within(name_of(path), "nowcast"):
            home = name_of(path).split(".")[1]
            known = {name.split(".")[1] for name in imports(path) if within(name, "nowcast") and "." in name}
            below = {part for part in known & place.keys() if place[part] > place[home]}
            assert not below, f"{name_of(path)} knows {below}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_read_in_a_sitting_and_functions_fit_on_a_screen(path):
    text = path.read_text()
    assert text.count("\n") <= LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.body[0].lineno < LINES_OF_A_FUNCTION, node.name


@pytest.mark.parametrize("statement", ["import nowcast", "import nowcast.cli"])
def test_import_costs_no_torch_and_no_xarray(statement):
    code = f"{statement}; import sys; assert not {{'torch', 'xarray', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_can_be_imported():
    import nowcast

    for name in nowcast.__all__:
        assert callable(getattr(nowcast, name))
    with pytest.raises(AttributeError, match="no_such_name"):
        nowcast.no_such_name  # noqa: B018
