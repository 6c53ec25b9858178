"""A service that is killed, told to end, or started twice."""

import json
import os
import signal
import time
import urllib.request
from dataclasses import replace

import disturbed_run
import forked
import numpy as np
import pytest
from replay import STEP, World, write_frame

from nowcast.service.publishing import AnotherInstance, differences, name_of
from nowcast.service.settings import Http


def test_a_kill_at_any_step_of_a_cycle_leaves_the_last_whole_forecast_and_the_next_run_goes_on(tmp_path):
    world = World(tmp_path)
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
    step = 0
    while True:
        number = 4 + step
        world.frame(number)
        run = forked.start(disturbed_run.one_cycle, tmp_path, number, step)
        status = forked.exit_status(run)
        for folder in (world.output / "forecasts").iterdir():
            assert differences(folder) == []
        latest = json.loads((world.output / "latest.json").read_text())
        assert (world.output / "forecasts" / name_of(np.datetime64(latest["reference_time"][:-1]))).is_dir()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        step += 1
    assert step > 10
    assert number in world.published()
    assert world.audit(range(3, number + 1)) == []
    assert set(range(number - 3, number + 1)) <= set(world.published())  # what is not stale is made yet


def test_an_output_that_is_in_use_is_free_again_when_its_user_is_killed(tmp_path):
    world = World(tmp_path)
    held = forked.CONTEXT.Event()
    run = forked.start(disturbed_run.hold, tmp_path, held)
    assert held.wait(60)
    with pytest.raises(AnotherInstance), world.service():
        pass
    run.kill()
    run.join()
    with world.service():
        pass


def now_floored() -> np.datetime64:
    now = np.datetime64(time.time_ns(), "ns")
    return now - (now - np.datetime64(0, "ns")) % STEP


def frames_of_now(world: World) -> None:
    for number in range(4):
        write_frame(world.incoming, number, stamp=now_floored() - (3 - number) * STEP)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_service_told_to_end_in_the_midst_of_a_cycle_rolls_back_and_ends_within_10_s(tmp_path):
    world = World(tmp_path)
    world.with_forecasts(members=100)
    frames_of_now(world)
    settings = {"forecast": world.settings.forecast}
    run = forked.start(disturbed_run.serve, tmp_path, settings, member_seconds=0.3)
    wait_for(lambda: list(world.output.glob(".making/*/*.nc*")) or list(world.output.glob(".making/*/.*")))
    os.kill(run.pid, signal.SIGTERM)
    began = time.monotonic()
    assert forked.exit_status(run) == 0
    assert time.monotonic() - began < 10
    assert world.published() == []
    assert world.audit(range(0)) == []


def test_a_running_service_publishes_when_a_file_arrives_and_tells_of_it(tmp_path):
    world = World(tmp_path)
    http = Http(port=free_port())
    settings = {
        "http": http,
        "poll_seconds": 55.0,
        "input": replace(world.settings.input, settle_seconds=0.2),
    }
    run = forked.start(disturbed_run.serve, tmp_path, settings, member_seconds=0)

    def read(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{http.port}{path}", timeout=5) as answer:
            return answer.read()

    def is_up() -> bool:
        try:
            return read("/healthz") == b"alive\n"
        except OSError:
            return False

    wait_for(is_up)
    assert json.loads(read("/latest.json"))["forecast"] is None
    frames_of_now(world)
    began = time.monotonic()
    wait_for(lambda: json.loads(read("/latest.json"))["forecast"], seconds=30)
    assert time.monotonic() - began < 30  # long before it would have looked by itself
    told = json.loads(read("/latest.json"))
    assert told["stale"] is False
    name = next(file["name"] for file in told["forecast"]["files"] if file["role"] == "members")
    assert read(f"/forecasts/{name_of(now_floored())}/{name}")[:4] == b"\x89HDF"
    assert b'nowcast_cycles_total{outcome="published"} 1.0' in read("/metrics")
    os.kill(run.pid, signal.SIGTERM)
    assert forked.exit_status(run) == 0
