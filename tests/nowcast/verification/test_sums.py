import dataclasses

import numpy as np
import pytest
import torch

from data_prep.schema import RefusedInput
from nowcast.verification import ScoreSettings, lead_sums, power_spectrum
from nowcast.verification.labels import label_sums
from nowcast.verification.matched_mean import probability_matched_mean
from nowcast.verification.sal import SAL_SUMS
from nowcast.verification.sums import DIMS, cells_along, sums_of_leads

SETTINGS = ScoreSettings(thresholds=(0.5, 2.0), scales=(1.0, 4.0), windows=(1.0, 3.0, 8.0))
SHAPE = (24, 30)


def rain(seed, *shape, dry=0.5):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < dry, 0.0, rng.gamma(0.6, 3.0, shape)).astype(np.float32)


def a_case(count=5, seed=0, *, shape=SHAPE, share=0.8, dry=0.5):
    mask = np.random.default_rng(seed).random(shape) < share
    return rain(seed + 1, count, *shape, dry=dry), rain(seed + 2, *shape, dry=dry), mask


def sums_of(case, settings=SETTINGS, **options):
    return lead_sums(*case, settings, spacing=1.0, **options)


def assert_same(ours, theirs, *, without=(), rtol=1e-5):
    assert set(ours) == set(theirs) == set(DIMS)
    for name in set(DIMS) - set(without):
        np.testing.assert_allclose(ours[name], theirs[name], rtol, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("count", [1, 5, 100])
def test_every_sum_has_the_sizes_of_its_dims(count):
    sizes = {"threshold": 2, "scale": 2, "window": 3, "intensity_bin": 11, "event": 2, "ring": 12,
             "forecast_count": count + 1, "rank": count + 1}  # fmt: skip
    for name, values in sums_of(a_case(count)).items():
        assert values.shape == tuple(sizes[dim] for dim in DIMS[name]), name
        assert values.dtype == np.float64
        assert np.isfinite(values).all(), name


@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("share", [0.7, 1.0])
def test_numpy_and_torch_give_the_same_sums(count, share):
    case = a_case(count, share=share)
    assert_same(sums_of(case), sums_of(tuple(map(torch.from_numpy, case))))


def test_cells_outside_the_mask_change_nothing_whatever_they_hold():
    members, observed, mask = a_case()
    before = sums_of((members, observed, mask))
    junk = np.random.default_rng(9).choice(np.float32([np.nan, np.inf, -np.inf, -5, 1e30]), members.shape)
    assert_same(
        sums_of((np.where(mask, members, junk), np.where(mask, observed, junk[0]), mask)), before, rtol=0
    )


def test_the_order_of_members_changes_nothing():
    members, observed, mask = a_case(7)
    assert_same(sums_of((members[::-1], observed, mask)), sums_of((members, observed, mask)))


def test_cases_side_by_side_have_the_sums_of_both():
    # With missing cells between them that no window reaches across, and no ties to draw for.
    cases = [a_case(4, seed, shape=(24, 32), share=1, dry=0) for seed in (0, 10)]
    apart = [sums_of(case) for case in cases]
    missing = np.full((4, 24, 8), np.nan, np.float32), np.full((24, 8), np.nan), np.zeros((24, 8), bool)
    together = tuple(
        np.concatenate(parts, axis=-1) for parts in zip(cases[0], missing, cases[1], strict=True)
    )
    both = {name: apart[0][name] + apart[1][name] for name in DIMS}
    # Rates are matched over both together, and spectra are of other fields.
    without = [name for name in DIMS if name.startswith("matched") or "power" in name]
    assert_same(sums_of(together), both, without=without)


def test_sums_of_two_halves_of_the_cells_add_up():
    members, observed, mask = a_case(dry=0)
    half = np.arange(SHAPE[0])[:, None] < 10
    parts = [sums_of((members, observed, mask & part)) for part in (half, ~half)]
    over_places = [name for name in DIMS if name.startswith(("pooled", "fss", "matched")) or "power" in name]
    both = {name: parts[0][name] + parts[1][name] for name in set(DIMS) - set(over_places)}
    assert_same(sums_of((members, observed, mask)), both | dict.fromkeys(over_places), without=over_places)


def test_the_table_is_of_the_ensemble_mean():
    # Means 2.5, 2.5, 0 and 0 of pairs, observed 3, 0, 3 and 0, in two equal rows.
    members = np.array([[[4, 4, 0, 0]] * 2, [[1, 1, 0, 0]] * 2], np.float32)
    observed = np.array([[3, 0, 3, 0]] * 2, np.float32)
    sums = sums_of((members, observed, np.ones((2, 4), bool)))
    for name in ("hits", "misses", "false_alarms"):
        np.testing.assert_array_equal(sums[name], [2, 2])


def test_the_matched_table_is_that_of_the_field_that_the_product_holds():
    for share, dry in ((1.0, 0.5), (0.8, 0.5), (0.8, 0.8)):
        members, observed, mask = a_case(7, share=share, dry=dry)
        field = probability_matched_mean(np.where(mask, members, np.nan))
        sums = sums_of((members, observed, mask))
        for number, level in enumerate(SETTINGS.thresholds):
            forecast, event = field[mask] >= level, observed[mask] >= level
            assert sums["matched_hits"][number] == (forecast & event).sum() > 0
            assert sums["matched_misses"][number] == (~forecast & event).sum()
            assert sums["matched_false_alarms"][number] == (forecast & ~event).sum()


def test_the_matched_table_of_one_member_is_its_own():
    sums = sums_of(a_case(1))
    for name in ("hits", "misses", "false_alarms"):
        np.testing.assert_array_equal(sums[f"matched_{name}"], sums[name])


def test_one_member_has_the_same_fractions_as_mean_and_as_probability():
    sums = sums_of(a_case(1))
    for part in ("difference", "reference"):
        np.testing.assert_allclose(sums[f"fss_{part}"], sums[f"fss_probability_{part}"], 1e-6)


def test_spectra_are_of_members_and_not_of_their_mean():
    members, observed, mask = a_case()
    sums = sums_of((members, observed, mask))
    np.testing.assert_allclose(sums["power"], power_spectrum(members, mask).mean(0), 1e-4)
    np.testing.assert_allclose(sums["observed_power"], power_spectrum(observed, mask), 1e-4)


def test_a_neighbourhood_of_one_cell_is_the_cell():
    sums = sums_of(a_case())
    assert sums["pooled_cells"][0] == sums["cells"]
    for kind in ("mean", "max"):
        assert sums[f"pooled_{kind}_crps_error"][0] == sums["crps_error"]
        assert sums[f"pooled_{kind}_crps_spread"][0] == sums["crps_spread"]


@pytest.mark.filterwarnings("error")
def test_no_valid_cell_gives_zeros():
    members, observed, mask = a_case()
    for fields in ((members, observed), (members + np.nan, observed + np.nan)):
        assert all((values == 0).all() for values in sums_of((*fields, mask & False)).values())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(2, 2), (3, 9), (7, 2)])
