"""A small server of the viewer and of forecasts in a folder, which says what a test wants it to say."""

import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from nowcast import viewer

TIMES = {0: "2020-06-01T00:15Z", 1: "2020-06-01T00:20Z"}
"""Reference times of forecasts from the frames 0 to 3 and 1 to 4."""


class Site:
    """A server of the page, of /latest.json and of the files below a folder.

    Attributes:
        latest: What /latest.json says; None: it does not answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.latest = folder, None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0].removeprefix("/") or "index.html"
                if path == "latest.json" and site.latest is None:
                    return
                status, kind, body = site.answer(path)
                self.send_response(status)
                self.send_header("Content-Security-Policy", "default-src 'self'")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if path in viewer.MEDIA_TYPES:
            return 200, viewer.MEDIA_TYPES[path], viewer.static_files()[path]
        if path == "latest.json":
            return 200, "application/json", json.dumps(self.latest).encode()
        file = self.folder / path
        if not file.is_file():
            return 404, "text/plain", b""
        return 200, "image/png" if file.suffix == ".png" else "application/json", file.read_bytes()


def latest(number: int = 0, *, age: int = 4, **said) -> dict:
    """What /latest.json says of the forecast of a reference time; `said` goes into the manifest."""
    reference = np.datetime64(TIMES[number].removesuffix("Z"))

    def minutes_after(minutes: int) -> str:
        return f"{reference + np.timedelta64(minutes, 'm')}Z"

    manifest = {
        "reference_time": TIMES[number], "published": minutes_after(2), "model": "pretrained",
        "asked_model": "pretrained", "fallback": None, "members": 3, "run_id": f"run {number}",
        "software": "nowcast 0.1.0", "domain": "testland", "title": "Radar of <b>Testland</b>",
        "institution": "Institute of Tests", "license": "CC-BY-4.0",
        "input_frames": [{"time": minutes_after(-back), "status": "observed"} for back in (15, 10, 5, 0)],
    }  # fmt: skip
    return {
        "now": minutes_after(age), "age_minutes": age, "stale": age > 20, "stale_after_minutes": 20,
        "last_cycle": {"reference_time": TIMES[number], "outcome": "published", "reason": None},
        "verification": None, "forecast": {**manifest, **said},
    }  # fmt: skip


def publish(site: Site, layers: Path, number: int) -> None:
    shutil.copytree(layers, site.folder / "forecasts" / re.sub("[-:]", "", TIMES[number]), dirs_exist_ok=True)
