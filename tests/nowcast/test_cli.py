import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from data_prep.schema import open_radar
from nowcast.cli import COMMANDS, main
from nowcast.forecasters.baselines import Persistence
from nowcast.products.forecast_file import read_forecast

ROOT = Path(__file__).resolve().parents[2]
TIME = "2020-06-01T04:00"


@pytest.fixture
def run(capsys):
    """Run a command; gives exit status, standard output and the one line of standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """The result is exit status 1 and one line that holds the parts."""
    status, _, error = result
    lines = [line for line in error.splitlines() if line.startswith("nowcast ")]
    assert status == 1
    assert len(lines) == 1, error
    assert "Traceback" not in error
    for part in ("; came: ", *parts):
        assert part in lines[0]


def forecast(store, out, *more: object, model: object = "extrapolation", time: str = TIME) -> tuple:
    return ("forecast", "--model", model, "--source", store, "--time", time, "--output", out / "f.nc", *more)


# What works


def test_help_names_every_command_and_costs_no_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nowcast", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "torch" not in done.stderr
    assert "xarray" not in done.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_every_command_explains_its_options(run, name):
    status, out, _ = run(name, "--help")
    assert status == 0
    assert out.startswith(f"usage: nowcast {name}")


def test_a_good_store_is_reported_with_its_facts(run, store):
    status, out, _ = run("check", store)
    assert status == 0
    assert "90 frames every 5 min, 2020-06-01T00:00 to 2020-06-01T07:25, 0 missing between" in out
    assert "64 x 64 cells of 1 km" in out
    assert f"{store}: good" in out


def test_a_forecast_is_written_checked_and_drawn(run, store, tmp_path):
    status, out, _ = run(*forecast(store, tmp_path, "--members", 5, "--lead_steps", 6))
    assert (status, out) == (0, f"{tmp_path / 'f.nc'}: 1 member(s), 6 lead times, by extrapolation\n")
    assert read_forecast(tmp_path / "f.nc").sizes == {"realization": 1, "lead_time": 6, "y": 64, "x": 64}
    assert run("check", tmp_path / "f.nc")[0] == 0
    for name in ("panel.png", "loop.gif"):
        assert run("plot", tmp_path / "f.nc", "--output", tmp_path / name, "--store", store)[0] == 0
        assert (tmp_path / name).stat().st_size > 5000
    assert run("plot", tmp_path / "f.nc", "--output", tmp_path / "map.png", "--lead_minutes", 15)[0] == 0


def test_large_map_and_loop_show_the_mean_or_the_matched_mean(run, store, tmp_path, monkeypatch):
    made = forecast(store, tmp_path, "--members", 3, "--lead_steps", 2, model="extrapolation-ensemble")
    assert run(*made)[0] == 0
    drawn = []
    monkeypatch.setattr("nowcast.plotting.animate", lambda fields, _, title: drawn.append((fields, title)))
    for product in ((), ("--product", "mean"), ("--product", "probability_matched_mean")):
        assert run("plot", tmp_path / "f.nc", "--output", tmp_path / "a.gif", *product)[0] == 0
        picture = ("--output", tmp_path / f"{len(drawn)}.png", "--lead_minutes", 10)
        assert run("plot", tmp_path / "f.nc", *picture, *product)[0] == 0
    name = "extrapolation-ensemble"
    titles = [f"{name}, {what} of 3 members" for what in ("mean", "mean", "probability-matched mean")]
    assert [title for _, title in drawn] == titles
    for (fields, _), product in zip(drawn[1:], ("mean", "probability_matched_mean"), strict=True):
        xr.testing.assert_identical(fields, read_forecast(tmp_path / "f.nc", product=product).load())
    default, mean, matched = ((tmp_path / f"{number}.png").read_bytes() for number in (1, 2, 3))
    assert default == mean != matched
    assert run("plot", tmp_path / "f.nc", "--output", tmp_path / "b.gif", "--product", "median")[0] == 2
    assert run("plot", tmp_path / "f.nc", "--output", tmp_path / "B.GIF")[0] == 0
    assert len(drawn) == 4
    assert run("plot", tmp_path / "f.nc", "--output", tmp_path / "b.gif", "--lead_minutes", 10)[0] == 1


def test_the_latest_frame_is_taken_where_no_time_is_given(run, store, tmp_path):
    run("forecast", "--model", "persistence", "--source", store, "--output", tmp_path / "f.nc")
    made = read_forecast(tmp_path / "f.nc")["forecast_reference_time"].values
    assert made == open_radar(store)["time"].values[-1]


def test_models_are_verified_side_by_side(run, store, tmp_path):
    models = ["--model", "extrapolation", "--model", "still=persistence"]
    options = ["--store", store, "--output", tmp_path / "s", "--stride", 13, "--lead_steps", 4]
    looks = ["--scores.thresholds", "[1.0, 4.0]", "--maps", 1]
    status, out, _ = run("verify", *models, *options, *looks)
    assert status == 0
    assert "part held_out" in out
    assert f"{tmp_path / 's'}: report.html, scores.nc, sums.nc" in out
    scores = xr.open_dataset(tmp_path / "s/scores.nc", decode_timedelta=True)
    assert list(scores["model"].values) == ["persistence", "extrapolation", "still"]
    assert (scores["mae_skill"].sel(model="extrapolation") > 0).all()
    assert np.allclose(scores["mae_skill"].sel(model="still"), 0)
    assert list(scores["threshold"].values) == [1.0, 4.0]
    assert xr.open_dataset(tmp_path / "s/sums.nc", decode_timedelta=True).sizes["model"] == 3
    assert (tmp_path / "s/report.html").read_text().count("<img") + (
        tmp_path / "s/report.html"
    ).read_text().count("<svg") > 3


def test_training_prints_a_checkpoint_that_forecasts(run, store, tmp_path):
    sizes = ["--model.generator.init_args.conditioning_channels=[4,6]",
             "--model.generator.init_args.latent_channels=[8,8,12]",
             "--model.discriminator.init_args.spatial_channels=[4,8,8]",
             "--model.discriminator.init_args.temporal_channels=[4,8,8]"]  # fmt: skip
    settings = ["--data.store", store, "--data.size", 32, "--data.batch_size", 2, "--trainer.max_steps", 3,
                "--trainer.default_root_dir", tmp_path, "--trainer.accelerator", "cpu",
                "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]  # fmt: skip
    status, out, _ = run("train", "fit", "--config", ROOT / "configs/train/tiny.yaml", *sizes, *settings)
    assert status == 0
    checkpoint = Path(out.splitlines()[-1].removeprefix("last checkpoint: "))
    assert checkpoint.is_file()
    assert run(*forecast(store, tmp_path, "--members", 2, model=checkpoint))[0] == 0
    assert read_forecast(tmp_path / "f.nc").sizes["realization"] == 2


@pytest.mark.radar
def test_a_forecast_from_a_folder_is_the_forecast_from_the_store(run, radar_data, tmp_path):
    config = ROOT / "configs/prep/fmi.yaml"
    source = radar_data / "fmi/pgm"
    options = ["--model", "extrapolation", "--time", "2017-05-09T11:30", "--lead_steps", 2]
    assert (
        run("forecast", *options, "--source", source, "--prep", config, "--output", tmp_path / "a.nc")[0] == 0
    )
    assert run("prep", "--config", config, "--source", source, "--store", tmp_path / "r.zarr")[0] == 0
    assert run("forecast", *options, "--source", tmp_path / "r.zarr", "--output", tmp_path / "b.nc")[0] == 0
    folder, stored = read_forecast(tmp_path / "a.nc"), read_forecast(tmp_path / "b.nc")
    np.testing.assert_array_equal(folder.values, stored.values)


def test_the_doctor_finds_nothing_wrong(run):
    status, out, _ = run("doctor")
    assert status == 0
    assert "dgmr: 84.5 million parameters" in out


def test_a_forecast_is_of_the_shipped_network_if_no_model_is_named(run, store, tmp_path, monkeypatch):
    asked = []

    def load(model, **_):
        asked.append(model)
        return Persistence()

    monkeypatch.setattr("nowcast.forecasters.load.load_forecaster", load)
    assert run("forecast", "--source", store, "--output", tmp_path / "f.nc")[0] == 0
    assert asked == ["pretrained"]


# What is refused


def test_wrong_usage_is_exit_status_2(run, store, tmp_path):
    assert run("no-such-command")[0] == 2
    assert run("check")[0] == 2
    assert run(*forecast(store, tmp_path, "--members", "many"))[0] == 2
    assert run("prep", "--source", tmp_path, "--store", tmp_path / "r.zarr", "--no_such_option", 1)[0] == 2


def test_a_missing_source_and_a_folder_without_radar(run, tmp_path):
    refused(run("prep", "--source", tmp_path / "nowhere", "--store", tmp_path / "r.zarr"), "folder of radar")
    refused(run("prep", "--source", tmp_path, "--store", tmp_path / "r.zarr"), "match the pattern")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_and_an_empty_file(run, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dat").write_bytes(b"\x00\x01 no radar")
    refused(run("prep", "--source", source, "--store", tmp_path / "r.zarr"), "known format", "a.dat")
    (source / "a.dat").write_bytes(b"")
    refused(run("prep", "--source", source, "--store", tmp_path / "r.zarr"), "a.dat is empty")
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.radar
def test_a_truncated_file(run, radar_data, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted((radar_data / "fmi/pgm").rglob("*.gz"))[:3]:
        (source / path.name).write_bytes(path.read_bytes()[:20_000])
    refused(run("prep", "--source", source, "--store", tmp_path / "r.zarr"), "a radar file is complete")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.radar
def test_what_is_refused_is_reported_and_under_strict_an_error(run, radar_data, store, tmp_path):
    frames = open_radar(store).sizes["time"]
    words = ("prep", "--source", radar_data / "fmi/pgm", "--store", store, "--sampling", "null")
    words += (
        "--splits.origin",
        "2020-06-01T00:00",
        "--splits.block_minutes",
        150,
        "--splits.guard_minutes",
        0,
    )
    words += ("--splits.cycle", '["train", "validation", "test"]', "--report", tmp_path / "r.json")
    status, out, _ = run(*words)
    assert status == 0
    assert "40 refused" in out
    assert len(json.loads((tmp_path / "r.json").read_text())["refused"]) == 40
    status, _, _ = run(*words, "--strict", "true")
    assert status == 1
    assert open_radar(store).sizes["time"] == frames


def test_a_time_outside_the_store_and_one_that_is_no_time(run, store, tmp_path):
    refused(run(*forecast(store, tmp_path, time="2031-01-01T00:00")), "the nearest frame is 2020-06-01T07:25")
    refused(run(*forecast(store, tmp_path, time="noon")), "ISO 8601")
    refused(run(*forecast(store, tmp_path, time="2020-06-01T00:05")), "no frame at 2020-05-31T23:50")
    assert list(tmp_path.iterdir()) == []


def test_an_installation_without_the_shipped_network(run, store, tmp_path, monkeypatch):
    monkeypatch.setattr("nowcast.weights.resources.files", lambda package: tmp_path / package)  # noqa: ARG005
    options = ["--source", store, "--time", TIME, "--output", tmp_path / "f.nc"]
    refused(run("forecast", *options), "the package holds its weights", "install nowcast anew")
    assert list(tmp_path.iterdir()) == []


def test_a_context_with_a_gap(run, make_store, tmp_path):
    gappy = make_store(60, leave_out=(46,))
    refused(run(*forecast(gappy, tmp_path)), "without a gap", "no frame at 2020-06-01T03:50")
    assert list(tmp_path.iterdir()) == []


def test_an_all_dry_context_is_refused_unless_it_is_asked_for(run, make_store, make_rain, tmp_path):
    rain = make_rain(60)
    dry = make_store(rain=rain.copy(data=rain.values * 0))
    refused(run(*forecast(dry, tmp_path)), "4 dry frames up to 2020-06-01T04:00", "--allow_dry true")
    assert list(tmp_path.iterdir()) == []
    assert run(*forecast(dry, tmp_path, "--allow_dry", "true"))[0] == 0
    assert float(read_forecast(tmp_path / "f.nc").max()) == 0


def test_an_all_missing_context(run, make_store, make_rain, tmp_path):
    rain = make_rain(60)
    rain.values[40:] = np.nan
    empty = make_store(rain=rain)
    refused(run(*forecast(empty, tmp_path)), "no observed cell at 2020-06-01T04:00")
    assert list(tmp_path.iterdir()) == []
    assert run("check", empty)[0] == 1


def test_something_that_is_no_model_no_store_and_no_forecast(run, store, tmp_path):
    refused(run(*forecast(store, tmp_path, model="dgrm")), "a model is one of")
    refused(run(*forecast(tmp_path, tmp_path)), "a radar store is a Zarr v3 directory")
    refused(run("check", tmp_path / "nothing.zarr"), "does not exist")
    refused(run("check", tmp_path / "nothing.nc"), "a forecast is a NetCDF file")
    refused(
        run("plot", tmp_path / "nothing.nc", "--output", tmp_path / "a.png"), "a forecast is a NetCDF file"
    )
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_cannot_be_drawn(run, store, tmp_path):
    run(*forecast(store, tmp_path))
    refused(run("plot", tmp_path / "f.nc", "--output", tmp_path / "a.bmp"), "a.bmp")
    refused(
        run("plot", tmp_path / "f.nc", "--output", tmp_path / "a.png", "--lead_minutes", 7), "--lead_minutes"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["f.nc"]


def test_verification_without_a_single_case(run, store, tmp_path):
    options = ["--model", "extrapolation", "--store", store, "--output", tmp_path / "s", "--lead_steps", 80]
    refused(run("verify", *options), "unbroken window of 84 frames")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_breaks_the_contract_is_named_finding_by_finding(run, make_store):
    import zarr

    from data_prep.store import consolidate

    broken = make_store(30)
    zarr.open_group(broken, mode="r+", use_consolidated=False).attrs.update(license="", title="")
    consolidate(broken)
    status, out, _ = run("check", broken)
    assert status == 1
    assert "FINDING: attribute license is absent" in out
    assert "FINDING: attribute title is absent" in out


def test_debug_shows_where_a_refusal_comes_from(tmp_path):
    from data_prep.schema import RefusedInput

    with pytest.raises(RefusedInput):
        main(["check", str(tmp_path / "nothing.zarr"), "--debug"])


def test_a_damaged_state_to_go_on_from_is_refused_in_one_line(run, store, tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"PK weights")
    status, _, error = run(
        "train", "fit", "--config", ROOT / "configs/train/tiny.yaml", "--data.store", store,
        "--data.size", 32, "--trainer.accelerator", "cpu", "--trainer.logger", "false",
        "--trainer.default_root_dir", tmp_path, "--ckpt_path", tmp_path / "bad.ckpt",
    )  # fmt: skip
    assert status == 1
    assert "nowcast train: a state to go on from was written by nowcast train; came: " in error
