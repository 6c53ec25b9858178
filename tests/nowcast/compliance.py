"""The IOOS compliance checker: what it finds in a file, offline."""

import warnings
from functools import cache
from pathlib import Path

from compliance_checker.runner import CheckSuite


@cache
def _load_checkers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of checkers that are not asked
        CheckSuite.load_all_available_checkers()


def cf_findings(path: Path) -> list[str]:
    """What is wrong with a NetCDF file by CF-1.11, warnings and recommendations included."""
    _load_checkers()
    suite = CheckSuite()
    dataset = suite.load_dataset(str(path))
    try:
        results, errors = suite.run_all(dataset, ["cf:1.11"])["cf:1.11"]
    finally:
        dataset.close()
    values = [(result, result.value) for result in results]  # (passed, all) or whether it passed
    failed = [result for result, v in values if (v[0] < v[1] if isinstance(v, tuple) else not v)]
    return [*map(str, errors), *(line for result in failed for line in result.msgs or [str(result.name)])]
