"""Makes pages of the notebooks as they are committed, with their outputs; building the site runs none."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SECTION = "Notebooks"
"""Of the navigation, whose pages after the first are the notebooks."""
PICTURES = {"image/png": "png", "image/gif": "gif", "image/webp": "webp", "image/jpeg": "jpg"}
FENCE = "```"


def on_config(config: Any) -> Any:
    """Put the notebooks into the navigation."""
    for entry in config.nav:
        if SECTION in entry:
            entry[SECTION] += [f"notebooks/{path.stem}.md" for path in notebooks()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook, and its pictures."""
    from mkdocs.structure.files import File

    for path in notebooks():
        text, pictures = page_of(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def notebooks() -> list[Path]:
    """In the order of their numbers."""
    return sorted(FOLDER.glob("*.ipynb"))


def page_of(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures in it by the names of their files."""
    pictures: dict[str, bytes] = {}
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../").replace(".ipynb)", ".md)"))
        elif source:
            parts += [_block("python", source), *_outputs(cell["outputs"], path.stem, pictures)]
    return "\n\n".join(parts) + "\n", pictures


def _outputs(outputs: list[dict[str, Any]], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """What a cell gave: of each output the picture, or else the text."""
    for output in outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        kind = next((kind for kind in PICTURES if kind in data), None)
        if kind is None:
            yield _block("text", "".join(data.get("text/plain", "")))
            continue
        name = f"{stem}-{len(pictures) + 1}.{PICTURES[kind]}"
        pictures[name] = base64.b64decode("".join(data[kind]))
        yield f"![Output of the cell above]({name})"


def _block(language: str, text: str) -> str:
    return f"{FENCE}{language}\n{text.rstrip()}\n{FENCE}"
