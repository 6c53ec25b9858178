"""Fills what pages take from elsewhere when the site is built: help of commands, the changelog, README."""

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
SECTION = re.compile(r"^<!-- section of (\S+): (.+) -->$", re.MULTILINE)
WIDTH = "80"
"""Columns of the help, as many as a page is wide."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what comments name: help of a command, a file of the repository, or a section of one.

    ``<!-- help: COMMAND -->``, ``<!-- file: NAME -->``, ``<!-- section of NAME: HEADING -->``.
    """
    with_help = HELP.sub(lambda place: _block(place[1], help_of(place[2].split())), markdown)
    with_files = FILE.sub(lambda place: page_of(place[1]), with_help)
    return SECTION.sub(lambda place: section_of(place[1], place[2]), with_files)


def help_of(words: list[str]) -> str:
    """What ``nowcast WORDS --help`` prints, as a terminal shows it: a backspace takes a character away."""
    from nowcast.cli import main

    os.environ["COLUMNS"] = WIDTH
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main([*words, "--help"])
    return re.sub(".\x08", "", said.getvalue())


def page_of(name: str) -> str:
    """A Markdown file at the root of the repository, its links as they are within docs."""
    return (ROOT / name).read_text().replace("](docs/", "](")


def section_of(name: str, heading: str) -> str:
    """The section under a heading of the second level in such a file, with the heading."""
    _, found, after = page_of(name).partition(f"\n## {heading}\n")
    if not found:
        raise ValueError(f"{name} has no section {heading}")
    following, *_ = after.partition("\n## ")
    return f"## {heading}\n{following.rstrip()}"


def _block(indent: str, text: str) -> str:
    return "\n".join(indent + line for line in ["```text", *text.rstrip().splitlines(), "```"])