def test_fields_smaller_than_windows_and_neighbourhoods_have_sums(shape):
    sums = sums_of(a_case(shape=shape, share=1))
    assert sums["cells"] == shape[0] * shape[1]
    assert sums["pooled_cells"].tolist() == [sums["cells"], 0]
    assert (sums["fss_reference"] >= sums["fss_difference"]).all()


def test_double_precision_differs_by_rounding_alone_and_types_may_mix():
    members, observed, mask = a_case()
    single = sums_of((members, observed, mask))
    assert_same(sums_of((members.astype(float), observed.astype(float), mask)), single)
    assert_same(sums_of((members, observed.astype(float), mask)), single)


def test_any_order_in_memory_and_arrays_that_may_not_be_written_give_the_same():
    case = a_case()
    turned = tuple(np.asfortranarray(part) for part in case)
    for part in turned:
        part.flags.writeable = False
    assert_same(sums_of(turned), sums_of(case))
    repeated = (np.broadcast_to(case[0][:1], case[0].shape), *case[1:])
    assert_same(sums_of(repeated), sums_of((repeated[0].copy(), *case[1:])))


def test_both_seeds_are_those_of_ranks_alone():
    case = a_case(dry=0.9)
    first = sums_of(case, seed=1)
    assert_same(sums_of(case, seed=1), first, rtol=0)
    for other in (
        sums_of(case, seed=2),
        sums_of(case, dataclasses.replace(SETTINGS, seed=1), seed=1),
    ):
        assert (other["rank_count"] != first["rank_count"]).any()
        assert_same(other, first, without=("rank_count",), rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_lead_times_are_worked_on_in_any_number_of_threads(threads):
    members, observed, mask = (
        np.stack(parts) for parts in zip(*(a_case(seed=n) for n in range(4)), strict=True)
    )
    seeds = list(range(3, 3 + len(members)))
    how = {"spacing": 1.0, "seeds": seeds}
    found = sums_of_leads(members, observed, mask, SETTINGS, **how, threads=threads)
    for lead, sums in enumerate(found):
        one = lead_sums(members[lead], observed[lead], mask[lead], SETTINGS, spacing=1.0, seed=seeds[lead])
        assert_same(sums, one, rtol=0)


def test_lengths_are_whole_cells():
    assert cells_along((1.0, 4.0, 16.0), 1.0) == (1, 4, 16)
    assert cells_along((1.0, 4.0, 16.0), 2.0) == (1, 2, 8)  # half a cell is one
    assert cells_along((1.0, 4.0, 16.0), 0.71) == (1, 6, 23)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"thresholds": ()}, "thresholds .* came: none"),
        ({"thresholds": (2.0, 1.0)}, "thresholds .* came: 2, 1"),
        ({"thresholds": (0.0, 1.0)}, "thresholds .* above 0"),
        ({"windows": (1.0, float("inf"))}, "windows .* finite"),
        ({"scales": (1.0, 1.0)}, "scales"),
        ({"intensities": (float("nan"), 1.0)}, "intensities"),
        ({"margin": -1}, "margin is 0 or more"),
    ],
)
def test_settings_without_sense_are_refused(wrong, message):
    with pytest.raises(RefusedInput, match=message):
        ScoreSettings(**wrong)


