"""Notebooks on real radar are left out where its files are absent."""

import os
from pathlib import Path

import pytest

ON_REAL_RADAR = ("02_", "04_", "05_")
RADAR_DATA = Path(os.environ.get("NOWCAST_RADAR_DATA", Path(__file__).parent / "../../shared/data")).resolve()
os.environ["NOWCAST_RADAR_DATA"] = str(RADAR_DATA)  # kernels run in another folder than pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them, and say why."""
    absent = pytest.mark.skip(reason="no real radar files: NOWCAST_RADAR_DATA names the folder")
    for item in items:
        if item.path.name.startswith(ON_REAL_RADAR) and not RADAR_DATA.is_dir():
            item.add_marker(absent)
