import errno
import json
import os

import numpy as np
import pytest

from nowcast.service import journal as module
from nowcast.service.journal import Journal, Outcome

STEP = np.timedelta64(5, "m")
TIME = np.datetime64("2024-06-01T12:00", "ns")


def opened(folder, since: np.datetime64 = TIME) -> Journal:
    return Journal(folder, STEP, since)


def outcomes() -> list[Outcome]:
    return [
        Outcome(TIME, "published", "", "extrapolation"),
        Outcome(TIME + STEP, "skipped", "no frame", last=TIME + 3 * STEP),
        Outcome(TIME + 4 * STEP, "published", "small: it failed", "persistence"),
    ]


def test_what_is_written_is_read_again(tmp_path):
    journal = opened(tmp_path)
    journal.add(*outcomes())
    again = opened(tmp_path)
    assert again.times.tolist() == journal.times.tolist() == (TIME + np.arange(5) * STEP).tolist()
    assert again.last == outcomes()[-1]
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines[0] == {"reference_time": "2024-06-01T12:00Z", "outcome": "published", "reason": None,
                        "model": "extrapolation"}  # fmt: skip
    assert lines[1]["last"] == "2024-06-01T12:15Z"


@pytest.mark.parametrize("cut", [1, 30, 80])
def test_a_line_that_a_crash_cut_short_is_taken_off(tmp_path, cut):
    opened(tmp_path).add(*outcomes())
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    journal = opened(tmp_path)
    assert journal.decided(TIME + 3 * STEP)
    assert journal.decided(TIME + 4 * STEP) == (cut == 1)  # only the end of the line is gone
    journal.add(Outcome(TIME + 5 * STEP, "skipped", "stale"))
    assert opened(tmp_path).decided(TIME + 5 * STEP)
    for line in path.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("written", [0, 20])
def test_a_full_disk_leaves_no_part_of_a_line_and_loses_none(tmp_path, monkeypatch, written, caplog):
    journal = opened(tmp_path)
    first, *more = outcomes()
    journal.add(first)
    before = (tmp_path / "journal.jsonl").read_bytes()

    def full(handle: int, data: bytes) -> int:
        if written == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return inner(handle, data[:written])

    inner = os.write
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        journal.add(*more)
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert "journal.jsonl cannot be written" in caplog.text
    assert journal.decided(TIME + 4 * STEP)
    journal.save()
    assert opened(tmp_path).times.tolist() == journal.times.tolist()


def test_a_long_journal_loses_its_older_half_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 10)
    journal = opened(tmp_path)
    journal.add(*(Outcome(TIME + n * STEP, "skipped", "no frame") for n in range(11)))
    again = opened(tmp_path)
    assert again.times.tolist() == (TIME + np.arange(6, 11) * STEP).tolist()
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 5


def test_what_was_skipped_by_a_clock_that_was_ahead_is_open_again(tmp_path):
    journal = opened(tmp_path)
    journal.add(*outcomes())
    journal.reopen(TIME + STEP)
    assert journal.times.tolist() == (TIME + np.array([0, 1, 4]) * STEP).tolist()


def test_what_is_older_than_asked_for_is_not_held(tmp_path):
    long_ago = np.datetime64("1970-01-01T00:00", "ns")
    opened(tmp_path).add(Outcome(long_ago, "skipped", "away", last=TIME + STEP), *outcomes()[1:])
    journal = opened(tmp_path)
    assert journal.times[0] == TIME
    assert journal.times.size == 5
    journal.forget_before(TIME + 2 * STEP)
    assert journal.times[0] == TIME + 2 * STEP
    assert opened(tmp_path, TIME + 99 * STEP).times.size == 0
    assert opened(tmp_path, TIME + 99 * STEP).newest == TIME + 4 * STEP


@pytest.mark.parametrize("line", ["garbage", "{}", "[]", '{"reference_time": "NaT", "outcome": "skipped"}'])
def test_lines_that_are_none_are_left_out(tmp_path, line):
    journal = opened(tmp_path)
    journal.add(outcomes()[0])
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(line + "\n")
    assert opened(tmp_path).times.tolist() == journal.times.tolist()
