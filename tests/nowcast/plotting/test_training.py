import csv

import numpy as np
import pytest
from drawing import compared
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data_prep.schema import RefusedInput
from nowcast.plotting.charts import COLOURS
from nowcast.plotting.training import plot_training, read_log, running_mean

picture = compared(dpi=40)
CRITICS = ("discriminator/spatial_real_accuracy", "loss/discriminator")
NAMES = (*CRITICS, "loss/generator", "loss/regularizer", "generator/mean_absolute_error", "val/crps",
         "val/crps_persistence")  # fmt: skip


def write_log(folder, rows, *, discriminator_steps=2, adversarial_weight=1.0):
    """A log as Lightning writes it: cells that were not logged are empty."""
    folder.mkdir(parents=True)
    names = sorted({name for row in rows for name in row})
    with (folder / "metrics.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    (folder / "config.yaml").write_text(
        f"model:\n  discriminator_steps: {discriminator_steps}\n  adversarial_weight: {adversarial_weight}\n"
    )
    return folder


def rows_of(count, *, seed=0, names=NAMES, every=10):
    """Rows of every tenth batch, with validation in rows of its own."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        step = every * (number + 1) - 1
        values = {name: round(float(rng.gamma(4, 0.2) * (1 + 3 / (number + 1))), 4) for name in names}
        values["discriminator/spatial_real_accuracy"] = round(float(rng.beta(4, 2)), 4)
        values = {name: values[name] for name in names}
        logged = {"epoch": 0, "step": step}
        rows.append(logged | {name: value for name, value in values.items() if not name.startswith("val/")})
        if number % 5 == 4:
            rows.append(logged | {name: value for name, value in values.items() if name.startswith("val/")})
    return rows


def panel_of(figure, title):
    return next(ax for ax in figure.axes if ax.get_title(loc="left") == title)


@picture
def test_training_curves_look_as_before(tmp_path):
    return plot_training(write_log(tmp_path / "run", rows_of(60)))


@picture
def test_two_runs_beside_each_other_look_as_before(tmp_path):
    first = write_log(tmp_path / "a", rows_of(30))
    pretraining = [name for name in NAMES if name not in CRITICS]
    second = write_log(tmp_path / "b", rows_of(15, seed=1, names=pretraining), adversarial_weight=0.0)
    return plot_training({"adversarial": first, "$pretraining_{": second})


def test_batches_count_as_steps_of_the_generator(tmp_path):
    """Ten batches are five steps of the generator with two discriminator steps, and ten without critics."""
    with_critics = plot_training(write_log(tmp_path / "a", rows_of(3)))
    ax = panel_of(with_critics, "Distance from what fell")
    assert ax.lines[0].get_xdata().tolist() == [5, 10, 15]
    assert ax.get_xlabel() == "generator steps"
    without = plot_training(write_log(tmp_path / "b", rows_of(3), adversarial_weight=0.0))
    assert panel_of(without, "Distance from what fell").lines[0].get_xdata().tolist() == [10, 20, 30]


def test_without_a_configuration_batches_are_counted(tmp_path):
    told, untold = write_log(tmp_path / "a", rows_of(3)), write_log(tmp_path / "b", rows_of(3))
    (untold / "config.yaml").unlink()
    figure = plot_training({"told": told, "untold": untold})
    assert {ax.get_xlabel() for ax in figure.axes} == {"batches"}
    assert {tuple(line.get_xdata()) for line in figure.axes[1].lines} == {(10, 20, 30)}


def test_what_was_logged_after_the_state_that_a_run_went_on_from_is_left_out(tmp_path):
    """Interrupted after batch 40 and resumed at batch 20, into the same table."""
    first, second = rows_of(4), rows_of(5, seed=1)[2:]
    resumed = write_log(tmp_path / "run", first + second)
    batches, values = read_log(resumed).find("loss/generator")
    assert batches.tolist() == [10, 20, 30, 40, 50]
    assert values.tolist() == [row["loss/generator"] for row in first[:2] + second if "loss/generator" in row]


def test_versions_of_a_run_continue_each_other_in_the_order_of_their_numbers(tmp_path):
    rows = rows_of(4)
    write_log(tmp_path / "run/version_9", rows[:3])
    write_log(tmp_path / "run/version_10", rows[1:2] + rows[3:])
    assert read_log(tmp_path / "run").find("loss/generator")[0].tolist() == [10, 20, 40]


def test_a_value_that_was_undefined_is_a_gap_and_one_that_was_not_logged_is_none(tmp_path):
    rows = rows_of(4)
    rows[1]["loss/generator"] = "nan"
    rows[2]["loss/generator"] = ""
    batches, values = read_log(write_log(tmp_path / "run", rows)).find("loss/generator")
    assert batches.tolist() == [10, 20, 40]
    assert np.isnan(values).tolist() == [False, True, False]


def test_a_running_mean_leaves_gaps_and_is_narrower_at_the_ends():
    values = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    np.testing.assert_allclose(running_mean(values, 3), [2.0, 2.0, np.nan, 6.0, 6.0])
    np.testing.assert_allclose(running_mean(values[:2], 9), [2.0, 2.0])


def test_many_points_are_smoothed_with_the_points_behind_and_validation_is_not(tmp_path):
    figure = plot_training(write_log(tmp_path / "run", rows_of(100)))
    raw, smooth = panel_of(figure, "Losses").lines[:2]
    assert raw.get_alpha() < 0.5
    assert np.std(smooth.get_ydata()) < np.std(raw.get_ydata())
    assert len(panel_of(figure, "CRPS in validation").lines) == 2


def test_panels_of_which_nothing_was_logged_are_left_out(tmp_path):
    names = ("loss/generator", "loss/regularizer")
    figure = plot_training(write_log(tmp_path / "run", rows_of(3, names=names), adversarial_weight=0.0))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Losses", "Distance from what fell"]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["generator"]


def test_several_runs_have_one_colour_each_and_their_names(tmp_path):
    runs = {name: write_log(tmp_path / name, rows_of(3)) for name in ("a", "b")}
    figure = plot_training(runs)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert {line.get_color() for ax in figure.axes for line in ax.lines} == set(COLOURS[:2])


def test_event_files_of_tensorboard_are_read(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "run/version_0")) as writer:
        for step in (9, 19):
            writer.add_scalar("loss/generator", step, step)
            writer.add_scalar("epoch", 0, step)
    run = read_log(tmp_path / "run")
    assert list(run.curves) == ["loss/generator"]
    assert [part.tolist() for part in run.find("loss/generator")] == [[10, 20], [9, 19]]


def test_a_row_that_is_half_written_is_left_out(tmp_path):
    folder = write_log(tmp_path / "run", rows_of(3))
    with (folder / "metrics.csv").open("a") as file:
        file.write("0.5,")
    assert read_log(folder).find("loss/generator")[0].tolist() == [10, 20, 30]


def test_a_log_that_is_cut_within_a_step_keeps_what_came_before(tmp_path):
    folder = write_log(tmp_path / "run", rows_of(3))
    table = folder / "metrics.csv"
    cells = table.read_text().splitlines()[0].split(",")
    row = ["2" if name == "step" else "0.5" for name in cells[: cells.index("step") + 1]]
    table.write_text(table.read_text() + ",".join(row))
    assert read_log(folder).find("loss/generator")[0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("text", ["model: 5", "model: {discriminator_steps: x}", "{", ""])
def test_a_configuration_that_does_not_tell_leaves_batches(tmp_path, text):
    folder = write_log(tmp_path / "run", rows_of(3))
    (folder / "config.yaml").write_text(text)
    assert read_log(folder).batches_a_step is None


def test_a_log_of_values_that_are_all_undefined_is_drawn_empty(tmp_path):
    figure = plot_training(write_log(tmp_path / "run", [{"step": 9, "loss/generator": "nan"}]))
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 1


def test_what_is_no_log_or_empty_is_refused(tmp_path):
    with pytest.raises(RefusedInput, match="no such folder"):
        plot_training(tmp_path / "nowhere")
    with pytest.raises(RefusedInput, match="neither in it"):
        plot_training(tmp_path)
    with pytest.raises(RefusedInput, match="a log has values; came: none"):
        plot_training(write_log(tmp_path / "empty", []))
    with pytest.raises(RefusedInput, match="a run or more; came: none"):
        plot_training({})
    with pytest.raises(RefusedInput, match="what nowcast train fit logs; came: accuracy"):
        plot_training(write_log(tmp_path / "other", [{"step": 1, "accuracy": 0.5}]))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,loss/generator\n1,much\n", "step,a\n1,2,3\n"])
def test_a_table_that_is_no_log_is_refused(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(RefusedInput, match="a table with a column step"):
        plot_training(tmp_path)