def test_labelled_sums_of_a_small_ensemble_have_zeros_beyond_its_members():
    cases = {"one": a_case(1), "five": a_case(5)}
    by_model = {name: [sums_of(case)] * 2 for name, case in cases.items()}
    leads = np.array([5, 10]) * np.timedelta64(1, "m")
    labelled = label_sums(by_model, lead_times=leads, settings=SETTINGS, shape=SHAPE, spacing=2.0)
    assert labelled["member_count"].values.tolist() == [1, 5]
    assert labelled["rank_count"].dims == ("model", "lead_time", "rank")
    assert labelled["rank_count"].sel(model="one").values[0, 2:].tolist() == [0] * 4
    for name, sums in by_model.items():
        assert labelled["rank_count"].sel(model=name).sum("rank").values.tolist() == [sums[0]["cells"]] * 2
    assert labelled["wavelength"].values[[0, -1]].tolist() == [48, 4]  # 24 cells of 2 km, and two of them


def test_sums_of_sal_are_labelled_where_they_are_given():
    sums = sums_of(a_case())
    options = {"lead_times": np.array([5]) * np.timedelta64(1, "m"), "settings": SETTINGS, "spacing": 1.0}
    sal = {name: np.array(number) for number, name in enumerate(SAL_SUMS)}
    labelled = label_sums({"a": [sums | sal]}, shape=SHAPE, **options)
    assert [labelled[name].item() for name in SAL_SUMS] == [0, 1, 2, 3]
    assert not set(SAL_SUMS) & set(label_sums({"a": [sums]}, shape=SHAPE, **options))
