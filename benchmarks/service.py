"""Seconds from the arrival of a frame to its published forecast, and what the service costs while it waits.

    python benchmarks/service.py [--radar ../shared/data]

KNMI's 765 x 700 cells, all products and the layers of the page, by the shipped network (20 members, 90
minutes) and by its first fallback. The service runs as a process; its clock starts at the time of the frames.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FIRST = np.datetime64("2010-08-26T04:30", "ns")
STEP = np.timedelta64(5, "m")
CONTEXT = 5
"""Frames that are there when the service starts, the last of which it forecasts from at once."""
CYCLES = 4
IDLE_SECONDS = 60


def frame(radar: Path, number: int) -> Path:
    """The file of a frame."""
    stamp = (FIRST + number * STEP).astype("datetime64[m]").item().strftime("%Y%m%d%H%M")
    return radar / f"knmi/2010/08/RAD_NL25_RAP_5min_{stamp}.h5"


def serve(config: str, start: str) -> int:
    """The service, on a clock that starts at a time."""
    from nowcast.cli import PARSERS
    from nowcast.service.clock import ClockFrom
    from nowcast.service.loop import serve as run

    return run(PARSERS["serve"]("serve", ["--config", config]).args[0], clock=ClockFrom(np.datetime64(start)))


def cpu_seconds(process: int) -> float:
    """Of a process so far."""
    ticks = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def measure(radar: Path, folder: Path, **forecast: object) -> None:
    """Run a service, let frames come, and print what it took."""
    incoming, output = folder / "incoming", folder / "published"
    incoming.mkdir(parents=True)
    for number in range(CONTEXT):
        shutil.copy(frame(radar, number), incoming)
    settings = {
        "input": {"source": str(incoming), "prep": str(ROOT / "configs/prep/knmi.yaml")},
        "output": str(output),
        "domain": "knmi",
        "forecast": forecast,
        "http": {"port": 0},
        "policy": {"wait_minutes": 30, "deadline_minutes": 60, "stale_minutes": 90},
    }
    (folder / "serve.yaml").write_text(json.dumps(settings))
    start = str(FIRST + (CONTEXT + CYCLES) * STEP)  # no frame is ahead of it
    command = [sys.executable, __file__, "--serve", str(folder / "serve.yaml"), start]
    with (folder / "log").open("w") as log:
        # As `nowcast` sets it: torch then takes memory in huge pages.
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "THP_MEM_ALLOC_ENABLE": "1"})
        try:
            wait_for(output, CONTEXT - 1)
            for number in range(CONTEXT, CONTEXT + CYCLES):
                shutil.copy(frame(radar, number), incoming / "partial")
                (incoming / "partial").rename(incoming / frame(radar, number).name)
                began = time.monotonic()
                manifest = wait_for(output, number)
                parts = {name: round(seconds, 1) for name, seconds in manifest["seconds"].items()}
                whole = time.monotonic() - began
                print(
                    f"{manifest['model']:<14} {manifest['members']:3d} member(s) {whole:6.1f} s   {parts}",
                    flush=True,
                )
            time.sleep(10)
            before = cpu_seconds(process.pid)
            time.sleep(IDLE_SECONDS)
            idle = (cpu_seconds(process.pid) - before) / IDLE_SECONDS
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
            print(
                f"{'waiting':<14} {100 * idle:.2f} % of one core; peak memory {int(peak) / 2**20:.2f} GiB",
                flush=True,
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def wait_for(output: Path, number: int) -> dict:
    """The manifest of a forecast, once it is published."""
    stamp = (FIRST + number * STEP).astype("datetime64[m]").item().strftime("%Y%m%dT%H%MZ")
    path = output / "forecasts" / stamp / "manifest.json"
    while not path.exists():
        time.sleep(0.02)
    return json.loads(path.read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("NOWCAST_RADAR_DATA", ROOT.parent / "shared/data")
    parser.add_argument("--radar", type=Path, default=Path(default))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        sys.exit(serve(*asked.serve))
    with tempfile.TemporaryDirectory() as scratch:
        measure(asked.radar, Path(scratch) / "network", model="pretrained")
        measure(asked.radar, Path(scratch) / "fallback", model="extrapolation")
