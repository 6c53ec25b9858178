import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def radar_data() -> Path:
    """Root of the real radar files: NOWCAST_RADAR_DATA, or shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("NOWCAST_RADAR_DATA", default))
    if not root.is_dir():
        pytest.skip(f"no real radar files: {root} is absent (NOWCAST_RADAR_DATA names the folder)")
    return root
