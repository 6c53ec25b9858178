import numpy as np
import pytest
from drawing import ensemble, rain
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast.plotting import plot_panel


def sheets(figure: Figure) -> list:
    """The maps of a panel, without its colour bars, row by row."""
    return sorted((ax for ax in figure.axes if hasattr(ax, "projection")),
                  key=lambda ax: (-ax.get_position().y0, ax.get_position().x0))  # fmt: skip


def shown(ax) -> np.ma.MaskedArray:
    return ax.images[0].get_array()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_a_panel_shows_the_observation_of_the_valid_time():
    observed = rain(np.arange(5)[:, None, None] * np.ones((5, 9, 9)))
    panel = plot_panel(observed, ensemble(np.zeros((3, 4, 9, 9))))
    assert [float(shown(ax).mean()) for ax in sheets(panel)[::5]] == [1.0, 2.0, 4.0]


def test_a_time_without_observation_is_said_to_be_not_observed_yet():
    panel = plot_panel(rain(np.ones((3, 9, 9))), ensemble(np.zeros((2, 4, 9, 9))))
    assert [len(ax.images) for ax in sheets(panel)[::5]] == [1, 1, 0]
    assert texts(panel).count("not observed yet") == 1


def test_the_columns_of_a_panel_are_observed_mean_members_and_probability():
    values = np.array([0.0, 2.0, 4.0, 2.0])[:, None, None, None] * np.ones((4, 4, 9, 9))
    panel = plot_panel(rain(np.ones((5, 9, 9))), ensemble(values), threshold=2.0)
    first = sheets(panel)[:5]
    titles = ["Observed", "Ensemble mean", "Member 0", "Member 1", "P(≥ 2 mm/h)"]
    assert [ax.get_title("left") for ax in first] == titles
    assert [float(shown(ax).mean()) for ax in first] == [1.0, 2.0, 0.0, 2.0, 0.75]
    assert first[4].images[0].norm.boundaries[-1] == 1
    assert panel.get_suptitle() == "Forecast of 2026-06-01 12:00 UTC, 4 members"


def test_no_data_is_no_data_in_every_column():
    values = np.ones((2, 4, 9, 9))
    values[..., :3] = np.nan
    for ax in sheets(plot_panel(None, ensemble(values))):
        assert shown(ax).mask.sum() == 27


def test_a_single_forecast_has_no_mean_and_no_probability():
    panel = plot_panel(rain(np.zeros((5, 9, 9))), ensemble(np.ones((1, 4, 9, 9))))
    assert [ax.get_title("left") for ax in sheets(panel)[:2]] == ["Observed", "Forecast"]
    assert len(sheets(panel)) == 6
    assert len(sheets(plot_panel(None, ensemble(np.ones((1, 4, 9, 9)))))) == 3


def test_the_rows_of_a_panel_are_the_lead_times_asked_for():
    chosen = [np.timedelta64(45, "m"), np.timedelta64(60, "m")]
    panel = plot_panel(None, ensemble(np.zeros((1, 4, 9, 9))), lead_times=chosen)
    assert {"+45 min\n12:45 UTC", "+60 min\n13:00 UTC"} == set(texts(panel)) - {"no data", ""}


@pytest.mark.parametrize(("steps", "rows"), [(1, ["+15 min"]), (2, ["+15 min", "+30 min"]),
                                             (3, ["+15 min", "+30 min", "+45 min"])])  # fmt: skip
def test_a_short_forecast_has_the_rows_it_can_fill(steps, rows):
    panel = plot_panel(None, ensemble(np.zeros((1, steps, 9, 9))))
    assert [text.split("\n")[0] for text in texts(panel) if text.startswith("+")] == rows


def test_a_panel_refuses_what_does_not_fit():
    forecast = ensemble(np.zeros((2, 4, 9, 9)))
    with pytest.raises(RefusedInput, match="choose from 15 min to 60 min"):
        plot_panel(None, forecast, lead_times=[np.timedelta64(20, "m")])
    with pytest.raises(RefusedInput, match="on the grid of the forecast"):
        plot_panel(rain(np.zeros((5, 9, 10))), forecast)
    with pytest.raises(RefusedInput, match="on the grid of the forecast"):
        plot_panel(rain(np.zeros((5, 9, 9)), longitude=5.1), forecast)
    with pytest.raises(RefusedInput, match="realization, lead_time, y, x"):
        plot_panel(None, forecast[0])
