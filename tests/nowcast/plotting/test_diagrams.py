import numpy as np
import pytest
from drawing import compared
from made_scores import STEP, lines_of, made_scores

from data_prep.schema import RefusedInput
from nowcast.plotting.charts import COLOURS, OBSERVED_COLOUR, Undefined
from nowcast.plotting.diagrams import (
    plot_economic_value,
    plot_intensities,
    plot_rank_histogram,
    plot_reliability,
    plot_roc,
    plot_spectrum,
)

DIAGRAMS = (plot_economic_value, plot_intensities, plot_rank_histogram, plot_reliability, plot_roc,
            plot_spectrum)  # fmt: skip
picture = compared(dpi=50)


@pytest.fixture(scope="module")
def scores():
    return made_scores()


@picture
def test_reliability_looks_as_before(scores):
    return plot_reliability(scores)


@picture
def test_a_rank_histogram_looks_as_before(scores):
    return plot_rank_histogram(scores)


@picture
def test_a_roc_curve_looks_as_before(scores):
    return plot_roc(scores)


@picture
def test_economic_value_looks_as_before(scores):
    return plot_economic_value(scores)


@picture
def test_a_spectrum_looks_as_before(scores):
    return plot_spectrum(scores)


def test_deterministic_models_are_in_no_reliability_diagram(scores):
    figure = plot_reliability(scores, threshold=1.0, lead_time=30.0)
    assert not lines_of(figure, COLOURS[0])
    (line,) = lines_of(figure, COLOURS[1])
    np.testing.assert_allclose(line.get_xdata(), [0, 0.25, 0.5, 0.75, 1])  # of 4 members


def test_ranks_are_multiples_of_a_flat_histogram(scores):
    (stairs,) = plot_rank_histogram(scores).axes[0].patches
    assert stairs.get_data().values.mean() == pytest.approx(1.0)


def test_a_roc_curve_starts_and_ends_in_the_corners(scores):
    figure = plot_roc(scores, threshold=1.0, lead_time=30.0)
    (line,) = lines_of(figure, COLOURS[0])
    points = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert (points[0], points[-1]) == ((0, 0), (1, 1))
    assert (0, 1) in points  # the perfect forecast
    assert any(text.get_text() == "1.000" for text in figure.axes[0].texts)


def test_the_observed_spectrum_is_in_the_legend_and_is_that_of_a_perfect_forecast(scores):
    figure = plot_spectrum(scores)
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "observed"
    (observed,), (perfect,) = lines_of(figure, OBSERVED_COLOUR), lines_of(figure, COLOURS[0])
    np.testing.assert_allclose(perfect.get_ydata(), observed.get_ydata(), rtol=1e-5)


@pytest.mark.parametrize("lead", [40, "45min", "2h", np.timedelta64(40, "m"), 3 * STEP])
def test_the_nearest_lead_time_is_drawn_and_named(scores, lead):
    assert plot_roc(scores, lead_time=lead).axes[0].get_title(loc="left") == "Rain ≥ 1 mm/h, +45 min"


def test_a_text_that_is_no_lead_time_is_refused(scores):
    with pytest.raises(RefusedInput, match="a lead time is .* came: soon"):
        plot_roc(scores, lead_time="soon")


def test_a_lead_time_that_was_picked_before_is_drawn(scores):
    figure = plot_rank_histogram(scores.isel(lead_time=0))
    assert figure.axes[0].get_title(loc="left") == "Rank of the observation, +15 min"


@pytest.mark.parametrize("diagram", DIAGRAMS)
def test_a_diagram_of_which_nothing_is_defined_is_refused(scores, diagram):
    with pytest.raises(Undefined, match="came: no value of|came: none"):
        diagram(made_scores(leads=1, masked=True))
    with pytest.raises(Undefined, match="came: no value of"):
        diagram(scores[["crps"]])
    with pytest.raises(RefusedInput, match="scores are a Dataset"):
        diagram(scores["crps"])


@pytest.mark.parametrize("diagram", [plot_reliability, plot_rank_histogram])
def test_deterministic_models_alone_have_no_diagram_of_ensembles(scores, diagram):
    with pytest.raises(Undefined, match="of ensembles"):
        diagram(scores.sel(model=["persistence", "perfect"]))
