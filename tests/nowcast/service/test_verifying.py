from dataclasses import replace

import numpy as np
import pytest
from replay import START, World, rain, time_at

from nowcast.service.settings import Verification
from nowcast.service.verifying import History, _alarm

SETTINGS = Verification(lead_minutes=(5, 15), least_cases=3, hours=1, least_wet=0.001)


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path, verification=SETTINGS)


def run(world: World, service, numbers: range, **how) -> None:
    for number in numbers:
        world.be_at(number + 0.2)
        world.frame(number, **how)
        world.settle(service)


def look_on(world: World, service) -> None:
    """Nothing comes for a while, so that there is time for scores."""
    for _ in range(20):
        world.settle(service)


def test_forecasts_are_scored_when_their_truth_is_there_and_skill_is_told(world):
    with world.service() as service:
        run(world, service, range(13))
        look_on(world, service)
        told = service.health.as_dict()["verification"]
        files = sorted(path.name for path in (world.output / "verification").glob("*.nc"))
        # Frame 3 was the first with four; its truth ends at 6, and frames are waited for until 8 min.
        assert len(files) >= 5
        metrics = service.health.metrics().decode()
    assert set(told["skill"]) == {"5", "15"}
    assert told["skill"]["15"] > 0.3  # the blob moves, persistence does not
    assert told["alarm"] is None
    assert 'nowcast_crps_skill{lead_minutes="15"}' in metrics
    assert "nowcast_skill_alarm 0.0" in metrics


def test_forecasts_of_a_fallback_do_not_count_for_the_model(world):
    world.settings = replace(
        world.settings, forecast=replace(world.settings.forecast, fallbacks=("persistence",))
    )
    with world.service() as service:
        service.models._model = None
        service.models.problem = "broken"
        run(world, service, range(12))
    assert list((world.output / "verification").glob("*.nc")) == []


def test_skill_below_what_is_asked_raises_an_alarm(world, caplog):
    world.settings = replace(world.settings, verification=replace(SETTINGS, least_skill=0.99))
    with world.service() as service:
        run(world, service, range(13))
        look_on(world, service)
        assert service.health.as_dict()["verification"]["alarm"].startswith("skill below what is asked")
        assert "nowcast_skill_alarm 1.0" in service.health.metrics().decode()
    assert caplog.text.count("alarm: skill below") == 1


@pytest.mark.parametrize(
    ("skill", "before", "alarm"),
    [
        ({"30": 0.3}, {}, ""),
        ({"30": 0.3}, {"30": 0.45}, ""),
        ({"30": -0.1}, {}, "skill below what is asked: -0.10 at 30 min"),
        ({"30": 0.3, "60": 0.2}, {"30": 0.6, "60": 0.3}, "skill has fallen: 0.30 after 0.60 at 30 min"),
    ],
)
def test_an_alarm_says_what_is_wrong(skill, before, alarm):
    assert _alarm(skill, before, Verification()) == alarm


def test_without_rain_no_skill_is_told(world):
    dry = np.where(rain(0) < -1, rain(0), 0)
    with world.service() as service:
        run(world, service, range(13), values=dry)
        look_on(world, service)
        assert service.health.as_dict()["verification"] is None


def test_skill_is_compared_with_what_was_told_before(tmp_path):
    history = History(tmp_path / "skill.json", np.timedelta64(10, "D"))
    for day, skill in enumerate((0.1, 0.5, 0.6, 0.7)):
        history.add(START + day * np.timedelta64(4, "D"), {"30": skill})
    again = History(tmp_path / "skill.json", np.timedelta64(10, "D"))
    assert again.before(START + np.timedelta64(9, "D")) == {"30": 0.55}  # the first is too old by now
    assert again.before(START) == {}
    (tmp_path / "skill.json").write_text("{")
    assert History(tmp_path / "skill.json", np.timedelta64(10, "D")).before(START) == {}


def test_a_truth_that_never_came_leaves_its_lead_time_out(world):
    with world.service() as service:
        run(world, service, range(6))
        for number in range(7, 14):  # 6 is missing
            world.be_at(number + 0.2)
            world.frame(number)
            world.settle(service)
        look_on(world, service)
        scored = {time for time in range(14) if service._verifier._verification.is_scored(time_at(time))}
    assert {3, 4, 5, 7} <= scored


def test_a_new_start_does_not_score_again(world, monkeypatch):
    with world.service() as service:
        run(world, service, range(10))
        look_on(world, service)
    with world.service() as service:
        calls = []
        monkeypatch.setattr(service._verifier, "_score", lambda *told: calls.append(told))
        look_on(world, service)
    assert calls == []
