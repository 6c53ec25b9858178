import json
import logging
from dataclasses import replace

import pytest
from replay import World, time_at

from data_prep.pipeline import Recipe
from data_prep.schema import RefusedInput
from nowcast.cli import main
from nowcast.service.logs import JsonLines, about
from nowcast.service.settings import Forecasts, Http, Input, Policy, Retention, ServeSettings, Verification

SETTINGS = ServeSettings(Input("in", "prep.yaml"), "out")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Input("in", "p", settle_seconds=-1), "settle_seconds"),
        (lambda: Input("in", "p", newest_files=0), "newest_files"),
        (lambda: Input("in", "p", doubted=("odd",)), "doubted names marks of frames"),
        (lambda: Forecasts(members=0), "members"),
        (lambda: Forecasts(seed=-1), "seed"),
        (lambda: Policy(wait_minutes=15), "wait_minutes <= deadline_minutes"),
        (lambda: Policy(retry_seconds=0), "retry_seconds"),
        (lambda: Retention(hours=-1), "hours"),
        (lambda: Http(port=70000), "port"),
        (lambda: Http(connections=0), "connections"),
        (lambda: Verification(lead_minutes=()), "lead_minutes"),
        (lambda: replace(SETTINGS, domain="../etc"), "domain"),
        (lambda: replace(SETTINGS, domain=""), "domain"),
        (lambda: replace(SETTINGS, poll_seconds=0), "poll_seconds"),
        (lambda: replace(SETTINGS, poll_seconds=float("inf")), "poll_seconds"),
        (lambda: Retention(hours=float("nan")), "hours"),
        (lambda: replace(SETTINGS, output="in"), "output lies outside input.source"),
        (lambda: replace(SETTINGS, output="in/published"), "output lies outside input.source"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, rule):
    with pytest.raises(RefusedInput, match=rule):
        make()


def test_the_digest_of_settings_tells_what_shapes_a_forecast_and_no_place():
    digest = SETTINGS.digest(Recipe())
    elsewhere = replace(SETTINGS, input=Input("other", "other.yaml"), output="elsewhere", http=Http(port=1))
    assert elsewhere.digest(Recipe()) == digest
    for other in (
        replace(SETTINGS, forecast=Forecasts(members=3)).digest(Recipe()),
        replace(SETTINGS, policy=Policy(interpolate=False)).digest(Recipe()),
        SETTINGS.digest(Recipe(z_r_a=300)),
    ):
        assert other != digest


def test_log_lines_are_json_objects_with_what_they_are_about():
    try:
        raise ValueError("x")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("nowcast", logging.ERROR, "", 0, "%s failed", ("it",), info)
    with about(reference_time="2024-06-01T12:00Z"), about(run_id="abc"):
        told = json.loads(JsonLines().format(record))
    assert told["message"] == "it failed"
    assert (told["reference_time"], told["run_id"], told["level"]) == ("2024-06-01T12:00Z", "abc", "error")
    assert "ValueError: x" in told["traceback"]
    assert "run_id" not in json.loads(JsonLines().format(record))


def options(world: World, **more: str) -> list[str]:
    told = world.settings
    asked = {
        "input.source": told.input.source, "input.prep": told.input.prep, "output": told.output,
        "forecast.model": "extrapolation", "forecast.lead_steps": "3", "forecast.members": "2",
        "products.kinds": "[mean]", "products.accumulation_minutes": "[15]", "products.picture": "false",
        "products.loop": "null", **more,
    }  # fmt: skip
    return ["serve", *(f"--{name}={value}" for name, value in asked.items())]


def test_the_command_makes_the_forecast_of_a_time_and_tells_by_its_status(tmp_path, capsys):
    world = World(tmp_path)
    world.frames(0, 1, 2, 3)
    at = f"--at={str(time_at(3))[:16]}Z"
    assert main([*options(world), at]) == 0
    assert "published the forecast of 2024-06-01T12:15Z by extrapolation" in capsys.readouterr().out
    assert main([*options(world), at]) == 0
    assert "published before" in capsys.readouterr().out
    assert main([*options(world), "--at=20240601T1415+02:00"]) == 0
    assert "published before" in capsys.readouterr().out
    capsys.readouterr()
    assert main([*options(world), "--at=2024-06-01T12:40"]) == 4
    assert "no forecast of 2024-06-01T12:40: there is no frame of it" in capsys.readouterr().out
    assert main([*options(world), "--at=2024-06-01T12:17"]) == 1
    assert "one of every 5 min; came: 2024-06-01T12:17; as 2024-06-01T12:15" in capsys.readouterr().err
    folder = str(world.output / "forecasts/20240601T1215Z")
    assert main(["check", folder]) == 0
    assert "extrapolation from 2024-06-01T12:15Z, 1 member(s)" in capsys.readouterr().out
    next(world.output.glob("forecasts/*/*_mean.nc")).write_bytes(b"")
    assert main(["check", folder]) == 1
    assert "_mean.nc is not what the manifest names" in capsys.readouterr().out
    with world.service():
        assert main([*options(world), at]) == 5
    assert "another service publishes" in capsys.readouterr().err
    world.clear()
    assert main([*options(world, **{"forecast.model": str(tmp_path / "none.ckpt")}), at]) == 3


def test_the_command_refuses_what_it_cannot_use_in_one_line(tmp_path, capsys):
    world = World(tmp_path)
    assert main([*options(world, **{"input.source": str(tmp_path / "nowhere")}), "--once"]) == 1
    assert "source is a folder" in capsys.readouterr().err
    assert main([*options(world), "--once", "--at=2024-06-01T12:15"]) == 1
    assert "give one of them" in capsys.readouterr().err
    absent = {"products.points": str(tmp_path / "absent.csv")}
    assert main([*options(world, **absent), "--once"]) == 1
    assert "absent.csv" in capsys.readouterr().err
    assert main([*options(world), "--at=yesterday"]) == 1
    assert "a time is ISO 8601" in capsys.readouterr().err
    assert main(["serve", "--output", "x"]) == 2
