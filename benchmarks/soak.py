"""A service under fire: KNMI's frames for many cycles at high speed, with faults; an audit of the outcome.

    python benchmarks/soak.py --cycles 500 --share 0.2 --speed 150 --out out/soak

The service is `nowcast serve` in a process of its own, on a clock that goes faster. The archive (92 frames)
is replayed over and over with new times in the headers. A share of the cycles is disturbed, by faults of
frames (tests/nowcast/service/faults.py) or of the machine: kill -9, SIGTERM, a second instance, a clock that
is set two hours ahead or back, a full disk, an output that is read-only, weights that are replaced or broken.
Those of the disk need root, to mount a small one; without it they are left out, and the report says so. While
it runs a reader downloads files and compares them with their manifests. The audit at the end: every cycle is
published, whole and once, or named in the journal with its reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "nowcast" / "service"))
from faults import KINDS, arrivals, drawn  # noqa: E402

START = np.datetime64("2024-06-01T00:00", "ns")
STEP = np.timedelta64(5, "m")
MACHINE = ("kill", "terminate", "second_instance", "clock_ahead", "clock_behind", "disk_full", "read_only",
           "weights_replaced", "weights_broken")  # fmt: skip
DISK_MEGABYTES = 600
PREP = """# KNMI's frames on 2 km, for a soak.
pattern: "*.h5"
reader: knmi_hdf5
time_step_minutes: 5
regrid: {method: block_mean, factor: 2}
sampling: null
about: {title: KNMI replayed, institution: KNMI, license: CC-BY-4.0}
"""


class FastClock:
    """A clock that all processes share: `speed` times as fast, and wrong by what a file says."""

    def __init__(self, began: float, speed: float, wrong: Path) -> None:
        self._began, self._speed, self._wrong = began, speed, wrong

    def now(self) -> np.datetime64:
        wrong = 0.0
        with suppress(OSError, ValueError):
            wrong = float(self._wrong.read_text())
        return START + np.timedelta64(round((self.elapsed() + wrong) * 1e3), "ms")

    def elapsed(self) -> float:
        return (time.monotonic() - self._began) * self._speed

    def sleep_until(self, seconds: float) -> None:
        time.sleep(max(0.0, (seconds - self.elapsed()) / self._speed))


def serve(told: dict[str, Any]) -> int:
    """The service, in a process of its own."""
    from nowcast.cli import PARSERS
    from nowcast.service.logs import log_as_json
    from nowcast.service.loop import serve as run

    settings = PARSERS["serve"]("serve", ["--config", told["config"]]).args[0]
    log_as_json()
    return run(settings, clock=FastClock(told["began"], told["speed"], Path(told["wrong"])))


class Soak:
    """The machine, the radar and the readers of a service."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.out = asked.out.resolve()
        shutil.rmtree(self.out, ignore_errors=True)
        self.incoming, self.output = self.out / "incoming", self.out / "published"
        self.incoming.mkdir(parents=True)
        self.output.mkdir()
        self.mounted = self._mount()
        self.weights = self.out / "model.safetensors"
        from nowcast.weights import pretrained_path

        self.good = pretrained_path()
        shutil.copy(self.good, self.weights)
        self.archive = sorted(asked.radar.glob("knmi/2010/08/*.h5"))
        self.clock = FastClock(time.monotonic(), asked.speed, self.out / "wrong")
        self.random = np.random.default_rng(asked.seed)
        self.service: subprocess.Popen | None = None
        self.samples: list[dict[str, float]] = []
        self.reads, self.torn = 0, []
        self.starts: Counter = Counter()
        self.port = 18080 + os.getpid() % 1000
        self._write_settings()

    def _mount(self) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(self.output)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _write_settings(self) -> None:
        (self.out / "prep.yaml").write_text(PREP)
        (self.out / "serve.yaml").write_text(
            json.dumps(
                {
                    "input": {
                        "source": str(self.incoming),
                        "prep": str(self.out / "prep.yaml"),
                        "newest_files": 60,
                    },
                    "output": str(self.output),
                    "domain": "knmi",
                    "forecast": {"model": str(self.weights), "members": self.asked.members},
                    "form": {"packing": 0.01},
                    "products": {"kinds": ["mean", "probability"], "picture": False, "loop": None},
                    "retention": {"gigabytes": 0.25, "free_gigabytes": 0.05},
                    "http": {"port": self.port},
                    "verification": {"lead_minutes": [30, 60]},
                    "poll_seconds": 15.0,
                }
            )
        )
        (self.out / "child.json").write_text(
            json.dumps(
                {
                    "config": str(self.out / "serve.yaml"),
                    "began": self.clock._began,
                    "speed": self.asked.speed,
                    "wrong": str(self.out / "wrong"),
                }
            )
        )

    # ---- the service

    def start(self) -> None:
        """Start the service, and wait until it answers."""
        log = (self.out / "service.log").open("ab")
        command = [sys.executable, __file__, "--serve", str(self.out / "child.json")]
        self.service = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}
        )
        self.starts["started"] += 1
        while self.service.poll() is None:
            with suppress(OSError):
                self.read("/healthz")
                return
            time.sleep(0.1)

    def end(self, number: int) -> float:
        """Send the service a signal, and wait until it has ended; s."""
        assert self.service is not None
        began = time.monotonic()
        self.service.send_signal(number)
        self.service.wait(60)
        return time.monotonic() - began

    def read(self, path: str) -> bytes:
        """What the server answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read()

    # ---- what happens

    def arrive(self, number: int, form: str | float) -> None:
        """A frame comes."""
        name = f"frame_{number:05d}.h5"
        if form == "copy":
            with suppress(FileNotFoundError):
                shutil.copy(self.incoming / name, self.incoming / f"copy_{number:05d}.h5")
            return
        ahead = 12 if form == "ahead" else 0
        frame = number - 1 if form == "repeated" else number
        partial = self.out / "partial.h5"
        shutil.copy(self.archive[frame % len(self.archive)], partial)
        with h5py.File(partial, "r+") as file:
            for name_of_time, steps in (("start", -1), ("end", 0)):
                stamp = (START + (number + ahead + steps) * STEP).astype("datetime64[s]").item()
                text = stamp.strftime("%d-%b-%Y;%H:%M:%S.000").upper().encode()
                file["overview"].attrs[f"product_datetime_{name_of_time}"] = text
            if form == "other_grid":
                values = file["image1/image_data"][:600, :600]
                del file["image1/image_data"]
                file["image1"].create_dataset("image_data", data=values)
                file["geographic"].attrs["geo_number_rows"] = [600]
                file["geographic"].attrs["geo_number_columns"] = [600]
        if isinstance(form, float):
            content = partial.read_bytes()
            (self.incoming / name).write_bytes(content[: int(len(content) * form)])
        else:
            shutil.copy(partial, self.incoming / (f"ahead_{number:05d}.h5" if ahead else name))

    def disturb(self, kind: str) -> None:
        """Something happens to the machine; what lasts is over after four minutes of the clock."""
        wrong = self.out / "wrong"
        if kind == "kill":
            self.end(signal.SIGKILL)
            self.start()
        elif kind == "terminate":
            self.starts["slowest_end_ms"] = max(
                self.starts["slowest_end_ms"], round(1e3 * self.end(signal.SIGTERM))
            )
            self.start()
        elif kind == "second_instance":
            command = [
                sys.executable,
                "-m",
                "nowcast",
                "serve",
                "--config",
                str(self.out / "serve.yaml"),
                "--once",
            ]
            status = subprocess.run(command, capture_output=True, check=False).returncode
            self.starts[f"second_instance_status_{status}"] += 1
        elif kind in ("clock_ahead", "clock_behind"):
            wrong.write_text("7200" if kind == "clock_ahead" else "-7200")
            self.later(240, lambda: wrong.write_text("0"))
        elif kind == "disk_full":
            self.fill()
            self.later(240, lambda: (self.output / "ballast").unlink(missing_ok=True))
        elif kind == "read_only":
            self.remount("ro")
            self.later(240, lambda: self.remount("rw"))
        elif kind == "weights_replaced":
            self.replace_weights(self.good.read_bytes())
        elif kind == "weights_broken":
            self.replace_weights(self.good.read_bytes()[:100_000])
            self.later(240, lambda: self.replace_weights(self.good.read_bytes()))

    def later(self, seconds: float, work: Any) -> None:
        """Do something after some seconds of the clock."""
        timer = threading.Timer(seconds / self.asked.speed, work)
        timer.daemon = True
        timer.start()

    def fill(self) -> None:
        """Leave 1 MB of the disk."""
        with (self.output / "ballast").open("wb") as file, suppress(OSError):
            free = shutil.disk_usage(self.output).free - 2**20
            file.write(b"\0" * max(free, 0))

    def remount(self, mode: str) -> None:
        """Make the disk read-only or writable; while a file is written the former is tried again."""
        for _ in range(200):
            command = ["mount", "-o", f"remount,{mode}", str(self.output)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.01)
        self.starts["remount_failed"] += 1

    def replace_weights(self, content: bytes) -> None:
        """Put other weights in place by one rename."""
        partial = self.out / "weights.partial"
        partial.write_bytes(content)
        os.replace(partial, self.weights)

    # ---- what is watched

    def watch(self, done: threading.Event) -> None:
        """Read as a user would, and see what the process holds."""
        while not done.wait(0.5):
            with suppress(OSError, json.JSONDecodeError, KeyError):
                self.read_one()
            with suppress(OSError, ValueError, KeyError):
                self.sample()

    def read_one(self) -> None:
        """The latest forecast, from the disk and from the server: whole, or gone."""
        told = json.loads((self.output / "latest.json").read_text())
        name = told["reference_time"].replace("-", "").replace(":", "")
        file = told["files"][int(self.random.integers(len(told["files"])))]
        for content in (
            (self.output / "forecasts" / name / file["name"]).read_bytes(),
            self.read(f"/forecasts/{name}/{file['name']}"),
        ):
            self.reads += 1
            if hashlib.sha256(content).hexdigest() != file["sha256"]:
                self.torn.append(f"{name}/{file['name']}")
        json.loads(self.read("/latest.json"))

    def sample(self) -> None:
        """Memory, threads and open files of the service."""
        assert self.service is not None
        place = Path(f"/proc/{self.service.pid}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        self.samples.append(
            {
                "pid": self.service.pid,
                "seconds": self.clock.elapsed(),
                "megabytes": int(status["VmRSS"].split()[0]) / 1024,
                "threads": int(status["Threads"]),
                "files": len(list((place / "fd").iterdir())),
            }
        )

    # ---- the whole

    def run(self) -> dict[str, Any]:
        """All cycles, and what came of them."""
        machine = [kind for kind in MACHINE if self.mounted or kind not in ("disk_full", "read_only")]
        kinds = KINDS if self.asked.frames_only else KINDS + tuple(machine)
        disturbed = drawn(self.asked.cycles, self.asked.share, self.asked.seed, kinds)
        events: list[tuple[float, int, str | float]] = []
        for number in range(self.asked.cycles):
            kind = disturbed.get(number)
            of_machine = kind in MACHINE
            frames = arrivals(number, None if of_machine else kind, self.random)
            events += [(event.seconds, event.number, event.form) for event in frames]
            if of_machine:
                delay = self.random.uniform(60, 240)  # before, in and after the work of a cycle
                events.append((number * 300.0 + delay, number, f"!{kind}"))
        self.start()
        self.clock._began = time.monotonic()
        self._write_settings()
        self.end(signal.SIGTERM)
        self.start()
        done = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(done,), daemon=True)
        watcher.start()
        for seconds, number, form in sorted(events, key=lambda event: event[0]):
            self.clock.sleep_until(seconds)
            if isinstance(form, str) and form.startswith("!"):
                self.disturb(form[1:])
            else:
                self.arrive(number, form)
            for old in sorted(self.incoming.glob("*.h5"))[:-80]:
                old.unlink()
        self.clock.sleep_until((self.asked.cycles + 6) * 300.0)
        done.set()
        watcher.join()
        metrics = self.read("/metrics").decode()
        self.starts["last_end_ms"] = round(1e3 * self.end(signal.SIGTERM))
        return self.audit(disturbed, metrics)

    def audit(self, disturbed: dict[int, str], metrics: str) -> dict[str, Any]:
        """What was published, what was named, and what was neither."""
        from nowcast.service.publishing import differences

        journal = [json.loads(line) for line in (self.output / "journal.jsonl").read_text().splitlines()]
        outcomes: dict[int, dict] = {}
        published: Counter = Counter()
        for told in journal:
            last = _number(told.get("last", told["reference_time"]))
            for number in range(_number(told["reference_time"]), last + 1):
                if outcomes.get(number, {}).get("outcome") != "published":
                    outcomes[number] = told
                published[number] += told["outcome"] == "published"
        first = min(outcomes)
        findings = [
            f"{n}: neither published nor named" for n in range(first, self.asked.cycles) if n not in outcomes
        ]
        findings += [f"{n}: published {count} times" for n, count in published.items() if count > 1]
        for folder in sorted((self.output / "forecasts").iterdir()):
            findings += [f"{folder.name}: {finding}" for finding in differences(folder)]
        findings += [f"torn: {name}" for name in self.torn]
        findings += [f"left: {path}" for path in (self.output / ".making").glob("*")]
        due = [outcomes[n] for n in range(first, self.asked.cycles)]
        lives = {sample["pid"] for sample in self.samples}
        longest = max(lives, key=lambda pid: sum(sample["pid"] == pid for sample in self.samples))
        life = [sample for sample in self.samples if sample["pid"] == longest]
        settled = life[len(life) // 5 :]
        half = len(settled) // 2
        report = {
            "cycles": len(due),
            "disturbed": len(disturbed),
            "faults": dict(Counter(disturbed.values())),
            "published": dict(Counter(told["model"] for told in due if told["outcome"] == "published")),
            "named": dict(Counter(_kind(told["reason"]) for told in due if told["outcome"] != "published")),
            "findings": findings,
            "reads": self.reads,
            "processes": dict(self.starts),
            "longest_life_minutes_of_the_clock": round((life[-1]["seconds"] - life[0]["seconds"]) / 60),
            **{
                f"{name}_first_and_second_half": [
                    round(np.mean([sample[name] for sample in part]).item(), 1)
                    for part in (settled[:half], settled[half:])
                ]
                for name in ("megabytes", "threads", "files")
            },
            "largest_megabytes": round(max(sample["megabytes"] for sample in self.samples)),
            "mounted": self.mounted,
            "metrics": [line for line in metrics.splitlines() if "_total" in line and line[0] != "#"],
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=1))
        if self.mounted:
            shutil.copy(self.output / "journal.jsonl", self.out)
            subprocess.run(["umount", str(self.output)], check=False)
        return report


def _number(time_text: str) -> int:
    return round((np.datetime64(time_text.removesuffix("Z"), "ns") - START) / STEP)


def _kind(reason: str) -> str:
    """A reason without what is its own."""
    return reason.split(";")[0].split("2024")[0][:60]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.2, help="of the cycles that are disturbed")
    parser.add_argument("--speed", type=float, default=150.0, help="of the clock")
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--frames_only",
        action="store_true",
        help="no faults of the machine: one process lives through it all",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "soak")
    parser.add_argument(
        "--radar", type=Path, default=Path(os.environ.get("NOWCAST_RADAR_DATA", ROOT.parent / "shared/data"))
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        sys.exit(serve(json.loads(asked.serve.read_text())))
    print(json.dumps(Soak(asked).run(), indent=1))
