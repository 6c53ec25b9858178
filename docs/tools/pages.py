"""Fills what pages take from elsewhere, when the site is built: the help of commands, and the changelog."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HELP = re.compile(r"^( *)<!-- help: (.+) -->$", re.MULTILINE)
FILE = re.compile(r"^<!-- file: (.+) -->$", re.MULTILINE)
WIDTH = "100"
"""Columns of the help, as a wide terminal has."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``<!-- help: COMMAND -->`` by that command's help and ``<!-- file: NAME -->`` by that page."""
    with_help = HELP.sub(lambda place: _block(place[1], help_of(place[2].split())), markdown)
    return FILE.sub(lambda place: page_of(place[1]), with_help)


def help_of(words: list[str]) -> str:
    """What ``nowcast WORDS --help`` prints."""
    from nowcast.cli import main

    os.environ["COLUMNS"] = WIDTH
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main([*words, "--help"])
    return said.getvalue()


def page_of(name: str) -> str:
    """A Markdown file at the root of the repository, its links as they are within docs."""
    return (ROOT / name).read_text().replace("](docs/", "](")


def _block(indent: str, text: str) -> str:
    return "\n".join(indent + line for line in ["```text", *text.rstrip().splitlines(), "```"])
