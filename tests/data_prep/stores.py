"""Comparing stores."""

import re
from pathlib import Path


def same_stores(one: Path, other: Path) -> bool:
    """Whether two stores hold the same bytes, but for the time at which they were made."""

    def content(store: Path) -> dict[str, bytes]:
        stamp = re.compile(rb"20[-0-9]{8}T[0-9:]{8}\+00:00 prepared")
        return {
            str(path.relative_to(store)): stamp.sub(b"", path.read_bytes())
            for path in store.rglob("*")
            if path.is_file()
        }

    return content(one) == content(other)
