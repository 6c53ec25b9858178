import sys

import numpy as np
import pytest

from data_prep.schema import RefusedInput
from nowcast.verification.sal import SAL_SUMS, sal_of, sal_sums

SHAPE = (96, 128)
DIAGONAL = np.hypot(*SHAPE)
EVERYWHERE = np.ones(SHAPE, bool)


@pytest.fixture
def _pysteps():
    pytest.importorskip("pysteps", reason="needs the extra 'baselines'")
    pytest.importorskip("skimage", reason="needs the extra 'baselines'")


def blob(row, column, *, width=5.0, peak=5.0):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rain = peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    return np.where(rain < 0.1, 0, rain)


@pytest.mark.usefixtures("_pysteps")
def test_what_was_observed_is_perfect():
    assert sal_of(blob(50, 60), blob(50, 60), EVERYWHERE) == pytest.approx((0, 0, 0))


@pytest.mark.usefixtures("_pysteps")
def test_twice_the_rain_differs_in_amplitude_alone():
    # The difference is 1 and the mean 1.5 times what was observed.
    assert sal_of(2 * blob(50, 60), blob(50, 60), EVERYWHERE) == pytest.approx((0, 2 / 3, 0))


@pytest.mark.usefixtures("_pysteps")
def test_rain_elsewhere_differs_in_location_alone():
    # One object lies in the centre of mass: only its way of 30 rows and 40 columns counts.
    expected = 0, 0, 50 / DIAGONAL
    assert sal_of(blob(60, 70), blob(30, 30), EVERYWHERE) == pytest.approx(expected, abs=1e-9)


@pytest.mark.usefixtures("_pysteps")
def test_two_objects_further_apart_differ_in_the_second_part_of_location():
    # Mean distances from the centre of mass are 30 and 20 columns: L = 2 * 10 / d.
    near, far = blob(48, 44) + blob(48, 84), blob(48, 34) + blob(48, 94)
    assert sal_of(far, near, EVERYWHERE) == pytest.approx((0, 0, 20 / DIAGONAL), abs=1e-3)


@pytest.mark.usefixtures("_pysteps")
def test_too_wide_is_positive_and_too_narrow_negative_structure():
    wide, narrow = (sal_of(blob(50, 60, width=width), blob(50, 60), EVERYWHERE)[0] for width in (8, 4))
    assert narrow < 0 < wide


@pytest.mark.usefixtures("_pysteps")
def test_missing_cells_are_dry_in_both_fields_whatever_they_hold():
    forecast, observed = blob(40, 50), blob(50, 60)
    mask = np.random.default_rng(0).random(SHAPE) > 0.05
    expected = sal_of(np.where(mask, forecast, 0), np.where(mask, observed, 0), EVERYWHERE)
    forecast[~mask], observed[~mask] = np.nan, np.inf
    assert sal_of(forecast, observed, mask) == expected


@pytest.mark.usefixtures("_pysteps")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("nothing", [np.zeros(SHAPE), blob(50, 60, width=1)])
def test_without_rain_or_an_object_in_either_field_it_is_undefined(nothing):
    rain = blob(50, 60)
    for fields in ((nothing, rain), (rain, nothing)):
        assert np.isnan(sal_of(*fields, EVERYWHERE)).all()
        assert {name: float(value) for name, value in sal_sums(*fields, EVERYWHERE).items()} == dict.fromkeys(
            SAL_SUMS, 0
        )
    assert np.isnan(sal_of(rain, rain, ~EVERYWHERE)).all()


@pytest.mark.usefixtures("_pysteps")
def test_sums_of_cases_are_means_of_sizes_when_divided():
    observed = blob(50, 60)
    cases = [
        sal_sums(forecast, observed, EVERYWHERE) for forecast in (2 * observed, observed / 2, np.zeros(SHAPE))
    ]
    total = {name: float(sum(case[name] for case in cases)) for name in SAL_SUMS}
    # Amplitudes of 2/3 and -2/3, and one case that does not count.
    assert total["sal_cases"] == 2
    assert total["sal_amplitude"] / total["sal_cases"] == pytest.approx(2 / 3)


def test_without_pysteps_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysteps.verification.salscores", None)
    with pytest.raises(RefusedInput, match=r"pip install -e '.\[baselines\]'"):
        sal_of(blob(50, 60), blob(50, 60), EVERYWHERE)
