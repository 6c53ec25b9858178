"""Many cycles with faults at random: each is published whole and once, or named with its reason."""

import shutil
import threading

import numpy as np
import pytest
from faults import KINDS, arrivals, drawn
from replay import SIZE, World, rain, time_at, write_frame

CYCLES = 48


def arrive(world: World, number: int, form: str | float) -> None:
    name = f"frame_{number:04d}.h5"
    if form == "copy":
        shutil.copy(world.incoming / name, world.incoming / f"copy_{number:04d}.h5")
    elif form == "ahead":
        write_frame(world.incoming, number, stamp=time_at(number + 12), name=f"ahead_{number:04d}.h5")
    elif form == "other_grid":
        world.frame(number, values=rain(number, SIZE + 8))
    elif form == "repeated":
        world.frame(number, values=rain(number - 1))
    else:
        path = world.frame(number)
        if form != "whole":
            content = path.read_bytes()
            path.write_bytes(content[: int(len(content) * form)])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_frames_do_every_cycle_is_published_once_and_whole_or_named(tmp_path, seed):
    world = World(tmp_path)
    disturbed = drawn(CYCLES, 0.4, seed)
    random = np.random.default_rng(seed)
    events = sorted(
        event for number in range(CYCLES) for event in arrivals(number, disturbed.get(number), random)
    )
    with world.service() as service:
        for event in events:
            while world.clock.elapsed() < event.seconds:
                world.clock.go(min(30, event.seconds - world.clock.elapsed()))
                service.tick()
            arrive(world, event.number, event.form)
        for _ in range(60):
            world.clock.go(30)
            service.tick()
        assert threading.active_count() < 20
    assert world.audit(range(CYCLES)) == []
    published = set(world.published())
    healthy = {n for n in range(4, CYCLES) if not {disturbed.get(k) for k in range(n - 5, n + 1)} - {None}}
    assert healthy <= published
    harmless = {"late", "duplicated", "truncated", "out_of_order", "from_the_future", "growing"}
    assert {n for n, kind in disturbed.items() if kind in harmless} <= published
    lost = {n for n, kind in disturbed.items() if kind in ("missing", "zero_byte", "other_grid", "repeated")}
    assert not lost & published


def test_every_kind_of_fault_is_drawn():
    seen = {kind for seed in (1, 2, 3) for kind in drawn(CYCLES, 0.4, seed).values()}
    assert seen == set(KINDS)
