"""Run the notebooks and keep their outputs: each NN_name.py becomes NN_name.ipynb.

All of them, or those whose names begin as asked: ``python notebooks/execute.py 01 04``.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(source: Path) -> None:
    """Run one notebook; whatever goes wrong in it is raised, and the former outputs stay."""
    notebook = jupytext.read(source)
    NotebookClient(
        notebook, kernel_name="python3", timeout=600, record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": FOLDER}},
    ).execute()  # fmt: skip
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        # Random where nobody sets them, and then every run would differ.
        cell.id = f"cell-{number}"
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "text/plain" in output.get("data", {}):
                # xarray's HTML holds random names, and not every viewer of notebooks shows it.
                output["data"].pop("text/html", None)
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = lightened(output["data"]["image/png"])
    nbformat.write(nbformat.from_dict(notebook), source.with_suffix(".ipynb"))


def lightened(picture: str) -> str:
    """A PNG (base64) in 256 colours, which maps and charts hardly exceed, in a third of the room."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.format != "PNG":  # a loop that is declared to be one
        return picture
    light = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(light, "PNG", optimize=True)
    return base64.b64encode(light.getvalue()).decode()


def main() -> None:
    """Run the notebooks that are asked for."""
    parser = argparse.ArgumentParser(description="Run notebooks and keep their outputs.")
    parser.add_argument("beginning", nargs="*", help="of their names, as 01 04; by default all")
    beginnings = parser.parse_args().beginning
    for source in sorted(FOLDER.glob("[0-9][0-9]_*.py")):
        if source.name.startswith(tuple(beginnings or [""])):
            began = time.monotonic()
            execute(source)
            size = source.with_suffix(".ipynb").stat().st_size
            print(f"{source.stem}: {time.monotonic() - began:.0f} s, {size / 1000:.0f} kB")


if __name__ == "__main__":
    # Sums over other numbers of threads differ in the last digits, and so would the outputs.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
