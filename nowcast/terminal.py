"""What the command says on a terminal: log lines, and one line for an error."""

from __future__ import annotations

import logging
import sys


def explain(error: Exception) -> str:
    """One line on what went wrong: rule, what came, what to do."""
    from data_prep.schema import RefusedInput

    if isinstance(error, RefusedInput):
        return str(error)
    came = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return str(
            RefusedInput("files can be read and written", came=came, do="check paths, rights and room")
        )
    return str(
        RefusedInput("the command ends without an error", came=came, do="--debug shows where it arose")
    )


def set_up_logging() -> None:
    """Plain lines; on a terminal with time and colour."""
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    else:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
