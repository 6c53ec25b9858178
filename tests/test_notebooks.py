"""The notebooks as they are committed; `make notebooks-check` runs them."""

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))
READER = {"07_your_own_archive": {"is_ours", "read_time", "read_frame"}}
"""What a notebook may define: the reader that one is about."""
LARGEST = 1_200_000
"""Bytes of a notebook with its outputs."""
PLACES = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|mnt|opt|usr|var)/|site-packages|ipykernel_\d+")
NOISE = re.compile(r"Warning\b|\d+%\|")


def notebook(name: str) -> nbformat.NotebookNode:
    """A notebook with its outputs."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def told(cell: nbformat.NotebookNode) -> list[str]:
    """What the outputs of a cell say in words."""
    return [
        text
        for output in cell.get("outputs", [])
        for kind, text in {"text": output.get("text", ""), **output.get("data", {})}.items()
        if kind.startswith("text")
    ]


def test_there_are_seven_notebooks_each_with_its_pair() -> None:
    assert len(NAMES) == 7
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_pair_say_the_same(name: str) -> None:
    source, kept = jupytext.read(FOLDER / f"{name}.py"), notebook(name)
    assert [(c.cell_type, c.source) for c in kept.cells] == [(c.cell_type, c.source) for c in source.cells]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_been_run_from_its_first_cell_to_its_last(name: str) -> None:
    counts = [cell.execution_count for cell in notebook(name).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_hold_a_figure_and_no_error_no_warning_and_no_place_of_a_machine(name: str) -> None:
    outputs = [output for cell in notebook(name).cells for output in cell.get("outputs", [])]
    assert not {"error", "stderr"} & {output.get("name", output.output_type) for output in outputs}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    words = "\n".join(text for cell in notebook(name).cells for text in told(cell))
    assert PLACES.findall(words) == []
    assert NOISE.findall(words) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_tells_nothing_of_when_it_ran_and_is_small_enough_to_open(name: str) -> None:
    kept = notebook(name)
    assert set(kept.metadata) == {"kernelspec", "language_info"}
    assert not [cell.metadata for cell in kept.cells if cell.metadata]
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_defines_nothing_worth_importing(name: str) -> None:
    cells = [cell.source for cell in notebook(name).cells if cell.cell_type == "code"]
    code = "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith("%"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)}
    assert defined == READER.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_links_to_is_there(name: str) -> None:
    words = "\n".join(cell.source for cell in notebook(name).cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)\)", words):
        assert link.startswith("http") or (FOLDER / link).is_file(), link
