"""The fenced blocks of the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile, groupby
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r'^(?P<indent> *)```(?P<language>[\w-]*)(?: title="(?P<title>[^"]+)")?[^\n]*\n'
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
SHELL = ("sh", "bash", "console")
COMMANDS = ("nowcast ", "make ", "pip ", "python ", "dask ")
"""What a block without a language begins with if it is for the shell."""
INCLUDE = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: Path of its page below the root.
        line: Of its first line of text.
        language: As it is tagged; ``sh`` where it is not and begins with a command.
        title: Name of the file that it is to be, if any.
        text: What stands in it, with included files.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    return list(_blocks(page.relative_to(ROOT).as_posix(), page.read_text()))


def _blocks(name: str, markdown: str) -> Iterator[Block]:
    for fence in FENCE.finditer(markdown):
        indent = fence["indent"]
        lines = [line.removeprefix(indent) for line in fence["text"].splitlines()]
        text = INCLUDE.sub(lambda file: (ROOT / file[1]).read_text(), "\n".join(lines) + "\n")
        untagged = not fence["language"] and text.startswith(COMMANDS)
        line = markdown.count("\n", 0, fence.start()) + 2
        yield Block(name, line, "sh" if untagged else fence["language"], fence["title"] or "", text)


def statements(text: str) -> Iterator[list[str]]:
    """Words of the simple commands of a script; assignments before them are left out, so are comments.

    Expansions of the shell (``${last:+...}``) are left out, too: they may be empty.
    """
    joined = re.sub(r"\$\{[^}]*\}", "", text.replace("\\\n", " "))
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # an apostrophe in prose
            continue
        for is_end, group in groupby(words, key=lambda word: set(word) <= set(";|&>")):
            command = list(dropwhile(lambda word: re.match(r"\w+=", word), group))
            if not is_end and command:
                yield command


def nowcast_calls(text: str) -> Iterator[list[str]]:
    """Arguments of the calls of ``nowcast`` in a script, a crontab or a unit, also behind other words."""
    for words in statements(
        re.sub(r"(?m)^ExecStart=|CMD '", " ", text).replace("' ", " ").replace("'\n", "\n")
    ):
        places = [
            number for number, word in enumerate(words) if word == "nowcast" or word.endswith("/nowcast")
        ]
        if places:
            yield words[places[0] + 1 :]
